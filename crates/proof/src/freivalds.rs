//! Freivalds' check: whether C = A · B, without computing the product.
//!
//! A random vector x is multiplied through: C·x = A·(B·x) costs three products of a matrix with a vector where A·B costs as many
//! as it has columns. A wrong C passes for few x only (R. Freivalds, *Probabilistic machines can use less running time*, 1977),
//! and nobody who had to commit to C first knows x. A check that fails then computes one row of the product and names an
//! element that is wrong, so that a disagreement is never a matter of luck.
//!
//! | what is multiplied | what is compared | a wrong C passes with at most |
//! | --- | --- | --- |
//! | integers whose product cannot overflow | the integers, in the field of 2⁶¹ − 1 elements | 2⁻⁶¹ (1/p, p = 2⁶¹ − 1) |
//! | integers whose product may overflow | residues modulo 2³², as devices compute them | 2⁻⁶⁴ (64 vectors of 1/2) |
//! | floats | each element within what rounding can do | see [`floats`] |
//!
//! Whether integers can overflow is decided from A and B: if the largest row sum of |A| times the largest |B| fits the type of C,
//! no order of additions overflows, and C must be the product. Otherwise C has to be the product modulo 2³², which is what 32-bit
//! arithmetic gives in any order.
//!
//! The cost is O(mk + kn + mn) operations and memory for vectors. The seed has to be unknown to whoever computed C until it
//! has committed to it, and every product needs a seed of its own; where the seed comes from is not decided here. There is no
//! bias: C is the product alone.

mod floats;

use std::fmt;

use protocol::manifest::Dtype;

use crate::{
    draw::Draw,
    field::Field,
    matrix::{Extent, LANES, Layout, Matrix, wide},
};

/// The most rounds of a check of floats.
pub const ROUNDS_MAX: u32 = 64;
/// Vectors modulo 2³²: each lets a wrong C pass with probability 1/2 at most.
const WORD_VECTORS: usize = 64;

/// A product C = A · B that somebody claims.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    a: Matrix<'a>,
    b: Matrix<'a>,
    c: Matrix<'a>,
}

/// Why three matrices cannot be a product, whatever their elements.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProductError {
    /// The sides do not match.
    #[error("{} × {} times {} × {} is not {} × {}", a.0, a.1, b.0, b.1, c.0, c.1)]
    Shape {
        /// Rows and columns of A.
        a: (usize, usize),
        /// Rows and columns of B.
        b: (usize, usize),
        /// Rows and columns of C.
        c: (usize, usize),
    },
    /// Element types that cannot be checked: integers give `i32` or `u32`, floats give floats.
    #[error("a product of {a} and {b} in {c} cannot be checked")]
    Dtype {
        /// The element type of A.
        a: Dtype,
        /// The element type of B.
        b: Dtype,
        /// The element type of C.
        c: Dtype,
    },
}

impl<'a> Product<'a> {
    /// The claim that `c` is `a` times `b`.
    pub fn new(a: Matrix<'a>, b: Matrix<'a>, c: Matrix<'a>) -> Result<Self, ProductError> {
        let shape = |matrix: &Matrix<'_>| (matrix.rows(), matrix.columns());
        if a.columns() != b.rows() || a.rows() != c.rows() || b.columns() != c.columns() {
            return Err(ProductError::Shape { a: shape(&a), b: shape(&b), c: shape(&c) });
        }
        let types = (a.dtype(), b.dtype(), c.dtype());
        let checkable = if types.2.is_float() {
            types.0.is_float() && types.1.is_float()
        } else {
            !types.0.is_float() && !types.1.is_float() && matches!(types.2, Dtype::I32 | Dtype::U32)
        };
        if !checkable {
            return Err(ProductError::Dtype { a: types.0, b: types.1, c: types.2 });
        }
        Ok(Self { a, b, c })
    }

    /// The left factor.
    pub fn a(&self) -> &Matrix<'a> {
        &self.a
    }

    /// The right factor.
    pub fn b(&self) -> &Matrix<'a> {
        &self.b
    }

    /// The claimed product.
    pub fn c(&self) -> &Matrix<'a> {
        &self.c
    }
}

