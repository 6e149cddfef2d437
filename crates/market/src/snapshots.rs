//! Snapshots of the state, so that a start, and a leader whose journal failed, fold only the events after the last one.
//!
//! The leader saves one after every so many events, and when it stops. It is made without the committer: a thread beside it folds
//! what the journal got since the last snapshot into that one's state, so that no request waits while a large state is encoded.
//! That takes the memory of a second state for as long as it lasts. The same state has its invariants checked now and then.
//!
//! A snapshot is used only if the read model is at least as far: rows before it are not made again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use engine::{SNAPSHOT_VERSION, State};
use protocol::PublicKey;
use store::{Journal, Location, Snapshots, StoreError};
use tokio::sync::watch;

use crate::{
    committer::{Committer, Replayed, replay},
    failure::Causes,
    metrics::Metrics,
};

/// Events after which stopping saves another one.
const EVENTS_AT_STOP: u64 = 1_000;
/// Between two looks at how many events there are.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between two checks of the invariants.
const INVARIANTS_EVERY: Duration = Duration::from_secs(600);

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

/// Saves a state. The next start and the next failure only take longer when that fails.
pub fn save(snapshots: &mut Snapshots, replayed: &Replayed) -> Result<usize, StoreError> {
    let mut bytes = replayed.at_ms.to_le_bytes().to_vec();
    bytes.append(&mut replayed.state.to_snapshot());
    snapshots.save(replayed.state.seq(), SNAPSHOT_VERSION, &bytes)?;
    Ok(bytes.len())
}

/// Where snapshots are made of.
pub struct Keeper {
    /// The journal.
    pub journal: Location,
    /// Whose.
    pub market: PublicKey,
    /// Where they are kept.
    pub snapshots: Snapshots,
    /// How far the newest one goes.
    pub saved: u64,
}

/// What is to be done with a state that was made beside the committer.
#[derive(Clone, Copy)]
struct Chores {
    save: bool,
    check: bool,
}

impl Keeper {
    /// Makes the state of the journal's end and does the chores. Takes a while: for a thread that may block.
    fn work(&mut self, durable: u64, chores: Chores, metrics: &Metrics) -> Result<(), StoreError> {
        let began = Instant::now();
        let journal = Journal::open_reader(&self.journal, &self.market)?;
        let saved = load(&self.snapshots, durable).unwrap_or_default();
        let Some(replayed) = replay(&journal, saved, drop)? else { return Ok(()) };
        let folding = began.elapsed();
        if chores.save {
            let bytes = save(&mut self.snapshots, &replayed)?;
            self.saved = replayed.state.seq();
            tracing::info!(seq = self.saved, bytes, ?folding, took = ?began.elapsed(), "a snapshot was saved");
        }
        if chores.check {
            let violations = engine::violations(&replayed.state, replayed.at_ms);
            metrics.violations.set(violations.len() as i64);
            for violation in violations.iter().take(10) {
                tracing::error!(%violation, "an invariant is broken");
            }
        }
        Ok(())
    }

    /// Saves a snapshot after every `events_between` while this process leads, until `stop` turns true, and then a last one.
    pub async fn run(
        mut self,
        committer: Committer,
        events_between: u64,
        metrics: Arc<Metrics>,
        mut stop: watch::Receiver<bool>,
    ) {
        let standing = committer.status().standing.subscribe();
        let mut checked = (Instant::now(), 0);
        loop {
            let stopping = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let durable = *committer.status().durable.borrow();
            let enough = if stopping { events_between.min(EVENTS_AT_STOP) } else { events_between };
            let save = durable.saturating_sub(self.saved) >= enough && standing.borrow().leads();
            let check = !stopping && durable > checked.1 && checked.0.elapsed() >= INVARIANTS_EVERY;
            if save || check {
                let metrics = metrics.clone();
                let working = tokio::task::spawn_blocking(move || {
                    let outcome = self.work(durable, Chores { save, check }, &metrics);
                    (self, outcome)
                });
                let Ok((keeper, outcome)) = working.await else { return };
                self = keeper;
                if let Err(error) = outcome {
                    tracing::warn!(cause = %Causes(&error), "cannot make a snapshot");
                }
                if check {
                    checked = (Instant::now(), durable);
                }
            }
            if stopping {
                return;
            }
        }
    }
}
