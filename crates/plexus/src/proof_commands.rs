//! `plexus proof`: who computed a unit and who checked it, and whether that holds.
//!
//! `show` tells what the market's journal says. `verify` believes nobody: it checks a worker's commitment with keys that the caller knows.
//! `check` holds the market to its word: what it drew must follow from keys that it was bound to before.

use std::{path::PathBuf, process::ExitCode};

use api::{ChallengeKeys, CheckRecord, PackageRecord, UnitProof};
use client::Client;
use protocol::{JobId, Opening, PublicKey, UnitId, challenge};
use serde::Serialize;

use crate::{
    arguments::{MarketArgument, WalletArgument},
    exit::Failure,
    say, wallet,
};

/// Bytes of a file with a proof: a package has at most 4,096 units, and a unit a few outputs.
const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Show who computed a unit, who checked it, what was found and what followed
    Show {
        /// The unit, such as job-1/7
        unit: UnitId,
        #[command(flatten)]
        chunk: ChunkArgument,
        #[command(flatten)]
        market: MarketArgument,
        #[command(flatten)]
        wallet: WalletArgument,
        /// Print JSON, which `verify` reads
        #[arg(long)]
        json: bool,
    },
    /// Check that a worker committed to a unit's outputs; of a file without asking anybody
    Verify {
        /// A file that `show --json` printed, or a unit such as job-1/7
        #[arg(value_name = "FILE|UNIT")]
        what: String,
        /// The market's key, as you know it; of a unit what the market says when left out
        #[arg(long, value_name = "KEY")]
        market_key: Option<PublicKey>,
        /// The worker that it must be
        #[arg(long, value_name = "KEY")]
        worker_key: Option<PublicKey>,
        /// A file with the bytes of the opened chunk
        #[arg(long, value_name = "FILE")]
        bytes: Option<PathBuf>,
        #[command(flatten)]
        chunk: ChunkArgument,
        #[command(flatten)]
        market: MarketArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check that what was drawn for checks follows from keys that the market was bound to before
    Check {
        /// The job
        job: JobId,
        #[command(flatten)]
        market: MarketArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// A part of an output.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ChunkArgument {
    /// Open a chunk of this output, from 0
    #[arg(long, value_name = "NUMBER")]
    output: Option<u32>,
    /// Which chunk of 64 KiB, from 0
    #[arg(long, value_name = "NUMBER", requires = "output")]
    chunk: Option<u64>,
}

impl ChunkArgument {
    fn asked(self) -> Option<(u32, u64)> {
        Some((self.output?, self.chunk.unwrap_or(0)))
    }
}

impl Command {
    /// Whether it was asked to speak JSON.
    pub fn json(&self) -> bool {
        match self {
            Self::Show { json, .. } | Self::Verify { json, .. } | Self::Check { json, .. } => *json,
        }
    }
}

pub async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Show { unit, chunk, market, wallet, json } => {
            // A wallet only matters while the unit is being checked.
            let client = match wallet::read(&wallet.file()?) {
                Ok(key) => market.with(key)?,
                Err(_) => market.anonymous()?,
            };
            let proof = client.proof(unit, chunk.asked()).await?;
            if json {
                say::json(&proof);
            } else {
                show(&proof);
            }
        }
        Command::Verify { what, market_key, worker_key, bytes, chunk, market, json } => {
            let (opening, market_key) = match what.parse::<UnitId>() {
                Ok(unit) => {
                    let client = market.anonymous()?;
                    let opening = client.proof(unit, chunk.asked()).await?.opening;
                    if (opening.receipt.job, opening.unit) != (unit.job, unit.index) {
                        return Err(invalid("the market answered with another unit"));
                    }
                    let key = match market_key {
                        Some(key) => key,
                        None => client.market().await?.market,
                    };
                    (opening, key)
                }
                Err(_) => (read(&what)?, market_key.ok_or_else(|| {
                    Failure::new("whose market the proof is for must be known from elsewhere")
                        .code("market_key_missing")
                        .fix("name the market's key with --market-key; `plexus proof verify UNIT` asks the market for it")
                })?),
            };
            verify(&opening, &market_key, worker_key.as_ref(), bytes.as_deref(), json)?;
        }
        Command::Check { job, market, json } => check(&market.anonymous()?, job, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(proof: &UnitProof) {
    let UnitProof { opening, package, rejected } = proof;
    let Opening { receipt, unit, place, outputs, chunk, .. } = opening;
    say::facts(&[
        (
            "unit",
            format!("{}/{unit}, number {place} of {} in {}", receipt.job, receipt.units, package.package),
        ),
        ("computed by", format!("{} on {}", receipt.worker, receipt.adapter)),
        ("receipt", format!("{}, {} generation {}", package.receipt, receipt.lease, receipt.generation)),
        ("journaled", format!("at sequence {}, {} ms of the Unix epoch", package.sequence, package.at_ms)),
        ("time", format!("{} us on the device, {} us in all", receipt.device_us, receipt.total_us)),
    ]);
    for (number, output) in outputs.iter().enumerate() {
        let text =
            format!("{} bytes, blob {}, chunks under {}", output.length, output.blob, output.chunk_root);
        say::facts(&[(format!("output {number}").as_str(), text)]);
    }
    if let Some(chunk) = chunk {
        say::facts(&[("chunk", format!("{} of output {}, leaf {}", chunk.index, chunk.output, chunk.leaf))]);
    }
    settlement(package);
    for record in rejected {
        say::out(&format!("\nbefore that, {} of {}", record.package, record.worker));
        settlement(record);
    }
}

/// What was checked of a package and what followed.
fn settlement(record: &PackageRecord) {
    let Some(settled) = &record.settled else {
        return say::facts(&[("verdict", "still being checked; nobody is told by whom".to_owned())]);
    };
    let drawn = match (&settled.draw, settled.drawn.len()) {
        (None, _) => "nothing: others computed the same units at the same time".to_owned(),
        (Some(draw), count) => format!("{count} of {} units, from {draw}", record.units.count),
    };
    say::facts(&[("drawn", drawn)]);
    for check in &settled.checks {
        say::facts(&[(check.check.to_string().as_str(), opinion(check))]);
    }
    let verdict = match (settled.accepted, settled.verdict.as_deref()) {
        (true, _) => "accepted and paid".to_owned(),
        (false, Some("outvoted")) => "rejected: two other owners got another result".to_owned(),
        (false, Some("verifier_disagrees")) => {
            "rejected: the market's own verifier got another result".to_owned()
        }
        (false, Some("unverifiable")) => "rejected: nobody could execute the units again".to_owned(),
        (false, Some("disproved")) => {
            "rejected: what the program says of its outputs does not hold for these".to_owned()
        }
        (false, why) => format!("rejected: {}", why.unwrap_or("no reason was given")),
    };
    say::facts(&[("verdict", verdict)]);
}

fn opinion(check: &CheckRecord) -> String {
    let who = match (check.kind.as_str(), check.worker) {
        ("canary", _) => "the job's owner, who knew the outputs".to_owned(),
        ("algebraic", _) => "the market, by calculation".to_owned(),
        (_, Some(worker)) => worker.to_string(),
        (_, None) => "nobody yet".to_owned(),
    };
    let said = match check.agrees {
        Some(true) => "agrees",
        Some(false) => "disagrees",
        None => "was not needed",
    };
    let mut text = format!("{who} {said}, {} units", check.units);
    if let Some(dissent) = check.tie_of {
        text.push_str(&format!(", asked because of {dissent}"));
    }
    if let Some(evidence) = &check.evidence {
        text.push_str(&format!(": {evidence}"));
    }
    text
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(text).code("proof_invalid").fix("believe nothing of it; ask the market for the proof again")
}

/// The opening in a file: alone, or as `show --json` prints it.
fn read(path: &str) -> Result<Opening, Failure> {
    let unreadable = |why: String| {
        Failure::new(format!("cannot read a proof from {path}: {why}"))
            .fix("name a file that `plexus proof show UNIT --json` printed, or a unit such as job-1/7")
    };
    let length = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(unreadable(format!("it has {length} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let whole: Result<UnitProof, _> = serde_json::from_slice(&bytes);
    match whole {
        Ok(proof) => Ok(proof.opening),
        Err(error) => serde_json::from_slice(&bytes).map_err(|_| unreadable(error.to_string())),
    }
}

fn verify(
    opening: &Opening,
    market: &PublicKey,
    worker: Option<&PublicKey>,
    bytes: Option<&std::path::Path>,
    json: bool,
) -> Result<(), Failure> {
    opening.verify(market, worker).map_err(|error| invalid(error.to_string()))?;
    if let Some(path) = bytes {
        let chunk = opening.chunk.as_ref().ok_or_else(|| {
            Failure::new("the proof opens no chunk").fix("ask for one with --output and --chunk")
        })?;
        let bytes = std::fs::read(path)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
        chunk.verify_bytes(&bytes).map_err(|error| invalid(error.to_string()))?;
    }
    let Opening { receipt, unit, outputs, chunk, .. } = opening;
    if json {
        say::json(&serde_json::json!({
            "holds": true, "unit": format!("{}/{unit}", receipt.job), "worker": receipt.worker, "market": market,
            "outputs": outputs, "chunk": chunk.as_ref().map(|chunk| chunk.leaf), "bytes_checked": bytes.is_some(),
        }));
        return Ok(());
    }
    say::out(&format!(
        "holds: {} committed to {}/{unit} for the market {market}",
        receipt.worker, receipt.job
    ));
    for (number, output) in outputs.iter().enumerate() {
        say::out(&format!("output {number}: {} bytes, SHA-256 {}", output.length, output.blob));
    }
    if let Some(chunk) = chunk {
        let bytes = if bytes.is_some() { ", and these are its bytes" } else { "" };
        say::out(&format!(
            "chunk {} of output {} is the one with the leaf {}{bytes}",
            chunk.index, chunk.output, chunk.leaf
        ));
    }
    Ok(())
}

/// What became of the check of draws.
#[derive(Default, Serialize)]
struct Checked {
    /// Draws that follow from their keys.
    right: u64,
    /// Whose keys are not shown yet.
    waiting: u64,
    /// That were made before the market anchored its first keys.
    before: u64,
    /// Packages of which nothing is drawn, because others compute the same units.
    undrawn: u64,
    /// Where something is wrong, and what.
    wrong: Vec<String>,
}

async fn check(client: &Client, job: JobId, json: bool) -> Result<(), Failure> {
    // First the records, so that a market cannot choose keys for them.
    let mut records = Vec::new();
    let mut cursor = None;
    loop {
        let page = client.packages(job, cursor.as_deref()).await?;
        records.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let chains = client.challenges().await?.chains;
    let mut checked = Checked::default();
    for keys in &chains {
        if let Some(shown) = &keys.shown
            && !keys.chain.has(shown.epoch, &shown.key)
        {
            checked.wrong.push(format!(
                "the key of epoch {} does not lead to the anchor {}",
                shown.epoch, keys.chain.anchor
            ));
        }
    }
    for record in &records {
        judge(record, &chains, &mut checked);
    }
    if json {
        say::json(&checked);
    } else {
        say::out(&format!(
            "{} packages of {job}: {} draws are right, {} wait for their keys, {} are older than the keys, of {} nothing is drawn",
            records.len(),
            checked.right,
            checked.waiting,
            checked.before,
            checked.undrawn
        ));
    }
    match checked.wrong.first() {
        None => Ok(()),
        Some(first) => Err(invalid(format!(
            "{} of the market's words do not hold; the first: {first}",
            checked.wrong.len()
        ))
        .fix("keep the answers of /v1/challenges and of the job's packages: they show what the market did")),
    }
}

fn judge(record: &PackageRecord, chains: &[ChallengeKeys], checked: &mut Checked) {
    let Some(settled) = &record.settled else { return };
    let Some(draw) = &settled.draw else {
        checked.undrawn += 1;
        return;
    };
    let chain = chains.iter().rev().find(|keys| keys.chain.sequence < record.sequence);
    let Some(ChallengeKeys { chain, shown }) = chain else {
        checked.before += 1;
        return;
    };
    let epoch = chain.epoch_at(record.at_ms);
    let Some(shown) = shown.as_ref().filter(|shown| shown.epoch >= epoch) else {
        checked.waiting += 1;
        return;
    };
    let key = challenge::key_below(&shown.key, shown.epoch - epoch);
    let drawn: Vec<u64> = settled.drawn.iter().map(|place| u64::from(*place)).collect();
    if challenge::draw(&challenge::seed(&key, &record.receipt), record.sequence) != *draw {
        checked.wrong.push(format!("{} was not drawn with the key of epoch {epoch}", record.package));
    } else if challenge::rates(draw, record.units.count.into(), &drawn).is_none() {
        checked.wrong.push(format!("of {} other units were checked than its draw says", record.package));
    } else {
        checked.right += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Settlement, ShownKey};
    use protocol::{ChallengeChain, Hash, PackageId, UnitRun, challenge::KeyChain};

    fn keys() -> KeyChain {
        KeyChain::new(Hash::of(b"last"), 100)
    }

    /// A chain that began at sequence 5, with the key of this epoch shown.
    fn chain(shown: u64) -> ChallengeKeys {
        let (anchor, sequence, begins_at_ms, epoch_ms, epochs) = (keys().anchor(), 5, 1_000, 10, 100);
        let shown = keys().key(shown).map(|key| ShownKey { epoch: shown, key });
        ChallengeKeys { chain: ChallengeChain { anchor, sequence, begins_at_ms, epoch_ms, epochs }, shown }
    }

    /// A package of 20 units in epoch 3, of which a fifth was drawn.
    fn package(sequence: u64) -> PackageRecord {
        let receipt = Hash::of(b"receipt");
        let key = keys().key(3).expect("it is one of the chain's");
        let draw = challenge::draw(&challenge::seed(&key, &receipt), sequence);
        let drawn = (0..20).filter(|place| challenge::is_drawn(&draw, *place, 200_000));
        let settled = Settlement {
            accepted: true,
            verdict: None,
            draw: Some(draw),
            drawn: drawn.map(|place| place as u32).collect(),
            checks: vec![],
        };
        PackageRecord {
            package: PackageId(9),
            job: JobId(1),
            units: UnitRun { first: 40, count: 20 },
            worker: PublicKey([2; 32]),
            receipt,
            sequence,
            at_ms: 1_025,
            settled: Some(settled),
        }
    }

    #[test]
    fn draws_are_right_waiting_older_or_wrong() {
        let check = |change: fn(&mut PackageRecord, &mut ChallengeKeys), expected: [usize; 5]| {
            let (mut record, mut keys) = (package(7), chain(8));
            change(&mut record, &mut keys);
            let mut checked = Checked::default();
            judge(&record, &[keys], &mut checked);
            let Checked { right, waiting, before, undrawn, wrong } = checked;
            let found = [right as usize, waiting as usize, before as usize, undrawn as usize, wrong.len()];
            assert_eq!(found, expected, "{wrong:?}");
        };
        fn settled(record: &mut PackageRecord) -> &mut Settlement {
            record.settled.as_mut().expect("it is settled")
        }
        check(|_, _| (), [1, 0, 0, 0, 0]);
        check(|_, keys| *keys = chain(2), [0, 1, 0, 0, 0]);
        check(|_, keys| keys.shown = None, [0, 1, 0, 0, 0]);
        check(|record, _| *record = package(5), [0, 0, 1, 0, 0]);
        check(|record, _| settled(record).draw = None, [0, 0, 0, 1, 0]);
        check(|record, _| record.settled = None, [0; 5]);
        // Another event, another epoch, another receipt, and other units than were drawn.
        check(|record, _| record.sequence = 8, [0, 0, 0, 0, 1]);
        check(|record, _| record.at_ms = 1_035, [0, 0, 0, 0, 1]);
        check(|record, _| record.receipt = Hash::of(b"another"), [0, 0, 0, 0, 1]);
        check(
            |record, _| {
                let drawn = settled(record).drawn.clone();
                settled(record).drawn = (0..20).filter(|place| !drawn.contains(place)).collect();
            },
            [0, 0, 0, 0, 1],
        );
    }
}
