//! What the market adds to the examples' device time.
//!
//! One native worker runs a job alone. The measure is the share of the time from submission to the last commitment in
//! which its device does not compute. Checks by others are left out: they are work too, but on another device.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use client::Client;
use protocol::JobId;
use tokio::process::Command;

use crate::{market::Market, report::Report};

/// Measures both examples.
pub async fn measure(report: &mut Report, plexus: &Path) -> Result<()> {
    for (name, aim) in [("digits", None), ("render", Some("< 0.1"))] {
        let (wall_s, device_s) = run(plexus, name).await?;
        report.add(format!("{name}: submission to last commitment, one worker"), wall_s, "s", None);
        report.add(format!("{name}: share of it that is not device time"), 1.0 - device_s / wall_s, "", aim);
    }
    Ok(())
}

async fn run(plexus: &Path, name: &str) -> Result<(f64, f64)> {
    let market = Market::start(plexus, &["--no-verifier"]).await?;
    let wallet = |file: &str| market.folder().join(file);
    let plexus_command = |key: &str| {
        let mut command = Command::new(plexus);
        command.env("PLEXUS_WALLET", wallet(key)).env("PLEXUS_MARKET", &market.address).kill_on_drop(true);
        command
    };
    for key in ["client.json", "worker.json"] {
        output(plexus_command(key).args(["wallet", "new", "--json"])).await?;
    }
    output(plexus_command("client.json").args(["wallet", "faucet", "100", "--json"])).await?;
    let mut worker =
        plexus_command("worker.json").arg("worker").stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let client = Client::anonymous(&market.address)?;
    let patience = Instant::now();
    while client.workers(None).await?.items.is_empty() {
        if patience.elapsed() > Duration::from_secs(60) {
            bail!("the worker does not come up: is there a Vulkan driver? (`plexus device` tells)");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let started = Instant::now();
    let file = format!("examples/{name}/job.toml");
    let submitted = output(plexus_command("client.json").args(["submit", &file, "--json"])).await?;
    let submitted: serde_json::Value = serde_json::from_slice(&submitted)?;
    let id: JobId = submitted["id"].as_str().context("no id in the answer of `plexus submit`")?.parse()?;
    let job = loop {
        let job = client.job(id).await?;
        if job.progress.waiting == 0 && job.progress.leased == 0 {
            break job;
        }
        if started.elapsed() > Duration::from_secs(600) {
            bail!("{name} stalls: {:?} {:?}", job.progress, job.reason);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let wall_s = started.elapsed().as_secs_f64();
    let device_us: u64 = job.workers.iter().map(|worker| worker.device_us).sum();
    worker.kill().await?;
    market.stop().await?;
    Ok((wall_s, device_us as f64 / 1e6))
}

/// Runs a command to its end; its standard output.
async fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().await?;
    if !output.status.success() {
        bail!("{:?} failed: {}", command.as_std(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}
