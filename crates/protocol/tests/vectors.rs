//! Golden vectors of the wire formats: this test computes them, TypeScript reads them.
//!
//! `UPDATE_VECTORS=1 cargo nextest run -p plexus-protocol --test vectors` rewrites `tests/vectors/protocol.json`. After the
//! first release a changed value there is a new version of the format, not a repair.

use std::{collections::BTreeMap, path::Path};

use curve25519_dalek::{
    EdwardsPoint, Scalar, constants::ED25519_BASEPOINT_POINT, constants::EIGHT_TORSION, traits::IsIdentity,
};
use plexus_protocol::{
    Amount, Expression, ExpressionError, Hash, InputSplit, JobId, LeaseId, Manifest, OutputCommitment,
    PublicKey, Receipt, SealContext, SealPublicKey, SealingKey, SecretKey, Signable, Signature, UnitId,
    UnitLeaf, UnitStatus, batch, merkle, package_root,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/protocol.json");

#[test]
fn the_committed_vectors_are_what_the_code_computes() {
    let vectors = json!({
        "about": "written by crates/protocol/tests/vectors.rs; read by Rust and TypeScript",
        "hashes": hashes(),
        "keys": keys(),
        "ids": ids(),
        "amounts": amounts(),
        "merkle": merkle_trees(),
        "commitments": commitments(),
        "packages": packages(),
        "receipts": receipts(),
        "sealing_keys": sealing_keys(),
        "signatures": signatures(),
        "splits": splits(),
        "batches": batches(),
        "manifests": manifests(),
        "expressions": expressions(),
    });
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&vectors).expect("JSON values print") + "\n";
        std::fs::create_dir_all(Path::new(PATH).parent().expect("the path has a folder")).expect("folder");
        std::fs::write(PATH, &text).expect("the vectors can be written");
    }
    let committed = std::fs::read_to_string(PATH).expect("tests/vectors/protocol.json is there");
    let committed: Value = serde_json::from_str(&committed).expect("tests/vectors/protocol.json is JSON");
    if let Some(difference) = difference("", &committed, &vectors) {
        panic!(
            "tests/vectors/protocol.json is not what the code computes (UPDATE_VECTORS=1 rewrites it): {difference}"
        );
    }
}

/// The first place where two documents differ, as a JSON pointer with both values.
fn difference(pointer: &str, committed: &Value, computed: &Value) -> Option<String> {
    match (committed, computed) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().find_map(|(key, value)| difference(&format!("{pointer}/{key}"), value, &b[key]))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(index, (a, b))| difference(&format!("{pointer}/{index}"), a, b))
        }
        (a, b) if a == b => None,
        (a, b) => Some(format!("{pointer}: committed {a}, computed {b}")),
    }
}

/// Bytes without pattern and without a random generator: `i · 31 + seed`, mixed a little.
fn bytes(length: usize, seed: u32) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

fn hashes() -> Value {
    ["", "a", "plexus"].map(|text| json!({ "text": text, "sha256": Hash::of(text.as_bytes()) })).into()
}

fn keys() -> Value {
    let valid = [[0; 32], [7; 32], [0xff; 32]].map(|seed| {
        let key = SecretKey::from_seed(seed);
        json!({ "seed": hex::encode(seed), "public": key.public(), "public_hex": hex::encode(key.public().0) })
    });
    let zeros = PublicKey([0; 32]);
    let invalid = ["", "0OIl", "abc", &"1".repeat(33), &"z".repeat(44), "11111111111111111111111111111111 "]
        .map(|text| {
            assert!(text.parse::<PublicKey>().is_err(), "{text:?}");
            text.to_owned()
        });
    json!({ "valid": valid, "zeros": zeros, "invalid": invalid })
}

fn ids() -> Value {
    let valid: Vec<_> = [0, 7, u64::MAX]
        .iter()
        .map(|n| json!({ "kind": "job", "number": n.to_string(), "text": JobId(*n) }))
        .collect();
    let unit = UnitId { job: JobId(42), index: 7 };
    let invalid =
        ["", "job-", "job-x", "lease-1", "job-01", "42", "job--1", "job-18446744073709551616", "job-1 "];
    for text in invalid {
        assert!(text.parse::<JobId>().is_err(), "{text:?}");
    }
    json!({ "valid": valid, "unit": { "text": unit, "job": "job-42", "index": "7" }, "invalid": invalid })
}

