//! Why jobs wait and workers idle: values with the numbers that matter, computed from the state when somebody asks, so that
//! they are never out of date. The shell renders them to words.

use protocol::{Amount, DeviceFacts, JobId, PublicKey, ReservationId};

use crate::{CheckState, Job, JobState, LeaveCause, Requirements, Shortfall, State, Worker};

/// What a device lacks for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// A storage binding is larger than the device's limit.
    StorageBuffer {
        /// Bytes needed.
        needed: u64,
        /// Bytes the device binds at most.
        offered: u64,
    },
    /// A pass binds more storage buffers than the device can.
    StorageBuffers {
        /// Bindings needed.
        needed: u32,
        /// Bindings the device offers.
        offered: u32,
    },
    /// A WebGPU feature is missing.
    Feature(String),
    /// A unit needs more memory than the worker lends.
    Memory {
        /// Bytes needed.
        needed: u64,
        /// Bytes lent.
        offered: u64,
    },
    /// The job pays less than the worker asks.
    Price {
        /// For a reference second.
        asks: Amount,
        /// For a reference second.
        pays: Amount,
    },
    /// A unit is worth more than the owner's stake lets it hold.
    Stake {
        /// Of the unit.
        value: Amount,
        /// What the owner's workers may still take.
        left: Amount,
    },
}

/// Whether a device can run a job, and what it lacks if not.
///
/// # Errors
///
/// The first [`Misfit`].
pub fn fits(needs: &Requirements, device: &DeviceFacts) -> Result<(), Misfit> {
    let limits = &device.limits;
    if needs.storage_buffer_bytes > limits.storage_buffer_bytes_max {
        let (needed, offered) = (needs.storage_buffer_bytes, limits.storage_buffer_bytes_max);
        return Err(Misfit::StorageBuffer { needed, offered });
    }
    if needs.storage_buffers > limits.storage_buffers_max {
        let (needed, offered) = (needs.storage_buffers, limits.storage_buffers_max);
        return Err(Misfit::StorageBuffers { needed, offered });
    }
    match needs.features.iter().find(|feature| !device.features.contains(feature)) {
        Some(missing) => Err(Misfit::Feature(missing.clone())),
        None => Ok(()),
    }
}

/// What a job's first blocked unit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blockage {
    /// The iteration of the blocked unit, from 0.
    pub iteration: u64,
    /// Its stage.
    pub stage: u32,
    /// The stage whose results it lacks.
    pub upstream: u32,
    /// Of the units that it reads there, those with a result.
    pub done: u64,
    /// The units that it reads there.
    pub of: u64,
}

/// Why a job is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobReason {
    /// Workers have its units.
    Running {
        /// Units in their hands.
        leased: u64,
        /// Units being checked.
        checking: u64,
        /// Units that wait for a free worker.
        waiting: u64,
    },
    /// No worker is online.
    NoWorkers,
    /// No worker that is online can run it.
    NoWorkerFits {
        /// Workers online.
        online: u64,
        /// What one of them lacks.
        lacks: Misfit,
    },
    /// Every worker that can run it works on something else.
    AllBusy {
        /// Workers that can run it.
        fitting: u64,
        /// Workers online.
        online: u64,
        /// What one of the others lacks, if not all can.
        lacks: Option<Misfit>,
        /// When the first of them is estimated to have finished what it holds, once units like those were measured.
        free_in_ms: Option<u64>,
    },
    /// Its units run at the same time, and there are not that many devices.
    TooFewDevices {
        /// Devices needed at once.
        needed: u64,
        /// Workers online that can run it.
        fitting: u64,
    },
    /// Its units run at the same time; devices are kept for them until enough are free.
    Gathering {
        /// Devices needed at once.
        needed: u64,
        /// Of those kept, the ones that are free.
        free: u64,
        /// When the last of them is, by estimate.
        start_ms: u64,
    },
    /// Its units run at the same time, and another job of that kind comes first.
    GangBehind {
        /// The other job.
        job: JobId,
    },
    /// A worker that can run it is idle and will be given its units at its next request.
    NextRequest {
        /// Workers that can run it and are idle.
        idle: u64,
    },
    /// All units are committed, but nobody may check them: the workers online belong to the owners who computed them.
    NoChecker {
        /// Units that wait for a check.
        checking: u64,
        /// Workers online.
        online: u64,
    },
    /// It is sealed, and of the workers that can read it none is there to go on.
    RecipientsAway {
        /// Workers that can read it.
        recipients: u64,
        /// Those of them that are online.
        online: u64,
        /// Units that wait for a check.
        checking: u64,
    },
    /// All units are committed and being checked.
    Checking {
        /// Units that wait for their check's result.
        checking: u64,
    },
    /// Every unit is accepted.
    Done,
    /// Its owner ended it.
    Cancelled,
    /// It ended with units that have no result.
    Incomplete {
        /// Why.
        cause: Shortfall,
        /// Units that were given up.
        parked: u64,
        /// Units that wait for others' results in vain.
        blocked: u64,
        /// Units that nobody began.
        undone: u64,
        /// Which units were given up first, and how they failed.
        why: String,
    },
    /// Its owner holds back what waits.
    Paused {
        /// Units that wait.
        waiting: u64,
        /// Units in workers' hands.
        leased: u64,
        /// Units being checked.
        checking: u64,
    },
    /// Its deadline passed, and what runs may still finish.
    Overdue {
        /// Units in workers' hands.
        leased: u64,
        /// Units being checked.
        checking: u64,
    },
}

