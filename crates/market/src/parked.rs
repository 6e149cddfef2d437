//! Requests for work that found none and wait for some.
//!
//! They wait in turn: by their owner's tier when they came, the highest first, and within a tier by who came first. When there may
//! be work again they are tried in that order, but ten thousand of them must not be tried for one new unit: devices that are alike mostly find work or find none alike, so of each kind of device only
//! as many are tried as get something, and [`MISSES_MAX`] in a row that do not ([`Parking::retry`]). What binds one worker and not
//! another of its kind (a unit that it failed before, a check of its own owner's work) is not seen that way, so the others are
//! tried too, a few in each group, until everybody was.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    ops::Bound::{Excluded, Unbounded},
    time::{Duration, Instant},
};

use protocol::{DeviceFacts, Hash, PublicKey};
use tokio::sync::oneshot;

use crate::committer::Refusal;

/// Requests that wait at once.
pub const PARKED_MAX: usize = 16 * 1024;
/// Devices of one kind that find nothing in a row before the others of that kind are left for later.
const MISSES_MAX: usize = 8;
/// Tries of those left for later in one group.
const LATER_MAX: usize = 64;
/// How long the tries of one group may take together, so that nobody else waits for long.
pub const TRIES_TIME_MAX: Duration = Duration::from_millis(5);
/// Between two looks for askers who went away when there is no room for more.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A worker's wish for work.
pub struct LeaseWish {
    /// The worker.
    pub worker: PublicKey,
    /// As announced.
    pub instance: String,
    /// Most packages wanted.
    pub packages_max: u32,
    /// Only of jobs of which it holds none.
    pub others_only: bool,
    /// How long it waits.
    pub wait: Duration,
}

/// A wish with somebody who waits for its answer.
pub struct Parked {
    /// What is wanted.
    pub wish: LeaseWish,
    /// Until when it waits.
    pub until: Instant,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<api::LeaseAnswer, Refusal>>,
    /// What asks.
    pub span: tracing::Span,
}

impl Parked {
    /// How long it has waited.
    pub fn waited(&self) -> std::time::Duration {
        (Instant::now() + self.wish.wait).saturating_duration_since(self.until)
    }
}

/// Devices that can run the same programs, and want the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(Hash);

impl Class {
    /// The class of a device; nothing is known of one that was not announced. Those that want other jobs than they hold miss
    /// more often, and are not to stand in the way of those that want any.
    pub fn of(device: Option<&DeviceFacts>, others_only: bool) -> Self {
        let facts = device.map(|device| (device.kind, &device.features, &device.limits));
        Self(Hash::of(&borsh::to_vec(&(facts, others_only)).expect("writing to a Vec cannot fail")))
    }
}

/// A place in line. The tier is that of the moment the wish was parked: a poll lasts seconds, a tier days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    tier: Reverse<u8>,
    /// Counts up, so that within a tier whoever came first is served first.
    ticket: u64,
}

impl Turn {
    /// Before everybody.
    const FIRST: Self = Self { tier: Reverse(u8::MAX), ticket: 0 };
}

struct Entry {
    class: Class,
    /// Absent only while it is being tried.
    parked: Option<Parked>,
}

/// All who wait.
#[derive(Default)]
pub struct Parking {
    tickets: u64,
    entries: BTreeMap<Turn, Entry>,
    classes: HashMap<Class, BTreeSet<Turn>>,
    deadlines: BTreeSet<(Instant, Turn)>,
    /// The last turn of each worker.
    workers: HashMap<PublicKey, Turn>,
    /// Whether there may be work since the last tries.
    woken: bool,
    /// Those from this turn on are still to be tried.
    later_from: Option<Turn>,
    /// Whether there may be work since the tries of those left for later began.
    later_again: bool,
    swept_at: Option<Instant>,
}

impl Parking {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// When the first one's wait is over.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Whether somebody is to be tried.
    pub fn is_due(&self) -> bool {
        !self.entries.is_empty() && (self.woken || self.later_from.is_some())
    }

    /// Whether there may be work since the last tries.
    pub fn is_woken(&self) -> bool {
        self.woken
    }

    /// Notes that there may be work.
    pub fn wake(&mut self) {
        self.woken = true;
    }

    /// Takes one in whose owner is of this tier, or gives it back when there is no room.
    pub fn park(&mut self, parked: Parked, class: Class, tier: u8) -> Result<(), Box<Parked>> {
        if self.entries.len() >= PARKED_MAX {
            self.sweep(Instant::now());
        }
        if self.entries.len() >= PARKED_MAX {
            return Err(Box::new(parked));
        }
        self.tickets += 1;
        let turn = Turn { tier: Reverse(tier), ticket: self.tickets };
        self.deadlines.insert((parked.until, turn));
        self.classes.entry(class).or_default().insert(turn);
        self.workers.insert(parked.wish.worker, turn);
        self.entries.insert(turn, Entry { class, parked: Some(parked) });
        Ok(())
    }

    /// Tries one worker's wish, if it has one.
    pub fn retry_of(&mut self, worker: PublicKey, mut attempt: impl FnMut(Parked) -> Option<Parked>) {
        if let Some(turn) = self.workers.get(&worker).copied() {
            self.attempt(turn, &mut attempt);
        }
    }

