//! No-op units end to end: leases and receipts over HTTP, durable before they are answered.
//!
//! The load stands for workers whose units take no time. It signs every receipt; outputs are one blob that is there before
//! the first receipt. Client and market share the machine's cores. Trust works as always: the first packages of each
//! worker are checked by another owner, later ones by the draw. A receipt's answer brings the next lease, as it does for every
//! worker that asks for it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use api::{
    AnnounceRequest, JobRequest, JobState, Lease, LeaseRequest, ReceiptResult, ReceiptsRequest,
    SignedReceipt, UnitOutputs,
};
use bytes::Bytes;
use client::Client;
use protocol::{
    Amount, DeviceFacts, DeviceLimits, Manifest, OutputCommitment, PublicKey, Receipt, SecretKey, UnitLeaf,
    WorkerKind, package_root,
};

use crate::{market::Market, report::Report};

/// How the load asks for work.
#[derive(Clone, Copy)]
pub struct Manner {
    /// Workers, each with a key and a connection of its own.
    pub workers: u8,
    /// Units of a package.
    pub package_units: u32,
    /// Packages of a request.
    pub packages: u32,
}

const INSTANCE: &str = "bench";
/// What every unit leaves: one zero.
const OUTPUT: Bytes = Bytes::from_static(&[0; 4]);
/// One thread that writes nothing: the output stays the zeros it was cleared to.
const KERNEL: &str = "@group(0) @binding(0) var<storage, read_write> out: array<u32>;
@compute @workgroup_size(1) fn main() { if (arrayLength(&out) > 1000u) { out[0] = 1u; } }";

/// A device that fits every small job.
pub fn device() -> DeviceFacts {
    DeviceFacts {
        kind: WorkerKind::Native,
        adapter: "none (load generator)".into(),
        vendor: "plexus".into(),
        backend: "none".into(),
        features: vec![],
        limits: DeviceLimits {
            storage_buffer_bytes_max: 128 << 20,
            buffer_bytes_max: 256 << 20,
            storage_buffers_max: 8,
            workgroup_invocations_max: 256,
            workgroup_bytes_max: 16 << 10,
            workgroups_per_dimension_max: 65_535,
        },
    }
}

/// Measures packages of one unit and of a hundred.
pub async fn measure(report: &mut Report, plexus: &Path) -> Result<()> {
    for (package_units, packages, units, aim) in [(1, 64, 60_000, ">= 5000"), (100, 8, 600_000, ">= 50000")] {
        let Measured { units_per_s, .. } =
            rate(plexus, Manner { workers: 8, package_units, packages }, units).await?;
        let metric = format!("durable no-op units over HTTP, packages of {package_units}");
        report.add(metric, units_per_s, "units/s", Some(aim));
    }
    Ok(())
}

/// What a measurement says.
#[derive(Clone, Copy)]
pub struct Measured {
    /// From the submission of the job to its end: all units paid.
    pub units_per_s: f64,
    /// Processor time of load and market a unit: what is left to compare by on a machine that does other things too.
    pub processor_us: f64,
}

/// Measures a new market.
pub async fn rate(plexus: &Path, manner: Manner, units: u64) -> Result<Measured> {
    let market = Market::start(plexus, &["--no-verifier"]).await?;
    let measured = run(&market, manner, units).await?;
    market.stop().await?;
    Ok(measured)
}

/// A job of units that do nothing, its blobs uploaded and its price in the owner's account.
pub async fn prepare(owner: &Client, units: u64, package_units: u32) -> Result<JobRequest> {
    let wallet = owner.key().context("a client with a key")?.public();
    owner.deposit(&wallet, Amount(1_000 * protocol::BASE_UNITS_PER_TOKEN)).await.context("no faucet")?;
    let kernel = owner.upload_blob(Bytes::from_static(KERNEL.as_bytes())).await?;
    owner.upload_blob(OUTPUT).await?;
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "version": 1, "runtime": "wgsl", "kind": "batch",
        "program": {
            "kernels": { "noop": { "blob": kernel, "entry": "main" } },
            "buffers": { "out": { "output": 0, "dtype": "u32", "shape": [1] } },
            "passes": [ { "kernel": "noop", "bind": ["out"], "dispatch": [1] } ] },
        "limits": { "memory_bytes_max": 1024, "time_ms_max": 1000 },
        "verify": { "policy": "audit", "rate_min": 0.0 } }))?;
    Ok(JobRequest {
        name: "no-op".into(),
        manifest,
        units,
        inputs: vec![],
        joins: vec![],
        unit_price: Some(Amount(1_000)),
        priority: Default::default(),
        royalty: None,
        budget: None,
        package_units: Some(package_units),
        devices: 1,
        replicas: 1,
        deadline_in_s: None,
        attempts_max: None,
        canaries: vec![],
        sealed: None,
    })
}

