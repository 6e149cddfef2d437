//! Proofs and keys as the alt_bn128 calls of Solana (and the precompiled contracts of Ethereum, EIP-196 and EIP-197) read them.
//!
//! A coordinate is 32 bytes, big-endian and below the field's order. A point of G1 is x ‖ y; one of G2 is x ‖ y with the
//! imaginary part of each before the real one; the point at infinity is all zeros. A proof is −A ‖ B ‖ C, A negated because the
//! call checks that a product of pairings is one:
//!
//! e(−A, B) · e(IC₀ + Σ inputᵢ·ICᵢ₊₁, γ) · e(C, δ) · e(α, β) = 1.
//!
//! [`VerifyingKey::verify`] computes just this from just these bytes, so that what it accepts the chain accepts.

use ark_bn254::{Bn254, Fq, Fq2, G1Affine, G1Projective, G2Affine};
use ark_ec::{AffineRepr, CurveGroup, pairing::Pairing};
use ark_ff::{One, PrimeField};

use crate::{Claim, commitment::big_endian};

const G1_BYTES: usize = 64;
const G2_BYTES: usize = 128;
/// −A, B and C.
pub const PROOF_BYTES: usize = 2 * G1_BYTES + G2_BYTES;
/// α, β, γ, δ and IC₀ to IC₃.
pub const VERIFYING_KEY_BYTES: usize = 5 * G1_BYTES + 3 * G2_BYTES;

/// Bytes that are not a proof or a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointError {
    /// A coordinate is not below the order of the field.
    #[error("a coordinate is not below the order of the field")]
    Coordinate,
    /// The coordinates are not those of a point.
    #[error("a point is not on the curve")]
    Curve,
    /// The point is not of the order that pairings need.
    #[error("a point is not in the subgroup")]
    Subgroup,
}

/// A proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    a_negated: G1Affine,
    b: G2Affine,
    c: G1Affine,
}

impl Proof {
    pub(crate) fn of(proof: &ark_groth16::Proof<Bn254>) -> Self {
        Self { a_negated: -proof.a, b: proof.b, c: proof.c }
    }

    /// −A ‖ B ‖ C.
    pub fn encode(&self) -> [u8; PROOF_BYTES] {
        let mut bytes = Vec::with_capacity(PROOF_BYTES);
        put_g1(&mut bytes, &self.a_negated);
        put_g2(&mut bytes, &self.b);
        put_g1(&mut bytes, &self.c);
        bytes.try_into().expect("three points")
    }

    /// The proof with these bytes.
    pub fn decode(bytes: &[u8; PROOF_BYTES]) -> Result<Self, PointError> {
        let mut rest = &bytes[..];
        Ok(Self { a_negated: take_g1(&mut rest)?, b: take_g2(&mut rest)?, c: take_g1(&mut rest)? })
    }
}

/// What verifies the proofs of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    alpha: G1Affine,
    beta: G2Affine,
    gamma: G2Affine,
    delta: G2Affine,
    inputs: [G1Affine; 4],
}

impl VerifyingKey {
    pub(crate) fn of(key: &ark_groth16::VerifyingKey<Bn254>) -> Self {
        let inputs = key.gamma_abc_g1.clone().try_into().expect("three public inputs");
        Self { alpha: key.alpha_g1, beta: key.beta_g2, gamma: key.gamma_g2, delta: key.delta_g2, inputs }
    }

    /// α ‖ β ‖ γ ‖ δ ‖ IC₀ ‖ IC₁ ‖ IC₂ ‖ IC₃.
    pub fn encode(&self) -> [u8; VERIFYING_KEY_BYTES] {
        let mut bytes = Vec::with_capacity(VERIFYING_KEY_BYTES);
        put_g1(&mut bytes, &self.alpha);
        [self.beta, self.gamma, self.delta].iter().for_each(|point| put_g2(&mut bytes, point));
        self.inputs.iter().for_each(|point| put_g1(&mut bytes, point));
        bytes.try_into().expect("eight points")
    }

    /// The key with these bytes.
    pub fn decode(bytes: &[u8; VERIFYING_KEY_BYTES]) -> Result<Self, PointError> {
        let mut rest = &bytes[..];
        Ok(Self {
            alpha: take_g1(&mut rest)?,
            beta: take_g2(&mut rest)?,
            gamma: take_g2(&mut rest)?,
            delta: take_g2(&mut rest)?,
            inputs: [take_g1(&mut rest)?, take_g1(&mut rest)?, take_g1(&mut rest)?, take_g1(&mut rest)?],
        })
    }

