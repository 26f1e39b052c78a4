//! `POST /v1/self/leave`: an agent's certificates end, by its own word. What its worker should run stays in the
//! catalog: whether the machine comes back is the operator's to say.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Held;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use shared::api::v1::leave::LeaveRequest;

use super::reports::rejected;
use crate::catalog::agents;
use crate::clock;
use crate::serve::State;
use crate::serve::error::Refusal;
use crate::serve::identity::Caller;
use crate::telemetry::Line;

pub(super) async fn leave(
    Held(state): Held<Arc<State>>,
    Caller { worker, .. }: Caller,
    request: Result<Json<LeaveRequest>, JsonRejection>,
) -> Result<StatusCode, Refusal> {
    let Json(LeaveRequest {}) = request.map_err(rejected)?;
    let now_ms = clock::now_ms();
    state.database.write(move |c| agents::revoke(c, worker, "its agent left", now_ms)).await?;
    let msg = format!("the agent of worker {worker} left; its certificates ended");
    let line = Line { event: Some("agent_left"), maand: "serve", msg: Some(&msg), ..Line::default() };
    state.log.write(now_ms, &[line]);
    Ok(StatusCode::OK)
}
