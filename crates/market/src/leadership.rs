//! Which of a market's processes leads.
//!
//! ```text
//!             ┌──────── the seat was not renewed for DEAD_AFTER: took it, and appended ────────┐
//!   following │                                                                                ▼ leading
//!             ▲                                                                                │
//!             └──────── the place in the journal, or the seat, is another's ───────────────────┘
//! ```
//!
//! Two things decide, and they do different work. The *seat* is a row that the leader renews; its age by the database's clock
//! tells others that the leader is gone. It only makes somebody try. The *journal's key* is the fence: whoever took the seat
//! leads once its first group is appended, and a former leader that was only paused finds its next place taken. So two that
//! believe they lead do no harm, whatever their clocks and the network do: one of them can say nothing.
//!
//! Questions change nothing and find no place taken. A leader therefore answers them only while nobody else can have taken
//! the seat: for [`DEAD_AFTER`] since it last began to renew it.

use std::time::{Duration, Instant};

use store::{Leaders, StoreError};
use tokio::sync::watch;

use crate::failure::Causes;

/// A leader that did not renew its seat for this long counts as gone.
pub const DEAD_AFTER: Duration = Duration::from_secs(2);
/// Between two renewals: three may fail before others try.
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// Between two looks of a standby at the seat and the journal. With [`DEAD_AFTER`] it bounds how long nobody leads.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After the seat could not be looked at.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Who leads, as this process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This process.
    Leading {
        /// Counts leaders.
        term: u64,
    },
    /// Another, or nobody.
    Following {
        /// The other, where there is one that lives.
        leader: Option<Leader>,
    },
}

impl Standing {
    /// Whether this process leads.
    pub fn leads(&self) -> bool {
        matches!(self, Self::Leading { .. })
    }
}

/// A process that leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Counts leaders.
    pub term: u64,
    /// Where the others reach it, such as `http://10.0.0.7:7700`.
    pub url: String,
}

/// Where the processes of a market see who leads.
pub trait Seat: Send {
    /// Who took it last, and how long ago that, or its last renewal, was.
    fn look(&mut self) -> Result<Option<(Leader, Duration)>, StoreError>;
    /// Takes it after the leader of that term, or as the first; the new term unless somebody else was quicker.
    fn take(&mut self, after: Option<u64>) -> Result<Option<u64>, StoreError>;
    /// Renews it. Whether it is still this term's.
    fn renew(&mut self, term: u64) -> Result<bool, StoreError>;
    /// Leaves it, so that others need not wait.
    fn leave(&mut self, term: u64) -> Result<(), StoreError>;
}

impl Seat for Leaders {
    fn look(&mut self) -> Result<Option<(Leader, Duration)>, StoreError> {
        let row = self.read()?;
        Ok(row.map(|row| (Leader { term: row.term, url: row.url }, Duration::from_millis(row.age_ms))))
    }

    fn take(&mut self, after: Option<u64>) -> Result<Option<u64>, StoreError> {
        let seen = after.unwrap_or(0);
        Ok(self.try_take(seen)?.then_some(seen + 1))
    }

    fn renew(&mut self, term: u64) -> Result<bool, StoreError> {
        Leaders::renew(self, term)
    }

    fn leave(&mut self, term: u64) -> Result<(), StoreError> {
        self.resign(term).map(drop)
    }
}

/// What the owner of the state has to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Duty {
    /// What it does already.
    None,
    /// Read what the leader appended.
    Follow,
    /// Append the first group of this term, and then [`lead`](Leadership::lead).
    TakeOver {
        /// Counts leaders.
        term: u64,
    },
    /// Cease to lead.
    StepDown,
}

/// One process's part in it. Time is a parameter.
pub struct Leadership {
    /// Absent where no other process can have the journal: then this one leads from its start to its end.
    seat: Option<Box<dyn Seat>>,
    standing: watch::Sender<Standing>,
    /// When there is something to do next.
    due_at: Instant,
    /// As a leader: until when nobody else can have taken the seat.
    sure_until: Instant,
    /// As a standby: when it last knew of a leader that lives, or began to look.
    seen_at: Instant,
    /// The term in which it has the seat, and could not append yet.
    taken: Option<u64>,
}

impl Leadership {
    /// The part of a process that nobody shares the journal with.
    pub fn alone() -> Self {
        let now = Instant::now();
        let standing = watch::Sender::new(Standing::Leading { term: 0 });
        Self { seat: None, standing, due_at: now, sure_until: now, seen_at: now, taken: None }
    }

    /// The part of one process among others. It begins as a standby.
    pub fn shared(seat: Box<dyn Seat>) -> Self {
        let standing = watch::Sender::new(Standing::Following { leader: None });
        Self { seat: Some(seat), standing, ..Self::alone() }
    }

    /// Who leads, now and later.
    pub fn standing(&self) -> &watch::Sender<Standing> {
        &self.standing
    }

    /// Whether other processes may lead too.
    pub fn is_shared(&self) -> bool {
        self.seat.is_some()
    }

    /// Whether this process leads.
    pub fn leads(&self) -> bool {
        self.standing.borrow().leads()
    }

