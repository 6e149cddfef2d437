//! A small world around the engine for its tests: wallets, workers that compute honestly or not, and a clock.
#![allow(dead_code, reason = "each test file uses its part of the world")]

use std::collections::BTreeMap;

use plexus_engine::{
    Answer, Command, Decision, Event, Gather, Iterate, JobSpec, LookUnit, Params, Policy, ReceiptOutcome,
    Rejection, Requirements, Sealing, SealingRequest, Stage, StageInput, State, Submission, UnitWork, Work,
    decide, violations,
};
use protocol::{
    Amount, CheckId, DeviceFacts, DeviceLimits, Envelope, Hash, InputSplit, JobId, LeaseId, OutputCommitment,
    PublicKey, Receipt, ReservationId, SealPublicKey, SealingKey, Signature, SignedSealingKey, UnitLeaf,
    WorkerKind, WorkerOffer, manifest::JobKind, package_root,
};

pub const MARKET: PublicKey = PublicKey([255; 32]);
pub const CLIENT: PublicKey = PublicKey([200; 32]);

/// The engine with its journal. Every command checks the invariants.
pub struct World {
    pub state: State,
    pub journal: Vec<(u64, Event)>,
    pub now_ms: u64,
    /// From this iteration on every one puts out the same.
    pub settles_at: u64,
}

pub fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

/// A world with a client who has a token, and these workers, who are paid at once.
pub fn world(workers: &[u8]) -> World {
    world_with(Params { appeal_ms: 0, ..Params::default() }, workers)
}

/// A world with a client who has a token, and these workers.
pub fn world_with(params: Params, workers: &[u8]) -> World {
    let mut world = World::new(params);
    world.fund(CLIENT, 1);
    for worker in workers {
        world.announce(key(*worker));
    }
    world
}

pub fn device() -> DeviceFacts {
    DeviceFacts {
        kind: WorkerKind::Native,
        adapter: "test".into(),
        vendor: "test".into(),
        backend: "vulkan".into(),
        features: vec![],
        limits: DeviceLimits {
            storage_buffer_bytes_max: 1 << 27,
            buffer_bytes_max: 1 << 28,
            storage_buffers_max: 8,
            workgroup_invocations_max: 256,
            workgroup_bytes_max: 16_384,
            workgroups_per_dimension_max: 65_535,
        },
    }
}

/// What can be sealed to a worker. The engine leaves signatures to the shell.
pub fn sealing_key(worker: PublicKey) -> SignedSealingKey {
    let key = SealPublicKey([worker.0[0].wrapping_add(100); 32]);
    let record = SealingKey { market: MARKET, worker, key, valid_until_ms: 1 << 40 };
    SignedSealingKey { record, signature: Signature([0; 64]) }
}

pub fn stage(units: u64, policy: Policy) -> Stage {
    Stage {
        name: String::new(),
        manifest: Hash::of(b"manifest"),
        inputs: vec![],
        units,
        unit_price: Amount(1_001),
        package_units: None,
        time_ms_max: 1_000,
        requirements: Requirements { storage_buffer_bytes: 1_024, ..Requirements::default() },
        outputs_exact: vec![true],
        output_bytes: vec![],
        policy,
        work: UnitWork::default(),
        devices: 1,
        replicas: 1,
    }
}

/// A job of one stage.
pub fn spec(units: u64, policy: Policy) -> JobSpec {
    JobSpec::plain("test".into(), JobKind::Batch, "[]".into(), stage(units, policy))
}

/// Bytes of every output in a graph.
pub const OUTPUT_BYTES: u64 = 4;

/// An input of `count` outputs of a stage, from `step` units further on for each unit.
pub fn gather(stage: u32, step: u64, count: u64) -> Gather {
    let length = count * OUTPUT_BYTES;
    Gather { stage, output: 0, step, count, offset: 0, stride: 0, length, initial: None }
}

/// The same of the iteration before; the first one reads a blob.
pub fn previous(stage: u32, step: u64, count: u64) -> Gather {
    let gather = gather(stage, step, count);
    let blob = Hash::of(b"initial");
    Gather { initial: Some(InputSplit { blob, offset: 0, stride: 0, length: gather.length }), ..gather }
}

