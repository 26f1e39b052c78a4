//! Edge: the API that hooks call while they run: plain HTTP on a loopback port of its own for each command.
//! Whoever speaks is known by a token that is made for one run of one hook for one allocation and ends
//! with it; the headers of older hooks are compared with it and believed in nothing.

mod answer;
mod body;
mod kv;
mod listen;
pub mod openapi;
mod routes;
mod semaphore;
mod work;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::{MethodFilter, on};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use shared::{AllocId, Host, JobName, Name, RunId, WorkerId};
use tokio::net::TcpListener;

use self::answer::{Answer, Refusal};
use self::routes::{Endpoint, ROUTES};
use self::semaphore::Semaphores;
use super::overlay::Overlay;
use super::sink::{Sink, Who};
use super::values::Values;
use crate::model::HookEvent;
use crate::model::kv::Access;
use crate::secrets;

pub use self::work::{Answering, Done, NoWorkers, NotDone, Order, Work, Workers};

/// Longest body, bytes.
const MAX_BODY: usize = 1 << 20;
/// Time for a request's body.
const BODY: Duration = Duration::from_secs(10);
/// Refused requests of one process that are logged.
const MAX_WARNINGS: u32 = 100;

/// A hook of another job that demands the one that runs.
#[derive(Debug)]
pub(super) struct Demanding {
    pub(super) job: JobName,
    pub(super) hook: Name,
    /// As its manifest has it.
    pub(super) config: serde_json::Map<String, serde_json::Value>,
}

/// One run of one hook for one allocation.
#[derive(Debug)]
pub(super) struct Invocation {
    /// Counts within the command.
    pub(super) number: u64,
    pub(super) alloc_id: AllocId,
    pub(super) job: JobName,
    pub(super) host: Host,
    pub(super) event: HookEvent,
    pub(super) hook: Name,
    /// Jobs that a hook of its job demands something of.
    pub(super) upstream: Arc<BTreeSet<JobName>>,
    /// Hooks of other jobs that demand this one.
    pub(super) demands: Arc<Vec<Demanding>>,
    /// Workers that have an allocation of the job.
    pub(super) workers: Arc<Vec<(Host, WorkerId)>>,
    /// Where its writes go.
    pub(super) overlay: Arc<Overlay>,
    /// Requests that were refused.
    pub(super) refused: AtomicU32,
}

impl Invocation {
    fn access(&self) -> Access<'_> {
        Access { job: &self.job, host: &self.host, upstream: &self.upstream }
    }

    pub(super) fn who(&self) -> Who<'_> {
        Who { job: &self.job, host: &self.host, hook: &self.hook, event: self.event }
    }
}

/// What all requests share.
#[derive(Debug)]
pub(super) struct Shared {
    /// By the digest of their tokens.
    invocations: Mutex<HashMap<[u8; 32], Arc<Invocation>>>,
    next: AtomicU64,
    semaphores: Semaphores,
    values: Arc<Values>,
    workers: Arc<dyn Workers>,
    sink: Arc<dyn Sink>,
    run: RunId,
    /// Requests of nobody that were refused.
    refused: AtomicU32,
}

