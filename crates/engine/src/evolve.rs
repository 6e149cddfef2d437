//! Folding events into the state. Nothing is decided here: an event is a fact.

use std::collections::{BTreeSet, VecDeque};

use protocol::{
    Amount, ChallengeChain, CheckId, JobId, LeaseId, PackageId, PublicKey, ReservationId, UnitRun,
};

use crate::{
    AcceptedRun, Account, Booking, Calibration, Check, CheckKind, CheckPlan, CheckState, EndCause, Event,
    Failure, Job, JobEnd, JobMoney, JobState, Lease, LeaveCause, LookPlan, Package, PackageState, ParkedRun,
    Place, Priority, Promise, Reservation, Session, Speed, Split, Stage, StageQueue, Standing, State,
    VerificationCounts, WaitingRun, Work, Worker,
    ranges::Ranges,
    reputation::ask_max,
    rewards::Role,
    state::{Closed, Late, Remembered},
    verdict::refuted,
};

/// An event that names what is not there: the journal is not this market's, or a rule is broken.
pub(crate) const CORRUPT: &str = "the event follows from the state it is applied to";

/// Workers that a run of units remembers as having failed it or given it back; the latest.
const AVOID_MAX: usize = 16;

/// Parts of the time that pay is held back, at whose ends it is released.
const PENDING_BUCKETS: u64 = 8;

/// Programs that a worker is expected to have still at hand.
const RECENT_MAX: usize = 4;

