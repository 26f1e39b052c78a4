//! `maand job start|stop|restart|status|run` (`spec/behaviour.md` 8.2): one make target of deployed jobs,
//! through their agents. What is deployed and promoted stays as it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shared::api::v1::operation::is_target;
use shared::{AllocId, Code, Diagnostic, Host, JobName};

use crate::cli::Context;
use crate::cli::cmd::health_check::gate;
use crate::cli::cmd::hooks::said;
use crate::cli::filter::{self, Filter};
use crate::cli::operate::Session;
use crate::failure::{Exit, Failure};
use crate::hooks::Call;
use crate::hooks::env::Extras;
use crate::hooks::report::Report;
use crate::model::{Allocation, HookEvent, Job, Snapshot};

/// Which jobs, where.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The jobs
    #[arg(required = true, value_delimiter = ',', value_name = "JOB,…", value_parser = filter::name)]
    jobs: Vec<String>,
    /// Only on these workers
    #[arg(long, value_delimiter = ',', value_name = "HOST,…", value_parser = filter::name)]
    allocations: Vec<String>,
}

/// Of start, restart and status.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  maand job status api,web
  maand job restart api --allocations 10.0.0.1 --health_check

Workers whose agent is offline or has not accepted the last deploy are named
before anything is run. A failing batch ends its job; the other jobs go on.
Exit code 1 when it failed anywhere.

A job with job_control hooks has them run in place of make, for all of these
allocations at once, with TARGET set to what is wanted.")]
pub struct Gated {
    #[command(flatten)]
    which: Which,
    /// After each batch its allocations must become healthy; no effect on status
    #[arg(long = "health_check", alias = "health-check")]
    health_check: bool,
}

/// Run make stop of deployed jobs, through their agents
///
/// The jobs stay stopped until they are started by hand or a deploy rolls them; maand cat deployments
/// shows them as stopped by hand. To take a job out of service for good, drain it (disabled.json).
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  maand job stop api --allocations 10.0.0.1")]
pub struct Stop {
    #[command(flatten)]
    which: Which,
}

/// Of run.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  maand job run database --target migrate --allocations 10.0.0.1")]
pub struct Run {
    /// The Makefile's target
    #[arg(long, value_name = "TARGET")]
    pub target: String,
    /// Where
    #[command(flatten)]
    pub which: Gated,
}

impl From<Stop> for Gated {
    fn from(stop: Stop) -> Self {
        Self { which: stop.which, health_check: false }
    }
}

/// Runs it.
pub fn run(target: &str, args: Gated, context: &Context) -> Result<(), Failure> {
    // The four words of the command line, in whatever case.
    let lower = target.to_ascii_lowercase();
    let target = if ["start", "stop", "restart", "status"].contains(&lower.as_str()) { &lower } else { target };
    if !is_target(target) {
        let problem = Diagnostic::new(Code::Usage, format!("{target:?} is not a name of a make target"));
        let problem = problem.remedy("a letter or digit, then letters, digits, _ . -");
        return Err(Failure::new(Exit::Usage, problem));
    }
    let mut session = Session::open(context, "job")?;
    let snapshot = session.snapshot.clone();
    let chosen = chosen(&snapshot, &args.which)?;
    if snapshot.update_seq == 0 {
        let problem = Diagnostic::new(Code::OperationFailed, "nothing has been deployed from this bucket yet");
        return Err(Failure::new(Exit::Failed, problem.remedy("run maand deploy")));
    }
    let workers = chosen.iter().flat_map(|(_, allocations)| allocations).map(|a| a.worker_id).collect();
    session.reach(&workers, true)?;
    let gated = args.health_check && target != "status";
    let mut waves: BTreeMap<u32, Vec<Series<'_>>> = BTreeMap::new();
    for (job, allocations) in chosen {
        // Its hooks are told what is wanted and decide how it goes: for all of it at once.
        let all = allocations.len().max(1);
        let size = if job.spec.controlled() { all } else { job.spec.max_concurrent_upgrades.max(1) as usize };
        let batches = allocations.chunks(size).map(<[&Allocation]>::to_vec).collect();
        waves.entry(job.spec.deployment_seq).or_default().push(Series { job, batches });
    }
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    for series in waves.values_mut() {
        // The next batch of every job of the wave at the same time.
        while series.iter().any(|one| !one.batches.is_empty()) && !session.is_interrupted() {
            let batch: Vec<(&Job, &Allocation)> = series
                .iter_mut()
                .flat_map(|one| one.batches.pop_front().into_iter().flatten().map(|allocation| (one.job, allocation)))
                .collect();
            let by_make = batch.iter().filter(|(job, _)| !job.spec.controlled());
            let requests = by_make.filter_map(|(job, allocation)| session.make(allocation, job, target)).collect();
            let answers = session.ask(requests)?;
            rows.extend(answers.iter().map(|answer| answer.json()));
            problems.extend(session.problems(&answers));
            let mut failed: BTreeSet<JobName> =
                answers.iter().filter(|a| !a.is_good()).filter_map(|a| a.asked.work.job().cloned()).collect();
            for report in by_hooks(&mut session, &batch, target)? {
                rows.extend(said(&report, &context.ui));
                if !report.is_ok() {
                    failed.insert(report.job.clone());
                }
                problems.extend(report.problems());
            }
            if gated && !session.is_interrupted() {
                let moved: BTreeSet<AllocId> =
                    batch.iter().filter(|(job, _)| !failed.contains(&job.name)).map(|(_, a)| a.alloc_id).collect();
                for job in batch.iter().map(|(job, _)| &job.name).collect::<BTreeSet<_>>() {
                    let found = gate(&mut session, |a| a.job == *job && moved.contains(&a.alloc_id))?;
                    if !found.is_empty() {
                        failed.insert(job.clone());
                    }
                    problems.extend(found);
                }
            }
            for one in series.iter_mut().filter(|one| failed.contains(&one.job.name)) {
                let left: usize = one.batches.drain(..).map(|batch| batch.len()).sum();
                if let Some(last) = problems.last_mut().filter(|_| left > 0) {
                    last.notes.push(format!(
                        "job {} stopped there: {left} of its allocations were not touched",
                        one.job.name
                    ));
                }
            }
        }
    }
    session.end(&rows, problems)
}

