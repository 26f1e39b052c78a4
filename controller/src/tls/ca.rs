//! Edge: the two certificate authorities of a bucket. Jobs' certificates and agents' come from
//! different ones, so that the one can never pass for the other.
#![expect(clippy::disallowed_methods, reason = "edge: reads and writes secrets/")]

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use shared::BucketId;
use x509_parser::certificate::X509Certificate;

use super::Error;
use crate::paths::BucketDir;
use crate::permissions;

/// How long a CA is good, days.
const CA_DAYS: u64 = 3650;
/// How far back a certificate begins, so that a clock a little behind accepts it.
pub(super) const BACKDATE: Duration = Duration::from_secs(300);

/// Which authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// For what jobs serve and use among themselves.
    Jobs,
    /// For agents and for this controller.
    Agents,
}

impl Kind {
    fn files(self, bucket: &BucketDir) -> (PathBuf, PathBuf) {
        match self {
            Self::Jobs => (bucket.ca_cert(), bucket.ca_key()),
            Self::Agents => (bucket.agent_ca_cert(), bucket.agent_ca_key()),
        }
    }

    /// The subject of its certificate.
    pub fn common_name(self, bucket: BucketId) -> String {
        match self {
            Self::Jobs => format!("maand {bucket}"),
            Self::Agents => format!("maand agents {bucket}"),
        }
    }
}

/// A loaded authority.
#[derive(Debug)]
pub struct Authority {
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// The same as PEM.
    pub pem: String,
    /// SubjectPublicKeyInfo of its key, DER: what a join token pins.
    pub spki: Vec<u8>,
    /// Until when it is good, milliseconds since 1970 UTC.
    pub not_after_ms: i64,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// For signing.
    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Reads an authority of the bucket; of the agents' the first.
    pub fn load(kind: Kind, bucket: &BucketDir) -> Result<Self, Error> {
        Self::read(kind.files(bucket), bucket)
    }

    fn read((cert_path, key_path): (PathBuf, PathBuf), bucket: &BucketDir) -> Result<Self, Error> {
        let shown = |path: &Path| bucket.shown(path).to_string();
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| Error::File { operation: "read", path: shown(path), source })
        };
        let (pem, key) = (read(&cert_path)?, read(&key_path)?);
        let unusable = |path: &Path, why: String| Error::Unusable { path: shown(path), why };
        let key = KeyPair::from_pem(&key).map_err(|error| unusable(&key_path, error.to_string()))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| unusable(&cert_path, format!("no certificate in it ({error})")))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| unusable(&cert_path, error.to_string()))?;
        check(&parsed).map_err(|why| unusable(&cert_path, why))?;
        let spki = parsed.public_key().raw.to_vec();
        let not_after_ms = parsed.validity().not_after.timestamp().saturating_mul(1000);
        if spki != key.subject_public_key_info() {
            return Err(unusable(&cert_path, format!("it does not belong to the key in {}", shown(&key_path))));
        }
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(|error| unusable(&cert_path, error.to_string()))?;
        Ok(Self { certificate: certificate.into_owned(), pem, spki, not_after_ms, issuer })
    }
}

/// An operator may put an authority of their own here: what it signs must be believed.
fn check(certificate: &X509Certificate<'_>) -> Result<(), String> {
    if certificate.is_ca() { Ok(()) } else { Err("it is no authority: it may not sign certificates".to_owned()) }
}

/// The certificate of an authority, and until when it is good, without its key.
pub fn certificate(kind: Kind, bucket: &BucketDir) -> Result<(String, i64), Error> {
    let (path, _) = kind.files(bucket);
    let shown = bucket.shown(&path).to_string();
    let pem = std::fs::read_to_string(&path).map_err(|source| Error::File {
        operation: "read",
        path: shown.clone(),
        source,
    })?;
    let unusable = |why: String| Error::Unusable { path: shown.clone(), why };
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| unusable(error.to_string()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| unusable(error.to_string()))?;
    check(&parsed).map_err(unusable)?;
    Ok((pem, parsed.validity().not_after.timestamp().saturating_mul(1000)))
}

/// One of the agents' authorities.
pub fn agents(bucket: &BucketDir, number: u32) -> Result<Authority, Error> {
    Authority::read(bucket.agent_ca(number), bucket)
}

/// Makes one of the agents' authorities unless it is there; whether it was made.
pub fn ensure_agents(bucket: &BucketDir, number: u32, id: BucketId, now_ms: i64) -> Result<bool, Error> {
    ensure_pair(Kind::Agents, bucket.agent_ca(number), bucket, id, now_ms)
}

/// Makes an authority unless it is there; whether it was made.
pub fn ensure(kind: Kind, bucket: &BucketDir, id: BucketId, now_ms: i64) -> Result<bool, Error> {
    ensure_pair(kind, kind.files(bucket), bucket, id, now_ms)
}

fn ensure_pair(
    kind: Kind,
    (cert_path, key_path): (PathBuf, PathBuf),
    bucket: &BucketDir,
    id: BucketId,
    now_ms: i64,
) -> Result<bool, Error> {
    let shown = |path: &Path| bucket.shown(path).to_string();
    match (cert_path.exists(), key_path.exists()) {
        (true, true) => return Ok(false),
        (true, false) => return Err(Error::Half { present: shown(&cert_path), missing: shown(&key_path) }),
        (false, true) => return Err(Error::Half { present: shown(&key_path), missing: shown(&cert_path) }),
        (false, false) => {}
    }
    let make = |error: rcgen::Error| Error::Make { what: "a certificate authority", why: error.to_string() };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, kind.common_name(id));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, now_ms, BACKDATE, Duration::from_secs(CA_DAYS * 86_400));
    params.serial_number = Some(serial()?);
    let certificate = params.self_signed(&key).map_err(make)?;
    // The key first: a certificate without its key would be taken for a lost key.
    write(&key_path, key.serialize_pem().as_bytes(), &shown(&key_path))?;
    write(&cert_path, certificate.pem().as_bytes(), &shown(&cert_path))?;
    Ok(true)
}

fn write(path: &Path, content: &[u8], shown: &str) -> Result<(), Error> {
    let write = || {
        let mut file =
            std::fs::File::options().write(true).create_new(true).mode(permissions::file(path)).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|source| Error::File { operation: "write", path: shown.to_owned(), source })
}

/// From `backdate` before now until `lifetime` after it.
pub(super) fn validity(params: &mut CertificateParams, now_ms: i64, backdate: Duration, lifetime: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_millis(now_ms.max(0).unsigned_abs());
    params.not_before = epoch + now.saturating_sub(backdate);
    params.not_after = epoch + now + lifetime;
}

/// 127 random bits: positive whatever the first bit.
pub(super) fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0u8; 16];
    crate::secrets::random(&mut bytes)
        .map_err(|error| Error::Make { what: "a serial number", why: error.to_string() })?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}
