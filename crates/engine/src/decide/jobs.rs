//! Submission, cancellation, and the end of jobs.

use protocol::{Amount, JobId, PublicKey, UnitRun};

use super::Deciding;
use crate::{
    Answer, EndCause, Event, JobEnd, JobState, PackageState, Policy, Rejection, Split, Submission, Work,
};

/// Most units of one job.
const UNITS_MAX: u64 = 100_000_000;

/// Most units of one package, however the job wants them: a worker holds each one's outputs until it signs, and its receipt
/// names them all.
const PACKAGE_UNITS_MAX: u32 = 4_096;

impl Deciding<'_> {
    pub(super) fn submit(&mut self, submission: Submission) -> Result<Answer, Rejection> {
        let Submission { owner, mut spec, quoted, budget, key } = submission;
        if let Some((key, request)) = key
            && let Some(first) = self.state.idempotency.get(&key)
        {
            return match first.job {
                Some(job) if first.request == request => Ok(Answer::Job(job)),
                _ => Err(Rejection::IdempotencyConflict),
            };
        }
        let invalid = |why: &str| Err(Rejection::SpecInvalid(why.to_owned()));
        if spec.stages.len() != 1 || spec.iterate.is_some() {
            return invalid("a job has one stage");
        }
        for stage in &spec.stages {
            if stage.units == 0 || stage.units > UNITS_MAX {
                return invalid("a job has 1 to 100 000 000 units");
            }
            if stage.package_units.is_some_and(|units| units == 0 || units > PACKAGE_UNITS_MAX) {
                return invalid("a package has 1 to 4096 units");
            }
            if stage.outputs_exact.is_empty() {
                return invalid("a unit has at least one output");
            }
            if let Policy::Quorum { agree } = stage.policy
                && !(2..=5).contains(&agree)
            {
                return invalid("a quorum is 2 to 5 owners");
            }
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
        let quote = self.state.quote(&spec, &quoted, self.now_ms);
        for stage in &quoted {
            spec.stages[*stage as usize].unit_price = quote.stages[*stage as usize].unit_price;
        }
        let escrow = quote.escrow;
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
        Ok(Answer::Job(job))
    }

    /// Ends a job at its owner's wish. What was committed is paid, as the owner asked for no further checks; the rest goes
    /// back.
    pub(super) fn cancel(&mut self, id: JobId, by: PublicKey) -> Result<Answer, Rejection> {
        let job = self.state.jobs.get(&id).ok_or(Rejection::JobUnknown(id))?;
        if job.owner != by {
            return Err(Rejection::JobForeign(id));
        }
        if job.state.ended() {
            return if job.state == JobState::Cancelled {
                Ok(Answer::Done)
            } else {
                Err(Rejection::JobEnded(id))
            };
        }
        let leases: Vec<_> = self.state.leases.iter().filter(|(_, l)| l.job == id).map(|(l, _)| *l).collect();
        for lease in leases {
            self.emit(Event::LeaseEnded { lease, cause: EndCause::NotNeeded });
        }
        let committed: Vec<_> = self.state.jobs[&id].committed.iter().copied().collect();
        for package in committed {
            self.accept(package);
        }
        self.end_job(id, JobEnd::Cancelled);
        Ok(Answer::Done)
    }

    /// Parks units that failed too often, and ends the job when no unit can change any more.
    pub(super) fn finish_job(&mut self, id: JobId) {
        let job = &self.state.jobs[&id];
        if job.state.ended() {
            return;
        }
        let limit = self.state.params.attempts_max;
        let waiting = job.queues.iter().flat_map(|queue| &queue.waiting);
        let hopeless: Vec<_> = waiting.filter(|w| w.attempts >= limit).map(|w| (w.first, w.count)).collect();
        let why = job.last_failure.clone().unwrap_or_default();
        for (first, count) in hopeless {
            let count = u32::try_from(count).expect("a run that was leased has at most 2³² units");
            self.emit(Event::UnitsParked { job: id, run: UnitRun { first, count }, why: why.clone() });
        }
        let job = &self.state.jobs[&id];
        if job.accepted_units + job.parked_units < job.spec.units() {
            return;
        }
        let end = if job.parked_units == 0 { JobEnd::Done } else { JobEnd::Incomplete { why } };
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

    /// Pays the checks of a package whose opinion was `right`. The market's verifier works for nothing.
    pub(super) fn pay_checks(&mut self, id: protocol::PackageId, right: bool) {
        let PackageState::Committed { checks, .. } = &self.state.packages[&id].state else { return };
        for check_id in checks.clone() {
            let check = &self.state.checks[&check_id];
            let crate::CheckState::Decided { owner, agrees, .. } = check.state else { continue };
            if agrees != right || check.verifier_only || owner == self.state.market() {
                continue;
            }
            let price = self.state.jobs[&check.job].spec.stage_of(check.units[0]).unit_price;
            let total = Amount(price.0 * check.units.len() as u64);
            self.emit(Event::CheckPaid { check: check_id, pay: Split::of(total, 0, &self.state.params) });
        }
    }
}
