//! `plexus worker`: lends this machine's GPU.

use std::{
    collections::VecDeque,
    io::IsTerminal,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use protocol::{Amount, FLAW_LOOP_ROUNDS, PublicKey, WorkerOffer};
use serde_json::json;
use worker::{
    CacheConfig, Config, State, Status, Terms, WorkerError,
    executor::{Executor, ExecutorCommand},
};

use crate::{
    arguments::{MarketArgument, WalletArgument},
    exit::{Exit, Failure},
    say,
    signals::Interrupts,
    wallet,
};

/// Workers listed without `--all`.
const LIST_MAX: usize = 50;
/// The rate is that of the units in this time.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Between two lines about the same state: for scripts, and for logs.
const JSON_LINE_EVERY: Duration = Duration::from_secs(1);
const LOG_LINE_EVERY: Duration = Duration::from_secs(10);
/// Between two updates of the status line.
const TICK: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    look: Option<Look>,
    #[command(flatten)]
    market: MarketArgument,
    /// The key that signs receipts and is paid; made where there is none. Each running worker needs one of its own
    /// [default: wallet.json in ~/.config/plexus]
    #[arg(long, visible_alias = "key", value_name = "FILE", env = "PLEXUS_WALLET", hide_env = true)]
    wallet: Option<PathBuf>,
    /// The GPU: a part of its name, or its number in `plexus device`
    #[arg(long, value_name = "NAME", env = "PLEXUS_ADAPTER", hide_env = true)]
    device: Option<String>,
    /// Keep fetched blobs in this folder [default: blobs in ~/.cache/plexus]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// The most that the folder may hold, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    cache_mib_max: u64,
    /// Device memory that jobs may take together, in MiB [default: 4096 on a graphics card, else 2048]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Work only for jobs that pay at least this many tokens a compute second (a second of a 1 TFLOP/s device)
    #[arg(long, value_name = "TOKENS", value_parser = Amount::from_tokens, default_value = "0")]
    ask: Amount,
    /// Print the status as a line of JSON whenever it changes
    #[arg(long)]
    pub json: bool,
}

