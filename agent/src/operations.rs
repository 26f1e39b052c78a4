//! Edge: ad-hoc work (`shared/src/api/v1/operation.rs`), a thread for each operation that runs. What to do
//! is decided by `reconcile::operation`; an id is in the ledger before it begins and until the desired
//! state no longer lists it, so it runs once or, after a crash in between, never.
#![expect(clippy::disallowed_methods, reason = "edge: a script's file, the agent's environment")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use shared::api::v1::desired::{DesiredState, Fence};
use shared::api::v1::health::HealthSpec;
use shared::api::v1::logs::Source;
use shared::api::v1::operation::{Ended, ObservedOperation, Operation, Work};
use shared::api::v1::report::{Outcome, Phase, Process};
use shared::backoff::Backoff;
use shared::diagnostic::chain;
use shared::{AllocId, OperationId};

use crate::client::Failed;
use crate::logs::{self, Shipping};
use crate::reconcile::operation::{Turn, View, is_exclusive, turn};
use crate::state::durable;
use crate::work::{Workshop, environment, lock};
use crate::{clock, failpoint, run};

const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// How long a result waits for its output to get through.
const OUTPUT: Duration = Duration::from_secs(600);

/// What is of this process alone.
#[derive(Debug, Default)]
pub struct Operations {
    /// Words of kinds that agent.toml allows; `None`: all.
    allow: Option<Vec<String>>,
    running: Mutex<BTreeMap<OperationId, Work>>,
    heard: Mutex<Option<Heard>>,
}

/// An operation of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was asked; of a script without its text, which is in its run's directory.
    pub asked: Operation,
    /// What became of it.
    pub observed: ObservedOperation,
}

/// When the controller's clock was heard.
#[derive(Debug, Clone, Copy)]
struct Heard {
    controller_ms: i64,
    wall_ms: i64,
    at: Instant,
}

impl Operations {
    /// None yet.
    pub fn new(allow: Option<Vec<String>>) -> Self {
        Self { allow, ..Self::default() }
    }
}

impl Heard {
    /// The controller's clock by now. The greater of the two spans: the monotonic clock stands still
    /// while a machine sleeps, and the other one may be set back.
    fn now_ms(self) -> i64 {
        let steady = i64::try_from(self.at.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.controller_ms.saturating_add(steady.max(clock::now_ms() - self.wall_ms))
    }
}

impl Workshop {
    /// The controller has said what time it is.
    pub fn heard(self: &Arc<Self>, controller_ms: i64) {
        let heard = Heard { controller_ms, wall_ms: clock::now_ms(), at: clock::instant() };
        *lock(&self.operations.heard) = Some(heard);
        self.operate();
    }

    /// The controller's clock by now; `None` before it was heard.
    pub fn controller_ms(&self) -> Option<i64> {
        lock(&self.operations.heard).map(Heard::now_ms)
    }

    /// Whether an operation is at work on what health checks look at.
    pub fn is_disturbed(&self, alloc: AllocId) -> bool {
        let disturbs = |work: &Work| match work {
            Work::Make { alloc_id, target, .. } => *alloc_id == alloc && process_after(target).is_some(),
            _ => false,
        };
        lock(&self.operations.running).values().any(disturbs)
    }

    /// Takes up, ends and forgets operations as the desired state has it.
    pub fn operate(self: &Arc<Self>) {
        let desired = self.desired();
        // One decision at a time.
        let mut running = lock(&self.operations.running);
        let known = match self.ledger.operations() {
            Ok(known) => known,
            Err(error) => return tracing::error!(error = chain(&error), "ledger_unreadable"),
        };
        if known.is_empty() && desired.operations.is_empty() {
            return;
        }
        // Before the first desired state nothing is listed, which says nothing.
        if desired.fence != Fence::default() {
            known.iter().for_each(|entry| self.keep_or_forget(entry, &desired, &mut running));
        }
        let (mut news, mut begun) = (false, false);
        let hold = self.on_hold(&desired);
        for asked in &desired.operations {
            let entry = known.iter().find(|entry| entry.asked.id == asked.id);
            let alloc = asked.work.alloc_id();
            let wanted = alloc.and_then(|alloc| desired.allocations.iter().find(|wanted| wanted.alloc_id == alloc));
            // A row has the list of all its files: read only where it matters.
            let matters = entry.is_none() && asked.precondition.is_some_and(|wanted| wanted.bundle.is_some());
            let row = alloc.filter(|_| matters).and_then(|alloc| self.ledger.row(alloc).ok().flatten());
            let view = View {
                now_ms: self.controller_ms(),
                hold: hold.as_deref(),
                allow: self.operations.allow.as_deref(),
                update_seq: desired.fence.update_seq,
                wanted,
                row: row.as_ref(),
                busy: alloc.is_some_and(|alloc| self.is_busy(alloc)),
                running: running.len(),
            };
            match turn(asked, entry.map(|entry| &entry.observed), &view) {
                Turn::Keep | Turn::Wait => {}
                Turn::End(ended) => {
                    tracing::info!(id = %asked.id, kind = asked.work.word(), outcome = ?ended, "operation_not_begun");
                    news |= self.record(asked, clock::now_ms(), Some((ended, 0, 0)));
                }
                Turn::Start => begun |= self.begin_operation(asked, &desired, &mut running),
            }
        }
        drop(running);
        if news {
            self.transient.report_now();
        } else if begun {
            // What is quick is one report.
            self.transient.report_soon();
        }
    }

