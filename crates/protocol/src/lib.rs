//! What crosses a wire: ids, amounts, keys, hashes, Merkle trees, manifests and receipts.
//!
//! Every type here has one JSON form and, where it is signed, one canonical byte form (Borsh). Both are pinned by the
//! golden vectors in `tests/vectors`, which Rust and TypeScript read. The crate does no I/O and reads no clock; it does
//! not know what a market decides or how a GPU runs.

mod amount;
pub mod batch;
pub mod challenge;
mod device;
mod expression;
mod hash;
mod id;
mod job;
mod key;
pub mod manifest;
pub mod merkle;
mod opening;
mod receipt;
pub mod seal;

pub use amount::{Amount, AmountError, BASE_UNITS_PER_TOKEN};
pub use challenge::ChallengeChain;
pub use device::{DeviceFacts, DeviceLimits, FEATURE_LONG_LOOPS, FLAW_LOOP_ROUNDS, WorkerKind, WorkerOffer};
pub use expression::{Expression, ExpressionError};
pub use hash::{Hash, HashParseError};
pub use id::{CheckId, IdParseError, JobId, LeaseId, PackageId, ReservationId, UnitId, VerdictId};
pub use job::{InputSplit, JoinFormat, JoinLayout, JoinParameter, JoinSpec};
pub use key::{KeyError, PublicKey, SecretKey, Signable, Signature, VerifyError};
pub use manifest::Manifest;
pub use opening::{ChunkOpening, Opening, OpeningError};
pub use receipt::{OutputCommitment, Receipt, UnitLeaf, UnitRun, UnitStatus, package_root};
pub use seal::{Envelope, SealContext, SealPublicKey, SealingKey, SealingKeyError, SignedSealingKey};

/// Serialises a 64-bit integer as a decimal string, because a browser's numbers end at 2⁵³.
pub mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes `value` in decimal digits.
    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads decimal digits; signs, spaces and exponents are refused.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom(format!("expected decimal digits, found {text:?}")))
    }

    /// The number in canonical decimal `text`: digits only, no leading zero.
    pub fn parse(text: &str) -> Option<u64> {
        let canonical = text == "0" || (text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0'));
        if canonical { text.parse().ok() } else { None }
    }

    /// The same for a number that may be absent.
    pub mod option {
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        /// Writes the number in decimal digits.
        pub fn serialize<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => serializer.collect_str(value),
                None => serializer.serialize_none(),
            }
        }

        /// Reads decimal digits.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
            let text = Option::<std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
            let number = |text: std::borrow::Cow<'_, str>| {
                super::parse(&text)
                    .ok_or_else(|| D::Error::custom(format!("expected decimal digits, found {text:?}")))
            };
            text.map(number).transpose()
        }
    }
}

/// A newtype whose JSON form is the string that `Display` writes and `FromStr` reads.
macro_rules! string_form {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        #[cfg(feature = "schema")]
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new().schema_type(utoipa::openapi::Type::String).into()
            }
        }
        #[cfg(feature = "schema")]
        impl utoipa::ToSchema for $type {}
    };
}
pub(crate) use string_form;
