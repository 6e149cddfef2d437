//! What shows that work was done: openings, records of packages, and the keys of their checks.

use std::time::Duration;

use api::{Challenges, PackageRecord, Page, UnitProof};
use protocol::{CheckId, Hash, Opening, challenge};

use crate::rig::{Person, Rig, doubled, good, until};

/// A job of four units that a worker commits to in two packages, of which it falsifies these units.
async fn committed(rig: &Rig, worker: &Person, wrong: &[u64]) -> api::Job {
    let client = rig.rich(1).await;
    let job = client.submit(&client.doubling(4).await).await;
    worker.announce("one").await;
    for lease in worker.lease("one", 2, 0).await.leases {
        let compute = |unit| if wrong.contains(&unit) { vec![9; 16] } else { doubled(unit) };
        let receipt = worker.compute(rig.market.key().public(), &lease, compute).await;
        worker.commit(vec![receipt]).await;
    }
    job
}

/// The verifier makes all checks that wait for it.
async fn verified(rig: &Rig, checks: usize) {
    let verifier = rig.verifier().await;
    for _ in 0..checks {
        let lease = verifier.lease("verifier", 1, 10_000).await.leases.remove(0);
        let receipt = verifier.compute(rig.market.key().public(), &lease, doubled).await;
        verifier.commit(vec![receipt]).await;
    }
}

#[tokio::test]
async fn a_unit_is_opened_against_the_receipt_alone() {
    let rig = Rig::start_with(|config| config.params.verifier_wait_ms = 10).await;
    let worker = rig.person(2).await;
    let job = committed(&rig, &worker, &[]).await;
    let path = format!("/v1/jobs/{}/units/3/proof", job.id);
    // While it is checked only the job's owner may see what was committed to, and nobody who checks it.
    assert_eq!(rig.problem(&path).await.code, "proof_not_ready");
    let owner = rig.person(1).await;
    let early: UnitProof =
        good(owner.request(reqwest::Method::GET, &path).send().await.expect("an answer")).await;
    assert_eq!(early.package.settled, None);

    verified(&rig, 2).await;
    let proof: UnitProof = rig.get(&path).await;
    let market = rig.market.key().public();
    proof.opening.verify(&market, Some(&worker.key.public())).expect("it holds");
    assert_eq!((proof.opening.unit, proof.opening.place), (3, 1));
    assert_eq!(proof.opening.outputs[0].blob, Hash::of(&doubled(3)));
    assert_eq!((&proof.opening, proof.rejected), (&early.opening, vec![]));
    assert_eq!(proof.package.receipt, proof.opening.receipt.digest());
    let settled = proof.package.settled.expect("it is settled");
    assert!(settled.accepted);
    assert_eq!(settled.drawn, [0, 1], "a new worker is checked always");
    let [check] = &settled.checks[..] else { panic!("one check: {settled:?}") };
    assert_eq!((check.worker, check.agrees), (Some(market), Some(true)));

    let proof: UnitProof = rig.get(&format!("{path}?output=0&chunk=0")).await;
    proof.opening.verify(&market, None).expect("it holds");
    proof.opening.chunk.as_ref().expect("it was asked for").verify_bytes(&doubled(3)).expect("its bytes");
    for asked in ["?output=1", "?chunk=1", "?output=0&chunk=18446744073709551615"] {
        assert_eq!(rig.problem(&format!("{path}{asked}")).await.code, "not_found", "{asked}");
    }
    assert_eq!(rig.problem(&format!("{path}?part=1")).await.code, "request_invalid");
    assert_eq!(rig.problem(&format!("/v1/jobs/{}/units/4/proof", job.id)).await.code, "proof_not_ready");
    // The journal tells it again after a restart.
    let opening: Opening = proof.opening;
    let rig = rig.restart().await;
    let again: UnitProof = rig.get(&format!("{path}?output=0")).await;
    assert_eq!(again.opening.receipt, opening.receipt);
    rig.market.shutdown().await;
}

