//! How long a market with a long journal takes to be back.
//!
//! The journal is made by the engine itself, without HTTP and signatures, and written group by group as the market writes it. The
//! market is then started twice: the first time it also fills its lists, which a market that ran has done already; the
//! second start is what an operator waits for.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context as _, Result};
use borsh::BorshDeserialize as _;
use engine::{Event, Requirements, State};
use protocol::PublicKey;
use store::{Journal, JournalOptions, StoreError};

use crate::{
    engine_load::{Network, key},
    market::Market,
    report::Report,
};

/// Events of a group, as under load.
const GROUP_EVENTS: usize = 4_000;
/// Units of a job; it ends before the next begins.
const JOB_UNITS: u64 = 20_000;
const WORKERS: u64 = 8;

/// Makes a journal of this many events and measures two starts.
pub async fn measure(report: &mut Report, plexus: &Path, events: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Founded by the market itself, so that key, parameters and version are its own.
    let arguments = ["--no-verifier"];
    let market = Market::start_in(plexus, &arguments, folder.path()).await?;
    let key = client::Client::anonymous(&market.address)?.market().await?.market;
    market.end().await?;
    let path = folder.path().join("journal.db");
    let began = Instant::now();
    let written = tokio::task::spawn_blocking(move || write(&path, key, events)).await??;
    eprintln!("  {written} events written in {:.0} s", began.elapsed().as_secs_f64());
    let bytes = fs::metadata(folder.path().join("journal.db"))?.len();
    report.add(format!("journal of {written} events"), bytes as f64 / 1e9, "GB", None);
    let began = Instant::now();
    let market = Market::start_in(plexus, &arguments, folder.path()).await?;
    let metric = "first start, which also fills the lists";
    report.add(metric, began.elapsed().as_secs_f64(), "s", None);
    market.end().await?;
    let began = Instant::now();
    let market = Market::start_in(plexus, &arguments, folder.path()).await?;
    report.add(format!("restart at {written} events"), began.elapsed().as_secs_f64(), "s", Some("< 5"));
    market.end().await
}

fn write(path: &Path, market: PublicKey, events: u64) -> Result<u64> {
    let mut journal = Journal::open(path.to_owned(), &market, JournalOptions::default())?;
    let (state, now_ms, encoding_version) = read(&journal)?;
    let mut network = Network::of(state, now_ms);
    network.events = Some(Vec::new());
    let (client, workers): (_, Vec<_>) = (key(1 << 40), (0..WORKERS).map(key).collect());
    network.deposit(client);
    for worker in &workers {
        network.announce(*worker, crate::load::device());
    }
    let mut encoded = Vec::new();
    let mut told = 0;
    for turn in 0.. {
        let worker = workers[turn % workers.len()];
        match network.lease(worker) {
            Some(lease) => network.commit(worker, lease),
            None if network.idle() => network.submit(client, JOB_UNITS, 1, Requirements::default()),
            None => {}
        }
        let group = network.events.as_mut().context("events are kept")?;
        let enough = journal.next_seq() + group.len() as u64 >= events;
        if group.len() >= GROUP_EVENTS || enough {
            encoded.clear();
            group.iter().try_for_each(|event| borsh::to_writer(&mut encoded, event))?;
            let count = u32::try_from(group.len())?;
            group.clear();
            journal.append(journal.next_seq(), network.now_ms, count, encoding_version, &encoded)?;
        }
        if enough {
            break;
        }
        let tenths = journal.next_seq() * 10 / events;
        if tenths > told {
            told = tenths;
            eprintln!("  {}0 % of the journal is written", tenths);
        }
    }
    Ok(journal.next_seq())
}

/// The founded market: its state, its last time, and how its events are encoded.
fn read(journal: &Journal) -> Result<(State, u64, u32)> {
    let (mut state, mut now_ms, mut encoding_version) = (State::default(), 0, 0);
    journal.replay(0, |group| -> Result<(), StoreError> {
        let mut bytes = &group.events[..];
        for _ in 0..group.count {
            let event = Event::deserialize(&mut bytes)
                .map_err(|error| StoreError::Corrupt { seq: group.first_seq, detail: error.to_string() })?;
            state.evolve(group.at_ms, &event);
        }
        (now_ms, encoding_version) = (group.at_ms, group.encoding_version);
        Ok(())
    })?;
    Ok((state, now_ms, encoding_version))
}
