//! The event queue and everything on it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    rc::Rc,
};

use engine::{
    Answer, Command, Gather, Iterate, JobSpec, Policy, Rejection, Release, Requirements, Stage, StageInput,
    Submission, UnitWork, Until, Work,
};
use protocol::{
    Amount, BASE_UNITS_PER_TOKEN, Hash, InputSplit, JobId, LeaseId, PublicKey, Receipt, Signature,
    manifest::JobKind,
};

use crate::{
    Faults, Observer, Scenario,
    chance::{Chance, mixed},
    devices::{Device, Devices},
    market::{FencedGroup, GROUP_US, MISSES_MAX, Market, Record, Wish},
    provider::{Grant, Held, PACKAGES_MAX, Provider, Results},
    report::{
        FaultCounts, NatureReport, PriorityReport, Report, Sample, StreamReport, jain, percentiles, quantiles,
    },
    scenario::{Class, Stream, Verification},
    truth::{Nature, Order, Truth, lie_of, order_key, output},
};

const MS: u64 = 1_000;
const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;

/// The market's key; its verifier acts under it.
const MARKET: PublicKey = PublicKey([255; 32]);
/// Between two heartbeats (`HEARTBEAT_MAX` of the worker).
const BEAT_US: u64 = 5 * SECOND;
/// How long a request for work waits at the market (`POLL_WAIT` of the worker).
const POLL_US: u64 = 20 * SECOND;
/// Between an empty answer and the next request (`POLL_PAUSE` of the worker).
const POLL_PAUSE_US: u64 = 250 * MS;
/// After this long without an answer something is sent again.
const RESEND_US: u64 = 3 * SECOND;
/// After this long a request for work is sent again.
const ASK_TIMEOUT_US: u64 = POLL_US + 2 * RESEND_US;
/// Longest pause between two attempts to deliver results.
const RESEND_US_MAX: u64 = 15 * SECOND;
/// By how much lazy providers answer checks late.
const LAZY_US: u64 = MINUTE;
/// How long the judge takes to compare outputs by tolerance.
const JUDGE_US: u64 = 100 * MS;
/// Between two rounds of trying waiting workers again; twice as long after each one in vain, up to [`VAIN_ROUNDS_MAX`] times.
const ROUND_US: u64 = 4 * MS;
const VAIN_ROUNDS_MAX: u32 = 5;
/// Tries of one round, so that it stays short.
const TRIES_MAX: usize = 1_024;
/// How long a process that no longer leads may stand still before it notices.
const STILL_US_MAX: u64 = 20 * SECOND;
/// How long a process that takes over needs to read the journal.
const READ_US_MAX: u64 = 500 * MS;
/// By how much the clocks of two processes differ at most.
const CLOCK_SKEW_MS: u64 = 2_000;
/// After this long a client looks again whether its job goes on.
const RESUME_US: u64 = 15 * SECOND;
/// One-way latency of clients.
const CLIENT_LATENCY_US: u64 = 30 * MS;
/// Every unit puts out this much.
const OUTPUT_BYTES: u64 = 64;
/// A cheat that does not compute a unit needs this part of its time.
const LIE_COST: u64 = 50;
/// Longest that a stage waits while a device is idle that may take it, but for the latency of two requests and their answers: a
/// request that found nothing is answered after the poll and repeated after a pause, or repeated after its timeout.
const WAITING_US_MAX: u64 = ASK_TIMEOUT_US + POLL_PAUSE_US;
/// After this long without faults nothing is left of them: processes go on, and what was lost is sent again.
const SETTLED_US: u64 = STILL_US_MAX + 2 * ASK_TIMEOUT_US;
/// Stages that one look at waiting looks at, those that wait longest.
const HUNGRY_MAX: usize = 64;
/// Samples of a run, before what is left is finished.
const SAMPLES: u64 = 120;
/// Journals of runs with more providers are kept only where a crash needs them.
const JOURNAL_PROVIDERS_MAX: u32 = 1_000;

#[derive(Clone, Debug)]
enum Happening {
    Come { provider: usize },
    Leave { provider: usize, incarnation: u32 },
    ProviderCrash { provider: usize, incarnation: u32 },
    Beat { provider: usize, incarnation: u32 },
    Announce { provider: usize, incarnation: u32 },
    Ask { provider: usize, incarnation: u32 },
    AskTimeout { provider: usize, incarnation: u32 },
    Deliver { provider: usize, incarnation: u32, lease: LeaseId, pause_us: u64 },
    Finish { provider: usize, incarnation: u32, lease: LeaseId },
    Request { provider: usize, incarnation: u32, body: Body },
    Reply { provider: usize, incarnation: u32, reply: Reply },
    Order { stream: usize },
    Submit { order: usize },
    Submission { order: usize },
    Submitted { order: usize, job: JobId },
    WantCancel { order: usize },
    WantPause { order: usize },
    WantResume { order: usize },
    Pausing { order: usize, paused: bool },
    Cancellation { order: usize },
    Market { process: u32, what: Inside },
    MarketCrash,
    MarketDown,
    MarketBack,
    Takeover,
    ClockJump,
    Sample,
}

/// What happens inside one process of the market.
#[derive(Clone, Debug)]
enum Inside {
    Request { provider: usize, incarnation: u32, body: Body },
    Submission { order: usize },
    Cancellation { order: usize },
    Pausing { order: usize, paused: bool },
    PollOver,
    Tick,
    Round,
    Flush,
    Judge,
}

/// What a provider says.
#[derive(Clone, Debug)]
enum Body {
    Announce,
    Ask { request: u64 },
    Beat { leases: Vec<LeaseId> },
    Commit { lease: LeaseId, results: Rc<Results> },
    Release { lease: LeaseId, generation: u32, failed: bool },
    Leave { drain: bool },
}

/// What the market says.
#[derive(Clone, Debug)]
enum Reply {
    Announced,
    Unknown,
    Leases {
        request: u64,
        grants: Vec<Grant>,
    },
    Heard {
        lost: Vec<LeaseId>,
        yields: Vec<LeaseId>,
    },
    /// Nothing more is to be done for a lease; `stored` if its receipt is in the journal.
    Taken {
        lease: LeaseId,
        stored: bool,
        /// The lease of the units that the receipt left out.
        rest: Option<LeaseId>,
    },
}

/// To whom an answer goes, once what it says is durable.
#[derive(Debug)]
enum Addressed {
    Provider { provider: usize, incarnation: u32, reply: Reply },
    Client { order: usize, job: JobId },
}

/// What is to happen, in the order of time.
#[derive(Default)]
struct Queue {
    /// When, the how manieth, and where in `slots`: small, because a heap moves its entries a lot.
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    slots: Vec<Option<Happening>>,
    free: Vec<u32>,
    pushed: u64,
}

impl Queue {
    fn push(&mut self, at_us: u64, what: Happening) {
        self.pushed += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer than 2³² happenings wait")
        });
        self.slots[slot as usize] = Some(what);
        self.heap.push(Reverse((at_us, self.pushed, slot)));
    }

    fn pop(&mut self) -> Option<(u64, Happening)> {
        let Reverse((at_us, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        Some((at_us, self.slots[slot as usize].take().expect("a slot is freed once")))
    }
}

/// Sums over time, for utilisation.
#[derive(Clone, Copy, Default)]
struct Activity {
    busy: u64,
    online: u64,
    since_us: u64,
    busy_us: u64,
    online_us: u64,
}

impl Activity {
    fn until(&mut self, at_us: u64) {
        let passed = at_us - self.since_us;
        self.busy_us += self.busy * passed;
        self.online_us += self.online * passed;
        self.since_us = at_us;
    }
}

/// What was there at the last sample.
#[derive(Clone, Copy, Default)]
struct Sampled {
    activity: Activity,
    units: u64,
    accepted_us: u64,
    paid: u64,
}

pub(crate) struct World<'a> {
    scenario: &'a Scenario,
    observer: &'a mut dyn Observer,
    chance: Chance,
    at_us: u64,
    /// Until when jobs arrive and faults happen.
    calm_us: u64,
    queue: Queue,
    record: Record,
    /// The process that leads the market, as far as anybody knows.
    market: Market<Addressed>,
    /// A second one that believes so, until the journal tells one of the two.
    rival: Option<Market<Addressed>>,
    processes: u32,
    providers: Vec<Provider>,
    truth: Truth,
    faults: FaultCounts,
    requests: u64,
    waiting_checks: u64,
    /// Whether the market crashes as soon as something is decided and not yet durable.
    crash_due: bool,
    activity: Activity,
    samples: Vec<Sample>,
    sampled: Sampled,
    /// Activity and accepted units when the calm began.
    calm: Option<(Activity, u64)>,
}

