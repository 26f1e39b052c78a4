//! `GET /v1/self/desired`: the worker's desired state, when it is newer than what the agent has.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Held};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use serde::Deserialize;
use shared::api::v1::MAX_WAIT_S;
use shared::api::v1::desired::{Envelope, Fence};
use shared::api::{LEASE_HEADER, LEASE_MS};

use crate::admission::certificate::{Verdict, judge};
use crate::catalog::{desired, identities, observed, sessions};
use crate::clock;
use crate::serve::State;
use crate::serve::ended;
use crate::serve::error::Refusal;
use crate::serve::identity::{Caller, check_session, quarantined, refuse};
use crate::serve::presence::touch;

#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    /// What the agent accepted last, `EPOCH.SEQ.GENERATION`.
    after: Option<String>,
    /// Seconds to wait for something newer.
    #[serde(default)]
    wait: u64,
}

pub(super) async fn desired(
    Held(state): Held<Arc<State>>,
    Caller { worker, fingerprint, session, .. }: Caller,
    ask: Result<Query<Ask>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(ask) = ask.map_err(|error| Refusal::bad(error.body_text()))?;
    let after: Option<Fence> =
        ask.after.as_deref().map(str::parse).transpose().map_err(|why: &str| Refusal::bad(format!("after: {why}")))?;
    // Registered before the rows are read: a change between the two wakes.
    let (mut watched, poll) = state.wakers.wait(worker);
    let mut ending = state.ending.clone();
    touch(&state, worker).await;
    let end = tokio::time::sleep(Duration::from_secs(ask.wait.min(MAX_WAIT_S)));
    tokio::pin!(end);
    let mut has_said = false;
    loop {
        watched.mark_unchanged();
        // Asked again each time: a certificate may be revoked while its request waits.
        let (known, document, (last, is_quarantined)) = state
            .database
            .read(move |c| {
                Ok((identities::known(c, &fingerprint)?, desired::document(c, worker)?, sessions::last(c, worker)?))
            })
            .await?;
        let now_ms = clock::now_ms();
        match judge(known.as_ref(), worker, now_ms) {
            Verdict::Admit { .. } => {}
            // Its agent uses a newer one by now: this was on its way.
            Verdict::Superseded { is_copy: false } => return Ok(nothing(false, false)),
            refused => return Err(refuse(&state, worker, None, refused, now_ms).await?),
        }
        check_session(session, last)?;
        if is_quarantined {
            return Err(quarantined());
        }
        let told = document.as_ref().map(|(fence, _)| *fence);
        if let Some(accepted) = after.filter(|after| !has_said && told.is_none_or(|told| *after > told)) {
            // It knows more than the catalog does, which was restored: everybody has to hear of that.
            has_said = true;
            state.database.write(move |c| observed::accepted_beyond(c, worker, accepted, now_ms)).await?;
        }
        if let Some((fence, bytes)) = document
            && !state.halt.is_set()
            && after.is_none_or(|after| fence > after)
        {
            let envelope = Envelope { payload: BASE64.encode(&bytes), signatures: Vec::new() };
            let mut response = Json(envelope).into_response();
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            return Ok(response);
        }
        // Read after the request came: what it says of the state is newer than that.
        let confirmed = told.is_some() && told == after && !state.halt.is_set();
        if *ending.borrow() {
            return Ok(nothing(true, confirmed));
        }
        tokio::select! {
            changed = watched.changed() => {
                // A newer request of the same worker waits now.
                if changed.is_err() || watched.borrow().poll != poll {
                    return Ok(nothing(false, confirmed));
                }
            }
            () = ended(&mut ending) => return Ok(nothing(true, confirmed)),
            () = &mut end => {
                touch(&state, worker).await;
                return Ok(nothing(false, confirmed));
            }
        }
    }
}

/// Nothing newer; whether that is because the agent has the newest, which it may act on for a while. While the
/// server ends, the agent is told to leave it a moment.
fn nothing(ending: bool, confirmed: bool) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(LEASE_HEADER, HeaderValue::from(if confirmed { LEASE_MS } else { 0 }));
    if ending {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
