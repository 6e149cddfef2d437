//! A job's outputs as one file.

use std::sync::Arc;

use api::{JoinSpec, code};
use axum::{
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use protocol::{Hash, JobId, Manifest};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Octets, Problems, Shared,
    extract::{Asked, parse_id},
};
use crate::failure::Failure;

/// Blobs read at once for one result.
const READS: usize = 16;

/// How much of the result.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ResultAsked {
    /// Take what is there, although the job is not done.
    #[serde(default)]
    partial: bool,
    /// The stage, of a job of several; the last one when absent. Of an iterated job it is the last iteration's.
    stage: Option<String>,
}

/// What the state knows of a result.
struct Known {
    spec: JoinSpec,
    manifest: Hash,
    units: u64,
    tag: String,
    /// The output of each accepted unit, in order; nothing if the client has the file.
    outputs: Option<Vec<(u64, Hash)>>,
}

/// Fetch a job's result as one file
///
/// `plexus-units-missing` counts the units that are not in it; where the job says what to expect, `plexus-rows-matching` and
/// `plexus-rows-compared` say how much of it is so.
#[utoipa::path(get, path = "/v1/jobs/{id}/result/{output}", tag = "jobs", operation_id = "result",
    params(("id" = JobId, Path, description = "The job"), ("output" = u32, Path, description = "The output's number"),
        ResultAsked),
    responses(
        (status = 200, description = "The file: CSV, NPY or PNG", body = Octets, content_type = "application/octet-stream"),
        (status = 304, description = "Nothing was added since"),
        Problems))]
pub async fn result(
    State(app): State<Shared>,
    Path((id, output)): Path<(String, String)>,
    Asked(asked): Asked<ResultAsked>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (id, output): (JobId, u32) = (parse_id(&id)?, parse_id(&output)?);
    let seen = headers.get(header::IF_NONE_MATCH).map(|tag| tag.as_bytes().to_vec());
    let asked = Arc::new((asked, seen));
    let found = {
        let asked = asked.clone();
        let ask = move |state: &engine::State, _| {
            state.jobs().get(&id).map(|job| known(job, id, output, &asked.0, asked.1.as_deref()))
        };
        app.committer.query(ask).await?
    };
    let known = match found {
        Some(known) => known?,
        None => {
            let job = super::jobs::archived_whole(&app, id).await?.ok_or_else(|| super::jobs::unknown(id))?;
            known(&job, id, output, &asked.0, asked.1.as_deref())?
        }
    };
    let Known { spec, manifest, units, tag, outputs: Some(outputs) } = known else {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    };
    // Joining holds the whole result in memory: only a few at once.
    let _permit = app.joins.acquire().await.map_err(Failure::internal)?;
    let file = spec.file.clone();
    let joined = join(&app, spec, manifest, units, outputs).await?;
    let mut response = joined.bytes.into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(joined.media_type));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    fields.insert(header::ETAG, HeaderValue::from_str(&tag).map_err(Failure::internal)?);
    if let Ok(name) = HeaderValue::from_str(&format!("inline; filename=\"{file}\"")) {
        fields.insert(header::CONTENT_DISPOSITION, name);
    }
    fields.insert("plexus-units-missing", joined.units_missing.into());
    if let Some(agreement) = joined.agreement {
        fields.insert("plexus-rows-matching", agreement.matching.into());
        fields.insert("plexus-rows-compared", agreement.total.into());
    }
    Ok(response)
}

/// Runs on the committer's thread: it takes no more than what is there, however many units the job has.
fn known(
    job: &engine::Job,
    id: JobId,
    output: u32,
    asked: &ResultAsked,
    seen: Option<&[u8]>,
) -> Result<Known, Failure> {
    if job.sealed.is_some() {
        let detail = format!("the outputs of {id} are sealed: the market cannot read them");
        return Err(Failure::new(
            code::JOB_SEALED,
            detail,
            "open them where its content key is: `plexus job fetch`",
        ));
    }
    let joins: Vec<JoinSpec> = serde_json::from_str(&job.spec.joins_json).map_err(Failure::internal)?;
    let last = job.spec.stages.len() as u32 - 1;
    let number = |name: &Option<String>| match name {
        Some(name) => (0..).zip(&job.spec.stages).find(|(_, stage)| stage.name == *name).map(|(n, _)| n),
        None => Some(last),
    };
    let wanted = number(&asked.stage);
    let spec = joins.into_iter().find(|join| join.output == output && number(&join.stage) == wanted);
    let (Some(spec), Some(stage)) = (spec, wanted) else {
        let detail = format!("{id} makes no file of output {output}");
        return Err(Failure::new(
            code::NOT_FOUND,
            detail,
            "fetch the units' outputs with GET /v1/jobs/{id}/units",
        ));
    };
    let iteration = job.final_iteration();
    let (manifest, units) = (job.spec.stages[stage as usize].manifest, job.spec.stages[stage as usize].units);
    let accepted = job.done_units(iteration, stage);
    if accepted < units && !asked.partial {
        return Err(Failure::new(
            code::RESULT_NOT_READY,
            format!("{accepted} of {units} units are done"),
            "wait for the job to be done, or ask with ?partial=true for what is there",
        ));
    }
    // Accepted results never change, so that their number names the file.
    let tag = format!("\"{id}-{stage}-{output}-{iteration}-{accepted}\"");
    let first = job.spec.first_unit(iteration, stage);
    let outputs = (seen != Some(tag.as_bytes())).then(|| {
        let made = job.outputs(first, first + units);
        made.filter_map(|(unit, made)| Some((unit - first, made.get(output as usize)?.blob))).collect()
    });
    Ok(Known { spec, manifest, units, tag, outputs })
}

async fn join(
    app: &Shared,
    spec: JoinSpec,
    manifest: Hash,
    units: u64,
    outputs: Vec<(u64, Hash)>,
) -> Result<job::JoinedFile, Failure> {
    let manifest: Manifest =
        serde_json::from_slice(&app.blobs.get(&manifest).await?).map_err(Failure::internal)?;
    let blobs = &app.blobs;
    let bytes: Vec<(u64, Bytes)> = stream::iter(outputs)
        .map(|(unit, blob)| async move { blobs.get(&blob).await.map(|bytes| (unit, bytes)) })
        .buffered(READS)
        .try_collect()
        .await?;
    let mut named = std::collections::BTreeMap::new();
    for blob in spec.blobs() {
        named.insert(blob, blobs.get(&blob).await?);
    }
    tokio::task::spawn_blocking(move || {
        let mut there = bytes.into_iter().peekable();
        let outputs = (0..units).map(|unit| Some(there.next_if(|(number, _)| *number == unit)?.1));
        job::join(&spec, &manifest, units, outputs, |blob| named.get(blob).cloned())
    })
    .await
    .map_err(Failure::internal)?
    .map_err(Failure::internal)
}
