//! A market of its own for a measurement: the real binary on a free port with a fresh store.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// Of the times in /proc, on every Linux there is.
const TICKS_PER_S: f64 = 100.0;

/// A running market. Dropping it ends the process.
pub struct Market {
    /// Its address, such as `http://127.0.0.1:40123`.
    pub address: String,
    process: Child,
    /// Removed with the market, where it is the market's own.
    folder: Folder,
}

enum Folder {
    Own(tempfile::TempDir),
    Given(PathBuf),
}

impl Market {
    /// Starts `plexus up` in a fresh folder and waits until it listens.
    pub async fn start(plexus: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_with(plexus, arguments, Folder::Own(tempfile::tempdir()?)).await
    }

    /// Starts `plexus up` in this folder and waits until it listens.
    pub async fn start_in(plexus: &Path, arguments: &[&str], folder: &Path) -> Result<Self> {
        Self::start_with(plexus, arguments, Folder::Given(folder.to_owned())).await
    }

    async fn start_with(plexus: &Path, arguments: &[&str], folder: Folder) -> Result<Self> {
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

    /// What the process has in memory, in bytes: its resident set.
    pub fn resident_bytes(&self) -> Result<u64> {
        let id = self.process.id().context("the market has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).context("needs Linux")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().next().context("no number")?.parse()?;
        Ok(kib * 1024)
    }

    /// Processor time that the market and this process have taken so far, in seconds.
    pub fn processor_s(&self) -> Result<f64> {
        let id = self.process.id().context("the market has ended")?;
        let ticks = |process: &str| -> Result<u64> {
            let text = std::fs::read_to_string(format!("/proc/{process}/stat")).context("needs Linux")?;
            // After the name, which may have spaces: state, parent, and from the twelfth on the times.
            let (_, fields) = text.rsplit_once(')').context("no name")?;
            let fields: Vec<&str> = fields.split_whitespace().collect();
            Ok(fields.get(11..13).context("no times")?.iter().map(|n| n.parse::<u64>().unwrap_or(0)).sum())
        };
        Ok((ticks(&id.to_string())? + ticks("self")?) as f64 / TICKS_PER_S)
    }

    /// Ends the market at once, as a power cut would.
    pub async fn stop(mut self) -> Result<()> {
        self.process.kill().await.context("failed to stop the market")
    }

    /// Ends the market as an operator does, and waits for it.
    pub async fn end(mut self) -> Result<()> {
        let id = self.process.id().context("the market has ended")?;
        // Without `unsafe`, the shell has to send the signal.
        let script = format!("kill -s TERM {id}");
        Command::new("sh").args(["-c", &script]).status().await?;
        self.process.wait().await?;
        Ok(())
    }
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Own(folder) => folder.path(),
            Self::Given(folder) => folder,
        }
    }
}
