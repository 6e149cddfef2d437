//! Keeps the device busy and survives what runs on it.
//!
//! Units flow through the device in order, several in flight, across the boundaries of packages, so that it computes one while
//! the next one's inputs and the last one's outputs move. The oldest unit in flight is the one that runs: it has as long as its
//! manifest allows from the moment that the one before it ended. If it takes longer, the device is killed, its package is given
//! back, and every other unit in flight, which is innocent, runs again on the restarted device.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use api::ReleaseCause;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use protocol::{Hash, LeaseId};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    WorkerError,
    backoff::Backoff,
    commit::{Finished, Gathering},
    context::Context,
    device::{Device, DeviceError, Program, UnitOutput},
    package::{Package, Refusal},
    status::reason,
};

/// Units in flight: one that runs, one ready behind it, one that is read back.
const IN_FLIGHT_MAX: usize = 3;
/// What a unit may take beyond its time on the device: transfers, a pipeline that is built for it, a busy machine.
const GRACE: Duration = Duration::from_secs(3);
/// Making a program ready takes at most this long.
const LOAD_TIME_MAX: Duration = Duration::from_secs(120);
/// A device that cannot be started this many times in a row is given up.
const STARTS_FAILED_MAX: u32 = 6;
/// A program that stopped the device this often, and never finished a unit in between, is not run any more: a job of a thousand
/// endless units must not keep a worker from everybody else's.
const OFFENCES_MAX: u32 = 3;
/// Programs whose offences are remembered.
const OFFENDERS_MAX: usize = 64;
/// Programs that stay on the device.
const PROGRAMS_LOADED_MAX: usize = 4;

/// What is asked of the device.
#[derive(Clone)]
enum Step {
    Load(Arc<Program>),
    Unit { package: Arc<Package>, position: usize },
}

impl Step {
    fn time_max(&self) -> Duration {
        match self {
            Self::Load(_) => LOAD_TIME_MAX,
            Self::Unit { package, .. } => {
                Duration::from_millis(package.program.plan.time_ms_max).saturating_add(GRACE)
            }
        }
    }
}

enum Done {
    Load,
    Unit(UnitOutput),
}

type Answer = (u64, Result<Done, DeviceError>);

/// Drives one device.
pub(crate) struct Runner<D> {
    context: Arc<Context>,
    device: D,
    finished: mpsc::UnboundedSender<Finished>,
    /// Packages with units that were not given to the device yet, in order.
    queue: VecDeque<(Arc<Package>, usize)>,
    /// Units to give again after a restart, before the queue.
    again: VecDeque<Step>,
    /// What the device was given and has not answered, in order.
    in_flight: VecDeque<(u64, Step)>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    gathering: BTreeMap<LeaseId, Gathering>,
    /// Programs on the device, the last used one last; and the one that is being loaded.
    loaded: Vec<Hash>,
    loading: Option<Hash>,
    next_ticket: u64,
    /// Since when the oldest in flight has the device.
    head_since: Instant,
    failures: Backoff,
    /// How often programs stopped the device since they last finished a unit; the latest last.
    offences: Vec<(Hash, u32)>,
}

impl<D: Device> Runner<D> {
    pub(crate) fn new(context: Arc<Context>, device: D, finished: mpsc::UnboundedSender<Finished>) -> Self {
        Self {
            context,
            device,
            finished,
            queue: VecDeque::new(),
            again: VecDeque::new(),
            in_flight: VecDeque::new(),
            answers: FuturesUnordered::new(),
            gathering: BTreeMap::new(),
            loaded: Vec::new(),
            loading: None,
            next_ticket: 0,
            head_since: Instant::now(),
            failures: Backoff::default(),
            offences: Vec::new(),
        }
    }

    /// Runs packages until there are no more to come.
    pub(crate) async fn run(mut self, mut packages: mpsc::Receiver<Package>) -> Result<(), WorkerError> {
        loop {
            self.fill();
            let running = !self.in_flight.is_empty();
            self.context.board.note(|parts| parts.running = running);
            let head_ends = self.in_flight.front().map(|(_, step)| self.head_since + step.time_max());
            tokio::select! {
                package = packages.recv(), if self.queue.len() < 2 => match package {
                    Some(package) => self.enqueue(package),
                    None if self.in_flight.is_empty() && self.queue.is_empty() => return Ok(()),
                    // Nothing more comes: the rest is worked off.
                    None => self.answered_once().await?,
                },
                Some(answer) = self.answers.next() => self.answered(answer).await?,
                () = tokio::time::sleep_until(head_ends.unwrap_or_else(Instant::now)), if head_ends.is_some() => {
                    self.timed_out().await?;
                }
            }
        }
    }

    async fn answered_once(&mut self) -> Result<(), WorkerError> {
        let head_ends = self.in_flight.front().map(|(_, step)| self.head_since + step.time_max());
        let Some(head_ends) = head_ends else { return Ok(()) };
        match tokio::time::timeout_at(head_ends, self.answers.next()).await {
            Ok(Some(answer)) => self.answered(answer).await,
            Ok(None) => Ok(()),
            Err(_) => self.timed_out().await,
        }
    }

