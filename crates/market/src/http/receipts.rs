//! Commitments to results.
//!
//! Everything that can be checked without the state is checked here, on threads beside the committer: signatures, Merkle
//! roots, and that the named outputs are there with the right lengths.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use api::{LeaseRequest, ReceiptResult, ReceiptsAnswer, ReceiptsRequest, SignedReceipt, code};
use axum::{Json, body::Bytes, extract::State};
use engine::{Answer, Command, ReceiptOutcome};
use protocol::{
    JobId, LeaseId, Manifest, OutputCommitment, UnitLeaf, package_root, seal::SEALED_OUTPUT_EXTRA_BYTES,
};

use super::{App, Problems, Shared, extract::RawBody};
use crate::{auth::Caller, failure::Failure, view};

/// Receipts of one request.
const RECEIPTS_MAX: usize = 64;
/// Bytes of a request that is checked on the thread that read it: a few signatures take less time than another thread to
/// wake up. Larger ones must not hold up the other connections of that thread.
const CHECKED_HERE_BYTES_MAX: usize = 4 * 1024;
/// Jobs whose output lengths are remembered.
const JOBS_REMEMBERED_MAX: usize = 10_000;
/// Characters of the adapter's name in a receipt.
const ADAPTER_CHARS_MAX: usize = 300;

/// Lengths of the outputs of jobs.
#[derive(Default)]
pub struct OutputLengths(Mutex<HashMap<JobId, Arc<JobOutputs>>>);

/// Lengths of one job's outputs.
pub struct JobOutputs {
    /// For each stage, the number of its last unit in an iteration plus one, and its outputs' lengths in output order.
    stages: Vec<(u64, Arc<[u64]>)>,
}

impl JobOutputs {
    /// Those of a unit; nothing if the job has no such unit.
    fn of(&self, unit: u64) -> Option<&[u64]> {
        let in_iteration = unit.checked_rem(self.stages.last()?.0)?;
        let stage = self.stages.iter().find(|(end, _)| in_iteration < *end);
        stage.map(|(_, lengths)| &**lengths)
    }
}

impl OutputLengths {
    fn known(&self, job: JobId) -> Option<Arc<JobOutputs>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&job).cloned()
    }

    fn remember(&self, job: JobId, lengths: Arc<JobOutputs>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= JOBS_REMEMBERED_MAX {
            known.clear();
        }
        known.insert(job, lengths);
    }
}

/// The length of each output, in output order.
pub fn output_lengths(manifest: &Manifest) -> Arc<[u64]> {
    let mut outputs: Vec<(u32, u64)> = manifest
        .program
        .buffers
        .values()
        .filter_map(|buffer| {
            let elements: u64 = buffer.shape.iter().map(|n| u64::from(*n)).product();
            Some((buffer.output?, elements * buffer.dtype.bytes()))
        })
        .collect();
    outputs.sort_unstable();
    outputs.into_iter().map(|(_, length)| length).collect()
}

/// A receipt that may go to the committer, or why not.
enum Checked {
    Fit { lease: LeaseId, units: u32, command: Box<Command> },
    Unfit { lease: LeaseId, failure: Failure },
}

/// Commit to results
///
/// Outputs are uploaded before. Each receipt gets its own answer; sending one again gives its first answer again.
#[utoipa::path(post, path = "/v1/receipts", tag = "workers", operation_id = "receipts",
    request_body = ReceiptsRequest, security(("token" = [])),
    responses((status = 200, body = ReceiptsAnswer), Problems))]
