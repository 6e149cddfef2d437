//! `plexus verdict`: packages that were contradicted, and appeals.

use std::process::ExitCode;

use api::{Opinion, Verdict, VerdictOutcome, VerdictState};
use protocol::{JobId, PublicKey, VerdictId};

use crate::{
    arguments::{MarketArgument, WalletArgument},
    exit::Failure,
    say,
};

#[derive(clap::Subcommand)]
pub enum Command {
    /// List verdicts, newest first
    List {
        /// Only on packages of this wallet's workers
        #[arg(long, value_name = "WALLET")]
        owner: Option<PublicKey>,
        /// Only on packages of this job
        #[arg(long)]
        job: Option<JobId>,
        #[command(flatten)]
        market: MarketArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what was compared, where it first differs, who said what, and what it costs
    Show {
        /// The verdict
        verdict: VerdictId,
        #[command(flatten)]
        market: MarketArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Contest a verdict with a deposit: the disputed units are executed again
    Contest {
        /// The verdict
        verdict: VerdictId,
        #[command(flatten)]
        market: MarketArgument,
        #[command(flatten)]
        wallet: WalletArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    /// Whether it was asked to speak JSON.
    pub fn json(&self) -> bool {
        match self {
            Self::List { json, .. } | Self::Show { json, .. } | Self::Contest { json, .. } => *json,
        }
    }
}

pub async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::List { owner, job, market, json } => {
            let page = market.anonymous()?.verdicts(owner, job, None).await?;
            if json {
                say::json(&page);
            } else if page.items.is_empty() {
                say::out("no verdicts");
            } else {
                let head = ["verdict", "job", "worker", "cause", "slash", "state", "reached"];
                say::table(&head, page.items.iter().map(row).collect());
            }
        }
        Command::Show { verdict, market, json } => {
            let found = market.anonymous()?.verdict(verdict).await?;
            if json {
                say::json(&found);
            } else {
                show(&found);
            }
        }
        Command::Contest { verdict, market, wallet, json } => {
            let appeal = market.with(wallet.key()?)?.contest(verdict).await?;
            if json {
                say::json(&appeal);
            } else {
                say::out(&format!(
                    "{verdict} is contested with a deposit of {} tokens; decided by {}",
                    appeal.deposit.to_tokens(),
                    appeal.until
                ));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A name as the API has it.
fn word(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().replace('_', " ")
}

fn row(verdict: &Verdict) -> Vec<String> {
    vec![
        verdict.id.to_string(),
        verdict.job.to_string(),
        verdict.worker.to_string(),
        word(verdict.cause),
        format!("{} tokens", verdict.slash.to_tokens()),
        state(verdict),
        verdict.reached_at.clone(),
    ]
}

fn state(verdict: &Verdict) -> String {
    let name = word(verdict.state);
    if verdict.is_final { format!("{name}, final") } else { name }
}

fn show(verdict: &Verdict) {
    let last = verdict.units.first + u64::from(verdict.units.count) - 1;
    let open = verdict.state == VerdictState::Standing && !verdict.is_final;
    let mut facts = vec![
        ("verdict", format!("{}: {}", verdict.id, state(verdict))),
        (
            "package",
            format!("{} of {}, units {} to {last}", verdict.package, verdict.job, verdict.units.first),
        ),
        ("worker", format!("{} of {}", verdict.worker, verdict.owner)),
        ("receipt", verdict.receipt.to_string()),
        ("cause", word(verdict.cause)),
        ("disputed units", verdict.disputed.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")),
        ("slash", format!("{} tokens", verdict.slash.to_tokens())),
        ("reached", verdict.reached_at.clone()),
    ];
    if open {
        facts.push(("contestable until", verdict.contestable_until.clone()));
    }
    facts.extend(verdict.opinions.iter().map(|opinion| ("said", said(opinion))));
    if let Some(appeal) = &verdict.appeal {
        facts.push(("contested", format!("{}, deposit {} tokens", appeal.at, appeal.deposit.to_tokens())));
    }
    if let Some(closing) = &verdict.closing {
        facts.extend(closing.opinions.iter().map(|opinion| ("said in appeal", said(opinion))));
        let became = match closing.outcome {
            VerdictOutcome::Overturned => format!(
                "everything that was taken went back, with {} tokens of the deposit and {} for the package",
                closing.deposit.to_tokens(),
                closing.compensation.to_tokens()
            ),
            _ => format!(
                "{} tokens were burned, {} went to the treasury",
                closing.burned.to_tokens(),
                closing.treasury.to_tokens()
            ),
        };
        facts.push(("final", format!("{}: {}; {became}", closing.at, word(closing.outcome))));
    }
    say::facts(&facts);
}

fn said(opinion: &Opinion) -> String {
    let who = match opinion.worker {
        Some(worker) => format!("{worker} of {}", opinion.owner),
        None => opinion.owner.to_string(),
    };
    let what = if opinion.agrees { "agrees" } else { "disagrees" };
    let receipt = opinion.receipt.map(|digest| format!(" (receipt {digest})")).unwrap_or_default();
    format!("{who} {what}: {}{receipt}", opinion.evidence)
}
