//! The Rust client of the market's HTTP API.
//!
//! One method an endpoint, with the types of the `api` crate. What every caller would otherwise write is done here:
//! login by challenge (and again before the token ends), repeats with bounded backoff where that is safe, problem
//! documents as errors, blobs checked against their hash. Waiting for a market that is down for longer is left to the
//! caller, and so is everything about running units: see the `worker` crate.

mod blobs;
mod error;
mod events;
mod session;
mod transport;

use std::{sync::Arc, time::Duration};

use api::{
    Account, AnnounceRequest, Challenges, DepositRequest, GraphRequest, Health, HeartbeatAnswer,
    HeartbeatRequest, Job, JobRequest, LeaseAnswer, LeaseRequest, LeaveRequest, Ledger, MarketInfo,
    PackageRecord, Page, Payment, Quote, RatingRequest, ReceiptsAnswer, ReceiptsRequest, ReleaseRequest,
    Reservation, ReservationRequest, ResumeRequest, SealingKeyRequest, StakeRequest, Unit, UnitProof,
    Verdict, VerdictAppeal, Worker,
};
use protocol::{Amount, JobId, LeaseId, PublicKey, ReservationId, SecretKey, UnitId, VerdictId};
use reqwest::Url;

pub use error::Error;
pub use events::SequencedEvent;
use transport::Call;

/// Silence on a connection that ends it. The market's events and long polls are never silent for so long.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// A market that does not take the connection by then does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer than its wait a long poll may take.
const LONG_POLL_MARGIN: Duration = Duration::from_secs(15);

/// How a market is reached, where the usual way is not enough.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Certificate authorities in PEM that are trusted instead of the system's.
    pub ca: Option<Vec<u8>>,
    /// Names the span that a call is a part of (W3C Trace Context), if there is one.
    pub traceparent: Option<fn() -> Option<String>>,
}

/// A market as one key sees it. Clones share the connection pool and the login.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    address: String,
    authority: String,
    key: Option<SecretKey>,
    token: tokio::sync::Mutex<Option<session::Token>>,
    retries_max: u32,
    traceparent: Option<fn() -> Option<String>>,
}

impl Client {
    /// A client of the market at `address` that acts for `key` (a wallet, or a session key that a wallet delegated to).
    pub fn new(address: &str, key: SecretKey) -> Result<Self, Error> {
        Self::with(address, Some(key), &Options::default())
    }

    /// A client that only reads what is public.
    pub fn anonymous(address: &str) -> Result<Self, Error> {
        Self::with(address, None, &Options::default())
    }