pub async fn receipts(
    State(app): State<Shared>,
    caller: Caller,
    RawBody(body): RawBody,
) -> Result<Json<ReceiptsAnswer>, Failure> {
    let CheckedRequest { mut checked, absent, next } = if body.len() <= CHECKED_HERE_BYTES_MAX {
        check_all(&app, &body)?
    } else {
        let checking = app.clone();
        tokio::task::spawn_blocking(move || check_all(&checking, &body))
            .await
            .map_err(Failure::internal)??
    };
    for (index, job, unknown) in absent {
        if let Err(failure) = find(&app, job, &unknown).await {
            let (Checked::Fit { lease, .. } | Checked::Unfit { lease, .. }) = checked[index];
            checked[index] = Checked::Unfit { lease, failure };
        }
    }
    let mut slots = Vec::with_capacity(checked.len());
    let mut commands = Vec::with_capacity(checked.len());
    for one in checked {
        match one {
            Checked::Fit { lease, units, command } => {
                commands.push(*command);
                slots.push((lease, Ok(units)));
            }
            Checked::Unfit { lease, failure } => slots.push((lease, Err(failure))),
        }
    }
    let wants_more = next.is_some();
    if let Some(LeaseRequest { instance, packages_max, others_only, .. }) = next {
        let worker = caller.key;
        commands.push(Command::RequestLeases { worker, instance, packages_max, others_only });
    }
    let (results, leases) = if commands.is_empty() {
        (Vec::new(), Vec::new())
    } else {
        let answers = move |state: &engine::State, now_ms, mut results: Vec<_>| {
            // A refusal is given to the worker with its reason when it asks for leases and nothing else.
            let leases = match wants_more.then(|| results.pop()).flatten() {
                Some(Ok(Answer::Leases(leases))) => view::leases(state, now_ms, &leases),
                _ => Vec::new(),
            };
            let with_rest = |answer| match answer {
                Answer::Receipt { outcome, rest } => {
                    let rest = rest.and_then(|rest| view::lease(state, now_ms, rest)).map(Box::new);
                    (outcome, rest)
                }
                _ => (ReceiptOutcome::Checking, None),
            };
            let results: Vec<_> =
                results.into_iter().map(|result: Result<_, _>| result.map(with_rest)).collect();
            (results, leases)
        };
        app.committer.decide_all(commands, answers).await?
    };
    let mut results = results.into_iter();
    let results: Vec<_> = slots
        .into_iter()
        .map(|(lease, checked)| match checked {
            Err(failure) => ReceiptResult::Refused { lease, problem: failure.into_problem() },
            Ok(units) => match results.next() {
                Some(Ok(answer)) => {
                    app.metrics.units.inc_by(units.into());
                    match answer {
                        (ReceiptOutcome::Accepted(paid), rest) => {
                            ReceiptResult::Accepted { lease, paid, rest }
                        }
                        (ReceiptOutcome::Checking, rest) => ReceiptResult::Checking { lease, rest },
                    }
                }
                Some(Err(rejection)) => {
                    ReceiptResult::Refused { lease, problem: Failure::from(rejection).into_problem() }
                }
                None => {
                    let problem = Failure::internal("a receipt was not answered").into_problem();
                    ReceiptResult::Refused { lease, problem }
                }
            },
        })
        .collect();
    let refused =
        results.iter().filter(|result| matches!(result, ReceiptResult::Refused { .. })).count() as u64;
    app.metrics.receipts_refused.inc_by(refused);
    app.metrics.receipts.inc_by(results.len() as u64 - refused);
    app.metrics.leases.inc_by(leases.len() as u64);
    Ok(Json(ReceiptsAnswer { results, leases }))
}

/// Outputs that are not known to be there, by their unit and number.
type Unknown = Vec<(u64, usize, OutputCommitment)>;
/// A receipt's place, its job, and its unknown outputs.
type Absent = (usize, JobId, Unknown);

/// A request whose receipts were checked as far as that goes without the state.
struct CheckedRequest {
    checked: Vec<Checked>,
    absent: Vec<Absent>,
    next: Option<LeaseRequest>,
}

fn check_all(app: &Arc<App>, body: &Bytes) -> Result<CheckedRequest, Failure> {
    let request: ReceiptsRequest = super::extract::parse(body)?;
    if request.receipts.len() > RECEIPTS_MAX {
        let detail = format!("a request carries at most {RECEIPTS_MAX} receipts");
        return Err(
            Failure::new(code::REQUEST_INVALID, detail, "send the rest in another request").at("receipts")
        );
    }
    if let Some(next) = &request.next {
        super::leases::check(next)?;
    }
    let mut absent = Vec::new();
    let checked = request
        .receipts
        .into_iter()
        .enumerate()
        .map(|(index, signed)| {
            let (lease, job) = (signed.receipt.lease, signed.receipt.job);
            match check(app, signed) {
                Ok((command, units, unknown)) => {
                    if !unknown.is_empty() {
                        absent.push((index, job, unknown));
                    }
                    Checked::Fit { lease, units, command: Box::new(command) }
                }
                Err(failure) => Checked::Unfit { lease, failure },
            }
        })
        .collect();
    Ok(CheckedRequest { checked, absent, next: request.next })
}

fn invalid(detail: impl Into<String>) -> Failure {
    Failure::new(code::RECEIPT_INVALID, detail, "make the receipt from the lease and the outputs as they are")
}

