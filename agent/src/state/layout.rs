//! Every path on a worker, named once.

use std::path::{Path, PathBuf};

use shared::{BlobDigest, BucketId, JobName};

/// `<root>/<bucket_id>`, where jobs live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout(PathBuf);

impl Layout {
    /// Of one bucket below `root`.
    pub fn new(root: &Path, bucket: BucketId) -> Self {
        Self(root.join(bucket.to_string()))
    }

    /// The bucket's directory itself.
    pub fn bucket(&self) -> &Path {
        &self.0
    }

    /// For people and scripts: who this worker is.
    pub fn worker_json(&self) -> PathBuf {
        self.0.join("worker.json")
    }

    /// For people and scripts: which jobs are here.
    pub fn jobs_json(&self) -> PathBuf {
        self.0.join("jobs.json")
    }

    /// All jobs.
    pub fn jobs(&self) -> PathBuf {
        self.0.join("jobs")
    }

    /// One job.
    pub fn job(&self, job: &JobName) -> PathBuf {
        self.jobs().join(job.as_str())
    }

    /// The agent's own; 0700.
    pub fn own(&self) -> PathBuf {
        self.0.join(".maand")
    }

    /// The ledger.
    pub fn ledger(&self) -> PathBuf {
        self.own().join("ledger.db")
    }

    /// Held by the one agent of this bucket.
    pub fn lock(&self) -> PathBuf {
        self.own().join("lock")
    }

    /// Fetched blobs.
    pub fn store(&self) -> PathBuf {
        self.own().join("store")
    }

    /// One fetched blob.
    pub fn blob(&self, digest: &BlobDigest) -> PathBuf {
        let hex = digest.hex();
        self.store().join(&hex[..2]).join(hex)
    }

    /// A pack while it is fetched.
    pub fn download(&self, name: &str) -> PathBuf {
        self.own().join(format!("pack-{name}"))
    }

    /// Runs of make targets and scripts.
    pub fn runs(&self) -> PathBuf {
        self.own().join("runs")
    }

    /// One run, by the id of its action or operation: what to do, its output, its result.
    pub fn run(&self, id: &str) -> PathBuf {
        self.runs().join(id)
    }
}
