//! Sealed payloads as they cross a wire: who can open what, and what an envelope holds for.
//!
//! A worker that takes sealed work signs a [`SealingKey`] with the key that signs its receipts. A client seals a job's content
//! key to such records, one [`Envelope`] each. What is inside an envelope, and how, is the business of the `seal` crate: this
//! module has no secrets and no ciphers.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{Hash, InputSplit, KeyError, PublicKey, Signable, Signature, VerifyError};

/// Bytes that sealing adds to each unit's part of an input: the tag of Poly1305.
pub const SEALED_INPUT_EXTRA_BYTES: u64 = 16;
/// Bytes that sealing adds to each output: the synthetic initialisation vector, which is its tag as well.
pub const SEALED_OUTPUT_EXTRA_BYTES: u64 = 32;
/// Bytes of an envelope: an encapsulated X25519 key, the content key and a tag.
pub const ENVELOPE_BYTES: usize = 32 + 32 + 16;
/// A record holds for at most this long, in milliseconds: 90 days.
pub const SEALING_KEY_MS_MAX: u64 = 90 * 24 * 3_600 * 1_000;

/// An X25519 public key that content keys are sealed to. JSON form: base58.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct SealPublicKey(pub [u8; 32]);

/// What a worker signs (kind `sealing-key`) so that clients can seal to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SealingKey {
    /// The market's key: a record of one market says nothing in another.
    pub market: PublicKey,
    /// The key that signs the worker's receipts, and this.
    pub worker: PublicKey,
    /// What to seal to.
    pub key: SealPublicKey,
    /// When clients stop sealing to it, in milliseconds of the Unix epoch.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub valid_until_ms: u64,
}

impl Signable for SealingKey {
    const KIND: &'static str = "sealing-key";
}

/// A record with its worker's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SignedSealingKey {
    /// What is signed.
    pub record: SealingKey,
    /// By the record's worker.
    pub signature: Signature,
}

/// Why nothing is sealed to a record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealingKeyError {
    /// Somebody else wrote it.
    #[error(transparent)]
    Signature(#[from] VerifyError),
    /// It is another market's.
    #[error("the sealing key of {worker} is for the market {found}, not {wanted}")]
    Market {
        /// Whose record.
        worker: PublicKey,
        /// The market in it.
        found: PublicKey,
        /// The market that is talked to.
        wanted: PublicKey,
    },
    /// It holds no longer, or for too long.
    #[error("the sealing key of {worker} is valid until {until_ms}, which is {}", if *.until_ms <= *.now_ms { "past" } else { "more than 90 days ahead" })]
    Validity {
        /// Whose record.
        worker: PublicKey,
        /// Its end, in milliseconds of the Unix epoch.
        until_ms: u64,
        /// The time it was looked at.
        now_ms: u64,
    },
}

impl SignedSealingKey {
    /// Whether something may be sealed to it at this time, in this market.
    ///
    /// # Errors
    ///
    /// The first reason why not.
    pub fn check(&self, market: PublicKey, now_ms: u64) -> Result<(), SealingKeyError> {
        let SealingKey { market: found, worker, valid_until_ms: until_ms, .. } = self.record;
        if found != market {
            return Err(SealingKeyError::Market { worker, found, wanted: market });
        }
        if until_ms <= now_ms || until_ms - now_ms > SEALING_KEY_MS_MAX {
            return Err(SealingKeyError::Validity { worker, until_ms, now_ms });
        }
        Ok(worker.verify(&self.record, &self.signature)?)
    }
}

/// A job's content key, sealed to one worker. JSON form: standard base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Envelope(pub [u8; ENVELOPE_BYTES]);

/// What an envelope holds for: one program over these sealed inputs in one market. An envelope that is put beside anything else
/// does not open.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SealContext {
    /// The market.
    pub market: PublicKey,
    /// The manifest's blob.
    pub manifest: Hash,
    /// The sealed inputs, in the manifest's order.
    pub inputs: Vec<InputSplit>,
}

impl SealContext {
    /// The bytes that are authenticated with the content key: SHA-256 of `"plexus/seal-context/v1\0" ‖ Borsh(self)`.
    pub fn digest(&self) -> Hash {
        let bytes = borsh::to_vec(self).expect("writing to a Vec cannot fail");
        Hash::of_parts(&[b"plexus/seal-context/v1\0", &bytes])
    }
}

impl fmt::Display for SealPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PublicKey(self.0).fmt(f)
    }
}

impl fmt::Debug for SealPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for SealPublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        text.parse::<PublicKey>().map(|key| Self(key.0))
    }
}

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Envelope {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let error = || KeyError::Envelope(text.chars().take(120).collect());
        // 80 bytes are 108 characters; longer texts are refused before anything is decoded.
        if text.len() > 108 {
            return Err(error());
        }
        let bytes = STANDARD.decode(text).map_err(|_| error())?;
        Ok(Self(bytes.try_into().map_err(|_| error())?))
    }
}

crate::string_form!(SealPublicKey);
crate::string_form!(Envelope);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    #[test]
    fn a_record_holds_for_its_market_worker_and_time() {
        let (market, key) = (SecretKey::from_seed([1; 32]).public(), SecretKey::from_seed([2; 32]));
        let record =
            SealingKey { market, worker: key.public(), key: SealPublicKey([3; 32]), valid_until_ms: 1_000 };
        let signed = SignedSealingKey { record, signature: key.sign(&record) };
        assert_eq!(signed.check(market, 999), Ok(()));
        let other = SecretKey::from_seed([4; 32]).public();
        assert!(matches!(signed.check(other, 999), Err(SealingKeyError::Market { .. })));
        assert!(matches!(signed.check(market, 1_000), Err(SealingKeyError::Validity { .. })), "past");
        let distant = SealingKey { valid_until_ms: SEALING_KEY_MS_MAX + 2, ..record };
        let distant = SignedSealingKey { record: distant, signature: key.sign(&distant) };
        assert!(matches!(distant.check(market, 1), Err(SealingKeyError::Validity { .. })), "too long");
        for forged in [
            SealingKey { key: SealPublicKey([5; 32]), ..record },
            SealingKey { worker: other, ..record },
            SealingKey { valid_until_ms: 1_001, ..record },
        ] {
            let forged = SignedSealingKey { record: forged, ..signed };
            assert!(matches!(forged.check(market, 1), Err(SealingKeyError::Signature(_))), "{forged:?}");
        }
    }

    #[test]
    fn an_envelope_reads_what_it_prints() {
        let envelope = Envelope(std::array::from_fn(|i| i as u8));
        assert_eq!(envelope.to_string().parse(), Ok(envelope));
        for bad in ["", "AAAA", &"A".repeat(109), &"!".repeat(108)] {
            assert!(bad.parse::<Envelope>().is_err(), "{bad}");
        }
    }
}
