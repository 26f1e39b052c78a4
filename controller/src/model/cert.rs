//! Certificates of jobs: what a manifest asks for, and what there is of it.

use serde::{Deserialize, Serialize};
use shared::{BlobDigest, Host, JobName, Name};

/// The kind of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// ECDSA, P-256.
    #[default]
    Ecdsa,
    /// RSA with 2048 bits.
    Rsa,
}

/// A certificate that a manifest asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CertSpec {
    /// The key file is PKCS#8 (`PRIVATE KEY`), not the key's own form (`EC PRIVATE KEY`, `RSA PRIVATE KEY`).
    pub pkcs8: bool,
    /// One pair for all of the job's workers, not one each.
    pub one: bool,
    /// The subject.
    pub common_name: String,
    /// The key.
    pub key: KeyKind,
}

/// A certificate that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Whose.
    pub job: JobName,
    /// Which.
    pub name: Name,
    /// Where.
    pub host: Host,
    /// Digest of all that it was made of.
    pub inputs: [u8; 32],
    /// Subject.
    pub common_name: String,
    /// Milliseconds since 1970 UTC.
    pub not_after_ms: i64,
    /// The file `certs/<name>.crt`: content and length.
    pub crt: (BlobDigest, u64),
    /// The file `certs/<name>.key`.
    pub key: (BlobDigest, u64),
}

/// How a certificate stands (`cat certs`).
pub fn status(not_after_ms: i64, now_ms: i64, buffer_days: u32) -> &'static str {
    if now_ms > not_after_ms {
        "expired"
    } else if renewal_due(not_after_ms, now_ms, buffer_days) {
        "expiring"
    } else {
        "ok"
    }
}

/// Whether it is time for another one: it has ended, or ends within `buffer_days`.
pub fn renewal_due(not_after_ms: i64, now_ms: i64, buffer_days: u32) -> bool {
    now_ms >= not_after_ms.saturating_sub(i64::from(buffer_days) * 86_400_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_ok_then_expiring_then_expired() {
        let day = 86_400_000;
        assert_eq!(status(100 * day, 50 * day, 10), "ok");
        assert_eq!(status(100 * day, 90 * day, 10), "expiring");
        assert_eq!(status(100 * day, 99 * day, 0), "ok");
        assert_eq!(status(100 * day, 100 * day + 1, 0), "expired");
    }
}
