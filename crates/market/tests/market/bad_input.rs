//! Bad input gets a clear error, and nothing is lost. One test each.

use api::{JobRequest, code};
use protocol::{Amount, Hash};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Person, Rig, TOKEN, bad, doubled, good};

/// Submits what `change` makes of a good job's JSON, and says how it was refused.
async fn refused(client: &Person, change: impl FnOnce(&mut Value)) -> api::Problem {
    let mut request = serde_json::to_value(client.doubling(4).await).expect("JSON");
    change(&mut request);
    let problem = bad(client.post("/v1/jobs", &request).await).await;
    let jobs: api::Page<api::Job> =
        good(client.request(Method::GET, "/v1/jobs").send().await.expect("an answer")).await;
    assert!(jobs.items.is_empty(), "nothing was scheduled");
    problem
}

#[tokio::test]
async fn json_that_breaks_off_names_the_place() {
    let rig = Rig::start().await;
    let person = rig.person(1).await;
    let broken =
        person.request(Method::POST, "/v1/workers").body("{\"instance\": \"a\",\n  \"device\":").send();
    let problem = bad(broken.await.expect("an answer")).await;
    assert_eq!((problem.code.as_str(), problem.line), (code::REQUEST_INVALID, Some(2)));
}

#[tokio::test]
async fn a_malformed_manifest_names_the_field() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    let problem = refused(&client, |job| job["manifest"]["program"]["passes"][0]["bnid"] = json!([])).await;
    assert_eq!(problem.code, code::REQUEST_INVALID);
    assert!(problem.detail.contains("bnid"), "{problem:?}");
    assert_eq!(problem.field.as_deref(), Some("manifest.program.passes[0].bnid"));
    let problem =
        refused(&client, |job| job["manifest"]["program"]["passes"][0]["bind"] = json!(["x", "z"])).await;
    assert_eq!(problem.code, code::MANIFEST_INVALID);
    assert!(
        problem.field.as_deref().is_some_and(|f| f.starts_with("manifest.program.passes[0]")),
        "{problem:?}"
    );
}

#[tokio::test]
async fn wgsl_that_does_not_compile_names_line_and_column() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    let kernel = client.upload(b"@compute @workgroup_size(1)\nfn main() { let a = ; }").await;
    let problem =
        refused(&client, |job| job["manifest"]["program"]["kernels"]["double"]["blob"] = json!(kernel)).await;
    assert_eq!(problem.code, code::WGSL_INVALID);
    assert_eq!((problem.line, problem.column), (Some(2), Some(21)), "{problem:?}");
}

#[tokio::test]
async fn wgsl_with_other_bindings_is_refused() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    let text = crate::rig::DOUBLE.replace("binding(1)", "binding(3)");
    let kernel = client.upload(text.as_bytes()).await;
    let problem =
        refused(&client, |job| job["manifest"]["program"]["kernels"]["double"]["blob"] = json!(kernel)).await;
    assert_eq!(problem.code, code::WGSL_BINDINGS, "{problem:?}");
}

#[tokio::test]
async fn wgsl_that_would_cost_the_market_its_stack_or_its_memory_is_refused() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    let doubled: String = (1..30).map(|i| format!("const a{i} = array(a{}, a{});\n", i - 1, i - 1)).collect();
    for bomb in [
        format!("//\rconst a = 1{};\n", "+1".repeat(100_000)),
        format!("const a0 = array(1u, 2u);\n{doubled}"),
        "const a = -array<i32, 500000000>();\n".to_owned(),
    ] {
        let kernel = client.upload(format!("{bomb}{}", crate::rig::DOUBLE).as_bytes()).await;
        let problem =
            refused(&client, |job| job["manifest"]["program"]["kernels"]["double"]["blob"] = json!(kernel))
                .await;
        assert_eq!(problem.code, code::LIMITS_EXCEEDED, "{problem:?}");
    }
}

#[tokio::test]
async fn a_buffer_beyond_every_limit_is_refused() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    let problem = refused(&client, |job| {
        job["manifest"]["program"]["buffers"]["y"]["shape"] = json!([1 << 20, 1 << 12]);
    })
    .await;
    assert_eq!(problem.code, code::LIMITS_EXCEEDED, "{problem:?}");
}

#[tokio::test]
async fn a_job_that_no_device_online_can_run_waits_with_the_reason() {
    let rig = Rig::start().await;
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    worker.announce("a").await;
    let mut request = client.doubling(4).await;
    request.manifest.needs.storage_buffer_bytes_min = 1 << 28;
    let job = client.submit(&request).await;
    assert_eq!(job.reason.expect("it waits").code, "no_worker_fits");
    let idle = worker.lease("a", 1, 0).await.reason.expect("it idles");
    assert_eq!(idle.code, "no_matching_job");
    assert_eq!(idle.facts["storage_buffer_bytes"], (1u64 << 28).to_string());
}

