//! `cargo xtask setup`: finds what this machine lacks, names it with the command that gets it, and runs that command
//! where it is allowed to: npm and rustup anywhere, apt-get as root on Debian and Ubuntu.
//!
//! What can be left out is left out by the caller: this module only says what is there. The Rust toolchain itself comes
//! from rustup and `rust-version`; without it nothing here would run.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::process;

/// Node.js versions that Vite and its like run on, as major and minor: from these on, and from the second on every later one.
const NODE_MIN: [(u32, u32); 2] = [(20, 19), (22, 12)];
/// How a person gets Node.js.
pub const NODE_HOW: &str =
    "install Node.js 22.12 or newer (or 20.19 of version 20) from https://nodejs.org or your package manager";

#[derive(clap::Args)]
pub struct Options {
    /// Only say what is missing; exit code 1 when something needed is
    #[arg(long)]
    check: bool,
}

/// What may be needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Thing {
    Rustfmt,
    Clippy,
    Nextest,
    Node,
    NpmPackages,
    Vulkan,
    Chromium,
    Firefox,
    Postgres,
}

/// Everything that `cargo xtask test` uses.
pub const FOR_TEST: &[Thing] = &[
    Thing::Rustfmt,
    Thing::Clippy,
    Thing::Nextest,
    Thing::Node,
    Thing::NpmPackages,
    Thing::Vulkan,
    Thing::Chromium,
    Thing::Firefox,
    Thing::Postgres,
];
/// Everything that `cargo xtask demo` uses.
pub const FOR_DEMO: &[Thing] = &[Thing::Node, Thing::NpmPackages, Thing::Vulkan, Thing::Chromium];

/// Whether a thing is there.
enum State {
    /// With a word on which one.
    Present(String),
    /// With what was looked for.
    Missing(String),
}

impl Thing {
    pub fn name(self) -> &'static str {
        match self {
            Thing::Rustfmt => "rustfmt",
            Thing::Clippy => "clippy",
            Thing::Nextest => "cargo-nextest",
            Thing::Node => "Node.js",
            Thing::NpmPackages => "npm packages",
            Thing::Vulkan => "GPU driver",
            Thing::Chromium => "Chromium",
            Thing::Firefox => "Firefox",
            Thing::Postgres => "PostgreSQL",
        }
    }

    /// What does not work without it; `None` when only a part that may be left out.
    fn needed_for(self) -> Option<&'static str> {
        match self {
            Thing::Rustfmt | Thing::Clippy => Some("the format and lint checks"),
            Thing::Node | Thing::NpmPackages => Some("the web app and the TypeScript tests"),
            Thing::Vulkan => Some("native workers"),
            Thing::Chromium => Some("browser workers and their tests"),
            Thing::Postgres => Some("the tests of journals on a server"),
            // `cargo test` and Chromium stand in.
            Thing::Nextest | Thing::Firefox => None,
        }
    }

    fn look(self) -> State {
        match self {
            Thing::Rustfmt => component("fmt"),
            Thing::Clippy => component("clippy"),
            Thing::Nextest => component("nextest"),
            Thing::Node => look_for_node(),
            Thing::NpmPackages => look_for_npm_packages(&process::root()),
            Thing::Vulkan => look_for_gpu_driver(),
            Thing::Chromium => {
                present_or(chromium(), "no chromium-headless-shell, chromium or google-chrome")
            }
            Thing::Firefox => present_or(firefox(), "no firefox-esr or firefox"),
            Thing::Postgres => present_or(
                postgres(),
                "no folder with initdb, pg_ctl and postgres, on PATH or in /usr/lib/postgresql",
            ),
        }
    }

    /// The command that gets it.
    fn how(self) -> &'static str {
        match self {
            Thing::Rustfmt => "rustup component add rustfmt",
            Thing::Clippy => "rustup component add clippy",
            Thing::Nextest => "cargo install cargo-nextest --locked",
            Thing::Node => NODE_HOW,
            Thing::NpmPackages => "npm ci",
            Thing::Vulkan => {
                "the GPU vendor's driver, or a software one: apt-get install mesa-vulkan-drivers libvulkan1"
            }
            Thing::Chromium => {
                "apt-get install chromium-headless-shell (or chromium), or set PLEXUS_CHROMIUM to the path of a Chrome"
            }
            Thing::Firefox => "apt-get install firefox-esr, or set PLEXUS_FIREFOX",
            Thing::Postgres => {
                "apt-get install postgresql, or set PLEXUS_POSTGRES to the folder with initdb and pg_ctl"
            }
        }
    }

    /// Sets of Debian packages, the first that installs is enough.
    fn debian_packages(self) -> &'static [&'static [&'static str]] {
        match self {
            Thing::Vulkan => &[&["mesa-vulkan-drivers", "libvulkan1"]],
            // Ubuntu's chromium-browser needs snap; where that doesn't run, the check afterwards says so.
            Thing::Chromium => &[&["chromium-headless-shell"], &["chromium"], &["chromium-browser"]],
            Thing::Firefox => &[&["firefox-esr"]],
            Thing::Postgres => &[&["postgresql"]],
            _ => &[],
        }
    }
}

