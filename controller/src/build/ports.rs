//! Decides the numbers of ports (`spec/behaviour.md` 2.7, with the changes of `spec/decisions.md`):
//! fixed ones first, so that a pin never meets a number of the pool; a pool number is kept over builds.

use std::collections::{BTreeMap, BTreeSet};

use shared::{Code, Diagnostic, JobName, Name};

use crate::workspace::{JobInput, Port};

/// Numbers by job and name.
pub type Ports = BTreeMap<JobName, BTreeMap<Name, u16>>;

/// Assigns every port, or says what collides.
pub fn assign(jobs: &[JobInput], before: &Ports, pool: (u16, u16)) -> Result<Ports, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let mut taken: BTreeMap<u16, String> = BTreeMap::new();
    let mut names: BTreeMap<&Name, &JobName> = BTreeMap::new();
    let mut ports = Ports::new();
    let at = |job: &JobName, name: &Name| format!("workspace/jobs/{job}/manifest.json resources.ports.{name}");
    let all =
        || jobs.iter().flat_map(|job| job.manifest.ports.iter().map(move |(name, port)| (&job.name, name, *port)));
    for (job, name, _) in all() {
        if let Some(other) = names.insert(name, job).filter(|other| *other != job) {
            let message = format!("port name {:?} is job {other}'s already", name.as_str());
            problems.push(
                Diagnostic::new(Code::PortConflict, message)
                    .at(at(job, name))
                    .remedy("rename one: port names are the bucket's"),
            );
        }
    }
    for (job, name, port) in all() {
        if let Port::Fixed(number) = port {
            let me = format!("{job} {name}");
            if let Some(other) = taken.insert(number, me) {
                let problem = Diagnostic::new(Code::PortConflict, format!("port {number} is taken by {other} already"));
                problems.push(problem.at(at(job, name)).remedy("choose another number"));
            }
            ports.entry(job.clone()).or_default().insert(name.clone(), number);
        }
    }
    let mut used: BTreeSet<u16> = taken.into_keys().collect();
    let in_pool = |number: u16| (pool.0..=pool.1).contains(&number);
    let kept = |job: &JobName, name: &Name| before.get(job).and_then(|ports| ports.get(name)).copied();
    // What is kept goes before what is new.
    for (job, name, port) in all() {
        if port == Port::Any
            && let Some(number) = kept(job, name).filter(|number| in_pool(*number))
            && used.insert(number)
        {
            ports.entry(job.clone()).or_default().insert(name.clone(), number);
        }
    }
    for (job, name, port) in all() {
        if port != Port::Any || ports.get(job).is_some_and(|ports| ports.contains_key(name)) {
            continue;
        }
        match (pool.0..=pool.1).find(|number| !used.contains(number)) {
            Some(number) => {
                used.insert(number);
                ports.entry(job.clone()).or_default().insert(name.clone(), number);
            }
            None => {
                let message = format!("no port from {} to {} is free", pool.0, pool.1);
                let problem = Diagnostic::new(Code::PortsExhausted, message).at(at(job, name));
                problems.push(problem.remedy("widen port_min and port_max in workspace/bucket.conf"));
            }
        }
    }
    if problems.is_empty() { Ok(ports) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::json::Reader;
    use crate::workspace::manifest;

    fn job(name: &str, ports: &str) -> JobInput {
        let text = format!("{{\"resources\": {{\"ports\": {ports}}}}}");
        JobInput {
            name: name.parse().unwrap(),
            manifest: manifest::parse(&mut Reader::new("m"), name, &text),
            variables: BTreeMap::new(),
            overrides: BTreeMap::new(),
            files: Vec::new(),
        }
    }

    fn number(ports: &Ports, job: &str, name: &str) -> u16 {
        ports[&job.parse().unwrap()][&name.parse().unwrap()]
    }

    #[test]
    fn pool_numbers_are_kept_and_never_meet_a_pin() {
        let jobs = [job("a", r#"{"x": {}, "w": { }}"#), job("b", r#"{"y": 100}"#)];
        let first = assign(&jobs, &Ports::new(), (100, 102)).unwrap();
        assert_eq!((number(&first, "a", "w"), number(&first, "a", "x"), number(&first, "b", "y")), (101, 102, 100));
        let jobs = [job("a", r#"{"x": {}}"#), job("c", r#"{"z": {}}"#)];
        let second = assign(&jobs, &first, (100, 102)).unwrap();
        assert_eq!((number(&second, "a", "x"), number(&second, "c", "z")), (102, 100));
        assert_eq!(number(&assign(&jobs[..1], &first, (200, 200)).unwrap(), "a", "x"), 200, "outside of the pool");
    }

    #[test]
    fn collisions_are_all_reported() {
        let jobs = [job("a", r#"{"x": 1, "p": {}}"#), job("b", r#"{"x": 2, "y": 1, "q": {}}"#)];
        let text: Vec<String> =
            assign(&jobs, &Ports::new(), (9, 9)).unwrap_err().iter().map(|p| p.message.clone()).collect();
        assert_eq!(
            text,
            ["port name \"x\" is job a's already", "port 1 is taken by a x already", "no port from 9 to 9 is free"]
        );
    }
}
