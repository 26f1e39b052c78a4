//! `maand health_check` (`spec/behaviour.md` 8.1).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use shared::api::v1::operation::Ended;
use shared::{AllocId, Diagnostic, Host, JobName};

use crate::cli::Context;
use crate::cli::filter::{self, Filter};
use crate::cli::operate::{Answer, Session, absent};
use crate::drive::operations::{End, Standing};
use crate::failure::Failure;
use crate::hooks::Call;
use crate::hooks::report::{Ran, Report};
use crate::hooks::run::Outcome;
use crate::model::{Allocation, HookEvent, Job};

/// How long an agent that is away is waited for, where checks are waited for.
const AWAY_MS: i64 = 30_000;

/// Check the jobs' health on their workers, now
///
/// Agents run the checks of the manifests (`health_check`), on the machine where the job runs. Where these
/// are good, or there are none, the job's health_check hooks run, here. A worker whose agent is not there
/// is reported as offline; the others are checked all the same.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand health_check                              every job, once\n  maand health_check \
    --jobs api --wait --verbose  as long as a gate would wait\n\nWhat the agents found by themselves is in \
    maand cat deployments.\nExit code 1 when anything is unhealthy or offline.\nTo learn more: docs/reference/health-check.md"
)]
pub struct Args {
    /// Only these jobs
    #[arg(long, value_delimiter = ',', value_name = "JOB,…", value_parser = filter::name)]
    jobs: Vec<String>,
    /// Try again as often as the manifest's `wait` says, and wait half a minute for absent agents
    #[arg(long)]
    wait: bool,
    /// Show every allocation, also those that are well, and what hooks print
    #[arg(long)]
    verbose: bool,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let mut session = Session::open(context, "health_check")?;
    let filter = Filter::new(&session.snapshot, &args.jobs, &[])?;
    let jobs: BTreeSet<JobName> =
        session.snapshot.jobs.iter().map(|job| job.name.clone()).filter(|job| filter.job(job)).collect();
    // Without a filter every worker counts, also one without jobs.
    let everywhere = args.jobs.is_empty();
    let among = |allocation: &Allocation| jobs.contains(&allocation.job);
    let checked = check(&mut session, among, everywhere, args.wait, args.verbose)?;
    if !context.ui.wants_json() {
        show(context, &session, &jobs, &checked, args.verbose);
    }
    let rows: Vec<_> = checked
        .answers
        .iter()
        .map(|answer| {
            let (health, problem) = judged(answer);
            json!({ "job": answer.asked.work.job(), "worker_ip": answer.asked.host, "health": health, "hook": null, "problem": problem })
        })
        .chain(checked.offline.iter().flat_map(|(host, allocations)| {
            allocations.iter().map(move |job| json!({ "job": job, "worker_ip": host, "health": "offline", "hook": null, "problem": null }))
        }))
        .chain(checked.hooked.iter().flat_map(|report| {
            report.ran.iter().map(|ran| {
                let (health, problem) = told(ran);
                json!({ "job": report.job, "worker_ip": ran.host, "health": health, "hook": ran.hook, "problem": problem })
            })
        }))
        .collect();
    session.end(&rows, checked.problems)
}

/// What checks have found.
struct Checked {
    answers: Vec<Answer>,
    /// Jobs on workers whose agent cannot be asked.
    offline: BTreeMap<Host, Vec<JobName>>,
    /// What health_check hooks came to, by job: the last try.
    hooked: Vec<Report>,
    problems: Vec<Diagnostic>,
}

/// Waits until every job that has checks is healthy wherever `among` says: what a batch of an ad-hoc
/// command is followed by. The problems of those that are not.
pub fn gate(session: &mut Session<'_>, among: impl Fn(&Allocation) -> bool) -> Result<Vec<Diagnostic>, Failure> {
    Ok(check(session, among, false, true, false)?.problems)
}

fn check(
    session: &mut Session<'_>,
    among: impl Fn(&Allocation) -> bool,
    everywhere: bool,
    wait: bool,
    shows: bool,
) -> Result<Checked, Failure> {
    // Never deployed, or drained: nothing is there that could be well.
    let due = |allocation: &Allocation| allocation.is_active() && allocation.promoted.is_some() && among(allocation);
    let with_checks = |job: &&Job| !job.spec.health_check.checks.is_empty();
    let snapshot = session.snapshot.clone();
    let allocations: Vec<(&Allocation, &Job)> = snapshot
        .allocations
        .iter()
        .filter(|allocation| due(allocation))
        .filter_map(|allocation| Some((allocation, snapshot.job(&allocation.job).filter(with_checks)?)))
        .collect();
    let workers = match everywhere {
        true => snapshot.workers.iter().map(|worker| worker.worker_id).collect(),
        false => allocations.iter().map(|(allocation, _)| allocation.worker_id).collect(),
    };
    let absentees: BTreeMap<Host, Standing> =
        session.look(&workers, false, if wait { AWAY_MS } else { 0 })?.into_iter().collect();
    let mut problems: Vec<Diagnostic> =
        absentees.iter().map(|(host, standing)| absent(host, standing, &snapshot)).collect();
    let mut offline: BTreeMap<Host, Vec<JobName>> = BTreeMap::new();
    let mut requests = Vec::new();
    for (allocation, job) in allocations {
        if absentees.contains_key(&allocation.host) {
            offline.entry(allocation.host.clone()).or_default().push(allocation.job.clone());
        } else {
            requests.extend(session.probe(allocation, job, wait));
        }
    }
    let answers = session.ask(requests)?;
    problems.extend(session.problems(&answers));
    let sick: BTreeSet<JobName> = answers
        .iter()
        .filter(|answer| !answer.is_good())
        .filter_map(|answer| answer.asked.work.job().cloned())
        .collect();
    let mut hooked = Vec::new();
    // Hooks look at what its own probes call well.
    let of_hooks = |job: &&Job| job.spec.has_hooks(HookEvent::HealthCheck) && !sick.contains(&job.name);
    for job in
        snapshot.jobs.iter().filter(of_hooks).filter(|job| !offline.values().flatten().any(|name| *name == job.name))
    {
        let targets: Vec<AllocId> = snapshot.allocations_of(&job.name).filter(|a| due(a)).map(|a| a.alloc_id).collect();
        if targets.is_empty() || session.is_interrupted() {
            continue;
        }
        let report = by_hooks(session, job, &targets, wait, shows)?;
        problems.extend(report.problems());
        hooked.push(report);
    }
    Ok(Checked { answers, offline, hooked, problems })
}

