//! Submission, cancellation, and the end of jobs.

use std::collections::BTreeSet;

use protocol::{Amount, Hash, JobId, LeaseId, PublicKey, UnitRun};

use super::Deciding;
use crate::{
    Answer, EndCause, Event, Failure, Job, JobEnd, JobState, PackageState, Rejection, Shortfall, Split,
    Submission, Work, verdict::refuted,
};

/// Most units of one job.
const UNITS_MAX: u64 = 100_000_000;

/// Most units of one package, however the job wants them: a worker holds each one's outputs until it signs, and its receipt
/// names them all.
const PACKAGE_UNITS_MAX: u32 = 4_096;

/// Most devices that units run on at once.
const DEVICES_MAX: u32 = 64;

/// Most owners that compute a unit at once.
const REPLICAS_MAX: u32 = 5;

/// Most attempts at a unit that a job may ask for.
const ATTEMPTS_MAX: u32 = 20;

/// Failures that a job's end tells of.
const FAILURES_TOLD_MAX: usize = 5;

/// Which units were given up, and how they failed.
fn parked_why(job: &Job) -> String {
    let Some((first, run)) = job.parked.first_key_value() else {
        return job.last_failure.clone().unwrap_or_default();
    };
    let place = job.spec.place(*first);
    let stage = &job.spec.stages[place.stage as usize].name;
    let mut units = match run.count {
        1 => format!("unit {}", place.index),
        count => format!("units {} to {}", place.index, place.index + count - 1),
    };
    if !stage.is_empty() {
        units.push_str(&format!(" of stage {stage}"));
    }
    if job.spec.iterate.is_some() {
        units.push_str(&format!(" in iteration {}", place.iteration + 1));
    }
    let mut heard = BTreeSet::new();
    let told = run.failures.iter().filter(|failure| heard.insert(failure.worker)).take(FAILURES_TOLD_MAX);
    let told: Vec<_> = told.map(|f| format!("{} on {}: {}", f.code, f.worker, f.why)).collect();
    format!("{units}: {}", told.join("; "))
}