fn key(tag: u8, number: usize) -> PublicKey {
    let mut bytes = [tag; 32];
    // Where a key comes in the order of keys says nothing about anything, as with real ones.
    bytes[..8].copy_from_slice(&mixed(&[number as u64]).to_be_bytes());
    bytes[8..16].copy_from_slice(&(number as u64).to_be_bytes());
    PublicKey(bytes)
}

/// A stage of a stream's jobs that reads no other one.
fn stage_of(stream: &Stream, units: u64, unit_us: u64) -> Stage {
    Stage {
        name: String::new(),
        manifest: Hash::of(stream.name.as_bytes()),
        inputs: Vec::new(),
        units,
        unit_price: Amount(stream.unit_price.unwrap_or(0)),
        package_units: stream.package_units,
        // What the slowest device of the table may take.
        time_ms_max: unit_us / MS * 16,
        requirements: Requirements {
            storage_buffer_bytes: stream.storage_mib << 20,
            storage_buffers: 4,
            ..Requirements::default()
        },
        outputs_exact: vec![stream.exact],
        output_bytes: vec![OUTPUT_BYTES],
        policy: match stream.policy {
            Verification::AuditPpm(rate_min_ppm) => Policy::Audit { rate_min_ppm },
            Verification::Quorum(agree) => Policy::Quorum { agree },
        },
        work: unit_work(unit_us, stream.traffic_ppm),
        devices: stream.devices,
        replicas: stream.replicas,
    }
}

/// What a unit reads of an upstream stage with so many units: `gather` of them, each unit others; all when that is 0.
fn reading(stage: u32, gather: u64, units: u64) -> Gather {
    let (step, count) = if gather == 0 { (0, units) } else { (gather, gather) };
    let length = count * OUTPUT_BYTES;
    Gather { stage, output: 0, step, count, offset: 0, stride: 0, length, initial: None }
}

/// The work of a unit that takes the reference device `unit_us`: 1 000 GFLOP/s and 100 GB/s.
fn unit_work(unit_us: u64, traffic_ppm: u32) -> UnitWork {
    let traffic_us = unit_us * u64::from(traffic_ppm) / 1_000_000;
    UnitWork { flops: (unit_us - traffic_us) * 1_000_000, bytes: traffic_us * 100_000 }
}

fn client(stream: usize) -> PublicKey {
    key(200, stream)
}