/// How thoroughly to check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Independent random vectors for floats, at most [`ROUNDS_MAX`] and at least one; what lies outside counts as the nearest.
    /// Integers need no second round.
    pub float_rounds: u32,
    /// How far a float may be off besides rounding, whatever its size.
    pub abs: f64,
    /// How far a float may be off besides rounding, in parts of its size.
    pub rel: f64,
}

impl Default for Rule {
    /// Two rounds, and only rounding is forgiven.
    fn default() -> Self {
        Self { float_rounds: 2, abs: 0.0, rel: 0.0 }
    }
}

/// How a product was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// As integers.
    Integers,
    /// As integers modulo 2³², because they may overflow.
    Words,
    /// As floats, within what rounding can do.
    Floats,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// How it was checked.
    pub method: Method,
    /// Random vectors that C was multiplied with.
    pub vectors: u32,
    /// What shows that C is not the product, or nothing if it seems to be.
    pub failure: Option<Failure>,
}

/// An element of C that is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Failure {
    /// Rows of C that failed.
    pub rows_failed: u64,
    /// The element's row: the first that failed, of floats the one that failed by most.
    pub row: u64,
    /// The element's column.
    pub column: u64,
    /// What C has there.
    pub claimed: f64,
    /// What the product has there (modulo 2³² for [`Method::Words`]).
    pub product: f64,
    /// How far C may be off there.
    pub bound: f64,
}

/// Why a check cannot tell. What it was asked to check has to be executed again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// A factor has an infinity or a NaN.
    #[error("a factor has an infinity or a NaN in row {row}")]
    NotFinite {
        /// The row of A or of B.
        row: usize,
    },
    /// An honest element may have overflowed.
    #[error("element ({row}, {column}) of the product may be too large for its type")]
    Overflow {
        /// Row of C.
        row: usize,
        /// Column of C.
        column: usize,
    },
    /// So many terms that rounding bounds nothing.
    #[error("rounding bounds no sum of {terms} terms in {dtype}")]
    Depth {
        /// Columns of A.
        terms: usize,
        /// The element type of C.
        dtype: Dtype,
    },
}

impl Finding {
    /// Whether C seems to be the product.
    pub fn holds(&self) -> bool {
        self.failure.is_none()
    }

