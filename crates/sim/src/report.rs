//! What a run found, in numbers.

use serde::Serialize;

/// What a run found. Everything but the digest follows from the journal and from what the simulator knows to be true.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// As asked.
    pub seed: u64,
    /// As asked.
    pub providers: u32,
    /// As asked.
    pub minutes: u32,
    /// Until the last job ended, in simulated seconds.
    pub simulated_s: f64,
    /// SHA-256 over the journal's events and times, in hexadecimal digits. The same scenario gives the same digest.
    pub digest: String,
    /// What must not be: broken invariants, a replay that differs, answers that make no sense, jobs that never ended. A run
    /// is good when there is none.
    pub problems: Vec<String>,
    /// Commands decided, refused ones included.
    pub decisions: u64,
    /// Events journaled.
    pub events: u64,
    /// Bytes of the encoded journal.
    pub journal_bytes: u64,
    /// Checks of the invariants.
    pub invariant_checks: u64,
    /// Looks at whether a stage waits too long while a device is idle that may take it.
    pub waiting_checks: u64,
    /// What was refused, by its kind.
    pub refusals: Vec<(String, u64)>,
    /// What went wrong on purpose.
    pub faults: FaultCounts,
    /// Jobs.
    pub jobs: JobCounts,
    /// Units.
    pub units: UnitCounts,
    /// Accepted units a simulated second, while jobs arrived.
    pub units_per_s: f64,
    /// Device time at work of device time online, while jobs arrived, 0 to 1.
    pub utilisation: f64,
    /// By stream of the workload.
    pub streams: Vec<StreamReport>,
    /// By priority, the highest first.
    pub priorities: Vec<PriorityReport>,
    /// By how providers behave.
    pub natures: Vec<NatureReport>,
    /// Jain's index over honest providers' work, in reference time, for the time online at their speed: 1 is equal work for
    /// equal offers, 1/n is all for one.
    pub fairness_work: f64,
    /// The same over their pay for the work that they did.
    pub fairness_pay: f64,
    /// What a reference second of accepted work cost its client, in tokens.
    pub price: f64,
    /// Over time.
    pub samples: Vec<Sample>,
}

/// What went wrong on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FaultCounts {
    /// Messages sent.
    pub messages: u64,
    /// Messages lost.
    pub lost: u64,
    /// Messages that arrived twice.
    pub duplicated: u64,
    /// Messages held up.
    pub delayed: u64,
    /// Providers that went without a word.
    pub silent_leaves: u64,
    /// Providers that crashed.
    pub provider_crashes: u64,
    /// Packages that a device failed.
    pub device_failures: u64,
    /// The market's crashes.
    pub market_crashes: u64,
    /// Events that a crash lost; nobody was answered on them.
    pub undurable_events: u64,
    /// Times that two processes led the market.
    pub takeovers: u64,
    /// Times that the journal refused the one that had led before.
    pub fenced_first: u64,
    /// Times that it refused the one that wanted to take over.
    pub fenced_second: u64,
    /// Events that it refused: nobody heard of them.
    pub fenced_events: u64,
    /// Their answers.
    pub fenced_answers: u64,
    /// The clock's jumps.
    pub clock_jumps: u64,
}

/// Jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobCounts {
    /// Submitted.
    pub submitted: u64,
    /// Every unit accepted.
    pub done: u64,
    /// Ended by their owner.
    pub cancelled: u64,
    /// Ended with units that have no result.
    pub incomplete: u64,
    /// Of those, because their deadline passed.
    pub overdue: u64,
    /// Orders whose deadline passed before the market took them.
    pub given_up: u64,
    /// Packages that a replica went on with.
    pub passed_on: u64,
    /// Times that an owner held a job back.
    pub pauses: u64,
}

/// Units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UnitCounts {
    /// Accepted and paid.
    pub accepted: u64,
    /// Executions that reached the market, of packages and checks.
    pub executed: u64,
    /// Executed again as a check.
    pub checked: u64,
    /// Rejected and run again.
    pub rejected: u64,
    /// Rejected although they were right.
    pub rejected_right: u64,
    /// Given up.
    pub parked: u64,
    /// Committed before the rest of their package was yielded to a higher class.
    pub yielded: u64,
    /// Not wanted any more, because their job's loop ended before.
    pub skipped: u64,
    /// Committed by cheats and wrong.
    pub wrong_committed: u64,
    /// Wrong and accepted because no check was drawn for them.
    pub wrong_unseen: u64,
    /// Wrong and accepted because only partners of the cheat checked them.
    pub wrong_colluded: u64,
    /// Wrong and accepted because the owner cancelled the job, which ends checking.
    pub wrong_cancelled: u64,
}

