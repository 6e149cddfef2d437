//! The read model on a server that speaks PostgreSQL's protocol.
//!
//! Each market has its tables in an SQL schema of its own, and a batch is a handful of statements, whatever its size: the columns go
//! as arrays and become rows there.

use protocol::PublicKey;
use tokio_postgres::{Row, types::ToSql};

use super::{Batch, Columns, Question, SCHEMA_VERSION, Value, folded};
use crate::{
    ServerUrl, StoreError,
    server::{self, CALL_MAX, LONG_CALL_MAX, integer},
};

pub(super) struct Server {
    server: server::Server,
    /// What the tables' names begin with.
    prefix: String,
    statements: Statements,
}

/// The texts that name this market's tables.
struct Statements {
    watermark: String,
    jobs: String,
    ended: String,
    archived: String,
    workers: String,
    movements: String,
    traces: String,
    verdicts: String,
    verdict_changes: String,
    advance: String,
}

impl Server {
    pub(super) fn open(url: &ServerUrl, market: &PublicKey) -> Result<Self, StoreError> {
        let server = server::Server::connect(url)?;
        // 20 of 32 bytes, because names end at 63 characters.
        let key: String = market.0[..20].iter().map(|byte| format!("{byte:02x}")).collect();
        let schema = format!("read_v{SCHEMA_VERSION}_{key}");
        let tables = [
            format!("CREATE SCHEMA IF NOT EXISTS {schema}"),
            format!("CREATE TABLE IF NOT EXISTS {schema}.watermark(one BIGINT PRIMARY KEY, seq BIGINT NOT NULL)"),
            format!(
                "CREATE TABLE IF NOT EXISTS {schema}.jobs(
                    id BIGINT PRIMARY KEY, owner BYTEA NOT NULL, name TEXT NOT NULL, name_folded TEXT NOT NULL,
                    units BIGINT NOT NULL, submitted_at_ms BIGINT NOT NULL, ended_how BIGINT, ended_at_ms BIGINT,
                    archive BYTEA)"
            ),
            format!("CREATE INDEX IF NOT EXISTS jobs_by_owner ON {schema}.jobs(owner, id)"),
            format!(
                "CREATE TABLE IF NOT EXISTS {schema}.workers(
                    id BYTEA PRIMARY KEY, owner BYTEA NOT NULL, adapter TEXT NOT NULL, announced_at_ms BIGINT NOT NULL)"
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {schema}.movements(
                    seq BIGINT NOT NULL, part BIGINT NOT NULL, at_ms BIGINT NOT NULL, kind BIGINT NOT NULL,
                    account BYTEA NOT NULL, job BIGINT, package BIGINT, worker BYTEA, amount BYTEA NOT NULL,
                    treasury BYTEA NOT NULL, burned BYTEA NOT NULL, PRIMARY KEY(seq, part))"
            ),
            format!("CREATE INDEX IF NOT EXISTS movements_by_account ON {schema}.movements(account, seq)"),
            format!(
                "CREATE INDEX IF NOT EXISTS movements_by_job ON {schema}.movements(job, seq) WHERE job IS NOT NULL"
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {schema}.traces(
                    package BIGINT NOT NULL, seq BIGINT NOT NULL, job BIGINT NOT NULL, first BIGINT, count BIGINT,
                    PRIMARY KEY(package, seq))"
            ),
            format!(
                "CREATE INDEX IF NOT EXISTS traces_by_job ON {schema}.traces(job, first) WHERE first IS NOT NULL"
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {schema}.verdicts(
                    id BIGINT PRIMARY KEY, job BIGINT NOT NULL, worker BYTEA NOT NULL, owner BYTEA NOT NULL,
                    at_ms BIGINT NOT NULL, reached TEXT NOT NULL, state BIGINT NOT NULL, contested TEXT NOT NULL,
                    closed TEXT NOT NULL)"
            ),
            format!("CREATE INDEX IF NOT EXISTS verdicts_by_owner ON {schema}.verdicts(owner, id)"),
            format!("CREATE INDEX IF NOT EXISTS verdicts_by_job ON {schema}.verdicts(job, id)"),
        ];
        server.prepare("read model", &schema, SCHEMA_VERSION, &tables)?;
        Ok(Self { server, prefix: format!("{schema}."), statements: Statements::of(&schema) })
    }

    pub(super) fn clear(&mut self) -> Result<(), StoreError> {
        let p = &self.prefix;
        let sql = format!("TRUNCATE {p}watermark, {p}jobs, {p}workers, {p}movements, {p}traces, {p}verdicts");
        self.server.repeat(LONG_CALL_MAX, async |session| session.client.batch_execute(&sql).await)
    }

    pub(super) fn apply(&mut self, seq: u64, batch: &Batch) -> Result<(), StoreError> {
        let seq = integer(seq);
        let (jobs, ended, archived) = (Jobs::of(batch), Ended::of(batch), Archived::of(batch));
        let (workers, movements) = (Workers::of(batch), Movements::of(batch));
        let traces = Traces::of(batch);
        let (verdicts, verdict_changes) = (Verdicts::of(batch), VerdictChanges::of(batch));
        let sql = &self.statements;
        let changes: Vec<(&str, Vec<&(dyn ToSql + Sync)>)> = [
            (batch.jobs.is_empty(), &sql.jobs, jobs.params()),
            (batch.ended.is_empty(), &sql.ended, ended.params()),
            (batch.archived.is_empty(), &sql.archived, archived.params()),
            (batch.workers.is_empty(), &sql.workers, workers.params()),
            (batch.movements.is_empty(), &sql.movements, movements.params()),
            (batch.traces.is_empty(), &sql.traces, traces.params()),
            (batch.verdicts.is_empty(), &sql.verdicts, verdicts.params()),
            (batch.verdict_changes.is_empty(), &sql.verdict_changes, verdict_changes.params()),
            (false, &sql.advance, vec![&seq as &(dyn ToSql + Sync)]),
        ]
        .into_iter()
        .filter_map(|(empty, sql, params)| (!empty).then_some((&sql[..], params)))
        .collect();
        // Safe to repeat: the same rows again change nothing.
        self.server.repeat(LONG_CALL_MAX, async |session| {
            let watermark = session.statement(&sql.watermark).await?;
            let mut prepared = Vec::with_capacity(changes.len());
            for (sql, _) in &changes {
                prepared.push(session.statement(sql).await?);
            }
            let transaction = session.transaction().await?;
            if let Some(row) = transaction.query_opt(&watermark, &[]).await?
                && row.try_get::<_, i64>(0)? > seq
            {
                return transaction.rollback().await;
            }
            for (statement, (_, params)) in prepared.iter().zip(&changes) {
                transaction.execute(statement, params).await?;
            }
            transaction.commit().await
        })
    }

    pub(super) fn ask<T>(
        &self,
        question: &Question,
        read: impl Fn(&dyn Columns) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let sql = question.sql(&self.prefix);
        let params: Vec<&(dyn ToSql + Sync)> = question
            .values
            .iter()
            .map(|value| match value {
                Value::Integer(value) => value as &(dyn ToSql + Sync),
                Value::Bytes(bytes) => bytes,
                Value::Text(text) => text,
            })
            .collect();
        let rows = self.server.repeat(CALL_MAX, async |session| session.query(&sql, &params).await)?;
        rows.iter().map(|row| read(row)).collect()
    }
}

