//! Up: the whole observed state of one worker. It may be lost, doubled or late: the next one says it
//! all again, and the controller orders them by (session, number).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::MAX_ALLOCATIONS;
use super::desired::Fence;
use super::facts::WorkerFacts;
use super::health::{self, ObservedHealth};
use super::operation::{Ended, MAX_OPEN, ObservedOperation};
use crate::{ActionId, ActionKind, AllocId, BlobDigest, BundleDigest, JobName, RelPath, RunId};

/// Most paths listed under drift or unmanaged; the rest is a count.
pub const MAX_PATHS: usize = 50;
/// Longest tail of output, bytes.
pub const MAX_TAIL: usize = 4096;
/// Longest version, bytes.
pub const MAX_VERSION: usize = 256;

/// All that one agent knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The agent's program version.
    pub agent_version: String,
    /// Starts of this agent, counted in its ledger: a later session has a greater number.
    pub session: u64,
    /// Reports of this session.
    pub number: u64,
    /// The kernel's boot id.
    pub boot_id: Uuid,
    /// The agent's clock when it sent this, milliseconds since 1970 UTC; the controller shows the difference.
    pub clock_ms: i64,
    /// The desired state that the agent accepted last; `None` before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Fence>,
    /// Its [`super::desired::DesiredState::essence`]: the same fence with other content would be another controller's, or
    /// an older catalog's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub essence: Option<BlobDigest>,
    /// Why the last desired state it was offered was refused, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Every allocation that the agent has anything of, by job.
    pub allocations: Vec<ObservedAllocation>,
    /// What became of operations, for as long as the desired state lists them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<ObservedOperation>,
    /// Present in the first report of a session and when they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<WorkerFacts>,
}

/// One allocation as it is on the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedAllocation {
    /// Which.
    pub alloc_id: AllocId,
    /// Its job.
    pub job: JobName,
    /// The bundle whose files are all in place; `None` when none is, or while one is being put there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleDigest>,
    /// The version that was last put in place or acted on with it; `None` when nothing was, or its agent does
    /// not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its whole tree was removed, `data/` and `logs/` included, and nothing was put there since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub purged: bool,
    /// Where its work stands.
    pub phase: Phase,
    /// What is known of its process, as far as `make` told.
    pub process: Process,
    /// The last action that the agent took up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<ObservedAction>,
    /// Why no progress is being made (a download that fails, a full disk), while that lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Its start after the machine's last boot; `None` when it needed none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<ObservedBoot>,
    /// Managed files that are edited again and again, and are not put back any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unhealed: Vec<RelPath>,
    /// Managed files that were edited on the worker (found at the last apply or check).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<RelPath>,
    /// Files that no bundle put there, outside `data/`, `logs/` and `bin/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmanaged: Vec<RelPath>,
    /// How it answers; `None` when nothing is asked of it, or its agent does not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ObservedHealth>,
    /// What was downloaded for it last, since the agent started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched: Option<Fetched>,
}

/// A download that was needed to put a bundle in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// For which bundle.
    pub bundle: BundleDigest,
    /// When it began, milliseconds since 1970 UTC.
    pub started_ms: i64,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// Files that the worker did not have.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The action that it was for, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<ActionKind>,
    /// The rollout that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
}

/// Cuts a text that is longer than the wire allows.
fn cut(text: &mut Option<String>, limit: usize) {
    if let Some(text) = text {
        shorten(text, limit);
    }
}

fn shorten(text: &mut String, limit: usize) {
    text.truncate(text.floor_char_boundary(limit));
}

impl Report {
    /// Cuts what is longer than the wire allows: a report is stored only in bounds.
    ///
    /// # Errors
    /// It says more than a worker can have.
    pub fn bound(&mut self) -> Result<(), &'static str> {
        if self.allocations.len() > MAX_ALLOCATIONS {
            return Err("more allocations than a worker can have");
        }
        if self.operations.len() > MAX_OPEN {
            return Err("more operations than a worker can have");
        }
        self.allocations.iter_mut().for_each(ObservedAllocation::bound);
        self.operations.iter_mut().for_each(ObservedOperation::bound);
        shorten(&mut self.agent_version, MAX_VERSION);
        cut(&mut self.refused, MAX_TAIL);
        if let Some(facts) = &mut self.facts {
            facts.tools.truncate(MAX_PATHS);
            for text in [&mut facts.kernel, &mut facts.arch].into_iter().chain(&mut facts.tools) {
                shorten(text, MAX_VERSION);
            }
        }
        Ok(())
    }
}