impl State {
    /// Folds one event that was decided at `at_ms`.
    ///
    /// # Panics
    ///
    /// If the event does not follow from the state; the journal was then not written by [`decide`](crate::decide()).
    pub fn evolve(&mut self, at_ms: u64, event: &Event) {
        self.seq += 1;
        // Nothing changed since the last event, so this is what the queue was all the time.
        if self.demand.is_due(at_ms, &self.params) && self.market.is_some() {
            self.demand.observe(at_ms, self.backlog_ms(), &self.params);
        }
        self.at_ms = at_ms;
        match event {
            Event::Founded { market, params } => {
                self.founded_ms = at_ms;
                self.market = Some(*market);
                self.params = params.clone();
            }
            Event::Deposited { account, amount, key } => {
                add(&mut self.account(*account).available, *amount);
                add(&mut self.ledger.deposited, *amount);
                if let Some(key) = key {
                    let request = protocol::Hash::of(&amount.0.to_le_bytes());
                    self.remember(*key, Remembered { request, job: None });
                }
            }
            Event::SessionDelegated { wallet, session, expires_at_ms } => {
                self.sessions.insert(*session, Session { wallet: *wallet, expires_at_ms: *expires_at_ms });
            }
            Event::JobSubmitted { job, owner, spec, escrow, expected_ms, key } => {
                let account = self.account(*owner);
                take(&mut account.available, *escrow);
                add(&mut account.escrowed, *escrow);
                add(&mut self.ledger.held, *escrow);
                add(&mut self.ledger.escrowed, *escrow);
                self.next.job = job.0;
                let new = Job {
                    owner: *owner,
                    spec: spec.clone(),
                    state: JobState::Waiting,
                    queues: vec![StageQueue::default(); spec.stages.len()],
                    leased_units: 0,
                    checking_units: 0,
                    accepted_units: 0,
                    parked_units: 0,
                    blocked_units: spec.units(),
                    skipped_units: 0,
                    parked: Default::default(),
                    last_iteration: None,
                    paused: false,
                    deadline_ms: spec.deadline_ms,
                    overdue: false,
                    leases: Default::default(),
                    done: Ranges::default(),
                    blocked: Ranges::default(),
                    accepted: Default::default(),
                    money: JobMoney { escrowed: *escrow, ..JobMoney::default() },
                    units_held: Amount(
                        spec.stages.iter().map(|stage| stage.unit_price.0 * stage.units).sum::<u64>()
                            * spec.iterations_max(),
                    ),
                    checks_held: Amount::ZERO,
                    verification: VerificationCounts::default(),
                    workers: Default::default(),
                    committed: Default::default(),
                    open_verdicts: 0,
                    compensated: Amount::ZERO,
                    standing: Standing::of(spec, self.bonded(*owner), &self.params),
                    served_at_ms: at_ms,
                    calibration: Calibration::default(),
                    expected_ms: *expected_ms,
                    submitted_at_ms: at_ms,
                    ended_at_ms: None,
                    last_failure: None,
                    canaries: Default::default(),
                    sealed: None,
                };
                self.jobs.insert(*job, new);
                let each =
                    |stage: &Stage| u128::from(self.params.reference_ns(stage)) * u128::from(stage.units);
                let asked = spec.stages.iter().map(each).sum::<u128>() * u128::from(spec.iterations_max());
                self.demand.arrive(asked);
                if let Some(deadline) = spec.deadline_ms {
                    self.job_deadlines.insert((deadline, *job));
                }
                let entry = self.job(*job);
                entry.blocked.insert(0, spec.units());
                let ready = entry.unblocked_units();
                self.unblock(*job, ready, at_ms);
                if let Some((key, request)) = key {
                    self.remember(*key, Remembered { request: *request, job: Some(*job) });
                }
            }
            Event::WorkerAnnounced { worker, owner, instance, device, version, offer } => {
                let market = self.market();
                let entry = self.workers.entry(*worker).or_insert_with(|| Worker {
                    owner: *owner,
                    verifier: false,
                    instance: String::new(),
                    device: device.clone(),
                    version: String::new(),
                    offer: offer.clone(),
                    draining: false,
                    gone: None,
                    seen_at_ms: at_ms,
                    leases: Default::default(),
                    units: 0,
                    checked: 0,
                    earned: Amount::ZERO,
                    streak: 0,
                    suspicions: 0,
                    forfeited: 0,
                    rejected: 0,
                    promise: None,
                    speed: Speed::default(),
                    sealing: None,
                    committed_at_ms: 0,
                    counted: None,
                    recent: Default::default(),
                });
                if entry.owner != *owner {
                    // A record is not handed on with a key.
                    entry.streak = 0;
                }
                entry.owner = *owner;
                entry.verifier = *owner == market;
                entry.instance.clone_from(instance);
                entry.device = device.clone();
                entry.version.clone_from(version);
                entry.offer.clone_from(offer);
                (entry.draining, entry.gone) = (false, None);
                // Another process may have the key now; it says so if it opens what was sealed.
                entry.sealing = None;
                entry.speed.claim(offer.claimed_mflops, &self.params);
                if entry.verifier {
                    self.providers.remove(worker);
                } else {
                    self.providers.insert(*worker);
                }
                self.hear(*worker, at_ms);
                self.appraise(*worker);
                self.note_idle(*worker);
            }
            Event::WorkerSeen { worker, renewed } => {
                self.hear(*worker, at_ms);
                for id in renewed {
                    self.renew(*id, at_ms + self.params.lease_ms);
                }
            }
            Event::WorkerDraining { worker } => {
                self.hear(*worker, at_ms);
                self.worker(*worker).draining = true;
                self.providers.remove(worker);
                self.appraise(*worker);
                self.note_idle(*worker);
            }
            Event::WorkerLeft { worker, cause } => {
                let entry = self.worker(*worker);
                entry.gone = Some(*cause);
                let seen = entry.seen_at_ms;
                self.heard.remove(&(seen, *worker));
                self.providers.remove(worker);
                self.appraise(*worker);
                self.note_idle(*worker);
            }
            Event::LeaseGranted { lease, worker, work, generation, deadline_ms, deadline_ms_max } => {
                self.grant(*lease, *worker, *work, *generation, at_ms, (*deadline_ms, *deadline_ms_max));
            }
            Event::LeaseEnded { lease, cause } => self.end_lease(*lease, cause, at_ms),
            Event::ReceiptCommitted { receipt, outputs, work, .. } => {
                let (owner, job) = match self.leases.get(&receipt.lease) {
                    Some(lease) => (lease.owner, lease.job),
                    None => {
                        let late = self.late.get(&receipt.lease).expect(CORRUPT);
                        (late.owner, late.job)
                    }
                };
                let (digest, worker) = (receipt.digest(), receipt.worker);
                let rest = self.split.remove(&receipt.lease);
                self.closed.insert(receipt.lease, Closed { worker, receipt: digest, paid: None, rest });
                while self.closed.len() > self.params.closed_leases_max as usize {
                    self.closed.pop_first();
                }
                if self.workers.get(&worker).is_some_and(|w| w.gone.is_none()) {
                    self.hear(worker, at_ms);
                }
                let granted = self.leases.get(&receipt.lease).map(|lease| lease.granted_at_ms);
                let taken_ms = granted.map(|granted| {
                    let by = self.worker(worker);
                    let taken_ms = at_ms.saturating_sub(granted.max(by.committed_at_ms));
                    by.committed_at_ms = at_ms;
                    by.speed.overhead(taken_ms, receipt.device_us);
                    taken_ms
                });
                match *work {
                    Work::Package { package, run, .. } => {
                        self.commit_package(package, job, run, receipt.lease);
                        let entry = self.packages.get_mut(&package).expect(CORRUPT);
                        let checks = std::mem::take(&mut entry.replicas);
                        self.compare_early(&checks);
                        let entry = self.packages.get_mut(&package).expect(CORRUPT);
                        entry.state = PackageState::Committed {
                            worker,
                            owner,
                            lease: receipt.lease,
                            receipt: digest,
                            outputs: outputs.clone(),
                            taken_ms,
                            checks,
                        };
                    }
                    Work::Check { check } => {
                        self.remove_lease(receipt.lease);
                        let entry = self.checks.get_mut(&check).expect(CORRUPT);
                        let (outputs, lease) = (outputs.clone(), receipt.lease);
                        let leased = |package: &PackageState| matches!(package, PackageState::Leased(_));
                        // An appeal's package is not there any more, but what it was committed to be is.
                        let early = self.packages.get(&entry.package).is_some_and(|p| leased(&p.state));
                        entry.state = if early && entry.appeal.is_none() {
                            CheckState::Early { worker, owner, lease, receipt: digest, outputs }
                        } else {
                            self.comparing.insert(check);
                            CheckState::Comparing { worker, owner, receipt: digest, outputs }
                        };
                    }
                }
                let unit = match *work {
                    Work::Package { run, .. } => run.first,
                    Work::Check { check } => self.checks[&check].units[0],
                };
                let entry = self.job(job);
                // A worker says what it likes: no unit took longer than a lease lets it.
                let time_ms_max = entry.spec.stage_of(unit).time_ms_max;
                let device_us_max = time_ms_max.saturating_mul(2_000).saturating_mul(receipt.units.into());
                let device_us = receipt.device_us.min(device_us_max);
                let by = entry.workers.entry(worker).or_default();
                by.device_us = by.device_us.saturating_add(device_us);
                let queue = entry.queue_of(unit);
                queue.device_us = queue.device_us.saturating_add(device_us);
                queue.device_units += u64::from(receipt.units);
            }
            Event::ChecksDrawn { package, checks, .. } | Event::ReplicasPlanned { package, checks, .. } => {
                self.draw_checks(*package, checks, at_ms);
            }
            Event::PackagePassedOn { lease, cause, check } => self.pass_on(*lease, cause, *check),
            Event::CheckDecided { check, agrees, evidence } => {
                let differs = if *agrees { Vec::new() } else { self.differing_units(*check) };
                self.comparing.remove(check);
                self.looking.remove(check);
                let market = self.market();
                let entry = self.checks.get_mut(check).expect(CORRUPT);
                let (worker, owner, receipt) = match entry.state {
                    CheckState::Comparing { worker, owner, receipt, .. } => {
                        (Some(worker), owner, Some(receipt))
                    }
                    CheckState::Looking { owner } => (None, owner, None),
                    _ => panic!("{CORRUPT}"),
                };
                let evidence = evidence.clone();
                entry.state = CheckState::Decided { worker, owner, agrees: *agrees, receipt, evidence };
                entry.differs = differs;
                let (units, job, counts) = (entry.units.len() as u64, entry.job, entry.appeal.is_none());
                if let Some(worker) = worker {
                    self.worker(worker).checked += units;
                    self.job(job).workers.entry(worker).or_default().checked += units;
                }
                let job = self.job(job);
                if !counts {
                    // The package is settled; what an appeal finds is told with the verdict.
                } else if !agrees {
                    job.verification.disputed += units;
                } else if worker.is_some() && owner == market {
                    job.verification.by_verifier += units;
                }
            }
            Event::CheckPaid { check, pay } => {
                let check = self.checks.get(check).expect(CORRUPT);
                let CheckState::Decided { worker: Some(worker), owner, .. } = check.state else {
                    panic!("{CORRUPT}")
                };
                let (job, units) = (check.job, check.units.len() as u64);
                let stage = self.jobs[&job].spec.stage_of(check.units[0]);
                let work_ns = u128::from(self.params.reference_ns(stage)) * u128::from(units);
                self.pay(job, worker, owner, pay);
                self.count_work(owner, Role::Validator, work_ns, pay.total(), at_ms);
            }
            Event::PackageAccepted { package, pay } => self.accept(*package, pay, at_ms),
            Event::PackageRejected { package, .. } => self.reject(*package, at_ms),
            Event::UnitsParked { job, run, why, failures } => {
                self.take_waiting(*job, *run);
                let job = self.job(*job);
                let count = u64::from(run.count);
                job.parked_units += count;
                job.queue_of(run.first).parked_units += count;
                job.parked.insert(run.first, ParkedRun { count, failures: failures.clone() });
                job.units_held.0 -= job.spec.stage_of(run.first).unit_price.0 * u64::from(run.count);
                job.last_failure = Some(why.clone());
            }
            Event::JobEnded { job, end, refund } => {
                let id = *job;
                let job = self.job(id);
                job.state = match end {
                    JobEnd::Done => JobState::Done,
                    JobEnd::Cancelled => JobState::Cancelled,
                    JobEnd::Incomplete { cause, why } => {
                        JobState::Incomplete { cause: *cause, why: why.clone() }
                    }
                };
                job.ended_at_ms = Some(at_ms);
                let resumable = matches!(job.state, JobState::Incomplete { .. });
                self.ended.insert((resumable, at_ms, id));
                let job = self.job(id);
                if let (JobEnd::Done, Some(expected_ms)) = (end, job.expected_ms) {
                    let taken_ms = at_ms.saturating_sub(job.submitted_at_ms);
                    self.forecasts.settle(expected_ms, taken_ms);
                }
                let job = self.job(id);
                job.paused = false;
                let deadline = job.deadline_ms;
                add(&mut job.money.refunded, *refund);
                // What an ended job leaves undone stays visible as waiting units; nobody will take them.
                let queues = job.queues.iter_mut();
                let late: Vec<_> =
                    queues.flat_map(|queue| queue.waiting.drain(..)).filter_map(|run| run.late).collect();
                let stages = job.queues.len() as u32;
                let owner = job.owner;
                for lease in late {
                    self.late.remove(&lease);
                }
                for stage in 0..stages {
                    self.dequeue(id, stage);
                }
                self.paused_jobs.remove(&id);
                if let Some(deadline) = deadline {
                    self.job_deadlines.remove(&(deadline, id));
                }
                take(&mut self.ledger.held, *refund);
                add(&mut self.ledger.refunded, *refund);
                let account = self.account(owner);
                take(&mut account.escrowed, *refund);
                add(&mut account.available, *refund);
            }
            Event::LeaseSplit { lease, units, rest, package, deadline_ms_max } => {
                self.split_lease(*lease, *units, (*rest, *package), at_ms, *deadline_ms_max);
            }
            Event::YieldAsked { lease, job, until_ms } => {
                let entry = self.leases.get_mut(lease).expect(CORRUPT);
                entry.yields_to = Some(*job);
                entry.deadline_ms_max = entry.deadline_ms_max.min(*until_ms);
                let (until, worker) = (entry.deadline_ms.min(*until_ms), entry.worker);
                self.renew(*lease, until);
                // Time to yield, and then to ask.
                let promise = Promise { job: *job, until_ms: until_ms + self.params.offer_ms_max };
                self.worker(worker).promise = Some(promise);
                for stage in 0..self.jobs[job].queues.len() as u32 {
                    self.hunger((*job, stage), at_ms);
                }
            }
            Event::DevicesReserved { job, stage, start_ms, members } => {
                self.reservation = Some(Reservation {
                    job: *job,
                    stage: *stage,
                    start_ms: *start_ms,
                    members: members.iter().copied().collect(),
                    made_ms: at_ms,
                });
            }
            Event::LeasesOffered { leases } => {
                self.reservation = None;
                for lease in leases {
                    self.offered.insert((self.leases[lease].worker, *lease));
                }
            }
            Event::LeasesFetched { worker, leases } => {
                for lease in leases {
                    self.offered.remove(&(*worker, *lease));
                    self.renew(*lease, at_ms + self.params.lease_ms);
                }
            }
            Event::SealingKeyGiven { signed } => {
                self.worker(signed.record.worker).sealing = Some(*signed);
                self.hear(signed.record.worker, at_ms);
            }
            Event::ProvidersReserved { reservation, account, recipients, until_ms } => {
                self.next.reservation = reservation.0;
                let (account, until_ms) = (*account, *until_ms);
                for recipient in recipients {
                    let other = self.booked.insert(recipient.worker, *reservation);
                    assert!(other.is_none(), "{CORRUPT}");
                }
                self.booking_ends.insert((until_ms, *reservation));
                let booking = Booking { account, recipients: recipients.clone(), until_ms };
                self.bookings.insert(*reservation, booking);
            }
            Event::ReservationEnded { reservation } => self.end_booking(*reservation),
            Event::JobSealed { job, reservation, recipients } => {
                self.end_booking(*reservation);
                let recipients = recipients.iter().map(|to| (to.worker, *to)).collect();
                self.job(*job).sealed = Some(recipients);
            }
            Event::Bonded { account, amount } => {
                let account = self.account(*account);
                take(&mut account.available, *amount);
                add(&mut account.bonded, *amount);
                add(&mut self.ledger.bonded, *amount);
            }
            Event::Unbonding { account, amount, free_at_ms } => {
                let new = self.unbonding.insert((*free_at_ms, *account), *amount);
                assert!(new.is_none(), "{CORRUPT}");
                let account = self.account(*account);
                take(&mut account.bonded, *amount);
                add(&mut account.unbonding, *amount);
                account.unbondings += 1;
                take(&mut self.ledger.bonded, *amount);
                add(&mut self.ledger.unbonding, *amount);
            }
            Event::Unbonded { account, amount, free_at_ms } => {
                let found = self.unbonding.remove(&(*free_at_ms, *account));
                assert_eq!(found, Some(*amount), "{CORRUPT}");
                let account = self.account(*account);
                take(&mut account.unbonding, *amount);
                add(&mut account.available, *amount);
                account.unbondings -= 1;
                take(&mut self.ledger.unbonding, *amount);
            }
            Event::WorkerRated { job, worker, stars } => {
                self.job(*job).workers.get_mut(worker).expect(CORRUPT).stars = Some(*stars);
                let owner = self.worker(*worker).owner;
                let record = self.owners.entry(owner).or_default();
                record.ratings = record.ratings.saturating_add(1);
                record.stars += u64::from(*stars);
            }
            Event::ClaimRefuted { worker, .. } => {
                self.worker(*worker).speed.overstated = true;
                self.appraise(*worker);
            }
            Event::EpochClosed { shares, .. } => {
                for (owner, amount) in shares {
                    let account = self.account(*owner);
                    add(&mut account.available, *amount);
                    add(&mut account.rewarded, *amount);
                    add(&mut self.ledger.emitted, *amount);
                    self.epoch.weights.remove(owner);
                }
                self.epoch.fees = Amount::ZERO;
                // What is carried over counts in the epoch that is running now.
                let now = self.epoch_at(at_ms);
                self.epoch.number = (!self.epoch.weights.is_empty()).then_some(now);
            }
            Event::ParamsSet { params } => {
                self.params = params.clone();
                self.queue.reorder(&self.jobs, &self.params);
                let online: Vec<_> = self.supply.iter().copied().collect();
                for worker in online {
                    self.appraise(worker);
                }
            }
            Event::JobPaused { job, paused } => {
                self.job(*job).paused = *paused;
                if *paused {
                    self.paused_jobs.insert(*job);
                } else {
                    self.paused_jobs.remove(job);
                }
                self.index_stages(*job, at_ms);
            }
            Event::JobOverdue { job } => {
                let entry = self.job(*job);
                entry.overdue = true;
                let deadline = entry.deadline_ms.expect(CORRUPT);
                self.job_deadlines.remove(&(deadline, *job));
                self.index_stages(*job, at_ms);
            }
            Event::IterationsEnded { job, last } => self.end_iterations(*job, *last, at_ms),
            Event::JobResumed { job, escrow, deadline_ms, .. } => {
                self.resume_job(*job, *escrow, *deadline_ms, at_ms);
            }
            Event::CanariesSet { job, canaries } => {
                let known = canaries.iter().map(|canary| (canary.unit, canary.outputs.clone()));
                self.job(*job).canaries.extend(known);
            }
            Event::VerdictReached { .. } => self.reach_verdict(event),
            Event::VerdictContested { verdict, deposit, checks, until_ms, .. } => {
                self.contest_verdict(*verdict, *deposit, checks, *until_ms);
            }
            Event::VerdictClosed { verdict, outcome, closing, .. } => {
                self.close_verdict(*verdict, *outcome, closing);
            }
            Event::LookUndecided { check, .. } => {
                self.looking.remove(check);
                self.checks.get_mut(check).expect(CORRUPT).state = CheckState::Undecided;
            }
            Event::LooksPlanned { package, looks } => self.plan_looks(*package, looks, at_ms),
            Event::PayReleased { account, amount, free_at_ms } => {
                let found = self.pending.remove(&(*free_at_ms, *account));
                assert_eq!(found, Some(*amount), "{CORRUPT}");
                let account = self.account(*account);
                take(&mut account.pending, *amount);
                add(&mut account.available, *amount);
                take(&mut self.ledger.pending, *amount);
            }
            Event::JobArchived { job: id, .. } => {
                let job = self.jobs.remove(id).expect(CORRUPT);
                assert!(job.state.ended() && job.leases.is_empty() && job.committed.is_empty(), "{CORRUPT}");
                let resumable = matches!(job.state, JobState::Incomplete { .. });
                self.ended.remove(&(resumable, job.ended_at_ms.expect(CORRUPT), *id));
            }
            Event::ChallengesAnchored { anchor, epoch_ms, epochs } => {
                self.challenges.push(ChallengeChain {
                    anchor: *anchor,
                    sequence: self.seq - 1,
                    begins_at_ms: at_ms,
                    epoch_ms: *epoch_ms,
                    epochs: *epochs,
                });
            }
            Event::Resumed => {
                let ids: Vec<_> = self.leases.keys().copied().collect();
                for id in ids {
                    let lease = self.leases.get_mut(&id).expect(CORRUPT);
                    let until = at_ms + self.params.lease_ms;
                    lease.deadline_ms_max = lease.deadline_ms_max.max(until);
                    self.renew(id, until);
                }
                let present: Vec<_> = self.heard.iter().map(|(_, worker)| *worker).collect();
                for worker in present {
                    self.hear(worker, at_ms);
                }
            }
        }
    }

