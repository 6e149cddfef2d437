//! Integer arithmetic of ratios: parts per million, and a logarithm.
//!
//! Nothing here rounds by the machine: the same inputs give the same digits everywhere, which is what a replay needs.

/// One, in parts per million.
pub const PPM: u64 = 1_000_000;

/// `value · numerator / denominator`, rounded down; `u64::MAX` where that is more than fits, 0 where nothing is divided by.
pub fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(value) * u128::from(numerator);
    product.checked_div(u128::from(denominator)).map_or(0, clip)
}

/// `part / whole` in parts per million, rounded down; 0 of nothing.
pub fn share_ppm(part: u64, whole: u64) -> u64 {
    scale(PPM, part, whole)
}

/// The nearest that a `u64` can hold.
pub fn clip(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// Bits after the point while the logarithm is made.
const FRACTION_BITS: u32 = 32;

/// `log2(1 + part / unit)` in parts per million, rounded down.
///
/// The whole part is counted by doubling; each further binary digit comes from squaring what is left (Knuth, The Art of
/// Computer Programming 1, 1.2.2, exercise 25). Exact at powers of two, and never more than one part per million too low.
///
/// # Panics
///
/// If `unit` is 0.
pub fn log2_1p_ppm(part: u64, unit: u64) -> u64 {
    assert!(unit > 0, "a logarithm has a unit");
    let (value, unit) = (u128::from(part) + u128::from(unit), u128::from(unit));
    let mut whole = (128 - value.leading_zeros()) - (128 - unit.leading_zeros());
    if unit << whole > value {
        whole -= 1;
    }
    // In [2⁶², 2⁶³): the value over its power of two.
    let mut rest = (value << 62) / (unit << whole);
    let mut digits = u128::from(whole);
    for _ in 0..FRACTION_BITS {
        rest = (rest * rest) >> 62;
        digits <<= 1;
        if rest >> 63 != 0 {
            digits |= 1;
            rest >>= 1;
        }
    }
    clip((digits * u128::from(PPM)) >> FRACTION_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_that_of_the_tables() {
        let check = |part, unit, expected| assert_eq!(log2_1p_ppm(part, unit), expected, "{part}/{unit}");
        check(0, 1, 0);
        check(1, 1, PPM);
        check(1_023, 1, 10 * PPM);
        check(7_000, 1_000, 3 * PPM);
        // log2(1.5), log2(3), log2(101).
        check(1, 2, 584_962);
        check(2, 1, 1_584_962);
        check(100, 1, 6_658_211);
        check(u64::MAX, 1, 64 * PPM);
        check(u64::MAX, u64::MAX, PPM);
    }

    #[test]
    fn the_logarithm_never_falls_and_is_close_to_the_real_one() {
        let mut before = 0;
        for part in (0..20_000u64).map(|i| i * i * i) {
            let found = log2_1p_ppm(part, 1_000);
            assert!(found >= before);
            let real = (1.0 + part as f64 / 1e3).log2() * 1e6;
            assert!((found as f64 - real).abs() <= 2.0, "{part}: {found} against {real}");
            before = found;
        }
    }

    #[test]
    fn shares_do_not_overflow() {
        assert_eq!(scale(u64::MAX, u64::MAX, 1), u64::MAX);
        assert_eq!(scale(7, 3, 0), 0);
        assert_eq!(share_ppm(1, 3), 333_333);
    }
}
