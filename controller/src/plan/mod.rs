//! What a deploy will do, with no choice left in it. Pure: (catalog, options) to plan.

pub mod action;
pub mod batches;
pub mod check;
pub mod later;
pub mod report;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::{ActionKind, AllocId, BundleDigest, Host, JobName, RelPath, WorkerId};

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
    /// The changed paths for which it is restarted and not reloaded.
    #[serde(default)]
    pub matched: Vec<RelPath>,
}

/// What differs from what was promoted, by allocation; only where a decision may depend on it.
pub type Changed = BTreeMap<AllocId, Vec<RelPath>>;

/// One job's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPlan {
    /// Which.
    pub job: JobName,
    /// Its wave.
    pub seq: u32,
    /// Time limit of its make targets, seconds.
    pub timeout_s: u64,
    /// Permission bits of the job's directory, when its manifest sets them.
    #[serde(default)]
    pub dir_mode: Option<u32>,
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

/// The allocations whose action depends on what changed: those of jobs with globs that have something to
/// compare, with what was promoted and what is new.
pub fn compared(snapshot: &Snapshot) -> Vec<(AllocId, BundleDigest, BundleDigest)> {
    let globbed: BTreeSet<&JobName> =
        snapshot.jobs.iter().filter(|job| !job.spec.restart_globs.is_empty()).map(|job| &job.name).collect();
    let pair = |a: &crate::model::Allocation| {
        let (from, to) = (a.promoted.as_ref()?.bundle, a.bundle?);
        (a.is_active() && from != to && globbed.contains(&a.job)).then_some((a.alloc_id, from, to))
    };
    snapshot.allocations.iter().filter_map(pair).collect()
}

/// Plans.
pub fn plan(snapshot: &Snapshot, options: &Options, changed: &Changed) -> Plan {
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
            let changed = changed.get(&allocation.alloc_id).map(Vec::as_slice);
            match (action::decide(&job.spec, allocation, changed, options.force), allocation.bundle) {
                (Decision::Move { kind, matched }, Some(to)) => moves.push(Move {
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
                    matched,
                }),
                (_, bundle) => skipped.push((allocation.host.clone(), bundle)),
            }
        }
        let batches = batches::batches(moves, job.spec.max_concurrent_starts, job.spec.max_concurrent_upgrades);
        let (seq, timeout_s) = (job.spec.deployment_seq, job.spec.action_timeout_s);
        let dir_mode = job.spec.dir_mode;
        jobs.push(JobPlan { job: job.name.clone(), seq, timeout_s, dir_mode, batches, skipped });
    }
    jobs.sort_by(|a, b| (a.seq, &a.job).cmp(&(b.seq, &b.job)));
    Plan { jobs }
}
