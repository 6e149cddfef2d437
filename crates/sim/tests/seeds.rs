//! Many small worlds in which everything goes wrong. A failure prints the command that shows the same run again.

use plexus_sim::{Faults, Report, Scenario, Workload, run, shrink};

/// Says which seed it was, also when the engine's own assertions fail.
struct Seed(String);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was `{}`", self.0);
        }
    }
}

const PROVIDERS: u32 = 14;
const MINUTES: u32 = 1;

/// Where a test changes the built-in workload, its text is to be written to a file first.
const CHANGED: &str = " --workload FILE` with the test's workload in `FILE";
const STORM: &str = include_str!("../data/storm.toml");

/// `plexus sim --faults --workload crates/sim/data/storm.toml` with these numbers.
fn scenario(seed: u64) -> Scenario {
    let workload = Workload::parse(STORM).expect("it reads");
    Scenario { faults: Faults::all(), workload, check_every: 300, ..Scenario::new(seed, PROVIDERS, MINUTES) }
}

fn good(scenario: &Scenario, file: &str) -> Report {
    let Scenario { seed, providers, minutes, .. } = scenario;
    let faults = if scenario.faults == Faults::default() { "" } else { " --faults" };
    let _seed =
        Seed(format!("plexus sim --seed {seed} --providers {providers} --minutes {minutes}{faults}{file}"));
    let report = run(scenario, &mut ());
    if !report.problems.is_empty() {
        // A small run is easier to understand than the one that happened to fail.
        let small = shrink(scenario, &mut |smaller| !run(smaller, &mut ()).problems.is_empty());
        let Scenario { providers, minutes, faults, .. } = &small;
        eprintln!(
            "smaller: --providers {providers} --minutes {minutes} --faults={}",
            faults.kinds().join(",")
        );
    }
    assert_eq!(report.problems, [""; 0], "seed {seed}");
    let jobs = report.jobs;
    assert_eq!(jobs.submitted, jobs.done + jobs.cancelled + jobs.incomplete, "seed {seed}");
    report
}

/// Runs these seeds; the runs together must have met every fault, or they prove nothing.
fn storms(seeds: std::ops::Range<u64>, minutes: u32) {
    let mut reports = Vec::new();
    for seed in seeds {
        let scenario = Scenario { minutes, ..scenario(seed) };
        reports.push(good(&scenario, " --workload crates/sim/data/storm.toml"));
    }
    let all = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    assert!(all(|r| r.faults.lost) > 0 && all(|r| r.faults.duplicated) > 0 && all(|r| r.faults.delayed) > 0);
    assert!(all(|r| r.faults.provider_crashes) > 0 && all(|r| r.faults.silent_leaves) > 0);
    assert!(all(|r| r.faults.market_crashes) > 0 && all(|r| r.faults.undurable_events) > 0);
    assert!(all(|r| r.faults.fenced_first) > 0 && all(|r| r.faults.fenced_second) > 0);
    assert!(all(|r| r.faults.fenced_events) > 0 && all(|r| r.faults.fenced_answers) > 0);
    assert!(all(|r| r.faults.clock_jumps) > 0 && all(|r| r.faults.device_failures) > 0);
    assert!(all(|r| r.units.wrong_committed) > 0 && all(|r| r.units.rejected) > 0);
    assert!(all(|r| r.jobs.pauses) > 0 && all(|r| r.units.yielded) > 0);
    assert!(all(|r| r.jobs.done) > 0 && all(|r| r.units.accepted) > 0);
    assert!(all(|r| r.jobs.overdue) > 0 && all(|r| r.jobs.passed_on) > 0 && all(|r| r.units.skipped) > 0);
    assert!(all(|r| r.waiting_checks) > 0);
}

/// Each its own test, so that they run side by side.
macro_rules! storms {
    ($($name:ident: $seeds:expr, $minutes:expr;)*) => {
        $(#[test]
        fn $name() {
            storms($seeds, $minutes);
        })*
    };
}

