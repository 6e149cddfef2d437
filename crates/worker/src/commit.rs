//! From a unit's outputs to an answered receipt: outputs are uploaded while other units still run, the package's Merkle root is
//! signed, and receipts go to the market in batches until it answers. A receipt is sent even for a lease that was lost for
//! being slow: work is not thrown away for a timer alone.

use std::{sync::Arc, time::SystemTime};

use api::{ReceiptResult, ReceiptsRequest, ReleaseCause, SignedReceipt, UnitOutputs, code};
use bytes::Bytes;
use protocol::{OutputCommitment, Receipt, UnitLeaf, UnitStatus, package_root};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    WorkerError,
    backoff::Backoff,
    context::Context,
    device::UnitOutput,
    leases::Holding,
    package::{Package, Refusal},
};

/// Receipts in one request, by the API.
const RECEIPTS_MAX: usize = 64;
/// Units in one request, which bounds its size to about 2 MB for a program with one output.
const UNITS_MAX: usize = 4096;

/// A package of which units come in.
pub(crate) struct Gathering {
    pub(crate) package: Arc<Package>,
    commitments: JoinSet<Result<(usize, Vec<OutputCommitment>), Refusal>>,
    missing: usize,
    started_at: Option<SystemTime>,
    device_us: u64,
}

/// A receipt on its way.
pub(crate) struct Finished {
    holding: Arc<Holding>,
    receipt: SignedReceipt,
}

impl Gathering {
    pub(crate) fn new(package: Arc<Package>) -> Self {
        let missing = package.units.len();
        Self { package, commitments: JoinSet::new(), missing, started_at: None, device_us: 0 }
    }

    /// Notes that the device got the first unit.
    pub(crate) fn begun(&mut self) {
        self.started_at.get_or_insert_with(SystemTime::now);
    }

    /// Takes the outputs of unit number `position` and begins to upload them. Whether all units are there now.
    pub(crate) fn add(&mut self, context: &Arc<Context>, position: usize, output: UnitOutput) -> bool {
        self.device_us += output.device_us;
        self.missing -= 1;
        let (context, holding) = (context.clone(), self.package.holding.clone());
        self.commitments.spawn(async move {
            let commitments = upload(&context, &holding, output.outputs).await?;
            Ok((position, commitments))
        });
        self.missing == 0
    }

    /// Waits for the uploads and sends the signed receipt on.
    pub(crate) async fn commit(mut self, context: Arc<Context>, finished: mpsc::UnboundedSender<Finished>) {
        let holding = self.package.holding.clone();
        let mut outputs = vec![Vec::new(); self.package.units.len()];
        while let Some(joined) = self.commitments.join_next().await {
            match joined {
                Ok(Ok((position, commitments))) => outputs[position] = commitments,
                Ok(Err(refusal)) => return context.release(&holding, refusal),
                // Only when the whole worker ends.
                Err(_) => return,
            }
        }
        let receipt = self.receipt(&context, outputs);
        // The other end only goes when the worker ends.
        let _ = finished.send(Finished { holding, receipt });
    }

    fn receipt(&self, context: &Context, outputs: Vec<Vec<OutputCommitment>>) -> SignedReceipt {
        let lease = &self.package.holding.lease;
        let units: Vec<UnitOutputs> = self
            .package
            .units
            .iter()
            .zip(outputs)
            .map(|(unit, outputs)| UnitOutputs { unit: *unit, outputs })
            .collect();
        let leaves: Vec<UnitLeaf> = units
            .iter()
            .map(|unit| UnitLeaf {
                job: lease.job,
                unit: unit.unit,
                outputs: unit.outputs.clone(),
                status: UnitStatus::Done,
            })
            .collect();
        let started_at = self.started_at.unwrap_or(self.package.holding.taken_at_wall);
        let receipt = Receipt {
            market: context.market.market,
            lease: lease.id,
            generation: lease.generation,
            worker: context.worker,
            job: lease.job,
            units: units.len() as u32,
            package_root: package_root(&leaves),
            adapter: context.device().adapter,
            started_at_ms: started_at
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
            device_us: self.device_us,
            total_us: self.package.holding.taken_at.elapsed().as_micros() as u64,
        };
        let key = context.client.key().expect("a worker's client has a key");
        let signature = key.sign(&receipt);
        SignedReceipt { receipt, signature, units }
    }
}