pub fn setup(options: &Options) -> Result<()> {
    let missing = if options.check {
        let missing = report(FOR_TEST);
        for thing in &missing {
            println!("  {}: {}", thing.name(), thing.how());
        }
        missing
    } else {
        let mut missing = provide(FOR_TEST)?;
        if missing.contains(&Thing::Nextest) {
            // Minutes of compiling, so only when asked for by name.
            println!("installing cargo-nextest from source, this takes some minutes");
            let mut cargo = process::cargo();
            cargo.args(["install", "cargo-nextest", "--locked"]);
            // Beside the workspace's own artifacts it would only be in the way.
            cargo.env_remove("CARGO_TARGET_DIR");
            match process::run(&mut cargo, "cargo install cargo-nextest") {
                Ok(()) => missing.retain(|thing| *thing != Thing::Nextest),
                Err(error) => println!("{error:#}; `cargo xtask test` will use `cargo test` instead"),
            }
        }
        missing
    };
    let needed = needed(&missing);
    if !needed.is_empty() {
        bail!("missing: {}", needed.join(", "));
    }
    Ok(())
}

/// The names of those that nothing stands in for.
pub fn needed(missing: &[Thing]) -> Vec<&'static str> {
    missing.iter().filter(|thing| thing.needed_for().is_some()).map(|thing| thing.name()).collect()
}

/// Finds what is missing, installs what can be installed, says the rest, and returns the rest.
pub fn provide(things: &[Thing]) -> Result<Vec<Thing>> {
    let mut missing = report(things);
    if missing.is_empty() {
        return Ok(missing);
    }
    for thing in missing.clone() {
        let got = match thing {
            Thing::Rustfmt => rustup("rustfmt"),
            Thing::Clippy => rustup("clippy"),
            Thing::NpmPackages if process::npm().is_some() => npm_packages(),
            _ => continue,
        };
        match got {
            Ok(()) => missing.retain(|other| *other != thing),
            Err(error) => println!("  {}: {error:#}", thing.name()),
        }
    }
    let by_apt: Vec<Thing> =
        missing.iter().copied().filter(|thing| !thing.debian_packages().is_empty()).collect();
    if !by_apt.is_empty() && is_root_on_debian() {
        let mut apt = Apt::new()?;
        for thing in by_apt {
            if apt.install(thing) && matches!(thing.look(), State::Present(_)) {
                println!("  {}: installed", thing.name());
                missing.retain(|other| *other != thing);
            }
        }
    }
    for thing in &missing {
        let what = match thing.needed_for() {
            Some(use_) => format!("needed for {use_}"),
            None => "optional".to_owned(),
        };
        println!("  {} is missing ({what}); to get it: {}", thing.name(), thing.how());
    }
    Ok(missing)
}

