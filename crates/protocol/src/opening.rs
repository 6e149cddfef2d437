//! Openings: that a worker committed to these outputs of this unit, shown with nothing but its receipt and two Merkle paths.
//!
//! A receipt signs the root over a package's units, and each unit's leaf names the root over the 64 KiB chunks of every output. So one
//! unit is opened without the others, and one chunk of an output without the rest of it. Whether an opening holds needs no
//! network and no state: the keys of the market and of the worker are all that one must know from elsewhere.

use serde::{Deserialize, Serialize};

use crate::{
    Hash, OutputCommitment, PublicKey, Receipt, Signature, UnitLeaf,
    merkle::{self, CHUNK_BYTES},
};

/// What opens one unit of a package, and perhaps one chunk of an output of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Opening {
    /// What the worker signed.
    pub receipt: Receipt,
    /// Its signature.
    pub signature: Signature,
    /// The unit's index in its job.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub unit: u64,
    /// Its place in the package, from 0.
    pub place: u32,
    /// What was committed to, in output order.
    pub outputs: Vec<OutputCommitment>,
    /// From the unit's leaf to the package's root.
    pub path: Vec<Hash>,
    /// A chunk of an output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<ChunkOpening>,
}

/// What opens one chunk of an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ChunkOpening {
    /// The output's number.
    pub output: u32,
    /// The chunk's number, from 0: bytes from `65536 · index` on.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub index: u64,
    /// The chunk's leaf: SHA-256 of a zero byte and the chunk.
    pub leaf: Hash,
    /// From the leaf to the output's `chunk_root`.
    pub path: Vec<Hash>,
}

/// Why an opening does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// It is for another market.
    #[error("the receipt names another market")]
    Market,
    /// It is another worker's.
    #[error("the receipt names another worker")]
    Worker,
    /// The worker did not sign this.
    #[error("the signature is not the worker's over this receipt")]
    Signature,
    /// The unit is not one of the package, at this place and with these outputs.
    #[error("the unit with these outputs is not at that place in the package")]
    Unit,
    /// There is no such output or chunk.
    #[error("the unit has no such chunk")]
    Absent,
    /// The chunk is not one of the output, at this place.
    #[error("the chunk is not at that place in the output")]
    Chunk,
    /// The bytes are not the chunk's.
    #[error("these are not the chunk's bytes")]
    Bytes,
}

impl Opening {
    /// Opens the unit at `place` of a package, which has these units in order. Nothing if there is no such place.
    pub fn of(
        receipt: Receipt,
        signature: Signature,
        units: Vec<(u64, Vec<OutputCommitment>)>,
        place: usize,
    ) -> Option<Self> {
        let job = receipt.job;
        let mut leaves: Vec<UnitLeaf> =
            units.into_iter().map(|(unit, outputs)| UnitLeaf::done(job, unit, outputs)).collect();
        let hashes: Vec<Hash> = leaves.iter().map(UnitLeaf::hash).collect();
        let path = merkle::proof(&hashes, place)?;
        let leaf = leaves.swap_remove(place);
        let (unit, outputs, place) = (leaf.unit, leaf.outputs, u32::try_from(place).ok()?);
        Some(Self { receipt, signature, unit, place, outputs, path, chunk: None })
    }

    /// Checks it: the worker, whose key is in the receipt and is to be `worker` where that is said, committed to these outputs of this
    /// unit for `market`, and to this chunk.
    ///
    /// # Errors
    ///
    /// What first does not hold.
    pub fn verify(&self, market: &PublicKey, worker: Option<&PublicKey>) -> Result<(), OpeningError> {
        let Self { receipt, signature, unit, place, outputs, path, chunk } = self;
        if receipt.market != *market {
            return Err(OpeningError::Market);
        }
        if worker.is_some_and(|worker| receipt.worker != *worker) {
            return Err(OpeningError::Worker);
        }
        receipt.worker.verify(receipt, signature).map_err(|_| OpeningError::Signature)?;
        let leaf = UnitLeaf::done(receipt.job, *unit, outputs.clone()).hash();
        let (place, units) = (u64::from(*place), u64::from(receipt.units));
        if !merkle::verify(&receipt.package_root, &leaf, place, units, path) {
            return Err(OpeningError::Unit);
        }
        let Some(ChunkOpening { output, index, leaf, path }) = chunk else { return Ok(()) };
        let output = outputs.get(*output as usize).ok_or(OpeningError::Absent)?;
        let chunks = output.length.div_ceil(CHUNK_BYTES as u64);
        if *index >= chunks {
            return Err(OpeningError::Absent);
        }
        let holds = merkle::verify(&output.chunk_root, leaf, *index, chunks, path);
        if holds { Ok(()) } else { Err(OpeningError::Chunk) }
    }
}

impl ChunkOpening {
    /// Opens chunk `index` of an output with these bytes. Nothing if there is no such chunk.
    pub fn of(output: u32, bytes: &[u8], index: u64) -> Option<Self> {
        let leaves: Vec<Hash> = bytes.chunks(CHUNK_BYTES).map(merkle::leaf_hash).collect();
        let place = usize::try_from(index).ok()?;
        let path = merkle::proof(&leaves, place)?;
        Some(Self { output, index, leaf: leaves[place], path })
    }

    /// Checks that the chunk is `bytes`.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn verify_bytes(&self, bytes: &[u8]) -> Result<(), OpeningError> {
        if merkle::leaf_hash(bytes) == self.leaf { Ok(()) } else { Err(OpeningError::Bytes) }
    }
}
