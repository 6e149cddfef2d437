//! The queue of stages that have units to give out.
//!
//! It is cut into segments by kind of job, priority, whether there is a deadline, what a device must offer, and what is paid.
//! What a device must offer and what is paid count by their power of two, so that there are few segments and a worker passes
//! over whole ones. Inside a segment the order does not change with time: waiting adds the same to every rank (see
//! [`score`](crate::score)), and with deadlines the earliest goes first. So a segment is an ordered set, and who looks for work
//! merges the heads of the segments by their rank *now*.
//!
//! A stage that is served goes back into line as if it had just come: a job that is being worked on does not wait. Jobs of
//! equal standing therefore take turns, and a job that is served by nobody rises past all of them.
//!
//! A worker whose ask is in the middle of what a segment pays merges the sixteenths of the segment that pay enough, so that it
//! does not pass over all that are too cheap for it one by one.
//!
//! With `n` waiting stages in `s` segments, a change costs O(log n) and finding work O(s + log n) plus what the worker passes over
//! because it may not have just that.

use borsh::{BorshDeserialize, BorshSerialize};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, btree_set},
};

use protocol::JobId;

use crate::{
    Job, Params, Priority, Requirements, Stage,
    score::{rank_base, rank_growth},
};

/// A stage of a job.
pub type StageId = (JobId, u32);

/// What the stages of a segment have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub(crate) struct Segment {
    /// Its number; kinds have no order of their own.
    kind: u8,
    priority: Priority,
    deadline: bool,
    /// No stage of it needs less.
    pub storage_buffer_bytes_min: u64,
    pub memory_bytes_min: u64,
    pub storage_buffers: u32,
    pub features: Vec<String>,
    /// No stage of it pays more for a reference second.
    pub rate_max: u64,
}

impl Segment {
    fn of(job: &Job, stage: &Stage, params: &Params) -> Self {
        let Requirements { storage_buffer_bytes, memory_bytes, storage_buffers, ref features, .. } =
            stage.requirements;
        Self {
            kind: job.spec.kind as u8,
            priority: job.spec.priority,
            deadline: job.spec.deadline_ms.is_some(),
            storage_buffer_bytes_min: power_of_two_below(storage_buffer_bytes),
            memory_bytes_min: power_of_two_below(memory_bytes),
            storage_buffers,
            features: features.clone(),
            // Twice the power of two, less one: all ones up to the highest bit.
            rate_max: params.rate(stage).checked_ilog2().map_or(0, |log| u64::MAX >> (63 - log)),
        }
    }

    /// No stage of it pays less for a reference second.
    fn rate_min(&self) -> u64 {
        self.rate_max - (self.rate_max >> 1)
    }
}

/// In which sixteenth between its power of two and the next one a rate is.
fn sixteenth(rate: u64) -> u8 {
    let Some(log) = rate.checked_ilog2() else { return 0 };
    (if log < 4 { rate << (4 - log) } else { rate >> (log - 4) }) as u8 & 15
}

/// The largest power of two that is not above, or 0.
pub(crate) fn power_of_two_below(value: u64) -> u64 {
    value.checked_ilog2().map_or(0, |log| 1 << log)
}

/// A place in a segment; the first one is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
struct Place {
    /// Of its job; the same for all where there is none.
    deadline_ms: Option<u64>,
    /// The rank at the beginning of time, negated: the highest first.
    behind: i128,
    /// Who came first, where nothing else decides.
    turn: u64,
    stage: StageId,
}

/// The stages of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Line {
    all: BTreeSet<Place>,
    /// The same by the sixteenth of what they pay.
    by_rate: BTreeMap<u8, BTreeSet<Place>>,
}

impl Line {
    fn insert(&mut self, place: Place, sixteenth: u8) {
        self.all.insert(place);
        self.by_rate.entry(sixteenth).or_default().insert(place);
    }

