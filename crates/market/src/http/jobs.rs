//! Work to be done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::{
    GraphRequest, IterateRequest, Job, JobRequest, Page, Quote, RatingRequest, ResumeRequest, SealedRequest,
    StageInput, StageRequest, SubmitRequest, Unit, Until, WorkerEnvelope, code,
};
use axum::{Json, extract::State, http::StatusCode};
use engine::{
    Answer, Canary, Combined, Command, Gather, Iterate, JobSpec, Policy, Quorum, Requirements, Sealing,
    Stage, Submission, UnitWork,
};
use futures::{StreamExt, TryStreamExt, stream};
use program::{Access, Plan, ProgramError};
use protocol::{
    Hash, JobId, PublicKey,
    manifest::{self, Compare, Manifest, Verify},
    seal::{SEALED_INPUT_EXTRA_BYTES, SEALED_OUTPUT_EXTRA_BYTES},
};
use serde::Deserialize;
use store::JobFilter;
use utoipa::IntoParams;

use super::{
    PAGE_DEFAULT, PAGE_MAX, Problems, Shared,
    extract::{Asked, Id, IdempotencyKey, JsonBody, RawBody, parse},
};
use crate::{auth::Caller, failure::Failure, view};

/// Characters of a job's name.
const NAME_CHARS_MAX: usize = 100;
/// Result files of a job.
const JOINS_MAX: usize = 16;
/// Bytes of a result file's name.
const FILE_NAME_BYTES_MAX: usize = 200;
/// Stages of a job.
const STAGES_MAX: usize = 32;
/// Heads of archives read at once for one list.
const ARCHIVES_AT_ONCE: usize = 16;
/// Items of a page of units.
const UNITS_PAGE_MAX: u64 = 1000;

/// Submit a job
///
/// Every blob that it names must have been uploaded. The program is compiled and its bindings are checked before anything is
/// scheduled; the escrow is taken at once.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", operation_id = "submit",
    params(("idempotency-key" = Option<String>, Header, description = "A repeated key gives the first answer again")),
    request_body = SubmitRequest, security(("token" = [])),
    responses((status = 201, body = Job), Problems))]
pub async fn submit(
    State(app): State<Shared>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    RawBody(body): RawBody,
) -> Result<(StatusCode, Json<Job>), Failure> {
    // Compiling is costly: only a few at once.
    let _permit = app.submissions.acquire().await.map_err(Failure::internal)?;
    let request = read(&body)?;
    let key = key.map(|key| (key, Hash::of(&body)));
    let spec = accept(&app, &request).await?;
    let (owner, budget) = (caller.account, request.budget);
    let room = app.quotas.job(&app.committer, owner, spec.units(), key.map(|(key, _)| key)).await?;
    let canaries = canaries(&app, &request, &spec).await?;
    let sealed = request.sealed.as_ref().map(sealing);
    let submission = Submission { owner, spec, quoted: quoted(&request), budget, key, canaries, sealed };
    let submitted =
        app.committer.decide(Command::Submit(Box::new(submission)), |state, now, answer| match answer {
            Answer::Job(id) => Some((id, view::job(state, id, now))),
            _ => None,
        });
    let (id, job) = submitted.await?.ok_or_else(|| Failure::internal("a submission is answered by a job"))?;
    room.used();
    // A repeated submission's job may have ended long ago.
    let job = match job {
        Some(job) => job,
        None => archived(&app, id).await?.ok_or_else(|| unknown(id))?,
    };
    Ok((StatusCode::CREATED, Json(job)))
}

fn sealing(sealed: &SealedRequest) -> Sealing {
    let envelope = |of: &WorkerEnvelope| (of.worker, of.envelope);
    Sealing { reservation: sealed.reservation, envelopes: sealed.envelopes.iter().map(envelope).collect() }
}

/// Reads either form of a request, so that what is wrong with it is said of the form that was meant.
fn read(body: &[u8]) -> Result<GraphRequest, Failure> {
    #[derive(Deserialize)]
    struct Form {
        stages: Option<serde::de::IgnoredAny>,
    }
    let graph = serde_json::from_slice::<Form>(body).is_ok_and(|form| form.stages.is_some());
    if graph { parse(body) } else { parse::<JobRequest>(body).map(GraphRequest::from) }
}

