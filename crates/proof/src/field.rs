//! The prime field of 2⁶¹ − 1 elements, in which the algebraic checks compute, and its extension to the square.
//!
//! A Mersenne prime reduces by shift and addition, and sums of many products with small integers fit 128 bits before they
//! have to. Nothing here runs in constant time: what is computed is public as soon as the challenge is.

use std::{
    io,
    ops::{Add, AddAssign, Mul, Neg, Sub},
};

use borsh::{BorshDeserialize, BorshSerialize};

/// 2⁶¹ − 1.
pub const MODULUS: u64 = (1 << 61) - 1;

/// An element of the prime field, always below [`MODULUS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, BorshSerialize)]
pub struct Field(u64);

/// A + b·i with i² = −1, which has no root in the prime field because p ≡ 3 modulo 4: one of p² ≈ 2¹²² elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Extended {
    /// A.
    pub real: Field,
    /// B.
    pub imaginary: Field,
}

impl Field {
    /// Neutral to addition.
    pub const ZERO: Self = Self(0);
    /// Neutral to multiplication.
    pub const ONE: Self = Self(1);

    /// The element with this number, or nothing if there is none.
    pub const fn new(value: u64) -> Option<Self> {
        if value < MODULUS { Some(Self(value)) } else { None }
    }

    /// Its number, below [`MODULUS`].
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The residue of an integer with its sign: −1 is p − 1.
    pub fn of(value: i128) -> Self {
        // Twice 2⁶¹ ≡ 1: 127 bits become at most 67, then 62.
        let fold = |v: i128| (v & i128::from(MODULUS)) + (v >> 61);
        let folded = fold(fold(value));
        // Now −64 ≤ folded ≤ p + 64.
        let value = if folded < 0 { folded + i128::from(MODULUS) } else { folded } as u64;
        Self(if value >= MODULUS { value - MODULUS } else { value })
    }

    /// The element to the power of `exponent`.
    pub fn pow(self, mut exponent: u64) -> Self {
        let (mut base, mut power) = (self, Self::ONE);
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = power * base;
            }
            base = base * base;
            exponent >>= 1;
        }
        power
    }

    /// What gives one when multiplied; zero for zero.
    pub fn inverse(self) -> Self {
        self.pow(MODULUS - 2)
    }
}

impl Add for Field {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let sum = self.0 + other.0;
        Self(if sum >= MODULUS { sum - MODULUS } else { sum })
    }
}

impl AddAssign for Field {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Field {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        let difference = self.0.wrapping_sub(other.0);
        Self(if self.0 < other.0 { difference.wrapping_add(MODULUS) } else { difference })
    }
}

impl Neg for Field {
    type Output = Self;
    fn neg(self) -> Self {
        Self::ZERO - self
    }
}

impl Mul for Field {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let product = u128::from(self.0) * u128::from(other.0);
        let sum = (product as u64 & MODULUS) + (product >> 61) as u64;
        Self(if sum >= MODULUS { sum - MODULUS } else { sum })
    }
}

/// Only the one number below the modulus stands for an element.
impl BorshDeserialize for Field {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let value = u64::deserialize_reader(reader)?;
        Self::new(value).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a field element"))
    }
}

impl Extended {
    /// Neutral to addition.
    pub const ZERO: Self = Self { real: Field::ZERO, imaginary: Field::ZERO };
    /// Neutral to multiplication.
    pub const ONE: Self = Self { real: Field::ONE, imaginary: Field::ZERO };
}

impl Add for Extended {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { real: self.real + other.real, imaginary: self.imaginary + other.imaginary }
    }
}

impl AddAssign for Extended {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Extended {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { real: self.real - other.real, imaginary: self.imaginary - other.imaginary }
    }
}

impl Mul for Extended {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        Self {
            real: self.real * other.real - self.imaginary * other.imaginary,
            imaginary: self.real * other.imaginary + self.imaginary * other.real,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow(value: i128) -> u64 {
        value.rem_euclid(i128::from(MODULUS)) as u64
    }

    #[test]
    fn the_ends_of_the_range_reduce() {
        let p = i128::from(MODULUS);
        for value in [0, 1, -1, p, -p, p - 1, p + 1, 2 * p, -2 * p, i128::MAX, i128::MIN, p * p, -p * p] {
            assert_eq!(Field::of(value).value(), slow(value), "{value}");
        }
        assert_eq!(Field::new(MODULUS), None);
        assert_eq!(Field::ZERO.inverse(), Field::ZERO);
    }

    #[test]
    fn minus_one_has_no_root_below_the_extension() {
        // Euler: the power of (p − 1)/2 tells squares from others.
        assert_eq!((-Field::ONE).pow((MODULUS - 1) / 2), -Field::ONE);
    }

    #[test]
    fn an_element_has_one_encoding() {
        for value in [0, 1, MODULUS - 1] {
            let element = Field::new(value).expect("below the modulus");
            assert_eq!(borsh::from_slice::<Field>(&value.to_le_bytes()).expect("canonical"), element);
            assert_eq!(borsh::to_vec(&element).expect("bytes"), value.to_le_bytes());
        }
        for value in [MODULUS, MODULUS + 1, u64::MAX] {
            assert!(borsh::from_slice::<Field>(&value.to_le_bytes()).is_err(), "{value}");
        }
    }

    proptest! {
        #[test]
        fn the_extension_multiplies_like_complex_integers(a: i32, b: i32, c: i32, d: i32) {
            let number = |real: i128, imaginary: i128| Extended { real: Field::of(real), imaginary: Field::of(imaginary) };
            let (a, b, c, d) = (i128::from(a), i128::from(b), i128::from(c), i128::from(d));
            prop_assert_eq!(number(a, b) * number(c, d), number(a * c - b * d, a * d + b * c));
            prop_assert_eq!(number(a, b) + number(c, d) - number(a, b), number(c, d));
        }

        #[test]
        fn it_is_the_field_of_residues(a: i128, b: i128) {
            let (x, y) = (Field::of(a), Field::of(b));
            prop_assert_eq!(x.value(), slow(a));
            let (a, b) = (i128::from(x.value()), i128::from(y.value()));
            prop_assert_eq!((x + y).value(), slow(a + b));
            prop_assert_eq!((x - y).value(), slow(a - b));
            prop_assert_eq!((x * y).value(), slow(a * b));
            prop_assert_eq!((-x).value(), slow(-a));
            if x != Field::ZERO {
                prop_assert_eq!(x * x.inverse(), Field::ONE);
            }
        }
    }
}
