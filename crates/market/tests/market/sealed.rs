//! Sealed jobs: what the market and its store see of them, and who gets them.

use std::{fs, path::Path};

use api::{
    Job, JobRequest, JobState, LeaseInput, Reservation, ReservationRequest, SealedRequest, SealingKeyRequest,
    Unit, UnitOutputs, WorkerEnvelope,
};
use protocol::{Hash, OutputCommitment, PublicKey, SealContext, SealingKey, SecretKey, SignedSealingKey};
use reqwest::StatusCode;
use seal::{ContentKey, OpeningKey, open_input, open_key, open_output, seal_key, seal_output, seal_split};
use serde_json::json;

use crate::rig::{Person, Rig, bad, doubled, good};

/// Bytes that occur nowhere by chance.
const CONTENT: [u8; 32] = *b"the content key of a sealed job!";

fn signed(market: PublicKey, key: &SecretKey, valid_until_ms: u64) -> SignedSealingKey {
    let record =
        SealingKey { market, worker: key.public(), key: OpeningKey::of(key).public(), valid_until_ms };
    SignedSealingKey { record, signature: key.sign(&record) }
}

fn in_a_day() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    now.as_millis() as u64 + 24 * 3_600_000
}

async fn recipient(rig: &Rig, n: u8) -> Person {
    let person = rig.person(n).await;
    person.announce("a").await;
    let sealing_key = signed(rig.market.key().public(), &person.key, in_a_day());
    let request = SealingKeyRequest { instance: "a".into(), sealing_key };
    let given = person.post(&format!("/v1/workers/{}/sealing-key", person.account), &request).await;
    assert_eq!(given.status(), StatusCode::NO_CONTENT);
    person
}

fn reserving(plain: &JobRequest, providers: u32) -> ReservationRequest {
    ReservationRequest {
        manifest: plain.manifest.clone(),
        units: plain.units,
        unit_price: plain.unit_price,
        replicas: 1,
        providers,
        workers: vec![],
        hold_s: 60,
    }
}

/// What a client does: the sealed form of a job whose input is `input`.
async fn sealed(
    client: &Person,
    market: PublicKey,
    plain: &JobRequest,
    input: &[u8],
    to: &Reservation,
) -> JobRequest {
    let content = ContentKey::from_bytes(CONTENT);
    let (split, bytes) = seal_split(&content, 0, &plain.inputs[0], plain.units, input).expect("small");
    client.upload(&bytes).await;
    let manifest = Hash::of(&plain.manifest.to_bytes());
    let context = SealContext { market, manifest, inputs: vec![split] }.digest();
    let envelope = |signed: &SignedSealingKey| {
        let envelope = seal_key(&content, &signed.record, &context, [7; 32]).expect("a good key");
        WorkerEnvelope { worker: signed.record.worker, envelope }
    };
    let envelopes = to.recipients.iter().map(envelope).collect();
    let sealed = Some(SealedRequest { reservation: to.id, envelopes });
    JobRequest { inputs: vec![split], joins: vec![], sealed, ..plain.clone() }
}

/// What a worker does: opens its lease, computes every unit and seals the outputs.
async fn work(worker: &Person, rig: &Rig, lease: &api::Lease) {
    let market = rig.market.key().public();
    let LeaseInput::Split(split) = &lease.inputs[0] else { panic!("a sealed job reads blobs") };
    let context = SealContext { market, manifest: lease.manifest, inputs: vec![*split] }.digest();
    let envelope = lease.envelope.expect("the lease of a sealed job has an envelope");
    let key = OpeningKey::of(&worker.key);
    let content = open_key(&key, market, worker.account, &context, &envelope).expect("its own envelope");
    let path = format!("/v1/blobs/{}", split.blob);
    let blob = worker.request(reqwest::Method::GET, &path).send().await.expect("an answer");
    let blob = blob.bytes().await.expect("bytes");
    let mut units = Vec::new();
    for unit in lease.units.iter().flat_map(|run| run.units()) {
        let range = split.range(unit, blob.len() as u64);
        let part = &blob[range.start as usize..range.end as usize];
        let input = open_input(&content, 0, unit, part).expect("its part");
        let output: Vec<u8> = input
            .chunks(4)
            .flat_map(|word| (2 * u32::from_le_bytes(word.try_into().expect("a word"))).to_le_bytes())
            .collect();
        assert_eq!(output, doubled(unit));
        let output = seal_output(&content, unit, 0, &output);
        worker.upload(&output).await;
        units.push(UnitOutputs { unit, outputs: vec![OutputCommitment::of(&output)] });
    }
    let taken = worker.commit(vec![worker.sign(market, lease, units)]).await;
    assert!(!matches!(taken[0], api::ReceiptResult::Refused { .. }), "{taken:?}");
}

/// Every file below a folder that contains one of the texts.
fn containing(folder: &Path, secrets: &[&[u8]], found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            containing(&entry, secrets, found);
        } else if let Ok(bytes) = fs::read(&entry) {
            let hit =
                secrets.iter().any(|secret| bytes.windows(secret.len()).any(|window| window == *secret));
            found.extend(hit.then(|| entry.display().to_string()));
        }
    }
}

