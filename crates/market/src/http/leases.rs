//! Work in workers' hands.

use std::time::Duration;

use api::{LeaseAnswer, LeaseRequest, ReleaseCause, ReleaseRequest, code};
use axum::{Json, extract::State, http::StatusCode};
use engine::{Command, Release};
use protocol::LeaseId;

use super::{
    Problems, Shared,
    extract::{Id, JsonBody},
    workers::check_instance,
};
use crate::{auth::Caller, committer::LeaseWish, failure::Failure};

/// Packages of one request.
const PACKAGES_MAX: u32 = 64;
/// How long a request may wait, in milliseconds.
const WAIT_MS_MAX: u32 = 30_000;
/// Characters of a release's explanation.
const DETAIL_CHARS_MAX: usize = 1000;

/// Checks what is wanted.
pub fn check(request: &LeaseRequest) -> Result<(), Failure> {
    check_instance(&request.instance)?;
    if request.packages_max == 0 || request.packages_max > PACKAGES_MAX {
        let detail = format!("a request is for 1 to {PACKAGES_MAX} packages");
        return Err(Failure::new(code::REQUEST_INVALID, detail, "ask again for the rest").at("packages_max"));
    }
    Ok(())
}

/// Ask for work and wait for it
#[utoipa::path(post, path = "/v1/leases", tag = "workers", operation_id = "lease",
    request_body = LeaseRequest, security(("token" = [])),
    responses((status = 200, body = LeaseAnswer), Problems))]
pub async fn lease(
    State(app): State<Shared>,
    caller: Caller,
    JsonBody(request): JsonBody<LeaseRequest>,
) -> Result<Json<LeaseAnswer>, Failure> {
    check(&request)?;
    let wish = LeaseWish {
        worker: caller.key,
        instance: request.instance,
        packages_max: request.packages_max,
        others_only: request.others_only,
        wait: Duration::from_millis(request.wait_ms.min(WAIT_MS_MAX).into()),
    };
    let answer = app.committer.lease(wish).await?;
    app.metrics.leases.inc_by(answer.leases.len() as u64);
    Ok(Json(answer))
}

/// Give a lease back
#[utoipa::path(post, path = "/v1/leases/{id}/release", tag = "workers", operation_id = "release",
    params(("id" = LeaseId, Path, description = "The lease")),
    request_body = ReleaseRequest, security(("token" = [])),
    responses((status = 204, description = "Its units wait again"), Problems))]
pub async fn release(
    State(app): State<Shared>,
    caller: Caller,
    Id(lease): Id<LeaseId>,
    JsonBody(request): JsonBody<ReleaseRequest>,
) -> Result<StatusCode, Failure> {
    if request.detail.chars().count() > DETAIL_CHARS_MAX {
        let detail = format!("an explanation has at most {DETAIL_CHARS_MAX} characters");
        return Err(Failure::new(code::REQUEST_INVALID, detail, "shorten it").at("detail"));
    }
    let failed = |code: &str| Release::Failed { code: code.to_owned(), detail: request.detail.clone() };
    let release = match request.cause {
        ReleaseCause::Leaving => Release::Returned,
        ReleaseCause::TimedOut => failed("timed_out"),
        ReleaseCause::DeviceFailed => failed("device_failed"),
        ReleaseCause::ProgramFailed => failed("program_failed"),
        ReleaseCause::InputFailed => failed("input_failed"),
    };
    let command = Command::Release { worker: caller.key, lease, generation: request.generation, release };
    app.committer.decide(command, |_, _, _| ()).await?;
    Ok(StatusCode::NO_CONTENT)
}
