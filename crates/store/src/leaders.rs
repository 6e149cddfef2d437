//! Who leads a market, as far as the processes tell one another.
//!
//! It helps standbys to know where to forward requests and when to take over. It makes nothing safe: that is the journal's
//! key alone. So a leader may be wrong about its row for a while, and a row may be late; ages are measured with the database's
//! clock, so that the processes' own clocks don't matter.

use protocol::PublicKey;
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    Location, StoreError,
    journal::SCHEMA_VERSION,
    server::{CALL_MAX, Server, integer},
};

/// The leader of a market, as it last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderRow {
    /// Which process.
    pub holder: String,
    /// Where the others find it.
    pub url: String,
    /// Grows by one with every takeover; the first is 1.
    pub term: u64,
    /// How long ago it was renewed. `u64::MAX` once it resigned.
    pub age_ms: u64,
}

/// The row of one market, seen by one process.
pub struct Leaders {
    backend: Backend,
    market: PublicKey,
    holder: String,
    url: String,
}

enum Backend {
    File(Connection),
    Server(Server),
}

/// Time of the row of a leader that resigned.
const RESIGNED_MS: i64 = 0;

impl Leaders {
    /// Opens the table beside the journal, and creates it where there is none. `holder` names this process, unlike any other,
    /// and `url` is where it serves.
    pub fn open(
        location: impl Into<Location>,
        market: &PublicKey,
        holder: impl Into<String>,
        url: impl Into<String>,
    ) -> Result<Self, StoreError> {
        let backend = match location.into() {
            Location::File(path) => {
                let connection = Connection::open(path)?;
                connection.busy_timeout(CALL_MAX)?;
                connection.execute_batch(
                    "CREATE TABLE IF NOT EXISTS leaders(market BLOB PRIMARY KEY, holder TEXT NOT NULL, url TEXT NOT NULL,
                        term INTEGER NOT NULL, renewed_at_ms INTEGER NOT NULL) WITHOUT ROWID;",
                )?;
                Backend::File(connection)
            }
            Location::Server(url) => {
                let server = Server::connect(&url)?;
                server.prepare(
                    "leaders",
                    "leaders",
                    SCHEMA_VERSION,
                    &["CREATE TABLE IF NOT EXISTS leaders(market BYTEA PRIMARY KEY, holder TEXT NOT NULL, url TEXT NOT NULL,
                        term BIGINT NOT NULL, renewed_at_ms BIGINT NOT NULL)"],
                )?;
                Backend::Server(server)
            }
        };
        Ok(Self { backend, market: *market, holder: holder.into(), url: url.into() })
    }

    /// Who leads.
    pub fn read(&self) -> Result<Option<LeaderRow>, StoreError> {
        let row = match &self.backend {
            Backend::File(connection) => connection
                .prepare_cached(&format!(
                    "SELECT holder, url, term, renewed_at_ms, {FILE_NOW_MS} FROM leaders WHERE market = ?1"
                ))?
                .query_row([&self.market.0[..]], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
                })
                .optional()?,
            Backend::Server(server) => {
                let sql = format!(
                    "SELECT holder, url, term, renewed_at_ms, {SERVER_NOW_MS} FROM leaders WHERE market = $1"
                );
                let rows = server
                    .repeat(CALL_MAX, async |session| session.query(&sql, &[&&self.market.0[..]]).await)?;
                rows.first()
                    .map(|row| {
                        Ok::<_, StoreError>((
                            row.try_get(0)?,
                            row.try_get(1)?,
                            row.try_get(2)?,
                            row.try_get(3)?,
                            row.try_get(4)?,
                        ))
                    })
                    .transpose()?
            }
        };
        Ok(row.map(|(holder, url, term, renewed_at_ms, now_ms): (_, _, i64, i64, i64)| LeaderRow {
            holder,
            url,
            term: term.unsigned_abs(),
            age_ms: match renewed_at_ms {
                RESIGNED_MS => u64::MAX,
                // A clock that was set back makes nobody older.
                _ => u64::try_from(now_ms - renewed_at_ms).unwrap_or(0),
            },
        }))
    }

    /// Takes over from the leader of the term that was read, or 0 where there was none. False when somebody else was faster;
    /// otherwise this process leads the next term.
    pub fn try_take(&mut self, term_seen: u64) -> Result<bool, StoreError> {
        let changed = match &self.backend {
            Backend::File(connection) => {
                let sql = if term_seen == 0 {
                    format!(
                        "INSERT INTO leaders(market, holder, url, term, renewed_at_ms) VALUES(?1, ?2, ?3, ?4 + 1, {FILE_NOW_MS})
                         ON CONFLICT DO NOTHING"
                    )
                } else {
                    format!(
                        "UPDATE leaders SET holder = ?2, url = ?3, term = term + 1, renewed_at_ms = {FILE_NOW_MS}
                         WHERE market = ?1 AND term = ?4"
                    )
                };
                connection.prepare_cached(&sql)?.execute(params![
                    &self.market.0[..],
                    self.holder,
                    self.url,
                    term_seen
                ])? as u64
            }
            Backend::Server(server) => {
                let sql = if term_seen == 0 {
                    format!(
                        "INSERT INTO leaders(market, holder, url, term, renewed_at_ms)
                         VALUES($1, $2, $3, CAST($4 AS BIGINT) + 1, {SERVER_NOW_MS}) ON CONFLICT (market) DO NOTHING"
                    )
                } else {
                    format!(
                        "UPDATE leaders SET holder = $2, url = $3, term = term + 1, renewed_at_ms = {SERVER_NOW_MS}
                         WHERE market = $1 AND term = $4"
                    )
                };
                let seen = integer(term_seen);
                server.repeat(CALL_MAX, async |session| {
                    session.execute(&sql, &[&&self.market.0[..], &self.holder, &self.url, &seen]).await
                })?
            }
        };
        if changed > 0 {
            return Ok(true);
        }
        // Perhaps it was this process, and only the answer was lost.
        Ok(self.read()?.is_some_and(|row| row.term == term_seen + 1 && row.holder == self.holder))
    }

    /// Says that this process still leads this term. False when it does not.
    pub fn renew(&mut self, term: u64) -> Result<bool, StoreError> {
        self.touch(term, FILE_NOW_MS, SERVER_NOW_MS)
    }

    /// Says that this process leads no longer, so that another need not wait.
    pub fn resign(&mut self, term: u64) -> Result<bool, StoreError> {
        let never = RESIGNED_MS.to_string();
        self.touch(term, &never, &never)
    }

    fn touch(&mut self, term: u64, file_ms: &str, server_ms: &str) -> Result<bool, StoreError> {
        let changed = match &self.backend {
            Backend::File(connection) => connection
                .prepare_cached(&format!(
                    "UPDATE leaders SET renewed_at_ms = {file_ms} WHERE market = ?1 AND term = ?2 AND holder = ?3"
                ))?
                .execute(params![&self.market.0[..], term, self.holder])? as u64,
            Backend::Server(server) => {
                let sql = format!(
                    "UPDATE leaders SET renewed_at_ms = {server_ms} WHERE market = $1 AND term = $2 AND holder = $3"
                );
                let term = integer(term);
                server.repeat(CALL_MAX, async |session| {
                    session.execute(&sql, &[&&self.market.0[..], &term, &self.holder]).await
                })?
            }
        };
        Ok(changed > 0)
    }
}

