//! How the controller says no.

use serde::{Deserialize, Serialize};

/// Body of every answer that is not a success. What is not the caller's answers 404 with the same
/// body as what does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A stable word that an agent may match on, such as `not_found`, `token_used`, `revoked`.
    pub error: String,
    /// For people; nothing internal.
    pub message: String,
    /// As in the controller's log.
    pub request_id: String,
}
