//! What is sealed opens for its recipient, in its place, and nowhere else.

use plexus_seal::{
    ContentKey, OpeningKey, SealError, check_input, open_input, open_key, open_output, seal_input, seal_key,
    seal_output, seal_split,
};
use proptest::prelude::*;
use protocol::{Envelope, Hash, InputSplit, PublicKey, SealContext, SealPublicKey, SealingKey, SecretKey};

fn content() -> ContentKey {
    ContentKey::from_bytes([9; 32])
}

fn market() -> PublicKey {
    SecretKey::from_seed([1; 32]).public()
}

fn record(worker: &SecretKey) -> SealingKey {
    let key = OpeningKey::of(worker).public();
    SealingKey { market: market(), worker: worker.public(), key, valid_until_ms: 1 }
}

fn context(program: &str) -> Hash {
    let split = InputSplit { blob: Hash::of(b"sealed"), offset: 0, stride: 20, length: 20 };
    SealContext { market: market(), manifest: Hash::of(program.as_bytes()), inputs: vec![split] }.digest()
}

#[test]
fn an_envelope_opens_for_its_worker_market_and_job_only() {
    let (worker, other) = (SecretKey::from_seed([2; 32]), SecretKey::from_seed([3; 32]));
    let (key, context, elsewhere) = (OpeningKey::of(&worker), context("a"), context("b"));
    let envelope = seal_key(&content(), &record(&worker), &context, [7; 32]).expect("a good key");
    let open = |key: &OpeningKey, market, worker, context, envelope: Envelope| {
        open_key(key, market, worker, &context, &envelope).map(|content| *content.as_bytes())
    };
    assert_eq!(open(&key, market(), worker.public(), context, envelope), Ok([9; 32]));
    let wrong = Err(SealError::Envelope);
    assert_eq!(open(&OpeningKey::of(&other), market(), worker.public(), context, envelope), wrong);
    assert_eq!(open(&key, other.public(), worker.public(), context, envelope), wrong, "another market");
    assert_eq!(open(&key, market(), other.public(), context, envelope), wrong, "another worker's name");
    assert_eq!(open(&key, market(), worker.public(), elsewhere, envelope), wrong, "another program");
    for at in 0..envelope.0.len() {
        let mut changed = envelope;
        changed.0[at] ^= 0x10;
        assert_eq!(open(&key, market(), worker.public(), context, changed), wrong, "byte {at}");
    }
    let again = seal_key(&content(), &record(&worker), &context, [8; 32]).expect("a good key");
    assert_ne!(again.0, envelope.0, "another ephemeral key");
}

#[test]
fn nothing_is_sealed_to_a_point_of_small_order() {
    let worker = SecretKey::from_seed([2; 32]);
    let record = SealingKey { key: SealPublicKey([0; 32]), ..record(&worker) };
    let sealed = seal_key(&content(), &record, &context("a"), [7; 32]);
    assert_eq!(sealed, Err(SealError::Recipient));
    let small =
        open_key(&OpeningKey::of(&worker), market(), worker.public(), &context("a"), &Envelope([0; 80]));
    assert!(matches!(small, Err(SealError::Envelope)));
}

#[test]
fn a_part_opens_in_its_place_only() {
    let sealed = seal_input(&content(), 1, 7, b"a secret row");
    assert_eq!(open_input(&content(), 1, 7, &sealed).as_deref(), Ok(&b"a secret row"[..]));
    let other = ContentKey::from_bytes([8; 32]);
    for (key, input, unit) in [(&content(), 0, 7), (&content(), 1, 8), (&other, 1, 7)] {
        let wrong = SealError::Input { input, unit };
        assert_eq!(open_input(key, input, unit, &sealed), Err(wrong));
        assert_eq!(check_input(key, input, unit, &sealed).map(|(bytes, _)| bytes), Err(wrong));
    }
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(open_input(&content(), 1, 7, &changed).is_err(), "byte {at}");
        assert!(check_input(&content(), 1, 7, &changed).is_err(), "byte {at}");
    }
    for short in 0..16 {
        assert!(open_input(&content(), 1, 7, &sealed[..short]).is_err());
        assert!(check_input(&content(), 1, 7, &sealed[..short]).is_err());
    }
}

#[test]
fn equal_outputs_are_equal_ciphertexts_of_one_unit_alone() {
    let seal = |unit, output, bytes: &[u8]| seal_output(&content(), unit, output, bytes);
    let sealed = seal(5, 1, b"the answer");
    assert_eq!(sealed, seal(5, 1, b"the answer"), "two honest workers");
    assert_ne!(sealed, seal(6, 1, b"the answer"));
    assert_ne!(sealed, seal(5, 0, b"the answer"));
    // Different plaintexts do not share a keystream: their difference does not show.
    let other = seal(5, 1, b"the answes");
    let both: Vec<u8> = sealed[32..].iter().zip(&other[32..]).map(|(a, b)| a ^ b).collect();
    assert_ne!(&both[..9], &[0; 9]);
    assert_eq!(open_output(&content(), 5, 1, &sealed).as_deref(), Ok(&b"the answer"[..]));
    for (unit, output) in [(6, 1), (5, 0)] {
        assert_eq!(open_output(&content(), unit, output, &sealed), Err(SealError::Output { output, unit }));
    }
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(open_output(&content(), 5, 1, &changed).is_err(), "byte {at}");
    }
    assert!(open_output(&content(), 5, 1, &sealed[..31]).is_err());
    assert_eq!(open_output(&content(), 5, 1, &seal(5, 1, b"")).as_deref(), Ok(&b""[..]));
}

#[test]
fn secrets_do_not_print_themselves() {
    let key = SecretKey::from_seed([2; 32]);
    let (_, stream) = check_input(&content(), 0, 0, &seal_input(&content(), 0, 0, b"x"))
        .map(|(b, s)| (b.to_vec(), s))
        .expect("whole");
    let text = format!("{:?} {:?} {stream:?}", content(), OpeningKey::of(&key));
    assert_eq!(text, format!("ContentKey(…) OpeningKey(of {}) Keystream(…)", OpeningKey::of(&key).public()));
}

#[test]
fn an_input_that_overlaps_itself_without_measure_is_refused() {
    let split = InputSplit { blob: Hash([0; 32]), offset: 0, stride: 1, length: 1 << 20 };
    let refused = seal_split(&content(), 2, &split, u64::MAX, &[0; 64]);
    assert!(matches!(refused, Err(SealError::InputTooLong { input: 2, .. })));
}

proptest! {
    #[test]
    fn every_unit_finds_its_part(
        blob in prop::collection::vec(any::<u8>(), 0..300),
        offset in 0u64..80,
        stride in 0u64..40,
        length in 0u64..60,
        units in 1u64..9,
    ) {
        let split = InputSplit { blob: Hash::of(&blob), offset, stride, length };
        let (there, sealed) = seal_split(&content(), 3, &split, units, &blob).expect("small");
        prop_assert_eq!(there.blob, Hash::of(&sealed));
        prop_assert_eq!(there.length, length + 16);
        for unit in 0..units {
            let range = there.range(unit, sealed.len() as u64);
            let part = &sealed[range.start as usize..range.end as usize];
            let nonce = if stride == 0 { 0 } else { unit };
            let opened = open_input(&content(), 3, nonce, part).expect("its own part");
            prop_assert_eq!(&opened[..], &*split.unit_bytes(unit, &blob));
            let (ciphertext, _) = check_input(&content(), 3, nonce, part).expect("its own part");
            prop_assert_eq!(ciphertext.len(), opened.len());
        }
    }
}