/// What can be asked about workers, instead of being one.
#[derive(clap::Subcommand)]
enum Look {
    /// List a market's workers, the last announced first
    List {
        /// More than the newest 50
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        market: MarketArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a worker: its device, what it does and why, its speed and reputation
    Show {
        /// The key that signs its receipts
        id: PublicKey,
        #[command(flatten)]
        market: MarketArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Options {
    /// Whether it was asked to speak JSON.
    pub fn json(&self) -> bool {
        match &self.look {
            Some(Look::List { json, .. } | Look::Show { json, .. }) => *json,
            None => self.json,
        }
    }
}

async fn look(look: Look) -> Result<ExitCode, Failure> {
    match look {
        Look::List { all, market, json } => {
            let client = market.anonymous()?;
            let (mut workers, mut cursor) = (Vec::new(), None);
            loop {
                let page = client.workers(cursor.as_deref()).await?;
                workers.extend(page.items);
                cursor = page.next;
                if cursor.is_none() || (!all && workers.len() >= LIST_MAX) {
                    break;
                }
            }
            if !all {
                workers.truncate(LIST_MAX);
            }
            if json { say::json(&workers) } else { list(&workers) }
        }
        Look::Show { id, market, json } => {
            let worker = market.anonymous()?.worker(&id).await?;
            if json { say::json(&worker) } else { show(&worker) }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn state(worker: &api::Worker) -> &'static str {
    match worker.state {
        api::WorkerState::Idle => "idle",
        api::WorkerState::Busy => "busy",
        api::WorkerState::Draining => "draining",
        api::WorkerState::Gone => "gone",
    }
}

fn list(workers: &[api::Worker]) {
    if workers.is_empty() {
        return say::out("no workers");
    }
    let row = |worker: &api::Worker| {
        vec![
            worker.id.to_string(),
            worker.device.adapter.clone(),
            state(worker).to_owned(),
            worker.units.to_string(),
            worker.reputation.tier.to_string(),
            worker.reason.text.clone(),
        ]
    };
    let head = ["worker", "device", "state", "units", "tier", "reason"];
    say::table(&head, workers.iter().map(row).collect());
}

fn show(worker: &api::Worker) {
    let times = |ppm: u64| format!("{:.3} of the reference device", ppm as f64 / 1e6);
    let speed = &worker.speed;
    let measured = match speed.measured_ppm {
        Some(ppm) if speed.overstated => format!("{}, much less than it claims", times(ppm)),
        Some(ppm) => times(ppm),
        None => "not yet".to_owned(),
    };
    let points = |milli: u32| format!("{}.{:03}", milli / 1_000, milli % 1_000);
    let nrs = &worker.reputation;
    say::facts(&[
        ("worker", worker.id.to_string()),
        ("owner", worker.owner.to_string()),
        ("device", format!("{}, {}", worker.device.adapter, worker.device.backend)),
        ("state", state(worker).to_owned()),
        ("reason", worker.reason.text.clone()),
        ("leases", worker.leases.to_string()),
        ("units", format!("{} accepted, {} checked for others", worker.units, worker.checked)),
        ("earned", format!("{} tokens", worker.earned.to_tokens())),
        ("speed claimed", if speed.claimed_ppm == 0 { "none".into() } else { times(speed.claimed_ppm) }),
        ("speed measured", measured),
        ("asks", format!("{} tokens a compute second", worker.ask.to_tokens())),
        (
            "reputation",
            format!(
                "{} (performance {}, reliability {}, longevity {}, ratings {}), tier {}",
                points(nrs.nrs_milli),
                points(nrs.performance_milli),
                points(nrs.reliability_milli),
                points(nrs.longevity_milli),
                points(nrs.rating_milli),
                nrs.tier
            ),
        ),
        ("heard", worker.seen_at.clone()),
    ]);
}

/// The process that holds a GPU: this binary again.
pub fn executor(device: Option<String>) -> Result<Executor, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find the plexus binary: {error}")))?;
    Ok(Executor::new(ExecutorCommand { program, args: vec!["executor".into()], device }))
}

/// What workers of this binary call themselves.
pub fn version() -> String {
    concat!("plexus/", env!("CARGO_PKG_VERSION")).to_owned()
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    if let Some(asked) = options.look {
        return look(asked).await;
    }
    let key = WalletArgument { wallet: options.wallet }.key_or_new()?;
    let dir = match options.cache {
        Some(dir) => dir,
        None => wallet::user_folder("XDG_CACHE_HOME", ".cache")?.join("blobs"),
    };
    let cache = CacheConfig {
        dir: Some(dir),
        disk_bytes_max: options.cache_mib_max.saturating_mul(1 << 20),
        ..CacheConfig::default()
    };
    let mut interrupts = Interrupts::listen()?;
    let market = options.market.with(key)?;
    let memory_bytes = options.memory.map(|mebibytes| mebibytes.saturating_mul(1 << 20));
    let terms = Terms { ask: options.ask, memory_bytes, ..Terms::default() };
    let config = Config { market, cache, version: version(), instance: None, terms };
    let mut worker = worker::start(config, executor(options.device)?)?;
    let mut status = worker.status();
    let mut display = Display::new(options.json);
    display.show(&status.borrow_and_update());
    let mut asked = 0;
    let mut ticks = tokio::time::interval(TICK);
    let ended = loop {
        tokio::select! {
            ended = worker.ended() => break ended,
            _ = ticks.tick() => display.show(&status.borrow_and_update()),
            () = interrupts.next() => {
                asked += 1;
                if asked == 1 {
                    display.note("finishing what runs; Ctrl-C again gives it back now");
                    worker.drain();
                } else {
                    worker.stop_now();
                }
            }
        }
    };
    display.show(&status.borrow_and_update());
    display.end();
    ended?;
    Ok(ExitCode::SUCCESS)
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        let text = error.to_string();
        match error {
            WorkerError::Device { .. } => Self::new(text)
                .exit(Exit::NoDevice)
                .code("no_device")
                .fix("`plexus device` shows the GPUs there are; --device chooses one"),
            WorkerError::Refused { source } => source.into(),
            WorkerError::KeyInUse { .. } => Self::new(text)
                .exit(Exit::Refused)
                .code(api::code::WORKER_KEY_IN_USE)
                .fix("stop the other worker, or start this one with --wallet and another file"),
            WorkerError::NoKey => Self::new(text),
        }
    }
}

/// Shows a worker's status: a live line on a terminal, else a line a change.
struct Display {
    json: bool,
    bar: Option<ProgressBar>,
    shown: Option<(Status, Instant)>,
    rate: Rate,
}

/// Units in the last seconds.
#[derive(Default)]
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    fn per_second(&mut self, now: Instant, units: u64) -> f64 {
        self.0.push_back((now, units));
        while self.0.len() > 2 && now.duration_since(self.0[1].0) >= RATE_WINDOW {
            self.0.pop_front();
        }
        let (since, before) = self.0[0];
        let seconds = now.duration_since(since).as_secs_f64();
        if seconds > 0.0 { (units - before) as f64 / seconds } else { 0.0 }
    }
}

impl Display {
    fn new(json: bool) -> Self {
        let bar = (!json && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}").expect("a constant template");
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { json, bar, shown: None, rate: Rate::default() }
    }

    fn show(&mut self, status: &Status) {
        let now = Instant::now();
        let rate = self.rate.per_second(now, status.units_run);
        if let Some(bar) = &self.bar {
            bar.set_message(line(status, rate));
        } else if let Some((shown, at)) = &self.shown {
            let every = if self.json { JSON_LINE_EVERY } else { LOG_LINE_EVERY };
            let same_state = shown.state == status.state && shown.reason.code == status.reason.code;
            if shown == status || (same_state && at.elapsed() < every) {
                return;
            }
        }
        let device_is_news = self.shown.as_ref().is_none_or(|(shown, _)| shown.device != status.device);
        let offer_is_news = self.shown.as_ref().is_none_or(|(shown, _)| shown.offer != status.offer);
        self.shown = Some((status.clone(), now));
        if self.json {
            let mut value = serde_json::to_value(status).unwrap_or_default();
            value["units_per_second"] = json!((rate * 1000.0).round() / 1000.0);
            say::json_line(&value);
        } else {
            if device_is_news && let Some(device) = &status.device {
                self.note(&format!("worker {} on {} ({})", status.worker, device.adapter, device.backend));
            }
            if offer_is_news && status.offer != WorkerOffer::default() {
                self.note(&offered(&status.offer));
            }
            if self.bar.is_none() {
                say::out(&line(status, rate));
            }
        }
    }

    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None if !self.json => say::out(text),
            None => {}
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

/// What the market is told beside the device's facts.
fn offered(offer: &WorkerOffer) -> String {
    let mut text = match offer.claimed_mflops {
        0 => String::new(),
        mflops => format!("measured {}.{} GFLOP/s, ", mflops / 1000, mflops % 1000 / 100),
    };
    text += &match offer.memory_bytes {
        0 => format!("lends its memory to up to {} jobs at a time", offer.slots),
        bytes => format!("lends {} MiB to up to {} jobs at a time", bytes >> 20, offer.slots),
    };
    if offer.ask > Amount(0) {
        text += &format!(", asks {} tokens a compute second", offer.ask.to_tokens());
    }
    if offer.flaws.iter().any(|flaw| flaw == FLAW_LOOP_ROUNDS) {
        text += "; loops of more than 65,535 rounds end early on this device, and jobs may exclude that";
    }
    text
}

fn line(status: &Status, rate: f64) -> String {
    let mut line = status.state.as_str().to_owned();
    if !matches!(status.state, State::Busy) {
        line = format!("{line} ({})", status.reason.text);
    }
    line += &format!(
        " · {} units · {rate:.1} units/s · earned {} tokens",
        status.units_committed,
        status.earned.to_tokens()
    );
    if status.units_refused > 0 {
        line += &format!(" · {} units refused", status.units_refused);
    }
    if status.leases_failed > 0 {
        line += &format!(" · {} leases given back", status.leases_failed);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        let start = Instant::now();
        assert_eq!(rate.per_second(start, 0), 0.0);
        for second in 1..=30 {
            let units = 4 * second;
            let found = rate.per_second(start + Duration::from_secs(second), units);
            assert!((found - 4.0).abs() < 1e-9, "{found}");
        }
        let later = (31..=45).map(|second| rate.per_second(start + Duration::from_secs(second), 120));
        assert_eq!(later.last(), Some(0.0));
    }
}
