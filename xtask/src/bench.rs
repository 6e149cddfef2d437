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
    if options.name == "adversaries" {
        // Pure rules, from the crate that has them.
        let mut cargo = process::cargo();
        cargo.args(["run", "--release", "--package", "plexus-sim", "--example", "adversaries", "--"]);
        if let Some(file) = &options.json {
            cargo.arg("--json").arg(std::path::absolute(file)?);
        }
        cargo.args(&options.rest);
        return process::run(&mut cargo, "the adversaries");
    }
    // The benchmarks measure the real command, but for the one that measures algebra.
    if options.name != "proof" {
        let mut product = process::cargo();
        product.args(["build", "--release", "--package", "plexus"]);
        process::run(&mut product, "the build of plexus")?;
    }
    let peers_wanted = !options.rest.iter().any(|argument| argument.starts_with("--only"))
        || options.rest.iter().any(|argument| argument.contains("peers"));
    if options.name == "market" && peers_wanted {
        // A workspace of its own: the other systems' clients are heavy, and nothing else needs them.
        let mut peers = process::cargo();
        peers.args(["build", "--release", "--locked", "--manifest-path", "bench/peers/Cargo.toml"]);
        peers.arg("--target-dir").arg(process::target_dir().join("peers"));
        process::run(&mut peers, "the build of the other systems' clients")?;
    }
    let mut cargo = process::cargo();
    cargo.args(["run", "--release", "--package", "plexus-bench", "--"]).arg(&options.name);
    cargo.arg("--plexus").arg(process::plexus_binary("release"));
    if let Some(file) = &options.json {
        // Relative to where the person is, while the benchmark runs in the root.
        cargo.arg("--json").arg(std::path::absolute(file)?);
    }
    if options.name == "market" {
        cargo.arg("--peers").arg(process::target_dir().join("peers/release/plexus-bench-peers"));
    }
    cargo.args(&options.rest);
    setup::choose_vulkan_driver(&mut cargo);
    process::run(&mut cargo, &format!("the benchmark {}", options.name))
}
