//! Edge: keeps the agent's certificate good for as long as it lives: asks for a new one in time, shows it, goes back to the
//! old one if it is not let in. Nothing else waits for any of it.
#![expect(clippy::disallowed_methods, reason = "edge: refused.json")]

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use data_encoding::{BASE64, HEXLOWER};
use rcgen::PublicKeyData;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use shared::api::v1;
use shared::api::v1::renew::{ProvenRequest, RenewRequest, RenewResponse};
use shared::backoff::Backoff;
use shared::diagnostic::chain;
use shared::{BucketId, Code, Diagnostic, token};

use crate::client::{self, Client, Failed};
use crate::clock;
use crate::heard::Refusal;
use crate::identity::{self, Identity, Loaded, Pair};
use crate::reconcile::renewal::{Known, Step, step};
use crate::state::durable;
use crate::tls::{Trust, Verifier};

/// Time for an exchange.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two tries. A certificate has two thirds of its life left at the first one.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(300));
/// A clock that is off by more is worth a word, milliseconds.
const CLOCK_MS: i64 = 30_000;

/// Why the controller lets this agent in no more: what `maand-agent status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Since when, milliseconds since 1970 UTC.
    pub since_ms: i64,
    /// The controller's word for it.
    pub error: String,
    /// Its message.
    pub message: String,
}

impl Refused {
    /// Reads it, if there is one.
    pub fn load(identity: &Identity) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(identity.refusal()).ok()?).ok()
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self.error.as_str() {
            "superseded_certificate" => {
                "this identity is in use elsewhere, or was replaced by a newer join: if this machine is to stay, ask for a \
                 token on the controller (maand agent token HOST) and run its line here with --replace; if not, stop maand-agent"
            }
            "superseded" => {
                "another agent has started with this identity: this one changes nothing, and tries again after some minutes; \
                 if this is a copy of another machine, stop maand-agent here; maand why HOST on the controller says who it is"
            }
            "quarantined" => {
                "stop maand-agent on the machine that is a copy, then maand agent resolve HOST on the controller; maand why \
                 HOST there names both"
            }
            _ => {
                "ask for a token on the controller (maand agent token HOST), stop maand-agent and run the line here with \
                 --replace; what runs here goes on meanwhile"
            }
        }
    }
}

/// The client's side of TLS with the newest certificate that there is.
pub fn tls(held: &Loaded, bucket: BucketId) -> Result<ClientConfig, Diagnostic> {
    let verifier = verifier(held, bucket);
    verifier.client(held.newest().map(Pair::shown)).map_err(|error| unusable(&error))
}

fn verifier(held: &Loaded, bucket: BucketId) -> std::sync::Arc<Verifier> {
    Verifier::new(Trust::Roots { roots: held.roots.clone(), name: token::controller_name(bucket) })
}

fn unusable(error: &dyn std::error::Error) -> Diagnostic {
    Diagnostic::new(Code::AgentState, "the agent's identity cannot be used").cause(error)
}

/// Why a step came to nothing.
#[derive(Debug, thiserror::Error)]
enum Held {
    #[error("{0}")]
    Own(Diagnostic),
    #[error(transparent)]
    Controller(#[from] Failed),
}

impl From<Diagnostic> for Held {
    fn from(problem: Diagnostic) -> Self {
        Self::Own(problem)
    }
}

/// One agent's identity, kept good.
#[derive(Debug)]
pub struct Renewing {
    identity: Identity,
    bucket: BucketId,
    /// The controller's URL.
    url: String,
    client: Client,
    held: Loaded,
    /// Where in the span of renewals this agent's is: the same for as long as it runs.
    random: f64,
    is_off: bool,
    /// What the controller said of its authorities when it was last asked.
    authority: Option<String>,
    /// The controller wants another certificate to be used.
    is_unwanted: bool,
    written: Option<Refusal>,
}

impl Renewing {
    /// Of the identity that was loaded.
    pub fn new(identity: Identity, bucket: BucketId, url: &str, client: Client, held: Loaded) -> Self {
        let random = clock::random();
        Self {
            identity,
            bucket,
            url: url.to_owned(),
            client,
            held,
            random,
            is_off: false,
            authority: None,
            is_unwanted: false,
            written: None,
        }
    }

