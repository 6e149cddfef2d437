//! Events as the first journals hold them: encoding version 1.
//!
//! Frozen: [`read`] is all that may be done with them. A fact of that time becomes the event of today that means the same, so
//! that the rules know one form only. `tests/vectors/journal-v1.json` pins the bytes. Enumerations that only ever grow at
//! their end ([`Work`], [`Policy`], [`EndCause`] and the like) are shared with today's events.

use std::io;

use borsh::BorshDeserialize;
use protocol::{
    Amount, CheckId, DeviceFacts, Hash, InputSplit, JobId, LeaseId, OutputCommitment, PackageId, PublicKey,
    Receipt, Signature, UnitRun, manifest::JobKind,
};

use crate::{EndCause, Event, LeaveCause, Params, Policy, Stage, StageInput, Verdict, Work};

/// Reads one event and leaves `bytes` after it.
///
/// # Errors
///
/// If the bytes are not an event of that version.
pub fn read(bytes: &mut &[u8]) -> io::Result<Event> {
    Old::deserialize(bytes).map(Event::from)
}

#[derive(BorshDeserialize)]
enum Old {
    Founded {
        market: PublicKey,
        params: Params,
    },
    Deposited {
        account: PublicKey,
        amount: Amount,
        key: Option<Hash>,
    },
    SessionDelegated {
        wallet: PublicKey,
        session: PublicKey,
        expires_at_ms: u64,
    },
    JobSubmitted {
        job: JobId,
        owner: PublicKey,
        spec: OldSpec,
        escrow: Amount,
        key: Option<(Hash, Hash)>,
    },
    WorkerAnnounced {
        worker: PublicKey,
        owner: PublicKey,
        instance: String,
        device: DeviceFacts,
        version: String,
    },
    WorkerSeen {
        worker: PublicKey,
        renewed: Vec<LeaseId>,
    },
    WorkerDraining {
        worker: PublicKey,
    },
    WorkerLeft {
        worker: PublicKey,
        cause: LeaveCause,
    },
    LeaseGranted {
        lease: LeaseId,
        worker: PublicKey,
        work: Work,
        generation: u32,
        deadline_ms: u64,
        deadline_ms_max: u64,
    },
    LeaseEnded {
        lease: LeaseId,
        cause: EndCause,
    },
    ReceiptCommitted {
        receipt: Receipt,
        signature: Signature,
        outputs: Vec<Vec<OutputCommitment>>,
        work: Work,
    },
    ChecksDrawn {
        package: PackageId,
        draw: Hash,
        checks: Vec<CheckPlan>,
    },
    CheckDecided {
        check: CheckId,
        agrees: bool,
        evidence: String,
    },
    CheckPaid {
        check: CheckId,
        pay: Split,
    },
    PackageAccepted {
        package: PackageId,
        pay: Split,
    },
    PackageRejected {
        package: PackageId,
        verdict: Verdict,
    },
    UnitsParked {
        job: JobId,
        run: UnitRun,
        why: String,
    },
    JobEnded {
        job: JobId,
        end: JobEnd,
        refund: Amount,
    },
    Resumed,
}

#[derive(BorshDeserialize)]
enum JobEnd {
    Done,
    Cancelled,
    Incomplete { why: String },
}

#[derive(BorshDeserialize)]
struct OldSpec {
    name: String,
    kind: JobKind,
    manifest: Hash,
    inputs: Vec<InputSplit>,
    joins_json: String,
    units: u64,
    unit_price: Amount,
    package_units: Option<u32>,
    time_ms_max: u64,
    requirements: Requirements,
    outputs_exact: Vec<bool>,
    policy: Policy,
}

#[derive(BorshDeserialize)]
struct Requirements {
    storage_buffer_bytes: u64,
    memory_bytes: u64,
    storage_buffers: u32,
    features: Vec<String>,
}

#[derive(BorshDeserialize)]
struct CheckPlan {
    check: CheckId,
    units: Vec<u64>,
    verifier_only: bool,
    tie_of: Option<CheckId>,
}

#[derive(BorshDeserialize)]
struct Split {
    provider: Amount,
    treasury: Amount,
    burn: Amount,
}

