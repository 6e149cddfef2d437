//! Joining the outputs of all units into one file.
//!
//! Works with units missing, so that a job's result can be looked at while it is made: a CSV leaves their rows out, an array has
//! zeros there, and a picture is transparent.

use bytes::Bytes;
use protocol::{
    Hash, JoinFormat, JoinLayout, JoinSpec, Manifest,
    manifest::{Buffer, Dtype},
};

use crate::{
    array::{ARRAY_BYTES_MAX, bytes_of},
    codec::{CodecError, csv, npy, png},
    split::Tiling,
};

/// Most columns of a joined CSV.
pub const COLUMNS_MAX: usize = 1024;

/// A file made of the outputs of a job's units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedFile {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its media type.
    pub media_type: &'static str,
    /// How much of it is as expected, where the job says what to expect.
    pub agreement: Option<Agreement>,
    /// Units that were not there.
    pub units_missing: u64,
}

/// Rows that are as expected, among the rows that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Rows equal to the expected ones.
    pub matching: u64,
    /// Rows compared.
    pub total: u64,
}

/// Why outputs cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The manifest has no such output.
    #[error("the manifest has no output {0}")]
    NoOutput(u32),
    /// The specification does not fit the output or the number of units.
    #[error("{0}")]
    Layout(String),
    /// The joined array would be larger than 1 GiB.
    #[error("the joined result would be larger than 1 GiB")]
    TooLarge,
    /// A unit's output has the wrong length.
    #[error("unit {unit} has {bytes} bytes of output, expected {expected}")]
    UnitLength {
        /// The unit.
        unit: u64,
        /// Its bytes.
        bytes: u64,
        /// The bytes that the manifest says.
        expected: u64,
    },
    /// A blob that the specification names is not there.
    #[error("the blob {0} is not there")]
    MissingBlob(Hash),
    /// The format cannot take it.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Bytes of the joined array of `units` units, or why there cannot be one. Whoever takes a specification from outside asks this
/// before [`join`].
pub fn check_join(spec: &JoinSpec, manifest: &Manifest, units: u64) -> Result<u64, JoinError> {
    Plan::new(spec, manifest, units).map(|plan| plan.bytes)
}

/// Joins what unit 0, 1, 2, … put out, nothing for a unit that is missing; `blob` finds the blobs that
/// [`JoinSpec::blobs`] names.
pub fn join<B: AsRef<[u8]>>(
    spec: &JoinSpec,
    manifest: &Manifest,
    units: u64,
    outputs: impl IntoIterator<Item = Option<B>>,
    blob: impl Fn(&Hash) -> Option<Bytes>,
) -> Result<JoinedFile, JoinError> {
    let plan = Plan::new(spec, manifest, units)?;
    let mut joined = Joined { data: vec![0; plan.bytes as usize], is_there: vec![false; units as usize] };
    for (unit, output) in outputs.into_iter().take(units as usize).enumerate() {
        let Some(output) = output else { continue };
        let (output, unit) = (output.as_ref(), unit as u64);
        if output.len() as u64 != plan.unit_bytes {
            let bytes = output.len() as u64;
            return Err(JoinError::UnitLength { unit, bytes, expected: plan.unit_bytes });
        }
        plan.place(&mut joined.data, unit, output);
        joined.is_there[unit as usize] = true;
    }
    let blob = |hash: &Hash| blob(hash).ok_or(JoinError::MissingBlob(*hash));
    let expected = spec.expect.as_ref().map(blob).transpose()?;
    if expected.as_ref().is_some_and(|expected| expected.len() as u64 != plan.bytes) {
        return Err(JoinError::Layout("the expected values do not have the shape of the result".to_owned()));
    }
    let agreement = expected.as_ref().map(|expected| plan.agreement(&joined, expected));
    let (bytes, media_type) = match spec.format {
        JoinFormat::Npy => (npy::encode(plan.dtype, &plan.shape, &joined.data), "application/x-npy"),
        JoinFormat::Png => (plan.picture(&joined)?, "image/png"),
        JoinFormat::Csv => {
            let parameters: Result<Vec<_>, _> =
                spec.parameters.iter().map(|parameter| blob(&parameter.split.blob)).collect();
            (plan.table(&joined, &parameters?, expected.as_deref()), "text/csv; charset=utf-8")
        }
    };
    let units_missing = joined.is_there.iter().filter(|is_there| !**is_there).count() as u64;
    Ok(JoinedFile { bytes, media_type, agreement, units_missing })
}

