//! `POST /v1/self/session`: a start of an agent gets its number; two machines that take turns are quarantined.

use std::sync::Arc;

use axum::extract::State as Held;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};
use rusqlite::Connection;
use shared::WorkerId;
use shared::api::v1::session::{SessionRequest, SessionResponse};

use super::reports::rejected;
use crate::admission::alarm::Kind;
use crate::admission::session::{Origin, Session, flapping, number};
use crate::catalog::{self, identities, sessions};
use crate::clock;
use crate::serve::State;
use crate::serve::error::Refusal;
use crate::serve::identity::{Caller, From};
use crate::telemetry::Line;

pub(super) async fn open(
    Held(state): Held<Arc<State>>,
    Caller { worker, .. }: Caller,
    Extension(from): Extension<From>,
    request: Result<Json<SessionRequest>, JsonRejection>,
) -> Result<Json<SessionResponse>, Refusal> {
    let Json(mut request) = request.map_err(rejected)?;
    request.bound();
    let now_ms = clock::now_ms();
    let address = from.0.ip().to_string();
    let (number, quarantined) = state.database.write(move |c| record(c, worker, address, &request, now_ms)).await?;
    if let Some(detail) = quarantined {
        let msg = format!("worker {worker}: {detail}");
        let line = Line {
            level: "error",
            event: Some("worker_quarantined"),
            maand: "serve",
            msg: Some(&msg),
            ..Line::default()
        };
        state.log.write(now_ms, &[line]);
    }
    // An older start's request that waits ends now.
    state.wakers.nudge_some(std::iter::once(worker));
    Ok(Json(SessionResponse { number }))
}

/// The number, and why the worker is quarantined if that is new.
fn record(
    connection: &Connection,
    worker: WorkerId,
    address: String,
    request: &SessionRequest,
    now_ms: i64,
) -> catalog::Result<(u64, Option<String>)> {
    let mut all = sessions::of(connection, worker)?;
    let start = request.start.to_string();
    let (number, is_new) = number(&all, &start, request.counted, sessions::reported(connection, worker)?);
    if !is_new {
        return Ok((number, None));
    }
    let origin = Origin { address, machine: request.machine.clone(), boot_id: request.boot_id.to_string() };
    let session = Session { number, start, opened_ms: now_ms, origin };
    sessions::insert(connection, worker, &session, request)?;
    all.push(session);
    let Some((new, other)) = flapping(&all, now_ms) else { return Ok((number, None)) };
    let detail = format!(
        "two machines take turns under this identity: {} and {}; it is quarantined and gets no work",
        new.origin, other.origin
    );
    let is_raised = identities::raise(connection, worker, Kind::Quarantined, &detail, now_ms)?;
    Ok((number, is_raised.then_some(detail)))
}
