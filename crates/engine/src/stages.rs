//! What units read of other units' outputs, and so when they can run.
//!
//! A unit names its upstream units by arithmetic on its own number ([`Gather`]), and both ends of what it reads only grow with
//! that number. So the units that can run after a package was accepted are a range, found by bisection: nothing here looks at
//! units one by one, and what is kept are ranges of finished and of blocked units.

use protocol::Hash;

use crate::{
    Blockage, Gather, Job, JobSpec, Place, Stage, StageInput, UnitInput, Until, WaitingRun, ranges::Ranges,
};

/// Most upstream outputs that one unit may read.
pub(crate) const FAN_IN_MAX: u64 = 4_096;
/// Most upstream outputs that the units of one package may read together: a lease names them all.
pub(crate) const PACKAGE_FAN_IN_MAX: u64 = 16_384;
/// Most stages of a job.
const STAGES_MAX: usize = 32;
/// Most inputs of a stage that are made of other units' outputs.
const GATHERS_MAX: usize = 16;
/// Most iterations of a job.
const ITERATIONS_MAX: u32 = 1_000_000;
/// Characters of a stage's name.
const NAME_CHARS_MAX: usize = 100;

/// What one unit reads of an upstream stage: of the outputs of its units `[first, first + count)`, one after the other, the
/// bytes from `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first upstream unit's number in its stage.
    pub first: u64,
    /// How many upstream units.
    pub count: u64,
    /// Where the unit begins in their outputs, in bytes.
    pub offset: u64,
}

impl Window {
    fn end(&self) -> u64 {
        self.first + self.count
    }
}

impl Gather {
    /// What unit `index` reads of an upstream stage of `units` units whose output has `output_bytes` bytes. Units of which it
    /// sees no byte are left out.
    pub fn window(&self, index: u64, units: u64, output_bytes: u64) -> Window {
        let first = index.saturating_mul(self.step).min(units);
        let count = self.count.min(units - first);
        let start = index.saturating_mul(self.stride).saturating_add(self.offset);
        let output_bytes = output_bytes.max(1);
        let skipped = (start / output_bytes).min(count);
        let last = start.saturating_add(self.length).div_ceil(output_bytes).min(count);
        let offset = start - skipped * output_bytes;
        Window { first: first + skipped, count: last.saturating_sub(skipped), offset }
    }

    /// Downstream units of `[0, total)` whose window ends after `at`, as the first of them; the others come before.
    fn first_reaching(&self, upstream: (u64, u64), at: u64, total: u64) -> u64 {
        bisect(total, |index| self.window(index, upstream.0, upstream.1).end() > at)
    }

    /// The first downstream unit of `[0, total)` whose window begins at `at` or later.
    fn first_from(&self, upstream: (u64, u64), at: u64, total: u64) -> u64 {
        bisect(total, |index| self.window(index, upstream.0, upstream.1).first >= at)
    }

    /// Of the downstream units `[start, end)` those whose window lies in `done`, whose numbers begin at `base`.
    fn ready(
        &self,
        upstream: (u64, u64),
        done: &Ranges,
        base: u64,
        (start, end): (u64, u64),
    ) -> Vec<(u64, u64)> {
        if start >= end {
            return Vec::new();
        }
        let (units, bytes) = upstream;
        let from = self.window(start, units, bytes).first;
        let to = self.window(end - 1, units, bytes).end();
        let mut found = Vec::new();
        for (first, last) in done.within(base + from, base + to) {
            let low = self.first_from(upstream, first - base, end).max(start);
            let high = self.first_reaching(upstream, last - base, end).min(end);
            if low < high {
                found.push((low, high));
            }
        }
        // What lies beyond the upstream stage is zero and needs nobody.
        let empty = bisect(end, |index| self.window(index, units, bytes).count == 0).max(start);
        if empty < end {
            match found.last_mut() {
                Some(last) if last.1 >= empty => last.1 = end,
                _ => found.push((empty, end)),
            }
        }
        found
    }
}

/// The first number of `[0, total)` for which `holds`, which holds for all after it; `total` if there is none.
fn bisect(total: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, total);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

impl Stage {
    /// Most units of a package, so that a lease stays bounded.
    pub(crate) fn package_units_max(&self) -> u64 {
        let bound = |g: &Gather| match g.step {
            0 => u64::MAX,
            step => PACKAGE_FAN_IN_MAX.saturating_sub(g.count) / step + 1,
        };
        self.inputs.iter().filter_map(gather).map(bound).min().unwrap_or(u64::MAX)
    }
}