fn check(app: &App, signed: SignedReceipt) -> Result<(Command, u32, Unknown), Failure> {
    let SignedReceipt { receipt, signature, units } = signed;
    if receipt.adapter.chars().count() > ADAPTER_CHARS_MAX {
        return Err(invalid(format!("the adapter's name has more than {ADAPTER_CHARS_MAX} characters")));
    }
    if units.len() as u64 != u64::from(receipt.units) {
        return Err(invalid(format!(
            "the receipt covers {} units, {} are listed",
            receipt.units,
            units.len()
        )));
    }
    receipt.worker.verify(&receipt, &signature).map_err(|error| {
        Failure::new(
            code::SIGNATURE_INVALID,
            error.to_string(),
            "sign the receipt's canonical bytes with the worker's key",
        )
    })?;
    let job = receipt.job;
    let leaves: Vec<UnitLeaf> =
        units.into_iter().map(|unit| UnitLeaf::done(job, unit.unit, unit.outputs)).collect();
    if package_root(&leaves) != receipt.package_root {
        return Err(invalid("the units do not hash to the receipt's package root"));
    }
    // An output is often the same as the one before (an all-zero mask, say): each blob is looked for once.
    let mut unknown: Unknown = Vec::new();
    let lengths = app.output_lengths.known(job);
    for leaf in &leaves {
        let lengths = lengths.as_ref().and_then(|lengths| lengths.of(leaf.unit));
        for (number, output) in leaf.outputs.iter().enumerate() {
            let length_fits = lengths.is_some_and(|l| l.get(number) == Some(&output.length));
            let known = length_fits && app.blobs.known_length(&output.blob) == Some(output.length);
            let repeated = unknown.last().is_some_and(|(_, n, last)| (*n, last) == (number, output));
            if !known && !repeated {
                unknown.push((leaf.unit, number, *output));
            }
        }
    }
    let count = receipt.units;
    // Which key it is drawn with depends on when it is decided: the committer makes the seed of the digest.
    let seed = receipt.digest();
    let units = leaves.into_iter().map(|leaf| (leaf.unit, leaf.outputs)).collect();
    Ok((Command::Commit { receipt: Box::new(receipt), signature, units, seed }, count, unknown))
}

/// Looks for outputs on disk and checks their lengths.
async fn find(app: &Shared, job: JobId, outputs: &[(u64, usize, OutputCommitment)]) -> Result<(), Failure> {
    // Without such a job the committer says so.
    let Some(lengths) = lengths_of(app, job).await? else { return Ok(()) };
    for (unit, number, output) in outputs {
        // Of a unit that is not there the committer says so.
        let Some(lengths) = lengths.of(*unit) else { continue };
        match lengths.get(*number) {
            Some(length) if *length == output.length => {}
            Some(length) => {
                return Err(invalid(format!(
                    "output {number} has {length} bytes by the manifest, not {}",
                    output.length
                )));
            }
            None => return Err(invalid(format!("the manifest has no output {number}"))),
        }
        match app.blobs.length(&output.blob).await? {
            Some(length) if length == output.length => {}
            Some(length) => {
                let blob = output.blob;
                return Err(invalid(format!(
                    "blob {blob} has {length} bytes, the receipt says {}",
                    output.length
                )));
            }
            None => {
                return Err(Failure::new(
                    code::BLOB_UNKNOWN,
                    format!("output {} is not there", output.blob),
                    "upload the outputs before the receipt that names them",
                ));
            }
        }
    }
    Ok(())
}

async fn lengths_of(app: &Shared, job: JobId) -> Result<Option<Arc<JobOutputs>>, Failure> {
    if let Some(known) = app.output_lengths.known(job) {
        return Ok(Some(known));
    }
    let asked = app.committer.query(move |state, _| {
        let job = state.jobs().get(&job)?;
        let stages = job.spec.stages.iter().map(|stage| (stage.units, stage.manifest));
        Some((stages.collect::<Vec<_>>(), job.sealed.is_some()))
    });
    let Some((asked, sealed)) = asked.await? else { return Ok(None) };
    let extra = if sealed { SEALED_OUTPUT_EXTRA_BYTES } else { 0 };
    let (mut stages, mut end) = (Vec::with_capacity(asked.len()), 0);
    for (units, manifest) in asked {
        let bytes = app.blobs.get(&manifest).await?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(Failure::internal)?;
        end += units;
        stages.push((end, output_lengths(&manifest).iter().map(|length| length + extra).collect()));
    }
    let lengths = Arc::new(JobOutputs { stages });
    app.output_lengths.remember(job, lengths.clone());
    Ok(Some(lengths))
}
