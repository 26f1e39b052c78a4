//! `POST /v1/self/reports`: all that an agent knows. 200 only once it is durable.

use std::sync::{Arc, PoisonError};

use axum::Json;
use axum::extract::State as Held;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use shared::api::v1::MAX_ALLOCATIONS;
use shared::api::v1::desired::Fence;
use shared::api::v1::operation::{MAX_OPEN, ObservedOperation};
use shared::api::v1::report::{Fetched, ObservedAllocation, Report};
use shared::{BlobDigest, Host, JobName, WorkerId};

use crate::admission::alarm::Kind;
use crate::catalog::observed::{self, Accepted};
use crate::catalog::{desired, identities};
use crate::clock;
use crate::serve::State;
use crate::serve::error::Refusal;
use crate::serve::identity::Caller;
use crate::serve::presence::touch;
use crate::telemetry::Line;

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
    let has = report.accepted.zip(report.essence);
    let seq = report.accepted.map(|fence| fence.update_seq);
    let (accepted, host) = state
        .database
        .write(move |connection| {
            let accepted = observed::accept(connection, worker, &report, now_ms)?;
            let wants_host = matches!(&accepted, Accepted::New { fetched, .. } if !fetched.is_empty());
            let host = if wants_host { observed::host(connection, worker)? } else { None };
            Ok((accepted, host))
        })
        .await?;
    touch(&state, worker).await;
    if let Accepted::New { fetched, .. } = &accepted {
        log_fetched(&state, host.as_ref(), seq, fetched, now_ms);
    }
    if let Some((fence, hash)) = has {
        compare(&state, worker, fence, hash).await?;
    }
    let said = match (accepted, refused) {
        (Accepted::New { foreign: 0, .. }, None) | (Accepted::Stale, _) => None,
        (_, Some(reason)) => Some(("desired_refused", format!("worker {worker} refused its desired state: {reason}"))),
        (Accepted::New { foreign, .. }, None) => Some((
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

/// Says what was downloaded, for every kind of action, in the run that it was for.
fn log_fetched(state: &State, host: Option<&Host>, seq: Option<u64>, fetched: &[(JobName, Fetched)], now_ms: i64) {
    for (job, fetched) in fetched {
        let msg = format!("{} files, {} bytes", fetched.files, fetched.bytes);
        let line = Line {
            event: Some("files_fetched"),
            run: fetched.run_id,
            maand: "deploy",
            seq,
            worker: host,
            job: Some(job.as_str()),
            phase: Some("fetch"),
            action: fetched.action.map(|kind| kind.word()),
            duration_ms: Some(fetched.duration_ms),
            msg: Some(&msg),
            ..Line::default()
        };
        state.log.write(now_ms, &[line]);
    }
}

/// One fence has one document: an agent that accepted another one under it had it from somebody else.
async fn compare(state: &State, worker: WorkerId, fence: Fence, hash: BlobDigest) -> Result<(), Refusal> {
    {
        let compared = state.compared.lock().unwrap_or_else(PoisonError::into_inner);
        if compared.get(&worker) == Some(&(fence, hash)) {
            return Ok(());
        }
    }
    let told = state.database.read(move |c| desired::state(c, worker)).await?;
    state.compared.lock().unwrap_or_else(PoisonError::into_inner).insert(worker, (fence, hash));
    if !told.is_some_and(|told| told.fence == fence && told.essence() != hash) {
        return Ok(());
    }
    let detail = format!(
        "its agent accepted other content under {fence} than this catalog has: the catalog is an older copy, or another \
         controller speaks for this bucket"
    );
    let (said, now_ms) = (detail.clone(), clock::now_ms());
    state.database.write(move |c| identities::raise(c, worker, Kind::Diverged, &said, now_ms)).await?;
    let msg = format!("worker {worker}: {detail}");
    let line = Line { level: "error", event: Some("equivocation"), maand: "serve", msg: Some(&msg), ..Line::default() };
    state.log.write(now_ms, &[line]);
    Ok(())
}

/// A body that is too large, no JSON, or not of the message's form.
pub(super) fn rejected(error: JsonRejection) -> Refusal {
    Refusal::new(error.status(), "bad_request", error.body_text())
}