fn batches() -> Value {
    let valid = [vec![0], vec![3, 0, 65_536], vec![1; 5]].map(|lengths| {
        let blobs: Vec<_> = lengths.iter().enumerate().map(|(i, n)| bytes(*n, i as u32)).collect();
        let batch = batch::frame(&blobs);
        assert_eq!(batch::parts(&batch).expect("well formed").len(), blobs.len());
        let (head, hash) = (4 + 4 * blobs.len(), Hash::of(&batch));
        json!({ "lengths": lengths, "head": hex::encode(&batch[..head]), "sha256": hash })
    });
    json!(valid)
}

fn amounts() -> Value {
    let tokens = ["0", "1", "0.000000001", "1.5", "1.50", "18446744073.709551615", "007.1"].map(|text| {
        let amount = Amount::from_tokens(text).expect(text);
        json!({ "tokens": text, "base_units": amount, "printed": amount.to_tokens() })
    });
    let invalid =
        ["", ".5", "1.", "-1", "+1", "1e3", "1.0000000001", "18446744073.709551616", "1,5", " 1", "1.2.3"];
    for text in invalid {
        assert!(Amount::from_tokens(text).is_err(), "{text:?}");
    }
    let not_base_units = ["", "01", "-1", "1.0", "18446744073709551616", "0x1"];
    for text in not_base_units {
        assert!(text.parse::<Amount>().is_err(), "{text:?}");
    }
    let shares = [(999_u64, 500_u32), (1, 9_000), (u64::MAX, 10_000), (123_456_789, 9_000)]
        .map(|(n, bps)| json!({ "base_units": Amount(n), "bps": bps, "share": Amount(n).share_bps(bps) }));
    json!({ "tokens": tokens, "invalid_tokens": invalid, "invalid_base_units": not_base_units, "shares": shares })
}

/// Trees over the leaves `[0]`, `[1]`, … with every inclusion proof (of the first, last and a middle leaf for large ones).
fn merkle_trees() -> Value {
    let trees = [0_usize, 1, 2, 3, 4, 5, 7, 8, 13, 33, 64, 65].map(|count| {
        let leaves: Vec<_> = (0..count).map(|i| merkle::leaf_hash(&[i as u8])).collect();
        let root = merkle::root(&leaves);
        let picks: Vec<usize> = if count <= 8 { (0..count).collect() } else { vec![0, count / 2, count - 1] };
        let proofs: Vec<_> = picks
            .into_iter()
            .map(|index| {
                let path = merkle::proof(&leaves, index).expect("the index is in range");
                assert!(merkle::verify(&root, &leaves[index], index as u64, count as u64, &path));
                json!({ "index": index, "path": path })
            })
            .collect();
        json!({ "count": count, "root": root, "proofs": proofs })
    });
    trees.into()
}

fn commitments() -> Value {
    [0, 1, 4, 65_535, 65_536, 65_537, 300_000]
        .map(|length| {
            let commitment = OutputCommitment::of(&bytes(length, 5));
            json!({ "length": length, "seed": 5, "commitment": commitment })
        })
        .into()
}

fn leaf(unit: u64, outputs: &[usize]) -> UnitLeaf {
    let outputs = outputs.iter().map(|length| OutputCommitment::of(&bytes(*length, unit as u32))).collect();
    UnitLeaf { job: JobId(42), unit, outputs, status: UnitStatus::Done }
}

fn leaf_json(leaf: &UnitLeaf) -> Value {
    let encoded = borsh::to_vec(leaf).expect("writing to a Vec cannot fail");
    json!({
        "job": leaf.job, "unit": leaf.unit.to_string(), "outputs": leaf.outputs, "status": leaf.status,
        "borsh": hex::encode(&encoded), "leaf_hash": merkle::leaf_hash(&encoded),
    })
}

