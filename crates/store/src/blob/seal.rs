//! Encryption of blobs at rest: AES-256-GCM, in frames, under a key of the blob's own.
//!
//! ```text
//! header   magic 8 | id of the store's key 8 | nonce 12 | the blob's key, encrypted with the store's, 32 + tag 16
//! frames   65,536 bytes of the blob, encrypted, + tag 16; the last frame may be shorter, an empty blob has an empty one
//! ```
//!
//! Frames make a range cost what it touches. A frame's nonce is its number and whether it is the last (Hoang, Reyhanitabar,
//! Rogaway and Vizár's STREAM), so that none can be dropped, added or moved; the key is used for one blob, so a number never
//! comes twice. The header is bound to the blob's hash: one blob's bytes under another's name are found out. What stays visible is
//! a blob's hash, its length and when it was stored.

use std::{fmt, io, path::Path, sync::Arc};

use bytes::{BufMut, BytesMut};
use protocol::Hash;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

use crate::BlobError;

const MAGIC: &[u8; 8] = b"plexaes1";
const KEY_ID_BYTES: usize = 8;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// What stands before the frames.
pub(super) const HEADER_BYTES: usize = 8 + KEY_ID_BYTES + NONCE_LEN + KEY_BYTES + TAG_BYTES;
/// Bytes of the blob in a frame: a tag costs 0.02 % of it, and a range decrypts at most two frames in vain.
const FRAME_BYTES: usize = 64 * 1024;
/// The same, stored.
pub(super) const SEALED_FRAME_BYTES: usize = FRAME_BYTES + TAG_BYTES;

type KeyId = [u8; KEY_ID_BYTES];

/// The keys that blobs are encrypted with. The newest encrypts, all of them decrypt.
#[derive(Clone)]
pub struct BlobKeys {
    /// Oldest first, never empty.
    keys: Arc<[(KeyId, LessSafeKey)]>,
}

/// Why keys cannot be used. It never shows them.
#[derive(Debug, thiserror::Error)]
pub enum BlobKeysError {
    /// The file cannot be read.
    #[error("cannot read the blob keys")]
    File(#[source] io::Error),
    /// There is none.
    #[error("there is no blob key; make one with: openssl rand -hex 32")]
    Empty,
    /// One is not a key.
    #[error("blob key {number} is not 64 hexadecimal digits; make one with: openssl rand -hex 32")]
    Malformed {
        /// Which one, from 1.
        number: usize,
    },
}

impl BlobKeys {
    /// Keys as 64 hexadecimal digits each, one a line or with commas between, the newest last. `#` begins a comment.
    ///
    /// To rotate, add a key at the end; when [`reseal`](crate::BlobStore::reseal) has been over all blobs, older ones can go.
    pub fn parse(text: &str) -> Result<Self, BlobKeysError> {
        let words = text
            .lines()
            .map(|line| line.split_once('#').map_or(line, |(before, _)| before))
            .flat_map(|line| line.split([',', ' ', '\t', '\r']))
            .filter(|word| !word.is_empty());
        let keys = words
            .enumerate()
            .map(|(index, word)| key_from_hex(word).ok_or(BlobKeysError::Malformed { number: index + 1 }))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(BlobKeysError::Empty);
        }
        Ok(Self { keys: keys.into() })
    }

    /// Keys from a file.
    pub fn read_file(path: &Path) -> Result<Self, BlobKeysError> {
        Self::parse(&std::fs::read_to_string(path).map_err(BlobKeysError::File)?)
    }

    fn newest(&self) -> &(KeyId, LessSafeKey) {
        self.keys.last().expect("there is at least one")
    }

    /// Whether a header was made with the newest key.
    pub(super) fn is_newest(&self, header: &[u8]) -> bool {
        header.get(8..16) == Some(&self.newest().0[..])
    }
}

fn key_from_hex(word: &str) -> Option<(KeyId, LessSafeKey)> {
    let mut key = [0; KEY_BYTES];
    if word.len() != 2 * KEY_BYTES || !word.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(word.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    let id = Hash::of_parts(&[b"plexus blob key", &key]);
    Some((id.0[..KEY_ID_BYTES].try_into().ok()?, aead(&key)))
}

fn aead(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are a key of AES-256"))
}

fn shown(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for BlobKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(id, _)| shown(id))).finish()
    }
}

