//! The journal on a server that speaks PostgreSQL's protocol.
//!
//! A group is one statement that commits by itself: it inserts only where the journal ends, and the key decides between two
//! that saw the same end. When the answer to it is lost, the key is asked: the chained checksum there tells whether the
//! group is ours. Sending it again is safe for the same reason, so a group is never written twice.

use std::time::{Duration, Instant};

use protocol::{Hash, PublicKey};
use tokio_postgres::{Row, error::SqlState};

use super::{Append, Group, Last, SCHEMA_VERSION, stored_checksum};
use crate::{
    ServerUrl, StoreError,
    server::{self, CALL_MAX, LONG_CALL_MAX, Outcome, Params, integer},
};

/// Bytes of events that one page of a replay aims at; a single group may be larger.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Groups of a page: at the first, and at most.
const PAGE_GROUPS: usize = 64;
const PAGE_GROUPS_MAX: usize = 4096;
/// Between an attempt whose end is unknown and the next.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

pub(super) struct Server {
    server: server::Server,
    /// The limit, and the bytes of all events so far.
    limit: Option<(u64, u64)>,
}

const TABLES: &[&str] = &["CREATE TABLE IF NOT EXISTS groups(
        market BYTEA NOT NULL,
        first_seq BIGINT NOT NULL,
        count BIGINT NOT NULL,
        at_ms BIGINT NOT NULL,
        encoding_version BIGINT NOT NULL,
        checksum BYTEA NOT NULL,
        events BYTEA NOT NULL,
        PRIMARY KEY(market, first_seq))"];

impl Server {
    pub(super) fn open(url: &ServerUrl) -> Result<Self, StoreError> {
        let opened = Self::open_reader(url)?;
        opened.server.prepare("journal", "journal", SCHEMA_VERSION, TABLES)?;
        Ok(opened)
    }

    pub(super) fn open_reader(url: &ServerUrl) -> Result<Self, StoreError> {
        Ok(Self { server: server::Server::connect(url)?, limit: None })
    }

    pub(super) fn set_bytes_max(
        &mut self,
        market: &PublicKey,
        bytes_max: Option<u64>,
    ) -> Result<(), StoreError> {
        self.limit = match bytes_max {
            None => None,
            Some(bytes_max) => {
                let sql = "SELECT CAST(coalesce(sum(octet_length(events)), 0) AS BIGINT) FROM groups WHERE market = $1";
                let rows = self
                    .server
                    .repeat(LONG_CALL_MAX, async |session| session.query(sql, &[&&market.0[..]]).await)?;
                let bytes: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
                Some((bytes_max, bytes.unsigned_abs()))
            }
        };
        Ok(())
    }

    pub(super) fn another_market(&self, market: &PublicKey) -> Result<Option<PublicKey>, StoreError> {
        let sql = "SELECT market FROM groups WHERE market <> $1 LIMIT 1";
        let rows =
            self.server.repeat(CALL_MAX, async |session| session.query(sql, &[&&market.0[..]]).await)?;
        let Some(row) = rows.first() else { return Ok(None) };
        let key = row.try_get::<_, &[u8]>(0)?.try_into();
        Ok(Some(PublicKey(
            key.map_err(|_| StoreError::Corrupt { seq: 0, detail: "a market is no key".into() })?,
        )))
    }

    pub(super) fn last(&self, market: &PublicKey) -> Result<Option<Last>, StoreError> {
        let sql =
            "SELECT first_seq, count, checksum FROM groups WHERE market = $1 ORDER BY first_seq DESC LIMIT 1";
        let rows =
            self.server.repeat(CALL_MAX, async |session| session.query(sql, &[&&market.0[..]]).await)?;
        let Some(row) = rows.first() else { return Ok(None) };
        let first_seq = unsigned(0, row.try_get(0)?)?;
        let count = unsigned(first_seq, row.try_get(1)?)?;
        Ok(Some((first_seq, count, stored_checksum(first_seq, row.try_get(2)?)?)))
    }

    pub(super) fn append(&mut self, market: &PublicKey, group: &Append<'_>) -> Result<(), StoreError> {
        let bytes = group.events.len() as u64;
        if let Some((bytes_max, held)) = self.limit
            && held.saturating_add(bytes) > bytes_max
        {
            return Err(StoreError::Full(None));
        }
        let taken = StoreError::Taken { seq: group.first_seq };
        let began = Instant::now();
        // Whether an attempt may have been done though no answer came.
        let mut unsure = false;
        loop {
            let error = match self.attempt(market, group, CALL_MAX.saturating_sub(began.elapsed())) {
                Attempt::Written => break,
                Attempt::Taken if !unsure => return Err(taken),
                Attempt::Refused(error) if !unsure => return Err(error),
                // By the earlier attempt, or by somebody else?
                Attempt::Taken => match self.is_ours(market, group) {
                    Ok(true) => break,
                    Ok(false) => return Err(taken),
                    Err(error) => error,
                },
                // A key that is still free proves nothing: the server may be busy with the earlier attempt. So it is sent
                // again until one of them has the place.
                Attempt::Refused(error) | Attempt::Unknown(error) => error,
            };
            unsure = true;
            if began.elapsed() >= CALL_MAX {
                return Err(StoreError::Unknown { seq: group.first_seq, source: Box::new(error) });
            }
            std::thread::sleep(AGAIN_AFTER);
        }
        if let Some((_, held)) = &mut self.limit {
            *held += bytes;
        }
        Ok(())
    }

