//! Blobs by hash: uploads that skip what is there, downloads that are checked and continue where a connection broke.

use std::ops::Range;

use api::BlobsAnswer;
use bytes::{Bytes, BytesMut};
use protocol::{Hash, batch};
use reqwest::{Response, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::{Client, Error, transport::Call};

/// Below this size asking first costs as much as sending.
const ASK_FIRST_BYTES: usize = 16 * 1024;
/// How often one download may continue after a broken connection.
const RESUMES_MAX: u32 = 5;

impl Client {
    /// The blob's length in bytes, or nothing when the market does not have it.
    pub async fn blob_length(&self, blob: &Hash) -> Result<Option<u64>, Error> {
        let call = Call::head(format!("/v1/blobs/{blob}"));
        match self.send(&call).await {
            // `Response::content_length` is that of the (empty) body.
            Ok(response) => header_number(&response, header::CONTENT_LENGTH)
                .map(Some)
                .ok_or_else(|| self.unexpected(&call, "no content-length")),
            Err(Error::Problem(problem)) if problem.status == StatusCode::NOT_FOUND.as_u16() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Uploads `bytes` unless the market has them, and returns their hash.
    pub async fn upload_blob(&self, bytes: Bytes) -> Result<Hash, Error> {
        let hash = Hash::of(&bytes);
        if bytes.len() > ASK_FIRST_BYTES && self.blob_length(&hash).await?.is_some() {
            return Ok(hash);
        }
        self.put_blob(&hash, bytes).await?;
        Ok(hash)
    }

    /// Uploads `bytes`, whose hash the caller knows, without asking first.
    pub async fn put_blob(&self, hash: &Hash, bytes: Bytes) -> Result<(), Error> {
        self.send(&Call::put(format!("/v1/blobs/{hash}"), bytes).signed_in()).await.map(drop)
    }

    /// Uploads small blobs in one request and returns their hashes. The bounds are those of [`protocol::batch`].
    pub async fn put_blobs(&self, blobs: &[Bytes]) -> Result<Vec<Hash>, Error> {
        let call = Call::post_bytes("/v1/blobs", batch::frame(blobs).into()).signed_in();
        let answer: BlobsAnswer = self.json(&call).await?;
        let hashes: Vec<Hash> = blobs.iter().map(|blob| Hash::of(blob)).collect();
        if answer.blobs != hashes {
            return Err(self.unexpected(&call, "the market stored other blobs than were sent"));
        }
        Ok(hashes)
    }

    /// The whole blob, checked against its hash. A blob of more than `length_max` bytes is refused before it is read.
    pub async fn blob(&self, blob: &Hash, length_max: u64) -> Result<Bytes, Error> {
        let mut bytes = BytesMut::new();
        let mut hasher = Sha256::new();
        let mut length = None;
        for _ in 0..=RESUMES_MAX {
            let mut call = Call::get(format!("/v1/blobs/{blob}")).timeout(None);
            if !bytes.is_empty() {
                call = call.header(header::RANGE.as_str(), format!("bytes={}-", bytes.len()));
            }
            let mut response = self.send(&call).await?;
            let continues = response.status() == StatusCode::PARTIAL_CONTENT;
            if !bytes.is_empty() && !continues {
                (bytes, hasher) = (BytesMut::new(), Sha256::new());
            }
            let rest = header_number(&response, header::CONTENT_LENGTH);
            let total = rest.map(|rest| rest + bytes.len() as u64);
            length = length.or(total);
            if let Some(length) = length
                && length > length_max
            {
                return Err(Error::BlobTooLarge { blob: *blob, length, length_max });
            }
            loop {
                match response.chunk().await {
                    Ok(Some(chunk)) => {
                        hasher.update(&chunk);
                        bytes.extend_from_slice(&chunk);
                        let length = bytes.len() as u64;
                        if length > length_max {
                            return Err(Error::BlobTooLarge { blob: *blob, length, length_max });
                        }
                    }
                    Ok(None) => {
                        let found = Hash(hasher.finalize().into());
                        if found != *blob {
                            return Err(Error::BlobMismatch { wanted: *blob, found });
                        }
                        return Ok(bytes.freeze());
                    }
                    Err(error) => {
                        tracing::debug!(%blob, at = bytes.len(), %error, "download broke off; continuing");
                        break;
                    }
                }
            }
        }
        let call = Call::get(format!("/v1/blobs/{blob}"));
        Err(self.unexpected(&call, format!("the download broke off {} times", RESUMES_MAX + 1)))
    }

    /// Some bytes of a blob. A range cannot be checked against the whole's hash: use it for blobs too large to fetch whole.
    pub async fn blob_range(&self, blob: &Hash, range: Range<u64>) -> Result<Bytes, Error> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let call = Call::get(format!("/v1/blobs/{blob}"))
            .header(header::RANGE.as_str(), format!("bytes={}-{}", range.start, range.end - 1))
            .timeout(None);
        let response = self.send(&call).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(self.unexpected(&call, "the range was ignored"));
        }
        let bytes = response
            .bytes()
            .await
            .map_err(|source| Error::Unreachable { market: self.address().to_owned(), source })?;
        if bytes.len() as u64 != range.end - range.start {
            return Err(self.unexpected(&call, format!("{} bytes arrived", bytes.len())));
        }
        Ok(bytes)
    }
}

fn header_number(response: &Response, name: header::HeaderName) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.parse().ok()
}
