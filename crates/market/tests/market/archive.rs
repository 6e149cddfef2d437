//! Jobs that ended leave the market's memory, and whoever asks about them is answered as before.

use std::time::Duration;

use api::{Job, JobState, Page, code};
use protocol::{JobId, PublicKey};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::rig::{Person, Rig, TOKEN, bad, doubled, good, until};

/// A market that archives at once.
async fn rig() -> Rig {
    Rig::start_with(|config| (config.params.archive_after_ms, config.params.appeal_ms) = (0, 0)).await
}

/// Computes and checks a job with two owners' workers.
async fn finish(rig: &Rig, workers: &[Person; 2], job: JobId) -> Job {
    let market: PublicKey = rig.market.key().public();
    let path = format!("/v1/jobs/{job}");
    for _ in 0..100 {
        for worker in workers {
            for lease in worker.lease("a", 64, 0).await.leases {
                let receipt = worker.compute(market, &lease, doubled).await;
                worker.commit(vec![receipt]).await;
            }
        }
        let job: Job = rig.get(&path).await;
        if job.state == JobState::Done {
            return job;
        }
    }
    panic!("{:?}", rig.get::<Value>(&path).await);
}

async fn workers(rig: &Rig) -> [Person; 2] {
    let workers = [rig.person(2).await, rig.person(3).await];
    for worker in &workers {
        worker.announce("a").await;
    }
    workers
}

/// Everything that is told about a job.
async fn told(rig: &Rig, job: JobId) -> (Vec<Value>, Vec<u8>) {
    let mut pages = Vec::new();
    for path in ["", "/units", "/units?limit=2&cursor=3"] {
        pages.push(rig.get(&format!("/v1/jobs/{job}{path}")).await);
    }
    pages.push(rig.get("/v1/jobs").await);
    pages.push(rig.get(&format!("/v1/payments?job={job}")).await);
    let url = rig.url(&format!("/v1/jobs/{job}/result/0"));
    let result = rig.http.get(url).send().await.expect("an answer");
    assert_eq!(result.status(), StatusCode::OK);
    (pages, result.bytes().await.expect("a body").into())
}

#[tokio::test]
async fn an_archived_job_is_told_about_as_before_and_nothing_about_it_changes() {
    let rig = rig().await;
    let (client, workers) = (rig.rich(1).await, workers(&rig).await);
    let request = client.doubling(6).await;
    let submit = async || {
        let post = client.request(reqwest::Method::POST, "/v1/jobs").header("idempotency-key", "first");
        post.json(&request).send().await.expect("an answer")
    };
    let job: Job = good(submit().await).await;
    let done = finish(&rig, &workers, job.id).await;
    let before = told(&rig, job.id).await;
    assert_eq!(rig.market.archive_jobs().await.expect("there is room"), 1);
    assert_eq!(rig.market.archive_jobs().await.expect("there is room"), 0);
    assert_eq!(told(&rig, job.id).await, before);

    let path = |action: &str| format!("/v1/jobs/{}/{action}", job.id);
    for action in ["cancel", "pause", "resume"] {
        let problem = bad(client.post(&path(action), &json!({})).await).await;
        assert_eq!(problem.code, code::JOB_ENDED, "{action}");
    }
    let rating = json!({"worker": done.workers[0].worker, "stars": 5});
    assert_eq!(bad(client.post(&path("ratings"), &rating).await).await.code, code::JOB_ENDED);
    // The same submission again gets its first answer again, and a new one a number of its own.
    let again: Job = good(submit().await).await;
    assert_eq!((again.id, again.state), (job.id, JobState::Done));
    let next = client.submit(&request).await;
    assert_eq!(next.id, JobId(job.id.0 + 1));
    let listed: Page<Job> = rig.get("/v1/jobs").await;
    assert_eq!(
        listed.items.iter().map(|job| job.state).collect::<Vec<_>>(),
        [JobState::Waiting, JobState::Done]
    );
    good::<Job>(client.post(&format!("/v1/jobs/{}/cancel", next.id), &json!({})).await).await;
    assert_eq!(rig.market.archive_jobs().await.expect("there is room"), 1);
    let before = told(&rig, job.id).await;

    // Blobs that only archived jobs name are not collected before their time, and archives never.
    rig.market.collect_blobs(Duration::from_secs(3600)).await.expect("it collects");
    assert_eq!(told(&rig, job.id).await, before);
    let collect = async || rig.market.collect_blobs(Duration::ZERO).await.expect("it collects");
    until(&collect, |collected| collected.kept == 2).await;
    assert_eq!(rig.get::<Value>(&format!("/v1/jobs/{}", job.id)).await, before.0[0]);
    let result = rig.problem(&format!("/v1/jobs/{}/result/0", job.id)).await;
    assert_eq!(result.code, code::NOT_FOUND, "its outputs are gone");

    let restarted = rig.restart().await;
    assert_eq!(restarted.get::<Value>(&format!("/v1/jobs/{}", job.id)).await, before.0[0]);
}

#[tokio::test]
async fn stake_and_royalties_are_among_the_payments() {
    let rig = Rig::start_with(|config| config.params.unbond_ms = 60_000).await;
    let (client, workers, author) = (rig.rich(1).await, workers(&rig).await, rig.rich(7).await);
    let stake = |person: &Person, what: &str| format!("/v1/accounts/{}/{what}", person.account);
    let amount = json!({"amount": (5 * TOKEN).to_string()});
    good::<Value>(author.post(&stake(&author, "bond"), &amount).await).await;
    let mut request = client.doubling(2).await;
    request.royalty = Some(api::Royalty { account: author.account, bps: 1_000 });
    let job = client.submit(&request).await;
    finish(&rig, &workers, job.id).await;
    let path = format!("/v1/payments?account={}", author.account);
    let kinds = |page: &Page<Value>| -> Vec<(String, String)> {
        let told = |item: &Value, field: &str| item[field].as_str().expect("text").to_owned();
        page.items.iter().map(|item| (told(item, "kind"), told(item, "amount"))).collect()
    };
    let page = until(|| rig.get::<Page<Value>>(&path), |page| page.items.len() == 3).await;
    let expected = [("royalty", 2 * 100), ("bond", 5 * TOKEN), ("deposit", 1_000 * TOKEN)];
    assert_eq!(kinds(&page), expected.map(|(kind, amount)| (kind.to_owned(), amount.to_string())));
}
