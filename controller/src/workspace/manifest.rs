//! manifest.json (`spec/behaviour.md` 2.5). Every field is known; those whose work comes with a later
//! version are refused, never ignored.

use std::collections::BTreeMap;

use serde_json::Value;
use shared::{Code, Diagnostic, Name, Version};

use super::json::Reader;
use crate::model::job::DEFAULT_ACTION_TIMEOUT_S;

const FIELDS: [&str; 19] = [
    "version",
    "selectors",
    "max_concurrent_upgrades",
    "max_concurrent_starts",
    "update_parallel_count",
    "deploy_parallel_count",
    "min_allocations_count",
    "action_timeout_seconds",
    "resources",
    "restart_policy",
    "restart_globs",
    "hooks",
    "commands",
    "health_check",
    "certs",
    "max_failed",
    "max_unreachable",
    "self_heal",
    "dir_mode",
];

/// A port as a manifest asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// `{}`: any of the pool, kept over rebuilds.
    Any,
    /// This very number.
    Fixed(u16),
}

/// A manifest, with defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// As written.
    pub version: Option<String>,
    /// As written; empty means the job's name.
    pub selectors: Vec<Name>,
    /// At least 1.
    pub max_concurrent_upgrades: u32,
    /// 0 = all.
    pub max_concurrent_starts: u32,
    /// Fewer allocations fail the build.
    pub min_allocations_count: u32,
    /// Seconds.
    pub action_timeout_s: u64,
    /// By name.
    pub ports: BTreeMap<Name, Port>,
}

/// The manifest, or all of its problems. `file` as the user knows it.
pub fn parse(file: &str, text: &str) -> Result<Manifest, Vec<Diagnostic>> {
    let mut reader = Reader::new(file);
    let mut manifest = Manifest {
        version: None,
        selectors: Vec::new(),
        max_concurrent_upgrades: 1,
        max_concurrent_starts: 0,
        min_allocations_count: 0,
        action_timeout_s: DEFAULT_ACTION_TIMEOUT_S,
        ports: BTreeMap::new(),
    };
    let document = reader.parse(text);
    let object = document.as_ref().and_then(|document| reader.object("", document));
    for (key, value) in object.into_iter().flatten() {
        field(&mut reader, &mut manifest, key, value);
    }
    if reader.problems.is_empty() { Ok(manifest) } else { Err(reader.problems) }
}

/// A count between `min` and a million.
fn count(reader: &mut Reader<'_>, key: &str, value: &Value, min: u64, into: &mut u32) {
    if let Some(number) = reader.number(key, value, min, 1_000_000) {
        *into = u32::try_from(number).unwrap_or(u32::MAX);
    }
}

fn field(reader: &mut Reader<'_>, manifest: &mut Manifest, key: &str, value: &Value) {
    match key {
        "version" => {
            let text = reader.text(key, value);
            match text.as_deref().map(str::trim) {
                Some("") | None => {}
                Some(text) => match text.parse::<Version>() {
                    Ok(_) => manifest.version = Some(text.to_owned()),
                    Err(error) => {
                        reader.problem(Code::InvalidValue, key, error.to_string());
                    }
                },
            }
        }
        "selectors" => match value.as_array() {
            None => reader.expected(key, "a list of labels", value),
            Some(selectors) => {
                for (n, selector) in selectors.iter().enumerate() {
                    manifest.selectors.extend(reader.parsed::<Name>(&format!("{key}[{n}]"), selector));
                }
                manifest.selectors.sort();
                manifest.selectors.dedup();
            }
        },
        "max_concurrent_upgrades" | "update_parallel_count" => {
            count(reader, key, value, 1, &mut manifest.max_concurrent_upgrades);
        }
        "max_concurrent_starts" | "deploy_parallel_count" => {
            count(reader, key, value, 0, &mut manifest.max_concurrent_starts);
        }
        "min_allocations_count" => count(reader, key, value, 0, &mut manifest.min_allocations_count),
        "action_timeout_seconds" => {
            if let Some(seconds) = reader.number(key, value, 1, 86_400) {
                manifest.action_timeout_s = seconds;
            }
        }
        "resources" => {
            for (name, value) in reader.object(key, value).into_iter().flatten() {
                let key = format!("resources.{name}");
                match name.as_str() {
                    "ports" => ports(reader, manifest, &key, value),
                    "memory" | "cpu" => reader.later(&key, "reserving memory and cpu"),
                    unknown => reader.unknown(&key, unknown, &["ports", "memory", "cpu"]),
                }
            }
        }
        "restart_policy" => match value.as_str() {
            Some("always") => {}
            Some("reload" | "never") => reader.later(key, "a restart_policy other than \"always\""),
            _ => reader.expected(key, "\"always\", \"reload\" or \"never\"", value),
        },
        "restart_globs" | "max_failed" | "max_unreachable" | "self_heal" | "dir_mode" | "health_check" | "certs"
        | "hooks" | "commands" => {
            // What says the same as leaving it out is accepted.
            let empty = match value {
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                Value::Bool(flag) => !flag,
                Value::Number(number) => number.as_u64() == Some(0),
                Value::Null | Value::String(_) => false,
            };
            if !empty {
                reader.later(key, key);
            }
        }
        unknown => reader.unknown(key, unknown, &FIELDS),
    }
}

fn ports(reader: &mut Reader<'_>, manifest: &mut Manifest, key: &str, value: &Value) {
    for (name, value) in reader.object(key, value).into_iter().flatten() {
        let key = format!("{key}.{name}");
        let name: Option<Name> = reader.parsed(&key, &Value::from(name.as_str()));
        let port = match value {
            Value::Object(fields) if fields.is_empty() => Some(Port::Any),
            Value::Number(_) => {
                let number = reader.number(&key, value, 1, 65_535);
                number.and_then(|number| u16::try_from(number).ok()).map(Port::Fixed)
            }
            other => {
                reader.expected(&key, "a number from 1 to 65535, or {} for any", other);
                None
            }
        };
        if let (Some(name), Some(port)) = (name, port) {
            manifest.ports.insert(name, port);
        }
    }
}
