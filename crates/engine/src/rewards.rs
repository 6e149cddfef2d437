//! New tokens for those who compute.
//!
//! Time is cut into epochs of `epoch_ms` from the founding on. What an owner's workers did in an epoch is weighed:
//!
//! `weight = compute · role · (1 + min(1, log2(1 + s / 1000) / 10))`
//!
//! - `compute` is the reference time of accepted units, as far as it was paid for with `base_price` at least: who has worthless
//!   work done by machines of its own would otherwise draw rewards for what costs nothing. Units executed again count like
//!   others when the check is paid.
//! - `role` is `role_worker_ppm` for first execution, `role_validator_ppm` for executing again. (`role_driver_ppm` is for those who
//!   lead a swarm; nothing counts as that yet.)
//! - `s` is what the owner has bonded when the epoch closes, in tokens.
//!
//! The epoch `n` emits `epoch_emission / 2^(n / halving_epochs)` base units, rounded down, but no more than `emission_fees_ppm` of the
//! fees that its work was charged: who is client and worker in one would otherwise earn more by paying itself than the fees take.
//! It divides them by weight: each share
//! is rounded down, and the base units that are left go one each to the largest remainders (of equal ones, the lower key), so that
//! the shares sum to the emission exactly. At most `epoch_shares_max` owners are paid, those with the greatest weight; the others'
//! weights are carried to the next epoch. An epoch in which nobody computed emits nothing.

use borsh::{BorshDeserialize, BorshSerialize};
use std::{cmp::Reverse, collections::BTreeMap};

use protocol::{Amount, PublicKey};

use crate::{
    Params, State,
    ratio::{PPM, clip, scale},
    stake::multiplier_ppm,
};

/// More than any owner computes in an epoch, in reference nanoseconds; keeps products within 128 bits.
const WEIGHT_MAX: u128 = 1 << 80;

/// What is done in the present epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Epoch {
    /// Its number, since something was done in it.
    pub number: Option<u64>,
    /// Reference nanoseconds of each owner, weighed by role.
    pub weights: BTreeMap<PublicKey, u128>,
    /// What of the payments for them went to the treasury and was burned.
    pub fees: Amount,
}

/// What one role's work counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Worker,
    Validator,
}

/// What the epoch with this number emits.
pub fn emission(epoch: u64, params: &Params) -> Amount {
    let halvings = u32::try_from(epoch / params.halving_epochs).unwrap_or(u32::MAX);
    Amount(params.epoch_emission.checked_shr(halvings).unwrap_or(0))
}

/// Divides `total` by weight, exactly. Nothing for no weight at all.
pub fn divide(total: Amount, weights: &[(PublicKey, u128)]) -> Vec<(PublicKey, Amount)> {
    let sum: u128 = weights.iter().map(|(_, weight)| weight).sum();
    if sum == 0 {
        return Vec::new();
    }
    let product = |weight: u128| u128::from(total.0) * weight;
    let mut shares: Vec<_> =
        weights.iter().map(|(key, weight)| (*key, Amount(clip(product(*weight) / sum)))).collect();
    let left = total.0 - shares.iter().map(|(_, share)| share.0).sum::<u64>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|i| (Reverse(product(weights[*i].1) % sum), weights[*i].0));
    for i in order.into_iter().take(left as usize) {
        shares[i].1.0 += 1;
    }
    shares
}

impl State {
    /// The epoch of a time.
    pub(crate) fn epoch_at(&self, at_ms: u64) -> u64 {
        at_ms.saturating_sub(self.founded_ms) / self.params.epoch_ms
    }

    /// When the present epoch closes, if something was done in it.
    pub(crate) fn epoch_ends_ms(&self) -> Option<u64> {
        let number = self.epoch.number?;
        Some(self.founded_ms + (number + 1) * self.params.epoch_ms)
    }

    /// Counts paid work for the present epoch.
    pub(crate) fn count_work(
        &mut self,
        owner: PublicKey,
        role: Role,
        work_ns: u128,
        pay: Amount,
        at_ms: u64,
    ) {
        let paid_ns = u128::from(pay.0) * 1_000_000_000 / u128::from(self.params.base_price);
        let role_ppm = match role {
            Role::Worker => self.params.role_worker_ppm,
            Role::Validator => self.params.role_validator_ppm,
        };
        let weight = work_ns.min(paid_ns).min(WEIGHT_MAX / 100) * u128::from(role_ppm) / u128::from(PPM);
        if weight == 0 || self.params.epoch_emission == 0 {
            return;
        }
        let number = self.epoch_at(at_ms);
        self.epoch.number.get_or_insert(number);
        let (treasury, burn) = (pay.share_bps(self.params.treasury_bps), pay.share_bps(self.params.burn_bps));
        self.epoch.fees.0 += treasury.0 + burn.0;
        let sum = self.epoch.weights.entry(owner).or_default();
        *sum = (*sum + weight).min(WEIGHT_MAX);
    }

    /// What closing the present epoch gives to whom.
    pub(crate) fn epoch_shares(&self) -> Vec<(PublicKey, Amount)> {
        let Some(number) = self.epoch.number else { return Vec::new() };
        let weigh = |(owner, weight): (&PublicKey, &u128)| {
            let staked = weight * u128::from(multiplier_ppm(self.bonded(*owner))) / u128::from(PPM);
            (*owner, staked)
        };
        let mut weights: Vec<_> = self.epoch.weights.iter().map(weigh).collect();
        weights.sort_by_key(|(owner, weight)| (Reverse(*weight), *owner));
        weights.truncate(self.params.epoch_shares_max as usize);
        let of_fees = scale(self.epoch.fees.0, self.params.emission_fees_ppm.into(), PPM);
        divide(emission(number, &self.params).min(Amount(of_fees)), &weights)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_emission_halves() {
        let params = Params::default();
        let years = |n: u64| emission(n * params.halving_epochs, &params).0;
        assert_eq!([0, 1, 2].map(years), [10_000_000_000, 5_000_000_000, 2_500_000_000]);
        assert_eq!((years(33), years(34), years(1_000)), (1, 0, 0));
    }

    #[test]
    fn what_is_left_goes_to_the_largest_remainders() {
        let key = |n: u8| PublicKey([n; 32]);
        let shares = divide(Amount(10), &[(key(1), 1), (key(2), 1), (key(3), 1)]);
        assert_eq!(shares, [(key(1), Amount(4)), (key(2), Amount(3)), (key(3), Amount(3))]);
        let shares = divide(Amount(10), &[(key(1), 10), (key(2), 14), (key(3), 1)]);
        assert_eq!(shares, [(key(1), Amount(4)), (key(2), Amount(6)), (key(3), Amount(0))]);
        assert_eq!(divide(Amount(10), &[(key(1), 0)]), []);
    }

    proptest! {
        #[test]
        fn shares_sum_to_the_whole_and_are_within_one_of_their_part(
            total in 0..1_000_000_000_000u64,
            weights in prop::collection::vec(0..WEIGHT_MAX, 1..60),
        ) {
            let weights: Vec<_> = (0u8..).zip(weights).map(|(n, weight)| (PublicKey([n; 32]), weight)).collect();
            let sum: u128 = weights.iter().map(|(_, weight)| weight).sum();
            let shares = divide(Amount(total), &weights);
            if sum > 0 {
                prop_assert_eq!(shares.iter().map(|(_, share)| share.0).sum::<u64>(), total);
            }
            for ((_, share), (_, weight)) in shares.iter().zip(&weights) {
                let exact = u128::from(total) * weight / sum;
                prop_assert!((exact..=exact + 1).contains(&u128::from(share.0)));
            }
        }
    }
}
