//! What a rollout takes in and what it asks for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::api::v1::desired::{Fence, RunState};
use shared::api::v1::health::HealthSpec;
use shared::api::v1::report::Outcome;
use shared::{ActionId, ActionKind, AllocId, BundleDigest, Host, JobName, WorkerId};

use crate::model::{HookEvent, PostDeploy};
use crate::plan::JobPlan;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An agent said something of an allocation.
    Observed(Observed),
    /// An agent accepted a desired state: what was released in it or before is with it.
    Accepted(WorkerId, Fence),
    /// Every worker on which an operator wants nothing changed now, and what is said of it.
    Held(BTreeMap<WorkerId, String>),
    /// Hooks have ended.
    Hooked {
        /// Whose.
        job: JobName,
        /// Which.
        stage: Stage,
        /// How: what went wrong, by allocation where it is one's; empty when all is well.
        failures: Vec<(Option<AllocId>, String)>,
    },
    /// A job was planned anew, with what its pre_deploy hooks wrote.
    Decided {
        /// Which.
        job: JobName,
        /// Its plan, or why it has none.
        plan: Result<Box<JobPlan>, String>,
    },
    /// Time has passed.
    Tick,
}

/// What an agent said, as far as a rollout cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Of which allocation.
    pub alloc_id: AllocId,
    /// What is wholly in place there.
    pub bundle: Option<BundleDigest>,
    /// The last action that was taken up, with what became of it.
    pub action: Option<(ActionId, Option<Outcome>)>,
    /// What holds it up.
    pub problem: Option<String>,
    /// The end of its output, when it did not succeed.
    pub tail: Option<String>,
    /// How long it took.
    pub duration_ms: u64,
    /// What its probes say.
    pub health: Option<Probed>,
}

/// What an allocation's probes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// The last action before them.
    pub action: Option<ActionId>,
    /// Whether all of them are good; `None` while that is not known.
    pub healthy: Option<bool>,
    /// The tries of a gate are used up.
    pub spent: bool,
    /// What is wrong.
    pub problem: Option<String>,
}

/// Where in a job's way hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// Before anything of the job moves.
    PreDeploy,
    /// After the stops of drained and removed allocations.
    Stopped,
    /// After a batch's action.
    Started {
        /// Counted from 0.
        batch: usize,
    },
    /// In place of the lifecycle.
    JobControl {
        /// The one batch.
        batch: usize,
    },
    /// Part of a batch's gate.
    Health {
        /// Counted from 0.
        batch: usize,
        /// Tries before this one.
        attempt: u32,
    },
    /// After everything was promoted.
    PostDeploy,
}

impl Stage {
    /// The event that its hooks are registered for.
    pub const fn event(self) -> HookEvent {
        match self {
            Self::PreDeploy => HookEvent::PreDeploy,
            Self::Stopped => HookEvent::AfterAllocationStopped,
            Self::Started { .. } => HookEvent::AfterAllocationStarted,
            Self::JobControl { .. } => HookEvent::JobControl,
            Self::Health { .. } => HookEvent::HealthCheck,
            Self::PostDeploy => HookEvent::PostDeploy,
        }
    }
}

