//! `--jobs a,b` and `--workers a,b`: a name that does not exist is an error, never silence.

use std::collections::BTreeSet;

use shared::text::closest;
use shared::{Code, Diagnostic, Host, JobName};

use crate::failure::{Exit, Failure};
use crate::model::Snapshot;

/// A filter over jobs and workers; an empty list lets everything through.
#[derive(Debug, Default)]
pub struct Filter {
    jobs: Option<BTreeSet<JobName>>,
    workers: Option<BTreeSet<Host>>,
}

impl Filter {
    /// Checks the names against the catalog.
    pub fn new(snapshot: &Snapshot, jobs: &[String], workers: &[String]) -> Result<Self, Failure> {
        // A job that is gone from the workspace still has allocations until gc.
        let known_jobs: BTreeSet<JobName> = snapshot
            .jobs
            .iter()
            .map(|job| job.name.clone())
            .chain(snapshot.allocations.iter().map(|a| a.job.clone()))
            .collect();
        let known_hosts: BTreeSet<Host> = snapshot
            .workers
            .iter()
            .map(|worker| worker.host.clone())
            .chain(snapshot.allocations.iter().map(|a| a.host.clone()))
            .collect();
        let mut problems = Vec::new();
        let jobs = chosen("job", jobs, &known_jobs, JobName::as_str, &mut problems);
        let workers = chosen("worker", workers, &known_hosts, Host::as_str, &mut problems);
        if problems.is_empty() { Ok(Self { jobs, workers }) } else { Err(Failure { exit: Exit::Usage, problems }) }
    }

    /// Whether the job passes.
    pub fn job(&self, job: &JobName) -> bool {
        self.jobs.as_ref().is_none_or(|jobs| jobs.contains(job))
    }

    /// Whether the worker passes.
    pub fn worker(&self, host: &Host) -> bool {
        self.workers.as_ref().is_none_or(|workers| workers.contains(host))
    }
}

/// A name of a filter of a command that changes something. An empty one, as an unset variable of a script
/// leaves it, must not mean everything.
pub fn name(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("an empty name".to_owned()),
        text => Ok(text.to_owned()),
    }
}

fn chosen<T: Ord + Clone>(
    what: &str,
    wanted: &[String],
    known: &BTreeSet<T>,
    text: impl Fn(&T) -> &str,
    problems: &mut Vec<Diagnostic>,
) -> Option<BTreeSet<T>> {
    let wanted: Vec<&str> = wanted.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    if wanted.is_empty() {
        return None;
    }
    let mut found = BTreeSet::new();
    for name in wanted {
        match known.iter().find(|candidate| text(candidate) == name) {
            Some(candidate) => {
                found.insert(candidate.clone());
            }
            None => problems.push(unknown(what, name, known.iter().map(&text))),
        }
    }
    Some(found)
}

/// The problem of a name that is not in the catalog.
pub fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Diagnostic {
    let known: Vec<&str> = known.collect();
    let problem = Diagnostic::new(Code::UnknownName, format!("there is no {what} {name:?}"));
    let problem = match closest(name, known.iter().copied()) {
        Some(close) => problem.note(format!("did you mean {close:?}?")),
        None if known.is_empty() => problem.note(format!("the catalog has no {what} at all")),
        None => {
            let shown: Vec<&str> = known.iter().copied().take(12).collect();
            let more = if known.len() > shown.len() { ", …" } else { "" };
            problem.note(format!("{what}s there: {}{more}", shown.join(", ")))
        }
    };
    problem.remedy("correct the name, or run maand build if the workspace has it by now")
}
