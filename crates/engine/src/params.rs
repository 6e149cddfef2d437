//! The market's parameters: what governance may change within bounds.

use borsh::{BorshDeserialize, BorshSerialize};

/// Why parameters are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    /// No parameter has this name.
    #[error("there is no parameter {0:?}")]
    Unknown(String),
    /// Beyond what is safe.
    #[error("{name} is {value}, and must be within {low} and {high}")]
    OutOfBounds {
        /// The parameter.
        name: String,
        /// What it was to be.
        value: u64,
        /// The least it may be.
        low: u64,
        /// The most it may be.
        high: u64,
    },
    /// The weights of something do not sum to one.
    #[error("the weights of the {0} sum to {1} parts per million instead of 1000000")]
    Weights(&'static str, u64),
    /// The provider would get less than half.
    #[error("treasury, burn and the highest royalty take {0} basis points together, more than half")]
    Shares(u64),
}

/// Declares the parameters with their defaults, the bounds within which they are safe, and their journaled form.
macro_rules! params {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr $(, $low:literal..=$high:literal)?;)*) => {
        /// Parameters of the rules. Shares are basis points (1/10 000), rates parts per million, times milliseconds.
        ///
        /// In the journal they are a list of names and values, so that a later version may add some: a name that is not
        /// there keeps its default, one that is no longer known is passed over.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Params {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Default for Params {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Params {
            /// Every parameter by name.
            pub fn entries(&self) -> Vec<(String, u64)> {
                vec![$((stringify!($name).to_owned(), u64::from(self.$name)),)*]
            }

            /// Sets a parameter by name; a name that is not known is passed over.
            pub fn set(&mut self, name: &str, value: u64) -> Result<(), std::num::TryFromIntError> {
                match name {
                    $(stringify!($name) => self.$name = <$type>::try_from(value)?,)*
                    _ => {}
                }
                Ok(())
            }

            /// A parameter's safe bounds, if there is such a parameter.
            pub fn bounds(name: &str) -> Option<(u64, u64)> {
                match name {
                    $(stringify!($name) => {
                        #[allow(unused_mut, unused_assignments, reason = "not every parameter has bounds of its own")]
                        let mut bounds = (0, u64::from(<$type>::MAX));
                        $(bounds = ($low, $high);)?
                        Some(bounds)
                    })*
                    _ => None,
                }
            }
        }
    };
}

