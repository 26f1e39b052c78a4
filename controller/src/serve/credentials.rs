//! Edge: what the server shows and whom it lets in: which authorities count is a row that may change while it runs.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use shared::{BlobDigest, BucketId};

use crate::admission::rotation::Rotation;
use crate::paths::BucketDir;
use crate::tls::ca::{self, Authority};
use crate::tls::{self, Error};

/// The server's own certificate is made anew after so long, milliseconds: a server may run for years.
const RENEWED_MS: i64 = 30 * 86_400_000;

/// What is shown, trusted and signed with.
pub(crate) struct Credentials {
    pub(crate) rotation: Rotation,
    /// Signs agents' certificates.
    pub(crate) issuing: Authority,
    /// All that are trusted, PEM.
    pub(crate) roots: String,
    /// DER of the certificate that agents see; proofs are bound to it.
    pub(crate) certificate: Vec<u8>,
    pub(crate) tls: Arc<ServerConfig>,
    /// Short for what is trusted and which one issues: an agent that sees another one asks.
    pub(crate) digest: String,
    made_ms: i64,
}

impl Credentials {
    /// Reads the files that `rotation` names, and makes a certificate of the server.
    pub(crate) fn load(bucket: &BucketDir, id: BucketId, rotation: Rotation, now_ms: i64) -> Result<Self, Error> {
        let trusted: Vec<Authority> =
            rotation.trusted().map(|number| ca::agents(bucket, number)).collect::<Result<_, _>>()?;
        let issuing = ca::agents(bucket, rotation.issues)?;
        let (tls, certificate) = tls::server::config(&trusted, id, now_ms)?;
        let roots: String = trusted.iter().map(|authority| authority.pem.as_str()).collect();
        let digest = BlobDigest::of(format!("{roots}{}", issuing.pem).as_bytes()).hex()[..16].to_owned();
        Ok(Self { rotation, issuing, roots, certificate, tls, digest, made_ms: now_ms })
    }
}

/// The ones that count now.
#[derive(Clone)]
pub(crate) struct Current(Arc<RwLock<Arc<Credentials>>>);

impl Current {
    pub(crate) fn new(first: Credentials) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(first))))
    }

    pub(crate) fn get(&self) -> Arc<Credentials> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over what `rotation` says; whether anything changed. On an error all stays as it is.
    pub(crate) fn look(
        &self,
        bucket: &BucketDir,
        id: BucketId,
        rotation: Rotation,
        now_ms: i64,
    ) -> Result<bool, Error> {
        let held = self.get();
        if held.rotation == rotation && (now_ms - held.made_ms).abs() < RENEWED_MS {
            return Ok(false);
        }
        let next = Credentials::load(bucket, id, rotation, now_ms)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(held.rotation != rotation)
    }
}
