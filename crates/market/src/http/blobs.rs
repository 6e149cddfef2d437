//! Content by its SHA-256.

use std::{sync::Arc, time::Duration};

use api::{BlobsAnswer, code};
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use protocol::{Hash, batch};
use store::{BlobError, ByteRange};

use super::{
    Octets, Problems, Shared,
    entry::Payer,
    extract::{Id, RawBody},
};
use crate::{auth::Caller, failure::Failure};

/// A blob never changes.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Small pieces of a body are gathered to this size before they are handed on.
const PIECE_BYTES: usize = 256 * 1024;
/// How long an upload may stand still.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Upload a blob
///
/// The bytes are hashed while they come in; unless they hash to the name, nothing is stored. The blob is durable when the
/// answer comes.
#[utoipa::path(put, path = "/v1/blobs/{hash}", tag = "blobs", operation_id = "put_blob",
    params(("hash" = Hash, Path, description = "SHA-256 of the bytes")),
    request_body(content = Octets, content_type = "application/octet-stream"), security(("token" = [])),
    responses((status = 201, description = "The blob is there"), Problems))]
pub async fn put(
    State(app): State<Shared>,
    caller: Caller,
    Extension(payer): Extension<Payer>,
    Id(hash): Id<Hash>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Failure> {
    let bytes_max = app.blobs.blob_bytes_max();
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > bytes_max) {
        return Err(BlobError::TooLarge { bytes_max }.into());
    }
    let is_new = app.blobs.length(&hash).await?.is_none();
    if is_new {
        app.quotas.check_blob(&caller.account, announced.unwrap_or(1))?;
    }
    let mut upload = app.blobs.upload(hash).await?;
    let mut stream = body.into_data_stream();
    let mut gathered = BytesMut::new();
    loop {
        let piece = tokio::time::timeout(SILENCE_MAX, stream.next()).await.map_err(|_| {
            Failure::new(code::REQUEST_INVALID, "the upload stood still for too long", "upload it again")
        })?;
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|error| {
            Failure::new(code::REQUEST_INVALID, format!("the upload broke off: {error}"), "upload it again")
        })?;
        gathered.extend_from_slice(&piece);
        if gathered.len() >= PIECE_BYTES {
            upload.write(gathered.split().freeze()).await?;
        }
    }
    upload.write(gathered.freeze()).await?;
    let length = upload.finish().await?;
    app.metrics.blob_bytes_in.inc_by(length);
    payer.charge(&app, length);
    if is_new {
        app.quotas.stored_blob(caller.account, length);
    }
    Ok(StatusCode::CREATED)
}

/// Upload several small blobs at once
///
/// The body: how many blobs, the length of each, both as u32 in little-endian order, then their bytes without gaps. At most
/// 1 024 blobs of at most 64 KiB each, 8 MiB together. All are durable when the answer comes; their names are the hashes in it.
#[utoipa::path(post, path = "/v1/blobs", tag = "blobs", operation_id = "put_blobs",
    request_body(content = Octets, content_type = "application/octet-stream"), security(("token" = [])),
    responses((status = 200, body = BlobsAnswer), Problems))]
pub async fn put_all(
    State(app): State<Shared>,
    caller: Caller,
    Extension(payer): Extension<Payer>,
    RawBody(batch): RawBody,
) -> Result<Json<BlobsAnswer>, Failure> {
    let ranges = batch::parts(&batch).map_err(|error| {
        let fix = "send count, lengths and bytes as /v1/openapi.json says; larger blobs go one by one";
        Failure::new(code::REQUEST_INVALID, error.to_string(), fix)
    })?;
    // Counted as if all were new: they are small, and asking for each costs more than it is worth.
    app.quotas.check_blob(&caller.account, batch.len() as u64)?;
    let blobs = app.blobs.put_all(ranges.into_iter().map(|range| batch.slice(range)).collect()).await?;
    app.metrics.blob_bytes_in.inc_by(batch.len() as u64);
    payer.charge(&app, batch.len() as u64);
    app.quotas.stored_blob(caller.account, batch.len() as u64);
    Ok(Json(BlobsAnswer { blobs }))
}

/// Fetch a blob, or a range of it
#[utoipa::path(get, path = "/v1/blobs/{hash}", tag = "blobs", operation_id = "get_blob",
    params(("hash" = Hash, Path, description = "SHA-256 of the bytes"),
        ("range" = Option<String>, Header, description = "One range, such as `bytes=0-1023`")),
    responses(
        (status = 200, description = "All the bytes", body = Octets, content_type = "application/octet-stream"),
        (status = 206, description = "The range", body = Octets, content_type = "application/octet-stream"),
        (status = 304, description = "The client has it"),
        Problems))]
