//! Snapshots: the state of a market as of some place in its journal, so that a start need not replay all of it.
//!
//! A snapshot is only ever a shortcut. The newest two are kept, each with a checksum; one that is damaged or incomplete is passed
//! over for the one before, and without any the journal is replayed from its beginning. Bytes go in and come out; what they
//! encode is told by `format_version`.
//!
//! In a file they have to themselves: SQLite has one writer at a time, and a large snapshot beside the journal would hold
//! appends up. On a server they lie beside the journal.

use protocol::{Hash, PublicKey};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    Location, StoreError,
    server::{CALL_MAX, LONG_CALL_MAX, Server, integer},
};

/// Version of the tables.
const SCHEMA_VERSION: u32 = 1;
/// Bytes of a row: what both a server's protocol and its storage take without complaint.
const CHUNK_BYTES: usize = 1024 * 1024;
/// How many are kept: the newest, and one should it be damaged.
const KEPT: i64 = 2;

/// A state that was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The first journal sequence that is not in it.
    pub seq: u64,
    /// How the bytes encode the state.
    pub format_version: u32,
    /// The encoded state.
    pub bytes: Vec<u8>,
}

/// The snapshots of one market.
pub struct Snapshots {
    backend: Backend,
    market: PublicKey,
}

enum Backend {
    File(Connection),
    Server(Server),
}

/// What is known of a snapshot before it is read.
struct Header {
    seq: u64,
    format_version: u32,
    bytes: u64,
    chunks: u64,
    checksum: Vec<u8>,
}

impl Snapshot {
    fn checksum(&self) -> Hash {
        checksum(self.seq, self.format_version, &self.bytes)
    }
}

fn checksum(seq: u64, format_version: u32, bytes: &[u8]) -> Hash {
    Hash::of_parts(&[&seq.to_le_bytes(), &format_version.to_le_bytes(), bytes])
}

