//! What a worker is given: a question to the state, asked when it requests work and when somebody wants to know why it idles.
//!
//! A worker pulls. Checks come before new units, because a committed package is paid only when they are done; jobs are
//! served by their [`score`](crate::score), and of about equal ones the worker gets the one that it is most at home with. A
//! worker gets nothing it cannot run or that pays less than it asks, no check of its own owner's work, and no units that it
//! failed while somebody else could take them.

use std::{cmp::Reverse, collections::BTreeSet};

use protocol::{Amount, CheckId, Hash, JobId, LeaseId, PackageId, PublicKey, UnitRun};

use crate::{
    Check, CheckKind, Failure, Job, OpenVerdict, PPM, PackageState, Stage, StageId, StageQueue, State,
    WaitingRun, Work, Worker,
    checks::VerifierTurn,
    queue::Segment,
    ratio::scale,
    reason::{Misfit, fits},
    score::rank_span,
    stake::value_max,
};

/// Packages of one job that a worker may hold before anybody knows how long a unit takes: one to run, one to go on with.
const UNKNOWN_PACKAGES_MAX: usize = 2;

/// Stages that are worth about the same and of which the one is chosen that a worker is most at home with: however many more
/// there are, a request costs no more.
const COMPARED_MAX: usize = 32;

/// How much faster or slower than others a worker is believed to be when its packages are sized.
const FASTER_MAX: u64 = 16;

/// How well a worker and a stage go together; the greater, the better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Affinity {
    /// It ran the program lately, so it has its blobs and pipelines.
    recent: bool,
    /// Rendezvous hashing: workers that choose by the same hash of themselves and the program spread the programs evenly, and
    /// one that comes or goes changes nobody else's choice.
    rendezvous: u8,
    /// Fewer units of the job in workers' hands.
    idle: Reverse<u64>,
}

/// Work for a worker.
pub(crate) struct Grant {
    pub work: Work,
    pub generation: u32,
    pub units: u64,
    pub time_ms_max: u64,
}

impl State {
    /// The next work for a worker; with `others_only`, of jobs of which it holds none.
    pub(crate) fn next_work(
        &self,
        key: PublicKey,
        now_ms: u64,
        backfill_us: Option<u64>,
        others_only: bool,
    ) -> Option<Grant> {
        let worker = &self.workers[&key];
        if !worker.online() || worker.leases.len() >= self.params.leases_per_worker_max as usize {
            return None;
        }
        let unwanted =
            |id: JobId| others_only && worker.leases.iter().any(|lease| self.leases[lease].job == id);
        // A reserved device takes nothing that may not end before the units it is kept for.
        if let Some(id) = self.next_check(key, worker, now_ms)
            && !unwanted(self.checks[&id].job)
            && backfill_us.is_none_or(|us| self.check_us_estimate(&self.checks[&id]) <= us)
        {
            let check = &self.checks[&id];
            let units = check.units.len() as u64;
            let time_ms_max = self.jobs[&check.job].spec.stage_of(check.units[0]).time_ms_max;
            let work = Work::Check { check: id };
            return Some(Grant { work, generation: check.failures + 1, units, time_ms_max });
        }
        // Kept for a sealed job to come, it takes nothing that it would have to finish first.
        if worker.verifier || self.booked.contains_key(&key) {
            return None;
        }
        let promised = worker.promise.filter(|promise| now_ms < promise.until_ms).map(|promise| promise.job);
        let promised = promised.into_iter().filter(|job| !unwanted(*job));
        let promised = promised.flat_map(|job| self.queue.stages_of(job));
        let mut promised = promised.filter_map(|id| self.package_for(key, worker, *id, backfill_us));
        if let Some(grant) = promised.next() {
            return Some(grant);
        }
        // Of those that are worth about as much as the best one, the one that is most at home here.
        let band = rank_span(self.params.affinity_band_ppm, &self.params);
        let mut best: Option<(i128, Affinity, Grant)> = None;
        let segments = |segment: &Segment| self.may_pass(worker, segment);
        let mut compared = 0;
        for candidate in self.queue.candidates(now_ms, &self.params, worker.offer.ask.0, segments) {
            let worse = best.as_ref().is_some_and(|(rank, ..)| candidate.rank < rank - band);
            if worse || compared == COMPARED_MAX {
                break;
            }
            if unwanted(candidate.stage.0) {
                continue;
            }
            let Some(grant) = self.package_for(key, worker, candidate.stage, backfill_us) else { continue };
            let affinity = self.affinity(key, worker, candidate.stage);
            compared += 1;
            match &mut best {
                None => best = Some((candidate.rank, affinity, grant)),
                Some((_, chosen, with)) if affinity > *chosen => (*chosen, *with) = (affinity, grant),
                Some(_) => {}
            }
            if affinity.recent {
                break;
            }
        }
        best.map(|(_, _, grant)| grant)
    }