    /// A client with options.
    pub fn with(address: &str, key: Option<SecretKey>, options: &Options) -> Result<Self, Error> {
        let url = parse_address(address)?;
        let http = http_builder(&url, options)?
            .user_agent(concat!("plexus/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_MAX)
            .build()
            .map_err(|source| Error::Setup { source })?;
        let authority = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                address: url.as_str().trim_end_matches('/').to_owned(),
                authority,
                key,
                token: tokio::sync::Mutex::default(),
                retries_max: transport::retries_default(),
                traceparent: options.traceparent,
            }),
        })
    }

    /// The market's address, without a slash at the end.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// The key this client acts for.
    pub fn key(&self) -> Option<&SecretKey> {
        self.inner.key.as_ref()
    }

    fn http(&self) -> &reqwest::Client {
        &self.inner.http
    }

    fn authority(&self) -> &str {
        &self.inner.authority
    }

    fn retries_max(&self) -> u32 {
        self.inner.retries_max
    }

    fn traceparent(&self) -> Option<String> {
        self.inner.traceparent.and_then(|current| current())
    }

    fn token_slot(&self) -> &tokio::sync::Mutex<Option<session::Token>> {
        &self.inner.token
    }

    /// Whether the market is well.
    pub async fn health(&self) -> Result<Health, Error> {
        self.json(&Call::get("/v1/health")).await
    }

    /// The market's key and rates.
    pub async fn market(&self) -> Result<MarketInfo, Error> {
        self.json(&Call::get("/v1/market")).await
    }

    /// All money there is.
    pub async fn ledger(&self) -> Result<Ledger, Error> {
        self.json(&Call::get("/v1/ledger")).await
    }

    /// What an account has.
    pub async fn account(&self, id: &PublicKey) -> Result<Account, Error> {
        self.json(&Call::get(format!("/v1/accounts/{id}"))).await
    }

    /// Test tokens, where the market has a faucet.
    pub async fn deposit(&self, id: &PublicKey, amount: Amount) -> Result<Account, Error> {
        let call = Call::post(format!("/v1/accounts/{id}/deposit"), &DepositRequest { amount });
        self.json(&call.signed_in().with_idempotency_key()).await
    }

    /// Sets tokens of the client's own wallet aside as stake.
    pub async fn bond(&self, id: &PublicKey, amount: Amount) -> Result<Account, Error> {
        let call = Call::post(format!("/v1/accounts/{id}/bond"), &StakeRequest { amount });
        self.json(&call.signed_in()).await
    }

    /// Asks for stake back; it is free after the market's delay.
    pub async fn unbond(&self, id: &PublicKey, amount: Amount) -> Result<Account, Error> {
        let call = Call::post(format!("/v1/accounts/{id}/unbond"), &StakeRequest { amount });
        self.json(&call.signed_in()).await
    }

    /// Rates a worker that computed for one of the wallet's jobs.
    pub async fn rate(&self, id: JobId, worker: PublicKey, stars: u8) -> Result<Job, Error> {
        let call = Call::post(format!("/v1/jobs/{id}/ratings"), &RatingRequest { worker, stars });
        self.json(&call.signed_in()).await
    }

    /// What a job would cost if it were submitted now. Its kernels must have been uploaded.
    pub async fn quote(&self, job: &GraphRequest) -> Result<Quote, Error> {
        self.json(&Call::post("/v1/quotes", job).signed_in().repeatable()).await
    }

    /// Submits a job. Every blob that it names must have been uploaded.
    pub async fn submit(&self, job: &JobRequest) -> Result<Job, Error> {
        self.json(&Call::post("/v1/jobs", job).signed_in().with_idempotency_key()).await
    }

    /// Submits a job of several stages, or one that is iterated.
    pub async fn submit_graph(&self, job: &GraphRequest) -> Result<Job, Error> {
        self.json(&Call::post("/v1/jobs", job).signed_in().with_idempotency_key()).await
    }

    /// Jobs, newest first; `owner` limits them to one wallet's.
    pub async fn jobs(&self, owner: Option<&PublicKey>, cursor: Option<&str>) -> Result<Page<Job>, Error> {
        let owner = owner.map(ToString::to_string);
        self.json(&Call::get(query("/v1/jobs", &[("owner", owner.as_deref()), ("cursor", cursor)]))).await
    }

    /// One job.
    pub async fn job(&self, id: JobId) -> Result<Job, Error> {
        self.json(&Call::get(format!("/v1/jobs/{id}"))).await
    }

    /// A job's units with their outputs.
    pub async fn units(&self, id: JobId, cursor: Option<&str>) -> Result<Page<Unit>, Error> {
        self.json(&Call::get(query(&format!("/v1/jobs/{id}/units"), &[("cursor", cursor)]))).await
    }

    /// The units of one stage in one iteration (from 1), with their outputs; see [`units`](Self::units).
    pub async fn stage_units(
        &self,
        id: JobId,
        stage: Option<&str>,
        iteration: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Page<Unit>, Error> {
        let iteration = iteration.map(|iteration| iteration.to_string());
        let asked = [("stage", stage), ("iteration", iteration.as_deref()), ("cursor", cursor)];
        self.json(&Call::get(query(&format!("/v1/jobs/{id}/units"), &asked))).await
    }

    /// What a worker committed to for a unit, with `chunk` (an output's number and a chunk's) opened, and what became of its package.
    /// While the unit is checked only its job's owner gets it.
    pub async fn proof(&self, unit: UnitId, chunk: Option<(u32, u64)>) -> Result<UnitProof, Error> {
        let (output, chunk) = chunk.map(|(output, chunk)| (output.to_string(), chunk.to_string())).unzip();
        let asked = [("output", output.as_deref()), ("chunk", chunk.as_deref())];
        let call = Call::get(query(&format!("/v1/jobs/{}/units/{}/proof", unit.job, unit.index), &asked));
        self.json(&if self.key().is_some() { call.signed_in() } else { call }).await
    }

    /// What became of a job's packages, by their first units; those that are still being checked are left out.
    pub async fn packages(&self, id: JobId, cursor: Option<&str>) -> Result<Page<PackageRecord>, Error> {
        self.json(&Call::get(query(&format!("/v1/jobs/{id}/packages"), &[("cursor", cursor)]))).await
    }

    /// The chains of keys that checks are drawn with, as far as they are over.
    pub async fn challenges(&self) -> Result<Challenges, Error> {
        self.json(&Call::get("/v1/challenges")).await
    }

    /// Ends a job: finished units are paid, the rest is refunded.
    pub async fn cancel(&self, id: JobId) -> Result<Job, Error> {
        let call = Call::post(format!("/v1/jobs/{id}/cancel"), &serde_json::json!({}));
        self.json(&call.signed_in().with_idempotency_key()).await
    }

    /// Holds back what waits of a job, or no longer.
    pub async fn pause(&self, id: JobId, paused: bool) -> Result<Job, Error> {
        let action = if paused { "pause" } else { "unpause" };
        let call = Call::post(format!("/v1/jobs/{id}/{action}"), &serde_json::json!({}));
        self.json(&call.signed_in().with_idempotency_key()).await
    }

    /// Lets a job that ended incomplete go on.
    pub async fn resume(&self, id: JobId, request: &ResumeRequest) -> Result<Job, Error> {
        let call = Call::post(format!("/v1/jobs/{id}/resume"), request);
        self.json(&call.signed_in().with_idempotency_key()).await
    }

    /// Workers, newest first.
    pub async fn workers(&self, cursor: Option<&str>) -> Result<Page<Worker>, Error> {
        self.json(&Call::get(query("/v1/workers", &[("cursor", cursor)]))).await
    }

    /// One worker.
    pub async fn worker(&self, id: &PublicKey) -> Result<Worker, Error> {
        self.json(&Call::get(format!("/v1/workers/{id}"))).await
    }

    /// Movements of money, newest first.
    pub async fn payments(&self, job: Option<JobId>, cursor: Option<&str>) -> Result<Page<Payment>, Error> {
        let job = job.map(|id| id.to_string());
        self.json(&Call::get(query("/v1/payments", &[("job", job.as_deref()), ("cursor", cursor)]))).await
    }

    /// Movements of money that changed an account's balance, newest first.
    pub async fn payments_of(
        &self,
        account: &PublicKey,
        cursor: Option<&str>,
    ) -> Result<Page<Payment>, Error> {
        let account = account.to_string();
        self.json(&Call::get(query("/v1/payments", &[("account", Some(&account)), ("cursor", cursor)]))).await
    }

    /// Verdicts on packages of an owner's workers or of a job, newest first.
    pub async fn verdicts(
        &self,
        owner: Option<PublicKey>,
        job: Option<JobId>,
        cursor: Option<&str>,
    ) -> Result<Page<Verdict>, Error> {
        let (owner, job) = (owner.map(|key| key.to_string()), job.map(|id| id.to_string()));
        let asked = [("owner", owner.as_deref()), ("job", job.as_deref()), ("cursor", cursor)];
        self.json(&Call::get(query("/v1/verdicts", &asked))).await
    }

    /// One verdict.
    pub async fn verdict(&self, id: VerdictId) -> Result<Verdict, Error> {
        self.json(&Call::get(format!("/v1/verdicts/{id}"))).await
    }

    /// Contests a verdict on a package of this wallet's workers.
    pub async fn contest(&self, id: VerdictId) -> Result<VerdictAppeal, Error> {
        self.json(&Call::post(format!("/v1/verdicts/{id}/contest"), &serde_json::json!({})).signed_in()).await
    }

    /// Announces this key's device.
    pub async fn announce(&self, request: &AnnounceRequest) -> Result<Worker, Error> {
        self.json(&Call::post("/v1/workers", request).signed_in().repeatable()).await
    }

    /// Says that this key's worker lives and which leases it works on.
    pub async fn heartbeat(&self, request: &HeartbeatRequest) -> Result<HeartbeatAnswer, Error> {
        let id = self.key().ok_or(Error::NoKey)?.public();
        let call = Call::post(format!("/v1/workers/{id}/heartbeat"), request);
        self.json(&call.signed_in().repeatable()).await
    }

    /// Says what can be sealed to this key's worker.
    pub async fn give_sealing_key(&self, request: &SealingKeyRequest) -> Result<(), Error> {
        let id = self.key().ok_or(Error::NoKey)?.public();
        let call = Call::post(format!("/v1/workers/{id}/sealing-key"), request);
        self.send(&call.signed_in().repeatable()).await.map(drop)
    }

    /// Keeps workers for a job that will be sealed to them.
    pub async fn reserve(&self, request: &ReservationRequest) -> Result<Reservation, Error> {
        self.json(&Call::post("/v1/reservations", request).signed_in()).await
    }

    /// Lets reserved workers go.
    pub async fn end_reservation(&self, id: ReservationId) -> Result<(), Error> {
        let call = Call::post(format!("/v1/reservations/{id}/end"), &serde_json::json!({}));
        self.send(&call.signed_in()).await.map(drop)
    }

    /// Takes this key's worker out of the market.
    pub async fn leave(&self, request: &LeaveRequest) -> Result<(), Error> {
        let id = self.key().ok_or(Error::NoKey)?.public();
        let call = Call::post(format!("/v1/workers/{id}/leave"), request);
        self.send(&call.signed_in().repeatable()).await.map(drop)
    }

    /// Asks for work and waits for it for up to `wait_ms`. Not repeated by itself: an answer that was lost on the way is a
    /// lease that the market believes we hold, until it expires.
    pub async fn lease(&self, request: &LeaseRequest) -> Result<LeaseAnswer, Error> {
        let wait = Duration::from_millis(request.wait_ms.into()) + LONG_POLL_MARGIN;
        self.json(&Call::post("/v1/leases", request).signed_in().timeout(Some(wait))).await
    }

    /// Gives a lease back.
    pub async fn release(&self, lease: LeaseId, request: &ReleaseRequest) -> Result<(), Error> {
        let call = Call::post(format!("/v1/leases/{lease}/release"), request);
        self.send(&call.signed_in().repeatable()).await.map(drop)
    }

    /// Commits to results. Sending a receipt again gives its first answer again; not so the work that is wanted with it, so
    /// that such a request is not repeated by itself.
    pub async fn receipts(&self, request: &ReceiptsRequest) -> Result<ReceiptsAnswer, Error> {
        let call = Call::post("/v1/receipts", request).signed_in();
        self.json(&if request.next.is_some() { call } else { call.repeatable() }).await
    }
}

