//! What computing costs: `Price = BasePrice · (1 + DemandFactor) · (1 + CapabilityFactor) · SeasonalAdjustment`, in base units
//! for a second of the reference device, times the reference time of a unit.
//!
//! - *Reference time* of a unit: `flops / reference_gflops + bytes / reference_gbps` nanoseconds; `unknown_unit_us` where nobody
//!   knows either.
//! - `BasePrice`: the middle (the lower median) of what the providers ask who are online and fit, each ask counted up to the
//!   ceiling of its owner's tier; the parameter `base_price` where none of them asks for anything.
//! - `DemandFactor = min(demand_max, F / demand_backlog_ms)`, where `F` is the forecast of how long the queue keeps all
//!   providers busy: waiting reference time over capacity, smoothed with the time constant `demand_ewma_ms`.
//! - `CapabilityFactor = capability_max · (1 − C(fits) / C(all))`, where `C` is the capacity of providers online; 0 where there is
//!   none.
//! - `SeasonalAdjustment`: what the present hour of the week usually asks for, over the mean of its 168 hours, within
//!   `season_min` and `season_max`; 1 until a whole week was seen. Hour 0 begins on Thursday at 00:00 UTC, as the Unix epoch does.
//!
//! The result is never below the lowest ask of those who fit: nobody would take such a job. It is rounded up to whole base
//! units a unit, so that a job never pays less than was asked, and fixed into the job when it is submitted.

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::Amount;

use crate::{
    JobSpec, Params, Stage, State,
    ratio::{PPM, clip, scale, share_ppm},
};

const NS: u128 = 1_000_000_000;
const HOUR_MS: u64 = 3_600_000;
const WEEK_HOURS: usize = 168;
/// A week counts this much against all before it: a quarter.
const SEASON_WEEKS: u64 = 4;

impl Params {
    /// Reference time of a unit of this stage, in nanoseconds; at least 1.
    pub fn reference_ns(&self, stage: &Stage) -> u64 {
        let work = &stage.work;
        if (work.flops, work.bytes) == (0, 0) {
            return self.unknown_unit_us * 1_000;
        }
        (work.flops / self.reference_gflops).saturating_add(work.bytes / self.reference_gbps).max(1)
    }

    /// What a stage pays for a second of the reference device, in base units, rounded down.
    pub fn rate(&self, stage: &Stage) -> u64 {
        clip(u128::from(stage.unit_price.0) * NS / u128::from(self.reference_ns(stage)))
    }
}

/// How one stage's price comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageQuote {
    /// Price of a reference second before the factors.
    pub base: Amount,
    /// Providers online that fit.
    pub providers: u64,
    /// `DemandFactor`.
    pub demand_ppm: u64,
    /// `CapabilityFactor`.
    pub capability_ppm: u64,
    /// `SeasonalAdjustment`.
    pub season_ppm: u64,
    /// The lowest ask of those who fit.
    pub ask_min: Amount,
    /// Price of a reference second.
    pub rate: Amount,
    /// Reference time of a unit, in nanoseconds.
    pub reference_ns: u64,
    /// The market's price of a unit.
    pub market_price: Amount,
    /// The price of a unit that the job would pay: the market's, or its own bid.
    pub unit_price: Amount,
    /// Units in all iterations.
    pub units: u64,
    /// Executions of each unit that the escrow covers.
    pub copies: u64,
}

/// What a job would cost and how long it would take, if it were submitted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// One a stage.
    pub stages: Vec<StageQuote>,
    /// What would be taken from the owner's balance; nothing when there is not so much money.
    pub escrow: Option<Amount>,
    /// Until its first unit is taken; nothing when no provider fits.
    pub wait_ms: Option<u64>,
    /// From then until it is done.
    pub run_ms: Option<u64>,
}