/// Runs the job_control hooks of those of a batch that have some, job by job.
fn by_hooks(session: &mut Session<'_>, batch: &[(&Job, &Allocation)], target: &str) -> Result<Vec<Report>, Failure> {
    let controlled: BTreeSet<&JobName> =
        batch.iter().filter(|(job, _)| job.spec.controlled()).map(|(job, _)| &job.name).collect();
    let mut reports = Vec::new();
    for job in controlled {
        if session.is_interrupted() {
            break;
        }
        let targets: Vec<AllocId> = batch.iter().filter(|(of, _)| of.name == *job).map(|(_, a)| a.alloc_id).collect();
        let extras = Extras::Target(target.to_owned());
        reports.push(session.hooks(&Call { extras, ..Call::new(job, HookEvent::JobControl, &targets) }, true)?);
    }
    Ok(reports)
}

/// A job's batches that are left.
struct Series<'a> {
    job: &'a Job,
    batches: VecDeque<Vec<&'a Allocation>>,
}

/// The jobs and where to work on them, in worker order; every name must mean something.
fn chosen<'a>(snapshot: &'a Snapshot, which: &Which) -> Result<Vec<(&'a Job, Vec<&'a Allocation>)>, Failure> {
    let filter = Filter::new(snapshot, &which.jobs, &which.allocations)?;
    let usage = |problem: Diagnostic| Failure::new(Exit::Usage, problem);
    let jobs: Vec<&Job> = snapshot.jobs.iter().filter(|job| filter.job(&job.name)).collect();
    let found: Vec<(&Job, Vec<&Allocation>)> = jobs
        .iter()
        .map(|job| {
            let active = snapshot.allocations_of(&job.name).filter(|a| a.is_active() && filter.worker(&a.host));
            (*job, active.collect())
        })
        .filter(|(_, allocations): &(_, Vec<_>)| !allocations.is_empty())
        .collect();
    let touched: BTreeSet<&Host> = found.iter().flat_map(|(_, all)| all).map(|allocation| &allocation.host).collect();
    // A host that was named and where nothing would happen.
    let named: BTreeSet<&str> = which.allocations.iter().map(String::as_str).collect();
    let mut problems = Vec::new();
    for host in named.iter().filter(|host| !touched.iter().any(|touched| touched.as_str() == **host)) {
        let why = snapshot.allocations.iter().find(|a| a.host.as_str() == *host && filter.job(&a.job));
        let why = match why {
            Some(allocation) if allocation.removed => format!("job {} was removed from {host}", allocation.job),
            Some(allocation) => format!("job {} is disabled on {host}", allocation.job),
            None => format!("none of these jobs is on {host}"),
        };
        problems.push(Diagnostic::new(Code::UnknownName, why).remedy("maand cat allocations shows what is where"));
    }
    if !problems.is_empty() {
        return Err(Failure { exit: Exit::Usage, problems });
    }
    if found.is_empty() {
        let problem = Diagnostic::new(Code::NothingToShow, "these jobs are disabled or removed wherever they were");
        return Err(usage(problem.remedy("maand cat allocations shows what is where")));
    }
    Ok(found)
}