    fn attempt(&self, market: &PublicKey, group: &Append<'_>, within: Duration) -> Attempt {
        // The casts tell the server the parameters' types where a bare SELECT would not.
        let sql = "INSERT INTO groups(market, first_seq, count, at_ms, encoding_version, checksum, events)
             SELECT CAST($1 AS BYTEA), CAST($2 AS BIGINT), CAST($3 AS BIGINT), CAST($4 AS BIGINT), CAST($5 AS BIGINT),
                CAST($6 AS BYTEA), CAST($7 AS BYTEA)
             WHERE CAST($2 AS BIGINT) = coalesce((SELECT first_seq + count FROM groups
                WHERE market = CAST($1 AS BYTEA) ORDER BY first_seq DESC LIMIT 1), 0)";
        let (first_seq, at_ms) = (integer(group.first_seq), integer(group.at_ms));
        let (count, version) = (i64::from(group.count), i64::from(group.encoding_version));
        let params: Params<'_> =
            &[&&market.0[..], &first_seq, &count, &at_ms, &version, &&group.checksum.0[..], &group.events];
        match self.server.once(within, async |session| session.execute(sql, params).await) {
            Outcome::Done(0) => Attempt::Taken,
            Outcome::Done(_) => Attempt::Written,
            Outcome::Refused(StoreError::Server(error))
                if error.code() == Some(&SqlState::UNIQUE_VIOLATION) =>
            {
                Attempt::Taken
            }
            Outcome::Refused(error) => Attempt::Refused(error),
            Outcome::Unknown(error) => Attempt::Unknown(error),
        }
    }

    fn is_ours(&self, market: &PublicKey, group: &Append<'_>) -> Result<bool, StoreError> {
        let sql = "SELECT checksum FROM groups WHERE market = $1 AND first_seq = $2";
        let first_seq = integer(group.first_seq);
        let rows = self
            .server
            .repeat(CALL_MAX, async |session| session.query(sql, &[&&market.0[..], &first_seq]).await)?;
        let Some(row) = rows.first() else { return Ok(false) };
        Ok(row.try_get::<_, &[u8]>(0)? == group.checksum.0)
    }

    /// The groups from the one before the one that holds `from_seq`.
    pub(super) fn read<E: From<StoreError>>(
        &self,
        market: &PublicKey,
        from_seq: u64,
        mut each: impl FnMut(Group, Hash) -> Result<(), E>,
    ) -> Result<(), E> {
        let sql =
            "SELECT coalesce((SELECT max(first_seq) FROM groups WHERE market = $1 AND first_seq < coalesce(
                (SELECT max(first_seq) FROM groups WHERE market = $1 AND first_seq <= $2), -1)), 0)";
        let from_seq = integer(from_seq);
        let rows = self
            .server
            .repeat(CALL_MAX, async |session| session.query(sql, &[&&market.0[..], &from_seq]).await)?;
        let first = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(StoreError::from)?;
        // Page by page, so that a broken connection costs a page and neither side holds the journal in memory.
        let (mut next, mut limit): (i64, usize) = (first, PAGE_GROUPS);
        let sql = "SELECT first_seq, count, at_ms, encoding_version, checksum, events FROM groups
             WHERE market = $1 AND first_seq >= $2 ORDER BY first_seq LIMIT $3";
        loop {
            let rows = self.server.repeat(LONG_CALL_MAX, async |session| {
                session.query(sql, &[&&market.0[..], &next, &(limit as i64)]).await
            })?;
            let (found, mut bytes) = (rows.len(), 0);
            for row in rows {
                let (group, stored) = read_group(&row)?;
                next = integer(group.first_seq) + 1;
                bytes += group.events.len();
                each(group, stored)?;
            }
            if found < limit {
                return Ok(());
            }
            limit = (PAGE_BYTES / (bytes / found).max(1)).clamp(1, PAGE_GROUPS_MAX);
        }
    }
}

/// How an attempt to append ended.
enum Attempt {
    Written,
    /// The journal does not end there.
    Taken,
    /// Nothing was done.
    Refused(StoreError),
    /// No answer came.
    Unknown(StoreError),
}

fn read_group(row: &Row) -> Result<(Group, Hash), StoreError> {
    let first_seq = unsigned(0, row.try_get(0)?)?;
    let group = Group {
        first_seq,
        count: unsigned(first_seq, row.try_get(1)?)?,
        at_ms: unsigned(first_seq, row.try_get(2)?)?,
        encoding_version: unsigned(first_seq, row.try_get(3)?)?,
        events: row.try_get(5)?,
    };
    Ok((group, stored_checksum(first_seq, row.try_get(4)?)?))
}

fn unsigned<T: TryFrom<i64>>(seq: u64, value: i64) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| StoreError::Corrupt { seq, detail: format!("{value} is out of range") })
}
