//! Edge: carries out what `reconcile::next` says, a thread for each allocation that has work. Fetching
//! and putting files in place is done one allocation at a time; make targets of several jobs may run
//! side by side.
#![expect(clippy::disallowed_methods, reason = "edge: removes a job's files")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use shared::action::{ENV_CURRENT_VERSION, ENV_NEW_VERSION};
use shared::api::v1::desired::{DesiredAction, DesiredAllocation, DesiredState, RunState};
use shared::api::v1::logs::Source;
use shared::api::v1::report::{ObservedAction, Outcome, Phase, Process};
use shared::backoff::Backoff;
use shared::diagnostic::chain;
use shared::{ActionKind, AllocId, Bundle, BundleDigest, JobName};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::apply::activate;
use crate::apply::plan::{Change, holds_private, plan};
use crate::apply::survey::{mounted, survey};
use crate::apply::tree::Tree;
use crate::client::Client;
use crate::health::probe::Prober;
use crate::logs::Shipping;
use crate::operations::Operations;
use crate::reconcile::{Place, Row, Running, Step, next};
use crate::report::Transient;
use crate::state::layout::Layout;
use crate::state::ledger::Ledger;
use crate::{alone, clock, failpoint, fetch, logs, run};

const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(15));
/// Runs whose output is kept on the worker.
const KEPT_RUNS: usize = 50;

/// What every thread shares.
#[derive(Debug)]
pub struct Workshop {
    /// The ledger.
    pub ledger: Arc<Ledger>,
    /// Paths.
    pub layout: Layout,
    /// The controller.
    pub client: Client,
    /// The network's runtime, for threads that are not part of it.
    pub net: Handle,
    /// What reports say beyond the ledger.
    pub transient: Arc<Transient>,
    /// What health checks depend on has moved: what is wanted, or what runs.
    pub stirred: Notify,
    /// Ad-hoc work.
    pub operations: Operations,
    /// What health checks are asked with.
    pub prober: Arc<Prober>,
    desired: Mutex<Arc<DesiredState>>,
    busy: Mutex<HashSet<AllocId>>,
    /// Fetching and activating, one at a time.
    turn: Mutex<()>,
    /// Output did not get through: it is sent when a report does.
    unsent: AtomicBool,
    /// What is done beside all of that, one at a time: late output, early downloads.
    sending: Mutex<()>,
    /// Bundles that were downloaded early: their content stays in the store.
    early: Mutex<BTreeMap<BundleDigest, Bundle>>,
    /// A newer desired state cuts a pause short.
    moved: (Mutex<u64>, Condvar),
}

/// Locks; who panicked with it changes nothing.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a step did not get through; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Held {
    #[error("{0}")]
    Fetch(String),
    #[error("{0}")]
    Apply(String),
    #[error("{0}")]
    Ledger(String),
}

impl Workshop {
    /// With the desired state that was accepted last.
    pub fn new(
        ledger: Arc<Ledger>,
        layout: Layout,
        client: Client,
        net: Handle,
        transient: Arc<Transient>,
        operations: Operations,
        desired: DesiredState,
    ) -> Arc<Self> {
        let (desired, busy) = (Mutex::new(Arc::new(desired)), Mutex::new(HashSet::new()));
        let moved = (Mutex::new(0), Condvar::new());
        let (turn, sending, early) = (Mutex::new(()), Mutex::new(()), Mutex::new(BTreeMap::new()));
        let (stirred, prober) = (Notify::new(), Arc::default());
        Arc::new(Self {
            ledger,
            layout,
            client,
            net,
            transient,
            stirred,
            operations,
            prober,
            unsent: AtomicBool::new(false),
            desired,
            busy,
            turn,
            sending,
            early,
            moved,
        })
    }

    /// What is wanted.
    pub fn desired(&self) -> Arc<DesiredState> {
        lock(&self.desired).clone()
    }

    /// A newer desired state was accepted.
    pub fn set(self: &Arc<Self>, desired: DesiredState) {
        self.prefetch(&desired);
        self.forget_purged(&desired);
        *lock(&self.desired) = Arc::new(desired);
        *lock(&self.moved.0) += 1;
        self.moved.1.notify_all();
        self.stirred.notify_one();
        self.dispatch();
        self.operate();
    }

