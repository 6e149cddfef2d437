//! How a job's inputs are cut into units, and how its outputs become files again.

use std::{borrow::Cow, ops::Range};

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{Hash, manifest::Dtype};

/// One input of every unit: unit `i` sees `length` bytes of the blob from `offset + i · stride`. Bytes past the blob's end
/// are zero, so that the last unit of an uneven split has the same shape as the others. A stride of 0 gives every unit the
/// same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct InputSplit {
    /// The blob.
    pub blob: Hash,
    /// Where unit 0 begins, in bytes.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub offset: u64,
    /// From one unit's beginning to the next one's, in bytes.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub stride: u64,
    /// Bytes a unit sees.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub length: u64,
}

impl InputSplit {
    /// Where unit `index` begins in the blob; nothing when that is beyond 2⁶⁴.
    pub fn start(&self, index: u64) -> Option<u64> {
        self.stride.checked_mul(index)?.checked_add(self.offset)
    }

    /// The bytes of a blob of `blob_bytes` that unit `index` sees; what is missing to `length` is zero.
    pub fn range(&self, index: u64, blob_bytes: u64) -> Range<u64> {
        let start = self.start(index).unwrap_or(u64::MAX).min(blob_bytes);
        start..start.saturating_add(self.length).min(blob_bytes)
    }

    /// What unit `index` sees of `blob`, zero-padded to `length`.
    pub fn unit_bytes<'a>(&self, index: u64, blob: &'a [u8]) -> Cow<'a, [u8]> {
        let range = self.range(index, blob.len() as u64);
        let present = &blob[range.start as usize..range.end as usize];
        if present.len() as u64 == self.length {
            return Cow::Borrowed(present);
        }
        let mut padded = present.to_vec();
        padded.resize(self.length as usize, 0);
        Cow::Owned(padded)
    }
}

/// How the units' buffers of one output become one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct JoinSpec {
    /// The stage whose outputs these are, of a job of several; the last one when absent. Of an iterated job it is the last
    /// iteration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// The output's number in the manifest.
    pub output: u32,
    /// The file's name, without folders.
    pub file: String,
    /// Its format.
    pub format: JoinFormat,
    /// How units lie in the file.
    pub layout: JoinLayout,
    /// Column names of a CSV.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Inputs that become leading columns of a CSV: what a sweep varied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<JoinParameter>,
    /// A blob of the expected values, in the output's dtype and row-major order: the file then reports how many rows agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Hash>,
}

impl JoinSpec {
    /// The blobs that a join reads beside the outputs.
    pub fn blobs(&self) -> impl Iterator<Item = Hash> + '_ {
        self.parameters.iter().map(|p| p.split.blob).chain(self.expect)
    }
}

/// An input of one element that becomes a leading column of a joined CSV.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct JoinParameter {
    /// The column's name.
    pub name: String,
    /// The element type.
    pub dtype: Dtype,
    /// Where a unit's value lies.
    pub split: InputSplit,
}

/// A result file's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum JoinFormat {
    /// Comma-separated values, a row an element of the first axis.
    Csv,
    /// NumPy's array format, version 1.0.
    Npy,
    /// An 8-bit image.
    Png,
}

/// How units lie in a result file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum JoinLayout {
    /// One after the other along the first axis; padding after `rows_total` is cut off.
    Axis {
        /// Rows of the whole.
        #[serde(with = "crate::decimal")]
        #[cfg_attr(feature = "schema", schema(value_type = String))]
        rows_total: u64,
        /// Rows of one unit.
        rows_per_unit: u32,
    },
    /// Row-major tiles of an image; what lies beyond its edge is cut off.
    Tiles {
        /// Of the image, in pixels.
        width: u32,
        /// Of the image, in pixels.
        height: u32,
        /// Of a tile, in pixels.
        tile_width: u32,
        /// Of a tile, in pixels.
        tile_height: u32,
    },
    /// A new first axis with one entry a unit.
    Stack,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_past_the_end_sees_zeros() {
        let split = InputSplit { blob: Hash::of(b""), offset: 1, stride: 3, length: 3 };
        let blob = [9, 1, 2, 3, 4];
        assert_eq!(*split.unit_bytes(0, &blob), [1, 2, 3]);
        assert_eq!(*split.unit_bytes(1, &blob), [4, 0, 0]);
        assert_eq!(*split.unit_bytes(u64::MAX, &blob), [0, 0, 0]);
        let shared = InputSplit { stride: 0, ..split };
        assert_eq!(*shared.unit_bytes(7, &blob), [1, 2, 3]);
    }

    #[test]
    fn a_join_spec_reads_what_it_writes() {
        let spec = JoinSpec {
            stage: None,
            output: 0,
            file: "a.csv".into(),
            format: JoinFormat::Csv,
            layout: JoinLayout::Axis { rows_total: 599, rows_per_unit: 8 },
            columns: vec!["digit".into()],
            parameters: vec![],
            expect: Some(Hash::of(b"labels")),
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert!(text.contains(r#""layout":{"kind":"axis","rows_total":"599","rows_per_unit":8}"#), "{text}");
        assert_eq!(serde_json::from_str::<JoinSpec>(&text).unwrap(), spec);
    }
}
