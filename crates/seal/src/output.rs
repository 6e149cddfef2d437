//! Outputs: deterministic authenticated encryption with a synthetic initialisation vector.
//!
//! `siv = HMAC-SHA256(K₁, plaintext)`, `key = HMAC-SHA256(K₂, siv)`, `sealed = siv ‖ ChaCha20(key, nonce 0)(plaintext)`, with
//! `K₁ ‖ K₂` of the unit and output. The key of the cipher depends on all of the plaintext, so that its nonce need not. Opening
//! recomputes `siv`, which is the tag.

use chacha20::{
    ChaCha20,
    cipher::{KeyIvInit, StreamCipher},
};
use hmac::{Hmac, KeyInit, Mac};
use protocol::seal::SEALED_OUTPUT_EXTRA_BYTES;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{ContentKey, SealError};

const SIV_BYTES: usize = SEALED_OUTPUT_EXTRA_BYTES as usize;

struct Keys(Zeroizing<[u8; 64]>);

impl Keys {
    fn of(content: &ContentKey, unit: u64, output: u32) -> Self {
        let mut keys = Zeroizing::new([0; 64]);
        content.derive(&[b"output\0", &unit.to_le_bytes(), &output.to_le_bytes()], &mut *keys);
        Self(keys)
    }

    fn siv(&self, plaintext: &[u8]) -> [u8; SIV_BYTES] {
        hmac(&self.0[..32], plaintext)
    }

    fn cipher(&self, siv: &[u8]) -> ChaCha20 {
        let key = Zeroizing::new(hmac(&self.0[32..], siv));
        ChaCha20::new(&(*key).into(), &[0; 12].into())
    }
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// Seals one output of one unit. The same bytes give the same ciphertext, whoever seals them.
pub fn seal_output(content: &ContentKey, unit: u64, output: u32, plaintext: &[u8]) -> Vec<u8> {
    let keys = Keys::of(content, unit, output);
    let siv = keys.siv(plaintext);
    let mut sealed = Vec::with_capacity(SIV_BYTES + plaintext.len());
    sealed.extend(siv);
    sealed.extend(plaintext);
    keys.cipher(&siv).apply_keystream(&mut sealed[SIV_BYTES..]);
    sealed
}

/// Opens what [`seal_output`] made.
///
/// # Errors
///
/// [`SealError::Output`] when it is not of this unit and output, or was changed; nothing of the plaintext is seen then.
pub fn open_output(
    content: &ContentKey,
    unit: u64,
    output: u32,
    sealed: &[u8],
) -> Result<Vec<u8>, SealError> {
    let wrong = SealError::Output { output, unit };
    if sealed.len() < SIV_BYTES {
        return Err(wrong);
    }
    let (siv, ciphertext) = sealed.split_at(SIV_BYTES);
    let keys = Keys::of(content, unit, output);
    let mut plaintext = ciphertext.to_vec();
    keys.cipher(siv).apply_keystream(&mut plaintext);
    if bool::from(keys.siv(&plaintext).ct_eq(siv)) {
        return Ok(plaintext);
    }
    plaintext.zeroize();
    Err(wrong)
}
