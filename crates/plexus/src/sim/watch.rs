//! What the simulator cannot measure: real time, and memory.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sim::Observer;

/// Decisions of one kind of command.
#[derive(Default)]
pub struct Kind {
    pub count: u64,
    total: Duration,
    /// Decisions by their time: eight steps for each doubling of nanoseconds.
    histogram: BTreeMap<u32, u64>,
}

impl Kind {
    fn add(&mut self, took: Duration) {
        let ns = (took.as_nanos() as u64).max(8);
        let doublings = ns.ilog2();
        let eighths = (ns >> (doublings - 3)) as u32 - 8;
        *self.histogram.entry(doublings * 8 + eighths).or_default() += 1;
        self.count += 1;
        self.total += took;
    }

    fn merge(mut self, other: &Self) -> Self {
        for (step, count) in &other.histogram {
            *self.histogram.entry(*step).or_default() += count;
        }
        self.count += other.count;
        self.total += other.total;
        self
    }

    pub fn mean_us(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.total.as_secs_f64() * 1e6 / self.count as f64 }
    }

    /// The time that this share of decisions did not exceed, in microseconds, an eighth too high at most.
    pub fn quantile_us(&self, share: f64) -> f64 {
        let rank = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        let step = self.histogram.iter().find(|(_, count)| {
            seen += **count;
            seen >= rank
        });
        step.map_or(0.0, |(step, _)| f64::from(step % 8 + 9) / 8.0 * 2f64.powi((step / 8) as i32) / 1e3)
    }
}

/// What a run cost.
pub struct Cost {
    pub by_command: BTreeMap<&'static str, Kind>,
    pub all: Kind,
    pub wall: Duration,
    /// Most memory the process ever had, in MiB, where the system says so.
    pub memory_mib: Option<f64>,
}

impl Cost {
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.by_command.keys().copied()
    }

    pub fn quantile_us(&self, kind: &str, share: f64) -> Option<f64> {
        self.by_command.get(kind).map(|kind| kind.quantile_us(share))
    }

    pub fn mean_us(&self) -> f64 {
        self.all.mean_us()
    }

    pub fn json(&self) -> serde_json::Value {
        let entry = |kind: &Kind| {
            json!({
                "decisions": kind.count,
                "mean_us": kind.mean_us(),
                "median_us": kind.quantile_us(0.5),
                "p99_us": kind.quantile_us(0.99),
                "longest_us": kind.quantile_us(1.0),
            })
        };
        let kinds: BTreeMap<_, _> = self.by_command.iter().map(|(name, kind)| (*name, entry(kind))).collect();
        json!({
            "wall_s": self.wall.as_secs_f64(),
            "memory_mib": self.memory_mib,
            "all": entry(&self.all),
            "by_command": kinds,
        })
    }
}

/// Measures decisions and shows how far a run is.
pub struct Watch {
    bar: ProgressBar,
    began: Instant,
    since: Option<Instant>,
    kinds: BTreeMap<&'static str, Kind>,
    draining: bool,
}

impl Watch {
    pub fn new(shown: bool, what: String) -> Self {
        let bar = if shown { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} simulated seconds  {msg}");
        bar.set_style(style.expect("the template is right").progress_chars("━╸ "));
        bar.set_prefix(what);
        Self { bar, began: Instant::now(), since: None, kinds: BTreeMap::new(), draining: false }
    }

    pub fn finish(self) -> Cost {
        self.bar.finish_and_clear();
        let all = self.kinds.values().fold(Kind::default(), Kind::merge);
        Cost { by_command: self.kinds, all, wall: self.began.elapsed(), memory_mib: memory_mib() }
    }
}

impl Observer for Watch {
    fn deciding(&mut self) {
        self.since = Some(Instant::now());
    }

    fn decided(&mut self, kind: &'static str) {
        let took = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.kinds.entry(kind).or_default().add(took);
    }

    fn passed(&mut self, at_s: u64, of_s: u64) {
        self.bar.set_length(of_s);
        self.bar.set_position(at_s.min(of_s));
        if at_s > of_s && !self.draining {
            self.draining = true;
            self.bar.set_message("finishing what is left");
        }
    }
}

/// `VmHWM` of Linux: the most that was resident at once.
fn memory_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_an_eighth_too_high_at_most() {
        let mut kind = Kind::default();
        (1..=1_000).for_each(|us| kind.add(Duration::from_micros(us)));
        for (share, us) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = kind.quantile_us(share);
            assert!((us..=us * 1.125).contains(&found), "{found} for {us}");
        }
        assert_eq!(Kind::default().quantile_us(0.5), 0.0);
    }
}
