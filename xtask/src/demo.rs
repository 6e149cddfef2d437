//! `cargo xtask demo`: the whole network on one machine, through the same commands a person would type.
//!
//! A market with the embedded store, a native worker and a browser worker run the two example jobs; what came of them is
//! asked from the market's API. Everything it writes lies in `demo-out/`, and everything it starts ends with it.

use std::{
    collections::BTreeMap,
    fs,
    io::{IsTerminal, Write},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    http,
    process::{self, Background, spoken},
    setup, web,
};

/// The jobs, by the folder in `examples/` that holds their `job.toml`.
const JOBS: [&str; 2] = ["digits", "render"];
/// Where everything goes that the demo writes.
const FOLDER: &str = "demo-out";
/// How long a started process may take until the market answers or knows it.
const START_MAX: Duration = Duration::from_secs(90);
/// A job that gets nowhere for this long is given up. The longest unit of the examples takes seconds on a software GPU.
const STANDSTILL_MAX: Duration = Duration::from_secs(300);
/// How often the market is asked for progress.
const POLL: Duration = Duration::from_millis(250);

#[derive(clap::Args)]
pub struct Options {
    /// End after the jobs, with exit code 0 only if every unit was verified and paid
    #[arg(long)]
    once: bool,
    /// Also write the summary as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run without a browser worker
    #[arg(long)]
    no_browser: bool,
    /// Run the dev profile instead of the release profile: sooner built, slower
    #[arg(long)]
    dev: bool,
    /// The market's port
    #[arg(long, default_value_t = 7700)]
    port: u16,
}

pub fn demo(options: &Options) -> Result<()> {
    let interrupted = process::interrupted()?;
    let json_file =
        options.json.as_deref().map(std::path::absolute).transpose().context("failed to find --json")?;
    drop(
        TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
            .with_context(|| format!("port {} is taken; choose another with --port", options.port))?,
    );

    println!("What this machine has:");
    let things: Vec<_> = setup::FOR_DEMO
        .iter()
        .copied()
        .filter(|thing| !options.no_browser || *thing != setup::Thing::Chromium)
        .collect();
    let missing = setup::provide(&things)?;
    if missing.contains(&setup::Thing::Vulkan) {
        bail!("without a GPU driver nothing can be computed");
    }
    let browser = browser_or_reason(options, &missing);

    let binary = build(options.dev)?;
    let mut network = Network::start(&binary, options.port, &interrupted)?;
    network.start_native_worker()?;
    match browser {
        Ok(()) => network.start_browser_worker()?,
        Err(why) => println!("No browser worker: {why}. Native only."),
    }
    let jobs = network.submit()?;
    network.watch(&jobs)?;
    let summary = network.summary(&jobs)?;
    summary.print();
    if let Some(file) = json_file {
        fs::write(&file, format!("{:#}\n", summary.json))
            .with_context(|| format!("failed to write {}", file.display()))?;
    }

    if !options.once {
        println!("\nThe network is at http://127.0.0.1:{}/ until Ctrl-C.", options.port);
        while !interrupted.load(Ordering::SeqCst) {
            network.check()?;
            thread::sleep(POLL);
        }
        println!("\nStopping.");
    }
    drop(network);
    if !summary.ok() {
        bail!("not every unit was verified and paid");
    }
    Ok(())
}

/// Whether a browser worker can run, or why not.
fn browser_or_reason(options: &Options, missing: &[setup::Thing]) -> Result<(), String> {
    if options.no_browser {
        return Err("--no-browser was given".into());
    }
    let needed = [setup::Thing::Node, setup::Thing::NpmPackages, setup::Thing::Chromium];
    match needed.iter().find(|thing| missing.contains(thing)) {
        Some(thing) => Err(format!("{} is missing", thing.name())),
        None => Ok(()),
    }
}

/// The web app and the binary that serves it.
fn build(dev: bool) -> Result<PathBuf> {
    let started = Instant::now();
    web::web()?;
    let (folder, flag) = if dev { ("debug", None) } else { ("release", Some("--release")) };
    println!("Building plexus; the first time takes some minutes.");
    process::run(process::cargo().args(["build", "--package", "plexus"]).args(flag), "the build of plexus")?;
    println!("Built in {}.", spoken(started.elapsed()));
    Ok(process::plexus_binary(folder))
}

