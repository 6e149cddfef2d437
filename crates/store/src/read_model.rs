//! The read model: what lists, statements and history are answered from.
//!
//! It follows the journal with its own watermark and can be deleted: following from the beginning gives the same rows. A
//! [`Batch`] holds what a stretch of the journal changed, already folded to one change a key, so that a busy job costs one
//! write a batch and not one an event. Because the journal is the truth, its commits are not synced one by one.
//!
//! It is kept in an SQLite file or, for several processes, on a server that speaks PostgreSQL's protocol. The questions are one
//! text for both; only how rows are written differs.

mod file;
mod server;

use std::collections::BTreeMap;

use protocol::{Amount, Hash, JobId, PackageId, PublicKey, UnitRun, VerdictId};

use crate::{Location, StoreError};

/// Version of the tables. Another version's file is emptied and rebuilt from the journal; on a server each version has tables of
/// its own, so that programs of both can run side by side.
const SCHEMA_VERSION: u32 = 5;

/// Most rows of one unit, or of one package: failed attempts and opinions are fewer.
const TRACES_MAX: u32 = 1_000;

/// What a stretch of the journal changed.
#[derive(Debug, Default)]
pub struct Batch {
    jobs: BTreeMap<JobId, JobRow>,
    ended: BTreeMap<JobId, (u8, u64)>,
    archived: BTreeMap<JobId, Hash>,
    workers: BTreeMap<PublicKey, WorkerRow>,
    movements: Vec<Movement>,
    traces: Vec<Trace>,
    verdicts: BTreeMap<VerdictId, VerdictRow>,
    verdict_changes: BTreeMap<VerdictId, VerdictChange>,
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
    /// The blob with its archive, once it is archived.
    pub archive: Option<Hash>,
}

/// A job that is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchivedRow {
    /// The job.
    pub id: JobId,
    /// The blob with its archive.
    pub archive: Hash,
    /// When it ended.
    pub ended_at_ms: u64,
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

/// A verdict, for ever. What was said and paid are texts that only the market reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictRow {
    /// The verdict.
    pub id: VerdictId,
    /// The job of the package.
    pub job: JobId,
    /// Who computed it.
    pub worker: PublicKey,
    /// The wallet that would have been paid.
    pub owner: PublicKey,
    /// When it was reached.
    pub at_ms: u64,
    /// What was found.
    pub reached: String,
    /// What became of it since.
    pub change: VerdictChange,
}

/// What became of a verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerdictChange {
    /// Where it is; the market numbers the ways.
    pub state: u8,
    /// How it was contested; empty when it was not.
    pub contested: String,
    /// How it became final; empty before that.
    pub closed: String,
}

impl VerdictChange {
    /// Both together, the later one last.
    fn then(&mut self, later: Self) {
        self.state = later.state;
        for (text, later) in [(&mut self.contested, later.contested), (&mut self.closed, later.closed)] {
            if !later.is_empty() {
                *text = later;
            }
        }
    }
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

/// Where the journal tells of a package. What an event tells together with others of its group needs no row of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The package.
    pub package: PackageId,
    /// The journal sequence of the event.
    pub seq: u64,
    /// The package's job.
    pub job: JobId,
    /// The package's units, where the event is the one that commits to their results.
    pub run: Option<UnitRun>,
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
    /// From a balance into stake.
    Bond = 5,
    /// Stake that is free again.
    Unbond = 6,
    /// New tokens for the work of an epoch.
    Reward = 7,
    /// A part of what a job paid, to whom it names.
    Royalty = 8,
}

impl MovementKind {
    /// By its number.
    const ALL: [Self; 9] = [
        Self::Deposit,
        Self::Escrow,
        Self::Work,
        Self::Check,
        Self::Refund,
        Self::Bond,
        Self::Unbond,
        Self::Reward,
        Self::Royalty,
    ];
}

impl Batch {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes held.
    pub fn len(&self) -> usize {
        let jobs = self.jobs.len() + self.ended.len() + self.archived.len();
        let verdicts = self.verdicts.len() + self.verdict_changes.len();
        jobs + verdicts + self.workers.len() + self.movements.len() + self.traces.len()
    }

