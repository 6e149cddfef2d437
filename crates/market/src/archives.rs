//! Archives of jobs that ended: the leader writes them, and whoever is asked about a job that the state has let go reads them.
//!
//! A job's archive ([`engine::from_archive`]) is stored as a blob before the journal says that the job is archived, so that it can be
//! told about at every moment. It is put together piece by piece: nobody waits for long while a large job is copied.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use engine::{ARCHIVE_PREFIX_BYTES, ArchiveError, Command, Job};
use protocol::{Hash, JobId};
use store::{BlobError, BlobStore, ByteRange};
use tokio::sync::watch;

use crate::{
    committer::{Committer, Refusal},
    failure::{Causes, Failure},
    metrics::Metrics,
};

/// Between two looks for jobs whose time is over.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Jobs archived one after the other without another look.
const AT_ONCE: usize = 100;
/// Units copied while nobody else is served; some milliseconds.
const PIECE_UNITS: u64 = 10_000;
/// Bytes of an archive that are read for its head at first: few heads are longer.
const HEAD_BYTES: u64 = 16 * 1024;
/// Bytes of the archives of which the jobs are kept for the next page of their units.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The blob store failed.
    #[error("cannot read the blob")]
    Blob(#[from] BlobError),
    /// It is none.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The task that decodes it ended.
    #[error("cannot decode it")]
    Task(#[from] tokio::task::JoinError),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Blob(error) => error.into(),
            other => Self::internal(other),
        }
    }
}

/// Reads archives.
pub struct Archives {
    blobs: Arc<BlobStore>,
    /// Jobs that were read whole, the latest last, with the bytes of their archives.
    kept: Mutex<VecDeque<(Hash, usize, Arc<Job>)>>,
}

impl Archives {
    /// Archives in this store.
    pub fn new(blobs: Arc<BlobStore>) -> Self {
        Self { blobs, kept: Mutex::default() }
    }

    /// A job without its results.
    pub async fn head(&self, archive: &Hash) -> Result<Job, ReadError> {
        let read = async |length: u64| -> Result<_, ReadError> {
            Ok(self.blobs.read(archive, Some(ByteRange::Bounded(0..length))).await?.bytes().await?)
        };
        let mut bytes = read(HEAD_BYTES).await?;
        let length = engine::archive_head_bytes(bytes.get(..ARCHIVE_PREFIX_BYTES).unwrap_or_default())?;
        if bytes.len() < length {
            bytes = read(length as u64).await?;
        }
        bytes.truncate(length);
        Ok(engine::from_archive(&bytes)?)
    }

    /// A job with its results.
    pub async fn whole(&self, archive: &Hash) -> Result<Arc<Job>, ReadError> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, job)) = kept().iter().find(|(hash, ..)| hash == archive) {
            return Ok(job.clone());
        }
        let bytes = self.blobs.get(archive).await?;
        let length = bytes.len();
        let job = Arc::new(tokio::task::spawn_blocking(move || engine::from_archive(&bytes)).await??);
        let mut kept = kept();
        kept.push_back((*archive, length, job.clone()));
        while kept.iter().map(|(_, bytes, _)| bytes).sum::<usize>() > KEPT_BYTES_MAX {
            kept.pop_front();
        }
        Ok(job)
    }
}

/// Writes archives.
#[derive(Clone)]
pub struct Archivist {
    /// Knows the jobs and lets them go.
    pub committer: Committer,
    /// Where archives are stored.
    pub blobs: Arc<BlobStore>,
    /// What operators measure.
    pub metrics: Arc<Metrics>,
}

/// Why no more jobs are archived for now.
#[derive(Debug, thiserror::Error)]
pub enum ArchivingError {
    /// The market cannot decide.
    #[error("the market cannot decide: {0:?}")]
    Refused(Refusal),
    /// The blob store failed.
    #[error("cannot store an archive")]
    Blob(#[from] BlobError),
}

impl From<Refusal> for ArchivingError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Archivist {
    /// Archives what is due, again and again while this process leads, until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut standing = self.committer.status().standing.subscribe();
        // Jobs too large for a blob stay where they are.
        let mut too_large = BTreeSet::new();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                leading = standing.wait_for(|standing| standing.leads()) => if leading.is_err() { return },
            }
            if let Err(error) = self.archive_due(&mut too_large).await {
                tracing::warn!(cause = %Causes(&error), "cannot archive jobs that ended");
            }
        }
    }

    /// Archives every job whose time is over; how many they are.
    pub async fn archive(&self) -> Result<usize, ArchivingError> {
        self.archive_due(&mut BTreeSet::new()).await
    }

    async fn archive_due(&self, too_large: &mut BTreeSet<JobId>) -> Result<usize, ArchivingError> {
        let mut archived = 0;
        loop {
            let limit = AT_ONCE + too_large.len();
            let due = self.committer.query(move |state, now_ms| state.archivable(now_ms, limit)).await?;
            let due: Vec<_> = due.into_iter().filter(|(job, _)| !too_large.contains(job)).collect();
            if due.is_empty() {
                return Ok(archived);
            }
            for (job, ended_at_ms) in due {
                match self.archive_one(job, ended_at_ms).await {
                    Ok(()) => {
                        archived += 1;
                        self.metrics.jobs_archived.inc();
                    }
                    Err(ArchivingError::Blob(error @ BlobError::TooLarge { .. })) => {
                        tracing::warn!(%job, cause = %Causes(&error), "a job that ended cannot be archived");
                        too_large.insert(job);
                    }
                    // It went on meanwhile.
                    Err(ArchivingError::Refused(Refusal::Rejected(_))) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn archive_one(&self, id: JobId, ended_at_ms: u64) -> Result<(), ArchivingError> {
        let gone = || Refusal::Rejected(engine::Rejection::JobArchived(id));
        let head = self.committer.query(move |state, _| state.jobs().get(&id)?.archive_head());
        let mut bytes = head.await?.ok_or_else(gone)?;
        let mut next = Some(0);
        while let Some(from) = next {
            let runs = self
                .committer
                .query(move |state, _| state.jobs().get(&id).map(|job| job.archive_runs(from, PIECE_UNITS)));
            let (mut runs, more) = runs.await?.ok_or_else(gone)?;
            bytes.append(&mut runs);
            next = more;
        }
        let archive = self.blobs.put(bytes.into()).await?;
        self.committer.decide(Command::Archive { job: id, ended_at_ms, archive }, |_, _, _| ()).await?;
        Ok(())
    }
}
