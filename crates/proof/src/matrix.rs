//! Matrices as the bytes of a buffer, and their products with vectors.
//!
//! A product with a vector of field elements reads the matrix once, line by line as it lies in memory, and needs memory for
//! vectors only. For 8-bit entries the field elements are cut into 16-bit pieces, because products of 16-bit integers are what
//! every processor multiplies many at a time.

use protocol::manifest::Dtype;

use crate::field::Field;

/// The most rows or columns. Sums of so many products fit the accumulators used here, whatever the entries.
pub const SIDE_MAX: u64 = 1 << 24;

/// How a matrix lies in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Row after row.
    RowMajor,
    /// Column after column: the transposed matrix row by row.
    ColumnMajor,
}

/// A matrix in little-endian bytes, without gaps.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    bytes: &'a [u8],
    dtype: Dtype,
    rows: usize,
    columns: usize,
    layout: Layout,
}

/// Why bytes are not the matrix they are said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// A side is zero or too long.
    #[error("a matrix of {rows} × {columns} has a side that is not from 1 to {SIDE_MAX}")]
    Side {
        /// Rows.
        rows: u64,
        /// Columns.
        columns: u64,
    },
    /// The bytes do not fit the shape.
    #[error("{bytes} bytes are not a matrix of {rows} × {columns} {dtype}")]
    Length {
        /// Bytes given.
        bytes: u64,
        /// Rows.
        rows: u64,
        /// Columns.
        columns: u64,
        /// The element type.
        dtype: Dtype,
    },
}

impl<'a> Matrix<'a> {
    /// The matrix of `rows` × `columns` elements that `bytes` hold.
    pub fn new(
        bytes: &'a [u8],
        dtype: Dtype,
        rows: u64,
        columns: u64,
        layout: Layout,
    ) -> Result<Self, MatrixError> {
        if !(1..=SIDE_MAX).contains(&rows) || !(1..=SIDE_MAX).contains(&columns) {
            return Err(MatrixError::Side { rows, columns });
        }
        // At most 2⁵⁰.
        if bytes.len() as u64 != rows * columns * dtype.bytes() {
            return Err(MatrixError::Length { bytes: bytes.len() as u64, rows, columns, dtype });
        }
        Ok(Self { bytes, dtype, rows: rows as usize, columns: columns as usize, layout })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The bytes that hold it.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How it lies in its bytes.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The transposed matrix, of the same bytes.
    pub fn transposed(self) -> Self {
        let layout = match self.layout {
            Layout::RowMajor => Layout::ColumnMajor,
            Layout::ColumnMajor => Layout::RowMajor,
        };
        Self { rows: self.columns, columns: self.rows, layout, ..self }
    }

    /// The elements that lie one after the other: a row, or of a column-major matrix a column.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks_exact(self.line_length() * self.dtype.bytes() as usize)
    }

    pub(crate) fn line_length(&self) -> usize {
        match self.layout {
            Layout::RowMajor => self.columns,
            Layout::ColumnMajor => self.rows,
        }
    }