    fn remove(&mut self, place: &Place, sixteenth: u8) {
        self.all.remove(place);
        let places = self.by_rate.get_mut(&sixteenth).expect("a place is in its sixteenth");
        places.remove(place);
        if places.is_empty() {
            self.by_rate.remove(&sixteenth);
        }
    }

    fn contains(&self, place: &Place, sixteenth: u8) -> bool {
        self.all.contains(place) && self.by_rate.get(&sixteenth).is_some_and(|places| places.contains(place))
    }
}

/// A stage in line.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Entry {
    segment: Segment,
    sixteenth: u8,
    place: Place,
    /// Since when it waits.
    since_ms: u64,
    /// Reference time of its waiting units.
    work_ns: u128,
}

/// Stages with units that may be given out.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Queue {
    segments: BTreeMap<Segment, Line>,
    entries: BTreeMap<StageId, Entry>,
    work_ns: u128,
}

/// A stage with its rank at the time of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub stage: StageId,
    pub rank: i128,
}

impl Queue {
    /// Puts a stage in line, or notes that its waiting units changed. `served_ms` sends it back into line as of then.
    pub fn put(&mut self, id: StageId, job: &Job, params: &Params, at_ms: u64, turn: u64, served: bool) {
        let (stage, queue) = (&job.spec.stages[id.1 as usize], &job.queues[id.1 as usize]);
        let work_ns = u128::from(params.reference_ns(stage)) * u128::from(queue.waiting_units);
        if let Some(entry) = self.entries.get_mut(&id)
            && !served
        {
            self.work_ns = self.work_ns - entry.work_ns + work_ns;
            entry.work_ns = work_ns;
            return;
        }
        self.take(id);
        self.insert(id, job, params, work_ns, at_ms, turn);
    }

    fn insert(&mut self, id: StageId, job: &Job, params: &Params, work_ns: u128, since_ms: u64, turn: u64) {
        let stage = &job.spec.stages[id.1 as usize];
        let (segment, sixteenth) = (Segment::of(job, stage, params), sixteenth(params.rate(stage)));
        let behind = -rank_base(job.standing, job.spec.priority, since_ms, params);
        let place = Place { deadline_ms: job.spec.deadline_ms, behind, turn, stage: id };
        match self.segments.get_mut(&segment) {
            Some(line) => line.insert(place, sixteenth),
            None => self.segments.entry(segment.clone()).or_default().insert(place, sixteenth),
        }
        self.entries.insert(id, Entry { segment, sixteenth, place, since_ms, work_ns });
        self.work_ns += work_ns;
    }

    /// Takes a stage out of line, if it is there.
    pub fn take(&mut self, id: StageId) {
        let Some(Entry { segment, sixteenth, place, work_ns, .. }) = self.entries.remove(&id) else { return };
        self.work_ns -= work_ns;
        let line = self.segments.get_mut(&segment).expect("an entry is in its segment");
        line.remove(&place, sixteenth);
        if line.all.is_empty() {
            self.segments.remove(&segment);
        }
    }

    /// Orders everything anew, as the parameters changed.
    pub fn reorder(&mut self, jobs: &BTreeMap<JobId, Job>, params: &Params) {
        let before = std::mem::take(self);
        for (id, entry) in before.entries {
            let job = &jobs[&id.0];
            let (stage, queue) = (&job.spec.stages[id.1 as usize], &job.queues[id.1 as usize]);
            let work_ns = u128::from(params.reference_ns(stage)) * u128::from(queue.waiting_units);
            self.insert(id, job, params, work_ns, entry.since_ms, entry.place.turn);
        }
    }

    /// Whether a stage is in line.
    pub fn contains(&self, id: &StageId) -> bool {
        self.entries.contains_key(id)
    }

    /// Every stage in line, by job.
    pub fn iter(&self) -> impl Iterator<Item = &StageId> {
        self.entries.keys()
    }

