//! Several small blobs in one request body: their count, their lengths, their bytes.
//!
//! `count` and each `length` are u32, little-endian; the bytes follow each other without gaps and end with the body. Names are
//! not sent: whoever takes a batch answers the hashes of what it got.

use std::ops::Range;

/// Blobs of one batch.
pub const BATCH_BLOBS_MAX: usize = 1024;
/// Bytes of one blob in a batch. A larger one is worth a request of its own, in which it is hashed while it arrives.
pub const BATCH_BLOB_BYTES_MAX: usize = 64 << 10;
/// Bytes of all blobs of a batch together, which whoever takes it holds in memory.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Bytes of the longest batch that is well formed.
pub const BATCH_BODY_BYTES_MAX: usize = 4 + 4 * BATCH_BLOBS_MAX + BATCH_BYTES_MAX;

/// Why bytes are no batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// None, or too many.
    #[error("a batch has 1 to {BATCH_BLOBS_MAX} blobs, this one has {0}")]
    Count(u64),
    /// A blob that must go by itself.
    #[error("blob {index} of the batch has {length} bytes, the most is {BATCH_BLOB_BYTES_MAX}")]
    TooLarge {
        /// Its place.
        index: usize,
        /// Its length.
        length: u64,
    },
    /// More than [`BATCH_BYTES_MAX`].
    #[error("the batch has {0} bytes, the most is {BATCH_BYTES_MAX}")]
    TooLong(u64),
    /// Another number of bytes than the lengths say.
    #[error("the lengths of the batch say {expected} bytes, it has {found}")]
    Length {
        /// By the lengths.
        expected: u64,
        /// That are there.
        found: u64,
    },
}

/// The batch of these blobs, in order. They must be within the bounds: [`parts`] refuses what is not.
pub fn frame<B: AsRef<[u8]>>(blobs: &[B]) -> Vec<u8> {
    let total: usize = blobs.iter().map(|blob| 4 + blob.as_ref().len()).sum();
    let mut bytes = Vec::with_capacity(4 + total);
    bytes.extend((blobs.len() as u32).to_le_bytes());
    for blob in blobs {
        bytes.extend((blob.as_ref().len() as u32).to_le_bytes());
    }
    for blob in blobs {
        bytes.extend_from_slice(blob.as_ref());
    }
    bytes
}

/// Where the blobs of a batch lie in it.
pub fn parts(batch: &[u8]) -> Result<Vec<Range<usize>>, BatchError> {
    let word = |at: usize| {
        let bytes = batch.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    };
    let cut = |expected: usize| BatchError::Length { expected: expected as u64, found: batch.len() as u64 };
    let count = word(0).ok_or_else(|| cut(4))? as usize;
    if count == 0 || count > BATCH_BLOBS_MAX {
        return Err(BatchError::Count(count as u64));
    }
    let head = 4 + 4 * count;
    let mut ranges = Vec::with_capacity(count);
    let mut end = head;
    for index in 0..count {
        let length = word(4 + 4 * index).ok_or_else(|| cut(head))? as usize;
        if length > BATCH_BLOB_BYTES_MAX {
            return Err(BatchError::TooLarge { index, length: length as u64 });
        }
        ranges.push(end..end + length);
        end += length;
    }
    if end - head > BATCH_BYTES_MAX {
        return Err(BatchError::TooLong((end - head) as u64));
    }
    if end == batch.len() { Ok(ranges) } else { Err(cut(end)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_read_as_it_was_written() {
        let blobs: [&[u8]; 4] = [b"one", b"", b"three", &[7; BATCH_BLOB_BYTES_MAX]];
        let batch = frame(&blobs);
        let ranges = parts(&batch).unwrap();
        let read: Vec<_> = ranges.into_iter().map(|range| &batch[range]).collect();
        assert_eq!(read, blobs);
    }

    #[test]
    fn what_is_no_batch_is_refused_with_a_reason() {
        let check = |batch: &[u8], expected: BatchError| assert_eq!(parts(batch), Err(expected));
        check(&[], BatchError::Length { expected: 4, found: 0 });
        check(&[0; 4], BatchError::Count(0));
        check(&[0xff; 4], BatchError::Count(u32::MAX.into()));
        check(&[2, 0, 0, 0, 1, 0, 0, 0], BatchError::Length { expected: 12, found: 8 });
        check(&[1, 0, 0, 0, 1, 0, 0, 0], BatchError::Length { expected: 9, found: 8 });
        check(&[1, 0, 0, 0, 0, 0, 0, 0, 9], BatchError::Length { expected: 8, found: 9 });
        let large = frame(&[vec![0; BATCH_BLOB_BYTES_MAX + 1]]);
        check(&large, BatchError::TooLarge { index: 0, length: BATCH_BLOB_BYTES_MAX as u64 + 1 });
        let long = frame(&vec![vec![0; BATCH_BLOB_BYTES_MAX]; 129]);
        check(&long, BatchError::TooLong(129 << 16));
    }
}
