//! A provider: what `crates/worker` does, in virtual time.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use protocol::{Amount, JobId, LeaseId, OutputCommitment, PublicKey, Receipt, WorkerOffer};

use crate::{devices::Device, truth::Nature};

/// More work is asked for when what is held lasts for less than this (`AHEAD` of the worker).
pub(crate) const AHEAD_US: u64 = 2_000_000;
/// Packages asked for at a time.
pub(crate) const PACKAGES_MAX: u32 = 2;
/// Packages whose results may wait for the market (`COMPUTED_MAX` of the worker).
const UNANSWERED_MAX: usize = 128;
/// Leases that are remembered, so that a repeated grant is not computed twice.
const SEEN_MAX: usize = 64;

/// A lease as the market's answer brings it.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) lease: LeaseId,
    pub(crate) generation: u32,
    pub(crate) job: JobId,
    pub(crate) units: Rc<[u64]>,
    pub(crate) check: bool,
}

/// A lease in a provider's hands.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) grant: Grant,
    /// Time it will take.
    pub(crate) cost_us: u64,
}

/// Results that the market has not answered yet.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) receipt: Receipt,
    pub(crate) units: Vec<(u64, Vec<OutputCommitment>)>,
}

/// One provider.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) key: PublicKey,
    pub(crate) device: Device,
    pub(crate) nature: Nature,
    /// What it asks for a second of the reference device.
    pub(crate) ask: Amount,
    pub(crate) latency_us: u64,
    /// Whether it never goes: the market's verifier.
    pub(crate) steady: bool,
    pub(crate) online: bool,
    /// Counts its lives. What is meant for an earlier one is not heard any more.
    pub(crate) incarnation: u32,
    pub(crate) announced: bool,
    pub(crate) draining: bool,
    pub(crate) queue: VecDeque<Held>,
    pub(crate) running: Option<Held>,
    pub(crate) running_since_us: u64,
    pub(crate) unanswered: BTreeMap<LeaseId, Rc<Results>>,
    pub(crate) asking: Option<u64>,
    pub(crate) asked_us: u64,
    /// Whether a timer looks after the request.
    pub(crate) ask_timer: bool,
    /// When it last was given, or gave back, a lease.
    pub(crate) stirred_us: u64,
    pub(crate) online_since_us: u64,
    pub(crate) online_us: u64,
    seen: VecDeque<LeaseId>,
}

impl Provider {
    pub(crate) fn new(key: PublicKey, device: Device, nature: Nature, latency_us: u64, steady: bool) -> Self {
        Self {
            key,
            device,
            nature,
            ask: Amount::ZERO,
            latency_us,
            steady,
            online: false,
            incarnation: 0,
            announced: false,
            draining: false,
            queue: VecDeque::new(),
            running: None,
            running_since_us: 0,
            unanswered: BTreeMap::new(),
            asking: None,
            asked_us: 0,
            ask_timer: false,
            stirred_us: 0,
            online_since_us: 0,
            online_us: 0,
            seen: VecDeque::new(),
        }
    }

    /// What it claims and asks. The reference device computes a million MFLOP/s.
    pub(crate) fn offer(&self) -> WorkerOffer {
        let boast = if self.nature == Nature::Boaster { 10 } else { 1 };
        WorkerOffer { claimed_mflops: self.device.speed_ppm * boast, ask: self.ask, ..WorkerOffer::default() }
    }

    pub(crate) fn come(&mut self, at_us: u64) {
        self.online = true;
        self.incarnation += 1;
        self.online_since_us = at_us;
        (self.announced, self.draining) = (false, false);
    }

    /// Forgets everything. Answers whether a device stood in work.
    pub(crate) fn go(&mut self, at_us: u64) -> bool {
        self.online = false;
        // What is still under way to this life is not heard by the next one.
        self.incarnation += 1;
        self.online_us += at_us - self.online_since_us;
        self.queue.clear();
        self.unanswered.clear();
        self.seen.clear();
        (self.asking, self.ask_timer) = (None, false);
        self.running.take().is_some()
    }

    /// Whether it wants more work now.
    pub(crate) fn wants_work(&self) -> bool {
        let held: u64 = self.queue.iter().chain(&self.running).map(|held| held.cost_us).sum();
        self.online
            && self.announced
            && !self.draining
            && self.asking.is_none()
            && held < AHEAD_US
            && self.unanswered.len() < UNANSWERED_MAX
    }

    /// Whether a lease comes for the first time.
    pub(crate) fn is_new(&mut self, lease: LeaseId) -> bool {
        let new = !self.seen.contains(&lease);
        if new {
            self.seen.truncate(SEEN_MAX - 1);
            self.seen.push_front(lease);
        }
        new
    }

    /// The leases it works on, as heartbeats list them.
    pub(crate) fn leases(&self) -> Vec<LeaseId> {
        let held = self.queue.iter().chain(&self.running).map(|held| held.grant.lease);
        held.chain(self.unanswered.keys().copied()).collect()
    }

    /// Time online, up to now.
    pub(crate) fn online_us_until(&self, at_us: u64) -> u64 {
        self.online_us + if self.online { at_us - self.online_since_us } else { 0 }
    }

    /// That time in hours at reference speed.
    pub(crate) fn offered_hours(&self, online_us: u64) -> f64 {
        online_us as f64 / 3.6e9 * self.device.speed_ppm as f64 / 1e6
    }

    /// Gives up leases that are to be yielded: those that it has not begun, and the one that runs, with how many of its units
    /// are finished.
    pub(crate) fn yield_up(&mut self, leases: &[LeaseId], at_us: u64) -> (Vec<Held>, Option<(Held, usize)>) {
        let wanted = |held: &Held| !held.grant.check && leases.contains(&held.grant.lease);
        let (untouched, queue): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.queue).into_iter().partition(wanted);
        self.queue = VecDeque::from(queue);
        let stopped = self.running.take_if(|held| wanted(held)).map(|held| {
            let (units, passed_us) = (held.grant.units.len() as u64, at_us - self.running_since_us);
            // Not all: the last one is not finished before the lease is.
            let done = (units * passed_us / held.cost_us).min(units - 1);
            (held, done as usize)
        });
        (untouched, stopped)
    }

    /// Whether it has nothing left to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.running.is_none() && self.unanswered.is_empty()
    }
}
