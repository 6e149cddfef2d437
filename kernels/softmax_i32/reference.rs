//! What `softmax_i32.wgsl` computes.

use crate::requant_i8::Factor;

/// 2^-f on [0, 1) in units of 2^-30, as `c0 - f(c1 - f(c2 - f(c3 - f(c4 - f c5))))`: interpolates at the nodes of Chebyshev
/// and is exact at both ends, so that octaves join.
const POWER: [u64; 6] = [1_073_741_824, 744_260_153, 257_909_302, 59_408_516, 9_906_609, 1_018_155];

/// Softmax of the rows of `x` [m, n] in units of 2^-15; `factor` is 2^16 times what one unit of `x` is worth over ln 2.
///
/// # Panics
/// If `x` is not made of rows of 1..=65,536, or the factor is out of range.
pub fn softmax_i32(x: &[i32], n: usize, factor: Factor) -> Vec<i32> {
    assert!((1..=1 << 16).contains(&n) && x.len().is_multiple_of(n), "x is not made of rows of {n}");
    assert!(factor.multiplier < 1 << 31 && (1..=62).contains(&factor.shift), "{factor:?} is out of range");
    let guard = n.next_power_of_two().ilog2();
    x.chunks_exact(n)
        .flat_map(|row| {
            let high = *row.iter().max().expect("rows are not empty");
            let terms: Vec<u64> =
                row.iter().map(|&value| power(octaves(high.abs_diff(value), factor), guard)).collect();
            let sum: u64 = terms.iter().sum();
            terms.into_iter().map(move |term| share(term, sum))
        })
        .collect()
}

/// `round(value · factor)`, halves up, at most 2³¹ − 1.
fn octaves(value: u32, factor: Factor) -> u64 {
    let exact = u64::from(value) * u64::from(factor.multiplier);
    ((exact >> (factor.shift - 1)).div_ceil(2)).min((1 << 31) - 1)
}

/// 2^-t with 16 fractional bits of `t`, in units of 2^-(30 - guard).
fn power(t: u64, guard: u32) -> u64 {
    let (places, f) = ((t >> 16) as u32 + guard, t & 0xffff);
    if places > 30 {
        return 0;
    }
    let [rest @ .., last] = POWER;
    let value = rest.iter().rev().fold(last, |value, coefficient| coefficient - ((value * f) >> 16));
    if places == 0 { value } else { (value >> (places - 1)).div_ceil(2) }
}

/// `round(2^15 · part / whole)`, halves up.
fn share(part: u64, whole: u64) -> i32 {
    // Sixteen bits, the last of which rounds; only the whole itself has a seventeenth.
    let bits = ((part << 16) / whole).min((1 << 16) - 1);
    bits.div_ceil(2) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_at_one_monotone_and_close() {
        assert_eq!(power(0, 0), 1 << 30);
        let mut before = 1 << 30;
        for t in 0..2 << 16 {
            let value = power(t, 0);
            assert!(value <= before, "it rises at {t}");
            before = value;
            let error = value as f64 / f64::from(1 << 30) - (-(t as f64) / 65536.0).exp2();
            assert!(error.abs() < 2f64.powi(-22), "off by {error:e} at {t}");
        }
    }

    /// 2^16 · s / ln 2 with the shift that brings the multiplier into [2^30, 2^31).
    fn factor(s: f64) -> Factor {
        let value = 65536.0 * s / std::f64::consts::LN_2;
        let shift = 30 - value.log2().floor() as i32;
        Factor { multiplier: (value * 2f64.powi(shift)).round() as u32, shift: shift as u32 }
    }

    fn words(count: usize) -> impl Iterator<Item = u32> {
        (0..count as u32).scan(1u32, |state, _| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some(*state)
        })
    }

    #[test]
    fn it_is_as_close_to_floats_as_the_readme_says() {
        for (n, scale) in
            [(1, 0.01), (2, 1e-6), (7, 0.3), (64, 0.02), (64, 0.001), (1000, 0.01), (1024, 1e-4)]
        {
            let x: Vec<i32> = words(8 * n).map(|word| (word >> 20) as i32 - 2048).collect();
            let y = softmax_i32(&x, n, factor(scale));
            let guard = n.next_power_of_two().ilog2() as i32;
            let relative = 2f64.powi(-15) + 2f64.powi(-20) + n as f64 * 2f64.powi(guard - 31);
            for (x, y) in x.chunks_exact(n).zip(y.chunks_exact(n)) {
                let high = *x.iter().max().expect("a row");
                let terms: Vec<f64> = x.iter().map(|&x| (f64::from(x - high) * scale).exp()).collect();
                let sum: f64 = terms.iter().sum();
                for (term, &y) in terms.iter().zip(y) {
                    let (expected, found) = (term / sum, f64::from(y) / 32768.0);
                    let bound = 2f64.powi(-16) + 2f64.powi(guard - 31) + expected.max(found) * relative;
                    assert!((expected - found).abs() <= bound, "n = {n}: {found} against {expected}");
                }
            }
        }
    }

    #[test]
    fn extremes_are_defined() {
        let steep = Factor { multiplier: (1 << 31) - 1, shift: 1 };
        assert_eq!(softmax_i32(&[i32::MIN, i32::MAX], 2, steep), [0, 1 << 15]);
        assert_eq!(softmax_i32(&[i32::MIN; 4], 4, steep), [1 << 13; 4]);
        assert_eq!(softmax_i32(&[0, 0, 0], 3, factor(1.0)), [10923; 3]);
        assert_eq!(softmax_i32(&[-7], 1, factor(1.0)), [1 << 15]);
    }
}
