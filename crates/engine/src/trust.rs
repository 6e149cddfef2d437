//! Adaptive trust: how often a worker's units are executed again.
//!
//! A unit of a committed package is drawn with the greatest of these probabilities:
//!
//! - 1, until the worker *and* its owner have `trust_after_packages` valid packages in a row (BOINC's adaptive replication: 10);
//!   then 1/n, n being the shorter of the two rows;
//! - the job's `rate_min`, and the market's `audit_rate_floor_ppm`;
//! - the *economic floor* below.
//!
//! Whatever is suspicious (a rejected package, a check that was outvoted) begins both rows anew, those of all workers of the
//! owner. The record is the owner's, so a further key of theirs begins its own row and shares the owner's; a new owner has none, and
//! is checked always. Nothing about trust changes what a verdict needs: it only says how often somebody looks.
//!
//! # The economic floor
//!
//! Who does not compute a unit gains at most its price `u`, when nobody looks; who is found out loses `S`, and is not paid. With
//! a probability `p` that somebody looks, cheating in one unit is worth `(1 − p) · u − p · S`, which is below nothing where
//!
//! `p > u / (u + S)`
//!
//! Several units at once do not help: `m` of them go unseen with `(1 − p)^m < (S / (u + S))^m`, and then gain `m · u`. That is worth
//! less than nothing because `(1 + u / S)^m ≥ 1 + m · u / S` (Bernoulli). Nor do several packages: each verdict takes its own `S`.
//!
//! `S` is what [`State::slash_of`] takes: `slash_bps` of all that the owner has at risk (stake, stake on its way back, and pay that
//! is still held back), or `slash_packages` times the package's value if that is more, and never more than there is. Who has nothing
//! at risk is therefore checked always. The rate is in whole parts per million, and rounded up so that it is above the bound.
//!
//! Between the draw and the verdict an owner may be paid what was held back, but never more than the `appeal_ms` before the draw
//! earned; its stake cannot get away, because `unbond_ms` is longer than any check takes.

use protocol::{Amount, PublicKey};

use crate::{
    State,
    ratio::{PPM, clip, scale},
};

/// How often a worker's units are executed again, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditTerms {
    /// Valid packages in a row of the worker, since the last suspicion against its owner.
    pub worker_streak: u32,
    /// The same of all workers of its owner together.
    pub owner_streak: u32,
    /// The rate that the rows alone ask for.
    pub record_ppm: u32,
    /// The market's floor.
    pub floor_ppm: u32,
    /// The economic floor.
    pub economic_ppm: u32,
    /// What the owner would lose.
    pub loss: Amount,
}

impl AuditTerms {
    /// The rate, for a job that wants at least `rate_min_ppm`.
    pub fn rate_ppm(&self, rate_min_ppm: u32) -> u32 {
        let rate = self.record_ppm.max(self.floor_ppm).max(self.economic_ppm).max(rate_min_ppm);
        rate.min(PPM as u32)
    }
}

/// The least rate above `u / (u + S)`, in parts per million: 1 where nothing is lost, 0 where nothing is gained.
pub fn economic_floor_ppm(unit_price: Amount, loss: Amount) -> u32 {
    if unit_price == Amount::ZERO {
        return 0;
    }
    let both = u128::from(unit_price.0) + u128::from(loss.0);
    let floor = u128::from(unit_price.0) * u128::from(PPM) / both + 1;
    clip(floor).min(PPM) as u32
}

impl State {
    /// What an owner's verdicts can take from: stake, stake on its way back, and pay that is held back.
    pub fn at_risk(&self, owner: PublicKey) -> Amount {
        let account = self.accounts.get(&owner).copied().unwrap_or_default();
        Amount(account.bonded.0 + account.unbonding.0 + account.pending.0)
    }

    /// What a verdict on a package of this value takes from its owner.
    pub fn slash_of(&self, owner: PublicKey, value: Amount) -> Amount {
        let at_risk = self.at_risk(owner);
        let share = scale(at_risk.0, self.params.slash_bps.into(), 10_000);
        let least = value.0.saturating_mul(self.params.slash_packages.into());
        Amount(share.max(least).min(at_risk.0))
    }

    /// A worker's valid packages in a row, since the last suspicion against its owner.
    pub fn streak(&self, worker: PublicKey) -> u32 {
        let Some(worker) = self.workers.get(&worker) else { return 0 };
        let suspicions = self.owners.get(&worker.owner).map_or(0, |owner| owner.suspicions);
        if worker.suspicions == suspicions { worker.streak } else { 0 }
    }

    /// How often units of this price would be executed again that a worker committed in a package of `units`.
    pub fn audit_terms(&self, worker: PublicKey, unit_price: Amount, units: u64) -> AuditTerms {
        let owner = self.workers.get(&worker).map_or(worker, |worker| worker.owner);
        let worker_streak = self.streak(worker);
        let owner_streak = self.owners.get(&owner).map_or(0, |owner| owner.streak);
        let streak = worker_streak.min(owner_streak);
        let known = streak >= self.params.trust_after_packages;
        let record_ppm = if known { PPM as u32 / streak.max(1) } else { PPM as u32 };
        let loss = self.slash_of(owner, Amount(unit_price.0.saturating_mul(units)));
        AuditTerms {
            worker_streak,
            owner_streak,
            record_ppm,
            floor_ppm: self.params.audit_rate_floor_ppm,
            economic_ppm: economic_floor_ppm(unit_price, loss),
            loss,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_floor_is_the_least_rate_at_which_cheating_does_not_pay() {
        let check =
            |price, loss, expected| assert_eq!(economic_floor_ppm(Amount(price), Amount(loss)), expected);
        check(0, 0, 0);
        check(1, 0, 1_000_000);
        check(1, 1, 500_001);
        check(1, 99, 10_001);
        check(1, 999_999, 2);
        check(1, u64::MAX, 1);
        check(u64::MAX, u64::MAX, 500_001);
    }

    proptest! {
        #[test]
        fn cheating_in_any_number_of_units_is_worth_less_than_nothing(
            price in 1u64..1_000_000,
            loss in 1u64..1_000_000_000_000,
            units in 1u32..64,
        ) {
            let p = f64::from(economic_floor_ppm(Amount(price), Amount(loss))) / 1e6;
            let (unseen, gain) = ((1.0 - p).powi(units as i32), price as f64 * f64::from(units));
            let worth = unseen * gain - (1.0 - unseen) * loss as f64;
            prop_assert!(p >= 1.0 || worth < 0.0, "{worth} at {p}");
        }
    }
}
