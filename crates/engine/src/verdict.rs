//! Verdicts: what is taken from the owner of a package that was contradicted, and how the owner may contest it.
//!
//! Two owners who got something else, or the market itself, reject a package. That is a verdict: it takes from the owner what
//! [`State::slash_of`] says, from its stake, then from stake on its way back, then from pay that is held back. What is taken is
//! *frozen*: nobody has it before the verdict is final. One opinion takes nothing, and neither does a package that nobody could
//! execute again.
//!
//! For `appeal_ms` the owner may contest the verdict, once, with a deposit. The disputed units (those whose commitments differ) are then
//! executed again by owners who had no part in it:
//!
//! - what the market's verifier finds decides, unless it was the one that disagreed; it then leaves the units to others for half of
//!   the time;
//! - of other owners one who disagrees with the accused upholds the verdict, and two who agree overturn it;
//! - when nobody could say anything in `appeal_ms`, the verdict stands, and the deposit goes back.
//!
//! A verdict that stands burns what was taken, but for the treasury's part (as `treasury_bps` and `burn_bps` stand to each other). An
//! appeal that fails costs the deposit: it pays the executions, and the rest goes the same way.
//!
//! A verdict that is overturned gives everything back: what was taken, to where it was; the deposit; the record. The
//! package is not accepted any more, because its units have been given to somebody else and a unit is paid by its job once. The accused is
//! paid for it by those who were wrong, in equal parts, from the same places as a verdict takes from; they also lose their record. What
//! they do not have, or the market's verifier owes, comes from the treasury, but no more than the job has paid into it: who is client,
//! accused and accuser in one gets nothing out that way. Executions of the appeal are paid first, then the deposit, then the package.
//!
//! This module has the values and their folding; [`decide`](crate::decide()) has the decisions.

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{Amount, CheckId, Hash, JobId, OutputCommitment, PackageId, PublicKey, UnitRun, VerdictId};

use crate::{
    Check, CheckKind, CheckPlan, CheckState, Event, Params, Split, State, Verdict,
    evolve::{CORRUPT, add, take},
    ratio::scale,
};

/// Verdicts that may be open at a time; with one more, the one that would be final first is final.
pub(crate) const VERDICTS_MAX: usize = 16_384;

/// Appeals get at least this long, however short a verdict may be contested.
pub(crate) const APPEAL_MS_MIN: u64 = 60_000;

/// What somebody who executed units again, or looked at them, says of a package.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Opinion {
    /// Who executed them; nothing for a look without an execution.
    pub worker: Option<PublicKey>,
    /// Whose opinion it is.
    pub owner: PublicKey,
    /// Whether it is the accused's.
    pub agrees: bool,
    /// The digest of its receipt, which the journal has.
    pub receipt: Option<Hash>,
    /// What was compared and where it first differs.
    pub evidence: String,
}

/// What is taken from an account, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Seizure {
    /// From its stake.
    pub bonded: Amount,
    /// From stake on its way back, by when it would have been free.
    pub unbonding: Vec<(u64, Amount)>,
    /// From pay that is held back, by when it would have been free.
    pub pending: Vec<(u64, Amount)>,
}

impl Seizure {
    /// The whole.
    pub fn total(&self) -> Amount {
        let later = self.unbonding.iter().chain(&self.pending).map(|(_, amount)| amount.0);
        Amount(self.bonded.0 + later.sum::<u64>())
    }
}

/// How a verdict became final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Outcome {
    /// Nobody contested it in time.
    Uncontested,
    /// It was contested, and somebody who had no part in it found the same.
    Upheld,
    /// It was contested, and nobody could execute the units in time: it stands.
    Unexamined,
    /// It was contested, and the accused was right.
    Overturned,
}

/// Money that moves when a verdict is final. What it froze, the deposit and what is taken besides become all the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Closing {
    /// Executions of the appeal: who made them, for whom, and the payment.
    pub pays: Vec<(PublicKey, PublicKey, Split)>,
    /// The deposit, or what of it goes back.
    pub deposit: Amount,
    /// What the accused is paid for the package after all.
    pub compensation: Amount,
    /// What those who were wrong pay for that.
    pub seized: Vec<(PublicKey, Seizure)>,
    /// What the treasury pays for that.
    pub from_treasury: Amount,
    /// What the treasury gets of what was frozen.
    pub treasury: Amount,
    /// What is burned of it.
    pub burned: Amount,
}

/// An appeal against a verdict.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Appeal {
    /// What was deposited for it.
    pub deposit: Amount,
    /// The executions of the disputed units.
    pub checks: Vec<CheckId>,
    /// When it was made.
    pub at_ms: u64,
}

