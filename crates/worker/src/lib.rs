//! The native worker: takes leases from a market, runs their units on a device, hands in signed receipts.
//!
//! ```text
//! lease loop ─ lease ─▶ package::prepare ─ package ─▶ Runner ─ outputs ─▶ Gathering ─ receipt ─▶ hand_in ─▶ market
//!      ▲                (fetch, check)               (device, watchdog)   (upload, sign)         (batches)
//!      └─ room for more ─ Leases ◀─ lost ─ heartbeats
//! ```
//!
//! What is sealed to this worker ([`sealed`]) is opened in memory: the cache and the market hold ciphertext, inputs and outputs
//! alike.
//!
//! Nothing here trusts the market with what a device runs: programs are checked again, blobs by their hash. Nothing trusts the
//! device with the worker's life: it sits in another process ([`executor`]) which a watchdog may kill. While the market is away
//! the worker keeps what it finished and tries again. The worker decides nothing about pay or verification.

mod backoff;
mod cache;
mod commit;
mod context;
mod decrypting;
mod device;
pub mod executor;
mod leases;
#[cfg(test)]
mod login_stub;
mod package;
mod runner;
mod sealed;
mod status;
mod uploads;

use std::{pin::pin, sync::Arc, time::Duration};

use api::{HeartbeatRequest, LeaseRequest, LeaveRequest, code};
use client::Client;
use protocol::{Amount, PublicKey, WorkerOffer};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    backoff::Backoff,
    cache::Cache,
    commit::hand_in,
    context::{Context, Stop, may_pass, until},
    package::prepare,
    runner::Runner,
    status::{Board, reason},
};
pub use crate::{
    cache::CacheConfig,
    device::{Device, DeviceError, Measured, Program, UnitOutput},
    status::{State, Status},
};

/// How long one long poll waits.
const POLL_WAIT: Duration = Duration::from_secs(20);
/// An empty answer that comes sooner was not a long poll; the next one waits.
const POLL_PAUSE: Duration = Duration::from_millis(250);
/// Heartbeats in the time that the market allows between two.
const HEARTBEATS_PER_SILENCE: u32 = 4;
/// The longest time between heartbeats, so that what the market says about us stays fresh.
const HEARTBEAT_MAX: Duration = Duration::from_secs(5);
/// How long leaving may take at the end.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(3);
/// Prepared packages that wait for the device.
const PREPARED_MAX: usize = 64;

/// Jobs that share a device when nobody says: a long one, a short one beside it, and two that are verified.
const SLOTS: u32 = 4;
/// Five seconds of work are cheap to lose, and a receipt every five seconds is cheap to make.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
/// Measuring a device takes at most this long.
const MEASURE_TIME_MAX: Duration = Duration::from_secs(30);

/// What a worker needs to know.
#[derive(Clone)]
pub struct Config {
    /// The market, with the key that signs the receipts.
    pub market: Client,
    /// Where blobs are kept.
    pub cache: CacheConfig,
    /// Announced as the worker's version, such as `plexus/0.1.0`.
    pub version: String,
    /// Names this process among others with the same key; random when absent. Whoever makes sure that there is never another
    /// one gives a name that stays: then what a former process still held is given back at once, not when it expires.
    pub instance: Option<String>,
    /// On what terms it works.
    pub terms: Terms,
}

/// On what terms a worker lends its device.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The least that a compute second (a second of the reference device) must pay.
    pub ask: Amount,
    /// Device memory that jobs may take together, in bytes; a careful guess when absent.
    pub memory_bytes: Option<u64>,
    /// Jobs that may share the device in turns.
    pub slots: u32,
    /// Whether the device is measured before it is announced, which takes a fraction of a second.
    pub measured: bool,
    /// How often what is finished of a long package is committed: a worker that dies loses no more than this.
    pub checkpoint_every: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            ask: Amount(0),
            memory_bytes: None,
            slots: SLOTS,
            measured: true,
            checkpoint_every: CHECKPOINT_EVERY,
        }
    }
}

