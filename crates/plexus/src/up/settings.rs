//! What `plexus up` can be told, in a TOML file or by flags: flags go before the environment, the environment before the file,
//! and the file before the defaults.
//!
//! Keys that are not known are refused, with their place and the nearest right name. What a key means stands in
//! `docs/operating.md`, whose example a test reads.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use market::{BlobKeys, Config, Limits, Location, Quotas, S3Options, StoreError, TlsFiles};
use protocol::Amount;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::{
    exit::{Failure, Place},
    wallet,
};

/// The most test tokens of one deposit.
const FAUCET_MAX: Amount = Amount(1_000_000 * protocol::BASE_UNITS_PER_TOKEN);
/// A file of settings is never longer.
const FILE_BYTES_MAX: u64 = 1 << 20;
const MIB: u64 = 1 << 20;
const DAY_S: u64 = 24 * 3600;
/// The keys of blobs themselves, where there is no file with them.
const BLOB_KEYS: &str = "PLEXUS_BLOB_KEYS";

/// Declares a table of optional keys.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }

        impl $name {
            /// What is set in `other` goes before what is set here.
            pub fn overlay(&mut self, other: Self) {
                $(if other.$field.is_some() { self.$field = other.$field; })*
            }
        }
    };
}

table! {
    /// The market itself.
    Main {
        listen: SocketAddr,
        hosts: Vec<String>,
        data: PathBuf,
        database: String,
        advertise: String,
        key: PathBuf,
        faucet: bool,
        verifier: bool,
        device: String,
        shutdown_s: u64,
        journal_mib_max: u64,
    }
}

table! {
    /// The certificate.
    Tls {
        cert: PathBuf,
        key: PathBuf,
    }
}

table! {
    /// Where blobs are, and how large.
    Blobs {
        folder: PathBuf,
        s3_bucket: String,
        s3_prefix: String,
        s3_region: String,
        s3_endpoint: String,
        key_file: PathBuf,
        keep_days: u64,
        blob_mib_max: u64,
        total_mib_max: u64,
    }
}

table! {
    /// How fast each caller may ask.
    Rates {
        reads_per_s: u64,
        writes_per_s: u64,
        strangers_per_s: u64,
        blob_mib_per_s: u64,
        burst_s: u64,
        proxies: Vec<IpAddr>,
    }
}

table! {
    /// How much each account may have.
    Holdings {
        jobs_unfinished_max: u64,
        units_waiting_max: u64,
        workers_max: u64,
        blob_mib_max: u64,
    }
}

