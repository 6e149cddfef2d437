//! The worker library against a real market, on a device that misbehaves on request.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use api::{GraphRequest, Job, JobRequest, JobState, StageInput, StageRequest};
use bytes::Bytes;
use client::Client;
use market::Market;
use plexus_tests::PATIENCE;
use protocol::{Amount, DeviceFacts, Hash, InputSplit, JobId, Manifest, SecretKey, WorkerKind};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};
use worker::{CacheConfig, Config, Device, DeviceError, Handle, Program, Status, Terms, UnitOutput};

/// What the device does with a unit, by its number and how often it was run before.
type Behaviour = dyn Fn(u32, u32) -> Act + Send + Sync;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Squares it, or the sum of its numbers.
    Finish,
    /// Never ends.
    Hang,
    /// Takes the device with it.
    Die,
    /// Gives an output of another size.
    Short,
    /// Says that the runtime refuses the program.
    Refuse,
    /// Waits until the test opens the gate, then squares it.
    Wait,
    /// Waits for one of the steps that the test gives, then squares it.
    Step,
}

/// A device without a GPU: one unit at a time, in the order they come.
struct Fake {
    shared: Arc<Shared>,
}

struct Shared {
    behaviour: Box<Behaviour>,
    /// How often each unit was given to the device.
    runs: Mutex<HashMap<u32, u32>>,
    in_flight: AtomicU32,
    in_flight_max: AtomicU32,
    starts: AtomicU32,
    /// The device is the one of this start; another number, or 0, and it is gone.
    alive: watch::Sender<u32>,
    gate: watch::Sender<bool>,
    steps: Mutex<Option<Arc<Semaphore>>>,
    /// Programs on the device, and the most there ever were.
    loaded: Mutex<(HashSet<Hash>, usize)>,
    /// Fair, so units take their turn in the order they came.
    turn: tokio::sync::Mutex<()>,
}

fn fake(behaviour: impl Fn(u32, u32) -> Act + Send + Sync + 'static) -> (Fake, Arc<Shared>) {
    let shared = Arc::new(Shared {
        behaviour: Box::new(behaviour),
        runs: Mutex::default(),
        in_flight: AtomicU32::new(0),
        in_flight_max: AtomicU32::new(0),
        starts: AtomicU32::new(0),
        alive: watch::Sender::new(0),
        gate: watch::Sender::new(false),
        steps: Mutex::default(),
        loaded: Mutex::default(),
        turn: tokio::sync::Mutex::default(),
    });
    (Fake { shared: shared.clone() }, shared)
}

impl Shared {
    async fn run(&self, x: u32) -> Result<UnitOutput, DeviceError> {
        let _turn = self.turn.lock().await;
        let before = {
            let mut runs = self.runs.lock().unwrap();
            let count = runs.entry(x).or_default();
            *count += 1;
            *count - 1
        };
        let squared = || Bytes::copy_from_slice(&x.wrapping_mul(x).to_le_bytes());
        let bytes = match (self.behaviour)(x, before) {
            Act::Finish => squared(),
            Act::Short => squared().slice(..2),
            Act::Hang => std::future::pending().await,
            Act::Refuse => return Err(DeviceError::Program("it does not like it".into())),
            Act::Die => {
                self.alive.send_replace(0);
                return Err(DeviceError::Lost("it died".into()));
            }
            Act::Step => {
                let steps = self.steps.lock().unwrap().clone().expect("the test gives steps");
                if let Ok(step) = steps.acquire().await {
                    step.forget();
                }
                squared()
            }
            Act::Wait => {
                let mut gate = self.gate.subscribe();
                let _ = gate.wait_for(|open| *open).await;
                squared()
            }
        };
        Ok(UnitOutput { outputs: vec![bytes], device_us: 5 })
    }
}

