//! What can go wrong with the disk, told apart by what a caller does about it.

use std::{error::Error, io};

use protocol::Hash;
use tokio_postgres::error::SqlState;

/// Why the journal or the read model failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room. Nothing was written; the same append succeeds once there is room. Without a source it is the configured limit.
    #[error("the disk or the configured size limit is full")]
    Full(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// Somebody else appended at this place: this process no longer leads the market.
    #[error("sequence {seq} of the journal is already taken")]
    Taken {
        /// Where the append should have begun.
        seq: u64,
    },
    /// Stored bytes are not what was written.
    #[error("the journal is damaged at sequence {seq}: {detail}")]
    Corrupt {
        /// First sequence of the damaged group.
        seq: u64,
        /// What does not fit.
        detail: String,
    },
    /// A row of the read model is not what this program writes. It can be deleted and is rebuilt.
    #[error("the read model holds {detail}")]
    Rows {
        /// What does not fit.
        detail: String,
    },
    /// Written by a newer version of the program.
    #[error("the {what} has format {found}, this program reads up to {supported}")]
    Newer {
        /// The file or row.
        what: &'static str,
        /// Its version.
        found: u32,
        /// The newest this program reads.
        supported: u32,
    },
    /// Anything else SQLite reports.
    #[error("SQLite failed")]
    Sqlite(#[source] rusqlite::Error),
    /// The text is no URL of a database.
    #[error("the database's URL cannot be used: {detail}")]
    Url {
        /// What does not fit.
        detail: String,
    },
    /// No connection, or no answer in time. It may help to wait.
    #[error("cannot reach the database at {at}")]
    Unreachable {
        /// The server and database, without a password.
        at: String,
        /// What the network or the server says.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server is there and refuses: a wrong password, a missing database, a missing right. Somebody has to set it right.
    #[error("the database at {at} refuses the login")]
    Denied {
        /// The server and database, without a password.
        at: String,
        /// What the server says.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server did not say whether the group is durable. It may be, or become so.
    #[error("it is unknown whether the group at sequence {seq} was written")]
    Unknown {
        /// Where the group begins.
        seq: u64,
        /// Why no answer came.
        #[source]
        source: Box<StoreError>,
    },
    /// Others kept changing the same rows.
    #[error("the transaction collided with others too often")]
    Busy(#[source] tokio_postgres::Error),
    /// Anything else the server reports.
    #[error("the database failed")]
    Server(#[source] tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            Some(code) if *code == SqlState::DISK_FULL => Self::Full(Some(error.into())),
            _ => Self::Server(error),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full(Some(error.into())),
            _ => Self::Sqlite(error),
        }
    }
}

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such blob.
    #[error("blob {0} is not there")]
    Unknown(Hash),
    /// The uploaded bytes are not the blob's.
    #[error("the bytes hash to {found}, not to {expected}")]
    Mismatch {
        /// The name it was uploaded under.
        expected: Hash,
        /// What its bytes hash to.
        found: Hash,
    },
    /// The stored bytes are no longer the blob's.
    #[error("blob {blob} is damaged: its bytes hash to {found} now")]
    Damaged {
        /// The blob.
        blob: Hash,
        /// What its bytes hash to.
        found: Hash,
    },
    /// The stored bytes are not those that were encrypted: changed, or another blob's.
    #[error("blob {blob} is damaged: it does not decrypt")]
    Tampered {
        /// The blob.
        blob: Hash,
    },
    /// Stored bytes are missing at the end.
    #[error("blob {blob} is damaged: its end is missing")]
    Truncated {
        /// The blob.
        blob: Hash,
    },
    /// Encrypted with a key that this store does not have.
    #[error("blob {blob} is encrypted, and its key{} is not among the blob keys", named(.key))]
    NoKey {
        /// The blob.
        blob: Hash,
        /// The key's id, if it was read.
        key: Option<String>,
    },
    /// Longer than a blob may be.
    #[error("a blob has at most {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// The disk or the configured total is full.
    #[error("there is no room for the blob")]
    Full(#[source] Option<object_store::Error>),
    /// The store failed.
    #[error("the blob store failed")]
    Io(#[source] object_store::Error),
}

fn named(key: &Option<String>) -> String {
    key.as_ref().map(|id| format!(" {id}")).unwrap_or_default()
}

impl From<object_store::Error> for BlobError {
    fn from(error: object_store::Error) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(current) = cause {
            if let Some(io) = current.downcast_ref::<io::Error>()
                && matches!(
                    io.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
                )
            {
                return Self::Full(Some(error));
            }
            cause = current.source();
        }
        Self::Io(error)
    }
}
