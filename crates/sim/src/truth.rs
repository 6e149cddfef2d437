//! What the simulator knows and the market does not: which results are right. It reads the durable events and counts.

use std::collections::{BTreeMap, BTreeSet};

use engine::{Event, JobEnd, JobSpec, JobState, Shortfall, State, Work};
use protocol::{CheckId, Hash, JobId, LeaseId, OutputCommitment, PackageId, PublicKey, UnitRun};

use crate::{
    chance::mixed,
    report::{JobCounts, UnitCounts},
};

/// How a provider behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nature {
    Honest,
    /// Returns wrong results of its own.
    Cheat,
    /// Returns the same wrong results as the others of its ring.
    Colluder {
        ring: u64,
    },
    /// Answers checks late.
    Lazy,
    /// Claims ten times its speed.
    Boaster,
}

impl Nature {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::Cheat => "cheat",
            Self::Colluder { .. } => "colluder",
            Self::Lazy => "lazy",
            Self::Boaster => "boaster",
        }
    }

    /// What a provider makes of a unit: 0 is the right result, every other number another wrong one.
    pub(crate) fn lie(self, provider: usize, job: JobId, unit: u64, lie_ppm: u32) -> u64 {
        let liar = match self {
            Self::Honest | Self::Lazy | Self::Boaster => return 0,
            Self::Cheat => provider as u64 + 1,
            Self::Colluder { ring } => ring + (1 << 32),
        };
        if mixed(&[liar, job.0, unit]) % 1_000_000 < u64::from(lie_ppm) { liar } else { 0 }
    }
}

/// The commitment to a result. Its hash is made of what it stands for, which the market cannot know.
pub(crate) fn output(job: JobId, unit: u64, lie: u64, variant: u64) -> OutputCommitment {
    let mut blob = [0; 32];
    for (place, number) in blob.chunks_exact_mut(8).zip([job.0, unit, lie, variant]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    OutputCommitment { blob: Hash(blob), length: 64, chunk_root: Hash(blob) }
}

/// The lie in a blob.
pub(crate) fn lie_of(blob: &Hash) -> u64 {
    u64::from_le_bytes(blob.0[16..24].try_into().expect("eight bytes"))
}

/// One job as its owner sees it.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) stream: usize,
    /// As asked for; with its prices once they are settled.
    pub(crate) spec: JobSpec,
    /// Reference time of a unit of each stage, in the middle.
    pub(crate) unit_us: Vec<u64>,
    /// The iteration, from 0, that changes nothing any more, if there is one.
    pub(crate) settles: Option<u64>,
    pub(crate) submitted_us: u64,
    /// Whether the client gave up, because the deadline passed before anybody took the order.
    pub(crate) given_up: bool,
    pub(crate) id: Option<JobId>,
    pub(crate) first_lease_us: Option<u64>,
    pub(crate) ended_us: Option<u64>,
}

impl Order {
    /// The unit whose outputs a unit's are the same as: its own, or once a loop has settled that of the iteration before.
    pub(crate) fn stands_for(&self, unit: u64) -> u64 {
        let each = self.spec.iteration_units();
        match self.settles {
            Some(settles) if unit / each >= settles => (settles - 1) * each + unit % each,
            _ => unit,
        }
    }
}

/// A provider by its key.
#[derive(Clone, Copy, Debug)]
struct Known {
    number: usize,
    nature: Nature,
    /// Reference time of what it executed, packages and checks, in microseconds.
    worked_us: u64,
}

#[derive(Debug)]
struct Committed {
    job: JobId,
    run: UnitRun,
    worker: PublicKey,
    wrong: Vec<u64>,
    /// Units for which a check was drawn.
    drawn: BTreeSet<u64>,
    checks: Vec<CheckId>,
}

/// What a replica computes, or has computed.
#[derive(Debug)]
struct Replica {
    package: PackageId,
    job: JobId,
    run: UnitRun,
    /// Under which it is made, if it is.
    lease: Option<LeaseId>,
    /// Who made it and which of its results are wrong, if it is made before the package is committed.
    made: Option<(PublicKey, Vec<u64>)>,
}

