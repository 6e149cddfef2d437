//! Three processes of one market on a real PostgreSQL, of which the leading one is killed, again and again, or put to sleep.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use api::{Health, JobRequest, JobState, PaymentKind};
use bytes::Bytes;
use client::Client;
use plexus_tests::{Home, Market, PATIENCE, until};
use protocol::{Amount, DeviceFacts, Hash, InputSplit, JobId, SecretKey, WorkerKind};
use serde_json::json;
use tokio::runtime::Runtime;
use worker::{CacheConfig, Config, Device, DeviceError, Handle, Program, Terms, UnitOutput};

const UNITS: u64 = 12;
const UNIT_PRICE: u64 = 1_000_000;
const PROCESSES: usize = 3;
const WORKERS: u8 = 3;

/// A device without a GPU that squares, and takes a moment for it.
struct Abacus;

impl Device for Abacus {
    async fn start(&mut self) -> Result<DeviceFacts, DeviceError> {
        let limits = json!({
            "storage_buffer_bytes_max": "134217728", "buffer_bytes_max": "268435456", "storage_buffers_max": 8,
            "workgroup_invocations_max": 256, "workgroup_bytes_max": 16384, "workgroups_per_dimension_max": 65535,
        });
        Ok(DeviceFacts {
            kind: WorkerKind::Native,
            adapter: "abacus".into(),
            vendor: "plexus".into(),
            backend: "vulkan".into(),
            features: vec![],
            limits: serde_json::from_value(limits).expect("limits"),
        })
    }

    fn load(
        &self,
        _: Arc<Program>,
    ) -> impl Future<Output = Result<(), DeviceError>> + Send + 'static + use<> {
        std::future::ready(Ok(()))
    }

    fn run(
        &self,
        _: Hash,
        inputs: Vec<Bytes>,
    ) -> impl Future<Output = Result<UnitOutput, DeviceError>> + Send + 'static + use<> {
        let x = u32::from_le_bytes(inputs[0][..].try_into().expect("four bytes"));
        async move {
            // So that leases are out whenever a leader goes.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let squared = Bytes::copy_from_slice(&x.wrapping_mul(x).to_le_bytes());
            Ok(UnitOutput { outputs: vec![squared], device_us: 5 })
        }
    }

    fn unload(&self, _: Hash) {}

    async fn kill(&mut self) {}
}

const SQUARE: &str = "
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn main() {
    y[0] = x[0] * x[0];
}
";

/// The processes, workers that use one each, and somebody with money.
struct World {
    home: Home,
    processes: Vec<Market>,
    clients: Vec<Client>,
    workers: Vec<Handle>,
    runtime: Runtime,
}

impl World {
    fn start() -> Self {
        let home = Home::default();
        let database = store::testing::database();
        let path = |name: &str| home.path().join(name).display().to_string();
        let (key, blobs) = (path("market-key.json"), path("blobs"));
        let arguments = [
            "--database",
            &database,
            "--key",
            &key,
            "--blobs",
            &blobs,
            "--faucet",
            "--no-verifier",
            "--lease-ms",
            "4000",
            "--heartbeat-ms-max",
            "4000",
        ];
        let processes: Vec<Market> =
            (0..PROCESSES).map(|n| Market::start_in(&home, &format!("process-{n}"), &arguments)).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let client = |process: &Market| {
            Client::new(&process.address, SecretKey::from_seed([1; 32])).expect("an address")
        };
        let clients: Vec<Client> = processes.iter().map(client).collect();
        let world = Self { home, processes, clients, workers: Vec::new(), runtime };
        world.leader();
        let id = world.clients[0].key().expect("it has one").public();
        let tokens = Amount::from_tokens("1000").expect("an amount");
        world.runtime.block_on(world.clients[1].deposit(&id, tokens)).expect("a faucet");
        world
    }

    fn with_workers(mut self) -> Self {
        for n in 0..WORKERS {
            let process = &self.processes[usize::from(n) % PROCESSES];
            let config = Config {
                market: Client::new(&process.address, SecretKey::from_seed([100 + n; 32]))
                    .expect("an address"),
                cache: CacheConfig {
                    dir: Some(self.home.path().join(format!("cache-{n}"))),
                    ..CacheConfig::default()
                },
                version: "test".into(),
                instance: None,
                terms: Terms::default(),
            };
            let _context = self.runtime.enter();
            self.workers.push(worker::start(config, Abacus).expect("it starts"));
        }
        self
    }

    fn health(&self, process: usize) -> Option<Health> {
        self.runtime.block_on(async {
            let asked = tokio::time::timeout(Duration::from_millis(500), self.clients[process].health());
            asked.await.ok()?.ok()
        })
    }

    fn leader(&self) -> usize {
        until("a process to lead", || {
            (0..PROCESSES).find(|n| self.health(*n).is_some_and(|health| health.role == "leader"))
        })
    }

    /// Waits until another process leads, and returns it.
    fn leader_other_than(&self, former: usize) -> usize {
        until("another process to lead", || {
            let mut others = (0..PROCESSES).filter(|n| *n != former);
            others.find(|n| self.health(*n).is_some_and(|health| health.role == "leader"))
        })
    }

