//! What operators measure. `docs/metrics.md` lists every name with its labels; a test keeps the two alike.
//!
//! Labels have few values: kinds, states, codes, routes as they are written in the contract. Nothing that a caller can make up
//! becomes one.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

/// One label called `kind`, and so on: the sets of labels there are.
macro_rules! labels {
    ($($name:ident { $($field:ident: $type:ty),* };)*) => {
        $(
            #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
            struct $name { $($field: $type),* }
        )*
    };
}

labels! {
    ByKind { kind: &'static str };
    ByState { state: &'static str };
    ByResult { result: &'static str };
    ByCode { code: &'static str };
    ByClass { class: &'static str };
    ByQueue { kind: &'static str, class: &'static str };
    ByRoute { route: String };
    ByAnswer { method: &'static str, route: String, status: u16 };
}

type Counters<L> = Family<L, Counter>;
type Gauges<L> = Family<L, Gauge>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// An answered request.
pub struct Asked<'a> {
    /// As in the contract; `web` for the pages.
    pub route: &'a str,
    /// The method.
    pub method: &'static str,
    /// The status of the answer.
    pub status: u16,
    /// The code of its problem, if it is one.
    pub problem: Option<&'static str>,
    /// How long it took, where that is the market's doing.
    pub seconds: Option<f64>,
}

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
    /// Commands decided together.
    pub group_commands: Histogram,
    /// Bytes of encoded events appended since the start.
    pub journal_bytes: Counter,
    /// Lease requests that wait for work.
    pub parked: Gauge,
    /// Leases granted.
    pub leases: Counter,
    /// Time from asking for work to having it.
    pub lease_seconds: Histogram,
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
    /// Blobs that nothing needed any more.
    pub blobs_collected: Counter,
    /// Their bytes.
    pub blob_bytes_collected: Counter,
    /// Blobs that were encrypted with the newest key after the fact.
    pub blobs_resealed: Counter,
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
    /// Jobs that left the state.
    pub jobs_archived: Counter,
    /// Bytes that the journal's file takes.
    pub journal_stored_bytes: Gauge,
    /// How far off the forecast of an hour's demand is, from 0 to 1.
    pub demand_error: Gauge<f64, AtomicU64>,
    /// How far off the estimates of jobs' times are: the larger over the smaller, less one.
    pub job_time_error: Gauge<f64, AtomicU64>,
    /// Units that wait.
    pub units_waiting: Gauge,
    /// Units committed and not yet accepted.
    pub units_checking: Gauge,
    /// Age of the oldest check that is not decided.
    pub settlement_lag: Gauge<f64, AtomicU64>,
    /// Workers online.
    pub workers_online: Gauge,
    /// Leases out.
    pub leases_active: Gauge,
    /// Blob bytes stored.
    pub blob_bytes: Gauge,
    /// Events not in the read model yet.
    pub read_model_lag: Gauge,
    /// Whether this process decides: 1, or 0 where it stands by.
    pub leads: Gauge,
    /// How often this process took the market over.
    pub takeovers: Counter,
    /// Requests answered by another process that leads.
    pub forwarded: Counter,
    /// When the certificate ends, in seconds of the Unix epoch; 0 without TLS.
    pub certificate_ends: Gauge,
    /// Certificates that were loaded, and files that could not be.
    certificate_loads: Counters<ByResult>,
    decisions: Counters<ByKind>,
    rejections: Counters<ByKind>,
    checks: Counters<ByResult>,
    packages: Counters<ByResult>,
    workers: Gauges<ByState>,
    queue: Gauges<ByQueue>,
    refusals: Counters<ByCode>,
    rate_limited: Counters<ByClass>,
    requests: Counters<ByAnswer>,
    request_seconds: Histograms<ByRoute>,
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
        let journal_bytes = counter("journal_appended_bytes", "Bytes of events journaled");
        let leases = counter("leases_granted", "Leases granted");
        let receipts = counter("receipts_taken", "Receipts taken");
        let receipts_refused = counter("receipts_refused", "Receipts refused");
        let units = counter("units_committed", "Units committed by receipts");
        let blob_bytes_in = counter("blob_received_bytes", "Blob bytes taken");
        let blob_bytes_out = counter("blob_sent_bytes", "Blob bytes given out");
        let blobs_collected = counter("blobs_collected", "Blobs removed because nothing needed them");
        let blob_bytes_collected = counter("blob_collected_bytes", "Bytes of blobs removed");
        let blobs_resealed = counter("blobs_resealed", "Blobs encrypted anew with the newest key");
        let comparisons = counter(
            "comparisons",
            "Outputs compared by tolerance, or checked by what their program says of them",
        );
        let logins = counter("logins", "Logins");
        let jobs_archived = counter("jobs_archived", "Jobs that ended and left the state for their archive");
        let takeovers = counter("takeovers", "Times this process took the market over from another");
        let forwarded = counter("requests_forwarded", "Requests that the leader answered for this process");
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
        let units_checking = gauge("units_checking", "Units committed and not yet accepted");
        let workers_online = gauge("workers_online", "Workers that take work");
        let leases_active = gauge("leases_active", "Leases in workers' hands");
        let blob_bytes = gauge("blob_stored_bytes", "Blob bytes stored");
        let read_model_lag = gauge("read_model_lag_events", "Events journaled and not yet in the read model");
        let leads = gauge("leader", "Whether this process decides");
        let certificate_ends =
            gauge("tls_certificate_end_seconds", "When the certificate ends, in seconds of the Unix epoch");
        let journal_stored_bytes =
            gauge("journal_stored_bytes", "Bytes of the journal's file; 0 where a server keeps it");
        let mut share = |name: &str, help: &str| {
            let gauge = Gauge::<f64, AtomicU64>::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let help = "How far off the forecast of an hour's demand is, as a part of the larger";
        let demand_error = share("demand_forecast_error", help);
        let help = "How far off the estimates of jobs' times are: the larger over the smaller, less one";
        let job_time_error = share("job_time_forecast_error", help);
        let queue = Gauges::default();
        registry.register("queue_units", "Units that wait, by kind of job and class", queue.clone());
        let settlement_lag = Gauge::<f64, AtomicU64>::default();
        let help = "Age of the oldest check that is not decided";
        registry.register("settlement_lag_seconds", help, settlement_lag.clone());
        // 50 µs (an idle disk) to 1.6 s.
        let append_seconds = Histogram::new(exponential_buckets(50e-6, 2.0, 16));
        registry.register("journal_append_seconds", "Time of one durable append", append_seconds.clone());
        let group_commands = Histogram::new(exponential_buckets(1.0, 2.0, 13));
        registry.register("journal_group_commands", "Commands decided together", group_commands.clone());
        // 1 ms to the longest wait, 30 s.
        let lease_seconds = Histogram::new(exponential_buckets(1e-3, 2.0, 16));
        let help = "Time from asking for work to having it";
        registry.register("lease_seconds", help, lease_seconds.clone());
        let decisions = Counters::default();
        registry.register("decisions", "Commands decided", decisions.clone());
        let rejections = Counters::default();
        registry.register("rejections", "Commands that the rules refused", rejections.clone());
        let checks = Counters::default();
        registry.register("checks_decided", "Units executed again and compared", checks.clone());
        let packages = Counters::default();
        registry.register("packages_settled", "Packages accepted and rejected", packages.clone());
        let workers = Gauges::default();
        registry.register("workers", "Workers", workers.clone());
        let refusals = Counters::default();
        registry.register("refusals", "Answers that are problems", refusals.clone());
        let rate_limited = Counters::default();
        registry.register("rate_limited", "Requests beyond their caller's rate", rate_limited.clone());
        let certificate_loads = Counters::default();
        registry.register("tls_certificate_loads", "Certificates loaded", certificate_loads.clone());
        let requests = Counters::default();
        registry.register("http_requests", "Requests answered", requests.clone());
        // 0.1 ms to 52 s.
        let request_seconds =
            Histograms::new_with_constructor(|| Histogram::new(exponential_buckets(1e-4, 2.0, 20)));
        registry.register("http_request_seconds", "Time to an answer", request_seconds.clone());
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What runs", build);
        Self {
            registry,
            groups,
            events,
            append_failures,
            append_seconds,
            group_commands,
            journal_bytes,
            parked,
            leases,
            lease_seconds,
            receipts,
            receipts_refused,
            units,
            blob_bytes_in,
            blob_bytes_out,
            blobs_collected,
            blob_bytes_collected,
            blobs_resealed,
            comparisons,
            logins,
            listeners,
            violations,
            jobs_open,
            jobs_archived,
            journal_stored_bytes,
            demand_error,
            job_time_error,
            queue,
            units_waiting,
            units_checking,
            settlement_lag,
            workers_online,
            leases_active,
            blob_bytes,
            read_model_lag,
            leads,
            takeovers,
            forwarded,
            certificate_ends,
            certificate_loads,
            decisions,
            rejections,
            checks,
            packages,
            workers,
            refusals,
            rate_limited,
            requests,
            request_seconds,
        }
    }
}

impl Metrics {
    /// A request was answered.
    pub fn asked(&self, asked: &Asked<'_>) {
        let Asked { route, method, status, problem, seconds } = *asked;
        let labels = ByAnswer { method, route: route.to_owned(), status };
        self.requests.get_or_create(&labels).inc();
        if let Some(code) = problem {
            self.refusals.get_or_create(&ByCode { code }).inc();
        }
        if let Some(seconds) = seconds {
            self.request_seconds.get_or_create(&ByRoute { route: labels.route }).observe(seconds);
        }
    }

    /// A request came too soon.
    pub fn rate_limited(&self, class: &'static str) {
        self.rate_limited.get_or_create(&ByClass { class }).inc();
    }

    /// So many units wait of each kind and class.
    pub fn set_queue(&self, units: impl IntoIterator<Item = ((&'static str, &'static str), u64)>) {
        self.queue.clear();
        for ((kind, class), units) in units {
            self.queue.get_or_create(&ByQueue { kind, class }).set(units as i64);
        }
    }

    /// A command was decided, or the rules refused it.
    pub fn decided(&self, kind: &'static str, rejected: bool) {
        let family = if rejected { &self.rejections } else { &self.decisions };
        family.get_or_create(&ByKind { kind }).inc();
    }

    /// A check was decided.
    pub fn checked(&self, agrees: bool) {
        let result = if agrees { "agreed" } else { "disagreed" };
        self.checks.get_or_create(&ByResult { result }).inc();
    }

    /// A package was accepted or rejected.
    pub fn settled(&self, accepted: bool) {
        let result = if accepted { "accepted" } else { "rejected" };
        self.packages.get_or_create(&ByResult { result }).inc();
    }

    /// How many workers there are in each state.
    pub fn set_workers(&self, states: impl IntoIterator<Item = (&'static str, i64)>) {
        for (state, count) in states {
            self.workers.get_or_create(&ByState { state }).set(count);
        }
    }

    /// A certificate was loaded, or could not be.
    pub fn certificate_loaded(&self, loaded: bool) {
        let result = if loaded { "loaded" } else { "failed" };
        self.certificate_loads.get_or_create(&ByResult { result }).inc();
    }

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
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Names with kind and labels, as the text has them.
    fn exported(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
        let mut found = BTreeMap::<String, (String, BTreeSet<String>)>::new();
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
                found.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            }
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((sample, labels)) = line.split_once('{') else { continue };
            let (labels, _) = labels.rsplit_once('}').expect("closed");
            // Samples have their metric's name with an ending such as `_bucket`.
            let name =
                found.keys().filter(|name| sample.starts_with(*name)).max_by_key(|name| name.len()).cloned();
            let (_, known) = name.and_then(|name| found.get_mut(&name)).unwrap_or_else(|| panic!("{line}"));
            let names = labels
                .split("\",")
                .filter_map(|label| label.split_once('='))
                .map(|(name, _)| name.to_owned());
            known.extend(names.filter(|name| name != "le"));
        }
        found
    }

    #[test]
    fn the_documentation_lists_every_metric_with_its_labels_and_no_other() {
        let metrics = Metrics::default();
        // A family without a member is not shown.
        metrics.set_queue([(("batch", "normal"), 1)]);
        metrics.asked(&Asked {
            route: "/",
            method: "GET",
            status: 500,
            problem: Some("internal"),
            seconds: Some(1.0),
        });
        metrics.rate_limited("reads");
        metrics.decided("submit", false);
        metrics.decided("submit", true);
        metrics.checked(true);
        metrics.settled(false);
        metrics.set_workers([("idle", 1)]);
        metrics.certificate_loaded(true);
        let documentation = include_str!("../../../docs/metrics.md");
        let documented: BTreeMap<_, _> = documentation
            .lines()
            .filter_map(|line| {
                let cells: Vec<&str> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
                let name = cells[0].trim_end_matches('`').to_owned();
                let labels = cells[2].split(',').map(|label| label.trim().trim_matches('`').to_owned());
                let labels = labels.filter(|label| !label.is_empty()).collect();
                Some((name, (cells[1].to_owned(), labels)))
            })
            .collect();
        assert_eq!(exported(&metrics.text()), documented);
    }

    #[test]
    fn alert_rules_only_speak_of_metrics_there_are() {
        let rules = include_str!("../../../deploy/prometheus/alerts.yml");
        let documentation = include_str!("../../../docs/metrics.md");
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let mut names = 0;
        for (at, _) in rules.match_indices("plexus_") {
            let name = rules[at..].split(|c| !is_name(c)).next().expect("a name").trim_end_matches("_total");
            assert!(documentation.contains(&format!("| `{name}` |")), "{name}");
            names += 1;
        }
        assert!(names > 0);
        // Every alert is explained to the operator.
        let operating = include_str!("../../../docs/operating.md");
        for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
            assert!(operating.contains(&format!("| `{alert}` |")), "{alert}");
        }
    }
}
