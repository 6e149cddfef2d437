//! A short proof that an int8 matrix product is right, for everybody: sum-check after Thaler.
//!
//! The multilinear extension Ã of a matrix is the polynomial, of degree one in each of its variables, that is A where all of them are 0
//! or 1: they are then the bits of a row and of a column. C = A·B if and only if C̃(x, y) = Σₛ Ã(x, s)·B̃(s, y) everywhere, and if it
//! is wrong somewhere it is wrong at nearly every point. The prover fixes x and y to random values, which leaves two vectors
//! aₛ = Ã(x, s), bₛ = B̃(s, y) after O(mk + kn) operations, and then proves their scalar product by the sum-check protocol: for each
//! variable of s a polynomial of degree two, whose sum over 0 and 1 is what was claimed before, and whose value at a random point
//! is what is claimed next. (J. Thaler, *Time-optimal interactive proofs for circuit evaluation*, 2013, section 4; *Proofs, arguments
//! and zero-knowledge*, section 4.4.)
//!
//! **Challenges** come from SHA-256 over everything before them (Fiat–Shamir), the shapes, layouts and hashes of A, B and C first.
//! They are elements of the extension of 2¹²² elements.
//!
//! **Soundness.** A wrong C is off at the drawn point but for (log m + log n)/p², and each round but for 2/p². A forger who tries
//! hashes finds a lucky one after 2¹²²/max(2, log m + log n) of them on average: for sides up to 1024 more than 2¹¹⁷, up to the largest
//! possible more than 2¹¹⁶. SHA-256 collides after 2¹²⁸. See [`soundness_bits`].
//!
//! **What the verifier needs**: A, B and C, of which it reads each once and multiplies none with another: O(mk + kn + mn). It needs no
//! secret and draws nothing, so that anybody may verify later and will find the same. A verifier that does not hold C would need
//! its value at one point opened from a polynomial commitment, which this module does not have. That the hashes in the
//! statement are those of the bytes is up to the caller, who as a rule got the bytes by their hashes.
//!
//! Sides that are no powers of two are padded with zeros, in thought: nothing is copied.

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{Hash, manifest::Dtype};

use crate::{
    draw::Draw,
    field::{Extended, Field},
    freivalds::Product,
    matrix::{Layout, Matrix, SIDE_MAX},
};

/// Separates these transcripts from everything else that is hashed.
const TAG: &[u8] = b"plexus/sumcheck/v1\0";
/// The most rounds: one a variable of the longest possible side.
const ROUNDS_MAX: usize = SIDE_MAX.ilog2() as usize;
/// A length of four bytes and two elements of 16 bytes a round.
pub const PROOF_BYTES_MAX: usize = 4 + 32 * ROUNDS_MAX;

/// The hashes of the bytes of A, B and C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// Of the left factor.
    pub a: Hash,
    /// Of the right factor.
    pub b: Hash,
    /// Of the claimed product.
    pub c: Hash,
}

/// Why there are no such proofs for a product.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// Only 8-bit factors and `i32` products.
    #[error("a product of {a} and {b} in {c} has no sum-check proof")]
    Dtype {
        /// The element type of A.
        a: Dtype,
        /// The element type of B.
        b: Dtype,
        /// The element type of C.
        c: Dtype,
    },
    /// So many terms that sums in 32 bits may overflow, and the proof is about integers.
    #[error("a sum of {terms} products of 8-bit integers may overflow")]
    Overflow {
        /// Columns of A.
        terms: usize,
    },
}

/// Why a proof is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The bytes are not those of a proof.
    #[error("the bytes are not those of a proof")]
    Malformed,
    /// The proof is for another shape.
    #[error("the proof has {found} rounds, the product needs {expected}")]
    Rounds {
        /// Rounds that the shape asks for.
        expected: usize,
        /// Rounds of the proof.
        found: usize,
    },
    /// C is not the product, or the proof was made for something else.
    #[error("the proof does not show that C is the product")]
    Wrong,
}

/// The polynomial g of a round: g(0) and the coefficient of X². The third value follows from the claim, g(0) + g(1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Round {
    at_zero: Extended,
    square: Extended,
}

impl Round {
    /// g(x), if g(0) + g(1) is `claim`.
    fn at(&self, x: Extended, claim: Extended) -> Extended {
        // g(1) = claim − g(0) = g(0) + linear + square.
        let linear = claim - self.at_zero - self.at_zero - self.square;
        self.at_zero + x * (linear + x * self.square)
    }
}

/// A proof that C = A · B: for k columns of A 4 + 32·⌈log₂ k⌉ bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    rounds: Vec<Round>,
}

impl Proof {
    /// Its bytes, by Borsh: the number of rounds, then for each g(0) and the coefficient of X², each as real and imaginary part of
    /// eight bytes.
    pub fn encode(&self) -> Vec<u8> {
        borsh::to_vec(&self.rounds).expect("a Vec takes all")
    }

