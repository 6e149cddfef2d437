//! Rates and quotas as callers see them.

use api::code;
use market::{Limits, Quotas};
use reqwest::{Method, StatusCode};

use crate::rig::{Rig, bad, good};

/// So slow that no bucket fills while a test runs.
fn slow(burst_s: u64) -> Limits {
    Limits {
        reads_per_s: 1,
        writes_per_s: 1,
        strangers_per_s: 0,
        blob_bytes_per_s: 0,
        burst_s,
        ..Limits::default()
    }
}

#[tokio::test]
async fn whoever_asks_too_fast_is_told_when_to_come_back_and_nobody_else_is() {
    let rig = Rig::start_with(|config| config.limits = slow(1000)).await;
    let (ada, bob) = (rig.person(1).await, rig.person(2).await);
    let ask = async |person: &crate::rig::Person| {
        person.request(Method::GET, "/v1/jobs").send().await.expect("an answer")
    };
    let mut refused = None;
    for n in 0..3000 {
        let response = ask(&ada).await;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            assert!(n >= 1000, "{n} requests are within the burst");
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("a burst has an end");
    let wait_s: u64 = refused.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!(wait_s >= 1);
    assert_eq!(bad(refused).await.code, code::RATE_LIMITED);
    // Another key, changes by the same key, and what operators watch are not touched.
    assert!(ask(&bob).await.status().is_success());
    ada.upload(b"a change").await;
    assert!(ada.request(Method::GET, "/v1/health").send().await.expect("an answer").status().is_success());
    let metrics =
        rig.http.get(rig.url("/metrics")).send().await.expect("an answer").text().await.expect("text");
    assert!(metrics.contains(r#"plexus_rate_limited_total{class="reads"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"plexus_refusals_total{code="rate_limited"} 1"#), "{metrics}");
}

#[tokio::test]
async fn strangers_share_their_addresss_bucket_and_the_verifier_has_none() {
    let rig = Rig::start_with(|config| {
        config.limits = Limits { strangers_per_s: 1, burst_s: 4, ..slow(1) };
    })
    .await;
    // Two of the four requests are a login.
    let verifier = rig.login_with(&rig.market.key().clone(), None).await;
    for _ in 0..50 {
        assert!(
            verifier.request(Method::GET, "/v1/jobs").send().await.expect("an answer").status().is_success()
        );
    }
    let mut last = StatusCode::OK;
    for _ in 0..20 {
        last = rig.http.get(rig.url("/v1/market")).send().await.expect("an answer").status();
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    // A token that is not the market's is no login.
    let forged = rig.http.get(rig.url("/v1/market")).bearer_auth("a.b.c").send().await.expect("an answer");
    assert_eq!(forged.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn blob_bytes_are_paid_for_after_they_went_over_the_wire() {
    let rig = Rig::start_with(|config| {
        config.limits = Limits { blob_bytes_per_s: 1, burst_s: 3600, ..Limits::default() };
    })
    .await;
    let ada = rig.person(1).await;
    ada.upload(&[7; 100_000]).await;
    let bytes = [8; 10];
    let refused = ada.put(&protocol::Hash::of(&bytes), &bytes).await;
    assert_eq!(bad(refused).await.code, code::RATE_LIMITED);
}

#[tokio::test]
async fn quotas_name_what_is_used_and_make_room_again() {
    let rig = Rig::start_with(|config| {
        config.quotas = Quotas { jobs_unfinished_max: 2, units_waiting_max: 10, ..Quotas::default() };
    })
    .await;
    let (ada, bob) = (rig.rich(1).await, rig.rich(2).await);
    let submit = async |person: &crate::rig::Person, units: u64, key: &str| {
        let request = person.doubling(units).await;
        let call = person.request(Method::POST, "/v1/jobs").header(api::IDEMPOTENCY_KEY, key);
        call.json(&request).send().await.expect("an answer")
    };
    let first: api::Job = good(submit(&ada, 4, "first").await).await;
    let problem = bad(submit(&ada, 7, "too many units").await).await;
    assert_eq!(
        (problem.code.as_str(), problem.field.as_deref()),
        (code::QUOTA_EXCEEDED, Some("units_waiting_max"))
    );
    assert!(problem.detail.contains("is 10; 4 are used and 7 more"), "{}", problem.detail);
    let _: api::Job = good(submit(&ada, 4, "second").await).await;
    let problem = bad(submit(&ada, 1, "third").await).await;
    assert_eq!(problem.field.as_deref(), Some("jobs_unfinished_max"));
    // One that was taken is answered again, though it is the last that fits; others have their own quotas.
    let again: api::Job = good(submit(&ada, 4, "second").await).await;
    assert_eq!(again.units, 4);
    let _: api::Job = good(submit(&bob, 4, "bobs").await).await;
    let cancelled = ada.post(&format!("/v1/jobs/{}/cancel", first.id), &serde_json::json!({})).await;
    let _: api::Job = good(cancelled).await;
    let _: api::Job = good(submit(&ada, 1, "third again").await).await;
}

#[tokio::test]
async fn an_account_has_so_many_workers() {
    let rig = Rig::start_with(|config| {
        config.quotas = Quotas { workers_max: 2, ..Quotas::default() };
    })
    .await;
    let wallet = protocol::SecretKey::from_seed([1; 32]);
    let mut sessions = Vec::new();
    for n in 10..13 {
        sessions.push(rig.login_with(&wallet, Some(&protocol::SecretKey::from_seed([n; 32]))).await);
    }
    for session in &sessions[..2] {
        session.announce("one").await;
        session.announce("one").await;
    }
    let problem = bad(sessions[2].announce_as("one").await).await;
    assert_eq!(
        (problem.code.as_str(), problem.field.as_deref()),
        (code::QUOTA_EXCEEDED, Some("workers_max"))
    );
    let gone = format!("/v1/workers/{}/leave", sessions[0].key.public());
    let left = sessions[0].post(&gone, &serde_json::json!({"instance": "one", "drain": false})).await;
    assert!(left.status().is_success());
    sessions[2].announce("one").await;
}

#[tokio::test]
async fn every_answer_carries_its_requests_id() {
    let rig = Rig::start().await;
    let id = async |given: Option<&str>| {
        let mut call = rig.http.get(rig.url("/v1/health"));
        if let Some(given) = given {
            call = call.header("x-request-id", given);
        }
        let response = call.send().await.expect("an answer");
        response.headers()["x-request-id"].to_str().expect("text").to_owned()
    };
    assert_eq!(id(Some("mine-1")).await, "mine-1");
    let (first, second) = (id(None).await, id(Some("not one")).await);
    assert!(first.len() == 16 && second.len() == 16 && first != second, "{first} {second}");
}

#[tokio::test]
async fn an_account_stores_so_many_bytes_and_what_is_there_already_costs_nothing() {
    let rig = Rig::start_with(|config| {
        config.quotas = Quotas { blob_bytes_max: 1 << 20, ..Quotas::default() };
    })
    .await;
    let (ada, bob) = (rig.person(1).await, rig.person(2).await);
    let bytes = vec![7; 900_000];
    ada.upload(&bytes).await;
    let more = vec![8; 900_000];
    let problem = bad(ada.put(&protocol::Hash::of(&more), &more).await).await;
    assert_eq!(
        (problem.code.as_str(), problem.field.as_deref()),
        (code::QUOTA_EXCEEDED, Some("blob_mib_max"))
    );
    ada.upload(&bytes).await;
    bob.upload(&bytes).await;
    bob.upload(&more).await;
    ada.upload(&more).await;
}

#[tokio::test]
async fn only_blobs_that_nothing_needs_are_collected() {
    let rig = Rig::start().await;
    let ada = rig.rich(1).await;
    let lost = ada.upload(b"nobody needs this").await;
    let job = ada.submit(&ada.doubling(4).await).await;
    ada.announce("one").await;
    let answer = ada.lease("one", 1, 0).await;
    let there = async |blob: &protocol::Hash| {
        let response = rig.http.head(rig.url(&format!("/v1/blobs/{blob}"))).send().await.expect("an answer");
        response.status().is_success()
    };
    let receipt = ada.compute(rig.market.key().public(), &answer.leases[0], crate::rig::doubled).await;
    ada.commit(vec![receipt]).await;
    // Nothing is old enough.
    let day = std::time::Duration::from_secs(24 * 3600);
    assert_eq!(rig.market.collect_blobs(day).await.expect("collected").blobs, 0);
    assert!(there(&lost).await);
    // Seconds are what blobs are dated in: the next one comes soon.
    let zero = std::time::Duration::ZERO;
    let collected = crate::rig::until(
        async || rig.market.collect_blobs(zero).await.expect("collected"),
        |collected| collected.blobs > 0,
    )
    .await;
    assert_eq!((collected.blobs, collected.bytes), (1, 17));
    assert!(!there(&lost).await);
    // The job still runs to its end, and its result can be fetched.
    let shown: api::Job = rig.get(&format!("/v1/jobs/{}", job.id)).await;
    assert_eq!(shown.id, job.id);
    assert!(there(&shown.manifest).await);
}
