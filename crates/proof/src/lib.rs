//! Proof of compute: decides whether two executions of the same unit agree, and keeps the evidence.
//!
//! Integer work and float work that declares `exact` agree bit for bit. Other float work diverges between honest devices (fused
//! multiply-adds, transcendentals, and the rare branch that flips because of them), so that it agrees within a tolerance:
//! absolute and relative error for each element, a bounded share of outliers, and a bound on the mean that keeps many small
//! lies from adding up. Never in units in the last place, which mean nothing near zero.
//!
//! Matrix products need no second execution: [`freivalds`] checks them with random vectors, and [`sumcheck`] proves them to
//! everybody.
//!
//! The crate compares bytes. It does not know who computed them, nor what follows from a disagreement.

mod draw;
pub mod field;
pub mod freivalds;
pub mod matrix;
pub mod relation;
pub mod sorted;
pub mod sumcheck;

use std::fmt;

use protocol::manifest::{Compare, Dtype, Tolerance};

/// The outcome of comparing two executions of an output, with what shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Why the two disagree, or nothing if they agree.
    pub disagreement: Option<Disagreement>,
    /// Bytes on either side.
    pub bytes: (u64, u64),
    /// Elements compared.
    pub elements: u64,
    /// Elements with different values (−0 equals 0, NaN equals NaN).
    pub differing: u64,
    /// Elements outside the tolerance; under `exact`, elements with different bytes.
    pub outliers: u64,
    /// Mean of |a − b| over all elements; infinite where an infinity or a NaN met something else.
    pub mean_abs: f64,
    /// Largest |a − b|; infinite where an infinity or a NaN met something else.
    pub max_abs: f64,
    /// The first outlier.
    pub first: Option<Difference>,
}

/// What two executions disagree about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// The outputs are not equally long, or not a whole number of elements.
    Length,
    /// Some bytes differ where every bit counts.
    Bits,
    /// An infinity or a NaN stands against another value. No tolerance covers that.
    NotFinite,
    /// More elements lie outside the tolerance than may.
    Outliers,
    /// The mean error is above its bound.
    Mean,
}

/// One element that differs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The element's index.
    pub index: u64,
    /// Its value on the first side.
    pub a: f64,
    /// Its value on the second side.
    pub b: f64,
}

impl Comparison {
    /// Whether the two agree.
    pub fn agrees(&self) -> bool {
        self.disagreement.is_none()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes: (a, b), elements, differing, outliers, mean_abs, max_abs, .. } = self;
        match self.disagreement {
            None => {
                return write!(
                    f,
                    "agrees: {differing} of {elements} elements differ, {outliers} of them are outliers, mean error {mean_abs:e}, \
                     largest {max_abs:e}"
                );
            }
            Some(Disagreement::Length) => return write!(f, "disagrees: {a} bytes against {b}"),
            Some(Disagreement::Bits) => write!(f, "disagrees: {outliers} of {elements} elements differ")?,
            Some(Disagreement::NotFinite) => {
                write!(f, "disagrees: an infinity or a NaN stands against another value")?;
            }
            Some(Disagreement::Outliers) => {
                write!(f, "disagrees: {outliers} of {elements} elements are outside the tolerance")?;
            }
            Some(Disagreement::Mean) => write!(f, "disagrees: the mean error is {mean_abs:e}")?,
        }
        match self.first {
            Some(Difference { index, a, b }) => {
                write!(f, "; the first is element {index}, {a} against {b}; largest error {max_abs:e}")
            }
            None => write!(f, "; largest error {max_abs:e}"),
        }
    }
}

