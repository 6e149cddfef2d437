//! What it costs to know that work was done: checks, proofs, receipts and audits, as a share of the work where there is one.

use std::hint::black_box;

use anyhow::{Context as _, Result, ensure};
use ed25519_dalek::{Signature, VerifyingKey};
use engine::Params;
use proof::{
    freivalds::{Product, Rule, check},
    matrix::{Layout, Matrix},
    sumcheck::{Hashes, Statement, prove, verify},
};
use protocol::{
    Hash, JobId, LeaseId, OutputCommitment, PublicKey, Receipt, SecretKey, Signable as _, UnitLeaf, merkle,
    package_root,
};
use zk::{Blinding, Shape, Witness, setup};

use crate::{product, report::Report, stopwatch::Stopwatch};

/// Sides of the matrices.
const SIDES: [usize; 5] = [256, 512, 1024, 2048, 4096];
/// Long enough that a scheduler's tick does not count.
const SECONDS_MIN: f64 = 0.2;
const RECEIPTS: usize = 2048;
/// Signatures verified at once.
const BATCH: usize = 64;

/// Seconds that `work` takes, the least of three series.
fn seconds<T>(mut work: impl FnMut() -> T) -> f64 {
    let series = || {
        let (stopwatch, mut runs) = (Stopwatch::start(), 0);
        loop {
            black_box(work());
            runs += 1;
            let seconds = stopwatch.seconds();
            if seconds >= SECONDS_MIN {
                return seconds / f64::from(runs);
            }
        }
    };
    let mut series = series;
    (0..3).map(|_| series()).fold(f64::INFINITY, f64::min)
}

/// Bytes without a pattern.
fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn square(bytes: &[u8], dtype: protocol::manifest::Dtype, side: usize) -> Result<Matrix<'_>> {
    Ok(Matrix::new(bytes, dtype, side as u64, side as u64, Layout::RowMajor)?)
}

/// Freivalds' check and the sum-check against the product, for squares of several sides.
pub fn products(report: &mut Report) -> Result<()> {
    use protocol::manifest::Dtype::{F32, I8, I32};
    for side in SIDES {
        let (a, b) = (bytes(side * side, 1), bytes(side * side, 2));
        let signed = |bytes: &[u8]| bytes.iter().map(|byte| *byte as i8).collect::<Vec<_>>();
        let (left, right) = (signed(&a), signed(&b));
        let c: Vec<u8> =
            product::integers(&left, &right, side).iter().flat_map(|value| value.to_le_bytes()).collect();
        let claim = Product::new(square(&a, I8, side)?, square(&b, I8, side)?, square(&c, I32, side)?)?;
        ensure!(check(&claim, &[1; 32], &Rule::default())?.holds(), "the product is not the product");
        let work = seconds(|| product::integers(&left, &right, side));
        let rate = (side as f64).powi(3) / work / 1e9;
        report.add(format!("product of int8, n = {side}, one core"), rate, "10⁹ multiplications/s", None);
        let freivalds = seconds(|| check(&claim, &[1; 32], &Rule::default()));
        let aim = (side == 1024).then_some("< 0.03");
        report.add(format!("Freivalds int8, 2⁻⁶¹, n = {side}, of the product"), freivalds / work, "", aim);

        let hashes = Hashes { a: Hash::of(&a), b: Hash::of(&b), c: Hash::of(&c) };
        let statement = Statement::new(claim, hashes)?;
        let proved = prove(&statement);
        verify(&statement, &proved).context("an honest proof")?;
        let aim = (side == 1024).then_some("< 2");
        let proving = seconds(|| prove(&statement));
        report.add(format!("sum-check: prove, n = {side}, of the product"), proving / work, "", aim);
        let aim = (side == 1024).then_some("< 0.05");
        let verifying = seconds(|| verify(&statement, &proved));
        report.add(format!("sum-check: verify, n = {side}, of the product"), verifying / work, "", aim);
        let length = proved.encode().len() as f64;
        report.add(format!("sum-check: proof, n = {side}"), length, "bytes", None);

        let float = |values: &[i8]| values.iter().map(|v| f32::from(*v) / 128.0).collect::<Vec<_>>();
        let (left, right) = (float(&left), float(&right));
        let raw = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let (a, b, c) = (raw(&left), raw(&right), raw(&product::floats(&left, &right, side)));
        let claim = Product::new(square(&a, F32, side)?, square(&b, F32, side)?, square(&c, F32, side)?)?;
        ensure!(check(&claim, &[1; 32], &Rule::default())?.holds(), "an honest product fails");
        let work = seconds(|| product::floats(&left, &right, side));
        let freivalds = seconds(|| check(&claim, &[1; 32], &Rule::default()));
        let aim = (side == 1024).then_some("< 0.03");
        report.add(
            format!("Freivalds f32, two rounds, n = {side}, of the product"),
            freivalds / work,
            "",
            aim,
        );
    }
    Ok(())
}

