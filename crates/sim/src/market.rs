//! The market's shell in virtual time: decides, journals in groups, answers when a group is durable, crashes and comes back,
//! and finds itself fenced by another process that leads.
//!
//! It follows `crates/market/src/committer.rs` and `parked.rs` with one difference: of workers that wait for work and are no
//! longer the first of their kind of device, [`LATER_MAX`] are tried after each change, where the service goes on until
//! everybody was. They ask again after their poll in any case.

use std::collections::{BTreeMap, BTreeSet};

use engine::{Answer, Command, Decision, Event, Params, Rejection, State, violations};
use protocol::{Hash, PublicKey};

use crate::Observer;

/// A group becomes durable this long after its first event: a write and a sync on an ordinary SSD.
pub(crate) const GROUP_US: u64 = 2_000;
/// Devices of one kind that find nothing in a row before the others of that kind are left for later.
pub(crate) const MISSES_MAX: usize = 8;
/// Those left for later that are tried after a change.
pub(crate) const LATER_MAX: usize = 16;
/// The Unix time at which a run begins. Any will do.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Encoded events that are kept before they become a state, so that a long run needs no more memory than a short one.
const TAIL_BYTES_MAX: usize = 64 << 20;

/// What outlives every process: the journal, and what the simulator counts.
#[derive(Debug)]
pub(crate) struct Record {
    /// Events in the journal: where the next group begins.
    end: u64,
    digest: Hash,
    kept: Option<Kept>,
    check_every: u64,
    pub(crate) decisions: u64,
    pub(crate) journal_bytes: u64,
    pub(crate) invariant_checks: u64,
    pub(crate) refusals: BTreeMap<&'static str, u64>,
    pub(crate) problems: Vec<String>,
}

/// The journal, where one is needed: the state of what was read before, and the encoded events since. Each event is read
/// once, however often the market comes back.
#[derive(Debug, Default)]
struct Kept {
    base: State,
    tail: Vec<(u64, Vec<u8>)>,
    tail_bytes: usize,
}

impl Kept {
    fn state(&mut self) -> &State {
        for (at_ms, bytes) in self.tail.drain(..) {
            self.base.evolve(at_ms, &borsh::from_slice(&bytes).expect("what was written reads"));
        }
        self.tail_bytes = 0;
        &self.base
    }

    fn push(&mut self, at_ms: u64, bytes: Vec<u8>) {
        self.tail_bytes += bytes.len();
        self.tail.push((at_ms, bytes));
        if self.tail_bytes > TAIL_BYTES_MAX {
            self.state();
        }
    }
}

/// Another process appended where this one wanted to.
struct Taken;

impl Record {
    /// Founds a market; answers its empty journal and the first process, which is yet to write its first event.
    pub(crate) fn found<A>(
        key: PublicKey,
        params: Params,
        keep_journal: bool,
        check_every: u64,
    ) -> (Self, Market<A>) {
        let (state, founded) = State::found(key, params, EPOCH_MS).expect("a scenario has safe parameters");
        let record = Self {
            end: 0,
            digest: Hash([0; 32]),
            kept: keep_journal.then(Kept::default),
            check_every: check_every.max(1),
            decisions: 0,
            journal_bytes: 0,
            invariant_checks: 0,
            refusals: BTreeMap::new(),
            problems: Vec::new(),
        };
        (record, Market { pending: vec![(EPOCH_MS, founded)], ..Market::with(state, 0, 0) })
    }

    pub(crate) fn digest(&self) -> Hash {
        self.digest
    }

    /// Events in the journal.
    pub(crate) fn events(&self) -> u64 {
        self.end
    }

    /// The state that the journal gives.
    pub(crate) fn replayed(&mut self) -> Option<&State> {
        self.kept.as_mut().map(Kept::state)
    }

