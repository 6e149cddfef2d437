//! A market on a free port in a folder of its own, and people who use it.

use std::{path::Path, sync::Arc, time::Duration};

use api::{
    AnnounceRequest, Challenge, Job, JobRequest, Lease, LeaseAnswer, LeaseRequest, Problem, ReceiptResult,
    ReceiptsAnswer, ReceiptsRequest, Session, SignedReceipt, UnitOutputs, Worker,
};
use market::{Config, Market};
use protocol::{
    Amount, DeviceFacts, DeviceLimits, Hash, InputSplit, JoinFormat, JoinLayout, JoinSpec, Manifest,
    OutputCommitment, PublicKey, Receipt, SecretKey, UnitLeaf, WorkerKind, package_root,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const TOKEN: u64 = 1_000_000_000;

/// A running market.
pub struct Rig {
    pub market: Market,
    pub folder: Arc<TempDir>,
    pub http: reqwest::Client,
}

/// Somebody with a key and a token.
#[derive(Clone)]
pub struct Person {
    pub key: SecretKey,
    pub token: String,
    pub account: PublicKey,
    url: String,
    http: reqwest::Client,
}

pub fn config(folder: &Path) -> Config {
    Config { faucet: Some(Amount(1_000_000 * TOKEN)), blob_bytes_max: 2_000_000, ..Config::new(folder) }
}

impl Rig {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        Self::start_in(folder, change).await
    }

    async fn start_in(folder: Arc<TempDir>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(folder.path());
        change(&mut config);
        let market = Market::start(config).await.expect("the market starts");
        Self { market, folder, http: client::plain_http() }
    }

    pub async fn restart(self) -> Self {
        let folder = self.folder.clone();
        self.market.shutdown().await;
        Self::start_in(folder, |_| {}).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.market.url())
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        good(self.http.get(self.url(path)).send().await.expect("an answer")).await
    }

    pub async fn problem(&self, path: &str) -> Problem {
        bad(self.http.get(self.url(path)).send().await.expect("an answer")).await
    }

    pub async fn challenge(&self, body: Value) -> Response {
        self.http.post(self.url("/v1/auth/challenge")).json(&body).send().await.expect("an answer")
    }

    pub async fn login_with(&self, key: &SecretKey, session: Option<&SecretKey>) -> Person {
        let session_request = session.map(|s| json!({"key": s.public(), "lifetime_s": 3600}));
        let mut body = json!({"address": key.public()});
        if let Some(session) = session_request {
            body["session"] = session;
        }
        let challenge: Challenge = good(self.challenge(body).await).await;
        let signature = key.sign_bytes(challenge.message.as_bytes());
        let mut login = json!({"nonce": challenge.nonce, "signature": signature});
        if let Some(session) = session {
            login["session_signature"] = json!(session.sign_bytes(challenge.message.as_bytes()));
        }
        let answer = self.http.post(self.url("/v1/auth/login")).json(&login).send().await.expect("an answer");
        let Session { token, account, key: acting, .. } = good(answer).await;
        let key = session.unwrap_or(key).clone();
        assert_eq!(acting, key.public());
        Person { key, token, account, url: self.market.url(), http: self.http.clone() }
    }

    /// Somebody whose wallet has the seed `n`.
    pub async fn person(&self, n: u8) -> Person {
        self.login_with(&SecretKey::from_seed([n; 32]), None).await
    }

    /// Somebody with tokens to spend.
    pub async fn rich(&self, n: u8) -> Person {
        let person = self.person(n).await;
        person.deposit(1000 * TOKEN).await;
        person
    }

    /// The market's own verifier, at work until the returned guard is dropped.
    pub async fn verifier(&self) -> Person {
        let person = self.login_with(&self.market.key().clone(), None).await;
        person.announce("verifier").await;
        person
    }
}