fn packages() -> Value {
    let packages = [
        vec![leaf(0, &[32])],
        vec![leaf(7, &[32]), leaf(8, &[32]), leaf(9, &[32])],
        vec![leaf(u64::MAX, &[])],
        vec![leaf(3, &[16, 70_000]), leaf(4, &[16, 70_000])],
    ];
    packages
        .map(|leaves| {
            let units: Vec<_> = leaves.iter().map(leaf_json).collect();
            json!({ "units": units, "package_root": package_root(&leaves) })
        })
        .into()
}

fn receipts() -> Value {
    let key = SecretKey::from_seed([7; 32]);
    let receipt = Receipt {
        market: SecretKey::from_seed([1; 32]).public(),
        lease: LeaseId(9),
        generation: 2,
        worker: key.public(),
        job: JobId(42),
        units: 3,
        package_root: package_root(&[leaf(7, &[32]), leaf(8, &[32]), leaf(9, &[32])]),
        adapter: "llvmpipe (LLVM 15.0.6, 256 bits)".to_owned(),
        started_at_ms: 1_795_172_400_000,
        device_us: 12_345,
        total_us: 23_456,
    };
    let extreme = Receipt {
        lease: LeaseId(u64::MAX),
        generation: u32::MAX,
        units: u32::MAX,
        adapter: "Grafikkarte № 1 – größer 🚀".to_owned(),
        started_at_ms: u64::MAX,
        device_us: 0,
        total_us: u64::MAX,
        ..receipt.clone()
    };
    [receipt, extreme]
        .map(|receipt| {
            let signature = key.sign(&receipt);
            assert!(receipt.worker.verify(&receipt, &signature).is_ok());
            json!({
                "receipt": receipt,
                "signed_bytes": hex::encode(receipt.signed_bytes()),
                "digest": receipt.digest(),
                "seed": hex::encode([7; 32]),
                "signature": signature,
            })
        })
        .into()
}

fn sealing_keys() -> Value {
    let key = SecretKey::from_seed([7; 32]);
    let market = SecretKey::from_seed([1; 32]).public();
    let records = [1_795_172_400_000, u64::MAX].map(|valid_until_ms| {
        let record = SealingKey { market, worker: key.public(), key: SealPublicKey([9; 32]), valid_until_ms };
        let signature = key.sign(&record);
        assert!(record.worker.verify(&record, &signature).is_ok());
        json!({
            "record": record,
            "signed_bytes": hex::encode(record.signed_bytes()),
            "seed": hex::encode([7; 32]),
            "signature": signature,
        })
    });
    let split = |text: &str, stride, length| InputSplit {
        blob: Hash::of(text.as_bytes()),
        offset: 0,
        stride,
        length,
    };
    let contexts = [vec![], vec![split("a", 80, 80), split("b", 0, 48)]].map(|inputs| {
        let context = SealContext { market, manifest: Hash::of(b"manifest"), inputs };
        json!({ "market": market, "manifest": context.manifest, "inputs": context.inputs, "digest": context.digest() })
    });
    json!({ "records": records, "contexts": contexts })
}

