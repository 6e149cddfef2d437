//! The event queue and everything on it.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap},
    rc::Rc,
};

use engine::{
    Answer, Command, JobSpec, Policy, Rejection, Release, Requirements, Stage, Submission, UnitWork, Work,
};
use protocol::{
    Amount, BASE_UNITS_PER_TOKEN, Hash, JobId, LeaseId, PublicKey, Receipt, Signature, manifest::JobKind,
};

use crate::{
    Faults, Observer, Scenario,
    chance::{Chance, mixed},
    devices::{Device, Devices},
    market::{GROUP_US, Market, Wish, unexplained},
    provider::{Grant, Held, PACKAGES_MAX, Provider, Results},
    report::{FaultCounts, NatureReport, Report, Sample, StreamReport, percentiles},
    scenario::Verification,
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
/// Longest pause between two attempts to deliver results.
const RESEND_US_MAX: u64 = 15 * SECOND;
/// By how much lazy providers answer checks late.
const LAZY_US: u64 = MINUTE;
/// How long the judge takes to compare outputs by tolerance.
const JUDGE_US: u64 = 100 * MS;
/// Between two rounds of trying waiting workers again.
const ROUND_US: u64 = MS;
/// One-way latency of clients.
const CLIENT_LATENCY_US: u64 = 30 * MS;
/// A cheat that does not compute a unit needs this part of its time.
const LIE_COST: u64 = 50;
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
    AskTimeout { provider: usize, incarnation: u32, request: u64 },
    Deliver { provider: usize, incarnation: u32, lease: LeaseId, pause_us: u64 },
    Finish { provider: usize, incarnation: u32, lease: LeaseId },
    Request { provider: usize, incarnation: u32, body: Body },
    Reply { provider: usize, incarnation: u32, reply: Reply },
    Order { stream: usize },
    Submit { order: usize },
    Submission { order: usize },
    Submitted { order: usize, job: JobId },
    WantCancel { order: usize },
    Cancellation { order: usize },
    PollOver { ticket: u64 },
    Tick,
    Round,
    Flush,
    Judge,
    MarketCrash,
    MarketDown,
    MarketBack,
    ClockJump,
    Sample,
}

/// What a provider says.
#[derive(Clone, Debug)]
enum Body {
    Announce,
    Ask { request: u64 },
    Beat { leases: Vec<LeaseId> },
    Commit { lease: LeaseId, results: Rc<Results> },
    Release { lease: LeaseId, generation: u32 },
    Leave { drain: bool },
}

/// What the market says.
#[derive(Clone, Debug)]
enum Reply {
    Announced,
    Unknown,
    Leases { request: u64, grants: Vec<Grant> },
    Lost { leases: Vec<LeaseId> },
    Taken { lease: LeaseId },
}

/// To whom an answer goes, once what it says is durable.
#[derive(Debug)]
enum Addressed {
    Provider { provider: usize, incarnation: u32, reply: Reply },
    Client { order: usize, job: JobId },
}

struct Queued {
    at_us: u64,
    number: u64,
    what: Happening,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at_us, self.number) == (other.at_us, other.number)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
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

pub(crate) struct World<'a> {
    scenario: &'a Scenario,
    observer: &'a mut dyn Observer,
    chance: Chance,
    at_us: u64,
    /// Until when jobs arrive and faults happen.
    calm_us: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    queued: u64,
    market: Market<Addressed>,
    providers: Vec<Provider>,
    truth: Truth,
    specs: Vec<JobSpec>,
    faults: FaultCounts,
    requests: u64,
    tick_us: Option<u64>,
    flushing: bool,
    judging: bool,
    rounding: bool,
    /// Whether the market crashes as soon as something is decided and not yet durable.
    crash_due: bool,
    activity: Activity,
    samples: Vec<Sample>,
    sampled: (Activity, u64),
    /// Activity and accepted units when the calm began.
    calm: Option<(Activity, u64)>,
}