/// What happened, seen by somebody who knows what is right.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) orders: Vec<Order>,
    by_key: BTreeMap<Hash, usize>,
    by_id: BTreeMap<JobId, usize>,
    pub(crate) open: BTreeSet<JobId>,
    paused: BTreeSet<JobId>,
    pub(crate) ended: usize,
    committed: BTreeMap<PackageId, Committed>,
    /// Leases granted for units that run at the same time, in the decision that is being looked at.
    gang: Vec<LeaseId>,
    /// Reference time of checks of unsettled packages, in microseconds.
    drawn: BTreeMap<CheckId, u64>,
    /// Checks that do not wait for their package's receipt, until it is committed or lost.
    replicas: BTreeMap<CheckId, Replica>,
    leased: BTreeMap<LeaseId, PackageId>,
    providers: BTreeMap<PublicKey, Known>,
    /// Reference time of accepted work, in microseconds, and what it cost its clients, in base units.
    pub(crate) accepted_us: u64,
    pub(crate) accepted_paid: u64,
    /// Durable leases and whose they are, and those with a durable receipt; only where answers could be untrue.
    answers: Option<(BTreeMap<LeaseId, PublicKey>, BTreeSet<LeaseId>)>,
    pub(crate) units: UnitCounts,
    pub(crate) jobs: JobCounts,
    pub(crate) problems: Vec<String>,
}

/// The idempotency key of an order.
pub(crate) fn order_key(index: usize) -> Hash {
    Hash::of_parts(&[b"order", &(index as u64).to_le_bytes()])
}

impl Truth {
    pub(crate) fn remembering(answers: bool) -> Self {
        Self { answers: answers.then(Default::default), ..Self::default() }
    }

    /// Whether a lease is in the journal, as this worker's.
    pub(crate) fn granted(&self, lease: LeaseId, worker: PublicKey) -> bool {
        self.answers.as_ref().is_none_or(|(granted, _)| granted.get(&lease) == Some(&worker))
    }

    /// Whether a lease's receipt is in the journal.
    pub(crate) fn stored(&self, lease: LeaseId) -> bool {
        self.answers.as_ref().is_none_or(|(_, stored)| stored.contains(&lease))
    }

    pub(crate) fn know(&mut self, worker: PublicKey, number: usize, nature: Nature) {
        self.providers.insert(worker, Known { number, nature, worked_us: 0 });
    }

    /// The number of the provider with this key.
    pub(crate) fn provider(&self, worker: PublicKey) -> Option<usize> {
        self.providers.get(&worker).map(|known| known.number)
    }

    /// Reference time of all that a provider executed, in microseconds.
    pub(crate) fn worked_us(&self, worker: PublicKey) -> u64 {
        self.providers.get(&worker).map_or(0, |known| known.worked_us)
    }

    /// Reference time of a unit, in microseconds: three to five quarters of its stage's middle.
    pub(crate) fn unit_us(&self, job: JobId, unit: u64) -> u64 {
        let order = self.order_of(job);
        let middle = order.unit_us[order.spec.place(unit).stage as usize];
        middle * 3 / 4 + mixed(&[job.0, unit]) % (middle / 2 + 1)
    }

    fn lies(&self, worker: &PublicKey) -> bool {
        self.providers.get(worker).is_some_and(|known| !known.nature.lie_free())
    }

    /// Takes in a new order; answers its number.
    pub(crate) fn place(&mut self, order: Order) -> usize {
        let index = self.orders.len();
        self.by_key.insert(order_key(index), index);
        self.orders.push(order);
        index
    }

    pub(crate) fn order_of(&self, job: JobId) -> &Order {
        &self.orders[self.by_id[&job]]
    }

    /// The client of an order that nobody took does not want it any more.
    pub(crate) fn give_up(&mut self, order: usize) {
        if self.orders[order].id.is_none() && !std::mem::replace(&mut self.orders[order].given_up, true) {
            self.ended += 1;
            self.jobs.given_up += 1;
        }
    }

    /// Of these units, the ones whose outputs are wrong.
    fn wrong(run: UnitRun, outputs: &[Vec<OutputCommitment>]) -> Vec<u64> {
        let units = run.units().zip(outputs);
        let wrong = units.filter(|(_, outputs)| outputs.iter().any(|output| lie_of(&output.blob) != 0));
        wrong.map(|(unit, _)| unit).collect()
    }

    fn commit(&mut self, package: PackageId, job: JobId, run: UnitRun, worker: PublicKey, wrong: Vec<u64>) {
        self.units.wrong_committed += wrong.len() as u64;
        // Replicas are checks of every unit.
        let replicas: Vec<_> =
            self.replicas.extract_if(.., |_, replica| replica.package == package).collect();
        let drawn = if replicas.is_empty() { BTreeSet::new() } else { run.units().collect() };
        let checks = replicas.into_iter().map(|(check, _)| check).collect();
        self.committed.insert(package, Committed { job, run, worker, wrong, drawn, checks });
    }

