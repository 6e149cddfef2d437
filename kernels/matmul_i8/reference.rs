//! What `matmul_i8.wgsl` computes.

/// `y[m, n] = bias[n] + Σₖ x[m, k] · w[n, k]` with `x` [m, k] and `w` [n, k] row by row; sums wrap as int32 does.
///
/// # Panics
/// If the slices do not have the sizes that `k` and `bias` imply.
pub fn matmul_i8(x: &[i8], w: &[i8], bias: &[i32], k: usize) -> Vec<i32> {
    assert!(k > 0 && k.is_multiple_of(4), "inner size {k} is not a multiple of 4");
    assert!(x.len().is_multiple_of(k), "x is not made of whole rows");
    assert_eq!(w.len(), bias.len() * k, "w has one row per bias");
    let mut y = Vec::with_capacity(x.len() / k * bias.len());
    for row in x.chunks_exact(k) {
        for (column, &bias) in w.chunks_exact(k).zip(bias) {
            let products = row.iter().zip(column).map(|(&a, &b)| i32::from(a) * i32::from(b));
            y.push(products.fold(bias, i32::wrapping_add));
        }
    }
    y
}
