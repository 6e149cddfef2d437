//! Random vectors from a seed: SHA-256 in counter mode.
//!
//! Whoever holds the seed draws the same vectors, so that a check can be repeated afterwards. The seed has to be unknown to the
//! worker until it has committed to its results, and each check needs a seed of its own.

use protocol::Hash;

use crate::field::{Extended, Field, MODULUS};

/// With a seed and a counter just one block of SHA-256.
const TAG: &[u8; 15] = b"plexus/draw/v1\0";

/// An endless stream of random numbers.
pub(crate) struct Draw {
    seed: [u8; 32],
    counter: u64,
    block: [u8; 32],
    /// Bytes of the block that are used up.
    used: usize,
}

impl Draw {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self { seed: *seed, counter: 0, block: [0; 32], used: 32 }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        if self.used + N > self.block.len() {
            self.block = Hash::of_parts(&[TAG, &self.seed, &self.counter.to_le_bytes()]).0;
            self.counter += 1;
            self.used = 0;
        }
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.block[self.used..self.used + N]);
        self.used += N;
        bytes
    }

    /// A number of 32 bits.
    pub(crate) fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// A field element; the one of 2⁶¹ numbers that is none is drawn again.
    pub(crate) fn field(&mut self) -> Field {
        loop {
            if let Some(field) = Field::new(u64::from_le_bytes(self.bytes()) & MODULUS) {
                return field;
            }
        }
    }

    /// An element of the extension.
    pub(crate) fn extended(&mut self) -> Extended {
        let real = self.field();
        Extended { real, imaginary: self.field() }
    }

    /// A number of either sign from [1/2, 1), one of 2²⁵ that are equally likely.
    pub(crate) fn weight(&mut self) -> f64 {
        let word = self.word();
        let magnitude = f64::from((1 << 24) + (word & 0xff_ffff)) / f64::from(1 << 25);
        if word >> 31 == 1 { -magnitude } else { magnitude }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_stream_and_another_seed_another() {
        let take = |seed: u8| {
            let mut draw = Draw::new(&[seed; 32]);
            (0..9).map(|_| draw.field().value()).collect::<Vec<_>>()
        };
        assert_eq!(take(1), take(1));
        assert!(take(1).iter().zip(take(2)).all(|(a, b)| *a != b));
    }

    #[test]
    fn weights_are_of_both_signs_and_never_small() {
        let mut draw = Draw::new(&[7; 32]);
        let weights: Vec<f64> = (0..4096).map(|_| draw.weight()).collect();
        assert!(weights.iter().all(|w| (0.5..1.0).contains(&w.abs())));
        // 4096 fair coins leave 2048 ± 320 once in 10²³ draws; the seed is fixed.
        let negative = weights.iter().filter(|w| **w < 0.0).count();
        assert!((1728..2368).contains(&negative), "{negative}");
    }
}
