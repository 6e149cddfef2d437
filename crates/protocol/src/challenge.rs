//! Challenges: which units of a committed package are executed again, drawn so that nobody knows them before the commitment and
//! anybody can check them afterwards.
//!
//! A market draws with a key of its own for each epoch, a stretch of time of fixed length. The keys are a hash chain:
//! `K_{e−1} = SHA-256(K_e ‖ "plexus/epoch-key/v1\0")`. The market makes the last one from its secret, hashes down to `K_0`, the
//! *anchor*, and journals that before it draws anything. From the anchor no key can be computed, but every key that is shown later can
//! be hashed down to it: so no key can be exchanged afterwards for one that draws what the market would like. A key is shown when all
//! that was drawn with it is settled.
//!
//! The draw of a package is `SHA-256(HMAC-SHA256(K_e, digest of its receipt) ‖ sequence of the receipt's event)`, `e` being the epoch in
//! which the event was journaled. Unit number `i` of the package is drawn at a rate `r` when word `i` of the stream
//! `SHA-256(draw ‖ block number)`, taken as a fraction of 2³², is below `r`. So of two draws at different rates the larger holds the
//! smaller, and from what was drawn follow bounds on the rate ([`rates`]).
//!
//! Nothing here knows who keeps the secret, or how rates are decided.

use std::{ops::RangeInclusive, sync::OnceLock};

use serde::{Deserialize, Serialize};

use crate::Hash;

const TAG: &[u8] = b"plexus/epoch-key/v1\0";

/// Keys between two that a [`KeyChain`] holds.
const STRIDE: u64 = 256;

/// Most epochs of a chain: 2²⁰ keys are made in less than a second, and of hours they last for 119 years.
pub const EPOCHS_MAX: u64 = 1 << 20;

/// What a market says of a chain before it draws with its keys.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, borsh::BorshSerialize, borsh::BorshDeserialize,
)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ChallengeChain {
    /// `K_0`.
    pub anchor: Hash,
    /// Sequence of the event that journals it: later receipts are drawn for with its keys, until a later chain begins.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub sequence: u64,
    /// When epoch 1 began, in milliseconds of the Unix epoch.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub begins_at_ms: u64,
    /// How long an epoch lasts, in milliseconds.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub epoch_ms: u64,
    /// How many epochs there are.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub epochs: u64,
}

impl ChallengeChain {
    /// The epoch of an event that was journaled at `at_ms`; from 1, and beyond [`epochs`](Self::epochs) when the chain is over.
    pub fn epoch_at(&self, at_ms: u64) -> u64 {
        at_ms.saturating_sub(self.begins_at_ms) / self.epoch_ms.max(1) + 1
    }

    /// The last epoch that was over at `at_ms`; 0 before any was.
    pub fn last_over_at(&self, at_ms: u64) -> u64 {
        (self.epoch_at(at_ms) - 1).min(self.epochs)
    }

    /// Whether `key` is that of `epoch`.
    pub fn has(&self, epoch: u64, key: &Hash) -> bool {
        let found = || key_below(key, epoch);
        (1..=self.epochs.min(EPOCHS_MAX)).contains(&epoch) && found() == self.anchor
    }
}

/// The key of the epoch `steps` before that of `key`.
pub fn key_below(key: &Hash, steps: u64) -> Hash {
    (0..steps).fold(*key, |key, _| Hash::of_parts(&[&key.0, TAG]))
}

/// The keys of one chain, for those who know its last one.
///
/// Every 256th key is computed once and kept; any other costs at most 255 hashes.
pub struct KeyChain {
    last: Hash,
    epochs: u64,
    /// `K_0`, `K_256`, `K_512`, …
    kept: OnceLock<Vec<Hash>>,
}

impl KeyChain {
    /// The chain of `epochs` keys whose last one is `last`.
    ///
    /// # Panics
    ///
    /// If there are none, or more than [`EPOCHS_MAX`].
    pub fn new(last: Hash, epochs: u64) -> Self {
        assert!((1..=EPOCHS_MAX).contains(&epochs), "a chain has 1 to {EPOCHS_MAX} epochs, not {epochs}");
        Self { last, epochs, kept: OnceLock::new() }
    }

    /// `K_0`.
    pub fn anchor(&self) -> Hash {
        self.kept()[0]
    }

    /// How many epochs there are.
    pub fn epochs(&self) -> u64 {
        self.epochs
    }

    /// The key of an epoch from 1 on; nothing when the chain ends before.
    pub fn key(&self, epoch: u64) -> Option<Hash> {
        if !(1..=self.epochs).contains(&epoch) {
            return None;
        }
        let above = epoch.next_multiple_of(STRIDE);
        Some(match self.kept().get((above / STRIDE) as usize) {
            Some(kept) => key_below(kept, above - epoch),
            None => key_below(&self.last, self.epochs - epoch),
        })
    }

    fn kept(&self) -> &[Hash] {
        self.kept.get_or_init(|| {
            let mut key = key_below(&self.last, self.epochs % STRIDE);
            let mut kept: Vec<Hash> = (0..self.epochs / STRIDE)
                .map(|_| {
                    let above = key;
                    key = key_below(&key, STRIDE);
                    above
                })
                .collect();
            kept.push(key);
            kept.reverse();
            kept
        })
    }
}

