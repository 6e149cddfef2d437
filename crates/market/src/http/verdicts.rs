//! Packages that were contradicted, and their owners' appeals.

use api::{Page, Verdict, VerdictAppeal, code};
use axum::{Json, extract::State};
use engine::Command;
use protocol::{JobId, PublicKey, VerdictId};
use serde::Deserialize;
use store::{VerdictFilter, VerdictRow};
use utoipa::IntoParams;

use super::{
    PAGE_DEFAULT, PAGE_MAX, Problems, Shared,
    extract::{Asked, Id},
};
use crate::{auth::Caller, failure::Failure, view};

/// Which verdicts.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct VerdictsAsked {
    /// On packages of this wallet's workers.
    owner: Option<PublicKey>,
    /// On packages of this job.
    job: Option<JobId>,
    /// From the page before.
    cursor: Option<String>,
    /// Items a page, at most 200.
    #[param(maximum = 200)]
    limit: Option<u32>,
}

fn told(row: &VerdictRow) -> Result<Verdict, Failure> {
    view::verdict(row).ok_or_else(|| Failure::internal("the read model holds a verdict that nobody wrote"))
}

/// List verdicts, newest first
#[utoipa::path(get, path = "/v1/verdicts", tag = "verdicts", operation_id = "verdicts", params(VerdictsAsked),
    responses((status = 200, body = Page<Verdict>), Problems))]
pub async fn list(
    State(app): State<Shared>,
    Asked(asked): Asked<VerdictsAsked>,
) -> Result<Json<Page<Verdict>>, Failure> {
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let before = match asked.cursor.as_deref().map(str::parse::<VerdictId>) {
        None => None,
        Some(Ok(before)) => Some(before),
        Some(Err(_)) => {
            let fix = "use `next` of the page before";
            return Err(
                Failure::new(code::REQUEST_INVALID, "the cursor is not one of ours", fix).at("cursor")
            );
        }
    };
    let filter = VerdictFilter { id: None, owner: asked.owner, job: asked.job, before, limit: limit + 1 };
    let mut rows = app.read(move |model| model.verdicts(&filter)).await?;
    let next = (rows.len() > limit as usize).then(|| {
        rows.truncate(limit as usize);
        rows[rows.len() - 1].id.to_string()
    });
    Ok(Json(Page { items: rows.iter().map(told).collect::<Result<_, _>>()?, next }))
}

/// One verdict: what was compared, where it first differs, who said what
#[utoipa::path(get, path = "/v1/verdicts/{id}", tag = "verdicts", operation_id = "verdict",
    params(("id" = VerdictId, Path, description = "The verdict")),
    responses((status = 200, body = Verdict), Problems))]
pub async fn get(State(app): State<Shared>, Id(id): Id<VerdictId>) -> Result<Json<Verdict>, Failure> {
    let filter = VerdictFilter { id: Some(id), limit: 1, ..VerdictFilter::default() };
    let rows = app.read(move |model| model.verdicts(&filter)).await?;
    let missing = || {
        let detail = format!("there is no {id}");
        Failure::new(code::NOT_FOUND, detail, "list the verdicts with GET /v1/verdicts")
    };
    told(rows.first().ok_or_else(missing)?).map(Json)
}

/// Contest a verdict: the disputed units are executed again by somebody who had no part in it
#[utoipa::path(post, path = "/v1/verdicts/{id}/contest", tag = "verdicts", operation_id = "contest",
    params(("id" = VerdictId, Path, description = "The verdict")), security(("token" = [])),
    responses((status = 200, body = VerdictAppeal), Problems))]
pub async fn contest(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<VerdictId>,
) -> Result<Json<VerdictAppeal>, Failure> {
    let command = Command::Contest { verdict: id, by: caller.account };
    let appeal = app.committer.decide(command, move |state, _, _| view::appeal(state, id)).await?;
    appeal.map(Json).ok_or_else(|| Failure::internal("a contested verdict is not there"))
}