    /// Whether a worker may find something in a segment of the queue.
    fn may_pass(&self, worker: &Worker, segment: &Segment) -> bool {
        let limits = &worker.device.limits;
        segment.storage_buffer_bytes_min <= limits.storage_buffer_bytes_max
            && segment.storage_buffers <= limits.storage_buffers_max
            && segment.features.iter().all(|feature| worker.device.features.contains(feature))
    }

    /// A package of a stage for a worker, if it may have one.
    fn package_for(
        &self,
        key: PublicKey,
        worker: &Worker,
        (id, number): StageId,
        backfill_us: Option<u64>,
    ) -> Option<Grant> {
        let job = &self.jobs[&id];
        let (stage, queue) = (&job.spec.stages[number as usize], &job.queues[number as usize]);
        self.suits(worker, stage).ok()?;
        if !self.may_read(key, worker, job) {
            return None;
        }
        if stage.devices > 1 || self.holds_enough(worker, id, queue) || !self.has_memory(worker, (id, number))
        {
            return None;
        }
        let run = queue.waiting.iter().find(|run| self.may_run(key, job, stage, run))?;
        let mut count = self.package_units(worker, stage, queue, run);
        if let Some(us) = backfill_us {
            let fit = us / self.unit_us_estimate(id, run.first);
            count = count.min(u32::try_from(fit).unwrap_or(u32::MAX));
        }
        // A replica stands in for the whole package, so what is replicated is not cut later on.
        if stage.replicas > 1 {
            count = count.min(1);
        }
        if count == 0 {
            return None;
        }
        let package = PackageId(self.next.package + 1);
        let work = Work::Package { package, job: id, run: UnitRun { first: run.first, count } };
        let time_ms_max = stage.time_ms_max;
        Some(Grant { work, generation: run.attempts + 1, units: count.into(), time_ms_max })
    }

    /// Whether a worker can run a stage, wants to for what it pays, and may hold at least one unit of it.
    ///
    /// # Errors
    ///
    /// The first [`Misfit`].
    pub fn suits(&self, worker: &Worker, stage: &Stage) -> Result<(), Misfit> {
        fits(&stage.requirements, &worker.device)?;
        let (needed, offered) = (stage.requirements.memory_bytes, worker.offer.memory_bytes);
        // A worker of old does not say what it lends.
        if offered > 0 && needed > offered {
            return Err(Misfit::Memory { needed, offered });
        }
        let (asks, pays) = (worker.offer.ask, Amount(self.params.rate(stage)));
        if asks > pays {
            return Err(Misfit::Price { asks, pays });
        }
        let left = self.value_left(worker.owner);
        if stage.unit_price > left {
            return Err(Misfit::Stake { value: stage.unit_price, left });
        }
        Ok(())
    }

    /// Value of the units that an owner's workers may still take.
    fn value_left(&self, owner: PublicKey) -> Amount {
        let held = self.owners.get(&owner).map_or(Amount::ZERO, |provider| provider.held);
        Amount(value_max(self.bonded(owner), &self.params).0.saturating_sub(held.0))
    }

    /// Whether a stage's buffers go into the memory that a worker lends, beside those of what it holds already. Packages of
    /// one stage run one after the other in the same buffers.
    fn has_memory(&self, worker: &Worker, wanted: StageId) -> bool {
        let offered = worker.offer.memory_bytes;
        if offered == 0 {
            return true;
        }
        let stage_of = |id: &LeaseId| {
            let lease = &self.leases[id];
            let unit = match lease.work {
                Work::Package { run, .. } => run.first,
                Work::Check { check } => self.checks[&check].units[0],
            };
            (lease.job, self.jobs[&lease.job].spec.place(unit).stage)
        };
        let mut stages: BTreeSet<StageId> = worker.leases.iter().map(stage_of).collect();
        if stages.is_empty() || !stages.insert(wanted) {
            return true;
        }
        let bytes =
            |(job, number): StageId| self.jobs[&job].spec.stages[number as usize].requirements.memory_bytes;
        stages.into_iter().map(bytes).fold(0, u64::saturating_add) <= offered
    }

    /// How well a worker and a stage go together.
    fn affinity(&self, key: PublicKey, worker: &Worker, (id, number): StageId) -> Affinity {
        let job = &self.jobs[&id];
        let manifest = &job.spec.stages[number as usize].manifest;
        let hash = Hash::of_parts(&[&key.0, &manifest.0]);
        Affinity {
            recent: worker.recent.contains(manifest),
            // The two highest bits: a quarter of the workers prefers each program, and load decides among them.
            rendezvous: hash.0[0] >> 6,
            idle: Reverse(job.leased_units),
        }
    }

