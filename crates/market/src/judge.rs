//! Compares outputs that differ by hash where the job allows a tolerance, checks what programs say of their outputs, and hands the
//! engine its opinion.
//!
//! What a program says is checked with random vectors. They come from a secret of the market keyed by the receipt, which nobody
//! else knows before the receipt is in the journal, and each relation of each unit has its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use engine::{Command, Comparison, Look, LookUnit, State};
use proof::relation::{Found, Side};
use protocol::{
    CheckId, Hash, JobId, Manifest, challenge,
    manifest::{self, Compare, Relation},
};
use store::{BlobError, BlobStore, ByteRange};
use tokio::{sync::watch, time::Instant};
use tracing::Instrument;

use crate::{
    committer::{Committer, Refusal},
    keys::Secrets,
    metrics::Metrics,
};

/// Comparisons taken up at once; each holds two outputs in memory.
const AT_ONCE: usize = 16;
/// Between attempts after the journal failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Between attempts to read what could not be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(10);

/// Why there is no opinion yet.
#[derive(Debug, thiserror::Error)]
enum JudgeError {
    #[error("cannot read {blob}")]
    Blob { blob: Hash, source: BlobError },
    #[error("{job} has no readable manifest: {detail}")]
    Manifest { job: JobId, detail: String },
}

/// Judges until `stop` turns true. It looks again whenever something was journaled. What cannot be read waits aside, so that a
/// damaged disk keeps only those from their verdict whose outputs it lost.
pub async fn judge(
    committer: Committer,
    blobs: Arc<BlobStore>,
    metrics: Arc<Metrics>,
    secrets: Arc<Secrets>,
    mut stop: watch::Receiver<bool>,
) {
    let mut durable = committer.status().durable.subscribe();
    let mut standing = committer.status().standing.subscribe();
    let mut unreadable = BTreeSet::<CheckId>::new();
    let mut read_again_at = Instant::now();
    loop {
        // Only the leader may have an opinion.
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            leading = standing.wait_for(|standing| standing.leads()) => if leading.is_err() { return },
        }
        durable.mark_unchanged();
        if read_again_at <= Instant::now() {
            unreadable.clear();
        }
        let aside = unreadable.clone();
        let waiting = committer.query(move |state, _| tasks(state, &aside)).await;
        let mut pause = None;
        match waiting {
            Ok(waiting) if waiting.is_empty() => {}
            Ok(waiting) => {
                for task in waiting {
                    let (check, job) = task.of();
                    let span = tracing::info_span!(parent: None, "judge", %check, %job);
                    match opinion(&task, &blobs, &secrets).instrument(span.clone()).await {
                        Ok(command) => {
                            metrics.comparisons.inc();
                            match committer.decide(command, |_, _, _| ()).instrument(span).await {
                                // The package may have been settled or cancelled meanwhile.
                                Ok(()) | Err(Refusal::Rejected(_)) => {}
                                Err(_) => pause = Some(RETRY_PAUSE),
                            }
                        }
                        Err(error) => {
                            tracing::error!(%check, cause = %crate::failure::Causes(&error), "cannot judge outputs");
                            if unreadable.is_empty() {
                                read_again_at = Instant::now() + UNREADABLE_PAUSE;
                            }
                            unreadable.insert(check);
                        }
                    }
                }
                // There may be more than were taken up.
                if pause.is_none() {
                    continue;
                }
            }
            Err(Refusal::Stopped) => return,
            Err(_) => pause = Some(RETRY_PAUSE),
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            () = tokio::time::sleep_until(read_again_at), if !unreadable.is_empty() => {}
            changed = durable.changed(), if pause.is_none() => if changed.is_err() { return },
        }
    }
}

