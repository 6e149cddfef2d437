//! What the market's process keeps in memory for a waiting unit and for a provider.

use std::path::Path;

use anyhow::Result;
use client::Client;
use protocol::SecretKey;

use crate::{load, market::Market, report::Report};

/// Jobs, and the units of each.
const JOBS: u64 = 1_000;
const JOB_UNITS: u64 = 1_000;
const PROVIDERS: u64 = 5_000;

/// Measures the growth of the resident set with jobs that wait, then with providers that came.
pub async fn measure(report: &mut Report, plexus: &Path) -> Result<()> {
    // No provider is taken for gone while the others come.
    let market = Market::start(plexus, &["--no-verifier", "--heartbeat-ms-max", "3600000"]).await?;
    let owner = Client::new(&market.address, SecretKey::from_seed([200; 32]))?;
    let request = load::prepare(&owner, JOB_UNITS, 1).await?;
    // What the first of anything brings along is not what the others cost.
    owner.submit(&request).await?;
    let empty = market.resident_bytes()?;
    for _ in 0..JOBS {
        owner.submit(&request).await?;
    }
    let with_jobs = market.resident_bytes()?;
    let per_job = with_jobs.saturating_sub(empty) as f64 / JOBS as f64;
    report.add(format!("memory of a waiting job of {JOB_UNITS} units"), per_job, "bytes", None);
    report.add("memory of a waiting unit", per_job / JOB_UNITS as f64, "bytes", None);
    // Each with its login, and its part of the lists; with the connection closed again.
    for number in 0..PROVIDERS {
        let provider = Client::new(&market.address, load::worker_key(number))?;
        provider.announce(&load::announcement()).await?;
    }
    let with_providers = market.resident_bytes()?;
    let per_provider = with_providers.saturating_sub(with_jobs) as f64 / PROVIDERS as f64;
    report.add("memory of a provider", per_provider, "bytes", None);
    market.stop().await
}
