//! The only source of chance: PCG-64 with a seed. Everything is drawn in whole numbers, so that a seed gives the same run on
//! every machine (`ln` and `exp` differ between libraries in their last bit).

/// A seeded generator.
#[derive(Debug)]
pub(crate) struct Chance(oorandom::Rand64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(oorandom::Rand64::new(seed.into()))
    }

    /// A number below `end`; 0 when there is none.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.0.rand_range(0..end) }
    }

    /// A number of a range, both ends included.
    pub(crate) fn between(&mut self, (first, last): (u64, u64)) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    /// Whether something that happens at a rate of `ppm` happens.
    pub(crate) fn happens(&mut self, ppm: u32) -> bool {
        self.below(1_000_000) < u64::from(ppm)
    }

    /// A time until something that happens every `mean` on average, exponentially distributed. Von Neumann's method: a
    /// descending run of uniform numbers that begins with x has an odd length with probability e⁻ˣ.
    pub(crate) fn exponential(&mut self, mean: u64) -> u64 {
        // Twenty means are exceeded once in half a thousand million times.
        for whole in 0..20 {
            let first = self.0.rand_u64();
            let (mut last, mut length) = (first, 1u32);
            loop {
                let next = self.0.rand_u64();
                if next >= last {
                    break;
                }
                (last, length) = (next, length + 1);
            }
            if length % 2 == 1 {
                let part = (u128::from(mean) * u128::from(first)) >> 64;
                return mean.saturating_mul(whole) + part as u64;
            }
        }
        mean.saturating_mul(20)
    }
}

/// A number that depends on nothing but these: for facts of the world that must be the same whoever asks.
pub(crate) fn mixed(numbers: &[u64]) -> u64 {
    // SplitMix64's finaliser over a running sum.
    numbers.iter().fold(0x243f_6a88_85a3_08d3, |state, number| {
        let mut z = (state ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_times_have_their_mean_and_median() {
        let mut chance = Chance::new(7);
        let mut drawn: Vec<u64> = (0..20_000).map(|_| chance.exponential(1_000_000)).collect();
        drawn.sort_unstable();
        let mean = drawn.iter().sum::<u64>() / 20_000;
        assert!((970_000..1_030_000).contains(&mean), "{mean}");
        // ln 2 of the mean.
        assert!((670_000..715_000).contains(&drawn[10_000]), "{}", drawn[10_000]);
    }

    #[test]
    fn ranges_include_their_ends() {
        let mut chance = Chance::new(1);
        let drawn: std::collections::BTreeSet<u64> = (0..100).map(|_| chance.between((3, 5))).collect();
        assert_eq!(drawn, [3, 4, 5].into());
        assert_eq!(chance.between((4, 4)), 4);
    }
}
