//! A PostgreSQL server of their own for tests: started on first use, listening on a socket in a temporary folder, and gone when
//! the test process is, however it ends. Nothing here is for production.
//!
//! `initdb` takes a second, and each process that asks pays it once; each test takes a database of its own.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, AtomicU32, Ordering},
    },
};

use crate::{
    Location, StoreError,
    server::{LONG_CALL_MAX, Server},
};

/// What to do where there is no server to start.
const HOW: &str = "install PostgreSQL (on Debian and Ubuntu: apt-get install postgresql), or set PLEXUS_POSTGRES to the folder with \
                   initdb and pg_ctl";

/// A running server.
pub struct PostgresServer {
    programs: PathBuf,
    folder: PathBuf,
    /// Whom it runs as; itself where absent.
    user: Option<(u32, u32)>,
    databases: AtomicU32,
    /// Part of its socket's name, and where it listens once it does.
    port: AtomicU16,
    /// Waits for the end of this process, or of this value, and then ends the server.
    warden: Child,
}

/// The URL of a new, empty database on the server that this process's tests share.
pub fn database() -> String {
    static SHARED: LazyLock<PostgresServer> = LazyLock::new(PostgresServer::start);
    SHARED.database()
}

/// Runs SQL, as somebody else who has the database open.
pub fn execute(url: &str, sql: &str) {
    let run = || -> Result<(), StoreError> {
        let Location::Server(url) = Location::parse(url)? else { panic!("{url} is no URL of a database") };
        Server::connect(&url)?.repeat(LONG_CALL_MAX, async |session| session.client.batch_execute(sql).await)
    };
    if let Err(error) = run() {
        panic!("{sql}: {error:?}");
    }
}

impl PostgresServer {
    /// Starts a server. Panics, and says what to do, where there is none.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with settings beside its own, each `name=value`.
    pub fn start_with(settings: &[&str]) -> Self {
        let programs = programs().unwrap_or_else(|| panic!("no PostgreSQL server was found: {HOW}"));
        let folder = tempfile::Builder::new()
            .prefix("plexus-postgres-")
            .tempdir()
            .expect("a temporary folder can be made")
            // The warden removes it.
            .keep();
        // PostgreSQL refuses to run as root.
        let user = (fs::metadata(&folder).expect("it was just made").uid() == 0).then(unprivileged_user);
        if let Some((user, group)) = user {
            std::os::unix::fs::chown(&folder, Some(user), Some(group)).expect("root may give a folder away");
        }
        let script = r#"read _; "$0/pg_ctl" -D "$1/data" -m immediate stop; cd /; rm -rf "$1""#;
        let mut warden = as_user(Path::new("sh"), &folder, user);
        warden.args(["-c", script]).arg(&programs).arg(&folder).stdin(Stdio::piped()).stdout(Stdio::null());
        // A group of its own, so that what ends a test's processes does not end it before its work is done.
        let warden = warden.stderr(Stdio::null()).process_group(0).spawn().expect("sh starts");
        let server =
            Self { programs, folder, user, databases: AtomicU32::new(0), port: AtomicU16::new(5432), warden };
        server.run(
            "initdb",
            &["-D", "data", "-U", "plexus", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"],
        );
        // What a killed server wrote survives without syncs; only a power cut would not.
        let mut configuration = format!(
            "listen_addresses=''\nunix_socket_directories='{}'\nfsync=off\nmax_connections=200\n",
            server.folder.display()
        );
        for setting in settings {
            configuration.push_str(setting);
            configuration.push('\n');
        }
        server.configure(&configuration);
        server.resume();
        server
    }

    /// Adds lines to its configuration, for the next start.
    pub fn configure(&self, lines: &str) {
        let path = self.folder.join("data/postgresql.conf");
        let before = fs::read_to_string(&path).expect("initdb wrote it");
        fs::write(&path, before + lines + "\n").expect("the folder is writable");
    }

    /// Writes a file of the server's own, which nobody else may read, into its data.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.folder.join("data").join(name);
        fs::write(&path, content).expect("the folder is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("just written");
        if let Some((user, group)) = self.user {
            std::os::unix::fs::chown(&path, Some(user), Some(group)).expect("root may give a file away");
        }
    }

    /// Starts it anew so that it listens on a port of 127.0.0.1 too, which it returns.
    pub fn listen(&self) -> u16 {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("there is a free port").port();
        self.crash();
        self.configure(&format!("listen_addresses='127.0.0.1'\nport={port}"));
        self.port.store(port, Ordering::Relaxed);
        self.resume();
        port
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(format!(".s.PGSQL.{}", self.port.load(Ordering::Relaxed)))
    }

    /// The URL of a database, there or not.
    pub fn url(&self, database: &str) -> String {
        let port = self.port.load(Ordering::Relaxed);
        format!("postgres:///{database}?host={}&port={port}&user=plexus", self.folder.display())
    }

    /// The URL of a new, empty database.
    pub fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        execute(&self.url("postgres"), &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// Ends the server and every connection at once, as a crash would.
    pub fn crash(&self) {
        self.run("pg_ctl", &["-D", "data", "-m", "immediate", "-w", "stop"]);
    }

    /// Starts it again after a crash, and waits until it answers.
    pub fn resume(&self) {
        self.run("pg_ctl", &["-D", "data", "-l", "log", "-w", "start"]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let done = as_user(&self.programs.join(program), &self.folder, self.user)
            .args(arguments)
            .stdin(Stdio::null())
            // Not pipes: the server inherits them and would keep them open.
            .stdout(fs::File::create(self.folder.join("output")).expect("the folder is writable"))
            .stderr(fs::File::create(self.folder.join("errors")).expect("the folder is writable"))
            .status()
            .unwrap_or_else(|error| panic!("{program} does not start: {error}; {HOW}"));
        if !done.success() {
            let read = |name| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
            panic!("{program} {arguments:?} failed\n{}{}{}", read("output"), read("errors"), read("log"));
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.warden.stdin.take());
        let _ = self.warden.wait();
    }
}

fn as_user(program: &Path, folder: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("LC_ALL", "C").env_remove("PGHOST").env_remove("PGPORT");
    if let Some((user, group)) = user {
        command.uid(user).gid(group);
    }
    command
}

/// The folder with the server's programs.
fn programs() -> Option<PathBuf> {
    let whole = |folder: &PathBuf| ["initdb", "pg_ctl", "postgres"].iter().all(|p| folder.join(p).is_file());
    if let Some(folder) = std::env::var_os("PLEXUS_POSTGRES") {
        return Some(PathBuf::from(folder)).filter(whole);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A link on the path leads to the folder where its siblings are.
    let on_path = std::env::split_paths(&path)
        .filter_map(|folder| fs::canonicalize(folder.join("postgres")).ok()?.parent().map(Path::to_owned));
    let mut installed: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let version = entry.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(0);
            (version, entry.path().join("bin"))
        })
        .collect();
    installed.sort();
    on_path.chain(installed.into_iter().rev().map(|(_, folder)| folder)).find(whole)
}

/// The user and group of `postgres` or, where there is none, of `nobody`.
fn unprivileged_user() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then_some(())?;
            Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
        })
    };
    find("postgres").or_else(|| find("nobody")).expect("a system has a user for programs without rights")
}
