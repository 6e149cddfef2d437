//! Devices for units that run at the same time, and devices taken back for a higher class.

use protocol::{LeaseId, PublicKey};

use super::Deciding;
use crate::{Event, Reservation};

/// Stages that one passage of time looks at.
const PRESSING_MAX: usize = 64;

impl Deciding<'_> {
    /// Gives a worker what it was offered without asking.
    pub(super) fn fetch_offered(&mut self, worker: PublicKey) -> Vec<LeaseId> {
        let offered = self.state.offered.range((worker, LeaseId(0))..=(worker, LeaseId(u64::MAX)));
        let leases: Vec<_> = offered.map(|(_, lease)| *lease).collect();
        if !leases.is_empty() {
            self.emit(Event::LeasesFetched { worker, leases: leases.clone() });
        }
        leases
    }

    /// Starts the units that run at the same time if all their devices are free, and reserves the devices if not.
    pub(super) fn assemble(&mut self, plan: Reservation) {
        if plan.start_ms > self.now_ms {
            let fresh = self.state.reservation.as_ref().is_some_and(|made| made.made_ms == plan.made_ms);
            if !fresh {
                let (job, stage, start_ms) = (plan.job, plan.stage, plan.start_ms);
                let members = plan.members.into_iter().collect();
                self.emit(Event::DevicesReserved { job, stage, start_ms, members });
            }
            return;
        }
        let time_ms_max = self.state.jobs[&plan.job].spec.stages[plan.stage as usize].time_ms_max;
        let (offer_ms_max, deadline_ms_max) =
            (self.state.params.offer_ms_max, self.lease_deadline_ms_max(time_ms_max, 1));
        let works = self.state.gang_works(&plan).into_iter();
        let leases = works
            .map(|(worker, work, generation)| {
                self.grant(worker, work, generation, offer_ms_max, deadline_ms_max)
            })
            .collect();
        self.emit(Event::LeasesOffered { leases });
    }

    /// Asks lower classes for devices that a higher one waits for.
    pub(super) fn preempt(&mut self) {
        let after_ms = self.state.params.preempt_after_ms;
        let due = self.state.pressing.iter().take_while(|(since_ms, ..)| since_ms + after_ms <= self.now_ms);
        let due: Vec<_> = due.map(|(_, job, stage)| (*job, *stage)).take(PRESSING_MAX).collect();
        for (job, stage) in due {
            let until_ms = self.now_ms + self.state.params.yield_ms_max;
            for lease in self.state.victims(job, stage) {
                self.emit(Event::YieldAsked { lease, job, until_ms });
            }
        }
    }
}