/// Compares two executions of an output of `dtype`. Symmetric: swapping the sides swaps only the evidence.
///
/// Elements agree when `|a − b| ≤ abs + rel · max(|a|, |b|)`, in double precision. The outputs agree when at most
/// `outliers_max · elements` elements do not, and the mean of `|a − b|` over all elements is at most `mean_abs_max`.
pub fn compare(a: &[u8], b: &[u8], dtype: Dtype, compare: &Compare) -> Comparison {
    let mut found = Comparison {
        disagreement: None,
        bytes: (a.len() as u64, b.len() as u64),
        elements: 0,
        differing: 0,
        outliers: 0,
        mean_abs: 0.0,
        max_abs: 0.0,
        first: None,
    };
    let width = dtype.bytes() as usize;
    if a.len() != b.len() || !a.len().is_multiple_of(width) {
        found.disagreement = Some(Disagreement::Length);
        return found;
    }
    found.elements = (a.len() / width) as u64;
    if a == b {
        return found;
    }
    let tolerance = match compare {
        Compare::Exact(_) => None,
        Compare::Within(tolerance) => Some(tolerance),
    };
    let mut sum = 0.0;
    for (index, (x, y)) in a.chunks_exact(width).zip(b.chunks_exact(width)).enumerate() {
        if x == y {
            continue;
        }
        let difference = Difference { index: index as u64, a: dtype.value(x), b: dtype.value(y) };
        let error = difference.error();
        sum += error;
        found.max_abs = found.max_abs.max(error);
        found.differing += u64::from(error > 0.0);
        if tolerance.is_none_or(|t| !difference.is_within(t)) {
            found.outliers += 1;
            found.first.get_or_insert(difference);
        }
    }
    found.mean_abs = sum / found.elements as f64;
    found.disagreement = match tolerance {
        None => Some(Disagreement::Bits),
        Some(_) if found.max_abs.is_infinite() => Some(Disagreement::NotFinite),
        Some(t) if found.outliers as f64 > t.outliers_max * found.elements as f64 => {
            Some(Disagreement::Outliers)
        }
        Some(t) if t.mean_abs_max.is_some_and(|bound| found.mean_abs > bound) => Some(Disagreement::Mean),
        Some(_) => None,
    };
    found
}

impl Difference {
    /// |a − b|: 0 for equal values and for two NaNs, infinite where an infinity or a NaN stands against something else.
    fn error(&self) -> f64 {
        let Self { a, b, .. } = *self;
        if a == b || (a.is_nan() && b.is_nan()) {
            0.0
        } else if a.is_finite() && b.is_finite() {
            (a - b).abs()
        } else {
            f64::INFINITY
        }
    }

