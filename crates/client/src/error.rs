//! Why a call did not succeed.

use api::Problem;
use protocol::Hash;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The market's address is not one.
    #[error(
        "{address:?} is not the address of a market ({reason}); expected something like http://127.0.0.1:7700"
    )]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The HTTP client could not be made.
    #[error("cannot set up HTTP: {source}")]
    Setup {
        /// By reqwest.
        source: reqwest::Error,
    },
    /// Certificate authorities that are none.
    #[error("there is no certificate in PEM among the certificate authorities")]
    NoCertificate,
    /// No answer from the market.
    #[error("the market at {market} does not answer: {}", root_cause(source))]
    Unreachable {
        /// Its address.
        market: String,
        /// By reqwest.
        source: reqwest::Error,
    },
    /// The market said no.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// An answer that does not follow the contract.
    #[error("the market at {market} answered {call} with something unexpected: {reason}")]
    Answer {
        /// Its address.
        market: String,
        /// Method and path.
        call: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The market asked for a signature over a text that we do not sign.
    #[error("refused to sign the market's login message: {reason}")]
    LoginMessage {
        /// What is wrong with the message.
        reason: String,
    },
    /// A call that acts for somebody, on a client without a key.
    #[error("this call needs a key to log in with")]
    NoKey,
    /// Bytes that do not hash to their name.
    #[error("blob {wanted} arrived with other bytes (they hash to {found})")]
    BlobMismatch {
        /// The blob asked for.
        wanted: Hash,
        /// What its bytes hash to.
        found: Hash,
    },
    /// A blob larger than the caller takes.
    #[error("blob {blob} has {length} bytes and at most {length_max} are taken")]
    BlobTooLarge {
        /// The blob.
        blob: Hash,
        /// Its length.
        length: u64,
        /// The most the caller takes.
        length_max: u64,
    },
}

impl Error {
    /// The problem's stable code, if the market answered with a problem.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// Whether the market's certificate is not trusted.
    pub fn is_untrusted(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if is_certificate(source))
    }

    /// Whether the same call may succeed later without anybody changing anything: the market does not answer, or is
    /// overloaded, or its store cannot write.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Problem(problem) => matches!(problem.status, 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

/// Whether the market's certificate was the reason.
fn is_certificate(error: &reqwest::Error) -> bool {
    root_cause(error).contains("certificate")
}

/// reqwest's own texts repeat the address; the innermost cause says what happened.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it took too long".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
