//! Edge: one hook for one allocation, from its directory to its end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use shared::diagnostic::chain;
use shared::{Host, JobName, Name, WorkerId};

use super::Call;
use super::api::{Api, Demanding, Invocation};
use super::env::{self, Extras, Subject};
use super::interpreter::Interpreter;
use super::overlay::Overlay;
use super::report::Ran;
use super::run::{self, Outcome, Process, Stop};
use super::sink::Sink;
use super::stage::{CertFile, Stages};
use super::values::Values;
use crate::catalog::{kv, read};
use crate::failure::Failure;
use crate::model::kv::Namespace;
use crate::model::{Allocation, Hook, HookEvent, JobFile, Snapshot};
use crate::paths::BucketDir;

/// What all runs of a runner share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) bucket: BucketDir,
    pub(super) api: Api,
    pub(super) stages: Stages,
    pub(super) values: Arc<Values>,
    pub(super) sink: Arc<dyn Sink>,
}

/// A hook that is about to run.
pub(super) struct OneHook {
    pub(super) name: Name,
    timeout: Duration,
    event: HookEvent,
    extras: Extras,
    program: Interpreter,
    files: Arc<[JobFile]>,
    overlay: Arc<Overlay>,
    upstream: Arc<BTreeSet<JobName>>,
    demands: Arc<Vec<Demanding>>,
    workers: Arc<Vec<(Host, WorkerId)>>,
}

impl OneHook {
    pub(super) fn new(
        snapshot: &Snapshot,
        call: &Call<'_>,
        name: &Name,
        hook: &Hook,
        program: Interpreter,
        files: Arc<[JobFile]>,
        overlay: Arc<Overlay>,
    ) -> Self {
        let own = snapshot.job(call.job).into_iter().flat_map(|job| job.spec.hooks.values());
        let upstream = own.filter_map(|hook| hook.demand.as_ref()).map(|demand| demand.job.clone()).collect();
        let demands = snapshot.jobs.iter().flat_map(|job| {
            job.spec.hooks.iter().filter_map(|(of, hook)| {
                let demand = hook.demand.as_ref()?;
                (demand.job == *call.job && demand.hook == *name).then(|| Demanding {
                    job: job.name.clone(),
                    hook: of.clone(),
                    config: demand.config.clone(),
                })
            })
        });
        let workers = snapshot.allocations_of(call.job).map(|a| (a.host.clone(), a.worker_id));
        Self {
            name: name.clone(),
            timeout: Duration::from_secs(hook.timeout_s),
            event: call.event,
            extras: call.extras.clone(),
            program,
            files,
            overlay,
            upstream: Arc::new(upstream),
            demands: Arc::new(demands.collect()),
            workers: Arc::new(workers.collect()),
        }
    }
}

impl Inner {
    /// The job's files.
    pub(super) fn files(&self, job: &JobName) -> Result<Vec<JobFile>, Failure> {
        Ok(self.values.read(|tx| read::files_of(tx, job))?)
    }