impl State {
    /// The price of a job at this moment, and how it comes about. Stages whose number is in `asked` are priced by the market,
    /// the others pay what the specification says.
    pub fn quote(&self, spec: &JobSpec, asked: &[u32], now_ms: u64) -> Quote {
        let (demand_ppm, season_ppm) =
            (self.demand_factor_ppm(now_ms), self.demand.season_ppm(now_ms, &self.params));
        let (mut wait_ms, mut run_ms) = (Some(0), Some(0u64));
        let mut escrow = Some(Amount::ZERO);
        let stages = (0..)
            .zip(&spec.stages)
            .map(|(number, stage)| {
                let fitting = self.supply.fitting(&stage.requirements);
                let capability_ppm = match self.supply.capacity_ppm() {
                    0 => 0,
                    all => scale(
                        u64::from(self.params.capability_max_ppm),
                        PPM - share_ppm(fitting.capacity_ppm, all),
                        PPM,
                    ),
                };
                let base = fitting.ask_median.unwrap_or(Amount(self.params.base_price));
                let ask_min = fitting.ask_min;
                let product = u128::from(base.0) * u128::from(PPM + demand_ppm) / u128::from(PPM);
                let product = product * u128::from(PPM + capability_ppm) / u128::from(PPM);
                let rate = clip(product * u128::from(season_ppm) / u128::from(PPM)).max(ask_min.0);
                let reference_ns = self.params.reference_ns(stage);
                let market_price = Amount(clip((u128::from(rate) * u128::from(reference_ns)).div_ceil(NS)));
                let unit_price = if asked.contains(&number) { market_price } else { stage.unit_price };
                let units = stage.units.saturating_mul(spec.iterations_max());
                let copies = stage.copies();
                escrow = escrow
                    .and_then(|sum| sum.checked_add(unit_price.checked_mul(units)?.checked_mul(copies)?));
                let time = self.estimate(stage, units, fitting.count, fitting.capacity_ppm);
                wait_ms = wait_ms.and_then(|wait: u64| Some(wait.max(time?.0)));
                run_ms = run_ms.and_then(|run| Some(run.saturating_add(time?.1)));
                StageQuote {
                    base,
                    providers: fitting.count,
                    demand_ppm,
                    capability_ppm,
                    season_ppm,
                    ask_min,
                    rate: Amount(rate),
                    reference_ns,
                    market_price,
                    unit_price,
                    units,
                    copies,
                }
            })
            .collect();
        Quote { stages, escrow, wait_ms, run_ms }
    }

    /// `DemandFactor`, in parts per million.
    pub fn demand_factor_ppm(&self, now_ms: u64) -> u64 {
        let forecast = self.demand.forecast_ms(now_ms, self.backlog_ms(), &self.params);
        share_ppm(forecast, self.params.demand_backlog_ms).min(self.params.demand_max_ppm.into())
    }

    /// How long what waits keeps all providers busy; a day where there are none.
    pub fn backlog_ms(&self) -> u64 {
        match (self.queue.work_ns(), self.supply.capacity_ppm()) {
            (0, _) => 0,
            (_, 0) => 24 * HOUR_MS,
            (work_ns, capacity) => clip(work_ns * u128::from(PPM) / u128::from(capacity) / 1_000_000),
        }
    }

    /// How well the estimates turned out.
    pub fn forecasts(&self) -> &Forecasts {
        &self.forecasts
    }

    /// How far off the forecast of an hour's demand is on average, as a part of the larger of the two; nothing before a week was
    /// seen.
    pub fn demand_error_ppm(&self) -> Option<u64> {
        self.demand.error_ppm()
    }

