//! Every refusal as a problem document: which code, in which words, with which fix.

use api::{PROBLEM_JSON, Problem, code};
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use engine::Rejection;
use store::{BlobError, StoreError};

use crate::committer::Refusal;

/// A problem document as an answer.
#[derive(Debug)]
pub struct Failure(Box<Problem>, Option<u64>);

/// The code of an answer's problem, for whoever counts answers.
#[derive(Clone, Copy, Debug)]
pub struct ProblemCode(pub &'static str);

impl Failure {
    /// A problem with a code of the contract.
    pub fn new(code: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail, fix)), None)
    }

    /// Says after how many seconds to come back.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.1 = Some(seconds);
        self
    }

    /// Names the field at fault.
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// A defect of ours. The cause is logged and not told.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::new(
            code::INTERNAL,
            "the market made a mistake",
            "try again; if it stays, report it with the time it happened",
        )
    }

    /// The problem itself.
    pub fn into_problem(self) -> Problem {
        *self.0
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem), None)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body(&self.0)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let soon = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        if let Some(seconds) = self.1.or(soon) {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let known = code::ALL.iter().find(|(code, ..)| *code == self.0.code);
        response.extensions_mut().insert(ProblemCode(known.map_or(code::INTERNAL, |(code, ..)| code)));
        response
    }
}

fn body(problem: &Problem) -> Vec<u8> {
    serde_json::to_vec(problem).expect("a problem has string keys")
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Rejected(rejection) => rejection.into(),
            Refusal::Overloaded => Self::new(
                code::OVERLOADED,
                "more requests wait than the market takes at once",
                "try again in a second, with fewer requests at once",
            ),
            Refusal::Unavailable => Self::new(
                code::STORAGE_UNAVAILABLE,
                "the journal could not be written; nothing was changed",
                "try again; the operator must make room on the market's disk",
            ),
            Refusal::Unknown => Self::new(
                code::OUTCOME_UNKNOWN,
                "the database did not say whether the journal was written; what was asked may have been done",
                "look whether it was done before asking again, or repeat the same request with the same idempotency key",
            ),
            Refusal::NotLeading => Self::new(
                code::NO_LEADER,
                "another process takes over the market; nothing was changed",
                "try again in a second",
            ),
            Refusal::Stopped => {
                Self::new(code::STORAGE_UNAVAILABLE, "the market is stopping", "try again when it is back")
            }
        }
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        let (code, fix) = rejection_code(&rejection);
        let fix = match &rejection {
            Rejection::WorkerKeyInUse { free_after_ms, .. } => format!(
                "stop the other worker, use another key, or wait {free_after_ms} ms until the other counts as gone"
            ),
            _ => fix.to_owned(),
        };
        Self::new(code, rejection.to_string(), fix)
    }
}

