//! What to simulate: the seed, the workload file, the faults.

use engine::{Params, Priority};
use serde::Deserialize;

/// One run. Equal scenarios give equal runs.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What every draw comes from.
    pub seed: u64,
    /// Providers, online and away together.
    pub providers: u32,
    /// Jobs arrive and faults happen for this long, in simulated minutes. What is then left is finished without faults.
    pub minutes: u32,
    /// Simulated minutes after which unfinished jobs are a problem of the run.
    pub drain_minutes_max: u32,
    /// What is asked for, and who offers.
    pub workload: Workload,
    /// What goes wrong.
    pub faults: Faults,
    /// Commands between two checks of the invariants, which are always checked at the end.
    pub check_every: u64,
    /// The market's parameters.
    pub params: Params,
}

impl Scenario {
    /// A run of `minutes` with the built-in workload and no faults.
    pub fn new(seed: u64, providers: u32, minutes: u32) -> Self {
        Self {
            seed,
            providers,
            minutes,
            drain_minutes_max: 240,
            workload: Workload::built_in(),
            faults: Faults::default(),
            // A check costs about as much as a decision for every provider.
            check_every: 2_000 + 100 * u64::from(providers),
            params: Params::default(),
        }
    }
}

/// What goes wrong. Rates are parts per million of messages or packages; times are means, and 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Messages lost, in either direction.
    pub loss_ppm: u32,
    /// Messages that arrive twice.
    pub duplicate_ppm: u32,
    /// Messages held up for up to ten seconds, so that later ones overtake them.
    pub delay_ppm: u32,
    /// Packages that a device fails.
    pub device_failure_ppm: u32,
    /// Between two crashes of one provider, which forgets everything and comes back.
    pub provider_crash_s: u64,
    /// Between two crashes of the market, which loses what is not yet durable and comes back from its journal.
    pub market_crash_s: u64,
    /// Between two times that a second process takes the market for abandoned and leads it, too.
    pub stale_leader_s: u64,
    /// Between two jumps of the market's clock, by up to two minutes forward.
    pub clock_jump_s: u64,
}

impl Faults {
    /// Everything that can go wrong, often.
    pub fn all() -> Self {
        Self {
            loss_ppm: 20_000,
            duplicate_ppm: 20_000,
            delay_ppm: 20_000,
            device_failure_ppm: 5_000,
            provider_crash_s: 600,
            market_crash_s: 120,
            stale_leader_s: 60,
            clock_jump_s: 150,
        }
    }

    /// Their names.
    pub const KINDS: [&'static str; 8] =
        ["loss", "repeat", "delay", "device", "provider", "market", "leader", "clock"];

    /// Only these kinds, as often as in [`Faults::all`]; nothing when one is unknown.
    pub fn of(kinds: &[&str]) -> Option<Self> {
        if !kinds.iter().all(|kind| Self::KINDS.contains(kind)) {
            return None;
        }
        let others = Self::KINDS.into_iter().filter(|kind| !kinds.contains(kind));
        Some(others.fold(Self::all(), Self::without))
    }

    /// All but this kind.
    #[must_use]
    pub fn without(mut self, kind: &str) -> Self {
        match kind {
            "loss" => self.loss_ppm = 0,
            "repeat" => self.duplicate_ppm = 0,
            "delay" => self.delay_ppm = 0,
            "device" => self.device_failure_ppm = 0,
            "provider" => self.provider_crash_s = 0,
            "market" => self.market_crash_s = 0,
            "leader" => self.stale_leader_s = 0,
            "clock" => self.clock_jump_s = 0,
            _ => {}
        }
        self
    }

    /// The kinds that happen.
    pub fn kinds(self) -> Vec<&'static str> {
        Self::KINDS.into_iter().filter(|kind| self.without(kind) != self).collect()
    }
}

/// A workload file: streams of jobs, and how providers behave.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Streams' rates are for this many providers; with more, jobs arrive more often in proportion. Absent, they are as
    /// written.
    pub for_providers: Option<u32>,
    /// Who offers.
    #[serde(default)]
    pub providers: Population,
    /// What is asked for.
    #[serde(rename = "stream")]
    pub streams: Vec<Stream>,
}