params! {
    /// The treasury's share of every payment.
    treasury_bps: u32 = 500;
    /// The burned share of every payment. The provider gets what the two shares leave, rounding included.
    burn_bps: u32 = 500;
    /// A lease lasts this long unless a heartbeat renews it.
    lease_ms: u64 = 30_000;
    /// A worker that is silent this long is gone and loses its leases.
    heartbeat_ms_max: u64 = 15_000;
    /// A package is sized to take about this long on the device.
    package_target_ms: u64 = 1_000;
    /// A worker holds units of one job for about this long at most, so that what others could run does not queue behind it.
    hold_target_ms: u64 = 4_000;
    /// Most units in a package that the market sizes.
    package_units_max: u32 = 256;
    /// A unit that failed this often is parked.
    attempts_max: u32 = 5;
    /// A unit that ran alone and that this many different workers gave back as failed is parked at once.
    poison_workers: u32 = 3;
    /// Leases one worker may hold.
    leases_per_worker_max: u32 = 128;
    /// Consecutive valid packages before a worker's units are checked less than always (BOINC's adaptive replication: 10).
    trust_after_packages: u32 = 10;
    /// The audit rate never falls below this, however trusted the worker.
    audit_rate_floor_ppm: u32 = 5_000;
    /// Pay for accepted work is held back for this long, and a verdict may be contested for this long.
    appeal_ms: u64 = 600_000, 0..=2_592_000_000;
    /// Least deposit of an appeal, in base units: a tenth of a token.
    appeal_deposit: u64 = 100_000_000, 0..=1_000_000_000_000;
    /// What a verdict takes of all that an owner has at risk: stake, also on its way back, and pay that is held back.
    slash_bps: u32 = 5_000, 0..=10_000;
    /// It takes at least this many times the package's value, if there is as much.
    slash_packages: u32 = 10, 0..=10_000;
    /// The market's own verifier leaves a check to others for this long.
    verifier_wait_ms: u64 = 2_000;
    /// A job of a high class waits this long before it reclaims devices from lower classes.
    preempt_after_ms: u64 = 2_000;
    /// A worker that is asked to yield a lease loses it after this long.
    yield_ms_max: u64 = 10_000;
    /// A worker that was given leases without asking loses them if it does not fetch them within this time.
    offer_ms_max: u64 = 10_000;
    /// Closed leases whose receipts are remembered, so that a repeated one gets the first answer again.
    closed_leases_max: u32 = 65_536;
    /// Idempotency keys that are remembered.
    idempotency_keys_max: u32 = 65_536;
    /// A job that ended stays at hand for this long, to be rated among others, before only its archive is kept; in any case as long
    /// as a verdict about it may be contested.
    archive_after_ms: u64 = 3_600_000, 0..=31_536_000_000;
    /// The same of one that ended incomplete, which can go on as long as it is not archived: 7 days.
    archive_incomplete_after_ms: u64 = 604_800_000, 0..=31_536_000_000;

    /// Weight of the client's stake in a job's score.
    score_stake_ppm: u32 = 400_000, 0..=800_000;
    /// Weight of urgency. Without it, waiting would not count and jobs could starve.
    score_urgency_ppm: u32 = 300_000, 100_000..=1_000_000;
    /// Weight of complexity.
    score_complexity_ppm: u32 = 300_000, 0..=800_000;
    /// Waiting this long adds 1 to urgency.
    urgency_wait_ms: u64 = 3_600_000, 60_000..=604_800_000;
    /// A deadline begins to count this long before it.
    urgency_deadline_ms: u64 = 86_400_000, 60_000..=2_592_000_000;
    /// Among jobs whose scores differ by less, one whose program the worker has is preferred.
    affinity_band_ppm: u32 = 2_000, 0..=50_000;

    /// What the reference device computes, in GFLOP/s.
    reference_gflops: u64 = 1_000, 1..=1_000_000;
    /// What the reference device moves, in GB/s.
    reference_gbps: u64 = 100, 1..=1_000_000;
    /// Reference time of a unit of which nobody knows the work.
    unknown_unit_us: u64 = 1_000, 1..=60_000_000;
    /// Price of a reference second, in base units, where no provider that fits asks for one.
    base_price: u64 = 1_000_000, 1..=1_000_000_000_000;
    /// A queue this long, in time of all providers together, doubles the price.
    demand_backlog_ms: u64 = 600_000, 1_000..=604_800_000;
    /// Highest demand factor.
    demand_max_ppm: u32 = 2_000_000, 0..=9_000_000;
    /// Time constant of the forecast of the queue.
    demand_ewma_ms: u64 = 300_000, 1_000..=86_400_000;
    /// Capability factor of what hardly any capacity can run.
    capability_max_ppm: u32 = 1_000_000, 0..=9_000_000;
    /// Lowest seasonal adjustment.
    season_min_ppm: u32 = 800_000, 100_000..=1_000_000;
    /// Highest seasonal adjustment.
    season_max_ppm: u32 = 1_250_000, 1_000_000..=4_000_000;

    /// From the wish to have a stake back to getting it: 7 days.
    unbond_ms: u64 = 604_800_000, 60_000..=31_536_000_000;
    /// Highest royalty of a job.
    royalty_bps_max: u32 = 3_000, 0..=4_000;
    /// Weight of performance in a provider's reputation.
    nrs_performance_ppm: u32 = 400_000, 0..=1_000_000;
    /// Weight of reliability.
    nrs_reliability_ppm: u32 = 300_000, 0..=1_000_000;
    /// Weight of longevity.
    nrs_longevity_ppm: u32 = 200_000, 0..=1_000_000;
    /// Weight of ratings.
    nrs_rating_ppm: u32 = 100_000, 0..=1_000_000;
    /// Days with accepted work until longevity is full.
    longevity_days: u32 = 90, 1..=3_650;
    /// Reputation from which a provider is of tier 1, in thousandths of a point.
    tier_1_nrs_milli: u32 = 55_000, 0..=100_000;
    /// Reputation of tier 2.
    tier_2_nrs_milli: u32 = 70_000, 0..=100_000;
    /// Reputation of tier 3.
    tier_3_nrs_milli: u32 = 85_000, 0..=100_000;
    /// Stake that a provider of tier 1 holds at least, in base units: 100 tokens.
    tier_1_stake: u64 = 100_000_000_000;
    /// Stake of tier 2: 1 000 tokens.
    tier_2_stake: u64 = 1_000_000_000_000;
    /// Stake of tier 3: 10 000 tokens.
    tier_3_stake: u64 = 10_000_000_000_000;
    /// An ask of tier 0 counts in the base price up to this, as a multiple of `base_price`.
    tier_0_ask_max_ppm: u32 = 2_000_000, 1_000_000..=1_000_000_000;
    /// The same of tier 1.
    tier_1_ask_max_ppm: u32 = 4_000_000, 1_000_000..=1_000_000_000;
    /// The same of tier 2.
    tier_2_ask_max_ppm: u32 = 8_000_000, 1_000_000..=1_000_000_000;
    /// The same of tier 3.
    tier_3_ask_max_ppm: u32 = 16_000_000, 1_000_000..=1_000_000_000;
    /// Value of the units that a provider without any stake may hold at a time, in base units: 100 tokens.
    unstaked_value_max: u64 = 100_000_000_000, 1_000_000_000..=1_000_000_000_000_000;
    /// Value that each staked base unit lets a provider hold besides.
    staked_value_factor: u64 = 10, 1..=1_000;

    /// Length of an epoch of rewards.
    epoch_ms: u64 = 3_600_000, 60_000..=604_800_000;
    /// What the first epoch emits, in base units: 10 tokens. 0 emits nothing.
    epoch_emission: u64 = 10_000_000_000, 0..=1_000_000_000_000;
    /// An epoch emits at most this share of the fees (treasury and burn) of what was paid in it. Below a third, nobody gains by
    /// paying themselves: a share of the rewards exceeds that of the fees by at most the roles' and stakes' factors, three together.
    emission_fees_ppm: u32 = 300_000, 0..=1_000_000;
    /// Epochs after which the emission halves: four years of hours.
    halving_epochs: u64 = 35_064, 1..=10_000_000;
    /// Accounts that one epoch pays; the others' shares are carried to the next one.
    epoch_shares_max: u32 = 4_096, 1..=4_096;
    /// Weight of a driver's work.
    role_driver_ppm: u32 = 1_000_000, 100_000..=10_000_000;
    /// Weight of a worker's.
    role_worker_ppm: u32 = 800_000, 100_000..=10_000_000;
    /// Weight of a validator's: executing units again.
    role_validator_ppm: u32 = 1_200_000, 100_000..=10_000_000;

    /// Speed of a worker that claims none, in parts per million of the reference device.
    speed_default_ppm: u64 = 100_000, 1..=1_000_000_000;
    /// Accepted work of at least this long makes one measurement of a worker's speed.
    speed_window_ms: u64 = 1_000, 1..=600_000;
    /// A worker whose claim is more than this multiple of what was measured is found out.
    overstated_ppm: u64 = 4_000_000, 1_100_000..=100_000_000;
    /// A package is to keep a device busy for at least this share of the time it takes.
    package_efficiency_ppm: u64 = 950_000, 100_000..=999_000;
    /// Longest that a package is sized for, however slow its worker's connection.
    package_ms_max: u64 = 10_000, 100..=3_600_000;
}