impl Device for Fake {
    async fn start(&mut self) -> Result<DeviceFacts, DeviceError> {
        let start = self.shared.starts.fetch_add(1, SeqCst) + 1;
        self.shared.alive.send_replace(start);
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
            limits: serde_json::from_value(limits).unwrap(),
        })
    }

    fn load(
        &self,
        program: Arc<Program>,
    ) -> impl Future<Output = Result<(), DeviceError>> + Send + 'static + use<> {
        let (loaded, most) = &mut *self.shared.loaded.lock().unwrap();
        loaded.insert(program.id);
        *most = loaded.len().max(*most);
        std::future::ready(Ok(()))
    }

    fn run(
        &self,
        _: Hash,
        inputs: Vec<Bytes>,
    ) -> impl Future<Output = Result<UnitOutput, DeviceError>> + Send + 'static + use<> {
        let shared = self.shared.clone();
        let mut alive = shared.alive.subscribe();
        let mine = *alive.borrow_and_update();
        let in_flight = shared.in_flight.fetch_add(1, SeqCst) + 1;
        shared.in_flight_max.fetch_max(in_flight, SeqCst);
        let words = inputs[0].chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
        let x = words.sum();
        async move {
            let result = tokio::select! {
                biased;
                _ = alive.wait_for(|now| *now != mine) => Err(DeviceError::Lost("it is gone".into())),
                result = shared.run(x) => result,
            };
            shared.in_flight.fetch_sub(1, SeqCst);
            result
        }
    }

    fn unload(&self, program: Hash) {
        self.shared.loaded.lock().unwrap().0.remove(&program);
    }

    async fn kill(&mut self) {
        self.shared.alive.send_replace(0);
        self.shared.in_flight.store(0, SeqCst);
        self.shared.loaded.lock().unwrap().0.clear();
    }
}

/// A market in this process, and a wallet with tokens.
struct World {
    folder: TempDir,
    market: Market,
    client: Client,
}

impl World {
    async fn new() -> Self {
        Self::with_silence(None).await
    }

    /// With a market that gives up workers which are silent for this long.
    async fn with_silence(silence_ms_max: Option<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let market = Self::open(&folder, SocketAddr::from(([127, 0, 0, 1], 0)), silence_ms_max).await;
        let client = Client::new(&market.url(), SecretKey::from_seed([1; 32])).unwrap();
        let id = client.key().unwrap().public();
        client.deposit(&id, Amount::from_tokens("100").unwrap()).await.unwrap();
        Self { folder, market, client }
    }

