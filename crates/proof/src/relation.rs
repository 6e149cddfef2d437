//! What a manifest says of a unit's buffers, checked on their bytes.
//!
//! The words of the manifest ([`Relation`]) meet the checks here: products by [`freivalds`], sorted lines by [`sorted`]. A relation
//! that cannot be decided (a factor that is not finite, a buffer of another length) is neither for nor against whoever computed: the
//! unit has to be executed again.

use protocol::manifest::{Compare, Dtype, Product, Relation, Sorted};

use crate::{
    freivalds::{self, Rule},
    matrix::{Layout, Matrix},
    sorted,
};

/// A buffer of one unit.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The element type.
    pub dtype: Dtype,
    /// The extent of each axis, outermost first.
    pub shape: &'a [u32],
    /// How two executions of it are compared.
    pub compare: Compare,
}

/// What became of a check, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The relation holds.
    Holds(String),
    /// It does not.
    Fails(String),
    /// Nobody can tell without executing the unit again.
    Undecided(String),
}

/// Checks one relation; `side` finds the buffers by their names.
///
/// The seed has to be unknown to whoever computed until it had committed to the outputs, and each relation of each unit needs a
/// seed of its own.
pub fn check<'a>(relation: &Relation, side: impl Fn(&str) -> Option<Side<'a>>, seed: &[u8; 32]) -> Found {
    let find = |name: &str| side(name).ok_or_else(|| format!("there is no buffer {name}"));
    let found = match relation {
        Relation::Product(stated) => product(stated, find, seed),
        Relation::Sorted(stated) => in_order(stated, find, seed),
    };
    found.unwrap_or_else(Found::Undecided)
}

fn product<'a>(
    stated: &Product,
    find: impl Fn(&str) -> Result<Side<'a>, String>,
    seed: &[u8; 32],
) -> Result<Found, String> {
    let (a, b, c) = (find(&stated.a)?, find(&stated.b)?, find(&stated.c)?);
    let without_bias = match &stated.bias {
        None => None,
        Some(name) => Some(less_bias(&c, &find(name)?)?),
    };
    let claimed = Side { bytes: without_bias.as_deref().unwrap_or(c.bytes), ..c };
    let b = matrix(&b)?;
    let b = if stated.b_transposed { b.transposed() } else { b };
    let product = freivalds::Product::new(matrix(&a)?, b, matrix(&claimed)?).map_err(|e| e.to_string())?;
    let rule = match c.compare {
        Compare::Exact(_) => Rule::default(),
        Compare::Within(tolerance) => Rule { abs: tolerance.abs, rel: tolerance.rel, ..Rule::default() },
    };
    let finding = freivalds::check(&product, seed, &rule).map_err(|undecided| undecided.to_string())?;
    let Product { a, b, c, bias, .. } = stated;
    let bias = bias.as_ref().map_or(String::new(), |bias| format!(" − {bias}"));
    let words = format!("{c}{bias} of {a} and {b} {finding}");
    Ok(if finding.holds() { Found::Holds(words) } else { Found::Fails(words) })
}

/// The bytes of `c` without what was added to each of its rows. Both wrap, as devices' words do.
fn less_bias(c: &Side<'_>, bias: &Side<'_>) -> Result<Vec<u8>, String> {
    let words = matches!(c.dtype, Dtype::I32 | Dtype::U32) && c.dtype == bias.dtype;
    let columns = c.shape.last().copied().unwrap_or(0) as usize;
    if !words || columns == 0 || bias.bytes.len() != columns * 4 || !c.bytes.len().is_multiple_of(columns * 4)
    {
        return Err(format!("{} {:?} is no bias of {} {:?}", bias.dtype, bias.shape, c.dtype, c.shape));
    }
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let bias: Vec<u32> = bias.bytes.chunks_exact(4).map(word).collect();
    let values = c.bytes.chunks_exact(4).zip(bias.iter().cycle());
    Ok(values.flat_map(|(value, bias)| word(value).wrapping_sub(*bias).to_le_bytes()).collect())
}

/// A buffer as a matrix, whose rows are all axes before the last.
fn matrix<'a>(side: &Side<'a>) -> Result<Matrix<'a>, String> {
    let (columns, before) = side.shape.split_last().ok_or("a matrix has two axes")?;
    let rows = before.iter().fold(1, |rows: u64, extent| rows.saturating_mul((*extent).into()));
    Matrix::new(side.bytes, side.dtype, rows, (*columns).into(), Layout::RowMajor).map_err(|e| e.to_string())
}