table! {
    /// What the operator is told.
    Telemetry {
        log: String,
        log_format: LogFormat,
        otlp_endpoint: String,
        trace_ratio: f64,
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people
    Text,
    /// A JSON object a line
    Json,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Settings {
    #[serde(flatten)]
    pub main: Main,
    pub tls: Tls,
    pub blobs: Blobs,
    pub limits: Rates,
    pub quotas: Holdings,
    pub telemetry: Telemetry,
    pub params: BTreeMap<String, u64>,
}

/// As it is written. The main keys stand at the top; a flattened table would not know its unknown keys' places.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    listen: Option<SocketAddr>,
    hosts: Option<Vec<String>>,
    data: Option<PathBuf>,
    database: Option<String>,
    advertise: Option<String>,
    key: Option<PathBuf>,
    faucet: Option<bool>,
    verifier: Option<bool>,
    device: Option<String>,
    shutdown_s: Option<u64>,
    journal_mib_max: Option<u64>,
    tls: Tls,
    blobs: Blobs,
    limits: Rates,
    quotas: Holdings,
    telemetry: Telemetry,
    params: BTreeMap<Spanned<String>, Spanned<u64>>,
}

impl Settings {
    /// Reads a file. Paths in it are relative to its folder.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| {
            Failure::new(format!("cannot read {}: {error}", path.display()))
                .code("config_unreadable")
                .fix("name a file of settings with --config; `plexus up --print-config` prints one")
        };
        let length = std::fs::metadata(path).map_err(cannot)?.len();
        if length > FILE_BYTES_MAX {
            return Err(cannot(std::io::Error::other(format!("it has {length} bytes"))));
        }
        let text = std::fs::read_to_string(path).map_err(cannot)?;
        let mut settings = Self::parse(&path.display().to_string(), &text)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let Settings { main, tls, blobs, .. } = &mut settings;
        for named in [
            &mut main.data,
            &mut main.key,
            &mut tls.cert,
            &mut tls.key,
            &mut blobs.folder,
            &mut blobs.key_file,
        ] {
            *named = named.take().map(|path| folder.join(path));
        }
        if let Some(database) = &mut main.database
            && !database.contains("://")
        {
            *database = folder.join(&database).display().to_string();
        }
        Ok(settings)
    }

    fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        let mistake = |error: job::JobError| {
            let place = Place {
                file: Some(name.to_owned()),
                field: None,
                line: Some(error.line()),
                column: Some(error.column()),
            };
            Failure::new(error.to_string()).code("config_invalid").at(place)
        };
        let file: File =
            toml::from_str(text).map_err(|error| mistake(job::toml_mistake(name, text, &error)))?;
        let mut known = Config::new("").params;
        let names: Vec<String> = known.entries().into_iter().map(|(name, _)| name).collect();
        for (key, value) in &file.params {
            if !names.contains(key.get_ref()) {
                return Err(mistake(job::unknown_key(name, text, key.span(), key.get_ref(), &names)));
            }
            known.set(key.get_ref(), *value.get_ref()).map_err(|_| {
                let message = format!("{} is more than {} can be", value.get_ref(), key.get_ref());
                mistake(job::wrong_value(name, text, value.span(), message))
            })?;
        }
        let File {
            listen,
            hosts,
            data,
            database,
            advertise,
            key,
            faucet,
            verifier,
            device,
            shutdown_s,
            journal_mib_max,
            ..
        } = file;
        Ok(Self {
            main: Main {
                listen,
                hosts,
                data,
                database,
                advertise,
                key,
                faucet,
                verifier,
                device,
                shutdown_s,
                journal_mib_max,
            },
            tls: file.tls,
            blobs: file.blobs,
            limits: file.limits,
            quotas: file.quotas,
            telemetry: file.telemetry,
            params: file
                .params
                .into_iter()
                .map(|(key, value)| (key.into_inner(), value.into_inner()))
                .collect(),
        })
    }

    /// What is set in `other` goes before what is set here.
    pub fn overlay(&mut self, other: Self) {
        self.main.overlay(other.main);
        self.tls.overlay(other.tls);
        self.blobs.overlay(other.blobs);
        self.limits.overlay(other.limits);
        self.quotas.overlay(other.quotas);
        self.telemetry.overlay(other.telemetry);
        self.params.extend(other.params);
    }

    /// Sets what nobody set, but for what has no default.
    pub fn complete(mut self) -> Result<Self, Failure> {
        let defaults = Config::new("");
        let main = &mut self.main;
        let listen = *main.listen.get_or_insert(SocketAddr::from(([127, 0, 0, 1], 7700)));
        if main.data.is_none() {
            main.data = Some(wallet::user_folder("XDG_DATA_HOME", ".local/share")?.join("market"));
        }
        main.hosts.get_or_insert_default();
        main.faucet.get_or_insert(listen.ip().is_loopback());
        main.verifier.get_or_insert(true);
        main.shutdown_s.get_or_insert(defaults.shutdown_max.as_secs());
        self.blobs.blob_mib_max.get_or_insert(defaults.blob_bytes_max / MIB);
        let Limits { reads_per_s, writes_per_s, strangers_per_s, blob_bytes_per_s, burst_s, proxies } =
            defaults.limits;
        let limits = &mut self.limits;
        limits.reads_per_s.get_or_insert(reads_per_s);
        limits.writes_per_s.get_or_insert(writes_per_s);
        limits.strangers_per_s.get_or_insert(strangers_per_s);
        limits.blob_mib_per_s.get_or_insert(blob_bytes_per_s / MIB);
        limits.burst_s.get_or_insert(burst_s);
        limits.proxies.get_or_insert(proxies);
        self.blobs.keep_days.get_or_insert(defaults.blobs_keep.as_secs() / DAY_S);
        let Quotas { jobs_unfinished_max, units_waiting_max, workers_max, blob_bytes_max } = defaults.quotas;
        let quotas = &mut self.quotas;
        quotas.jobs_unfinished_max.get_or_insert(jobs_unfinished_max);
        quotas.units_waiting_max.get_or_insert(units_waiting_max);
        quotas.workers_max.get_or_insert(workers_max);
        quotas.blob_mib_max.get_or_insert(blob_bytes_max / MIB);
        let telemetry = &mut self.telemetry;
        telemetry.log.get_or_insert_with(|| "warn".to_owned());
        telemetry.log_format.get_or_insert(LogFormat::Text);
        telemetry.trace_ratio.get_or_insert(1.0);
        for (name, value) in defaults.params.entries() {
            self.params.entry(name).or_insert(value);
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return Err(Failure::new("TLS needs both a certificate and its key")
                .code("config_invalid")
                .fix("set cert and key of [tls], or --tls-cert and --tls-key"));
        }
        if self.telemetry.trace_ratio.is_none_or(|ratio| !(0.0..=1.0).contains(&ratio)) {
            return Err(Failure::new("trace_ratio is a number from 0 to 1").code("config_invalid"));
        }
        Ok(self)
    }

    /// As TOML, the way it could be read again. Secrets are in files, of which the places are shown; the password in a database's
    /// address is not.
    pub fn to_toml(&self) -> String {
        let mut shown = self.clone();
        shown.main.database = shown.main.database.as_deref().map(without_password);
        toml::to_string(&shown).expect("settings have string keys")
    }

    /// What the market is told of it. The settings must be [complete](Self::complete).
    pub fn config(&self) -> Result<Config, Failure> {
        let Self { main, tls, blobs, limits, quotas, params, .. } = self.clone();
        let missing = || Failure::new("the settings are not complete");
        let mut config = Config::new(main.data.ok_or_else(missing)?);
        config.listen = main.listen.ok_or_else(missing)?;
        config.database = main.database.as_deref().map(database).transpose()?;
        config.advertise = main.advertise;
        config.key_file = main.key;
        config.blobs_dir = blobs.folder;
        config.blobs_s3 = blobs.s3_bucket.map(|bucket| S3Options {
            bucket,
            prefix: blobs.s3_prefix.unwrap_or_default(),
            region: blobs.s3_region,
            endpoint: blobs.s3_endpoint,
        });
        config.blob_keys = blob_keys(blobs.key_file.as_deref())?;
        config.blobs_keep = Duration::from_secs(blobs.keep_days.ok_or_else(missing)?.saturating_mul(DAY_S));
        config.hosts = main.hosts.unwrap_or_default();
        config.faucet = main.faucet.unwrap_or_default().then_some(FAUCET_MAX);
        config.shutdown_max = main.shutdown_s.map_or(config.shutdown_max, Duration::from_secs);
        config.journal_bytes_max = main.journal_mib_max.map(|mib| mib.saturating_mul(MIB));
        config.tls = tls.cert.zip(tls.key).map(|(cert, key)| TlsFiles { cert, key });
        config.blob_bytes_max = blobs.blob_mib_max.ok_or_else(missing)?.saturating_mul(MIB);
        config.blobs_bytes_max = blobs.total_mib_max.map(|mib| mib.saturating_mul(MIB));
        config.limits = Limits {
            reads_per_s: limits.reads_per_s.ok_or_else(missing)?,
            writes_per_s: limits.writes_per_s.ok_or_else(missing)?,
            strangers_per_s: limits.strangers_per_s.ok_or_else(missing)?,
            blob_bytes_per_s: limits.blob_mib_per_s.ok_or_else(missing)?.saturating_mul(MIB),
            burst_s: limits.burst_s.ok_or_else(missing)?,
            proxies: limits.proxies.unwrap_or_default(),
        };
        config.quotas = Quotas {
            jobs_unfinished_max: quotas.jobs_unfinished_max.ok_or_else(missing)?,
            units_waiting_max: quotas.units_waiting_max.ok_or_else(missing)?,
            workers_max: quotas.workers_max.ok_or_else(missing)?,
            blob_bytes_max: quotas.blob_mib_max.ok_or_else(missing)?.saturating_mul(MIB),
        };
        for (name, value) in params {
            let set = config.params.set(&name, value);
            set.map_err(|_| {
                Failure::new(format!("{value} is more than {name} can be")).code("config_invalid")
            })?;
        }
        Ok(config)
    }
}

