//! The `plexus` command: arguments in, words out. What it does lives in the crates that it calls.
//!
//! Every command says what happened and, where it failed, what to do next; `--json` says the same to a script. The exit codes
//! are in [`exit`] and in `plexus --help`.

mod arguments;
mod device;
mod exit;
mod job_commands;
mod proof_commands;
mod quote;
mod results;
mod say;
mod sealed;
mod signals;
mod sim;
mod submit;
mod up;
mod verdict_commands;
mod wallet;
mod wallet_commands;
mod work;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use exit::Failure;

#[derive(Parser)]
#[command(name = "plexus", version, about = "A compute network of idle GPUs: run a market, lend a device, submit work", after_help = exit::HELP, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a market on this machine
    Up(Box<up::Options>),
    /// Lend this machine's GPU to a market and be paid
    Worker(work::Options),
    /// Submit a job file, or write a first one
    Submit(submit::Options),
    /// Say what a job would cost now, with every term of the price
    Quote(quote::Options),
    /// List, watch, cancel jobs and fetch their results
    #[command(subcommand)]
    Job(job_commands::Command),
    /// Show and check that units were computed, and that their checks were drawn fairly
    #[command(subcommand)]
    Proof(proof_commands::Command),
    /// Make and look at the key that owns tokens
    #[command(subcommand)]
    Wallet(wallet_commands::Command),
    /// See packages that were contradicted, and contest what that cost
    #[command(subcommand)]
    Verdict(verdict_commands::Command),
    /// Show the GPUs that a worker could use
    Device(device::Options),
    /// Run the market's rules against a simulated network
    Sim(sim::Options),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Serve a device to a worker over standard input and output
    #[command(hide = true)]
    Executor,
    /// Print the API's OpenAPI document
    #[command(hide = true)]
    Openapi,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.command.json();
    match run(arguments.command) {
        Ok(code) => code,
        Err(failure) => {
            failure.print(json);
            failure.exit.into()
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match &command {
        // It has settings of its own.
        Command::Up(_) => {}
        Command::Worker(_) | Command::Executor => say::log("warn"),
        _ => say::log("error"),
    }
    match command {
        // The executor is a loop of its own, without an async runtime in its way.
        Command::Executor => {
            let served = worker::executor::serve(std::io::stdin(), std::io::stdout());
            served.map(|()| ExitCode::SUCCESS).map_err(|error| Failure::new(error.to_string()))
        }
        Command::Openapi => {
            say::out(market::openapi().trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "plexus", &mut script);
            say::out(String::from_utf8_lossy(&script).trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::Device(options) => device::run(&options),
        Command::Sim(options) => sim::run(&options),
        Command::Up(options) => block_on(up::run(*options)),
        Command::Worker(options) => block_on(work::run(options)),
        Command::Submit(options) => block_on(submit::run(options)),
        Command::Quote(options) => block_on(quote::run(options)),
        Command::Job(command) => block_on(job_commands::run(command)),
        Command::Proof(command) => block_on(proof_commands::run(command)),
        Command::Wallet(command) => block_on(wallet_commands::run(command)),
        Command::Verdict(command) => block_on(verdict_commands::run(command)),
    }
}

fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let result = runtime.block_on(command);
    // Tasks that are still at work (a long poll, a download) are of no use any more.
    runtime.shutdown_background();
    result
}

impl Command {
    /// Whether the command was asked to speak JSON.
    fn json(&self) -> bool {
        match self {
            Self::Up(options) => options.json,
            Self::Worker(options) => options.json(),
            Self::Submit(options) => options.json,
            Self::Quote(options) => options.json,
            Self::Job(command) => command.json(),
            Self::Proof(command) => command.json(),
            Self::Wallet(command) => command.json(),
            Self::Verdict(command) => command.json(),
            Self::Device(options) => options.json,
            Self::Sim(options) => options.json,
            Self::Completions { .. } | Self::Executor | Self::Openapi => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
