//! What a waiting job is worth serving: `Score = 0.4 · UserStake + 0.3 · TaskUrgency + 0.3 · TaskComplexity`.
//!
//! The weights are parameters that sum to one; each term is normalised to 0..1 and counted in parts per million:
//!
//! - `UserStake = min(1, log2(1 + s / 1000) / 10)`, where `s` is what the client had bonded when it submitted, in tokens.
//!   The same curve as the stake multiplier of rewards.
//! - `TaskUrgency = min(1, class + waited / W + nearness)`: the class gives 0, ¼, ½ or ¾; `waited` is the time since the job
//!   was last served (or submitted) and `W` the parameter `urgency_wait_ms`; `nearness = 1 − (deadline − now) / D` within `D` =
//!   `urgency_deadline_ms` of the job's deadline, else 0.
//! - `TaskComplexity = min(1, log2(1 + T) / 20)`, where `T` is the reference time of all units in seconds: 2²⁰ s (12 days) of
//!   the reference device is 1.
//!
//! What is shown clamps urgency at 1. The *order* of the queue does not: waiting counts on without bound, so whatever comes
//! later, a job that waits is passed by fewer and fewer others, and in the end by none. See [`queue`](crate::queue).

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{Amount, BASE_UNITS_PER_TOKEN, JobId};

use crate::{
    Job, JobSpec, Params, Priority, State,
    ratio::{PPM, clip, log2_1p_ppm, scale},
};

/// Jobs that are counted before one at most.
pub const AHEAD_MAX: usize = 10_000;
/// Stake at which the logarithm is 1.
const STAKE_UNIT: u64 = 1_000 * BASE_UNITS_PER_TOKEN;
/// Doublings of the stake unit that count.
const STAKE_DOUBLINGS: u64 = 10;
/// Reference time at which the logarithm of complexity is 1.
const COMPLEXITY_UNIT_MS: u64 = 1_000;
/// Doublings of it that count.
const COMPLEXITY_DOUBLINGS: u64 = 20;
/// What each class of priority adds to urgency.
const CLASS_STEP_PPM: u64 = PPM / 4;

/// The terms of a score, in parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreTerms {
    /// `UserStake`.
    pub stake_ppm: u64,
    /// `TaskUrgency`.
    pub urgency_ppm: u64,
    /// `TaskComplexity`.
    pub complexity_ppm: u64,
    /// The weighted sum.
    pub score_ppm: u64,
}

/// The terms that are fixed when a job is submitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Standing {
    /// `UserStake`.
    pub stake_ppm: u64,
    /// `TaskComplexity`.
    pub complexity_ppm: u64,
}

impl Standing {
    /// Of a job whose owner has bonded this much.
    pub(crate) fn of(spec: &JobSpec, bonded: Amount, params: &Params) -> Self {
        Self { stake_ppm: stake_ppm(bonded), complexity_ppm: complexity_ppm(spec, params) }
    }

    /// The part of the score that time does not change, in parts per million².
    fn fixed_ppm2(self, priority: Priority, params: &Params) -> u128 {
        let weighted = |weight: u32, term: u64| u128::from(weight) * u128::from(term);
        weighted(params.score_stake_ppm, self.stake_ppm)
            + weighted(params.score_urgency_ppm, class_ppm(priority))
            + weighted(params.score_complexity_ppm, self.complexity_ppm)
    }
}

/// `min(1, log2(1 + s / 1000) / 10)` of a stake.
pub fn stake_ppm(bonded: Amount) -> u64 {
    (log2_1p_ppm(bonded.0, STAKE_UNIT) / STAKE_DOUBLINGS).min(PPM)
}

fn complexity_ppm(spec: &JobSpec, params: &Params) -> u64 {
    let each: u128 = spec
        .stages
        .iter()
        .map(|stage| u128::from(params.reference_ns(stage)) * u128::from(stage.units))
        .sum();
    let total_ms = clip(each * u128::from(spec.iterations_max()) / 1_000_000);
    (log2_1p_ppm(total_ms, COMPLEXITY_UNIT_MS) / COMPLEXITY_DOUBLINGS).min(PPM)
}

/// What a class adds to urgency.
fn class_ppm(priority: Priority) -> u64 {
    CLASS_STEP_PPM * priority as u64
}

/// How near a deadline is, from 0 to 1.
fn nearness_ppm(deadline_ms: Option<u64>, now_ms: u64, params: &Params) -> u64 {
    deadline_ms.map_or(0, |deadline| {
        let left = deadline.saturating_sub(now_ms).min(params.urgency_deadline_ms);
        PPM - scale(PPM, left, params.urgency_deadline_ms)
    })
}