    pub(crate) fn account(&mut self, id: PublicKey) -> &mut Account {
        self.accounts.entry(id).or_default()
    }

    pub(crate) fn job(&mut self, id: JobId) -> &mut Job {
        self.jobs.get_mut(&id).expect(CORRUPT)
    }

    pub(crate) fn worker(&mut self, id: PublicKey) -> &mut Worker {
        self.workers.get_mut(&id).expect(CORRUPT)
    }

    fn remember(&mut self, key: protocol::Hash, answer: Remembered) {
        self.idempotency.insert(key, answer);
        self.idempotency_order.push_back(key);
        while self.idempotency_order.len() > self.params.idempotency_keys_max as usize {
            if let Some(oldest) = self.idempotency_order.pop_front() {
                self.idempotency.remove(&oldest);
            }
        }
    }

    fn hear(&mut self, id: PublicKey, at_ms: u64) {
        let worker = self.workers.get_mut(&id).expect(CORRUPT);
        self.heard.remove(&(worker.seen_at_ms, id));
        worker.seen_at_ms = at_ms;
        self.heard.insert((at_ms, id));
    }

    fn renew(&mut self, id: LeaseId, until_ms: u64) {
        let lease = self.leases.get_mut(&id).expect(CORRUPT);
        self.deadlines.remove(&(lease.deadline_ms, id));
        lease.deadline_ms = until_ms.min(lease.deadline_ms_max);
        self.deadlines.insert((lease.deadline_ms, id));
    }

