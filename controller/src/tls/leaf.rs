//! What the jobs' authority signs: certificates for what jobs serve and use among themselves.

use std::net::IpAddr;
use std::time::Duration;

use data_encoding::BASE64;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize, SanType,
};
use shared::Host;
use zeroize::Zeroizing;

use super::Error;
use super::ca::{Authority, BACKDATE, serial, validity};
use crate::model::cert::{CertSpec, KeyKind};

/// A new pair.
#[derive(Debug)]
pub struct Pair {
    /// The certificate, PEM.
    pub crt: String,
    /// The key, PEM.
    pub key: Zeroizing<String>,
    /// Milliseconds since 1970 UTC.
    pub not_after_ms: i64,
}

/// Issues a pair that is good for `hosts` and for this machine itself, for `ttl_days`, and not longer
/// than the authority.
pub fn issue(
    authority: &Authority,
    spec: &CertSpec,
    hosts: &[Host],
    now_ms: i64,
    ttl_days: u32,
) -> Result<Pair, Error> {
    let make = |error: rcgen::Error| Error::Make { what: "a job's certificate", why: error.to_string() };
    let key = match spec.key {
        KeyKind::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?,
        KeyKind::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).map_err(make)?,
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, spec.common_name.clone());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if spec.key == KeyKind::Rsa {
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.serial_number = Some(serial()?);
    params.subject_alt_names = names(hosts).map_err(make)?;
    let ttl_ms = i64::from(ttl_days) * 86_400_000;
    let not_after_ms = now_ms.saturating_add(ttl_ms).min(authority.not_after_ms);
    let lifetime = Duration::from_millis(not_after_ms.saturating_sub(now_ms).max(0).unsigned_abs());
    validity(&mut params, now_ms, BACKDATE, lifetime);
    let certificate = params.signed_by(&key, authority.issuer()).map_err(make)?;
    let pkcs8 = Zeroizing::new(key.serialize_der());
    let key = match (spec.pkcs8, spec.key) {
        (true, _) => pem("PRIVATE KEY", &pkcs8),
        (false, KeyKind::Rsa) => pem("RSA PRIVATE KEY", inner(&pkcs8).ok_or_else(odd)?),
        (false, KeyKind::Ecdsa) => pem("EC PRIVATE KEY", &sec1(inner(&pkcs8).ok_or_else(odd)?).ok_or_else(odd)?),
    };
    Ok(Pair { crt: certificate.pem(), key: Zeroizing::new(key), not_after_ms })
}

fn odd() -> Error {
    Error::Make { what: "a job's key", why: "the library's encoding is not the expected one".to_owned() }
}

/// Addresses as addresses, everything else as DNS names.
fn names(hosts: &[Host]) -> Result<Vec<SanType>, rcgen::Error> {
    let mut all: Vec<&str> = hosts.iter().map(Host::as_str).collect();
    all.extend(["127.0.0.1", "localhost"]);
    let mut names = Vec::new();
    for (at, host) in all.iter().enumerate() {
        if all[..at].contains(host) {
            continue;
        }
        names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(Ia5String::try_from(*host)?),
        });
    }
    Ok(names)
}

/// The header and content length of one DER element of at most 64 KiB.
fn element(der: &[u8], tag: u8) -> Option<(usize, usize)> {
    let (first, rest) = der.split_first()?;
    let (header, len) = match rest {
        [len @ 0..=0x7f, ..] => (2, usize::from(*len)),
        [0x81, len, ..] => (3, usize::from(*len)),
        [0x82, high, low, ..] => (4, usize::from(*high) << 8 | usize::from(*low)),
        _ => return None,
    };
    (*first == tag && der.len() >= header + len).then_some((header, len))
}

