//! What the journal says of one package: who committed to it, what of it was checked and by whom, and how that ended.
//!
//! The read model only knows where in the journal to look. The events themselves are read when somebody asks, so that a receipt is
//! stored once.

use std::collections::{BTreeMap, BTreeSet};

use api::{CheckRecord, PackageRecord, Settlement};
use engine::{CheckKind, CheckPlan, Event, Verdict, Work};
use protocol::{CheckId, Hash, OutputCommitment, PackageId, PublicKey, Receipt, Signature, UnitRun};
use store::{Journal, StoreError};

use crate::committer::Group;

const CANARY: &str = "canary";

/// A package's record with what its receipt commits to.
pub struct Found {
    /// What became of it.
    pub record: PackageRecord,
    /// The signed body.
    pub receipt: Receipt,
    /// Its signature.
    pub signature: Signature,
    /// Each unit's outputs, in package order.
    pub outputs: Vec<Vec<OutputCommitment>>,
}

/// Reads groups; remembers the last one, because what is asked for often lies together.
pub struct Reader<'a> {
    journal: &'a Journal,
    last: Option<Group>,
}

impl<'a> Reader<'a> {
    /// Reads this journal.
    pub fn of(journal: &'a Journal) -> Self {
        Self { journal, last: None }
    }

    fn group(&mut self, seq: u64) -> Result<&Group, StoreError> {
        let holds =
            |group: &Group| (group.first_seq..group.first_seq + group.events.len() as u64).contains(&seq);
        if !self.last.as_ref().is_some_and(holds) {
            let stored = self.journal.group(seq)?;
            let missing = || StoreError::Corrupt { seq, detail: "the event is missing".into() };
            self.last = Some(Group::decode(&stored.ok_or_else(missing)?)?);
        }
        Ok(self.last.as_ref().expect("it was just read"))
    }

    /// The record of a package, of which there is something in the groups with these events. Nothing if its receipt is not there.
    pub fn package(&mut self, id: PackageId, seqs: &[u64]) -> Result<Option<Found>, StoreError> {
        let mut story = Story { package: id, ..Story::default() };
        let mut told = BTreeSet::new();
        for seq in seqs {
            let group = self.group(*seq)?;
            if told.insert(group.first_seq) {
                for (seq, event) in (group.first_seq..).zip(&group.events) {
                    story.take(seq, group.at_ms, event);
                }
            }
        }
        Ok(story.end())
    }
}

/// What was read of a package so far.
#[derive(Default)]
struct Story {
    package: PackageId,
    run: Option<UnitRun>,
    /// The receipt that counts as the package's, and who made each of the others.
    committed: Option<Committed>,
    replicas: BTreeMap<CheckId, Committed>,
    draw: Option<Hash>,
    drawn: Vec<u64>,
    checks: Vec<CheckRecord>,
    end: Option<(bool, Option<String>)>,
}

struct Committed {
    seq: u64,
    at_ms: u64,
    receipt: Receipt,
    signature: Signature,
    outputs: Vec<Vec<OutputCommitment>>,
}

impl Story {
    fn take(&mut self, seq: u64, at_ms: u64, event: &Event) {
        match event {
            Event::ReplicasPlanned { package, checks, .. } if *package == self.package => self.plan(checks),
            Event::ReceiptCommitted { receipt, signature, outputs, work } => {
                let committed = || Committed {
                    seq,
                    at_ms,
                    receipt: receipt.clone(),
                    signature: *signature,
                    outputs: outputs.clone(),
                };
                match work {
                    Work::Package { package, run, .. } if *package == self.package => {
                        self.run = Some(*run);
                        self.committed = Some(committed());
                    }
                    Work::Check { check } => {
                        let Some(known) = self.checks.iter_mut().find(|known| known.check == *check) else {
                            return;
                        };
                        known.worker = Some(receipt.worker);
                        known.receipt = Some(receipt.digest());
                        if self.committed.is_none() {
                            self.replicas.insert(*check, committed());
                        }
                    }
                    Work::Package { .. } => {}
                }
            }
            Event::PackagePassedOn { check, .. } if self.checks.iter().any(|known| known.check == *check) => {
                self.checks.retain(|known| known.check != *check);
                self.committed = self.replicas.remove(check).or(self.committed.take());
            }
            Event::ChecksDrawn { package, draw, checks } if *package == self.package => {
                // Third opinions and replicas are not drawn.
                if draw.0 != [0; 32] && self.draw.is_none() {
                    self.draw = Some(*draw);
                    self.drawn = checks.iter().flat_map(|plan| plan.units.iter().copied()).collect();
                    self.drawn.sort_unstable();
                    self.drawn.dedup();
                }
                self.plan(checks);
            }
            Event::LooksPlanned { package, looks } if *package == self.package => {
                for look in looks {
                    let kind = match look.kind {
                        CheckKind::Execution => "execution",
                        CheckKind::Canary => CANARY,
                        CheckKind::Algebraic => "algebraic",
                    };
                    self.checks.push(planned(look.check, kind, &look.units, None));
                }
            }
            Event::CheckDecided { check, agrees, evidence } => {
                if let Some(known) = self.checks.iter_mut().find(|known| known.check == *check) {
                    known.agrees = Some(*agrees);
                    known.evidence = Some(evidence.clone());
                }
            }
            Event::LookUndecided { check, evidence } => {
                if let Some(known) = self.checks.iter_mut().find(|known| known.check == *check) {
                    known.evidence = Some(evidence.clone());
                }
            }
            Event::PackageAccepted { package, .. } if *package == self.package => {
                self.end = Some((true, None))
            }
            Event::PackageRejected { package, verdict } if *package == self.package => {
                let verdict = match verdict {
                    Verdict::Outvoted => "outvoted",
                    Verdict::VerifierDisagrees => "verifier_disagrees",
                    Verdict::Unverifiable => "unverifiable",
                    Verdict::Disproved => "disproved",
                };
                self.end = Some((false, Some(verdict.to_owned())));
            }
            _ => {}
        }
    }

    fn plan(&mut self, checks: &[CheckPlan]) {
        self.checks
            .extend(checks.iter().map(|plan| planned(plan.check, "execution", &plan.units, plan.tie_of)));
    }

    fn end(self) -> Option<Found> {
        let Self { package, run, committed, draw, drawn, mut checks, end, .. } = self;
        checks.retain(|check| check.kind != CANARY || check.agrees == Some(false));
        let Committed { seq: sequence, at_ms, receipt, signature, outputs } = committed?;
        let units = run?;
        let place = |unit: &u64| u32::try_from(unit.checked_sub(units.first)?).ok();
        let settled = end.map(|(accepted, verdict)| Settlement {
            accepted,
            verdict,
            draw,
            drawn: drawn.iter().filter_map(place).collect(),
            checks,
        });
        let worker: PublicKey = receipt.worker;
        let (job, digest) = (receipt.job, receipt.digest());
        let record = PackageRecord { package, job, units, worker, receipt: digest, sequence, at_ms, settled };
        Some(Found { record, receipt, signature, outputs })
    }
}

fn planned(check: CheckId, kind: &str, units: &[u64], tie_of: Option<CheckId>) -> CheckRecord {
    CheckRecord {
        check,
        kind: kind.to_owned(),
        units: units.len() as u32,
        tie_of,
        worker: None,
        receipt: None,
        agrees: None,
        evidence: None,
    }
}
