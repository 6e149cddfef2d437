//! What a provider's word is worth: `NRS = 0.4 · Performance + 0.3 · Reliability + 0.2 · Longevity + 0.1 · PeerRating`, each
//! 0..100, counted in thousandths of a point.
//!
//! It belongs to the *owner*, who is paid and holds the stake: workers' keys come and go with browser tabs, and a second key
//! would otherwise be a clean slate.
//!
//! - `Performance` is a moving average (1/16 for each accepted package) of how fast the package was done against what the worker
//!   claims: `min(1, measured / claimed)`; a worker that claims nothing performs as it claims. 0 as long as one of the owner's
//!   workers online claims much more than was measured.
//! - `Reliability` is the same average of whether a lease ended in an accepted package. Expired, failed and rejected ones count
//!   as 0; what was given back untried, preempted or no longer needed does not count.
//! - `Longevity` is the number of days on which a package of the owner was accepted, over `longevity_days`.
//! - `PeerRating` is `25 · (stars − 1)` of the mean of all ratings and five of three stars that everybody begins with.
//!
//! Performance and reliability begin at 50, so a newcomer has 40. Tier 0 is everybody's; tiers 1 to 3 need a score *and* a stake.
//! The tier sets how much of an ask counts in the base price, and who of several waiting workers is served first. The value of
//! the units that a provider may hold grows with its stake alone.

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{Amount, PublicKey};

use crate::{
    Params, State,
    ratio::{PPM, scale},
};

/// A point.
const POINT: u32 = 1_000;
/// The best there is.
pub const NRS_MAX_MILLI: u32 = 100 * POINT;
/// What performance and reliability begin with.
const BEGIN_MILLI: u32 = 50 * POINT;
/// Observations after which an average has mostly forgotten what was before.
const MEMORY: u32 = 16;
/// Ratings that everybody begins with, and their stars.
const PRIOR: (u64, u64) = (5, 15);
const DAY_MS: u64 = 86_400_000;

/// What is known of an owner of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Provider {
    /// Average speed against claims.
    pub performance_milli: u32,
    /// Average of leases that ended well.
    pub reliability_milli: u32,
    /// Days with accepted work.
    pub days: u32,
    /// The last of them, counted from the Unix epoch.
    pub(crate) last_day: u64,
    /// Ratings by clients.
    pub ratings: u32,
    /// Their stars together.
    pub stars: u64,
    /// Workers online that claim much more than was measured.
    pub overstating: u32,
    /// Value of the units its workers hold.
    pub held: Amount,
    /// Valid packages of all its workers in a row.
    pub streak: u32,
    /// How often something about it was suspicious: each time all its workers' records began anew.
    pub suspicions: u32,
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            performance_milli: BEGIN_MILLI,
            reliability_milli: BEGIN_MILLI,
            days: 0,
            last_day: 0,
            ratings: 0,
            stars: 0,
            overstating: 0,
            held: Amount::ZERO,
            streak: 0,
            suspicions: 0,
        }
    }
}

/// The terms of a reputation, in thousandths of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reputation {
    /// Speed against claims.
    pub performance_milli: u32,
    /// Leases that ended well.
    pub reliability_milli: u32,
    /// Days with accepted work.
    pub longevity_milli: u32,
    /// Clients' stars.
    pub rating_milli: u32,
    /// The weighted sum.
    pub nrs_milli: u32,
    /// 0 to 3.
    pub tier: u8,
}

/// Moves an average towards an observation; rounds towards it, so that it gets there.
fn moved(average: u32, observed: u32) -> u32 {
    let step = average.abs_diff(observed).div_ceil(MEMORY);
    if observed > average { average + step } else { average - step }
}

impl Provider {
    /// A package was accepted that was done at `pace_ppm` of the speed claimed.
    pub(crate) fn accepted(&mut self, pace_ppm: u64, at_ms: u64) {
        let pace = scale(NRS_MAX_MILLI.into(), pace_ppm.min(PPM), PPM);
        self.performance_milli = moved(self.performance_milli, pace as u32);
        self.reliability_milli = moved(self.reliability_milli, NRS_MAX_MILLI);
        let day = at_ms / DAY_MS + 1;
        if day > self.last_day {
            (self.last_day, self.days) = (day, self.days.saturating_add(1));
        }
    }

    /// Something is suspicious: this owner's record, and that of every worker of theirs, begins anew.
    pub(crate) fn suspected(&mut self) {
        self.streak = 0;
        self.suspicions = self.suspicions.wrapping_add(1);
    }

    /// A lease ended badly.
    pub(crate) fn failed(&mut self) {
        self.reliability_milli = moved(self.reliability_milli, 0);
    }