/// The address with a scheme and without anything that would not survive joining paths to it.
fn parse_address(address: &str) -> Result<Url, Error> {
    let error = |reason: &str| Error::Address { address: address.to_owned(), reason: reason.to_owned() };
    let text = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let url = Url::parse(&text).map_err(|e| error(&e.to_string()))?;
    match url.scheme() {
        "http" => {}
        "https" if cfg!(feature = "tls") => {}
        "https" => return Err(error("this build has no TLS; use a build with the `tls` feature")),
        scheme => return Err(error(&format!("{scheme} is neither http nor https"))),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(error("it names no host"));
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        return Err(error("it carries more than a host and a path"));
    }
    Ok(url)
}

/// An HTTP client for an address that is no market's, with the same cryptography.
pub fn http_client(address: &str) -> Result<reqwest::Client, Error> {
    let url = parse_address(address)?;
    http_builder(&url, &Options::default())?.build().map_err(|source| Error::Setup { source })
}

/// An HTTP client for addresses without TLS, for tests that speak to a market without [`Client`]. `reqwest::Client::new`
/// panics in a build where another crate turned TLS on, because no cryptography was chosen for it.
pub fn plain_http() -> reqwest::Client {
    let url = Url::parse("http://market").expect("a constant address");
    let builder = http_builder(&url, &Options::default()).expect("no certificates are named");
    builder.build().expect("a client without certificates")
}

