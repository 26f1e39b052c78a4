//! `maand deploy`.
#![expect(clippy::disallowed_methods, reason = "edge: a scratch copy of the catalog for -b -n, a pause")]

pub mod attend;
mod preview;
mod problem;
pub mod progress;
mod trees;

use std::time::Duration;

use shared::api::GONE_MS;
use shared::{Code, Diagnostic, RunId};

use crate::catalog::{Catalog, recover, rollout as rows};
use crate::cli::Context;
use crate::cli::cmd::build;
use crate::cli::cmd::recover::hear;
use crate::cli::filter::{self, Filter};
use crate::clock;
use crate::drive::survey::Survey;
use crate::drive::{Attended, Driver};
use crate::failure::{Exit, Failure};
use crate::high_water;
use crate::plan::{Options, Plan, check, report};
use crate::serve::ServeLock;
use crate::telemetry::Line;
use attend::Attendant;

/// Roll the catalog out: start what is new, restart what changed, skip what is in sync
///
/// Jobs of a wave (maand cat jobs: deployment_seq) go side by side, each batch by batch; what passes its
/// gate is promoted. A job that fails holds back the jobs that demand it, and no other. What is drained or
/// no longer wanted is stopped first. Agents pull: when no maand serve runs, this serves them for as long
/// as it lasts.
#[derive(Debug, Default, clap::Args)]
#[command(after_long_help = "Examples:
  maand deploy --dry-run        what would be done, and why
  maand deploy -b -n            the same for the workspace as it is now
  maand deploy --jobs api,web   these jobs alone
  maand deploy --force          restart also what is in sync
  maand deploy --sync-only      files only, no make target
  maand deploy --detach         leave it to maand drive

A dry run changes nothing. It runs pre_deploy hooks over key-values that are
thrown away; with --no-hooks it runs none.
Ctrl-C pauses after the batches in flight, twice leaves at once and ends the
hooks that run; maand deploy goes on with it.
An agent that does not pick up its work within pickup_timeout (maand.conf) is
out of reach: the job goes on without as many as max_unreachable allows, and
maand drive brings them up to date later.
Exit code 1 when anything failed: every failure is listed at the end.")]
pub struct Args {
    /// Only these jobs
    #[arg(long, value_delimiter = ',', value_name = "JOB,…", value_parser = filter::name)]
    pub jobs: Vec<String>,
    /// Run maand build first
    #[arg(short, long)]
    pub build: bool,
    /// Print what would be done; change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Roll also what is in sync
    #[arg(long)]
    pub force: bool,
    /// Put files in place and run no make target; refused where a first start is needed
    #[arg(long)]
    pub sync_only: bool,
    /// Begin, and leave the rest to maand drive
    #[arg(long, conflicts_with = "dry_run")]
    pub detach: bool,
    /// With --dry-run: run no hooks either
    #[arg(long, requires = "dry_run")]
    pub no_hooks: bool,
    /// Print what hooks print, as `job@host | line`, `!` for standard error
    #[arg(short, long)]
    pub verbose: bool,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    if args.dry_run {
        return dry_run(&args, context);
    }
    if args.build {
        build::build_bucket(&context.bucket, &context.ui)?;
    }
    deploy(&args, context)
}

/// For `maand dev`: everything, with `force` also what is in sync.
pub fn deploy_bucket(context: &Context, force: bool) -> Result<(), Failure> {
    deploy(&Args { force, ..Args::default() }, context)
}

