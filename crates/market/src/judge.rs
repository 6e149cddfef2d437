//! Compares outputs that differ by hash where the job allows a tolerance, and hands the engine its opinion.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use engine::{Command, Comparison};
use protocol::{CheckId, Hash, JobId, Manifest, manifest::Compare};
use store::{BlobError, BlobStore};
use tokio::{sync::watch, time::Instant};
use tracing::Instrument;

use crate::{
    committer::{Committer, Refusal},
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
        let waiting = committer
            .query(move |state, _| {
                let mut comparisons = state.comparisons(AT_ONCE + aside.len());
                comparisons.retain(|c| !aside.contains(&c.check));
                comparisons.truncate(AT_ONCE);
                let manifest = |c: &Comparison| {
                    let unit = c.pairs.first()?.0;
                    Some(state.jobs().get(&c.job)?.spec.stage_of(unit).manifest)
                };
                comparisons.into_iter().filter_map(|c| manifest(&c).map(|m| (c, m))).collect::<Vec<_>>()
            })
            .await;
        let mut pause = None;
        match waiting {
            Ok(waiting) if waiting.is_empty() => {}
            Ok(waiting) => {
                for (comparison, manifest) in waiting {
                    let check = comparison.check;
                    let span = tracing::info_span!(parent: None, "judge", %check, job = %comparison.job);
                    match opinion(&comparison, manifest, &blobs).instrument(span.clone()).await {
                        Ok((agrees, evidence)) => {
                            metrics.comparisons.inc();
                            let command = Command::RecordOpinion { check, agrees, evidence };
                            match committer.decide(command, |_, _, _| ()).instrument(span).await {
                                // The package may have been settled or cancelled meanwhile.
                                Ok(()) | Err(Refusal::Rejected(_)) => {}
                                Err(_) => pause = Some(RETRY_PAUSE),
                            }
                        }
                        Err(error) => {
                            tracing::error!(%check, cause = %crate::failure::Causes(&error), "cannot compare outputs");
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

async fn opinion(
    comparison: &Comparison,
    manifest: Hash,
    blobs: &BlobStore,
) -> Result<(bool, String), JudgeError> {
    let read =
        async |blob: &Hash| blobs.get(blob).await.map_err(|source| JudgeError::Blob { blob: *blob, source });
    let job = comparison.job;
    let malformed = |detail: String| JudgeError::Manifest { job, detail };
    let manifest: Manifest =
        serde_json::from_slice(&read(&manifest).await?).map_err(|error| malformed(error.to_string()))?;
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
