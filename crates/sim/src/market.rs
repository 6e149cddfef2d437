//! The market's shell in virtual time: decides, journals in groups, answers when a group is durable, crashes and comes back.
//!
//! It follows `crates/market/src/committer.rs` with one difference: of workers that wait for work, at most [`RETRIES_MAX`]
//! are tried again after a change, and no more when none of those got any. They ask again after their poll in any case.

use std::collections::{BTreeMap, VecDeque};

use engine::{Answer, Command, Decision, Event, Params, Rejection, State, violations};
use protocol::{Hash, PublicKey};

use crate::Observer;

/// A group becomes durable this long after its first event: a write and a sync on an ordinary SSD.
pub(crate) const GROUP_US: u64 = 2_000;
/// Waiting workers that are tried again at a time.
const RETRIES_MAX: usize = 64;
/// The Unix time at which a run begins. Any will do.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// A request for work that waits.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) provider: usize,
    pub(crate) incarnation: u32,
    pub(crate) request: u64,
    pub(crate) packages_max: u32,
}

/// The market, with answers of type `A` that are held back until what they say is durable.
#[derive(Debug)]
pub(crate) struct Market<A> {
    pub(crate) state: State,
    pub(crate) up: bool,
    /// By how much its clock was moved.
    pub(crate) clock_ms: u64,
    /// Set when an event may have made work for somebody who waits.
    pub(crate) retry: bool,
    wishes: BTreeMap<u64, Wish>,
    order: VecDeque<u64>,
    tickets: u64,
    /// Durable groups, if the journal is kept.
    journal: Option<Vec<(u64, Vec<u8>)>>,
    digest: Hash,
    pending: Vec<(u64, Event)>,
    answers: Vec<A>,
    check_every: u64,
    pub(crate) decisions: u64,
    pub(crate) events: u64,
    pub(crate) journal_bytes: u64,
    pub(crate) invariant_checks: u64,
    pub(crate) refusals: BTreeMap<&'static str, u64>,
    pub(crate) problems: Vec<String>,
}

