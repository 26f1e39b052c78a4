//! What the agents' authority signs: agents' certificates and this controller's own.

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use shared::{BucketId, WorkerId, token};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::Error;
use super::ca::{Authority, serial, validity};

/// How long the certificate of a serving process is good, days; it is made anew at each start.
const SERVER_DAYS: u64 = 400;
/// How far back these certificates begin: agents judge the controller's by their own clocks, which may be behind, and
/// the controller's may be set back by as much. What jobs use begins as `ca.rs` says.
const BACKDATE: Duration = Duration::from_secs(86_400);

/// The public key of a certificate request: SubjectPublicKeyInfo, DER. Nothing else of a request is
/// ever used: a library that signs what a request asks for would make a CA of whoever asks for one.
pub fn request_key(csr: &[u8]) -> Result<Vec<u8>, Error> {
    let csr = CertificateSigningRequestDer::from(csr);
    let (rest, request) =
        X509CertificationRequest::from_der(&csr).map_err(|_| Error::Request("it is no PKCS#10 request"))?;
    if !rest.is_empty() {
        return Err(Error::Request("there are bytes behind it"));
    }
    request.verify_signature().map_err(|_| Error::Request("its signature is not by its own key"))?;
    let spki = &request.certification_request_info.subject_pki;
    // P-256 (id-ecPublicKey with prime256v1) or Ed25519.
    let algorithm = spki.algorithm.algorithm.to_id_string();
    let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
    match (algorithm.as_str(), curve.as_deref()) {
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) | ("1.3.101.112", None) => Ok(spki.raw.to_vec()),
        _ => Err(Error::Request("its key is neither P-256 nor Ed25519")),
    }
}

/// An issued certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// DER.
    pub der: CertificateDer<'static>,
    /// PEM.
    pub pem: String,
    /// Hexadecimal.
    pub serial: String,
    /// Milliseconds since 1970 UTC.
    pub not_after_ms: i64,
}

/// A certificate for the agent of `worker`, for the key `spki`, not longer than its authority.
pub fn agent(
    authority: &Authority,
    bucket: BucketId,
    worker: WorkerId,
    spki: &[u8],
    now_ms: i64,
    lifetime: Duration,
) -> Result<Issued, Error> {
    let make = |error: rcgen::Error| Error::Make { what: "an agent's certificate", why: error.to_string() };
    let key = SubjectPublicKeyInfo::from_der(spki).map_err(make)?;
    let mut params = leaf(format!("maand worker {worker}"), ExtendedKeyUsagePurpose::ClientAuth)?;
    let uri = Ia5String::try_from(token::worker_uri(bucket, worker)).map_err(make)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let left = Duration::from_millis(authority.not_after_ms.saturating_sub(now_ms).max(0).unsigned_abs());
    let lifetime = lifetime.min(left);
    // A short one begins not long ago: agents measure by what it says.
    validity(&mut params, now_ms, BACKDATE.min(lifetime / 10), lifetime);
    let serial = params.serial_number.as_ref().map_or_else(String::new, ToString::to_string);
    let certificate = params.signed_by(&key, authority.issuer()).map_err(make)?;
    Ok(Issued {
        der: certificate.der().clone(),
        pem: certificate.pem(),
        serial,
        not_after_ms: now_ms.saturating_add(i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX)),
    })
}

/// Chain and key of the controller of `bucket`.
pub fn controller(
    authority: &Authority,
    bucket: BucketId,
    now_ms: i64,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let make = |error: rcgen::Error| Error::Make { what: "the controller's certificate", why: error.to_string() };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
    let mut params = leaf(format!("maand controller {bucket}"), ExtendedKeyUsagePurpose::ServerAuth)?;
    let name = Ia5String::try_from(token::controller_name(bucket)).map_err(make)?;
    params.subject_alt_names = vec![SanType::DnsName(name)];
    validity(&mut params, now_ms, BACKDATE, Duration::from_secs(SERVER_DAYS * 86_400));
    let certificate = params.signed_by(&key, authority.issuer()).map_err(make)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((vec![certificate.der().clone(), authority.certificate.clone()], key))
}

fn leaf(common_name: String, usage: ExtendedKeyUsagePurpose) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.serial_number = Some(serial()?);
    Ok(params)
}