    fn grant(
        &mut self,
        id: LeaseId,
        worker: PublicKey,
        work: Work,
        generation: u32,
        at_ms: u64,
        (deadline_ms, deadline_ms_max): (u64, u64),
    ) {
        self.next.lease = id.0;
        let job = match work {
            Work::Package { package, job, run } => {
                let WaitingRun { attempts, avoid, failures, .. } = self.take_waiting(job, run);
                self.next.package = package.0;
                let state = PackageState::Leased(id);
                self.packages.insert(
                    package,
                    Package { job, run, attempts, avoid, failures, replicas: Vec::new(), state },
                );
                let stage = self.jobs[&job].spec.place(run.first).stage;
                if self.queue.contains(&(job, stage)) {
                    self.enqueue(job, stage, true);
                }
                let at_ms = self.at_ms;
                let entry = self.job(job);
                entry.leased_units += u64::from(run.count);
                entry.state = JobState::Running;
                entry.served_at_ms = at_ms;
                let class = entry.spec.priority;
                let manifest = entry.spec.stages[stage as usize].manifest;
                let recent = &mut self.worker(worker).recent;
                if recent.front() != Some(&manifest) {
                    recent.retain(|known| *known != manifest);
                    recent.truncate(RECENT_MAX - 1);
                    recent.push_front(manifest);
                }
                self.classes.insert((class, id));
                self.hunger((job, stage), at_ms);
                let holder = self.worker(worker);
                if holder.promise.is_some_and(|promise| promise.job == job) {
                    holder.promise = None;
                }
                job
            }
            Work::Check { check } => {
                let entry = self.checks.get_mut(&check).expect(CORRUPT);
                entry.state = CheckState::Leased(id);
                let job = entry.job;
                self.waiting_checks.remove(check);
                job
            }
        };
        self.job(job).leases.insert(id);
        self.idle.remove(&worker);
        let entry = self.worker(worker);
        entry.leases.insert(id);
        let owner = entry.owner;
        self.leases.insert(
            id,
            Lease {
                worker,
                owner,
                job,
                work,
                generation,
                granted_at_ms: at_ms,
                deadline_ms,
                deadline_ms_max,
                yields_to: None,
            },
        );
        let value = self.value_held(&self.leases[&id]);
        add(&mut self.owners.entry(owner).or_default().held, value);
        self.deadlines.insert((deadline_ms, id));
    }

    fn split_lease(
        &mut self,
        id: LeaseId,
        units: u32,
        (rest, rest_package): (LeaseId, PackageId),
        at_ms: u64,
        deadline_ms_max: u64,
    ) {
        let lease = self.leases.get_mut(&id).expect(CORRUPT);
        let Work::Package { package, job, run } = lease.work else { panic!("{CORRUPT}") };
        assert!(units > 0 && units < run.count, "{CORRUPT}");
        let (head, tail) = run.split(units);
        lease.work = Work::Package { package, job, run: head };
        let work = Work::Package { package: rest_package, job, run: tail };
        let new = Lease { work, granted_at_ms: at_ms, deadline_ms_max, ..lease.clone() };
        (self.next.lease, self.next.package) = (rest.0, rest_package.0);
        let entry = self.packages.get_mut(&package).expect(CORRUPT);
        entry.run = head;
        let package = Package { run: tail, state: PackageState::Leased(rest), ..entry.clone() };
        self.packages.insert(rest_package, package);
        self.worker(new.worker).leases.insert(rest);
        self.classes.insert((self.jobs[&job].spec.priority, rest));
        self.job(new.job).leases.insert(rest);
        self.deadlines.insert((new.deadline_ms, rest));
        self.leases.insert(rest, new);
        self.split.insert(id, rest);
    }

    /// Takes `run` from the head of the waiting run that begins with it; answers it with what that run went through.
    fn take_waiting(&mut self, id: JobId, run: UnitRun) -> WaitingRun {
        let job = self.jobs.get_mut(&id).expect(CORRUPT);
        let stage = job.spec.place(run.first).stage;
        let queue = &mut job.queues[stage as usize];
        let index = queue.waiting.iter().position(|w| w.first == run.first).expect(CORRUPT);
        let head = &mut queue.waiting[index];
        let taken = u64::from(run.count);
        assert!(head.count >= taken, "{CORRUPT}");
        if let Some(lease) = head.late.take() {
            self.late.remove(&lease);
        }
        let answer = WaitingRun { count: taken, ..head.clone() };
        head.first += taken;
        head.count -= taken;
        if head.count == 0 {
            queue.waiting.remove(index);
        }
        queue.waiting_units -= taken;
        if queue.waiting.is_empty() {
            self.dequeue(id, stage);
        } else {
            self.enqueue(id, stage, false);
        }
        answer
    }

