//! Down: ad-hoc work for one worker. Up: what became of it. An operation is no part of what should be:
//! it runs once, within its time, or never (`spec/behaviour.md` 10.6).
//!
//! - Never twice: the agent writes an id down before it starts, and keeps it for as long as its desired
//!   state lists the operation.
//! - Never stale: it starts before `not_after_ms` or expires. That is a moment of the *controller's*
//!   clock, not a span, because one fence has one document, whenever it is fetched. The agent knows that
//!   clock from [`crate::api::CLOCK_HEADER`] of every answer and starts nothing before it has heard one.
//! - Two on one allocation never run at once, nor beside an action of it.
//! - An operation with `cancel`, or one that is no longer listed, is ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::health::HealthSpec;
use crate::{AllocId, BundleDigest, JobName, OperationId, RunId};

/// Longest script, bytes.
pub const MAX_SCRIPT: usize = 1 << 20;
/// Most operations that a worker has at once.
pub const MAX_OPEN: usize = 1000;
/// Most bytes of all operations that a worker has at once, as JSON.
pub const MAX_BYTES: usize = 4 << 20;

/// One piece of ad-hoc work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// It runs at most once.
    pub id: OperationId,
    /// The command that it belongs to, for logs.
    pub run_id: RunId,
    /// What.
    pub work: Work,
    /// How long it may take, seconds.
    pub timeout_s: u64,
    /// It must have started by then: the controller's clock, milliseconds since 1970 UTC.
    pub not_after_ms: i64,
    /// What must be true when it starts; otherwise it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precondition: Option<Precondition>,
    /// End it, or do not begin.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// A Makefile target of an allocation, as its actions run one.
    Make {
        /// Which allocation.
        alloc_id: AllocId,
        /// Its job.
        job: JobName,
        /// The target, see [`is_target`].
        target: String,
        /// More variables for it.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        env: BTreeMap<String, String>,
    },
    /// A script for bash (sh where there is none), in the bucket's directory on the worker, with
    /// BUCKET_ID and WORKER_IP.
    Script {
        /// At most [`MAX_SCRIPT`] bytes.
        body: String,
    },
    /// The checks of an allocation, until they are good.
    Probe {
        /// Which allocation.
        alloc_id: AllocId,
        /// Its job.
        job: JobName,
        /// What is asked; `attempts` and `interval_s` say how often.
        health: HealthSpec,
    },
    /// The end of what an allocation's job wrote into its own `logs/`; at most 1 MiB of it.
    Logs {
        /// Which allocation.
        alloc_id: AllocId,
        /// Its job.
        job: JobName,
        /// Lines from the end of each file.
        tail: u32,
        /// And what is written from there on.
        follow: bool,
    },
    /// A kind that this program does not know: it is refused.
    #[serde(other)]
    Unknown,
}

impl Work {
    /// The word of `allow` in agent.toml.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Make { .. } => "make",
            Self::Script { .. } => "script",
            Self::Probe { .. } => "probe",
            Self::Logs { .. } => "logs",
            Self::Unknown => "unknown",
        }
    }

    /// The allocation that it is about.
    pub const fn alloc_id(&self) -> Option<AllocId> {
        match self {
            Self::Make { alloc_id, .. } | Self::Probe { alloc_id, .. } | Self::Logs { alloc_id, .. } => Some(*alloc_id),
            Self::Script { .. } | Self::Unknown => None,
        }
    }

    /// The job that it is about.
    pub const fn job(&self) -> Option<&JobName> {
        match self {
            Self::Make { job, .. } | Self::Probe { job, .. } | Self::Logs { job, .. } => Some(job),
            Self::Script { .. } | Self::Unknown => None,
        }
    }

    /// What logs call it: the target, or the kind.
    pub fn label(&self) -> &str {
        match self {
            Self::Make { target, .. } => target,
            other => other.word(),
        }
    }
}

/// What must be true of an allocation and its worker when an operation starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precondition {
    /// These files are in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleDigest>,
    /// The deploy that the agent knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_seq: Option<u64>,
}

/// Whether a Makefile target may be asked for: a letter or digit, then letters, digits, `_ . -`, so that
/// none is an option or a variable for make (`spec/behaviour.md` 8.2).
pub fn is_target(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && text.len() <= 128 && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// An operation and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedOperation {
    /// Which.
    pub id: OperationId,
    /// What became of it; `None` while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Ended>,
    /// When the agent took it up, its clock, milliseconds since 1970 UTC.
    pub started_ms: i64,
    /// How long it took, milliseconds.
    #[serde(default)]
    pub duration_ms: u64,
    /// Bytes of output that were left out, of both streams.
    #[serde(default)]
    pub omitted: u64,
}

impl ObservedOperation {
    /// Cuts what is longer than the wire allows.
    pub fn bound(&mut self) {
        if let Some(Ended::Refused { reason: text } | Ended::Unhealthy { problem: text }) = &mut self.outcome {
            text.truncate(text.floor_char_boundary(super::health::MAX_PROBLEM));
        }
    }
}

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Ended {
    /// Done; a probe: healthy.
    Ok,
    /// It ended otherwise.
    Failed {
        /// Exit code, or 128 + signal as shells count.
        exit: i32,
    },
    /// A probe's checks were not all good.
    Unhealthy {
        /// Which was not, where and why, in one line.
        problem: String,
    },
    /// It was ended for taking too long.
    TimedOut,
    /// The agent was ended while it ran and nobody knows how it went.
    Interrupted,
    /// The agent would not do it.
    Refused {
        /// Why.
        reason: String,
    },
    /// It was too late to start it.
    Expired,
    /// It was ended, or not begun, because the operator asked.
    Cancelled,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn targets_are_neither_options_nor_variables() {
        for good in ["start", "run-1.2_x", "0", "Migrate"] {
            assert!(is_target(good), "{good}");
        }
        for bad in ["", "-f", "A=b", "a b", "a/b", ".PHONY", "_x", "a\n", "ä", &"a".repeat(129)] {
            assert!(!is_target(bad), "{bad}");
        }
    }

    #[test]
    fn a_newer_kind_is_known_as_one_that_is_not_known() {
        let id = "8a5da52e-d126-447d-b59e-70c05721a8aa";
        let text = json!({"id": id, "run_id": id, "work": {"kind": "dance", "job": "api"}, "timeout_s": 1,
            "not_after_ms": 5});
        let operation: Operation = serde_json::from_value(text).unwrap();
        assert_eq!((operation.work, operation.cancel), (Work::Unknown, false));
    }
}
