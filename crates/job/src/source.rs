//! Where the files that a job file names come from.

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::PathBuf,
};

/// Reads the files that a job file names; paths are as written there, relative to the job file.
pub trait FileSource {
    /// The file's length in bytes.
    fn length(&self, path: &str) -> io::Result<u64>;

    /// The bytes of `range`, which lies within the file.
    fn read(&self, path: &str, range: Range<u64>) -> io::Result<Vec<u8>>;
}

/// The folder that a job file lies in.
#[derive(Clone, Debug)]
pub struct Folder(pub PathBuf);

impl FileSource for Folder {
    fn length(&self, path: &str) -> io::Result<u64> {
        let facts = fs::metadata(self.0.join(path))?;
        if facts.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(facts.len()) }
    }

    fn read(&self, path: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(self.0.join(path))?;
        file.seek(SeekFrom::Start(range.start))?;
        let mut bytes = Vec::new();
        file.take(range.end - range.start).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Files in memory, by path.
impl<B: AsRef<[u8]>> FileSource for BTreeMap<&str, B> {
    fn length(&self, path: &str) -> io::Result<u64> {
        self.get(path).map(|bytes| bytes.as_ref().len() as u64).ok_or(io::ErrorKind::NotFound.into())
    }

    fn read(&self, path: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let bytes = self.get(path).ok_or(io::ErrorKind::NotFound)?.as_ref();
        let end = (range.end as usize).min(bytes.len());
        Ok(bytes[(range.start as usize).min(end)..end].to_vec())
    }
}
