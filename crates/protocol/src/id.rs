//! Typed, readable ids. They come from the engine's counters; nothing in them is random.

use std::{fmt, str::FromStr};

use borsh::{BorshDeserialize, BorshSerialize};

/// A text that is not an id of the wanted kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected an id like \"{example}\", found {found:?}")]
pub struct IdParseError {
    example: &'static str,
    found: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "-{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;

            fn from_str(text: &str) -> Result<Self, IdParseError> {
                text.strip_prefix(concat!($prefix, "-"))
                    .and_then(crate::decimal::parse)
                    .map(Self)
                    .ok_or_else(|| IdParseError { example: concat!($prefix, "-7"), found: text.chars().take(80).collect() })
            }
        }

        crate::string_form!($name);
    };
}

id!(
    /// A job: one manifest over many units.
    JobId, "job"
);
id!(
    /// A run of units given out together.
    PackageId, "package"
);
id!(
    /// One package (or check) in one worker's hands until a deadline.
    LeaseId, "lease"
);
id!(
    /// A re-execution of units whose results are already committed.
    CheckId, "check"
);
id!(
    /// What became of a package that was contradicted.
    VerdictId, "verdict"
);
id!(
    /// Workers that are kept for one account's sealed job.
    ReservationId, "reservation"
);

/// One unit of a job, written `job-42/7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct UnitId {
    /// The job.
    pub job: JobId,
    /// The unit's index in the job, from 0.
    pub index: u64,
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.index)
    }
}

impl FromStr for UnitId {
    type Err = IdParseError;

    fn from_str(text: &str) -> Result<Self, IdParseError> {
        let error = || IdParseError { example: "job-42/7", found: text.chars().take(80).collect() };
        let (job, index) = text.split_once('/').ok_or_else(error)?;
        Ok(Self {
            job: job.parse().map_err(|_| error())?,
            index: crate::decimal::parse(index).ok_or_else(error)?,
        })
    }
}

crate::string_form!(UnitId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_what_they_print() {
        assert_eq!("job-42/7".parse(), Ok(UnitId { job: JobId(42), index: 7 }));
        assert_eq!(UnitId { job: JobId(42), index: 7 }.to_string(), "job-42/7");
        for bad in ["job-", "job-x", "lease-1", "job-01", "42", "job--1"] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
    }
}
