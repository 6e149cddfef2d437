//! `plexus quote`: what a job would cost, and why.

use std::{path::PathBuf, process::ExitCode};

use api::{Quote, StageQuote};
use protocol::Amount;

use crate::{
    arguments::{MarketArgument, WalletArgument},
    exit::Failure,
    say, submit,
};

#[derive(clap::Args)]
pub struct Options {
    /// The job file
    #[arg(value_name = "FILE", default_value = "job.toml")]
    file: PathBuf,
    #[command(flatten)]
    market: MarketArgument,
    #[command(flatten)]
    wallet: WalletArgument,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let compiled = submit::compile(&options.file)?;
    let client = options.market.with(options.wallet.key_or_new()?)?;
    submit::upload_kernels(&client, &compiled).await?;
    let quote = client.quote(&submit::request(compiled)).await?;
    if options.json {
        say::json(&quote);
    } else {
        print(&quote);
    }
    Ok(ExitCode::SUCCESS)
}

/// Every term of the price.
pub fn print(quote: &Quote) {
    for (number, stage) in quote.stages.iter().enumerate() {
        if quote.stages.len() > 1 {
            say::out(&format!("stage {}", number + 1));
        }
        say::facts(&facts(stage));
    }
    let after = |ms: Option<u64>| match ms {
        None => "nobody online can run it now".to_owned(),
        Some(ms) if ms < 10_000 => format!("about {} ms", ms),
        Some(ms) => format!("about {} s", ms / 1_000),
    };
    say::facts(&[
        ("escrow", format!("{} tokens; what checks do not use comes back", quote.escrow.to_tokens())),
        ("begins after", after(quote.wait_ms)),
        ("takes", after(quote.run_ms)),
    ]);
}

fn facts(stage: &StageQuote) -> [(&'static str, String); 8] {
    let factor = |ppm: u64| format!("{:.3}", ppm as f64 / 1e6);
    let tokens = |amount: Amount| format!("{} tokens", amount.to_tokens());
    let mut rate = format!("{} a compute second", tokens(stage.rate));
    if stage.rate == stage.ask_min && stage.rate > Amount::ZERO {
        rate.push_str(", the least that anybody asks");
    }
    let mut unit = tokens(stage.unit_price);
    if stage.unit_price != stage.market_price {
        unit.push_str(&format!(" as the job says; the market's price is {}", tokens(stage.market_price)));
    }
    [
        (
            "base price",
            format!("{} a compute second; {} providers can run it", tokens(stage.base), stage.providers),
        ),
        ("demand", format!("x {}", factor(1_000_000 + stage.demand_ppm))),
        ("capability", format!("x {}", factor(1_000_000 + stage.capability_ppm))),
        ("season", format!("x {}", factor(stage.season_ppm))),
        ("rate", rate),
        ("work of a unit", format!("{:.6} compute seconds", stage.reference_ns as f64 / 1e9)),
        ("unit price", unit),
        ("units", format!("{}, each paid up to {} times", stage.units, stage.copies)),
    ]
}