    /// One element in its bytes.
    fn element(&self, row: usize, column: usize) -> &'a [u8] {
        let index = match self.layout {
            Layout::RowMajor => row * self.columns + column,
            Layout::ColumnMajor => column * self.rows + row,
        };
        let width = self.dtype.bytes() as usize;
        &self.bytes[index * width..(index + 1) * width]
    }

    /// One element, exact for every element type.
    pub(crate) fn value(&self, row: usize, column: usize) -> f64 {
        self.dtype.value(self.element(row, column))
    }

    /// A row, exact for every element type.
    pub(crate) fn row(&self, row: usize) -> Vec<f64> {
        (0..self.columns).map(|column| self.value(row, column)).collect()
    }

    /// The product with a vector of one field element a column. Only for integers.
    pub(crate) fn times(&self, vector: &[Field]) -> Vec<Field> {
        assert_eq!(vector.len(), self.columns, "one element a column");
        assert!(!self.dtype.is_float(), "floats are no field elements");
        match (self.dtype.bytes(), self.layout) {
            (1, Layout::RowMajor) => self.narrow_dots(&Pieces::of(vector)),
            (1, Layout::ColumnMajor) => self.narrow_sums(&Pieces::of(vector)),
            (_, Layout::RowMajor) => self.wide_dots(vector),
            (_, Layout::ColumnMajor) => self.wide_sums(vector),
        }
    }

    /// A row at a time, 8-bit entries.
    fn narrow_dots(&self, vector: &Pieces) -> Vec<Field> {
        let mut line = vec![0; self.columns];
        self.lines()
            .map(|bytes| {
                narrow(self.dtype, bytes, &mut line);
                Pieces::join(vector.0.each_ref().map(|piece| dot(&line, piece)))
            })
            .collect()
    }

    /// A column at a time, 8-bit entries.
    fn narrow_sums(&self, vector: &Pieces) -> Vec<Field> {
        let mut line = vec![0; self.rows];
        let mut sums = vec![[0_i64; PIECES]; self.rows];
        let mut partial = [(); PIECES].map(|()| vec![0_i32; self.rows]);
        let mut columns = self.lines().enumerate().peekable();
        while let Some((column, bytes)) = columns.next() {
            narrow(self.dtype, bytes, &mut line);
            for (piece, partial) in vector.0.iter().zip(&mut partial) {
                let weight = i32::from(piece[column]);
                for (sum, &entry) in partial.iter_mut().zip(&line) {
                    *sum += weight * i32::from(entry);
                }
            }
            if (column + 1) % RUN == 0 || columns.peek().is_none() {
                for (index, partial) in partial.iter_mut().enumerate() {
                    for (sum, partial) in sums.iter_mut().zip(partial) {
                        sum[index] += i64::from(std::mem::take(partial));
                    }
                }
            }
        }
        sums.into_iter().map(Pieces::join).collect()
    }

    /// A row at a time, 32-bit entries: 2³² · 2⁶¹ · 2²⁴ fits 128 bits.
    fn wide_dots(&self, vector: &[Field]) -> Vec<Field> {
        let mut line = vec![0; self.columns];
        self.lines()
            .map(|bytes| {
                wide(self.dtype, bytes, &mut line);
                let products =
                    line.iter().zip(vector).map(|(&a, x)| i128::from(a) * i128::from(x.value() as i64));
                Field::of(products.sum())
            })
            .collect()
    }

    /// A column at a time, 32-bit entries.
    fn wide_sums(&self, vector: &[Field]) -> Vec<Field> {
        let mut line = vec![0; self.rows];
        let mut sums = vec![0_i128; self.rows];
        for (bytes, x) in self.lines().zip(vector) {
            wide(self.dtype, bytes, &mut line);
            let weight = i128::from(x.value() as i64);
            for (sum, &entry) in sums.iter_mut().zip(&line) {
                *sum += weight * i128::from(entry);
            }
        }
        sums.into_iter().map(Field::of).collect()
    }

    /// The products with [`LANES`] vectors at once, modulo 2³². Only for integers.
    pub(crate) fn times_words(&self, vectors: &[[u32; LANES]]) -> Vec<[u32; LANES]> {
        assert_eq!(vectors.len(), self.columns, "one element a column");
        let add = |sum: &mut [u32; LANES], entry: i64, vector: &[u32; LANES]| {
            for (sum, element) in sum.iter_mut().zip(vector) {
                *sum = sum.wrapping_add((entry as u32).wrapping_mul(*element));
            }
        };
        let mut sums = vec![[0; LANES]; self.rows];
        let mut line = vec![0; self.line_length()];
        for (index, bytes) in self.lines().enumerate() {
            wide(self.dtype, bytes, &mut line);
            match self.layout {
                Layout::RowMajor => {
                    line.iter()
                        .zip(vectors)
                        .for_each(|(entry, vector)| add(&mut sums[index], *entry, vector));
                }
                Layout::ColumnMajor => {
                    sums.iter_mut().zip(&line).for_each(|(sum, entry)| add(sum, *entry, &vectors[index]));
                }
            }
        }
        sums
    }

    /// How large the integers are. Only for integers.
    pub(crate) fn extent(&self) -> Extent {
        let mut sums = vec![0_u64; self.rows];
        let (mut least, mut largest) = (i64::MAX, i64::MIN);
        let mut line = vec![0; self.line_length()];
        for (index, bytes) in self.lines().enumerate() {
            wide(self.dtype, bytes, &mut line);
            for &entry in &line {
                least = least.min(entry);
                largest = largest.max(entry);
            }
            match self.layout {
                Layout::RowMajor => sums[index] = line.iter().map(|entry| entry.unsigned_abs()).sum(),
                Layout::ColumnMajor => {
                    for (sum, entry) in sums.iter_mut().zip(&line) {
                        *sum += entry.unsigned_abs();
                    }
                }
            }
        }
        Extent { sum_abs_max: sums.into_iter().max().unwrap_or(0), least, largest }
    }

    /// How large integers of this type and shape can be: what needs no look at the elements.
    pub(crate) fn extent_max(&self) -> Extent {
        let (least, largest) = match self.dtype {
            Dtype::I8 => (i64::from(i8::MIN), i64::from(i8::MAX)),
            Dtype::U8 => (0, i64::from(u8::MAX)),
            Dtype::U32 => (0, i64::from(u32::MAX)),
            _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
        };
        let extent = Extent { sum_abs_max: 0, least, largest };
        Extent { sum_abs_max: self.columns as u64 * extent.abs_max(), ..extent }
    }
}

