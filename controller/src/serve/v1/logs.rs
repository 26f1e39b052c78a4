//! `POST /v1/self/logs`: output of make targets and scripts, into the bucket's logs; that of operations
//! also to who follows them. Agents cut at line ends; where they cannot, they send what is around with it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Held;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use rusqlite::Connection;
use shared::api::v1::desired::DesiredState;
use shared::api::v1::logs::{LogBatch, LogChunk, Source};
use shared::api::v1::operation::Work;
use shared::{ActionKind, OperationId, RunId, WorkerId};

use super::reports::rejected;
use crate::catalog::operations::{self, Output};
use crate::catalog::{desired, logged, rollout};
use crate::clock;
use crate::serve::State;
use crate::serve::error::Refusal;
use crate::serve::identity::Caller;
use crate::telemetry::{Line, phase};

pub(super) async fn logs(
    Held(state): Held<Arc<State>>,
    Caller { worker, .. }: Caller,
    batch: Result<Json<LogBatch>, JsonRejection>,
) -> Result<StatusCode, Refusal> {
    let Json(batch) = batch.map_err(rejected)?;
    let mut chunks = Vec::new();
    for chunk in batch.chunks {
        let content = chunk.content().map_err(Refusal::bad)?;
        chunks.push((chunk, content));
    }
    let total = chunks.iter().map(|(_, content)| content.all.len()).sum();
    if !state.output.allow_output(worker, total, clock::instant()) {
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate", "too much output from this worker"));
    }
    let held = state.clone();
    let now_ms = clock::now_ms();
    state
        .database
        .write(move |connection| {
            let Some(desired) = desired::state(connection, worker)? else { return Ok(()) };
            // Before it is written anywhere: what a job prints of the bucket's secrets goes no further.
            let redactor = held.known.redactor(connection, &held.sealing);
            for (chunk, content) in &chunks {
                let Some(of) = owned(connection, worker, &desired, chunk)? else { continue };
                // An agent that was ended sends again what it does not know to have sent, cut elsewhere.
                let known = logged::written(connection, worker, chunk)?;
                let Some((rest, end)) = chunk.beyond(content.own(), known) else { continue };
                // In what it was cut out of: a secret that lies across an end of it is none of it shown.
                let bytes = redactor.within(&content.all, content.own.end - rest.len()..content.own.end);
                // Written first: after a crash in between a line comes twice rather than never.
                let text = String::from_utf8_lossy(&bytes);
                let omitted = (chunk.omitted > 0).then(|| format!("({} bytes left out here)", chunk.omitted));
                let line = |msg| Line {
                    run: of.run,
                    maand: of.maand,
                    seq: Some(desired.fence.update_seq),
                    worker: Some(&desired.host),
                    job: of.job.as_deref(),
                    phase: Some(of.phase),
                    action: Some(&of.action),
                    stream: Some(logged::word(chunk.stream)),
                    msg: Some(msg),
                    ..Line::default()
                };
                let lines: Vec<Line<'_>> = omitted.as_deref().into_iter().chain(text.lines()).map(line).collect();
                if let Some(id) = of.operation {
                    let (stream, omitted) = (chunk.stream, chunk.omitted);
                    operations::append(connection, &Output { id, stream, omitted, bytes: bytes.to_vec() })?;
                }
                if !of.is_read {
                    held.log.write(now_ms, &lines);
                }
                logged::record(connection, worker, chunk, end)?;
            }
            Ok(())
        })
        .await?;
    Ok(StatusCode::OK)
}

/// What the logs say of output.
struct Of {
    /// A run that this controller knows: each has a directory of its own in the logs.
    run: Option<RunId>,
    maand: &'static str,
    job: Option<String>,
    phase: &'static str,
    action: String,
    operation: Option<OperationId>,
    /// It is in a log of the worker already, and not to be copied into another one.
    is_read: bool,
}

/// Whose output it is; `None` when that is not the worker's.
fn owned(
    connection: &Connection,
    worker: WorkerId,
    desired: &DesiredState,
    chunk: &LogChunk,
) -> crate::catalog::Result<Option<Of>> {
    Ok(match &chunk.source {
        Source::Action { job, target, .. } if desired.allocations.iter().any(|a| a.job == *job) => Some(Of {
            run: rollout::get(connection, chunk.run_id)?.map(|header| header.run),
            maand: "deploy",
            job: Some(job.to_string()),
            phase: if target == ActionKind::Stop.word() { "reconcile" } else { "rollout" },
            action: target.clone(),
            operation: None,
            is_read: false,
        }),
        Source::Action { .. } => None,
        Source::Operation { operation_id } => operations::own(connection, worker, *operation_id)?.map(|asked| Of {
            run: Some(asked.run_id),
            maand: if matches!(asked.work, Work::Script { .. }) { "run_command" } else { "job" },
            job: asked.work.job().map(ToString::to_string),
            phase: phase(&asked.work),
            action: asked.work.label().to_owned(),
            operation: Some(*operation_id),
            is_read: matches!(asked.work, Work::Logs { .. }),
        }),
    })
}