/// A stage that reads others.
pub fn reading(name: &str, units: u64, policy: Policy, gathers: &[Gather]) -> Stage {
    Stage {
        name: name.into(),
        inputs: gathers.iter().copied().map(StageInput::Stage).collect(),
        output_bytes: vec![OUTPUT_BYTES],
        ..stage(units, policy)
    }
}

/// A job of several stages.
pub fn graph(stages: Vec<Stage>, iterate: Option<Iterate>) -> JobSpec {
    JobSpec { stages, iterate, ..spec(1, AUDIT) }
}

/// Always re-executes what the trust rule does not already re-execute.
pub const AUDIT: Policy = Policy::Audit { rate_min_ppm: 0 };

/// The honest result of a unit, or another one.
pub fn output(job: JobId, unit: u64, lie: u8) -> OutputCommitment {
    OutputCommitment::of(format!("{job}/{unit}/{lie}").as_bytes())
}

impl World {
    pub fn new(params: Params) -> Self {
        let (state, founded) = State::found(MARKET, params, 0).expect("safe parameters");
        Self { state, journal: vec![(0, founded)], now_ms: 1_000, settles_at: u64::MAX }
    }

    pub fn run(&mut self, command: Command) -> Result<Decision, Rejection> {
        let before = self.state.clone();
        let decision = decide(&mut self.state, self.now_ms, command);
        match &decision {
            Ok(decision) => {
                self.journal.extend(decision.events.iter().map(|event| (self.now_ms, event.clone())))
            }
            Err(_) => assert_eq!(before, self.state, "a refusal changes nothing"),
        }
        self.check_gangs(&before, decision.as_ref().map_or(&[], |decision| &decision.events));
        assert_eq!(violations(&self.state, self.now_ms), [], "after {decision:?}");
        decision
    }

    /// Units that run at the same time are given out all at once or not at all, each to a worker of its own.
    fn check_gangs(&self, before: &State, events: &[Event]) {
        let mut given = BTreeMap::<(JobId, u32), Vec<PublicKey>>::new();
        for event in events {
            if let Event::LeaseGranted { worker, work: Work::Package { job, run, .. }, .. } = event {
                let spec = &self.state.jobs()[job].spec;
                if spec.stage_of(run.first).devices > 1 {
                    assert_eq!(run.count, 1);
                    given.entry((*job, spec.place(run.first).stage)).or_default().push(*worker);
                }
            }
        }
        for ((job, stage), mut workers) in given {
            let entry = &before.jobs()[&job];
            let wanted = u64::from(entry.spec.stages[stage as usize].devices);
            assert_eq!(workers.len() as u64, wanted.min(entry.queues[stage as usize].waiting_units));
            workers.sort();
            workers.dedup();
            assert_eq!(workers.len() as u64, wanted.min(entry.queues[stage as usize].waiting_units));
            assert!(workers.iter().all(|worker| before.workers()[worker].leases.is_empty()), "all were free");
        }
    }

    /// The state that the journal's bytes give, with a snapshot half way.
    pub fn replayed(&self) -> State {
        let mut state = State::default();
        for (number, (at_ms, event)) in self.journal.iter().enumerate() {
            if number == self.journal.len() / 2 {
                state = State::from_snapshot(&state.to_snapshot()).expect("what was written reads");
            }
            let bytes = borsh::to_vec(event).expect("events serialise");
            state.evolve(*at_ms, &borsh::from_slice(&bytes).expect("events deserialise"));
        }
        state
    }

    pub fn announce(&mut self, worker: PublicKey) {
        self.announce_with(worker, WorkerOffer::default());
    }

    pub fn announce_with(&mut self, worker: PublicKey, offer: WorkerOffer) {
        let command = Command::Announce {
            worker,
            instance: "one".into(),
            device: device(),
            version: "test".into(),
            offer,
        };
        self.run(command).expect("the worker is accepted");
    }

    pub fn fund(&mut self, account: PublicKey, tokens: u64) {
        let amount = Amount(tokens * protocol::BASE_UNITS_PER_TOKEN);
        self.run(Command::Deposit { account, amount, key: None }).expect("the deposit is accepted");
    }