    /// Stages with units that wait for a device, and since when: units came, one was given out, or devices were reclaimed for it.
    pub fn hungry_stages(&self) -> impl Iterator<Item = (JobId, u32, u64)> + '_ {
        let since_ms = |(job, stage): &StageId| self.jobs[job].queues[*stage as usize].hungry_since_ms;
        self.queue.iter().map(move |id| (id.0, id.1, since_ms(id)))
    }

    /// Whether an idle worker's next request could bring it units of this stage, as far as nothing comes before them: they suit
    /// it, it has not failed them, and its device is not kept for something else. A stage whose units run at the same time
    /// may be taken once all its devices are free.
    pub fn may_take(&self, key: PublicKey, job: JobId, number: u32, now_ms: u64) -> bool {
        let (entry, worker) = (&self.jobs[&job], &self.workers[&key]);
        let (stage, queue) = (&entry.spec.stages[number as usize], &entry.queues[number as usize]);
        let fits = self.suits(worker, stage).is_ok() && self.may_read(key, worker, entry);
        if !worker.provides() || !worker.leases.is_empty() || !fits {
            return false;
        }
        let plan = self.gang_plan(now_ms);
        if stage.devices > 1 {
            return plan.is_some_and(|plan| {
                (plan.job, plan.stage) == (job, number)
                    && plan.start_ms <= now_ms
                    && plan.members.contains(&key)
            });
        }
        plan.is_none_or(|plan| !plan.members.contains(&key))
            && queue.waiting.iter().any(|run| self.may_run(key, entry, stage, run))
    }

    /// Whether a worker's next request brings it work.
    pub(crate) fn would_get_work(&self, key: PublicKey, now_ms: u64) -> bool {
        let offered = || self.offered.range((key, LeaseId(0))..=(key, LeaseId(u64::MAX))).next().is_some();
        let plan = self.gang_plan(now_ms);
        let starts = plan.as_ref().is_some_and(|plan| plan.start_ms <= now_ms && plan.members.contains(&key));
        let backfill_us = plan.and_then(|plan| plan.backfill_us(key, now_ms));
        offered() || starts || self.next_work(key, now_ms, backfill_us, false).is_some()
    }

    fn check_us_estimate(&self, check: &Check) -> u64 {
        self.unit_us_estimate(check.job, check.units[0]).saturating_mul(check.units.len() as u64)
    }

    /// The next check for a worker, of the oldest job first. The market's verifier gets the one that waited longest.
    fn next_check(&self, key: PublicKey, worker: &Worker, now_ms: u64) -> Option<CheckId> {
        let may = |id: &CheckId| self.may_check(key, worker, &self.checks[id], now_ms);
        if !worker.verifier {
            return self.waiting_checks.first_for(&worker.device, |id| may(&id));
        }
        let wait_ms = self.params.verifier_wait_ms;
        let overdue =
            self.waiting_checks.by_age().take_while(|id| now_ms >= self.checks[id].since_ms + wait_ms);
        overdue.chain(self.waiting_checks.verifier_at_once()).find(may)
    }

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
    pub(crate) fn may_run(&self, key: PublicKey, job: &Job, stage: &Stage, run: &WaitingRun) -> bool {
        if !run.avoid.contains(&key) {
            return true;
        }
        if job.sealed.is_some() {
            return !self.others_read(job, stage, &run.avoid);
        }
        let rate = Amount(self.params.rate(stage));
        let avoided = run.avoid.iter().filter(|other| {
            let other = (self.supply.contains(other)).then(|| &self.workers[other]);
            other.is_some_and(|other| {
                fits(&stage.requirements, &other.device).is_ok() && other.offer.ask <= rate
            })
        });
        self.supply.count_for(&stage.requirements, rate) <= avoided.count() as u64
    }

    /// Whether a worker may make this check.
    pub(crate) fn may_check(&self, key: PublicKey, worker: &Worker, check: &Check, now_ms: u64) -> bool {
        let job = &self.jobs[&check.job];
        if fits(&job.spec.stage_of(check.units[0]).requirements, &worker.device).is_err() {
            return false;
        }
        if !self.may_read(key, worker, job) {
            return false;
        }
        if let Some(verdict) = check.appeal {
            return self.may_examine(key, worker, check, &self.verdicts[&verdict], now_ms);
        }
        let (owner, checks, committed) = match &self.packages[&check.package].state {
            PackageState::Leased(lease) => {
                (self.leases[lease].owner, &self.packages[&check.package].replicas, false)
            }
            PackageState::Committed { owner, checks, .. } => (*owner, checks, true),
        };
        let (turn, waited) =
            (self.verifier_turn(check), now_ms >= check.since_ms + self.params.verifier_wait_ms);
        if worker.verifier {
            // The market's own verifier leaves a check to others for a while. Its opinion is final, so it needs no other.
            return committed && (turn != VerifierTurn::Last || waited);
        }
        if turn == VerifierTurn::First && !waited {
            return false;
        }
        // Few can read a sealed job: one of them makes what the job cannot pay, and whoever failed may try again.
        let passed_over = check.verifier_only || check.avoid.contains(&key);
        if worker.owner == job.owner || passed_over && job.sealed.is_none() {
            return false;
        }
        owner != worker.owner
            && checks.iter().all(|id: &CheckId| self.checks[id].by(&self.leases) != Some(worker.owner))
    }

    /// Whether a worker may execute the units of a contested verdict. Whoever had a part in it may not, but the market's
    /// verifier, when it disagreed and nobody else came for half of the time.
    fn may_examine(
        &self,
        key: PublicKey,
        worker: &Worker,
        check: &Check,
        verdict: &OpenVerdict,
        now_ms: u64,
    ) -> bool {
        let Some(appeal) = &verdict.appeal else { return false };
        let twice = appeal.checks.iter().any(|id| self.checks[id].by(&self.leases) == Some(worker.owner));
        if twice || check.avoid.contains(&key) {
            return false;
        }
        if worker.verifier {
            let half_ms = verdict.until_ms.saturating_sub(check.since_ms) / 2;
            return !verdict.is_by(self.market()) || now_ms >= check.since_ms + half_ms;
        }
        // Strangers come when the verifier could have, and has not.
        let waited = now_ms >= check.since_ms + self.params.verifier_wait_ms;
        (verdict.is_by(self.market()) || waited)
            && worker.owner != self.jobs[&check.job].owner
            && !verdict.concerns(worker.owner)
    }

    /// When the market's verifier may make a check. What a job's owner says against a package is looked into by the market
    /// first, so that an owner and a friend of theirs cannot outvote a worker.
    pub(crate) fn verifier_turn(&self, check: &Check) -> VerifierTurn {
        let of_canary = |tie: CheckId| self.checks.get(&tie).is_some_and(|tie| tie.kind == CheckKind::Canary);
        let contested = check.appeal.map(|verdict| &self.verdicts[&verdict]);
        if self.jobs[&check.job].sealed.is_some() {
            VerifierTurn::Never
        } else if contested.is_some_and(|verdict| !verdict.is_by(self.market())) {
            VerifierTurn::First
        } else if check.verifier_only {
            VerifierTurn::Only
        } else if check.tie_of.is_some_and(of_canary) {
            VerifierTurn::First
        } else {
            VerifierTurn::Last
        }
    }

    /// How many units of a waiting run make a package: what keeps this worker's device busy
    /// ([`package_us`](crate::package_us)), but never so many that other workers would wait for one to finish, and no more than
    /// its owner's stake allows.
    fn package_units(&self, worker: &Worker, stage: &Stage, queue: &StageQueue, run: &WaitingRun) -> u32 {
        let wanted = match (stage.package_units, queue.unit_us()) {
            (Some(units), _) => u64::from(units),
            (None, None) => 1,
            (None, Some(unit_us)) => {
                let workers = self.supply.len().max(1) as u64;
                // A unit takes a fast device less than the others.
                let (own, all) = (worker.speed.ppm(&self.params), self.supply.capacity_ppm());
                let faster = scale(own, PPM * workers, all).clamp(PPM / FASTER_MAX, PPM * FASTER_MAX);
                let by_time = scale(worker.package_us(&self.params), faster, PPM * unit_us.max(1));
                let by_share = queue.waiting_units.div_ceil(2 * workers);
                by_time.min(by_share).clamp(1, self.params.package_units_max.into())
            }
        };
        let allowed = self.value_left(worker.owner).0.checked_div(stage.unit_price.0).unwrap_or(u64::MAX);
        // What failed is tried again in quarters, so that one poison unit is soon alone and gives up no others with it. A
        // worker that was lost once may have been lost by itself.
        let expired = run.failures.iter().filter(|failure| failure.code == Failure::EXPIRED).count();
        let quarters = run.failures.len() - expired.min(1);
        let wanted = wanted.checked_shr(2 * quarters as u32).unwrap_or(0).max(1);
        u32::try_from(wanted.min(run.count).min(stage.package_units_max()).min(allowed)).unwrap_or(u32::MAX)
    }
}