    /// Appends a group that begins at `first_seq`, unless somebody else's group is there already: the journal's key is the
    /// fence. A group without events is asked for, too, before anybody hears what it refuses.
    fn append(&mut self, first_seq: u64, group: &[(u64, Event)]) -> Result<(), Taken> {
        if first_seq != self.end {
            return Err(Taken);
        }
        for (at_ms, event) in group {
            let bytes = borsh::to_vec(event).expect("events serialise");
            self.digest = Hash::of_parts(&[&self.digest.0, &at_ms.to_le_bytes(), &bytes]);
            self.end += 1;
            self.journal_bytes += bytes.len() as u64;
            if let Some(kept) = &mut self.kept {
                kept.push(*at_ms, bytes);
            }
        }
        Ok(())
    }
}

/// A request for work that waits.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) provider: usize,
    pub(crate) incarnation: u32,
    pub(crate) request: u64,
    pub(crate) packages_max: u32,
    /// Devices that can run the same programs.
    pub(crate) kind: u64,
    pub(crate) until_us: u64,
}

/// One process of the market, with answers of type `A` that are held back until what they say is durable.
#[derive(Debug)]
pub(crate) struct Market<A> {
    /// Counts the processes.
    pub(crate) id: u32,
    pub(crate) state: State,
    /// Whether it runs and has not found itself fenced.
    pub(crate) up: bool,
    /// Until when it stands still: its machine is suspended, or cut off.
    pub(crate) still_until_us: u64,
    /// By how much its clock was moved.
    pub(crate) clock_ms: i64,
    /// Set when an event may have made work for somebody who waits.
    pub(crate) retry: bool,
    // Its timers.
    pub(crate) tick_us: Option<u64>,
    pub(crate) flushing: bool,
    pub(crate) judging: bool,
    pub(crate) rounding: bool,
    pub(crate) polling: bool,
    /// Rounds of tries in a row in which nobody found anything.
    pub(crate) vain_rounds: u32,
    wishes: BTreeMap<u64, Wish>,
    /// The last ticket of each provider.
    of_provider: BTreeMap<usize, u64>,
    kinds: BTreeMap<u64, BTreeSet<u64>>,
    later_from: u64,
    tickets: u64,
    pending: Vec<(u64, Event)>,
    answers: Vec<A>,
    /// Refusals that nothing explains, if this process leads.
    suspicions: Vec<String>,
}

impl<A> Market<A> {
    /// A process that has read the journal.
    pub(crate) fn with(state: State, id: u32, clock_ms: i64) -> Self {
        Self {
            id,
            state,
            up: true,
            still_until_us: 0,
            clock_ms,
            retry: false,
            tick_us: None,
            flushing: false,
            judging: false,
            rounding: false,
            polling: false,
            vain_rounds: 0,
            wishes: BTreeMap::new(),
            of_provider: BTreeMap::new(),
            kinds: BTreeMap::new(),
            later_from: 0,
            tickets: 0,
            pending: Vec::new(),
            answers: Vec::new(),
            suspicions: Vec::new(),
        }
    }

    /// The process's clock.
    pub(crate) fn now_ms(&self, at_us: u64) -> u64 {
        (EPOCH_MS + at_us / 1_000).saturating_add_signed(self.clock_ms)
    }

