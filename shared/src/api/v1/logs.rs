//! Up: output of make targets and scripts, in capped chunks.

use serde::{Deserialize, Serialize};

use crate::{ActionId, JobName, OperationId, RunId};

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Whose output it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// An action's.
    Action {
        /// Which.
        action_id: ActionId,
        /// The job.
        job: JobName,
        /// The make target.
        target: String,
    },
    /// An operation's.
    Operation {
        /// Which; the controller knows the rest.
        operation_id: OperationId,
    },
}

impl Source {
    /// The id of the action or operation, as text.
    pub fn id(&self) -> String {
        match self {
            Self::Action { action_id, .. } => action_id.to_string(),
            Self::Operation { operation_id } => operation_id.to_string(),
        }
    }
}

/// A stretch of one stream of one action or operation. Idempotent by (id, stream, offset): what the
/// controller has already is not written again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogChunk {
    /// Whose output it is.
    pub source: Source,
    /// The rollout or command that it belongs to.
    pub run_id: RunId,
    /// Which stream.
    pub stream: Stream,
    /// Bytes of the stream before this chunk.
    pub offset: u64,
    /// The bytes, base64: output need not be text.
    pub bytes: String,
    /// Bytes that were left out before this chunk, because the output was longer than the cap.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Body of `POST /v1/self/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogBatch {
    /// In the order in which they were produced.
    pub chunks: Vec<LogChunk>,
}