/// The key of worker `number`.
pub fn worker_key(number: u64) -> SecretKey {
    let mut seed = [42; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    SecretKey::from_seed(seed)
}

/// How the load describes itself.
pub fn announcement() -> AnnounceRequest {
    AnnounceRequest {
        instance: INSTANCE.into(),
        device: device(),
        version: "bench".into(),
        offer: Default::default(),
    }
}

async fn run(market: &Market, manner: Manner, units: u64) -> Result<Measured> {
    let owner = Client::new(&market.address, SecretKey::from_seed([200; 32]))?;
    let request = prepare(&owner, units, manner.package_units).await?;
    let market_key = owner.market().await?.market;
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for seed in 1..=manner.workers {
        let worker = Worker {
            client: Client::new(&market.address, SecretKey::from_seed([seed; 32]))?,
            key: SecretKey::from_seed([seed; 32]),
            market: market_key,
            output: OutputCommitment::of(&OUTPUT),
            stop: stop.clone(),
            packages_max: manner.packages,
        };
        worker.client.announce(&announcement()).await?;
        workers.push(worker);
    }
    let (started, before_s) = (Instant::now(), market.processor_s()?);
    let job = owner.submit(&request).await?;
    let tasks: Vec<_> = workers.into_iter().map(|worker| tokio::spawn(worker.work())).collect();
    let (seconds, processor_s) = loop {
        let job = owner.job(job.id).await?;
        match job.state {
            JobState::Done => break (started.elapsed().as_secs_f64(), market.processor_s()?),
            JobState::Waiting | JobState::Running => {}
            other => bail!("the job ended as {other:?}: {:?}", job.reason),
        }
        if started.elapsed() > Duration::from_secs(120) {
            bail!("the job stalls: {:?} {:?}", job.progress, job.reason);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    let processor_us = (processor_s - before_s) * 1e6 / units as f64;
    Ok(Measured { units_per_s: units as f64 / seconds, processor_us })
}

/// One connection that leases, "computes" and commits.
struct Worker {
    client: Client,
    key: SecretKey,
    market: PublicKey,
    output: OutputCommitment,
    stop: Arc<AtomicBool>,
    packages_max: u32,
}

impl Worker {
    async fn work(self) -> Result<()> {
        let wish = |wait_ms| LeaseRequest {
            instance: INSTANCE.into(),
            packages_max: self.packages_max,
            wait_ms,
            others_only: false,
        };
        let mut leases = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            if leases.is_empty() {
                leases = self.client.lease(&wish(500)).await?.leases;
                continue;
            }
            let receipts = leases.iter().map(|lease| self.receipt(lease)).collect();
            let answer = self.client.receipts(&ReceiptsRequest { receipts, next: Some(wish(0)) }).await?;
            for result in answer.results {
                if let ReceiptResult::Refused { lease, problem } = result {
                    bail!("the receipt of {lease} was refused: {problem}");
                }
            }
            leases = answer.leases;
        }
        Ok(())
    }

    fn receipt(&self, lease: &Lease) -> SignedReceipt {
        let units: Vec<_> = lease
            .units
            .iter()
            .flat_map(|run| run.units())
            .map(|unit| UnitOutputs { unit, outputs: vec![self.output] })
            .collect();
        let leaves: Vec<_> =
            units.iter().map(|unit| UnitLeaf::done(lease.job, unit.unit, unit.outputs.clone())).collect();
        let receipt = Receipt {
            market: self.market,
            lease: lease.id,
            generation: lease.generation,
            worker: self.key.public(),
            job: lease.job,
            units: units.len() as u32,
            package_root: package_root(&leaves),
            adapter: "none (load generator)".into(),
            started_at_ms: 0,
            device_us: 1,
            total_us: 1,
        };
        let signature = self.key.sign(&receipt);
        SignedReceipt { receipt, signature, units }
    }
}
