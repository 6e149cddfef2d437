//! What cheating is worth: workers, clients and auditors that do not do what they are paid for, against the real rules.
//!
//! [`measure`] lets each [`Cheat`] play against honest workers over many seeds and compares what happens with what the rules
//! promise:
//!
//! - *Found*: of the packages with wrong results how many were rejected. The rules promise `1 − (1 − p)^w` of each, with `w` wrong
//!   units and the rate `p` at which a unit of that worker was drawn at that moment (times the chance that whoever checks is not
//!   a partner). The sum of these is the expected number; what is found differs from it by a martingale, so that its variance is
//!   `Σ q · (1 − q)`, however much each result changes the next rate.
//! - *Worth*: what the cheat was paid for units that it did not compute, less what it lost: slashed stake and pay, and what it
//!   computed without being paid. A wrong result costs [`EFFORT_PPM`] of a right one, a right one costs what it pays: an honest
//!   worker's worth is nothing, and a cheat's must be less.
//! - *Executed again*: units of checks, for each accepted unit of anybody.
//!
//! The honest ones must come to no harm: no stake of theirs is slashed, whatever others do.
//!
//! Nothing here is random but the seeds, and nothing is simulated but the workers: [`square`] says how.

mod results;
mod square;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use engine::{Params, Policy};
use protocol::{Amount, JobId, LeaseId, OutputCommitment, PublicKey, Receipt};
use results::{Content, right};
use serde::Serialize;
use square::{Closed, Ending, Held, Made, Square, Terms, UNIT_PRICE, key};

use crate::chance::mixed;

/// What a wrong result costs its maker of what a right one does: it is made, uploaded and signed all the same.
pub const EFFORT_PPM: u64 = 20_000;
/// Honest workers, each of an owner of its own.
const HONEST: u64 = 6;
/// Packages that a cheat commits in one run.
const PACKAGES: u64 = 60;
/// Packages after which most cheats begin: they are trusted by then.
const TRUSTED: u64 = 12;
/// What only the self-dealer's devices say to have.
const OWN_FEATURE: &str = "self-dealt";
/// Turns of a run at most.
const TURNS_MAX: u64 = 4_000;
/// Turns of a client that has no worker of its own.
const CLIENT_TURNS: u64 = 100;
/// Turns in which what is open is finished.
const LAST_TURNS: u64 = 60;

/// Who does not do what they are paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cheat {
    /// Returns zeros.
    Zeros,
    /// Returns random bytes.
    RandomBytes,
    /// Returns the result of the next unit.
    Neighbour,
    /// Returns the result of the unit with the same number in the job before.
    Yesterday,
    /// Is right for fifty units and never again.
    AfterFifty,
    /// Has one wrong element in one unit of a hundred.
    OneInAHundred,
    /// Computes with ten bits of mantissa where the tolerance asks for thirteen.
    LowPrecision,
    /// Computes with sixteen: not a cheat, and not to be taken for one.
    EnoughPrecision,
    /// Computes the first chunk of each output.
    FirstChunk,
    /// Two of different owners tell each other which results are wrong, and vouch for them in checks.
    Colluders,
    /// Is right in what looks like a check, wrong in what looks like a package.
    AuditsOnly,
    /// Lies at once, and comes back with another key and owner when it is found out.
    Sybil,
    /// The same, but earns trust first each time.
    PatientSybil,
    /// Says in checks that right results are wrong.
    LyingAuditor,
    /// Hands receipts in again: its own for the same lease and for others', with another generation, for another market.
    Replays,
    /// A client whose program never answers the same, so that nobody's results can be confirmed.
    RandomProgram,
    /// A client and the only provider that may run its jobs, in one hand: nothing is computed, and it all is paid for.
    SelfDealer,
}

impl Cheat {
    /// All.
    pub const ALL: [Self; 17] = [
        Self::Zeros,
        Self::RandomBytes,
        Self::Neighbour,
        Self::Yesterday,
        Self::AfterFifty,
        Self::OneInAHundred,
        Self::LowPrecision,
        Self::EnoughPrecision,
        Self::FirstChunk,
        Self::Colluders,
        Self::AuditsOnly,
        Self::Sybil,
        Self::PatientSybil,
        Self::LyingAuditor,
        Self::Replays,
        Self::RandomProgram,
        Self::SelfDealer,
    ];

