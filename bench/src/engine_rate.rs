//! Decisions a second of the bare engine: no HTTP, no disk, one core.

use std::time::Instant;

use engine::{Answer, Command, JobSpec, Params, Policy, Requirements, Stage, State, Submission, decide};
use protocol::{
    Amount, Hash, OutputCommitment, PublicKey, Receipt, Signature, UnitLeaf, manifest::JobKind, package_root,
};

use crate::report::Report;

const UNITS: u64 = 100_000;

/// Runs no-op units in packages of one through lease, receipt, check and payment with two workers.
pub fn measure(report: &mut Report) {
    let (client, workers) = (PublicKey([9; 32]), [PublicKey([1; 32]), PublicKey([2; 32])]);
    let (mut state, _) = State::found(PublicKey([255; 32]), Params::default(), 0);
    let mut now_ms = 0;
    let mut decisions = 0u64;
    let mut run = |state: &mut State, command| {
        decisions += 1;
        now_ms += 1;
        decide(state, now_ms / 100, command).expect("every command of the benchmark is valid").answer
    };
    run(&mut state, Command::Deposit { account: client, amount: Amount(1 << 50), key: None });
    for worker in workers {
        let (instance, version) = ("one".to_owned(), "bench".to_owned());
        let (device, offer) = (crate::load::device(), Default::default());
        run(&mut state, Command::Announce { worker, instance, device, version, offer });
    }
    let stage = Stage {
        name: String::new(),
        manifest: Hash::of(b"manifest"),
        inputs: vec![],
        units: UNITS,
        unit_price: Amount(1_000),
        package_units: Some(1),
        time_ms_max: 1_000,
        requirements: Requirements::default(),
        outputs_exact: vec![true],
        policy: Policy::Audit { rate_min_ppm: 0 },
        work: Default::default(),
        devices: 1,
        replicas: 1,
    };
    let spec = JobSpec::plain("no-op".into(), JobKind::Batch, "[]".into(), stage);
    run(
        &mut state,
        Command::Submit(Submission { owner: client, spec, quoted: vec![], budget: None, key: None }.into()),
    );
    let output = OutputCommitment::of(b"done");
    let started = Instant::now();
    let mut turn = 0;
    while !state.jobs().values().all(|job| job.state.ended()) {
        let worker = workers[turn % 2];
        turn += 1;
        let request =
            Command::RequestLeases { worker, instance: "one".into(), packages_max: 1, others_only: false };
        let Answer::Leases(leases) = run(&mut state, request) else { unreachable!("leases were asked for") };
        for id in leases {
            let lease = &state.leases()[&id];
            let units: Vec<_> = state
                .lease_units(lease)
                .iter()
                .flat_map(|run| run.units())
                .map(|unit| (unit, vec![output]))
                .collect();
            let leaves: Vec<_> = units
                .iter()
                .map(|(unit, outputs)| UnitLeaf::done(lease.job, *unit, outputs.clone()))
                .collect();
            let receipt = Receipt {
                market: PublicKey([255; 32]),
                lease: id,
                generation: lease.generation,
                worker,
                job: lease.job,
                units: units.len() as u32,
                package_root: package_root(&leaves),
                adapter: "bench".into(),
                started_at_ms: 0,
                device_us: 1,
                total_us: 1,
            };
            let seed = receipt.digest();
            let commit =
                Command::Commit { receipt: receipt.into(), signature: Signature([0; 64]), units, seed };
            run(&mut state, commit);
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    report.add("bare engine, packages of one", decisions as f64 / seconds, "decisions/s", Some(">= 200000"));
    report.add("bare engine, packages of one", UNITS as f64 / seconds, "units/s", None);
}