/// The length of a blob by what is stored of it; nothing if no blob is stored so.
pub(super) fn length_of(stored: u64) -> Option<u64> {
    let body = stored.checked_sub(HEADER_BYTES as u64)?;
    let frames = body.div_ceil(SEALED_FRAME_BYTES as u64).max(1);
    let length = body.checked_sub(frames * TAG_BYTES as u64)?;
    // A last frame of a tag alone exists for an empty blob only.
    (frames == frame_count(length)).then_some(length)
}

fn frame_count(length: u64) -> u64 {
    length.div_ceil(FRAME_BYTES as u64).max(1)
}

fn nonce(frame: u64, last: bool) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&frame.to_be_bytes());
    nonce[NONCE_LEN - 1] = last.into();
    Nonce::assume_unique_for_key(nonce)
}

/// What the header is bound to.
fn binding(id: &[u8], blob: &Hash) -> [u8; 8 + KEY_ID_BYTES + 32] {
    let mut binding = [0; 8 + KEY_ID_BYTES + 32];
    binding[..8].copy_from_slice(MAGIC);
    binding[8..16].copy_from_slice(id);
    binding[16..].copy_from_slice(&blob.0);
    binding
}

/// Encrypts a blob as it comes in.
pub(super) struct Sealer {
    key: LessSafeKey,
    frame: u64,
    pending: BytesMut,
}

impl Sealer {
    /// Begins, and writes the header.
    pub(super) fn new(keys: &BlobKeys, blob: &Hash, out: &mut BytesMut) -> Self {
        let random = SystemRandom::new();
        let (mut key, mut key_nonce) = ([0; KEY_BYTES], [0; NONCE_LEN]);
        random.fill(&mut key).expect("the system has randomness");
        random.fill(&mut key_nonce).expect("the system has randomness");
        let (id, store_key) = keys.newest();
        let mut wrapped = key;
        let tag = store_key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(key_nonce),
                Aad::from(binding(id, blob)),
                &mut wrapped,
            )
            .expect("a key is short enough");
        for part in [&MAGIC[..], id, &key_nonce, &wrapped, tag.as_ref()] {
            out.put_slice(part);
        }
        Self { key: aead(&key), frame: 0, pending: BytesMut::new() }
    }

    /// Encrypts the frames that are full. One that may be the last waits.
    pub(super) fn write(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        while self.pending.len() + bytes.len() > FRAME_BYTES {
            let (now, later) = bytes.split_at(FRAME_BYTES - self.pending.len());
            self.pending.put_slice(now);
            bytes = later;
            self.seal(false, out);
        }
        self.pending.put_slice(bytes);
    }

    /// Encrypts the last frame.
    pub(super) fn finish(mut self, out: &mut BytesMut) {
        self.seal(true, out);
    }

    fn seal(&mut self, last: bool, out: &mut BytesMut) {
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(self.frame, last), Aad::empty(), &mut self.pending)
            .expect("a frame is short enough");
        out.put_slice(&self.pending);
        out.put_slice(tag.as_ref());
        self.pending.clear();
        self.frame += 1;
    }
}

/// Decrypts the frames of a blob, from one on.
pub(super) struct Opener {
    blob: Hash,
    key: LessSafeKey,
    length: u64,
    frame: u64,
}

impl Opener {
    /// Reads the header of a blob of this length.
    pub(super) fn new(keys: &BlobKeys, blob: &Hash, header: &[u8], length: u64) -> Result<Self, BlobError> {
        let tampered = || BlobError::Tampered { blob: *blob };
        let header = header.get(..HEADER_BYTES).ok_or(BlobError::Truncated { blob: *blob })?;
        let (id, rest) = header.strip_prefix(MAGIC).ok_or_else(tampered)?.split_at(KEY_ID_BYTES);
        let (key_nonce, wrapped) = rest.split_at(NONCE_LEN);
        let Some((_, store_key)) = keys.keys.iter().find(|(known, _)| known == id) else {
            return Err(BlobError::NoKey { blob: *blob, key: Some(shown(id)) });
        };
        let mut wrapped = wrapped.to_vec();
        let key_nonce = Nonce::try_assume_unique_for_key(key_nonce).map_err(|_| tampered())?;
        let key = store_key
            .open_in_place(key_nonce, Aad::from(binding(id, blob)), &mut wrapped)
            .map_err(|_| tampered())?;
        let key: &[u8; KEY_BYTES] = (&*key).try_into().map_err(|_| tampered())?;
        Ok(Self { blob: *blob, key: aead(key), length, frame: 0 })
    }

