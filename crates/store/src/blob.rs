//! Blobs by the SHA-256 of their bytes, in an object store.
//!
//! An upload is hashed while it is written beside its place and moves there only when the hash is right, so that a blob
//! either is there whole or is not there. It is synced to disk before the upload is answered. A bounded memory of the
//! blobs that were seen keeps the question "is it there?" off the disk.

use std::{
    collections::HashMap,
    ops::Range,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, local::LocalFileSystem,
    path::Path,
};
use protocol::Hash;
use sha2::{Digest, Sha256};

use crate::BlobError;

/// Bytes gathered before they are written: what a small upload holds in memory at most.
const PART_BYTES: usize = 1024 * 1024;
/// Blobs remembered as present, in each of two generations (40 bytes each, so some 10 MB together).
const KNOWN_MAX: usize = 128 * 1024;

/// Bytes that are hashed on the spot; more would keep an async thread busy for longer than a millisecond.
const HASHED_HERE_BYTES_MAX: usize = 256 * 1024;

/// Blobs of one call that are written and synced at the same time.
const SYNCED_AT_ONCE: usize = 16;

/// How blobs are kept.
#[derive(Clone, Debug)]
pub struct BlobOptions {
    /// Where: a folder, created if missing.
    pub folder: PathBuf,
    /// Most bytes of one blob.
    pub blob_bytes_max: u64,
    /// Most bytes of all together; no limit but the disk when absent.
    pub total_bytes_max: Option<u64>,
}

/// An open blob store.
pub struct BlobStore {
    store: LocalFileSystem,
    blob_bytes_max: u64,
    total_bytes_max: AtomicU64,
    /// Bytes stored or about to be.
    total_bytes: AtomicU64,
    known: Mutex<Known>,
    /// Held while an upload takes its place, by the hash's first byte, so that two of the same bytes count once.
    finishing: Box<[tokio::sync::Mutex<()>]>,
}

/// Lengths of blobs that are there. When the young generation is full it becomes the old one, and the old one is forgotten.
#[derive(Default)]
struct Known {
    young: HashMap<Hash, u64>,
    old: HashMap<Hash, u64>,
}

impl Known {
    fn get(&mut self, hash: &Hash) -> Option<u64> {
        if let Some(&length) = self.young.get(hash) {
            return Some(length);
        }
        let length = *self.old.get(hash)?;
        self.insert(*hash, length);
        Some(length)
    }

    fn insert(&mut self, hash: Hash, length: u64) {
        if self.young.len() >= KNOWN_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, length);
    }
}

/// A blob that is being read.
pub struct BlobReader {
    /// Bytes of the whole blob.
    pub length: u64,
    /// Which of them are read.
    pub range: Range<u64>,
    result: object_store::GetResult,
}

impl BlobReader {
    /// The bytes in pieces.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, BlobError>> + Send + 'static {
        self.result.into_stream().map_err(BlobError::from)
    }

    /// All the bytes.
    pub async fn bytes(self) -> Result<Bytes, BlobError> {
        Ok(self.result.bytes().await?)
    }
}

fn io_error(source: std::io::Error) -> BlobError {
    BlobError::Io(object_store::Error::Generic { store: "local folder", source: Box::new(source) })
}

fn place(hash: &Hash) -> Path {
    let name = hash.to_string();
    Path::from_iter([&name[..2], &name])
}

