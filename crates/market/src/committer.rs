//! The one thread that owns the state.
//!
//! Requests wait in a bounded queue. What waits together is decided together: the events are folded into the state, appended
//! to the journal as one group, and only then is anybody answered. So whatever was answered is durable, and a question asked
//! between groups sees durable state alone. When the append fails, everybody of the group is told so and the state is made
//! again from the last snapshot and the journal. As that takes its time, nothing is decided for a pause afterwards: changes are
//! refused at once, while questions are answered from the durable state.
//!
//! A request for work that finds none is parked here and tried again after each group that may have made work, those of higher
//! tiers first and within a tier first come first served.
//!
//! Where several processes serve one market, the thread either leads as above, or follows: it folds what the leader
//! appended and refuses requests, so that it can lead after reading no more than the last few groups ([`crate::leadership`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use borsh::BorshDeserialize;
use engine::{Answer, Command, Event, Params, Rejection, Release, State};
use protocol::{LeaseId, PublicKey};
use store::{Journal, Snapshots, StoreError};
use tokio::sync::{oneshot, watch};
use tracing::Span;

pub use crate::parked::LeaseWish;
use crate::{
    StartError,
    challenges::Challenges,
    failure::Causes,
    leadership::{Duty, Leadership, Standing},
    metrics::Metrics,
    parked::{Class, Parked, Parking, TRIES_TIME_MAX},
    snapshots,
    time::SystemClock,
    view,
};

/// How events are encoded in a group: Borsh, one after the other. Groups of version 1 are read too.
pub const ENCODING_VERSION: u32 = 2;
/// Requests that wait to be decided.
const QUEUE_MAX: usize = 4096;
/// Encoded bytes after which a group takes no further request.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Decisions that the span of a group is linked to; more of them are in it all the same.
const LINKS_MAX: usize = 64;
/// How long the committer sleeps at most.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// After the journal failed once, nothing is tried for this long. It doubles with every failure that follows.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Groups that a former leader may slip in before a takeover's own.
const TAKEOVER_TRIES: usize = 8;
/// The longest such pause, unless making the state again takes longer itself.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug)]
pub enum Refusal {
    /// The rules refuse the command; nothing changed.
    Rejected(Rejection),
    /// Too many requests wait.
    Overloaded,
    /// The journal could not be written; nothing changed.
    Unavailable,
    /// The journal did not say whether it was written: it may be.
    Unknown,
    /// Another process leads the market; nothing changed.
    NotLeading,
    /// The market stops.
    Stopped,
}

/// Events that were journaled together.
pub struct Group {
    /// Sequence of the first.
    pub first_seq: u64,
    /// When they were decided.
    pub at_ms: u64,
    /// The events.
    pub events: Vec<Event>,
}

impl Group {
    /// Reads a stored group.
    pub fn decode(stored: &store::Group) -> Result<Self, StoreError> {
        let read = match stored.encoding_version {
            1 => engine::v1::read,
            ENCODING_VERSION => Event::deserialize,
            found => {
                return Err(StoreError::Newer {
                    what: "journal's events",
                    found,
                    supported: ENCODING_VERSION,
                });
            }
        };
        let corrupt = |detail: String| StoreError::Corrupt { seq: stored.first_seq, detail };
        let mut bytes = &stored.events[..];
        let events = (0..stored.count)
            .map(|_| read(&mut bytes).map_err(|error| corrupt(format!("unreadable event: {error}"))))
            .collect::<Result<_, _>>()?;
        if !bytes.is_empty() {
            return Err(corrupt(format!("{} bytes follow the last event", bytes.len())));
        }
        Ok(Self { first_seq: stored.first_seq, at_ms: stored.at_ms, events })
    }
}

type Results = Vec<Result<Answer, Rejection>>;
type Reply = Box<dyn FnOnce(Result<(&State, u64, Results), Refusal>) + Send>;
type Question = Box<dyn FnOnce(Result<(&State, u64), Refusal>) + Send>;

enum Request {
    Decide {
        commands: Vec<Command>,
        reply: Reply,
        /// What asks.
        span: Span,
    },
    Lease(Parked),
    Query(Question),
    /// Asks what is known here, whoever leads.
    Peek(Question),
    JournalBytesMax(Option<u64>, oneshot::Sender<()>),
    Drain(oneshot::Sender<()>),
    Stop,
}

/// What a market is founded with when its journal is empty.
#[derive(Clone)]
pub struct Founding {
    /// Its key.
    pub market: PublicKey,
    /// The rules' first parameters.
    pub params: Params,
    /// What its checks are drawn with, then and later.
    pub challenges: Arc<Challenges>,
}

/// Where to put requests. Clones talk to the same thread.
#[derive(Clone)]
pub struct Committer {
    queue: SyncSender<Request>,
    status: Arc<Status>,
}

/// What the outside may know without asking the thread.
pub struct Status {
    /// How many events are durable; the last one has this sequence less one.
    pub durable: watch::Sender<u64>,
    /// Whether the last append failed.
    pub failing: AtomicBool,
    /// Whether the thread is gone though nobody stopped it.
    pub dead: watch::Sender<bool>,
    /// Who leads the market.
    pub standing: watch::Sender<Standing>,
}

