//! Time of one thread's work.

use std::{fs, time::Instant};

/// Measures what a thread computes: the time it was on a processor, so that what else runs on the machine is left out. Where
/// the system does not tell (all but Linux), the time that passed.
pub struct Stopwatch {
    started: Instant,
    on_processor_ns: Option<u64>,
}

impl Stopwatch {
    pub fn start() -> Self {
        Self { started: Instant::now(), on_processor_ns: on_processor_ns() }
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        match (self.on_processor_ns, on_processor_ns()) {
            (Some(before), Some(now)) => (now - before) as f64 / 1e9,
            _ => self.started.elapsed().as_secs_f64(),
        }
    }
}

fn on_processor_ns() -> Option<u64> {
    fs::read_to_string("/proc/thread-self/schedstat").ok()?.split_whitespace().next()?.parse().ok()
}