impl BlobStore {
    /// Opens the folder, removes what uploads left that never ended, and counts what is there.
    pub async fn open(options: BlobOptions) -> Result<Self, BlobError> {
        let folder = options.folder.clone();
        let total = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)?;
            tidy(&folder)
        })
        .await
        .map_err(|panic| io_error(std::io::Error::other(panic)))?
        .map_err(io_error)?;
        Ok(Self {
            store: LocalFileSystem::new_with_prefix(&options.folder)?.with_fsync(true),
            blob_bytes_max: options.blob_bytes_max,
            total_bytes_max: AtomicU64::new(options.total_bytes_max.unwrap_or(u64::MAX)),
            total_bytes: AtomicU64::new(total),
            known: Mutex::default(),
            finishing: (0..=u8::MAX).map(|_| tokio::sync::Mutex::default()).collect(),
        })
    }

    /// Most bytes of one blob.
    pub fn blob_bytes_max(&self) -> u64 {
        self.blob_bytes_max
    }

    /// Bytes of all blobs together.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Sets the most bytes that all blobs together may have.
    pub fn set_total_bytes_max(&self, bytes_max: Option<u64>) {
        self.total_bytes_max.store(bytes_max.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The length of a blob, or nothing if it is not there.
    pub async fn length(&self, hash: &Hash) -> Result<Option<u64>, BlobError> {
        if let Some(length) = self.known_length(hash) {
            return Ok(Some(length));
        }
        match self.store.head(&place(hash)).await {
            Ok(meta) => {
                self.remember(*hash, meta.size);
                Ok(Some(meta.size))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The length of a blob that this store remembers; says nothing about the others.
    pub fn known_length(&self, hash: &Hash) -> Option<u64> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(hash)
    }

    fn remember(&self, hash: Hash, length: u64) {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(hash, length);
    }

    /// Opens a blob for reading: all of it, or a range that is cut at its end.
    pub async fn read(&self, hash: &Hash, range: Option<GetRange>) -> Result<BlobReader, BlobError> {
        let options = GetOptions { range, ..GetOptions::default() };
        match self.store.get_opts(&place(hash), options).await {
            Ok(result) => Ok(BlobReader { length: result.meta.size, range: result.range.clone(), result }),
            Err(object_store::Error::NotFound { .. }) => Err(BlobError::Unknown(*hash)),
            Err(error) => Err(error.into()),
        }
    }

    /// All bytes of a blob, which hash to its name: what a disk changed is an error.
    pub async fn get(&self, hash: &Hash) -> Result<Bytes, BlobError> {
        let bytes = self.read(hash, None).await?.bytes().await?;
        let found = if bytes.len() <= HASHED_HERE_BYTES_MAX {
            Hash::of(&bytes)
        } else {
            let bytes = bytes.clone();
            let hashed = tokio::task::spawn_blocking(move || Hash::of(&bytes)).await;
            hashed.map_err(|panic| io_error(std::io::Error::other(panic)))?
        };
        if found != *hash { Err(BlobError::Damaged { blob: *hash, found }) } else { Ok(bytes) }
    }

    /// Stores bytes under their hash and returns it.
    pub async fn put(&self, bytes: Bytes) -> Result<Hash, BlobError> {
        let hash = Hash::of(&bytes);
        let mut upload = self.upload(hash).await?;
        upload.write(bytes).await?;
        upload.finish().await?;
        Ok(hash)
    }

    /// Stores several under their hashes, which it returns in order. They are synced side by side, so that the disk's waiting
    /// times overlap; where one fails, others may have been stored.
    pub async fn put_all(&self, blobs: Vec<Bytes>) -> Result<Vec<Hash>, BlobError> {
        futures::stream::iter(blobs).map(|bytes| self.put(bytes)).buffered(SYNCED_AT_ONCE).try_collect().await
    }

    /// Begins an upload. Nothing is stored unless it is finished; dropping it leaves nothing.
    pub async fn upload(&self, hash: Hash) -> Result<BlobUpload<'_>, BlobError> {
        Ok(BlobUpload {
            store: self,
            expected: hash,
            hasher: Sha256::new(),
            gathered: BytesMut::new(),
            length: 0,
            reserved: 0,
            parts: None,
        })
    }

    fn reserve(&self, bytes: u64) -> Result<(), BlobError> {
        let max = self.total_bytes_max.load(Ordering::Relaxed);
        self.total_bytes
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |total| {
                total.checked_add(bytes).filter(|&total| total <= max)
            })
            .map(drop)
            .map_err(|_| BlobError::Full(None))
    }

    fn unreserve(&self, bytes: u64) {
        self.total_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// An upload under way.
pub struct BlobUpload<'a> {
    store: &'a BlobStore,
    expected: Hash,
    hasher: Sha256,
    gathered: BytesMut,
    length: u64,
    /// Counted in the store's total; given back unless the upload is finished.
    reserved: u64,
    parts: Option<Box<dyn MultipartUpload>>,
}

impl BlobUpload<'_> {
    /// Adds bytes.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        let added = bytes.len() as u64;
        let bytes_max = self.store.blob_bytes_max;
        if self.length.checked_add(added).is_none_or(|length| length > bytes_max) {
            self.abort().await;
            return Err(BlobError::TooLarge { bytes_max });
        }
        if let Err(full) = self.store.reserve(added) {
            self.abort().await;
            return Err(full);
        }
        self.reserved += added;
        self.length += added;
        self.hasher.update(&bytes);
        self.gathered.extend_from_slice(&bytes);
        if self.gathered.len() >= PART_BYTES
            && let Err(error) = self.flush().await
        {
            self.abort().await;
            return Err(error);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), BlobError> {
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => none.insert(self.store.store.put_multipart(&place(&self.expected)).await?),
        };
        parts.put_part(PutPayload::from_bytes(self.gathered.split().freeze())).await?;
        Ok(())
    }

    /// Checks the hash and makes the blob durable. Returns its length.
    pub async fn finish(mut self) -> Result<u64, BlobError> {
        let found = Hash(std::mem::take(&mut self.hasher).finalize().into());
        if found != self.expected {
            self.abort().await;
            return Err(BlobError::Mismatch { expected: self.expected, found });
        }
        let _turn = self.store.finishing[usize::from(found.0[0])].lock().await;
        // The same bytes again change nothing.
        if self.store.length(&found).await?.is_some() {
            self.abort().await;
            return Ok(self.length);
        }
        let stored = match self.parts.take() {
            None => {
                let payload = PutPayload::from_bytes(self.gathered.split().freeze());
                self.store.store.put(&place(&found), payload).await.map(drop)
            }
            Some(parts) => {
                self.parts = Some(parts);
                match self.flush().await {
                    Ok(()) => match self.parts.as_mut() {
                        Some(parts) => parts.complete().await.map(drop),
                        None => Ok(()),
                    },
                    Err(error) => {
                        self.abort().await;
                        return Err(error);
                    }
                }
            }
        };
        if let Err(error) = stored {
            self.abort().await;
            return Err(error.into());
        }
        self.reserved = 0;
        self.parts = None;
        self.store.remember(found, self.length);
        Ok(self.length)
    }

    async fn abort(&mut self) {
        if let Some(mut parts) = self.parts.take() {
            // What stays behind is removed when the store is opened again.
            let _ = parts.abort().await;
        }
    }
}

