//! Measured comparisons: `cargo xtask bench NAME`.
//!
//! Every benchmark prints a table, writes the same rows as JSON and keeps its latest table in `bench/RESULTS.md`. Speed is
//! measured here and asserted nowhere: the machines that run the tests are too noisy for that.

mod engine_load;
mod engine_rate;
mod growth;
mod latency;
mod load;
mod market;
mod memory;
mod overhead;
mod peers;
mod product;
mod proof;
mod report;
mod restart;
mod stopwatch;

use std::path::PathBuf;

use anyhow::bail;
use clap::{Parser, ValueEnum};
use report::Report;

#[derive(Parser)]
#[command(about = "Runs a benchmark and keeps its result in bench/RESULTS.md")]
struct Options {
    /// Which benchmark.
    name: Name,
    /// Also writes the rows as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The `plexus` binary to measure.
    #[arg(long, value_name = "FILE", default_value = "target/release/plexus")]
    plexus: PathBuf,
    /// The program of `bench/peers`, for `market`.
    #[arg(long, value_name = "FILE", default_value = "target/peers/release/plexus-bench-peers")]
    peers: PathBuf,
    /// Events of the journal that `market` restarts with.
    #[arg(long, value_name = "EVENTS", default_value_t = 10_000_000)]
    restart_events: u64,
    /// Leaves bench/RESULTS.md alone.
    #[arg(long)]
    dry_run: bool,
    /// Measure only these parts (spine: engine, units, overhead; market: peers, engine, growth, latency, memory, restart;
    /// proof: products, receipts, audits, circuits).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// The whole path: durable no-op units a second, and what the market adds to the examples' device time.
    Spine,
    /// The market beside other durable queues, and how it grows: decisions, latency, memory, restart.
    Market,
    /// What checks and proofs cost beside the work.
    Proof,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let name = match options.name {
        Name::Spine => "spine",
        Name::Market => "market",
        Name::Proof => "proof",
    };
    let parts: &[&str] = match options.name {
        Name::Spine => &["engine", "units", "overhead"],
        Name::Market => &["peers", "engine", "growth", "latency", "memory", "restart"],
        Name::Proof => &["products", "receipts", "audits", "circuits"],
    };
    if let Some(unknown) = options.only.iter().find(|only| !parts.contains(&only.as_str())) {
        bail!("{name} has no part {unknown}; it has {}", parts.join(", "));
    }
    let mut report = Report::new(name)?;
    let plexus = &options.plexus;
    for part in parts {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == part) {
            continue;
        }
        eprintln!("{part}");
        match *part {
            "engine" => engine_rate::measure(&mut report),
            "growth" => growth::measure(&mut report),
            "units" => runtime.block_on(load::measure(&mut report, plexus))?,
            "overhead" => runtime.block_on(overhead::measure(&mut report, plexus))?,
            "peers" => runtime.block_on(peers::measure(&mut report, plexus, &options.peers))?,
            "latency" => runtime.block_on(latency::measure(&mut report, plexus))?,
            "products" => proof::products(&mut report)?,
            "receipts" => proof::receipts(&mut report)?,
            "audits" => proof::audits(&mut report)?,
            "circuits" => proof::circuits(&mut report)?,
            "memory" => runtime.block_on(memory::measure(&mut report, plexus))?,
            _ => runtime.block_on(restart::measure(&mut report, plexus, options.restart_events))?,
        }
    }
    print!("{}", report.table());
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    if !options.dry_run && options.only.is_empty() {
        report.keep(&PathBuf::from("bench/RESULTS.md"))?;
    }
    Ok(())
}
