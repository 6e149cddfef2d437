//! How the command speaks: lines, tables, colours on a terminal, logs.

use std::{
    io::{self, IsTerminal, Write},
    sync::LazyLock,
};

use comfy_table::{ContentArrangement, Table, presets};
use telemetry::{Format, Logs, Telemetry, Traces};

use crate::exit::Failure;

/// Prints a line to standard output. A reader that went away is no failure of ours.
pub fn out(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints a line to standard error.
pub fn err(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints a value as indented JSON.
pub fn json(value: &impl serde::Serialize) {
    out(&serde_json::to_string_pretty(value).expect("answers have string keys and finite numbers"));
}

/// Prints a value as one line of JSON.
pub fn json_line(value: &impl serde::Serialize) {
    out(&serde_json::to_string(value).expect("answers have string keys and finite numbers"));
}

/// Prints a table without borders.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.to_vec());
    table.add_rows(rows);
    for (number, line) in table.lines().enumerate() {
        // Cells are padded on both sides.
        let line = line.strip_prefix(' ').unwrap_or(&line).trim_end();
        // Coloured after the widths were counted.
        out(&if number == 0 { bold_out(line) } else { line.to_owned() });
    }
}

/// Prints names and values below each other.
pub fn facts(rows: &[(&str, String)]) {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        out(&format!("{}{}  {value}", bold_out(name), " ".repeat(width - name.len())));
    }
}

fn colours(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

static ERR_COLOURS: LazyLock<bool> = LazyLock::new(|| colours(io::stderr().is_terminal()));
static OUT_COLOURS: LazyLock<bool> = LazyLock::new(|| colours(io::stdout().is_terminal()));

fn paint(on: bool, style: &str, text: &str) -> String {
    if on { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
}

/// For standard error.
pub fn red(text: &str) -> String {
    paint(*ERR_COLOURS, "1;31", text)
}

/// For standard error.
pub fn bold(text: &str) -> String {
    paint(*ERR_COLOURS, "1", text)
}

/// For standard output.
fn bold_out(text: &str) -> String {
    paint(*OUT_COLOURS, "1", text)
}

/// What is logged, and how.
pub fn logs(filter: String, json: bool) -> Logs {
    Logs { filter, format: if json { Format::Json } else { Format::Text }, colours: *ERR_COLOURS }
}

/// Starts logging to standard error what `PLEXUS_LOG` asks for, or else `default`.
pub fn log(default: &str) {
    let json = std::env::var("PLEXUS_LOG_FORMAT").is_ok_and(|format| format == "json");
    let asked = std::env::var("PLEXUS_LOG").ok();
    let begin = |filter: &str| telemetry::start(&logs(filter.to_owned(), json), None);
    // Directives that are none are passed over: what a command does matters more than its log. Without spans there is nothing
    // to end.
    if asked.is_none_or(|filter| begin(&filter).is_err()) {
        let _ = begin(default);
    }
}

/// Starts logging, and sending spans where an endpoint is named.
pub fn tell(
    logs: &Logs,
    endpoint: Option<String>,
    ratio: f64,
    service: &'static str,
) -> Result<Telemetry, Failure> {
    let traces = endpoint.map(|endpoint| {
        let http = client::http_client(&endpoint)?;
        Ok::<_, Failure>(Traces { endpoint, ratio, service, http })
    });
    telemetry::start(logs, traces.transpose()?).map_err(|error| {
        Failure::new(error.to_string()).code("telemetry_invalid").fix("correct --log or --otlp-endpoint")
    })
}
