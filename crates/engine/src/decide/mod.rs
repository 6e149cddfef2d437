//! Deciding commands. One module a subject; every event goes through [`Deciding::emit`].

mod devices;
mod jobs;
mod leases;
mod market;
mod receipts;
mod replicas;
mod sealed;
mod settle;
mod verdicts;
mod workers;

use protocol::{Amount, Hash};

use crate::{Answer, Command, Decision, Event, Rejection, State};

/// Most money there can be, so that no sum of balances overflows.
const DEPOSITED_MAX: u64 = u64::MAX / 4;

/// Most leases or workers that one [`Command::AdvanceTime`] ends; what is left is due at once again.
const EXPIRIES_MAX: usize = 1_000;

/// Decides `command` at `now_ms` and folds the events it emits into `state`.
///
/// # Errors
///
/// A [`Rejection`]; the state is then unchanged.
pub fn decide(state: &mut State, now_ms: u64, command: Command) -> Result<Decision, Rejection> {
    let mut deciding = Deciding { state, now_ms, events: Vec::new() };
    let answer = deciding.decide(command);
    let events = deciding.events;
    match answer {
        Ok(answer) => Ok(Decision { events, answer }),
        Err(rejection) => {
            assert!(events.is_empty(), "a refusal changes nothing");
            Err(rejection)
        }
    }
}

/// One decision in the making.
struct Deciding<'a> {
    state: &'a mut State,
    now_ms: u64,
    events: Vec<Event>,
}

impl Deciding<'_> {
    fn emit(&mut self, event: Event) {
        self.state.evolve(self.now_ms, &event);
        self.events.push(event);
    }

    fn decide(&mut self, command: Command) -> Result<Answer, Rejection> {
        match command {
            Command::Deposit { account, amount, key } => self.deposit(account, amount, key),
            Command::DelegateSession { wallet, session, expires_at_ms } => {
                self.delegate_session(wallet, session, expires_at_ms)
            }
            Command::Submit(submission) => self.submit(*submission),
            Command::Cancel { job, by } => self.cancel(job, by),
            Command::Pause { job, by, paused } => self.pause(job, by, paused),
            Command::ResumeJob { job, by, deadline_ms } => self.resume_job(job, by, deadline_ms),
            Command::Archive { job, ended_at_ms, archive } => self.archive(job, ended_at_ms, archive),
            Command::Announce { worker, instance, device, version, offer } => {
                self.announce(worker, instance, device, version, offer)
            }
            Command::Heartbeat { worker, instance, leases } => self.heartbeat(worker, &instance, &leases),
            Command::Leave { worker, instance, drain } => self.leave(worker, &instance, drain),
            Command::RequestLeases { worker, instance, packages_max, others_only } => {
                self.request_leases(worker, &instance, packages_max, others_only)
            }
            Command::Release { worker, lease, generation, release } => {
                self.release(worker, lease, generation, release)
            }
            Command::Commit { receipt, signature, units, seed } => {
                self.commit(*receipt, signature, units, seed)
            }
            Command::AnchorChallenges { anchor, epoch_ms, epochs } => {
                assert!(epoch_ms > 0 && epochs > 0, "a chain has epochs that last");
                self.emit(Event::ChallengesAnchored { anchor, epoch_ms, epochs });
                Ok(Answer::Done)
            }
            Command::RecordOpinion { check, agrees, evidence } => {
                self.record_opinion(check, agrees, evidence)
            }
            Command::RecordUndecided { check, evidence } => self.record_undecided(check, evidence),
            Command::Bond { account, amount } => self.bond(account, amount),
            Command::Unbond { account, amount } => self.unbond(account, amount),
            Command::Rate { job, by, worker, stars } => self.rate(job, by, worker, stars),
            Command::Contest { verdict, by } => self.contest(verdict, by),
            Command::SetParams { by, changes } => self.set_params(by, &changes),
            Command::GiveSealingKey { worker, instance, signed } => {
                self.give_sealing_key(worker, &instance, signed)
            }
            Command::Reserve(request) => self.reserve(*request),
            Command::EndReservation { reservation, by } => self.end_reservation(reservation, by),
            Command::AdvanceTime => {
                self.settle_accounts();
                self.end_bookings();
                self.close_verdicts();
                self.advance_time();
                Ok(Answer::Done)
            }
            Command::Resume => {
                self.emit(Event::Resumed);
                Ok(Answer::Done)
            }
        }
    }

    fn deposit(
        &mut self,
        account: protocol::PublicKey,
        amount: Amount,
        key: Option<Hash>,
    ) -> Result<Answer, Rejection> {
        if let Some(first) = key.and_then(|key| self.state.idempotency.get(&key)) {
            let same = first.request == Hash::of(&amount.0.to_le_bytes()) && first.job.is_none();
            return if same { Ok(Answer::Done) } else { Err(Rejection::IdempotencyConflict) };
        }
        let total = self.state.ledger.deposited.checked_add(amount);
        if total.is_none_or(|total| total.0 > DEPOSITED_MAX) {
            return Err(Rejection::AmountTooLarge);
        }
        // What is sent to a session key is its wallet's: the key itself could never spend it.
        let account = self.state.sessions.get(&account).map_or(account, |session| session.wallet);
        self.emit(Event::Deposited { account, amount, key });
        Ok(Answer::Done)
    }
}