/// Ed25519 cases with the answer of strict verification. The curve's cofactor is where implementations differ: see
/// Chalkias, Garillot and Nikolaenko, "Taming the many EdDSAs" (2020).
fn signatures() -> Value {
    let key = SecretKey::from_seed([3; 32]);
    let message = b"plexus/note/v1\0edge cases";
    let honest = key.sign_bytes(message);
    let mut cases = Vec::new();
    let mut case = |about: &str, public: [u8; 32], message: &[u8], signature: [u8; 64]| {
        let valid = PublicKey(public).verify_bytes("note", message, &Signature(signature)).is_ok();
        cases.push(json!({
            "about": about, "public": PublicKey(public), "message": hex::encode(message),
            "signature": Signature(signature), "valid": valid,
        }));
        valid
    };

    assert!(case("an honest signature", key.public().0, message, honest.0));
    assert!(case("an honest signature over no bytes", key.public().0, b"", key.sign_bytes(b"").0));
    assert!(!case("another message", key.public().0, b"another", honest.0));
    assert!(!case("another key", SecretKey::from_seed([4; 32]).public().0, message, honest.0));
    for (bit, about) in
        [(0, "a flipped bit in R"), (256, "a flipped bit in S"), (511, "the highest bit of S set")]
    {
        let mut signature = honest.0;
        signature[bit / 8] ^= 1 << (bit % 8);
        assert!(!case(about, key.public().0, message, signature));
    }
    let mut malleable = honest.0;
    let order: [u8; 32] = hex_array("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut carry = 0_u16;
    for (byte, add) in malleable[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert!(!case("S + L, the same signature in a second form", key.public().0, message, malleable));

    // Keys of small order: under lax verification R = identity, S = 0 signs everything.
    let identity = EdwardsPoint::default().compress().0;
    for point in EIGHT_TORSION {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&identity);
        assert!(!case("a key of small order", point.compress().0, message, signature));
    }
    let mut noncanonical = [0xff; 32];
    (noncanonical[0], noncanonical[31]) = (0xee, 0x7f);
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&identity);
    assert!(!case("the identity in a non-canonical encoding as key", noncanonical, message, signature));

    // A key and commitments with a component of small order, made with the secret scalar in hand.
    let secret = Scalar::from_bytes_mod_order([5; 32]);
    let torsion = EIGHT_TORSION[1];
    let mixed = secret * ED25519_BASEPOINT_POINT + torsion;
    let nonce = Scalar::from_bytes_mod_order([6; 32]);
    let commitment = nonce * ED25519_BASEPOINT_POINT;
    let (mut exact, mut cofactored) = (None, None);
    for counter in 0_u32.. {
        let message = counter.to_le_bytes();
        let k = challenge(commitment, mixed, &message);
        let residue = k * torsion;
        let found = if residue.is_identity() { &mut exact } else { &mut cofactored };
        found.get_or_insert((message, signature_of(commitment, nonce + k * secret)));
        if exact.is_some() && cofactored.is_some() {
            break;
        }
    }
    let (message_exact, signature_exact) = exact.expect("an eighth of all challenges is a multiple of 8");
    case(
        "a key of mixed order, the exact equation holds",
        mixed.compress().0,
        &message_exact,
        signature_exact,
    );
    let (message_lax, signature_lax) = cofactored.expect("most challenges are no multiple of 8");
    assert!(!case(
        "a key of mixed order, only the cofactored equation holds",
        mixed.compress().0,
        &message_lax,
        signature_lax
    ));
    // R of small order: S = k · a satisfies the equation for R = identity.
    let clean = secret * ED25519_BASEPOINT_POINT;
    let k = challenge(EdwardsPoint::default(), clean, message);
    let small_r = signature_of(EdwardsPoint::default(), k * secret);
    assert!(!case("R of small order", clean.compress().0, message, small_r));
    let mut not_a_point = honest.0;
    not_a_point[..32]
        .copy_from_slice(&hex_array("0200000000000000000000000000000000000000000000000000000000000000"));
    assert!(!case("R that is no point of the curve", key.public().0, message, not_a_point));
    let off_curve = hex_array("0200000000000000000000000000000000000000000000000000000000000000");
    assert!(!case("a key that is no point of the curve", off_curve, message, honest.0));
    cases.into()
}

fn challenge(commitment: EdwardsPoint, key: EdwardsPoint, message: &[u8]) -> Scalar {
    let digest = Sha512::new()
        .chain_update(commitment.compress().0)
        .chain_update(key.compress().0)
        .chain_update(message)
        .finalize();
    Scalar::from_bytes_mod_order_wide(&digest.into())
}

fn signature_of(commitment: EdwardsPoint, s: Scalar) -> [u8; 64] {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&commitment.compress().0);
    signature[32..].copy_from_slice(s.as_bytes());
    signature
}

fn hex_array(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).expect("64 hex digits");
    bytes
}

fn splits() -> Value {
    let blob = bytes(10, 1);
    let cases =
        [(0, 4, 4, 0), (0, 4, 4, 2), (0, 4, 4, 3), (1, 3, 3, 1), (0, 0, 10, 7), (0, 4, 12, 0), (9, 1, 2, 0)];
    let cases = cases.map(|(offset, stride, length, unit)| {
        let split = InputSplit { blob: Hash::of(&blob), offset, stride, length };
        json!({ "split": split, "unit": unit.to_string(), "bytes": hex::encode(split.unit_bytes(unit, &blob)) })
    });
    json!({ "blob": hex::encode(&blob), "cases": cases })
}

