//! The circuit: three openings and a matrix product.
//!
//! Elements of W and X are eight bits each, so that none can be anything else. Then those of Y are sums of few small products, and a
//! field element holds seven of them in one way only. A constraint for each bit, each product and each multiplication of the
//! sponges; sums are free.

use ark_bn254::Fr;
use ark_crypto_primitives::sponge::{
    constraints::CryptographicSpongeVar, poseidon::constraints::PoseidonSpongeVar,
};
use ark_r1cs_std::{alloc::AllocVar, boolean::Boolean, eq::EqGadget, fields::fp::FpVar};
use ark_relations::r1cs::{ConstraintSynthesizer, ConstraintSystemRef, SynthesisError};

use crate::{
    Claim, Shape, Witness,
    commitment::{BYTES_PACKED, Blinding, Role, WORDS_PACKED, head, poseidon},
};

/// The circuit of a shape, with its values or, for the setup, without.
pub(crate) struct Circuit<'a> {
    shape: Shape,
    values: Option<(&'a Witness, &'a [i32], &'a Claim)>,
}

impl<'a> Circuit<'a> {
    pub(crate) fn blank(shape: Shape) -> Self {
        Self { shape, values: None }
    }

    pub(crate) fn filled(shape: Shape, witness: &'a Witness, output: &'a [i32], claim: &'a Claim) -> Self {
        Self { shape, values: Some((witness, output, claim)) }
    }
}

impl ConstraintSynthesizer<Fr> for Circuit<'_> {
    fn generate_constraints(self, system: ConstraintSystemRef<Fr>) -> Result<(), SynthesisError> {
        let Self { shape, values } = self;
        let (witness, claim) = (values.map(|(witness, ..)| witness), values.map(|(.., claim)| claim));
        let mut public = Vec::with_capacity(3);
        for index in 0..3 {
            let element =
                || claim.map(|claim| claim.elements()[index]).ok_or(SynthesisError::AssignmentMissing);
            public.push(FpVar::new_input(system.clone(), element)?);
        }
        let weights = bytes(&system, shape.weights(), witness.map(|witness| &witness.weights[..]))?;
        let input = bytes(&system, shape.inputs(), witness.map(|witness| &witness.input[..]))?;

        let (inner, columns) = (shape.inner as usize, shape.columns as usize);
        let mut output = Vec::with_capacity(shape.outputs());
        for row in weights.chunks(inner) {
            for column in 0..columns {
                let terms = row.iter().enumerate();
                let products: Vec<FpVar<Fr>> =
                    terms.map(|(index, weight)| weight * &input[index * columns + column]).collect();
                output.push(products.iter().sum::<FpVar<Fr>>());
            }
        }

        let opening = |role, values: &[FpVar<Fr>], blinding: Option<&Blinding>, packed, bits| {
            open(&system, role, values, blinding, packed, bits)
        };
        let opened = [
            opening(Role::Weights, &weights, witness.map(|w| &w.weights_blinding), BYTES_PACKED, 8)?,
            opening(Role::Input, &input, witness.map(|w| &w.input_blinding), BYTES_PACKED, 8)?,
            opening(Role::Output, &output, witness.map(|w| &w.output_blinding), WORDS_PACKED, 32)?,
        ];
        opened.iter().zip(&public).try_for_each(|(opened, public)| opened.enforce_equal(public))
    }
}

/// New 8-bit integers with a sign.
fn bytes(
    system: &ConstraintSystemRef<Fr>,
    count: usize,
    values: Option<&[i8]>,
) -> Result<Vec<FpVar<Fr>>, SynthesisError> {
    (0..count)
        .map(|index| {
            let moved = values.map(|values| (i16::from(values[index]) + (1 << 7)) as u16);
            let bits: Vec<Boolean<Fr>> = (0..8)
                .map(|bit| {
                    let bit =
                        || moved.map(|moved| moved >> bit & 1 == 1).ok_or(SynthesisError::AssignmentMissing);
                    Boolean::new_witness(system.clone(), bit)
                })
                .collect::<Result<_, _>>()?;
            Ok(Boolean::le_bits_to_fp(&bits)? - Fr::from(1_u64 << 7))
        })
        .collect()
}