impl JobSpec {
    /// The upstream stage's units and the bytes of each one's output.
    fn upstream(&self, gather: &Gather) -> (u64, u64) {
        let stage = &self.stages[gather.stage as usize];
        (stage.units, stage.output_bytes[gather.output as usize])
    }

    /// What a unit reads for an input: the first upstream unit's number in the job, and the window. Nothing when the input is
    /// a blob, as that of the first iteration may be.
    pub fn reads(&self, place: Place, gather: &Gather) -> Option<(u64, Window)> {
        let iteration = match gather.initial {
            Some(_) => place.iteration.checked_sub(1)?,
            None => place.iteration,
        };
        let (units, bytes) = self.upstream(gather);
        Some((self.first_unit(iteration, gather.stage), gather.window(place.index, units, bytes)))
    }

    /// What is wrong with the graph, if anything.
    pub(crate) fn graph_flaw(&self) -> Option<String> {
        if self.stages.is_empty() || self.stages.len() > STAGES_MAX {
            return Some(format!("a job has 1 to {STAGES_MAX} stages"));
        }
        if let Some(iterate) = self.iterate {
            if iterate.times_max == 0 || iterate.times_max > ITERATIONS_MAX {
                return Some(format!("a job is run 1 to {ITERATIONS_MAX} times"));
            }
            if let Some(until) = iterate.until {
                let (Until::Unchanged { stage, output } | Until::Equals { stage, output, .. }) = until;
                let known = self.stages.get(stage as usize);
                if known.is_none_or(|stage| output as usize >= stage.outputs_exact.len()) {
                    return Some(format!(
                        "`until` asks for output {output} of stage {stage}, which is not there"
                    ));
                }
            }
        }
        for (number, stage) in (0..).zip(&self.stages) {
            let name = if stage.name.is_empty() { number.to_string() } else { format!("{:?}", stage.name) };
            if stage.name.chars().count() > NAME_CHARS_MAX {
                return Some(format!("the name of stage {number} has more than {NAME_CHARS_MAX} characters"));
            }
            let gathers: Vec<_> = stage.inputs.iter().filter_map(gather).collect();
            if gathers.len() > GATHERS_MAX {
                return Some(format!("stage {name} reads more than {GATHERS_MAX} outputs"));
            }
            for gather in gathers {
                if let Some(flaw) = self.gather_flaw(number, gather) {
                    return Some(format!("an input of stage {name} {flaw}"));
                }
            }
        }
        if self.iterate.is_some()
            && let Some(number) = (0..self.stages.len() as u32).find(|stage| !self.changes(*stage))
        {
            let name = &self.stages[number as usize].name;
            return Some(format!(
                "stage {name:?} reads nothing of the iteration before, so every iteration would compute the same"
            ));
        }
        None
    }

    fn gather_flaw(&self, number: u32, gather: &Gather) -> Option<String> {
        let Some(upstream) = self.stages.get(gather.stage as usize) else {
            return Some(format!("names stage {}, which is not there", gather.stage));
        };
        if gather.initial.is_none() && gather.stage >= number {
            return Some(
                "names its own stage or a later one, which only the iteration before can have".into(),
            );
        }
        if gather.initial.is_some() && self.iterate.is_none() {
            return Some("names the iteration before, and the job is not iterated".into());
        }
        let Some(bytes) = upstream.output_bytes.get(gather.output as usize).filter(|bytes| **bytes > 0)
        else {
            return Some(format!("names output {}, which is not there", gather.output));
        };
        if gather.count == 0 || gather.count > FAN_IN_MAX {
            return Some(format!("reads {} outputs a unit; 1 to {FAN_IN_MAX} are possible", gather.count));
        }
        if gather.length == 0 || gather.initial.is_some_and(|split| split.length != gather.length) {
            return Some("has another length in the first iteration, or none".into());
        }
        let units = self.stages[number as usize].units;
        let end = |step: u64| step.checked_mul(units)?.checked_add(gather.count);
        let bytes_end = gather
            .stride
            .checked_mul(units)
            .and_then(|n| n.checked_add(gather.offset)?.checked_add(gather.length));
        if end(gather.step).is_none() || bytes_end.is_none() || gather.count.checked_mul(*bytes).is_none() {
            return Some("reaches beyond 2⁶⁴".into());
        }
        if gather.offset >= gather.count * bytes {
            return Some(format!(
                "begins at {}, beyond the {} bytes that it names",
                gather.offset,
                gather.count * bytes
            ));
        }
        None
    }