    /// A job is new.
    pub fn job(&mut self, mut row: JobRow) {
        row.name = storable(row.name);
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

    /// A job is archived.
    pub fn job_archived(&mut self, id: JobId, archive: Hash) {
        match self.jobs.get_mut(&id) {
            Some(row) => row.archive = Some(archive),
            None => {
                self.archived.insert(id, archive);
            }
        }
    }

    /// A worker is new or announced itself again.
    pub fn worker(&mut self, mut row: WorkerRow) {
        row.adapter = storable(row.adapter);
        self.workers.insert(row.id, row);
    }

    /// The journal tells of a package.
    pub fn trace(&mut self, trace: Trace) {
        self.traces.push(trace);
    }

    /// A verdict was reached.
    pub fn verdict(&mut self, mut row: VerdictRow) {
        row.reached = storable(row.reached);
        self.verdicts.insert(row.id, row);
    }

    /// A verdict was contested, or became final.
    pub fn verdict_changed(&mut self, id: VerdictId, change: VerdictChange) {
        let change = VerdictChange {
            contested: storable(change.contested),
            closed: storable(change.closed),
            ..change
        };
        match self.verdicts.get_mut(&id) {
            Some(row) => row.change.then(change),
            None => self.verdict_changes.entry(id).or_default().then(change),
        }
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
    /// Not newer than this part of the event with this sequence.
    pub upto: Option<(u64, u32)>,
    /// At most this many.
    pub limit: u32,
}

/// Which verdicts to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct VerdictFilter {
    /// This one alone.
    pub id: Option<VerdictId>,
    /// On packages of this owner.
    pub owner: Option<PublicKey>,
    /// On packages of this job.
    pub job: Option<JobId>,
    /// Older than this one.
    pub before: Option<VerdictId>,
    /// At most this many.
    pub limit: u32,
}

/// The open read model.
///
/// On a server its calls block on the network: make them from a plain thread or `spawn_blocking`.
pub struct ReadModel {
    backend: Backend,
}

enum Backend {
    File(file::File),
    Server(server::Server),
}

impl ReadModel {
    /// Opens the tables and creates them where there are none. A file with another version's tables is emptied.
    pub fn open(location: impl Into<Location>, market: &PublicKey) -> Result<Self, StoreError> {
        let backend = match location.into() {
            Location::File(path) => Backend::File(file::File::open(&path)?),
            Location::Server(url) => Backend::Server(server::Server::open(&url, market)?),
        };
        Ok(Self { backend })
    }

    /// Forgets everything, to be filled again from the journal's beginning.
    pub fn clear(&mut self) -> Result<(), StoreError> {
        match &mut self.backend {
            Backend::File(file) => file.clear(),
            Backend::Server(server) => server.clear(),
        }
    }

    /// The first journal sequence whose changes are not in yet.
    pub fn watermark(&self) -> Result<u64, StoreError> {
        let seqs = self.ask(&Question::about("SELECT seq FROM", "watermark"), |row| unsigned(row, 0))?;
        Ok(seqs.first().copied().unwrap_or(0))
    }

    /// Writes a batch and moves the watermark to `seq`, the first sequence after it, together. Changes nothing when somebody
    /// else brought the watermark further already.
    pub fn apply(&mut self, seq: u64, batch: &Batch) -> Result<(), StoreError> {
        match &mut self.backend {
            Backend::File(file) => file.apply(seq, batch),
            Backend::Server(server) => server.apply(seq, batch),
        }
    }

