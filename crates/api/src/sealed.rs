//! Sealed jobs: sealing keys, reservations, envelopes.

use protocol::{Amount, Envelope, Manifest, PublicKey, ReservationId, SignedSealingKey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Time, one};

/// `POST /v1/workers/{id}/sealing-key`: what can be sealed to a worker, until it announces itself anew.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SealingKeyRequest {
    /// As announced.
    pub instance: String,
    /// The record, signed by the worker.
    pub sealing_key: SignedSealingKey,
}

/// `POST /v1/reservations`: keeps workers for a job that is about to be sealed to them. It is asked before the job's inputs are
/// sealed or uploaded.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReservationRequest {
    /// What a unit computes; its kernels must have been uploaded.
    pub manifest: Manifest,
    /// How many units.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub units: u64,
    /// What one unit will pay; the market's price of this moment when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_price: Option<Amount>,
    /// Owners that compute each unit at the same time.
    #[serde(default = "one")]
    pub replicas: u32,
    /// How many workers, each of another owner: those who compute and check a unit, and one more, at most 16.
    pub providers: u32,
    /// Choose among these workers alone; among all when empty. At most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<PublicKey>,
    /// For how long they are kept, in seconds, at most 300.
    pub hold_s: u32,
}

/// Workers that take no new work until the job comes or the time is over.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Reservation {
    /// Names it in the job.
    pub id: ReservationId,
    /// What to seal to. Check the signatures: the market could write anything here.
    pub recipients: Vec<SignedSealingKey>,
    /// What the job will hold: every unit, the checks that its policy may draw, and a third opinion of each unit.
    pub escrow: Amount,
    /// Until when they are kept.
    pub expires_at: Time,
}

/// Whom a job is sealed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedRequest {
    /// The reservation, which ends with the submission.
    pub reservation: ReservationId,
    /// One for each of its workers.
    pub envelopes: Vec<WorkerEnvelope>,
}

/// A job's content key, sealed to one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkerEnvelope {
    /// The worker.
    pub worker: PublicKey,
    /// The encapsulated key and the sealed one.
    pub envelope: Envelope,
}
