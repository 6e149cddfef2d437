//! The event stream: what changed, a few times a second, to whoever listens.
//!
//! A job or worker that changed often between two ticks is shown once, as it is at the tick. The newest messages are kept, so
//! that a listener who lost the connection goes on where it was; one who was away for longer is shown everything live again.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::Event;
use engine::State;
use protocol::{JobId, PublicKey};
use tokio::sync::{broadcast, watch};

use crate::{
    committer::Committer,
    follower::{Changed, Follower},
    metrics::Metrics,
    view,
};

/// Between two looks: an entity is shown at most four times a second.
const TICK: Duration = Duration::from_millis(250);
/// Jobs, and workers, shown in one tick; the others wait for the next.
const SHOWN_MAX: usize = 200;
/// Messages a slow listener may be behind before it is cut off (it comes back with the last id it saw).
const BEHIND_MAX: usize = 2048;
/// Messages kept for those who come back.
const KEPT_MAX: usize = 2048;
/// Ended jobs shown to somebody who was away for long.
const SNAPSHOT_JOBS: usize = 50;
/// Listeners at once.
const LISTENERS_MAX: usize = 1024;

/// One message, serialised once for all listeners.
#[derive(Clone)]
pub struct Message {
    /// The journal sequence it follows from.
    pub seq: u64,
    /// The event's tag.
    pub name: &'static str,
    /// The event as JSON.
    pub json: Arc<str>,
}

/// Where listeners come to.
pub struct Live {
    sender: broadcast::Sender<Message>,
    kept: Mutex<Kept>,
    listeners: AtomicUsize,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Kept {
    messages: VecDeque<Message>,
    /// Nothing after this sequence is missing from `messages`.
    complete_after: u64,
}

/// One listener's subscription; counted until it is dropped.
pub struct Listener {
    live: Arc<Live>,
    /// What it missed, oldest first.
    pub missed: VecDeque<Message>,
    /// What comes.
    pub coming: broadcast::Receiver<Message>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.live.listeners.fetch_sub(1, Ordering::Relaxed);
        self.live.metrics.listeners.dec();
    }
}

impl Live {
    /// Starts the task that looks for changes, until `stop` turns true.
    pub fn start(
        committer: Committer,
        follower: Arc<Follower>,
        metrics: Arc<Metrics>,
        stop: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let live = Arc::new(Self {
            sender: broadcast::Sender::new(BEHIND_MAX),
            kept: Mutex::default(),
            listeners: AtomicUsize::new(0),
            metrics,
        });
        tokio::spawn(live.clone().run(committer, follower, stop));
        live
    }

    /// Subscribes. `seen` is the last sequence that the listener knows. Nothing when there are too many already.
    pub async fn listen(self: &Arc<Self>, committer: &Committer, seen: Option<u64>) -> Option<Listener> {
        if self.listeners.fetch_add(1, Ordering::Relaxed) >= LISTENERS_MAX {
            self.listeners.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.metrics.listeners.inc();
        let coming = self.sender.subscribe();
        let mut listener = Listener { live: self.clone(), missed: VecDeque::new(), coming };
        if let Some(seen) = seen {
            let kept = self.kept_since(seen);
            listener.missed = match kept {
                Some(messages) => messages,
                None => committer.query(snapshot).await.unwrap_or_default(),
            };
        }
        Some(listener)
    }

    /// Messages of `seen` and later: a listener may have got only some of one tick's messages.
    fn kept_since(&self, seen: u64) -> Option<VecDeque<Message>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let complete = seen >= kept.complete_after && !kept.messages.is_empty();
        complete.then(|| kept.messages.iter().filter(|message| message.seq >= seen).cloned().collect())
    }

    async fn run(
        self: Arc<Self>,
        committer: Committer,
        follower: Arc<Follower>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let mut changed = follower.take_changed();
            if self.sender.receiver_count() == 0 {
                let durable = *committer.status().durable.borrow();
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.messages.clear();
                kept.complete_after = durable;
                continue;
            }
            if changed.jobs.is_empty() && changed.workers.is_empty() && changed.movements.is_empty() {
                continue;
            }
            let later = Changed {
                jobs: cut(&mut changed.jobs),
                workers: cut(&mut changed.workers),
                movements: VecDeque::new(),
            };
            follower.put_back(later);
            let asked = changed.clone();
            match committer.query(move |state, now_ms| show(state, now_ms, asked)).await {
                Ok(messages) => self.send(messages),
                // The next tick shows them.
                Err(_) => follower.put_back(changed),
            }
        }
    }

    fn send(&self, messages: VecDeque<Message>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            kept.messages.push_back(message.clone());
            if kept.messages.len() > KEPT_MAX
                && let Some(dropped) = kept.messages.pop_front()
            {
                kept.complete_after = dropped.seq + 1;
            }
            // Nobody may listen any more.
            let _ = self.sender.send(message);
        }
    }
}

/// Keeps the newest entries of a set and returns the others.
fn cut<T: Ord + Clone>(set: &mut std::collections::BTreeSet<T>) -> std::collections::BTreeSet<T> {
    let Some(first_kept) = set.iter().rev().nth(SHOWN_MAX - 1).cloned() else { return Default::default() };
    let kept = set.split_off(&first_kept);
    std::mem::replace(set, kept)
}

fn message(state: &State, event: &Event) -> Message {
    let name = match event {
        Event::Job(_) => "job",
        Event::Worker(_) => "worker",
        Event::Payment(_) => "payment",
    };
    let json = serde_json::to_string(event).expect("events have string keys");
    Message { seq: state.seq().saturating_sub(1), name, json: json.into() }
}

fn show(state: &State, now_ms: u64, changed: Changed) -> VecDeque<Message> {
    let mut messages = show_entities(state, now_ms, changed.jobs, changed.workers);
    for movement in &changed.movements {
        let mut payments: Vec<_> = crate::view::payments(movement).map(|(_, payment)| payment).collect();
        payments.reverse();
        messages.extend(payments.into_iter().map(|payment| message(state, &Event::Payment(payment))));
    }
    messages
}

fn show_entities(
    state: &State,
    now_ms: u64,
    jobs: impl IntoIterator<Item = JobId>,
    workers: impl IntoIterator<Item = PublicKey>,
) -> VecDeque<Message> {
    let jobs =
        jobs.into_iter().filter_map(|id| view::job(state, id, now_ms)).map(|job| Event::Job(Box::new(job)));
    let workers = workers
        .into_iter()
        .filter_map(|id| view::worker(state, id, now_ms))
        .map(|worker| Event::Worker(Box::new(worker)));
    jobs.chain(workers).map(|event| message(state, &event)).collect()
}

/// Everything live, and the newest of the jobs that ended.
fn snapshot(state: &State, now_ms: u64) -> VecDeque<Message> {
    let newest = state.jobs().keys().rev().take(SNAPSHOT_JOBS);
    let open = state.jobs().iter().filter(|(_, job)| !job.state.ended()).map(|(id, _)| id);
    let jobs: std::collections::BTreeSet<_> = newest.chain(open).copied().collect();
    let workers = state.workers().iter().filter(|(_, worker)| worker.gone.is_none()).map(|(id, _)| *id);
    show_entities(state, now_ms, jobs, workers)
}
