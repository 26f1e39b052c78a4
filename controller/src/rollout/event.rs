//! What a rollout takes in and what it asks for.

use shared::api::v1::desired::Fence;
use shared::api::v1::report::Outcome;
use shared::{ActionId, ActionKind, AllocId, BundleDigest, Host, JobName, WorkerId};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An agent said something of an allocation.
    Observed(Observed),
    /// An agent accepted a desired state: what was released in it or before is with it.
    Accepted(WorkerId, Fence),
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
}

/// Something to carry out, together with the machine's new state, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell an agent.
    Release(Release),
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
    /// For people: something moved.
    Moved {
        /// Whose job.
        job: JobName,
        /// Where.
        host: Host,
        /// How.
        what: Moved,
    },
}

/// How an allocation moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// Its agent was told.
    Released(ActionKind),
    /// It passed its gate after so many milliseconds of make.
    Promoted(ActionKind, u64),
    /// It did not.
    Failed,
    /// It is asked for again, under a new id.
    Again(ActionKind),
}

/// What an agent is told of an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Which.
    pub alloc_id: AllocId,
    /// Whose.
    pub worker_id: WorkerId,
    /// Its files.
    pub bundle: BundleDigest,
    /// What to do when they are in place.
    pub action_id: ActionId,
    /// The same.
    pub kind: ActionKind,
    /// Time limit, seconds.
    pub timeout_s: u64,
    /// Version that was promoted.
    pub current_version: String,
    /// Version that `bundle` has.
    pub new_version: String,
    /// Permission bits of the job's directory, when its manifest sets them.
    pub dir_mode: Option<u32>,
}

/// Where ids come from: randomness is the driver's.
pub trait Ids {
    /// One that was never given before.
    fn action_id(&mut self) -> ActionId;
}
