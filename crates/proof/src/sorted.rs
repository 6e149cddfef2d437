//! Whether lines of integers are other lines in order, without sorting them.
//!
//! That a line is in order is seen in one pass. That it holds the same elements, each as often, is a matter of two polynomials: with
//! the elements as roots they are equal exactly if the elements are, and two different ones of degree n are equal at no more than
//! n of the field's 2⁶¹ − 1 points. So a wrong line passes with at most n/(2⁶¹ − 1). A line that fails is then sorted, and the
//! first element that is wrong is named. What sorting costs n·log n for, or a device n·log² n, costs n here.

use std::fmt;

use protocol::manifest::Dtype;

use crate::{draw::Draw, field::Field};

/// An element that is not what belongs in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The element's line.
    pub line: u64,
    /// Its place in the line.
    pub index: u64,
    /// What is there.
    pub claimed: i64,
    /// What belongs there.
    pub wanted: i64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, index, claimed, wanted } = self;
        write!(f, "element {index} of line {line} is {claimed} instead of {wanted}")
    }
}

/// Checks that each line of `length` elements of `output` holds those of `input` in order. Nothing if it does.
///
/// # Panics
///
/// If the two are not equally long, not whole lines, or not integers.
pub fn check(
    input: &[u8],
    output: &[u8],
    dtype: Dtype,
    length: usize,
    descending: bool,
    seed: &[u8; 32],
) -> Option<Failure> {
    assert!(!dtype.is_float() && input.len() == output.len(), "two buffers of the same integers");
    let bytes = length * dtype.bytes() as usize;
    assert!(bytes > 0 && input.len().is_multiple_of(bytes), "whole lines");
    let mut draw = Draw::new(seed);
    input.chunks_exact(bytes).zip(output.chunks_exact(bytes)).enumerate().find_map(
        |(line, (input, output))| {
            let (before, after) = (elements(input, dtype), elements(output, dtype));
            let ordered = after.is_sorted_by(|a, b| if descending { a >= b } else { a <= b });
            let at = draw.field();
            if ordered && at_roots(&before, at) == at_roots(&after, at) {
                return None;
            }
            let mut wanted = before;
            wanted.sort_unstable();
            if descending {
                wanted.reverse();
            }
            let wrong = wanted.iter().zip(&after).position(|(wanted, claimed)| wanted != claimed);
            let index =
                wrong.expect("a line that is not in order, or of other elements, is not the sorted one");
            Some(Failure {
                line: line as u64,
                index: index as u64,
                claimed: after[index],
                wanted: wanted[index],
            })
        },
    )
}

fn elements(bytes: &[u8], dtype: Dtype) -> Vec<i64> {
    // Every integer type here is exact in double precision.
    bytes.chunks_exact(dtype.bytes() as usize).map(|element| dtype.value(element) as i64).collect()
}

/// The polynomial with these roots, at a point.
fn at_roots(roots: &[i64], at: Field) -> Field {
    roots.iter().fold(Field::ONE, |product, root| product * (at - Field::of((*root).into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(values: &[i32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn found(input: &[i32], output: &[i32], length: usize, descending: bool) -> Option<Failure> {
        check(&bytes(input), &bytes(output), Dtype::I32, length, descending, &[3; 32])
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(found(&[3, -1, 2, 2], &[-1, 2, 2, 3], 4, false), None);
        assert_eq!(found(&[3, -1, 2, 2], &[3, 2, 2, -1], 4, true), None);
        for (output, failure) in [
            // Out of order, an element lost, and one twice.
            ([-1, 2, 3, 2], Failure { line: 0, index: 2, claimed: 3, wanted: 2 }),
            ([-1, 2, 3, 3], Failure { line: 0, index: 2, claimed: 3, wanted: 2 }),
            ([0, 0, 0, 0], Failure { line: 0, index: 0, claimed: 0, wanted: -1 }),
        ] {
            assert_eq!(found(&[3, -1, 2, 2], &output, 4, false), Some(failure));
        }
        // Each line by itself.
        assert_eq!(found(&[4, 3, 2, 1], &[3, 4, 1, 2], 2, false), None);
        let second = Failure { line: 1, index: 0, claimed: 2, wanted: 1 };
        assert_eq!(found(&[4, 3, 2, 1], &[3, 4, 2, 2], 2, false), Some(second));
    }

    proptest! {
        #[test]
        fn a_line_passes_exactly_if_it_is_the_sorted_one(
            input in prop::collection::vec(any::<i32>(), 1..50),
            descending in any::<bool>(),
            change in prop::option::of((any::<prop::sample::Index>(), any::<i32>())),
            seed in any::<[u8; 32]>(),
        ) {
            let mut wanted = input.clone();
            wanted.sort_unstable();
            if descending {
                wanted.reverse();
            }
            let mut output = wanted.clone();
            if let Some((at, value)) = change {
                *at.get_mut(&mut output) = value;
            }
            let found = check(&bytes(&input), &bytes(&output), Dtype::I32, input.len(), descending, &seed);
            prop_assert_eq!(found.is_none(), output == wanted);
        }
    }
}
