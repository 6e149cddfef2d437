//! Zero-knowledge proofs of small integer matrix products, in a form that a chain can verify.
//!
//! A prover shows that it knows int8 matrices W (the weights) and X (the input) and an integer matrix Y with Y = W·X, of which it
//! publishes three [`Commitment`]s and nothing else. So a model's owner is held to one set of weights without showing them, and the
//! holder of an opening knows that what was committed is what the weights give. The proof is Groth16 over BN254: 256 bytes and three
//! public inputs, whatever the sides, which Solana verifies with its alt_bn128 calls; [`alt_bn128`] is their layout.
//!
//! **Trusted setup.** Every shape needs keys of its own, and whoever knows the seed that they were made from can prove what is
//! false. [`setup`] takes the seed of one party: that convinces this party, or those who trust it to have forgotten the
//! seed. Keys that strangers rely on come from a ceremony of many parties, which this crate does not do.
//!
//! **Soundness** is that of the curve, about 100 bits for BN254 after the tower number field sieve (R. Barbulescu and S. Duquesne,
//! *Updating key size estimations for pairings*, 2019), in the generic group model (J. Groth, *On the size of pairing-based
//! non-interactive arguments*, 2016). Zero knowledge is perfect as far as the prover's seed is secret and used once.
//!
//! Nothing reads a clock, a file or random numbers: seeds are parameters. Proving takes about as many curve operations as the
//! circuit has constraints, thousands for an element of a large matrix, so shapes are kept small; long products are for the
//! sum-check of `plexus-proof`, which hides nothing.

pub mod alt_bn128;
mod circuit;
mod commitment;
mod seed;

use ark_bn254::{Bn254, Fr};
use ark_groth16::Groth16;
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};

use circuit::Circuit;
pub use commitment::{Blinding, Commitment, NotCanonical, Role};
use seed::Stream;

/// The most elements of a matrix.
pub const ELEMENTS_MAX: u32 = 1 << 12;
/// The most products of elements.
pub const PRODUCTS_MAX: u32 = 1 << 14;

/// The sides of Y = W·X: W is `rows` × `inner`, X is `inner` × `columns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    rows: u32,
    inner: u32,
    columns: u32,
}

/// Why something cannot be proved or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZkError {
    /// A side is zero or the product is too large.
    #[error(
        "a product of {rows} × {inner} and {inner} × {columns} has an empty side, a matrix of more than {ELEMENTS_MAX} elements, or \
         more than {PRODUCTS_MAX} products"
    )]
    Shape {
        /// Rows of W.
        rows: u32,
        /// Columns of W.
        inner: u32,
        /// Columns of X.
        columns: u32,
    },
    /// The elements do not fill the shape.
    #[error("{found} elements instead of {expected}")]
    Elements {
        /// Elements that the shape asks for.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// The bytes are not those of a key.
    #[error("the bytes are not those of a proving key of this shape")]
    Key,
}

impl Shape {
    /// Checks the sides against the limits.
    pub fn new(rows: u32, inner: u32, columns: u32) -> Result<Self, ZkError> {
        let elements =
            |a: u32, b: u32| a.checked_mul(b).filter(|elements| (1..=ELEMENTS_MAX).contains(elements));
        let small = [elements(rows, inner), elements(inner, columns), elements(rows, columns)];
        let products = elements(rows, inner).and_then(|weights| weights.checked_mul(columns));
        if small.contains(&None) || products.is_none_or(|products| products > PRODUCTS_MAX) {
            return Err(ZkError::Shape { rows, inner, columns });
        }
        Ok(Self { rows, inner, columns })
    }

    fn weights(self) -> usize {
        (self.rows * self.inner) as usize
    }

    fn inputs(self) -> usize {
        (self.inner * self.columns) as usize
    }

    fn outputs(self) -> usize {
        (self.rows * self.columns) as usize
    }

    /// W·X, both row by row.
    fn product(self, weights: &[i8], input: &[i8]) -> Vec<i32> {
        let (inner, columns) = (self.inner as usize, self.columns as usize);
        let rows = weights.chunks(inner);
        rows.flat_map(|row| {
            (0..columns).map(move |column| {
                let terms = row.iter().enumerate();
                terms
                    .map(|(index, weight)| i32::from(*weight) * i32::from(input[index * columns + column]))
                    .sum()
            })
        })
        .collect()
    }
}

