//! TLS 1.3 with a certificate from files, which is exchanged without a restart.
//!
//! The files are read when the market starts, and anything wrong with them keeps it from starting. Afterwards they are looked
//! at every few seconds and whenever somebody asks for it; connections that begin then see the new certificate. Files that
//! cannot be used change nothing: the old certificate stays, and the log says why.
//!
//! Certificates are not made or renewed here; any program that writes PEM files will do.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use chrono::NaiveDateTime;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

use crate::{failure::Causes, metrics::Metrics, time};

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A file with certificates or a key is far smaller.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// A certificate that ends within this time is worth a warning.
const ENDS_SOON_S: i64 = 14 * 24 * 3600;

/// The files with the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain in PEM, the market's own first.
    pub cert: PathBuf,
    /// Its private key in PEM (PKCS #8, PKCS #1 or SEC 1), without a password.
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file has no certificate, or one that is not well-formed.
    #[error("{path} holds no certificate in PEM: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file has no key, or one of no known kind.
    #[error("{path} holds no private key in PEM: {reason}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is another certificate's.
    #[error("the key in {key} does not belong to the certificate in {cert}")]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The certificate's time is over.
    #[error("the certificate in {path} ended at {ended_at}")]
    Expired {
        /// The file.
        path: PathBuf,
        /// When, as RFC 3339.
        ended_at: String,
    },
    /// The certificate's time has not come.
    #[error("the certificate in {path} begins at {begins_at}")]
    Early {
        /// The file.
        path: PathBuf,
        /// When, as RFC 3339.
        begins_at: String,
    },
    /// The cryptography refuses.
    #[error("cannot use TLS")]
    Setup(#[from] rustls::Error),
}

/// A certificate with its key, checked.
#[derive(Debug)]
struct Loaded {
    certified: Arc<CertifiedKey>,
    ends_at_s: i64,
}

/// The certificate in use, and where the next one will be.
#[derive(Debug)]
pub struct Certificates {
    files: TlsFiles,
    current: RwLock<Arc<CertifiedKey>>,
    look: Notify,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Certificates {
    /// Reads the files.
    pub fn open(files: TlsFiles, metrics: &Metrics) -> Result<Arc<Self>, TlsError> {
        let loaded = load(&files, now_s())?;
        took(&loaded, metrics);
        Ok(Arc::new(Self { files, current: RwLock::new(loaded.certified), look: Notify::new() }))
    }

    /// Accepts connections with whatever certificate is in use when they begin.
    pub fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Looks at the files now.
    pub fn look_now(&self) {
        self.look.notify_one();
    }

    /// Exchanges the certificate when the files change, until `stop` turns true.
    pub async fn watch(self: Arc<Self>, metrics: Arc<Metrics>, mut stop: watch::Receiver<bool>) {
        let mut seen = stamp(&self.files);
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.look.notified() => seen = None,
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let files = self.files.clone();
            let Ok((now, loaded)) = tokio::task::spawn_blocking(move || {
                let now = stamp(&files);
                // Where nothing changed nothing is read; where a file cannot be looked at, reading says why, once.
                let loaded = if now == seen { None } else { Some(load(&files, now_s())) };
                (now, loaded)
            })
            .await
            else {
                continue;
            };
            seen = now;
            match loaded {
                None => {}
                Some(Ok(loaded)) => {
                    took(&loaded, &metrics);
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded.certified;
                }
                Some(Err(error)) => {
                    metrics.certificate_loaded(false);
                    tracing::error!(cause = %Causes(&error), "cannot take the new certificate; the old one stays");
                }
            }
        }
    }
}

fn took(loaded: &Loaded, metrics: &Metrics) {
    metrics.certificate_loaded(true);
    metrics.certificate_ends.set(loaded.ends_at_s);
    let ends_at = time::rfc3339(loaded.ends_at_s.unsigned_abs() * 1000);
    if loaded.ends_at_s - now_s() < ENDS_SOON_S {
        tracing::warn!(%ends_at, "the certificate ends soon");
    } else {
        tracing::info!(%ends_at, "the certificate is in use");
    }
}

fn now_s() -> i64 {
    i64::try_from(time::now_ms() / 1000).unwrap_or(i64::MAX)
}

/// Changes when a file does. Nothing where one cannot be looked at.
fn stamp(files: &TlsFiles) -> Option<[(SystemTime, u64); 2]> {
    let of = |path: &Path| fs::metadata(path).and_then(|meta| Ok((meta.modified()?, meta.len()))).ok();
    Some([of(&files.cert)?, of(&files.key)?])
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let error = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(error)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(error)?;
    Ok(bytes)
}