/// The joined array and which units are in it.
struct Joined {
    data: Vec<u8>,
    is_there: Vec<bool>,
}

/// A specification that fits its manifest, with the sizes that follow.
struct Plan<'a> {
    spec: &'a JoinSpec,
    dtype: Dtype,
    unit_shape: &'a [u32],
    unit_bytes: u64,
    /// The joined array.
    shape: Vec<u64>,
    bytes: u64,
    /// One row of a table: a row of the first axis, or a unit of a stack.
    row_bytes: u64,
    rows_per_unit: u64,
}

impl<'a> Plan<'a> {
    fn new(spec: &'a JoinSpec, manifest: &'a Manifest, units: u64) -> Result<Self, JoinError> {
        let buffer = manifest.program.buffers.values().find(|buffer| buffer.output == Some(spec.output));
        let Buffer { dtype, shape: unit_shape, .. } = buffer.ok_or(JoinError::NoOutput(spec.output))?;
        let unit_bytes = bytes_of(*dtype, unit_shape).ok_or(JoinError::TooLarge)?;
        let wide = |shape: &[u32]| shape.iter().map(|extent| u64::from(*extent)).collect::<Vec<u64>>();
        let wrong = |reason: &str| Err(JoinError::Layout(reason.to_owned()));
        if units == 0 || unit_bytes == 0 || unit_shape.is_empty() {
            return wrong("there is nothing to join");
        }
        check_file_name(spec)?;
        let (shape, rows_per_unit) = match spec.layout {
            JoinLayout::Axis { rows_total, rows_per_unit } => {
                if rows_per_unit != unit_shape[0] {
                    return wrong("the output's first axis is not as long as a unit has rows");
                }
                // Every unit has a row in the result, which also bounds the units by the size of the result.
                if rows_total.div_ceil(u64::from(rows_per_unit)) != units {
                    return wrong("the units do not have as many rows as the result");
                }
                ([&[rows_total], &wide(&unit_shape[1..])[..]].concat(), u64::from(rows_per_unit))
            }
            JoinLayout::Stack => ([&[units], &wide(unit_shape)[..]].concat(), 1),
            JoinLayout::Tiles { width, height, tile_width, tile_height } => {
                if !matches!(unit_shape[..], [h, w] | [h, w, _] if h == tile_height && w == tile_width) {
                    return wrong(
                        "the output is not shaped like a tile: [height, width] or [height, width, channels]",
                    );
                }
                if width == 0
                    || height == 0
                    || (Tiling { width, height, tile_width, tile_height }).units() != units
                {
                    return wrong("there are not as many units as tiles");
                }
                ([&[u64::from(height), u64::from(width)], &wide(&unit_shape[2..])[..]].concat(), 1)
            }
        };
        let bytes = shape.iter().try_fold(dtype.bytes(), |bytes, extent| bytes.checked_mul(*extent));
        let bytes = bytes.filter(|bytes| *bytes <= ARRAY_BYTES_MAX).ok_or(JoinError::TooLarge)?;
        let row_bytes = unit_bytes / rows_per_unit;
        let plan =
            Self { spec, dtype: *dtype, unit_shape, unit_bytes, shape, bytes, row_bytes, rows_per_unit };
        plan.check_format()?;
        Ok(plan)
    }

    fn check_format(&self) -> Result<(), JoinError> {
        let wrong = |reason: String| Err(JoinError::Layout(reason));
        let JoinSpec { format, layout, columns, parameters, expect, .. } = self.spec;
        let is_tiled = matches!(layout, JoinLayout::Tiles { .. });
        match format {
            JoinFormat::Csv if is_tiled => {
                return wrong("tiles become a .png or an .npy, not a table".to_owned());
            }
            JoinFormat::Csv if columns.len() as u64 != self.columns() => {
                return wrong(format!(
                    "a row has {} numbers, and there are {} column names",
                    self.columns(),
                    columns.len()
                ));
            }
            JoinFormat::Csv if columns.len() > COLUMNS_MAX => {
                return wrong(format!("a table has at most {COLUMNS_MAX} columns; use an .npy file"));
            }
            JoinFormat::Png if !matches!(self.unit_shape, [_, _] | [_, _, 1..=4]) => {
                return wrong(
                    "a picture's output is [height, width] or [height, width, 1 to 4 channels]".to_owned(),
                );
            }
            _ => {}
        }
        if !columns.is_empty() && *format != JoinFormat::Csv {
            return wrong("only a .csv has columns".to_owned());
        }
        if !parameters.is_empty() && (*format != JoinFormat::Csv || *layout != JoinLayout::Stack) {
            return wrong("only a .csv with one row a unit has parameter columns".to_owned());
        }
        if parameters.iter().any(|parameter| parameter.split.length != parameter.dtype.bytes()) {
            return wrong("a parameter column has one number a unit".to_owned());
        }
        if expect.is_some() && (is_tiled || *format == JoinFormat::Png) {
            return wrong("only rows can be compared with expected ones, in a .csv or .npy".to_owned());
        }
        Ok(())
    }

