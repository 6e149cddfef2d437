//! From a unit's outputs to an answered receipt: outputs are uploaded while other units still run, Merkle roots are signed, and
//! receipts go to the market in batches until it answers.
//!
//! A long package is committed in parts: every few seconds, and when the device is wanted back, a receipt covers the units that
//! are finished so far. The market answers with a lease of the rest. Whatever happens then, nobody computes them again. A receipt
//! is sent even for a lease that was lost for being slow: work is not thrown away for a timer alone.

use std::{pin::pin, sync::Arc, time::SystemTime};

use api::{Lease, ReceiptResult, ReceiptsRequest, ReleaseCause, SignedReceipt, UnitOutputs, code};
use bytes::Bytes;
use protocol::{OutputCommitment, Receipt, UnitLeaf, package_root};
use seal::ContentKey;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use crate::{
    WorkerError,
    backoff::Backoff,
    context::{Context, Stop, may_pass, until},
    device::UnitOutput,
    leases::Holding,
    package::{Package, Refusal},
    sealed,
};

/// Receipts in one request, by the API.
const RECEIPTS_MAX: usize = 64;
/// Units in one request, which bounds its size to about 2 MB for a program with one output.
const UNITS_MAX: usize = 4096;

/// What a package's gathering is told.
enum Came {
    /// The device got the unit at this place.
    Begun,
    /// A unit ended.
    Unit { position: usize, output: UnitOutput },
    /// No more units will come: commit to those that came and give the rest back.
    Yield,
}

/// A package of which units come in. Dropping it before all have come ends it without a receipt.
pub(crate) struct Gathering {
    came: mpsc::UnboundedSender<Came>,
    missing: usize,
}

/// A receipt on its way.
pub(crate) struct Finished {
    holding: Arc<Holding>,
    receipt: SignedReceipt,
    /// Whether it covers only a part of its lease.
    part: bool,
    answered: oneshot::Sender<Answered>,
}

/// What became of a receipt, for the gathering that sent it.
#[derive(Debug, PartialEq, Eq)]
enum Answered {
    /// It was taken, and the rest goes on under another lease.
    GoOn,
    /// The lease cannot be committed to in parts; it still holds.
    WholeOnly,
    /// Nothing more is to be done for the package.
    Over,
}

impl Gathering {
    pub(crate) fn new(
        context: Arc<Context>,
        package: Arc<Package>,
        finished: mpsc::UnboundedSender<Finished>,
    ) -> Self {
        let (came, coming) = mpsc::unbounded_channel();
        let missing = package.units.len();
        tokio::spawn(Gathered::new(context, package, finished).gather(coming));
        Self { came, missing }
    }

    /// Notes that the device got a unit.
    pub(crate) fn begun(&mut self) {
        let _ = self.came.send(Came::Begun);
    }

    /// Takes the outputs of unit number `position` and begins to upload them. Whether all units are there now.
    pub(crate) fn add(&mut self, position: usize, output: UnitOutput) -> bool {
        self.missing -= 1;
        // A gathering that failed has released its lease.
        let _ = self.came.send(Came::Unit { position, output });
        self.missing == 0
    }

    /// Commits to what came and gives the rest back.
    pub(crate) fn finish_early(self) {
        let _ = self.came.send(Came::Yield);
    }
}

/// The inside of a gathering.
struct Gathered {
    context: Arc<Context>,
    package: Arc<Package>,
    finished: mpsc::UnboundedSender<Finished>,
    /// By position; absent until the unit was computed.
    computed: Vec<Option<u64>>,
    /// By position; absent until the outputs are uploaded.
    uploaded: Vec<Option<Vec<OutputCommitment>>>,
    uploads: JoinSet<Result<(usize, Vec<OutputCommitment>), Refusal>>,
    /// The first position that no receipt covers.
    from: usize,
    /// How far the receipt goes that is being made or answered.
    to: Option<usize>,
    answer: Option<oneshot::Receiver<Answered>>,
    /// When the units since `from` began, by both clocks.
    since: std::time::Instant,
    began_at: Option<SystemTime>,
    checkpoint_at: Instant,
    /// Whether the market takes a receipt for a part of the lease.
    in_parts: bool,
    yielding: bool,
}

impl Gathered {
    fn new(context: Arc<Context>, package: Arc<Package>, finished: mpsc::UnboundedSender<Finished>) -> Self {
        let units = package.units.len();
        Self {
            since: package.holding.taken_at,
            checkpoint_at: Instant::now() + context.checkpoint_every,
            context,
            package,
            finished,
            computed: vec![None; units],
            uploaded: vec![None; units],
            uploads: JoinSet::new(),
            from: 0,
            to: None,
            answer: None,
            began_at: None,
            in_parts: true,
            yielding: false,
        }
    }