    pub fn submit(&mut self, spec: JobSpec) -> JobId {
        let submission = Submission {
            owner: CLIENT,
            spec,
            quoted: vec![],
            budget: None,
            key: None,
            canaries: vec![],
            sealed: None,
        };
        match self.run(Command::Submit(submission.into())).expect("the job is accepted").answer {
            Answer::Job(job) => job,
            other => panic!("{other:?}"),
        }
    }

    pub fn give_sealing_key(&mut self, worker: PublicKey) {
        let signed = sealing_key(worker);
        self.run(Command::GiveSealingKey { worker, instance: "one".into(), signed }).expect("a good record");
    }

    pub fn heartbeat(&mut self, worker: PublicKey) {
        let _ = self.run(Command::Heartbeat { worker, instance: "one".into(), leases: vec![] });
    }

    pub fn reserve(&mut self, request: SealingRequest) -> Result<ReservationId, Rejection> {
        match self.run(Command::Reserve(request.into()))?.answer {
            Answer::Reserved { reservation, .. } => Ok(reservation),
            other => panic!("{other:?}"),
        }
    }

    /// Submits the reservation's owner's job, sealed to these workers.
    pub fn seal(&mut self, reservation: ReservationId, spec: JobSpec, to: &[u8]) -> Result<JobId, Rejection> {
        let envelopes = to.iter().map(|n| (key(*n), Envelope([*n; 80]))).collect();
        let sealed = Some(Sealing { reservation, envelopes });
        let submission = Submission {
            owner: CLIENT,
            spec,
            quoted: vec![],
            budget: None,
            key: None,
            canaries: vec![],
            sealed,
        };
        match self.run(Command::Submit(submission.into()))?.answer {
            Answer::Job(job) => Ok(job),
            other => panic!("{other:?}"),
        }
    }

    pub fn lease(&mut self, worker: PublicKey, packages_max: u32) -> Vec<LeaseId> {
        let command =
            Command::RequestLeases { worker, instance: "one".into(), packages_max, others_only: false };
        match self.run(command).map(|decision| decision.answer) {
            Ok(Answer::Leases(leases)) => leases,
            Err(Rejection::WorkerUnknown) => vec![],
            other => panic!("{other:?}"),
        }
    }

    /// The receipt for a lease and its units; `lie` 0 is the honest result.
    pub fn receipt(&self, id: LeaseId, lie: u8) -> (Receipt, Vec<(u64, Vec<OutputCommitment>)>) {
        self.receipt_of_first(id, usize::MAX, lie)
    }

    /// The receipt for the first `count` units of a lease.
    pub fn receipt_of_first(
        &self,
        id: LeaseId,
        count: usize,
        lie: u8,
    ) -> (Receipt, Vec<(u64, Vec<OutputCommitment>)>) {
        let lease = &self.state.leases()[&id];
        let units: Vec<_> = self
            .state
            .lease_units(lease)
            .into_iter()
            .flat_map(|run| run.units())
            .take(count)
            .map(|unit| (unit, vec![self.result(lease.job, unit, lie)]))
            .collect();
        let leaves: Vec<_> =
            units.iter().map(|(unit, outputs)| UnitLeaf::done(lease.job, *unit, outputs.clone())).collect();
        let receipt = Receipt {
            market: MARKET,
            lease: id,
            generation: lease.generation,
            worker: lease.worker,
            job: lease.job,
            units: units.len() as u32,
            package_root: package_root(&leaves),
            adapter: "test".into(),
            started_at_ms: self.now_ms,
            device_us: 500 * units.len() as u64,
            total_us: 600 * units.len() as u64,
        };
        (receipt, units)
    }

    pub fn commit_receipt(
        &mut self,
        receipt: Receipt,
        units: Vec<(u64, Vec<OutputCommitment>)>,
    ) -> Result<ReceiptOutcome, Rejection> {
        let seed = Hash::of_parts(&[b"secret", &receipt.digest().0]);
        let command = Command::Commit { receipt: receipt.into(), signature: Signature([0; 64]), units, seed };
        self.run(command).map(|decision| match decision.answer {
            Answer::Receipt { outcome, .. } => outcome,
            other => panic!("{other:?}"),
        })
    }