    fn put_waiting(&mut self, id: JobId, run: WaitingRun, at_ms: u64) {
        let job = self.job(id);
        let stage = job.spec.place(run.first).stage;
        if run.first >= job.units_end() {
            let late = run.late;
            self.skip(id, run.first, run.count);
            if let Some(lease) = late {
                self.late.remove(&lease);
            }
            return;
        }
        let leasable = job.leasable();
        // The next unit may be one of the next iteration.
        let same_stage = job.spec.place(run.first).index + run.count < job.spec.stages[stage as usize].units;
        let queue = &mut job.queues[stage as usize];
        queue.waiting_units += run.count;
        match queue.waiting.front_mut() {
            // Neighbours with the same past are one run again, so that the queue does not crumble.
            Some(next)
                if next.first == run.first + run.count
                    && same_stage
                    && (next.attempts, &next.avoid, &next.failures, next.late, run.late)
                        == (run.attempts, &run.avoid, &run.failures, None, None) =>
            {
                next.first = run.first;
                next.count += run.count;
            }
            _ => queue.waiting.push_front(run),
        }
        if leasable {
            self.line_up(id, stage, at_ms);
        }
    }

    /// Puts a stage in line.
    fn line_up(&mut self, id: JobId, stage: u32, at_ms: u64) {
        let new = !self.queue.contains(&(id, stage));
        self.enqueue(id, stage, false);
        if new {
            let job = self.job(id);
            job.queues[stage as usize].hungry_since_ms = at_ms;
            let (several, high) =
                (job.spec.stages[stage as usize].devices > 1, job.spec.priority >= Priority::High);
            if several {
                self.gangs.insert((id, stage));
            }
            if high {
                self.pressing.insert((at_ms, id, stage));
            }
        }
    }

    /// Notes that a stage waits for its next device from now on.
    fn hunger(&mut self, (id, stage): (JobId, u32), at_ms: u64) {
        let queue = &mut self.job(id).queues[stage as usize];
        let before_ms = std::mem::replace(&mut queue.hungry_since_ms, at_ms);
        if self.pressing.remove(&(before_ms, id, stage)) {
            self.pressing.insert((at_ms, id, stage));
        }
    }

    /// Lists a job's stages as runnable, or takes them off the list.
    fn index_stages(&mut self, id: JobId, at_ms: u64) {
        for stage in 0..self.jobs[&id].queues.len() as u32 {
            let job = &self.jobs[&id];
            if job.leasable() && !job.queues[stage as usize].waiting.is_empty() {
                self.line_up(id, stage, at_ms);
            } else {
                self.dequeue(id, stage);
            }
        }
    }

    fn dequeue(&mut self, id: JobId, stage: u32) {
        self.queue.take((id, stage));
        let since_ms = self.jobs[&id].queues[stage as usize].hungry_since_ms;
        self.pressing.remove(&(since_ms, id, stage));
        if self.gangs.remove(&(id, stage))
            && self.reservation.as_ref().is_some_and(|made| (made.job, made.stage) == (id, stage))
        {
            self.reservation = None;
        }
    }

    /// Puts a stage in line, or notes that what waits of it changed. One that was `served` goes back to the end. What is held
    /// back stays out of line: a late receipt may take units of a paused job.
    fn enqueue(&mut self, id: JobId, stage: u32, served: bool) {
        let job = &self.jobs[&id];
        if !job.leasable() {
            return;
        }
        self.queue.put((id, stage), job, &self.params, self.at_ms, self.seq, served);
    }

    /// Counts a worker as what it is now: in the supply, and in its owner's record.
    fn appraise(&mut self, key: PublicKey) {
        let params = &self.params;
        let worker = self.workers.get_mut(&key).expect(CORRUPT);
        let counts = (worker.speed.overstated && worker.gone.is_none()).then_some(worker.owner);
        if let Some(before) = worker.counted.filter(|before| Some(*before) != counts) {
            self.owners.entry(before).or_default().overstating -= 1;
        }
        if let Some(now) = counts.filter(|now| Some(*now) != worker.counted) {
            self.owners.entry(now).or_default().overstating += 1;
        }
        worker.counted = counts;
        if worker.provides() {
            let bonded = self.accounts.get(&worker.owner).map_or(Amount::ZERO, |account| account.bonded);
            let record = self.owners.get(&worker.owner).copied().unwrap_or_default();
            let ask = worker.offer.ask.min(ask_max(record.reputation(bonded, params).tier, params));
            self.supply.put(key, &worker.device, &worker.offer, worker.speed.ppm(params), ask);
        } else {
            self.supply.take(key);
        }
    }

    /// Value of the units of a lease, which counts against what its owner may hold.
    pub(crate) fn value_held(&self, lease: &Lease) -> Amount {
        match lease.work {
            Work::Package { job, run, .. } => {
                let price = self.jobs[&job].spec.stage_of(run.first).unit_price;
                Amount(price.0 * u64::from(run.count))
            }
            Work::Check { .. } => Amount::ZERO,
        }
    }

    /// Lets units run whose inputs now exist; they wait behind those that already do.
    fn unblock(&mut self, id: JobId, ready: Vec<(u64, u64)>, at_ms: u64) {
        if ready.is_empty() {
            return;
        }
        let job = self.jobs.get_mut(&id).expect(CORRUPT);
        let leasable = job.leasable();
        let mut stages = BTreeSet::new();
        for (from, to) in ready {
            let parts: Vec<_> = job.blocked.within(from, to).collect();
            for (from, to) in parts {
                job.blocked.remove(from, to);
                job.blocked_units -= to - from;
                let Place { stage, index, .. } = job.spec.place(from);
                let queue = &mut job.queues[stage as usize];
                queue.waiting_units += to - from;
                match queue.waiting.back_mut() {
                    Some(last)
                        if last.first + last.count == from
                            && index > 0
                            && last.attempts == 0
                            && last.avoid.is_empty()
                            && last.late.is_none() =>
                    {
                        last.count += to - from;
                    }
                    _ => queue.waiting.push_back(WaitingRun::fresh(from, to - from)),
                }
                stages.insert(stage);
            }
        }
        for stage in stages.into_iter().filter(|_| leasable) {
            self.line_up(id, stage, at_ms);
        }
    }

    /// Counts units as not wanted any more.
    fn skip(&mut self, id: JobId, mut first: u64, count: u64) {
        let job = self.job(id);
        let end = first + count;
        job.skipped_units += count;
        while first < end {
            let place = job.spec.place(first);
            let stage = &job.spec.stages[place.stage as usize];
            let part = (stage.units - place.index).min(end - first);
            job.units_held.0 -= stage.unit_price.0 * part;
            job.queues[place.stage as usize].skipped_units += part;
            first += part;
        }
    }

