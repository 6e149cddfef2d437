//! Lists page by cursor and show one's own writes at once.

use api::{Job, Page, Payment, Unit, UnitState, Worker};

use crate::rig::{Person, Rig, bad, good};

async fn pages<T: serde::de::DeserializeOwned>(rig: &Rig, path: &str) -> Vec<T> {
    let (mut all, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let next = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
        let page: Page<T> = rig.get(&format!("{path}{next}")).await;
        all.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return all;
        }
    }
}

#[tokio::test]
async fn every_item_is_on_exactly_one_page() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.rich(1).await, rig.rich(2).await);
    for n in 1..=5 {
        let client = if n % 2 == 0 { &bob } else { &ada };
        let mut request = client.doubling(5).await;
        request.name = format!("number {n}");
        client.submit(&request).await;
        rig.person(10 + n).await.announce("a").await;
    }
    let ids = |jobs: Vec<Job>| jobs.iter().map(|job| job.id.0).collect::<Vec<_>>();
    assert_eq!(ids(pages(&rig, "/v1/jobs?limit=2").await), [5, 4, 3, 2, 1]);
    assert_eq!(ids(pages(&rig, &format!("/v1/jobs?limit=2&owner={}", ada.account)).await), [5, 3, 1]);
    assert_eq!(ids(pages(&rig, "/v1/jobs?limit=2&name=NUMBER%203").await), [3]);

    let units: Vec<Unit> = pages(&rig, "/v1/jobs/job-1/units?limit=2").await;
    let indices: Vec<_> = units.iter().map(|unit| unit.id.index).collect();
    assert_eq!(indices, [0, 1, 2, 3, 4]);
    assert!(units.iter().all(|unit| unit.state == UnitState::Waiting));

    let workers: Vec<Worker> = pages(&rig, "/v1/workers?limit=2").await;
    let keys: std::collections::BTreeSet<_> = workers.iter().map(|worker| worker.id).collect();
    assert_eq!((workers.len(), keys.len()), (5, 5));

    let payments: Vec<Payment> = pages(&rig, "/v1/payments?limit=2").await;
    assert_eq!(payments.len(), 7, "two deposits and five escrows");
    assert!(payments.windows(2).all(|pair| pair[0].seq > pair[1].seq), "newest first");
    let own: Vec<Payment> = pages(&rig, &format!("/v1/payments?limit=1&account={}", bob.account)).await;
    assert_eq!(own.len(), 3);
}

#[tokio::test]
async fn units_are_where_the_job_says() {
    let rig = Rig::start().await;
    let (client, worker) = (rig.rich(1).await, rig.person(2).await);
    client.submit(&client.doubling(5).await).await;
    worker.announce("a").await;
    let leases = worker.lease("a", 2, 0).await.leases;
    let receipt = worker.compute(rig.market.key().public(), &leases[1], crate::rig::doubled).await;
    worker.commit(vec![receipt]).await;
    use UnitState::{Checking, Leased, Waiting};
    let path = "/v1/jobs/job-1/units";
    let states = |page: Page<Unit>| page.items.iter().map(|unit| unit.state).collect::<Vec<_>>();
    let seen_by = async |person: &Person| {
        good(person.request(reqwest::Method::GET, path).send().await.expect("an answer")).await
    };
    assert_eq!(states(seen_by(&client).await), [Leased, Leased, Checking, Checking, Waiting]);
    // Whoever might check them is not told which they are.
    for page in [rig.get(path).await, seen_by(&worker).await, seen_by(&rig.person(3).await).await] {
        assert_eq!(states(page), [Leased, Leased, Leased, Leased, Waiting]);
    }
    let mut forged = client.clone();
    forged.token = "forged".into();
    let refused = forged.request(reqwest::Method::GET, path).send().await.expect("an answer");
    assert_eq!(bad(refused).await.code, api::code::UNAUTHENTICATED);
}
