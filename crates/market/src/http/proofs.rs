//! What shows that work was done: openings of units, records of packages, and the keys that their checks were drawn with.

use std::sync::PoisonError;

use api::{ChallengeKeys, Challenges, PackageRecord, Page, ShownKey, UnitProof, code};
use axum::{
    Json,
    extract::{Path, State},
};
use protocol::{ChunkOpening, JobId, Opening, PackageId};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    PAGE_DEFAULT, PAGE_MAX, Problems, Shared,
    extract::{Asked, Id, parse_id},
};
use crate::{
    auth::Caller,
    failure::Failure,
    records::{Found, Reader},
};

/// More units than a package has.
const PACKAGE_UNITS_MAX: u64 = 1 << 16;
/// Attempts at a unit that are told, the last ones.
const ATTEMPTS_MAX: usize = 16;

/// The keys that checks are drawn with, as far as they are over
///
/// An epoch's key is shown when it is over and the window for appeals has passed after it. Keys of earlier epochs are its hashes.
#[utoipa::path(get, path = "/v1/challenges", tag = "proofs", operation_id = "challenges",
    responses((status = 200, body = Challenges), Problems))]
pub async fn challenges(State(app): State<Shared>) -> Result<Json<Challenges>, Failure> {
    let known = app.committer.query(|state, now_ms| {
        (state.challenges().to_vec(), now_ms.saturating_sub(state.params().appeal_ms))
    });
    let (chains, until_ms) = known.await?;
    let chains = (0..)
        .zip(chains)
        .map(|(number, chain)| {
            let shown = app.challenges.shown(number, &chain, until_ms);
            ChallengeKeys { chain, shown: shown.map(|(epoch, key)| ShownKey { epoch, key }) }
        })
        .collect();
    Ok(Json(Challenges { chains }))
}

/// Which part of a unit's results.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProofAsked {
    /// An output's number, to open a chunk of it.
    output: Option<u32>,
    /// The chunk's number, from 0: bytes from 65536 times that on.
    chunk: Option<u64>,
}

/// What a worker committed to for one unit, and what became of it
///
/// Of a unit that is still being checked only the job's owner, who sends its token, gets the opening; nobody is told who checks it.
#[utoipa::path(get, path = "/v1/jobs/{id}/units/{unit}/proof", tag = "proofs", operation_id = "proof",
    params(("id" = JobId, Path, description = "The job"), ("unit" = String, Path, description = "The unit's index"), ProofAsked),
    security((), ("token" = [])), responses((status = 200, body = UnitProof), Problems))]
pub async fn proof(
    State(app): State<Shared>,
    caller: Option<Caller>,
    Path((id, unit)): Path<(String, String)>,
    Asked(asked): Asked<ProofAsked>,
) -> Result<Json<UnitProof>, Failure> {
    let (job, unit): (JobId, u64) = (parse_id(&id)?, parse_id(&unit)?);
    let viewer = caller.map(|caller| caller.account);
    let mine = app
        .committer
        .query(move |state, _| state.jobs().get(&job).is_some_and(|job| viewer == Some(job.owner)))
        .await?;
    let traces = app.read(move |model| {
        let mut packages = model.packages_of_unit(job, unit, PACKAGE_UNITS_MAX)?;
        packages.drain(..packages.len().saturating_sub(ATTEMPTS_MAX));
        packages.into_iter().map(|package| Ok((package, model.traces(package)?))).collect()
    });
    let mut found = records(&app, traces.await?).await?;
    found.retain(|found| mine || found.record.settled.is_some());
    let Some(Found { record, receipt, signature, outputs }) = found.pop() else {
        return Err(Failure::new(
            code::PROOF_NOT_READY,
            format!("there are no results of {job}/{unit} that are settled"),
            "wait until the unit is done; the job's owner may ask as soon as results are committed, with its token",
        ));
    };
    let place = unit - record.units.first;
    let units = record.units.units().zip(outputs).collect();
    let opening = usize::try_from(place).ok().and_then(|at| Opening::of(receipt, signature, units, at));
    let mut opening = opening.ok_or_else(|| Failure::internal("a package lacks one of its units"))?;
    if asked.output.is_some() || asked.chunk.is_some() {
        let (output, index) = (asked.output.unwrap_or(0), asked.chunk.unwrap_or(0));
        opening.chunk = Some(chunk(&app, &opening, output, index).await?);
    }
    let rejected = found.into_iter().map(|found| found.record);
    let rejected =
        rejected.filter(|record| record.settled.as_ref().is_some_and(|settled| !settled.accepted)).collect();
    Ok(Json(UnitProof { opening, package: record, rejected }))
}

