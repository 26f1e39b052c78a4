//! Edge: what agents said last. serve alone writes here; an older or repeated report changes nothing.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, params};
use shared::api::v1::desired::Fence;
use shared::api::v1::facts::WorkerFacts;
use shared::api::v1::report::{Fetched, ObservedAllocation, Report};
use shared::{AllocId, Host, JobName, WorkerId};

use super::{During, Error, Result, from_json, operations, parsed, to_json};
use crate::model::Promoted;

/// How long after its last word an agent counts as online while no request of it is waited on.
const ONLINE_MS: i64 = 75_000;

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It is newer than what was there; the count is of allocations and operations that are not the worker's and were left out.
    New {
        /// How many.
        foreign: usize,
        /// Downloads that were not reported before, by job.
        fetched: Vec<(JobName, Fetched)>,
    },
    /// It is as old as, or older than, what was there.
    Stale,
}

/// Takes a report in. To be called inside a write transaction.
pub fn accept(connection: &Connection, worker: WorkerId, report: &Report, now_ms: i64) -> Result<Accepted> {
    let id = worker.to_string();
    let last: Option<(u64, u64)> = connection
        .prepare_cached("SELECT session, number FROM observed_worker WHERE worker_id = ?1")
        .and_then(|mut select| select.query_row([&id], |r| Ok((r.get(0)?, r.get(1)?))).optional())
        .during("reading an agent's last report")?;
    if last.is_some_and(|last| (report.session, report.number) <= last) {
        return Ok(Accepted::Stale);
    }
    let facts = report.facts.as_ref().map(|facts| to_json("facts", facts)).transpose()?;
    let accepted = report.accepted;
    connection
        .prepare_cached(
            "INSERT INTO observed_worker (worker_id, session, number, agent_version, boot_id, clock_offset_ms, \
               accepted_epoch, accepted_seq, accepted_generation, refused, facts, reported_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
             ON CONFLICT (worker_id) DO UPDATE SET session = excluded.session, number = excluded.number, \
               agent_version = excluded.agent_version, boot_id = excluded.boot_id, \
               clock_offset_ms = excluded.clock_offset_ms, accepted_epoch = excluded.accepted_epoch, \
               accepted_seq = excluded.accepted_seq, accepted_generation = excluded.accepted_generation, \
               refused = excluded.refused, facts = coalesce(excluded.facts, facts), reported_at = excluded.reported_at",
        )
        .and_then(|mut upsert| {
            upsert.execute(params![
                id,
                report.session,
                report.number,
                report.agent_version,
                report.boot_id.to_string(),
                report.clock_ms - now_ms,
                accepted.map(|f| f.epoch),
                accepted.map(|f| f.update_seq),
                accepted.map(|f| f.generation),
                report.refused,
                facts,
                now_ms
            ])
        })
        .during("recording a report")?;
    let (mut foreign, mut unknown, mut fetched) = (0, Vec::new(), Vec::new());
    for observed in &report.allocations {
        let told: Option<String> = connection
            .prepare_cached("SELECT worker_id FROM desired_allocation WHERE alloc_id = ?1")
            .and_then(|mut select| select.query_row([observed.alloc_id.to_string()], |row| row.get(0)).optional())
            .during("looking up a reported allocation")?;
        match told {
            Some(owner) if owner == id => {}
            // Forgotten since its agent said so for the first time.
            None if observed.purged => continue,
            None => {
                foreign += 1;
                unknown.push(observed);
                continue;
            }
            Some(_) => {
                foreign += 1;
                continue;
            }
        }
        if let Some(new) = &observed.fetched
            && last_fetched(connection, observed.alloc_id)?.as_ref() != Some(new)
        {
            fetched.push((observed.job.clone(), new.clone()));
        }
        connection
            .prepare_cached(
                "INSERT INTO observed_allocation (alloc_id, worker_id, bundle, observed, changed) \
                 VALUES (?1, ?2, ?3, ?4, (SELECT coalesce(max(changed), 0) + 1 FROM observed_allocation)) \
                 ON CONFLICT (alloc_id) DO UPDATE SET worker_id = excluded.worker_id, bundle = excluded.bundle, \
                   observed = excluded.observed, changed = excluded.changed \
                 WHERE observed <> excluded.observed OR worker_id <> excluded.worker_id",
            )
            .and_then(|mut upsert| {
                let json = serde_json::to_string(observed).unwrap_or_default();
                upsert.execute(params![
                    observed.alloc_id.to_string(),
                    id,
                    observed.bundle.map(|digest| digest.to_string()),
                    json
                ])
            })
            .during("recording a reported allocation")?;
    }
    record_unknown(connection, &id, &unknown)?;
    foreign += operations::report(connection, worker, &report.operations, now_ms)?;
    Ok(Accepted::New { foreign, fetched })
}

