//! `cargo xtask bench NAME`: runs a benchmark of the crate in `bench/`, in the release profile.

use std::path::PathBuf;

use anyhow::Result;

use crate::{process, setup};

#[derive(clap::Args)]
pub struct Options {
    /// Which one, such as `spine`
    name: String,
    /// Also write the rows as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// More arguments for the benchmark
    #[arg(last = true)]
    rest: Vec<String>,
}

pub fn bench(options: &Options) -> Result<()> {
    // The benchmarks measure the real command.
    let mut product = process::cargo();
    product.args(["build", "--release", "--package", "plexus"]);
    process::run(&mut product, "the build of plexus")?;
    let mut cargo = process::cargo();
    cargo.args(["run", "--release", "--package", "plexus-bench", "--"]).arg(&options.name);
    if let Some(file) = &options.json {
        // Relative to where the person is, while the benchmark runs in the root.
        cargo.arg("--json").arg(std::path::absolute(file)?);
    }
    cargo.args(&options.rest);
    setup::choose_vulkan_driver(&mut cargo);
    process::run(&mut cargo, &format!("the benchmark {}", options.name))
}
