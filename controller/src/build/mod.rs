//! A workspace and what the catalog had before, to what it shall have: pure, all problems at once.

pub mod namespaces;
pub mod placement;
pub mod ports;

use std::collections::BTreeMap;

use shared::{BucketId, Code, Diagnostic, Host, WorkerId};

use crate::model::kv::{Made, Values};
use crate::model::{Allocation, Job, JobSpec, Snapshot, Worker};
use crate::workspace::Workspace;

/// What a build makes; bundles come from rendering it.
#[derive(Debug, Clone, PartialEq)]
pub struct Build {
    /// Which bucket.
    pub bucket_id: BucketId,
    /// By position, then host.
    pub workers: Vec<Worker>,
    /// Taken out of workers.json.
    pub gone: Vec<(WorkerId, Host)>,
    /// By name, with their files.
    pub jobs: Vec<Job>,
    /// By job, then worker order; removed ones included, bundles not set yet.
    pub allocations: Vec<Allocation>,
    /// What build writes.
    pub made: Made,
    /// What is live once that is written.
    pub values: Values,
}

/// Builds. `new_ids` gives an identity for each host that is new.
pub fn build(
    workspace: &Workspace,
    before: &Snapshot,
    values: &Values,
    new_ids: &mut impl Iterator<Item = WorkerId>,
) -> Result<Build, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let known: BTreeMap<&Host, WorkerId> = before.workers.iter().map(|w| (&w.host, w.worker_id)).collect();
    let mut workers: Vec<Worker> = workspace
        .workers
        .iter()
        .filter_map(|entry| {
            let worker_id = known.get(&entry.host).copied().or_else(|| new_ids.next())?;
            Some(Worker {
                worker_id,
                host: entry.host.clone(),
                hostname: entry.hostname.clone(),
                labels: entry.labels.clone(),
                tags: entry.tags.clone(),
                memory_mb: entry.memory_mb,
                cpu_mhz: entry.cpu_mhz,
                position: entry.position,
            })
        })
        .collect();
    workers.sort_by(|a, b| (a.position, &a.host).cmp(&(b.position, &b.host)));
    let gone = before.workers.iter().filter(|old| !workers.iter().any(|w| w.host == old.host));
    let gone = gone.map(|old| (old.worker_id, old.host.clone())).collect();

    let old_ports = before.jobs.iter().map(|job| (job.name.clone(), job.spec.ports.clone())).collect();
    let ports = ports::assign(&workspace.jobs, &old_ports, workspace.port_pool).unwrap_or_else(|found| {
        problems.extend(found);
        BTreeMap::new()
    });
    let jobs: Vec<Job> = workspace
        .jobs
        .iter()
        .map(|input| {
            let own = input.name.as_str().parse().ok();
            let selectors = if input.manifest.selectors.is_empty() {
                own.into_iter().collect()
            } else {
                input.manifest.selectors.clone()
            };
            let spec = JobSpec {
                version: input.manifest.version.clone(),
                selectors,
                max_concurrent_upgrades: input.manifest.max_concurrent_upgrades,
                max_concurrent_starts: input.manifest.max_concurrent_starts,
                min_allocations_count: input.manifest.min_allocations_count,
                action_timeout_s: input.manifest.action_timeout_s,
                ports: ports.get(&input.name).cloned().unwrap_or_default(),
                deployment_seq: 0,
            };
            Job { name: input.name.clone(), spec, files: input.files.clone() }
        })
        .collect();
    let allocations = placement::place(before, &workers, &jobs);
    for job in &jobs {
        let count = allocations.iter().filter(|a| a.job == job.name && !a.removed).count();
        if count < job.spec.min_allocations_count as usize {
            let message = format!(
                "job {} has {count} allocations, fewer than min_allocations_count {}",
                job.name, job.spec.min_allocations_count
            );
            let at = format!("workspace/jobs/{}/manifest.json min_allocations_count", job.name);
            problems.push(
                Diagnostic::new(Code::TooFewAllocations, message)
                    .at(at)
                    .remedy("give more workers the job's labels, or lower the number"),
            );
        }
    }
    let made = namespaces::make(before.bucket_id, workspace, &workers, &jobs, &allocations);
    let values = made.over(values);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Build { bucket_id: before.bucket_id, workers, gone, jobs, allocations, made, values })
}
