//! Decides what reports that came after their rollout had ended say: a drain or a removal that was left for
//! an agent that was away is done when the agent is back, and nobody waited for it.

use std::collections::{BTreeMap, BTreeSet};

use shared::api::v1::desired::{DesiredAllocation, RunState};
use shared::api::v1::report::{ObservedAllocation, Outcome};
use shared::{ActionKind, AllocId, JobName};

use super::event::Effect;
use crate::model::{HookEvent, Promoted, Snapshot};

/// Brings `snapshot` to what was `told` and `observed` since; the same as effects, to be written down.
pub fn learned(
    snapshot: &mut Snapshot,
    told: &[DesiredAllocation],
    observed: &BTreeMap<AllocId, ObservedAllocation>,
) -> Vec<Effect> {
    let told: BTreeMap<AllocId, &DesiredAllocation> = told.iter().map(|row| (row.alloc_id, row)).collect();
    // Their stop is done again, with a rollout that runs the hooks that belong to it.
    let hooked: BTreeSet<JobName> = snapshot
        .jobs
        .iter()
        .filter(|job| job.spec.has_hooks(HookEvent::AfterAllocationStopped))
        .map(|job| job.name.clone())
        .collect();
    let mut effects = Vec::new();
    for allocation in snapshot.allocations.iter_mut().filter(|a| a.rolled.is_some()) {
        let alloc_id = allocation.alloc_id;
        let (Some(told), Some(said)) = (told.get(&alloc_id), observed.get(&alloc_id)) else { continue };
        let Some(action) = &told.action else { continue };
        let done = said.action.as_ref().is_some_and(|last| last.id == action.id && last.outcome == Some(Outcome::Ok));
        if !done {
            continue;
        }
        match (told.state, action.kind, told.bundle) {
            (RunState::Absent, _, _) if said.bundle.is_none() => {
                (allocation.promoted, allocation.rolled) = (None, None);
                effects.push(Effect::Removed { alloc_id });
            }
            (RunState::Stopped, ActionKind::Stop, _) if allocation.may_run() && !hooked.contains(&allocation.job) => {
                if let Some(rolled) = &mut allocation.rolled {
                    rolled.may_run = false;
                }
                effects.push(Effect::Stopped { alloc_id });
            }
            (RunState::Stopped, ActionKind::Sync, Some(bundle)) if said.bundle == Some(bundle) => {
                let promoted = Promoted { bundle, version: told.new_version.clone() };
                if allocation.promoted.as_ref() != Some(&promoted) {
                    effects.push(Effect::Promote { alloc_id, bundle, version: promoted.version.clone() });
                    allocation.promoted = Some(promoted);
                }
            }
            _ => {}
        }
    }
    effects
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Allocation, Hook, Job, JobSpec, Rolled};
    use shared::api::v1::desired::DesiredAction;
    use shared::api::v1::report::{ObservedAction, Phase, Process};
    use shared::{ActionId, BucketId, BundleDigest, RunId, WorkerId};
    use uuid::Uuid;

    fn digest(n: u8) -> BundleDigest {
        BundleDigest::from_bytes([n; 32])
    }

    fn snapshot(removed: bool) -> Snapshot {
        let allocation = Allocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
            job: "api".parse().unwrap(),
            host: "w".parse().unwrap(),
            worker_id: WorkerId::from_uuid(Uuid::from_u128(2)),
            disabled: !removed,
            removed,
            start_pending: false,
            deployment_seq: 0,
            new_version: "2.0.0".into(),
            bundle: Some(digest(2)),
            promoted: Some(Promoted { bundle: digest(1), version: "1.0.0".into() }),
            rolled: Some(Rolled { may_run: true, ..Rolled::default() }),
            render_inputs: None,
        };
        Snapshot {
            bucket_id: BucketId::from_uuid(Uuid::from_u128(3)),
            epoch: 1,
            update_seq: 1,
            built_at_ms: Some(1),
            workers: vec![],
            jobs: vec![],
            allocations: vec![allocation],
        }
    }

    fn told(state: RunState, kind: ActionKind, bundle: Option<u8>) -> DesiredAllocation {
        let (id, run_id) = (ActionId::from_uuid(Uuid::from_u128(7)), RunId::from_uuid(Uuid::from_u128(8)));
        DesiredAllocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
            job: "api".parse().unwrap(),
            state,
            disabled: true,
            bundle: bundle.map(digest),
            current_version: "1.0.0".into(),
            new_version: "2.0.0".into(),
            action: Some(DesiredAction { id, kind, timeout_s: 1, run_id }),
            dir_mode: None,
            deployment_seq: 0,
            self_heal: false,
            health: None,
        }
    }

    #[test]
    fn a_stop_that_hooks_belong_to_is_done_again_with_them() {
        let mut known = snapshot(false);
        let hook = Hook { executed_on: [HookEvent::AfterAllocationStopped].into(), demand: None, timeout_s: 1 };
        let hooks = [("hook_x".parse().unwrap(), hook)].into();
        let spec = JobSpec { hooks, ..JobSpec::default() };
        known.jobs = vec![Job { name: "api".parse().unwrap(), spec, files: vec![] }];
        let told = [told(RunState::Stopped, ActionKind::Stop, Some(1))];
        assert_eq!(learned(&mut known, &told, &said(7, Outcome::Ok, Some(1))), []);
        assert!(known.allocations[0].may_run());
    }

    fn said(action: u128, outcome: Outcome, bundle: Option<u8>) -> BTreeMap<AllocId, ObservedAllocation> {
        let observed = ObservedAllocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
            job: "api".parse().unwrap(),
            bundle: bundle.map(digest),
            version: None,
            purged: false,
            phase: Phase::Idle,
            process: Process::Stopped,
            action: Some(ObservedAction {
                id: ActionId::from_uuid(Uuid::from_u128(action)),
                outcome: Some(outcome),
                started_ms: 0,
                duration_ms: 0,
                tail: None,
            }),
            problem: None,
            drift: vec![],
            unmanaged: vec![],
            boot: None,
            unhealed: vec![],
            health: None,
            fetched: None,
        };
        [(observed.alloc_id, observed)].into()
    }

    #[test]
    fn what_was_done_late_counts_and_what_was_not_does_not() {
        let alloc_id = AllocId::from_uuid(Uuid::from_u128(1));
        let stop = told(RunState::Stopped, ActionKind::Stop, Some(1));
        let gone = told(RunState::Absent, ActionKind::Stop, None);
        let sync = told(RunState::Stopped, ActionKind::Sync, Some(2));
        let promote = Effect::Promote { alloc_id, bundle: digest(2), version: "2.0.0".into() };
        for (n, (removed, told, said, expected)) in [
            (false, &stop, said(7, Outcome::Ok, Some(1)), vec![Effect::Stopped { alloc_id }]),
            (false, &stop, said(6, Outcome::Ok, Some(1)), vec![]),
            (false, &stop, said(7, Outcome::Failed { exit: 1 }, Some(1)), vec![]),
            (true, &gone, said(7, Outcome::Ok, None), vec![Effect::Removed { alloc_id }]),
            (true, &gone, said(7, Outcome::Ok, Some(1)), vec![]),
            (false, &sync, said(7, Outcome::Ok, Some(2)), vec![promote]),
            (false, &sync, said(7, Outcome::Ok, Some(1)), vec![]),
        ]
        .into_iter()
        .enumerate()
        {
            let mut snapshot = snapshot(removed);
            assert_eq!(learned(&mut snapshot, std::slice::from_ref(told), &said), expected, "row {n}");
            assert!(learned(&mut snapshot, std::slice::from_ref(told), &said).is_empty(), "row {n}: once");
        }
    }
}
