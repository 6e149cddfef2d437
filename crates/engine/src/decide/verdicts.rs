//! Judging, contesting, and making verdicts final. The rules stand in [`verdict`](crate::verdict).

use std::collections::BTreeSet;

use protocol::{Amount, CheckId, PackageId, PublicKey, VerdictId};

use super::Deciding;
use crate::{
    Answer, Check, CheckPlan, CheckState, Closing, EndCause, Event, Opinion, Outcome, PackageState,
    Rejection, Seizure, Split, Verdict,
    verdict::{APPEAL_MS_MIN, VERDICTS_MAX},
};

/// Executions that an appeal asks for: as many as it takes to outvote two, with the accused.
const EXECUTIONS: u64 = 2;

/// Verdicts that one passage of time makes final; what is left is due at once again.
const FINAL_MAX: usize = 1_000;

/// What a check that is decided says.
fn opinion(check: &Check) -> Option<Opinion> {
    match &check.state {
        CheckState::Decided { worker, owner, agrees, receipt, evidence } => Some(Opinion {
            worker: *worker,
            owner: *owner,
            agrees: *agrees,
            receipt: *receipt,
            evidence: evidence.clone(),
        }),
        _ => None,
    }
}

impl Deciding<'_> {
    /// Says what the rejection of a package takes from its owner. The package is still there.
    pub(super) fn judge(&mut self, id: PackageId, cause: &Verdict) {
        // What nobody could execute again says nothing about anybody.
        if *cause == Verdict::Unverifiable {
            return;
        }
        if self.state.verdicts.len() >= VERDICTS_MAX
            && let Some((_, first)) = self.state.verdict_deadlines.first().copied()
        {
            self.close(first);
        }
        let package = &self.state.packages[&id];
        let PackageState::Committed { worker, owner, receipt, checks, .. } = &package.state else {
            unreachable!("what is rejected was committed")
        };
        let (worker, owner, receipt) = (*worker, *owner, *receipt);
        let checks = checks.iter().map(|check| &self.state.checks[check]);
        let disputed: BTreeSet<u64> = checks.clone().flat_map(|check| &check.differs).copied().collect();
        let opinions: Vec<_> = checks.filter_map(opinion).collect();
        let spec = &self.state.jobs[&package.job].spec;
        let value = Amount(spec.stage_of(package.run.first).unit_price.0 * u64::from(package.run.count));
        let slash = self.state.slash_of(owner, value);
        let event = Event::VerdictReached {
            verdict: VerdictId(self.state.next.verdict + 1),
            package: id,
            job: package.job,
            run: package.run,
            worker,
            owner,
            receipt,
            cause: cause.clone(),
            opinions,
            disputed: disputed.into_iter().collect(),
            pay: Split::of(value, spec.royalty_bps(), &self.state.params).provider,
            slash: self.state.seizable(owner, slash),
            until_ms: self.now_ms + self.state.params.appeal_ms,
        };
        self.emit(event);
    }

    /// What an execution of a verdict's disputed units costs.
    fn execution_price(&self, id: VerdictId) -> Amount {
        let verdict = &self.state.verdicts[&id];
        let price = self.state.jobs[&verdict.job].spec.stage_of(verdict.run.first).unit_price;
        Amount(price.0 * verdict.disputed.len() as u64)
    }

    /// What contesting a verdict takes as a deposit.
    fn appeal_deposit(&self, id: VerdictId) -> Amount {
        Amount(self.state.params.appeal_deposit.max(self.execution_price(id).0 * EXECUTIONS))
    }

    pub(super) fn contest(&mut self, id: VerdictId, by: PublicKey) -> Result<Answer, Rejection> {
        if id.0 == 0 || id.0 > self.state.next.verdict {
            return Err(Rejection::VerdictUnknown(id));
        }
        let verdict = self.state.verdicts.get(&id).ok_or(Rejection::VerdictFinal(id))?;
        if verdict.owner != by {
            return Err(Rejection::VerdictForeign(id));
        }
        if verdict.appeal.is_some() {
            return Err(Rejection::ContestedBefore(id));
        }
        if verdict.until_ms <= self.now_ms {
            return Err(Rejection::VerdictFinal(id));
        }
        let (needed, units) = (self.appeal_deposit(id), verdict.disputed.clone());
        let available = self.state.accounts.get(&by).copied().unwrap_or_default().available;
        if needed > available {
            return Err(Rejection::DepositTooLow { needed, available });
        }
        let first = self.state.next.check + 1;
        let plan = |check| CheckPlan {
            check: CheckId(check),
            units: units.clone(),
            verifier_only: false,
            tie_of: None,
        };
        let checks = (first..first + EXECUTIONS).map(plan).collect();
        let until_ms = self.now_ms + self.state.params.appeal_ms.max(APPEAL_MS_MIN);
        self.emit(Event::VerdictContested { verdict: id, by, deposit: needed, checks, until_ms });
        Ok(Answer::Done)
    }

    /// Decides an appeal as soon as what was said allows it.
    pub(super) fn settle_appeal(&mut self, id: VerdictId) {
        if self.appeal_outcome(id) != Outcome::Unexamined {
            self.close(id);
        }
    }

    /// What the executions of an appeal come to.
    fn appeal_outcome(&self, id: VerdictId) -> Outcome {
        let market = self.state.market();
        let Some(appeal) = &self.state.verdicts[&id].appeal else { return Outcome::Uncontested };
        let said: Vec<_> =
            appeal.checks.iter().filter_map(|check| opinion(&self.state.checks[check])).collect();
        let final_word = said.iter().find(|opinion| opinion.owner == market);
        let agree = said.iter().filter(|opinion| opinion.agrees).count();
        match final_word {
            Some(opinion) if opinion.agrees => Outcome::Overturned,
            Some(_) => Outcome::Upheld,
            None if agree < said.len() => Outcome::Upheld,
            None if agree as u64 >= EXECUTIONS => Outcome::Overturned,
            None => Outcome::Unexamined,
        }
    }

    /// Makes verdicts final whose time is over.
    pub(super) fn close_verdicts(&mut self) {
        for _ in 0..FINAL_MAX {
            match self.state.verdict_deadlines.first().copied() {
                Some((until_ms, verdict)) if until_ms <= self.now_ms => self.close(verdict),
                _ => break,
            }
        }
    }

    /// Makes a verdict final, as it stands now.
    pub(super) fn close(&mut self, id: VerdictId) {
        let outcome = self.appeal_outcome(id);
        let checks = self.state.verdicts[&id].appeal.as_ref().map_or(vec![], |appeal| appeal.checks.clone());
        for check in &checks {
            if let CheckState::Leased(lease) = self.state.checks[check].state {
                self.emit(Event::LeaseEnded { lease, cause: EndCause::NotNeeded });
            }
        }
        let opinions: Vec<_> = checks.iter().filter_map(|check| opinion(&self.state.checks[check])).collect();
        let closing = self.closing(id, outcome, &opinions);
        self.emit(Event::VerdictClosed { verdict: id, outcome, opinions, closing });
    }

    /// Where the money of a verdict goes.
    fn closing(&self, id: VerdictId, outcome: Outcome, said: &[Opinion]) -> Closing {
        let (state, market) = (&*self.state, self.state.market());
        let verdict = &state.verdicts[&id];
        let deposit = verdict.appeal.as_ref().map_or(Amount::ZERO, |appeal| appeal.deposit);
        // Whoever was right is paid, and whoever tried where nothing came of it. The market's verifier works for nothing.
        let right = |opinion: &&Opinion| match outcome {
            Outcome::Overturned => opinion.agrees,
            Outcome::Upheld => !opinion.agrees,
            Outcome::Uncontested | Outcome::Unexamined => true,
        };
        let execution = if said.is_empty() { Amount::ZERO } else { self.execution_price(id) };
        let paid = said.iter().filter(right).filter(|opinion| opinion.owner != market);
        let pays: Vec<_> = paid
            .filter_map(|opinion| {
                Some((opinion.worker?, opinion.owner, Split::of(execution, 0, &state.params)))
            })
            .collect();
        let cost: u64 = pays.iter().map(|(_, _, split)| split.total().0).sum();
        let slash = verdict.slash.total();
        let forfeit = |amount: Amount| {
            let treasury = state.params.forfeited(amount);
            (treasury, Amount(amount.0 - treasury.0))
        };
        match outcome {
            Outcome::Uncontested | Outcome::Unexamined => {
                let (treasury, burned) = forfeit(slash);
                Closing { pays, deposit: Amount(deposit.0 - cost), treasury, burned, ..Closing::default() }
            }
            Outcome::Upheld => {
                let (treasury, burned) = forfeit(Amount(slash.0 + deposit.0 - cost));
                Closing { pays, treasury, burned, ..Closing::default() }
            }
            Outcome::Overturned => {
                let wanted = verdict.pay.0 + cost;
                let seized = self.liable(id, Amount(wanted));
                let got: u64 = seized.iter().map(|(_, seizure)| seizure.total().0).sum();
                let job = &state.jobs[&verdict.job];
                let left =
                    job.money.treasury.0.saturating_sub(job.compensated.0).min(state.ledger.treasury.0);
                let from_treasury = Amount((wanted - got).min(left));
                let have = got + from_treasury.0;
                Closing {
                    pays,
                    deposit: Amount(deposit.0 - cost.saturating_sub(have)),
                    compensation: Amount(have.saturating_sub(cost)),
                    seized,
                    from_treasury,
                    ..Closing::default()
                }
            }
        }
    }

    /// What those who were wrong about a package pay of `wanted`, in equal parts; the first ones what does not divide.
    fn liable(&self, id: VerdictId, wanted: Amount) -> Vec<(PublicKey, Seizure)> {
        let market = self.state.market();
        let opinions = self.state.verdicts[&id].opinions.iter();
        let wrong = opinions.filter(|opinion| !opinion.agrees && opinion.worker.is_some());
        let owners: BTreeSet<_> =
            wrong.map(|opinion| opinion.owner).filter(|owner| *owner != market).collect();
        let count = owners.len() as u64;
        let part = |n: u64| Amount(wanted.0 / count + u64::from(n < wanted.0 % count));
        let seizures =
            owners.iter().zip(0..).map(|(owner, n)| (*owner, self.state.seizable(*owner, part(n))));
        seizures.filter(|(_, seizure)| seizure.total() > Amount::ZERO).collect()
    }
}
