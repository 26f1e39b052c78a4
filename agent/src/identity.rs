//! Edge: who this agent is: a key that never leaves the worker, its certificate, and the authorities
//! that the controller's certificate may come from; in `<state>/<bucket_id>/`.
//!
//! There are two places, `agent.*` and `agent-next.*`. A renewal writes the second and uses it; when the controller has
//! let it in, it takes the first one's place. A certificate goes with whichever key is its own, so that an end between
//! two files leaves both identities, or the newer one, whole.
#![expect(clippy::disallowed_methods, reason = "edge: key and certificate files")]

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use shared::{BucketId, Code, Diagnostic};

use crate::reconcile::renewal::Life;
use crate::state::durable;

/// Where the identity of one bucket is kept.
#[derive(Debug, Clone)]
pub struct Identity(PathBuf);

/// A certificate with its key.
#[derive(Debug)]
pub struct Pair {
    /// The certificate, DER.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: KeyPair,
    /// From when to when it is good, as it says.
    pub life: Life,
}

impl Pair {
    /// As TLS takes it.
    pub fn shown(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        (vec![self.certificate.clone()], PrivateKeyDer::Pkcs8(key))
    }
}

/// What there is.
#[derive(Debug)]
pub struct Loaded {
    /// The one that the controller has let in.
    pub current: Option<Pair>,
    /// One that was renewed and not let in yet; there is this one or the other.
    pub next: Option<Pair>,
    /// Authorities of the controller.
    pub roots: Vec<CertificateDer<'static>>,
}

impl Loaded {
    /// The one to show.
    pub fn newest(&self) -> Option<&Pair> {
        self.next.as_ref().or(self.current.as_ref())
    }
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

    fn next_key(&self) -> PathBuf {
        self.0.join("agent-next.key")
    }

    fn next_certificate(&self) -> PathBuf {
        self.0.join("agent-next.crt")
    }

    fn roots(&self) -> PathBuf {
        self.0.join("controller-ca.crt")
    }

    /// Which machine it was made on.
    pub fn machine(&self) -> PathBuf {
        self.0.join("machine.json")
    }

    /// Why the controller lets this agent in no more, while it does not.
    pub fn refusal(&self) -> PathBuf {
        self.0.join("refused.json")
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.certificate().is_file()
    }

    /// Writes the identity of an enrolment, the certificate last: with it the identity is whole. A renewal of an older one
    /// is over.
    pub fn save(&self, key: &str, certificate: &str, roots: &str) -> Result<(), Diagnostic> {
        let write = || {
            durable::private_dir(&self.0)?;
            for old in [self.next_certificate(), self.next_key(), self.refusal()] {
                remove(&old)?;
            }
            durable::write(&self.key(), key.as_bytes(), 0o600)?;
            durable::write(&self.roots(), roots.as_bytes(), 0o600)?;
            durable::write(&self.certificate(), certificate.as_bytes(), 0o600)
        };
        write().map_err(|error| self.problem("the agent's identity cannot be written").cause(&error))
    }

    /// The authorities that the controller may come from, from now on.
    pub fn save_roots(&self, roots: &str) -> Result<(), Diagnostic> {
        let problem =
            |error: &dyn std::error::Error| self.problem("the controller's authorities cannot be kept").cause(error);
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(roots.as_bytes()).collect();
        if read.map_err(|error| problem(&error))?.is_empty() {
            return Err(self.problem("the controller named no authority: those that are known stay"));
        }
        durable::write(&self.roots(), roots.as_bytes(), 0o600).map_err(|error| problem(&error))
    }

    /// Whether `roots` are the ones that are kept.
    pub fn has_roots(&self, roots: &str) -> bool {
        std::fs::read_to_string(self.roots()).is_ok_and(|kept| kept == roots)
    }

    /// The key of the renewal that is under way, or a new one: durable before a certificate is asked for, so that a lost
    /// answer can be asked for again.
    pub fn renewal_key(&self) -> Result<KeyPair, Diagnostic> {
        let problem = |error: &dyn std::error::Error| self.problem("a new key cannot be made").cause(error);
        if let Ok(pem) = std::fs::read_to_string(self.next_key())
            && let Ok(key) = KeyPair::from_pem(&pem)
        {
            return Ok(key);
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| problem(&error))?;
        durable::write(&self.next_key(), key.serialize_pem().as_bytes(), 0o600).map_err(|error| problem(&error))?;
        Ok(key)
    }

    /// The certificate of that key has come.
    pub fn save_next(&self, certificate: &str) -> Result<(), Diagnostic> {
        durable::write(&self.next_certificate(), certificate.as_bytes(), 0o600)
            .map_err(|error| self.problem("the new certificate cannot be written").cause(&error))
    }

