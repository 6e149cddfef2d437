//! Outputs on their way to the market.
//!
//! A large output is a request of its own. Small ones that become ready while earlier ones are on their way travel together:
//! the first goes at once, and however many come meanwhile are the next request. So a package of a thousand outputs of a few
//! bytes costs a handful of round trips and of the market's syncs to disk, and a single one waits for nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use client::Client;
use protocol::{
    Hash,
    batch::{BATCH_BLOB_BYTES_MAX, BATCH_BLOBS_MAX, BATCH_BYTES_MAX},
};
use tokio::sync::{Semaphore, oneshot};

/// Large outputs uploaded at the same time.
const LARGE_AT_ONCE: usize = 8;
/// Batches on their way at the same time: while the market syncs one the next one travels.
const BATCHES_AT_ONCE: usize = 2;

/// What became of an upload; one batch's failure is that of all its blobs.
type Outcome = Result<(), Arc<client::Error>>;

/// The uploads of one worker.
pub(crate) struct Uploads {
    large: Semaphore,
    batches: Semaphore,
    small: Mutex<VecDeque<Small>>,
}

struct Small {
    hash: Hash,
    bytes: Bytes,
    told: oneshot::Sender<Outcome>,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            large: Semaphore::new(LARGE_AT_ONCE),
            batches: Semaphore::new(BATCHES_AT_ONCE),
            small: Mutex::default(),
        }
    }
}

impl Uploads {
    /// Uploads `bytes`, whose hash is `hash`. Returns once the market has them on disk.
    pub(crate) async fn put(&self, market: &Client, hash: Hash, bytes: Bytes) -> Outcome {
        if bytes.len() > BATCH_BLOB_BYTES_MAX {
            let _turn = self.large.acquire().await;
            return market.upload_blob(bytes).await.map(drop).map_err(Arc::new);
        }
        loop {
            let (told, mut outcome) = oneshot::channel();
            self.queue().push_back(Small { hash, bytes: bytes.clone(), told });
            let mut queued = true;
            // Whoever has a turn carries what all the others queued; most find theirs carried before they get one.
            let told = loop {
                tokio::select! {
                    biased;
                    told = &mut outcome => break told,
                    turn = self.batches.acquire(), if queued => {
                        queued = self.send_batch(market).await;
                        drop(turn);
                    }
                }
            };
            // Without an outcome, whoever carried it ended before the request did: it goes again.
            if let Ok(outcome) = told {
                return outcome;
            }
        }
    }

    /// Sends what waits, as much as one batch takes. Whether anything did.
    async fn send_batch(&self, market: &Client) -> bool {
        let mut blobs: Vec<Bytes> = Vec::new();
        let mut told: HashMap<Hash, Vec<oneshot::Sender<Outcome>>> = HashMap::new();
        {
            let mut queue = self.queue();
            let mut bytes = 0;
            while let Some(next) = queue.front() {
                bytes += next.bytes.len();
                if blobs.len() == BATCH_BLOBS_MAX || bytes > BATCH_BYTES_MAX {
                    break;
                }
                let Some(next) = queue.pop_front() else { break };
                // Whoever gave up is not waited for; equal outputs (an all-zero mask, say) go once.
                if next.told.is_closed() {
                    bytes -= next.bytes.len();
                    continue;
                }
                let waiting = told.entry(next.hash).or_default();
                if waiting.is_empty() {
                    blobs.push(next.bytes);
                }
                waiting.push(next.told);
            }
        }
        if blobs.is_empty() {
            return false;
        }
        let outcome = market.put_blobs(&blobs).await.map(drop).map_err(Arc::new);
        for told in told.into_values().flatten() {
            // Nobody listens for a lease that is over.
            let _ = told.send(outcome.clone());
        }
        true
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Small>> {
        self.small.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use api::BlobsAnswer;
    use axum::{
        Json, Router,
        extract::State,
        http::StatusCode,
        response::{IntoResponse, Response},
        routing::{post, put},
    };
    use futures::future::join_all;
    use protocol::batch;
    use tokio::sync::Notify;

    use super::*;
    use crate::login_stub::{challenge, key, login};

    /// A market that answers no batch before it is told to, and stores nothing of one with a blob of the word "bad".
    #[derive(Default)]
    struct Stub {
        open: Notify,
        arrived: Notify,
        batches: Mutex<Vec<usize>>,
        blobs: Mutex<HashSet<Hash>>,
    }

    async fn blobs(State(stub): State<Arc<Stub>>, body: Bytes) -> Response {
        let ranges = batch::parts(&body).unwrap();
        stub.batches.lock().unwrap().push(ranges.len());
        stub.arrived.notify_one();
        stub.open.notified().await;
        let blobs: Vec<_> = ranges.into_iter().map(|range| body.slice(range)).collect();
        if blobs.iter().any(|blob| **blob == *b"bad") {
            return StatusCode::BAD_REQUEST.into_response();
        }
        let hashes: Vec<_> = blobs.iter().map(|blob| Hash::of(blob)).collect();
        stub.blobs.lock().unwrap().extend(&hashes);
        Json(BlobsAnswer { blobs: hashes }).into_response()
    }

    async fn blob(State(stub): State<Arc<Stub>>, body: Bytes) -> StatusCode {
        stub.blobs.lock().unwrap().insert(Hash::of(&body));
        StatusCode::CREATED
    }

    async fn market(stub: Arc<Stub>) -> Client {
        let app = Router::new()
            .route("/v1/auth/challenge", post(challenge))
            .route("/v1/auth/login", post(login))
            .route("/v1/blobs", post(blobs))
            .route("/v1/blobs/{hash}", put(blob))
            .with_state(stub);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Client::new(&address, key()).unwrap()
    }

    fn put_one<'a>(
        uploads: &'a Uploads,
        market: &'a Client,
        bytes: Vec<u8>,
    ) -> impl Future<Output = Outcome> + 'a {
        uploads.put(market, Hash::of(&bytes), bytes.into())
    }