fn manifests() -> Value {
    let (kernel, weights) = (Hash::of(b"kernel"), Hash::of(b"weights"));
    let full = json!({
        "version": 1, "runtime": "wgsl", "kind": "inference",
        "program": {
            "kernels": { "mm": { "blob": kernel, "entry": "main", "overrides": { "TILE": "auto", "K": 64 } } },
            "buffers": {
                "x": { "input": 0, "dtype": "i8", "shape": [64, 64] },
                "w": { "blob": weights, "dtype": "i8", "shape": [64, 32], "resident": "layer0" },
                "s": { "scratch": true, "dtype": "f32", "shape": [4] },
                "z": { "output": 1, "dtype": "f32", "shape": [2],
                       "compare": { "abs": 0.001, "rel": 0.5, "outliers_max": 0.01, "mean_abs_max": 1e-4 } },
                "y": { "output": 0, "dtype": "i32", "shape": [64, 32], "compare": "exact" } },
            "passes": [ { "kernel": "mm", "bind": ["x", "w", "y", "s", "z"],
                          "dispatch": ["ceil(64/TILE)", "ceil(32/TILE)", 1] } ] },
        "limits": { "memory_bytes_max": 1048576, "time_ms_max": 2000 },
        "needs": { "features": ["shader-f16"], "storage_buffer_bytes_min": 8192 },
        "verify": { "policy": "audit", "rate_min": 0.02 } });
    let mut least = full.clone();
    least["program"]["kernels"] = json!({ "k": { "blob": kernel, "entry": "main" } });
    least["program"]["buffers"] = json!({ "y": { "output": 0, "dtype": "u8", "shape": [3] } });
    least["program"]["passes"] = json!([{ "kernel": "k", "bind": ["y"], "dispatch": [1] }]);
    least["verify"] = json!({ "policy": "quorum", "agree": 2 });
    least.as_object_mut().expect("an object").remove("needs");
    let mut floats = least.clone();
    floats["program"]["buffers"]["y"] = json!({ "output": 0, "dtype": "f32", "shape": [3],
        "compare": { "abs": 1e-5, "rel": 1.0, "outliers_max": 0.0, "mean_abs_max": 1.25e-7 } });
    let mut large = floats.clone();
    large["program"]["buffers"]["y"]["compare"] =
        json!({ "abs": 1e16, "rel": 123456789.5, "outliers_max": 1.0, "mean_abs_max": 1e15 });
    let mut rare = least.clone();
    rare["verify"] = json!({ "policy": "audit", "rate_min": 0.000001 });
    let mut several = full.clone();
    several["verify"] = json!([
        { "policy": "audit", "rate_min": 0.02 },
        { "policy": "canary" },
        { "policy": "freivalds", "products": [{ "a": "x", "b": "w", "c": "y" }] } ]);
    let mut relations = full.clone();
    relations["verify"] = json!([
        { "policy": "quorum", "agree": 2, "of": 3 },
        { "policy": "algebraic", "rate": 0.5, "relations": [
            { "relation": "product", "a": "x", "b": "w", "c": "y", "b_transposed": true, "bias": "s" },
            { "relation": "sorted", "input": "x", "output": "z", "descending": true } ] } ]);
    let valid = [full.clone(), least, floats, large, rare, several, relations].map(|value| {
        let manifest: Manifest = serde_json::from_value(value.clone()).expect("a valid manifest");
        let canonical = manifest.to_bytes();
        let text = String::from_utf8(canonical.clone()).expect("JSON is UTF-8");
        json!({ "manifest": value, "canonical": text, "hash": Hash::of(&canonical) })
    });

    let break_at = |pointer: &str, key: &str, value: Value| {
        let mut broken = full.clone();
        broken
            .pointer_mut(pointer)
            .expect(pointer)
            .as_object_mut()
            .expect("an object")
            .insert(key.to_owned(), value);
        assert!(serde_json::from_value::<Manifest>(broken.clone()).is_err(), "{pointer}/{key}");
        json!({ "about": format!("{pointer}/{key}"), "manifest": broken })
    };
    let product = |extra: Value| {
        let mut product = json!({ "a": "x", "b": "w", "c": "y" });
        product
            .as_object_mut()
            .expect("an object")
            .append(&mut extra.as_object().expect("an object").clone());
        json!([{ "policy": "freivalds", "products": [product] }])
    };
    let invalid = [
        break_at("", "verify", product(json!({ "m": 64 }))),
        break_at("", "verify", product(json!({ "b_transposed": 1 }))),
        break_at("", "verify", json!([{ "policy": "algebraic", "relations": [{ "relation": "inverse" }] }])),
        break_at("", "verify", json!({ "policy": "canary", "units": [1] })),
        break_at("", "verify", json!([{ "policy": "audit", "rate_min": 0.02, "of": 3 }])),
        break_at("", "verify", json!("audit")),
        break_at("", "extra", json!(1)),
        break_at("", "runtime", json!("cuda")),
        break_at("", "kind", json!("party")),
        break_at("/program", "extra", json!(1)),
        break_at("/program/kernels/mm", "blob", json!("00")),
        break_at("/program/kernels/mm/overrides", "TILE", json!("fast")),
        break_at("/program/kernels/mm/overrides", "TILE", json!(-1)),
        break_at("/program/buffers/x", "dtype", json!("f64")),
        break_at("/program/buffers/x", "tolerance", json!(1)),
        break_at("/program/buffers/x", "shape", json!([-1])),
        break_at("/program/buffers/y", "compare", json!("roughly")),
        break_at("/program/passes/0", "dispatch", json!(1)),
        break_at("/program/passes/0", "repeat", json!(2)),
        break_at("/limits", "time_ms_max", json!(-5)),
        break_at("/verify", "policy", json!("trust")),
        break_at("/needs", "extra", json!(1)),
    ];
    json!({ "valid": valid, "invalid": invalid })
}