    /// For a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zeros => "zeros",
            Self::RandomBytes => "random bytes",
            Self::Neighbour => "a neighbour's result",
            Self::Yesterday => "yesterday's result",
            Self::AfterFifty => "right for 50 units, then garbage",
            Self::OneInAHundred => "one wrong element in 1 % of units",
            Self::LowPrecision => "low precision, outside the tolerance",
            Self::EnoughPrecision => "low precision, within it (no cheat)",
            Self::FirstChunk => "only the first chunk",
            Self::Colluders => "two colluders",
            Self::AuditsOnly => "right only in what looks like a check",
            Self::Sybil => "Sybil, new keys when found out",
            Self::PatientSybil => "Sybil that earns trust first",
            Self::LyingAuditor => "lying auditor",
            Self::Replays => "replayed and cross-posted receipts",
            Self::RandomProgram => "client whose program is random",
            Self::SelfDealer => "client and provider in one hand",
        }
    }
}

/// What a cheat did in many runs.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Who.
    pub cheat: Cheat,
    /// Runs.
    pub seeds: u64,
    /// Packages with wrong results that it committed (of a lying auditor: its wrong checks).
    pub wrong: u64,
    /// Of those, the ones that were found out.
    pub found: u64,
    /// How many the rules promise.
    pub expected: f64,
    /// Standard deviation of what is found around that.
    pub sigma: f64,
    /// What it was paid for units that it did not compute, in prices of a unit a run.
    pub gained: f64,
    /// What it lost, in prices of a unit a run.
    pub lost: f64,
    /// The difference, as the mean of the runs.
    pub worth: f64,
    /// Standard error of that mean.
    pub worth_error: f64,
    /// Units executed again, of those accepted.
    pub again: f64,
    /// Packages of right results that were rejected.
    pub wronged: u64,
    /// Honest owners that lost stake or pay to a verdict.
    pub honest_slashed: u64,
    /// Of the checks that it was given, those that looked like one.
    pub checks_told: f64,
    /// Of the packages that it was given, those that looked like a check.
    pub packages_mistaken: f64,
    /// What must not be: broken invariants, receipts that were refused.
    pub problems: Vec<String>,
}

impl Row {
    /// By how many standard deviations what is found differs from what is promised.
    pub fn deviation(&self) -> f64 {
        if self.sigma > 0.0 {
            (self.found as f64 - self.expected) / self.sigma
        } else {
            self.found as f64 - self.expected
        }
    }
}

/// What one run found.
#[derive(Clone, Debug, Default)]
struct Outcome {
    wrong: u64,
    found: u64,
    expected: f64,
    variance: f64,
    gained: f64,
    lost: f64,
    executed_again: u64,
    accepted: u64,
    wronged: u64,
    honest_slashed: u64,
    leases: Leases,
    problems: Vec<String>,
}

/// What leases looked like.
#[derive(Clone, Copy, Debug, Default)]
struct Leases {
    checks: u64,
    checks_told: u64,
    packages: u64,
    packages_mistaken: u64,
}

/// Lets a cheat play with each of these seeds.
pub fn measure(cheat: Cheat, seeds: Range<u64>) -> Row {
    let outcomes: Vec<Outcome> = seeds.map(|seed| Play::new(cheat, seed).run()).collect();
    let runs = outcomes.len().max(1) as f64;
    let sum = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>();
    let count = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let worths = outcomes.iter().map(|outcome| outcome.gained - outcome.lost);
    let worth = worths.clone().sum::<f64>() / runs;
    let spread = worths.map(|one| (one - worth).powi(2)).sum::<f64>() / (runs - 1.0).max(1.0);
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    Row {
        cheat,
        seeds: outcomes.len() as u64,
        wrong: count(|o| o.wrong),
        found: count(|o| o.found),
        expected: sum(|o| o.expected),
        sigma: sum(|o| o.variance).sqrt(),
        gained: sum(|o| o.gained) / runs,
        lost: sum(|o| o.lost) / runs,
        worth,
        worth_error: (spread / runs).sqrt(),
        again: share(count(|o| o.executed_again), count(|o| o.accepted)),
        wronged: count(|o| o.wronged),
        honest_slashed: count(|o| o.honest_slashed),
        checks_told: share(count(|o| o.leases.checks_told), count(|o| o.leases.checks)),
        packages_mistaken: share(count(|o| o.leases.packages_mistaken), count(|o| o.leases.packages)),
        problems: outcomes.into_iter().flat_map(|outcome| outcome.problems).collect(),
    }
}

