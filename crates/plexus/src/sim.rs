//! `plexus sim`: the market's rules against a simulated network, as tables, JSON and plots.

mod plots;
mod watch;

use std::{
    any::Any,
    fmt::Write as _,
    fs,
    io::{self, IsTerminal},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
};

use indicatif::ProgressBar;
use serde_json::json;
use sim::{Faults, Report, Scenario, Workload};
use watch::{Cost, Watch};

use crate::{exit::Failure, say};

#[derive(clap::Args)]
#[command(
    after_help = "The same options give the same run, to the last bit of its journal: a failure is shown again by its seed.
docs/sim.md describes the workload file and what is and is not simulated."
)]
pub struct Options {
    /// Providers, online and away together
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    providers: u32,
    /// What every draw comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this many seeds, from --seed on, and say which ones went wrong
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["sweep", "svg"], value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// Run these sizes of the network and show how the cost of a decision grows
    #[arg(long, value_name = "PROVIDERS,...", value_delimiter = ',', conflicts_with = "providers", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sweep: Vec<u32>,
    /// A workload file (TOML) instead of the built-in one
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// Simulated minutes in which jobs arrive; what is left is then finished
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    minutes: u32,
    /// Let go wrong what can: all, or only some of loss, repeat, delay, device, provider, market, leader, clock
    #[arg(long, value_name = "KINDS", num_args = 0..=1, require_equals = true, default_missing_value = "all", value_delimiter = ',')]
    faults: Option<Vec<String>>,
    /// After a failure, look for the smallest run that fails, too
    #[arg(long)]
    shrink: bool,
    /// Check the invariants each time this many commands were decided [default: by the number of providers]
    #[arg(long, value_name = "COMMANDS", value_parser = clap::value_parser!(u64).range(1..))]
    check_every: Option<u64>,
    /// Write plots to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub fn run(options: &Options) -> Result<ExitCode, Failure> {
    let scenario = scenario(options)?;
    if let Some(count) = options.seeds {
        return seeds(options, &scenario, count);
    }
    if !options.sweep.is_empty() {
        return sweep(options, &scenario);
    }
    let (report, cost) = simulate(options, &scenario);
    write_svg(options, || plots::of_run(&report))?;
    if options.json {
        say::json(&json!({ "report": report, "cost": cost.json() }));
    } else {
        print(&report, &cost, options.svg.as_deref());
    }
    verdict(options, &scenario, &report)
}

fn scenario(options: &Options) -> Result<Scenario, Failure> {
    let mut scenario = Scenario::new(options.seed, options.providers, options.minutes);
    if let Some(path) = &options.workload {
        scenario.workload = read_workload(path)?;
    }
    if let Some(kinds) = &options.faults {
        let all = kinds.iter().any(|kind| kind == "all");
        let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
        scenario.faults = if all { Some(Faults::all()) } else { Faults::of(&kinds) }.ok_or_else(|| {
            Failure::new(format!("--faults takes all, or some of {}", Faults::KINDS.join(", "))).code("usage")
        })?;
    }
    if let Some(check_every) = options.check_every {
        scenario.check_every = check_every;
    }
    Ok(scenario)
}

/// Runs a scenario. A broken assertion of the rules is a problem like others, so that its seed is told.
fn simulate(options: &Options, scenario: &Scenario) -> (Report, Cost) {
    let shown = !options.json && io::stderr().is_terminal();
    let what =
        if options.sweep.is_empty() { String::new() } else { format!("{} providers", scenario.providers) };
    let mut watch = Watch::new(shown, what);
    let report = survive(|| sim::run(scenario, &mut watch), scenario);
    (report, watch.finish())
}

