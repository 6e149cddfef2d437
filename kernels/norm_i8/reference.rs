//! What `norm_i8.wgsl` computes.

/// What becomes of a column once its row has length 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gain {
    /// Above -2³¹: `multiplier / 2^shift` results in units of 2^-8 for a share of 2^-30.
    pub multiplier: i32,
    /// 1..=62.
    pub shift: u32,
    /// Added, in units of 2^-8; below 2^30 in size.
    pub offset: i32,
}

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Of what is left without the mean.
    Layer,
    /// Of the row as it is.
    Rms,
}

/// Rows of `x` [m, n], clamped to int16, brought to length 1 and scaled; `epsilon` is added to the sum of squares.
///
/// # Panics
/// If `x` is not made of whole rows, there are more than 8,192 columns, or a gain is out of range.
pub fn norm_i8(x: &[i32], gains: &[Gain], norm: Norm, epsilon: u32) -> Vec<i8> {
    let n = gains.len();
    assert!(n.is_multiple_of(4) && (4..=8192).contains(&n), "{n} columns are not a multiple of 4 up to 8192");
    assert!(x.len().is_multiple_of(n), "x is not made of whole rows");
    x.chunks_exact(n)
        .flat_map(|row| {
            let row: Vec<i64> = row.iter().map(|&x| i64::from(x.clamp(-32768, 32767))).collect();
            let columns = n as i64;
            let centre = match norm {
                Norm::Layer => (256 * row.iter().sum::<i64>() + columns / 2).div_euclid(columns),
                Norm::Rms => 0,
            };
            let row: Vec<i64> = row.into_iter().map(|x| 256 * x - centre).collect();
            let square = u64::from(epsilon) + row.iter().map(|d| d.unsigned_abs().pow(2)).sum::<u64>();
            let up = (square.leading_zeros().max(2) - 2) / 2;
            let root = if square == 0 { 0 } else { (square << (2 * up)).isqrt() };
            let share = move |d: i64| match root {
                0 => 0,
                _ => ((d.unsigned_abs() << up << 30) / root).min((1 << 30) - 1),
            };
            row.into_iter().zip(gains).map(move |(d, gain)| scaled(share(d), d < 0, *gain))
        })
        .collect()
}

fn scaled(share: u64, negative: bool, gain: Gain) -> i8 {
    assert!((1..=62).contains(&gain.shift) && gain.multiplier > i32::MIN, "{gain:?} is out of range");
    assert!(gain.offset.unsigned_abs() < 1 << 30, "{gain:?} is out of range");
    let exact = share * u64::from(gain.multiplier.unsigned_abs());
    let size = (exact >> (gain.shift - 1)).div_ceil(2).min(1 << 30) as i32;
    let signed = if negative != (gain.multiplier < 0) { -size } else { size };
    ((signed + gain.offset + 128) >> 8).clamp(-128, 127) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `gamma / s` and `beta / s` for a row of `n`.
    fn gain(gamma: f64, beta: f64, n: usize) -> Gain {
        let value = 256.0 * gamma * (n as f64).sqrt() / f64::from(1 << 30);
        let shift = 30 - value.abs().log2().floor() as i32;
        let multiplier = (value * 2f64.powi(shift)).round() as i32;
        Gain { multiplier, shift: shift as u32, offset: (256.0 * beta).round() as i32 }
    }

    fn words(count: usize) -> impl Iterator<Item = u32> {
        (0..count as u32).scan(7u32, |state, _| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some(*state)
        })
    }

    #[test]
    fn it_is_as_close_to_floats_as_the_readme_says() {
        for (n, bits, norm) in
            [(4, 24, Norm::Layer), (64, 16, Norm::Layer), (768, 20, Norm::Layer), (768, 26, Norm::Rms)]
        {
            let x: Vec<i32> = words(6 * n).map(|word| ((word as i32) >> bits) + 3).collect();
            let gammas: Vec<f64> = words(n).map(|word| f64::from(word >> 24) / 8.0 - 16.0 + 0.05).collect();
            let gains: Vec<Gain> = gammas.iter().map(|&gamma| gain(gamma, 3.25, n)).collect();
            let y = norm_i8(&x, &gains, norm, 0);
            for (x, y) in x.chunks_exact(n).zip(y.chunks_exact(n)) {
                let x: Vec<f64> = x.iter().map(|&x| f64::from(x.clamp(-32768, 32767))).collect();
                let mean = if norm == Norm::Layer { x.iter().sum::<f64>() / n as f64 } else { 0.0 };
                let sigma = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
                for ((x, y), gamma) in x.iter().zip(y).zip(&gammas) {
                    let unit = (x - mean) / sigma;
                    let expected = (gamma * unit + 3.25).clamp(-128.0, 127.0);
                    let shifted = (1.0 + unit.abs() / (1024.0 * sigma)) / (512.0 * sigma);
                    let bound = 0.5
                        + 1.0 / 512.0
                        + gamma.abs() * (shifted + (n as f64).sqrt() * 2f64.powi(-29))
                        + 1e-9;
                    let error = (expected - f64::from(*y)).abs();
                    assert!(error <= bound, "n = {n}: {y} against {expected}, off by more than {bound}");
                }
            }
        }
    }

    #[test]
    fn extremes_are_defined() {
        let gains = [gain(40.0, 0.0, 4), gain(-40.0, 0.0, 4), gain(0.5, 2.5, 4), gain(1e6, 0.0, 4)];
        // A row without length gives the offset, halves up.
        assert_eq!(norm_i8(&[9; 4], &gains, Norm::Layer, 0), [0, 0, 3, 0]);
        assert_eq!(norm_i8(&[0; 4], &gains, Norm::Rms, 0), [0, 0, 3, 0]);
        // Beyond int16 is int16's end, and the largest sums fit.
        let wide = norm_i8(&[i32::MAX, i32::MIN, i32::MAX, i32::MIN], &gains, Norm::Layer, u32::MAX);
        assert_eq!(wide, [40, 40, 3, -128]);
        let all = vec![gain(2.0, 0.0, 8192); 8192];
        assert_eq!(norm_i8(&vec![i32::MIN; 8192], &all, Norm::Rms, 0), vec![-2; 8192]);
    }
}
