//! Edge: the connections of the hooks' API: counted, with a time limit for every head, ended with the
//! listener. Our own loop on hyper, because `axum::serve` keeps a connection that never sends a head.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

/// Time for a request's head, and between two of a connection.
const HEAD: Duration = Duration::from_secs(30);
/// Connections at once.
const MAX_CONNECTIONS: usize = 1024;
/// Pause after an accept that failed (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until it is aborted.
pub(super) async fn accept(listener: TcpListener, app: Router) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = Connections::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "hook_api_accept_failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Over the bound a connection is closed at once.
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        drop(stream.set_nodelay(true));
        let service = TowerToHyperService::new(
            app.clone().map_request(|request: hyper::Request<hyper::body::Incoming>| request.map(Body::new)),
        );
        let task = tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(64).max_buf_size(16 << 10);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "hook_api_connection_broke");
            }
            drop(slot);
        });
        connections.add(task.abort_handle());
    }
}

/// Connections that end with the listener.
#[derive(Default)]
struct Connections(Mutex<Vec<tokio::task::AbortHandle>>);

impl Connections {
    fn add(&self, handle: tokio::task::AbortHandle) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| !other.is_finished());
        all.push(handle);
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(tokio::task::AbortHandle::abort);
    }
}
