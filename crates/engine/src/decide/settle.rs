//! From opinions to a verdict.
//!
//! A package stands when every check agrees. The market's own verifier is final. One other owner who disagrees brings a
//! third opinion on the same units; a second one who disagrees outvotes the package. Nobody loses anything on one opinion.

use protocol::{CheckId, PackageId};

use super::Deciding;
use crate::{Answer, CheckState, Event, PackageState, Rejection, Verdict};

impl Deciding<'_> {
    pub(super) fn record_opinion(
        &mut self,
        check: CheckId,
        agrees: bool,
        evidence: String,
    ) -> Result<Answer, Rejection> {
        if !self.state.comparing.contains(&check) {
            return Err(Rejection::CheckNotPending(check));
        }
        self.decide_check(check, agrees, evidence);
        Ok(Answer::Done)
    }

    pub(super) fn decide_check(&mut self, check: CheckId, agrees: bool, evidence: String) {
        let package = self.state.checks[&check].package;
        self.emit(Event::CheckDecided { check, agrees, evidence });
        self.settle(package);
    }

    /// Accepts, rejects or asks for a third opinion, as soon as the opinions allow it.
    pub(super) fn settle(&mut self, id: PackageId) {
        let package = &self.state.packages[&id];
        let PackageState::Committed { checks, .. } = &package.state else { return };
        let (job, market) = (package.job, self.state.market());
        let (mut open, mut against, mut verifier_against) = (false, Vec::new(), false);
        for check_id in checks {
            match self.state.checks[check_id].state {
                CheckState::Decided { agrees: true, .. } => {}
                CheckState::Decided { owner, .. } => {
                    verifier_against |= owner == market;
                    against.push(*check_id);
                }
                _ => open = true,
            }
        }
        if verifier_against {
            return self.reject(id, Verdict::VerifierDisagrees);
        }
        if against.len() > 1 {
            return self.reject(id, Verdict::Outvoted);
        }
        if open {
            return;
        }
        if let [dissent] = against[..] {
            let has_tie = checks.iter().any(|check| self.state.checks[check].tie_of == Some(dissent));
            if !has_tie {
                let units = self.state.checks[&dissent].units.clone();
                let plans = self.plan_checks(job, vec![units], Some(dissent));
                let draw = protocol::Hash([0; 32]);
                self.emit(Event::ChecksDrawn { package: id, draw, checks: plans });
                return;
            }
        }
        let first = self.state.packages[&id].run.first;
        self.accept(id);
        self.end_iterations(job, first);
        self.finish_job(job);
    }

    fn reject(&mut self, id: PackageId, verdict: Verdict) {
        let (job, first) = (self.state.packages[&id].job, self.state.packages[&id].run.first);
        self.end_check_leases(id);
        self.pay_checks(id, false);
        self.emit(Event::PackageRejected { package: id, verdict });
        self.park_hopeless(job, first);
        self.finish_job(job);
    }

    /// Rejects a package whose check failed so often that nobody seems able to make it. The units run again and are
    /// parked in the end, so that a program which only one device can run does not hold money for ever.
    pub(super) fn give_up_check(&mut self, check: CheckId) {
        let check = &self.state.checks[&check];
        // A replica that nobody can make does not keep its package's worker from going on.
        if matches!(self.state.packages[&check.package].state, crate::PackageState::Leased(_)) {
            return;
        }
        if check.failures >= self.state.params.attempts_max {
            self.reject(check.package, Verdict::Unverifiable);
        }
    }
}
