//! How long work takes to reach a worker while ten thousand wait for it, each with a long poll of its own.
//!
//! A job of one unit is submitted, and the time taken until some worker's poll is answered with its lease: the submission's own
//! request, check of the program and synced write included. Then a job of many units, for which as many workers wake up.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use client::Client;
use protocol::SecretKey;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use crate::{load, market::Market, report::Report};

/// Workers that wait. Each takes a file descriptor of the market and one of the benchmark.
const WORKERS: u64 = 10_000;
/// Logins at once.
const LOGINS: usize = 16;
/// Connections opened at once: the system keeps about a thousand until they are accepted, and resets what comes beyond.
const CONNECTIONS: usize = 500;
/// Submissions that are measured.
const SUBMISSIONS: usize = 300;
/// Units of the larger job.
const MANY: u64 = 1_000;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures one unit at a time, then many at once.
pub async fn measure(report: &mut Report, plexus: &Path) -> Result<()> {
    let market = Market::start(plexus, &["--no-verifier", "--heartbeat-ms-max", "3600000"]).await?;
    let owner = Client::new(&market.address, SecretKey::from_seed([200; 32]))?;
    let mut request = load::prepare(&owner, 1, 1).await?;
    eprintln!("  {WORKERS} workers log in");
    let tokens = log_in(&market.address).await?;
    let (leased, mut leases) = mpsc::unbounded_channel();
    let mut waiting = JoinSet::new();
    let authority = market.address.trim_start_matches("http://").to_owned();
    let mut count = 0;
    for tokens in tokens.chunks(CONNECTIONS) {
        for token in tokens {
            waiting.spawn(wait(authority.clone(), token.clone(), leased.clone()));
        }
        count += tokens.len() as u64;
        all_wait(&market.address, count, &mut waiting).await?;
    }
    let mut times = Vec::new();
    for _ in 0..SUBMISSIONS {
        let began = Instant::now();
        owner.submit(&request).await?;
        let at = tokio::time::timeout(PATIENCE, leases.recv()).await.context("nobody got the unit")?;
        times.push(at.context("the workers are gone")?.duration_since(began));
    }
    let metric = format!("submission to lease, {WORKERS} waiting workers, one unit");
    add(report, &metric, times, true);
    all_wait(&market.address, WORKERS, &mut waiting).await?;
    request.units = MANY;
    let began = Instant::now();
    owner.submit(&request).await?;
    let mut times = Vec::new();
    for _ in 0..MANY {
        let at = tokio::time::timeout(PATIENCE, leases.recv()).await.context("not all units were leased")?;
        times.push(at.context("the workers are gone")?.duration_since(began));
    }
    add(
        report,
        &format!("submission to lease, {WORKERS} waiting workers, {MANY} units at once"),
        times,
        false,
    );
    market.stop().await
}

fn add(report: &mut Report, metric: &str, mut times: Vec<Duration>, aimed: bool) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    report.add(format!("{metric}, p50"), at(0.5), "ms", None);
    report.add(format!("{metric}, p99"), at(0.99), "ms", aimed.then_some("< 50"));
}

/// Announces all workers; their tokens.
async fn log_in(address: &str) -> Result<Vec<String>> {
    let places = Arc::new(Semaphore::new(LOGINS));
    let mut logins = JoinSet::new();
    for number in 0..WORKERS {
        let (places, address) = (places.clone(), address.to_owned());
        logins.spawn(async move {
            let _place = places.acquire().await?;
            let client = Client::new(&address, load::worker_key(number))?;
            let session = client.login().await?;
            client.announce(&load::announcement()).await?;
            Ok::<_, anyhow::Error>(session.token)
        });
    }
    let mut tokens = Vec::new();
    while let Some(token) = logins.join_next().await {
        tokens.push(token??);
    }
    Ok(tokens)
}

/// Returns once the market says that this many workers wait.
async fn all_wait(address: &str, workers: u64, waiting: &mut JoinSet<Result<()>>) -> Result<()> {
    let authority = address.trim_start_matches("http://");
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    let began = Instant::now();
    loop {
        if let Some(ended) = waiting.try_join_next() {
            ended??;
        }
        let mut stream = TcpStream::connect(authority).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let line = text.lines().find_map(|line| line.strip_prefix("plexus_lease_requests_waiting "));
        let count: u64 = line.context("no number of waiting requests")?.trim().parse()?;
        // Some are between two polls at any time.
        if count >= workers - workers / 100 {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            bail!("only {count} of {workers} workers wait");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One worker: polls for ever on a connection of its own, and tells when it got a lease. Ten thousand pooled clients would
/// measure the benchmark's memory.
async fn wait(authority: String, token: String, leased: mpsc::UnboundedSender<Instant>) -> Result<()> {
    let body = r#"{"instance":"bench","packages_max":1,"wait_ms":30000}"#;
    let request = format!(
        "POST /v1/leases HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(&authority).await?;
    stream.set_nodelay(true)?;
    let mut answer = Vec::new();
    loop {
        stream.write_all(request.as_bytes()).await?;
        let body = read_answer(&mut stream, &mut answer).await?;
        // No reader would mean that the measurement is over.
        if body.contains("\"generation\"") && leased.send(Instant::now()).is_err() {
            return Ok(());
        }
    }
}

/// Reads one answer with a `content-length`; its body.
async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<String> {
    buffer.clear();
    loop {
        let read = stream.read_buf(buffer).await?;
        if read == 0 {
            bail!("the market closed the connection");
        }
        let text = String::from_utf8_lossy(buffer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if !head.starts_with("HTTP/1.1 200") {
            bail!("a worker was refused: {text}");
        }
        let length = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .context("an answer without a length")?;
        if body.len() >= length.1.trim().parse()? {
            return Ok(body.to_owned());
        }
    }
}
