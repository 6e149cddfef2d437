//! From submission to payment.

use api::{
    Job, JobState, LeaseRequest, Ledger, Page, Payment, PaymentKind, ReceiptResult, ReceiptsAnswer,
    ReceiptsRequest, WorkerState,
};
use protocol::Amount;

use crate::rig::{Rig, bad, doubled, good, until};

#[tokio::test]
async fn a_job_is_run_checked_by_the_verifier_paid_and_joined() {
    let rig = Rig::start_with(|config| config.params.verifier_wait_ms = 10).await;
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    let market = rig.market.key().public();
    let job = client.submit(&client.doubling(6).await).await;
    assert_eq!((job.state, job.units), (JobState::Waiting, 6));
    assert_eq!(job.reason.expect("it waits").code, "no_workers");

    assert_eq!(worker.announce("a").await.state, WorkerState::Idle);
    let (mut units, mut receipts, mut results) = (0, Vec::new(), Vec::new());
    while units < 6 {
        let leases = worker.lease("a", 64, 0).await.leases;
        assert!(!leases.is_empty());
        let mut batch = Vec::new();
        for lease in &leases {
            units += lease.units.iter().map(|run| run.count).sum::<u32>();
            batch.push(worker.compute(market, lease, doubled).await);
        }
        results.extend(worker.commit(batch.clone()).await);
        receipts.extend(batch);
    }
    // A new worker is checked in everything.
    assert!(results.iter().all(|result| matches!(result, ReceiptResult::Checking { .. })), "{results:?}");
    // A receipt that is sent again gets its first answer again.
    let again = worker.commit(receipts.clone()).await;
    assert_eq!(format!("{again:?}"), format!("{results:?}"));

    let verifier = rig.verifier().await;
    let mut checked = 0;
    while checked < 6 {
        let answer = verifier.lease("verifier", 64, 5_000).await;
        assert!(!answer.leases.is_empty(), "{:?}", answer.reason);
        for lease in answer.leases {
            checked += lease.units.iter().map(|run| run.count).sum::<u32>();
            let receipt = verifier.compute(market, &lease, doubled).await;
            verifier.commit(vec![receipt]).await;
        }
    }
    let path = format!("/v1/jobs/{}", job.id);
    let done = until(|| rig.get::<Job>(&path), |job| job.state == JobState::Done).await;
    assert_eq!((done.progress.accepted, done.verification.checked, done.verification.by_verifier), (6, 6, 6));
    assert_eq!(done.money.paid, Amount(6 * 900));
    assert_eq!(done.money.held, Amount::ZERO);

    // The result is what the kernel computes, joined.
    let result = rig.http.get(rig.url(&format!("{path}/result/0"))).send().await.expect("an answer");
    assert_eq!(result.headers()["content-type"], "application/x-npy");
    let bytes = result.bytes().await.expect("a body");
    let expected: Vec<u8> = (0..6).flat_map(doubled).collect();
    assert!(bytes.ends_with(&expected));

    // Whoever asks sees where the money went, and it adds up.
    let page: Page<Payment> = rig.get(&format!("/v1/payments?job={}", job.id)).await;
    let total = |kind| page.items.iter().filter(|p| p.kind == kind).map(|p| p.amount.0).sum::<u64>();
    assert_eq!(total(PaymentKind::Escrow), 2 * 6 * 1000);
    assert_eq!(total(PaymentKind::Work), 6 * 900);
    assert_eq!((total(PaymentKind::Treasury), total(PaymentKind::Burn)), (6 * 50, 6 * 50));
    assert_eq!(total(PaymentKind::Refund), 6 * 1000);
    let account: api::Account = rig.get(&format!("/v1/accounts/{}", worker.account)).await;
    assert_eq!((account.earned, account.available), (Amount(5400), Amount::ZERO));
    assert_eq!(account.pending, Amount(5400), "pay is held back for a while");
    assert_eq!(account.releases.iter().map(|release| release.amount.0).sum::<u64>(), 5400);
    let ledger: Ledger = rig.get("/v1/ledger").await;
    let accounts = ledger.available.0 + ledger.pending.0;
    assert_eq!(ledger.deposited.0, accounts + ledger.held.0 + ledger.treasury.0 + ledger.burned.0);
}

#[tokio::test]
async fn the_answer_to_a_receipt_brings_the_next_lease_to_whoever_wants_it() {
    let rig = Rig::start().await;
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    let market = rig.market.key().public();
    worker.announce("a").await;
    let mut request = client.doubling(3).await;
    request.package_units = Some(1);
    client.submit(&request).await;
    let mut leases = worker.lease("a", 1, 0).await.leases;
    let mut units = Vec::new();
    while let Some(lease) = leases.pop() {
        units.extend(lease.units.iter().flat_map(|run| run.units()));
        let receipts = vec![worker.compute(market, &lease, doubled).await];
        let next =
            Some(LeaseRequest { instance: "a".into(), packages_max: 1, wait_ms: 30_000, others_only: false });
        let response = worker.post("/v1/receipts", &ReceiptsRequest { receipts, next }).await;
        let answer: ReceiptsAnswer = good(response).await;
        assert!(matches!(answer.results[..], [ReceiptResult::Checking { .. }]), "{answer:?}");
        leases = answer.leases;
    }
    // The last answer brought nothing, and did not wait for it.
    assert_eq!(units, [0, 1, 2]);
    let next = Some(LeaseRequest { instance: "a".into(), packages_max: 65, wait_ms: 0, others_only: false });
    let problem = bad(worker.post("/v1/receipts", &ReceiptsRequest { receipts: vec![], next }).await).await;
    assert_eq!(problem.field.as_deref(), Some("packages_max"));
}

