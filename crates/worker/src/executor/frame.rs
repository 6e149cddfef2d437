//! What parent and child say to each other.
//!
//! A frame is a header's length (u32), a body's length (u64), the header (Borsh) and the body (bytes that the header describes), so
//! that large buffers pass without being copied into a message.

use std::io::{self, Read, Write};

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{DeviceFacts, Hash};

use crate::device::Measured;

/// The version of these messages; parent and child are normally the same binary.
pub(super) const VERSION: u32 = 2;

/// Longest header: a manifest and the texts of its kernels.
pub(super) const HEADER_BYTES_MAX: usize =
    program::MANIFEST_BYTES_MAX + program::KERNELS_MAX * program::KERNEL_BYTES_MAX + (64 << 10);

/// From the parent.
#[derive(Debug, BorshSerialize, BorshDeserialize)]
pub(super) enum Request {
    /// Keep this blob; the body.
    Blob { hash: Hash },
    /// Forget it.
    DropBlob { hash: Hash },
    /// Build a program whose blobs were sent.
    Load { ticket: u64, program: Hash, manifest: Vec<u8>, kernels: Vec<(Hash, String)> },
    /// Forget it.
    Unload { program: Hash },
    /// Measure the device.
    Measure { ticket: u64 },
    /// Run one unit; the body holds its inputs one after the other.
    Run { ticket: u64, program: Hash, input_lengths: Vec<u64> },
}

/// From the child.
#[derive(Debug, BorshSerialize, BorshDeserialize)]
pub(super) enum Reply {
    /// The device is open. Always the first message, unless `Unavailable` is.
    Ready { version: u32, facts: DeviceFacts },
    /// No device could be opened; the child ends.
    Unavailable { message: String },
    /// The device was measured.
    Measured { ticket: u64, result: Result<Measured, Failure> },
    /// A program was built, or not.
    Loaded { ticket: u64, result: Result<(), Failure> },
    /// A unit ended; the body holds its outputs one after the other.
    Ran { ticket: u64, result: Result<Ran, Failure> },
}

/// A unit that ended well.
#[derive(Debug, BorshSerialize, BorshDeserialize)]
pub(super) struct Ran {
    pub(super) output_lengths: Vec<u64>,
    pub(super) device_us: u64,
}

/// Why a request failed.
#[derive(Debug, BorshSerialize, BorshDeserialize)]
pub(super) enum Failure {
    /// The program or the unit is at fault; the device is well.
    Program(String),
    /// The device is; it must be opened again.
    Device(String),
}

/// The fixed start of a frame.
pub(super) const PREFIX_BYTES: usize = 12;

/// Both lengths of a frame, if they are within bounds.
pub(super) fn lengths(prefix: [u8; PREFIX_BYTES], body_bytes_max: u64) -> io::Result<(usize, usize)> {
    let [h0, h1, h2, h3, body @ ..] = prefix;
    let header = u32::from_le_bytes([h0, h1, h2, h3]) as usize;
    let body = u64::from_le_bytes(body);
    if header > HEADER_BYTES_MAX || body > body_bytes_max {
        let message = format!("a frame of {header} + {body} bytes is larger than any that is expected");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok((header, body as usize))
}

/// The start of a frame with this header and a body of `body_bytes`.
pub(super) fn head(header: &impl BorshSerialize, body_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; PREFIX_BYTES];
    header.serialize(&mut bytes)?;
    let length = bytes.len() - PREFIX_BYTES;
    if length > HEADER_BYTES_MAX {
        let message = format!("a header of {length} bytes is too large");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[4..PREFIX_BYTES].copy_from_slice(&body_bytes.to_le_bytes());
    Ok(bytes)
}

/// A header from its bytes.
pub(super) fn parse<H: BorshDeserialize>(header: &[u8]) -> io::Result<H> {
    borsh::from_slice(header)
}

/// Writes a frame whose body is `parts`, one after the other.
pub(super) fn write(to: &mut impl Write, header: &impl BorshSerialize, parts: &[Vec<u8>]) -> io::Result<()> {
    let body_bytes = parts.iter().map(|part| part.len() as u64).sum();
    to.write_all(&head(header, body_bytes)?)?;
    for part in parts {
        to.write_all(part)?;
    }
    to.flush()
}

/// Reads a frame; `None` at the end of the stream.
pub(super) fn read<H: BorshDeserialize>(
    from: &mut impl Read,
    body_bytes_max: u64,
) -> io::Result<Option<(H, Vec<u8>)>> {
    let mut prefix = [0; PREFIX_BYTES];
    match from.read_exact(&mut prefix) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (header_bytes, body_bytes) = lengths(prefix, body_bytes_max)?;
    let mut header = vec![0; header_bytes];
    from.read_exact(&mut header)?;
    let mut body = vec![0; body_bytes];
    from.read_exact(&mut body)?;
    Ok(Some((parse(&header)?, body)))
}

/// The consecutive parts of `total` bytes with these lengths, as ranges; `None` unless they fill it exactly.
pub(super) fn parts(total: usize, lengths: &[u64]) -> Option<Vec<std::ops::Range<usize>>> {
    let mut ranges = Vec::new();
    let mut start = 0usize;
    for length in lengths {
        let end = start.checked_add(usize::try_from(*length).ok()?)?;
        ranges.push(start..end);
        start = end;
    }
    (start == total).then_some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let mut stream = Vec::new();
        let request = Request::Run { ticket: 7, program: Hash::of(b"p"), input_lengths: vec![2, 3] };
        write(&mut stream, &request, &[vec![1, 2], vec![3, 4, 5]]).unwrap();
        let mut from = stream.as_slice();
        let (header, body) = read::<Request>(&mut from, 5).unwrap().unwrap();
        assert!(matches!(header, Request::Run { ticket: 7, .. }));
        assert_eq!(body, [1, 2, 3, 4, 5]);
        assert!(read::<Request>(&mut from, 5).unwrap().is_none());
    }

    #[test]
    fn a_frame_that_is_too_large_or_cut_off_is_an_error() {
        let mut stream = Vec::new();
        write(&mut stream, &Request::Blob { hash: Hash::of(b"") }, &[vec![0; 100]]).unwrap();
        assert!(read::<Request>(&mut stream.as_slice(), 99).is_err());
        assert!(read::<Request>(&mut &stream[..stream.len() - 1], 100).is_err());
        stream[0] = 0xff;
        stream[3] = 0xff;
        assert!(read::<Request>(&mut stream.as_slice(), 100).is_err());
    }

    #[test]
    fn parts_must_fill_the_body() {
        assert_eq!(parts(5, &[2, 3]), Some(vec![0..2, 2..5]));
        assert_eq!(parts(5, &[2, 2]), None);
        assert_eq!(parts(5, &[u64::MAX, 6]), None);
    }
}