    /// Whether a stage reads something that differs from one iteration to the next.
    fn changes(&self, stage: u32) -> bool {
        self.stages[stage as usize]
            .inputs
            .iter()
            .filter_map(gather)
            .any(|gather| gather.initial.is_some() || self.changes(gather.stage))
    }
}

fn gather(input: &StageInput) -> Option<&Gather> {
    match input {
        StageInput::Blob(_) => None,
        StageInput::Stage(gather) => Some(gather),
    }
}

impl Job {
    /// The first unit that is no longer wanted: that of the iteration after the last one.
    pub fn units_end(&self) -> u64 {
        self.last_iteration.map_or(self.spec.units(), |last| (last + 1) * self.spec.iteration_units())
    }

    /// Units of a stage that are accepted in an iteration.
    pub fn done_units(&self, iteration: u64, stage: u32) -> u64 {
        let first = self.spec.first_unit(iteration, stage);
        self.done.count(first, first + self.spec.stages[stage as usize].units)
    }

    /// The iteration that the first unit without a result belongs to; the last one when there is none.
    pub fn iteration(&self) -> u64 {
        let end = self.units_end();
        let first = self.done.gaps(0, end).first().map_or(end - 1, |(first, _)| *first);
        self.spec.place(first).iteration
    }

    /// The last iteration that has or will have results: the one `until` ended, or the last of all.
    pub fn final_iteration(&self) -> u64 {
        self.last_iteration.unwrap_or(self.spec.iterations_max() - 1)
    }

    /// Whether everything that a unit reads is accepted.
    pub(crate) fn inputs_exist(&self, unit: u64) -> bool {
        let place = self.spec.place(unit);
        let mut gathers = self.spec.stages[place.stage as usize].inputs.iter().filter_map(gather);
        gathers.all(|gather| {
            self.spec
                .reads(place, gather)
                .is_none_or(|(base, window)| self.done.covers(base + window.first, base + window.end()))
        })
    }

    /// What the first blocked unit waits for.
    pub fn blockage(&self) -> Option<Blockage> {
        let (unit, _) = self.blocked.within(0, self.spec.units()).next()?;
        let place = self.spec.place(unit);
        let mut gathers = self.spec.stages[place.stage as usize].inputs.iter().filter_map(gather);
        gathers.find_map(|gather| {
            let (base, window) = self.spec.reads(place, gather)?;
            let done = self.done.count(base + window.first, base + window.end());
            let Place { stage, iteration, .. } = place;
            let (upstream, of) = (gather.stage, window.count);
            (done < of).then_some(Blockage { iteration, stage, upstream, done, of })
        })
    }

    /// Of the blocked units `[start, end)` of one stage and iteration those that can run now, by their numbers in the job.
    fn unblocked(&self, iteration: u64, stage: u32, start: u64, end: u64) -> Vec<(u64, u64)> {
        let base = self.spec.first_unit(iteration, stage);
        let mut ready: Vec<_> = self
            .blocked
            .within(base + start, base + end)
            .map(|(from, to)| (from - base, to - base))
            .collect();
        for gather in self.spec.stages[stage as usize].inputs.iter().filter_map(gather) {
            let Some((upstream_base, _)) = self.spec.reads(Place { iteration, stage, index: 0 }, gather)
            else {
                continue;
            };
            let upstream = self.spec.upstream(gather);
            ready = ready
                .into_iter()
                .flat_map(|part| gather.ready(upstream, &self.done, upstream_base, part))
                .collect();
        }
        ready.into_iter().map(|(from, to)| (base + from, base + to)).collect()
    }

