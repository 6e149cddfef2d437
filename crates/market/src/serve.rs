//! Serves the router: HTTP/1.1 over TCP or TLS, with bounds on what one connection, and all of them together, may hold.
//!
//! A connection that sends no whole request head for [`HEAD_TIME_MAX`] is closed, be it slow or idle. An answer may take as long
//! as it likes: requests for work and the event stream are meant to. How long a body may take is bounded where it is read.

use std::{io, net::SocketAddr, time::Duration};

use axum::Router;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tower_service::Service;

use crate::http::entry::Peer;

/// Connections at once; more wait to be accepted. Every parked request for work and every listener has one.
const CONNECTIONS_MAX: usize = 20 * 1024;
/// Between two requests of a connection, the head of the second included. Longer than the 90 s after which common clients give
/// an idle connection up, so that none is closed under a request that was just sent.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(120);
/// How long a TLS handshake may take.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// The answer to a client that speaks HTTP where TLS is spoken.
const WITHOUT_TLS: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\
    content-length: 52\r\n\r\nthis market speaks TLS: begin its address with https";
/// After the system had no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Serves until `stop` turns true and what was begun is answered. Dropping it closes every connection.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    head_time_max: Duration,
    stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut stopping = stop.clone();
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => break,
            // A handler that panicked took its connection with it, and nothing else.
            Some(_) = connections.join_next() => {}
            (stream, peer) = accept(&listener), if connections.len() < CONNECTIONS_MAX => {
                let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
                connections.spawn(meet(stream, Peer(peer), tls, router, head_time_max, stop));
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if ended_before(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether only the connection failed, and not accepting.
fn ended_before(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Shakes hands where TLS is spoken, and converses.
async fn meet(
    stream: TcpStream,
    peer: Peer,
    tls: Option<TlsAcceptor>,
    router: Router,
    head_time_max: Duration,
    mut stop: watch::Receiver<bool>,
) {
    // Small answers must not wait for more; without it they are only slower.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return converse(stream, peer, router, head_time_max, stop).await };
    let secured = tokio::select! {
        secured = tokio::time::timeout(HANDSHAKE_TIME_MAX, shake_hands(stream, tls)) => secured,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    match secured {
        Ok(Ok(stream)) => converse(stream, peer, router, head_time_max, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, peer = %peer.0, "no TLS came about"),
        Err(_) => tracing::debug!(peer = %peer.0, "no TLS came about in time"),
    }
}

async fn shake_hands(mut stream: TcpStream, tls: TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    // A TLS handshake begins with 22; whoever begins with a letter speaks HTTP, and hears in HTTP what to do.
    if stream.peek(&mut first).await? == 1 && first[0].is_ascii_alphabetic() {
        stream.write_all(WITHOUT_TLS.as_bytes()).await?;
        stream.shutdown().await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a client that speaks HTTP without TLS"));
    }
    tls.accept(stream).await
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    head_time_max: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let answer = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time_max)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    let stopping = async {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopping => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection broke off");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::AsyncReadExt;

    use super::*;

    const HEAD_TIME: Duration = Duration::from_millis(300);

    /// What comes back of these bytes until the server closes the connection.
    async fn answer(address: std::net::SocketAddr, sent: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(sent).await.expect("sent");
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await;
        read.expect("it is closed").expect("text");
        answer
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_cut_off_and_a_slow_answer_is_not() {
        let (began, mut begun) = watch::channel(0);
        let slow = async move || {
            began.send_modify(|count| *count += 1);
            tokio::time::sleep(3 * HEAD_TIME).await;
            "slow"
        };
        let router = Router::new().route("/slow", get(slow));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, router, None, HEAD_TIME, stopped));
        let unfinished = answer(address, b"GET /slow HTTP/1.1\r\nhost: a\r\n").await;
        assert!(!unfinished.contains("slow"), "{unfinished}");
        // Its connection is idle afterwards, and closed too.
        let whole = answer(address, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(whole.ends_with("slow"), "{whole}");
        // What was begun is answered when it stops.
        let last = tokio::spawn(answer(address, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n"));
        begun.wait_for(|count| *count == 2).await.expect("it serves");
        stop.send_replace(true);
        server.await.expect("it ends");
        assert!(last.await.expect("answered").ends_with("slow"));
    }
}
