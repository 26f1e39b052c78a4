//! `maand hooks`: runs a hook by hand, at its event `cli`; and the hooks that follow a build.

use std::sync::Arc;

use serde_json::{Value, json};
use shared::{AllocId, Code, Diagnostic, JobName, Name, RunId};

use crate::catalog::{Catalog, read};
use crate::cli::Context;
use crate::cli::filter::unknown;
use crate::cli::meanwhile::OnDemand;
use crate::cli::ui::Ui;
use crate::clock;
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::hooks::overlay::{Overlay, commit};
use crate::hooks::report::Report;
use crate::hooks::sink::{Logged, Show};
use crate::hooks::{Call, Runner, Setup};
use crate::model::{HookEvent, Snapshot};
use crate::paths::BucketDir;
use crate::telemetry::BucketLog;

/// Run a hook by hand, for each active allocation of its job
///
/// A hook is a script of a job, workspace/jobs/JOB/_modules/HOOK.py (or .ts, .js
/// with Bun). The job's manifest declares it, with the events that it runs at:
///
///   "hooks": { "hook_migrate": { "executed_on": ["pre_deploy", "cli"] } }
///
/// This command runs it at its event cli, so "cli" must be among them. It runs on
/// this machine, never on a worker: once for each active allocation, which it
/// knows by ALLOCATION_IP and ALLOCATION_INDEX. With `import maand` it reads and
/// writes key-values, and has its worker's agent run make targets and scripts; what
/// it wrote is kept when it succeeded for all allocations of the job, and forgotten
/// otherwise. Scripts are those of the last maand build.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_long_help = "Examples:
  maand cat hooks                           what there is, and when it runs
  maand hooks hook_migrate api --verbose    with what it prints
  maand hooks hook_backup                   for every job that has it
  maand cat kv --jobs api                   what it wrote

What hooks print is in logs/<host>.log, with or without --verbose.
Events: post_build, pre_deploy, post_deploy, job_control, health_check, cli,
after_allocation_started, after_allocation_stopped.
Exit code 1 when any run failed: each is listed with its last lines. Ctrl-C ends
what runs. To learn more: docs/guides/hooks-tutorial.md, examples/cluster"
)]
pub struct Args {
    /// The hook, as the manifest names it
    hook: String,
    /// Only this job; otherwise every job that has the hook at cli, by name
    job: Option<String>,
    /// How many allocations of a job at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    concurrency: u8,
    /// Print what the hooks print, as `job@host | line`, `!` for standard error
    #[arg(long, short)]
    verbose: bool,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let settings = Settings::load(&context.bucket)?;
    let mut catalog = context.catalog()?;
    let snapshot = catalog.read(|tx| read::snapshot(tx))?;
    if snapshot.built_at_ms.is_none() {
        let problem = Diagnostic::new(Code::NotBuilt, "this bucket has not been built");
        return Err(Failure::new(Exit::Input, problem.remedy("run maand build: it puts the hooks into the catalog")));
    }
    let (hook, jobs) = chosen(&snapshot, &args.hook, args.job.as_deref())?;
    let show = args.verbose.then(|| shown(&context.ui));
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    beside(&context.bucket, &settings, &context.ui, ("hooks", show), |runner| {
        let running = jobs.iter().filter(|job| !active(&snapshot, job).is_empty());
        runner.check(&snapshot, HookEvent::Cli, Some(&hook), running)?;
        for job in &jobs {
            let targets = active(&snapshot, job);
            if targets.is_empty() {
                context.ui.say(format_args!("job {job} has no active allocation: {hook} was not run"));
                continue;
            }
            let call = Call {
                only: Some(&hook),
                concurrency: args.concurrency.into(),
                ..Call::new(job, HookEvent::Cli, &targets)
            };
            let step = Overlay::new();
            let report = runner.run(&snapshot, &call, &step)?;
            if report.is_ok() {
                let writes = step.drain();
                catalog.write(|tx| commit(tx, &writes, clock::now_ms()))?;
            }
            rows.extend(said(&report, &context.ui));
            problems.extend(report.problems());
            if report.is_interrupted() {
                break;
            }
        }
        Ok(())
    })?;
    if context.ui.wants_json() {
        context.ui.out_json(&rows);
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure { exit: Exit::Failed, problems }) }
}

