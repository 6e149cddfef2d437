//! The journal in an SQLite file: write-ahead log, synced at every commit.

use std::{path::Path, time::Duration};

use protocol::{Hash, PublicKey};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::{Append, Group, Last, SCHEMA_VERSION, stored_checksum};
use crate::StoreError;

const PAGE_BYTES: u64 = 4096;

pub(super) struct File {
    pub(super) connection: Connection,
}

impl File {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // FULL: the write-ahead log is synced at every commit, so that what was answered survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Long enough that checkpoints don't dominate, short enough (64 MiB) that the log stays small.
        connection.pragma_update(None, "wal_autocheckpoint", 16_384)?;
        let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > SCHEMA_VERSION {
            return Err(StoreError::Newer { what: "journal", found: version, supported: SCHEMA_VERSION });
        }
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS groups(
                market BLOB NOT NULL,
                first_seq INTEGER NOT NULL,
                count INTEGER NOT NULL,
                at_ms INTEGER NOT NULL,
                encoding_version INTEGER NOT NULL,
                checksum BLOB NOT NULL,
                events BLOB NOT NULL,
                PRIMARY KEY(market, first_seq));",
        )?;
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        Ok(Self { connection })
    }

    pub(super) fn open_reader(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.busy_timeout(Duration::from_secs(5))?;
        Ok(Self { connection })
    }

    pub(super) fn set_bytes_max(&mut self, bytes_max: Option<u64>) -> Result<(), StoreError> {
        // SQLite's own ceiling when there is no limit of ours.
        let pages = bytes_max.map_or(4_294_967_294, |bytes| (bytes / PAGE_BYTES).max(1));
        self.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        Ok(())
    }

    pub(super) fn another_market(&self, market: &PublicKey) -> Result<Option<PublicKey>, StoreError> {
        let sql = "SELECT market FROM groups WHERE market <> ?1 LIMIT 1";
        let found =
            self.connection.query_row(sql, [&market.0[..]], |row| row.get::<_, [u8; 32]>(0)).optional()?;
        Ok(found.map(PublicKey))
    }

    pub(super) fn last(&self, market: &PublicKey) -> Result<Option<Last>, StoreError> {
        let last = self
            .connection
            .query_row(
                "SELECT first_seq, count, checksum FROM groups WHERE market = ?1 ORDER BY first_seq DESC LIMIT 1",
                [&market.0[..]],
                |row| Ok((row.get::<_, u64>(0)?, row.get::<_, u32>(1)?, row.get::<_, Vec<u8>>(2)?)),
            )
            .optional()?;
        last.map(|(first_seq, count, checksum)| Ok((first_seq, count, stored_checksum(first_seq, checksum)?)))
            .transpose()
    }

    pub(super) fn append(&mut self, market: &PublicKey, group: &Append<'_>) -> Result<(), StoreError> {
        let first_seq = group.first_seq;
        let taken = |error: rusqlite::Error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::ConstraintViolation) => StoreError::Taken { seq: first_seq },
            _ => error.into(),
        };
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // The key refuses an equal first sequence; another leader's group may also begin elsewhere.
        let end: Option<u64> = transaction
            .prepare_cached(
                "SELECT first_seq + count FROM groups WHERE market = ?1 ORDER BY first_seq DESC LIMIT 1",
            )?
            .query_row([&market.0[..]], |row| row.get(0))
            .optional()?;
        if end.unwrap_or(0) != first_seq {
            return Err(StoreError::Taken { seq: first_seq });
        }
        transaction
            .prepare_cached(
                "INSERT INTO groups(market, first_seq, count, at_ms, encoding_version, checksum, events)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                &market.0[..],
                first_seq,
                group.count,
                group.at_ms,
                group.encoding_version,
                &group.checksum.0[..],
                group.events
            ])
            .map_err(taken)?;
        transaction.commit()?;
        Ok(())
    }

    /// The groups from the one before the one that holds `from_seq`.
    pub(super) fn read<E: From<StoreError>>(
        &self,
        market: &PublicKey,
        from_seq: u64,
        mut each: impl FnMut(Group, Hash) -> Result<(), E>,
    ) -> Result<(), E> {
        let sqlite = |error: rusqlite::Error| E::from(StoreError::from(error));
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT first_seq, count, at_ms, encoding_version, checksum, events FROM groups
                 WHERE market = ?1 AND first_seq >= coalesce(
                    (SELECT max(first_seq) FROM groups WHERE market = ?1 AND first_seq < coalesce(
                        (SELECT max(first_seq) FROM groups WHERE market = ?1 AND first_seq <= ?2), -1)), 0)
                 ORDER BY first_seq",
            )
            .map_err(sqlite)?;
        let mut rows = statement.query(params![&market.0[..], from_seq]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let (group, stored) = group(row)?;
            each(group, stored)?;
        }
        Ok(())
    }
}

fn group(row: &rusqlite::Row<'_>) -> Result<(Group, Hash), StoreError> {
    let group = Group {
        first_seq: row.get(0)?,
        count: row.get(1)?,
        at_ms: row.get(2)?,
        encoding_version: row.get(3)?,
        events: row.get(5)?,
    };
    let stored = stored_checksum(group.first_seq, row.get(4)?)?;
    Ok((group, stored))
}
