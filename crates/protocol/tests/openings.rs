//! Golden vectors of challenges and openings: this test computes them, TypeScript reads them.
//!
//! `UPDATE_VECTORS=1 cargo nextest run -p plexus-protocol --test openings` rewrites `tests/vectors/openings.json`.

use plexus_protocol::{
    ChallengeChain, ChunkOpening, Hash, JobId, LeaseId, Opening, OpeningError, OutputCommitment, Receipt,
    SecretKey, UnitLeaf,
    challenge::{self, KeyChain},
    merkle::CHUNK_BYTES,
    package_root,
};
use serde_json::{Value, json};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/openings.json");

#[test]
fn the_committed_vectors_are_what_the_code_computes() {
    let vectors = json!({
        "about": "written by crates/protocol/tests/openings.rs; read by Rust and TypeScript",
        "chains": chains(),
        "draws": draws(),
        "openings": openings(),
    });
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(PATH, format!("{vectors:#}\n")).expect("the vectors can be written");
    }
    let committed = std::fs::read(PATH).expect("tests/vectors/openings.json is there");
    let committed: Value = serde_json::from_slice(&committed).expect("it is JSON");
    assert_eq!(committed, vectors, "UPDATE_VECTORS=1 rewrites it");
}

fn chains() -> Value {
    [1, 3, 300]
        .map(|epochs| {
            let last = Hash::of(b"the last key");
            let keys = KeyChain::new(last, epochs);
            let (anchor, sequence, begins_at_ms, epoch_ms) = (keys.anchor(), 2, 5_000, 1_000);
            let chain = ChallengeChain { anchor, sequence, begins_at_ms, epoch_ms, epochs };
            let mut shown = vec![1, epochs / 2 + 1, epochs];
            shown.dedup();
            let keys: Vec<_> = shown
                .into_iter()
                .map(|epoch| {
                    let key = keys.key(epoch).expect("it is one of the chain's");
                    assert!(chain.has(epoch, &key));
                    json!({ "epoch": epoch.to_string(), "key": key })
                })
                .collect();
            let epochs: Vec<_> = [0, 5_000, 5_999, 6_000, 1_000_000]
                .map(|at_ms: u64| {
                    let (epoch, over) =
                        (chain.epoch_at(at_ms).to_string(), chain.last_over_at(at_ms).to_string());
                    json!({ "at_ms": at_ms.to_string(), "epoch": epoch, "last_over": over })
                })
                .into();
            json!({ "chain": chain, "last": last, "keys": keys, "epochs": epochs })
        })
        .into()
}

fn draws() -> Value {
    let key = Hash::of(b"a key");
    [(0_u64, 1_u64, 1_000_000_u32), (7, 1, 0), (7, 20, 100_000), (u64::MAX, 300, 33_333)]
        .map(|(sequence, units, rate_ppm)| {
            let receipt = Hash::of(&sequence.to_le_bytes());
            let seed = challenge::seed(&key, &receipt);
            let draw = challenge::draw(&seed, sequence);
            let drawn: Vec<u64> = (0..units).filter(|unit| challenge::is_drawn(&draw, *unit, rate_ppm)).collect();
            let rates = challenge::rates(&draw, units, &drawn).expect("there is the one it was");
            assert!(rates.contains(&rate_ppm));
            json!({
                "key": key, "receipt": receipt, "sequence": sequence.to_string(), "seed": seed, "draw": draw,
                "units": units, "rate_ppm": rate_ppm, "drawn": drawn, "rates_ppm": [rates.start(), rates.end()],
            })
        })
        .into()
}

/// The second output is three chunks long, the last of them short.
fn output(unit: u64, number: u64) -> Vec<u8> {
    let length = if number == 1 { 2 * CHUNK_BYTES + 100 } else { 12 };
    (0..length as u64).map(|i| (i * 31 + 7 * unit + number) as u8).collect()
}