    /// The proof with these bytes, of which each proof has just one sequence.
    pub fn decode(bytes: &[u8]) -> Result<Self, Rejection> {
        if bytes.len() > PROOF_BYTES_MAX {
            return Err(Rejection::Malformed);
        }
        let rounds = borsh::from_slice(bytes).map_err(|_| Rejection::Malformed)?;
        Ok(Self { rounds })
    }
}

/// A product with the hashes that its proof is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    product: Product<'a>,
    hashes: Hashes,
}

impl<'a> Statement<'a> {
    /// The claim that `product` holds, for bytes of which the caller knows that these are the hashes: a proof for other bytes
    /// would be worth nothing.
    pub fn new(product: Product<'a>, hashes: Hashes) -> Result<Self, Unsupported> {
        let (a, b, c) = (product.a().dtype(), product.b().dtype(), product.c().dtype());
        let largest = |dtype| match dtype {
            Dtype::I8 => Some(128_u64),
            Dtype::U8 => Some(255),
            _ => None,
        };
        let (Some(left), Some(right), Dtype::I32) = (largest(a), largest(b), c) else {
            return Err(Unsupported::Dtype { a, b, c });
        };
        let terms = product.a().columns();
        if terms as u64 * left * right > i32::MAX as u64 {
            return Err(Unsupported::Overflow { terms });
        }
        Ok(Self { product, hashes })
    }

    /// The claim that `product` holds, for the bytes that it has. Hashes them, which costs about as much as verifying.
    pub fn of_bytes(product: Product<'a>) -> Result<Self, Unsupported> {
        let [a, b, c] = [product.a(), product.b(), product.c()].map(|matrix| Hash::of(matrix.bytes()));
        Self::new(product, Hashes { a, b, c })
    }

    /// The transcript, and the point (x, y) at which C is looked at.
    fn begin(&self) -> (Transcript, Vec<Extended>, Vec<Extended>) {
        let mut transcript = Transcript(Hash::of(TAG));
        let Hashes { a, b, c } = self.hashes;
        for (matrix, hash) in [(self.product.a(), a), (self.product.b(), b), (self.product.c(), c)] {
            let layout = match matrix.layout() {
                Layout::RowMajor => 0_u8,
                Layout::ColumnMajor => 1,
            };
            let shape = (matrix.rows() as u64, matrix.columns() as u64);
            let head = (matrix.dtype().to_string(), layout, shape, hash);
            transcript.absorb(&borsh::to_vec(&head).expect("a Vec takes all"));
        }
        let mut draw = transcript.challenges();
        let mut point = |side| (0..variables(side)).map(|_| draw.extended()).collect();
        let (x, y) = (point(self.product.c().rows()), point(self.product.c().columns()));
        (transcript, x, y)
    }
}

/// −log₂ of the chance that one tried hash helps to prove a wrong product of these sides.
pub fn soundness_bits(product: &Product<'_>) -> f64 {
    let point = variables(product.c().rows()) + variables(product.c().columns());
    // p² is 2¹²² but for one part in 2⁶⁰.
    122.0 - (point.max(2) as f64).log2()
}

/// Proves a product. C is not read: for another C the proof is rejected.
pub fn prove(statement: &Statement<'_>) -> Proof {
    let (mut transcript, x, y) = statement.begin();
    let (a, b) = (statement.product.a(), statement.product.b());
    let length = 1 << variables(a.columns());
    let vector = |mut values: Vec<Extended>| {
        values.resize(length, Extended::ZERO);
        values
    };
    let mut left = vector(times(&a.transposed(), &weights(&x, a.rows())));
    let mut right = vector(times(b, &weights(&y, b.columns())));
    let mut rounds = Vec::with_capacity(variables(a.columns()));
    while left.len() > 1 {
        let half = left.len() / 2;
        let mut round = Round { at_zero: Extended::ZERO, square: Extended::ZERO };
        for index in 0..half {
            let (a, b) = (left[index], right[index]);
            round.at_zero += a * b;
            round.square += (left[index + half] - a) * (right[index + half] - b);
        }
        let challenge = transcript.round(&round);
        for vector in [&mut left, &mut right] {
            for index in 0..half {
                vector[index] = vector[index] + challenge * (vector[index + half] - vector[index]);
            }
            vector.truncate(half);
        }
        rounds.push(round);
    }
    Proof { rounds }
}

