//! A made-up catalog: jobs that demand one another, some of them drained or removed.

use std::collections::{BTreeMap, BTreeSet};

use controller::model::{
    Allocation, Budget, Demand, Hook, HookEvent, Job, JobSpec, Probe, Promoted, RestartPolicy, Rolled, Snapshot,
};
use shared::{AllocId, BucketId, BundleDigest, JobName, WorkerId};
use uuid::Uuid;

use super::random::Random;

fn digest(n: u128) -> BundleDigest {
    BundleDigest::from_bytes([u8::try_from(n % 250).unwrap(); 32])
}

/// One to three jobs, of one to five allocations each.
pub(super) fn catalog(random: &mut Random) -> Snapshot {
    let (mut jobs, mut allocations, mut number) = (Vec::<Job>::new(), Vec::new(), 0u128);
    for n in 0..1 + random.below(3) {
        let name: JobName = format!("j{n}").parse().unwrap();
        let demand =
            jobs.iter().filter(|_| random.chance(50)).map(|job| (job.name.clone(), job.spec.deployment_seq)).last();
        let mut hooks = BTreeMap::new();
        if let Some((job, _)) = &demand {
            let config = serde_json::Map::default();
            let demand = Some(Demand { job: job.clone(), hook: "hook_x".parse().unwrap(), config });
            hooks
                .insert("hook_d".parse().unwrap(), Hook { executed_on: [HookEvent::Cli].into(), demand, timeout_s: 1 });
        }
        let often = [
            (HookEvent::PreDeploy, 15),
            (HookEvent::PostDeploy, 15),
            (HookEvent::HealthCheck, 15),
            (HookEvent::AfterAllocationStarted, 15),
            (HookEvent::AfterAllocationStopped, 15),
            (HookEvent::JobControl, 8),
        ];
        let executed_on: BTreeSet<HookEvent> =
            often.into_iter().filter(|(_, percent)| random.chance(*percent)).map(|(event, _)| event).collect();
        if !executed_on.is_empty() {
            hooks.insert("hook_e".parse().unwrap(), Hook { executed_on, demand: None, timeout_s: 1 });
        }
        let deployment_seq = demand.map_or(0, |(_, seq)| seq + 1);
        let mut spec = JobSpec {
            max_concurrent_upgrades: 1 + random.below(3) as u32,
            max_concurrent_starts: random.below(3) as u32,
            action_timeout_s: 30,
            deployment_seq,
            restart_policy: [RestartPolicy::Always, RestartPolicy::Reload, RestartPolicy::Never]
                [random.below(3) as usize],
            max_failed: Budget::Count(if random.chance(30) { random.below(3) as u32 } else { 0 }),
            max_unreachable: Budget::Count(if random.chance(50) { random.below(4) as u32 } else { 0 }),
            hooks,
            ..JobSpec::default()
        };
        spec.health_check.attempts = 1 + random.below(4) as u32;
        if random.chance(30) {
            spec.health_check.checks = vec![Probe::Exec { command: "true".to_owned() }];
        }
        for _ in 0..1 + random.below(5) {
            number += 1;
            let promoted = match random.below(10) {
                0..=3 => None,
                4..=5 => Some(digest(number)),
                _ => Some(digest(number + 100)),
            };
            let (removed, disabled) = (random.chance(10), random.chance(15));
            allocations.push(Allocation {
                alloc_id: AllocId::from_uuid(Uuid::from_u128(number)),
                job: name.clone(),
                host: format!("w{number}").parse().unwrap(),
                worker_id: WorkerId::from_uuid(Uuid::from_u128(number)),
                disabled,
                removed,
                start_pending: !disabled && !removed && promoted.is_some() && random.chance(10),
                deployment_seq,
                new_version: "2.0.0".into(),
                bundle: (!removed).then(|| digest(number)),
                rolled: promoted.map(|_| Rolled { may_run: !random.chance(10), ..Rolled::default() }),
                promoted: promoted.map(|bundle| Promoted { bundle, version: "1.0.0".into() }),
                render_inputs: None,
            });
        }
        jobs.push(Job { name, spec, files: vec![] });
    }
    Snapshot {
        bucket_id: BucketId::from_uuid(Uuid::from_u128(1)),
        epoch: 1,
        update_seq: 1,
        built_at_ms: Some(1),
        workers: vec![],
        jobs,
        allocations,
    }
}
