//! `plexus sim`: the market's rules against a simulated network, as tables, JSON and plots.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use serde_json::json;
use sim::{Faults, Observer, Report, Sample, Scenario, Workload};

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
    /// A workload file (TOML) instead of the built-in one
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// Simulated minutes in which jobs arrive; what is left is then finished
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    minutes: u32,
    /// Lose, repeat and reorder messages, crash providers and the market, move its clock
    #[arg(long)]
    faults: bool,
    /// Check the invariants each time this many commands were decided [default: by the number of providers]
    #[arg(long, value_name = "COMMANDS", value_parser = clap::value_parser!(u64).range(1..))]
    check_every: Option<u64>,
    /// Write plots of throughput, utilisation and queue to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub fn run(options: &Options) -> Result<ExitCode, Failure> {
    let mut scenario = Scenario::new(options.seed, options.providers, options.minutes);
    if let Some(path) = &options.workload {
        scenario.workload = read_workload(path)?;
    }
    if options.faults {
        scenario.faults = Faults::all();
    }
    if let Some(check_every) = options.check_every {
        scenario.check_every = check_every;
    }
    let mut watch = Watch::new(!options.json && io::stderr().is_terminal());
    let began = Instant::now();
    let report = sim::run(&scenario, &mut watch);
    let whole = began.elapsed();
    watch.bar.finish_and_clear();

    if let Some(path) = &options.svg {
        fs::write(path, plots(&report))
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    }
    if options.json {
        say::json(&json!({ "report": report, "cost": watch.cost(whole) }));
    } else {
        print(&report, &watch, whole, options.svg.as_deref());
    }
    if report.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let count = report.problems.len();
    let failure =
        Failure::new(format!("{count} of what must hold did not; the first: {}", report.problems[0]));
    Err(failure
        .code("simulation_failed")
        .fix("report it with this command line: the seed shows the same run again"))
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

/// Measures what the simulator cannot: real time.
struct Watch {
    bar: ProgressBar,
    since: Option<Instant>,
    kinds: BTreeMap<&'static str, Kind>,
}

/// Decisions of one kind of command.
#[derive(Default)]
struct Kind {
    count: u64,
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

    fn mean_us(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.total.as_secs_f64() * 1e6 / self.count as f64 }
    }

    /// The time that this share of decisions did not exceed, in microseconds, an eighth too high at most.
    fn quantile_us(&self, share: f64) -> f64 {
        let rank = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        let step = self.histogram.iter().find(|(_, count)| {
            seen += **count;
            seen >= rank
        });
        step.map_or(0.0, |(step, _)| f64::from(step % 8 + 9) / 8.0 * 2f64.powi((step / 8) as i32) / 1e3)
    }
}

impl Watch {
    fn new(shown: bool) -> Self {
        let bar = if shown { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} simulated seconds  {msg}");
        bar.set_style(style.expect("the template is right").progress_chars("━╸ "));
        Self { bar, since: None, kinds: BTreeMap::new() }
    }

    fn all(&self) -> Kind {
        self.kinds.values().fold(Kind::default(), Kind::merge)
    }

    fn cost(&self, whole: Duration) -> serde_json::Value {
        let entry = |kind: &Kind| {
            json!({
                "decisions": kind.count,
                "mean_us": kind.mean_us(),
                "median_us": kind.quantile_us(0.5),
                "p99_us": kind.quantile_us(0.99),
                "longest_us": kind.quantile_us(1.0),
            })
        };
        let kinds: BTreeMap<_, _> = self.kinds.iter().map(|(name, kind)| (*name, entry(kind))).collect();
        json!({ "wall_s": whole.as_secs_f64(), "all": entry(&self.all()), "by_command": kinds })
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
        if at_s > of_s {
            self.bar.set_message("finishing what is left");
        }
    }
}

fn print(report: &Report, watch: &Watch, whole: Duration, svg: Option<&Path>) {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let part = |count: u64, of: u64| if of == 0 { 0.0 } else { count as f64 / of as f64 };
    let (jobs, units, faults, all) = (&report.jobs, &report.units, &report.faults, watch.all());
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
        (
            "fairness",
            format!("{:.3} (Jain; honest earnings for time online at reference speed)", report.fairness),
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
        ("right units", format!("{} rejected, {} parked", units.rejected_right, units.parked)),
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
        ("real time", format!("{:.1} s", whole.as_secs_f64())),
    ];
    if let Some(path) = svg {
        facts.push(("plots", path.display().to_string()));
    }
    say::facts(&facts);

    say::out("");
    let times = |times: &[f64; 3]| times.map(|s| format!("{s:.1}")).join(" / ");
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
        &["PROVIDERS", "COUNT", "EARNED", "HONEST WOULD EARN", "REJECTED PACKAGES"],
        report
            .natures
            .iter()
            .map(|n| {
                let tokens = |amount: f64| format!("{amount:.4}");
                let (earned, honest) = (tokens(n.earned), tokens(n.honest_would_earn));
                vec![n.name.clone(), n.providers.to_string(), earned, honest, n.rejected.to_string()]
            })
            .collect(),
    );
    say::out("");
    say::table(
        &["COMMAND", "DECISIONS", "MEDIAN µS", "99 % µS", "MEAN µS"],
        watch
            .kinds
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

/// What of a sample is plotted.
type Measure = fn(&Sample) -> f64;

/// Throughput, utilisation and queue over time, below each other.
fn plots(report: &Report) -> String {
    const SIZE: (u32, u32) = (960, 900);
    let plots: [(&str, Measure); 3] = [
        ("units accepted a second", |s| s.units_per_s),
        ("device time at work, %", |s| s.utilisation * 100.0),
        ("units that wait for a device", |s| s.waiting_units as f64),
    ];
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        // Writing to a string cannot fail.
        let _ = root.fill(&WHITE);
        for (area, (name, value)) in root.split_evenly((plots.len(), 1)).iter().zip(plots) {
            let _ = plot(area, name, report, value);
        }
        let _ = root.present();
    }
    svg
}

fn plot(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    name: &str,
    report: &Report,
    value: Measure,
) -> Result<(), Box<dyn std::error::Error>> {
    const LINE: RGBColor = RGBColor(0x25, 0x63, 0xeb);
    let points = || report.samples.iter().map(|sample| (sample.at_s / 60.0, value(sample)));
    let minutes = points().map(|(at, _)| at).fold(1.0, f64::max);
    let most = points().map(|(_, value)| value).fold(1.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .caption(name, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..minutes, 0.0..most)?;
    chart.configure_mesh().x_desc("simulated minutes").light_line_style(WHITE).draw()?;
    // Where jobs and faults stop and what is left is finished.
    let calm = f64::from(report.minutes);
    if calm < minutes {
        chart.draw_series(LineSeries::new([(calm, 0.0), (calm, most)], BLACK.mix(0.3)))?;
    }
    chart.draw_series(LineSeries::new(points(), LINE.stroke_width(2)))?;
    Ok(())
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

    #[test]
    fn plots_show_every_sample() {
        let report = sim::run(&Scenario::new(1, 5, 1), &mut ());
        let svg = plots(&report);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("units accepted a second") && svg.contains("units that wait for a device"));
        let lines = svg.lines().filter(|line| line.starts_with("<polyline")).collect::<Vec<_>>();
        let longest = lines.iter().map(|line| line.matches(',').count()).max();
        assert!(longest >= Some(report.samples.len()), "{longest:?} of {}", report.samples.len());
    }
}