impl Committer {
    /// Starts the thread with what was read of the journal so far: nothing, or its state. Where no other process can lead, it
    /// leads when this returns. Groups that are durable are passed on to `followers`.
    pub fn start(
        journal: Journal,
        snapshots: Snapshots,
        replayed: Option<Replayed>,
        founding: Founding,
        leadership: Leadership,
        followers: SyncSender<Group>,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, JoinHandle<()>), StartError> {
        let (queue, requests) = sync_channel(QUEUE_MAX);
        let Replayed { state, at_ms } = replayed.unwrap_or_default();
        let status = Arc::new(Status {
            durable: watch::Sender::new(state.seq()),
            failing: AtomicBool::new(false),
            dead: watch::Sender::new(false),
            standing: leadership.standing().clone(),
        });
        let mut core = Core {
            journal,
            snapshots,
            state: Some(state),
            founding,
            leadership,
            clock: SystemClock::start(),
            now_ms: at_ms,
            pause: Pause::default(),
            due_ms: None,
            parking: Parking::default(),
            replaced: false,
            draining: false,
            followers,
            status: status.clone(),
            metrics,
            encoded: Vec::new(),
        };
        if !core.leadership.is_shared() {
            core.take_over(0)?;
        }
        let thread = std::thread::Builder::new().name("committer".into()).spawn(move || {
            let guard = DeathNote(core.status.clone());
            core.run(&requests);
            if !core.replaced {
                std::mem::forget(guard);
            }
        });
        Ok((Self { queue, status }, thread.map_err(StartError::Thread)?))
    }

    /// What the outside may know without asking.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Decides one command; `then` makes the answer from the state after its group, once that is durable.
    pub async fn decide<T: Send + 'static>(
        &self,
        command: Command,
        then: impl FnOnce(&State, u64, Answer) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.decide_all(vec![command], move |state, now_ms, mut results| {
            let answer = results.pop().expect("one result a command")?;
            Ok(then(state, now_ms, answer))
        })
        .await?
        .map_err(Refusal::Rejected)
    }

    /// Decides commands one after the other in one group.
    pub async fn decide_all<T: Send + 'static>(
        &self,
        commands: Vec<Command>,
        then: impl FnOnce(&State, u64, Results) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let reply: Reply = Box::new(move |outcome| {
            // The asker may be gone; what was decided stands.
            let _ = sender.send(outcome.map(|(state, now_ms, results)| then(state, now_ms, results)));
        });
        self.enqueue(Request::Decide { commands, reply, span: Span::current() })?;
        receiver.await.map_err(|_| Refusal::Stopped)?
    }

    /// Asks the durable state, where this process leads.
    pub async fn query<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&State, u64) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.ask(Request::Query, ask).await
    }

    /// Asks the state as far as it is known here. On a standby it may be a moment behind the leader's.
    pub async fn peek<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&State, u64) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.ask(Request::Peek, ask).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        request: fn(Question) -> Request,
        ask: impl FnOnce(&State, u64) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let ask = Box::new(move |state: Result<(&State, u64), Refusal>| {
            let _ = sender.send(state.map(|(state, now_ms)| ask(state, now_ms)));
        });
        self.enqueue(request(ask))?;
        receiver.await.map_err(|_| Refusal::Stopped)?
    }

    /// Asks for work and waits for it.
    pub async fn lease(&self, wish: LeaseWish) -> Result<api::LeaseAnswer, Refusal> {
        let (reply, receiver) = oneshot::channel();
        let until = Instant::now() + wish.wait;
        self.enqueue(Request::Lease(Parked { wish, until, reply, span: Span::current() }))?;
        receiver.await.map_err(|_| Refusal::Stopped)?
    }

    /// Sets the most bytes that the journal may take.
    pub async fn set_journal_bytes_max(&self, bytes_max: Option<u64>) -> Result<(), Refusal> {
        let (reply, receiver) = oneshot::channel();
        self.enqueue(Request::JournalBytesMax(bytes_max, reply))?;
        receiver.await.map_err(|_| Refusal::Stopped)
    }

    /// Answers those who wait for work, and lets nobody wait from now on.
    pub async fn drain(&self) {
        let (done, answered) = oneshot::channel();
        if self.enqueue(Request::Drain(done)).is_ok() {
            // A thread that is gone has nobody waiting.
            let _ = answered.await;
        }
    }

    /// Lets the thread end after what it has begun. Parked requests are answered without work.
    pub fn stop(&self) {
        // A full queue is waited for; a thread that is gone needs no word.
        let _ = self.queue.send(Request::Stop);
    }

    fn enqueue(&self, request: Request) -> Result<(), Refusal> {
        self.queue.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::Overloaded,
            TrySendError::Disconnected(_) => Refusal::Stopped,
        })
    }
}

/// Tells when the thread ends by a panic.
struct DeathNote(Arc<Status>);

impl Drop for DeathNote {
    fn drop(&mut self) {
        self.0.dead.send_replace(true);
        tracing::error!("the committer ended: a rule was broken, or another process leads the market");
    }
}

/// Keeps a journal that cannot be written from being read again and again.
#[derive(Default)]
struct Pause {
    until: Option<Instant>,
    failures: u32,
}