/// Checks a request and makes it the engine's.
async fn accept(app: &Shared, request: &GraphRequest) -> Result<JobSpec, Failure> {
    check_names(request)?;
    let mut plans = Vec::with_capacity(request.stages.len());
    for (number, stage) in request.stages.iter().enumerate() {
        let at = Field { request, number };
        plans.push(compile(app, &stage.manifest, at).await?);
    }
    for (number, (stage, plan)) in request.stages.iter().zip(&plans).enumerate() {
        check_inputs(app, stage, plan, Field { request, number }).await?;
    }
    check_joins(app, request).await?;
    let mut stages = Vec::with_capacity(plans.len());
    for (stage, plan) in request.stages.iter().zip(&plans) {
        let manifest = app.blobs.put(stage.manifest.to_bytes().into()).await?;
        stages.push(stage_spec(request, stage, plan, manifest)?);
    }
    let joins = serde_json::to_string(&request.joins).map_err(Failure::internal)?;
    let kind = request.stages[0].manifest.kind;
    let first = stages.remove(0);
    let mut spec = JobSpec::plain(request.name.clone(), kind, joins, first);
    spec.stages.extend(stages);
    spec.iterate = request.iterate.as_ref().map(|iterate| iterate_spec(request, iterate)).transpose()?;
    let in_ms = request.deadline_in_s.map(|seconds| u64::from(seconds) * 1_000);
    spec.deadline_ms = in_ms.map(|in_ms| crate::time::now_ms() + in_ms);
    spec.attempts_max = request.attempts_max;
    set_class(&mut spec, request);
    Ok(spec)
}

/// Units whose outputs the owner knows.
async fn canaries(app: &Shared, request: &GraphRequest, spec: &JobSpec) -> Result<Vec<Canary>, Failure> {
    let known = |known: &api::KnownOutput| engine::KnownOutput { blob: known.blob, length: known.length };
    let canary = |canary: &api::Canary| Canary {
        unit: canary.unit,
        outputs: canary.outputs.iter().map(known).collect(),
    };
    let mut canaries: Vec<_> = request.canaries.iter().map(canary).collect();
    canaries.sort_by_key(|canary| canary.unit);
    if let Some(flaw) = spec.canary_flaw(&canaries) {
        return Err(invalid(flaw, "canaries"));
    }
    let promised = spec.stages.iter().any(|stage| stage.policy.combined().canaries);
    if promised && canaries.is_empty() {
        let detail = "the policy canary needs units whose outputs are known";
        return Err(invalid(detail, "canaries"));
    }
    for (i, canary) in request.canaries.iter().enumerate() {
        for (number, known) in canary.outputs.iter().enumerate() {
            let field = format!("canaries[{i}].outputs[{number}]");
            let length = blob_length(app, &known.blob, format!("{field}.blob")).await?;
            if length != known.length {
                let detail = format!("the blob has {length} bytes, not {}", known.length);
                return Err(invalid(detail, format!("{field}.length")));
            }
        }
    }
    Ok(canaries)
}

/// The stages that pay the market's price.
fn quoted(request: &GraphRequest) -> Vec<u32> {
    (0..)
        .zip(&request.stages)
        .filter(|(_, stage)| stage.unit_price.is_none())
        .map(|(number, _)| number)
        .collect()
}

fn set_class(spec: &mut JobSpec, request: &GraphRequest) {
    spec.priority = match request.priority {
        api::Priority::Low => engine::Priority::Low,
        api::Priority::Normal => engine::Priority::Normal,
        api::Priority::High => engine::Priority::High,
        api::Priority::Urgent => engine::Priority::Urgent,
    };
    spec.royalty =
        request.royalty.map(|royalty| engine::Royalty { account: royalty.account, bps: royalty.bps });
}

/// Ask what a job would cost
///
/// The same request as for submitting it. Only the kernels must have been uploaded; nothing is kept, and the price may be
/// another one a moment later: a budget on the submission makes sure.
#[utoipa::path(post, path = "/v1/quotes", tag = "jobs", operation_id = "quote",
    request_body = SubmitRequest, security(("token" = [])),
    responses((status = 200, body = Quote), Problems))]
pub async fn quote(
    State(app): State<Shared>,
    _caller: Caller,
    RawBody(body): RawBody,
) -> Result<Json<Quote>, Failure> {
    let _permit = app.submissions.acquire().await.map_err(Failure::internal)?;
    let (spec, asked) = unfed(&app, read(&body)?).await?;
    let found = app.committer.query(move |state, now| view::quote(&state.quote(&spec, &asked, now)));
    Ok(Json(found.await?))
}