impl Statements {
    fn of(schema: &str) -> Self {
        Self {
            watermark: format!("SELECT seq FROM {schema}.watermark"),
            jobs: format!(
                "INSERT INTO {schema}.jobs(
                    id, owner, name, name_folded, units, submitted_at_ms, ended_how, ended_at_ms, archive)
                 SELECT * FROM unnest(CAST($1 AS BIGINT[]), CAST($2 AS BYTEA[]), CAST($3 AS TEXT[]), CAST($4 AS TEXT[]),
                    CAST($5 AS BIGINT[]), CAST($6 AS BIGINT[]), CAST($7 AS BIGINT[]), CAST($8 AS BIGINT[]),
                    CAST($9 AS BYTEA[]))
                 ON CONFLICT (id) DO UPDATE SET ended_how = excluded.ended_how, ended_at_ms = excluded.ended_at_ms,
                    archive = excluded.archive"
            ),
            ended: format!(
                "UPDATE {schema}.jobs SET ended_how = changed.how, ended_at_ms = changed.at_ms
                 FROM (SELECT * FROM unnest(CAST($1 AS BIGINT[]), CAST($2 AS BIGINT[]), CAST($3 AS BIGINT[])))
                    AS changed(job, how, at_ms)
                 WHERE id = changed.job"
            ),
            archived: format!(
                "UPDATE {schema}.jobs SET archive = changed.archive
                 FROM (SELECT * FROM unnest(CAST($1 AS BIGINT[]), CAST($2 AS BYTEA[]))) AS changed(job, archive)
                 WHERE id = changed.job"
            ),
            workers: format!(
                "INSERT INTO {schema}.workers(id, owner, adapter, announced_at_ms)
                 SELECT * FROM unnest(CAST($1 AS BYTEA[]), CAST($2 AS BYTEA[]), CAST($3 AS TEXT[]), CAST($4 AS BIGINT[]))
                 ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, adapter = excluded.adapter,
                    announced_at_ms = excluded.announced_at_ms"
            ),
            movements: format!(
                "INSERT INTO {schema}.movements(
                    seq, part, at_ms, kind, account, job, package, worker, amount, treasury, burned)
                 SELECT * FROM unnest(CAST($1 AS BIGINT[]), CAST($2 AS BIGINT[]), CAST($3 AS BIGINT[]), CAST($4 AS BIGINT[]),
                    CAST($5 AS BYTEA[]), CAST($6 AS BIGINT[]), CAST($7 AS BIGINT[]), CAST($8 AS BYTEA[]), CAST($9 AS BYTEA[]),
                    CAST($10 AS BYTEA[]), CAST($11 AS BYTEA[]))
                 ON CONFLICT (seq, part) DO NOTHING"
            ),
            traces: format!(
                "INSERT INTO {schema}.traces(package, seq, job, first, count)
                 SELECT * FROM unnest(CAST($1 AS BIGINT[]), CAST($2 AS BIGINT[]), CAST($3 AS BIGINT[]), CAST($4 AS BIGINT[]),
                    CAST($5 AS BIGINT[]))
                 ON CONFLICT (package, seq) DO NOTHING"
            ),
            verdicts: format!(
                "INSERT INTO {schema}.verdicts(id, job, worker, owner, at_ms, reached, state, contested, closed)
                 SELECT * FROM unnest(CAST($1 AS BIGINT[]), CAST($2 AS BIGINT[]), CAST($3 AS BYTEA[]), CAST($4 AS BYTEA[]),
                    CAST($5 AS BIGINT[]), CAST($6 AS TEXT[]), CAST($7 AS BIGINT[]), CAST($8 AS TEXT[]), CAST($9 AS TEXT[]))
                 ON CONFLICT (id) DO UPDATE SET state = excluded.state, contested = excluded.contested,
                    closed = excluded.closed"
            ),
            verdict_changes: format!(
                "UPDATE {schema}.verdicts AS known SET state = changed.state,
                    contested = CASE WHEN changed.contested = '' THEN known.contested ELSE changed.contested END,
                    closed = CASE WHEN changed.closed = '' THEN known.closed ELSE changed.closed END
                 FROM (SELECT * FROM unnest(CAST($1 AS BIGINT[]), CAST($2 AS BIGINT[]), CAST($3 AS TEXT[]),
                    CAST($4 AS TEXT[]))) AS changed(verdict, state, contested, closed)
                 WHERE known.id = changed.verdict"
            ),
            advance: format!(
                "INSERT INTO {schema}.watermark(one, seq) VALUES(1, $1)
                 ON CONFLICT (one) DO UPDATE SET seq = excluded.seq"
            ),
        }
    }
}