impl Pause {
    /// What remains of it.
    fn left(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// The journal failed. Making the state again took `took`: it is to take half of the time at most.
    fn failed(&mut self, now: Instant, took: Duration) {
        let grown = PAUSE_MIN.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        self.failures += 1;
        self.until = Some(now + grown.max(took));
    }

    /// The journal was written, or may have room again.
    fn end(&mut self) {
        *self = Self::default();
    }
}

struct Core {
    journal: Journal,
    /// Where the state can be made again from.
    snapshots: Snapshots,
    /// Nothing after an append failed and the journal could not be read again yet.
    state: Option<State>,
    founding: Founding,
    leadership: Leadership,
    clock: SystemClock,
    /// Of the group in the making, or of the last one that the leader appended. Never goes back, so that no deadline does.
    now_ms: u64,
    pause: Pause,
    /// When time alone changes something next.
    due_ms: Option<u64>,
    parking: Parking,
    /// Whether another process appended though none may: then this one can do nothing more.
    replaced: bool,
    /// Whether nobody may wait any more.
    draining: bool,
    followers: SyncSender<Group>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    /// Encoded events of the group in the making; kept for its capacity.
    encoded: Vec<u8>,
}

/// A group in the making.
#[derive(Default)]
struct Making {
    /// Decided, whether they made events or not.
    commands: u32,
    events: Vec<Event>,
    replies: Vec<(Reply, Results)>,
    granted: Vec<(Parked, Vec<LeaseId>)>,
    rejected: Vec<(Parked, Rejection)>,
    /// The spans of its decisions, as many as a span may be linked to.
    spans: Vec<Span>,
}

impl Making {
    fn trace(&mut self, span: Span) {
        if self.spans.len() < LINKS_MAX && !span.is_disabled() {
            self.spans.push(span);
        }
    }
}

/// The span of a group: one trace has it whole, and the others are linked to it.
fn group_span(decisions: &[Span], events: usize) -> Span {
    let Some((first, others)) = decisions.split_first() else { return Span::none() };
    let span = tracing::info_span!(parent: first, "commit", events);
    for other in others {
        span.follows_from(other);
    }
    span
}

impl Core {
    fn run(&mut self, requests: &Receiver<Request>) {
        loop {
            let first = match requests.recv_timeout(self.sleep()) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => {
                    // Time alone may make work: the market's verifier may take a check that waited long enough.
                    self.parking.wake();
                    None
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // Before anybody is answered: this process may have slept while another took its place.
            self.tend();
            if !self.round(first, requests) {
                self.end();
                self.leadership.leave();
                return;
            }
        }
    }

    fn sleep(&mut self) -> Duration {
        let now = Instant::now();
        let parked = self.parking.next_deadline().map(|until| until.saturating_duration_since(now));
        let next = match self.pause.left(now) {
            Some(left) => Some(left),
            None if self.state.is_none() || (self.leadership.leads() && self.parking.is_due()) => {
                Some(Duration::ZERO)
            }
            None => self.due_ms.map(|at| Duration::from_millis(at.saturating_sub(self.clock.now_ms()))),
        };
        let seat = self.leadership.idle(now);
        [parked, next, seat].into_iter().flatten().min().unwrap_or(SLEEP_MAX).min(SLEEP_MAX)
    }

    /// Does this process's part among those of the market, where something of it is due.
    fn tend(&mut self) {
        match self.leadership.tend(Instant::now()) {
            Duty::None => {}
            Duty::Follow => {
                if let Err(error) = self.follow() {
                    tracing::warn!(cause = %Causes(&error), "cannot follow the journal");
                }
            }
            Duty::TakeOver { term } => {
                if let Err(error) = self.take_over(term) {
                    tracing::warn!(cause = %Causes(&error), term, "cannot take over yet");
                }
            }
            Duty::StepDown => self.step_down(),
        }
    }

    /// Folds what was appended since. The state is then the journal's, to its end.
    fn follow(&mut self) -> Result<(), StoreError> {
        if self.state.is_none() {
            self.restore();
        }
        loop {
            self.journal.find_head()?;
            let Some(state) = &mut self.state else { return Ok(()) };
            if state.seq() == self.journal.next_seq() {
                return Ok(());
            }
            let (followers, durable, now_ms) = (&self.followers, &self.status.durable, &mut self.now_ms);
            self.journal.replay(state.seq(), |stored| {
                let group = Group::decode(&stored)?;
                for event in &group.events {
                    state.evolve(group.at_ms, event);
                }
                *now_ms = group.at_ms.max(*now_ms);
                durable.send_replace(state.seq());
                // The follower is gone only when the market stops.
                let _ = followers.send(group);
                Ok::<_, StoreError>(())
            })?;
        }
    }

    /// Appends the first group of a term, and leads once that is durable.
    fn take_over(&mut self, term: u64) -> Result<(), StoreError> {
        for _ in 0..TAKEOVER_TRIES {
            self.follow()?;
            // The leader before may have had a clock that is ahead of ours. Alone, time begins at the wall's.
            let at_least_ms = if self.leadership.is_shared() { self.now_ms } else { 0 };
            self.clock = SystemClock::start_at_least(at_least_ms);
            self.now_ms = self.clock.now_ms();
            let mut making = Making::default();
            self.encoded.clear();
            let Some(state) = &mut self.state else { return Ok(()) };
            if state.seq() == 0 {
                let Founding { market, params, .. } = self.founding.clone();
                let founded = State::found(market, params, self.now_ms);
                let (founded, event) = founded.expect("a market is started with safe parameters");
                *state = founded;
                borsh::to_writer(&mut self.encoded, &event).expect("writing to a Vec cannot fail");
                making.events.push(event);
            } else if let Err(rejection) = self.decide(Command::Resume, &mut making) {
                unreachable!("a market may always resume: {rejection}");
            }
            let challenges = self.founding.challenges.clone();
            let due = self.state.as_ref().and_then(|state| challenges.due_at_start(state, self.now_ms));
            self.anchor(due, &mut making);
            match self.append(&making.events) {
                Ok(()) => {
                    self.pass_on(making.events);
                    self.due_ms = self.state.as_ref().and_then(|state| state.next_deadline_ms(self.now_ms));
                    self.leadership.lead(term);
                    self.parking.wake();
                    self.metrics.leads.set(1);
                    if term > 1 {
                        self.metrics.takeovers.inc();
                    }
                    if self.leadership.is_shared() {
                        tracing::info!(term, "this process leads the market");
                    }
                    return Ok(());
                }
                Err(error) => {
                    self.state = None;
                    if !self.leadership.is_shared() || !matches!(error, StoreError::Taken { .. }) {
                        return Err(error);
                    }
                    // The leader before was not gone yet.
                }
            }
        }
        Ok(())
    }

    /// Another process leads: those who wait are told so, and it is followed from now on.
    fn step_down(&mut self) {
        tracing::warn!("another process leads the market; this one follows");
        self.metrics.leads.set(0);
        self.leadership.step_down(Instant::now());
        self.pause.end();
        self.due_ms = None;
        self.status.failing.store(false, Ordering::Relaxed);
        for parked in self.parking.drain() {
            let _ = parked.reply.send(Err(Refusal::NotLeading));
        }
    }

    /// Whether something can be decided: this process leads, there is a state, and the journal did not fail just now.
    fn decides(&self) -> bool {
        self.state.is_some() && self.leadership.leads() && self.pause.left(Instant::now()).is_none()
    }

    /// Why nothing can be decided or told.
    fn refusal(&self) -> Refusal {
        if self.leadership.leads() { Refusal::Unavailable } else { Refusal::NotLeading }
    }

    /// Decides what waits, journals it and answers. `false` when it is time to end.
    fn round(&mut self, first: Option<Request>, requests: &Receiver<Request>) -> bool {
        self.now_ms = self.clock.now_ms().max(self.now_ms);
        if self.state.is_none() && self.pause.left(Instant::now()).is_none() {
            let took = self.restore();
            if self.state.is_none() {
                self.pause.failed(Instant::now(), took);
            }
        }
        let mut making = Making::default();
        let mut running = true;
        self.encoded.clear();
        if self.decides() {
            let due = self.state.as_ref().and_then(|state| self.founding.challenges.due(state, self.now_ms));
            self.anchor(due, &mut making);
        }
        self.advance(&mut making);
        let mut next = first;
        let mut later = Vec::new();
        loop {
            let request = match next.take() {
                Some(request) => request,
                None if self.encoded.len() >= GROUP_BYTES_MAX => break,
                None => match requests.try_recv() {
                    Ok(request) => request,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        running = false;
                        break;
                    }
                },
            };
            match request {
                Request::Decide { commands, reply, span } => {
                    if !self.decides() {
                        reply(Err(self.refusal()));
                        continue;
                    }
                    let kind = commands.first().map_or("nothing", kind);
                    let span = tracing::info_span!(parent: &span, "decide", kind, commands = commands.len());
                    let decide = || commands.into_iter().map(|c| self.decide(c, &mut making)).collect();
                    let results = span.in_scope(decide);
                    making.trace(span);
                    making.replies.push((reply, results));
                }
                Request::Lease(parked) => self.lease(parked, &mut making),
                Request::Query(ask) => later.push((ask, false)),
                Request::Peek(ask) => later.push((ask, true)),
                Request::JournalBytesMax(bytes_max, done) => {
                    if let Err(error) = self.journal.set_bytes_max(bytes_max) {
                        tracing::error!(cause = %Causes(&error), "cannot limit the journal");
                    }
                    // There may be room now.
                    self.pause.end();
                    let _ = done.send(());
                }
                Request::Drain(done) => {
                    self.draining = true;
                    let _ = done.send(());
                }
                Request::Stop => {
                    running = false;
                    break;
                }
            }
        }
        self.retry_parked(&mut making);
        self.commit(making);
        // After the commit, so that what they see is durable and their askers' own writes are in it.
        let sure = self.leadership.is_sure(Instant::now());
        for (ask, whoever_leads) in later {
            match &self.state {
                Some(state) if sure || whoever_leads => ask(Ok((state, self.now_ms))),
                _ => ask(Err(self.refusal())),
            }
        }
        self.give_up_waiting();
        if self.draining {
            self.end();
        }
        if self.leadership.leads() {
            self.due_ms = self.state.as_ref().and_then(|state| state.next_deadline_ms(self.now_ms));
        }
        running && !self.replaced
    }

