//! Sealed payloads: a job's inputs and outputs that only the client and the workers of its choice can read.
//!
//! ```text
//! content key (32 random bytes, one a job)
//!   ├─ HPKE to each recipient's X25519 key ──▶ envelope            bound to market, worker, program and inputs
//!   ├─ HKDF "input" ‖ i ──▶ ChaCha20-Poly1305 of each unit's part  nonce = unit
//!   └─ HKDF "output" ‖ unit ‖ o ──▶ keys of one output             SIV = HMAC of the plaintext, then ChaCha20
//! ```
//!
//! *Inputs* are cut at the client as their units see them, and each unit's part is sealed on its own (RFC 8439): a worker
//! fetches, checks and opens what its lease needs, and a part that was put in another unit's place does not open. The cipher is a
//! stream cipher, so that a kernel can decrypt on the device once the tag was checked.
//!
//! *Outputs* are sealed deterministically: equal plaintexts of one output of one unit are equal ciphertexts, whoever computed
//! them, so that a market which cannot read them still compares them by hash. The initialisation vector comes from the plaintext
//! by a keyed hash, so that different plaintexts never share a keystream. That is why only outputs that compare bit for bit can
//! be sealed.
//!
//! What is not hidden: the program, the number of units, the lengths of inputs and outputs, and whether two executions of one
//! unit agree. Recipients read everything. There is no forward secrecy: whoever gets a recipient's key later opens what was
//! sealed to it.
//!
//! The crate draws no randomness and keeps nothing: fresh bytes come in as parameters. It does not know who may be a recipient.

mod envelope;
mod input;
mod output;

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use envelope::{OpeningKey, open_key, seal_key};
pub use input::{Keystream, check_input, open_input, seal_input, seal_split};
pub use output::{open_output, seal_output};

/// Separates the content key's uses from whatever else hashes secrets.
const SALT: &[u8] = b"plexus/seal/v1";

/// What is wrong with something sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It was sealed to somebody else or for something else, or was changed.
    #[error("the envelope does not open: it was sealed to another worker or for another job, or was changed")]
    Envelope,
    /// No content key can be sealed to such a key.
    #[error("nothing can be sealed to this key: it is no usable point of X25519")]
    Recipient,
    /// Another key, another place, or changed bytes.
    #[error("input {input} of unit {unit} does not open: it was changed or is another unit's")]
    Input {
        /// The manifest's input.
        input: u32,
        /// The unit.
        unit: u64,
    },
    /// Another key, another place, or changed bytes.
    #[error("output {output} of unit {unit} does not open: it was changed or is another unit's")]
    Output {
        /// The manifest's output.
        output: u32,
        /// The unit.
        unit: u64,
    },
    /// More bytes than a blob can have.
    #[error(
        "input {input} would have {bytes} bytes when each unit's part is sealed on its own, more than {limit}"
    )]
    InputTooLong {
        /// The manifest's input.
        input: u32,
        /// What it would have.
        bytes: u128,
        /// What a sealed input may have.
        limit: u64,
    },
}

/// The secret of one sealed job. Whoever has it reads the job's inputs and outputs.
///
/// One key seals the inputs of one job, once: sealing other bytes under the same key would use a nonce twice.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ContentKey([u8; 32]);

impl ContentKey {
    /// The key with these bytes, which must come from a good source of randomness.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be kept where only their owner reads.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Fills `keys` with what belongs to one use of the content key.
    fn derive(&self, use_of: &[&[u8]], keys: &mut [u8]) {
        let hkdf = Hkdf::<Sha256>::new(Some(SALT), &self.0);
        hkdf.expand_multi_info(use_of, keys).expect("far fewer than 255 blocks of SHA-256");
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(…)")
    }
}