/// A verdict that is not final.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OpenVerdict {
    /// The package.
    pub package: PackageId,
    /// Its job.
    pub job: JobId,
    /// Its units.
    pub run: UnitRun,
    /// Who computed it.
    pub worker: PublicKey,
    /// The wallet that would have been paid.
    pub owner: PublicKey,
    /// What was found.
    pub cause: Verdict,
    /// Who said what.
    pub opinions: Vec<Opinion>,
    /// The units whose commitments differ.
    pub disputed: Vec<u64>,
    /// What the accused committed to of each.
    pub(crate) outputs: Vec<Vec<OutputCommitment>>,
    /// What the owner would have been paid.
    pub pay: Amount,
    /// What was taken from it.
    pub slash: Seizure,
    /// When it was reached.
    pub at_ms: u64,
    /// Until when it may be contested, or is to be decided.
    pub until_ms: u64,
    /// Set once it is contested.
    pub appeal: Option<Appeal>,
    /// Suspicions against the owner with this one, and what it lost by it.
    pub(crate) suspicions: u32,
    pub(crate) owner_streak: u32,
    pub(crate) reliability_milli: u32,
}

impl OpenVerdict {
    /// Whether the market itself disagreed with the accused.
    pub(crate) fn is_by(&self, market: PublicKey) -> bool {
        self.opinions.iter().any(|opinion| opinion.owner == market && !opinion.agrees)
    }

    /// Whether an owner has said something of the package, or is accused.
    pub(crate) fn concerns(&self, owner: PublicKey) -> bool {
        self.owner == owner || self.opinions.iter().any(|opinion| opinion.owner == owner)
    }

    /// What the accused committed to of each disputed unit.
    pub fn outputs(&self) -> &[Vec<OutputCommitment>] {
        &self.outputs
    }

    /// What it holds.
    pub fn frozen(&self) -> Amount {
        Amount(self.slash.total().0 + self.appeal.as_ref().map_or(0, |appeal| appeal.deposit.0))
    }
}

/// Whether a check that agrees with a package is contradicted by what rejected it: somebody was right to disagree on units that
/// it covers too. Who executed other units has said nothing wrong.
pub(crate) fn refuted(check: &Check, of_package: &[&Check], market: PublicKey) -> bool {
    let dissents = || {
        let others = of_package.iter().filter(|other| other.kind != CheckKind::Canary);
        others.filter_map(|other| match other.state {
            CheckState::Decided { owner, agrees: false, .. } => Some((owner, &other.units)),
            _ => None,
        })
    };
    let by_market = dissents().any(|(owner, _)| owner == market);
    let mut decisive = dissents().filter(|(owner, _)| !by_market || *owner == market);
    decisive.any(|(_, units)| units.iter().all(|unit| check.units.binary_search(unit).is_ok()))
}

impl Params {
    /// What of an amount that nobody gets back goes to the treasury; the rest is burned.
    pub(crate) fn forfeited(&self, amount: Amount) -> Amount {
        let (treasury, burn) = (u64::from(self.treasury_bps), u64::from(self.burn_bps));
        Amount(scale(amount.0, treasury, treasury + burn))
    }
}

impl State {
    /// Every verdict that is not final.
    pub fn verdicts(&self) -> &std::collections::BTreeMap<VerdictId, OpenVerdict> {
        &self.verdicts
    }

    /// Where `amount` can be taken from an account, as far as it has it.
    pub(crate) fn seizable(&self, account: PublicKey, amount: Amount) -> Seizure {
        let known = self.accounts.get(&account).copied().unwrap_or_default();
        let mut left = amount.0;
        let mut part = |of: Amount| {
            let taken = of.0.min(left);
            left -= taken;
            Amount(taken)
        };
        let bonded = part(known.bonded);
        let mut unbonding = Vec::new();
        if known.unbondings > 0 {
            let own = self.unbonding.iter().filter(|((_, of), _)| *of == account);
            unbonding
                .extend(own.take(known.unbondings as usize).map(|((at_ms, _), amount)| (*at_ms, *amount)));
        }
        let mut parts = |all: Vec<(u64, Amount)>| -> Vec<_> {
            let taken = all.into_iter().map(|(at_ms, amount)| (at_ms, part(amount)));
            taken.filter(|(_, amount)| *amount > Amount::ZERO).collect()
        };
        let unbonding = parts(unbonding);
        let pending = parts(self.pending_of(account));
        Seizure { bonded, unbonding, pending }
    }

