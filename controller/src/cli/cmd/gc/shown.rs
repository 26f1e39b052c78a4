//! What `maand gc` says: what becomes of each allocation, and what could not be done.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::{AllocId, Code, Diagnostic};

use super::Found;
use crate::cli::Context;
use crate::cli::table::{Table, time};
use crate::gc::plan::{Fate, Leftover, Plan};
use crate::gc::run::Answer;

/// What one allocation comes to, for people and scripts.
pub(super) struct Shown<'a> {
    pub(super) leftover: &'a Leftover,
    pub(super) action: &'static str,
    pub(super) why: String,
}

pub(super) fn shown(leftover: &Leftover, fate: Fate) -> Shown<'_> {
    let (action, why) = match fate {
        Fate::Kept(until_ms) => ("keep", format!("within its days of grace, until {}", time(until_ms))),
        Fate::MayRun => ("refuse", "it may still run: maand deploy stops it first".to_owned()),
        Fate::InRollout => ("refuse", "the rollout that is open has to do with it".to_owned()),
        Fate::Purge => ("purge", format!("its agent removes jobs/{} with data/ and logs/", leftover.job)),
        Fate::Waits => ("wait", "its agent is away, and removes it when it is back".to_owned()),
        Fate::NotJoined => ("wait", "no agent is joined for its worker any more".to_owned()),
        Fate::Lost => ("wait", format!("its worker is gone and its agent away: maand agent forget {}", leftover.host)),
        Fate::Forget => ("forget", "nothing of it is on its worker".to_owned()),
    };
    Shown { leftover, action, why }
}

pub(super) fn shown_after<'a>(leftover: &'a Leftover, fate: Fate, answer: Option<&Answer>) -> Shown<'a> {
    let why = match answer {
        None | Some(Answer::Purged) => return shown(leftover, fate),
        Some(Answer::NotPickedUp) if fate == Fate::Waits => return shown(leftover, fate),
        Some(Answer::Left) => "it is wanted again, or a rollout has to do with it".to_owned(),
        Some(Answer::NotPickedUp) => "its agent has not heard of it yet".to_owned(),
        Some(Answer::NotDone(problem)) => {
            let why = problem.as_deref().map_or_else(|| "it takes long".to_owned(), shared::text::clean);
            format!("its agent is at it: {why}")
        }
    };
    Shown { leftover, action: "wait", why }
}

