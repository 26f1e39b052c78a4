//! Decides: whether to accept a desired state, what an allocation's next step is, whose turn an operation is. No clock, no
//! files, no network: the ledger's row and the desired state are all that it looks at, which is why
//! a crash anywhere is answered by asking again.

pub mod accept;
pub mod boot;
pub mod grant;
pub mod heal;
pub mod next;
pub mod operation;
pub mod renewal;

pub use accept::{Accepted, Verdict, verdict};
pub use heal::Heal;
pub use next::{Step, next};

use serde::{Deserialize, Serialize};
use shared::api::v1::desired::DesiredAction;
use shared::api::v1::report::{ObservedAction, ObservedBoot, Process};
use shared::{AllocId, Bundle, BundleDigest, Entry, JobName, RelPath};

use crate::apply::plan::Before;

/// What the ledger knows of an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub alloc_id: AllocId,
    /// Its job.
    pub job: JobName,
    /// How its files stand.
    pub place: Place,
    /// Version that was last put in place or acted on; empty when none was.
    pub version: String,
    /// Its tree was removed, whole, and nothing was put there since.
    pub purged: bool,
    /// The list of what is in place, or of what is being put there.
    pub list: Bundle,
    /// While a placement or a removal is not over: what lists before had otherwise, some of which may still be
    /// in place. Empty when `place` tells all.
    pub leaving: Vec<Entry>,
    /// When files were last put in place, milliseconds since 1970 UTC.
    pub applied_ms: i64,
    /// What is known of its process.
    pub process: Process,
    /// The last action that was taken up.
    pub action: Option<ObservedAction>,
    /// A make target that runs, or did when the agent was last heard of.
    pub running: Option<Running>,
    /// Managed files that were found edited.
    pub drift: Vec<RelPath>,
    /// Files that no bundle put there.
    pub unmanaged: Vec<RelPath>,
    /// Its start after the machine's last boot, where it was owed one.
    pub boot: Option<ObservedBoot>,
    /// What was put back of late because it had been edited.
    pub heals: Vec<Heal>,
}

impl Row {
    /// An allocation of which nothing is here yet.
    pub fn new(alloc_id: AllocId, job: JobName) -> Self {
        Self {
            alloc_id,
            job,
            place: Place::Empty,
            version: String::new(),
            purged: false,
            list: Bundle::default(),
            leaving: Vec::new(),
            applied_ms: 0,
            process: Process::Unknown,
            action: None,
            running: None,
            drift: Vec::new(),
            unmanaged: Vec::new(),
            boot: None,
            heals: Vec::new(),
        }
    }
}

impl Row {
    /// What may be in place.
    pub fn before(&self) -> Before<'_> {
        let applied_ms = matches!(self.place, Place::Whole(_)).then_some(self.applied_ms);
        Before { list: &self.list, leaving: &self.leaving, applied_ms }
    }
}

/// How an allocation's files stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// No bundle's, but for what of one is leaving.
    Empty,
    /// All of one bundle's.
    Whole(BundleDigest),
    /// On the way to a bundle's; forward only.
    Applying {
        /// Which.
        to: BundleDigest,
    },
}

/// A make target that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The action that it belongs to.
    pub action: DesiredAction,
    /// When it was started, milliseconds since 1970 UTC.
    pub started_ms: i64,
    /// It is the start after a boot, and no deploy's.
    #[serde(default)]
    pub after_boot: bool,
}
