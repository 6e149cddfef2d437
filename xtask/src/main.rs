//! Project tasks: `cargo xtask demo`, `test`, `bench`, `setup`, `tidy`, `web`, `openapi`.
//!
//! It drives the same tools and commands that a person would, and knows the product only by its command line and HTTP
//! API: it depends on no crate of the workspace, because every task starts with compiling this one.

mod bench;
mod demo;
mod http;
mod openapi;
mod process;
mod setup;
mod test;
mod tidy;
mod web;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project tasks", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the whole network on this machine: a market, a native worker, a browser worker, two example jobs
    Demo(demo::Options),
    /// Run everything that must hold before a change goes in
    Test(test::Options),
    /// Run a benchmark: `cargo xtask bench spine --json rows.json`
    Bench(bench::Options),
    /// Find what this machine lacks, say how to get it, and install it where that is possible
    Setup(setup::Options),
    /// Check the rules of the house: direction of dependencies, pure crates, leftovers
    Tidy,
    /// Build the TypeScript SDK and the web app
    Web,
    /// Write docs/openapi.json and the TypeScript types that come from it
    Openapi(openapi::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Demo(options) => demo::demo(&options),
        Task::Test(options) => test::test(&options),
        Task::Bench(options) => bench::bench(&options),
        Task::Setup(options) => setup::setup(&options),
        Task::Tidy => tidy::tidy(),
        Task::Web => web::web().map(|_| ()),
        Task::Openapi(options) => openapi::openapi(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
