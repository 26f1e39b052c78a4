//! Decides which job lands on which worker: every selector of the job is a label of the worker.

use std::collections::BTreeMap;

use shared::{AllocId, Host, JobName};

use crate::model::{Allocation, Job, Snapshot, Worker};

/// Allocations by job, then worker order. One that no longer matches stays, as removed, until gc.
pub fn place(before: &Snapshot, workers: &[Worker], jobs: &[Job]) -> Vec<Allocation> {
    let mut old: BTreeMap<(&JobName, &Host), &Allocation> =
        before.allocations.iter().map(|a| ((&a.job, &a.host), a)).collect();
    let mut placed = Vec::new();
    for job in jobs {
        for worker in workers.iter().filter(|worker| worker.matches(&job.spec.selectors)) {
            // A host that was taken out and put back is another worker: nothing of it is known.
            let known = old.remove(&(&job.name, &worker.host)).filter(|a| a.worker_id == worker.worker_id);
            let was_disabled = known.is_some_and(|a| a.disabled && !a.removed);
            placed.push(Allocation {
                alloc_id: AllocId::of(before.bucket_id, &job.name, &worker.host),
                job: job.name.clone(),
                host: worker.host.clone(),
                worker_id: worker.worker_id,
                disabled: false,
                removed: false,
                start_pending: was_disabled || known.is_some_and(|a| a.start_pending),
                deployment_seq: job.spec.deployment_seq,
                new_version: job.spec.deploy_version(),
                bundle: None,
                promoted: known.and_then(|a| a.promoted.clone()),
            });
        }
    }
    placed.extend(old.into_values().map(|a| Allocation { removed: true, bundle: None, ..a.clone() }));
    let position: BTreeMap<&Host, usize> = workers.iter().enumerate().map(|(at, w)| (&w.host, at)).collect();
    placed.sort_by(|a, b| {
        let key =
            |x: &Allocation| (x.job.clone(), position.get(&x.host).copied().unwrap_or(usize::MAX), x.host.clone());
        key(a).cmp(&key(b))
    });
    placed
}