/// How providers behave. Shares are parts per million of all providers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Population {
    /// Mean time online at a stretch, in minutes; 0 is for ever.
    pub online_minutes: u64,
    /// Mean time away in between, in minutes.
    pub away_minutes: u64,
    /// Of those who go, who does not say so.
    pub silent_ppm: u32,
    /// One-way latency to the market, in milliseconds: the range that providers' means are drawn from.
    pub latency_ms: (u64, u64),
    /// Providers that return wrong results without computing.
    pub cheats_ppm: u32,
    /// Providers that return the same wrong results as their partner, in packages and in checks.
    pub colluders_ppm: u32,
    /// Of a cheat's units, the wrong ones.
    pub lie_ppm: u32,
    /// Providers that answer checks a minute late.
    pub lazy_ppm: u32,
    /// Honest providers that claim ten times their speed.
    pub boasters_ppm: u32,
    /// Providers that ask for a price; the others take anything.
    pub asking_ppm: u32,
    /// What they ask for a second of the reference device, in base units: least and most.
    pub ask: (u64, u64),
    /// Providers that are the second device of their predecessor's owner.
    pub second_devices_ppm: u32,
    /// Owners that have bonded a stake.
    pub staked_ppm: u32,
    /// How much, in tokens: least and most.
    pub stake_tokens: (u64, u64),
}

impl Default for Population {
    fn default() -> Self {
        Self {
            online_minutes: 45,
            away_minutes: 10,
            silent_ppm: 300_000,
            latency_ms: (5, 120),
            cheats_ppm: 20_000,
            colluders_ppm: 20_000,
            lie_ppm: 200_000,
            lazy_ppm: 20_000,
            boasters_ppm: 20_000,
            asking_ppm: 0,
            ask: (0, 0),
            second_devices_ppm: 100_000,
            staked_ppm: 0,
            stake_tokens: (0, 0),
        }
    }
}

/// Jobs of one kind, arriving at random times.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// A name for the report.
    pub name: String,
    /// Mean seconds between two jobs.
    pub every_s: u64,
    /// Units of a job: least and most.
    pub units: (u64, u64),
    /// Time of one unit on the reference device, in milliseconds: least and most. Units of a job differ by up to a quarter.
    pub unit_ms: (u64, u64),
    /// Of that time, what memory traffic takes; the rest is arithmetic.
    #[serde(default)]
    pub traffic_ppm: u32,
    /// What one unit pays, in base units; the market's price when absent.
    pub unit_price: Option<u64>,
    /// What its client has at stake, in tokens.
    #[serde(default)]
    pub stake_tokens: u64,
    /// The class its jobs are served in.
    #[serde(default)]
    pub priority: Class,
    /// Units that run at the same time, each on a device of its own; 1 when they need not.
    #[serde(default = "one_device")]
    pub devices: u32,
    /// How results are verified.
    pub policy: Verification,
    /// Largest storage binding that a device needs, in MiB.
    #[serde(default = "one")]
    pub storage_mib: u64,
    /// Whether results compare bit for bit; otherwise devices of different vendors agree within a tolerance only.
    #[serde(default = "yes")]
    pub exact: bool,
    /// Units a package; sized by the market when absent.
    pub package_units: Option<u32>,
    /// Jobs that their owner cancels.
    #[serde(default)]
    pub cancel_ppm: u32,
    /// Jobs that their owner pauses for a while.
    #[serde(default)]
    pub pause_ppm: u32,
    /// Units that fail on every device.
    #[serde(default)]
    pub poison_ppm: u32,
    /// From submission to a job's deadline: least and most. Absent, there is none.
    pub deadline_s: Option<(u64, u64)>,
    /// Owners that compute each unit at the same time.
    #[serde(default = "one_device")]
    pub replicas: u32,
    /// Stages after the first one.
    #[serde(default)]
    pub then: Vec<Then>,
    /// Iterations at most: least and most. The first stage then reads what the last one put out in the iteration before, and
    /// the job ends with the first iteration that changes nothing: any after the first, or none.
    pub iterate: Option<(u32, u32)>,
}

