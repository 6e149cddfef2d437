//! Granting and taking back leases. What a worker gets is decided in [`matching`](crate::matching).

use protocol::{LeaseId, PublicKey};

use super::Deciding;
use crate::{Answer, Event, Rejection, Release, Work, matching::Grant};

/// A lease never lasts longer than this.
const LEASE_MS_MAX: u64 = 24 * 3_600 * 1_000;

impl Deciding<'_> {
    pub(super) fn request_leases(
        &mut self,
        worker: PublicKey,
        instance: &str,
        packages_max: u32,
        others_only: bool,
    ) -> Result<Answer, Rejection> {
        self.live_worker(worker, instance)?;
        let plan = self.state.gang_plan(self.now_ms);
        let backfill_us = plan.as_ref().and_then(|plan| plan.backfill_us(worker, self.now_ms));
        if let Some(plan) = plan {
            self.assemble(plan);
        }
        let mut granted = self.fetch_offered(worker);
        while granted.len() < packages_max as usize {
            let Some(Grant { work, generation, units, time_ms_max }) =
                self.state.next_work(worker, self.now_ms, backfill_us, others_only)
            else {
                break;
            };
            let deadline_ms_max = self.lease_deadline_ms_max(time_ms_max, units);
            let lease = self.grant(worker, work, generation, self.state.params.lease_ms, deadline_ms_max);
            if let Work::Package { package, .. } = work {
                self.replicate(package);
            }
            granted.push(lease);
        }
        Ok(Answer::Leases(granted))
    }

    /// Gives a worker work that it has to renew, or to fetch, within `first_ms`.
    pub(super) fn grant(
        &mut self,
        worker: PublicKey,
        work: Work,
        generation: u32,
        first_ms: u64,
        deadline_ms_max: u64,
    ) -> LeaseId {
        let lease = LeaseId(self.state.next.lease + 1);
        let deadline_ms = self.now_ms + first_ms;
        self.emit(Event::LeaseGranted { lease, worker, work, generation, deadline_ms, deadline_ms_max });
        lease
    }

    /// When a lease granted now ends however often a heartbeat renews it: twice the time its units may take, and a lease's
    /// length to spare.
    pub(super) fn lease_deadline_ms_max(&self, time_ms_max: u64, units: u64) -> u64 {
        let work_ms = time_ms_max.saturating_mul(units).saturating_mul(2);
        self.now_ms + self.state.params.lease_ms + work_ms.min(LEASE_MS_MAX)
    }

    pub(super) fn release(
        &mut self,
        worker: PublicKey,
        id: LeaseId,
        generation: u32,
        release: Release,
    ) -> Result<Answer, Rejection> {
        let lease = self.state.leases.get(&id).ok_or_else(|| self.absent_lease(id))?;
        if lease.worker != worker {
            return Err(Rejection::LeaseForeign(id));
        }
        if lease.generation != generation {
            return Err(Rejection::LeaseStale { lease: id, expected: lease.generation, found: generation });
        }
        let cause = match release {
            Release::Returned if lease.yields_to.is_some() => crate::EndCause::Preempted,
            Release::Returned => crate::EndCause::Returned,
            Release::Failed { code, detail } => crate::EndCause::Failed { code, detail },
        };
        self.end_lease(id, cause);
        Ok(Answer::Done)
    }

    pub(super) fn absent_lease(&self, id: LeaseId) -> Rejection {
        let existed = id.0 > 0 && id.0 <= self.state.next.lease;
        if existed { Rejection::LeaseExpired(id) } else { Rejection::LeaseUnknown(id) }
    }
}
