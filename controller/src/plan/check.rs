//! What must be true of every plan; looked at before each deploy and in every test.

use std::collections::{BTreeMap, BTreeSet};

use shared::{ActionKind, AllocId};

use super::{Options, Plan, Rest};
use crate::model::{Allocation, Snapshot};

/// The first thing that is not true, if any: a bug in the planner.
pub fn check(plan: &Plan, snapshot: &Snapshot, options: &Options) -> Result<(), String> {
    let known: BTreeMap<AllocId, &Allocation> = snapshot.allocations.iter().map(|a| (a.alloc_id, a)).collect();
    let mut seen = BTreeSet::new();
    for planned in &plan.jobs {
        let name = &planned.job;
        if planned.demands.contains(name) {
            return Err(format!("job {name} waits for itself"));
        }
        let limits = snapshot.job(name).map(|job| (job.spec.max_concurrent_starts, job.spec.max_concurrent_upgrades));
        for batch in &planned.batches {
            let Some((limit, most)) = limits else { return Err(format!("job {name} is not in the catalog")) };
            let starts = batch.iter().filter(|m| m.kind == ActionKind::Start).count();
            let upgrades = batch.len() - starts;
            let too_big = !planned.controls() && ((limit > 0 && starts > limit as usize) || upgrades > most as usize);
            if batch.is_empty() || too_big {
                return Err(format!("a batch of job {name} has {starts} starts and {upgrades} upgrades"));
            }
            for step in batch {
                let mine = |a: &&&Allocation| {
                    a.is_active() && a.job == *name && options.target(a).is_some_and(|(bundle, _)| bundle == step.to)
                };
                if known.get(&step.alloc_id).filter(mine).is_none() {
                    return Err(format!("{name} on {} is not an active allocation of that bundle", step.host));
                }
                if !seen.insert((step.alloc_id, false)) {
                    return Err(format!("{name} on {} moves twice", step.host));
                }
            }
        }
        for step in planned.settle.iter().chain(&planned.promotes) {
            let fits = |a: &&&Allocation| match step.rest {
                Rest::Stop => a.disabled && !a.removed,
                Rest::Promote => a.disabled && !a.removed && step.to == a.bundle && step.to.is_some(),
                Rest::Remove { .. } => a.removed,
            };
            if known.get(&step.alloc_id).filter(fits).is_none() {
                return Err(format!("{name} on {} is neither drained nor removed", step.host));
            }
            if seen.contains(&(step.alloc_id, false)) && !matches!(step.rest, Rest::Promote)
                || !seen.insert((step.alloc_id, step.rest == Rest::Promote))
            {
                return Err(format!("{name} on {} is settled twice", step.host));
            }
        }
    }
    Ok(())
}
