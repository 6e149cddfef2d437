//! Workers kept for jobs that are about to be sealed to them.

use api::{JobRequest, Reservation, ReservationRequest, code};
use axum::{Json, extract::State, http::StatusCode};
use engine::{Answer, Command, SealingRequest};
use protocol::ReservationId;

use super::{
    Problems, Shared,
    extract::{Id, JsonBody},
    jobs,
};
use crate::{auth::Caller, failure::Failure, time::rfc3339};

/// Workers that a request may choose among.
const WORKERS_MAX: usize = 100;

/// Keep workers for a job that will be sealed to them
///
/// They take no new work until the job is submitted or the time is over. The account must be able to pay for the job.
#[utoipa::path(post, path = "/v1/reservations", tag = "jobs", operation_id = "reserve",
    request_body = ReservationRequest, security(("token" = [])),
    responses((status = 201, body = Reservation), Problems))]
pub async fn reserve(
    State(app): State<Shared>,
    caller: Caller,
    JsonBody(request): JsonBody<ReservationRequest>,
) -> Result<(StatusCode, Json<Reservation>), Failure> {
    let _permit = app.submissions.acquire().await.map_err(Failure::internal)?;
    let ReservationRequest { manifest, units, unit_price, replicas, providers, workers, hold_s } = request;
    if workers.len() > WORKERS_MAX {
        let detail = format!("{} workers are named, at most {WORKERS_MAX} may be", workers.len());
        return Err(Failure::new(code::REQUEST_INVALID, detail, "name fewer workers").at("workers"));
    }
    // The job as far as it is known: what it reads does not decide who can run it.
    let job = JobRequest { unit_price, replicas, ..JobRequest::new("sealed".into(), manifest, units) };
    let (spec, quoted) = jobs::unfed(&app, job.into()).await?;
    let command = Command::Reserve(Box::new(SealingRequest {
        account: caller.account,
        spec,
        quoted,
        providers,
        only: workers,
        hold_ms: u64::from(hold_s) * 1_000,
    }));
    let reserved = app.committer.decide(command, |state, _, answer| {
        let Answer::Reserved { reservation, escrow } = answer else { return None };
        let booking = state.bookings().find(|(id, _)| *id == reservation)?.1;
        let record = |recipient: &engine::Recipient| state.workers().get(&recipient.worker)?.sealing;
        Some(Reservation {
            id: reservation,
            recipients: booking.recipients.iter().filter_map(record).collect(),
            escrow,
            expires_at: rfc3339(booking.until_ms),
        })
    });
    let reserved = reserved.await?.ok_or_else(|| Failure::internal("a reservation is not there"))?;
    Ok((StatusCode::CREATED, Json(reserved)))
}

/// Let reserved workers go
#[utoipa::path(post, path = "/v1/reservations/{id}/end", tag = "jobs", operation_id = "end_reservation",
    params(("id" = ReservationId, Path, description = "The reservation")), security(("token" = [])),
    responses((status = 204, description = "They take other work again"), Problems))]
pub async fn end(
    State(app): State<Shared>,
    caller: Caller,
    Id(reservation): Id<ReservationId>,
) -> Result<StatusCode, Failure> {
    let command = Command::EndReservation { reservation, by: caller.account };
    app.committer.decide(command, |_, _, _| ()).await?;
    Ok(StatusCode::NO_CONTENT)
}