impl From<OldSpec> for crate::JobSpec {
    fn from(old: OldSpec) -> Self {
        let needs = old.requirements;
        Self {
            name: old.name,
            kind: old.kind,
            priority: Default::default(),
            deadline_ms: None,
            royalty: None,
            attempts_max: None,
            joins_json: old.joins_json,
            stages: vec![Stage {
                name: String::new(),
                manifest: old.manifest,
                inputs: old.inputs.into_iter().map(StageInput::Blob).collect(),
                units: old.units,
                unit_price: old.unit_price,
                package_units: old.package_units,
                time_ms_max: old.time_ms_max,
                requirements: crate::Requirements {
                    storage_buffer_bytes: needs.storage_buffer_bytes,
                    memory_bytes: needs.memory_bytes,
                    storage_buffers: needs.storage_buffers,
                    features: needs.features,
                },
                output_bytes: Vec::new(),
                outputs_exact: old.outputs_exact,
                policy: old.policy,
                work: Default::default(),
                devices: 1,
                replicas: 1,
            }],
            iterate: None,
        }
    }
}

impl From<JobEnd> for crate::JobEnd {
    fn from(end: JobEnd) -> Self {
        match end {
            JobEnd::Done => Self::Done,
            JobEnd::Cancelled => Self::Cancelled,
            JobEnd::Incomplete { why } => Self::Incomplete { cause: crate::Shortfall::Parked, why },
        }
    }
}

impl From<Split> for crate::Split {
    fn from(Split { provider, treasury, burn }: Split) -> Self {
        Self { provider, royalty: Amount::ZERO, treasury, burn }
    }
}

impl From<Old> for Event {
    fn from(old: Old) -> Self {
        match old {
            Old::Founded { market, params } => Self::Founded { market, params },
            Old::Deposited { account, amount, key } => Self::Deposited { account, amount, key },
            Old::SessionDelegated { wallet, session, expires_at_ms } => {
                Self::SessionDelegated { wallet, session, expires_at_ms }
            }
            Old::JobSubmitted { job, owner, spec, escrow, key } => {
                Self::JobSubmitted { job, owner, spec: spec.into(), escrow, expected_ms: None, key }
            }
            Old::WorkerAnnounced { worker, owner, instance, device, version } => {
                Self::WorkerAnnounced { worker, owner, instance, device, version, offer: Default::default() }
            }
            Old::WorkerSeen { worker, renewed } => Self::WorkerSeen { worker, renewed },
            Old::WorkerDraining { worker } => Self::WorkerDraining { worker },
            Old::WorkerLeft { worker, cause } => Self::WorkerLeft { worker, cause },
            Old::LeaseGranted { lease, worker, work, generation, deadline_ms, deadline_ms_max } => {
                Self::LeaseGranted { lease, worker, work, generation, deadline_ms, deadline_ms_max }
            }
            Old::LeaseEnded { lease, cause } => Self::LeaseEnded { lease, cause },
            Old::ReceiptCommitted { receipt, signature, outputs, work } => {
                Self::ReceiptCommitted { receipt, signature, outputs, work }
            }
            Old::ChecksDrawn { package, draw, checks } => {
                let plan = |CheckPlan { check, units, verifier_only, tie_of }| crate::CheckPlan {
                    check,
                    units,
                    verifier_only,
                    tie_of,
                };
                Self::ChecksDrawn { package, draw, checks: checks.into_iter().map(plan).collect() }
            }
            Old::CheckDecided { check, agrees, evidence } => Self::CheckDecided { check, agrees, evidence },
            Old::CheckPaid { check, pay } => Self::CheckPaid { check, pay: pay.into() },
            Old::PackageAccepted { package, pay } => Self::PackageAccepted { package, pay: pay.into() },
            Old::PackageRejected { package, verdict } => Self::PackageRejected { package, verdict },
            Old::UnitsParked { job, run, why } => Self::UnitsParked { job, run, why, failures: Vec::new() },
            Old::JobEnded { job, end, refund } => Self::JobEnded { job, end: end.into(), refund },
            Old::Resumed => Self::Resumed,
        }
    }
}
