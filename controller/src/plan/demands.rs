//! Which jobs a failed job holds back: those that demand it, directly or not, and no other.

use std::collections::{BTreeMap, BTreeSet};

use shared::JobName;

use crate::model::Job;

/// For each job, every job that it demands, directly or through others.
pub fn demanded(jobs: &[Job]) -> BTreeMap<JobName, BTreeSet<JobName>> {
    let direct: BTreeMap<&JobName, BTreeSet<&JobName>> = jobs
        .iter()
        .map(|job| {
            let demands = job.spec.hooks.values().filter_map(|hook| hook.demand.as_ref()).map(|demand| &demand.job);
            (&job.name, demands.collect())
        })
        .collect();
    let mut all = BTreeMap::new();
    for job in jobs {
        let mut found: BTreeSet<&JobName> = BTreeSet::new();
        let mut open: Vec<&JobName> = vec![&job.name];
        while let Some(next) = open.pop() {
            for upstream in direct.get(next).into_iter().flatten() {
                if found.insert(upstream) {
                    open.push(upstream);
                }
            }
        }
        // A circle never passes build; a job does not wait for itself whatever the catalog says.
        found.remove(&job.name);
        if !found.is_empty() {
            all.insert(job.name.clone(), found.into_iter().cloned().collect());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Demand, Hook, HookEvent, JobSpec};

    fn job(name: &str, demands: &[&str]) -> Job {
        let hook = |job: &&str| {
            let demand = Demand {
                job: job.parse().unwrap(),
                hook: "hook_x".parse().unwrap(),
                config: serde_json::Map::default(),
            };
            let executed_on = [HookEvent::PreDeploy].into();
            (format!("hook_{job}").parse().unwrap(), Hook { executed_on, demand: Some(demand), timeout_s: 1 })
        };
        let spec = JobSpec { hooks: demands.iter().map(hook).collect(), ..JobSpec::default() };
        Job { name: name.parse().unwrap(), spec, files: Vec::new() }
    }

    #[test]
    fn demands_reach_through_others() {
        let jobs = [job("a", &[]), job("b", &["a"]), job("c", &["b"]), job("d", &[]), job("e", &["c", "d"])];
        let all = demanded(&jobs);
        let of = |name: &str| -> Vec<String> {
            all.get(&name.parse().unwrap()).into_iter().flatten().map(ToString::to_string).collect()
        };
        assert_eq!(of("a"), [""; 0]);
        assert_eq!(of("b"), ["a"]);
        assert_eq!(of("c"), ["a", "b"]);
        assert_eq!(of("e"), ["a", "b", "c", "d"]);
    }
}
