//! `maand stage`.

use std::collections::BTreeSet;

use serde_json::json;
use shared::{Code, Diagnostic, Host};

use crate::bundle::stage::{self, Content, Error};
use crate::bundle::store::Store;
use crate::catalog::{self, Catalog, bundles, desired, read};
use crate::cli::Context;
use crate::cli::filter::{self, Filter};
use crate::compose::Held;
use crate::failure::{Exit, Failure};
use crate::model::{Allocation, Snapshot};
use crate::secrets::SealingKey;
use crate::tally::Tally;

/// Write what workers would get as plain files, to look at
///
/// Makes tmp/workers/HOST/jobs/JOB/ for every allocation that is wanted, rendered files and certificates
/// included, and tmp/workers/HOST/worker.json beside it. It is what the last build made, and the next deploy
/// brings. Nothing is sent, and editing it changes nothing. Private files are 0600, directories 0700; it stays
/// until the next maand stage.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  maand build && maand stage\n  maand stage --jobs api --workers 10.0.0.1\n  diff -r \
    tmp/workers/10.0.0.1/jobs/api tmp/workers/10.0.0.2/jobs/api\n\nRendered secrets and keys are in there as they are: remove \
    tmp/workers when you are done."
)]
pub struct Args {
    /// Only these jobs
    #[arg(long, value_delimiter = ',', value_name = "JOB,…", value_parser = filter::name)]
    jobs: Vec<String>,
    /// Only these workers
    #[arg(long, value_delimiter = ',', value_name = "HOST,…", value_parser = filter::name)]
    workers: Vec<String>,
}

/// Runs it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let mut catalog = context.catalog()?;
    let snapshot = catalog.read(|tx| read::snapshot(tx))?;
    if snapshot.built_at_ms.is_none() {
        let problem = Diagnostic::new(Code::NotBuilt, "this bucket has not been built");
        return Err(Failure::new(Exit::Input, problem.remedy("run maand build")));
    }
    let filter = Filter::new(&snapshot, &args.jobs, &args.workers)?;
    let store = Store::open(&context.bucket).map_err(Held::from)?;
    let key = SealingKey::load(&context.bucket.kv_key()).map_err(Held::from)?;
    let all = context.bucket.staged();
    // Without a filter nothing stays that is not wanted any more.
    if args.jobs.is_empty() && args.workers.is_empty() {
        stage::clear(&all).map_err(problem)?;
    }
    let tally = Tally::default();
    let (hosts, trees, bytes) =
        context.ui.watched(&tally, || write(&mut catalog, &snapshot, &filter, (&store, &key), &all, &tally))?;
    if trees == 0 {
        let problem = Diagnostic::new(Code::NothingToShow, "there is no allocation to stage");
        return Err(Failure::new(Exit::Failed, problem.remedy("compare maand cat jobs with maand cat workers")));
    }
    let shown = context.bucket.shown(&all).to_string();
    if context.ui.wants_json() {
        context.ui.out_json(&json!({ "directory": shown, "workers": hosts, "allocations": trees, "bytes": bytes }));
        return Ok(());
    }
    context.ui.out(format_args!("{shown}: {trees} allocations of {} workers, {} KiB", hosts, bytes.div_ceil(1024)));
    Ok(())
}

/// Writes the trees of what is wanted: of how many workers, how many, how many bytes.
fn write(
    catalog: &mut Catalog,
    snapshot: &Snapshot,
    filter: &Filter,
    (store, key): (&Store, &SealingKey),
    all: &std::path::Path,
    tally: &Tally,
) -> Result<(usize, usize, u64), Failure> {
    let wanted = |a: &&Allocation| !a.removed && filter.job(&a.job) && filter.worker(&a.host);
    tally.begin("staging", snapshot.allocations.iter().filter(wanted).count());
    let (mut hosts, mut trees, mut bytes): (BTreeSet<&Host>, usize, u64) = (BTreeSet::new(), 0, 0);
    for allocation in snapshot.allocations.iter().filter(wanted) {
        tally.add(1);
        let Some(digest) = allocation.bundle else { continue };
        let Some(bundle) = catalog.read(|tx| bundles::get(tx, &digest))? else {
            let problem = Diagnostic::new(Code::Storage, format!("the catalog has no list of bundle {digest}"));
            return Err(Failure::new(Exit::Failed, problem.remedy("run maand build")));
        };
        let dir = all.join(allocation.host.as_str());
        if hosts.insert(&allocation.host) {
            stage::directory(&dir).map_err(problem)?;
            let worker = worker_json(catalog, snapshot, &allocation.host)?;
            stage::beside(&dir.join("worker.json"), worker.as_bytes()).map_err(problem)?;
        }
        bytes += stage::stage(store, key, &dir.join("jobs").join(allocation.job.as_str()), &bundle, Content::Copied)
            .map_err(problem)?;
        trees += 1;
    }
    Ok((hosts.len(), trees, bytes))
}

/// What a worker's worker.json would say.
pub fn worker_json(catalog: &mut Catalog, snapshot: &Snapshot, host: &Host) -> catalog::Result<String> {
    let worker = snapshot.worker(host);
    let told = match worker {
        Some(worker) => catalog.read(|tx| desired::state(tx, worker.worker_id))?,
        None => None,
    };
    let worker = json!({ "bucket_id": snapshot.bucket_id, "worker_id": worker.map(|worker| worker.worker_id),
        "worker_ip": host, "labels": worker.map(|worker| &worker.labels), "update_seq": snapshot.update_seq,
        "epoch": snapshot.epoch, "generation": told.map(|told| told.fence.generation) });
    let text = serde_json::to_string_pretty(&worker).unwrap_or_default();
    Ok(format!("{text}\n"))
}

fn problem(error: Error) -> Failure {
    match error {
        Error::Store(error) => Held::from(error).into(),
        Error::Io { .. } => {
            Failure::new(Exit::Failed, Diagnostic::new(Code::Storage, "the trees cannot be written").cause(&error))
        }
    }
}
