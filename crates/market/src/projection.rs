//! What each event changes outside the engine: rows of the read model, and the jobs and workers that watchers should see
//! again.
//!
//! Events name packages, checks and leases; rows name jobs, accounts and workers. The projection remembers just enough of the
//! events before to translate, so that it is a fold of the journal of its own and needs no access to the state.

use std::collections::{BTreeSet, HashMap};

use engine::{
    Check, CheckState, Event, JobEnd, JobSpec, JobState, Outcome, PackageState, Split, State, Work,
};
use protocol::{CheckId, JobId, LeaseId, PackageId, PublicKey, UnitRun, VerdictId};
use store::{Batch, JobRow, Movement, MovementKind, Trace, VerdictChange, VerdictRow, WorkerRow};

use crate::view;

/// Translates events in journal order.
#[derive(Debug, Default, PartialEq)]
pub struct Projection {
    owners: HashMap<PublicKey, PublicKey>,
    jobs: HashMap<JobId, OpenJob>,
    leases: HashMap<LeaseId, Held>,
    packages: HashMap<PackageId, OpenPackage>,
    /// Checks of packages that are not committed yet.
    replicas: HashMap<PackageId, Vec<CheckId>>,
    checks: HashMap<CheckId, OpenCheck>,
    verdicts: HashMap<VerdictId, OpenVerdict>,
}