    /// Goes on with what was accepted before the agent started.
    pub fn begin(self: &Arc<Self>) {
        let desired = lock(&self.desired).clone();
        self.prefetch(&desired);
        self.forget_purged(&desired);
        // An operation that an earlier agent left running has its allocation before an action has.
        self.operate();
        self.dispatch();
    }

    /// Whether something is at work on an allocation.
    pub fn is_busy(&self, alloc: AllocId) -> bool {
        lock(&self.busy).contains(&alloc)
    }

    /// Takes an allocation, so that nothing else works on it; whether it was free.
    pub fn take(&self, alloc: AllocId) -> bool {
        lock(&self.busy).insert(alloc)
    }

    /// Gives an allocation back. [`Workshop::dispatch`] starts what was asked for meanwhile.
    pub fn give_back(&self, alloc: AllocId) {
        lock(&self.busy).remove(&alloc);
    }

    /// Starts a thread for every allocation that has work and none yet.
    pub fn dispatch(self: &Arc<Self>) {
        let desired = lock(&self.desired).clone();
        let rows: HashMap<AllocId, Row> = match self.ledger.rows() {
            Ok(rows) => rows.into_iter().map(|row| (row.alloc_id, row)).collect(),
            Err(error) => return tracing::error!(error = chain(&error), "ledger_unreadable"),
        };
        let mut any = false;
        for wanted in &desired.allocations {
            let row = rows.get(&wanted.alloc_id).cloned();
            let row = row.unwrap_or_else(|| Row::new(wanted.alloc_id, wanted.job.clone()));
            if next(wanted, &row) == Step::Nothing {
                continue;
            }
            any = true;
            if lock(&self.busy).insert(wanted.alloc_id) {
                let (shop, alloc, job) = (self.clone(), wanted.alloc_id, wanted.job.clone());
                let name = format!("job {}", wanted.job);
                let started =
                    std::thread::Builder::new().name(name).stack_size(512 << 10).spawn(move || shop.work(alloc, job));
                if let Err(error) = started {
                    lock(&self.busy).remove(&alloc);
                    tracing::error!(%error, job = %wanted.job, "thread_failed");
                }
            }
        }
        if any { self.transient.report_soon() } else { self.transient.report_now() }
    }

    /// One allocation, until there is nothing to do.
    fn work(self: &Arc<Self>, alloc: AllocId, job: JobName) {
        let mut attempt = 0;
        loop {
            let seen = *lock(&self.moved.0);
            let desired = lock(&self.desired).clone();
            let wanted = desired.allocations.iter().find(|a| a.alloc_id == alloc);
            let done = match wanted.map(|wanted| self.step(&desired, wanted)) {
                None | Some(Ok(false)) => true,
                Some(Ok(true)) => {
                    attempt = 0;
                    false
                }
                Some(Err(held)) => {
                    let phase = if matches!(held, Held::Fetch(_)) { Phase::Fetching } else { Phase::Applying };
                    // Once for each kind of trouble, not once for each try.
                    if self.transient.problem(alloc, &job, phase, held.to_string()) {
                        tracing::warn!(%job, reason = %held, "step_held");
                    }
                    self.pause(seen, RETRY.delay(attempt, clock::random()));
                    attempt = attempt.saturating_add(1);
                    false
                }
            };
            // Under the lock, so that a state that arrives now finds either this thread or none.
            let mut busy = lock(&self.busy);
            if done && *lock(&self.moved.0) == seen {
                busy.remove(&alloc);
                break;
            }
        }
        self.transient.phase(alloc, &job, Phase::Idle);
        self.transient.report_now();
        self.operate();
    }

    fn pause(&self, seen: u64, limit: Duration) {
        let moved = lock(&self.moved.0);
        drop(self.moved.1.wait_timeout_while(moved, limit, |now| *now == seen));
    }

