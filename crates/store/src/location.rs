//! Where a market keeps its journal and read model: a file, or a database that speaks PostgreSQL's protocol.
//!
//! A URL may carry a password, so a [`Location`] is shown without it.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::StoreError;

/// A file or a database.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// An SQLite file.
    File(PathBuf),
    /// A database on a server.
    Server(Box<ServerUrl>),
}

/// A checked `postgres://` URL.
///
/// Beside the parameters that PostgreSQL's own clients know (`host`, `port`, `user`, `password`, `dbname`, `connect_timeout` …),
/// `sslmode` is `disable` (also when absent) or `require`, and `sslrootcert` names a PEM file with the authorities to trust
/// in place of the system's. With TLS the server's certificate is always checked.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    pub(crate) config: tokio_postgres::Config,
    pub(crate) tls: Option<Authorities>,
}

/// Who may vouch for the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Authorities {
    System,
    File(PathBuf),
}

impl Location {
    /// A file, or a database when the text is a `postgres://` or `postgresql://` URL.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Server(Box::new(text.parse()?)));
        }
        Ok(Self::File(text.into()))
    }

    /// Whether other processes on other machines can open it too.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Server(_))
    }
}

impl FromStr for Location {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::parse(text)
    }
}

impl FromStr for ServerUrl {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let refused = |detail: String| StoreError::Url { detail };
        let (rest, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut tls, mut root_file) = (false, None);
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => {
                    tls = match mode {
                        "disable" => false,
                        "require" | "verify-ca" | "verify-full" => true,
                        other => {
                            return Err(refused(format!("sslmode is disable or require, not {other}")));
                        }
                    };
                }
                Some(("sslrootcert", path)) => root_file = Some(PathBuf::from(unescape(path))),
                _ => kept.push(pair),
            }
        }
        let plain = if kept.is_empty() { rest.to_owned() } else { format!("{rest}?{}", kept.join("&")) };
        let mut config: tokio_postgres::Config = plain.parse().map_err(|error| refused(causes(&error)))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(refused("it names no host".into()));
        }
        config.ssl_mode(if tls {
            tokio_postgres::config::SslMode::Require
        } else {
            tokio_postgres::config::SslMode::Disable
        });
        let tls = tls.then(|| root_file.map_or(Authorities::System, Authorities::File));
        Ok(Self { config, tls })
    }
}

/// An error with what caused it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Undoes `%2F` and the like.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use tokio_postgres::config::Host;
        f.write_str("postgres://")?;
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}")?,
                #[cfg(unix)]
                Host::Unix(path) => write!(f, "{comma}{}", path.display())?,
            }
            let ports = self.config.get_ports();
            if let Some(port) = ports.get(index).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({self})")
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&PathBuf> for Location {
    fn from(path: &PathBuf) -> Self {
        Self::File(path.clone())
    }
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<&Location> for Location {
    fn from(location: &Location) -> Self {
        location.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_path_or_a_url_and_is_shown_without_its_password() {
        for (text, shown) in [
            ("data/journal.db", "data/journal.db"),
            ("postgres://ada:secret@db.example/plexus", "postgres://db.example:5432/plexus"),
            ("postgresql://ada:secret@db:26257/p?sslmode=require", "postgres://db:26257/p"),
            ("postgres:///p?host=/var/run/postgresql&user=ada", "postgres:///var/run/postgresql/p"),
        ] {
            let location = Location::parse(text).expect(text);
            assert_eq!(location.to_string(), shown);
            assert!(!format!("{location:?}").contains("secret"));
        }
    }

    #[test]
    fn a_url_says_whether_and_whom_to_trust() {
        let tls = |text: &str| match Location::parse(text).expect(text) {
            Location::Server(url) => url.tls,
            Location::File(path) => panic!("{path:?}"),
        };
        assert_eq!(tls("postgres://db/p"), None);
        assert_eq!(tls("postgres://db/p?sslmode=disable"), None);
        assert_eq!(tls("postgres://db/p?sslmode=require"), Some(Authorities::System));
        assert_eq!(
            tls("postgres://db/p?user=a&sslmode=verify-full&sslrootcert=/etc%2Fa%20b.pem"),
            Some(Authorities::File("/etc/a b.pem".into()))
        );
        for wrong in [
            "postgres://db/p?sslmode=perhaps",
            "postgres://db/p?colour=red",
            "postgres:///p",
            "postgres://db:x/p",
        ] {
            assert!(matches!(Location::parse(wrong), Err(StoreError::Url { .. })), "{wrong}");
        }
    }
}
