//! Edge: carries out a step of the machine: everything that is written, in one transaction.

use std::collections::BTreeMap;

use rusqlite::Connection;
use shared::{RunId, WorkerId};

use super::{Driver, Progress, RandomIds};
use crate::catalog::publish::{self, Told};
use crate::catalog::{self, Catalog, rollout as rows};
use crate::model::{HookEvent, Snapshot};
use crate::paths::BucketDir;
use crate::plan::Plan;
use crate::rollout::{Effect, Event, Rollout};
use crate::serve::notify::wake;

impl Driver {
    /// One step of the machine, carried out. After an error the machine is ahead of its rows: it must be
    /// loaded again.
    pub(super) fn step(
        &mut self,
        catalog: &mut Catalog,
        bucket: &BucketDir,
        events: &[Event],
        now_ms: i64,
        release: bool,
        progress: &dyn Progress,
    ) -> catalog::Result<()> {
        let effects = self.rollout.step(events, now_ms, release, &mut RandomIds);
        self.carry_out(catalog, bucket, &effects, now_ms, progress)
    }

    /// Ends what has not ended.
    pub(super) fn give_up(
        &mut self,
        catalog: &mut Catalog,
        bucket: &BucketDir,
        now_ms: i64,
        progress: &dyn Progress,
    ) -> catalog::Result<()> {
        let effects = self.rollout.abort(now_ms);
        self.carry_out(catalog, bucket, &effects, now_ms, progress)
    }

    fn carry_out(
        &mut self,
        catalog: &mut Catalog,
        bucket: &BucketDir,
        effects: &[Effect],
        now_ms: i64,
        progress: &dyn Progress,
    ) -> catalog::Result<()> {
        let told = told(effects);
        let (run, rollout) = (self.run, &mut self.rollout);
        if effects.is_empty() && !rollout.is_unsaved() {
            return Ok(());
        }
        catalog.write(|tx| {
            let fences: BTreeMap<WorkerId, _> = publish::tell(tx, &told, run, now_ms)?.into_iter().collect();
            for release in &told.releases {
                if let Some(fence) = fences.get(&release.worker_id) {
                    rollout.released_in(release.alloc_id, *fence);
                }
            }
            record(tx, effects, run, now_ms)?;
            save(tx, run, rollout)
        })?;
        if !told.is_empty() {
            wake(bucket);
        }
        for effect in effects {
            if let Effect::Moved { job, host, what } = effect {
                progress.moved(job, host.as_ref(), what);
            }
        }
        Ok(())
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
