//! `plexus wallet`: the key that owns tokens.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use client::Client;
use protocol::{Amount, PublicKey};
use serde_json::json;

use crate::{
    arguments::{MarketArgument, WalletArgument},
    exit::Failure,
    say, wallet,
};

/// Payments listed without `--all`.
const LIST_MAX: usize = 50;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a new key; never overwrites one
    New {
        #[command(flatten)]
        wallet: WalletArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the wallet's address and where its key lies
    Show {
        #[command(flatten)]
        wallet: WalletArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a wallet has on a market
    Balance {
        /// Another wallet's address
        address: Option<PublicKey>,
        #[command(flatten)]
        market: MarketArgument,
        #[command(flatten)]
        wallet: WalletArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List what changed a wallet's balance on a market, newest first
    History {
        /// Another wallet's address
        address: Option<PublicKey>,
        /// More than the newest 50
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        market: MarketArgument,
        #[command(flatten)]
        wallet: WalletArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let another key act for this wallet for some days: a worker that runs with it earns for this wallet
    Delegate {
        /// The other key's wallet file: it has to sign too
        #[arg(value_name = "FILE")]
        session: PathBuf,
        /// For how many days, at most 30
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=30))]
        days: u64,
        #[command(flatten)]
        market: MarketArgument,
        #[command(flatten)]
        wallet: WalletArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Set tokens aside as stake: it raises the score of this wallet's jobs and the tier of its workers
    Bond(Tokens),
    /// Ask for stake back; it is free after the market's delay
    Unbond(Tokens),
    /// Take test tokens from a market that has a faucet
    Faucet(Tokens),
}

/// Tokens of one's own wallet.
#[derive(clap::Args)]
pub struct Tokens {
    /// How many tokens, such as 2.5
    #[arg(value_parser = Amount::from_tokens)]
    amount: Amount,
    #[command(flatten)]
    market: MarketArgument,
    #[command(flatten)]
    wallet: WalletArgument,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Tokens {
    /// The market for the wallet, and the wallet.
    fn client(&self) -> Result<(Client, PublicKey), Failure> {
        let key = self.wallet.key()?;
        let address = key.public();
        Ok((self.market.with(key)?, address))
    }
}

impl Command {
    /// Whether it was asked to speak JSON.
    pub fn json(&self) -> bool {
        match self {
            Self::Bond(tokens) | Self::Unbond(tokens) | Self::Faucet(tokens) => tokens.json,
            Self::New { json, .. } | Self::Show { json, .. } => *json,
            Self::Balance { json, .. } | Self::History { json, .. } | Self::Delegate { json, .. } => *json,
        }
    }
}

pub async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::New { wallet, json } => {
            let file = wallet.file()?;
            let key = wallet::create(&file)?;
            show(json, key.public(), &file);
            if !json {
                say::err("keep the file: whoever has it has the tokens, and without it they are gone");
            }
        }
        Command::Show { wallet, json } => show(json, wallet.key()?.public(), &wallet.file()?),
        Command::Balance { address, market, wallet, json } => {
            let address = match address {
                Some(address) => address,
                None => wallet.key()?.public(),
            };
            balance(json, &market.anonymous()?.account(&address).await?);
        }
        Command::History { address, all, market, wallet, json } => {
            let address = match address {
                Some(address) => address,
                None => wallet.key()?.public(),
            };
            let client = market.anonymous()?;
            let (mut payments, mut cursor) = (Vec::new(), None);
            loop {
                let page = client.payments_of(&address, cursor.as_deref()).await?;
                payments.extend(page.items);
                cursor = page.next;
                if cursor.is_none() || (!all && payments.len() >= LIST_MAX) {
                    break;
                }
            }
            if !all {
                payments.truncate(LIST_MAX);
            }
            if json { say::json(&payments) } else { history(&payments) }
        }
        Command::Delegate { session, days, market, wallet, json } => {
            let client = market.with(wallet.key()?)?;
            let key = wallet::read(&session)?;
            let session = client.delegate(&key, Duration::from_secs(days * 24 * 3600)).await?;
            if json {
                say::json(&json!({ "key": session.key, "account": session.account, "days": days }));
            } else {
                say::out(&format!("{} acts for {} for {days} days", session.key, session.account));
            }
        }
        Command::Bond(tokens) => {
            let (client, address) = tokens.client()?;
            balance(tokens.json, &client.bond(&address, tokens.amount).await?);
        }
        Command::Unbond(tokens) => {
            let (client, address) = tokens.client()?;
            balance(tokens.json, &client.unbond(&address, tokens.amount).await?);
        }
        Command::Faucet(tokens) => {
            let (client, address) = tokens.client()?;
            balance(tokens.json, &client.deposit(&address, tokens.amount).await?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn history(payments: &[api::Payment]) {
    if payments.is_empty() {
        return say::out("no payments");
    }
    let row = |payment: &api::Payment| {
        let kind = serde_json::to_value(payment.kind).ok();
        vec![
            payment.at.clone(),
            kind.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned(),
            payment.amount.to_tokens(),
            payment.job.map(|job| job.to_string()).unwrap_or_default(),
        ]
    };
    say::table(&["when", "kind", "tokens", "job"], payments.iter().map(row).collect());
}

fn show(json: bool, address: PublicKey, file: &std::path::Path) {
    if json {
        say::json(&json!({ "address": address, "file": file }));
    } else {
        say::facts(&[("address", address.to_string()), ("file", file.display().to_string())]);
    }
}

fn balance(json: bool, account: &api::Account) {
    if json {
        return say::json(account);
    }
    let tokens = |amount: Amount| format!("{} tokens", amount.to_tokens());
    say::facts(&[
        ("address", account.id.to_string()),
        ("available", tokens(account.available)),
        ("in escrow", tokens(account.escrowed)),
        ("held back", held_back(account)),
        ("earned", tokens(account.earned)),
        ("spent", tokens(account.spent)),
        ("stake", tokens(account.bonded)),
        ("frozen by verdicts", tokens(account.frozen)),
        ("stake on its way back", tokens(account.unbonding)),
        ("rewards", tokens(account.rewarded)),
    ]);
}

/// What is not to be spent yet, and from when the first of it is.
fn held_back(account: &api::Account) -> String {
    let amount = format!("{} tokens", account.pending.to_tokens());
    match account.releases.first() {
        Some(next) => format!("{amount}, {} of them until {}", next.amount.to_tokens(), next.free_at),
        None => amount,
    }
}