    fn keep_or_forget(
        self: &Arc<Self>,
        entry: &Entry,
        desired: &DesiredState,
        running: &mut BTreeMap<OperationId, Work>,
    ) {
        let id = entry.asked.id;
        let listed = desired.operations.iter().find(|asked| asked.id == id);
        if entry.observed.outcome.is_some() {
            if listed.is_none()
                && let Err(error) = self.ledger.forget_operation(id)
            {
                tracing::warn!(error = chain(&error), %id, "operation_not_forgotten");
            }
            return;
        }
        if listed.is_none_or(|asked| asked.cancel)
            && let Err(error) = run::cancel(&self.layout.run(&id.to_string()))
        {
            tracing::debug!(%error, %id, "operation_not_cancelled");
        }
        // Of an earlier agent: learn what became of it.
        if !running.contains_key(&id) {
            if is_exclusive(&entry.asked.work)
                && let Some(alloc) = entry.asked.work.alloc_id()
            {
                self.take(alloc);
            }
            let started_ms = entry.observed.started_ms;
            let resume = move |shop: &Arc<Self>, asked: &Operation| shop.resume_operation(asked, started_ms);
            self.spawn_operation(&entry.asked, running, resume);
        }
    }

    /// Begins one; whether that is news.
    fn begin_operation(
        self: &Arc<Self>,
        asked: &Operation,
        desired: &Arc<DesiredState>,
        running: &mut BTreeMap<OperationId, Work>,
    ) -> bool {
        let exclusive = asked.work.alloc_id().filter(|_| is_exclusive(&asked.work));
        if exclusive.is_some_and(|alloc| !self.take(alloc)) {
            return false;
        }
        let started_ms = clock::now_ms();
        let dir = self.layout.run(&asked.id.to_string());
        // On record before anything of it happens.
        let prepared = durable::private_dir(&dir).map_err(|error| error.to_string()).and_then(|()| match &asked.work {
            Work::Script { body } => {
                durable::write_soon(&dir.join(run::SCRIPT), body.as_bytes(), 0o600).map_err(|e| e.to_string())
            }
            _ => Ok(()),
        });
        let problem = prepared.err().map(|reason| (Ended::Refused { reason }, 0, 0));
        let failed = problem.is_some();
        let recorded = self.record(asked, started_ms, problem);
        if failed || !recorded {
            if let Some(alloc) = exclusive {
                self.give_back(alloc);
            }
            return recorded;
        }
        failpoint::hit("operation::recorded");
        tracing::info!(id = %asked.id, kind = asked.work.word(), label = asked.work.label(), "operation_begun");
        let desired = desired.clone();
        let run = move |shop: &Arc<Self>, asked: &Operation| shop.run_operation(asked, &desired, started_ms);
        self.spawn_operation(asked, running, run);
        self.stirred.notify_one();
        true
    }

