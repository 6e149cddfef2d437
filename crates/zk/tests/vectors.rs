//! Proofs from the outside, and golden vectors for whoever verifies them elsewhere.
//!
//! `UPDATE_VECTORS=1 cargo nextest run -p plexus-zk --test vectors` rewrites `tests/vectors/groth16.json`: a verifying key and
//! proofs in the layout of alt_bn128, with their public inputs.

use plexus_zk::{
    Blinding, Claim, Commitment, ProvingKey, Role, Shape, Witness, ZkError,
    alt_bn128::{Proof, VerifyingKey},
    prove, setup,
};
use serde_json::{Value, json};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/groth16.json");

fn shape() -> Shape {
    Shape::new(2, 4, 1).expect("small")
}

fn witness(input: [i8; 4]) -> Witness {
    Witness {
        weights: vec![1, -2, 3, -4, 127, -128, 0, 55],
        weights_blinding: Blinding::from_seed(&[1; 32]),
        input: input.to_vec(),
        input_blinding: Blinding::NONE,
        output_blinding: Blinding::from_seed(&[2; 32]),
    }
}

#[test]
fn the_committed_proofs_are_what_the_code_makes_and_accepts() {
    let (key, verifying) = setup(shape(), &[7; 32]);
    let proofs: Vec<Value> = [[1, 2, 3, 4], [-128, 127, -1, 0]]
        .into_iter()
        .enumerate()
        .map(|(index, input)| {
            let (output, claim, proof) = prove(&key, &witness(input), &[index as u8; 32]).expect("fits");
            json!({
                "input": input, "output": output,
                "public_inputs": claim.public_inputs().map(hex::encode),
                "proof": hex::encode(proof.encode()),
            })
        })
        .collect();
    let computed = json!({
        "about": "written by crates/zk/tests/vectors.rs; layouts: crates/zk/src/alt_bn128.rs",
        "weights": witness([0; 4]).weights,
        "verifying_key": hex::encode(verifying.encode()),
        "proofs": proofs,
    });
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&computed).expect("JSON values print") + "\n";
        std::fs::write(PATH, text).expect("the vectors can be written");
    }
    let committed = std::fs::read_to_string(PATH).expect("tests/vectors/groth16.json is there");
    let committed: Value = serde_json::from_str(&committed).expect("JSON");
    assert_eq!(committed, computed, "UPDATE_VECTORS=1 rewrites tests/vectors/groth16.json");

    // From the bytes alone.
    let bytes = |value: &Value| hex::decode(value.as_str().expect("text")).expect("hex");
    let verifying =
        VerifyingKey::decode(&bytes(&committed["verifying_key"]).try_into().expect("length")).expect("a key");
    for (index, vector) in committed["proofs"].as_array().expect("a list").iter().enumerate() {
        let proof = Proof::decode(&bytes(&vector["proof"]).try_into().expect("length")).expect("a proof");
        let input = |at: usize| {
            let bytes: [u8; 32] = bytes(&vector["public_inputs"][at]).try_into().expect("length");
            Commitment::from_bytes(&bytes).expect("below the order")
        };
        let claim = Claim { weights: input(0), input: input(1), output: input(2) };
        assert!(verifying.verify(&claim, &proof), "{index}");
        // The input was not blinded, so everybody can say for which one this is.
        let values: Vec<i8> = serde_json::from_value(vector["input"].clone()).expect("numbers");
        assert_eq!(claim.input, Commitment::to_bytes(Role::Input, &values, &Blinding::NONE));
    }
}

#[test]
fn a_proof_holds_for_its_claim_and_key_only() {
    let (key, verifying) = setup(shape(), &[7; 32]);
    let (output, claim, proof) = prove(&key, &witness([1, 2, 3, 4]), &[9; 32]).expect("fits");
    assert_eq!(output, [1 - 4 + 9 - 16, 127 - 256 + 220]);
    assert!(verifying.verify(&claim, &proof));
    let (_, other_claim, other_proof) = prove(&key, &witness([4, 3, 2, 1]), &[9; 32]).expect("fits");
    for (claim, proof) in [
        (Claim { output: other_claim.output, ..claim }, proof),
        (Claim { input: other_claim.input, ..claim }, proof),
        (Claim { weights: claim.output, ..claim }, proof),
        (claim, other_proof),
    ] {
        assert!(!verifying.verify(&claim, &proof));
    }
    // The same claim, proved again with other random numbers: another proof, as good.
    let (_, same, again) = prove(&key, &witness([1, 2, 3, 4]), &[10; 32]).expect("fits");
    assert!(same == claim && again != proof && verifying.verify(&claim, &again));
    let (_, strange) = setup(shape(), &[8; 32]);
    assert!(!strange.verify(&claim, &proof));
}

#[test]
fn keys_come_back_from_their_bytes() {
    let (key, _) = setup(Shape::new(1, 1, 1).expect("small"), &[3; 32]);
    let bytes = key.encode();
    let shape = Shape::new(1, 1, 1).expect("small");
    assert_eq!(ProvingKey::decode(shape, &bytes).as_ref(), Ok(&key));
    let mut long = bytes.clone();
    long.push(0);
    for wrong in [&bytes[..bytes.len() - 1], &long, &[]] {
        assert_eq!(ProvingKey::decode(shape, wrong), Err(ZkError::Key));
    }
}

#[test]
fn what_is_too_large_or_does_not_fit_is_refused() {
    for (rows, inner, columns) in [(0, 1, 1), (1, 0, 1), (64, 65, 1), (64, 64, 5), (u32::MAX, u32::MAX, 1)] {
        assert_eq!(Shape::new(rows, inner, columns), Err(ZkError::Shape { rows, inner, columns }));
    }
    let (key, _) = setup(Shape::new(1, 1, 1).expect("small"), &[3; 32]);
    let refused = prove(&key, &witness([0; 4]), &[0; 32]).map(|_| ());
    assert_eq!(refused, Err(ZkError::Elements { expected: 1, found: 8 }));
}