/// Why a worker ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The client has no key.
    #[error("a worker needs a key to sign its receipts with")]
    NoKey,
    /// The device cannot be used.
    #[error("the device cannot be used: {reason}")]
    Device {
        /// What happened last.
        reason: String,
    },
    /// Another live worker has this key.
    #[error(
        "another worker uses the key {worker}; give each worker a key of its own (plexus wallet new --wallet FILE)"
    )]
    KeyInUse {
        /// The key.
        worker: PublicKey,
    },
    /// The market does not want this worker.
    #[error("the market refuses this worker: {source}")]
    Refused {
        /// Its answer.
        source: client::Error,
    },
}

/// A worker that runs in the background. Dropping the handle leaves it running.
pub struct Handle {
    stop: watch::Sender<Stop>,
    status: watch::Receiver<Status>,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Handle {
    /// What the worker is doing, and when that changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Asks it to finish what runs, hand in the results and leave.
    pub fn drain(&self) {
        self.stop.send_if_modified(|stop| std::mem::replace(stop, (*stop).max(Stop::Drain)) < Stop::Drain);
    }

    /// Asks it to give everything back and leave.
    pub fn stop_now(&self) {
        self.stop.send_replace(Stop::Now);
    }

    /// Returns when it has ended, with the reason where it was not asked to.
    pub async fn ended(&mut self) -> Result<(), WorkerError> {
        match (&mut self.task).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Starts a worker on `device`.
pub fn start<D: Device>(config: Config, device: D) -> Result<Handle, WorkerError> {
    let worker = config.market.key().ok_or(WorkerError::NoKey)?.public();
    let board = Arc::new(Board::new(worker));
    let status = board.subscribe();
    let (stop, stopped) = watch::channel(Stop::No);
    let task = tokio::spawn(run(config, device, worker, board, stopped));
    Ok(Handle { stop, status, task })
}

async fn run<D: Device>(
    config: Config,
    device: D,
    worker: PublicKey,
    board: Arc<Board>,
    stop: watch::Receiver<Stop>,
) -> Result<(), WorkerError> {
    let result = live(config, device, worker, &board, stop).await;
    let stopped = match &result {
        Ok(()) => reason("left", "the worker has left the market"),
        Err(error) => reason("failed", error.to_string()),
    };
    board.note(|parts| parts.stopped = Some(stopped));
    result
}

async fn live<D: Device>(
    config: Config,
    mut device: D,
    worker: PublicKey,
    board: &Arc<Board>,
    stop: watch::Receiver<Stop>,
) -> Result<(), WorkerError> {
    let begin = async {
        let failed = |error: DeviceError| WorkerError::Device { reason: error.reason() };
        let facts = device.start().await.map_err(failed)?;
        board.note(|parts| parts.device = Some(facts.clone()));
        let measuring = config.terms.measured.then(|| device.measure());
        let offer = config.terms.offer(measure(measuring).await.map_err(failed)?);
        board.note(|parts| parts.offer = offer.clone());
        let mut backoff = Backoff::default();
        loop {
            match config.market.market().await {
                Ok(market) => return Ok((facts, offer, market)),
                Err(error) if error.is_transient() => {
                    board.note(|parts| {
                        parts.market_trouble = Some(reason("market_unreachable", error.to_string()))
                    });
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(error) => return Err(WorkerError::Refused { source: error }),
            }
        }
    };
    let (facts, offer, market) = tokio::select! {
        begun = begin => begun?,
        () = until(stop.clone(), Stop::Drain) => {
            device.kill().await;
            return Ok(());
        }
    };
    let every = config.terms.checkpoint_every;
    let takes_over = config.instance.is_some();
    let identity = (worker, config.instance.unwrap_or_else(random_instance), config.version);
    let cache = Cache::new(config.cache);
    let (board, for_context) = (board.clone(), stop.clone());
    let context = Arc::new(Context::new(
        config.market,
        identity,
        market,
        (facts, offer, every),
        cache,
        board,
        for_context,
    ));

    if takes_over {
        // Before anybody works under this name again. If there was nobody, or the market does not answer, so much the better.
        leave(&context).await;
    }
    let (prepared, packages) = mpsc::channel(PREPARED_MAX);
    let (finished, receipts) = mpsc::unbounded_channel();
    let runner = Runner::new(context.clone(), device, finished);
    let mut handing_in = pin!(hand_in(&context, receipts));
    let result = tokio::select! {
        ended = take_leases(&context, prepared) => ended,
        ended = runner.run(packages) => ended,
        ended = &mut handing_in => ended,
        ended = heartbeats(&context) => ended,
        () = until(stop.clone(), Stop::Now) => Ok(()),
    };
    if *stop.borrow() >= Stop::Now {
        // What is finished is on its way; the rest is being given back.
        let last = async {
            tokio::select! {
                _ = &mut handing_in => {}
                () = until_nothing_is_held(&context) => {}
            }
        };
        let _ = tokio::time::timeout(LEAVE_TIME_MAX, last).await;
    }
    leave(&context).await;
    result
}

async fn until_nothing_is_held(context: &Context) {
    let mut changes = context.leases.changes();
    while !context.leases.all().is_empty() {
        if changes.changed().await.is_err() {
            break;
        }
    }
}

/// What the device can do, where somebody measures it. One that does not answer is as lost as any other.
async fn measure(
    measuring: Option<impl Future<Output = Result<Measured, DeviceError>>>,
) -> Result<Measured, DeviceError> {
    let Some(measuring) = measuring else { return Ok(Measured::default()) };
    match tokio::time::timeout(MEASURE_TIME_MAX, measuring).await {
        Ok(measured) => measured,
        Err(_) => {
            let seconds = MEASURE_TIME_MAX.as_secs();
            Err(DeviceError::Lost(format!("it could not be measured within {seconds} s")))
        }
    }
}

impl Terms {
    fn offer(&self, measured: Measured) -> WorkerOffer {
        WorkerOffer {
            claimed_mflops: measured.mflops,
            memory_bytes: self.memory_bytes.unwrap_or(measured.memory_bytes),
            slots: self.slots,
            ask: self.ask,
            flaws: measured.flaws,
        }
    }
}

/// Gives everything back, if the market answers soon.
async fn leave(context: &Context) {
    let leave = LeaveRequest { instance: context.instance.clone(), drain: false };
    match tokio::time::timeout(LEAVE_TIME_MAX, context.client.leave(&leave)).await {
        Ok(Err(error)) => tracing::debug!(%error, "the market was not told that the worker leaves"),
        Err(_) => tracing::debug!("the market did not answer that the worker leaves"),
        Ok(Ok(())) => {}
    }
}

/// Takes leases while there is room, until the worker is asked to end and nothing is held any more.
async fn take_leases(
    context: &Arc<Context>,
    prepared: mpsc::Sender<package::Package>,
) -> Result<(), WorkerError> {
    tokio::select! {
        () = until(context.stop.clone(), Stop::Drain) => {}
        ended = poll(context, &prepared) => return ended,
        ended = poll_others(context, &prepared) => return ended,
    }
    context.board.note(|parts| parts.draining = true);
    // Long packages are not waited for: what is finished of them is committed.
    context.leases.ask_to_yield(|_| true);
    let leave = LeaveRequest { instance: context.instance.clone(), drain: true };
    if let Err(error) = context.client.leave(&leave).await {
        tracing::debug!(%error, "the market was not told that the worker drains");
    }
    // `prepared` lives until here, so that the runner does not end before the last receipt was answered.
    until_nothing_is_held(context).await;
    Ok(())
}

async fn poll(context: &Arc<Context>, prepared: &mpsc::Sender<package::Package>) -> Result<(), WorkerError> {
    context.announce().await?;
    let mut backoff = Backoff::default();
    let mut device = context.device_changes();
    let mut changes = context.leases.changes();
    loop {
        if !device.borrow_and_update().works {
            let _ = device.changed().await;
            continue;
        }
        changes.mark_unchanged();
        let packages_max = context.leases.packages_wanted();
        if packages_max == 0 {
            let _ = changes.changed().await;
            continue;
        }
        let request = LeaseRequest {
            instance: context.instance.clone(),
            packages_max,
            wait_ms: POLL_WAIT.as_millis() as u32,
            others_only: false,
        };
        let asked = tokio::time::Instant::now();
        match context.client.lease(&request).await {
            Ok(answer) => {
                backoff.reset();
                context.market_up();
                let empty = answer.leases.is_empty();
                if let Some(reason) = answer.reason {
                    context.board.note(|parts| parts.idle = Some(reason));
                }
                take(context, prepared, answer.leases);
                if empty && asked.elapsed() < POLL_PAUSE {
                    tokio::time::sleep(POLL_PAUSE).await;
                }
            }
            Err(error) if may_pass(&error) => context.wait_for_market(&error, &mut backoff).await,
            Err(error) if error.code() == Some(code::WORKER_UNKNOWN) => context.announce().await?,
            Err(error) if error.code() == Some(code::WORKER_KEY_IN_USE) => context.announce().await?,
            Err(error) => return Err(WorkerError::Refused { source: error }),
        }
    }
}

/// Asks for a second job, and a third, for a device that is busy with a long one, so that a short one need not wait for its end.
async fn poll_others(
    context: &Arc<Context>,
    prepared: &mpsc::Sender<package::Package>,
) -> Result<(), WorkerError> {
    let mut backoff = Backoff::default();
    let mut changes = context.leases.changes();
    loop {
        changes.mark_unchanged();
        if !context.leases.takes_another_job(context.offer.slots) {
            let _ = changes.changed().await;
            continue;
        }
        let request = LeaseRequest {
            instance: context.instance.clone(),
            packages_max: 1,
            wait_ms: POLL_WAIT.as_millis() as u32,
            others_only: true,
        };
        let asked = tokio::time::Instant::now();
        match context.client.lease(&request).await {
            Ok(answer) => {
                backoff.reset();
                let empty = answer.leases.is_empty();
                take(context, prepared, answer.leases);
                if empty && asked.elapsed() < POLL_PAUSE {
                    tokio::time::sleep(POLL_PAUSE).await;
                }
            }
            // Whoever asks for any work tells of the trouble and repairs it.
            Err(_) => tokio::time::sleep(backoff.next()).await,
        }
    }
}

/// Makes leases ready to run.
fn take(context: &Arc<Context>, prepared: &mpsc::Sender<package::Package>, leases: Vec<api::Lease>) {
    for lease in leases {
        let (context, prepared) = (context.clone(), prepared.clone());
        let holding = context.leases.take(lease);
        tokio::spawn(async move {
            match prepare(&context, holding.clone()).await {
                Ok(package) => {
                    context.market_up();
                    // Fails only when the worker ends.
                    let _ = prepared.send(package).await;
                }
                Err(refusal) => context.release(&holding, refusal),
            }
        });
    }
}

/// Tells the market that we live and what we work on, and hears what we lost.
async fn heartbeats(context: &Arc<Context>) -> Result<(), WorkerError> {
    let silence = Duration::from_millis(context.market.heartbeat_ms_max.into());
    let period = (silence / HEARTBEATS_PER_SILENCE).min(HEARTBEAT_MAX).max(Duration::from_millis(50));
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut status = context.board.subscribe();
    loop {
        ticks.tick().await;
        // Before the first announcement there is nobody to be heard.
        if matches!(status.borrow_and_update().state, State::Starting | State::Connecting)
            && context.leases.all().is_empty()
        {
            continue;
        }
        let leases = context.leases.all().iter().map(|holding| holding.id()).collect();
        let request = HeartbeatRequest { instance: context.instance.clone(), leases };
        match context.client.heartbeat(&request).await {
            Ok(answer) => {
                context.market_up();
                context.give_sealing_key().await;
                context.board.note(|parts| {
                    if parts.leases == 0 {
                        parts.idle = Some(answer.reason);
                    }
                });
                for holding in context.leases.all() {
                    if answer.lost.contains(&holding.id()) {
                        context.leases.lost(&holding);
                    }
                }
                context.leases.ask_to_yield(|lease| answer.yields.contains(&lease));
                if let Ok(worker) = context.client.worker(&context.worker).await {
                    context.board.note(|parts| parts.earned = worker.earned);
                }
            }
            Err(error) if error.code() == Some(code::WORKER_UNKNOWN) && !context.draining() => {
                context.announce().await?;
            }
            // The lease loop reports an unreachable market and waits for it; the next beat tries again.
            Err(error) => tracing::debug!(%error, "a heartbeat was not heard"),
        }
    }
}

/// Random per process, so that two with one key are told apart.
fn random_instance() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    hex::encode(bytes)
}
