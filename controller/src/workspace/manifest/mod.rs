//! manifest.json (`spec/behaviour.md` 2.5, with the changes of `spec/decisions.md`). Every field is
//! known; anything else is an error with a "did you mean".

mod certs;
mod health;
mod hooks;
mod resources;

pub(super) use resources::{CPU, MEMORY, Unit};

use std::collections::BTreeMap;

use serde_json::Value;
use shared::{Code, Name, Version};

use super::json::Reader;
use crate::model::cert::CertSpec;
use crate::model::job::DEFAULT_ACTION_TIMEOUT_S;
use crate::model::{Amount, Budget, Glob, HealthCheck, Hook, RestartPolicy};

const FIELDS: [&str; 17] = [
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
];

/// More fields, apart from the list for their rules alone.
const DIR_MODE: &str = "dir_mode";
const SELF_HEAL: &str = "self_heal";

/// A port as a manifest asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// `{}`: any of the pool, kept over rebuilds.
    Any,
    /// This very number.
    Fixed(u16),
}

/// A manifest, with defaults.
#[derive(Debug, Clone, Default, PartialEq)]
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
    /// MiB, before overrides.
    pub memory: Amount,
    /// MHz, before overrides.
    pub cpu: Amount,
    /// What an update does.
    pub restart_policy: RestartPolicy,
    /// With the policy `reload` alone.
    pub restart_globs: Vec<Glob>,
    /// By name.
    pub hooks: BTreeMap<Name, Hook>,
    /// Of the gates.
    pub health_check: HealthCheck,
    /// By name; a common name that is not written is the job's.
    pub certs: BTreeMap<Name, CertSpec>,
    /// Failures that the job bears.
    pub max_failed: Budget,
    /// Allocations out of reach that it bears.
    pub max_unreachable: Budget,
    /// Permission bits of its directory.
    pub dir_mode: Option<u32>,
    /// Files that were edited on a worker are put back.
    pub self_heal: bool,
}

/// The manifest of `job`, with its defaults. Problems and the older words that it uses go to `reader`;
/// with problems the manifest is as far as it could be read.
pub fn parse(reader: &mut Reader<'_>, job: &str, text: &str) -> Manifest {
    let mut manifest =
        Manifest { max_concurrent_upgrades: 1, action_timeout_s: DEFAULT_ACTION_TIMEOUT_S, ..Manifest::default() };
    let document = reader.parse(text);
    let object = document.as_ref().and_then(|document| reader.object("", document));
    for (key, value) in object.into_iter().flatten() {
        field(reader, &mut manifest, job, key, value);
    }
    if !manifest.restart_globs.is_empty() && manifest.restart_policy != RestartPolicy::Reload {
        reader
            .problem(Code::InvalidValue, "restart_globs", "restart_globs say what restarts where the rest is reloaded")
            .remedy = Some("set restart_policy to \"reload\", or take restart_globs out".to_owned());
    }
    health::check_ports(reader, &manifest);
    manifest
}

/// A count between `min` and a million.
fn count(reader: &mut Reader<'_>, key: &str, value: &Value, min: u64, into: &mut u32) {
    if let Some(number) = reader.number(key, value, min, 1_000_000) {
        *into = u32::try_from(number).unwrap_or(u32::MAX);
    }
}

fn field(reader: &mut Reader<'_>, manifest: &mut Manifest, job: &str, key: &str, value: &Value) {
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
            if key == "update_parallel_count" {
                reader.older("update_parallel_count", "max_concurrent_upgrades");
            }
            count(reader, key, value, 1, &mut manifest.max_concurrent_upgrades);
        }
        "max_concurrent_starts" | "deploy_parallel_count" => {
            if key == "deploy_parallel_count" {
                reader.older("deploy_parallel_count", "max_concurrent_starts");
            }
            count(reader, key, value, 0, &mut manifest.max_concurrent_starts);
        }
        "min_allocations_count" => count(reader, key, value, 0, &mut manifest.min_allocations_count),
        "action_timeout_seconds" => {
            if let Some(seconds) = reader.number(key, value, 1, 86_400) {
                manifest.action_timeout_s = seconds;
            }
        }
        "resources" => resources::read(reader, manifest, value),
        "restart_policy" => match value.as_str() {
            Some("always") => manifest.restart_policy = RestartPolicy::Always,
            Some("reload") => manifest.restart_policy = RestartPolicy::Reload,
            Some("never") => manifest.restart_policy = RestartPolicy::Never,
            _ => reader.expected(key, "\"always\", \"reload\" or \"never\"", value),
        },
        "restart_globs" => match value.as_array() {
            None => reader.expected(key, "a list of patterns", value),
            Some(globs) => {
                for (n, glob) in globs.iter().enumerate() {
                    let key = format!("{key}[{n}]");
                    match reader.text(&key, glob).map(|text| text.parse::<Glob>()) {
                        None => {}
                        Some(Ok(glob)) => manifest.restart_globs.push(glob),
                        Some(Err(error)) => {
                            reader.problem(Code::InvalidValue, &key, error.to_string());
                        }
                    }
                }
            }
        },
        "hooks" => hooks::read(reader, manifest, job, key, value),
        "commands" => {
            reader.older("commands", "hooks");
            hooks::read(reader, manifest, job, key, value);
        }
        "health_check" => health::read(reader, manifest, value),
        "certs" => certs::read(reader, manifest, job, value),
        "max_failed" => budget(reader, key, value, &mut manifest.max_failed),
        "max_unreachable" => budget(reader, key, value, &mut manifest.max_unreachable),
        DIR_MODE => {
            let mode = value.as_str().and_then(|text| u32::from_str_radix(text, 8).ok());
            match mode.filter(|mode| *mode <= 0o777 && mode & 0o700 == 0o700) {
                Some(mode) => manifest.dir_mode = Some(mode),
                None => reader.expected(key, "permission bits such as \"0750\", with all of the owner's", value),
            }
        }
        SELF_HEAL => match value.as_bool() {
            Some(heal) => manifest.self_heal = heal,
            None => reader.expected(key, "true or false", value),
        },
        unknown => reader.unknown(key, unknown, &[&FIELDS[..], &[DIR_MODE, SELF_HEAL]].concat()),
    }
}

/// A number, or `"10%"`.
fn budget(reader: &mut Reader<'_>, key: &str, value: &Value, into: &mut Budget) {
    let percent = |text: &str| text.trim().strip_suffix('%')?.trim().parse::<u8>().ok().filter(|n| *n <= 100);
    match value {
        Value::Number(_) => {
            let mut number = 0;
            count(reader, key, value, 0, &mut number);
            *into = Budget::Count(number);
        }
        Value::String(text) if percent(text).is_some() => *into = Budget::Percent(percent(text).unwrap_or(0)),
        _ => reader.expected(key, "a whole number, or a percentage such as \"10%\"", value),
    }
}