/// Milliseconds since 1970 by the database's clock.
const FILE_NOW_MS: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
const SERVER_NOW_MS: &str = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const MARKET: PublicKey = PublicKey([7; 32]);

    fn each(check: impl Fn(&Location)) {
        let folder = tempfile::tempdir().expect("a folder");
        check(&folder.path().join("journal.db").into());
        check(&Location::parse(&testing::database()).expect("a URL"));
    }

    fn open(location: &Location, holder: &str) -> Leaders {
        Leaders::open(location, &MARKET, holder, format!("http://{holder}")).expect("opens")
    }

    #[test]
    fn of_two_that_take_over_at_once_one_leads() {
        each(|location| {
            let (mut ada, mut bob) = (open(location, "ada"), open(location, "bob"));
            assert_eq!(ada.read().expect("readable"), None);
            assert!(ada.try_take(0).expect("reachable"));
            assert!(!bob.try_take(0).expect("reachable"));
            assert!(bob.try_take(1).expect("reachable"));
            assert!(!ada.try_take(1).expect("reachable"));
            let row = ada.read().expect("readable").expect("somebody leads");
            assert_eq!((&row.holder[..], &row.url[..], row.term), ("bob", "http://bob", 2));
            // Whoever lost finds out when it renews, and a repeated takeover of the same term stays one.
            assert!(!ada.renew(1).expect("reachable"));
            assert!(bob.renew(2).expect("reachable"));
            assert!(bob.try_take(1).expect("reachable"));
            assert_eq!(ada.read().expect("readable").expect("somebody leads").term, 2);
            // Another market's leader is another's.
            let other = Leaders::open(location, &PublicKey([8; 32]), "eve", "http://eve").expect("opens");
            assert_eq!(other.read().expect("readable"), None);
        });
    }

    #[test]
    fn the_age_is_the_time_since_the_last_renewal() {
        each(|location| {
            let mut ada = open(location, "ada");
            assert!(ada.try_take(0).expect("reachable"));
            let age_ms = |leaders: &Leaders| leaders.read().expect("readable").expect("a row").age_ms;
            assert!(age_ms(&ada) < 60_000);
            while age_ms(&ada) < 3 {
                std::thread::yield_now();
            }
            assert!(ada.resign(1).expect("reachable"));
            assert_eq!(age_ms(&ada), u64::MAX);
            assert!(ada.renew(1).expect("reachable"), "it may think better of it");
            assert!(age_ms(&ada) < 60_000);
        });
    }
}
