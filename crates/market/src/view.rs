//! The engine's values in the contract's words.

use std::collections::BTreeMap;

use api::{
    Account, GatheredInput, GatheredUnit, Job, JobIteration, JobMoney, JobStage, JobState, JobWorker, Lease,
    LeaseAnswer, LeaseInput, Ledger, Payment, PaymentKind, Progress, Reason, Unit, UnitState,
    VerificationCounts, Worker, WorkerState,
};
use engine::{
    Blockage, JobReason, LeaveCause, Misfit, PackageState, Place, Shortfall, StageInput, State, WorkerReason,
};
use protocol::{Amount, Hash, JobId, LeaseId, PublicKey, UnitId, UnitRun, VerdictId};
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
        Misfit::Memory { needed, offered } => (
            format!("a unit needs {} of memory, the worker lends {}", bytes(*needed), bytes(*offered)),
            facts(&[("memory_bytes", needed.to_string()), ("lent_bytes", offered.to_string())]),
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

/// "1 unit was", "2 units were".
fn were(n: u64, thing: &str) -> String {
    format!("{} {}", count(n, thing), if n == 1 { "was" } else { "were" })
}

/// What a device needs that this one lacks.
fn need(lacks: &Misfit) -> String {
    match lacks {
        Misfit::StorageBuffer { needed, .. } => format!("≥ {} storage buffers", bytes(*needed)),
        Misfit::StorageBuffers { needed, .. } => format!("≥ {needed} storage buffers in one pass"),
        Misfit::Feature(feature) => format!("the feature {feature}"),
        Misfit::Memory { needed, .. } => format!("≥ {} of memory to lend", bytes(*needed)),
        Misfit::Price { .. } => "an ask of at most what it pays".to_owned(),
        Misfit::Stake { .. } => "enough stake behind it".to_owned(),
    }
}

/// A number of bytes for a person.
fn bytes(n: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if n >= unit {
            return format!("{} {name}", n.div_ceil(unit));
        }
    }
    format!("{n} bytes")
}

/// A time for a person.
fn about(ms: u64) -> String {
    match ms.div_ceil(1_000) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3_600)),
    }
}

