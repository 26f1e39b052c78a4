//! What templates see besides key-values.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use shared::{AllocId, BucketId, Host, JobName, WorkerId};

use crate::model::kv::Access;
use crate::model::{Allocation, Worker};

/// What the templates of one allocation see, and whose key-values they may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The bucket.
    pub bucket_id: BucketId,
    /// The allocation that is rendered for.
    pub alloc_id: AllocId,
    /// Its job.
    pub job: JobName,
    /// The version that was promoted.
    pub current_version: String,
    /// The version that is being rendered.
    pub new_version: String,
    /// Its worker.
    pub worker_id: WorkerId,
    /// The worker's host.
    pub host: Host,
    /// The worker's labels.
    pub labels: Vec<String>,
    /// Jobs whose values it may read besides its own.
    pub upstream: BTreeSet<JobName>,
}

impl Scope {
    /// Of an allocation and its worker.
    pub fn of(bucket: BucketId, allocation: &Allocation, worker: &Worker, upstream: &BTreeSet<JobName>) -> Self {
        let promoted = allocation.promoted.as_ref().map_or("0.0.0", |promoted| promoted.version.as_str());
        Self {
            bucket_id: bucket,
            alloc_id: allocation.alloc_id,
            job: allocation.job.clone(),
            current_version: promoted.to_owned(),
            new_version: allocation.new_version.clone(),
            worker_id: worker.worker_id,
            host: worker.host.clone(),
            labels: worker.labels.iter().map(ToString::to_string).collect(),
            upstream: upstream.clone(),
        }
    }

    /// What it may read.
    pub fn access(&self) -> Access<'_> {
        Access { job: &self.job, host: &self.host, upstream: &self.upstream }
    }
}
