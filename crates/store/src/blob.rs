//! Blobs by the SHA-256 of their bytes, in an object store: a folder, or S3 and its kin.
//!
//! An upload is hashed while it is written beside its place and moves there only when the hash is right, so that a blob
//! either is there whole or is not there. It is durable before the upload is answered. A bounded memory of the blobs that were
//! seen keeps the question "is it there?" off the disk. With [`BlobKeys`] blobs are encrypted at rest; their names stay the
//! hashes of what they say.
//!
//! What no job needs is removed by [`BlobStore::collect`]. Which blobs are needed is the market's to say; what was stored or
//! asked for of late stays in any case, because a job that names it may be on its way.

mod seal;

use std::{
    collections::HashMap,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload,
    aws::AmazonS3Builder, local::LocalFileSystem, path::Path, prefix::PrefixStore,
};
use protocol::Hash;
use sha2::{Digest, Sha256};

use self::seal::{HEADER_BYTES, Opener, SEALED_FRAME_BYTES, Sealer};
use crate::BlobError;

pub use self::seal::{BlobKeys, BlobKeysError};

/// Bytes gathered before they are written to a folder: what a small upload holds in memory at most.
const PART_BYTES: usize = 1024 * 1024;
/// The same for S3, which takes parts of 5 MiB and more, some of its kin only equal ones.
const S3_PART_BYTES: usize = 8 * 1024 * 1024;
/// Blobs remembered as present, in each of two generations (56 bytes each, so some 15 MB together).
const KNOWN_MAX: usize = 128 * 1024;

/// Bytes that are hashed on the spot; more would keep an async thread busy for longer than a millisecond.
const HASHED_HERE_BYTES_MAX: usize = 256 * 1024;

/// Blobs of one call that are written and synced at the same time.
const SYNCED_AT_ONCE: usize = 16;

/// Age from which a blob that is uploaded again is also stored again: [`BlobStore::collect`] goes by when it was stored.
const STORED_AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// Times a blob is read anew because it was stored again meanwhile.
const READS_MAX: usize = 4;

/// The end of an encrypted blob's name.
const SEALED: &str = ".aes";

/// How blobs are kept.
#[derive(Clone, Debug)]
pub struct BlobOptions {
    /// Where.
    pub place: BlobPlace,
    /// Encrypts what is stored from now on; not when absent.
    pub keys: Option<BlobKeys>,
    /// Most bytes of one blob.
    pub blob_bytes_max: u64,
    /// Most bytes of all together; no limit but the place's when absent. With a limit, or in a folder, all are counted at
    /// the start.
    pub total_bytes_max: Option<u64>,
}

/// Where blobs are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobPlace {
    /// A folder, created if missing.
    Folder(PathBuf),
    /// A bucket of S3 or a service that speaks its protocol.
    S3(S3Options),
}

/// A bucket. Credentials come from the environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, or those of
/// a role (`AWS_WEB_IDENTITY_TOKEN_FILE`, `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`, an instance's metadata).
///
/// Uploads that a crash ended leave parts behind that cost money and are seen nowhere: give the bucket a lifecycle rule that
/// aborts incomplete multipart uploads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// What names begin with, without a slash at the end; nothing when empty.
    pub prefix: String,
    /// The region; `AWS_REGION` or `AWS_DEFAULT_REGION` when absent, and else `us-east-1`.
    pub region: Option<String>,
    /// Where the service is, such as `https://minio.example:9000`; Amazon's when absent.
    pub endpoint: Option<String>,
}

/// An open blob store.
pub struct BlobStore {
    store: Arc<dyn ObjectStore>,
    part_bytes: usize,
    keys: Option<BlobKeys>,
    blob_bytes_max: u64,
    total_bytes_max: AtomicU64,
    /// Bytes stored or about to be.
    total_bytes: AtomicU64,
    known: Mutex<Known>,
    /// Held while an upload takes its place, by the hash's first byte, so that two of the same bytes count once.
    finishing: Box<[tokio::sync::Mutex<()>]>,
}

/// A blob in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its name.
    pub hash: Hash,
    /// Its bytes.
    pub length: u64,
    /// When it was stored, in seconds since 1970.
    pub stored_at_s: u64,
    /// Whether it is encrypted.
    pub is_sealed: bool,
}

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that stay.
    pub kept: u64,
}

/// What a pass over a part of the store encrypted anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Blobs encrypted with the newest key now.
    pub blobs: u64,
    /// Blobs that could not be read, each in the log.
    pub failed: u64,
}

/// Blobs that are there. When the young generation is full it becomes the old one, and the old one is forgotten.
#[derive(Default)]
struct Known {
    young: HashMap<Hash, Seen>,
    old: HashMap<Hash, Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    length: u64,
    stored_at_s: u64,
    /// When somebody last stored it or asked whether it is there.
    asked_at_s: u64,
}

impl Known {
    fn get(&mut self, hash: &Hash) -> Option<&mut Seen> {
        if !self.young.contains_key(hash) {
            let seen = *self.old.get(hash)?;
            self.insert(*hash, seen);
        }
        self.young.get_mut(hash)
    }

    fn insert(&mut self, hash: Hash, seen: Seen) {
        if self.young.len() >= KNOWN_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, seen);
    }

    fn forget(&mut self, hash: &Hash) {
        self.young.remove(hash);
        self.old.remove(hash);
    }
}