/// What was reported before as downloaded last for an allocation.
fn last_fetched(connection: &Connection, alloc: AllocId) -> Result<Option<Fetched>> {
    let known: Option<String> = connection
        .prepare_cached("SELECT observed FROM observed_allocation WHERE alloc_id = ?1")
        .and_then(|mut select| select.query_row([alloc.to_string()], |row| row.get(0)).optional())
        .during("reading what an agent reported")?;
    let known: Option<ObservedAllocation> =
        known.map(|json| from_json("observed_allocation.observed", &json)).transpose()?;
    Ok(known.and_then(|known| known.fetched))
}

/// A worker's name; `None` when it is in the catalog no more.
pub fn host(connection: &Connection, worker: WorkerId) -> Result<Option<Host>> {
    let host: Option<String> = connection
        .prepare_cached("SELECT host FROM worker WHERE worker_id = ?1")
        .and_then(|mut select| select.query_row([worker.to_string()], |row| row.get(0)).optional())
        .during("looking up a worker")?;
    host.map(|host| parsed("worker.host", &host)).transpose()
}

/// An agent asks for what comes after a desired state that the catalog has never told it: that it accepted it
/// is recorded, without a report.
pub fn accepted_beyond(connection: &Connection, worker: WorkerId, accepted: Fence, now_ms: i64) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO observed_worker (worker_id, session, number, agent_version, boot_id, clock_offset_ms, \
               accepted_epoch, accepted_seq, accepted_generation, reported_at) \
             VALUES (?1, 0, 0, '', '00000000-0000-0000-0000-000000000000', 0, ?2, ?3, ?4, ?5) \
             ON CONFLICT (worker_id) DO UPDATE SET accepted_epoch = excluded.accepted_epoch, \
               accepted_seq = excluded.accepted_seq, accepted_generation = excluded.accepted_generation \
             WHERE accepted_epoch IS NULL OR (accepted_epoch, accepted_seq, accepted_generation) \
               < (excluded.accepted_epoch, excluded.accepted_seq, excluded.accepted_generation)",
        )
        .and_then(|mut upsert| {
            let (epoch, seq, generation) = (accepted.epoch, accepted.update_seq, accepted.generation);
            upsert.execute(params![worker.to_string(), epoch, seq, generation, now_ms])
        })
        .during("recording what an agent accepted")?;
    Ok(())
}

/// Writes down what an agent has and nobody told it of: `maand recover` looks at it.
fn record_unknown(connection: &Connection, worker: &str, unknown: &[&ObservedAllocation]) -> Result<()> {
    connection
        .prepare_cached("DELETE FROM observed_unknown WHERE worker_id = ?1")
        .and_then(|mut delete| delete.execute([worker]))
        .during("recording what an agent has beside")?;
    for observed in unknown {
        let json = to_json("observed_unknown.observed", observed)?;
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO observed_unknown (worker_id, alloc_id, observed) VALUES (?1, ?2, ?3)",
            )
            .and_then(|mut insert| insert.execute(params![worker, observed.alloc_id.to_string(), json]))
            .during("recording what an agent has beside")?;
    }
    Ok(())
}

/// A changed allocation, for a driver.
#[derive(Debug, Clone)]
pub struct Change {
    /// Whose.
    pub worker: WorkerId,
    /// What was said.
    pub observed: ObservedAllocation,
}

/// What has changed since `mark`, and the new mark.
pub fn since(connection: &Connection, mark: u64) -> Result<(Vec<Change>, u64)> {
    let mut select = connection
        .prepare_cached(
            "SELECT worker_id, observed, changed FROM observed_allocation WHERE changed > ?1 ORDER BY changed",
        )
        .during("reading what agents reported")?;
    let mut rows = select.query([mark]).during("reading what agents reported")?;
    let (mut changes, mut mark) = (Vec::new(), mark);
    while let Some(row) = rows.next().during("reading what agents reported")? {
        let (worker, observed): (String, String) = pair(row)?;
        mark = row.get(2).during("reading what agents reported")?;
        changes.push(Change {
            worker: parsed("observed_allocation.worker_id", &worker)?,
            observed: from_json("observed_allocation.observed", &observed)?,
        });
    }
    Ok((changes, mark))
}

