//! `cargo xtask tidy`: rules of the house that review would otherwise have to watch.
//!
//! Arrows between crates point one way, pure crates stay pure, names and headers tell the room, and nothing unfinished or
//! tied to one machine is committed. Known exceptions stand in `xtask/tidy-exceptions.txt`; the list may only shrink: an
//! exception that no longer hides anything is itself a problem.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

const EXCEPTIONS: &str = "xtask/tidy-exceptions.txt";
const FILE_BYTES_MAX: u64 = 2 << 20;

/// Crates of the workspace and which of the others each may depend on. A new arrow is a decision: it starts here.
const ARROWS: &[(&str, &[&str])] = &[
    ("plexus-protocol", &[]),
    // Pure rules.
    ("plexus-program", &["plexus-protocol"]),
    ("plexus-proof", &["plexus-protocol"]),
    ("plexus-seal", &["plexus-protocol"]),
    ("plexus-engine", &["plexus-protocol"]),
    ("plexus-job", &["plexus-protocol", "plexus-program"]),
    ("plexus-api", &["plexus-protocol"]),
    ("plexus-kernels", &["plexus-protocol", "plexus-program"]),
    ("plexus-sim", &["plexus-protocol", "plexus-engine", "plexus-proof"]),
    // Heavy, and a leaf: nothing of the product waits for its build.
    ("plexus-zk", &[]),
    // Shells.
    ("plexus-store", &["plexus-protocol", "plexus-engine", "plexus-api"]),
    ("plexus-gpu", &["plexus-protocol", "plexus-program"]),
    ("plexus-client", &["plexus-protocol", "plexus-api"]),
    ("plexus-telemetry", &[]),
    (
        "plexus-market",
        &[
            "plexus-protocol",
            "plexus-program",
            "plexus-proof",
            "plexus-engine",
            "plexus-job",
            "plexus-api",
            "plexus-store",
        ],
    ),
    (
        "plexus-worker",
        &[
            "plexus-protocol",
            "plexus-program",
            "plexus-seal",
            "plexus-kernels",
            "plexus-gpu",
            "plexus-api",
            "plexus-client",
        ],
    ),
    // What puts them together may use all of them.
    ("plexus", &["*"]),
    ("plexus-tests", &["*"]),
    ("plexus-bench", &["*"]),
    ("xtask", &[]),
];

/// Crates without I/O, clock, randomness, threads of their own or devices.
const PURE: &[&str] = &[
    "plexus-protocol",
    "plexus-program",
    "plexus-proof",
    "plexus-seal",
    "plexus-engine",
    "plexus-job",
    "plexus-api",
    "plexus-kernels",
    "plexus-sim",
    "plexus-zk",
];

/// Dependencies that would make a crate impure, direct ones only.
const IMPURE_DIRECT: &[&str] = &[
    "getrandom",
    "rand",
    "fastrand",
    "chrono",
    "time",
    "tempfile",
    "walkdir",
    "tracing-subscriber",
    "rayon",
];
/// Dependencies that would make a crate impure wherever they hide below it.
const IMPURE_ANYWHERE: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "mio",
    "socket2",
    "hyper",
    "reqwest",
    "axum",
    "wgpu",
    "wgpu-core",
    "ash",
    "rusqlite",
    "libsqlite3-sys",
    "sqlx",
    "object_store",
    "libp2p",
    "solana-client",
];
/// Parts of the standard library that pure crates leave to the shells.
const IMPURE_STD: &[&str] = &[
    "std::net",
    "std::fs",
    "std::process",
    "std::env",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
];

/// Names that tell nothing about what is inside.
const VAGUE_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "manager", "misc"];

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    rule: &'static str,
    /// The crate or file.
    place: String,
    what: String,
}

impl Problem {
    fn new(rule: &'static str, place: impl Into<String>, what: impl Into<String>) -> Problem {
        Problem { rule, place: place.into(), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.rule, self.place, self.what)
    }
}