/// Why a job is not done, with what its next stage waits for.
fn job_reason_of(state: &State, job: &engine::Job, id: JobId, now_ms: u64) -> Option<Reason> {
    let why = job.end_reason().or_else(|| state.job_reason(id, now_ms))?;
    let mut reason = job_reason(&why, now_ms)?;
    if let (false, Some(block)) = (job.state.ended(), job.blockage()) {
        let Blockage { iteration, stage, upstream, done, of } = block;
        let name = |stage: u32| job.spec.stages[stage as usize].name.as_str();
        let (stage, upstream) = (name(stage), name(upstream));
        reason.text.push_str(&format!("; stage {stage} waits for {upstream} ({done} of {of} done)"));
        let facts = [
            ("blocked", job.blocked_units.to_string()),
            ("stage", stage.to_owned()),
            ("waits_for", upstream.to_owned()),
            ("iteration", (iteration + 1).to_string()),
            ("inputs_done", done.to_string()),
            ("inputs", of.to_string()),
        ];
        reason.facts.extend(facts.map(|(name, value)| (name.to_owned(), value)));
    }
    Some(reason)
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
        JobReason::AllBusy { fitting, online, lacks, free_in_ms } => {
            let (need, mut facts) = match lacks {
                Some(lacks) => (format!("waits for a device with {}", need(lacks)), misfit(lacks).1),
                None => ("waits for a free device".to_owned(), BTreeMap::new()),
            };
            let mut text = match lacks {
                Some(_) => format!("{need}; {fitting} of {online} have it, all busy"),
                None => format!("{need}; {fitting} of {online} can run it, all busy"),
            };
            if let Some(free) = free_in_ms {
                text.push_str(&format!(", next free in about {}", about(*free)));
                facts.insert("free_in_ms".into(), free.to_string());
            }
            facts.insert("fitting".into(), fitting.to_string());
            facts.insert("online".into(), online.to_string());
            Reason { code: "all_busy".into(), text, facts }
        }
        JobReason::Paused { waiting, leased, checking } => reason(
            "paused",
            format!(
                "its owner holds back {}; {leased} are still with workers and {checking} are being checked",
                count(*waiting, "unit")
            ),
            [
                ("waiting", waiting.to_string()),
                ("leased", leased.to_string()),
                ("checking", checking.to_string()),
            ],
        ),
        JobReason::Overdue { leased, checking } => reason(
            "deadline",
            format!(
                "its deadline passed; {} with workers may still finish, {checking} are being checked",
                count(*leased, "unit")
            ),
            [("leased", leased.to_string()), ("checking", checking.to_string())],
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
        JobReason::RecipientsAway { recipients, online, checking } => reason(
            "recipients_away",
            match checking {
                0 => format!(
                    "it is sealed to {}, and none of them is online; it waits until one is back, or until its owner cancels it",
                    count(*recipients, "worker")
                ),
                _ => format!(
                    "{} wait for a check by another one of the {} that it is sealed to, of which {online} are online; it waits until \
                     one is back, or until its owner cancels it",
                    count(*checking, "unit"),
                    count(*recipients, "worker")
                ),
            },
            [
                ("recipients", recipients.to_string()),
                ("online", online.to_string()),
                ("checking", checking.to_string()),
            ],
        ),
        JobReason::Checking { checking } => reason(
            "checking",
            format!("all units are computed; {} are being checked", count(*checking, "unit")),
            [("checking", checking.to_string())],
        ),
        JobReason::Cancelled => reason("cancelled", "its owner ended it".into(), []),
        JobReason::Incomplete { cause, parked, blocked, undone, why } => {
            let (code, mut text) = match cause {
                Shortfall::Parked => (
                    "units_parked",
                    format!("{} given up after too many attempts: {why}", were(*parked, "unit")),
                ),
                Shortfall::Deadline => {
                    ("deadline", format!("its deadline passed before {} begun", were(*undone, "unit")))
                }
            };
            if *blocked > 0 {
                text.push_str(&format!(
                    "; {} for results in vain",
                    if *blocked == 1 { "1 unit waits".into() } else { format!("{blocked} units wait") }
                ));
            }
            let facts = [
                ("parked", parked.to_string()),
                ("blocked", blocked.to_string()),
                ("undone", undone.to_string()),
                ("failure", why.clone()),
            ];
            reason(code, text, facts)
        }
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
        WorkerReason::OnlySealed { jobs } => reason(
            "only_sealed",
            format!("{} wait, sealed to others", count(*jobs, "job")),
            [("jobs", jobs.to_string())],
        ),
        WorkerReason::Booked { reservation, until_ms } => {
            let left_s = until_ms.saturating_sub(now_ms).div_ceil(1_000);
            reason(
                "booked",
                format!("is kept for a job that somebody seals to it, for {left_s} s at most"),
                [("reservation", reservation.to_string()), ("left_s", left_s.to_string())],
            )
        }
        WorkerReason::OnlyPaused { jobs } => reason(
            "only_paused",
            format!("{} held back by their owners", were(*jobs, "job")),
            [("jobs", jobs.to_string())],
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
        pending: account.pending,
        releases: state
            .pending_of(id)
            .into_iter()
            .map(|(free_at_ms, amount)| api::PendingPay { amount, free_at: rfc3339(free_at_ms) })
            .collect(),
        spent: account.spent,
        bonded: account.bonded,
        frozen: account.frozen,
        unbonding: account.unbonding,
        rewarded: account.rewarded,
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
        royalties: ledger.royalties,
        emitted: ledger.emitted,
        bonded: ledger.bonded,
        frozen: ledger.frozen,
        unbonding: ledger.unbonding,
        pending: ledger.pending,
    }
}

/// One job.
pub fn job(state: &State, id: JobId, now_ms: u64) -> Option<Job> {
    Some(job_of(state, id, state.jobs().get(&id)?, now_ms))
}

/// A job that the state has let go, from its archive.
pub fn archived_job(id: JobId, job: &engine::Job) -> Job {
    job_of(&State::default(), id, job, 0)
}

fn job_of(state: &State, id: JobId, job: &engine::Job, now_ms: u64) -> Job {
    let (money, counts) = (&job.money, &job.verification);
    Job {
        id,
        name: job.spec.name.clone(),
        owner: job.owner,
        kind: job.spec.kind,
        state: match job.state {
            engine::JobState::Waiting | engine::JobState::Running if job.paused => JobState::Paused,
            engine::JobState::Waiting => JobState::Waiting,
            engine::JobState::Running => JobState::Running,
            engine::JobState::Done => JobState::Done,
            engine::JobState::Cancelled => JobState::Cancelled,
            engine::JobState::Incomplete { .. } => JobState::Incomplete,
        },
        reason: job_reason_of(state, job, id, now_ms),
        score: score(state, id, now_ms),
        expected_ms: job.expected_ms,
        units: job.spec.units(),
        progress: Progress {
            waiting: job.waiting_units(),
            leased: job.leased_units,
            checking: job.checking_units,
            accepted: job.accepted_units,
            parked: job.parked_units,
            blocked: job.blocked_units,
            skipped: job.skipped_units,
        },
        stages: stages(state, job),
        iteration: job.spec.iterate.map(|iterate| JobIteration {
            current: job.iteration() as u32 + 1,
            times_max: iterate.times_max,
            reached: job.last_iteration.is_some(),
        }),
        deadline: job.deadline_ms.map(rfc3339),
        manifest: job.spec.stages[0].manifest,
        inputs: job.spec.stages[0]
            .inputs
            .iter()
            .filter_map(|input| match input {
                StageInput::Blob(split) => Some(*split),
                StageInput::Stage(_) => None,
            })
            .collect(),
        // Written by this server from checked values.
        joins: serde_json::from_str(&job.spec.joins_json).unwrap_or_default(),
        unit_price: job.spec.stages[0].unit_price,
        money: JobMoney {
            escrowed: money.escrowed,
            paid: money.paid,
            treasury: money.treasury,
            burned: money.burned,
            royalties: money.royalties,
            refunded: money.refunded,
            held: job.held(),
        },
        verification: VerificationCounts {
            checked: counts.checked,
            by_verifier: counts.by_verifier,
            algebraic: counts.algebraic,
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
                stars: part.stars,
            })
            .collect(),
        submitted_at: rfc3339(job.submitted_at_ms),
        ended_at: job.ended_at_ms.map(rfc3339),
        sealed_to: job.sealed.iter().flat_map(|sealed| sealed.keys().copied()).collect(),
    }
}