    async fn open(folder: &TempDir, listen: SocketAddr, silence_ms_max: Option<u64>) -> Market {
        let mut config = market::Config::new(folder.path().join("market"));
        if let Some(silence_ms_max) = silence_ms_max {
            config.params.heartbeat_ms_max = silence_ms_max;
            config.params.lease_ms = silence_ms_max;
        }
        config.listen = listen;
        config.faucet = Some(Amount::from_tokens("1000").unwrap());
        // A port that was given up is free for others for a moment, even for a client's own end of a connection.
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Market::start(config.clone()).await {
                Err(market::StartError::Listen { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                started => return started.unwrap(),
            }
        }
    }

    fn work(&self, device: Fake) -> Handle {
        self.work_on(device, 2, Terms::default())
    }

    fn work_on(&self, device: Fake, key: u8, terms: Terms) -> Handle {
        let config = Config {
            market: Client::new(&self.market.url(), SecretKey::from_seed([key; 32])).unwrap(),
            cache: CacheConfig { dir: Some(self.folder.path().join("cache")), ..CacheConfig::default() },
            version: "test".into(),
            instance: None,
            terms,
        };
        worker::start(config, device).unwrap()
    }

    /// Submits a job that squares these numbers, a unit each.
    async fn submit(&self, name: &str, numbers: Range<u32>, package_units: u32) -> JobId {
        self.submit_with(name, numbers, package_units, 50).await
    }

    async fn submit_with(
        &self,
        name: &str,
        numbers: Range<u32>,
        package_units: u32,
        time_ms_max: u64,
    ) -> JobId {
        let units = numbers.len() as u64;
        let numbers: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
        let blob = self.client.upload_blob(numbers.into()).await.unwrap();
        let request = JobRequest {
            name: name.into(),
            manifest: self.manifest(name, 1, time_ms_max).await,
            units,
            inputs: vec![InputSplit { blob, offset: 0, stride: 4, length: 4 }],
            joins: vec![],
            unit_price: Some(Amount(1000)),
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
        };
        self.client.submit(&request).await.unwrap().id
    }

    /// A program of its own, by its name, whose units see this many numbers.
    async fn manifest(&self, name: &str, numbers: u32, time_ms_max: u64) -> Manifest {
        let kernel = format!(
            "// {name}\n@group(0) @binding(0) var<storage, read> x: array<u32>;\n\
             @group(0) @binding(1) var<storage, read_write> y: array<u32>;\n\
             @compute @workgroup_size(1) fn main() {{ y[0] = x[0] * x[0]; }}"
        );
        let kernel = self.client.upload_blob(kernel.into()).await.unwrap();
        let manifest = serde_json::from_value(json!({
            "version": 1, "runtime": "wgsl", "kind": "batch",
            "program": {
                "kernels": { "k": { "blob": kernel, "entry": "main" } },
                "buffers": {
                    "x": { "input": 0, "dtype": "u32", "shape": [numbers] },
                    "y": { "output": 0, "dtype": "u32", "shape": [1] }
                },
                "passes": [{ "kernel": "k", "bind": ["x", "y"], "dispatch": [1] }]
            },
            "limits": { "memory_bytes_max": 65536, "time_ms_max": time_ms_max },
            "verify": { "policy": "audit", "rate_min": 0.0 }
        }));
        manifest.unwrap()
    }

    /// Waits until every unit is computed.
    async fn computed(&self, id: JobId) -> Job {
        self.job(id, "all units to be computed", |job| {
            job.progress.checking + job.progress.accepted == job.units
        })
        .await
    }

    async fn job(&self, id: JobId, what: &str, condition: impl Fn(&Job) -> bool) -> Job {
        let wait = async {
            loop {
                let job = self.client.job(id).await.unwrap();
                if condition(&job) {
                    return job;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(job) => job,
            Err(_) => panic!("waited for {what}: {:?}", self.client.job(id).await),
        }
    }
}

async fn status(handle: &Handle, what: &str, condition: impl Fn(&Status) -> bool) -> Status {
    let mut status = handle.status();
    let wait = async { status.wait_for(|status| condition(status)).await.map(|status| status.clone()) };
    let found = tokio::time::timeout(PATIENCE, wait).await;
    found.unwrap_or_else(|_| panic!("waited for {what}")).unwrap()
}

/// Waits until the device has work.
async fn running(worker: &Handle) {
    status(worker, "a unit to run", |status| status.reason.code == "running").await;
}

#[tokio::test]
async fn a_unit_that_never_ends_costs_its_package_and_no_other() {
    let world = World::new().await;
    let (device, seen) = fake(|x, before| if x == 3 && before == 0 { Act::Hang } else { Act::Finish });
    let worker = world.work(device);
    let id = world.submit("hangs once", 0..8, 1).await;
    world.computed(id).await;
    let status = status(&worker, "its receipts", |status| status.units_committed == 8).await;
    assert_eq!((status.leases_failed, status.units_refused), (1, 0));
    assert_eq!(seen.starts.load(SeqCst), 2, "the device was killed once");
    assert_eq!(seen.runs.lock().unwrap()[&3], 2);
    assert!(
        seen.in_flight_max.load(SeqCst) >= 2,
        "the next unit waits at the device, not behind a round trip"
    );
}

#[tokio::test]
async fn a_device_that_dies_is_started_again_and_its_work_goes_on() {
    let world = World::new().await;
    let (device, seen) = fake(|x, before| if x % 5 == 2 && before == 0 { Act::Die } else { Act::Finish });
    let worker = world.work(device);
    let id = world.submit("dies thrice", 0..15, 2).await;
    world.computed(id).await;
    let status = status(&worker, "its receipts", |status| status.units_committed == 15).await;
    assert_eq!((status.leases_failed, seen.starts.load(SeqCst)), (3, 4));
}

#[tokio::test]
async fn a_program_that_stops_the_device_again_and_again_is_not_run_any_more() {
    let world = World::new().await;
    let (device, seen) = fake(|x, _| if x >= 1000 { Act::Die } else { Act::Finish });
    let worker = world.work(device);
    let poison = world.submit("poison", 1000..1010, 1).await;
    world.job(poison, "everything to be given up", |job| job.progress.parked == 10).await;
    assert_eq!(seen.starts.load(SeqCst), 4, "started, and again after each of three offences");
    let good = world.submit("good", 0..5, 1).await;
    world.computed(good).await;
    status(&worker, "its receipts", |status| status.units_committed == 5).await;
}

#[tokio::test]
async fn what_the_device_refuses_or_gets_wrong_is_given_back_and_the_next_job_runs() {
    let world = World::new().await;
    let calls = AtomicU32::new(0);
    let (device, _) = fake(move |x, _| match (x, calls.fetch_add(1, SeqCst)) {
        (6, 0) => Act::Refuse,
        (6, 1) => Act::Short,
        _ => Act::Finish,
    });
    let worker = world.work(device);
    // Unit 6 comes first: the job's one package is its own.
    let id = world.submit("odd", 0..7, 7).await;
    world.computed(id).await;
    let next = world.submit("even", 0..4, 1).await;
    world.computed(next).await;
    let status = status(&worker, "its receipts", |status| status.units_committed == 11).await;
    assert_eq!(status.units_refused, 0);
}

#[tokio::test]
async fn work_that_is_done_while_the_market_is_away_is_handed_in_when_it_is_back() {
    let mut world = World::new().await;
    let (device, seen) = fake(|_, _| Act::Wait);
    let worker = world.work(device);
    let id = world.submit_with("patient", 0..6, 6, 60_000).await;
    running(&worker).await;

    let (address, folder) = (world.market.addr(), &world.folder);
    world.market.shutdown().await;
    seen.gate.send_replace(true);
    status(&worker, "all units to be run", |status| status.units_run == 6).await;
    status(&worker, "it to notice", |status| status.state != worker::State::Idle).await;
    world.market = World::open(folder, address, None).await;

    world.computed(id).await;
    let status = status(&worker, "its receipt", |status| status.units_committed == 6).await;
    assert_eq!((status.units_refused, status.leases_failed), (0, 0));
    assert!(seen.runs.lock().unwrap().values().all(|runs| *runs == 1), "nothing was computed twice");
}

#[tokio::test]
async fn a_blob_with_other_bytes_than_its_hash_is_never_computed_on() {
    let world = World::new().await;
    let id = world.submit("damaged", 0..4, 4).await;
    let blob = world.client.job(id).await.unwrap().inputs[0].blob.to_string();
    let file =
        find(&world.folder.path().join("market"), &blob).expect("the market keeps blobs by their hash");
    std::fs::write(file, [9; 16]).unwrap();

    let (device, seen) = fake(|_, _| Act::Finish);
    let worker = world.work(device);
    let job = world.job(id, "the market to give up", |job| job.progress.parked == 4).await;
    assert!(seen.runs.lock().unwrap().is_empty());
    assert!(job.reason.is_some_and(|reason| !reason.text.is_empty()));
    status(&worker, "the worker to say so", |status| status.leases_failed > 0).await;
    let next = world.submit("sound", 0..5, 1).await;
    world.computed(next).await;
}

/// The file below `folder` whose path ends with the digits of `hash`, however they are spread over folders.
fn find(folder: &std::path::Path, hash: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder).ok()?.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return find(&path, hash);
        }
        path.to_string_lossy().replace('/', "").ends_with(hash).then_some(path)
    })
}