    async fn gather(mut self, mut coming: mpsc::UnboundedReceiver<Came>) {
        let holding = self.package.holding.clone();
        let mut more = true;
        let mut stop = pin!(until(self.context.stop.clone(), Stop::Now));
        loop {
            // Also when nobody is left to tell us: what is finished is committed even if the worker ends at once.
            self.yielding |= *self.context.stop.borrow() >= Stop::Now;
            self.begin_receipt();
            if let Some(to) = self.to
                && self.answer.is_none()
                && self.uploaded[self.from..to].iter().all(Option::is_some)
            {
                self.send(to);
            }
            let idle = self.to.is_none();
            if idle && self.yielding {
                return self.context.release(&holding, Refusal::leaving());
            }
            if idle && !more {
                // The runner dropped the package: it was released or lost.
                return;
            }
            let checkpoint = idle && self.in_parts && self.computed_to() > self.from;
            tokio::select! {
                came = coming.recv(), if more => match came {
                    Some(came) => self.take(came),
                    None => more = false,
                },
                Some(uploaded) = self.uploads.join_next() => match uploaded {
                    Ok(Ok((position, commitments))) => self.uploaded[position] = Some(commitments),
                    Ok(Err(refusal)) => return self.context.release(&holding, refusal),
                    // Only when the whole worker ends.
                    Err(_) => return,
                },
                answered = answer(&mut self.answer), if self.answer.is_some() => {
                    self.answer = None;
                    if !self.go_on(answered) {
                        return;
                    }
                }
                () = &mut stop, if !self.yielding => {}
                () = tokio::time::sleep_until(self.checkpoint_at), if checkpoint => {
                    self.to = Some(self.computed_to());
                }
            }
        }
    }

    fn take(&mut self, came: Came) {
        match came {
            Came::Begun => {
                self.began_at.get_or_insert_with(SystemTime::now);
            }
            Came::Unit { position, output } => {
                self.computed[position] = Some(output.device_us);
                let (context, holding) = (self.context.clone(), self.package.holding.clone());
                let sealing =
                    self.package.content.clone().map(|content| (content, self.package.units[position]));
                self.uploads.spawn(async move {
                    let commitments = upload(&context, &holding, sealing, output.outputs).await?;
                    Ok((position, commitments))
                });
            }
            Came::Yield => self.yielding = true,
        }
    }

    /// The end of the units that are computed without a gap since `from`.
    fn computed_to(&self) -> usize {
        self.from + self.computed[self.from..].iter().take_while(|unit| unit.is_some()).count()
    }

    /// Begins a receipt if one is due: all units are computed, or no more will be.
    fn begin_receipt(&mut self) {
        let computed_to = self.computed_to();
        let all = computed_to == self.computed.len();
        if self.to.is_none() && (all || self.yielding && self.in_parts && computed_to > self.from) {
            self.to = Some(computed_to);
        }
    }

    /// Signs and sends the receipt for the units up to `to`.
    fn send(&mut self, to: usize) {
        let outputs = self.uploaded[self.from..to].iter().map(|one| one.clone().unwrap_or_default());
        let units: Vec<UnitOutputs> = self.package.units[self.from..to]
            .iter()
            .zip(outputs)
            .map(|(unit, outputs)| UnitOutputs { unit: *unit, outputs })
            .collect();
        let part = to < self.computed.len();
        let receipt = self.receipt(to, units);
        let holding = self.package.holding.clone();
        holding.cutting(part);
        let (answered, answer) = oneshot::channel();
        self.answer = Some(answer);
        // The other end only goes when the worker ends.
        let _ = self.finished.send(Finished { holding, receipt, part, answered });
    }

    /// Goes on after an answer; not if there is nothing more to do.
    fn go_on(&mut self, answered: Answered) -> bool {
        let Some(to) = self.to.take() else { return false };
        self.package.holding.cutting(false);
        match answered {
            Answered::GoOn => {
                self.from = to;
                self.since = std::time::Instant::now();
                self.began_at = Some(SystemTime::now());
                self.checkpoint_at = Instant::now() + self.context.checkpoint_every;
                true
            }
            Answered::WholeOnly => {
                self.in_parts = false;
                true
            }
            Answered::Over => false,
        }
    }

    fn receipt(&self, to: usize, units: Vec<UnitOutputs>) -> SignedReceipt {
        let (lease, term) = (&self.package.holding.lease, self.package.holding.term());
        let leaves: Vec<UnitLeaf> =
            units.iter().map(|unit| UnitLeaf::done(lease.job, unit.unit, unit.outputs.clone())).collect();
        let started_at = self.began_at.unwrap_or(self.package.holding.taken_at_wall);
        let receipt = Receipt {
            market: self.context.market.market,
            lease: term.id,
            generation: term.generation,
            worker: self.context.worker,
            job: lease.job,
            units: units.len() as u32,
            package_root: package_root(&leaves),
            adapter: self.context.device().adapter,
            started_at_ms: started_at
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
            device_us: self.computed[self.from..to].iter().flatten().sum(),
            total_us: self.since.elapsed().as_micros() as u64,
        };
        let key = self.context.client.key().expect("a worker's client has a key");
        let signature = key.sign(&receipt);
        SignedReceipt { receipt, signature, units }
    }
}

