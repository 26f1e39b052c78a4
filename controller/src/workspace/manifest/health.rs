//! `health_check` (`spec/behaviour.md` 2.5).

use serde_json::{Map, Value};
use shared::api::v1::health::MAX_CHECKS;
use shared::{Code, Name};

use super::Manifest;
use crate::model::{HealthCheck, Probe};
use crate::workspace::json::Reader;

pub(super) fn read(reader: &mut Reader<'_>, manifest: &mut Manifest, value: &Value) {
    let mut health = HealthCheck::default();
    for (field, value) in reader.object("health_check", value).into_iter().flatten() {
        let key = format!("health_check.{field}");
        match field.as_str() {
            "checks" => match value.as_array() {
                None => reader.expected(&key, "a list of checks", value),
                Some(checks) if checks.len() > MAX_CHECKS => {
                    reader.expected(&key, &format!("at most {MAX_CHECKS} checks"), &checks.len().into());
                }
                Some(checks) => {
                    for (n, value) in checks.iter().enumerate() {
                        health.checks.extend(probe(reader, &format!("{key}[{n}]"), value));
                    }
                }
            },
            "timeout_seconds" => seconds(reader, &key, value, &mut health.timeout_s),
            "wait" => {
                for (field, value) in reader.object(&key, value).into_iter().flatten() {
                    let key = format!("{key}.{field}");
                    match field.as_str() {
                        "attempts" => {
                            if let Some(number) = reader.number(&key, value, 0, 10_000) {
                                health.attempts =
                                    u32::try_from(number).unwrap_or(30).max(if number == 0 { 30 } else { 1 });
                            }
                        }
                        "interval_seconds" => seconds(reader, &key, value, &mut health.interval_s),
                        unknown => reader.unknown(&key, unknown, &["attempts", "interval_seconds"]),
                    }
                }
            }
            unknown => reader.unknown(&key, unknown, &["checks", "timeout_seconds", "wait"]),
        }
    }
    manifest.health_check = health;
}

/// Seconds; 0 stands for the default.
fn seconds(reader: &mut Reader<'_>, key: &str, value: &Value, into: &mut u64) {
    if let Some(number) = reader.number(key, value, 0, 86_400).filter(|number| *number > 0) {
        *into = number;
    }
}

fn probe(reader: &mut Reader<'_>, key: &str, value: &Value) -> Option<Probe> {
    let object = reader.object(key, value)?;
    let kind = object.get("type").and_then(Value::as_str).map(|kind| kind.trim().to_lowercase());
    let known: &[&str] = match kind.as_deref() {
        Some("tcp") => &["type", "port"],
        Some("http") => &["type", "port", "path", "expect_status", "scheme"],
        Some("exec" | "ssh") => &["type", "command"],
        _ => {
            let found = object.get("type").cloned().unwrap_or(Value::Null);
            reader.expected(&format!("{key}.type"), "\"tcp\", \"http\" or \"exec\"", &found);
            return None;
        }
    };
    for field in object.keys().filter(|field| !known.contains(&field.as_str())) {
        reader.unknown(&format!("{key}.{field}"), field, known);
    }
    match kind.as_deref() {
        Some("tcp") => Some(Probe::Tcp { port: port(reader, key, object)? }),
        Some("http") => http(reader, key, object),
        _ => match object.get("command").and_then(Value::as_str).filter(|command| !command.trim().is_empty()) {
            Some(command) => Some(Probe::Exec { command: command.to_owned() }),
            None => {
                reader.problem(Code::InvalidValue, &format!("{key}.command"), "this check has no command to run");
                None
            }
        },
    }
}

fn http(reader: &mut Reader<'_>, key: &str, object: &Map<String, Value>) -> Option<Probe> {
    let port = port(reader, key, object);
    let path = match object.get("path") {
        None => Some("/".to_owned()),
        Some(value) => match value.as_str() {
            Some("") => Some("/".to_owned()),
            Some(path) if path.starts_with('/') => Some(path.to_owned()),
            _ => {
                reader.expected(&format!("{key}.path"), "a path that begins with /", value);
                None
            }
        },
    };
    let scheme = match object.get("scheme") {
        None => Some("http".to_owned()),
        Some(value) => match value.as_str() {
            Some(scheme @ ("http" | "https")) => Some(scheme.to_owned()),
            _ => {
                reader.expected(&format!("{key}.scheme"), "\"http\" or \"https\"", value);
                None
            }
        },
    };
    let expect_status = match object.get("expect_status") {
        None => Some(200),
        Some(value) if value.as_u64() == Some(0) => Some(200),
        Some(value) => {
            reader.number(&format!("{key}.expect_status"), value, 100, 599).and_then(|n| u16::try_from(n).ok())
        }
    };
    Some(Probe::Http { port: port?, path: path?, scheme: scheme?, expect_status: expect_status? })
}

fn port(reader: &mut Reader<'_>, key: &str, object: &Map<String, Value>) -> Option<Name> {
    match object.get("port") {
        Some(value) => reader.parsed(&format!("{key}.port"), value),
        None => {
            let problem = reader.problem(Code::InvalidValue, key, "this check has no port");
            problem.remedy = Some("name one of resources.ports".to_owned());
            None
        }
    }
}

/// Every port that a check names is one of the job's.
pub(super) fn check_ports(reader: &mut Reader<'_>, manifest: &Manifest) {
    for (n, check) in manifest.health_check.checks.iter().enumerate() {
        let (Probe::Tcp { port } | Probe::Http { port, .. }) = check else { continue };
        if !manifest.ports.contains_key(port) {
            let names: Vec<&str> = manifest.ports.keys().map(Name::as_str).collect();
            let key = format!("health_check.checks[{n}].port");
            let problem =
                reader.problem(Code::UnknownReference, &key, format!("the job has no port {:?}", port.as_str()));
            problem.remedy = Some(match names[..] {
                [] => format!("add it: \"resources\": {{\"ports\": {{\"{port}\": {{}}}}}}"),
                _ => format!("its ports are {}", names.join(", ")),
            });
        }
    }
}