    /// Goes on for ever.
    pub async fn keep(mut self) {
        let (mut attempt, mut said) = (0, String::new());
        // Of an earlier process; it is said anew if it is still so.
        drop(std::fs::remove_file(self.identity.refusal()));
        loop {
            self.note_news();
            // Once at each start, and when the controller says that something has changed.
            let mut soon = None;
            if (self.authority.is_none() || self.authority != self.client.heard().authority())
                && let Err(error) = self.learn().await
            {
                tracing::debug!(error = chain(&error), "authorities_unknown");
                soon = Some(RETRY.delay(attempt, clock::random()));
            }
            let Some(newest) = self.held.newest() else { return };
            let known = Known {
                life: newest.life,
                is_untried: self.held.next.is_some(),
                is_ended: self.client.heard().is_ended(),
                is_unwanted: self.is_unwanted,
            };
            let now_ms = clock::now_ms().saturating_add(self.client.heard().offset_ms().unwrap_or(0));
            let done = match step(&known, now_ms, self.random) {
                Step::Wait(pause) => {
                    if soon.is_some() {
                        attempt = attempt.saturating_add(1);
                    }
                    let pause = soon.map_or(pause, |soon| soon.min(pause));
                    drop(tokio::time::timeout(pause, self.client.heard().news()).await);
                    continue;
                }
                Step::Try => self.show().await,
                Step::Renew => self.renew().await,
                Step::Prove => self.prove().await,
            };
            match done {
                Ok(()) => {
                    attempt = 0;
                    said.clear();
                }
                Err(error) => {
                    let text = chain(&error);
                    if text != said {
                        tracing::warn!(error = text, "renewal_failed");
                        said = text;
                    }
                    tokio::time::sleep(RETRY.delay(attempt, clock::random())).await;
                    attempt = attempt.saturating_add(1);
                }
            }
        }
    }

    /// Says what is worth a word, and keeps it where `maand-agent status` finds it.
    fn note_news(&mut self) {
        if let Some(offset_ms) = self.client.heard().offset_ms() {
            let is_off = offset_ms.abs() >= CLOCK_MS;
            if is_off && !self.is_off {
                tracing::warn!(seconds = -offset_ms / 1000, "clock_off: this machine's clock, less the controller's");
            }
            self.is_off = is_off;
        }
        let refusal = self.client.heard().refusal();
        if refusal == self.written {
            return;
        }
        match &refusal {
            Some(Refusal { error, message }) => {
                let refused = Refused { since_ms: clock::now_ms(), error: error.clone(), message: message.clone() };
                tracing::error!(error, message, "refused: {}", refused.remedy());
                let text = serde_json::to_vec(&refused).unwrap_or_default();
                drop(durable::write_soon(&self.identity.refusal(), &text, 0o600));
            }
            None => drop(std::fs::remove_file(self.identity.refusal())),
        }
        self.written = refusal;
    }

    fn use_newest(&self) -> Result<(), Diagnostic> {
        self.client.change(tls(&self.held, self.bucket)?).map_err(|error| unusable(&error))
    }

