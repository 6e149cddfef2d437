//! How a market lets a worker in, for the tests of what comes after.

use api::{Challenge, ChallengeRequest, Session};
use axum::{Json, http::HeaderMap};
use protocol::SecretKey;

/// The worker's.
pub fn key() -> SecretKey {
    SecretKey::from_seed([7; 32])
}

/// `POST /v1/auth/challenge`.
pub async fn challenge(headers: HeaderMap, Json(request): Json<ChallengeRequest>) -> Json<Challenge> {
    let (host, nonce) = (headers["host"].to_str().unwrap(), "0123456789abcdef".to_owned());
    let message = format!(
        "{host} wants you to sign in with your Solana account:\n{}\n\nNonce: {nonce}",
        request.address
    );
    Json(Challenge { nonce, message, expires_at: "2100-01-01T00:00:00.000Z".into() })
}

/// `POST /v1/auth/login`: whoever asks is let in.
pub async fn login() -> Json<Session> {
    let account = key().public();
    let expires_at = "2100-01-01T00:00:00.000Z".into();
    Json(Session { token: "token".into(), expires_at, account, key: account })
}
