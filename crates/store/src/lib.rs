//! What a market keeps: the journal, who leads, the read model that follows the journal, snapshots, and the blobs.
//!
//! The [`Journal`] is the truth: groups of encoded events in order, one row a group, durable once `append` returns. The
//! [`ReadModel`] is an index over it for lists and statements, and [`Snapshots`] shorten its replay; both can be deleted and are
//! made again. [`Leaders`] tells the processes of one market about one another. All four are at a [`Location`]: SQLite files, or a
//! server that speaks PostgreSQL's protocol. The [`BlobStore`] holds inputs, kernels and outputs by the SHA-256 of their bytes,
//! in a folder or on S3, encrypted where there are [`BlobKeys`].
//!
//! The crate neither knows what an event means nor decides anything: the market hands it bytes and rows.

mod blob;
mod error;
mod journal;
mod leaders;
mod location;
mod read_model;
mod server;
mod snapshots;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use blob::{
    BlobInfo, BlobKeys, BlobKeysError, BlobOptions, BlobPlace, BlobReader, BlobStore, BlobUpload, Collected,
    Resealed, S3Options,
};
pub use error::{BlobError, StoreError};
pub use journal::{Group, Journal, JournalOptions};
pub use leaders::{LeaderRow, Leaders};
pub use location::{Location, ServerUrl};
pub use object_store::GetRange as ByteRange;
pub use read_model::{
    ArchivedRow, Batch, JobFilter, JobRow, Movement, MovementFilter, MovementKind, ReadModel, Trace,
    VerdictChange, VerdictFilter, VerdictRow, WorkerFilter, WorkerRow,
};
pub use snapshots::{Snapshot, Snapshots};
