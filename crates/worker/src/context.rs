//! What all parts of one worker share, and the calls to the market that several of them make.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use api::{AnnounceRequest, MarketInfo, ReleaseCause, ReleaseRequest, SealingKeyRequest, code};
use client::Client;
use protocol::{DeviceFacts, LeaseId, PublicKey, SealingKey, SignedSealingKey, WorkerOffer};
use seal::OpeningKey;
use tokio::sync::watch;

use crate::{
    WorkerError,
    backoff::Backoff,
    cache::Cache,
    decrypting::Rewritten,
    leases::{Holding, Leases},
    package::{Programs, Refusal},
    status::{Board, reason},
    uploads::Uploads,
};

/// How the worker is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Not at all.
    No,
    /// Finish what runs.
    Drain,
    /// Give everything back.
    Now,
}

/// Returns once the worker is asked to end like this, or more urgently.
pub(crate) async fn until(mut stop: watch::Receiver<Stop>, level: Stop) {
    // Whoever could have asked is gone: then nobody will.
    if stop.wait_for(|stop| *stop >= level).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The device as the other parts see it.
#[derive(Clone)]
pub(crate) struct DeviceState {
    /// What it is.
    pub(crate) facts: DeviceFacts,
    /// Whether it can be given work.
    pub(crate) works: bool,
}

/// Whether the market may take the same call later. Something that is not the market, such as a proxy's page, may answer in its
/// place for a while.
pub(crate) fn may_pass(error: &client::Error) -> bool {
    error.is_transient() || matches!(error, client::Error::Answer { .. })
}

/// Clients seal to a record for this long after it was given.
const SEALING_KEY_LASTS: Duration = Duration::from_secs(30 * 24 * 3_600);
/// A record is given anew after this long, so that it always has most of its time before it.
const SEALING_KEY_EVERY: Duration = Duration::from_secs(24 * 3_600);

/// Attempts to give a lease back; if all fail, it expires.
const RELEASES_MAX: u32 = 3;
/// Longest text that a release carries.
const DETAIL_CHARS_MAX: usize = 1000;

/// Shared by all parts of one worker.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) worker: PublicKey,
    pub(crate) instance: String,
    pub(crate) version: String,
    pub(crate) market: MarketInfo,
    pub(crate) offer: WorkerOffer,
    /// How often a long package is committed in part.
    pub(crate) checkpoint_every: Duration,
    pub(crate) cache: Cache,
    pub(crate) programs: Programs,
    pub(crate) leases: Leases,
    pub(crate) board: Arc<Board>,
    pub(crate) stop: watch::Receiver<Stop>,
    pub(crate) uploads: Uploads,
    /// Programs that decrypt their own inputs.
    pub(crate) rewritten: Arc<Rewritten>,
    /// Opens what was sealed to this worker.
    pub(crate) opening: OpeningKey,
    /// When the market was told what to seal to, since the last announcement.
    sealing_key_given: Mutex<Option<Instant>>,
    device: watch::Sender<DeviceState>,
    announcing: tokio::sync::Mutex<()>,
}

impl Context {
    pub(crate) fn new(
        client: Client,
        (worker, instance, version): (PublicKey, String, String),
        market: MarketInfo,
        (facts, offer, checkpoint_every): (DeviceFacts, WorkerOffer, Duration),
        cache: Cache,
        board: Arc<Board>,
        stop: watch::Receiver<Stop>,
    ) -> Self {
        let opening = OpeningKey::of(client.key().expect("a worker's client has a key"));
        Self {
            client,
            worker,
            instance,
            version,
            market,
            offer,
            checkpoint_every,
            cache,
            programs: Programs::default(),
            leases: Leases::new(board.clone()),
            board,
            stop,
            uploads: Uploads::default(),
            rewritten: Arc::default(),
            opening,
            sealing_key_given: Mutex::default(),
            device: watch::Sender::new(DeviceState { facts, works: true }),
            announcing: tokio::sync::Mutex::default(),
        }
    }

    /// What the device is.
    pub(crate) fn device(&self) -> DeviceFacts {
        self.device.borrow().facts.clone()
    }

    /// Follows the device as it fails and comes back.
    pub(crate) fn device_changes(&self) -> watch::Receiver<DeviceState> {
        self.device.subscribe()
    }

    /// Notes that the device works again.
    pub(crate) fn device_up(&self, facts: DeviceFacts) {
        self.board.note(|parts| parts.device_trouble = None);
        self.device.send_replace(DeviceState { facts, works: true });
    }

    /// Notes that the device does not work.
    pub(crate) fn device_down(&self, why: &str) {
        self.device.send_modify(|device| device.works = false);
        self.board.note(|parts| parts.device_trouble = Some(reason("device_failed", why)));
    }

    pub(crate) fn draining(&self) -> bool {
        *self.stop.borrow() >= Stop::Drain
    }

