//! The market's server-sent events.

use api::Event;
use futures::{Stream, StreamExt, stream};
use reqwest::header;

use crate::{Client, Error, transport::Call};

/// One event with the journal sequence it followed from.
#[derive(Clone, Debug)]
pub struct SequencedEvent {
    /// Pass the last one seen to [`Client::events`] to go on after it.
    pub seq: u64,
    /// What changed.
    pub event: Event,
}

/// Longest message that is kept while its end has not arrived.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Client {
    /// What changes from now on, or from after `seen`. The stream ends when the connection does; the caller connects again.
    pub async fn events(
        &self,
        seen: Option<u64>,
    ) -> Result<impl Stream<Item = Result<SequencedEvent, Error>> + Send + use<>, Error> {
        let mut call =
            Call::get("/v1/events").header(header::ACCEPT.as_str(), "text/event-stream").timeout(None);
        if let Some(seen) = seen {
            call = call.header("last-event-id", seen.to_string());
        }
        let response = self.send(&call).await?;
        let market = self.address().to_owned();
        let mut parser = Parser::default();
        let events = response.bytes_stream().map(move |chunk| match chunk {
            Ok(chunk) => parser.push(&chunk).into_iter().map(Ok).collect(),
            Err(source) => vec![Err(Error::Unreachable { market: market.clone(), source })],
        });
        Ok(events.flat_map(stream::iter))
    }
}

/// Cuts a byte stream into events. Fields and line ends as in the HTML standard; unknown events and comments are skipped, so
/// that a newer market can say more.
#[derive(Default)]
struct Parser {
    buffer: Vec<u8>,
    id: u64,
    data: String,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) -> Vec<SequencedEvent> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(length) = self.buffer[start..].iter().position(|b| *b == b'\n') {
            let line = String::from_utf8_lossy(&self.buffer[start..start + length]).into_owned();
            start += length + 1;
            events.extend(self.line(line.strip_suffix('\r').unwrap_or(&line)));
        }
        self.buffer.drain(..start);
        if self.buffer.len() + self.data.len() > MESSAGE_BYTES_MAX {
            self.buffer.clear();
            self.data.clear();
        }
        events
    }

    fn line(&mut self, line: &str) -> Option<SequencedEvent> {
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            let event = serde_json::from_str(&data).ok()?;
            return Some(SequencedEvent { seq: self.id, event });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = value.parse().unwrap_or(self.id),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_wherever_the_network_cut_them() {
        let text = ": hello\r\n\r\nid: 7\nevent: payment\ndata: {\"type\":\"payment\",\"seq\":\"7\",\n\
                    data: \"at\":\"2026-11-20T12:00:00.000Z\",\"kind\":\"deposit\",\"amount\":\"5\"}\n\n\
                    id: 8\nevent: news\ndata: {\"type\":\"news\"}\n\nid: 9\nevent: payment\n\
                    data: {\"type\":\"payment\",\"seq\":\"9\",\"at\":\"\",\"kind\":\"burn\",\"amount\":\"1\"}\n\n";
        for size in [1, 3, 50, 1000] {
            let mut parser = Parser::default();
            let seen: Vec<u64> =
                text.as_bytes().chunks(size).flat_map(|chunk| parser.push(chunk)).map(|e| e.seq).collect();
            assert_eq!(seen, [7, 9], "cut every {size} bytes");
        }
    }
}
