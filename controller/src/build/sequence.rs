//! Decides deployment_seq: how long the longest chain of demands below a job is (`spec/behaviour.md`
//! 2.6 and 3.3).

use std::collections::{BTreeMap, BTreeSet};

use shared::{Code, Diagnostic, JobName, Version};

use crate::model::Demand;
use crate::workspace::JobInput;

/// Each job's place, or all that is wrong with the demands. What demands something of a `broken` job is
/// not judged: that job's own problems come first.
pub fn sequence(jobs: &[JobInput], broken: &BTreeSet<String>) -> Result<BTreeMap<JobName, u32>, Vec<Diagnostic>> {
    let by_name: BTreeMap<&JobName, &JobInput> = jobs.iter().map(|job| (&job.name, job)).collect();
    let mut problems = Vec::new();
    let demanded: BTreeSet<&JobName> = demands(jobs).map(|(_, _, demand)| &demand.job).collect();
    for job in jobs {
        let own = job.manifest.hooks.values().any(|hook| hook.demand.is_some());
        if job.manifest.version.is_none() && (own || demanded.contains(&job.name)) {
            let why = if own { "it demands something of another job" } else { "another job demands something of it" };
            problems.push(
                Diagnostic::new(Code::DemandUnmet, format!("job {} has no version, and {why}", job.name))
                    .at(format!("workspace/jobs/{}/manifest.json version", job.name))
                    .remedy("add one, such as \"version\": \"1.0.0\""),
            );
        }
    }
    for (job, key, demand) in demands(jobs) {
        let at = format!("workspace/jobs/{job}/manifest.json {key}");
        let Some(upstream) = by_name.get(&demand.job) else {
            if !broken.contains(demand.job.as_str()) {
                let names = by_name.keys().map(|name| name.as_str());
                let problem = Diagnostic::new(Code::DemandUnmet, format!("there is no job {:?}", demand.job.as_str()));
                problems.push(problem.at(format!("{at}.job")).remedy(
                    match shared::text::closest(demand.job.as_str(), names) {
                        Some(close) => format!("did you mean {close:?}?"),
                        None => "add the job, or take the demand out".to_owned(),
                    },
                ));
            }
            continue;
        };
        if !upstream.manifest.hooks.contains_key(&demand.hook) {
            let hooks: Vec<&str> = upstream.manifest.hooks.keys().map(|name| name.as_str()).collect();
            let message = format!("job {} has no hook {:?}", demand.job, demand.hook.as_str());
            problems.push(Diagnostic::new(Code::DemandUnmet, message).at(format!("{at}.hook")).remedy(
                if hooks.is_empty() {
                    "it has no hooks at all".to_owned()
                } else {
                    format!("its hooks are {}", hooks.join(", "))
                },
            ));
        }
        problems.extend(out_of_bounds(demand, upstream).map(|problem| problem.at(format!("{at}.config"))));
    }
    let mut places = BTreeMap::new();
    for job in jobs {
        if let Err(circle) = place(job, &by_name, &mut places, &mut Vec::new()) {
            let path = circle.iter().map(ToString::to_string).collect::<Vec<_>>().join(" -> ");
            problems.push(
                Diagnostic::new(Code::DemandCycle, format!("jobs demand one another in a circle: {path}"))
                    .at(format!("workspace/jobs/{}/manifest.json hooks", circle[0]))
                    .remedy("take one of these demands out"),
            );
            break;
        }
    }
    if problems.is_empty() { Ok(places) } else { Err(problems) }
}

/// Every demand, with its job and place.
fn demands(jobs: &[JobInput]) -> impl Iterator<Item = (&JobName, String, &Demand)> {
    jobs.iter().flat_map(|job| {
        job.manifest.hooks.iter().filter_map(move |(name, hook)| {
            hook.demand.as_ref().map(|demand| (&job.name, format!("hooks.{name}.demands"), demand))
        })
    })
}

fn out_of_bounds(demand: &Demand, upstream: &JobInput) -> Option<Diagnostic> {
    let bounds = demand.bounds().ok()?;
    let version: Version = upstream.manifest.version.as_deref()?.parse().ok()?;
    let (bound, word) = match (bounds.min, bounds.max) {
        (Some(min), _) if version < min => (min, "at least"),
        (_, Some(max)) if version > max => (max, "at most"),
        _ => return None,
    };
    let message = format!("job {} has version {version}, {word} {bound} is demanded", upstream.name);
    Some(Diagnostic::new(Code::DemandUnmet, message).remedy("change its version, or the demand"))
}

/// The place of `job`, or a circle that it is on or leads to.
fn place<'a>(
    job: &'a JobInput,
    all: &BTreeMap<&'a JobName, &'a JobInput>,
    known: &mut BTreeMap<JobName, u32>,
    above: &mut Vec<&'a JobName>,
) -> Result<u32, Vec<JobName>> {
    if let Some(place) = known.get(&job.name) {
        return Ok(*place);
    }
    if let Some(first) = above.iter().position(|name| **name == job.name) {
        return Err(above[first..].iter().copied().chain([&job.name]).cloned().collect());
    }
    above.push(&job.name);
    let mut highest = 0;
    for demand in job.manifest.hooks.values().filter_map(|hook| hook.demand.as_ref()) {
        if let Some(upstream) = all.get(&demand.job) {
            highest = highest.max(place(upstream, all, known, above)? + 1);
        }
    }
    above.pop();
    known.insert(job.name.clone(), highest);
    Ok(highest)
}
