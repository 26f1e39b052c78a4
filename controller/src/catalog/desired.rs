//! Edge: what a worker is told, read from the rows that drive writes (`catalog/publish.rs`).

use rusqlite::{Connection, OptionalExtension, Row};
use shared::api::v1::desired::{DesiredAction, DesiredAllocation, DesiredState, Fence, RunState};
use shared::api::v1::health::HealthSpec;
use shared::{BundleDigest, WorkerId};

use super::{During, Error, Result, from_json, holds, operations, parsed};

/// The worker's desired state as the exact bytes that it is sent, always the same for one fence;
/// `None` before the first deploy that names the worker.
pub fn document(connection: &Connection, worker: WorkerId) -> Result<Option<(Fence, Vec<u8>)>> {
    let Some(state) = state(connection, worker)? else { return Ok(None) };
    let bytes = serde_json::to_vec(&state)
        .map_err(|error| Error::Damaged { what: "a desired state", why: error.to_string() })?;
    Ok(Some((state.fence, bytes)))
}

/// The worker's desired state.
pub fn state(connection: &Connection, worker: WorkerId) -> Result<Option<DesiredState>> {
    let id = worker.to_string();
    type Raw = (String, String, u64, u64, u64, i64, String, String);
    let row: Option<Raw> = connection
        .prepare_cached(
            "SELECT host, labels, epoch, update_seq, generation, issued_at, prefetch, (SELECT bucket_id FROM bucket) \
             FROM desired_worker WHERE worker_id = ?1",
        )
        .and_then(|mut select| {
            let read = |r: &Row<'_>| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?, r.get(6)?, r.get(7)?))
            };
            select.query_row([&id], read).optional()
        })
        .during("reading a desired state")?;
    let Some((host, labels, epoch, update_seq, generation, issued_at_ms, prefetch, bucket)) = row else {
        return Ok(None);
    };
    Ok(Some(DesiredState {
        bucket_id: parsed("bucket.bucket_id", &bucket)?,
        worker_id: worker,
        host: parsed("desired_worker.host", &host)?,
        labels: from_json("desired_worker.labels", &labels)?,
        fence: Fence { epoch, update_seq, generation },
        issued_at_ms,
        allocations: allocations(connection, worker)?,
        prefetch: from_json("desired_worker.prefetch", &prefetch)?,
        operations: operations::of_worker(connection, worker)?,
        hold: holds::of_worker(connection, worker)?,
    }))
}

/// The worker's allocations, by job.
pub fn allocations(connection: &Connection, worker: WorkerId) -> Result<Vec<DesiredAllocation>> {
    let mut select = connection
        .prepare_cached(
            "SELECT alloc_id, job, state, disabled, bundle, current_version, new_version, action, dir_mode, health, deployment_seq, self_heal \
             FROM desired_allocation WHERE worker_id = ?1 ORDER BY job, alloc_id",
        )
        .during("reading desired allocations")?;
    let mut rows = select.query([worker.to_string()]).during("reading desired allocations")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("reading desired allocations")? {
        found.push(allocation(row)?);
    }
    Ok(found)
}

/// Allocations that are told to rest and may have done so since: drained or removed, and not known to be at
/// rest yet.
pub fn at_rest(connection: &Connection) -> Result<Vec<DesiredAllocation>> {
    let mut select = connection
        .prepare_cached(
            "SELECT d.alloc_id, d.job, d.state, d.disabled, d.bundle, d.current_version, d.new_version, d.action, d.dir_mode, d.health, \
               d.deployment_seq, d.self_heal \
             FROM desired_allocation d JOIN rolled r USING (alloc_id) LEFT JOIN promoted p USING (alloc_id) \
             WHERE d.action IS NOT NULL AND (d.state = 'absent' OR (d.state = 'stopped' AND (r.may_run OR d.bundle <> p.bundle \
               OR d.new_version <> p.version)))",
        )
        .during("reading what was told to rest")?;
    let mut rows = select.query([]).during("reading what was told to rest")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("reading what was told to rest")? {
        found.push(allocation(row)?);
    }
    Ok(found)
}

fn allocation(row: &Row<'_>) -> Result<DesiredAllocation> {
    let text = |at: usize| -> Result<String> { row.get(at).during("reading a desired allocation") };
    let optional = |at: usize| -> Result<Option<String>> { row.get(at).during("reading a desired allocation") };
    Ok(DesiredAllocation {
        alloc_id: parsed("desired_allocation.alloc_id", &text(0)?)?,
        job: parsed("desired_allocation.job", &text(1)?)?,
        state: state_of(&text(2)?)?,
        disabled: row.get(3).during("reading a desired allocation")?,
        bundle: optional(4)?.map(|digest| parsed("desired_allocation.bundle", &digest)).transpose()?,
        current_version: text(5)?,
        new_version: text(6)?,
        action: optional(7)?.map(|json| from_json::<DesiredAction>("desired_allocation.action", &json)).transpose()?,
        dir_mode: row.get(8).during("reading a desired allocation")?,
        health: optional(9)?.map(|json| from_json::<HealthSpec>("desired_allocation.health", &json)).transpose()?,
        deployment_seq: row.get(10).during("reading a desired allocation")?,
        self_heal: row.get(11).during("reading a desired allocation")?,
    })
}

/// The column's word for a state.
pub fn state_word(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Stopped => "stopped",
        RunState::Absent => "absent",
        RunState::Purged => "purged",
    }
}

fn state_of(word: &str) -> Result<RunState> {
    [RunState::Running, RunState::Stopped, RunState::Absent, RunState::Purged]
        .into_iter()
        .find(|state| state_word(*state) == word)
        .ok_or_else(|| Error::Damaged { what: "desired_allocation.state", why: format!("{word:?}") })
}

/// Every fence, for waking those who wait.
pub fn fences(connection: &Connection) -> Result<Vec<(WorkerId, Fence)>> {
    let mut select = connection
        .prepare_cached("SELECT worker_id, epoch, update_seq, generation FROM desired_worker")
        .during("reading fences")?;
    let mut rows = select.query([]).during("reading fences")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("reading fences")? {
        let get = |at: usize| -> Result<u64> { row.get(at).during("reading a fence") };
        let id: String = row.get(0).during("reading a fence")?;
        let fence = Fence { epoch: get(1)?, update_seq: get(2)?, generation: get(3)? };
        found.push((parsed("desired_worker.worker_id", &id)?, fence));
    }
    Ok(found)
}

/// Every bundle that the worker has a right to: those of its desired state, and what was promoted
/// there, which is the base of differences.
pub fn bundles(connection: &Connection, worker: WorkerId) -> Result<Vec<BundleDigest>> {
    let mut select = connection
        .prepare_cached(
            "SELECT bundle FROM desired_allocation WHERE worker_id = ?1 AND bundle IS NOT NULL \
             UNION SELECT p.bundle FROM promoted p JOIN desired_allocation d USING (alloc_id) WHERE d.worker_id = ?1 \
             UNION SELECT value FROM desired_worker, json_each(desired_worker.prefetch) WHERE worker_id = ?1",
        )
        .during("reading a worker's bundles")?;
    let mut rows = select.query([worker.to_string()]).during("reading a worker's bundles")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("reading a worker's bundles")? {
        let digest: String = row.get(0).during("reading a worker's bundle")?;
        found.push(parsed("a worker's bundle", &digest)?);
    }
    Ok(found)
}
