//! Devices that do the work.

use api::{
    AnnounceRequest, HeartbeatAnswer, HeartbeatRequest, LeaveRequest, Page, SealingKeyRequest, Worker, code,
};
use axum::{Json, extract::State, http::StatusCode};
use engine::{Answer, Command};
use protocol::{PublicKey, WorkerOffer};
use serde::Deserialize;
use store::WorkerFilter;
use utoipa::IntoParams;

use super::{
    PAGE_DEFAULT, PAGE_MAX, Problems, Shared,
    extract::{Asked, Id, JsonBody},
};
use crate::{auth::Caller, failure::Failure, view};

/// Characters of an instance name.
const INSTANCE_CHARS_MAX: usize = 64;
/// Characters of an adapter's name and the like.
const FACT_CHARS_MAX: usize = 300;
/// Features a device may list.
const FEATURES_MAX: usize = 100;
/// Flaws a device may admit.
const FLAWS_MAX: usize = 16;
/// Leases a heartbeat may name.
const HEARTBEAT_LEASES_MAX: usize = 4096;

/// Checks the name of a process.
pub fn check_instance(instance: &str) -> Result<(), Failure> {
    if instance.is_empty() || instance.chars().count() > INSTANCE_CHARS_MAX {
        let detail = format!("an instance has 1 to {INSTANCE_CHARS_MAX} characters");
        return Err(Failure::new(code::REQUEST_INVALID, detail, "use a random one for each process or tab")
            .at("instance"));
    }
    Ok(())
}

/// A worker acts for itself alone.
fn check_own(caller: Caller, worker: PublicKey) -> Result<(), Failure> {
    if caller.key == worker {
        return Ok(());
    }
    let detail = format!("the token is {}'s, not {worker}'s", caller.key);
    Err(Failure::new(code::FORBIDDEN, detail, "log in with the worker's own key"))
}

fn check_device(device: &protocol::DeviceFacts) -> Result<(), Failure> {
    let texts = [&device.adapter, &device.vendor, &device.backend].into_iter().chain(&device.features);
    let short = texts.into_iter().all(|text| text.chars().count() <= FACT_CHARS_MAX);
    if short && device.features.len() <= FEATURES_MAX {
        return Ok(());
    }
    let detail = format!(
        "names have at most {FACT_CHARS_MAX} characters, and there are at most {FEATURES_MAX} features"
    );
    Err(Failure::new(code::REQUEST_INVALID, detail, "shorten the device's description").at("device"))
}

fn check_offer(offer: &WorkerOffer) -> Result<(), Failure> {
    let short = offer.flaws.iter().all(|flaw| flaw.chars().count() <= FACT_CHARS_MAX);
    if short && offer.flaws.len() <= FLAWS_MAX {
        return Ok(());
    }
    let detail = format!("there are at most {FLAWS_MAX} flaws of at most {FACT_CHARS_MAX} characters");
    Err(Failure::new(code::REQUEST_INVALID, detail, "name known flaws only").at("offer.flaws"))
}

/// Announce this key's device
#[utoipa::path(post, path = "/v1/workers", tag = "workers", operation_id = "announce",
    request_body = AnnounceRequest, security(("token" = [])),
    responses((status = 200, body = Worker), Problems))]
pub async fn announce(
    State(app): State<Shared>,
    caller: Caller,
    JsonBody(request): JsonBody<AnnounceRequest>,
) -> Result<Json<Worker>, Failure> {
    check_instance(&request.instance)?;
    check_device(&request.device)?;
    check_offer(&request.offer)?;
    if request.version.chars().count() > FACT_CHARS_MAX {
        return Err(
            Failure::new(code::REQUEST_INVALID, "the version is too long", "shorten it").at("version")
        );
    }
    let AnnounceRequest { instance, device, version, offer } = request;
    let worker = caller.key;
    let room = app.quotas.worker(&app.committer, caller.account, worker).await?;
    let command = Command::Announce { worker, instance, device, version, offer };
    let announced =
        app.committer.decide(command, move |state, now, _| view::worker(state, worker, now)).await?;
    room.used();
    announced.map(Json).ok_or_else(|| Failure::internal("an announced worker is not there"))
}

/// Which workers.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WorkersAsked {
    /// That pay this wallet.
    owner: Option<PublicKey>,
    /// From the page before.
    cursor: Option<String>,
    /// Items a page, at most 200.
    #[param(maximum = 200)]
    limit: Option<u32>,
}

/// List workers, the last announced first
#[utoipa::path(get, path = "/v1/workers", tag = "workers", operation_id = "workers", params(WorkersAsked),
    responses((status = 200, body = Page<Worker>), Problems))]
