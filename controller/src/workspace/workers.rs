//! workers.json (`spec/behaviour.md` 2.4, with the changes of `spec/decisions.md`).

use std::collections::BTreeMap;

use serde_json::Value;
use shared::{Code, Diagnostic, Host, Name};

use super::json::Reader;
use crate::model::units;
use crate::model::worker::EVERY_WORKER;

/// The file, as the user knows it.
pub const FILE: &str = "workspace/workers.json";
const FIELDS: [&str; 7] = ["host", "hostname", "labels", "memory", "cpu", "tags", "position"];

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerEntry {
    /// The operator's name for it.
    pub host: Host,
    /// Free text.
    pub hostname: Option<String>,
    /// Sorted, with [`EVERY_WORKER`].
    pub labels: Vec<Name>,
    /// Keys and values trimmed, in lower case.
    pub tags: BTreeMap<String, String>,
    /// MiB; 0 when not declared.
    pub memory_mb: f64,
    /// MHz; 0 when not declared.
    pub cpu_mhz: f64,
    /// Explicit, or the place in the file.
    pub position: i64,
}

/// All workers, or all problems.
pub fn parse(text: &str) -> Result<Vec<WorkerEntry>, Vec<Diagnostic>> {
    let (workers, problems) = read(text);
    if problems.is_empty() { Ok(workers) } else { Err(problems) }
}

/// The workers that could be read, and all problems.
pub fn read(text: &str) -> (Vec<WorkerEntry>, Vec<Diagnostic>) {
    let mut reader = Reader::new(FILE);
    let mut workers = Vec::new();
    if let Some(document) = reader.parse(text) {
        match document.as_array() {
            None => reader.expected("", "a list of workers: [ { \"host\": \"10.0.0.1\" } ]", &document),
            Some(entries) => {
                for (at, entry) in entries.iter().enumerate() {
                    workers.extend(worker(&mut reader, at, entry));
                }
            }
        }
    }
    let mut seen: BTreeMap<&Host, usize> = BTreeMap::new();
    for (at, worker) in workers.iter().enumerate() {
        if let Some(first) = seen.insert(&worker.host, at) {
            let message = format!("host {:?} is listed twice", worker.host.as_str());
            let problem = reader.problem(Code::DuplicateHost, &format!("[{at}].host"), message);
            problem.notes.push(format!("first at [{first}]"));
        }
    }
    (workers, reader.problems)
}

fn worker(reader: &mut Reader<'_>, at: usize, entry: &Value) -> Option<WorkerEntry> {
    let here = format!("[{at}]");
    let object = reader.object(&here, entry)?;
    let every: Option<Name> = EVERY_WORKER.parse().ok();
    let mut found = WorkerEntry {
        host: Host::unknown(),
        hostname: None,
        labels: every.into_iter().collect(),
        tags: BTreeMap::new(),
        memory_mb: 0.0,
        cpu_mhz: 0.0,
        position: i64::try_from(at).unwrap_or(i64::MAX),
    };
    let mut host = None;
    for (field, value) in object {
        let key = format!("{here}.{field}");
        match field.as_str() {
            "host" => match value.as_str().map(str::trim) {
                Some("") => {
                    reader.problem(Code::InvalidValue, &key, "host is empty");
                }
                Some(text) => host = reader.parsed(&key, &Value::from(text)),
                None => reader.expected(&key, "a text in quotes", value),
            },
            "hostname" => found.hostname = reader.text(&key, value),
            "labels" => match value.as_array() {
                None => reader.expected(&key, "a list of labels", value),
                Some(labels) => {
                    for (n, label) in labels.iter().enumerate() {
                        found.labels.extend(reader.parsed::<Name>(&format!("{key}[{n}]"), label));
                    }
                }
            },
            "memory" | "cpu" => {
                let parsed = match (value, field.as_str()) {
                    (Value::String(text), "memory") => units::memory_mb(text),
                    (Value::String(text), _) => units::cpu_mhz(text),
                    (Value::Number(number), _) => number.as_f64().filter(|n| *n >= 0.0).ok_or(units::UnitError),
                    _ => Err(units::UnitError),
                };
                match (parsed, field.as_str()) {
                    (Ok(amount), "memory") => found.memory_mb = amount,
                    (Ok(amount), _) => found.cpu_mhz = amount,
                    (Err(_), "memory") => reader.expected(&key, "an amount such as \"512 mb\", \"4 gb\"", value),
                    (Err(_), _) => reader.expected(&key, "an amount such as \"800 mhz\", \"2.4 ghz\"", value),
                }
            }
            "tags" => {
                for (tag, value) in reader.object(&key, value).into_iter().flatten() {
                    if let Some(text) = reader.text(&format!("{key}.{tag}"), value) {
                        found.tags.insert(tag.trim().to_lowercase(), text.trim().to_lowercase());
                    }
                }
            }
            "position" => match value.as_i64() {
                Some(position) => found.position = position,
                None => reader.expected(&key, "a whole number", value),
            },
            unknown => reader.unknown(&key, unknown, &FIELDS),
        }
    }
    if !object.contains_key("host") {
        reader.problem(Code::InvalidValue, &here, "this worker has no host");
    }
    found.labels.sort();
    found.labels.dedup();
    found.host = host?;
    Some(found)
}