impl<'a> World<'a> {
    pub(crate) fn new(scenario: &'a Scenario, observer: &'a mut dyn Observer) -> Self {
        let faults = scenario.faults;
        let keep_journal = faults.market_crash_s > 0
            || faults.stale_leader_s > 0
            || scenario.providers <= JOURNAL_PROVIDERS_MAX;
        let (record, market) =
            Record::found(MARKET, scenario.params.clone(), keep_journal, scenario.check_every);
        let mut world = Self {
            scenario,
            observer,
            chance: Chance::new(scenario.seed),
            at_us: 0,
            calm_us: u64::from(scenario.minutes) * MINUTE,
            queue: Queue::default(),
            record,
            market,
            rival: None,
            processes: 0,
            providers: Vec::new(),
            // What was answered is remembered where it may get lost.
            truth: Truth::remembering(faults != Faults::default()),
            faults: FaultCounts::default(),
            requests: 0,
            waiting_checks: 0,
            crash_due: false,
            activity: Activity::default(),
            samples: Vec::new(),
            sampled: Default::default(),
            calm: None,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let (population, devices) = (&self.scenario.workload.providers, Devices::published());
        let verifier = Provider::new(MARKET, Devices::verifier(), Nature::Honest, MS, true);
        self.providers.push(verifier);
        self.push(0, Happening::Come { provider: 0 });
        let (mut ring, mut wallet) = (0, MARKET);
        for number in 1..=self.scenario.providers as usize {
            let nature = self.chance.below(1_000_000) as u32;
            let nature = if nature < population.cheats_ppm {
                Nature::Cheat
            } else if nature < population.cheats_ppm + population.colluders_ppm {
                ring += 1;
                // Two by two.
                Nature::Colluder { ring: ring / 2 }
            } else if nature < population.cheats_ppm + population.colluders_ppm + population.lazy_ppm {
                Nature::Lazy
            } else if nature
                < population.cheats_ppm
                    + population.colluders_ppm
                    + population.lazy_ppm
                    + population.boasters_ppm
            {
                Nature::Boaster
            } else {
                Nature::Honest
            };
            let device: Device = devices.draw(&mut self.chance);
            let latency_us = self.chance.between(population.latency_ms) * MS;
            let key = key(1, number);
            self.truth.know(key, number, nature);
            let asks = self.chance.happens(population.asking_ppm);
            let ask = if asks { Amount(self.chance.between(population.ask)) } else { Amount::ZERO };
            let mut provider = Provider::new(key, device, nature, latency_us, false);
            provider.ask = ask;
            self.providers.push(provider);
            if number > 1 && self.chance.happens(population.second_devices_ppm) {
                let expires_at_ms = self.market.now_ms(0) + 30 * 24 * 3_600 * 1_000;
                self.must(Command::DelegateSession { wallet, session: key, expires_at_ms });
            } else {
                wallet = key;
                self.stake(wallet);
            }
            // Online at the beginning is who would be at any time; they come within the first minute.
            let cycle = population.online_minutes + population.away_minutes;
            let away = population.online_minutes > 0 && self.chance.below(cycle) >= population.online_minutes;
            let wait_us = if away { self.chance.exponential(population.away_minutes * MINUTE) } else { 0 };
            let at_us = wait_us + self.chance.below(MINUTE);
            self.push(at_us, Happening::Come { provider: number });
        }
        // As much as there can be, less something for rounding.
        let streams = self.scenario.workload.streams.len();
        let amount = Amount(u64::MAX / 5 / streams as u64);
        for stream in 0..streams {
            let account = client(stream);
            self.must(Command::Deposit { account, amount, key: None });
            let stake = Amount(self.scenario.workload.streams[stream].stake_tokens * BASE_UNITS_PER_TOKEN);
            if stake > Amount::ZERO {
                self.must(Command::Bond { account, amount: stake });
            }
            let after_us = self.between_orders_us(stream);
            self.push(after_us, Happening::Order { stream });
        }
        let faults = self.scenario.faults;
        for (mean_s, what) in [
            (faults.market_crash_s, Happening::MarketCrash),
            (faults.stale_leader_s, Happening::Takeover),
            (faults.clock_jump_s, Happening::ClockJump),
        ] {
            if mean_s > 0 {
                let at_us = self.chance.exponential(mean_s * SECOND);
                self.push(at_us, what);
            }
        }
        self.push(self.sample_us(), Happening::Sample);
    }

    /// A provider's owner bonds something, as its population does.
    fn stake(&mut self, account: PublicKey) {
        let population = &self.scenario.workload.providers;
        if self.chance.happens(population.staked_ppm) {
            let amount = Amount(self.chance.between(population.stake_tokens) * BASE_UNITS_PER_TOKEN);
            if amount > Amount::ZERO {
                self.must(Command::Deposit { account, amount, key: None });
                self.must(Command::Bond { account, amount });
            }
        }
    }

    fn sample_us(&self) -> u64 {
        (self.calm_us / SAMPLES).max(SECOND)
    }

    fn push(&mut self, at_us: u64, what: Happening) {
        self.queue.push(at_us, what);
    }

    fn after(&mut self, us: u64, what: Happening) {
        self.push(self.at_us + us, what);
    }

    /// Lets something happen in the process that is being looked at.
    fn inside(&mut self, us: u64, what: Inside) {
        let process = self.market.id;
        self.after(us, Happening::Market { process, what });
    }

    /// Whether jobs arrive and faults happen.
    fn stormy(&self) -> bool {
        self.at_us < self.calm_us
    }

    fn faults_now(&self) -> Faults {
        if self.stormy() { self.scenario.faults } else { Faults::default() }
    }

    /// Sends a message that takes about `latency_us`.
    fn transmit(&mut self, latency_us: u64, what: Happening) {
        let faults = self.faults_now();
        self.faults.messages += 1;
        if self.chance.happens(faults.loss_ppm) {
            self.faults.lost += 1;
            return;
        }
        let mut copies = 1;
        if self.chance.happens(faults.duplicate_ppm) {
            self.faults.duplicated += 1;
            copies = 2;
        }
        for _ in 0..copies {
            let mut us = latency_us / 2 + self.chance.exponential(latency_us / 2);
            if self.chance.happens(faults.delay_ppm) {
                self.faults.delayed += 1;
                us += self.chance.below(10 * SECOND);
            }
            self.after(us, what.clone());
        }
    }

    fn say(&mut self, provider: usize, body: Body) {
        let Provider { latency_us, incarnation, .. } = self.providers[provider];
        self.transmit(latency_us, Happening::Request { provider, incarnation, body });
    }

    /// Decides what nothing may refuse.
    fn must(&mut self, command: Command) {
        if let Err(rejection) = self.decide(command) {
            self.record.problems.push(format!("refused: {rejection}"));
        }
        self.decided();
    }

    fn decide(&mut self, command: Command) -> Result<Answer, Rejection> {
        self.market.decide(self.at_us, command, &mut self.record, self.observer)
    }

    /// What the market's shell does after deciding: a group to write, waiting workers to try again, a deadline to keep.
    fn decided(&mut self) {
        if !self.market.up {
            return;
        }
        if self.market.unwritten() && !self.market.flushing {
            self.market.flushing = true;
            self.inside(GROUP_US, Inside::Flush);
        }
        if self.market.unwritten() && self.crash_due {
            self.crash_due = false;
            // Before the group is durable.
            self.after(GROUP_US / 2, Happening::MarketDown);
        }
        if self.market.retry && !self.market.rounding {
            self.market.rounding = true;
            self.inside(ROUND_US << self.market.vain_rounds.min(VAIN_ROUNDS_MAX), Inside::Round);
        }
        let now_ms = self.market.now_ms(self.at_us);
        if let Some(due_ms) = self.market.state.next_deadline_ms(now_ms) {
            // A deadline that has come is seen at the next tick of the clock.
            let due_us = self.at_us + due_ms.saturating_sub(now_ms).max(1) * MS;
            if self.market.tick_us.is_none_or(|tick| tick <= self.at_us || due_us < tick) {
                self.market.tick_us = Some(due_us);
                self.inside(due_us - self.at_us, Inside::Tick);
            }
        }
    }

    pub(crate) fn run(mut self) -> Report {
        self.decided();
        let end_us = self.calm_us + u64::from(self.scenario.drain_minutes_max) * MINUTE;
        let mut second = 0;
        while let Some((at_us, what)) = self.queue.pop() {
            self.at_us = at_us;
            if self.calm.is_none() && !self.stormy() {
                self.activity.until(self.at_us);
                self.calm = Some((self.activity, self.truth.units.accepted));
            }
            if self.at_us / SECOND > second {
                second = self.at_us / SECOND;
                self.observer.passed(second, self.calm_us / SECOND);
            }
            let over = self.truth.ended == self.truth.orders.len()
                && !self.market.unwritten()
                && self.market.up
                && self.rival.is_none();
            if !self.stormy() && (over || self.at_us > end_us) {
                break;
            }
            self.happen(what);
        }
        self.report()
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Come { provider } => self.come(provider),
            Happening::Leave { provider, incarnation } => {
                if self.lives(provider, incarnation) && self.stormy() {
                    self.leave(provider);
                }
            }
            Happening::ProviderCrash { provider, incarnation } => {
                if self.lives(provider, incarnation) && self.stormy() {
                    self.faults.provider_crashes += 1;
                    let down_us = 5 * SECOND + self.chance.below(30 * SECOND);
                    self.go(provider, down_us);
                }
            }
            Happening::Beat { provider, incarnation } => {
                if self.lives(provider, incarnation) {
                    if self.providers[provider].announced {
                        let leases = self.providers[provider].leases();
                        self.say(provider, Body::Beat { leases });
                    }
                    self.after(BEAT_US, Happening::Beat { provider, incarnation });
                }
            }
            Happening::Announce { provider, incarnation } => {
                if self.lives(provider, incarnation) && !self.providers[provider].announced {
                    self.say(provider, Body::Announce);
                    self.after(RESEND_US, Happening::Announce { provider, incarnation });
                }
            }
            Happening::Ask { provider, incarnation } => {
                if self.lives(provider, incarnation) {
                    self.ask(provider);
                }
            }
            Happening::AskTimeout { provider, incarnation } => {
                if self.lives(provider, incarnation) {
                    self.ask_timeout(provider);
                }
            }
            Happening::Deliver { provider, incarnation, lease, pause_us } => {
                if self.lives(provider, incarnation) {
                    self.deliver(provider, lease, pause_us);
                }
            }
            Happening::Finish { provider, incarnation, lease } => {
                let running = self.providers[provider].running.as_ref();
                if self.lives(provider, incarnation) && running.is_some_and(|held| held.grant.lease == lease)
                {
                    self.finish(provider);
                }
            }
            Happening::Request { provider, incarnation, body } => {
                self.arrive(Inside::Request { provider, incarnation, body });
            }
            Happening::Reply { provider, incarnation, reply } => {
                if self.lives(provider, incarnation) {
                    self.reply(provider, reply);
                }
            }
            Happening::Order { stream } => self.order(stream),
            Happening::Submit { order } => {
                if self.truth.orders[order].id.is_none() && !self.truth.orders[order].given_up {
                    self.transmit(CLIENT_LATENCY_US, Happening::Submission { order });
                    self.after(RESEND_US, Happening::Submit { order });
                }
            }
            Happening::Submission { order } => self.arrive(Inside::Submission { order }),
            Happening::Submitted { order, job } => {
                if self.truth.orders[order].id != Some(job) {
                    self.record.problems.push(format!("order {order} was answered {job}, which it is not"));
                }
            }
            Happening::WantCancel { order } => {
                self.transmit(CLIENT_LATENCY_US, Happening::Cancellation { order });
            }
            Happening::WantPause { order } => {
                self.transmit(CLIENT_LATENCY_US, Happening::Pausing { order, paused: true });
                let later_us = 5 * SECOND + self.chance.below(20 * SECOND);
                self.after(later_us, Happening::WantResume { order });
            }
            Happening::WantResume { order } => {
                // Again and again, because a message that was held up may pause the job once more.
                if self.truth.orders[order].ended_us.is_none() {
                    self.transmit(CLIENT_LATENCY_US, Happening::Pausing { order, paused: false });
                    self.after(RESUME_US, Happening::WantResume { order });
                }
            }
            Happening::Pausing { order, paused } => self.arrive(Inside::Pausing { order, paused }),
            Happening::Cancellation { order } => self.arrive(Inside::Cancellation { order }),
            Happening::Market { process, what } => self.happen_inside(process, what),
            Happening::MarketCrash => {
                if self.stormy() {
                    // At any time, or when it hurts.
                    self.crash_due = self.chance.happens(500_000);
                    if !self.crash_due {
                        self.market_down();
                    }
                    let next_us = self.chance.exponential(self.scenario.faults.market_crash_s * SECOND);
                    self.after(next_us, Happening::MarketCrash);
                }
            }
            Happening::MarketDown => self.market_down(),
            Happening::MarketBack => {
                if !self.market.up {
                    self.market = self.process(self.market.clock_ms);
                    self.must(Command::Resume);
                }
            }
            Happening::Takeover => {
                if self.stormy() {
                    self.takeover();
                    let next_us = self.chance.exponential(self.scenario.faults.stale_leader_s * SECOND);
                    self.after(next_us, Happening::Takeover);
                }
            }
            Happening::ClockJump => {
                if self.stormy() {
                    self.faults.clock_jumps += 1;
                    self.market.clock_ms += 1_000 + self.chance.below(120_000).cast_signed();
                    self.market.tick_us = None;
                    self.decided();
                    let next_us = self.chance.exponential(self.scenario.faults.clock_jump_s * SECOND);
                    self.after(next_us, Happening::ClockJump);
                }
            }
            Happening::Sample => self.sample(),
        }
    }
}

