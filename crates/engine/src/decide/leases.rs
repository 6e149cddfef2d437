//! Giving work to workers.
//!
//! A worker pulls. Checks come before new units, because a committed package is paid only when they are done; jobs are
//! served in the order they came. A worker gets nothing it cannot run, no check of its own owner's work, and no units that
//! it failed while somebody else could take them.

use protocol::{CheckId, JobId, LeaseId, PackageId, PublicKey, UnitRun};

use super::Deciding;
use crate::{
    Answer, Check, Event, PackageState, Rejection, Release, Stage, StageQueue, State, WaitingRun, Work,
    Worker, reason::fits,
};

/// Waiting checks of one job that one request looks at: an owner whose own packages are all that waits is not worth a longer
/// search.
const CHECKS_SCANNED_MAX: usize = 256;

/// A lease never lasts longer than this.
const LEASE_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// Work for a worker.
struct Grant {
    work: Work,
    generation: u32,
    units: u64,
    time_ms_max: u64,
}

impl Deciding<'_> {
    pub(super) fn request_leases(
        &mut self,
        worker: PublicKey,
        instance: &str,
        packages_max: u32,
    ) -> Result<Answer, Rejection> {
        self.live_worker(worker, instance)?;
        let mut granted = Vec::new();
        while granted.len() < packages_max as usize {
            let Some(Grant { work, generation, units, time_ms_max }) = self.next_work(worker) else { break };
            let lease = LeaseId(self.state.next.lease + 1);
            let deadline_ms = self.now_ms + self.state.params.lease_ms;
            let deadline_ms_max = self.lease_deadline_ms_max(time_ms_max, units);
            self.emit(Event::LeaseGranted { lease, worker, work, generation, deadline_ms, deadline_ms_max });
            granted.push(lease);
        }
        Ok(Answer::Leases(granted))
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

    /// The next work for a worker.
    fn next_work(&self, key: PublicKey) -> Option<Grant> {
        let worker = &self.state.workers[&key];
        if !worker.online() || worker.leases.len() >= self.state.params.leases_per_worker_max as usize {
            return None;
        }
        if let Some(id) = self.next_check(key, worker) {
            let check = &self.state.checks[&id];
            let units = check.units.len() as u64;
            let time_ms_max = self.state.jobs[&check.job].spec.stage_of(check.units[0]).time_ms_max;
            let work = Work::Check { check: id };
            return Some(Grant { work, generation: check.failures + 1, units, time_ms_max });
        }
        if worker.verifier {
            return None;
        }
        self.state.runnable.iter().find_map(|(id, number)| {
            let job = &self.state.jobs[id];
            let (stage, queue) = (&job.spec.stages[*number as usize], &job.queues[*number as usize]);
            fits(&stage.requirements, &worker.device).ok()?;
            if self.state.holds_enough(worker, *id, queue) {
                return None;
            }
            let run = queue.waiting.iter().find(|run| self.state.may_run(key, stage, run))?;
            let count = self.state.package_units(stage, queue, run);
            let package = PackageId(self.state.next.package + 1);
            let work = Work::Package { package, job: *id, run: UnitRun { first: run.first, count } };
            let time_ms_max = stage.time_ms_max;
            Some(Grant { work, generation: run.attempts + 1, units: count.into(), time_ms_max })
        })
    }

    /// The next check for a worker, of the oldest job first.
    fn next_check(&self, key: PublicKey, worker: &Worker) -> Option<CheckId> {
        let waiting = &self.state.job_checks;
        let mut from = (JobId(0), CheckId(0));
        loop {
            let (job, _) = *waiting.range(from..).next()?;
            let stages = &self.state.jobs[&job].spec.stages;
            if stages.iter().any(|stage| fits(&stage.requirements, &worker.device).is_ok()) {
                let of_job = waiting.range((job, CheckId(0))..=(job, CheckId(u64::MAX)));
                let found = of_job
                    .take(CHECKS_SCANNED_MAX)
                    .map(|(_, id)| *id)
                    .find(|id| self.state.may_check(key, worker, &self.state.checks[id], self.now_ms));
                if found.is_some() {
                    return found;
                }
            }
            from = (JobId(job.0 + 1), CheckId(0));
        }
    }
}

/// Packages of one job that a worker may hold before anybody knows how long a unit takes: one to run, one to go on with.
const UNKNOWN_PACKAGES_MAX: usize = 2;

impl State {
    /// Whether a worker already holds as much of a job as it should.
    fn holds_enough(&self, worker: &Worker, id: JobId, queue: &StageQueue) -> bool {
        let held = worker.leases.iter().filter_map(|lease| match self.leases[lease].work {
            Work::Package { job, run, .. } if job == id => Some(u64::from(run.count)),
            _ => None,
        });
        match queue.unit_us() {
            None => held.count() >= UNKNOWN_PACKAGES_MAX,
            // One package ahead is always allowed, however long it takes.
            Some(unit_us) => {
                let (packages, units) =
                    held.fold((0, 0), |(packages, units), count| (packages + 1, units + count));
                packages > 1 && units.saturating_mul(unit_us) >= self.params.hold_target_ms * 1_000
            }
        }
    }

    /// Whether a worker may take these units: it has not failed them, or nobody else is there who has not.
    pub(crate) fn may_run(&self, key: PublicKey, stage: &Stage, run: &WaitingRun) -> bool {
        !run.avoid.contains(&key)
            || !self.providers.iter().any(|other| {
                !run.avoid.contains(other) && fits(&stage.requirements, &self.workers[other].device).is_ok()
            })
    }

    /// Whether a worker may make this check.
    pub(crate) fn may_check(&self, key: PublicKey, worker: &Worker, check: &Check, now_ms: u64) -> bool {
        let job = &self.jobs[&check.job];
        if fits(&job.spec.stage_of(check.units[0]).requirements, &worker.device).is_err() {
            return false;
        }
        if worker.verifier {
            // The market's own verifier leaves a check to others for a while. Its opinion is final, so it needs no other.
            return check.verifier_only || now_ms >= check.since_ms + self.params.verifier_wait_ms;
        }
        if check.verifier_only || worker.owner == job.owner || check.avoid.contains(&key) {
            return false;
        }
        let PackageState::Committed { owner, checks, .. } = &self.packages[&check.package].state else {
            return false;
        };
        *owner != worker.owner
            && checks.iter().all(|id: &CheckId| self.checks[id].by(&self.leases) != Some(worker.owner))
    }

    /// How many units of a waiting run make a package: what takes about `package_target_ms`, but never so many that other
    /// workers would wait for one to finish.
    fn package_units(&self, stage: &Stage, queue: &StageQueue, run: &WaitingRun) -> u32 {
        let wanted = match (stage.package_units, queue.unit_us()) {
            (Some(units), _) => u64::from(units),
            (None, None) => 1,
            (None, Some(unit_us)) => {
                let by_time = self.params.package_target_ms * 1_000 / unit_us.max(1);
                let workers = self.providers.len().max(1) as u64;
                let by_share = queue.waiting_units.div_ceil(2 * workers);
                by_time.min(by_share).clamp(1, self.params.package_units_max.into())
            }
        };
        u32::try_from(wanted.min(run.count)).unwrap_or(u32::MAX)
    }
}
