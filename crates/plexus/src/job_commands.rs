//! `plexus job`: jobs on a market.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use api::{Job, JobState, Progress, Unit};
use client::Client;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use protocol::{JobId, PublicKey};
use serde_json::json;

use crate::{
    arguments::{MarketArgument, WalletArgument},
    exit::{Exit, Failure},
    results, say, sealed,
    signals::Interrupts,
};

/// A job is asked for at least this often while it is watched, should its events not come through.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Pause before events are asked for again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// Jobs listed without `--all`.
const LIST_MAX: usize = 50;

#[derive(clap::Subcommand)]
pub enum Command {
    /// List jobs, newest first
    Ls {
        /// Only this wallet's
        #[arg(long)]
        mine: bool,
        /// More than the newest 50
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        market: MarketArgument,
        #[command(flatten)]
        wallet: WalletArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a job: where its units are, who ran them, how they were verified, what was paid
    Show {
        /// The job, such as job-7
        id: JobId,
        /// Show every unit too
        #[arg(long)]
        units: bool,
        #[command(flatten)]
        market: MarketArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Watch a job until it ends
    Watch {
        /// The job, such as job-7
        id: JobId,
        #[command(flatten)]
        market: MarketArgument,
        /// Print JSON: a line a change
        #[arg(long)]
        json: bool,
    },
    /// End a job: finished units are paid, the rest is refunded
    Cancel(OwnJob),
    /// Rate a worker that computed for one of your jobs, once
    Rate {
        /// The job, such as job-7
        id: JobId,
        /// The worker, as `plexus job show` names it
        worker: PublicKey,
        /// 1 to 5
        #[arg(value_parser = clap::value_parser!(u8).range(1..=5))]
        stars: u8,
        #[command(flatten)]
        market: MarketArgument,
        #[command(flatten)]
        wallet: WalletArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Hold back what waits of a job; what runs goes on
    Pause(OwnJob),
    /// Give out what waits of a paused job again
    Unpause(OwnJob),
    /// Let a job that ended incomplete go on with what it lacks, at the same prices
    Resume {
        /// The job, such as job-7
        id: JobId,
        /// A new deadline, in seconds from now
        #[arg(long, value_name = "SECONDS")]
        deadline: Option<u32>,
        #[command(flatten)]
        market: MarketArgument,
        #[command(flatten)]
        wallet: WalletArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say in words why a job is where it is, and what would change that
    Why {
        /// The job, such as job-7
        id: JobId,
        #[command(flatten)]
        market: MarketArgument,
        /// Print JSON: the reason with its numbers
        #[arg(long)]
        json: bool,
    },
    /// Write a job's result files, made here from the units' outputs and checked by their hashes
    Fetch {
        /// The job, such as job-7
        id: JobId,
        /// Write to this folder [default: a folder named like the job]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Take what is there although the job is not done
        #[arg(long)]
        partial: bool,
        #[command(flatten)]
        market: MarketArgument,
        #[command(flatten)]
        wallet: WalletArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// A job of one's own.
#[derive(clap::Args)]
pub struct OwnJob {
    /// The job, such as job-7
    id: JobId,
    #[command(flatten)]
    market: MarketArgument,
    #[command(flatten)]
    wallet: WalletArgument,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl OwnJob {
    fn client(&self) -> Result<Client, Failure> {
        self.market.with(self.wallet.key()?)
    }
}

impl Command {
    /// Whether it was asked to speak JSON.
    pub fn json(&self) -> bool {
        match self {
            Self::Cancel(own) | Self::Pause(own) | Self::Unpause(own) => own.json,
            Self::Ls { json, .. }
            | Self::Show { json, .. }
            | Self::Watch { json, .. }
            | Self::Rate { json, .. }
            | Self::Resume { json, .. }
            | Self::Why { json, .. }
            | Self::Fetch { json, .. } => *json,
        }
    }
}

pub async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Ls { mine, all, market, wallet, json } => {
            let owner = if mine { Some(wallet.key()?.public()) } else { None };
            let client = market.anonymous()?;
            let mut jobs = Vec::new();
            let mut cursor = None;
            loop {
                let page = client.jobs(owner.as_ref(), cursor.as_deref()).await?;
                jobs.extend(page.items);
                cursor = page.next;
                if cursor.is_none() || (!all && jobs.len() >= LIST_MAX) {
                    break;
                }
            }
            if !all {
                jobs.truncate(LIST_MAX);
            }
            if json { say::json(&jobs) } else { list(&jobs) }
        }
        Command::Rate { id, worker, stars, market, wallet, json } => {
            let job = market.with(wallet.key()?)?.rate(id, worker, stars).await?;
            if json {
                say::json(&job);
            } else {
                say::out(&format!("{worker} has {stars} of 5 stars for {id}"));
            }
        }
        Command::Show { id, units, market, json } => {
            let client = market.anonymous()?;
            let job = find(&client, id).await?;
            let units = if units { Some(results::units(&client, id).await?) } else { None };
            if json {
                let mut answer = serde_json::to_value(&job).unwrap_or_default();
                if let Some(units) = units {
                    answer["unit_list"] = json!(units);
                }
                say::json(&answer);
            } else {
                show(&job);
                if let Some(units) = units {
                    say::out("");
                    show_units(&units);
                }
            }
        }
        Command::Watch { id, market, json } => {
            let watching = if json { Watching::JsonLines } else { Watching::ForPeople };
            let job = watch(&market.anonymous()?, id, watching).await?;
            if json {
                say::json_line(&job);
            }
            return ended(&job);
        }
        Command::Cancel(own) => {
            let id = own.id;
            let job = own.client()?.cancel(id).await.map_err(|error| missing(error, id))?;
            if own.json {
                say::json(&job);
            } else {
                say::out(&format!("{id} cancelled: {} tokens refunded", job.money.refunded.to_tokens()));
            }
        }
        Command::Pause(own) => pause(&own, true, "paused").await?,
        Command::Unpause(own) => pause(&own, false, "goes on").await?,
        Command::Resume { id, deadline, market, wallet, json } => {
            let request = api::ResumeRequest { deadline_in_s: deadline };
            let client = market.with(wallet.key()?)?;
            let job = client.resume(id, &request).await.map_err(|error| missing(error, id))?;
            answer(&job, json, "goes on");
        }
        Command::Why { id, market, json } => {
            let job = find(&market.anonymous()?, id).await?;
            if json {
                let jobs_ahead = job.score.as_ref().and_then(|score| score.jobs_ahead);
                say::json(
                    &json!({ "id": id, "state": job.state, "reason": job.reason, "jobs_ahead": jobs_ahead }),
                );
            } else {
                say::out(&why(&job));
            }
        }
        Command::Fetch { id, out, partial, market, wallet, json } => {
            let client = market.anonymous()?;
            let job = find(&client, id).await?;
            if job.state != JobState::Done && !partial {
                let (accepted, units) = (job.progress.accepted, job.units);
                let text = format!("{id} is {}: {accepted} of {units} units are there", state(job.state));
                let next = match job.state {
                    JobState::Waiting | JobState::Running | JobState::Paused => {
                        format!("`plexus job watch {id}` waits for its end; ")
                    }
                    _ => String::new(),
                };
                return Err(Failure::new(text)
                    .exit(Exit::JobUnfinished)
                    .code("job_not_done")
                    .fix(format!("{next}--partial writes what is there")));
            }
            let out = out.unwrap_or_else(|| PathBuf::from(id.to_string()));
            let keys = sealed::folder_of(&wallet.file()?);
            let files = results::fetch(&client, &job, &keys, &out).await?;
            if json {
                say::json(&json!({ "id": id, "files": files }));
            } else {
                results::print(&files);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Holds back what waits of a job, or no longer.
async fn pause(own: &OwnJob, paused: bool, what: &str) -> Result<(), Failure> {
    let job = own.client()?.pause(own.id, paused).await.map_err(|error| missing(error, own.id))?;
    answer(&job, own.json, what);
    Ok(())
}

/// Says what became of a job.
fn answer(job: &Job, json: bool, what: &str) {
    if json {
        say::json(job);
    } else {
        say::out(&format!("{} {what}: {}", job.id, why(job)));
    }
}

/// Why a job is where it is, in one paragraph.
fn why(job: &Job) -> String {
    let progress = &job.progress;
    let mut text = format!("{} is {}", job.id, state(job.state));
    if let Some(reason) = &job.reason {
        text.push_str(&format!(": {}", reason.text));
    }
    text.push_str(&format!(". {} of {} units are accepted", progress.accepted, job.units));
    if progress.skipped > 0 {
        text.push_str(&format!(", {} are no longer needed", progress.skipped));
    }
    if let Some(iteration) = &job.iteration {
        text.push_str(&format!(", in iteration {} of at most {}", iteration.current, iteration.times_max));
    }
    text.push('.');
    match job.score.as_ref().and_then(|score| score.jobs_ahead) {
        Some(0) => text.push_str(" It is the next in the queue."),
        Some(1) => text.push_str(" 1 job is before it in the queue."),
        Some(ahead) => text.push_str(&format!(" {ahead} jobs are before it in the queue.")),
        None => {}
    }
    if job.state == JobState::Incomplete {
        text.push_str(&format!(" `plexus job resume {}` has it go on with what it lacks.", job.id));
    }
    if job.state == JobState::Paused {
        text.push_str(&format!(" `plexus job unpause {}` gives out the rest.", job.id));
    }
    text
}

async fn find(client: &Client, id: JobId) -> Result<Job, Failure> {
    client.job(id).await.map_err(|error| missing(error, id))
}

/// Says how to find a job that is not there.
fn missing(error: client::Error, id: JobId) -> Failure {
    let unknown = error.code() == Some(api::code::NOT_FOUND);
    let failure = Failure::from(error);
    if unknown {
        failure.text(format!("there is no {id}")).fix("`plexus job ls` lists the jobs")
    } else {
        failure
    }
}

/// The exit code that a job's end calls for.
pub fn ended(job: &Job) -> Result<ExitCode, Failure> {
    if job.state == JobState::Done {
        return Ok(ExitCode::SUCCESS);
    }
    let reason = job.reason.as_ref().map(|reason| format!(": {}", reason.text)).unwrap_or_default();
    let failure = Failure::new(format!("{} ended {}{reason}", job.id, state(job.state)));
    Err(failure
        .exit(Exit::JobUnfinished)
        .code("job_unfinished")
        .fix(format!("`plexus job show {} --units` shows where its units are", job.id)))
}

fn is_over(job: &Job) -> bool {
    matches!(job.state, JobState::Done | JobState::Cancelled | JobState::Incomplete)
}

/// How a job is watched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Watching {
    /// A progress bar on a terminal, else a line a change.
    ForPeople,
    /// A line of JSON a change, but for the last.
    JsonLines,
    /// Not a word.
    Silent,
}

/// Watches a job until it ends, or until somebody asks this command to end: the job goes on then.
pub async fn watch(client: &Client, id: JobId, watching: Watching) -> Result<Job, Failure> {
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        job = watch_to_end(client, id, watching) => job,
        () = interrupts.next() => Err(Failure::new(format!("no longer watching {id}; the job goes on"))
            .exit(Exit::JobUnfinished)
            .code("job_not_done")
            .fix(format!("`plexus job watch {id}` watches it again, `plexus job cancel {id}` ends it"))),
    }
}

/// By the market's events, and by asking now and then.
async fn watch_to_end(client: &Client, id: JobId, watching: Watching) -> Result<Job, Failure> {
    let mut job = find(client, id).await?;
    let display = Display::new(watching, &job);
    let mut last = serde_json::Value::Null;
    loop {
        let now = serde_json::to_value(&job).unwrap_or_default();
        if now != last {
            display.show(&job);
            last = now;
        }
        if is_over(&job) {
            display.end();
            return Ok(job);
        }
        job = match tokio::time::timeout(ASK_EVERY, change(client, id)).await {
            Ok(Some(job)) => job,
            Ok(None) | Err(_) => find(client, id).await?,
        };
    }
}

/// The job as the next event about it has it; nothing when events do not come through.
async fn change(client: &Client, id: JobId) -> Option<Job> {
    let Ok(events) = client.events(None).await else {
        tokio::time::sleep(RECONNECT_PAUSE).await;
        return None;
    };
    // Between the last look and the first event it may have changed.
    let job = client.job(id).await.ok()?;
    if is_over(&job) {
        return Some(job);
    }
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event.ok()?.event {
            api::Event::Job(job) if job.id == id => return Some(*job),
            _ => {}
        }
    }
    None
}

struct Display {
    watching: Watching,
    bar: Option<ProgressBar>,
}

impl Display {
    fn new(watching: Watching, job: &Job) -> Self {
        let bar = (watching == Watching::ForPeople).then(|| {
            let template = "{prefix} {bar:30} {pos}/{len} units {elapsed} {wide_msg}";
            let style = ProgressStyle::with_template(template).expect("a constant template");
            let bar = ProgressBar::new(job.units).with_style(style.progress_chars("━╸ "));
            bar.set_prefix(format!("{} {}", job.id, job.name));
            bar
        });
        Self { watching, bar: bar.filter(|bar| !bar.is_hidden()) }
    }

    fn show(&self, job: &Job) {
        let reason = job.reason.as_ref().map(|reason| reason.text.as_str()).unwrap_or_default();
        let stages = stages(job);
        let reason = if stages.is_empty() { reason.to_owned() } else { format!("{stages} {reason}") };
        let reason = reason.as_str();
        match &self.bar {
            Some(bar) => {
                bar.set_position(job.progress.accepted);
                bar.set_message(reason.to_owned());
            }
            None if self.watching == Watching::ForPeople => {
                let (accepted, units) = (job.progress.accepted, job.units);
                say::out(
                    format!("{} {} {accepted}/{units} units {reason}", job.id, state(job.state)).trim_end(),
                );
            }
            None if self.watching == Watching::JsonLines && !is_over(job) => say::json_line(job),
            None => {}
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.set_message("");
            bar.abandon();
        }
    }
}

/// How far each stage of the current iteration is.
fn stages(job: &Job) -> String {
    let stages =
        job.stages.iter().map(|stage| format!("{} {}/{}", stage.name, stage.accepted_now, stage.units));
    let stages: Vec<_> = stages.collect();
    match &job.iteration {
        Some(iteration) => format!("iteration {}: {}", iteration.current, stages.join(", ")),
        None => stages.join(", "),
    }
}

fn state(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Paused => "paused",
        JobState::Done => "done",
        JobState::Cancelled => "cancelled",
        JobState::Incomplete => "incomplete",
    }
}

fn list(jobs: &[Job]) {
    if jobs.is_empty() {
        return say::out("no jobs");
    }
    let row = |job: &Job| {
        vec![
            job.id.to_string(),
            job.name.clone(),
            state(job.state).to_owned(),
            format!("{}/{}", job.progress.accepted, job.units),
            job.money.paid.to_tokens(),
            job.submitted_at.clone(),
            job.reason.as_ref().map(|reason| reason.text.clone()).unwrap_or_default(),
        ]
    };
    say::table(
        &["job", "name", "state", "units", "paid", "submitted", "reason"],
        jobs.iter().map(row).collect(),
    );
}

fn show(job: &Job) {
    let (progress, money, checks) = (&job.progress, &job.money, &job.verification);
    let mut rows = vec![
        ("job", format!("{} {}", job.id, job.name)),
        ("state", state(job.state).to_owned()),
        ("owner", job.owner.to_string()),
        ("submitted", job.submitted_at.clone()),
    ];
    if let Some(reason) = &job.reason {
        rows.insert(2, ("reason", reason.text.clone()));
    }
    if let Some(score) = &job.score {
        let share = |ppm: u64| format!("{:.3}", ppm as f64 / 1e6);
        let mut text = format!(
            "{}: stake {}, urgency {}, complexity {}",
            share(score.score_ppm),
            share(score.stake_ppm),
            share(score.urgency_ppm),
            share(score.complexity_ppm)
        );
        match score.jobs_ahead {
            Some(0) => text.push_str("; next in the queue"),
            Some(1) => text.push_str("; 1 job before it"),
            Some(ahead) => text.push_str(&format!("; {ahead} jobs before it")),
            None => {}
        }
        rows.push(("score", text));
    }
    if let Some(ended_at) = &job.ended_at {
        rows.push(("ended", ended_at.clone()));
    }
    if let Some(iteration) = &job.iteration {
        let reached = if iteration.reached { ", which reached what it was for" } else { "" };
        rows.push((
            "iteration",
            format!("{} of at most {}{reached}", iteration.current, iteration.times_max),
        ));
    }
    rows.extend([
        (
            "units",
            format!(
                "{}: {} accepted, {} being checked, {} leased, {} waiting, {} parked",
                job.units,
                progress.accepted,
                progress.checking,
                progress.leased,
                progress.waiting,
                progress.parked
            ),
        ),
        (
            "verified",
            format!(
                "{} executed again ({} by the market's verifier), {}{} not drawn, {} disputed, {} rejected",
                checks.checked,
                checks.by_verifier,
                match checks.algebraic {
                    0 => String::new(),
                    units => format!("{units} checked by the market without executing, "),
                },
                checks.sampled_out,
                checks.disputed,
                checks.rejected
            ),
        ),
        (
            "money",
            format!(
                "{} in escrow: {} paid, {} treasury, {} burned, {} refunded, {} held",
                money.escrowed.to_tokens(),
                money.paid.to_tokens(),
                money.treasury.to_tokens(),
                money.burned.to_tokens(),
                money.refunded.to_tokens(),
                money.held.to_tokens()
            ),
        ),
    ]);
    let files: Vec<_> = job.joins.iter().map(|join| join.file.as_str()).collect();
    if !files.is_empty() {
        rows.push(("result", files.join(", ")));
    }
    say::facts(&rows);
    if !job.stages.is_empty() {
        say::out("");
        let row = |stage: &api::JobStage| {
            let Progress { waiting, leased, checking, blocked, parked, .. } = stage.progress;
            vec![
                stage.name.clone(),
                stage.reads.join(", "),
                format!("{}/{}", stage.accepted_now, stage.units),
                stage.progress.accepted.to_string(),
                checking.to_string(),
                leased.to_string(),
                waiting.to_string(),
                blocked.to_string(),
                parked.to_string(),
            ]
        };
        let head = ["stage", "reads", "now", "accepted", "checked", "leased", "waiting", "blocked", "parked"];
        say::table(&head, job.stages.iter().map(row).collect());
    }
    if !job.workers.is_empty() {
        say::out("");
        let rows = job.workers.iter().map(|part| {
            vec![
                part.worker.to_string(),
                part.units.to_string(),
                part.checked.to_string(),
                part.paid.to_tokens(),
                format!("{:.3} s", part.device_us as f64 / 1e6),
            ]
        });
        say::table(&["worker", "units", "checked", "paid", "device time"], rows.collect());
    }
}

fn show_units(units: &[Unit]) {
    let rows = units.iter().map(|unit| {
        vec![
            unit.id.to_string(),
            format!("{:?}", unit.state).to_lowercase(),
            unit.worker.map(|worker| worker.to_string()).unwrap_or_default(),
            unit.checked_by.len().to_string(),
        ]
    });
    say::table(&["unit", "state", "worker", "checks"], rows.collect());
}
