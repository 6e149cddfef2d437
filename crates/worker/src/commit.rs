//! From a unit's outputs to an answered receipt: outputs are uploaded while other units still run, the package's Merkle root is
//! signed, and receipts go to the market in batches until it answers. A receipt is sent even for a lease that was lost for
//! being slow: work is not thrown away for a timer alone.

use std::{sync::Arc, time::SystemTime};

use api::{ReceiptResult, ReceiptsRequest, ReleaseCause, SignedReceipt, UnitOutputs, code};
use bytes::Bytes;
use protocol::{OutputCommitment, Receipt, UnitLeaf, package_root};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    WorkerError,
    backoff::Backoff,
    context::{Context, may_pass},
    device::UnitOutput,
    leases::Holding,
    package::{Package, Refusal},
};

/// Receipts in one request, by the API.
const RECEIPTS_MAX: usize = 64;
/// Units in one request, which bounds its size to about 2 MB for a program with one output.
const UNITS_MAX: usize = 4096;

/// A package of which units come in.
pub(crate) struct Gathering {
    pub(crate) package: Arc<Package>,
    commitments: JoinSet<Result<(usize, Vec<OutputCommitment>), Refusal>>,
    missing: usize,
    started_at: Option<SystemTime>,
    device_us: u64,
}

/// A receipt on its way.
pub(crate) struct Finished {
    holding: Arc<Holding>,
    receipt: SignedReceipt,
}

impl Gathering {
    pub(crate) fn new(package: Arc<Package>) -> Self {
        let missing = package.units.len();
        Self { package, commitments: JoinSet::new(), missing, started_at: None, device_us: 0 }
    }

    /// Notes that the device got the first unit.
    pub(crate) fn begun(&mut self) {
        self.started_at.get_or_insert_with(SystemTime::now);
    }

    /// Takes the outputs of unit number `position` and begins to upload them. Whether all units are there now.
    pub(crate) fn add(&mut self, context: &Arc<Context>, position: usize, output: UnitOutput) -> bool {
        self.device_us += output.device_us;
        self.missing -= 1;
        let (context, holding) = (context.clone(), self.package.holding.clone());
        self.commitments.spawn(async move {
            let commitments = upload(&context, &holding, output.outputs).await?;
            Ok((position, commitments))
        });
        self.missing == 0
    }

    /// Waits for the uploads and sends the signed receipt on.
    pub(crate) async fn commit(mut self, context: Arc<Context>, finished: mpsc::UnboundedSender<Finished>) {
        let holding = self.package.holding.clone();
        let mut outputs = vec![Vec::new(); self.package.units.len()];
        while let Some(joined) = self.commitments.join_next().await {
            match joined {
                Ok(Ok((position, commitments))) => outputs[position] = commitments,
                Ok(Err(refusal)) => return context.release(&holding, refusal),
                // Only when the whole worker ends.
                Err(_) => return,
            }
        }
        let receipt = self.receipt(&context, outputs);
        // The other end only goes when the worker ends.
        let _ = finished.send(Finished { holding, receipt });
    }

    fn receipt(&self, context: &Context, outputs: Vec<Vec<OutputCommitment>>) -> SignedReceipt {
        let lease = &self.package.holding.lease;
        let units: Vec<UnitOutputs> = self
            .package
            .units
            .iter()
            .zip(outputs)
            .map(|(unit, outputs)| UnitOutputs { unit: *unit, outputs })
            .collect();
        let leaves: Vec<UnitLeaf> =
            units.iter().map(|unit| UnitLeaf::done(lease.job, unit.unit, unit.outputs.clone())).collect();
        let started_at = self.started_at.unwrap_or(self.package.holding.taken_at_wall);
        let receipt = Receipt {
            market: context.market.market,
            lease: lease.id,
            generation: lease.generation,
            worker: context.worker,
            job: lease.job,
            units: units.len() as u32,
            package_root: package_root(&leaves),
            adapter: context.device().adapter,
            started_at_ms: started_at
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
            device_us: self.device_us,
            total_us: self.package.holding.taken_at.elapsed().as_micros() as u64,
        };
        let key = context.client.key().expect("a worker's client has a key");
        let signature = key.sign(&receipt);
        SignedReceipt { receipt, signature, units }
    }
}