impl Params {
    /// Every parameter with its value.
    pub fn values(&self) -> Vec<(String, u64)> {
        self.entries()
    }

    /// Whether all of them are within their bounds and fit together.
    ///
    /// # Errors
    ///
    /// The first that is not.
    pub fn check(&self) -> Result<(), ParamError> {
        for (name, value) in self.entries() {
            let (low, high) = Self::bounds(&name).expect("it is a parameter");
            if !(low..=high).contains(&value) {
                return Err(ParamError::OutOfBounds { name, value, low, high });
            }
        }
        let sum = |weights: &[u32]| weights.iter().copied().map(u64::from).sum::<u64>();
        for (of, weights) in [
            ("score", &[self.score_stake_ppm, self.score_urgency_ppm, self.score_complexity_ppm][..]),
            (
                "reputation",
                &[
                    self.nrs_performance_ppm,
                    self.nrs_reliability_ppm,
                    self.nrs_longevity_ppm,
                    self.nrs_rating_ppm,
                ][..],
            ),
        ] {
            if sum(weights) != crate::ratio::PPM {
                return Err(ParamError::Weights(of, sum(weights)));
            }
        }
        match sum(&[self.treasury_bps, self.burn_bps, self.royalty_bps_max]) {
            taken if taken > 5_000 => Err(ParamError::Shares(taken)),
            _ => Ok(()),
        }
    }