#[cfg(feature = "tls")]
fn http_builder(url: &Url, options: &Options) -> Result<reqwest::ClientBuilder, Error> {
    // Never fails but when another part of the process was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder();
    if url.scheme() != "https" {
        // A machine without any certificates still reaches a market without TLS.
        let no_roots = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        return Ok(builder.tls_backend_preconfigured(no_roots));
    }
    let Some(ca) = &options.ca else { return Ok(builder) };
    let certificates = reqwest::Certificate::from_pem_bundle(ca).map_err(|source| Error::Setup { source })?;
    if certificates.is_empty() {
        return Err(Error::NoCertificate);
    }
    Ok(builder.tls_certs_only(certificates))
}

#[cfg(not(feature = "tls"))]
fn http_builder(_url: &Url, _options: &Options) -> Result<reqwest::ClientBuilder, Error> {
    Ok(reqwest::Client::builder())
}

/// `path` with the parameters that are there.
fn query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut url = Url::parse("http://market").expect("a constant address").join(path).expect("a plain path");
    for (name, value) in parameters {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    match url.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// 128 random bits in hex.
pub(crate) fn random_hex() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_made_whole_or_refused() {
        let check = |address: &str, expected: Result<(&str, &str), ()>| {
            let client = Client::anonymous(address);
            match (&client, expected) {
                (Ok(client), Ok(expected)) => assert_eq!((client.address(), client.authority()), expected),
                (Err(Error::Address { .. }), Err(())) => {}
                _ => panic!("{address}: {:?}", client.map(|c| c.address().to_owned())),
            }
        };
        check("http://127.0.0.1:7700", Ok(("http://127.0.0.1:7700", "127.0.0.1:7700")));
        check("http://127.0.0.1:7700/", Ok(("http://127.0.0.1:7700", "127.0.0.1:7700")));
        check("localhost:7700", Ok(("http://localhost:7700", "localhost:7700")));
        check("http://market.example/plexus/", Ok(("http://market.example/plexus", "market.example")));
        check("http://[::1]:7700", Ok(("http://[::1]:7700", "[::1]:7700")));
        check("ftp://market.example", Err(()));
        check("http://", Err(()));
        check("http://user@market.example", Err(()));
        check("http://market.example/?a=b", Err(()));
    }

    #[test]
    fn query_parameters_are_escaped() {
        assert_eq!(
            query("/v1/jobs", &[("owner", None), ("cursor", Some("a b&c"))]),
            "/v1/jobs?cursor=a+b%26c"
        );
        assert_eq!(query("/v1/jobs", &[("owner", None)]), "/v1/jobs");
    }
}
