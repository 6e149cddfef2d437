//! Blobs at hand: in memory while they are used, on disk between runs. Both are bounded, and what comes from either place
//! or from the market is checked against its hash. Workers of one user may share the folder: files appear whole or not at
//! all, and a file that another worker removed is only a miss.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::SystemTime,
};

use bytes::Bytes;
use client::Client;
use protocol::Hash;

/// Where blobs are kept and how many.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// The folder; none keeps nothing on disk.
    pub dir: Option<PathBuf>,
    /// Bytes on disk, of all workers that share the folder.
    pub disk_bytes_max: u64,
    /// Bytes in memory, beside those in use.
    pub memory_bytes_max: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { dir: None, disk_bytes_max: 2 << 30, memory_bytes_max: 256 << 20 }
    }
}

/// The cache of one worker.
pub(crate) struct Cache {
    config: CacheConfig,
    memory: Mutex<Memory>,
    /// One fetch a blob at a time: a second wanter waits and then finds it.
    fetching: Mutex<HashMap<Hash, Weak<tokio::sync::Mutex<()>>>>,
}

#[derive(Default)]
struct Memory {
    blobs: HashMap<Hash, (Bytes, u64)>,
    /// Blobs by when they were last used, oldest first.
    order: BTreeMap<u64, Hash>,
    clock: u64,
    bytes: u64,
}

impl Cache {
    pub(crate) fn new(config: CacheConfig) -> Self {
        if let Some(dir) = &config.dir
            && let Err(error) = std::fs::create_dir_all(dir)
        {
            tracing::warn!(dir = %dir.display(), %error, "blobs will not be kept on disk");
        }
        Self { config, memory: Mutex::default(), fetching: Mutex::default() }
    }

    /// The blob, from memory, disk or the market, in this order.
    pub(crate) async fn get(
        &self,
        market: &Client,
        blob: &Hash,
        length_max: u64,
    ) -> Result<Bytes, client::Error> {
        if let Some(bytes) = self.in_memory(blob) {
            return Ok(bytes);
        }
        let lock = self.fetch_lock(blob);
        let _fetching = lock.lock().await;
        if let Some(bytes) = self.in_memory(blob) {
            return Ok(bytes);
        }
        if let Some(bytes) = self.on_disk(blob).await {
            self.keep_in_memory(blob, &bytes);
            return Ok(bytes);
        }
        let bytes = market.blob(blob, length_max).await?;
        self.keep_in_memory(blob, &bytes);
        self.keep_on_disk(blob, &bytes).await;
        Ok(bytes)
    }

    /// The length of a blob in memory.
    pub(crate) fn length(&self, blob: &Hash) -> Option<u64> {
        self.in_memory(blob).map(|bytes| bytes.len() as u64)
    }

    fn fetch_lock(&self, blob: &Hash) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        fetching.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = fetching.get(blob).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        fetching.insert(*blob, Arc::downgrade(&lock));
        lock
    }

    fn in_memory(&self, blob: &Hash) -> Option<Bytes> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.touch(blob)
    }

    fn keep_in_memory(&self, blob: &Hash, bytes: &Bytes) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.insert(*blob, bytes.clone(), self.config.memory_bytes_max);
    }

    async fn on_disk(&self, blob: &Hash) -> Option<Bytes> {
        let path = self.config.dir.as_ref()?.join(blob.to_string());
        let blob = *blob;
        tokio::task::spawn_blocking(move || {
            let bytes = std::fs::read(&path).ok()?;
            if Hash::of(&bytes) != blob {
                tracing::warn!(path = %path.display(), "a cached blob was damaged; fetching it again");
                let _ = std::fs::remove_file(&path);
                return None;
            }
            // Its time of change is when it was last used: that is what eviction goes by.
            let _ = std::fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
            Some(Bytes::from(bytes))
        })
        .await
        .ok()?
    }

    /// A full or read-only disk makes the cache useless, not the worker.
    async fn keep_on_disk(&self, blob: &Hash, bytes: &Bytes) {
        let Some(dir) = self.config.dir.clone() else { return };
        let (blob, bytes, bytes_max) = (*blob, bytes.clone(), self.config.disk_bytes_max);
        let kept = tokio::task::spawn_blocking(move || {
            if bytes.len() as u64 > bytes_max {
                return Ok(());
            }
            make_room(&dir, bytes_max - bytes.len() as u64)?;
            let mut unique = [0; 8];
            getrandom::fill(&mut unique).map_err(|error| io::Error::other(error.to_string()))?;
            let partial = dir.join(format!("{blob}.{}.partial", hex::encode(unique)));
            let written = std::fs::write(&partial, &bytes)
                .and_then(|()| std::fs::rename(&partial, dir.join(blob.to_string())));
            if written.is_err() {
                let _ = std::fs::remove_file(&partial);
            }
            written
        });
        if let Ok(Err(error)) = kept.await {
            tracing::debug!(%blob, %error, "not kept on disk");
        }
    }
}

