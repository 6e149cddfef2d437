//! Keeps the device busy and survives what runs on it.
//!
//! Units flow through the device in order, several in flight, across the boundaries of packages, so that it computes one while
//! the next one's inputs and the last one's outputs move. Jobs that share the device take turns, a slice of time each and whole
//! units only: a running unit is never cut. Their programs stay on the device as far as the memory lent allows. The oldest unit in flight is the one that runs: it has as long as its
//! manifest allows from the moment that the one before it ended. If it takes longer, the device is killed, its package is given
//! back, and every other unit in flight, which is innocent, runs again on the restarted device.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use api::ReleaseCause;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use protocol::{Hash, JobId, LeaseId};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    WorkerError,
    backoff::Backoff,
    commit::{Finished, Gathering},
    context::Context,
    device::{Device, DeviceError, Program, UnitOutput},
    package::{Package, Refusal},
};

/// Units in flight: one that runs, one ready behind it, one that is read back. Units that take a slice or longer go one by
/// one, so that another job waits for no more than the one that runs; the pause between them is a hundredth of their time.
const IN_FLIGHT_MAX: usize = 3;
/// How long one job has the device while others wait: long against the change from one program to another, short for a person
/// who waits for the other job.
const SLICE: Duration = Duration::from_millis(250);
/// Packages whose units take turns; more wait to be taken up.
const QUEUE_MAX: usize = 16;
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
    /// By the lease that their packages began with.
    gathering: BTreeMap<LeaseId, Gathering>,
    turns: Turns,
    /// Programs on the device, the last used one last; and the one that is being loaded.
    loaded: Vec<Arc<Program>>,
    loading: Option<Hash>,
    next_ticket: u64,
    /// Since when the oldest in flight has the device.
    head_since: Instant,
    failures: Backoff,
    /// How often programs stopped the device since they last finished a unit; the latest last.
    offences: Vec<(Hash, u32)>,
}

/// Whose turn it is, and since when.
#[derive(Default)]
struct Turns(Option<(JobId, Instant)>);

