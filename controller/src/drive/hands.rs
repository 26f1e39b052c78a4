//! Edge: what a rollout has done beside agents: hooks, each call on a thread of its own, and a job's bundles
//! made anew with what its hooks wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use shared::diagnostic::chain;
use shared::{AllocId, Bundle, Code, Diagnostic, Host, JobName, RunId};

use crate::bundle::store::Store;
use crate::catalog::Catalog;
use crate::compose::again::{Again, Catalogued, Undecided};
use crate::failure::{Exit, Failure};
use crate::hooks::api::Workers;
use crate::hooks::env::{Extras, OrderSource, Phase};
use crate::hooks::overlay::{Layered, Overlay, Write};
use crate::hooks::sink::Sink;
use crate::hooks::{Runner, Setup};
use crate::model::kv::Source;
use crate::model::{HookEvent, Snapshot};
use crate::paths::BucketDir;
use crate::plan::{JobPlan, Plan};
use crate::rollout::event::{Call, Event, Stage};
use crate::secrets::SealingKey;

/// Longest time that hooks which are ended are waited for: their grace, and what the kernel takes.
const LEAVING: Duration = Duration::from_secs(15);

/// Hooks that ended, for the machine, with what they wrote and what to tell the operator.
#[derive(Debug)]
pub struct Ended {
    /// [`Event::Hooked`].
    pub event: Event,
    /// To be committed with the step that takes the event in.
    pub writes: Vec<Write>,
    /// What went wrong, in full.
    pub problems: Vec<Diagnostic>,
}

/// Runs hooks of one deploy.
#[derive(Debug)]
pub struct Hands {
    bucket: BucketDir,
    database: PathBuf,
    run: RunId,
    sink: Arc<dyn Sink>,
    workers: Arc<dyn Workers>,
    /// Started with the first hook: most deploys have none.
    runner: OnceLock<Runner>,
    starting: Mutex<()>,
    sender: Sender<Ended>,
    receiver: Mutex<Receiver<Ended>>,
    /// How many calls are under way, and who waits for them to end.
    calls: (Mutex<usize>, Condvar),
}

/// One call less, however its thread ends.
struct Counted(Arc<Hands>);

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.calls.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.calls.1.notify_all();
    }
}

impl Hands {
    /// For hooks that read the catalog at `database`.
    pub fn new(
        bucket: &BucketDir,
        database: PathBuf,
        run: RunId,
        sink: Arc<dyn Sink>,
        workers: Arc<dyn Workers>,
    ) -> Arc<Self> {
        let (sender, receiver) = channel();
        let (runner, starting, receiver) = (OnceLock::new(), Mutex::new(()), Mutex::new(receiver));
        let calls = (Mutex::new(0), Condvar::new());
        Arc::new(Self {
            bucket: bucket.clone(),
            database,
            run,
            sink,
            workers,
            runner,
            starting,
            sender,
            receiver,
            calls,
        })
    }

    fn runner(&self) -> Result<&Runner, Failure> {
        let _one = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.runner.get().is_none() {
            let started = Runner::start(Setup {
                bucket: self.bucket.clone(),
                database: self.database.clone(),
                run: self.run,
                sink: self.sink.clone(),
                workers: self.workers.clone(),
            })?;
            drop(self.runner.set(started));
        }
        self.runner
            .get()
            .ok_or_else(|| Failure::new(Exit::Bug, Diagnostic::new(Code::Bug, "the runner of hooks went away")))
    }

    /// Whether every interpreter is there that the hooks of a plan need, before any of them begins.
    pub fn check(&self, snapshot: &Snapshot, plan: &Plan) -> Result<(), Failure> {
        let concerned: Vec<&JobPlan> = plan.jobs.iter().filter(|job| job.is_required() || job.decides).collect();
        let events: BTreeSet<HookEvent> = concerned.iter().flat_map(|job| job.hooks.iter().copied()).collect();
        for event in events {
            let jobs = concerned.iter().filter(|job| job.has(event)).map(|job| &job.job);
            self.runner()?.check(snapshot, event, None, jobs)?;
        }
        Ok(())
    }

    /// Runs the hooks of a call; how they ended comes with [`Hands::ended`].
    pub fn call(self: &Arc<Self>, snapshot: &Arc<Snapshot>, plan: &JobPlan, call: Call) {
        let (this, snapshot, plan) = (self.clone(), snapshot.clone(), plan.clone());
        let name = format!("hooks {}", call.job);
        let (job, stage) = (call.job.clone(), call.stage);
        *self.calls.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let counted = Counted(self.clone());
        let spawned = std::thread::Builder::new().name(name).spawn(move || {
            let _counted = counted;
            let ended = this.perform(&snapshot, &plan, &call);
            drop(this.sender.send(ended));
        });
        if let Err(error) = spawned {
            let failures = vec![(None, format!("no thread for hooks: {error}"))];
            drop(self.sender.send(Ended {
                event: Event::Hooked { job, stage, failures },
                writes: Vec::new(),
                problems: Vec::new(),
            }));
        }
    }

    fn perform(&self, snapshot: &Snapshot, plan: &JobPlan, call: &Call) -> Ended {
        let step = Overlay::new();
        let ended = self.perform_into(snapshot, plan, call, &step);
        Ended { writes: step.drain(), ..ended }
    }

