//! What can go wrong with the disk, told apart by what a caller does about it.

use std::{error::Error, io};

use protocol::Hash;

/// Why the journal or the read model failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room. Nothing was written; the same append succeeds once there is room.
    #[error("the disk or the configured size limit is full")]
    Full(#[source] rusqlite::Error),
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
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full(error),
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
