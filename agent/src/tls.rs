//! The agent's side of TLS. The controller is known by the authority that the join token pins and by
//! one name made of the bucket's id; the address that was dialled has no part in it.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use shared::token;

/// The name's end, for a controller whose bucket is not known yet.
const NAME_SUFFIX: &str = ".controller.maand.internal";

/// What the controller is known by.
#[derive(Debug, Clone)]
pub enum Trust {
    /// When joining: sha256 of the authority's public key; any bucket's name.
    Pin([u8; 32]),
    /// Later: the authorities that were given then, and this bucket's name.
    Roots {
        /// DER.
        roots: Vec<CertificateDer<'static>>,
        /// [`token::controller_name`].
        name: String,
    },
}

/// Verifies the controller, and keeps the certificate that it saw.
#[derive(Debug)]
pub struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<CertificateDer<'static>>>,
}

impl Verifier {
    /// For one kind of trust.
    pub fn new(trust: Trust) -> Arc<Self> {
        Arc::new(Self { trust, provider: Arc::new(aws_lc_rs::default_provider()), seen: Mutex::new(None) })
    }

    /// The controller's certificate of the last handshake (DER).
    pub fn seen(&self) -> Option<Vec<u8>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().map(|certificate| certificate.to_vec())
    }

    /// A client that shows `identity`, if it has one.
    pub fn client(
        self: &Arc<Self>,
        identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.clone());
        let mut config = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        // The controller looks at its bucket, not at a name that is asked for.
        config.enable_sni = false;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn anchors(&self, intermediates: &[CertificateDer<'_>]) -> Result<(RootCertStore, Option<String>), Error> {
        let mut roots = RootCertStore::empty();
        match &self.trust {
            Trust::Roots { roots: known, name } => {
                for root in known {
                    roots.add(root.clone())?;
                }
                Ok((roots, Some(name.clone())))
            }
            Trust::Pin(pin) => {
                let pinned = intermediates.iter().find(|certificate| {
                    x509_parser::parse_x509_certificate(certificate)
                        .is_ok_and(|(_, parsed)| token::pin(parsed.public_key().raw) == *pin)
                });
                let pinned = pinned.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                roots.add(pinned.clone().into_owned())?;
                Ok((roots, None))
            }
        }
    }
}

/// The one name of a controller's certificate.
pub fn controller_name_of(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    match names.value.general_names.as_slice() {
        [x509_parser::extensions::GeneralName::DNSName(name)] if name.ends_with(NAME_SUFFIX) => {
            Some((*name).to_owned())
        }
        _ => None,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (roots, name) = self.anchors(intermediates)?;
        let unnamed = || Error::InvalidCertificate(CertificateError::NotValidForName);
        let name = name.or_else(|| controller_name_of(end_entity)).ok_or_else(unnamed)?;
        let name = ServerName::try_from(name).map_err(|_| unnamed())?;
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let verified = inner.verify_server_cert(end_entity, intermediates, &name, ocsp, now)?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer, KeyPair, PublicKeyData,
    };
    use shared::BucketId;

    struct Ca {
        der: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
        pin: [u8; 32],
    }

    fn ca() -> Ca {
        let key = KeyPair::generate().unwrap();
        let pin = token::pin(&key.subject_public_key_info());
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().clone();
        Ca { der, issuer: Issuer::new(params, key), pin }
    }

    fn leaf(ca: &Ca, name: &str, usage: Usage) -> CertificateDer<'static> {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        params.signed_by(&KeyPair::generate().unwrap(), &ca.issuer).unwrap().der().clone()
    }

    fn verify(trust: Trust, leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> bool {
        let dialled = ServerName::try_from("192.0.2.1").unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(crate::clock::now_ms().unsigned_abs()));
        Verifier::new(trust).verify_server_cert(leaf, chain, &dialled, &[], now).is_ok()
    }

    #[test]
    fn only_the_pinned_authoritys_controller_is_one() {
        let (ours, theirs) = (ca(), ca());
        let bucket = BucketId::from_uuid(uuid::Uuid::from_u128(1));
        let name = token::controller_name(bucket);
        let good = leaf(&ours, &name, Usage::ServerAuth);
        let chain = [ours.der.clone()];
        assert!(verify(Trust::Pin(ours.pin), &good, &chain));
        assert!(!verify(Trust::Pin(theirs.pin), &good, &chain), "another authority");
        assert!(!verify(Trust::Pin(ours.pin), &leaf(&theirs, &name, Usage::ServerAuth), &chain), "not signed by it");
        assert!(!verify(Trust::Pin(ours.pin), &leaf(&ours, &name, Usage::ClientAuth), &chain), "an agent's");
        assert!(!verify(Trust::Pin(ours.pin), &leaf(&ours, "controller.example", Usage::ServerAuth), &chain));
        assert!(!verify(Trust::Pin(ours.pin), &good, &[]), "the pinned one is not in the chain");
        let roots = |name: &str| Trust::Roots { roots: vec![ours.der.clone()], name: name.to_owned() };
        assert!(verify(roots(&name), &good, &[]));
        let other = token::controller_name(BucketId::from_uuid(uuid::Uuid::from_u128(2)));
        assert!(!verify(roots(&other), &good, &[]), "another bucket's controller");
    }
}
