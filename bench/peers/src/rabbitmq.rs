//! RabbitMQ: a quorum queue, publisher confirms, manual acknowledgements.
//!
//! A quorum queue confirms when its log, shared by all queues of the node and synced a batch at a time, holds the message.
//! Consumers get messages ahead of their acknowledgements, as is usual, also where each is acknowledged for itself; the
//! protocol answers no acknowledgement, so a last question to the queue stands for them.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    Callers, Options, answer,
    load::{JOB_BYTES, Load, Measured, Tally, job, run},
    server::{Absent, Server, command, find, folder, free_port},
};

const ABSENT: Absent = Absent {
    what: "rabbitmq-server",
    install: "install it: apt-get install rabbitmq-server (Debian), 3.10 or newer",
};
const CALLERS: Callers = Callers { by_one: 64, by_hundred: 16 };
/// TCP connections of the producers, and of the consumers; channels share them.
const CONNECTIONS: usize = 4;
/// Messages that a consumer gets ahead, at least.
const PREFETCH: u64 = 32;
const QUEUE: &str = "jobs";
const DURABLE_DELIVERY: u8 = 2;

pub async fn measure(options: &Options) -> Result<Value> {
    // Debian's command in /usr/sbin changes to a user of its own; the script behind it does not.
    let scripts = ["/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"];
    let (Some(program), Some(epmd)) = (find(&scripts), find(&["epmd"])) else { return Err(ABSENT.into()) };
    let folder = folder(&options.data)?;
    let (port, names_port, nodes_port) = (free_port()?, free_port()?, free_port()?);
    // Erlang's name service would outlive the node that starts it; this one ends with us.
    let mut names = command(&epmd, folder.path());
    names.args(["-port", &names_port.to_string(), "-address", "127.0.0.1", "-relaxed_command_check"]);
    let names_folder = crate::server::folder(&options.data)?;
    let mut names = Server::start(names, names_folder.path())?;
    names.listens(names_port).await?;
    let mut node = command(&program, folder.path());
    let at = |name: &str| folder.path().join(name);
    node.env("RABBITMQ_NODENAME", "bench@localhost")
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", nodes_port.to_string())
        .env("RABBITMQ_MNESIA_BASE", at("data"))
        .env("RABBITMQ_LOG_BASE", at("log"))
        .env("RABBITMQ_CONFIG_FILE", at("rabbitmq"))
        .env("RABBITMQ_CONF_ENV_FILE", at("none"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
        .env("RABBITMQ_FEATURE_FLAGS_FILE", at("flags"))
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-start_epmd false")
        .env("ERL_EPMD_PORT", names_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1");
    let mut server = Server::start(node, folder.path())?;
    server.listens(port).await?;
    let url = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
    let mut rates = Vec::new();
    for load in options.loads(&CALLERS) {
        rates.push((load, round(&server, &url, load).await?));
    }
    let log = server.said();
    let how = "quorum queue on one node, publisher confirms, manual acknowledgements, prefetch";
    Ok(answer("RabbitMQ", version(&log), true, how, rates))
}

/// From what the node says of itself when it starts.
fn version(log: &str) -> &str {
    let mut words = log.split_whitespace().skip_while(|word| *word != "RabbitMQ").skip(1);
    words.next().unwrap_or("unknown")
}

async fn connections(url: &str) -> Result<Vec<Connection>> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::connect(url, ConnectionProperties::default()).await?);
    }
    Ok(connections)
}

async fn round(server: &Server, url: &str, load: Load) -> Result<Measured> {
    let (producing, consuming) = (connections(url).await?, connections(url).await?);
    let setup = producing[0].create_channel().await?;
    setup.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await?;
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    setup.queue_declare(QUEUE.into(), durable, quorum).await?;

    let tally = Tally::new(load);
    let begin = Arc::new(Barrier::new(load.callers + 1));
    let (mut producers, mut consumers) = (JoinSet::new(), JoinSet::new());
    for caller in 0..load.callers {
        let channel = producing[caller % CONNECTIONS].create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let (counted, started) = (tally.clone(), begin.clone());
        producers.spawn(async move {
            let job = job();
            let properties = BasicProperties::default().with_delivery_mode(DURABLE_DELIVERY);
            started.wait().await;
            while let Some(count) = counted.next() {
                let mut confirms = Vec::new();
                for _ in 0..count {
                    let options = BasicPublishOptions::default();
                    let publish = channel.basic_publish(
                        "".into(),
                        QUEUE.into(),
                        options,
                        job.as_bytes(),
                        properties.clone(),
                    );
                    confirms.push(publish.await?);
                }
                for confirm in confirms {
                    ensure!(confirm.await?.is_ack(), "a message was not taken");
                }
            }
            Ok(())
        });
        if !load.consumed {
            continue;
        }
        let channel = consuming[caller % CONNECTIONS].create_channel().await?;
        let prefetch = u16::try_from(PREFETCH.max(3 * load.batch))?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let messages = channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default()).await?;
        let tally = tally.clone();
        consumers.spawn(async move {
            let mut batches = messages.ready_chunks(load.batch as usize);
            while let Some(batch) = batches.next().await {
                let batch = batch.into_iter().collect::<Result<Vec<_>, _>>()?;
                ensure!(batch.iter().all(|message| message.data.len() == JOB_BYTES));
                let last = batch.last().context("a chunk is never empty")?;
                let multiple = batch.len() > 1;
                channel.basic_ack(last.delivery_tag, BasicAckOptions { multiple }).await?;
                let settled = batch.len() as u64;
                if tally.would_end(settled) {
                    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                    channel.queue_declare(QUEUE.into(), passive, FieldTable::default()).await?;
                }
                tally.settle(settled);
            }
            Ok(())
        });
    }
    run(server, &tally, producers, consumers, &begin).await
}
