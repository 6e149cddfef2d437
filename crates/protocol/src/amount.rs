//! Money: whole base units, never floating point.

use std::{fmt, str::FromStr};

use borsh::{BorshDeserialize, BorshSerialize};

/// One token is 10⁹ base units.
pub const BASE_UNITS_PER_TOKEN: u64 = 1_000_000_000;

/// An amount of money in base units (10⁻⁹ token). JSON form: decimal digits in a string.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
pub struct Amount(pub u64);

/// Why a text is not an amount.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AmountError {
    /// Not digits with at most one decimal point.
    #[error("expected a decimal number such as \"0.25\", found {0:?}")]
    Malformed(String),
    /// Finer than a base unit.
    #[error("an amount has at most 9 decimal places, found {0:?}")]
    TooFine(String),
    /// More than a `u64` of base units.
    #[error("the amount {0:?} is too large")]
    TooLarge(String),
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Reads an amount written in tokens, such as `"1.5"`.
    pub fn from_tokens(text: &str) -> Result<Self, AmountError> {
        let malformed = || AmountError::Malformed(text.to_owned());
        let too_large = || AmountError::TooLarge(text.to_owned());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty()
            || !digits(whole)
            || !digits(fraction)
            || (text.contains('.') && fraction.is_empty())
        {
            return Err(malformed());
        }
        if fraction.len() > 9 {
            return Err(AmountError::TooFine(text.to_owned()));
        }
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let fraction: u64 = format!("{fraction:0<9}").parse().map_err(|_| malformed())?;
        whole
            .checked_mul(BASE_UNITS_PER_TOKEN)
            .and_then(|w| w.checked_add(fraction))
            .map(Self)
            .ok_or_else(too_large)
    }

    /// The amount in tokens, without trailing zeros: `"1.5"`.
    pub fn to_tokens(self) -> String {
        let (whole, fraction) = (self.0 / BASE_UNITS_PER_TOKEN, self.0 % BASE_UNITS_PER_TOKEN);
        let text = format!("{whole}.{fraction:09}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    /// `self + other`, or nothing on overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// `self - other`, or nothing if `other` is more.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// `self · factor`, or nothing on overflow.
    pub fn checked_mul(self, factor: u64) -> Option<Self> {
        self.0.checked_mul(factor).map(Self)
    }

    /// The share of `self` in basis points (1/10 000), rounded down.
    pub fn share_bps(self, bps: u32) -> Self {
        let share = u128::from(self.0) * u128::from(bps) / 10_000;
        Self(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        crate::decimal::parse(text).map(Self).ok_or_else(|| AmountError::Malformed(text.to_owned()))
    }
}

crate::string_form!(Amount);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_and_print() {
        for (text, units) in [("0", 0), ("1", 1_000_000_000), ("0.000000001", 1), ("1.5", 1_500_000_000)] {
            assert_eq!(Amount::from_tokens(text), Ok(Amount(units)));
            assert_eq!(Amount(units).to_tokens(), text);
        }
        assert_eq!(Amount::from_tokens("1.50"), Ok(Amount(1_500_000_000)));
    }

    #[test]
    fn bad_amounts_are_refused() {
        for text in ["", ".5", "1.", "-1", "1e3", "1.0000000001", "18446744074", "1,5", " 1"] {
            assert!(Amount::from_tokens(text).is_err(), "{text:?}");
        }
        assert!("01".parse::<Amount>().is_err());
    }

    #[test]
    fn a_share_rounds_down_and_never_exceeds_the_whole() {
        assert_eq!(Amount(999).share_bps(500), Amount(49));
        assert_eq!(Amount(u64::MAX).share_bps(10_000), Amount(u64::MAX));
    }
}