    #[tokio::test]
    async fn what_becomes_ready_while_a_request_travels_is_the_next_request() {
        let stub = Arc::new(Stub::default());
        let market = market(stub.clone()).await;
        let uploads = Uploads::default();
        let all = join_all((0..300u32).map(|n| put_one(&uploads, &market, (n % 250).to_le_bytes().into())));
        let open = async {
            loop {
                stub.arrived.notified().await;
                stub.open.notify_one();
            }
        };
        let outcomes = tokio::select! { outcomes = all => outcomes, () = open => unreachable!() };
        assert!(outcomes.iter().all(Result::is_ok));
        assert_eq!(stub.blobs.lock().unwrap().len(), 250);
        let batches = stub.batches.lock().unwrap().clone();
        assert!(batches.len() <= 4, "{batches:?}");
    }

    #[tokio::test]
    async fn a_failed_batch_fails_for_those_in_it_and_a_large_blob_goes_alone() {
        let stub = Arc::new(Stub::default());
        let market = market(stub.clone()).await;
        let uploads = Uploads::default();
        let large = vec![1; BATCH_BLOB_BYTES_MAX + 1];
        // The market never answers the batch meanwhile.
        uploads.put(&market, Hash::of(&large), large.clone().into()).await.expect_err("it has no HEAD");
        let bad = put_one(&uploads, &market, b"bad".into());
        let told = async {
            stub.arrived.notified().await;
            stub.open.notify_one();
        };
        let (outcome, ()) = tokio::join!(bad, told);
        assert!(outcome.is_err());
        let good = put_one(&uploads, &market, b"good".into());
        let told = async {
            stub.arrived.notified().await;
            stub.open.notify_one();
        };
        let (outcome, ()) = tokio::join!(good, told);
        outcome.expect("the next batch is another");
    }

    #[tokio::test]
    async fn who_gives_up_takes_nobody_elses_blob_along() {
        let stub = Arc::new(Stub::default());
        let market = market(stub.clone()).await;
        let uploads = Arc::new(Uploads::default());
        let (for_first, for_market) = (uploads.clone(), market.clone());
        let first = tokio::spawn(async move { put_one(&for_first, &for_market, b"first".into()).await });
        stub.arrived.notified().await;
        let (for_second, for_market) = (uploads.clone(), market.clone());
        let second = tokio::spawn(async move { put_one(&for_second, &for_market, b"second".into()).await });
        stub.arrived.notified().await;
        // Both turns are taken; a third waits behind them, and then the first carrier goes away.
        let third = put_one(&uploads, &market, b"third".into());
        let told = async {
            first.abort();
            stub.arrived.notified().await;
            for _ in 0..3 {
                stub.open.notify_one();
                tokio::task::yield_now().await;
            }
            stub.open.notify_waiters();
        };
        let (outcome, ()) = tokio::join!(third, told);
        outcome.expect("somebody carries it");
        stub.open.notify_one();
        second.await.unwrap().expect("its own request was answered");
    }
}
