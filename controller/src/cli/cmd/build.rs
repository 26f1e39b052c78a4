//! `maand build`.
#![expect(clippy::disallowed_types, reason = "edge: data/build.lock")]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use shared::diagnostic::chain;
use shared::{Bundle, BundleDigest, Code, Diagnostic, RunId, WorkerId};

use crate::build::Build;
use crate::bundle::store::Store;
use crate::catalog::{Catalog, kv, read, write};
use crate::cli::Context;
use crate::cli::ui::Ui;
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::model::{FileKind, Job};
use crate::paths::BucketDir;
use crate::render::{self, Context as Scope, Templates, template::Source};
use crate::telemetry::{BucketLog, Line};
use crate::workspace::load::Seen;
use crate::workspace::{load, parse};
use crate::{build as building, clock};

/// Longest template, bytes.
const TEMPLATE_CAP: u64 = 4 << 20;

/// Check the workspace and turn it into the catalog; contacts nobody
///
/// Reports every problem at once, each with its place and what to do; the catalog is then as it was.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand build && maand deploy --dry-run   what would an edit do?\n  maand cat \
    deployments                  what differs from what runs, right after a build"
)]
pub struct Args {}

/// What a build came to.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Summary {
    workers: usize,
    jobs: usize,
    allocations: usize,
    /// Whose content or version differs from what was promoted.
    pending: usize,
    /// Workspace files that had to be read.
    files_read: usize,
}

/// Runs it.
pub fn run(_: Args, context: &Context) -> Result<(), Failure> {
    let summary = build_bucket(&context.bucket, &context.ui)?;
    if context.ui.wants_json() {
        context.ui.out_json(&summary);
    }
    Ok(())
}

/// Builds `bucket`, and says what came of it.
pub fn build_bucket(bucket: &BucketDir, ui: &Ui) -> Result<Summary, Failure> {
    let summary = build_into(bucket, &bucket.database(), ui)?;
    if !ui.wants_json() {
        ui.say(format_args!(
            "built {} jobs on {} workers: {} allocations, {} to deploy",
            summary.jobs, summary.workers, summary.allocations, summary.pending
        ));
    }
    Ok(summary)
}

/// Builds the workspace of `bucket` into the catalog at `database`.
pub fn build_into(bucket: &BucketDir, database: &std::path::Path, ui: &Ui) -> Result<Summary, Failure> {
    let mut catalog = Catalog::open(database)?;
    let settings = Settings::load(bucket)?;
    settings.warnings.iter().for_each(|warning| ui.warn(warning));
    let _lock = lock(bucket)?;
    let store = Store::open(bucket).map_err(|error| storage(&error))?;
    let (before, values, known) = catalog.read(|tx| Ok((read::snapshot(tx)?, kv::live(tx)?, read::files_seen(tx)?)))?;
    let mut seen = Seen { known, ..Seen::default() };
    let now_ms = clock::now_ms();
    let input = |problems| Failure { exit: Exit::Input, problems };
    let raw = load::load(bucket, &store, &mut seen, now_ms).map_err(input)?;
    let workspace = parse::parse(&raw).map_err(input)?;
    let mut ids = std::iter::repeat_with(|| WorkerId::from_uuid(clock::random_uuid()));
    let mut built = building::build(&workspace, &before, &values, &mut ids).map_err(input)?;
    let lists = render_all(&store, &mut built)?;

    let run = RunId::from_uuid(clock::run_uuid());
    catalog.write(|tx| write::build(tx, &built, &lists, &values, &seen, now_ms, run))?;
    let summary = Summary {
        workers: built.workers.len(),
        jobs: built.jobs.len(),
        allocations: built.allocations.iter().filter(|a| !a.removed).count(),
        pending: built.allocations.iter().filter(|a| a.is_active() && a.differs()).count(),
        files_read: seen.read,
    };
    let msg = format!("{} allocations, {} to deploy", summary.allocations, summary.pending);
    let line =
        Line { event: Some("catalog_built"), run: Some(run), maand: "build", msg: Some(&msg), ..Line::default() };
    BucketLog::new(bucket, settings.log_json).write(now_ms, &[line]);
    Ok(summary)
}

/// Renders every allocation and sets its bundle; the lists, each once.
fn render_all(store: &Store, built: &mut Build) -> Result<Vec<Bundle>, Failure> {
    let mut problems = Vec::new();
    let mut lists: BTreeMap<BundleDigest, Bundle> = BTreeMap::new();
    let values = Arc::new(built.values.clone());
    let workers: BTreeMap<WorkerId, _> =
        built.workers.iter().map(|worker| (worker.worker_id, worker.clone())).collect();
    for job in &built.jobs {
        let templates = match sources(store, job).and_then(|sources| Templates::compile(&job.name, sources)) {
            Ok(templates) => templates,
            Err(found) => {
                problems.extend(found);
                continue;
            }
        };
        for allocation in built.allocations.iter_mut().filter(|a| a.job == job.name && !a.removed) {
            let Some(worker) = workers.get(&allocation.worker_id) else { continue };
            let scope = Scope { bucket: built.bucket_id, allocation, worker, values: &values };
            let rendered = match render::render(&templates, &scope) {
                Ok(rendered) => rendered,
                Err(found) => {
                    problems.extend(found);
                    // The same mistake on a thousand workers is one mistake.
                    break;
                }
            };
            for file in &rendered {
                store.put(&file.content).map_err(|error| storage(&error))?;
            }
            match render::bundle(job, &rendered) {
                Ok(bundle) => {
                    let digest = bundle.digest();
                    lists.entry(digest).or_insert(bundle);
                    allocation.bundle = Some(digest);
                }
                Err(error) => {
                    let problem = Diagnostic::new(Code::PathConflict, error.to_string());
                    problems.push(problem.at(format!("workspace/jobs/{}", job.name)));
                    break;
                }
            }
        }
    }
    if problems.is_empty() { Ok(lists.into_values().collect()) } else { Err(Failure { exit: Exit::Input, problems }) }
}

fn sources(store: &Store, job: &Job) -> Result<Vec<Source>, Vec<Diagnostic>> {
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    for file in job.files.iter().filter(|file| file.kind == FileKind::Template) {
        let place = format!("workspace/jobs/{}/{}", job.name, file.path);
        let text = store.read(&file.blob, TEMPLATE_CAP).map_err(|error| chain(&error));
        match text.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is no UTF-8".to_owned())) {
            Ok(text) => sources.push(Source { path: file.path.clone(), mode: file.mode, text }),
            Err(why) => {
                problems.push(
                    Diagnostic::new(Code::TemplateSyntax, format!("this template cannot be read: {why}")).at(place),
                );
            }
        }
    }
    if problems.is_empty() { Ok(sources) } else { Err(problems) }
}

/// One build at a time: two would overwrite each other's workers and ports.
fn lock(bucket: &BucketDir) -> Result<File, Failure> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(bucket.build_lock());
    let file = file.map_err(|error| storage(&error))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let problem = Diagnostic::new(Code::Busy, "another maand build of this bucket runs");
        return Err(Failure::new(Exit::Failed, problem.remedy("wait for it to end")));
    }
    Ok(file)
}

fn storage(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, Diagnostic::new(Code::Storage, "the bucket's files cannot be used").cause(error))
}
