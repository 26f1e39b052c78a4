//! `hooks`, and its older spelling `commands` (`spec/behaviour.md` 2.5, 2.6). Whether a hook's script
//! is there is looked at with the job's files.

use std::collections::BTreeSet;

use serde_json::Value;
use shared::{Code, JobName, Name};

use super::Manifest;
use crate::model::hook::{DEFAULT_HOOK_TIMEOUT_S, Demand};
use crate::model::{Hook, HookEvent};
use crate::workspace::json::Reader;

/// How a hook's name begins.
const PREFIX: &str = "hook_";
/// How it began.
const OLDER_PREFIX: &str = "command_";

pub(super) fn read(reader: &mut Reader<'_>, manifest: &mut Manifest, job: &str, key: &str, value: &Value) {
    for (name, value) in reader.object(key, value).into_iter().flatten() {
        let key = format!("{key}.{name}");
        let parsed: Option<Name> = reader.parsed(&key, &Value::from(name.as_str()));
        if name.starts_with(OLDER_PREFIX) {
            reader.older("command_", "hook_");
        } else if parsed.is_some() && !name.starts_with(PREFIX) {
            let problem = reader.problem(Code::InvalidName, &key, format!("the name of a hook begins with {PREFIX}"));
            problem.remedy = Some(format!("call it {PREFIX}{name}, and its script _modules/{PREFIX}{name}.py"));
            continue;
        }
        let hook = hook(reader, job, &key, value);
        if let (Some(name), Some(hook)) = (parsed, hook)
            && manifest.hooks.insert(name.clone(), hook).is_some()
        {
            reader.problem(Code::InvalidName, &key, format!("hook {name} is there twice: in hooks and in commands"));
        }
    }
}

fn hook(reader: &mut Reader<'_>, job: &str, key: &str, value: &Value) -> Option<Hook> {
    let object = reader.object(key, value)?;
    let mut hook = Hook { executed_on: BTreeSet::new(), demand: None, timeout_s: DEFAULT_HOOK_TIMEOUT_S };
    for (field, value) in object {
        let key = format!("{key}.{field}");
        match field.as_str() {
            "executed_on" => match value.as_array() {
                None => reader.expected(&key, "a list of events", value),
                Some(events) => {
                    for (n, event) in events.iter().enumerate() {
                        match event.as_str().and_then(HookEvent::of) {
                            Some(event) => drop(hook.executed_on.insert(event)),
                            None => {
                                let words = HookEvent::ALL.map(HookEvent::word);
                                reader.expected(&format!("{key}[{n}]"), &format!("one of {}", words.join(", ")), event);
                            }
                        }
                    }
                    if events.is_empty() {
                        reader.problem(Code::InvalidValue, &key, "a hook without an event never runs");
                    }
                }
            },
            "demands" => hook.demand = demand(reader, job, &key, value),
            "timeout_seconds" => {
                if let Some(seconds) = reader.number(&key, value, 1, 86_400) {
                    hook.timeout_s = seconds;
                }
            }
            unknown => reader.unknown(&key, unknown, &["executed_on", "demands", "timeout_seconds"]),
        }
    }
    if !object.contains_key("executed_on") {
        let problem = reader.problem(Code::InvalidValue, key, "this hook has no executed_on");
        problem.remedy = Some(format!("list its events: {}", HookEvent::ALL.map(HookEvent::word).join(", ")));
    }
    Some(hook)
}

fn demand(reader: &mut Reader<'_>, own: &str, key: &str, value: &Value) -> Option<Demand> {
    let object = reader.object(key, value)?;
    let (mut job, mut hook, mut config) = (None, None, serde_json::Map::new());
    let before = reader.problems.len();
    for (field, value) in object {
        let key = format!("{key}.{field}");
        let blank = value.as_str().is_some_and(|text| text.trim().is_empty());
        match field.as_str() {
            "job" if !blank => job = reader.parsed::<JobName>(&key, value),
            "hook" | "command" => {
                if field == "command" {
                    reader.older("demands.command", "demands.hook");
                }
                if !blank {
                    hook = reader.parsed::<Name>(&key, value);
                }
            }
            "job" => {}
            "config" => config = reader.object(&key, value).cloned().unwrap_or_default(),
            unknown => reader.unknown(&key, unknown, &["job", "hook", "config"]),
        }
    }
    match (job, hook) {
        (Some(job), _) if job.as_str() == own => {
            reader.problem(Code::DemandUnmet, &format!("{key}.job"), "a job cannot demand something of itself");
            None
        }
        (Some(job), Some(hook)) => {
            let demand = Demand { job, hook, config };
            if let Err(why) = demand.bounds() {
                reader.problem(Code::DemandUnmet, &format!("{key}.config"), why);
            }
            Some(demand)
        }
        (None, None) => None,
        (job, _) => {
            if reader.problems.len() == before {
                let (has, lacks) = if job.is_some() { ("job", "hook") } else { ("hook", "job") };
                let problem =
                    reader.problem(Code::DemandUnmet, key, format!("this demand names a {has} and no {lacks}"));
                problem.remedy = Some("name both, or neither".to_owned());
            }
            None
        }
    }
}