    /// When units of a stage would begin, and how long they would take: `P = N · G · E / (1 + L / C)`, where `N` is how many of
    /// the providers the units can keep busy, `G` their mean speed, `E` the share of work that is not done again as a check, and
    /// `1 / (1 + L / C)` the share of time that packages are sized to compute.
    fn estimate(&self, stage: &Stage, units: u64, providers: u64, capacity_ppm: u64) -> Option<(u64, u64)> {
        let busy = units.min(providers);
        let speed = scale(capacity_ppm, busy, providers);
        if speed == 0 {
            return None;
        }
        let combined = stage.policy.combined();
        let audits = combined
            .audit_rate_min_ppm
            .map_or(0, |rate_min_ppm| u64::from(rate_min_ppm.max(self.params.audit_rate_floor_ppm)).min(PPM));
        let checks_ppm =
            combined.quorum.map_or(audits, |quorum| u64::from(quorum.of.saturating_sub(1)) * PPM);
        let effective = scale(scale(speed, PPM, PPM + checks_ppm), self.params.package_efficiency_ppm, PPM);
        let work_ns = u128::from(self.params.reference_ns(stage)) * u128::from(units);
        let run_ms = clip(work_ns * u128::from(PPM) / u128::from(effective.max(1)) / 1_000_000);
        Some((self.backlog_ms(), run_ms))
    }
}

/// How well the estimates of jobs' times turned out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Forecasts {
    /// Jobs that were done and had an estimate.
    pub jobs: u64,
    /// Of those, the ones that took between half and twice the estimate.
    pub within_twice: u64,
    /// Moving average (1/16) of the time taken over the estimate, in parts per million.
    pub ratio_ppm: u64,
    /// Moving average of how far off it was: the larger over the smaller, less one.
    pub error_ppm: u64,
}

impl Forecasts {
    /// A job that was expected to take `expected_ms` took `taken_ms`.
    pub(crate) fn settle(&mut self, expected_ms: u64, taken_ms: u64) {
        let (expected, taken) = (expected_ms.max(1), taken_ms.max(1));
        let ratio = scale(PPM, taken, expected).min(1_000 * PPM);
        let error = scale(PPM, taken.max(expected), taken.min(expected)).min(1_000 * PPM) - PPM;
        let moved =
            |average: u64, found: u64| if self.jobs == 0 { found } else { (average * 15 + found) / 16 };
        (self.ratio_ppm, self.error_ppm) = (moved(self.ratio_ppm, ratio), moved(self.error_ppm, error));
        self.jobs += 1;
        self.within_twice += u64::from(error <= PPM);
    }
}

/// Queue and season, observed as time goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Demand {
    /// Until when it was observed.
    at_ms: u64,
    /// The smoothed length of the queue.
    forecast_ms: u64,
    /// Reference milliseconds asked for in the present hour.
    arrived_ms: u64,
    /// What each hour of the week usually asks for, in reference milliseconds.
    season: Vec<u64>,
    /// Hours observed, counted up to a week.
    hours: u32,
    /// Moving average (1/16) of how far off what an hour usually asks for was, as a part of the larger of the two.
    error_ppm: Option<u64>,
}

impl Demand {
    /// Observes a queue of `backlog_ms` that did not change since the last observation.
    ///
    /// The smoothing is the implicit step `f += (x − f) · Δt / (τ + Δt)`: it needs no power, never overshoots, and a long quiet
    /// time brings it all the way.
    pub fn observe(&mut self, now_ms: u64, backlog_ms: u64, params: &Params) {
        if self.at_ms == 0 {
            self.at_ms = now_ms;
        }
        self.forecast_ms = self.forecast_ms(now_ms, backlog_ms, params);
        let (from, to) = (self.at_ms / HOUR_MS, now_ms / HOUR_MS);
        if from < to {
            self.season.resize(WEEK_HOURS, 0);
            // However long nothing happened, a week of empty hours says it all.
            for hour in from..to.min(from + WEEK_HOURS as u64) {
                let usual = &mut self.season[(hour % WEEK_HOURS as u64) as usize];
                let arrived = std::mem::take(&mut self.arrived_ms);
                if self.hours == WEEK_HOURS as u32 && arrived.max(*usual) > 0 {
                    let error = scale(PPM, arrived.abs_diff(*usual), arrived.max(*usual));
                    self.error_ppm =
                        Some(self.error_ppm.map_or(error, |average| (average * 15 + error) / 16));
                }
                *usual = match self.hours < WEEK_HOURS as u32 {
                    true => arrived,
                    false => (*usual * (SEASON_WEEKS - 1)).saturating_add(arrived) / SEASON_WEEKS,
                };
                self.hours = (self.hours + 1).min(WEEK_HOURS as u32);
            }
        }
        self.at_ms = self.at_ms.max(now_ms);
    }

