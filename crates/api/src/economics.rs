//! Prices, stakes and reputations.

use protocol::{Amount, PublicKey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Time;

/// `POST /v1/quotes`: what a job would cost if it were submitted now, as it would be with `POST /v1/jobs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quote {
    /// One a stage, in order.
    pub stages: Vec<StageQuote>,
    /// What would be taken from the balance: every unit, and the checks that the policy may draw.
    pub escrow: Amount,
    /// Until its first unit is taken, in milliseconds, by estimate; absent when no provider fits.
    #[serde(default, with = "protocol::decimal::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub wait_ms: Option<u64>,
    /// From then until it is done.
    #[serde(default, with = "protocol::decimal::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub run_ms: Option<u64>,
}

/// How a stage's price comes about: `rate = base · (1 + demand) · (1 + capability) · season`, at least `ask_min`, and
/// `market_price = rate · reference time`, rounded up. Factors are parts per million.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StageQuote {
    /// Price of a second of the reference device before the factors.
    pub base: Amount,
    /// Providers online that can run it.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub providers: u64,
    /// Demand factor.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub demand_ppm: u64,
    /// Capability factor.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub capability_ppm: u64,
    /// Seasonal adjustment.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub season_ppm: u64,
    /// The lowest ask of the providers that can run it.
    pub ask_min: Amount,
    /// Price of a second of the reference device.
    pub rate: Amount,
    /// Time of a unit on the reference device, in nanoseconds, by estimate.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub reference_ns: u64,
    /// The market's price of a unit.
    pub market_price: Amount,
    /// What a unit would pay: the market's price, or the job's own.
    pub unit_price: Amount,
    /// Units in all iterations.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub units: u64,
    /// Executions of each unit that the escrow covers.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub copies: u64,
}

/// The terms of a job's score, in parts per million: `score = 0.4 · stake + 0.3 · urgency + 0.3 · complexity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Score {
    /// What its owner has bonded.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub stake_ppm: u64,
    /// Priority, deadline and waiting.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub urgency_ppm: u64,
    /// How much work it is.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub complexity_ppm: u64,
    /// The weighted sum.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub score_ppm: u64,
    /// Jobs that are served before it, as it stands; absent when none of its units waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs_ahead: Option<u32>,
}

/// What a provider's word is worth, in thousandths of a point of 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reputation {
    /// Speed against claims.
    pub performance_milli: u32,
    /// Leases that ended well.
    pub reliability_milli: u32,
    /// Days with accepted work.
    pub longevity_milli: u32,
    /// Clients' ratings.
    pub rating_milli: u32,
    /// `0.4 · performance + 0.3 · reliability + 0.2 · longevity + 0.1 · rating`.
    pub nrs_milli: u32,
    /// 0 to 3.
    pub tier: u8,
}

/// How fast a worker is, in parts per million of the reference device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Speed {
    /// As it claims; 0 when it claims nothing.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub claimed_ppm: u64,
    /// As measured in real work; absent before the first measurement.
    #[serde(default, with = "protocol::decimal::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub measured_ppm: Option<u64>,
    /// Whether it claims much more than was measured.
    pub overstated: bool,
}

/// How often a worker's units are executed again: with the greatest of `record_ppm`, `floor_ppm`, the job's `rate_min` and, at a
/// unit price of `u`, `u / (u + loss)`. Rates are parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trust {
    /// Valid packages in a row, since the last suspicion against its owner.
    pub worker_streak: u32,
    /// The same of all workers of its owner together.
    pub owner_streak: u32,
    /// Always until both are 10 (`trust_after_packages`), then one in as many as the shorter one.
    pub record_ppm: u32,
    /// The market's floor.
    pub floor_ppm: u32,
    /// What its owner would lose at least if it were found out.
    pub loss: Amount,
}

/// Pay that is held back until a verdict could not take it any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PendingPay {
    /// How much.
    pub amount: Amount,
    /// When it can be spent.
    pub free_at: Time,
}

/// `POST /v1/accounts/{id}/bond` and `/unbond`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StakeRequest {
    /// How much.
    pub amount: Amount,
}

/// `POST /v1/jobs/{id}/ratings`: what the job's owner thinks of a worker that computed for it. Once each.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RatingRequest {
    /// The worker.
    pub worker: PublicKey,
    /// 1 to 5.
    pub stars: u8,
}

/// The class a job is served in. A higher one may reclaim devices from a lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Whatever is left over.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Before the usual.
    High,
    /// At once.
    Urgent,
}

/// A part of what a job pays for first execution, such as a model's author's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Royalty {
    /// Who gets it.
    pub account: PublicKey,
    /// How much, in basis points.
    pub bps: u32,
}