/// Declares the columns of some rows, and how they are made and sent.
macro_rules! columns {
    ($name:ident of $rows:ident as $row:pat, $($column:ident: $kind:ty = $value:expr,)+) => {
        #[derive(Default)]
        struct $name<'a> {
            $($column: Vec<$kind>,)+
            _batch: std::marker::PhantomData<&'a Batch>,
        }

        impl<'a> $name<'a> {
            fn of(batch: &'a Batch) -> Self {
                let mut columns = Self::default();
                for $row in batch.$rows.iter() {
                    $(columns.$column.push($value);)+
                }
                columns
            }

            fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
                vec![$(&self.$column),+]
            }
        }
    };
}

columns! { Jobs of jobs as (_, row),
    id: i64 = integer(row.id.0),
    owner: &'a [u8] = &row.owner.0,
    name: &'a str = &row.name,
    name_folded: String = folded(&row.name),
    units: i64 = i64::try_from(row.units).unwrap_or(i64::MAX),
    submitted_at_ms: i64 = integer(row.submitted_at_ms),
    ended_how: Option<i64> = row.ended.map(|(how, _)| how.into()),
    ended_at_ms: Option<i64> = row.ended.map(|(_, at_ms)| integer(at_ms)),
    archive: Option<&'a [u8]> = row.archive.as_ref().map(|archive| &archive.0[..]),
}

