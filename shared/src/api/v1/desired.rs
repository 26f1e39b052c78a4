//! Down: the whole desired state of one worker.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::health::HealthSpec;
use super::operation::{MAX_OPEN, Operation};
use super::{MAX_ALLOCATIONS, bounded};
use crate::{ActionId, ActionKind, AllocId, BlobDigest, BucketId, BundleDigest, Host, JobName, Name, WorkerId};

/// What orders desired states: a newer one is greater, field by field from the left.
///
/// `epoch` moves only when a controller is restored from a backup, `update_seq` once per deploy,
/// `generation` with every change of this worker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// Moves only by `maand recover`.
    pub epoch: u64,
    /// Bucket-wide, once per real deploy.
    pub update_seq: u64,
    /// This worker's own.
    pub generation: u64,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch, self.update_seq, self.generation)
    }
}

impl FromStr for Fence {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(epoch)), Some(Ok(update_seq)), Some(Ok(generation)), None) => {
                Ok(Self { epoch, update_seq, generation })
            }
            _ => Err("not of the form EPOCH.SEQ.GENERATION"),
        }
    }
}

/// What travels: the document's exact bytes, so that a signature, once there is one, is over bytes
/// and not over a parse of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The JSON of a [`DesiredState`], in base64.
    pub payload: String,
    /// Empty until signing is switched on.
    #[serde(deserialize_with = "bounded::list::<16, _, _>")]
    pub signatures: Vec<String>,
}

impl Envelope {
    /// The document: its exact bytes, and what they say. It may be long, and what follows needs memory of its
    /// own: the envelope is gone then.
    ///
    /// # Errors
    /// Why it is none, in words.
    pub fn opened(self) -> Result<(Vec<u8>, DesiredState), String> {
        let payload = data_encoding::BASE64.decode(self.payload.as_bytes());
        let payload = payload.map_err(|_| "the document is no base64".to_owned())?;
        drop(self);
        match serde_json::from_slice(&payload) {
            Ok(state) => Ok((payload, state)),
            Err(error) => Err(format!("the document is not of its form: {error}")),
        }
    }
}

/// All that one worker should run. Nothing that is missing here deletes anything: removal is always
/// an explicit [`RunState::Absent`] or [`RunState::Purged`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredState {
    /// Whose.
    pub bucket_id: BucketId,
    /// For whom.
    pub worker_id: WorkerId,
    /// The worker's name in workers.json.
    pub host: Host,
    /// Its labels, sorted.
    #[serde(deserialize_with = "bounded::list::<4096, _, _>")]
    pub labels: Vec<Name>,
    /// Its place in the order of desired states.
    #[serde(flatten)]
    pub fence: Fence,
    /// When this generation was made, milliseconds since 1970 UTC. Information, never a decision.
    pub issued_at_ms: i64,
    /// Every allocation of the worker, by job.
    #[serde(deserialize_with = "bounded::list::<MAX_ALLOCATIONS, _, _>")]
    pub allocations: Vec<DesiredAllocation>,
    /// Bundles to have at hand, not to activate.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "bounded::list::<MAX_ALLOCATIONS, _, _>"
    )]
    pub prefetch: Vec<BundleDigest>,
    /// Ad-hoc work, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "bounded::list::<MAX_OPEN, _, _>")]
    pub operations: Vec<Operation>,
    /// An operator wants nothing changed here for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

impl DesiredState {
    /// Whether nothing else than ad-hoc work was asked for, or is over, since `before`.
    pub fn is_same_but_for_operations(&self, before: &Self) -> bool {
        (self.fence.epoch, self.fence.update_seq) == (before.fence.epoch, before.fence.update_seq)
            && self.operations != before.operations
            && self.labels == before.labels
            && self.allocations == before.allocations
            && self.prefetch == before.prefetch
            && self.hold == before.hold
    }
}

/// Until when nothing is changed on a worker, and why. It ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The controller's clock, milliseconds since 1970 UTC.
    pub until_ms: i64,
    /// In the operator's words.
    pub reason: String,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl DesiredState {
    /// Digest of what this says in every version of the wire, so that both ends may compare it whatever fields the one
    /// or the other knows besides: never to be made of anything else.
    pub fn essence(&self) -> BlobDigest {
        let mut text = format!("maand-essence-1\n{} {} {}\n", self.bucket_id, self.worker_id, self.fence);
        for a in &self.allocations {
            let state = match a.state {
                RunState::Running => "running",
                RunState::Stopped => "stopped",
                RunState::Absent => "absent",
                RunState::Purged => "purged",
            };
            let bundle = a.bundle.map(|bundle| bundle.to_string()).unwrap_or_default();
            let action = a.action.as_ref().map(|action| action.id.to_string()).unwrap_or_default();
            let (id, job, from, to) = (a.alloc_id, &a.job, &a.current_version, &a.new_version);
            text.push_str(&format!("{id} {job} {state} {bundle} {from:?} {to:?} {action}\n"));
        }
        BlobDigest::of(text.as_bytes())
    }
}

/// One allocation's desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredAllocation {
    /// Which.
    pub alloc_id: AllocId,
    /// Its job.
    pub job: JobName,
    /// What should be.
    pub state: RunState,
    /// Drained by the operator: shown as such in jobs.json.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Its job's wave: what is started after a boot is started in this order.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub deployment_seq: u32,
    /// Its manifest says that files which were edited on the worker are put back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub self_heal: bool,
    /// The files that should be in place. `None` only with `Absent` and `Purged`, or before the
    /// allocation's first release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleDigest>,
    /// Version that was promoted last (`0.0.0` when none was).
    pub current_version: String,
    /// Version that `bundle` has.
    pub new_version: String,
    /// What to do when the bundle is in place. `None`: keep the files in place, run nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<DesiredAction>,
    /// Permission bits of the job's directory, where its manifest sets them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir_mode: Option<u32>,
    /// What to ask of it while it runs; `None`: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
}

/// What should be true of an allocation. Only `Absent` and `Purged` remove anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Files in place, started.
    Running,
    /// Drained: files stay, nothing runs.
    Stopped,
    /// Stop, remove files, keep `data/` and `logs/`.
    Absent,
    /// Remove the whole tree.
    Purged,
}

/// One thing to do, at most once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredAction {
    /// An id runs at most once.
    pub id: ActionId,
    /// What.
    pub kind: ActionKind,
    /// How long the make target may take, in seconds.
    pub timeout_s: u64,
    /// The rollout (or operation) that it belongs to, for logs.
    pub run_id: crate::RunId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_order_from_the_left_and_round_trip() {
        let fence = |e, s, g| Fence { epoch: e, update_seq: s, generation: g };
        assert!(fence(1, 9, 9) < fence(2, 0, 0));
        assert!(fence(1, 1, 9) < fence(1, 2, 0));
        assert!(fence(1, 1, 1) < fence(1, 1, 2));
        assert_eq!(fence(1, 17, 42).to_string().parse(), Ok(fence(1, 17, 42)));
        for bad in ["", "1.2", "1.2.3.4", "1.-2.3", "a.b.c"] {
            assert!(bad.parse::<Fence>().is_err(), "{bad}");
        }
    }
}
