//! disabled.json: what is drained (`spec/behaviour.md` 2.12). A name that does not exist is an error:
//! a drain that silently does nothing costs somebody their database.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use shared::text::closest;
use shared::{Code, Diagnostic, Host, JobName};

use super::json::Reader;

/// The file, as the user knows it.
pub const FILE: &str = "workspace/disabled.json";

/// What is drained: the union of its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disabled {
    /// Everything on these.
    pub workers: BTreeSet<Host>,
    /// These jobs, on the hosts that are named; everywhere when none is.
    pub jobs: BTreeMap<JobName, BTreeSet<Host>>,
}

impl Disabled {
    /// Whether an allocation is drained.
    pub fn contains(&self, job: &JobName, host: &Host) -> bool {
        self.workers.contains(host) || self.jobs.get(job).is_some_and(|hosts| hosts.is_empty() || hosts.contains(host))
    }
}

/// The file's content. `jobs` and `hosts` are what there is to name; `None` when that is not known.
pub fn parse(text: &str, jobs: &[&str], hosts: Option<&[&str]>) -> Result<Disabled, Vec<Diagnostic>> {
    let mut reader = Reader::new(FILE);
    let mut disabled = Disabled::default();
    if let Some(document) = reader.parse(text) {
        for (field, value) in reader.object("", &document).into_iter().flatten() {
            match field.as_str() {
                "workers" => disabled.workers = names(&mut reader, "workers", value, hosts),
                "jobs" => {
                    for (job, value) in reader.object("jobs", value).into_iter().flatten() {
                        let key = format!("jobs.{job}");
                        let name: Option<JobName> = reader.parsed(&key, &Value::from(job.as_str()));
                        if name.is_some() && !jobs.contains(&job.as_str()) {
                            unknown(&mut reader, &key, "job", job, jobs);
                        }
                        let mut at = BTreeSet::new();
                        for (field, value) in reader.object(&key, value).into_iter().flatten() {
                            let key = format!("{key}.{field}");
                            match field.as_str() {
                                "allocations" => at = names(&mut reader, &key, value, hosts),
                                other => reader.unknown(&key, other, &["allocations"]),
                            }
                        }
                        disabled.jobs.extend(name.map(|name| (name, at)));
                    }
                }
                other => reader.unknown(other, other, &["jobs", "workers"]),
            }
        }
    }
    if reader.problems.is_empty() { Ok(disabled) } else { Err(reader.problems) }
}

fn names(reader: &mut Reader<'_>, key: &str, value: &Value, known: Option<&[&str]>) -> BTreeSet<Host> {
    let mut found = BTreeSet::new();
    match value.as_array() {
        None => reader.expected(key, "a list of hosts", value),
        Some(entries) => {
            for (n, entry) in entries.iter().enumerate() {
                let key = format!("{key}[{n}]");
                let Some(host) = reader.parsed::<Host>(&key, entry) else { continue };
                if let Some(known) = known.filter(|known| !known.contains(&host.as_str())) {
                    unknown(reader, &key, "worker", host.as_str(), known);
                }
                found.insert(host);
            }
        }
    }
    found
}

fn unknown(reader: &mut Reader<'_>, key: &str, what: &str, name: &str, known: &[&str]) {
    let close = closest(name, known.iter().copied());
    let problem = reader.problem(Code::UnknownReference, key, format!("there is no {what} {name:?}"));
    problem.remedy = Some(match close {
        Some(close) => format!("did you mean {close:?}?"),
        None => "take it out: it would drain nothing".to_owned(),
    });
}
