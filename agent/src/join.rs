//! Edge: enrolment. The key is made here and kept before anything is sent, so that a lost answer can
//! be asked for again with the same key.
#![expect(clippy::disallowed_methods, reason = "edge: the key of an enrolment under way")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use shared::api::v1;
use shared::api::v1::enrol::{EnrolRequest, EnrolResponse};
use shared::token::{self, JoinToken};
use shared::{Code, Diagnostic};

use crate::client::{self, Failed};
use crate::config::{self, Config, Partial};
use crate::identity::{self, Identity};
use crate::machine;
use crate::state::durable;
use crate::tls::{Trust, Verifier, controller_name_of};

/// Time for the whole exchange.
const LIMIT: Duration = Duration::from_secs(30);

/// Where an agent shall live.
#[derive(Debug, Clone)]
pub struct Place {
    /// The settings to write.
    pub config: PathBuf,
    /// Where jobs live, if the settings do not say it.
    pub root: Option<PathBuf>,
    /// Where the identity lives, if the settings do not say it.
    pub state: Option<PathBuf>,
    /// Take the place of an identity that is there.
    pub replace: bool,
}

/// Enrols with `token` at `url`; writes the identity, then the settings.
pub async fn join(url: &str, token: &str, place: &Place) -> Result<Config, Diagnostic> {
    let token: JoinToken = token.parse().map_err(|error: token::TokenError| {
        Diagnostic::new(Code::JoinRefused, error.to_string())
            .remedy("copy the whole line that `maand agent token` printed")
    })?;
    let url = url.trim_end_matches('/');
    if !url.starts_with("https://") {
        let problem = Diagnostic::new(Code::ControllerUnreachable, format!("{url:?} is no URL of a controller"));
        return Err(problem.remedy("copy the whole line that `maand agent token` printed"));
    }
    let dirs = (dir(place, "root", config::ROOT)?, dir(place, "state", config::STATE)?);
    let into = config::written_by_join(&place.config)?;
    if into.is_file() && !place.replace {
        let old = Config::load(&place.config)?;
        let problem =
            Diagnostic::new(Code::AlreadyJoined, format!("this agent has joined bucket {} already", old.bucket_id));
        return Err(problem.at(place.config.display()).remedy(
            "nothing needs to be done; to join anew, stop maand-agent and add --replace; for a second bucket name another --config",
        ));
    }
    let pending = dirs.1.join(format!("joining-{}.key", HEXLOWER.encode(&token.id)));
    let key = pending_key(&pending)?;

    let verifier = Verifier::new(Trust::Pin(token.pin));
    let tls = verifier.client(None).map_err(|error| unusable(&error))?;
    let http = client::http(tls).map_err(|error| unusable(&error))?;
    // A first request shows the controller's certificate, which the proof is bound to. It is checked
    // against the pin before a byte is sent; the request itself says nothing.
    let reached = http.get(format!("{url}{}", v1::DESIRED)).timeout(LIMIT).send().await;
    let certificate = match (reached, verifier.seen()) {
        (Ok(_), Some(certificate)) => certificate,
        (Err(error), _) => return Err(unreachable(url, &error)),
        (Ok(_), None) => return Err(Diagnostic::new(Code::ControllerMismatch, format!("{url} showed no certificate"))),
    };
    let request = request(&token, &key, &certificate)?;
    let answer: EnrolResponse = client::post(&http, &format!("{url}{}", v1::ENROL), &request, LIMIT)
        .await
        .map_err(|failed| refused(url, failed))?;
    if controller_name_of(&certificate) != Some(token::controller_name(answer.bucket_id)) {
        let problem =
            Diagnostic::new(Code::ControllerMismatch, format!("{url} is another bucket's controller than it says"));
        return Err(problem.remedy("ask for a new token on the controller that this worker belongs to"));
    }
    let identity = Identity::new(&dirs.1, answer.bucket_id);
    identity.save(&key.serialize_pem(), &answer.certificate, &answer.trust_roots)?;
    machine::record(&identity, answer.bucket_id)?;
    let config = Config {
        controller: url.to_owned(),
        bucket_id: answer.bucket_id,
        worker_id: answer.worker_id,
        root: dirs.0,
        state: dirs.1,
        poll_interval_seconds: None,
        drift_check_seconds: None,
        allow: None,
    };
    config.save(&into)?;
    drop(std::fs::remove_file(&pending));
    Ok(config)
}

