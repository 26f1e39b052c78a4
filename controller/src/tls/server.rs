//! The server's side of TLS: 1.3 only, no resumption, client certificates of the agents' authority.
//! A connection without one is let in for enrolment alone; `serve/identity.rs` says who is who.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use shared::BucketId;

use super::ca::Authority;
use super::{Error, issue};

/// The configuration, and the certificate that agents will see (DER), which proofs are bound to. Agents of all of `trusted`
/// are let in; the first of them signs what they see.
pub fn config(trusted: &[Authority], bucket: BucketId, now_ms: i64) -> Result<(Arc<ServerConfig>, Vec<u8>), Error> {
    let make = |why: String| Error::Make { what: "the server's side of TLS", why };
    let shows = trusted.first().ok_or_else(|| make("there is no authority".to_owned()))?;
    let (chain, key) = issue::controller(shows, bucket, now_ms)?;
    let shown = chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default();
    let mut roots = RootCertStore::empty();
    for authority in trusted {
        roots.add(authority.certificate.clone()).map_err(|error| make(error.to_string()))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| make(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| make(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| make(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would outlive a revocation.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok((Arc::new(config), shown))
}
