//! The client against a stub that misbehaves on purpose. Its behaviour with a real market is tested in `tests/`.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use api::{Challenge, ChallengeRequest, LoginRequest, Problem, Session, code};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use plexus_client::{Client, Error};
use protocol::{Hash, PublicKey, SecretKey};

#[derive(Default)]
struct Stub {
    /// Logins so far; the token of login `n` is `token-n`.
    logins: AtomicU32,
    /// The only login whose token is honoured.
    honoured: AtomicU32,
    /// Answers 503 this many times.
    overloads: AtomicU32,
    calls: AtomicU32,
}

async fn challenge(headers: HeaderMap, Json(request): Json<ChallengeRequest>) -> Json<Challenge> {
    let host = headers[header::HOST].to_str().unwrap();
    let nonce = "0123456789abcdef".to_owned();
    let message = format!(
        "{host} wants you to sign in with your Solana account:\n{}\n\nSign in to the market.\n\nNonce: {nonce}",
        request.address
    );
    Json(Challenge { nonce, message, expires_at: "2100-01-01T00:00:00.000Z".into() })
}

async fn login(State(stub): State<Arc<Stub>>, Json(_): Json<LoginRequest>) -> Json<Session> {
    let account = key().public();
    let number = stub.logins.fetch_add(1, SeqCst) + 1;
    let token = format!("token-{number}");
    Json(Session { token, expires_at: "2100-01-01T00:00:00.000Z".into(), account, key: account })
}

async fn deposit(State(stub): State<Arc<Stub>>, Path(id): Path<PublicKey>, headers: HeaderMap) -> Response {
    stub.calls.fetch_add(1, SeqCst);
    let honoured = format!("Bearer token-{}", stub.honoured.load(SeqCst));
    if headers.get(header::AUTHORIZATION).is_none_or(|v| v.to_str().unwrap() != honoured) {
        return problem(Problem::new(code::UNAUTHENTICATED, "the token has ended", "log in again"));
    }
    if stub.overloads.load(SeqCst) > 0 {
        stub.overloads.fetch_sub(1, SeqCst);
        return problem(Problem::new(code::OVERLOADED, "too much at once", "try again"));
    }
    assert!(headers.contains_key(api::IDEMPOTENCY_KEY));
    let zero = protocol::Amount::ZERO;
    let available = protocol::Amount(5);
    Json(api::Account {
        id,
        available,
        escrowed: zero,
        earned: zero,
        pending: zero,
        releases: vec![],
        spent: zero,
        bonded: zero,
        frozen: zero,
        unbonding: zero,
        rewarded: zero,
    })
    .into_response()
}

fn problem(problem: Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap();
    (status, [(header::CONTENT_TYPE, api::PROBLEM_JSON)], serde_json::to_vec(&problem).unwrap())
        .into_response()
}

/// More than the server buffers, so that a part of it arrives before the connection breaks.
fn good() -> Bytes {
    (0..4 << 20).map(|i: u32| (i / 7) as u8).collect()
}

async fn blob(State(stub): State<Arc<Stub>>, Path(hash): Path<Hash>, headers: HeaderMap) -> Response {
    stub.calls.fetch_add(1, SeqCst);
    let good = good();
    if hash != Hash::of(&good) {
        return "other bytes".into_response();
    }
    if let Some(range) = headers.get(header::RANGE) {
        let from = range.to_str().unwrap().strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap();
        let from: usize = from.parse().unwrap();
        assert!(from > 0);
        return (StatusCode::PARTIAL_CONTENT, good.slice(from..)).into_response();
    }
    let parts = good.chunks(1 << 16).take(48).map(|part| Ok(Bytes::copy_from_slice(part)));
    let parts: Vec<_> = parts.chain([Err(std::io::Error::other("cable cut"))]).collect();
    let body = Body::from_stream(futures::stream::iter(parts));
    ([(header::CONTENT_LENGTH, good.len().to_string())], body).into_response()
}

fn key() -> SecretKey {
    SecretKey::from_seed([7; 32])
}

async fn start() -> (Client, Arc<Stub>) {
    let stub = Arc::new(Stub::default());
    stub.honoured.store(1, SeqCst);
    let app = Router::new()
        .route("/v1/auth/challenge", post(challenge))
        .route("/v1/auth/login", post(login))
        .route("/v1/accounts/{id}/deposit", post(deposit))
        .route("/v1/blobs/{hash}", get(blob))
        .with_state(stub.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (Client::new(&address, key()).unwrap(), stub)
}

#[tokio::test]
async fn one_login_serves_many_calls_and_a_refused_token_is_renewed_once() {
    let (client, stub) = start().await;
    let id = key().public();
    let (a, b) =
        tokio::join!(client.deposit(&id, protocol::Amount(1)), client.deposit(&id, protocol::Amount(1)));
    a.unwrap();
    b.unwrap();
    assert_eq!(stub.logins.load(SeqCst), 1);

    stub.honoured.store(2, SeqCst);
    client.deposit(&id, protocol::Amount(1)).await.unwrap();
    assert_eq!(stub.logins.load(SeqCst), 2);

    // A token that is never honoured is an error after one new login, not a loop.
    stub.honoured.store(99, SeqCst);
    let error = client.deposit(&id, protocol::Amount(1)).await.unwrap_err();
    assert_eq!(error.code(), Some(code::UNAUTHENTICATED));
    assert_eq!(stub.logins.load(SeqCst), 3);
}

#[tokio::test]
async fn an_overloaded_market_is_asked_again_a_bounded_number_of_times() {
    let (client, stub) = start().await;
    let id = key().public();
    stub.overloads.store(2, SeqCst);
    client.deposit(&id, protocol::Amount(1)).await.unwrap();
    assert_eq!(stub.calls.load(SeqCst), 3);

    stub.overloads.store(1000, SeqCst);
    let error = client.deposit(&id, protocol::Amount(1)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(
        error.to_string().contains("too much at once") && error.to_string().contains("try again"),
        "{error}"
    );
    assert_eq!(stub.calls.load(SeqCst), 8);
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_and_is_checked() {
    let (client, stub) = start().await;
    let good = good();
    assert!(client.blob(&Hash::of(&good), good.len() as u64).await.unwrap() == good);
    assert_eq!(stub.calls.load(SeqCst), 2);

    let wanted = Hash::of(b"something else");
    assert!(
        matches!(client.blob(&wanted, 1000).await, Err(Error::BlobMismatch { wanted: w, .. }) if w == wanted)
    );
    assert!(matches!(client.blob(&wanted, 5).await, Err(Error::BlobTooLarge { length: 11, .. })));
}

#[tokio::test]
async fn a_market_that_is_not_there_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = Client::anonymous(&address).unwrap().market().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }));
    assert!(error.to_string().contains(&address), "{error}");
}