/// Providers.
impl World<'_> {
    fn lives(&self, provider: usize, incarnation: u32) -> bool {
        let provider = &self.providers[provider];
        provider.online && provider.incarnation == incarnation
    }

    fn come(&mut self, provider: usize) {
        self.activity.until(self.at_us);
        let entry = &mut self.providers[provider];
        entry.come(self.at_us);
        let (incarnation, steady) = (entry.incarnation, entry.steady);
        if !steady {
            self.activity.online += 1;
            let online_us = self.scenario.workload.providers.online_minutes * MINUTE;
            if online_us > 0 {
                let stays_us = self.chance.exponential(online_us);
                self.after(stays_us, Happening::Leave { provider, incarnation });
            }
            let crash_us = self.faults_now().provider_crash_s * SECOND;
            if crash_us > 0 {
                let lasts_us = self.chance.exponential(crash_us);
                self.after(lasts_us, Happening::ProviderCrash { provider, incarnation });
            }
        }
        self.after(0, Happening::Announce { provider, incarnation });
        self.after(BEAT_US, Happening::Beat { provider, incarnation });
    }

    fn leave(&mut self, provider: usize) {
        let away_us = self.away_us();
        if self.chance.happens(self.scenario.workload.providers.silent_ppm) {
            self.faults.silent_leaves += 1;
            self.go(provider, away_us);
        } else if self.chance.happens(500_000) {
            self.say(provider, Body::Leave { drain: false });
            self.go(provider, away_us);
        } else {
            self.providers[provider].draining = true;
            self.say(provider, Body::Leave { drain: true });
            self.rest(provider);
        }
    }

    fn away_us(&mut self) -> u64 {
        SECOND + self.chance.exponential(self.scenario.workload.providers.away_minutes * MINUTE)
    }

    /// Goes, and comes back later.
    fn go(&mut self, provider: usize, away_us: u64) {
        self.activity.until(self.at_us);
        self.activity.online -= 1;
        self.activity.busy -= u64::from(self.providers[provider].go(self.at_us));
        self.after(away_us, Happening::Come { provider });
    }

    /// A provider that wanted to finish first goes when it has.
    fn rest(&mut self, provider: usize) {
        if self.providers[provider].draining && self.providers[provider].is_idle() {
            self.say(provider, Body::Leave { drain: false });
            let away_us = self.away_us();
            self.go(provider, away_us);
        }
    }

    fn ask(&mut self, provider: usize) {
        if !self.providers[provider].wants_work() {
            return;
        }
        self.requests += 1;
        let request = self.requests;
        let entry = &mut self.providers[provider];
        entry.asking = Some(request);
        entry.asked_us = self.at_us;
        let (incarnation, timer) = (entry.incarnation, std::mem::replace(&mut entry.ask_timer, true));
        self.say(provider, Body::Ask { request });
        if !timer {
            self.after(ASK_TIMEOUT_US, Happening::AskTimeout { provider, incarnation });
        }
    }

    /// One timer a provider looks whether the present request is overdue, however many were answered meanwhile.
    fn ask_timeout(&mut self, provider: usize) {
        let entry = &mut self.providers[provider];
        entry.ask_timer = false;
        if entry.asking.is_none() {
            return;
        }
        let due_us = entry.asked_us + ASK_TIMEOUT_US;
        if due_us > self.at_us {
            entry.ask_timer = true;
            let incarnation = entry.incarnation;
            self.push(due_us, Happening::AskTimeout { provider, incarnation });
        } else {
            entry.asking = None;
            self.ask(provider);
        }
    }

    fn reply(&mut self, provider: usize, reply: Reply) {
        let incarnation = self.providers[provider].incarnation;
        let quiet = match &reply {
            Reply::Leases { grants, .. } => grants.is_empty(),
            Reply::Heard { lost, yields } => lost.is_empty() && yields.is_empty(),
            Reply::Announced | Reply::Unknown | Reply::Taken { .. } => false,
        };
        if !quiet {
            self.providers[provider].stirred_us = self.at_us;
        }
        match reply {
            Reply::Announced => {
                self.providers[provider].announced = true;
                self.ask(provider);
            }
            Reply::Unknown => {
                if self.providers[provider].announced {
                    self.providers[provider].announced = false;
                    self.after(0, Happening::Announce { provider, incarnation });
                }
            }
            Reply::Leases { request, grants } => {
                let empty = grants.is_empty();
                for grant in grants {
                    if !self.truth.granted(grant.lease, self.providers[provider].key) {
                        let problem = format!("{} was answered, and is not that worker's", grant.lease);
                        self.record.problems.push(problem);
                    }
                    if self.providers[provider].is_new(grant.lease) {
                        let cost_us = self.cost_us(provider, &grant);
                        self.providers[provider].queue.push_back(Held { grant, cost_us });
                    }
                }
                self.start(provider);
                if self.providers[provider].asking == Some(request) {
                    self.providers[provider].asking = None;
                    let pause_us = if empty { POLL_PAUSE_US } else { 0 };
                    self.after(pause_us, Happening::Ask { provider, incarnation });
                }
            }
            Reply::Heard { lost, yields } => {
                let entry = &mut self.providers[provider];
                entry.queue.retain(|held| !lost.contains(&held.grant.lease));
                if entry.running.take_if(|held| lost.contains(&held.grant.lease)).is_some() {
                    self.stopped(provider);
                }
                self.yield_up(provider, &yields);
                self.start(provider);
                self.ask(provider);
                self.rest(provider);
            }
            Reply::Taken { lease, stored, rest } => {
                if stored && !self.truth.stored(lease) {
                    self.record
                        .problems
                        .push(format!("{lease} was answered, and its receipt is not durable"));
                }
                let results = self.providers[provider].unanswered.remove(&lease);
                if let (Some(results), Some(rest)) = (results, rest) {
                    // It was asked to yield, so it does not want the rest.
                    let generation = results.receipt.generation;
                    self.say(provider, Body::Release { lease: rest, generation, failed: false });
                }
                self.ask(provider);
                self.rest(provider);
            }
        }
    }

    fn lie(&self, provider: usize, job: JobId, unit: u64) -> u64 {
        let lie_ppm = self.scenario.workload.providers.lie_ppm;
        self.providers[provider].nature.lie(provider, job, unit, lie_ppm)
    }

    fn cost_us(&self, provider: usize, grant: &Grant) -> u64 {
        let units = grant.units.iter().map(|unit| {
            let us = self.truth.unit_us(grant.job, *unit);
            if self.lie(provider, grant.job, *unit) == 0 { us } else { us / LIE_COST }
        });
        let stream = self.truth.order_of(grant.job).stream;
        let traffic_ppm = self.scenario.workload.streams[stream].traffic_ppm;
        self.providers[provider].device.time_us(units.sum(), traffic_ppm)
    }

    fn start(&mut self, provider: usize) {
        let entry = &mut self.providers[provider];
        if entry.running.is_some() {
            return;
        }
        let Some(next) = entry.queue.pop_front() else { return };
        let (incarnation, lease, cost_us) = (entry.incarnation, next.grant.lease, next.cost_us);
        entry.running = Some(next);
        entry.running_since_us = self.at_us;
        self.activity.until(self.at_us);
        self.activity.busy += u64::from(!self.providers[provider].steady);
        self.after(cost_us, Happening::Finish { provider, incarnation, lease });
    }

    /// Its device stands idle.
    fn stopped(&mut self, provider: usize) {
        self.activity.until(self.at_us);
        self.activity.busy -= u64::from(!self.providers[provider].steady);
    }

    /// Gives leases back to the market, and commits to what is finished of the one that runs.
    fn yield_up(&mut self, provider: usize, leases: &[LeaseId]) {
        let (mut returned, stopped) = self.providers[provider].yield_up(leases, self.at_us);
        if let Some((held, done)) = stopped {
            self.stopped(provider);
            match done {
                0 => returned.push(held),
                _ => self.commit(provider, &held, done),
            }
        }
        for Held { grant: Grant { lease, generation, .. }, .. } in returned {
            self.say(provider, Body::Release { lease, generation, failed: false });
        }
    }

    /// Delivers the results of the first `count` units of a lease.
    fn commit(&mut self, provider: usize, held: &Held, count: usize) {
        let results = Rc::new(self.results(provider, held, count));
        let Grant { lease, check, ref units, .. } = held.grant;
        if count < units.len() {
            self.truth.units.yielded += count as u64;
        }
        let entry = &mut self.providers[provider];
        entry.unanswered.insert(lease, results);
        let (incarnation, late) = (entry.incarnation, check && entry.nature == Nature::Lazy);
        let late_us = if late { LAZY_US } else { 0 };
        self.after(late_us, Happening::Deliver { provider, incarnation, lease, pause_us: RESEND_US });
    }

    fn finish(&mut self, provider: usize) {
        let held = self.providers[provider].running.take().expect("it runs");
        self.stopped(provider);
        let Grant { lease, generation, job, .. } = held.grant;
        let poison_ppm = self.scenario.workload.streams[self.truth.order_of(job).stream].poison_ppm;
        let poisoned = held
            .grant
            .units
            .iter()
            .any(|unit| mixed(&[job.0, *unit, 0x706f_6973_6f6e]) % 1_000_000 < u64::from(poison_ppm));
        let failed = self.chance.happens(self.faults_now().device_failure_ppm);
        self.faults.device_failures += u64::from(failed);
        if poisoned || failed {
            self.say(provider, Body::Release { lease, generation, failed: true });
        } else {
            self.commit(provider, &held, held.grant.units.len());
        }
        self.start(provider);
        self.ask(provider);
        self.rest(provider);
    }

    fn results(&self, provider: usize, held: &Held, count: usize) -> Results {
        let (entry, grant) = (&self.providers[provider], &held.grant);
        let order = self.truth.order_of(grant.job);
        let exact = self.scenario.workload.streams[order.stream].exact;
        let variant = if exact { 0 } else { entry.device.vendor };
        let units: Vec<_> = grant
            .units
            .iter()
            .take(count)
            .map(|unit| {
                let lie = self.lie(provider, grant.job, *unit);
                (*unit, vec![output(grant.job, order.stands_for(*unit), lie, variant)])
            })
            .collect();
        // The root stands for the outputs: the service verifies it before the engine sees the receipt.
        let blobs: Vec<&[u8]> = units.iter().map(|(_, outputs)| outputs[0].blob.0.as_slice()).collect();
        let receipt = Receipt {
            market: MARKET,
            lease: grant.lease,
            generation: grant.generation,
            worker: entry.key,
            job: grant.job,
            units: units.len() as u32,
            package_root: Hash::of_parts(&blobs),
            adapter: entry.device.facts.adapter.clone(),
            started_at_ms: entry.running_since_us / MS,
            device_us: self.at_us - entry.running_since_us,
            total_us: self.at_us - entry.running_since_us,
        };
        Results { receipt, units }
    }

    fn deliver(&mut self, provider: usize, lease: LeaseId, pause_us: u64) {
        let entry = &self.providers[provider];
        let (Some(results), incarnation) = (entry.unanswered.get(&lease).cloned(), entry.incarnation) else {
            return;
        };
        self.say(provider, Body::Commit { lease, results });
        let next = (pause_us * 2).min(RESEND_US_MAX);
        self.after(pause_us, Happening::Deliver { provider, incarnation, lease, pause_us: next });
    }
}