    /// One step; whether there was one.
    fn step(&self, desired: &DesiredState, wanted: &DesiredAllocation) -> Result<bool, Held> {
        let alloc = wanted.alloc_id;
        let row = self.ledger.row(alloc).map_err(|e| Held::Ledger(chain(&e)))?;
        let row = row.unwrap_or_else(|| Row::new(alloc, wanted.job.clone()));
        match next(wanted, &row) {
            Step::Nothing => return Ok(false),
            Step::Resume(running) => self.resume(wanted, row, &running)?,
            Step::Place(bundle) => self.place(desired, wanted, row, bundle)?,
            Step::Run(action) => self.run(desired, wanted, row, &action)?,
            Step::Complete(action) => {
                let row = acted(row, wanted, &action);
                self.finish(row, &action, clock::now_ms(), Outcome::Ok, 0, None)?;
            }
            Step::RemoveFiles => self.remove_files(row)?,
            Step::RemoveTree => self.remove_tree(row)?,
        }
        Ok(true)
    }

    fn save(&self, row: &Row) -> Result<(), Held> {
        self.ledger.save(row).map_err(|error| Held::Ledger(chain(&error)))
    }

    fn place(
        &self,
        desired: &DesiredState,
        wanted: &DesiredAllocation,
        mut row: Row,
        to: BundleDigest,
    ) -> Result<(), Held> {
        let _turn = lock(&self.turn);
        self.transient.phase(row.alloc_id, &row.job, Phase::Fetching);
        let fetch = |error: fetch::Error| Held::Fetch(chain(&error));
        let apply = |error: &dyn std::error::Error| Held::Apply(chain(error));
        let base = match row.place {
            Place::Whole(digest) => Some((digest, &row.list)),
            Place::Empty | Place::Applying { .. } => None,
        };
        let new = fetch::list(&self.net, &self.client, to, base).map_err(fetch)?;
        let alone = alone::try_take(&self.layout.own(), row.job.as_str()).map_err(|error| apply(&error))?;
        let Some(_alone) = alone else { return Err(Held::Apply("maand-agent make is at work on it".to_owned())) };
        let tree = Tree::open(&self.layout.job(&row.job), true).map_err(|error| apply(&error))?;
        let mut survey = survey(&tree, &row.list, &new, row.applied_ms).map_err(|error| apply(&error))?;
        if wanted.action.as_ref().is_none_or(|action| action.kind.keeps_process()) {
            mounted(&tree, &self.layout.job(&row.job), &mut survey);
        }
        let changes = plan(&row.list, &survey, &new).map_err(|error| apply(&error))?;
        let mut blobs: BTreeMap<_, _> = changes
            .steps
            .iter()
            .filter_map(|step| match step {
                Change::Replace { entry, .. } | Change::Rewrite { entry, .. } => {
                    Some(((entry.private, entry.blob), entry.len))
                }
                _ => None,
            })
            .collect();
        fetch::reuse(&tree, &self.layout, &row.list, &mut blobs);
        fetch::blobs(&self.net, &self.client, &self.layout, &blobs, "").map_err(fetch)?;

        self.transient.phase(row.alloc_id, &row.job, Phase::Applying);
        // From here on only forward: what may be in place is either list's.
        failpoint::hit("intent::before");
        let old = row.list.clone();
        row.place = Place::Applying { to };
        row.purged = false;
        row.list = both(&old, &new);
        self.save(&row)?;
        failpoint::hit("intent::after");
        // Closed before anything private is in it, opened only after nothing is.
        let private = holds_private(&new);
        let closed = wanted.dir_mode.unwrap_or(if private { 0o700 } else { 0o755 });
        if private {
            fchmod(tree.root(), Mode::from_raw_mode(closed)).map_err(|error| apply(&error))?;
        }
        activate::activate(&tree, &self.layout, &changes.steps).map_err(|error| apply(&error))?;
        if !private && (wanted.dir_mode.is_some() || holds_private(&old)) {
            fchmod(tree.root(), Mode::from_raw_mode(closed)).map_err(|error| apply(&error))?;
        }
        row.place = Place::Whole(to);
        row.version.clone_from(&wanted.new_version);
        row.list = new;
        row.applied_ms = clock::now_ms();
        row.drift = changes.drift;
        row.unmanaged = survey.unmanaged;
        self.save(&row)?;
        failpoint::hit("placed::after");
        // What was put in place needs no second copy, and what will be is fetched by its own turn.
        let early = lock(&self.early).clone();
        if lock(&self.busy).len() <= 1 && desired.prefetch.iter().all(|digest| early.contains_key(digest)) {
            let pruned = fetch::prune(&self.layout, &early.values().collect::<Vec<_>>());
            if let Err(error) = pruned {
                tracing::warn!(%error, job = %wanted.job, "store_not_pruned");
            }
        }
        Ok(())
    }

