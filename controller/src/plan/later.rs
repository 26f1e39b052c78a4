//! What a job's manifest asks of a deploy that this version does not do yet. Such a job is not rolled:
//! to leave out a health gate or a hook silently would be worse than to refuse.

use shared::{Code, Diagnostic};

use super::{Options, Plan};
use crate::model::{Budget, HookEvent, Job, Snapshot};

/// Every job of the plan that would be rolled without something that it asks for.
pub fn refused(plan: &Plan, snapshot: &Snapshot, options: &Options) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for planned in plan.jobs.iter().filter(|planned| planned.is_required()) {
        let Some(job) = snapshot.job(&planned.job) else { continue };
        for what in asked(job) {
            problems.push(
                Diagnostic::new(
                    Code::NotSupportedYet,
                    format!("job {}: {what} is not supported yet by maand deploy", job.name),
                )
                .at(format!("workspace/jobs/{}/manifest.json", job.name))
                .remedy("take it out, or leave the job out with --jobs"),
            );
        }
    }
    let wanted = |job| options.jobs.is_empty() || options.jobs.contains(job);
    for allocation in snapshot.allocations.iter().filter(|a| a.disabled && !a.removed && wanted(&a.job)) {
        if allocation.promoted.is_some() && !allocation.start_pending {
            problems.push(
                Diagnostic::new(
                    Code::NotSupportedYet,
                    format!(
                        "job {} on {} is to be drained, which maand deploy does not do yet",
                        allocation.job, allocation.host
                    ),
                )
                .at("workspace/disabled.json")
                .remedy("take the entry out, and run make stop there yourself"),
            );
        }
    }
    problems
}

fn asked(job: &Job) -> Vec<String> {
    let mut found = Vec::new();
    for (name, hook) in &job.spec.hooks {
        let events: Vec<&str> = hook
            .executed_on
            .iter()
            .filter(|event| !matches!(event, HookEvent::PostBuild | HookEvent::Cli | HookEvent::AfterAllocationStopped))
            .map(|event| event.word())
            .collect();
        if !events.is_empty() {
            found.push(format!("hook {name} on {}", events.join(", ")));
        }
    }
    if !job.spec.health_check.checks.is_empty() {
        found.push("health_check".to_owned());
    }
    for (what, budget) in [("max_failed", job.spec.max_failed), ("max_unreachable", job.spec.max_unreachable)] {
        if !matches!(budget, Budget::Count(0) | Budget::Percent(0)) {
            found.push(what.to_owned());
        }
    }
    found
}