/// Signing, hashing and verifying receipts.
pub fn receipts(report: &mut Report) -> Result<()> {
    const MIB: usize = 1 << 20;
    let output = bytes(16 * MIB, 3);
    let hashing = seconds(|| merkle::chunk_root(&output));
    report.add("Merkle root of an output", 16.0 / hashing, "MiB/s", None);
    report.add("Merkle root of an output", hashing / 16.0 * 1e3, "ms/MiB", None);
    let leaves: Vec<UnitLeaf> = (0..100)
        .map(|unit| UnitLeaf::done(JobId(1), unit, vec![OutputCommitment::of(&[unit as u8])]))
        .collect();
    report.add("Merkle root of a package of 100", seconds(|| package_root(&leaves)) * 1e6, "µs", None);

    let keys: Vec<SecretKey> = (0..BATCH).map(|seed| SecretKey::from_seed([seed as u8; 32])).collect();
    let receipts: Vec<Receipt> =
        (0..RECEIPTS).map(|index| receipt(&keys[index % BATCH], index as u64)).collect();
    let signatures: Vec<_> =
        receipts.iter().enumerate().map(|(index, receipt)| keys[index % BATCH].sign(receipt)).collect();
    let per_second = |seconds: f64| RECEIPTS as f64 / seconds;
    let signing = seconds(|| {
        receipts.iter().enumerate().for_each(|(index, receipt)| {
            black_box(keys[index % BATCH].sign(receipt));
        });
    });
    report.add("receipts signed", per_second(signing), "receipts/s", None);
    let one_by_one = seconds(|| {
        receipts
            .iter()
            .zip(&signatures)
            .all(|(receipt, signature)| receipt.worker.verify(receipt, signature).is_ok())
    });
    report.add("receipts verified one by one, strictly", per_second(one_by_one), "receipts/s", None);
    let batches = seconds(|| {
        receipts.chunks(BATCH).zip(signatures.chunks(BATCH)).all(|(receipts, signatures)| {
            let messages: Vec<Vec<u8>> = receipts.iter().map(|receipt| receipt.signed_bytes()).collect();
            let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            let signatures: Vec<_> = signatures.iter().map(|s| Signature::from_bytes(&s.0)).collect();
            let keys: Result<Vec<_>, _> =
                receipts.iter().map(|receipt| VerifyingKey::from_bytes(&receipt.worker.0)).collect();
            keys.is_ok_and(|keys| ed25519_dalek::verify_batch(&messages, &signatures, &keys).is_ok())
        })
    });
    report.add(
        format!("receipts verified in batches of {BATCH}, not strictly"),
        per_second(batches),
        "receipts/s",
        None,
    );
    report.add_ratio("batches over one by one", per_second(batches), per_second(one_by_one), None);
    Ok(())
}

