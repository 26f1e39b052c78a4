//! Edge: carries out an allocation's action: runs its make target, and writes down how it went.
#![expect(clippy::disallowed_methods, reason = "edge: the agent's environment")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use shared::ActionKind;
use shared::action::{ENV_CURRENT_VERSION, ENV_NEW_VERSION};
use shared::api::v1::desired::{DesiredAction, DesiredAllocation, DesiredState, RunState};
use shared::api::v1::logs::Source;
use shared::api::v1::report::{ObservedAction, ObservedBoot, Outcome, Phase, Process};
use shared::diagnostic::chain;

use super::{Held, Workshop};
use crate::logs::Shipping;
use crate::reconcile::{Row, Running};
use crate::{clock, failpoint, logs, run};

/// Runs whose output is kept on the worker.
const KEPT_RUNS: usize = 50;

impl Workshop {
    pub(super) fn run(
        &self,
        desired: &DesiredState,
        wanted: &DesiredAllocation,
        mut row: Row,
        action: &DesiredAction,
    ) -> Result<(), Held> {
        let Some(target) = action.kind.make_target() else { return Ok(()) };
        // Who is at work by hand is waited for before anything is on record; the controller is asked again after it.
        drop(self.alone(&row)?);
        self.transient.phase(row.alloc_id, &row.job, Phase::Running);
        let started_ms = clock::now_ms();
        let before = row.clone();
        row = acted(row, wanted, action);
        row.running = Some(Running { action: action.clone(), started_ms, after_boot: false });
        row.action = Some(ObservedAction { id: action.id, outcome: None, started_ms, duration_ms: 0, tail: None });
        // Durable before make starts: whatever happens now, this id is never run again.
        self.save(&row)?;
        self.stirred.notify_one();
        failpoint::hit("run::recorded");
        // It may take that long to write it down, or to get to make: then nothing was begun under the id.
        let too_late = || {
            self.save(&before)?;
            Err(Held::Unconfirmed("the controller's word was too old by then; it is asked again".to_owned()))
        };
        let Some(until) = self.may_begin_until(desired.fence) else { return too_late() };
        let dir = self.layout.run(&action.id.to_string());
        let spec = run::Spec {
            dir: self.layout.job(&row.job),
            program: run::Program::Make { target: target.to_owned() },
            timeout_s: action.timeout_s,
            env: environment(desired, wanted),
            source: Source::Action { action_id: action.id, job: row.job.clone(), target: target.to_owned() },
            run_id: action.run_id,
            until: Some(until),
            left: None,
        };
        let scope = run::scope(row.job.as_str(), &action.id.to_string());
        let mut shipping = Shipping::new(&dir, &spec);
        let tick = || drop(shipping.send(&self.net, &self.client, false));
        let ended = match run::perform(&dir, &spec, scope.as_deref(), tick) {
            Ok(ended) if ended.too_late => {
                run::forget(&dir);
                return too_late();
            }
            Ok(ended) => ended,
            Err(error) => {
                run::Ended::without(Outcome::Refused { reason: format!("make {target} cannot be started: {error}") })
            }
        };
        self.ended(row, action, started_ms, &dir, ended, Some(shipping))
    }

    /// The agent was ended while a target ran, or before it did.
    pub(super) fn resume(&self, _: &DesiredAllocation, row: Row, running: &Running) -> Result<(), Held> {
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

    pub(super) fn ended(
        &self,
        row: Row,
        action: &DesiredAction,
        started_ms: i64,
        dir: &Path,
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

    /// The result, durable; the report is made of it.
    pub(super) fn finish(
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
        let after_boot = row.running.take().is_some_and(|running| running.after_boot);
        if after_boot {
            // No rollout's: what the last one asked for stays as it was.
            row.boot = Some(ObservedBoot { outcome: Some(outcome), started_ms, duration_ms, tail });
            self.save(&row)?;
            self.stirred.notify_one();
            self.prune_runs();
            return Ok(());
        }
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

    pub(super) fn runs_in_use(&self) -> Vec<PathBuf> {
        let rows = self.ledger.rows().unwrap_or_default();
        let actions = rows.into_iter().filter_map(|row| row.running.map(|r| self.layout.run(&r.action.id.to_string())));
        actions.chain(self.operations_in_use()).collect()
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
pub(super) fn acted(mut row: Row, wanted: &DesiredAllocation, action: &DesiredAction) -> Row {
    if action.kind != ActionKind::Stop {
        row.version.clone_from(&wanted.new_version);
    }
    if action.kind.make_target().is_some() {
        // What a deploy does now stands in for the start that was owed.
        row.boot = row.boot.filter(|boot| boot.outcome.is_some());
    }
    // Stopped here once, and from now on in the hands of hooks: whether it runs is theirs to know.
    let by_hooks = wanted.health.as_ref().is_some_and(|health| health.by_hooks);
    if by_hooks && wanted.state == RunState::Running && row.process == Process::Stopped {
        row.process = Process::Unknown;
    }
    row
}