/// A job without its inputs, which need not be there yet, and the stages that pay the market's price.
pub(super) async fn unfed(app: &Shared, request: GraphRequest) -> Result<(JobSpec, Vec<u32>), Failure> {
    check_names(&request)?;
    let mut stages = Vec::with_capacity(request.stages.len());
    for (number, stage) in request.stages.iter().enumerate() {
        let plan = compile(app, &stage.manifest, Field { request: &request, number }).await?;
        stages.push(stage_spec(&request, stage, &plan, Hash([0; 32]))?);
    }
    let kind = request.stages[0].manifest.kind;
    let first = stages.remove(0);
    let mut spec = JobSpec::plain(request.name.clone(), kind, String::new(), first);
    spec.stages.extend(stages);
    spec.iterate = request.iterate.as_ref().map(|iterate| iterate_spec(&request, iterate)).transpose()?;
    set_class(&mut spec, &request);
    Ok((spec, quoted(&request)))
}

/// Where a field of a stage is in the request as it was sent.
#[derive(Clone, Copy)]
struct Field<'a> {
    request: &'a GraphRequest,
    number: usize,
}

impl Field<'_> {
    fn of(self, field: impl std::fmt::Display) -> String {
        if is_plain(self.request) { field.to_string() } else { format!("stages[{}].{field}", self.number) }
    }
}

/// Whether the request has one stage without a name.
fn is_plain(request: &GraphRequest) -> bool {
    matches!(&request.stages[..], [only] if only.name.is_empty()) && request.iterate.is_none()
}

/// A stage's number by its name.
fn stage_number(request: &GraphRequest, name: &str, field: &str) -> Result<u32, Failure> {
    let number = (0..).zip(&request.stages).find(|(_, stage)| stage.name == name).map(|(number, _)| number);
    number.ok_or_else(|| invalid(format!("there is no stage named {name:?}"), field))
}

fn invalid(detail: impl Into<String>, field: impl Into<String>) -> Failure {
    Failure::new(code::REQUEST_INVALID, detail, "correct the request").at(field)
}

fn check_names(request: &GraphRequest) -> Result<(), Failure> {
    let characters = request.name.chars().count();
    if characters == 0 || characters > NAME_CHARS_MAX {
        return Err(invalid(format!("a name has 1 to {NAME_CHARS_MAX} characters"), "name"));
    }
    if request.stages.is_empty() || request.stages.len() > STAGES_MAX {
        return Err(invalid(format!("a job has 1 to {STAGES_MAX} stages"), "stages"));
    }
    let mut names = BTreeSet::new();
    for (number, stage) in request.stages.iter().enumerate() {
        let named = !stage.name.is_empty() || is_plain(request);
        if !named || !names.insert(&stage.name) || stage.name.chars().count() > NAME_CHARS_MAX {
            let detail = format!("each stage has a name of its own, of 1 to {NAME_CHARS_MAX} characters");
            return Err(invalid(detail, format!("stages[{number}].name")));
        }
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
        if !files.insert(name) || !outputs.insert((&join.stage, join.output)) {
            return Err(invalid("each output and each file name stands once", format!("joins[{i}]")));
        }
    }
    Ok(())
}

/// Checks the program with its kernels' texts.
async fn compile(app: &Shared, manifest: &Manifest, at: Field<'_>) -> Result<Plan, Failure> {
    let mut texts = BTreeMap::new();
    for (name, kernel) in &manifest.program.kernels {
        let field = at.of(format_args!("manifest.program.kernels.{name}.blob"));
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
        .map_err(|error| refused(&error, at))
}

/// A program's error in the contract's words.
fn refused(error: &ProgramError, at: Field<'_>) -> Failure {
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
        "" => at.of("manifest"),
        field => at.of(format_args!("manifest.{field}")),
    };
    api::Problem::new(code, error.to_string(), error.fix())
        .at(field)
        .at_line(error.line(), error.column())
        .into()
}