fn dry_run(args: &Args, context: &Context) -> Result<(), Failure> {
    let database = context.bucket.database();
    let mut catalog = Catalog::open(&database)?;
    let mut scratch = None;
    if args.build {
        let copy = context.bucket.data().join(format!("scratch-{}.db", std::process::id()));
        drop(std::fs::remove_file(&copy));
        catalog.copy_to(&copy)?;
        let built = build::build_into(&context.bucket, &copy, false, &context.ui);
        catalog = Catalog::open(&copy)?;
        scratch = Some(copy);
        built.inspect_err(|_| remove_scratch(scratch.as_deref()))?;
    }
    let served = ServeLock::is_held(&context.bucket);
    let evidence = high_water::evidence(&context.bucket, &mut catalog)?;
    if !evidence.is_empty() {
        context.ui.warn("the catalog is older than what agents have been told (maand recover): this plan may be wrong");
    }
    for host in catalog.read(|tx| unheard(tx))? {
        context.ui.warn(format_args!(
            "what {host} runs is not known since maand recover: run it again when its agent is back"
        ));
    }
    let database = scratch.clone().unwrap_or(database);
    let planned = planned(args, &mut catalog, served).and_then(|(mut survey, plan, options)| {
        let _trees = trees::Trees::of(&context.bucket, database.clone(), &plan.jobs);
        if args.no_hooks {
            Ok(preview::Preview::of(plan))
        } else {
            preview::with_hooks(context, &mut catalog, &database, (&mut survey, plan, &options), args.verbose)
        }
    });
    let open = catalog.read(|tx| rows::open(tx));
    drop(catalog);
    remove_scratch(scratch.as_deref());
    let preview::Preview { plan, failed, problems: said } = planned?;
    plan.notes.iter().for_each(|note| context.ui.warn(note));
    if let Some(open) = open? {
        let (run, seq) = (open.run, open.update_seq);
        context.ui.warn(format_args!("deploy {run} (update_seq {seq}) is open: maand deploy goes on with it first"));
    }
    if context.ui.wants_json() {
        context.ui.out_json(&report::json(&plan));
    } else {
        report::text(&plan).iter().for_each(|line| context.ui.out(line));
    }
    // What hooks and templates said is said in full.
    let refused = plan.jobs.iter().filter(|job| !failed.contains(&job.job));
    let refused = refused.filter_map(|job| job.refused.as_ref().map(|why| problem::of_job(&job.job, why)));
    let problems: Vec<Diagnostic> = refused.chain(said).collect();
    if problems.is_empty() { Ok(()) } else { Err(Failure { exit: Exit::Failed, problems }) }
}

/// Workers whose agents have not said what they run since the epoch was opened.
fn unheard(connection: &rusqlite::Connection) -> crate::catalog::Result<Vec<shared::Host>> {
    let waits = recover::recovering(connection)?;
    let workers = crate::catalog::read::snapshot(connection)?.workers;
    Ok(workers.into_iter().filter(|w| waits.contains_key(&w.worker_id)).map(|w| w.host).collect())
}

fn remove_scratch(path: Option<&std::path::Path>) {
    for suffix in ["", "-wal", "-shm"] {
        if let Some(path) = path {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            drop(std::fs::remove_file(name));
        }
    }
}

/// What the operator asked for, looked at and planned.
fn planned(args: &Args, catalog: &mut Catalog, served: bool) -> Result<(Survey, Plan, Options), Failure> {
    let options = Options { force: args.force, sync_only: args.sync_only, ..Options::default() };
    let survey = Survey::take(catalog, &options, served, clock::now_ms())?;
    let snapshot = &survey.snapshot;
    if snapshot.built_at_ms.is_none() {
        let problem = Diagnostic::new(Code::NotBuilt, "this bucket has not been built");
        return Err(Failure::new(Exit::Input, problem.remedy("run maand build")));
    }
    let filter = Filter::new(snapshot, &args.jobs, &[])?;
    let jobs = match args.jobs.is_empty() {
        true => Default::default(),
        false => snapshot
            .allocations
            .iter()
            .map(|a| a.job.clone())
            .chain(snapshot.jobs.iter().map(|j| j.name.clone()))
            .filter(|job| filter.job(job))
            .collect(),
    };
    let options = Options { jobs, ..options };
    let plan = plan_of(&survey, &options)?;
    Ok((survey, plan, options))
}

/// The plan, checked.
pub fn plan_of(survey: &Survey, options: &Options) -> Result<Plan, Failure> {
    let plan = survey.plan(options);
    check::check(&plan, &survey.snapshot, options).map_err(|why| {
        let problem = Diagnostic::new(Code::Bug, format!("the plan contradicts the catalog: {why}"));
        Failure::new(Exit::Bug, problem.remedy("nothing was changed; please report this"))
    })?;
    Ok(plan)
}