    /// Begins a chain of challenge keys, if there is need.
    fn anchor(&mut self, due: Option<Command>, making: &mut Making) {
        if let Some(command) = due
            && let Err(rejection) = self.decide(command, making)
        {
            unreachable!("a chain may always begin: {rejection}");
        }
    }

    fn decide(&mut self, mut command: Command, making: &mut Making) -> Result<Answer, Rejection> {
        let state = self.state.as_mut().expect("callers look first");
        let kind = kind(&command);
        // It comes with the receipt's digest; the key is that of the epoch in which the receipt is journaled.
        if let Command::Commit { seed, .. } = &mut command {
            *seed = self.founding.challenges.seed(state, self.now_ms, seed);
        }
        let decision = engine::decide(state, self.now_ms, command);
        self.metrics.decided(kind, decision.is_err());
        let decision = decision?;
        making.commands += 1;
        for event in decision.events {
            if event.may_make_work() {
                self.parking.wake();
            }
            borsh::to_writer(&mut self.encoded, &event).expect("writing to a Vec cannot fail");
            making.events.push(event);
        }
        Ok(decision.answer)
    }

    /// Lets time pass in the engine where something is due.
    fn advance(&mut self, making: &mut Making) {
        // As it was seen when the sleep began: a waiting check's time is no deadline any more once it has come.
        if !self.decides() || self.due_ms.is_none_or(|at| at > self.now_ms) {
            return;
        }
        self.parking.wake();
        if let Err(rejection) = self.decide(Command::AdvanceTime, making) {
            tracing::error!(%rejection, "time cannot pass");
        }
    }

