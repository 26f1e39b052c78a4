//! Decides whether a catalog is older than what agents were told, where a new epoch begins, and what to make of
//! what agents say they run (`design/pull.md`, Desired state).

use serde::{Deserialize, Serialize};
use shared::api::v1::desired::Fence;
use shared::api::v1::report::{ObservedAllocation, Process};
use shared::{BucketId, Host, WorkerId};

use crate::model::{Allocation, Promoted};

/// The highest (epoch, update_seq) ever handed out, as it is kept outside the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Of which bucket.
    pub bucket_id: BucketId,
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub update_seq: u64,
    /// False while it is only meant to be: what was never handed out may be handed out later.
    pub used: bool,
}

/// What `maand backup` puts into its archive, so that a catalog that was taken out of one is known as such.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromBackup {
    /// When the backup was made, milliseconds since 1970 UTC.
    pub made_ms: i64,
}

/// An agent that has accepted more than this catalog has ever told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    /// Its worker.
    pub worker_id: WorkerId,
    /// Its worker's name.
    pub host: Host,
    /// What it accepted.
    pub accepted: Fence,
    /// What it was told last; `None` when nothing.
    pub told: Option<Fence>,
}

/// What says that the catalog is older than what agents were told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// It was taken out of a backup, and nobody has recovered it since.
    pub backup: Option<FromBackup>,
    /// The mark, where it is beyond the catalog; with the catalog's own epoch and update_seq.
    pub mark: Option<(Mark, u64, u64)>,
    /// Agents that are beyond it.
    pub ahead: Vec<Ahead>,
}

impl Evidence {
    /// Puts together what is known of a catalog at `epoch` and `update_seq`.
    pub fn of(
        (epoch, update_seq): (u64, u64),
        mark: Option<Mark>,
        backup: Option<FromBackup>,
        ahead: Vec<Ahead>,
    ) -> Self {
        let mark = mark.filter(|mark| {
            // One that was only meant to be handed out may be one above.
            let handed_out = if mark.used { mark.update_seq } else { mark.update_seq.saturating_sub(1) };
            (mark.epoch, handed_out) > (epoch, update_seq)
        });
        Self { backup, mark: mark.map(|mark| (mark, epoch, update_seq)), ahead }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.backup.is_none() && self.mark.is_none() && self.ahead.is_empty()
    }

    /// A line for each piece of it.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.backup.is_some() {
            lines.push("secrets/from-backup.json: this bucket was taken out of a backup".to_owned());
        }
        if let Some((mark, epoch, update_seq)) = &self.mark {
            lines.push(format!(
                "secrets/high-water.json: update_seq {} of epoch {} was handed out, the catalog is at {update_seq} of epoch {epoch}",
                mark.update_seq, mark.epoch
            ));
        }
        for ahead in self.ahead.iter().take(5) {
            let told = ahead.told.map_or_else(|| "nothing".to_owned(), |fence| fence.to_string());
            lines.push(format!(
                "the agent of {} accepted {}, the catalog has told it {told}",
                ahead.host, ahead.accepted
            ));
        }
        if self.ahead.len() > 5 {
            lines.push(format!("and {} agents more", self.ahead.len() - 5));
        }
        lines
    }
}

/// Where the new epoch begins: beyond everything that anybody has seen.
pub fn beginning((epoch, update_seq): (u64, u64), mark: Option<&Mark>, accepted: &[Fence]) -> (u64, u64) {
    let seen = accepted.iter().map(|fence| (fence.epoch, fence.update_seq));
    let all = seen.chain(mark.map(|mark| (mark.epoch, mark.update_seq))).chain([(epoch, update_seq)]);
    let (mut top_epoch, mut top_seq) = (0, 0);
    for (epoch, update_seq) in all {
        top_epoch = epoch.max(top_epoch);
        top_seq = update_seq.max(top_seq);
    }
    (top_epoch + 1, top_seq + 1)
}

/// What the catalog is to believe of an allocation from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Belief {
    /// What counts as promoted.
    pub promoted: Option<Promoted>,
    /// Something of it may run.
    pub may_run: bool,
    /// Nothing of it is there, and nobody wants it: there is nothing to remove.
    pub is_settled: bool,
}

