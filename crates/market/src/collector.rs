//! Removes blobs that nothing needs any more, and encrypts with the newest key those that are not.
//!
//! Kept is what an unfinished job names (its programs, inputs and outputs), what a job names that ended less than
//! [`keep`](Collector::keep) ago, and whatever somebody stored or asked for in that time, whether a job names it or not. Only the
//! process that leads collects, and it stops in the middle when it leads no more: what it believes of jobs may be old then.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use engine::{CheckState, PackageState, StageInput, State};
use protocol::{Hash, JobId, Manifest, OutputCommitment};
use store::{BlobError, BlobStore, Collected, ReadModel};
use tokio::sync::watch;

use crate::{
    archives::{Archives, ReadError},
    committer::{Committer, Refusal},
    failure::Causes,
    follower::Follower,
    leadership::Standing,
    metrics::Metrics,
};

/// After the start: a market that is restarted again and again is to do its work first.
const FIRST_AFTER: Duration = Duration::from_secs(3600);
/// Between two collections.
const EVERY: Duration = Duration::from_secs(6 * 3600);
/// An upload may be this long before the job that needs it, whatever the operator says.
pub const KEEP_MIN: Duration = Duration::from_secs(24 * 3600);
/// Archived jobs asked for at once.
const ARCHIVES_PAGE: u32 = 1_000;
/// Between two parts of the store that are encrypted anew.
const RESEAL_PAUSE: Duration = Duration::from_secs(2);

/// Why nothing was collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// What is needed cannot be known.
    #[error("the market cannot say what it needs: {0:?}")]
    Unknown(Refusal),
    /// A program cannot be read, so that its kernels are not known.
    #[error("the manifest {manifest} is not readable: {detail}")]
    Manifest {
        /// The manifest's blob.
        manifest: Hash,
        /// What is wrong.
        detail: String,
    },
    /// An archive cannot be read, so that the results it names are not known.
    #[error("the archive {archive} is not readable: {detail}")]
    Archive {
        /// The archive's blob.
        archive: Hash,
        /// What is wrong.
        detail: String,
    },
    /// The lists cannot be asked which jobs are archived.
    #[error("the lists cannot say which jobs are archived: {0}")]
    Lists(String),
    /// The blob store failed.
    #[error("the blob store failed")]
    Store(#[from] BlobError),
}

/// Looks after the blobs.
#[derive(Clone)]
pub struct Collector {
    /// Where they are.
    pub blobs: Arc<BlobStore>,
    /// Knows the jobs.
    pub committer: Committer,
    /// What operators measure.
    pub metrics: Arc<Metrics>,
    /// How long blobs are kept that no unfinished job names.
    pub keep: Duration,
    /// The market's own.
    pub own: Hash,
    /// Knows the jobs that the state has let go.
    pub archives: Arc<Archives>,
    /// Where the lists say which they are.
    pub read_model: Arc<Mutex<ReadModel>>,
    /// Keeps the lists.
    pub follower: Arc<Follower>,
}