/// Verifies a proof, with the bytes of A, B and C and without their product.
pub fn verify(statement: &Statement<'_>, proof: &Proof) -> Result<(), Rejection> {
    let (a, b, c) = (statement.product.a(), statement.product.b(), statement.product.c());
    let (expected, found) = (variables(a.columns()), proof.rounds.len());
    if expected != found {
        return Err(Rejection::Rounds { expected, found });
    }
    let (mut transcript, x, y) = statement.begin();
    let (rows, columns) = (weights(&x, c.rows()), weights(&y, c.columns()));
    let mut claim = dot(&rows, &times(c, &columns));
    let mut s = Vec::with_capacity(expected);
    for round in &proof.rounds {
        let challenge = transcript.round(round);
        claim = round.at(challenge, claim);
        s.push(challenge);
    }
    let terms = weights(&s, a.columns());
    let left = dot(&rows, &times(a, &terms));
    let right = dot(&terms, &times(b, &columns));
    if left * right == claim { Ok(()) } else { Err(Rejection::Wrong) }
}

/// Bits of the largest index of a side.
fn variables(side: usize) -> usize {
    side.next_power_of_two().ilog2() as usize
}

/// For each index below `side` the product over its bits, the highest first, of the point's coordinate or of one minus it: what a
/// multilinear extension weighs the element with.
fn weights(point: &[Extended], side: usize) -> Vec<Extended> {
    let mut weights = vec![Extended::ONE];
    for coordinate in point {
        weights = weights
            .iter()
            .flat_map(|weight| {
                let one = *weight * *coordinate;
                [*weight - one, one]
            })
            .collect();
    }
    weights.truncate(side);
    weights
}

fn times(matrix: &Matrix<'_>, vector: &[Extended]) -> Vec<Extended> {
    let part = |part: fn(&Extended) -> Field| matrix.times(&vector.iter().map(part).collect::<Vec<_>>());
    let (real, imaginary) = (part(|e| e.real), part(|e| e.imaginary));
    real.into_iter().zip(imaginary).map(|(real, imaginary)| Extended { real, imaginary }).collect()
}

fn dot(a: &[Extended], b: &[Extended]) -> Extended {
    a.iter().zip(b).fold(Extended::ZERO, |sum, (a, b)| sum + *a * *b)
}

/// The digest of all that was said. Each new one covers the one before.
struct Transcript(Hash);

impl Transcript {
    fn absorb(&mut self, message: &[u8]) {
        self.0 = Hash::of_parts(&[TAG, &self.0.0, message]);
    }

    /// Absorbs a round and answers it.
    fn round(&mut self, round: &Round) -> Extended {
        self.absorb(&borsh::to_vec(round).expect("a Vec takes all"));
        self.challenges().extended()
    }

    fn challenges(&self) -> Draw {
        Draw::new(&self.0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A product of 8-bit integers.
    struct Work {
        sides: (u64, u64, u64),
        dtypes: (Dtype, Dtype),
        layouts: (Layout, Layout),
        a: Vec<u8>,
        b: Vec<u8>,
        c: Vec<u8>,
    }

    impl Work {
        fn draw(
            sides: (u64, u64, u64),
            dtypes: (Dtype, Dtype),
            layouts: (Layout, Layout),
            seed: [u8; 32],
        ) -> Self {
            let mut draw = Draw::new(&seed);
            let (m, k, n) = sides;
            let mut fill = |count| (0..count).map(|_| draw.word() as u8).collect::<Vec<_>>();
            let mut work = Self {
                sides,
                dtypes,
                layouts,
                a: fill(m * k),
                b: fill(k * n),
                c: vec![0; (4 * m * n) as usize],
            };
            work.c = honest(&work);
            work
        }

        fn product(&self) -> Product<'_> {
            let (m, k, n) = self.sides;
            Product::new(
                Matrix::new(&self.a, self.dtypes.0, m, k, self.layouts.0).expect("A"),
                Matrix::new(&self.b, self.dtypes.1, k, n, self.layouts.1).expect("B"),
                Matrix::new(&self.c, Dtype::I32, m, n, Layout::RowMajor).expect("C"),
            )
            .expect("a product")
        }

        fn statement(&self) -> Statement<'_> {
            Statement::of_bytes(self.product()).expect("supported")
        }
    }

    prop_compose! {
        fn works()(
            m in 1_u64..9, k in 1_u64..40, n in 1_u64..9, signed: (bool, bool), by_rows: (bool, bool), seed: [u8; 32],
        ) -> Work {
            let dtype = |signed| if signed { Dtype::I8 } else { Dtype::U8 };
            let layout = |by_rows| if by_rows { Layout::RowMajor } else { Layout::ColumnMajor };
            Work::draw(
                (m, k, n), (dtype(signed.0), dtype(signed.1)), (layout(by_rows.0), layout(by_rows.1)), seed,
            )
        }
    }