/// Something to carry out, together with the machine's new state, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell an agent.
    Release(Release),
    /// Take back what an agent did not pick up: it keeps what it has and runs nothing, and may download
    /// what it would have got.
    Withdraw {
        /// Which.
        alloc_id: AllocId,
        /// Whose.
        worker_id: WorkerId,
        /// What it would have got.
        bundle: BundleDigest,
    },
    /// Tell an agent what a later batch will bring, so that it downloads early. A hint: nothing waits for it.
    Prefetch {
        /// Whose.
        worker_id: WorkerId,
        /// The files.
        bundle: BundleDigest,
    },
    /// Record that an allocation passed its gate.
    Promote {
        /// Which.
        alloc_id: AllocId,
        /// With which files.
        bundle: BundleDigest,
        /// With which version.
        version: String,
    },
    /// Record that a stop succeeded.
    Stopped {
        /// Which.
        alloc_id: AllocId,
    },
    /// Record that an allocation's files are gone from its worker.
    Removed {
        /// Which.
        alloc_id: AllocId,
    },
    /// Record that the rollout went on without an allocation.
    Deferred {
        /// Which.
        alloc_id: AllocId,
        /// Since when its agent is waited for, milliseconds since 1970 UTC.
        since_ms: i64,
        /// What it gets when its agent is back.
        bundle: BundleDigest,
        /// The version of that.
        version: String,
    },
    /// Record that an allocation was not promoted. It is not tried again before the next deploy.
    Failed {
        /// Which.
        alloc_id: AllocId,
        /// It ran, and did not pass its gate.
        unhealthy: bool,
    },
    /// Record how a job's post_deploy hooks stand, on all its allocations that are not removed.
    PostDeploy {
        /// Whose.
        job: JobName,
        /// How.
        status: PostDeploy,
    },
    /// Run hooks; [`Event::Hooked`] says how they ended.
    Hooks(Call),
    /// Plan a job anew; [`Event::Decided`] brings the plan.
    Decide {
        /// Which.
        job: JobName,
    },
    /// For people: something moved.
    Moved {
        /// Whose job.
        job: JobName,
        /// Where; `None` for the job as a whole.
        host: Option<Host>,
        /// How.
        what: Moved,
    },
}

/// Hooks to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Whose.
    pub job: JobName,
    /// Which.
    pub stage: Stage,
    /// For which allocations, in the job's order; `None` means its active ones.
    pub targets: Option<Vec<AllocId>>,
    /// Of a batch: its number, how many of its kind there are, and whether they are first starts.
    pub batch: Option<(usize, usize, bool)>,
}

/// How an allocation or a job moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// Its agent was told.
    Released(ActionKind),
    /// Its agent was told to take its files away.
    Removing,
    /// Its action ended well after so many milliseconds; its gate comes next.
    Ran(ActionKind, u64),
    /// It passed its gate.
    Promoted(ActionKind, u64),
    /// It was stopped.
    Stopped(u64),
    /// It was taken off its worker.
    Removed,
    /// It did not work, for that reason; with the exit code of its make target, if that is what failed.
    Failed(String, Option<i32>),
    /// It is asked for again, under a new id.
    Again(ActionKind),
    /// Its agent is out of reach: what it was told is taken back.
    TakenBack,
    /// Its agent had begun it before it was taken back: it is waited for again.
    TakenUp(ActionKind),
    /// The job goes on without it, until its agent is back.
    Deferred,
    /// An operator holds its worker, in these words: it gets what it was to get when that is over.
    Held(String),
    /// Its agent is away; what it was told is done when it is back.
    Left,
    /// Its worker is gone from workers.json and its agent is away.
    AssumedDead,
    /// Hooks of this event begin.
    Hooks(HookEvent),
    /// Something that stops nothing, and that the operator should know.
    Noted(String),
    /// The job ended well, but for so many allocations.
    Done(usize),
    /// The job was planned anew, and needs nothing.
    Skipped,
    /// The job waits for one that failed.
    Blocked(JobName),
}

/// What an agent is told of an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Which.
    pub alloc_id: AllocId,
    /// Whose.
    pub worker_id: WorkerId,
    /// What should be.
    pub state: RunState,
    /// Drained: shown as such on the worker.
    pub disabled: bool,
    /// Its files; `None` leaves those that are there, or takes them away with [`RunState::Absent`].
    pub bundle: Option<BundleDigest>,
    /// What to do when they are in place, under an id that runs at most once.
    pub action: (ActionId, ActionKind),
    /// Whether something of it may run from now on.
    pub starts: bool,
    /// Time limit, seconds.
    pub timeout_s: u64,
    /// Version that was promoted.
    pub current_version: String,
    /// Version that `bundle` has.
    pub new_version: String,
    /// Permission bits of the job's directory, when its manifest sets them.
    pub dir_mode: Option<u32>,
    /// What its agent asks of it while it runs.
    pub health: Option<HealthSpec>,
}

/// Where ids come from: randomness is the driver's.
pub trait Ids {
    /// One that was never given before.
    fn action_id(&mut self) -> ActionId;
}