fn expressions() -> Value {
    let overrides = BTreeMap::from([("TILE".to_owned(), 8), ("WG".to_owned(), 64), ("_n2".to_owned(), 3)]);
    let long = format!("1{}", " + 1".repeat(50));
    let cases = [
        "7",
        " 7 ",
        "TILE",
        "ceil(65/TILE)",
        "ceil(M*N/4/WG)",
        "ceil(100 * 3 / 4 / WG)",
        "64 / TILE",
        "65 / TILE",
        "2 + 3 * 4",
        "(2 + 3) * 4",
        "10 - 2 - 3",
        "100 / 5 / 2",
        "max(1, min(WG, 9))",
        "ceil((64 * 3) / (TILE + 1))",
        "_n2 * _n2",
        "min(1)",
        "min (2, 3)",
        "4294967295",
        "4294967296",
        "4294967296 / 2",
        "4294967295 * 2 / 2",
        "4294967295 * 2097152 / 4294967295",
        "4294967295 * 2097154 / 4294967295",
        "4294967295 * 4294967295",
        "1 / 0",
        "ceil(1 / 0)",
        "1 - 2",
        "1 - 2 + 2",
        "0",
        "",
        " ",
        "2 +",
        "1 2",
        "ceil(3)",
        "ceil(1/2, 3)",
        "ceil((1/2))",
        "sin(3)",
        "N",
        "N + 1 / 0",
        "1 / 0 + N",
        "-1",
        "1.5",
        "0x10",
        "2**3",
        "é",
        "1 + é",
        "(1",
        "1)",
        "\t1",
        long.as_str(),
    ]
    .map(|text| match Expression::parse(text).and_then(|e| e.value(&overrides)) {
        Ok(value) => json!({ "text": text, "value": value }),
        Err(ExpressionError::Syntax { position, message, .. }) => {
            json!({ "text": text, "error": "syntax", "position": position, "message": message })
        }
        Err(ExpressionError::UnknownName(name)) => {
            json!({ "text": text, "error": "unknown_name", "name": name })
        }
        Err(ExpressionError::OutOfRange) => json!({ "text": text, "error": "out_of_range" }),
    });
    json!({ "overrides": overrides, "cases": cases.to_vec() })
}