    /// Whether nobody else can lead at this moment.
    pub fn is_sure(&self, now: Instant) -> bool {
        self.leads() && (self.seat.is_none() || now < self.sure_until)
    }

    /// How long there is nothing to do.
    pub fn idle(&self, now: Instant) -> Option<Duration> {
        self.seat.as_ref().map(|_| self.due_at.saturating_duration_since(now))
    }

    /// Looks at the seat, or renews it, where that is due.
    pub fn tend(&mut self, now: Instant) -> Duty {
        if now < self.due_at {
            return Duty::None;
        }
        let standing = self.standing.borrow().clone();
        let Some(seat) = &mut self.seat else { return Duty::None };
        let done = match standing {
            Standing::Leading { term } => seat.renew(term).map(|renewed| {
                if !renewed {
                    return Duty::StepDown;
                }
                self.due_at = now + RENEW_EVERY;
                self.sure_until = now + DEAD_AFTER;
                Duty::None
            }),
            Standing::Following { .. } => self.look(now),
        };
        done.unwrap_or_else(|error| {
            tracing::warn!(cause = %Causes(&error), "cannot see who leads the market");
            self.due_at = now + AGAIN_AFTER;
            if !self.leads() && self.seen_at + DEAD_AFTER <= now {
                self.note(None);
            }
            // What the leader appended may be readable all the same.
            if self.leads() { Duty::None } else { Duty::Follow }
        })
    }

    fn look(&mut self, now: Instant) -> Result<Duty, StoreError> {
        let seat = self.seat.as_mut().expect("callers look first");
        let seen = seat.look()?;
        self.due_at = now + LOOK_EVERY;
        let after = match seen {
            Some((leader, _)) if self.taken == Some(leader.term) && seat.renew(leader.term)? => {
                return Ok(Duty::TakeOver { term: leader.term });
            }
            Some((leader, age)) if age < DEAD_AFTER => {
                self.seen_at = now;
                self.note(Some(leader));
                return Ok(Duty::Follow);
            }
            Some((leader, _)) => Some(leader.term),
            None => None,
        };
        self.note(None);
        let seat = self.seat.as_mut().expect("as before");
        self.taken = seat.take(after)?;
        Ok(match self.taken {
            Some(term) => {
                self.sure_until = now + DEAD_AFTER;
                Duty::TakeOver { term }
            }
            None => {
                self.due_at = now;
                Duty::Follow
            }
        })
    }

    fn note(&self, leader: Option<Leader>) {
        let following = Standing::Following { leader };
        self.standing.send_if_modified(|now| {
            *now != following && {
                *now = following;
                true
            }
        });
    }

    /// Leads from now on: the first group of this term is durable.
    pub fn lead(&mut self, term: u64) {
        self.due_at = Instant::now();
        self.taken = None;
        self.standing.send_replace(Standing::Leading { term });
    }

    /// Ceases to lead.
    pub fn step_down(&mut self, now: Instant) {
        self.due_at = now;
        self.seen_at = now;
        self.standing.send_replace(Standing::Following { leader: None });
    }