    fn perform_into(&self, snapshot: &Snapshot, plan: &JobPlan, call: &Call, step: &Arc<Overlay>) -> Ended {
        let event = call.stage.event();
        let targets = targets(snapshot, plan, call);
        // Those of a stop are each one's own: what fails for one holds up no other.
        let groups: Vec<&[AllocId]> = match call.stage {
            Stage::Stopped => targets.chunks(1).collect(),
            _ => vec![&targets],
        };
        let (mut failures, mut problems) = (Vec::new(), Vec::new());
        for targets in groups {
            let of = crate::hooks::Call {
                extras: extras(snapshot, plan, call, targets),
                ..crate::hooks::Call::new(&call.job, event, targets)
            };
            match self.runner().and_then(|runner| runner.run(snapshot, &of, step)) {
                Ok(report) => {
                    failures.extend(report.failures());
                    problems.extend(report.problems());
                }
                Err(failure) => {
                    let text = failure.problems.first().map(|problem| problem.message.clone());
                    failures.push((None, text.unwrap_or_else(|| "it could not be run".to_owned())));
                    problems.extend(failure.problems);
                }
            }
        }
        let event = Event::Hooked { job: call.job.clone(), stage: call.stage, failures };
        Ended { event, writes: Vec::new(), problems }
    }

    /// The same, with what was written left in `wrote`, over the catalog, for the next one to see.
    pub fn preview(&self, snapshot: &Snapshot, plan: &JobPlan, call: &Call, wrote: &Arc<Overlay>) -> Ended {
        let step = wrote.child();
        let ended = self.perform_into(snapshot, plan, call, &step);
        wrote.adopt(&step);
        ended
    }

    /// Calls that have ended since it was asked last.
    pub fn ended(&self) -> Vec<Ended> {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| receiver.try_recv().ok()).collect()
    }

    /// Ends what runs, `at_once` without time to clean up, and waits for its end: nothing of it is to go on
    /// when nobody listens any more.
    pub fn cancel(&self, at_once: bool) {
        let Some(runner) = self.runner.get() else { return };
        runner.cancel();
        if at_once {
            runner.cancel();
        }
        let calls = self.calls.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *calls > 0 {
            drop(self.calls.1.wait_timeout_while(calls, LEAVING, |calls| *calls > 0));
        }
    }

    /// Makes the bundles of a job anew, with what lies in `over` beside the catalog; with `keeps` false
    /// nothing is stored.
    pub fn again(
        &self,
        catalog: &mut Catalog,
        snapshot: &Snapshot,
        job: &JobName,
        over: Arc<Overlay>,
        keeps: bool,
    ) -> Result<BTreeMap<AllocId, Bundle>, Vec<Diagnostic>> {
        let storage = |error: &dyn std::error::Error| {
            let problem = Diagnostic::new(Code::Storage, format!("job {job}: its files cannot be made")).cause(error);
            vec![problem.remedy("maand deploy goes on when it can be")]
        };
        let key = Arc::new(SealingKey::load(&self.bucket.kv_key()).map_err(|error| storage(&error))?);
        let store = Store::open(&self.bucket).map_err(|error| storage(&error))?;
        let under: Arc<dyn Source> =
            Arc::new(Catalogued::new(Catalog::open(&self.database).map_err(|error| storage(&error))?, key.clone()));
        let values: Arc<dyn Source> = Arc::new(Layered { overlay: over, source: under, key: key.clone() });
        let again = Again { store: &store, key: &key, snapshot, values, keeps };
        again.bundles(catalog, job).map_err(|why| match why {
            Undecided::Workspace(problems) => problems,
            Undecided::Held(held) => {
                vec![Diagnostic::new(Code::Storage, format!("job {job}: its files cannot be made: {}", chain(&held)))]
            }
        })
    }
}

/// For whom hooks run, in the job's order.
fn targets(snapshot: &Snapshot, plan: &JobPlan, call: &Call) -> Vec<AllocId> {
    match &call.targets {
        Some(targets) => targets.clone(),
        None => {
            let active: BTreeMap<&Host, AllocId> =
                snapshot.allocations_of(&call.job).filter(|a| a.is_active()).map(|a| (&a.host, a.alloc_id)).collect();
            plan.order.iter().filter_map(|host| active.get(host).copied()).collect()
        }
    }
}

/// What hooks are told besides (`spec/behaviour.md` 4.9).
fn extras(snapshot: &Snapshot, plan: &JobPlan, call: &Call, targets: &[AllocId]) -> Extras {
    let wanted: BTreeSet<&AllocId> = targets.iter().collect();
    let hosts = || {
        let of: BTreeMap<AllocId, &Host> = snapshot
            .allocations_of(&call.job)
            .filter(|a| wanted.contains(&a.alloc_id))
            .map(|a| (a.alloc_id, &a.host))
            .collect();
        targets.iter().filter_map(|alloc| of.get(alloc).map(|host| (*host).clone())).collect::<Vec<Host>>()
    };
    let moves = |new: bool| {
        let all = plan.batches.iter().flatten();
        let of_kind = all.filter(move |step| (step.kind == shared::ActionKind::Start) == new);
        of_kind.map(|step| step.host.clone()).collect::<Vec<Host>>()
    };
    match call.stage {
        Stage::Started { .. } => {
            let (index, count, new) = call.batch.unwrap_or((0, 1, false));
            let source = if plan.ordered_by_hook { OrderSource::Kv } else { OrderSource::Default };
            let order: Vec<&str> = plan.order.iter().map(Host::as_str).collect();
            let phase = if new { Phase::New } else { Phase::Update };
            Extras::Batch { phase, allocations: hosts(), index, count, order: Some((order.join(","), source)) }
        }
        Stage::Stopped => Extras::Batch { phase: Phase::Stop, allocations: hosts(), index: 0, count: 1, order: None },
        Stage::JobControl { .. } => Extras::Control { new: moves(true), updated: moves(false) },
        Stage::PreDeploy | Stage::PostDeploy | Stage::Health { .. } => Extras::None,
    }
}
