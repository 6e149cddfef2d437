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
const MINUTES: u32 = 2;

/// Where a test changes the built-in workload, its text is to be written to a file first.
const CHANGED: &str = " --workload FILE` with the test's workload in `FILE";
const STORM: &str = include_str!("../data/storm.toml");

/// `plexus sim --faults --workload crates/sim/data/storm.toml` with these numbers.
fn scenario(seed: u64) -> Scenario {
    let workload = Workload::parse(STORM).expect("it reads");
    Scenario { faults: Faults::all(), workload, check_every: 150, ..Scenario::new(seed, PROVIDERS, MINUTES) }
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
fn storms(seeds: std::ops::Range<u64>) {
    let mut reports = Vec::new();
    for seed in seeds {
        reports.push(good(&scenario(seed), " --workload crates/sim/data/storm.toml"));
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
}

#[test]
fn every_job_ends_and_nothing_breaks_in_storms_1() {
    storms(0..125);
}

#[test]
fn every_job_ends_and_nothing_breaks_in_storms_2() {
    storms(125..250);
}

#[test]
fn every_job_ends_and_nothing_breaks_in_storms_3() {
    storms(250..375);
}

#[test]
fn every_job_ends_and_nothing_breaks_in_storms_4() {
    storms(375..500);
}

#[test]
fn every_job_ends_and_nothing_breaks_in_storms_5() {
    storms(500..625);
}

#[test]
fn every_job_ends_and_nothing_breaks_in_storms_6() {
    storms(625..750);
}

#[test]
fn every_job_ends_and_nothing_breaks_in_storms_7() {
    storms(750..875);
}

#[test]
fn every_job_ends_and_nothing_breaks_in_storms_8() {
    storms(875..1000);
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