    /// Whether the commitments have openings W, X and Y with Y = W·X.
    pub fn verify(&self, claim: &Claim, proof: &Proof) -> bool {
        let start = G1Projective::from(self.inputs[0]);
        let terms = claim.elements().into_iter().zip(&self.inputs[1..]);
        let input = terms.fold(start, |sum, (element, point)| sum + *point * element);
        let left = [proof.a_negated, input.into_affine(), proof.c, self.alpha];
        let right = [proof.b, self.gamma, self.delta, self.beta];
        Bn254::multi_pairing(left, right).0.is_one()
    }
}

fn put(bytes: &mut Vec<u8>, coordinate: Fq) {
    bytes.extend(big_endian(coordinate.into_bigint()));
}

fn put_g1(bytes: &mut Vec<u8>, point: &G1Affine) {
    // Infinity has no coordinates.
    let (x, y) = point.xy().unwrap_or_default();
    put(bytes, x);
    put(bytes, y);
}

fn put_g2(bytes: &mut Vec<u8>, point: &G2Affine) {
    let (x, y) = point.xy().unwrap_or_default();
    for coordinate in [x, y] {
        put(bytes, coordinate.c1);
        put(bytes, coordinate.c0);
    }
}

/// The next coordinate; `rest` has one.
fn take(rest: &mut &[u8]) -> Result<Fq, PointError> {
    let (bytes, more) = rest.split_at(32);
    *rest = more;
    let coordinate = Fq::from_be_bytes_mod_order(bytes);
    if big_endian(coordinate.into_bigint()) == bytes { Ok(coordinate) } else { Err(PointError::Coordinate) }
}

fn take_g1(rest: &mut &[u8]) -> Result<G1Affine, PointError> {
    let (x, y) = (take(rest)?, take(rest)?);
    if (x, y) == Default::default() {
        return Ok(G1Affine::zero());
    }
    let point = G1Affine::new_unchecked(x, y);
    // G1 is the whole curve.
    if point.is_on_curve() { Ok(point) } else { Err(PointError::Curve) }
}

fn take_g2(rest: &mut &[u8]) -> Result<G2Affine, PointError> {
    let mut coordinate = || {
        let imaginary = take(rest)?;
        Ok(Fq2::new(take(rest)?, imaginary))
    };
    let (x, y) = (coordinate()?, coordinate()?);
    if (x, y) == Default::default() {
        return Ok(G2Affine::zero());
    }
    let point = G2Affine::new_unchecked(x, y);
    if !point.is_on_curve() {
        return Err(PointError::Curve);
    }
    if point.is_in_correct_subgroup_assuming_on_curve() { Ok(point) } else { Err(PointError::Subgroup) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generators_are_encoded_as_in_eip_197() {
        let mut bytes = Vec::new();
        put_g1(&mut bytes, &G1Affine::generator());
        put_g2(&mut bytes, &G2Affine::generator());
        let expected = concat!(
            "0000000000000000000000000000000000000000000000000000000000000001",
            "0000000000000000000000000000000000000000000000000000000000000002",
            "198e9393920d483a7260bfb731fb5d25f1aa493335a9e71297e485b7aef312c2",
            "1800deef121f1e76426a00665e5c4479674322d4f75edadd46debd5cd992f6ed",
            "090689d0585ff075ec9e99ad690c3395bc4b313370b38ef355acdadcd122975b",
            "12c85ea5db8c6deb4aab71808dcb408fe3d1e7690c43d37b4ce6cc0166fa7daa",
        );
        assert_eq!(hex::encode(&bytes), expected);
        let mut rest = &bytes[..];
        assert_eq!(take_g1(&mut rest), Ok(G1Affine::generator()));
        assert_eq!(take_g2(&mut rest), Ok(G2Affine::generator()));
    }

    #[test]
    fn points_decode_strictly() {
        let mut bytes = Vec::new();
        put_g1(&mut bytes, &G1Affine::zero());
        assert_eq!(
            (take_g1(&mut &bytes[..]), bytes.iter().all(|byte| *byte == 0)),
            (Ok(G1Affine::zero()), true)
        );
        let order = big_endian(Fq::MODULUS);
        let unreduced: Vec<u8> = [order, [0; 32]].concat();
        assert_eq!(take_g1(&mut &unreduced[..]), Err(PointError::Coordinate));
        let mut off = [0; 64];
        (off[31], off[63]) = (1, 3);
        assert_eq!(take_g1(&mut &off[..]), Err(PointError::Curve));
        // The curve of G2 has more points than the subgroup: the first x that has a y is one of them.
        let point = (1_u64..)
            .find_map(|x| G2Affine::get_point_from_x_unchecked(Fq2::new(x.into(), 0_u64.into()), false))
            .expect("half of all x have one");
        let mut bytes = Vec::new();
        put_g2(&mut bytes, &point);
        assert_eq!(take_g2(&mut &bytes[..]), Err(PointError::Subgroup));
    }
}