    /// Shows the new certificate: with the first request that is let in it is the agent's only one.
    async fn show(&mut self) -> Result<(), Held> {
        match self.client.whoami(&self.trusts()).await {
            Ok(whoami) => {
                self.identity.promote()?;
                self.held = self.identity.load()?;
                self.is_unwanted = whoami.renew;
                tracing::info!(generation = whoami.generation, "certificate_renewed");
                Ok(())
            }
            Err(error) if error.is_about_the_certificate() && self.held.current.is_some() => {
                tracing::error!(error = chain(&error), "certificate_refused: the one before it is used");
                self.identity.drop_next()?;
                self.held = self.identity.load()?;
                self.use_newest()?;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Pins of the authorities that are trusted.
    fn trusts(&self) -> String {
        let pins = self.held.roots.iter().filter_map(|root| identity::pin(root));
        pins.map(|pin| HEXLOWER.encode(&pin)).collect::<Vec<_>>().join(",")
    }

    /// Asks which authorities count. New ones are durable, then used, then said to be: the controller waits for that.
    async fn learn(&mut self) -> Result<(), Held> {
        let mut whoami = self.client.whoami(&self.trusts()).await?;
        if let Some(roots) = whoami.trust_roots.take()
            && !self.identity.has_roots(&roots)
        {
            self.identity.save_roots(&roots)?;
            self.held = self.identity.load()?;
            self.use_newest()?;
            tracing::info!(count = self.held.roots.len(), "authorities_changed");
            whoami = self.client.whoami(&self.trusts()).await?;
        }
        self.is_unwanted = whoami.renew;
        self.authority = Some(self.client.heard().authority().unwrap_or_default());
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), Held> {
        let key = self.identity.renewal_key()?;
        let csr = identity::request(&key).map_err(|error| unusable(&error))?;
        match self.client.renew(&RenewRequest { csr: BASE64.encode(&csr) }).await {
            Ok(answer) => self.take(&answer),
            Err(error) => self.not_given(error),
        }
    }

    /// A new certificate is durable before it is used.
    fn take(&mut self, answer: &RenewResponse) -> Result<(), Held> {
        self.identity.save_next(&answer.certificate)?;
        self.held = self.identity.load()?;
        self.client.heard().certificate_changed();
        self.is_unwanted = false;
        self.use_newest()?;
        Ok(())
    }

    /// A key that the controller does not take is not asked for again.
    fn not_given(&mut self, error: Failed) -> Result<(), Held> {
        if matches!(&error, Failed::Refused { error, .. } if error == "key_used") {
            self.identity.drop_next()?;
        }
        Err(error.into())
    }

    async fn prove(&mut self) -> Result<(), Held> {
        if self.held.next.is_some() {
            // It has ended before it was seen to be let in: the newest there is, all the same.
            self.identity.promote()?;
            self.held = self.identity.load()?;
        }
        let Some(pair) = &self.held.current else { return Ok(()) };
        let key = self.identity.renewal_key()?;
        let csr = identity::request(&key).map_err(|error| unusable(&error))?;
        let verifier = verifier(&self.held, self.bucket);
        let tls = verifier.client(None).map_err(|error| unusable(&error))?;
        let http = client::http(tls).map_err(Failed::Transport)?;
        // Shows the controller's certificate, which the proof is bound to; says nothing.
        let reached = http.get(format!("{}{}", self.url, v1::SELF)).timeout(LIMIT).send().await;
        reached.map_err(Failed::Transport)?;
        let server = verifier.seen().unwrap_or_default();
        let message = token::renewal(&pair.certificate, &key.subject_public_key_info(), &server);
        let request = ProvenRequest {
            certificate: BASE64.encode(&pair.certificate),
            csr: BASE64.encode(&csr),
            proof: BASE64.encode(&sign(pair, &message)?),
        };
        match client::post::<RenewResponse>(&http, &format!("{}{}", self.url, v1::ENROL), &request, LIMIT).await {
            Ok(answer) => {
                tracing::info!("certificate_had_ended: a new one was given for its key");
                self.take(&answer)
            }
            Err(error) => {
                self.client.heard().judged(Some(&error));
                self.not_given(error)
            }
        }
    }
}

/// Signs with the key of a certificate.
fn sign(pair: &Pair, message: &[u8]) -> Result<Vec<u8>, Diagnostic> {
    let odd = || Diagnostic::new(Code::AgentState, "the agent's key cannot be used");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pair.key.serialize_der())
        .map_err(|error| odd().cause(&error))?;
    debug_assert!(!key.public_key().as_ref().is_empty());
    let signed = key.sign(&SystemRandom::new(), message).map_err(|_| odd())?;
    Ok(signed.as_ref().to_vec())
}