/// The health_check hooks of a job, with `wait` until they say that all is well, as often as a gate tries.
fn by_hooks(
    session: &mut Session<'_>,
    job: &Job,
    targets: &[AllocId],
    wait: bool,
    shows: bool,
) -> Result<Report, Failure> {
    let health = &job.spec.health_check;
    let tries = if wait { health.attempts.max(1) } else { 1 };
    let mut tried = 1;
    loop {
        let report = session.hooks(&Call::new(&job.name, HookEvent::HealthCheck, targets), shows)?;
        if report.is_ok() || report.is_interrupted() || tried >= tries || !session.pause(health.interval_s) {
            return Ok(report);
        }
        tried += 1;
    }
}

/// What a hook says of an allocation.
fn told(ran: &Ran) -> (&'static str, Option<String>) {
    match ran.outcome {
        Outcome::Ok => ("healthy", None),
        Outcome::NotStarted { .. } | Outcome::Interrupted => ("unknown", Some(ran.outcome.to_string())),
        _ => ("unhealthy", Some(format!("{}: {}", ran.hook, ran.outcome))),
    }
}

fn judged(answer: &Answer) -> (&'static str, Option<&str>) {
    match &answer.end {
        End::Said(said) => match &said.outcome {
            Some(Ended::Ok) => ("healthy", None),
            Some(Ended::Unhealthy { problem }) => ("unhealthy", Some(problem)),
            Some(Ended::Refused { reason }) => ("unknown", Some(reason)),
            _ => ("unknown", None),
        },
        End::NotPickedUp | End::NoResult | End::Left => ("unknown", None),
    }
}

fn show(context: &Context, session: &Session<'_>, jobs: &BTreeSet<JobName>, checked: &Checked, verbose: bool) {
    let ui = &context.ui;
    for job in session.snapshot.jobs.iter().filter(|job| jobs.contains(&job.name)) {
        let name = &job.name;
        let of: Vec<&Answer> = checked.answers.iter().filter(|a| a.asked.work.job() == Some(name)).collect();
        let ran: Vec<&Ran> = checked.hooked.iter().filter(|report| report.job == *name).flat_map(|r| &r.ran).collect();
        let away: Vec<&Host> =
            checked.offline.iter().filter(|(_, jobs)| jobs.contains(name)).map(|(host, _)| host).collect();
        let asked = of.iter().map(|answer| &answer.asked.host).chain(ran.iter().map(|ran| &ran.host));
        let all: BTreeSet<&Host> = asked.chain(away.iter().copied()).collect();
        let sick = of.iter().filter(|answer| !answer.is_good()).map(|answer| &answer.asked.host);
        let sick = sick.chain(ran.iter().filter(|ran| ran.outcome != Outcome::Ok).map(|ran| &ran.host));
        let sick: BTreeSet<&Host> = sick.chain(away.iter().copied()).collect();
        let (good, all) = (all.len() - sick.len(), all.len());
        let (colour, text) = if job.spec.health_check.checks.is_empty() && !job.spec.has_hooks(HookEvent::HealthCheck) {
            ("2", "no health_check in its manifest".to_owned())
        } else if !session.snapshot.allocations_of(name).any(Allocation::is_active) {
            ("2", "runs nowhere".to_owned())
        } else if all == 0 {
            ("2", "not deployed yet".to_owned())
        } else if good == all {
            ("32", format!("healthy ({good} of {all})"))
        } else {
            let away = if away.is_empty() { String::new() } else { format!(", {} offline", away.len()) };
            ("31", format!("not healthy ({good} of {all}{away})"))
        };
        ui.out(format_args!("{name}: {}", ui.paint(colour, &text)));
        for answer in of.iter().filter(|answer| verbose || !answer.is_good()) {
            let (word, problem) = judged(answer);
            let problem = problem.map(|problem| format!(": {}", shared::text::clean(problem))).unwrap_or_default();
            ui.out(format_args!("  {name}@{} {word}{problem}", answer.asked.host));
        }
        for ran in ran.iter().filter(|ran| verbose || ran.outcome != Outcome::Ok) {
            let (word, problem) = told(ran);
            let problem = problem.unwrap_or_else(|| ran.hook.to_string());
            ui.out(format_args!("  {name}@{} {word}: {problem}", ran.host));
        }
        for host in away {
            ui.out(format_args!("  {name}@{host} offline"));
        }
    }
}