/// One run.
struct Play {
    cheat: Cheat,
    square: Square,
    /// The cheat's players: their numbers on the square.
    cheats: Vec<usize>,
    /// Everybody who ever played for the cheat.
    keys: BTreeSet<PublicKey>,
    /// Of each key, packages paid in a row.
    rows: BTreeMap<PublicKey, u64>,
    /// Units that were executed for the cheat, and packages committed.
    units: u64,
    committed: u64,
    /// Units that partners know to be wrong.
    ring: BTreeSet<(JobId, u64)>,
    /// Who submits the self-dealer's jobs, and the one that is open.
    dealer: Option<PublicKey>,
    dealt: Option<JobId>,
    /// Whether it has begun to cheat, and does not stop any more.
    begun: bool,
    outcome: Outcome,
}

impl Play {
    fn new(cheat: Cheat, seed: u64) -> Self {
        let terms = Terms {
            policy: Policy::Audit { rate_min_ppm: 20_000 },
            exact: !matches!(cheat, Cheat::LowPrecision | Cheat::EnoughPrecision),
            package_units: 8,
            job_units: 64,
            random: cheat == Cheat::RandomProgram,
        };
        let square = Square::new(mixed(&[seed, cheat as u64]), HONEST, terms, Params::default());
        let mut play = Self {
            cheat,
            cheats: Vec::new(),
            keys: BTreeSet::new(),
            rows: BTreeMap::new(),
            units: 0,
            committed: 0,
            ring: BTreeSet::new(),
            dealer: (cheat == Cheat::SelfDealer).then(|| key(8, seed)),
            dealt: None,
            begun: false,
            outcome: Outcome::default(),
            square,
        };
        if let Some(dealer) = play.dealer {
            play.square.fund(dealer);
        }
        let count = match cheat {
            Cheat::Colluders | Cheat::SelfDealer => 2,
            Cheat::RandomProgram => 0,
            _ => 1,
        };
        for _ in 0..count {
            play.come();
        }
        play
    }

    /// The cheat comes with a new key, which is its own owner.
    fn come(&mut self) {
        let worker = key(9, self.keys.len() as u64);
        self.keys.insert(worker);
        let feature = self.dealer.map(|_| OWN_FEATURE);
        let player = self.square.join(worker, 0, feature);
        self.cheats.push(player);
        self.rows.insert(worker, 0);
    }

    fn run(mut self) -> Outcome {
        let packages = PACKAGES * self.cheats.len() as u64;
        for turn in 0..TURNS_MAX {
            // A client alone commits nothing: it is watched as long as the others take about.
            let over = if packages > 0 { self.committed >= packages } else { turn >= CLIENT_TURNS };
            if over {
                break;
            }
            self.square.keep_busy();
            self.turn(true);
        }
        for _ in 0..LAST_TURNS {
            self.turn(false);
        }
        let params = self.square.state.params();
        // Whatever was held back is paid or lost by then, and the epoch is over.
        let rest_ms = params.epoch_ms.max(2 * params.appeal_ms);
        self.square.quiet(rest_ms);
        self.square.check();
        self.settle();
        if let Some(dealer) = self.dealer {
            self.settle_deals(dealer);
        }
        if self.cheat == Cheat::RandomProgram {
            let client = self.square.state.accounts().get(&self.square.client);
            self.outcome.lost += client.map_or(0.0, |account| in_prices(account.spent));
        }
        let open = self.square.made.values().filter(|made| self.keys.contains(&made.worker)).count();
        if open > 0 && self.dealer.is_none() {
            self.square.problems.push(format!("{open} packages of the cheat are still open"));
        }
        self.outcome.executed_again = self.square.checked;
        self.outcome.accepted = self.square.accepted;
        self.outcome.wronged = self.square.wronged;
        self.outcome.problems.append(&mut self.square.problems);
        self.outcome
    }

    /// Everybody takes a turn; the cheats only if they still play.
    fn turn(&mut self, playing: bool) {
        self.square.pass();
        for player in self.square.order() {
            let worker = self.square.players[player];
            let cheats = self.cheats.contains(&player);
            if !worker.asks || !playing && cheats {
                continue;
            }
            let Some(held) = self.square.ask(worker.key) else { continue };
            let contents = if cheats { self.cheat(player, &held) } else { self.square.honest(player, &held) };
            let (receipt, units) = self.square.commit(worker.key, &held, contents);
            if cheats && self.cheat == Cheat::Replays {
                self.replay(&receipt, &units);
            }
            self.settle();
        }
        if let Some(dealer) = self.dealer.filter(|_| playing) {
            self.deal(dealer);
        }
    }

