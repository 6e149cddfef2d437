//! Taking devices back for a job of a higher class.
//!
//! A job of class high or urgent that has waited for [`Params::preempt_after_ms`](crate::Params) while no fitting device is
//! idle reclaims devices from jobs of lower classes: the lowest class first, and in it the leases granted last, which lose least.
//! The worker is asked with its next heartbeat; it commits what it has finished and gives the rest back, which counts against
//! nobody. Who does not heed loses the lease after [`Params::yield_ms_max`](crate::Params). A device that yields is promised
//! to the job.

use std::collections::BTreeSet;

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{JobId, LeaseId, PublicKey};

use crate::{Priority, State};

/// Devices reclaimed for one stage at a time.
const DEVICES_MAX: u64 = 16;
/// Leases looked at for one stage at a time.
const SCANNED_MAX: usize = 4_096;

/// A device that a job reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Promise {
    /// The job.
    pub job: JobId,
    /// Until when the job's units come first on it.
    pub until_ms: u64,
}

impl State {
    /// The leases that are to be yielded to a stage, none while a device is idle that could run it.
    pub(crate) fn victims(&self, job: JobId, number: u32) -> Vec<LeaseId> {
        let entry = &self.jobs[&job];
        let (stage, queue) = (&entry.spec.stages[number as usize], &entry.queues[number as usize]);
        let suits = |key: PublicKey| {
            let worker = &self.workers[&key];
            self.suits(worker, stage).is_ok()
                && self.may_read(key, worker, entry)
                && !self.booked.contains_key(&key)
                && queue.waiting.iter().any(|run| self.may_run(key, entry, stage, run))
        };
        let all = |class| self.classes.range((class, LeaseId(0))..=(class, LeaseId(u64::MAX)));
        let lower = [Priority::Low, Priority::Normal, Priority::High].into_iter();
        let mut lower =
            lower.filter(|class| *class < entry.spec.priority).flat_map(|class| all(class).rev()).peekable();
        if lower.peek().is_none() {
            return Vec::new();
        }
        let wanted = queue.waiting_units.min(DEVICES_MAX.max(stage.devices.into()));
        let idle = self.idle.iter().filter(|key| suits(**key));
        // The idle ones come by themselves.
        let wanted = wanted.saturating_sub(idle.take(wanted as usize).count() as u64);
        let mut workers = BTreeSet::new();
        for (_, id) in lower.take(SCANNED_MAX) {
            if workers.len() as u64 >= wanted {
                break;
            }
            let lease = &self.leases[id];
            let free = self.workers[&lease.worker].promise.is_none_or(|promise| promise.job == job);
            if lease.yields_to.is_none() && free && suits(lease.worker) {
                workers.insert(lease.worker);
            }
        }
        // A worker yields all it holds of lower classes: what it keeps would run first.
        let held = workers.iter().flat_map(|worker| &self.workers[worker].leases);
        held.copied().filter(|id| self.yields(*id, entry.spec.priority)).collect()
    }

    fn yields(&self, id: LeaseId, to: Priority) -> bool {
        let lease = &self.leases[&id];
        lease.yields_to.is_none()
            && matches!(lease.work, crate::Work::Package { .. })
            && self.jobs[&lease.job].spec.priority < to
    }
}