    /// Jobs, newest first.
    pub fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        let columns = "SELECT id, owner, name, units, submitted_at_ms, ended_how, ended_at_ms, archive FROM";
        let mut question = Question::about(columns, "jobs");
        if let Some(owner) = filter.owner {
            question.that("owner = $", owner);
        }
        if let Some(name) = &filter.name_contains {
            question.that("name_folded LIKE $ ESCAPE '!'", pattern(name));
        }
        if let Some(before) = filter.before {
            question.that("id < $", before.0);
        }
        self.ask(&question.list("id DESC", filter.limit), |row| {
            Ok(JobRow {
                id: JobId(unsigned(row, 0)?),
                owner: key(row, 1)?,
                name: row.text(2)?,
                units: unsigned(row, 3)?,
                submitted_at_ms: unsigned(row, 4)?,
                ended: row
                    .integer(5)?
                    .and_then(|how| u8::try_from(how).ok())
                    .zip(row.integer(6)?.and_then(|at| u64::try_from(at).ok())),
                archive: row.bytes(7)?.map(|_| fixed(row, 7).map(Hash)).transpose()?,
            })
        })
    }

    /// The blob with a job's archive, if it is archived.
    pub fn archive(&self, job: JobId) -> Result<Option<Hash>, StoreError> {
        let mut question = Question::about("SELECT archive FROM", "jobs");
        question.that("archive IS NOT NULL AND id = $", job.0);
        Ok(self.ask(&question.list("id", 1), |row| fixed(row, 0).map(Hash))?.pop())
    }

    /// Archived jobs after this one, in order.
    pub fn archives(&self, after: JobId, limit: u32) -> Result<Vec<ArchivedRow>, StoreError> {
        let mut question = Question::about("SELECT id, archive, ended_at_ms FROM", "jobs");
        question.that("archive IS NOT NULL AND id > $", after.0);
        self.ask(&question.list("id", limit), |row| {
            let (id, archive) = (JobId(unsigned(row, 0)?), Hash(fixed(row, 1)?));
            Ok(ArchivedRow { id, archive, ended_at_ms: unsigned(row, 2)? })
        })
    }

    /// Workers, the last announced first.
    pub fn workers(&self, filter: &WorkerFilter) -> Result<Vec<WorkerRow>, StoreError> {
        let mut question = Question::about("SELECT id, owner, adapter, announced_at_ms FROM", "workers");
        if let Some(owner) = filter.owner {
            question.that("owner = $", owner);
        }
        if let Some((at_ms, id)) = filter.after {
            let at = question.value(at_ms);
            question.that(&format!("(announced_at_ms < {at} OR announced_at_ms = {at} AND id > $)"), id);
        }
        self.ask(&question.list("announced_at_ms DESC, id", filter.limit), |row| {
            Ok(WorkerRow {
                id: key(row, 0)?,
                owner: key(row, 1)?,
                adapter: row.text(2)?,
                announced_at_ms: unsigned(row, 3)?,
            })
        })
    }

    /// Movements of money, newest first; within one event in order of their parts, last first.
    pub fn movements(&self, filter: &MovementFilter) -> Result<Vec<Movement>, StoreError> {
        let columns =
            "SELECT seq, part, at_ms, kind, account, job, package, worker, amount, treasury, burned FROM";
        let mut question = Question::about(columns, "movements");
        if let Some(account) = filter.account {
            question.that("account = $", account);
        }
        if let Some(job) = filter.job {
            question.that("job = $", job.0);
        }
        if let Some((seq, part)) = filter.upto {
            let seq = question.value(seq);
            question.that(&format!("(seq < {seq} OR seq = {seq} AND part <= $)"), u64::from(part));
        }
        self.ask(&question.list("seq DESC, part DESC", filter.limit), |row| {
            let id = |index| -> Result<Option<u64>, StoreError> {
                row.integer(index)?.map(|_| unsigned(row, index)).transpose()
            };
            Ok(Movement {
                seq: unsigned(row, 0)?,
                part: unsigned(row, 1)?,
                at_ms: unsigned(row, 2)?,
                kind: *MovementKind::ALL
                    .get(unsigned::<usize>(row, 3)?)
                    .ok_or_else(|| unreadable("a movement's kind"))?,
                account: key(row, 4)?,
                job: id(5)?.map(JobId),
                package: id(6)?.map(PackageId),
                worker: row.bytes(7)?.map(|_| key(row, 7)).transpose()?,
                amount: amount(row, 8)?,
                treasury: amount(row, 9)?,
                burned: amount(row, 10)?,
            })
        })
    }

