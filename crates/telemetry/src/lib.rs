//! What a process tells its operator: log lines on standard error, and spans to a collector that speaks OTLP over HTTP.
//!
//! Other crates only use `tracing`; where their lines and spans go is decided here, once a process. Spans are collected where an
//! endpoint is named, and cost next to nothing elsewhere. They travel between processes as W3C Trace Context: [`adopt`] makes a
//! span part of its caller's trace, and [`traceparent`] names the current one for the next process.
//!
//! Metrics are not here: the market has its own, and Prometheus asks for them.

use std::{io, time::Duration};

use opentelemetry::{
    Context, KeyValue,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Span, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, Targets},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// How long a collector may take; what it does not take then is lost.
const EXPORT_TIME_MAX: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Logs {
    /// Directives such as `info` or `warn,plexus_market=debug`.
    pub filter: String,
    /// How lines look.
    pub format: Format,
    /// Whether text has colours.
    pub colours: bool,
}

/// Where spans go.
#[derive(Clone, Debug)]
pub struct Traces {
    /// The collector's address, such as `http://127.0.0.1:4318`; spans are posted to `/v1/traces` below it.
    pub endpoint: String,
    /// Which part of the traces that begin here is collected, from 0 to 1. A caller that collects its trace decides for us.
    pub ratio: f64,
    /// Who tells.
    pub service: &'static str,
    /// What reaches the endpoint.
    pub http: reqwest::Client,
}

/// Why nothing is told.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Directives that are none.
    #[error("{filter:?} does not say what to log: {source}")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The exporter cannot be made.
    #[error("cannot send spans to {endpoint}: {reason}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// Something else tells already.
    #[error("logging was started before")]
    Started(#[from] tracing_subscriber::util::TryInitError),
}

/// Tells until the process ends. [`end`](Self::end) sends what spans are left.
#[derive(Debug, Default)]
#[must_use = "what is left is sent when it is told to end"]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts telling. With `traces` it must be called within a Tokio runtime, which carries the spans away.
pub fn start(logs: &Logs, traces: Option<Traces>) -> Result<Telemetry, TelemetryError> {
    let parse = || EnvFilter::try_new(&logs.filter);
    let filter = parse().map_err(|source| TelemetryError::Filter { filter: logs.filter.clone(), source })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match logs.format {
        Format::Text => lines.with_ansi(logs.colours).with_target(false).boxed(),
        Format::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let (spans, provider) = match traces {
        Some(traces) => {
            let (layer, provider) = spans(traces)?;
            (Some(layer), Some(provider))
        }
        None => (None, None),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).try_init()?;
    Ok(Telemetry(provider))
}

impl Telemetry {
    /// Sends the spans that are left, for a bounded time.
    pub async fn end(self) {
        let Some(provider) = self.0 else { return };
        let ended =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(EXPORT_TIME_MAX)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "not all spans reached the collector");
        }
    }
}

fn spans<S>(traces: Traces) -> Result<(impl Layer<S>, SdkTracerProvider), TelemetryError>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let endpoint = traces.endpoint;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Carrier { http: traces.http, runtime: tokio::runtime::Handle::current() })
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(EXPORT_TIME_MAX)
        .build()
        .map_err(|error| TelemetryError::Endpoint { endpoint, reason: error.to_string() })?;
    let resource = Resource::builder_empty().with_service_name(traces.service).with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", format!("{}", std::process::id())),
    ]);
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(traces.ratio)));
    let provider = SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_sampler(sampler)
        .with_batch_exporter(exporter)
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("plexus"))
        .with_location(false)
        .with_threads(false)
        .with_target(false);
    // Our own spans, and none of those that carry them; what is logged within them stays in the log.
    let ours = Targets::new().with_target("plexus", LevelFilter::INFO);
    let ours = ours.and(tracing_subscriber::filter::filter_fn(|metadata| metadata.is_span()));
    Ok((layer.with_filter(ours), provider))
}

/// Carries spans away: the exporter's own thread has no runtime for an HTTP client.
#[derive(Clone, Debug)]
struct Carrier {
    http: reqwest::Client,
    runtime: tokio::runtime::Handle,
}

#[async_trait::async_trait]
impl HttpClient for Carrier {
    async fn send_bytes(
        &self,
        request: http::Request<bytes::Bytes>,
    ) -> Result<http::Response<bytes::Bytes>, HttpError> {
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move {
            let (head, body) = request.into_parts();
            let request = http.request(head.method, head.uri.to_string()).headers(head.headers);
            let answer = request.timeout(EXPORT_TIME_MAX).body(body).send().await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        });
        let (status, body) = sent.await??;
        let mut response = http::Response::new(body);
        *response.status_mut() = status;
        Ok(response)
    }
}

/// Makes a span part of the trace that a `traceparent` header names. One that is malformed is passed over.
pub fn adopt(span: &Span, traceparent: &str) {
    if let Some(parent) = parse(traceparent) {
        // Without a collector there is nothing to be part of.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

/// The `traceparent` header of a call that is made within the current span, where its trace is collected.
pub fn traceparent() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    let flags = span.trace_flags() & TraceFlags::SAMPLED;
    span.is_valid().then(|| format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id()))
}

/// `version-trace-span-flags`, in hex; of later versions what this one knows.
fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.trim().split('-');
    let mut part = |length: usize| parts.next().filter(|part| part.len() == length && is_lower_hex(part));
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE)).filter(SpanContext::is_valid)
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_says() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let good = format!("00-{trace}-b7ad6b7169203331-01");
        let read = parse(&good).expect("its own example");
        assert_eq!(read.trace_id().to_string(), trace);
        assert!(read.is_sampled() && read.is_remote());
        assert!(!parse(&format!("00-{trace}-b7ad6b7169203331-00")).expect("not sampled").is_sampled());
        assert!(parse(&format!("cc-{trace}-b7ad6b7169203331-01-what-comes")).is_some(), "a later version");
        for bad in [
            "",
            "00",
            &good[1..],
            &good[..good.len() - 1],
            &good.to_uppercase(),
            &format!("{good}-more"),
            &good.replace("00-0", "ff-0"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            &format!("00-{trace}-0000000000000000-01"),
            &format!("00-{trace}-b7ad6b716920333ü-01"),
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn directives_that_are_none_are_refused() {
        let logs = Logs { filter: "market=verbose=2".into(), format: Format::Text, colours: false };
        assert!(matches!(start(&logs, None), Err(TelemetryError::Filter { .. })));
    }
}