    fn spawn_operation(
        self: &Arc<Self>,
        asked: &Operation,
        running: &mut BTreeMap<OperationId, Work>,
        work: impl FnOnce(&Arc<Self>, &Operation) + Send + 'static,
    ) {
        running.insert(asked.id, asked.work.clone());
        let (shop, asked) = (self.clone(), asked.clone());
        let (id, alloc) = (asked.id, asked.work.alloc_id().filter(|_| is_exclusive(&asked.work)));
        let spawned = std::thread::Builder::new().name("operation".into()).stack_size(512 << 10).spawn(move || {
            work(&shop, &asked);
            lock(&shop.operations.running).remove(&asked.id);
            shop.prune_runs();
            shop.stirred.notify_one();
            if let Some(alloc) = alloc {
                if let Some(job) = asked.work.job() {
                    shop.transient.phase(alloc, job, Phase::Idle);
                }
                shop.give_back(alloc);
                // What was asked for meanwhile.
                shop.dispatch();
            }
            shop.operate();
            shop.transient.report_now();
        });
        if let Err(error) = spawned {
            // It stays on record as begun, and is settled as interrupted when this is asked again.
            tracing::error!(%error, "thread_failed");
            running.remove(&id);
            if let Some(alloc) = alloc {
                self.give_back(alloc);
            }
        }
    }

    /// Writes an operation down; whether that worked.
    fn record(&self, asked: &Operation, started_ms: i64, ended: Option<(Ended, u64, u64)>) -> bool {
        let mut asked = asked.clone();
        if let Work::Script { body } = &mut asked.work {
            body.clear();
        }
        let (outcome, duration_ms, omitted) = match ended {
            Some((outcome, duration_ms, omitted)) => (Some(outcome), duration_ms, omitted),
            None => (None, 0, 0),
        };
        let mut observed = ObservedOperation { id: asked.id, outcome, started_ms, duration_ms, omitted };
        observed.bound();
        let saved = self.ledger.save_operation(&Entry { asked, observed });
        saved.inspect_err(|error| tracing::error!(error = chain(error), "ledger_unwritable")).is_ok()
    }

    /// Writes a result down, however long that takes: a full disk is no reason to forget what was done.
    fn record_result(&self, asked: &Operation, started_ms: i64, ended: (Ended, u64, u64)) {
        let mut attempt = 0;
        while !self.record(asked, started_ms, Some(ended.clone())) {
            std::thread::sleep(RETRY.delay(attempt, clock::random()));
            attempt = attempt.saturating_add(1);
        }
    }

    fn run_operation(self: &Arc<Self>, asked: &Operation, desired: &DesiredState, started_ms: i64) {
        let dir = self.layout.run(&asked.id.to_string());
        let wanted = desired.allocations.iter().find(|wanted| Some(wanted.alloc_id) == asked.work.alloc_id());
        let (place, program, env) = match (&asked.work, wanted) {
            (Work::Make { job, target, env, alloc_id }, Some(wanted)) => {
                self.transient.phase(*alloc_id, job, Phase::Running);
                let mut all = environment(desired, wanted);
                all.extend(env.clone());
                (self.layout.job(job), run::Program::Make { target: target.clone() }, all)
            }
            (Work::Logs { job, tail, follow, .. }, Some(_)) => {
                let program = run::Program::Logs { tail: *tail, follow: *follow };
                (self.layout.job(job), program, BTreeMap::new())
            }
            (Work::Script { .. }, _) => {
                let mut env: BTreeMap<String, String> = ["PATH", "HOME", "LANG"]
                    .into_iter()
                    .filter_map(|key| Some((key.to_owned(), std::env::var(key).ok()?)))
                    .collect();
                env.insert("BUCKET_ID".to_owned(), desired.bucket_id.to_string());
                env.insert("WORKER_IP".to_owned(), desired.host.to_string());
                (self.layout.bucket().to_owned(), run::Program::Script, env)
            }
            (Work::Probe { alloc_id, health, .. }, _) => {
                let begin = clock::instant();
                let ended = self.probe(asked, *alloc_id, health, &dir);
                let duration_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.record_result(asked, started_ms, (ended, duration_ms, 0));
                return;
            }
            (Work::Make { .. } | Work::Logs { .. } | Work::Unknown, _) => return,
        };
        let source = Source::Operation { operation_id: asked.id };
        let spec = run::Spec {
            dir: place,
            program,
            timeout_s: asked.timeout_s,
            env,
            source,
            run_id: asked.run_id,
            until: None,
            left: None,
        };
        let scope = run::scope(asked.work.job().map_or("script", |job| job.as_str()), &asked.id.to_string());
        let mut shipping = Shipping::new(&dir, &spec);
        let tick = || drop(shipping.send(&self.net, &self.client, false));
        let ended = run::perform(&dir, &spec, scope.as_deref(), tick).unwrap_or_else(|error| {
            run::Ended::without(Outcome::Refused { reason: format!("it cannot be started: {error}") })
        });
        self.end_operation(asked, started_ms, ended, Some(shipping));
    }