/// A blob that is being read.
pub struct BlobReader {
    /// Bytes of the whole blob.
    pub length: u64,
    /// Which of them are read.
    pub range: Range<u64>,
    content: Content,
}

enum Content {
    Plain(object_store::GetResult),
    Sealed(BoxStream<'static, Result<Bytes, BlobError>>),
}

impl BlobReader {
    /// The bytes in pieces.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, BlobError>> + Send + 'static {
        match self.content {
            Content::Plain(result) => result.into_stream().map_err(BlobError::from).boxed(),
            Content::Sealed(stream) => stream,
        }
    }

    /// All the bytes.
    pub async fn bytes(self) -> Result<Bytes, BlobError> {
        match self.content {
            Content::Plain(result) => Ok(result.bytes().await?),
            Content::Sealed(mut stream) => {
                let Some(first) = stream.try_next().await? else { return Ok(Bytes::new()) };
                let mut bytes = BytesMut::from(first);
                while let Some(piece) = stream.try_next().await? {
                    bytes.extend_from_slice(&piece);
                }
                Ok(bytes.freeze())
            }
        }
    }
}

fn io_error(source: std::io::Error) -> BlobError {
    BlobError::Io(object_store::Error::Generic { store: "local folder", source: Box::new(source) })
}

fn place(hash: &Hash, is_sealed: bool) -> Path {
    let name = hash.to_string();
    let end = if is_sealed { SEALED } else { "" };
    Path::from_iter([&name[..2], &format!("{name}{end}")])
}

/// The blob that an object is, if it is one.
fn info(meta: &ObjectMeta) -> Option<BlobInfo> {
    let name = meta.location.filename()?;
    let (name, is_sealed) = match name.strip_suffix(SEALED) {
        Some(name) => (name, true),
        None => (name, false),
    };
    Some(BlobInfo {
        hash: name.parse().ok()?,
        // A damaged one is there all the same.
        length: if is_sealed { seal::length_of(meta.size).unwrap_or(0) } else { meta.size },
        stored_at_s: stored_at_s(meta),
        is_sealed,
    })
}

fn stored_at_s(meta: &ObjectMeta) -> u64 {
    u64::try_from(meta.last_modified.timestamp()).unwrap_or(0)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A bucket, with what the environment says of it.
fn open_s3(
    options: &S3Options,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Arc<dyn ObjectStore>, BlobError> {
    // Its HTTP client takes the process's choice; whoever chose first is right too.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = AmazonS3Builder::new();
    for (name, value) in environment.filter(|(name, _)| name.starts_with("AWS_")) {
        // Others of that prefix are not for this.
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    builder = builder.with_bucket_name(&options.bucket);
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    let store = builder.build()?;
    Ok(if options.prefix.is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, options.prefix.as_str()))
    })
}

impl BlobStore {
    /// Opens the store. Of a folder it removes what uploads left that never ended, and counts what is there.
    pub async fn open(options: BlobOptions) -> Result<Self, BlobError> {
        let (store, total): (Arc<dyn ObjectStore>, _) = match &options.place {
            BlobPlace::Folder(folder) => {
                let path = folder.clone();
                let total = tokio::task::spawn_blocking(move || {
                    std::fs::create_dir_all(&path)?;
                    tidy(&path)
                })
                .await
                .map_err(|panic| io_error(std::io::Error::other(panic)))?
                .map_err(io_error)?;
                let store = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
                (Arc::new(store), Some(total))
            }
            BlobPlace::S3(s3) => {
                let environment = std::env::vars_os()
                    .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
                (open_s3(s3, environment)?, None)
            }
        };
        Self::open_in(store, total, options).await
    }

    /// With the bytes it holds, where they are counted.
    async fn open_in(
        store: Arc<dyn ObjectStore>,
        total: Option<u64>,
        options: BlobOptions,
    ) -> Result<Self, BlobError> {
        let opened = Self {
            store,
            part_bytes: match options.place {
                BlobPlace::Folder(_) => PART_BYTES,
                BlobPlace::S3(_) => S3_PART_BYTES,
            },
            keys: options.keys,
            blob_bytes_max: options.blob_bytes_max,
            total_bytes_max: AtomicU64::new(options.total_bytes_max.unwrap_or(u64::MAX)),
            total_bytes: AtomicU64::new(total.unwrap_or(0)),
            known: Mutex::default(),
            finishing: (0..=u8::MAX).map(|_| tokio::sync::Mutex::default()).collect(),
        };
        if total.is_none() {
            if options.total_bytes_max.is_some() {
                let counted = opened.list().try_fold(0, async |sum, blob| Ok(sum + blob.length)).await?;
                opened.total_bytes.store(counted, Ordering::Relaxed);
            } else {
                // One page: a wrong bucket or credential is found now and not at the first upload.
                opened.list().next().await.transpose()?;
            }
        }
        Ok(opened)
    }

    /// Most bytes of one blob.
    pub fn blob_bytes_max(&self) -> u64 {
        self.blob_bytes_max
    }

