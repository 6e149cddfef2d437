//! Cutting inputs into units: packs what a unit sees so that it is one run of bytes, at a fixed stride.

use protocol::manifest::Dtype;

use crate::array::{Array, bytes_of};

/// Most units that a job file may make.
pub const UNITS_MAX: u64 = 10_000_000;

/// A picture in tiles, row by row from the upper left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiling {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) tile_width: u32,
    pub(crate) tile_height: u32,
}

impl Tiling {
    pub(crate) fn across(&self) -> u64 {
        u64::from(self.width.div_ceil(self.tile_width))
    }

    pub(crate) fn down(&self) -> u64 {
        u64::from(self.height.div_ceil(self.tile_height))
    }

    pub(crate) fn units(&self) -> u64 {
        self.across() * self.down()
    }

    /// The tile of unit `unit`: x, y, width and height within the picture.
    pub(crate) fn cropped(&self, unit: u64) -> [usize; 4] {
        let x = (unit % self.across()) as usize * self.tile_width as usize;
        let y = (unit / self.across()) as usize * self.tile_height as usize;
        let (width, height) = (self.width as usize - x, self.height as usize - y);
        [x, y, width.min(self.tile_width as usize), height.min(self.tile_height as usize)]
    }

    /// u32 [4] a unit: x, y, width and height of the tile; tiles at the edge keep their full size.
    pub(crate) fn parameters(&self) -> Vec<u8> {
        let four = |unit| {
            let [x, y, ..] = self.cropped(unit);
            [x as u32, y as u32, self.tile_width, self.tile_height]
        };
        (0..self.units()).flat_map(four).flat_map(u32::to_le_bytes).collect()
    }
}

/// Units of one input, one after the other.
#[derive(Debug)]
pub(crate) struct Units {
    pub(crate) bytes: Vec<u8>,
    /// What a unit sees.
    pub(crate) shape: Vec<u32>,
    pub(crate) unit_bytes: u64,
    pub(crate) count: u64,
}

/// Cuts `axis` into runs of `size`. The axis exists, and neither it nor `size` is empty.
pub(crate) fn by_axis(array: Array, axis: usize, size: u32) -> Units {
    let extent = array.shape[axis];
    let count = u64::from(extent.div_ceil(size));
    let mut shape = array.shape.clone();
    shape[axis] = size;
    let unit_bytes = bytes_of(array.dtype, &shape).unwrap_or(u64::MAX);
    if axis == 0 {
        // Rows already lie one after the other, and what is beyond the end reads as zero.
        return Units { bytes: array.bytes, shape, unit_bytes, count };
    }
    let inner = array.dtype.bytes() as usize * extents(&array.shape[axis + 1..]);
    let mut bytes = Vec::with_capacity((unit_bytes * count) as usize);
    for start in (0..extent).step_by(size as usize) {
        let present = (extent - start).min(size) as usize;
        for outer in array.bytes.chunks_exact(extent as usize * inner) {
            let from = start as usize * inner;
            bytes.extend_from_slice(&outer[from..from + present * inner]);
            bytes.resize(bytes.len() + (size as usize - present) * inner, 0);
        }
    }
    Units { bytes, shape, unit_bytes, count }
}

/// Cuts a picture, `[height, width]` or `[height, width, channels]`, into tiles; those at the edge are padded with zeros.
pub(crate) fn by_tile(array: &Array, tiling: &Tiling) -> Units {
    let pixel = array.dtype.bytes() as usize * extents(&array.shape[2..]);
    let mut shape = array.shape.clone();
    (shape[0], shape[1]) = (tiling.tile_height, tiling.tile_width);
    let unit_bytes = bytes_of(array.dtype, &shape).unwrap_or(u64::MAX);
    let count = tiling.units();
    let mut bytes = vec![0; (unit_bytes * count) as usize];
    let tile_row = tiling.tile_width as usize * pixel;
    for (unit, tile) in bytes.chunks_exact_mut(unit_bytes as usize).enumerate() {
        let [x, y, width, height] = tiling.cropped(unit as u64);
        for (row, line) in tile.chunks_exact_mut(tile_row).take(height).enumerate() {
            let from = ((y + row) * tiling.width as usize + x) * pixel;
            line[..width * pixel].copy_from_slice(&array.bytes[from..from + width * pixel]);
        }
    }
    Units { bytes, shape, unit_bytes, count }
}

/// Sweep `which` of several: its value for every combination, of which the last sweep changes fastest.
pub(crate) fn by_sweep(sweeps: &[Array], which: usize) -> Units {
    let counts: Vec<u64> = sweeps.iter().map(Array::elements).collect();
    let faster: u64 = counts[which + 1..].iter().product();
    let slower: u64 = counts[..which].iter().product();
    let dtype: Dtype = sweeps[which].dtype;
    let width = dtype.bytes() as usize;
    let mut bytes = Vec::with_capacity((slower * counts[which] * faster) as usize * width);
    for _ in 0..slower {
        for value in sweeps[which].bytes.chunks_exact(width) {
            for _ in 0..faster {
                bytes.extend_from_slice(value);
            }
        }
    }
    Units { bytes, shape: vec![1], unit_bytes: dtype.bytes(), count: counts.iter().product() }
}

fn extents(shape: &[u32]) -> usize {
    shape.iter().map(|extent| *extent as usize).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_array(shape: &[u32]) -> Array {
        let count = extents(shape);
        Array { dtype: Dtype::U8, shape: shape.to_vec(), bytes: (1..=count as u8).collect() }
    }

    #[test]
    fn the_first_axis_needs_no_packing() {
        let units = by_axis(bytes_array(&[5, 2]), 0, 2);
        assert_eq!((units.count, units.unit_bytes, &units.shape[..]), (3, 4, &[2, 2][..]));
        assert_eq!(units.bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn an_inner_axis_is_packed_unit_by_unit() {
        let units = by_axis(bytes_array(&[2, 3]), 1, 2);
        assert_eq!((units.count, units.unit_bytes, &units.shape[..]), (2, 4, &[2, 2][..]));
        assert_eq!(units.bytes, [1, 2, 4, 5, 3, 0, 6, 0]);
    }

    #[test]
    fn tiles_go_row_by_row_and_are_padded_at_the_edge() {
        let tiling = Tiling { width: 3, height: 2, tile_width: 2, tile_height: 2 };
        let units = by_tile(&bytes_array(&[2, 3]), &tiling);
        assert_eq!((units.count, &units.shape[..]), (2, &[2, 2][..]));
        assert_eq!(units.bytes, [1, 2, 4, 5, 3, 0, 6, 0]);
        let parameters: Vec<u32> =
            tiling.parameters().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(parameters, [0, 0, 2, 2, 2, 0, 2, 2]);
    }

    #[test]
    fn several_sweeps_give_every_combination() {
        let sweeps = [bytes_array(&[2]), Array { bytes: vec![10, 20, 30], ..bytes_array(&[3]) }];
        assert_eq!(by_sweep(&sweeps, 0).bytes, [1, 1, 1, 2, 2, 2]);
        assert_eq!(by_sweep(&sweeps, 1).bytes, [10, 20, 30, 10, 20, 30]);
        assert_eq!(by_sweep(&sweeps, 1).count, 6);
    }
}