#[tokio::test]
async fn what_was_rejected_is_told_with_its_evidence() {
    let rig = Rig::start_with(|config| config.params.verifier_wait_ms = 10).await;
    let worker = rig.person(2).await;
    let job = committed(&rig, &worker, &[0]).await;
    verified(&rig, 2).await;
    // The units run again on another worker, one after the other.
    let other = rig.person(3).await;
    other.announce("two").await;
    let lease = other.lease("two", 1, 10_000).await.leases.remove(0);
    assert_eq!((lease.units[0].first, lease.units[0].count), (0, 1));
    let receipt = other.compute(rig.market.key().public(), &lease, doubled).await;
    other.commit(vec![receipt]).await;
    verified(&rig, 1).await;

    let proof: UnitProof = rig.get(&format!("/v1/jobs/{}/units/0/proof", job.id)).await;
    assert_eq!(proof.package.worker, other.key.public());
    let [rejected] = &proof.rejected[..] else { panic!("one attempt before: {:?}", proof.rejected) };
    assert_eq!(rejected.worker, worker.key.public());
    let settled = rejected.settled.as_ref().expect("it is settled");
    assert_eq!((settled.accepted, settled.verdict.as_deref()), (false, Some("verifier_disagrees")));
    let check = &settled.checks[0];
    assert_eq!(check.agrees, Some(false));
    let evidence = check.evidence.as_deref().expect("it was compared");
    assert!(evidence.contains(&Hash::of(&[9; 16]).to_string()), "{evidence}");

    // All packages, in order of their units; two to a page.
    let path = format!("/v1/jobs/{}/packages", job.id);
    let first: Page<PackageRecord> = rig.get(&format!("{path}?limit=2")).await;
    let cursor = first.next.expect("there is more");
    let second: Page<PackageRecord> = rig.get(&format!("{path}?limit=2&cursor={cursor}")).await;
    let all: Vec<_> = first.items.iter().chain(&second.items).collect();
    let accepted: Vec<_> = all
        .iter()
        .map(|record| (record.units.first, record.settled.as_ref().is_some_and(|s| s.accepted)))
        .collect();
    assert_eq!(accepted, [(0, false), (0, true), (2, true)]);
    assert_eq!(second.next, None);
    assert_eq!(rig.problem(&format!("{path}?cursor=x")).await.code, "request_invalid");
    assert_eq!(all[0].settled.as_ref().map(|s| s.checks[0].check), Some(CheckId(1)));
    rig.market.shutdown().await;
}

#[tokio::test]
async fn anybody_checks_draws_once_their_keys_are_shown() {
    let rig = Rig::start_with(|config| {
        config.params.verifier_wait_ms = 10;
        config.challenge_epoch = Duration::from_millis(20);
        config.params.appeal_ms = 0;
    })
    .await;
    let worker = rig.person(2).await;
    let job = committed(&rig, &worker, &[]).await;
    verified(&rig, 2).await;
    let packages: Page<PackageRecord> = rig.get(&format!("/v1/jobs/{}/packages", job.id)).await;
    assert_eq!(packages.items.len(), 2);
    for record in packages.items {
        let keys = || rig.get::<Challenges>("/v1/challenges");
        let shown = |keys: &Challenges| {
            let [keys] = &keys.chains[..] else { panic!("one chain: {keys:?}") };
            let epoch = keys.chain.epoch_at(record.at_ms);
            let shown = keys.shown.as_ref().filter(|shown| shown.epoch >= epoch)?;
            assert!(keys.chain.has(shown.epoch, &shown.key), "it leads to the anchor");
            assert!(keys.chain.sequence < record.sequence, "which was told before");
            Some(challenge::key_below(&shown.key, shown.epoch - epoch))
        };
        let keys = until(keys, |keys| shown(keys).is_some()).await;
        let key = shown(&keys).expect("it is there");
        let draw = challenge::draw(&challenge::seed(&key, &record.receipt), record.sequence);
        let settled = record.settled.expect("only settled ones are listed");
        assert_eq!(settled.draw, Some(draw));
        let drawn: Vec<u64> = settled.drawn.iter().map(|place| u64::from(*place)).collect();
        assert!(challenge::rates(&draw, 2, &drawn).expect("a rate explains it").contains(&1_000_000));
    }
    rig.market.shutdown().await;
}

#[tokio::test]
async fn a_market_keeps_its_chain_over_restarts() {
    let rig = Rig::start().await;
    let before: Challenges = rig.get("/v1/challenges").await;
    assert_eq!((before.chains.len(), before.chains[0].shown.as_ref()), (1, None));
    assert_eq!(before.chains[0].chain.sequence, 1, "right after the founding");
    let rig = rig.restart().await;
    assert_eq!(rig.get::<Challenges>("/v1/challenges").await, before);
    rig.market.shutdown().await;
}