async fn check_inputs(app: &Shared, stage: &StageRequest, plan: &Plan, at: Field<'_>) -> Result<(), Failure> {
    let (given, wanted) = (stage.inputs.len(), plan.inputs.len());
    if given != wanted {
        return Err(invalid(format!("the manifest has {wanted} inputs, {given} are given"), at.of("inputs")));
    }
    for (i, (input, length)) in stage.inputs.iter().zip(plan.input_lengths()).enumerate() {
        let place = |field: &str| at.of(format_args!("inputs[{i}].{field}"));
        let sealed = at.request.sealed.is_some();
        let length = length + if sealed { SEALED_INPUT_EXTRA_BYTES } else { 0 };
        if input.length() != length {
            let of = if sealed { "a unit's part, sealed," } else { "a unit's buffer" };
            let detail = format!("{of} has {length} bytes, the input gives {}", input.length());
            return Err(invalid(detail, place("length")));
        }
        let (split, field) = match input {
            StageInput::Split(split) => (split, ""),
            StageInput::Gather(gather) => {
                stage_number(at.request, &gather.stage, &place("stage"))?;
                let Some(initial) = &gather.initial else { continue };
                (initial, "initial.")
            }
        };
        let bytes = blob_length(app, &split.blob, place(&format!("{field}blob"))).await?;
        if split.offset > bytes {
            let detail = format!("the blob has {bytes} bytes, unit 0 begins at {}", split.offset);
            return Err(invalid(detail, place(&format!("{field}offset"))));
        }
    }
    for buffer in &plan.buffers {
        let program::Source::Blob(blob) = buffer.source else { continue };
        let field = at.of(format_args!("manifest.program.buffers.{}.blob", buffer.name));
        let bytes = blob_length(app, &blob, field.clone()).await?;
        if bytes != buffer.length_bytes {
            let detail = format!("the blob has {bytes} bytes, the buffer's shape {}", buffer.length_bytes);
            let fix = "give the buffer the blob's shape and dtype";
            return Err(Failure::new(code::MANIFEST_INVALID, detail, fix).at(field));
        }
    }
    Ok(())
}

async fn check_joins(app: &Shared, request: &GraphRequest) -> Result<(), Failure> {
    for (i, join) in request.joins.iter().enumerate() {
        let number = match &join.stage {
            Some(name) => stage_number(request, name, &format!("joins[{i}].stage"))? as usize,
            None => request.stages.len() - 1,
        };
        let stage = &request.stages[number];
        job::check_join(join, &stage.manifest, stage.units)
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

fn stage_spec(
    request: &GraphRequest,
    stage: &StageRequest,
    plan: &Plan,
    manifest: Hash,
) -> Result<Stage, Failure> {
    let storage_buffers = |pass: &program::Pass| {
        let bound = pass.bind.iter().filter(|binding| binding.access != Access::Uniform);
        u32::try_from(bound.count()).unwrap_or(u32::MAX)
    };
    let input = |input: &StageInput| match input {
        StageInput::Split(split) => Ok(engine::StageInput::Blob(*split)),
        StageInput::Gather(gather) => Ok(engine::StageInput::Stage(Gather {
            stage: stage_number(request, &gather.stage, "stages")?,
            output: gather.output,
            step: gather.step,
            count: gather.count,
            offset: gather.offset,
            stride: gather.stride,
            length: gather.length,
            initial: gather.initial,
        })),
    };
    Ok(Stage {
        name: stage.name.clone(),
        manifest,
        inputs: stage.inputs.iter().map(input).collect::<Result<_, Failure>>()?,
        units: stage.units,
        unit_price: stage.unit_price.unwrap_or_default(),
        package_units: stage.package_units,
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
        output_bytes: plan
            .outputs
            .iter()
            .map(|&buffer| {
                plan.buffers[buffer].length_bytes
                    + if request.sealed.is_some() { SEALED_OUTPUT_EXTRA_BYTES } else { 0 }
            })
            .collect(),
        policy: policy(&stage.manifest.verify),
        work: UnitWork { flops: plan.work.flops, bytes: plan.work.bytes },
        devices: stage.devices,
        replicas: stage.replicas,
    })
}

/// A manifest's policies in the engine's words.
fn policy(verify: &Verify) -> Policy {
    // Rounded up, so that a rate above zero never becomes none.
    let ppm = |rate: f64| (rate.clamp(0.0, 1.0) * 1e6).ceil() as u32;
    match verify {
        Verify::One(manifest::Policy::Audit { rate_min }) => Policy::Audit { rate_min_ppm: ppm(*rate_min) },
        Verify::One(manifest::Policy::Quorum { agree, of: None }) => Policy::Quorum { agree: *agree },
        _ => Policy::Combined(Combined {
            audit_rate_min_ppm: verify.audit_rate_min().map(ppm),
            quorum: verify.quorum().map(|(agree, of)| Quorum { agree, of }),
            canaries: verify.canaries(),
            algebraic_rate_min_ppm: verify.relations().map(|(_, rate)| ppm(rate)),
        }),
    }
}

fn iterate_spec(request: &GraphRequest, iterate: &IterateRequest) -> Result<Iterate, Failure> {
    let number = |name: &str| stage_number(request, name, "iterate.until.stage");
    let until = iterate.until.as_ref().map(|until| {
        Ok::<_, Failure>(match until {
            Until::Unchanged { stage, output } => {
                engine::Until::Unchanged { stage: number(stage)?, output: *output }
            }
            Until::Equals { stage, output, blob } => {
                engine::Until::Equals { stage: number(stage)?, output: *output, blob: *blob }
            }
        })
    });
    Ok(Iterate { times_max: iterate.times_max, until: until.transpose()? })
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
    let found = app.committer.query(move |state, now| {
        rows.into_iter().map(|row| (view::job(state, row.id, now), row)).collect::<Vec<_>>()
    });
    let items = stream::iter(found.await?)
        .map(|(job, row)| {
            let app = &app;
            async move {
                match (job, row.archive) {
                    (Some(job), _) => Ok(Some(job)),
                    (None, Some(archive)) => {
                        Ok(Some(view::archived_job(row.id, &app.archives.head(&archive).await?)))
                    }
                    (None, None) => archived(app, row.id).await,
                }
            }
        })
        .buffered(ARCHIVES_AT_ONCE)
        .try_filter_map(async |job| Ok(job));
    Ok(Json(Page { items: items.try_collect::<Vec<_>>().await.map_err(|e: Failure| e)?, next }))
}

/// A job that the state has let go, as it is shown.
async fn archived(app: &Shared, id: JobId) -> Result<Option<Job>, Failure> {
    let Some(archive) = app.read(move |model| model.archive(id)).await? else { return Ok(None) };
    Ok(Some(view::archived_job(id, &app.archives.head(&archive).await?)))
}

/// A job that the state has let go, with its results.
pub(super) async fn archived_whole(app: &Shared, id: JobId) -> Result<Option<Arc<engine::Job>>, Failure> {
    let Some(archive) = app.read(move |model| model.archive(id)).await? else { return Ok(None) };
    Ok(Some(app.archives.whole(&archive).await?))
}

pub(super) fn unknown(id: JobId) -> Failure {
    Failure::new(code::NOT_FOUND, format!("there is no {id}"), "list the jobs with GET /v1/jobs")
}

/// One job
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "job",
    params(("id" = JobId, Path, description = "The job")),
    responses((status = 200, body = Job), Problems))]
