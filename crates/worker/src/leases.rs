//! The leases in this worker's hands, and how much work they are.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use api::Lease;
use protocol::LeaseId;
use tokio::sync::watch;

use crate::status::Board;

/// Held work is topped up when it lasts for less than this: longer than a round trip with the inputs' transfer, short enough not
/// to hoard what another worker could begin.
const AHEAD: Duration = Duration::from_secs(2);
/// Most packages asked for at once; they are tiny when it comes to that.
const PACKAGES_MAX: u32 = 32;
/// Packages whose results may wait for the market. Beyond it no new work is taken, so that an outage does not fill the memory.
const COMPUTED_MAX: usize = 128;
/// Weight of the newest unit in the mean time of a unit.
const PACE_WEIGHT: f64 = 0.2;

/// One lease from taking it to its answered receipt.
#[derive(Debug)]
pub(crate) struct Holding {
    /// As the market gave it.
    pub(crate) lease: Lease,
    /// When it was taken.
    pub(crate) taken_at: Instant,
    /// The same by the wall clock.
    pub(crate) taken_at_wall: SystemTime,
    units_done: AtomicU32,
    over: AtomicBool,
}

impl Holding {
    /// Whether nothing more needs to be done for it: it was lost or given back.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// Marks it as lost or given back.
    pub(crate) fn end(&self) {
        self.over.store(true, Relaxed);
    }

    fn units_left(&self) -> u32 {
        self.lease
            .units
            .iter()
            .map(|run| run.count)
            .sum::<u32>()
            .saturating_sub(self.units_done.load(Relaxed))
    }
}

/// All leases held.
pub(crate) struct Leases {
    board: Arc<Board>,
    held: Mutex<Held>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Held {
    leases: BTreeMap<LeaseId, Arc<Holding>>,
    /// Mean time of a unit, in seconds.
    unit_seconds: Option<f64>,
}

impl Leases {
    pub(crate) fn new(board: Arc<Board>) -> Self {
        Self { board, held: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// Notes a new lease.
    pub(crate) fn take(&self, lease: Lease) -> Arc<Holding> {
        let id = lease.id;
        let holding = Arc::new(Holding {
            lease,
            taken_at: Instant::now(),
            taken_at_wall: SystemTime::now(),
            units_done: AtomicU32::new(0),
            over: AtomicBool::new(false),
        });
        self.change(|held| held.leases.insert(id, holding.clone()));
        holding
    }

    /// Forgets a lease: its receipt was answered, or it was lost or given back.
    pub(crate) fn forget(&self, id: LeaseId) {
        self.change(|held| held.leases.remove(&id));
    }

    /// Notes that the market took a lease away. If all its units are computed its receipt goes in all the same: the market may
    /// still take it. Otherwise work on it ends.
    pub(crate) fn lost(&self, holding: &Holding) {
        if holding.units_left() > 0 {
            tracing::info!(lease = %holding.lease.id, "the lease was lost");
            holding.end();
            self.forget(holding.lease.id);
        }
    }

    /// Notes that the device finished a unit after working on it for `time`.
    pub(crate) fn unit_done(&self, holding: &Holding, time: Duration) {
        holding.units_done.fetch_add(1, Relaxed);
        self.change(|held| {
            let time = time.as_secs_f64();
            let mean = held.unit_seconds.unwrap_or(time);
            held.unit_seconds = Some(mean + PACE_WEIGHT * (time - mean));
        });
    }

    /// All leases held.
    pub(crate) fn all(&self) -> Vec<Arc<Holding>> {
        self.lock().leases.values().cloned().collect()
    }

    /// How many packages to ask for now.
    pub(crate) fn packages_wanted(&self) -> u32 {
        let held = self.lock();
        let left: Vec<u32> =
            held.leases.values().map(|h| h.units_left()).filter(|units| *units > 0).collect();
        if held.leases.len() - left.len() >= COMPUTED_MAX {
            return 0;
        }
        if left.is_empty() {
            // What a package takes is only known once one was had.
            return if held.unit_seconds.is_some_and(|s| s < 0.1) { PACKAGES_MAX / 4 } else { 1 };
        }
        // Until the first unit is done nobody knows how long the held ones last.
        let Some(unit_seconds) = held.unit_seconds else { return 0 };
        let units: u32 = left.iter().sum();
        let missing = AHEAD.as_secs_f64() - f64::from(units) * unit_seconds;
        if missing <= 0.0 {
            return 0;
        }
        let package_seconds = f64::from(units) / left.len() as f64 * unit_seconds;
        let wanted = (missing / package_seconds.max(1e-4)).min(f64::from(PACKAGES_MAX)) as u32;
        // One package ahead even when it is a long one.
        wanted.max(u32::from(left.len() < 2)).min(PACKAGES_MAX.saturating_sub(left.len() as u32))
    }

    /// Wakes when leases come, end or get on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) {
        let count = {
            let mut held = self.lock();
            change(&mut held);
            held.leases.len() as u32
        };
        self.board.note(|parts| parts.leases = count);
        self.changed.send_replace(());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Hash, JobId, SecretKey, UnitRun};

    use super::*;

    fn lease(id: u64, count: u32) -> Lease {
        Lease {
            id: LeaseId(id),
            generation: 1,
            job: JobId(1),
            manifest: Hash::of(b""),
            units: vec![UnitRun { first: 0, count }],
            inputs: vec![],
            expires_in_ms: 1000,
        }
    }

    #[test]
    fn a_worker_asks_ahead_but_does_not_hoard() {
        let leases = Leases::new(Arc::new(Board::new(SecretKey::from_seed([1; 32]).public())));
        assert_eq!(leases.packages_wanted(), 1);
        let first = leases.take(lease(1, 10));
        assert_eq!(leases.packages_wanted(), 0, "nobody knows yet how long it takes");
        leases.unit_done(&first, Duration::from_secs(1));
        assert_eq!(leases.packages_wanted(), 0, "nine seconds are left");
        for _ in 0..8 {
            leases.unit_done(&first, Duration::from_secs(1));
        }
        assert_eq!(leases.packages_wanted(), 1, "one second is left");
        leases.take(lease(2, 10));
        assert_eq!(leases.packages_wanted(), 0);

        let quick = Leases::new(Arc::new(Board::new(SecretKey::from_seed([1; 32]).public())));
        let first = quick.take(lease(1, 2));
        quick.unit_done(&first, Duration::from_micros(10));
        assert!(quick.packages_wanted() > 10, "no-op units need many packages on the way");
    }
}