    fn lease(&mut self, parked: Parked, making: &mut Making) {
        if !self.decides() {
            let _ = parked.reply.send(Err(self.refusal()));
            return;
        }
        if let Some(parked) = self.try_lease(parked, making) {
            if parked.wish.wait.is_zero() || self.draining {
                // Answered after the group like the others, so that its reason is about durable state.
                making.granted.push((parked, Vec::new()));
            } else {
                let state = self.state.as_ref().expect("it decides");
                let worker = state.workers().get(&parked.wish.worker);
                let class = Class::of(worker.map(|worker| &worker.device), parked.wish.others_only);
                let tier = state.service_tier(parked.wish.worker);
                if let Err(parked) = self.parking.park(parked, class, tier) {
                    let _ = parked.reply.send(Err(Refusal::Overloaded));
                }
            }
        }
    }

    /// Gives a wish back when there is no work for it.
    fn try_lease(&mut self, parked: Parked, making: &mut Making) -> Option<Parked> {
        // Work for somebody who is gone would be lost until it expires.
        if parked.reply.is_closed() {
            return None;
        }
        let LeaseWish { worker, instance, packages_max, others_only, .. } = &parked.wish;
        let command = Command::RequestLeases {
            worker: *worker,
            instance: instance.clone(),
            packages_max: *packages_max,
            others_only: *others_only,
        };
        match self.decide(command, making) {
            Ok(Answer::Leases(leases)) if !leases.is_empty() => {
                let (kind, leased) = ("request_leases", leases.len());
                making.trace(tracing::info_span!(parent: &parked.span, "decide", kind, leased));
                making.granted.push((parked, leases));
            }
            Ok(_) => return Some(parked),
            Err(rejection) => making.rejected.push((parked, rejection)),
        }
        None
    }

    fn retry_parked(&mut self, making: &mut Making) {
        if !self.parking.is_due() || !self.decides() {
            return;
        }
        let mut parking = std::mem::take(&mut self.parking);
        let began = Instant::now();
        parking.retry(|| began.elapsed() > TRIES_TIME_MAX, |parked| self.try_lease(parked, making));
        // What was given out to several at once waits for each of them.
        let offered: Vec<_> = self.state.iter().flat_map(|state| state.offered_workers()).collect();
        for worker in offered {
            parking.retry_of(worker, |parked| self.try_lease(parked, making));
        }
        // What was granted may have made work for others: news meanwhile went to the empty one.
        if self.parking.is_woken() {
            parking.wake();
        }
        self.parking = parking;
    }

    fn commit(&mut self, making: Making) {
        let Making { commands, events, replies, granted, rejected, spans } = making;
        if events.is_empty() && !self.leadership.is_sure(Instant::now()) {
            // Nothing is appended that would find out whether somebody else leads by now.
            for (reply, _) in replies {
                reply(Err(self.refusal()));
            }
            for parked in granted.into_iter().map(|(p, _)| p).chain(rejected.into_iter().map(|(p, _)| p)) {
                let _ = parked.reply.send(Err(self.refusal()));
            }
            return;
        }
        if !events.is_empty()
            && let Err(error) = group_span(&spans, events.len()).in_scope(|| self.append(&events))
        {
            self.metrics.append_failures.inc();
            tracing::error!(cause = %Causes(&error), "cannot write the journal; nothing of the group is accepted");
            let taken = matches!(error, StoreError::Taken { .. });
            let shared = self.leadership.is_shared();
            let refusal = || match error {
                StoreError::Taken { .. } if shared => Refusal::NotLeading,
                StoreError::Unknown { .. } => Refusal::Unknown,
                _ => Refusal::Unavailable,
            };
            self.status.failing.store(true, Ordering::Relaxed);
            for (reply, _) in replies {
                reply(Err(refusal()));
            }
            for parked in
                granted.into_iter().map(|(parked, _)| parked).chain(rejected.into_iter().map(|(p, _)| p))
            {
                let _ = parked.reply.send(Err(refusal()));
            }
            self.state = None;
            if !taken {
                let took = self.restore();
                self.pause.failed(Instant::now(), took);
            } else if shared {
                // Whatever this process would decide is void. It reads what is true as a standby.
                self.step_down();
            } else {
                self.replaced = true;
            }
            return;
        }
        if !events.is_empty() {
            self.metrics.group_commands.observe(commands.into());
            count(&self.metrics, &events);
        }
        // Before anybody is answered: who then asks for a list is to find what they wrote.
        if !events.is_empty() {
            self.pass_on(events);
        }
        let Some(state) = &self.state else { return };
        for (reply, results) in replies {
            reply(Ok((state, self.now_ms, results)));
        }
        for (parked, rejection) in rejected {
            let _ = parked.reply.send(Err(Refusal::Rejected(rejection)));
        }
        let mut lost = Vec::new();
        for (parked, leases) in granted {
            let worker = parked.wish.worker;
            if !leases.is_empty() {
                self.metrics.lease_seconds.observe(parked.waited().as_secs_f64());
            }
            let answer = view::lease_answer(state, self.now_ms, worker, &leases);
            if parked.reply.send(Ok(answer)).is_err() {
                lost.extend(leases.into_iter().map(|lease| (worker, lease)));
            }
        }
        if !lost.is_empty() {
            self.give_back(lost);
        }
    }

    /// Tells of events that are durable.
    fn pass_on(&mut self, events: Vec<Event>) {
        let first_seq = self.journal.next_seq() - events.len() as u64;
        self.status.durable.send_replace(self.journal.next_seq());
        // The follower is gone only when the market stops.
        let _ = self.followers.send(Group { first_seq, at_ms: self.now_ms, events });
    }

