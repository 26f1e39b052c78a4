//! Edge: the writing half of desired states, and what was promoted. drive alone writes here.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, params};
use shared::api::v1::desired::{DesiredAction, Fence, RunState};
use shared::{AllocId, Bundle, BundleDigest, JobName, RunId, WorkerId};

use super::desired::state_word;
use super::{During, Result, from_json, to_json};
use crate::model::{PostDeploy, Snapshot, Worker};
use crate::rollout::Release;

/// `rolled.health_failed`: its last gate was not passed.
pub(super) const UNHEALTHY: u8 = 1;
/// The same: its last action did not end well.
pub(super) const ACTION_FAILED: u8 = 2;

/// A deploy begins: update_seq moves, and every worker is told of it, and of its allocations.
pub fn begin(connection: &Connection, snapshot: &Snapshot, update_seq: u64, now_ms: i64) -> Result<()> {
    connection.execute("UPDATE bucket SET update_seq = ?1", [update_seq]).during("moving update_seq")?;
    for worker in &snapshot.workers {
        name(connection, worker, snapshot.epoch, update_seq, now_ms)?;
    }
    super::holds::forget_ended(connection, now_ms)?;
    for allocation in snapshot.allocations.iter().filter(|a| !a.removed) {
        let self_heal = snapshot.job(&allocation.job).is_some_and(|job| job.spec.self_heal);
        // Before its first release an allocation is named without files; later its row says what it has.
        let state = if allocation.disabled { RunState::Stopped } else { RunState::Running };
        connection
            .prepare_cached(
                "INSERT INTO desired_allocation (alloc_id, worker_id, job, state, disabled, bundle, current_version, new_version, \
                   deployment_seq, self_heal) \
                 VALUES (?1, ?2, ?3, ?4, ?5, NULL, '0.0.0', ?6, ?7, ?8) ON CONFLICT (alloc_id) DO UPDATE SET \
                   bundle = iif(worker_id = excluded.worker_id, bundle, NULL), \
                   action = iif(worker_id = excluded.worker_id, action, NULL), worker_id = excluded.worker_id, \
                   disabled = excluded.disabled, deployment_seq = excluded.deployment_seq, self_heal = excluded.self_heal \
                 WHERE worker_id <> excluded.worker_id OR disabled <> excluded.disabled \
                   OR deployment_seq <> excluded.deployment_seq OR self_heal <> excluded.self_heal",
            )
            .and_then(|mut upsert| {
                upsert.execute(params![
                    allocation.alloc_id.to_string(),
                    allocation.worker_id.to_string(),
                    allocation.job.as_str(),
                    state_word(state),
                    allocation.disabled,
                    allocation.new_version,
                    allocation.deployment_seq,
                    self_heal
                ])
            })
            .during("naming an allocation to its worker")?;
    }
    Ok(())
}

/// Tells a worker who it is and which deploy is the last one, under its next generation.
pub fn name(connection: &Connection, worker: &Worker, epoch: u64, update_seq: u64, now_ms: i64) -> Result<()> {
    let labels = to_json("desired_worker.labels", &worker.labels)?;
    connection
        .prepare_cached(
            "INSERT INTO desired_worker (worker_id, host, labels, epoch, update_seq, generation, issued_at, prefetch) \
             VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, '[]') ON CONFLICT (worker_id) DO UPDATE SET host = excluded.host, \
               labels = excluded.labels, epoch = excluded.epoch, update_seq = excluded.update_seq, \
               generation = generation + 1, issued_at = excluded.issued_at, prefetch = '[]'",
        )
        .and_then(|mut upsert| {
            let (id, host) = (worker.worker_id.to_string(), worker.host.as_str());
            upsert.execute(params![id, host, labels, epoch, update_seq, now_ms])
        })
        .during("telling a worker of a deploy")?;
    Ok(())
}

/// What changes in what workers are told, in one step.
#[derive(Debug, Default)]
pub struct Told {
    /// Releases.
    pub releases: Vec<Release>,
    /// What is taken back: its agent keeps what it has, and may download what it would have got.
    pub withdrawn: Vec<(AllocId, WorkerId, BundleDigest)>,
    /// Early downloads.
    pub early: Vec<(WorkerId, BundleDigest)>,
}

impl Told {
    /// Whether nobody is told anything.
    pub fn is_empty(&self) -> bool {
        self.releases.is_empty() && self.withdrawn.is_empty() && self.early.is_empty()
    }
}

