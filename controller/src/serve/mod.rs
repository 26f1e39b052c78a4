//! Edge: the server that agents dial. It reads what workers should run, writes what they say, and
//! decides nothing: no hooks, no workspace.

mod bounds;
mod connection;
mod credentials;
mod database;
mod download;
mod error;
mod halt;
mod identity;
mod lock;
pub mod notify;
mod presence;
mod quiet;
mod rate;
mod stall;
mod v1;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::api::v1::desired::Fence;
use shared::{BlobDigest, BucketId, Code, Diagnostic, WorkerId};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bundle::packs::Packs;
use crate::bundle::store::Store;
use crate::catalog::{Catalog, authorities, observed, read};
use crate::clock;
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::paths::BucketDir;
use crate::secrets::{Known, SealingKey};
use crate::service::{Service, Socket};
use crate::telemetry::BucketLog;

use credentials::Credentials;

pub use lock::{ServeLock, holder};

/// How long open requests may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the catalog may take to answer that it is there.
const LOOK: Duration = Duration::from_secs(10);

/// The worker that a client's certificate (DER) is of, if it is an agent's of this bucket; its chain is not
/// looked at. What every connection goes through, for whoever tests it with certificates of their own.
#[doc(hidden)]
pub fn certified_worker(certificate: &[u8], bucket: BucketId) -> Option<shared::WorkerId> {
    match identity::Peer::of(Some(certificate), bucket) {
        identity::Peer::Agent { worker, .. } => Some(worker),
        identity::Peer::Nobody | identity::Peer::Stranger(_) => None,
    }
}

/// Everything that a request needs.
pub(crate) struct State {
    bucket_id: BucketId,
    database: database::Database,
    bundles: v1::bundles::Cache,
    packs: Packs,
    sealing: SealingKey,
    /// What is taken out of everything that agents say.
    known: Known,
    /// What is shown, trusted and signed with.
    credentials: credentials::Current,
    wakers: notify::Wakers,
    halt: halt::Halt,
    connected: presence::Connected,
    /// Output that agents send.
    output: rate::Rates<WorkerId>,
    refusals: quiet::Quiet,
    downloads: download::Downloads,
    rates: rate::Rates<WorkerId>,
    /// Of who shows no certificate.
    strangers: rate::Rates<IpAddr>,
    /// What each agent accepted, once it was compared with the catalog.
    compared: Mutex<HashMap<WorkerId, (Fence, BlobDigest)>>,
    /// How long an agent's certificate is good.
    agent_certs_ttl: Duration,
    log: Arc<BucketLog>,
    /// True once the end was asked for.
    ending: watch::Receiver<bool>,
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    end: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    state: Arc<State>,
    waking: notify::Waking,
    _lock: ServeLock,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Takes the bucket's serve lock, listens on `settings.listen` and serves until
    /// [`Server::shutdown`].
    pub async fn start(bucket: &BucketDir, settings: &Settings) -> Result<Self, Failure> {
        let lock = ServeLock::take(bucket)?;
        Self::start_locked(bucket, settings, lock).await
    }

    /// The same with a lock that the caller has.
    pub async fn start_locked(bucket: &BucketDir, settings: &Settings, lock: ServeLock) -> Result<Self, Failure> {
        Self::start_on(bucket, settings, lock, None).await
    }

