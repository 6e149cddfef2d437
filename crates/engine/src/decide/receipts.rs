//! Receipts: from a commitment to the draw of its checks.

use protocol::{CheckId, Hash, LeaseId, OutputCommitment, PackageId, Receipt, Signature, UnitRun, challenge};

use super::Deciding;
use crate::{
    Answer, CheckKind, CheckPlan, Event, LookPlan, PackageState, ReceiptOutcome, Rejection, Work, state::Late,
};

impl Deciding<'_> {
    pub(super) fn commit(
        &mut self,
        receipt: Receipt,
        signature: Signature,
        units: Vec<(u64, Vec<OutputCommitment>)>,
        seed: Hash,
    ) -> Result<Answer, Rejection> {
        if receipt.market != self.state.market() {
            return Err(Rejection::ReceiptInvalid("it names another market"));
        }
        if let Some(closed) = self.state.closed.get(&receipt.lease) {
            return if closed.worker != receipt.worker {
                Err(Rejection::LeaseForeign(receipt.lease))
            } else if closed.receipt != receipt.digest() {
                Err(Rejection::ReceiptDuplicate(receipt.lease))
            } else {
                let outcome = closed.paid.map_or(ReceiptOutcome::Checking, ReceiptOutcome::Accepted);
                Ok(Answer::Receipt { outcome, rest: closed.rest })
            };
        }
        let (work, worker, generation, job) = self.answered_work(&receipt)?;
        if worker != receipt.worker {
            return Err(Rejection::LeaseForeign(receipt.lease));
        }
        if generation != receipt.generation {
            let (lease, found) = (receipt.lease, receipt.generation);
            return Err(Rejection::LeaseStale { lease, expected: generation, found });
        }
        if job != receipt.job {
            return Err(Rejection::ReceiptInvalid("it names another job"));
        }
        let mut expected: Vec<u64> = match work {
            Work::Package { run, .. } => run.units().collect(),
            Work::Check { check } => self.state.checks[&check].units.clone(),
        };
        // A checkpoint: the first units of a package whose worker goes on with the others. Not of a late one, nor of a check.
        let checkpoint = matches!(work, Work::Package { .. })
            && self.state.leases.contains_key(&receipt.lease)
            && (1..expected.len()).contains(&(receipt.units as usize));
        if checkpoint {
            expected.truncate(receipt.units as usize);
        }
        let same_units = receipt.units as usize == expected.len()
            && units.len() == expected.len()
            && units.iter().zip(&expected).all(|((found, _), wanted)| found == wanted);
        if !same_units {
            // A checkpoint that comes late: of a lease that ran out only the whole is still taken.
            let part = (1..expected.len()).contains(&(receipt.units as usize));
            if part && !self.state.leases.contains_key(&receipt.lease) {
                return Err(Rejection::LeaseExpired(receipt.lease));
            }
            return Err(Rejection::ReceiptInvalid("it covers other units than the lease"));
        }
        let outputs_count = self.state.jobs[&job].spec.stage_of(expected[0]).outputs_exact.len();
        if units.iter().any(|(_, outputs)| outputs.len() != outputs_count) {
            return Err(Rejection::ReceiptInvalid("a unit has another number of outputs than the manifest"));
        }
        let lease = receipt.lease;
        let work = if checkpoint { self.split_lease(lease, receipt.units) } else { work };
        let outputs = units.into_iter().map(|(_, outputs)| outputs).collect();
        let sequence = self.state.seq;
        self.emit(Event::ReceiptCommitted { receipt, signature, outputs, work });
        match work {
            Work::Package { package, .. } => {
                let draw = challenge::draw(&seed, sequence);
                self.draw(package, draw);
                self.compare_replicas(package);
            }
            Work::Check { check } => self.compare_commitments(check),
        }
        let closed = self.state.closed.get(&lease);
        let (paid, rest) = closed.map_or((None, None), |closed| (closed.paid, closed.rest));
        let outcome = paid.map_or(ReceiptOutcome::Checking, ReceiptOutcome::Accepted);
        Ok(Answer::Receipt { outcome, rest })
    }

    /// Cuts a lease after its first `units`; answers what it still covers.
    fn split_lease(&mut self, id: LeaseId, units: u32) -> Work {
        let lease = &self.state.leases[&id];
        let unit = self.state.lease_units(lease)[0];
        let time_ms_max = self.state.jobs[&lease.job].spec.stage_of(unit.first).time_ms_max;
        let left = u64::from(unit.count - units);
        // As if the rest had been granted now, but never longer than a worker that was asked to yield may keep it.
        let deadline_ms_max = match lease.yields_to {
            Some(_) => lease.deadline_ms_max,
            None => self.lease_deadline_ms_max(time_ms_max, left),
        };
        let (rest, package) = (LeaseId(self.state.next.lease + 1), PackageId(self.state.next.package + 1));
        self.emit(Event::LeaseSplit { lease: id, units, rest, package, deadline_ms_max });
        self.state.leases[&id].work
    }

    /// The work a receipt answers: that of an active lease, or of an expired one whose units still wait untouched.
    fn answered_work(
        &self,
        receipt: &Receipt,
    ) -> Result<(Work, protocol::PublicKey, u32, protocol::JobId), Rejection> {
        if let Some(lease) = self.state.leases.get(&receipt.lease) {
            return Ok((lease.work, lease.worker, lease.generation, lease.job));
        }
        let late = self.state.late.get(&receipt.lease).ok_or_else(|| self.absent_lease(receipt.lease))?;
        let Late { worker, generation, package, job, run, .. } = *late;
        Ok((Work::Package { package, job, run }, worker, generation, job))
    }

    /// Compares what was made before the package was committed, and settles it.
    pub(super) fn compare_replicas(&mut self, id: PackageId) {
        let checks = match &self.state.packages[&id].state {
            PackageState::Committed { checks, .. } => checks.clone(),
            PackageState::Leased(_) => return,
        };
        for check in checks {
            // An opinion may settle the package, and its checks are gone then.
            if self.state.checks.contains_key(&check) {
                self.compare_commitments(check);
            }
        }
        if self.state.packages.contains_key(&id) {
            self.settle(id);
        }
    }

    /// Draws what of a committed package is executed again.
    fn draw(&mut self, id: PackageId, draw: Hash) {
        let package = &self.state.packages[&id];
        let PackageState::Committed { worker, ref checks, .. } = package.state else {
            unreachable!("it was just committed")
        };
        // Replicas are checks of every unit.
        let replicas = checks.len() as u32;
        let (job, run) = (package.job, package.run);
        let stage = self.state.jobs[&job].spec.stage_of(run.first);
        let (combined, price) = (stage.policy.combined(), stage.unit_price);
        let mut plans: Vec<Vec<u64>> = Vec::new();
        if let Some(quorum) = combined.quorum {
            plans.extend((1 + replicas..quorum.of).map(|_| run.units().collect()));
        } else if let (Some(rate_min_ppm), 0) = (combined.audit_rate_min_ppm, replicas) {
            let trust = self.state.audit_terms(worker, price, run.count.into()).rate_ppm(rate_min_ppm);
            let units = drawn_units(run, &draw, trust);
            plans.extend((!units.is_empty()).then_some(units));
        }
        let checks = self.plan_checks(job, plans, None);
        self.emit(Event::ChecksDrawn { package: id, draw, checks });
        self.plan_looks(id, Some(draw));
    }

    /// Plans what of a committed package is checked without executing it: canaries, and what the market checks by itself, drawn
    /// from SHA-256(draw ‖ `algebraic`). Without a draw that is everything.
    pub(super) fn plan_looks(&mut self, id: PackageId, draw: Option<Hash>) {
        let package = &self.state.packages[&id];
        let PackageState::Committed { worker, .. } = package.state else { unreachable!("it has results") };
        let (run, job) = (package.run, &self.state.jobs[&package.job]);
        let mut looks = Vec::new();
        let mut look = |kind, units: Vec<u64>| {
            if !units.is_empty() {
                let check = CheckId(self.state.next.check + 1 + looks.len() as u64);
                looks.push(LookPlan { check, units, kind });
            }
        };
        let canaries = job.canaries.range(run.first..run.first + u64::from(run.count));
        look(CheckKind::Canary, canaries.map(|(unit, _)| *unit).collect());
        let stage = job.spec.stage_of(run.first);
        if let Some(rate_min_ppm) = stage.policy.combined().algebraic_rate_min_ppm {
            let price = stage.unit_price;
            let trust = self.state.audit_terms(worker, price, run.count.into()).rate_ppm(rate_min_ppm);
            let units = match draw {
                Some(draw) => drawn_units(run, &Hash::of_parts(&[&draw.0, b"algebraic"]), trust),
                None => run.units().collect(),
            };
            look(CheckKind::Algebraic, units);
        }
        if !looks.is_empty() {
            self.emit(Event::LooksPlanned { package: id, looks });
        }
    }

    /// Numbers new checks and says which of them the job can still pay.
    pub(super) fn plan_checks(
        &self,
        job: protocol::JobId,
        plans: Vec<Vec<u64>>,
        tie_of: Option<CheckId>,
    ) -> Vec<CheckPlan> {
        let job = &self.state.jobs[&job];
        let mut free = job.free_for_checks().0;
        plans
            .into_iter()
            .zip(self.state.next.check + 1..)
            .map(|(units, id)| {
                let cost = job.spec.stage_of(units[0]).unit_price.0 * units.len() as u64;
                let verifier_only = cost > free;
                if !verifier_only {
                    free -= cost;
                }
                CheckPlan { check: CheckId(id), units, verifier_only, tie_of }
            })
            .collect()
    }

    /// Decides a committed check where its commitments alone decide it: equal ones agree, different ones of exact outputs
    /// do not. What is left is for the shell to compare by tolerance.
    fn compare_commitments(&mut self, id: CheckId) {
        // One that was made before the package was committed waits for it.
        if !self.state.comparing.contains(&id) {
            return;
        }
        let comparison = self.state.comparison(id);
        let first = self.state.checks[&id].units[0];
        let exact = &self.state.jobs[&comparison.job].spec.stage_of(first).outputs_exact;
        let differs = comparison.pairs.iter().find(|(_, output, ..)| exact[*output as usize]);
        let (agrees, evidence) = match differs {
            Some((unit, output, first, again)) => {
                let job = comparison.job;
                // Whoever runs the unit next is not to learn what its owner knows.
                let found = if comparison.known {
                    "is not what its owner knows".into()
                } else {
                    format!("{again} found")
                };
                (
                    false,
                    format!(
                        "output {output} of {job}/{unit}, compared by hash: {first} was committed, {found}"
                    ),
                )
            }
            None if comparison.pairs.is_empty() => (true, "all outputs are equal by hash".to_owned()),
            None => return,
        };
        self.decide_check(id, agrees, evidence);
    }
}

/// The units of a package that are drawn at a rate of `rate_ppm`.
fn drawn_units(run: UnitRun, draw: &Hash, rate_ppm: u32) -> Vec<u64> {
    let drawn = run.units().zip(0..).filter(|(_, place)| challenge::is_drawn(draw, *place, rate_ppm));
    drawn.map(|(unit, _)| unit).collect()
}
