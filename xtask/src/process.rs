//! Starts other programs: in the repository's root, without what Cargo put into this process's environment, and so that
//! nothing is left running.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{BufRead, BufReader, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The repository's root.
///
/// Taken from the environment at run time, because one compiled xtask may serve several clones that share a target folder.
pub fn root() -> PathBuf {
    if let Some(manifest) = std::env::var_os("CARGO_MANIFEST_DIR")
        && let Some(root) = Path::new(&manifest).parent()
    {
        return root.to_path_buf();
    }
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    here.ancestors().find(|folder| folder.join("xtask/Cargo.toml").exists()).unwrap_or(&here).to_path_buf()
}

/// Where Cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The `plexus` binary of a profile's folder (`debug` or `release`).
pub fn plexus_binary(folder: &str) -> PathBuf {
    target_dir().join(folder).join(format!("plexus{}", std::env::consts::EXE_SUFFIX))
}

/// A program that runs in the repository's root.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    // A Cargo that is started by a program that Cargo started would rebuild every crate that looks at these.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_this_crate = text.starts_with("CARGO_PKG_")
            || matches!(
                &*text,
                "CARGO_MANIFEST_DIR"
                    | "CARGO_MANIFEST_PATH"
                    | "CARGO_BIN_NAME"
                    | "CARGO_CRATE_NAME"
                    | "CARGO_PRIMARY_PACKAGE"
            );
        if of_this_crate {
            command.env_remove(&name);
        }
    }
    command
}

/// The Cargo that runs this.
pub fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// npm, where it is installed.
pub fn npm() -> Option<Command> {
    // A batch file on Windows, which only its full name starts.
    on_path(if cfg!(windows) { "npm.cmd" } else { "npm" }).map(|path| {
        let mut npm = command(path);
        npm.env("npm_config_update_notifier", "false");
        npm
    })
}

/// Full path of a program on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let name = if cfg!(windows) && !name.contains('.') { format!("{name}.exe") } else { name.to_owned() };
    std::env::split_paths(&path).map(|folder| folder.join(&name)).find(|file| file.is_file())
}

/// Runs to the end, with this process's terminal.
pub fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to start {what}"))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// Runs to the end and returns what it printed to standard output.
pub fn output(command: &mut Command, what: &str) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("failed to start {what}"))?;
    if !output.status.success() {
        bail!("{what} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{what} printed something that is not UTF-8"))
}

/// Runs to the end, shows what it prints, and returns that too.
pub fn run_and_keep(command: &mut Command, what: &str) -> Result<(ExitStatus, String)> {
    if std::io::stdout().is_terminal() {
        // Programs that ask whether they write to a terminal see a pipe.
        command.env("CARGO_TERM_COLOR", "always").env("FORCE_COLOR", "1");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {what}"))?;
    let kept = Arc::new(Mutex::new(String::new()));
    let out = child.stdout.take().map(|pipe| show(pipe, kept.clone(), false));
    let err = child.stderr.take().map(|pipe| show(pipe, kept.clone(), true));
    let status = child.wait().with_context(|| format!("failed to wait for {what}"))?;
    for reader in [out, err].into_iter().flatten() {
        let _ = reader.join();
    }
    let text = kept.lock().map(|kept| kept.clone()).unwrap_or_default();
    Ok((status, text))
}

fn show(
    pipe: impl Read + Send + 'static,
    kept: Arc<Mutex<String>>,
    to_stderr: bool,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            // A closed terminal must not end the task.
            let _ = if to_stderr {
                std::io::stderr().write_all(&line)
            } else {
                std::io::stdout().write_all(&line)
            };
            if let Ok(mut kept) = kept.lock() {
                kept.push_str(&String::from_utf8_lossy(&line));
            }
            line.clear();
        }
    })
}

/// Becomes true on Ctrl-C, SIGTERM or SIGHUP, which then no longer end the process by themselves.
pub fn interrupted() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    ctrlc::set_handler(move || set.store(true, Ordering::SeqCst)).context("failed to listen for Ctrl-C")?;
    Ok(flag)
}

/// A program that runs beside this one, writes into a log file, and is stopped when this value is dropped.
pub struct Background {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts it. It gets a process group of its own, so that Ctrl-C reaches it only through [`Background::stop`], in
    /// order, and a standard input that closes when this process ends, whatever ended it.
    pub fn start(name: &'static str, command: &mut Command, log: PathBuf) -> Result<Background> {
        let out = File::create(&log).with_context(|| format!("failed to create {}", log.display()))?;
        let err = out.try_clone().context("failed to share the log file")?;
        command.stdin(Stdio::piped()).stdout(out).stderr(err);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(command, 0);
        let child = command.spawn().with_context(|| format!("failed to start the {name}"))?;
        Ok(Background { name, child, log })
    }

    /// An error that shows the end of the log when the program has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("failed to ask for a child's state")? {
            None => Ok(()),
            Some(status) => {
                bail!(
                    "the {} ended ({status}); the end of {}:\n{}",
                    self.name,
                    self.log.display(),
                    self.log_end()
                )
            }
        }
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Asks it to end, and ends it when it doesn't within five seconds.
    pub fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        drop(self.child.stdin.take());
        if cfg!(unix) {
            // It alone: what it started ends by its hand, or by force when it has ended.
            signal("TERM", &self.child.id().to_string());
            let group = format!("-{}", self.child.id());
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_secs(5) {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    signal("KILL", &group);
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
            signal("KILL", &group);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Signals a process, or with a minus in front its group. The shell's own `kill` is on every Unix; the system call would need unsafe code.
fn signal(name: &str, process: &str) {
    let _ = Command::new("sh")
        .args(["-c", &format!("kill -{name} {process}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// A duration as people say it.
pub fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        let whole = duration.as_secs();
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spoken_in_seconds_then_minutes() {
        assert_eq!(spoken(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(spoken(Duration::from_secs(61)), "1 min 01 s");
    }

    #[cfg(unix)]
    #[test]
    fn a_background_program_and_what_it_started_end_with_it() {
        let folder = std::env::temp_dir().join(format!("plexus-xtask-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let log = folder.join("log");
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 600 & echo $!; wait"]);
        let mut background = Background::start("shell", &mut shell, log.clone()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let inner = loop {
            let text = std::fs::read_to_string(&log).unwrap();
            if let Some(pid) = text.strip_suffix('\n') {
                break pid.to_owned();
            }
            assert!(Instant::now() < deadline, "the shell printed no process id");
            thread::yield_now();
        };
        background.stop();
        // The orphan is reaped by init; until then it is a zombie, which `kill -0` still finds.
        let alive = || {
            std::fs::read_to_string(format!("/proc/{inner}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
        };
        while alive() {
            assert!(Instant::now() < deadline, "the inner process is still running");
            thread::yield_now();
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
