//! What a deploy will do, with no choice left in it. Pure: (catalog, what agents are there, options) to
//! plan.

pub mod action;
pub mod batches;
pub mod check;
pub mod demands;
mod job;
pub mod needs;
pub mod report;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::api::v1::health::HealthSpec;
use shared::{ActionKind, AllocId, BundleDigest, Host, JobName, RelPath, WorkerId};

use crate::model::job::DEFAULT_ACTION_TIMEOUT_S;
use crate::model::{Allocation, HookEvent, JobSpec, Snapshot};
use job::One;

/// What the operator asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Only these jobs; empty means all.
    pub jobs: BTreeSet<JobName>,
    /// Roll also what is in sync.
    pub force: bool,
    /// Files only, no lifecycle; a job that needs a start is refused.
    #[serde(default)]
    pub sync_only: bool,
    /// Only these allocations, which an earlier deploy went on without, and to what that deploy went on
    /// with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<BTreeSet<AllocId>>,
}

impl Options {
    fn wants(&self, job: &JobName) -> bool {
        self.jobs.is_empty() || self.jobs.contains(job)
    }

    /// What `allocation` is to get.
    fn target<'a>(&self, allocation: &'a Allocation) -> Option<(BundleDigest, &'a str)> {
        match &self.catch_up {
            None => allocation.bundle.map(|bundle| (bundle, allocation.new_version.as_str())),
            Some(_) => {
                let deferral = allocation.rolled.as_ref()?.deferred.as_ref()?;
                Some((deferral.bundle, deferral.version.as_str()))
            }
        }
    }
}

/// What is known beside the catalog.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What differs from what was promoted, by allocation; only where a decision may depend on it.
    pub changed: &'a Changed,
    /// Orders that hooks wrote, by job.
    pub orders: &'a BTreeMap<JobName, String>,
    /// Workers whose agent is there.
    pub online: &'a BTreeSet<WorkerId>,
    /// Jobs whose templates read variables or secrets, which hooks may write.
    pub volatile: &'a BTreeSet<JobName>,
    /// Workers that have not what make targets need.
    pub lacking: &'a needs::Lacking,
}

/// One active allocation's part.
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

/// What becomes of an allocation that is drained or no longer wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rest {
    /// Stop it; its files stay.
    Stop,
    /// Give it new files; nothing runs.
    Promote,
    /// Take its files away; `data/` and `logs/` stay. The stop, if there is one, comes first.
    Remove {
        /// Whether it may run.
        stop: bool,
    },
}

/// One drained or removed allocation's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {
    /// Which.
    pub alloc_id: AllocId,
    /// Its worker.
    pub worker_id: WorkerId,
    /// Its worker's name.
    pub host: Host,
    /// What to do.
    pub rest: Rest,
    /// What was promoted.
    pub from: Option<BundleDigest>,
    /// What it gets, where it gets something.
    pub to: Option<BundleDigest>,
    /// Version that was promoted.
    pub current_version: String,
    /// Version that it gets.
    pub new_version: String,
    /// Its agent is there: how it went is waited for. What is not waited for is done when the agent is back.
    pub online: bool,
    /// Its worker is in workers.json no more.
    pub gone: bool,
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
    /// Every job that it demands, directly or through others.
    #[serde(default)]
    pub demands: BTreeSet<JobName>,
    /// Time limit of its make targets, seconds.
    pub timeout_s: u64,
    /// Permission bits of the job's directory, when its manifest sets them.
    #[serde(default)]
    pub dir_mode: Option<u32>,
    /// How many of its allocations are active.
    pub active: usize,
    /// How many of them may fail before the job does.
    pub max_failed: usize,
    /// How many of them may be out of reach before the job fails.
    pub max_unreachable: usize,
    /// Why it is not rolled at all.
    #[serde(default)]
    pub refused: Option<String>,
    /// Its active workers in the order in which they roll.
    #[serde(default)]
    pub order: Vec<Host>,
    /// Whether that order is one that a hook wrote.
    #[serde(default)]
    pub ordered_by_hook: bool,
    /// Stops and removals; they come first.
    pub settle: Vec<Settle>,
    /// In order; empty when nothing is to roll.
    pub batches: Vec<Vec<Move>>,
    /// Drained allocations that get new files; they come last.
    pub promotes: Vec<Settle>,
    /// Everything is promoted and the post_deploy hooks have not ended well yet.
    #[serde(default)]
    pub post_deploy_only: bool,
    /// Events that the job has hooks for, of those that matter to this deploy.
    #[serde(default)]
    pub hooks: BTreeSet<HookEvent>,
    /// Whether it is planned anew when its turn comes: hooks may write what its templates read.
    #[serde(default)]
    pub decides: bool,
    /// Active workers whose files are not known before that.
    #[serde(default)]
    pub undecided: Vec<Host>,
    /// What its agents ask of it while it runs.
    #[serde(default)]
    pub health: Option<HealthSpec>,
    /// Whether a gate waits for what they say.
    #[serde(default)]
    pub probes: bool,
    /// Tries of a gate.
    #[serde(default)]
    pub gate_attempts: u32,
    /// Pause between them, milliseconds.
    #[serde(default)]
    pub gate_interval_ms: i64,
    /// Longest time that all tries of the probes take, milliseconds.
    #[serde(default)]
    pub gate_limit_ms: i64,
    /// In sync: host and hash, for the report.
    pub skipped: Vec<(Host, Option<BundleDigest>)>,
}

