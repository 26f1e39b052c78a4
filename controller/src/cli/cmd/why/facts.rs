//! What `maand why` knows, in lines: a name and a text each.

use shared::RelPath;
use shared::api::v1::desired::DesiredAllocation;
use shared::api::v1::report::{ObservedAction, ObservedAllocation, Outcome, Process};
use shared::text::clean;

use super::Read;
use crate::catalog::desired::state_word;
use crate::cli::table::time;
use crate::why::{CLOCK_MS, Here};

pub(super) fn outcome_word(outcome: Option<&Outcome>) -> String {
    match outcome {
        None => "running".to_owned(),
        Some(Outcome::Ok) => "ok".to_owned(),
        Some(Outcome::Failed { exit }) => format!("failed, exit {exit}"),
        Some(Outcome::TimedOut) => "took too long and was ended".to_owned(),
        Some(Outcome::Interrupted) => "cut off".to_owned(),
        Some(Outcome::Refused { reason }) => format!("refused: {}", clean(reason)),
    }
}

/// What is known of the worker, in lines.
pub(super) fn of_host(known: &Read) -> Vec<(&'static str, String)> {
    let worker = &known.worker;
    let mut facts = Vec::new();
    let state = match (worker.joined, &worker.away) {
        (None, _) if worker.shut_out.is_some() => "revoked".to_owned(),
        (None, _) => "not joined".to_owned(),
        (Some(_), None) => "online".to_owned(),
        (Some(_), Some(since)) => format!("offline, {since}"),
    };
    let version = known.agent.as_ref().map(|agent| clean(&agent.version)).filter(|version| !version.is_empty());
    facts.push(("agent", version.map_or(state.clone(), |version| format!("{state} (maand-agent {version})"))));
    if let (Some(contact), None) = (known.contact, &worker.away) {
        facts.push(("last seen", time(contact.last_seen_ms)));
    }
    if let Some(end) = known.certificate_end_ms {
        facts.push(("certificate", format!("until {}", time(end))));
    }
    if known.agent.is_some() {
        let off = if worker.clock_ms.abs() > CLOCK_MS { ", off: set up time synchronisation there" } else { "" };
        facts.push(("clock", format!("{:+} ms{off}", worker.clock_ms)));
    }
    let shown =
        |fence: Option<shared::api::v1::desired::Fence>| fence.map_or_else(|| "nothing".to_owned(), |f| f.to_string());
    let issued = known.told.as_ref().map(|told| format!(", {}", time(told.issued_at_ms))).unwrap_or_default();
    facts.push(("told", format!("{}{issued}", shown(worker.told))));
    facts.push(("accepted", shown(worker.accepted)));
    if let Some(why) = &worker.refused {
        facts.push(("refused", clean(why)));
    }
    if let Some(words) = &worker.held {
        facts.push(("held", words.clone()));
    }
    for alarm in &worker.alarms {
        let times = format!("since {}, last {}, seen {} times", time(alarm.first_ms), time(alarm.last_ms), alarm.count);
        facts.push(("alarm", format!("{} ({times})", clean(&alarm.detail))));
    }
    if !worker.is_listed {
        facts.push(("workers.json", "it is not in there any more".to_owned()));
    }
    facts
}

/// What is known of one allocation, in lines.
pub(super) fn of_job(known: &Read, here: &Here) -> Vec<(&'static str, String)> {
    let allocation = &here.allocation;
    let mut facts = Vec::new();
    let built = match &allocation.bundle {
        Some(bundle) => format!("{} version {}", bundle.short(), allocation.new_version),
        None => "not wanted here".to_owned(),
    };
    let at = known.snapshot.built_at_ms.map(|at| format!(", {}", time(at))).unwrap_or_default();
    facts.push(("last build", format!("{built}{at}")));
    facts.push((
        "promoted",
        match &allocation.promoted {
            Some(promoted) => format!("{} version {}", promoted.bundle.short(), promoted.version),
            None => "never".to_owned(),
        },
    ));
    facts.push(("rollout", allocation.rollout_word().to_owned()));
    facts.push(("plan", here.planned.clone().unwrap_or_else(|| "nothing to do".to_owned())));
    facts.push((
        "open rollout",
        match (&here.rolling, &known.open) {
            (Some(rolling), _) => {
                let what = if rolling.what.is_empty() { "its part is over" } else { &rolling.what };
                format!("{}: {}; {what}", rolling.run, rolling.job)
            }
            (None, Some((open, _))) => format!("{}: it has no part in it", open.run),
            (None, None) => "none".to_owned(),
        },
    ));
    let told = known.told.as_ref().and_then(|told| told.allocations.iter().find(|a| a.alloc_id == allocation.alloc_id));
    facts.push(("told", told.map_or_else(|| "nothing of it".to_owned(), told_words)));
    match &here.said {
        Some(said) => facts.extend(heard(said)),
        None => facts.push(("has", "its agent has said nothing of it".to_owned())),
    }
    facts
}

fn told_words(told: &DesiredAllocation) -> String {
    let files = told.bundle.map_or_else(|| "files as they are".to_owned(), |bundle| bundle.short());
    let action =
        told.action.as_ref().map_or_else(|| "no action".to_owned(), |action| format!("{} {}", action.kind, action.id));
    format!("{}, {files}, {action}", state_word(told.state))
}

fn heard(said: &ObservedAllocation) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let process = match said.process {
        Process::Unknown => "nothing is known of its process",
        Process::Started => "started",
        Process::Stopped => "stopped",
        Process::Failed => "its last target failed",
    };
    let has = said.bundle.map_or_else(|| "no files".to_owned(), |bundle| bundle.short());
    let version = said.version.as_deref().map(|version| format!(" version {}", clean(version))).unwrap_or_default();
    facts.push(("has", format!("{has}{version}, {process}")));
    if let Some(ObservedAction { id, outcome, started_ms, duration_ms, tail }) = &said.action {
        let word = outcome_word(outcome.as_ref());
        facts.push(("last action", format!("{id}: {word}, {} ({duration_ms} ms)", time(*started_ms))));
        for line in tail.iter().flat_map(|tail| tail.lines()) {
            facts.push(("output", format!("| {}", clean(line))));
        }
    }
    if let Some(boot) = &said.boot {
        let word = match (&boot.outcome, boot.started_ms) {
            (None, 0) => "its start waits for its turn".to_owned(),
            (outcome, at) => {
                format!("start: {}, {} ({} ms)", outcome_word(outcome.as_ref()), time(at), boot.duration_ms)
            }
        };
        facts.push(("after boot", word));
        for line in boot.tail.iter().flat_map(|tail| tail.lines()) {
            facts.push(("output", format!("| {}", clean(line))));
        }
    }
    if let Some(health) = &said.health {
        let why = health.problem.as_deref().map(|why| format!(": {}", clean(why))).unwrap_or_default();
        facts.push(("health", format!("{} since {}{why}", health.state.word(), time(health.since_ms))));
    }
    if let Some(problem) = &said.problem {
        facts.push(("held up", clean(problem)));
    }
    let names = |paths: &[RelPath]| paths.iter().map(RelPath::as_str).collect::<Vec<_>>().join(", ");
    if !said.drift.is_empty() {
        facts.push(("edited there", names(&said.drift)));
    }
    if !said.unhealed.is_empty() {
        facts.push(("left edited", names(&said.unhealed)));
    }
    if !said.unmanaged.is_empty() {
        facts.push(("unmanaged", names(&said.unmanaged)));
    }
    facts
}
