//! Enrolment: a join token and a public key for a certificate.

use serde::{Deserialize, Serialize};

use crate::{BucketId, Host, WorkerId};

/// What an agent sends to join. The key was made on the worker and stays there; of the CSR the
/// controller takes the public key and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The token's id, base64url.
    pub token_id: String,
    /// PKCS#10, DER, base64.
    pub csr: String,
    /// Ed25519 signature of [`crate::token::proof`] by the token's secret, base64.
    pub proof: String,
}

/// What the agent gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolResponse {
    /// The bucket.
    pub bucket_id: BucketId,
    /// Who the agent is from now on.
    pub worker_id: WorkerId,
    /// The worker's name in workers.json.
    pub host: Host,
    /// The agent's certificate, PEM.
    pub certificate: String,
    /// Roots that the controller's certificate may come from, PEM.
    pub trust_roots: String,
}