    /// Takes from an account. The money is the caller's to book.
    pub(crate) fn seize(&mut self, id: PublicKey, seizure: &Seizure) {
        if seizure.total() == Amount::ZERO {
            return;
        }
        let (mut unbonding, mut ended, mut pending) = (Amount::ZERO, 0, Amount::ZERO);
        for (at_ms, amount) in &seizure.unbonding {
            let entry = self.unbonding.get_mut(&(*at_ms, id)).expect(CORRUPT);
            take(entry, *amount);
            add(&mut unbonding, *amount);
            if *entry == Amount::ZERO {
                self.unbonding.remove(&(*at_ms, id));
                ended += 1;
            }
        }
        for (at_ms, amount) in &seizure.pending {
            let entry = self.pending.get_mut(&(*at_ms, id)).expect(CORRUPT);
            take(entry, *amount);
            add(&mut pending, *amount);
            if *entry == Amount::ZERO {
                self.pending.remove(&(*at_ms, id));
            }
        }
        let account = self.accounts.entry(id).or_default();
        take(&mut account.bonded, seizure.bonded);
        take(&mut account.unbonding, unbonding);
        account.unbondings -= ended;
        take(&mut account.pending, pending);
        take(&mut self.ledger.bonded, seizure.bonded);
        take(&mut self.ledger.unbonding, unbonding);
        take(&mut self.ledger.pending, pending);
    }

    /// Gives back what was taken from an account, to where it was. What would be free by now is free with the next passage of
    /// time.
    fn restore(&mut self, id: PublicKey, seizure: &Seizure) {
        if seizure.total() == Amount::ZERO {
            return;
        }
        let (mut unbonding, mut begun, mut pending) = (Amount::ZERO, 0, Amount::ZERO);
        for (at_ms, amount) in &seizure.unbonding {
            add(&mut unbonding, *amount);
            add(
                self.unbonding.entry((*at_ms, id)).or_insert_with(|| {
                    begun += 1;
                    Amount::ZERO
                }),
                *amount,
            );
        }
        for (at_ms, amount) in &seizure.pending {
            add(&mut pending, *amount);
            add(self.pending.entry((*at_ms, id)).or_default(), *amount);
        }
        let account = self.accounts.entry(id).or_default();
        add(&mut account.bonded, seizure.bonded);
        add(&mut account.unbonding, unbonding);
        account.unbondings += begun;
        add(&mut account.pending, pending);
        add(&mut self.ledger.bonded, seizure.bonded);
        add(&mut self.ledger.unbonding, unbonding);
        add(&mut self.ledger.pending, pending);
    }

    /// The units that a check got otherwise, by what was committed; all of them when it executed nothing.
    pub(crate) fn differing_units(&self, id: CheckId) -> Vec<u64> {
        let check = &self.checks[&id];
        let CheckState::Comparing { outputs, .. } = &check.state else { return check.units.clone() };
        let pairs = check.units.iter().zip(outputs).zip(self.contested_outputs(check));
        pairs.filter(|((_, again), first)| again[..] != first[..]).map(|((unit, _), _)| *unit).collect()
    }

    pub(crate) fn reach_verdict(&mut self, event: &Event) {
        let Event::VerdictReached {
            verdict,
            package,
            job,
            run,
            worker,
            owner,
            cause,
            opinions,
            disputed,
            pay,
            slash,
            until_ms,
            ..
        } = event
        else {
            panic!("{CORRUPT}")
        };
        self.next.verdict = verdict.0;
        let crate::PackageState::Committed { outputs, .. } = &self.packages[package].state else {
            panic!("{CORRUPT}")
        };
        let index = |unit: &u64| usize::try_from(unit - run.first).expect("a unit of the package");
        let outputs = disputed.iter().map(|unit| outputs[index(unit)].clone()).collect();
        self.seize(*owner, slash);
        if slash.total() > Amount::ZERO {
            add(&mut self.account(*owner).frozen, slash.total());
            add(&mut self.ledger.frozen, slash.total());
        }
        self.job(*job).open_verdicts += 1;
        let record = self.provider(*owner);
        let mut failed = record;
        failed.failed();
        let new = OpenVerdict {
            package: *package,
            job: *job,
            run: *run,
            worker: *worker,
            owner: *owner,
            cause: cause.clone(),
            opinions: opinions.clone(),
            disputed: disputed.clone(),
            outputs,
            pay: *pay,
            slash: slash.clone(),
            at_ms: self.at_ms,
            until_ms: *until_ms,
            appeal: None,
            // The rejection that follows is the suspicion.
            suspicions: record.suspicions.wrapping_add(1),
            owner_streak: record.streak,
            reliability_milli: record.reliability_milli - failed.reliability_milli,
        };
        let before = self.verdicts.insert(*verdict, new);
        assert!(before.is_none(), "{CORRUPT}");
        self.verdict_deadlines.insert((*until_ms, *verdict));
    }