pub fn tidy() -> Result<()> {
    let root = process::root();
    let mut cargo = process::cargo();
    cargo.args(["metadata", "--format-version", "1", "--all-features"]);
    let metadata = process::output(&mut cargo, "cargo metadata")?;
    let metadata: Value = serde_json::from_str(&metadata).context("failed to parse cargo metadata")?;
    let mut problems = check_crates(&metadata);

    // What is not ignored counts before it is committed, too.
    let mut git = process::command("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = process::output(&mut git, "git ls-files")?;
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        let file = root.join(path);
        // A file may be listed and already deleted.
        let Ok(metadata) = std::fs::symlink_metadata(&file) else { continue };
        if !metadata.is_file() {
            continue;
        }
        problems.extend(check_name(path, metadata.len()));
        if let Ok(text) = std::fs::read_to_string(&file) {
            problems.extend(check_text(path, &text));
        }
    }
    problems.sort();

    let exceptions = std::fs::read_to_string(root.join(EXCEPTIONS)).unwrap_or_default();
    let left = without_exceptions(problems, &exceptions);
    for problem in &left {
        println!("{problem}");
    }
    match left.len() {
        0 => Ok(()),
        1 => bail!("1 rule is broken"),
        count => bail!("{count} rules are broken"),
    }
}

/// Directions and purity, from `cargo metadata`.
fn check_crates(metadata: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    let empty = Vec::new();
    let list = |value: &Value| value.as_array().unwrap_or(&empty).clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();

    let members: BTreeSet<String> = list(&metadata["workspace_members"]).iter().map(text).collect();
    let names: BTreeMap<String, String> = list(&metadata["packages"])
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    // What each package is compiled against; build and development dependencies are not part of it.
    let mut below: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let normal = list(&node["deps"])
            .iter()
            .filter(|dependency| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()))
            .map(|dependency| text(&dependency["pkg"]))
            .collect();
        below.insert(text(&node["id"]), normal);
    }
    let member_names: BTreeSet<&String> = members.iter().filter_map(|id| names.get(id)).collect();

    for package in
        list(&metadata["packages"]).iter().filter(|package| members.contains(&text(&package["id"])))
    {
        let name = text(&package["name"]);
        let declared: BTreeSet<String> = list(&package["dependencies"])
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
            .map(|dependency| text(&dependency["name"]))
            .collect();

        match ARROWS.iter().find(|(known, _)| *known == name) {
            None => problems.push(Problem::new(
                "arrow",
                &name,
                "is not in the list of arrows in xtask/src/tidy.rs",
            )),
            Some((_, allowed)) if allowed.contains(&"*") => {}
            Some((_, allowed)) => {
                for to in declared.iter().filter(|to| member_names.contains(to)) {
                    if !allowed.contains(&to.as_str()) {
                        problems.push(Problem::new("arrow", &name, format!("must not depend on {to}")));
                    }
                }
            }
        }

        if PURE.contains(&name.as_str()) {
            for impure in declared.iter().filter(|to| IMPURE_DIRECT.contains(&to.as_str())) {
                problems.push(Problem::new("pure", &name, format!("must not depend on {impure}")));
            }
            for (impure, through) in reachable(&text(&package["id"]), &below, &names) {
                if IMPURE_ANYWHERE.contains(&impure.as_str()) {
                    let what = format!("must not depend on {impure}, which comes through {through}");
                    problems.push(Problem::new("pure", &name, what));
                }
            }
        }

        let manifest = text(&package["manifest_path"]);
        let folder =
            Path::new(&manifest).parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        if name.strip_prefix("plexus-").unwrap_or(&name) != folder {
            problems.push(Problem::new("name", &name, format!("is in a folder called {folder}")));
        }
    }
    problems
}

/// Names of all packages below one, each with the direct dependency that leads there.
fn reachable(
    from: &str,
    below: &BTreeMap<String, Vec<String>>,
    names: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for direct in below.get(from).into_iter().flatten() {
        let through = names.get(direct).cloned().unwrap_or_default();
        let mut waiting = vec![direct];
        while let Some(id) = waiting.pop() {
            if seen.insert(id) {
                if let Some(name) = names.get(id) {
                    found.entry(name.clone()).or_insert_with(|| through.clone());
                }
                waiting.extend(below.get(id).into_iter().flatten());
            }
        }
    }
    found
}

