//! Edge: connections: counted before the handshake, every step with a time limit, and an end that
//! lets open requests finish.
//!
//! Our own loop on hyper, because `axum::serve` keeps a connection that never sends a header for ever.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use shared::WorkerId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::identity::Peer;
use super::v1;
use super::{State, ended};
use crate::catalog::observed::{self, Contact};
use crate::clock;
use crate::telemetry::Line;

/// Connections at once.
const MAX_CONNECTIONS: usize = 16_384;
/// Of one address: a site of workers may be behind one.
const MAX_PER_ADDRESS: u32 = 4096;
/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Time for a request's head, the time between two requests included.
const HEAD: Duration = Duration::from_secs(30);
/// Pause after an accept that failed (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// An agent's last contact is written at most this often while it stays connected.
const TOUCH_MS: i64 = 20_000;

/// Accepts until the end is asked for, then waits for open connections.
pub(crate) async fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    state: Arc<State>,
    mut ending: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let addresses = Addresses::default();
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
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let Some(place) = addresses.enter(address.ip()) else { continue };
        let held = Held { _slot: slot, _place: place };
        connections.spawn(connection(stream, address, acceptor.clone(), state.clone(), graceful.clone(), held));
    }
    connections.close();
    if let Some(graceful) = Arc::into_inner(graceful) {
        graceful.shutdown().await;
    }
    connections.wait().await;
}

struct Held {
    _slot: OwnedSemaphorePermit,
    _place: Place,
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    state: Arc<State>,
    graceful: Arc<GracefulShutdown>,
    held: Held,
) {
    // Answers are small and waited for.
    drop(stream.set_nodelay(true));
    let tls = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
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
    let presence = worker.map(|worker| Presence::new(state.clone(), worker));
    let app = v1::router(state.clone(), peer, address);
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
    if let Err(error) = served.await {
        tracing::debug!(%address, %error, "connection_broke");
    }
    if let Some(presence) = presence {
        presence.leave().await;
    }
    drop(held);
}

fn refused(state: &State, address: SocketAddr, why: &str) {
    let msg = format!("{address}: {why}");
    let line =
        Line { level: "warn", event: Some("handshake_refused"), maand: "serve", msg: Some(&msg), ..Line::default() };
    state.log.write(clock::now_ms(), &[line]);
}

/// How many connections each address has.
#[derive(Debug, Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// One connection of an address; given back when dropped.
struct Place {
    addresses: Addresses,
    address: IpAddr,
}

impl Addresses {
    fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(address).or_insert(0);
        if *count >= MAX_PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Place { addresses: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.address);
            }
        }
    }
}

/// Which agents are connected, how often, and when that was written last.
#[derive(Debug, Default)]
pub(crate) struct Connected(Mutex<HashMap<WorkerId, Present>>);

#[derive(Debug, Default)]
struct Present {
    connections: u32,
    written_ms: i64,
}

impl Connected {
    /// How many agents.
    pub(crate) fn count(&self) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().filter(|present| present.connections > 0).count()
    }

    /// Whether the contact is to be written now; counts as written if so.
    fn due(&self, worker: WorkerId, now_ms: i64) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let present = all.entry(worker).or_default();
        let due = now_ms - present.written_ms >= TOUCH_MS;
        if due {
            present.written_ms = now_ms;
        }
        due
    }
}

/// An agent was heard of; written seldom.
pub(crate) async fn touch(state: &State, worker: WorkerId) {
    let now_ms = clock::now_ms();
    if state.connected.due(worker, now_ms) {
        let contact = Contact { last_seen_ms: now_ms, connected: true };
        drop(state.database.write(move |c| observed::touch(c, worker, contact)).await);
    }
}

/// One connection of an agent.
struct Presence {
    state: Arc<State>,
    worker: WorkerId,
}

impl Presence {
    fn new(state: Arc<State>, worker: WorkerId) -> Self {
        {
            let mut all = state.connected.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(worker).or_default().connections += 1;
        }
        Self { state, worker }
    }

    /// The connection has ended; with the last one the agent counts as away at once.
    async fn leave(self) {
        let last = {
            let mut all = self.state.connected.0.lock().unwrap_or_else(PoisonError::into_inner);
            let present = all.entry(self.worker).or_default();
            present.connections = present.connections.saturating_sub(1);
            let last = present.connections == 0;
            // Only what was written as present needs to be taken back.
            let known = present.written_ms != 0;
            if last {
                all.remove(&self.worker);
            }
            last && known
        };
        if last {
            let contact = Contact { last_seen_ms: clock::now_ms(), connected: false };
            let worker = self.worker;
            drop(self.state.database.write(move |c| observed::touch(c, worker, contact)).await);
        }
    }
}