    /// Packages with committed results for this unit, whatever became of them, the first one first. Of packages with at most `units_max`
    /// units none is missed.
    pub fn packages_of_unit(
        &self,
        job: JobId,
        unit: u64,
        units_max: u64,
    ) -> Result<Vec<PackageId>, StoreError> {
        let mut question = Question::about("SELECT package FROM", "traces");
        question.that("job = $", job.0);
        question.that("first <= $", unit);
        question.that("first + count > $", unit);
        // With this the index ends the search.
        question.that("first >= $", unit.saturating_sub(units_max));
        self.ask(&question.list("seq", TRACES_MAX), |row| Ok(PackageId(unsigned(row, 0)?)))
    }

    /// Packages of a job with committed results, by their first units, after this one.
    pub fn packages_of_job(
        &self,
        job: JobId,
        after: Option<(u64, PackageId)>,
        limit: u32,
    ) -> Result<Vec<(u64, PackageId)>, StoreError> {
        let mut question = Question::about("SELECT first, package FROM", "traces");
        question.that("job = $", job.0);
        let (first, package) = after.unwrap_or((0, PackageId(0)));
        let first = question.value(first);
        question.that(&format!("first >= {first} AND (first > {first} OR package > $)"), package.0);
        self.ask(&question.list("first, package", limit), |row| {
            Ok((unsigned(row, 0)?, PackageId(unsigned(row, 1)?)))
        })
    }

    /// Where the journal tells of a package, in order.
    pub fn traces(&self, package: PackageId) -> Result<Vec<u64>, StoreError> {
        let mut question = Question::about("SELECT seq FROM", "traces");
        question.that("package = $", package.0);
        self.ask(&question.list("seq", TRACES_MAX), |row| unsigned(row, 0))
    }

    /// Verdicts, newest first.
    pub fn verdicts(&self, filter: &VerdictFilter) -> Result<Vec<VerdictRow>, StoreError> {
        let columns = "SELECT id, job, worker, owner, at_ms, reached, state, contested, closed FROM";
        let mut question = Question::about(columns, "verdicts");
        if let Some(id) = filter.id {
            question.that("id = $", id.0);
        }
        if let Some(owner) = filter.owner {
            question.that("owner = $", owner);
        }
        if let Some(job) = filter.job {
            question.that("job = $", job.0);
        }
        if let Some(before) = filter.before {
            question.that("id < $", before.0);
        }
        self.ask(&question.list("id DESC", filter.limit), |row| {
            Ok(VerdictRow {
                id: VerdictId(unsigned(row, 0)?),
                job: JobId(unsigned(row, 1)?),
                worker: key(row, 2)?,
                owner: key(row, 3)?,
                at_ms: unsigned(row, 4)?,
                reached: row.text(5)?,
                change: VerdictChange {
                    state: unsigned(row, 6)?,
                    contested: row.text(7)?,
                    closed: row.text(8)?,
                },
            })
        })
    }

    fn ask<T>(
        &self,
        question: &Question,
        read: impl Fn(&dyn Columns) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        match &self.backend {
            Backend::File(file) => file.ask(question, read),
            Backend::Server(server) => server.ask(question, read),
        }
    }
}

/// A SELECT whose conditions are put together, with `$1`, `$2` … for its values.
struct Question {
    columns: &'static str,
    table: &'static str,
    conditions: Vec<String>,
    order: String,
    values: Vec<Value>,
}

