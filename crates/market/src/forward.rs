//! What a standby does with a request: it hands it to the leader, and the leader's answer back, as they are.
//!
//! ```text
//!   client ──▶ standby ──▶ leader ──▶ handlers
//!                 └─ nobody leads: waits a bounded time for somebody who does, perhaps itself
//! ```
//!
//! Bodies are streamed both ways, so that a long poll, an upload and the event stream pass through like anything else. A request
//! is sent a second time only when the first time certainly had no effect (nobody took the connection, or the other process said
//! that it does not lead) or when sending it twice is as good as once (it asks, it stores a blob under its hash, or it has an
//! idempotency key). Otherwise its sender is told that the answer was lost and decides.
//!
//! A request goes from process to process once: one that was handed on already is not handed on again. That it was is proved by
//! a token that only processes with the market's secrets know, so that nobody else can claim another's address.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use api::code;
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::Either, stream};
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::{sync::watch, time::Instant};

use crate::{
    failure::{Failure, ProblemCode},
    http::entry::Peer,
    leadership::{Leader, Standing},
    metrics::Metrics,
};

/// How long a request waits for somebody to lead. A takeover takes less.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two attempts at a leader that does not answer or does not know yet that it leads.
const PAUSE: Duration = Duration::from_millis(50);
/// To reach the leader.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Bytes of a body that are kept to send them again.
const KEPT_MAX: usize = 256 * 1024;
/// Proves that another process of this market handed the request on.
const HANDED_ON: HeaderName = HeaderName::from_static("plexus-handed-on");
/// Says that a request had no effect because the process does not lead.
const NOT_LEADING: HeaderName = HeaderName::from_static("plexus-not-leading");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Of one connection, and nobody else's business (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Hands requests to the leader.
#[derive(Clone)]
pub struct Forwarder(Arc<Inner>);

struct Inner {
    /// For leaders without TLS: a machine without any certificates reaches them.
    plain: reqwest::Client,
    /// For leaders with TLS, once there is one. Their certificates are checked as the system checks others.
    secure: OnceLock<reqwest::Client>,
    standing: watch::Receiver<Standing>,
    token: HeaderValue,
    metrics: Arc<Metrics>,
    wait_max: Duration,
}

impl Forwarder {
    /// A forwarder that goes by `standing`. `token` is the same for all processes of the market and known to nobody else.
    pub fn new(
        standing: watch::Receiver<Standing>,
        token: &str,
        metrics: Arc<Metrics>,
    ) -> Result<Self, reqwest::Error> {
        // Never fails but when another part of the process was first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let no_roots = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let plain = builder().tls_backend_preconfigured(no_roots).build()?;
        let mut token = HeaderValue::from_str(token).expect("a token is text");
        token.set_sensitive(true);
        let secure = OnceLock::new();
        Ok(Self(Arc::new(Inner { plain, secure, standing, token, metrics, wait_max: WAIT_MAX })))
    }

    fn http(&self, url: &str) -> Result<&reqwest::Client, reqwest::Error> {
        if !url.starts_with("https:") {
            return Ok(&self.0.plain);
        }
        match self.0.secure.get() {
            Some(http) => Ok(http),
            None => builder().build().map(|http| self.0.secure.get_or_init(|| http)),
        }
    }

    /// Whether another process of this market handed the request on. It then counts as its first sender's.
    fn handed_on(&self, request: &mut Request) -> bool {
        let proof = request.headers_mut().remove(HANDED_ON);
        if proof.is_none_or(|proof| proof != self.0.token) {
            return false;
        }
        if let Some(first) = take_first_sender(request.headers_mut()) {
            request.extensions_mut().insert(Peer(SocketAddr::new(first, 0)));
        }
        true
    }

    async fn hand_on(&self, request: Request, next: Next) -> Response {
        let (parts, body) = request.into_parts();
        let body = Replay::new(body);
        let deadline = Instant::now() + self.0.wait_max;
        let mut standing = self.0.standing.clone();
        loop {
            let now = standing.borrow_and_update().clone();
            let leader = match now {
                Standing::Leading { .. } => {
                    let Some(body) = body.again() else { return lost() };
                    return next.run(Request::from_parts(parts, Body::new(body))).await;
                }
                Standing::Following { leader } => leader,
            };
            let Some(leader) = leader else {
                if tokio::time::timeout_at(deadline, standing.changed())
                    .await
                    .is_ok_and(|changed| changed.is_ok())
                {
                    continue;
                }
                return nobody_leads();
            };
            match self.ask(&parts, &body, &leader, &mut standing).await {
                Asked::Answered(answer) => {
                    self.0.metrics.forwarded.inc();
                    return answer;
                }
                Asked::NoEffect => {}
                Asked::Lost => {
                    if !repeatable(&parts) {
                        return lost();
                    }
                }
            }
            if Instant::now() + PAUSE >= deadline {
                return nobody_leads();
            }
            let _ = tokio::time::timeout(PAUSE, standing.changed()).await;
        }
    }

