//! Nothing that was answered is lost, and nothing that was refused is there.

use api::{Account, Health, Job, Page, Payment, code};
use market::{Market, StartError};
use protocol::Amount;
use serde_json::{Value, json};

use crate::rig::{Rig, TOKEN, bad, config, doubled};

/// Takes from jobs what time alone changes: how urgent they are, and when they are expected to end.
pub fn timeless(jobs: &mut Value) {
    for job in jobs["items"].as_array_mut().expect("a list") {
        let job = job.as_object_mut().expect("a job");
        job.remove("score");
        job.remove("expected_ms");
    }
}

/// Everything the market tells of itself.
async fn everything(rig: &Rig) -> Vec<Value> {
    let mut all = Vec::new();
    for path in ["/v1/jobs", "/v1/payments", "/v1/ledger", "/v1/workers", "/v1/jobs/job-1/units"] {
        all.push(rig.get::<Value>(path).await);
    }
    timeless(&mut all[0]);
    // A worker's lease lasts on after a restart: it gets the time it could not use.
    for worker in all[3]["items"].as_array_mut().expect("a list") {
        worker.as_object_mut().expect("a worker").remove("seen_at");
    }
    all
}

async fn busy() -> Rig {
    let rig = Rig::start().await;
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    client.submit(&client.doubling(6).await).await;
    worker.announce("a").await;
    let leases = worker.lease("a", 2, 0).await.leases;
    let receipt = worker.compute(rig.market.key().public(), &leases[0], doubled).await;
    worker.commit(vec![receipt]).await;
    rig
}

#[tokio::test]
async fn a_restart_replays_to_the_same_state() {
    let rig = busy().await;
    let before = everything(&rig).await;
    let rig = rig.restart().await;
    assert_eq!(everything(&rig).await, before);
    let rig = rig.restart().await;
    assert_eq!(everything(&rig).await, before);
}

#[tokio::test]
async fn a_restart_from_a_snapshot_reads_only_what_came_after() {
    let rig = busy().await;
    let before = everything(&rig).await;
    let folder = rig.folder.clone();
    rig.market.shutdown().await;
    let start = || {
        let mut config = config(folder.path());
        config.snapshot_events = 1;
        Market::start(config)
    };
    // Started without a snapshot, it saves one when it stops.
    start().await.expect("it starts").shutdown().await;
    // Without what is in the snapshot, nothing else could tell it.
    let journal = rusqlite::Connection::open(folder.path().join("journal.db")).expect("opens");
    let gone = journal
        .execute("DELETE FROM groups WHERE first_seq < (SELECT max(first_seq) FROM groups)", [])
        .expect("deleted");
    assert!(gone > 0);
    drop(journal);
    let market = start().await.expect("it starts");
    let rig = Rig { market, folder: folder.clone(), http: client::plain_http() };
    assert_eq!(everything(&rig).await, before);
    rig.market.shutdown().await;
    // Damaged ones are passed over; here the journal cannot make up for them.
    let snapshots = rusqlite::Connection::open(folder.path().join("snapshots.db")).expect("opens");
    snapshots.execute("UPDATE snapshot_chunks SET bytes = x'00'", []).expect("damaged");
    drop(snapshots);
    assert!(matches!(start().await, Err(StartError::Store(_))));
}

#[tokio::test]
async fn a_lost_read_model_is_made_again() {
    let rig = busy().await;
    let before = everything(&rig).await;
    let folder = rig.folder.clone();
    rig.market.shutdown().await;
    for name in ["read.db", "read.db-wal", "read.db-shm"] {
        let _ = std::fs::remove_file(folder.path().join(name));
    }
    let market = Market::start(config(folder.path())).await.expect("it starts");
    let rig = Rig { market, folder, http: client::plain_http() };
    assert_eq!(everything(&rig).await, before);
}