    /// Bytes of all blobs together; of a bucket without a limit, what came since the start.
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
        let Some((blob, _)) = self.find(hash).await? else { return Ok(None) };
        self.remember(*hash, blob.length, blob.stored_at_s);
        Ok(Some(blob.length))
    }

    /// The length of a blob that this store remembers; says nothing about the others.
    pub fn known_length(&self, hash: &Hash) -> Option<u64> {
        let mut known = self.known();
        let seen = known.get(hash)?;
        seen.asked_at_s = now_s();
        Some(seen.length)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn remember(&self, hash: Hash, length: u64, stored_at_s: u64) {
        self.known().insert(hash, Seen { length, stored_at_s, asked_at_s: now_s() });
    }

    /// The two ways a blob may be stored, the more likely first.
    fn ways(&self) -> [bool; 2] {
        [self.keys.is_some(), self.keys.is_none()]
    }

    /// Looks for a blob.
    async fn find(&self, hash: &Hash) -> Result<Option<(BlobInfo, ObjectMeta)>, BlobError> {
        for is_sealed in self.ways() {
            match self.store.head(&place(hash, is_sealed)).await {
                Ok(meta) => {
                    if is_sealed && self.keys.is_none() {
                        return Err(BlobError::NoKey { blob: *hash, key: None });
                    }
                    if is_sealed && seal::length_of(meta.size).is_none() {
                        return Err(BlobError::Truncated { blob: *hash });
                    }
                    return Ok(info(&meta).map(|blob| (blob, meta)));
                }
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Opens a blob for reading: all of it, or a range that is cut at its end.
    pub async fn read(&self, hash: &Hash, range: Option<GetRange>) -> Result<BlobReader, BlobError> {
        for is_sealed in self.ways() {
            let found = match (is_sealed, &self.keys) {
                (false, _) => self.read_plain(hash, range.clone()).await,
                (true, Some(keys)) => self.read_sealed(hash, range.as_ref(), keys).await,
                // To say why.
                (true, None) => self.find(hash).await.map(|_| None),
            };
            if let Some(reader) = found? {
                return Ok(reader);
            }
        }
        Err(BlobError::Unknown(*hash))
    }

    async fn read_plain(
        &self,
        hash: &Hash,
        range: Option<GetRange>,
    ) -> Result<Option<BlobReader>, BlobError> {
        let options = GetOptions { range, ..GetOptions::default() };
        match self.store.get_opts(&place(hash, false), options).await {
            Ok(result) => Ok(Some(BlobReader {
                length: result.meta.size,
                range: result.range.clone(),
                content: Content::Plain(result),
            })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn read_sealed(
        &self,
        hash: &Hash,
        range: Option<&GetRange>,
        keys: &BlobKeys,
    ) -> Result<Option<BlobReader>, BlobError> {
        let place = place(hash, true);
        // Most blobs are small: the header and the first frame come together.
        let head = 0..(HEADER_BYTES + SEALED_FRAME_BYTES) as u64;
        for _ in 0..READS_MAX {
            let options = GetOptions::new().with_range(Some(GetRange::Bounded(head.clone())));
            let found = match self.store.get_opts(&place, options).await {
                Ok(found) => found,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                // An empty object has no first byte.
                Err(error) => {
                    return Err(match self.store.head(&place).await {
                        Ok(meta) if meta.size == 0 => BlobError::Truncated { blob: *hash },
                        _ => error.into(),
                    });
                }
            };
            let (size, e_tag) = (found.meta.size, found.meta.e_tag.clone());
            let first = found.bytes().await?;
            let length = seal::length_of(size).ok_or(BlobError::Truncated { blob: *hash })?;
            let mut opener = Opener::new(keys, hash, &first, length)?;
            let range = match range {
                None => 0..length,
                Some(range) => range.as_range(length).map_err(|source| object_store::Error::Generic {
                    store: "sealed blob",
                    source: source.into(),
                })?,
            };
            let (begin, skip) = opener.seek(range.start);
            // An empty blob has a frame too, and it vouches for being empty.
            let end = seal::stored_end(range.end.max(1), length);
            let stored = if end <= first.len() as u64 {
                futures::stream::iter([Ok(first.slice(begin as usize..end as usize))]).boxed()
            } else {
                let options = GetOptions::new()
                    .with_range(Some(GetRange::Bounded(begin..end)))
                    // Stored again meanwhile it has another key.
                    .with_if_match(e_tag);
                match self.store.get_opts(&place, options).await {
                    Ok(rest) => rest.into_stream().boxed(),
                    Err(object_store::Error::Precondition { .. }) => continue,
                    Err(object_store::Error::NotFound { .. }) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            };
            let frames = Frames {
                blob: *hash,
                opener,
                stored,
                buffer: BytesMut::new(),
                skip,
                left: range.end - range.start,
                has_more: true,
            };
            return Ok(Some(BlobReader { length, range, content: Content::Sealed(frames.into_stream()) }));
        }
        Err(BlobError::Io(object_store::Error::Generic {
            store: "sealed blob",
            source: "it was stored again each time it was read".into(),
        }))
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
        let mut gathered = BytesMut::new();
        Ok(BlobUpload {
            store: self,
            expected: hash,
            hasher: Sha256::new(),
            sealer: self.keys.as_ref().map(|keys| Sealer::new(keys, &hash, &mut gathered)),
            gathered,
            length: 0,
            reserved: 0,
            replaces: false,
            parts: None,
        })
    }

    /// All blobs, in no order.
    pub fn list(&self) -> BoxStream<'_, Result<BlobInfo, BlobError>> {
        self.list_below(None)
    }

    fn list_below(&self, shard: Option<u8>) -> BoxStream<'_, Result<BlobInfo, BlobError>> {
        let folder = shard.map(|shard| Path::from(format!("{shard:02x}")));
        self.store
            .list(folder.as_ref())
            .map_err(BlobError::from)
            .try_filter_map(async |meta| Ok(info(&meta)))
            .boxed()
    }

    /// Removes a blob. False if it was not there.
    pub async fn delete(&self, hash: &Hash) -> Result<bool, BlobError> {
        let _turn = self.turn(hash).await;
        Ok(self.delete_in_turn(hash).await?.is_some())
    }

    async fn turn(&self, hash: &Hash) -> tokio::sync::MutexGuard<'_, ()> {
        self.finishing[usize::from(hash.0[0])].lock().await
    }

    /// Its length, if it was there.
    async fn delete_in_turn(&self, hash: &Hash) -> Result<Option<u64>, BlobError> {
        self.known().forget(hash);
        let mut deleted = None;
        for is_sealed in self.ways() {
            let place = place(hash, is_sealed);
            let meta = match self.store.head(&place).await {
                Ok(meta) => meta,
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            match self.store.delete(&place).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let length = info(&meta).map_or(0, |blob| blob.length);
            self.unreserve(length);
            deleted = Some(length);
        }
        Ok(deleted)
    }

    /// Removes the blobs that are not to be kept, and that nobody stored or asked this store for during the last `age_min`.
    /// `keep` should have been asked of the market after the collection was decided on, and `age_min` be longer than both the
    /// collection and the time from an upload to the job that needs it.
    pub async fn collect(
        &self,
        age_min: Duration,
        keep: impl Fn(&Hash) -> bool,
    ) -> Result<Collected, BlobError> {
        let newest_s = now_s().saturating_sub(age_min.as_secs());
        let mut collected = Collected::default();
        for shard in 0..=u8::MAX {
            // Gathered first: what is removed under a listing may confuse it.
            let blobs: Vec<BlobInfo> = self.list_below(Some(shard)).try_collect().await?;
            for blob in blobs {
                if blob.stored_at_s >= newest_s || keep(&blob.hash) {
                    collected.kept += 1;
                    continue;
                }
                let _turn = self.turn(&blob.hash).await;
                let is_wanted = self
                    .known()
                    .get(&blob.hash)
                    .is_some_and(|seen| seen.asked_at_s.max(seen.stored_at_s) >= newest_s);
                if is_wanted {
                    collected.kept += 1;
                } else if let Some(bytes) = self.delete_in_turn(&blob.hash).await? {
                    collected.blobs += 1;
                    collected.bytes += bytes;
                }
            }
        }
        Ok(collected)
    }

    /// Encrypts the blobs whose hash begins with this byte with the newest key, where they are not yet: call it for every byte,
    /// at leisure. It reads and writes one blob at a time. Without keys it does nothing.
    pub async fn reseal(&self, shard: u8) -> Result<Resealed, BlobError> {
        let mut resealed = Resealed::default();
        let Some(keys) = &self.keys else { return Ok(resealed) };
        let blobs: Vec<BlobInfo> = self.list_below(Some(shard)).try_collect().await?;
        for blob in blobs {
            match self.reseal_blob(&blob, keys).await {
                Ok(changed) => resealed.blobs += u64::from(changed),
                // Deleted meanwhile.
                Err(BlobError::Unknown(_)) => {}
                Err(error @ (BlobError::Full(_) | BlobError::Io(_))) => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "a blob cannot be encrypted with the newest key");
                    resealed.failed += 1;
                }
            }
        }
        Ok(resealed)
    }

    async fn reseal_blob(&self, blob: &BlobInfo, keys: &BlobKeys) -> Result<bool, BlobError> {
        if blob.is_sealed {
            let header = 0..HEADER_BYTES as u64;
            match self.store.get_range(&place(&blob.hash, true), header).await {
                Ok(header) if keys.is_newest(&header) => return Ok(false),
                Ok(_) => {}
                Err(object_store::Error::NotFound { .. }) => return Ok(false),
                Err(_) if blob.length == 0 => return Err(BlobError::Truncated { blob: blob.hash }),
                Err(error) => return Err(error.into()),
            }
        }
        let mut upload = self.upload(blob.hash).await?;
        upload.replaces = true;
        let mut stream = self.read(&blob.hash, None).await?.into_stream();
        while let Some(piece) = stream.try_next().await? {
            upload.write(piece).await?;
        }
        upload.finish().await?;
        Ok(true)
    }

    /// How a blob is stored that is about to be stored again.
    async fn stored_before(&self, hash: &Hash, replaces: bool) -> Result<Option<Before>, BlobError> {
        let is_fresh = |stored_at_s: u64| now_s().saturating_sub(stored_at_s) < STORED_AGAIN_AFTER.as_secs();
        if !replaces && self.known().get(hash).is_some_and(|s| is_fresh(s.stored_at_s)) {
            return Ok(Some(Before::Same));
        }
        let found = match self.find(hash).await {
            // What cannot be read is stored anew.
            Err(BlobError::Truncated { .. } | BlobError::NoKey { .. }) => return Ok(Some(Before::Stale)),
            found => found?,
        };
        let Some((blob, _)) = found else { return Ok(None) };
        Ok(Some(if blob.is_sealed != self.keys.is_some() {
            Before::OtherWay
        } else if replaces || !is_fresh(blob.stored_at_s) {
            Before::Stale
        } else {
            self.remember(blob.hash, blob.length, blob.stored_at_s);
            Before::Same
        }))
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
        // What was there before the start of a bucket's count may make it fall below nothing.
        let _ = self
            .total_bytes
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |total| Some(total.saturating_sub(bytes)));
    }
}

/// The frames of a range on their way out.
struct Frames {
    blob: Hash,
    opener: Opener,
    stored: BoxStream<'static, Result<Bytes, object_store::Error>>,
    buffer: BytesMut,
    /// Bytes of the first frame that are before the range.
    skip: usize,
    /// Bytes of the range to come.
    left: u64,
    has_more: bool,
}

impl Frames {
    fn into_stream(self) -> BoxStream<'static, Result<Bytes, BlobError>> {
        futures::stream::try_unfold(self, async |mut frames| {
            let piece = frames.next().await?;
            Ok(piece.map(|piece| (piece, frames)))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if !self.has_more {
            return Ok(None);
        }
        let needed = self.opener.frame_bytes();
        while self.buffer.len() < needed {
            match self.stored.try_next().await? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => return Err(BlobError::Truncated { blob: self.blob }),
            }
        }
        let mut plain = self.opener.open(self.buffer.split_to(needed))?;
        let mut piece = plain.split_off(self.skip);
        self.skip = 0;
        piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= piece.len() as u64;
        self.has_more = self.left > 0;
        Ok(Some(piece.freeze()))
    }
}

/// An upload under way.
pub struct BlobUpload<'a> {
    store: &'a BlobStore,
    expected: Hash,
    hasher: Sha256,
    sealer: Option<Sealer>,
    /// What is to be stored and is not yet.
    gathered: BytesMut,
    length: u64,
    /// Counted in the store's total; given back unless the upload is finished.
    reserved: u64,
    /// Whether it takes the place of the same blob, stored otherwise: it counts already.
    replaces: bool,
    parts: Option<Box<dyn MultipartUpload>>,
}

impl BlobUpload<'_> {
    /// Adds bytes.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        let added = bytes.len() as u64;
        let bytes_max = self.store.blob_bytes_max;
        if !self.replaces {
            if self.length.checked_add(added).is_none_or(|length| length > bytes_max) {
                self.abort().await;
                return Err(BlobError::TooLarge { bytes_max });
            }
            if let Err(full) = self.store.reserve(added) {
                self.abort().await;
                return Err(full);
            }
            self.reserved += added;
        }
        self.length += added;
        self.hasher.update(&bytes);
        match &mut self.sealer {
            Some(sealer) => sealer.write(&bytes, &mut self.gathered),
            None => self.gathered.extend_from_slice(&bytes),
        }
        // Parts of equal length, and something left for the last.
        while self.gathered.len() > self.store.part_bytes {
            let part = self.gathered.split_to(self.store.part_bytes);
            if let Err(error) = self.store_part(part.freeze()).await {
                self.abort().await;
                return Err(error);
            }
        }
        Ok(())
    }

    async fn store_part(&mut self, part: Bytes) -> Result<(), BlobError> {
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => none.insert(
                self.store.store.put_multipart(&place(&self.expected, self.store.keys.is_some())).await?,
            ),
        };
        parts.put_part(PutPayload::from_bytes(part)).await?;
        Ok(())
    }

    /// Checks the hash and makes the blob durable. Returns its length.
    pub async fn finish(mut self) -> Result<u64, BlobError> {
        let found = Hash(std::mem::take(&mut self.hasher).finalize().into());
        if found != self.expected {
            self.abort().await;
            return Err(BlobError::Mismatch { expected: self.expected, found });
        }
        let store = self.store;
        let _turn = store.turn(&found).await;
        let before = match store.stored_before(&found, self.replaces).await {
            // The same bytes again change nothing.
            Ok(Some(Before::Same)) => {
                self.abort().await;
                return Ok(self.length);
            }
            Ok(before) => before,
            Err(error) => {
                self.abort().await;
                return Err(error);
            }
        };
        if let Some(sealer) = self.sealer.take() {
            sealer.finish(&mut self.gathered);
        }
        if let Err(error) = self.store_rest(&found).await {
            self.abort().await;
            return Err(error);
        }
        self.parts = None;
        store.remember(found, self.length, now_s());
        if before.is_none() {
            self.reserved = 0;
        }
        if before == Some(Before::OtherWay) {
            // The blob is there twice until this is done, which does no harm but takes room.
            match store.store.delete(&place(&found, store.keys.is_none())).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!(%error, "an unencrypted copy of a blob is left"),
            }
        }
        Ok(self.length)
    }

    async fn store_rest(&mut self, hash: &Hash) -> Result<(), BlobError> {
        let rest = self.gathered.split().freeze();
        if self.parts.is_none() && rest.len() <= self.store.part_bytes {
            let place = place(hash, self.store.keys.is_some());
            self.store.store.put(&place, PutPayload::from_bytes(rest)).await?;
            return Ok(());
        }
        let mut rest = rest;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(self.store.part_bytes));
            self.store_part(part).await?;
        }
        if let Some(parts) = self.parts.as_mut() {
            parts.complete().await?;
        }
        Ok(())
    }

    async fn abort(&mut self) {
        if let Some(mut parts) = self.parts.take() {
            // What stays behind in a folder is removed when the store is opened again.
            let _ = parts.abort().await;
        }
    }
}