    pub(crate) fn decide(
        &mut self,
        at_us: u64,
        command: Command,
        record: &mut Record,
        observer: &mut dyn Observer,
    ) -> Result<Answer, Rejection> {
        let (now_ms, kind) = (self.now_ms(at_us), kind(&command));
        observer.deciding();
        let decision = engine::decide(&mut self.state, now_ms, command);
        let granted =
            matches!(&decision, Ok(Decision { answer: Answer::Leases(leases), .. }) if !leases.is_empty());
        observer.decided(if granted { "grant" } else { kind });
        record.decisions += 1;
        if record.decisions.is_multiple_of(record.check_every) {
            self.check(at_us, record);
        }
        match decision {
            Ok(decision) => {
                self.retry |= decision.events.iter().any(Event::may_make_work);
                self.pending.extend(decision.events.into_iter().map(|event| (now_ms, event)));
                Ok(decision.answer)
            }
            Err(rejection) => {
                *record.refusals.entry(refusal(&rejection)).or_default() += 1;
                if unexplained(&rejection) {
                    self.suspicions.push(format!("refused: {rejection}"));
                }
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
        !self.pending.is_empty() || !self.answers.is_empty() || !self.suspicions.is_empty()
    }

    /// Makes what is pending durable: its events and the answers that may now go out. Where another process has appended,
    /// this one steps down instead, and nobody hears of what it decided.
    pub(crate) fn flush(&mut self, record: &mut Record) -> Result<(Vec<Event>, Vec<A>), FencedGroup> {
        let group = std::mem::take(&mut self.pending);
        if record.append(self.state.seq() - group.len() as u64, &group).is_err() {
            let fenced = FencedGroup { events: group.len() as u64, answers: self.answers.len() as u64 };
            self.stop();
            return Err(fenced);
        }
        record.problems.append(&mut self.suspicions);
        Ok((group.into_iter().map(|(_, event)| event).collect(), std::mem::take(&mut self.answers)))
    }

    /// Checks the invariants.
    pub(crate) fn check(&self, at_us: u64, record: &mut Record) {
        record.invariant_checks += 1;
        record.problems.extend(violations(&self.state, self.now_ms(at_us)).iter().map(ToString::to_string));
    }

    /// Checks that the encoded journal and what is pending give the state. One that was fenced and does not know it yet may
    /// differ.
    pub(crate) fn check_replay(&self, record: &mut Record) {
        let seq = self.state.seq();
        if record.end != seq - self.pending.len() as u64 {
            return;
        }
        let Some(state) = record.replayed() else { return };
        let same = if self.pending.is_empty() {
            *state == self.state
        } else {
            let mut state = state.clone();
            for (at_ms, event) in &self.pending {
                state.evolve(*at_ms, event);
            }
            state == self.state
        };
        if !same {
            record.problems.push(format!("the journal's {seq} events give another state"));
        }
    }

    /// Goes down. Answers how many events were not yet durable; nobody was answered on them.
    pub(crate) fn crash(&mut self, at_us: u64, record: &mut Record) -> u64 {
        self.check(at_us, record);
        self.check_replay(record);
        let lost = self.pending.len() as u64;
        self.stop();
        lost
    }

    /// Forgets everything.
    fn stop(&mut self) {
        *self = Self { up: false, ..Self::with(State::default(), self.id, self.clock_ms) };
    }

    /// Lets a wish wait.
    pub(crate) fn park(&mut self, wish: Wish) {
        self.tickets += 1;
        self.kinds.entry(wish.kind).or_default().insert(self.tickets);
        self.of_provider.insert(wish.provider, self.tickets);
        self.wishes.insert(self.tickets, wish);
    }

    pub(crate) fn wish(&self, ticket: u64) -> Option<&Wish> {
        self.wishes.get(&ticket)
    }

    /// Takes a wish back, when it still waits.
    pub(crate) fn unpark(&mut self, ticket: u64) -> Option<Wish> {
        let wish = self.wishes.remove(&ticket)?;
        if self.of_provider.get(&wish.provider) == Some(&ticket) {
            self.of_provider.remove(&wish.provider);
        }
        if let Some(tickets) = self.kinds.get_mut(&wish.kind) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.kinds.remove(&wish.kind);
            }
        }
        Some(wish)
    }

    /// When the first one's wait is over: all wait equally long.
    pub(crate) fn poll_over_us(&self) -> Option<u64> {
        self.wishes.first_key_value().map(|(_, wish)| wish.until_us)
    }

    /// Takes out one whose wait is over.
    pub(crate) fn pop_over(&mut self, at_us: u64) -> Option<Wish> {
        let (ticket, wish) = self.wishes.first_key_value()?;
        if wish.until_us > at_us {
            return None;
        }
        self.unpark(*ticket)
    }

    /// The ticket of a provider, if it waits.
    pub(crate) fn ticket_of(&self, provider: usize) -> Option<u64> {
        self.of_provider.get(&provider).copied()
    }

    /// Of each kind of device, who has waited longest.
    pub(crate) fn firsts(&self) -> Vec<(u64, u64)> {
        self.kinds.iter().filter_map(|(kind, tickets)| Some((*tickets.first()?, *kind))).collect()
    }

