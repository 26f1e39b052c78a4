//! `POST /v1/self/renew`: a new certificate for an agent that has one, and `GET /v1/self`, which shows an agent that its
//! certificate is let in. Of a request the public key is taken and nothing else.

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State as Held};
use axum::http::StatusCode;
use data_encoding::BASE64;
use rusqlite::Connection;
use serde::Deserialize;
use shared::api::v1::renew::{ProvenRequest, RenewRequest, RenewResponse, Whoami};
use shared::{BlobDigest, WorkerId, token};

use super::reports::rejected;
use crate::admission::certificate::{Renewal, Verdict, judge, renewal};
use crate::catalog;
use crate::catalog::authorities;
use crate::catalog::identities::{self, NewCertificate};
use crate::clock;
use crate::serve::State;
use crate::serve::credentials::Credentials;
use crate::serve::error::Refusal;
use crate::serve::identity::{Caller, From, Peer, fingerprint_of, refuse};
use crate::telemetry::Line;
use crate::tls::issue;

/// Most pins that an agent may say: two are in use at once.
const MOST_PINS: usize = 8;

#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    /// sha256 of the public keys of the authorities that it trusts, hexadecimal, commas between.
    trusts: Option<String>,
}

pub(super) async fn whoami(
    Held(state): Held<Arc<State>>,
    caller: Caller,
    ask: Result<Query<Ask>, QueryRejection>,
) -> Result<Json<Whoami>, Refusal> {
    let Query(ask) = ask.map_err(|error| Refusal::bad(error.body_text()))?;
    let Caller { worker, fingerprint, .. } = caller;
    if let Some(trusts) = ask.trusts {
        let is_pin = |pin: &str| pin.len() == 64 && pin.bytes().all(|b| b.is_ascii_hexdigit());
        if trusts.split(',').count() > MOST_PINS || !trusts.split(',').all(is_pin) {
            return Err(Refusal::bad("trusts: not of its form"));
        }
        state.database.write(move |c| authorities::trusts(c, worker, &trusts)).await?;
    }
    let (host, known) =
        state.database.read(move |c| Ok((identities::host(c, worker)?, identities::known(c, &fingerprint)?))).await?;
    let credentials = state.credentials.get();
    Ok(Json(Whoami {
        worker_id: worker,
        host,
        generation: known.map_or(0, |known| known.generation),
        trust_roots: Some(credentials.roots.clone()),
        renew: known.is_some_and(|known| known.authority != credentials.rotation.issues),
    }))
}

pub(super) async fn renew(
    Held(state): Held<Arc<State>>,
    caller: Caller,
    request: Result<Json<RenewRequest>, JsonRejection>,
) -> Result<Json<RenewResponse>, Refusal> {
    let Json(request) = request.map_err(rejected)?;
    let spki = key_of(&request.csr)?;
    answer(&state, caller, spki).await.map(Json)
}

/// The same for an agent that proves that it has the key of a certificate which TLS does not let in any more.
pub(super) async fn proven(
    state: &Arc<State>,
    From(address): From,
    shown: &Credentials,
    request: ProvenRequest,
) -> Result<RenewResponse, Refusal> {
    let part = |what: &str| Refusal::bad(format!("{what}: not of its form"));
    let certificate = BASE64.decode(request.certificate.as_bytes()).map_err(|_| part("certificate"))?;
    let proof = BASE64.decode(request.proof.as_bytes()).map_err(|_| part("proof"))?;
    let spki = key_of(&request.csr)?;
    // Nothing that it says of itself counts: the catalog knows it by its digest, or does not.
    let Peer::Agent { worker, fingerprint, key } = Peer::of(Some(&certificate), state.bucket_id) else {
        return Err(part("certificate"));
    };
    let message = token::renewal(&certificate, &spki, &shown.certificate);
    if !is_signed(&certificate, &message, &proof) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "proof_wrong", "the proof is not by the certificate's key"));
    }
    let known = state.database.read(move |c| identities::known(c, &fingerprint)).await?;
    let now_ms = clock::now_ms();
    match judge(known.as_ref(), worker, now_ms) {
        Verdict::Admit { .. } => {
            let caller = Caller { worker, fingerprint, key, session: None };
            answer(state, caller, spki).await
        }
        refused => Err(refuse(state, worker, Some(address), refused, now_ms).await?),
    }
}

