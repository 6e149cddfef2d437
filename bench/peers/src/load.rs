//! What every system is given to do, and when it is done.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::{
    sync::{Barrier, Notify},
    task::JoinSet,
};

use crate::server::Server;

/// Bytes of a job.
pub const JOB_BYTES: usize = 200;
/// A measurement that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// One measurement.
#[derive(Clone, Copy)]
pub struct Load {
    /// Jobs in all.
    pub jobs: u64,
    /// Jobs submitted, taken and settled together.
    pub batch: u64,
    /// Producers, and as many consumers.
    pub callers: usize,
    /// Whether anybody takes them.
    pub consumed: bool,
}

/// What is still to be submitted, and what was settled. Clones count together.
#[derive(Clone)]
pub struct Tally {
    load: Load,
    counts: Arc<Counts>,
}

struct Counts {
    submitted: AtomicU64,
    settled: AtomicU64,
    done: Notify,
}

impl Tally {
    pub fn new(load: Load) -> Self {
        let counts = Counts { submitted: 0.into(), settled: 0.into(), done: Notify::new() };
        Self { load, counts: Arc::new(counts) }
    }

    /// How many jobs to submit next; nothing when all are.
    pub fn next(&self) -> Option<u64> {
        let before = self.counts.submitted.fetch_add(self.load.batch, Ordering::Relaxed);
        let left = self.load.jobs.saturating_sub(before).min(self.load.batch);
        (left > 0).then_some(left)
    }

    /// That many jobs were settled.
    pub fn settle(&self, jobs: u64) {
        let before = self.counts.settled.fetch_add(jobs, Ordering::SeqCst);
        if before + jobs >= self.load.jobs {
            self.counts.done.notify_waiters();
        }
    }

    /// Whether these jobs, not settled yet, are the last.
    pub fn would_end(&self, jobs: u64) -> bool {
        self.counts.settled.load(Ordering::SeqCst) + jobs >= self.load.jobs
    }
}

/// The bytes of a job.
pub fn job() -> String {
    format!("{{\"spec\":\"{}\"}}", "x".repeat(JOB_BYTES - 11))
}

/// What a measurement says.
#[derive(Clone, Copy)]
pub struct Measured {
    /// From the first submission to the last settlement.
    pub jobs_per_s: f64,
    /// Processor time of client and server a job: what is left to compare by on a machine that does other things too.
    pub processor_us: f64,
}

/// Runs producers and consumers.
pub async fn run(
    server: &Server,
    tally: &Tally,
    mut producers: JoinSet<Result<()>>,
    mut consumers: JoinSet<Result<()>>,
    begin: &Barrier,
) -> Result<Measured> {
    let done = tally.counts.done.notified();
    tokio::pin!(done);
    done.as_mut().enable();
    begin.wait().await;
    let (started, before_s) = (Instant::now(), server.processor_s()?);
    let finished = async {
        while let Some(ended) = producers.join_next().await {
            ended??;
        }
        if !tally.load.consumed {
            return Ok(());
        }
        loop {
            tokio::select! {
                () = &mut done => return Ok(()),
                Some(ended) = consumers.join_next() => ended??,
                else => bail!("the consumers ended before the jobs"),
            }
        }
    };
    match tokio::time::timeout(PATIENCE, finished).await {
        Ok(finished) => finished?,
        Err(_) => bail!(
            "no end after {PATIENCE:?}: {} of {} jobs settled",
            tally.counts.settled.load(Ordering::SeqCst),
            tally.load.jobs
        ),
    }
    let (jobs, seconds) = (tally.load.jobs as f64, started.elapsed().as_secs_f64());
    let processor_us = (server.processor_s()? - before_s) * 1e6 / jobs;
    Ok(Measured { jobs_per_s: jobs / seconds, processor_us })
}
