//! Edge: workers on which an operator wants nothing changed for a while.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, params};
use shared::WorkerId;
use shared::api::v1::desired::Hold;

use super::{During, Result, parsed, publish};

const READING: &str = "reading which workers are held";

fn hold(row: &Row<'_>) -> rusqlite::Result<Hold> {
    Ok(Hold { until_ms: row.get("until_ms")?, reason: row.get("reason")? })
}

/// Holds a worker, in place of an earlier hold; it is told at once.
pub fn set(connection: &Connection, worker: WorkerId, hold: &Hold, now_ms: i64) -> Result<()> {
    connection
        .execute(
            "INSERT INTO worker_hold (worker_id, until_ms, reason, since_ms) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (worker_id) DO UPDATE SET until_ms = excluded.until_ms, reason = excluded.reason",
            params![worker.to_string(), hold.until_ms, hold.reason, now_ms],
        )
        .during("holding a worker")?;
    publish::move_generation(connection, worker, now_ms).map(drop)
}

/// Ends a hold; whether there was one that had not ended.
pub fn clear(connection: &Connection, worker: WorkerId, now_ms: i64) -> Result<bool> {
    let until: Option<i64> = connection
        .query_row("DELETE FROM worker_hold WHERE worker_id = ?1 RETURNING until_ms", [worker.to_string()], |row| {
            row.get(0)
        })
        .optional()
        .during("ending a hold")?;
    if until.is_some() {
        publish::move_generation(connection, worker, now_ms)?;
    }
    Ok(until.is_some_and(|until| until > now_ms))
}

/// Forgets holds that have ended, while workers are told something anyway.
pub fn forget_ended(connection: &Connection, now_ms: i64) -> Result<()> {
    connection.execute("DELETE FROM worker_hold WHERE until_ms <= ?1", [now_ms]).during("forgetting holds").map(drop)
}

/// A worker's, ended or not: what is told stays the same until something else is.
pub fn of_worker(connection: &Connection, worker: WorkerId) -> Result<Option<Hold>> {
    connection
        .prepare_cached("SELECT until_ms, reason FROM worker_hold WHERE worker_id = ?1")
        .and_then(|mut select| select.query_row([worker.to_string()], hold).optional())
        .during(READING)
}

/// Every hold that has not ended at `now_ms`.
pub fn held(connection: &Connection, now_ms: i64) -> Result<BTreeMap<WorkerId, Hold>> {
    let mut select = connection
        .prepare_cached("SELECT worker_id, until_ms, reason FROM worker_hold WHERE until_ms > ?1")
        .during(READING)?;
    let mut rows = select.query([now_ms]).during(READING)?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().during(READING)? {
        let worker: String = row.get(0).during(READING)?;
        found.insert(parsed("worker_hold.worker_id", &worker)?, hold(row).during(READING)?);
    }
    Ok(found)
}
