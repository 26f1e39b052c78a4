//! A workspace and what the catalog had before, to what it shall have: pure, all problems at once.

pub mod capacity;
pub mod certs;
pub mod namespaces;
pub mod placement;
pub mod ports;
pub mod sequence;

use std::collections::BTreeMap;

use shared::{BucketId, Code, Diagnostic, Host, WorkerId};

use crate::model::{Allocation, Job, JobSpec, Snapshot, Worker};
use crate::workspace::{JobInput, Workspace};

/// What a build makes; certificates and bundles come next.
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
    /// By job, then worker order; removed ones included, bundles those of the last build.
    pub allocations: Vec<Allocation>,
}

/// Builds as far as the workspace could be read. `new_ids` gives an identity for each host that is new.
/// The problems are those of the workspace and those that only the whole shows, in file order.
pub fn build(
    workspace: &Workspace,
    before: &Snapshot,
    new_ids: &mut impl Iterator<Item = WorkerId>,
) -> (Build, Vec<Diagnostic>) {
    let mut problems = workspace.problems.clone();
    let workers = workers(workspace, before, new_ids);
    let gone = before.workers.iter().filter(|old| !workers.iter().any(|w| w.host == old.host));
    let gone = gone.map(|old| (old.worker_id, old.host.clone())).collect();

    let old_ports = before.jobs.iter().map(|job| (job.name.clone(), job.spec.ports.clone())).collect();
    let ports = ports::assign(&workspace.jobs, &old_ports, workspace.port_pool).unwrap_or_else(|found| {
        problems.extend(found);
        BTreeMap::new()
    });
    let places = sequence::sequence(&workspace.jobs, &workspace.broken).unwrap_or_else(|found| {
        problems.extend(found);
        BTreeMap::new()
    });
    let jobs: Vec<Job> = workspace
        .jobs
        .iter()
        .map(|input| {
            let place = places.get(&input.name).copied().unwrap_or(0);
            let spec = spec(input, ports.get(&input.name).cloned().unwrap_or_default(), place);
            Job { name: input.name.clone(), spec, files: input.files.clone() }
        })
        .collect();
    let allocations = placement::place(before, &workers, &jobs, &workspace.disabled);
    if workspace.workers_known {
        problems.extend(jobs.iter().filter_map(|job| too_few(job, &allocations)));
        problems.extend(capacity::check(&workers, &jobs, &allocations));
    }
    in_file_order(&mut problems);
    (Build { bucket_id: before.bucket_id, workers, gone, jobs, allocations }, problems)
}

/// Orders problems by file; within a file they stay in the order in which they were found.
pub fn in_file_order(problems: &mut [Diagnostic]) {
    problems.sort_by(|a, b| file_of(a).cmp(file_of(b)));
}

/// The file that a problem is in.
fn file_of(problem: &Diagnostic) -> &str {
    let at = problem.at.as_deref().unwrap_or_default();
    at.split([' ', ':']).next().unwrap_or(at)
}

fn workers(workspace: &Workspace, before: &Snapshot, new_ids: &mut impl Iterator<Item = WorkerId>) -> Vec<Worker> {
    let known: BTreeMap<&Host, WorkerId> = before.workers.iter().map(|w| (&w.host, w.worker_id)).collect();
    let entries = workspace.workers.iter().filter_map(|entry| {
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
    });
    let mut workers: Vec<Worker> = entries.collect();
    workers.sort_by(|a, b| (a.position, &a.host).cmp(&(b.position, &b.host)));
    workers
}

fn spec(input: &JobInput, ports: BTreeMap<shared::Name, u16>, deployment_seq: u32) -> JobSpec {
    let manifest = input.manifest.clone();
    let own = input.name.as_str().parse().ok();
    let selectors = if manifest.selectors.is_empty() { own.into_iter().collect() } else { manifest.selectors };
    JobSpec {
        version: manifest.version,
        selectors,
        max_concurrent_upgrades: manifest.max_concurrent_upgrades,
        max_concurrent_starts: manifest.max_concurrent_starts,
        min_allocations_count: manifest.min_allocations_count,
        action_timeout_s: manifest.action_timeout_s,
        ports,
        deployment_seq,
        memory: manifest.memory,
        cpu: manifest.cpu,
        restart_policy: manifest.restart_policy,
        restart_globs: manifest.restart_globs,
        hooks: manifest.hooks,
        health_check: manifest.health_check,
        certs: manifest.certs,
        max_failed: manifest.max_failed,
        max_unreachable: manifest.max_unreachable,
        dir_mode: manifest.dir_mode,
        self_heal: manifest.self_heal,
    }
}

fn too_few(job: &Job, allocations: &[Allocation]) -> Option<Diagnostic> {
    let needed = job.spec.min_allocations_count as usize;
    if needed == 0 {
        return None;
    }
    let count = allocations.iter().filter(|a| a.job == job.name && !a.removed).count();
    (count < needed).then(|| {
        let message = format!("job {} has {count} allocations, fewer than min_allocations_count {needed}", job.name);
        Diagnostic::new(Code::TooFewAllocations, message)
            .at(format!("workspace/jobs/{}/manifest.json min_allocations_count", job.name))
            .remedy("give more workers the job's labels, or lower the number")
    })
}
