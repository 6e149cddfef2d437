//! Which variant of a kernel is the fastest on this device, learnt from real units.
//!
//! Every candidate runs once; those near the best run once more, because the first run of a pipeline pays for caches and
//! clocks; then the fastest stays. Nothing is measured that does not also count as work.

/// A candidate runs again if its first time is at most this multiple of the best.
const SECOND_LOOK: f64 = 1.5;

/// The search for the fastest variant of one kernel.
#[derive(Clone, Debug)]
pub(crate) struct Calibration {
    /// In the order in which they are tried.
    candidates: Vec<Candidate>,
}

#[derive(Clone, Debug)]
struct Candidate {
    variant: usize,
    runs_started: u32,
    runs_measured: u32,
    /// The shortest so far.
    time_us: f64,
}

impl Calibration {
    /// A search over variants with these workgroup sizes (invocations). The likeliest come first, so that a short job does not
    /// end before a good one was tried.
    pub(crate) fn new(variants: impl IntoIterator<Item = (usize, u32)>) -> Self {
        let mut variants: Vec<_> = variants.into_iter().collect();
        // 64 to 128 invocations suit most devices; distance in powers of two from there.
        variants.sort_by_key(|(_, invocations)| (2 * i64::from(invocations.max(&1).ilog2()) - 13).abs());
        let candidates = variants
            .into_iter()
            .map(|(variant, _)| Candidate {
                variant,
                runs_started: 0,
                runs_measured: 0,
                time_us: f64::INFINITY,
            })
            .collect();
        Self { candidates }
    }

    /// The variant for the next unit; `None` when every one was refused.
    pub(crate) fn next(&mut self) -> Option<usize> {
        let best = self.best();
        let limit = best.map_or(f64::INFINITY, |best| self.candidates[best].time_us * SECOND_LOOK);
        let unexplored = self.candidates.iter().position(|c| c.runs_started == 0);
        let second = || {
            self.candidates
                .iter()
                .position(|c| c.runs_started == 1 && c.runs_measured == 1 && c.time_us <= limit)
                .filter(|_| self.candidates.len() > 1)
        };
        let chosen = unexplored.or_else(second).or(best).or((!self.candidates.is_empty()).then_some(0))?;
        let candidate = &mut self.candidates[chosen];
        candidate.runs_started += 1;
        Some(candidate.variant)
    }

    /// Whether `next` no longer explores.
    pub(crate) fn settled(&self) -> bool {
        let Some(best) = self.best() else { return false };
        let limit = self.candidates[best].time_us * SECOND_LOOK;
        self.candidates.len() == 1
            || self
                .candidates
                .iter()
                .all(|c| c.runs_measured >= 2 || (c.runs_measured == 1 && c.time_us > limit))
    }

    /// The device does not accept `variant`.
    pub(crate) fn refuse(&mut self, variant: usize) {
        self.candidates.retain(|candidate| candidate.variant != variant);
    }

    /// The same search with nothing started yet; what was refused stays refused.
    pub(crate) fn restarted(mut self) -> Self {
        for candidate in &mut self.candidates {
            candidate.runs_started = candidate.runs_measured;
        }
        self
    }

    /// A unit ran `variant` for this long.
    pub(crate) fn measured(&mut self, variant: usize, time_us: f64) {
        if let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.variant == variant) {
            candidate.runs_measured += 1;
            candidate.time_us = candidate.time_us.min(time_us);
        }
    }

    /// The fastest variant so far.
    pub(crate) fn fastest(&self) -> Option<usize> {
        self.best().map(|best| self.candidates[best].variant)
    }

    fn best(&self) -> Option<usize> {
        let measured = self.candidates.iter().enumerate().filter(|(_, c)| c.runs_measured > 0);
        measured.min_by(|(_, a), (_, b)| a.time_us.total_cmp(&b.time_us)).map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(calibration: &mut Calibration, times: &[f64], units: usize) -> Vec<usize> {
        (0..units)
            .map(|_| {
                let variant = calibration.next().unwrap();
                calibration.measured(variant, times[variant]);
                variant
            })
            .collect()
    }

    #[test]
    fn every_candidate_is_tried_and_the_fastest_stays() {
        let mut calibration = Calibration::new([(0, 16), (1, 64), (2, 256), (3, 1024)]);
        let ran = run(&mut calibration, &[9.0, 2.0, 1.5, 4.0], 10);
        // The likeliest first; then a second look at the two that are close.
        assert_eq!(ran, [1, 2, 0, 3, 1, 2, 2, 2, 2, 2]);
        assert!(calibration.settled());
        assert_eq!(calibration.fastest(), Some(2));
    }

    #[test]
    fn units_in_flight_explore_without_waiting_for_a_measurement() {
        let mut calibration = Calibration::new([(0, 64), (1, 256)]);
        let ran: Vec<_> = (0..4).map(|_| calibration.next().unwrap()).collect();
        assert_eq!(ran, [0, 1, 0, 0]);
        assert!(!calibration.settled());
        calibration.measured(1, 3.0);
        assert_eq!(calibration.next(), Some(1));
    }

    #[test]
    fn a_refused_variant_is_never_offered_again() {
        let mut calibration = Calibration::new([(0, 64), (1, 256)]);
        assert_eq!(calibration.next(), Some(0));
        calibration.refuse(0);
        assert_eq!(run(&mut calibration, &[1.0, 1.0], 3), [1, 1, 1]);
        calibration.refuse(1);
        assert_eq!(calibration.next(), None);
    }

    #[test]
    fn a_single_variant_needs_no_search() {
        let mut calibration = Calibration::new([(5, 64)]);
        assert_eq!(run(&mut calibration, &[0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 3), [5, 5, 5]);
        assert!(calibration.settled());
    }
}
