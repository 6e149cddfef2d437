//! The leases in this worker's hands, and how much work they are.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use api::Lease;
use protocol::{Hash, LeaseId};
use tokio::sync::{Notify, watch};

use crate::status::Board;

/// Held work is topped up when it lasts for less than this: longer than a round trip with the inputs' transfer, short enough not
/// to hoard what another worker could begin.
const AHEAD: Duration = Duration::from_secs(2);
/// Most packages asked for at once. The next ones may be of a job whose units take a thousand times longer, so tiny ones are
/// asked for often rather than all together.
const PACKAGES_MAX: u32 = 8;
/// Units faster than this make several packages at a time worth asking for when nothing is held.
const QUICK: Duration = Duration::from_millis(100);
/// Jobs whose pace is remembered.
const PACES_MAX: usize = 64;
/// Packages whose results may wait for the market, and bytes of their outputs. Beyond it no new work is taken, so that an outage
/// does not fill the memory.
const COMPUTED_MAX: usize = 128;
const OUTPUT_BYTES_MAX: u64 = 512 << 20;
/// Weight of the newest unit in the mean time of a unit.
const PACE_WEIGHT: f64 = 0.2;

/// One package from taking its lease to its last answered receipt. Each checkpoint ends a lease and begins one of the rest.
#[derive(Debug)]
pub(crate) struct Holding {
    /// As the market gave it.
    pub(crate) lease: Lease,
    /// When it was taken.
    pub(crate) taken_at: Instant,
    /// The same by the wall clock.
    pub(crate) taken_at_wall: SystemTime,
    term: Mutex<Term>,
    units_done: AtomicU32,
    over: AtomicBool,
    yielding: AtomicBool,
}

/// The lease that covers what is left of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) id: LeaseId,
    pub(crate) generation: u32,
    /// Whether a receipt for a part of it is on its way: its answer brings another lease.
    pub(crate) cutting: bool,
}

impl Holding {
    /// The lease that covers what is left.
    pub(crate) fn term(&self) -> Term {
        *self.lock()
    }

    /// The lease's id.
    pub(crate) fn id(&self) -> LeaseId {
        self.lock().id
    }

    /// Notes that a receipt for a part of the lease is on its way, or no longer.
    pub(crate) fn cutting(&self, cutting: bool) {
        self.lock().cutting = cutting;
    }

