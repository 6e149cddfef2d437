//! A market of its own for a measurement: the real binary on a free port with a fresh store.

use std::{path::Path, process::Stdio};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// A running market. Dropping it ends the process.
pub struct Market {
    /// Its address, such as `http://127.0.0.1:40123`.
    pub address: String,
    process: Child,
    folder: tempfile::TempDir,
}

impl Market {
    /// Starts `plexus up` and waits until it listens.
    pub async fn start(plexus: &Path, arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut process = Command::new(plexus)
            .args(["up", "--json", "--listen", "127.0.0.1:0", "--faucet"])
            .args(arguments)
            .arg("--data")
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!("failed to start {} (build it: cargo build --release)", plexus.display())
            })?;
        let stdout = process.stdout.take().context("the market has no standard output")?;
        let line = BufReader::new(stdout).lines().next_line().await?.context("the market ended at once")?;
        let ready: serde_json::Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        let address = ready["address"].as_str().context("no address in the ready line")?.to_owned();
        Ok(Self { address, process, folder })
    }

    /// A fresh folder that lives as long as the market.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends the market.
    pub async fn stop(mut self) -> Result<()> {
        self.process.kill().await.context("failed to stop the market")
    }
}