/// Why a job is served when it is. Its place in the queue is shown with one job alone: counting is work.
fn score(state: &State, id: JobId, now_ms: u64) -> Option<api::Score> {
    let job = state.jobs().get(&id).filter(|job| !job.state.ended())?;
    let terms = state.score(job, now_ms);
    Some(api::Score {
        stake_ppm: terms.stake_ppm,
        urgency_ppm: terms.urgency_ppm,
        complexity_ppm: terms.complexity_ppm,
        score_ppm: terms.score_ppm,
        jobs_ahead: None,
    })
}

/// One job with its place in the queue.
pub fn job_in_queue(state: &State, id: JobId, now_ms: u64) -> Option<Job> {
    let mut job = job(state, id, now_ms)?;
    if let Some(score) = &mut job.score {
        let ahead = state.jobs_ahead(id, now_ms);
        score.jobs_ahead = ahead.map(|jobs| u32::try_from(jobs).unwrap_or(u32::MAX));
    }
    Some(job)
}

fn reputation(found: &engine::Reputation) -> api::Reputation {
    api::Reputation {
        performance_milli: found.performance_milli,
        reliability_milli: found.reliability_milli,
        longevity_milli: found.longevity_milli,
        rating_milli: found.rating_milli,
        nrs_milli: found.nrs_milli,
        tier: found.tier,
    }
}

fn opinion(said: &engine::Opinion) -> api::Opinion {
    api::Opinion {
        worker: said.worker,
        owner: said.owner,
        agrees: said.agrees,
        receipt: said.receipt,
        evidence: said.evidence.clone(),
    }
}