/// What runs, in the order in which it was started; it is stopped in the opposite order.
struct Network {
    binary: PathBuf,
    port: u16,
    folder: PathBuf,
    parts: Vec<Background>,
    interrupted: Arc<AtomicBool>,
}

/// A submitted example.
struct Submitted {
    name: &'static str,
    id: String,
}

impl Network {
    /// A market with a fresh store that answers.
    fn start(binary: &Path, port: u16, interrupted: &Arc<AtomicBool>) -> Result<Network> {
        let folder = process::root().join(FOLDER);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("failed to delete {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let mut network = Network {
            binary: binary.to_path_buf(),
            port,
            folder,
            parts: Vec::new(),
            interrupted: interrupted.clone(),
        };
        let mut up = network.plexus();
        up.arg("up")
            .arg("--listen")
            .arg(format!("127.0.0.1:{port}"))
            .arg("--data")
            .arg(network.folder.join("market"));
        network.background("market", &mut up)?;
        network.wait("the market to answer", |network| {
            Ok(http::get(network.port, "/v1/health").is_ok().then_some(()))
        })?;
        println!("Market at http://127.0.0.1:{port}/");
        Ok(network)
    }

    fn start_native_worker(&mut self) -> Result<()> {
        let mut worker = self.plexus();
        worker.arg("worker").args(["--market", &self.url()]);
        worker.arg("--wallet").arg(self.folder.join("native-worker.json"));
        worker.arg("--cache").arg(self.folder.join("native-worker-cache"));
        self.background("native worker", &mut worker)?;
        let adapter = self.wait("the native worker to join", |network| network.joined("native"))?;
        println!("Native worker on {adapter}");
        Ok(())
    }

    /// A browser that doesn't come to work is said, and is no reason to stop.
    fn start_browser_worker(&mut self) -> Result<()> {
        let mut worker = process::command("node");
        worker.arg("tests/browser/worker.mjs").arg(format!("{}/contribute?autostart=1", self.url()));
        if let Some(chromium) = setup::chromium() {
            worker.env("PLEXUS_CHROMIUM", chromium);
        }
        self.background("browser worker", &mut worker)?;
        match self.wait("the browser worker to join", |network| network.joined("browser")) {
            Ok(adapter) => println!("Browser worker on {adapter}"),
            Err(error) => {
                self.stop_if_interrupted()?;
                println!("No browser worker: {error:#}. Native only.");
                if let Some(mut browser) = self.parts.pop() {
                    println!("{}", browser.log_end());
                    browser.stop();
                }
            }
        }
        Ok(())
    }

    fn submit(&self) -> Result<Vec<Submitted>> {
        let mut jobs = Vec::new();
        for name in JOBS {
            let mut submit = self.plexus();
            submit.arg("submit").arg(process::root().join("examples").join(name).join("job.toml"));
            submit.args(["--market", &self.url(), "--json"]);
            submit.arg("--wallet").arg(self.folder.join("client.json"));
            let printed = process::output(&mut submit, &format!("plexus submit {name}"))?;
            let answer: Value = serde_json::from_str(&printed)
                .with_context(|| format!("plexus submit {name} printed something that is not JSON"))?;
            let id = answer["id"].as_str().context("plexus submit printed no job id")?.to_owned();
            jobs.push(Submitted { name, id });
        }
        Ok(jobs)
    }