    fn append(&mut self, events: &[Event]) -> Result<(), StoreError> {
        let state = self.state.as_ref().expect("events come from a state");
        let first_seq = self.journal.next_seq();
        assert_eq!(state.seq(), first_seq + events.len() as u64, "the state and the journal count alike");
        let count = u32::try_from(events.len()).expect("a group is bounded");
        let began = Instant::now();
        self.journal.append(first_seq, self.now_ms, count, ENCODING_VERSION, &self.encoded)?;
        self.metrics.append_seconds.observe(began.elapsed().as_secs_f64());
        self.metrics.groups.inc();
        self.metrics.events.inc_by(count.into());
        self.metrics.journal_bytes.inc_by(self.encoded.len() as u64);
        self.status.failing.store(false, Ordering::Relaxed);
        self.pause.end();
        Ok(())
    }

    /// Returns leases whose asker went away while they were granted.
    fn give_back(&mut self, lost: Vec<(PublicKey, LeaseId)>) {
        let mut making = Making::default();
        self.encoded.clear();
        for (worker, lease) in lost {
            let state = self.state.as_ref().expect("it was just committed");
            let Some(generation) = state.leases().get(&lease).map(|lease| lease.generation) else { continue };
            let release = Command::Release { worker, lease, generation, release: Release::Returned };
            if let Err(rejection) = self.decide(release, &mut making) {
                tracing::warn!(%lease, %rejection, "cannot give a lost lease back");
            }
        }
        self.commit(making);
    }

    /// Makes the state again from the last snapshot and the journal, and says how long that took.
    fn restore(&mut self) -> Duration {
        let began = Instant::now();
        // Of a group whose append was not answered, or that another leader appended, nobody was told yet.
        let (followers, durable) = (&self.followers, &self.status.durable);
        let restored = self.journal.find_head().and_then(|()| {
            // A later one, of another process, would jump over groups that nobody here was told of.
            let seq_max = self.journal.next_seq().min(*durable.borrow());
            let saved = snapshots::load(&self.snapshots, seq_max).unwrap_or_default();
            replay(&self.journal, saved, |group| {
                let end = group.first_seq + group.events.len() as u64;
                if group.first_seq >= *durable.borrow() {
                    let _ = followers.send(group);
                    durable.send_replace(end);
                }
            })
        });
        match restored {
            Ok(Some(Replayed { state, at_ms })) => {
                self.state = Some(state);
                self.now_ms = self.now_ms.max(at_ms);
            }
            Ok(None) if self.leadership.is_shared() => self.state = Some(State::default()),
            Ok(None) => tracing::error!("the journal is empty"),
            Err(error) => tracing::error!(cause = %Causes(&error), "cannot read the journal"),
        }
        self.parking.wake();
        began.elapsed()
    }

    /// Answers those whose wait is over.
    fn give_up_waiting(&mut self) {
        let now = Instant::now();
        let (state, now_ms) = (&self.state, self.now_ms);
        while let Some(parked) = self.parking.pop_over(now) {
            if parked.reply.is_closed() {
                continue;
            }
            let answer = match state {
                Some(state) => Ok(view::lease_answer(state, now_ms, parked.wish.worker, &[])),
                None => Err(Refusal::Unavailable),
            };
            // It is about state that was durable a moment ago, whoever leads now.
            let _ = parked.reply.send(answer);
        }
        self.metrics.parked.set(self.parking.len() as i64);
    }

    fn end(&mut self) {
        for parked in self.parking.drain() {
            let answer = match &self.state {
                Some(state) => Ok(view::lease_answer(state, self.now_ms, parked.wish.worker, &[])),
                None => Err(Refusal::Stopped),
            };
            let _ = parked.reply.send(answer);
        }
    }
}

/// A command's kind, for counting.
fn kind(command: &Command) -> &'static str {
    match command {
        Command::Deposit { .. } => "deposit",
        Command::DelegateSession { .. } => "delegate_session",
        Command::Submit(_) => "submit",
        Command::Cancel { .. } => "cancel",
        Command::Pause { .. } => "pause",
        Command::ResumeJob { .. } => "resume_job",
        Command::Archive { .. } => "archive",
        Command::Announce { .. } => "announce",
        Command::Heartbeat { .. } => "heartbeat",
        Command::Leave { .. } => "leave",
        Command::RequestLeases { .. } => "request_leases",
        Command::Release { .. } => "release",
        Command::Commit { .. } => "commit",
        Command::AnchorChallenges { .. } => "anchor_challenges",
        Command::RecordOpinion { .. } => "record_opinion",
        Command::RecordUndecided { .. } => "record_undecided",
        Command::Bond { .. } => "bond",
        Command::Unbond { .. } => "unbond",
        Command::Rate { .. } => "rate",
        Command::Contest { .. } => "contest",
        Command::SetParams { .. } => "set_params",
        Command::GiveSealingKey { .. } => "sealing_key",
        Command::Reserve(_) => "reserve",
        Command::EndReservation { .. } => "end_reservation",
        Command::AdvanceTime => "advance_time",
        Command::Resume => "resume",
    }
}

/// Counts what became durable.
fn count(metrics: &Metrics, events: &[Event]) {
    for event in events {
        match event {
            Event::CheckDecided { agrees, .. } => metrics.checked(*agrees),
            Event::PackageAccepted { .. } => metrics.settled(true),
            Event::PackageRejected { .. } => metrics.settled(false),
            _ => {}
        }
    }
}

/// What a journal says.
#[derive(Default)]
pub struct Replayed {
    /// The fold of its events.
    pub state: State,
    /// When its last group was decided.
    pub at_ms: u64,
}