/// The part of a rank that does not change while a job waits: the rank at the beginning of time. Ranks are scores times
/// [`PPM`] times `urgency_wait_ms`, so that they are whole numbers to the millisecond.
pub(crate) fn rank_base(standing: Standing, priority: Priority, since_ms: u64, params: &Params) -> i128 {
    let fixed = standing.fixed_ppm2(priority, params) * u128::from(params.urgency_wait_ms);
    let waited = u128::from(params.score_urgency_ppm) * u128::from(PPM) * u128::from(since_ms);
    fixed as i128 - waited as i128
}

/// What time adds to every rank alike, and a near deadline to one.
pub(crate) fn rank_growth(deadline_ms: Option<u64>, now_ms: u64, params: &Params) -> i128 {
    let weight = u128::from(params.score_urgency_ppm);
    let waited = weight * u128::from(PPM) * u128::from(now_ms);
    let near =
        weight * u128::from(nearness_ppm(deadline_ms, now_ms, params)) * u128::from(params.urgency_wait_ms);
    (waited + near) as i128
}

/// By how much two ranks differ whose scores differ by this.
pub(crate) fn rank_span(score_ppm: u32, params: &Params) -> i128 {
    (u128::from(score_ppm) * u128::from(PPM) * u128::from(params.urgency_wait_ms)) as i128
}

impl State {
    /// How many other jobs are served before this one, as it stands; nothing when none of its units waits. Counted up to
    /// [`AHEAD_MAX`].
    pub fn jobs_ahead(&self, job: JobId, now_ms: u64) -> Option<usize> {
        self.queue.ahead(job, now_ms, &self.params, AHEAD_MAX)
    }

    /// The terms of a job's score, as they are shown.
    pub fn score(&self, job: &Job, now_ms: u64) -> ScoreTerms {
        let params = &self.params;
        let waited = now_ms.saturating_sub(job.served_at_ms);
        let urgency_ppm = class_ppm(job.spec.priority)
            .saturating_add(scale(PPM, waited, params.urgency_wait_ms))
            .saturating_add(nearness_ppm(job.spec.deadline_ms, now_ms, params))
            .min(PPM);
        let Standing { stake_ppm, complexity_ppm } = job.standing;
        let weighted = |weight: u32, term: u64| u64::from(weight) * term;
        let sum = weighted(params.score_stake_ppm, stake_ppm)
            + weighted(params.score_urgency_ppm, urgency_ppm)
            + weighted(params.score_complexity_ppm, complexity_ppm);
        ScoreTerms { stake_ppm, urgency_ppm, complexity_ppm, score_ppm: sum / PPM }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stake_counts_by_its_logarithm() {
        let tokens = |n: u64| Amount(n * BASE_UNITS_PER_TOKEN);
        let check = |stake, expected| assert_eq!(stake_ppm(tokens(stake)), expected, "{stake}");
        check(0, 0);
        check(1_000, 100_000);
        check(3_000, 200_000);
        // The published points of the same curve: 1.10, 1.35 and 1.66.
        check(10_000, 345_943);
        check(100_000, 665_821);
        check(1_023_000, PPM);
        check(10_000_000, PPM);
    }

    #[test]
    fn a_day_of_waiting_outweighs_everything_else() {
        let params = Params::default();
        let rich = Standing { stake_ppm: PPM, complexity_ppm: PPM };
        let day = 24 * 3_600_000;
        let newcomer = rank_base(rich, Priority::Urgent, day, &params);
        assert!(rank_base(Standing::default(), Priority::Low, 0, &params) > newcomer);
        // And an urgent newcomer goes before one that waited for half an hour.
        let newcomer = rank_base(Standing::default(), Priority::Urgent, 1_800_000, &params);
        assert!(rank_base(Standing::default(), Priority::Low, 0, &params) < newcomer);
    }

    #[test]
    fn a_deadline_counts_when_it_is_near() {
        let params = Params::default();
        let near = |left| nearness_ppm(Some(left), 0, &params);
        assert_eq!(near(2 * params.urgency_deadline_ms), 0);
        assert_eq!(near(params.urgency_deadline_ms / 2), PPM / 2);
        assert_eq!(near(0), PPM);
        assert_eq!(nearness_ppm(None, 7, &params), 0);
    }
}