/// A verdict as it was reached.
pub fn reached(event: &engine::Event, at_ms: u64) -> Option<api::Verdict> {
    let engine::Event::VerdictReached {
        verdict,
        package,
        job,
        run,
        worker,
        owner,
        receipt,
        cause,
        opinions,
        disputed,
        pay,
        slash,
        until_ms,
    } = event
    else {
        return None;
    };
    Some(api::Verdict {
        id: *verdict,
        job: *job,
        package: *package,
        units: *run,
        worker: *worker,
        owner: *owner,
        receipt: *receipt,
        cause: match cause {
            engine::Verdict::Outvoted => api::VerdictCause::Outvoted,
            engine::Verdict::VerifierDisagrees => api::VerdictCause::VerifierDisagrees,
            engine::Verdict::Unverifiable => api::VerdictCause::Unverifiable,
            engine::Verdict::Disproved => api::VerdictCause::Disproved,
        },
        opinions: opinions.iter().map(opinion).collect(),
        disputed: disputed.clone(),
        pay: *pay,
        slash: slash.total(),
        reached_at: rfc3339(at_ms),
        state: api::VerdictState::Standing,
        is_final: false,
        contestable_until: rfc3339(*until_ms),
        appeal: None,
        closing: None,
    })
}

/// How a verdict became final.
pub fn closing(
    at_ms: u64,
    outcome: engine::Outcome,
    said: &[engine::Opinion],
    closing: &engine::Closing,
) -> api::VerdictClosing {
    let seized = closing.seized.iter().map(|(_, seizure)| seizure.total().0).sum();
    api::VerdictClosing {
        at: rfc3339(at_ms),
        outcome: match outcome {
            engine::Outcome::Uncontested => api::VerdictOutcome::Uncontested,
            engine::Outcome::Upheld => api::VerdictOutcome::Upheld,
            engine::Outcome::Unexamined => api::VerdictOutcome::Unexamined,
            engine::Outcome::Overturned => api::VerdictOutcome::Overturned,
        },
        opinions: said.iter().map(opinion).collect(),
        deposit: closing.deposit,
        compensation: closing.compensation,
        taken_from_accusers: Amount(seized),
        from_treasury: closing.from_treasury,
        treasury: closing.treasury,
        burned: closing.burned,
    }
}

/// A verdict from its row.
pub fn verdict(row: &store::VerdictRow) -> Option<api::Verdict> {
    let text = |text: &str| (!text.is_empty()).then(|| serde_json::from_str::<serde_json::Value>(text));
    let mut verdict: api::Verdict = serde_json::from_str(&row.reached).ok()?;
    if let Some(appeal) = text(&row.change.contested) {
        verdict.appeal = Some(serde_json::from_value(appeal.ok()?).ok()?);
        verdict.state = api::VerdictState::Contested;
    }
    if let Some(closing) = text(&row.change.closed) {
        let closing: api::VerdictClosing = serde_json::from_value(closing.ok()?).ok()?;
        verdict.state = match closing.outcome {
            api::VerdictOutcome::Uncontested => api::VerdictState::Standing,
            api::VerdictOutcome::Upheld | api::VerdictOutcome::Unexamined => api::VerdictState::Upheld,
            api::VerdictOutcome::Overturned => api::VerdictState::Overturned,
        };
        verdict.is_final = true;
        verdict.closing = Some(closing);
    }
    Some(verdict)
}

/// How a verdict is contested.
pub fn contested(at_ms: u64, deposit: Amount, until_ms: u64) -> api::VerdictAppeal {
    api::VerdictAppeal { at: rfc3339(at_ms), deposit, until: rfc3339(until_ms) }
}

/// The appeal against a verdict that is not final.
pub fn appeal(state: &State, id: VerdictId) -> Option<api::VerdictAppeal> {
    let verdict = state.verdicts().get(&id)?;
    let appeal = verdict.appeal.as_ref()?;
    Some(contested(appeal.at_ms, appeal.deposit, verdict.until_ms))
}

/// What a job would cost.
pub fn quote(found: &engine::Quote) -> api::Quote {
    let stage = |stage: &engine::StageQuote| api::StageQuote {
        base: stage.base,
        providers: stage.providers,
        demand_ppm: stage.demand_ppm,
        capability_ppm: stage.capability_ppm,
        season_ppm: stage.season_ppm,
        ask_min: stage.ask_min,
        rate: stage.rate,
        reference_ns: stage.reference_ns,
        market_price: stage.market_price,
        unit_price: stage.unit_price,
        units: stage.units,
        copies: stage.copies,
    };
    api::Quote {
        stages: found.stages.iter().map(stage).collect(),
        escrow: found.escrow.unwrap_or(Amount(u64::MAX)),
        wait_ms: found.wait_ms,
        run_ms: found.run_ms,
    }
}

