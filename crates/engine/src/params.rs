//! The market's parameters: what governance may change within bounds.

use borsh::{BorshDeserialize, BorshSerialize};

/// Declares the parameters with their defaults and their journaled form.
macro_rules! params {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr;)*) => {
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
    /// Leases one worker may hold.
    leases_per_worker_max: u32 = 128;
    /// Consecutive valid packages before a worker's units are checked less than always (BOINC's adaptive replication: 10).
    trust_after_packages: u32 = 10;
    /// The audit rate never falls below this, however trusted the worker.
    audit_rate_floor_ppm: u32 = 5_000;
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
}

impl BorshSerialize for Params {
    fn serialize<W: std::io::Write>(&self, writer: &mut W) -> std::io::Result<()> {
        self.entries().serialize(writer)
    }
}

impl BorshDeserialize for Params {
    fn deserialize_reader<R: std::io::Read>(reader: &mut R) -> std::io::Result<Self> {
        let mut params = Self::default();
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
        assert_eq!(borsh::from_slice::<Params>(&older).expect("reads"), params);
        let wrong = borsh::to_vec(&vec![("burn_bps".to_owned(), u64::MAX)]).expect("serialises");
        assert!(borsh::from_slice::<Params>(&wrong).is_err());
    }
}
