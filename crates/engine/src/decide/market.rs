//! Stake, ratings, rewards and parameters.

use protocol::{Amount, JobId, PublicKey};

use super::Deciding;
use crate::{Answer, Event, Rejection, stake::UNBONDING_MAX};

/// Accounts and epochs that one passage of time settles; what is left is due at once again.
const SETTLED_MAX: usize = 1_000;

impl Deciding<'_> {
    pub(super) fn bond(&mut self, account: PublicKey, amount: Amount) -> Result<Answer, Rejection> {
        if amount == Amount::ZERO {
            return Err(Rejection::StakeInvalid("nothing cannot be bonded"));
        }
        let available = self.state.accounts.get(&account).copied().unwrap_or_default().available;
        if amount > available {
            return Err(Rejection::StakeTooLow { wanted: amount, available });
        }
        self.emit(Event::Bonded { account, amount });
        Ok(Answer::Done)
    }

    pub(super) fn unbond(&mut self, account: PublicKey, amount: Amount) -> Result<Answer, Rejection> {
        if amount == Amount::ZERO {
            return Err(Rejection::StakeInvalid("nothing cannot be unbonded"));
        }
        let known = self.state.accounts.get(&account).copied().unwrap_or_default();
        if amount > known.bonded {
            return Err(Rejection::StakeTooLow { wanted: amount, available: known.bonded });
        }
        if known.unbondings >= UNBONDING_MAX {
            return Err(Rejection::StakeInvalid("32 wishes to unbond are under way; wait for one of them"));
        }
        let mut free_at_ms = self.now_ms.saturating_add(self.state.params.unbond_ms);
        // One wish a millisecond: each has its own place.
        while self.state.unbonding.contains_key(&(free_at_ms, account)) {
            free_at_ms += 1;
        }
        self.emit(Event::Unbonding { account, amount, free_at_ms });
        Ok(Answer::Done)
    }

    pub(super) fn rate(
        &mut self,
        id: JobId,
        by: PublicKey,
        worker: PublicKey,
        stars: u8,
    ) -> Result<Answer, Rejection> {
        let job = self.own_job(id, by)?;
        // Its archive may be written at this moment.
        if job.archivable_from_ms(&self.state.params).is_some_and(|from| from <= self.now_ms) {
            return Err(Rejection::JobArchived(id));
        }
        if !(1..=5).contains(&stars) {
            return Err(Rejection::RatingInvalid("a rating is 1 to 5 stars"));
        }
        let part = job.workers.get(&worker).filter(|part| part.units > 0);
        let part =
            part.ok_or(Rejection::RatingInvalid("the worker has computed nothing that counts for this job"))?;
        if part.stars.is_some() {
            return Err(Rejection::RatedBefore { job: id, worker });
        }
        if self.state.workers[&worker].owner == by {
            return Err(Rejection::RatingInvalid("nobody rates their own worker"));
        }
        self.emit(Event::WorkerRated { job: id, worker, stars });
        Ok(Answer::Done)
    }

    pub(super) fn set_params(
        &mut self,
        by: PublicKey,
        changes: &[(String, u64)],
    ) -> Result<Answer, Rejection> {
        if by != self.state.market() {
            return Err(Rejection::NotTheMarket);
        }
        let params = self.state.params.with(changes)?;
        if params != self.state.params {
            self.emit(Event::ParamsSet { params });
        }
        Ok(Answer::Done)
    }

    /// Frees stake whose delay is over and pay that was held back for long enough, and closes the epoch that ended.
    pub(super) fn settle_accounts(&mut self) {
        for _ in 0..SETTLED_MAX {
            let due = self.state.unbonding.first_key_value();
            let Some(((free_at_ms, account), amount)) = due.filter(|((at, _), _)| *at <= self.now_ms) else {
                break;
            };
            let (free_at_ms, account, amount) = (*free_at_ms, *account, *amount);
            self.emit(Event::Unbonded { account, amount, free_at_ms });
        }
        for _ in 0..SETTLED_MAX {
            let due = self.state.pending.first_key_value();
            let Some(((free_at_ms, account), amount)) = due.filter(|((at, _), _)| *at <= self.now_ms) else {
                break;
            };
            let (free_at_ms, account, amount) = (*free_at_ms, *account, *amount);
            self.emit(Event::PayReleased { account, amount, free_at_ms });
        }
        if self.state.epoch_ends_ms().is_some_and(|at| at <= self.now_ms) {
            let epoch = self.state.epoch.number.expect("it ended");
            self.emit(Event::EpochClosed { epoch, shares: self.state.epoch_shares() });
        }
    }

    /// Says so once a worker is found to claim much more than was measured.
    pub(super) fn refute_claim(&mut self, worker: PublicKey) {
        let speed = &self.state.workers[&worker].speed;
        if let Some(measured_ppm) = speed.measured_ppm
            && !speed.overstated
            && speed.is_refuted(&self.state.params)
        {
            let claimed_ppm = speed.claimed_ppm;
            self.emit(Event::ClaimRefuted { worker, claimed_ppm, measured_ppm });
        }
    }
}