    /// Hands a receipt in again in every way there is. None of them may change anything.
    fn replay(&mut self, receipt: &Receipt, units: &[(u64, Vec<OutputCommitment>)]) {
        let others = self.square.state.leases().iter().find(|(_, lease)| lease.worker != receipt.worker);
        let others = others.map(|(id, lease)| Receipt {
            lease: *id,
            job: lease.job,
            generation: lease.generation,
            ..receipt.clone()
        });
        let again = receipt.clone();
        let tampered = Receipt { device_us: receipt.device_us + 1, ..receipt.clone() };
        let stale = Receipt { generation: receipt.generation + 1, ..receipt.clone() };
        let elsewhere = Receipt { market: PublicKey([7; 32]), ..receipt.clone() };
        let beyond = Receipt { lease: LeaseId(receipt.lease.0 + 1_000_000), ..receipt.clone() };
        for replayed in [again, tampered, stale, elsewhere, beyond].into_iter().chain(others) {
            let before = self.square.state.seq();
            // A refusal, or the first answer once more.
            let _ = self.square.hand_in(replayed, units.to_vec());
            self.outcome.wrong += 1;
            self.outcome.expected += 1.0;
            self.outcome.found += u64::from(self.square.state.seq() == before);
            self.outcome.lost += EFFORT_PPM as f64 / 1e6;
        }
    }

    /// The self-dealer keeps a job in line that only its own devices may run.
    fn deal(&mut self, client: PublicKey) {
        let open = self.dealt.filter(|job| !self.square.state.jobs()[job].state.ended());
        if open.is_none() {
            self.dealt = Some(self.square.submit(client, Some(OWN_FEATURE)));
        }
    }

    /// What self-dealing cost and brought: what left both hands is lost, rewards are gained.
    fn settle_deals(&mut self, client: PublicKey) {
        let accounts = self.square.state.accounts();
        let spent = accounts.get(&client).map_or(0, |account| account.spent.0);
        let rewarded: u64 =
            self.keys.iter().filter_map(|key| accounts.get(key)).map(|account| account.rewarded.0).sum();
        let job_workers = self.square.jobs.iter().map(|job| &self.square.state.jobs()[job]);
        let own = job_workers.filter(|job| job.owner == client);
        let paid: u64 = own.flat_map(|job| job.workers.values()).map(|worker| worker.paid.0).sum();
        self.outcome.lost += in_prices(Amount(spent - paid));
        self.outcome.gained += in_prices(Amount(rewarded));
    }

    /// What the cheat returns for a lease.
    fn cheat(&mut self, player: usize, held: &Held) -> Vec<Content> {
        let package_units = self.square.terms.package_units;
        let told = held.looks_like_a_check(package_units);
        let leases = &mut self.outcome.leases;
        if held.check {
            leases.checks += 1;
            leases.checks_told += u64::from(told);
        } else {
            leases.packages += 1;
            leases.packages_mistaken += u64::from(told);
        }
        let honest = self.square.honest(player, held);
        self.committed += u64::from(!held.check);
        let worker = self.square.players[player].key;
        let results: Vec<_> = held
            .units
            .iter()
            .zip(honest)
            .map(|(unit, truth)| self.result(worker, held.job, *unit, truth, told))
            .collect();
        self.units += held.units.len() as u64;
        if held.check && self.cheat == Cheat::LyingAuditor && told {
            self.outcome.wrong += 1;
            self.outcome.expected += 1.0;
            self.outcome.found += 1;
            self.outcome.lost += held.units.len() as f64 * EFFORT_PPM as f64 / 1e6;
        }
        results
    }

