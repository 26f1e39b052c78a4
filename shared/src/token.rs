//! The join token: `mj1.<id>.<secret>.<pin>`, each part base64url without padding. It names one
//! pending enrolment, proves the right to it, and says which controller to speak to
//! (`design/security.md` 1.3, Identity and enrolment).
//!
//! The secret is an Ed25519 seed. It is never sent: the agent signs [`proof`] with it, and the
//! controller stores only the public key, so neither a box that ends TLS in between nor a reader of
//! the catalog can redeem the token with a key of its own.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD as BASE64;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Why a text is no join token. It never repeats the text: a token is a secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("this is not a join token (mj1. and three parts): was it cut when it was copied?")]
pub struct TokenError;

/// A join token. `Debug` hides the secret; [`fmt::Display`] prints the whole.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Which enrolment.
    pub id: [u8; 16],
    /// The Ed25519 seed that proves the right to it.
    pub secret: [u8; 32],
    /// sha256 of the SubjectPublicKeyInfo of the controller's CA.
    pub pin: [u8; 32],
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, [hidden])", BASE64.encode(&self.id))
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mj1.{}.{}.{}", BASE64.encode(&self.id), BASE64.encode(&self.secret), BASE64.encode(&self.pin))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        if parts.next() != Some("mj1") {
            return Err(TokenError);
        }
        fn part<const N: usize>(text: Option<&str>) -> Result<[u8; N], TokenError> {
            let bytes = BASE64.decode(text.ok_or(TokenError)?.as_bytes()).map_err(|_| TokenError)?;
            bytes.try_into().map_err(|_| TokenError)
        }
        let token = Self { id: part(parts.next())?, secret: part(parts.next())?, pin: part(parts.next())? };
        if parts.next().is_some() { Err(TokenError) } else { Ok(token) }
    }
}

/// What the token's secret signs: bound to the key that asks for a certificate and to the server
/// certificate that the agent saw, so that the proof is worth nothing elsewhere.
pub fn proof(token_id: &[u8; 16], spki: &[u8], server_certificate: &[u8]) -> Vec<u8> {
    let mut message = b"maand-enrol-1\n".to_vec();
    message.extend_from_slice(token_id);
    message.extend_from_slice(&Sha256::digest(spki));
    message.extend_from_slice(&Sha256::digest(server_certificate));
    message
}

/// What the key of an agent's certificate signs to get a new one without showing it to TLS, which lets none in that
/// has ended: bound to that certificate, to the new key and to the server certificate that the agent saw.
pub fn renewal(certificate: &[u8], spki: &[u8], server_certificate: &[u8]) -> Vec<u8> {
    let mut message = b"maand-renew-1\n".to_vec();
    for part in [certificate, spki, server_certificate] {
        message.extend_from_slice(&Sha256::digest(part));
    }
    message
}

/// sha256 of a SubjectPublicKeyInfo: what a token pins.
pub fn pin(spki: &[u8]) -> [u8; 32] {
    Sha256::digest(spki).into()
}

/// The name that a controller's certificate bears: it is known by its bucket, not by its address, so
/// that an address may change, and sit behind any forwarding, without a new certificate.
pub fn controller_name(bucket: crate::BucketId) -> String {
    format!("{bucket}.controller.maand.internal")
}

/// The URI that an agent's certificate bears.
pub fn worker_uri(bucket: crate::BucketId, worker: crate::WorkerId) -> String {
    format!("spiffe://maand/{bucket}/worker/{worker}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_rejects_what_is_not_whole() {
        let token = JoinToken { id: [1; 16], secret: [2; 32], pin: [3; 32] };
        let text = token.to_string();
        assert_eq!(text.parse::<JoinToken>().unwrap(), token);
        assert_eq!(format!(" {text}\n").parse::<JoinToken>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&BASE64.encode(&[2; 32])));
        for bad in ["", "mj1", &text[..text.len() - 1], &text[1..], &format!("{text}.x"), &text.replace("mj1", "mj2")] {
            assert!(bad.parse::<JoinToken>().is_err(), "{bad:?}");
        }
    }
}
