//! One HTTP call: repeated with bounded backoff where that is safe, logged in again once when the token has ended,
//! problem documents turned into errors.

use std::time::Duration;

use api::Problem;
use bytes::Bytes;
use reqwest::{Method, Response, StatusCode, header};

use crate::{Client, Error};

/// Attempts after the first.
const RETRIES_MAX: u32 = 4;
/// Pause before the first retry; it doubles each time. Together about 1.5 s: longer outages are the caller's to sit out.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause that a `Retry-After` header may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// An answer other than a long poll or a blob must be there after this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A problem document is never longer.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

/// One call, ready to be sent any number of times.
pub(crate) struct Call {
    method: Method,
    pub(crate) path: String,
    body: Option<(Bytes, &'static str)>,
    headers: Vec<(&'static str, String)>,
    signed_in: bool,
    repeatable: bool,
    timeout: Option<Duration>,
}

impl Call {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path).repeatable()
    }

    pub(crate) fn head(path: impl Into<String>) -> Self {
        Self::new(Method::HEAD, path).repeatable()
    }

    pub(crate) fn put(path: impl Into<String>, bytes: Bytes) -> Self {
        let mut call = Self::new(Method::PUT, path).repeatable().timeout(None);
        call.body = Some((bytes, "application/octet-stream"));
        call
    }

    /// Bytes that may be sent twice.
    pub(crate) fn post_bytes(path: impl Into<String>, bytes: Bytes) -> Self {
        let mut call = Self::new(Method::POST, path).repeatable().timeout(None);
        call.body = Some((bytes, "application/octet-stream"));
        call
    }

    pub(crate) fn post(path: impl Into<String>, body: &impl serde::Serialize) -> Self {
        let mut call = Self::new(Method::POST, path);
        let json = serde_json::to_vec(body).expect("requests have string keys and finite numbers");
        call.body = Some((json.into(), "application/json"));
        call
    }

    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            body: None,
            headers: Vec::new(),
            signed_in: false,
            repeatable: false,
            timeout: Some(ANSWER_TIMEOUT),
        }
    }

    /// The caller must be logged in.
    pub(crate) fn signed_in(mut self) -> Self {
        self.signed_in = true;
        self
    }

    /// Sending it twice has the effect of sending it once.
    pub(crate) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Makes a write repeatable by giving it a key of its own.
    pub(crate) fn with_idempotency_key(self) -> Self {
        let key = crate::random_hex();
        self.header(api::IDEMPOTENCY_KEY, key).repeatable()
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// How long the whole answer may take; `None` bounds only the silence between its parts.
    pub(crate) fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

impl Client {
    /// Sends `call` and returns its successful answer.
    pub(crate) async fn send(&self, call: &Call) -> Result<Response, Error> {
        let (mut retries, mut logged_in_again) = (0, false);
        loop {
            let token = if call.signed_in { Some(self.token().await?) } else { None };
            let (error, pause) = match self.send_once(call, token.as_deref()).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let pause = retry_after(&response);
                    let problem = self.problem(call, response).await;
                    if problem.code == api::code::UNAUTHENTICATED && call.signed_in && !logged_in_again {
                        logged_in_again = true;
                        self.forget_token(token.as_deref()).await;
                        continue;
                    }
                    let again = match problem.status {
                        // Nothing was accepted, so any call may be repeated.
                        429 | 503 => true,
                        // Nobody knows what was.
                        502 | 504 => call.repeatable,
                        _ => false,
                    };
                    let error = Error::Problem(Box::new(problem));
                    if !again {
                        return Err(error);
                    }
                    (error, pause)
                }
                Err(source) => {
                    let again = call.repeatable || source.is_connect();
                    let error = Error::Unreachable { market: self.address().to_owned(), source };
                    let again = again && !error.is_untrusted();
                    if !again {
                        return Err(error);
                    }
                    (error, None)
                }
            };
            if retries == self.retries_max() {
                return Err(error);
            }
            let pause = pause.unwrap_or(BACKOFF_FIRST * 2u32.pow(retries));
            retries += 1;
            tracing::debug!(call = call.name(), %error, ?pause, "will try again");
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends `call` and reads its JSON answer.
    pub(crate) async fn json<T: serde::de::DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        let response = self.send(call).await?;
        let bytes = response
            .bytes()
            .await
            .map_err(|source| Error::Unreachable { market: self.address().to_owned(), source })?;
        serde_json::from_slice(&bytes).map_err(|e| self.unexpected(call, e.to_string()))
    }

    /// An answer that does not follow the contract.
    pub(crate) fn unexpected(&self, call: &Call, reason: impl Into<String>) -> Error {
        Error::Answer { market: self.address().to_owned(), call: call.name(), reason: reason.into() }
    }

    async fn send_once(&self, call: &Call, token: Option<&str>) -> Result<Response, reqwest::Error> {
        let mut request =
            self.http().request(call.method.clone(), format!("{}{}", self.address(), call.path));
        if let Some(timeout) = call.timeout {
            request = request.timeout(timeout);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(traceparent) = self.traceparent() {
            request = request.header("traceparent", traceparent);
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some((bytes, media_type)) = &call.body {
            request = request.header(header::CONTENT_TYPE, *media_type).body(bytes.clone());
        }
        request.send().await
    }

    /// The problem in an unsuccessful answer; one made up from the status where it carries none.
    async fn problem(&self, call: &Call, response: Response) -> Problem {
        let status = response.status();
        let body = match response.content_length() {
            Some(length) if length > PROBLEM_BYTES_MAX as u64 => Bytes::new(),
            _ => response.bytes().await.unwrap_or_default(),
        };
        if let Ok(problem) = serde_json::from_slice::<Problem>(&body) {
            return problem;
        }
        let code = match status {
            StatusCode::UNAUTHORIZED => api::code::UNAUTHENTICATED,
            StatusCode::NOT_FOUND => api::code::NOT_FOUND,
            StatusCode::SERVICE_UNAVAILABLE => api::code::OVERLOADED,
            _ => api::code::INTERNAL,
        };
        let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        let mut problem = Problem::new(
            code,
            format!("{} answered {status} to {}: {}", self.address(), call.name(), text.trim()),
            "check that this is the address of a plexus market",
        );
        problem.status = status.as_u16();
        problem
    }
}

/// What the answer's `Retry-After` asks for, in whole seconds, within bounds.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?;
    let seconds = value.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The default of [`Client::retries_max`].
pub(crate) const fn retries_default() -> u32 {
    RETRIES_MAX
}
