//! The catalog as one immutable value: all that build knows, for the pure parts to decide on.

use shared::{BucketId, Host, JobName};

use super::{Allocation, Job, Worker};

/// Everything that the last build committed, with what was promoted since.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Which bucket.
    pub bucket_id: BucketId,
    /// Moves only by `maand recover`.
    pub epoch: u64,
    /// Of the last real deploy.
    pub update_seq: u64,
    /// When the last build succeeded, milliseconds since 1970 UTC; `None` before the first.
    pub built_at_ms: Option<i64>,
    /// By position, then host.
    pub workers: Vec<Worker>,
    /// By name; without their files unless asked for.
    pub jobs: Vec<Job>,
    /// By job, then worker position, then host; removed ones included.
    pub allocations: Vec<Allocation>,
}

impl Snapshot {
    /// The worker named `host`.
    pub fn worker(&self, host: &Host) -> Option<&Worker> {
        self.workers.iter().find(|w| w.host == *host)
    }

    /// The job named `name`.
    pub fn job(&self, name: &JobName) -> Option<&Job> {
        self.jobs.binary_search_by(|j| j.name.cmp(name)).ok().map(|at| &self.jobs[at])
    }

    /// The job's allocations, in worker order; removed ones included.
    pub fn allocations_of<'a>(&'a self, job: &'a JobName) -> impl Iterator<Item = &'a Allocation> {
        let first = self.allocations.partition_point(|a| a.job < *job);
        self.allocations[first..].iter().take_while(move |a| a.job == *job)
    }
}
