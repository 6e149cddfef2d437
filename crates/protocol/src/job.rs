//! How a job's inputs are cut into units, and how its outputs become files again.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::Hash;

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
}

/// How the units' buffers of one output become one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct JoinSpec {
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
    /// A blob of the expected values, in the output's dtype and row-major order: the file then reports how many rows agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Hash>,
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