#[tokio::test]
async fn a_waiting_worker_gets_work_the_moment_it_is_submitted() {
    let rig = Rig::start().await;
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    worker.announce("a").await;
    let idle = worker.lease("a", 1, 0).await;
    assert_eq!(idle.reason.expect("there is none").code, "no_jobs");
    let request = client.doubling(4).await;
    let (answer, job) = tokio::join!(worker.lease("a", 1, 30_000), client.submit(&request));
    assert_eq!(answer.leases.len(), 1);
    assert_eq!(answer.leases[0].job, job.id);
}

#[tokio::test]
async fn a_preview_has_what_is_done_and_a_whole_result_waits() {
    let rig = Rig::start().await;
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    let job = client.submit(&client.doubling(4).await).await;
    let path = format!("/v1/jobs/{}/result/0", job.id);
    assert_eq!(rig.problem(&path).await.code, api::code::RESULT_NOT_READY);
    let partial = rig.url(&format!("{path}?partial=true"));
    let preview = rig.http.get(&partial).send().await.expect("an answer");
    assert_eq!(preview.status(), 200);
    assert_eq!(preview.headers()["plexus-units-missing"], "4");

    // The second half alone is computed, and stands since the job was cancelled.
    worker.announce("a").await;
    let leases = worker.lease("a", 2, 0).await.leases;
    let second = worker.compute(rig.market.key().public(), &leases[1], doubled).await;
    worker.commit(vec![second]).await;
    let cancel = format!("/v1/jobs/{}/cancel", job.id);
    crate::rig::good::<Job>(client.post(&cancel, &serde_json::json!({})).await).await;
    let preview = rig.http.get(&partial).send().await.expect("an answer");
    assert_eq!(preview.headers()["plexus-units-missing"], "2");
    let tag = preview.headers()["etag"].clone();
    let bytes = preview.bytes().await.expect("a body");
    let half = [doubled(2), doubled(3)].concat();
    assert!(bytes.ends_with(&[[0].repeat(half.len()), half].concat()));
    let again = rig.http.get(&partial).header("if-none-match", tag).send().await.expect("an answer");
    assert_eq!(again.status(), 304);
    assert_eq!(rig.problem(&format!("/v1/jobs/{}/result/1", job.id)).await.code, api::code::NOT_FOUND);
}

#[tokio::test]
async fn a_worker_renews_gives_back_and_leaves() {
    let rig = Rig::start().await;
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    let job = client.submit(&client.doubling(4).await).await;
    worker.announce("a").await;
    let leases = worker.lease("a", 2, 0).await.leases;
    let id = worker.key.public();
    let beat = serde_json::json!({"instance": "a", "leases": [leases[0].id, "lease-999"]});
    let answer: api::HeartbeatAnswer =
        crate::rig::good(worker.post(&format!("/v1/workers/{id}/heartbeat"), &beat).await).await;
    assert_eq!(answer.lost.iter().map(ToString::to_string).collect::<Vec<_>>(), ["lease-999"]);
    assert_eq!(answer.reason.code, "working");

    let release =
        serde_json::json!({"generation": leases[0].generation, "cause": "timed_out", "detail": "2 s"});
    let released = worker.post(&format!("/v1/leases/{}/release", leases[0].id), &release).await;
    assert_eq!(released.status(), 204);
    let left = worker.post(&format!("/v1/workers/{id}/leave"), &serde_json::json!({"instance": "a"})).await;
    assert_eq!(left.status(), 204);
    let seen: api::Worker = rig.get(&format!("/v1/workers/{id}")).await;
    assert_eq!((seen.state, seen.leases), (WorkerState::Gone, 0));
    let job: Job = rig.get(&format!("/v1/jobs/{}", job.id)).await;
    assert_eq!((job.progress.waiting, job.progress.leased), (4, 0));
}

#[tokio::test]
async fn a_cancelled_job_is_refunded() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    let job = client.submit(&client.doubling(4).await).await;
    let stranger = rig.person(3).await;
    let path = format!("/v1/jobs/{}/cancel", job.id);
    let problem = crate::rig::bad(stranger.post(&path, &serde_json::json!({})).await).await;
    assert_eq!(problem.code, api::code::FORBIDDEN);
    let job: Job = crate::rig::good(client.post(&path, &serde_json::json!({})).await).await;
    assert_eq!((job.state, job.money.refunded), (JobState::Cancelled, Amount(8000)));
}