impl Turns {
    /// Puts the others first when the turn of the job in front is over. Those of one job stay in their order, and whoever had its
    /// turn goes behind all that wait.
    fn take<T>(&mut self, queue: &mut VecDeque<T>, job: impl Fn(&T) -> JobId, now: Instant) {
        let Some(front) = queue.front().map(&job) else { return };
        match self.0 {
            Some((turn, since)) if turn == front => {
                if now.duration_since(since) < SLICE {
                    return;
                }
                let (others, mine): (Vec<_>, Vec<_>) = queue.drain(..).partition(|one| job(one) != turn);
                queue.extend(others.into_iter().chain(mine));
                self.0 = queue.front().map(|one| (job(one), now));
            }
            _ => self.0 = Some((front, now)),
        }
    }
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
            turns: Turns::default(),
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
        let context = self.context.clone();
        loop {
            self.fill();
            let running = !self.in_flight.is_empty();
            self.context.board.note(|parts| parts.running = running);
            let head_ends = self.in_flight.front().map(|(_, step)| self.head_since + step.time_max());
            tokio::select! {
                package = packages.recv(), if self.queue.len() < QUEUE_MAX => match package {
                    Some(package) => self.enqueue(package),
                    None if self.in_flight.is_empty() && self.queue.is_empty() => return Ok(()),
                    // Nothing more comes: the rest is worked off.
                    None => self.answered_once().await?,
                },
                Some(answer) = self.answers.next() => self.answered(answer).await?,
                () = context.leases.yield_asked() => self.yield_packages(),
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
        if self.context.draining() || package.holding.yields() {
            return self.context.release(&package.holding, Refusal::leaving());
        }
        let offences = self.offences.iter().find(|(id, _)| *id == package.program.id);
        if offences.is_some_and(|(_, count)| *count >= OFFENCES_MAX) {
            let detail =
                format!("the program stopped this device {OFFENCES_MAX} times and is not run here any more");
            let refusal = Refusal { cause: ReleaseCause::ProgramFailed, detail };
            return self.context.release(&package.holding, refusal);
        }
        let package = Arc::new(package);
        let gathering = Gathering::new(self.context.clone(), package.clone(), self.finished.clone());
        self.gathering.insert(package.holding.lease.id, gathering);
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
                None => {
                    self.turns.take(
                        &mut self.queue,
                        |(package, _)| package.holding.lease.job,
                        Instant::now(),
                    );
                    self.queue.front().map(|(package, position)| (package.clone(), *position))?
                }
            };
            if package.holding.is_over() {
                self.drop_package(&package);
                continue;
            }
            let id = package.program.id;
            if self.loading.is_some() || (!self.in_flight.is_empty() && self.goes_alone(id)) {
                return None;
            }
            let Some(at) = self.loaded.iter().position(|loaded| loaded.id == id) else {
                return self.make_room(&package.program).then(|| Step::Load(package.program.clone()));
            };
            let program = self.loaded.remove(at);
            self.loaded.push(program);
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

    /// Whether a program's units go to the device one by one: they are long, or nobody knows yet.
    fn goes_alone(&self, program: Hash) -> bool {
        self.context.leases.pace(program).is_none_or(|pace| pace >= SLICE)
    }

    /// Takes programs off the device until another one fits into the memory that is lent. Not while they run.
    fn make_room(&mut self, program: &Program) -> bool {
        let lent = self.context.offer.memory_bytes;
        let bytes = |program: &Program| {
            program.manifest.limits.memory_bytes_max.max(gpu::device_bytes(&program.plan))
        };
        while lent > 0
            && self.loaded.iter().map(|loaded| bytes(loaded)).fold(bytes(program), u64::saturating_add) > lent
        {
            let runs = |id: Hash| {
                self.in_flight
                    .iter()
                    .any(|(_, step)| matches!(step, Step::Unit { package, .. } if package.program.id == id))
            };
            let Some(at) = self.loaded.iter().position(|loaded| !runs(loaded.id)) else {
                // With all its units in flight it may take more than what is lent: then it has the device for itself.
                return self.loaded.is_empty();
            };
            self.device.unload(self.loaded.remove(at).id);
        }
        true
    }

    /// Begins no more units of packages that are to yield; those that are not at the device any more are committed in part.
    fn yield_packages(&mut self) {
        let yields = |package: &Arc<Package>| package.holding.yields();
        let mut ending: Vec<_> =
            self.queue.iter().map(|(package, _)| package).filter(|p| yields(p)).cloned().collect();
        self.queue.retain(|(package, _)| !yields(package));
        self.again.retain(|step| match step {
            Step::Unit { package, .. } if yields(package) => {
                ending.push(package.clone());
                false
            }
            _ => true,
        });
        for package in ending {
            self.finish_early(&package);
        }
    }

    /// Commits to what is finished of a package that yields, once none of its units is at the device.
    fn finish_early(&mut self, package: &Arc<Package>) {
        let of_package =
            |step: &Step| matches!(step, Step::Unit { package: p, .. } if Arc::ptr_eq(p, package));
        if !self.in_flight.iter().any(|(_, step)| of_package(step))
            && let Some(gathering) = self.gathering.remove(&package.holding.lease.id)
        {
            gathering.finish_early();
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
                self.loaded.push(program);
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
        if gathering.add(position, output) {
            self.gathering.remove(&id);
        } else if holding.yields() && !self.queue.iter().any(|(p, _)| Arc::ptr_eq(p, package)) {
            self.finish_early(package);
        }
    }

    fn unload_old(&mut self) {
        let in_use: HashSet<Hash> = self
            .queue
            .iter()
            .map(|(package, _)| package.program.id)
            .chain(self.loaded.last().map(|program| program.id))
            .collect();
        while self.loaded.len() > PROGRAMS_LOADED_MAX
            && let Some(at) = self.loaded.iter().position(|program| !in_use.contains(&program.id))
        {
            self.device.unload(self.loaded.remove(at).id);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs packages of units that take `ms` each, and returns when each job's first unit began and its last one ended.
    fn simulate(packages: &[(u64, u64, u32)]) -> BTreeMap<u64, (u64, u64)> {
        let began = Instant::now();
        let mut queue: VecDeque<(u64, u64, u32)> = packages.iter().copied().collect();
        let (mut turns, mut now_ms, mut times) = (Turns::default(), 0, BTreeMap::new());
        while !queue.is_empty() {
            turns.take(&mut queue, |(job, ..)| JobId(*job), began + Duration::from_millis(now_ms));
            let (job, ms, units) = &mut queue[0];
            let (_, end_ms) = times.entry(*job).or_insert((now_ms, 0));
            now_ms += *ms;
            *end_ms = now_ms;
            *units -= 1;
            if *units == 0 {
                queue.pop_front();
            }
        }
        times
    }

    #[test]
    fn a_job_waits_for_a_slice_and_a_unit_of_each_other_job() {
        let slice_ms = SLICE.as_millis() as u64;
        for unit_ms in [1, 100, 2_000] {
            let times = simulate(&[(1, unit_ms, 5_000), (2, unit_ms, 5_000), (3, 10, 5)]);
            let turn_ms = slice_ms + unit_ms;
            assert!(times[&2].0 <= turn_ms, "{times:?}");
            assert!(times[&3].0 <= 2 * turn_ms && times[&3].1 == times[&3].0 + 50, "{times:?}");
            // Two long ones share the device evenly.
            assert!(times[&2].1 - times[&1].1 <= turn_ms, "{times:?}");
        }
    }

    #[test]
    fn a_job_alone_keeps_its_order_and_takes_all_the_time() {
        let times = simulate(&[(1, 7, 100), (1, 7, 100), (1, 7, 100)]);
        assert_eq!(times[&1], (0, 2_100));
    }
}
