//! NumPy's array format, versions 1 to 3: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
//!
//! Row-major, little endian. int8, uint8, bool, int32, uint32, float16 and float32 are read as they are; int16 and uint16
//! widen; int64, uint64 and float64 narrow when no value changes (a named dtype allows floats to be rounded).

use half::f16;
use protocol::manifest::Dtype;

use super::CodecError;
use crate::array::{ARRAY_BYTES_MAX, Array, Rounding, push};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads an array; as `wanted` if that is given, else as the nearest element type there is.
pub fn decode(bytes: &[u8], wanted: Option<Dtype>) -> Result<Array, CodecError> {
    let (header, data) = split_header(bytes)?;
    let header = Header::parse(header)?;
    let stored = Stored::from_descr(&header.descr)?;
    if header.is_column_major && header.shape.len() > 1 {
        return Err(CodecError::Unsupported {
            problem: "the array is stored column by column (Fortran order)".to_owned(),
            fix: "save it with numpy.save(path, numpy.ascontiguousarray(x))".to_owned(),
        });
    }
    let size =
        header.shape.iter().try_fold(stored.bytes(), |size, extent| size.checked_mul(u64::from(*extent)));
    let size = size.filter(|size| *size <= 2 * ARRAY_BYTES_MAX).ok_or(CodecError::TooLarge)?;
    if size != data.len() as u64 {
        return Err(malformed(format!(
            "the header promises {size} bytes of {} {:?}, and {} follow",
            header.descr,
            header.shape,
            data.len()
        )));
    }
    let (dtype, rounding) = match wanted {
        Some(dtype) => (dtype, Rounding::Nearest),
        None => (stored.nearest(), Rounding::None),
    };
    if stored == Stored::Same(dtype) {
        return Ok(Array { dtype, shape: header.shape, bytes: data.to_vec() });
    }
    let width = stored.bytes() as usize;
    let mut converted = Vec::with_capacity(data.len() / width * dtype.bytes() as usize);
    for (index, element) in data.chunks_exact(width).enumerate() {
        push(&mut converted, stored.value(element), dtype, rounding, index as u64)?;
    }
    Ok(Array { dtype, shape: header.shape, bytes: converted })
}

/// Writes version 1.0, which every reader knows.
pub fn encode(dtype: Dtype, shape: &[u64], data: &[u8]) -> Vec<u8> {
    let descr = match dtype {
        Dtype::I8 => "|i1",
        Dtype::U8 => "|u1",
        Dtype::I32 => "<i4",
        Dtype::U32 => "<u4",
        Dtype::F16 => "<f2",
        Dtype::F32 => "<f4",
    };
    let extents: Vec<String> = shape.iter().map(u64::to_string).collect();
    let comma = if shape.len() == 1 { "," } else { "" };
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", extents.join(", "));
    // Magic, version, length, header and a newline end on a multiple of 64 bytes.
    let used = MAGIC.len() + 4 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', used.next_multiple_of(64) - used));
    header.push('\n');
    let length = u16::try_from(header.len()).expect("shapes have few axes");
    [MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes(), data].concat()
}

fn malformed(problem: impl Into<String>) -> CodecError {
    CodecError::Malformed { format: ".npy", problem: problem.into() }
}

fn split_header(bytes: &[u8]) -> Result<(&str, &[u8]), CodecError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| malformed("it does not begin with \\x93NUMPY"))?;
    let cut = || malformed("it ends within the header");
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        [1..=3, ..] | [] => return Err(cut()),
        [version, ..] => return Err(malformed(format!("version {version} is unknown"))),
    };
    let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header = std::str::from_utf8(header).map_err(|_| malformed("its header is not text"))?;
    Ok((header, data))
}

/// An element type as stored in the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    Same(Dtype),
    I16,
    U16,
    I64,
    U64,
    F64,
}

impl Stored {
    fn from_descr(descr: &str) -> Result<Self, CodecError> {
        Ok(match descr {
            "|i1" | "<i1" => Self::Same(Dtype::I8),
            "|u1" | "<u1" | "|b1" => Self::Same(Dtype::U8),
            "<i4" => Self::Same(Dtype::I32),
            "<u4" => Self::Same(Dtype::U32),
            "<f2" => Self::Same(Dtype::F16),
            "<f4" => Self::Same(Dtype::F32),
            "<i2" => Self::I16,
            "<u2" => Self::U16,
            "<i8" => Self::I64,
            "<u8" => Self::U64,
            "<f8" => Self::F64,
            _ => {
                let fix = match descr.strip_prefix('>') {
                    Some(rest) => format!("save it little endian: x.astype('<{rest}')"),
                    None => "convert it first, for example x.astype(numpy.float32)".to_owned(),
                };
                return Err(CodecError::Unsupported {
                    problem: format!("elements of type {descr:?} cannot be read"),
                    fix,
                });
            }
        })
    }

