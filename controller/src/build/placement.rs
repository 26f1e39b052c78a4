//! Decides which job lands on which worker: every selector of the job is a label of the worker.

use std::collections::{BTreeMap, HashMap};

use shared::{AllocId, Host, JobName};

use crate::model::{Allocation, Job, Snapshot, Worker};
use crate::workspace::Disabled;

/// Allocations by job, then worker order. One that no longer matches stays, as removed, until gc.
/// `jobs` are ordered by name, `workers` by position and host.
pub fn place(before: &Snapshot, workers: &[Worker], jobs: &[Job], disabled: &Disabled) -> Vec<Allocation> {
    let mut old: HashMap<(&JobName, &Host), &Allocation> =
        before.allocations.iter().map(|a| ((&a.job, &a.host), a)).collect();
    let mut placed: BTreeMap<&JobName, Vec<Allocation>> = BTreeMap::new();
    for job in jobs {
        let version = job.spec.deploy_version();
        let here = placed.entry(&job.name).or_default();
        for worker in workers.iter().filter(|worker| worker.matches(&job.spec.selectors)) {
            // A host that was taken out and put back is another worker: nothing of it is known.
            let known = old.remove(&(&job.name, &worker.host)).filter(|a| a.worker_id == worker.worker_id);
            let is_disabled = disabled.contains(&job.name, &worker.host);
            // Enabled again: the next deploy starts it, whatever it ran before.
            let enabled_again = !is_disabled && known.is_some_and(|a| a.disabled && !a.removed);
            here.push(Allocation {
                alloc_id: known.map_or_else(|| AllocId::of(before.bucket_id, &job.name, &worker.host), |a| a.alloc_id),
                job: job.name.clone(),
                host: worker.host.clone(),
                worker_id: worker.worker_id,
                disabled: is_disabled,
                removed: false,
                start_pending: enabled_again || known.is_some_and(|a| a.start_pending),
                deployment_seq: job.spec.deployment_seq,
                new_version: version.clone(),
                bundle: known.and_then(|a| a.bundle),
                promoted: known.and_then(|a| a.promoted.clone()),
                rolled: known.and_then(|a| a.rolled.clone()),
                render_inputs: known.and_then(|a| a.render_inputs),
            });
        }
    }
    let position: HashMap<&Host, usize> = workers.iter().enumerate().map(|(at, w)| (&w.host, at)).collect();
    let mut mixed = std::collections::BTreeSet::new();
    for gone in old.into_values() {
        mixed.insert(&gone.job);
        let removed = Allocation { removed: true, bundle: None, render_inputs: None, ..gone.clone() };
        placed.entry(&gone.job).or_default().push(removed);
    }
    for job in mixed {
        let here = placed.entry(job).or_default();
        here.sort_by(|a, b| {
            let place = |x: &Allocation| position.get(&x.host).copied().unwrap_or(usize::MAX);
            (place(a), &a.host).cmp(&(place(b), &b.host))
        });
    }
    placed.into_values().flatten().collect()
}
