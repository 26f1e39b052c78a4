//! Every route of version 1, and what is done around each request.

pub(crate) mod bundles;
mod desired;
mod enrol;
mod leave;
mod logs;
mod packs;
mod renew;
mod reports;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State as Held};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use shared::api::{AUTHORITY_HEADER, CLOCK_HEADER, REQUEST_ID_HEADER, v1};

use super::State;
use super::credentials::Credentials;
use super::error::Refusal;
use super::identity::{From, Peer};
use crate::clock;
use crate::telemetry::Line;

/// Longest time for a request, a long poll's wait included.
const REQUEST: Duration = Duration::from_secs(v1::MAX_WAIT_S + 10);

/// The service of one connection.
pub(crate) fn router(state: Arc<State>, peer: Peer, address: SocketAddr, shown: Arc<Credentials>) -> Router {
    Router::new()
        .route(v1::ENROL, post(enrol::enrol).layer(DefaultBodyLimit::max(v1::ENROL_CAP)))
        .route(v1::SELF, get(renew::whoami))
        .route(v1::RENEW, post(renew::renew).layer(DefaultBodyLimit::max(v1::ENROL_CAP)))
        .route(v1::SESSION, post(session::open).layer(DefaultBodyLimit::max(v1::ENROL_CAP)))
        .route(v1::DESIRED, get(desired::desired))
        .route(&format!("{}/{{digest}}", v1::BUNDLES), get(bundles::bundle))
        .route(v1::PACKS, post(packs::pack).layer(DefaultBodyLimit::max(v1::WANT_CAP)))
        .route(v1::REPORTS, post(reports::report).layer(DefaultBodyLimit::max(v1::REPORT_CAP)))
        .route(v1::LEAVE, post(leave::leave).layer(DefaultBodyLimit::max(v1::LEAVE_CAP)))
        .route(v1::LOGS, post(logs::logs).layer(DefaultBodyLimit::max(v1::LOGS_CAP)))
        .fallback(async || Refusal::not_found())
        .method_not_allowed_fallback(async || {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "not that way")
        })
        .layer(from_fn_with_state((state.clone(), address), observe))
        .layer(axum::Extension(peer))
        .layer(axum::Extension(From(address)))
        .layer(axum::Extension(shown))
        .with_state(state)
}

/// Gives the request an id and a time limit; a refusal gets its body and a line in the log here.
async fn observe(Held((state, address)): Held<(Arc<State>, SocketAddr)>, request: Request, next: Next) -> Response {
    let id = clock::random_uuid().simple().to_string();
    let path = request.uri().path().chars().take(120).collect::<String>();
    let peer = request.extensions().get::<Peer>().cloned();
    let response = match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the request took too long").answer(&id),
    };
    let mut response = match response.extensions().get::<Refusal>().cloned() {
        Some(refusal) => {
            write_log(&state, address, peer.as_ref(), &path, &id, &refusal);
            refusal.answer(&id)
        }
        None => response,
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    if let (Some(Peer::Agent { .. }), Ok(value)) = (&peer, HeaderValue::from_str(&state.credentials.get().digest)) {
        response.headers_mut().insert(AUTHORITY_HEADER, value);
    }
    response.headers_mut().insert(CLOCK_HEADER, HeaderValue::from(clock::now_ms()));
    response
}

fn write_log(state: &State, address: SocketAddr, peer: Option<&Peer>, path: &str, id: &str, refusal: &Refusal) {
    let said = state.refusals.may_say(address.ip(), clock::instant());
    if said.is_none() && !refusal.status.is_server_error() {
        return;
    }
    let left_out = super::quiet::left_out(said.unwrap_or(0));
    let who = match peer {
        Some(Peer::Agent { worker, .. }) => format!("worker {worker}"),
        Some(Peer::Stranger(why)) => format!("a stranger ({why})"),
        Some(Peer::Nobody) | None => "nobody".to_owned(),
    };
    let why = refusal.internal.as_deref().unwrap_or(&refusal.message);
    let msg = format!(
        "{who} at {address}: {path}: {} {}: {why} (request {id}){left_out}",
        refusal.status.as_u16(),
        refusal.error
    );
    let line = Line {
        level: if refusal.status.is_server_error() { "error" } else { "warn" },
        event: Some(if path == v1::ENROL { "enrol_refused" } else { "request_refused" }),
        maand: "serve",
        reason: Some(refusal.error),
        msg: Some(&msg),
        ..Line::default()
    };
    state.log.write(clock::now_ms(), &[line]);
}