/// The commitment to values of so many bits.
fn open(
    system: &ConstraintSystemRef<Fr>,
    role: Role,
    values: &[FpVar<Fr>],
    blinding: Option<&Blinding>,
    packed: usize,
    bits: u32,
) -> Result<FpVar<Fr>, SynthesisError> {
    let blinding = FpVar::new_witness(system.clone(), || {
        blinding.map(|blinding| blinding.0).ok_or(SynthesisError::AssignmentMissing)
    })?;
    let (base, half) = (Fr::from(1_u64 << bits), Fr::from(1_u64 << (bits - 1)));
    let pack = |values: &[FpVar<Fr>]| {
        let zero = FpVar::Constant(Fr::from(0_u64));
        values.iter().rev().fold(zero, |sum, value| sum * base + value + half)
    };
    let mut absorbed = vec![FpVar::Constant(head(role, values.len())), blinding];
    absorbed.extend(values.chunks(packed).map(pack));
    let mut sponge = PoseidonSpongeVar::new(system.clone(), &poseidon());
    sponge.absorb(&absorbed)?;
    Ok(sponge.squeeze_field_elements(1)?.remove(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_relations::r1cs::ConstraintSystem;

    fn witness() -> Witness {
        Witness {
            weights: vec![-128, 127, 3, 0, -1, 77],
            weights_blinding: Blinding::from_seed(&[1; 32]),
            input: vec![-128, 5, 127, -9, 1, 0],
            input_blinding: Blinding::NONE,
            output_blinding: Blinding::from_seed(&[2; 32]),
        }
    }

    fn satisfied(witness: &Witness, output: &[i32], claim: &Claim) -> bool {
        let shape = Shape::new(2, 3, 2).expect("small");
        let system = ConstraintSystem::new_ref();
        let circuit = Circuit::filled(shape, witness, output, claim);
        circuit.generate_constraints(system.clone()).expect("all values are there");
        system.is_satisfied().expect("it has values")
    }

    #[test]
    fn it_holds_for_a_product_and_for_nothing_else() {
        let witness = witness();
        let (output, claim) = witness.claim(Shape::new(2, 3, 2).expect("small")).expect("fits");
        // (−128)² + 127² + 3 and so on, by hand.
        assert_eq!(output, [32_516, -1_783, -50, 9]);
        assert!(satisfied(&witness, &output, &claim));

        let other = |weights: &[i8]| Witness { weights: weights.to_vec(), ..witness.clone() };
        // Other weights than committed, weights whose commitment is another one, and an output that is not theirs.
        assert!(!satisfied(&other(&[-128, 127, 3, 0, -1, 76]), &output, &claim));
        for wrong in [
            Claim { weights: claim.input, ..claim },
            Claim { input: claim.output, ..claim },
            Claim {
                output: crate::commitment::of_words(
                    Role::Output,
                    &[32_516, -1_783, -50, 10],
                    &witness.output_blinding,
                ),
                ..claim
            },
        ] {
            assert!(!satisfied(&witness, &output, &wrong));
        }
        let blinding = Witness { output_blinding: Blinding::NONE, ..witness.clone() };
        assert!(!satisfied(&blinding, &output, &claim));
    }

    #[test]
    fn the_setup_builds_the_same_circuit_as_the_prover() {
        let shape = Shape::new(2, 3, 2).expect("small");
        let (output, claim) = witness().claim(shape).expect("fits");
        let count = |circuit: Circuit<'_>, mode| {
            let system = ConstraintSystem::new_ref();
            system.set_mode(mode);
            circuit.generate_constraints(system.clone()).expect("complete");
            (system.num_constraints(), system.num_instance_variables(), system.num_witness_variables())
        };
        use ark_relations::r1cs::SynthesisMode::{Prove, Setup};
        let filled =
            count(Circuit::filled(shape, &witness(), &output, &claim), Prove { construct_matrices: true });
        assert_eq!(count(Circuit::blank(shape), Setup), filled);
    }
}
