//! What must be true of every plan; looked at before each deploy and in every test.

use std::collections::BTreeSet;

use shared::ActionKind;

use super::Plan;
use crate::model::Snapshot;

/// The first thing that is not true, if any: a bug in the planner.
pub fn check(plan: &Plan, snapshot: &Snapshot) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for planned in &plan.jobs {
        let Some(job) = snapshot.job(&planned.job) else {
            return Err(format!("job {} is not in the catalog", planned.job));
        };
        for batch in &planned.batches {
            let starts = batch.iter().filter(|m| m.kind == ActionKind::Start).count();
            let upgrades = batch.len() - starts;
            let limit = job.spec.max_concurrent_starts as usize;
            if batch.is_empty() || (limit > 0 && starts > limit) || upgrades > job.spec.max_concurrent_upgrades as usize
            {
                return Err(format!("a batch of job {} has {starts} starts and {upgrades} upgrades", planned.job));
            }
            for step in batch {
                let known = snapshot.allocations.iter().find(|a| a.alloc_id == step.alloc_id);
                if !known.is_some_and(|a| a.is_active() && a.job == planned.job && a.bundle == Some(step.to)) {
                    return Err(format!("{} on {} is not an active allocation of that bundle", planned.job, step.host));
                }
                if !seen.insert(step.alloc_id) {
                    return Err(format!("{} on {} moves twice", planned.job, step.host));
                }
            }
        }
    }
    Ok(())
}
