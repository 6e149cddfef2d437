//! What every request passes on its way in and out: it is given an id, its caller is made out and held to the rates, and its
//! answer is counted and logged.
//!
//! Nothing of a request's or an answer's body or credentials is logged.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use api::code;
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::Instrument;

use super::{App, Shared};
use crate::{
    auth::Caller,
    failure::{Failure, ProblemCode},
    keys,
    limits::{Class, Who},
    metrics::Asked,
};

/// An id of the request: the client's own, or one of ours. The answer carries it too.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context: the span that the request is a part of.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Characters of an id that a client made up.
const REQUEST_ID_BYTES_MAX: usize = 100;
/// Watched by the operator's tools, however busy its address is.
const UNLIMITED: [&str; 2] = ["/v1/health", "/metrics"];
/// Answered when there is something to say: their times say nothing about the market.
const PATIENT: [&str; 2] = ["/v1/leases", "/v1/events"];

/// Who is at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Who called, as far as the door knows; the handlers' own look at the token is saved.
#[derive(Clone, Copy, Debug)]
pub struct Known(pub Caller);

/// Whose bucket pays for the bytes of blobs.
#[derive(Clone, Copy, Debug)]
pub struct Payer(Option<Who>);

impl Payer {
    /// Takes bytes that went over the wire from the payer's bucket.
    pub fn charge(self, app: &App, bytes: u64) {
        if let Some(who) = self.0 {
            app.limiter.charge(who, Class::BlobBytes, bytes);
        }
    }
}

/// Lets a request in, if its caller did not ask too much lately, and sees its answer off.
pub async fn pass(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("web", MatchedPath::as_str);
    let id = request_id(request.headers());
    let caller = caller(&app, request.headers());
    let span = tracing::info_span!(
        "request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = %method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
        request_id = id.to_str().unwrap_or_default(),
        account = tracing::field::Empty,
    );
    if !span.is_disabled() {
        if let Some(caller) = caller {
            span.record("account", tracing::field::display(caller.account));
        }
        if let (Some(adopt), Some(Ok(parent))) =
            (app.adopt_parent, request.headers().get(TRACEPARENT).map(HeaderValue::to_str))
        {
            adopt(&span, parent);
        }
    }
    let admitted = admit(&app, &mut request, route, caller);
    let mut response = match admitted {
        Ok(()) => next.run(request).instrument(span.clone()).await,
        Err(failure) => failure.into_response(),
    };
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    let elapsed = began.elapsed();
    let problem = response.extensions().get::<ProblemCode>().map(|problem| problem.0);
    let seconds = (!PATIENT.contains(&route)).then_some(elapsed.as_secs_f64());
    app.metrics.asked(&Asked {
        route,
        method: method_label(&method),
        status: status.as_u16(),
        problem,
        seconds,
    });
    span.in_scope(|| {
        tracing::info!(
            target: "plexus::request",
            id = id.to_str().unwrap_or_default(),
            %method,
            route,
            status = status.as_u16(),
            duration_ms = elapsed.as_secs_f64() * 1000.0,
            account = caller.map(|caller| tracing::field::display(caller.account)),
            problem,
            "answered"
        );
    });
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The client's id, where it is one that can be printed; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    static FIRST: std::sync::LazyLock<u64> =
        std::sync::LazyLock::new(|| u64::from_le_bytes(keys::random::<8>()));
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let plain = |value: &&HeaderValue| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&value.len())
            && value.as_bytes().iter().all(|byte| byte.is_ascii_graphic())
    };
    headers.get(REQUEST_ID).filter(plain).cloned().unwrap_or_else(|| {
        let id = FIRST.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        HeaderValue::from_str(&format!("{id:016x}")).expect("hex digits")
    })
}

fn caller(app: &Shared, headers: &HeaderMap) -> Option<Caller> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok();
    app.auth.caller(value).ok()
}

/// Holds the caller to the rates, and tells the handlers who it is.
fn admit(app: &Shared, request: &mut Request, route: &str, caller: Option<Caller>) -> Result<(), Failure> {
    if let Some(caller) = caller {
        request.extensions_mut().insert(Known(caller));
    }
    // The market's own verifier is a part of it.
    let exempt = caller.is_some_and(|caller| caller.key == app.secrets.key.public());
    if exempt || UNLIMITED.contains(&route) {
        request.extensions_mut().insert(Payer(None));
        return Ok(());
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let (who, class) = match caller {
        Some(caller) => (Who::Key(caller.key), if reads { Class::Reads } else { Class::Writes }),
        None => {
            let peer = request.extensions().get::<Peer>();
            let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
            let forwarded_for = request.headers().get(FORWARDED_FOR).and_then(|value| value.to_str().ok());
            (app.limiter.stranger(address, forwarded_for), Class::Strangers)
        }
    };
    request.extensions_mut().insert(Payer(Some(who)));
    let admitted = app.limiter.admit(who, class, 1).map_err(|wait| (class, wait));
    let admitted = admitted.and_then(|()| {
        let bytes = route.starts_with("/v1/blobs");
        let paid = if bytes { app.limiter.admit(who, Class::BlobBytes, 0) } else { Ok(()) };
        paid.map_err(|wait| (Class::BlobBytes, wait))
    });
    admitted.map_err(|(class, wait)| {
        app.metrics.rate_limited(class.name());
        too_fast(who, class, wait)
    })
}

fn too_fast(who: Who, class: Class, wait: Duration) -> Failure {
    let whose = match who {
        Who::Key(_) => "this key",
        Who::Address(_) => "this address, without a login,",
    };
    let what = match class {
        Class::Reads => "questions",
        Class::Writes => "changes",
        Class::Strangers => "requests",
        Class::BlobBytes => "blob bytes",
    };
    // Whole seconds, at least one, are what the header can say.
    let wait_s = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let detail = format!("{whose} asked for more {what} in a time than this market lets it");
    Failure::new(code::RATE_LIMITED, detail, format!("try again in {wait_s} s")).retry_after(wait_s)
}

/// Methods are bounded in number, whatever a client calls its own.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