    fn run(
        &self,
        desired: &DesiredState,
        wanted: &DesiredAllocation,
        mut row: Row,
        action: &DesiredAction,
    ) -> Result<(), Held> {
        let Some(target) = action.kind.make_target() else { return Ok(()) };
        self.transient.phase(row.alloc_id, &row.job, Phase::Running);
        let started_ms = clock::now_ms();
        row = acted(row, wanted, action);
        row.running = Some(Running { action: action.clone(), started_ms });
        row.action = Some(ObservedAction { id: action.id, outcome: None, started_ms, duration_ms: 0, tail: None });
        // Durable before make starts: whatever happens now, this id is never run again.
        self.save(&row)?;
        self.stirred.notify_one();
        failpoint::hit("run::recorded");
        let dir = self.layout.run(&action.id.to_string());
        let spec = run::Spec {
            dir: self.layout.job(&row.job),
            program: run::Program::Make { target: target.to_owned() },
            timeout_s: action.timeout_s,
            env: environment(desired, wanted),
            source: Source::Action { action_id: action.id, job: row.job.clone(), target: target.to_owned() },
            run_id: action.run_id,
        };
        let scope = run::scope(row.job.as_str(), &action.id.to_string());
        let mut shipping = Shipping::new(&dir, &spec);
        let tick = || drop(shipping.send(&self.net, &self.client, false));
        let ended = match run::perform(&dir, &spec, scope.as_deref(), tick) {
            Ok(ended) => ended,
            Err(error) => {
                run::Ended::without(Outcome::Refused { reason: format!("make {target} cannot be started: {error}") })
            }
        };
        self.ended(row, action, started_ms, &dir, ended, Some(shipping))
    }

    /// The agent was ended while a target ran, or before it did.
    fn resume(&self, _: &DesiredAllocation, row: Row, running: &Running) -> Result<(), Held> {
        self.transient.phase(row.alloc_id, &row.job, Phase::Running);
        let dir = self.layout.run(&running.action.id.to_string());
        let mut shipping = Shipping::resume(&dir);
        let ended = run::settle(&dir, None, || {
            if let Some(shipping) = &mut shipping {
                drop(shipping.send(&self.net, &self.client, false));
            }
        });
        self.ended(row, &running.action, running.started_ms, &dir, ended, shipping)
    }

