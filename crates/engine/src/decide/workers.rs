//! Session keys, announcements, heartbeats, leaving, and the passage of time.

use protocol::{DeviceFacts, LeaseId, PublicKey, WorkerOffer};

use super::{Deciding, EXPIRIES_MAX};
use crate::{Answer, EndCause, Event, LeaveCause, Rejection, Worker};

/// Longest life of a session key.
const SESSION_MS_MAX: u64 = 30 * 24 * 3_600 * 1_000;

impl Deciding<'_> {
    pub(super) fn delegate_session(
        &mut self,
        wallet: PublicKey,
        session: PublicKey,
        expires_at_ms: u64,
    ) -> Result<Answer, Rejection> {
        let invalid = |why| Err(Rejection::SessionInvalid(why));
        let known = self.state.sessions.get(&session);
        // Everybody sees the key of a worker that is its own wallet; what it earns must not be led elsewhere by a stranger.
        let own_wallet = self.state.workers.get(&session).is_some_and(|worker| worker.owner == session)
            || self.state.accounts.contains_key(&session);
        if session == wallet || known.is_none() && own_wallet {
            return invalid("a wallet cannot be a session key");
        }
        if self.state.sessions.contains_key(&wallet) {
            return invalid("a session key cannot delegate further");
        }
        if expires_at_ms <= self.now_ms || expires_at_ms - self.now_ms > SESSION_MS_MAX {
            return invalid("a session lasts at most 30 days");
        }
        if known.is_some_and(|known| known.wallet != wallet) {
            return invalid("the session key belongs to another wallet");
        }
        self.emit(Event::SessionDelegated { wallet, session, expires_at_ms });
        Ok(Answer::Done)
    }

    pub(super) fn announce(
        &mut self,
        worker: PublicKey,
        instance: String,
        device: DeviceFacts,
        version: String,
        offer: WorkerOffer,
    ) -> Result<Answer, Rejection> {
        let owner = self
            .state
            .wallet_of(worker, self.now_ms)
            .ok_or(Rejection::SessionInvalid("the session key has ended; delegate a new one"))?;
        match self.state.workers.get(&worker) {
            Some(known) if known.gone.is_none() && known.instance != instance => {
                let silent_ms = self.now_ms.saturating_sub(known.seen_at_ms);
                if silent_ms < self.state.params.heartbeat_ms_max {
                    return Err(self.key_in_use(known));
                }
                self.lose_worker(worker, LeaveCause::Silent);
            }
            // The same process asks again because it missed the answer.
            Some(known)
                if known.gone.is_none()
                    && known.device == device
                    && known.offer == offer
                    && known.owner == owner
                    && !known.draining =>
            {
                return Ok(Answer::Done);
            }
            _ => {}
        }
        self.emit(Event::WorkerAnnounced { worker, owner, instance, device, version, offer });
        Ok(Answer::Done)
    }

    fn key_in_use(&self, known: &Worker) -> Rejection {
        let seen_ms_ago = self.now_ms.saturating_sub(known.seen_at_ms);
        let free_after_ms = self.state.params.heartbeat_ms_max.saturating_sub(seen_ms_ago);
        Rejection::WorkerKeyInUse { seen_ms_ago, free_after_ms }
    }

    /// The live worker with this key and instance.
    pub(super) fn live_worker(&self, worker: PublicKey, instance: &str) -> Result<&Worker, Rejection> {
        let known = self.state.workers.get(&worker).filter(|w| w.gone.is_none());
        let known = known.ok_or(Rejection::WorkerUnknown)?;
        if known.instance == instance { Ok(known) } else { Err(self.key_in_use(known)) }
    }

    pub(super) fn heartbeat(
        &mut self,
        worker: PublicKey,
        instance: &str,
        leases: &[LeaseId],
    ) -> Result<Answer, Rejection> {
        let held = &self.live_worker(worker, instance)?.leases;
        let (renewed, lost) = leases.iter().partition(|lease| held.contains(lease));
        let asked = |lease: &LeaseId| self.state.leases[lease].yields_to.is_some();
        let yields = held.iter().copied().filter(asked).collect();
        self.emit(Event::WorkerSeen { worker, renewed });
        Ok(Answer::Heard { lost, yields })
    }

    pub(super) fn leave(
        &mut self,
        worker: PublicKey,
        instance: &str,
        drain: bool,
    ) -> Result<Answer, Rejection> {
        let known = self.live_worker(worker, instance)?;
        if drain && !known.leases.is_empty() {
            self.emit(Event::WorkerDraining { worker });
        } else {
            self.lose_worker(worker, LeaveCause::Left);
        }
        Ok(Answer::Done)
    }

    /// Ends a worker's leases, then the worker.
    fn lose_worker(&mut self, worker: PublicKey, cause: LeaveCause) {
        let leases: Vec<_> = self.state.workers[&worker].leases.iter().copied().collect();
        for lease in leases {
            // The end of one may have settled a package and ended another.
            if self.state.leases.contains_key(&lease) {
                self.end_lease(lease, cause.lease_end());
            }
        }
        self.emit(Event::WorkerLeft { worker, cause });
    }

    /// Ends a lease and whatever follows from the failed attempt.
    pub(super) fn end_lease(&mut self, lease: LeaseId, cause: EndCause) {
        let (job, work) = (self.state.leases[&lease].job, self.state.leases[&lease].work);
        if let Some(replica) = self.stand_in(work) {
            self.pass_on(lease, cause, replica);
            self.finish_job(job);
            return;
        }
        self.emit(Event::LeaseEnded { lease, cause });
        match work {
            crate::Work::Check { check } => self.give_up_check(check),
            crate::Work::Package { run, .. } => self.park_hopeless(job, run.first),
        }
        self.finish_job(job);
    }

    pub(super) fn advance_time(&mut self) {
        let now = self.now_ms;
        let silent_since = now.checked_sub(self.state.params.heartbeat_ms_max);
        for _ in 0..EXPIRIES_MAX {
            // A worker's silence first: it ends all its leases at once.
            let silent = self
                .state
                .heard
                .first()
                .filter(|(seen, _)| silent_since.is_some_and(|since| *seen <= since))
                .map(|(_, worker)| *worker);
            if let Some(worker) = silent {
                self.lose_worker(worker, LeaveCause::Silent);
                continue;
            }
            let overdue = self.state.job_deadlines.first().filter(|(at, _)| *at <= now).map(|(_, job)| *job);
            if let Some(job) = overdue {
                self.emit(Event::JobOverdue { job });
                self.finish_job(job);
                continue;
            }
            let expired = self.state.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, lease)| *lease);
            match expired {
                Some(lease) if self.state.leases[&lease].yields_to.is_some() => {
                    self.end_lease(lease, EndCause::Preempted);
                }
                Some(lease) => self.end_lease(lease, EndCause::Expired),
                None => break,
            }
        }
        self.preempt();
    }
}
