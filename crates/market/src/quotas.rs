//! What one account may have in the market at once.
//!
//! What an account has is the engine's to know, and counting it takes a look at every open job or worker. So a bound is kept
//! here: it grows with what is let in and never shrinks, and only where it would pass the limit is it counted again. A refusal
//! is exact, and an account far from its limit costs nothing. A bound that is not remembered is counted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use api::code;
use engine::State;
use protocol::{Hash, PublicKey};

use crate::{committer::Committer, failure::Failure, uploads::Uploads};

/// Accounts whose bounds are remembered.
const ACCOUNTS_MAX: usize = 16 * 1024;

/// What one account may have at once; 0 is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Jobs that have not ended.
    pub jobs_unfinished_max: u64,
    /// Units of its jobs that wait to be leased.
    pub units_waiting_max: u64,
    /// Workers that are paid to it and are not gone.
    pub workers_max: u64,
    /// Bytes of blobs that it stored first, in the days for which blobs are kept.
    pub blob_bytes_max: u64,
}

impl Default for Quotas {
    /// Far above what anybody does by hand; what they bound is the memory that one account may take.
    fn default() -> Self {
        Self {
            jobs_unfinished_max: 100_000,
            units_waiting_max: 1_000_000_000,
            workers_max: 20_000,
            blob_bytes_max: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    jobs: u64,
    units: u64,
    workers: u64,
}

impl Held {
    fn with(self, more: Self) -> Self {
        Self {
            jobs: self.jobs.saturating_add(more.jobs),
            units: self.units.saturating_add(more.units),
            workers: self.workers.saturating_add(more.workers),
        }
    }

    fn without(self, less: Self) -> Self {
        Self {
            jobs: self.jobs.saturating_sub(less.jobs),
            units: self.units.saturating_sub(less.units),
            workers: self.workers.saturating_sub(less.workers),
        }
    }

    /// What the account has, exactly.
    fn count(state: &State, now_ms: u64, account: PublicKey) -> Self {
        let mut held = Self::default();
        for job in state.jobs().values().filter(|job| job.owner == account && !job.state.ended()) {
            held = held.with(Self { jobs: 1, units: job.waiting_units(), workers: 0 });
        }
        let workers = state.workers().iter().filter(|(_, worker)| worker.online());
        held.workers =
            workers.filter(|(key, _)| state.wallet_of(**key, now_ms) == Some(account)).count() as u64;
        held
    }
}

/// No account has more than the sum.
#[derive(Clone, Copy, Debug, Default)]
struct Bound {
    /// In the state, at most.
    held: Held,
    /// Let in, and on its way to the state.
    coming: Held,
}

/// Keeps the quotas.
#[derive(Clone)]
pub struct Keeper {
    quotas: Quotas,
    bounds: Arc<Mutex<HashMap<PublicKey, Bound>>>,
    uploads: Arc<Uploads>,
}

/// Room that was taken. It is given back unless it is [used](Room::used).
pub struct Room {
    keeper: Keeper,
    account: PublicKey,
    taken: Held,
}

impl Room {
    /// What it was taken for is there.
    pub fn used(mut self) {
        self.end(true);
        self.taken = Held::default();
    }

    fn end(&self, used: bool) {
        let mut bounds = self.keeper.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = bounds.get_mut(&self.account) {
            bound.coming = bound.coming.without(self.taken);
            if used {
                bound.held = bound.held.with(self.taken);
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl Keeper {
    /// With nobody known.
    pub fn new(quotas: Quotas, uploads: Arc<Uploads>) -> Self {
        Self { quotas, bounds: Arc::default(), uploads }
    }

    /// Whether an account may store so many bytes more. An upload that was begun is not broken off.
    pub fn check_blob(&self, account: &PublicKey, bytes: u64) -> Result<(), Failure> {
        let max = self.quotas.blob_bytes_max;
        let used = if max == 0 { 0 } else { self.uploads.used(account) };
        if max == 0 || used.saturating_add(bytes) <= max {
            return Ok(());
        }
        let fix = "wait until what nobody needs is collected; blobs that are there already need not be sent";
        Err(exceeded("blob_mib_max", used >> 20, bytes.div_ceil(1 << 20), max >> 20, fix))
    }

    /// An account stored a blob that was not there.
    pub fn stored_blob(&self, account: PublicKey, bytes: u64) {
        self.uploads.add(account, bytes);
    }

    /// Room for a job. A submission that was taken before needs none: `known` asks the state.
    pub async fn job(
        &self,
        committer: &Committer,
        account: PublicKey,
        units: u64,
        key: Option<Hash>,
    ) -> Result<Room, Failure> {
        let wanted = Held { jobs: 1, units, workers: 0 };
        let known = move |state: &State| key.is_some_and(|key| state.remembers(&key));
        self.room(committer, account, wanted, known).await
    }

    /// Room for a worker. One that is there already needs none.
    pub async fn worker(
        &self,
        committer: &Committer,
        account: PublicKey,
        worker: PublicKey,
    ) -> Result<Room, Failure> {
        let wanted = Held { jobs: 0, units: 0, workers: 1 };
        let known = move |state: &State| state.workers().get(&worker).is_some_and(|worker| worker.online());
        self.room(committer, account, wanted, known).await
    }

    async fn room(
        &self,
        committer: &Committer,
        account: PublicKey,
        wanted: Held,
        known: impl Fn(&State) -> bool + Send + 'static,
    ) -> Result<Room, Failure> {
        if let Some(room) = self.take(account, wanted, None).ok().flatten() {
            return Ok(room);
        }
        let count =
            committer.query(
                move |state, now_ms| {
                    if known(state) { None } else { Some(Held::count(state, now_ms, account)) }
                },
            );
        let counted = match count.await {
            Ok(Some(counted)) => counted,
            Ok(None) => return Ok(self.no_room_needed(account)),
            Err(refusal) => return Err(refusal.into()),
        };
        self.take(account, wanted, Some(counted))?
            .ok_or_else(|| Failure::internal("a counted bound is unknown"))
    }

    fn no_room_needed(&self, account: PublicKey) -> Room {
        Room { keeper: self.clone(), account, taken: Held::default() }
    }

    /// Takes room from the bound, or from what was counted just now. Nothing when the bound is not known.
    fn take(&self, account: PublicKey, wanted: Held, counted: Option<Held>) -> Result<Option<Room>, Failure> {
        let mut bounds = self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        let known = bounds.get(&account).copied();
        let Some(held) = counted.or(known.map(|bound| bound.held)) else { return Ok(None) };
        let coming = known.unwrap_or_default().coming;
        self.within(held.with(coming), wanted)?;
        if bounds.len() >= ACCOUNTS_MAX {
            bounds.retain(|_, bound| bound.coming != Held::default());
        }
        bounds.insert(account, Bound { held, coming: coming.with(wanted) });
        Ok(Some(Room { keeper: self.clone(), account, taken: wanted }))
    }

    fn within(&self, held: Held, wanted: Held) -> Result<(), Failure> {
        let Quotas { jobs_unfinished_max, units_waiting_max, workers_max, .. } = self.quotas;
        let check = |quota, held: u64, wanted: u64, max: u64, fix| {
            let fits = wanted == 0 || max == 0 || held.saturating_add(wanted) <= max;
            if fits { Ok(()) } else { Err(exceeded(quota, held, wanted, max, fix)) }
        };
        let fix = "wait until a job has ended, or cancel one";
        check("jobs_unfinished_max", held.jobs, wanted.jobs, jobs_unfinished_max, fix)?;
        let fix = "wait until units are leased, or submit fewer at once";
        check("units_waiting_max", held.units, wanted.units, units_waiting_max, fix)?;
        let fix = "stop a worker, or use another wallet";
        check("workers_max", held.workers, wanted.workers, workers_max, fix)
    }
}

/// The refusal that names the quota.
pub fn exceeded(quota: &str, used: u64, wanted: u64, limit: u64, fix: &str) -> Failure {
    let detail =
        format!("the account's quota {quota} is {limit}; {used} are used and {wanted} more were asked for");
    Failure::new(code::QUOTA_EXCEEDED, detail, fix).at(quota)
}