    fn enqueue(&mut self, package: Package) {
        if package.holding.is_over() {
            return;
        }
        if self.context.draining() {
            return self.context.release(&package.holding, leaving());
        }
        let offences = self.offences.iter().find(|(id, _)| *id == package.program.id);
        if offences.is_some_and(|(_, count)| *count >= OFFENCES_MAX) {
            let detail =
                format!("the program stopped this device {OFFENCES_MAX} times and is not run here any more");
            let refusal = Refusal { cause: ReleaseCause::ProgramFailed, detail };
            return self.context.release(&package.holding, refusal);
        }
        let package = Arc::new(package);
        self.gathering.insert(package.holding.lease.id, Gathering::new(package.clone()));
        self.queue.push_back((package, 0));
    }

    /// Gives the device as much as may be in flight.
    fn fill(&mut self) {
        while self.in_flight.len() < IN_FLIGHT_MAX {
            let Some(step) = self.next_step() else { return };
            let future = match &step {
                Step::Load(program) => {
                    self.loading = Some(program.id);
                    self.device.load(program.clone()).map(|done| done.map(|()| Done::Load)).boxed()
                }
                Step::Unit { package, position } => {
                    if let Some(gathering) = self.gathering.get_mut(&package.holding.lease.id) {
                        gathering.begun();
                    }
                    let unit = self.device.run(package.program.id, package.inputs(*position));
                    unit.map(|done| done.map(Done::Unit)).boxed()
                }
            };
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            if self.in_flight.is_empty() {
                self.head_since = Instant::now();
            }
            self.in_flight.push_back((ticket, step));
            self.answers.push(future.map(move |done| (ticket, done)).boxed());
        }
    }

    /// What to give the device next; nothing while that needs a program that is still being loaded.
    fn next_step(&mut self) -> Option<Step> {
        loop {
            let (package, position) = match self.again.front() {
                Some(Step::Unit { package, position }) => (package.clone(), *position),
                Some(Step::Load(_)) => {
                    self.again.pop_front();
                    continue;
                }
                None => self.queue.front().map(|(package, position)| (package.clone(), *position))?,
            };
            if package.holding.is_over() {
                self.drop_package(&package);
                continue;
            }
            // A drain ends packages of which no unit ran yet.
            if position == 0 && self.again.is_empty() && self.context.draining() {
                self.context.release(&package.holding, leaving());
                self.drop_package(&package);
                continue;
            }
            let id = package.program.id;
            if self.loading.is_some() {
                return None;
            }
            let Some(at) = self.loaded.iter().position(|loaded| *loaded == id) else {
                return Some(Step::Load(package.program.clone()));
            };
            let id = self.loaded.remove(at);
            self.loaded.push(id);
            if let Some(step) = self.again.pop_front() {
                return Some(step);
            }
            let (_, next) = self.queue.front_mut()?;
            *next += 1;
            if *next == package.units.len() {
                self.queue.pop_front();
            }
            return Some(Step::Unit { package, position });
        }
    }

    /// Takes a package that is over out of everything but what is in flight.
    fn drop_package(&mut self, package: &Arc<Package>) {
        let other = |step: &Step| !matches!(step, Step::Unit { package: p, .. } if Arc::ptr_eq(p, package));
        self.again.retain(other);
        self.queue.retain(|(p, _)| !Arc::ptr_eq(p, package));
        self.gathering.remove(&package.holding.lease.id);
    }

    async fn answered(&mut self, (ticket, done): Answer) -> Result<(), WorkerError> {
        let Some(at) = self.in_flight.iter().position(|(t, _)| *t == ticket) else { return Ok(()) };
        let Some((_, step)) = self.in_flight.remove(at) else { return Ok(()) };
        let took = self.head_since.elapsed();
        self.head_since = Instant::now();
        match (step, done) {
            (Step::Load(program), Ok(_)) => {
                self.loading = None;
                self.loaded.push(program.id);
                self.unload_old();
            }
            (Step::Load(program), Err(DeviceError::Program(why))) => {
                self.loading = None;
                self.refuse_program(&program, &why);
            }
            (Step::Unit { package, position }, Ok(Done::Unit(output))) => {
                self.failures.reset();
                self.offences.retain(|(id, _)| *id != package.program.id);
                self.unit_done(&package, position, output, took);
            }
            (Step::Unit { package, .. }, Ok(Done::Load)) => unreachable!("{package:?} is not a program"),
            (Step::Unit { package, .. }, Err(DeviceError::Program(why))) => {
                let detail = format!("the program failed: {why}");
                self.context
                    .release(&package.holding, Refusal { cause: ReleaseCause::ProgramFailed, detail });
                self.drop_package(&package);
            }
            (step, Err(DeviceError::Lost(why))) => {
                // All in flight fail together, in whatever order; the oldest is the one that ran.
                self.in_flight.insert(at, (ticket, step));
                if let Some((_, oldest)) = self.in_flight.pop_front() {
                    self.failed(oldest, ReleaseCause::DeviceFailed, why).await?;
                }
            }
        }
        Ok(())
    }