    impl std::fmt::Debug for Work {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{:?} {:?} {:?}", self.sides, self.dtypes, self.layouts)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn products_have_proofs_and_their_bytes_come_back(work in works()) {
            let proof = prove(&work.statement());
            prop_assert_eq!(verify(&work.statement(), &proof), Ok(()));
            let bytes = proof.encode();
            prop_assert_eq!(bytes.len(), 4 + 32 * variables(work.sides.1 as usize));
            prop_assert!(bytes.len() <= PROOF_BYTES_MAX);
            prop_assert_eq!(Proof::decode(&bytes), Ok(proof));
        }

        #[test]
        fn nothing_else_has_one(work in works(), at: usize, flip in 1_u8..) {
            let proof = prove(&work.statement());
            for which in 0..3 {
                // The bytes alone, as if the hash had been kept, and the bytes with their hash, proved anew.
                let mut altered = Work { a: work.a.clone(), b: work.b.clone(), c: work.c.clone(), ..work };
                let bytes = [&mut altered.a, &mut altered.b, &mut altered.c].into_iter().nth(which).expect("three");
                let length = bytes.len();
                bytes[at % length] ^= flip;
                let kept = Statement { hashes: work.statement().hashes, ..altered.statement() };
                // A factor's change may meet zeros only, and then the product is the same.
                let same = honest(&altered) == altered.c;
                prop_assert!(same || verify(&kept, &proof) == Err(Rejection::Wrong));
                prop_assert!(verify(&altered.statement(), &proof) == Err(Rejection::Wrong) || work.sides.1 == 1 && same);
                prop_assert_eq!(verify(&altered.statement(), &prove(&altered.statement())).is_ok(), same);
            }
        }

        #[test]
        fn an_altered_proof_is_rejected(work in works(), at: usize, flip in 1_u8..) {
            let mut bytes = prove(&work.statement()).encode();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let verified = Proof::decode(&bytes).and_then(|proof| verify(&work.statement(), &proof));
            prop_assert!(verified.is_err());
        }
    }

    fn honest(work: &Work) -> Vec<u8> {
        let product = work.product();
        let (m, k, n) = work.sides;
        let element = |row, column| {
            let terms = (0..k as usize).map(|s| product.a().value(row, s) * product.b().value(s, column));
            (terms.sum::<f64>() as i32).to_le_bytes()
        };
        (0..m as usize).flat_map(|row| (0..n as usize).flat_map(move |column| element(row, column))).collect()
    }

    #[test]
    fn bytes_decode_strictly() {
        let work =
            Work::draw((4, 8, 4), (Dtype::I8, Dtype::I8), (Layout::RowMajor, Layout::RowMajor), [1; 32]);
        let bytes = prove(&work.statement()).encode();
        let mut long = bytes.clone();
        long.push(0);
        let mut many = bytes.clone();
        many[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        // A residue that is too large by the modulus.
        let mut unreduced = bytes.clone();
        unreduced[4..12].copy_from_slice(&u64::MAX.to_le_bytes());
        for malformed in
            [&long[..], &many, &unreduced, &bytes[..bytes.len() - 1], &[], &vec![0; PROOF_BYTES_MAX + 1]]
        {
            assert_eq!(Proof::decode(malformed), Err(Rejection::Malformed));
        }
        let short = Proof { rounds: prove(&work.statement()).rounds[..2].to_vec() };
        assert_eq!(verify(&work.statement(), &short), Err(Rejection::Rounds { expected: 3, found: 2 }));
    }

    #[test]
    fn what_may_overflow_or_is_not_8_bits_is_not_supported() {
        let bytes = vec![0; 4 << 17];
        let statement = |dtype: Dtype, terms: u64| {
            let a =
                Matrix::new(&bytes[..(terms * dtype.bytes()) as usize], dtype, 1, terms, Layout::RowMajor)
                    .expect("A");
            let c = Matrix::new(&bytes[..4], Dtype::I32, 1, 1, Layout::RowMajor).expect("C");
            let product = Product::new(a, a.transposed(), c).expect("a product");
            Statement::new(product, Hashes { a: Hash([0; 32]), b: Hash([0; 32]), c: Hash([0; 32]) })
                .map(|_| ())
        };
        assert_eq!(statement(Dtype::I8, (1 << 17) - 1), Ok(()));
        assert_eq!(statement(Dtype::I8, 1 << 17), Err(Unsupported::Overflow { terms: 1 << 17 }));
        assert_eq!(statement(Dtype::U8, 33_026), Err(Unsupported::Overflow { terms: 33_026 }));
        assert!(matches!(statement(Dtype::I32, 4), Err(Unsupported::Dtype { .. })));
    }

    #[test]
    fn soundness_is_above_a_hundred_bits() {
        let work =
            Work::draw((5, 3, 9), (Dtype::I8, Dtype::I8), (Layout::RowMajor, Layout::RowMajor), [1; 32]);
        // Three and four variables.
        assert!((soundness_bits(&work.product()) - (122.0 - 7_f64.log2())).abs() < 1e-9);
    }
}