    fn is_within(&self, tolerance: &Tolerance) -> bool {
        let error = self.error();
        error == 0.0
            || error.is_finite() && error <= tolerance.abs + tolerance.rel * self.a.abs().max(self.b.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn within(a: &[f32], b: &[f32], tolerance: Tolerance) -> Comparison {
        compare(&bytes(a), &bytes(b), Dtype::F32, &Compare::Within(tolerance))
    }

    const TIGHT: Tolerance = Tolerance { abs: 0.01, rel: 0.0, outliers_max: 0.0, mean_abs_max: None };

    #[test]
    fn exact_means_every_bit() {
        let exact = Compare::default();
        assert!(compare(&[1, 2], &[1, 2], Dtype::I8, &exact).agrees());
        let found = compare(&[1, 255, 9], &[1, 254, 8], Dtype::I8, &exact);
        assert_eq!(found.disagreement, Some(Disagreement::Bits));
        assert_eq!((found.outliers, found.first), (2, Some(Difference { index: 1, a: -1.0, b: -2.0 })));
        // Exact is exact for floats too, −0 included.
        let found = compare(&bytes(&[0.0]), &bytes(&[-0.0]), Dtype::F32, &exact);
        assert_eq!((found.disagreement, found.differing), (Some(Disagreement::Bits), 0));
    }

    #[test]
    fn lengths_must_match_and_hold_whole_elements() {
        for (a, b) in [(4, 8), (0, 4), (3, 3)] {
            let found = compare(&vec![0; a], &vec![0; b], Dtype::F32, &Compare::Within(TIGHT));
            assert_eq!(found.disagreement, Some(Disagreement::Length), "{a} {b}");
        }
        assert!(compare(&[], &[], Dtype::F32, &Compare::default()).agrees());
    }

    #[test]
    fn special_values_follow_the_manifest_rule() {
        const INF: f32 = f32::INFINITY;
        let loose = Tolerance { abs: 1e30, rel: 1.0, outliers_max: 1.0, mean_abs_max: None };
        for (a, b, agrees) in [
            (f32::NAN, -f32::NAN, true),
            (0.0, -0.0, true),
            (INF, INF, true),
            (INF, -INF, false),
            (INF, f32::MAX, false),
            (f32::NAN, 0.0, false),
            (f32::NAN, INF, false),
        ] {
            let found = within(&[a, 1.0], &[b, 1.0], loose);
            assert_eq!(found.agrees(), agrees, "{a} {b}: {found}");
            assert_eq!(found.disagreement == Some(Disagreement::NotFinite), !agrees);
        }
    }

    #[test]
    fn a_share_of_outliers_is_allowed_but_not_a_large_mean() {
        let a = vec![0.5; 100];
        let mut b = a.clone();
        b[7] = 0.9;
        b[50] = 0.1;
        let few = Tolerance { outliers_max: 0.02, ..TIGHT };
        assert!(within(&a, &b, few).agrees());
        let found = within(&a, &b, Tolerance { outliers_max: 0.019, ..TIGHT });
        assert_eq!(found.disagreement, Some(Disagreement::Outliers));
        assert_eq!(found.first.map(|d| d.index), Some(7));
        let found = within(&a, &b, Tolerance { mean_abs_max: Some(0.007), ..few });
        assert_eq!(found.disagreement, Some(Disagreement::Mean));
        assert!((found.mean_abs - 0.008).abs() < 1e-6);
        // Every element a little off within the tolerance: the mean catches it.
        let shifted: Vec<f32> = a.iter().map(|x| x + 0.009).collect();
        assert!(within(&a, &shifted, TIGHT).agrees());
        assert!(!within(&a, &shifted, Tolerance { mean_abs_max: Some(0.001), ..TIGHT }).agrees());
    }

    #[test]
    fn relative_error_scales_with_the_larger_side() {
        let relative = Tolerance { abs: 0.0, rel: 0.1, outliers_max: 0.0, mean_abs_max: None };
        assert!(within(&[1000.0], &[1100.0], relative).agrees());
        assert!(!within(&[1000.0], &[1120.0], relative).agrees());
    }

    #[test]
    fn evidence_reads_as_a_sentence() {
        let found = within(&[1.0, 2.0], &[1.0, 3.0], TIGHT);
        assert_eq!(
            found.to_string(),
            "disagrees: 1 of 2 elements are outside the tolerance; the first is element 1, 2 against 3; largest error 1e0"
        );
    }

    fn any_dtype() -> impl Strategy<Value = Dtype> {
        proptest::sample::select(vec![Dtype::I8, Dtype::U8, Dtype::I32, Dtype::U32, Dtype::F16, Dtype::F32])
    }

    fn any_tolerance() -> impl Strategy<Value = Tolerance> {
        (0.0..10.0, 0.0..1.0, 0.0..1.0, proptest::option::of(0.0..10.0)).prop_map(
            |(abs, rel, outliers_max, mean_abs_max)| Tolerance { abs, rel, outliers_max, mean_abs_max },
        )
    }

    /// Pairs of outputs that are alike often enough for every branch to be taken.
    fn pairs() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let element = prop_oneof![
            any::<u32>().prop_map(|bits| (bits, bits)),
            any::<(u32, u32)>(),
            (-4.0f32..4.0, -2.0f32..2.0).prop_map(|(a, d)| (a.to_bits(), (a + d).to_bits())),
        ];
        proptest::collection::vec(element, 0..40).prop_map(|pairs| {
            let (a, b): (Vec<u32>, Vec<u32>) = pairs.into_iter().unzip();
            let bytes = |v: Vec<u32>| v.into_iter().flat_map(u32::to_le_bytes).collect();
            (bytes(a), bytes(b))
        })
    }

    proptest! {
        #[test]
        fn comparing_is_symmetric((a, b) in pairs(), dtype in any_dtype(), tolerance in any_tolerance()) {
            for rule in [Compare::default(), Compare::Within(tolerance)] {
                let (there, back) = (compare(&a, &b, dtype, &rule), compare(&b, &a, dtype, &rule));
                prop_assert_eq!(there.disagreement, back.disagreement);
                prop_assert_eq!(there.outliers, back.outliers);
                prop_assert_eq!(there.mean_abs, back.mean_abs);
                prop_assert_eq!(there.first.map(|d| d.index), back.first.map(|d| d.index));
            }
        }

        #[test]
        fn everything_agrees_with_itself((a, _) in pairs(), dtype in any_dtype(), tolerance in any_tolerance()) {
            for rule in [Compare::default(), Compare::Within(tolerance)] {
                prop_assert!(compare(&a, &a, dtype, &rule).agrees());
            }
        }

        #[test]
        fn a_wider_tolerance_never_disagrees_more(
            (a, b) in pairs(), dtype in any_dtype(), t in any_tolerance(), more in any_tolerance(),
        ) {
            let wider = Tolerance {
                abs: t.abs + more.abs,
                rel: t.rel + more.rel,
                outliers_max: t.outliers_max + more.outliers_max,
                mean_abs_max: t.mean_abs_max.zip(more.mean_abs_max).map(|(x, y)| x + y),
            };
            if compare(&a, &b, dtype, &Compare::Within(t)).agrees() {
                prop_assert!(compare(&a, &b, dtype, &Compare::Within(wider)).agrees());
            }
        }
    }
}
