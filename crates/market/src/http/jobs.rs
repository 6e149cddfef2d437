//! Work to be done.

use std::collections::{BTreeMap, BTreeSet};

use api::{Job, JobRequest, Page, Unit, code};
use axum::{Json, extract::State, http::StatusCode};
use engine::{Answer, Command, JobSpec, Policy, Requirements, Stage, StageInput, Submission, UnitWork};
use program::{Access, Plan, ProgramError};
use protocol::{
    Hash, JobId, PublicKey,
    manifest::{Compare, Manifest, Verify},
};
use serde::Deserialize;
use store::JobFilter;
use utoipa::IntoParams;

use super::{
    PAGE_DEFAULT, PAGE_MAX, Problems, Shared,
    extract::{Asked, Id, IdempotencyKey, RawBody, parse},
};
use crate::{auth::Caller, failure::Failure, view};

/// Characters of a job's name.
const NAME_CHARS_MAX: usize = 100;
/// Result files of a job.
const JOINS_MAX: usize = 16;
/// Bytes of a result file's name.
const FILE_NAME_BYTES_MAX: usize = 200;
/// Items of a page of units.
const UNITS_PAGE_MAX: u64 = 1000;

/// Submit a job
///
/// Every blob that it names must have been uploaded. The program is compiled and its bindings are checked before anything is
/// scheduled; the escrow is taken at once.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", operation_id = "submit",
    params(("idempotency-key" = Option<String>, Header, description = "A repeated key gives the first answer again")),
    request_body = JobRequest, security(("token" = [])),
    responses((status = 201, body = Job), Problems))]
pub async fn submit(
    State(app): State<Shared>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    RawBody(body): RawBody,
) -> Result<(StatusCode, Json<Job>), Failure> {
    // Compiling is costly: only a few at once.
    let _permit = app.submissions.acquire().await.map_err(Failure::internal)?;
    let request: JobRequest = parse(&body)?;
    let key = key.map(|key| (key, Hash::of(&body)));
    check_names(&request)?;
    let plan = compile(&app, &request.manifest).await?;
    check_inputs(&app, &request, &plan).await?;
    check_joins(&app, &request).await?;
    let manifest = app.blobs.put(request.manifest.to_bytes().into()).await?;
    let spec = spec(&request, &plan, manifest)?;
    let room = app.quotas.job(&app.committer, caller.account, spec.units(), key.map(|(key, _)| key)).await?;
    let submission = Submission { owner: caller.account, spec, quoted: vec![], budget: request.budget, key };
    let submitted =
        app.committer.decide(Command::Submit(Box::new(submission)), |state, now, answer| match answer {
            Answer::Job(id) => view::job(state, id, now),
            _ => None,
        });
    let job = submitted.await?.ok_or_else(|| Failure::internal("a submitted job is not there"))?;
    room.used();
    Ok((StatusCode::CREATED, Json(job)))
}

fn invalid(detail: impl Into<String>, field: impl Into<String>) -> Failure {
    Failure::new(code::REQUEST_INVALID, detail, "correct the request").at(field)
}

fn check_names(request: &JobRequest) -> Result<(), Failure> {
    let characters = request.name.chars().count();
    if characters == 0 || characters > NAME_CHARS_MAX {
        return Err(invalid(format!("a name has 1 to {NAME_CHARS_MAX} characters"), "name"));
    }
    if request.joins.len() > JOINS_MAX {
        return Err(invalid(format!("a job has at most {JOINS_MAX} result files"), "joins"));
    }
    let (mut files, mut outputs) = (BTreeSet::new(), BTreeSet::new());
    for (i, join) in request.joins.iter().enumerate() {
        let name = &join.file;
        let plain = !name.is_empty()
            && name.len() <= FILE_NAME_BYTES_MAX
            && !name.starts_with('.')
            && !name.contains(['/', '\\', '"', ':'])
            && !name.contains(char::is_control);
        if !plain {
            return Err(invalid(format!("{name:?} is not a plain file name"), format!("joins[{i}].file")));
        }
        if !files.insert(name) || !outputs.insert(join.output) {
            return Err(invalid("each output and each file name stands once", format!("joins[{i}]")));
        }
    }
    Ok(())
}