/// Prints one line a thing and returns the missing ones.
fn report(things: &[Thing]) -> Vec<Thing> {
    let mut missing = Vec::new();
    for &thing in things {
        match thing.look() {
            State::Present(which) => println!("  {:<14} {which}", thing.name()),
            State::Missing(why) => {
                println!("  {:<14} missing: {why}", thing.name());
                missing.push(thing);
            }
        }
    }
    missing
}

/// Installs the npm packages of the lock file, unless they are there already.
pub fn npm_packages() -> Result<()> {
    let root = process::root();
    if matches!(look_for_npm_packages(&root), State::Present(_)) {
        return Ok(());
    }
    let mut npm = process::npm().context(format!("npm is missing; {NODE_HOW}"))?;
    println!("installing the npm packages");
    npm.args(["ci", "--no-audit", "--no-fund"]);
    process::run(&mut npm, "npm ci")
}

/// The Chromium that browser workers and tests use. `tests/browser/browsers.mjs` looks in the same order.
pub fn chromium() -> Option<PathBuf> {
    named_or_on_path(
        "PLEXUS_CHROMIUM",
        &["chromium-headless-shell", "chromium", "google-chrome", "google-chrome-stable", "chromium-browser"],
        &[
            "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
            "/Applications/Chromium.app/Contents/MacOS/Chromium",
            "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
        ],
    )
}

fn firefox() -> Option<PathBuf> {
    named_or_on_path(
        "PLEXUS_FIREFOX",
        &["firefox-esr", "firefox"],
        &[
            "/Applications/Firefox.app/Contents/MacOS/firefox",
            "C:\\Program Files\\Mozilla Firefox\\firefox.exe",
        ],
    )
}

/// The folder with PostgreSQL's programs. The tests look in the same order (`store::testing`).
fn postgres() -> Option<PathBuf> {
    let whole = |folder: &PathBuf| ["initdb", "pg_ctl", "postgres"].iter().all(|p| folder.join(p).is_file());
    if let Some(named) = std::env::var_os("PLEXUS_POSTGRES").map(PathBuf::from) {
        return Some(named).filter(whole);
    }
    let on_path = process::on_path("postgres")
        .and_then(|program| program.canonicalize().ok()?.parent().map(Path::to_owned));
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    on_path.into_iter().chain(installed.map(|version| version.path().join("bin"))).find(whole)
}

fn named_or_on_path(variable: &str, names: &[&str], places: &[&str]) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(variable).map(PathBuf::from) {
        return named.is_file().then_some(named);
    }
    names
        .iter()
        .find_map(|name| process::on_path(name))
        .or_else(|| places.iter().map(PathBuf::from).find(|place| place.is_file()))
}

/// Points Vulkan at Mesa's software driver where there is no GPU and nobody chose a driver: the loader would otherwise
/// try every hardware driver that is installed.
pub fn choose_vulkan_driver(command: &mut Command) {
    let chosen = ["VK_ICD_FILENAMES", "VK_DRIVER_FILES"].iter().any(|name| std::env::var_os(name).is_some());
    let gpu = Path::new("/dev/dri").exists() || Path::new("/dev/nvidiactl").exists();
    if chosen || gpu {
        return;
    }
    if let Some(lavapipe) = vulkan_drivers()
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lvp_icd")))
    {
        command.env("VK_ICD_FILENAMES", lavapipe);
    }
}

/// The driver descriptions that the Vulkan loader finds by itself.
fn vulkan_drivers() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"]
            .iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
    found.sort();
    found
}

