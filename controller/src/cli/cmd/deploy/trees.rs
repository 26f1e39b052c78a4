//! Edge: while a deploy or a dry run lasts, what it brings to each worker as a tree to look at:
//! `tmp/workers/HOST/jobs/JOB/`, and the worker's `worker.json` beside them (`spec/decisions.md`). Beside the deploy, and only when it lasts: nobody can
//! look into one that is over in a moment.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use shared::diagnostic::chain;
use shared::{BundleDigest, Host, JobName};

use crate::bundle::stage::{self, Content};
use crate::bundle::store::Store;
use crate::catalog::{Catalog, bundles, read};
use crate::cli::cmd::stage::worker_json;
use crate::paths::BucketDir;
use crate::plan::JobPlan;
use crate::secrets::SealingKey;

/// What ends sooner is not staged.
const PATIENCE: Duration = Duration::from_millis(500);
/// Most trees: the rest can be had with `maand stage`.
const MOST: usize = 1000;

/// What goes with the command.
#[derive(Debug)]
struct Passing {
    what: PathBuf,
    is_tree: bool,
    /// The file that says so, should the command be killed.
    mark: PathBuf,
}

/// Trees that go when this does.
#[derive(Debug)]
pub struct Trees {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Trees {
    /// Of everything that `jobs` bring.
    pub fn of<'a>(bucket: &BucketDir, database: PathBuf, jobs: impl IntoIterator<Item = &'a JobPlan>) -> Self {
        let mut wanted: Vec<(Host, JobName, BundleDigest)> = Vec::new();
        for job in jobs {
            let moves = job.batches.iter().flatten().map(|step| (&step.host, Some(step.to)));
            let drained = job.promotes.iter().map(|step| (&step.host, step.to));
            let all = moves.chain(drained).filter_map(|(host, to)| Some((host.clone(), job.job.clone(), to?)));
            wanted.extend(all.take(MOST.saturating_sub(wanted.len())));
        }
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let (told, bucket) = (over.clone(), bucket.clone());
        let work = move || {
            if !wanted.is_empty() && !waited(&told, PATIENCE) {
                // For people: a deploy does not fail of it.
                let mut made = Vec::new();
                if let Err(error) = stage_all(&bucket, &database, &wanted, &told, &mut made) {
                    tracing::warn!(error, "trees_not_staged");
                }
                waited(&told, Duration::MAX);
                for Passing { what, is_tree, mark } in &made {
                    drop(if *is_tree { stage::clear(what) } else { stage::clear_file(what) });
                    drop(stage::clear_file(mark));
                }
                drop(stage::clear_empty(&bucket.staged()));
            }
        };
        let thread = std::thread::Builder::new().name("trees".to_owned()).spawn(work).ok();
        Self { over, thread }
    }
}

impl Drop for Trees {
    fn drop(&mut self) {
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.1.notify_all();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Whether the command was over within `limit`.
fn waited(over: &(Mutex<bool>, Condvar), limit: Duration) -> bool {
    let now = over.0.lock().unwrap_or_else(PoisonError::into_inner);
    let waiting = |over: &mut bool| !*over;
    match limit {
        Duration::MAX => *over.1.wait_while(now, waiting).unwrap_or_else(PoisonError::into_inner),
        limit => *over.1.wait_timeout_while(now, limit, waiting).unwrap_or_else(PoisonError::into_inner).0,
    }
}

fn stage_all(
    bucket: &BucketDir,
    database: &std::path::Path,
    wanted: &[(Host, JobName, BundleDigest)],
    over: &(Mutex<bool>, Condvar),
    made: &mut Vec<Passing>,
) -> Result<(), String> {
    let store = Store::open(bucket).map_err(|error| chain(&error))?;
    let key = SealingKey::load(&bucket.kv_key()).map_err(|error| chain(&error))?;
    let mut catalog = Catalog::open(database).map_err(|error| chain(&error))?;
    let snapshot = catalog.read(|tx| read::snapshot(tx)).map_err(|error| chain(&error))?;
    let mut workers = BTreeSet::new();
    for (host, job, digest) in wanted {
        if *over.0.lock().unwrap_or_else(PoisonError::into_inner) {
            break;
        }
        let found = catalog.read(|tx| bundles::get(tx, digest)).map_err(|error| chain(&error))?;
        let Some(bundle) = found else { continue };
        let worker = bucket.staged().join(host.as_str());
        let jobs = worker.join("jobs");
        stage::directory(&jobs).map_err(|error| chain(&error))?;
        if workers.insert(host)
            && let Some(path) = pass(&worker, "worker.json", false, made)?
        {
            let text = worker_json(&mut catalog, &snapshot, host).map_err(|error| chain(&error))?;
            stage::beside(&path, text.as_bytes()).map_err(|error| chain(&error))?;
        }
        if let Some(dir) = pass(&jobs, job.as_str(), true, made)? {
            stage::stage(&store, &key, &dir, &bundle, Content::Linked).map_err(|error| chain(&error))?;
        }
    }
    Ok(())
}

/// Marks `name` in `dir` as what goes with this command, before it is there. `None` where it is to be left alone:
/// what maand stage wrote stays as it is; what a deploy left that was killed has its mark.
fn pass(dir: &Path, name: &str, is_tree: bool, made: &mut Vec<Passing>) -> Result<Option<PathBuf>, String> {
    let (what, mark) = (dir.join(name), dir.join(format!(".{name}.passing")));
    if stage::is_there(&what) && !stage::is_there(&mark) {
        return Ok(None);
    }
    stage::beside(&mark, b"").map_err(|error| chain(&error))?;
    made.push(Passing { what: what.clone(), is_tree, mark });
    Ok(Some(what))
}
