//! Who is speaking: the client certificate of the connection, looked up for every request, so that a
//! revocation holds on connections that are open already.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use shared::api::SESSION_HEADER;
use shared::{BucketId, WorkerId};
use x509_parser::extensions::GeneralName;

use super::State;
use super::error::Refusal;
use crate::admission::alarm::Kind;
use crate::admission::certificate::{Verdict, judge};
use crate::catalog::{identities, sessions};
use crate::clock;
use crate::telemetry::Line;

/// What a connection's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    /// None was shown: good for enrolment alone.
    Nobody,
    /// An agent's of this bucket.
    Agent {
        /// As the certificate says; the catalog has the last word.
        worker: WorkerId,
        /// sha256 of the DER.
        fingerprint: [u8; 32],
        /// sha256 of its key's SubjectPublicKeyInfo.
        key: [u8; 32],
    },
    /// One that the TLS library let in and that is no agent's.
    Stranger(&'static str),
}

/// sha256 of bytes, as an array.
pub(crate) fn fingerprint_of(bytes: &[u8]) -> [u8; 32] {
    *shared::BlobDigest::of(bytes).as_bytes()
}

impl Peer {
    /// Reads a certificate (DER). The chain to the agents' authority was checked by TLS.
    pub(crate) fn of(certificate: Option<&[u8]>, bucket: BucketId) -> Self {
        let Some(der) = certificate else { return Self::Nobody };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(der) else {
            return Self::Stranger("its certificate cannot be read");
        };
        // TLS lets a certificate without any usage pass for every usage: ask for this one.
        match parsed.extended_key_usage() {
            Ok(Some(usage)) if usage.value.client_auth && !usage.value.any => {}
            _ => return Self::Stranger("its certificate is not for clients"),
        }
        let names = match parsed.subject_alternative_name() {
            Ok(Some(names)) => &names.value.general_names,
            _ => return Self::Stranger("its certificate names no worker"),
        };
        let [GeneralName::URI(uri)] = names.as_slice() else {
            return Self::Stranger("its certificate does not name one worker");
        };
        let prefix = format!("spiffe://maand/{bucket}/worker/");
        match uri.strip_prefix(&prefix).and_then(|id| id.parse().ok()) {
            Some(worker) => {
                Self::Agent { worker, fingerprint: fingerprint_of(der), key: fingerprint_of(parsed.public_key().raw) }
            }
            None => Self::Stranger("its certificate is of another bucket"),
        }
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct From(pub(crate) SocketAddr);

/// The worker that speaks. Handlers take it from here and from nowhere else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    /// Which worker.
    pub(crate) worker: WorkerId,
    /// sha256 of its certificate.
    pub(crate) fingerprint: [u8; 32],
    /// sha256 of its certificate's SubjectPublicKeyInfo.
    pub(crate) key: [u8; 32],
    /// Number of its start, if it says one.
    pub(crate) session: Option<u64>,
}

/// Whether an older start asks, and what it is told.
pub(crate) fn check_session(asked: Option<u64>, last: Option<u64>) -> Result<(), Refusal> {
    match (asked, last) {
        (Some(asked), Some(last)) if asked < last => Err(Refusal::new(
            StatusCode::CONFLICT,
            "superseded",
            "another agent has started with this identity since: this one changes nothing any more",
        )),
        _ => Ok(()),
    }
}

/// What is told to a worker that two machines speak for.
pub(crate) fn quarantined() -> Refusal {
    let message = "two machines take turns under this identity: an operator has to say which one it is (maand why)";
    Refusal::new(StatusCode::CONFLICT, "quarantined", message)
}

impl FromRequestParts<Arc<State>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Refusal> {
        let (worker, fingerprint, key) = match parts.extensions.get::<Peer>() {
            Some(Peer::Agent { worker, fingerprint, key }) => (*worker, *fingerprint, *key),
            Some(Peer::Stranger(why)) => {
                return Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", *why));
            }
            Some(Peer::Nobody) | None => {
                return Err(Refusal::new(
                    StatusCode::UNAUTHORIZED,
                    "no_certificate",
                    "this needs an agent's certificate",
                ));
            }
        };
        let address = parts.extensions.get::<From>().map(|from| from.0);
        let (known, (last, is_quarantined)) =
            state.database.read(move |c| Ok((identities::known(c, &fingerprint)?, sessions::last(c, worker)?))).await?;
        let now_ms = clock::now_ms();
        match judge(known.as_ref(), worker, now_ms) {
            Verdict::Admit { is_first } => {
                if is_first {
                    state.database.write(move |c| identities::first_use(c, worker, &fingerprint, now_ms)).await?;
                }
            }
            refused => return Err(refuse(state, worker, address, refused, now_ms).await?),
        }
        if !state.rates.allow(worker, clock::instant()) {
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate", "too many requests from this worker"));
        }
        let session = parts.headers.get(SESSION_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        check_session(session, last)?;
        // What bears no number is about the identity alone.
        if session.is_some() && is_quarantined {
            return Err(quarantined());
        }
        Ok(Self { worker, fingerprint, key, session })
    }
}

/// What somebody is told who is not let in; a copy is an alarm.
pub(crate) async fn refuse(
    state: &State,
    worker: WorkerId,
    address: Option<SocketAddr>,
    verdict: Verdict,
    now_ms: i64,
) -> Result<Refusal, Refusal> {
    let no = |error, message| Ok(Refusal::new(StatusCode::FORBIDDEN, error, message));
    match verdict {
        Verdict::Superseded { is_copy } => {
            if is_copy {
                let from = address.map_or_else(|| "an unknown address".to_owned(), |address| address.ip().to_string());
                let detail = format!(
                    "a certificate that was replaced is still used, from {from}: somebody has a copy of this worker's \
                     identity, or the agent on a machine that it was moved from still runs"
                );
                let said = detail.clone();
                let written =
                    state.database.write(move |c| identities::raise(c, worker, Kind::Copied, &said, now_ms)).await?;
                if written {
                    let msg = format!("worker {worker}: {detail}");
                    let line = Line {
                        level: "error",
                        event: Some("certificate_copied"),
                        maand: "serve",
                        msg: Some(&msg),
                        ..Line::default()
                    };
                    state.log.write(now_ms, &[line]);
                }
            }
            no("superseded_certificate", "this agent's certificate was replaced by a newer one")
        }
        Verdict::Unknown => no("unknown_certificate", "this controller's catalog does not know the certificate"),
        Verdict::Revoked | Verdict::Admit { .. } => no("revoked", "this agent's certificate was revoked"),
    }
}
