//! Receipts: a worker's signed commitment to what it computed.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{Hash, JobId, LeaseId, PublicKey, Signable, merkle};

/// A contiguous run of units of one job.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UnitRun {
    /// Index of the first unit.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub first: u64,
    /// How many.
    pub count: u32,
}

impl UnitRun {
    /// The first `count` units, and those after them.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn split(self, count: u32) -> (Self, Self) {
        let rest = Self { first: self.first + u64::from(count), count: self.count - count };
        (Self { count, ..self }, rest)
    }

    /// The unit indices.
    pub fn units(self) -> impl Iterator<Item = u64> {
        self.first..self.first + u64::from(self.count)
    }
}

/// What a worker commits to for one output of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct OutputCommitment {
    /// The blob with the output's bytes.
    pub blob: Hash,
    /// Its length in bytes.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub length: u64,
    /// Merkle root over its 64 KiB chunks.
    pub chunk_root: Hash,
}

impl OutputCommitment {
    /// The commitment to `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { blob: Hash::of(bytes), length: bytes.len() as u64, chunk_root: merkle::chunk_root(bytes) }
    }
}

/// How a unit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum UnitStatus {
    /// All outputs are there.
    Done,
}

/// A leaf of the package's Merkle tree.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct UnitLeaf {
    /// The job.
    pub job: JobId,
    /// The unit's index.
    pub unit: u64,
    /// One commitment an output, in output order.
    pub outputs: Vec<OutputCommitment>,
    /// How it ended.
    pub status: UnitStatus,
}

impl UnitLeaf {
    /// The leaf of a unit that ended with these outputs.
    pub fn done(job: JobId, unit: u64, outputs: Vec<OutputCommitment>) -> Self {
        Self { job, unit, outputs, status: UnitStatus::Done }
    }

    /// Its hash in the package's tree.
    pub fn hash(&self) -> Hash {
        merkle::leaf_hash(&borsh::to_vec(self).expect("writing to a Vec cannot fail"))
    }
}

/// The Merkle root over a package's unit leaves, in package order.
pub fn package_root(leaves: &[UnitLeaf]) -> Hash {
    let hashes: Vec<_> = leaves.iter().map(UnitLeaf::hash).collect();
    merkle::root(&hashes)
}

/// The body a worker signs (kind `receipt`). Everything that ties it to one lease of one market is inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Receipt {
    /// The market's key.
    pub market: PublicKey,
    /// The lease that is answered.
    pub lease: LeaseId,
    /// The lease's generation.
    pub generation: u32,
    /// The key that signs.
    pub worker: PublicKey,
    /// The job.
    pub job: JobId,
    /// Units covered.
    pub units: u32,
    /// Merkle root over the unit leaves.
    pub package_root: Hash,
    /// The adapter that computed, as announced.
    pub adapter: String,
    /// When the first unit began, in milliseconds of the Unix epoch by the worker's clock.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub started_at_ms: u64,
    /// Time on the device, in microseconds.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub device_us: u64,
    /// Time from taking the package to committing it, in microseconds.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub total_us: u64,
}

impl Signable for Receipt {
    const KIND: &'static str = "receipt";
}

impl Receipt {
    /// The hash that seeds the challenge: SHA-256 of the signed bytes.
    pub fn digest(&self) -> Hash {
        Hash::of(&self.signed_bytes())
    }
}
