//! The event stream.

use std::{convert::Infallible, time::Duration};

use api::code;
use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream;

use super::{Problems, Shared};
use crate::{
    failure::Failure,
    live::{Listener, Message},
};

/// Silence after which a comment keeps the connection alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Watch jobs, workers and payments
///
/// Server-sent events: `id` is a journal sequence, `event` is `job`, `worker` or `payment`, `data` is an `Event`. A job
/// or worker is sent whole, at most four times a second; under load only the newest payments are sent, and
/// `GET /v1/payments` has them all. A client that comes back with `Last-Event-ID` gets what it missed, or everything live where
/// that is too long ago. A client that is too slow is cut off and comes back.
#[utoipa::path(get, path = "/v1/events", tag = "market", operation_id = "events",
    params(("last-event-id" = Option<String>, Header, description = "The last id seen")),
    responses((status = 200, body = api::Event, content_type = "text/event-stream"), Problems))]
pub async fn events(State(app): State<Shared>, headers: HeaderMap) -> Result<impl IntoResponse, Failure> {
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let listener = app.live.listen(&app.committer, seen).await.ok_or_else(|| {
        Failure::new(code::OVERLOADED, "too many listen already", "try again later, or ask for lists instead")
    })?;
    let (mut stop, mut standing) = (app.stop.clone(), app.committer.status().standing.subscribe());
    // Whoever listens comes back, and is shown what the new leader has.
    let ended = async move {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            _ = standing.wait_for(|standing| !standing.leads()) => {}
        }
    };
    let messages = stream::unfold(listener, |mut listener| async move {
        let message = next(&mut listener).await?;
        let event = Event::default().id(message.seq.to_string()).event(message.name).data(&*message.json);
        Some((Ok::<_, Infallible>(event), listener))
    });
    let messages = futures::StreamExt::take_until(messages, Box::pin(ended));
    Ok(Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

async fn next(listener: &mut Listener) -> Option<Message> {
    match listener.missed.pop_front() {
        Some(missed) => Some(missed),
        // One that is too far behind is cut off: it comes back with the last id it saw.
        None => listener.coming.recv().await.ok(),
    }
}