fn pair(row: &Row<'_>) -> Result<(String, String)> {
    let read = || Ok((row.get(0)?, row.get(1)?));
    read().map_err(|source| Error::Sql { operation: "reading what agents reported", source })
}

/// What was said of every allocation.
pub fn allocations(connection: &Connection) -> Result<BTreeMap<AllocId, ObservedAllocation>> {
    let (changes, _) = since(connection, 0)?;
    Ok(changes.into_iter().map(|change| (change.observed.alloc_id, change.observed)).collect())
}

/// What an agent said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its program's version.
    pub version: String,
    /// What it accepted last.
    pub accepted: Option<Fence>,
    /// Why it refused what it was offered last.
    pub refused: Option<String>,
    /// Its clock less ours, milliseconds.
    pub clock_offset_ms: i64,
}

/// What every agent said of itself.
pub fn agents(connection: &Connection) -> Result<BTreeMap<WorkerId, Agent>> {
    let mut select = connection
        .prepare_cached(
            "SELECT worker_id, agent_version, accepted_epoch, accepted_seq, accepted_generation, refused, clock_offset_ms \
             FROM observed_worker",
        )
        .during("reading agents' reports")?;
    let mut rows = select.query([]).during("reading agents' reports")?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().during("reading agents' reports")? {
        let read = |row: &Row<'_>| -> rusqlite::Result<(String, Agent)> {
            let fence: (Option<u64>, Option<u64>, Option<u64>) = (row.get(2)?, row.get(3)?, row.get(4)?);
            let accepted = match fence {
                (Some(epoch), Some(update_seq), Some(generation)) => Some(Fence { epoch, update_seq, generation }),
                _ => None,
            };
            let agent = Agent { version: row.get(1)?, accepted, refused: row.get(5)?, clock_offset_ms: row.get(6)? };
            Ok((row.get(0)?, agent))
        };
        let (id, agent) = read(row).during("reading an agent's report")?;
        found.insert(parsed("observed_worker.worker_id", &id)?, agent);
    }
    Ok(found)
}

/// What every agent measured last.
pub fn facts(connection: &Connection) -> Result<BTreeMap<WorkerId, WorkerFacts>> {
    let mut select = connection
        .prepare_cached("SELECT worker_id, facts FROM observed_worker WHERE facts IS NOT NULL")
        .during("reading what agents measured")?;
    let mut rows = select.query([]).during("reading what agents measured")?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().during("reading what agents measured")? {
        let (id, facts): (String, String) = pair(row)?;
        found.insert(parsed("observed_worker.worker_id", &id)?, from_json("observed_worker.facts", &facts)?);
    }
    Ok(found)
}

/// What every agent accepted last.
pub fn accepted(connection: &Connection) -> Result<Vec<(WorkerId, Fence)>> {
    let mut select = connection
        .prepare_cached(
            "SELECT worker_id, accepted_epoch, accepted_seq, accepted_generation FROM observed_worker \
             WHERE accepted_epoch IS NOT NULL",
        )
        .during("reading what agents accepted")?;
    let mut rows = select.query([]).during("reading what agents accepted")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("reading what agents accepted")? {
        let read = |row: &Row<'_>| -> rusqlite::Result<(String, Fence)> {
            Ok((row.get(0)?, Fence { epoch: row.get(1)?, update_seq: row.get(2)?, generation: row.get(3)? }))
        };
        let (id, fence) = read(row).during("reading what an agent accepted")?;
        found.push((parsed("observed_worker.worker_id", &id)?, fence));
    }
    Ok(found)
}

/// When an agent was last heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// Milliseconds since 1970 UTC.
    pub last_seen_ms: i64,
    /// A request of it is being waited on.
    pub connected: bool,
}

impl Contact {
    /// Whether the agent counts as online at `now_ms`.
    pub fn is_online(self, now_ms: i64) -> bool {
        // `connected` alone is not enough: serve may have been killed while it was set.
        self.connected && now_ms - self.last_seen_ms < ONLINE_MS
    }
}

