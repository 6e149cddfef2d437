//! The journal: every fact a market believes, in order, one row a committed group.
//!
//! A group's key is `(market, first sequence)`. That key is the fence: of two processes that believe they lead a market,
//! one finds the place taken and steps down. Each row carries a checksum over its content *and the checksum before it*, so
//! that a changed, missing or swapped group is found when the journal is read.
//!
//! Bytes go in and come out; what they encode is the caller's business, told by `encoding_version`.

use std::{path::Path, time::Duration};

use protocol::{Hash, PublicKey};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::StoreError;

/// Version of the tables, in SQLite's `user_version`.
const SCHEMA_VERSION: u32 = 1;
const PAGE_BYTES: u64 = 4096;

/// How a journal is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct JournalOptions {
    /// Most bytes the file may take; no limit but the disk when absent. At the limit appends fail with [`StoreError::Full`].
    pub bytes_max: Option<u64>,
}

/// One committed group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Sequence of the first event.
    pub first_seq: u64,
    /// How many events.
    pub count: u32,
    /// When it was decided.
    pub at_ms: u64,
    /// How the events are encoded.
    pub encoding_version: u32,
    /// The encoded events, one after the other.
    pub events: Vec<u8>,
}

/// An open journal of one market. One writer; any number of readers.
pub struct Journal {
    connection: Connection,
    market: PublicKey,
    next_seq: u64,
    head: Hash,
}

impl Journal {
    /// Opens the file for writing and creates it where there is none. The first sequence is 0.
    pub fn open(path: &Path, market: &PublicKey, options: JournalOptions) -> Result<Self, StoreError> {
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
        let mut journal = Self { connection, market: *market, next_seq: 0, head: Hash([0; 32]) };
        journal.set_bytes_max(options.bytes_max)?;
        journal.find_head()?;
        Ok(journal)
    }

