//! The engine's values in the contract's words.

use std::collections::BTreeMap;

use api::{
    Account, Job, JobMoney, JobState, JobWorker, Lease, LeaseAnswer, Ledger, Payment, PaymentKind, Progress,
    Reason, Unit, UnitState, VerificationCounts, Worker, WorkerState,
};
use engine::{JobReason, LeaveCause, Misfit, PackageState, State, WorkerReason};
use protocol::{Amount, JobId, LeaseId, PublicKey, UnitId};
use store::{Movement, MovementKind};

use crate::time::rfc3339;

fn reason<const N: usize>(code: &str, text: String, facts: [(&str, String); N]) -> Reason {
    let facts = facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Reason { code: code.to_owned(), text, facts }
}

/// "1 unit", "2 units".
fn count(n: u64, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

fn misfit(lacks: &Misfit) -> (String, BTreeMap<String, String>) {
    let facts = |pairs: &[(&str, String)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    match lacks {
        Misfit::StorageBuffer { needed, offered } => (
            format!("a storage buffer of {needed} bytes is needed, the device binds {offered}"),
            facts(&[("storage_buffer_bytes", needed.to_string()), ("device_bytes", offered.to_string())]),
        ),
        Misfit::StorageBuffers { needed, offered } => (
            format!("{needed} storage buffers in one pass are needed, the device binds {offered}"),
            facts(&[("storage_buffers", needed.to_string()), ("device_buffers", offered.to_string())]),
        ),
        Misfit::Price { asks, pays } => (
            format!("{} tokens a compute second are asked, {} are paid", asks.to_tokens(), pays.to_tokens()),
            facts(&[("asks", asks.to_string()), ("pays", pays.to_string())]),
        ),
        Misfit::Stake { value, left } => (
            format!(
                "a unit is worth {} tokens, the owner's stake lets it hold {} more",
                value.to_tokens(),
                left.to_tokens()
            ),
            facts(&[("value", value.to_string()), ("left", left.to_string())]),
        ),
        Misfit::Feature(feature) => {
            (format!("the device lacks the feature {feature}"), facts(&[("feature", feature.clone())]))
        }
    }
}

/// Why a job is not done; nothing for one that is.
pub fn job_reason(why: &JobReason, now_ms: u64) -> Option<Reason> {
    Some(match why {
        JobReason::Done => return None,
        JobReason::Running { leased, checking, waiting } => reason(
            "running",
            format!("workers hold {}, {checking} are being checked, {waiting} wait", count(*leased, "unit")),
            [
                ("leased", leased.to_string()),
                ("checking", checking.to_string()),
                ("waiting", waiting.to_string()),
            ],
        ),
        JobReason::NoWorkers => reason("no_workers", "no worker is online".into(), []),
        JobReason::NoWorkerFits { online, lacks } => {
            let (text, mut facts) = misfit(lacks);
            facts.insert("online".into(), online.to_string());
            Reason {
                code: "no_worker_fits".into(),
                text: format!("none of {} online can run it: {text}", count(*online, "worker")),
                facts,
            }
        }
        JobReason::AllBusy { fitting, online } => reason(
            "all_busy",
            format!("{fitting} of {} online can run it, and all of them are busy", count(*online, "worker")),
            [("fitting", fitting.to_string()), ("online", online.to_string())],
        ),
        JobReason::TooFewDevices { needed, fitting } => reason(
            "too_few_devices",
            format!("its units run on {needed} devices at once, and {fitting} of those online can run it"),
            [("needed", needed.to_string()), ("fitting", fitting.to_string())],
        ),
        JobReason::Gathering { needed, free, start_ms } => {
            let start_s = start_ms.saturating_sub(now_ms).div_ceil(1_000);
            reason(
                "gathering",
                format!(
                    "its units run on {needed} devices at once; {free} of those kept for it are free, the last one in about \
                     {start_s} s"
                ),
                [
                    ("needed", needed.to_string()),
                    ("free", free.to_string()),
                    ("start_s", start_s.to_string()),
                ],
            )
        }
        JobReason::GangBehind { job } => reason(
            "gang_behind",
            format!("its units run on several devices at once, and {job} of the same kind comes first"),
            [("job", job.to_string())],
        ),
        JobReason::NextRequest { idle } => reason(
            "next_request",
            format!("{} will be given its units with the next request", count(*idle, "idle worker")),
            [("idle", idle.to_string())],
        ),
        JobReason::NoChecker { checking, online } => reason(
            "no_checker",
            format!(
                "{} wait for a check, and every worker online belongs to those who computed them",
                count(*checking, "unit")
            ),
            [("checking", checking.to_string()), ("online", online.to_string())],
        ),
        JobReason::Checking { checking } => reason(
            "checking",
            format!("all units are computed; {} are being checked", count(*checking, "unit")),
            [("checking", checking.to_string())],
        ),
        JobReason::Cancelled => reason("cancelled", "its owner ended it".into(), []),
        JobReason::Incomplete { parked, why } => reason(
            "units_parked",
            format!(
                "{} were given up after too many attempts; the last failure: {why}",
                count(*parked, "unit")
            ),
            [("parked", parked.to_string()), ("failure", why.clone())],
        ),
    })
}

/// Why a worker is idle, or what it does.
pub fn worker_reason(why: &WorkerReason, now_ms: u64) -> Reason {
    match why {
        WorkerReason::Working { leases } => reason(
            "working",
            format!("works on {}", count(*leases, "package")),
            [("leases", leases.to_string())],
        ),
        WorkerReason::NextRequest => {
            reason("next_request", "there is work, and it gets some with its next request".into(), [])
        }
        WorkerReason::NoJobs => reason("no_jobs", "nobody wants anything computed".into(), []),
        WorkerReason::NoJobFits { jobs, lacks } => {
            let (text, mut facts) = misfit(lacks);
            facts.insert("jobs".into(), jobs.to_string());
            Reason {
                code: "no_matching_job".into(),
                text: format!("{} wait, but none fits this device: {text}", count(*jobs, "job")),
                facts,
            }
        }
        WorkerReason::OnlyFailedUnits { jobs } => reason(
            "only_failed_units",
            "the units that wait failed here before; another worker shall try them".into(),
            [("jobs", jobs.to_string())],
        ),
        WorkerReason::OnlyOwnChecks { checks } => reason(
            "only_own_checks",
            "only checks of its owner's own work wait, which somebody else must make".into(),
            [("checks", checks.to_string())],
        ),
        WorkerReason::AllLeased { units } => reason(
            "all_leased",
            "all units are with other workers or being checked".into(),
            [("packages", units.to_string())],
        ),
        WorkerReason::VerifierStandby { checks } => reason(
            "verifier_standby",
            "the market's verifier leaves checks to others at first".into(),
            [("checks", checks.to_string())],
        ),
        WorkerReason::Reserved { job, start_ms } => {
            let start_s = start_ms.saturating_sub(now_ms).div_ceil(1_000);
            reason(
                "reserved",
                format!(
                    "is kept for {job}, whose units start on several devices at once in about {start_s} s; nothing that \
                     waits is short enough to run before"
                ),
                [("job", job.to_string()), ("start_s", start_s.to_string())],
            )
        }
        WorkerReason::Draining { leases } => reason(
            "draining",
            format!("finishes {} and takes no more", count(*leases, "package")),
            [("leases", leases.to_string())],
        ),
        WorkerReason::Gone(LeaveCause::Left) => reason("left", "it left".into(), []),
        WorkerReason::Gone(LeaveCause::Silent) => {
            reason("silent", "it was not heard for too long".into(), [])
        }
    }
}

/// Why this worker idles; of one that is not announced, that.
pub fn reason_of(state: &State, worker: PublicKey, now_ms: u64) -> Reason {
    match state.worker_reason(worker, now_ms) {
        Some(why) => worker_reason(&why, now_ms),
        None => reason("not_announced", "the worker is not announced".into(), []),
    }
}

/// One account; an unknown one has nothing.
pub fn account(state: &State, id: PublicKey) -> Account {
    let account = state.accounts().get(&id).copied().unwrap_or_default();
    Account {
        id,
        available: account.available,
        escrowed: account.escrowed,
        earned: account.earned,
        spent: account.spent,
    }
}

/// All money.
pub fn ledger(state: &State) -> Ledger {
    let ledger = state.ledger();
    let available = state.accounts().values().map(|account| account.available.0).sum();
    Ledger {
        deposited: ledger.deposited,
        available: Amount(available),
        held: ledger.held,
        escrowed: ledger.escrowed,
        paid: ledger.paid,
        treasury: ledger.treasury,
        burned: ledger.burned,
        refunded: ledger.refunded,
    }
}

/// One job.
pub fn job(state: &State, id: JobId, now_ms: u64) -> Option<Job> {
    let job = state.jobs().get(&id)?;
    let (money, counts) = (&job.money, &job.verification);
    Some(Job {
        id,
        name: job.spec.name.clone(),
        owner: job.owner,
        kind: job.spec.kind,
        state: match job.state {
            engine::JobState::Waiting => JobState::Waiting,
            engine::JobState::Running => JobState::Running,
            engine::JobState::Done => JobState::Done,
            engine::JobState::Cancelled => JobState::Cancelled,
            engine::JobState::Incomplete { .. } => JobState::Incomplete,
        },
        reason: state.job_reason(id, now_ms).and_then(|why| job_reason(&why, now_ms)),
        units: job.spec.units(),
        progress: Progress {
            waiting: job.waiting_units(),
            leased: job.leased_units,
            checking: job.checking_units,
            accepted: job.accepted_units,
            parked: job.parked_units,
        },
        manifest: job.spec.stages[0].manifest,
        inputs: inputs(&job.spec.stages[0]),
        // Written by this server from checked values.
        joins: serde_json::from_str(&job.spec.joins_json).unwrap_or_default(),
        unit_price: job.spec.stages[0].unit_price,
        money: JobMoney {
            escrowed: money.escrowed,
            paid: money.paid,
            treasury: money.treasury,
            burned: money.burned,
            refunded: money.refunded,
            held: job.held(),
        },
        verification: VerificationCounts {
            checked: counts.checked,
            by_verifier: counts.by_verifier,
            sampled_out: counts.sampled_out,
            disputed: counts.disputed,
            rejected: counts.rejected,
        },
        workers: job
            .workers
            .iter()
            .map(|(worker, part)| JobWorker {
                worker: *worker,
                units: part.units,
                checked: part.checked,
                paid: part.paid,
                device_us: part.device_us,
            })
            .collect(),
        submitted_at: rfc3339(job.submitted_at_ms),
        ended_at: job.ended_at_ms.map(rfc3339),
    })
}

/// One worker.
pub fn worker(state: &State, id: PublicKey, now_ms: u64) -> Option<Worker> {
    let worker = state.workers().get(&id)?;
    Some(Worker {
        id,
        owner: worker.owner,
        verifier: worker.verifier,
        kind: worker.device.kind,
        device: worker.device.clone(),
        state: match worker.state() {
            engine::WorkerState::Idle => WorkerState::Idle,
            engine::WorkerState::Busy => WorkerState::Busy,
            engine::WorkerState::Draining => WorkerState::Draining,
            engine::WorkerState::Gone(_) => WorkerState::Gone,
        },
        reason: reason_of(state, id, now_ms),
        units: worker.units,
        checked: worker.checked,
        earned: worker.earned,
        streak: worker.streak,
        leases: worker.leases.len() as u32,
        seen_at: rfc3339(worker.seen_at_ms),
    })
}

/// These leases, as their worker sees them. One that ended within its own group is not shown.
pub fn leases(state: &State, now_ms: u64, leases: &[LeaseId]) -> Vec<Lease> {
    leases.iter().filter_map(|id| lease(state, now_ms, *id)).collect()
}

/// The leases just granted, or why there are none.
pub fn lease_answer(state: &State, now_ms: u64, worker: PublicKey, leases: &[LeaseId]) -> LeaseAnswer {
    let leases = self::leases(state, now_ms, leases);
    let reason = leases.is_empty().then(|| reason_of(state, worker, now_ms));
    LeaseAnswer { leases, reason }
}

fn inputs(stage: &engine::Stage) -> Vec<protocol::InputSplit> {
    let blob = |input: &engine::StageInput| match input {
        engine::StageInput::Blob(split) => Some(*split),
        engine::StageInput::Stage(_) => None,
    };
    stage.inputs.iter().filter_map(blob).collect()
}

pub fn lease(state: &State, now_ms: u64, id: LeaseId) -> Option<Lease> {
    let lease = state.leases().get(&id)?;
    let units = state.lease_units(lease);
    let stage = state.jobs().get(&lease.job)?.spec.stage_of(units.first()?.first);
    Some(Lease {
        id,
        generation: lease.generation,
        job: lease.job,
        manifest: stage.manifest,
        units,
        unit_base: 0,
        inputs: inputs(stage).into_iter().map(api::LeaseInput::Split).collect(),
        expires_in_ms: u32::try_from(lease.deadline_ms.saturating_sub(now_ms)).unwrap_or(u32::MAX),
    })
}

/// A job's units from `first` on, at most `limit`, as `viewer` may see them. Nothing when there is no such job.
///
/// Only the owner sees which units are being checked: a worker that could look up the units of its lease would know whether the
/// lease is a check, and compute honestly only then.
pub fn units(
    state: &State,
    id: JobId,
    first: u64,
    limit: u64,
    viewer: Option<PublicKey>,
) -> Option<Vec<Unit>> {
    let job = state.jobs().get(&id)?;
    let end = first.saturating_add(limit).min(job.spec.units());
    let mut units: Vec<Unit> = (first..end)
        .map(|index| Unit {
            id: UnitId { job: id, index },
            // Neither waiting, leased, committed nor accepted.
            state: UnitState::Parked,
            outputs: Vec::new(),
            worker: None,
            checked_by: Vec::new(),
        })
        .collect();
    let clip = |from: u64, count: u64| {
        let (from, to) = (from.max(first), from.saturating_add(count).min(end));
        (from < to).then(|| (from - first) as usize..(to - first) as usize)
    };
    for run in job.queues.iter().flat_map(|queue| &queue.waiting) {
        let Some(range) = clip(run.first, run.count) else { continue };
        units[range].iter_mut().for_each(|unit| unit.state = UnitState::Waiting);
    }
    for package in state.packages().values().filter(|package| package.job == id) {
        let Some(range) = clip(package.run.first, package.run.count.into()) else { continue };
        let at = match package.state {
            PackageState::Leased(_) => UnitState::Leased,
            PackageState::Committed { .. } if viewer == Some(job.owner) => UnitState::Checking,
            PackageState::Committed { .. } => UnitState::Leased,
        };
        units[range].iter_mut().for_each(|unit| unit.state = at);
    }
    let before = job.accepted.range(..=first).next_back().map_or(first, |(at, _)| *at);
    for (run_first, run) in job.accepted.range(before..end.max(before)) {
        let Some(range) = clip(*run_first, run.count.into()) else { continue };
        for unit in &mut units[range] {
            unit.state = UnitState::Accepted;
            unit.worker = Some(run.worker);
            let offset = usize::try_from(unit.id.index - run_first).expect("a unit of the run");
            unit.outputs = run.outputs.get(offset).cloned().unwrap_or_default();
            let checked = run.checked.iter().filter(|(index, _)| *index == unit.id.index);
            unit.checked_by = checked.map(|(_, by)| *by).collect();
        }
    }
    Some(units)
}

/// The movements one row stands for, last first: a settlement also paid the treasury and burned something.
pub fn payments(movement: &Movement) -> impl Iterator<Item = (u8, Payment)> + use<> {
    let base = Payment {
        seq: movement.seq,
        at: rfc3339(movement.at_ms),
        kind: match movement.kind {
            MovementKind::Deposit => PaymentKind::Deposit,
            MovementKind::Escrow => PaymentKind::Escrow,
            MovementKind::Work => PaymentKind::Work,
            MovementKind::Check => PaymentKind::Check,
            MovementKind::Refund => PaymentKind::Refund,
        },
        account: Some(movement.account),
        job: movement.job,
        package: movement.package,
        worker: movement.worker,
        amount: movement.amount,
    };
    let beside = |kind, amount: Amount| {
        (amount > Amount::ZERO).then(|| Payment { kind, account: None, amount, ..base.clone() })
    };
    let (burned, treasury) =
        (beside(PaymentKind::Burn, movement.burned), beside(PaymentKind::Treasury, movement.treasury));
    [(2, burned), (1, treasury), (0, Some(base))].into_iter().filter_map(|(n, p)| p.map(|p| (n, p)))
}
