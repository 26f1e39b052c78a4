//! Edge: the writing half of desired states, and what was promoted. drive alone writes here.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};
use shared::api::v1::desired::{DesiredAction, Fence, RunState};
use shared::{BundleDigest, RunId, WorkerId};

use super::desired::state_word;
use super::{During, Result, parsed, to_json};
use crate::model::Snapshot;
use crate::rollout::event::Release;

/// A deploy begins: update_seq moves, and every worker is told of it, and of its active allocations.
pub fn begin(connection: &Connection, snapshot: &Snapshot, update_seq: u64, now_ms: i64) -> Result<()> {
    connection.execute("UPDATE bucket SET update_seq = ?1", [update_seq]).during("moving update_seq")?;
    for worker in &snapshot.workers {
        connection
            .prepare_cached(
                "INSERT INTO desired_worker (worker_id, host, labels, epoch, update_seq, generation, issued_at, prefetch) \
                 VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, '[]') ON CONFLICT (worker_id) DO UPDATE SET host = excluded.host, \
                   labels = excluded.labels, epoch = excluded.epoch, update_seq = excluded.update_seq, \
                   generation = generation + 1, issued_at = excluded.issued_at, prefetch = '[]'",
            )
            .and_then(|mut upsert| {
                let labels = serde_json::to_string(&worker.labels).unwrap_or_else(|_| "[]".to_owned());
                upsert.execute(params![
                    worker.worker_id.to_string(),
                    worker.host.as_str(),
                    labels,
                    snapshot.epoch,
                    update_seq,
                    now_ms
                ])
            })
            .during("telling a worker of a deploy")?;
    }
    for allocation in snapshot.allocations.iter().filter(|a| a.is_active()) {
        // Before its first release an allocation is named without files; later its row says what it has.
        connection
            .prepare_cached(
                "INSERT INTO desired_allocation (alloc_id, worker_id, job, state, disabled, bundle, current_version, new_version) \
                 VALUES (?1, ?2, ?3, ?4, 0, NULL, '0.0.0', ?5) ON CONFLICT (alloc_id) DO UPDATE SET \
                   bundle = iif(worker_id = excluded.worker_id, bundle, NULL), \
                   action = iif(worker_id = excluded.worker_id, action, NULL), worker_id = excluded.worker_id",
            )
            .and_then(|mut upsert| {
                upsert.execute(params![
                    allocation.alloc_id.to_string(),
                    allocation.worker_id.to_string(),
                    allocation.job.as_str(),
                    state_word(RunState::Running),
                    allocation.new_version
                ])
            })
            .during("naming an allocation to its worker")?;
    }
    Ok(())
}

/// Writes releases, and what is to be downloaded early; the fence of each worker that was told something.
pub fn release(
    connection: &Connection,
    releases: &[Release],
    early: &[(WorkerId, BundleDigest)],
    run: RunId,
    now_ms: i64,
) -> Result<Vec<(WorkerId, Fence)>> {
    let mut workers = BTreeSet::new();
    for release in releases {
        let action =
            DesiredAction { id: release.action_id, kind: release.kind, timeout_s: release.timeout_s, run_id: run };
        connection
            .prepare_cached(
                "UPDATE desired_allocation SET state = ?2, bundle = ?3, current_version = ?4, new_version = ?5, action = ?6, \
                   dir_mode = ?7 \
                 WHERE alloc_id = ?1",
            )
            .and_then(|mut update| {
                let action = serde_json::to_string(&action).unwrap_or_default();
                update.execute(params![
                    release.alloc_id.to_string(),
                    state_word(RunState::Running),
                    release.bundle.to_string(),
                    release.current_version,
                    release.new_version,
                    action,
                    release.dir_mode
                ])
            })
            .during("releasing an allocation")?;
        workers.insert(release.worker_id);
    }
    let brought = releases.iter().map(|release| (release.worker_id, release.bundle, false));
    for (worker, bundle, wanted) in brought.chain(early.iter().map(|(worker, bundle)| (*worker, *bundle, true))) {
        if prefetch(connection, worker, bundle, wanted)? {
            workers.insert(worker);
        }
    }
    let mut fences = Vec::new();
    for worker in workers {
        let fence = connection
            .prepare_cached(
                "UPDATE desired_worker SET generation = generation + 1, issued_at = ?2 WHERE worker_id = ?1 \
                 RETURNING epoch, update_seq, generation",
            )
            .and_then(|mut update| {
                update.query_row(params![worker.to_string(), now_ms], |row| {
                    Ok(Fence { epoch: row.get(0)?, update_seq: row.get(1)?, generation: row.get(2)? })
                })
            })
            .during("moving a worker's generation")?;
        fences.push((worker, fence));
    }
    Ok(fences)
}

/// Puts a bundle on the list of what a worker downloads early, or takes it off; whether that changed it.
fn prefetch(connection: &Connection, worker: WorkerId, bundle: BundleDigest, wanted: bool) -> Result<bool> {
    use rusqlite::OptionalExtension;
    let list: Option<String> = connection
        .prepare_cached("SELECT prefetch FROM desired_worker WHERE worker_id = ?1")
        .and_then(|mut select| select.query_row([worker.to_string()], |row| row.get(0)).optional())
        .during("reading what a worker downloads early")?;
    let mut list: BTreeSet<BundleDigest> = match list {
        Some(list) => super::from_json("desired_worker.prefetch", &list)?,
        None => return Ok(false),
    };
    let changed = if wanted { list.insert(bundle) } else { list.remove(&bundle) };
    if changed {
        connection
            .prepare_cached("UPDATE desired_worker SET prefetch = ?2 WHERE worker_id = ?1")
            .and_then(|mut update| {
                let list = serde_json::to_string(&list).unwrap_or_else(|_| "[]".to_owned());
                update.execute(params![worker.to_string(), list])
            })
            .during("telling a worker what to download early")?;
    }
    Ok(changed)
}