/// What there is to judge, but for what is set aside.
fn tasks(state: &State, aside: &BTreeSet<CheckId>) -> Vec<Task> {
    let mut comparisons = state.comparisons(AT_ONCE + aside.len());
    comparisons.retain(|comparison| !aside.contains(&comparison.check));
    comparisons.truncate(AT_ONCE);
    let compare = |comparison: Comparison| {
        let unit = comparison.pairs.first()?.0;
        let manifest = state.jobs().get(&comparison.job)?.spec.stage_of(unit).manifest;
        Some(Task::Compare(comparison, manifest))
    };
    let mut looks = state.looks(AT_ONCE + aside.len());
    looks.retain(|look| !aside.contains(&look.check));
    looks.truncate(AT_ONCE);
    comparisons.into_iter().filter_map(compare).chain(looks.into_iter().map(Task::Look)).collect()
}

/// Something to judge.
enum Task {
    /// Two executions, and the manifest that says how they are compared.
    Compare(Comparison, Hash),
    /// What a program says of its outputs.
    Look(Look),
}

impl Task {
    fn of(&self) -> (CheckId, JobId) {
        match self {
            Self::Compare(comparison, _) => (comparison.check, comparison.job),
            Self::Look(look) => (look.check, look.job),
        }
    }
}

async fn opinion(task: &Task, blobs: &BlobStore, secrets: &Secrets) -> Result<Command, JudgeError> {
    match task {
        Task::Compare(comparison, manifest) => {
            let (agrees, evidence) = compare(comparison, *manifest, blobs).await?;
            Ok(Command::RecordOpinion { check: comparison.check, agrees, evidence })
        }
        Task::Look(look) => self::look(look, blobs, &look_seed(secrets, &look.receipt)).await,
    }
}

async fn read_manifest(manifest: Hash, job: JobId, blobs: &BlobStore) -> Result<Manifest, JudgeError> {
    let bytes = blobs.get(&manifest).await.map_err(|source| JudgeError::Blob { blob: manifest, source })?;
    serde_json::from_slice(&bytes).map_err(|error| JudgeError::Manifest { job, detail: error.to_string() })
}

/// What the random vectors of a receipt's relations come from: a secret of the market, keyed by the receipt.
fn look_seed(secrets: &Secrets, receipt: &Hash) -> Hash {
    challenge::hmac(&secrets.challenge_secret(), &[b"plexus/look/v1\0", &receipt.0[..]].concat())
}

/// Checks what a manifest says of units' outputs, until something does not hold.
async fn look(look: &Look, blobs: &BlobStore, seed: &Hash) -> Result<Command, JudgeError> {
    let (check, job) = (look.check, look.job);
    let manifest = Arc::new(read_manifest(look.manifest, job, blobs).await?);
    let (relations, _) = manifest.verify.relations().unwrap_or_default();
    let names = relations.iter().flat_map(Relation::buffers).collect::<BTreeSet<_>>();
    let mut evidence = String::new();
    let mut fixed = BTreeMap::new();
    for unit in &look.units {
        let mut sides = BTreeMap::new();
        for name in &names {
            let Some(buffer) = manifest.program.buffers.get(*name) else { continue };
            let bytes = match (buffer.blob, fixed.get(*name)) {
                (Some(_), Some(bytes)) => Bytes::clone(bytes),
                _ => side(buffer, unit, blobs).await?,
            };
            if buffer.blob.is_some() {
                fixed.insert(*name, bytes.clone());
            }
            sides.insert((*name).to_owned(), bytes);
        }
        for (number, relation) in relations.iter().enumerate() {
            // Fixed lengths throughout.
            let parts = [&seed.0[..], b"relation", &unit.unit.to_le_bytes(), &(number as u32).to_le_bytes()];
            let seed = Hash::of_parts(&parts);
            let (manifest, relation, sides) = (manifest.clone(), relation.clone(), sides.clone());
            let found = tokio::task::spawn_blocking(move || {
                let side = |name: &str| {
                    let buffer = manifest.program.buffers.get(name)?;
                    let compare = buffer.compare.unwrap_or_default();
                    Some(Side { bytes: sides.get(name)?, dtype: buffer.dtype, shape: &buffer.shape, compare })
                };
                proof::relation::check(&relation, side, &seed.0)
            });
            let found =
                found.await.map_err(|panic| JudgeError::Manifest { job, detail: panic.to_string() })?;
            let unit = unit.unit;
            match found {
                Found::Holds(words) => evidence = format!("{job}/{unit}: {words}"),
                Found::Fails(words) => {
                    let evidence = format!("{job}/{unit}: {words}");
                    return Ok(Command::RecordOpinion { check, agrees: false, evidence });
                }
                Found::Undecided(words) => {
                    return Ok(Command::RecordUndecided {
                        check,
                        evidence: format!("{job}/{unit}: {words}"),
                    });
                }
            }
        }
    }
    if look.units.len() > 1 {
        evidence =
            format!("what the program says holds for {} units; the last one: {evidence}", look.units.len());
    }
    Ok(Command::RecordOpinion { check, agrees: true, evidence })
}