/// A directory as the command line or the settings name it; the two must not differ.
fn dir(place: &Place, key: &str, default: &str) -> Result<PathBuf, Diagnostic> {
    let settings = Partial::load(&place.config)?.filter(|settings| settings.bucket_id.is_none()).unwrap_or_default();
    let (asked, set) = if key == "root" { (&place.root, settings.root) } else { (&place.state, settings.state) };
    match (asked.as_deref().map(absolute), set) {
        (Some(asked), Some(set)) if asked != set => {
            let message = format!("--{key} {} is not what the settings say: {}", asked.display(), set.display());
            let problem = Diagnostic::new(Code::Usage, message).at(place.config.display());
            Err(problem.remedy(format_args!("leave --{key} out, or correct the file")))
        }
        (asked, set) => Ok(asked.or(set).unwrap_or_else(|| default.into())),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The key of this token's enrolment: the one that was made for an earlier try, or a new one.
fn pending_key(path: &Path) -> Result<KeyPair, Diagnostic> {
    let problem = |error: &dyn std::error::Error| {
        Diagnostic::new(Code::AgentState, "a key for this agent cannot be made").at(path.display()).cause(error)
    };
    if let Ok(pem) = std::fs::read_to_string(path) {
        return KeyPair::from_pem(&pem).map_err(|error| problem(&error));
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| problem(&error))?;
    if let Some(dir) = path.parent() {
        durable::private_dir(dir).map_err(|error| {
            problem(&error).remedy("run as root, or name directories of your own with --state and --root")
        })?;
    }
    durable::write(path, key.serialize_pem().as_bytes(), 0o600).map_err(|error| problem(&error))?;
    Ok(key)
}

fn request(token: &JoinToken, key: &KeyPair, certificate: &[u8]) -> Result<EnrolRequest, Diagnostic> {
    let csr = identity::request(key).map_err(|error| unusable(&error))?;
    let signer = Ed25519KeyPair::from_seed_unchecked(&token.secret).map_err(|error| unusable(&error))?;
    debug_assert_eq!(signer.public_key().as_ref().len(), 32);
    let proof = signer.sign(&token::proof(&token.id, &key.subject_public_key_info(), certificate));
    Ok(EnrolRequest {
        token_id: BASE64URL_NOPAD.encode(&token.id),
        csr: BASE64.encode(&csr),
        proof: BASE64.encode(proof.as_ref()),
    })
}

fn unusable(error: &dyn std::error::Error) -> Diagnostic {
    Diagnostic::new(Code::AgentState, "the agent's cryptography cannot be used").cause(error)
}

fn unreachable(url: &str, error: &reqwest::Error) -> Diagnostic {
    let chain = shared::diagnostic::chain(error);
    if chain.contains("invalid peer certificate") {
        return Diagnostic::new(
            Code::ControllerMismatch,
            format!("{url} is not the controller that the token is from"),
        )
        .note(chain)
        .remedy("check the address; a proxy that opens TLS must let this port through as it is");
    }
    Diagnostic::new(Code::ControllerUnreachable, format!("the controller at {url} cannot be reached"))
        .note(chain)
        .remedy("start `maand serve` there, and check the address and the firewall on the way (one TCP port, outbound from here)")
}

fn refused(url: &str, failed: Failed) -> Diagnostic {
    match failed {
        Failed::Refused { status, error, message } => {
            Diagnostic::new(Code::JoinRefused, format!("the controller refused: {message}"))
                .note(format!("{url} answered {status} {error}"))
                .remedy("ask for a new token on the controller: maand agent token HOST")
        }
        Failed::Transport(error) => unreachable(url, &error),
        other => {
            Diagnostic::new(Code::ControllerUnreachable, format!("the answer of {url} cannot be used")).cause(&other)
        }
    }
}
