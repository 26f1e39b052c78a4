//! The operator's input: `load` reads the directory, everything else is pure and gives a
//! [`Workspace`] or all problems at once.

pub mod disabled;
pub mod facts;
pub mod json;
pub mod load;
pub mod manifest;
pub mod overrides;
pub mod parse;
pub mod spans;
pub mod workers;

use std::collections::{BTreeMap, BTreeSet};

use shared::{BlobDigest, Diagnostic, JobName, RelPath};

use crate::model::JobFile;

pub use disabled::Disabled;
pub use manifest::{Manifest, Port};
pub use workers::WorkerEntry;

/// What `load` read: bytes of what is parsed, digests of the rest.
#[derive(Debug, Default)]
pub struct Raw {
    /// workspace/workers.json; `None` when it is not there.
    pub workers: Option<String>,
    /// workspace/bucket.conf; `None` when it is not there.
    pub bucket_conf: Option<String>,
    /// The bucket.jobs[.<selector>].conf that the settings choose: its name, and its text if it is there.
    pub overrides: Option<(String, Option<String>)>,
    /// workspace/disabled.json; `None` when it is not there.
    pub disabled: Option<String>,
    /// Every directory below workspace/jobs that has a manifest.json, by name.
    pub jobs: BTreeMap<String, RawJob>,
}

/// One job's directory.
#[derive(Debug, Default)]
pub struct RawJob {
    /// manifest.json.
    pub manifest: String,
    /// vars.toml, if there is one.
    pub vars: Option<String>,
    /// Every file.
    pub files: Vec<RawFile>,
}

/// One file of a job.
#[derive(Debug)]
pub struct RawFile {
    /// Relative to the job's directory.
    pub path: RelPath,
    /// 0o644 or 0o755.
    pub mode: u32,
    /// Bytes.
    pub len: u64,
    /// Content, in the store.
    pub blob: BlobDigest,
}

/// A workspace as far as it could be read: whole when `problems` is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Workspace {
    /// In the file's order.
    pub workers: Vec<WorkerEntry>,
    /// bucket.conf.
    pub variables: BTreeMap<String, String>,
    /// Numbers for ports that ask for any.
    pub port_pool: (u16, u16),
    /// By name.
    pub jobs: Vec<JobInput>,
    /// What is drained.
    pub disabled: Disabled,
    /// Directories of jobs that could not be read: what refers to them is not wrong for that.
    pub broken: BTreeSet<String>,
    /// Whether workers.json could be read.
    pub workers_known: bool,
    /// In the order of the files.
    pub problems: Vec<Diagnostic>,
    /// Older words in use, with what took their place.
    pub older: BTreeMap<&'static str, &'static str>,
}

/// A job that has been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct JobInput {
    /// Its name.
    pub name: JobName,
    /// Its manifest.
    pub manifest: Manifest,
    /// vars.toml.
    pub variables: BTreeMap<String, String>,
    /// Its table of the override file.
    pub overrides: BTreeMap<String, String>,
    /// Its files, by path.
    pub files: Vec<JobFile>,
}