    /// Who of a kind came after a ticket.
    pub(crate) fn next_of(&self, kind: u64, ticket: u64) -> Option<u64> {
        self.kinds.get(&kind)?.range(ticket + 1..).next().copied()
    }

    /// The next of those who were left for later.
    pub(crate) fn later(&mut self) -> Vec<u64> {
        let tickets: Vec<u64> =
            self.wishes.range(self.later_from..).take(LATER_MAX).map(|(ticket, _)| *ticket).collect();
        self.later_from = match tickets.last() {
            Some(last) if tickets.len() == LATER_MAX => last + 1,
            _ => 0,
        };
        tickets
    }
}

/// What a fenced process had decided for nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FencedGroup {
    pub(crate) events: u64,
    pub(crate) answers: u64,
}

fn kind(command: &Command) -> &'static str {
    match command {
        Command::Deposit { .. } => "deposit",
        Command::DelegateSession { .. } => "delegate",
        Command::Submit(_) => "submit",
        Command::Cancel { .. } => "cancel",
        Command::Pause { .. } => "pause",
        Command::ResumeJob { .. } => "resume_job",
        Command::Archive { .. } => "archive",
        Command::Announce { .. } => "announce",
        Command::Heartbeat { .. } => "heartbeat",
        Command::Leave { .. } => "leave",
        Command::RequestLeases { .. } => "lease",
        Command::Release { .. } => "release",
        Command::Commit { .. } => "commit",
        Command::AnchorChallenges { .. } => "anchor_challenges",
        Command::RecordOpinion { .. } => "opinion",
        Command::RecordUndecided { .. } => "undecided",
        Command::Bond { .. } => "bond",
        Command::Unbond { .. } => "unbond",
        Command::Rate { .. } => "rate",
        Command::Contest { .. } => "contest",
        Command::SetParams { .. } => "params",
        Command::GiveSealingKey { .. } => "sealing_key",
        Command::Reserve(_) => "reserve",
        Command::EndReservation { .. } => "end_reservation",
        Command::AdvanceTime => "time",
        Command::Resume => "resume",
    }
}

fn refusal(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::JobUnknown(_) => "job_unknown",
        Rejection::JobForeign(_) => "job_foreign",
        Rejection::JobEnded(_) => "job_ended",
        Rejection::JobArchived(_) => "job_archived",
        Rejection::JobNotArchivable(_) => "job_not_archivable",
        Rejection::JobNotIncomplete(_) => "job_not_incomplete",
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
        Rejection::StakeTooLow { .. } => "stake_too_low",
        Rejection::StakeInvalid(_) => "stake_invalid",
        Rejection::RatingInvalid(_) => "rating_invalid",
        Rejection::RatedBefore { .. } => "rated_before",
        Rejection::SealingKeyInvalid(_) => "sealing_key_invalid",
        Rejection::ProvidersTooFew(_) => "providers_too_few",
        Rejection::BookingsTooMany(_) => "bookings_too_many",
        Rejection::ReservationUnknown(_) => "reservation_unknown",
        Rejection::ReservationForeign(_) => "reservation_foreign",
        Rejection::VerdictUnknown(_) => "verdict_unknown",
        Rejection::VerdictForeign(_) => "verdict_foreign",
        Rejection::VerdictFinal(_) => "verdict_final",
        Rejection::ContestedBefore(_) => "contested_before",
        Rejection::DepositTooLow { .. } => "deposit_too_low",
        Rejection::NotTheMarket => "not_the_market",
        Rejection::ParamInvalid(_) => "param_invalid",
        Rejection::CheckNotPending(_) => "check_not_pending",
    }
}

/// Refusals that no fault explains. A lease that another attempt has now, a job that ended before its cancellation came, a
/// key that the crashed process still holds: these are what refusals are for.
fn unexplained(rejection: &Rejection) -> bool {
    !matches!(
        rejection,
        Rejection::JobEnded(_)
            | Rejection::WorkerKeyInUse { .. }
            | Rejection::WorkerUnknown
            | Rejection::LeaseExpired(_)
            | Rejection::CheckNotPending(_)
    )
}