    /// Opens the file for reading beside a writer.
    pub fn open_reader(path: &Path, market: &PublicKey) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.busy_timeout(Duration::from_secs(5))?;
        Ok(Self { connection, market: *market, next_seq: 0, head: Hash([0; 32]) })
    }

    /// Sets the most bytes the file may take. A limit below its present size stops growth, nothing else.
    pub fn set_bytes_max(&mut self, bytes_max: Option<u64>) -> Result<(), StoreError> {
        // SQLite's own ceiling when there is no limit of ours.
        let pages = bytes_max.map_or(4_294_967_294, |bytes| (bytes / PAGE_BYTES).max(1));
        self.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        Ok(())
    }

    /// The sequence the next appended event gets.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Whether the file holds the journal of another market: this one's key was perhaps lost.
    pub fn holds_another_market(&self) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS(SELECT 1 FROM groups WHERE market <> ?1)";
        Ok(self.connection.query_row(sql, [&self.market.0[..]], |row| row.get(0))?)
    }

    /// Looks again where the journal ends, for a writer that is unsure after a failure.
    pub fn find_head(&mut self) -> Result<(), StoreError> {
        let last = self
            .connection
            .query_row(
                "SELECT first_seq, count, checksum FROM groups WHERE market = ?1 ORDER BY first_seq DESC LIMIT 1",
                [&self.market.0[..]],
                |row| Ok((row.get::<_, u64>(0)?, row.get::<_, u32>(1)?, row.get::<_, Vec<u8>>(2)?)),
            )
            .optional()?;
        (self.next_seq, self.head) = match last {
            None => (0, Hash([0; 32])),
            Some((first_seq, count, checksum)) => {
                (first_seq + u64::from(count), stored_checksum(first_seq, checksum)?)
            }
        };
        Ok(())
    }

    /// Writes a group durably. Nothing is written when it fails.
    ///
    /// # Errors
    ///
    /// [`StoreError::Taken`] if somebody else appended since this journal was opened, [`StoreError::Full`] without room.
    ///
    /// # Panics
    ///
    /// If the group is empty, or `first_seq` is not where this journal ends: the caller has lost count of its own events.
    pub fn append(
        &mut self,
        first_seq: u64,
        at_ms: u64,
        count: u32,
        encoding_version: u32,
        events: &[u8],
    ) -> Result<(), StoreError> {
        assert!(count > 0, "a group has at least one event");
        assert_eq!(first_seq, self.next_seq, "groups follow one another without gaps");
        let checksum = checksum(&self.head, first_seq, count, at_ms, encoding_version, events);
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
            .query_row([&self.market.0[..]], |row| row.get(0))
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
                &self.market.0[..],
                first_seq,
                count,
                at_ms,
                encoding_version,
                &checksum.0[..],
                events
            ])
            .map_err(taken)?;
        transaction.commit()?;
        self.next_seq = first_seq + u64::from(count);
        self.head = checksum;
        Ok(())
    }

    /// Reads the groups from the one that holds `from_seq`, in order, and checks that none is damaged or missing. Stops at
    /// the first error of `visit`.
    pub fn replay<E: From<StoreError>>(
        &self,
        from_seq: u64,
        mut visit: impl FnMut(Group) -> Result<(), E>,
    ) -> Result<(), E> {
        let sqlite = |error: rusqlite::Error| E::from(StoreError::from(error));
        // The group before the first one read vouches for it.
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
        let mut rows = statement.query(params![&self.market.0[..], from_seq]).map_err(sqlite)?;
        let mut before: Option<(u64, Hash)> = None;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let (group, stored) = read_group(row)?;
            let seq = group.first_seq;
            let end = seq + u64::from(group.count);
            let (expected, previous) = match before {
                Some(before) => before,
                None if seq == 0 => (0, Hash([0; 32])),
                // Read for its checksum alone.
                None if end <= from_seq => {
                    before = Some((end, stored));
                    continue;
                }
                None => (0, Hash([0; 32])),
            };
            let corrupt = |detail: String| E::from(StoreError::Corrupt { seq, detail });
            if seq != expected {
                return Err(corrupt(format!("the events from {expected} on are missing")));
            }
            if checksum(&previous, seq, group.count, group.at_ms, group.encoding_version, &group.events)
                != stored
            {
                return Err(corrupt("the checksum does not match".into()));
            }
            before = Some((end, stored));
            if end > from_seq {
                visit(group)?;
            }
        }
        Ok(())
    }
}

fn read_group<E: From<StoreError>>(row: &rusqlite::Row<'_>) -> Result<(Group, Hash), E> {
    let read = || -> Result<(Group, Vec<u8>), rusqlite::Error> {
        let group = Group {
            first_seq: row.get(0)?,
            count: row.get(1)?,
            at_ms: row.get(2)?,
            encoding_version: row.get(3)?,
            events: row.get(5)?,
        };
        Ok((group, row.get(4)?))
    };
    let (group, stored) = read().map_err(StoreError::from)?;
    let stored = stored_checksum(group.first_seq, stored)?;
    Ok((group, stored))
}

fn stored_checksum(seq: u64, bytes: Vec<u8>) -> Result<Hash, StoreError> {
    let bytes = bytes
        .try_into()
        .map_err(|_| StoreError::Corrupt { seq, detail: "the checksum is not a hash".into() })?;
    Ok(Hash(bytes))
}

