//! Snapshots of the state, so that a start folds only the events after the last one.
//!
//! The leader saves one after every [`EVENTS_BETWEEN`] events, and when it stops. While the state is encoded nothing is decided,
//! which is why it is done seldom; it is written beside everything else. A snapshot is used only if the read model is at least as
//! far: rows before it are not made again.

use std::time::{Duration, Instant};

use engine::{SNAPSHOT_VERSION, State};
use store::Snapshots;
use tokio::sync::watch;

use crate::{
    committer::{Committer, Replayed},
    failure::Causes,
};

/// Events after which stopping saves another one.
const EVENTS_AT_STOP: u64 = 1_000;
/// Between two looks at how many events there are.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The newest state that was saved before `seq_max`; nothing when there is none that this version reads.
pub fn load(snapshots: &Snapshots, seq_max: u64) -> Option<Replayed> {
    let began = Instant::now();
    let snapshot = match snapshots.latest(seq_max) {
        Ok(snapshot) => snapshot?,
        Err(error) => {
            tracing::warn!(cause = %Causes(&error), "cannot read a snapshot; the whole journal is read");
            return None;
        }
    };
    if snapshot.format_version != SNAPSHOT_VERSION {
        tracing::info!("the snapshot is of another version; the whole journal is read");
        return None;
    }
    let (at_ms, state) = snapshot.bytes.split_first_chunk()?;
    match State::from_snapshot(state) {
        Ok(state) if state.seq() == snapshot.seq => {
            tracing::info!(seq = snapshot.seq, took = ?began.elapsed(), "the state was read from a snapshot");
            Some(Replayed { state, at_ms: u64::from_le_bytes(*at_ms) })
        }
        _ => {
            tracing::warn!("the snapshot cannot be read; the whole journal is");
            None
        }
    }
}

/// Saves a snapshot after every `events_between` while this process leads, until `stop` turns true, and then a last one.
pub async fn keep(
    committer: Committer,
    snapshots: Snapshots,
    mut saved: u64,
    events_between: u64,
    mut stop: watch::Receiver<bool>,
) {
    let standing = committer.status().standing.subscribe();
    let mut snapshots = Some(snapshots);
    loop {
        let stopping = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        let durable = *committer.status().durable.borrow();
        let enough = if stopping { events_between.min(EVENTS_AT_STOP) } else { events_between };
        if durable.saturating_sub(saved) >= enough && standing.borrow().leads() {
            let began = Instant::now();
            let encoded = committer.query(|state, now_ms| {
                let mut bytes = now_ms.to_le_bytes().to_vec();
                bytes.append(&mut state.to_snapshot());
                (state.seq(), bytes)
            });
            if let (Ok((seq, bytes)), Some(mut writer)) = (encoded.await, snapshots.take()) {
                let encoding = began.elapsed();
                let saving = tokio::task::spawn_blocking(move || {
                    let outcome = writer.save(seq, SNAPSHOT_VERSION, &bytes);
                    (writer, outcome, bytes.len())
                });
                let Ok((writer, outcome, bytes)) = saving.await else { return };
                snapshots = Some(writer);
                match outcome {
                    Ok(()) => {
                        saved = seq;
                        tracing::info!(seq, bytes, ?encoding, took = ?began.elapsed(), "a snapshot was saved");
                    }
                    Err(error) => tracing::warn!(cause = %Causes(&error), "cannot save a snapshot"),
                }
            }
        }
        if stopping {
            return;
        }
    }
}