#[tokio::test]
async fn a_worker_that_drains_hands_in_what_runs_and_gives_back_the_rest() {
    let world = World::new().await;
    let (device, seen) = fake(|_, _| Act::Wait);
    let mut worker = world.work(device);
    let id = world.submit_with("long", 0..6, 3, 60_000).await;
    world.job(id, "a lease", |job| job.progress.leased >= 3).await;
    running(&worker).await;
    worker.drain();
    status(&worker, "it to drain", |status| status.state == worker::State::Draining).await;
    seen.gate.send_replace(true);
    tokio::time::timeout(PATIENCE, worker.ended()).await.expect("it leaves").unwrap();
    let job = world.client.job(id).await.unwrap();
    let run = seen.runs.lock().unwrap().len() as u64;
    assert_eq!((job.progress.checking, job.progress.waiting), (run, 6 - run));
    assert!((1..6).contains(&run), "{run} units were at the device");
}

#[tokio::test]
async fn a_worker_that_is_stopped_commits_what_is_finished() {
    let world = World::new().await;
    let (device, _) = fake(|x, _| if x == 3 { Act::Wait } else { Act::Finish });
    let mut worker = world.work(device);
    let id = world.submit_with("stopped", 0..6, 6, 60_000).await;
    status(&worker, "three units", |status| status.units_run == 3).await;
    worker.stop_now();
    tokio::time::timeout(PATIENCE, worker.ended()).await.expect("it leaves").unwrap();
    let job = world.client.job(id).await.unwrap();
    assert_eq!((job.progress.checking, job.progress.waiting), (3, 3));
}

#[tokio::test]
async fn a_worker_that_is_killed_loses_no_more_than_the_units_since_its_last_checkpoint() {
    let world = World::with_silence(Some(1_000)).await;
    let (device, first) = fake(|x, _| if x == 5 { Act::Wait } else { Act::Finish });
    // Killed with everything it was about to do, as by the kernel: nobody gives anything back.
    let process = tokio::runtime::Runtime::new().unwrap();
    let terms = Terms { checkpoint_every: Duration::from_millis(50), ..Terms::default() };
    let worker = {
        let _inside = process.enter();
        world.work_on(device, 2, terms.clone())
    };
    let id = world.submit_with("killed", 0..12, 12, 60_000).await;
    let committed = |job: &Job| job.progress.checking + job.progress.accepted;
    world.job(id, "a checkpoint", |job| committed(job) == 5).await;
    let status = worker.status().borrow().clone();
    assert_eq!((status.leases, status.leases_failed), (1, 0), "it goes on with the rest");
    process.shutdown_background();

    // With the same key, so that it is not asked to check what the first one did.
    let (device, second) = fake(|_, _| Act::Finish);
    let _worker = world.work_on(device, 2, terms);
    world.computed(id).await;
    let (first, second) = (first.runs.lock().unwrap(), second.runs.lock().unwrap());
    assert!(second.keys().all(|unit| *unit >= 5), "committed units are not computed again: {second:?}");
    assert_eq!((first.len(), second.len()), (6, 7));
}