pub async fn get(
    State(app): State<Shared>,
    Extension(payer): Extension<Payer>,
    Id(hash): Id<Hash>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let length = length(&app, &hash).await?;
    if is_known(&headers, &hash) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::CACHE_CONTROL, FOR_EVER)]).into_response());
    }
    let range = match headers.get(header::RANGE).and_then(|value| value.to_str().ok()) {
        None => None,
        Some(text) => match parse_range(text, length) {
            Range::Whole => None,
            Range::Part(range) => Some(range),
            Range::Outside => {
                let detail = format!("the blob has {length} bytes");
                let failure = Failure::new(code::RANGE_INVALID, detail, "ask for a range within the blob");
                let all = HeaderValue::from_str(&format!("bytes */{length}")).expect("digits");
                return Ok(([(header::CONTENT_RANGE, all)], failure).into_response());
            }
        },
    };
    let reader = app.blobs.read(&hash, range.clone().map(ByteRange::Bounded)).await?;
    let sent = reader.range.end - reader.range.start;
    payer.charge(&app, sent);
    let metrics = app.metrics.clone();
    let stream = reader.into_stream().inspect(move |piece| {
        if let Ok(piece) = piece {
            metrics.blob_bytes_out.inc_by(piece.len() as u64);
        }
    });
    let mut response = Body::from_stream(stream).into_response();
    describe(&mut response, &hash, sent);
    if let Some(range) = range {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let place = format!("bytes {}-{}/{length}", range.start, range.end - 1);
        response.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::from_str(&place).expect("digits"));
    }
    Ok(response)
}

/// Ask whether a blob is there, and how long it is
#[utoipa::path(head, path = "/v1/blobs/{hash}", tag = "blobs", operation_id = "head_blob",
    params(("hash" = Hash, Path, description = "SHA-256 of the bytes")),
    responses((status = 200, description = "It is there; `content-length` is its length"), Problems))]
pub async fn head(State(app): State<Shared>, Id(hash): Id<Hash>) -> Result<Response, Failure> {
    let length = length(&app, &hash).await?;
    let mut response = Bytes::new().into_response();
    describe(&mut response, &hash, length);
    Ok(response)
}

async fn length(app: &Arc<super::App>, hash: &Hash) -> Result<u64, Failure> {
    Ok(app.blobs.length(hash).await?.ok_or(BlobError::Unknown(*hash))?)
}

fn describe(response: &mut Response, hash: &Hash, length: u64) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, FOR_EVER);
    headers.insert(header::ETAG, HeaderValue::from_str(&format!("\"{hash}\"")).expect("hex digits"));
}

fn is_known(headers: &HeaderMap, hash: &Hash) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let hash = hash.to_string();
    known.split(',').any(|tag| tag.trim().trim_start_matches("W/").trim_matches('"') == hash)
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// No range, several, or another unit: all of it, as RFC 9110 allows.
    Whole,
    Part(std::ops::Range<u64>),
    Outside,
}

fn parse_range(text: &str, length: u64) -> Range {
    let Some(("bytes", range)) = text.split_once('=') else { return Range::Whole };
    let Some((first, last)) = range.trim().split_once('-') else { return Range::Whole };
    let number =
        |text: &str| if text.bytes().all(|b| b.is_ascii_digit()) { text.parse::<u64>().ok() } else { None };
    let (start, end) = match (first, number(first), last, number(last)) {
        ("", _, _, Some(suffix)) => (length.saturating_sub(suffix), length),
        (_, Some(first), "", _) => (first, length),
        (_, Some(first), _, Some(last)) if first <= last => (first, last.saturating_add(1).min(length)),
        _ => return Range::Whole,
    };
    if start < end { Range::Part(start..end) } else { Range::Outside }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (text, expected) in [
            ("bytes=0-9", Range::Part(0..10)),
            ("bytes=5-", Range::Part(5..100)),
            ("bytes=-30", Range::Part(70..100)),
            ("bytes=-300", Range::Part(0..100)),
            ("bytes=90-200", Range::Part(90..100)),
            ("bytes=99-99", Range::Part(99..100)),
            ("bytes=100-", Range::Outside),
            ("bytes=100-120", Range::Outside),
            ("bytes=-0", Range::Outside),
            ("bytes=9-5", Range::Whole),
            ("bytes=0-1,5-6", Range::Whole),
            ("bytes=", Range::Whole),
            ("bytes=-", Range::Whole),
            ("bytes=+1-2", Range::Whole),
            ("items=0-1", Range::Whole),
        ] {
            assert_eq!(parse_range(text, 100), expected, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Range::Outside);
    }
}