    pub(crate) fn contest_verdict(
        &mut self,
        id: VerdictId,
        deposit: Amount,
        plans: &[CheckPlan],
        until_ms: u64,
    ) {
        let at_ms = self.at_ms;
        let verdict = self.verdicts.get_mut(&id).expect(CORRUPT);
        let checks = plans.iter().map(|plan| plan.check).collect();
        let before = verdict.appeal.replace(Appeal { deposit, checks, at_ms });
        assert!(before.is_none(), "{CORRUPT}");
        self.verdict_deadlines.remove(&(verdict.until_ms, id));
        verdict.until_ms = until_ms;
        self.verdict_deadlines.insert((until_ms, id));
        let (package, job, owner) = (verdict.package, verdict.job, verdict.owner);
        let account = self.account(owner);
        take(&mut account.available, deposit);
        add(&mut account.frozen, deposit);
        add(&mut self.ledger.frozen, deposit);
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
                appeal: Some(id),
                state: CheckState::Waiting,
            };
            self.checks.insert(plan.check, check);
            self.list_check(plan.check);
        }
    }

    pub(crate) fn close_verdict(&mut self, id: VerdictId, outcome: Outcome, closing: &Closing) {
        let verdict = self.verdicts.remove(&id).expect(CORRUPT);
        self.verdict_deadlines.remove(&(verdict.until_ms, id));
        for check in verdict.appeal.iter().flat_map(|appeal| &appeal.checks) {
            self.remove_check(*check);
        }
        let job = self.job(verdict.job);
        job.open_verdicts -= 1;
        add(&mut job.compensated, closing.from_treasury);
        if verdict.frozen() > Amount::ZERO {
            let account = self.account(verdict.owner);
            take(&mut account.frozen, verdict.frozen());
            add(&mut account.available, closing.deposit);
            take(&mut self.ledger.frozen, verdict.frozen());
        }
        for (owner, seizure) in &closing.seized {
            self.seize(*owner, seizure);
        }
        take(&mut self.ledger.treasury, closing.from_treasury);
        for (worker, owner, pay) in &closing.pays {
            self.reward(*worker, *owner, pay.provider);
            add(&mut self.ledger.treasury, pay.treasury);
            add(&mut self.ledger.burned, pay.burn);
        }
        add(&mut self.ledger.treasury, closing.treasury);
        add(&mut self.ledger.burned, closing.burned);
        if outcome == Outcome::Overturned {
            self.reward(verdict.worker, verdict.owner, closing.compensation);
            self.restore(verdict.owner, &verdict.slash);
            self.rehabilitate(&verdict);
            for opinion in verdict.opinions.iter().filter(|opinion| !opinion.agrees) {
                if opinion.worker.is_some() {
                    self.discredit(opinion.owner);
                }
            }
        }
    }

    /// Pays for work from what a verdict held.
    fn reward(&mut self, worker: PublicKey, owner: PublicKey, amount: Amount) {
        self.hold_back(owner, amount);
        add(&mut self.account(owner).earned, amount);
        add(&mut self.worker(worker).earned, amount);
        add(&mut self.ledger.paid, amount);
    }

    /// Gives an owner and its workers the record back that a verdict took, unless something else was suspicious since.
    fn rehabilitate(&mut self, verdict: &OpenVerdict) {
        let owner = self.owners.entry(verdict.owner).or_default();
        owner.reliability_milli =
            (owner.reliability_milli + verdict.reliability_milli).min(crate::NRS_MAX_MILLI);
        self.worker(verdict.worker).rejected -= 1;
        let owner = self.owners.entry(verdict.owner).or_default();
        if owner.suspicions != verdict.suspicions {
            return;
        }
        owner.streak = owner.streak.saturating_add(verdict.owner_streak);
        for worker in self.workers.values_mut().filter(|worker| worker.owner == verdict.owner) {
            if worker.suspicions == verdict.suspicions {
                worker.streak = worker.streak.saturating_add(std::mem::take(&mut worker.forfeited));
            } else if worker.suspicions.wrapping_add(1) == verdict.suspicions {
                worker.suspicions = verdict.suspicions;
            }
        }
    }
}