/// What a path and a size alone tell.
fn check_name(path: &str, bytes: u64) -> Vec<Problem> {
    let mut problems = Vec::new();
    if bytes > FILE_BYTES_MAX {
        let what =
            format!("has {:.1} MiB, the most is {} MiB", bytes as f64 / 1_048_576.0, FILE_BYTES_MAX >> 20);
        problems.push(Problem::new("size", path, what));
    }
    for part in Path::new(path).iter() {
        let stem = Path::new(part).file_stem().unwrap_or_default().to_string_lossy();
        if VAGUE_NAMES.contains(&stem.as_ref()) {
            problems.push(Problem::new("vague-name", path, format!("`{stem}` does not say what is inside")));
        }
    }
    problems
}

/// What the text of one file tells.
fn check_text(path: &str, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let extension = Path::new(path).extension().unwrap_or_default().to_string_lossy().into_owned();
    let source =
        matches!(extension.as_str(), "rs" | "ts" | "tsx" | "js" | "mjs" | "wgsl" | "py" | "css" | "html");

    let is_crate_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    if is_crate_root && !text.starts_with("//!") {
        problems.push(Problem::new(
            "header",
            path,
            "must begin with a `//!` header that says what the crate is for",
        ));
    }

    if source {
        // Put together here so that this file does not break its own rule.
        let leftovers =
            [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME"), concat!("XX", "X")];
        for (number, line) in numbered(text) {
            for leftover in leftovers.iter().filter(|leftover| line.contains(*leftover)) {
                problems.push(Problem::new("leftover", path, format!("line {number}: {leftover}")));
            }
        }
    }
    if extension == "rs" {
        let ignored = [concat!("#[ig", "nore]"), concat!("#[ig", "nore =")];
        for (number, line) in numbered(text) {
            if ignored.iter().any(|attribute| line.contains(attribute)) {
                problems.push(Problem::new("ignored-test", path, format!("line {number}")));
            }
        }
        if let Some(room) = pure_room(path) {
            for (number, line) in numbered(shipped_part(text)) {
                let code = line.split("//").next().unwrap_or_default();
                if let Some(impure) = IMPURE_STD.iter().find(|impure| code.contains(*impure)) {
                    let what = format!("line {number}: {impure}, and {room} is pure");
                    problems.push(Problem::new("pure", path, what));
                }
            }
        }
    }

    for (number, line) in numbered(text) {
        if let Some(folder) = machine_path(line) {
            problems.push(Problem::new("machine-path", path, format!("line {number}: {folder}")));
        }
    }

    if path.ends_with("package-lock.json") {
        for (number, line) in numbered(text) {
            let Some(address) = line.trim().strip_prefix("\"resolved\": \"") else { continue };
            // A plain or numbered address is one machine's mirror.
            let host = address.strip_prefix("https://").and_then(|rest| rest.split('/').next());
            let public = host.is_some_and(|host| host.ends_with(".org") && !host.contains(':'));
            if address.contains("://") && !public {
                problems.push(Problem::new("registry", path, format!("line {number}: {address}")));
            }
        }
    }
    problems
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// The pure crate whose shipped source a path is.
fn pure_room(path: &str) -> Option<&'static str> {
    PURE.iter().copied().find(|name| {
        let folder = name.strip_prefix("plexus-").unwrap_or(name);
        path.starts_with(&format!("crates/{folder}/src/")) || path.starts_with(&format!("{folder}/src/"))
    })
}

/// A source file up to its tests.
fn shipped_part(text: &str) -> &str {
    text.find("#[cfg(test)]").map_or(text, |tests| &text[..tests])
}

/// A path that exists on one person's machine only.
fn machine_path(line: &str) -> Option<&'static str> {
    const FOLDERS: [&str; 3] = [concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/")];
    FOLDERS.into_iter().find(|folder| {
        line.match_indices(folder).any(|(at, _)| {
            // In `web/home/index.html` it is a part of something else.
            let before = line[..at].chars().next_back();
            !before.is_some_and(|letter| letter.is_alphanumeric() || "._-}>)*".contains(letter))
        })
    })
}

/// The problems that no line `rule place` of the exceptions allows, and the exceptions that allow nothing.
fn without_exceptions(problems: Vec<Problem>, exceptions: &str) -> Vec<Problem> {
    let exceptions: Vec<(&str, &str)> = exceptions
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(rule, place)| (rule, place.trim()))
        .collect();
    let mut used = BTreeSet::new();
    let mut left: Vec<Problem> = problems
        .into_iter()
        .filter(|problem| {
            let known = exceptions.iter().find(|known| **known == (problem.rule, problem.place.as_str()));
            if let Some(known) = known {
                used.insert(*known);
            }
            known.is_none()
        })
        .collect();
    for (rule, place) in exceptions.iter().filter(|known| !used.contains(*known)) {
        let what = format!("`{rule} {place}` is no longer needed, delete the line");
        left.push(Problem::new("exception", EXCEPTIONS, what));
    }
    left
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A workspace of crates `(name, folder, [normal dependency])`; what is not a crate of it comes from a registry.
    fn workspace(crates: &[(&str, &str, &[&str])], registry: &[(&str, &[&str])]) -> Value {
        let dependencies = |names: &[&str]| -> Vec<Value> {
            names.iter().map(|name| json!({ "name": name, "kind": null })).collect()
        };
        let edges = |names: &[&str]| -> Vec<Value> {
            names.iter().map(|name| json!({ "pkg": name, "dep_kinds": [{ "kind": null }] })).collect()
        };
        let mut packages = Vec::new();
        let mut nodes = Vec::new();
        for (name, folder, below) in crates {
            packages.push(json!({
                "id": name, "name": name, "dependencies": dependencies(below),
                "manifest_path": format!("/repository/crates/{folder}/Cargo.toml"),
            }));
            nodes.push(json!({ "id": name, "deps": edges(below) }));
        }
        for (name, below) in registry {
            packages.push(json!({ "id": name, "name": name, "dependencies": [], "manifest_path": "" }));
            nodes.push(json!({ "id": name, "deps": edges(below) }));
        }
        let members: Vec<&str> = crates.iter().map(|(name, ..)| *name).collect();
        json!({ "packages": packages, "workspace_members": members, "resolve": { "nodes": nodes } })
    }

    fn printed(problems: Vec<Problem>) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_arrow_must_point_the_right_way() {
        let good = workspace(
            &[("plexus-protocol", "protocol", &[]), ("plexus-engine", "engine", &["plexus-protocol"])],
            &[],
        );
        assert_eq!(printed(check_crates(&good)), [""; 0]);

        let bad = workspace(
            &[("plexus-protocol", "protocol", &["plexus-engine"]), ("plexus-engine", "engine", &[])],
            &[],
        );
        assert_eq!(printed(check_crates(&bad)), ["arrow plexus-protocol: must not depend on plexus-engine"]);
    }

    #[test]
    fn a_crate_must_be_in_the_list_of_arrows() {
        let new = workspace(&[("plexus-new", "new", &[])], &[]);
        assert_eq!(
            printed(check_crates(&new)),
            ["arrow plexus-new: is not in the list of arrows in xtask/src/tidy.rs"]
        );
    }

    #[test]
    fn a_pure_crate_must_not_reach_anything_impure() {
        let direct = workspace(&[("plexus-proof", "proof", &["rand"])], &[("rand", &[])]);
        assert_eq!(printed(check_crates(&direct)), ["pure plexus-proof: must not depend on rand"]);

        let hidden = workspace(
            &[("plexus-proof", "proof", &["harmless"])],
            &[("harmless", &["tokio"]), ("tokio", &["mio"]), ("mio", &[])],
        );
        assert_eq!(
            printed(check_crates(&hidden)),
            [
                "pure plexus-proof: must not depend on mio, which comes through harmless",
                "pure plexus-proof: must not depend on tokio, which comes through harmless",
            ]
        );

        let shell = workspace(&[("plexus-store", "store", &["tokio"])], &[("tokio", &[])]);
        assert_eq!(printed(check_crates(&shell)), [""; 0]);
    }

    #[test]
    fn a_crate_is_called_like_its_folder() {
        let named = workspace(&[("plexus-gpu", "device", &[])], &[]);
        assert_eq!(printed(check_crates(&named)), ["name plexus-gpu: is in a folder called device"]);
    }

    #[test]
    fn names_and_sizes_are_checked() {
        let check = |path: &str, bytes: u64, expected: &[&str]| {
            let rules: Vec<&str> = check_name(path, bytes).iter().map(|problem| problem.rule).collect();
            assert_eq!(rules, expected, "{path}");
        };
        check("crates/engine/src/ledger.rs", 10_000, &[]);
        check("crates/engine/src/utils.rs", 10_000, &["vague-name"]);
        check("web/src/helpers/table.ts", 10_000, &["vague-name"]);
        check("examples/big.npy", FILE_BYTES_MAX, &[]);
        check("examples/big.npy", FILE_BYTES_MAX + 1, &["size"]);
    }

    #[test]
    fn texts_are_checked() {
        let check = |path: &str, text: &str, expected: &[&str]| {
            let rules: Vec<&str> = check_text(path, text).iter().map(|problem| problem.rule).collect();
            assert_eq!(rules, expected, "{path}: {text}");
        };
        check("crates/gpu/src/lib.rs", "//! Runs.\n", &[]);
        check("crates/gpu/src/lib.rs", "mod a;\n", &["header"]);
        check("crates/gpu/src/device.rs", "mod a;\n", &[]);
        check("web/src/page.tsx", concat!("// FIX", "ME later\n"), &["leftover"]);
        check("crates/gpu/src/device.rs", concat!("to", "do!()\n"), &["leftover"]);
        check("README.md", concat!("no FIX", "ME is allowed\n"), &[]);
        check("crates/gpu/tests/run.rs", concat!("#[ig", "nore]\n"), &["ignored-test"]);
        check("README.md", concat!("see /ho", "me/ada/plexus\n"), &["machine-path"]);
        check("README.md", concat!("see https://example.org/docs/ho", "me/\n"), &[]);
        check("package-lock.json", "\"resolved\": \"https://registry.example.org/a\"\n", &[]);
        check("package-lock.json", "\"resolved\": \"web\"\n", &[]);
        check("package-lock.json", "\"resolved\": \"http://10.0.0.1/a\"\n", &["registry"]);
    }

    #[test]
    fn pure_sources_must_not_use_the_clock_files_or_network() {
        let check = |path: &str, text: &str, expected: usize| {
            let found = check_text(path, text).iter().filter(|problem| problem.rule == "pure").count();
            assert_eq!(found, expected, "{path}: {text}");
        };
        check("crates/engine/src/lease.rs", "let now = SystemTime::now();\n", 1);
        check("crates/engine/src/lease.rs", "use std::fs;\n", 1);
        check("crates/engine/src/lease.rs", "// unlike std::fs, nothing is read\n", 0);
        check("crates/engine/src/lease.rs", "#[cfg(test)]\nmod tests { use std::fs; }\n", 0);
        check("kernels/src/lib.rs", "//! Kernels.\nuse std::net::TcpStream;\n", 1);
        check("crates/store/src/journal.rs", "use std::fs;\n", 0);
        check("crates/engine/tests/replay.rs", "use std::fs;\n", 0);
    }

    #[test]
    fn an_exception_hides_one_problem_and_must_be_needed() {
        let problem = Problem::new("size", "examples/big.npy", "has 3.0 MiB");
        let other = Problem::new("size", "examples/other.npy", "has 3.0 MiB");
        let list = "# known\nsize examples/big.npy  # real input\n";
        assert_eq!(without_exceptions(vec![problem.clone(), other.clone()], list), [other]);
        let left = without_exceptions(Vec::new(), list);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].rule, "exception");
        assert_eq!(without_exceptions(vec![problem], list), []);
    }
}