/// Writes what workers are told; the fence of each one that was told something.
pub fn tell(connection: &Connection, told: &Told, run: RunId, now_ms: i64) -> Result<Vec<(WorkerId, Fence)>> {
    let mut workers = BTreeSet::new();
    for release in &told.releases {
        write_release(connection, release, run)?;
        workers.insert(release.worker_id);
        if let Some(bundle) = release.bundle {
            prefetch(connection, release.worker_id, bundle, false)?;
        }
    }
    for (alloc, worker, bundle) in &told.withdrawn {
        connection
            .prepare_cached("UPDATE desired_allocation SET bundle = NULL, action = NULL WHERE alloc_id = ?1")
            .and_then(|mut update| update.execute([alloc.to_string()]))
            .during("taking a release back")?;
        workers.insert(*worker);
        prefetch(connection, *worker, *bundle, true)?;
    }
    for (worker, bundle) in &told.early {
        if prefetch(connection, *worker, *bundle, true)? {
            workers.insert(*worker);
        }
    }
    let mut fences = Vec::new();
    for worker in workers {
        if let Some(fence) = move_generation(connection, worker, now_ms)? {
            fences.push((worker, fence));
        }
    }
    Ok(fences)
}

/// Moves a worker's generation: what it is told is read anew. `None` when it has never been told anything.
pub fn move_generation(connection: &Connection, worker: WorkerId, now_ms: i64) -> Result<Option<Fence>> {
    connection
        .prepare_cached(
            "UPDATE desired_worker SET generation = generation + 1, issued_at = ?2 WHERE worker_id = ?1 \
             RETURNING epoch, update_seq, generation",
        )
        .and_then(|mut update| {
            let fence = |row: &rusqlite::Row<'_>| {
                Ok(Fence { epoch: row.get(0)?, update_seq: row.get(1)?, generation: row.get(2)? })
            };
            update.query_row(params![worker.to_string(), now_ms], fence).optional()
        })
        .during("moving a worker's generation")
}

fn write_release(connection: &Connection, release: &Release, run: RunId) -> Result<()> {
    let (id, kind) = release.action;
    let action =
        to_json("desired_allocation.action", &DesiredAction { id, kind, timeout_s: release.timeout_s, run_id: run })?;
    let health = release.health.as_ref().map(|spec| to_json("desired_allocation.health", spec)).transpose()?;
    // A drain leaves the files as they are; so does nothing else.
    let keeps = release.state == RunState::Stopped && release.bundle.is_none();
    connection
        .prepare_cached(
            "UPDATE desired_allocation SET state = ?2, disabled = ?3, bundle = iif(?4, bundle, ?5), \
               current_version = ?6, new_version = ?7, action = ?8, dir_mode = ?9, health = ?10 WHERE alloc_id = ?1",
        )
        .and_then(|mut update| {
            update.execute(params![
                release.alloc_id.to_string(),
                state_word(release.state),
                release.disabled,
                keeps,
                release.bundle.map(|bundle| bundle.to_string()),
                release.current_version,
                release.new_version,
                action,
                release.dir_mode,
                health
            ])
        })
        .during("releasing an allocation")?;
    if release.starts {
        connection
            .prepare_cached(
                "INSERT INTO rolled (alloc_id, may_run) VALUES (?1, 1) ON CONFLICT (alloc_id) DO UPDATE SET may_run = 1",
            )
            .and_then(|mut upsert| upsert.execute([release.alloc_id.to_string()]))
            .during("recording that an allocation may run")?;
    }
    Ok(())
}

/// Puts a bundle on the list of what a worker downloads early, or takes it off; whether that changed it.
fn prefetch(connection: &Connection, worker: WorkerId, bundle: BundleDigest, wanted: bool) -> Result<bool> {
    let list: Option<String> = connection
        .prepare_cached("SELECT prefetch FROM desired_worker WHERE worker_id = ?1")
        .and_then(|mut select| select.query_row([worker.to_string()], |row| row.get(0)).optional())
        .during("reading what a worker downloads early")?;
    let mut list: BTreeSet<BundleDigest> = match list {
        Some(list) => from_json("desired_worker.prefetch", &list)?,
        None => return Ok(false),
    };
    let changed = if wanted { list.insert(bundle) } else { list.remove(&bundle) };
    if changed {
        let list = to_json("desired_worker.prefetch", &list)?;
        connection
            .prepare_cached("UPDATE desired_worker SET prefetch = ?2 WHERE worker_id = ?1")
            .and_then(|mut update| update.execute(params![worker.to_string(), list]))
            .during("telling a worker what to download early")?;
    }
    Ok(changed)
}