fn checksum(previous: &Hash, first_seq: u64, count: u32, at_ms: u64, version: u32, events: &[u8]) -> Hash {
    Hash::of_parts(&[
        &previous.0,
        &first_seq.to_le_bytes(),
        &count.to_le_bytes(),
        &at_ms.to_le_bytes(),
        &version.to_le_bytes(),
        events,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKET: PublicKey = PublicKey([7; 32]);

    fn open(folder: &Path) -> Journal {
        Journal::open(&folder.join("journal.db"), &MARKET, JournalOptions::default()).expect("opens")
    }

    fn groups(journal: &Journal, from: u64) -> Result<Vec<Group>, StoreError> {
        let mut groups = vec![];
        journal.replay(from, |group| {
            groups.push(group);
            Ok::<_, StoreError>(())
        })?;
        Ok(groups)
    }

    fn three_groups(folder: &Path) -> Journal {
        let mut journal = open(folder);
        journal.append(0, 100, 2, 1, b"aabb").expect("room");
        journal.append(2, 101, 1, 1, b"cc").expect("room");
        journal.append(3, 102, 3, 1, b"ddeeff").expect("room");
        journal
    }

    #[test]
    fn what_was_appended_is_read_again_from_any_place() {
        let folder = tempfile::tempdir().expect("a folder");
        drop(three_groups(folder.path()));
        let journal = open(folder.path());
        assert_eq!(journal.next_seq(), 6);
        for (from, firsts) in
            [(0, vec![0, 2, 3]), (1, vec![0, 2, 3]), (2, vec![2, 3]), (3, vec![3]), (5, vec![3]), (6, vec![])]
        {
            let found: Vec<_> = groups(&journal, from).expect("intact").iter().map(|g| g.first_seq).collect();
            assert_eq!(found, firsts, "from {from}");
        }
        assert_eq!(groups(&journal, 2).expect("intact")[0].events, b"cc");
    }

    #[test]
    fn of_two_leaders_one_append_fails() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut first, mut second) = (open(folder.path()), open(folder.path()));
        first.append(0, 0, 1, 1, b"a").expect("the place is free");
        assert!(matches!(second.append(0, 0, 1, 1, b"b"), Err(StoreError::Taken { seq: 0 })));
        // One that begins elsewhere is refused too: the second leader counts from an older end.
        first.append(1, 0, 3, 1, b"abc").expect("the place is free");
        second.find_head().expect("readable");
        second.append(4, 0, 1, 1, b"d").expect("it found the end again");
        assert!(matches!(first.append(4, 0, 1, 1, b"e"), Err(StoreError::Taken { seq: 4 })));
        assert_eq!(groups(&first, 0).expect("intact").len(), 3);
    }

    #[test]
    fn a_full_journal_writes_nothing_and_works_again_with_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = open(folder.path());
        journal.append(0, 0, 1, 1, b"a").expect("room");
        journal.set_bytes_max(Some(64 * 1024)).expect("a limit");
        assert!(matches!(journal.append(1, 0, 1, 1, &[0; 200_000]), Err(StoreError::Full(_))));
        assert_eq!(journal.next_seq(), 1);
        assert_eq!(groups(&journal, 0).expect("intact").len(), 1);
        journal.append(1, 0, 1, 1, b"b").expect("a small group still fits");
        journal.set_bytes_max(None).expect("no limit");
        journal.append(2, 0, 1, 1, &[0; 200_000]).expect("room again");
        assert_eq!(groups(&open(folder.path()), 0).expect("intact").len(), 3);
    }

    #[test]
    fn damage_is_found_and_names_its_place() {
        for (damage, seq) in [
            ("UPDATE groups SET events = x'00' WHERE first_seq = 2", 2),
            ("UPDATE groups SET at_ms = 5 WHERE first_seq = 3", 3),
            ("DELETE FROM groups WHERE first_seq = 2", 3),
            ("UPDATE groups SET checksum = x'01' WHERE first_seq = 0", 0),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let journal = three_groups(folder.path());
            journal.connection.execute(damage, []).expect("damaged");
            match groups(&journal, 0) {
                Err(StoreError::Corrupt { seq: found, .. }) => assert_eq!(found, seq, "{damage}"),
                other => panic!("{damage}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_newer_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        open(folder.path()).connection.pragma_update(None, "user_version", 9).expect("written");
        let opened = Journal::open(&folder.path().join("journal.db"), &MARKET, JournalOptions::default());
        assert!(matches!(opened.err(), Some(StoreError::Newer { found: 9, supported: 1, .. })));
    }

    #[test]
    fn a_reader_sees_what_the_writer_appends() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = open(folder.path());
        let reader = Journal::open_reader(&folder.path().join("journal.db"), &MARKET).expect("opens");
        assert!(groups(&reader, 0).expect("intact").is_empty());
        writer.append(0, 0, 1, 1, b"a").expect("room");
        assert_eq!(groups(&reader, 0).expect("intact").len(), 1);
    }
}
