//! What operators measure. `docs/metrics.md` lists every name; a test keeps the two alike.

use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// The market's metrics.
pub struct Metrics {
    registry: Registry,
    /// Groups journaled.
    pub groups: Counter,
    /// Events journaled.
    pub events: Counter,
    /// Groups that could not be written.
    pub append_failures: Counter,
    /// Time of one durable append.
    pub append_seconds: Histogram,
    /// Lease requests that wait for work.
    pub parked: Gauge,
    /// Leases granted.
    pub leases: Counter,
    /// Receipts taken.
    pub receipts: Counter,
    /// Receipts refused.
    pub receipts_refused: Counter,
    /// Units committed by receipts.
    pub units: Counter,
    /// Blob bytes taken.
    pub blob_bytes_in: Counter,
    /// Blob bytes given out.
    pub blob_bytes_out: Counter,
    /// Comparisons by tolerance.
    pub comparisons: Counter,
    /// Logins.
    pub logins: Counter,
    /// Listeners of the event stream.
    pub listeners: Gauge,
    /// Broken rules found in the state.
    pub violations: Gauge,
    /// Jobs waiting or running.
    pub jobs_open: Gauge,
    /// Units that wait.
    pub units_waiting: Gauge,
    /// Workers online.
    pub workers_online: Gauge,
    /// Leases out.
    pub leases_active: Gauge,
    /// Blob bytes stored.
    pub blob_bytes: Gauge,
    /// Events not in the read model yet.
    pub read_model_lag: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("plexus");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let groups = counter("journal_groups", "Groups journaled");
        let events = counter("journal_events", "Events journaled");
        let append_failures = counter("journal_failures", "Groups that could not be written");
        let leases = counter("leases_granted", "Leases granted");
        let receipts = counter("receipts_taken", "Receipts taken");
        let receipts_refused = counter("receipts_refused", "Receipts refused");
        let units = counter("units_committed", "Units committed by receipts");
        let blob_bytes_in = counter("blob_received_bytes", "Blob bytes taken");
        let blob_bytes_out = counter("blob_sent_bytes", "Blob bytes given out");
        let comparisons = counter("comparisons", "Outputs compared by tolerance");
        let logins = counter("logins", "Logins");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let parked = gauge("lease_requests_waiting", "Lease requests that wait for work");
        let listeners = gauge("event_listeners", "Listeners of the event stream");
        let violations =
            gauge("invariant_violations", "Broken invariants found when the state was last checked");
        let jobs_open = gauge("jobs_open", "Jobs waiting or running");
        let units_waiting = gauge("units_waiting", "Units that wait to be leased");
        let workers_online = gauge("workers_online", "Workers that take work");
        let leases_active = gauge("leases_active", "Leases in workers' hands");
        let blob_bytes = gauge("blob_stored_bytes", "Blob bytes stored");
        let read_model_lag = gauge("read_model_lag_events", "Events journaled and not yet in the read model");
        // 50 µs (an idle disk) to 1.6 s.
        let append_seconds = Histogram::new(exponential_buckets(50e-6, 2.0, 16));
        registry.register("journal_append_seconds", "Time of one durable append", append_seconds.clone());
        Self {
            registry,
            groups,
            events,
            append_failures,
            append_seconds,
            parked,
            leases,
            receipts,
            receipts_refused,
            units,
            blob_bytes_in,
            blob_bytes_out,
            comparisons,
            logins,
            listeners,
            violations,
            jobs_open,
            units_waiting,
            workers_online,
            leases_active,
            blob_bytes,
            read_model_lag,
        }
    }
}

impl Metrics {
    /// The metrics in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a String cannot fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_metric_and_no_other() {
        let text = Metrics::default().text();
        let mut exported: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        exported.sort_unstable();
        let documentation = include_str!("../../../docs/metrics.md");
        let mut documented: Vec<&str> =
            documentation.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        documented.sort_unstable();
        assert_eq!(exported, documented);
    }
}
