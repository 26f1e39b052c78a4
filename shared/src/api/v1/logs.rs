//! Up: output of make targets and scripts, in capped chunks.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::{ActionId, JobName, OperationId, RunId};

/// Longest stream, bytes (1 PiB): an offset beyond it is nobody's.
pub const MAX_STREAM: u64 = 1 << 50;

/// Most bytes before and behind a chunk that are sent with it to show what it was cut out of.
pub const MAX_AROUND: usize = 4 << 10;

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
    /// Bytes of the stream right before this chunk, base64, where it does not begin with a line: so that what it
    /// begins in the middle of is known. They are not its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub before: String,
    /// Bytes right behind it, where it does not end with a line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub after: String,
}

/// The bytes of a chunk, and those around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Before, own and after.
    pub all: Vec<u8>,
    /// Which of `all` are the chunk's own.
    pub own: std::ops::Range<usize>,
}

impl Content {
    /// The chunk's own bytes.
    pub fn own(&self) -> &[u8] {
        self.all.get(self.own.clone()).unwrap_or_default()
    }
}

impl LogChunk {
    /// The bytes.
    ///
    /// # Errors
    /// What is wrong with them, or with where they are to be.
    pub fn content(&self) -> Result<Content, &'static str> {
        if self.offset > MAX_STREAM {
            return Err("offset: no stream is that long");
        }
        let around = |text: &str, what: &'static str| {
            BASE64.decode(text.as_bytes()).ok().filter(|bytes| bytes.len() <= MAX_AROUND).ok_or(what)
        };
        let mut all = around(&self.before, "before: not base64, or more than 4096 bytes")?;
        let begin = all.len();
        all.extend(BASE64.decode(self.bytes.as_bytes()).map_err(|_| "bytes: not base64")?);
        let end = all.len();
        all.extend(around(&self.after, "after: not base64, or more than 4096 bytes")?);
        Ok(Content { all, own: begin..end })
    }

    /// Of `content` what somebody lacks who has the first `known` bytes of the stream, and where it ends.
    pub fn beyond<'a>(&self, content: &'a [u8], known: u64) -> Option<(&'a [u8], u64)> {
        let had = usize::try_from(known.saturating_sub(self.offset)).ok()?;
        let rest = content.get(had..).filter(|rest| !rest.is_empty())?;
        let end = self.offset.checked_add(content.len() as u64).filter(|end| *end <= MAX_STREAM)?;
        Some((rest, end))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(offset: u64, text: &str) -> LogChunk {
        let source = Source::Operation { operation_id: OperationId::from_uuid(uuid::Uuid::from_u128(1)) };
        let run_id = RunId::from_uuid(uuid::Uuid::from_u128(2));
        let bytes = BASE64.encode(text.as_bytes());
        LogChunk {
            source,
            run_id,
            stream: Stream::Stdout,
            offset,
            bytes,
            omitted: 0,
            before: String::new(),
            after: String::new(),
        }
    }

    #[test]
    fn what_is_had_already_is_not_had_twice_and_no_offset_is_too_much() {
        let beyond = |offset, text: &str, known| {
            let chunk = chunk(offset, text);
            let content = chunk.content().ok()?;
            chunk.beyond(content.own(), known).map(|(rest, end)| (String::from_utf8_lossy(rest).into_owned(), end))
        };
        assert_eq!(beyond(10, "abc", 0), Some(("abc".to_owned(), 13)));
        assert_eq!(beyond(10, "abc", 11), Some(("bc".to_owned(), 13)));
        assert_eq!(beyond(10, "abc", 13), None);
        assert_eq!(beyond(10, "", 0), None);
        assert_eq!(beyond(u64::MAX, "abc", 0), None, "a sum of it would overflow");
        assert_eq!(beyond(MAX_STREAM, "abc", 0), None);
        assert!(chunk(u64::MAX, "a").content().is_err());
    }

    #[test]
    fn what_is_around_a_chunk_is_not_its_own_and_has_a_bound() {
        let with = |before: &[u8], after: &[u8]| LogChunk {
            before: BASE64.encode(before),
            after: BASE64.encode(after),
            ..chunk(10, "abc")
        };
        let content = with(b"12", b"3").content().unwrap();
        assert_eq!((content.own(), &content.all[..]), (&b"abc"[..], &b"12abc3"[..]));
        assert!(with(&[0; MAX_AROUND], &[0; MAX_AROUND]).content().is_ok());
        assert!(with(&[0; MAX_AROUND + 1], b"").content().is_err());
        assert!(with(b"", &[0; MAX_AROUND + 1]).content().is_err());
        // What an older agent sends, and an older controller takes.
        let plain = serde_json::to_value(chunk(10, "abc")).unwrap();
        assert!(plain.get("before").is_none() && plain.get("after").is_none());
        assert_eq!(serde_json::from_value::<LogChunk>(plain).unwrap(), chunk(10, "abc"));
    }
}
