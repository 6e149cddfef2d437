//! Errors as RFC 9457 problem documents with stable codes and a fix.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, for programs (`code`) and people (`detail`, `fix`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `https://plexus.network/problems/<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short title for the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Stable code from [`code`].
    pub code: String,
    /// What happened this time.
    pub detail: String,
    /// What to do about it.
    pub fix: String,
    /// The field of the request, such as `manifest.program.passes[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Line in the text the field names, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column in that line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
}

impl Problem {
    /// A problem with a code of this crate; its status and title come from the code's table.
    pub fn new(code: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        let (status, title) = code::describe(code);
        Self {
            kind: format!("https://plexus.network/problems/{code}"),
            title: title.to_owned(),
            status,
            code: code.to_owned(),
            detail: detail.into(),
            fix: fix.into(),
            field: None,
            line: None,
            column: None,
        }
    }

    /// Names the field that is wrong.
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Names the place in the text that is wrong.
    pub fn at_line(mut self, line: Option<u32>, column: Option<u32>) -> Self {
        (self.line, self.column) = (line, column);
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, ": {}", self.fix) }
    }
}

impl std::error::Error for Problem {}

/// The stable codes.
pub mod code {
    macro_rules! codes {
        ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $title:literal;)*) => {
            $($(#[$doc])* pub const $name: &str = $code;)*

            /// All codes with status and title, for the documentation.
            pub const ALL: &[(&str, u16, &str)] = &[$(($code, $status, $title)),*];
        };
    }

    codes! {
        /// The body is not what the endpoint takes.
        REQUEST_INVALID = "request_invalid", 400, "The request is malformed";
        /// A body larger than the endpoint takes.
        REQUEST_TOO_LARGE = "request_too_large", 413, "The request is too large";
        /// A method that the path does not take.
        METHOD_NOT_ALLOWED = "method_not_allowed", 405, "The path does not take this method";
        /// The manifest breaks a rule.
        MANIFEST_INVALID = "manifest_invalid", 422, "The manifest is invalid";
        /// The WGSL does not compile.
        WGSL_INVALID = "wgsl_invalid", 422, "The WGSL does not compile";
        /// The WGSL's bindings are not the pass's.
        WGSL_BINDINGS = "wgsl_bindings", 422, "The WGSL has other bindings than its pass";
        /// The WGSL's overrides are not the manifest's.
        WGSL_OVERRIDES = "wgsl_overrides", 422, "The WGSL has other overrides than the manifest";
        /// A feature that the manifest does not declare or the network does not have.
        FEATURE_UNAVAILABLE = "feature_unavailable", 422, "A feature is not available";
        /// A dispatch without a value, or one that no device accepts.
        DISPATCH_INVALID = "dispatch_invalid", 422, "A dispatch is invalid";
        /// Larger than any device or this market allows.
        LIMITS_EXCEEDED = "limits_exceeded", 422, "A limit is exceeded";
        /// A blob that is named but not there.
        BLOB_UNKNOWN = "blob_unknown", 422, "A blob is not there";
        /// Bytes that do not hash to their name.
        BLOB_MISMATCH = "blob_mismatch", 422, "The bytes do not match their hash";
        /// A blob beyond the size limit.
        BLOB_TOO_LARGE = "blob_too_large", 413, "The blob is too large";
        /// A range outside the blob.
        RANGE_INVALID = "range_invalid", 416, "The range is outside the blob";
        /// No token, or one that ended.
        UNAUTHENTICATED = "unauthenticated", 401, "Log in first";
        /// The token's key may not do this.
        FORBIDDEN = "forbidden", 403, "Not allowed";
        /// A challenge that was used, ended or never given out.
        NONCE_INVALID = "nonce_invalid", 401, "The login challenge is not valid";
        /// A signature that does not hold.
        SIGNATURE_INVALID = "signature_invalid", 401, "The signature does not hold";
        /// No such thing.
        NOT_FOUND = "not_found", 404, "Not found";
        /// More than the account has.
        BALANCE_TOO_LOW = "balance_too_low", 402, "The balance is too low";
        /// More than the job's own cap.
        OVER_BUDGET = "over_budget", 422, "The job costs more than its budget";
        /// The lease ended before the receipt came.
        LEASE_EXPIRED = "lease_expired", 409, "The lease has ended";
        /// Somebody else's lease.
        LEASE_FOREIGN = "lease_foreign", 403, "The lease belongs to another worker";
        /// A receipt of an older generation.
        LEASE_STALE = "lease_stale", 409, "The lease has a newer generation";
        /// No such lease.
        LEASE_UNKNOWN = "lease_unknown", 404, "There is no such lease";
        /// A second receipt for one lease, with other content.
        RECEIPT_DUPLICATE = "receipt_duplicate", 409, "The lease already has a receipt";
        /// A receipt that does not fit its lease.
        RECEIPT_INVALID = "receipt_invalid", 422, "The receipt does not fit its lease";
        /// A second live process with one worker key.
        WORKER_KEY_IN_USE = "worker_key_in_use", 409, "Another worker uses this key";
        /// A worker that never announced itself, or left.
        WORKER_UNKNOWN = "worker_unknown", 409, "The worker is not announced";
        /// The job is not done, and only a whole result was asked for.
        RESULT_NOT_READY = "result_not_ready", 409, "The result is not complete yet";
        /// Nobody committed to the unit's results, or they are still being checked.
        PROOF_NOT_READY = "proof_not_ready", 409, "There is nothing to prove yet";
        /// The job is over.
        JOB_ENDED = "job_ended", 409, "The job has ended";
        /// A worker is rated once a job.
        RATED_BEFORE = "rated_before", 409, "The worker was rated before";
        /// The job did not end incomplete, so that nothing of it can go on.
        JOB_NOT_INCOMPLETE = "job_not_incomplete", 409, "The job did not end incomplete";
        /// A record of a sealing key that is not this worker's, market's or time's.
        SEALING_KEY_INVALID = "sealing_key_invalid", 422, "The sealing key is refused";
        /// Fewer providers than wanted that a job can be sealed to.
        PROVIDERS_TOO_FEW = "providers_too_few", 409, "Too few providers can take a sealed job";
        /// A reservation that ended, was used or never was.
        RESERVATION_ENDED = "reservation_ended", 409, "The reservation has ended";
        /// What only its recipients and its client can read.
        JOB_SEALED = "job_sealed", 409, "The job is sealed";
        /// The time to contest the verdict is over.
        VERDICT_FINAL = "verdict_final", 409, "The verdict is final";
        /// A verdict is contested once.
        CONTESTED_BEFORE = "contested_before", 409, "The verdict is contested already";
        /// One idempotency key for two different requests.
        IDEMPOTENCY_CONFLICT = "idempotency_conflict", 409, "The idempotency key was used for another request";
        /// One caller asks too much in too short a time.
        RATE_LIMITED = "rate_limited", 429, "Too many requests";
        /// The account has as much of something as it may have.
        QUOTA_EXCEEDED = "quota_exceeded", 403, "A quota is exceeded";
        /// Too much at once.
        OVERLOADED = "overloaded", 503, "The market is overloaded";
        /// The disk is full or the store failed; nothing was accepted.
        STORAGE_UNAVAILABLE = "storage_unavailable", 503, "The store cannot write";
        /// No process leads the market; nothing was accepted.
        NO_LEADER = "no_leader", 503, "No process leads the market";
        /// The answer was lost on its way: it may have been done.
        OUTCOME_UNKNOWN = "outcome_unknown", 502, "It is unknown whether it was done";
        /// There is no faucet here.
        NO_FAUCET = "no_faucet", 403, "This market gives out no test tokens";
        /// A defect of ours.
        INTERNAL = "internal", 500, "Internal error";
    }

    /// Status and title of a code.
    pub fn describe(code: &str) -> (u16, &'static str) {
        ALL.iter()
            .find(|(c, ..)| *c == code)
            .map_or((500, "Internal error"), |(_, status, title)| (*status, title))
    }
}