    /// Counts work that was asked for.
    pub fn arrive(&mut self, work_ns: u128) {
        self.arrived_ms =
            self.arrived_ms.saturating_add(clip(work_ns / 1_000_000)).min(u64::MAX / SEASON_WEEKS);
    }

    /// How far off the forecast of an hour's demand is; nothing before there was one.
    pub fn error_ppm(&self) -> Option<u64> {
        self.error_ppm
    }

    /// When it wants to be observed next: not more often than ten times in its time constant.
    pub fn is_due(&self, now_ms: u64, params: &Params) -> bool {
        now_ms.saturating_sub(self.at_ms) >= params.demand_ewma_ms / 10
    }

    fn forecast_ms(&self, now_ms: u64, backlog_ms: u64, params: &Params) -> u64 {
        let passed = now_ms.saturating_sub(self.at_ms);
        let (whole, before) = (params.demand_ewma_ms.saturating_add(passed), u128::from(self.forecast_ms));
        let sum = before * u128::from(params.demand_ewma_ms) + u128::from(backlog_ms) * u128::from(passed);
        clip(sum / u128::from(whole))
    }

    fn season_ppm(&self, now_ms: u64, params: &Params) -> u64 {
        let sum: u128 = self.season.iter().copied().map(u128::from).sum();
        if (self.hours as usize) < WEEK_HOURS || sum == 0 {
            return PPM;
        }
        let hour = self.season[(now_ms / HOUR_MS % WEEK_HOURS as u64) as usize];
        let ratio = clip(u128::from(hour) * WEEK_HOURS as u128 * u128::from(PPM) / sum);
        ratio.clamp(params.season_min_ppm.into(), params.season_max_ppm.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forecast_follows_the_queue_and_never_overshoots() {
        let params = Params::default();
        let mut demand = Demand::default();
        demand.observe(1, 0, &params);
        demand.observe(300_001, 600_000, &params);
        assert_eq!(demand.forecast_ms, 300_000, "half way in one time constant");
        for _ in 0..100 {
            demand.observe(demand.at_ms + 60_000, 600_000, &params);
            assert!(demand.forecast_ms <= 600_000);
        }
        assert!(demand.forecast_ms > 590_000);
        demand.observe(demand.at_ms + 10_000_000_000, 0, &params);
        assert!(demand.forecast_ms < 100, "a long quiet time brings it all the way");
    }

    #[test]
    fn a_busy_hour_of_the_week_is_dearer_than_a_quiet_one() {
        let params = Params::default();
        let mut demand = Demand::default();
        demand.observe(1, 0, &params);
        for hour in 0..5 * WEEK_HOURS as u64 {
            assert!(hour >= 168 || demand.season_ppm(hour * HOUR_MS + 1, &params) == PPM);
            let busy = hour % 24 == 20;
            demand.arrive(if busy { 3_000 * NS } else { 1_000 * NS });
            demand.observe((hour + 1) * HOUR_MS + 1, 0, &params);
        }
        assert_eq!(demand.season_ppm(20 * HOUR_MS, &params), 1_250_000, "clamped");
        assert_eq!(demand.season_ppm(21 * HOUR_MS, &params), 1_000_000 * 24 / 26);
        assert_eq!(demand.error_ppm(), Some(0), "every week was like the one before");
        let at = demand.at_ms;
        demand.arrive(2_000 * NS);
        demand.observe(at + HOUR_MS, 0, &params);
        assert_eq!(demand.error_ppm(), Some(PPM / 2 / 16), "twice as much as usual, once");
    }
}
