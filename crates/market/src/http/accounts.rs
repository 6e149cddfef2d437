//! Login and wallets.

use api::{Account, Challenge, ChallengeRequest, DepositRequest, LoginRequest, Session, StakeRequest, code};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header},
};
use engine::Command;
use protocol::{Amount, PublicKey};

use super::{
    Problems, Shared,
    extract::{Id, IdempotencyKey, JsonBody},
};
use crate::{auth::Caller, failure::Failure, view};

/// Ask for a message to sign
#[utoipa::path(post, path = "/v1/auth/challenge", tag = "auth", operation_id = "challenge",
    request_body = ChallengeRequest, responses((status = 200, body = Challenge), Problems))]
pub async fn challenge(
    State(app): State<Shared>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<ChallengeRequest>,
) -> Result<Json<Challenge>, Failure> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    app.auth.challenge(host, request).map(Json)
}

/// Answer a challenge and get a token
#[utoipa::path(post, path = "/v1/auth/login", tag = "auth", operation_id = "login",
    request_body = LoginRequest, responses((status = 200, body = Session), Problems))]
pub async fn login(
    State(app): State<Shared>,
    JsonBody(request): JsonBody<LoginRequest>,
) -> Result<Json<Session>, Failure> {
    let session = app.auth.login(request, &app.committer).await?;
    app.metrics.logins.inc();
    Ok(Json(session))
}

/// What a wallet has
#[utoipa::path(get, path = "/v1/accounts/{id}", tag = "accounts", operation_id = "account",
    params(("id" = PublicKey, Path, description = "The wallet")),
    responses((status = 200, body = Account), Problems))]
pub async fn account(State(app): State<Shared>, Id(id): Id<PublicKey>) -> Result<Json<Account>, Failure> {
    Ok(Json(app.committer.query(move |state, _| view::account(state, id)).await?))
}

/// Only the wallet itself moves its stake.
async fn move_stake(
    app: Shared,
    caller: Caller,
    account: PublicKey,
    command: Command,
) -> Result<Json<Account>, Failure> {
    if caller.account != account || caller.key != account {
        let detail = format!("the token is not that of the wallet {account}");
        return Err(Failure::new(code::FORBIDDEN, detail, "log in with the wallet's own key"));
    }
    Ok(Json(app.committer.decide(command, move |state, _, _| view::account(state, account)).await?))
}

/// Set tokens aside as stake
#[utoipa::path(post, path = "/v1/accounts/{id}/bond", tag = "accounts", operation_id = "bond",
    params(("id" = PublicKey, Path, description = "The wallet")),
    request_body = StakeRequest, security(("token" = [])),
    responses((status = 200, body = Account), Problems))]
pub async fn bond(
    State(app): State<Shared>,
    caller: Caller,
    Id(account): Id<PublicKey>,
    JsonBody(StakeRequest { amount }): JsonBody<StakeRequest>,
) -> Result<Json<Account>, Failure> {
    move_stake(app, caller, account, Command::Bond { account, amount }).await
}

/// Ask for stake back: it is free after the market's delay
#[utoipa::path(post, path = "/v1/accounts/{id}/unbond", tag = "accounts", operation_id = "unbond",
    params(("id" = PublicKey, Path, description = "The wallet")),
    request_body = StakeRequest, security(("token" = [])),
    responses((status = 200, body = Account), Problems))]
pub async fn unbond(
    State(app): State<Shared>,
    caller: Caller,
    Id(account): Id<PublicKey>,
    JsonBody(StakeRequest { amount }): JsonBody<StakeRequest>,
) -> Result<Json<Account>, Failure> {
    move_stake(app, caller, account, Command::Unbond { account, amount }).await
}

/// Get test tokens, where the market has a faucet
#[utoipa::path(post, path = "/v1/accounts/{id}/deposit", tag = "accounts", operation_id = "deposit",
    params(("id" = PublicKey, Path, description = "The wallet"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key gives the first answer again")),
    request_body = DepositRequest, security(("token" = [])),
    responses((status = 200, body = Account), Problems))]
pub async fn deposit(
    State(app): State<Shared>,
    _caller: Caller,
    Id(account): Id<PublicKey>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<DepositRequest>,
) -> Result<Json<Account>, Failure> {
    let max = app.faucet.ok_or_else(|| {
        Failure::new(code::NO_FAUCET, "this market gives out no test tokens", "deposit real tokens")
    })?;
    let amount = request.amount;
    if amount == Amount::ZERO || amount > max {
        let detail = format!("one deposit is 1 to {max} base units");
        return Err(Failure::new(code::REQUEST_INVALID, detail, "choose another amount").at("amount"));
    }
    let command = Command::Deposit { account, amount, key };
    let answer = app.committer.decide(command, move |state, now, _| {
        // As the engine does: what is sent to a session key is its wallet's.
        view::account(state, state.wallet_of(account, now).unwrap_or(account))
    });
    Ok(Json(answer.await?))
}
