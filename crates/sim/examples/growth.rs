//! What a decision costs as the network grows, and many seeds of storms at once.
//!
//! `cargo run --release -p plexus-sim --example growth -- MINUTES PROVIDERS...` prints a row a network size;
//! `... -- storms FIRST LAST` runs these seeds of `data/storm.toml` with faults and prints what went wrong.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use plexus_sim::{Faults, Observer, Scenario, Workload, run};

#[derive(Default)]
struct Watch {
    since: Option<Instant>,
    /// Nanoseconds of each decision.
    kinds: BTreeMap<&'static str, Vec<u32>>,
}

impl Observer for Watch {
    fn deciding(&mut self) {
        self.since = Some(Instant::now());
    }

    fn decided(&mut self, kind: &'static str) {
        let took = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.kinds.entry(kind).or_default().push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers = |from: usize| arguments[from..].iter().map(|n| n.parse::<u32>().expect("a number"));
    if arguments.first().is_some_and(|first| first == "storms") {
        storms(numbers(1).collect());
        return;
    }
    let minutes = numbers(0).next().expect("MINUTES PROVIDERS...");
    for providers in numbers(1) {
        let scenario = Scenario { check_every: u64::MAX, ..Scenario::new(1, providers, minutes) };
        let (mut watch, began) = (Watch::default(), Instant::now());
        let report = run(&scenario, &mut watch);
        println!(
            "{providers} providers: {} jobs, {} units, {} decisions; whole run {:.1} s; {:.0} % at work; problems {:?}",
            report.jobs.submitted,
            report.units.accepted,
            report.decisions,
            began.elapsed().as_secs_f64(),
            report.utilisation * 100.0,
            report.problems,
        );
        // Medians, because a machine that does something else besides shows in every mean.
        println!(
            "  {:<10} {:>10} {:>12} {:>12} {:>12}",
            "command", "decisions", "median µs", "90 % µs", "99 % µs"
        );
        let all: Vec<u32> = watch.kinds.values().flatten().copied().collect();
        for (kind, mut times) in watch.kinds.into_iter().chain([("all", all)]) {
            times.sort_unstable();
            let at = |percent: usize| f64::from(times[(times.len() - 1) * percent / 100]) / 1e3;
            println!("  {kind:<10} {:>10} {:>12.2} {:>12.2} {:>12.2}", times.len(), at(50), at(90), at(99));
        }
    }
}

fn storms(range: Vec<u32>) {
    let workload = Workload::parse(include_str!("../data/storm.toml")).expect("it reads");
    let mut bad = 0;
    for seed in range[0]..range[1] {
        let faults = Faults::all();
        let scenario = Scenario {
            faults,
            workload: workload.clone(),
            check_every: 20,
            ..Scenario::new(seed.into(), 14, 3)
        };
        let report = run(&scenario, &mut ());
        if !report.problems.is_empty() {
            bad += 1;
            println!("seed {seed}: {:?}", report.problems);
        }
    }
    println!("{bad} of {} seeds went wrong", range[1] - range[0]);
}
