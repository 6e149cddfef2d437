//! The market itself: is it well, what are its rates, what does it measure.

use std::{collections::BTreeMap, path::Path, sync::atomic::Ordering};

use api::{Health, MarketInfo, Reason, code};
use axum::{Json, extract::State, http::header, response::IntoResponse};
use engine::{CheckState, Priority, WorkerState};
use protocol::manifest::JobKind;

use super::{Problems, Shared};
use crate::{failure::Failure, leadership::Standing};

fn kind(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Batch => "batch",
        JobKind::Inference => "inference",
        JobKind::Training => "training",
    }
}

fn class(priority: Priority) -> &'static str {
    match priority {
        Priority::Low => "low",
        Priority::Normal => "normal",
        Priority::High => "high",
        Priority::Urgent => "urgent",
    }
}

fn trouble(app: &Shared) -> Option<Reason> {
    let status = app.committer.status();
    let (code, text) = if status.failing.load(Ordering::Relaxed) {
        ("storage_unavailable", "the journal could not be written the last time")
    } else if app.follower.is_stale() {
        (
            "read_model_stale",
            "lists and statements lack what happened lately; restart the market once there is room",
        )
    } else if matches!(*status.standing.borrow(), Standing::Following { leader: None }) {
        ("no_leader", "no process leads the market; one that can takes over by itself")
    } else {
        return None;
    };
    Some(Reason { code: code.into(), text: text.into(), facts: Default::default() })
}

/// Whether this process of the market is well
///
/// Each process answers for itself, whoever leads; `role` and `leader` say who does.
///
/// It answers 200 with `ok`; 200 with `degraded` and a reason while the journal cannot be written (questions are still
/// answered, changes are refused with `storage_unavailable`, and it goes on by itself once there is room) or lists are behind;
/// and 503 when the market cannot go on and must be restarted.
#[utoipa::path(get, path = "/v1/health", tag = "market", operation_id = "health",
    responses((status = 200, body = Health), Problems))]
pub async fn health(State(app): State<Shared>) -> Result<Json<Health>, Failure> {
    if *app.committer.status().dead.borrow() {
        return Err(Failure::new(
            code::STORAGE_UNAVAILABLE,
            "the market's committer ended; nothing is decided any more",
            "restart the market and read its log",
        ));
    }
    let reason = trouble(&app);
    let (role, leader) = match &*app.committer.status().standing.borrow() {
        Standing::Leading { .. } => ("leader", None),
        Standing::Following { leader } => ("standby", leader.as_ref().map(|leader| leader.url.clone())),
    };
    Ok(Json(Health {
        status: if reason.is_some() { "degraded" } else { "ok" }.into(),
        reason,
        version: env!("CARGO_PKG_VERSION").into(),
        role: role.into(),
        leader,
        seq: app.committer.status().durable.borrow().saturating_sub(1),
    }))
}

/// The market's key, limits and rates
#[utoipa::path(get, path = "/v1/market", tag = "market", operation_id = "market",
    responses((status = 200, body = MarketInfo), Problems))]
pub async fn market(State(app): State<Shared>) -> Result<Json<MarketInfo>, Failure> {
    let (faucet, blob_bytes_max) = (app.faucet.is_some(), app.blobs.blob_bytes_max());
    let info = app.committer.query(move |state, _| {
        let params = state.params();
        MarketInfo {
            market: state.market(),
            faucet,
            blob_bytes_max,
            heartbeat_ms_max: u32::try_from(params.heartbeat_ms_max).unwrap_or(u32::MAX),
            provider_bps: 10_000 - params.treasury_bps - params.burn_bps,
            treasury_bps: params.treasury_bps,
            burn_bps: params.burn_bps,
        }
    });
    Ok(Json(info.await?))
}

/// The metrics in the OpenMetrics text format. Their numbers of the state are taken when they are asked for.
pub async fn metrics(State(app): State<Shared>) -> Result<impl IntoResponse, Failure> {
    let metrics = app.metrics.clone();
    app.committer
        .peek(move |state, now_ms| {
            let (mut jobs, mut waiting, mut checking) = (0, 0, 0);
            let mut queue = BTreeMap::<_, u64>::new();
            for job in state.jobs().values().filter(|job| !job.state.ended()) {
                jobs += 1;
                waiting += job.waiting_units();
                *queue.entry((kind(job.spec.kind), class(job.spec.priority))).or_default() +=
                    job.waiting_units();
                checking += job.checking_units;
            }
            metrics.set_queue(queue);
            let share = |ppm: u64| ppm as f64 / engine::PPM as f64;
            metrics.demand_error.set(share(state.demand_error_ppm().unwrap_or(0)));
            metrics.job_time_error.set(share(state.forecasts().error_ppm));
            metrics.jobs_open.set(jobs);
            metrics.units_waiting.set(waiting as i64);
            metrics.units_checking.set(checking as i64);
            let mut states = [("idle", 0), ("busy", 0), ("draining", 0), ("gone", 0)];
            for worker in state.workers().values() {
                let state = match worker.state() {
                    WorkerState::Idle => 0,
                    WorkerState::Busy => 1,
                    WorkerState::Draining => 2,
                    WorkerState::Gone(_) => 3,
                };
                states[state].1 += 1;
            }
            metrics.workers_online.set(states[0].1 + states[1].1);
            metrics.set_workers(states);
            metrics.leases_active.set(state.leases().len() as i64);
            let undecided =
                state.checks().values().filter(|check| !matches!(check.state, CheckState::Decided { .. }));
            let oldest_ms = undecided.map(|check| now_ms.saturating_sub(check.since_ms)).max();
            metrics.settlement_lag.set(oldest_ms.unwrap_or_default() as f64 / 1000.0);
        })
        .await?;
    if let Some(file) = &app.journal_file {
        let mut log = file.clone().into_os_string();
        log.push("-wal");
        // What is not there takes no room.
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        app.metrics.journal_stored_bytes.set((bytes(file) + bytes(Path::new(&log))) as i64);
    }
    app.metrics.blob_bytes.set(app.blobs.total_bytes() as i64);
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, media_type)], app.metrics.text()))
}