/// Records that an allocation passed its gate.
pub fn promote(
    connection: &Connection,
    alloc: shared::AllocId,
    bundle: shared::BundleDigest,
    version: &str,
    run: RunId,
    now_ms: i64,
) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO promoted (alloc_id, bundle, version, promoted_at, run_id) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (alloc_id) DO UPDATE SET bundle = excluded.bundle, version = excluded.version, \
               promoted_at = excluded.promoted_at, run_id = excluded.run_id",
        )
        .and_then(|mut upsert| {
            upsert.execute(params![alloc.to_string(), bundle.to_string(), version, now_ms, run.to_string()])
        })
        .during("promoting an allocation")?;
    connection
        .prepare_cached("UPDATE allocation SET start_pending = 0 WHERE alloc_id = ?1")
        .and_then(|mut update| update.execute([alloc.to_string()]))
        .during("promoting an allocation")?;
    Ok(())
}

/// The rollout that has not ended, if there is one.
pub fn open_rollout(connection: &Connection) -> Result<Option<OpenRollout>> {
    use rusqlite::OptionalExtension;
    type Raw = (String, u64, String, Option<String>, Option<i64>);
    let row: Option<Raw> = connection
        .query_row(
            "SELECT run_id, update_seq, options, lease_owner, lease_until FROM rollout WHERE state IN ('running', 'paused')",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )
        .optional()
        .during("looking for a rollout")?;
    let Some((run, update_seq, options, owner, until_ms)) = row else { return Ok(None) };
    Ok(Some(OpenRollout {
        run: parsed("rollout.run_id", &run)?,
        update_seq,
        options: super::from_json("rollout.options", &options)?,
        owner,
        until_ms,
    }))
}

/// A rollout that has not ended.
#[derive(Debug, Clone)]
pub struct OpenRollout {
    /// Its id.
    pub run: RunId,
    /// Its number.
    pub update_seq: u64,
    /// What was asked for.
    pub options: crate::plan::Options,
    /// Who drives it, or did last.
    pub owner: Option<String>,
    /// Until when.
    pub until_ms: Option<i64>,
}

/// Creates a rollout with its jobs.
pub fn create_rollout(
    connection: &Connection,
    run: RunId,
    options: &crate::plan::Options,
    update_seq: u64,
    lease: (&str, i64),
    now_ms: i64,
) -> Result<()> {
    connection
        .execute(
            "INSERT INTO rollout (run_id, state, attended, options, update_seq, created_at, lease_owner, lease_until) \
             VALUES (?1, 'running', 1, ?2, ?3, ?4, ?5, ?6)",
            params![run.to_string(), to_json("rollout.options", options)?, update_seq, now_ms, lease.0, lease.1],
        )
        .during("beginning a rollout")?;
    Ok(())
}

/// Writes how far a job is; its plan once.
pub fn save_job(connection: &Connection, run: RunId, job: &crate::rollout::job::JobRollout) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO rollout_job (run_id, job, plan, state) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (run_id, job) DO UPDATE SET state = excluded.state",
        )
        .and_then(|mut upsert| {
            let (plan, state) = (serde_json::to_string(&job.plan), serde_json::to_string(&job.state));
            upsert.execute(params![
                run.to_string(),
                job.plan.job.as_str(),
                plan.unwrap_or_default(),
                state.unwrap_or_default()
            ])
        })
        .during("recording how far a job is")?;
    Ok(())
}

/// Reads how far every job of a rollout is.
pub fn load_jobs(connection: &Connection, run: RunId) -> Result<Vec<crate::rollout::job::JobRollout>> {
    let mut select = connection
        .prepare_cached("SELECT plan, state FROM rollout_job WHERE run_id = ?1 ORDER BY job")
        .during("reading how far a rollout is")?;
    let mut rows = select.query([run.to_string()]).during("reading how far a rollout is")?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next().during("reading how far a rollout is")? {
        let (plan, state): (String, String) =
            (row.get(0).during("reading a rollout's job")?, row.get(1).during("reading a rollout's job")?);
        jobs.push(crate::rollout::job::JobRollout {
            plan: super::from_json("rollout_job.plan", &plan)?,
            state: super::from_json("rollout_job.state", &state)?,
        });
    }
    Ok(jobs)
}

/// Takes or renews the lease of a rollout; `false` when somebody else has it.
pub fn lease(connection: &Connection, run: RunId, owner: &str, until_ms: i64, now_ms: i64) -> Result<bool> {
    let taken = connection
        .prepare_cached(
            "UPDATE rollout SET lease_owner = ?2, lease_until = ?3, state = 'running' WHERE run_id = ?1 \
             AND state IN ('running', 'paused') \
             AND (lease_owner IS NULL OR lease_owner = ?2 OR lease_until < ?4 OR state = 'paused')",
        )
        .and_then(|mut update| update.execute(params![run.to_string(), owner, until_ms, now_ms]))
        .during("taking the lease of a rollout")?;
    Ok(taken == 1)
}

/// The rollout has ended, or is paused; nothing is written when somebody else drives it by now.
pub fn end_rollout(connection: &Connection, run: RunId, owner: &str, state: &str, now_ms: i64) -> Result<()> {
    connection
        .execute(
            "UPDATE rollout SET state = ?2, ended_at = iif(?2 = 'paused', NULL, ?3), lease_owner = NULL, lease_until = NULL \
             WHERE run_id = ?1 AND lease_owner = ?4",
            params![run.to_string(), state, now_ms, owner],
        )
        .during("ending a rollout")?;
    Ok(())
}
