//! Golden vectors of sealed payloads: this test computes them, other implementations read them.
//!
//! `UPDATE_VECTORS=1 cargo nextest run -p plexus-seal --test vectors` rewrites `tests/vectors/seal.json`. After the first release
//! a changed value there is a new version of the format, not a repair.

use plexus_seal::{ContentKey, OpeningKey, check_input, open_key, seal_input, seal_key, seal_output};
use protocol::{Hash, InputSplit, SealContext, SealingKey, SecretKey};
use serde_json::{Value, json};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/seal.json");

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + 3) as u8).collect()
}

fn vectors() -> Value {
    let content = ContentKey::from_bytes([0x42; 32]);
    let market = SecretKey::from_seed([1; 32]).public();
    let envelopes = [2u8, 3].map(|seed| {
        let worker = SecretKey::from_seed([seed; 32]);
        let key = OpeningKey::of(&worker);
        let record = SealingKey { market, worker: worker.public(), key: key.public(), valid_until_ms: 7 };
        let split = InputSplit { blob: Hash::of(b"sealed"), offset: 0, stride: 80, length: 80 };
        let context = SealContext { market, manifest: Hash::of(b"manifest"), inputs: vec![split] };
        let digest = context.digest();
        let fresh = [seed + 100; 32];
        let envelope = seal_key(&content, &record, &digest, fresh).expect("a good key");
        let opened = open_key(&key, market, worker.public(), &digest, &envelope).expect("its own");
        assert_eq!(opened.as_bytes(), content.as_bytes());
        json!({
            "seed": hex::encode([seed; 32]), "worker": worker.public(), "public": key.public(), "market": market,
            "fresh": hex::encode(fresh), "context": digest, "envelope": envelope,
        })
    });
    let inputs = [(0u32, 0u64, 0usize), (0, 1, 64), (3, 1 << 40, 100)].map(|(input, unit, length)| {
        let plaintext = bytes(length);
        let sealed = seal_input(&content, input, unit, &plaintext);
        let (_, stream) = check_input(&content, input, unit, &sealed).expect("its own");
        json!({
            "input": input, "unit": unit.to_string(), "plaintext": hex::encode(&plaintext),
            "key": hex::encode(stream.key), "nonce": hex::encode(stream.nonce), "sealed": hex::encode(sealed),
        })
    });
    let outputs = [(0u64, 0u32, 0usize), (0, 1, 64), (1 << 40, 2, 100)].map(|(unit, output, length)| {
        let plaintext = bytes(length);
        let sealed = seal_output(&content, unit, output, &plaintext);
        json!({
            "unit": unit.to_string(), "output": output, "plaintext": hex::encode(&plaintext),
            "sealed": hex::encode(sealed),
        })
    });
    json!({
        "about": "written by crates/seal/tests/vectors.rs",
        "content_key": hex::encode(content.as_bytes()),
        "envelopes": envelopes, "inputs": inputs, "outputs": outputs,
    })
}

#[test]
fn the_committed_vectors_are_what_the_code_computes() {
    let computed = serde_json::to_string_pretty(&vectors()).expect("JSON values print") + "\n";
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(PATH, &computed).expect("the vectors can be written");
    }
    let committed = std::fs::read_to_string(PATH).expect("tests/vectors/seal.json is there");
    assert_eq!(committed, computed, "UPDATE_VECTORS=1 rewrites the vectors");
}
