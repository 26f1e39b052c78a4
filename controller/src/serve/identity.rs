//! Who is speaking: the client certificate of the connection, looked up for every request, so that a
//! revocation holds on connections that are open already.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use shared::{BucketId, WorkerId};
use x509_parser::extensions::GeneralName;

use super::State;
use super::error::Refusal;
use crate::catalog::agents::{self, Standing};
use crate::clock;

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
    },
    /// One that the TLS library let in and that is no agent's.
    Stranger(&'static str),
}

/// sha256 of bytes, as an array.
fn fingerprint_of(bytes: &[u8]) -> [u8; 32] {
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
            Some(worker) => Self::Agent { worker, fingerprint: fingerprint_of(der) },
            None => Self::Stranger("its certificate is of another bucket"),
        }
    }
}

/// The worker that speaks. Handlers take it from here and from nowhere else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller(pub(crate) WorkerId);

impl FromRequestParts<Arc<State>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Refusal> {
        let (worker, fingerprint) = match parts.extensions.get::<Peer>() {
            Some(Peer::Agent { worker, fingerprint }) => (*worker, *fingerprint),
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
        let (standing, several) = state
            .database
            .read(move |connection| {
                Ok((agents::standing(connection, &fingerprint)?, agents::has_several(connection, worker)?))
            })
            .await?;
        match standing {
            Standing::Active(known) if known == worker => {}
            Standing::Revoked(_) => {
                return Err(Refusal::new(StatusCode::FORBIDDEN, "revoked", "this agent's certificate was revoked"));
            }
            Standing::Active(_) | Standing::Unknown => {
                let message = "this controller's catalog does not know the certificate";
                return Err(Refusal::new(StatusCode::FORBIDDEN, "unknown_certificate", message));
            }
        }
        if !state.rates.allow(worker, clock::instant()) {
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate", "too many requests from this worker"));
        }
        if several {
            let now = clock::now_ms();
            state.database.write(move |c| agents::supersede_others(c, worker, &fingerprint, now)).await?;
        }
        Ok(Self(worker))
    }
}