/// Checks the program with its kernels' texts.
async fn compile(app: &Shared, manifest: &Manifest) -> Result<Plan, Failure> {
    let mut texts = BTreeMap::new();
    for (name, kernel) in &manifest.program.kernels {
        let field = format!("manifest.program.kernels.{name}.blob");
        match app.blobs.length(&kernel.blob).await? {
            // The check says so, with the kernel's name.
            None => continue,
            Some(length) if length > program::KERNEL_BYTES_MAX as u64 => {
                let detail = format!("the text of kernel {name} has {length} bytes");
                let fix = format!("a kernel has at most {} bytes", program::KERNEL_BYTES_MAX);
                return Err(Failure::new(code::LIMITS_EXCEEDED, detail, fix).at(field));
            }
            Some(_) => {}
        }
        let bytes = app.blobs.get(&kernel.blob).await?;
        let text = String::from_utf8(bytes.into()).map_err(|error| {
            Failure::new(
                code::WGSL_INVALID,
                format!("kernel {name} is not UTF-8: {error}"),
                "upload WGSL text",
            )
            .at(field)
        })?;
        texts.insert(kernel.blob, text);
    }
    let manifest = manifest.clone();
    tokio::task::spawn_blocking(move || program::check(&manifest, &texts))
        .await
        .map_err(Failure::internal)?
        .map_err(|error| refused(&error))
}

/// A program's error in the contract's words.
fn refused(error: &ProgramError) -> Failure {
    let code = match error {
        ProgramError::Manifest(_) => code::MANIFEST_INVALID,
        ProgramError::Limit(_) => code::LIMITS_EXCEEDED,
        ProgramError::KernelMissing(_) => code::BLOB_UNKNOWN,
        ProgramError::Wgsl(_) => code::WGSL_INVALID,
        ProgramError::Bindings(_) => code::WGSL_BINDINGS,
        ProgramError::Overrides(_) => code::WGSL_OVERRIDES,
        ProgramError::Feature(_) => code::FEATURE_UNAVAILABLE,
        ProgramError::Dispatch(_) => code::DISPATCH_INVALID,
    };
    let field = match error.field() {
        "" => "manifest".to_owned(),
        field => format!("manifest.{field}"),
    };
    api::Problem::new(code, error.to_string(), error.fix())
        .at(field)
        .at_line(error.line(), error.column())
        .into()
}

async fn check_inputs(app: &Shared, request: &JobRequest, plan: &Plan) -> Result<(), Failure> {
    let (given, wanted) = (request.inputs.len(), plan.inputs.len());
    if given != wanted {
        return Err(invalid(format!("the manifest has {wanted} inputs, {given} are given"), "inputs"));
    }
    for (i, (input, length)) in request.inputs.iter().zip(plan.input_lengths()).enumerate() {
        if input.length != length {
            let detail = format!("a unit's buffer has {length} bytes, the input gives {}", input.length);
            return Err(invalid(detail, format!("inputs[{i}].length")));
        }
        let bytes = blob_length(app, &input.blob, format!("inputs[{i}].blob")).await?;
        if input.offset > bytes {
            let detail = format!("the blob has {bytes} bytes, unit 0 begins at {}", input.offset);
            return Err(invalid(detail, format!("inputs[{i}].offset")));
        }
    }
    for buffer in &plan.buffers {
        let program::Source::Blob(blob) = buffer.source else { continue };
        let field = format!("manifest.program.buffers.{}.blob", buffer.name);
        let bytes = blob_length(app, &blob, field.clone()).await?;
        if bytes != buffer.length_bytes {
            let detail = format!("the blob has {bytes} bytes, the buffer's shape {}", buffer.length_bytes);
            let fix = "give the buffer the blob's shape and dtype";
            return Err(Failure::new(code::MANIFEST_INVALID, detail, fix).at(field));
        }
    }
    Ok(())
}

async fn check_joins(app: &Shared, request: &JobRequest) -> Result<(), Failure> {
    for (i, join) in request.joins.iter().enumerate() {
        job::check_join(join, &request.manifest, request.units)
            .map_err(|error| invalid(error.to_string(), format!("joins[{i}]")))?;
        for blob in join.blobs() {
            blob_length(app, &blob, format!("joins[{i}]")).await?;
        }
    }
    Ok(())
}

async fn blob_length(app: &Shared, blob: &Hash, field: String) -> Result<u64, Failure> {
    app.blobs.length(blob).await?.ok_or_else(|| {
        Failure::new(
            code::BLOB_UNKNOWN,
            format!("blob {blob} is not there"),
            "upload it with PUT /v1/blobs/{hash} first",
        )
        .at(field)
    })
}

