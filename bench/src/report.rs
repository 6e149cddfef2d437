//! Rows, tables and the file that keeps the latest of them.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// One measured figure.
#[derive(Serialize)]
struct Row {
    bench: &'static str,
    metric: String,
    /// Nothing where it could not be measured; then `not_run` says why.
    value: Option<f64>,
    not_run: Option<String>,
    unit: &'static str,
    peer: Option<f64>,
    ratio: Option<f64>,
    aim: Option<&'static str>,
    machine: String,
    commit: String,
}

/// The figures of one run.
pub struct Report {
    bench: &'static str,
    machine: String,
    commit: String,
    rows: Vec<Row>,
}

impl Report {
    /// An empty report of the benchmark `bench` on this machine and commit.
    pub fn new(bench: &'static str) -> Result<Self> {
        let commit =
            Command::new("git").args(["describe", "--always", "--dirty"]).output().context("git describe")?;
        let commit = String::from_utf8_lossy(&commit.stdout).trim().to_owned();
        Ok(Self { bench, machine: machine(), commit, rows: Vec::new() })
    }

    /// Adds a figure; `aim` is what we want it to be, such as `">= 5000"`.
    pub fn add(
        &mut self,
        metric: impl Into<String>,
        value: f64,
        unit: &'static str,
        aim: Option<&'static str>,
    ) {
        let metric = metric.into();
        eprintln!("  {metric}: {} {unit}", number(value));
        self.push(metric, Some(value), unit, aim);
    }

    /// Adds how many times `peer` a figure is.
    pub fn add_ratio(&mut self, metric: impl Into<String>, value: f64, peer: f64, aim: Option<&'static str>) {
        self.add(metric, value / peer, "times", aim);
        if let Some(row) = self.rows.last_mut() {
            (row.peer, row.ratio) = (Some(peer), Some(value / peer));
        }
    }

    /// Says what could not be measured, and why: nothing is left out in silence.
    pub fn add_not_run(&mut self, metric: impl Into<String>, why: impl Into<String>) {
        let (metric, why) = (metric.into(), why.into());
        eprintln!("  {metric}: not run: {why}");
        self.push(metric, None, "", None);
        if let Some(row) = self.rows.last_mut() {
            row.not_run = Some(why);
        }
    }

    fn push(&mut self, metric: String, value: Option<f64>, unit: &'static str, aim: Option<&'static str>) {
        self.rows.push(Row {
            bench: self.bench,
            metric,
            value,
            not_run: None,
            unit,
            peer: None,
            ratio: None,
            aim,
            machine: self.machine.clone(),
            commit: self.commit.clone(),
        });
    }

    /// The figures as a Markdown table.
    pub fn table(&self) -> String {
        let mut text =
            String::from("| metric | value | unit | aim | reached |\n| --- | ---: | --- | --- | --- |\n");
        for row in &self.rows {
            let reached = row.value.zip(row.aim).and_then(|(value, aim)| reached(value, aim));
            let reached = reached.map_or("", |reached| if reached { "yes" } else { "no" });
            let aim = row.aim.unwrap_or("");
            let value = match (row.value, &row.not_run) {
                (Some(value), _) => number(value),
                (None, why) => format!("not run: {}", why.as_deref().unwrap_or("unknown")),
            };
            writeln!(text, "| {} | {value} | {} | {aim} | {reached} |", row.metric, row.unit)
                .expect("a String takes all");
        }
        text
    }

    /// Writes the rows as a JSON list.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.rows)?;
        fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))
    }

    /// Replaces this benchmark's section of the results file.
    pub fn keep(&self, path: &Path) -> Result<()> {
        let before = fs::read_to_string(path).unwrap_or_else(|_| "# Results\n".to_owned());
        let heading = format!("## {}\n", self.bench);
        let section = format!(
            "{heading}\n`cargo xtask bench {}` at {} on {}.\n\n{}",
            self.bench,
            self.commit,
            self.machine,
            self.table()
        );
        let after = match before.find(&heading) {
            None => format!("{}\n\n{section}", before.trim_end()),
            Some(start) => {
                let rest = &before[start + heading.len()..];
                // What people wrote under the table stays: a section's notes begin with a line `Notes`.
                let end = rest.find("\n## ").unwrap_or(rest.len());
                let notes = rest[..end].find("\nNotes").map_or("", |at| &rest[at..end]);
                let tail = &rest[end..];
                format!("{}{section}{}{}", &before[..start], notes.trim_end_matches('\n'), tail)
            }
        };
        fs::write(path, after.trim_end().to_owned() + "\n")
            .with_context(|| format!("failed to write {}", path.display()))
    }
}

/// A figure with three significant digits, or all of a larger whole number.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    match magnitude {
        _ if magnitude >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        _ if magnitude >= 10.0 => format!("{value:.1}"),
        _ if magnitude >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Whether a value reaches an aim like `">= 5000"` or `"< 0.1"`.
fn reached(value: f64, aim: &str) -> Option<bool> {
    let (relation, bound) = aim.split_once(' ')?;
    let bound: f64 = bound.parse().ok()?;
    match relation {
        ">=" => Some(value >= bound),
        "<=" => Some(value <= bound),
        "<" => Some(value < bound),
        ">" => Some(value > bound),
        _ => None,
    }
}

/// Processor, cores and memory.
fn machine() -> String {
    let processor = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?.to_owned();
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kib: u64 = text.lines().next()?.split_whitespace().nth(1)?.parse().ok()?;
        Some(format!(", {} GiB", kib / 1024 / 1024))
    });
    format!("{processor}, {cores} cores{}", memory.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aims_are_compared() {
        assert_eq!(reached(5_000.0, ">= 5000"), Some(true));
        assert_eq!(reached(0.2, "< 0.1"), Some(false));
        assert_eq!(reached(1.0, "many"), None);
    }

    #[test]
    fn keeping_a_section_leaves_the_others_and_the_notes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("RESULTS.md");
        let old = "# Results\n\n## spine\n\nold table\n\nNotes: why.\n\n## market\n\nkept\n";
        fs::write(&path, old).expect("written");
        let mut report = Report { bench: "spine", machine: "m".into(), commit: "c".into(), rows: Vec::new() };
        report.add("rate", 5.0, "1/s", Some(">= 3"));
        report.keep(&path).expect("kept");
        report.keep(&path).expect("kept");
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(text.matches("| rate | 5 | 1/s | >= 3 | yes |").count(), 1, "{text}");
        assert!(
            text.contains("Notes: why.") && text.contains("## market\n\nkept") && !text.contains("old table")
        );
    }
}