    /// Takes in one durable event. `state` is the state after the event's group.
    pub(crate) fn observe(&mut self, at_us: u64, event: &Event, state: &State) {
        if let Some((granted, stored)) = &mut self.answers {
            match event {
                Event::LeaseGranted { lease, worker, .. } => _ = granted.insert(*lease, *worker),
                Event::LeaseSplit { lease, rest, .. } => {
                    let worker = granted.get(lease).copied();
                    granted.extend(worker.map(|worker| (*rest, worker)));
                }
                Event::ReceiptCommitted { receipt, .. } => _ = stored.insert(receipt.lease),
                _ => {}
            }
        }
        // Units that run at the same time are given out all in one decision, or none is.
        let together = matches!(event, Event::LeaseGranted { .. } | Event::LeasesOffered { .. });
        if !together && !self.gang.is_empty() {
            let alone = std::mem::take(&mut self.gang);
            self.problems.push(format!("{alone:?} were given out without the others that run with them"));
        }
        match event {
            Event::JobSubmitted { job, key, spec, .. } => {
                let (key, _) = key.expect("every order has a key");
                let index = self.by_key[&key];
                if let Some(first) = self.orders[index].id.replace(*job) {
                    self.problems.push(format!("{job} is an order that {first} already is"));
                }
                if std::mem::take(&mut self.orders[index].given_up) {
                    // An answer that was lost: the market had taken it before.
                    self.ended -= 1;
                    self.jobs.given_up -= 1;
                }
                self.orders[index].spec = spec.clone();
                self.by_id.insert(*job, index);
                self.open.insert(*job);
                self.jobs.submitted += 1;
            }
            Event::LeaseGranted { lease, work: Work::Package { job, package, run }, .. } => {
                if self.paused.contains(job) {
                    self.problems.push(format!("{lease} was given out though {job} is paused"));
                }
                let order = &mut self.orders[self.by_id[job]];
                order.first_lease_us.get_or_insert(at_us);
                let stage = order.spec.stage_of(run.first);
                if stage.devices > 1 {
                    self.gang.push(*lease);
                }
                if stage.replicas > 1 {
                    self.leased.insert(*lease, *package);
                }
            }
            Event::LeaseGranted { lease, work: Work::Check { check }, .. } => {
                if let Some(replica) = self.replicas.get_mut(check) {
                    replica.lease = Some(*lease);
                }
            }
            Event::ReplicasPlanned { package, job, checks } => {
                for check in checks {
                    let us = check.units.iter().map(|unit| self.unit_us(*job, *unit)).sum();
                    self.drawn.insert(check.check, us);
                    let run = UnitRun { first: check.units[0], count: check.units.len() as u32 };
                    let replica = Replica { package: *package, job: *job, run, lease: None, made: None };
                    self.replicas.insert(check.check, replica);
                }
            }
            Event::LeaseEnded { lease, .. } => {
                if let Some(lost) = self.leased.remove(lease) {
                    let gone = self.replicas.extract_if(.., |_, replica| replica.package == lost);
                    for (check, _) in gone {
                        self.drawn.remove(&check);
                    }
                }
            }
            Event::PackagePassedOn { check, lease, .. } => {
                self.leased.remove(lease);
                self.drawn.remove(check);
                let replica = self.replicas.remove(check).expect("it was planned");
                self.jobs.passed_on += 1;
                match (replica.made, replica.lease) {
                    (Some((worker, wrong)), _) => {
                        self.commit(replica.package, replica.job, replica.run, worker, wrong);
                    }
                    (None, Some(lease)) => _ = self.leased.insert(lease, replica.package),
                    (None, None) => self.problems.push(format!("{check} goes on, and nobody makes it")),
                }
            }
            Event::ReceiptCommitted { receipt, outputs, work, .. } => {
                self.units.executed += u64::from(receipt.units);
                let worked_us: u64 = match work {
                    Work::Package { job, run, .. } => run.units().map(|unit| self.unit_us(*job, unit)).sum(),
                    Work::Check { check } => self.drawn.get(check).copied().unwrap_or(0),
                };
                if let Some(known) = self.providers.get_mut(&receipt.worker) {
                    known.worked_us += worked_us;
                }
                match *work {
                    Work::Package { package, job, run } => {
                        self.leased.remove(&receipt.lease);
                        self.commit(package, job, run, receipt.worker, Self::wrong(run, outputs));
                    }
                    Work::Check { check } => {
                        if let Some(replica) = self.replicas.get_mut(&check) {
                            replica.made = Some((receipt.worker, Self::wrong(replica.run, outputs)));
                        }
                    }
                }
            }
            Event::ChecksDrawn { package, checks, .. } => {
                let entry = self.committed.get_mut(package).expect("it was committed");
                entry.drawn.extend(checks.iter().flat_map(|check| &check.units));
                entry.checks.extend(checks.iter().map(|check| check.check));
                let job = entry.job;
                for check in checks {
                    let us = check.units.iter().map(|unit| self.unit_us(job, *unit)).sum();
                    self.drawn.insert(check.check, us);
                }
            }
            Event::JobPaused { job, paused: true } => {
                self.paused.insert(*job);
                self.jobs.pauses += 1;
            }
            Event::JobPaused { job, paused: false } => {
                self.paused.remove(job);
            }
            Event::LeasesOffered { leases } => {
                let gang = std::mem::take(&mut self.gang);
                if *leases != gang {
                    self.problems.push(format!("{leases:?} were given out at once, and others with them"));
                }
            }
            Event::PackageAccepted { package, pay } => {
                self.accepted_paid += pay.total().0;
                let Committed { job, run, .. } = self.committed[package];
                let price = self.order_of(job).spec.stage_of(run.first).unit_price;
                if price.0 * u64::from(run.count) != pay.total().0 {
                    self.problems.push(format!("{job} paid {} for {} units", pay.total(), run.count));
                }
                self.accepted(*package, state);
            }
            Event::PackageRejected { package, .. } => {
                let Committed { run, worker, wrong, .. } = self.settled(*package);
                self.units.rejected += u64::from(run.count);
                if wrong.is_empty() || !self.lies(&worker) {
                    self.units.rejected_right += u64::from(run.count);
                }
            }
            Event::UnitsParked { run, .. } => self.units.parked += u64::from(run.count),
            Event::JobEnded { job, end, .. } => {
                let index = self.by_id[job];
                self.orders[index].ended_us = Some(at_us);
                self.open.remove(job);
                self.ended += 1;
                match end {
                    JobEnd::Done => self.jobs.done += 1,
                    JobEnd::Cancelled => self.jobs.cancelled += 1,
                    JobEnd::Incomplete { cause, .. } => {
                        self.jobs.incomplete += 1;
                        self.jobs.overdue += u64::from(*cause == Shortfall::Deadline);
                    }
                }
                self.units.skipped += state.jobs()[job].skipped_units;
                self.units.checked += state.jobs()[job].verification.checked;
            }
            _ => {}
        }
    }

