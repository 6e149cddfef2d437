//! What the worker is doing and why, for people and scripts.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use api::Reason;
use protocol::{Amount, DeviceFacts, PublicKey, WorkerOffer};
use serde::Serialize;
use tokio::sync::watch;

/// What the worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Looks for its device.
    Starting,
    /// Has no connection to the market, or is not announced there.
    Connecting,
    /// Ready, with nothing to do.
    Idle,
    /// Runs units or hands in results.
    Busy,
    /// Its device failed and is started again.
    Recovering,
    /// Finishes what it holds and takes no more.
    Draining,
    /// Has left.
    Stopped,
}

impl State {
    /// Its name in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connecting => "connecting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Recovering => "recovering",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// A worker at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The key that signs its receipts.
    pub worker: PublicKey,
    /// What it is doing.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// Its device, once found.
    pub device: Option<DeviceFacts>,
    /// What it claims for it and asks, once it was measured.
    pub offer: WorkerOffer,
    /// Leases it holds.
    pub leases: u32,
    /// Units its device finished.
    #[serde(with = "protocol::decimal")]
    pub units_run: u64,
    /// Units whose receipts the market took.
    #[serde(with = "protocol::decimal")]
    pub units_committed: u64,
    /// Units whose receipts the market refused.
    #[serde(with = "protocol::decimal")]
    pub units_refused: u64,
    /// Leases given back because something failed.
    #[serde(with = "protocol::decimal")]
    pub leases_failed: u64,
    /// All that its owner was ever paid for its work, by the market's record.
    pub earned: Amount,
}

/// Where the parts of a worker note what they know; the state follows from it.
pub(crate) struct Board {
    parts: Mutex<Parts>,
    sender: watch::Sender<Status>,
}

/// What the parts know. The state is the first in `Parts::state` that applies.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) stopped: Option<Reason>,
    pub(crate) draining: bool,
    pub(crate) device_trouble: Option<Reason>,
    pub(crate) market_trouble: Option<Reason>,
    pub(crate) announced: bool,
    pub(crate) running: bool,
    pub(crate) leases: u32,
    pub(crate) idle: Option<Reason>,
    pub(crate) device: Option<DeviceFacts>,
    pub(crate) offer: WorkerOffer,
    pub(crate) units_run: u64,
    pub(crate) units_committed: u64,
    pub(crate) units_refused: u64,
    pub(crate) leases_failed: u64,
    pub(crate) earned: Amount,
}

/// A reason made here.
pub(crate) fn reason(code: &str, text: impl Into<String>) -> Reason {
    Reason { code: code.to_owned(), text: text.into(), facts: BTreeMap::new() }
}

impl Board {
    pub(crate) fn new(worker: PublicKey) -> Self {
        let status = Parts::default().status(worker);
        Self { parts: Mutex::default(), sender: watch::Sender::new(status) }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Status> {
        self.sender.subscribe()
    }

    /// Notes something; watchers hear of it if the status changed.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        self.sender.send_if_modified(|status| {
            let new = parts.status(status.worker);
            let changed = *status != new;
            *status = new;
            changed
        });
    }
}

impl Parts {
    fn state(&self) -> (State, Reason) {
        if let Some(reason) = &self.stopped {
            return (State::Stopped, reason.clone());
        }
        if self.draining {
            let text = format!("finishing {} lease(s), taking no more", self.leases);
            return (State::Draining, reason("leaving", text));
        }
        if let Some(reason) = &self.device_trouble {
            return (State::Recovering, reason.clone());
        }
        if self.device.is_none() {
            return (State::Starting, reason("device_starting", "looking for the device"));
        }
        if let Some(reason) = &self.market_trouble {
            return (State::Connecting, reason.clone());
        }
        if !self.announced {
            return (State::Connecting, reason("announcing", "announcing the device to the market"));
        }
        if self.running {
            return (State::Busy, reason("running", format!("running units of {} lease(s)", self.leases)));
        }
        if self.leases > 0 {
            return (State::Busy, reason("transferring", "moving inputs and results"));
        }
        let idle = self.idle.clone();
        (State::Idle, idle.unwrap_or_else(|| reason("asking", "asking the market for work")))
    }

    fn status(&self, worker: PublicKey) -> Status {
        let (state, reason) = self.state();
        Status {
            worker,
            state,
            reason,
            device: self.device.clone(),
            offer: self.offer.clone(),
            leases: self.leases,
            units_run: self.units_run,
            units_committed: self.units_committed,
            units_refused: self.units_refused,
            leases_failed: self.leases_failed,
            earned: self.earned,
        }
    }
}
