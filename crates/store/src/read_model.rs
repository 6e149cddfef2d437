//! The read model: what lists, statements and history are answered from.
//!
//! It follows the journal with its own watermark and can be deleted: following from the beginning gives the same rows. A
//! [`Batch`] holds what a stretch of the journal changed, already folded to one change a key, so that a busy job costs one
//! write a batch and not one an event. Because the journal is the truth, its commits are not synced one by one.

use std::{collections::BTreeMap, path::Path, time::Duration};

use protocol::{Amount, JobId, PackageId, PublicKey};
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter, types::Value};

use crate::StoreError;

/// Version of the tables. Another version's file is emptied and rebuilt from the journal.
const SCHEMA_VERSION: u32 = 1;

/// What a stretch of the journal changed.
#[derive(Debug, Default)]
pub struct Batch {
    jobs: BTreeMap<JobId, JobRow>,
    ended: BTreeMap<JobId, (u8, u64)>,
    workers: BTreeMap<PublicKey, WorkerRow>,
    movements: Vec<Movement>,
}

/// A job, for lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// The job.
    pub id: JobId,
    /// Who pays.
    pub owner: PublicKey,
    /// Its name.
    pub name: String,
    /// How many units.
    pub units: u64,
    /// When it was submitted.
    pub submitted_at_ms: u64,
    /// How and when it ended; the market numbers the ways.
    pub ended: Option<(u8, u64)>,
}

/// A worker, for lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRow {
    /// Its key.
    pub id: PublicKey,
    /// Who is paid.
    pub owner: PublicKey,
    /// Its adapter.
    pub adapter: String,
    /// When it last announced itself.
    pub announced_at_ms: u64,
}

/// One movement of money. A settlement of a package is one row, though three parties gain by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Movement {
    /// The journal sequence of the event that moved it.
    pub seq: u64,
    /// Which one of that event, from 0.
    pub part: u32,
    /// When.
    pub at_ms: u64,
    /// Why.
    pub kind: MovementKind,
    /// Whose balance changed.
    pub account: PublicKey,
    /// For which job.
    pub job: Option<JobId>,
    /// For which package.
    pub package: Option<PackageId>,
    /// By which worker.
    pub worker: Option<PublicKey>,
    /// How much the account gained (of an escrow: lost).
    pub amount: Amount,
    /// What the treasury got beside it.
    pub treasury: Amount,
    /// What was burned beside it.
    pub burned: Amount,
}

/// Why money moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MovementKind {
    /// Tokens came in.
    Deposit = 0,
    /// From a balance into a job's escrow.
    Escrow = 1,
    /// To a provider for first work.
    Work = 2,
    /// To a provider for a check.
    Check = 3,
    /// From escrow back to the owner.
    Refund = 4,
}

impl Batch {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.ended.is_empty() && self.workers.is_empty() && self.movements.is_empty()
    }

    /// Changes held.
    pub fn len(&self) -> usize {
        self.jobs.len() + self.ended.len() + self.workers.len() + self.movements.len()
    }

    /// A job is new.
    pub fn job(&mut self, row: JobRow) {
        self.jobs.insert(row.id, row);
    }

    /// A job ended.
    pub fn job_ended(&mut self, id: JobId, how: u8, at_ms: u64) {
        match self.jobs.get_mut(&id) {
            Some(row) => row.ended = Some((how, at_ms)),
            None => {
                self.ended.insert(id, (how, at_ms));
            }
        }
    }

    /// A worker is new or announced itself again.
    pub fn worker(&mut self, row: WorkerRow) {
        self.workers.insert(row.id, row);
    }

    /// Money moved.
    pub fn movement(&mut self, movement: Movement) {
        self.movements.push(movement);
    }
}

/// Which jobs to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Of this owner.
    pub owner: Option<PublicKey>,
    /// Whose name contains this, in any case.
    pub name_contains: Option<String>,
    /// Older than this one.
    pub before: Option<JobId>,
    /// At most this many.
    pub limit: u32,
}

/// Which workers to list, the last announced first.
#[derive(Clone, Debug, Default)]
pub struct WorkerFilter {
    /// That pay this wallet.
    pub owner: Option<PublicKey>,
    /// After this one: when it announced itself, and its key.
    pub after: Option<(u64, PublicKey)>,
    /// At most this many.
    pub limit: u32,
}