/// The market.
impl World<'_> {
    /// A new process that reads the journal.
    fn process(&mut self, clock_ms: i64) -> Market<Addressed> {
        self.processes += 1;
        let state = self.record.replayed().expect("a market that may crash keeps its journal");
        Market::with(state.clone(), self.processes, clock_ms)
    }

    /// A second process believes that the first one is gone, and leads. Half of the time that one stands still meanwhile and
    /// does not know; otherwise whoever appends first goes on.
    fn takeover(&mut self) {
        if !self.market.up || self.rival.is_some() {
            return;
        }
        self.faults.takeovers += 1;
        if self.chance.happens(500_000) {
            self.market.still_until_us = self.at_us + self.chance.below(STILL_US_MAX);
        }
        let skew_ms = self.chance.below(2 * CLOCK_SKEW_MS).cast_signed() - CLOCK_SKEW_MS.cast_signed();
        let mut rival = self.process(self.market.clock_ms + skew_ms);
        // What it has read is a little old when it begins.
        rival.still_until_us = self.at_us + self.chance.below(READ_US_MAX);
        let first = std::mem::replace(&mut self.market, rival);
        self.must(Command::Resume);
        self.rival = Some(std::mem::replace(&mut self.market, first));
    }

    /// A message arrives at the market, or at one of two that believe they are.
    fn arrive(&mut self, what: Inside) {
        let process = match &self.rival {
            Some(rival) if self.chance.happens(500_000) => rival.id,
            _ => self.market.id,
        };
        self.happen_inside(process, what);
    }

    /// Lets something happen in one process, if it still runs.
    fn happen_inside(&mut self, process: u32, what: Inside) {
        if self.market.id == process {
            self.act(what);
        } else if let Some(rival) = self.rival.take_if(|rival| rival.id == process) {
            let first = std::mem::replace(&mut self.market, rival);
            self.act(what);
            let rival = std::mem::replace(&mut self.market, first);
            self.rival = rival.up.then_some(rival);
        }
        if !self.market.up
            && let Some(rival) = self.rival.take()
        {
            self.market = rival;
        }
    }

    fn act(&mut self, what: Inside) {
        if !self.market.up {
            return;
        }
        if self.market.still_until_us > self.at_us {
            // It happens when the process goes on, as if no time had passed.
            return self.inside(self.market.still_until_us - self.at_us, what);
        }
        match what {
            Inside::Request { provider, incarnation, body } => self.request(provider, incarnation, body),
            Inside::Submission { order } => self.submission(order),
            Inside::Cancellation { order } => self.cancellation(order),
            Inside::Pausing { order, paused } => {
                let Order { id, stream, .. } = self.truth.orders[order];
                if let Some(job) = id {
                    let _ = self.decide(Command::Pause { job, by: client(stream), paused });
                }
            }
            Inside::PollOver => self.poll_over(),
            Inside::Tick => {
                // One that stood still ticks late.
                if self.market.tick_us.is_some_and(|tick| tick <= self.at_us) {
                    self.market.tick_us = None;
                    self.market.retry = true;
                    self.must(Command::AdvanceTime);
                }
            }
            Inside::Round => self.round(),
            Inside::Flush => self.flush(),
            Inside::Judge => self.judge(),
        }
        self.decided();
    }

    fn request(&mut self, provider: usize, incarnation: u32, body: Body) {
        let worker = self.providers[provider].key;
        let instance = incarnation.to_string();
        let reply = match body {
            Body::Announce => {
                let device = (*self.providers[provider].device.facts).clone();
                let version = "sim".to_owned();
                let offer = self.providers[provider].offer();
                let announce = Command::Announce { worker, instance, device, version, offer };
                // While a crashed process still holds the key, it is asked again by the announcement's timer.
                self.decide(announce).ok().map(|_| Reply::Announced)
            }
            Body::Ask { request } => {
                let (kind, until_us) = (self.providers[provider].device.kind(), self.at_us + POLL_US);
                let packages_max = PACKAGES_MAX;
                let wish = Wish { provider, incarnation, request, packages_max, kind, until_us };
                if !self.try_wish(&wish) {
                    self.market.park(wish);
                    self.poll();
                }
                None
            }
            Body::Beat { leases } => match self.decide(Command::Heartbeat { worker, instance, leases }) {
                Ok(Answer::Heard { lost, yields }) if lost.is_empty() && yields.is_empty() => None,
                Ok(Answer::Heard { lost, yields }) => Some(Reply::Heard { lost, yields }),
                Err(Rejection::WorkerUnknown) => Some(Reply::Unknown),
                _ => None,
            },
            Body::Commit { lease, results } => {
                let receipt = results.receipt.clone();
                let seed =
                    Hash::of_parts(&[b"secret", &self.scenario.seed.to_le_bytes(), &receipt.digest().0]);
                let units = results.units.clone();
                let commit =
                    Command::Commit { receipt: receipt.into(), signature: Signature([0; 64]), units, seed };
                // A refusal is final, too: somebody else has the units.
                let answer = self.decide(commit);
                let rest = match answer {
                    Ok(Answer::Receipt { rest, .. }) => rest,
                    _ => None,
                };
                Some(Reply::Taken { lease, stored: answer.is_ok(), rest })
            }
            Body::Release { lease, generation, failed } => {
                let release = if failed {
                    Release::Failed { code: "device_failed".to_owned(), detail: "simulated".to_owned() }
                } else {
                    Release::Returned
                };
                let _ = self.decide(Command::Release { worker, lease, generation, release });
                None
            }
            Body::Leave { drain } => {
                let _ = self.decide(Command::Leave { worker, instance, drain });
                None
            }
        };
        if let Some(reply) = reply {
            self.market.answer(Addressed::Provider { provider, incarnation, reply });
        }
    }

    /// Asks for work for somebody; `false` when there is none and the wish waits.
    fn try_wish(&mut self, wish: &Wish) -> bool {
        let worker = self.providers[wish.provider].key;
        let (instance, packages_max) = (wish.incarnation.to_string(), wish.packages_max);
        match self.decide(Command::RequestLeases { worker, instance, packages_max, others_only: false }) {
            Ok(Answer::Leases(leases)) if leases.is_empty() => false,
            Ok(Answer::Leases(leases)) => {
                let grants = leases.iter().filter_map(|lease| self.grant(*lease)).collect();
                self.answer_wish(wish, grants);
                true
            }
            Err(Rejection::WorkerUnknown) => {
                let Wish { provider, incarnation, .. } = *wish;
                self.market.answer(Addressed::Provider { provider, incarnation, reply: Reply::Unknown });
                true
            }
            _ => true,
        }
    }

    fn answer_wish(&mut self, wish: &Wish, grants: Vec<Grant>) {
        let Wish { provider, incarnation, request, .. } = *wish;
        let reply = Reply::Leases { request, grants };
        self.market.answer(Addressed::Provider { provider, incarnation, reply });
    }

    fn grant(&self, id: LeaseId) -> Option<Grant> {
        let state = &self.market.state;
        let lease = state.leases().get(&id)?;
        let units = state.lease_units(lease).into_iter().flat_map(|run| run.units()).collect();
        let check = matches!(lease.work, Work::Check { .. });
        Some(Grant { lease: id, generation: lease.generation, job: lease.job, units, check })
    }

    /// Keeps one timer for the first one whose wait is over.
    fn poll(&mut self) {
        if !self.market.polling
            && let Some(until_us) = self.market.poll_over_us()
        {
            self.market.polling = true;
            self.inside(until_us.saturating_sub(self.at_us), Inside::PollOver);
        }
    }

    fn poll_over(&mut self) {
        self.market.polling = false;
        while let Some(wish) = self.market.pop_over(self.at_us) {
            self.answer_wish(&wish, Vec::new());
        }
        self.poll();
    }

    /// Tries waiting workers again: first come first served, but for kinds of device of which several in a row found nothing.
    fn round(&mut self) {
        self.market.rounding = false;
        self.market.retry = false;
        let mut granted = false;
        let mut heads: BinaryHeap<_> =
            self.market.firsts().into_iter().map(|(ticket, kind)| Reverse((ticket, kind, 0))).collect();
        let mut tries = 0;
        while let Some(Reverse((ticket, kind, misses))) = heads.pop() {
            let served = self.try_ticket(ticket);
            granted |= served;
            let misses = if served { 0 } else { misses + 1 };
            tries += 1;
            if tries == TRIES_MAX {
                self.market.retry = true;
                break;
            }
            if misses < MISSES_MAX
                && let Some(next) = self.market.next_of(kind, ticket)
            {
                heads.push(Reverse((next, kind, misses)));
            }
        }
        for ticket in self.market.later() {
            granted |= self.try_ticket(ticket);
        }
        // What was given out to several at once waits for each of them.
        let offered: Vec<_> = self.market.state.offered_workers().collect();
        for worker in offered {
            let ticket = self.truth.provider(worker).and_then(|number| self.market.ticket_of(number));
            granted |= ticket.is_some_and(|ticket| self.try_ticket(ticket));
        }
        self.market.retry |= granted;
        self.market.vain_rounds = if granted { 0 } else { self.market.vain_rounds + 1 };
    }

    fn try_ticket(&mut self, ticket: u64) -> bool {
        let Some(wish) = self.market.wish(ticket).cloned() else { return false };
        let served = self.try_wish(&wish);
        if served {
            self.market.unpark(ticket);
        }
        served
    }

    fn flush(&mut self) {
        self.market.flushing = false;
        let (events, answers) = match self.market.flush(&mut self.record) {
            Ok(durable) => durable,
            Err(FencedGroup { events, answers }) => {
                // While one of two acts, the other is set aside.
                let first = self.rival.is_some();
                self.faults.fenced_first += u64::from(first);
                self.faults.fenced_second += u64::from(!first);
                self.faults.fenced_events += events;
                self.faults.fenced_answers += answers;
                return;
            }
        };
        for event in &events {
            self.truth.observe(self.at_us, event, &self.market.state);
        }
        for answer in answers {
            match answer {
                Addressed::Provider { provider, incarnation, reply } => {
                    let latency_us = self.providers[provider].latency_us;
                    self.transmit(latency_us, Happening::Reply { provider, incarnation, reply });
                }
                Addressed::Client { order, job } => {
                    self.transmit(CLIENT_LATENCY_US, Happening::Submitted { order, job });
                }
            }
        }
        if !self.market.judging && !self.market.state.comparisons(1).is_empty() {
            self.market.judging = true;
            self.inside(JUDGE_US, Inside::Judge);
        }
    }

    /// Compares by tolerance: right results of different vendors agree, as do equal ones.
    fn judge(&mut self) {
        self.market.judging = false;
        for comparison in self.market.state.comparisons(64) {
            let agrees = comparison.pairs.iter().all(|(_, _, first, again)| lie_of(first) == lie_of(again));
            let evidence = String::new();
            // An opinion may settle a package and with it the next comparison.
            let _ = self.decide(Command::RecordOpinion { check: comparison.check, agrees, evidence });
        }
    }

    fn market_down(&mut self) {
        if self.market.up && self.stormy() {
            self.faults.market_crashes += 1;
            self.faults.undurable_events += self.market.crash(self.at_us, &mut self.record);
            match self.rival.take() {
                Some(rival) => self.market = rival,
                None => {
                    let down_us = SECOND + self.chance.below(20 * SECOND);
                    self.after(down_us, Happening::MarketBack);
                }
            }
        }
    }
}

