//! `plexus up`: a market on this machine, with its own verifier.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use market::Market;
use protocol::Amount;
use serde_json::json;
use worker::{CacheConfig, Config, State, Terms};

use crate::{exit::Failure, say, signals::Interrupts, wallet, work};

/// The most test tokens of one deposit.
const FAUCET_MAX: Amount = Amount(1_000_000 * protocol::BASE_UNITS_PER_TOKEN);

#[derive(clap::Args)]
pub struct Options {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7700")]
    listen: SocketAddr,
    /// Keep everything in this folder [default: market in ~/.local/share/plexus]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A public name of this market, with its port; clients may log in under it. May be given several times
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
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
    /// The most that one blob may have, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    blob_mib_max: u64,
    /// The most that all blobs may have together, in MiB [default: what the disk has]
    #[arg(long, value_name = "MIB")]
    blobs_mib_max: Option<u64>,
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

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let data_dir = match options.data {
        Some(dir) => dir,
        None => wallet::user_folder("XDG_DATA_HOME", ".local/share")?.join("market"),
    };
    let faucet = options.faucet || (!options.no_faucet && options.listen.ip().is_loopback());
    let mut config = market::Config::new(&data_dir);
    config.listen = options.listen;
    config.hosts = options.hosts;
    config.faucet = faucet.then_some(FAUCET_MAX);
    config.blob_bytes_max = options.blob_mib_max.saturating_mul(1 << 20);
    config.blobs_bytes_max = options.blobs_mib_max.map(|mib| mib.saturating_mul(1 << 20));
    if let Some(lease_ms) = options.lease_ms {
        config.params.lease_ms = lease_ms;
    }
    if let Some(heartbeat_ms_max) = options.heartbeat_ms_max {
        config.params.heartbeat_ms_max = heartbeat_ms_max;
    }
    let market = Market::start(config).await.map_err(start_failed)?;
    let address = market.url();
    if options.json {
        let key = market.key().public();
        say::json_line(&json!({
            "address": address, "market": key, "data": data_dir, "faucet": faucet, "verifier": !options.no_verifier,
        }));
    } else {
        say::out(&format!("market at {address}"));
        say::facts(&[
            ("data", data_dir.display().to_string()),
            ("faucet", if faucet { "on: test tokens for whoever asks" } else { "off" }.to_owned()),
            ("next", format!("`plexus worker --market {address}` lends a GPU; Ctrl-C ends the market")),
        ]);
    }
    let mut verifier = None;
    if !options.no_verifier {
        let config = Config {
            market: client::Client::new(&market.local_url(), market.key().clone())?,
            cache: CacheConfig::default(),
            version: work::version(),
            // The lock on the folder keeps a second market, and so a second verifier, away.
            instance: Some("verifier".to_owned()),
            // It is paid by the market, for checks that nobody else makes: no claim would change what it is given.
            terms: Terms { measured: false, ..Terms::default() },
        };
        let worker = worker::start(config, work::executor(options.device)?)?;
        tokio::spawn(tell(worker.status()));
        verifier = Some(worker);
    }
    let failed = tokio::select! {
        () = market.failed() => true,
        _ = interrupts.next() => false,
    };
    tracing::info!("stopping");
    if let Some(mut verifier) = verifier {
        verifier.stop_now();
        if let Err(error) = verifier.ended().await {
            tracing::debug!(%error, "the verifier had ended");
        }
    }
    market.shutdown().await;
    if failed {
        return Err(Failure::new("the market cannot go on: its committer ended")
            .code("market_failed")
            .fix("read its log for the cause, and start it again; what was answered is in the journal"));
    }
    Ok(ExitCode::SUCCESS)
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
        _ => "see the cause above; nothing was changed",
    };
    Failure::new(text).code("market_not_started").fix(fix)
}
