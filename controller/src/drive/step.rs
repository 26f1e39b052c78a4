//! Edge: carries out a step of the machine: everything that is written, in one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::Connection;
use shared::{JobName, RunId, WorkerId};

use super::survey::Survey;
use super::{Context, Driver, RandomIds};
use crate::catalog::publish::{self, Told};
use crate::catalog::{self, Catalog, read, rollout as rows};
use crate::clock;
use crate::hooks::overlay::{Overlay, Write, commit};
use crate::model::{HookEvent, Snapshot};
use crate::plan::{JobPlan, Options, Plan};
use crate::rollout::event::Moved;
use crate::rollout::{Effect, Event, Rollout};
use crate::serve::notify::wake;

impl Driver {
    /// One step of the machine, carried out, with what hooks wrote. After an error the machine is ahead of
    /// its rows: it must be loaded again.
    pub(super) fn step(
        &mut self,
        catalog: &mut Catalog,
        context: &Context<'_>,
        events: &[Event],
        writes: &[Write],
        now_ms: i64,
        release: bool,
    ) -> catalog::Result<()> {
        let effects = self.rollout.step(events, now_ms, release, &mut RandomIds);
        self.carry_out(catalog, context, &effects, writes, now_ms, release)
    }

    /// Ends what has not ended.
    pub(super) fn give_up(&mut self, catalog: &mut Catalog, context: &Context<'_>, now_ms: i64) -> catalog::Result<()> {
        let effects = self.rollout.abort(now_ms);
        self.carry_out(catalog, context, &effects, &[], now_ms, false)
    }

    pub(super) fn carry_out(
        &mut self,
        catalog: &mut Catalog,
        context: &Context<'_>,
        effects: &[Effect],
        writes: &[Write],
        now_ms: i64,
        release: bool,
    ) -> catalog::Result<()> {
        let told = told(effects);
        let (run, rollout) = (self.run, &mut self.rollout);
        if effects.is_empty() && writes.is_empty() && !rollout.is_unsaved() {
            return Ok(());
        }
        let (owner, wall_ms) = (self.owner.as_str(), clock::now_ms());
        // Asked in the same transaction: a driver that stood still, or whose clock was set, may have been taken for
        // one that is gone, and what it writes would then be two drivers' work.
        self.is_lost = !catalog.write(|tx| {
            if !rows::has_lease(tx, run, owner)? {
                return Ok(false);
            }
            commit(tx, writes, wall_ms)?;
            let fences: BTreeMap<WorkerId, _> = publish::tell(tx, &told, run, wall_ms)?.into_iter().collect();
            for release in &told.releases {
                if let Some(fence) = fences.get(&release.worker_id) {
                    rollout.released_in(release.alloc_id, *fence);
                }
            }
            record(tx, effects, run, wall_ms)?;
            save(tx, run, rollout).map(|()| true)
        })?;
        if self.is_lost {
            return Ok(());
        }
        let written_ms = self.steady.now_ms();
        told.withdrawn.iter().for_each(|(alloc, ..)| self.rollout.taken_back_at(*alloc, written_ms));
        if !told.is_empty() {
            wake(context.bucket);
        }
        let mut decided = Vec::new();
        for effect in effects {
            match effect {
                Effect::Moved { job, host, what } => context.progress.moved(job, host.as_ref(), what),
                Effect::Hooks(call) => {
                    if let Some(job) = self.rollout.jobs().find(|job| job.plan.job == call.job) {
                        context.hands.call(&self.snapshot, &job.plan, call.clone());
                    }
                }
                Effect::Decide { job } => {
                    let plan = self.decide(catalog, context, job)?.map(Box::new);
                    decided.push(Event::Decided { job: job.clone(), plan });
                }
                _ => {}
            }
        }
        // What was decided is a step of its own.
        if decided.is_empty() { Ok(()) } else { self.step(catalog, context, &decided, &[], now_ms, release) }
    }