/// The bytes of a buffer of a unit, as the unit saw them.
async fn side(buffer: &manifest::Buffer, unit: &LookUnit, blobs: &BlobStore) -> Result<Bytes, JudgeError> {
    let read = async |blob: Hash, range: Option<Range<u64>>| {
        let unreadable = |source| JudgeError::Blob { blob, source };
        let reader = blobs.read(&blob, range.map(ByteRange::Bounded)).await.map_err(unreadable)?;
        reader.bytes().await.map_err(unreadable)
    };
    if let Some(blob) = buffer.blob {
        return read(blob, None).await;
    }
    if let Some(output) = buffer.output.and_then(|number| unit.outputs.get(number as usize)) {
        return read(output.blob, None).await;
    }
    let Some(input) = buffer.input.and_then(|number| unit.inputs.get(number as usize)) else {
        return Ok(Bytes::new());
    };
    let (mut at, end) = (0_u64, input.offset.saturating_add(input.length));
    let mut bytes = Vec::with_capacity(input.length as usize);
    for blob in &input.blobs {
        let missing = |source| JudgeError::Blob { blob: *blob, source };
        let length =
            blobs.length(blob).await.map_err(missing)?.ok_or(BlobError::Unknown(*blob)).map_err(missing)?;
        let from = input.offset.max(at) - at;
        let to = end.min(at + length).saturating_sub(at);
        if from < to {
            bytes.extend_from_slice(&read(*blob, Some(from..to)).await?);
        }
        at += length;
    }
    bytes.resize(input.length as usize, 0);
    Ok(bytes.into())
}

async fn compare(
    comparison: &Comparison,
    manifest: Hash,
    blobs: &BlobStore,
) -> Result<(bool, String), JudgeError> {
    let read =
        async |blob: &Hash| blobs.get(blob).await.map_err(|source| JudgeError::Blob { blob: *blob, source });
    let job = comparison.job;
    let malformed = |detail: String| JudgeError::Manifest { job, detail };
    let manifest = read_manifest(manifest, job, blobs).await?;
    let mut evidence = String::new();
    for (unit, output, first, again) in &comparison.pairs {
        let buffer = manifest.program.buffers.values().find(|buffer| buffer.output == Some(*output));
        let buffer = buffer.ok_or_else(|| malformed(format!("no output {output}")))?;
        let (dtype, rule) = (buffer.dtype, buffer.compare.unwrap_or(Compare::default()));
        let (a, b) = (read(first).await?, read(again).await?);
        let found = tokio::task::spawn_blocking(move || proof::compare(&a, &b, dtype, &rule))
            .await
            .map_err(|panic| malformed(panic.to_string()))?;
        evidence = if comparison.known {
            // Whoever runs the unit next is not to learn what its owner knows.
            let verdict = if found.agrees() { "agrees" } else { "disagrees" };
            format!("output {output} of {job}/{unit} {verdict} with what the job's owner knows")
        } else {
            format!("output {output} of {job}/{unit}: {found}")
        };
        if !found.agrees() {
            return Ok((false, evidence));
        }
    }
    if comparison.pairs.len() > 1 {
        evidence = format!(
            "{} outputs agree within their tolerance; the last one: {evidence}",
            comparison.pairs.len()
        );
    }
    Ok((true, evidence))
}
