//! A network's commands, given to the bare engine: no HTTP, no disk, one core, and only the time that
//! the thread computes is counted.

use engine::{
    Answer, Command, Event, JobSpec, Params, Policy, Requirements, Stage, State, Submission, decide,
};
use protocol::{
    Amount, DeviceFacts, Hash, LeaseId, OutputCommitment, PublicKey, Receipt, Signature, UnitLeaf,
    manifest::JobKind, package_root,
};

/// Commands that share a millisecond.
const COMMANDS_PER_MS: u64 = 100;

/// A market's state, and the events that were decided since somebody took them.
pub struct Network {
    pub state: State,
    /// Of the last decision.
    pub now_ms: u64,
    pub decisions: u64,
    /// Kept only where they are wanted.
    pub events: Option<Vec<Event>>,
    output: OutputCommitment,
}

/// Parameters under which nobody is taken for gone however slowly the benchmark's clock goes.
pub fn patient() -> Params {
    Params { heartbeat_ms_max: 1 << 40, lease_ms: 1 << 40, ..Params::default() }
}

/// A key made of a number.
pub fn key(number: u64) -> PublicKey {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    PublicKey(key)
}

impl Network {
    /// A new market.
    pub fn found(params: Params) -> Self {
        Self::of(State::found(PublicKey([255; 32]), params, 0).expect("safe parameters").0, 0)
    }

    /// A market that exists.
    pub fn of(state: State, now_ms: u64) -> Self {
        Self { state, now_ms, decisions: 0, events: None, output: OutputCommitment::of(b"done") }
    }

    /// Decides a command of which the benchmark knows that it is allowed.
    pub fn run(&mut self, command: Command) -> Answer {
        self.decisions += 1;
        if self.decisions.is_multiple_of(COMMANDS_PER_MS) {
            self.now_ms += 1;
        }
        let decision = decide(&mut self.state, self.now_ms, command);
        let decision = decision.expect("every command of the benchmark is valid");
        if let Some(events) = &mut self.events {
            events.extend(decision.events);
        }
        decision.answer
    }

    pub fn deposit(&mut self, account: PublicKey) {
        self.run(Command::Deposit { account, amount: Amount(1 << 50), key: None });
    }

    pub fn announce(&mut self, worker: PublicKey, device: DeviceFacts) {
        let (instance, version, offer) = ("one".to_owned(), "bench".to_owned(), Default::default());
        self.run(Command::Announce { worker, instance, device, version, offer });
    }

    /// Submits a job of units that do nothing.
    pub fn submit(&mut self, owner: PublicKey, units: u64, package_units: u32, requirements: Requirements) {
        let stage = Stage {
            name: String::new(),
            manifest: Hash::of(b"manifest"),
            inputs: vec![],
            units,
            unit_price: Amount(1_000),
            package_units: Some(package_units),
            time_ms_max: 1_000,
            requirements,
            outputs_exact: vec![true],
            output_bytes: vec![],
            policy: Policy::Audit { rate_min_ppm: 0 },
            work: Default::default(),
            devices: 1,
            replicas: 1,
        };
        let spec = JobSpec::plain("no-op".into(), JobKind::Batch, "[]".into(), stage);
        self.run(Command::Submit(
            Submission {
                owner,
                spec,
                quoted: vec![],
                budget: None,
                key: None,
                canaries: vec![],
                sealed: None,
            }
            .into(),
        ));
    }

    pub fn heartbeat(&mut self, worker: PublicKey) {
        self.run(Command::Heartbeat { worker, instance: "one".into(), leases: vec![] });
    }

    /// Asks for a package; there may be none for this worker.
    pub fn lease(&mut self, worker: PublicKey) -> Option<LeaseId> {
        let request =
            Command::RequestLeases { worker, instance: "one".into(), packages_max: 1, others_only: false };
        let Answer::Leases(leases) = self.run(request) else { unreachable!("leases were asked for") };
        leases.first().copied()
    }

    /// Commits to all units of a lease.
    pub fn commit(&mut self, worker: PublicKey, id: LeaseId) {
        let Some(lease) = self.state.leases().get(&id) else { return };
        let (job, generation) = (lease.job, lease.generation);
        let units: Vec<_> = self
            .state
            .lease_units(lease)
            .iter()
            .flat_map(|run| run.units())
            .map(|unit| (unit, vec![self.output]))
            .collect();
        let leaves: Vec<_> =
            units.iter().map(|(unit, outputs)| UnitLeaf::done(job, *unit, outputs.clone())).collect();
        let receipt = Receipt {
            market: self.state.market(),
            lease: id,
            generation,
            worker,
            job,
            units: units.len() as u32,
            package_root: package_root(&leaves),
            adapter: "bench".into(),
            started_at_ms: 0,
            device_us: 1,
            total_us: 1,
        };
        let seed = receipt.digest();
        self.run(Command::Commit { receipt: receipt.into(), signature: Signature([0; 64]), units, seed });
    }

    /// Whether every job has ended.
    pub fn idle(&self) -> bool {
        self.state.jobs().values().all(|job| job.state.ended())
    }
}
