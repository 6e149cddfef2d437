//! What shows that work was done, and that its checks were drawn fairly.

use protocol::{ChallengeChain, CheckId, Hash, JobId, Opening, PackageId, PublicKey, UnitRun};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/challenges`: the chains of keys that checks are drawn with, oldest first; the last one is in use.
///
/// Receipts before the first chain's `sequence` were drawn for with a secret that is never shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Challenges {
    /// The chains.
    pub chains: Vec<ChallengeKeys>,
}

/// A chain and what is shown of its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChallengeKeys {
    /// What was journaled before the first draw.
    pub chain: ChallengeChain,
    /// The last key that may be known. Earlier epochs' keys are its hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<ShownKey>,
}

/// A key that draws nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShownKey {
    /// Its epoch, from 1.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub epoch: u64,
    /// The key.
    pub key: Hash,
}

/// `GET /v1/jobs/{job}/units/{unit}/proof`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnitProof {
    /// What a worker committed to. It can be checked without the market.
    pub opening: Opening,
    /// What became of the package, as the market's journal has it.
    pub package: PackageRecord,
    /// Packages before it that held the unit and were rejected, oldest first.
    #[serde(default)]
    pub rejected: Vec<PackageRecord>,
}

/// A package from its receipt to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PackageRecord {
    /// The package.
    pub package: PackageId,
    /// Its job.
    pub job: JobId,
    /// Its units.
    pub units: UnitRun,
    /// Who computed it.
    pub worker: PublicKey,
    /// The digest of its receipt.
    pub receipt: Hash,
    /// Sequence of the receipt's event in the journal.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub sequence: u64,
    /// When that was journaled, in milliseconds of the Unix epoch.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub at_ms: u64,
    /// What is known of its checks; absent until it is settled, because nobody is to know before who checks what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Settlement>,
}

/// How a package was checked, and how that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Settlement {
    /// Whether its results stand.
    pub accepted: bool,
    /// Why they do not: `outvoted`, `verifier_disagrees`, `unverifiable` or `disproved`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// What its checks were drawn from; absent where nothing was drawn, as of units that several owners compute at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw: Option<Hash>,
    /// Places of the drawn units in the package, from 0, ascending.
    pub drawn: Vec<u32>,
    /// Its checks, in the order in which they were planned; without canaries that agreed, which the job's owner keeps to itself.
    pub checks: Vec<CheckRecord>,
}

/// One opinion on a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckRecord {
    /// The check.
    pub check: CheckId,
    /// How it came to its opinion: `execution` by somebody else, `canary` (the job's owner knows the outputs) or `algebraic`.
    pub kind: String,
    /// How many units it covers.
    pub units: u32,
    /// The check whose disagreement it was to decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie_of: Option<CheckId>,
    /// Who made it; absent if nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<PublicKey>,
    /// The digest of the checker's receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Hash>,
    /// What it said; absent if the package was settled without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agrees: Option<bool>,
    /// What was compared and where it first differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}