    /// −log₂ of the probability with which a C that is not the product would have passed. For floats it depends on how far C is
    /// off: see [`floats`].
    pub fn soundness_bits(&self) -> Option<u32> {
        match self.method {
            Method::Integers => Some(61),
            Method::Words => Some(WORD_VECTORS as u32),
            Method::Floats => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failure {
            None => {
                write!(f, "is the product ")?;
                match self.soundness_bits() {
                    Some(bits) => write!(f, "but for one chance in 2^{bits}"),
                    None => write!(f, "within rounding, by {} random vectors", self.vectors),
                }
            }
            Some(Failure { rows_failed, row, column, claimed, product, bound }) => {
                write!(
                    f,
                    "is not the product: {rows_failed} rows fail; element ({row}, {column}) is {claimed} "
                )?;
                match self.method {
                    Method::Integers => write!(f, "instead of {product}"),
                    Method::Words => write!(f, "instead of {product} modulo 2^32"),
                    Method::Floats => write!(f, "instead of {product} ± {bound:e}"),
                }
            }
        }
    }
}

/// Checks a product with vectors drawn from `seed`.
///
/// A finding against C is certain. One for C is wrong with the probability that [`Finding::soundness_bits`] tells.
pub fn check(product: &Product<'_>, seed: &[u8; 32], rule: &Rule) -> Result<Finding, Undecided> {
    let mut draw = Draw::new(seed);
    if product.c.dtype().is_float() {
        let vectors = rule.float_rounds.clamp(1, ROUNDS_MAX);
        let failure = floats::check(product, &mut draw, vectors, rule)?;
        return Ok(Finding { method: Method::Floats, vectors, failure });
    }
    let (method, vectors, failed) = if may_overflow(product) {
        (Method::Words, WORD_VECTORS as u32, words_failed(product, &mut draw))
    } else {
        (Method::Integers, 1, integers_failed(product, &mut draw))
    };
    let failure = failed.iter().position(|failed| *failed).map(|row| {
        let rows_failed = failed.iter().filter(|failed| **failed).count() as u64;
        Failure { rows_failed, ..wrong_element(product, row) }
    });
    Ok(Finding { method, vectors, failure })
}

/// Whether an order of additions exists in which an honest sum leaves the type of C.
fn may_overflow(Product { a, b, c }: &Product<'_>) -> bool {
    let may = |a: &Extent, b: &Extent| {
        let largest = u128::from(a.sum_abs_max) * u128::from(b.abs_max());
        match c.dtype() {
            Dtype::U32 => a.least < 0 || b.least < 0 || largest > u128::from(u32::MAX),
            _ => largest > i32::MAX as u128,
        }
    };
    may(&a.extent_max(), &b.extent_max()) && may(&a.extent(), &b.extent())
}

/// Both sides differ by at most 2³³ in each element, less than p, so that what differs as integers differs in the field. There a
/// nonzero row has no more than one p-th of all vectors orthogonal to it.
fn integers_failed(Product { a, b, c }: &Product<'_>, draw: &mut Draw) -> Vec<bool> {
    let x: Vec<Field> = (0..c.columns()).map(|_| draw.field()).collect();
    let (claimed, product) = (c.times(&x), a.times(&b.times(&x)));
    claimed.iter().zip(&product).map(|(claimed, product)| claimed != product).collect()
}

/// A row that is not zero modulo 2³² is 2ᵛ times one with an odd element, v < 32; whatever the other elements of x, the sum is a
/// multiple of 2ᵛ⁺¹ for one parity of that element's x at most.
fn words_failed(Product { a, b, c }: &Product<'_>, draw: &mut Draw) -> Vec<bool> {
    let mut failed = vec![false; c.rows()];
    for _ in 0..WORD_VECTORS / LANES {
        let x: Vec<[u32; LANES]> = (0..c.columns()).map(|_| [(); LANES].map(|()| draw.word())).collect();
        let (claimed, product) = (c.times_words(&x), a.times_words(&b.times_words(&x)));
        for (failed, (claimed, product)) in failed.iter_mut().zip(claimed.iter().zip(&product)) {
            *failed |= claimed != product;
        }
    }
    failed
}

/// The first wrong element of a row of integers that is known to have one.
fn wrong_element(Product { a, b, c }: &Product<'_>, row: usize) -> Failure {
    let weights: Vec<i64> = a.row(row).iter().map(|value| *value as i64).collect();
    // Sums wrap at 2⁶⁴, which changes nothing modulo 2³² and does not happen to what fits 32 bits.
    let mut sums = vec![0_i64; c.columns()];
    let mut line = vec![0; b.line_length()];
    for (index, bytes) in b.lines().enumerate() {
        wide(b.dtype(), bytes, &mut line);
        let add = |sum: &mut i64, weight: i64, entry: i64| {
            *sum = sum.wrapping_add(weight.wrapping_mul(entry));
        };
        match b.layout() {
            Layout::RowMajor => {
                sums.iter_mut().zip(&line).for_each(|(sum, entry)| add(sum, weights[index], *entry));
            }
            Layout::ColumnMajor => {
                weights.iter().zip(&line).for_each(|(weight, entry)| add(&mut sums[index], *weight, *entry));
            }
        }
    }
    let products = sums.iter().map(|sum| match c.dtype() {
        Dtype::U32 => f64::from(*sum as u32),
        _ => f64::from(*sum as i32),
    });
    products
        .enumerate()
        .map(|(column, product)| (column, c.value(row, column), product))
        .find(|(_, claimed, product)| claimed != product)
        .map(|(column, claimed, product)| Failure {
            rows_failed: 1,
            row: row as u64,
            column: column as u64,
            claimed,
            product,
            bound: 0.0,
        })
        .expect("a row whose product with a vector is wrong has a wrong element")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTEGERS: [Dtype; 4] = [Dtype::I8, Dtype::U8, Dtype::I32, Dtype::U32];

    /// A product of integers with random elements of up to `bits` bits, and what 32-bit arithmetic makes of it.
    #[derive(Clone, Debug)]
    struct Work {
        sides: (u64, u64, u64),
        dtypes: (Dtype, Dtype, Dtype),
        layouts: (Layout, Layout),
        a: Vec<u8>,
        b: Vec<u8>,
        c: Vec<u8>,
    }

    impl Work {
        fn draw(
            sides: (u64, u64, u64),
            dtypes: (Dtype, Dtype, Dtype),
            layouts: (Layout, Layout),
            bits: u32,
            seed: [u8; 32],
        ) -> Self {
            let mut draw = Draw::new(&seed);
            let mut fill = |dtype: Dtype, count: u64| -> Vec<u8> {
                (0..count)
                    .flat_map(|_| {
                        let word = draw.word();
                        let magnitude = if bits == 32 { word } else { word & ((1 << bits) - 1) };
                        let signed = matches!(dtype, Dtype::I8 | Dtype::I32) && draw.word() & 1 == 1;
                        let value = if signed { magnitude.wrapping_neg() } else { magnitude };
                        value.to_le_bytes()[..dtype.bytes() as usize].to_vec()
                    })
                    .collect()
            };
            let (m, k, n) = sides;
            let (a, b) = (fill(dtypes.0, m * k), fill(dtypes.1, k * n));
            let mut work = Self { sides, dtypes, layouts, a, b, c: vec![0; (m * n * 4) as usize] };
            let (left, right) = (work.product().a, work.product().b);
            let c = (0..m as usize).flat_map(|row| {
                let left = left.row(row);
                (0..n as usize)
                    .map(|column| {
                        let terms = left.iter().enumerate();
                        terms.fold(0_u32, |sum, (term, weight)| {
                            let entry = right.value(term, column) as i64 as u32;
                            sum.wrapping_add((*weight as i64 as u32).wrapping_mul(entry))
                        })
                    })
                    .flat_map(u32::to_le_bytes)
                    .collect::<Vec<_>>()
            });
            work.c = c.collect();
            work
        }

        fn product(&self) -> Product<'_> {
            let (m, k, n) = self.sides;
            Product::new(
                Matrix::new(&self.a, self.dtypes.0, m, k, self.layouts.0).expect("A"),
                Matrix::new(&self.b, self.dtypes.1, k, n, self.layouts.1).expect("B"),
                Matrix::new(&self.c, self.dtypes.2, m, n, Layout::RowMajor).expect("C"),
            )
            .expect("a product")
        }

        fn check(&self, seed: &[u8; 32]) -> Finding {
            check(&self.product(), seed, &Rule::default()).expect("integers are decided")
        }
    }

