//! Edge: while a deploy or a dry run lasts, what it brings to each worker as a tree to look at:
//! `tmp/workers/HOST/jobs/JOB/` (`spec/decisions.md`). Beside the deploy, and only when it lasts: nobody can
//! look into one that is over in a moment.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use shared::diagnostic::chain;
use shared::{BundleDigest, Host, JobName};

use crate::bundle::stage::{self, Content};
use crate::bundle::store::Store;
use crate::catalog::{Catalog, bundles};
use crate::paths::BucketDir;
use crate::plan::JobPlan;
use crate::secrets::SealingKey;

/// What ends sooner is not staged.
const PATIENCE: Duration = Duration::from_millis(500);
/// Most trees: the rest can be had with `maand stage`.
const MOST: usize = 1000;

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
                for (dir, mark) in &made {
                    drop(stage::clear(dir));
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
    made: &mut Vec<(PathBuf, PathBuf)>,
) -> Result<(), String> {
    let store = Store::open(bucket).map_err(|error| chain(&error))?;
    let key = SealingKey::load(&bucket.kv_key()).map_err(|error| chain(&error))?;
    let mut catalog = Catalog::open(database).map_err(|error| chain(&error))?;
    for (host, job, digest) in wanted {
        if *over.0.lock().unwrap_or_else(PoisonError::into_inner) {
            break;
        }
        let found = catalog.read(|tx| bundles::get(tx, digest)).map_err(|error| chain(&error))?;
        let Some(bundle) = found else { continue };
        let jobs = bucket.staged().join(host.as_str()).join("jobs");
        let (dir, mark) = (jobs.join(job.as_str()), jobs.join(format!(".{job}.passing")));
        // What maand stage wrote stays as it is; what a deploy left that was killed has its mark.
        if stage::is_there(&dir) && !stage::is_there(&mark) {
            continue;
        }
        stage::directory(&jobs).map_err(|error| chain(&error))?;
        stage::beside(&mark, b"").map_err(|error| chain(&error))?;
        made.push((dir.clone(), mark));
        stage::stage(&store, &key, &dir, &bundle, Content::Linked).map_err(|error| chain(&error))?;
    }
    Ok(())
}
