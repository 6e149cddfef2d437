//! Critical units: computed by several owners at the same time, so that losing one of them costs no time.
//!
//! Replicas are checks that do not wait for the package's receipt. When the package's worker loses it, one of those who made
//! or are making such a check goes on as its worker, and another replica is planned in its place. Workers do not notice: a
//! check's lease is an ordinary lease.

use protocol::{CheckId, LeaseId, PackageId};

use super::Deciding;
use crate::{CheckState, EndCause, Event, PackageState, Work};

impl Deciding<'_> {
    /// Plans the replicas of a package that was just leased.
    pub(super) fn replicate(&mut self, id: PackageId) {
        let package = &self.state.packages[&id];
        let (job, run) = (package.job, package.run);
        let replicas = self.state.jobs[&job].spec.stage_of(run.first).replicas;
        if replicas > 1 {
            let plans = (1..replicas).map(|_| run.units().collect()).collect();
            let checks = self.plan_checks(job, plans, None);
            self.emit(Event::ReplicasPlanned { package: id, job, checks });
        }
    }

    /// The replica that takes a lost package over: one that is made, or else one that is being made.
    pub(super) fn stand_in(&self, work: Work) -> Option<CheckId> {
        let Work::Package { package, .. } = work else { return None };
        let replicas = &self.state.packages[&package].replicas;
        let made = |id: &&CheckId| matches!(self.state.checks[*id].state, CheckState::Early { .. });
        let making = |id: &&CheckId| matches!(self.state.checks[*id].state, CheckState::Leased(_));
        replicas.iter().find(made).or_else(|| replicas.iter().find(making)).copied()
    }

    /// Ends a package's lease; its replica goes on.
    pub(super) fn pass_on(&mut self, lease: LeaseId, cause: EndCause, replica: CheckId) {
        let (id, run, job) = match self.state.leases[&lease].work {
            Work::Package { package, run, job } => (package, run, job),
            Work::Check { .. } => unreachable!("a check has no replicas"),
        };
        self.emit(Event::PackagePassedOn { lease, cause, check: replica });
        let checks = self.plan_checks(job, vec![run.units().collect()], None);
        match self.state.packages[&id].state {
            PackageState::Leased(_) => self.emit(Event::ReplicasPlanned { package: id, job, checks }),
            PackageState::Committed { .. } => {
                let draw = protocol::Hash([0; 32]);
                self.emit(Event::ChecksDrawn { package: id, draw, checks });
                self.plan_looks(id, None);
                self.compare_replicas(id);
            }
        }
    }
}
