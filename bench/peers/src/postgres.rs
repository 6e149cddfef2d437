//! PostgreSQL: a table that is leased from with `FOR UPDATE SKIP LOCKED`.
//!
//! Three transactions a batch: insert, take (which marks the rows as leased and commits, so that a worker may be gone for as
//! long as it likes without holding a transaction open), delete. Batches are one statement each.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use serde_json::Value;
use tokio::{sync::Barrier, task::JoinSet};
use tokio_postgres::{Client, NoTls};

use crate::{
    Callers, Options, answer,
    load::{Load, Measured, Tally, job, run},
    server::{Absent, Server, command, find, finish, first_line, folder, free_port},
};

const ABSENT: Absent = Absent {
    what: "PostgreSQL (initdb and postgres)",
    install: "install it: apt-get install postgresql (Debian), 13 or newer",
};
const CALLERS: Callers = Callers { by_one: 16, by_hundred: 8 };
/// Before an empty queue is asked again.
const EMPTY_PAUSE: Duration = Duration::from_millis(2);

const TABLE: &str = "DROP TABLE IF EXISTS jobs;
    CREATE TABLE jobs(id bigserial PRIMARY KEY, leased boolean NOT NULL DEFAULT false, body text NOT NULL)
        WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
    CREATE INDEX jobs_waiting ON jobs(id) WHERE NOT leased;
    CHECKPOINT";
const INSERT_ONE: &str = "INSERT INTO jobs(body) VALUES($1)";
const INSERT_MANY: &str = "INSERT INTO jobs(body) SELECT * FROM unnest($1::text[])";
const TAKE: &str = "WITH next AS
        (SELECT id FROM jobs WHERE NOT leased ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
    UPDATE jobs SET leased = true FROM next WHERE jobs.id = next.id RETURNING jobs.id, jobs.body";
const DELETE: &str = "DELETE FROM jobs WHERE id = ANY($1)";

pub async fn measure(options: &Options) -> Result<Value> {
    let Some(initdb) = program("initdb") else { return Err(ABSENT.into()) };
    let postgres = initdb.with_file_name("postgres");
    let folder = folder(&options.data)?;
    let data = folder.path().join("data");
    let mut init = command(&initdb, folder.path());
    init.args(["--username=bench", "--auth=trust", "--encoding=UTF8", "--locale=C", "-D"]).arg(&data);
    finish(&mut init)?;
    let port = free_port()?;
    let mut server = command(&postgres, folder.path());
    server.arg("-D").arg(&data);
    let port_setting = format!("port={port}");
    for setting in [
        port_setting.as_str(),
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "fsync=on",
        "synchronous_commit=on",
        "shared_buffers=512MB",
        "max_wal_size=4GB",
        "max_connections=300",
    ] {
        server.args(["-c", setting]);
    }
    let mut server = Server::start(server, folder.path())?;
    server.listens(port).await?;
    let url = format!("host=127.0.0.1 port={port} user=bench dbname=postgres");
    let mut rates = Vec::new();
    for load in options.loads(&CALLERS) {
        rates.push((load, round(&server, &url, load).await?));
    }
    let line = first_line(&postgres, &["--version"])?;
    let version = line.split_whitespace().nth(2).unwrap_or("unknown").to_owned();
    let how = "FOR UPDATE SKIP LOCKED leases: insert, take and commit, delete; synchronous_commit on";
    Ok(answer("PostgreSQL", &version, true, how, rates))
}

/// A program of PostgreSQL's: on the path, or the newest of those in Debian's folders.
fn program(name: &str) -> Option<PathBuf> {
    let debian = Path::new("/usr/lib/postgresql");
    let mut versions: Vec<PathBuf> = debian
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin").join(name))
        .collect();
    versions.retain(|file| file.is_file());
    versions.sort();
    versions.pop().or_else(|| find(&[name]))
}

async fn connect(url: &str) -> Result<Client> {
    let began = std::time::Instant::now();
    loop {
        match tokio_postgres::connect(url, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return Ok(client);
            }
            // It listens before it is ready.
            Err(_) if began.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn round(server: &Server, url: &str, load: Load) -> Result<Measured> {
    connect(url).await?.batch_execute(TABLE).await?;
    let tally = Tally::new(load);
    let begin = Arc::new(Barrier::new(load.callers + 1));
    let (mut producers, mut consumers) = (JoinSet::new(), JoinSet::new());
    for _ in 0..load.callers {
        let client = connect(url).await?;
        let (one, many) = (client.prepare(INSERT_ONE).await?, client.prepare(INSERT_MANY).await?);
        let (counted, started) = (tally.clone(), begin.clone());
        producers.spawn(async move {
            let job = job();
            started.wait().await;
            while let Some(count) = counted.next() {
                if load.batch == 1 {
                    client.execute(&one, &[&job]).await?;
                } else {
                    client.execute(&many, &[&vec![job.as_str(); count as usize]]).await?;
                }
            }
            Ok(())
        });
        if !load.consumed {
            continue;
        }
        let client = connect(url).await?;
        let (take, delete) = (client.prepare(TAKE).await?, client.prepare(DELETE).await?);
        let tally = tally.clone();
        consumers.spawn(async move {
            loop {
                let rows = client.query(&take, &[&(load.batch as i64)]).await?;
                if rows.is_empty() {
                    tokio::time::sleep(EMPTY_PAUSE).await;
                    continue;
                }
                let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
                client.execute(&delete, &[&ids]).await?;
                tally.settle(ids.len() as u64);
            }
        });
    }
    run(server, &tally, producers, consumers, &begin).await
}