/// `scheme://user:password@host/…` with stars for the password.
fn without_password(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let (user, _) = rest.split_once(':')?;
        // A password may hold an at sign itself; what follows the last one before the path is the host.
        let (before, after) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (_, host) = before.rsplit_once('@')?;
        Some(format!("{scheme}://{user}:***@{host}{after}"))
    };
    hidden().unwrap_or_else(|| url.to_owned())
}

/// The keys that blobs are encrypted with, from the file or else from the environment.
fn blob_keys(file: Option<&Path>) -> Result<Option<BlobKeys>, Failure> {
    let (read, place) = match file {
        Some(file) => (BlobKeys::read_file(file), file.display().to_string()),
        None => match std::env::var(BLOB_KEYS) {
            Ok(text) => (BlobKeys::parse(&text), BLOB_KEYS.to_owned()),
            Err(_) => return Ok(None),
        },
    };
    read.map(Some).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Failure::new(format!("{place}: {error}{cause}"))
            .code("config_invalid")
            .fix("make a key with `openssl rand -hex 32`, one a line, the newest last")
    })
}

/// A `postgres://` URL, or a file.
fn database(text: &str) -> Result<Location, Failure> {
    text.parse().map_err(|error: StoreError| {
        Failure::new(error.to_string())
            .code("config_invalid")
            .fix("name it like postgres://user:password@host/database, or name a file")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTATION: &str = include_str!("../../../../docs/operating.md");

    /// The example in the documentation.
    fn example() -> &'static str {
        let (_, rest) = DOCUMENTATION.split_once("```toml\n").expect("there is an example");
        rest.split_once("```").expect("it ends").0
    }

    fn complete(settings: Settings) -> Settings {
        let mut settings = settings;
        settings.main.data.get_or_insert("data".into());
        settings.complete().expect("complete")
    }

    #[test]
    fn the_documented_example_is_read_and_names_every_key() {
        let example = example();
        // What is commented out is read too, so that it stays true.
        let uncommented: String =
            example.lines().map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line))).collect();
        let said = complete(Settings::parse("plexus.toml", example).expect("the example"));
        said.config().expect("a configuration");
        let all = Settings::parse("plexus.toml", &uncommented).expect("the whole example");
        let known: toml::Table = toml::from_str(&complete(all.clone()).to_toml()).expect("TOML");
        let written: toml::Table = toml::from_str(&uncommented).expect("TOML");
        for (key, value) in &known {
            let named = written.get(key).unwrap_or_else(|| panic!("{key} is not in the example"));
            for inner in value.as_table().into_iter().filter(|_| key != "params").flat_map(toml::Table::keys)
            {
                assert!(named.get(inner).is_some(), "{key}.{inner} is not in the example");
            }
        }
    }

    #[test]
    fn the_example_shows_the_defaults() {
        let silent: Settings = complete(Settings::default());
        let shown = complete(Settings::parse("plexus.toml", example()).expect("the example"));
        assert_eq!(shown.limits, silent.limits);
        assert_eq!(shown.quotas, silent.quotas);
        assert_eq!(shown.params, silent.params);
        assert_eq!(shown.blobs, silent.blobs);
    }

    #[test]
    fn mistakes_have_a_place_and_the_nearest_right_name() {
        let check = |text: &str, line: u32, column: u32, says: &[&str]| {
            let failure = Settings::parse("plexus.toml", text).expect_err(text);
            let json = failure.to_json();
            let error = &json["error"];
            assert_eq!((&error["line"], &error["column"]), (&line.into(), &column.into()), "{text}: {error}");
            assert_eq!((&error["code"], &error["file"]), (&"config_invalid".into(), &"plexus.toml".into()));
            for said in says {
                assert!(error["detail"].as_str().expect("text").contains(said), "{error}");
            }
        };
        check("lisen = \"127.0.0.1:1\"\n", 1, 1, &["there is no key \"lisen\"", "did you mean \"listen\"?"]);
        check("[limits]\nreads_per_sec = 3\n", 2, 1, &["did you mean \"reads_per_s\"?"]);
        check("[tls]\ncert = \"a\"\nkeys = \"b\"\n", 3, 1, &["did you mean \"key\"?"]);
        check("[params]\nlease_ms = 3\nburn_bp = 3\n", 3, 1, &["did you mean \"burn_bps\"?"]);
        check("[params]\nburn_bps = 99999999999\n", 2, 12, &["more than burn_bps can be"]);
        check("listen = 7\n", 1, 10, &["invalid type"]);
        check("[telemetry]\nlog_format = \"xml\"\n", 2, 14, &["\"text\", \"json\""]);
        check("listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\n", 2, 1, &["duplicate key"]);
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_the_defaults() {
        let text = "listen = \"0.0.0.0:1\"\nfaucet = true\n[limits]\nburst_s = 3\n[params]\nlease_ms = 5\n";
        let mut settings = Settings::parse("plexus.toml", text).expect("TOML");
        let listen = "127.0.0.1:2".parse().expect("an address");
        settings.overlay(Settings {
            main: Main { listen: Some(listen), ..Main::default() },
            ..Settings::default()
        });
        let config = complete(settings).config().expect("a configuration");
        assert_eq!((config.listen, config.faucet.is_some()), (listen, true));
        assert_eq!((config.limits.burst_s, config.limits.reads_per_s), (3, Limits::default().reads_per_s));
        assert_eq!((config.params.lease_ms, config.params.burn_bps), (5, Config::new("").params.burn_bps));
        // What is printed is read again as the same.
        let all = complete(Settings::parse("plexus.toml", example()).expect("the example"));
        assert_eq!(Settings::parse("printed.toml", &all.to_toml()).expect("TOML"), all);
    }

    #[test]
    fn passwords_are_not_shown() {
        for (url, shown) in [
            ("postgres://ada:secret@db/plexus", "postgres://ada:***@db/plexus"),
            (
                "postgres://ada:s@cret@db:5432/plexus?sslmode=require",
                "postgres://ada:***@db:5432/plexus?sslmode=require",
            ),
            ("postgres://ada@db/plexus", "postgres://ada@db/plexus"),
            ("postgres://db:5432/plexus", "postgres://db:5432/plexus"),
            ("journal.db", "journal.db"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn half_a_certificate_is_refused() {
        let mut settings = Settings::parse("plexus.toml", "[tls]\ncert = \"cert.pem\"\n").expect("TOML");
        settings.main.data = Some("data".into());
        assert!(settings.complete().is_err());
    }
}