    /// Shows progress until every job has ended.
    fn watch(&mut self, jobs: &[Submitted]) -> Result<()> {
        let started = Instant::now();
        let mut bars = Bars::new();
        let mut moved = Instant::now();
        let mut last = Vec::new();
        loop {
            self.check()?;
            let answers = jobs
                .iter()
                .map(|job| self.get(&format!("/v1/jobs/{}", job.id)))
                .collect::<Result<Vec<_>>>()?;
            bars.show(jobs, &answers);
            if answers.iter().all(has_ended) {
                bars.end();
                println!("Done in {}.", spoken(started.elapsed()));
                return Ok(());
            }
            let now: Vec<Value> = answers.iter().map(|job| job["progress"].clone()).collect();
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            if moved.elapsed() > STANDSTILL_MAX {
                let waiting = answers.iter().find(|job| !has_ended(job)).unwrap_or(&Value::Null);
                bail!(
                    "nothing moved for {}; {} waits: {}",
                    spoken(STANDSTILL_MAX),
                    waiting["name"].as_str().unwrap_or("a job"),
                    waiting["reason"]["text"].as_str().unwrap_or("no reason given")
                );
            }
            thread::sleep(POLL);
        }
    }

    /// Fetches the results and collects who did what.
    fn summary(&self, jobs: &[Submitted]) -> Result<Summary> {
        let mut results = Vec::new();
        for submitted in jobs {
            let job = self.get(&format!("/v1/jobs/{}", submitted.id))?;
            // Relative to the root, as the summary shows it.
            let out = Path::new(FOLDER).join(submitted.name);
            let mut fetch = self.plexus();
            fetch.args(["job", "fetch", &submitted.id, "--market", &self.url(), "--json", "--out"]).arg(&out);
            let fetched = process::output(&mut fetch, &format!("plexus job fetch {}", submitted.id))
                .and_then(|printed| {
                    serde_json::from_str(&printed).context("it printed something that is not JSON")
                });
            if let Err(error) = &fetched {
                println!("The result of {} could not be fetched: {error:#}", submitted.name);
            }
            results.push((submitted.name, job, fetched.unwrap_or(Value::Null)));
        }
        let workers = self.get("/v1/workers")?;
        let ledger = self.get("/v1/ledger")?;
        Ok(Summary::new(&results, &workers, &ledger))
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn plexus(&self) -> Command {
        let mut plexus = process::command(&self.binary);
        setup::choose_vulkan_driver(&mut plexus);
        plexus
    }

    fn background(&mut self, name: &'static str, command: &mut Command) -> Result<()> {
        let log = self.folder.join(format!("{}.log", name.replace(' ', "-")));
        self.parts.push(Background::start(name, command, log)?);
        Ok(())
    }

    fn get(&self, path: &str) -> Result<Value> {
        http::get(self.port, path)
    }

    /// The adapter of a provider's worker of this kind that the market knows.
    fn joined(&self, kind: &str) -> Result<Option<String>> {
        let workers = self.get("/v1/workers")?;
        Ok(providers(&workers).find(|worker| worker["kind"] == kind).map(adapter))
    }

    /// An error when something that should run does not, or on Ctrl-C.
    fn check(&mut self) -> Result<()> {
        self.stop_if_interrupted()?;
        self.parts.iter_mut().try_for_each(Background::check)
    }

    fn stop_if_interrupted(&self) -> Result<()> {
        if self.interrupted.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
        Ok(())
    }

    fn wait<T>(&mut self, what: &str, condition: impl Fn(&Network) -> Result<Option<T>>) -> Result<T> {
        let started = Instant::now();
        loop {
            self.check()?;
            if let Some(value) = condition(self)? {
                return Ok(value);
            }
            if started.elapsed() > START_MAX {
                bail!("waited {} for {what}", spoken(START_MAX));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Workers leave before the market goes.
        while let Some(mut part) = self.parts.pop() {
            part.stop();
        }
    }
}

fn has_ended(job: &Value) -> bool {
    matches!(job["state"].as_str(), Some("done" | "cancelled" | "incomplete"))
}

/// Items of a list that may come as a page.
fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().or_else(|| list["items"].as_array()).into_iter().flatten()
}

/// All workers but the market's own verifier.
fn providers(workers: &Value) -> impl Iterator<Item = &Value> {
    items(workers).filter(|worker| worker["verifier"] != true)
}

fn adapter(worker: &Value) -> String {
    worker["device"]["adapter"]
        .as_str()
        .or_else(|| worker["device"]["name"].as_str())
        .unwrap_or("?")
        .to_owned()
}

/// A 64-bit number, which the API writes as a decimal string.
fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or(0)
}

/// Base units as tokens, without trailing zeros.
fn tokens(base_units: u64) -> String {
    let text = format!("{}.{:09}", base_units / 1_000_000_000, base_units % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What came of the demo: for people by [`Summary::print`], for scripts as `json`.
struct Summary {
    /// `ok`, `jobs[name, units, verified, paid, result, …]`, `workers[id, kind, adapter, units, earned, …]`,
    /// `ledger[escrowed, paid, burned, refunded, …]`. Counts and base units of money are numbers here: a demo stays far
    /// below 2^53.
    json: Value,
}

impl Summary {
    fn new(results: &[(&str, Value, Value)], workers: &Value, ledger: &Value) -> Summary {
        let names: BTreeMap<&str, (String, String)> = items(workers)
            .filter_map(|worker| {
                let kind = if worker["verifier"] == true { "verifier" } else { worker["kind"].as_str()? };
                Some((worker["id"].as_str()?, (kind.to_owned(), adapter(worker))))
            })
            .collect();
        let jobs: Vec<Value> = results
            .iter()
            .map(|(name, job, fetched)| {
                let (units, verified) = (number(&job["units"]), number(&job["progress"]["accepted"]));
                let money = &job["money"];
                let moved =
                    ["paid", "treasury", "burned"].iter().map(|part| number(&money[*part])).sum::<u64>();
                let ran: Vec<Value> = items(&job["workers"])
                    .map(|part| {
                        let id = part["worker"].as_str().unwrap_or_default();
                        json!({
                            "worker": id,
                            "kind": names.get(id).map(|(kind, _)| kind.as_str()).unwrap_or("gone"),
                            "units": number(&part["units"]),
                            "checked": number(&part["checked"]),
                            "paid": number(&part["paid"]),
                        })
                    })
                    .collect();
                json!({
                    "name": name,
                    "id": job["id"],
                    "state": job["state"],
                    "reason": job["reason"]["text"],
                    "units": units,
                    "verified": verified,
                    "paid": number(&money["paid"]),
                    "treasury": number(&money["treasury"]),
                    "burned": number(&money["burned"]),
                    "refunded": number(&money["refunded"]),
                    // Independent of the state that the market gives itself: the price of every unit has left the escrow.
                    "ok": job["state"] == "done"
                        && verified == units
                        && moved >= number(&job["unit_price"]).saturating_mul(units)
                        && number(&money["held"]) == 0,
                    "checked": number(&job["verification"]["checked"]),
                    "by_verifier": number(&job["verification"]["by_verifier"]),
                    "sampled_out": number(&job["verification"]["sampled_out"]),
                    "rejected": number(&job["verification"]["rejected"]),
                    "workers": ran,
                    "result": fetched["files"][0]["path"],
                    "accuracy": fetched["files"][0]["accuracy"],
                })
            })
            .collect();
        let workers: Vec<Value> = providers(workers)
            .map(|worker| {
                json!({
                    "id": worker["id"],
                    "kind": worker["kind"],
                    "adapter": adapter(worker),
                    "units": number(&worker["units"]),
                    "checked": number(&worker["checked"]),
                    "earned": number(&worker["earned"]),
                })
            })
            .collect();
        let ok = jobs.iter().all(|job| job["ok"] == true && !job["result"].is_null());
        let ledger: BTreeMap<&str, u64> = ["escrowed", "paid", "treasury", "burned", "refunded"]
            .into_iter()
            .map(|part| (part, number(&ledger[part])))
            .collect();
        Summary { json: json!({ "ok": ok, "jobs": jobs, "workers": workers, "ledger": ledger }) }
    }

    fn ok(&self) -> bool {
        self.json["ok"] == true
    }

    fn print(&self) {
        print!("{}", self.text());
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let plain = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_else(|| value.to_string());
        let money = |value: &Value| tokens(number(value));

        let mut rows =
            vec![["job", "units", "verified", "how", "ran on", "paid", "burned", "result"].map(String::from)];
        for job in items(&self.json["jobs"]) {
            let (checked, by_verifier) = (number(&job["checked"]), number(&job["by_verifier"]));
            let how = [
                (checked.saturating_sub(by_verifier), "re-executed by another worker"),
                (by_verifier, "re-executed by the market"),
                (number(&job["sampled_out"]), "not drawn"),
                (number(&job["rejected"]), "rejected and run again"),
            ]
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect::<Vec<_>>()
            .join(", ");
            let ran = items(&job["workers"])
                .filter(|part| number(&part["units"]) > 0)
                .map(|part| format!("{} {}", number(&part["units"]), plain(&part["kind"])))
                .collect::<Vec<_>>()
                .join(", ");
            let mut result = if job["result"].is_null() { "none".to_owned() } else { plain(&job["result"]) };
            if let Some(accuracy) = job["accuracy"].as_f64() {
                result.push_str(&format!(" (accuracy {accuracy:.3})"));
            }
            rows.push([
                plain(&job["name"]),
                plain(&job["units"]),
                plain(&job["verified"]),
                how,
                ran,
                money(&job["paid"]),
                money(&job["burned"]),
                result,
            ]);
        }
        text.push('\n');
        text.push_str(&table(&rows));

        let mut rows = vec![["worker", "kind", "adapter", "units", "checks", "earned"].map(String::from)];
        for worker in items(&self.json["workers"]) {
            rows.push([
                plain(&worker["id"]).chars().take(8).collect(),
                plain(&worker["kind"]),
                plain(&worker["adapter"]),
                plain(&worker["units"]),
                plain(&worker["checked"]),
                money(&worker["earned"]),
            ]);
        }
        text.push('\n');
        text.push_str(&table(&rows));

        let ledger = &self.json["ledger"];
        text.push_str(&format!(
            "\nOf {} tokens in escrow, {} went to workers, {} to the treasury, {} were burned and {} refunded.\n",
            money(&ledger["escrowed"]),
            money(&ledger["paid"]),
            money(&ledger["treasury"]),
            money(&ledger["burned"]),
            money(&ledger["refunded"])
        ));
        for job in items(&self.json["jobs"]).filter(|job| job["ok"] != true) {
            let reason = job["reason"].as_str().unwrap_or("no reason given");
            text.push_str(&format!("{} is {}: {reason}\n", plain(&job["name"]), plain(&job["state"])));
        }
        text
    }
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: Vec<usize> =
        (0..N).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A bar a job: redrawn in place on a terminal, else a line whenever a tenth more is done.
struct Bars {
    terminal: bool,
    drawn: bool,
    tenths: BTreeMap<&'static str, u64>,
}

impl Bars {
    fn new() -> Bars {
        Bars { terminal: std::io::stdout().is_terminal(), drawn: false, tenths: BTreeMap::new() }
    }

    fn show(&mut self, jobs: &[Submitted], answers: &[Value]) {
        let mut out = std::io::stdout().lock();
        if self.terminal && self.drawn {
            let _ = write!(out, "\x1b[{}A", jobs.len());
        }
        for (job, answer) in jobs.iter().zip(answers) {
            let line = bar(job.name, answer);
            if self.terminal {
                let _ = writeln!(out, "\x1b[2K{line}");
                continue;
            }
            let units = number(&answer["units"]).max(1);
            let tenths = number(&answer["progress"]["accepted"]) * 10 / units;
            if self.tenths.insert(job.name, tenths) != Some(tenths) {
                let _ = writeln!(out, "{line}");
            }
        }
        let _ = out.flush();
        self.drawn = true;
    }

    fn end(&mut self) {
        self.drawn = false;
    }
}

/// `digits  [#####>....]  12/45 units, 3 running, 1 checking`
fn bar(name: &str, job: &Value) -> String {
    const WIDTH: u64 = 30;
    let progress = &job["progress"];
    let units = number(&job["units"]).max(1);
    let accepted = number(&progress["accepted"]);
    let under_way = number(&progress["leased"]) + number(&progress["checking"]);
    let full = (accepted * WIDTH / units).min(WIDTH);
    let begun = ((accepted + under_way) * WIDTH / units).clamp(full, WIDTH);
    let drawn = "#".repeat(full as usize) + &"-".repeat((begun - full) as usize);
    let mut line = format!("{name:<8} [{drawn:<30}] {accepted}/{units} units");
    for (field, word) in [("leased", "running"), ("checking", "in verification"), ("parked", "given up")] {
        let count = number(&progress[field]);
        if count > 0 {
            line.push_str(&format!(", {count} {word}"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_shown_in_tokens() {
        let check = |base_units: u64, expected: &str| assert_eq!(tokens(base_units), expected);
        check(0, "0");
        check(1, "0.000000001");
        check(1_500_000_000, "1.5");
        check(20_000_000_000, "20");
    }

    #[test]
    fn a_bar_shows_what_is_done_and_what_is_under_way() {
        let job = json!({ "units": "30", "progress": { "accepted": "10", "leased": "3", "checking": "2", "parked": "0" } });
        assert_eq!(
            bar("digits", &job),
            "digits   [##########-----               ] 10/30 units, 3 running, 2 in verification"
        );
    }

    fn finished_job() -> Value {
        json!({
            "id": "job-1", "state": "done", "units": "4", "unit_price": "1000000",
            "progress": { "accepted": "4" },
            "money": {
                "escrowed": "4200000", "paid": "3600000", "treasury": "200000", "burned": "200000", "refunded": "200000",
                "held": "0",
            },
            "verification": { "checked": "1", "by_verifier": "1", "sampled_out": "3" },
            "workers": [{ "worker": "NativeKey", "units": "3", "checked": "0", "paid": "2700000" },
                        { "worker": "BrowserKey", "units": "1", "checked": "0", "paid": "900000" }],
        })
    }

    fn summary(job: Value, fetched: Value) -> Summary {
        let workers = json!({ "items": [
            { "id": "NativeKey", "kind": "native", "verifier": false, "device": { "adapter": "llvmpipe" },
              "units": "3", "checked": "0", "earned": "2700000" },
            { "id": "BrowserKey", "kind": "browser", "verifier": false, "device": { "adapter": "SwiftShader" },
              "units": "1", "checked": "0", "earned": "900000" },
            { "id": "VerifierKey", "kind": "native", "verifier": true, "device": { "adapter": "llvmpipe" },
              "units": "0", "checked": "1", "earned": "0" },
        ]});
        let ledger = json!({
            "escrowed": "4200000", "paid": "3600000", "treasury": "200000", "burned": "200000", "refunded": "200000",
        });
        Summary::new(&[("digits", job, fetched)], &workers, &ledger)
    }

    #[test]
    fn the_summary_says_who_ran_what_and_where_the_money_went() {
        let summary = summary(
            finished_job(),
            json!({ "files": [{ "path": "demo-out/digits/p.csv", "accuracy": 0.97 }] }),
        );
        assert!(summary.ok());
        let job = &summary.json["jobs"][0];
        assert_eq!(
            (&job["units"], &job["verified"], &job["paid"]),
            (&json!(4), &json!(4), &json!(3_600_000))
        );
        assert_eq!(job["result"], "demo-out/digits/p.csv");
        let kinds: Vec<&Value> = items(&summary.json["workers"]).map(|worker| &worker["kind"]).collect();
        assert_eq!(kinds, ["native", "browser"]);
        let text = summary.text();
        for part in [
            "1 re-executed by the market, 3 not drawn",
            "3 native, 1 browser",
            "accuracy 0.970",
            "0.0002 were burned",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn the_summary_is_not_ok_when_a_unit_is_unverified_or_unpaid() {
        let result = json!({ "files": [{ "path": "p.csv" }] });
        let check = |change: &dyn Fn(&mut Value)| {
            let mut job = finished_job();
            change(&mut job);
            assert!(!summary(job, result.clone()).ok());
        };
        check(&|job| job["state"] = json!("incomplete"));
        check(&|job| job["progress"]["accepted"] = json!("3"));
        check(&|job| job["money"]["paid"] = json!("2700000"));
        check(&|job| job["money"]["held"] = json!("1"));
        assert!(!summary(finished_job(), Value::Null).ok(), "no result was fetched");
    }
}
