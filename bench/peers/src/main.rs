//! Durable work queues under one load: `plexus-bench-peers SYSTEM` starts the system's server, measures it and stops it.
//!
//! The load is what the market is measured with, as far as a queue can do it: jobs of 200 bytes are submitted, taken, and
//! settled, producers and consumers side by side, everything durable when it is confirmed. A batch of one is one job a
//! round trip; a batch of a hundred is a hundred jobs that are submitted, taken and settled together. Each system is driven
//! with the client that its users take, and with as many callers as it is fastest with.
//!
//! Nothing is compared here: the benchmark of the market does that, and reads the one line of JSON that is printed.

mod load;
mod nats;
mod postgres;
mod rabbitmq;
mod redis;
mod server;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use load::{Load, Measured};
use serde_json::{Value, json};
use server::Absent;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Measures one durable queue and prints a line of JSON")]
struct Options {
    /// Which one.
    system: System,
    /// Jobs of a measurement with batches of one.
    #[arg(long, default_value_t = 30_000)]
    jobs_by_one: u64,
    /// Jobs of a measurement with batches of a hundred.
    #[arg(long, default_value_t = 200_000)]
    jobs_by_hundred: u64,
    /// Producers, and as many consumers, instead of the number that suits the system.
    #[arg(long)]
    callers: Option<usize>,
    /// Where the server's data lies: a folder on the disk that is to be measured.
    #[arg(long, default_value = "/tmp")]
    data: PathBuf,
    /// Only submits this many jobs one after the other, for counting the server's syncs.
    #[arg(long, value_name = "JOBS")]
    submit_only: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum System {
    /// A quorum queue with publisher confirms and manual acknowledgements.
    Rabbitmq,
    /// A JetStream work queue that syncs always.
    Nats,
    /// A stream with a consumer group and `appendfsync always`.
    Redis,
    /// A table that is leased from with `FOR UPDATE SKIP LOCKED`.
    Postgres,
}

/// Callers that suit a system, found by trying 4 to 128 on two cores: with batches of one, and of a hundred.
struct Callers {
    by_one: usize,
    by_hundred: usize,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::parse();
    // Stopped or not, the server must not outlive us: returning drops it.
    let mut terminated = signal(SignalKind::terminate())?;
    let measured = tokio::select! {
        measured = measure(&options) => measured,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    };
    let line = match measured {
        Ok(line) => line,
        Err(error) => match error.downcast::<Absent>() {
            Ok(absent) => json!({ "not_run": absent.to_string() }),
            Err(error) => return Err(error),
        },
    };
    println!("{line}");
    Ok(())
}

async fn measure(options: &Options) -> Result<Value> {
    match options.system {
        System::Rabbitmq => rabbitmq::measure(options).await,
        System::Nats => nats::measure(options).await,
        System::Redis => redis::measure(options).await,
        System::Postgres => postgres::measure(options).await,
    }
}

impl Options {
    /// The loads to run: each batch size once, or only what counts syncs.
    fn loads(&self, callers: &Callers) -> Vec<Load> {
        if let Some(jobs) = self.submit_only {
            return vec![Load { jobs, batch: 1, callers: 1, consumed: false }];
        }
        [(1, self.jobs_by_one, callers.by_one), (100, self.jobs_by_hundred, callers.by_hundred)]
            .map(|(batch, jobs, callers)| Load {
                jobs,
                batch,
                callers: self.callers.unwrap_or(callers),
                consumed: true,
            })
            .into()
    }
}

/// What a system answers with.
fn answer(system: &str, version: &str, durable: bool, how: &str, rates: Vec<(Load, Measured)>) -> Value {
    let rates: Vec<_> = rates
        .into_iter()
        .map(|(load, measured)| {
            let Measured { jobs_per_s, processor_us } = measured;
            json!({
                "batch": load.batch, "callers": load.callers, "jobs_per_s": jobs_per_s, "processor_us": processor_us,
            })
        })
        .collect();
    json!({ "system": system, "version": version, "durable": durable, "how": how, "rates": rates })
}