    /// The same on a socket that listens already, where there is one.
    pub async fn start_on(
        bucket: &BucketDir,
        settings: &Settings,
        lock: ServeLock,
        socket: Option<Socket>,
    ) -> Result<Self, Failure> {
        let mut catalog = Catalog::open(&bucket.database())?;
        let bucket_id = catalog.read(|tx| read::bucket_id(tx))?;
        catalog.write(|tx| observed::disconnect_all(tx))?;
        let rotation = catalog.read(|tx| authorities::rotation(tx))?;
        let credentials = Credentials::load(bucket, bucket_id, rotation, clock::now_ms())?;
        let credentials = credentials::Current::new(credentials);
        let store = Arc::new(Store::open(bucket).map_err(|error| storage(&error))?);
        let packs = Packs::open(bucket, store).map_err(|error| storage(&error))?;
        let sealing = SealingKey::load(&bucket.kv_key()).map_err(|error| storage(&error))?;
        let listener = match socket {
            Some(socket) => socket.listener(),
            None => TcpListener::bind(settings.listen).await,
        };
        let listener = listener.map_err(|error| cannot_listen(settings, &error))?;
        let address = listener.local_addr().map_err(|error| cannot_listen(settings, &error))?;
        let (end, ending) = watch::channel(false);
        let wakers = notify::Wakers::default();
        let halt = halt::Halt::default();
        let log = Arc::new(BucketLog::new(bucket, settings.logs));
        // Before anybody is answered.
        halt.look(bucket, &mut catalog, &log)?;
        let look = (halt.clone(), log.clone(), credentials.clone(), bucket_id);
        let waking = notify::Waking::start(bucket, catalog.reopen()?, wakers.clone(), look)?;
        let state = Arc::new(State {
            bucket_id,
            database: database::Database::start(catalog)?,
            bundles: v1::bundles::Cache::default(),
            packs,
            sealing,
            known: Known::default(),
            credentials: credentials.clone(),
            wakers,
            halt,
            connected: presence::Connected::default(),
            rates: rate::Rates::default(),
            output: rate::Rates::default(),
            refusals: quiet::Quiet::default(),
            downloads: download::Downloads::default(),
            strangers: rate::Rates::default(),
            compared: Mutex::default(),
            agent_certs_ttl: settings.agent_certs_ttl,
            log,
            ending: ending.clone(),
        });
        let accepting = tokio::spawn(connection::accept(listener, state.clone(), ending));
        Ok(Self { address, end, accepting, state, waking, _lock: lock })
    }

    /// Where it listens; the real port when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Tells systemd what it does and that it gets on, for as long as it is polled.
    pub async fn tell(&self, service: &Service) {
        loop {
            // The threads behind every request: one that hangs holds up all agents.
            let answered = tokio::time::timeout(LOOK, self.state.database.read(|_| Ok(()))).await;
            let written = tokio::time::timeout(LOOK, self.state.database.write(|_| Ok(()))).await;
            if matches!((answered, written), (Ok(Ok(())), Ok(Ok(())))) {
                service.came_round("catalog", clock::instant());
            }
            service.came_round("wake", self.waking.came_round());
            let connected = self.state.connected.count();
            let halted = if self.state.halt.is_set() { "; nothing is handed out: run maand recover" } else { "" };
            service.status(&format!("listening on {}; {connected} agents connected{halted}", self.address));
            service.feed();
            tokio::time::sleep(service.pace()).await;
        }
    }

    /// Stops accepting, answers who waits, and lets open requests end, for a bounded time.
    pub async fn shutdown(self) {
        let _ = self.end.send(true);
        if tokio::time::timeout(DRAIN, self.accepting).await.is_err() {
            tracing::warn!("connections_cut");
        }
        drop(self.state.database.write(observed::disconnect_all).await);
        self.waking.stop();
    }
}

/// Until SIGTERM or SIGINT.
pub async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut term), Ok(mut int)) => {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        }
        // Without handlers the signals end the process by themselves.
        _ => std::future::pending().await,
    }
}

/// Until the end was asked for.
async fn ended(ending: &mut watch::Receiver<bool>) {
    // The sender is gone only when the server is.
    drop(ending.wait_for(|end| *end).await);
}

fn storage(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, Diagnostic::new(Code::Storage, "the bucket's store cannot be used").cause(error))
}

fn cannot_listen(settings: &Settings, error: &std::io::Error) -> Failure {
    let problem = Diagnostic::new(Code::Listen, format!("cannot listen on {}", settings.listen)).cause(error);
    Failure::new(Exit::Failed, problem.remedy("set listen in maand.conf, or end what uses that port"))
}
