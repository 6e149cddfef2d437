//! Units that must run at the same time, and what may run before them: reservation and EASY backfill.
//!
//! A stage with `devices` = n gives its units out n at a time, all in one decision. While fewer than n fitting devices are free,
//! the first such stage in the queue has a *reservation*: the n devices that are free earliest by estimate, and the moment when the
//! last of them is. Until then a reserved device takes other work only if that is estimated to end before that moment, so that
//! nothing starts later for it (Lifka's EASY backfill, with one reservation at a time). Devices that are not reserved are not
//! concerned.
//!
//! A worker pulls, and its request brings leases to itself only. The other members' leases are *offered*: each member gets
//! them with its next request, or loses them when it does not ask in time.

use std::collections::BTreeSet;

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{JobId, PackageId, PublicKey, UnitRun};

use crate::{State, WaitingRun, Work, Worker};

/// Devices that are kept for a stage whose units run at the same time.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Reservation {
    /// The job.
    pub job: JobId,
    /// The stage's number.
    pub stage: u32,
    /// When the last of the devices is free, by estimate.
    pub start_ms: u64,
    /// The devices.
    pub members: BTreeSet<PublicKey>,
    /// When this was estimated; it is estimated anew after a while.
    pub made_ms: u64,
}

/// After this long a reservation is estimated anew.
pub(crate) const RESERVATION_MS_MAX: u64 = 1_000;

impl State {
    /// The reservation in force, if one is needed.
    pub fn reservation(&self) -> Option<&Reservation> {
        self.reservation.as_ref()
    }

    /// Workers that were given leases without asking and have not fetched them yet.
    pub fn offered_workers(&self) -> impl Iterator<Item = PublicKey> + '_ {
        let mut last = None;
        self.offered
            .iter()
            .map(|(worker, _)| *worker)
            .filter(move |worker| last.replace(*worker) != Some(*worker))
    }

    /// Devices that the next units of a stage take at once.
    pub(crate) fn gang_size(&self, job: JobId, stage: u32) -> u64 {
        let entry = &self.jobs[&job];
        u64::from(entry.spec.stages[stage as usize].devices).min(entry.queues[stage as usize].waiting_units)
    }

    /// The stage that is reserved for now or would be: the first in the queue of those whose units run at the same time and
    /// that enough devices could run. Its devices are those of the reservation while that is fresh.
    pub(crate) fn gang_plan(&self, now_ms: u64) -> Option<Reservation> {
        if self.gangs.is_empty() {
            return None;
        }
        if let Some(made) = &self.reservation
            && now_ms < made.made_ms + RESERVATION_MS_MAX
            && self.gangs.contains(&(made.job, made.stage))
            && made.members.len() as u64 == self.gang_size(made.job, made.stage)
            && made
                .members
                .iter()
                .all(|member| self.workers[member].provides() && !self.booked.contains_key(member))
        {
            let idle = made.members.iter().all(|member| self.workers[member].leases.is_empty());
            let start_ms = if idle { now_ms } else { made.start_ms.max(now_ms + 1) };
            return Some(Reservation { start_ms, ..made.clone() });
        }
        self.gangs_in_order().find_map(|(job, stage)| self.plan_gang(job, stage, now_ms))
    }

    /// Stages whose units run at the same time, higher classes and older jobs first.
    fn gangs_in_order(&self) -> impl Iterator<Item = (JobId, u32)> {
        let mut gangs: Vec<_> = self.gangs.iter().copied().collect();
        gangs.sort_by_key(|(job, stage)| (std::cmp::Reverse(self.jobs[job].spec.priority), *job, *stage));
        gangs.into_iter()
    }

    fn plan_gang(&self, job: JobId, number: u32, now_ms: u64) -> Option<Reservation> {
        let stage = &self.jobs[&job].spec.stages[number as usize];
        let needed = usize::try_from(self.gang_size(job, number)).ok()?;
        let mut free: Vec<_> = self
            .providers
            .iter()
            .map(|key| (*key, &self.workers[key]))
            .filter(|(key, worker)| !self.booked.contains_key(key) && self.suits(worker, stage).is_ok())
            .map(|(key, worker)| (self.free_at_ms(worker, now_ms), key))
            .collect();
        if free.len() < needed {
            return None;
        }
        // Whoever failed none of the units, as far as there are enough of them; then whoever is free first.
        free.sort_unstable();
        let units = self.gang_waiting(job, number, needed);
        let unspoilt = |key: PublicKey| units.iter().all(|(_, run)| !run.avoid.contains(&key));
        free.sort_by_key(|(_, key)| !unspoilt(*key));
        free.truncate(needed);
        let start_ms = free.iter().map(|(at, _)| *at).max()?;
        let members = free.into_iter().map(|(_, key)| key).collect();
        Some(Reservation { job, stage: number, start_ms, members, made_ms: now_ms })
    }

    /// The next units of a stage and the runs they are in.
    fn gang_waiting(&self, job: JobId, number: u32, count: usize) -> Vec<(u64, &WaitingRun)> {
        let queue = &self.jobs[&job].queues[number as usize];
        let units =
            queue.waiting.iter().flat_map(|run| (run.first..run.first + run.count).map(move |u| (u, run)));
        units.take(count).collect()
    }

    /// The work of each member of a plan, with its generation: a unit that it did not fail, as far as there is one.
    pub(crate) fn gang_works(&self, plan: &Reservation) -> Vec<(PublicKey, Work, u32)> {
        let units = self.gang_waiting(plan.job, plan.stage, plan.members.len());
        let mut members: Vec<_> = plan.members.iter().copied().collect();
        let mut works = Vec::new();
        // In the order of the queue, because units are taken from the head of their run.
        for ((unit, run), package) in units.into_iter().zip(self.next.package + 1..) {
            let at = members.iter().position(|member| !run.avoid.contains(member)).unwrap_or(0);
            let work = Work::Package {
                package: PackageId(package),
                job: plan.job,
                run: UnitRun { first: unit, count: 1 },
            };
            works.push((members.remove(at), work, run.attempts + 1));
        }
        works
    }

    /// When a worker has done what it holds, by estimate.
    pub fn free_at_ms(&self, worker: &Worker, now_ms: u64) -> u64 {
        let leases = worker.leases.iter().filter_map(|id| self.leases.get(id));
        let began = leases.clone().map(|lease| lease.granted_at_ms).min();
        let Some(began) = began else { return now_ms };
        let work_us: u64 = leases
            .map(|lease| {
                let runs = self.lease_units(lease);
                let units: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
                runs.first()
                    .map_or(0, |run| self.unit_us_estimate(lease.job, run.first).saturating_mul(units))
            })
            .fold(0, u64::saturating_add);
        (began + work_us / 1_000).max(now_ms + 1)
    }

    /// Estimated time of one unit: as measured, or the most that it may take.
    pub(crate) fn unit_us_estimate(&self, job: JobId, unit: u64) -> u64 {
        let entry = &self.jobs[&job];
        let number = entry.spec.place(unit).stage as usize;
        let most = entry.spec.stages[number].time_ms_max.saturating_mul(1_000);
        entry.queues[number].unit_us().unwrap_or(most).max(1)
    }
}

impl Reservation {
    /// For how long a worker may take other work, in microseconds; nothing when it is not kept for these units.
    pub(crate) fn backfill_us(&self, key: PublicKey, now_ms: u64) -> Option<u64> {
        let waits = self.start_ms > now_ms && self.members.contains(&key);
        waits.then(|| (self.start_ms - now_ms) * 1_000)
    }
}