/// The key's own encoding inside PKCS#8 (RFC 5208): version, algorithm, OCTET STRING.
fn inner(pkcs8: &[u8]) -> Option<&[u8]> {
    let (header, len) = element(pkcs8, 0x30)?;
    let mut rest = pkcs8.get(header..header + len)?;
    for tag in [0x02, 0x30] {
        let (header, len) = element(rest, tag)?;
        rest = rest.get(header + len..)?;
    }
    let (header, len) = element(rest, 0x04)?;
    rest.get(header..header + len)
}

/// An ECPrivateKey (RFC 5915) with its curve named: inside PKCS#8 the curve is left out.
fn sec1(key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    /// [0] { OID prime256v1 }
    const CURVE: [u8; 12] = [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let (header, len) = element(key, 0x30)?;
    let body = key.get(header..header + len)?;
    let (version_header, version) = element(body, 0x02)?;
    let (secret_header, secret) = element(body.get(version_header + version..)?, 0x04)?;
    let at = version_header + version + secret_header + secret;
    let rest = body.get(at..)?;
    let rest = if rest.starts_with(&CURVE) { rest.get(CURVE.len()..)? } else { rest };
    let len = u8::try_from(at + CURVE.len() + rest.len()).ok()?;
    let mut made = Zeroizing::new(if len < 0x80 { vec![0x30, len] } else { vec![0x30, 0x81, len] });
    made.extend_from_slice(body.get(..at)?);
    made.extend_from_slice(&CURVE);
    made.extend_from_slice(rest);
    Some(made)
}

fn pem(kind: &str, der: &[u8]) -> String {
    let text = Zeroizing::new(BASE64.encode(der));
    let mut pem = format!("-----BEGIN {kind}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {kind}-----\n"));
    pem
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make a directory")]
mod tests {
    use super::*;
    use crate::paths::BucketDir;
    use crate::tls::ca::{self, Kind};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use shared::BucketId;

    #[test]
    fn pairs_of_every_kind_can_be_served_with() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = BucketDir::new(dir.path());
        std::fs::create_dir(bucket.secrets()).unwrap();
        let now_ms = 1_700_000_000_000;
        ca::ensure(Kind::Jobs, &bucket, BucketId::from_uuid(uuid::Uuid::from_u128(1)), now_ms).unwrap();
        let authority = Authority::load(Kind::Jobs, &bucket).unwrap();
        let hosts: Vec<Host> = ["10.0.0.1", "db.example", "fe80"].map(|host| host.parse().unwrap()).to_vec();
        for (key, pkcs8, kind) in [
            (KeyKind::Ecdsa, true, "PRIVATE KEY"),
            (KeyKind::Ecdsa, false, "EC PRIVATE KEY"),
            (KeyKind::Rsa, true, "PRIVATE KEY"),
            (KeyKind::Rsa, false, "RSA PRIVATE KEY"),
        ] {
            let spec = CertSpec { pkcs8, one: false, common_name: "api".into(), key };
            let pair = issue(&authority, &spec, &hosts, now_ms, 60).unwrap();
            assert!(pair.key.starts_with(&format!("-----BEGIN {kind}-----\n")), "{key:?} {pkcs8}");
            assert_eq!(pair.not_after_ms, now_ms + 60 * 86_400_000);
            let der = CertificateDer::from_pem_slice(pair.crt.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            // Checks that the key is the certificate's.
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            rustls::sign::CertifiedKey::from_der(vec![der.clone()], key, &provider).unwrap();
            let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
            let names = parsed.subject_alternative_name().unwrap().unwrap().value;
            let text = format!("{names:?}");
            for name in ["[10, 0, 0, 1]", "db.example", "fe80", "[127, 0, 0, 1]", "localhost"] {
                assert!(text.contains(name), "{name} in {text}");
            }
            let usage = parsed.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.server_auth && usage.client_auth && !parsed.is_ca());
        }
        let long = CertSpec { pkcs8: true, one: false, common_name: "api".into(), key: KeyKind::Ecdsa };
        let pair = issue(&authority, &long, &hosts, now_ms, 365_000).unwrap();
        assert_eq!(pair.not_after_ms, authority.not_after_ms, "nothing outlives its authority");
    }
}