    /// Leaves the seat to others, as the process ends.
    pub fn leave(&mut self) {
        if let (Standing::Leading { term }, Some(seat)) = (self.standing.borrow().clone(), &mut self.seat)
            && let Err(error) = seat.leave(term)
        {
            tracing::debug!(cause = %Causes(&error), "the seat is left to grow old");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A seat in memory, with a clock of its own.
    #[derive(Clone)]
    struct Shared(Arc<Mutex<Row>>);

    struct Row {
        now: Instant,
        leader: Option<(Leader, Instant)>,
        away: bool,
    }

    struct Place(Shared, &'static str);

    impl Place {
        fn row(&self) -> Result<std::sync::MutexGuard<'_, Row>, StoreError> {
            let row = self.0.0.lock().expect("no panic");
            let away = StoreError::Newer { what: "test", found: 2, supported: 1 };
            if row.away { Err(away) } else { Ok(row) }
        }
    }

    impl Seat for Place {
        fn look(&mut self) -> Result<Option<(Leader, Duration)>, StoreError> {
            let row = self.row()?;
            Ok(row.leader.clone().map(|(leader, at)| (leader, row.now - at)))
        }

        fn take(&mut self, after: Option<u64>) -> Result<Option<u64>, StoreError> {
            let mut row = self.row()?;
            if row.leader.as_ref().map(|(leader, _)| leader.term) != after {
                return Ok(None);
            }
            let term = after.unwrap_or(0) + 1;
            row.leader = Some((Leader { term, url: self.1.into() }, row.now));
            Ok(Some(term))
        }

        fn renew(&mut self, term: u64) -> Result<bool, StoreError> {
            let mut row = self.row()?;
            let now = row.now;
            let held = row.leader.as_mut().filter(|(leader, _)| leader.term == term);
            Ok(held.map(|(_, at)| *at = now).is_some())
        }

        fn leave(&mut self, term: u64) -> Result<(), StoreError> {
            let mut row = self.row()?;
            let long_ago = row.now - DEAD_AFTER;
            if let Some((leader, at)) = &mut row.leader
                && leader.term == term
            {
                *at = long_ago;
            }
            Ok(())
        }
    }

    struct Table {
        shared: Shared,
        began: Instant,
    }

    impl Table {
        fn new() -> Self {
            let began = Instant::now() + Duration::from_secs(60);
            let row = Row { now: began, leader: None, away: false };
            Self { shared: Shared(Arc::new(Mutex::new(row))), began }
        }

        fn process(&self, url: &'static str) -> Leadership {
            Leadership::shared(Box::new(Place(self.shared.clone(), url)))
        }

        fn at(&self, ms: u64) -> Instant {
            let now = self.began + Duration::from_millis(ms);
            self.shared.0.lock().expect("no panic").now = now;
            now
        }

        fn away(&self, away: bool) {
            self.shared.0.lock().expect("no panic").away = away;
        }
    }

    fn url(process: &Leadership) -> Option<String> {
        match &*process.standing().borrow() {
            Standing::Following { leader } => leader.as_ref().map(|leader| leader.url.clone()),
            Standing::Leading { .. } => Some("itself".into()),
        }
    }

    fn take(process: &mut Leadership, now: Instant) {
        match process.tend(now) {
            Duty::TakeOver { term } => process.lead(term),
            other => panic!("{other:?}"),
        }
        process.due_at = now;
        assert_eq!(process.tend(now), Duty::None, "it renews");
    }

    #[test]
    fn the_first_leads_and_the_second_follows_until_the_first_is_gone() {
        let table = Table::new();
        let (mut a, mut b) = (table.process("a"), table.process("b"));
        take(&mut a, table.at(0));
        assert_eq!((b.tend(table.at(0)), url(&b)), (Duty::Follow, Some("a".into())));
        // It is renewed in time, so that b never tries.
        for ms in (0..10_000).step_by(100) {
            let now = table.at(ms);
            assert_eq!(a.tend(now), Duty::None);
            assert!(matches!(b.tend(now), Duty::None | Duty::Follow));
            assert!(a.is_sure(now) && !b.is_sure(now));
        }
        // a is gone: b leads 2 s later, and a would find that out before it answered anything.
        let now = table.at(11_400);
        assert!(matches!(b.tend(now), Duty::Follow | Duty::None));
        let now = table.at(12_000);
        take(&mut b, now);
        assert!(!a.is_sure(now));
        assert_eq!(a.tend(now), Duty::StepDown);
        a.step_down(now);
        assert_eq!((a.tend(now), url(&a)), (Duty::Follow, Some("b".into())));
        assert!(b.is_sure(now));
    }

    #[test]
    fn who_could_not_append_tries_again_and_is_not_its_own_leader() {
        let table = Table::new();
        let mut a = table.process("a");
        for ms in (0..6_000).step_by(300) {
            assert_eq!((a.tend(table.at(ms)), url(&a)), (Duty::TakeOver { term: 1 }, None));
        }
        assert!(matches!(table.process("b").tend(table.at(6_000)), Duty::Follow), "its seat is renewed");
        a.lead(1);
        assert!(a.leads());
    }

    #[test]
    fn of_two_that_try_one_gets_the_seat() {
        let table = Table::new();
        let now = table.at(0);
        let (mut a, mut b) = (table.process("a"), Place(table.shared.clone(), "b"));
        assert_eq!(b.take(None).expect("there"), Some(1));
        assert_eq!(b.take(None).expect("there"), None);
        assert_eq!((a.tend(now), url(&a)), (Duty::Follow, Some("b".into())));
    }

    #[test]
    fn while_the_database_is_away_nobody_is_sure_and_nobody_steps_down() {
        let table = Table::new();
        let (mut a, mut b) = (table.process("a"), table.process("b"));
        take(&mut a, table.at(0));
        assert_eq!(b.tend(table.at(100)), Duty::Follow);
        table.away(true);
        for ms in (500..5_000).step_by(100) {
            let now = table.at(ms);
            assert_eq!(a.tend(now), Duty::None);
            assert_eq!(a.is_sure(now), ms < 2_000, "{ms}");
            b.tend(now);
        }
        assert_eq!(url(&b), None);
        table.away(false);
        let now = table.at(5_000);
        assert_eq!(a.tend(now), Duty::None);
        assert!(a.is_sure(now), "it was the first to come back");
        assert_eq!((b.tend(now), url(&b)), (Duty::Follow, Some("a".into())));
    }

    #[test]
    fn who_leaves_is_replaced_at_once() {
        let table = Table::new();
        let (mut a, mut b) = (table.process("a"), table.process("b"));
        take(&mut a, table.at(0));
        assert_eq!(b.tend(table.at(100)), Duty::Follow);
        a.leave();
        take(&mut b, table.at(300));
    }

    #[test]
    fn who_shares_with_nobody_always_leads() {
        let mut alone = Leadership::alone();
        let later = Instant::now() + Duration::from_secs(3600);
        assert_eq!((alone.tend(later), alone.is_sure(later), alone.idle(later)), (Duty::None, true, None));
    }
}
