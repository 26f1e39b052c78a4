//! bucket.jobs[.<selector>].conf: a table for each job (`spec/behaviour.md` 2.5, 2.10). `memory` and
//! `cpu` set its reservation within the manifest's bounds; every key is a variable.

use std::collections::BTreeMap;

use shared::text::closest;
use shared::{Code, Diagnostic};

use super::JobInput;
use super::json::{flat, toml};
use super::manifest::{CPU, MEMORY, Unit};
use crate::model::Amount;

/// A table of each job.
pub type Tables = BTreeMap<String, BTreeMap<String, String>>;

/// Every job's table, as far as they can be read. `file` as the user knows it.
pub fn parse(file: &str, text: &str) -> (Tables, Vec<Diagnostic>) {
    let mut tables = BTreeMap::new();
    let mut problems = Vec::new();
    let document = match toml(file, text) {
        Ok(document) => document,
        Err(problems) => return (tables, problems),
    };
    for (job, value) in document {
        match value.as_table() {
            Some(table) => match flat(file, &job, table) {
                Ok(table) => drop(tables.insert(job, table)),
                Err(found) => problems.extend(found),
            },
            None => {
                let problem = Diagnostic::new(Code::InvalidValue, format!("{job} is no table"));
                problems.push(problem.at(format!("{file} {job}")).remedy("write [<job>], and its keys below"));
            }
        }
    }
    (tables, problems)
}

/// Gives every job its table. `known` are all directories of jobs, readable or not.
pub fn apply(file: &str, tables: Tables, jobs: &mut [JobInput], known: &[&str]) -> Vec<Diagnostic> {
    let name = file.rsplit('/').next().unwrap_or(file);
    let mut problems = Vec::new();
    for (job, table) in tables {
        let Some(input) = jobs.iter_mut().find(|input| input.name.as_str() == job) else {
            if !known.contains(&job.as_str()) {
                let problem = Diagnostic::new(Code::UnknownReference, format!("there is no job {job:?}"));
                problems.push(problem.at(format!("{file} {job}")).remedy(match closest(&job, known.iter().copied()) {
                    Some(close) => format!("did you mean {close:?}?"),
                    None => "take the table out, or add workspace/jobs/<job>/manifest.json".to_owned(),
                }));
                continue;
            }
            // What is wrong with the job itself does not make this right.
            for (key, unit) in [("memory", &MEMORY), ("cpu", &CPU)] {
                let amount = table.get(key).map(|text| set(&mut Amount::default(), unit, text, name));
                problems.extend(amount.and_then(Result::err).map(|problem| problem.at(format!("{file} {job}.{key}"))));
            }
            continue;
        };
        for (key, unit, amount) in
            [("memory", &MEMORY, &mut input.manifest.memory), ("cpu", &CPU, &mut input.manifest.cpu)]
        {
            if let Some(text) = table.get(key)
                && let Err(problem) = set(amount, unit, text, name)
            {
                problems.push(problem.at(format!("{file} {job}.{key}")));
            }
        }
        input.overrides = table;
    }
    problems
}

fn set(amount: &mut Amount, unit: &Unit, text: &str, source: &str) -> Result<(), Diagnostic> {
    let Some(number) = unit.of(text) else {
        return Err(Diagnostic::new(Code::InvalidValue, format!("expected {}, found {text:?}", unit.example)));
    };
    if amount.min == 0.0 && amount.max == 0.0 {
        (amount.min, amount.max) = (number, number);
    }
    if number < amount.min || number > amount.max {
        let message = format!("{number} is not within the manifest's bounds, {} to {}", amount.min, amount.max);
        return Err(Diagnostic::new(Code::InvalidValue, message).remedy("change it, or the manifest's min and max"));
    }
    amount.reserved = number;
    source.clone_into(&mut amount.source);
    Ok(())
}