    /// The terms, for a provider with this stake.
    pub fn reputation(&self, bonded: Amount, params: &Params) -> Reputation {
        let performance_milli = if self.overstating > 0 { 0 } else { self.performance_milli };
        let longevity = scale(
            NRS_MAX_MILLI.into(),
            self.days.min(params.longevity_days).into(),
            params.longevity_days.into(),
        );
        let (count, stars) = (u64::from(self.ratings) + PRIOR.0, self.stars + PRIOR.1);
        let rating = scale(u64::from(NRS_MAX_MILLI) / 4, stars - count, count);
        let weighted = |weight: u32, term: u64| u64::from(weight) * term;
        let sum = weighted(params.nrs_performance_ppm, performance_milli.into())
            + weighted(params.nrs_reliability_ppm, self.reliability_milli.into())
            + weighted(params.nrs_longevity_ppm, longevity)
            + weighted(params.nrs_rating_ppm, rating);
        let nrs_milli = (sum / PPM) as u32;
        let reached = |nrs: u32, stake: u64| nrs_milli >= nrs && bonded.0 >= stake;
        let tier = if reached(params.tier_3_nrs_milli, params.tier_3_stake) {
            3
        } else if reached(params.tier_2_nrs_milli, params.tier_2_stake) {
            2
        } else {
            u8::from(reached(params.tier_1_nrs_milli, params.tier_1_stake))
        };
        Reputation {
            performance_milli,
            reliability_milli: self.reliability_milli,
            longevity_milli: longevity as u32,
            rating_milli: rating as u32,
            nrs_milli,
            tier,
        }
    }
}

/// The most that an ask of this tier counts for in the base price.
pub(crate) fn ask_max(tier: u8, params: &Params) -> Amount {
    let multiple = match tier {
        0 => params.tier_0_ask_max_ppm,
        1 => params.tier_1_ask_max_ppm,
        2 => params.tier_2_ask_max_ppm,
        _ => params.tier_3_ask_max_ppm,
    };
    Amount(scale(params.base_price, multiple.into(), PPM))
}

impl State {
    /// What is known of an owner of workers; a stranger's record where nothing is.
    pub fn provider(&self, owner: PublicKey) -> Provider {
        self.owners.get(&owner).copied().unwrap_or_default()
    }

    /// An owner's reputation.
    pub fn reputation(&self, owner: PublicKey) -> Reputation {
        self.provider(owner).reputation(self.bonded(owner), &self.params)
    }

    /// The tier in which a waiting worker is served, the highest first. Within a tier whoever waits longest is: the score itself
    /// would let two providers of one tier serve each other out for ever by a thousandth of a point.
    pub fn service_tier(&self, worker: PublicKey) -> u8 {
        let owner = self.workers.get(&worker).map_or(worker, |worker| worker.owner);
        self.reputation(owner).tier
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_has_forty_points_and_the_first_tier() {
        let found = Provider::default().reputation(Amount::ZERO, &Params::default());
        assert_eq!((found.nrs_milli, found.tier), (40_000, 0));
        assert_eq!((found.rating_milli, found.longevity_milli), (50_000, 0));
    }

    #[test]
    fn a_tier_needs_a_score_and_a_stake() {
        let params = Params::default();
        let mut provider = Provider::default();
        for day in 0..200 {
            provider.accepted(PPM, day * DAY_MS);
        }
        (provider.ratings, provider.stars) = (95, 5 * 95);
        let tier = |stake| provider.reputation(Amount(stake), &params).tier;
        let found = provider.reputation(Amount::ZERO, &params);
        assert_eq!(found.performance_milli, NRS_MAX_MILLI);
        assert_eq!((found.longevity_milli, found.rating_milli), (NRS_MAX_MILLI, 97_500));
        assert_eq!(found.nrs_milli, 99_750);
        assert_eq!(
            [0, params.tier_1_stake, params.tier_2_stake, params.tier_3_stake].map(tier),
            [0, 1, 2, 3]
        );
        provider.overstating = 1;
        assert_eq!(provider.reputation(Amount::ZERO, &params).performance_milli, 0);
    }

    #[test]
    fn averages_reach_what_they_move_to() {
        let mut provider = Provider::default();
        for _ in 0..1_000 {
            provider.failed();
        }
        assert_eq!(provider.reliability_milli, 0);
        for _ in 0..1_000 {
            provider.accepted(PPM / 2, 0);
        }
        assert_eq!(
            (provider.reliability_milli, provider.performance_milli, provider.days),
            (100_000, 50_000, 1)
        );
    }
}
