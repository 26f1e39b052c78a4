//! Edge: agents' certificates one by one, and alarms about them. What they mean is decided in `admission`.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};
use shared::{Host, WorkerId};

use super::{During, Result, parsed};
use crate::admission::alarm::{Alarm, Kind};
use crate::admission::certificate::{End, Held, Known};

/// Why a certificate is over whose worker has a newer one.
const SUPERSEDED: &str = "superseded";
/// Certificates that are remembered of a worker, those that are over included.
const KEPT: u32 = 50;
/// An alarm is written anew at most this often.
const AGAIN_MS: i64 = 10_000;

/// A certificate to record.
#[derive(Debug, Clone)]
pub struct NewCertificate<'a> {
    /// sha256 of the DER.
    pub fingerprint: [u8; 32],
    /// Hexadecimal.
    pub serial: &'a str,
    /// PEM.
    pub pem: &'a str,
    /// sha256 of its key's SubjectPublicKeyInfo.
    pub spki: [u8; 32],
    /// When it ends.
    pub not_after_ms: i64,
    /// Number of the authority that signed it.
    pub authority: u32,
}

/// Looks a certificate up by sha256 of its DER.
pub fn known(connection: &Connection, fingerprint: &[u8; 32]) -> Result<Option<Known>> {
    type Raw = (String, u64, i64, Option<i64>, Option<i64>, Option<String>, u32);
    let row: Option<Raw> = connection
        .prepare_cached(
            "SELECT worker_id, generation, not_after, first_used_at, revoked_at, revoked_reason, authority \
             FROM agent_certificate WHERE fingerprint = ?1",
        )
        .and_then(|mut select| {
            select
                .query_row([fingerprint], |r| {
                    Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?, r.get(6)?))
                })
                .optional()
        })
        .during("looking up an agent's certificate")?;
    let Some((worker, generation, not_after_ms, used, revoked, reason, authority)) = row else { return Ok(None) };
    let end = if reason.as_deref() == Some(SUPERSEDED) { End::Superseded } else { End::Revoked };
    Ok(Some(Known {
        worker: parsed("agent_certificate.worker_id", &worker)?,
        generation,
        not_after_ms,
        is_used: used.is_some(),
        authority,
        ended: revoked.map(|at_ms| (end, at_ms)),
    }))
}

/// An agent shows this certificate for the first time: its worker's older ones are over.
pub fn first_use(connection: &Connection, worker: WorkerId, fingerprint: &[u8; 32], now_ms: i64) -> Result<()> {
    connection
        .execute(
            "UPDATE agent_certificate SET first_used_at = coalesce(first_used_at, ?2) WHERE fingerprint = ?1",
            params![fingerprint, now_ms],
        )
        .during("recording that a certificate is used")?;
    connection
        .execute(
            "UPDATE agent_certificate SET revoked_at = ?3, revoked_reason = ?4 \
             WHERE worker_id = ?1 AND fingerprint <> ?2 AND revoked_at IS NULL AND (enrolment, generation, issued_at) <= \
             (SELECT enrolment, generation, issued_at FROM agent_certificate WHERE fingerprint = ?2)",
            params![worker.to_string(), fingerprint, now_ms, SUPERSEDED],
        )
        .during("superseding an agent's certificates")?;
    Ok(())
}

/// What a worker has for a key.
pub fn of_key(connection: &Connection, worker: WorkerId, spki: &[u8; 32]) -> Result<Option<Held>> {
    connection
        .query_row(
            "SELECT pem, generation, not_after, revoked_at IS NOT NULL FROM agent_certificate \
             WHERE worker_id = ?1 AND spki = ?2 AND pem IS NOT NULL ORDER BY generation DESC LIMIT 1",
            params![worker.to_string(), spki],
            |r| Ok(Held { pem: r.get(0)?, generation: r.get(1)?, not_after_ms: r.get(2)?, is_ended: r.get(3)? }),
        )
        .optional()
        .during("looking for a key's certificate")
}

/// Records a certificate; its number among its worker's. `renews` is the one that it is to follow; without it a
/// join token was used, and it is to follow all.
pub fn insert(
    connection: &Connection,
    worker: WorkerId,
    renews: Option<&[u8; 32]>,
    certificate: &NewCertificate<'_>,
    now_ms: i64,
) -> Result<u64> {
    let id = worker.to_string();
    let generation = connection
        .query_row(
            "INSERT INTO agent_certificate (fingerprint, worker_id, serial, not_after, issued_at, spki, pem, authority, \
               enrolment, generation) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?9, \
               coalesce((SELECT enrolment FROM agent_certificate WHERE fingerprint = ?8), \
                 1 + (SELECT coalesce(max(enrolment), 0) FROM agent_certificate WHERE worker_id = ?2)), \
               1 + (SELECT coalesce(max(generation), 0) FROM agent_certificate WHERE worker_id = ?2)) RETURNING generation",
            params![
                certificate.fingerprint,
                id,
                certificate.serial,
                certificate.not_after_ms,
                now_ms,
                certificate.spki,
                certificate.pem,
                renews,
                certificate.authority
            ],
            |r| r.get(0),
        )
        .during("recording an agent's certificate")?;
    connection
        .execute(
            "DELETE FROM agent_certificate WHERE worker_id = ?1 AND revoked_at IS NOT NULL AND generation <= ?2 - ?3",
            params![id, generation, KEPT],
        )
        .during("forgetting old certificates")?;
    Ok(generation)
}

