//! What became of packages that were contradicted.

use protocol::{Amount, Hash, JobId, PackageId, PublicKey, UnitRun, VerdictId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Time;

/// `GET /v1/verdicts/{id}`: a package whose results were contradicted, and what that takes from its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// The verdict.
    pub id: VerdictId,
    /// The job of the package.
    pub job: JobId,
    /// The package.
    pub package: PackageId,
    /// Its units.
    pub units: UnitRun,
    /// Who computed it.
    pub worker: PublicKey,
    /// The wallet that would have been paid.
    pub owner: PublicKey,
    /// The digest of the receipt that was contradicted.
    pub receipt: Hash,
    /// What was found.
    pub cause: VerdictCause,
    /// Who said what of the package.
    pub opinions: Vec<Opinion>,
    /// The units whose commitments differ.
    #[schema(value_type = Vec<String>)]
    #[serde(with = "decimals")]
    pub disputed: Vec<u64>,
    /// What the owner would have been paid.
    pub pay: Amount,
    /// What was taken from the owner; frozen until the verdict is final.
    pub slash: Amount,
    /// When it was reached.
    pub reached_at: Time,
    /// Where it is.
    pub state: VerdictState,
    /// Whether nothing can change it any more.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Until when the owner may contest it.
    pub contestable_until: Time,
    /// How it was contested, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appeal: Option<VerdictAppeal>,
    /// How it became final, once it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing: Option<VerdictClosing>,
}

/// Why a package was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerdictCause {
    /// Two other owners got another result.
    Outvoted,
    /// The market itself got another result.
    VerifierDisagrees,
    /// Nobody could execute the units again.
    Unverifiable,
    /// What the program says of its outputs does not hold for these.
    Disproved,
}

/// Where a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerdictState {
    /// As it was reached.
    Standing,
    /// The disputed units are executed again.
    Contested,
    /// It was contested and stands.
    Upheld,
    /// It was contested, and the accused was right: everything went back.
    Overturned,
}

/// What somebody says of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Opinion {
    /// Who executed the units again; absent for a look without an execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<PublicKey>,
    /// Whose opinion it is.
    pub owner: PublicKey,
    /// Whether it is the accused's.
    pub agrees: bool,
    /// The digest of its receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Hash>,
    /// What was compared and where it first differs.
    pub evidence: String,
}

/// An appeal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerdictAppeal {
    /// When it was made.
    pub at: Time,
    /// What was deposited for it.
    pub deposit: Amount,
    /// When it is decided at the latest.
    pub until: Time,
}

/// How a verdict became final, and where the money went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerdictClosing {
    /// When.
    pub at: Time,
    /// How.
    pub outcome: VerdictOutcome,
    /// What those said who executed the units for the appeal.
    #[serde(default)]
    pub opinions: Vec<Opinion>,
    /// What went back of the deposit.
    pub deposit: Amount,
    /// What the owner was paid for the package after all.
    pub compensation: Amount,
    /// What those who were wrong paid.
    pub taken_from_accusers: Amount,
    /// What the treasury paid.
    pub from_treasury: Amount,
    /// What the treasury got.
    pub treasury: Amount,
    /// What was burned.
    pub burned: Amount,
}

/// How a verdict became final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerdictOutcome {
    /// Nobody contested it in time.
    Uncontested,
    /// Somebody who had no part in it found the same.
    Upheld,
    /// Nobody could execute the units in time: it stands.
    Unexamined,
    /// The accused was right: all that was taken went back.
    Overturned,
}

/// Numbers as decimal strings, as all numbers of units are.
mod decimals {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(numbers: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
        numbers.iter().map(u64::to_string).collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let parse = |text: &String| protocol::decimal::parse(text);
        texts
            .iter()
            .map(parse)
            .collect::<Option<_>>()
            .ok_or_else(|| serde::de::Error::custom("expected numbers"))
    }
}