    /// These parameters with some of them changed.
    ///
    /// # Errors
    ///
    /// When a name is unknown, or what comes out is not safe.
    pub fn with(&self, changes: &[(String, u64)]) -> Result<Self, ParamError> {
        let mut params = self.clone();
        for (name, value) in changes {
            let (low, high) = Self::bounds(name).ok_or_else(|| ParamError::Unknown(name.clone()))?;
            let out = ParamError::OutOfBounds { name: name.clone(), value: *value, low, high };
            params.set(name, *value).map_err(|_| out)?;
        }
        params.check()?;
        Ok(params)
    }
}

impl BorshSerialize for Params {
    fn serialize<W: std::io::Write>(&self, writer: &mut W) -> std::io::Result<()> {
        self.entries().serialize(writer)
    }
}

impl BorshDeserialize for Params {
    fn deserialize_reader<R: std::io::Read>(reader: &mut R) -> std::io::Result<Self> {
        // Whoever does not name it paid at once, and what was paid may be spent.
        let mut params = Self { appeal_ms: 0, ..Self::default() };
        for (name, value) in Vec::<(String, u64)>::deserialize_reader(reader)? {
            params.set(&name, value).map_err(|_| {
                std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{name} is too large: {value}"))
            })?;
        }
        Ok(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_other_versions_are_read() {
        let params = Params { lease_ms: 7, ..Params::default() };
        let bytes = borsh::to_vec(&params).expect("serialises");
        assert_eq!(borsh::from_slice::<Params>(&bytes).expect("reads"), params);
        let older = borsh::to_vec(&vec![("lease_ms".to_owned(), 7u64), ("of_the_past".to_owned(), 1)])
            .expect("serialises");
        let at_once = Params { appeal_ms: 0, ..params };
        assert_eq!(borsh::from_slice::<Params>(&older).expect("reads"), at_once, "as they did then");
        let wrong = borsh::to_vec(&vec![("burn_bps".to_owned(), u64::MAX)]).expect("serialises");
        assert!(borsh::from_slice::<Params>(&wrong).is_err());
    }

    #[test]
    fn no_market_is_founded_with_parameters_that_are_not_safe() {
        let found = |params| crate::State::found(protocol::PublicKey([1; 32]), params, 0).map(drop);
        assert_eq!(found(Params::default()), Ok(()));
        let unsafe_params = Params { treasury_bps: 4_000, burn_bps: 4_000, ..Params::default() };
        assert_eq!(found(unsafe_params), Err(ParamError::Shares(11_000)));
    }
}