fn spec(request: &JobRequest, plan: &Plan, manifest: Hash) -> Result<JobSpec, Failure> {
    let storage_buffers = |pass: &program::Pass| {
        let bound = pass.bind.iter().filter(|binding| binding.access != Access::Uniform);
        u32::try_from(bound.count()).unwrap_or(u32::MAX)
    };
    let stage = Stage {
        name: String::new(),
        manifest,
        inputs: request.inputs.iter().copied().map(StageInput::Blob).collect(),
        units: request.units,
        unit_price: request.unit_price,
        package_units: request.package_units,
        time_ms_max: plan.time_ms_max,
        requirements: Requirements {
            storage_buffer_bytes: plan.storage_buffer_bytes,
            memory_bytes: plan.memory_bytes,
            storage_buffers: plan.passes.iter().map(storage_buffers).max().unwrap_or(0),
            features: plan.features.clone(),
        },
        outputs_exact: plan
            .outputs
            .iter()
            .map(|&buffer| matches!(plan.buffers[buffer].compare, Compare::Exact(_)))
            .collect(),
        policy: match request.manifest.verify {
            // Rounded up, so that a rate above zero never becomes none.
            Verify::Audit { rate_min } => {
                Policy::Audit { rate_min_ppm: (rate_min.clamp(0.0, 1.0) * 1e6).ceil() as u32 }
            }
            Verify::Quorum { agree } => Policy::Quorum { agree },
        },
        work: UnitWork { flops: plan.work.flops, bytes: plan.work.bytes },
        devices: 1,
        replicas: 1,
    };
    let joins = serde_json::to_string(&request.joins).map_err(Failure::internal)?;
    Ok(JobSpec::plain(request.name.clone(), request.manifest.kind, joins, stage))
}

/// Which jobs.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobsAsked {
    /// Of this wallet.
    owner: Option<PublicKey>,
    /// Whose name contains this.
    name: Option<String>,
    /// From the page before.
    cursor: Option<JobId>,
    /// Items a page, at most 200.
    #[param(maximum = 200)]
    limit: Option<u32>,
}

/// List jobs, newest first
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", operation_id = "jobs", params(JobsAsked),
    responses((status = 200, body = Page<Job>), Problems))]
pub async fn list(
    State(app): State<Shared>,
    Asked(asked): Asked<JobsAsked>,
) -> Result<Json<Page<Job>>, Failure> {
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let filter =
        JobFilter { owner: asked.owner, name_contains: asked.name, before: asked.cursor, limit: limit + 1 };
    let mut rows = app.read(move |model| model.jobs(&filter)).await?;
    let next = (rows.len() > limit as usize).then(|| {
        rows.truncate(limit as usize);
        rows[rows.len() - 1].id.to_string()
    });
    let items = app
        .committer
        .query(move |state, now| rows.iter().filter_map(|row| view::job(state, row.id, now)).collect());
    Ok(Json(Page { items: items.await?, next }))
}

fn unknown(id: JobId) -> Failure {
    Failure::new(code::NOT_FOUND, format!("there is no {id}"), "list the jobs with GET /v1/jobs")
}

/// One job
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "job",
    params(("id" = JobId, Path, description = "The job")),
    responses((status = 200, body = Job), Problems))]
pub async fn get(State(app): State<Shared>, Id(id): Id<JobId>) -> Result<Json<Job>, Failure> {
    let job = app.committer.query(move |state, now| view::job(state, id, now)).await?;
    job.map(Json).ok_or_else(|| unknown(id))
}

/// End a job: finished units are paid, the rest is refunded
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel",
    params(("id" = JobId, Path, description = "The job")), security(("token" = [])),
    responses((status = 200, body = Job), Problems))]
pub async fn cancel(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<JobId>,
) -> Result<Json<Job>, Failure> {
    let command = Command::Cancel { job: id, by: caller.account };
    let job = app.committer.decide(command, move |state, now, _| view::job(state, id, now)).await?;
    job.map(Json).ok_or_else(|| unknown(id))
}

/// Which units.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UnitsAsked {
    /// From the page before: the index of its first unit.
    #[param(value_type = Option<String>)]
    cursor: Option<u64>,
    /// Items a page, at most 1 000.
    #[param(maximum = 1000)]
    limit: Option<u64>,
}

/// List a job's units in order
///
/// Units that are being checked are shown as `checking` to the job's owner, who sends its token, and as `leased` to everybody
/// else: nobody is to know whether a lease is a check.
#[utoipa::path(get, path = "/v1/jobs/{id}/units", tag = "jobs", operation_id = "units",
    params(("id" = JobId, Path, description = "The job"), UnitsAsked), security((), ("token" = [])),
    responses((status = 200, body = Page<Unit>), Problems))]
pub async fn units(
    State(app): State<Shared>,
    caller: Option<Caller>,
    Id(id): Id<JobId>,
    Asked(asked): Asked<UnitsAsked>,
) -> Result<Json<Page<Unit>>, Failure> {
    let first = asked.cursor.unwrap_or(0);
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT.into()).clamp(1, UNITS_PAGE_MAX);
    let viewer = caller.map(|caller| caller.account);
    let found = app.committer.query(move |state, _| {
        let total = state.jobs().get(&id)?.spec.units();
        Some((view::units(state, id, first, limit, viewer)?, total))
    });
    let (items, total) = found.await?.ok_or_else(|| unknown(id))?;
    let end = first.saturating_add(limit);
    let next = (end < total).then(|| end.to_string());
    Ok(Json(Page { items, next }))
}