pub async fn get(State(app): State<Shared>, Id(id): Id<JobId>) -> Result<Json<Job>, Failure> {
    let job = match app.committer.query(move |state, now| view::job_in_queue(state, id, now)).await? {
        Some(job) => Some(job),
        None => archived(&app, id).await?,
    };
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
    command(&app, id, Command::Cancel { job: id, by: caller.account }).await
}

/// Hold back what waits of a job; what runs goes on
#[utoipa::path(post, path = "/v1/jobs/{id}/pause", tag = "jobs", operation_id = "pause",
    params(("id" = JobId, Path, description = "The job")), security(("token" = [])),
    responses((status = 200, body = Job), Problems))]
pub async fn pause(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<JobId>,
) -> Result<Json<Job>, Failure> {
    command(&app, id, Command::Pause { job: id, by: caller.account, paused: true }).await
}

/// Give out what waits of a paused job again
#[utoipa::path(post, path = "/v1/jobs/{id}/unpause", tag = "jobs", operation_id = "unpause",
    params(("id" = JobId, Path, description = "The job")), security(("token" = [])),
    responses((status = 200, body = Job), Problems))]
pub async fn unpause(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<JobId>,
) -> Result<Json<Job>, Failure> {
    command(&app, id, Command::Pause { job: id, by: caller.account, paused: false }).await
}

/// Let a job that ended incomplete go on
///
/// What it lacks waits again with fresh attempts, for escrow at the same prices. Nothing that was accepted runs again.
#[utoipa::path(post, path = "/v1/jobs/{id}/resume", tag = "jobs", operation_id = "resume",
    params(("id" = JobId, Path, description = "The job")), request_body = ResumeRequest, security(("token" = [])),
    responses((status = 200, body = Job), Problems))]