    prop_compose! {
        fn works(bits_max: u32)(
            m in 1_u64..7, k in 1_u64..40, n in 1_u64..7,
            a in proptest::sample::select(INTEGERS.to_vec()), b in proptest::sample::select(INTEGERS.to_vec()),
            signed: bool, by_rows: (bool, bool), bits in 1..=bits_max, seed: [u8; 32],
        ) -> Work {
            let narrowest = if [a, b].iter().any(|dtype| dtype.bytes() == 1) { bits.min(7) } else { bits };
            let layout = |by_rows| if by_rows { Layout::RowMajor } else { Layout::ColumnMajor };
            let c = if signed { Dtype::I32 } else { Dtype::U32 };
            Work::draw((m, k, n), (a, b, c), (layout(by_rows.0), layout(by_rows.1)), narrowest, seed)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
        #[test]
        fn honest_products_pass_whether_they_overflow_or_not(work in works(32), seed: [u8; 32]) {
            let found = work.check(&seed);
            prop_assert!(found.holds(), "{}", found);
        }

        #[test]
        fn one_altered_element_is_caught_and_named(
            work in works(32), seed: [u8; 32], at: usize, flip in 1_u32..,
        ) {
            let mut altered = work.clone();
            let at = at % (altered.c.len() / 4);
            for (byte, flip) in altered.c[4 * at..].iter_mut().zip(flip.to_le_bytes()) {
                *byte ^= flip;
            }
            let found = altered.check(&seed);
            let failure = found.failure.expect("it is wrong");
            let (row, column) = (at / work.sides.2 as usize, at % work.sides.2 as usize);
            prop_assert_eq!((failure.rows_failed, failure.row, failure.column), (1, row as u64, column as u64));
            prop_assert_eq!(failure.claimed, altered.product().c.value(row, column));
            prop_assert_eq!(failure.product, work.product().c.value(row, column));
        }

        #[test]
        fn what_cannot_overflow_is_checked_as_integers(work in works(6), seed: [u8; 32]) {
            let signed = [work.dtypes.0, work.dtypes.1].iter().any(|d| matches!(d, Dtype::I8 | Dtype::I32));
            let found = work.check(&seed);
            prop_assert!(found.method == Method::Integers || signed && work.dtypes.2 == Dtype::U32);
        }
    }

    #[test]
    fn errors_chosen_to_cancel_are_caught_for_every_seed() {
        let dtypes = (Dtype::I8, Dtype::I8, Dtype::I32);
        let layouts = (Layout::RowMajor, Layout::RowMajor);
        let mut work = Work::draw((4, 8, 4), dtypes, layouts, 7, [5; 32]);
        // Rows and columns keep their sums.
        for (index, change) in [(0, 1_i32), (1, -1), (4, -1), (5, 1)] {
            let element = &mut work.c[4 * index..4 * index + 4];
            let value = i32::from_le_bytes([element[0], element[1], element[2], element[3]]);
            element.copy_from_slice(&(value + change).to_le_bytes());
        }
        for seed in 0..=255 {
            let found = work.check(&[seed; 32]);
            assert_eq!(found.failure.map(|f| (f.rows_failed, f.row, f.column)), Some((2, 0, 0)), "{seed}");
        }
        assert!(
            work.check(&[0; 32])
                .to_string()
                .starts_with("is not the product: 2 rows fail; element (0, 0) is ")
        );
    }

    #[test]
    fn one_bit_more_than_fits_is_checked_modulo_the_word() {
        let case = |b: i32, dtype| {
            let (a, b) = (1_i32 << 16, b);
            let c = a.wrapping_mul(b);
            let work = Work {
                sides: (1, 1, 1),
                dtypes: (Dtype::I32, Dtype::I32, dtype),
                layouts: (Layout::RowMajor, Layout::RowMajor),
                a: a.to_le_bytes().to_vec(),
                b: b.to_le_bytes().to_vec(),
                c: c.to_le_bytes().to_vec(),
            };
            let found = work.check(&[1; 32]);
            assert!(found.holds(), "{found}");
            found.method
        };
        assert_eq!(case(0x7fff, Dtype::I32), Method::Integers);
        assert_eq!(case(0x8000, Dtype::I32), Method::Words);
        assert_eq!(case(0xffff, Dtype::U32), Method::Integers);
        assert_eq!(case(-1, Dtype::U32), Method::Words);
    }

    #[test]
    fn only_products_are_checked() {
        let bytes = [0; 64];
        let matrix = |dtype, rows, columns| {
            let length = (rows * columns * Dtype::bytes(dtype)) as usize;
            Matrix::new(&bytes[..length], dtype, rows, columns, Layout::RowMajor).expect("fits")
        };
        let of = |a, b, c| Product::new(matrix(a, 2, 2), matrix(b, 2, 2), matrix(c, 2, 2)).is_ok();
        assert!(of(Dtype::U8, Dtype::I8, Dtype::I32) && of(Dtype::F16, Dtype::F32, Dtype::F32));
        assert!(!of(Dtype::I8, Dtype::I8, Dtype::I8) && !of(Dtype::F32, Dtype::I8, Dtype::F32));
        assert!(!of(Dtype::F32, Dtype::F32, Dtype::I32) && !of(Dtype::I8, Dtype::I8, Dtype::F32));
        let a = matrix(Dtype::I8, 2, 3);
        let error = Product::new(a, a, matrix(Dtype::I32, 2, 3)).expect_err("3 is not 2");
        assert_eq!(error.to_string(), "2 × 3 times 2 × 3 is not 2 × 3");
    }
}