/// Which movements to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct MovementFilter {
    /// That changed this account's balance.
    pub account: Option<PublicKey>,
    /// For this job.
    pub job: Option<JobId>,
    /// Not newer than this sequence.
    pub seq_max: Option<u64>,
    /// At most this many.
    pub limit: u32,
}

/// The open read model.
pub struct ReadModel {
    connection: Connection,
}

impl ReadModel {
    /// Opens the file and creates it where there is none. One with another version's tables is emptied.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version != SCHEMA_VERSION {
            connection.execute_batch(
                "DROP TABLE IF EXISTS watermark; DROP TABLE IF EXISTS jobs; DROP TABLE IF EXISTS workers;
                 DROP TABLE IF EXISTS movements;",
            )?;
        }
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS watermark(one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS jobs(
                id INTEGER PRIMARY KEY, owner BLOB NOT NULL, name TEXT NOT NULL, units INTEGER NOT NULL,
                submitted_at_ms INTEGER NOT NULL, ended_how INTEGER, ended_at_ms INTEGER);
             CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs(owner, id);
             CREATE TABLE IF NOT EXISTS workers(
                id BLOB PRIMARY KEY, owner BLOB NOT NULL, adapter TEXT NOT NULL, announced_at_ms INTEGER NOT NULL
                ) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS movements(
                seq INTEGER NOT NULL, part INTEGER NOT NULL, at_ms INTEGER NOT NULL, kind INTEGER NOT NULL,
                account BLOB NOT NULL, job INTEGER, package INTEGER, worker BLOB, amount BLOB NOT NULL,
                treasury BLOB NOT NULL, burned BLOB NOT NULL, PRIMARY KEY(seq, part)) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS movements_by_account ON movements(account, seq);
             CREATE INDEX IF NOT EXISTS movements_by_job ON movements(job, seq) WHERE job IS NOT NULL;",
        )?;
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        Ok(Self { connection })
    }

    /// Forgets everything, to be filled again from the journal's beginning.
    pub fn clear(&mut self) -> Result<(), StoreError> {
        self.connection.execute_batch(
            "BEGIN; DELETE FROM watermark; DELETE FROM jobs; DELETE FROM workers; DELETE FROM movements; COMMIT;",
        )?;
        Ok(())
    }

    /// The first journal sequence whose changes are not in yet.
    pub fn watermark(&self) -> Result<u64, StoreError> {
        let seq = self.connection.query_row("SELECT seq FROM watermark", [], |row| row.get(0)).optional()?;
        Ok(seq.unwrap_or(0))
    }

    /// Writes a batch and moves the watermark to `seq`, the first sequence after it, together.
    pub fn apply(&mut self, seq: u64, batch: &Batch) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO jobs(id, owner, name, units, submitted_at_ms, ended_how, ended_at_ms)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT(id) DO NOTHING",
            )?;
            for row in batch.jobs.values() {
                let (how, at) = row.ended.unzip();
                let units = i64::try_from(row.units).unwrap_or(i64::MAX);
                insert.execute(params![
                    row.id.0,
                    &row.owner.0[..],
                    row.name,
                    units,
                    row.submitted_at_ms,
                    how,
                    at
                ])?;
            }
            let mut end = transaction
                .prepare_cached("UPDATE jobs SET ended_how = ?2, ended_at_ms = ?3 WHERE id = ?1")?;
            for (id, (how, at_ms)) in &batch.ended {
                end.execute(params![id.0, how, at_ms])?;
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
                    // SQLite's integers end at 2⁶³.
                    m.amount.0.to_be_bytes(),
                    m.treasury.0.to_be_bytes(),
                    m.burned.0.to_be_bytes(),
                ])?;
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

    /// Jobs, newest first.
    pub fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        let (mut conditions, mut values) = (vec!["1"], Vec::<Value>::new());
        if let Some(owner) = filter.owner {
            conditions.push("owner = ?");
            values.push(owner.0.to_vec().into());
        }
        if let Some(name) = &filter.name_contains {
            conditions.push("instr(lower(name), lower(?)) > 0");
            values.push(name.clone().into());
        }
        if let Some(before) = filter.before {
            conditions.push("id < ?");
            values.push(integer(before.0));
        }
        values.push(i64::from(filter.limit).into());
        let sql = format!(
            "SELECT id, owner, name, units, submitted_at_ms, ended_how, ended_at_ms FROM jobs WHERE {}
             ORDER BY id DESC LIMIT ?",
            conditions.join(" AND ")
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(values), |row| {
            Ok(JobRow {
                id: JobId(row.get(0)?),
                owner: PublicKey(row.get(1)?),
                name: row.get(2)?,
                units: row.get(3)?,
                submitted_at_ms: row.get(4)?,
                ended: row.get::<_, Option<u8>>(5)?.zip(row.get::<_, Option<u64>>(6)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Workers, the last announced first.
    pub fn workers(&self, filter: &WorkerFilter) -> Result<Vec<WorkerRow>, StoreError> {
        let (mut conditions, mut values) = (vec!["1"], Vec::<Value>::new());
        if let Some(owner) = filter.owner {
            conditions.push("owner = ?");
            values.push(owner.0.to_vec().into());
        }
        if let Some((at_ms, id)) = filter.after {
            conditions.push("(announced_at_ms < ? OR announced_at_ms = ? AND id > ?)");
            values.extend([integer(at_ms), integer(at_ms), id.0.to_vec().into()]);
        }
        values.push(i64::from(filter.limit).into());
        let sql = format!(
            "SELECT id, owner, adapter, announced_at_ms FROM workers WHERE {}
             ORDER BY announced_at_ms DESC, id LIMIT ?",
            conditions.join(" AND ")
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(values), |row| {
            Ok(WorkerRow {
                id: PublicKey(row.get(0)?),
                owner: PublicKey(row.get(1)?),
                adapter: row.get(2)?,
                announced_at_ms: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Movements of money, newest first; within one event in order of their parts, last first.
    pub fn movements(&self, filter: &MovementFilter) -> Result<Vec<Movement>, StoreError> {
        let (mut conditions, mut values) = (vec!["1"], Vec::<Value>::new());
        if let Some(account) = filter.account {
            conditions.push("account = ?");
            values.push(account.0.to_vec().into());
        }
        if let Some(job) = filter.job {
            conditions.push("job = ?");
            values.push(integer(job.0));
        }
        if let Some(seq) = filter.seq_max {
            conditions.push("seq <= ?");
            values.push(integer(seq));
        }
        values.push(i64::from(filter.limit).into());
        let sql = format!(
            "SELECT seq, part, at_ms, kind, account, job, package, worker, amount, treasury, burned FROM movements
             WHERE {} ORDER BY seq DESC, part DESC LIMIT ?",
            conditions.join(" AND ")
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(values), movement)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn integer(value: u64) -> Value {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}

fn movement(row: &Row<'_>) -> Result<Movement, rusqlite::Error> {
    let amount = |index| Ok::<_, rusqlite::Error>(Amount(u64::from_be_bytes(row.get(index)?)));
    Ok(Movement {
        seq: row.get(0)?,
        part: row.get(1)?,
        at_ms: row.get(2)?,
        kind: match row.get::<_, u8>(3)? {
            0 => MovementKind::Deposit,
            1 => MovementKind::Escrow,
            2 => MovementKind::Work,
            3 => MovementKind::Check,
            4 => MovementKind::Refund,
            other => return Err(rusqlite::Error::IntegralValueOutOfRange(3, other.into())),
        },
        account: PublicKey(row.get(4)?),
        job: row.get::<_, Option<u64>>(5)?.map(JobId),
        package: row.get::<_, Option<u64>>(6)?.map(PackageId),
        worker: row.get::<_, Option<[u8; 32]>>(7)?.map(PublicKey),
        amount: amount(8)?,
        treasury: amount(9)?,
        burned: amount(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: PublicKey = PublicKey([1; 32]);
    const BOB: PublicKey = PublicKey([2; 32]);

    fn job(id: u64, owner: PublicKey, name: &str) -> JobRow {
        JobRow { id: JobId(id), owner, name: name.into(), units: 5, submitted_at_ms: id, ended: None }
    }

    fn paid(seq: u64, part: u32, account: PublicKey, job: u64) -> Movement {
        Movement {
            seq,
            part,
            at_ms: 9,
            kind: MovementKind::Work,
            account,
            job: Some(JobId(job)),
            package: None,
            worker: Some(BOB),
            amount: Amount(u64::MAX),
            treasury: Amount(5),
            burned: Amount(6),
        }
    }

    #[test]
    fn jobs_are_found_by_owner_and_name_page_by_page() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut model = ReadModel::open(&folder.path().join("read.db")).expect("opens");
        let mut batch = Batch::default();
        for (id, owner, name) in [(1, ADA, "Digits"), (2, BOB, "render"), (3, ADA, "digits again")] {
            batch.job(job(id, owner, name));
        }
        batch.job_ended(JobId(1), 4, 77);
        model.apply(10, &batch).expect("room");
        let mut later = Batch::default();
        later.job_ended(JobId(2), 5, 78);
        model.apply(12, &later).expect("room");

        let ids = |filter: &JobFilter| -> Vec<u64> {
            model.jobs(filter).expect("readable").iter().map(|row| row.id.0).collect()
        };
        let all = JobFilter { limit: 10, ..JobFilter::default() };
        assert_eq!(ids(&all), [3, 2, 1]);
        assert_eq!(ids(&JobFilter { limit: 2, ..all.clone() }), [3, 2]);
        assert_eq!(ids(&JobFilter { before: Some(JobId(2)), ..all.clone() }), [1]);
        assert_eq!(ids(&JobFilter { owner: Some(ADA), ..all.clone() }), [3, 1]);
        assert_eq!(ids(&JobFilter { name_contains: Some("DIGITS".into()), ..all.clone() }), [3, 1]);
        let rows = model.jobs(&all).expect("readable");
        assert_eq!(
            rows.iter().map(|row| row.ended).collect::<Vec<_>>(),
            [None, Some((5, 78)), Some((4, 77))]
        );
        assert_eq!(model.watermark().expect("readable"), 12);
    }

    #[test]
    fn workers_are_listed_page_by_page() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut model = ReadModel::open(&folder.path().join("read.db")).expect("opens");
        let mut batch = Batch::default();
        for (n, owner, announced_at_ms) in [(1, ADA, 7), (2, BOB, 9), (3, ADA, 9)] {
            batch.worker(WorkerRow { id: PublicKey([n; 32]), owner, adapter: "x".into(), announced_at_ms });
        }
        model.apply(3, &batch).expect("room");
        let list = |filter: &WorkerFilter| -> Vec<u8> {
            model.workers(filter).expect("readable").iter().map(|row| row.id.0[0]).collect()
        };
        let all = WorkerFilter { limit: 10, ..WorkerFilter::default() };
        assert_eq!(list(&all), [2, 3, 1]);
        assert_eq!(list(&WorkerFilter { owner: Some(ADA), ..all.clone() }), [3, 1]);
        assert_eq!(list(&WorkerFilter { limit: 1, ..all.clone() }), [2]);
        assert_eq!(list(&WorkerFilter { after: Some((9, PublicKey([2; 32]))), ..all.clone() }), [3, 1]);
        assert_eq!(list(&WorkerFilter { after: Some((9, PublicKey([3; 32]))), ..all }), [1]);
    }

    #[test]
    fn applying_a_stretch_again_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("read.db");
        let mut model = ReadModel::open(&path).expect("opens");
        let mut batch = Batch::default();
        batch.job(job(1, ADA, "a"));
        batch.worker(WorkerRow { id: BOB, owner: ADA, adapter: "x".into(), announced_at_ms: 3 });
        for movement in [paid(2, 0, ADA, 1), paid(2, 1, BOB, 1), paid(3, 0, ADA, 2)] {
            batch.movement(movement);
        }
        model.apply(3, &batch).expect("room");
        model.apply(3, &batch).expect("room");
        drop(model);
        let model = ReadModel::open(&path).expect("opens again");
        let all = MovementFilter { limit: 10, ..MovementFilter::default() };
        let list = |filter: &MovementFilter| -> Vec<(u64, u32)> {
            model.movements(filter).expect("readable").iter().map(|m| (m.seq, m.part)).collect()
        };
        assert_eq!(list(&all), [(3, 0), (2, 1), (2, 0)]);
        assert_eq!(list(&MovementFilter { account: Some(ADA), ..all.clone() }), [(3, 0), (2, 0)]);
        assert_eq!(list(&MovementFilter { job: Some(JobId(1)), ..all.clone() }), [(2, 1), (2, 0)]);
        assert_eq!(list(&MovementFilter { seq_max: Some(2), limit: 1, ..all.clone() }), [(2, 1)]);
        assert_eq!(model.movements(&all).expect("readable")[1], paid(2, 1, BOB, 1));
    }
}