#[tokio::test]
async fn an_unknown_blob_is_named() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    let absent = Hash::of(b"never uploaded");
    let problem = refused(&client, |job| job["inputs"][0]["blob"] = json!(absent)).await;
    assert_eq!(
        (problem.code.as_str(), problem.field.as_deref()),
        (code::BLOB_UNKNOWN, Some("inputs[0].blob"))
    );
    assert!(problem.detail.contains(&absent.to_string()));
    let problem =
        refused(&client, |job| job["manifest"]["program"]["kernels"]["double"]["blob"] = json!(absent)).await;
    assert_eq!(problem.code, code::BLOB_UNKNOWN, "{problem:?}");
}

#[tokio::test]
async fn inputs_that_do_not_fit_the_manifest_are_refused() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    for (field, change) in [
        ("inputs", (|job: &mut Value| job["inputs"] = json!([])) as fn(&mut Value)),
        ("inputs[0].length", |job| job["inputs"][0]["length"] = json!("12")),
        ("inputs[0].offset", |job| job["inputs"][0]["offset"] = json!("65")),
        ("joins[0]", |job| job["joins"][0]["layout"]["rows_per_unit"] = json!(5)),
        ("joins[0].file", |job| job["joins"][0]["file"] = json!("../doubled.npy")),
        ("name", |job| job["name"] = json!("")),
    ] {
        let problem = refused(&client, change).await;
        assert_eq!(problem.code, code::REQUEST_INVALID, "{field}");
        assert_eq!(problem.field.as_deref(), Some(field), "{problem:?}");
    }
    let problem = refused(&client, |job| job["units"] = json!("0")).await;
    assert_eq!(problem.code, code::REQUEST_INVALID);
}

#[tokio::test]
async fn an_over_budget_job_takes_no_money() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    let problem = refused(&client, |job| job["budget"] = json!("7999")).await;
    assert_eq!(problem.code, code::OVER_BUDGET);
    let problem = refused(&client, |job| job["unit_price"] = json!((1000 * TOKEN).to_string())).await;
    assert_eq!(problem.code, code::BALANCE_TOO_LOW);
    let account: api::Account = rig.get(&format!("/v1/accounts/{}", client.account)).await;
    assert_eq!((account.available, account.escrowed), (Amount(1000 * TOKEN), Amount::ZERO));
}

#[tokio::test]
async fn two_workers_with_one_key_are_told_apart() {
    let rig = Rig::start().await;
    let worker = rig.person(2).await;
    worker.announce("first").await;
    worker.announce("first").await;
    let problem = bad(worker.announce_as("second").await).await;
    assert_eq!(problem.code, code::WORKER_KEY_IN_USE);
    assert_eq!(bad(worker.lease_raw("second", 1, 0).await).await.code, code::WORKER_KEY_IN_USE);
    assert!(worker.lease("first", 1, 0).await.reason.is_some(), "the first one goes on");
}

/// A market with a job, a worker with a lease on it, and a receipt for that.
async fn leased(rig: &Rig) -> (Person, api::Lease) {
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    client.submit(&client.doubling(4).await).await;
    worker.announce("a").await;
    let lease = worker.lease("a", 1, 0).await.leases.remove(0);
    (worker, lease)
}

#[tokio::test]
async fn a_receipt_with_a_wrong_signature_is_refused() {
    let rig = Rig::start().await;
    let (worker, lease) = leased(&rig).await;
    let mut receipt = worker.compute(rig.market.key().public(), &lease, doubled).await;
    receipt.receipt.device_us += 1;
    assert_eq!(worker.refused(receipt).await.code, code::SIGNATURE_INVALID);
}

#[tokio::test]
async fn a_receipt_for_somebody_elses_lease_is_refused() {
    let rig = Rig::start().await;
    let (_, lease) = leased(&rig).await;
    let thief = rig.person(3).await;
    thief.announce("t").await;
    let receipt = thief.compute(rig.market.key().public(), &lease, doubled).await;
    assert_eq!(thief.refused(receipt).await.code, code::LEASE_FOREIGN);
}

#[tokio::test]
async fn a_second_receipt_with_other_content_is_refused() {
    let rig = Rig::start().await;
    let (worker, lease) = leased(&rig).await;
    let market = rig.market.key().public();
    let first = worker.compute(market, &lease, doubled).await;
    worker.commit(vec![first]).await;
    let second = worker.compute(market, &lease, |_| vec![9; 16]).await;
    assert_eq!(worker.refused(second).await.code, code::RECEIPT_DUPLICATE);
}

