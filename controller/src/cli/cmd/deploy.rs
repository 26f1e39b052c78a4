//! `maand deploy`.
#![expect(clippy::disallowed_methods, reason = "edge: a scratch copy of the catalog for -b -n")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shared::api::v1::report::Outcome;
use shared::{Code, Diagnostic, Host, JobName, RunId};

use crate::catalog::{Catalog, agents, bundles, publish, read};
use crate::cli::Context;
use crate::cli::cmd::build;
use crate::cli::filter::Filter;
use crate::cli::ui::Ui;
use crate::clock;
use crate::config::Settings;
use crate::drive::{Driver, Ended, Progress, high_water};
use crate::failure::{Exit, Failure};
use crate::model::Snapshot;
use crate::plan::{self, Options, Plan, check, report};
use crate::rollout::Limits;
use crate::rollout::event::Moved;
use crate::rollout::job::{Failed, State, Why};
use crate::serve::{ServeLock, Server};
use crate::telemetry::{BucketLog, Line};

/// Roll the catalog out: start what is new, restart what changed, skip what is in sync
///
/// Goes batch by batch, promotes what works, and stops a job at its first failure; the other jobs go
/// on. Agents pull: when no maand serve runs, this serves them for as long as it lasts.
#[derive(Debug, Default, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand deploy --dry-run        what would be done, and why\n  maand deploy -b -n            \
    the same for the workspace as it is now\n  maand deploy --jobs api,web   these jobs alone\n  maand \
    deploy --force          restart also what is in sync\n\nCtrl-C pauses after what is in flight, twice leaves at once;\n\
    maand deploy goes on with it. Exit code 1 when any job failed: every failure\nis listed at the end."
)]
pub struct Args {
    /// Only these jobs
    #[arg(long, value_delimiter = ',', value_name = "JOB,…")]
    jobs: Vec<String>,
    /// Run maand build first
    #[arg(short, long)]
    build: bool,
    /// Print what would be done; change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Roll also what is in sync
    #[arg(long)]
    force: bool,
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
    let planned = looked_at(&mut catalog).and_then(|(snapshot, changed)| planned(args, &snapshot, &changed));
    drop(catalog);
    remove_scratch(scratch.as_deref());
    let (plan, _) = planned?;
    if context.ui.wants_json() {
        context.ui.out_json(&report::json(&plan));
    } else {
        report::text(&plan).iter().for_each(|line| context.ui.out(line));
    }
    Ok(())
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

/// The catalog, and what differs from what was promoted where that matters.
fn looked_at(catalog: &mut Catalog) -> Result<(Snapshot, plan::Changed), Failure> {
    Ok(catalog.read(|tx| {
        let snapshot = read::snapshot(tx)?;
        let mut changed = plan::Changed::new();
        for (alloc, from, to) in plan::compared(&snapshot) {
            if let (Some(from), Some(to)) = (bundles::get(tx, &from)?, bundles::get(tx, &to)?) {
                changed.insert(alloc, from.changed_paths(&to));
            }
        }
        Ok((snapshot, changed))
    })?)
}

fn planned(args: &Args, snapshot: &Snapshot, changed: &plan::Changed) -> Result<(Plan, Options), Failure> {
    if snapshot.built_at_ms.is_none() {
        let problem = Diagnostic::new(Code::NotBuilt, "this bucket has not been built");
        return Err(Failure::new(Exit::Input, problem.remedy("run maand build")));
    }
    let filter = Filter::new(snapshot, &args.jobs, &[])?;
    let jobs = if args.jobs.is_empty() {
        Default::default()
    } else {
        snapshot.jobs.iter().map(|job| job.name.clone()).filter(|job| filter.job(job)).collect()
    };
    let options = Options { jobs, force: args.force };
    let plan = plan::plan(snapshot, &options, changed);
    check::check(&plan, snapshot).map_err(|why| {
        let problem = Diagnostic::new(Code::Bug, format!("the plan contradicts the catalog: {why}"));
        Failure::new(Exit::Bug, problem.remedy("nothing was changed; please report this"))
    })?;
    let later = plan::later::refused(&plan, snapshot, &options);
    if later.is_empty() { Ok((plan, options)) } else { Err(Failure { exit: Exit::Input, problems: later }) }
}

fn deploy(args: &Args, context: &Context) -> Result<(), Failure> {
    let settings = Settings::load(&context.bucket)?;
    let mut catalog = context.catalog()?;
    let (snapshot, changed) = looked_at(&mut catalog)?;
    let (plan, options) = planned(args, &snapshot, &changed)?;
    let limits =
        Limits { pickup_ms: i64::try_from(settings.pickup_timeout_s.saturating_mul(1000)).unwrap_or(i64::MAX) };
    let log = BucketLog::new(&context.bucket, settings.log_json);
    let runtime = context.runtime()?;
    let begin = clock::instant();

    // First what an earlier deploy left open: its agents may be in the middle of it.
    let open = catalog.read(|tx| publish::open_rollout(tx))?;
    let resumed = match &open {
        None => None,
        Some(open) => match Driver::resume(&mut catalog, open, limits)? {
            Some(driver) => {
                context.ui.say(format_args!(
                    "going on with the deploy that was left open (update_seq {})",
                    driver.update_seq
                ));
                Some(driver)
            }
            None => {
                let by = open.owner.clone().unwrap_or_else(|| "another process".to_owned());
                let problem = Diagnostic::new(Code::HoldsLease, format!("{by} is deploying this bucket"));
                return Err(Failure::new(Exit::Failed, problem.remedy("wait for it to end; one deploy at a time")));
            }
        },
    };
    let server = match ServeLock::try_take(&context.bucket)? {
        None => None,
        Some(lock) => {
            let server = runtime.block_on(Server::start_locked(&context.bucket, &settings, lock))?;
            context.ui.say(format_args!("no maand serve runs: serving agents on {} meanwhile", server.local_addr()));
            Some(server)
        }
    };
    let progress = Shown::new(context, &runtime, &log);
    let result = drive(context, &mut catalog, resumed, (&snapshot, &plan, &options), limits, &progress, begin);
    if let Some(server) = server {
        runtime.block_on(server.shutdown());
    }
    result
}

fn drive(
    context: &Context,
    catalog: &mut Catalog,
    resumed: Option<Driver>,
    (snapshot, plan, options): (&Snapshot, &Plan, &Options),
    limits: Limits,
    progress: &Shown<'_>,
    begin: std::time::Instant,
) -> Result<(), Failure> {
    let was_open = resumed.is_some();
    let mut driver = match resumed {
        Some(driver) => driver,
        None => begin_rollout(context, catalog, snapshot, plan, options, limits)?,
    };
    progress.begin(driver.run, driver.update_seq);
    let ended = driver.drive(catalog, &context.bucket, progress)?;
    if ended == Ended::LeaseLost {
        let problem = Diagnostic::new(Code::HoldsLease, "another process drives this deploy now");
        return Err(Failure::new(Exit::Failed, problem.remedy("look at it with maand cat deployments")));
    }
    let joined = catalog.read(|tx| agents::joined(tx))?;
    let mut problems = Vec::new();
    for job in driver.rollout().jobs() {
        if let State::Failed { failed } = &job.state {
            let left = job.plan.batches.iter().flatten().count();
            problems.extend(failed.iter().map(|failed| {
                let worker = snapshot.worker(&failed.host).map(|worker| worker.worker_id);
                let has_joined = worker.is_some_and(|id| joined.contains_key(&id));
                problem(&job.plan.job, failed, has_joined, driver.run, left)
            }));
        }
    }
    if ended == Ended::Paused {
        let problem = Diagnostic::new(Code::DeployFailed, "the deploy is paused");
        problems.push(problem.remedy("maand deploy goes on with it"));
    }
    progress.end(problems.is_empty());
    if !problems.is_empty() {
        return Err(Failure { exit: Exit::Failed, problems });
    }
    let moved = driver.rollout().jobs().flat_map(|job| job.plan.batches.iter().flatten()).count();
    if context.ui.wants_json() {
        context
            .ui
            .out_json(&serde_json::json!({ "run_id": driver.run, "update_seq": driver.update_seq, "promoted": moved }));
    } else {
        context
            .ui
            .say(format_args!("deployed: {moved} allocations promoted in {:.1} s", begin.elapsed().as_secs_f64()));
    }
    if was_open {
        // That was the older deploy; now what was asked for.
        return deploy(
            &Args {
                jobs: options.jobs.iter().map(ToString::to_string).collect(),
                force: options.force,
                ..Args::default()
            },
            context,
        );
    }
    Ok(())
}

fn begin_rollout(
    context: &Context,
    catalog: &mut Catalog,
    snapshot: &Snapshot,
    plan: &Plan,
    options: &Options,
    limits: Limits,
) -> Result<Driver, Failure> {
    for job in plan.jobs.iter().filter(|job| !job.is_required()) {
        context.ui.say(format_args!("deploy: skip job \"{}\" ({})", job.job, report::COMPLETE));
    }
    let joined = catalog.read(|tx| agents::joined(tx))?;
    for step in plan.jobs.iter().flat_map(|job| job.batches.iter().flatten()) {
        if !joined.contains_key(&step.worker_id) {
            context.ui.say(format_args!("note: no agent has joined for {0}: run maand agent token {0}", step.host));
        }
    }
    let removed = snapshot.allocations.iter().filter(|a| a.removed && a.promoted.is_some()).count();
    if removed > 0 {
        context.ui.warn(format_args!(
            "{removed} allocations are no longer wanted; this version does not stop and remove them yet (maand cat \
             deployments lists them): run make stop there yourself"
        ));
    }
    // The mark first: a sequence that was handed out must never be handed out again.
    high_water::raise(&context.bucket, snapshot.bucket_id, snapshot.epoch, snapshot.update_seq + 1)?;
    let driver = Driver::begin(catalog, &context.bucket, snapshot, plan, options, limits)?;
    high_water::confirm(&context.bucket, snapshot.bucket_id, snapshot.epoch, driver.update_seq)?;
    Ok(driver)
}

/// What a failure is, where its output is, and what to do.
fn problem(job: &JobName, failed: &Failed, has_joined: bool, run: RunId, of: usize) -> Diagnostic {
    let host = &failed.host;
    let log = format!("logs/{host}.log (run {run})");
    let rerun = "correct it, then maand build && maand deploy: what was promoted is skipped";
    let problem = match &failed.why {
        Why::NotPickedUp { waited_ms } if !has_joined => Diagnostic::new(
            Code::NotJoined,
            format!("job {job}: no agent has joined for {host} (waited {} s)", waited_ms / 1000),
        )
        .remedy(format_args!(
            "run `maand agent token {host}`, and on that worker the line that it prints; then maand deploy"
        )),
        Why::NotPickedUp { waited_ms } => {
            let message =
                format!("job {job}: the agent of {host} did not pick up its work within {} s", waited_ms / 1000);
            Diagnostic::new(Code::NotPickedUp, message)
                .remedy("look at maand cat agents; start maand-agent there, then maand deploy")
        }
        Why::NoResult { waited_ms, problem } => {
            let message = format!("job {job}: no result from {host} after {} s", waited_ms / 1000);
            let found = Diagnostic::new(Code::ActionTimedOut, message)
                .remedy("look at maand cat agents and maand cat deployments");
            match problem {
                Some(problem) => found.note(format!("its agent says: {}", shared::text::clean(problem))),
                None => found,
            }
        }
        Why::Outcome { outcome, tail } => {
            let found = match outcome {
                Outcome::Failed { exit } => Diagnostic::new(
                    Code::ActionFailed,
                    format!("job {job}: make failed on {host} with exit code {exit}"),
                )
                .remedy(rerun),
                Outcome::TimedOut => Diagnostic::new(
                    Code::ActionTimedOut,
                    format!("job {job}: make took too long on {host} and was ended"),
                )
                .remedy("make it quicker, or raise action_timeout_seconds in its manifest"),
                Outcome::Interrupted => Diagnostic::new(
                    Code::ActionInterrupted,
                    format!("job {job}: the agent of {host} was ended again and again while make ran"),
                )
                .remedy("look at the agent's log on that worker, then maand deploy"),
                Outcome::Refused { reason } => Diagnostic::new(
                    Code::Refused,
                    format!("job {job}: the agent of {host} refused: {}", shared::text::clean(reason)),
                )
                .remedy(rerun),
                Outcome::Ok => Diagnostic::new(Code::Bug, format!("job {job}: {host} succeeded and counts as failed")),
            };
            let found = match tail {
                Some(tail) => {
                    tail.lines().fold(found, |found, line| found.note(format!("| {}", shared::text::clean(line))))
                }
                None => found,
            };
            found.note(format!("the whole output is in {log}"))
        }
    };
    problem.note(format!("the job stopped there; {of} of its allocations were to move"))
}

/// Progress for the operator and the logs.
struct Shown<'a> {
    ui: &'a Ui,
    log: &'a BucketLog,
    interrupts: Arc<AtomicU32>,
    run: std::cell::Cell<Option<(RunId, u64)>>,
    begin: std::time::Instant,
}

