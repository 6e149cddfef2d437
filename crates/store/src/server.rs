//! A connection to a database that speaks PostgreSQL's protocol, for threads that may block.
//!
//! It hides what a network adds to a database: every call is bounded in time, a lost connection is made again, transactions are
//! serialisable and tried again when the database asks for it (SQLSTATE 40001), and an answer that never came is told apart
//! from a refusal. The SQL stays with the callers and keeps to what PostgreSQL and CockroachDB both serve.
//!
//! Calls block on a runtime of their own: make them from a plain thread or `spawn_blocking`, never from an async task.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;
use tokio_postgres::{
    Client, Error, IsolationLevel, NoTls, Row, Statement, Transaction, error::SqlState, types::ToSql,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{ServerUrl, StoreError, location::Authorities};

/// To reach the server and log in.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// For an ordinary call, all its attempts together.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(5);
/// For a call that moves megabytes.
pub(crate) const LONG_CALL_MAX: Duration = Duration::from_secs(60);
/// The first pause before another attempt; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Attempts of a transaction that collides with others.
const COLLISIONS_MAX: u32 = 20;

/// A connection, made again when it breaks.
pub(crate) struct Server {
    url: Box<ServerUrl>,
    tls: Option<MakeRustlsConnect>,
    inner: Box<RefCell<Inner>>,
}

struct Inner {
    /// Taken only when dropped.
    runtime: Option<Runtime>,
    session: Option<Session>,
}

/// One login.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// By their text. The texts are the crate's own, so there are few.
    statements: HashMap<Box<str>, Statement>,
}

/// Parameters of a statement.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Session {
    /// Prepares a statement once a login.
    pub(crate) async fn statement(&mut self, sql: &str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.insert(sql.into(), statement.clone());
        Ok(statement)
    }

    pub(crate) async fn query(&mut self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Error> {
        let statement = self.statement(sql).await?;
        self.client.query(&statement, params).await
    }

    /// How many rows it changed.
    pub(crate) async fn execute(&mut self, sql: &str, params: Params<'_>) -> Result<u64, Error> {
        let statement = self.statement(sql).await?;
        self.client.execute(&statement, params).await
    }

    /// A serialisable transaction. Statements for it are prepared before.
    pub(crate) async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        self.client.build_transaction().isolation_level(IsolationLevel::Serializable).start().await
    }
}

/// How an attempt failed.
enum Failed {
    /// The database refused. Nothing was done.
    Refused(StoreError),
    /// It collided with another transaction. Nothing was done, and it may do better.
    Collided(Error),
    /// No answer came. It may have been done.
    Lost(StoreError),
    /// No connection. Nothing was done.
    Unreachable(StoreError),
}

/// How a change that must not be made twice ended, for a caller that can find out by reading.
pub(crate) enum Outcome<T> {
    Done(T),
    /// The database refused. Nothing was done.
    Refused(StoreError),
    /// No answer came. It may have been done, or may still be done.
    Unknown(StoreError),
}

