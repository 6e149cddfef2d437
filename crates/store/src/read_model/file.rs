//! The read model in an SQLite file.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, params_from_iter, types::ToSqlOutput};

use super::{Batch, Columns, Question, SCHEMA_VERSION, Value, folded};
use crate::StoreError;

pub(super) struct File {
    connection: Connection,
}

impl File {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version != SCHEMA_VERSION {
            connection.execute_batch(
                "DROP TABLE IF EXISTS watermark; DROP TABLE IF EXISTS jobs; DROP TABLE IF EXISTS workers;
                 DROP TABLE IF EXISTS movements; DROP TABLE IF EXISTS traces; DROP TABLE IF EXISTS verdicts;",
            )?;
        }
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS watermark(one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS jobs(
                id INTEGER PRIMARY KEY, owner BLOB NOT NULL, name TEXT NOT NULL, name_folded TEXT NOT NULL,
                units INTEGER NOT NULL, submitted_at_ms INTEGER NOT NULL, ended_how INTEGER, ended_at_ms INTEGER,
                archive BLOB);
             CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs(owner, id);
             CREATE TABLE IF NOT EXISTS workers(
                id BLOB PRIMARY KEY, owner BLOB NOT NULL, adapter TEXT NOT NULL, announced_at_ms INTEGER NOT NULL
                ) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS movements(
                seq INTEGER NOT NULL, part INTEGER NOT NULL, at_ms INTEGER NOT NULL, kind INTEGER NOT NULL,
                account BLOB NOT NULL, job INTEGER, package INTEGER, worker BLOB, amount BLOB NOT NULL,
                treasury BLOB NOT NULL, burned BLOB NOT NULL, PRIMARY KEY(seq, part)) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS movements_by_account ON movements(account, seq);
             CREATE INDEX IF NOT EXISTS movements_by_job ON movements(job, seq) WHERE job IS NOT NULL;
             CREATE TABLE IF NOT EXISTS traces(
                package INTEGER NOT NULL, seq INTEGER NOT NULL, job INTEGER NOT NULL, first INTEGER, count INTEGER,
                PRIMARY KEY(package, seq)) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS traces_by_job ON traces(job, first) WHERE first IS NOT NULL;
             CREATE TABLE IF NOT EXISTS verdicts(
                id INTEGER PRIMARY KEY, job INTEGER NOT NULL, worker BLOB NOT NULL, owner BLOB NOT NULL,
                at_ms INTEGER NOT NULL, reached TEXT NOT NULL, state INTEGER NOT NULL, contested TEXT NOT NULL,
                closed TEXT NOT NULL);
             CREATE INDEX IF NOT EXISTS verdicts_by_owner ON verdicts(owner, id);
             CREATE INDEX IF NOT EXISTS verdicts_by_job ON verdicts(job, id);",
        )?;
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        Ok(Self { connection })
    }

    pub(super) fn clear(&mut self) -> Result<(), StoreError> {
        self.connection.execute_batch(
            "BEGIN; DELETE FROM watermark; DELETE FROM jobs; DELETE FROM workers; DELETE FROM movements;
             DELETE FROM traces; DELETE FROM verdicts; COMMIT;",
        )?;
        Ok(())
    }

    pub(super) fn apply(&mut self, seq: u64, batch: &Batch) -> Result<(), StoreError> {
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let watermark: Option<u64> = transaction
                .prepare_cached("SELECT seq FROM watermark")?
                .query_row([], |row| row.get(0))
                .optional()?;
            if watermark.is_some_and(|watermark| watermark > seq) {
                return Ok(());
            }
            let mut insert = transaction.prepare_cached(
                "INSERT INTO jobs(
                    id, owner, name, name_folded, units, submitted_at_ms, ended_how, ended_at_ms, archive)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT(id) DO UPDATE SET
                    ended_how = excluded.ended_how, ended_at_ms = excluded.ended_at_ms, archive = excluded.archive",
            )?;
            for row in batch.jobs.values() {
                let (how, at) = row.ended.unzip();
                let units = i64::try_from(row.units).unwrap_or(i64::MAX);
                insert.execute(params![
                    row.id.0,
                    &row.owner.0[..],
                    row.name,
                    folded(&row.name),
                    units,
                    row.submitted_at_ms,
                    how,
                    at,
                    row.archive.as_ref().map(|archive| &archive.0[..]),
                ])?;
            }
            let mut end = transaction
                .prepare_cached("UPDATE jobs SET ended_how = ?2, ended_at_ms = ?3 WHERE id = ?1")?;
            for (id, (how, at_ms)) in &batch.ended {
                end.execute(params![id.0, how, at_ms])?;
            }
            let mut archive = transaction.prepare_cached("UPDATE jobs SET archive = ?2 WHERE id = ?1")?;
            for (id, blob) in &batch.archived {
                archive.execute(params![id.0, &blob.0[..]])?;
            }
            let mut announce = transaction.prepare_cached(
                "INSERT INTO workers(id, owner, adapter, announced_at_ms) VALUES(?1, ?2, ?3, ?4) ON CONFLICT(id)
                 DO UPDATE SET owner = excluded.owner, adapter = excluded.adapter,
                    announced_at_ms = excluded.announced_at_ms",
            )?;
            for row in batch.workers.values() {
                announce.execute(params![
                    &row.id.0[..],
                    &row.owner.0[..],
                    row.adapter,
                    row.announced_at_ms
                ])?;
            }
            let mut pay = transaction.prepare_cached(
                "INSERT INTO movements(seq, part, at_ms, kind, account, job, package, worker, amount, treasury, burned)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO NOTHING",
            )?;
            for m in &batch.movements {
                pay.execute(params![
                    m.seq,
                    m.part,
                    m.at_ms,
                    m.kind as u8,
                    &m.account.0[..],
                    m.job.map(|job| job.0),
                    m.package.map(|package| package.0),
                    m.worker.as_ref().map(|worker| &worker.0[..]),
                    m.amount.0.to_be_bytes(),
                    m.treasury.0.to_be_bytes(),
                    m.burned.0.to_be_bytes(),
                ])?;
            }
            let mut trace = transaction.prepare_cached(
                "INSERT INTO traces(package, seq, job, first, count) VALUES(?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            )?;
            for row in &batch.traces {
                let (first, count) = row.run.map(|run| (run.first, run.count)).unzip();
                trace.execute(params![row.package.0, row.seq, row.job.0, first, count])?;
            }
            let mut judge = transaction.prepare_cached(
                "INSERT INTO verdicts(id, job, worker, owner, at_ms, reached, state, contested, closed)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT(id) DO UPDATE SET
                    state = excluded.state, contested = excluded.contested, closed = excluded.closed",
            )?;
            for row in batch.verdicts.values() {
                judge.execute(params![
                    row.id.0,
                    row.job.0,
                    &row.worker.0[..],
                    &row.owner.0[..],
                    row.at_ms,
                    row.reached,
                    row.change.state,
                    row.change.contested,
                    row.change.closed,
                ])?;
            }
            let mut change = transaction.prepare_cached(
                "UPDATE verdicts SET state = ?2, contested = CASE WHEN ?3 = '' THEN contested ELSE ?3 END,
                    closed = CASE WHEN ?4 = '' THEN closed ELSE ?4 END WHERE id = ?1",
            )?;
            for (id, to) in &batch.verdict_changes {
                change.execute(params![id.0, to.state, to.contested, to.closed])?;
            }
            transaction
                .prepare_cached(
                    "INSERT INTO watermark(one, seq) VALUES(1, ?1) ON CONFLICT DO UPDATE SET seq = excluded.seq",
                )?
                .execute([seq])?;
        }
        transaction.commit()?;
        Ok(())
    }

    pub(super) fn ask<T>(
        &self,
        question: &Question,
        read: impl Fn(&dyn Columns) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        // SQLite counts parameters with `?`.
        let mut statement = self.connection.prepare_cached(&question.sql("").replace('$', "?"))?;
        let mut rows = statement.query(params_from_iter(question.values.iter()))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Integer(value) => value.to_sql(),
            Self::Bytes(bytes) => Ok(ToSqlOutput::from(&bytes[..])),
            Self::Text(text) => text.to_sql(),
        }
    }
}

impl Columns for Row<'_> {
    fn integer(&self, index: usize) -> Result<Option<i64>, StoreError> {
        Ok(self.get(index)?)
    }

    fn bytes(&self, index: usize) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.get(index)?)
    }

    fn text(&self, index: usize) -> Result<String, StoreError> {
        Ok(self.get(index)?)
    }
}
