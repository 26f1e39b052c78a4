//! Up: output of make targets, in capped chunks.

use serde::{Deserialize, Serialize};

use crate::{ActionId, JobName, RunId};

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A stretch of one stream of one action. Idempotent by (action, stream, offset): what the
/// controller has already is not written again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogChunk {
    /// The action whose output it is.
    pub action_id: ActionId,
    /// The rollout that the action belongs to.
    pub run_id: RunId,
    /// The job.
    pub job: JobName,
    /// The make target.
    pub target: String,
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