/// What is about to be done, for people.
pub(super) fn announce(context: &Context, plan: &Plan, shown: &[Shown<'_>]) {
    for one in shown {
        let (job, host) = (&one.leftover.job, &one.leftover.host);
        context.ui.say(format_args!("{job}@{host} | {}: {}", one.action, one.why));
    }
    let names = |names: Vec<String>| names.join(", ");
    if !plan.jobs.is_empty() {
        let jobs = names(plan.jobs.iter().map(ToString::to_string).collect());
        context.ui.say(format_args!("variables and secrets go of: {jobs}"));
    }
    if !plan.workers.is_empty() {
        let hosts = names(plan.workers.values().map(ToString::to_string).collect());
        context.ui.say(format_args!("certificates end of: {hosts} (not in workers.json)"));
    }
}

pub(super) fn problems(plan: &Plan, answers: &BTreeMap<AllocId, Answer>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (leftover, fate) in &plan.allocations {
        let (job, host) = (&leftover.job, &leftover.host);
        let said = |code, message: String| Diagnostic::new(code, message);
        let problem = match (fate, answers.get(&leftover.alloc_id)) {
            (Fate::MayRun, _) => said(Code::MayRun, format!("job {job}: it may still run on {host}"))
                .remedy("maand deploy stops it; then maand gc"),
            (Fate::InRollout, _) | (_, Some(Answer::Left)) => {
                said(Code::MayRun, format!("job {job}: a rollout has to do with what is on {host}"))
                    .remedy("let it end, or end it with maand rollout abort; then maand gc")
            }
            (Fate::Waits, _) => said(Code::AgentOffline, format!("job {job}: the agent of {host} is away"))
                .note("it removes the tree when it is back")
                .remedy("start maand-agent there, then maand gc"),
            (Fate::NotJoined, _) => said(Code::NotJoined, format!("job {job}: no agent is joined for {host} any more"))
                .remedy(format_args!("maand agent token {host} lets one join; then maand gc")),
            (Fate::Lost, _) => lost(leftover),
            (Fate::Purge, Some(Answer::NotPickedUp)) => {
                let problem =
                    said(Code::NotPickedUp, format!("job {job}: the agent of {host} did not hear of it in time"));
                let forget = format!(
                    "start maand-agent there, then maand gc; a worker that is gone for good: maand agent forget {host}"
                );
                problem.note("it removes the tree when it is back").remedy(forget)
            }
            (Fate::Purge, Some(Answer::NotDone(why))) => {
                let problem = said(Code::NotPurged, format!("job {job}: its tree on {host} is not gone yet"));
                let problem = why.iter().fold(problem, |p, why| p.note(shared::text::clean(why)));
                problem.remedy("put that right on the worker (its agent tries again by itself), then maand gc")
            }
            _ => continue,
        };
        found.push(problem);
    }
    found
}

fn lost(leftover: &Leftover) -> Diagnostic {
    let (job, host) = (&leftover.job, &leftover.host);
    let running = if leftover.may_run { "; the job may still run there" } else { "" };
    Diagnostic::new(Code::WorkerLost, format!("job {job}: {host} is not in workers.json, and its agent is away{running}"))
        .remedy(format_args!(
            "start maand-agent there, then maand deploy && maand gc; if the machine is gone for good: maand agent forget {host}"
        ))
}

pub(super) fn print(context: &Context, plan: &Plan, shown: &[Shown<'_>], found: &Found, dry: bool) {
    let files = &found.files;
    if context.ui.wants_json() {
        let allocations: Vec<Value> = shown
            .iter()
            .map(|one| {
                json!({ "job": one.leftover.job, "worker_ip": one.leftover.host, "action": one.action, "why": one.why,
                    "removed": time(one.leftover.removed_ms) })
            })
            .collect();
        context.ui.out_json(&json!({
            "dry_run": dry, "allocations": allocations, "jobs": plan.jobs,
            "workers": plan.workers.values().collect::<Vec<_>>(), "key_values": found.key_values,
            "bundles": found.bundles, "blobs": files.blobs.len(), "packs": files.packs.len(), "runs": files.runs.len(),
            "bytes": files.bytes(), "content_held_by_rollout": found.held,
        }));
        return;
    }
    if dry {
        context.ui.out("gc dry-run: nothing is changed");
    }
    if !shown.is_empty() {
        let mut table = Table::new(&["job", "worker_ip", "action", "why"]);
        for one in shown {
            let (job, host) = (one.leftover.job.as_str(), one.leftover.host.as_str());
            table.row(vec![job.into(), host.into(), one.action.into(), one.why.as_str().into()]);
        }
        table.print(&context.ui);
    }
    if dry {
        for job in &plan.jobs {
            context.ui.out(format_args!("variables and secrets of {job} go"));
        }
        for host in plan.workers.values() {
            context.ui.out(format_args!("certificates of {host} end: it is not in workers.json"));
        }
    }
    let verb = if dry { "would go" } else { "gone" };
    context.ui.out(format_args!(
        "{verb}: {} bundles, {} blobs, {} packs ({} KiB), {} logs of runs{}",
        found.bundles,
        files.blobs.len(),
        files.packs.len(),
        files.bytes().div_ceil(1024),
        files.runs.len(),
        if dry { String::new() } else { format!(", {} old key-values", found.key_values) }
    ));
    if found.held {
        context.ui.say("content stays while a rollout is open: maand rollout show");
    }
}