    /// What the cheat makes of a unit whose right result it knows, in a lease that looks like a check or does not.
    fn result(&mut self, worker: PublicKey, job: JobId, unit: u64, truth: Content, told: bool) -> Content {
        let dealt = self.dealer.is_some() && self.dealer == Some(self.square.state.jobs()[&job].owner);
        let noise = Content::noise(mixed(&[1, job.0, unit]));
        // Another identity does not vouch for the one before: two that do are colluders.
        let mine = Content::noise(mixed(&[self.keys.len() as u64, job.0, unit]));
        let exact = self.square.terms.exact;
        let trusted = self.rows[&worker] >= TRUSTED;
        match self.cheat {
            Cheat::Sybil => mine,
            Cheat::SelfDealer if dealt => noise,
            Cheat::SelfDealer | Cheat::Replays | Cheat::RandomProgram => truth,
            Cheat::AfterFifty if self.units >= 50 => noise,
            Cheat::OneInAHundred if mixed(&[2, job.0, unit]).is_multiple_of(100) => truth.with_a_flaw(unit),
            Cheat::EnoughPrecision => truth.with_mantissa(16),
            Cheat::LyingAuditor if told => noise,
            Cheat::Colluders if self.ring.contains(&(job, unit)) => noise,
            Cheat::AfterFifty | Cheat::OneInAHundred | Cheat::LyingAuditor => truth,
            _ if !trusted && !self.begun => truth,
            Cheat::Zeros => Content::zeros(),
            Cheat::RandomBytes => noise,
            Cheat::PatientSybil => mine,
            Cheat::Neighbour => right(job, unit + 1, exact, 0),
            Cheat::Yesterday => right(JobId(job.0 - 1), unit, exact, 0),
            Cheat::LowPrecision => truth.with_mantissa(10),
            Cheat::FirstChunk => truth.first_chunk(),
            Cheat::AuditsOnly | Cheat::Colluders if told => truth,
            Cheat::AuditsOnly => noise,
            Cheat::Colluders => {
                self.ring.insert((job, unit));
                noise
            }
        }
    }

    /// The chance that wrong results in a package are found.
    fn chance_of(&self, made: &Made) -> f64 {
        let rate = f64::from(made.rate_ppm) / 1e6;
        let drawn = 1.0 - (1.0 - rate).powi(made.wrong as i32);
        // Whoever asks first checks: one of the honest ones or the partner. The third opinion is somebody's who had no part.
        let (honest, all) = (HONEST as f64, HONEST as f64 + 1.0);
        if self.cheat == Cheat::Colluders {
            drawn * (honest / all) * ((honest - 1.0) / honest)
        } else {
            drawn
        }
    }

    /// Takes in what became of packages and checks.
    fn settle(&mut self) {
        for (_, made, ending) in std::mem::take(&mut self.square.ended) {
            if !self.keys.contains(&made.worker) {
                continue;
            }
            let Made { worker, wrong, units, .. } = made;
            let rejected = ending == Ending::Rejected;
            if self.dealer == Some(self.square.state.jobs()[&made.job].owner) {
                continue;
            }
            if wrong > 0 {
                let chance = self.chance_of(&made);
                self.outcome.wrong += 1;
                self.outcome.expected += chance;
                self.outcome.variance += chance * (1.0 - chance);
                self.outcome.found += u64::from(rejected);
            }
            let effort = wrong as f64 * EFFORT_PPM as f64 / 1e6;
            // A right result costs what it pays.
            let right = (units - wrong) as f64 * self.square.pay_of_a_unit();
            match ending {
                Ending::Paid(pay) => {
                    self.outcome.gained += in_prices(pay) - right;
                    self.outcome.lost += effort;
                    *self.rows.entry(worker).or_default() += 1;
                    self.begun |= self.rows[&worker] >= TRUSTED && self.cheat != Cheat::PatientSybil;
                }
                Ending::Rejected => {
                    self.outcome.lost += effort + right;
                    self.rows.insert(worker, 0);
                    if matches!(self.cheat, Cheat::Sybil | Cheat::PatientSybil) {
                        self.rotate(worker);
                    }
                }
            }
        }
        for Closed { owner, stands, slash, compensation, seized } in std::mem::take(&mut self.square.closed) {
            let accused = self.keys.contains(&owner);
            match (accused, stands) {
                (true, true) => self.outcome.lost += in_prices(slash),
                (true, false) => self.outcome.gained += in_prices(compensation),
                (false, true) => self.outcome.honest_slashed += 1,
                (false, false) => {}
            }
            for (owner, amount) in seized {
                if self.keys.contains(&owner) {
                    self.outcome.lost += in_prices(amount);
                } else {
                    self.outcome.honest_slashed += 1;
                }
            }
        }
        for (worker, wrong, pay) in std::mem::take(&mut self.square.checks_paid) {
            // What a self-dealer pays itself is in neither sum.
            if wrong && self.keys.contains(&worker) && self.dealer.is_none() {
                self.outcome.gained += in_prices(pay);
                self.outcome.found -= u64::from(self.cheat == Cheat::LyingAuditor);
            }
        }
    }

    /// A key that was found out is not used any more.
    fn rotate(&mut self, worker: PublicKey) {
        let players = &mut self.square.players;
        let Some(player) = players.iter_mut().find(|player| player.key == worker && player.asks) else {
            return;
        };
        player.asks = false;
        self.come();
    }
}

