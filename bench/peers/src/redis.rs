//! Redis: a stream with a consumer group, `appendfsync always`.
//!
//! Redis writes and syncs its log once for all commands that one turn of its event loop took, before it answers any of them.
//! A settled entry is acknowledged and deleted in one pipeline, so that the stream stays as long as the queue.

use std::sync::Arc;

use anyhow::Result;
use redis::{IntoConnectionInfo as _, aio::MultiplexedConnection, streams::StreamReadReply};
use serde_json::Value;
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    Callers, Options, answer,
    load::{Load, Measured, Tally, job, run},
    server::{Absent, Server, command, find, first_line, folder, free_port},
};

const ABSENT: Absent =
    Absent { what: "redis-server", install: "install it: apt-get install redis-server (Debian), 7 or newer" };
const CALLERS: Callers = Callers { by_one: 64, by_hundred: 16 };

pub async fn measure(options: &Options) -> Result<Value> {
    let Some(program) = find(&["redis-server"]) else { return Err(ABSENT.into()) };
    let folder = folder(&options.data)?;
    let port = free_port()?;
    let mut server = command(&program, folder.path());
    server.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no", "--save", ""]);
    server.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(folder.path());
    let mut server = Server::start(server, folder.path())?;
    server.listens(port).await?;
    let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
    let address = format!("redis://127.0.0.1:{port}/").into_connection_info()?.set_tcp_settings(tcp);
    let client = redis::Client::open(address)?;
    let mut rates = Vec::new();
    for load in options.loads(&CALLERS) {
        rates.push((load, round(&server, &client, load).await?));
    }
    let line = first_line(&program, &["--version"])?;
    let version =
        line.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("unknown").to_owned();
    let how = "stream and consumer group, appendfsync always, pipelined";
    Ok(answer("Redis streams", &version, true, how, rates))
}

async fn connection(client: &redis::Client) -> Result<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

async fn round(server: &Server, client: &redis::Client, load: Load) -> Result<Measured> {
    let mut setup = connection(client).await?;
    let _: () = redis::cmd("DEL").arg("jobs").query_async(&mut setup).await?;
    let mut group = redis::cmd("XGROUP");
    group.arg("CREATE").arg("jobs").arg("workers").arg("$").arg("MKSTREAM");
    let _: () = group.query_async(&mut setup).await?;

    let tally = Tally::new(load);
    let begin = Arc::new(Barrier::new(load.callers + 1));
    let (mut producers, mut consumers) = (JoinSet::new(), JoinSet::new());
    for caller in 0..load.callers {
        let mut connected = connection(client).await?;
        let (counted, started) = (tally.clone(), begin.clone());
        producers.spawn(async move {
            let job = job();
            started.wait().await;
            while let Some(count) = counted.next() {
                let mut pipeline = redis::pipe();
                for _ in 0..count {
                    pipeline.cmd("XADD").arg("jobs").arg("*").arg("job").arg(&job).ignore();
                }
                let _: () = pipeline.query_async(&mut connected).await?;
            }
            Ok(())
        });
        if !load.consumed {
            continue;
        }
        let mut connected = connection(client).await?;
        let tally = tally.clone();
        consumers.spawn(async move {
            let mut take = redis::cmd("XREADGROUP");
            take.arg("GROUP").arg("workers").arg(format!("worker-{caller}")).arg("COUNT").arg(load.batch);
            take.arg("BLOCK").arg(200).arg("STREAMS").arg("jobs").arg(">");
            loop {
                let taken: Option<StreamReadReply> = take.query_async(&mut connected).await?;
                let ids: Vec<String> = taken
                    .into_iter()
                    .flat_map(|taken| taken.keys)
                    .flat_map(|stream| stream.ids)
                    .map(|entry| entry.id)
                    .collect();
                if ids.is_empty() {
                    continue;
                }
                let mut settle = redis::pipe();
                settle.cmd("XACK").arg("jobs").arg("workers").arg(&ids).ignore();
                settle.cmd("XDEL").arg("jobs").arg(&ids).ignore();
                let _: () = settle.query_async(&mut connected).await?;
                tally.settle(ids.len() as u64);
            }
        });
    }
    run(server, &tally, producers, consumers, &begin).await
}