fn survive(run: impl FnOnce() -> Report, scenario: &Scenario) -> Report {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Report {
        seed: scenario.seed,
        providers: scenario.providers,
        minutes: scenario.minutes,
        problems: vec![format!("an assertion failed: {}", words(&*panic))],
        ..Report::default()
    })
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// The command line that shows a run again.
fn command_line(options: &Options, scenario: &Scenario) -> String {
    let Scenario { seed, providers, minutes, faults, .. } = scenario;
    let mut line = format!("plexus sim --seed {seed} --providers {providers} --minutes {minutes}");
    if *faults == Faults::all() {
        line.push_str(" --faults");
    } else if *faults != Faults::default() {
        let _ = write!(line, " --faults={}", faults.kinds().join(","));
    }
    if let Some(path) = &options.workload {
        let _ = write!(line, " --workload {}", path.display());
    }
    if let Some(check_every) = options.check_every {
        let _ = write!(line, " --check-every {check_every}");
    }
    line
}

fn verdict(options: &Options, scenario: &Scenario, report: &Report) -> Result<ExitCode, Failure> {
    if report.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let smallest = if options.shrink {
        sim::shrink(scenario, &mut |candidate| {
            !survive(|| sim::run(candidate, &mut ()), candidate).problems.is_empty()
        })
    } else {
        scenario.clone()
    };
    let count = report.problems.len();
    let failure =
        Failure::new(format!("{count} of what must hold did not; the first: {}", report.problems[0]));
    let line = command_line(options, &smallest);
    Err(failure
        .code("simulation_failed")
        .fix(format!("report it with this command, which shows it again: {line}")))
}

