//! `POST /v1/self/reports`: all that an agent knows. 200 only once it is durable.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Held;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use shared::api::v1::operation::{MAX_OPEN, ObservedOperation};
use shared::api::v1::report::{ObservedAllocation, Report};

use crate::catalog::observed::{self, Accepted};
use crate::clock;
use crate::serve::State;
use crate::serve::connection::touch;
use crate::serve::error::Refusal;
use crate::serve::identity::Caller;
use crate::telemetry::Line;

/// Most allocations in a report.
const MAX_ALLOCATIONS: usize = 2000;

pub(super) async fn report(
    Held(state): Held<Arc<State>>,
    Caller { worker, .. }: Caller,
    report: Result<Json<Report>, JsonRejection>,
) -> Result<StatusCode, Refusal> {
    let Json(mut report) = report.map_err(rejected)?;
    if report.allocations.len() > MAX_ALLOCATIONS {
        return Err(Refusal::bad("more allocations than a worker can have"));
    }
    report.allocations.iter_mut().for_each(ObservedAllocation::bound);
    if report.operations.len() > MAX_OPEN {
        return Err(Refusal::bad("more operations than a worker can have"));
    }
    report.operations.iter_mut().for_each(ObservedOperation::bound);
    let now_ms = clock::now_ms();
    let refused = report.refused.clone();
    let accepted =
        state.database.write(move |connection| observed::accept(connection, worker, &report, now_ms)).await?;
    touch(&state, worker).await;
    let said = match (accepted, refused) {
        (Accepted::New { foreign: 0 }, None) | (Accepted::Stale, _) => None,
        (_, Some(reason)) => Some(("desired_refused", format!("worker {worker} refused its desired state: {reason}"))),
        (Accepted::New { foreign }, None) => Some((
            "report_foreign",
            format!("worker {worker} reported {foreign} allocations or operations that are not its own"),
        )),
    };
    if let Some((event, msg)) = said {
        let line = Line { level: "warn", event: Some(event), maand: "serve", msg: Some(&msg), ..Line::default() };
        state.log.write(now_ms, &[line]);
    }
    Ok(StatusCode::OK)
}

/// A body that is too large, no JSON, or not of the message's form.
pub(super) fn rejected(error: JsonRejection) -> Refusal {
    Refusal::new(error.status(), "bad_request", error.body_text())
}