/// Why a worker is idle, or what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerReason {
    /// It holds leases.
    Working {
        /// How many.
        leases: u64,
    },
    /// There is work, and it gets some at its next request.
    NextRequest,
    /// Nobody wants anything computed.
    NoJobs,
    /// Jobs wait, but it lacks something for each.
    NoJobFits {
        /// Jobs that wait.
        jobs: u64,
        /// What it lacks for the first of them.
        lacks: Misfit,
    },
    /// The units that wait are ones it failed; another worker shall try them.
    OnlyFailedUnits {
        /// Jobs that wait.
        jobs: u64,
    },
    /// Only checks wait, and it may make none of them (its owner computed them or asked for them).
    OnlyOwnChecks {
        /// Checks that wait.
        checks: u64,
    },
    /// What waits is sealed to others.
    OnlySealed {
        /// Jobs that wait.
        jobs: u64,
    },
    /// It is kept for a sealed job to come.
    Booked {
        /// The reservation.
        reservation: ReservationId,
        /// Until when at most.
        until_ms: u64,
    },
    /// All that waits is held back by its owners.
    OnlyPaused {
        /// Jobs.
        jobs: u64,
    },
    /// All units are with other workers.
    AllLeased {
        /// Units in other workers' hands or being checked.
        units: u64,
    },
    /// It is the market's verifier and no check has waited long enough.
    VerifierStandby {
        /// Checks that wait for others first.
        checks: u64,
    },
    /// Its device is kept for a job whose units run at the same time, and nothing that waits is short enough to run before.
    Reserved {
        /// The job.
        job: JobId,
        /// When its units start, by estimate.
        start_ms: u64,
    },
    /// It finishes its leases and takes no more.
    Draining {
        /// Leases left.
        leases: u64,
    },
    /// It left or was silent.
    Gone(LeaveCause),
}

impl Job {
    /// How it ended; nothing before it did.
    pub fn end_reason(&self) -> Option<JobReason> {
        Some(match &self.state {
            JobState::Done => JobReason::Done,
            JobState::Cancelled => JobReason::Cancelled,
            JobState::Incomplete { cause, why } => JobReason::Incomplete {
                cause: *cause,
                parked: self.parked_units,
                blocked: self.blocked_units,
                undone: self.waiting_units(),
                why: why.clone(),
            },
            JobState::Waiting | JobState::Running => return None,
        })
    }
}

impl State {
    /// Why a job is not done; nothing when there is no such job.
    pub fn job_reason(&self, id: JobId, now_ms: u64) -> Option<JobReason> {
        let job = self.jobs.get(&id)?;
        Some(job.end_reason().unwrap_or_else(|| self.unfinished_reason(id, job, now_ms)))
    }

