//! Ed25519 keys and signatures over canonical bytes.
//!
//! A signature covers `"plexus/<kind>/v1\0" ‖ Borsh(value)`, so that one made for one kind of value is never valid for
//! another. Verification is strict: small-order points and non-canonical encodings are refused, as on the chain.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use borsh::{BorshDeserialize, BorshSerialize};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

/// An Ed25519 public key: a wallet, a session key, a worker's id. JSON form: base58.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct PublicKey(pub [u8; 32]);

/// An Ed25519 signature. JSON form: standard base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Signature(pub [u8; 64]);

/// An Ed25519 secret key. It has no JSON form and does not print itself.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

/// Why a text is not a key or signature.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Not base58 of 32 bytes.
    #[error("expected a base58 key of 32 bytes, found {0:?}")]
    Key(String),
    /// Not base64 of 64 bytes.
    #[error("expected a base64 signature of 64 bytes, found {0:?}")]
    Signature(String),
    /// Not base64 of 80 bytes.
    #[error("expected a base64 envelope of 80 bytes, found {0:?}")]
    Envelope(String),
    /// The two halves of a 64-byte key pair do not belong together.
    #[error("the public half of the key pair does not belong to its secret half")]
    PairMismatch,
}

/// A signature that does not hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the signature is not by {key} over this {kind}")]
pub struct VerifyError {
    /// Whose signature was wanted.
    pub key: PublicKey,
    /// What should have been signed.
    pub kind: &'static str,
}

/// A value with canonical bytes that are signed under its kind.
pub trait Signable: BorshSerialize {
    /// The kind in the domain prefix, such as `receipt`.
    const KIND: &'static str;

    /// The bytes a signature covers: `"plexus/<kind>/v1\0" ‖ Borsh(self)`.
    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("plexus/{}/v1\0", Self::KIND).into_bytes();
        self.serialize(&mut bytes).expect("writing to a Vec cannot fail");
        bytes
    }
}

impl PublicKey {
    /// Checks that `signature` is by this key over `value`.
    pub fn verify<T: Signable>(&self, value: &T, signature: &Signature) -> Result<(), VerifyError> {
        self.verify_bytes(T::KIND, &value.signed_bytes(), signature)
    }

    /// Checks a signature over bytes that carry their own domain, such as a login message. `kind` names them in the error.
    pub fn verify_bytes(
        &self,
        kind: &'static str,
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<(), VerifyError> {
        VerifyingKey::from_bytes(&self.0)
            .and_then(|key| key.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(&signature.0)))
            .map_err(|_| VerifyError { key: *self, kind })
    }
}

impl SecretKey {
    /// The key with this 32-byte seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads Solana's 64-byte key pair: seed, then public key.
    pub fn from_pair(pair: &[u8; 64]) -> Result<Self, KeyError> {
        SigningKey::from_keypair_bytes(pair).map(Self).map_err(|_| KeyError::PairMismatch)
    }

    /// Solana's 64-byte key pair: seed, then public key.
    pub fn to_pair(&self) -> [u8; 64] {
        self.0.to_keypair_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `value` under its kind.
    pub fn sign<T: Signable>(&self, value: &T) -> Signature {
        self.sign_bytes(&value.signed_bytes())
    }

    /// Signs bytes that carry their own domain, such as a login message.
    pub fn sign_bytes(&self, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(bytes).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.0).into_string())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let error = || KeyError::Key(text.chars().take(80).collect());
        // 32 bytes are at most 44 base58 digits; longer texts are refused before the quadratic decoding.
        if text.len() > 44 {
            return Err(error());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| error())?;
        Ok(Self(bytes.try_into().map_err(|_| error())?))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Signature {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let error = || KeyError::Signature(text.chars().take(100).collect());
        let bytes = STANDARD.decode(text).map_err(|_| error())?;
        Ok(Self(bytes.try_into().map_err(|_| error())?))
    }
}

crate::string_form!(PublicKey);
crate::string_form!(Signature);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(BorshSerialize)]
    struct Note(u64);
    impl Signable for Note {
        const KIND: &'static str = "note";
    }
    #[derive(BorshSerialize)]
    struct Other(u64);
    impl Signable for Other {
        const KIND: &'static str = "other";
    }

    #[test]
    fn a_signature_holds_only_for_its_key_value_and_kind() {
        let (key, stranger) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        let signature = key.sign(&Note(7));
        assert!(key.public().verify(&Note(7), &signature).is_ok());
        assert!(key.public().verify(&Note(8), &signature).is_err());
        assert!(key.public().verify(&Other(7), &signature).is_err());
        assert!(stranger.public().verify(&Note(7), &signature).is_err());
    }

    #[test]
    fn small_order_keys_are_refused() {
        // The identity point "signs" everything under lax verification.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(PublicKey(identity).verify(&Note(7), &Signature(signature)).is_err());
    }

    #[test]
    fn a_key_pair_file_round_trips_and_a_wrong_one_is_refused() {
        let key = SecretKey::from_seed([3; 32]);
        let mut pair = key.to_pair();
        assert_eq!(SecretKey::from_pair(&pair).expect("own pair").public(), key.public());
        pair[63] ^= 1;
        assert!(SecretKey::from_pair(&pair).is_err());
    }

    #[test]
    fn bad_texts_are_refused() {
        for bad in ["", "0OIl", &"1".repeat(45), "abc"] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad:?}");
        }
        assert!("AAAA".parse::<Signature>().is_err());
    }
}