    /// Whether no further units of it are to be begun: the market or the worker's owner wants the device back.
    pub(crate) fn yields(&self) -> bool {
        self.yielding.load(Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Term> {
        self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing more needs to be done for it: it was lost or given back.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// Marks it as lost or given back.
    pub(crate) fn end(&self) {
        self.over.store(true, Relaxed);
    }

    /// The counts are the market's word, which nothing has bounded yet.
    fn units_left(&self) -> u64 {
        let units: u64 = self.lease.units.iter().map(|run| u64::from(run.count)).sum();
        units.saturating_sub(self.units_done.load(Relaxed).into())
    }
}

/// All leases held.
pub(crate) struct Leases {
    board: Arc<Board>,
    held: Mutex<Held>,
    changed: watch::Sender<()>,
    yield_asked: Notify,
}

#[derive(Default)]
struct Held {
    leases: BTreeMap<LeaseId, Arc<Holding>>,
    /// Bytes of outputs that are not uploaded yet.
    output_bytes: u64,
    /// Mean time of a unit of a program, in seconds; the last used one last.
    paces: Vec<(Hash, f64)>,
}

impl Held {
    fn pace(&self, program: Hash) -> Option<f64> {
        self.paces.iter().find(|(id, _)| *id == program).map(|(_, seconds)| *seconds)
    }
}

impl Leases {
    pub(crate) fn new(board: Arc<Board>) -> Self {
        Self { board, held: Mutex::default(), changed: watch::Sender::new(()), yield_asked: Notify::new() }
    }

    /// Notes a new lease.
    pub(crate) fn take(&self, lease: Lease) -> Arc<Holding> {
        let id = lease.id;
        let holding = Arc::new(Holding {
            term: Mutex::new(Term { id, generation: lease.generation, cutting: false }),
            lease,
            taken_at: Instant::now(),
            taken_at_wall: SystemTime::now(),
            units_done: AtomicU32::new(0),
            over: AtomicBool::new(false),
            yielding: AtomicBool::new(false),
        });
        self.change(|held| held.leases.insert(id, holding.clone()));
        holding
    }

    /// Forgets a package: its last receipt was answered, or it was lost or given back.
    pub(crate) fn forget(&self, holding: &Holding) {
        self.change(|held| held.leases.remove(&holding.id()));
    }

    /// Goes on with the rest of a package under the lease that answered a receipt for its first units.
    pub(crate) fn go_on(&self, holding: &Arc<Holding>, rest: &Lease) {
        self.change(|held| {
            held.leases.remove(&holding.id());
            *holding.lock() = Term { id: rest.id, generation: rest.generation, cutting: false };
            held.leases.insert(rest.id, holding.clone());
        });
    }

    /// Ends packages at the unit that runs: what is finished is committed, the rest given back.
    pub(crate) fn ask_to_yield(&self, wanted: impl Fn(LeaseId) -> bool) {
        let mut asked = false;
        for holding in self.all().iter().filter(|holding| wanted(holding.id())) {
            asked |= !holding.yielding.swap(true, Relaxed);
        }
        if asked {
            self.yield_asked.notify_one();
        }
    }

    /// Returns when packages are to yield. For one listener.
    pub(crate) async fn yield_asked(&self) {
        self.yield_asked.notified().await;
    }

    /// Mean time of a unit of a program, once one has run.
    pub(crate) fn pace(&self, program: Hash) -> Option<Duration> {
        self.lock().pace(program).map(Duration::from_secs_f64)
    }

    /// Notes that the market took a lease away. If all its units are computed its receipt goes in all the same: the market may
    /// still take it. Otherwise work on it ends.
    pub(crate) fn lost(&self, holding: &Holding) {
        // While a receipt for its first units is on its way the market may know the rest under another lease already.
        if holding.units_left() > 0 && !holding.term().cutting {
            tracing::info!(lease = %holding.id(), "the lease was lost");
            holding.end();
            self.forget(holding);
        }
    }

    /// Notes that the device finished a unit after working on it for `time`.
    pub(crate) fn unit_done(&self, holding: &Holding, time: Duration) {
        holding.units_done.fetch_add(1, Relaxed);
        self.change(|held| {
            let (program, time) = (holding.lease.manifest, time.as_secs_f64());
            let mean = held.pace(program).unwrap_or(time);
            held.paces.retain(|(id, _)| *id != program);
            held.paces.push((program, mean + PACE_WEIGHT * (time - mean)));
            if held.paces.len() > PACES_MAX {
                held.paces.remove(0);
            }
        });
    }

    /// Notes outputs that wait to be uploaded, until the answer is dropped.
    pub(crate) fn outputs(&self, bytes: u64) -> Outputs<'_> {
        self.change(|held| held.output_bytes += bytes);
        Outputs { leases: self, bytes }
    }

    /// All leases held.
    pub(crate) fn all(&self) -> Vec<Arc<Holding>> {
        self.lock().leases.values().cloned().collect()
    }

    /// How many packages to ask for now.
    pub(crate) fn packages_wanted(&self) -> u32 {
        let held = self.lock();
        let left: Vec<(u64, Option<f64>)> = held
            .leases
            .values()
            .map(|holding| (holding.units_left(), held.pace(holding.lease.manifest)))
            .filter(|(units, _)| *units > 0)
            .collect();
        if held.leases.len() - left.len() >= COMPUTED_MAX || held.output_bytes >= OUTPUT_BYTES_MAX {
            return 0;
        }
        if left.is_empty() {
            let quick = held.paces.last().is_some_and(|(_, seconds)| *seconds < QUICK.as_secs_f64());
            return if quick { PACKAGES_MAX / 2 } else { 1 };
        }
        let mut seconds = 0.0;
        for (units, pace) in &left {
            // Until its first unit is done nobody knows how long it lasts.
            let Some(pace) = pace else { return 0 };
            seconds += *units as f64 * pace;
        }
        let missing = AHEAD.as_secs_f64() - seconds;
        if missing <= 0.0 {
            return 0;
        }
        let package_seconds = (seconds / left.len() as f64).max(1e-4);
        // One package ahead even when it is a long one.
        let wanted = (missing / package_seconds).max(if left.len() < 2 { 1.0 } else { 0.0 });
        (wanted as u32).min(PACKAGES_MAX)
    }

    /// Whether the device has work, and could take turns with one more job.
    pub(crate) fn takes_another_job(&self, slots: u32) -> bool {
        let held = self.lock();
        let jobs: HashSet<_> = held
            .leases
            .values()
            .filter(|holding| holding.units_left() > 0)
            .map(|holding| holding.lease.job)
            .collect();
        let full = held.leases.len() >= COMPUTED_MAX || held.output_bytes >= OUTPUT_BYTES_MAX;
        !full && !jobs.is_empty() && jobs.len() < slots as usize
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

/// Outputs on their way.
pub(crate) struct Outputs<'a> {
    leases: &'a Leases,
    bytes: u64,
}

impl Drop for Outputs<'_> {
    fn drop(&mut self) {
        self.leases.change(|held| held.output_bytes -= self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use protocol::{JobId, SecretKey, UnitRun};

    use super::*;

    fn lease(id: u64, count: u32) -> Lease {
        lease_of("a program", id, count)
    }

    fn lease_of(program: &str, id: u64, count: u32) -> Lease {
        Lease {
            id: LeaseId(id),
            generation: 1,
            job: JobId(1),
            manifest: Hash::of(program.as_bytes()),
            units: vec![UnitRun { first: 0, count }],
            unit_base: 0,
            inputs: vec![],
            expires_in_ms: 1000,
            envelope: None,
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
        assert_eq!(quick.packages_wanted(), PACKAGES_MAX, "no-op units need several packages on the way");
        let outputs = quick.outputs(OUTPUT_BYTES_MAX);
        assert_eq!(quick.packages_wanted(), 0, "the results have nowhere to go");
        drop(outputs);
        assert_eq!(quick.packages_wanted(), PACKAGES_MAX);
        quick.take(lease_of("another program", 2, 1));
        assert_eq!(quick.packages_wanted(), 0, "the new job may be a slow one");
    }

    #[test]
    fn counts_that_no_program_has_are_counted_all_the_same() {
        let leases = Leases::new(Arc::new(Board::new(SecretKey::from_seed([1; 32]).public())));
        let run = UnitRun { first: 0, count: u32::MAX };
        let held = leases.take(Lease { units: vec![run; 3], ..lease(1, 0) });
        leases.unit_done(&held, Duration::from_secs(1));
        assert_eq!(held.units_left(), 3 * u64::from(u32::MAX) - 1);
        assert_eq!(leases.packages_wanted(), 0);
    }
}