    fn columns(&self) -> u64 {
        self.row_bytes / self.dtype.bytes()
    }

    /// Copies one unit's output to its place.
    fn place(&self, data: &mut [u8], unit: u64, output: &[u8]) {
        let JoinLayout::Tiles { width, height, tile_width, tile_height } = self.spec.layout else {
            let start = ((unit * self.unit_bytes) as usize).min(data.len());
            let end = (start + output.len()).min(data.len());
            data[start..end].copy_from_slice(&output[..end - start]);
            return;
        };
        let tiling = Tiling { width, height, tile_width, tile_height };
        let pixel = output.len() / (tile_width as usize * tile_height as usize);
        let [x, y, present, rows] = tiling.cropped(unit);
        for (row, line) in output.chunks_exact(tile_width as usize * pixel).take(rows).enumerate() {
            let start = ((y + row) * width as usize + x) * pixel;
            data[start..start + present * pixel].copy_from_slice(&line[..present * pixel]);
        }
    }

    /// Rows that are there, with the unit that each comes from.
    fn rows<'d>(&self, joined: &'d Joined) -> impl Iterator<Item = (usize, u64, &'d [u8])> {
        let rows = joined.data.chunks_exact(self.row_bytes as usize).enumerate();
        let rows_per_unit = self.rows_per_unit;
        rows.map(move |(row, bytes)| (row, row as u64 / rows_per_unit, bytes))
            .filter(|(_, unit, _)| joined.is_there[*unit as usize])
    }

    fn agreement(&self, joined: &Joined, expected: &[u8]) -> Agreement {
        let mut agreement = Agreement { matching: 0, total: 0 };
        let width = self.row_bytes as usize;
        for (row, _, bytes) in self.rows(joined) {
            agreement.total += 1;
            agreement.matching += u64::from(bytes == &expected[row * width..(row + 1) * width]);
        }
        agreement
    }

    fn table(&self, joined: &Joined, parameters: &[Bytes], expected: Option<&[u8]>) -> Vec<u8> {
        let columns = &self.spec.columns;
        let mut header: Vec<String> = self.spec.parameters.iter().map(|p| p.name.clone()).collect();
        header.extend_from_slice(columns);
        if expected.is_some() {
            match &columns[..] {
                [_] => header.push("expected".to_owned()),
                several => header.extend(several.iter().map(|column| format!("expected_{column}"))),
            }
        }
        let numbers = |bytes: &[u8]| -> Vec<String> {
            let elements = bytes.chunks_exact(self.dtype.bytes() as usize);
            elements.map(|element| npy::write_number(element, self.dtype)).collect()
        };
        let width = self.row_bytes as usize;
        let rows = self.rows(joined).map(|(row, unit, bytes)| {
            let mut cells = Vec::with_capacity(header.len());
            for (parameter, blob) in self.spec.parameters.iter().zip(parameters) {
                cells.push(npy::write_number(&parameter.split.unit_bytes(unit, blob), parameter.dtype));
            }
            cells.extend(numbers(bytes));
            if let Some(expected) = expected {
                cells.extend(numbers(&expected[row * width..(row + 1) * width]));
            }
            cells
        });
        csv::encode(&header, rows)
    }

    fn picture(&self, joined: &Joined) -> Result<Vec<u8>, CodecError> {
        let channels = self.unit_shape.get(2).copied().unwrap_or(1);
        let (unit_height, unit_width) = (self.unit_shape[0], self.unit_shape[1]);
        let unwritable = || CodecError::Unwritable {
            format: ".png",
            dtype: self.dtype,
            shape: self.unit_shape.to_vec(),
            problem: "the picture is too high",
        };
        let (width, unit_width, unit_height) = match self.spec.layout {
            JoinLayout::Tiles { width, tile_width, tile_height, .. } => (width, tile_width, tile_height),
            JoinLayout::Axis { .. } | JoinLayout::Stack => (unit_width, unit_width, unit_height),
        };
        let pixel = self.dtype.bytes() as usize * channels as usize;
        let line = width as usize * pixel;
        let height = u32::try_from(joined.data.len() / line).map_err(|_| unwritable())?;
        let elements = joined.data.chunks_exact(self.dtype.bytes() as usize);
        let mut samples: Vec<u8> =
            elements.map(|element| png::sample(self.dtype.value(element), self.dtype)).collect();
        let is_whole = joined.is_there.iter().all(|is_there| *is_there);
        let has_alpha = channels.is_multiple_of(2);
        if is_whole || has_alpha {
            // Missing units are zeros, which an alpha channel makes transparent already.
            return png::encode(width, height, channels, &samples);
        }
        let across = width.div_ceil(unit_width) as usize;
        let mut with_alpha = Vec::with_capacity(samples.len() / channels as usize * (channels as usize + 1));
        for (index, pixel) in samples.chunks_exact(channels as usize).enumerate() {
            let (x, y) = (index % width as usize, index / width as usize);
            let unit = y / unit_height as usize * across + x / unit_width as usize;
            with_alpha.extend_from_slice(pixel);
            with_alpha.push(if joined.is_there[unit] { 255 } else { 0 });
        }
        samples = with_alpha;
        png::encode(width, height, channels + 1, &samples)
    }
}

