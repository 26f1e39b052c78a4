//! Edge: starts of agents. What they mean is decided in `admission::session`.

use rusqlite::{Connection, OptionalExtension, params};
use shared::WorkerId;
use shared::api::v1::session::SessionRequest;

use super::{During, Result};
use crate::admission::session::{Origin, Session};

/// Starts that are remembered of a worker.
const KEPT: u64 = 20;

/// The starts that are remembered, in order.
pub fn of(connection: &Connection, worker: WorkerId) -> Result<Vec<Session>> {
    let mut select = connection
        .prepare_cached(
            "SELECT number, start_id, opened_at, address, machine, boot_id FROM agent_session WHERE worker_id = ?1 ORDER BY number",
        )
        .during("listing starts of an agent")?;
    let rows = select
        .query_map([worker.to_string()], |r| {
            let origin = Origin { address: r.get(3)?, machine: r.get(4)?, boot_id: r.get(5)? };
            Ok(Session { number: r.get(0)?, start: r.get(1)?, opened_ms: r.get(2)?, origin })
        })
        .during("listing starts of an agent")?;
    rows.collect::<rusqlite::Result<_>>().during("listing starts of an agent")
}

/// The number of the last start, and whether the worker is quarantined.
pub fn last(connection: &Connection, worker: WorkerId) -> Result<(Option<u64>, bool)> {
    connection
        .prepare_cached(
            "SELECT (SELECT max(number) FROM agent_session WHERE worker_id = ?1), \
             EXISTS (SELECT 1 FROM agent_alarm WHERE worker_id = ?1 AND kind = 'quarantined')",
        )
        .and_then(|mut select| select.query_row([worker.to_string()], |r| Ok((r.get(0)?, r.get(1)?))))
        .during("looking up an agent's last start")
}

/// The highest session that the worker has reported under.
pub fn reported(connection: &Connection, worker: WorkerId) -> Result<u64> {
    let found = connection
        .query_row("SELECT session FROM observed_worker WHERE worker_id = ?1", [worker.to_string()], |r| r.get(0))
        .optional()
        .during("looking up an agent's last report")?;
    Ok(found.unwrap_or(0))
}

/// Records a start.
pub fn insert(connection: &Connection, worker: WorkerId, session: &Session, asked: &SessionRequest) -> Result<()> {
    let origin = &session.origin;
    connection
        .execute(
            "INSERT INTO agent_session (worker_id, number, start_id, opened_at, address, machine, boot_id, instance, \
             agent_version) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                worker.to_string(),
                session.number,
                session.start,
                session.opened_ms,
                origin.address,
                origin.machine,
                origin.boot_id,
                asked.instance.to_string(),
                asked.agent_version
            ],
        )
        .during("recording a start of an agent")?;
    connection
        .execute(
            "DELETE FROM agent_session WHERE worker_id = ?1 AND number NOT IN \
             (SELECT number FROM agent_session WHERE worker_id = ?1 ORDER BY number DESC LIMIT ?2)",
            params![worker.to_string(), KEPT],
        )
        .during("forgetting old starts of an agent")?;
    Ok(())
}

/// An operator has decided who is who: only what comes from now on counts for turns. The last one stays, so that
/// numbers go on.
pub fn forget_turns(connection: &Connection, worker: WorkerId) -> Result<()> {
    connection
        .execute(
            "DELETE FROM agent_session WHERE worker_id = ?1 AND number < \
             (SELECT max(number) FROM agent_session WHERE worker_id = ?1)",
            [worker.to_string()],
        )
        .during("forgetting turns of agents")?;
    Ok(())
}