fn deploy(args: &Args, context: &Context) -> Result<(), Failure> {
    let mut attendant = Attendant::new(context, args.verbose)?;
    let mut catalog = context.catalog()?;
    // Refused before anything is gone on with: names, and what was never built.
    planned(args, &mut catalog, attendant.was_served)?;
    // First what an earlier deploy left open: its agents may be in the middle of it.
    let open = catalog.read(|tx| rows::open(tx))?;
    if let Some(open) = &open {
        let driver = attendant.take_over(&mut catalog, open)?;
        let seq = driver.update_seq;
        context.ui.say(format_args!("going on with the deploy that was left open (update_seq {seq})"));
        attendant.attend(&mut catalog, driver)?;
    }
    settle(context, &mut catalog)?;
    // After a restored backup: what agents that came back since have said counts.
    for host in hear(&mut catalog)? {
        context
            .ui
            .warn(format_args!("what {host} runs is not known since maand recover: its agent has not been heard"));
    }
    let (mut survey, plan, options) = planned(args, &mut catalog, attendant.was_served)?;
    let attended = if args.detach { Attended::Left } else { Attended::Here };
    let driver = begin(context, &attendant, &mut catalog, &mut survey, &plan, &options, attended)?;
    if args.detach {
        return detached(context, &driver);
    }
    let promoted = attendant.attend(&mut catalog, driver)?;
    if context.ui.wants_json() {
        context.ui.out_json(&promoted);
    } else {
        promoted.say(&context.ui);
    }
    Ok(())
}

/// Waits until no agent may begin what an aborted deploy took back from it: else it could restart beside the batch of
/// the next one.
fn settle(context: &Context, catalog: &mut Catalog) -> Result<(), Failure> {
    let Some(ended_ms) = catalog.read(|tx| rows::last_aborted(tx))? else { return Ok(()) };
    // A clock that was set back does not make it longer.
    let left_ms = (ended_ms.saturating_add(GONE_MS) - clock::now_ms()).min(GONE_MS);
    if let Some(left_ms) = u64::try_from(left_ms).ok().filter(|left_ms| *left_ms > 0) {
        context.ui.say(format_args!(
            "waiting {} s: until then an agent may begin what the aborted deploy took back",
            left_ms.div_ceil(1000)
        ));
        std::thread::sleep(Duration::from_millis(left_ms));
    }
    Ok(())
}

/// Begins a rollout of `plan`.
pub fn begin(
    context: &Context,
    attendant: &Attendant<'_>,
    catalog: &mut Catalog,
    survey: &mut Survey,
    plan: &Plan,
    options: &Options,
    attended: Attended,
) -> Result<Driver, Failure> {
    plan.notes.iter().for_each(|note| context.ui.warn(note));
    for job in plan.jobs.iter().filter(|job| !job.is_required() && !job.decides) {
        let reason = report::skip_reason(job);
        context.ui.say(format_args!("deploy: skip job \"{}\" ({reason})", job.job));
        attendant.log(Line {
            event: Some("deploy_skip"),
            maand: "deploy",
            job: Some(job.job.as_str()),
            reason: Some(reason),
            ..Line::default()
        });
    }
    let rest = survey.snapshot.allocations.iter().filter(|allocation| !allocation.is_active());
    for allocation in rest.filter(|allocation| allocation.promoted.is_none()) {
        attendant.log(Line {
            event: Some("reconcile_skip_stop"),
            maand: "deploy",
            worker: Some(&allocation.host),
            job: Some(allocation.job.as_str()),
            phase: Some("reconcile"),
            reason: Some("not_deployed"),
            ..Line::default()
        });
    }
    for step in plan.jobs.iter().flat_map(|job| job.batches.iter().flatten()) {
        if !survey.joined.contains(&step.worker_id) {
            context.ui.say(format_args!("note: no agent has joined for {0}: run maand agent token {0}", step.host));
        }
    }
    let run = RunId::from_uuid(clock::run_uuid());
    attendant.hands(run).check(&survey.snapshot, plan)?;
    survey.settle(catalog, run, clock::now_ms())?;
    let snapshot = &survey.snapshot;
    // The mark first: a sequence that was handed out must never be handed out again.
    high_water::raise(&context.bucket, snapshot.bucket_id, snapshot.epoch, snapshot.update_seq + 1)?;
    let whole = (snapshot, plan, options);
    let driver = Driver::begin(catalog, &context.bucket, whole, attendant.limits, attended, run)?;
    high_water::confirm(&context.bucket, snapshot.bucket_id, snapshot.epoch, driver.update_seq)?;
    Ok(driver)
}

fn detached(context: &Context, driver: &Driver) -> Result<(), Failure> {
    let (run, seq) = (driver.run, driver.update_seq);
    if context.ui.wants_json() {
        context.ui.out_json(&serde_json::json!({ "run_id": run, "update_seq": seq, "detached": true }));
        return Ok(());
    }
    context.ui.out(run);
    context
        .ui
        .say(format_args!("begun (update_seq {seq}); maand drive goes on with it: watch it with maand rollout watch"));
    Ok(())
}
