//! What `requant_i8.wgsl` computes.

/// A factor of at most 2³⁰ as `multiplier / 2^shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Below 2³¹.
    pub multiplier: u32,
    /// 1..=62.
    pub shift: u32,
}

/// `y = min(127, round(max(x, 0) · factor))`, one factor per column of `x` [m, n]; halves round up.
///
/// # Panics
/// If `x` is not made of whole rows, or a factor is out of range.
pub fn requant_i8(x: &[i32], factors: &[Factor]) -> Vec<i8> {
    assert!(factors.len().is_multiple_of(4), "{} columns are not a multiple of 4", factors.len());
    assert!(x.len().is_multiple_of(factors.len()), "x is not made of whole rows");
    x.iter().zip(factors.iter().cycle()).map(|(&value, factor)| scaled(value, *factor)).collect()
}

fn scaled(value: i32, factor: Factor) -> i8 {
    assert!(factor.multiplier < 1 << 31 && (1..=62).contains(&factor.shift), "{factor:?} is out of range");
    let product = u64::from(value.max(0).unsigned_abs()) * u64::from(factor.multiplier);
    let rounded = (product + (1 << (factor.shift - 1))) >> factor.shift;
    i8::try_from(rounded).unwrap_or(i8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relu_rounds_half_up_and_saturates() {
        let half = Factor { multiplier: 1 << 30, shift: 31 };
        let y = requant_i8(&[-5, 0, 1, 2, 3, 253, 254, i32::MAX], &[half; 4]);
        assert_eq!(y, [0, 0, 1, 1, 2, 127, 127, 127]);
    }
}