pub async fn list(
    State(app): State<Shared>,
    Asked(asked): Asked<WorkersAsked>,
) -> Result<Json<Page<Worker>>, Failure> {
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let cursor = |text: &str| {
        let (at, key) = text.split_once('.')?;
        Some((at.parse::<u64>().ok()?, key.parse::<PublicKey>().ok()?))
    };
    let after = match asked.cursor.as_deref() {
        None => None,
        Some(text) => Some(cursor(text).ok_or_else(|| {
            Failure::new(
                code::REQUEST_INVALID,
                "the cursor is not one of ours",
                "use `next` of the page before",
            )
            .at("cursor")
        })?),
    };
    let filter = WorkerFilter { owner: asked.owner, after, limit: limit + 1 };
    let mut rows = app.read(move |model| model.workers(&filter)).await?;
    let next = (rows.len() > limit as usize).then(|| {
        rows.truncate(limit as usize);
        let last = &rows[rows.len() - 1];
        format!("{}.{}", last.announced_at_ms, last.id)
    });
    let items = app
        .committer
        .query(move |state, now| rows.iter().filter_map(|row| view::worker(state, row.id, now)).collect());
    Ok(Json(Page { items: items.await?, next }))
}

/// One worker
#[utoipa::path(get, path = "/v1/workers/{id}", tag = "workers", operation_id = "worker",
    params(("id" = PublicKey, Path, description = "The key that signs its receipts")),
    responses((status = 200, body = Worker), Problems))]
pub async fn get(State(app): State<Shared>, Id(id): Id<PublicKey>) -> Result<Json<Worker>, Failure> {
    let found = app.committer.query(move |state, now| view::worker(state, id, now)).await?;
    found.map(Json).ok_or_else(|| {
        Failure::new(
            code::NOT_FOUND,
            format!("no worker {id} was ever announced"),
            "list the workers with GET /v1/workers",
        )
    })
}

/// Say that a worker lives, and renew its leases
#[utoipa::path(post, path = "/v1/workers/{id}/heartbeat", tag = "workers", operation_id = "heartbeat",
    params(("id" = PublicKey, Path, description = "The worker")),
    request_body = HeartbeatRequest, security(("token" = [])),
    responses((status = 200, body = HeartbeatAnswer), Problems))]
pub async fn heartbeat(
    State(app): State<Shared>,
    caller: Caller,
    Id(worker): Id<PublicKey>,
    JsonBody(request): JsonBody<HeartbeatRequest>,
) -> Result<Json<HeartbeatAnswer>, Failure> {
    check_own(caller, worker)?;
    if request.leases.len() > HEARTBEAT_LEASES_MAX {
        let detail = format!("a heartbeat names at most {HEARTBEAT_LEASES_MAX} leases");
        return Err(Failure::new(code::REQUEST_INVALID, detail, "name the leases that are held").at("leases"));
    }
    let HeartbeatRequest { instance, leases } = request;
    let command = Command::Heartbeat { worker, instance, leases };
    let answer = app.committer.decide(command, move |state, now, answer| {
        let (lost, yields) =
            if let Answer::Heard { lost, yields } = answer { (lost, yields) } else { Default::default() };
        HeartbeatAnswer { lost, yields, reason: view::reason_of(state, worker, now) }
    });
    Ok(Json(answer.await?))
}

/// Take a worker out of the market
#[utoipa::path(post, path = "/v1/workers/{id}/leave", tag = "workers", operation_id = "leave",
    params(("id" = PublicKey, Path, description = "The worker")),
    request_body = LeaveRequest, security(("token" = [])),
    responses((status = 204, description = "It left, or takes no more leases"), Problems))]
pub async fn leave(
    State(app): State<Shared>,
    caller: Caller,
    Id(worker): Id<PublicKey>,
    JsonBody(request): JsonBody<LeaveRequest>,
) -> Result<StatusCode, Failure> {
    check_own(caller, worker)?;
    let LeaveRequest { instance, drain } = request;
    app.committer.decide(Command::Leave { worker, instance, drain }, |_, _, _| ()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Say what can be sealed to a worker
///
/// Only workers that said so get sealed jobs. It holds until the worker announces itself anew.
#[utoipa::path(post, path = "/v1/workers/{id}/sealing-key", tag = "workers", operation_id = "sealing_key",
    params(("id" = PublicKey, Path, description = "The worker")),
    request_body = SealingKeyRequest, security(("token" = [])),
    responses((status = 204, description = "Jobs can be sealed to it"), Problems))]
pub async fn sealing_key(
    State(app): State<Shared>,
    caller: Caller,
    Id(worker): Id<PublicKey>,
    JsonBody(request): JsonBody<SealingKeyRequest>,
) -> Result<StatusCode, Failure> {
    check_own(caller, worker)?;
    let SealingKeyRequest { instance, sealing_key: signed } = request;
    let market = app.secrets.key.public();
    signed.check(market, crate::time::now_ms()).map_err(|error| {
        let fix = "sign a record for this market that ends within 90 days";
        Failure::new(code::SEALING_KEY_INVALID, error.to_string(), fix).at("sealing_key")
    })?;
    app.committer.decide(Command::GiveSealingKey { worker, instance, signed }, |_, _, _| ()).await?;
    Ok(StatusCode::NO_CONTENT)
}