    fn ended(
        &self,
        row: Row,
        action: &DesiredAction,
        started_ms: i64,
        dir: &std::path::Path,
        ended: run::Ended,
        shipping: Option<Shipping>,
    ) -> Result<(), Held> {
        failpoint::hit("run::after_exit");
        // The log before the result, so that who reads the result finds the log; but the result does
        // not wait for a controller that is away: `send_late` sends it when it is back.
        let sent = shipping.map_or(Ok(()), |mut shipping| shipping.send(&self.net, &self.client, true));
        let tail = if ended.outcome == Outcome::Ok { None } else { run::tail(dir) };
        self.finish(row, action, started_ms, ended.outcome, ended.duration_ms, tail)?;
        // Only now does the run count as ended; the report of that comes after this.
        if let Err(error) = sent {
            tracing::debug!(error = chain(&error), "output_not_sent");
            self.unsent.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// The controller can be reached again: sends what it has not got of the output of ended runs.
    pub fn send_late(self: &Arc<Self>) {
        let shop = self.clone();
        self.net.spawn_blocking(move || {
            let _one = lock(&shop.sending);
            let in_use = shop.runs_in_use();
            for dir in run::recent(&shop.layout.runs()).into_iter().filter(|dir| !in_use.contains(dir)) {
                if let Some(mut shipping) = Shipping::resume(&dir)
                    && let Err(error) = shipping.send(&shop.net, &shop.client, true)
                {
                    shop.unsent.store(true, Ordering::SeqCst);
                    return tracing::debug!(error = chain(&error), "output_not_sent");
                }
            }
        });
    }

    /// Sends late output after a report that got through: a controller may have been away for too short a
    /// time for anybody else to notice.
    pub async fn send_late_after_reports(self: Arc<Self>) {
        loop {
            self.transient.through.notified().await;
            if self.unsent.swap(false, Ordering::SeqCst) {
                self.send_late();
            }
        }
    }

    /// Downloads what a later batch will put in place. Nothing depends on it.
    fn prefetch(self: &Arc<Self>, desired: &DesiredState) {
        let wanted: BTreeSet<BundleDigest> = desired.prefetch.iter().copied().collect();
        let mut early = lock(&self.early);
        early.retain(|digest, _| wanted.contains(digest));
        if wanted.iter().all(|digest| early.contains_key(digest)) {
            return;
        }
        drop(early);
        let shop = self.clone();
        self.net.spawn_blocking(move || {
            let _one = lock(&shop.sending);
            for digest in wanted {
                if lock(&shop.early).contains_key(&digest) {
                    continue;
                }
                match shop.prefetch_one(digest) {
                    Ok(list) => drop(lock(&shop.early).insert(digest, list)),
                    Err(error) => tracing::debug!(error = chain(&error), %digest, "not_prefetched"),
                }
            }
        });
    }

    fn prefetch_one(&self, digest: BundleDigest) -> Result<Bundle, fetch::Error> {
        let list = fetch::list(&self.net, &self.client, digest, None)?;
        // What is in place somewhere is taken from there when its time comes.
        let rows = self.ledger.rows().unwrap_or_default();
        let here: HashSet<_> = rows.iter().flat_map(|row| row.list.entries()).map(|e| (e.private, e.blob)).collect();
        let entries = list.entries().iter().map(|entry| ((entry.private, entry.blob), entry.len));
        let blobs = entries.filter(|(key, _)| !here.contains(key)).collect();
        fetch::blobs(&self.net, &self.client, &self.layout, &blobs, "early-")?;
        tracing::info!(bundle = %digest, blobs = blobs.len(), "prefetched");
        Ok(list)
    }

    /// The result, durable; the report is made of it.
    fn finish(
        &self,
        mut row: Row,
        action: &DesiredAction,
        started_ms: i64,
        outcome: Outcome,
        duration_ms: u64,
        tail: Option<String>,
    ) -> Result<(), Held> {
        row.process = match (&outcome, action.kind) {
            (Outcome::Ok, ActionKind::Stop) => Process::Stopped,
            (Outcome::Ok, ActionKind::Sync) => row.process,
            (Outcome::Ok, _) => Process::Started,
            (Outcome::Failed { .. } | Outcome::TimedOut, _) => Process::Failed,
            (Outcome::Interrupted | Outcome::Refused { .. }, _) => Process::Unknown,
        };
        tracing::info!(job = %row.job, action = %action.kind, ?outcome, duration_ms, "action_ended");
        row.running = None;
        row.action = Some(ObservedAction { id: action.id, outcome: Some(outcome), started_ms, duration_ms, tail });
        self.save(&row)?;
        self.stirred.notify_one();
        failpoint::hit("result::after");
        self.prune_runs();
        Ok(())
    }

    /// Removes the output of all but the last runs, and what is of no more use of the last ones.
    pub fn prune_runs(&self) {
        let in_use = self.runs_in_use();
        run::prune(&self.layout.runs(), &in_use, KEPT_RUNS);
        run::recent(&self.layout.runs()).iter().filter(|dir| !in_use.contains(dir)).for_each(|dir| logs::trim(dir));
    }

    fn runs_in_use(&self) -> Vec<std::path::PathBuf> {
        let rows = self.ledger.rows().unwrap_or_default();
        let actions = rows.into_iter().filter_map(|row| row.running.map(|r| self.layout.run(&r.action.id.to_string())));
        actions.chain(self.operations_in_use()).collect()
    }

    fn remove_files(&self, mut row: Row) -> Result<(), Held> {
        let _turn = lock(&self.turn);
        self.transient.phase(row.alloc_id, &row.job, Phase::Applying);
        let apply = |error: &dyn std::error::Error| Held::Apply(chain(error));
        let path = self.layout.job(&row.job);
        if path.is_dir() {
            let tree = Tree::open(&path, false).map_err(|error| apply(&error))?;
            let nothing = Bundle::default();
            let survey = survey(&tree, &row.list, &nothing, row.applied_ms).map_err(|error| apply(&error))?;
            let changes = plan(&row.list, &survey, &nothing).map_err(|error| apply(&error))?;
            activate::activate(&tree, &self.layout, &changes.steps).map_err(|error| apply(&error))?;
            // `bin` is the job's own while it lives; std does not follow links below it.
            let bin = path.join("bin");
            if bin.is_dir() && !bin.is_symlink() {
                std::fs::remove_dir_all(&bin).map_err(|error| apply(&error))?;
            }
        }
        row.place = Place::Empty;
        row.list = Bundle::default();
        self.save(&row)
    }

    fn remove_tree(&self, row: Row) -> Result<(), Held> {
        let _turn = lock(&self.turn);
        self.transient.phase(row.alloc_id, &row.job, Phase::Applying);
        let path = self.layout.job(&row.job);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Held::Apply(chain(&error))),
            _ => {}
        }
        // The row says that it was done until the controller names the allocation no more.
        self.save(&Row { purged: true, ..Row::new(row.alloc_id, row.job) })
    }