/// How a blob was stored before it was uploaded again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// As it would be now, and not long ago.
    Same,
    /// Long ago, or so that it cannot be read.
    Stale,
    /// Encrypted now and not before, or before and not now.
    OtherWay,
}

impl Drop for BlobUpload<'_> {
    fn drop(&mut self) {
        self.store.unreserve(self.reserved);
        if let Some(mut parts) = self.parts.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { parts.abort().await });
        }
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
            continue;
        }
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.contains('#') {
            std::fs::remove_file(entry.path())?;
        } else if name.ends_with(SEALED) {
            total += seal::length_of(meta.len()).unwrap_or(0);
        } else {
            total += meta.len();
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW_KEY: &str = "f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    async fn open_with(folder: &std::path::Path, keys: &str) -> BlobStore {
        let options = BlobOptions {
            place: BlobPlace::Folder(folder.to_owned()),
            keys: (!keys.is_empty()).then(|| BlobKeys::parse(keys).expect("keys")),
            blob_bytes_max: 5_000_000,
            total_bytes_max: None,
        };
        BlobStore::open(options).await.expect("opens")
    }

    async fn open(folder: &std::path::Path, total_bytes_max: Option<u64>) -> BlobStore {
        let options = BlobOptions {
            place: BlobPlace::Folder(folder.to_owned()),
            keys: None,
            blob_bytes_max: 5_000_000,
            total_bytes_max,
        };
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
            std::fs::write(folder.path().join(place(&hash, false).to_string()), &bytes).expect("writable");
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

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i % 251) as u8).collect()
    }

    /// Makes what is stored look as if it was stored long ago.
    fn age(folder: &std::path::Path, blob: &Hash) {
        for is_sealed in [false, true] {
            if let Ok(file) =
                std::fs::File::options().write(true).open(folder.join(place(blob, is_sealed).to_string()))
            {
                file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000)).expect("times are set");
            }
        }
    }

    #[tokio::test]
    async fn sealed_blobs_and_their_ranges_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let frame = 64 * 1024;
        for length in [0, 1, 300, frame - 1, frame, frame + 1, 2 * frame, PART_BYTES, 3 * PART_BYTES + 17] {
            let store = open_with(folder.path(), NEW_KEY).await;
            let bytes = pattern(length);
            let hash = Hash::of(&bytes);
            assert_eq!(store.length(&hash).await.expect("readable"), None);
            assert_eq!(upload(&store, hash, &bytes).await.expect("room"), length as u64);
            let stored = std::fs::read(folder.path().join(place(&hash, true).to_string())).expect("stored");
            assert!(length < 300 || !stored.windows(16).any(|window| window == &bytes[..16]), "in clear");
            let reopened = open_with(folder.path(), NEW_KEY).await;
            assert_eq!(reopened.length(&hash).await.expect("readable"), Some(length as u64));
            assert_eq!(reopened.total_bytes(), store.total_bytes());
            assert_eq!(reopened.get(&hash).await.expect("there"), bytes);
            let ends = [1, 100, frame - 1, frame, frame + 1, frame + 100, length];
            for start in [0, 1, 99, frame - 1, frame, 2 * frame + 5, length.saturating_sub(1)] {
                for end in ends.into_iter().filter(|&end| start < end && start < length) {
                    let range = start as u64..end as u64;
                    let reader = reopened.read(&hash, Some(GetRange::Bounded(range))).await.expect("there");
                    let end = end.min(length);
                    assert_eq!(
                        (reader.length, reader.range.clone()),
                        (length as u64, start as u64..end as u64)
                    );
                    assert_eq!(
                        reader.bytes().await.expect("there"),
                        bytes[start..end],
                        "{length} {start} {end}"
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn whatever_is_done_to_a_sealed_blob_is_found_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open_with(folder.path(), NEW_KEY).await;
        let length = 200_000;
        let hash = store.put(pattern(length).into()).await.expect("room");
        let other = store.put(vec![9; length].into()).await.expect("room");
        let path = |hash: &Hash| folder.path().join(place(hash, true).to_string());
        let stored = std::fs::read(path(&hash)).expect("stored");
        let others = std::fs::read(path(&other)).expect("stored");
        let frame = HEADER_BYTES..HEADER_BYTES + SEALED_FRAME_BYTES;
        let flipped = |at: usize| {
            let mut bytes = stored.clone();
            bytes[at] ^= 1;
            bytes
        };
        let cut = |end: usize| stored[..end].to_vec();
        let swapped = [&stored[..frame.start], &others[frame.start..]].concat();
        let mut moved = stored.clone();
        moved.copy_within(frame.clone(), frame.end);
        for (what, bytes) in [
            ("magic", flipped(0)),
            ("nonce", flipped(20)),
            ("key", flipped(40)),
            ("a frame", flipped(frame.start + 5)),
            ("a tag", flipped(frame.end - 1)),
            ("the end", flipped(stored.len() - 1)),
            ("a missing frame", [&stored[..frame.start], &stored[frame.end..]].concat()),
            ("a missing end", cut(stored.len() - 1)),
            ("missing last frame", cut(frame.start + 3 * SEALED_FRAME_BYTES)),
            ("a frame moved", moved),
            ("another's frames", swapped),
            ("another blob", others.clone()),
            ("a longer one", [&stored[..], &[0]].concat()),
        ] {
            std::fs::write(path(&hash), bytes).expect("writable");
            let store = open_with(folder.path(), NEW_KEY).await;
            let got = store.get(&hash).await;
            assert!(
                matches!(got, Err(BlobError::Tampered { .. } | BlobError::Truncated { .. })),
                "{what}: {:?}",
                got.map(|bytes| bytes.len())
            );
        }
        for end in [0, 10, HEADER_BYTES, HEADER_BYTES + 5] {
            std::fs::write(path(&hash), cut(end)).expect("writable");
            let store = open_with(folder.path(), NEW_KEY).await;
            assert!(matches!(store.get(&hash).await, Err(BlobError::Truncated { .. })), "{end}");
            assert!(matches!(store.length(&hash).await, Err(BlobError::Truncated { .. })), "{end}");
        }
        // Whoever has the bytes puts it right by sending them again.
        let store = open_with(folder.path(), NEW_KEY).await;
        store.put(pattern(length).into()).await.expect("room");
        assert_eq!(store.get(&hash).await.expect("whole again"), pattern(length));
        assert!(matches!(flipped(9).get(8..16), Some(id) if id != &stored[8..16]));
        std::fs::write(path(&hash), flipped(9)).expect("writable");
        let store = open_with(folder.path(), NEW_KEY).await;
        assert!(matches!(store.get(&hash).await, Err(BlobError::NoKey { key: Some(_), .. })));
    }

    #[tokio::test]
    async fn keys_rotate_and_nothing_has_to_be_rewritten_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs: Vec<Vec<u8>> = [0, 10, 100_000, 2_500_000].into_iter().map(pattern).collect();
        let (plain, old): (Vec<_>, Vec<_>) = (vec![&blobs[0], &blobs[2]], vec![&blobs[1], &blobs[3]]);
        let none = open_with(folder.path(), "").await;
        for bytes in &plain {
            none.put(bytes.to_vec().into()).await.expect("room");
        }
        let first = open_with(folder.path(), OLD_KEY).await;
        for bytes in &old {
            first.put(bytes.to_vec().into()).await.expect("room");
        }
        // Without the key it says that it lacks it, and not that there is nothing.
        let hash = Hash::of(old[0]);
        assert!(matches!(none.length(&hash).await, Err(BlobError::NoKey { .. })));
        let stranger = open_with(folder.path(), NEW_KEY).await;
        assert!(matches!(stranger.get(&hash).await, Err(BlobError::NoKey { key: Some(_), .. })));

        let both = open_with(folder.path(), &format!("{OLD_KEY}\n{NEW_KEY}")).await;
        let total = both.total_bytes();
        for bytes in &blobs {
            assert_eq!(both.get(&Hash::of(bytes)).await.expect("readable"), bytes[..]);
        }
        let mut resealed = 0;
        for shard in 0..=u8::MAX {
            let done = both.reseal(shard).await.expect("room");
            assert_eq!(done.failed, 0);
            resealed += done.blobs;
        }
        assert_eq!(resealed, 4);
        assert_eq!(both.reseal(hash.0[0]).await.expect("nothing to do"), Resealed::default());
        assert_eq!(both.total_bytes(), total);
        // The old key can go now.
        let new = open_with(folder.path(), NEW_KEY).await;
        assert_eq!(new.total_bytes(), total);
        for bytes in &blobs {
            assert_eq!(new.get(&Hash::of(bytes)).await.expect("readable"), bytes[..]);
        }
        let listed: Vec<BlobInfo> = new.list().try_collect().await.expect("readable");
        assert!(listed.len() == 4 && listed.iter().all(|blob| blob.is_sealed), "{listed:?}");
    }

    #[tokio::test]
    async fn what_nobody_needs_is_collected_and_what_is_new_stays() {
        for keys in ["", NEW_KEY] {
            let folder = tempfile::tempdir().expect("a folder");
            let store = open_with(folder.path(), keys).await;
            let mut hashes = Vec::new();
            for n in 0..6_u8 {
                hashes.push(store.put(vec![n; 100].into()).await.expect("room"));
            }
            let [kept, new, asked, again, gone, deleted] = hashes[..] else { unreachable!() };
            for hash in [kept, asked, again, gone] {
                age(folder.path(), &hash);
            }
            let store = open_with(folder.path(), keys).await;
            assert!(store.delete(&deleted).await.expect("there"));
            assert!(!store.delete(&deleted).await.expect("not there"));
            assert_eq!(store.length(&asked).await.expect("readable"), Some(100));
            store.put(vec![3; 100].into()).await.expect("room");
            assert_eq!(store.total_bytes(), 500);
            let collected =
                store.collect(Duration::from_secs(600), |hash| *hash == kept).await.expect("works");
            assert_eq!(collected, Collected { blobs: 1, bytes: 100, kept: 4 });
            assert_eq!(store.total_bytes(), 400);
            for (hash, expected) in
                [(kept, true), (new, true), (asked, true), (again, true), (gone, false), (deleted, false)]
            {
                assert_eq!(store.length(&hash).await.expect("readable").is_some(), expected);
            }
            // Stored again it counts as new, whoever asks.
            let elsewhere = open_with(folder.path(), keys).await;
            let collected = elsewhere.collect(Duration::from_secs(600), |_| false).await.expect("works");
            assert_eq!((collected.blobs, collected.kept), (2, 2));
            assert!(elsewhere.length(&again).await.expect("readable").is_some());
        }
    }

    /// A server of S3's protocol that keeps its buckets in a folder and knows one user.
    async fn s3_server(folder: &std::path::Path) -> std::net::SocketAddr {
        std::fs::create_dir_all(folder.join("plexus")).expect("a bucket");
        let mut builder =
            s3s::service::S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).expect("a folder"));
        builder.set_auth(s3s::auth::SimpleAuth::from_single("ada", "secret"));
        let service = builder.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(socket), service.clone());
                tokio::spawn(connection);
            }
        });
        address
    }

    async fn open_bucket(
        server: std::net::SocketAddr,
        bucket: &str,
        secret: &str,
        keys: &str,
    ) -> Result<BlobStore, BlobError> {
        let s3 = S3Options {
            bucket: bucket.into(),
            prefix: "market/blobs".into(),
            region: None,
            endpoint: Some(format!("http://{server}")),
        };
        let environment = [
            ("AWS_ACCESS_KEY_ID", "ada"),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_EC2_METADATA_DISABLED", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let store = open_s3(&s3, environment.into_iter())?;
        let options = BlobOptions {
            place: BlobPlace::S3(s3),
            keys: (!keys.is_empty()).then(|| BlobKeys::parse(keys).expect("keys")),
            blob_bytes_max: 50_000_000,
            total_bytes_max: Some(1 << 40),
        };
        BlobStore::open_in(store, None, options).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_bucket_does_what_a_folder_does() {
        for keys in ["", NEW_KEY] {
            let folder = tempfile::tempdir().expect("a folder");
            let server = s3_server(folder.path()).await;
            let open = || open_bucket(server, "plexus", "secret", keys);
            let mut total = 0;
            for length in [0, 1, 70_000, S3_PART_BYTES, S3_PART_BYTES + 17] {
                let store = open().await.expect("opens");
                let bytes = pattern(length);
                let hash = Hash::of(&bytes);
                assert_eq!(store.length(&hash).await.expect("readable"), None);
                assert!(matches!(store.get(&hash).await, Err(BlobError::Unknown(h)) if h == hash));
                assert_eq!(upload(&store, hash, &bytes).await.expect("room"), length as u64);
                assert_eq!(upload(&store, hash, &bytes).await.expect("again"), length as u64);
                total += length as u64;
                let reopened = open().await.expect("opens");
                assert_eq!(reopened.length(&hash).await.expect("readable"), Some(length as u64));
                assert_eq!((reopened.total_bytes(), store.total_bytes()), (total, total));
                assert_eq!(reopened.get(&hash).await.expect("there"), bytes);
                if length > 100 {
                    let (start, end) = (length / 2, length - 3);
                    let range = GetRange::Bounded(start as u64..end as u64);
                    let reader = reopened.read(&hash, Some(range)).await.expect("there");
                    assert_eq!(reader.length, length as u64);
                    assert_eq!(reader.bytes().await.expect("there"), bytes[start..end]);
                }
                let wrong = upload(&store, Hash::of(b"something else"), &bytes).await;
                assert!(matches!(wrong, Err(BlobError::Mismatch { .. })));
            }
            let store = open().await.expect("opens");
            let listed: Vec<BlobInfo> = store.list().try_collect().await.expect("readable");
            assert_eq!(listed.iter().map(|blob| blob.length).sum::<u64>(), total);
            assert!(listed.len() == 5 && listed.iter().all(|blob| blob.is_sealed != keys.is_empty()));
            let (kept, gone) = (Hash::of(&pattern(1)), Hash::of(&pattern(70_000)));
            for hash in [kept, gone] {
                age(&folder.path().join("plexus/market/blobs"), &hash);
            }
            let collected =
                store.collect(Duration::from_secs(600), |hash| *hash == kept).await.expect("works");
            assert_eq!(collected, Collected { blobs: 1, bytes: 70_000, kept: 4 });
            assert_eq!(store.length(&gone).await.expect("readable"), None);
            assert!(store.delete(&kept).await.expect("there"));
            assert!(!store.delete(&kept).await.expect("gone"));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_bucket_that_cannot_be_used_is_found_at_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let server = s3_server(folder.path()).await;
        for (bucket, secret) in [("missing", "secret"), ("plexus", "wrong")] {
            let opened = open_bucket(server, bucket, secret, "").await;
            assert!(matches!(opened, Err(BlobError::Io(_))), "{bucket}");
        }
    }
}