impl Drop for BlobUpload<'_> {
    fn drop(&mut self) {
        self.store.unreserve(self.reserved);
    }
}

/// Removes the staging files of uploads that a crash ended, and adds up the rest.
fn tidy(folder: &std::path::Path) -> std::io::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            total += tidy(&entry.path())?;
        } else if entry.file_name().to_string_lossy().contains('#') {
            std::fs::remove_file(entry.path())?;
        } else {
            total += meta.len();
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(folder: &std::path::Path, total_bytes_max: Option<u64>) -> BlobStore {
        let options = BlobOptions { folder: folder.to_owned(), blob_bytes_max: 5_000_000, total_bytes_max };
        BlobStore::open(options).await.expect("opens")
    }

    fn files(folder: &std::path::Path) -> usize {
        std::fs::read_dir(folder)
            .expect("readable")
            .map(|entry| {
                let path = entry.expect("readable").path();
                if path.is_dir() { std::fs::read_dir(path).expect("readable").count() } else { 1 }
            })
            .sum()
    }

    async fn upload(store: &BlobStore, hash: Hash, bytes: &[u8]) -> Result<u64, BlobError> {
        let mut upload = store.upload(hash).await?;
        for piece in bytes.chunks(300_000) {
            upload.write(Bytes::copy_from_slice(piece)).await?;
        }
        upload.finish().await
    }

    #[tokio::test]
    async fn blobs_of_every_size_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().expect("a folder");
        for length in [0, 1, 299_999, PART_BYTES, 3 * PART_BYTES + 17] {
            let store = open(folder.path(), None).await;
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let hash = Hash::of(&bytes);
            assert_eq!(store.length(&hash).await.expect("readable"), None);
            assert!(matches!(store.get(&hash).await, Err(BlobError::Unknown(h)) if h == hash));
            assert_eq!(upload(&store, hash, &bytes).await.expect("room"), length as u64);
            assert_eq!(upload(&store, hash, &bytes).await.expect("again changes nothing"), length as u64);
            // A store that was not there when it was written finds it on disk.
            let reopened = open(folder.path(), None).await;
            assert_eq!(reopened.known_length(&hash), None);
            assert_eq!(reopened.length(&hash).await.expect("readable"), Some(length as u64));
            assert_eq!(reopened.get(&hash).await.expect("there"), bytes);
            assert_eq!(reopened.total_bytes(), store.total_bytes());
            if length > 100 {
                let range = GetRange::Bounded(10..90);
                let reader = reopened.read(&hash, Some(range)).await.expect("there");
                assert_eq!((reader.length, reader.range.clone()), (length as u64, 10..90));
                assert_eq!(reader.bytes().await.expect("there"), bytes[10..90]);
            }
        }
    }

    #[tokio::test]
    async fn several_are_stored_at_once_and_equal_ones_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(folder.path(), None).await;
        let blobs: Vec<Bytes> = (0..100u8).map(|n| vec![n / 2; 10].into()).collect();
        let hashes = store.put_all(blobs.clone()).await.expect("room");
        assert_eq!(hashes, blobs.iter().map(|blob| Hash::of(blob)).collect::<Vec<_>>());
        let store = open(folder.path(), None).await;
        assert_eq!(store.total_bytes(), 500);
        for (hash, bytes) in hashes.iter().zip(&blobs) {
            assert_eq!(store.get(hash).await.expect("there"), bytes);
        }
    }

    #[tokio::test]
    async fn wrong_bytes_leave_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(folder.path(), None).await;
        for length in [10, 3 * PART_BYTES] {
            let wrong = upload(&store, Hash::of(b"something else"), &vec![1; length]).await;
            assert!(matches!(wrong, Err(BlobError::Mismatch { .. })));
        }
        assert!(matches!(
            upload(&store, Hash::of(b"x"), &vec![1; 5_000_001]).await,
            Err(BlobError::TooLarge { bytes_max: 5_000_000 })
        ));
        // One that its sender gives up.
        let mut given_up = store.upload(Hash::of(b"y")).await.expect("begins");
        given_up.write(Bytes::from(vec![1; 2 * PART_BYTES])).await.expect("room");
        drop(given_up);
        assert_eq!(store.total_bytes(), 0);
        let store = open(folder.path(), None).await;
        assert_eq!((files(folder.path()), store.total_bytes()), (0, 0));
    }

    #[tokio::test]
    async fn the_same_bytes_sent_twice_at_once_count_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(folder.path(), None).await;
        let bytes = vec![7; 2 * PART_BYTES];
        let hash = Hash::of(&bytes);
        let results = futures::future::join_all((0..8).map(|_| upload(&store, hash, &bytes))).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(store.total_bytes(), bytes.len() as u64);
        assert_eq!(open(folder.path(), None).await.total_bytes(), bytes.len() as u64);
    }

    #[tokio::test]
    async fn bytes_that_a_disk_changed_are_not_given_out_as_the_blob() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(folder.path(), None).await;
        for length in [100, HASHED_HERE_BYTES_MAX + 1] {
            let mut bytes = vec![3; length];
            let hash = store.put(bytes.clone().into()).await.expect("room");
            bytes[length / 2] ^= 1;
            std::fs::write(folder.path().join(place(&hash).to_string()), &bytes).expect("writable");
            match store.get(&hash).await {
                Err(BlobError::Damaged { blob, found }) => {
                    assert_eq!((blob, found), (hash, Hash::of(&bytes)))
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_full_store_says_so_and_takes_more_once_there_is_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(folder.path(), Some(1000)).await;
        upload(&store, Hash::of(&[1; 600]), &[1; 600]).await.expect("room");
        assert!(matches!(upload(&store, Hash::of(&[2; 600]), &[2; 600]).await, Err(BlobError::Full(_))));
        assert_eq!(store.total_bytes(), 600);
        upload(&store, Hash::of(&[3; 400]), &[3; 400]).await.expect("it still fits");
        store.set_total_bytes_max(None);
        upload(&store, Hash::of(&[2; 600]), &[2; 600]).await.expect("room again");
    }
}
