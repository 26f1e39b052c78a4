//! Carries out what `reconcile::next` says, a thread for each allocation that has work. Fetching
//! and putting files in place is done one allocation at a time; make targets of several jobs may run
//! side by side.

mod act;
mod boot;
mod confirm;
mod drift;
mod early;
mod place;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::api::v1::desired::{DesiredAllocation, DesiredState};
use shared::api::v1::report::{Outcome, Phase};
use shared::backoff::Backoff;
use shared::diagnostic::chain;
use shared::{ActionKind, AllocId, Bundle, BundleDigest, JobName};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::client::Client;
use crate::clock;
use crate::health::probe::Prober;
use crate::operations::Operations;
use crate::reconcile::grant::{Grant, begins};
use crate::reconcile::{Row, Step, next};
use crate::report::Transient;
use crate::state::layout::Layout;
use crate::state::ledger::Ledger;
use act::acted;
pub use act::environment;
pub use place::clear;

const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(15));

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
    /// The controller's last word that a desired state is its newest.
    grant: Mutex<Option<Grant>>,
    /// Asking for it, one at a time.
    asking: Mutex<()>,
    /// Whose start after the machine's boot is to be done, or was.
    turns: Mutex<BTreeSet<AllocId>>,
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
    #[error("not begun: {0}")]
    Unconfirmed(String),
    #[error("held by an operator: {0}")]
    OnHold(String),
    #[error("its start after the boot comes first")]
    BootFirst,
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
            grant: Mutex::new(None),
            asking: Mutex::new(()),
            turns: Mutex::default(),
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
        let desired = Arc::new(desired);
        let before = std::mem::replace(&mut *lock(&self.desired), desired.clone());
        *lock(&self.moved.0) += 1;
        self.moved.1.notify_all();
        self.stirred.notify_one();
        let is_working = self.take_up(&desired);
        // Nobody waits to hear that ad-hoc work was asked for, or is over: what it came to is what is waited for.
        if is_working || desired.is_same_but_for_operations(&before) {
            self.transient.report_soon();
        } else {
            self.transient.report_now();
        }
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

    /// Starts a thread for every allocation that has work and none yet, and reports.
    pub fn dispatch(self: &Arc<Self>) {
        let desired = lock(&self.desired).clone();
        if self.take_up(&desired) { self.transient.report_soon() } else { self.transient.report_now() }
    }

    /// Starts a thread for every allocation that has work and none yet; whether any has.
    fn take_up(self: &Arc<Self>, desired: &DesiredState) -> bool {
        let rows: HashMap<AllocId, Row> = match self.ledger.rows() {
            Ok(rows) => rows.into_iter().map(|row| (row.alloc_id, row)).collect(),
            Err(error) => {
                tracing::error!(error = chain(&error), "ledger_unreadable");
                return true;
            }
        };
        let mut any = false;
        for wanted in &desired.allocations {
            let row = rows.get(&wanted.alloc_id).cloned();
            let row = row.unwrap_or_else(|| Row::new(wanted.alloc_id, wanted.job.clone()));
            if next(wanted, &row) == Step::Nothing && !self.is_to_start(wanted, &row) {
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
        any
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
                    let phase = match held {
                        Held::Fetch(_) => Phase::Fetching,
                        Held::Apply(_) | Held::Ledger(_) => Phase::Applying,
                        Held::Unconfirmed(_) | Held::OnHold(_) | Held::BootFirst => Phase::Idle,
                    };
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

    /// The controller is back: what waits for it does not wait out its pause.
    pub fn try_again(&self) {
        *lock(&self.moved.0) += 1;
        self.moved.1.notify_all();
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
        let step = next(wanted, &row);
        // Who else works under this identity is not worked against; what runs already is followed to its end.
        if self.client.heard().is_held() && !matches!(step, Step::Nothing | Step::Resume(_) | Step::Complete(_)) {
            return Err(Held::Fetch("another agent works under this identity; maand-agent status".to_owned()));
        }
        if self.is_to_start(wanted, &row) {
            self.start_after_boot(desired, wanted, row)?;
            return Ok(true);
        }
        let waits = row.boot.as_ref().is_some_and(|boot| boot.outcome.is_none());
        if waits && matches!(&step, Step::Run(action) if action.kind == ActionKind::Reload) {
            return Err(Held::BootFirst);
        }
        if begins(&step, &row) {
            if let Some(reason) = self.on_hold(desired) {
                return Err(Held::OnHold(reason));
            }
            self.confirm(desired.fence)?;
        }
        match step {
            Step::Nothing => return Ok(false),
            Step::Resume(running) => self.resume(wanted, row, &running)?,
            Step::Place(bundle) => self.place(wanted, row, bundle)?,
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