fn check_file_name(spec: &JoinSpec) -> Result<(), JoinError> {
    let name = &spec.file;
    let is_plain = (1..=100).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ' '));
    if is_plain { Ok(()) } else { Err(JoinError::Layout(format!("{name:?} is not a plain file name"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{array::Array, split};
    use proptest::prelude::*;
    use protocol::{InputSplit, JoinParameter};

    fn manifest(dtype: &str, shape: &[u32]) -> Manifest {
        let text = format!(
            r#"{{ "version": 1, "runtime": "wgsl", "kind": "batch", "program": {{ "kernels": {{}}, "passes": [],
                 "buffers": {{ "y": {{ "output": 0, "dtype": "{dtype}", "shape": {shape:?} }} }} }},
                 "limits": {{ "memory_bytes_max": 1, "time_ms_max": 1 }}, "verify": {{ "policy": "quorum", "agree": 2 }} }}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn spec(file: &str, layout: JoinLayout, columns: &[&str]) -> JoinSpec {
        let format = match file.rsplit('.').next() {
            Some("csv") => JoinFormat::Csv,
            Some("npy") => JoinFormat::Npy,
            _ => JoinFormat::Png,
        };
        JoinSpec {
            stage: None,
            output: 0,
            file: file.to_owned(),
            format,
            layout,
            columns: columns.iter().map(|c| (*c).to_owned()).collect(),
            parameters: vec![],
            expect: None,
        }
    }

    fn no_blobs(_: &Hash) -> Option<Bytes> {
        None
    }

    const THREE_ROWS: JoinLayout = JoinLayout::Axis { rows_total: 3, rows_per_unit: 2 };

    #[test]
    fn rows_become_a_table_and_the_padding_is_cut() {
        let expected = Bytes::from_static(&[7, 8, 0]);
        let spec = JoinSpec { expect: Some(Hash::of(&expected)), ..spec("a.csv", THREE_ROWS, &["digit"]) };
        let units = [Some([7, 8]), Some([9, 99])];
        let file = join(&spec, &manifest("u8", &[2]), 2, units, |_| Some(expected.clone())).unwrap();
        assert_eq!(String::from_utf8(file.bytes).unwrap(), "digit,expected\n7,7\n8,8\n9,0\n");
        assert_eq!(file.agreement, Some(Agreement { matching: 2, total: 3 }));
        let early =
            join(&spec, &manifest("u8", &[2]), 2, [None, Some([0, 1])], |_| Some(expected.clone())).unwrap();
        assert_eq!(String::from_utf8(early.bytes).unwrap(), "digit,expected\n0,0\n");
        assert_eq!((early.agreement, early.units_missing), (Some(Agreement { matching: 1, total: 1 }), 1));
    }

    #[test]
    fn rows_of_several_numbers_have_several_columns() {
        let spec = spec("a.csv", THREE_ROWS, &["x", "y"]);
        let units = [Some([1, 2, 3, 4]), Some([5, 6, 7, 8])];
        let file = join(&spec, &manifest("i8", &[2, 2]), 2, units, no_blobs).unwrap();
        assert_eq!(String::from_utf8(file.bytes).unwrap(), "x,y\n1,2\n3,4\n5,6\n");
    }

    #[test]
    fn a_sweep_becomes_a_table_with_its_parameters() {
        let blob = Bytes::from_iter([0.5f32, 1.0].iter().flat_map(|v| v.to_le_bytes()));
        let split = InputSplit { blob: Hash::of(&blob), offset: 0, stride: 4, length: 4 };
        let mut spec = spec("a.csv", JoinLayout::Stack, &["energy"]);
        spec.parameters = vec![JoinParameter { name: "rate".into(), dtype: Dtype::F32, split }];
        let units = [Some(7u32.to_le_bytes()), Some(8u32.to_le_bytes())];
        let file = join(&spec, &manifest("u32", &[1]), 2, units, |_| Some(blob.clone())).unwrap();
        assert_eq!(String::from_utf8(file.bytes).unwrap(), "rate,energy\n0.5,7\n1.0,8\n");
        let missing = join(&spec, &manifest("u32", &[1]), 2, units, no_blobs);
        assert!(matches!(missing, Err(JoinError::MissingBlob(_))));
    }

    #[test]
    fn rows_become_an_array() {
        let file =
            join(&spec("a.npy", THREE_ROWS, &[]), &manifest("u8", &[2]), 2, [Some([7, 8]), None], no_blobs)
                .unwrap();
        let array = npy::decode(&file.bytes, None).unwrap();
        assert_eq!((array.shape, array.bytes), (vec![3], vec![7, 8, 0]));
        let stack = spec("a.npy", JoinLayout::Stack, &[]);
        let file = join(&stack, &manifest("u8", &[2]), 2, [Some([7, 8]), Some([9, 1])], no_blobs).unwrap();
        let array = npy::decode(&file.bytes, None).unwrap();
        assert_eq!((array.shape, array.bytes), (vec![2, 2], vec![7, 8, 9, 1]));
    }

    #[test]
    fn tiles_become_a_picture_that_is_transparent_where_units_are_missing() {
        let layout = JoinLayout::Tiles { width: 3, height: 1, tile_width: 2, tile_height: 2 };
        let one = |v: f32| [v; 4].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let manifest = manifest("f32", &[2, 2, 1]);
        let spec = spec("a.png", layout, &[]);
        let file = join(&spec, &manifest, 2, [Some(one(1.0)), Some(one(0.5))], no_blobs).unwrap();
        let picture = png::decode(&file.bytes, None).unwrap();
        assert_eq!((picture.shape, picture.bytes), (vec![1, 3, 1], vec![255, 255, 128]));
        let early = join(&spec, &manifest, 2, [None, Some(one(0.5))], no_blobs).unwrap();
        let picture = png::decode(&early.bytes, None).unwrap();
        assert_eq!((picture.shape, picture.bytes), (vec![1, 3, 2], vec![0, 0, 0, 0, 128, 255]));
    }

    #[test]
    fn bands_become_a_picture() {
        let layout = JoinLayout::Axis { rows_total: 3, rows_per_unit: 2 };
        let spec = spec("a.png", layout, &[]);
        let units =
            [Some([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]), Some([13, 14, 15, 16, 17, 18, 0, 0, 0, 0, 0, 0])];
        let file = join(&spec, &manifest("u8", &[2, 2, 3]), 2, units, no_blobs).unwrap();
        let picture = png::decode(&file.bytes, None).unwrap();
        assert_eq!((picture.shape, picture.bytes), (vec![3, 2, 3], (1..=18).collect()));
        let early = join(&spec, &manifest("u8", &[2, 2, 3]), 2, [None, units[1]], no_blobs).unwrap();
        let picture = png::decode(&early.bytes, None).unwrap();
        assert_eq!(picture.shape, [3, 2, 4]);
        assert_eq!(picture.bytes[16..], [13, 14, 15, 255, 16, 17, 18, 255]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let check = |spec: &JoinSpec, shape: &[u32], units, expected: &str| {
            let error = check_join(spec, &manifest("f32", shape), units).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} does not say {expected:?}");
        };
        let tiles = JoinLayout::Tiles { width: 4, height: 4, tile_width: 2, tile_height: 2 };
        check(&JoinSpec { output: 3, ..spec("a.npy", THREE_ROWS, &[]) }, &[2], 2, "no output 3");
        check(&spec("a.npy", THREE_ROWS, &[]), &[3], 2, "first axis");
        check(&spec("a.npy", THREE_ROWS, &[]), &[2], 1, "as many rows");
        check(&spec("a.npy", THREE_ROWS, &[]), &[2], u64::MAX, "as many rows");
        check(&spec("a.npy", JoinLayout::Stack, &[]), &[2], u64::MAX, "1 GiB");
        check(&spec("a.csv", THREE_ROWS, &["x"]), &[2, 3], 2, "3 numbers");
        check(&spec("a.csv", tiles, &["x"]), &[2, 2], 4, "not a table");
        check(&spec("a.png", tiles, &[]), &[2, 3], 4, "shaped like a tile");
        check(&spec("a.png", tiles, &[]), &[2, 2], 5, "as many units as tiles");
        check(&spec("a.png", tiles, &[]), &[2, 2, 5], 4, "1 to 4 channels");
        check(&spec("a.png", tiles, &["x"]), &[2, 2], 4, "only a .csv has columns");
        check(&spec("a.npy", JoinLayout::Stack, &[]), &[1024, 1024], 10_000, "1 GiB");
        check(&spec("a.npy", JoinLayout::Stack, &[]), &[u32::MAX; 8], 10_000, "1 GiB");
        check(&spec("../a.npy", JoinLayout::Stack, &[]), &[1], 1, "plain file name");
        let hollow = JoinLayout::Tiles { width: 0, height: 0, tile_width: 0, tile_height: 0 };
        check(&spec("a.png", hollow, &[]), &[0, 0], 0, "nothing to join");
        let short = join(&spec("a.npy", THREE_ROWS, &[]), &manifest("u8", &[2]), 2, [Some([1])], no_blobs);
        assert!(matches!(short, Err(JoinError::UnitLength { unit: 0, bytes: 1, expected: 2 })));
    }

    proptest! {
        #[test]
        fn what_is_split_by_an_axis_joins_to_itself(rows in 1u32..20, columns in 1u32..5, size in 1u32..8) {
            let bytes: Vec<u8> = (0..rows * columns).map(|i| i as u8 | 1).collect();
            let array = Array { dtype: Dtype::U8, shape: vec![rows, columns], bytes };
            let units = split::by_axis(array.clone(), 0, size);
            let split = InputSplit { blob: Hash::of(&[]), offset: 0, stride: units.unit_bytes, length: units.unit_bytes };
            let outputs = (0..units.count).map(|unit| Some(split.unit_bytes(unit, &units.bytes)));
            let layout = JoinLayout::Axis { rows_total: rows.into(), rows_per_unit: size };
            let file = join(&spec("a.npy", layout, &[]), &manifest("u8", &units.shape), units.count, outputs, no_blobs);
            prop_assert_eq!(npy::decode(&file.unwrap().bytes, None).unwrap(), array);
        }

        #[test]
        fn what_is_split_into_tiles_joins_to_itself(
            width in 1u32..20, height in 1u32..20, tile_width in 1u32..8, tile_height in 1u32..8,
        ) {
            let bytes: Vec<u8> = (0..width * height * 3).map(|i| i as u8 | 1).collect();
            let array = Array { dtype: Dtype::U8, shape: vec![height, width, 3], bytes };
            let tiling = split::Tiling { width, height, tile_width, tile_height };
            let units = split::by_tile(&array, &tiling);
            let outputs = units.bytes.chunks_exact(units.unit_bytes as usize).map(Some);
            let layout = JoinLayout::Tiles { width, height, tile_width, tile_height };
            let file = join(&spec("a.png", layout, &[]), &manifest("u8", &units.shape), units.count, outputs, no_blobs);
            prop_assert_eq!(png::decode(&file.unwrap().bytes, None).unwrap(), array);
        }
    }
}