async fn answer(waiting: &mut Option<oneshot::Receiver<Answered>>) -> Answered {
    match waiting {
        // Nobody answers any more when the worker ends.
        Some(waiting) => waiting.await.unwrap_or(Answered::Over),
        None => std::future::pending().await,
    }
}

/// Seals, hashes and uploads the outputs of one unit; waits for the market if it must.
async fn upload(
    context: &Context,
    holding: &Holding,
    sealing: Option<(ContentKey, u64)>,
    outputs: Vec<Bytes>,
) -> Result<Vec<OutputCommitment>, Refusal> {
    let _waiting = context.leases.outputs(outputs.iter().map(|bytes| bytes.len() as u64).sum());
    let hashed = tokio::task::spawn_blocking(move || {
        let outputs = match sealing {
            Some((content, unit)) => sealed::seal(&content, unit, &outputs),
            None => outputs,
        };
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
    context: &Arc<Context>,
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
        match context.client.receipts(&ReceiptsRequest { receipts, next: None }).await {
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
                    let answered = note(context, &one, result);
                    end(context, one, answered);
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
                    tracing::warn!(lease = %one.holding.id(), %error, "a receipt was refused");
                    context.board.note(|parts| parts.units_refused += units);
                    end(context, one, Answered::Over);
                }
            }
        }
    }
}

/// Whether the market refused what the request carries, so that a part of it may be taken.
fn is_about_content(error: &client::Error) -> bool {
    matches!(error, client::Error::Problem(problem) if matches!(problem.status, 400 | 413 | 422))
}

/// Tells the package's gathering, and forgets the package where nothing is left to do.
fn end(context: &Context, one: Finished, answered: Answered) {
    if answered == Answered::Over {
        one.holding.end();
        context.leases.forget(&one.holding);
    }
    // A gathering that was dropped has given its package up.
    let _ = one.answered.send(answered);
}

fn note(context: &Arc<Context>, one: &Finished, result: ReceiptResult) -> Answered {
    let units = one.receipt.units.len() as u64;
    match result {
        ReceiptResult::Accepted { rest, .. } | ReceiptResult::Checking { rest, .. } => {
            context.board.note(|parts| parts.units_committed += units);
            match rest {
                Some(rest) if one.part => go_on(context, one, &rest),
                _ => Answered::Over,
            }
        }
        // A check of somebody else's work is one opinion, given as a whole: which leases are checks is not told.
        ReceiptResult::Refused { problem, .. } if one.part && problem.code == code::RECEIPT_INVALID => {
            Answered::WholeOnly
        }
        ReceiptResult::Refused { lease, problem } => {
            tracing::warn!(%lease, %problem, "a receipt was refused");
            context.board.note(|parts| parts.units_refused += units);
            Answered::Over
        }
    }
}

/// Goes on under the lease of the rest, unless the package was given up meanwhile.
fn go_on(context: &Arc<Context>, one: &Finished, rest: &Lease) -> Answered {
    if one.holding.is_over() {
        context.release_lease(rest.id, rest.generation, Refusal::leaving());
        return Answered::Over;
    }
    context.leases.go_on(&one.holding, rest);
    Answered::GoOn
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Mutex, PoisonError},
    };

    use api::{Lease, MarketInfo, Problem, ReceiptsAnswer};
    use axum::{
        Json, Router,
        extract::State,
        http::StatusCode,
        response::{Html, IntoResponse, Response},
        routing::post,
    };
    use protocol::{Amount, DeviceFacts, DeviceLimits, Hash, JobId, LeaseId, WorkerKind, WorkerOffer};
    use tokio::sync::watch;

    use super::*;
    use crate::{
        cache::{Cache, CacheConfig},
        context::Stop,
        login_stub::{challenge, key, login},
        status::Board,
    };

    /// A market that holds lease 2 for malformed, and answers otherwise than in JSON as often as asked.
    #[derive(Default)]
    struct Stub {
        pages: Mutex<u32>,
        /// The leases of each request that was read.
        requests: Mutex<VecDeque<Vec<u64>>>,
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
        Json(ReceiptsAnswer { results: leases.into_iter().map(accepted).collect(), leases: vec![] })
            .into_response()
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

    async fn context(stub: Arc<Stub>) -> Arc<Context> {
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
        let stop = watch::Sender::new(Stop::No).subscribe();
        let offer = WorkerOffer::default();
        let every = std::time::Duration::from_secs(5);
        Arc::new(Context::new(client, identity, market, (facts(), offer, every), cache, board, stop))
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
            envelope: None,
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
        let (answered, _) = oneshot::channel();
        Finished { holding: context.leases.take(lease), receipt, part: false, answered }
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
