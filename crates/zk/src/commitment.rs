//! Commitments that a circuit can open cheaply: Poseidon over the scalar field of BN254.
//!
//! The permutation has three elements, eight full and 57 partial rounds and x⁵, with the constants that the reference generator
//! gives (L. Grassi et al., *Poseidon: a new hash function for zero-knowledge proof systems*, 2021); used as a sponge of rate
//! two. It absorbs what is committed to and how many elements that has, the blinding, then the elements, so many to a field element
//! as fit: 31 bytes or seven words, each moved up by half its range so that none is negative.

use ark_bn254::Fr;
use ark_crypto_primitives::sponge::{
    CryptographicSponge,
    poseidon::{PoseidonConfig, PoseidonSponge, find_poseidon_ark_and_mds},
};
use ark_ff::{AdditiveGroup as _, BigInteger, PrimeField};

/// 8-bit elements in a field element.
pub(crate) const BYTES_PACKED: usize = 31;
/// 32-bit elements in a field element.
pub(crate) const WORDS_PACKED: usize = 7;

/// Binds to a matrix and, if the blinding is secret, hides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commitment(Fr);

/// Bytes that are not those of a field element.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not below the order of BN254")]
pub struct NotCanonical;

/// Which matrix a commitment is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// W.
    Weights,
    /// X.
    Input,
    /// Y.
    Output,
}

/// What hides a committed matrix. Has to be random, and used once.
#[derive(Clone)]
pub struct Blinding(pub(crate) Fr);

impl Blinding {
    /// Hides nothing: who knows the matrix knows the commitment.
    pub const NONE: Self = Self(Fr::ZERO);

    /// From 32 random bytes, with a bias below 2⁻¹²⁷.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        use crate::seed::Stream;
        use ark_std::rand::RngCore as _;
        let mut bytes = [0; 48];
        Stream::new(b"blind", seed).fill_bytes(&mut bytes);
        Self(Fr::from_le_bytes_mod_order(&bytes))
    }
}

impl Commitment {
    /// Big-endian, as a chain takes public inputs.
    pub fn bytes(self) -> [u8; 32] {
        big_endian(self.0.into_bigint())
    }

    /// The commitment with these bytes; other bytes for the same element are refused.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, NotCanonical> {
        let element = Self(Fr::from_be_bytes_mod_order(bytes));
        if element.bytes() == *bytes { Ok(element) } else { Err(NotCanonical) }
    }

    /// A commitment to 8-bit integers, W or X.
    pub fn to_bytes(role: Role, values: &[i8], blinding: &Blinding) -> Self {
        of_bytes(role, values, blinding)
    }

    /// A commitment to 32-bit integers, Y.
    pub fn to_words(role: Role, values: &[i32], blinding: &Blinding) -> Self {
        of_words(role, values, blinding)
    }

    pub(crate) fn element(self) -> Fr {
        self.0
    }
}

pub(crate) fn big_endian<const LIMBS: usize>(number: ark_ff::BigInt<LIMBS>) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&number.to_bytes_be());
    bytes
}

/// What a sponge absorbs first.
pub(crate) fn head(role: Role, elements: usize) -> Fr {
    let role = match role {
        Role::Weights => 1_u64,
        Role::Input => 2,
        Role::Output => 3,
    };
    Fr::from(role << 32 | elements as u64)
}

pub(crate) fn of_bytes(role: Role, values: &[i8], blinding: &Blinding) -> Commitment {
    let moved: Vec<u64> = values.iter().map(|value| (i64::from(*value) + (1 << 7)) as u64).collect();
    of(role, &moved, BYTES_PACKED, 8, blinding)
}

pub(crate) fn of_words(role: Role, values: &[i32], blinding: &Blinding) -> Commitment {
    let moved: Vec<u64> = values.iter().map(|value| (i64::from(*value) + (1 << 31)) as u64).collect();
    of(role, &moved, WORDS_PACKED, 32, blinding)
}

fn of(role: Role, values: &[u64], packed: usize, bits: u32, blinding: &Blinding) -> Commitment {
    let mut sponge = PoseidonSponge::new(&poseidon());
    sponge.absorb(&vec![head(role, values.len()), blinding.0]);
    let base = Fr::from(1_u64 << bits);
    let pack =
        |values: &[u64]| values.iter().rev().fold(Fr::ZERO, |sum, value| sum * base + Fr::from(*value));
    sponge.absorb(&values.chunks(packed).map(pack).collect::<Vec<_>>());
    let element: Vec<Fr> = sponge.squeeze_field_elements(1);
    Commitment(element[0])
}

/// The permutation's constants.
pub(crate) fn poseidon() -> PoseidonConfig<Fr> {
    const RATE: usize = 2;
    const FULL_ROUNDS: usize = 8;
    const PARTIAL_ROUNDS: usize = 57;
    let (constants, matrix) = find_poseidon_ark_and_mds::<Fr>(
        u64::from(Fr::MODULUS_BIT_SIZE),
        RATE,
        FULL_ROUNDS as u64,
        PARTIAL_ROUNDS as u64,
        0,
    );
    PoseidonConfig::new(FULL_ROUNDS, PARTIAL_ROUNDS, 5, matrix, constants, RATE, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_are_the_published_ones() {
        // The first ones of x5_254_3, as the reference implementation prints them.
        let poseidon = poseidon();
        assert_eq!(
            hex::encode(big_endian(poseidon.ark[0][0].into_bigint())),
            "0ee9a592ba9a9518d05986d656f40c2114c4993c11bb29938d21d47304cd8e6e"
        );
        assert_eq!(
            hex::encode(big_endian(poseidon.mds[0][0].into_bigint())),
            "109b7f411ba0e4c9b2b70caf5c36a7b194be7c11ad24378bfedb68592ba8118b"
        );
    }

    #[test]
    fn everything_that_is_committed_counts() {
        let blinding = Blinding::from_seed(&[1; 32]);
        let of = |role, values: &[i8], blinding| Commitment::to_bytes(role, values, blinding);
        let all = [
            of(Role::Weights, &[1, -2, 3], &blinding),
            of(Role::Input, &[1, -2, 3], &blinding),
            of(Role::Weights, &[1, -2, 4], &blinding),
            // The element −128 is packed as zero: the number of elements tells it from none.
            of(Role::Weights, &[1, -2, 3, -128], &blinding),
            of(Role::Weights, &[1, -2, 3], &Blinding::NONE),
            of(Role::Weights, &[1, -2, 3], &Blinding::from_seed(&[2; 32])),
            Commitment::to_words(Role::Weights, &[1, -2, 3], &blinding),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other != one), "{index}");
        }
    }

    #[test]
    fn a_commitment_has_one_sequence_of_bytes() {
        let commitment = Commitment::to_bytes(Role::Input, &[5], &Blinding::NONE);
        assert_eq!(Commitment::from_bytes(&commitment.bytes()), Ok(commitment));
        assert_eq!(Commitment::from_bytes(&big_endian(Fr::MODULUS)), Err(NotCanonical));
        assert_eq!(Commitment::from_bytes(&[0xff; 32]), Err(NotCanonical));
    }
}