/// A stage that reads what the one before it put out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Then {
    /// Units of the stage before that each unit reads, and no other one does; 0: all of them, by a single unit.
    pub gather: u64,
    /// As the stream's.
    pub unit_ms: (u64, u64),
    /// As the stream's.
    #[serde(default = "one_device")]
    pub devices: u32,
    /// As the stream's.
    #[serde(default = "one_device")]
    pub replicas: u32,
}

impl Then {
    /// Units of this stage after one of `before` units.
    pub(crate) fn units(&self, before: u64) -> u64 {
        before.checked_div(self.gather).map_or(1, |_| before.div_ceil(self.gather))
    }
}

fn one() -> u64 {
    1
}

fn one_device() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// The class that a stream's jobs are served in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Whatever is left over.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Before the usual.
    High,
    /// At once.
    Urgent,
}

impl Class {
    /// All, the highest first.
    pub const ALL: [Self; 4] = [Self::Urgent, Self::High, Self::Normal, Self::Low];

    /// As in a workload file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Urgent => "urgent",
        }
    }

    pub(crate) fn priority(self) -> Priority {
        match self {
            Self::Low => Priority::Low,
            Self::Normal => Priority::Normal,
            Self::High => Priority::High,
            Self::Urgent => Priority::Urgent,
        }
    }
}

/// How a stream's results are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Verification {
    /// Units executed again at least at this rate.
    AuditPpm(u32),
    /// Owners that must agree on every unit.
    Quorum(u32),
}

/// Why a workload file is refused.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// Not TOML, or not of this form. The text names line, column and key.
    #[error("{0}")]
    Form(#[from] toml::de::Error),
    /// A value that makes no sense.
    #[error("stream {stream:?}: {what}")]
    Stream {
        /// The stream's name.
        stream: String,
        /// What is wrong.
        what: &'static str,
    },
    /// No streams.
    #[error("a workload has at least one [[stream]]")]
    Empty,
    /// A share above one.
    #[error("the shares of cheats, colluders, lazy providers and boasters are above 1 000 000 together")]
    Shares,
    /// A range the wrong way round.
    #[error("ask is [least, most]")]
    Ask,
    /// A range the wrong way round, or more than there can be.
    #[error("stake_tokens of providers is [least, most], at most {STAKE_TOKENS_MAX}")]
    Stake,
}

/// What one provider may have bonded: with a hundred thousand of them less than all the money there can be.
const STAKE_TOKENS_MAX: u64 = 5_000;
/// Outputs that one unit may read.
const GATHER_MAX: u64 = 4_096;

impl Stream {
    /// Whether what runs at once, or one after the other, fits together.
    fn check_stages(&self) -> Result<(), &'static str> {
        if self.deadline_s.is_some_and(|(least, most)| least == 0 || least > most || most > 31_536_000) {
            return Err("deadline_s is [least, most], from a second to a year");
        }
        if self.iterate.is_some_and(|(least, most)| least < 2 || least > most || most > 1_000) {
            return Err("iterate is [least, most], from 2 to 1 000");
        }
        if self.iterate.is_some() && !self.exact {
            return Err("a loop ends when nothing changes, so its results are exact");
        }
        let mut units = self.units.1;
        for then in &self.then {
            if then.gather > GATHER_MAX || then.gather == 0 && units > GATHER_MAX {
                return Err("a unit reads at most 4 096 others");
            }
            units = then.units(units);
        }
        if self.iterate.is_some() && units > GATHER_MAX {
            return Err("the first stage of a loop reads all of the last one, at most 4 096 units");
        }
        let stages = self.then.iter().map(|then| (then.devices, then.replicas));
        for (devices, replicas) in stages.chain([(self.devices, self.replicas)]) {
            if !(1..=64).contains(&devices) || !(1..=5).contains(&replicas) {
                return Err("devices are 1 to 64, replicas 1 to 5");
            }
            if replicas > 1 && (devices > 1 || self.package_units.is_some_and(|units| units > 1)) {
                return Err("a unit with replicas is a package of its own, on one device");
            }
        }
        Ok(())
    }
}