/// Records that an allocation passed its gate.
pub fn promote(
    connection: &Connection,
    alloc: AllocId,
    bundle: BundleDigest,
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
    for sql in [
        "UPDATE allocation SET start_pending = 0 WHERE alloc_id = ?1 AND start_pending AND NOT disabled",
        "UPDATE rolled SET health_failed = 0, deferred_at = NULL, deferred_bundle = NULL, deferred_version = NULL \
         WHERE alloc_id = ?1",
    ] {
        connection
            .prepare_cached(sql)
            .and_then(|mut update| update.execute([alloc.to_string()]))
            .during("promoting an allocation")?;
    }
    Ok(())
}

/// Records that a stop succeeded.
pub fn stopped(connection: &Connection, alloc: AllocId) -> Result<()> {
    connection
        .prepare_cached("UPDATE rolled SET may_run = 0 WHERE alloc_id = ?1")
        .and_then(|mut update| update.execute([alloc.to_string()]))
        .during("recording a stop")?;
    Ok(())
}

/// Records that an allocation's files are gone from its worker: what was promoted there is forgotten.
pub fn removed(connection: &Connection, alloc: AllocId) -> Result<()> {
    for sql in ["DELETE FROM promoted WHERE alloc_id = ?1", "DELETE FROM rolled WHERE alloc_id = ?1"] {
        connection
            .prepare_cached(sql)
            .and_then(|mut delete| delete.execute([alloc.to_string()]))
            .during("recording a removal")?;
    }
    Ok(())
}

/// Records that a rollout went on without an allocation, and what it gets when its agent is back.
pub fn deferred(
    connection: &Connection,
    alloc: AllocId,
    since_ms: i64,
    bundle: BundleDigest,
    version: &str,
) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO rolled (alloc_id, deferred_at, deferred_bundle, deferred_version) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (alloc_id) DO UPDATE SET deferred_at = coalesce(deferred_at, excluded.deferred_at), \
               deferred_bundle = excluded.deferred_bundle, deferred_version = excluded.deferred_version",
        )
        .and_then(|mut upsert| upsert.execute(params![alloc.to_string(), since_ms, bundle.to_string(), version]))
        .during("recording that an allocation is waited for")?;
    Ok(())
}

/// Records that an allocation was not promoted: nobody brings it up to date by itself any more.
pub fn failed(connection: &Connection, alloc: AllocId, unhealthy: bool) -> Result<()> {
    connection
        .prepare_cached(
            "UPDATE rolled SET health_failed = ?2, deferred_at = NULL, deferred_bundle = NULL, deferred_version = NULL \
             WHERE alloc_id = ?1",
        )
        .and_then(|mut update| {
            update.execute(params![alloc.to_string(), if unhealthy { UNHEALTHY } else { ACTION_FAILED }])
        })
        .during("recording a failure")?;
    Ok(())
}

/// Writes what a job's bundles were made anew to, because hooks wrote what its templates read. The next
/// build makes them of everything again.
pub fn remade(connection: &Connection, job: &JobName, bundles: &BTreeMap<AllocId, Bundle>) -> Result<()> {
    for (alloc, bundle) in bundles {
        let digest = bundle.digest();
        if !super::bundles::contains(connection, &digest)? {
            super::bundles::put(connection, &digest, &super::bundles::pack(bundle)?)?;
        }
        connection
            .prepare_cached(
                "UPDATE allocation SET bundle = ?2, render_inputs = NULL WHERE alloc_id = ?1 AND bundle IS NOT ?2",
            )
            .and_then(|mut update| update.execute(params![alloc.to_string(), digest.to_string()]))
            .during("recording a bundle that was made anew")?;
    }
    connection
        .prepare_cached("UPDATE job SET inputs = NULL WHERE name = ?1")
        .and_then(|mut update| update.execute([job.as_str()]))
        .during("recording bundles that were made anew")?;
    Ok(())
}

/// Records how a job's post_deploy hooks stand, on all its allocations that are not removed; `None` when
/// it has none.
pub fn post_deploy(connection: &Connection, job: &JobName, status: Option<PostDeploy>) -> Result<()> {
    let sql = match status {
        Some(_) => {
            "INSERT INTO rolled (alloc_id, post_deploy) SELECT alloc_id, ?2 FROM allocation WHERE job = ?1 AND NOT removed \
             ON CONFLICT (alloc_id) DO UPDATE SET post_deploy = excluded.post_deploy"
        }
        None => {
            "UPDATE rolled SET post_deploy = ?2 WHERE post_deploy IS NOT NULL \
             AND alloc_id IN (SELECT alloc_id FROM allocation WHERE job = ?1)"
        }
    };
    connection
        .prepare_cached(sql)
        .and_then(|mut upsert| upsert.execute(params![job.as_str(), status.map(PostDeploy::word)]))
        .during("recording how post_deploy hooks ended")?;
    Ok(())
}
