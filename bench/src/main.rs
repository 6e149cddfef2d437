//! Measured comparisons: `cargo xtask bench NAME`.
//!
//! Every benchmark prints a table, writes the same rows as JSON and keeps its latest table in `bench/RESULTS.md`. Speed is
//! measured here and asserted nowhere: the machines that run the tests are too noisy for that.

mod engine_rate;
mod load;
mod market;
mod overhead;
mod report;

use std::path::PathBuf;

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
    /// Leaves bench/RESULTS.md alone.
    #[arg(long)]
    dry_run: bool,
    /// Measure only these parts (spine: engine, units, overhead).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// The whole path: durable no-op units a second, and what the market adds to the examples' device time.
    Spine,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let wanted = |part: &str| options.only.is_empty() || options.only.iter().any(|name| name == part);
    let mut report = match options.name {
        Name::Spine => Report::new("spine")?,
    };
    if wanted("engine") {
        engine_rate::measure(&mut report);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if wanted("units") {
        runtime.block_on(load::measure(&mut report, &options.plexus))?;
    }
    if wanted("overhead") {
        runtime.block_on(overhead::measure(&mut report, &options.plexus))?;
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
