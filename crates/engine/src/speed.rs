//! How fast a worker is, by what it did.
//!
//! A claim counts only until something was measured. What is measured is the market's: the time from granting a lease (or from
//! the worker's receipt before, when it held several) to its receipt. The worker's own timings do not enter.
//!
//! How much work a unit is was estimated by somebody who may be wrong, or may want a worker to look slow. So a job is calibrated
//! by the workers it runs on: its units are worth what *other* owners' workers, whose speed is known, needed for them. Where
//! nobody else has run it, its estimate counts for a worker of which nothing is known yet, and nothing is learnt about others.
//!
//! Measurements are made over `speed_window_ms` of work and move an average by a quarter.

use crate::{
    Params, Worker,
    ratio::{PPM, clip, scale},
};
use borsh::{BorshDeserialize, BorshSerialize};

/// One measurement counts this part.
const MEMORY: u64 = 4;
/// One measurement moves the average to at most this multiple, or its inverse.
const JUMP_MAX: u64 = 8;
/// The fastest that is believed: a million reference devices.
const SPEED_PPM_MAX: u64 = 1_000_000 * PPM;

/// What is known of a worker's speed, in parts per million of the reference device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Speed {
    /// As it claims; 0 when it claims none.
    pub claimed_ppm: u64,
    /// As was measured, once something was.
    pub measured_ppm: Option<u64>,
    /// Measurements so far.
    pub measurements: u32,
    /// Whether it claims much more than was measured.
    pub overstated: bool,
    /// Work of the window in the making, in reference nanoseconds, and the time it took.
    pub(crate) window_ns: u128,
    pub(crate) window_ms: u64,
    /// What a package costs besides computing, averaged, in microseconds.
    pub overhead_us: u64,
}

/// Work that ran and the time it took, as part of a calibration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Calibration {
    /// What the job says its units take, in reference nanoseconds.
    pub declared_ns: u128,
    /// What they took workers of known speed.
    pub found_ns: u128,
}

impl Calibration {
    /// `work` as found by others than the one who did `own`.
    fn without(self, own: Self) -> Self {
        Self {
            declared_ns: self.declared_ns.saturating_sub(own.declared_ns),
            found_ns: self.found_ns.saturating_sub(own.found_ns),
        }
    }

    fn add(&mut self, declared_ns: u128, found_ns: u128) {
        self.declared_ns += declared_ns;
        self.found_ns += found_ns;
    }
}

impl Speed {
    /// What counts: as measured, as claimed, or as assumed of who claims nothing.
    pub fn ppm(&self, params: &Params) -> u64 {
        match (self.measured_ppm, self.claimed_ppm) {
            (Some(measured), _) => measured,
            (None, 0) => params.speed_default_ppm,
            (None, claimed) => claimed,
        }
    }

    /// A worker claims this speed, in MFLOP/s.
    pub(crate) fn claim(&mut self, mflops: u64, params: &Params) {
        self.claimed_ppm = scale(mflops, PPM, params.reference_gflops * 1_000).min(SPEED_PPM_MAX);
        if mflops > 0 {
            self.claimed_ppm = self.claimed_ppm.max(1);
        }
        if !self.is_refuted(params) {
            self.overstated = false;
        }
    }

    /// Whether the claim is found out, by the measurements so far.
    pub(crate) fn is_refuted(&self, params: &Params) -> bool {
        self.measured_ppm
            .is_some_and(|measured| self.claimed_ppm > scale(measured, params.overstated_ppm, PPM))
    }

    /// How the speed compares with the claim; 1 for who claims nothing.
    pub(crate) fn pace_ppm(&self) -> u64 {
        match (self.measured_ppm, self.claimed_ppm) {
            (_, 0) | (None, _) => PPM,
            (Some(measured), claimed) => scale(PPM, measured, claimed).min(PPM),
        }
    }

    /// Units that the job says take `declared_ns` were accepted after `taken_ms`. `all` is the job's calibration, `own` this
    /// worker's part in it.
    pub(crate) fn learn(
        &mut self,
        all: &mut Calibration,
        own: &mut Calibration,
        declared_ns: u128,
        taken_ms: u64,
        params: &Params,
    ) {
        let others = all.without(*own);
        let work_ns = match others.declared_ns {
            0 if self.measured_ppm.is_none() => Some(declared_ns),
            0 => None,
            declared => Some(declared_ns.saturating_mul(others.found_ns) / declared),
        };
        let found_ns = u128::from(self.ppm(params)) * u128::from(taken_ms);
        all.add(declared_ns, found_ns);
        own.add(declared_ns, found_ns);
        let Some(work_ns) = work_ns else { return };
        self.window_ns = self.window_ns.saturating_add(work_ns);
        self.window_ms = self.window_ms.saturating_add(taken_ms);
        if self.window_ms >= params.speed_window_ms {
            let found = clip(self.window_ns / u128::from(self.window_ms.max(1)));
            (self.window_ns, self.window_ms) = (0, 0);
            self.measure(found);
        }
    }

