//! Edge: how hooks have things done on workers: as operations, which their agents take up.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shared::api::v1::logs::Stream;
use shared::api::v1::operation::{Ended, Work as Asked};
use shared::diagnostic::chain;

use super::operations::{self, End, Request, Sink};
use crate::catalog::{Catalog, read};
use crate::hooks::api::{Answering, Done, NotDone, Order, Work, Workers};
use crate::paths::BucketDir;

/// Longest output that a hook is given, bytes of each stream.
const OUTPUT_CAP: usize = 1 << 20;

/// Asks agents.
#[derive(Debug)]
pub struct ByAgents {
    bucket: BucketDir,
    database: PathBuf,
    pickup_s: u64,
}

impl ByAgents {
    /// Waits `pickup_s` seconds for an agent to take something up.
    pub fn new(bucket: &BucketDir, database: PathBuf, pickup_s: u64) -> Self {
        Self { bucket: bucket.clone(), database, pickup_s }
    }
}

impl Workers for ByAgents {
    fn run(&self, order: Order) -> Answering<'_> {
        let (bucket, database, pickup_s) = (self.bucket.clone(), self.database.clone(), self.pickup_s);
        let gone = Arc::new(AtomicU32::new(0));
        let guard = Gone(gone.clone());
        Box::pin(async move {
            let _guard = guard;
            let done = tokio::task::spawn_blocking(move || perform(&bucket, &database, pickup_s, &order, gone));
            done.await.unwrap_or_else(|_| Err(NotDone::Unavailable("the thread that asked ended early".to_owned())))
        })
    }
}

/// Whoever asked does not wait any more: what was not begun is taken back.
struct Gone(Arc<AtomicU32>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(1, Ordering::Relaxed);
    }
}

/// What was printed, up to the cap.
struct Collected {
    streams: [String; 2],
    gone: Arc<AtomicU32>,
}

impl Sink for Collected {
    fn line(&mut self, _: &operations::Asked, stream: Stream, line: &str) {
        let text = &mut self.streams[usize::from(stream == Stream::Stderr)];
        if text.len() + line.len() < OUTPUT_CAP {
            text.push_str(line);
            text.push('\n');
        }
    }

    fn ended(&mut self, _: &operations::Asked, _: &End) {}

    fn interrupts(&self) -> u32 {
        self.gone.load(Ordering::Relaxed)
    }
}

fn perform(
    bucket: &BucketDir,
    database: &std::path::Path,
    pickup_s: u64,
    order: &Order,
    gone: Arc<AtomicU32>,
) -> Result<Done, NotDone> {
    let held = |error: crate::catalog::Error| NotDone::Unavailable(chain(&error));
    let mut catalog = Catalog::open(database).map_err(held)?;
    let snapshot = catalog.read(|tx| read::snapshot(tx)).map_err(held)?;
    let Some(worker) = snapshot.workers.iter().find(|worker| worker.worker_id == order.worker_id) else {
        return Err(NotDone::Refused(format!("{} is in workers.json no more", order.host)));
    };
    let alloc = snapshot.allocations_of(&order.job).find(|a| a.worker_id == order.worker_id).map(|a| a.alloc_id);
    let work = match (&order.work, alloc) {
        (Work::Make { target }, Some(alloc_id)) => {
            Asked::Make { alloc_id, job: order.job.clone(), target: target.clone(), env: Default::default() }
        }
        (Work::Script { script }, _) => Asked::Script { body: in_job(&order.job, script) },
        (Work::Make { .. }, None) => {
            return Err(NotDone::Refused(format!("job {} has no allocation on {}", order.job, order.host)));
        }
    };
    let request =
        Request { worker: worker.clone(), work, timeout_s: order.timeout.as_secs().max(1), precondition: None };
    let asked = operations::queue(&mut catalog, bucket, order.run, vec![request], pickup_s).map_err(held)?;
    let asked = asked.map_err(|host| NotDone::Refused(format!("{host} has as much to do as it may have")))?;
    let mut sink = Collected { streams: [String::new(), String::new()], gone };
    let ends = operations::follow(&mut catalog, bucket, &asked, &mut sink).map_err(held)?;
    let [stdout, stderr] = sink.streams;
    let done = |exit, timed_out| Ok(Done { exit, stdout, stderr, timed_out });
    match ends.into_iter().next() {
        Some(End::Said(said)) => match said.outcome {
            Some(Ended::Ok) => done(Some(0), false),
            Some(Ended::Failed { exit }) => done(Some(exit), false),
            Some(Ended::TimedOut) => done(None, true),
            Some(Ended::Refused { reason }) => Err(NotDone::Refused(reason)),
            Some(Ended::Expired) => Err(NotDone::Offline(format!("the agent of {} took it up too late", order.host))),
            _ => done(None, false),
        },
        Some(End::NotPickedUp) => {
            Err(NotDone::Offline(format!("the agent of {} did not take it up within {pickup_s} s", order.host)))
        }
        Some(End::NoResult) => Err(NotDone::Offline(format!("the agent of {} said nothing more", order.host))),
        Some(End::Left) | None => Err(NotDone::Unavailable("nobody waited for it any more".to_owned())),
    }
}

/// A script of a hook begins in the job's directory, like the job's own targets.
fn in_job(job: &shared::JobName, script: &str) -> String {
    format!("cd jobs/{job} || exit 1\n{script}")
}
