//! The market beside other systems that hand out durable work, on one machine in one run.
//!
//! The market does more for a unit than a queue does for a job: it verifies a signature and a Merkle root, draws checks and has
//! them made, keeps a ledger and a price. The load is alike otherwise: one unit a request, or a package of a hundred. Repetitions
//! are interleaved and only one system runs at a time, so that a disturbance of the machine meets all of them alike.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tokio::process::Command;

use crate::{
    load::{self, Manner, Measured},
    report::Report,
};

/// As the program in `bench/peers` names them.
const PEERS: [(&str, &str); 4] = [
    ("rabbitmq", "RabbitMQ"),
    ("nats", "NATS JetStream"),
    ("redis", "Redis streams"),
    ("postgres", "PostgreSQL"),
];
const ROUNDS: usize = 3;
/// Batch size, the market's aim over the best other system, how the market is asked, and units of a measurement.
const BATCHES: [(u32, &str, Manner, u64); 2] = [
    (1, "> 1", Manner { workers: 64, package_units: 1, packages: 1 }, 40_000),
    (100, ">= 3", Manner { workers: 16, package_units: 100, packages: 1 }, 600_000),
];

/// What `bench/peers` prints of one system.
#[derive(Deserialize)]
#[serde(untagged)]
enum Printed {
    NotRun { not_run: String },
    Ran { version: String, durable: bool, rates: Vec<Rate> },
}

#[derive(Deserialize)]
struct Rate {
    batch: u32,
    callers: u32,
    jobs_per_s: f64,
    processor_us: f64,
}

/// One system's repetitions.
struct Series {
    name: String,
    durable: bool,
    rates: [Vec<f64>; BATCHES.len()],
    processor_us: [Vec<f64>; BATCHES.len()],
    not_run: Option<String>,
}

impl Series {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            durable: true,
            rates: Default::default(),
            processor_us: Default::default(),
            not_run: None,
        }
    }

    fn take(&mut self, name: &str, printed: Printed) {
        match printed {
            Printed::NotRun { not_run } => self.not_run = Some(not_run),
            Printed::Ran { version, durable, rates } => {
                self.name = format!("{name} {version}");
                self.durable = durable;
                for rate in rates {
                    if let Some(at) = BATCHES.iter().position(|(batch, ..)| *batch == rate.batch) {
                        eprintln!(
                            "    batches of {}: {:.0} jobs/s ({} callers)",
                            rate.batch, rate.jobs_per_s, rate.callers
                        );
                        self.rates[at].push(rate.jobs_per_s);
                        self.processor_us[at].push(rate.processor_us);
                    }
                }
            }
        }
    }
}

/// Measures all systems in turn, [`ROUNDS`] times.
pub async fn measure(report: &mut Report, plexus: &Path, peers: &Path) -> Result<()> {
    let mut ours = Series::new("this market");
    let mut others: Vec<Series> = PEERS.iter().map(|(_, name)| Series::new(name)).collect();
    for round in 1..=ROUNDS {
        eprintln!("  round {round} of {ROUNDS}: this market");
        for (at, (batch, _, manner, units)) in BATCHES.into_iter().enumerate() {
            let Measured { units_per_s, processor_us } = load::rate(plexus, manner, units).await?;
            eprintln!("    batches of {batch}: {units_per_s:.0} units/s ({} callers)", manner.workers);
            ours.rates[at].push(units_per_s);
            ours.processor_us[at].push(processor_us);
        }
        for ((system, name), series) in PEERS.iter().zip(&mut others) {
            if series.not_run.is_some() {
                continue;
            }
            eprintln!("  round {round} of {ROUNDS}: {name}");
            // A system that breaks is reported, and does not cost the others their figures.
            match ask(peers, system).await {
                Ok(printed) => series.take(name, printed),
                Err(error) => {
                    series.not_run = Some(format!("{error:#}").lines().collect::<Vec<_>>().join(" "))
                }
            }
        }
    }
    for (at, (batch, aim, ..)) in BATCHES.into_iter().enumerate() {
        let systems = std::iter::once(&ours).chain(&others);
        for (series, us) in systems.filter_map(|series| Some((series, median(&series.processor_us[at])?))) {
            report.add(format!("batches of {batch}: processor time, {}", series.name), us, "µs a unit", None);
        }
        let ours = median(&ours.rates[at]).context("the market was measured")?;
        report.add(format!("batches of {batch}: this market"), ours, "units/s", None);
        let mut best: Option<(f64, &str)> = None;
        for series in &others {
            let metric = format!("batches of {batch}: {}", series.name);
            match (&series.not_run, median(&series.rates[at])) {
                (Some(why), _) => report.add_not_run(metric, why.as_str()),
                (None, None) => report.add_not_run(metric, "no figure"),
                (None, Some(rate)) if series.durable => {
                    report.add(metric, rate, "jobs/s", None);
                    if best.is_none_or(|(best, _)| rate > best) {
                        best = Some((rate, &series.name));
                    }
                }
                (None, Some(rate)) => report.add(format!("{metric} (not durable)"), rate, "jobs/s", None),
            }
        }
        if let Some((rate, name)) = best {
            report.add_ratio(format!("batches of {batch}: this market over {name}"), ours, rate, Some(aim));
        }
    }
    Ok(())
}

async fn ask(peers: &Path, system: &str) -> Result<Printed> {
    let output = Command::new(peers)
        .arg(system)
        .output()
        .await
        .with_context(|| format!("cannot run {}", peers.display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("the peers' program prints a line of JSON")
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