    /// Forgets what was removed, whole, once the controller names it no more.
    fn forget_purged(&self, desired: &DesiredState) {
        let named: HashSet<AllocId> = desired.allocations.iter().map(|a| a.alloc_id).collect();
        let forgotten = self.ledger.rows().and_then(|rows| {
            rows.iter()
                .filter(|row| row.purged && !named.contains(&row.alloc_id))
                .try_for_each(|row| self.ledger.forget(row.alloc_id))
        });
        if let Err(error) = forgotten {
            tracing::warn!(error = chain(&error), "row_not_forgotten");
        }
    }
}

/// The environment of an allocation's make targets and checks.
pub fn environment(desired: &DesiredState, wanted: &DesiredAllocation) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = ["PATH", "HOME", "LANG"]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), std::env::var(key).ok()?)))
        .collect();
    for (key, value) in [
        (ENV_CURRENT_VERSION, wanted.current_version.as_str()),
        (ENV_NEW_VERSION, wanted.new_version.as_str()),
        ("JOB", wanted.job.as_str()),
        ("WORKER_IP", desired.host.as_str()),
    ] {
        env.insert(key.to_owned(), value.to_owned());
    }
    env.insert("BUCKET_ID".to_owned(), desired.bucket_id.to_string());
    env
}

/// The row of an allocation that an action is done for: with a stop it stays at the version that it had.
fn acted(mut row: Row, wanted: &DesiredAllocation, action: &DesiredAction) -> Row {
    if action.kind != ActionKind::Stop {
        row.version.clone_from(&wanted.new_version);
    }
    // Stopped here once, and from now on in the hands of hooks: whether it runs is theirs to know.
    let by_hooks = wanted.health.as_ref().is_some_and(|health| health.by_hooks);
    if by_hooks && wanted.state == RunState::Running && row.process == Process::Stopped {
        row.process = Process::Unknown;
    }
    row
}

/// Every path that either list has: what may be in place while one gives way to the other. Where both
/// have it the new one's entry stands, which is what a redo expects.
fn both(old: &Bundle, new: &Bundle) -> Bundle {
    let extra = old.entries().iter().filter(|entry| new.get(entry.path.as_str()).is_none());
    let all = new.entries().iter().chain(extra).cloned().collect();
    // A file of one where the other has a directory: then the old list alone tells what to clear.
    Bundle::new(all).unwrap_or_else(|_| old.clone())
}