    fn resume_operation(self: &Arc<Self>, asked: &Operation, started_ms: i64) {
        let dir = self.layout.run(&asked.id.to_string());
        let mut shipping = Shipping::resume(&dir);
        let ended = run::settle(&dir, None, || {
            if let Some(shipping) = &mut shipping {
                drop(shipping.send(&self.net, &self.client, false));
            }
        });
        self.end_operation(asked, started_ms, ended, shipping);
    }

    /// The output, then the result: who has the result has all of the output that there will be.
    fn end_operation(
        self: &Arc<Self>,
        asked: &Operation,
        started_ms: i64,
        ended: run::Ended,
        shipping: Option<Shipping>,
    ) {
        failpoint::hit("operation::after_exit");
        if let Some(mut shipping) = shipping {
            let end = clock::instant() + OUTPUT;
            let mut attempt = 0;
            while let Err(error) = shipping.send(&self.net, &self.client, true) {
                let hopeless = matches!(error, Failed::Refused { status: 400 | 404 | 413, .. });
                let listed = self.desired().operations.iter().any(|listed| listed.id == asked.id);
                if hopeless || !listed || clock::instant() >= end {
                    tracing::warn!(error = chain(&error), id = %asked.id, "output_not_sent");
                    break;
                }
                std::thread::sleep(RETRY.delay(attempt, clock::random()));
                attempt = attempt.saturating_add(1);
            }
        }
        let outcome = match ended.outcome {
            _ if ended.cancelled => Ended::Cancelled,
            Outcome::Ok => Ended::Ok,
            Outcome::Failed { exit } => Ended::Failed { exit },
            Outcome::TimedOut => Ended::TimedOut,
            Outcome::Interrupted => Ended::Interrupted,
            Outcome::Refused { reason } => Ended::Refused { reason },
        };
        tracing::info!(id = %asked.id, ?outcome, duration_ms = ended.duration_ms, "operation_ended");
        if let Work::Make { alloc_id, target, .. } = &asked.work
            && let Some(good) = process_after(target)
            && let Ok(Some(mut row)) = self.ledger.row(*alloc_id)
        {
            row.process = match &outcome {
                Ended::Ok => good,
                Ended::Failed { .. } | Ended::TimedOut => Process::Failed,
                _ => Process::Unknown,
            };
            // Whoever did that knows better than what was so before the boot.
            row.boot = row.boot.filter(|boot| boot.outcome.is_some());
            if let Err(error) = self.ledger.save(&row) {
                tracing::error!(error = chain(&error), "ledger_unwritable");
            }
        }
        let omitted = logs::omitted(&self.layout.run(&asked.id.to_string()));
        self.record_result(asked, started_ms, (outcome, ended.duration_ms, omitted));
        failpoint::hit("operation::result");
    }

    /// Asks until all is good, the attempts are used up, the time is over, or nobody wants to know.
    fn probe(&self, asked: &Operation, alloc: AllocId, health: &HealthSpec, dir: &std::path::Path) -> Ended {
        let Some(place) = self.place_of(alloc) else { return Ended::Cancelled };
        let end = clock::instant() + Duration::from_secs(asked.timeout_s);
        let mut failed = 0;
        loop {
            let answer = self.net.block_on(self.prober.clone().ask(health.clone(), place.clone()));
            let Some(problem) = answer else { return Ended::Ok };
            failed += 1;
            let pause = Duration::from_secs(health.interval_s.clamp(1, 3600));
            if failed >= health.attempts.max(1) || clock::instant() + pause >= end {
                return Ended::Unhealthy { problem };
            }
            std::thread::sleep(pause);
            if dir.join(run::CANCEL).is_file() {
                return Ended::Cancelled;
            }
        }
    }

    /// The directories of runs of operations whose result is not known yet.
    pub fn operations_in_use(&self) -> Vec<std::path::PathBuf> {
        lock(&self.operations.running).keys().map(|id| self.layout.run(&id.to_string())).collect()
    }
}

/// What is known of a job's process after a target went well; `None` for targets that say nothing of it.
pub fn process_after(target: &str) -> Option<Process> {
    match target {
        "start" | "restart" | "reload" => Some(Process::Started),
        "stop" => Some(Process::Stopped),
        _ => None,
    }
}