/// The opening of unit 41 of a package of five units, the third chunk of its second output included.
fn opening() -> Opening {
    let worker = SecretKey::from_seed([7; 32]);
    let units: Vec<_> = (39..44)
        .map(|unit| {
            (unit, vec![OutputCommitment::of(&output(unit, 0)), OutputCommitment::of(&output(unit, 1))])
        })
        .collect();
    let leaves: Vec<_> =
        units.iter().map(|(unit, outputs)| UnitLeaf::done(JobId(3), *unit, outputs.clone())).collect();
    let receipt = Receipt {
        market: SecretKey::from_seed([1; 32]).public(),
        lease: LeaseId(9),
        generation: 1,
        worker: worker.public(),
        job: JobId(3),
        units: 5,
        package_root: package_root(&leaves),
        adapter: "llvmpipe".into(),
        started_at_ms: 1_760_000_000_000,
        device_us: 1_500,
        total_us: 2_500,
    };
    let signature = worker.sign(&receipt);
    let chunk = ChunkOpening::of(1, &output(41, 1), 2);
    Opening { chunk, ..Opening::of(receipt, signature, units, 2).expect("there is such a place") }
}

/// Every field that can be changed, and what that breaks.
fn openings() -> Value {
    let [market, worker] = [[1; 32], [7; 32]].map(|seed| SecretKey::from_seed(seed).public());
    let good = opening();
    let chunk = good.chunk.clone().expect("it opens one");
    chunk.verify_bytes(&output(41, 1)[2 * CHUNK_BYTES..]).expect("its bytes");
    assert_eq!(chunk.verify_bytes(&output(41, 1)[..CHUNK_BYTES]), Err(OpeningError::Bytes));
    let with = |change: fn(&mut Opening)| {
        let mut opening = good.clone();
        change(&mut opening);
        opening
    };
    fn chunk_of(opening: &mut Opening) -> &mut ChunkOpening {
        opening.chunk.as_mut().expect("it opens one")
    }
    let cases = [
        ("a unit and a chunk", with(|_| ()), None),
        ("a unit alone", with(|o| o.chunk = None), None),
        ("of another market", with(|o| o.receipt.market.0[0] ^= 1), Some(OpeningError::Market)),
        (
            "of another worker",
            with(|o| o.receipt.worker = SecretKey::from_seed([8; 32]).public()),
            Some(OpeningError::Worker),
        ),
        ("a receipt that was changed", with(|o| o.receipt.device_us += 1), Some(OpeningError::Signature)),
        ("a signature that was changed", with(|o| o.signature.0[3] ^= 1), Some(OpeningError::Signature)),
        ("another unit's number", with(|o| o.unit += 1), Some(OpeningError::Unit)),
        ("another place", with(|o| o.place = 3), Some(OpeningError::Unit)),
        ("a place beyond the package", with(|o| o.place = 5), Some(OpeningError::Unit)),
        ("another output", with(|o| o.outputs[0].blob.0[31] ^= 1), Some(OpeningError::Unit)),
        ("an output less", with(|o| o.outputs.truncate(1)), Some(OpeningError::Unit)),
        ("a path that is too short", with(|o| o.path.truncate(1)), Some(OpeningError::Unit)),
        ("a path that is too long", with(|o| o.path.push(o.path[0])), Some(OpeningError::Unit)),
        ("an output that is not there", with(|o| chunk_of(o).output = 2), Some(OpeningError::Absent)),
        ("a chunk that is not there", with(|o| chunk_of(o).index = 3), Some(OpeningError::Absent)),
        ("another chunk's number", with(|o| chunk_of(o).index = 1), Some(OpeningError::Chunk)),
        ("another chunk", with(|o| chunk_of(o).leaf.0[0] ^= 1), Some(OpeningError::Chunk)),
        ("a chunk without its path", with(|o| chunk_of(o).path.clear()), Some(OpeningError::Chunk)),
        ("a chunk of another output", with(|o| chunk_of(o).output = 0), Some(OpeningError::Absent)),
    ];
    cases
        .map(|(about, opening, fault)| {
            assert_eq!(opening.verify(&market, Some(&worker)).err(), fault, "{about}");
            let text = serde_json::to_value(&opening).expect("serialises");
            let read: Opening = serde_json::from_value(text.clone()).expect("reads");
            assert_eq!(read, opening);
            let fault = fault.map(|fault| format!("{fault:?}").to_lowercase());
            json!({ "about": about, "market": market, "worker": worker, "opening": text, "fault": fault })
        })
        .into()
}
