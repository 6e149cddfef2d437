//! File formats, to and from an [`Array`](crate::Array). Bytes in, bytes out; nothing here opens a file.

pub mod csv;
pub mod npy;
pub mod png;

use protocol::manifest::Dtype;

use crate::array::Unfit;

/// Why bytes are not an array of the wanted kind.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes do not follow the format.
    #[error("this is not a whole {format} file: {problem}")]
    Malformed {
        /// The format.
        format: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The file has something that this reader does not do.
    #[error("{problem}")]
    Unsupported {
        /// What it has.
        problem: String,
        /// How to convert it.
        fix: String,
    },
    /// A value that the element type cannot hold.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// Larger than [`ARRAY_BYTES_MAX`](crate::ARRAY_BYTES_MAX).
    #[error("the array is larger than 1 GiB")]
    TooLarge,
    /// A result of this type and shape cannot be written in the format.
    #[error("{dtype} {shape:?} cannot be written as {format}: {problem}")]
    Unwritable {
        /// The format.
        format: &'static str,
        /// The element type.
        dtype: Dtype,
        /// The shape.
        shape: Vec<u32>,
        /// Why.
        problem: &'static str,
    },
}

impl CodecError {
    /// What to do about it, where that is known.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Unsupported { fix, .. } => Some(fix.clone()),
            Self::Unfit(unfit) if unfit.dtype.is_float() => {
                Some(format!("write dtype = \"{}\" to have values rounded to the nearest {0}", unfit.dtype))
            }
            Self::Unfit(_) => Some("choose another dtype, or change the data".to_owned()),
            Self::TooLarge => Some("cut the data into several files".to_owned()),
            Self::Malformed { .. } | Self::Unwritable { .. } => None,
        }
    }
}