/// Removes the files that were used longest ago until the rest takes at most `bytes_max`.
fn make_room(dir: &Path, bytes_max: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // Another worker may have removed it since.
        if let Ok(facts) = entry.metadata()
            && facts.is_file()
        {
            files.push((facts.modified().unwrap_or(SystemTime::UNIX_EPOCH), facts.len(), entry.path()));
        }
    }
    let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
    files.sort();
    for (_, length, path) in files {
        if total <= bytes_max {
            break;
        }
        let _ = std::fs::remove_file(path);
        total -= length;
    }
    Ok(())
}

impl Memory {
    fn touch(&mut self, blob: &Hash) -> Option<Bytes> {
        let (bytes, used) = self.blobs.get_mut(blob)?;
        self.order.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.order.insert(self.clock, *blob);
        Some(bytes.clone())
    }

    fn insert(&mut self, blob: Hash, bytes: Bytes, bytes_max: u64) {
        if bytes.len() as u64 > bytes_max || self.touch(&blob).is_some() {
            return;
        }
        self.bytes += bytes.len() as u64;
        self.clock += 1;
        self.blobs.insert(blob, (bytes, self.clock));
        self.order.insert(self.clock, blob);
        while self.bytes > bytes_max
            && let Some((_, oldest)) = self.order.pop_first()
            && let Some((bytes, _)) = self.blobs.remove(&oldest)
        {
            self.bytes -= bytes.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_what_was_used_last() {
        let mut memory = Memory::default();
        let blob = |n: u8| (Hash::of(&[n]), Bytes::from(vec![n; 40]));
        for n in 0..2 {
            memory.insert(blob(n).0, blob(n).1, 100);
        }
        assert!(memory.touch(&blob(0).0).is_some());
        memory.insert(blob(2).0, blob(2).1, 100);
        assert!(memory.touch(&blob(0).0).is_some());
        assert!(memory.touch(&blob(1).0).is_none());
        assert_eq!(memory.bytes, 80);
        memory.insert(Hash::of(b"large"), Bytes::from(vec![0; 101]), 100);
        assert_eq!((memory.bytes, memory.order.len()), (80, 2));
    }

    #[tokio::test]
    async fn a_damaged_file_is_a_miss_and_the_folder_stays_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let config =
            CacheConfig { dir: Some(dir.path().to_owned()), disk_bytes_max: 100, memory_bytes_max: 0 };
        let cache = Cache::new(config);
        let bytes = |n: u8| Bytes::from(vec![n; 40]);
        for n in 0..3 {
            cache.keep_on_disk(&Hash::of(&bytes(n)), &bytes(n)).await;
        }
        let kept: u64 =
            std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(kept, 80);
        let last = Hash::of(&bytes(2));
        assert_eq!(cache.on_disk(&last).await, Some(bytes(2)));
        std::fs::write(dir.path().join(last.to_string()), b"damaged").unwrap();
        assert_eq!(cache.on_disk(&last).await, None);
    }
}
