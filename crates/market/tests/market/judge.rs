//! Outputs that differ within a declared tolerance agree; others are rejected and run again.

use api::{Job, JobRequest, JobState, UnitState};
use protocol::SecretKey;
use serde_json::json;

use crate::rig::{Person, Rig, bad, until};

const HALVE: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3u) { y[id.x] = 0.5 * x[id.x]; }
";

async fn halving(client: &Person) -> JobRequest {
    let mut request = client.doubling(1).await;
    let kernel = client.upload(HALVE.as_bytes()).await;
    let mut manifest = serde_json::to_value(&request.manifest).expect("JSON");
    manifest["program"]["kernels"]["double"]["blob"] = json!(kernel);
    manifest["program"]["buffers"]["x"]["dtype"] = json!("f32");
    manifest["program"]["buffers"]["y"]["dtype"] = json!("f32");
    manifest["program"]["buffers"]["y"]["compare"] = json!({"abs": 0.01});
    request.manifest = serde_json::from_value(manifest).expect("a manifest");
    request
}

fn floats(value: f32) -> Vec<u8> {
    [value; 4].iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The worker commits 1.0 everywhere, the verifier `again`; returns the job afterwards.
async fn judged(again: f32) -> (Rig, Job) {
    let rig = Rig::start_with(|config| config.params.verifier_wait_ms = 0).await;
    let market = rig.market.key().public();
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    let job = client.submit(&halving(&client).await).await;
    worker.announce("a").await;
    let lease = worker.lease("a", 1, 0).await.leases.remove(0);
    let receipt = worker.compute(market, &lease, |_| floats(1.0)).await;
    worker.commit(vec![receipt]).await;
    let verifier = rig.verifier().await;
    let lease = verifier.lease("verifier", 1, 30_000).await.leases.remove(0);
    let receipt = verifier.compute(market, &lease, |_| floats(again)).await;
    verifier.commit(vec![receipt]).await;
    let path = format!("/v1/jobs/{}", job.id);
    let judged = |job: &Job| job.verification.checked + job.verification.rejected > 0;
    let job = until(|| rig.get::<Job>(&path), judged).await;
    (rig, job)
}

#[tokio::test]
async fn a_difference_within_the_tolerance_is_paid() {
    let (_rig, job) = judged(1.009).await;
    assert_eq!((job.state, job.verification.checked), (JobState::Done, 1));
}

#[tokio::test]
async fn a_difference_beyond_the_tolerance_runs_again_unpaid() {
    let (rig, job) = judged(1.5).await;
    assert_eq!((job.progress.waiting, job.verification.rejected), (1, 1));
    assert_eq!(job.money.paid.0, 0);
    let units: api::Page<api::Unit> = rig.get(&format!("/v1/jobs/{}/units", job.id)).await;
    assert_eq!(units.items[0].state, UnitState::Waiting);
    let worker: api::Worker =
        rig.get(&format!("/v1/workers/{}", SecretKey::from_seed([2; 32]).public())).await;
    assert_eq!((worker.units, worker.streak), (0, 0));
}

#[tokio::test]
async fn outputs_that_a_disk_lost_keep_no_others_from_their_verdict() {
    let rig = Rig::start_with(|config| config.params.verifier_wait_ms = 0).await;
    let market = rig.market.key().public();
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    let request = halving(&client).await;
    let mut jobs = Vec::new();
    // More than are compared at once, and one.
    for _ in 0..20 {
        jobs.push(client.submit(&request).await.id);
    }
    let last = jobs[jobs.len() - 1];
    worker.announce("a").await;
    for lease in worker.lease("a", 64, 0).await.leases {
        let value = lease.job.0 as f32;
        let receipt = worker.compute(market, &lease, |_| floats(value)).await;
        worker.commit(vec![receipt]).await;
        if lease.job != last {
            let lost = protocol::Hash::of(&floats(value)).to_string();
            std::fs::remove_file(rig.folder.path().join("blobs").join(&lost[..2]).join(lost))
                .expect("it was there");
        }
    }
    let verifier = rig.verifier().await;
    let leases = verifier.lease("verifier", 64, 30_000).await.leases;
    assert_eq!(leases.len(), jobs.len());
    for lease in leases {
        let again = lease.job.0 as f32 + 0.001;
        let receipt = verifier.compute(market, &lease, |_| floats(again)).await;
        verifier.commit(vec![receipt]).await;
    }
    let path = format!("/v1/jobs/{last}");
    until(|| rig.get::<Job>(&path), |job| job.state == JobState::Done).await;
    let first: Job = rig.get(&format!("/v1/jobs/{}", jobs[0])).await;
    assert_eq!((first.state, first.money.paid.0), (JobState::Running, 0));
}

#[tokio::test]
async fn a_verdict_is_told_contested_and_kept() {
    let (rig, job) = judged(1.5).await;
    let listed = || rig.get::<api::Page<api::Verdict>>("/v1/verdicts?limit=1");
    let page = until(listed, |page| !page.items.is_empty()).await;
    let verdict = &page.items[0];
    let accused = rig.person(2).await;
    assert_eq!((verdict.job, verdict.owner, page.next), (job.id, accused.account, None));
    assert_eq!(verdict.cause, api::VerdictCause::VerifierDisagrees);
    assert_eq!((verdict.state, verdict.is_final), (api::VerdictState::Standing, false));
    assert_eq!(verdict.opinions.len(), 1);
    assert!(!verdict.opinions[0].agrees && !verdict.opinions[0].evidence.is_empty(), "{verdict:?}");
    let path = format!("/v1/verdicts/{}", verdict.id);
    let other: api::Page<api::Verdict> = rig.get("/v1/verdicts?job=job-99").await;
    assert_eq!(other.items, []);
    assert_eq!(rig.problem("/v1/verdicts/verdict-99").await.code, "not_found");

    let contest = format!("{path}/contest");
    let stranger = rig.rich(3).await;
    assert_eq!(crate::rig::bad(stranger.post(&contest, &json!({})).await).await.code, "forbidden");
    assert_eq!(crate::rig::bad(accused.post(&contest, &json!({})).await).await.code, "balance_too_low");
    let accused = rig.rich(2).await;
    let appeal: api::VerdictAppeal = crate::rig::good(accused.post(&contest, &json!({})).await).await;
    assert!(appeal.deposit.0 > 0);
    assert_eq!(crate::rig::bad(accused.post(&contest, &json!({})).await).await.code, "contested_before");
    let contested =
        until(|| rig.get::<api::Verdict>(&path), |found| found.state == api::VerdictState::Contested).await;
    assert_eq!(contested.appeal, Some(appeal.clone()));

    // A stranger finds what the verifier found.
    let market = rig.market.key().public();
    stranger.announce("c").await;
    let lease = stranger.lease("c", 1, 30_000).await.leases.remove(0);
    let receipt = stranger.compute(market, &lease, |_| floats(1.5)).await;
    stranger.commit(vec![receipt]).await;
    let closed = until(|| rig.get::<api::Verdict>(&path), |found| found.is_final).await;
    assert_eq!(closed.state, api::VerdictState::Upheld);
    let closing = closed.closing.expect("it is final");
    assert_eq!(closing.outcome, api::VerdictOutcome::Upheld);
    assert_eq!(closing.opinions[0].owner, stranger.account);
    let paid: api::Account = rig.get(&format!("/v1/accounts/{}", stranger.account)).await;
    assert!(paid.earned.0 > 0, "examining is paid");
    let ledger: api::Ledger = rig.get("/v1/ledger").await;
    assert_eq!(ledger.frozen.0, 0);
    // From the journal alone, it is all there again.
    let rig = rig.restart().await;
    let kept: api::Verdict = until(|| rig.get::<api::Verdict>(&path), |found| found.is_final).await;
    assert_eq!(kept.closing, Some(closing));
}

/// What a client says a unit of [`halving`] puts out.
fn canary(unit: u64, blob: protocol::Hash) -> api::Canary {
    api::Canary { unit, outputs: vec![api::KnownOutput { blob, length: 16 }] }
}

#[tokio::test]
async fn an_output_that_the_client_knows_is_compared_and_shown_to_nobody() {
    let rig = Rig::start_with(|config| config.params.verifier_wait_ms = 0).await;
    let market = rig.market.key().public();
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    let known = client.upload(&floats(1.009)).await;
    let request = JobRequest { canaries: vec![canary(0, known)], ..halving(&client).await };
    let job = client.submit(&request).await;
    worker.announce("a").await;
    let lease = worker.lease("a", 1, 0).await.leases.remove(0);
    let shown = serde_json::to_string(&(&job, &lease)).expect("JSON");
    assert!(!shown.contains(&known.to_string()), "{shown}");
    let receipt = worker.compute(market, &lease, |_| floats(1.0)).await;
    worker.commit(vec![receipt]).await;
    let verifier = rig.verifier().await;
    let lease = verifier.lease("verifier", 1, 30_000).await.leases.remove(0);
    let receipt = verifier.compute(market, &lease, |_| floats(1.0)).await;
    verifier.commit(vec![receipt]).await;
    let path = format!("/v1/jobs/{}", job.id);
    let done = until(|| rig.get::<Job>(&path), |job| job.state == JobState::Done).await;
    assert_eq!((done.verification.checked, done.verification.disputed), (1, 0));
}

#[tokio::test]
async fn a_missed_canary_has_the_market_execute_the_unit() {
    let rig = Rig::start_with(|config| config.params.verifier_wait_ms = 0).await;
    let market = rig.market.key().public();
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    let known = client.upload(&floats(2.0)).await;
    let request = JobRequest { canaries: vec![canary(0, known)], ..halving(&client).await };
    let job = client.submit(&request).await;
    worker.announce("a").await;
    let lease = worker.lease("a", 1, 0).await.leases.remove(0);
    let receipt = worker.compute(market, &lease, |_| floats(1.0)).await;
    worker.commit(vec![receipt]).await;
    let path = format!("/v1/jobs/{}", job.id);
    let missed = until(|| rig.get::<Job>(&path), |job| job.verification.disputed == 1).await;
    assert_eq!(missed.verification.rejected, 0, "nobody loses on the client's word");
    let verifier = rig.verifier().await;
    for _ in 0..2 {
        let lease = verifier.lease("verifier", 1, 30_000).await.leases.remove(0);
        let receipt = verifier.compute(market, &lease, |_| floats(1.0)).await;
        verifier.commit(vec![receipt]).await;
    }
    let done = until(|| rig.get::<Job>(&path), |job| job.state == JobState::Done).await;
    assert_eq!((done.verification.rejected, done.money.paid.0), (0, 900));
}

#[tokio::test]
async fn canaries_name_units_of_the_job_and_blobs_of_the_store() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    let known = client.upload(&floats(1.0)).await;
    let absent = protocol::Hash::of(b"never uploaded");
    let long =
        api::Canary { outputs: vec![api::KnownOutput { blob: known, length: 17 }], ..canary(0, known) };
    for (canary, code, field) in [
        (canary(0, absent), api::code::BLOB_UNKNOWN, "canaries[0].outputs[0].blob"),
        (canary(1, known), api::code::REQUEST_INVALID, "canaries"),
        (long, api::code::REQUEST_INVALID, "canaries"),
    ] {
        let request = JobRequest { canaries: vec![canary], ..halving(&client).await };
        let problem = bad(client.post("/v1/jobs", &request).await).await;
        assert_eq!((problem.code.as_ref(), problem.field.as_deref()), (code, Some(field)));
    }
}

