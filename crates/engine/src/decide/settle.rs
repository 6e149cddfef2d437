//! From opinions to a verdict.
//!
//! A package stands when every check agrees, or under a quorum when enough owners do. What the market's verifier finds is final.
//! One other owner who disagrees brings a third opinion on the same units; a second one who disagrees outvotes the package,
//! unless a quorum can still be reached. What the job's owner knows otherwise (a canary) brings an opinion on those units and
//! counts as none itself. A relation that does not hold brings one too, because it is the client who said that its program keeps it:
//! an execution that contradicts the package besides disproves it, one that agrees shows that the relation is false. Nobody loses
//! anything on one opinion, or on a client's word.

use protocol::{CheckId, PackageId, UnitRun};

use super::Deciding;
use crate::{Answer, Check, CheckKind, CheckState, Event, PackageState, Rejection, Verdict};

/// What is said of a package's results.
#[derive(Default)]
struct Opinions {
    /// Owners that executed every unit and got the same, the package's own among them.
    agree: u32,
    /// Executions that got something else.
    against: Vec<CheckId>,
    /// What the job's owner knows otherwise, which relation does not hold, and what the market cannot tell by itself.
    missed: Vec<CheckId>,
    /// What the market itself found against them.
    final_verdict: Option<Verdict>,
    /// Whether an execution is still to come.
    open: bool,
    /// Executions of every unit that are still to come.
    open_whole: u32,
    /// Whether a third opinion is still to come.
    open_ties: bool,
    /// Whether something is still to be looked at without an execution.
    open_looks: bool,
}

impl Deciding<'_> {
    pub(super) fn record_opinion(
        &mut self,
        check: CheckId,
        agrees: bool,
        evidence: String,
    ) -> Result<Answer, Rejection> {
        if !self.state.comparing.contains(&check) && !self.state.looking.contains(&check) {
            return Err(Rejection::CheckNotPending(check));
        }
        self.decide_check(check, agrees, evidence);
        Ok(Answer::Done)
    }

    pub(super) fn record_undecided(&mut self, check: CheckId, evidence: String) -> Result<Answer, Rejection> {
        if !self.state.looking.contains(&check) {
            return Err(Rejection::CheckNotPending(check));
        }
        let package = self.state.checks[&check].package;
        self.emit(Event::LookUndecided { check, evidence });
        self.settle(package);
        Ok(Answer::Done)
    }

    pub(super) fn decide_check(&mut self, check: CheckId, agrees: bool, evidence: String) {
        let Check { package, appeal, .. } = self.state.checks[&check];
        self.emit(Event::CheckDecided { check, agrees, evidence });
        match appeal {
            Some(verdict) => self.settle_appeal(verdict),
            None => self.settle(package),
        }
    }

    /// Accepts, rejects or asks for a third opinion, as soon as the opinions allow it.
    pub(super) fn settle(&mut self, id: PackageId) {
        let package = &self.state.packages[&id];
        let PackageState::Committed { checks, .. } = &package.state else { return };
        let (job, run) = (package.job, package.run);
        let quorum = self.state.jobs[&job]
            .spec
            .stage_of(run.first)
            .policy
            .combined()
            .quorum
            .map(|quorum| quorum.agree);
        let opinions = self.opinions(run, checks);
        if let Some(verdict) = opinions.final_verdict {
            return self.reject(id, verdict);
        }
        let reached = quorum.is_some_and(|agree| opinions.agree >= agree);
        let reachable = quorum.is_some_and(|agree| opinions.agree + opinions.open_whole >= agree);
        if opinions.against.len() > 1 && !reachable {
            return self.reject(id, Verdict::Outvoted);
        }
        let untied =
            |dissent: &CheckId| !checks.iter().any(|id| self.state.checks[id].tie_of == Some(*dissent));
        let mut dissents: Vec<_> = opinions.missed.into_iter().filter(untied).collect();
        let waits = opinions.open_looks || opinions.open_ties || opinions.open && !reached;
        if dissents.is_empty() && !waits && !reached {
            dissents.extend(opinions.against.into_iter().filter(untied));
        }
        if !dissents.is_empty() {
            for dissent in dissents {
                let units = self.state.checks[&dissent].units.clone();
                let checks = self.plan_checks(job, vec![units], Some(dissent));
                self.emit(Event::ChecksDrawn { package: id, draw: protocol::Hash([0; 32]), checks });
            }
            return;
        }
        if waits {
            return;
        }
        self.accept(id);
        self.end_iterations(job, run.first);
        self.finish_job(job);
    }

    /// What is said of a package's results so far.
    fn opinions(&self, run: UnitRun, checks: &[CheckId]) -> Opinions {
        let mut found = Opinions { agree: 1, ..Opinions::default() };
        for id in checks {
            let check = &self.state.checks[id];
            let whole = u32::from(check.units.len() == run.count as usize);
            match (check.kind, &check.state) {
                (CheckKind::Algebraic, CheckState::Decided { agrees: false, .. }) => found.missed.push(*id),
                (_, CheckState::Decided { owner, agrees: false, .. }) if *owner == self.state.market() => {
                    found.final_verdict.get_or_insert(Verdict::VerifierDisagrees);
                }
                (CheckKind::Execution, CheckState::Decided { agrees: true, .. }) => found.agree += whole,
                (CheckKind::Execution, CheckState::Decided { .. }) => {
                    if check.tie_of.is_some_and(|tie| self.state.checks[&tie].kind == CheckKind::Algebraic) {
                        found.final_verdict.get_or_insert(Verdict::Disproved);
                    }
                    found.against.push(*id);
                }
                (CheckKind::Execution, _) => {
                    found.open = true;
                    found.open_whole += whole;
                    found.open_ties |= check.tie_of.is_some();
                }
                (_, CheckState::Decided { agrees: true, .. }) => {}
                (_, CheckState::Decided { .. } | CheckState::Undecided) => found.missed.push(*id),
                _ => found.open_looks = true,
            }
        }
        found
    }

    fn reject(&mut self, id: PackageId, verdict: Verdict) {
        let (job, first) = (self.state.packages[&id].job, self.state.packages[&id].run.first);
        self.end_check_leases(id);
        self.pay_checks(id, false);
        self.judge(id, &verdict);
        self.emit(Event::PackageRejected { package: id, verdict });
        self.park_hopeless(job, first);
        self.finish_job(job);
    }

    /// Rejects a package whose check failed so often that nobody seems able to make it. The units run again and are
    /// parked in the end, so that a program which only one device can run does not hold money for ever.
    pub(super) fn give_up_check(&mut self, check: CheckId) {
        let check = &self.state.checks[&check];
        let hopeless = check.failures >= self.state.params.attempts_max;
        if let Some(verdict) = check.appeal {
            if hopeless {
                self.close(verdict);
            }
            return;
        }
        // A replica that nobody can make does not keep its package's worker from going on.
        if matches!(self.state.packages[&check.package].state, crate::PackageState::Leased(_)) {
            return;
        }
        if hopeless {
            self.reject(check.package, Verdict::Unverifiable);
        }
    }
}