impl Report {
    /// Every text in it that is free: it may be output of jobs.
    pub fn texts(&mut self, mut each: impl FnMut(&mut String)) {
        let (version, refused) = (&mut self.agent_version, &mut self.refused);
        let facts = self
            .facts
            .iter_mut()
            .flat_map(|facts| [&mut facts.kernel, &mut facts.arch].into_iter().chain(&mut facts.tools));
        std::iter::once(version).chain(refused).chain(facts).for_each(&mut each);
        for allocation in &mut self.allocations {
            let health = allocation.health.as_mut().and_then(|health| health.problem.as_mut());
            let action = allocation.action.as_mut().map(|action| (&mut action.outcome, &mut action.tail));
            let boot = allocation.boot.as_mut().map(|boot| (&mut boot.outcome, &mut boot.tail));
            let said = action.into_iter().chain(boot).flat_map(|(outcome, tail)| {
                let reason = match outcome {
                    Some(Outcome::Refused { reason }) => Some(reason),
                    _ => None,
                };
                tail.iter_mut().chain(reason)
            });
            let own = allocation.version.iter_mut().chain(&mut allocation.problem);
            own.chain(health).chain(said).for_each(&mut each);
        }
        for operation in &mut self.operations {
            if let Some(Ended::Refused { reason: text } | Ended::Unhealthy { problem: text }) = &mut operation.outcome {
                each(text);
            }
        }
    }
}

impl ObservedAllocation {
    /// Cuts what is longer than the wire allows.
    pub fn bound(&mut self) {
        cut(&mut self.problem, MAX_TAIL);
        cut(&mut self.version, MAX_VERSION);
        if let Some(action) = &mut self.action {
            cut(&mut action.tail, MAX_TAIL);
            if let Some(Outcome::Refused { reason }) = &mut action.outcome {
                shorten(reason, MAX_TAIL);
            }
        }
        if let Some(boot) = &mut self.boot {
            cut(&mut boot.tail, MAX_TAIL);
            if let Some(Outcome::Refused { reason }) = &mut boot.outcome {
                shorten(reason, MAX_TAIL);
            }
        }
        self.unhealed.truncate(MAX_PATHS);
        if let Some(health) = &mut self.health {
            cut(&mut health.problem, health::MAX_PROBLEM);
        }
        self.drift.truncate(MAX_PATHS);
        self.unmanaged.truncate(MAX_PATHS);
    }
}

/// Where an allocation's work stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing under way.
    Idle,
    /// Getting the bundle.
    Fetching,
    /// Putting files in place.
    Applying,
    /// A make target runs.
    Running,
}

/// What is known of an allocation's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Process {
    /// Never started, or not since its result was lost.
    Unknown,
    /// The last start, restart or reload succeeded.
    Started,
    /// The last stop succeeded.
    Stopped,
    /// The last target failed.
    Failed,
}

/// An action and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedAction {
    /// Which.
    pub id: ActionId,
    /// What became of it; `None` while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// When the agent took it up, its clock, milliseconds since 1970 UTC.
    pub started_ms: i64,
    /// How long the make target took, milliseconds.
    #[serde(default)]
    pub duration_ms: u64,
    /// The end of its output when it did not succeed, at most [`MAX_TAIL`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<String>,
}

/// A start after a boot, by the agent alone: no deploy asked for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedBoot {
    /// What became of it; `None` while it runs, or its turn has not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// When it was begun, the agent's clock, milliseconds since 1970 UTC; 0 before that.
    #[serde(default)]
    pub started_ms: i64,
    /// How long the make target took, milliseconds.
    #[serde(default)]
    pub duration_ms: u64,
    /// The end of its output when it did not succeed, at most [`MAX_TAIL`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<String>,
}

/// What became of an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Ok,
    /// The make target ended otherwise.
    Failed {
        /// Exit code, or 128 + signal as shells count.
        exit: i32,
    },
    /// It was ended for taking too long.
    TimedOut,
    /// The agent was ended while it ran and nobody knows how it went; the controller decides.
    Interrupted,
    /// The agent would not do it.
    Refused {
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_that_may_be_output_is_looked_at_and_has_a_bound() {
        let long = "canary".repeat(MAX_TAIL);
        let ended = |tail: &str| Some(Outcome::Refused { reason: tail.to_owned() });
        let tail = Some(long.clone());
        let action = ObservedAction {
            id: ActionId::from_uuid(Uuid::from_u128(1)),
            outcome: ended(&long),
            started_ms: 0,
            duration_ms: 0,
            tail: tail.clone(),
        };
        let boot = ObservedBoot { outcome: ended(&long), tail: tail.clone(), ..ObservedBoot::default() };
        let allocation = ObservedAllocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(2)),
            job: "api".parse().unwrap(),
            bundle: None,
            version: tail.clone(),
            purged: false,
            phase: Phase::Idle,
            process: Process::Unknown,
            action: Some(action),
            problem: tail.clone(),
            boot: Some(boot),
            unhealed: vec![],
            drift: vec![],
            unmanaged: vec![],
            health: None,
            fetched: None,
        };
        let mut report = Report {
            agent_version: long,
            session: 1,
            number: 1,
            boot_id: Uuid::nil(),
            clock_ms: 0,
            accepted: None,
            essence: None,
            refused: tail,
            allocations: vec![allocation],
            operations: vec![],
            facts: None,
        };
        report.bound().unwrap();
        let size = serde_json::to_string(&report).unwrap().len();
        assert!(size < 6 * MAX_TAIL + 2 * MAX_VERSION + 2000, "{size} bytes are left");
        report.texts(|text| *text = "clean".to_owned());
        let said = serde_json::to_string(&report).unwrap();
        assert!(!said.contains("canary") && said.matches("clean").count() == 8, "{said}");
    }
}