#[tokio::test]
async fn a_receipt_whose_lease_was_given_to_another_is_refused() {
    let rig = Rig::start_with(|config| config.params.lease_ms = 1).await;
    let (client, worker, other) = (rig.rich(1).await, rig.person(2).await, rig.person(3).await);
    client.submit(&client.doubling(2).await).await;
    worker.announce("a").await;
    other.announce("b").await;
    let lease = worker.lease("a", 1, 0).await.leases.remove(0);
    // The lease ends without a heartbeat; another worker that waits for work gets its units.
    assert_eq!(other.lease("b", 1, 30_000).await.leases.len(), 1);
    let receipt = worker.compute(rig.market.key().public(), &lease, doubled).await;
    let problem = worker.refused(receipt).await;
    assert!([code::LEASE_EXPIRED, code::LEASE_STALE].contains(&&*problem.code), "{problem:?}");
}

#[tokio::test]
async fn a_receipt_for_an_absent_output_another_market_or_other_units_is_refused() {
    let rig = Rig::start().await;
    let (worker, lease) = leased(&rig).await;
    let market = rig.market.key().public();
    let output = |unit: u64, bytes: &[u8]| api::UnitOutputs {
        unit,
        outputs: vec![protocol::OutputCommitment::of(bytes)],
    };
    let absent = worker.sign(market, &lease, vec![output(0, &[1; 16]), output(1, &[2; 16])]);
    assert_eq!(worker.refused(absent).await.code, code::BLOB_UNKNOWN);
    worker.upload(&[3; 12]).await;
    let short = worker.sign(market, &lease, vec![output(0, &[3; 12]), output(1, &[3; 12])]);
    assert_eq!(worker.refused(short).await.code, code::RECEIPT_INVALID);
    worker.upload(&doubled(0)).await;
    let elsewhere = worker.sign(worker.account, &lease, vec![output(0, &doubled(0)), output(1, &doubled(0))]);
    assert_eq!(worker.refused(elsewhere).await.code, code::RECEIPT_INVALID);
    let others = worker.sign(market, &lease, vec![output(2, &doubled(0)), output(3, &doubled(0))]);
    assert_eq!(worker.refused(others).await.code, code::RECEIPT_INVALID);
    let mut moved = worker.sign(market, &lease, vec![output(0, &doubled(0)), output(1, &doubled(0))]);
    moved.units.swap(0, 1);
    assert_eq!(worker.refused(moved).await.code, code::RECEIPT_INVALID);
    // And after all that, the honest one is taken.
    let honest = worker.compute(market, &lease, doubled).await;
    let results = worker.commit(vec![honest]).await;
    assert!(matches!(results[0], api::ReceiptResult::Checking { .. }));
}

#[tokio::test]
async fn one_idempotency_key_for_two_requests_is_refused() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    let request = client.doubling(4).await;
    let send = |request: JobRequest| {
        let call = client.request(Method::POST, "/v1/jobs").header(api::IDEMPOTENCY_KEY, "k1");
        async move { call.json(&request).send().await.expect("an answer") }
    };
    let first: api::Job = good(send(request.clone()).await).await;
    let again: api::Job = good(send(request.clone()).await).await;
    assert_eq!((again.id, again.money.escrowed), (first.id, first.money.escrowed));
    let other = JobRequest { name: "another".into(), ..request };
    assert_eq!(bad(send(other).await).await.code, code::IDEMPOTENCY_CONFLICT);
    let account: api::Account = rig.get(&format!("/v1/accounts/{}", client.account)).await;
    assert_eq!(account.escrowed, first.money.escrowed, "escrowed once");
}

#[tokio::test]
async fn a_wrong_path_method_query_or_size_is_a_problem_document() {
    let rig = Rig::start().await;
    let person = rig.person(1).await;
    for (path, code) in [
        ("/v1/nowhere", code::NOT_FOUND),
        ("/v1/jobs/job-77", code::NOT_FOUND),
        ("/v1/jobs/77", code::REQUEST_INVALID),
        ("/v1/jobs?limt=3", code::REQUEST_INVALID),
        ("/v1/payments?cursor=x", code::REQUEST_INVALID),
        ("/v1/workers/abc", code::REQUEST_INVALID),
        ("/v1/blobs/00", code::REQUEST_INVALID),
        ("/v1/leases", code::METHOD_NOT_ALLOWED),
    ] {
        assert_eq!(rig.problem(path).await.code, code, "{path}");
    }
    let large = person.request(Method::POST, "/v1/leases").body(vec![b' '; 300_000]).send();
    let problem = bad(large.await.expect("an answer")).await;
    assert_eq!((problem.code.as_str(), problem.status), (code::REQUEST_TOO_LARGE, 413));
    assert_eq!(bad(person.lease_raw("a", 65, 0).await).await.field.as_deref(), Some("packages_max"));
    assert_eq!(bad(person.lease_raw("a", 1, 0).await).await.code, code::WORKER_UNKNOWN);
}

#[tokio::test]
async fn without_a_faucet_there_are_no_test_tokens() {
    let rig = Rig::start_with(|config| config.faucet = None).await;
    let person = rig.person(1).await;
    let path = format!("/v1/accounts/{}/deposit", person.account);
    let answer = person.post(&path, &json!({"amount": "5"})).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(bad(answer).await.code, code::NO_FAUCET);
}