fn receipt(key: &SecretKey, number: u64) -> Receipt {
    Receipt {
        market: PublicKey([1; 32]),
        lease: LeaseId(number),
        generation: 1,
        worker: key.public(),
        job: JobId(1),
        units: 100,
        package_root: Hash::of(&number.to_le_bytes()),
        adapter: "llvmpipe (LLVM 15.0.6, 256 bits)".into(),
        started_at_ms: 1_700_000_000_000,
        device_us: 1_000,
        total_us: 2_000,
    }
}

/// What audits cost an honest worker, and whom they find, computed from the rule of trust and the default parameters.
///
/// The cheater earns its trust with 200 honest packages, then gets one unit in a hundred wrong. The stake is taken to be so large
/// that the economic floor is below the others.
pub fn audits(report: &mut Report) -> Result<()> {
    const UNITS: i32 = 100;
    const EARNED: u32 = 200;
    let params = Params::default();
    let rate = |valid: u32, rate_min_ppm: u32| {
        let record_ppm =
            if valid < params.trust_after_packages { 1_000_000 } else { 1_000_000 / valid.max(1) };
        f64::from(record_ppm.max(params.audit_rate_floor_ppm).max(rate_min_ppm)) / 1e6
    };
    let mean =
        |from: u32, to: u32| (from..to).map(|valid| rate(valid, 0)).sum::<f64>() / f64::from(to - from);
    report.add("audits: share of an honest worker's first 100 packages", mean(0, 100), "", None);
    report.add("audits: share of the packages 101 to 1000", mean(100, 1_000), "", Some("<= 0.03"));
    report.add("audits: share at steady state", rate(1_000_000, 0), "", Some("<= 0.03"));
    let found = |rate_min_ppm: u32| {
        // Of a package's hundred units one is wrong.
        let unseen = (EARNED..EARNED + 100).map(|valid| 1.0 - rate(valid, rate_min_ppm)).product::<f64>();
        1.0 - unseen
    };
    let name = |rate: &str| format!("1 %-cheater found within 100 packages of {UNITS} units, {rate}");
    report.add(name("market's floor"), found(0), "", Some(">= 0.99"));
    report.add(name("rate_min 3 %"), found(30_000), "", Some(">= 0.99"));
    let least = (1..=1_000_000).step_by(100).find(|rate_min| found(*rate_min) >= 0.99);
    let least = least.context("some rate finds it")?;
    report.add("rate_min that finds it with 99 %", f64::from(least) / 1e6, "", Some("<= 0.03"));
    Ok(())
}

/// Groth16 for a product of 16 × 16 with a vector.
pub fn circuits(report: &mut Report) -> Result<()> {
    let shape = Shape::new(16, 16, 1)?;
    let stopwatch = Stopwatch::start();
    let (key, verifying) = setup(shape, &[1; 32]);
    report.add("Groth16, 16 × 16 · 16: setup", stopwatch.seconds(), "s", None);
    let witness = Witness {
        weights: bytes(256, 4).into_iter().map(|byte| byte as i8).collect(),
        weights_blinding: Blinding::from_seed(&[2; 32]),
        input: bytes(16, 5).into_iter().map(|byte| byte as i8).collect(),
        input_blinding: Blinding::NONE,
        output_blinding: Blinding::from_seed(&[3; 32]),
    };
    let (_, claim, proved) = zk::prove(&key, &witness, &[4; 32])?;
    ensure!(verifying.verify(&claim, &proved), "an honest proof fails");
    let proving = seconds(|| zk::prove(&key, &witness, &[4; 32]).is_ok());
    report.add("Groth16, 16 × 16 · 16: prove", proving, "s", None);
    let checking = seconds(|| verifying.verify(&claim, &proved));
    report.add("Groth16, 16 × 16 · 16: verify", checking * 1e3, "ms", None);
    report.add("Groth16: proof", proved.encode().len() as f64, "bytes", None);
    Ok(())
}