columns! { Ended of ended as (id, (how, at_ms)),
    id: i64 = integer(id.0),
    how: i64 = i64::from(*how),
    at_ms: i64 = integer(*at_ms),
}

columns! { Archived of archived as (id, archive),
    id: i64 = integer(id.0),
    archive: &'a [u8] = &archive.0,
}

columns! { Workers of workers as (_, row),
    id: &'a [u8] = &row.id.0,
    owner: &'a [u8] = &row.owner.0,
    adapter: &'a str = &row.adapter,
    announced_at_ms: i64 = integer(row.announced_at_ms),
}

columns! { Movements of movements as m,
    seq: i64 = integer(m.seq),
    part: i64 = i64::from(m.part),
    at_ms: i64 = integer(m.at_ms),
    kind: i64 = m.kind as i64,
    account: &'a [u8] = &m.account.0,
    job: Option<i64> = m.job.map(|job| integer(job.0)),
    package: Option<i64> = m.package.map(|package| integer(package.0)),
    worker: Option<&'a [u8]> = m.worker.as_ref().map(|worker| &worker.0[..]),
    amount: Vec<u8> = m.amount.0.to_be_bytes().to_vec(),
    treasury: Vec<u8> = m.treasury.0.to_be_bytes().to_vec(),
    burned: Vec<u8> = m.burned.0.to_be_bytes().to_vec(),
}

columns! { Traces of traces as row,
    package: i64 = integer(row.package.0),
    seq: i64 = integer(row.seq),
    job: i64 = integer(row.job.0),
    first: Option<i64> = row.run.map(|run| integer(run.first)),
    count: Option<i64> = row.run.map(|run| i64::from(run.count)),
}

columns! { Verdicts of verdicts as (_, row),
    id: i64 = integer(row.id.0),
    job: i64 = integer(row.job.0),
    worker: &'a [u8] = &row.worker.0,
    owner: &'a [u8] = &row.owner.0,
    at_ms: i64 = integer(row.at_ms),
    reached: &'a str = &row.reached,
    state: i64 = i64::from(row.change.state),
    contested: &'a str = &row.change.contested,
    closed: &'a str = &row.change.closed,
}

columns! { VerdictChanges of verdict_changes as (id, to),
    id: i64 = integer(id.0),
    state: i64 = i64::from(to.state),
    contested: &'a str = &to.contested,
    closed: &'a str = &to.closed,
}

impl Columns for Row {
    fn integer(&self, index: usize) -> Result<Option<i64>, StoreError> {
        Ok(self.try_get(index)?)
    }

    fn bytes(&self, index: usize) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.try_get(index)?)
    }

    fn text(&self, index: usize) -> Result<String, StoreError> {
        Ok(self.try_get(index)?)
    }
}