fn key_of(csr: &str) -> Result<Vec<u8>, Refusal> {
    let csr = BASE64.decode(csr.as_bytes()).map_err(|_| Refusal::bad("csr: not of its form"))?;
    issue::request_key(&csr).map_err(|error| Refusal::bad(error.to_string()))
}

/// Whether `proof` is a signature of `message` by the key of `certificate`.
fn is_signed(certificate: &[u8], message: &[u8], proof: &[u8]) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let key = parsed.public_key();
    let algorithm: &'static dyn VerificationAlgorithm = match key.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.10045.2.1" => &ECDSA_P256_SHA256_ASN1,
        "1.3.101.112" => &ED25519,
        _ => return false,
    };
    UnparsedPublicKey::new(algorithm, &key.subject_public_key.data).verify(message, proof).is_ok()
}

async fn answer(state: &Arc<State>, caller: Caller, spki: Vec<u8>) -> Result<RenewResponse, Refusal> {
    let held = state.clone();
    let now_ms = clock::now_ms();
    let (answer, is_new) = state.database.write(move |c| issue_next(c, &held, caller, &spki, now_ms)).await??;
    if is_new {
        let msg = format!("worker {}: certificate {} issued", caller.worker, answer.generation);
        let line = Line { event: Some("certificate_renewed"), maand: "serve", msg: Some(&msg), ..Line::default() };
        state.log.write(now_ms, &[line]);
    }
    Ok(answer)
}

/// Decides, issues and records in one transaction; `true` when it is a new one.
fn issue_next(
    connection: &Connection,
    state: &State,
    caller: Caller,
    spki: &[u8],
    now_ms: i64,
) -> catalog::Result<Result<(RenewResponse, bool), Refusal>> {
    let Caller { worker, fingerprint, key, .. } = caller;
    let asked = fingerprint_of(spki);
    let credentials = state.credentials.get();
    let given = |certificate: String, generation: u64| RenewResponse {
        certificate,
        generation,
        trust_roots: credentials.roots.clone(),
    };
    match renewal(&key, &asked, identities::of_key(connection, worker, &asked)?, now_ms) {
        Renewal::Refuse(why) => return Ok(Err(Refusal::new(StatusCode::CONFLICT, "key_used", why))),
        Renewal::Again(held) => return Ok(Ok((given(held.pem, held.generation), false))),
        Renewal::Issue => {}
    }
    let issued = match issue::agent(&credentials.issuing, state.bucket_id, worker, spki, now_ms, state.agent_certs_ttl)
    {
        Ok(issued) => issued,
        Err(error) => return Ok(Err(Refusal::internal(&error))),
    };
    identities::replace_unused(connection, worker, &fingerprint, now_ms)?;
    let generation =
        identities::insert(connection, worker, Some(&fingerprint), &record(&issued, asked, &credentials), now_ms)?;
    Ok(Ok((given(issued.pem, generation), true)))
}

/// What the catalog keeps of a certificate.
pub(super) fn record<'a>(issued: &'a issue::Issued, spki: [u8; 32], credentials: &Credentials) -> NewCertificate<'a> {
    NewCertificate {
        fingerprint: *BlobDigest::of(&issued.der).as_bytes(),
        serial: &issued.serial,
        pem: &issued.pem,
        spki,
        not_after_ms: issued.not_after_ms,
        authority: credentials.rotation.issues,
    }
}

/// Says in the log, and to the operator, that an enrolment for `worker` was refused.
pub(super) async fn join_refused(state: &State, worker: WorkerId, From(address): From, why: &str) {
    let detail = format!("a join from {} was refused: {why}", address.ip());
    let now_ms = clock::now_ms();
    let kind = crate::admission::alarm::Kind::JoinRefused;
    drop(state.database.write(move |c| identities::raise(c, worker, kind, &detail, now_ms)).await);
}
