//! A server process of the benchmark's own: free loopback port, data in a temporary folder, stopped at the end.

use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::MetadataExt as _, fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// Servers refuse to run as root, and need not: then they run as the user `nobody`, who has this number everywhere.
const NOBODY: u32 = 65_534;
/// RabbitMQ takes some seconds.
const START_MAX: Duration = Duration::from_secs(60);
/// Of the times in /proc, on every Linux there is.
const TICKS_PER_S: f64 = 100.0;
const STOP_MAX: Duration = Duration::from_secs(20);

/// A system that is not installed, and how to install it.
#[derive(Debug)]
pub struct Absent {
    pub what: &'static str,
    pub install: &'static str,
}

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is not there; {}", self.what, self.install)
    }
}

impl std::error::Error for Absent {}

/// A folder for a server, on the disk that is measured.
pub fn folder(data: &Path) -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("plexus-bench-").tempdir_in(data)?;
    give(folder.path())?;
    Ok(folder)
}

/// Makes a folder the server's own.
pub fn give(folder: &Path) -> Result<()> {
    if is_root() {
        chown(folder, Some(NOBODY), Some(NOBODY))?;
    }
    Ok(())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// The first of these programs that is there. A name without a slash is looked for on the path.
pub fn find(candidates: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    candidates.iter().find_map(|name| {
        if name.contains('/') {
            let file = PathBuf::from(name);
            return file.is_file().then_some(file);
        }
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    })
}

/// A port that was free just now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A command that runs unprivileged, in a process group of its own and in the given folder.
pub fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("HOME", folder).stdin(Stdio::null()).process_group(0);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// The first line that `program` prints with these arguments, such as its version.
pub fn first_line(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = command(program, Path::new("/")).args(arguments).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A running server. Dropping it ends the process and those it started.
pub struct Server {
    process: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it; what it says goes into a file in its folder.
    pub fn start(mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join("server.log");
        let file = fs::File::create(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let process = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        Ok(Self { process, log })
    }

    /// Waits until it accepts connections.
    pub async fn listens(&mut self, port: u16) -> Result<()> {
        let began = Instant::now();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("the server ended ({status}): {}", self.last_words());
            }
            if began.elapsed() > START_MAX {
                bail!("the server does not listen after {START_MAX:?}: {}", self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// What it wrote so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Processor time that this process, and the server with all that it started, have taken so far.
    pub fn processor_s(&self) -> Result<f64> {
        let mut processes = HashMap::new();
        for entry in fs::read_dir("/proc").context("needs Linux")?.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // One that has just ended is in its parent's time.
            let Ok(text) = fs::read_to_string(entry.path().join("stat")) else { continue };
            // After the name, which may have spaces: state, parent, and from the twelfth on the times.
            let Some((_, fields)) = text.rsplit_once(')') else { continue };
            let fields: Vec<&str> = fields.split_whitespace().collect();
            let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
            let parent = number(1) as u32;
            processes.insert(id, (parent, (11..=14).map(number).sum::<u64>()));
        }
        let root = self.process.id();
        let of_server = |mut id: u32| loop {
            match processes.get(&id) {
                _ if id == root => return true,
                Some((parent, _)) if *parent > 1 => id = *parent,
                _ => return false,
            }
        };
        let own = processes.get(&std::process::id()).map_or(0, |(_, ticks)| *ticks);
        let servers: u64 =
            processes.iter().filter(|(id, _)| of_server(**id)).map(|(_, (_, ticks))| ticks).sum();
        Ok((own + servers) as f64 / TICKS_PER_S)
    }

    fn last_words(&self) -> String {
        let text = self.said();
        let lines: Vec<&str> = text.lines().rev().take(12).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn signal(&self, signal: &str) {
        // The whole group: a server may be a script around the real one. Without `unsafe`, the shell has to send it.
        let script = format!("kill -s {signal} -- -{}", self.process.id());
        let _ = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal("TERM");
        let began = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && began.elapsed() < STOP_MAX {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Whoever of the group is left, too.
        self.signal("KILL");
        let _ = self.process.wait();
    }
}