impl<A> Market<A> {
    pub(crate) fn found(key: PublicKey, params: Params, keep_journal: bool, check_every: u64) -> Self {
        let (state, founded) = State::found(key, params, EPOCH_MS);
        Self {
            state,
            up: true,
            clock_ms: 0,
            retry: false,
            wishes: BTreeMap::new(),
            order: VecDeque::new(),
            tickets: 0,
            journal: keep_journal.then(Vec::new),
            digest: Hash([0; 32]),
            pending: vec![(EPOCH_MS, founded)],
            answers: Vec::new(),
            check_every: check_every.max(1),
            decisions: 0,
            events: 0,
            journal_bytes: 0,
            invariant_checks: 0,
            refusals: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// The market's clock.
    pub(crate) fn now_ms(&self, at_us: u64) -> u64 {
        EPOCH_MS + at_us / 1_000 + self.clock_ms
    }

    pub(crate) fn digest(&self) -> Hash {
        self.digest
    }

    pub(crate) fn decide(
        &mut self,
        at_us: u64,
        command: Command,
        observer: &mut dyn Observer,
    ) -> Result<Answer, Rejection> {
        let (now_ms, kind) = (self.now_ms(at_us), kind(&command));
        observer.deciding();
        let decision = engine::decide(&mut self.state, now_ms, command);
        let granted =
            matches!(&decision, Ok(Decision { answer: Answer::Leases(leases), .. }) if !leases.is_empty());
        observer.decided(if granted { "grant" } else { kind });
        self.decisions += 1;
        if self.decisions.is_multiple_of(self.check_every) {
            self.check(at_us);
        }
        match decision {
            Ok(decision) => {
                self.retry |= decision.events.iter().any(Event::may_make_work);
                self.pending.extend(decision.events.into_iter().map(|event| (now_ms, event)));
                Ok(decision.answer)
            }
            Err(rejection) => {
                *self.refusals.entry(refusal(&rejection)).or_default() += 1;
                Err(rejection)
            }
        }
    }

    /// Holds an answer back until everything decided so far is durable.
    pub(crate) fn answer(&mut self, answer: A) {
        self.answers.push(answer);
    }

    /// Whether a group waits to be written or an answer to be sent.
    pub(crate) fn unwritten(&self) -> bool {
        !self.pending.is_empty() || !self.answers.is_empty()
    }

    /// Makes what is pending durable; answers its events and the answers that may now go out.
    pub(crate) fn flush(&mut self) -> (Vec<Event>, Vec<A>) {
        let mut events = Vec::with_capacity(self.pending.len());
        for (at_ms, event) in std::mem::take(&mut self.pending) {
            let bytes = borsh::to_vec(&event).expect("events serialise");
            self.digest = Hash::of_parts(&[&self.digest.0, &at_ms.to_le_bytes(), &bytes]);
            self.events += 1;
            self.journal_bytes += bytes.len() as u64;
            if let Some(journal) = &mut self.journal {
                journal.push((at_ms, bytes));
            }
            events.push(event);
        }
        (events, std::mem::take(&mut self.answers))
    }

    /// Checks the invariants.
    pub(crate) fn check(&mut self, at_us: u64) {
        self.invariant_checks += 1;
        self.problems.extend(violations(&self.state, self.now_ms(at_us)).iter().map(ToString::to_string));
    }

    /// Checks that the encoded journal and what is pending give the state.
    pub(crate) fn check_replay(&mut self) {
        let Some(mut state) = self.replayed() else { return };
        for (at_ms, event) in &self.pending {
            state.evolve(*at_ms, event);
        }
        if state != self.state {
            self.problems.push(format!("the journal's {} events give another state", self.state.seq()));
        }
    }

    fn replayed(&self) -> Option<State> {
        let mut state = State::default();
        for (at_ms, bytes) in self.journal.as_ref()? {
            state.evolve(*at_ms, &borsh::from_slice(bytes).expect("what was written reads"));
        }
        Some(state)
    }

    /// Goes down. Answers how many events were not yet durable; nobody was answered on them.
    pub(crate) fn crash(&mut self, at_us: u64) -> u64 {
        self.check(at_us);
        self.check_replay();
        let lost = self.pending.len() as u64;
        self.pending.clear();
        self.answers.clear();
        self.wishes.clear();
        self.order.clear();
        self.up = false;
        lost
    }

    /// Comes back from the journal.
    pub(crate) fn restart(&mut self, at_us: u64, observer: &mut dyn Observer) {
        self.state = self.replayed().expect("a market that may crash keeps its journal");
        self.up = true;
        self.retry = true;
        if let Err(rejection) = self.decide(at_us, Command::Resume, observer) {
            self.problems.push(format!("a restart was refused: {rejection}"));
        }
    }

    /// Lets a wish wait; answers its ticket.
    pub(crate) fn park(&mut self, wish: Wish) -> u64 {
        self.tickets += 1;
        self.wishes.insert(self.tickets, wish);
        self.order.push_back(self.tickets);
        self.tickets
    }

    /// Takes a wish back, when it still waits.
    pub(crate) fn unpark(&mut self, ticket: u64) -> Option<Wish> {
        self.wishes.remove(&ticket)
    }

    /// The tickets to try next.
    pub(crate) fn tries(&mut self) -> Vec<(u64, Wish)> {
        let mut tries = Vec::new();
        for _ in 0..self.order.len() {
            if tries.len() == RETRIES_MAX {
                break;
            }
            let Some(ticket) = self.order.pop_front() else { break };
            if let Some(wish) = self.wishes.get(&ticket) {
                tries.push((ticket, wish.clone()));
                self.order.push_back(ticket);
            }
        }
        tries
    }
}

fn kind(command: &Command) -> &'static str {
    match command {
        Command::Deposit { .. } => "deposit",
        Command::DelegateSession { .. } => "delegate",
        Command::Submit(_) => "submit",
        Command::Cancel { .. } => "cancel",
        Command::Announce { .. } => "announce",
        Command::Heartbeat { .. } => "heartbeat",
        Command::Leave { .. } => "leave",
        Command::RequestLeases { .. } => "lease",
        Command::Release { .. } => "release",
        Command::Commit { .. } => "commit",
        Command::RecordOpinion { .. } => "opinion",
        Command::AdvanceTime => "time",
        Command::Resume => "resume",
    }
}

fn refusal(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::JobUnknown(_) => "job_unknown",
        Rejection::JobForeign(_) => "job_foreign",
        Rejection::JobEnded(_) => "job_ended",
        Rejection::SpecInvalid(_) => "spec_invalid",
        Rejection::OverBudget { .. } => "over_budget",
        Rejection::BalanceTooLow { .. } => "balance_too_low",
        Rejection::AmountTooLarge => "amount_too_large",
        Rejection::IdempotencyConflict => "idempotency_conflict",
        Rejection::SessionInvalid(_) => "session_invalid",
        Rejection::WorkerKeyInUse { .. } => "worker_key_in_use",
        Rejection::WorkerUnknown => "worker_unknown",
        Rejection::LeaseUnknown(_) => "lease_unknown",
        Rejection::LeaseExpired(_) => "lease_expired",
        Rejection::LeaseForeign(_) => "lease_foreign",
        Rejection::LeaseStale { .. } => "lease_stale",
        Rejection::ReceiptDuplicate(_) => "receipt_duplicate",
        Rejection::ReceiptInvalid(_) => "receipt_invalid",
        Rejection::CheckNotPending(_) => "check_not_pending",
    }
}

/// Refusals that no fault explains. A lease that another attempt has now, a job that ended before its cancellation came, a
/// key that the crashed process still holds: these are what refusals are for.
pub(crate) fn unexplained(rejection: &Rejection) -> bool {
    !matches!(
        rejection,
        Rejection::JobEnded(_)
            | Rejection::WorkerKeyInUse { .. }
            | Rejection::WorkerUnknown
            | Rejection::LeaseExpired(_)
            | Rejection::CheckNotPending(_)
    )
}