    /// Commits the first `count` units of a lease; answers the lease of the rest.
    pub fn checkpoint(&mut self, lease: LeaseId, count: usize) -> Option<LeaseId> {
        let (receipt, units) = self.receipt_of_first(lease, count, 0);
        let seed = Hash::of_parts(&[b"secret", &receipt.digest().0]);
        let command = Command::Commit { receipt: receipt.into(), signature: Signature([0; 64]), units, seed };
        match self.run(command).expect("the first units are taken").answer {
            Answer::Receipt { rest, .. } => rest,
            other => panic!("{other:?}"),
        }
    }

    pub fn commit(&mut self, lease: LeaseId, lie: u8) -> Result<ReceiptOutcome, Rejection> {
        let (receipt, units) = self.receipt(lease, lie);
        self.commit_receipt(receipt, units)
    }

    /// A receipt for a lease that is no longer there.
    pub fn commit_receipt_of_ended(&mut self, lease: LeaseId) -> Result<ReceiptOutcome, Rejection> {
        let receipt = Receipt {
            market: MARKET,
            lease,
            generation: 1,
            worker: key(1),
            job: JobId(1),
            units: 1,
            package_root: Hash([0; 32]),
            adapter: "test".into(),
            started_at_ms: 0,
            device_us: 1,
            total_us: 1,
        };
        self.commit_receipt(receipt, vec![(1, vec![output(JobId(1), 1, 0)])])
    }

    pub fn advance(&mut self, by_ms: u64) {
        self.now_ms += by_ms;
        self.run(Command::AdvanceTime).expect("time passes");
    }

    /// What a unit puts out; `lie` 0 is the honest result.
    pub fn result(&self, job: JobId, unit: u64, lie: u8) -> OutputCommitment {
        let spec = &self.state.jobs()[&job].spec;
        let place = spec.place(unit);
        let settled = spec.first_unit(place.iteration.min(self.settles_at), place.stage) + place.index;
        output(job, settled, lie)
    }

    /// What a shell does with comparisons: here, outputs agree when they are equal. What a program says of its outputs holds
    /// for honest ones.
    pub fn judge(&mut self) {
        for look in self.state.looks(100) {
            let honest = |unit: &LookUnit| unit.outputs == [self.result(look.job, unit.unit, 0)];
            let agrees = look.units.iter().all(honest);
            let (check, evidence) = (look.check, "looked at".into());
            match self.run(Command::RecordOpinion { check, agrees, evidence }) {
                Ok(_) | Err(Rejection::CheckNotPending(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
        for comparison in self.state.comparisons(100) {
            let agrees = comparison.pairs.is_empty();
            let (check, evidence) = (comparison.check, "compared".into());
            match self.run(Command::RecordOpinion { check, agrees, evidence }) {
                // An earlier opinion of this round may have settled the package.
                Ok(_) | Err(Rejection::CheckNotPending(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Lets workers take and honestly finish work until every job has ended. Fails when nothing moves any more.
    pub fn finish(&mut self, workers: &[PublicKey]) {
        for _ in 0..10_000 {
            if self.state.jobs().values().all(|job| job.state.ended()) {
                return;
            }
            for worker in workers {
                let gone = self.state.workers().get(worker).is_none_or(|w| w.gone.is_some() || w.draining);
                if gone {
                    let leave = Command::Leave { worker: *worker, instance: "one".into(), drain: false };
                    let _ = self.run(leave);
                    self.announce(*worker);
                }
                let held: Vec<_> = self.state.workers()[worker].leases.iter().copied().collect();
                for lease in held.into_iter().chain(self.lease(*worker, 4)) {
                    // One commitment may settle a package and end another lease.
                    if self.state.leases().contains_key(&lease) {
                        self.commit(lease, 0).expect("an honest receipt for an active lease is taken");
                    }
                }
                self.judge();
            }
            self.advance(700);
        }
        let reasons: BTreeMap<_, _> =
            self.state.jobs().keys().map(|job| (*job, self.state.job_reason(*job, self.now_ms))).collect();
        panic!("jobs stall: {reasons:?}");
    }

    pub fn check_of(&self, lease: LeaseId) -> Option<CheckId> {
        match self.state.leases()[&lease].work {
            Work::Check { check } => Some(check),
            Work::Package { .. } => None,
        }
    }
}
