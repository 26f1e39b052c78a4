//! Edge: the rows of `maand recover`: who is ahead of the catalog, the new epoch, and what agents were found
//! to have. It alone writes here, while nobody drives a rollout.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};
use shared::api::v1::desired::Fence;
use shared::api::v1::report::ObservedAllocation;
use shared::{AllocId, RunId, WorkerId};

use super::{During, Result, from_json, parsed, publish};
use crate::model::Snapshot;
use crate::recover::{Ahead, Belief};

const READING: &str = "comparing the catalog with its agents";

/// The catalog's epoch and update_seq.
pub fn position(connection: &Connection) -> Result<(u64, u64)> {
    connection
        .query_row("SELECT epoch, update_seq FROM bucket", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .during(READING)
}

/// Agents with a good certificate that accepted more than they were ever told.
pub fn ahead(connection: &Connection) -> Result<Vec<Ahead>> {
    let mut select = connection
        .prepare_cached(
            "SELECT o.worker_id, coalesce(w.host, g.host, d.host), o.accepted_epoch, o.accepted_seq, \
               o.accepted_generation, d.epoch, d.update_seq, d.generation \
             FROM observed_worker o LEFT JOIN desired_worker d USING (worker_id) LEFT JOIN worker w USING (worker_id) \
               LEFT JOIN worker_gone g USING (worker_id) \
             WHERE o.accepted_epoch IS NOT NULL AND (d.epoch IS NULL OR (o.accepted_epoch, o.accepted_seq, \
               o.accepted_generation) > (d.epoch, d.update_seq, d.generation)) \
               AND EXISTS (SELECT 1 FROM agent_certificate c WHERE c.worker_id = o.worker_id AND c.revoked_at IS NULL) \
             ORDER BY 2",
        )
        .during(READING)?;
    let mut rows = select.query([]).during(READING)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during(READING)? {
        let host: Option<String> = row.get(1).during(READING)?;
        let Some(host) = host else { continue };
        found.push(Ahead {
            worker_id: parsed("observed_worker.worker_id", &text(row, 0)?)?,
            host: parsed("a worker's host", &host)?,
            accepted: fence(row, 2)?.unwrap_or_default(),
            told: fence(row, 5)?,
        });
    }
    Ok(found)
}

fn text(row: &Row<'_>, at: usize) -> Result<String> {
    row.get(at).during(READING)
}

fn fence(row: &Row<'_>, at: usize) -> Result<Option<Fence>> {
    let number = |at: usize| -> Result<Option<u64>> { row.get(at).during(READING) };
    Ok(match (number(at)?, number(at + 1)?, number(at + 2)?) {
        (Some(epoch), Some(update_seq), Some(generation)) => Some(Fence { epoch, update_seq, generation }),
        _ => None,
    })
}

/// Opens a new epoch. Every agent is told to keep what it has: nothing is placed, run or removed until the next
/// deploy says so. Whatever an earlier deploy had left open or deferred is over.
pub fn open_epoch(
    connection: &Connection,
    snapshot: &Snapshot,
    joined: &[WorkerId],
    (epoch, update_seq): (u64, u64),
    now_ms: i64,
) -> Result<()> {
    let steps: [(&str, &[&dyn rusqlite::ToSql]); 6] = [
        ("UPDATE bucket SET epoch = ?1, update_seq = ?2", &[&epoch, &update_seq]),
        (
            "UPDATE rollout SET state = 'aborted', ended_at = ?1, lease_owner = NULL, lease_until = NULL, request = NULL \
             WHERE state IN ('running', 'paused')",
            &[&now_ms],
        ),
        ("UPDATE rolled SET deferred_at = NULL, deferred_bundle = NULL, deferred_version = NULL", &[]),
        // `running` without files or an action: what is there stays as it is.
        (
            "UPDATE desired_allocation SET bundle = NULL, action = NULL, \
               state = CASE state WHEN 'stopped' THEN 'stopped' ELSE 'running' END",
            &[],
        ),
        (
            "UPDATE desired_worker SET epoch = ?1, update_seq = ?2, generation = generation + 1, issued_at = ?3, prefetch = '[]'",
            &[&epoch, &update_seq, &now_ms],
        ),
        // What agents say from now on is what they have now.
        ("DELETE FROM observed_allocation", &[]),
    ];
    for (sql, values) in steps {
        connection.execute(sql, values).during("opening a new epoch")?;
    }
    connection.execute("DELETE FROM observed_unknown", []).during("opening a new epoch")?;
    for id in joined {
        let is_told = connection
            .prepare_cached("SELECT 1 FROM desired_worker WHERE worker_id = ?1")
            .and_then(|mut select| select.exists([id.to_string()]))
            .during("opening a new epoch")?;
        if !is_told {
            match snapshot.workers.iter().find(|worker| worker.worker_id == *id) {
                Some(worker) => publish::name(connection, worker, epoch, update_seq, now_ms)?,
                None => continue,
            }
        }
        connection
            .execute("INSERT OR IGNORE INTO recovering (worker_id) VALUES (?1)", [id.to_string()])
            .during("opening a new epoch")?;
    }
    Ok(())
}

/// Workers whose agents have not said what they run since the epoch was opened, and whether they have by now.
pub fn recovering(connection: &Connection) -> Result<BTreeMap<WorkerId, bool>> {
    let mut select = connection
        .prepare_cached(
            "SELECT r.worker_id, coalesce(o.accepted_epoch >= (SELECT epoch FROM bucket), 0) \
             FROM recovering r LEFT JOIN observed_worker o USING (worker_id)",
        )
        .during(READING)?;
    let mut rows = select.query([]).during(READING)?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().during(READING)? {
        found.insert(parsed("recovering.worker_id", &text(row, 0)?)?, row.get(1).during(READING)?);
    }
    Ok(found)
}

/// What the agent has, of allocations that the catalog told it of and of others.
pub fn said(connection: &Connection, worker: WorkerId) -> Result<BTreeMap<AllocId, ObservedAllocation>> {
    let mut select = connection
        .prepare_cached(
            "SELECT observed FROM observed_allocation WHERE worker_id = ?1 \
             UNION ALL SELECT observed FROM observed_unknown WHERE worker_id = ?1",
        )
        .during(READING)?;
    let mut rows = select.query([worker.to_string()]).during(READING)?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().during(READING)? {
        let observed: ObservedAllocation = from_json("observed_allocation.observed", &text(row, 0)?)?;
        found.insert(observed.alloc_id, observed);
    }
    Ok(found)
}

/// Writes down what is believed of an allocation from now on. One that the catalog does not know keeps it until
/// a build makes it known.
pub fn believe(connection: &Connection, alloc: AllocId, belief: &Belief, run: RunId, now_ms: i64) -> Result<()> {
    let id = alloc.to_string();
    match &belief.promoted {
        Some(promoted) => publish::promote(connection, alloc, promoted.bundle, &promoted.version, run, now_ms)?,
        None => {
            connection.execute("DELETE FROM promoted WHERE alloc_id = ?1", [&id]).during("recording what is there")?;
        }
    }
    let sql = if belief.is_settled {
        "DELETE FROM rolled WHERE alloc_id = ?1 AND ?2 = 0"
    } else {
        "INSERT INTO rolled (alloc_id, may_run) VALUES (?1, ?2) ON CONFLICT (alloc_id) DO UPDATE SET may_run = excluded.may_run"
    };
    connection.execute(sql, params![id, belief.may_run]).during("recording what is there")?;
    Ok(())
}

/// The worker's agent was heard: what it has is believed.
pub fn heard(connection: &Connection, worker: WorkerId) -> Result<()> {
    connection
        .execute("DELETE FROM recovering WHERE worker_id = ?1", [worker.to_string()])
        .during("recording that an agent was heard")?;
    Ok(())
}