    fn bytes(self) -> u64 {
        match self {
            Self::Same(dtype) => dtype.bytes(),
            Self::I16 | Self::U16 => 2,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    fn nearest(self) -> Dtype {
        match self {
            Self::Same(dtype) => dtype,
            Self::I16 | Self::I64 => Dtype::I32,
            Self::U16 | Self::U64 => Dtype::U32,
            Self::F64 => Dtype::F32,
        }
    }

    fn value(self, element: &[u8]) -> f64 {
        match (self, element) {
            (Self::Same(dtype), element) => dtype.value(element),
            (Self::I16, &[a, b]) => i16::from_le_bytes([a, b]).into(),
            (Self::U16, &[a, b]) => u16::from_le_bytes([a, b]).into(),
            (_, element) => {
                let eight: [u8; 8] = element.try_into().expect("chunks of 8");
                // Integers that double precision rounds do not fit 32 bits either.
                match self {
                    Self::I64 => i64::from_le_bytes(eight) as f64,
                    Self::U64 => u64::from_le_bytes(eight) as f64,
                    _ => f64::from_le_bytes(eight),
                }
            }
        }
    }
}

struct Header {
    descr: String,
    is_column_major: bool,
    shape: Vec<u32>,
}

impl Header {
    /// Reads the Python dictionary literal that the header is.
    fn parse(text: &str) -> Result<Self, CodecError> {
        let bad = |what: &str| malformed(format!("its header has no proper {what}"));
        let after = |key: &str| {
            let quoted = [format!("'{key}'"), format!("\"{key}\"")];
            quoted
                .iter()
                .find_map(|quoted| text.split_once(quoted.as_str()))
                .and_then(|(_, rest)| rest.trim_start().strip_prefix(':'))
                .map(str::trim_start)
                .ok_or_else(|| bad(key))
        };
        let descr = after("descr")?;
        if descr.starts_with('[') {
            return Err(CodecError::Unsupported {
                problem: "the array has named fields".to_owned(),
                fix: "save one field a file: numpy.save(path, x['field'])".to_owned(),
            });
        }
        let quote = descr.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or_else(|| bad("descr"))?;
        let (descr, _) = descr[1..].split_once(quote).ok_or_else(|| bad("descr"))?;
        let order = after("fortran_order")?;
        let is_column_major = match (order.starts_with("True"), order.starts_with("False")) {
            (true, false) => true,
            (false, true) => false,
            _ => return Err(bad("fortran_order")),
        };
        let shape = after("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        let (shape, _) = shape.ok_or_else(|| bad("shape"))?;
        let shape = shape.split(',').map(str::trim).filter(|extent| !extent.is_empty());
        let shape: Vec<u32> =
            shape.map(|extent| extent.parse().map_err(|_| bad("shape"))).collect::<Result<_, _>>()?;
        // A zero-dimensional array is one number.
        let shape = if shape.is_empty() { vec![1] } else { shape };
        Ok(Self { descr: descr.to_owned(), is_column_major, shape })
    }
}

/// One element as NumPy would print it; reads back as the same value.
pub(crate) fn write_number(element: &[u8], dtype: Dtype) -> String {
    match (dtype, element) {
        (Dtype::F32, &[a, b, c, d]) => float_text(f32::from_le_bytes([a, b, c, d])),
        (Dtype::F16, &[a, b]) => float_text(f16::from_le_bytes([a, b]).to_f32()),
        _ => format!("{}", dtype.value(element)),
    }
}

fn float_text(value: f32) -> String {
    if value.is_nan() { "nan".to_owned() } else { format!("{value:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let length = (header.len() as u16).to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), data].concat()
    }

    #[test]
    fn what_numpy_wrote_is_read() {
        // numpy.save of numpy.array([[1, -2, 3]], dtype="i1"), byte for byte.
        let written = [
            &b"\x93NUMPY\x01\x00v\x00{'descr': '|i1', 'fortran_order': False, 'shape': (1, 3), }"[..],
            " ".repeat(58).as_bytes(),
            b"\n\x01\xfe\x03",
        ]
        .concat();
        assert_eq!(written.len(), 128 + 3);
        let array = decode(&written, None).unwrap();
        assert_eq!(array, Array { dtype: Dtype::I8, shape: vec![1, 3], bytes: vec![1, 0xfe, 3] });
        assert_eq!(encode(Dtype::I8, &[1, 3], &[1, 0xfe, 3]), written);
        let mut version_2 = [MAGIC, &[2, 0], &118u32.to_le_bytes()].concat();
        version_2.extend_from_slice(&written[10..]);
        assert_eq!(decode(&version_2, None).unwrap(), array);
    }

    #[test]
    fn wide_elements_narrow_only_when_nothing_is_lost() {
        let wide = |v: i64| file("'<i8'", "False", "(1,)", &v.to_le_bytes());
        let array = decode(&wide(-7), None).unwrap();
        assert_eq!((array.dtype, array.bytes), (Dtype::I32, (-7i32).to_le_bytes().to_vec()));
        assert!(matches!(decode(&wide(1 << 31), None), Err(CodecError::Unfit(_))));
        let double = |v: f64| file("'<f8'", "False", "(1,)", &v.to_le_bytes());
        assert_eq!(decode(&double(0.5), None).unwrap().dtype, Dtype::F32);
        let error = decode(&double(0.1), None).unwrap_err();
        assert!(error.fix().unwrap().contains("dtype = \"f32\""), "{error}");
        assert_eq!(decode(&double(0.1), Some(Dtype::F32)).unwrap().bytes, 0.1f32.to_le_bytes());
        assert!(decode(&double(1e300), Some(Dtype::F32)).is_err());
        assert_eq!(decode(&double(3.0), Some(Dtype::U8)).unwrap().bytes, [3]);
        let short = file("'<u2'", "False", "(1,)", &[0xff, 0xff]);
        assert_eq!(decode(&short, None).unwrap().bytes, 65_535u32.to_le_bytes());
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let check = |bytes: &[u8], expected: &str| {
            let error = decode(bytes, None).unwrap_err();
            assert!(error.to_string().contains(expected), "{error} does not say {expected:?}");
        };
        check(b"PK", "does not begin");
        check(b"\x93NUMPY\x01\x00", "ends within the header");
        check(b"\x93NUMPY\x09\x00\x00\x00", "version 9");
        check(&file("'<i4'", "False", "(3,)", &[0; 8]), "promises 12 bytes");
        check(&file("'<i4'", "True", "(1, 1)", &[0; 4]), "Fortran");
        check(&file("'>i4'", "False", "(1,)", &[0; 4]), "\">i4\" cannot be read");
        check(&file("[('a', '<i4')]", "False", "(1,)", &[0; 4]), "named fields");
        check(&file("'<i4'", "False", "(99999, 99999)", &[]), "larger than 1 GiB");
        check(&file("'<i4'", "False", "(-1,)", &[]), "shape");
        assert!(decode(&file("'<i4'", "True", "(1,)", &[0; 4]), None).is_ok(), "one axis has one order");
        assert_eq!(decode(&file("'<i4'", "False", "()", &[0; 4]), None).unwrap().shape, [1]);
    }

    #[test]
    fn numbers_are_written_so_that_they_read_back() {
        for (bytes, dtype, expected) in [
            (&[0xff][..], Dtype::I8, "-1"),
            (&[0xff; 4], Dtype::U32, "4294967295"),
            (&0.1f32.to_le_bytes(), Dtype::F32, "0.1"),
            (&1e-30f32.to_le_bytes(), Dtype::F32, "1e-30"),
            (&3.0f32.to_le_bytes(), Dtype::F32, "3.0"),
            (&f32::NAN.to_le_bytes(), Dtype::F32, "nan"),
            (&f32::NEG_INFINITY.to_le_bytes(), Dtype::F32, "-inf"),
            (&[0x00, 0x3c], Dtype::F16, "1.0"),
        ] {
            assert_eq!(write_number(bytes, dtype), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(rows in 0u32..5, columns in 0u32..5, seed: u8) {
            for dtype in [Dtype::I8, Dtype::U8, Dtype::I32, Dtype::U32, Dtype::F16, Dtype::F32] {
                let count = rows * columns * dtype.bytes() as u32;
                let bytes: Vec<u8> = (0..count).map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed)).collect();
                let array = Array { dtype, shape: vec![rows, columns], bytes };
                let file = encode(dtype, &[rows.into(), columns.into()], &array.bytes);
                prop_assert_eq!(decode(&file, None).unwrap(), array);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&tail, None);
            let _ = decode(&[MAGIC, &tail].concat(), None);
        }
    }
}