/// How large the integers of a matrix are.
pub(crate) struct Extent {
    /// The largest sum of |element| over a row.
    pub(crate) sum_abs_max: u64,
    pub(crate) least: i64,
    pub(crate) largest: i64,
}

impl Extent {
    pub(crate) fn abs_max(&self) -> u64 {
        self.least.unsigned_abs().max(self.largest.unsigned_abs())
    }
}

/// 8-bit elements as 16-bit integers.
fn narrow(dtype: Dtype, bytes: &[u8], line: &mut [i16]) {
    match dtype {
        Dtype::I8 => line.iter_mut().zip(bytes).for_each(|(entry, byte)| *entry = i16::from(*byte as i8)),
        _ => line.iter_mut().zip(bytes).for_each(|(entry, byte)| *entry = i16::from(*byte)),
    }
}

/// Integer elements of any type.
pub(crate) fn wide(dtype: Dtype, bytes: &[u8], line: &mut [i64]) {
    let words = bytes.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]);
    match dtype {
        Dtype::I8 => line.iter_mut().zip(bytes).for_each(|(entry, byte)| *entry = i64::from(*byte as i8)),
        Dtype::U8 => line.iter_mut().zip(bytes).for_each(|(entry, byte)| *entry = i64::from(*byte)),
        Dtype::I32 => {
            line.iter_mut().zip(words).for_each(|(entry, word)| *entry = i64::from(i32::from_le_bytes(word)));
        }
        Dtype::U32 => {
            line.iter_mut().zip(words).for_each(|(entry, word)| *entry = i64::from(u32::from_le_bytes(word)));
        }
        Dtype::F16 | Dtype::F32 => unreachable!("floats are no integers"),
    }
}

/// Vectors that are multiplied at once modulo 2³².
pub(crate) const LANES: usize = 16;

const PIECES: usize = 4;
/// Products of an 8-bit and a 16-bit integer are at most 2²³; so many of them fit 32 bits with a sign.
const RUN: usize = 128;

/// Field elements in balanced base 2¹⁶: the pieces of all elements with weight 1, then those with weight 2¹⁶, and so on.
struct Pieces([Vec<i16>; PIECES]);

impl Pieces {
    fn of(vector: &[Field]) -> Self {
        let mut pieces = [(); PIECES].map(|()| Vec::with_capacity(vector.len()));
        for element in vector {
            let mut rest = element.value() as i64;
            for piece in &mut pieces {
                let low = rest as i16;
                piece.push(low);
                rest = (rest - i64::from(low)) >> 16;
            }
            debug_assert_eq!(rest, 0, "61 bits are less than four pieces");
        }
        Self(pieces)
    }

    /// The element whose products with the pieces were summed up apart.
    fn join(sums: [i64; PIECES]) -> Field {
        Field::of(sums.iter().rev().fold(0_i128, |joined, sum| (joined << 16) + i128::from(*sum)))
    }
}