/// One stream of jobs. Times are in simulated seconds: 50 %, 95 % and 100 % of jobs took at most so long.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StreamReport {
    /// As in the workload file.
    pub name: String,
    /// Jobs that ended.
    pub jobs: u64,
    /// From submission to the first lease.
    pub waiting_s: [f64; 3],
    /// From submission to the end.
    pub turnaround_s: [f64; 3],
}

/// Jobs of one priority.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PriorityReport {
    /// As in the workload file.
    pub name: String,
    /// Jobs that ended.
    pub jobs: u64,
    /// Simulated seconds from submission to the first lease: 50 %, 95 % and 100 % waited at most so long.
    pub waiting_s: [f64; 3],
    /// The same to the end.
    pub turnaround_s: [f64; 3],
    /// The waiting at every 64th of the jobs, from the shortest to the longest.
    pub waiting_quantiles_s: Vec<f64>,
}

/// Providers of one nature.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NatureReport {
    /// `honest`, `cheat`, `colluder`, `lazy`, `boaster`.
    pub name: String,
    /// How many.
    pub providers: u64,
    /// Tokens earned.
    pub earned: f64,
    /// What honest providers of the same speed and time online earned on average. More than that is a gain from cheating.
    pub honest_would_earn: f64,
    /// Time online at reference speed, in hours.
    pub reference_hours: f64,
    /// Packages rejected.
    pub rejected: u64,
    /// Mean reputation of their owners, 0 to 100.
    pub reputation: f64,
    /// How many were found to claim much more speed than they have.
    pub overstated: u64,
    /// Mean of measured over true speed, of those that were measured.
    pub measured_speed: f64,
    /// How many were measured.
    pub measured: u64,
}

/// One moment, over the time since the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Simulated seconds since the beginning.
    pub at_s: f64,
    /// Units accepted a second.
    pub units_per_s: f64,
    /// Device time at work of device time online, 0 to 1.
    pub utilisation: f64,
    /// What a reference second of work accepted since cost its client, in tokens.
    pub price: f64,
    /// What it would cost by a quote of this moment, in tokens; 0 where the market quotes nothing.
    pub quote: f64,
    /// As in the report, from the beginning up to here.
    pub fairness_work: f64,
    /// See `fairness_work`.
    pub fairness_pay: f64,
    /// Units that wait for a device.
    pub waiting_units: u64,
    /// Providers online.
    pub online: u64,
}

/// The 50th, 95th and 100th percentile.
pub(crate) fn percentiles(mut times_us: Vec<u64>) -> [f64; 3] {
    times_us.sort_unstable();
    let at = |percent: usize| {
        let rank = (times_us.len() * percent).div_ceil(100).max(1) - 1;
        times_us.get(rank).map_or(0.0, |us| *us as f64 / 1e6)
    };
    [at(50), at(95), at(100)]
}

/// Every 64th, from the shortest to the longest.
pub(crate) fn quantiles(mut times_us: Vec<u64>) -> Vec<f64> {
    const STEPS: usize = 64;
    times_us.sort_unstable();
    let Some(last) = times_us.len().checked_sub(1) else { return Vec::new() };
    (0..=STEPS).map(|step| times_us[last * step / STEPS] as f64 / 1e6).collect()
}

/// Jain's index of equality: 1 when all are equal, 1/n when one has all. 0 of nothing.
pub(crate) fn jain(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, squares, count) =
        values.fold((0.0, 0.0, 0.0), |(sum, squares, count), x| (sum + x, squares + x * x, count + 1.0));
    if squares > 0.0 { sum * sum / (squares * count) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::{jain, percentiles, quantiles};

    #[test]
    fn equality_is_one_and_all_for_one_is_a_share() {
        assert_eq!(jain([3.0; 5].into_iter()), 1.0);
        assert_eq!(jain([7.0, 0.0, 0.0, 0.0].into_iter()), 0.25);
        assert_eq!(jain([].into_iter()), 0.0);
    }

    #[test]
    fn quantiles_run_from_the_shortest_to_the_longest() {
        let found = quantiles((0..=64).map(|n| n * 1_000_000).rev().collect());
        assert_eq!((found.len(), found[0], found[32], found[64]), (65, 0.0, 32.0, 64.0));
        assert!(quantiles(vec![]).is_empty());
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        assert_eq!(percentiles(vec![]), [0.0; 3]);
        assert_eq!(percentiles(vec![2_000_000]), [2.0; 3]);
        assert_eq!(percentiles((1..=100).map(|n| n * 1_000_000).collect()), [50.0, 95.0, 100.0]);
    }
}
