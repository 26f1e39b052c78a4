//! `POST /v1/enrol`: a join token and a public key for a certificate, or a certificate that has ended and a proof with its
//! key for a new one. The one call without a client certificate.

use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use axum::extract::State as Held;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::{Extension, Json};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use shared::api::v1::enrol::{EnrolRequest, EnrolResponse};
use shared::api::v1::renew::{ProvenRequest, RenewResponse};
use shared::{BlobDigest, WorkerId, token};

use super::renew;
use super::reports::rejected;
use crate::catalog::{self, agents, identities, sessions};
use crate::clock;
use crate::serve::State;
use crate::serve::credentials::Credentials;
use crate::serve::error::Refusal;
use crate::serve::identity::From;
use crate::telemetry::Line;
use crate::tls::issue;

/// On what grounds somebody asks.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Request {
    /// A join token.
    Token(EnrolRequest),
    /// The key of a certificate of this bucket.
    Key(ProvenRequest),
}

/// What is given.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Given {
    /// To one that joined.
    Joined(EnrolResponse),
    /// To one that had a certificate.
    Renewed(RenewResponse),
}

pub(super) async fn enrol(
    Held(state): Held<Arc<State>>,
    Extension(from): Extension<From>,
    Extension(shown): Extension<Arc<Credentials>>,
    request: Result<Json<Request>, JsonRejection>,
) -> Result<Json<Given>, Refusal> {
    if !state.strangers.allow(from.0.ip(), clock::instant()) {
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate", "too many enrolments from this address"));
    }
    match request.map_err(rejected)?.0 {
        Request::Token(request) => join(&state, from, shown, request).await.map(|given| Json(Given::Joined(given))),
        Request::Key(request) => {
            renew::proven(&state, from, &shown, request).await.map(|given| Json(Given::Renewed(given)))
        }
    }
}

async fn join(
    state: &Arc<State>,
    from: From,
    shown: Arc<Credentials>,
    request: EnrolRequest,
) -> Result<EnrolResponse, Refusal> {
    let part = |what: &str| Refusal::bad(format!("{what}: not of its form"));
    let token_id: [u8; 16] = BASE64URL_NOPAD
        .decode(request.token_id.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| part("token_id"))?;
    let csr = BASE64.decode(request.csr.as_bytes()).map_err(|_| part("csr"))?;
    let proof = BASE64.decode(request.proof.as_bytes()).map_err(|_| part("proof"))?;
    let spki = issue::request_key(&csr).map_err(|error| Refusal::bad(error.to_string()))?;
    let held = state.clone();
    let asked = Asked { shown, token_id, id: request.token_id, spki, proof, now_ms: clock::now_ms() };
    let redeemed = state.database.write(move |connection| redeem(connection, &held, &asked)).await?;
    let (answer, first) = match redeemed {
        Ok(redeemed) => redeemed,
        Err((worker, refusal)) => {
            if let Some(worker) = worker {
                renew::join_refused(state, worker, from, &refusal.message).await;
            }
            return Err(refusal);
        }
    };
    if first {
        let msg = format!("an agent joined for {} ({})", answer.host, answer.worker_id);
        let line = Line { event: Some("agent_joined"), maand: "serve", msg: Some(&msg), ..Line::default() };
        state.log.write(clock::now_ms(), &[line]);
    }
    Ok(answer)
}

struct Asked {
    /// What the connection has shown.
    shown: Arc<Credentials>,
    token_id: [u8; 16],
    id: String,
    spki: Vec<u8>,
    proof: Vec<u8>,
    now_ms: i64,
}

type Answer = (EnrolResponse, bool);

/// Checks and redeems in one transaction; `true` when the token was not used before.
/// A refusal comes with the worker that the token is for, when it is known.
fn redeem(
    connection: &Connection,
    state: &State,
    asked: &Asked,
) -> catalog::Result<Result<Answer, (Option<WorkerId>, Refusal)>> {
    let Some(token) = agents::token(connection, &asked.id)? else {
        let message = "the controller does not know this join token";
        return Ok(Err((None, Refusal::new(StatusCode::FORBIDDEN, "token_unknown", message))));
    };
    let no = |error, message: &str| (Some(token.worker), Refusal::new(StatusCode::FORBIDDEN, error, message));
    if token.is_dead() {
        return Ok(Err(no("token_dead", "the join token was tried with a wrong secret too often")));
    }
    let message = token::proof(&asked.token_id, &asked.spki, &asked.shown.certificate);
    if UnparsedPublicKey::new(&ED25519, &token.public_key).verify(&message, &asked.proof).is_err() {
        agents::count_failure(connection, &asked.id)?;
        return Ok(Err(no("token_wrong", "the join token's secret is wrong")));
    }
    let Some(host) = token.host else {
        return Ok(Err(no("worker_unknown", "the token's worker is in the catalog no more")));
    };
    let key = *BlobDigest::of(&asked.spki).as_bytes();
    let credentials = state.credentials.get();
    let answer = |certificate: String| EnrolResponse {
        bucket_id: state.bucket_id,
        worker_id: token.worker,
        host: host.clone(),
        certificate,
        trust_roots: credentials.roots.clone(),
    };
    if let Some((used_by, certificate)) = token.redeemed {
        if used_by == key {
            // The answer was lost on its way: the same one again.
            return Ok(Ok((answer(certificate), false)));
        }
        let (worker, refusal) = no("token_used", "the join token was used already, with another key");
        return Ok(Err((worker, refusal.why(format!("join token of {host} used twice, with different keys")))));
    }
    if asked.now_ms > token.expires_ms {
        return Ok(Err(no("token_expired", "the join token has expired")));
    }
    let (worker, ttl) = (token.worker, state.agent_certs_ttl);
    let issued = match issue::agent(&credentials.issuing, state.bucket_id, worker, &asked.spki, asked.now_ms, ttl) {
        Ok(issued) => issued,
        Err(error) => return Ok(Err((None, Refusal::internal(&error)))),
    };
    agents::redeem(connection, &asked.id, worker, &key, &renew::record(&issued, key, &credentials), asked.now_ms)?;
    // An operator has said who the worker is.
    identities::settle(connection, worker, None)?;
    sessions::forget_turns(connection, worker)?;
    Ok(Ok((answer(issued.pem), true)))
}
