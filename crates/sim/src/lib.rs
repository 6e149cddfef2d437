//! A virtual-time world around the market's rules.
//!
//! [`run`] drives the real [`engine::decide`] with an event queue: providers whose devices are drawn from a distribution come,
//! compute, go and crash; messages are late, lost, repeated and overtake each other; the market goes down and comes back from
//! its journal; some providers cheat. All of it follows from a [`Scenario`]: the same one gives the same journal, bit for bit.
//!
//! While it runs, it checks what must hold (`Report::problems`), with one advantage over the market: it knows which results
//! are right.
//!
//! The crate reads no clock: what a decision costs is measured by the [`Observer`] that the caller brings. It does no I/O:
//! the workload comes as text, the report goes back as a value. It does not simulate blobs, signatures, HTTP or the read
//! model; `docs/sim.md` says what else is left out.

pub mod adversary;
mod chance;
mod devices;
mod market;
mod provider;
mod report;
mod scenario;
mod shrink;
mod truth;
mod world;

pub use report::{
    FaultCounts, JobCounts, NatureReport, PriorityReport, Report, Sample, StreamReport, UnitCounts,
};
pub use scenario::{Class, Faults, Population, Scenario, Stream, Verification, Workload, WorkloadError};
pub use shrink::shrink;

/// Who watches a run. The run does not depend on it.
pub trait Observer {
    /// A command is about to be decided.
    fn deciding(&mut self) {}
    /// It was decided, or refused; `kind` is the command's, where `lease` is a request that got no work and `grant` one that
    /// did.
    fn decided(&mut self, _kind: &'static str) {}
    /// Simulated time passed, in seconds of those planned. What is left after the plan counts beyond it.
    fn passed(&mut self, _at_s: u64, _of_s: u64) {}
}

impl Observer for () {}

/// Runs a scenario to its end: until every job has ended, or its time is over.
pub fn run(scenario: &Scenario, observer: &mut dyn Observer) -> Report {
    world::World::new(scenario, observer).run()
}
