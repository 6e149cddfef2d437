//! Stake: tokens that an account sets aside.
//!
//! A client's stake raises its jobs' score, a provider's its tier, its share of rewards and the value of the units it may hold.
//! What is unbonded stays where it is for `unbond_ms` and counts for nothing meanwhile, so that nobody lends the same tokens to
//! one purpose after the other.

use protocol::{Amount, PublicKey};

use crate::{Params, State, ratio::PPM, score::stake_ppm};

/// Wishes to unbond of one account that may be under way.
pub(crate) const UNBONDING_MAX: u32 = 32;

/// Tokens on their way back: when they are free, and whose they are.
pub(crate) type Unbonding = (u64, PublicKey);

/// `1 + min(1, log2(1 + s / 1000) / 10)`, in parts per million.
pub fn multiplier_ppm(bonded: Amount) -> u64 {
    PPM + stake_ppm(bonded)
}

/// Value of the units that a provider with this stake may hold at a time.
pub(crate) fn value_max(bonded: Amount, params: &Params) -> Amount {
    Amount(params.unstaked_value_max.saturating_add(bonded.0.saturating_mul(params.staked_value_factor)))
}

impl State {
    /// What an account has bonded.
    pub fn bonded(&self, account: PublicKey) -> Amount {
        self.accounts.get(&account).map_or(Amount::ZERO, |account| account.bonded)
    }
}