    /// Tries those who may find work now, until `late` says that it is enough. `attempt` gives a wish back that found nothing.
    pub fn retry(&mut self, late: impl Fn() -> bool, mut attempt: impl FnMut(Parked) -> Option<Parked>) {
        if std::mem::take(&mut self.woken) {
            self.retry_by_class(&late, &mut attempt);
            match self.later_from {
                // Whoever was tried before the news is tried once more, after those who were not tried at all.
                Some(_) => self.later_again = true,
                None => self.later_from = Some(Turn::FIRST),
            }
        }
        let Some(from) = self.later_from else { return };
        let mut turns: Vec<Turn> = self.entries.range(from..).take(LATER_MAX + 1).map(|(t, _)| *t).collect();
        let mut next = (turns.len() > LATER_MAX).then(|| turns.pop()).flatten();
        for turn in turns {
            if late() {
                next = Some(turn);
                break;
            }
            self.attempt(turn, &mut attempt);
        }
        if next.is_none() && std::mem::take(&mut self.later_again) {
            next = Some(Turn::FIRST);
        }
        self.later_from = next;
    }

    /// In turn, but for the kinds of device of which several in a row found nothing.
    fn retry_by_class(
        &mut self,
        late: &impl Fn() -> bool,
        attempt: &mut impl FnMut(Parked) -> Option<Parked>,
    ) {
        let firsts = self.classes.iter().filter_map(|(class, turns)| Some((*turns.first()?, *class, 0)));
        let mut heads: BinaryHeap<Reverse<(Turn, Class, usize)>> = firsts.map(Reverse).collect();
        while let Some(Reverse((turn, class, misses))) = heads.pop() {
            if late() {
                // The rest is tried with those left for later.
                return;
            }
            let misses = if self.attempt(turn, attempt) { 0 } else { misses + 1 };
            let next = self.classes.get(&class).and_then(|t| t.range((Excluded(turn), Unbounded)).next());
            if let Some(next) = next
                && misses < MISSES_MAX
            {
                heads.push(Reverse((*next, class, misses)));
            }
        }
    }

    /// Whether it was served, or went away.
    fn attempt(&mut self, turn: Turn, attempt: &mut impl FnMut(Parked) -> Option<Parked>) -> bool {
        let Some(entry) = self.entries.get_mut(&turn) else { return true };
        let parked = entry.parked.take().expect("it is not being tried");
        let (until, worker) = (parked.until, parked.wish.worker);
        entry.parked = attempt(parked);
        if entry.parked.is_some() {
            return false;
        }
        self.forget(turn, until);
        self.forget_worker(worker, turn);
        true
    }

    fn forget(&mut self, turn: Turn, until: Instant) -> Option<Parked> {
        let entry = self.entries.remove(&turn)?;
        self.deadlines.remove(&(until, turn));
        if let Some(turns) = self.classes.get_mut(&entry.class) {
            turns.remove(&turn);
            if turns.is_empty() {
                self.classes.remove(&entry.class);
            }
        }
        entry.parked
    }

    fn forget_worker(&mut self, worker: PublicKey, turn: Turn) {
        if self.workers.get(&worker) == Some(&turn) {
            self.workers.remove(&worker);
        }
    }

    /// Takes out one whose wait is over.
    pub fn pop_over(&mut self, now: Instant) -> Option<Parked> {
        let (until, turn) = *self.deadlines.first()?;
        let over = if until > now { None } else { self.forget(turn, until) };
        if let Some(parked) = &over {
            self.forget_worker(parked.wish.worker, turn);
        }
        over
    }

    /// Takes out everybody.
    pub fn drain(&mut self) -> impl Iterator<Item = Parked> + use<> {
        let all = std::mem::take(self);
        self.tickets = all.tickets;
        all.entries.into_values().filter_map(|entry| entry.parked)
    }

