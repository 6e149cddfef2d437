//! Arguments that several commands take.

use std::path::PathBuf;

use client::Client;
use protocol::SecretKey;

use crate::{exit::Failure, wallet};

/// Which market.
#[derive(Clone, Debug, clap::Args)]
pub struct MarketArgument {
    /// The market's address
    #[arg(
        long,
        value_name = "URL",
        env = "PLEXUS_MARKET",
        hide_env = true,
        default_value = "http://127.0.0.1:7700"
    )]
    pub market: String,
    /// Trust the certificate authorities in this PEM file instead of the system's
    #[arg(long, value_name = "FILE", env = "PLEXUS_CA", hide_env = true)]
    pub ca: Option<PathBuf>,
}

/// Whose wallet.
#[derive(Clone, Debug, clap::Args)]
pub struct WalletArgument {
    /// The wallet's file [default: wallet.json in ~/.config/plexus]
    #[arg(long, value_name = "FILE", env = "PLEXUS_WALLET", hide_env = true)]
    pub wallet: Option<PathBuf>,
}

impl WalletArgument {
    /// The file meant.
    pub fn file(&self) -> Result<PathBuf, Failure> {
        self.wallet.clone().map_or_else(wallet::default_file, Ok)
    }

    /// The key in the file.
    pub fn key(&self) -> Result<SecretKey, Failure> {
        Ok(wallet::read(&self.file()?)?)
    }

    /// The key in the file; a new one where there is none.
    pub fn key_or_new(&self) -> Result<SecretKey, Failure> {
        let file = self.file()?;
        match wallet::read(&file) {
            Err(wallet::WalletError::Missing { .. }) => {
                let key = wallet::create(&file)?;
                crate::say::err(&format!("made a new wallet {} in {}", key.public(), file.display()));
                Ok(key)
            }
            other => Ok(other?),
        }
    }
}

impl MarketArgument {
    /// A client that only reads.
    pub fn anonymous(&self) -> Result<Client, Failure> {
        self.client(None)
    }

    /// A client that acts for a wallet.
    pub fn with(&self, key: SecretKey) -> Result<Client, Failure> {
        self.client(Some(key))
    }

    fn client(&self, key: Option<SecretKey>) -> Result<Client, Failure> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| {
                Failure::new(format!("cannot read {}: {error}", path.display()))
                    .fix("name a PEM file with the certificate authority of the market with --ca")
            })
        };
        let ca = self.ca.as_ref().map(read).transpose()?;
        Ok(Client::with(
            &self.market,
            key,
            &client::Options { ca, traceparent: Some(telemetry::traceparent) },
        )?)
    }
}