const MULTIPLY: &str = "
@group(0) @binding(0) var<storage, read> x: array<i32>;
@group(0) @binding(1) var<storage, read> w: array<i32>;
@group(0) @binding(2) var<storage, read_write> y: array<i32>;
@compute @workgroup_size(2, 2) fn main(@builtin(global_invocation_id) id: vec3u) {
    y[2u * id.y + id.x] = x[2u * id.y] * w[id.x] + x[2u * id.y + 1u] * w[2u + id.x];
}
";

/// Two units that multiply two rows of numbers each by the same matrix, and that the market checks by itself.
async fn multiplying(client: &Person) -> JobRequest {
    let mut request = client.doubling(2).await;
    let kernel = client.upload(MULTIPLY.as_bytes()).await;
    let weights: Vec<u8> = [2i32, -1, 3, 1].iter().flat_map(|v| v.to_le_bytes()).collect();
    let weights = client.upload(&weights).await;
    let square = json!({ "dtype": "i32", "shape": [2, 2] });
    let side = |key: &str, value: serde_json::Value| {
        let mut buffer = square.clone();
        buffer[key] = value;
        buffer
    };
    let mut manifest = serde_json::to_value(&request.manifest).expect("JSON");
    manifest["program"] = json!({
        "kernels": { "multiply": { "blob": kernel, "entry": "main" } },
        "buffers": { "x": side("input", json!(0)), "w": side("blob", json!(weights)), "y": side("output", json!(0)) },
        "passes": [{ "kernel": "multiply", "bind": ["x", "w", "y"], "dispatch": [1] }],
    });
    manifest["verify"] = json!([{ "policy": "freivalds", "products": [{ "a": "x", "b": "w", "c": "y" }] }]);
    request.manifest = serde_json::from_value(manifest).expect("a manifest");
    request.joins.clear();
    request
}

