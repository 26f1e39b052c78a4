//! A job's hooks as its manifest declares them (`spec/behaviour.md` 2.5, 2.6).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use shared::{JobName, Name, Version};

/// Seconds that a hook may take when the manifest says nothing.
pub const DEFAULT_HOOK_TIMEOUT_S: u64 = 600;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookEvent {
    /// After a build was committed.
    PostBuild,
    /// Part of every health gate.
    HealthCheck,
    /// When an operator asks for it.
    Cli,
    /// Before a job is rolled.
    PreDeploy,
    /// After all of a job was promoted.
    PostDeploy,
    /// In place of the lifecycle.
    JobControl,
    /// After a batch's action, before its gate.
    AfterAllocationStarted,
    /// After a drain's or a removal's stop.
    AfterAllocationStopped,
}

impl HookEvent {
    /// Every event, in the order in which documents list them.
    pub const ALL: [Self; 8] = [
        Self::PostBuild,
        Self::HealthCheck,
        Self::Cli,
        Self::PreDeploy,
        Self::PostDeploy,
        Self::JobControl,
        Self::AfterAllocationStarted,
        Self::AfterAllocationStopped,
    ];

    /// As manifests and hooks' environment spell it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::PostBuild => "post_build",
            Self::HealthCheck => "health_check",
            Self::Cli => "cli",
            Self::PreDeploy => "pre_deploy",
            Self::PostDeploy => "post_deploy",
            Self::JobControl => "job_control",
            Self::AfterAllocationStarted => "after_allocation_started",
            Self::AfterAllocationStopped => "after_allocation_stopped",
        }
    }

    /// The event of that name.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.word() == word)
    }
}

/// What a hook needs of another job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Whose.
    pub job: JobName,
    /// Which hook of it.
    pub hook: Name,
    /// As written, for `cat hooks` and the hook itself.
    pub config: serde_json::Map<String, serde_json::Value>,
}

/// A hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// When it runs.
    pub executed_on: BTreeSet<HookEvent>,
    /// What it needs of another job; makes that one roll first.
    pub demand: Option<Demand>,
    /// Most seconds that one run may take.
    pub timeout_s: u64,
}

/// A bound of a demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Inclusive.
    pub min: Option<Version>,
    /// Inclusive.
    pub max: Option<Version>,
}

impl Demand {
    /// `min_version` and `max_version` of its config: a text, or a whole number.
    pub fn bounds(&self) -> Result<Bounds, String> {
        let bound = |key: &str| match self.config.get(key) {
            None => Ok(None),
            Some(serde_json::Value::String(text)) => {
                text.parse().map(Some).map_err(|error: shared::version::VersionError| format!("{key}: {error}"))
            }
            Some(serde_json::Value::Number(number)) if number.is_u64() => number
                .to_string()
                .parse()
                .map(Some)
                .map_err(|error: shared::version::VersionError| format!("{key}: {error}")),
            Some(other) => Err(format!("{key}: {other} is neither a version in quotes nor a whole number")),
        };
        let bounds = Bounds { min: bound("min_version")?, max: bound("max_version")? };
        match (&bounds.min, &bounds.max) {
            (Some(min), Some(max)) if min > max => Err(format!("min_version {min} is above max_version {max}")),
            _ => Ok(bounds),
        }
    }
}