fn load(files: &TlsFiles, now_s: i64) -> Result<Loaded, TlsError> {
    let path = files.cert.clone();
    let malformed = |reason: String| TlsError::Certificate { path: files.cert.clone(), reason };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(&files.cert)?)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(error.to_string()))?;
    let first = chain.first().ok_or_else(|| malformed("there is none".to_owned()))?;
    let (begins_at_s, ends_at_s) =
        validity(first).ok_or_else(|| malformed("its time of validity is not readable".to_owned()))?;
    let date = |at_s: i64| time::rfc3339(at_s.max(0).unsigned_abs() * 1000);
    if ends_at_s <= now_s {
        return Err(TlsError::Expired { path, ended_at: date(ends_at_s) });
    }
    if begins_at_s > now_s {
        return Err(TlsError::Early { path, begins_at: date(begins_at_s) });
    }
    let no_key = |reason: String| TlsError::Key { path: files.key.clone(), reason };
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| no_key(error.to_string()))?;
    let key = ring::default_provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| no_key(error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A kind of key that cannot be compared fails in the first handshake instead.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(TlsError::Mismatch { cert: files.cert.clone(), key: files.key.clone() });
        }
        Err(error) => return Err(malformed(error.to_string())),
    }
    Ok(Loaded { certified: Arc::new(certified), ends_at_s })
}

/// From when until when a certificate holds, in seconds of the Unix epoch.
///
/// Certificate ::= SEQUENCE { SEQUENCE { [0] version?, serial, algorithm, issuer, validity SEQUENCE { from, until }, … } … }
/// (RFC 5280, 4.1). Nothing else of it is needed here, and the cryptography reads the rest itself.
fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let inside = |(tag, content, _): (u8, _, _)| if tag == SEQUENCE { Some(content) } else { None };
    let mut rest = inside(element(inside(element(certificate)?)?)?)?;
    if *rest.first()? == VERSION {
        rest = element(rest)?.2;
    }
    for _serial_algorithm_issuer in 0..3 {
        rest = element(rest)?.2;
    }
    let (from_tag, from, rest) = element(inside(element(rest)?)?)?;
    let (until_tag, until, _) = element(rest)?;
    Some((moment(from_tag, from)?, moment(until_tag, until)?))
}

/// The tag, the content and what follows the first DER element.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x84 => {
            let (long, rest) = rest.split_at_checked(usize::from(short - 0x80))?;
            (long.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// A UTCTime (tag 23, years 1950 to 2049) or a GeneralizedTime (tag 24).
fn moment(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let text = match tag {
        23 => format!("{}{text}", if text.get(..2)? < "50" { "20" } else { "19" }),
        24 => text.to_owned(),
        _ => return None,
    };
    Some(NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok()?.and_utc().timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str, from: (i32, u8, u8), until: (i32, u8, u8)) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        let key = rcgen::KeyPair::generate().expect("a key");
        (params.self_signed(&key).expect("signed").pem(), key.serialize_pem())
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = TlsFiles { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
        let (cert, key) = made("market.example", (2020, 1, 1), (2049, 12, 31));
        let (_, other) = made("market.example", (2020, 1, 1), (2051, 1, 2));
        let now_s = 1_700_000_000;
        let check = |cert: Option<&str>, key: Option<&str>, expected: &str| {
            for (path, text) in [(&files.cert, cert), (&files.key, key)] {
                let _ = fs::remove_file(path);
                if let Some(text) = text {
                    fs::write(path, text).expect("written");
                }
            }
            let error = load(&files, now_s).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(None, Some(&key), "cannot read");
        check(Some(&cert), None, "key.pem");
        check(Some(&key), Some(&key), "cert.pem holds no certificate in PEM: there is none");
        check(Some(&cert), Some(&cert), "key.pem holds no private key");
        check(Some(&cert), Some(&other), "does not belong to the certificate");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check(Some(broken), Some(&key), "validity is not readable");
        let (past, past_key) = made("market.example", (2020, 1, 1), (2021, 2, 3));
        check(Some(&past), Some(&past_key), "ended at 2021-02-03T00:00:00");
        let (coming, coming_key) = made("market.example", (2040, 1, 1), (2055, 2, 3));
        check(Some(&coming), Some(&coming_key), "begins at 2040-01-01T00:00:00");
        fs::write(&files.cert, &cert).expect("written");
        fs::write(&files.key, &key).expect("written");
        // 31 December 2049, the last day that is written with two digits.
        assert_eq!(load(&files, now_s).expect("good files").ends_at_s, 2_524_521_600);
    }

    #[test]
    fn no_bytes_make_the_reader_of_dates_fail() {
        let (cert, _) = made("market.example", (2020, 1, 1), (2030, 1, 1));
        let der = CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM");
        assert_eq!(validity(&der), Some((1_577_836_800, 1_893_456_000)));
        for at in 0..der.len() {
            let mut broken = der.to_vec();
            broken[at] = broken[at].wrapping_add(0x7f);
            let _ = validity(&broken);
            let _ = validity(&der[..at]);
        }
    }
}
