//! The Rust client against a real market.

use std::time::Duration;

use api::{Event, Payment, PaymentKind, code};
use client::{Client, Error, SequencedEvent};
use futures::{Stream, StreamExt};
use market::Market;
use plexus_tests::PATIENCE;
use protocol::{Amount, Hash, SecretKey};
use tempfile::TempDir;

async fn market(folder: &TempDir) -> Market {
    let mut config = market::Config::new(folder.path());
    config.faucet = Some(Amount::from_tokens("10").unwrap());
    Market::start(config).await.unwrap()
}

fn tokens(text: &str) -> Amount {
    Amount::from_tokens(text).unwrap()
}

#[tokio::test]
async fn a_session_key_acts_for_the_wallet_that_delegated_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let market = market(&folder).await;
    let (wallet, session) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
    let owner = Client::new(&market.url(), wallet.clone()).unwrap();
    let agent = Client::new(&market.url(), session.clone()).unwrap();
    assert_eq!(agent.login().await.unwrap().account, session.public(), "at first it is its own wallet");

    let delegated = owner.delegate(&session, Duration::from_secs(3600)).await.unwrap();
    assert_eq!((delegated.account, delegated.key), (wallet.public(), session.public()));
    let login = agent.login().await.unwrap();
    assert_eq!((login.account, login.key), (wallet.public(), session.public()));
    assert_eq!(agent.deposit(&wallet.public(), tokens("1")).await.unwrap().available, tokens("1"));
    // For too long, and with itself.
    for (key, days) in [(&session, 31), (&wallet, 1)] {
        let error = owner.delegate(key, Duration::from_secs(days * 86_400)).await.unwrap_err();
        assert_eq!(error.code(), Some(code::REQUEST_INVALID));
    }
}

#[tokio::test]
async fn blobs_go_up_once_and_come_down_whole_or_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let market = market(&folder).await;
    let client = Client::new(&market.url(), SecretKey::from_seed([1; 32])).unwrap();
    let bytes: bytes::Bytes = (0..1_000_000u32).map(|i| (i / 9) as u8).collect();
    let hash = Hash::of(&bytes);
    assert_eq!(client.blob_length(&hash).await.unwrap(), None);
    assert_eq!(client.upload_blob(bytes.clone()).await.unwrap(), hash);
    assert_eq!(client.upload_blob(bytes.clone()).await.unwrap(), hash);
    assert_eq!(client.blob_length(&hash).await.unwrap(), Some(1_000_000));
    assert!(client.blob(&hash, 1_000_000).await.unwrap() == bytes);
    assert!(client.blob_range(&hash, 999_990..1_000_000).await.unwrap() == bytes[999_990..]);
    assert!(client.blob_range(&hash, 5..5).await.unwrap().is_empty());

    assert!(matches!(client.blob(&hash, 999_999).await, Err(Error::BlobTooLarge { length: 1_000_000, .. })));
    let error = client.put_blob(&Hash::of(b"another"), bytes.clone()).await.unwrap_err();
    assert_eq!(error.code(), Some(code::BLOB_MISMATCH));
    let error = client.blob_range(&hash, 1_000_000..1_000_001).await.unwrap_err();
    assert_eq!(error.code(), Some(code::RANGE_INVALID));
    let error = Client::anonymous(&market.url()).unwrap().put_blob(&hash, bytes).await.unwrap_err();
    assert!(matches!(error, Error::NoKey));
}

#[tokio::test]
async fn events_arrive_while_they_happen_and_again_for_whoever_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let market = market(&folder).await;
    let client = Client::new(&market.url(), SecretKey::from_seed([1; 32])).unwrap();
    let id = client.key().unwrap().public();
    let mut events = Box::pin(client.events(None).await.unwrap());
    client.deposit(&id, tokens("2")).await.unwrap();
    let (seq, payment) = next_payment(&mut events).await;
    assert_eq!(
        (payment.kind, payment.account, payment.amount),
        (PaymentKind::Deposit, Some(id), tokens("2"))
    );
    // With the id that was seen last, as after a broken connection: some of that moment may have been missed.
    let mut again = Box::pin(client.events(Some(seq)).await.unwrap());
    assert_eq!(next_payment(&mut again).await, (seq, payment));
}

async fn next_payment(
    events: &mut (impl Stream<Item = Result<SequencedEvent, Error>> + Unpin),
) -> (u64, Payment) {
    let wait = async {
        loop {
            let SequencedEvent { seq, event } = events.next().await.expect("the stream goes on").unwrap();
            if let Event::Payment(payment) = event {
                return (seq, payment);
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("an event")
}
