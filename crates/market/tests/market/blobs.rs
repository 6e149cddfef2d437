//! Blobs over HTTP.

use api::code;
use protocol::{Hash, batch};
use reqwest::{Method, StatusCode};

use crate::rig::{Rig, bad, good};

#[tokio::test]
async fn a_blob_is_read_whole_in_ranges_and_not_twice() {
    let rig = Rig::start().await;
    let person = rig.person(1).await;
    let bytes: Vec<u8> = (0..1_500_000u32).map(|i| (i % 253) as u8).collect();
    let hash = person.upload(&bytes).await;
    let url = rig.url(&format!("/v1/blobs/{hash}"));

    let whole = rig.http.get(&url).send().await.expect("an answer");
    assert_eq!(whole.headers()["etag"], format!("\"{hash}\""));
    assert_eq!(whole.headers()["content-type"], "application/octet-stream");
    assert_eq!(whole.headers()["x-content-type-options"], "nosniff");
    assert_eq!(whole.bytes().await.expect("a body"), bytes);

    let head = rig.http.head(&url).send().await.expect("an answer");
    assert_eq!(
        (head.status(), head.headers()["content-length"].to_str().expect("text")),
        (StatusCode::OK, "1500000")
    );

    for (range, place, expected) in [
        ("bytes=100-199", "bytes 100-199/1500000", &bytes[100..200]),
        ("bytes=-5", "bytes 1499995-1499999/1500000", &bytes[1_499_995..]),
        ("bytes=1499990-", "bytes 1499990-1499999/1500000", &bytes[1_499_990..]),
    ] {
        let part = rig.http.get(&url).header("range", range).send().await.expect("an answer");
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(part.headers()["content-range"], place);
        assert_eq!(part.bytes().await.expect("a body"), expected);
    }
    let outside = rig.http.get(&url).header("range", "bytes=1500000-").send().await.expect("an answer");
    assert_eq!(outside.headers()["content-range"], "bytes */1500000");
    assert_eq!(bad(outside).await.code, code::RANGE_INVALID);

    let known =
        rig.http.get(&url).header("if-none-match", format!("\"{hash}\"")).send().await.expect("an answer");
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(person.put(&hash, &bytes).await.status(), StatusCode::CREATED, "again changes nothing");
}

#[tokio::test]
async fn bytes_that_do_not_match_their_hash_leave_nothing() {
    let rig = Rig::start().await;
    let person = rig.person(1).await;
    let hash = Hash::of(b"what was promised");
    let problem = bad(person.put(&hash, b"something else").await).await;
    assert_eq!(problem.code, code::BLOB_MISMATCH);
    assert_eq!(rig.problem(&format!("/v1/blobs/{hash}")).await.code, code::NOT_FOUND);
}

#[tokio::test]
async fn small_blobs_are_stored_together_each_under_its_own_hash() {
    let rig = Rig::start().await;
    let person = rig.person(1).await;
    let send = |batch: Vec<u8>| person.request(Method::POST, "/v1/blobs").body(batch).send();
    let blobs: [&[u8]; 4] = [b"one", b"", b"three", b"one"];
    let answer: api::BlobsAnswer = good(send(batch::frame(&blobs)).await.expect("an answer")).await;
    assert_eq!(answer.blobs, blobs.map(Hash::of));
    for (hash, bytes) in answer.blobs.iter().zip(blobs) {
        let found = rig.http.get(rig.url(&format!("/v1/blobs/{hash}"))).send().await.expect("an answer");
        assert_eq!(found.bytes().await.expect("a body"), bytes);
    }

    let mut cut = batch::frame(&[b"cut off"]);
    cut.pop();
    assert_eq!(bad(send(cut).await.expect("an answer")).await.code, code::REQUEST_INVALID);
    let hash = Hash::of(b"cut of");
    assert_eq!(rig.problem(&format!("/v1/blobs/{hash}")).await.code, code::NOT_FOUND);
    let large = batch::frame(&[vec![0; batch::BATCH_BLOB_BYTES_MAX + 1]]);
    assert_eq!(bad(send(large).await.expect("an answer")).await.code, code::REQUEST_INVALID);
    let long = vec![0; batch::BATCH_BODY_BYTES_MAX + 1];
    assert_eq!(bad(send(long).await.expect("an answer")).await.code, code::REQUEST_TOO_LARGE);
    let stranger = rig.http.post(rig.url("/v1/blobs")).body(batch::frame(&blobs)).send().await;
    assert_eq!(bad(stranger.expect("an answer")).await.code, code::UNAUTHENTICATED);
}

#[tokio::test]
async fn a_blob_that_is_too_large_is_refused_announced_or_not() {
    let rig = Rig::start().await;
    let person = rig.person(1).await;
    let bytes = vec![0; 2_000_001];
    let hash = Hash::of(&bytes);
    assert_eq!(bad(person.put(&hash, &bytes).await).await.code, code::BLOB_TOO_LARGE);
    let pieces = futures::stream::iter(
        bytes.chunks(100_000).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>(),
    );
    let request = person.request(Method::PUT, &format!("/v1/blobs/{hash}"));
    let answer = request.body(reqwest::Body::wrap_stream(pieces)).send().await.expect("an answer");
    assert_eq!(bad(answer).await.code, code::BLOB_TOO_LARGE);
    assert_eq!(rig.problem(&format!("/v1/blobs/{hash}")).await.code, code::NOT_FOUND);
}

#[tokio::test]
async fn a_full_blob_store_says_so_and_goes_on_once_there_is_room() {
    let rig = Rig::start_with(|config| config.blobs_bytes_max = Some(1000)).await;
    let person = rig.person(1).await;
    let bytes = vec![7; 2000];
    let problem = bad(person.put(&Hash::of(&bytes), &bytes).await).await;
    assert_eq!((problem.code.as_str(), problem.status), (code::STORAGE_UNAVAILABLE, 503));
    rig.market.set_blobs_bytes_max(None);
    person.upload(&bytes).await;
}