/// Hashes and uploads the outputs of one unit; waits for the market if it must.
async fn upload(
    context: &Context,
    holding: &Holding,
    outputs: Vec<Bytes>,
) -> Result<Vec<OutputCommitment>, Refusal> {
    let _waiting = context.leases.outputs(outputs.iter().map(|bytes| bytes.len() as u64).sum());
    let hashed = tokio::task::spawn_blocking(move || {
        let commitments: Vec<_> = outputs.iter().map(|bytes| OutputCommitment::of(bytes)).collect();
        (outputs, commitments)
    });
    let failed = |detail: String| Refusal { cause: ReleaseCause::DeviceFailed, detail };
    let (outputs, commitments) = hashed.await.map_err(|error| failed(error.to_string()))?;
    for bytes in outputs {
        let mut backoff = Backoff::default();
        loop {
            if holding.is_over() {
                return Err(failed("the lease is over".into()));
            }
            let permit = context.uploads.acquire().await;
            let result = context.client.upload_blob(bytes.clone()).await;
            drop(permit);
            match result {
                Ok(_) => break,
                Err(error) if error.is_transient() => context.wait_for_market(&error, &mut backoff).await,
                Err(error) => return Err(failed(format!("an output could not be uploaded: {error}"))),
            }
        }
    }
    Ok(commitments)
}

/// Hands receipts in until nobody makes any more.
pub(crate) async fn hand_in(
    context: &Context,
    mut finished: mpsc::UnboundedReceiver<Finished>,
) -> Result<(), WorkerError> {
    let mut waiting: Vec<Finished> = Vec::new();
    let mut backoff = Backoff::default();
    loop {
        if waiting.is_empty() && finished.recv_many(&mut waiting, RECEIPTS_MAX).await == 0 {
            return Ok(());
        }
        while waiting.len() < RECEIPTS_MAX
            && let Ok(more) = finished.try_recv()
        {
            waiting.push(more);
        }
        let mut units = 0;
        let batch = waiting
            .iter()
            .take_while(|one| {
                let fits = units == 0 || units + one.receipt.units.len() <= UNITS_MAX;
                units += one.receipt.units.len();
                fits
            })
            .count();
        let receipts: Vec<_> = waiting[..batch].iter().map(|one| one.receipt.clone()).collect();
        match context.client.receipts(&ReceiptsRequest { receipts }).await {
            Ok(answer) => {
                backoff.reset();
                context.market_up();
                if answer.results.len() != batch {
                    tracing::error!(
                        sent = batch,
                        answered = answer.results.len(),
                        "receipts went unanswered"
                    );
                }
                for (one, result) in waiting.drain(..batch).zip(answer.results) {
                    note(context, &one, result);
                    one.holding.end();
                    context.leases.forget(one.holding.lease.id);
                }
            }
            Err(error) if error.is_transient() => context.wait_for_market(&error, &mut backoff).await,
            Err(error) if error.code() == Some(code::WORKER_UNKNOWN) => context.announce().await?,
            Err(error) => {
                for one in waiting.drain(..batch) {
                    let units = one.receipt.units.len() as u64;
                    tracing::warn!(lease = %one.holding.lease.id, %error, "a receipt was refused");
                    context.board.note(|parts| parts.units_refused += units);
                    one.holding.end();
                    context.leases.forget(one.holding.lease.id);
                }
            }
        }
    }
}

fn note(context: &Context, one: &Finished, result: ReceiptResult) {
    let units = one.receipt.units.len() as u64;
    match result {
        ReceiptResult::Accepted { .. } | ReceiptResult::Checking { .. } => {
            context.board.note(|parts| parts.units_committed += units);
        }
        ReceiptResult::Refused { lease, problem } => {
            tracing::warn!(%lease, %problem, "a receipt was refused");
            context.board.note(|parts| parts.units_refused += units);
        }
    }
}