    /// Goes to the frame that holds this byte, and says where in the store it begins and how many bytes of it are before.
    pub(super) fn seek(&mut self, byte: u64) -> (u64, usize) {
        self.frame = (byte / FRAME_BYTES as u64).min(frame_count(self.length) - 1);
        let stored = HEADER_BYTES as u64 + self.frame * SEALED_FRAME_BYTES as u64;
        (stored, (byte - self.frame * FRAME_BYTES as u64) as usize)
    }

    /// Stored bytes of the frame that comes next.
    pub(super) fn frame_bytes(&self) -> usize {
        let left = self.length - self.frame * FRAME_BYTES as u64;
        left.min(FRAME_BYTES as u64) as usize + TAG_BYTES
    }

    /// Decrypts the frame that comes next.
    pub(super) fn open(&mut self, mut frame: BytesMut) -> Result<BytesMut, BlobError> {
        let last = self.frame + 1 == frame_count(self.length);
        let plain = self
            .key
            .open_in_place(nonce(self.frame, last), Aad::empty(), &mut frame)
            .map_err(|_| BlobError::Tampered { blob: self.blob })?
            .len();
        frame.truncate(plain);
        self.frame += 1;
        Ok(frame)
    }
}

/// Where in the store the frame ends that holds the byte before this one.
pub(super) fn stored_end(end: u64, length: u64) -> u64 {
    let frames = frame_count(end);
    HEADER_BYTES as u64 + (frames * FRAME_BYTES as u64).min(length) + frames * TAG_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn keys_come_one_a_line_or_in_a_row_and_are_never_shown() {
        for text in [
            format!("{OLD}\n{NEW}\n"),
            format!("# since May\n  {OLD} # was first\r\n\n{NEW}"),
            format!("{OLD},{NEW}"),
        ] {
            let keys = BlobKeys::parse(&text).expect("two keys");
            assert_eq!(keys.keys.len(), 2);
            assert_eq!(keys.newest().0, BlobKeys::parse(NEW).expect("a key").newest().0);
            assert!(!format!("{keys:?}").contains(&NEW[..16]));
        }
        assert!(matches!(BlobKeys::parse(" # none\n"), Err(BlobKeysError::Empty)));
        for wrong in [&OLD[1..], &format!("{OLD}00"), "x", &format!("+{}", &OLD[1..])] {
            let text = format!("{NEW}\n{wrong}");
            let error = BlobKeys::parse(&text).expect_err("no key");
            assert!(matches!(error, BlobKeysError::Malformed { number: 2 }), "{wrong}");
            assert!(!error.to_string().contains(wrong) || wrong == "x");
        }
    }

    #[test]
    fn the_stored_length_tells_the_blobs() {
        let keys = BlobKeys::parse(NEW).expect("a key");
        let frame = FRAME_BYTES as u64;
        for length in [0, 1, frame - 1, frame, frame + 1, 3 * frame, 3 * frame + 17] {
            let mut out = BytesMut::new();
            let mut sealer = Sealer::new(&keys, &Hash([1; 32]), &mut out);
            sealer.write(&vec![7; length as usize], &mut out);
            sealer.finish(&mut out);
            assert_eq!(length_of(out.len() as u64), Some(length));
            assert_eq!(stored_end(length, length), out.len() as u64);
        }
        // Cut within a tag, or within the header.
        for stored in [0, 10, HEADER_BYTES as u64 + 15, (HEADER_BYTES + SEALED_FRAME_BYTES + 16) as u64] {
            assert_eq!(length_of(stored), None, "{stored}");
        }
    }
}
