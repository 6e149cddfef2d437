//! What `requant_i8.wgsl` computes.

/// A factor of at most 2³⁰ as `multiplier / 2^shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Below 2³¹.
    pub multiplier: u32,
    /// 1..=62.
    pub shift: u32,
}

/// `y = clamp(round(x · factor))`, one factor per column of `x` [m, n], with `relu` after negative values became 0; halves round
/// away from zero.
///
/// # Panics
/// If `x` is not made of whole rows, or a factor is out of range.
pub fn requant_i8(x: &[i32], factors: &[Factor], relu: bool) -> Vec<i8> {
    assert!(factors.len().is_multiple_of(4), "{} columns are not a multiple of 4", factors.len());
    assert!(x.len().is_multiple_of(factors.len()), "x is not made of whole rows");
    let columns = factors.iter().cycle();
    x.iter().zip(columns).map(|(&x, factor)| scaled(if relu { x.max(0) } else { x }, *factor)).collect()
}

fn scaled(value: i32, factor: Factor) -> i8 {
    assert!(factor.multiplier < 1 << 31 && (1..=62).contains(&factor.shift), "{factor:?} is out of range");
    let product = u64::from(value.unsigned_abs()) * u64::from(factor.multiplier);
    // At most 2^62, and more than int8 holds saturates.
    let size = ((product + (1 << (factor.shift - 1))) >> factor.shift).min(255) as i32;
    (if value < 0 { -size } else { size }).clamp(-128, 127) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relu_rounds_half_up_and_saturates() {
        let half = Factor { multiplier: 1 << 30, shift: 31 };
        let y = requant_i8(&[-5, 0, 1, 2, 3, 253, 254, i32::MAX], &[half; 4], true);
        assert_eq!(y, [0, 0, 1, 1, 2, 127, 127, 127]);
    }

    #[test]
    fn without_relu_halves_round_away_from_zero() {
        let half = Factor { multiplier: 1 << 30, shift: 31 };
        let y = requant_i8(&[-1, -2, -3, 3, -255, -256, -257, i32::MIN], &[half; 4], false);
        assert_eq!(y, [-1, -1, -2, 2, -128, -128, -128, -128]);
    }
}