/// Many seeds, one after the other.
fn seeds(options: &Options, first: &Scenario, count: u64) -> Result<ExitCode, Failure> {
    let shown = !options.json && io::stderr().is_terminal();
    let bar = if shown { ProgressBar::new(count) } else { ProgressBar::hidden() };
    let mut failed: Vec<(Scenario, Report)> = Vec::new();
    let mut decisions = 0;
    for seed in first.seed..first.seed.saturating_add(count) {
        let scenario = Scenario { seed, ..first.clone() };
        let report = survive(|| sim::run(&scenario, &mut ()), &scenario);
        decisions += report.decisions;
        if !report.problems.is_empty() {
            bar.suspend(|| {
                say::err(&format!("problem: {}: {}", command_line(options, &scenario), report.problems[0]));
            });
            failed.push((scenario, report));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if options.json {
        let failures: Vec<_> = failed
            .iter()
            .map(|(scenario, report)| {
                json!({
                    "seed": scenario.seed,
                    "problems": report.problems,
                    "command": command_line(options, scenario),
                })
            })
            .collect();
        say::json(&json!({ "seeds": count, "decisions": decisions, "failures": failures }));
    } else {
        say::out(&format!("{count} seeds, {decisions} decisions: {} went wrong", failed.len()));
    }
    match failed.first() {
        None => Ok(ExitCode::SUCCESS),
        Some((scenario, report)) => verdict(options, scenario, report),
    }
}

/// The same network in several sizes.
fn sweep(options: &Options, like: &Scenario) -> Result<ExitCode, Failure> {
    let mut sizes = options.sweep.clone();
    // In this order the most memory a process ever had is the last run's.
    sizes.sort_unstable();
    sizes.dedup();
    let mut runs = Vec::new();
    for providers in sizes {
        let check_every = options.check_every.unwrap_or(Scenario::new(0, providers, 1).check_every);
        let scenario = Scenario { providers, check_every, ..like.clone() };
        let (report, cost) = simulate(options, &scenario);
        if !report.problems.is_empty() {
            return verdict(options, &scenario, &report);
        }
        runs.push((report, cost));
    }
    write_svg(options, || plots::of_sweep(like.seed, &runs))?;
    if options.json {
        let runs: Vec<_> =
            runs.iter().map(|(report, cost)| json!({ "report": report, "cost": cost.json() })).collect();
        say::json(&json!({ "runs": runs }));
        return Ok(ExitCode::SUCCESS);
    }
    let rows = runs.iter().map(|(report, cost)| {
        vec![
            plots::grouped(report.providers.into()),
            plots::grouped(report.jobs.submitted),
            plots::grouped(report.units.accepted),
            plots::grouped(report.decisions),
            format!("{:.1}", report.units_per_s),
            format!("{:.0} %", report.utilisation * 100.0),
            format!("{:.1}", cost.wall.as_secs_f64()),
            cost.memory_mib.map_or(String::new(), |mib| format!("{mib:.0}")),
        ]
    });
    let head = ["PROVIDERS", "JOBS", "UNITS", "DECISIONS", "UNITS/S", "AT WORK", "REAL TIME S", "MEMORY MIB"];
    say::table(&head, rows.collect());
    say::out("");
    let mut kinds: Vec<_> = runs.iter().flat_map(|(_, cost)| cost.kinds()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let sizes: Vec<_> = runs.iter().map(|(report, _)| plots::grouped(report.providers.into())).collect();
    let head: Vec<&str> = ["MEDIAN µs (99 %)"].into_iter().chain(sizes.iter().map(String::as_str)).collect();
    let cell = |kind: &watch::Kind| format!("{:.2} ({:.1})", kind.quantile_us(0.5), kind.quantile_us(0.99));
    let row = |name: &str, of: &dyn Fn(&Cost) -> Option<String>| {
        let cells = runs.iter().map(|(_, cost)| of(cost).unwrap_or_default());
        [name.to_owned()].into_iter().chain(cells).collect()
    };
    let mut rows: Vec<Vec<String>> =
        kinds.iter().map(|kind| row(kind, &|cost| cost.by_command.get(kind).map(cell))).collect();
    rows.push(row("all", &|cost| Some(cell(&cost.all))));
    rows.push(row("all, mean", &|cost| Some(format!("{:.2}", cost.mean_us()))));
    say::table(&head, rows);
    Ok(ExitCode::SUCCESS)
}

fn write_svg(options: &Options, svg: impl FnOnce() -> String) -> Result<(), Failure> {
    let Some(path) = &options.svg else { return Ok(()) };
    fs::write(path, svg()).map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}

fn read_workload(path: &Path) -> Result<Workload, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
    Workload::parse(&text).map_err(|error| {
        Failure::new(format!("{}: {}", path.display(), error.to_string().trim_end()))
            .code("workload_invalid")
            .fix("docs/sim.md describes the workload file")
    })
}

fn print(report: &Report, cost: &Cost, svg: Option<&Path>) {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let part = |count: u64, of: u64| if of == 0 { 0.0 } else { count as f64 / of as f64 };
    let (jobs, units, faults, all) = (&report.jobs, &report.units, &report.faults, &cost.all);
    let mut facts = vec![
        ("seed", report.seed.to_string()),
        ("providers", report.providers.to_string()),
        (
            "simulated",
            format!("{} min of arrivals, {:.1} min in all", report.minutes, report.simulated_s / 60.0),
        ),
        (
            "jobs",
            format!(
                "{} submitted: {} done, {} cancelled, {} incomplete",
                jobs.submitted, jobs.done, jobs.cancelled, jobs.incomplete
            ),
        ),
        (
            "throughput",
            format!(
                "{:.2} units/s while jobs arrived, {} accepted in all",
                report.units_per_s, units.accepted
            ),
        ),
        ("utilisation", percent(report.utilisation)),
        ("price", format!("{:.6} tokens a reference second of accepted work", report.price)),
        (
            "fairness",
            format!(
                "{:.3} of work for time and speed offered, {:.3} of pay for work (Jain's index over honest providers)",
                report.fairness_work, report.fairness_pay
            ),
        ),
        (
            "executed again",
            format!(
                "{} units as checks ({} of those accepted), {} after a rejection; {} executions reached the market",
                units.checked,
                percent(part(units.checked, units.accepted)),
                units.rejected,
                units.executed
            ),
        ),
        (
            "wrong units",
            format!(
                "{} committed; accepted: {} unseen by sampling, {} vouched for by partners, {} on cancelled jobs",
                units.wrong_committed, units.wrong_unseen, units.wrong_colluded, units.wrong_cancelled
            ),
        ),
        (
            "right units",
            format!(
                "{} rejected, {} parked, {} committed before their device was yielded",
                units.rejected_right, units.parked, units.yielded
            ),
        ),
        (
            "messages",
            format!(
                "{}: {} lost, {} repeated, {} held up",
                faults.messages, faults.lost, faults.duplicated, faults.delayed
            ),
        ),
        (
            "crashes",
            format!(
                "{} of providers, {} of the market (which lost {} events that nobody was answered on), {} clock jumps",
                faults.provider_crashes, faults.market_crashes, faults.undurable_events, faults.clock_jumps
            ),
        ),
        (
            "leaders",
            format!(
                "{} takeovers: {} times the old one was fenced, {} times the new one, with {} events and {} answers",
                faults.takeovers,
                faults.fenced_first,
                faults.fenced_second,
                faults.fenced_events,
                faults.fenced_answers
            ),
        ),
        (
            "decisions",
            format!(
                "{}, median {:.2} µs, 99 % {:.2} µs, mean {:.2} µs",
                all.count,
                all.quantile_us(0.5),
                all.quantile_us(0.99),
                all.mean_us()
            ),
        ),
        (
            "journal",
            format!(
                "{} events, {:.1} MiB, SHA-256 {}",
                report.events,
                report.journal_bytes as f64 / 1_048_576.0,
                report.digest
            ),
        ),
        (
            "invariants",
            format!("checked {} times, {} problems", report.invariant_checks, report.problems.len()),
        ),
        ("real time", format!("{:.1} s", cost.wall.as_secs_f64())),
    ];
    if let Some(mib) = cost.memory_mib {
        facts.push(("memory", format!("{mib:.0} MiB at most")));
    }
    if let Some(path) = svg {
        facts.push(("plots", path.display().to_string()));
    }
    say::facts(&facts);

    say::out("");
    let times = |times: &[f64; 3]| times.map(|s| format!("{s:.1}")).join(" / ");
    say::table(
        &["PRIORITY", "JOBS", "WAITING S (50/95/100 %)", "TURNAROUND S (50/95/100 %)"],
        report
            .priorities
            .iter()
            .map(|p| vec![p.name.clone(), p.jobs.to_string(), times(&p.waiting_s), times(&p.turnaround_s)])
            .collect(),
    );
    say::out("");
    say::table(
        &["STREAM", "JOBS", "WAITING S (50/95/100 %)", "TURNAROUND S (50/95/100 %)"],
        report
            .streams
            .iter()
            .map(|s| vec![s.name.clone(), s.jobs.to_string(), times(&s.waiting_s), times(&s.turnaround_s)])
            .collect(),
    );
    say::out("");
    say::table(
        &[
            "PROVIDERS",
            "COUNT",
            "EARNED",
            "HONEST WOULD EARN",
            "REJECTED PACKAGES",
            "REPUTATION",
            "FOUND OUT",
            "MEASURED SPEED / TRUE",
        ],
        report
            .natures
            .iter()
            .map(|n| {
                let tokens = |amount: f64| format!("{amount:.4}");
                let (earned, honest) = (tokens(n.earned), tokens(n.honest_would_earn));
                vec![
                    n.name.clone(),
                    n.providers.to_string(),
                    earned,
                    honest,
                    n.rejected.to_string(),
                    format!("{:.1}", n.reputation),
                    n.overstated.to_string(),
                    format!("{:.2}", n.measured_speed),
                ]
            })
            .collect(),
    );
    say::out("");
    say::table(
        &["COMMAND", "DECISIONS", "MEDIAN µS", "99 % µS", "MEAN µS"],
        cost.by_command
            .iter()
            .map(|(name, kind)| {
                let times = [kind.quantile_us(0.5), kind.quantile_us(0.99), kind.mean_us()];
                let head = [(*name).to_owned(), kind.count.to_string()];
                head.into_iter().chain(times.map(|us| format!("{us:.2}"))).collect()
            })
            .collect(),
    );
    for problem in report.problems.iter().take(20) {
        say::err(&format!("problem: {problem}"));
    }
}