fn look_for_gpu_driver() -> State {
    if cfg!(target_os = "macos") {
        return State::Present("Metal".into());
    }
    if cfg!(windows) {
        return State::Present("Direct3D 12".into());
    }
    let chosen = std::env::var("VK_ICD_FILENAMES").or_else(|_| std::env::var("VK_DRIVER_FILES")).ok();
    let drivers = match &chosen {
        Some(list) => std::env::split_paths(list).filter(|path| path.is_file()).collect(),
        None => vulkan_drivers(),
    };
    if drivers.is_empty() {
        return State::Missing(match chosen {
            Some(list) => format!("no Vulkan driver at {list}"),
            None => "no Vulkan driver in /usr/share/vulkan/icd.d".into(),
        });
    }
    if !library_exists("libvulkan.so.1") {
        return State::Missing("no libvulkan.so.1 (the Vulkan loader)".into());
    }
    let names: Vec<_> =
        drivers.iter().filter_map(|path| path.file_stem()).map(|name| name.to_string_lossy()).collect();
    State::Present(format!("Vulkan: {}", names.join(", ")))
}

fn library_exists(name: &str) -> bool {
    let mut folders: Vec<PathBuf> =
        ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib"].iter().map(PathBuf::from).collect();
    for folder in ["/usr/lib", "/lib"] {
        // Debian keeps libraries in a folder per architecture.
        folders.push(Path::new(folder).join(format!("{}-linux-gnu", std::env::consts::ARCH)));
    }
    if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    folders.iter().any(|folder| folder.join(name).exists())
}

fn component(name: &str) -> State {
    let mut cargo = process::cargo();
    cargo.args([name, "--version"]);
    match process::output(&mut cargo, name) {
        Ok(version) => State::Present(version.lines().next().unwrap_or_default().to_owned()),
        Err(_) => State::Missing(format!("no `cargo {name}`")),
    }
}

fn rustup(component: &str) -> Result<()> {
    let rustup = process::on_path("rustup").context("rustup is not on PATH")?;
    process::run(process::command(rustup).args(["component", "add", component]), "rustup")
}

fn look_for_node() -> State {
    let Some(node) = process::on_path("node") else { return State::Missing("no `node`".into()) };
    let Ok(version) = process::output(process::command(node).arg("--version"), "node --version") else {
        return State::Missing("`node --version` fails".into());
    };
    let version = version.trim().to_owned();
    match node_version(&version) {
        Some(found) if !node_will_do(found) => State::Missing(format!("{version} is too old")),
        Some(_) if process::npm().is_none() => State::Missing("no `npm`".into()),
        Some(_) => State::Present(version),
        None => State::Missing(format!("cannot read the version {version}")),
    }
}

/// Major and minor.
fn node_version(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim().strip_prefix('v')?.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn node_will_do((major, minor): (u32, u32)) -> bool {
    let [(old, old_minor), newer] = NODE_MIN;
    (major == old && minor >= old_minor) || (major, minor) >= newer
}

fn look_for_npm_packages(root: &Path) -> State {
    let read = |path: &str| {
        let text = std::fs::read_to_string(root.join(path)).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()
    };
    let Some(wanted) = read("package-lock.json") else {
        return State::Missing("no package-lock.json".into());
    };
    // npm keeps a list of what it installed in the form of the lock file.
    let Some(installed) = read("node_modules/.package-lock.json") else {
        return State::Missing("not installed".into());
    };
    match npm_difference(&wanted, &installed) {
        None => State::Present("as in package-lock.json".into()),
        Some(package) => State::Missing(format!("{package} is not as in package-lock.json")),
    }
}

/// The first package of a lock file that is not installed in that version.
fn npm_difference(wanted: &serde_json::Value, installed: &serde_json::Value) -> Option<String> {
    let wanted = wanted["packages"].as_object()?;
    wanted
        .iter()
        .filter(|(path, package)| path.contains("node_modules/") && package["link"] != true)
        .find(|(path, package)| {
            let found = &installed["packages"][path.as_str()];
            // Packages for other operating systems are optional and absent.
            let absent = found.is_null() && package["optional"] == true;
            !absent && found["version"] != package["version"]
        })
        .map(|(path, _)| path.clone())
}

fn present_or(path: Option<PathBuf>, why: &str) -> State {
    match path {
        Some(path) => State::Present(path.display().to_string()),
        None => State::Missing(why.into()),
    }
}

fn is_root_on_debian() -> bool {
    let debian = std::fs::read_to_string("/etc/os-release").is_ok_and(|text| is_debian(&text));
    let root =
        || process::output(Command::new("id").arg("-u"), "id").is_ok_and(|printed| printed.trim() == "0");
    debian && process::on_path("apt-get").is_some() && root()
}

fn is_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .any(|id| id == "debian" || id == "ubuntu")
}