    /// Forgets those who went away. It costs a look at everybody, so it is done only when there is no room.
    fn sweep(&mut self, now: Instant) {
        if self.swept_at.is_some_and(|at| now < at + SWEEP_EVERY) {
            return;
        }
        self.swept_at = Some(now);
        let gone = |entry: &Entry| entry.parked.as_ref().filter(|p| p.reply.is_closed()).map(|p| p.until);
        let gone: Vec<_> =
            self.entries.iter().filter_map(|(turn, entry)| Some((*turn, gone(entry)?))).collect();
        for (turn, until) in gone {
            if let Some(parked) = self.forget(turn, until) {
                self.forget_worker(parked.wish.worker, turn);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answers = Vec<oneshot::Receiver<Result<api::LeaseAnswer, Refusal>>>;

    fn class(n: u8) -> Class {
        Class(Hash([n; 32]))
    }

    fn parked(n: u8, until: Instant, answers: &mut Answers) -> Parked {
        let (reply, answer) = oneshot::channel();
        answers.push(answer);
        let worker = PublicKey([n; 32]);
        let wish = LeaseWish {
            worker,
            instance: String::new(),
            packages_max: 1,
            others_only: false,
            wait: Duration::ZERO,
        };
        Parked { wish, until, reply, span: tracing::Span::none() }
    }

    fn herd(classes: &[u8]) -> (Parking, Answers) {
        let (mut parking, mut answers) = (Parking::default(), Vec::new());
        let later = Instant::now() + Duration::from_secs(600);
        for n in classes {
            assert!(parking.park(parked(*n, later, &mut answers), class(*n), 0).is_ok());
        }
        (parking, answers)
    }

    #[test]
    fn one_unit_costs_a_few_tries_and_not_a_try_of_everybody() {
        let (mut parking, _answers) = herd(&[1; 10_000]);
        parking.wake();
        let (mut tries, mut units) = (0, 3);
        parking.retry(
            || false,
            |parked| {
                tries += 1;
                if units == 0 {
                    return Some(parked);
                }
                units -= 1;
                None
            },
        );
        assert_eq!((units, parking.len()), (0, 9_997));
        assert!(tries <= 3 + MISSES_MAX + LATER_MAX, "{tries} tries");
    }

    #[test]
    fn the_one_that_fits_is_found_behind_thousands_that_do_not() {
        let mut classes = vec![1; 10_000];
        classes[9_000] = 2;
        let (mut parking, _answers) = herd(&classes);
        parking.wake();
        let mut served = 0;
        parking.retry(
            || false,
            |parked| {
                let fits = parked.wish.worker == PublicKey([2; 32]);
                served += usize::from(fits);
                if fits { None } else { Some(parked) }
            },
        );
        assert_eq!(served, 1);
    }

    #[test]
    fn whoever_comes_first_is_served_first_whatever_its_kind() {
        let classes = [3, 1, 2, 1, 3];
        let (mut parking, _answers) = herd(&classes);
        parking.wake();
        let mut order = Vec::new();
        parking.retry(
            || false,
            |parked| {
                order.push(parked.wish.worker.0[0]);
                None
            },
        );
        assert_eq!(order, classes);
        assert!(!parking.is_due());
    }

    #[test]
    fn a_higher_tier_is_served_first_and_within_a_tier_who_waits_longest() {
        let (mut parking, mut answers) = (Parking::default(), Vec::new());
        let later = Instant::now() + Duration::from_secs(600);
        for (n, kind, tier) in [(1, 1, 0), (2, 2, 3), (3, 1, 1), (4, 1, 3), (5, 2, 0), (6, 2, 1)] {
            assert!(parking.park(parked(n, later, &mut answers), class(kind), tier).is_ok());
        }
        parking.wake();
        let (mut order, mut units) = (Vec::new(), 4);
        let mut serve = |parked: Parked| {
            if units == 0 {
                return Some(parked);
            }
            units -= 1;
            order.push(parked.wish.worker.0[0]);
            None
        };
        parking.retry(|| false, &mut serve);
        assert_eq!(order, [2, 4, 3, 6]);
        assert_eq!(parking.len(), 2, "nobody who was not served lost its place");
    }

    #[test]
    fn everybody_is_tried_in_the_end_even_while_news_come() {
        let (mut parking, _answers) = herd(&[1; 1_000]);
        let mut tried = 0;
        for _ in 0..1_000 {
            parking.wake();
            let mut number = 0;
            // The last one alone gets something: nobody of its kind tells that.
            parking.retry(
                || false,
                |parked| {
                    number += 1;
                    tried += 1;
                    Some(parked)
                },
            );
            assert!(number <= MISSES_MAX + LATER_MAX);
        }
        assert!(tried >= 1_000 * LATER_MAX);
        // And nobody is tried any more once the news are over.
        while parking.is_due() {
            parking.retry(|| false, Some);
        }
    }

    #[test]
    fn waits_end_in_their_order_and_those_who_went_away_make_room() {
        let (mut parking, mut answers) = (Parking::default(), Vec::new());
        let now = Instant::now();
        let at = |ms: u64| now + Duration::from_millis(ms);
        for (n, ms) in [(1, 30), (2, 10), (3, 20)] {
            assert!(parking.park(parked(n, at(ms), &mut answers), class(n), 0).is_ok());
        }
        assert_eq!(parking.next_deadline(), Some(at(10)));
        assert!(parking.pop_over(at(9)).is_none());
        let over: Vec<u8> =
            std::iter::from_fn(|| parking.pop_over(at(20))).map(|p| p.wish.worker.0[0]).collect();
        assert_eq!(over, [2, 3]);
        for _ in parking.len()..PARKED_MAX {
            assert!(parking.park(parked(4, at(500), &mut answers), class(4), 0).is_ok());
        }
        assert!(parking.park(parked(5, at(500), &mut answers), class(5), 0).is_err());
        answers.truncate(100);
        parking.swept_at = None;
        assert!(parking.park(parked(6, at(500), &mut answers), class(6), 0).is_ok());
        assert_eq!(parking.len(), 1 + 97 + 1);
        assert_eq!(parking.drain().count(), 99);
        assert_eq!((parking.len(), parking.next_deadline()), (0, None));
    }
}