    /// Those of one job.
    pub fn stages_of(&self, job: JobId) -> impl Iterator<Item = &StageId> {
        self.entries.range((job, 0)..=(job, u32::MAX)).map(|(id, _)| id)
    }

    /// Stages in line.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Reference time of all waiting units.
    pub fn work_ns(&self) -> u128 {
        self.work_ns
    }

    /// The stages of the segments that pass, the one with the highest rank first. Of those that pay less than `ask` most are
    /// left out.
    pub fn candidates<'a>(
        &'a self,
        now_ms: u64,
        params: &'a Params,
        ask: u64,
        pass: impl Fn(&Segment) -> bool,
    ) -> Candidates<'a> {
        let growth = rank_growth(None, now_ms, params);
        let mut candidates = Candidates { heads: BinaryHeap::new(), now_ms, growth, params };
        let passes = |segment: &Segment| segment.rate_max >= ask && pass(segment);
        for (segment, line) in self.segments.iter().filter(|(segment, _)| passes(segment)) {
            if ask <= segment.rate_min() {
                candidates.push(line.all.iter());
            } else {
                for (_, places) in line.by_rate.range(sixteenth(ask)..) {
                    candidates.push(places.iter());
                }
            }
        }
        candidates
    }

    /// How many stages of other jobs are served before this job's first one, counted up to `limit`.
    pub fn ahead(&self, job: JobId, now_ms: u64, params: &Params, limit: usize) -> Option<usize> {
        self.entries.range((job, 0)..=(job, u32::MAX)).next()?;
        let mut before = BTreeSet::new();
        for candidate in self.candidates(now_ms, params, 0, |_| true) {
            if candidate.stage.0 == job || before.len() == limit {
                break;
            }
            before.insert(candidate.stage.0);
        }
        Some(before.len())
    }

    /// Whether the places, the entries and the sum agree.
    pub fn is_consistent(&self) -> bool {
        let placed = self.segments.values().map(|line| line.all.len()).sum::<usize>();
        let by_rate = self.segments.values().flat_map(|line| line.by_rate.values());
        let found = |(id, entry): (&StageId, &Entry)| {
            let line = self.segments.get(&entry.segment);
            entry.place.stage == *id && line.is_some_and(|line| line.contains(&entry.place, entry.sixteenth))
        };
        placed == self.entries.len()
            && by_rate.map(BTreeSet::len).sum::<usize>() == placed
            && self.entries.iter().all(found)
            && self.entries.values().map(|entry| entry.work_ns).sum::<u128>() == self.work_ns
    }
}

/// The heads of the segments, merged.
pub(crate) struct Candidates<'a> {
    heads: BinaryHeap<Head<'a>>,
    now_ms: u64,
    growth: i128,
    params: &'a Params,
}

struct Head<'a> {
    rank: i128,
    place: Place,
    rest: btree_set::Iter<'a, Place>,
}

impl Candidates<'_> {
    /// Stages alike but for their rank: the higher one, then the one that came first.
    fn key(head: &Head<'_>) -> (i128, Reverse<u64>, Reverse<StageId>) {
        (head.rank, Reverse(head.place.turn), Reverse(head.place.stage))
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head<'_> {}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        Candidates::key(self).cmp(&Candidates::key(other))
    }
}

impl<'a> Candidates<'a> {
    fn push(&mut self, mut rest: btree_set::Iter<'a, Place>) {
        let Some(place) = rest.next().copied() else { return };
        let growth = match place.deadline_ms {
            None => self.growth,
            deadline => rank_growth(deadline, self.now_ms, self.params),
        };
        self.heads.push(Head { rank: growth - place.behind, place, rest });
    }
}

impl Iterator for Candidates<'_> {
    type Item = Candidate;

    fn next(&mut self) -> Option<Candidate> {
        let Head { rank, place, rest } = self.heads.pop()?;
        self.push(rest);
        Some(Candidate { stage: place.stage, rank })
    }
}