fn rejection_code(rejection: &Rejection) -> (&'static str, &'static str) {
    match rejection {
        Rejection::JobUnknown(_) => (code::NOT_FOUND, "list the jobs with GET /v1/jobs"),
        Rejection::JobForeign(_) => (code::FORBIDDEN, "log in with the wallet that submitted the job"),
        Rejection::JobNotIncomplete(_) => {
            (code::JOB_NOT_INCOMPLETE, "only a job that ended incomplete can go on; submit it again")
        }
        Rejection::JobEnded(_) | Rejection::JobArchived(_) | Rejection::JobNotArchivable(_) => {
            (code::JOB_ENDED, "submit a new job")
        }
        Rejection::SpecInvalid(_) => (code::REQUEST_INVALID, "correct the job"),
        Rejection::OverBudget { .. } => {
            (code::OVER_BUDGET, "raise the budget, lower the unit price, or ask for fewer checks")
        }
        Rejection::BalanceTooLow { .. } => (code::BALANCE_TOO_LOW, "deposit tokens, or lower the unit price"),
        Rejection::AmountTooLarge => (code::REQUEST_INVALID, "use a smaller amount"),
        Rejection::IdempotencyConflict => (code::IDEMPOTENCY_CONFLICT, "use a new key for a new request"),
        Rejection::SessionInvalid(_) => {
            (code::UNAUTHENTICATED, "have the wallet delegate a new session key, and log in again")
        }
        Rejection::WorkerKeyInUse { .. } => (code::WORKER_KEY_IN_USE, ""),
        Rejection::WorkerUnknown => (code::WORKER_UNKNOWN, "announce the worker again with POST /v1/workers"),
        Rejection::LeaseUnknown(_) => (code::LEASE_UNKNOWN, "ask for a lease with POST /v1/leases"),
        Rejection::LeaseExpired(_) => (
            code::LEASE_EXPIRED,
            "send heartbeats that name the lease while working, and ask for a new lease",
        ),
        Rejection::LeaseForeign(_) => {
            (code::LEASE_FOREIGN, "use the lease with the key that it was granted to")
        }
        Rejection::LeaseStale { .. } => {
            (code::LEASE_STALE, "drop the result; the units were given out again")
        }
        Rejection::ReceiptDuplicate(_) => (code::RECEIPT_DUPLICATE, "send one receipt a lease"),
        Rejection::ReceiptInvalid(_) => {
            (code::RECEIPT_INVALID, "make the receipt from the lease as it was granted")
        }
        Rejection::StakeTooLow { .. } => (code::BALANCE_TOO_LOW, "name a smaller amount"),
        Rejection::StakeInvalid(_) | Rejection::ParamInvalid(_) => {
            (code::REQUEST_INVALID, "correct the request")
        }
        Rejection::RatingInvalid(_) => {
            (code::REQUEST_INVALID, "rate the workers that the job shows, with 1 to 5 stars")
        }
        Rejection::RatedBefore { .. } => (code::RATED_BEFORE, "a worker is rated once a job"),
        Rejection::SealingKeyInvalid(_) => {
            (code::SEALING_KEY_INVALID, "sign a record for this market, with a later end")
        }
        Rejection::ProvidersTooFew(_) => (
            code::PROVIDERS_TOO_FEW,
            "ask for fewer providers, or again when more are there; `plexus worker` gives a sealing key by itself",
        ),
        Rejection::BookingsTooMany(_) => {
            (code::QUOTA_EXCEEDED, "submit the jobs that the reservations are for, or end them")
        }
        Rejection::ReservationUnknown(_) => {
            (code::RESERVATION_ENDED, "reserve providers again with POST /v1/reservations")
        }
        Rejection::ReservationForeign(_) => {
            (code::FORBIDDEN, "log in with the wallet that made the reservation")
        }
        Rejection::VerdictUnknown(_) => (code::NOT_FOUND, "list the verdicts with GET /v1/verdicts"),
        Rejection::VerdictForeign(_) => (code::FORBIDDEN, "log in with the wallet of the accused worker"),
        Rejection::VerdictFinal(_) => (code::VERDICT_FINAL, "see what became of it"),
        Rejection::ContestedBefore(_) => {
            (code::CONTESTED_BEFORE, "wait for what those find who execute the units again")
        }
        Rejection::DepositTooLow { .. } => (code::BALANCE_TOO_LOW, "deposit tokens"),
        Rejection::NotTheMarket => (code::FORBIDDEN, "log in with the market's key"),
        Rejection::CheckNotPending(_) => (code::REQUEST_INVALID, "the check was decided meanwhile"),
    }
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        match &error {
            BlobError::Unknown(_) => Self::new(code::NOT_FOUND, error.to_string(), "upload the blob first"),
            BlobError::Mismatch { .. } => {
                Self::new(code::BLOB_MISMATCH, error.to_string(), "name the blob by the SHA-256 of its bytes")
            }
            BlobError::TooLarge { .. } => {
                Self::new(code::BLOB_TOO_LARGE, error.to_string(), "split the data over several blobs")
            }
            BlobError::Full(_) => Self::new(
                code::STORAGE_UNAVAILABLE,
                "there is no room for the blob; nothing was stored",
                "try again; the operator must make room on the market's disk",
            ),
            BlobError::Damaged { .. } | BlobError::Tampered { .. } | BlobError::Truncated { .. } => {
                tracing::error!(%error, "blob store");
                Self::new(
                    code::STORAGE_UNAVAILABLE,
                    error.to_string(),
                    "try again; the operator must restore the blob's file from a copy",
                )
            }
            BlobError::NoKey { .. } => {
                tracing::error!(%error, "blob store");
                Self::new(
                    code::STORAGE_UNAVAILABLE,
                    "the blob is encrypted with a key that the market does not have",
                    "try again; the operator must add the key to the blob keys",
                )
            }
            BlobError::Io(source) => {
                tracing::error!(%error, cause = %source, "blob store");
                Self::new(code::STORAGE_UNAVAILABLE, "the blob store failed", "try again")
            }
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        tracing::error!(cause = %Causes(&error), "store");
        Self::new(code::STORAGE_UNAVAILABLE, "the store failed", "try again")
    }
}

/// An error with what caused it, on one line.
pub struct Causes<'a>(pub &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(current) = cause {
            write!(f, ": {current}")?;
            cause = current.source();
        }
        Ok(())
    }
}