/// What the kernel computes of unit `index` of numbers that count up from 0.
fn multiplied(index: u64) -> Vec<u8> {
    let x: Vec<i32> = (0..4).map(|i| index as i32 * 4 + i).collect();
    let y = [(0, 2, 3), (0, -1, 1), (2, 2, 3), (2, -1, 1)].map(|(row, a, b)| x[row] * a + x[row + 1] * b);
    y.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[tokio::test]
async fn a_product_is_paid_without_a_second_execution() {
    let rig = Rig::start().await;
    let market = rig.market.key().public();
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    let job = client.submit(&multiplying(&client).await).await;
    assert_eq!(job.money.escrowed.0, 2_000, "no check is set aside for");
    worker.announce("a").await;
    for lease in worker.lease("a", 2, 0).await.leases {
        let receipt = worker.compute(market, &lease, multiplied).await;
        worker.commit(vec![receipt]).await;
    }
    let path = format!("/v1/jobs/{}", job.id);
    let done = until(|| rig.get::<Job>(&path), |job| job.state == JobState::Done).await;
    assert_eq!((done.verification.algebraic, done.verification.checked), (2, 0));
    assert_eq!(done.money.paid.0, 1_800);
}

#[tokio::test]
async fn a_wrong_product_is_found_by_the_market_and_executed_again() {
    let rig = Rig::start_with(|config| config.params.verifier_wait_ms = 0).await;
    let market = rig.market.key().public();
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    let job = client.submit(&multiplying(&client).await).await;
    worker.announce("a").await;
    let lease = worker.lease("a", 1, 0).await.leases.remove(0);
    let wrong = |index| {
        let mut bytes = multiplied(index);
        // One bit of the last unit's last element.
        bytes[12] ^= u8::from(index == 1);
        bytes
    };
    let receipt = worker.compute(market, &lease, wrong).await;
    worker.commit(vec![receipt]).await;
    let path = format!("/v1/jobs/{}", job.id);
    let found = until(|| rig.get::<Job>(&path), |job| job.verification.disputed > 0).await;
    assert_eq!(found.verification.rejected, 0, "that the program multiplies is the client's word");
    let verifier = rig.verifier().await;
    let lease = verifier.lease("verifier", 1, 30_000).await.leases.remove(0);
    let receipt = verifier.compute(market, &lease, multiplied).await;
    verifier.commit(vec![receipt]).await;
    let found = until(|| rig.get::<Job>(&path), |job| job.verification.rejected > 0).await;
    assert_eq!((found.progress.waiting, found.verification.rejected, found.money.paid.0), (2, 2, 0));
}

#[tokio::test]
async fn the_policy_canary_brings_canaries() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    let mut request = halving(&client).await;
    let mut manifest = serde_json::to_value(&request.manifest).expect("JSON");
    manifest["verify"] = json!([{ "policy": "canary" }]);
    request.manifest = serde_json::from_value(manifest).expect("a manifest");
    let problem = bad(client.post("/v1/jobs", &request).await).await;
    assert_eq!(
        (problem.code.as_ref(), problem.field.as_deref()),
        (api::code::REQUEST_INVALID, Some("canaries"))
    );
    let known = client.upload(&floats(1.0)).await;
    let request = JobRequest { canaries: vec![canary(0, known)], ..request };
    assert_eq!(client.submit(&request).await.money.escrowed.0, 2_000, "it is audited besides");
}