    /// Skips what is left of the iterations after `last`. What is in somebody's hands is skipped when it comes back.
    fn end_iterations(&mut self, id: JobId, last: u64, at_ms: u64) {
        let job = self.job(id);
        job.last_iteration = Some(last);
        let (end, units) = (job.units_end(), job.spec.units());
        let blocked: Vec<_> = job.blocked.within(end, units).collect();
        job.blocked.remove(end, units);
        let mut skipped = 0;
        for (from, to) in blocked {
            skipped += to - from;
            self.skip(id, from, to - from);
        }
        let job = self.job(id);
        job.blocked_units -= skipped;
        let mut runs = Vec::new();
        for queue in &mut job.queues {
            let (kept, gone): (VecDeque<_>, VecDeque<_>) =
                queue.waiting.drain(..).partition(|run| run.first < end);
            queue.waiting = kept;
            queue.waiting_units -= gone.iter().map(|run| run.count).sum::<u64>();
            runs.extend(gone);
        }
        for run in runs {
            if let Some(lease) = run.late {
                self.late.remove(&lease);
            }
            self.skip(id, run.first, run.count);
        }
        self.index_stages(id, at_ms);
    }

    /// Puts what an incomplete job lacks back, and the money for it.
    fn resume_job(&mut self, id: JobId, escrow: Amount, deadline_ms: Option<u64>, at_ms: u64) {
        let job = self.job(id);
        job.state = JobState::Running;
        let ended_at_ms = job.ended_at_ms.take().expect(CORRUPT);
        self.ended.remove(&(true, ended_at_ms, id));
        let job = self.job(id);
        (job.deadline_ms, job.spec.deadline_ms, job.overdue) = (deadline_ms, deadline_ms, false);
        add(&mut job.money.escrowed, escrow);
        let held =
            (0..).zip(&job.spec.stages).map(|(n, stage)| stage.unit_price.0 * job.missing_units(n)).sum();
        job.units_held = Amount(held);
        job.parked.clear();
        job.parked_units = 0;
        for queue in &mut job.queues {
            (queue.waiting_units, queue.parked_units) = (0, 0);
        }
        let end = job.units_end();
        job.blocked = Ranges::default();
        for (from, to) in job.done.gaps(0, end) {
            job.blocked.insert(from, to);
        }
        job.blocked_units = job.blocked.count(0, end);
        let ready = job.unblocked_units();
        let owner = job.owner;
        self.unblock(id, ready, at_ms);
        if let Some(deadline) = deadline_ms {
            self.job_deadlines.insert((deadline, id));
        }
        let account = self.account(owner);
        take(&mut account.available, escrow);
        add(&mut account.escrowed, escrow);
        add(&mut self.ledger.held, escrow);
        add(&mut self.ledger.escrowed, escrow);
    }

    /// Keeps the index of those who hold nothing.
    fn note_idle(&mut self, key: PublicKey) {
        let worker = &self.workers[&key];
        if worker.provides() && worker.leases.is_empty() {
            self.idle.insert(key);
        } else {
            self.idle.remove(&key);
        }
    }

    fn remove_lease(&mut self, id: LeaseId) -> Lease {
        let lease = self.leases.remove(&id).expect(CORRUPT);
        self.deadlines.remove(&(lease.deadline_ms, id));
        self.offered.remove(&(lease.worker, id));
        if let Work::Package { job, .. } = lease.work {
            self.classes.remove(&(self.jobs[&job].spec.priority, id));
        }
        self.worker(lease.worker).leases.remove(&id);
        self.note_idle(lease.worker);
        let value = self.value_held(&lease);
        take(&mut self.owners.entry(lease.owner).or_default().held, value);
        self.job(lease.job).leases.remove(&id);
        lease
    }

    /// Takes a lease away; answers whether that counts as a failure.
    fn take_lease(&mut self, id: LeaseId, cause: &EndCause) -> (Lease, bool) {
        let lease = self.remove_lease(id);
        let failed = matches!(cause, EndCause::Expired | EndCause::Failed { .. });
        if failed {
            self.owners.entry(lease.owner).or_default().failed();
        }
        if let (true, Some(job)) = (failed, self.jobs.get_mut(&lease.job)) {
            job.last_failure = Some(match cause {
                EndCause::Failed { code, detail } => format!("{code}: {detail}"),
                _ => format!("{id} expired"),
            });
        }
        (lease, failed)
    }

    fn end_lease(&mut self, id: LeaseId, cause: &EndCause, at_ms: u64) {
        let (lease, failed) = self.take_lease(id, cause);
        match lease.work {
            Work::Package { package, job, run } => {
                let package_before = self.packages.remove(&package).expect(CORRUPT);
                let Package { mut attempts, mut avoid, mut failures, replicas, .. } = package_before;
                for check in replicas {
                    self.remove_check(check);
                }
                self.job(job).leased_units -= u64::from(run.count);
                attempts += u32::from(failed);
                // Who gave units back untried leaves them to others too, or one worker could hold them up for ever.
                let passed_on = failed || matches!(cause, EndCause::Returned);
                if passed_on {
                    remember_worker(&mut avoid, lease.worker);
                }
                if failed {
                    remember_failure(&mut failures, failure(lease.worker, cause));
                }
                let late = matches!(cause, EndCause::Expired | EndCause::Preempted).then_some(id);
                if late.is_some() {
                    let (worker, owner, generation) = (lease.worker, lease.owner, lease.generation);
                    self.late.insert(id, Late { worker, owner, generation, package, job, run });
                }
                self.put_waiting(
                    job,
                    WaitingRun { first: run.first, count: run.count.into(), attempts, avoid, failures, late },
                    at_ms,
                );
            }
            Work::Check { check } => {
                let entry = self.checks.get_mut(&check).expect(CORRUPT);
                entry.state = CheckState::Waiting;
                if failed {
                    entry.failures += 1;
                    entry.avoid.push(lease.worker);
                }
                self.list_check(check);
            }
        }
    }

    /// Ends a package's lease and makes one of its replicas its execution.
    fn pass_on(&mut self, id: LeaseId, cause: &EndCause, replica: CheckId) {
        let (lease, failed) = self.take_lease(id, cause);
        let Work::Package { package: id, job, run } = lease.work else { panic!("{CORRUPT}") };
        let check = self.checks.get_mut(&replica).expect(CORRUPT);
        let made = std::mem::replace(&mut check.state, CheckState::Waiting);
        self.remove_check(replica);
        let package = self.packages.get_mut(&id).expect(CORRUPT);
        package.attempts += u32::from(failed);
        if failed {
            remember_failure(&mut package.failures, failure(lease.worker, cause));
            remember_worker(&mut package.avoid, lease.worker);
        }
        package.replicas.retain(|check| *check != replica);
        match made {
            CheckState::Leased(next) => {
                package.state = PackageState::Leased(next);
                let entry = self.leases.get_mut(&next).expect(CORRUPT);
                entry.work = Work::Package { package: id, job, run };
                let (owner, value) = (entry.owner, self.value_held(&self.leases[&next]));
                add(&mut self.owners.entry(owner).or_default().held, value);
                self.classes.insert((self.jobs[&job].spec.priority, next));
            }
            CheckState::Early { worker, owner, lease, receipt, outputs } => {
                let checks = std::mem::take(&mut package.replicas);
                self.compare_early(&checks);
                let package = self.packages.get_mut(&id).expect(CORRUPT);
                package.state = PackageState::Committed {
                    worker,
                    owner,
                    lease,
                    receipt,
                    outputs,
                    taken_ms: None,
                    checks,
                };
                let entry = self.job(job);
                entry.leased_units -= u64::from(run.count);
                entry.checking_units += u64::from(run.count);
                entry.committed.insert(id);
            }
            _ => panic!("{CORRUPT}"),
        }
    }