/// The hook, and the jobs that have it at `cli`.
fn chosen(snapshot: &Snapshot, hook: &str, job: Option<&str>) -> Result<(Name, Vec<JobName>), Failure> {
    let usage = |problem: Diagnostic| Failure::new(Exit::Usage, problem);
    let jobs = || snapshot.jobs.iter().filter(|of| job.is_none_or(|job| of.name.as_str() == job));
    if let Some(job) = job
        && jobs().next().is_none()
    {
        return Err(usage(unknown("job", job, snapshot.jobs.iter().map(|job| job.name.as_str()))));
    }
    let of = job.map(|job| format!(" of job {job}")).unwrap_or_default();
    let having: Vec<_> = jobs()
        .filter_map(|job| Some((&job.name, job.spec.hooks.iter().find(|(name, _)| name.as_str() == hook)?)))
        .collect();
    let Some((_, (name, _))) = having.first() else {
        let known = jobs().flat_map(|job| job.spec.hooks.keys()).map(Name::as_str);
        let mut known: Vec<&str> = known.collect();
        known.sort_unstable();
        known.dedup();
        return Err(usage(unknown(&format!("hook{of}"), hook, known.into_iter())));
    };
    let by_hand: Vec<JobName> = having
        .iter()
        .filter(|(_, (_, hook))| hook.executed_on.contains(&HookEvent::Cli))
        .map(|(job, _)| (*job).clone())
        .collect();
    if by_hand.is_empty() {
        let (first, (_, declared)) = &having[0];
        let events: Vec<&str> = declared.executed_on.iter().map(|event| event.word()).collect();
        let problem = Diagnostic::new(Code::UnknownName, format!("{hook} cannot be run by hand: no event cli"))
            .at(format!("workspace/jobs/{first}/manifest.json hooks.{hook}.executed_on"))
            .note(format!("its events: {}", events.join(", ")))
            .remedy("add \"cli\" there, then maand build");
        return Err(usage(problem));
    }
    Ok(((*name).clone(), by_hand))
}

/// Runs the hooks that follow a build, job by job in the order of their waves. Their writes are kept when
/// all of them succeeded; whether there were any.
pub fn post_build(bucket: &BucketDir, ui: &Ui) -> Result<bool, Failure> {
    let mut catalog = Catalog::open(&bucket.database())?;
    let snapshot = catalog.read(|tx| read::snapshot(tx))?;
    let mut jobs: Vec<_> = snapshot
        .jobs
        .iter()
        .filter(|job| job.spec.hooks.values().any(|hook| hook.executed_on.contains(&HookEvent::PostBuild)))
        .filter(|job| !active(&snapshot, &job.name).is_empty())
        .collect();
    if jobs.is_empty() {
        return Ok(false);
    }
    jobs.sort_by_key(|job| job.spec.deployment_seq);
    let settings = Settings::load(bucket)?;
    let event = HookEvent::PostBuild;
    let step = Overlay::new();
    let mut problems = Vec::new();
    beside(bucket, &settings, ui, ("build", None), |runner| {
        runner.check(&snapshot, event, None, jobs.iter().map(|job| &job.name))?;
        for job in jobs {
            let targets = active(&snapshot, &job.name);
            let report = runner.run(&snapshot, &Call::new(&job.name, event, &targets), &step)?;
            drop(said(&report, ui));
            problems.extend(report.problems());
            if report.is_interrupted() {
                break;
            }
        }
        Ok(())
    })?;
    if let Some(last) = problems.last_mut() {
        last.notes.push("the build is in the catalog; what its hooks wrote was discarded".to_owned());
        return Err(Failure { exit: Exit::Failed, problems });
    }
    let writes = step.drain();
    catalog.write(|tx| commit(tx, &writes, clock::now_ms()))?;
    Ok(!writes.is_empty())
}

/// Runs hooks of the command `maand`, which agents are served for once one of them asks.
fn beside(
    bucket: &BucketDir,
    settings: &Settings,
    ui: &Ui,
    (maand, show): (&'static str, Option<Show>),
    work: impl FnOnce(&Runner) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let run = RunId::from_uuid(clock::run_uuid());
    let sink = Arc::new(Logged { log: BucketLog::new(bucket, settings.logs), maand, run, show });
    let workers = OnDemand::new(bucket, settings, ui);
    let setup = Setup { bucket: bucket.clone(), database: bucket.database(), run, sink, workers: workers.clone() };
    let runner = Runner::start(setup)?;
    runner.cancel_on_signals();
    let done = work(&runner);
    runner.wait(workers.end());
    done
}

/// Shows what hooks print.
pub fn shown(ui: &Ui) -> Show {
    let ui = Ui::new(ui.wants_json(), crate::cli::ui::no_color());
    Box::new(move |label, stderr, line| ui.worker_line(label, stderr, line))
}

fn active(snapshot: &Snapshot, job: &JobName) -> Vec<AllocId> {
    snapshot.allocations_of(job).filter(|a| a.is_active()).map(|a| a.alloc_id).collect()
}

/// Says what became of each process; the same as rows.
pub fn said(report: &Report, ui: &Ui) -> Vec<Value> {
    let row = |ran: &crate::hooks::report::Ran| {
        let colour = if ran.outcome == crate::hooks::run::Outcome::Ok { "32" } else { "31" };
        let said = ran.outcome.to_string();
        let ms = ran.duration_ms;
        ui.say(format_args!("{}@{} | {} {} ({ms} ms)", report.job, ran.host, ran.hook, ui.paint(colour, &said)));
        json!({ "job": report.job, "worker": ran.host, "alloc_id": ran.alloc_id, "hook": ran.hook,
            "event": report.event.word(), "ok": ran.outcome == crate::hooks::run::Outcome::Ok, "outcome": said,
            "duration_ms": ms })
    };
    report.ran.iter().map(row).collect()
}