    async fn ask(
        &self,
        parts: &Parts,
        body: &Arc<Replay>,
        leader: &Leader,
        standing: &mut watch::Receiver<Standing>,
    ) -> Asked {
        // What was sent of a large body is gone.
        let Some(body) = body.again() else { return Asked::Lost };
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let http = match self.http(&leader.url) {
            Ok(http) => http,
            Err(error) => {
                tracing::error!(%error, "cannot reach a leader with TLS");
                return Asked::NoEffect;
            }
        };
        let mut request = http.request(parts.method.clone(), format!("{}{path}", leader.url));
        request = request.headers(self.headers(parts));
        if !body.is_end_stream() {
            request = request.body(reqwest::Body::wrap(body));
        }
        let replaced = replaced(standing.clone(), leader.clone());
        let mut replaced = Box::pin(replaced);
        let answer = match futures::future::select(Box::pin(request.send()), &mut replaced).await {
            Either::Left((Ok(answer), _)) => answer,
            Either::Left((Err(error), _)) if error.is_connect() => return Asked::NoEffect,
            Either::Left((Err(error), _)) => {
                tracing::debug!(%error, leader = leader.url, "the leader's answer was lost");
                return Asked::Lost;
            }
            Either::Right(_) => return Asked::Lost,
        };
        if answer.headers().contains_key(NOT_LEADING) {
            return Asked::NoEffect;
        }
        let (mut parts, body) = axum::http::Response::from(answer).into_parts();
        strip(&mut parts.headers);
        // A paused process keeps its connections: whoever listens to it would wait for ever.
        let (mut bytes, mut replaced) = (Body::new(body).into_data_stream(), replaced.fuse());
        let bytes = stream::poll_fn(move |context| {
            if replaced.poll_unpin(context).is_ready() {
                return Poll::Ready(Some(Err(axum::Error::new("another process leads now"))));
            }
            bytes.poll_next_unpin(context)
        });
        Asked::Answered(Response::from_parts(parts, Body::from_stream(bytes)))
    }

    fn headers(&self, parts: &Parts) -> HeaderMap {
        let mut headers = parts.headers.clone();
        strip(&mut headers);
        // Asked for by clients that want to know whether to send at all. Here they may.
        headers.remove(header::EXPECT);
        headers.insert(HANDED_ON, self.0.token.clone());
        if let Some(Peer(peer)) = parts.extensions.get::<Peer>()
            && let Ok(peer) = HeaderValue::from_str(&peer.ip().to_string())
        {
            headers.append(FORWARDED_FOR, peer);
        }
        headers
    }
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_MAX)
        // Less than after which the other end gives an idle connection up.
        .pool_idle_timeout(Duration::from_secs(60))
        .tcp_nodelay(true)
}

enum Asked {
    /// As the leader answered.
    Answered(Response),
    /// The request did nothing.
    NoEffect,
    /// It may have done something.
    Lost,
}

/// Answers what belongs to this process, or to the market where this process leads it; hands on the rest.
pub async fn forward(State(forwarder): State<Forwarder>, mut request: Request, next: Next) -> Response {
    let handed_on = forwarder.handed_on(&mut request);
    let leads = forwarder.0.standing.borrow().leads();
    let mut answer = if leads || is_local(request.uri().path()) {
        next.run(request).await
    } else if handed_on {
        nobody_leads()
    } else {
        return forwarder.hand_on(request, next).await;
    };
    // It may also have ceased to lead while it decided.
    let had_no_effect =
        answer.extensions().get::<ProblemCode>().is_some_and(|problem| problem.0 == code::NO_LEADER);
    if handed_on && had_no_effect {
        answer.headers_mut().insert(NOT_LEADING, HeaderValue::from_static("1"));
    }
    answer
}