    /// One process, from its directory to its end.
    pub(super) async fn one(
        self: &Arc<Self>,
        hook: &OneHook,
        target: &Allocation,
        index: Option<usize>,
        stop: &Stop,
    ) -> Ran {
        let ran = |outcome, duration_ms, last| Ran {
            hook: hook.name.clone(),
            alloc_id: target.alloc_id,
            host: target.host.clone(),
            outcome,
            duration_ms,
            last,
        };
        if stop.ask.is_cancelled() {
            return ran(Outcome::Interrupted, 0, Vec::new());
        }
        let not_started = |why: String| ran(Outcome::NotStarted { why }, 0, Vec::new());
        let pass = self.api.admit(|number| Invocation {
            number,
            alloc_id: target.alloc_id,
            job: target.job.clone(),
            host: target.host.clone(),
            event: hook.event,
            hook: hook.name.clone(),
            upstream: hook.upstream.clone(),
            demands: hook.demands.clone(),
            workers: hook.workers.clone(),
            overlay: hook.overlay.clone(),
            refused: AtomicU32::new(0),
        });
        let pass = match pass {
            Ok(pass) => pass,
            Err(error) => return not_started(chain(&error)),
        };
        let (this, allocation, files) = (self.clone(), target.clone(), hook.files.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            let (index, certs) = this.of_allocation(&allocation, index)?;
            let stage = this.stages.make(&allocation, &files, &certs);
            stage.map(|stage| (stage, index)).map_err(|error| format!("its directory cannot be made: {error}"))
        });
        let (stage, index) = match prepared.await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(why)) => return not_started(why),
            Err(error) => return not_started(error.to_string()),
        };
        let subject = Subject { allocation: target, index: &index, event: hook.event, hook: &hook.name };
        let mut arguments = hook.program.arguments.clone();
        arguments.push(hook.program.script.clone().into());
        let process = Process {
            program: hook.program.program.clone(),
            arguments,
            dir: stage.modules(),
            env: env::environment(inherited(), &subject, &hook.extras, self.api.url(), &pass.token),
            timeout: hook.timeout,
        };
        let (sink, invocation) = (self.sink.clone(), pass.invocation.clone());
        let who = pass.invocation.clone();
        let who = who.who();
        sink.started(&who);
        let give: run::Give = {
            let (sink, values) = (sink.clone(), self.values.clone());
            Arc::new(move |lines| sink.lines(&invocation.who(), &values.redacted(&invocation.overlay, lines)))
        };
        let ended = run::run(process, stop, give).await;
        let held = pass.end();
        if ended.lingered {
            sink.warning(Some(&who), &format!("{} left processes running: they were ended with it", hook.name));
        }
        if !held.is_empty() && ended.outcome == Outcome::Ok {
            let names = held.join(", ");
            sink.warning(Some(&who), &format!("{} ended with a semaphore held, given back for it: {names}", hook.name));
        }
        let duration_ms = u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX);
        sink.ended(&who, &ended.outcome, duration_ms);
        drop(tokio::task::spawn_blocking(move || drop(stage)).await);
        ran(ended.outcome, duration_ms, self.values.redacted(&hook.overlay, &ended.last))
    }

    /// What the catalog has of an allocation: its index, and its certificates.
    fn of_allocation(&self, allocation: &Allocation, index: Option<usize>) -> Result<(String, Vec<CertFile>), String> {
        let own = Namespace::Allocation(allocation.job.clone(), allocation.host.clone());
        let index = match index {
            Some(index) => index.to_string(),
            None => {
                let key = format!("{}_allocation_index", allocation.job);
                let last = self.values.read(|tx| kv::last(tx, &own.to_string(), &key));
                last.map_err(|error| chain(&error))?.unwrap_or_default()
            }
        };
        let committed = Overlay::default();
        let mut certs = Vec::new();
        let keys = self.values.keys(&committed, &own).map_err(|error| error.to_string())?;
        let own = keys.iter().filter(|key| key.starts_with("certs/")).map(|key| (&own, key.as_str()));
        for (namespace, key) in own.chain([(&Namespace::Workers, "certs/ca.crt")]) {
            let pem = self.values.get(&committed, namespace, key).map_err(|error| error.to_string())?;
            if let (Some(pem), Some(name)) = (pem, key.strip_prefix("certs/")) {
                certs.push((name.to_owned(), pem.to_string(), name.ends_with(".key")));
            }
        }
        Ok((index, certs))
    }
}

/// The place of an allocation among those that are not removed (`maand/job/<job>/worker/<host>`).
pub(super) fn placed(snapshot: &Snapshot, target: &Allocation) -> Option<usize> {
    snapshot.allocations_of(&target.job).filter(|a| !a.removed).position(|a| a.alloc_id == target.alloc_id)
}

/// Hooks inherit the command's environment.
fn inherited() -> std::env::VarsOs {
    std::env::vars_os()
}