/// apt-get with its long output in a file.
struct Apt {
    log: PathBuf,
    updated: bool,
}

impl Apt {
    fn new() -> Result<Apt> {
        let folder = process::target_dir();
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let log = folder.join("setup.log");
        File::create(&log).with_context(|| format!("failed to create {}", log.display()))?;
        Ok(Apt { log, updated: false })
    }

    /// Whether one of the thing's sets of packages was installed.
    fn install(&mut self, thing: Thing) -> bool {
        if !self.updated {
            println!("  running apt-get update; its output is in {}", self.log.display());
            // An error here may be one source of many; what matters is whether the packages install.
            self.run(&["update"]);
            self.updated = true;
        }
        for packages in thing.debian_packages() {
            let started = Instant::now();
            println!("  installing {}", packages.join(" "));
            let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
            arguments.extend(*packages);
            if self.run(&arguments) {
                println!("  installed in {}", process::spoken(started.elapsed()));
                return true;
            }
        }
        println!("  {} could not be installed, see {}", thing.name(), self.log.display());
        false
    }

    fn run(&self, arguments: &[&str]) -> bool {
        let Ok(mut log) = OpenOptions::new().append(true).open(&self.log) else { return false };
        let _ = writeln!(log, "$ apt-get {}", arguments.join(" "));
        let Ok(errors) = log.try_clone() else { return false };
        Command::new("apt-get")
            .args(["-o", "DPkg::Lock::Timeout=120"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .status()
            .is_ok_and(|status| status.success())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_children_are_recognised() {
        assert!(is_debian("NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(is_debian("ID=ubuntu\nID_LIKE=debian\n"));
        assert!(is_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian("ID=fedora\nVARIANT_ID=debian\n"));
    }

    #[test]
    fn a_node_that_vite_does_not_run_on_is_too_old() {
        assert_eq!(node_version("v20.20.2\n"), Some((20, 20)));
        assert_eq!(node_version("20"), None);
        for (version, does) in [
            ((18, 20), false),
            ((20, 18), false),
            ((20, 19), true),
            ((21, 7), false),
            ((22, 11), false),
            ((22, 12), true),
            ((24, 0), true),
        ] {
            assert_eq!(node_will_do(version), does, "{version:?}");
        }
    }

    #[test]
    fn npm_packages_are_compared_with_the_lock_file() {
        let lock = serde_json::json!({ "packages": {
            "": { "name": "root" },
            "node_modules/app": { "resolved": "web", "link": true },
            "node_modules/a": { "version": "1.0.0" },
            "node_modules/for-another-system": { "version": "2.0.0", "optional": true },
        }});
        let check = |installed: serde_json::Value, expected: Option<&str>| {
            assert_eq!(
                npm_difference(&lock, &serde_json::json!({ "packages": installed })).as_deref(),
                expected
            );
        };
        check(serde_json::json!({ "node_modules/a": { "version": "1.0.0" } }), None);
        check(serde_json::json!({ "node_modules/a": { "version": "1.0.1" } }), Some("node_modules/a"));
        check(serde_json::json!({}), Some("node_modules/a"));
    }
}