/// Whether every process answers for itself: how it is, the contract, and the web app.
fn is_local(path: &str) -> bool {
    match path.strip_prefix("/v1/") {
        Some(rest) => matches!(rest, "health" | "openapi.json"),
        None => true,
    }
}

/// Whether it may be done twice.
fn repeatable(parts: &Parts) -> bool {
    let asks = matches!(parts.method, Method::GET | Method::HEAD | Method::PUT);
    asks || parts.headers.contains_key(api::IDEMPOTENCY_KEY)
}

/// Ends once somebody else leads, or nobody does.
async fn replaced(mut standing: watch::Receiver<Standing>, leader: Leader) {
    let same = |standing: &Standing| match standing {
        Standing::Following { leader: Some(now) } => now.term == leader.term,
        // Nobody was seen to lead for a while: the one that did may only be slow.
        Standing::Following { leader: None } => true,
        Standing::Leading { .. } => false,
    };
    if standing.wait_for(|now| !same(now)).await.is_err() {
        // The process ends; so does whatever it forwards.
        std::future::pending::<()>().await;
    }
}

/// The sender that the process before this one saw, and added to what it was told itself.
fn take_first_sender(headers: &mut HeaderMap) -> Option<IpAddr> {
    let mut told: Vec<HeaderValue> = headers.get_all(FORWARDED_FOR).iter().cloned().collect();
    let added = told.pop()?;
    headers.remove(FORWARDED_FOR);
    for value in told {
        headers.append(FORWARDED_FOR, value);
    }
    added.to_str().ok()?.trim().parse().ok()
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn nobody_leads() -> Response {
    let detail = "no process leads the market at this moment; nothing was changed";
    Failure::new(code::NO_LEADER, detail, "try again in a second: another process takes over by itself")
        .into_response()
}

fn lost() -> Response {
    let detail =
        "the process that leads the market went away while it answered; what was asked may have been done";
    let fix = "look whether it was done before asking again, or repeat the same request with the same idempotency key";
    Failure::new(code::OUTCOME_UNKNOWN, detail, fix).into_response()
}

/// A body that can be sent again as long as not much of it was.
struct Replay(Mutex<Source>);

struct Source {
    body: Body,
    /// What was read of it so far, as long as that is all kept.
    passed: Vec<Bytes>,
    passed_bytes: usize,
    whole: bool,
    /// Counts attempts: only the last one reads.
    attempt: u32,
    size: SizeHint,
    ended: bool,
}

/// One attempt at sending it.
struct Attempt {
    source: Arc<Replay>,
    attempt: u32,
    /// How many pieces were sent.
    sent: usize,
}

impl Replay {
    fn new(body: Body) -> Arc<Self> {
        let (size, ended) = (body.size_hint(), body.is_end_stream());
        Arc::new(Self(Mutex::new(Source {
            body,
            passed: Vec::new(),
            passed_bytes: 0,
            whole: true,
            attempt: 0,
            size,
            ended,
        })))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Source> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body from its beginning; nothing when that is gone.
    fn again(self: &Arc<Self>) -> Option<Attempt> {
        let mut source = self.lock();
        source.attempt += 1;
        let attempt = source.attempt;
        source.whole.then(|| Attempt { source: self.clone(), attempt, sent: 0 })
    }
}

impl hyper::body::Body for Attempt {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let source = &mut *this.source.lock();
        if source.attempt != this.attempt {
            return Poll::Ready(Some(Err(axum::Error::new("the request is sent again elsewhere"))));
        }
        if source.whole
            && let Some(piece) = source.passed.get(this.sent)
        {
            this.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut source.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(piece) = frame.data_ref() {
                    this.sent += 1;
                    source.passed_bytes += piece.len();
                    if source.passed_bytes > KEPT_MAX {
                        (source.whole, source.passed) = (false, Vec::new());
                    } else if source.whole {
                        source.passed.push(piece.clone());
                    }
                }
            }
            Poll::Ready(None) => source.ended = true,
            // A sender that broke off does not begin again.
            Poll::Ready(Some(Err(_))) => source.whole = false,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.lock();
        source.ended && self.sent >= source.passed.len()
    }

    fn size_hint(&self) -> SizeHint {
        if self.sent == 0 { self.source.lock().size } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware::from_fn_with_state, routing};
    use reqwest::StatusCode;
    use tokio::net::TcpListener;

    use super::*;

    /// A process that answers `name`, what it was sent and who sent it, unless the path says otherwise.
    struct Process {
        url: String,
        standing: watch::Sender<Standing>,
        server: tokio::task::JoinHandle<()>,
        /// Requests that a handler saw.
        seen: watch::Receiver<u32>,
    }

    impl Process {
        async fn start(name: &'static str, standing: Standing) -> Self {
            Self::start_with(name, standing, Duration::from_secs(30)).await
        }

        async fn start_with(name: &'static str, standing: Standing, wait_max: Duration) -> Self {
            let (standing, followed) = watch::channel(standing);
            let mut forwarder = Forwarder::new(followed, "secret", Arc::default()).expect("a client");
            Arc::get_mut(&mut forwarder.0).expect("nobody has it yet").wait_max = wait_max;
            let (count, seen) = watch::channel(0);
            let count = Arc::new(count);
            let counted = count.clone();
            let echo = async move |request: Request| {
                counted.send_modify(|count| *count += 1);
                let peer =
                    request.extensions().get::<Peer>().map_or("nobody".into(), |p| p.0.ip().to_string());
                let method = request.method().clone();
                let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap_or_default();
                format!("{name}: {method} {} bytes from {peer}", body.len())
            };
            let begun = count.clone();
            let hang = async move || {
                begun.send_modify(|count| *count += 1);
                std::future::pending::<&str>().await
            };
            let drip = async move || {
                count.send_modify(|count| *count += 1);
                let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"first "))]);
                Body::from_stream(first.chain(stream::pending()))
            };
            let router = Router::new()
                .route("/v1/hang", routing::any(hang))
                .route("/v1/drip", routing::any(drip))
                .fallback(echo)
                .layer(axum::extract::DefaultBodyLimit::disable())
                .layer(from_fn_with_state(forwarder, forward));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let url = format!("http://{}", listener.local_addr().expect("bound"));
            let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
            Self { url, standing, server, seen }
        }

        async fn leading(name: &'static str, term: u64) -> Self {
            Self::start(name, Standing::Leading { term }).await
        }

        fn follow(&self, leader: &Self, term: u64) {
            self.standing.send_replace(following(leader, term));
        }
    }

    fn following(leader: &Process, term: u64) -> Standing {
        Standing::Following { leader: Some(Leader { term, url: leader.url.clone() }) }
    }

    fn nobody() -> Standing {
        Standing::Following { leader: None }
    }

    fn http() -> reqwest::Client {
        client::plain_http()
    }

    async fn text(response: Result<reqwest::Response, reqwest::Error>) -> String {
        response.expect("an answer").text().await.expect("text")
    }

    async fn problem(response: Result<reqwest::Response, reqwest::Error>) -> (StatusCode, api::Problem) {
        let response = response.expect("an answer");
        let status = response.status();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            assert!(response.headers().contains_key(header::RETRY_AFTER));
        }
        (status, response.json().await.expect("a problem"))
    }

    #[tokio::test]
    async fn a_standby_gives_the_leaders_answer_and_answers_for_itself_alone() {
        let leader = Process::leading("leader", 1).await;
        let standby = Process::start("standby", following(&leader, 1)).await;
        let ask = |path: &str| http().get(format!("{}{path}", standby.url)).send();
        assert_eq!(text(ask("/v1/jobs?limit=3").await).await, "leader: GET 0 bytes from nobody");
        for path in ["/v1/health", "/v1/openapi.json", "/metrics", "/", "/assets/app.js"] {
            assert_eq!(text(ask(path).await).await, "standby: GET 0 bytes from nobody", "{path}");
        }
        let body = vec![7; 3_000_000];
        let put = http().put(format!("{}/v1/blobs/x", standby.url)).body(body).send();
        assert_eq!(text(put.await).await, "leader: PUT 3000000 bytes from nobody");
        let chunks = futures::stream::iter((0..10).map(|_| Ok::<_, std::io::Error>(vec![1; 1000])));
        let post =
            http().post(format!("{}/v1/x", standby.url)).body(reqwest::Body::wrap_stream(chunks)).send();
        assert_eq!(text(post.await).await, "leader: POST 10000 bytes from nobody");
    }

    #[tokio::test]
    async fn the_first_sender_is_known_to_the_leader_and_cannot_be_claimed() {
        let leader = Process::leading("leader", 1).await;
        let ask = |token: &str| {
            let request = http().get(format!("{}/v1/jobs", leader.url)).header(HANDED_ON, token);
            request.header(FORWARDED_FOR, "1.2.3.4").header(FORWARDED_FOR, "10.0.0.9").send()
        };
        assert_eq!(text(ask("secret").await).await, "leader: GET 0 bytes from 10.0.0.9");
        assert_eq!(text(ask("guess").await).await, "leader: GET 0 bytes from nobody");
    }

    #[tokio::test]
    async fn two_standbys_never_forward_in_a_circle() {
        let wait = Duration::from_millis(300);
        let (a, b) =
            (Process::start_with("a", nobody(), wait).await, Process::start_with("b", nobody(), wait).await);
        a.follow(&b, 1);
        b.follow(&a, 1);
        let (status, problem) =
            problem(http().post(format!("{}/v1/x", a.url)).body("body").send().await).await;
        assert_eq!((status, problem.code.as_str()), (StatusCode::SERVICE_UNAVAILABLE, code::NO_LEADER));
        assert_eq!((*a.seen.borrow(), *b.seen.borrow()), (0, 0));
    }

    #[tokio::test]
    async fn a_request_waits_for_somebody_who_leads() {
        let standby = Process::start("standby", nobody()).await;
        let ask = || {
            let request = http().post(format!("{}/v1/x", standby.url)).body("some body");
            tokio::spawn(async move { text(request.send().await).await })
        };
        let waiting = ask();
        // Nobody is there any more, and then somebody who does not know yet that it leads.
        let gone = Process::leading("gone", 1).await;
        gone.server.abort();
        let _ = gone.server.await;
        let url = gone.url.clone();
        standby.standing.send_replace(Standing::Following { leader: Some(Leader { term: 1, url }) });
        let next = Process::start("next", nobody()).await;
        standby.follow(&next, 2);
        next.standing.send_replace(Standing::Leading { term: 2 });
        assert_eq!(waiting.await.expect("no panic"), "next: POST 9 bytes from nobody");
        // It may also be this process itself.
        standby.standing.send_replace(nobody());
        let waiting = ask();
        standby.standing.send_replace(Standing::Leading { term: 3 });
        assert_eq!(waiting.await.expect("no panic"), "standby: POST 9 bytes from nobody");
    }

    #[tokio::test]
    async fn only_what_may_be_done_twice_is_sent_to_the_next_leader() {
        for (method, key, again) in [
            (Method::GET, false, true),
            (Method::PUT, false, true),
            (Method::POST, true, true),
            (Method::POST, false, false),
        ] {
            let mut old = Process::leading("old", 1).await;
            let standby = Process::start("standby", following(&old, 1)).await;
            let mut request = http().request(method.clone(), format!("{}/v1/hang", standby.url));
            if key {
                request = request.header(api::IDEMPOTENCY_KEY, "a-key");
            }
            let asked = tokio::spawn(request.body("some body").send());
            old.seen.wait_for(|seen| *seen == 1).await.expect("it serves");
            // The old one hangs, as a paused process does. In the next one the same path is answered.
            let next = Process::leading("next", 2).await;
            let router = Router::new().fallback(async |body: Bytes| format!("{} bytes", body.len()));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let url = format!("http://{}", listener.local_addr().expect("bound"));
            let server = tokio::spawn(async move { axum::serve(listener, router).await });
            standby.standing.send_replace(Standing::Following { leader: Some(Leader { term: 2, url }) });
            let answer = asked.await.expect("no panic");
            if again {
                assert_eq!(text(answer).await, "9 bytes", "{method}");
            } else {
                let (status, problem) = problem(answer).await;
                assert_eq!((status, problem.code.as_str()), (StatusCode::BAD_GATEWAY, code::OUTCOME_UNKNOWN));
            }
            server.abort();
            drop(next);
        }
    }

    #[tokio::test]
    async fn a_stream_of_a_leader_that_was_replaced_breaks_off() {
        let mut old = Process::leading("old", 1).await;
        let next = Process::leading("next", 2).await;
        let standby = Process::start("standby", following(&old, 1)).await;
        let mut answer = http().get(format!("{}/v1/drip", standby.url)).send().await.expect("an answer");
        assert_eq!(answer.chunk().await.expect("a piece").expect("a piece"), "first ");
        old.seen.wait_for(|seen| *seen == 1).await.expect("it serves");
        // A leader that was not seen for a while may only be slow.
        standby.standing.send_replace(nobody());
        standby.follow(&next, 2);
        assert!(answer.chunk().await.is_err(), "it does not look whole");
    }
}
