//! `maand gc`.

mod shown;

use std::collections::{BTreeMap, BTreeSet};

use shared::{AllocId, Code, Diagnostic, RunId, WorkerId};

use crate::catalog::{Catalog, bundles, gc as rows, kv, rollout};
use crate::cli::Context;
use crate::cli::cmd::build;
use crate::cli::cmd::recover::refuse_regressed;
use crate::cli::meanwhile::Meanwhile;
use crate::clock;
use crate::config::Settings;
use crate::drive::survey::Survey;
use crate::failure::{Exit, Failure};
use crate::gc::plan::{Fate, Leftover, Plan, plan};
use crate::gc::run::{self, Answer, Garbage};
use crate::plan::Options;
use crate::rollout::Effect;
use crate::serve::ServeLock;
use crate::tally::Tally;
use crate::telemetry::{BucketLog, Line};
use shown::{Shown, announce, print, problems, shown, shown_after};

/// Take away what is no longer wanted: removed allocations with their data, old content, old history
///
/// For each allocation that the workspace no longer has, its agent removes the whole job directory, data/ and
/// logs/ included; then its rows and key-values go, and with the last allocation of a job its variables and
/// secrets. Nothing that may still run is touched: maand deploy stops it first. Old versions of key-values,
/// content that nothing refers to, old packs and old logs of runs go too.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand gc --dry-run            what would go, what would stay, and why\n  maand gc                      \
    all of it\n  maand gc --retain-days 14     leave what was removed within the last two weeks\n\nThe usual order after \
    taking a job or worker out of the workspace:\n  maand build && maand deploy && maand gc\n\nDays count from the \
    build that found an allocation no longer wanted. A crash, or an agent that is away, loses nothing: run it again. \
    Exit code 1 when something was left that should have gone."
)]
pub struct Args {
    /// Leave what was removed, and key-values that were written, less than so many days ago
    #[arg(long, value_name = "DAYS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=3650))]
    retain_days: u32,
    /// Print what would be done; change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let settings = Settings::load(&context.bucket)?;
    let mut catalog = context.catalog()?;
    let runtime = context.runtime()?;
    let was_served = ServeLock::is_held(&context.bucket);
    let now_ms = clock::now_ms();
    let mut survey = Survey::take(&mut catalog, &Options::default(), was_served, now_ms)?;
    // A stop that came after its rollout had ended counts all the same.
    let late: BTreeSet<AllocId> = survey
        .late
        .iter()
        .filter_map(|effect| match effect {
            Effect::Stopped { alloc_id } | Effect::Removed { alloc_id } => Some(*alloc_id),
            _ => None,
        })
        .collect();
    let mut known = catalog.read(|tx| rows::known(tx, &survey.online, &survey.joined))?;
    for leftover in known.leftovers.iter_mut().filter(|l| late.contains(&l.alloc_id)) {
        leftover.may_run = false;
    }
    let plan = plan(&known, args.retain_days, now_ms);
    let shown: Vec<Shown<'_>> = plan.allocations.iter().map(|(leftover, fate)| shown(leftover, *fate)).collect();
    if !args.dry_run {
        refuse_regressed(context, &mut catalog)?;
    }
    if args.dry_run {
        let garbage = look(context, &mut catalog, args.retain_days, now_ms)?;
        print(context, &plan, &shown, &garbage, true);
        return Ok(());
    }
    if !context.ui.wants_json() {
        announce(context, &plan, &shown);
    }
    survey.settle(&mut catalog, RunId::from_uuid(clock::run_uuid()), now_ms)?;
    let log = BucketLog::new(&context.bucket, settings.logs);
    let answers = ask(context, &settings, &runtime, &mut catalog, &plan, &log)?;
    let (forgotten, jobs, workers) = forget(&mut catalog, &plan, &answers)?;
    let purged = catalog.write(|tx| {
        // Tombstones of this very run stay until the next one.
        Ok((kv::purge(tx, plan.before_ms)?, bundles::forget_unreferenced(tx)?))
    })?;
    let garbage = {
        let _lock = build::lock(&context.bucket)?;
        let garbage = look(context, &mut catalog, args.retain_days, clock::now_ms())?;
        let tally = Tally::default();
        context.ui.watched(&tally, || run::sweep(&garbage.files, &tally)).map_err(|error| storage(&error))?;
        garbage
    };
    let garbage = Found { key_values: purged.0, bundles: purged.1, ..garbage };
    let problems = problems(&plan, &answers);
    let went: BTreeSet<AllocId> = forgotten.iter().map(|l| l.alloc_id).collect();
    let ended: Vec<Shown<'_>> = plan
        .allocations
        .iter()
        .map(|(leftover, fate)| {
            if went.contains(&leftover.alloc_id) {
                let why = "its rows are gone".to_owned();
                return Shown { leftover, action: "gone", why };
            }
            shown_after(leftover, *fate, answers.get(&leftover.alloc_id))
        })
        .collect();
    let done = Plan { jobs, workers, ..plan.clone() };
    let msg = format!("{} allocations, {} bytes", went.len(), garbage.files.bytes());
    log.write(clock::now_ms(), &[Line { event: Some("gc_ended"), maand: "gc", msg: Some(&msg), ..Line::default() }]);
    print(context, &done, &ended, &garbage, false);
    if problems.is_empty() { Ok(()) } else { Err(Failure { exit: Exit::Failed, problems }) }
}

