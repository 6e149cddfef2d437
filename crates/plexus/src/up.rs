//! `plexus up`: a market on this machine, with its own verifier.

mod settings;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use market::Market;
use serde_json::json;
use settings::{LogFormat, Main, Settings, Telemetry, Tls};
use worker::{CacheConfig, Config, Handle, State, Terms};

use crate::{
    exit::Failure,
    say,
    signals::{Hangups, Interrupts},
    work,
};

/// As a shell tells of a process that a second Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

#[derive(clap::Args)]
pub struct Options {
    /// Read settings from this TOML file; flags go before it
    #[arg(long, value_name = "FILE", env = "PLEXUS_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    /// Print all settings as they would be used, as TOML, and end
    #[arg(long)]
    print_config: bool,
    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:7700]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Keep everything in this folder [default: market in ~/.local/share/plexus]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep the journal in this database, which several processes of one market share: postgres://…, or a file
    #[arg(long, value_name = "URL", env = "PLEXUS_DATABASE", hide_env = true)]
    database: Option<String>,
    /// Where the market's other processes reach this one [default: where it listens]
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
    /// The market's secrets, the same for all its processes [default: market-key.json in its folder]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Keep blobs in this folder, the same for all processes [default: blobs in its folder]
    #[arg(long, value_name = "DIR")]
    blobs: Option<PathBuf>,
    /// A public name of this market, with its port; clients may log in under it. May be given several times
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Speak TLS with the certificate in this PEM file; a new one is taken without a restart
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Give out test tokens to whoever asks [default: only where it listens on this machine alone]
    #[arg(long, overrides_with = "no_faucet")]
    faucet: bool,
    /// Give out no test tokens
    #[arg(long)]
    no_faucet: bool,
    /// Run no verifier: results are checked by other workers alone
    #[arg(long)]
    no_verifier: bool,
    /// The GPU of the verifier: a part of its name, or its number in `plexus device`
    #[arg(long, value_name = "NAME", env = "PLEXUS_ADAPTER", hide_env = true)]
    device: Option<String>,
    /// The most that one blob may have, in MiB [default: 1024]
    #[arg(long, value_name = "MIB")]
    blob_mib_max: Option<u64>,
    /// The most that all blobs may have together, in MiB [default: what the disk has]
    #[arg(long, value_name = "MIB")]
    blobs_mib_max: Option<u64>,
    /// How long requests that were begun may take when the market stops, in seconds [default: 10]
    #[arg(long, value_name = "S")]
    shutdown_s: Option<u64>,
    /// What is logged to standard error, such as `info` or `warn,plexus_market=debug` [default: warn]
    #[arg(long, value_name = "FILTER", env = "PLEXUS_LOG", hide_env = true)]
    log: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT", env = "PLEXUS_LOG_FORMAT", hide_env = true)]
    log_format: Option<LogFormat>,
    /// Send spans to the OpenTelemetry collector at this address, such as http://127.0.0.1:4318
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide_env = true)]
    otlp_endpoint: Option<String>,
    /// How long a lease lasts unless it is renewed (when a market is founded)
    #[arg(long, value_name = "MS", hide = true)]
    lease_ms: Option<u64>,
    /// A worker that is silent this long is gone (when a market is founded)
    #[arg(long, value_name = "MS", hide = true)]
    heartbeat_ms_max: Option<u64>,
    /// Print JSON: one line when the market is ready
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// The settings of the file, with those of the flags over them.
    fn settings(self) -> Result<Settings, Failure> {
        let mut settings = self.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        let faucet = if self.faucet { Some(true) } else { self.no_faucet.then_some(false) };
        let params = [("lease_ms", self.lease_ms), ("heartbeat_ms_max", self.heartbeat_ms_max)];
        settings.overlay(Settings {
            main: Main {
                listen: self.listen,
                hosts: Some(self.hosts).filter(|hosts| !hosts.is_empty()),
                data: self.data,
                database: self.database.filter(|database| !database.is_empty()),
                advertise: self.advertise,
                key: self.key,
                faucet,
                verifier: self.no_verifier.then_some(false),
                device: self.device,
                shutdown_s: self.shutdown_s,
                ..Main::default()
            },
            tls: Tls { cert: self.tls_cert, key: self.tls_key },
            blobs: settings::Blobs {
                folder: self.blobs,
                blob_mib_max: self.blob_mib_max,
                total_mib_max: self.blobs_mib_max,
                ..settings::Blobs::default()
            },
            telemetry: Telemetry {
                log: self.log,
                log_format: self.log_format,
                otlp_endpoint: self.otlp_endpoint.filter(|endpoint| !endpoint.is_empty()),
                trace_ratio: None,
            },
            params: params.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect(),
            ..Settings::default()
        });
        settings.complete()
    }
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let (as_json, print_config) = (options.json, options.print_config);
    let settings = options.settings()?;
    if print_config {
        say::out(settings.to_toml().trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let telemetry = start_telling(&settings.telemetry)?;
    let mut interrupts = Interrupts::listen()?;
    let mut config = settings.config()?;
    config.adopt_parent = settings.telemetry.otlp_endpoint.is_some().then_some(telemetry::adopt as _);
    let shutdown_max = config.shutdown_max;
    let (faucet, verifier) = (config.faucet.is_some(), settings.main.verifier.unwrap_or(true));
    let data_dir = config.data_dir.clone();
    let reloads = config.tls.is_some();
    let market = Market::start(config).await.map_err(start_failed)?;
    let address = market.url();
    if as_json {
        let key = market.key().public();
        say::json_line(&json!({
            "address": address, "market": key, "data": data_dir, "faucet": faucet, "verifier": verifier,
        }));
    } else {
        say::out(&format!("market at {address}"));
        say::facts(&[
            ("data", data_dir.display().to_string()),
            ("faucet", if faucet { "on: test tokens for whoever asks" } else { "off" }.to_owned()),
            ("next", format!("`plexus worker --market {address}` lends a GPU; Ctrl-C ends the market")),
        ]);
    }
    let device = settings.main.device;
    let mut standing = market.standing();
    let mut verifying = None;
    let mut hangups = if reloads { Some(Hangups::listen()?) } else { None };
    let failed = loop {
        tokio::select! {
            // A market has one verifier: its leader's.
            _ = standing.wait_for(|standing| standing.leads() != verifying.is_some()), if verifier => {
                match verifying.take() {
                    None => verifying = Some(start_verifier(&market, device.clone())?),
                    Some(former) => drop(tokio::spawn(end_verifier(former, shutdown_max))),
                }
            }
            () = market.failed() => break true,
            () = interrupts.next() => break false,
            () = Hangups::next_of(&mut hangups) => market.reload_certificate(),
        }
    };
    tracing::info!("stopping");
    let ending = async {
        if let Some(verifier) = verifying {
            end_verifier(verifier, shutdown_max).await;
        }
        market.shutdown().await;
        telemetry.end().await;
    };
    tokio::select! {
        () = ending => {}
        () = interrupts.next() => return Ok(EXIT_INTERRUPTED.into()),
    }
    if failed {
        return Err(Failure::new("the market cannot go on: its committer ended")
            .code("market_failed")
            .fix("read its log for the cause, and start it again; what was answered is in the journal"));
    }
    Ok(ExitCode::SUCCESS)
}

fn start_telling(settings: &Telemetry) -> Result<telemetry::Telemetry, Failure> {
    let logs = say::logs(
        settings.log.clone().unwrap_or_else(|| "warn".to_owned()),
        settings.log_format == Some(LogFormat::Json),
    );
    say::tell(&logs, settings.otlp_endpoint.clone(), settings.trace_ratio.unwrap_or(1.0), "plexus-market")
}

fn start_verifier(market: &Market, device: Option<String>) -> Result<Handle, Failure> {
    let config = Config {
        market: client::Client::new(&market.local_url(), market.key().clone())?,
        cache: CacheConfig::default(),
        version: work::version(),
        // One process leads, and it alone has a verifier. What a former leader's still held is given back at once.
        instance: Some("verifier".to_owned()),
        // It is paid by the market, for checks that nobody else makes: no claim would change what it is given.
        terms: Terms { measured: false, ..Terms::default() },
    };
    let worker = worker::start(config, work::executor(device)?)?;
    tokio::spawn(tell(worker.status()));
    Ok(worker)
}

async fn end_verifier(mut verifier: Handle, within: Duration) {
    verifier.stop_now();
    match tokio::time::timeout(within.max(Duration::from_secs(1)), verifier.ended()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the verifier had ended"),
        Err(_) => tracing::warn!("the verifier did not end in time"),
    }
}

/// Says when the verifier cannot work: without it, a market of one provider has nobody to check its work.
async fn tell(mut status: tokio::sync::watch::Receiver<worker::Status>) {
    let ended = status.wait_for(|status| status.state == State::Stopped).await;
    if let Ok(status) = ended
        && status.reason.code == "failed"
    {
        say::err(&format!(
            "{} the market's own verifier does not run: {}\n  {} results are only checked where a second provider \
             works; see `plexus device`, or start with --no-verifier",
            say::red("warning:"),
            status.reason.text,
            say::bold("next:")
        ));
    }
}

fn start_failed(error: market::StartError) -> Failure {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    let fix = match &error {
        market::StartError::Key(market::KeyFileError::Open { path, .. }) => {
            &format!("close it with `chmod 600 {}`", path.display())
        }
        market::StartError::Listen { .. } => {
            "another program may listen there: choose another address with --listen"
        }
        market::StartError::InUse { .. } => "stop the other market, or choose another folder with --data",
        market::StartError::Folder { .. } => "choose a folder that you may write to with --data",
        market::StartError::OtherMarket { market } => {
            &format!("name the key file of {market} with --key, or another database with --database")
        }
        market::StartError::BlobsElsewhere { .. } => {
            "name the folder that the market's other processes have with --blobs"
        }
        market::StartError::Advertise { .. } => {
            "name one that they reach with --advertise, such as http://10.0.0.7:7700"
        }
        market::StartError::Store(
            market::StoreError::Unreachable { .. } | market::StoreError::Denied { .. },
        ) => "check the URL of --database, and that the database is there",
        market::StartError::Tls(_) => "name a certificate in PEM and its key with --tls-cert and --tls-key",
        _ => "see the cause above; nothing was changed",
    };
    Failure::new(text).code("market_not_started").fix(fix)
}