    fn unfinished_reason(&self, id: JobId, job: &Job, now_ms: u64) -> JobReason {
        let (leased, checking) = (job.leased_units, job.checking_units);
        if job.overdue {
            return JobReason::Overdue { leased, checking };
        }
        if job.paused && job.waiting_units() > 0 {
            return JobReason::Paused { waiting: job.waiting_units(), leased, checking };
        }
        if job.leased_units > 0 {
            let (leased, checking, waiting) = (job.leased_units, job.checking_units, job.waiting_units());
            return JobReason::Running { leased, checking, waiting };
        }
        let readers = self.providers.iter().map(|key| (*key, &self.workers[key]));
        let readers = readers.filter(|(key, worker)| self.may_read(*key, worker, job));
        if job.waiting_units() == 0 {
            return self.checking_reason(job, readers);
        }
        let online: Vec<_> = readers.collect();
        let count = online.len() as u64;
        if online.is_empty()
            && let Some((recipients, online)) = self.recipients(job)
        {
            return JobReason::RecipientsAway { recipients, online, checking };
        }
        if online.is_empty() {
            return JobReason::NoWorkers;
        }
        let waiting = || job.spec.stages.iter().zip(&job.queues).filter(|(_, queue)| queue.waiting_units > 0);
        let fits_some = |worker: &Worker| waiting().any(|(stage, _)| self.suits(worker, stage).is_ok());
        let mut fitting: Vec<_> = online.iter().filter(|(_, worker)| fits_some(worker)).collect();
        if fitting.is_empty() {
            let (stage, _) = waiting().next().expect("some units wait");
            let lacks = self.suits(online[0].1, stage).expect_err("no worker fits");
            return JobReason::NoWorkerFits { online: count, lacks };
        }
        if waiting().all(|(stage, _)| stage.devices > 1) {
            return self.gang_reason(id, now_ms, fitting.len() as u64);
        }
        // Who failed all that waits is passed over while there is somebody else.
        fitting.retain(|(key, worker)| {
            waiting().any(|(stage, queue)| {
                stage.devices == 1
                    && self.suits(worker, stage).is_ok()
                    && queue.waiting.iter().any(|run| self.may_run(*key, job, stage, run))
            })
        });
        // A device that is kept for others may be idle and get nothing.
        let gets = |key, worker: &Worker| {
            worker.leases.is_empty()
                && !self.booked.contains_key(&key)
                && (self.gangs.is_empty() || self.would_get_work(key, now_ms))
        };
        match fitting.iter().filter(|(key, worker)| gets(*key, worker)).count() as u64 {
            0 => {
                let needs = &waiting().next().expect("some units wait").0.requirements;
                let lacks = online.iter().find_map(|(_, worker)| fits(needs, &worker.device).err());
                let free = fitting.iter().filter_map(|(_, worker)| self.free_in_ms(worker, now_ms));
                let (fitting, free_in_ms) = (fitting.len() as u64, free.min());
                JobReason::AllBusy { fitting, online: count, lacks, free_in_ms }
            }
            idle => JobReason::NextRequest { idle },
        }
    }

    fn gang_reason(&self, id: JobId, now_ms: u64, fitting: u64) -> JobReason {
        let gangs = self.gangs.range((id, 0)..=(id, u32::MAX));
        let needed = gangs.map(|(_, stage)| self.gang_size(id, *stage)).min().unwrap_or(0);
        match self.gang_plan(now_ms) {
            Some(plan) if plan.job != id => JobReason::GangBehind { job: plan.job },
            Some(plan) if plan.start_ms <= now_ms => {
                JobReason::NextRequest { idle: plan.members.len() as u64 }
            }
            Some(plan) => {
                let free =
                    plan.members.iter().filter(|key| self.workers[key].leases.is_empty()).count() as u64;
                JobReason::Gathering { needed, free, start_ms: plan.start_ms }
            }
            None => JobReason::TooFewDevices { needed, fitting },
        }
    }

