//! TLS with a certificate that is exchanged while the market runs.

use std::{fs, path::Path, sync::Arc};

use client::{Client, Options};
use market::{Config, Market, StartError, TlsError, TlsFiles};
use protocol::{Amount, SecretKey};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{self, TOKEN};

/// An authority of its own that certifies this machine's names.
struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        Self(rcgen::CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    fn options(&self) -> Options {
        Options { ca: Some(self.0.pem().into_bytes()), ..Options::default() }
    }

    /// Writes a new certificate with its key.
    fn certify(&self, files: &TlsFiles) {
        let params =
            rcgen::CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
        let key = rcgen::KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("signed");
        fs::write(&files.cert, cert.pem()).expect("written");
        fs::write(&files.key, key.serialize_pem()).expect("written");
    }
}

fn files(folder: &Path) -> TlsFiles {
    TlsFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") }
}

fn config(folder: &TempDir) -> Config {
    Config { tls: Some(files(folder.path())), ..rig::config(folder.path()) }
}

async fn start() -> (Market, Authority, Arc<TempDir>) {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let authority = Authority::new();
    authority.certify(&files(folder.path()));
    (Market::start(config(&folder)).await.expect("it starts"), authority, folder)
}

#[tokio::test]
async fn the_client_logs_in_and_moves_data_over_tls() {
    let (market, authority, _folder) = start().await;
    assert!(market.url().starts_with("https://"));
    for url in [market.url(), format!("https://localhost:{}", market.addr().port())] {
        let key = SecretKey::from_seed([1; 32]);
        let client = Client::with(&url, Some(key.clone()), &authority.options()).expect("a client");
        let account = client.deposit(&key.public(), Amount(TOKEN)).await.expect("it answers");
        assert!(account.available >= Amount(TOKEN));
        let bytes = bytes::Bytes::from(vec![7; 1_500_000]);
        let hash = protocol::Hash::of(&bytes);
        client.put_blob(&hash, bytes.clone()).await.expect("uploaded");
        assert_eq!(client.blob(&hash, 2_000_000).await.expect("downloaded"), bytes);
    }
    // The market's own parts need no certificate.
    let own = Client::new(&market.local_url(), market.key().clone()).expect("a client");
    own.login().await.expect("it answers");
    market.shutdown().await;
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_named_as_the_reason() {
    let (market, _authority, _folder) = start().await;
    let client = Client::with(&market.url(), None, &Authority::new().options()).expect("a client");
    let error = client.health().await.expect_err("another authority");
    assert!(error.is_untrusted(), "{error}");
    let nothing = Options { ca: Some(b"no PEM".to_vec()), ..Options::default() };
    assert!(Client::with(&market.url(), None, &nothing).is_err());
}

#[tokio::test]
async fn only_tls_1_3_is_spoken_and_plain_http_hears_why_not() {
    let (market, authority, _folder) = start().await;
    // Chooses the cryptography, which the other clients do by themselves.
    drop(client::plain_http());
    let tls = |version| {
        let ca = reqwest::Certificate::from_pem(authority.0.pem().as_bytes()).expect("PEM");
        let builder = reqwest::Client::builder().tls_certs_only([ca]);
        builder
            .tls_version_min(reqwest::tls::Version::TLS_1_2)
            .tls_version_max(version)
            .build()
            .expect("a client")
    };
    let url = format!("{}/v1/health", market.url());
    assert!(
        tls(reqwest::tls::Version::TLS_1_3).get(&url).send().await.expect("an answer").status().is_success()
    );
    tls(reqwest::tls::Version::TLS_1_2).get(&url).send().await.expect_err("too old");
    let mut plain = tokio::net::TcpStream::connect(market.addr()).await.expect("it listens");
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.expect("text");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https"), "{answer}");
}

#[tokio::test]
async fn a_new_certificate_is_taken_without_a_restart_and_a_broken_one_is_not() {
    let (market, authority, folder) = start().await;
    let files = files(folder.path());
    let second = Authority::new();
    // Each call of a new client makes a new connection.
    let reach = async |authority: &Authority| {
        let client = Client::with(&market.url(), None, &authority.options()).expect("a client");
        client.health().await.is_ok()
    };
    let metrics = async || {
        let url = format!("{}/metrics", market.local_url());
        client::plain_http().get(url).send().await.expect("an answer").text().await.expect("text")
    };
    assert!(reach(&authority).await && !reach(&second).await);
    let old = Client::with(&market.url(), None, &authority.options()).expect("a client");
    old.health().await.expect("it answers");

    // Broken files change nothing, whether found by themselves or because somebody said so.
    fs::write(&files.cert, "nothing").expect("written");
    market.reload_certificate();
    let failed = |text: &String| text.contains(r#"plexus_tls_certificate_loads_total{result="failed"}"#);
    rig::until(metrics, failed).await;
    assert!(reach(&authority).await);

    second.certify(&files);
    market.reload_certificate();
    rig::until(async || reach(&second).await, |reached| *reached).await;
    assert!(!reach(&authority).await);
    // What was connected goes on.
    old.health().await.expect("the connection is kept");

    // Nobody says so: it is seen in a while.
    authority.certify(&files);
    rig::until(async || reach(&authority).await, |reached| *reached).await;
    market.shutdown().await;
}

#[tokio::test]
async fn a_market_whose_certificate_cannot_be_used_does_not_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let Err(error) = Market::start(config(&folder)).await else { panic!("there are no files") };
    assert!(matches!(error, StartError::Tls(TlsError::Read { .. })), "{error}");
    Authority::new().certify(&files(folder.path()));
    Market::start(config(&folder)).await.expect("nothing was left behind").shutdown().await;
}