/// Hashes and uploads the outputs of one unit; waits for the market if it must.
async fn upload(
    context: &Context,
    holding: &Holding,
    outputs: Vec<Bytes>,
) -> Result<Vec<OutputCommitment>, Refusal> {
    let _waiting = context.leases.outputs(outputs.iter().map(|bytes| bytes.len() as u64).sum());
    let hashed = tokio::task::spawn_blocking(move || {
        let commitments: Vec<_> = outputs.iter().map(|bytes| OutputCommitment::of(bytes)).collect();
        (outputs, commitments)
    });
    let failed = |detail: String| Refusal { cause: ReleaseCause::DeviceFailed, detail };
    let (outputs, commitments) = hashed.await.map_err(|error| failed(error.to_string()))?;
    for (bytes, commitment) in outputs.into_iter().zip(&commitments) {
        let mut backoff = Backoff::default();
        loop {
            if holding.is_over() {
                return Err(failed("the lease is over".into()));
            }
            match context.uploads.put(&context.client, commitment.blob, bytes.clone()).await {
                Ok(()) => break,
                Err(error) if may_pass(&error) => context.wait_for_market(&error, &mut backoff).await,
                Err(error) => return Err(failed(format!("an output could not be uploaded: {error}"))),
            }
        }
    }
    Ok(commitments)
}

/// Hands receipts in until nobody makes any more.
pub(crate) async fn hand_in(
    context: &Context,
    mut finished: mpsc::UnboundedReceiver<Finished>,
) -> Result<(), WorkerError> {
    let mut waiting: Vec<Finished> = Vec::new();
    let mut backoff = Backoff::default();
    // Receipts at the front that were refused together and go one by one now.
    let mut singly = 0_usize;
    loop {
        if waiting.is_empty() && finished.recv_many(&mut waiting, RECEIPTS_MAX).await == 0 {
            return Ok(());
        }
        while waiting.len() < RECEIPTS_MAX
            && let Ok(more) = finished.try_recv()
        {
            waiting.push(more);
        }
        let mut units = 0;
        let receipts_max = if singly > 0 { 1 } else { RECEIPTS_MAX };
        let batch = waiting
            .iter()
            .take(receipts_max)
            .take_while(|one| {
                let fits = units == 0 || units + one.receipt.units.len() <= UNITS_MAX;
                units += one.receipt.units.len();
                fits
            })
            .count();
        let receipts: Vec<_> = waiting[..batch].iter().map(|one| one.receipt.clone()).collect();
        match context.client.receipts(&ReceiptsRequest { receipts }).await {
            Ok(answer) => {
                singly = singly.saturating_sub(1);
                backoff.reset();
                context.market_up();
                if answer.results.len() != batch {
                    tracing::error!(
                        sent = batch,
                        answered = answer.results.len(),
                        "receipts went unanswered"
                    );
                }
                for (one, result) in waiting.drain(..batch).zip(answer.results) {
                    note(context, &one, result);
                    one.holding.end();
                    context.leases.forget(one.holding.lease.id);
                }
            }
            Err(error) if may_pass(&error) => context.wait_for_market(&error, &mut backoff).await,
            Err(error) if error.code() == Some(code::WORKER_UNKNOWN) => context.announce().await?,
            Err(error) if batch > 1 && is_about_content(&error) => {
                tracing::warn!(receipts = batch, %error, "receipts were refused together; sending them one by one");
                singly = batch;
            }
            Err(error) => {
                singly = singly.saturating_sub(1);
                for one in waiting.drain(..batch) {
                    let units = one.receipt.units.len() as u64;
                    tracing::warn!(lease = %one.holding.lease.id, %error, "a receipt was refused");
                    context.board.note(|parts| parts.units_refused += units);
                    one.holding.end();
                    context.leases.forget(one.holding.lease.id);
                }
            }
        }
    }
}

/// Whether the market refused what the request carries, so that a part of it may be taken.
fn is_about_content(error: &client::Error) -> bool {
    matches!(error, client::Error::Problem(problem) if matches!(problem.status, 400 | 413 | 422))
}

