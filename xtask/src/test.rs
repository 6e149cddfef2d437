//! `cargo xtask test`: everything that must hold before a change goes in, as steps that each report for themselves.
//!
//! A failed step does not hide the ones after it, unless they could only repeat its failure. All Rust steps use one set of
//! features and the `dev` profile, so nothing is compiled twice for them.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{openapi, process, setup, tidy, web};

#[derive(clap::Args)]
pub struct Options {
    /// Leave out the web app, the lint, documentation tests and browsers
    #[arg(long)]
    fast: bool,
    /// Run only the Rust tests whose name contains this
    filter: Option<String>,
}

/// How a step ended.
enum Outcome {
    Passed(Tally),
    Failed(String, Tally),
    Skipped(String),
}

/// Tests that a step counted; a step without any counts as one.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Tally {
    passed: u64,
    failed: u64,
}

struct Done {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// The steps so far.
struct Run {
    done: Vec<Done>,
}

impl Run {
    /// Runs a step and says whether what depends on it can run.
    fn step(&mut self, name: &'static str, step: impl FnOnce() -> Result<Outcome>) -> bool {
        println!("\n=== {name} ===");
        let started = Instant::now();
        let outcome = step().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}"), Tally::default()));
        let took = started.elapsed();
        let word = match &outcome {
            Outcome::Passed(_) => "passed".to_owned(),
            Outcome::Failed(why, _) => format!("FAILED: {why}"),
            Outcome::Skipped(why) => format!("skipped: {why}"),
        };
        println!("--- {name}: {word} ({})", process::spoken(took));
        let passed = matches!(outcome, Outcome::Passed(_));
        self.done.push(Done { name, outcome, took });
        passed
    }

    fn skip(&mut self, name: &'static str, why: &str) {
        self.done.push(Done { name, outcome: Outcome::Skipped(why.to_owned()), took: Duration::ZERO });
    }

    /// Prints the table and the count; an error when anything failed.
    fn finish(self, total: Duration) -> Result<()> {
        println!("\n=== summary ===");
        let mut all = Tally::default();
        for Done { name, outcome, took } in &self.done {
            let (word, tally, note) = match outcome {
                Outcome::Passed(tally) => {
                    ("passed", Tally { passed: tally.passed.max(1), failed: 0 }, String::new())
                }
                Outcome::Failed(why, tally) => {
                    ("FAILED", Tally { passed: tally.passed, failed: tally.failed.max(1) }, first_line(why))
                }
                Outcome::Skipped(why) => ("skipped", Tally::default(), why.clone()),
            };
            let tests = match outcome {
                Outcome::Passed(tally) | Outcome::Failed(_, tally) if *tally != Tally::default() => {
                    format!("{} tests", tally.passed + tally.failed)
                }
                _ => String::new(),
            };
            println!("{name:<20} {word:<8} {:>13} {tests:>11}  {note}", process::spoken(*took));
            all.passed += tally.passed;
            all.failed += tally.failed;
        }
        println!("total {}", process::spoken(total));
        println!("{} passed, {} failed", all.passed, all.failed);
        if all.failed > 0 {
            bail!("some steps failed");
        }
        Ok(())
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(100).collect()
}

pub fn test(options: &Options) -> Result<()> {
    let started = Instant::now();
    let mut run = Run { done: Vec::new() };
    let whole = !options.fast && options.filter.is_none();

    if let Some(filter) = &options.filter {
        run.step("rust tests", || rust_tests(Some(filter)));
        return run.finish(started.elapsed());
    }

    let mut missing = Vec::new();
    run.step("setup", || {
        let things: Vec<_> = setup::FOR_TEST
            .iter()
            .copied()
            .filter(|thing| whole || !matches!(thing, setup::Thing::Chromium | setup::Thing::Firefox))
            .collect();
        missing = setup::provide(&things)?;
        let needed = setup::needed(&missing);
        if needed.is_empty() {
            return passed();
        }
        Ok(Outcome::Failed(format!("missing: {}", needed.join(", ")), Tally::default()))
    });
    run.step("format", || simple(process::cargo().args(["fmt", "--all", "--check"]), "cargo fmt"));
    run.step("tidy", || tidy::tidy().and_then(|()| passed()));
    run.step("alert rules", || match process::on_path("promtool") {
        Some(promtool) => {
            let mut command = process::command(promtool);
            command.current_dir(process::root().join("deploy/prometheus"));
            simple(command.args(["test", "rules", "alerts_test.yml"]), "promtool")
        }
        None => Ok(Outcome::Skipped("promtool is missing (Debian's package prometheus has it)".into())),
    });

    // Before the Rust code, which embeds the app.
    let node = !missing.contains(&setup::Thing::Node) && !missing.contains(&setup::Thing::NpmPackages);
    if whole {
        run.step("web build", || match web::web()? {
            web::Built::Yes => passed(),
            web::Built::No => Ok(Outcome::Skipped("npm or its packages are missing".into())),
        });
        run.step("clippy", || {
            let mut cargo = process::cargo();
            cargo.args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]);
            simple(&mut cargo, "cargo clippy")
        });
    }

    // With the tests, so that both share one set of features: `plexus` itself is what end-to-end tests start.
    let built = run.step("build", || {
        simple(process::cargo().args(["build", "--workspace", "--bins", "--tests"]), "cargo build")
    });
    if built {
        run.step("rust tests", || rust_tests(None));
        if whole {
            run.step("doc tests", doc_tests);
            run.step("openapi", || {
                openapi::write_or_check(&process::plexus_binary("debug"), true).and_then(|()| passed())
            });
        }
    } else {
        run.skip("rust tests", "the build failed");
    }

    if !node {
        run.skip("typescript", "Node.js or the npm packages are missing");
        run.skip("browser tests", "Node.js or the npm packages are missing");
        return run.finish(started.elapsed());
    }
    run.step("typecheck", || {
        npm(&["run", "--silent", "typecheck", "--if-present", "--workspaces"], "the type check")
    });
    run.step("typescript tests", || {
        npm(
            &["run", "--silent", "test", "--if-present", "--workspace", "sdk/ts", "--workspace", "web"],
            "the TypeScript tests",
        )
    });
    if whole {
        if built {
            run.step("browser tests", || {
                npm(&["run", "--silent", "test", "--workspace", "tests/browser"], "the browser tests")
            });
        } else {
            run.skip("browser tests", "the build failed");
        }
    }
    run.finish(started.elapsed())
}

