//! What the simulator knows and the market does not: which results are right. It reads the durable events and counts.

use std::collections::{BTreeMap, BTreeSet};

use engine::{Event, JobEnd, JobState, Policy, State, Work};
use protocol::{Amount, CheckId, Hash, JobId, LeaseId, OutputCommitment, PackageId, PublicKey, UnitRun};

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
    pub(crate) unit_us: u64,
    /// Units that run at the same time.
    pub(crate) devices: u32,
    /// What a unit pays, once that is settled.
    pub(crate) unit_price: Option<Amount>,
    pub(crate) submitted_us: u64,
    pub(crate) id: Option<JobId>,
    pub(crate) first_lease_us: Option<u64>,
    pub(crate) ended_us: Option<u64>,
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

    /// Reference time of a unit, in microseconds: three to five quarters of the job's middle.
    pub(crate) fn unit_us(&self, job: JobId, unit: u64) -> u64 {
        let middle = self.order_of(job).unit_us;
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
                self.orders[index].unit_price = Some(spec.stages[0].unit_price);
                self.by_id.insert(*job, index);
                self.open.insert(*job);
                self.jobs.submitted += 1;
            }
            Event::LeaseGranted { lease, work: Work::Package { job, .. }, .. } => {
                if self.paused.contains(job) {
                    self.problems.push(format!("{lease} was given out though {job} is paused"));
                }
                let order = &mut self.orders[self.by_id[job]];
                order.first_lease_us.get_or_insert(at_us);
                if order.devices > 1 {
                    self.gang.push(*lease);
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
                let Work::Package { package, job, run } = *work else { return };
                let wrong: Vec<u64> = run
                    .units()
                    .zip(outputs)
                    .filter(|(_, outputs)| outputs.iter().any(|output| lie_of(&output.blob) != 0))
                    .map(|(unit, _)| unit)
                    .collect();
                self.units.wrong_committed += wrong.len() as u64;
                self.committed.insert(
                    package,
                    Committed {
                        job,
                        run,
                        worker: receipt.worker,
                        wrong,
                        drawn: BTreeSet::new(),
                        checks: Vec::new(),
                    },
                );
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
                let agreed = self.order_of(job).unit_price.map(|price| price.0 * u64::from(run.count));
                if agreed != Some(pay.total().0) {
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
                    JobEnd::Incomplete { .. } => self.jobs.incomplete += 1,
                }
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
                let quorum = matches!(entry.spec.stage_of(run.first).policy, Policy::Quorum { .. });
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