    fn measure(&mut self, found_ppm: u64) {
        let found = found_ppm.clamp(1, SPEED_PPM_MAX);
        self.measurements = self.measurements.saturating_add(1);
        self.measured_ppm = Some(match self.measured_ppm {
            None => found,
            Some(before) => {
                let found = found.clamp(before.div_ceil(JUMP_MAX), before.saturating_mul(JUMP_MAX));
                (before * (MEMORY - 1) + found) / MEMORY
            }
        });
    }

    /// A package of which the device worked `device_us` was under way for `taken_ms`.
    pub(crate) fn overhead(&mut self, taken_ms: u64, device_us: u64) {
        let found = taken_ms.saturating_mul(1_000).saturating_sub(device_us);
        self.overhead_us = (self.overhead_us * 7 + found.min(u64::MAX / 8)) / 8;
    }
}

/// How long a package is to compute, in microseconds, so that a worker with this overhead is busy for `package_efficiency_ppm`
/// of its time: from `1 / (1 + L / C) ≥ E` follows `C ≥ L · E / (1 − E)`. Never less than `package_target_ms`, so that the market
/// is not asked all the time, and never more than `package_ms_max`.
pub fn package_us(overhead_us: u64, params: &Params) -> u64 {
    let efficiency = params.package_efficiency_ppm;
    let wanted = scale(overhead_us, efficiency, PPM - efficiency);
    wanted.min(params.package_ms_max * 1_000).max(params.package_target_ms * 1_000)
}

impl Worker {
    /// How long a package for it is to compute, in microseconds.
    pub fn package_us(&self, params: &Params) -> u64 {
        package_us(self.speed.overhead_us, params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_keep_a_device_busy() {
        let params = Params::default();
        let check = |overhead_ms: u64, expected_ms: u64| {
            assert_eq!(package_us(overhead_ms * 1_000, &params), expected_ms * 1_000, "{overhead_ms}");
        };
        check(0, 1_000);
        check(50, 1_000);
        check(100, 1_900);
        check(400, 7_600);
        check(5_000, 10_000);
    }

    #[test]
    fn who_misstates_the_work_of_a_job_does_not_make_its_workers_look_slow() {
        let params = Params::default();
        let mut job = Calibration::default();
        // Units take a reference device a second; the job says a millisecond.
        let declared = 1_000_000u128;
        let mut speeds = [PPM, PPM / 2].map(|ppm| Speed { measured_ppm: Some(ppm), ..Speed::default() });
        let mut own = [Calibration::default(); 2];
        for _ in 0..100 {
            for (worker, taken_ms) in [(0, 1_000), (1, 2_000)] {
                speeds[worker].learn(&mut job, &mut own[worker], declared, taken_ms, &params);
            }
        }
        let found = speeds.map(|speed| speed.measured_ppm.expect("measured"));
        assert!(found[0].abs_diff(PPM) < PPM / 100 && found[1].abs_diff(PPM / 2) < PPM / 100, "{found:?}");
    }

    #[test]
    fn ten_times_the_speed_is_found_out_among_others() {
        let params = Params::default();
        let mut job = Calibration::default();
        let mut honest = Speed { measured_ppm: Some(PPM), ..Speed::default() };
        let mut liar = Speed::default();
        liar.claim(10_000_000, &params);
        assert_eq!(liar.ppm(&params), 10 * PPM, "believed at first");
        let mut own = [Calibration::default(); 2];
        honest.learn(&mut job, &mut own[0], 1_000_000_000, 1_000, &params);
        liar.learn(&mut job, &mut own[1], 1_000_000_000, 1_000, &params);
        assert_eq!(liar.ppm(&params), PPM);
        assert!(liar.is_refuted(&params));
        liar.overstated = true;
        liar.claim(1_200_000, &params);
        assert!(!liar.overstated, "it corrected itself");
    }
}
