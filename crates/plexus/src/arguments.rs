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
        Ok(Client::anonymous(&self.market)?)
    }

    /// A client that acts for a wallet.
    pub fn with(&self, key: SecretKey) -> Result<Client, Failure> {
        Ok(Client::new(&self.market, key)?)
    }
}