pub async fn resume(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<JobId>,
    RawBody(body): RawBody,
) -> Result<Json<Job>, Failure> {
    let ResumeRequest { deadline_in_s } = parse(&body)?;
    let deadline_ms = deadline_in_s.map(|seconds| crate::time::now_ms() + u64::from(seconds) * 1_000);
    command(&app, id, Command::ResumeJob { job: id, by: caller.account, deadline_ms }).await
}

/// Has the market decide about a job and shows it afterwards.
async fn command(app: &Shared, id: JobId, command: Command) -> Result<Json<Job>, Failure> {
    let job = app.committer.decide(command, move |state, now_ms, _| view::job(state, id, now_ms)).await?;
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
    /// Of this stage only, by its name.
    stage: Option<String>,
    /// Of this iteration only, from 1.
    iteration: Option<u64>,
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
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT.into()).clamp(1, UNITS_PAGE_MAX);
    let viewer = caller.map(|caller| caller.account);
    let asked = Arc::new(asked);
    let known = {
        let asked = asked.clone();
        let page = move |state: &engine::State, _| {
            let job = state.jobs().get(&id)?;
            Some(page_of(&job.spec, &asked, limit, |first, count| {
                view::units(state, id, job, first, count, viewer)
            }))
        };
        app.committer.query(page).await?
    };
    let page = match known {
        Some(page) => page?,
        None => {
            let job = archived_whole(&app, id).await?.ok_or_else(|| unknown(id))?;
            let nothing = engine::State::default();
            page_of(&job.spec, &asked, limit, |first, count| {
                view::units(&nothing, id, &job, first, count, viewer)
            })?
        }
    };
    Ok(Json(page))
}

/// A page of the units asked for; `units` makes as many as it is told, from one on.
fn page_of(
    spec: &JobSpec,
    asked: &UnitsAsked,
    limit: u64,
    units: impl Fn(u64, u64) -> Vec<Unit>,
) -> Result<Page<Unit>, Failure> {
    let (mut items, mut next) = (Vec::new(), None);
    for (start, end) in runs_asked(spec, asked)? {
        let first = asked.cursor.unwrap_or(0).max(start);
        if first >= end {
            continue;
        }
        let room = limit - items.len() as u64;
        if room == 0 {
            next = Some(first.to_string());
            break;
        }
        let count = room.min(end - first);
        items.extend(units(first, count));
        if first + count < end {
            next = Some((first + count).to_string());
            break;
        }
    }
    Ok(Page { items, next })
}

/// The units that are asked for, as ranges in order.
fn runs_asked(spec: &JobSpec, asked: &UnitsAsked) -> Result<Vec<(u64, u64)>, Failure> {
    let iterations = match asked.iteration {
        None if asked.stage.is_none() => return Ok(vec![(0, spec.units())]),
        None => 0..spec.iterations_max(),
        Some(number) if (1..=spec.iterations_max()).contains(&number) => number - 1..number,
        Some(number) => return Err(invalid(format!("there is no iteration {number}"), "iteration")),
    };
    let stages = match &asked.stage {
        None => 0..spec.stages.len() as u32,
        Some(name) => {
            let number = spec.stages.iter().position(|stage| stage.name == *name);
            let number =
                number.ok_or_else(|| invalid(format!("there is no stage named {name:?}"), "stage"))?;
            number as u32..number as u32 + 1
        }
    };
    // A page ends long before so many runs are through.
    let from = asked.cursor.map_or(0, |cursor| cursor.min(spec.units() - 1) / spec.iteration_units());
    let iterations = iterations.start.max(from)..iterations.end;
    let runs = iterations.take(UNITS_PAGE_MAX as usize + 1).flat_map(|iteration| {
        stages.clone().map(move |stage| {
            let first = spec.first_unit(iteration, stage);
            (first, first + spec.stages[stage as usize].units)
        })
    });
    Ok(runs.collect())
}

/// Rate a worker that computed for the job, once
#[utoipa::path(post, path = "/v1/jobs/{id}/ratings", tag = "jobs", operation_id = "rate",
    params(("id" = JobId, Path, description = "The job")),
    request_body = RatingRequest, security(("token" = [])),
    responses((status = 200, body = Job), Problems))]
pub async fn rate(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<JobId>,
    JsonBody(RatingRequest { worker, stars }): JsonBody<RatingRequest>,
) -> Result<Json<Job>, Failure> {
    let command = Command::Rate { job: id, by: caller.account, worker, stars };
    let job = app.committer.decide(command, move |state, now, _| view::job(state, id, now)).await?;
    job.map(Json).ok_or_else(|| unknown(id))
}
