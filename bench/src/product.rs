//! Matrix products as a plain program computes them on one core: blocked for the cache, with loops that compilers vectorise.
//!
//! What checks and proofs are measured against. Both are built for the same instructions, those of the target's baseline.

/// Columns of B that stay in the cache while all rows of A pass.
const COLUMNS_BLOCK: usize = 64;
/// Rows of B in a block of floats.
const TERMS_BLOCK: usize = 128;

/// C = A·B of n × n 8-bit integers, row by row; n is a multiple of 64.
pub fn integers(a: &[i8], b: &[i8], n: usize) -> Vec<i32> {
    assert!(n.is_multiple_of(COLUMNS_BLOCK) && a.len() == n * n && b.len() == n * n);
    let a: Vec<i16> = a.iter().map(|value| i16::from(*value)).collect();
    // B by columns, so that both factors are read in the order in which they lie.
    let mut columns = vec![0_i16; n * n];
    for (term, row) in b.chunks_exact(n).enumerate() {
        for (column, value) in row.iter().enumerate() {
            columns[column * n + term] = i16::from(*value);
        }
    }
    let mut c = vec![0; n * n];
    for block in (0..n).step_by(COLUMNS_BLOCK) {
        for row in (0..n).step_by(2) {
            let (a0, a1) = (&a[row * n..][..n], &a[(row + 1) * n..][..n]);
            for column in (block..block + COLUMNS_BLOCK).step_by(4) {
                let b = |offset: usize| &columns[(column + offset) * n..][..n];
                let (b0, b1, b2, b3) = (b(0), b(1), b(2), b(3));
                let mut sums = [0_i32; 8];
                for term in 0..n {
                    let (x, y) = (i32::from(a0[term]), i32::from(a1[term]));
                    let b = [b0[term], b1[term], b2[term], b3[term]].map(i32::from);
                    for lane in 0..4 {
                        sums[lane] += x * b[lane];
                        sums[4 + lane] += y * b[lane];
                    }
                }
                c[row * n + column..][..4].copy_from_slice(&sums[..4]);
                c[(row + 1) * n + column..][..4].copy_from_slice(&sums[4..]);
            }
        }
    }
    c
}

/// C = A·B of n × n floats, row by row; n is a multiple of 128.
pub fn floats(a: &[f32], b: &[f32], n: usize) -> Vec<f32> {
    assert!(n.is_multiple_of(TERMS_BLOCK) && a.len() == n * n && b.len() == n * n);
    let mut c = vec![0.0; n * n];
    for block in (0..n).step_by(TERMS_BLOCK) {
        for (row, c) in c.chunks_exact_mut(n).enumerate() {
            for term in (block..block + TERMS_BLOCK).step_by(4) {
                let b = |offset: usize| &b[(term + offset) * n..][..n];
                let (b0, b1, b2, b3) = (b(0), b(1), b(2), b(3));
                let [a0, a1, a2, a3] = [0, 1, 2, 3].map(|offset| a[row * n + term + offset]);
                for (column, c) in c.iter_mut().enumerate() {
                    *c += a0 * b0[column] + a1 * b1[column] + a2 * b2[column] + a3 * b3[column];
                }
            }
        }
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_products() {
        let n = 128;
        let a: Vec<i8> = (0..n * n).map(|i| (i * 37 % 251) as i8).collect();
        let b: Vec<i8> = (0..n * n).map(|i| (i * 91 % 241) as i8).collect();
        let expected: Vec<i32> = (0..n * n)
            .map(|at| (0..n).map(|k| i32::from(a[at / n * n + k]) * i32::from(b[k * n + at % n])).sum())
            .collect();
        assert_eq!(integers(&a, &b, n), expected);
        let floats_of = |values: &[i8]| values.iter().map(|v| f32::from(*v)).collect::<Vec<_>>();
        // Below 2²⁴ floats are exact.
        let expected: Vec<f32> = expected.iter().map(|v| *v as f32).collect();
        assert_eq!(floats(&floats_of(&a), &floats_of(&b), n), expected);
    }
}
