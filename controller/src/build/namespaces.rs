//! Decides the key-values that build owns (`spec/behaviour.md` 3.4).

use std::collections::BTreeSet;

use shared::{BucketId, Name};

use crate::model::kv::{Made, Sync};
use crate::model::{Allocation, Job, Worker};
use crate::workspace::Workspace;

fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

fn number(value: f64) -> String {
    // Without exponent, and without decimals where there are none.
    format!("{value}")
}

/// Makes all of them.
pub fn make(
    bucket: BucketId,
    workspace: &Workspace,
    workers: &[Worker],
    jobs: &[Job],
    allocations: &[Allocation],
) -> Made {
    let mut made = Made::default();
    let active = |job: &Job| allocations.iter().filter(|a| a.job == job.name && a.is_active()).collect::<Vec<_>>();
    let running: Vec<&Job> = jobs.iter().filter(|job| !active(job).is_empty()).collect();

    let keys = made.namespace("maand/bucket", Sync::Full);
    for (name, port) in running.iter().flat_map(|job| &job.spec.ports) {
        keys.insert(name.to_string(), port.to_string());
    }
    keys.insert("bucket_id".into(), bucket.to_string());
    keys.insert("jobs".into(), joined(jobs.iter().map(|job| &job.name)));
    keys.insert("activejobs".into(), joined(running.iter().map(|job| &job.name)));
    made.namespace("vars/bucket", Sync::Full).extend(workspace.variables.clone());

    let labels: BTreeSet<&Name> = workers.iter().flat_map(|worker| &worker.labels).collect();
    let with = |label: &Name| workers.iter().filter(|w| w.labels.contains(label)).map(|w| &w.host).collect::<Vec<_>>();
    for label in &labels {
        let hosts = with(label);
        let keys = made.namespace("maand/worker", Sync::Full);
        keys.insert(format!("{label}_workers"), joined(&hosts));
        keys.insert(format!("{label}_workers_length"), hosts.len().to_string());
        for (at, host) in hosts.iter().enumerate() {
            keys.insert(format!("{label}_{at}"), host.to_string());
        }
    }
    for worker in workers {
        let keys = made.namespace(format!("maand/worker/{}", worker.host), Sync::Full);
        keys.insert("worker_ip".into(), worker.host.to_string());
        keys.insert("worker_id".into(), worker.worker_id.to_string());
        keys.insert("labels".into(), joined(&worker.labels));
        keys.insert("worker_cpu_mhz".into(), number(worker.cpu_mhz));
        keys.insert("worker_memory_mb".into(), number(worker.memory_mb));
        keys.insert("position".into(), worker.position.to_string());
        let here = allocations.iter().filter(|a| a.host == worker.host && a.is_active());
        keys.insert("jobs".into(), joined(here.map(|a| &a.job)));
        if let Some(hostname) = &worker.hostname {
            keys.insert("hostname".into(), hostname.clone());
        }
        for label in &worker.labels {
            let hosts = with(label);
            let peers: Vec<_> = hosts.iter().filter(|host| ***host != worker.host).collect();
            if !peers.is_empty() {
                keys.insert(format!("{label}_peers"), joined(peers));
            }
            if let Some(index) = hosts.iter().position(|host| **host == worker.host) {
                keys.insert(format!("{label}_allocation_index"), index.to_string());
            }
        }
        made.namespace(format!("maand/worker/{}/tags", worker.host), Sync::Full).extend(worker.tags.clone());
    }
    for job in jobs {
        let hosts: Vec<_> = active(job).into_iter().map(|a| &a.host).collect();
        let keys = made.namespace(format!("maand/job/{}", job.name), Sync::Full);
        keys.insert("name".into(), job.name.to_string());
        keys.insert("job_name".into(), job.name.to_string());
        keys.insert("version".into(), job.spec.deploy_version());
        keys.insert("selectors".into(), joined(&job.spec.selectors));
        keys.insert("workers".into(), joined(&hosts));
        keys.insert("workers_length".into(), hosts.len().to_string());
        keys.insert("rollout_order".into(), joined(&hosts));
        for (at, host) in hosts.iter().enumerate() {
            keys.insert(format!("worker_{at}"), host.to_string());
        }
        let placed: Vec<_> = allocations.iter().filter(|a| a.job == job.name && !a.removed).collect();
        for (index, allocation) in placed.iter().enumerate() {
            let keys = made.namespace(format!("maand/job/{}/worker/{}", job.name, allocation.host), Sync::Full);
            keys.insert(format!("{}_allocation_index", job.name), index.to_string());
            let peers = placed.iter().filter(|other| other.host != allocation.host).map(|other| &other.host);
            keys.insert("peer_workers".into(), joined(peers));
        }
    }
    for input in &workspace.jobs {
        made.namespace(format!("vars/job/{}", input.name), Sync::Merge).extend(input.variables.clone());
    }
    made
}