/// Clients.
impl World<'_> {
    fn between_orders_us(&mut self, stream: usize) -> u64 {
        let workload = &self.scenario.workload;
        let mut mean_us = u128::from(workload.streams[stream].every_s * SECOND);
        if let Some(for_providers) = workload.for_providers {
            mean_us = mean_us * u128::from(for_providers) / u128::from(self.scenario.providers.max(1));
        }
        self.chance.exponential(u64::try_from(mean_us).unwrap_or(u64::MAX)).max(1)
    }

    fn order(&mut self, number: usize) {
        if !self.stormy() {
            return;
        }
        let workload = &self.scenario.workload;
        let stream = &workload.streams[number];
        let chance = &mut self.chance;
        let mut unit_us = vec![chance.between(stream.unit_ms) * MS];
        let mut stages = vec![stage_of(stream, chance.between(stream.units), unit_us[0])];
        for (before, then) in (0..).zip(&stream.then) {
            let us = chance.between(then.unit_ms) * MS;
            unit_us.push(us);
            let upstream = stages[before as usize].units;
            let inputs = vec![StageInput::Stage(reading(before, then.gather, upstream))];
            let stage = stage_of(stream, then.units(upstream), us);
            let (devices, replicas) = (then.devices, then.replicas);
            stages.push(Stage { inputs, devices, replicas, ..stage });
        }
        let times_max =
            stream.iterate.map(|(least, most)| chance.between((least.into(), most.into())) as u32);
        let last = stages.len() as u32 - 1;
        let iterate = times_max.map(|times_max| {
            let upstream = stages[last as usize].units;
            let first =
                InputSplit { blob: Hash([0; 32]), offset: 0, stride: 0, length: OUTPUT_BYTES * upstream };
            let all = Gather { initial: Some(first), ..reading(last, 0, upstream) };
            stages[0].inputs = vec![StageInput::Stage(all)];
            Iterate { times_max, until: Some(Until::Unchanged { stage: last, output: 0 }) }
        });
        let settles = times_max.map(|times_max| chance.between((1, times_max.into())));
        let deadline_s = stream.deadline_s.map(|range| chance.between(range));
        let deadline_ms = deadline_s.map(|s| self.market.now_ms(self.at_us) + s * 1_000);
        let plain = JobSpec::plain(stream.name.clone(), JobKind::Batch, "[]".to_owned(), stages.remove(0));
        let spec = JobSpec {
            priority: stream.priority.priority(),
            deadline_ms,
            iterate,
            stages: plain.stages.iter().cloned().chain(stages).collect(),
            ..plain
        };
        let order = self.truth.place(Order {
            stream: number,
            spec,
            unit_us,
            settles,
            submitted_us: self.at_us,
            given_up: false,
            id: None,
            first_lease_us: None,
            ended_us: None,
        });
        self.after(0, Happening::Submit { order });
        if self.chance.happens(stream.cancel_ppm) {
            let after_us = SECOND + self.chance.exponential(MINUTE);
            self.after(after_us, Happening::WantCancel { order });
        }
        if self.chance.happens(stream.pause_ppm) {
            let after_us = SECOND + self.chance.below(20 * SECOND);
            self.after(after_us, Happening::WantPause { order });
        }
        let next_us = self.between_orders_us(number);
        self.after(next_us, Happening::Order { stream: number });
    }

    fn submission(&mut self, order: usize) {
        let Order { stream, ref spec, .. } = self.truth.orders[order];
        let (owner, spec, now_ms) = (client(stream), spec.clone(), self.market.now_ms(self.at_us));
        let key = order_key(order);
        if spec.deadline_ms.is_some_and(|deadline| deadline <= now_ms) && !self.market.state.remembers(&key) {
            return self.truth.give_up(order);
        }
        let priced = self.scenario.workload.streams[stream].unit_price.is_some();
        let quoted = if priced { vec![] } else { (0..spec.stages.len() as u32).collect() };
        let jobs_before = self.market.state.jobs().len();
        let quote = self.market.state.quote(&spec, &quoted, now_ms);
        let key = Some((key, key));
        let submission =
            Submission { owner, spec, quoted, budget: None, key, canaries: vec![], sealed: None };
        if let Ok(Answer::Job(job)) = self.decide(Command::Submit(submission.into())) {
            let entry = &self.market.state.jobs()[&job];
            let prices = entry.spec.stages.iter().map(|stage| stage.unit_price);
            let agreed = prices.eq(quote.stages.iter().map(|stage| stage.unit_price));
            let new = self.market.state.jobs().len() > jobs_before;
            if new && !(agreed && Some(entry.money.escrowed) == quote.escrow) {
                self.record
                    .problems
                    .push(format!("{job} costs something else than it was quoted: {quote:?}"));
            }
            self.market.answer(Addressed::Client { order, job });
        }
    }

    fn cancellation(&mut self, order: usize) {
        let Order { id, stream, .. } = self.truth.orders[order];
        if let Some(job) = id {
            let _ = self.decide(Command::Cancel { job, by: client(stream) });
        }
    }
}

