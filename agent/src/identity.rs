//! Edge: who this agent is: a key that never leaves the worker, its certificate, and the authorities
//! that the controller's certificate may come from; in `<state>/<bucket_id>/`.
#![expect(clippy::disallowed_methods, reason = "edge: key and certificate files")]

use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::{BucketId, Code, Diagnostic};

use crate::state::durable;

/// Where the identity of one bucket is kept.
#[derive(Debug, Clone)]
pub struct Identity(PathBuf);

/// Key and certificate, as TLS takes them.
#[derive(Debug)]
pub struct Loaded {
    /// The certificate, alone.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// Authorities of the controller.
    pub roots: Vec<CertificateDer<'static>>,
}

impl Identity {
    /// Below `state`.
    pub fn new(state: &Path, bucket: BucketId) -> Self {
        Self(state.join(bucket.to_string()))
    }

    fn key(&self) -> PathBuf {
        self.0.join("agent.key")
    }

    fn certificate(&self) -> PathBuf {
        self.0.join("agent.crt")
    }

    fn roots(&self) -> PathBuf {
        self.0.join("controller-ca.crt")
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.certificate().is_file()
    }

    /// Writes all three, the certificate last: with it the identity is whole.
    pub fn save(&self, key: &str, certificate: &str, roots: &str) -> Result<(), Diagnostic> {
        let write = || {
            durable::private_dir(&self.0)?;
            durable::write(&self.key(), key.as_bytes(), 0o600)?;
            durable::write(&self.roots(), roots.as_bytes(), 0o600)?;
            durable::write(&self.certificate(), certificate.as_bytes(), 0o600)
        };
        write().map_err(|error| self.problem("the agent's identity cannot be written").cause(&error))
    }

    /// Reads it.
    pub fn load(&self) -> Result<Loaded, Diagnostic> {
        let broken = |path: &Path, error: rustls_pki_types::pem::Error| {
            self.problem("the agent's identity cannot be used")
                .note(format!("{}: {error}", path.display()))
                .remedy("join again: maand agent token HOST on the controller")
        };
        let certificates = |path: &Path| -> Result<Vec<_>, Diagnostic> {
            CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| broken(path, error))
        };
        let key = PrivateKeyDer::from_pem_file(self.key()).map_err(|error| broken(&self.key(), error))?;
        Ok(Loaded { chain: certificates(&self.certificate())?, key, roots: certificates(&self.roots())? })
    }

    fn problem(&self, message: &str) -> Diagnostic {
        Diagnostic::new(Code::AgentState, message).at(self.0.display())
    }
}
