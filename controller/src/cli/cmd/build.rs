//! `maand build`.
#![expect(clippy::disallowed_types, reason = "edge: data/build.lock")]

use std::fs::{File, OpenOptions};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use shared::{Code, Diagnostic, RunId, WorkerId};

use crate::build::namespaces::Derived;
use crate::bundle::store::Store;
use crate::catalog::write::Written;
use crate::catalog::{Catalog, kv, read, write};
use crate::cli::Context;
use crate::cli::cmd::hooks;
use crate::cli::ui::Ui;
use crate::compose::{self, Bench, Live};
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::model::cert::renewal_due;
use crate::model::kv::{DEPLOY_ORDER, ROLLOUT_ORDER};
use crate::paths::BucketDir;
use crate::secrets::SealingKey;
use crate::tally::Tally;
use crate::telemetry::{BucketLog, Line};
use crate::tls::ca::{self, Kind};
use crate::workspace::load::Seen;
use crate::workspace::{load, parse};
use crate::{build as building, clock};

/// Check the workspace and turn it into the catalog; contacts nobody
///
/// Reports every problem at once, each with its place and what to do; the catalog is then as it was.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand build && maand deploy --dry-run   what would an edit do?\n  maand cat \
    deployments                   what differs from what runs\n\nExit code 3 when the workspace has a problem.\n\
    docs/reference/ describes every file of it."
)]
pub struct Args {
    /// Forget also the variables and secrets of jobs that are gone, or whose last allocation is
    #[arg(long)]
    purge_job_kv: bool,
}

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
    /// Templates that had to be rendered, for each of their allocations.
    rendered: usize,
    /// Certificates that were missing, changed or due, for each of their allocations.
    certificates_issued: usize,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let summary = build_and_say(&context.bucket, args.purge_job_kv, &context.ui)?;
    if context.ui.wants_json() {
        context.ui.out_json(&summary);
    }
    Ok(())
}

/// Builds `bucket`, and says what came of it.
pub fn build_bucket(bucket: &BucketDir, ui: &Ui) -> Result<Summary, Failure> {
    build_and_say(bucket, false, ui)
}

fn build_and_say(bucket: &BucketDir, purge_job_kv: bool, ui: &Ui) -> Result<Summary, Failure> {
    let mut summary = build_into(bucket, &bucket.database(), purge_job_kv, ui)?;
    if hooks::post_build(bucket, ui)? {
        // Templates may read what the hooks wrote; what nothing changed in is not made again.
        let again = build_into(bucket, &bucket.database(), purge_job_kv, &Ui::quiet())?;
        summary = Summary {
            files_read: summary.files_read + again.files_read,
            rendered: summary.rendered + again.rendered,
            certificates_issued: summary.certificates_issued + again.certificates_issued,
            ..again
        };
    }
    if !ui.wants_json() {
        ui.say(format_args!(
            "built {} on {}: {}, {} to deploy",
            counted(summary.jobs, "job"),
            counted(summary.workers, "worker"),
            counted(summary.allocations, "allocation"),
            summary.pending
        ));
    }
    Ok(summary)
}

/// `1 job`, `2 jobs`.
fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Builds the workspace of `bucket` into the catalog at `database`.
pub fn build_into(
    bucket: &BucketDir,
    database: &std::path::Path,
    purge_job_kv: bool,
    ui: &Ui,
) -> Result<Summary, Failure> {
    let tally = Tally::default();
    ui.watched(&tally, || build_counted(bucket, database, purge_job_kv, ui, &tally))
}