    /// Makes the files of a job anew with what hooks wrote, and plans it anew; `Err` within says why it has
    /// no plan.
    fn decide(
        &mut self,
        catalog: &mut Catalog,
        context: &Context<'_>,
        job: &JobName,
    ) -> catalog::Result<Result<JobPlan, String>> {
        let built_ms = catalog.read(|tx| Ok(read::summary(tx)?.built_at_ms))?;
        if self.is_stale || built_ms != self.snapshot.built_at_ms {
            return Ok(Err("the workspace was built anew while this deploy ran: run maand deploy again".to_owned()));
        }
        let bundles = match context.hands.again(catalog, &self.snapshot, job, Overlay::new(), true) {
            Ok(bundles) => bundles,
            Err(problems) => {
                let said = problems.first().map_or_else(String::new, |problem| problem.message.clone());
                self.problems.insert(job.clone(), problems);
                return Ok(Err(said));
            }
        };
        catalog.write(|tx| publish::remade(tx, job, &bundles))?;
        let options = Options { jobs: [job.clone()].into(), ..self.options.clone() };
        let survey = Survey::take(catalog, &options, true, clock::now_ms())?;
        let mut plan = survey.plan(&options);
        for note in std::mem::take(&mut plan.notes) {
            let of_job = format!("job {job}: ");
            let note = note.strip_prefix(&of_job).map_or(note.clone(), str::to_owned);
            context.progress.moved(job, None, &Moved::Noted(note));
        }
        let plan = plan.jobs.pop();
        self.snapshot = Arc::new(survey.snapshot);
        Ok(plan.ok_or_else(|| "it has no allocations any more".to_owned()))
    }
}

fn told(effects: &[Effect]) -> Told {
    let mut told = Told::default();
    for effect in effects {
        match effect {
            Effect::Release(release) => told.releases.push(release.clone()),
            Effect::Withdraw { alloc_id, worker_id, bundle } => told.withdrawn.push((*alloc_id, *worker_id, *bundle)),
            Effect::Prefetch { worker_id, bundle } => told.early.push((*worker_id, *bundle)),
            _ => {}
        }
    }
    told
}

/// Writes what is recorded of allocations. To be called inside a write transaction.
pub(super) fn record(tx: &Connection, effects: &[Effect], run: RunId, now_ms: i64) -> catalog::Result<()> {
    for effect in effects {
        match effect {
            Effect::Promote { alloc_id, bundle, version } => {
                publish::promote(tx, *alloc_id, *bundle, version, run, now_ms)?;
            }
            Effect::Stopped { alloc_id } => publish::stopped(tx, *alloc_id)?,
            Effect::Removed { alloc_id } => publish::removed(tx, *alloc_id)?,
            Effect::Failed { alloc_id, unhealthy } => publish::failed(tx, *alloc_id, *unhealthy)?,
            Effect::Deferred { alloc_id, since_ms, bundle, version } => {
                publish::deferred(tx, *alloc_id, *since_ms, *bundle, version)?;
            }
            Effect::PostDeploy { job, status } => publish::post_deploy(tx, job, Some(*status))?,
            _ => {}
        }
    }
    Ok(())
}

/// Writes what changed of every job.
pub(super) fn save(tx: &Connection, run: RunId, rollout: &mut Rollout) -> catalog::Result<()> {
    for job in rollout.jobs_mut() {
        let unsaved = job.take_unsaved();
        rows::save_job(tx, run, job, &unsaved)?;
    }
    Ok(())
}

/// A job that has no post_deploy hooks any more has no status of them.
pub(super) fn forget_post_deploy(tx: &Connection, snapshot: &Snapshot, plan: &Plan) -> catalog::Result<()> {
    for job in plan.jobs.iter().filter(|job| !job.has(HookEvent::PostDeploy)) {
        let has_status = |a: &crate::model::Allocation| a.rolled.as_ref().is_some_and(|r| r.post_deploy.is_some());
        if snapshot.allocations_of(&job.job).any(has_status) && snapshot.job(&job.job).is_some() {
            publish::post_deploy(tx, &job.job, None)?;
        }
    }
    Ok(())
}