/// Records that an agent was heard of.
pub fn touch(connection: &Connection, worker: WorkerId, contact: Contact) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO agent_contact (worker_id, last_seen, connected) VALUES (?1, ?2, ?3) \
             ON CONFLICT (worker_id) DO UPDATE SET last_seen = excluded.last_seen, connected = excluded.connected",
        )
        .and_then(|mut upsert| upsert.execute(params![worker.to_string(), contact.last_seen_ms, contact.connected]))
        .during("recording that an agent was heard of")?;
    Ok(())
}

/// Nobody is connected: serve has just started, or ended.
pub fn disconnect_all(connection: &Connection) -> Result<()> {
    connection.execute("UPDATE agent_contact SET connected = 0", []).during("recording that agents are away")?;
    Ok(())
}

/// Every agent's last contact.
pub fn contacts(connection: &Connection) -> Result<BTreeMap<WorkerId, Contact>> {
    let mut select = connection
        .prepare_cached("SELECT worker_id, last_seen, connected FROM agent_contact")
        .during("reading when agents were heard of")?;
    let mut rows = select.query([]).during("reading when agents were heard of")?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().during("reading when agents were heard of")? {
        let read = |row: &Row<'_>| -> rusqlite::Result<(String, Contact)> {
            Ok((row.get(0)?, Contact { last_seen_ms: row.get(1)?, connected: row.get(2)? }))
        };
        let (id, contact) = read(row).during("reading when agents were heard of")?;
        found.insert(parsed("agent_contact.worker_id", &id)?, contact);
    }
    Ok(found)
}

/// What an operator should know of an allocation beyond its rollout word: `None` while the worker has
/// what was promoted.
pub fn difference(promoted: Option<&Promoted>, observed: Option<&ObservedAllocation>) -> Option<String> {
    use shared::api::v1::report::{Outcome, Phase, Process};
    let observed = match (promoted, observed) {
        (None, None) => return None,
        (Some(_), None) => return Some("nothing reported".to_owned()),
        (_, Some(observed)) => observed,
    };
    if let Some(problem) = &observed.problem {
        return Some(problem.clone());
    }
    if let Some(boot) = &observed.boot {
        let said = match (&boot.outcome, boot.started_ms) {
            (None, 0) => Some("its start after a boot waits for its turn".to_owned()),
            (None, _) => Some("starting after a boot".to_owned()),
            (Some(Outcome::Ok), _) => None,
            (Some(Outcome::Failed { exit }), _) => Some(format!("start after a boot failed, exit {exit}")),
            (Some(Outcome::TimedOut), _) => Some("start after a boot timed out".to_owned()),
            (Some(Outcome::Interrupted), _) => Some("start after a boot was interrupted".to_owned()),
            (Some(Outcome::Refused { reason }), _) => Some(format!("start after a boot refused: {reason}")),
        };
        // What was done there since says more.
        let since = observed.action.as_ref().is_some_and(|action| action.started_ms > boot.started_ms);
        if let Some(said) = said.filter(|_| !since && observed.process != Process::Started) {
            return Some(said);
        }
    }
    let outcome = observed.action.as_ref().and_then(|action| action.outcome.as_ref());
    let problem = observed.health.as_ref().and_then(|health| health.problem.as_deref());
    let said = match (observed.phase, outcome) {
        (Phase::Fetching, _) => "fetching".to_owned(),
        (Phase::Applying, _) => "applying".to_owned(),
        (Phase::Running, _) => "running".to_owned(),
        (Phase::Idle, Some(Outcome::Failed { exit })) => format!("failed, exit {exit}"),
        (Phase::Idle, Some(Outcome::TimedOut)) => "timed out".to_owned(),
        (Phase::Idle, Some(Outcome::Interrupted)) => "interrupted".to_owned(),
        (Phase::Idle, Some(Outcome::Refused { reason })) => format!("refused: {reason}"),
        (Phase::Idle, Some(Outcome::Ok) | None) if observed.bundle != promoted.map(|p| p.bundle) => {
            observed.bundle.map_or_else(|| "no files".to_owned(), |bundle| format!("has {}", bundle.short()))
        }
        (Phase::Idle, _) if problem.is_some() => format!("unhealthy: {}", problem.unwrap_or_default()),
        (Phase::Idle, _) if !observed.unhealed.is_empty() => {
            format!("{} files edited there again and again: put back no more", observed.unhealed.len())
        }
        (Phase::Idle, _) if !observed.drift.is_empty() => format!("{} files edited there", observed.drift.len()),
        (Phase::Idle, _) => return None,
    };
    Some(said)
}
