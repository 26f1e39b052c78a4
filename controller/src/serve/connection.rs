//! Edge: connections: counted before the handshake, every step with a time limit, and an end that
//! lets open requests finish.
//!
//! Our own loop on hyper, because `axum::serve` keeps a connection that never sends a header for ever.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::bounds::{Bounds, Limits, Place};
use super::identity::Peer;
use super::presence::Presence;
use super::stall::Stall;
use super::v1;
use super::{State, ended};
use crate::clock;
use crate::telemetry::Line;

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Time for a request's head, the time between two requests included.
const HEAD: Duration = Duration::from_secs(30);
/// Time for everything on a connection without an agent's certificate: one enrolment.
const STRANGER: Duration = Duration::from_secs(60);
/// Longest time for which the other side may take none of an answer.
const STALL: Duration = Duration::from_secs(60);
/// Pause after an accept that failed (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the end is asked for, then waits for open connections.
pub(crate) async fn accept(listener: TcpListener, state: Arc<State>, mut ending: watch::Receiver<bool>) {
    let bounds = Bounds::new(Limits::of(descriptors()));
    let graceful = Arc::new(GracefulShutdown::new());
    let connections = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ended(&mut ending) => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept_failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A socket of both families shows IPv4 as IPv6.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        // Over the bound a connection is closed at once: its agent comes back later.
        match bounds.enter(address.ip()) {
            Some(place) => {
                connections.spawn(connection(stream, address, state.clone(), graceful.clone(), place));
            }
            None => refused(&state, address, "there are too many connections"),
        }
    }
    connections.close();
    if let Some(graceful) = Arc::into_inner(graceful) {
        graceful.shutdown().await;
    }
    connections.wait().await;
}

/// As many descriptors as the process may have; asks for all that it is allowed.
fn descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }).is_ok() {
        return now.maximum.unwrap_or(u64::MAX);
    }
    now.current.unwrap_or(u64::MAX)
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    state: Arc<State>,
    graceful: Arc<GracefulShutdown>,
    mut place: Place,
) {
    // Answers are small and waited for.
    drop(stream.set_nodelay(true));
    let credentials = state.credentials.get();
    let acceptor = TlsAcceptor::from(credentials.tls.clone());
    let tls = match tokio::time::timeout(HANDSHAKE, acceptor.accept(Stall::new(stream, STALL))).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return refused(&state, address, &error.to_string()),
        Err(_) => return refused(&state, address, "no handshake within 5 s"),
    };
    let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
    let peer = Peer::of(certificate.as_deref(), state.bucket_id);
    let worker = match &peer {
        Peer::Agent { worker, .. } => Some(*worker),
        _ => None,
    };
    let displaced = worker.map(|worker| place.is_agent(worker));
    if displaced.is_none() && !place.is_stranger() {
        return refused(&state, address, "there are too many connections without an agent's certificate");
    }
    let presence = worker.map(|worker| Presence::new(state.clone(), worker));
    let app = v1::router(state.clone(), peer, address, credentials);
    let service = TowerToHyperService::new(
        app.into_service()
            .map_request(|request: hyper::Request<hyper::body::Incoming>| request.map(axum::body::Body::new)),
    );
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(32).max_buf_size(16 << 10);
    let serving = http.serve_connection(TokioIo::new(tls), service);
    let served = graceful.watcher().watch(serving);
    // The watcher must not keep the shutdown from being the last holder.
    drop(graceful);
    let too_long = async {
        match &displaced {
            Some(displaced) => displaced.notified().await,
            None => tokio::time::sleep(STRANGER).await,
        }
    };
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!(%address, %error, "connection_broke");
        },
        () = too_long => tracing::debug!(%address, "connection_displaced"),
    }
    if let Some(presence) = presence {
        presence.leave().await;
    }
    drop(place);
}

fn refused(state: &State, address: SocketAddr, why: &str) {
    let now_ms = clock::now_ms();
    let Some(left_out) = state.refusals.may_say(address.ip(), clock::instant()) else { return };
    let msg = format!("{address}: {why}{}", super::quiet::left_out(left_out));
    let line =
        Line { level: "warn", event: Some("handshake_refused"), maand: "serve", msg: Some(&msg), ..Line::default() };
    state.log.write(now_ms, &[line]);
}