    /// Notes that the market did not answer and pauses before the next attempt.
    pub(crate) async fn wait_for_market(&self, error: &client::Error, backoff: &mut Backoff) {
        let pause = backoff.next();
        let text = format!("{error}; trying again in {:.1} s", pause.as_secs_f64());
        self.board.note(|parts| parts.market_trouble = Some(reason("market_unreachable", text)));
        tokio::time::sleep(pause).await;
    }

    /// Notes that the market answers.
    pub(crate) fn market_up(&self) {
        self.board.note(|parts| parts.market_trouble = None);
    }

    /// Announces the device, and does not return before the market took it. Another live process with our key is waited for as
    /// long as a dead one would count as live.
    pub(crate) async fn announce(&self) -> Result<(), WorkerError> {
        // Both the lease loop and the heartbeats may find that the market does not know us.
        let Ok(_announcing) = self.announcing.try_lock() else {
            let _other = self.announcing.lock().await;
            return Ok(());
        };
        self.board.note(|parts| parts.announced = false);
        let patience =
            Duration::from_millis(self.market.heartbeat_ms_max.into()) * 2 + Duration::from_secs(2);
        let mut in_use_since = None;
        let mut backoff = Backoff::default();
        loop {
            let request = AnnounceRequest {
                instance: self.instance.clone(),
                device: self.device(),
                version: self.version.clone(),
                offer: self.offer.clone(),
            };
            match self.client.announce(&request).await {
                Ok(worker) => {
                    self.board.note(|parts| {
                        parts.announced = true;
                        parts.market_trouble = None;
                        parts.earned = worker.earned;
                    });
                    *self.sealing_key_given.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    self.give_sealing_key().await;
                    return Ok(());
                }
                Err(error) if may_pass(&error) => self.wait_for_market(&error, &mut backoff).await,
                Err(error) if error.code() == Some(code::WORKER_KEY_IN_USE) => {
                    let since = *in_use_since.get_or_insert_with(tokio::time::Instant::now);
                    if since.elapsed() > patience {
                        return Err(WorkerError::KeyInUse { worker: self.worker });
                    }
                    let text = format!("{error}; waiting for the other one to end");
                    self.board
                        .note(|parts| parts.market_trouble = Some(reason(code::WORKER_KEY_IN_USE, text)));
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(error) => return Err(WorkerError::Refused { source: error }),
            }
        }
    }

    /// Tells the market what can be sealed to this worker, if it was not told lately. Without it the worker only gets no
    /// sealed jobs; the next heartbeat tries again.
    pub(crate) async fn give_sealing_key(&self) {
        let given = *self.sealing_key_given.lock().unwrap_or_else(PoisonError::into_inner);
        // The market's verifier is nobody's recipient.
        if given.is_some_and(|at| at.elapsed() < SEALING_KEY_EVERY) || self.worker == self.market.market {
            return;
        }
        let until = SystemTime::now() + SEALING_KEY_LASTS;
        let record = SealingKey {
            market: self.market.market,
            worker: self.worker,
            key: self.opening.public(),
            valid_until_ms: until.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64),
        };
        let key = self.client.key().expect("a worker's client has a key");
        let sealing_key = SignedSealingKey { record, signature: key.sign(&record) };
        let request = SealingKeyRequest { instance: self.instance.clone(), sealing_key };
        match self.client.give_sealing_key(&request).await {
            Ok(()) => {
                let mut given = self.sealing_key_given.lock().unwrap_or_else(PoisonError::into_inner);
                *given = Some(Instant::now());
            }
            Err(error) => {
                tracing::debug!(%error, "the market was not told what can be sealed to this worker")
            }
        }
    }

    /// Gives a lease back and forgets it. If the market cannot be told, the lease expires there.
    pub(crate) fn release(self: &Arc<Self>, holding: &Holding, refusal: Refusal) {
        if holding.is_over() {
            return;
        }
        holding.end();
        let term = holding.term();
        self.leases.forget(holding);
        if refusal.cause != ReleaseCause::Leaving {
            let Refusal { cause, detail } = &refusal;
            tracing::warn!(lease = %term.id, job = %holding.lease.job, ?cause, detail, "gave a lease back");
            self.board.note(|parts| parts.leases_failed += 1);
        }
        self.release_lease(term.id, term.generation, refusal);
    }

    /// Tells the market that a lease is given back.
    pub(crate) fn release_lease(self: &Arc<Self>, id: LeaseId, generation: u32, refusal: Refusal) {
        let Refusal { cause, detail } = refusal;
        let detail = detail.chars().take(DETAIL_CHARS_MAX).collect();
        let request = ReleaseRequest { generation, cause, detail };
        let context = self.clone();
        tokio::spawn(async move {
            let mut backoff = Backoff::default();
            while backoff.failures() < RELEASES_MAX {
                match context.client.release(id, &request).await {
                    Err(error) if may_pass(&error) => tokio::time::sleep(backoff.next()).await,
                    Err(error) => return tracing::debug!(lease = %id, %error, "the release was refused"),
                    Ok(()) => return,
                }
            }
        });
    }
}