    /// The controller has let the next one in: it is the current one from now on.
    pub fn promote(&self) -> Result<(), Diagnostic> {
        let promote = || {
            // An end in between leaves the next certificate with a key, wherever that is.
            rename(&self.next_key(), &self.key())?;
            rename(&self.next_certificate(), &self.certificate())?;
            sync(&self.0)
        };
        promote().map_err(|error| self.problem("the new certificate cannot be put in place").cause(&error))
    }

    /// The controller did not let the next one in, or its key is worth nothing: it is forgotten.
    pub fn drop_next(&self) -> Result<(), Diagnostic> {
        let drop = || {
            remove(&self.next_certificate())?;
            remove(&self.next_key())?;
            sync(&self.0)
        };
        drop().map_err(|error| self.problem("an unused certificate cannot be removed").cause(&error))
    }

    /// Reads it.
    pub fn load(&self) -> Result<Loaded, Diagnostic> {
        let broken = |path: &Path, why: &dyn std::fmt::Display| {
            self.problem("the agent's identity cannot be used").note(format!("{}: {why}", path.display())).remedy(
                "join again: maand agent token HOST on the controller, the line that it prints here, with --replace",
            )
        };
        let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, Diagnostic> {
            CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| broken(path, &error))
        };
        let key = |path: &Path| KeyPair::from_pem(&std::fs::read_to_string(path).ok()?).ok();
        let pair = |path: &Path| -> Result<Option<Pair>, Diagnostic> {
            let Some(certificate) = certificates(path)?.into_iter().next() else { return Ok(None) };
            let (spki, life) = read(&certificate).ok_or_else(|| broken(path, &"no certificate"))?;
            let keys = [self.key(), self.next_key()].into_iter().filter_map(|path| key(&path));
            let found = keys.into_iter().find(|key| key.subject_public_key_info() == spki);
            Ok(found.map(|key| Pair { certificate, key, life }))
        };
        let current = pair(&self.certificate())?;
        let next = if self.next_certificate().is_file() { pair(&self.next_certificate())? } else { None };
        let loaded = Loaded { current, next, roots: certificates(&self.roots())? };
        if loaded.newest().is_none() {
            return Err(broken(&self.key(), &"it is missing, or not the certificate's"));
        }
        Ok(loaded)
    }

    fn problem(&self, message: &str) -> Diagnostic {
        Diagnostic::new(Code::AgentState, message).at(self.0.display())
    }
}

/// Key (SubjectPublicKeyInfo, DER) and life of a certificate.
fn read(certificate: &[u8]) -> Option<(Vec<u8>, Life)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let ms = |at: x509_parser::time::ASN1Time| at.timestamp().saturating_mul(1000);
    let validity = parsed.validity();
    let life = Life { not_before_ms: ms(validity.not_before), not_after_ms: ms(validity.not_after) };
    Some((parsed.public_key().raw.to_vec(), life))
}

/// sha256 of an authority's public key, as join tokens pin it.
pub fn pin(certificate: &[u8]) -> Option<[u8; 32]> {
    read(certificate).map(|(spki, _)| shared::token::pin(&spki))
}

/// A request for a certificate of `key`: of it only the key counts. DER.
pub fn request(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What was renamed before an earlier end is as it should be.
fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(dir: &Path) -> std::io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::BucketId;

    fn certificate(key: &KeyPair) -> String {
        CertificateParams::default().self_signed(key).unwrap().pem()
    }

    #[test]
    fn an_end_between_any_two_files_of_a_renewal_leaves_an_identity() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::new(dir.path(), BucketId::from_uuid(uuid::Uuid::from_u128(1)));
        let old = KeyPair::generate().unwrap();
        let roots = certificate(&KeyPair::generate().unwrap());
        identity.save(&old.serialize_pem(), &certificate(&old), &roots).unwrap();
        let is = |loaded: &Loaded, key: &KeyPair| loaded.newest().unwrap().key.serialize_der() == key.serialize_der();
        let key = identity.renewal_key().unwrap();
        assert!(is(&identity.load().unwrap(), &old), "a key alone changes nothing");
        assert_eq!(
            identity.renewal_key().unwrap().serialize_der(),
            key.serialize_der(),
            "asked for again with the same"
        );
        identity.save_next(&certificate(&key)).unwrap();
        let both = identity.load().unwrap();
        assert!(is(&both, &key) && both.current.is_some(), "the old one is there until the new one is let in");
        // An end after the first rename of the two.
        rename(&identity.next_key(), &identity.key()).unwrap();
        let between = identity.load().unwrap();
        assert!(is(&between, &key) && between.current.is_none());
        identity.promote().unwrap();
        let after = identity.load().unwrap();
        assert!(is(&after, &key) && after.next.is_none());
        // A renewal that was not let in.
        identity.renewal_key().unwrap();
        identity.save_next(&certificate(&identity.renewal_key().unwrap())).unwrap();
        identity.drop_next().unwrap();
        assert!(is(&identity.load().unwrap(), &key));
    }
}
