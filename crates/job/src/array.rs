//! An array of numbers in memory: what every codec reads and writes.

use half::f16;
use protocol::manifest::Dtype;

/// Largest array, blob or file that a job file may make or name: 1 GiB.
pub const ARRAY_BYTES_MAX: u64 = 1 << 30;

/// Numbers in row-major order, little endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// The element type.
    pub dtype: Dtype,
    /// The extent of each axis, outermost first.
    pub shape: Vec<u32>,
    /// The elements.
    pub bytes: Vec<u8>,
}

/// A value that an element type cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("element {index} is {value}, which {dtype} cannot hold")]
pub struct Unfit {
    /// The element's index.
    pub index: u64,
    /// Its value.
    pub value: f64,
    /// The element type.
    pub dtype: Dtype,
}

/// Whether a float may be rounded to the nearest one that the element type has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// The value must be kept.
    None,
    /// Floats are rounded to the nearest; integers never are.
    Nearest,
}

/// Bytes of an array of this shape; nothing beyond 2⁶⁴.
pub(crate) fn bytes_of(dtype: Dtype, shape: &[u32]) -> Option<u64> {
    shape.iter().try_fold(dtype.bytes(), |bytes, extent| bytes.checked_mul(u64::from(*extent)))
}

impl Array {
    /// Elements.
    pub fn elements(&self) -> u64 {
        self.bytes.len() as u64 / self.dtype.bytes()
    }

    /// The same values as `dtype`. Integers must fit; floats are rounded to the nearest and must stay finite.
    pub fn convert(self, dtype: Dtype) -> Result<Self, Unfit> {
        if dtype == self.dtype {
            return Ok(self);
        }
        let mut bytes = Vec::with_capacity((self.elements() * dtype.bytes()) as usize);
        for (index, element) in self.bytes.chunks_exact(self.dtype.bytes() as usize).enumerate() {
            push(&mut bytes, self.dtype.value(element), dtype, Rounding::Nearest, index as u64)?;
        }
        Ok(Self { dtype, shape: self.shape, bytes })
    }
}

/// Appends `value` as one element; `index` is its place for the error.
pub(crate) fn push(
    bytes: &mut Vec<u8>,
    value: f64,
    dtype: Dtype,
    rounding: Rounding,
    index: u64,
) -> Result<(), Unfit> {
    let fits = match dtype {
        Dtype::F32 | Dtype::F16 => {
            let near =
                if dtype == Dtype::F32 { f64::from(value as f32) } else { f16::from_f64(value).to_f64() };
            let kept = near == value || value.is_nan();
            kept || (rounding == Rounding::Nearest && near.is_finite())
        }
        _ => {
            value.fract() == 0.0 && {
                let (low, high) = integer_range(dtype);
                (low..=high).contains(&value)
            }
        }
    };
    if !fits {
        return Err(Unfit { index, value, dtype });
    }
    match dtype {
        Dtype::I8 => bytes.extend((value as i8).to_le_bytes()),
        Dtype::U8 => bytes.push(value as u8),
        Dtype::I32 => bytes.extend((value as i32).to_le_bytes()),
        Dtype::U32 => bytes.extend((value as u32).to_le_bytes()),
        Dtype::F16 => bytes.extend(f16::from_f64(value).to_le_bytes()),
        Dtype::F32 => bytes.extend((value as f32).to_le_bytes()),
    }
    Ok(())
}

fn integer_range(dtype: Dtype) -> (f64, f64) {
    match dtype {
        Dtype::I8 => (i8::MIN.into(), i8::MAX.into()),
        Dtype::U8 => (0.0, u8::MAX.into()),
        Dtype::I32 => (i32::MIN.into(), i32::MAX.into()),
        Dtype::U32 => (0.0, u32::MAX.into()),
        Dtype::F16 | Dtype::F32 => (f64::MIN, f64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_keeps_integers_and_rounds_floats() {
        let array = |values: &[f32]| Array {
            dtype: Dtype::F32,
            shape: vec![values.len() as u32],
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        assert_eq!(array(&[1.0, -128.0]).convert(Dtype::I8).unwrap().bytes, [1, 0x80]);
        assert_eq!(
            array(&[1.0, 128.0]).convert(Dtype::I8),
            Err(Unfit { index: 1, value: 128.0, dtype: Dtype::I8 })
        );
        assert!(array(&[0.5]).convert(Dtype::U32).is_err());
        assert!(array(&[f32::NAN]).convert(Dtype::I32).is_err());
        assert_eq!(array(&[0.1]).convert(Dtype::F16).unwrap().bytes, f16::from_f32(0.1).to_le_bytes());
        assert!(array(&[1e6]).convert(Dtype::F16).is_err(), "does not stay finite");
        assert!(array(&[f32::INFINITY, f32::NAN]).convert(Dtype::F16).is_ok());
    }
}