impl Shared {
    /// A refusal for the logs, as long as there are not too many.
    fn warn(&self, invocation: Option<&Invocation>, message: &str) {
        let counter = invocation.map_or(&self.refused, |invocation| &invocation.refused);
        let message = match counter.fetch_add(1, Ordering::Relaxed) {
            0..MAX_WARNINGS => message,
            MAX_WARNINGS => "more requests are refused, which is not logged any more",
            _ => return,
        };
        self.sink.warning(invocation.map(Invocation::who).as_ref(), message);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Invocation>>> {
        self.invocations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The API of one command, while it lasts.
#[derive(Debug)]
pub(super) struct Api {
    shared: Arc<Shared>,
    url: String,
    accepting: tokio::task::AbortHandle,
}

/// The right to speak, which ends with this.
#[derive(Debug)]
pub(super) struct Pass {
    shared: Arc<Shared>,
    pub(super) invocation: Arc<Invocation>,
    pub(super) token: String,
}

impl Api {
    /// Listens on a port that is free. To be called on the runtime that is to serve.
    pub(super) async fn start(
        values: Arc<Values>,
        workers: Arc<dyn Workers>,
        sink: Arc<dyn Sink>,
        run: RunId,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            invocations: Mutex::default(),
            next: AtomicU64::new(1),
            semaphores: Semaphores::default(),
            values,
            workers,
            sink,
            run,
            refused: AtomicU32::new(0),
        });
        let accepting = tokio::spawn(listen::accept(listener, router(&shared))).abort_handle();
        Ok(Self { shared, url, accepting })
    }

    /// The base URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Lets one run speak; `make` is given its number.
    pub(super) fn admit(&self, make: impl FnOnce(u64) -> Invocation) -> Result<Pass, secrets::Error> {
        let mut bytes = zeroize::Zeroizing::new([0; 32]);
        secrets::random(&mut *bytes)?;
        let token = data_encoding::BASE64URL_NOPAD.encode(&*bytes);
        let invocation = Arc::new(make(self.shared.next.fetch_add(1, Ordering::Relaxed)));
        self.shared.lock().insert(digest(&token), invocation.clone());
        Ok(Pass { shared: self.shared.clone(), invocation, token })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Pass {
    /// The process has ended: its token is worth nothing, and what it held is given back. The names of
    /// the semaphores that it had not given back itself.
    pub(super) fn end(self) -> Vec<String> {
        self.revoke()
    }

    fn revoke(&self) -> Vec<String> {
        self.shared.lock().remove(&digest(&self.token));
        self.shared.semaphores.release_all(self.invocation.number)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        drop(self.revoke());
    }
}

/// Only digests are kept and compared: how long a look-up takes tells nothing of a token.
fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Who asks, and what it may be served from.
#[derive(Debug, Clone)]
struct Caller {
    shared: Arc<Shared>,
    invocation: Arc<Invocation>,
}

impl Caller {
    fn values(&self) -> &Values {
        &self.shared.values
    }

    fn overlay(&self) -> &Overlay {
        &self.invocation.overlay
    }

    /// Whether its run still lasts.
    fn is_admitted(&self) -> bool {
        self.shared.lock().values().any(|other| other.number == self.invocation.number)
    }
}

fn router(shared: &Arc<Shared>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let (shared, endpoint) = (shared.clone(), route.endpoint);
        let method = match route.method {
            "GET" => MethodFilter::GET,
            "PUT" => MethodFilter::PUT,
            "DELETE" => MethodFilter::DELETE,
            _ => MethodFilter::POST,
        };
        let handler = move |request: Request| {
            let shared = shared.clone();
            async move { serve(&shared, endpoint, request).await }
        };
        router = router.route(route.path, on(method, handler));
    }
    router.fallback(|| async {
        let paths: BTreeSet<&str> = ROUTES.iter().map(|route| route.path).collect();
        let paths = paths.into_iter().collect::<Vec<_>>().join(", ");
        Refusal::new(StatusCode::NOT_FOUND, format!("there is no such path: {paths}")).answer()
    })
}

async fn serve(shared: &Arc<Shared>, endpoint: Endpoint, request: Request) -> Response<Body> {
    let caller = match identify(shared, request.headers()) {
        Ok(caller) => caller,
        Err(refusal) => {
            shared.warn(None, &format!("{} {}: {}", request.method(), request.uri().path(), refusal.message));
            return refusal.answer();
        }
    };
    let what = format!("{} {}", request.method(), request.uri().path());
    match answer(caller.clone(), endpoint, request).await {
        Ok(response) => response,
        Err(refusal) => {
            // A key that is not there is an answer like others.
            if refusal.status != StatusCode::NOT_FOUND {
                let message = format!("{what}: {} {}", refusal.status.as_u16(), refusal.message);
                shared.warn(Some(&caller.invocation), &message);
            }
            refusal.answer()
        }
    }
}

/// The run whose token it is.
fn identify(shared: &Arc<Shared>, headers: &HeaderMap) -> Result<Caller, Refusal> {
    let refuse = |message: &str| Err(Refusal::new(StatusCode::UNAUTHORIZED, message));
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("").trim());
    // A page in a browser cannot make this port its own by a name that it owns.
    let host = text("host").unwrap_or("");
    if !["127.0.0.1", "localhost"].contains(&host.rsplit_once(':').map_or(host, |(name, _)| name)) {
        return refuse("the Host header is not 127.0.0.1");
    }
    let given = text(header::AUTHORIZATION.as_str());
    let Some(token) = given.and_then(|value| value.strip_prefix("Bearer ")) else {
        return refuse("there is no token: send Authorization: Bearer with what HOOK_API_TOKEN has (the SDK does)");
    };
    let Some(invocation) = shared.lock().get(&digest(token.trim())).cloned() else {
        return refuse("this token is unknown: it is good while its hook runs, and for this command alone");
    };
    let alloc_id = invocation.alloc_id.to_string();
    let older = [
        ("X-ALLOCATION-ID", alloc_id.as_str()),
        ("EVENT", invocation.event.word()),
        ("COMMAND", invocation.hook.as_str()),
    ];
    for (name, own) in older {
        if text(name).is_some_and(|given| given != own) {
            return refuse(&format!("the header {name} does not agree with the token, which is of {own}"));
        }
    }
    Ok(Caller { shared: shared.clone(), invocation })
}

async fn answer(caller: Caller, endpoint: Endpoint, request: Request) -> Answer {
    match endpoint {
        Endpoint::KvGet => kv::get(caller, body(request).await?).await,
        Endpoint::KvPut => kv::put(caller, body(request).await?).await,
        Endpoint::KvDelete => kv::delete(caller, body(request).await?).await,
        Endpoint::KvKeys => kv::keys(caller, body(request).await?).await,
        Endpoint::SecretPut => kv::put_secret(caller, secret(body(request).await)?).await,
        Endpoint::SecretDelete => kv::delete_secret(caller, body(request).await?).await,
        Endpoint::Demands => kv::demands(&caller),
        Endpoint::Acquire => work::acquire(caller, body(request).await?).await,
        Endpoint::Release => work::release(&caller, &body(request).await?),
        Endpoint::Status => work::status(&caller, &body(request).await?),
        Endpoint::Make => work::make(caller, body(request).await?).await,
        Endpoint::Script => work::script(caller, body(request).await?).await,
    }
}

/// The parameters of a request: its JSON body, or for GET and DELETE its query.
async fn body<T: DeserializeOwned>(request: Request) -> Result<T, Refusal> {
    let from_query = matches!(request.method().as_str(), "GET" | "HEAD" | "DELETE");
    let (parts, content) = request.into_parts();
    let bytes = match tokio::time::timeout(BODY, axum::body::to_bytes(content, MAX_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let message = "the body is longer than 1 MiB, or broke off";
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        Err(_) => return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took longer than 10 s")),
    };
    let query = parts.uri.query().filter(|query| from_query && !query.is_empty());
    match query {
        Some(_) if bytes.is_empty() => axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(parsed)| parsed)
            .map_err(|error| Refusal::bad(format!("the query cannot be read: {error}"))),
        _ if bytes.is_empty() => Err(Refusal::bad("the body is empty: send JSON")),
        // By way of an object: a list of values would do for a struct, too.
        _ => read(&bytes).map_err(|error| Refusal::bad(format!("the body cannot be read: {error}"))),
    }
}

/// What is wrong with a body that has a secret is said without any of it: refusals are logged.
fn secret<T>(body: Result<T, Refusal>) -> Result<T, Refusal> {
    body.map_err(|refusal| match refusal.status {
        StatusCode::BAD_REQUEST => {
            Refusal::bad("the body cannot be read: it is JSON with namespace, key and value, all texts")
        }
        _ => refusal,
    })
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(bytes)?;
    serde_json::from_value(object.into())
}

/// Reads a body as each route would that takes one: for whoever tests them with bytes of their own.
#[doc(hidden)]
pub fn read_any_body(bytes: &[u8]) {
    use self::body::{Acquire, Entry, Make, Named, Place, Script, Which};
    if let Ok(Place { namespace, key }) = read(bytes) {
        drop(kv::place(&namespace, &key));
    }
    drop((read::<Entry>(bytes), read::<Which>(bytes), read::<Named>(bytes)));
    drop((read::<Acquire>(bytes), read::<Make>(bytes), read::<Script>(bytes)));
}

/// Runs what waits for the disk away from the threads that serve.
async fn blocking(work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("a thread ended early: {error}"))),
    }
}
