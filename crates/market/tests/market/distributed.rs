//! Several processes for one market: one leads, the others hand requests to it, and one of them takes over.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{Account, Health, Job, ReceiptResult, code};
use market::{Config, Market, Standing, StartError};
use protocol::{Amount, SecretKey};
use reqwest::{Method, StatusCode};
use serde_json::json;
use store::Location;
use tempfile::TempDir;

use crate::rig::{Person, Rig, TOKEN, bad, config, doubled, good, until};

/// The process `name` of a market whose journal is at `database`; key and blobs are in `folder`.
fn process(folder: &Path, database: &Location, name: &str) -> Config {
    Config {
        database: Some(database.clone()),
        key_file: Some(folder.join("market-key.json")),
        blobs_dir: Some(folder.join("blobs")),
        ..config(&folder.join(name))
    }
}

async fn start(folder: &Arc<TempDir>, database: &Location, name: &str) -> Rig {
    let market = Market::start(process(folder.path(), database, name)).await.expect("it starts");
    Rig { market, folder: folder.clone(), http: client::plain_http() }
}

async fn leading(rig: &Rig) {
    let mut standing = rig.market.standing();
    let leads = standing.wait_for(Standing::leads);
    tokio::time::timeout(Duration::from_secs(60), leads).await.expect("it leads in time").expect("it lives");
}

async fn following(rig: &Rig, leader: &Rig) {
    let mut standing = rig.market.standing();
    let url = leader.market.url();
    let follows = standing.wait_for(|standing| match standing {
        Standing::Following { leader: Some(leader) } => leader.url == url,
        _ => false,
    });
    tokio::time::timeout(Duration::from_secs(60), follows).await.expect("it follows").expect("it lives");
}

/// Two processes: the first leads, the second follows.
struct Pair {
    folder: Arc<TempDir>,
    database: Location,
    a: Rig,
    b: Rig,
}

impl Pair {
    async fn start(database: Option<Location>) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        let database = database.unwrap_or_else(|| folder.path().join("journal.db").into());
        let a = start(&folder, &database, "a").await;
        leading(&a).await;
        let b = start(&folder, &database, "b").await;
        following(&b, &a).await;
        Self { folder, database, a, b }
    }

    async fn on_postgres() -> Self {
        let url = tokio::task::spawn_blocking(store::testing::database).await.expect("a database");
        Self::start(Some(url.parse().expect("a URL"))).await
    }
}

async fn balance(rig: &Rig, person: &Person) -> Amount {
    rig.get::<Account>(&format!("/v1/accounts/{}", person.account)).await.available
}

/// Somebody's same key at another process.
async fn at(rig: &Rig, person: &Person) -> Person {
    rig.login_with(&person.key, None).await
}

async fn a_job_is_done_through_a_standby_and_after_a_takeover(pair: Pair) {
    let Pair { folder, database, a, b } = pair;
    let health: Health = b.get("/v1/health").await;
    assert_eq!((health.role.as_str(), health.leader), ("standby", Some(a.market.url())));
    assert_eq!(a.get::<Health>("/v1/health").await.role, "leader");
    assert_eq!(a.market.key().public(), b.market.key().public());

    // Everybody talks to the standby alone.
    let (ada, bob) = (b.rich(1).await, b.person(2).await);
    bob.announce("w").await;
    let job = ada.submit(&ada.doubling(6).await).await;
    let market = b.market.key().public();
    let leases = bob.lease("w", 2, 0).await.leases;
    let first = bob.compute(market, &leases[0], doubled).await;
    let answers = bob.commit(vec![first.clone()]).await;
    assert!(!matches!(answers[0], ReceiptResult::Refused { .. }), "{answers:?}");
    let lists = |rig: &Rig| {
        let urls = ["/v1/jobs", "/v1/payments", "/v1/ledger"].map(|path| rig.url(path));
        let http = rig.http.clone();
        async move {
            let mut lists: Vec<serde_json::Value> = Vec::new();
            for url in urls {
                lists.push(good(http.get(url).send().await.expect("an answer")).await);
            }
            crate::durability::timeless(&mut lists[0]);
            lists
        }
    };
    let before = lists(&a).await;
    assert_eq!(lists(&b).await, before);

    // A token of one process holds at the other, and so does what was journaled.
    a.market.shutdown().await;
    leading(&b).await;
    assert_eq!(lists(&b).await, before);
    let again = bob.commit(vec![first]).await;
    assert_eq!(serde_json::to_string(&again).expect("JSON"), serde_json::to_string(&answers).expect("JSON"));
    let second = bob.compute(market, &leases[1], doubled).await;
    let answers = bob.commit(vec![second]).await;
    assert!(!matches!(answers[0], ReceiptResult::Refused { .. }), "{answers:?}");
    assert_eq!(b.get::<Health>("/v1/health").await.role, "leader");
    let jobs: api::Page<Job> = b.get("/v1/jobs").await;
    assert_eq!(jobs.items[0].id, job.id);

    // A new process with an empty folder follows, whoever founded the market.
    let c = start(&folder, &database, "c").await;
    following(&c, &b).await;
    assert_eq!(lists(&c).await, lists(&b).await);
}