fn key(tag: u8, number: usize) -> PublicKey {
    let mut bytes = [tag; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    PublicKey(bytes)
}

fn client(stream: usize) -> PublicKey {
    key(200, stream)
}

impl<'a> World<'a> {
    pub(crate) fn new(scenario: &'a Scenario, observer: &'a mut dyn Observer) -> Self {
        let keep_journal = scenario.faults.market_crash_s > 0 || scenario.providers <= JOURNAL_PROVIDERS_MAX;
        let mut world = Self {
            scenario,
            observer,
            chance: Chance::new(scenario.seed),
            at_us: 0,
            calm_us: u64::from(scenario.minutes) * MINUTE,
            queue: BinaryHeap::new(),
            queued: 0,
            market: Market::found(MARKET, scenario.params.clone(), keep_journal, scenario.check_every),
            providers: Vec::new(),
            truth: Truth::default(),
            specs: Vec::new(),
            faults: FaultCounts::default(),
            requests: 0,
            tick_us: None,
            flushing: false,
            judging: false,
            rounding: false,
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
            } else {
                Nature::Honest
            };
            let device: Device = devices.draw(&mut self.chance);
            let latency_us = self.chance.between(population.latency_ms) * MS;
            let key = key(1, number);
            self.truth.know(key, nature);
            self.providers.push(Provider::new(key, device, nature, latency_us, false));
            if number > 1 && self.chance.happens(population.second_devices_ppm) {
                let expires_at_ms = self.market.now_ms(0) + 30 * 24 * 3_600 * 1_000;
                self.must(Command::DelegateSession { wallet, session: key, expires_at_ms });
            } else {
                wallet = key;
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
            let deposit = Command::Deposit { account: client(stream), amount, key: None };
            self.must(deposit);
            let after_us = self.between_orders_us(stream);
            self.push(after_us, Happening::Order { stream });
        }
        let faults = self.scenario.faults;
        for (mean_s, what) in
            [(faults.market_crash_s, Happening::MarketCrash), (faults.clock_jump_s, Happening::ClockJump)]
        {
            if mean_s > 0 {
                let at_us = self.chance.exponential(mean_s * SECOND);
                self.push(at_us, what);
            }
        }
        self.push(self.sample_us(), Happening::Sample);
    }

    fn sample_us(&self) -> u64 {
        (self.calm_us / SAMPLES).max(SECOND)
    }

    fn push(&mut self, at_us: u64, what: Happening) {
        self.queued += 1;
        self.queue.push(Reverse(Queued { at_us, number: self.queued, what }));
    }

    fn after(&mut self, us: u64, what: Happening) {
        self.push(self.at_us + us, what);
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
        if let Err(rejection) = self.market.decide(self.at_us, command, self.observer) {
            self.market.problems.push(format!("refused: {rejection}"));
        }
        self.decided();
    }

    fn decide(&mut self, command: Command) -> Result<Answer, Rejection> {
        let decided = self.market.decide(self.at_us, command, self.observer);
        if let Err(rejection) = &decided
            && unexplained(rejection)
        {
            self.market.problems.push(format!("refused: {rejection}"));
        }
        decided
    }

    /// What the market's shell does after deciding: a group to write, waiting workers to try again, a deadline to keep.
    fn decided(&mut self) {
        if !self.market.up {
            return;
        }
        if self.market.unwritten() && !self.flushing {
            self.flushing = true;
            self.after(GROUP_US, Happening::Flush);
        }
        if self.market.unwritten() && self.crash_due {
            self.crash_due = false;
            // Before the group is durable.
            self.after(GROUP_US / 2, Happening::MarketDown);
        }
        if self.market.retry && !self.rounding {
            self.rounding = true;
            self.after(ROUND_US, Happening::Round);
        }
        let now_ms = self.market.now_ms(self.at_us);
        if let Some(due_ms) = self.market.state.next_deadline_ms(now_ms) {
            // A deadline that has come is seen at the next tick of the clock.
            let due_us = self.at_us + due_ms.saturating_sub(now_ms).max(1) * MS;
            if self.tick_us.is_none_or(|tick| tick <= self.at_us || due_us < tick) {
                self.tick_us = Some(due_us);
                self.push(due_us, Happening::Tick);
            }
        }
    }

    pub(crate) fn run(mut self) -> Report {
        self.decided();
        let end_us = self.calm_us + u64::from(self.scenario.drain_minutes_max) * MINUTE;
        let mut second = 0;
        while let Some(Reverse(next)) = self.queue.pop() {
            self.at_us = next.at_us;
            if self.calm.is_none() && !self.stormy() {
                self.activity.until(self.at_us);
                self.calm = Some((self.activity, self.truth.units.accepted));
            }
            if self.at_us / SECOND > second {
                second = self.at_us / SECOND;
                self.observer.passed(second, self.calm_us / SECOND);
            }
            let over =
                self.truth.ended == self.truth.orders.len() && !self.market.unwritten() && self.market.up;
            if !self.stormy() && (over || self.at_us > end_us) {
                break;
            }
            self.happen(next.what);
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
            Happening::AskTimeout { provider, incarnation, request } => {
                if self.lives(provider, incarnation) && self.providers[provider].asking == Some(request) {
                    self.providers[provider].asking = None;
                    self.ask(provider);
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
                if self.market.up {
                    self.request(provider, incarnation, body);
                    self.decided();
                }
            }
            Happening::Reply { provider, incarnation, reply } => {
                if self.lives(provider, incarnation) {
                    self.reply(provider, reply);
                }
            }
            Happening::Order { stream } => self.order(stream),
            Happening::Submit { order } => {
                if self.truth.orders[order].id.is_none() {
                    self.transmit(CLIENT_LATENCY_US, Happening::Submission { order });
                    self.after(RESEND_US, Happening::Submit { order });
                }
            }
            Happening::Submission { order } => self.submission(order),
            Happening::Submitted { order, job } => {
                if self.truth.orders[order].id != Some(job) {
                    self.market.problems.push(format!("order {order} was answered {job}, which it is not"));
                }
            }
            Happening::WantCancel { order } => {
                self.transmit(CLIENT_LATENCY_US, Happening::Cancellation { order });
            }
            Happening::Cancellation { order } => self.cancellation(order),
            Happening::PollOver { ticket } => {
                if let Some(wish) = self.market.unpark(ticket) {
                    self.answer_wish(&wish, Vec::new());
                    self.decided();
                }
            }
            Happening::Tick => {
                if self.market.up && self.tick_us == Some(self.at_us) {
                    self.market.retry = true;
                    self.must(Command::AdvanceTime);
                }
            }
            Happening::Round => self.round(),
            Happening::Flush => self.flush(),
            Happening::Judge => self.judge(),
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
                self.market.restart(self.at_us, self.observer);
                self.tick_us = None;
                self.decided();
            }
            Happening::ClockJump => {
                if self.stormy() {
                    self.faults.clock_jumps += 1;
                    self.market.clock_ms += 1_000 + self.chance.below(120_000);
                    self.tick_us = None;
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
        self.providers[provider].asking = Some(request);
        let incarnation = self.providers[provider].incarnation;
        self.say(provider, Body::Ask { request });
        self.after(POLL_US + 2 * RESEND_US, Happening::AskTimeout { provider, incarnation, request });
    }

    fn reply(&mut self, provider: usize, reply: Reply) {
        let incarnation = self.providers[provider].incarnation;
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
            Reply::Lost { leases } => {
                let entry = &mut self.providers[provider];
                entry.queue.retain(|held| !leases.contains(&held.grant.lease));
                if entry.running.as_ref().is_some_and(|held| leases.contains(&held.grant.lease)) {
                    entry.running = None;
                    self.activity.until(self.at_us);
                    self.activity.busy -= u64::from(!self.providers[provider].steady);
                }
                self.start(provider);
                self.ask(provider);
                self.rest(provider);
            }
            Reply::Taken { lease } => {
                self.providers[provider].unanswered.remove(&lease);
                self.ask(provider);
                self.rest(provider);
            }
        }
    }

    fn unit_us(&self, job: JobId, unit: u64) -> u64 {
        let middle = self.truth.order_of(job).unit_us;
        // Three to five quarters.
        middle * 3 / 4 + mixed(&[job.0, unit]) % (middle / 2 + 1)
    }

    fn lie(&self, provider: usize, job: JobId, unit: u64) -> u64 {
        let lie_ppm = self.scenario.workload.providers.lie_ppm;
        self.providers[provider].nature.lie(provider, job, unit, lie_ppm)
    }

    fn cost_us(&self, provider: usize, grant: &Grant) -> u64 {
        let units = grant.units.iter().map(|unit| {
            let us = self.unit_us(grant.job, *unit);
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
        self.activity.until(self.at_us);
        self.activity.busy += u64::from(!self.providers[provider].steady);
        self.after(cost_us, Happening::Finish { provider, incarnation, lease });
    }

    fn finish(&mut self, provider: usize) {
        let held = self.providers[provider].running.take().expect("it runs");
        self.activity.until(self.at_us);
        self.activity.busy -= u64::from(!self.providers[provider].steady);
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
            self.say(provider, Body::Release { lease, generation });
        } else {
            let results = self.results(provider, &held);
            self.providers[provider].unanswered.insert(lease, Rc::new(results));
            let incarnation = self.providers[provider].incarnation;
            let late = held.grant.check && self.providers[provider].nature == Nature::Lazy;
            let late_us = if late { LAZY_US } else { 0 };
            self.after(late_us, Happening::Deliver { provider, incarnation, lease, pause_us: RESEND_US });
        }
        self.start(provider);
        self.ask(provider);
        self.rest(provider);
    }

    fn results(&self, provider: usize, held: &Held) -> Results {
        let (entry, grant) = (&self.providers[provider], &held.grant);
        let order = self.truth.order_of(grant.job);
        let exact = self.scenario.workload.streams[order.stream].exact;
        let variant = if exact { 0 } else { entry.device.vendor };
        let units: Vec<_> = grant
            .units
            .iter()
            .map(|unit| {
                (*unit, vec![output(grant.job, *unit, self.lie(provider, grant.job, *unit), variant)])
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
            started_at_ms: (self.at_us - held.cost_us) / MS,
            device_us: held.cost_us,
            total_us: held.cost_us,
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
    fn request(&mut self, provider: usize, incarnation: u32, body: Body) {
        let worker = self.providers[provider].key;
        let instance = incarnation.to_string();
        let reply = match body {
            Body::Announce => {
                let (device, version) = (self.providers[provider].device.facts.clone(), "sim".to_owned());
                let offer = Default::default();
                let announce = Command::Announce { worker, instance, device, version, offer };
                // While a crashed process still holds the key, it is asked again by the announcement's timer.
                self.decide(announce).ok().map(|_| Reply::Announced)
            }
            Body::Ask { request } => {
                let wish = Wish { provider, incarnation, request, packages_max: PACKAGES_MAX };
                if !self.try_wish(&wish) {
                    let ticket = self.market.park(wish);
                    self.after(POLL_US, Happening::PollOver { ticket });
                }
                None
            }
            Body::Beat { leases } => match self.decide(Command::Heartbeat { worker, instance, leases }) {
                Ok(Answer::Heard { lost, .. }) if lost.is_empty() => None,
                Ok(Answer::Heard { lost, .. }) => Some(Reply::Lost { leases: lost }),
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
                let _ = self.decide(commit);
                Some(Reply::Taken { lease })
            }
            Body::Release { lease, generation } => {
                let release =
                    Release::Failed { code: "device_failed".to_owned(), detail: "simulated".to_owned() };
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

    /// Tries waiting workers again.
    fn round(&mut self) {
        self.rounding = false;
        if !self.market.up {
            return;
        }
        self.market.retry = false;
        let mut granted = false;
        for (ticket, wish) in self.market.tries() {
            if self.try_wish(&wish) {
                self.market.unpark(ticket);
                granted = true;
            }
        }
        self.market.retry |= granted;
        self.decided();
    }

    fn flush(&mut self) {
        self.flushing = false;
        if !self.market.up {
            return;
        }
        let (events, answers) = self.market.flush();
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
        if !self.judging && !self.market.state.comparisons(1).is_empty() {
            self.judging = true;
            self.after(JUDGE_US, Happening::Judge);
        }
    }

    /// Compares by tolerance: right results of different vendors agree, as do equal ones.
    fn judge(&mut self) {
        self.judging = false;
        if !self.market.up {
            return;
        }
        for comparison in self.market.state.comparisons(64) {
            let agrees = comparison.pairs.iter().all(|(_, _, first, again)| lie_of(first) == lie_of(again));
            let evidence = String::new();
            // An opinion may settle a package and with it the next comparison.
            let _ = self.decide(Command::RecordOpinion { check: comparison.check, agrees, evidence });
        }
        self.decided();
    }

    fn market_down(&mut self) {
        if self.market.up && self.stormy() {
            self.faults.market_crashes += 1;
            self.faults.undurable_events += self.market.crash(self.at_us);
            let down_us = SECOND + self.chance.below(20 * SECOND);
            self.after(down_us, Happening::MarketBack);
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
        let stream = &self.scenario.workload.streams[number];
        let unit_us = self.chance.between(stream.unit_ms) * MS;
        let stage = Stage {
            name: String::new(),
            manifest: Hash::of(stream.name.as_bytes()),
            inputs: Vec::new(),
            units: self.chance.between(stream.units),
            unit_price: Amount(stream.unit_price),
            package_units: stream.package_units,
            // What the slowest device of the table may take.
            time_ms_max: unit_us / MS * 16,
            requirements: Requirements {
                storage_buffer_bytes: stream.storage_mib << 20,
                storage_buffers: 4,
                ..Requirements::default()
            },
            outputs_exact: vec![stream.exact],
            policy: match stream.policy {
                Verification::AuditPpm(rate_min_ppm) => Policy::Audit { rate_min_ppm },
                Verification::Quorum(agree) => Policy::Quorum { agree },
            },
            work: UnitWork::default(),
            devices: 1,
            replicas: 1,
        };
        let spec = JobSpec::plain(stream.name.clone(), JobKind::Batch, "[]".to_owned(), stage);
        self.specs.push(spec);
        let order = self.truth.place(Order {
            stream: number,
            unit_us,
            submitted_us: self.at_us,
            id: None,
            first_lease_us: None,
            ended_us: None,
        });
        self.after(0, Happening::Submit { order });
        if self.chance.happens(stream.cancel_ppm) {
            let after_us = SECOND + self.chance.exponential(MINUTE);
            self.after(after_us, Happening::WantCancel { order });
        }
        let next_us = self.between_orders_us(number);
        self.after(next_us, Happening::Order { stream: number });
    }

    fn submission(&mut self, order: usize) {
        if !self.market.up {
            return;
        }
        let (owner, spec) = (client(self.truth.orders[order].stream), self.specs[order].clone());
        let key = Some((order_key(order), order_key(order)));
        let submission = Submission { owner, spec, budget: None, key };
        if let Ok(Answer::Job(job)) = self.decide(Command::Submit(submission.into())) {
            self.market.answer(Addressed::Client { order, job });
        }
        self.decided();
    }

    fn cancellation(&mut self, order: usize) {
        let Order { id, stream, .. } = self.truth.orders[order];
        if let (true, Some(job)) = (self.market.up, id) {
            let _ = self.decide(Command::Cancel { job, by: client(stream) });
            self.decided();
        }
    }
}

/// What is reported.
impl World<'_> {
    fn sample(&mut self) {
        self.activity.until(self.at_us);
        let (before, accepted_before) = self.sampled;
        let (now, accepted) = (self.activity, self.truth.units.accepted);
        let passed_us = now.since_us - before.since_us;
        let jobs = self.market.state.jobs();
        // A job that is known to the simulator may not be in a market that has just come back.
        let waiting = self.truth.open.iter().filter_map(|job| jobs.get(job)).map(|job| job.waiting_units());
        self.samples.push(Sample {
            at_s: self.at_us as f64 / 1e6,
            units_per_s: ratio((accepted - accepted_before) as f64 * 1e6, passed_us as f64),
            utilisation: ratio(
                (now.busy_us - before.busy_us) as f64,
                (now.online_us - before.online_us) as f64,
            ),
            waiting_units: waiting.sum(),
            online: now.online,
        });
        self.sampled = (now, accepted);
        self.after(self.sample_us(), Happening::Sample);
    }

    fn report(mut self) -> Report {
        if self.market.up {
            let (events, _) = self.market.flush();
            for event in &events {
                self.truth.observe(self.at_us, event, &self.market.state);
            }
        }
        self.market.check(self.at_us);
        self.market.check_replay();
        let mut problems = std::mem::take(&mut self.market.problems);
        problems.append(&mut self.truth.problems);
        for (number, order) in self.truth.orders.iter().enumerate().filter(|(_, o)| o.ended_us.is_none()) {
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
        let (natures, fairness) = self.natures();
        Report {
            seed: self.scenario.seed,
            providers: self.scenario.providers,
            minutes: self.scenario.minutes,
            simulated_s: self.at_us as f64 / 1e6,
            digest: self.market.digest().to_string(),
            problems,
            decisions: self.market.decisions,
            events: self.market.events,
            journal_bytes: self.market.journal_bytes,
            invariant_checks: self.market.invariant_checks,
            refusals: self.market.refusals.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            faults: self.faults,
            jobs: self.truth.jobs,
            units: self.truth.units,
            units_per_s: ratio(accepted as f64 * 1e6, calm.since_us as f64),
            utilisation: ratio(calm.busy_us as f64, calm.online_us as f64),
            streams: self.streams(),
            natures,
            fairness,
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

    fn natures(&self) -> (Vec<NatureReport>, f64) {
        let mut natures: BTreeMap<&'static str, NatureReport> = BTreeMap::new();
        let (mut sum, mut squares, mut count) = (0.0, 0.0, 0u32);
        for provider in self.providers.iter().filter(|provider| !provider.steady) {
            let since_us = if provider.online { self.at_us - provider.online_since_us } else { 0 };
            let online_us = provider.online_us + since_us;
            let offered = online_us as f64 / 3.6e9 * provider.device.speed_ppm as f64 / 1e6;
            let worker = self.market.state.workers().get(&provider.key);
            let earned = worker.map_or(0.0, |worker| worker.earned.0 as f64 / BASE_UNITS_PER_TOKEN as f64);
            let entry = natures.entry(provider.nature.name()).or_default();
            entry.name = provider.nature.name().to_owned();
            entry.providers += 1;
            entry.earned += earned;
            entry.reference_hours += offered;
            entry.rejected += worker.map_or(0, |worker| worker.rejected);
            // Who was there for less than a minute says nothing about fairness.
            if provider.nature == Nature::Honest && online_us > MINUTE {
                let rate = earned / offered;
                (sum, squares, count) = (sum + rate, squares + rate * rate, count + 1);
            }
        }
        let rate = natures.get("honest").map_or(0.0, |honest| ratio(honest.earned, honest.reference_hours));
        for nature in natures.values_mut() {
            nature.honest_would_earn = rate * nature.reference_hours;
        }
        (natures.into_values().collect(), ratio(sum * sum, squares * f64::from(count)))
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