impl Workload {
    /// Reads a workload file.
    ///
    /// # Errors
    ///
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, WorkloadError> {
        let workload: Self = toml::from_str(text)?;
        let p = &workload.providers;
        if p.stake_tokens.0 > p.stake_tokens.1 || p.stake_tokens.1 > STAKE_TOKENS_MAX {
            return Err(WorkloadError::Stake);
        }
        let shares = [p.cheats_ppm, p.colluders_ppm, p.lazy_ppm, p.boasters_ppm];
        if shares.into_iter().map(u64::from).sum::<u64>() > 1_000_000 {
            return Err(WorkloadError::Shares);
        }
        if p.ask.0 > p.ask.1 {
            return Err(WorkloadError::Ask);
        }
        if workload.streams.is_empty() {
            return Err(WorkloadError::Empty);
        }
        for stream in &workload.streams {
            let refuse = |what| Err(WorkloadError::Stream { stream: stream.name.clone(), what });
            if stream.every_s == 0 || workload.for_providers == Some(0) {
                return refuse("every_s and for_providers are at least 1");
            }
            if stream.units.0 == 0 || stream.units.0 > stream.units.1 || stream.units.1 > 1_000_000 {
                return refuse("units is [least, most], from 1 to 1 000 000");
            }
            let times = stream.then.iter().map(|then| then.unit_ms).chain([stream.unit_ms]);
            if times.into_iter().any(|(least, most)| least == 0 || least > most || most > 3_600_000) {
                return refuse("unit_ms is [least, most], from 1 ms to an hour");
            }
            if let Err(what) = stream.check_stages() {
                return refuse(what);
            }
            if stream.traffic_ppm > 1_000_000 {
                return refuse("traffic_ppm is at most 1 000 000");
            }
            if stream.unit_price > Some(1_000_000_000) {
                return refuse("unit_price is at most 1 000 000 000 base units, one token");
            }
            if stream.stake_tokens > 1_000_000 {
                return refuse("stake_tokens is at most 1 000 000");
            }
            if matches!(stream.policy, Verification::Quorum(agree) if !(2..=5).contains(&agree)) {
                return refuse("a quorum is 2 to 5 owners");
            }
            if !(1..=stream.units.0).contains(&u64::from(stream.devices)) {
                return refuse("devices is 1 to the least number of units");
            }
            if stream.package_units == Some(0) {
                return refuse("a package has at least one unit");
            }
        }
        Ok(workload)
    }

    /// The workload of `plexus sim` without a file.
    pub fn built_in() -> Self {
        Self::parse(Self::BUILT_IN).expect("a test reads it")
    }

    /// The text of [`Workload::built_in`], to copy and change.
    pub const BUILT_IN: &str = include_str!("../data/workload.toml");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_workload_reads() {
        assert_eq!(Workload::built_in().streams.len(), 4);
    }

    #[test]
    fn a_wrong_workload_is_refused_with_its_place() {
        let check = |change: (&str, &str), expected: &str| {
            let text = Workload::BUILT_IN.replacen(change.0, change.1, 1);
            assert_ne!(text, Workload::BUILT_IN, "{change:?}");
            let error = Workload::parse(&text).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(("every_s", "evry_s"), "unknown field `evry_s`");
        check(("units = [200", "units = [900"), "stream \"render\": units is [least, most]");
        check(("quorum = 2", "quorum = 9"), "a quorum is 2 to 5 owners");
        check(("traffic_ppm = 200_000", "iterate = [1, 3]"), "iterate is [least, most]");
        check(("exact = false", "exact = false\niterate = [2, 3]"), "its results are exact");
        check(("traffic_ppm = 200_000", "deadline_s = [0, 3]"), "deadline_s is [least, most]");
        check(("storage_mib = 64", "replicas = 2\ndevices = 2"), "a package of its own");
        check(("storage_mib = 64", "then = [{ gather = 9_999, unit_ms = [1, 2] }]"), "at most 4 096");
        check(("second_devices_ppm", "stake_tokens = [1, 9_999]\nsecond_devices_ppm"), "stake_tokens");
        check(("cheats_ppm = 20_000", "cheats_ppm = 990_000"), "above 1 000 000");
        assert!(matches!(Workload::parse("stream = []"), Err(WorkloadError::Empty)));
    }
}