/// HMAC-SHA-256 with a key of 32 bytes (RFC 2104).
pub fn hmac(key: &Hash, message: &[u8]) -> Hash {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        for (place, key) in block.iter_mut().zip(&key.0) {
            *place ^= key;
        }
        block
    };
    let inner = Hash::of_parts(&[&pad(0x36), message]);
    Hash::of_parts(&[&pad(0x5c), &inner.0])
}

/// The secret part of a draw, which depends on the receipt alone: HMAC-SHA-256 of the receipt's digest under the epoch's key.
pub fn seed(key: &Hash, receipt: &Hash) -> Hash {
    hmac(key, &receipt.0)
}

/// The draw of a package whose receipt was journaled at `sequence`.
pub fn draw(seed: &Hash, sequence: u64) -> Hash {
    Hash::of_parts(&[&seed.0, &sequence.to_le_bytes()])
}

/// The word of a draw that decides about unit number `index` of the package.
fn word(draw: &Hash, index: u64) -> u32 {
    let (block, word) = (index / 8, (index % 8) as usize);
    let hash = Hash::of_parts(&[&draw.0, &block.to_le_bytes()]);
    u32::from_le_bytes(hash.0[word * 4..word * 4 + 4].try_into().expect("four bytes"))
}

/// Whether unit number `index` of a package is drawn at a rate of `rate_ppm` parts per million.
pub fn is_drawn(draw: &Hash, index: u64, rate_ppm: u32) -> bool {
    u64::from(word(draw, index)) * 1_000_000 < u64::from(rate_ppm) << 32
}

/// The rates, in parts per million, at which of `count` units exactly those numbered `drawn` are drawn; nothing if there is no such
/// rate.
pub fn rates(draw: &Hash, count: u64, drawn: &[u64]) -> Option<RangeInclusive<u32>> {
    let (mut lowest, mut highest) = (0, 1_000_000);
    for index in 0..count {
        // The highest rate at which it is not drawn; below 10⁶.
        let last = ((u64::from(word(draw, index)) * 1_000_000) >> 32) as u32;
        if drawn.contains(&index) {
            lowest = lowest.max(last + 1);
        } else {
            highest = highest.min(last);
        }
    }
    let there = drawn.iter().all(|index| *index < count);
    (there && lowest <= highest).then_some(lowest..=highest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        // Its first and second cases: shorter keys are filled up with zeros.
        let check = |key: &[u8], message: &[u8], expected: &str| {
            let mut padded = [0; 32];
            padded[..key.len()].copy_from_slice(key);
            assert_eq!(hmac(&Hash(padded), message).to_string(), expected);
        };
        check(&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        check(
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
    }

    #[test]
    fn every_key_of_a_chain_leads_to_its_anchor() {
        for epochs in [1, 2, 255, 256, 257, 511, 512, 700] {
            let chain = KeyChain::new(Hash::of(b"last"), epochs);
            let told = ChallengeChain {
                anchor: chain.anchor(),
                sequence: 1,
                begins_at_ms: 1_000,
                epoch_ms: 10,
                epochs,
            };
            assert_eq!(chain.key(epochs), Some(Hash::of(b"last")));
            for epoch in (1..=epochs).filter(|epoch| epoch % 51 == 0 || *epoch < 3 || epochs - *epoch < 3) {
                let key = chain.key(epoch).expect("it is one of the chain's");
                assert!(told.has(epoch, &key), "{epoch} of {epochs}");
                assert!(!told.has(epoch + 1, &key) && !told.has(epoch - 1, &key), "{epoch} of {epochs}");
                assert_eq!(chain.key(epoch + 1).map(|key| key_below(&key, 1)).unwrap_or(key), key);
            }
            assert_eq!((chain.key(0), chain.key(epochs + 1)), (None, None));
        }
    }

    #[test]
    fn epochs_follow_one_another_from_the_anchor_on() {
        let chain = ChallengeChain {
            anchor: Hash::of(b"anchor"),
            sequence: 1,
            begins_at_ms: 1_000,
            epoch_ms: 10,
            epochs: 3,
        };
        for (at_ms, epoch, over) in [(0, 1, 0), (1_000, 1, 0), (1_009, 1, 0), (1_010, 2, 1), (9_999, 900, 3)]
        {
            assert_eq!((chain.epoch_at(at_ms), chain.last_over_at(at_ms)), (epoch, over), "{at_ms}");
        }
    }

    proptest! {
        #[test]
        fn what_was_drawn_tells_the_rate(seed: u64, count in 0u64..200, rate in 0u32..=1_000_000) {
            let draw = Hash::of(&seed.to_le_bytes());
            let drawn: Vec<u64> = (0..count).filter(|index| is_drawn(&draw, *index, rate)).collect();
            let rates = rates(&draw, count, &drawn).expect("there is at least the one it was");
            prop_assert!(rates.contains(&rate));
            for rate in [*rates.start(), *rates.end()] {
                prop_assert!((0..count).all(|index| is_drawn(&draw, index, rate) == drawn.contains(&index)));
            }
            // Whoever is drawn at the lowest rate is drawn at every other: without it no rate explains the rest.
            if drawn.len() >= 2 {
                let first = *drawn.iter().min_by_key(|index| word(&draw, **index)).expect("not empty");
                let without: Vec<u64> = drawn.iter().copied().filter(|index| *index != first).collect();
                prop_assert_eq!(super::rates(&draw, count, &without), None);
            }
            prop_assert_eq!(super::rates(&draw, count, &[count]), None);
        }
    }
}