fn passed() -> Result<Outcome> {
    Ok(Outcome::Passed(Tally::default()))
}

fn simple(command: &mut Command, what: &str) -> Result<Outcome> {
    process::run(command, what)?;
    passed()
}

/// A command that counts tests in what it prints.
fn counted(command: &mut Command, what: &str) -> Result<Outcome> {
    setup::choose_vulkan_driver(command);
    command.env("PLEXUS_BIN", process::plexus_binary("debug"));
    let (status, text) = process::run_and_keep(command, what)?;
    let tally = tally(&text);
    if status.success() {
        return Ok(Outcome::Passed(tally));
    }
    Ok(Outcome::Failed(format!("{what} failed ({status})"), tally))
}

fn rust_tests(filter: Option<&str>) -> Result<Outcome> {
    let nextest = process::output(process::cargo().args(["nextest", "--version"]), "cargo nextest").is_ok();
    let mut cargo = process::cargo();
    if nextest {
        cargo.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
        cargo.args(filter);
        return counted(&mut cargo, "cargo nextest");
    }
    println!("cargo-nextest is missing, running `cargo test` instead (`cargo xtask setup` gets it)");
    cargo.args(["test", "--workspace", "--bins", "--lib", "--tests", "--no-fail-fast"]);
    cargo.args(filter);
    counted(&mut cargo, "cargo test")
}

fn doc_tests() -> Result<Outcome> {
    let root = process::root();
    let sources = process::output(process::command("git").args(["ls-files", "*.rs"]), "git ls-files")?;
    let any = sources
        .lines()
        .any(|path| std::fs::read_to_string(root.join(path)).is_ok_and(|text| has_doc_test(&text)));
    if !any {
        return Ok(Outcome::Skipped("there are none".into()));
    }
    counted(process::cargo().args(["test", "--workspace", "--doc"]), "cargo test --doc")
}

/// Whether a source has an example in its documentation that Rust would run.
fn has_doc_test(text: &str) -> bool {
    let mut inside = false;
    for line in text.lines() {
        let line = line.trim_start();
        let Some(doc) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
            inside = false;
            continue;
        };
        let Some(language) = doc.trim_start().strip_prefix("```") else { continue };
        if !inside && matches!(language.trim(), "" | "rust" | "no_run" | "should_panic" | "compile_fail") {
            return true;
        }
        inside = !inside;
    }
    false
}

