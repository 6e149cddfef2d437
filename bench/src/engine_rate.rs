//! Decisions a second of the bare engine.

use engine::{Params, Requirements};

use crate::{
    engine_load::{Network, key},
    report::Report,
    stopwatch::Stopwatch,
};

const UNITS: u64 = 100_000;

/// Runs no-op units in packages of one through lease, receipt, check and payment with two workers.
pub fn measure(report: &mut Report) {
    let mut network = Network::found(Params::default());
    let (client, workers) = (key(9), [key(1), key(2)]);
    network.deposit(client);
    for worker in workers {
        network.announce(worker, crate::load::device());
    }
    network.submit(client, UNITS, 1, Requirements::default());
    let (started, before) = (Stopwatch::start(), network.decisions);
    for worker in workers.into_iter().cycle() {
        if let Some(lease) = network.lease(worker) {
            network.commit(worker, lease);
        } else if network.idle() {
            break;
        }
    }
    let seconds = started.seconds();
    let decisions = (network.decisions - before) as f64;
    report.add("bare engine, packages of one", decisions / seconds, "decisions/s", Some(">= 200000"));
    report.add("bare engine, packages of one", UNITS as f64 / seconds, "units/s", None);
}