/// Folds what the journal holds after what was `replayed`; `visit` sees each group. Nothing when the journal is empty.
pub fn replay(
    journal: &Journal,
    mut replayed: Replayed,
    mut visit: impl FnMut(Group),
) -> Result<Option<Replayed>, StoreError> {
    journal.replay(replayed.state.seq(), |stored| {
        let group = Group::decode(&stored)?;
        for event in &group.events {
            replayed.state.evolve(group.at_ms, event);
        }
        replayed.at_ms = replayed.at_ms.max(group.at_ms);
        visit(group);
        Ok::<_, StoreError>(())
    })?;
    Ok((replayed.state.seq() > 0).then_some(replayed))
}

#[cfg(test)]
mod tests {
    use engine::Params;
    use protocol::{Amount, DeviceFacts, DeviceLimits, WorkerKind};
    use store::JournalOptions;

    use super::*;
    use crate::parked::PARKED_MAX;

    const MARKET: PublicKey = PublicKey([7; 32]);
    const ADA: PublicKey = PublicKey([1; 32]);

    fn start(folder: &std::path::Path) -> (Committer, JoinHandle<()>) {
        start_with(folder, Leadership::alone(), Arc::default())
    }

    fn start_with(
        folder: &std::path::Path,
        leadership: Leadership,
        metrics: Arc<Metrics>,
    ) -> (Committer, JoinHandle<()>) {
        let path = folder.join("journal.db");
        let journal = Journal::open(&*path, &MARKET, JournalOptions::default()).expect("opens");
        let replayed = replay(&journal, Replayed::default(), drop).expect("intact");
        // Nobody sends heartbeats here, and a loaded machine takes its time.
        let params = Params { heartbeat_ms_max: 3_600_000, ..Params::default() };
        let challenges = Arc::new(Challenges::new(protocol::Hash::of(b"secret"), Duration::from_secs(3600)));
        let founding = Founding { market: MARKET, params, challenges };
        let (followers, groups) = sync_channel(64);
        std::thread::spawn(move || groups.into_iter().for_each(drop));
        let snapshots = Snapshots::open(folder.join("snapshots.db"), &MARKET).expect("opens");
        Committer::start(journal, snapshots, replayed, founding, leadership, followers, metrics)
            .expect("it starts")
    }

    fn deposit(amount: u64) -> Command {
        Command::Deposit { account: ADA, amount: Amount(amount), key: None }
    }

    async fn announce(committer: &Committer) {
        announce_as(committer, ADA).await;
    }

    async fn announce_as(committer: &Committer, worker: PublicKey) {
        let limits = DeviceLimits {
            storage_buffer_bytes_max: 1,
            buffer_bytes_max: 1,
            storage_buffers_max: 1,
            workgroup_invocations_max: 1,
            workgroup_bytes_max: 1,
            workgroups_per_dimension_max: 1,
        };
        let device = DeviceFacts {
            kind: WorkerKind::Native,
            adapter: String::new(),
            vendor: String::new(),
            backend: String::new(),
            features: vec![],
            limits,
        };
        let command = Command::Announce {
            worker,
            instance: "a".into(),
            device,
            version: String::new(),
            offer: Default::default(),
        };
        committer.decide(command, |_, _, _| ()).await.expect("it is announced");
    }

    /// A job of ADA's with one unit.
    fn one_unit() -> Command {
        let stage = engine::Stage {
            name: String::new(),
            manifest: protocol::Hash([0; 32]),
            inputs: vec![],
            units: 1,
            unit_price: Amount(1),
            package_units: None,
            time_ms_max: 1,
            requirements: Default::default(),
            outputs_exact: vec![true],
            output_bytes: vec![],
            policy: engine::Policy::Audit { rate_min_ppm: 0 },
            work: Default::default(),
            devices: 1,
            replicas: 1,
        };
        let spec = engine::JobSpec::plain(String::new(), Default::default(), "[]".into(), stage);
        let submission = engine::Submission {
            owner: ADA,
            spec,
            quoted: vec![],
            budget: None,
            key: None,
            canaries: vec![],
            sealed: None,
        };
        Command::Submit(Box::new(submission))
    }