/// What is reported.
impl World<'_> {
    /// Bounded waiting (W1): no stage of any class waits longer than [`WAITING_US_MAX`] for a device while one that may take it
    /// has been idle for as long. Looked at only where no fault lengthens what a request takes: after [`SETTLED_US`] of calm, or
    /// in a run without faults.
    fn check_waiting(&mut self) {
        let faulty = self.scenario.faults != Faults::default();
        let from_us = if faulty { self.calm_us + SETTLED_US } else { 0 };
        let bound_us = WAITING_US_MAX + 4 * self.scenario.workload.providers.latency_ms.1 * MS;
        let Some(before_us) = self.at_us.checked_sub(bound_us).filter(|before| *before >= from_us) else {
            return;
        };
        if !self.market.up || self.rival.is_some() {
            return;
        }
        let state = &self.market.state;
        let (now_ms, before_ms) = (self.market.now_ms(self.at_us), self.market.now_ms(before_us));
        let mut hungry: Vec<_> =
            state.hungry_stages().filter(|(.., since_ms)| *since_ms <= before_ms).collect();
        hungry.sort_unstable_by_key(|(job, stage, since_ms)| (*since_ms, *job, *stage));
        let quiet = |p: &&Provider| !p.steady && p.announced && !p.draining && p.stirred_us <= before_us;
        let idle: Vec<_> = self.providers.iter().filter(quiet).map(|provider| provider.key).collect();
        for (job, stage, since_ms) in hungry.into_iter().take(HUNGRY_MAX) {
            let taker = idle.iter().find(|key| state.may_take(**key, job, stage, now_ms));
            if let Some(key) = taker {
                let waited_s = (now_ms - since_ms) / 1_000;
                self.record.problems.push(format!(
                    "W1: stage {stage} of {job} has waited for {waited_s} s, and {key} is idle and could take it"
                ));
            }
        }
        self.waiting_checks += 1;
    }

    fn sample(&mut self) {
        self.check_waiting();
        self.activity.until(self.at_us);
        let before = std::mem::replace(
            &mut self.sampled,
            Sampled {
                activity: self.activity,
                units: self.truth.units.accepted,
                accepted_us: self.truth.accepted_us,
                paid: self.truth.accepted_paid,
            },
        );
        let now = &self.sampled;
        let passed_us = now.activity.since_us - before.activity.since_us;
        let jobs = self.market.state.jobs();
        // A job that is known to the simulator may not be in a market that has just come back.
        let waiting = self.truth.open.iter().filter_map(|job| jobs.get(job)).map(|job| job.waiting_units());
        let (fairness_work, fairness_pay) = self.fairness();
        let sample = Sample {
            at_s: self.at_us as f64 / 1e6,
            units_per_s: ratio((now.units - before.units) as f64 * 1e6, passed_us as f64),
            utilisation: ratio(
                (now.activity.busy_us - before.activity.busy_us) as f64,
                (now.activity.online_us - before.activity.online_us) as f64,
            ),
            price: price(now.paid - before.paid, now.accepted_us - before.accepted_us),
            quote: self.quote(),
            fairness_work,
            fairness_pay,
            waiting_units: waiting.sum(),
            online: now.activity.online,
        };
        self.samples.push(sample);
        self.after(self.sample_us(), Happening::Sample);
    }

    /// What a reference second of work that every device can do would cost now, in tokens.
    fn quote(&self) -> f64 {
        let stage = Stage {
            name: String::new(),
            manifest: Hash([0; 32]),
            inputs: Vec::new(),
            units: 1,
            unit_price: Amount::ZERO,
            package_units: None,
            time_ms_max: 1,
            requirements: Requirements::default(),
            outputs_exact: vec![true],
            policy: Policy::Audit { rate_min_ppm: 0 },
            work: unit_work(SECOND, 0),
            output_bytes: vec![64],
            devices: 1,
            replicas: 1,
        };
        let spec = JobSpec::plain(String::new(), JobKind::Batch, String::new(), stage);
        let quote = self.market.state.quote(&spec, &[0], self.market.now_ms(self.at_us));
        quote.stages[0].rate.0 as f64 / BASE_UNITS_PER_TOKEN as f64
    }

    fn report(mut self) -> Report {
        // With nothing left to happen, a rival that was not told yet gives way to whom the journal is with.
        while self.market.up {
            self.flush();
            match self.rival.take() {
                Some(rival) => self.market = rival,
                None => break,
            }
        }
        self.market.check(self.at_us, &mut self.record);
        self.market.check_replay(&mut self.record);
        let mut problems = std::mem::take(&mut self.record.problems);
        problems.append(&mut self.truth.problems);
        for (number, order) in
            self.truth.orders.iter().enumerate().filter(|(_, o)| o.ended_us.is_none() && !o.given_up)
        {
            let why = match order.id {
                None => "was never taken".to_owned(),
                Some(id) => format!(
                    "{id} has not ended: {:?}",
                    self.market.state.job_reason(id, self.market.now_ms(self.at_us))
                ),
            };
            problems.push(format!("order {number} {why}"));
        }
        self.activity.until(self.at_us);
        let (calm, accepted) = self.calm.unwrap_or((self.activity, self.truth.units.accepted));
        let (fairness_work, fairness_pay) = self.fairness();
        Report {
            seed: self.scenario.seed,
            providers: self.scenario.providers,
            minutes: self.scenario.minutes,
            simulated_s: self.at_us as f64 / 1e6,
            digest: self.record.digest().to_string(),
            problems,
            decisions: self.record.decisions,
            events: self.record.events(),
            journal_bytes: self.record.journal_bytes,
            invariant_checks: self.record.invariant_checks,
            waiting_checks: self.waiting_checks,
            refusals: self.record.refusals.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            faults: self.faults,
            jobs: self.truth.jobs,
            units: self.truth.units,
            units_per_s: ratio(accepted as f64 * 1e6, calm.since_us as f64),
            utilisation: ratio(calm.busy_us as f64, calm.online_us as f64),
            streams: self.streams(),
            priorities: self.priorities(),
            natures: self.natures(),
            fairness_work,
            fairness_pay,
            price: price(self.truth.accepted_paid, self.truth.accepted_us),
            samples: self.samples,
        }
    }

    fn streams(&self) -> Vec<StreamReport> {
        let streams = self.scenario.workload.streams.iter().enumerate();
        let reports = streams.map(|(number, stream)| {
            let ended = || self.truth.orders.iter().filter(|o| o.stream == number && o.ended_us.is_some());
            let waiting = ended().filter_map(|o| Some(o.first_lease_us? - o.submitted_us)).collect();
            let turnaround = ended().filter_map(|o| Some(o.ended_us? - o.submitted_us)).collect();
            StreamReport {
                name: stream.name.clone(),
                jobs: ended().count() as u64,
                waiting_s: percentiles(waiting),
                turnaround_s: percentiles(turnaround),
            }
        });
        reports.collect()
    }

    fn priorities(&self) -> Vec<PriorityReport> {
        let streams = &self.scenario.workload.streams;
        let report = |class: Class| {
            let ended = || {
                let orders = self.truth.orders.iter();
                orders.filter(move |o| streams[o.stream].priority == class && o.ended_us.is_some())
            };
            let waiting: Vec<_> = ended().filter_map(|o| Some(o.first_lease_us? - o.submitted_us)).collect();
            let turnaround = ended().filter_map(|o| Some(o.ended_us? - o.submitted_us)).collect();
            PriorityReport {
                name: class.name().to_owned(),
                jobs: ended().count() as u64,
                waiting_s: percentiles(waiting.clone()),
                turnaround_s: percentiles(turnaround),
                waiting_quantiles_s: quantiles(waiting),
            }
        };
        Class::ALL.into_iter().map(report).filter(|class| class.jobs > 0).collect()
    }

    /// Providers that say something about fairness: honest ones that were there for a minute. For each the time online, in
    /// hours at reference speed, what it worked in that unit, and what it earned.
    fn offers(&self) -> impl Iterator<Item = (f64, f64, f64)> + '_ {
        let honest = |p: &&Provider| !p.steady && p.nature == Nature::Honest;
        self.providers.iter().filter(honest).filter_map(|provider| {
            let online_us = provider.online_us_until(self.at_us);
            let worked = self.truth.worked_us(provider.key) as f64 / 3.6e9;
            (online_us > MINUTE).then(|| (provider.offered_hours(online_us), worked, self.earned(provider)))
        })
    }

    fn earned(&self, provider: &Provider) -> f64 {
        let worker = self.market.state.workers().get(&provider.key);
        worker.map_or(0.0, |worker| worker.earned.0 as f64 / BASE_UNITS_PER_TOKEN as f64)
    }

    /// Jain's index over work for what was offered, and over pay for work.
    fn fairness(&self) -> (f64, f64) {
        let offers: Vec<_> = self.offers().collect();
        let work = jain(offers.iter().map(|(offered, worked, _)| worked / offered));
        let pay = offers.iter().filter(|(_, worked, _)| *worked > 0.0);
        (work, jain(pay.map(|(_, worked, earned)| earned / worked)))
    }

    fn natures(&self) -> Vec<NatureReport> {
        let mut natures: BTreeMap<&'static str, NatureReport> = BTreeMap::new();
        for provider in self.providers.iter().filter(|provider| !provider.steady) {
            let offered = provider.offered_hours(provider.online_us_until(self.at_us));
            let worker = self.market.state.workers().get(&provider.key);
            let entry = natures.entry(provider.nature.name()).or_default();
            entry.name = provider.nature.name().to_owned();
            entry.providers += 1;
            entry.earned += self.earned(provider);
            entry.reference_hours += offered;
            entry.rejected += worker.map_or(0, |worker| worker.rejected);
            let Some(worker) = worker else { continue };
            entry.reputation += f64::from(self.market.state.reputation(worker.owner).nrs_milli) / 1e3;
            entry.overstated += u64::from(worker.speed.overstated);
            if let Some(ppm) = worker.speed.measured_ppm {
                entry.measured += 1;
                entry.measured_speed += ppm as f64 / provider.device.speed_ppm as f64;
            }
        }
        let rate = natures.get("honest").map_or(0.0, |honest| ratio(honest.earned, honest.reference_hours));
        for nature in natures.values_mut() {
            nature.honest_would_earn = rate * nature.reference_hours;
            nature.reputation = ratio(nature.reputation, nature.providers as f64);
            nature.measured_speed = ratio(nature.measured_speed, nature.measured as f64);
        }
        natures.into_values().collect()
    }
}

/// Tokens a second of reference time.
fn price(paid: u64, us: u64) -> f64 {
    ratio(paid as f64 / BASE_UNITS_PER_TOKEN as f64, us as f64 / 1e6)
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