    /// What was made before the package was committed can be compared now.
    fn compare_early(&mut self, checks: &[CheckId]) {
        for id in checks {
            let check = self.checks.get_mut(id).expect(CORRUPT);
            if let CheckState::Early { worker, owner, receipt, outputs, .. } = &mut check.state {
                let (worker, owner, receipt, outputs) = (*worker, *owner, *receipt, std::mem::take(outputs));
                check.state = CheckState::Comparing { worker, owner, receipt, outputs };
                self.comparing.insert(*id);
            }
        }
    }

    /// Moves a package's units from leased (or, for a late receipt, waiting) to checking.
    fn commit_package(&mut self, package: PackageId, job: JobId, run: UnitRun, lease: LeaseId) {
        if self.leases.contains_key(&lease) {
            self.remove_lease(lease);
            self.job(job).leased_units -= u64::from(run.count);
        } else {
            let WaitingRun { attempts, avoid, failures, .. } = self.take_waiting(job, run);
            let state = PackageState::Leased(lease);
            self.packages.insert(
                package,
                Package { job, run, attempts, avoid, failures, replicas: Vec::new(), state },
            );
        }
        let entry = self.job(job);
        entry.checking_units += u64::from(run.count);
        entry.committed.insert(package);
    }

    pub(crate) fn list_check(&mut self, id: CheckId) {
        let check = &self.checks[&id];
        let needs = &self.jobs[&check.job].spec.stage_of(check.units[0]).requirements;
        let turn = self.verifier_turn(check);
        self.waiting_checks.insert(id, check.job, needs, turn);
    }

    fn plan_looks(&mut self, package: PackageId, looks: &[LookPlan], at_ms: u64) {
        let market = self.market();
        let entry = self.packages.get_mut(&package).expect(CORRUPT);
        let PackageState::Committed { checks, .. } = &mut entry.state else { panic!("{CORRUPT}") };
        checks.extend(looks.iter().map(|look| look.check));
        for look in looks {
            self.next.check = look.check.0;
            let job = entry.job;
            let owner = match look.kind {
                CheckKind::Canary => self.jobs[&job].owner,
                CheckKind::Algebraic => market,
                CheckKind::Execution => panic!("{CORRUPT}"),
            };
            let check = Check {
                package,
                job,
                units: look.units.clone(),
                kind: look.kind,
                verifier_only: true,
                tie_of: None,
                since_ms: at_ms,
                failures: 0,
                avoid: Vec::new(),
                differs: Vec::new(),
                appeal: None,
                state: CheckState::Looking { owner },
            };
            self.checks.insert(look.check, check);
            let list = if look.kind == CheckKind::Canary { &mut self.comparing } else { &mut self.looking };
            list.insert(look.check);
        }
    }

    fn draw_checks(&mut self, package: PackageId, plans: &[CheckPlan], at_ms: u64) {
        let entry = self.packages.get_mut(&package).expect(CORRUPT);
        let job = entry.job;
        let checks = match &mut entry.state {
            PackageState::Committed { checks, .. } => checks,
            PackageState::Leased(_) => &mut entry.replicas,
        };
        checks.extend(plans.iter().map(|plan| plan.check));
        for plan in plans {
            self.next.check = plan.check.0;
            let check = Check {
                package,
                job,
                units: plan.units.clone(),
                kind: CheckKind::Execution,
                verifier_only: plan.verifier_only,
                tie_of: plan.tie_of,
                since_ms: at_ms,
                failures: 0,
                avoid: Vec::new(),
                differs: Vec::new(),
                appeal: None,
                state: CheckState::Waiting,
            };
            let job = self.jobs.get_mut(&job).expect(CORRUPT);
            if !plan.verifier_only {
                job.checks_held.0 += job.spec.stage_of(plan.units[0]).unit_price.0 * plan.units.len() as u64;
            }
            self.checks.insert(plan.check, check);
            self.list_check(plan.check);
        }
    }

    /// Lets the workers of a booking go.
    fn end_booking(&mut self, id: ReservationId) {
        let booking = self.bookings.remove(&id).expect(CORRUPT);
        for recipient in &booking.recipients {
            self.booked.remove(&recipient.worker);
        }
        self.booking_ends.remove(&(booking.until_ms, id));
    }

    /// Moves one payment from a job's escrow to a worker's owner, the treasury and the void.
    fn pay(&mut self, job: JobId, worker: PublicKey, owner: PublicKey, pay: &Split) {
        let entry = self.job(job);
        add(&mut entry.money.paid, pay.provider);
        add(&mut entry.money.treasury, pay.treasury);
        add(&mut entry.money.burned, pay.burn);
        add(&mut entry.money.royalties, pay.royalty);
        let royalty = entry.spec.royalty;
        add(&mut entry.workers.entry(worker).or_default().paid, pay.provider);
        let client = entry.owner;
        take(&mut self.ledger.held, pay.total());
        add(&mut self.ledger.paid, pay.provider);
        add(&mut self.ledger.treasury, pay.treasury);
        add(&mut self.ledger.burned, pay.burn);
        add(&mut self.ledger.royalties, pay.royalty);
        if let Some(royalty) = royalty.filter(|_| pay.royalty > Amount::ZERO) {
            let account = self.account(royalty.account);
            add(&mut account.available, pay.royalty);
            add(&mut account.earned, pay.royalty);
        }
        let account = self.account(client);
        take(&mut account.escrowed, pay.total());
        add(&mut account.spent, pay.total());
        self.hold_back(owner, pay.provider);
        add(&mut self.account(owner).earned, pay.provider);
        add(&mut self.worker(worker).earned, pay.provider);
    }

    /// Gives an owner pay that it may spend after `appeal_ms`. What is free at about the same time is one sum.
    pub(crate) fn hold_back(&mut self, owner: PublicKey, amount: Amount) {
        let held_ms = self.params.appeal_ms;
        if held_ms == 0 || amount == Amount::ZERO {
            return add(&mut self.account(owner).available, amount);
        }
        let bucket_ms = (held_ms / PENDING_BUCKETS).max(1);
        let free_at_ms = (self.at_ms + held_ms).div_ceil(bucket_ms) * bucket_ms;
        add(self.pending.entry((free_at_ms, owner)).or_default(), amount);
        add(&mut self.account(owner).pending, amount);
        add(&mut self.ledger.pending, amount);
    }

    /// Removes a package and its checks; answers the checks that were decided.
    fn remove_package(&mut self, id: PackageId) -> (Package, Vec<Check>) {
        let package = self.packages.remove(&id).expect(CORRUPT);
        let PackageState::Committed { checks, .. } = &package.state else { panic!("{CORRUPT}") };
        let mut decided = Vec::new();
        for id in checks {
            decided.extend(self.remove_check(*id));
        }
        let job = self.job(package.job);
        job.committed.remove(&id);
        job.checking_units -= u64::from(package.run.count);
        (package, decided)
    }

    pub(crate) fn remove_check(&mut self, id: CheckId) -> Option<Check> {
        let check = self.checks.remove(&id).expect(CORRUPT);
        self.waiting_checks.remove(id);
        self.comparing.remove(&id);
        self.looking.remove(&id);
        if !check.verifier_only && check.appeal.is_none() {
            let job = self.jobs.get_mut(&check.job).expect(CORRUPT);
            job.checks_held.0 -= job.spec.stage_of(check.units[0]).unit_price.0 * check.units.len() as u64;
        }
        assert!(!matches!(check.state, CheckState::Leased(_)), "{CORRUPT}");
        matches!(check.state, CheckState::Decided { .. } | CheckState::Undecided).then_some(check)
    }

