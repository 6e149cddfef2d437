//! Checks that wait for a worker.
//!
//! They are listed by age, for the market's verifier, and for everybody else in segments by what a device must offer (by its
//! power of two, so that there are few) and in them by job. So a worker passes over all that it cannot run at once, a request
//! that finds no check costs no more however many wait for other devices, and one job whose checks nobody can make does not
//! stand before the others'.

use std::collections::{BTreeMap, BTreeSet};

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{CheckId, JobId};

use crate::{Requirements, queue::power_of_two_below, reason::fits};

/// Waiting checks of one job that one request looks at: an owner whose own packages are all that waits is not worth a longer
/// search.
const OF_JOB_MAX: usize = 256;

/// Needs that checks have in common.
type Needs = (u64, u32, Vec<String>);

/// Checks that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct WaitingChecks {
    /// With where they are listed below, if workers other than the market's verifier may make them.
    listed: BTreeMap<CheckId, Option<(Needs, JobId)>>,
    /// Those that the market's verifier may make.
    by_age: BTreeSet<CheckId>,
    segments: BTreeMap<Needs, BTreeSet<(JobId, CheckId)>>,
    /// Those that the market's verifier may make at once.
    verifier_at_once: BTreeSet<CheckId>,
}

/// When the market's verifier may make a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VerifierTurn {
    /// When nobody else has for a while.
    Last,
    /// At once; the others when it has not for a while.
    First,
    /// At once, and nobody else.
    Only,
    /// Never: it cannot read what is sealed to others.
    Never,
}

impl WaitingChecks {
    pub fn insert(&mut self, check: CheckId, job: JobId, needs: &Requirements, turn: VerifierTurn) {
        let listed = (turn != VerifierTurn::Only).then(|| {
            let bytes = power_of_two_below(needs.storage_buffer_bytes);
            ((bytes, needs.storage_buffers, needs.features.clone()), job)
        });
        if let Some((needs, job)) = &listed {
            self.segments.entry(needs.clone()).or_default().insert((*job, check));
        }
        if matches!(turn, VerifierTurn::First | VerifierTurn::Only) {
            self.verifier_at_once.insert(check);
        }
        if turn != VerifierTurn::Never {
            self.by_age.insert(check);
        }
        self.listed.insert(check, listed);
    }

    pub fn remove(&mut self, check: CheckId) {
        self.verifier_at_once.remove(&check);
        self.by_age.remove(&check);
        if let Some(Some((needs, job))) = self.listed.remove(&check) {
            let segment = self.segments.get_mut(&needs).expect("a listed check is in its segment");
            segment.remove(&(job, check));
            if segment.is_empty() {
                self.segments.remove(&needs);
            }
        }
    }

    pub fn contains(&self, check: CheckId) -> bool {
        self.listed.contains_key(&check)
    }

    pub fn len(&self) -> usize {
        self.listed.len()
    }

    /// Those that the market's verifier may make, the oldest first.
    pub fn by_age(&self) -> impl Iterator<Item = CheckId> + '_ {
        self.by_age.iter().copied()
    }

    /// Those that the market's verifier may make at once.
    pub fn verifier_at_once(&self) -> impl Iterator<Item = CheckId> + '_ {
        self.verifier_at_once.iter().copied()
    }

    /// The first check, of the oldest job, that a device may make.
    pub fn first_for(
        &self,
        device: &protocol::DeviceFacts,
        may: impl Fn(CheckId) -> bool,
    ) -> Option<CheckId> {
        let mut first: Option<(JobId, CheckId)> = None;
        for ((bytes, buffers, features), segment) in &self.segments {
            let least = Requirements {
                storage_buffer_bytes: *bytes,
                storage_buffers: *buffers,
                features: features.clone(),
                ..Requirements::default()
            };
            if fits(&least, device).is_err() {
                continue;
            }
            let mut from = (JobId(0), CheckId(0));
            while let Some((job, _)) = segment.range(from..).next().copied()
                && first.is_none_or(|(before, _)| job < before)
            {
                let mut of_job = segment.range((job, CheckId(0))..=(job, CheckId(u64::MAX))).take(OF_JOB_MAX);
                if let Some(found) = of_job.find(|(_, check)| may(*check)) {
                    first = Some(*found);
                }
                from = (JobId(job.0 + 1), CheckId(0));
            }
        }
        first.map(|(_, check)| check)
    }
}