impl Snapshots {
    /// Opens the tables and creates them where there are none.
    pub fn open(location: impl Into<Location>, market: &PublicKey) -> Result<Self, StoreError> {
        let backend = match location.into() {
            Location::File(path) => {
                let connection = Connection::open(path)?;
                connection.busy_timeout(CALL_MAX)?;
                connection.pragma_update(None, "journal_mode", "WAL")?;
                // One that a power cut takes is made again.
                connection.pragma_update(None, "synchronous", "NORMAL")?;
                let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
                if version > SCHEMA_VERSION {
                    return Err(StoreError::Newer {
                        what: "file of snapshots",
                        found: version,
                        supported: SCHEMA_VERSION,
                    });
                }
                connection.execute_batch(
                    "CREATE TABLE IF NOT EXISTS snapshots(
                        market BLOB NOT NULL, seq INTEGER NOT NULL, format_version INTEGER NOT NULL, bytes INTEGER NOT NULL,
                        chunks INTEGER NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY(market, seq));
                     CREATE TABLE IF NOT EXISTS snapshot_chunks(
                        market BLOB NOT NULL, seq INTEGER NOT NULL, part INTEGER NOT NULL, bytes BLOB NOT NULL,
                        PRIMARY KEY(market, seq, part));",
                )?;
                connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
                Backend::File(connection)
            }
            Location::Server(url) => {
                let server = Server::connect(&url)?;
                server.prepare(
                    "table of snapshots",
                    "snapshots",
                    SCHEMA_VERSION,
                    &[
                        "CREATE TABLE IF NOT EXISTS snapshots(
                            market BYTEA NOT NULL, seq BIGINT NOT NULL, format_version BIGINT NOT NULL, bytes BIGINT NOT NULL,
                            chunks BIGINT NOT NULL, checksum BYTEA NOT NULL, PRIMARY KEY(market, seq))",
                        "CREATE TABLE IF NOT EXISTS snapshot_chunks(
                            market BYTEA NOT NULL, seq BIGINT NOT NULL, part BIGINT NOT NULL, bytes BYTEA NOT NULL,
                            PRIMARY KEY(market, seq, part))",
                    ],
                )?;
                Backend::Server(server)
            }
        };
        Ok(Self { backend, market: *market })
    }

    /// Saves the state before `seq` in one transaction, and deletes all but the newest two. The same place again replaces it.
    pub fn save(&mut self, seq: u64, format_version: u32, bytes: &[u8]) -> Result<(), StoreError> {
        let checksum = checksum(seq, format_version, bytes);
        let market = &self.market.0[..];
        let chunks = bytes.chunks(CHUNK_BYTES);
        match &mut self.backend {
            Backend::File(connection) => {
                let transaction = connection.transaction()?;
                transaction.execute(
                    "DELETE FROM snapshot_chunks WHERE market = ?1 AND seq = ?2",
                    params![market, seq],
                )?;
                transaction
                    .execute("DELETE FROM snapshots WHERE market = ?1 AND seq = ?2", params![market, seq])?;
                transaction.execute(
                    "INSERT INTO snapshots(market, seq, format_version, bytes, chunks, checksum)
                     VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
                    params![market, seq, format_version, bytes.len(), chunks.len(), &checksum.0[..]],
                )?;
                for (part, chunk) in chunks.enumerate() {
                    transaction
                        .prepare_cached(
                            "INSERT INTO snapshot_chunks(market, seq, part, bytes) VALUES(?1, ?2, ?3, ?4)",
                        )?
                        .execute(params![market, seq, part, chunk])?;
                }
                for sql in [DELETE_OLD_CHUNKS, DELETE_OLD] {
                    transaction.execute(&sql.replace('$', "?"), params![market, KEPT])?;
                }
                transaction.commit()?;
                Ok(())
            }
            Backend::Server(server) => {
                let (seq, version) = (integer(seq), i64::from(format_version));
                let (length, count) = (bytes.len() as i64, chunks.len() as i64);
                // Safe to repeat: it replaces what an attempt without an answer may have left.
                server.repeat(LONG_CALL_MAX, async |session| {
                    let insert_chunk = session
                        .statement(
                            "INSERT INTO snapshot_chunks(market, seq, part, bytes) VALUES($1, $2, $3, $4)",
                        )
                        .await?;
                    let transaction = session.transaction().await?;
                    for table in ["snapshot_chunks", "snapshots"] {
                        let sql = format!("DELETE FROM {table} WHERE market = $1 AND seq = $2");
                        transaction.execute(&sql, &[&market, &seq]).await?;
                    }
                    transaction
                        .execute(
                            "INSERT INTO snapshots(market, seq, format_version, bytes, chunks, checksum)
                             VALUES($1, $2, $3, $4, $5, $6)",
                            &[&market, &seq, &version, &length, &count, &&checksum.0[..]],
                        )
                        .await?;
                    for (part, chunk) in chunks.clone().enumerate() {
                        transaction.execute(&insert_chunk, &[&market, &seq, &(part as i64), &chunk]).await?;
                    }
                    for sql in [DELETE_OLD_CHUNKS, DELETE_OLD] {
                        transaction.execute(sql, &[&market, &KEPT]).await?;
                    }
                    transaction.commit().await
                })
            }
        }
    }

    /// The newest whole snapshot that ends at `seq_max` or before. One beyond the journal's end tells of what the journal no
    /// longer knows, so give the end.
    pub fn latest(&self, seq_max: u64) -> Result<Option<Snapshot>, StoreError> {
        for header in self.headers(seq_max)? {
            let (seq, format_version) = (header.seq, header.format_version);
            let snapshot = Snapshot { seq, format_version, bytes: self.read(&header)? };
            let whole = snapshot.bytes.len() as u64 == header.bytes
                && snapshot.checksum().0[..] == header.checksum[..];
            if whole {
                return Ok(Some(snapshot));
            }
            tracing::warn!(seq, "a snapshot is damaged; the one before is used");
        }
        Ok(None)
    }

    /// Newest first.
    fn headers(&self, seq_max: u64) -> Result<Vec<Header>, StoreError> {
        let sql = "SELECT seq, format_version, bytes, chunks, checksum FROM snapshots
             WHERE market = $1 AND seq <= $2 ORDER BY seq DESC LIMIT 16";
        let (market, seq_max) = (&self.market.0[..], i64::try_from(seq_max).unwrap_or(i64::MAX));
        let rows: Vec<(i64, i64, i64, i64, Vec<u8>)> = match &self.backend {
            Backend::File(connection) => connection
                .prepare_cached(&sql.replace('$', "?"))?
                .query_map(params![market, seq_max], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
                })?
                .collect::<Result<_, _>>()?,
            Backend::Server(server) => server
                .repeat(CALL_MAX, async |session| session.query(sql, &[&market, &seq_max]).await)?
                .iter()
                .map(|row| {
                    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?))
                })
                .collect::<Result<_, tokio_postgres::Error>>()?,
        };
        // A header that makes no sense is damage too.
        Ok(rows
            .into_iter()
            .filter_map(|(seq, version, bytes, chunks, checksum)| {
                Some(Header {
                    seq: seq.try_into().ok()?,
                    format_version: version.try_into().ok()?,
                    bytes: bytes.try_into().ok()?,
                    chunks: chunks.try_into().ok()?,
                    checksum,
                })
            })
            .collect())
    }

    /// What is there of a snapshot's bytes, up to the first chunk that is missing.
    fn read(&self, header: &Header) -> Result<Vec<u8>, StoreError> {
        let sql = "SELECT bytes FROM snapshot_chunks WHERE market = $1 AND seq = $2 AND part = $3";
        let market = &self.market.0[..];
        let mut bytes = Vec::new();
        for part in 0..header.chunks {
            let chunk: Option<Vec<u8>> = match &self.backend {
                Backend::File(connection) => connection
                    .prepare_cached(&sql.replace('$', "?"))?
                    .query_row(params![market, header.seq, part], |row| row.get(0))
                    .optional()?,
                Backend::Server(server) => server
                    .repeat(CALL_MAX, async |session| {
                        session.query(sql, &[&market, &integer(header.seq), &integer(part)]).await
                    })?
                    .first()
                    .map(|row| row.try_get(0))
                    .transpose()?,
            };
            let Some(chunk) = chunk else { break };
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

const DELETE_OLD_CHUNKS: &str = "DELETE FROM snapshot_chunks WHERE market = $1 AND seq <
    (SELECT min(seq) FROM (SELECT seq FROM snapshots WHERE market = $1 ORDER BY seq DESC LIMIT $2) AS newest)";
const DELETE_OLD: &str = "DELETE FROM snapshots WHERE market = $1 AND seq <
    (SELECT min(seq) FROM (SELECT seq FROM snapshots WHERE market = $1 ORDER BY seq DESC LIMIT $2) AS newest)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const MARKET: PublicKey = PublicKey([7; 32]);

    fn each(check: impl Fn(&mut Snapshots, &dyn Fn(&str))) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("snapshots.db");
        check(&mut Snapshots::open(&path, &MARKET).expect("opens"), &|sql| {
            Connection::open(&path).expect("opens").execute_batch(sql).expect("executed");
        });
        let url = testing::database();
        let location = Location::parse(&url).expect("a URL");
        check(&mut Snapshots::open(location, &MARKET).expect("opens"), &|sql| {
            testing::execute(&url, &sql.replace("x'00'", r"'\x00'"));
        });
    }

    fn bytes(length: usize, of: u8) -> Vec<u8> {
        (0..length).map(|i| (i % 251) as u8 ^ of).collect()
    }

    #[test]
    fn the_newest_snapshot_is_found_whatever_its_size() {
        each(|snapshots, _| {
            assert_eq!(snapshots.latest(u64::MAX).expect("readable"), None);
            for (seq, length) in [(5, 0), (9, 17), (20, CHUNK_BYTES), (31, 3 * CHUNK_BYTES + 1)] {
                snapshots.save(seq, 3, &bytes(length, 1)).expect("room");
                let expected = Snapshot { seq, format_version: 3, bytes: bytes(length, 1) };
                assert_eq!(snapshots.latest(u64::MAX).expect("readable"), Some(expected));
            }
            // The journal ends before it, or the same place is saved anew.
            assert_eq!(snapshots.latest(30).expect("readable").expect("one").seq, 20);
            snapshots.save(31, 4, &bytes(9, 2)).expect("room");
            let again = snapshots.latest(31).expect("readable").expect("one");
            assert_eq!((again.format_version, again.bytes), (4, bytes(9, 2)));
            // Two are kept.
            assert_eq!(snapshots.headers(u64::MAX).expect("readable").len(), 2);
            assert_eq!(snapshots.latest(19).expect("readable"), None);
        });
    }

    #[test]
    fn a_damaged_snapshot_is_passed_over() {
        for damage in [
            "UPDATE snapshot_chunks SET bytes = x'00' WHERE seq = 9 AND part = 1",
            "DELETE FROM snapshot_chunks WHERE seq = 9 AND part = 1",
            "DELETE FROM snapshot_chunks WHERE seq = 9 AND part = 2",
            "UPDATE snapshots SET checksum = x'00' WHERE seq = 9",
            "UPDATE snapshots SET format_version = 7 WHERE seq = 9",
            "UPDATE snapshots SET chunks = -1 WHERE seq = 9",
            "DELETE FROM snapshots WHERE seq = 9",
        ] {
            each(|snapshots, execute| {
                snapshots.save(5, 1, b"before").expect("room");
                snapshots.save(9, 1, &bytes(2 * CHUNK_BYTES + 5, 0)).expect("room");
                execute(damage);
                let found = snapshots.latest(u64::MAX).expect("readable").expect("the one before");
                assert_eq!((found.seq, &found.bytes[..]), (5, &b"before"[..]), "{damage}");
            });
        }
    }

    #[test]
    fn markets_do_not_share_snapshots() {
        let location = Location::parse(&testing::database()).expect("a URL");
        let mut ours = Snapshots::open(&location, &MARKET).expect("opens");
        let mut other = Snapshots::open(&location, &PublicKey([8; 32])).expect("opens");
        ours.save(1, 1, b"ours").expect("room");
        for seq in 2..6 {
            other.save(seq, 1, b"other").expect("room");
        }
        assert_eq!(ours.latest(u64::MAX).expect("readable").expect("one").bytes, b"ours");
    }
}
