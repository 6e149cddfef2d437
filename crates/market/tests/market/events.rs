//! The event stream.

use futures::StreamExt;
use reqwest::Response;

use crate::rig::{Rig, TOKEN};

/// Reads messages until one satisfies `wanted`; returns its id.
async fn read_until(response: Response, wanted: impl Fn(&str, &api::Event) -> bool) -> u64 {
    let mut stream = response.bytes_stream();
    let mut text = String::new();
    while let Some(piece) = stream.next().await {
        text.push_str(std::str::from_utf8(&piece.expect("the stream lasts")).expect("text"));
        while let Some(end) = text.find("\n\n") {
            let message: String = text.drain(..end + 2).collect();
            let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let (Some(id), Some(name), Some(data)) = (field("id:"), field("event:"), field("data:")) else {
                continue;
            };
            if wanted(name, &serde_json::from_str(data).expect("an event")) {
                return id.parse().expect("a sequence");
            }
        }
    }
    panic!("the stream ended");
}

#[tokio::test]
async fn listeners_see_jobs_workers_and_payments_and_go_on_where_they_were() {
    let rig = Rig::start().await;
    let client = rig.person(1).await;
    let listen = |seen: Option<u64>| {
        let mut request = rig.http.get(rig.url("/v1/events"));
        if let Some(seen) = seen {
            request = request.header("last-event-id", seen.to_string());
        }
        async { request.send().await.expect("an answer") }
    };
    let stream = listen(None).await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    client.deposit(3 * TOKEN).await;
    let seen = read_until(stream, |name, event| {
        name == "payment" && matches!(event, api::Event::Payment(p) if p.account == Some(client.account))
    })
    .await;

    // While nobody listens, something happens; whoever comes back sees it.
    let job = client.submit(&client.doubling(2).await).await;
    let worker = rig.person(2).await;
    worker.announce("a").await;
    let has_job = |_: &str, event: &api::Event| matches!(event, api::Event::Job(j) if j.id == job.id);
    let has_worker =
        |_: &str, event: &api::Event| matches!(event, api::Event::Worker(w) if w.id == worker.key.public());
    read_until(listen(Some(seen)).await, has_job).await;
    read_until(listen(Some(0)).await, has_worker).await;
}