impl JobPlan {
    /// Whether there is anything to do.
    pub fn is_required(&self) -> bool {
        self.rolls() || self.post_deploy_only || self.refused.is_some() || !self.undecided.is_empty()
    }

    /// Whether any allocation is to change.
    pub fn rolls(&self) -> bool {
        !(self.settle.is_empty() && self.batches.is_empty() && self.promotes.is_empty())
    }

    /// Whether the job has hooks for `event`.
    pub fn has(&self, event: HookEvent) -> bool {
        self.hooks.contains(&event)
    }

    /// Whether hooks stand in for the lifecycle of make targets.
    pub fn controls(&self) -> bool {
        self.has(HookEvent::JobControl)
    }

    /// Whether its turn begins with its pre_deploy hooks.
    pub fn prepares(&self) -> bool {
        self.decides && self.has(HookEvent::PreDeploy) && !self.post_deploy_only
    }

    /// Whether something stands between an allocation's action and its promotion.
    pub fn is_gated(&self) -> bool {
        self.probes
            || [HookEvent::AfterAllocationStarted, HookEvent::HealthCheck, HookEvent::JobControl]
                .iter()
                .any(|event| self.has(*event))
    }
}

/// A whole deploy, by wave and job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// By wave, then job.
    pub jobs: Vec<JobPlan>,
    /// What the operator should know and what stops nothing.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Plan {
    /// Whether there is anything to do.
    pub fn is_required(&self) -> bool {
        self.jobs.iter().any(JobPlan::is_required)
    }

    /// Whether something is to change on a worker.
    pub fn concerns(&self, worker: WorkerId) -> bool {
        self.jobs.iter().any(|job| {
            let settles = job.settle.iter().chain(&job.promotes).any(|step| step.worker_id == worker);
            settles || job.batches.iter().flatten().any(|step| step.worker_id == worker)
        })
    }
}

/// The allocations whose action depends on what changed: those of jobs with globs that have something to
/// compare, with what was promoted and what is new.
pub fn compared(snapshot: &Snapshot, options: &Options) -> Vec<(AllocId, BundleDigest, BundleDigest)> {
    let globbed: BTreeSet<&JobName> =
        snapshot.jobs.iter().filter(|job| !job.spec.restart_globs.is_empty()).map(|job| &job.name).collect();
    let pair = |a: &Allocation| {
        let (from, (to, _)) = (a.promoted.as_ref()?.bundle, options.target(a)?);
        (a.is_active() && from != to && globbed.contains(&a.job)).then_some((a.alloc_id, from, to))
    };
    snapshot.allocations.iter().filter_map(pair).collect()
}

/// Plans.
pub fn plan(snapshot: &Snapshot, options: &Options, known: &Known<'_>) -> Plan {
    let mut by_job: BTreeMap<&JobName, Vec<&Allocation>> = BTreeMap::new();
    for allocation in snapshot.allocations.iter().filter(|a| options.wants(&a.job)) {
        by_job.entry(&allocation.job).or_default().push(allocation);
    }
    let there: BTreeSet<WorkerId> = snapshot.workers.iter().map(|worker| worker.worker_id).collect();
    let demands = demands::demanded(&snapshot.jobs);
    let (mut jobs, mut notes) = (Vec::new(), Vec::new());
    for (name, allocations) in by_job {
        let demands = demands.get(name).cloned().unwrap_or_default();
        // A job that is gone has no spec; what is left of it is stopped with the defaults.
        let gone = JobSpec { action_timeout_s: DEFAULT_ACTION_TIMEOUT_S, ..JobSpec::default() };
        let spec = snapshot.job(name).map_or(&gone, |job| &job.spec);
        let seq = allocations.iter().map(|a| a.deployment_seq).max().unwrap_or_default();
        let upstream_writes = upstream(spec).filter_map(|name| snapshot.job(name)).any(|job| writes(&job.spec));
        let one = One { options, known, there: &there, spec, allocations: &allocations, upstream_writes };
        jobs.extend(one.plan(name, seq, demands, &mut notes));
    }
    jobs.sort_by(|a, b| (a.seq, &a.job).cmp(&(b.seq, &b.job)));
    Plan { jobs, notes }
}

fn upstream(spec: &JobSpec) -> impl Iterator<Item = &JobName> {
    spec.hooks.values().filter_map(|hook| hook.demand.as_ref()).map(|demand| &demand.job)
}

/// Whether a job has hooks that may write values while a deploy runs.
fn writes(spec: &JobSpec) -> bool {
    let idle = [HookEvent::PostBuild, HookEvent::Cli, HookEvent::HealthCheck];
    spec.hooks.values().flat_map(|hook| &hook.executed_on).any(|event| !idle.contains(event))
}