async fn chunk(app: &Shared, opening: &Opening, output: u32, index: u64) -> Result<ChunkOpening, Failure> {
    let absent = || {
        let detail = format!("unit {} has no chunk {index} of output {output}", opening.unit);
        Failure::new(code::NOT_FOUND, detail, "outputs and chunks of 64 KiB are numbered from 0")
    };
    let blob = opening.outputs.get(output as usize).ok_or_else(absent)?.blob;
    // The whole output is read: only a few at once.
    let _permit = app.joins.acquire().await.map_err(Failure::internal)?;
    let bytes = app.blobs.get(&blob).await?;
    let opened = tokio::task::spawn_blocking(move || ChunkOpening::of(output, &bytes, index));
    opened.await.map_err(Failure::internal)?.ok_or_else(absent)
}

/// Which packages to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PackagesAsked {
    /// Where the page before ended.
    cursor: Option<String>,
    /// Items a page, at most 200.
    #[param(maximum = 200)]
    limit: Option<u32>,
}

/// List what became of a job's packages, by their first units
///
/// A page may hold fewer items than asked for: packages that are still being checked are left out.
#[utoipa::path(get, path = "/v1/jobs/{id}/packages", tag = "proofs", operation_id = "packages",
    params(("id" = JobId, Path, description = "The job"), PackagesAsked),
    responses((status = 200, body = Page<PackageRecord>), Problems))]
pub async fn packages(
    State(app): State<Shared>,
    Id(job): Id<JobId>,
    Asked(asked): Asked<PackagesAsked>,
) -> Result<Json<Page<PackageRecord>>, Failure> {
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let after = asked.cursor.as_deref().map(|cursor| {
        let place = cursor
            .split_once('.')
            .and_then(|(first, package)| Some((first.parse().ok()?, PackageId(package.parse().ok()?))));
        let fault = || {
            Failure::new(
                code::REQUEST_INVALID,
                "the cursor is not one of ours",
                "use `next` of the page before",
            )
        };
        place.ok_or_else(|| fault().at("cursor"))
    });
    let after = after.transpose()?;
    let traces = app.read(move |model| {
        let listed = model.packages_of_job(job, after, limit)?;
        let last = listed.last().copied();
        let mut traces = Vec::with_capacity(listed.len());
        for (_, package) in listed {
            traces.push((package, model.traces(package)?));
        }
        Ok((traces, last))
    });
    let (traces, last) = traces.await?;
    let full = traces.len() as u32 == limit;
    let found = records(&app, traces).await?;
    let items =
        found.into_iter().map(|found| found.record).filter(|record| record.settled.is_some()).collect();
    let next = last.filter(|_| full).map(|(first, package)| format!("{first}.{}", package.0));
    Ok(Json(Page { items, next }))
}

/// Reads packages of which the journal tells at these places.
async fn records(app: &Shared, traces: Vec<(PackageId, Vec<u64>)>) -> Result<Vec<Found>, Failure> {
    let app = app.clone();
    let read = tokio::task::spawn_blocking(move || {
        let journal = app.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reader = Reader::of(&journal);
        let found = traces.into_iter().map(|(package, seqs)| reader.package(package, &seqs));
        found.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()
    });
    Ok(read.await.map_err(Failure::internal)??)
}
