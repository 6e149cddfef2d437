//! Sealed jobs: what only some workers can read.
//!
//! A client that seals a job's inputs chooses who can read them before it submits: it *books* workers of different owners that
//! fit and have given a sealing key. A booked worker takes no new first work until the job is submitted or the booking's time is
//! over, so that it is there when the job comes. The job then names those workers with an envelope each, and nobody else gets
//! its leases or checks: they could not read what they are to compute.
//!
//! The market's verifier cannot read a sealed job either. One recipient computes, others check, and there is always one more to
//! decide between two that disagree; the escrow covers that third opinion of every unit. When so much was in dispute that the
//! escrow cannot pay another opinion, a recipient makes it for nothing, as the verifier would.

use std::{cmp::Reverse, collections::BTreeSet};

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{Amount, Envelope, JobId, PublicKey, SealPublicKey};

use crate::{Job, JobSpec, Stage, StageInput, State, Worker};

/// Workers of one booking, and so recipients of one job.
pub const RECIPIENTS_MAX: u32 = 16;
/// Longest time that a booking holds, in milliseconds.
pub const BOOKING_MS_MAX: u64 = 300_000;
/// Bookings that one account may have at a time.
pub(crate) const BOOKINGS_MAX: usize = 4;

/// A worker that a job can be sealed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Recipient {
    /// The worker.
    pub worker: PublicKey,
    /// The wallet that is paid; each recipient has another one.
    pub owner: PublicKey,
    /// Its key when it was booked.
    pub key: SealPublicKey,
}

/// Workers that are kept for one account's sealed job.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Booking {
    /// Whose.
    pub account: PublicKey,
    /// The workers.
    pub recipients: Vec<Recipient>,
    /// Until when.
    pub until_ms: u64,
}

/// How a recipient reads a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SealedTo {
    /// The worker.
    pub worker: PublicKey,
    /// The key that opens the envelope.
    pub key: SealPublicKey,
    /// The job's content key.
    pub envelope: Envelope,
}

impl JobSpec {
    /// Why a job cannot be sealed, whoever its recipients are.
    pub(crate) fn sealing_flaw(&self) -> Option<String> {
        let [stage] = &self.stages[..] else {
            return Some("a sealed job has one stage: another one could not read what it put out".into());
        };
        if self.iterate.is_some() {
            return Some("a sealed job is not iterated: no unit can read what another one put out".into());
        }
        if !stage.inputs.iter().all(|input| matches!(input, StageInput::Blob(_))) {
            return Some("a sealed job reads blobs alone".into());
        }
        if let Some(output) = stage.outputs_exact.iter().position(|exact| !exact) {
            return Some(format!(
                "output {output} compares within a tolerance, and only outputs that compare bit for bit can be sealed: \
                 of ciphertexts the market sees no more than whether they are equal"
            ));
        }
        if stage.policy.combined().algebraic_rate_min_ppm.is_some() {
            return Some(
                "the market cannot check what it cannot read: a sealed job is audited, or has a quorum"
                    .into(),
            );
        }
        if stage.devices > 1 {
            return Some("the units of a sealed job do not run on several devices at once".into());
        }
        None
    }

    /// The fewest recipients of a sealed job: one computes, as many check as the policy wants, and one decides between two that
    /// disagree.
    pub(crate) fn recipients_min(&self) -> u64 {
        self.stages.iter().map(Stage::copies).max().unwrap_or(1) + 1
    }

    /// What a sealed job holds beside what others hold: a third opinion of `units` of its stage.
    pub(crate) fn third_opinions(&self, units: u64) -> Option<Amount> {
        let price = self.stages.iter().map(|stage| stage.unit_price).max().unwrap_or_default();
        price.checked_mul(units)
    }
}

/// Why not enough workers were booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Owners whose workers could be booked.
    pub found: u64,
    /// How many are wanted.
    pub wanted: u64,
    /// Workers that fit, of those asked for.
    pub fitting: u64,
    /// Of those, the ones without a sealing key.
    pub keyless: u64,
    /// Of those, the ones that are kept for others.
    pub booked: u64,
}

impl State {
    /// Every booking in force.
    pub fn bookings(&self) -> impl Iterator<Item = (protocol::ReservationId, &Booking)> {
        self.bookings.iter().map(|(id, booking)| (*id, booking))
    }

    /// Whether a worker can read a job's inputs; everybody can where they are not sealed.
    pub(crate) fn may_read(&self, key: PublicKey, worker: &Worker, job: &Job) -> bool {
        let Some(sealed) = &job.sealed else { return true };
        let to = sealed.get(&key);
        to.is_some_and(|to| worker.sealing.is_some_and(|signed| signed.record.key == to.key))
    }

    /// Whether another recipient of a sealed job than these could take its units now.
    pub(crate) fn others_read(&self, job: &Job, stage: &Stage, avoid: &[PublicKey]) -> bool {
        let recipients = job.sealed.iter().flat_map(|sealed| sealed.keys());
        recipients.filter(|key| !avoid.contains(key)).any(|key| {
            let worker = &self.workers[key];
            worker.provides() && self.may_read(*key, worker, job) && self.suits(worker, stage).is_ok()
        })
    }

    /// Recipients of a sealed job, and those of them that are online with the key it was sealed to.
    pub(crate) fn recipients(&self, job: &Job) -> Option<(u64, u64)> {
        let sealed = job.sealed.as_ref()?;
        let online = sealed.keys().filter(|key| {
            let worker = &self.workers[*key];
            worker.provides() && self.may_read(**key, worker, job)
        });
        Some((sealed.len() as u64, online.count() as u64))
    }

    /// Workers for a sealed job of `account`: of `only`, or of all where that is empty; of different owners, the least busy
    /// first and then those with the longest record.
    pub(crate) fn bookable(
        &self,
        account: PublicKey,
        stage: &Stage,
        wanted: usize,
        only: &[PublicKey],
        until_ms: u64,
    ) -> Result<Vec<Recipient>, Shortage> {
        let mut shortage = Shortage { found: 0, wanted: wanted as u64, fitting: 0, keyless: 0, booked: 0 };
        let mut free = Vec::new();
        let asked = |key: &&PublicKey| only.is_empty() || only.contains(key);
        for key in self.providers.iter().filter(asked) {
            let worker = &self.workers[key];
            // The job's owner may check nothing of it.
            if worker.owner == account || self.suits(worker, stage).is_err() {
                continue;
            }
            shortage.fitting += 1;
            match &worker.sealing {
                Some(signed) if signed.record.valid_until_ms > until_ms => {
                    if self.booked.contains_key(key) {
                        shortage.booked += 1;
                    } else {
                        free.push((worker.leases.len(), Reverse(worker.streak), *key, signed.record.key));
                    }
                }
                _ => shortage.keyless += 1,
            }
        }
        free.sort_unstable();
        let mut owners = BTreeSet::new();
        let recipients: Vec<_> = free
            .into_iter()
            .map(|(_, _, worker, key)| Recipient { worker, owner: self.workers[&worker].owner, key })
            .filter(|recipient| owners.insert(recipient.owner))
            .take(wanted)
            .collect();
        shortage.found = recipients.len() as u64;
        if recipients.len() == wanted { Ok(recipients) } else { Err(shortage) }
    }

    /// The envelope of a job for one of its recipients.
    pub fn envelope(&self, job: JobId, worker: &PublicKey) -> Option<Envelope> {
        Some(self.jobs.get(&job)?.sealed.as_ref()?.get(worker)?.envelope)
    }
}
