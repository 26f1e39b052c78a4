//! Decides which allocations that deploys went on without are brought up to date now: those whose agent is
//! back. They go one job after another through the same gates (`spec/decisions.md`, Deploy).

use std::collections::{BTreeMap, BTreeSet};

use shared::{AllocId, WorkerId};

use crate::model::Snapshot;
use crate::plan::Options;

/// Longest pause before a straggler that failed is tried again, milliseconds.
const LONGEST_PAUSE_MS: i64 = 15 * 60_000;
/// First such pause.
const FIRST_PAUSE_MS: i64 = 30_000;

/// What was tried before: an allocation that fails again and again is not tried again and again.
#[derive(Debug, Default)]
pub struct Tried(BTreeMap<AllocId, (u32, i64)>);

impl Tried {
    /// Whether `alloc` may be tried at `now_ms`.
    fn may(&self, alloc: AllocId, now_ms: i64) -> bool {
        self.0.get(&alloc).is_none_or(|(times, last_ms)| {
            let pause = FIRST_PAUSE_MS.saturating_mul(1 << (*times).min(10)).min(LONGEST_PAUSE_MS);
            now_ms - last_ms >= pause
        })
    }

    /// `allocs` are being tried at `now_ms`.
    pub fn now(&mut self, allocs: &BTreeSet<AllocId>, now_ms: i64) {
        for alloc in allocs {
            let (times, last) = self.0.entry(*alloc).or_insert((0, now_ms));
            *times += 1;
            *last = now_ms;
        }
    }

    /// Forgets those that wait for nothing any more.
    fn keep(&mut self, waiting: &BTreeSet<AllocId>) {
        self.0.retain(|alloc, _| waiting.contains(alloc));
    }
}

/// The deploy that brings stragglers up to date; `None` while none of them can be.
pub fn catch_up(snapshot: &Snapshot, online: &BTreeSet<WorkerId>, tried: &mut Tried, now_ms: i64) -> Option<Options> {
    let waits = |a: &&crate::model::Allocation| a.rolled.as_ref().is_some_and(|rolled| rolled.deferred.is_some());
    let waiting: BTreeSet<AllocId> = snapshot.allocations.iter().filter(waits).map(|a| a.alloc_id).collect();
    tried.keep(&waiting);
    let ready =
        |a: &&crate::model::Allocation| a.is_active() && online.contains(&a.worker_id) && tried.may(a.alloc_id, now_ms);
    let ready: Vec<_> = snapshot.allocations.iter().filter(waits).filter(ready).collect();
    let allocs: BTreeSet<AllocId> = ready.iter().map(|a| a.alloc_id).collect();
    let jobs = ready.iter().map(|a| a.job.clone()).collect();
    (!allocs.is_empty()).then_some(Options { jobs, catch_up: Some(allocs), ..Options::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Allocation, Deferral, Rolled};
    use shared::{BucketId, BundleDigest};
    use uuid::Uuid;

    fn snapshot(deferred: &[(u128, bool)]) -> Snapshot {
        let allocation = |(n, is_deferred): &(u128, bool)| Allocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(*n)),
            job: "api".parse().unwrap(),
            host: format!("w{n}").parse().unwrap(),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(*n)),
            disabled: false,
            removed: false,
            start_pending: false,
            deployment_seq: 0,
            new_version: "1.0.0".into(),
            bundle: None,
            promoted: None,
            rolled: Some(Rolled {
                deferred: is_deferred.then(|| Deferral {
                    since_ms: 5,
                    bundle: BundleDigest::from_bytes([1; 32]),
                    version: "1.0.0".into(),
                }),
                ..Rolled::default()
            }),
            render_inputs: None,
        };
        Snapshot {
            bucket_id: BucketId::from_uuid(Uuid::from_u128(9)),
            epoch: 1,
            update_seq: 1,
            built_at_ms: None,
            workers: vec![],
            jobs: vec![],
            allocations: deferred.iter().map(allocation).collect(),
        }
    }

    #[test]
    fn those_whose_agent_is_back_and_not_in_a_hurry_after_a_failure() {
        let snapshot = snapshot(&[(1, true), (2, true), (3, false)]);
        let online = |ids: &[u128]| ids.iter().map(|n| WorkerId::from_uuid(Uuid::from_u128(*n))).collect();
        let picked = |options: Option<Options>| -> Vec<u128> {
            options.and_then(|o| o.catch_up).into_iter().flatten().map(|alloc| alloc.uuid().as_u128()).collect()
        };
        let mut tried = Tried::default();
        assert!(catch_up(&snapshot, &online(&[3]), &mut tried, 0).is_none());
        let first = catch_up(&snapshot, &online(&[1, 3]), &mut tried, 0).unwrap();
        tried.now(first.catch_up.as_ref().unwrap(), 0);
        assert_eq!(picked(Some(first)), [1]);
        assert_eq!(picked(catch_up(&snapshot, &online(&[1, 2]), &mut tried, 1000)), [2], "1 has just been tried");
        assert_eq!(picked(catch_up(&snapshot, &online(&[1, 2]), &mut tried, 60_000)), [1, 2]);
    }
}