fn in_prices(amount: Amount) -> f64 {
    amount.0 as f64 / UNIT_PRICE as f64
}

/// How often honest work is executed again once everybody has a record, and whether a cheat in one unit of a hundred is found.
#[derive(Clone, Debug, Serialize)]
pub struct Steady {
    /// Units of a package.
    pub package_units: u32,
    /// The job's least rate, in parts per million.
    pub rate_min_ppm: u32,
    /// Runs.
    pub seeds: u64,
    /// Units of honest workers' packages that were drawn, of all of them.
    pub again: f64,
    /// Runs in which the cheat was found within [`STEADY_PACKAGES`].
    pub found: u64,
    /// How many of them the rules promise: of `N` units each is wrong with 1 % and then drawn at the rate `p`, so that all go unseen
    /// with `(1 − p / 100)^N`.
    pub expected: f64,
    /// Standard deviation around that.
    pub sigma: f64,
}

/// Packages within which it is to be found.
pub const STEADY_PACKAGES: u64 = 100;
/// Packages of one unit each with which everybody earns a record first: a row of this length alone asks for less than 2 %.
const STEADY_RECORD: u64 = 60;

/// Measures packages of this size with these seeds.
pub fn steady(package_units: u32, rate_min_ppm: u32, seeds: Range<u64>) -> Steady {
    let mut row = Steady {
        package_units,
        rate_min_ppm,
        seeds: seeds.end - seeds.start,
        again: 0.0,
        found: 0,
        expected: 0.0,
        sigma: 0.0,
    };
    let (mut drawn, mut committed) = (0, 0);
    for seed in seeds {
        let policy = Policy::Audit { rate_min_ppm };
        let terms = Terms { policy, exact: true, package_units: 1, job_units: 64, random: false };
        let mut square = Square::new(mixed(&[seed, package_units.into()]), HONEST, terms, Params::default());
        let cheat = square.join(key(9, seed), 0, None);
        let (mut packages, mut found) = (0u64, false);
        while packages < STEADY_RECORD + STEADY_PACKAGES && !found {
            let playing = packages >= STEADY_RECORD;
            if playing && square.terms.package_units == 1 {
                square.terms.package_units = package_units;
                square.terms.job_units = 8 * u64::from(package_units);
                square.drawn.clear();
                square.ended.clear();
            }
            square.keep_busy();
            square.pass();
            for player in square.order() {
                let worker = square.players[player].key;
                let Some(held) = square.ask(worker) else { continue };
                let mut contents = square.honest(player, &held);
                // What is left of the jobs of one unit a package does not count.
                let whole = held.units.len() as u32 == package_units;
                if player == cheat && playing && whole && !held.check {
                    for (unit, content) in held.units.iter().zip(&mut contents) {
                        if mixed(&[3, held.job.0, *unit]).is_multiple_of(100) {
                            *content = content.clone().with_a_flaw(*unit);
                        }
                    }
                }
                if player == cheat && !held.check && (whole || !playing) {
                    packages += 1;
                }
                square.commit(worker, &held, contents);
            }
            for (_, made, ending) in square.ended.drain(..).filter(|_| playing) {
                found |= made.worker == square.players[cheat].key && ending == Ending::Rejected;
            }
        }
        // The last ones may still be checked.
        for _ in 0..LAST_TURNS {
            square.pass();
            for player in square.order().into_iter().filter(|player| *player != cheat) {
                let worker = square.players[player].key;
                let Some(held) = square.ask(worker) else { continue };
                let contents = square.honest(player, &held);
                square.commit(worker, &held, contents);
            }
        }
        let rejected = |worker: &PublicKey, ending: &Ending| {
            *worker == square.players[cheat].key && *ending == Ending::Rejected
        };
        found |= square.ended.iter().any(|(_, made, ending)| rejected(&made.worker, ending));
        row.found += u64::from(found);
        for (worker, (units, again)) in &square.drawn {
            if *worker != square.players[cheat].key && *units > 0 {
                (committed, drawn) = (committed + units, drawn + again);
            }
        }
    }
    row.again = if committed == 0 { 0.0 } else { drawn as f64 / committed as f64 };
    let rate = f64::from(rate_min_ppm) / 1e6;
    let unseen = (1.0 - rate / 100.0).powf((STEADY_PACKAGES * u64::from(package_units)) as f64);
    row.expected = row.seeds as f64 * (1.0 - unseen);
    row.sigma = (row.seeds as f64 * unseen * (1.0 - unseen)).sqrt();
    row
}