/// In steps of a fixed length, which compilers turn into multiply-and-add instructions of that many lanes.
fn dot(line: &[i16], piece: &[i16]) -> i64 {
    const STEP: usize = 16;
    let runs = line.chunks(RUN).zip(piece.chunks(RUN));
    runs.map(|(line, piece)| {
        let ((line, line_rest), (piece, piece_rest)) = (line.as_chunks::<STEP>(), piece.as_chunks::<STEP>());
        let product = |(a, b): (&i16, &i16)| i32::from(*a) * i32::from(*b);
        let steps = line.iter().zip(piece).map(|(a, b)| a.iter().zip(b).map(product).sum::<i32>());
        i64::from(steps.sum::<i32>() + line_rest.iter().zip(piece_rest).map(product).sum::<i32>())
    })
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;
    use proptest::prelude::*;

    #[test]
    fn bytes_must_fit_the_shape() {
        let bytes = [0; 24];
        assert!(Matrix::new(&bytes, Dtype::I32, 2, 3, Layout::RowMajor).is_ok());
        for (rows, columns) in [(2, 4), (3, 3), (1, 1)] {
            let error = Matrix::new(&bytes, Dtype::I32, rows, columns, Layout::RowMajor);
            assert!(matches!(error, Err(MatrixError::Length { .. })), "{rows} {columns}");
        }
        for (rows, columns) in [(0, 6), (6, 0), (u64::MAX, 2), (1, SIDE_MAX + 1)] {
            let error = Matrix::new(&bytes, Dtype::I32, rows, columns, Layout::RowMajor);
            assert!(matches!(error, Err(MatrixError::Side { .. })), "{rows} {columns}");
        }
    }

    #[test]
    fn the_largest_entries_do_not_overflow() {
        // A run of 255 · −2¹⁵ and of −128 · −2¹⁵ is the furthest an accumulator goes.
        let vector = vec![Field::of(0x0fff_8000_8000_8000); 1000];
        for (byte, dtype, value) in [(255, Dtype::U8, 255), (128, Dtype::I8, -128)] {
            let bytes = vec![byte; 1000];
            let expected = Field::of(1000 * value) * vector[0];
            let row = Matrix::new(&bytes, dtype, 1, 1000, Layout::RowMajor).expect("a row");
            assert_eq!(row.times(&vector), [expected]);
            let row = Matrix::new(&bytes, dtype, 1, 1000, Layout::ColumnMajor).expect("a row");
            assert_eq!(row.times(&vector), [expected]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn products_with_vectors_are_sums_of_products(
            rows in 1_usize..6, columns in 1_usize..300, seed: [u8; 32],
            dtype in proptest::sample::select(vec![Dtype::I8, Dtype::U8, Dtype::I32, Dtype::U32]),
            layout in proptest::sample::select(vec![Layout::RowMajor, Layout::ColumnMajor]),
        ) {
            let mut draw = Draw::new(&seed);
            let bytes: Vec<u8> =
                (0..rows * columns * dtype.bytes() as usize).map(|_| draw.word() as u8).collect();
            let matrix = Matrix::new(&bytes, dtype, rows as u64, columns as u64, layout).expect("a matrix");
            let vector: Vec<Field> = (0..columns).map(|_| draw.field()).collect();
            let entry = |row, column| Field::of(matrix.value(row, column) as i128);
            let expected: Vec<Field> = (0..rows)
                .map(|row| {
                    (0..columns).fold(Field::ZERO, |sum, column| sum + entry(row, column) * vector[column])
                })
                .collect();
            prop_assert_eq!(matrix.times(&vector), expected);
            let extent = matrix.extent();
            let values: Vec<f64> = (0..rows).flat_map(|row| matrix.row(row)).collect();
            prop_assert_eq!(extent.least as f64, values.iter().copied().fold(f64::MAX, f64::min));
            prop_assert_eq!(extent.largest as f64, values.iter().copied().fold(f64::MIN, f64::max));
            let sums = (0..rows).map(|row| matrix.row(row).iter().map(|v| v.abs()).sum());
            prop_assert_eq!(extent.sum_abs_max as f64, sums.fold(0.0, f64::max));
        }
    }
}