/// What stands for a `$n`.
#[derive(Debug)]
enum Value {
    Integer(i64),
    Bytes(Vec<u8>),
    Text(String),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        // From outside, and nothing is larger.
        Self::Integer(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<PublicKey> for Value {
    fn from(key: PublicKey) -> Self {
        Self::Bytes(key.0.to_vec())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Question {
    fn about(columns: &'static str, table: &'static str) -> Self {
        Self { columns, table, conditions: Vec::new(), order: String::new(), values: Vec::new() }
    }

    /// Names a value in the text.
    fn value(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    /// Adds a condition that ends with its one new value, written `$`.
    fn that(&mut self, condition: &str, value: impl Into<Value>) {
        let name = self.value(value);
        self.conditions.push(named(condition, &name));
    }

    fn list(mut self, order: &str, limit: u32) -> Self {
        let limit = self.value(u64::from(limit));
        self.order = format!(" ORDER BY {order} LIMIT {limit}");
        self
    }

    /// The text, for tables whose names begin with `prefix`.
    fn sql(&self, prefix: &str) -> String {
        let mut sql = format!("{} {prefix}{}", self.columns, self.table);
        for (index, condition) in self.conditions.iter().enumerate() {
            sql += if index == 0 { " WHERE " } else { " AND " };
            sql += condition;
        }
        sql + &self.order
    }
}

/// Puts a name where a condition has a `$` without a number.
fn named(condition: &str, name: &str) -> String {
    let mut text = String::new();
    let mut rest = condition;
    while let Some(at) = rest.find('$') {
        text += &rest[..at];
        rest = &rest[at + 1..];
        text += if rest.starts_with(|c: char| c.is_ascii_digit()) { "$" } else { name };
    }
    text + rest
}

/// A row of an answer.
trait Columns {
    fn integer(&self, index: usize) -> Result<Option<i64>, StoreError>;
    fn bytes(&self, index: usize) -> Result<Option<Vec<u8>>, StoreError>;
    fn text(&self, index: usize) -> Result<String, StoreError>;
}

fn unsigned<T: TryFrom<i64>>(row: &dyn Columns, index: usize) -> Result<T, StoreError> {
    let value = row.integer(index)?.ok_or_else(|| unreadable("a missing number"))?;
    T::try_from(value).map_err(|_| unreadable("a number out of range"))
}

fn fixed<const N: usize>(row: &dyn Columns, index: usize) -> Result<[u8; N], StoreError> {
    let bytes = row.bytes(index)?.unwrap_or_default();
    bytes.try_into().map_err(|_| unreadable("a key or an amount of the wrong length"))
}

fn key(row: &dyn Columns, index: usize) -> Result<PublicKey, StoreError> {
    Ok(PublicKey(fixed(row, index)?))
}

/// Databases' integers end at 2⁶³, so that amounts are stored as bytes.
fn amount(row: &dyn Columns, index: usize) -> Result<Amount, StoreError> {
    Ok(Amount(u64::from_be_bytes(fixed(row, index)?)))
}

fn unreadable(what: &str) -> StoreError {
    StoreError::Rows { detail: what.into() }
}

/// Text without what PostgreSQL cannot store.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// A name as it is searched: in lower case.
fn folded(name: &str) -> String {
    name.to_lowercase()
}

/// The pattern of LIKE for a name that contains this, `!` being the escape.
fn pattern(part: &str) -> String {
    let mut pattern = String::from("%");
    for c in folded(&storable(part.into())).chars() {
        if matches!(c, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const ADA: PublicKey = PublicKey([1; 32]);
    const BOB: PublicKey = PublicKey([2; 32]);
    const MARKET: PublicKey = PublicKey([7; 32]);

    /// On each backend, in a fresh place.
    fn each(check: impl Fn(&Location)) {
        let folder = tempfile::tempdir().expect("a folder");
        check(&folder.path().join("read.db").into());
        check(&Location::parse(&testing::database()).expect("a URL"));
    }

    fn open(location: &Location) -> ReadModel {
        ReadModel::open(location, &MARKET).expect("opens")
    }

    fn job(id: u64, owner: PublicKey, name: &str) -> JobRow {
        let name = name.into();
        JobRow { id: JobId(id), owner, name, units: 5, submitted_at_ms: id, ended: None, archive: None }
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
        each(|location| {
            let mut model = open(location);
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
        });
    }

    #[test]
    fn archives_are_found_by_job_and_listed_in_order() {
        each(|location| {
            let mut model = open(location);
            let mut batch = Batch::default();
            for id in 1..=4 {
                batch.job(job(id, ADA, "a"));
                batch.job_ended(JobId(id), 0, 10 * id);
            }
            batch.job_archived(JobId(2), Hash([2; 32]));
            model.apply(1, &batch).expect("room");
            let mut later = Batch::default();
            for id in [1, 4] {
                later.job_archived(JobId(id), Hash([id as u8; 32]));
            }
            model.apply(2, &later).expect("room");
            let row =
                |id: u64| ArchivedRow { id: JobId(id), archive: Hash([id as u8; 32]), ended_at_ms: 10 * id };
            assert_eq!(model.archives(JobId(0), 9).expect("readable"), [row(1), row(2), row(4)]);
            assert_eq!(model.archives(JobId(1), 1).expect("readable"), [row(2)]);
            assert_eq!(model.archive(JobId(4)).expect("readable"), Some(Hash([4; 32])));
            assert_eq!(model.archive(JobId(3)).expect("readable"), None);
            let listed = model.jobs(&JobFilter { limit: 2, ..JobFilter::default() }).expect("readable");
            assert_eq!(listed.iter().map(|row| row.archive.is_some()).collect::<Vec<_>>(), [true, false]);
        });
    }

    #[test]
    fn workers_are_listed_page_by_page() {
        each(|location| {
            let mut model = open(location);
            let mut batch = Batch::default();
            for (n, owner, announced_at_ms) in [(1, ADA, 7), (2, BOB, 9), (3, ADA, 9)] {
                batch.worker(WorkerRow {
                    id: PublicKey([n; 32]),
                    owner,
                    adapter: "x".into(),
                    announced_at_ms,
                });
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
        });
    }

    #[test]
    fn verdicts_are_kept_with_what_became_of_them() {
        each(|location| {
            let mut model = open(location);
            let verdict = |id, owner| VerdictRow {
                id: VerdictId(id),
                job: JobId(id % 2),
                worker: BOB,
                owner,
                at_ms: id,
                reached: format!("{{\"what\": {id}}}"),
                change: VerdictChange::default(),
            };
            let contested = VerdictChange { state: 1, contested: "why".into(), ..VerdictChange::default() };
            let closed = VerdictChange { state: 3, closed: "how".into(), ..VerdictChange::default() };
            let mut batch = Batch::default();
            for (id, owner) in [(1, ADA), (2, BOB), (3, ADA)] {
                batch.verdict(verdict(id, owner));
            }
            batch.verdict_changed(VerdictId(3), contested.clone());
            model.apply(10, &batch).expect("room");
            let mut later = Batch::default();
            later.verdict_changed(VerdictId(1), contested.clone());
            later.verdict_changed(VerdictId(3), closed.clone());
            for _ in 0..2 {
                model.apply(12, &later).expect("room");
            }
            let all = VerdictFilter { limit: 10, ..VerdictFilter::default() };
            let both = VerdictChange { state: 3, contested: "why".into(), closed: "how".into() };
            let expected = [
                VerdictRow { change: both, ..verdict(3, ADA) },
                verdict(2, BOB),
                VerdictRow { change: contested, ..verdict(1, ADA) },
            ];
            assert_eq!(model.verdicts(&all).expect("readable"), expected);
            let ids = |filter: &VerdictFilter| -> Vec<u64> {
                model.verdicts(filter).expect("readable").iter().map(|row| row.id.0).collect()
            };
            assert_eq!(ids(&VerdictFilter { owner: Some(ADA), ..all.clone() }), [3, 1]);
            assert_eq!(ids(&VerdictFilter { job: Some(JobId(0)), ..all.clone() }), [2]);
            assert_eq!(ids(&VerdictFilter { before: Some(VerdictId(3)), limit: 1, ..all.clone() }), [2]);
            assert_eq!(ids(&VerdictFilter { id: Some(VerdictId(2)), ..all.clone() }), [2]);
            model.clear().expect("cleared");
            assert_eq!(model.verdicts(&all).expect("readable"), []);
        });
    }

    #[test]
    fn applying_a_stretch_again_changes_nothing() {
        each(|location| {
            let mut model = open(location);
            let mut batch = Batch::default();
            batch.job(job(1, ADA, "a"));
            batch.worker(WorkerRow { id: BOB, owner: ADA, adapter: "x".into(), announced_at_ms: 3 });
            for movement in [paid(2, 0, ADA, 1), paid(2, 1, BOB, 1), paid(3, 0, ADA, 2)] {
                batch.movement(movement);
            }
            model.apply(3, &batch).expect("room");
            model.apply(3, &batch).expect("room");
            drop(model);
            let model = open(location);
            let all = MovementFilter { limit: 10, ..MovementFilter::default() };
            let list = |filter: &MovementFilter| -> Vec<(u64, u32)> {
                model.movements(filter).expect("readable").iter().map(|m| (m.seq, m.part)).collect()
            };
            assert_eq!(list(&all), [(3, 0), (2, 1), (2, 0)]);
            assert_eq!(list(&MovementFilter { account: Some(ADA), ..all.clone() }), [(3, 0), (2, 0)]);
            assert_eq!(list(&MovementFilter { job: Some(JobId(1)), ..all.clone() }), [(2, 1), (2, 0)]);
            assert_eq!(list(&MovementFilter { upto: Some((2, 9)), limit: 1, ..all.clone() }), [(2, 1)]);
            assert_eq!(list(&MovementFilter { upto: Some((2, 0)), ..all.clone() }), [(2, 0)]);
            assert_eq!(model.movements(&all).expect("readable")[1], paid(2, 1, BOB, 1));
        });
    }

    #[test]
    fn a_name_is_searched_as_it_is_written_whatever_its_case() {
        each(|location| {
            let mut model = open(location);
            let mut batch = Batch::default();
            for (id, name) in [(1, "100%_done!"), (2, "ÉTUDE"), (3, "1000 done"), (4, "nul\0l")] {
                batch.job(job(id, ADA, name));
            }
            model.apply(1, &batch).expect("room");
            for (part, found) in
                [("%_D", vec![1]), ("done", vec![3, 1]), ("étude", vec![2]), ("!", vec![1]), ("\0", vec![4])]
            {
                let filter = JobFilter { name_contains: Some(part.into()), limit: 9, ..JobFilter::default() };
                let ids: Vec<u64> =
                    model.jobs(&filter).expect("readable").iter().map(|row| row.id.0).collect();
                assert_eq!(ids, found, "{part:?}");
            }
        });
    }

    #[test]
    fn a_late_follower_does_not_set_the_rows_back() {
        each(|location| {
            let (mut early, mut late) = (open(location), open(location));
            let mut all = Batch::default();
            all.job(job(1, ADA, "a"));
            let mut first = Batch::default();
            first.job(job(1, ADA, "a"));
            all.job_ended(JobId(1), 4, 9);
            early.apply(2, &first).expect("room");
            // Another that began at the same place comes with a longer stretch.
            late.apply(5, &all).expect("room");
            early.apply(3, &first).expect("nothing to do");
            assert_eq!(early.watermark().expect("readable"), 5);
            let rows = early.jobs(&JobFilter { limit: 9, ..JobFilter::default() }).expect("readable");
            assert_eq!(rows.iter().map(|row| row.ended).collect::<Vec<_>>(), [Some((4, 9))]);
        });
    }

    #[test]
    fn each_market_on_a_server_has_rows_of_its_own() {
        let location = Location::parse(&testing::database()).expect("a URL");
        let mut ours = open(&location);
        let mut other = ReadModel::open(&location, &PublicKey([8; 32])).expect("opens");
        let mut batch = Batch::default();
        batch.job(job(1, ADA, "a"));
        ours.apply(2, &batch).expect("room");
        let all = JobFilter { limit: 9, ..JobFilter::default() };
        assert!(other.jobs(&all).expect("readable").is_empty());
        other.apply(2, &batch).expect("room");
        ours.clear().expect("cleared");
        assert_eq!((ours.watermark().expect("readable"), other.watermark().expect("readable")), (0, 2));
        assert!(ours.jobs(&all).expect("readable").is_empty());
        assert_eq!(other.jobs(&all).expect("readable").len(), 1);
    }

    fn movement_of(seed: u64, seq: u64, part: u32) -> Movement {
        Movement {
            kind: MovementKind::ALL[seed as usize % MovementKind::ALL.len()],
            job: (!seed.is_multiple_of(3)).then_some(JobId(seed % 4)),
            package: seed.is_multiple_of(7).then_some(PackageId(seed)),
            worker: seed.is_multiple_of(2).then_some(BOB),
            amount: Amount(seed.wrapping_mul(u64::MAX / 11)),
            ..paid(seq, part, if seed.is_multiple_of(2) { ADA } else { BOB }, 0)
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { cases: 12, failure_persistence: None, ..Default::default() })]

        /// The same stretches, perhaps applied twice, give the same answers on either backend.
        #[test]
        fn both_backends_answer_alike(stretches in proptest::collection::vec(
            (proptest::collection::vec((0..40_u64, ".{0,6}"), 0..12), 0..3_u8), 1..6))
        {
            let folder = tempfile::tempdir().expect("a folder");
            let file = Location::from(folder.path().join("read.db"));
            let server = Location::parse(&testing::database()).expect("a URL");
            let mut models = [open(&file), open(&server)];
            for (n, (changes, again)) in stretches.iter().enumerate() {
                let mut batch = Batch::default();
                for (part, (seed, text)) in changes.iter().enumerate() {
                    let owner = if seed.is_multiple_of(2) { ADA } else { BOB };
                    match seed % 4 {
                        0 => batch.job(job(*seed, owner, text)),
                        1 => {
                            batch.job_ended(JobId(seed - 1), (seed % 6) as u8, *seed);
                            if seed.is_multiple_of(3) {
                                batch.job_archived(JobId(seed - 1), Hash([*seed as u8; 32]));
                            }
                        }
                        2 => batch.worker(WorkerRow {
                            id: PublicKey([*seed as u8; 32]),
                            owner,
                            adapter: text.clone(),
                            announced_at_ms: seed / 3,
                        }),
                        _ => batch.movement(movement_of(*seed, n as u64, part as u32)),
                    }
                }
                for model in &mut models {
                    for _ in 0..=*again {
                        model.apply(n as u64 + 1, &batch).expect("room");
                    }
                }
            }
            let answers = models.map(|model| {
                let jobs = [
                    JobFilter { limit: 100, ..JobFilter::default() },
                    JobFilter { owner: Some(ADA), before: Some(JobId(20)), limit: 3, ..JobFilter::default() },
                    JobFilter { name_contains: Some("A".into()), limit: 100, ..JobFilter::default() },
                    JobFilter { name_contains: Some("%".into()), limit: 100, ..JobFilter::default() },
                ];
                let workers = [
                    WorkerFilter { limit: 100, ..WorkerFilter::default() },
                    WorkerFilter { after: Some((5, PublicKey([18; 32]))), owner: Some(ADA), limit: 2 },
                ];
                let movements = [
                    MovementFilter { limit: 100, ..MovementFilter::default() },
                    MovementFilter { job: Some(JobId(3)), limit: 5, ..MovementFilter::default() },
                    MovementFilter { account: Some(BOB), upto: Some((2, 4)), limit: 5, ..MovementFilter::default() },
                ];
                (
                    model.watermark().expect("readable"),
                    jobs.map(|filter| model.jobs(&filter).expect("readable")),
                    workers.map(|filter| model.workers(&filter).expect("readable")),
                    movements.map(|filter| model.movements(&filter).expect("readable")),
                )
            });
            proptest::prop_assert_eq!(&answers[0], &answers[1]);
        }
    }
}