#[tokio::test]
async fn the_market_and_its_store_see_ciphertext_alone() {
    let rig = Rig::start_with(|config| config.params.verifier_wait_ms = 0).await;
    let market = rig.market.key().public();
    let client = rig.rich(1).await;
    let workers = [recipient(&rig, 2).await, recipient(&rig, 3).await, recipient(&rig, 4).await];
    // A worker without a key, and the market's verifier.
    let (stranger, verifier) = (rig.person(5).await, rig.verifier().await);
    stranger.announce("a").await;

    // The kernel is there; the plain input never is.
    let template = client.doubling(1).await;
    let plain = JobRequest { units: 3, package_units: None, ..template };
    let input: Vec<u8> = (0..12u32).flat_map(u32::to_le_bytes).collect();
    let reservation: Reservation = good(client.post("/v1/reservations", &reserving(&plain, 3)).await).await;
    assert_eq!(reservation.recipients.len(), 3);
    for signed in &reservation.recipients {
        signed.check(market, 1 + in_a_day() - 24 * 3_600_000).expect("its worker's own");
    }
    let request = sealed(&client, market, &plain, &input, &reservation).await;
    let job = client.submit(&request).await;
    assert_eq!(job.sealed_to.len(), 3);
    assert_eq!(job.money.escrowed, reservation.escrow);

    let path = format!("/v1/jobs/{}", job.id);
    let done = loop {
        for worker in &workers {
            for lease in worker.lease("a", 1, 0).await.leases {
                work(worker, &rig, &lease).await;
            }
        }
        assert!(stranger.lease("a", 1, 0).await.leases.is_empty(), "it could not read them");
        assert!(verifier.lease("verifier", 1, 0).await.leases.is_empty(), "nor could the market");
        let job: Job = rig.get(&path).await;
        if job.state == JobState::Done {
            break job;
        }
    };
    assert_eq!((done.verification.checked, done.verification.by_verifier), (3, 0));
    assert_eq!(done.verification.disputed, 0, "equal results are equal ciphertexts");

    // The client reads the results.
    let content = ContentKey::from_bytes(CONTENT);
    let units: api::Page<Unit> = rig.get(&format!("{path}/units")).await;
    for unit in units.items {
        let path = format!("/v1/blobs/{}", unit.outputs[0].blob);
        let sealed =
            rig.http.get(rig.url(&path)).send().await.expect("an answer").bytes().await.expect("bytes");
        assert_eq!(open_output(&content, unit.index, 0, &sealed).expect("its output"), doubled(unit.index));
    }
    assert_eq!(rig.problem(&format!("{path}/result/0")).await.code, "job_sealed");

    // Nobody else does: not the blobs, not the journal, not the read model.
    let folder = rig.folder.clone();
    rig.market.shutdown().await;
    let hex = hex_of(&CONTENT);
    let secrets = [&input[16..32], &doubled(1), &input[32..48], &doubled(2), &CONTENT, hex.as_bytes()];
    let mut found = Vec::new();
    containing(folder.path(), &secrets, &mut found);
    assert_eq!(found, [] as [String; 0]);
    // What is looked for would be found: the kernel is no secret.
    containing(folder.path(), &[b"2u * x[id.x]"], &mut found);
    assert_eq!(found.len(), 1, "{found:?}");
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn reservations_and_records_are_refused_with_a_reason() {
    let rig = Rig::start().await;
    let market = rig.market.key().public();
    let client = rig.rich(1).await;
    let plain = client.doubling(1).await;
    recipient(&rig, 2).await;
    recipient(&rig, 3).await;
    let problem = bad(client.post("/v1/reservations", &reserving(&plain, 3)).await).await;
    assert_eq!(problem.code, "providers_too_few");
    assert!(problem.detail.starts_with("2 of 3 providers can be reserved"), "{}", problem.detail);
    let problem = bad(client.post("/v1/reservations", &reserving(&plain, 2)).await).await;
    assert_eq!(problem.code, "request_invalid");
    assert!(problem.detail.contains("3 to 16 workers"), "{}", problem.detail);
    let last = recipient(&rig, 4).await;
    let stranger = rig.person(9).await;
    let problem = bad(stranger.post("/v1/reservations", &reserving(&plain, 3)).await).await;
    assert_eq!(problem.code, "balance_too_low");

    let reservation: Reservation = good(client.post("/v1/reservations", &reserving(&plain, 3)).await).await;
    let kept: api::Worker = rig.get(&format!("/v1/workers/{}", last.account)).await;
    assert_eq!(kept.reason.code, "booked");
    let end = format!("/v1/reservations/{}/end", reservation.id);
    assert_eq!(bad(stranger.post(&end, &json!({})).await).await.code, "forbidden");
    assert_eq!(client.post(&end, &json!({})).await.status(), StatusCode::NO_CONTENT);
    let input: Vec<u8> = (0..4u32).flat_map(u32::to_le_bytes).collect();
    let late = sealed(&client, market, &plain, &input, &reservation).await;
    assert_eq!(bad(client.post("/v1/jobs", &late).await).await.code, "reservation_ended");
    // An input that is not sealed is not taken for one that is.
    let open = JobRequest { inputs: plain.inputs.clone(), ..late };
    let problem = bad(client.post("/v1/jobs", &open).await).await;
    assert_eq!(
        (problem.code.as_str(), problem.field.as_deref()),
        ("request_invalid", Some("inputs[0].length"))
    );

    let give = |sealing_key| {
        let (path, last) = (format!("/v1/workers/{}/sealing-key", last.account), last.clone());
        let request = SealingKeyRequest { instance: "a".into(), sealing_key };
        async move { bad(last.post(&path, &request).await).await }
    };
    let mut forged = signed(market, &last.key, in_a_day());
    forged.record.valid_until_ms -= 1;
    let refusals = [
        give(forged).await,
        give(signed(market, &last.key, 1)).await,
        give(signed(last.account, &last.key, in_a_day())).await,
        give(signed(market, &client.key, in_a_day())).await,
        give(signed(market, &last.key, 100 * in_a_day())).await,
    ];
    for problem in refusals {
        assert_eq!(problem.code, "sealing_key_invalid", "{}", problem.detail);
    }
}