    fn accept(&mut self, id: PackageId, pay: &Split, at_ms: u64) {
        let (package, decided) = self.remove_package(id);
        let PackageState::Committed { worker, owner, lease, receipt, outputs, taken_ms, checks } =
            package.state
        else {
            panic!("{CORRUPT}")
        };
        // The owner of a cancelled job pays without waiting for the checks. That proves nothing, so it earns no trust.
        let quorum = self.jobs[&package.job].spec.stage_of(package.run.first).policy.combined().quorum;
        let whole = decided.iter().filter(|check| check.confirms(package.run));
        let reached = quorum.is_some_and(|quorum| whole.count() >= quorum.agree as usize - 1);
        let verified = reached || decided.len() == checks.len();
        self.pay(package.job, worker, owner, pay);
        let (mut checked, mut algebraic, mut canaries) = (Vec::new(), Vec::new(), 0);
        for check in decided {
            let CheckState::Decided { worker: by, owner, agrees, .. } = check.state else { continue };
            match by {
                Some(by) if agrees => checked.extend(check.units.iter().map(|unit| (*unit, by))),
                // The package stands against this opinion, so the opinion was wrong; a cancelled job decides nothing.
                Some(_) if verified => self.discredit(owner),
                Some(_) => {}
                None if agrees && check.kind == CheckKind::Algebraic => algebraic.extend(check.units),
                None if agrees => canaries += check.units.len() as u64,
                None => {}
            }
        }
        checked.sort_unstable();
        let mut distinct: Vec<_> = checked.iter().map(|(unit, _)| *unit).collect();
        distinct.dedup();
        let again = distinct.len() as u64;
        distinct.extend_from_slice(&algebraic);
        distinct.sort_unstable();
        distinct.dedup();
        let count = package.run.count;
        let job = self.job(package.job);
        job.accepted_units += u64::from(count);
        job.units_held.0 -= job.spec.stage_of(package.run.first).unit_price.0 * u64::from(count);
        job.verification.checked += again;
        job.verification.algebraic += algebraic.len() as u64;
        job.verification.canaries += canaries;
        job.verification.sampled_out += u64::from(count) - distinct.len() as u64;
        job.workers.entry(worker).or_default().units += u64::from(count);
        let accepted = AcceptedRun { count, worker, receipt, outputs, checked };
        let before = job.accepted.insert(package.run.first, accepted);
        assert!(before.is_none(), "{CORRUPT}");
        let first = package.run.first;
        job.queue_of(first).accepted_units += u64::from(count);
        job.done.insert(first, first + u64::from(count));
        let job = &self.jobs[&package.job];
        let reference_ns = self.params.reference_ns(job.spec.stage_of(package.run.first));
        let work_ns = u128::from(reference_ns) * u128::from(count);
        self.count_work(owner, Role::Worker, work_ns, pay.total(), self.at_ms);
        if let Some(taken_ms) = taken_ms {
            let job = self.jobs.get_mut(&package.job).expect(CORRUPT);
            let own = &mut job.workers.entry(worker).or_default().calibration;
            let speed = &mut self.workers.get_mut(&worker).expect(CORRUPT).speed;
            speed.learn(&mut job.calibration, own, work_ns, taken_ms, &self.params);
        }
        let pace_ppm = self.workers[&worker].speed.pace_ppm();
        let record = self.owners.entry(owner).or_default();
        record.accepted(pace_ppm, at_ms);
        let suspicions = record.suspicions;
        if verified {
            record.streak = record.streak.saturating_add(1);
        }
        self.appraise(worker);
        let ready = self.jobs[&package.job].unblocked_by(first, count.into());
        self.unblock(package.job, ready, at_ms);
        let entry = self.worker(worker);
        entry.units += u64::from(count);
        // What was computed for another wallet is that one's record.
        if verified && entry.owner == owner {
            if entry.suspicions == suspicions {
                entry.streak = entry.streak.saturating_add(1);
            } else {
                let latest = entry.suspicions.wrapping_add(1) == suspicions;
                entry.forfeited = if latest { entry.streak } else { 0 };
                (entry.streak, entry.suspicions) = (1, suspicions);
            }
        }
        if let Some(closed) = self.closed.get_mut(&lease) {
            closed.paid = Some(pay.provider);
        }
    }

    /// Begins an owner's record anew, because something about it is suspicious. The market does not suspect itself.
    pub(crate) fn discredit(&mut self, owner: PublicKey) {
        if owner != self.market() {
            let record = self.owners.entry(owner).or_default();
            record.failed();
            record.suspected();
        }
    }

    fn reject(&mut self, id: PackageId, at_ms: u64) {
        let (package, decided) = self.remove_package(id);
        let PackageState::Committed { worker, owner, .. } = package.state else { panic!("{CORRUPT}") };
        self.discredit(owner);
        let (market, decided): (_, Vec<_>) = (self.market(), decided.iter().collect());
        for check in &decided {
            if let CheckState::Decided { worker: Some(_), owner, agrees: true, .. } = check.state
                && refuted(check, &decided, market)
            {
                self.discredit(owner);
            }
        }
        self.worker(worker).rejected += 1;
        let job = self.job(package.job);
        job.verification.rejected += u64::from(package.run.count);
        job.last_failure = Some(format!("the results of {worker} were contradicted"));
        let (mut avoid, mut failures) = (package.avoid, package.failures);
        avoid.push(worker);
        remember_failure(
            &mut failures,
            Failure { worker, code: "contradicted".into(), why: "its results were contradicted".into() },
        );
        let run = WaitingRun {
            first: package.run.first,
            count: package.run.count.into(),
            attempts: package.attempts + 1,
            avoid,
            failures,
            late: None,
        };
        self.put_waiting(package.job, run, at_ms);
    }
}

impl LeaveCause {
    /// The cause that the worker's leases end with. A silent worker may have died of its units, so they count an attempt;
    /// its receipt is still taken if it comes before somebody else has the units.
    pub(crate) fn lease_end(self) -> EndCause {
        match self {
            Self::Left => EndCause::WorkerLeft,
            Self::Silent => EndCause::Expired,
        }
    }
}

fn remember_failure(failures: &mut Vec<Failure>, failure: Failure) {
    failures.truncate(AVOID_MAX - 1);
    failures.insert(0, failure);
}

pub(crate) fn add(to: &mut Amount, amount: Amount) {
    to.0 = to.0.checked_add(amount.0).expect("deposits are bounded so that no sum overflows");
}

pub(crate) fn take(from: &mut Amount, amount: Amount) {
    from.0 = from.0.checked_sub(amount.0).expect("no balance goes below zero");
}

/// Remembers who is to be avoided, the last one first.
fn remember_worker(avoid: &mut Vec<PublicKey>, worker: PublicKey) {
    if !avoid.contains(&worker) {
        avoid.truncate(AVOID_MAX - 1);
        avoid.insert(0, worker);
    }
}

/// How a worker failed the units of a lease that ended so.
fn failure(worker: PublicKey, cause: &EndCause) -> Failure {
    let (code, why) = match cause {
        EndCause::Failed { code, detail } => (code.clone(), detail.clone()),
        _ => (Failure::EXPIRED.to_owned(), "nothing was heard of it in time".to_owned()),
    };
    Failure { worker, code, why }
}