fn note(context: &Context, one: &Finished, result: ReceiptResult) {
    let units = one.receipt.units.len() as u64;
    match result {
        ReceiptResult::Accepted { .. } | ReceiptResult::Checking { .. } => {
            context.board.note(|parts| parts.units_committed += units);
        }
        ReceiptResult::Refused { lease, problem } => {
            tracing::warn!(%lease, %problem, "a receipt was refused");
            context.board.note(|parts| parts.units_refused += units);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Mutex, PoisonError},
    };

    use api::{Challenge, ChallengeRequest, Lease, MarketInfo, Problem, ReceiptsAnswer, Session};
    use axum::{
        Json, Router,
        extract::State,
        http::{HeaderMap, StatusCode},
        response::{Html, IntoResponse, Response},
        routing::post,
    };
    use protocol::{
        Amount, DeviceFacts, DeviceLimits, Hash, JobId, LeaseId, SecretKey, WorkerKind, WorkerOffer,
    };
    use tokio::sync::watch;

    use super::*;
    use crate::{
        cache::{Cache, CacheConfig},
        context::Stop,
        status::Board,
    };

    fn key() -> SecretKey {
        SecretKey::from_seed([7; 32])
    }

    /// A market that holds lease 2 for malformed, and answers otherwise than in JSON as often as asked.
    #[derive(Default)]
    struct Stub {
        pages: Mutex<u32>,
        /// The leases of each request that was read.
        requests: Mutex<VecDeque<Vec<u64>>>,
    }

    async fn challenge(headers: HeaderMap, Json(request): Json<ChallengeRequest>) -> Json<Challenge> {
        let (host, nonce) = (headers["host"].to_str().unwrap(), "0123456789abcdef".to_owned());
        let message = format!(
            "{host} wants you to sign in with your Solana account:\n{}\n\nNonce: {nonce}",
            request.address
        );
        Json(Challenge { nonce, message, expires_at: "2100-01-01T00:00:00.000Z".into() })
    }

    async fn login() -> Json<Session> {
        let account = key().public();
        let expires_at = "2100-01-01T00:00:00.000Z".into();
        Json(Session { token: "token".into(), expires_at, account, key: account })
    }

    async fn receipts(State(stub): State<Arc<Stub>>, Json(request): Json<ReceiptsRequest>) -> Response {
        let mut pages = stub.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if *pages > 0 {
            *pages -= 1;
            return Html("<p>please log in to this network</p>").into_response();
        }
        let leases: Vec<u64> = request.receipts.iter().map(|one| one.receipt.lease.0).collect();
        stub.requests.lock().unwrap().push_back(leases.clone());
        if leases.contains(&2) {
            let problem = Problem::new(code::REQUEST_INVALID, "a receipt cannot be read", "correct it");
            return (StatusCode::BAD_REQUEST, serde_json::to_string(&problem).unwrap()).into_response();
        }
        let accepted = |lease| ReceiptResult::Accepted { lease: LeaseId(lease), paid: Amount(1), rest: None };
        Json(ReceiptsAnswer { results: leases.into_iter().map(accepted).collect() }).into_response()
    }

    fn facts() -> DeviceFacts {
        DeviceFacts {
            kind: WorkerKind::Native,
            adapter: String::new(),
            vendor: String::new(),
            backend: String::new(),
            features: Vec::new(),
            limits: DeviceLimits {
                storage_buffer_bytes_max: 1,
                buffer_bytes_max: 1,
                storage_buffers_max: 1,
                workgroup_invocations_max: 1,
                workgroup_bytes_max: 1,
                workgroups_per_dimension_max: 1,
            },
        }
    }

    async fn context(stub: Arc<Stub>) -> Context {
        let app = Router::new()
            .route("/v1/auth/challenge", post(challenge))
            .route("/v1/auth/login", post(login))
            .route("/v1/receipts", post(receipts))
            .with_state(stub);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let client = client::Client::new(&address, key()).unwrap();
        let worker = key().public();
        let market = MarketInfo {
            market: worker,
            faucet: false,
            blob_bytes_max: 1,
            heartbeat_ms_max: 1000,
            provider_bps: 10_000,
            treasury_bps: 0,
            burn_bps: 0,
        };
        let identity = (worker, "instance".to_owned(), "test".to_owned());
        let cache = Cache::new(CacheConfig::default());
        let board = Arc::new(Board::new(worker));
        Context::new(
            client,
            identity,
            market,
            (facts(), WorkerOffer::default()),
            cache,
            board,
            watch::Sender::new(Stop::No).subscribe(),
        )
    }

    fn finished(context: &Context, id: u64) -> Finished {
        let lease = Lease {
            id: LeaseId(id),
            generation: 1,
            job: JobId(1),
            manifest: Hash::of(b"a program"),
            units: vec![],
            unit_base: 0,
            inputs: vec![],
            expires_in_ms: 1000,
        };
        let receipt = Receipt {
            market: context.market.market,
            lease: lease.id,
            generation: 1,
            worker: context.worker,
            job: lease.job,
            units: 1,
            package_root: Hash::of(b"a root"),
            adapter: String::new(),
            started_at_ms: 1,
            device_us: 1,
            total_us: 1,
        };
        let signature = key().sign(&receipt);
        let units = vec![UnitOutputs { unit: id, outputs: vec![] }];
        let receipt = SignedReceipt { receipt, signature, units };
        Finished { holding: context.leases.take(lease), receipt }
    }

    #[tokio::test]
    async fn a_bad_receipt_and_a_page_of_a_proxy_cost_no_other_receipt() {
        let stub = Arc::new(Stub { pages: Mutex::new(1), ..Stub::default() });
        let context = context(stub.clone()).await;
        let (sender, receiver) = mpsc::unbounded_channel();
        for id in 1..=3 {
            sender.send(finished(&context, id)).unwrap();
        }
        drop(sender);
        hand_in(&context, receiver).await.unwrap();
        let status = context.board.subscribe().borrow().clone();
        assert_eq!((status.units_committed, status.units_refused), (2, 1));
        assert!(context.leases.all().is_empty());
        assert_eq!(*stub.requests.lock().unwrap(), [vec![1, 2, 3], vec![1], vec![2], vec![3]]);
    }
}