/// What to believe of an allocation of which its agent says `said`; `None` when it says nothing, which means
/// that it has nothing. `believed` is what the catalog has: `None` when it does not know the allocation.
pub fn believe(believed: Option<&Allocation>, said: Option<&ObservedAllocation>) -> Belief {
    let before = believed.and_then(|a| a.promoted.clone());
    let nothing =
        |may_run| Belief { promoted: None, may_run, is_settled: !may_run && believed.is_some_and(|a| a.removed) };
    let Some(said) = said else { return nothing(false) };
    let Some(bundle) = said.bundle else { return nothing(said.process == Process::Started) };
    let version = said.version.clone().or_else(|| before.as_ref().map(|p| p.version.clone()));
    let has = Some(Promoted { bundle, version: version.unwrap_or_else(|| "0.0.0".to_owned()) });
    let (promoted, may_run) = match said.process {
        Process::Started => (has, true),
        Process::Stopped => (has, false),
        // Its last target failed: nothing is proved good, and something may run.
        Process::Failed => (None, true),
        // Its files came without a target, or nobody knows how that ended.
        Process::Unknown => (has, believed.is_some_and(Allocation::may_run)),
    };
    Belief { promoted, may_run, is_settled: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Rolled;
    use shared::api::v1::report::Phase;
    use shared::{AllocId, BundleDigest};
    use uuid::Uuid;

    fn mark(epoch: u64, update_seq: u64, used: bool) -> Option<Mark> {
        Some(Mark { bucket_id: BucketId::from_uuid(Uuid::nil()), epoch, update_seq, used })
    }

    #[test]
    fn a_catalog_is_old_when_more_was_handed_out_than_it_knows() {
        for (n, (catalog, mark, old)) in [
            ((1, 5), None, false),
            ((1, 5), mark(1, 5, true), false),
            ((1, 5), mark(1, 4, true), false),
            // A deploy was about to begin, or has begun and was cut off before the mark was confirmed.
            ((1, 5), mark(1, 6, false), false),
            ((1, 6), mark(1, 6, false), false),
            ((1, 5), mark(1, 6, true), true),
            ((1, 5), mark(1, 7, false), true),
            ((1, 5), mark(2, 1, true), true),
            ((1, 5), mark(2, 1, false), true),
            ((2, 1), mark(1, 9, true), false),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(!Evidence::of(catalog, mark, None, vec![]).is_empty(), old, "row {n}");
        }
        let backup = Some(FromBackup { made_ms: 1 });
        assert_eq!(Evidence::of((1, 5), mark(1, 5, true), backup, vec![]).lines().len(), 1);
    }

    #[test]
    fn the_new_epoch_is_beyond_everything_seen() {
        let fence = |epoch, update_seq| Fence { epoch, update_seq, generation: 9 };
        assert_eq!(beginning((1, 5), None, &[]), (2, 6));
        assert_eq!(beginning((1, 5), mark(1, 8, true).as_ref(), &[fence(1, 7)]), (2, 9));
        assert_eq!(beginning((1, 5), mark(1, 8, true).as_ref(), &[fence(3, 2), fence(1, 12)]), (4, 13));
    }

    fn digest(n: u8) -> BundleDigest {
        BundleDigest::from_bytes([n; 32])
    }

    fn allocation(promoted: Option<u8>, removed: bool) -> Allocation {
        Allocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
            job: "api".parse().unwrap(),
            host: "w".parse().unwrap(),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(2)),
            disabled: false,
            removed,
            start_pending: false,
            deployment_seq: 0,
            new_version: "1.0.0".into(),
            bundle: Some(digest(1)),
            promoted: promoted.map(|n| Promoted { bundle: digest(n), version: "1.0.0".into() }),
            rolled: promoted.map(|_| Rolled { may_run: true, ..Rolled::default() }),
            render_inputs: None,
        }
    }

    fn said(bundle: Option<u8>, process: Process, version: Option<&str>) -> ObservedAllocation {
        ObservedAllocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
            job: "api".parse().unwrap(),
            bundle: bundle.map(digest),
            version: version.map(str::to_owned),
            purged: false,
            phase: Phase::Idle,
            process,
            action: None,
            problem: None,
            drift: vec![],
            unmanaged: vec![],
            boot: None,
            unhealed: vec![],
            health: None,
            fetched: None,
        }
    }

    #[test]
    fn what_agents_have_is_believed() {
        use Process::{Failed, Started, Stopped, Unknown};
        let old = allocation(Some(1), false);
        let gone = allocation(None, true);
        for (n, (believed, said, promoted, may_run, settled)) in [
            (Some(&old), Some(said(Some(1), Started, Some("1.0.0"))), Some((1, "1.0.0")), true, false),
            (Some(&old), Some(said(Some(2), Started, Some("2.0.0"))), Some((2, "2.0.0")), true, false),
            (Some(&old), Some(said(Some(2), Started, None)), Some((2, "1.0.0")), true, false),
            (Some(&old), Some(said(Some(2), Stopped, Some("2.0.0"))), Some((2, "2.0.0")), false, false),
            (Some(&old), Some(said(Some(2), Failed, Some("2.0.0"))), None, true, false),
            (Some(&old), Some(said(Some(2), Unknown, Some("2.0.0"))), Some((2, "2.0.0")), true, false),
            (Some(&old), Some(said(None, Stopped, None)), None, false, false),
            (Some(&old), None, None, false, false),
            (None, Some(said(Some(3), Started, Some("3.0.0"))), Some((3, "3.0.0")), true, false),
            (Some(&gone), Some(said(Some(3), Started, Some("3.0.0"))), Some((3, "3.0.0")), true, false),
            (Some(&gone), None, None, false, true),
        ]
        .into_iter()
        .enumerate()
        {
            let promoted = promoted.map(|(n, v): (u8, &str)| Promoted { bundle: digest(n), version: v.into() });
            let expected = Belief { promoted, may_run, is_settled: settled };
            assert_eq!(believe(believed, said.as_ref()), expected, "row {n}");
        }
    }
}
