//! End-to-end tests, across processes and browsers.
//!
//! This library starts the real `plexus` binary: a [`Market`] on a free port with a folder of its own, [`Worker`]s whose status
//! can be waited for, and commands that run to their end. Nothing sleeps for luck: [`until`] waits for a condition and says what
//! it waited for when its patience ends. What a test starts ends with it.
//!
//! The binary is the one beside the test's own, as `cargo build` and `cargo nextest run --workspace` make it, or `PLEXUS_BIN`.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use client::Client;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long anything is waited for. Far more than it takes: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits for `condition` and returns what it found.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The `plexus` binary.
pub fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("PLEXUS_BIN") {
        return binary.into();
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/<profile>/deps/<test>
    let folder = test.ancestors().nth(2).expect("a test lies in target/<profile>/deps");
    let binary = folder.join(format!("plexus{}", std::env::consts::EXE_SUFFIX));
    assert!(binary.exists(), "{} is not there: run `cargo build -p plexus` first", binary.display());
    binary
}

/// A folder that is the home of everything a test starts.
pub struct Home(TempDir);

impl Default for Home {
    fn default() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }
}

impl Home {
    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A `plexus` command with this home and nothing of the user's.
    pub fn plexus(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        for name in ["PLEXUS_MARKET", "PLEXUS_WALLET", "PLEXUS_ADAPTER", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"]
        {
            command.env_remove(name);
        }
        command.env("HOME", self.path()).env("NO_COLOR", "1");
        // A software device is everywhere the same; some machines have a GPU that tests should not be at the mercy of.
        let software = Path::new("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json");
        if std::env::var_os("VK_ICD_FILENAMES").is_none() && software.exists() {
            command.env("VK_ICD_FILENAMES", software);
        }
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.plexus(arguments).output().expect("the binary starts")
    }

    /// Runs a command that must succeed and returns the JSON that it prints.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "plexus {arguments:?}: {}\n{out}\n{err}", output.status);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("plexus {arguments:?}: {error}\n{out}"))
    }

    /// Writes files to a folder of this home and returns the path of the first.
    pub fn files(&self, folder: &str, files: &[(&str, &str)]) -> String {
        let folder = self.path().join(folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        for (name, text) in files {
            std::fs::write(folder.join(name), text).expect("a file");
        }
        folder.join(files[0].0).display().to_string()
    }
}

/// A process that ends with its handle.
struct Process(Child);

impl Process {
    fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name} {id}");
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running market.
pub struct Market {
    process: Process,
    arguments: Vec<String>,
    client: Client,
    runtime: Runtime,
    /// Its address, such as `http://127.0.0.1:40123`. It stays the same over restarts.
    pub address: String,
}

impl Market {
    /// Starts `plexus up` with these arguments beside its own, and waits until it listens.
    pub fn start(home: &Home, arguments: &[&str]) -> Self {
        Self::start_in(home, "market", arguments)
    }

    /// The same with its data in this folder of the home.
    pub fn start_in(home: &Home, folder: &str, arguments: &[&str]) -> Self {
        let data = home.path().join(folder).display().to_string();
        let mut all: Vec<String> = ["up", "--json", "--data", &data].map(str::to_owned).into();
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let (process, address) = Self::launch(home, &all, "127.0.0.1:0");
        let client = Client::anonymous(&address).expect("an address");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { process, arguments: all, client, runtime, address }
    }

    fn launch(home: &Home, arguments: &[String], listen: &str) -> (Process, String) {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = home.plexus(&arguments);
        command.args(["--listen", listen]).stdout(Stdio::piped());
        let mut process = Process(command.spawn().expect("the binary starts"));
        let stdout = process.0.stdout.take().expect("its output is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("its output can be read");
        let ready: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("the market said {line:?}: {error}"));
        let address = ready["address"].as_str().expect("the ready line has the address").to_owned();
        (process, address)
    }

    /// Ends it without warning, as a power cut would.
    pub fn crash(&mut self) {
        self.process.kill();
    }

    /// Stops it as if its machine had: it answers nothing, and keeps what it holds.
    pub fn pause(&self) {
        self.process.signal("STOP");
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub fn unpause(&self) {
        self.process.signal("CONT");
    }

    /// Whether it ended by itself.
    pub fn ended(&mut self) -> bool {
        self.process.0.try_wait().expect("it can be waited for").is_some()
    }

    /// Starts it again after [`crash`](Self::crash), with the same folder and address.
    pub fn restart(&mut self, home: &Home) {
        let listen = self.address.trim_start_matches("http://").to_owned();
        let (process, address) = Self::launch(home, &self.arguments, &listen);
        assert_eq!(address, self.address);
        self.process = process;
    }

    /// A job as the API shows it.
    pub fn job(&self, id: &str) -> Value {
        let id = id.parse().expect("a job's id");
        let job = self.runtime.block_on(self.client.job(id)).expect("the job");
        serde_json::to_value(job).expect("answers serialise")
    }

    /// The first page of workers.
    pub fn workers(&self) -> Value {
        let workers = self.runtime.block_on(self.client.workers(None)).expect("the workers");
        serde_json::to_value(workers.items).expect("answers serialise")
    }

    /// The ledger.
    pub fn ledger(&self) -> Value {
        let ledger = self.runtime.block_on(self.client.ledger()).expect("the ledger");
        serde_json::to_value(ledger).expect("answers serialise")
    }

    /// Waits until the job ends and returns it.
    pub fn ended_job(&self, id: &str) -> Value {
        until(&format!("{id} to end"), || {
            let job = self.job(id);
            matches!(job["state"].as_str(), Some("done" | "cancelled" | "incomplete")).then_some(job)
        })
    }
}

/// A running native worker.
pub struct Worker {
    process: Process,
    said: Arc<Said>,
}

#[derive(Default)]
struct Said {
    statuses: Mutex<Vec<Value>>,
    changed: Condvar,
}

impl Worker {
    /// Starts `plexus worker` with the key in `wallet`, a file that is made where there is none.
    pub fn start(home: &Home, market: &Market, wallet: &str) -> Self {
        let mut command = home.plexus(&["worker", "--json", "--market", &market.address, "--wallet", wallet]);
        let mut process = Process(command.stdout(Stdio::piped()).spawn().expect("the binary starts"));
        let stdout = process.0.stdout.take().expect("its output is piped");
        let said = Arc::new(Said::default());
        let listener = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let status: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
                listener.statuses.lock().unwrap_or_else(PoisonError::into_inner).push(status);
                listener.changed.notify_all();
            }
        });
        Self { process, said }
    }

    /// Waits for a status that it printed, now or before.
    pub fn status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        let mut statuses = self.said.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = statuses.iter().find(|status| condition(status)) {
                return found.clone();
            }
            let left = PATIENCE.checked_sub(start.elapsed());
            let left =
                left.unwrap_or_else(|| panic!("waited {PATIENCE:?} for {what}; last: {:?}", statuses.last()));
            let waited = self.said.changed.wait_timeout(statuses, left);
            statuses = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the market knows it.
    pub fn ready(&self) {
        self.status("the worker to be announced", |status| {
            matches!(status["state"].as_str(), Some("idle" | "busy"))
        });
    }

    /// Asks it to finish what runs and leave.
    pub fn terminate(&self) {
        self.process.signal("TERM");
    }

    /// Waits for its end and returns its exit code.
    pub fn exit_code(&mut self) -> Option<i32> {
        until("the worker to end", || self.process.0.try_wait().expect("it can be waited for")).code()
    }
}

/// The decimal number in a string of a JSON answer.
pub fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is not a number"))
}