fn build_counted(
    bucket: &BucketDir,
    database: &std::path::Path,
    purge_job_kv: bool,
    ui: &Ui,
    tally: &Tally,
) -> Result<Summary, Failure> {
    tally.begin("reading the workspace", 0);
    let mut catalog = Catalog::open(database)?;
    let settings = Settings::load(bucket)?;
    settings.warnings.iter().for_each(|warning| ui.warn(warning));
    let _lock = lock(bucket)?;
    let now_ms = clock::now_ms();
    let ca = authority(bucket, &settings, now_ms, ui)?;
    let store = Store::open(bucket).map_err(|error| storage(&error))?;
    store.sweep(now_ms).map_err(|error| storage(&error))?;
    let (before, stored, known) =
        catalog.read(|tx| Ok((read::snapshot(tx)?, kv::of_hooks(tx)?, read::files_seen(tx)?)))?;
    let mut seen = Seen { known, tally: tally.clone(), ..Seen::default() };

    let (raw, mut problems) = load::load(bucket, &store, &settings.job_config_selector, &mut seen, now_ms);
    let workspace = parse::parse(&raw);
    let mut ids = std::iter::repeat_with(|| WorkerId::from_uuid(clock::random_uuid()));
    let (mut built, found) = building::build(&workspace, &before, &mut ids);
    problems.extend(found);
    if !problems.is_empty() {
        problems.extend(compose::check_templates(&store, &built.jobs)?);
        building::in_file_order(&mut problems);
        return Err(Failure { exit: Exit::Input, problems });
    }

    let derived =
        Arc::new(Derived::new(built.bucket_id, &ca.0, &workspace, &built.workers, &built.jobs, &built.allocations));
    let key = Arc::new(SealingKey::load(&bucket.kv_key()).map_err(compose::Held::from)?);
    let live = Arc::new(Live::new(derived.clone(), stored, key.clone()));
    let bench = Bench { bucket, settings: &settings, store: &store, ca: (&ca.0, ca.1), now_ms, tally: tally.clone() };
    let composed = compose::compose(&bench, &mut catalog, &mut built, &derived, live, &key)?;
    composed.notes.iter().for_each(|note| ui.warn(note));
    let key = composed.older_key.then_some((&DEPLOY_ORDER, &ROLLOUT_ORDER));
    let words: Vec<String> =
        workspace.older.iter().chain(key).map(|(old, new)| format!("{old} is now {new}")).collect();
    if !words.is_empty() {
        ui.warn(format_args!("older words still work, for now: {}", words.join(", ")));
    }

    let run = RunId::from_uuid(clock::run_uuid());
    let written = Written {
        build: &built,
        before: &before,
        derived: &derived,
        composed: &composed,
        seen: &seen,
        purge_job_kv,
        now_ms,
        run,
    };
    tally.begin("writing the catalog", 0);
    catalog.write(|tx| write::build(tx, &written))?;
    let summary = Summary {
        workers: built.workers.len(),
        jobs: built.jobs.len(),
        allocations: built.allocations.iter().filter(|a| !a.removed).count(),
        pending: built.allocations.iter().filter(|a| a.is_active() && a.differs()).count(),
        files_read: seen.read,
        rendered: composed.rendered,
        certificates_issued: composed.certificates.iter().map(|changes| changes.issued.len()).sum(),
    };
    let msg = format!("{} allocations, {} to deploy", summary.allocations, summary.pending);
    let line =
        Line { event: Some("catalog_built"), run: Some(run), maand: "build", msg: Some(&msg), ..Line::default() };
    BucketLog::new(bucket, settings.logs).write(now_ms, &[line]);
    Ok(summary)
}

/// The certificate of the jobs' authority, and its end; looked at before anything else, because what it
/// signs is worth nothing once it has ended.
fn authority(bucket: &BucketDir, settings: &Settings, now_ms: i64, ui: &Ui) -> Result<(String, i64), Failure> {
    let (pem, not_after_ms) = ca::certificate(Kind::Jobs, bucket)?;
    let end = crate::cli::table::time(not_after_ms);
    if now_ms >= not_after_ms {
        let message = format!("the bucket's certificate authority has ended ({end})");
        let problem = Diagnostic::new(Code::CertificateAuthority, message).at("secrets/ca.crt");
        return Err(Failure::new(
            Exit::Input,
            problem.remedy(
                "move secrets/ca.crt and secrets/ca.key away, run maand init for new ones, then build and deploy",
            ),
        ));
    }
    if renewal_due(not_after_ms, now_ms, settings.certs_renewal_days) {
        ui.warn(format_args!("the bucket's certificate authority ends soon ({end}): see docs/reference/certs.md"));
    }
    Ok((pem, not_after_ms))
}

/// One build at a time: two would overwrite each other's workers and ports. Whoever counts what the catalog
/// refers to holds it too.
pub fn lock(bucket: &BucketDir) -> Result<File, Failure> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(bucket.build_lock());
    let file = file.map_err(|error| storage(&error))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let problem = Diagnostic::new(Code::Busy, "another maand build, gc or backup of this bucket runs");
        return Err(Failure::new(Exit::Failed, problem.remedy("wait for it to end")));
    }
    Ok(file)
}

fn storage(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, Diagnostic::new(Code::Storage, "the bucket's files cannot be used").cause(error))
}