    /// When a worker is estimated to have finished all it holds; nothing while units of one of its leases were never measured.
    fn free_in_ms(&self, worker: &Worker, now_ms: u64) -> Option<u64> {
        let leases = || worker.leases.iter().map(|id| &self.leases[id]);
        let since_ms = leases().map(|lease| lease.granted_at_ms).min()?;
        let mut work_us = 0u64;
        for lease in leases() {
            let units = self.lease_units(lease);
            let job = &self.jobs[&lease.job];
            let stage = job.spec.place(units.first()?.first).stage;
            let count: u64 = units.iter().map(|run| u64::from(run.count)).sum();
            work_us = work_us.saturating_add(job.queues[stage as usize].unit_us()?.saturating_mul(count));
        }
        Some((since_ms + work_us / 1_000).saturating_sub(now_ms))
    }

    fn checking_reason<'a>(
        &self,
        job: &Job,
        online: impl Iterator<Item = (PublicKey, &'a Worker)>,
    ) -> JobReason {
        let checking = job.checking_units;
        let stuck = job.committed.iter().any(|id| {
            let crate::PackageState::Committed { checks, .. } = &self.packages[id].state else {
                return false;
            };
            checks.iter().any(|id| {
                let check = &self.checks[id];
                // At the end of time, so that the verifier's courtesy does not count.
                matches!(check.state, CheckState::Waiting)
                    && !self
                        .workers
                        .iter()
                        .any(|(key, w)| w.online() && self.may_check(*key, w, check, u64::MAX))
            })
        });
        if let (true, Some((recipients, online))) = (stuck, self.recipients(job)) {
            return JobReason::RecipientsAway { recipients, online, checking };
        }
        if stuck {
            JobReason::NoChecker { checking, online: online.count() as u64 }
        } else {
            JobReason::Checking { checking }
        }
    }

    /// Why a worker is idle or what it does; nothing when there is no such worker.
    pub fn worker_reason(&self, key: PublicKey, now_ms: u64) -> Option<WorkerReason> {
        let worker = self.workers.get(&key)?;
        let leases = worker.leases.len() as u64;
        if let Some(cause) = worker.gone {
            return Some(WorkerReason::Gone(cause));
        }
        if worker.draining {
            return Some(WorkerReason::Draining { leases });
        }
        if leases > 0 {
            return Some(WorkerReason::Working { leases });
        }
        if self.would_get_work(key, now_ms) {
            return Some(WorkerReason::NextRequest);
        }
        let checks = self.waiting_checks.len() as u64;
        if let Some(plan) = self.gang_plan(now_ms)
            && plan.backfill_us(key, now_ms).is_some()
        {
            return Some(WorkerReason::Reserved { job: plan.job, start_ms: plan.start_ms });
        }
        if worker.verifier {
            return Some(WorkerReason::VerifierStandby { checks });
        }
        if let Some(reservation) = self.booked.get(&key).copied() {
            let until_ms = self.bookings[&reservation].until_ms;
            return Some(WorkerReason::Booked { reservation, until_ms });
        }
        let (mut lacks, mut failed, mut sealed) = (None, false, 0);
        for (id, number) in self.queue.iter() {
            let job = &self.jobs[id];
            let (stage, queue) = (&job.spec.stages[*number as usize], &job.queues[*number as usize]);
            match self.suits(worker, stage) {
                Err(misfit) => lacks = lacks.or(Some(misfit)),
                Ok(()) if !self.may_read(key, worker, job) => sealed += 1,
                Ok(()) => failed |= !queue.waiting.iter().any(|run| self.may_run(key, job, stage, run)),
            }
        }
        let jobs = self.queue.len() as u64;
        if failed {
            return Some(WorkerReason::OnlyFailedUnits { jobs });
        }
        if let Some(lacks) = lacks {
            return Some(WorkerReason::NoJobFits { jobs, lacks });
        }
        if sealed > 0 {
            return Some(WorkerReason::OnlySealed { jobs: sealed });
        }
        if checks > 0 {
            return Some(WorkerReason::OnlyOwnChecks { checks });
        }
        let busy: u64 =
            self.leases.values().filter(|l| l.worker != key).count() as u64 + self.comparing.len() as u64;
        let paused = self.paused_jobs.len() as u64;
        Some(match (busy, paused) {
            (1.., _) => WorkerReason::AllLeased { units: busy },
            (0, 1..) => WorkerReason::OnlyPaused { jobs: paused },
            (0, 0) => WorkerReason::NoJobs,
        })
    }
}
