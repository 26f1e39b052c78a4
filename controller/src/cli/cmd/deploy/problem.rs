//! What went wrong with a job, for the operator: what it is, where its output is, what to do.

use std::collections::{BTreeMap, BTreeSet};

use shared::api::v1::report::Outcome;
use shared::text::clean;
use shared::{Code, Diagnostic, Host, JobName, RunId, WorkerId};

use crate::plan::Move;
use crate::rollout::flight::Why;
use crate::rollout::job::{End, JobRollout};

/// A job that is refused or failed as a whole.
pub fn of_job(job: &JobName, why: &str) -> Diagnostic {
    let message = format!("job {job}: {}", clean(why));
    if why.starts_with("--sync-only") {
        let remedy = "deploy without --sync-only, or leave the job out with --jobs";
        return Diagnostic::new(Code::SyncOnlyStart, message).remedy(remedy);
    }
    let hook = [
        "pre_deploy:",
        "post_deploy:",
        "job_control:",
        "after_allocation_started:",
        "after_allocation_stopped:",
        "health_check:",
    ];
    if hook.iter().any(|event| why.starts_with(event)) {
        return Diagnostic::new(Code::HookFailed, message)
            .remedy("correct the hook or what it looks at, then maand deploy: what was promoted is skipped");
    }
    if why.starts_with("make targets cannot run") {
        let remedy = "install it there; maand agent ping HOST has its agent look again, then maand deploy";
        return Diagnostic::new(Code::DeployFailed, message).note("nothing of the job was released").remedy(remedy);
    }
    Diagnostic::new(Code::DeployFailed, message)
        .remedy("maand cat deployments says what is promoted; then maand deploy")
}

/// Every problem of a job, in the order of its plan.
pub fn of(
    job: &JobRollout,
    joined: &BTreeSet<WorkerId>,
    run: RunId,
    said: &BTreeMap<JobName, Vec<Diagnostic>>,
) -> Vec<Diagnostic> {
    let name = &job.plan.job;
    let mut problems: Vec<Diagnostic> =
        job.failures().into_iter().map(|(host, why)| of_release(name, host, why, run)).collect();
    match job.end() {
        Some(End::Failed { why: Some(why) }) => match said.get(name) {
            // What hooks and templates said says more.
            Some(said) => problems.extend(said.iter().cloned()),
            None => problems.push(of_job(name, why)),
        },
        Some(End::Failed { why: None }) => problems.extend(out_of_reach(job, joined)),
        Some(End::Blocked { by }) => {
            let problem = Diagnostic::new(Code::HeldBack, format!("job {name}: blocked: {by} failed"));
            problems.push(problem.remedy(format_args!("put {by} right, then maand deploy")));
        }
        _ => {}
    }
    if job.end() == Some(&End::Failed { why: None })
        && let Some(last) = problems.last_mut()
    {
        let all = job.plan.batches.iter().flatten().count();
        let begun = job.plan.batches.iter().flatten().filter(|step| job.flights.contains_key(&step.alloc_id)).count();
        if begun < all {
            last.notes.push(format!("the job stopped there, with {} of its {all} allocations untouched", all - begun));
        }
    }
    problems
}

/// More agents are out of reach than the job allows.
fn out_of_reach(job: &JobRollout, joined: &BTreeSet<WorkerId>) -> Vec<Diagnostic> {
    let away = job.out_of_reach();
    if away.len() <= job.plan.max_unreachable {
        return Vec::new();
    }
    let name = &job.plan.job;
    let moves = || job.plan.batches.iter().flatten();
    let is_joined = |step: &Move| joined.contains(&step.worker_id);
    away.iter()
        .map(|(host, _)| {
            let waited_s = moves()
                .find(|step| step.host == **host)
                .and_then(|step| job.flights.get(&step.alloc_id))
                .map_or(0, |flight| flight.waited_ms() / 1000);
            if moves().any(|step| step.host == **host && !is_joined(step)) {
                return Diagnostic::new(
                    Code::NotJoined,
                    format!("job {name}: no agent has joined for {host} (waited {waited_s} s)"),
                )
                .remedy(format_args!(
                    "run `maand agent token {host}`, and on that worker the line that it prints; then maand deploy"
                ));
            }
            let message = format!("job {name}: the agent of {host} did not pick up its work within {waited_s} s");
            Diagnostic::new(Code::NotPickedUp, message)
                .note(format!("max_unreachable of the job is {}", job.plan.max_unreachable))
                .remedy("look at maand cat agents; start maand-agent there, then maand deploy")
        })
        .collect()
}

fn of_release(job: &JobName, host: &Host, why: &Why, run: RunId) -> Diagnostic {
    let log = format!("logs/{host}.log (run {run})");
    let rerun = "correct it, then maand build && maand deploy: what was promoted is skipped";
    match why {
        Why::NoResult { waited_ms, problem } => {
            let message = format!("job {job}: no result from {host} after {} s", waited_ms / 1000);
            let found = Diagnostic::new(Code::ActionTimedOut, message)
                .remedy("look at maand cat agents and maand cat deployments");
            match problem {
                Some(problem) => found.note(format!("its agent says: {}", clean(problem))),
                None => found,
            }
        }
        Why::Unhealthy { problem } => {
            Diagnostic::new(Code::Unhealthy, format!("job {job}: {host} runs and is not healthy: {}", clean(problem)))
                .note(format!("the whole output is in {log}"))
                .remedy(format_args!("maand health_check --jobs {job} --wait --verbose; then maand deploy"))
        }
        Why::Hook { problem } => Diagnostic::new(Code::HookFailed, format!("job {job}: on {host}: {}", clean(problem)))
            .remedy("correct the hook, then maand deploy: the allocation is tried again"),
        Why::Outcome { outcome, tail } => {
            let found = match outcome {
                Outcome::Failed { exit } => Diagnostic::new(
                    Code::ActionFailed,
                    format!("job {job}: make failed on {host} with exit code {exit}"),
                )
                .remedy(rerun),
                Outcome::TimedOut => Diagnostic::new(
                    Code::ActionTimedOut,
                    format!("job {job}: make took too long on {host} and was ended"),
                )
                .remedy("make it quicker, or raise action_timeout_seconds in its manifest"),
                Outcome::Interrupted => Diagnostic::new(
                    Code::ActionInterrupted,
                    format!("job {job}: the agent of {host} was ended again and again while make ran"),
                )
                .remedy("look at the agent's log on that worker, then maand deploy"),
                Outcome::Refused { reason } => {
                    Diagnostic::new(Code::Refused, format!("job {job}: the agent of {host} refused: {}", clean(reason)))
                        .remedy(rerun)
                }
                Outcome::Ok => Diagnostic::new(Code::Bug, format!("job {job}: {host} succeeded and counts as failed")),
            };
            let found = match tail {
                Some(tail) => tail.lines().fold(found, |found, line| found.note(format!("| {}", clean(line)))),
                None => found,
            };
            found.note(format!("the whole output is in {log}"))
        }
    }
}