/// A renewal takes the place of an earlier one of the same certificate that was never used. What a join token brought
/// in meanwhile stays: an operator wanted it.
pub fn replace_unused(connection: &Connection, worker: WorkerId, shown: &[u8; 32], now_ms: i64) -> Result<()> {
    connection
        .execute(
            "UPDATE agent_certificate SET revoked_at = ?3, revoked_reason = ?4 WHERE worker_id = ?1 AND fingerprint <> ?2 \
             AND revoked_at IS NULL AND first_used_at IS NULL \
             AND enrolment = (SELECT enrolment FROM agent_certificate WHERE fingerprint = ?2)",
            params![worker.to_string(), shown, now_ms, SUPERSEDED],
        )
        .during("replacing a certificate that was not used")?;
    Ok(())
}

/// Whose certificates were ended at `since_ms` or later, and the latest such moment.
pub fn ended_since(connection: &Connection, since_ms: i64) -> Result<Vec<(WorkerId, i64)>> {
    let mut select = connection
        .prepare_cached(
            "SELECT worker_id, max(revoked_at) FROM agent_certificate WHERE revoked_at >= ?1 GROUP BY worker_id",
        )
        .during("looking for certificates that were ended")?;
    let mut rows = select.query([since_ms]).during("looking for certificates that were ended")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("looking for certificates that were ended")? {
        let worker: String = row.get(0).during("looking for certificates that were ended")?;
        found.push((
            parsed("agent_certificate.worker_id", &worker)?,
            row.get(1).during("looking for certificates that were ended")?,
        ));
    }
    Ok(found)
}

/// The name of a worker that is in workers.json.
pub fn host(connection: &Connection, worker: WorkerId) -> Result<Option<Host>> {
    let host: Option<String> = connection
        .prepare_cached("SELECT host FROM worker WHERE worker_id = ?1")
        .and_then(|mut select| select.query_row([worker.to_string()], |r| r.get(0)).optional())
        .during("looking up a worker's name")?;
    host.map(|host| parsed("worker.host", &host)).transpose()
}

/// Workers that have no good certificate any more: since when, and why.
pub fn shut_out(connection: &Connection) -> Result<BTreeMap<WorkerId, (i64, String)>> {
    let mut select = connection
        .prepare_cached(
            "SELECT worker_id, max(revoked_at), coalesce(revoked_reason, '') FROM agent_certificate GROUP BY worker_id \
             HAVING count(*) = count(revoked_at)",
        )
        .during("listing workers that are shut out")?;
    let mut rows = select.query([]).during("listing workers that are shut out")?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().during("listing workers that are shut out")? {
        let read = || -> rusqlite::Result<(String, i64, String)> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
        let (worker, at_ms, why) = read().during("listing workers that are shut out")?;
        found.insert(parsed("agent_certificate.worker_id", &worker)?, (at_ms, why));
    }
    Ok(found)
}

/// Raises an alarm, or says that it goes on; whether that was written.
pub fn raise(connection: &Connection, worker: WorkerId, kind: Kind, detail: &str, now_ms: i64) -> Result<bool> {
    let written = connection
        .execute(
            "INSERT INTO agent_alarm (worker_id, kind, first_at, last_at, count, detail) VALUES (?1, ?2, ?3, ?3, 1, ?4) \
             ON CONFLICT (worker_id, kind) DO UPDATE SET last_at = excluded.last_at, count = count + 1, \
               detail = excluded.detail WHERE last_at <= excluded.last_at - ?5 OR detail <> excluded.detail",
            params![worker.to_string(), kind.word(), now_ms, detail, AGAIN_MS],
        )
        .during("raising an alarm")?;
    Ok(written > 0)
}

/// Ends a worker's alarms, all or of one kind; how many.
pub fn settle(connection: &Connection, worker: WorkerId, kind: Option<Kind>) -> Result<usize> {
    connection
        .execute(
            "DELETE FROM agent_alarm WHERE worker_id = ?1 AND (?2 IS NULL OR kind = ?2)",
            params![worker.to_string(), kind.map(Kind::word)],
        )
        .during("ending alarms")
}

/// All alarms.
pub fn alarms(connection: &Connection) -> Result<BTreeMap<WorkerId, Vec<Alarm>>> {
    let mut select = connection
        .prepare_cached(
            "SELECT worker_id, kind, first_at, last_at, count, detail FROM agent_alarm ORDER BY worker_id, kind",
        )
        .during("listing alarms")?;
    let mut rows = select.query([]).during("listing alarms")?;
    let mut found: BTreeMap<WorkerId, Vec<Alarm>> = BTreeMap::new();
    while let Some(row) = rows.next().during("listing alarms")? {
        let read = || -> rusqlite::Result<(String, String, i64, i64, u64, String)> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        };
        let (worker, kind, first_ms, last_ms, count, detail) = read().during("listing alarms")?;
        // A kind of a newer program has its words all the same.
        let Some(kind) = Kind::of(&kind) else { continue };
        let alarm = Alarm { kind, first_ms, last_ms, count, detail };
        found.entry(parsed("agent_alarm.worker_id", &worker)?).or_default().push(alarm);
    }
    Ok(found)
}
