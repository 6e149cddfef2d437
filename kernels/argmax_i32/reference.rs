//! What `argmax_i32.wgsl` computes.

/// For each row of `x` [m, n] the index of its largest value; the lowest index wins a tie.
///
/// # Panics
/// If `n` is 0 or `x` is not made of whole rows.
pub fn argmax_i32(x: &[i32], n: usize) -> Vec<i32> {
    assert!(n > 0 && x.len().is_multiple_of(n), "x is not made of rows of {n}");
    x.chunks_exact(n)
        .map(|row| {
            let mut best = 0;
            for (i, value) in row.iter().enumerate() {
                if *value > row[best] {
                    best = i;
                }
            }
            i32::try_from(best).expect("rows are shorter than 2^31")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_index_wins_a_tie() {
        assert_eq!(argmax_i32(&[3, 7, 7, -1, -1, -2], 3), [1, 0]);
    }
}