/// What a proof shows: these three commitments have openings with Y = W·X. In the order of the public inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// To W.
    pub weights: Commitment,
    /// To X.
    pub input: Commitment,
    /// To Y.
    pub output: Commitment,
}

impl Claim {
    /// The public inputs as the chain takes them: big-endian, the first one first.
    pub fn public_inputs(&self) -> [[u8; 32]; 3] {
        [self.weights, self.input, self.output].map(|commitment| commitment.bytes())
    }

    fn elements(&self) -> [Fr; 3] {
        [self.weights, self.input, self.output].map(Commitment::element)
    }
}

/// What only the prover knows.
#[derive(Clone)]
pub struct Witness {
    /// W row by row.
    pub weights: Vec<i8>,
    /// Hides W.
    pub weights_blinding: Blinding,
    /// X row by row.
    pub input: Vec<i8>,
    /// Hides X; [`Blinding::NONE`] if X is public, so that everybody can make its commitment.
    pub input_blinding: Blinding,
    /// Hides Y.
    pub output_blinding: Blinding,
}

impl Witness {
    fn check(&self, shape: Shape) -> Result<(), ZkError> {
        for (expected, found) in [(shape.weights(), self.weights.len()), (shape.inputs(), self.input.len())] {
            if expected != found {
                return Err(ZkError::Elements { expected, found });
            }
        }
        Ok(())
    }

    /// Y and the commitments to all three.
    pub fn claim(&self, shape: Shape) -> Result<(Vec<i32>, Claim), ZkError> {
        self.check(shape)?;
        let output = shape.product(&self.weights, &self.input);
        let claim = Claim {
            weights: commitment::of_bytes(Role::Weights, &self.weights, &self.weights_blinding),
            input: commitment::of_bytes(Role::Input, &self.input, &self.input_blinding),
            output: commitment::of_words(Role::Output, &output, &self.output_blinding),
        };
        Ok((output, claim))
    }
}

/// Makes proofs for one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ProvingKey {
    shape: Shape,
    key: ark_groth16::ProvingKey<Bn254>,
}

impl ProvingKey {
    /// Its bytes: points of the curve, uncompressed.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.key.serialize_uncompressed(&mut bytes).expect("a Vec takes all");
        bytes
    }

    /// The key with these bytes. They are trusted as the setup is: each point is checked to be one, not that it is the right one.
    pub fn decode(shape: Shape, bytes: &[u8]) -> Result<Self, ZkError> {
        let mut rest = bytes;
        let key = ark_groth16::ProvingKey::deserialize_uncompressed(&mut rest).map_err(|_| ZkError::Key)?;
        if !rest.is_empty() {
            return Err(ZkError::Key);
        }
        Ok(Self { shape, key })
    }
}

/// Makes the keys of a shape. Whoever knows the seed can prove what is false: it has to be random, and forgotten.
pub fn setup(shape: Shape, seed: &[u8; 32]) -> (ProvingKey, alt_bn128::VerifyingKey) {
    let mut random = Stream::new(b"setup", seed);
    let key = Groth16::<Bn254>::generate_random_parameters_with_reduction(Circuit::blank(shape), &mut random)
        .expect("the circuit of a small shape fits the field");
    let verifying = alt_bn128::VerifyingKey::of(&key.vk);
    (ProvingKey { shape, key }, verifying)
}

/// Computes Y and proves that it is W·X. The seed has to be random and is used for this proof only.
pub fn prove(
    key: &ProvingKey,
    witness: &Witness,
    seed: &[u8; 32],
) -> Result<(Vec<i32>, Claim, alt_bn128::Proof), ZkError> {
    let (output, claim) = witness.claim(key.shape)?;
    let circuit = Circuit::filled(key.shape, witness, &output, &claim);
    // With the claim in it, two witnesses are never hidden by the same masks, even if somebody uses a seed twice.
    let purpose = [&b"prove"[..], &claim.public_inputs().concat()].concat();
    let mut random = Stream::new(&purpose, seed);
    let proof = Groth16::<Bn254>::create_random_proof_with_reduction(circuit, &key.key, &mut random)
        .expect("a filled circuit has all its values");
    Ok((output, claim, alt_bn128::Proof::of(&proof)))
}