    #[tokio::test]
    async fn a_leader_that_was_replaced_steps_down() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, first_thread) = start(folder.path());
        let (second, _second_thread) = start(folder.path());
        second.decide(deposit(1), |_, _, _| ()).await.expect("it leads");
        assert!(matches!(first.decide(deposit(2), |_, _, _| ()).await, Err(Refusal::Unavailable)));
        first_thread.join().expect("it ends by itself");
        assert!(*first.status().dead.borrow());
        assert!(matches!(first.decide(deposit(3), |_, _, _| ()).await, Err(Refusal::Stopped)));
        let available = second.query(|state, _| state.accounts()[&ADA].available).await.expect("it leads");
        assert_eq!(available, Amount(1));
    }

    #[test]
    fn a_journal_that_fails_again_is_left_alone_for_longer() {
        let now = Instant::now();
        let mut pause = Pause::default();
        assert_eq!(pause.left(now), None);
        let lengths: Vec<_> = (0..7)
            .map(|_| {
                pause.failed(now, Duration::ZERO);
                pause.left(now).expect("it pauses").as_millis()
            })
            .collect();
        assert_eq!(lengths, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pause.left(now + PAUSE_MAX), None);
        pause.failed(now, Duration::from_secs(30));
        assert_eq!(pause.left(now), Some(Duration::from_secs(30)), "as long as a replay takes");
        pause.end();
        assert_eq!(pause.left(now), None);
    }

    #[tokio::test]
    async fn while_the_journal_cannot_be_written_changes_fail_at_once_and_questions_are_answered() {
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = Arc::<Metrics>::default();
        let (committer, _thread) = start_with(folder.path(), Leadership::alone(), metrics.clone());
        committer.set_journal_bytes_max(Some(1)).await.expect("it runs");
        let mut deposited = 0;
        // The last page may have room for a few small groups.
        while committer.decide(deposit(1), |_, _, _| ()).await.is_ok() {
            deposited += 1;
        }
        for _ in 0..10_000 {
            assert!(matches!(committer.decide(deposit(1), |_, _, _| ()).await, Err(Refusal::Unavailable)));
        }
        let available = |state: &State, _| state.accounts().get(&ADA).map_or(0, |ada| ada.available.0);
        assert_eq!(committer.query(available).await.expect("the state is there"), deposited);
        let failures = metrics.append_failures.get();
        assert!(failures < 50, "{failures} attempts");
        committer.set_journal_bytes_max(None).await.expect("it runs");
        committer.decide(deposit(1), |_, _, _| ()).await.expect("room");
        assert_eq!(committer.query(available).await.expect("durable"), deposited + 1);
    }

    #[tokio::test]
    async fn after_a_failure_the_state_comes_from_the_last_snapshot() {
        let folder = tempfile::tempdir().expect("a folder");
        let (committer, _thread) = start(folder.path());
        for _ in 0..3 {
            committer.decide(deposit(1), |_, _, _| ()).await.expect("room");
        }
        let state = committer.query(|state, at_ms| Replayed { state: state.clone(), at_ms }).await;
        let mut saved = Snapshots::open(folder.path().join("snapshots.db"), &MARKET).expect("opens");
        snapshots::save(&mut saved, &state.expect("it leads")).expect("room");
        // Nothing else tells of what is in the snapshot any more.
        let groups = rusqlite::Connection::open(folder.path().join("journal.db")).expect("opens");
        let sql = "DELETE FROM groups WHERE first_seq < (SELECT max(first_seq) FROM groups)";
        assert!(groups.execute(sql, []).expect("deleted") > 0);
        drop(groups);
        committer.set_journal_bytes_max(Some(1)).await.expect("it runs");
        let mut deposited = 3;
        while committer.decide(deposit(1), |_, _, _| ()).await.is_ok() {
            deposited += 1;
        }
        let available = committer.query(|state, _| state.accounts()[&ADA].available).await;
        assert_eq!(available.expect("the state was made again"), Amount(deposited));
    }

    #[tokio::test]
    async fn too_many_who_wait_are_refused_and_the_others_are_answered_in_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let (committer, thread) = start(folder.path());
        announce(&committer).await;
        let wish = || LeaseWish {
            worker: ADA,
            instance: "a".into(),
            packages_max: 1,
            others_only: false,
            wait: Duration::from_secs(600),
        };
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..PARKED_MAX + 100 {
            let (committer, wish) = (committer.clone(), wish());
            waiting.spawn(async move { committer.lease(wish).await });
        }
        for _ in 0..100 {
            let first = waiting.join_next().await.expect("some are left").expect("no panic");
            assert!(matches!(first, Err(Refusal::Overloaded)), "only those too many do not wait");
        }
        let stopping = committer.clone();
        tokio::task::spawn_blocking(move || stopping.stop()).await.expect("it is told");
        let answered = waiting.join_all().await.into_iter().filter(|answer| answer.is_ok()).count();
        assert!(answered > 0, "nobody was answered");
        thread.join().expect("it ends well");
    }

    #[tokio::test]
    async fn a_wish_for_work_that_nobody_waits_for_takes_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let (committer, _thread) = start(folder.path());
        announce(&committer).await;
        let wish = LeaseWish {
            worker: ADA,
            instance: "a".into(),
            packages_max: 1,
            others_only: false,
            wait: Duration::from_secs(600),
        };
        let parked = tokio::spawn({
            let committer = committer.clone();
            async move { committer.lease(wish).await }
        });
        tokio::task::yield_now().await;
        parked.abort();
        assert!(parked.await.expect_err("aborted").is_cancelled());
        committer.decide(deposit(100), |_, _, _| ()).await.expect("room");
        committer.decide(one_unit(), |_, _, _| ()).await.expect("it fits");
        let leases = committer.query(|state, _| state.leases().len()).await.expect("durable");
        assert_eq!(leases, 0);
    }

    #[tokio::test]
    async fn of_those_who_wait_the_higher_tier_is_served_first() {
        const BEA: PublicKey = PublicKey([2; 32]);
        let folder = tempfile::tempdir().expect("a folder");
        let (committer, _thread) = start(folder.path());
        let changes = vec![("tier_1_nrs_milli".to_owned(), 0), ("tier_1_stake".to_owned(), 1)];
        let staked = [
            Command::SetParams { by: MARKET, changes },
            deposit(100),
            Command::Deposit { account: BEA, amount: Amount(1), key: None },
            Command::Bond { account: BEA, amount: Amount(1) },
        ];
        for command in staked {
            committer.decide(command, |_, _, _| ()).await.expect("it may");
        }
        let wish = |worker| LeaseWish {
            worker,
            instance: "a".into(),
            packages_max: 1,
            others_only: false,
            wait: Duration::from_secs(600),
        };
        for worker in [ADA, BEA] {
            announce_as(&committer, worker).await;
        }
        let mut ada = std::pin::pin!(committer.lease(wish(ADA)));
        let mut bea = std::pin::pin!(committer.lease(wish(BEA)));
        // Ada waits first.
        let served = async {
            tokio::select! {
                biased;
                _ = &mut ada => panic!("ada was served before bea"),
                answer = &mut bea => answer,
            }
        };
        let (served, submitted) = tokio::join!(served, committer.decide(one_unit(), |_, _, _| ()));
        submitted.expect("it fits");
        assert_eq!(served.expect("the market runs").leases.len(), 1);
    }
}
