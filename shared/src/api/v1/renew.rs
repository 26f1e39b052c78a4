//! A new certificate for an agent that has one. The agent uses the new one from then on; with its first
//! use the old one is over.

use serde::{Deserialize, Serialize};

use crate::{Host, WorkerId};

/// What an agent sends, over a connection with the certificate that it has. The key was made anew on the worker
/// and stays there; of the CSR the controller takes the public key and nothing else. The same key again gives the
/// same certificate: the answer was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// PKCS#10, DER, base64.
    pub csr: String,
}

/// The same for an agent whose certificate has ended, or may have: to the path of enrolment, without a client
/// certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenRequest {
    /// The certificate that it has, DER, base64.
    pub certificate: String,
    /// PKCS#10 of the new key, DER, base64.
    pub csr: String,
    /// Signature of [`crate::token::renewal`] by the key of `certificate`, base64.
    pub proof: String,
}

/// What the agent gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewResponse {
    /// Its new certificate, PEM.
    pub certificate: String,
    /// How many certificates its worker had before this one, and one.
    pub generation: u64,
    /// Roots that the controller's certificate may come from, PEM.
    pub trust_roots: String,
}

/// Answer to an agent that asks who it is: shows that its certificate is let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whoami {
    /// The worker that the certificate is of.
    pub worker_id: WorkerId,
    /// Its name in workers.json; `None` when it is in there no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// Number of the certificate among those of its worker.
    pub generation: u64,
    /// Roots that the controller's certificate may come from, PEM: from now on these alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_roots: Option<String>,
    /// The agent is to ask for a new certificate now: its own is of an authority that is to go.
    #[serde(default)]
    pub renew: bool,
}