/// One worker.
pub fn worker(state: &State, id: PublicKey, now_ms: u64) -> Option<Worker> {
    let worker = state.workers().get(&id)?;
    let terms = state.audit_terms(id, Amount::ZERO, 0);
    let trust = api::Trust {
        worker_streak: terms.worker_streak,
        owner_streak: terms.owner_streak,
        record_ppm: terms.record_ppm,
        floor_ppm: terms.floor_ppm,
        loss: terms.loss,
    };
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
        streak: trust.worker_streak,
        trust,
        reputation: reputation(&state.reputation(worker.owner)),
        speed: api::Speed {
            claimed_ppm: worker.speed.claimed_ppm,
            measured_ppm: worker.speed.measured_ppm,
            overstated: worker.speed.overstated,
        },
        ask: worker.offer.ask,
        leases: worker.leases.len() as u32,
        seen_at: rfc3339(worker.seen_at_ms),
        sealing_key: worker.sealing,
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

/// A job's stages; none for a plain job.
fn stages(state: &State, job: &engine::Job) -> Vec<JobStage> {
    let spec = &job.spec;
    if !has_stages(spec) {
        return Vec::new();
    }
    let iteration = job.iteration();
    let mut stages: Vec<_> = (0..)
        .zip(spec.stages.iter().zip(&job.queues))
        .map(|(number, (stage, queue))| JobStage {
            name: stage.name.clone(),
            reads: stage.inputs.iter().filter_map(|input| reads(spec, input)).collect(),
            units: stage.units,
            accepted_now: job.done_units(iteration, number),
            progress: Progress {
                waiting: queue.waiting_units,
                accepted: queue.accepted_units,
                parked: queue.parked_units,
                skipped: queue.skipped_units,
                ..Progress::default()
            },
            manifest: stage.manifest,
            unit_price: stage.unit_price,
        })
        .collect();
    let packages = |id: &LeaseId| match state.leases().get(id)?.work {
        engine::Work::Package { run, .. } => Some(run),
        engine::Work::Check { .. } => None,
    };
    let leased = job.leases.iter().filter_map(packages);
    let checking = job.committed.iter().filter_map(|id| Some(state.packages().get(id)?.run));
    for run in leased {
        stages[spec.place(run.first).stage as usize].progress.leased += u64::from(run.count);
    }
    for run in checking {
        stages[spec.place(run.first).stage as usize].progress.checking += u64::from(run.count);
    }
    for stage in &mut stages {
        let Progress { waiting, leased, checking, accepted, parked, skipped, .. } = stage.progress;
        let elsewhere = waiting + leased + checking + accepted + parked + skipped;
        stage.progress.blocked = (stage.units * spec.iterations_max()).saturating_sub(elsewhere);
    }
    stages
}

/// Whether a job is more than one stage that is run once.
fn has_stages(spec: &engine::JobSpec) -> bool {
    spec.stages.len() > 1 || spec.iterate.is_some()
}

fn reads(spec: &engine::JobSpec, input: &StageInput) -> Option<String> {
    let StageInput::Stage(gather) = input else { return None };
    let name = &spec.stages[gather.stage as usize].name;
    Some(if gather.initial.is_some() { format!("previous {name}") } else { name.clone() })
}

pub(crate) fn lease(state: &State, now_ms: u64, id: LeaseId) -> Option<Lease> {
    let lease = state.leases().get(&id)?;
    let units = state.lease_units(lease);
    let job = state.jobs().get(&lease.job)?;
    let first = units.first()?.first;
    let place = job.spec.place(first);
    let stage = &job.spec.stages[place.stage as usize];
    let unit_base = first - place.index;
    Some(Lease {
        id,
        generation: lease.generation,
        job: lease.job,
        manifest: stage.manifest,
        inputs: stage.inputs.iter().map(|input| lease_input(job, place, input, &units)).collect(),
        units,
        unit_base,
        expires_in_ms: u32::try_from(lease.deadline_ms.saturating_sub(now_ms)).unwrap_or(u32::MAX),
        envelope: state.envelope(lease.job, &lease.worker),
    })
}

/// An input of the units of one lease, which are of one stage and iteration.
fn lease_input(job: &engine::Job, place: Place, input: &StageInput, units: &[UnitRun]) -> LeaseInput {
    let gather = match input {
        StageInput::Blob(split) => return LeaseInput::Split(*split),
        StageInput::Stage(gather) => gather,
    };
    let spec = &job.spec;
    let base = spec.first_unit(place.iteration, place.stage);
    let windows: Option<Vec<_>> = units
        .iter()
        .flat_map(|run| run.units())
        .map(|unit| spec.reads(Place { index: unit - base, ..place }, gather))
        .collect();
    // The first iteration has none before it.
    let (windows, initial) = (windows.unwrap_or_default(), gather.initial);
    if let (true, Some(initial)) = (windows.is_empty(), initial) {
        return LeaseInput::Split(initial);
    }
    // Windows of neighbours overlap, and each blob is named once.
    let mut blobs: Vec<Hash> = Vec::new();
    let mut numbers = BTreeMap::new();
    let mut found = Vec::with_capacity(windows.len());
    for (upstream, window) in windows {
        let (from, to) = (upstream + window.first, upstream + window.first + window.count);
        if window.count > 0 && !numbers.contains_key(&(to - 1)) {
            let missing = (from..to).find(|unit| !numbers.contains_key(unit)).unwrap_or(to);
            for (unit, outputs) in job.outputs(missing, to) {
                numbers.insert(unit, blobs.len() as u32);
                blobs.extend(outputs.get(gather.output as usize).map(|output| output.blob));
            }
        }
        found.push(GatheredUnit {
            first: numbers.get(&from).copied().unwrap_or(0),
            count: window.count as u32,
            offset: window.offset,
        });
    }
    LeaseInput::Gathered(GatheredInput { blobs, units: found, length: gather.length })
}

/// A job's units from `first` on, at most `limit`, as `viewer` may see them.
///
/// Only the owner sees which units are being checked: a worker that could look up the units of its lease would know whether the
/// lease is a check, and compute honestly only then.
pub fn units(
    state: &State,
    id: JobId,
    job: &engine::Job,
    first: u64,
    limit: u64,
    viewer: Option<PublicKey>,
) -> Vec<Unit> {
    let end = first.saturating_add(limit).min(job.spec.units());
    let spec = &job.spec;
    let named = has_stages(spec);
    let mut units: Vec<Unit> = (first..end)
        .map(|index| {
            let place = spec.place(index);
            Unit {
                id: UnitId { job: id, index },
                stage: named.then(|| spec.stages[place.stage as usize].name.clone()),
                iteration: spec.iterate.map(|_| place.iteration as u32 + 1),
                index: place.index,
                state: if index < job.units_end() { UnitState::Waiting } else { UnitState::Skipped },
                outputs: Vec::new(),
                worker: None,
                checked_by: Vec::new(),
            }
        })
        .collect();
    let clip = |from: u64, count: u64| {
        let (from, to) = (from.max(first), from.saturating_add(count).min(end));
        (from < to).then(|| (from - first) as usize..(to - first) as usize)
    };
    for (from, to) in job.blocked_runs(first, end) {
        let Some(range) = clip(from, to - from) else { continue };
        units[range].iter_mut().for_each(|unit| unit.state = UnitState::Blocked);
    }
    for (from, run) in &job.parked {
        let Some(range) = clip(*from, run.count) else { continue };
        units[range].iter_mut().for_each(|unit| unit.state = UnitState::Parked);
    }
    let leased = job.leases.iter().filter_map(|lease| match state.leases().get(lease)?.work {
        engine::Work::Package { package, .. } => Some(package),
        engine::Work::Check { .. } => None,
    });
    let packages = leased.chain(job.committed.iter().copied());
    for package in packages.filter_map(|package| state.packages().get(&package)) {
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
    units
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
            MovementKind::Bond => PaymentKind::Bond,
            MovementKind::Unbond => PaymentKind::Unbond,
            MovementKind::Reward => PaymentKind::Reward,
            MovementKind::Royalty => PaymentKind::Royalty,
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