impl Deciding<'_> {
    pub(super) fn submit(&mut self, submission: Submission) -> Result<Answer, Rejection> {
        let Submission { owner, mut spec, quoted, budget, key, canaries, sealed } = submission;
        if let Some((key, request)) = key
            && let Some(first) = self.state.idempotency.get(&key)
        {
            return match first.job {
                Some(job) if first.request == request => Ok(Answer::Job(job)),
                _ => Err(Rejection::IdempotencyConflict),
            };
        }
        let invalid = |why: &str| Err(Rejection::SpecInvalid(why.to_owned()));
        for stage in &spec.stages {
            if stage.units == 0 || stage.units > UNITS_MAX {
                return invalid("a job has 1 to 100 000 000 units");
            }
            if stage.package_units.is_some_and(|units| units == 0 || units > PACKAGE_UNITS_MAX) {
                return invalid("a package has 1 to 4096 units");
            }
            if !(stage.output_bytes.is_empty() || stage.output_bytes.len() == stage.outputs_exact.len()) {
                return invalid("each output has a length");
            }
            if stage.outputs_exact.is_empty() {
                return invalid("a unit has at least one output");
            }
            if !(1..=DEVICES_MAX).contains(&stage.devices) {
                return invalid("units run on 1 to 64 devices at once");
            }
            if !(1..=REPLICAS_MAX).contains(&stage.replicas) {
                return invalid("a unit has 1 to 5 replicas");
            }
            if stage.replicas > 1 && (stage.devices > 1 || stage.package_units.unwrap_or(1) > 1) {
                return invalid("a unit with replicas is a package of its own, and runs on one device");
            }
            if let Some(flaw) = stage.policy.combined().flaw() {
                return invalid(flaw);
            }
        }
        if let Some(flaw) = spec.graph_flaw() {
            return Err(Rejection::SpecInvalid(flaw));
        }
        let each: u64 = spec.stages.iter().map(|stage| stage.units).sum();
        if each.checked_mul(spec.iterations_max()).is_none_or(|units| units > UNITS_MAX) {
            return invalid("a job has at most 100 000 000 units in all its iterations");
        }
        if spec.attempts_max.is_some_and(|attempts| !(1..=ATTEMPTS_MAX).contains(&attempts)) {
            return invalid("a unit is tried 1 to 20 times");
        }
        if spec.deadline_ms.is_some_and(|deadline| deadline <= self.now_ms) {
            return invalid("the deadline has passed");
        }
        if quoted.iter().any(|stage| *stage as usize >= spec.stages.len()) {
            return invalid("a price is asked for a stage that is not there");
        }
        if let Some(royalty) = spec.royalty
            && (royalty.bps == 0 || royalty.bps > self.state.params.royalty_bps_max)
        {
            return Err(Rejection::SpecInvalid(format!(
                "a royalty is 1 to {} basis points",
                self.state.params.royalty_bps_max
            )));
        }
        if let Some(royalty) = &mut spec.royalty {
            // As with deposits: a session key could never spend it.
            let session = self.state.sessions.get(&royalty.account);
            royalty.account = session.map_or(royalty.account, |session| session.wallet);
        }
        if let Some(flaw) = spec.canary_flaw(&canaries) {
            return Err(Rejection::SpecInvalid(flaw));
        }
        if let Some(sealing) = &sealed {
            self.check_sealing(&spec, owner, sealing)?;
        }
        let quote = self.state.quote(&spec, &quoted, self.now_ms);
        for stage in &quoted {
            spec.stages[*stage as usize].unit_price = quote.stages[*stage as usize].unit_price;
        }
        let third = if sealed.is_some() { spec.third_opinions(spec.units()) } else { Some(Amount::ZERO) };
        let escrow = quote.escrow.zip(third).and_then(|(escrow, third)| escrow.checked_add(third));
        let Some(escrow) = escrow else { return Err(Rejection::AmountTooLarge) };
        if let Some(budget) = budget
            && escrow > budget
        {
            return Err(Rejection::OverBudget { needed: escrow, budget, quote: quote.into() });
        }
        let available = self.state.accounts.get(&owner).copied().unwrap_or_default().available;
        if escrow > available {
            return Err(Rejection::BalanceTooLow { needed: escrow, available });
        }
        let job = JobId(self.state.next.job + 1);
        let expected_ms = quote.wait_ms.zip(quote.run_ms).map(|(wait, run)| wait.saturating_add(run));
        self.emit(Event::JobSubmitted { job, owner, spec, escrow, expected_ms, key });
        if !canaries.is_empty() {
            self.emit(Event::CanariesSet { job, canaries });
        }
        if let Some(sealing) = sealed {
            self.seal_job(job, sealing);
        }
        Ok(Answer::Job(job))
    }

    /// Ends a job at its owner's wish. What was committed is paid, as the owner asked for no further checks; the rest goes
    /// back.
    pub(super) fn cancel(&mut self, id: JobId, by: PublicKey) -> Result<Answer, Rejection> {
        let job = self.own_job(id, by)?;
        if job.state.ended() {
            return if job.state == JobState::Cancelled {
                Ok(Answer::Done)
            } else {
                Err(Rejection::JobEnded(id))
            };
        }
        let leases = job.leases.iter().map(|id| (*id, self.state.leases[id].work));
        let (packages, checks): (Vec<_>, Vec<_>) =
            leases.partition(|(_, work)| matches!(work, Work::Package { .. }));
        for (lease, _) in checks {
            self.emit(Event::LeaseEnded { lease, cause: EndCause::NotNeeded });
        }
        for (lease, work) in packages {
            match self.stand_in(work) {
                // Made, and to be paid like all that is committed.
                Some(check) => self.emit(Event::PackagePassedOn { lease, cause: EndCause::NotNeeded, check }),
                None => self.emit(Event::LeaseEnded { lease, cause: EndCause::NotNeeded }),
            }
        }
        let committed: Vec<_> = self.state.jobs[&id].committed.iter().copied().collect();
        for package in committed {
            self.accept(package);
        }
        self.end_job(id, JobEnd::Cancelled);
        Ok(Answer::Done)
    }

    /// Holds back what waits of a job, or no longer.
    pub(super) fn pause(&mut self, id: JobId, by: PublicKey, paused: bool) -> Result<Answer, Rejection> {
        let job = self.own_job(id, by)?;
        if job.state.ended() {
            return Err(Rejection::JobEnded(id));
        }
        if job.paused != paused {
            self.emit(Event::JobPaused { job: id, paused });
        }
        Ok(Answer::Done)
    }

    /// Has an incomplete job go on. Nothing that was accepted runs again, and the escrow is what the rest costs.
    pub(super) fn resume_job(
        &mut self,
        id: JobId,
        by: PublicKey,
        deadline_ms: Option<u64>,
    ) -> Result<Answer, Rejection> {
        let job = self.own_job(id, by)?;
        if !matches!(job.state, JobState::Incomplete { .. }) {
            return Err(Rejection::JobNotIncomplete(id));
        }
        let deadline_ms = deadline_ms.or(job.deadline_ms);
        if deadline_ms.is_some_and(|deadline| deadline <= self.now_ms) {
            return Err(Rejection::SpecInvalid("the deadline has passed; give another one".into()));
        }
        let escrow: u64 = (0..)
            .zip(&job.spec.stages)
            .map(|(number, stage)| {
                stage.unit_price.0 * job.missing_units(number) * (1 + stage.policy.checks_per_unit())
            })
            .sum();
        let missing = (0..job.queues.len() as u32).map(|number| job.missing_units(number)).sum();
        let third = job.sealed.as_ref().and_then(|_| job.spec.third_opinions(missing)).unwrap_or_default();
        let (needed, owner) = (Amount(escrow + third.0), job.owner);
        let available = self.state.accounts.get(&owner).copied().unwrap_or_default().available;
        if needed > available {
            return Err(Rejection::BalanceTooLow { needed, available });
        }
        self.emit(Event::JobResumed { job: id, owner, escrow: needed, deadline_ms });
        Ok(Answer::Done)
    }

    /// Lets a job go whose archive is stored.
    pub(super) fn archive(
        &mut self,
        id: JobId,
        ended_at_ms: u64,
        archive: Hash,
    ) -> Result<Answer, Rejection> {
        let job = self.state.jobs.get(&id).ok_or_else(|| self.absent_job(id))?;
        let due = job.archivable_from_ms(&self.state.params).is_some_and(|from| from <= self.now_ms);
        if !due || job.ended_at_ms != Some(ended_at_ms) {
            return Err(Rejection::JobNotArchivable(id));
        }
        self.emit(Event::JobArchived { job: id, archive });
        Ok(Answer::Done)
    }

    fn absent_job(&self, id: JobId) -> Rejection {
        let existed = id.0 > 0 && id.0 <= self.state.next.job;
        if existed { Rejection::JobArchived(id) } else { Rejection::JobUnknown(id) }
    }

    pub(super) fn own_job(&self, id: JobId, by: PublicKey) -> Result<&Job, Rejection> {
        let job = self.state.jobs.get(&id).ok_or_else(|| self.absent_job(id))?;
        if job.owner == by { Ok(job) } else { Err(Rejection::JobForeign(id)) }
    }

    /// Gives up the waiting units from `unit` on that came back, if they failed too often or are found to be poison: a unit
    /// that ran alone and failed on several workers.
    pub(super) fn park_hopeless(&mut self, id: JobId, unit: u64) {
        let job = &self.state.jobs[&id];
        let stage = job.spec.place(unit).stage;
        let mut waiting = job.queues[stage as usize].waiting.iter();
        let Some(run) = waiting.find(|run| run.first == unit) else { return };
        let told = run.failures.iter().filter(|failure| failure.code != Failure::EXPIRED);
        let failed: BTreeSet<_> = told.map(|failure| failure.worker).collect();
        let poison = run.count == 1 && failed.len() >= self.state.params.poison_workers as usize;
        let limit = job.spec.attempts_max.unwrap_or(self.state.params.attempts_max);
        if run.attempts < limit && !poison {
            return;
        }
        let count = u32::try_from(run.count).expect("a run that was leased has at most 2³² units");
        let failures = run.failures.clone();
        let why = job.last_failure.clone().unwrap_or_default();
        self.emit(Event::UnitsParked { job: id, run: UnitRun { first: unit, count }, why, failures });
    }

    /// Ends the iterations of a job once what it was iterated for is reached, now that the package from `unit` on stands.
    pub(super) fn end_iterations(&mut self, id: JobId, unit: u64) {
        let Some(last) = self.state.jobs[&id].until_met(unit) else { return };
        self.emit(Event::IterationsEnded { job: id, last });
        let job = &self.state.jobs[&id];
        let end = job.units_end();
        let beyond = |lease: &LeaseId| matches!(self.state.leases[lease].work, Work::Package { run, .. } if run.first >= end);
        let leases: Vec<_> = job.leases.iter().copied().filter(beyond).collect();
        for lease in leases {
            self.emit(Event::LeaseEnded { lease, cause: EndCause::NotNeeded });
        }
    }

    /// Ends the job when no unit can change any more.
    pub(super) fn finish_job(&mut self, id: JobId) {
        let job = &self.state.jobs[&id];
        let waiting = job.waiting_units();
        let moves = job.leased_units + job.checking_units > 0 || waiting > 0 && !job.overdue;
        if job.state.ended() || moves {
            return;
        }
        let end = if waiting + job.parked_units + job.blocked_units == 0 {
            JobEnd::Done
        } else if waiting > 0 {
            JobEnd::Incomplete { cause: Shortfall::Deadline, why: "its deadline passed".into() }
        } else {
            JobEnd::Incomplete { cause: Shortfall::Parked, why: parked_why(job) }
        };
        self.end_job(id, end);
    }

    fn end_job(&mut self, job: JobId, end: JobEnd) {
        let refund = self.state.jobs[&job].held();
        self.emit(Event::JobEnded { job, end, refund });
    }

    /// Pays a package and its right checks. Leases of checks that are still out end first.
    pub(super) fn accept(&mut self, id: protocol::PackageId) {
        self.end_check_leases(id);
        self.pay_checks(id, true);
        let package = &self.state.packages[&id];
        let spec = &self.state.jobs[&package.job].spec;
        let total = Amount(spec.stage_of(package.run.first).unit_price.0 * u64::from(package.run.count));
        let pay = Split::of(total, spec.royalty_bps(), &self.state.params);
        let PackageState::Committed { worker, .. } = package.state else { unreachable!("it has results") };
        self.emit(Event::PackageAccepted { package: id, pay });
        self.refute_claim(worker);
    }

    pub(super) fn end_check_leases(&mut self, id: protocol::PackageId) {
        let PackageState::Committed { checks, .. } = &self.state.packages[&id].state else { return };
        let leases: Vec<_> = checks
            .iter()
            .filter_map(|check| match self.state.checks[check].state {
                crate::CheckState::Leased(lease) => Some(lease),
                _ => None,
            })
            .collect();
        for lease in leases {
            debug_assert!(matches!(self.state.leases[&lease].work, Work::Check { .. }));
            self.emit(Event::LeaseEnded { lease, cause: EndCause::NotNeeded });
        }
    }

    /// Pays the checks of a package that is `accepted` or rejected, but for those that were wrong. The market's verifier works
    /// for nothing.
    pub(super) fn pay_checks(&mut self, id: protocol::PackageId, accepted: bool) {
        let PackageState::Committed { checks, .. } = &self.state.packages[&id].state else { return };
        let market = self.state.market();
        let all: Vec<_> = checks.iter().map(|check| &self.state.checks[check]).collect();
        let mut pays = Vec::new();
        for (id, check) in checks.iter().zip(&all) {
            let crate::CheckState::Decided { owner, agrees, .. } = check.state else { continue };
            let wrong = if accepted { !agrees } else { agrees && refuted(check, &all, market) };
            if !wrong && !check.verifier_only && owner != market {
                let price = self.state.jobs[&check.job].spec.stage_of(check.units[0]).unit_price;
                let total = Amount(price.0 * check.units.len() as u64);
                pays.push((*id, Split::of(total, 0, &self.state.params)));
            }
        }
        for (check, pay) in pays {
            self.emit(Event::CheckPaid { check, pay });
        }
    }
}