    fn settled(&mut self, package: PackageId) -> Committed {
        let committed = self.committed.remove(&package).expect("it was committed");
        for check in &committed.checks {
            self.drawn.remove(check);
        }
        committed
    }

    /// A package was paid: every wrong unit in it needs an excuse.
    fn accepted(&mut self, package: PackageId, state: &State) {
        let Committed { job, run, wrong, worker, drawn, .. } = self.settled(package);
        self.units.accepted += u64::from(run.count);
        self.accepted_us += run.units().map(|unit| self.unit_us(job, unit)).sum::<u64>();
        let entry = &state.jobs()[&job];
        let Some(accepted) = entry.accepted.get(&run.first) else {
            self.problems.push(format!("{package} is accepted and {job} does not have it"));
            return;
        };
        for unit in wrong {
            let mut checkers = accepted.checked.iter().filter(|(checked, _)| *checked == unit).peekable();
            if checkers.peek().is_none() {
                let quorum = entry.spec.stage_of(run.first).policy.combined().quorum.is_some();
                if entry.state == JobState::Cancelled {
                    self.units.wrong_cancelled += 1;
                } else if quorum || drawn.contains(&unit) {
                    self.problems.push(format!(
                        "{job}/{unit} of {worker} is wrong and paid, though nobody agreed with it and it was to be checked"
                    ));
                } else {
                    self.units.wrong_unseen += 1;
                }
                continue;
            }
            let right = checkers.find(|(_, by)| !self.lies(by));
            match right {
                Some((_, by)) => self
                    .problems
                    .push(format!("{job}/{unit} of {worker} is wrong and paid, and {by} is said to agree")),
                None => self.units.wrong_colluded += 1,
            }
        }
    }
}

impl Nature {
    /// Whether every result is right.
    fn lie_free(self) -> bool {
        matches!(self, Self::Honest | Self::Lazy | Self::Boaster)
    }
}
