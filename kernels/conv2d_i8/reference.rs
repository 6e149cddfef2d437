//! What `conv2d_i8.wgsl` computes.

/// Sizes of a convolution, as the kernel's overrides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Pictures.
    pub b: usize,
    /// Height and width of a picture.
    pub picture: [usize; 2],
    /// Channels of a picture, a multiple of 4.
    pub c: usize,
    /// Filters.
    pub o: usize,
    /// Height and width of a filter.
    pub filter: [usize; 2],
    /// Height and width of the result.
    pub result: [usize; 2],
    /// Steps down and to the right.
    pub stride: [usize; 2],
    /// Zeros above and to the left.
    pub pad: [usize; 2],
}

/// The convolution of `x` [b, h, w, c] with `w` [o, kh, kw, c]; zeros outside the pictures, sums wrap as int32 does.
///
/// # Panics
/// If the slices do not have the sizes that `shape` and `bias` imply.
pub fn conv2d_i8(x: &[i8], w: &[i8], bias: &[i32], shape: &Shape) -> Vec<i32> {
    let Shape { b, picture: [height, width], c, o, filter: [kh, kw], result: [oh, ow], stride, pad } = *shape;
    assert!(c > 0 && c.is_multiple_of(4), "{c} channels are not a multiple of 4");
    assert_eq!(x.len(), b * height * width * c, "x has b pictures");
    assert_eq!((w.len(), bias.len()), (o * kh * kw * c, o), "w has o filters");
    let mut y = Vec::with_capacity(b * oh * ow * o);
    for (b, p, q, o) in places([b, oh, ow, o]) {
        let mut sum = bias[o];
        for u in 0..kh {
            for v in 0..kw {
                let row = (p * stride[0] + u).checked_sub(pad[0]).filter(|row| *row < height);
                let column = (q * stride[1] + v).checked_sub(pad[1]).filter(|column| *column < width);
                let (Some(row), Some(column)) = (row, column) else { continue };
                let pixel = &x[((b * height + row) * width + column) * c..][..c];
                let tap = &w[((o * kh + u) * kw + v) * c..][..c];
                let products = pixel.iter().zip(tap).map(|(&a, &b)| i32::from(a) * i32::from(b));
                sum = products.fold(sum, i32::wrapping_add);
            }
        }
        y.push(sum);
    }
    y
}

fn places([b, p, q, o]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..b).flat_map(move |b| {
        (0..p).flat_map(move |p| (0..q).flat_map(move |q| (0..o).map(move |o| (b, p, q, o))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul_i8::matmul_i8;

    #[test]
    fn a_filter_of_one_pixel_is_a_matrix_product() {
        let x: Vec<i8> = (0..2 * 3 * 5 * 8).map(|i| (i * 37 % 256) as u8 as i8).collect();
        let w: Vec<i8> = (0..6 * 8).map(|i| (i * 91 % 256) as u8 as i8).collect();
        let bias = [1, -2, 3, -4, 5, -6];
        let shape = Shape {
            b: 2,
            picture: [3, 5],
            c: 8,
            o: 6,
            filter: [1, 1],
            result: [3, 5],
            stride: [1, 1],
            pad: [0, 0],
        };
        assert_eq!(conv2d_i8(&x, &w, &bias, &shape), matmul_i8(&x, &w, &bias, 8));
    }

    #[test]
    fn what_is_outside_counts_as_zero() {
        // One channel that counts, in a picture of 2 by 2; a filter of ones sums what it sees.
        let x: Vec<i8> = [1, 2, 3, 4].iter().flat_map(|&v| [v, 0, 0, 0]).collect();
        let shape = Shape {
            b: 1,
            picture: [2, 2],
            c: 4,
            o: 1,
            filter: [3, 3],
            result: [2, 2],
            stride: [2, 1],
            pad: [1, 1],
        };
        assert_eq!(conv2d_i8(&x, &[1; 36], &[0], &shape), [10, 10, 7, 7]);
    }
}
