//! What agents measured, set beside what workers.json declares: which amounts differ, and the edits that
//! make them alike.

use shared::Host;
use shared::api::v1::facts::WorkerFacts;

use super::WorkerEntry;
use super::spans::{self, Edit};

/// More than any machine has: 4 PiB. Such a number is no measurement.
const MOST_MEMORY_MB: u64 = 1 << 32;
/// More than any machine has, MHz.
const MOST_CPU_MHZ: u64 = 1_000_000_000;

/// An amount that workers.json does not have as it was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub host: Host,
    /// `memory` or `cpu`.
    pub field: &'static str,
    /// As it is written in the file, a JSON text; `None` when it is not there.
    pub before: Option<String>,
    /// What is written in its place, without quotes.
    pub after: String,
}

/// Why an agent's facts cannot be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// Its kernel does not say how fast the processors are.
    NoClock,
    /// No machine has that much, or so little.
    Absurd,
}

/// Whether facts can be taken over.
pub fn usable(facts: &WorkerFacts) -> Result<(), Unusable> {
    match facts {
        WorkerFacts { cpu_mhz: 0, .. } => Err(Unusable::NoClock),
        facts if facts.memory_mb == 0 || facts.memory_mb > MOST_MEMORY_MB => Err(Unusable::Absurd),
        facts if facts.cpu_mhz > MOST_CPU_MHZ => Err(Unusable::Absurd),
        _ => Ok(()),
    }
}

/// What is to change, and how, in the file's order. `workers` are all of `text`'s; facts are by their place
/// in it. `None` when `text` is no list of workers.
pub fn compare(text: &str, workers: &[WorkerEntry], facts: &[Option<WorkerFacts>]) -> Option<(Vec<Change>, Vec<Edit>)> {
    let entries = spans::elements(text, &spans::document(text)?)?;
    if entries.len() != workers.len() {
        return None;
    }
    let (mut changes, mut edits) = (Vec::new(), Vec::new());
    for ((entry, worker), facts) in entries.iter().zip(workers).zip(facts) {
        let Some(facts) = facts else { continue };
        let members = spans::members(text, entry)?;
        let amounts =
            [("memory", worker.memory_mb, facts.memory_mb, "mb"), ("cpu", worker.cpu_mhz, facts.cpu_mhz, "mhz")];
        let mut fields = Vec::new();
        for (field, declared, measured, unit) in amounts {
            // `"16 gb"` is as good as `"16384 mb"`; both are far below what a f64 holds exactly.
            if declared.round() == measured as f64 {
                continue;
            }
            let before = members.iter().rfind(|member| member.name == field);
            let after = format!("{measured} {unit}");
            fields.push((field, format!("\"{after}\"")));
            let before = before.map(|member| text[member.value.clone()].to_owned());
            changes.push(Change { host: worker.host.clone(), field, before, after });
        }
        if !fields.is_empty() {
            edits.extend(spans::set(text, entry, &fields)?);
        }
    }
    Some((changes, edits))
}

#[cfg(test)]
mod tests {
    use super::super::workers::read;
    use super::*;

    const FILE: &str = "[\n  { \"host\": \"a\", \"rack\": 7, \"memory\": \"16 gb\", \"cpu\": 800 },\n  {\n    \"host\": \"b\"\n  }\n]\n";

    fn facts(memory_mb: u64, cpu_mhz: u64) -> Option<WorkerFacts> {
        Some(WorkerFacts { memory_mb, cpu_mhz, ..WorkerFacts::default() })
    }

    #[test]
    fn only_amounts_that_differ_change_and_all_else_stays() {
        let (workers, _) = read(FILE);
        let (changes, edits) = compare(FILE, &workers, &[facts(16384, 9600), facts(1024, 2400)]).unwrap();
        let said: Vec<_> = changes
            .iter()
            .map(|c| (c.host.as_str(), c.field, c.before.as_deref().unwrap_or("-"), c.after.as_str()))
            .collect();
        let expected =
            [("a", "cpu", "800", "9600 mhz"), ("b", "memory", "-", "1024 mb"), ("b", "cpu", "-", "2400 mhz")];
        assert_eq!(said, expected);
        let after = spans::apply(FILE, &edits);
        assert_eq!(
            after,
            "[\n  { \"host\": \"a\", \"rack\": 7, \"memory\": \"16 gb\", \"cpu\": \"9600 mhz\" },\n  {\n    \"host\": \"b\",\n    \"memory\": \"1024 mb\",\n    \"cpu\": \"2400 mhz\"\n  }\n]\n"
        );
        // Once it is so, nothing is left to change.
        let (workers, _) = read(&after);
        let again = compare(&after, &workers, &[facts(16384, 9600), facts(1024, 2400)]).unwrap();
        assert_eq!(again, (Vec::new(), Vec::new()));
        assert_eq!(compare(FILE, &workers, &[None, None]).unwrap(), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_is_no_measurement_is_not_taken_over() {
        assert_eq!(usable(&facts(1024, 2400).unwrap()), Ok(()));
        assert_eq!(usable(&facts(1024, 0).unwrap()), Err(Unusable::NoClock));
        assert_eq!(usable(&facts(0, 2400).unwrap()), Err(Unusable::Absurd));
        assert_eq!(usable(&facts(u64::MAX, 2400).unwrap()), Err(Unusable::Absurd));
        assert_eq!(usable(&facts(1024, u64::MAX).unwrap()), Err(Unusable::Absurd));
    }
}
