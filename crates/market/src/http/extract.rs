//! Reading requests, with a problem document for whatever is wrong with them.

use std::{fmt::Display, str::FromStr, sync::Arc, time::Duration};

use api::code;
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{header, request::Parts},
};
use protocol::Hash;
use serde::de::DeserializeOwned;

use super::{App, Shared, entry::Known};
use crate::{auth::Caller, failure::Failure};

impl FromRequestParts<Shared> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Failure> {
        if let Some(Known(caller)) = parts.extensions.get() {
            return Ok(*caller);
        }
        let value = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        app.auth.caller(value)
    }
}

/// Who calls, where that is optional. A token that is sent must be good: nobody is silently taken for a stranger.
impl axum::extract::OptionalFromRequestParts<Shared> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Option<Self>, Failure> {
        if !parts.headers.contains_key(header::AUTHORIZATION) {
            return Ok(None);
        }
        <Self as FromRequestParts<Shared>>::from_request_parts(parts, app).await.map(Some)
    }
}

/// A JSON body.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Shared> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Failure> {
        let RawBody(bytes) = RawBody::from_request(request, app).await?;
        parse(&bytes).map(Self)
    }
}

/// How long a body may take: 32 MiB, at 1 Mbit/s.
const BODY_TIME_MAX: Duration = Duration::from_secs(300);

/// A body within the route's limit.
pub struct RawBody(pub Bytes);

impl FromRequest<Shared> for RawBody {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Failure> {
        let read = tokio::time::timeout(BODY_TIME_MAX, Bytes::from_request(request, app)).await;
        let read = read.map_err(|_| {
            Failure::new(code::REQUEST_INVALID, "the body did not end in time", "send the whole body at once")
        })?;
        match read {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Failure::new(
                    code::REQUEST_TOO_LARGE,
                    "the body is larger than this path takes",
                    "send less at once; data belongs into blobs",
                ))
            }
            Err(rejection) => {
                Err(Failure::new(code::REQUEST_INVALID, rejection.body_text(), "send the whole body"))
            }
        }
    }
}

/// Reads JSON; of what is wrong it says where, by field, line and column.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|_| {
        // Read again with the path written down: only bad input pays for it.
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let error = serde_path_to_error::deserialize::<_, T>(&mut reader);
        let (path, error) = match error {
            Err(error) => (error.path().to_string(), error.into_inner()),
            Ok(_) => match reader.end() {
                Err(error) => (".".to_owned(), error),
                Ok(()) => return Failure::internal("JSON that is wrong once and right again"),
            },
        };
        let mut detail = error.to_string();
        if let Some(end) = detail.rfind(" at line ") {
            detail.truncate(end);
        }
        let problem = api::Problem::new(
            code::REQUEST_INVALID,
            detail,
            "correct the JSON; /v1/openapi.json has its schema",
        )
        .at_line(u32::try_from(error.line()).ok(), u32::try_from(error.column()).ok());
        let problem = if path == "." { problem } else { problem.at(path) };
        problem.into()
    })
}

/// An id in the path. One that cannot be an id of its kind is not found.
pub struct Id<T>(pub T);

impl<T: FromStr<Err: Display>> FromRequestParts<Shared> for Id<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Failure> {
        let Path(text) = Path::<String>::from_request_parts(parts, app).await.map_err(|rejection| {
            Failure::new(code::REQUEST_INVALID, rejection.body_text(), "correct the path")
        })?;
        parse_id(&text).map(Self)
    }
}

/// An id from a path.
pub fn parse_id<T: FromStr<Err: Display>>(text: &str) -> Result<T, Failure> {
    text.parse()
        .map_err(|error: T::Err| Failure::new(code::REQUEST_INVALID, error.to_string(), "correct the path"))
}

/// Query parameters.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Shared> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Failure> {
        Query::<T>::from_request_parts(parts, app).await.map(|Query(asked)| Self(asked)).map_err(
            |rejection| {
                let detail = std::error::Error::source(&rejection)
                    .map_or_else(|| rejection.body_text(), |cause| cause.to_string());
                Failure::new(
                    code::REQUEST_INVALID,
                    detail,
                    "correct the query; /v1/openapi.json lists its parameters",
                )
            },
        )
    }
}

/// The idempotency key of a write, bound to the account that sent it.
pub struct IdempotencyKey(pub Option<Hash>);

impl FromRequestParts<Shared> for IdempotencyKey {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Failure> {
        let Some(value) = parts.headers.get(api::IDEMPOTENCY_KEY).cloned() else { return Ok(Self(None)) };
        if value.is_empty() || value.len() > 200 {
            let detail = "an idempotency key has 1 to 200 characters";
            return Err(Failure::new(code::REQUEST_INVALID, detail, "use a random one, such as a UUID"));
        }
        let caller = Caller::from_request_parts(parts, app).await?;
        Ok(Self(Some(Hash::of_parts(&[&caller.account.0, value.as_bytes()]))))
    }
}