impl Server {
    /// Connects. Fails at once when the server cannot be reached.
    pub(crate) fn connect(url: &ServerUrl) -> Result<Self, StoreError> {
        let tls = url.tls.as_ref().map(connector).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| StoreError::Unreachable { at: url.to_string(), source: source.into() })?;
        let inner = Box::new(RefCell::new(Inner { runtime: Some(runtime), session: None }));
        let server = Self { url: Box::new(url.clone()), tls, inner };
        {
            let inner = &mut *server.inner.borrow_mut();
            let session = inner.runtime().block_on(server.login())?;
            inner.session = Some(session);
        }
        Ok(server)
    }

    /// Runs what may safely run twice, until it ends or `within` is over.
    pub(crate) fn repeat<T>(
        &self,
        within: Duration,
        mut work: impl AsyncFnMut(&mut Session) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let (mut pause, mut collisions) = (PAUSE, 0);
        loop {
            let error = match self.attempt(within.saturating_sub(began.elapsed()), &mut work) {
                Ok(value) => return Ok(value),
                Err(Failed::Refused(error)) => return Err(error),
                Err(Failed::Collided(error)) => {
                    collisions += 1;
                    if collisions >= COLLISIONS_MAX {
                        return Err(StoreError::Busy(error));
                    }
                    StoreError::Busy(error)
                }
                Err(Failed::Lost(error) | Failed::Unreachable(error)) => error,
            };
            if began.elapsed() + pause >= within {
                return Err(error);
            }
            self.rest(&mut pause);
        }
    }

    /// Runs what must not be done twice: once, or again as long as it certainly was not done.
    pub(crate) fn once<T>(
        &self,
        within: Duration,
        mut work: impl AsyncFnMut(&mut Session) -> Result<T, Error>,
    ) -> Outcome<T> {
        let began = Instant::now();
        let (mut pause, mut collisions) = (PAUSE, 0);
        loop {
            let error = match self.attempt(within.saturating_sub(began.elapsed()), &mut work) {
                Ok(value) => return Outcome::Done(value),
                Err(Failed::Refused(error)) => return Outcome::Refused(error),
                Err(Failed::Lost(error)) => return Outcome::Unknown(error),
                Err(Failed::Unreachable(error)) => error,
                Err(Failed::Collided(error)) => {
                    collisions += 1;
                    if collisions >= COLLISIONS_MAX {
                        return Outcome::Refused(StoreError::Busy(error));
                    }
                    StoreError::Busy(error)
                }
            };
            if began.elapsed() + pause >= within {
                return Outcome::Refused(error);
            }
            self.rest(&mut pause);
        }
    }

    fn attempt<T>(
        &self,
        within: Duration,
        work: &mut impl AsyncFnMut(&mut Session) -> Result<T, Error>,
    ) -> Result<T, Failed> {
        let inner = &mut *self.inner.borrow_mut();
        let runtime = inner.runtime.as_ref().expect("it lives as long as the server");
        let mut session = match inner.session.take() {
            Some(session) if !session.client.is_closed() => session,
            _ => runtime.block_on(self.login()).map_err(|error| match error {
                error @ StoreError::Unreachable { .. } => Failed::Unreachable(error),
                error => Failed::Refused(error),
            })?,
        };
        let answer = runtime.block_on(async { tokio::time::timeout(within, work(&mut session)).await });
        let failed = match answer {
            Ok(Ok(value)) => {
                inner.session = Some(session);
                return Ok(value);
            }
            // The session is dropped: its next answer would be to this question.
            Err(late) => return Err(Failed::Lost(self.unreachable(late))),
            Ok(Err(error)) => self.judge(error),
        };
        if matches!(failed, Failed::Refused(_) | Failed::Collided(_)) {
            inner.session = Some(session);
        }
        Err(failed)
    }

    fn judge(&self, error: Error) -> Failed {
        let Some(code) = error.code() else {
            let lost = error.is_closed()
                || std::error::Error::source(&error).is_some_and(|cause| cause.is::<std::io::Error>());
            return if lost {
                Failed::Lost(self.unreachable(error))
            } else {
                Failed::Refused(StoreError::Server(error))
            };
        };
        if *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED {
            return Failed::Collided(error);
        }
        // 08: the connection. 57P0x: the server ends or starts. 40003: CockroachDB lost sight of a commit.
        if code.code().starts_with("08")
            || code.code().starts_with("57P0")
            || *code == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
        {
            return Failed::Lost(self.unreachable(error));
        }
        Failed::Refused(error.into())
    }

    fn rest(&self, pause: &mut Duration) {
        std::thread::sleep(*pause);
        *pause = (*pause * 2).min(PAUSE_MAX);
    }

    async fn login(&self) -> Result<Session, StoreError> {
        let login = async {
            let mut config = self.url.config.clone();
            if config.get_application_name().is_none() {
                config.application_name("plexus");
            }
            let client = match &self.tls {
                Some(tls) => {
                    let (client, connection) = config.connect(tls.clone()).await?;
                    tokio::spawn(connection);
                    client
                }
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    tokio::spawn(connection);
                    client
                }
            };
            // A process that is stopped in mid-transaction must not hold others up for ever.
            client
                .batch_execute(
                    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE;
                     SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '10s'",
                )
                .await?;
            Ok::<_, Error>(Session { client, statements: HashMap::new() })
        };
        match tokio::time::timeout(CONNECT_MAX, login).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => match error.code().map(SqlState::code) {
                // 28: who are you? 3D: no such database. 42501: not you.
                Some(code) if code.starts_with("28") || code.starts_with("3D") || code == "42501" => {
                    Err(StoreError::Denied { at: self.url.to_string(), source: error })
                }
                _ => Err(self.unreachable(error)),
            },
            Err(late) => Err(self.unreachable(late)),
        }
    }

    fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
        StoreError::Unreachable { at: self.url.to_string(), source: source.into() }
    }

    /// Makes the tables of a part of the schema where they are missing, and refuses those of a newer program.
    pub(crate) fn prepare(
        &self,
        what: &'static str,
        part: &str,
        version: u32,
        tables: &[impl AsRef<str>],
    ) -> Result<(), StoreError> {
        if let Some(found) = self.version(part)? {
            let found = u32::try_from(found).unwrap_or(u32::MAX);
            return if found <= version {
                Ok(())
            } else {
                Err(StoreError::Newer { what, found, supported: version })
            };
        }
        self.define(
            "CREATE TABLE IF NOT EXISTS plexus_schema(part TEXT PRIMARY KEY, version BIGINT NOT NULL)",
        )?;
        for sql in tables {
            self.define(sql.as_ref())?;
        }
        let sql = "INSERT INTO plexus_schema(part, version) VALUES($1, $2) ON CONFLICT (part) DO NOTHING";
        self.repeat(CALL_MAX, async |session| session.execute(sql, &[&part, &i64::from(version)]).await)?;
        Ok(())
    }

    fn version(&self, part: &str) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT version FROM plexus_schema WHERE part = $1";
        match self.repeat(CALL_MAX, async |session| session.query(sql, &[&part]).await) {
            Ok(rows) => Ok(rows.first().map(|row| row.try_get(0)).transpose()?),
            Err(StoreError::Server(error)) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs a `CREATE … IF NOT EXISTS`, which may still collide with the same one elsewhere.
    fn define(&self, sql: &str) -> Result<(), StoreError> {
        let mut attempts = 0;
        loop {
            match self.repeat(CALL_MAX, async |session| session.client.batch_execute(sql).await) {
                Err(StoreError::Server(error))
                    if attempts < COLLISIONS_MAX
                        && error.code().is_some_and(|code| {
                            // PostgreSQL's catalogue has keys of its own; XX000 is "tuple concurrently updated".
                            ["23505", "42P06", "42P07", "42710", "XX000"].contains(&code.code())
                        }) =>
                {
                    attempts += 1;
                    self.rest(&mut PAUSE.clone());
                }
                done => return done,
            }
        }
    }
}

impl Inner {
    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it lives as long as the server")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.session = None;
        if let Some(runtime) = self.runtime.take() {
            // Nothing of it blocks, so that it may end inside an async task too.
            runtime.shutdown_background();
        }
    }
}

fn connector(authorities: &Authorities) -> Result<MakeRustlsConnect, StoreError> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let refused = |detail: String| StoreError::Url { detail };
    let mut roots = rustls::RootCertStore::empty();
    match authorities {
        Authorities::System => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
        Authorities::File(path) => {
            let shown = path.display();
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| refused(format!("cannot read sslrootcert {shown}: {error}")))?;
            for certificate in certificates {
                roots.add(certificate).map_err(|error| refused(format!("sslrootcert {shown}: {error}")))?;
            }
        }
    }
    if roots.is_empty() {
        return Err(refused("there is no certificate authority to trust".into()));
    }
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// As the database counts: its integers are signed.
pub(crate) fn integer(value: u64) -> i64 {
    i64::try_from(value).expect("sequences, ids and times stay far below 2⁶³")
}