fn npm(arguments: &[&str], what: &str) -> Result<Outcome> {
    let mut npm = process::npm().context("npm is missing")?;
    npm.args(arguments);
    if let Some(chromium) = setup::chromium() {
        npm.env("PLEXUS_CHROMIUM", chromium);
    }
    counted(&mut npm, what)
}

/// Adds up the summaries of nextest, libtest, node's test runner and vitest.
fn tally(text: &str) -> Tally {
    let mut all = Tally::default();
    let text = without_colours(text);
    // nextest shows what failed tests printed, which has libtest's own summary of each.
    let nextest = text.contains("Nextest run ID");
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("Summary [") && line.contains(" tests run:") || line.contains(" test run:") {
            // Summary [   1.2s] 7 tests run: 5 passed (1 slow), 1 failed, 1 timed out, 0 skipped
            let counts = line.split(" run:").nth(1).unwrap_or_default();
            all.passed += count_before(counts, "passed");
            all.failed += count_before(counts, "failed") + count_before(counts, "timed out");
        } else if let Some(counts) = line.strip_prefix("test result:").filter(|_| !nextest) {
            // test result: ok. 3 passed; 0 failed; 0 ignored
            all.passed += count_before(counts, "passed");
            all.failed += count_before(counts, "failed");
        } else if let Some(count) = node_count(line, "pass") {
            all.passed += count;
        } else if let Some(count) = node_count(line, "fail").or_else(|| node_count(line, "cancelled")) {
            all.failed += count;
        } else if let Some(counts) = line.strip_prefix("Tests ") {
            // Tests  1 failed | 4 passed (5)
            all.passed += count_before(counts, "passed");
            all.failed += count_before(counts, "failed");
        }
    }
    all
}

/// The number in `ℹ pass 3` or `# pass 3`.
fn node_count(line: &str, word: &str) -> Option<u64> {
    let rest = line.strip_prefix("ℹ ").or_else(|| line.strip_prefix("# "))?;
    rest.strip_prefix(word)?.strip_prefix(' ')?.parse().ok()
}

/// The number in front of a word, 0 when there is none.
fn count_before(text: &str, word: &str) -> u64 {
    let Some(at) = text.find(word) else { return 0 };
    text[..at].split_whitespace().next_back().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            letters.by_ref().find(|letter| letter.is_ascii_alphabetic());
        } else {
            plain.push(letter);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_counts_are_read_from_each_runner() {
        let check = |text: &str, passed: u64, failed: u64| {
            assert_eq!(tally(text), Tally { passed, failed }, "{text}")
        };
        check(
            "     Summary [   1.234s] 7 tests run: 5 passed (1 slow), 1 failed, 1 timed out, 3 skipped\n",
            5,
            2,
        );
        check(
            "\u{1b}[32;1m     Summary\u{1b}[0m [   0.016s] \u{1b}[1m1\u{1b}[0m test run: \u{1b}[1m1\u{1b}[0m passed, 0 skipped",
            1,
            0,
        );
        check(
            "test result: ok. 3 passed; 0 failed; 0 ignored\ntest result: FAILED. 1 passed; 2 failed;\n",
            4,
            2,
        );
        check("ℹ tests 5\nℹ pass 4\nℹ fail 1\nℹ cancelled 0\n", 4, 1);
        check(
            " Nextest run ID 1\ntest result: FAILED. 0 passed; 1 failed;\n Summary [ 1s] 2 tests run: 1 passed, 1 failed\n",
            1,
            1,
        );
        check("# pass 4\n# fail 0\n", 4, 0);
        check(" Test Files  1 passed (1)\n      Tests  1 failed | 4 passed (5)\n", 4, 1);
        check("nothing of interest", 0, 0);
    }

    #[test]
    fn doc_tests_are_told_from_other_blocks() {
        assert!(has_doc_test("/// ```\n/// let a = 1;\n/// ```\n"));
        assert!(has_doc_test("    //! ```rust\n"));
        assert!(!has_doc_test("/// ```text\n/// a\n/// ```\n"));
        assert!(!has_doc_test("// ```\nlet a = 1;\n"));
    }
}
