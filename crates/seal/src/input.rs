//! Inputs: each unit's part sealed on its own with ChaCha20-Poly1305 (RFC 8439).

use chacha20::{
    ChaCha20,
    cipher::{KeyIvInit, StreamCipher},
};
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use poly1305::{Poly1305, universal_hash::UniversalHash};
use protocol::{Hash, InputSplit, seal::SEALED_INPUT_EXTRA_BYTES};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{ContentKey, SealError};

const TAG_BYTES: usize = SEALED_INPUT_EXTRA_BYTES as usize;

/// A sealed input has at most as many bytes. Inputs whose units overlap grow when each unit's part stands alone.
const SEALED_BYTES_MAX: u64 = 4 << 30;

/// What decrypts one sealed part by XOR: ChaCha20 with this key and nonce, from block 1 on.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Keystream {
    /// The key.
    pub key: [u8; 32],
    /// The nonce.
    pub nonce: [u8; 12],
}

impl std::fmt::Debug for Keystream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keystream(…)")
    }
}

impl Keystream {
    fn of(content: &ContentKey, input: u32, unit: u64) -> Self {
        let mut stream = Self { key: [0; 32], nonce: [0; 12] };
        content.derive(&[b"input\0", &input.to_le_bytes()], &mut stream.key);
        stream.nonce[4..].copy_from_slice(&unit.to_le_bytes());
        stream
    }

    fn aead(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&self.key.into())
    }

    /// The tag of a ciphertext, as RFC 8439 makes it without additional data.
    fn tag(&self, ciphertext: &[u8]) -> [u8; TAG_BYTES] {
        let mut one_time = Zeroizing::new([0; 32]);
        ChaCha20::new(&self.key.into(), &self.nonce.into()).apply_keystream(&mut *one_time);
        let mut mac = Poly1305::new(&(*one_time).into());
        mac.update_padded(ciphertext);
        let mut lengths = [0; 16];
        lengths[8..].copy_from_slice(&(ciphertext.len() as u64).to_le_bytes());
        mac.update_padded(&lengths);
        mac.finalize().into()
    }
}

/// Seals what one unit sees of an input; of an input that all units see alike, as unit 0.
pub fn seal_input(content: &ContentKey, input: u32, unit: u64, plaintext: &[u8]) -> Vec<u8> {
    let stream = Keystream::of(content, input, unit);
    stream.aead().encrypt(&stream.nonce.into(), plaintext).expect("an input is shorter than 256 GiB")
}

/// Opens what [`seal_input`] made.
///
/// # Errors
///
/// [`SealError::Input`] when the tag does not hold; nothing of the plaintext is seen then.
pub fn open_input(content: &ContentKey, input: u32, unit: u64, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let stream = Keystream::of(content, input, unit);
    let payload = Payload { msg: sealed, aad: &[] };
    stream.aead().decrypt(&stream.nonce.into(), payload).map_err(|_| SealError::Input { input, unit })
}

/// Checks what [`seal_input`] made without decrypting it, for whoever decrypts elsewhere: answers the ciphertext without its
/// tag, and what decrypts it.
///
/// # Errors
///
/// [`SealError::Input`] when the tag does not hold.
pub fn check_input<'a>(
    content: &ContentKey,
    input: u32,
    unit: u64,
    sealed: &'a [u8],
) -> Result<(&'a [u8], Keystream), SealError> {
    let wrong = SealError::Input { input, unit };
    let at = sealed.len().checked_sub(TAG_BYTES).ok_or(wrong)?;
    let (ciphertext, tag) = sealed.split_at(at);
    let stream = Keystream::of(content, input, unit);
    if bool::from(stream.tag(ciphertext).ct_eq(tag)) { Ok((ciphertext, stream)) } else { Err(wrong) }
}

/// Seals an input as its units see it: the bytes of a blob of their own, and how units find their part there. The zeros that
/// fill up a short last part are sealed with it, so that lengths tell nothing about it.
///
/// # Errors
///
/// [`SealError::InputTooLong`] when the parts overlap so much that they would fill no reasonable blob.
pub fn seal_split(
    content: &ContentKey,
    input: u32,
    split: &InputSplit,
    units: u64,
    blob: &[u8],
) -> Result<(InputSplit, Vec<u8>), SealError> {
    // Without a stride all units see the same bytes.
    let parts = if split.stride == 0 { 1 } else { units };
    let length = u128::from(split.length) + u128::from(SEALED_INPUT_EXTRA_BYTES);
    let bytes = length * u128::from(parts);
    if bytes > u128::from(SEALED_BYTES_MAX) {
        return Err(SealError::InputTooLong { input, bytes, limit: SEALED_BYTES_MAX });
    }
    let mut sealed = Vec::with_capacity(bytes as usize);
    for unit in 0..parts {
        sealed.extend(seal_input(content, input, unit, &split.unit_bytes(unit, blob)));
    }
    let length = length as u64;
    let stride = if split.stride == 0 { 0 } else { length };
    Ok((InputSplit { blob: Hash::of(&sealed), offset: 0, stride, length }, sealed))
}
