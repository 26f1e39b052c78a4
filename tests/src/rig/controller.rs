//! A controller for one agent, in the process of the rig: it speaks the wire's version 1 over real TLS, hands
//! out whatever desired state it is given, and keeps every report. What a real one stores and decides is
//! left out, so that an apply costs the agent's own time and no more.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent::config::Config;
use agent::identity::Identity;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use data_encoding::BASE64;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use shared::api::v1;
use shared::api::v1::desired::{DesiredState, Envelope, Fence};
use shared::api::v1::report::Report;
use shared::api::v1::want::{BundleAnswer, WantList};
use shared::{BlobDigest, BucketId, Bundle, BundleDigest, WorkerId, pack};
use tokio::sync::watch;

/// What the agent asks for is answered from here.
#[derive(Debug)]
struct Shared {
    desired: watch::Sender<Option<(Fence, Vec<u8>)>>,
    bundles: Mutex<HashMap<BundleDigest, Bundle>>,
    blobs: Mutex<HashMap<BlobDigest, Vec<u8>>>,
    reports: Mutex<Vec<Report>>,
    arrived: Condvar,
}

/// The controller; it goes with this.
#[derive(Debug)]
pub struct Controller {
    /// The one bucket.
    pub bucket: BucketId,
    /// The one worker.
    pub worker: WorkerId,
    url: String,
    key: String,
    certificate: String,
    authority: String,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Controller {
    /// Listens on a port of its own on loopback.
    pub fn start() -> Self {
        let (bucket, worker) = (BucketId::from_uuid(uuid::Uuid::new_v4()), WorkerId::from_uuid(uuid::Uuid::new_v4()));
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(authority, authority_key);
        let signed = |name: String| {
            let key = KeyPair::generate().unwrap();
            (CertificateParams::new(vec![name]).unwrap().signed_by(&key, &issuer).unwrap(), key)
        };
        let (server, server_key) = signed(shared::token::controller_name(bucket));
        let (client, client_key) = signed("agent".to_owned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![server.der().clone()], server_key.serialize_der().try_into().unwrap())
            .unwrap();
        let shared = Arc::new(Shared {
            desired: watch::Sender::new(None),
            bundles: Mutex::default(),
            blobs: Mutex::default(),
            reports: Mutex::default(),
            arrived: Condvar::new(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        runtime.spawn(accept(listener, tls, shared.clone()));
        let (key, certificate) = (client_key.serialize_pem(), client.pem());
        Self { bucket, worker, url, key, certificate, authority: authority_pem, shared, _runtime: runtime }
    }

    /// Makes an agent of it whose all is below `place`: settings, identity, root.
    pub fn enrol(&self, place: &Path) {
        let config = Config {
            controller: self.url.clone(),
            bucket_id: self.bucket,
            worker_id: self.worker,
            root: place.join("root"),
            state: place.join("state"),
            drift_check_seconds: Some(0),
            poll_interval_seconds: None,
            allow: None,
        };
        config.save(&place.join("agent.toml")).unwrap();
        Identity::new(&config.state, self.bucket).save(&self.key, &self.certificate, &self.authority).unwrap();
    }

    /// Has a bundle with its content to give.
    pub fn offer_bundle(&self, bundle: &Bundle, contents: impl IntoIterator<Item = Vec<u8>>) {
        lock(&self.shared.bundles).insert(bundle.digest(), bundle.clone());
        lock(&self.shared.blobs).extend(contents.into_iter().map(|content| (BlobDigest::of(&content), content)));
    }

    /// Says what is wanted from now on; `None` says nothing new to anybody.
    pub fn want(&self, desired: Option<&DesiredState>) {
        self.shared.desired.send_replace(desired.map(|state| (state.fence, serde_json::to_vec(state).unwrap())));
    }

    /// Forgets every report.
    pub fn forget_reports(&self) {
        lock(&self.shared.reports).clear();
    }

    /// Every report since then.
    pub fn reports(&self) -> Vec<Report> {
        lock(&self.shared.reports).clone()
    }

    /// Waits until `found` is true of a report that came after `from` others; returns at `end` at the latest, and
    /// whenever `give_up` says so.
    pub fn wait<T>(
        &self,
        end: Instant,
        mut found: impl FnMut(&[Report]) -> Option<T>,
        mut give_up: impl FnMut() -> bool,
    ) -> Option<T> {
        let mut reports = lock(&self.shared.reports);
        loop {
            if let Some(found) = found(&reports) {
                return Some(found);
            }
            if Instant::now() >= end || give_up() {
                return None;
            }
            let pause = Duration::from_millis(5);
            reports = self.shared.arrived.wait_timeout(reports, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, tls: rustls::ServerConfig, shared: Arc<Shared>) {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let app = axum::Router::new()
        .route(v1::DESIRED, get(desired))
        .route(&format!("{}/{{digest}}", v1::BUNDLES), get(bundle))
        .route(v1::PACKS, post(packs).layer(DefaultBodyLimit::max(v1::WANT_CAP)))
        .route(v1::REPORTS, post(report))
        .route(v1::LOGS, post(async || StatusCode::NO_CONTENT))
        .with_state(shared);
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, app) = (acceptor.clone(), app.clone());
        tokio::spawn(async move {
            drop(stream.set_nodelay(true));
            let Ok(tls) = acceptor.accept(stream).await else { return };
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new());
            // An agent that is killed breaks its connections: nothing to say about that.
            drop(http.serve_connection(TokioIo::new(tls), TowerToHyperService::new(app)).await);
        });
    }
}

async fn desired(State(shared): State<Arc<Shared>>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let after: Option<Fence> = query.get("after").and_then(|after| after.parse().ok());
    let wait = query.get("wait").and_then(|wait| wait.parse().ok()).unwrap_or(0);
    let mut news = shared.desired.subscribe();
    let newer = news.wait_for(|now| now.as_ref().is_some_and(|(fence, _)| after.is_none_or(|after| *fence > after)));
    match tokio::time::timeout(Duration::from_secs(wait), newer).await {
        Ok(Ok(now)) => {
            let payload = now.as_ref().map(|(_, payload)| BASE64.encode(payload)).unwrap_or_default();
            Json(Envelope { payload, signatures: Vec::new() }).into_response()
        }
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn bundle(
    State(shared): State<Arc<Shared>>,
    UrlPath(digest): UrlPath<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let bundles = lock(&shared.bundles);
    let of = |digest: &str| digest.parse::<BundleDigest>().ok().and_then(|digest| bundles.get(&digest));
    let base = query.get("base").and_then(|base| of(base));
    match (of(&digest), base) {
        (Some(bundle), Some(base)) => {
            Json(BundleAnswer::Diff { base: base.digest(), diff: bundle.diff(base) }).into_response()
        }
        (Some(bundle), None) => Json(BundleAnswer::Full(bundle.clone())).into_response(),
        (None, _) => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn packs(State(shared): State<Arc<Shared>>, Json(want): Json<WantList>) -> Response {
    let blobs = lock(&shared.blobs);
    let lengths = want.blobs.iter().map(|blob| Some((*blob, blobs.get(blob)?.len() as u64))).collect::<Option<_>>();
    let Some(lengths) = lengths else { return StatusCode::NOT_FOUND.into_response() };
    let mut out = Vec::new();
    match pack::write(&lengths, |blob| Ok(std::io::Cursor::new(blobs[blob].clone())), &mut out) {
        Ok(()) => out.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn report(State(shared): State<Arc<Shared>>, body: Bytes) -> StatusCode {
    let Ok(report) = serde_json::from_slice(&body) else { return StatusCode::BAD_REQUEST };
    lock(&shared.reports).push(report);
    shared.arrived.notify_all();
    StatusCode::NO_CONTENT
}