/// A verdict that is not final.
#[derive(Debug, PartialEq)]
struct OpenVerdict {
    package: PackageId,
    job: JobId,
    worker: PublicKey,
    owner: PublicKey,
    checks: Vec<CheckId>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct OpenJob {
    owner: PublicKey,
    royalty: Option<PublicKey>,
}

impl OpenJob {
    fn of(owner: PublicKey, spec: &JobSpec) -> Self {
        Self { owner, royalty: spec.royalty.map(|royalty| royalty.account) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Held {
    job: JobId,
    worker: PublicKey,
    work: Work,
}

#[derive(Debug, PartialEq)]
struct OpenPackage {
    job: JobId,
    worker: PublicKey,
    checks: Vec<CheckId>,
}

#[derive(Debug, PartialEq)]
struct OpenCheck {
    package: PackageId,
    job: JobId,
    worker: Option<PublicKey>,
}

/// What a stretch of events changed.
#[derive(Default)]
pub struct Changes {
    /// Rows to write.
    pub batch: Batch,
    /// Jobs to show again.
    pub jobs: BTreeSet<JobId>,
    /// Workers to show again.
    pub workers: BTreeSet<PublicKey>,
    /// Movements of money, oldest first.
    pub movements: Vec<Movement>,
}

impl Changes {
    fn trace(&mut self, package: PackageId, seq: u64, job: JobId, run: Option<UnitRun>) {
        self.batch.trace(Trace { package, seq, job, run });
    }

    fn moved(&mut self, movement: Movement) {
        self.batch.movement(movement);
        self.movements.push(movement);
    }
}

impl Projection {
    /// What is remembered of the events that made `state`.
    pub fn of(state: &State) -> Self {
        let leases = state.leases().iter();
        let packages = state.packages().iter().filter_map(|(id, package)| match &package.state {
            PackageState::Leased(_) => None,
            PackageState::Committed { worker, checks, .. } => {
                Some((*id, OpenPackage { job: package.job, worker: *worker, checks: checks.clone() }))
            }
        });
        let maker = |check: &Check| match check.state {
            CheckState::Early { worker, .. } | CheckState::Comparing { worker, .. } => Some(worker),
            CheckState::Decided { worker, .. } => worker,
            CheckState::Waiting
            | CheckState::Leased(_)
            | CheckState::Looking { .. }
            | CheckState::Undecided => None,
        };
        let checks = state.checks().iter();
        Self {
            owners: state.workers().iter().map(|(key, worker)| (*key, worker.owner)).collect(),
            jobs: state
                .jobs()
                .iter()
                .filter(|(_, j)| !matches!(j.state, JobState::Done | JobState::Cancelled))
                .map(|(id, j)| (*id, OpenJob::of(j.owner, &j.spec)))
                .collect(),
            leases: leases
                .map(|(id, lease)| (*id, Held { job: lease.job, worker: lease.worker, work: lease.work }))
                .collect(),
            packages: packages.collect(),
            replicas: state
                .packages()
                .iter()
                .filter(|(_, package)| !package.replicas.is_empty())
                .map(|(id, package)| (*id, package.replicas.clone()))
                .collect(),
            checks: checks
                .map(|(id, c)| (*id, OpenCheck { package: c.package, job: c.job, worker: maker(c) }))
                .collect(),
            verdicts: state
                .verdicts()
                .iter()
                .map(|(id, v)| {
                    let checks = v.appeal.as_ref().map_or(vec![], |appeal| appeal.checks.clone());
                    let (package, job, worker, owner) = (v.package, v.job, v.worker, v.owner);
                    (*id, OpenVerdict { package, job, worker, owner, checks })
                })
                .collect(),
        }
    }

    /// Folds one event and adds what it changes.
    pub fn take(&mut self, seq: u64, at_ms: u64, event: &Event, changes: &mut Changes) {
        let movement = |kind, account, amount| Movement {
            seq,
            part: 0,
            at_ms,
            kind,
            account,
            job: None,
            package: None,
            worker: None,
            amount,
            treasury: protocol::Amount::ZERO,
            burned: protocol::Amount::ZERO,
        };
        match event {
            Event::Deposited { account, amount, .. } => {
                changes.moved(movement(MovementKind::Deposit, *account, *amount));
            }
            Event::JobSubmitted { job, owner, spec, escrow, .. } => {
                self.jobs.insert(*job, OpenJob::of(*owner, spec));
                changes.jobs.insert(*job);
                changes.batch.job(JobRow {
                    id: *job,
                    owner: *owner,
                    name: spec.name.clone(),
                    units: spec.units(),
                    submitted_at_ms: at_ms,
                    ended: None,
                    archive: None,
                });
                let escrowed = movement(MovementKind::Escrow, *owner, *escrow);
                changes.moved(Movement { job: Some(*job), ..escrowed });
            }
            Event::JobPaused { job, .. } | Event::JobOverdue { job } | Event::IterationsEnded { job, .. } => {
                changes.jobs.insert(*job);
            }
            Event::JobResumed { job, owner, escrow, .. } => {
                // Its row keeps how it ended the last time until it ends again.
                changes.jobs.insert(*job);
                let escrowed = movement(MovementKind::Escrow, *owner, *escrow);
                changes.moved(Movement { job: Some(*job), ..escrowed });
            }
            Event::JobEnded { job, end, refund } => {
                changes.jobs.insert(*job);
                let how = match end {
                    JobEnd::Done => 0,
                    JobEnd::Cancelled => 1,
                    JobEnd::Incomplete { .. } => 2,
                };
                changes.batch.job_ended(*job, how, at_ms);
                // Kept as long as it may go on: its royalty is not named again then.
                let open = match end {
                    JobEnd::Incomplete { .. } => self.jobs.get(job).copied(),
                    JobEnd::Done | JobEnd::Cancelled => self.jobs.remove(job),
                };
                if let Some(OpenJob { owner, .. }) = open.filter(|_| refund.0 > 0) {
                    let refunded = movement(MovementKind::Refund, owner, *refund);
                    changes.moved(Movement { job: Some(*job), ..refunded });
                }
            }
            Event::WorkerAnnounced { worker, owner, device, .. } => {
                self.owners.insert(*worker, *owner);
                changes.workers.insert(*worker);
                changes.batch.worker(WorkerRow {
                    id: *worker,
                    owner: *owner,
                    adapter: device.adapter.clone(),
                    announced_at_ms: at_ms,
                });
            }
            Event::WorkerSeen { worker, .. }
            | Event::WorkerDraining { worker }
            | Event::WorkerLeft { worker, .. } => {
                changes.workers.insert(*worker);
            }
            Event::LeaseGranted { lease, worker, work, .. } => {
                changes.workers.insert(*worker);
                let job = match work {
                    Work::Package { job, .. } => Some(*job),
                    Work::Check { check } => self.job_of(*check),
                };
                if let Some(job) = job {
                    changes.jobs.insert(job);
                    self.leases.insert(*lease, Held { job, worker: *worker, work: *work });
                }
            }
            Event::LeaseSplit { lease, units, rest, package, .. } => {
                if let Some(held) = self.leases.get_mut(lease)
                    && let Work::Package { job, run, .. } = &mut held.work
                {
                    let (head, tail) = run.split(*units);
                    *run = head;
                    let work = Work::Package { package: *package, job: *job, run: tail };
                    let held = Held { work, ..*held };
                    self.leases.insert(*rest, held);
                }
            }
            Event::YieldAsked { lease, .. } => {
                changes.workers.extend(self.leases.get(lease).map(|held| held.worker));
            }
            Event::DevicesReserved { job, members, .. } => {
                changes.jobs.insert(*job);
                changes.workers.extend(members);
            }
            Event::LeasesOffered { .. } | Event::LeasesFetched { .. } => {}
            Event::LeaseEnded { lease, .. } => {
                if let Some(Held { job, worker, work }) = self.leases.remove(lease) {
                    changes.jobs.insert(job);
                    changes.workers.insert(worker);
                    if let Work::Package { package, .. } = work {
                        for check in self.replicas.remove(&package).unwrap_or_default() {
                            self.checks.remove(&check);
                        }
                    }
                }
            }
            Event::ReplicasPlanned { package, job, checks } => {
                changes.trace(*package, seq, *job, None);
                for plan in checks {
                    self.replicas.entry(*package).or_default().push(plan.check);
                    let open = OpenCheck { package: *package, job: *job, worker: None };
                    self.checks.insert(plan.check, open);
                }
            }
            Event::PackagePassedOn { lease, check, .. } => {
                let (Some(held), Some(made)) = (self.leases.remove(lease), self.checks.remove(check)) else {
                    return;
                };
                changes.jobs.insert(held.job);
                changes.workers.insert(held.worker);
                let mut checks = self.replicas.remove(&made.package).unwrap_or_default();
                checks.retain(|other| other != check);
                if let Work::Package { run, .. } = held.work {
                    changes.trace(made.package, seq, held.job, made.worker.map(|_| run));
                }
                if let Some(worker) = made.worker {
                    self.packages.insert(made.package, OpenPackage { job: held.job, worker, checks });
                    return;
                }
                if !checks.is_empty() {
                    self.replicas.insert(made.package, checks);
                }
                let making = Work::Check { check: *check };
                if let Some(next) = self.leases.values_mut().find(|next| next.work == making) {
                    next.work = held.work;
                }
            }
            Event::ReceiptCommitted { receipt, work, .. } => {
                self.leases.remove(&receipt.lease);
                changes.jobs.insert(receipt.job);
                changes.workers.insert(receipt.worker);
                match work {
                    Work::Package { package, job, run } => {
                        changes.trace(*package, seq, *job, Some(*run));
                        let checks = self.replicas.remove(package).unwrap_or_default();
                        let open = OpenPackage { job: *job, worker: receipt.worker, checks };
                        self.packages.insert(*package, open);
                    }
                    Work::Check { check } => {
                        if let Some(open) = self.checks.get_mut(check) {
                            changes.trace(open.package, seq, open.job, None);
                            open.worker = Some(receipt.worker);
                        }
                    }
                }
            }
            Event::ChecksDrawn { package, checks, .. } => {
                if let Some(open) = self.packages.get_mut(package) {
                    changes.jobs.insert(open.job);
                    for plan in checks {
                        open.checks.push(plan.check);
                        let open_check = OpenCheck { package: *package, job: open.job, worker: None };
                        self.checks.insert(plan.check, open_check);
                    }
                }
            }
            Event::LookUndecided { check, .. } => changes.jobs.extend(self.job_of(*check)),
            Event::LooksPlanned { package, looks } => {
                if let Some(open) = self.packages.get_mut(package) {
                    for look in looks {
                        open.checks.push(look.check);
                        let open_check = OpenCheck { package: *package, job: open.job, worker: None };
                        self.checks.insert(look.check, open_check);
                    }
                }
            }
            Event::CheckDecided { check, .. } => {
                if let Some(open) = self.checks.get(check) {
                    changes.jobs.insert(open.job);
                    changes.trace(open.package, seq, open.job, None);
                }
            }
            Event::CheckPaid { check, pay } => {
                let Some(OpenCheck { package, worker: Some(worker), .. }) = self.checks.get(check) else {
                    return;
                };
                let job = self.job_of(*check);
                changes.jobs.extend(job);
                changes.workers.insert(*worker);
                let paid = movement(MovementKind::Check, self.owner(*worker), pay.provider);
                changes.moved(settled(paid, job, *package, *worker, pay));
            }
            Event::PackageAccepted { package, pay } => {
                let Some(open) = self.close(*package) else { return };
                // Without checks it is accepted together with its receipt.
                if !open.checks.is_empty() {
                    changes.trace(*package, seq, open.job, None);
                }
                changes.jobs.insert(open.job);
                changes.workers.insert(open.worker);
                let paid = movement(MovementKind::Work, self.owner(open.worker), pay.provider);
                changes.moved(settled(paid, Some(open.job), *package, open.worker, pay));
                let royalty = self.jobs.get(&open.job).and_then(|job| job.royalty);
                if let Some(account) = royalty.filter(|_| pay.royalty.0 > 0) {
                    let royalty = movement(MovementKind::Royalty, account, pay.royalty);
                    let (job, package, worker) = (Some(open.job), Some(*package), Some(open.worker));
                    changes.moved(Movement { part: 1, job, package, worker, ..royalty });
                }
            }
            Event::PackageRejected { package, .. } => {
                if let Some(open) = self.close(*package) {
                    changes.trace(*package, seq, open.job, None);
                    changes.jobs.insert(open.job);
                    changes.workers.insert(open.worker);
                }
            }
            Event::VerdictReached { verdict, package, job, worker, owner, .. } => {
                changes.jobs.insert(*job);
                changes.workers.insert(*worker);
                let told = view::reached(event, at_ms);
                changes.batch.verdict(VerdictRow {
                    id: *verdict,
                    job: *job,
                    worker: *worker,
                    owner: *owner,
                    at_ms,
                    reached: serde_json::to_string(&told).expect("a verdict has a JSON form"),
                    change: VerdictChange::default(),
                });
                self.verdicts.insert(
                    *verdict,
                    OpenVerdict {
                        package: *package,
                        job: *job,
                        worker: *worker,
                        owner: *owner,
                        checks: vec![],
                    },
                );
            }
            Event::VerdictContested { verdict, deposit, checks, until_ms, .. } => {
                let told = view::contested(at_ms, *deposit, *until_ms);
                let contested = serde_json::to_string(&told).expect("an appeal has a JSON form");
                changes.batch.verdict_changed(
                    *verdict,
                    VerdictChange { state: 1, contested, ..VerdictChange::default() },
                );
                if let Some(open) = self.verdicts.get_mut(verdict) {
                    for plan in checks {
                        open.checks.push(plan.check);
                        let check = OpenCheck { package: open.package, job: open.job, worker: None };
                        self.checks.insert(plan.check, check);
                    }
                }
            }
            Event::VerdictClosed { verdict, outcome, opinions, closing } => {
                let told = view::closing(at_ms, *outcome, opinions, closing);
                let state = match outcome {
                    Outcome::Uncontested => 0,
                    Outcome::Upheld | Outcome::Unexamined => 2,
                    Outcome::Overturned => 3,
                };
                let closed = serde_json::to_string(&told).expect("a closing has a JSON form");
                changes
                    .batch
                    .verdict_changed(*verdict, VerdictChange { state, closed, ..VerdictChange::default() });
                let Some(open) = self.verdicts.remove(verdict) else { return };
                for check in &open.checks {
                    self.checks.remove(check);
                }
                changes.workers.insert(open.worker);
                let mut part = 0;
                let mut paid = |kind, account, worker, pay: &Split| {
                    if pay.total().0 > 0 {
                        changes.workers.insert(worker);
                        let paid = movement(kind, account, pay.provider);
                        let paid = settled(paid, Some(open.job), open.package, worker, pay);
                        changes.moved(Movement { part, ..paid });
                        part += 1;
                    }
                };
                for (worker, owner, pay) in &closing.pays {
                    paid(MovementKind::Check, *owner, *worker, pay);
                }
                let compensation = Split { provider: closing.compensation, ..Split::default() };
                paid(MovementKind::Work, open.owner, open.worker, &compensation);
            }
            Event::UnitsParked { job, .. } => {
                changes.jobs.insert(*job);
            }
            Event::WorkerRated { job, worker, .. } => {
                changes.jobs.insert(*job);
                changes.workers.insert(*worker);
            }
            Event::ClaimRefuted { worker, .. } => {
                changes.workers.insert(*worker);
            }
            Event::SealingKeyGiven { signed } => {
                changes.workers.insert(signed.record.worker);
            }
            Event::ProvidersReserved { recipients, .. } => {
                changes.workers.extend(recipients.iter().map(|recipient| recipient.worker));
            }
            Event::JobSealed { job, .. } => {
                changes.jobs.insert(*job);
            }
            Event::ReservationEnded { .. } => {}
            Event::JobArchived { job, archive } => {
                self.jobs.remove(job);
                changes.batch.job_archived(*job, *archive);
            }
            Event::Bonded { account, amount } => {
                changes.moved(movement(MovementKind::Bond, *account, *amount));
            }
            Event::Unbonded { account, amount, .. } => {
                changes.moved(movement(MovementKind::Unbond, *account, *amount));
            }
            Event::EpochClosed { shares, .. } => {
                for (part, (account, amount)) in (0..).zip(shares) {
                    changes.moved(Movement { part, ..movement(MovementKind::Reward, *account, *amount) });
                }
            }
            // It moves nothing that can be spent.
            Event::Unbonding { .. } | Event::PayReleased { .. } | Event::ParamsSet { .. } => {}
            // Nobody but the engine is to know them.
            Event::CanariesSet { .. } => {}
            Event::Founded { .. }
            | Event::SessionDelegated { .. }
            | Event::Resumed
            | Event::ChallengesAnchored { .. } => {}
        }
    }

    fn owner(&self, worker: PublicKey) -> PublicKey {
        self.owners.get(&worker).copied().unwrap_or(worker)
    }

    fn job_of(&self, check: CheckId) -> Option<JobId> {
        Some(self.checks.get(&check)?.job)
    }

    fn close(&mut self, package: PackageId) -> Option<OpenPackage> {
        let open = self.packages.remove(&package)?;
        for check in &open.checks {
            self.checks.remove(check);
        }
        Some(open)
    }
}

fn settled(
    paid: Movement,
    job: Option<JobId>,
    package: PackageId,
    worker: PublicKey,
    pay: &Split,
) -> Movement {
    Movement {
        job,
        package: Some(package),
        worker: Some(worker),
        treasury: pay.treasury,
        burned: pay.burn,
        ..paid
    }
}