fn storage(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, Diagnostic::new(Code::Storage, "the bucket's files cannot be swept").cause(error))
}

/// What was found in the bucket's directories and rows.
#[derive(Debug, Default)]
struct Found {
    files: Garbage,
    bundles: usize,
    key_values: usize,
    /// A rollout is open, so all content stays.
    held: bool,
}

fn look(context: &Context, catalog: &mut Catalog, retain_days: u32, now_ms: i64) -> Result<Found, Failure> {
    let (used, unused, runs, open) = catalog.read(|tx| {
        let (used, unused) = rows::blobs_in_use(tx)?;
        Ok((used, unused, rows::runs(tx)?, rollout::open(tx)?.is_some()))
    })?;
    let used = (!open).then_some(&used);
    let files = run::survey(&context.bucket, used, &runs, retain_days, now_ms).map_err(|error| storage(&error))?;
    Ok(Found { files, bundles: unused, key_values: 0, held: open })
}

/// Asks agents, and waits for those that are there.
fn ask(
    context: &Context,
    settings: &Settings,
    runtime: &tokio::runtime::Runtime,
    catalog: &mut Catalog,
    plan: &Plan,
    log: &BucketLog,
) -> Result<BTreeMap<AllocId, Answer>, Failure> {
    let mut asked: BTreeMap<WorkerId, Vec<AllocId>> = BTreeMap::new();
    let mut waited = BTreeSet::new();
    for (leftover, fate) in &plan.allocations {
        if matches!(fate, Fate::Purge | Fate::Waits) {
            asked.entry(leftover.worker_id).or_default().push(leftover.alloc_id);
        }
        if *fate == Fate::Purge {
            waited.insert(leftover.worker_id);
        }
    }
    if asked.is_empty() {
        return Ok(BTreeMap::new());
    }
    let meanwhile = if waited.is_empty() { None } else { Some(Meanwhile::serve(context, settings, runtime)?) };
    let pickup_ms = i64::try_from(settings.pickup_timeout_s.saturating_mul(1000)).unwrap_or(i64::MAX);
    let tally = Tally::default();
    tally.begin("waiting for agents", plan.allocations.iter().filter(|(_, fate)| *fate == Fate::Purge).count());
    let said = |alloc: AllocId| {
        tally.add(1);
        if let Some((leftover, _)) = plan.allocations.iter().find(|(l, _)| l.alloc_id == alloc) {
            let (job, host) = (&leftover.job, &leftover.host);
            context.ui.say(format_args!("{job}@{host} | {}", context.ui.paint("32", "purged")));
            log.write(
                clock::now_ms(),
                &[Line {
                    event: Some("allocation_purged"),
                    maand: "gc",
                    worker: Some(host),
                    job: Some(job.as_str()),
                    phase: Some("gc"),
                    action: Some("cleanup_job_tree"),
                    ..Line::default()
                }],
            );
        }
    };
    let answers = context.ui.watched(&tally, || run::purge(&context.bucket, catalog, &asked, &waited, pickup_ms, said));
    if let Some(meanwhile) = meanwhile {
        meanwhile.end();
    }
    Ok(answers?)
}

type Forgotten = (Vec<Leftover>, BTreeSet<shared::JobName>, BTreeMap<WorkerId, shared::Host>);

/// Forgets what is gone, in one transaction.
fn forget(catalog: &mut Catalog, plan: &Plan, answers: &BTreeMap<AllocId, Answer>) -> Result<Forgotten, Failure> {
    let gone: Vec<AllocId> = plan
        .allocations
        .iter()
        .filter(|(l, fate)| match fate {
            Fate::Forget => true,
            Fate::Purge => answers.get(&l.alloc_id) == Some(&Answer::Purged),
            _ => false,
        })
        .map(|(l, _)| l.alloc_id)
        .collect();
    let now_ms = clock::now_ms();
    Ok(catalog.write(|tx| {
        let forgotten = rows::forget(tx, &gone, false, now_ms)?;
        // Not a job of which something stays after all.
        let stay = |job: &shared::JobName| {
            let went = |l: &Leftover| forgotten.iter().any(|gone| gone.alloc_id == l.alloc_id);
            plan.allocations.iter().any(|(l, _)| l.job == *job && !went(l))
        };
        let jobs: BTreeSet<_> = plan.jobs.iter().filter(|job| !stay(job)).cloned().collect();
        for job in &jobs {
            rows::forget_job(tx, job, now_ms)?;
        }
        let mut workers = BTreeMap::new();
        for (id, host) in &plan.workers {
            if rows::end_worker(tx, *id, now_ms)? {
                workers.insert(*id, host.clone());
            }
        }
        Ok((forgotten, jobs, workers))
    })?)
}