fn in_order<'a>(
    stated: &Sorted,
    find: impl Fn(&str) -> Result<Side<'a>, String>,
    seed: &[u8; 32],
) -> Result<Found, String> {
    let (input, output) = (find(&stated.input)?, find(&stated.output)?);
    let length = output.shape.last().copied().unwrap_or(0) as usize;
    let line = length * output.dtype.bytes() as usize;
    let alike = input.dtype == output.dtype && input.bytes.len() == output.bytes.len();
    if !alike || output.dtype.is_float() || line == 0 || !output.bytes.len().is_multiple_of(line) {
        return Err(format!("{} and {} are not lines of the same integers", stated.input, stated.output));
    }
    let Sorted { input: before, output: after, descending } = stated;
    Ok(match sorted::check(input.bytes, output.bytes, output.dtype, length, *descending, seed) {
        None => Found::Holds(format!(
            "{after} is {before} in order but for one chance in 2^{}",
            61 - length.ilog2() - 1
        )),
        Some(failure) => Found::Fails(format!("{after} is not {before} in order: {failure}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(values: &[i32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// Checks a relation of buffers given as name, element type, shape and bytes.
    fn found(relation: &Relation, buffers: &[(&str, Dtype, &[u32], Vec<u8>)]) -> Found {
        let side = |name: &str| {
            let (_, dtype, shape, bytes) = buffers.iter().find(|(known, ..)| *known == name)?;
            Some(Side { bytes, dtype: *dtype, shape, compare: Compare::default() })
        };
        check(relation, side, &[5; 32])
    }

    fn layer(bias: Option<&str>) -> Relation {
        Relation::Product(Product {
            a: "x".into(),
            b: "w".into(),
            c: "y".into(),
            b_transposed: true,
            bias: bias.map(str::to_owned),
        })
    }

    /// `x` [1, 2, 2] times `w` [3, 2] transposed, plus a bias that wraps: a batch of two rows.
    fn dense(y: [i32; 6]) -> Vec<(&'static str, Dtype, &'static [u32], Vec<u8>)> {
        vec![
            ("x", Dtype::I8, &[1, 2, 2], vec![1, 2, 255, 3]),
            ("w", Dtype::I8, &[3, 2], vec![1, 0, 0, 1, 2, 2]),
            ("b", Dtype::I32, &[3], words(&[10, i32::MAX, -1])),
            ("y", Dtype::I32, &[1, 2, 3], words(&y)),
        ]
    }

    #[test]
    fn a_dense_layer_holds_with_its_bias_and_fails_without() {
        let right = [11, i32::MIN + 1, 5, 9, i32::MIN + 2, 3];
        assert!(matches!(found(&layer(Some("b")), &dense(right)), Found::Holds(_)));
        assert!(matches!(found(&layer(None), &dense(right)), Found::Fails(_)));
        let mut wrong = right;
        wrong[4] += 1;
        let Found::Fails(why) = found(&layer(Some("b")), &dense(wrong)) else { panic!("it is wrong") };
        assert!(why.contains("element (1, 1)"), "{why}");
    }

    #[test]
    fn what_does_not_fit_is_undecided() {
        let missing = found(&layer(Some("none")), &dense([0; 6]));
        assert_eq!(missing, Found::Undecided("there is no buffer none".into()));
        let mut short = dense([0; 6]);
        short[3].3.pop();
        for bias in [None, Some("b")] {
            assert!(matches!(found(&layer(bias), &short), Found::Undecided(_)));
        }
        let float = |value: f32| value.to_le_bytes().to_vec();
        let relation = Relation::Product(Product {
            a: "a".into(),
            b: "b".into(),
            c: "c".into(),
            b_transposed: false,
            bias: None,
        });
        let product = |a: f32| {
            let side = |name, value| (name, Dtype::F32, &[1, 1][..], float(value));
            found(&relation, &[side("a", a), side("b", 2.0), side("c", 3.0)])
        };
        assert!(matches!(product(1.5), Found::Holds(_)));
        assert!(matches!(product(1.6), Found::Fails(_)));
        assert!(matches!(product(f32::NAN), Found::Undecided(_)));
    }

    #[test]
    fn sorted_lines_are_checked_line_by_line() {
        let relation =
            |descending| Relation::Sorted(Sorted { input: "x".into(), output: "y".into(), descending });
        let buffers = |y: [i32; 4]| {
            vec![
                ("x", Dtype::I32, &[2, 2][..], words(&[2, 1, 4, 3])),
                ("y", Dtype::I32, &[2, 2][..], words(&y)),
            ]
        };
        assert!(matches!(found(&relation(false), &buffers([1, 2, 3, 4])), Found::Holds(_)));
        assert!(matches!(found(&relation(true), &buffers([2, 1, 4, 3])), Found::Holds(_)));
        let Found::Fails(why) = found(&relation(false), &buffers([1, 2, 4, 4])) else {
            panic!("it is wrong")
        };
        assert!(why.contains("element 0 of line 1 is 4 instead of 3"), "{why}");
    }
}