    fn unit_done(&mut self, package: &Arc<Package>, position: usize, output: UnitOutput, took: Duration) {
        self.context.board.note(|parts| parts.units_run += 1);
        let holding = &package.holding;
        self.context.leases.unit_done(holding, took);
        let id = holding.lease.id;
        let lengths = output.outputs.iter().map(|bytes| bytes.len() as u64);
        if !lengths.eq(package.program.plan.output_lengths()) {
            let detail = "the device gave outputs of other sizes than the program's".to_owned();
            self.context.release(holding, Refusal { cause: ReleaseCause::DeviceFailed, detail });
            return self.drop_package(package);
        }
        let Some(gathering) = self.gathering.get_mut(&id) else { return };
        if gathering.add(&self.context, position, output)
            && let Some(gathering) = self.gathering.remove(&id)
        {
            tokio::spawn(gathering.commit(self.context.clone(), self.finished.clone()));
        }
    }

    fn unload_old(&mut self) {
        let in_use: HashSet<Hash> = self
            .queue
            .iter()
            .map(|(package, _)| package.program.id)
            .chain(self.loaded.last().copied())
            .collect();
        while self.loaded.len() > PROGRAMS_LOADED_MAX
            && let Some(at) = self.loaded.iter().position(|id| !in_use.contains(id))
        {
            self.device.unload(self.loaded.remove(at));
        }
    }

    /// Gives back every package of a program that the device's runtime refuses.
    fn refuse_program(&mut self, program: &Arc<Program>, why: &str) {
        let packages: Vec<_> = self
            .queue
            .iter()
            .map(|(package, _)| package)
            .chain(self.again.iter().filter_map(|step| match step {
                Step::Unit { package, .. } => Some(package),
                Step::Load(_) => None,
            }))
            .filter(|package| package.program.id == program.id)
            .cloned()
            .collect();
        for package in packages {
            let refusal = Refusal { cause: ReleaseCause::ProgramFailed, detail: why.to_owned() };
            self.context.release(&package.holding, refusal);
            self.drop_package(&package);
        }
    }

    /// The oldest in flight had its time.
    async fn timed_out(&mut self) -> Result<(), WorkerError> {
        let Some((_, step)) = self.in_flight.pop_front() else { return Ok(()) };
        let time_max = step.time_max();
        match step {
            Step::Load(program) => {
                let why = format!("building the program took longer than {} s", time_max.as_secs());
                self.failed(Step::Load(program), ReleaseCause::ProgramFailed, why).await
            }
            Step::Unit { ref package, position } => {
                let unit = package.units[position];
                let time_ms_max = package.program.plan.time_ms_max;
                let why = format!("unit {unit} ran longer than its {time_ms_max} ms");
                self.failed(step, ReleaseCause::TimedOut, why).await
            }
        }
    }

    /// The device is gone or must go, because of `step`: its package is given back.
    async fn failed(&mut self, step: Step, cause: ReleaseCause, why: String) -> Result<(), WorkerError> {
        match step {
            Step::Unit { package, .. } => {
                self.offended(package.program.id);
                self.context.release(&package.holding, Refusal { cause, detail: why.clone() });
                self.drop_package(&package);
            }
            Step::Load(program) => {
                self.offended(program.id);
                self.refuse_program(&program, &why);
            }
        }
        self.restart(&why).await
    }

    fn offended(&mut self, program: Hash) {
        let at = self.offences.iter().position(|(id, _)| *id == program);
        let before = at.map_or(0, |at| self.offences.remove(at).1);
        self.offences.push((program, before + 1));
        if self.offences.len() > OFFENDERS_MAX {
            self.offences.remove(0);
        }
    }

    /// Kills the device, starts it again and lines up what was in flight.
    async fn restart(&mut self, why: &str) -> Result<(), WorkerError> {
        self.answers.clear();
        for (_, step) in self.in_flight.drain(..).rev() {
            self.again.push_front(step);
        }
        self.loaded.clear();
        self.loading = None;
        let mut why = why.to_owned();
        for _ in 0..STARTS_FAILED_MAX {
            self.context.device_down(&why);
            self.device.kill().await;
            let pause = self.failures.next();
            // The first restart after a success is immediate: one endless unit is the unit's fault.
            if self.failures.failures() > 1 {
                tokio::time::sleep(pause).await;
            }
            match self.device.start().await {
                Ok(facts) => {
                    self.context.device_up(facts);
                    self.head_since = Instant::now();
                    return Ok(());
                }
                Err(error) => why = error.reason(),
            }
        }
        Err(WorkerError::Device { reason: why })
    }
}

fn leaving() -> Refusal {
    Refusal { cause: ReleaseCause::Leaving, detail: reason("leaving", "the worker leaves").text }
}
