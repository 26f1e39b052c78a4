//! `resources`: memory, cpu, ports (`spec/behaviour.md` 2.3, 2.5, 2.7).

use serde_json::Value;
use shared::{Code, Name};

use super::{Manifest, Port};
use crate::model::{Amount, units};
use crate::workspace::json::Reader;

pub(super) fn read(reader: &mut Reader<'_>, manifest: &mut Manifest, value: &Value) {
    for (name, value) in reader.object("resources", value).into_iter().flatten() {
        let key = format!("resources.{name}");
        match name.as_str() {
            "ports" => ports(reader, manifest, &key, value),
            "memory" => manifest.memory = amount(reader, &key, value, &MEMORY),
            "cpu" => manifest.cpu = amount(reader, &key, value, &CPU),
            unknown => reader.unknown(&key, unknown, &["ports", "memory", "cpu"]),
        }
    }
}

/// How one resource is written.
pub(in crate::workspace) struct Unit {
    parse: fn(&str) -> Result<f64, units::UnitError>,
    pub(in crate::workspace) example: &'static str,
}

pub(in crate::workspace) const MEMORY: Unit =
    Unit { parse: units::memory_mb, example: "an amount such as \"512 mb\", \"4 gb\"" };
pub(in crate::workspace) const CPU: Unit =
    Unit { parse: units::cpu_mhz, example: "an amount such as \"800 mhz\", \"2.4 ghz\"" };

impl Unit {
    /// The amount that a text says.
    pub(in crate::workspace) fn of(&self, text: &str) -> Option<f64> {
        (self.parse)(text).ok()
    }

    /// The amount of a JSON value.
    pub(in crate::workspace) fn of_json(&self, value: &Value) -> Option<f64> {
        match value {
            Value::String(text) => self.of(text),
            Value::Number(number) => number.as_f64().filter(|number| *number >= 0.0),
            _ => None,
        }
    }
}

fn amount(reader: &mut Reader<'_>, key: &str, value: &Value, unit: &Unit) -> Amount {
    let mut amount = Amount::default();
    for (name, value) in reader.object(key, value).into_iter().flatten() {
        let key = format!("{key}.{name}");
        let into = match name.as_str() {
            "min" => &mut amount.min,
            "max" => &mut amount.max,
            unknown => {
                reader.unknown(&key, unknown, &["min", "max"]);
                continue;
            }
        };
        match unit.of_json(value) {
            Some(number) => *into = number,
            None => reader.expected(&key, unit.example, value),
        }
    }
    if amount.max == 0.0 {
        amount.max = amount.min;
    }
    if amount.min > amount.max {
        reader.problem(Code::InvalidValue, key, format!("min {} is above max {}", amount.min, amount.max));
    }
    amount.reserved = amount.max;
    amount
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
            // These keys of maand/bucket are build's own.
            if ["bucket_id", "jobs", "activejobs"].contains(&name.as_str()) {
                let problem =
                    reader.problem(Code::InvalidName, &key, format!("{name} is a key of maand/bucket already"));
                problem.remedy = Some("give the port another name".to_owned());
                continue;
            }
            manifest.ports.insert(name, port);
        }
    }
}
