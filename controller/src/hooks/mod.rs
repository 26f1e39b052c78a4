//! Edge: hooks, the scripts of jobs that run beside the controller. A [`Runner`] runs those of one event of
//! one job for some of its allocations, one process each: stages a directory, gives it the environment of
//! `spec/behaviour.md` 4.9 and an API of its own, and collects what it printed and wrote.
//!
//! ```text
//!   Call ─► interpreter ─► per target: admit ─► stage ─► env ─► run ─► Outcome ┐
//!                                        │                       │             ├─► Report
//!                              api/ ◄────┴── HTTP, by its token ─┘             │
//!                               └─► overlay of the hook ─► of the step ────────┘ commit is the caller's
//! ```

pub mod api;
pub mod env;
mod interpreter;
pub mod output;
pub mod overlay;
pub mod report;
pub mod run;
pub mod sink;
mod stage;
mod target;
mod values;

use std::path::PathBuf;
use std::sync::Arc;

use shared::{AllocId, Code, Diagnostic, JobName, Name, RunId};
use tokio::task::JoinSet;

use self::api::{Api, Workers};
use self::env::Extras;
use self::interpreter::none_missing;
use self::overlay::Overlay;
use self::report::{Ran, Report};
use self::run::{Outcome, Stop};
use self::sink::Sink;
use self::stage::Stages;
use self::target::{Inner, OneHook, placed};
use self::values::Values;
use crate::bundle::store::Store;
use crate::catalog::Catalog;
use crate::failure::{Exit, Failure};
use crate::model::{Allocation, Hook, HookEvent, JobFile, Snapshot};
use crate::paths::BucketDir;
use crate::secrets::SealingKey;

/// Processes of one hook at once, whatever is asked for.
const MAX_CONCURRENCY: usize = 64;
/// Processes of a health check's hook at once (`spec/behaviour.md` 4.9).
const HEALTH_CONCURRENCY: usize = 10;

/// What a runner works with.
#[derive(Debug)]
pub struct Setup {
    /// The bucket.
    pub bucket: BucketDir,
    /// The catalog that hooks read: the bucket's, or a scratch one.
    pub database: PathBuf,
    /// The command's run.
    pub run: RunId,
    /// Who hears of what they print.
    pub sink: Arc<dyn Sink>,
    /// How they reach workers.
    pub workers: Arc<dyn Workers>,
}

/// Hooks of one event of one job.
#[derive(Debug)]
pub struct Call<'a> {
    /// The job.
    pub job: &'a JobName,
    /// What happens.
    pub event: HookEvent,
    /// This hook alone; otherwise all that the job has for the event, by name.
    pub only: Option<&'a Name>,
    /// For which allocations, in order. None means that nothing runs, which is no failure.
    pub targets: &'a [AllocId],
    /// Processes of a hook at once, 1 to 64.
    pub concurrency: usize,
    /// What else the processes are told.
    pub extras: Extras,
}

impl<'a> Call<'a> {
    /// With the number of processes that the event has (`spec/behaviour.md` 4.9), and nothing besides.
    pub fn new(job: &'a JobName, event: HookEvent, targets: &'a [AllocId]) -> Self {
        let concurrency = match event {
            HookEvent::PostBuild | HookEvent::PreDeploy | HookEvent::PostDeploy | HookEvent::Cli => 1,
            HookEvent::HealthCheck => HEALTH_CONCURRENCY,
            HookEvent::JobControl | HookEvent::AfterAllocationStarted | HookEvent::AfterAllocationStopped => {
                targets.len()
            }
        };
        Self { job, event, only: None, targets, concurrency, extras: Extras::None }
    }
}

/// Runs hooks for as long as one command lasts; several jobs at once from several threads. Dropped, it
/// takes its directories and its API with it.
#[derive(Debug)]
pub struct Runner {
    inner: Arc<Inner>,
    stop: Stop,
    // Last: its threads end after everything that runs on them.
    runtime: tokio::runtime::Runtime,
}

