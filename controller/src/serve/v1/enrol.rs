//! `POST /v1/enrol`: a join token and a public key for a certificate. The one call without a client
//! certificate.

use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use axum::Json;
use axum::extract::State as Held;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use rusqlite::Connection;
use shared::api::v1::enrol::{EnrolRequest, EnrolResponse};
use shared::{BlobDigest, token};

use super::reports::rejected;
use crate::catalog::agents::{self, NewCertificate};
use crate::catalog::{self};
use crate::clock;
use crate::serve::State;
use crate::serve::error::Refusal;
use crate::telemetry::Line;
use crate::tls::issue;

pub(super) async fn enrol(
    Held(state): Held<Arc<State>>,
    request: Result<Json<EnrolRequest>, JsonRejection>,
) -> Result<Json<EnrolResponse>, Refusal> {
    let Json(request) = request.map_err(rejected)?;
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
    let asked = Asked { token_id, id: request.token_id, spki, proof, now_ms: clock::now_ms() };
    let (answer, first) = state.database.write(move |connection| redeem(connection, &held, &asked)).await??;
    if first {
        let msg = format!("an agent joined for {} ({})", answer.host, answer.worker_id);
        let line = Line { event: Some("agent_joined"), maand: "serve", msg: Some(&msg), ..Line::default() };
        state.log.write(clock::now_ms(), &[line]);
    }
    Ok(Json(answer))
}

struct Asked {
    token_id: [u8; 16],
    id: String,
    spki: Vec<u8>,
    proof: Vec<u8>,
    now_ms: i64,
}

type Answer = (EnrolResponse, bool);

/// Checks and redeems in one transaction; `true` when the token was not used before.
fn redeem(connection: &Connection, state: &State, asked: &Asked) -> catalog::Result<Result<Answer, Refusal>> {
    let no = |error, message: &str| Refusal::new(StatusCode::FORBIDDEN, error, message);
    let Some(token) = agents::token(connection, &asked.id)? else {
        return Ok(Err(no("token_unknown", "the controller does not know this join token")));
    };
    if token.is_dead() {
        return Ok(Err(no("token_dead", "the join token was tried with a wrong secret too often")));
    }
    let message = token::proof(&asked.token_id, &asked.spki, &state.certificate);
    if UnparsedPublicKey::new(&ED25519, &token.public_key).verify(&message, &asked.proof).is_err() {
        agents::count_failure(connection, &asked.id)?;
        return Ok(Err(no("token_wrong", "the join token's secret is wrong")));
    }
    let Some(host) = token.host else {
        return Ok(Err(no("worker_unknown", "the token's worker is in the catalog no more")));
    };
    let key = *BlobDigest::of(&asked.spki).as_bytes();
    let answer = |certificate: String| EnrolResponse {
        bucket_id: state.bucket_id,
        worker_id: token.worker,
        host: host.clone(),
        certificate,
        trust_roots: state.authority.pem.clone(),
    };
    if let Some((used_by, certificate)) = token.redeemed {
        if used_by == key {
            // The answer was lost on its way: the same one again.
            return Ok(Ok((answer(certificate), false)));
        }
        let refusal = no("token_used", "the join token was used already, with another key");
        return Ok(Err(refusal.why(format!("join token of {host} used twice, with different keys"))));
    }
    if asked.now_ms > token.expires_ms {
        return Ok(Err(no("token_expired", "the join token has expired")));
    }
    let issued = match issue::agent(&state.authority, state.bucket_id, token.worker, &asked.spki, asked.now_ms) {
        Ok(issued) => issued,
        Err(error) => return Ok(Err(Refusal::internal(&error))),
    };
    let certificate = NewCertificate {
        fingerprint: *BlobDigest::of(&issued.der).as_bytes(),
        serial: &issued.serial,
        pem: &issued.pem,
        not_after_ms: issued.not_after_ms,
    };
    agents::redeem(connection, &asked.id, token.worker, &key, &certificate, asked.now_ms)?;
    Ok(Ok((answer(issued.pem), true)))
}
