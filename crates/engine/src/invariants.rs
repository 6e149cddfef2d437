//! What must hold in every state, by number. Property tests, simulations and a production counter call the same predicates.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use protocol::{Amount, JobId};

use crate::{CheckKind, CheckState, JobReason, PackageState, Priority, State, Work, WorkerReason};

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `I1` to `I11`.
    pub id: &'static str,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.what)
    }
}

/// Every invariant the state breaks at `now_ms`.
///
/// - I1: tokens are conserved: deposits + emitted = balances + pay held back + stake + frozen + escrow + treasury + burned.
/// - I2: a job's money is conserved: escrowed = paid + royalties + treasury + burned + refunded + held, and an ended job holds nothing.
/// - I3: a unit is accepted, and so paid, at most once, and every unit is in exactly one place.
/// - I4: a unit is in at most one worker's hands for its first execution, and a check in at most one's.
/// - I5: an accepted result is backed by a stored receipt.
/// - I6: nobody checks their own owner's work, the market's verifier apart.
/// - I7: every unfinished job and every worker has a reason.
/// - I8: the indices agree with what they index.
/// - I9: no unit is in a worker's hands before the results that it reads are accepted, and none that could run is blocked.
/// - I10: a sealed job is in the hands of its recipients alone.
/// - I11: what is frozen is what open verdicts took, each once, and what was deposited against them.
pub fn violations(state: &State, now_ms: u64) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut expect = |holds: bool, id: &'static str, what: &dyn Fn() -> String| {
        if !holds {
            found.push(Violation { id, what: what() });
        }
    };
    let sum = |amounts: &mut dyn Iterator<Item = Amount>| amounts.map(|a| u128::from(a.0)).sum::<u128>();
    let ledger = &state.ledger;
    let available = sum(&mut state.accounts.values().map(|a| a.available));
    let escrowed = sum(&mut state.accounts.values().map(|a| a.escrowed));
    let held = sum(&mut state.jobs.values().map(|j| j.held()));
    let rest = sum(&mut [ledger.treasury, ledger.burned].into_iter());
    let stake = |of: fn(&crate::Account) -> Amount| {
        state.accounts.values().map(|a| u128::from(of(a).0)).sum::<u128>()
    };
    let (bonded, unbonding) = (stake(|a| a.bonded), stake(|a| a.unbonding));
    let listed = sum(&mut state.unbonding.values().copied());
    expect(
        bonded == u128::from(ledger.bonded.0)
            && unbonding == u128::from(ledger.unbonding.0)
            && unbonding == listed,
        "I1",
        &|| {
            format!(
                "{bonded} are bonded and {unbonding} unbonding, the ledger says {ledger:?}, {listed} are listed"
            )
        },
    );
    let pending = stake(|a| a.pending);
    let listed = sum(&mut state.pending.values().copied());
    expect(pending == u128::from(ledger.pending.0) && pending == listed, "I1", &|| {
        format!("{pending} are held back, the ledger says {}, {listed} are listed", ledger.pending)
    });
    let frozen = stake(|a| a.frozen);
    let listed = sum(&mut state.verdicts.values().map(|verdict| verdict.frozen()));
    expect(frozen == u128::from(ledger.frozen.0) && frozen == listed, "I11", &|| {
        format!("{frozen} is frozen, the ledger says {}, open verdicts took {listed}", ledger.frozen)
    });
    let rest = rest + bonded + unbonding + pending + frozen;
    expect(
        u128::from(ledger.deposited.0) + u128::from(ledger.emitted.0) == available + held + rest,
        "I1",
        &|| {
            format!(
                "deposited {} ≠ available {available} + held {held} + treasury and burned {rest}",
                ledger.deposited
            )
        },
    );
    expect(held == u128::from(ledger.held.0) && held == escrowed, "I1", &|| {
        format!("jobs hold {held}, accounts' escrow is {escrowed}, the ledger says {}", ledger.held)
    });

    let heard = LazyCell::new(|| {
        let mut idle = state.idle.iter();
        idle.any(|key| state.worker_reason(*key, now_ms) == Some(WorkerReason::NextRequest))
    });
    for (id, job) in &state.jobs {
        let m = &job.money;
        let spent = sum(&mut [m.paid, m.royalties, m.treasury, m.burned, m.refunded].into_iter());
        expect(spent <= u128::from(m.escrowed.0), "I2", &|| format!("{id} spent {spent} of {}", m.escrowed));
        let ended = job.state.ended();
        expect(!ended || job.held() == Amount::ZERO, "I2", &|| {
            format!("{id} ended and holds {}", job.held())
        });

        let counted = job.waiting_units()
            + job.leased_units
            + job.checking_units
            + job.accepted_units
            + job.parked_units
            + job.blocked_units
            + job.skipped_units;
        expect(counted == job.spec.units(), "I3", &|| {
            format!("{id} counts {counted} of {} units", job.spec.units())
        });
        let mut end = 0;
        let mut accepted = 0;
        for (first, run) in &job.accepted {
            expect(*first >= end, "I3", &|| format!("{id}/{first} is accepted twice"));
            end = first + u64::from(run.count);
            accepted += u64::from(run.count);
            expect(run.outputs.len() == run.count as usize, "I5", &|| format!("{id}/{first} lacks outputs"));
            expect(run.receipt.0 != [0; 32], "I5", &|| format!("{id}/{first} has no receipt"));
        }
        let done: u64 = job
            .accepted
            .iter()
            .map(|(first, run)| job.spec.stage_of(*first).unit_price.0 * u64::from(run.count))
            .sum();
        let total = job.spec.stages.iter().map(|stage| stage.unit_price.0 * stage.units).sum::<u64>();
        let total = total * job.spec.iterations_max();
        let skipped: u64 = job
            .spec
            .stages
            .iter()
            .zip(&job.queues)
            .map(|(stage, queue)| stage.unit_price.0 * queue.skipped_units)
            .sum();
        let total = total - skipped;
        expect(job.parked_units > 0 || job.units_held.0 + done == total, "I2", &|| {
            format!("{id} sets {} aside for units, {done} of {total} is done", job.units_held)
        });
        expect(accepted == job.accepted_units, "I3", &|| format!("{id} has {accepted} accepted results"));
        let sums = job.queues.iter().fold([0; 3], |[a, p, s], queue| {
            [a + queue.accepted_units, p + queue.parked_units, s + queue.skipped_units]
        });
        expect(sums == [job.accepted_units, job.parked_units, job.skipped_units], "I3", &|| {
            format!("{id}'s stages count {sums:?}")
        });
        let parked: u64 = job.parked.values().map(|run| run.count).sum();
        expect(parked == job.parked_units, "I3", &|| format!("{id} names {parked} parked units"));
        let units = job.spec.units();
        expect(job.done.count(0, units) == job.accepted_units, "I8", &|| format!("{id} is done elsewhere"));
        expect(job.blocked.count(0, units) == job.blocked_units, "I8", &|| {
            format!("{id} is blocked elsewhere")
        });
        expect(ended || job.unblocked_units().is_empty(), "I9", &|| format!("{id} holds units back"));
        let listed = job.deadline_ms.is_some_and(|at| state.job_deadlines.contains(&(at, *id)));
        expect(listed == (!ended && !job.overdue && job.deadline_ms.is_some()), "I8", &|| {
            format!("{id} has a deadline, or does it?")
        });
        let resumable = matches!(job.state, crate::JobState::Incomplete { .. });
        let listed = job.ended_at_ms.is_some_and(|at| state.ended.contains(&(resumable, at, *id)));
        expect(listed == ended, "I8", &|| format!("{id} ended, or did it?"));
        expect(state.paused_jobs.contains(id) == job.paused, "I8", &|| format!("{id} is paused, or is it?"));
        for lease in &job.leases {
            expect(state.leases.get(lease).is_some_and(|l| l.job == *id), "I8", &|| {
                format!("{id} lacks {lease}")
            });
        }
        if !ended {
            for (stage, queue) in (0..).zip(&job.queues) {
                let waiting: u64 = queue.waiting.iter().map(|run| run.count).sum();
                expect(waiting == queue.waiting_units, "I3", &|| format!("{id} has {waiting} units waiting"));
                let listed = job.leasable() && !queue.waiting.is_empty();
                expect(state.queue.contains(&(*id, stage)) == listed, "I8", &|| {
                    format!("{id} is in the queue without units, or the other way round")
                });
            }
        }
        let reason = state.job_reason(*id, now_ms);
        expect(reason.is_some(), "I7", &|| format!("{id} has no reason"));
        // A promise must be one that some worker hears too.
        if matches!(reason, Some(JobReason::NextRequest { .. })) {
            expect(*heard, "I7", &|| format!("{id} waits for a request that nobody is told to make"));
        }
    }

    let ended = state.ended.iter().all(|(_, _, id)| state.jobs.contains_key(id));
    expect(ended, "I8", &|| "a job that is not there is said to have ended".into());
    let late = state.late.values().all(|late| state.jobs.contains_key(&late.job));
    expect(late, "I8", &|| "a receipt is still taken for a job that is not there".into());

    for (id, number) in state.queue.iter() {
        let (spec, queue) = (&state.jobs[id].spec, &state.jobs[id].queues[*number as usize]);
        let presses = state.pressing.contains(&(queue.hungry_since_ms, *id, *number));
        let listed = [state.gangs.contains(&(*id, *number)), presses];
        let wanted = [spec.stages[*number as usize].devices > 1, spec.priority >= Priority::High];
        expect(listed == wanted, "I8", &|| format!("stage {number} of {id} is listed as {listed:?}"));
    }
    let pressing = state.pressing.iter().map(|(_, job, stage)| (*job, *stage));
    let listed = pressing.chain(state.gangs.iter().copied()).all(|entry| state.queue.contains(&entry));
    expect(listed, "I8", &|| "a stage is listed that does not wait".into());
    for (worker, lease) in &state.offered {
        let held = state.leases.get(lease).is_some_and(|lease| lease.worker == *worker);
        expect(held, "I8", &|| format!("{lease} is offered to {worker}, who does not hold it"));
    }
    let packages = state.leases.values().filter(|lease| matches!(lease.work, Work::Package { .. })).count();
    expect(packages == state.classes.len(), "I8", &|| {
        format!("{} leases are listed by class, there are {packages}", state.classes.len())
    });

    let mut in_hands = BTreeSet::new();
    for (id, lease) in &state.leases {
        let fresh = match lease.work {
            Work::Package { package, run, job } => {
                let known = state.packages.get(&package);
                expect(known.is_some_and(|p| p.state == PackageState::Leased(*id)), "I8", &|| {
                    format!("{id} holds {package}, which does not know of it")
                });
                let inputs_exist = run.units().all(|unit| state.jobs[&job].inputs_exist(unit));
                expect(inputs_exist, "I9", &|| format!("{id} was granted before its inputs exist"));
                run.units().all(|unit| in_hands.insert((job, unit)))
            }
            Work::Check { check } => {
                state.checks.get(&check).is_some_and(|check| check.state == CheckState::Leased(*id))
            }
        };
        expect(fresh, "I4", &|| format!("{id} holds work that another lease holds"));
        expect(state.deadlines.contains(&(lease.deadline_ms, *id)), "I8", &|| {
            format!("{id} has no deadline")
        });
        let held =
            state.workers.get(&lease.worker).is_some_and(|w| w.leases.contains(id) && w.gone.is_none());
        expect(held, "I8", &|| format!("{id} is held by nobody"));
        let of_job = state.jobs.get(&lease.job).is_some_and(|job| job.leases.contains(id));
        expect(of_job, "I8", &|| format!("{id} is unknown to its job"));
    }
    expect(state.deadlines.len() == state.leases.len(), "I8", &|| "a deadline without a lease".to_owned());

    for (id, check) in &state.checks {
        let package = state.packages.get(&check.package);
        let (owner, checks) = match package.map(|package| (package, &package.state)) {
            Some((_, PackageState::Committed { owner, checks, .. })) => (Some(*owner), &checks[..]),
            Some((package, PackageState::Leased(lease))) => {
                (state.leases.get(lease).map(|lease| lease.owner), &package.replicas[..])
            }
            None => (None, &[][..]),
        };
        let verdict = check.appeal.and_then(|verdict| state.verdicts.get(&verdict));
        let (owner, checks) = match verdict {
            Some(verdict) => {
                (Some(verdict.owner), verdict.appeal.as_ref().map_or(&[][..], |appeal| &appeal.checks))
            }
            None => (owner, checks),
        };
        expect(check.appeal.is_some() == verdict.is_some(), "I8", &|| format!("{id} examines no verdict"));
        expect(owner.is_some() && checks.contains(id), "I8", &|| format!("{id} checks nothing"));
        let early = matches!(check.state, CheckState::Early { .. });
        let leased = package.is_some_and(|package| matches!(package.state, PackageState::Leased(_)));
        expect(!early || leased, "I8", &|| format!("{id} is early for a package that is committed"));
        let by = check.by(&state.leases);
        let executed = check.kind == CheckKind::Execution;
        let own = executed && by.is_some() && by == owner && by != state.market;
        expect(!own, "I6", &|| format!("{id} is made by the owner it checks"));
        let looks = matches!(
            check.state,
            CheckState::Looking { .. } | CheckState::Undecided | CheckState::Decided { worker: None, .. }
        );
        expect(looks != executed, "I8", &|| format!("{id} is executed, or is it?"));
        let waits = check.state == CheckState::Waiting;
        let listed = state.waiting_checks.contains(*id);
        expect(listed == waits, "I8", &|| format!("{id} waits, or does it?"));
        let looking = matches!(check.state, CheckState::Looking { .. }) && check.kind == CheckKind::Algebraic;
        expect(looking == state.looking.contains(id), "I8", &|| format!("{id} is looked at, or is it?"));
        let compares =
            !looking && matches!(check.state, CheckState::Comparing { .. } | CheckState::Looking { .. });
        expect(compares == state.comparing.contains(id), "I8", &|| format!("{id} is compared, or is it?"));
    }
    expect(state.queue.is_consistent(), "I8", &|| "the queue and its index disagree".to_owned());
    let mut values = BTreeMap::<_, u64>::new();
    for lease in state.leases.values() {
        *values.entry(lease.owner).or_default() += state.value_held(lease).0;
    }
    let mut overstating = BTreeMap::<_, usize>::new();
    for owner in state.workers.values().filter_map(|worker| worker.counted) {
        *overstating.entry(owner).or_default() += 1;
    }
    for (owner, provider) in &state.owners {
        let value = values.get(owner).copied().unwrap_or(0);
        expect(provider.held.0 == value, "I8", &|| format!("{owner} holds {value}, not {}", provider.held));
        let overstating = overstating.get(owner).copied().unwrap_or(0);
        expect(overstating == provider.overstating as usize, "I8", &|| {
            format!("{owner} has {overstating} workers that overstate")
        });
    }
    let mut planned = BTreeMap::<JobId, u64>::new();
    for check in state.checks.values().filter(|check| !check.verifier_only && check.appeal.is_none()) {
        let price = state.jobs[&check.job].spec.stage_of(check.units[0]).unit_price;
        *planned.entry(check.job).or_default() += price.0 * check.units.len() as u64;
    }
    for (id, job) in &state.jobs {
        let needed = planned.get(id).copied().unwrap_or(0);
        expect(needed == job.checks_held.0, "I8", &|| {
            format!("{id} sets {} aside for {needed}", job.checks_held)
        });
    }
    for (id, lease) in &state.leases {
        let sealed = state.jobs[&lease.job].sealed.as_ref();
        let reads = sealed.is_none_or(|sealed| sealed.contains_key(&lease.worker));
        expect(reads, "I10", &|| format!("{id} is with {}, who cannot read {}", lease.worker, lease.job));
    }
    let booked: BTreeMap<_, _> = state
        .bookings
        .iter()
        .flat_map(|(id, booking)| booking.recipients.iter().map(|recipient| (recipient.worker, *id)))
        .collect();
    let ends: BTreeSet<_> = state.bookings.iter().map(|(id, booking)| (booking.until_ms, *id)).collect();
    expect(booked == state.booked && ends == state.booking_ends, "I8", &|| {
        format!("{:?} are booked, {ends:?} end", booked.keys())
    });
    for (key, worker) in &state.workers {
        expect(state.worker_reason(*key, now_ms).is_some(), "I7", &|| format!("{key} has no reason"));
        let heard = state.heard.contains(&(worker.seen_at_ms, *key));
        expect(heard == worker.gone.is_none(), "I8", &|| format!("{key} is gone, or is it?"));
        expect(state.supply.contains(key) == worker.provides(), "I8", &|| {
            format!("{key} is counted, or is it?")
        });
        let idle = worker.provides() && worker.leases.is_empty();
        expect(idle == state.idle.contains(key), "I8", &|| format!("{key} is idle, or is it?"));
        let provides = state.providers.contains(key);
        expect(provides == worker.provides(), "I8", &|| format!("{key} provides, or does it?"));
    }
    found
}
