//! The thread behind the committer: it translates journaled groups, keeps the read model, and collects what changed for
//! watchers. However slow the disk or the watchers are, no command waits for them.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use protocol::{JobId, PublicKey};
use store::{Batch, Movement, ReadModel};
use tokio::sync::watch;

use crate::{
    committer::Group,
    failure::Causes,
    metrics::Metrics,
    projection::{Changes, Projection},
};

/// Groups that wait to be translated. When they are this many the committer waits: translating is cheaper than deciding.
const GROUPS_MAX: usize = 256;
/// Rows after which a batch is written though more groups wait.
const BATCH_ROWS: usize = 5_000;
/// Rows held while the read model cannot be written. Beyond it they are dropped, and made again from the journal at the next
/// start.
const HELD_ROWS_MAX: usize = 200_000;
/// Payments shown to watchers at once; `GET /v1/payments` has them all.
const SHOWN_MOVEMENTS_MAX: usize = 100;
/// Between attempts to write after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a reader waits for its own writes to be in the read model.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);

/// What the rest of the market sees of the follower.
pub struct Follower {
    /// The first sequence that is not in the read model yet.
    watermark: watch::Sender<u64>,
    /// Whether rows were dropped.
    stale: AtomicBool,
    changed: Mutex<Changed>,
}

/// What changed since somebody last looked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changed {
    /// Jobs to show again.
    pub jobs: BTreeSet<JobId>,
    /// Workers to show again.
    pub workers: BTreeSet<PublicKey>,
    /// The newest movements of money, oldest first.
    pub movements: VecDeque<Movement>,
}

impl Changed {
    /// Adds what was taken earlier.
    fn put_before(&mut self, mut earlier: Self) {
        self.jobs.append(&mut earlier.jobs);
        self.workers.append(&mut earlier.workers);
        earlier.movements.append(&mut self.movements);
        self.movements = earlier.movements;
        self.keep_newest();
    }

    fn keep_newest(&mut self) {
        let excess = self.movements.len().saturating_sub(SHOWN_MOVEMENTS_MAX);
        self.movements.drain(..excess);
    }
}

impl Follower {
    /// Starts following after what is in the read model and the projection already.
    pub fn start(
        read_model: ReadModel,
        projection: Projection,
        seq: u64,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<(Arc<Self>, SyncSender<Group>, JoinHandle<()>)> {
        let (sender, groups) = sync_channel(GROUPS_MAX);
        let follower = Arc::new(Self {
            watermark: watch::Sender::new(seq),
            stale: AtomicBool::new(false),
            changed: Mutex::default(),
        });
        let shared = follower.clone();
        let thread = std::thread::Builder::new()
            .name("follower".into())
            .spawn(move || shared.run(read_model, projection, &groups, &metrics))?;
        Ok((follower, sender, thread))
    }

    /// Whether the read model lacks rows until the next start.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// Waits a bounded time until everything before `seq` is in the read model.
    pub async fn caught_up(&self, seq: u64) {
        let mut watermark = self.watermark.subscribe();
        // Too late is stale, not wrong: a list is then as old as the read model.
        let _ = tokio::time::timeout(CATCH_UP_MAX, watermark.wait_for(|at| *at >= seq)).await;
    }

    /// Takes what changed.
    pub fn take_changed(&self) -> Changed {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives back what could not be shown yet.
    pub fn put_back(&self, taken: Changed) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).put_before(taken);
    }

    fn run(
        &self,
        mut read_model: ReadModel,
        mut projection: Projection,
        groups: &Receiver<Group>,
        metrics: &Metrics,
    ) {
        let mut batch = Batch::default();
        let mut seq = *self.watermark.borrow();
        let mut running = true;
        while running {
            let wait = if batch.is_empty() { Duration::from_secs(3600) } else { RETRY_PAUSE };
            let mut next = match groups.recv_timeout(wait) {
                Ok(group) => Some(group),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    running = false;
                    None
                }
            };
            while let Some(group) = next {
                seq = self.translate(&group, &mut projection, &mut batch);
                next = if batch.len() < BATCH_ROWS { groups.try_recv().ok() } else { None };
            }
            metrics.read_model_lag.set((seq - *self.watermark.borrow()) as i64);
            if self.is_stale() {
                // The rows of a dropped stretch must not be jumped over: the next start makes them again.
                batch = Batch::default();
                continue;
            }
            // Written once a stretch; a stretch without rows only moves the watermark.
            match read_model.apply(seq, &batch) {
                Ok(()) => {
                    batch = Batch::default();
                    self.watermark.send_replace(seq);
                    metrics.read_model_lag.set(0);
                }
                Err(error) => {
                    tracing::warn!(cause = %Causes(&error), "cannot write the read model; trying again");
                    if batch.len() > HELD_ROWS_MAX {
                        self.stale.store(true, Ordering::Relaxed);
                        batch = Batch::default();
                    }
                }
            }
        }
    }

    fn translate(&self, group: &Group, projection: &mut Projection, batch: &mut Batch) -> u64 {
        let mut changes = Changes { batch: std::mem::take(batch), ..Changes::default() };
        for (seq, event) in (group.first_seq..).zip(&group.events) {
            projection.take(seq, group.at_ms, event, &mut changes);
        }
        *batch = changes.batch;
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.jobs.append(&mut changes.jobs);
        changed.workers.append(&mut changes.workers);
        changed.movements.extend(changes.movements);
        changed.keep_newest();
        group.first_seq + group.events.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use protocol::Amount;
    use store::MovementKind;

    use super::*;

    fn movement(seq: u64) -> Movement {
        Movement {
            seq,
            part: 0,
            at_ms: 0,
            kind: MovementKind::Deposit,
            account: PublicKey([1; 32]),
            job: None,
            package: None,
            worker: None,
            amount: Amount(1),
            treasury: Amount::ZERO,
            burned: Amount::ZERO,
        }
    }

    #[test]
    fn what_could_not_be_shown_comes_before_what_changed_since() {
        let changed = |jobs: &[u64], seqs: std::ops::Range<u64>| Changed {
            jobs: jobs.iter().copied().map(JobId).collect(),
            workers: BTreeSet::new(),
            movements: seqs.map(movement).collect(),
        };
        let mut since = changed(&[2, 3], 5..7);
        since.put_before(changed(&[1, 2], 3..5));
        assert_eq!(since, changed(&[1, 2, 3], 3..7));
        let most = SHOWN_MOVEMENTS_MAX as u64;
        since.put_before(changed(&[], 0..most));
        assert_eq!(since.movements.len(), SHOWN_MOVEMENTS_MAX);
        assert_eq!(since.movements.back(), Some(&movement(6)), "the newest stay");
    }
}
