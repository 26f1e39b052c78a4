//! Edge: which pairs of the agents' authority count, and how far agents are with a new one.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use shared::{Host, WorkerId};

use super::{During, Result, parsed};
use crate::admission::rotation::{Progress, Rotation};

/// What counts now.
pub fn rotation(connection: &Connection) -> Result<Rotation> {
    connection
        .prepare_cached("SELECT current, other, issues, last, began_at FROM agent_authority")
        .and_then(|mut select| {
            select.query_row([], |r| {
                Ok(Rotation {
                    current: r.get(0)?,
                    other: r.get(1)?,
                    issues: r.get(2)?,
                    last: r.get(3)?,
                    began_ms: r.get(4)?,
                })
            })
        })
        .during("reading which authority counts")
}

/// Decides what counts from now on.
pub fn set(connection: &Connection, rotation: &Rotation) -> Result<()> {
    let Rotation { current, other, issues, last, began_ms } = *rotation;
    connection
        .execute(
            "UPDATE agent_authority SET current = ?1, other = ?2, issues = ?3, last = ?4, began_at = ?5",
            params![current, other, issues, last, began_ms],
        )
        .during("recording which authority counts")?;
    Ok(())
}

/// An authority is over, and all that it signed; join tokens that nobody has used pin it, if it was the `shown` one.
pub fn end(connection: &Connection, authority: u32, was_shown: bool, now_ms: i64) -> Result<usize> {
    connection
        .execute(
            "UPDATE agent_certificate SET revoked_at = ?2, revoked_reason = 'its authority was replaced' \
             WHERE authority = ?1 AND revoked_at IS NULL",
            params![authority, now_ms],
        )
        .during("ending certificates of an authority")?;
    if !was_shown {
        return Ok(0);
    }
    connection.execute("DELETE FROM join_token WHERE redeemed_at IS NULL", []).during("ending join tokens")
}

/// What an agent says that it trusts; whether that is new.
pub fn trusts(connection: &Connection, worker: WorkerId, pins: &str) -> Result<()> {
    connection
        .execute(
            "INSERT INTO agent_trust (worker_id, pins) VALUES (?1, ?2) \
             ON CONFLICT (worker_id) DO UPDATE SET pins = excluded.pins WHERE pins <> excluded.pins",
            params![worker.to_string(), pins],
        )
        .during("recording what an agent trusts")?;
    Ok(())
}

/// How far each worker is that has a good certificate: whether it trusts `pin`, and shows a certificate of `issues`.
pub fn progress(connection: &Connection, issues: u32, pin: &str) -> Result<Vec<Progress>> {
    let mut select = connection
        .prepare_cached(
            "SELECT c.worker_id, coalesce(w.host, g.host), coalesce(t.pins, ''), \
               max(c.authority = ?1 AND c.first_used_at IS NOT NULL) \
             FROM agent_certificate c LEFT JOIN worker w USING (worker_id) LEFT JOIN worker_gone g USING (worker_id) \
             LEFT JOIN agent_trust t USING (worker_id) WHERE c.revoked_at IS NULL GROUP BY c.worker_id",
        )
        .during("listing how far agents are")?;
    let mut rows = select.query([issues]).during("listing how far agents are")?;
    let mut found: BTreeMap<Host, Progress> = BTreeMap::new();
    while let Some(row) = rows.next().during("listing how far agents are")? {
        let read = || -> rusqlite::Result<(String, Option<String>, String, bool)> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        };
        let (worker, host, pins, has_certificate) = read().during("listing how far agents are")?;
        let _: WorkerId = parsed("agent_certificate.worker_id", &worker)?;
        let host: Host = match host {
            Some(host) => parsed("worker.host", &host)?,
            None => Host::unknown(),
        };
        let trusts = pins.split(',').any(|trusted| trusted == pin);
        found.insert(host.clone(), Progress { host, trusts, has_certificate });
    }
    Ok(found.into_values().collect())
}
