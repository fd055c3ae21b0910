//! Connections of the control port: accepted, secured, served, each within bounds of number, time and size.
//!
//! What is asked and answered is in `routes`. Nothing here knows of orders.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at a time; more wait in the kernel's queue. The operator needs one.
const CONNECTIONS: usize = 32;
/// A peer has this long to finish its handshake, and to send the headers of a request.
const PATIENCE: Duration = Duration::from_secs(5);
/// A connection may last this long, whatever happens on it.
const LIFE: Duration = Duration::from_secs(60);
/// What is being answered when the port closes has this long.
const LAST_ANSWER: Duration = Duration::from_secs(2);
/// All headers of a request together, in bytes and in number. A token has one to two thousand bytes.
const HEADER_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
/// Wait after a connection that could not be accepted: mostly no file descriptor is left.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// How connections are secured.
#[derive(Clone)]
pub(super) enum Security {
    /// Not at all.
    Plain,
    /// By TLS.
    Tls(TlsAcceptor),
}

/// Serves until cancelled; connections that are open then have a moment to end.
pub(super) async fn serve(listener: TcpListener, security: Security, router: Router, cancel: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
            () = cancel.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (security, router, cancel) = (security.clone(), router.clone(), cancel.clone());
                connections.spawn(async move {
                    connection(stream, security, router, cancel).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection on the control port");
                sleep(AFTER_ERROR).await;
            }
        }
    }
    drop(listener);
    let _ = timeout(LAST_ANSWER * 2, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection(stream: TcpStream, security: Security, router: Router, cancel: CancellationToken) {
    match security {
        Security::Plain => answer(stream, router, cancel).await,
        Security::Tls(acceptor) => match timeout(PATIENCE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => answer(stream, router, cancel).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS on the control port"),
            Err(_) => tracing::debug!("a handshake on the control port took too long"),
        },
    }
}

async fn answer<S>(stream: S, router: Router, cancel: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = sleep(LIFE) => Ok(()),
        () = cancel.cancelled() => {
            served.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the control port ended badly");
    }
}