pub async fn good<T: DeserializeOwned>(response: Response) -> T {
    let status = response.status();
    let text = response.text().await.expect("a body");
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub async fn bad(response: Response) -> Problem {
    let status = response.status();
    let media_type = response.headers().get("content-type").map(|v| v.to_str().expect("text").to_owned());
    let text = response.text().await.expect("a body");
    assert!(!status.is_success(), "{status}: {text}");
    assert_eq!(media_type.as_deref(), Some(api::PROBLEM_JSON), "{text}");
    let problem: Problem = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(problem.status, status.as_u16());
    assert!(!problem.detail.is_empty() && !problem.fix.is_empty(), "{problem:?}");
    problem
}

impl Person {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    pub async fn post(&self, path: &str, body: &impl Serialize) -> Response {
        self.request(Method::POST, path).json(body).send().await.expect("an answer")
    }

    pub async fn deposit(&self, units: u64) -> api::Account {
        let path = format!("/v1/accounts/{}/deposit", self.account);
        good(self.post(&path, &json!({"amount": units.to_string()})).await).await
    }

    pub async fn put(&self, hash: &Hash, bytes: &[u8]) -> Response {
        let request = self.request(Method::PUT, &format!("/v1/blobs/{hash}"));
        request.body(bytes.to_vec()).send().await.expect("an answer")
    }

    pub async fn upload(&self, bytes: &[u8]) -> Hash {
        let hash = Hash::of(bytes);
        let response = self.put(&hash, bytes).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        hash
    }

    pub async fn announce_as(&self, instance: &str) -> Response {
        let request = AnnounceRequest {
            instance: instance.into(),
            device: device(),
            version: "test/1".into(),
            offer: Default::default(),
        };
        self.post("/v1/workers", &request).await
    }

    pub async fn announce(&self, instance: &str) -> Worker {
        good(self.announce_as(instance).await).await
    }

    pub async fn lease_raw(&self, instance: &str, packages_max: u32, wait_ms: u32) -> Response {
        self.post(
            "/v1/leases",
            &LeaseRequest { instance: instance.into(), packages_max, wait_ms, others_only: false },
        )
        .await
    }

    pub async fn lease(&self, instance: &str, packages_max: u32, wait_ms: u32) -> LeaseAnswer {
        good(self.lease_raw(instance, packages_max, wait_ms).await).await
    }

    /// A receipt for what `compute` puts out; the outputs are uploaded.
    pub async fn compute(
        &self,
        market: PublicKey,
        lease: &Lease,
        compute: impl Fn(u64) -> Vec<u8>,
    ) -> SignedReceipt {
        let mut units = Vec::new();
        for index in lease.units.iter().flat_map(|run| run.units()) {
            let output = compute(index);
            self.upload(&output).await;
            units.push(UnitOutputs { unit: index, outputs: vec![OutputCommitment::of(&output)] });
        }
        self.sign(market, lease, units)
    }

    pub fn sign(&self, market: PublicKey, lease: &Lease, units: Vec<UnitOutputs>) -> SignedReceipt {
        let job = lease.job;
        let leaves: Vec<UnitLeaf> =
            units.iter().map(|u| UnitLeaf::done(job, u.unit, u.outputs.clone())).collect();
        let receipt = Receipt {
            market,
            lease: lease.id,
            generation: lease.generation,
            worker: self.key.public(),
            job,
            units: units.len() as u32,
            package_root: package_root(&leaves),
            adapter: "test adapter".into(),
            started_at_ms: 1,
            device_us: 10,
            total_us: 20,
        };
        let signature = self.key.sign(&receipt);
        SignedReceipt { receipt, signature, units }
    }

    pub async fn commit(&self, receipts: Vec<SignedReceipt>) -> Vec<ReceiptResult> {
        let answer: ReceiptsAnswer =
            good(self.post("/v1/receipts", &ReceiptsRequest { receipts, next: None }).await).await;
        answer.results
    }

    /// Commits one receipt and says how it was refused.
    pub async fn refused(&self, receipt: SignedReceipt) -> Problem {
        match self.commit(vec![receipt]).await.remove(0) {
            ReceiptResult::Refused { problem, .. } => problem,
            other => panic!("the receipt was taken: {other:?}"),
        }
    }

    pub async fn submit(&self, request: &JobRequest) -> Job {
        good(self.post("/v1/jobs", request).await).await
    }

    /// A job of `units` units that double four numbers each, whose kernel and input are uploaded.
    pub async fn doubling(&self, units: u64) -> JobRequest {
        let kernel = self.upload(DOUBLE.as_bytes()).await;
        let input: Vec<u8> = (0..units as u32 * 4).flat_map(u32::to_le_bytes).collect();
        let input = self.upload(&input).await;
        JobRequest {
            name: "doubling".into(),
            manifest: manifest(kernel),
            units,
            inputs: vec![InputSplit { blob: input, offset: 0, stride: 16, length: 16 }],
            joins: vec![JoinSpec {
                stage: None,
                output: 0,
                file: "doubled.npy".into(),
                format: JoinFormat::Npy,
                layout: JoinLayout::Axis { rows_total: units * 4, rows_per_unit: 4 },
                columns: vec![],
                parameters: vec![],
                expect: None,
            }],
            unit_price: Some(Amount(1000)),
            priority: Default::default(),
            royalty: None,
            budget: None,
            package_units: Some(2),
            devices: 1,
            replicas: 1,
            deadline_in_s: None,
            attempts_max: None,
            canaries: vec![],
            sealed: None,
        }
    }
}

pub const DOUBLE: &str = "
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3u) {
    y[id.x] = 2u * x[id.x];
}
";

/// What the kernel computes of unit `index`.
pub fn doubled(index: u64) -> Vec<u8> {
    (0..4).flat_map(|i| (2 * (index as u32 * 4 + i)).to_le_bytes()).collect()
}

pub fn manifest(kernel: Hash) -> Manifest {
    let text = json!({
        "version": 1, "runtime": "wgsl", "kind": "batch",
        "program": {
            "kernels": {"double": {"blob": kernel, "entry": "main"}},
            "buffers": {
                "x": {"input": 0, "dtype": "u32", "shape": [4]},
                "y": {"output": 0, "dtype": "u32", "shape": [4]}
            },
            "passes": [{"kernel": "double", "bind": ["x", "y"], "dispatch": [1]}]
        },
        "limits": {"memory_bytes_max": 4096, "time_ms_max": 1000},
        "verify": {"policy": "audit", "rate_min": 0.1}
    });
    serde_json::from_value(text).expect("a manifest")
}

pub fn device() -> DeviceFacts {
    DeviceFacts {
        kind: WorkerKind::Native,
        adapter: "test adapter".into(),
        vendor: "test".into(),
        backend: "vulkan".into(),
        features: vec![],
        limits: DeviceLimits {
            storage_buffer_bytes_max: 1 << 27,
            buffer_bytes_max: 1 << 28,
            storage_buffers_max: 8,
            workgroup_invocations_max: 256,
            workgroup_bytes_max: 16384,
            workgroups_per_dimension_max: 65535,
        },
    }
}

/// Asks until `ready`, or fails after half a minute.
pub async fn until<T, F: Future<Output = T>>(ask: impl Fn() -> F, ready: impl Fn(&T) -> bool) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let answer = ask().await;
        if ready(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "the condition never came true");
        tokio::task::yield_now().await;
    }
}