    async fn request(client: &Client) -> JobRequest {
        let kernel = client.upload_blob(Bytes::from_static(SQUARE.as_bytes())).await.expect("room");
        let input: Vec<u8> = (0..UNITS as u32).flat_map(u32::to_le_bytes).collect();
        let input = client.upload_blob(input.into()).await.expect("room");
        let manifest = json!({
            "version": 1, "runtime": "wgsl", "kind": "batch",
            "program": {
                "kernels": {"square": {"blob": kernel, "entry": "main"}},
                "buffers": {
                    "x": {"input": 0, "dtype": "u32", "shape": [1]},
                    "y": {"output": 0, "dtype": "u32", "shape": [1]}
                },
                "passes": [{"kernel": "square", "bind": ["x", "y"], "dispatch": [1]}]
            },
            "limits": {"memory_bytes_max": 4096, "time_ms_max": 1000},
            "verify": {"policy": "audit", "rate_min": 0.1}
        });
        let request = json!({
            "name": "squares", "manifest": manifest, "units": UNITS.to_string(),
            "inputs": [InputSplit { blob: input, offset: 0, stride: 4, length: 4 }],
            "unit_price": UNIT_PRICE.to_string(), "package_units": 3,
        });
        serde_json::from_value(request).expect("a request")
    }

    /// Waits until all of these are done, and checks that everything was paid once.
    fn all_done_and_paid_once(&self, answered: &BTreeSet<JobId>) {
        let client = &self.clients[self.leader()];
        for id in answered {
            let job = until(&format!("{id} to be done"), || {
                let job = self.runtime.block_on(client.job(*id)).expect("what was answered is there");
                (!matches!(job.state, JobState::Waiting | JobState::Running)).then_some(job)
            });
            assert_eq!(job.state, JobState::Done, "{job:?}");
            assert_eq!((job.units, job.progress.accepted), (UNITS, UNITS));
            let money = &job.money;
            let parts = [money.paid, money.treasury, money.burned, money.refunded, money.held];
            assert_eq!(money.escrowed.0, parts.iter().map(|part| part.0).sum::<u64>());
            assert_eq!(money.held, Amount::ZERO);
            let payments = self.runtime.block_on(async {
                let (mut payments, mut cursor) = (Vec::new(), None::<String>);
                loop {
                    let page = client.payments(Some(*id), cursor.as_deref()).await.expect("a page");
                    payments.extend(page.items);
                    cursor = page.next;
                    if cursor.is_none() {
                        return payments;
                    }
                }
            });
            let mut of_packages = BTreeMap::<_, u32>::new();
            let mut for_work = 0;
            for payment in payments.iter().filter(|payment| payment.kind == PaymentKind::Work) {
                *of_packages.entry(payment.package.expect("work is of a package")).or_default() += 1;
                for_work += payment.amount.0;
            }
            assert!(of_packages.values().all(|times| *times == 1), "{payments:?}");
            assert_eq!(for_work, UNITS * UNIT_PRICE / 10 * 9, "90 % are the providers' for {id}");
        }
        let ledger = self.runtime.block_on(client.ledger()).expect("the ledger");
        let parts = [ledger.available, ledger.pending, ledger.held, ledger.treasury, ledger.burned];
        assert_eq!(ledger.deposited.0, parts.iter().map(|part| part.0).sum::<u64>());
        assert_eq!(ledger.deposited, Amount::from_tokens("1000").expect("an amount"));
    }
}

#[test]
fn nothing_answered_is_lost_and_nothing_is_paid_twice_when_leaders_are_killed() {
    let mut world = World::start().with_workers();
    let (over, answered, turn) = (AtomicBool::new(false), Mutex::new(BTreeSet::new()), AtomicU64::new(0));
    let mut took = Vec::new();
    let request = world.runtime.block_on(World::request(&world.clients[2]));
    let clients = world.clients.clone();
    let handle = world.runtime.handle().clone();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let client = &clients[turn.fetch_add(1, Relaxed) as usize % PROCESSES];
                    // The process that was asked may be gone.
                    match handle.block_on(client.submit(&request)) {
                        Ok(job) => drop(answered.lock().unwrap().insert(job.id)),
                        Err(error) => assert!(error.is_transient(), "{error}"),
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
        for round in 0..5 {
            let before = answered.lock().unwrap().len();
            // The kill falls at another moment of the load each time.
            until("some load", || (answered.lock().unwrap().len() > before + round % 4).then_some(()));
            let leader = world.leader();
            let killed = Instant::now();
            world.processes[leader].crash();
            world.leader_other_than(leader);
            took.push(killed.elapsed());
            let home = &world.home;
            world.processes[leader].restart(home);
        }
        over.store(true, Relaxed);
    });
    let answered = answered.into_inner().unwrap();
    println!("{} jobs; another process led after {took:?}", answered.len());
    assert!(took.iter().all(|took| *took < PATIENCE));
    world.all_done_and_paid_once(&answered);
}

#[test]
fn a_leader_that_slept_through_a_takeover_wakes_as_a_standby() {
    let mut world = World::start().with_workers();
    let request = world.runtime.block_on(World::request(&world.clients[0]));
    let mut answered = BTreeSet::new();
    for _ in 0..3 {
        let leader = world.leader();
        let submit = |process: usize| world.runtime.block_on(world.clients[process].submit(&request));
        answered.insert(submit((leader + 1) % PROCESSES).expect("it is passed on").id);
        world.processes[leader].pause();
        // What is asked of the sleeper now is answered when it wakes, by whoever leads then.
        let asked = {
            let (client, request) = (world.clients[leader].clone(), request.clone());
            world.runtime.spawn(async move { client.submit(&request).await })
        };
        let next = world.leader_other_than(leader);
        answered.insert(submit(next).expect("it leads").id);
        world.processes[leader].unpause();
        until("the sleeper to follow", || {
            let health = world.health(leader)?;
            (health.role == "standby" && health.leader.is_some()).then_some(())
        });
        assert!(!world.processes[leader].ended());
        match world.runtime.block_on(asked).expect("no panic") {
            Ok(job) => drop(answered.insert(job.id)),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        answered.insert(submit(leader).expect("it passes on").id);
    }
    world.all_done_and_paid_once(&answered);
}