impl Collector {
    /// Looks after the blobs until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut standing = self.committer.status().standing.subscribe();
        let mut wait = FIRST_AFTER;
        let mut shard = Some(0);
        loop {
            let pause = if shard.is_some() { RESEAL_PAUSE } else { wait };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
            if standing.wait_for(Standing::leads).await.is_err() {
                return;
            }
            if let Some(now) = shard {
                shard = self.reseal(now).await;
                wait = wait.saturating_sub(RESEAL_PAUSE);
                continue;
            }
            wait = EVERY;
            match self.collect(self.keep.max(KEEP_MIN)).await {
                Ok(Collected { blobs, bytes, kept }) => {
                    tracing::info!(blobs, bytes, kept, "blobs were collected")
                }
                Err(error) => tracing::error!(cause = %Causes(&error), "cannot collect blobs"),
            }
        }
    }

    /// Encrypts a part of the store anew, and says which part is next.
    async fn reseal(&self, shard: u8) -> Option<u8> {
        match self.blobs.reseal(shard).await {
            Ok(resealed) => {
                self.metrics.blobs_resealed.inc_by(resealed.blobs);
                let next = shard.checked_add(1);
                if next.is_none() {
                    tracing::info!("every blob is as the newest key wants it");
                }
                next
            }
            Err(error) => {
                tracing::error!(cause = %Causes(&error), "cannot encrypt blobs with the newest key");
                None
            }
        }
    }

    /// Removes what nothing needs and nobody stored or asked for during the last `age_min`.
    pub async fn collect(&self, age_min: Duration) -> Result<Collected, CollectError> {
        let needed = self.needed(age_min).await?;
        let standing = self.committer.status().standing.subscribe();
        let keep = |hash: &Hash| needed.contains(hash) || !standing.borrow().leads();
        let collected = self.blobs.collect(age_min, keep).await?;
        self.metrics.blobs_collected.inc_by(collected.blobs);
        self.metrics.blob_bytes_collected.inc_by(collected.bytes);
        Ok(collected)
    }

    /// Every archive is needed for ever, and what the jobs in them name for as long as if the state had them.
    async fn archived(
        &self,
        age_min_ms: u64,
        needed: &mut HashSet<Hash>,
        manifests: &mut BTreeSet<Hash>,
    ) -> Result<(), CollectError> {
        let lists = |detail: String| CollectError::Lists(detail);
        let durable = *self.committer.status().durable.borrow();
        self.follower.caught_up(durable).await;
        if self.follower.is_stale() {
            return Err(lists("they lack rows until the next start".into()));
        }
        let now_ms = crate::time::now_ms();
        let mut after = JobId(0);
        loop {
            let model = self.read_model.clone();
            let page = tokio::task::spawn_blocking(move || {
                model.lock().unwrap_or_else(PoisonError::into_inner).archives(after, ARCHIVES_PAGE)
            });
            let page = page.await.map_err(|panic| lists(panic.to_string()))?;
            let page = page.map_err(|error| lists(error.to_string()))?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            for row in page {
                needed.insert(row.archive);
                if row.ended_at_ms.saturating_add(age_min_ms) > now_ms {
                    let unreadable = |error: ReadError| CollectError::Archive {
                        archive: row.archive,
                        detail: error.to_string(),
                    };
                    let job = self.archives.whole(&row.archive).await.map_err(unreadable)?;
                    let (programs, data) = of_job(&job);
                    manifests.extend(programs);
                    needed.extend(data);
                }
            }
        }
    }

    async fn needed(&self, age_min: Duration) -> Result<HashSet<Hash>, CollectError> {
        let age_min_ms = u64::try_from(age_min.as_millis()).unwrap_or(u64::MAX);
        let ask = |what: Result<_, _>| what.map_err(CollectError::Unknown);
        let jobs: Vec<JobId> = ask(self
            .committer
            .query(move |state, now_ms| {
                let recent = |ended_ms: u64| ended_ms.saturating_add(age_min_ms) > now_ms;
                let needs = |job: &engine::Job| job.open_verdicts > 0 || job.ended_at_ms.is_none_or(recent);
                state.jobs().iter().filter(|(_, job)| needs(job)).map(|(id, _)| *id).collect()
            })
            .await)?;
        let mut needed = HashSet::from([self.own]);
        let mut manifests = BTreeSet::new();
        self.archived(age_min_ms, &mut needed, &mut manifests).await?;
        // One job a question, so that nobody waits for all of them.
        for job in jobs {
            let named = self.committer.query(move |state, _| state.jobs().get(&job).map(of_job)).await;
            let (programs, data) = named.map_err(CollectError::Unknown)?.unwrap_or_default();
            manifests.extend(programs);
            needed.extend(data);
        }
        let uncommitted = self.committer.query(|state, _| in_verification(state)).await;
        needed.extend(uncommitted.map_err(CollectError::Unknown)?);
        for manifest in manifests {
            let unreadable = |detail: String| CollectError::Manifest { manifest, detail };
            let bytes = self.blobs.get(&manifest).await.map_err(|error| unreadable(error.to_string()))?;
            let program: Manifest =
                serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
            needed.insert(manifest);
            needed.extend(program.program.kernels.values().map(|kernel| kernel.blob));
        }
        Ok(needed)
    }
}

/// A job's manifests, and its inputs and outputs.
fn of_job(job: &engine::Job) -> (Vec<Hash>, Vec<Hash>) {
    let manifests = job.spec.stages.iter().map(|stage| stage.manifest).collect();
    let inputs = job.spec.stages.iter().flat_map(|stage| &stage.inputs).filter_map(|input| match input {
        StageInput::Blob(split) => Some(split.blob),
        StageInput::Stage(gather) => gather.initial.as_ref().map(|split| split.blob),
    });
    let outputs = job.accepted.values().flat_map(|run| hashes(&run.outputs));
    let known = job.canaries.values().flatten().map(|output| output.blob);
    (manifests, inputs.chain(outputs).chain(known).collect())
}

/// What was committed to and has no verdict yet.
fn in_verification(state: &State) -> Vec<Hash> {
    let packages = state.packages().values().flat_map(|package| match &package.state {
        PackageState::Committed { outputs, .. } => hashes(outputs).collect(),
        _ => Vec::new(),
    });
    let checks = state.checks().values().flat_map(|check| match &check.state {
        CheckState::Comparing { outputs, .. } => hashes(outputs).collect(),
        _ => Vec::new(),
    });
    // An appeal compares with them.
    let accused = state.verdicts().values().flat_map(|verdict| hashes(verdict.outputs()));
    packages.chain(accused).chain(checks).collect()
}

fn hashes(outputs: &[Vec<OutputCommitment>]) -> impl Iterator<Item = Hash> {
    outputs.iter().flatten().map(|output| output.blob)
}