#[tokio::test]
async fn a_short_job_does_not_wait_for_the_end_of_a_long_one() {
    let world = World::new().await;
    // The long job's units end one by one, when the test says so.
    let steps = Arc::new(Semaphore::new(0));
    let (device, seen) = fake(|x, _| if x < 1000 { Act::Step } else { Act::Finish });
    seen.steps.lock().unwrap().replace(steps.clone());
    let worker = world.work(device);
    let long = world.submit_with("long", 0..500, 500, 60_000).await;
    running(&worker).await;
    let short = world.submit("short", 1000..1003, 3).await;
    status(&worker, "a second lease", |status| status.leases == 2).await;
    // However fast the machine is: the long job's slice ends after some of its units.
    let stepping = async {
        loop {
            steps.add_permits(1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let short = tokio::select! { job = world.computed(short) => job, () = stepping => unreachable!() };
    assert_eq!(short.units, 3);
    let long = world.client.job(long).await.unwrap();
    assert!(long.progress.leased > 400, "the long job goes on: {:?}", long.progress);
}

#[tokio::test]
async fn programs_that_do_not_fit_together_take_turns_on_the_device() {
    let world = World::new().await;
    let (device, seen) = fake(|_, _| Act::Finish);
    // Each of the jobs may take 64 KiB.
    let worker = world.work_on(device, 2, Terms { memory_bytes: Some(100 << 10), ..Terms::default() });
    let one = world.submit("one", 0..40, 5).await;
    let two = world.submit("two", 100..140, 5).await;
    world.computed(one).await;
    world.computed(two).await;
    status(&worker, "its receipts", |status| status.units_committed == 80).await;
    assert_eq!(seen.loaded.lock().unwrap().1, 1, "programs on the device together");
}

#[tokio::test]
async fn units_of_a_later_stage_read_what_those_of_an_earlier_one_put_out() {
    let world = World::new().await;
    let devices = [fake(|_, _| Act::Finish), fake(|_, _| Act::Finish)];
    // They check each other's work: only what is accepted is read.
    let keys = [2, 3].into_iter();
    let _workers: Vec<_> = devices
        .into_iter()
        .zip(keys)
        .map(|((device, _), key)| world.work_on(device, key, Terms::default()))
        .collect();
    let numbers: Vec<u8> = (0..9u32).flat_map(u32::to_le_bytes).collect();
    let blob = world.client.upload_blob(numbers.into()).await.unwrap();
    let stage = |name: &str, manifest, units, input| StageRequest {
        name: name.into(),
        manifest,
        units,
        inputs: vec![input],
        unit_price: Some(Amount(1000)),
        devices: 1,
        replicas: 1,
        package_units: Some(2),
    };
    let split = StageInput::Split(InputSplit { blob, offset: 0, stride: 4, length: 4 });
    let gather = serde_json::from_value(json!({
        "stage": "squares", "step": "3", "count": "3", "stride": "0", "length": "12"
    }));
    let request = GraphRequest {
        priority: Default::default(),
        royalty: None,
        name: "sums of squares".into(),
        stages: vec![
            stage("squares", world.manifest("squares", 1, 1_000).await, 9, split),
            stage("sums", world.manifest("sums", 3, 1_000).await, 3, StageInput::Gather(gather.unwrap())),
        ],
        iterate: None,
        joins: vec![],
        budget: None,
        deadline_in_s: None,
        attempts_max: None,
        canaries: vec![],
        sealed: None,
    };
    let id = world.client.submit_graph(&request).await.unwrap().id;
    world.job(id, "both stages", |job| job.state == JobState::Done).await;
    let mut sums = Vec::new();
    for unit in world.client.units(id, None).await.unwrap().items {
        let bytes = world.client.blob(&unit.outputs[0].blob, 4).await.unwrap();
        sums.push((unit.id.index, u32::from_le_bytes(bytes[..].try_into().unwrap())));
    }
    sums.sort_unstable();
    let squared = |numbers: Range<u32>| numbers.map(|x| x * x).sum::<u32>().pow(2);
    assert_eq!(sums[9..], [(9, squared(0..3)), (10, squared(3..6)), (11, squared(6..9))]);
}