impl Runner {
    /// Opens what hooks need. To be called from a plain thread, like all of this.
    pub fn start(setup: Setup) -> Result<Self, Failure> {
        let held = |error: &dyn std::error::Error| {
            let problem = Diagnostic::new(Code::Storage, "hooks cannot be run here").cause(error);
            Failure::new(Exit::Failed, problem)
        };
        // Processes run elsewhere: no path of theirs may be relative.
        let root = absolute(&setup.bucket).map_err(|error| held(&error))?;
        let key = SealingKey::load(&root.kv_key()).map_err(|error| {
            let problem = Diagnostic::new(Code::Secrets, "the bucket's secrets cannot be used").cause(&error);
            Failure::new(Exit::Input, problem.remedy("restore secrets/kv.key from a backup"))
        })?;
        let catalog = Catalog::open(&setup.database)?;
        let values = Arc::new(Values::new(catalog, Arc::new(key)));
        let store = Store::open(&root).map_err(|error| held(&error))?;
        let stages = Stages::open(&root, store).map_err(|error| held(&error))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| held(&error))?;
        let api = Api::start(values.clone(), setup.workers, setup.sink.clone(), setup.run);
        let api = runtime.block_on(api).map_err(|error| held(&error))?;
        let inner = Inner { bucket: root, api, stages, values, sink: setup.sink };
        Ok(Self { inner: Arc::new(inner), stop: Stop::default(), runtime })
    }

    /// Ends what runs, and lets nothing begin any more: whatever is asked for afterwards is interrupted.
    /// What runs has ten seconds to end by itself; none when this is called a second time.
    pub fn cancel(&self) {
        cancel(&self.stop);
    }

    /// Makes Ctrl-C and TERM of this process cancel.
    pub fn cancel_on_signals(&self) {
        use tokio::signal::unix::{SignalKind, signal};
        let stop = self.stop.clone();
        self.runtime.spawn(async move {
            // Without handlers the signals end the process by themselves.
            if let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
                loop {
                    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                    cancel(&stop);
                }
            }
        });
    }

    /// Whether everything is there that these jobs' hooks of the event need (with `only`, that hook), before
    /// any of them begins: one problem for all that is missing.
    pub fn check<'a>(
        &self,
        snapshot: &Snapshot,
        event: HookEvent,
        only: Option<&Name>,
        jobs: impl IntoIterator<Item = &'a JobName>,
    ) -> Result<(), Failure> {
        let mut missing = Vec::new();
        for name in jobs {
            let files = self.inner.files(name)?;
            for (hook, _) in wanted(snapshot, name, event, only) {
                if let Err(what) = interpreter::of(&self.inner.bucket, name, hook, &files) {
                    missing.push((what, name.clone(), hook.clone()));
                }
            }
        }
        none_missing(&missing)
    }

    /// Runs the hooks of a call, in name order, each for all of its targets; what those that succeeded
    /// wrote is in `step` afterwards, to be drained and committed by the caller, or not. After a hook that
    /// failed the next one is not begun, except after a build.
    ///
    /// An error is what kept everything from running; a hook that failed is in the report.
    pub fn run(&self, snapshot: &Snapshot, call: &Call<'_>, step: &Arc<Overlay>) -> Result<Report, Failure> {
        self.runtime.block_on(self.run_on(snapshot, call, step))
    }

    /// Waits for what was begun on the threads of hooks.
    pub fn wait<T>(&self, until: impl Future<Output = T>) -> T {
        self.runtime.block_on(until)
    }

    async fn run_on(&self, snapshot: &Snapshot, call: &Call<'_>, step: &Arc<Overlay>) -> Result<Report, Failure> {
        let mut report = Report { job: call.job.clone(), event: call.event, ran: Vec::new(), by_hand: Vec::new() };
        // A job that is gone from the workspace has no scripts any more.
        let Some(job) = snapshot.job(call.job) else { return Ok(report) };
        let hooks: Vec<_> = wanted(snapshot, call.job, call.event, call.only).collect();
        let targets: Vec<&Allocation> = snapshot
            .allocations_of(call.job)
            .filter(|allocation| call.targets.contains(&allocation.alloc_id))
            .collect();
        let targets: Vec<&Allocation> =
            call.targets.iter().filter_map(|id| targets.iter().find(|a| a.alloc_id == *id).copied()).collect();
        if hooks.is_empty() || targets.is_empty() {
            return Ok(report);
        }
        report.by_hand = job
            .spec
            .hooks
            .iter()
            .filter(|(_, hook)| hook.executed_on.contains(&HookEvent::Cli))
            .map(|(name, _)| name.clone())
            .collect();
        let files: Arc<[JobFile]> = self.inner.files(call.job)?.into();
        let mut programs = Vec::new();
        let mut missing = Vec::new();
        for (name, _) in &hooks {
            match interpreter::of(&self.inner.bucket, call.job, name, &files) {
                Ok(interpreter) => programs.push(interpreter),
                Err(what) => missing.push((what, call.job.clone(), (*name).clone())),
            }
        }
        none_missing(&missing)?;
        for ((name, hook), program) in hooks.into_iter().zip(programs) {
            let own = step.child();
            let one = OneHook::new(snapshot, call, name, hook, program, files.clone(), own.clone());
            let ran = self.targets(&Arc::new(one), &targets, call.concurrency, snapshot).await;
            let ok = ran.iter().all(|ran| ran.outcome == Outcome::Ok);
            report.ran.extend(ran);
            if ok {
                step.adopt(&own);
            } else if call.event != HookEvent::PostBuild || report.is_interrupted() {
                break;
            }
        }
        Ok(report)
    }

    /// One hook for all targets, so many at once, begun in order.
    async fn targets(
        &self,
        hook: &Arc<OneHook>,
        targets: &[&Allocation],
        concurrency: usize,
        snapshot: &Snapshot,
    ) -> Vec<Ran> {
        let mut running = JoinSet::new();
        let mut ran: Vec<Option<Ran>> = targets.iter().map(|_| None).collect();
        let ended = |joined: Result<(usize, Ran), tokio::task::JoinError>, ran: &mut Vec<Option<Ran>>| {
            if let Ok((at, one)) = joined {
                ran[at] = Some(one);
            }
        };
        for (at, target) in targets.iter().enumerate() {
            while running.len() >= concurrency.clamp(1, MAX_CONCURRENCY) {
                if let Some(joined) = running.join_next().await {
                    ended(joined, &mut ran);
                }
            }
            let (inner, hook, stop) = (self.inner.clone(), hook.clone(), self.stop.clone());
            let (target, index) = ((*target).clone(), placed(snapshot, target));
            running.spawn(async move {
                let one = inner.one(&hook, &target, index, &stop).await;
                (at, one)
            });
        }
        while let Some(joined) = running.join_next().await {
            ended(joined, &mut ran);
        }
        let lost = |target: &Allocation| Ran {
            hook: hook.name.clone(),
            alloc_id: target.alloc_id,
            host: target.host.clone(),
            outcome: Outcome::NotStarted { why: "the thread that ran it ended early".to_owned() },
            duration_ms: 0,
            last: Vec::new(),
        };
        ran.into_iter().zip(targets).map(|(one, target)| one.unwrap_or_else(|| lost(target))).collect()
    }
}

/// The hooks of a job for an event, by name.
fn wanted<'a>(
    snapshot: &'a Snapshot,
    job: &JobName,
    event: HookEvent,
    only: Option<&'a Name>,
) -> impl Iterator<Item = (&'a Name, &'a Hook)> {
    let all = snapshot.job(job).into_iter().flat_map(|job| &job.spec.hooks);
    all.filter(move |(name, hook)| hook.executed_on.contains(&event) && only.is_none_or(|only| only == *name))
}

fn cancel(stop: &Stop) {
    if stop.ask.is_cancelled() {
        stop.now.cancel();
    }
    stop.ask.cancel();
}

#[expect(clippy::disallowed_methods, reason = "edge: where the bucket is")]
fn absolute(bucket: &BucketDir) -> std::io::Result<BucketDir> {
    Ok(BucketDir::new(std::fs::canonicalize(bucket.root())?))
}
