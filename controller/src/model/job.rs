//! A job: what its manifest says, and the files of its directory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::{BlobDigest, JobName, Name, RelPath, Version};

use super::cert::CertSpec;
use super::{Glob, HealthCheck, Hook, HookEvent};

/// Time limit of a make target when the manifest has none, seconds.
pub const DEFAULT_ACTION_TIMEOUT_S: u64 = 300;

/// A job with everything that build knows of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its name.
    pub name: JobName,
    /// What its manifest says.
    pub spec: JobSpec,
    /// Its files, by path.
    pub files: Vec<JobFile>,
}

/// A manifest after parsing and defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// As written; `None` when the manifest has none.
    pub version: Option<String>,
    /// Effective selectors: the manifest's, or the job's name.
    pub selectors: Vec<Name>,
    /// Most allocations that roll at once once they have been deployed; at least 1.
    pub max_concurrent_upgrades: u32,
    /// Most allocations that start at once at their first deploy; 0 = all.
    pub max_concurrent_starts: u32,
    /// Fewer non-removed allocations than this fail the build.
    pub min_allocations_count: u32,
    /// Time limit of each make target, seconds.
    pub action_timeout_s: u64,
    /// Numbers of the job's ports by name, after allocation.
    pub ports: BTreeMap<Name, u16>,
    /// Where the demand graph puts the job; lower rolls first.
    pub deployment_seq: u32,
    /// MiB.
    #[serde(default)]
    pub memory: Amount,
    /// MHz.
    #[serde(default)]
    pub cpu: Amount,
    /// What an update does.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// With the policy `reload`: a changed path that matches one of them restarts.
    #[serde(default)]
    pub restart_globs: Vec<Glob>,
    /// By name.
    #[serde(default)]
    pub hooks: BTreeMap<Name, Hook>,
    /// Of the gates.
    #[serde(default)]
    pub health_check: HealthCheck,
    /// By name.
    #[serde(default)]
    pub certs: BTreeMap<Name, CertSpec>,
    /// How many allocations may fail before the job does.
    #[serde(default)]
    pub max_failed: Budget,
    /// How many allocations may be out of reach.
    #[serde(default)]
    pub max_unreachable: Budget,
    /// Permission bits of the job's directory, when the manifest sets them.
    #[serde(default)]
    pub dir_mode: Option<u32>,
    /// Files that were edited on a worker are put back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub self_heal: bool,
}

/// What an update does to an allocation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// `make restart`.
    #[default]
    Always,
    /// `make reload`, or `make restart` where a glob matches.
    Reload,
    /// Files only.
    Never,
}

/// A reservation of memory or processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Amount {
    /// Least that an override may set.
    pub min: f64,
    /// Most that it may set.
    pub max: f64,
    /// What counts against a worker.
    pub reserved: f64,
    /// `manifest`, or the override file's name.
    pub source: String,
}

impl Default for Amount {
    fn default() -> Self {
        Self { min: 0.0, max: 0.0, reserved: 0.0, source: "manifest".to_owned() }
    }
}

/// A number of allocations, or a part of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// So many.
    Count(u32),
    /// So many of a hundred, rounded down.
    Percent(u8),
}

impl Default for Budget {
    fn default() -> Self {
        Self::Count(0)
    }
}

impl Budget {
    /// How many of `all` that is.
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Percent(percent) => all * usize::from(percent) / 100,
        }
    }
}

impl JobSpec {
    /// The version that a deploy compares and prints: canonical, `0.0.0` when there is none.
    pub fn deploy_version(&self) -> String {
        let parsed = self.version.as_deref().and_then(|text| text.parse::<Version>().ok());
        parsed.unwrap_or_else(Version::unversioned).to_string()
    }

    /// Whether the job has hooks for `event`.
    pub fn has_hooks(&self, event: HookEvent) -> bool {
        self.hooks.values().any(|hook| hook.executed_on.contains(&event))
    }

    /// Whether job_control hooks stand in for its make targets.
    pub fn controlled(&self) -> bool {
        self.has_hooks(HookEvent::JobControl)
    }
}

/// What becomes of a workspace file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Goes to the worker as it is.
    Shipped,
    /// `NAME.j2`: its rendering goes to the worker as `NAME`.
    Template,
    /// Stays: manifest.json, vars.toml, `_modules/`, `_prometheus/`.
    Control,
}

/// One file of a job's directory; its content is in the blob store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFile {
    /// Relative to the job's directory.
    pub path: RelPath,
    /// 0o644 or 0o755.
    pub mode: u32,
    /// Bytes.
    pub len: u64,
    /// Content.
    pub blob: BlobDigest,
    /// What becomes of it.
    pub kind: FileKind,
}