#[tokio::test]
async fn a_full_disk_refuses_changes_and_loses_nothing() {
    let rig = busy().await;
    let before = everything(&rig).await;
    let client = rig.person(1).await;
    rig.market.set_journal_bytes_max(Some(1)).await;
    // The last page may have room for a few small groups.
    let path = format!("/v1/accounts/{}/deposit", client.account);
    let mut deposited = 0;
    let problem = loop {
        let answer = client.post(&path, &json!({"amount": "1"})).await;
        if answer.status() != 200 {
            break bad(answer).await;
        }
        deposited += 1;
    };
    assert_eq!((problem.code.as_str(), problem.status), (code::STORAGE_UNAVAILABLE, 503));
    // The state is what the journal says: only what was answered.
    let account = format!("/v1/accounts/{}", client.account);
    let available = || rig.get::<Account>(&account);
    let escrowed = 2 * 6 * 1000;
    assert_eq!(available().await.available, Amount(1000 * TOKEN - escrowed + deposited));
    assert_eq!(rig.get::<Health>("/v1/health").await.status, "degraded");
    let mut jobs = rig.get::<Value>("/v1/jobs").await;
    timeless(&mut jobs);
    assert_eq!(jobs, before[0]);
    // With room it goes on where it was.
    rig.market.set_journal_bytes_max(None).await;
    client.deposit(5).await;
    assert_eq!(available().await.available, Amount(1000 * TOKEN - escrowed + deposited + 5));
    assert_eq!(rig.get::<Health>("/v1/health").await.status, "ok");
    let before = everything(&rig).await;
    let rig = rig.restart().await;
    assert_eq!(everything(&rig).await, before);
}

#[tokio::test]
async fn a_market_that_another_process_replaced_says_that_it_cannot_go_on() {
    let rig = Rig::start().await;
    let client = rig.person(1).await;
    let health: Health = rig.get("/v1/health").await;
    assert_eq!(health.status, "ok");
    let path = rig.folder.path().join("journal.db");
    let mut other =
        store::Journal::open(&path, &rig.market.key().public(), Default::default()).expect("opens");
    other.append(other.next_seq(), 0, 1, 1, b"an event").expect("the place is free");
    let deposit = format!("/v1/accounts/{}/deposit", client.account);
    let refused = client.post(&deposit, &json!({"amount": "1"})).await;
    assert_eq!(bad(refused).await.code, code::STORAGE_UNAVAILABLE);
    tokio::time::timeout(std::time::Duration::from_secs(30), rig.market.failed()).await.expect("it ended");
    let problem = rig.problem("/v1/health").await;
    assert_eq!((problem.code.as_str(), problem.status), (code::STORAGE_UNAVAILABLE, 503));
}

#[tokio::test]
async fn one_folder_has_one_market() {
    let rig = Rig::start().await;
    let second = Market::start(config(rig.folder.path())).await;
    assert!(matches!(second.err(), Some(StartError::InUse { .. })));
}

#[tokio::test]
async fn a_lost_key_is_noticed() {
    let rig = Rig::start().await;
    let folder = rig.folder.clone();
    rig.market.shutdown().await;
    std::fs::remove_file(folder.path().join("market-key.json")).expect("there");
    let started = Market::start(config(folder.path())).await;
    assert!(matches!(started.err(), Some(StartError::KeyLost { .. })));
}

#[tokio::test]
async fn a_stopping_market_answers_those_who_wait() {
    let rig = Rig::start().await;
    let worker = rig.person(2).await;
    worker.announce("a").await;
    let waiting = tokio::spawn(async move { worker.lease("a", 1, 30_000).await });
    // The request is parked once the metrics say so.
    crate::rig::until(
        || async {
            rig.http.get(rig.url("/metrics")).send().await.expect("an answer").text().await.expect("text")
        },
        |text| text.contains("plexus_lease_requests_waiting 1"),
    )
    .await;
    rig.market.shutdown().await;
    let answer = waiting.await.expect("it ends");
    assert!(answer.leases.is_empty() && answer.reason.is_some());
}

#[tokio::test]
async fn many_at_once_are_all_answered_and_all_durable() {
    let rig = Rig::start().await;
    let client = rig.rich(1).await;
    let request = client.doubling(2).await;
    let submissions: Vec<_> = (0..40)
        .map(|_| {
            let (client, request) = (client.clone(), request.clone());
            tokio::spawn(async move { client.submit(&request).await.id })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for submission in submissions {
        ids.insert(submission.await.expect("it is answered"));
    }
    assert_eq!(ids.len(), 40);
    let rig = rig.restart().await;
    let page: Page<Job> = rig.get("/v1/jobs?limit=100").await;
    assert_eq!(page.items.iter().map(|job| job.id).collect::<std::collections::BTreeSet<_>>(), ids);
    let payments: Page<Payment> = rig.get("/v1/payments?limit=100").await;
    assert_eq!(payments.items.len(), 41);
}