#[tokio::test]
async fn a_job_is_done_through_a_standby_and_after_a_takeover_on_postgres() {
    a_job_is_done_through_a_standby_and_after_a_takeover(Pair::on_postgres().await).await;
}

#[tokio::test]
async fn a_job_is_done_through_a_standby_and_after_a_takeover_on_one_machine() {
    a_job_is_done_through_a_standby_and_after_a_takeover(Pair::start(None).await).await;
}

#[tokio::test]
async fn a_long_poll_and_the_event_stream_pass_through_a_standby() {
    let Pair { a, b, .. } = Pair::start(None).await;
    let (ada, bob) = (b.rich(1).await, b.person(2).await);
    bob.announce("w").await;
    let client = client::Client::anonymous(&b.market.url()).expect("an address");
    let mut events = Box::pin(client.events(None).await.expect("it streams"));
    let waiting = {
        let bob = bob.clone();
        tokio::spawn(async move { bob.lease("w", 1, 30_000).await })
    };
    let metrics = || async {
        a.http.get(a.url("/metrics")).send().await.expect("an answer").text().await.expect("text")
    };
    until(metrics, |text| text.contains("plexus_lease_requests_waiting 1")).await;
    ada.submit(&ada.doubling(2).await).await;
    assert_eq!(waiting.await.expect("no panic").leases.len(), 1);
    let mut last = 0;
    while last == 0 {
        let event = futures::StreamExt::next(&mut events).await.expect("it goes on").expect("an event");
        if matches!(event.event, api::Event::Job(_)) {
            last = event.seq;
        }
    }
    // The leader goes. The stream ends, and goes on at the next leader after the last id.
    let waiting = {
        let bob = bob.clone();
        tokio::spawn(async move { bob.lease_raw("w", 1, 30_000).await })
    };
    until(metrics, |text| text.contains("plexus_lease_requests_waiting 1")).await;
    a.market.shutdown().await;
    while let Some(Ok(_)) = futures::StreamExt::next(&mut events).await {}
    let answer = waiting.await.expect("no panic");
    // Answered, or told to ask again.
    assert!(answer.status().is_success() || answer.status() == StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    leading(&b).await;
    let mut events = Box::pin(client.events(Some(last)).await.expect("it streams"));
    let again = futures::StreamExt::next(&mut events).await.expect("it goes on").expect("an event");
    assert!(again.seq >= last);
}

#[tokio::test]
async fn whoever_leads_next_knows_everything_that_was_answered() {
    let Pair { folder, database, a, b } = Pair::start(None).await;
    let ada = a.person(1).await;
    let mut deposited = 0;
    let (mut leader, mut standby) = (a, b);
    let mut took = Vec::new();
    for round in 0..4 {
        let person = at(&standby, &ada).await;
        for _ in 0..5 {
            person.deposit(TOKEN).await;
            deposited += TOKEN;
        }
        let went = Instant::now();
        leader.market.shutdown().await;
        leading(&standby).await;
        took.push(went.elapsed());
        assert_eq!(balance(&standby, &ada).await, Amount(deposited));
        let next = start(&folder, &database, &format!("process-{round}")).await;
        following(&next, &standby).await;
        assert_eq!(balance(&next, &ada).await, Amount(deposited));
        (leader, standby) = (standby, next);
    }
    println!("handed over within {took:?}");
}

#[tokio::test]
async fn a_leader_whose_place_was_taken_answers_nothing_and_follows() {
    let Pair { a, b, database, .. } = Pair::start(None).await;
    let ada = a.person(1).await;
    ada.deposit(TOKEN).await;
    // As a process does that sees an old seat: the leader was only slow.
    let market = a.market.key().public();
    let mut other = store::Leaders::open(database.clone(), &market, "other", b.market.url()).expect("opens");
    let term = other.read().expect("readable").expect("a row").term;
    assert!(other.try_take(term).expect("reachable"));
    let mut journal = store::Journal::open(database, &market, Default::default()).expect("opens");
    let resumed = borsh::to_vec(&engine::Event::Resumed).expect("a Vec");
    // The leader may append meanwhile.
    while journal.append(journal.next_seq(), 0, 1, 2, &resumed).is_err() {
        journal.find_head().expect("readable");
    }
    let mut standing = a.market.standing();
    let deposit = format!("/v1/accounts/{}/deposit", ada.account);
    let answer = ada.post(&deposit, &json!({"amount": "1"})).await;
    // The other is none that answers, so the request waited for nobody, or for b.
    standing.wait_for(|standing| !standing.leads()).await.expect("it lives");
    let refused = !answer.status().is_success();
    if refused {
        assert_eq!(bad(answer).await.code, code::NO_LEADER);
    }
    // The seat grows old, and one of the two leads again; nothing is lost and nothing is there twice.
    let url = a.url(&format!("/v1/accounts/{}", ada.account));
    let ask = || async { a.http.get(&url).send().await.expect("an answer") };
    let answer = until(ask, |answer| answer.status().is_success()).await;
    let account: Account = good(answer).await;
    assert_eq!(account.available, Amount(TOKEN + u64::from(!refused)));
}

#[tokio::test]
async fn while_the_database_is_away_changes_are_refused_and_then_it_goes_on() {
    let server = tokio::task::spawn_blocking(store::testing::PostgresServer::start).await.expect("a server");
    let server = Arc::new(server);
    let in_background = async |work: fn(&store::testing::PostgresServer)| {
        let server = server.clone();
        tokio::task::spawn_blocking(move || work(&server)).await.expect("no panic");
    };
    let url = {
        let server = server.clone();
        tokio::task::spawn_blocking(move || server.database()).await.expect("a database")
    };
    let Pair { a, b, .. } = Pair::start(Some(url.parse().expect("a URL"))).await;
    let ada = b.person(1).await;
    ada.deposit(TOKEN).await;
    in_background(|server| server.crash()).await;
    let path = format!("/v1/accounts/{}/deposit", ada.account);
    let deposit = || {
        let request = ada.request(Method::POST, &path).header(api::IDEMPOTENCY_KEY, "one deposit");
        async { request.json(&json!({"amount": "1"})).send().await.expect("an answer") }
    };
    let refused = bad(deposit().await).await;
    let codes = [code::STORAGE_UNAVAILABLE, code::NO_LEADER, code::OUTCOME_UNKNOWN];
    assert!(codes.contains(&refused.code.as_str()), "{refused:?}");
    assert_eq!(a.get::<Health>("/v1/health").await.status, "degraded");
    in_background(|server| server.resume()).await;
    // Whether it was done the first time or not: it is done once.
    until(deposit, |answer| answer.status().is_success()).await;
    assert_eq!(balance(&b, &ada).await, Amount(TOKEN + 1));
}

#[tokio::test]
async fn a_process_with_another_key_or_other_blobs_does_not_start() {
    let Pair { folder, database, a, .. } = Pair::start(None).await;
    let mut other = process(folder.path(), &database, "other");
    other.key_file = None;
    match Market::start(other).await.err() {
        Some(StartError::OtherMarket { market }) => assert_eq!(market, a.market.key().public()),
        other => panic!("{other:?}"),
    }
    assert!(!folder.path().join("other/market-key.json").exists(), "no key is left behind");
    let mut other = process(folder.path(), &database, "other");
    other.blobs_dir = None;
    assert!(matches!(Market::start(other).await.err(), Some(StartError::BlobsElsewhere { .. })));
    for (url, fits) in
        [("http://10.0.0.7:7700/", true), ("10.0.0.7:7700", false), ("http://a/b", false), ("ftp://a", false)]
    {
        let mut other = process(folder.path(), &database, "other");
        other.advertise = Some(url.into());
        let started = Market::start(other).await;
        match started {
            Ok(market) => {
                assert!(fits, "{url}");
                market.shutdown().await;
            }
            Err(error) => assert!(!fits && matches!(error, StartError::Advertise { .. }), "{url}: {error:?}"),
        }
    }
    let mut other = process(folder.path(), &database, "other");
    other.listen = "0.0.0.0:0".parse().expect("an address");
    assert!(matches!(Market::start(other).await.err(), Some(StartError::Advertise { .. })));
}

#[tokio::test]
async fn a_login_that_was_begun_at_one_leader_is_begun_again_at_the_next() {
    let Pair { a, b, .. } = Pair::start(None).await;
    let key = SecretKey::from_seed([9; 32]);
    let challenge = b.challenge(json!({"address": key.public()})).await;
    let challenge: api::Challenge = good(challenge).await;
    a.market.shutdown().await;
    leading(&b).await;
    let signature = key.sign_bytes(challenge.message.as_bytes());
    let login = json!({"nonce": challenge.nonce, "signature": signature});
    let answer = b.http.post(b.url("/v1/auth/login")).json(&login).send().await.expect("an answer");
    assert_eq!(bad(answer).await.code, code::NONCE_INVALID);
    // The client does that by itself; see the loss of a challenge in its tests.
    b.login_with(&key, None).await;
}