impl<'a> Shown<'a> {
    fn new(context: &'a Context, runtime: &tokio::runtime::Runtime, log: &'a BucketLog) -> Self {
        let interrupts = Arc::new(AtomicU32::new(0));
        let counted = interrupts.clone();
        runtime.spawn(async move {
            loop {
                crate::serve::terminated().await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { ui: &context.ui, log, interrupts, run: std::cell::Cell::new(None), begin: clock::instant() }
    }

    fn begin(&self, run: RunId, seq: u64) {
        self.run.set(Some((run, seq)));
        self.write(Line { event: Some("command_begin"), maand: "deploy", ..Line::default() });
    }

    fn end(&self, good: bool) {
        let duration_ms = u64::try_from(self.begin.elapsed().as_millis()).ok();
        let line = Line {
            event: Some("command_end"),
            maand: "deploy",
            exit: Some(i32::from(!good)),
            duration_ms,
            ..Line::default()
        };
        self.write(line);
    }

    fn write(&self, line: Line<'_>) {
        let (run, seq) = self.run.get().unzip();
        self.log.write(clock::now_ms(), &[Line { run, seq, ..line }]);
    }
}

impl Progress for Shown<'_> {
    fn moved(&self, job: &JobName, host: &Host, what: &Moved) {
        let (word, colour, text) = match what {
            Moved::Released(kind) => ("allocation_released", "2", format!("{kind} released")),
            Moved::Promoted(kind, ms) => ("allocation_promoted", "32", format!("{kind} ok in {ms} ms, promoted")),
            Moved::Failed => ("allocation_failed", "31", "failed".to_owned()),
            Moved::Again(kind) => ("allocation_released", "33", format!("{kind} was interrupted, released again")),
        };
        self.ui.say(format_args!("{job}@{host} | {}", self.ui.paint(colour, &text)));
        self.write(Line {
            event: Some(word),
            maand: "deploy",
            worker: Some(host),
            job: Some(job.as_str()),
            phase: Some("rollout"),
            msg: Some(&text),
            ..Line::default()
        });
    }

    fn interrupts(&self) -> u32 {
        self.interrupts.load(Ordering::Relaxed)
    }
}
