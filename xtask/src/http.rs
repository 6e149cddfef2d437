//! `GET` of a JSON document from a market on this machine. Nothing more: no TLS, no redirects, no writes.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Asks `http://127.0.0.1:{port}{path}`.
pub fn get(port: u16, path: &str) -> Result<Value> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .with_context(|| format!("failed to connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).context("failed to set a timeout")?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: application/json\r\nconnection: close\r\n\r\n"
    )
    .with_context(|| format!("failed to ask for {path}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("failed to read the answer to {path}"))?;
    let (status, body) =
        parse(&answer).with_context(|| format!("failed to understand the answer to {path}"))?;
    if status != 200 {
        bail!("{path} answered {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).with_context(|| format!("failed to parse the answer to {path}"))
}

/// Status and body of an answer that ended with its connection.
fn parse(answer: &[u8]) -> Result<(u16, Vec<u8>)> {
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no end of headers")?;
    let head = std::str::from_utf8(&answer[..split]).context("headers are not text")?;
    let body = &answer[split + 4..];
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?;
    let status = status.parse().context("status is not a number")?;
    let chunked = lines.any(|line| {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked")
    });
    Ok((status, if chunked { joined_chunks(body)? } else { body.to_vec() }))
}

fn joined_chunks(mut body: &[u8]) -> Result<Vec<u8>> {
    let mut joined = Vec::new();
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n").context("a chunk has no size")?;
        let size = std::str::from_utf8(&body[..end]).context("a chunk's size is not text")?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
            .context("a chunk's size is not a number")?;
        body = &body[end + 2..];
        if size == 0 {
            return Ok(joined);
        }
        joined.extend_from_slice(body.get(..size).context("a chunk is cut off")?);
        body = body.get(size + 2..).context("a chunk is cut off")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_plain_and_chunked() {
        let check = |answer: &str, expected: (u16, &str)| {
            let (status, body) = parse(answer.as_bytes()).unwrap();
            assert_eq!((status, std::str::from_utf8(&body).unwrap()), expected);
        };
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", (200, "{}"));
        check("HTTP/1.1 404 Not Found\r\n\r\n", (404, ""));
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;a=b\r\n}\r\n0\r\n\r\n",
            (200, "{}"),
        );
    }

    #[test]
    fn answers_that_are_cut_off_are_errors() {
        for answer in
            ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"]
        {
            assert!(parse(answer.as_bytes()).is_err(), "{answer:?}");
        }
    }
}