    /// The blocked units that `count` accepted units from `first` on let run.
    pub(crate) fn unblocked_by(&self, first: u64, count: u64) -> Vec<(u64, u64)> {
        let place = self.spec.place(first);
        let mut found = Vec::new();
        for (number, stage) in (0..).zip(&self.spec.stages) {
            for gather in stage.inputs.iter().filter_map(gather).filter(|gather| gather.stage == place.stage)
            {
                let iteration = place.iteration + u64::from(gather.initial.is_some());
                if iteration >= self.spec.iterations_max() {
                    continue;
                }
                let upstream = self.spec.upstream(gather);
                let low = gather.first_reaching(upstream, place.index, stage.units);
                let high = gather.first_from(upstream, place.index + count, stage.units);
                found.extend(self.unblocked(iteration, number, low, high));
            }
        }
        // Two inputs may name the same units.
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Every blocked unit that can run.
    pub(crate) fn unblocked_units(&self) -> Vec<(u64, u64)> {
        let last = self.done.end().map_or(0, |end| self.spec.place(end - 1).iteration + 1);
        let last = last.min(self.final_iteration());
        let mut found = Vec::new();
        for iteration in self.iteration().min(last)..=last {
            for (number, stage) in (0..).zip(&self.spec.stages) {
                found.extend(self.unblocked(iteration, number, 0, stage.units));
            }
        }
        found
    }

    /// The iteration that ends the job, now that a package from unit `first` on was accepted.
    pub(crate) fn until_met(&self, first: u64) -> Option<u64> {
        let until = self.spec.iterate?.until?;
        let place = self.spec.place(first);
        let (Until::Unchanged { stage, .. } | Until::Equals { stage, .. }) = until;
        if place.stage != stage || self.last_iteration.is_some_and(|last| last <= place.iteration) {
            return None;
        }
        let complete = |iteration| {
            let first = self.spec.first_unit(iteration, stage);
            self.done.covers(first, first + self.spec.stages[stage as usize].units)
        };
        if !complete(place.iteration) {
            return None;
        }
        match until {
            Until::Equals { output, blob, .. } => {
                let mut blobs = self.output_blobs(place.iteration, stage, output);
                blobs.all(|found| found == blob).then_some(place.iteration)
            }
            Until::Unchanged { output, .. } => {
                let same = |iteration: u64| {
                    let (before, now) = (
                        self.output_blobs(iteration - 1, stage, output),
                        self.output_blobs(iteration, stage, output),
                    );
                    before.eq(now)
                };
                // Iterations may complete out of order.
                let next = place.iteration + 1;
                let candidates =
                    [place.iteration, next].into_iter().filter(|n| *n > 0 && *n < self.spec.iterations_max());
                candidates.into_iter().find(|n| complete(n - 1) && complete(*n) && same(*n))
            }
        }
    }

    /// The blobs of one output of a stage in an iteration, in the order of its accepted units.
    pub fn output_blobs(&self, iteration: u64, stage: u32, output: u32) -> impl Iterator<Item = Hash> + '_ {
        let first = self.spec.first_unit(iteration, stage);
        let end = first + self.spec.stages[stage as usize].units;
        self.outputs(first, end).filter_map(move |(_, outputs)| Some(outputs.get(output as usize)?.blob))
    }

    /// What a unit whose inputs exist reads.
    pub(crate) fn unit_inputs(&self, unit: u64) -> Vec<UnitInput> {
        let place = self.spec.place(unit);
        let of_blob = |split: &protocol::InputSplit| UnitInput {
            blobs: vec![split.blob],
            // Beyond the end of any blob, everything is zero.
            offset: split.start(place.index).unwrap_or(u64::MAX),
            length: split.length,
        };
        let inputs = self.spec.stage_of(unit).inputs.iter();
        let input = |input: &StageInput| match input {
            StageInput::Blob(split) => of_blob(split),
            StageInput::Stage(gather) => match (self.spec.reads(place, gather), &gather.initial) {
                (None, Some(initial)) => of_blob(initial),
                (None, None) => UnitInput { blobs: vec![], offset: 0, length: gather.length },
                (Some((base, window)), _) => {
                    let first = base + window.first;
                    let outputs = self.outputs(first, first + window.count);
                    let blobs = outputs.filter_map(|(_, outputs)| outputs.get(gather.output as usize));
                    let blobs = blobs.map(|output| output.blob).collect();
                    UnitInput { blobs, offset: window.offset, length: gather.length }
                }
            },
        };
        inputs.map(input).collect()
    }

    /// The accepted units of `[first, end)` with their outputs, in order.
    pub fn outputs(
        &self,
        first: u64,
        end: u64,
    ) -> impl Iterator<Item = (u64, &[protocol::OutputCommitment])> + '_ {
        let from = self.accepted.range(..=first).next_back().map_or(first, |(at, _)| *at);
        self.accepted
            .range(from..end.max(from))
            .flat_map(|(at, run)| (*at..).zip(run.outputs.iter().map(Vec::as_slice)))
            .filter(move |(unit, _)| (first..end).contains(unit))
    }
}

impl WaitingRun {
    /// Units that wait for the first time.
    pub(crate) fn fresh(first: u64, count: u64) -> Self {
        Self { first, count, attempts: 0, avoid: Vec::new(), failures: Vec::new(), late: None }
    }
}