storms! {
    every_job_ends_and_nothing_breaks_in_storms_01: 0..128, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_02: 128..256, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_03: 256..384, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_04: 384..512, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_05: 512..640, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_06: 640..768, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_07: 768..896, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_08: 896..1024, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_09: 1024..1152, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_10: 1152..1280, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_11: 1280..1408, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_12: 1408..1536, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_13: 1536..1664, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_14: 1664..1792, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_15: 1792..1920, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_16: 1920..2048, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_17: 2048..2176, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_18: 2176..2304, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_19: 2304..2432, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_20: 2432..2560, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_21: 2560..2688, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_22: 2688..2816, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_23: 2816..2944, MINUTES;
    every_job_ends_and_nothing_breaks_in_storms_24: 2944..3072, MINUTES;
    every_job_ends_and_nothing_breaks_in_long_storms: 100_000..100_032, 4;
}

#[test]
fn the_same_scenario_gives_the_same_journal() {
    for seed in [1, 2, 3] {
        let first = run(&scenario(seed), &mut ());
        assert_eq!(first, run(&scenario(seed), &mut ()), "seed {seed}");
        assert_ne!(first.digest, run(&scenario(seed + 100), &mut ()).digest, "another seed is another run");
    }
}

#[test]
fn who_watches_changes_nothing() {
    #[derive(Default)]
    struct Counting {
        begun: u64,
        decided: u64,
        seconds: u64,
    }
    impl plexus_sim::Observer for Counting {
        fn deciding(&mut self) {
            self.begun += 1;
        }
        fn decided(&mut self, _kind: &'static str) {
            self.decided += 1;
        }
        fn passed(&mut self, at_s: u64, _of_s: u64) {
            assert!(at_s > self.seconds);
            self.seconds = at_s;
        }
    }
    let mut counting = Counting::default();
    let report = run(&scenario(5), &mut counting);
    assert_eq!((counting.begun, counting.decided), (report.decisions, report.decisions));
    assert!(counting.seconds >= u64::from(MINUTES) * 60);
    assert_eq!(report, run(&scenario(5), &mut ()));
}

#[test]
fn without_faults_and_cheats_nothing_is_rejected_or_refused() {
    for seed in 0..20 {
        let mut calm = Scenario::new(seed, PROVIDERS, MINUTES);
        let population = &mut calm.workload.providers;
        (population.cheats_ppm, population.colluders_ppm, population.online_minutes) = (0, 0, 0);
        for stream in &mut calm.workload.streams {
            stream.cancel_ppm = 0;
            stream.poison_ppm = 0;
        }
        let report = good(&calm, CHANGED);
        assert_eq!(report.units.rejected, 0, "seed {seed}");
        assert_eq!(report.jobs.submitted, report.jobs.done, "seed {seed}");
        assert!(report.waiting_checks > 0, "seed {seed}");
        // Lazy checkers hold leases until others have the units.
        let refused: Vec<_> = report.refusals.iter().filter(|(kind, _)| kind != "lease_expired").collect();
        assert!(refused.is_empty(), "seed {seed}: {refused:?}");
    }
}

#[test]
fn a_poisoned_unit_is_parked_and_its_job_ends_incomplete() {
    let text = Workload::BUILT_IN.replace("storage_mib = 1_024", "storage_mib = 1_024\npoison_ppm = 50_000");
    let workload = Workload::parse(&text).expect("it reads");
    let reports: Vec<_> = (0..10)
        .map(|seed| {
            good(&Scenario { workload: workload.clone(), ..Scenario::new(seed, PROVIDERS, MINUTES) }, CHANGED)
        })
        .collect();
    assert!(reports.iter().any(|report| report.jobs.incomplete > 0 && report.units.parked > 0));
}

#[test]
fn a_quorum_lets_nothing_wrong_through_that_partners_did_not_vouch_for() {
    let text = Workload::BUILT_IN
        .replace("cheats_ppm = 20_000", "cheats_ppm = 300_000")
        .replace("{ audit_ppm = 20_000 }", "{ quorum = 3 }")
        .replace("{ audit_ppm = 5_000 }", "{ quorum = 2 }")
        .replace("{ audit_ppm = 50_000 }", "{ quorum = 2 }")
        .replace("cancel_ppm = 50_000", "cancel_ppm = 0");
    let workload = Workload::parse(&text).expect("it reads");
    let mut wrong = 0;
    for seed in 0..20 {
        let report = good(
            &Scenario { workload: workload.clone(), ..Scenario::new(seed, PROVIDERS, MINUTES) },
            CHANGED,
        );
        assert_eq!((report.units.wrong_unseen, report.units.wrong_cancelled), (0, 0), "seed {seed}");
        wrong += report.units.wrong_committed;
    }
    assert!(wrong > 0);
}
