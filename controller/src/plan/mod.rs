//! What a deploy will do, with no choice left in it. Pure: (catalog, options) to plan.

pub mod action;
pub mod batches;
pub mod check;
pub mod report;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::{ActionKind, AllocId, BundleDigest, Host, JobName, WorkerId};

use crate::model::Snapshot;
use action::Decision;

/// What the operator asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Only these jobs; empty means all.
    pub jobs: BTreeSet<JobName>,
    /// Roll also what is in sync.
    pub force: bool,
}

/// One allocation's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Which.
    pub alloc_id: AllocId,
    /// Its worker.
    pub worker_id: WorkerId,
    /// Its worker's name.
    pub host: Host,
    /// What to do.
    pub kind: ActionKind,
    /// What was promoted.
    pub from: Option<BundleDigest>,
    /// What it gets.
    pub to: BundleDigest,
    /// Version that was promoted.
    pub current_version: String,
    /// Version that it gets.
    pub new_version: String,
}

/// One job's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPlan {
    /// Which.
    pub job: JobName,
    /// Its wave.
    pub seq: u32,
    /// Time limit of its make targets, seconds.
    pub timeout_s: u64,
    /// In order; empty when there is nothing to do.
    pub batches: Vec<Vec<Move>>,
    /// In sync: host and hash, for the report.
    pub skipped: Vec<(Host, Option<BundleDigest>)>,
}

impl JobPlan {
    /// Whether there is anything to do.
    pub fn is_required(&self) -> bool {
        !self.batches.is_empty()
    }
}

/// A whole deploy, by wave and job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// By wave, then job.
    pub jobs: Vec<JobPlan>,
}

impl Plan {
    /// Whether there is anything to do.
    pub fn is_required(&self) -> bool {
        self.jobs.iter().any(JobPlan::is_required)
    }
}

/// Plans.
pub fn plan(snapshot: &Snapshot, options: &Options) -> Plan {
    let mut by_job: BTreeMap<&JobName, Vec<_>> = BTreeMap::new();
    for allocation in snapshot.allocations.iter().filter(|a| a.is_active()) {
        by_job.entry(&allocation.job).or_default().push(allocation);
    }
    let mut jobs = Vec::new();
    for job in &snapshot.jobs {
        let Some(allocations) = by_job.get(&job.name) else { continue };
        if !options.jobs.is_empty() && !options.jobs.contains(&job.name) {
            continue;
        }
        let (mut moves, mut skipped) = (Vec::new(), Vec::new());
        for allocation in allocations {
            match (action::decide(allocation, options.force), allocation.bundle) {
                (Decision::Move(kind), Some(to)) => moves.push(Move {
                    alloc_id: allocation.alloc_id,
                    worker_id: allocation.worker_id,
                    host: allocation.host.clone(),
                    kind,
                    from: allocation.promoted.as_ref().map(|p| p.bundle),
                    to,
                    current_version: allocation
                        .promoted
                        .as_ref()
                        .map_or_else(|| "0.0.0".to_owned(), |p| p.version.clone()),
                    new_version: allocation.new_version.clone(),
                }),
                (_, bundle) => skipped.push((allocation.host.clone(), bundle)),
            }
        }
        let batches = batches::batches(moves, job.spec.max_concurrent_starts, job.spec.max_concurrent_upgrades);
        let (seq, timeout_s) = (job.spec.deployment_seq, job.spec.action_timeout_s);
        jobs.push(JobPlan { job: job.name.clone(), seq, timeout_s, batches, skipped });
    }
    jobs.sort_by(|a, b| (a.seq, &a.job).cmp(&(b.seq, &b.job)));
    Plan { jobs }
}
