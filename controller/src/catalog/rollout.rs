//! Edge: rollouts as rows: what is planned, how far it is, who drives it. drive alone writes here, but for
//! what an operator asks of it.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};
use shared::{AllocId, JobName, RunId};

use super::{During, Error, Result, from_json, parsed, to_json};
use crate::plan::Options;
use crate::rollout::job::{JobRollout, Unsaved};

/// Rollouts that are remembered after their end.
const KEPT: u32 = 100;

/// How a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Somebody drives it, or is about to.
    Running,
    /// It can be gone on with.
    Paused,
    /// Every job ended well.
    Done,
    /// Some job did not.
    Failed,
    /// An operator ended it.
    Aborted,
}

impl State {
    /// As the column and `maand rollout` spell it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }

    fn of(word: &str) -> Result<Self> {
        [Self::Running, Self::Paused, Self::Done, Self::Failed, Self::Aborted]
            .into_iter()
            .find(|state| state.word() == word)
            .ok_or_else(|| Error::Damaged { what: "rollout.state", why: format!("{word:?}") })
    }
}

/// What an operator asks a rollout's driver for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Stop after what is in flight; it can be gone on with.
    Pause,
    /// End it.
    Abort,
}

impl Request {
    const fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Abort => "abort",
        }
    }
}

/// A rollout's row.
#[derive(Debug, Clone)]
pub struct Header {
    /// Its id.
    pub run: RunId,
    /// How it stands.
    pub state: State,
    /// Whether it was begun by somebody who waits for it.
    pub attended: bool,
    /// What was asked for.
    pub options: Options,
    /// Its number.
    pub update_seq: u64,
    /// When it began, milliseconds since 1970 UTC.
    pub created_ms: i64,
    /// When it ended.
    pub ended_ms: Option<i64>,
    /// Who drives it, or did last.
    pub owner: Option<String>,
    /// Until when.
    pub until_ms: Option<i64>,
    /// The build that it rolls out, by its time.
    pub built_ms: Option<i64>,
    /// What an operator asked its driver for.
    pub request: Option<Request>,
}

impl Header {
    /// Whether it has not ended.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Running | State::Paused)
    }

    /// Whether somebody drives it at `now_ms`.
    pub fn is_driven(&self, now_ms: i64) -> bool {
        self.state == State::Running && self.owner.is_some() && self.until_ms.is_some_and(|until| until >= now_ms)
    }

    /// The word that operators see: one whose driver is gone is paused, or waits for `maand drive`.
    pub fn word(&self, now_ms: i64) -> &'static str {
        match self.state {
            State::Running if self.is_driven(now_ms) => "running",
            State::Running if self.attended => "paused",
            State::Running => "waiting",
            other => other.word(),
        }
    }
}

const COLUMNS: &str =
    "run_id, state, attended, options, update_seq, created_at, ended_at, lease_owner, lease_until, request, built_at";

fn header(row: &Row<'_>) -> Result<Header> {
    let reading = "reading a rollout";
    let (run, state, options): (String, String, String) =
        (row.get(0).during(reading)?, row.get(1).during(reading)?, row.get(3).during(reading)?);
    let request: Option<String> = row.get(9).during(reading)?;
    Ok(Header {
        run: parsed("rollout.run_id", &run)?,
        state: State::of(&state)?,
        attended: row.get(2).during(reading)?,
        options: from_json("rollout.options", &options)?,
        update_seq: row.get(4).during(reading)?,
        created_ms: row.get(5).during(reading)?,
        ended_ms: row.get(6).during(reading)?,
        owner: row.get(7).during(reading)?,
        until_ms: row.get(8).during(reading)?,
        built_ms: row.get(10).during(reading)?,
        request: request.map(|word| if word == "abort" { Request::Abort } else { Request::Pause }),
    })
}

fn headers(connection: &Connection, filter: &str, value: &dyn rusqlite::ToSql) -> Result<Vec<Header>> {
    let mut select = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM rollout WHERE {filter} ORDER BY created_at DESC, run_id DESC"))
        .during("reading rollouts")?;
    let mut rows = select.query([value]).during("reading rollouts")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("reading rollouts")? {
        found.push(header(row)?);
    }
    Ok(found)
}

/// Every rollout that is remembered, newest first.
pub fn all(connection: &Connection) -> Result<Vec<Header>> {
    headers(connection, "?1", &true)
}

/// The rollout that has not ended, if there is one.
pub fn open(connection: &Connection) -> Result<Option<Header>> {
    Ok(headers(connection, "state IN ('running', 'paused') AND ?1", &true)?.pop())
}

/// When the last one that was aborted ended, milliseconds since 1970 UTC.
pub fn last_aborted(connection: &Connection) -> Result<Option<i64>> {
    connection
        .query_row("SELECT max(ended_at) FROM rollout WHERE state = 'aborted'", [], |row| row.get(0))
        .during("reading rollouts")
}

/// The rollout of that id.
pub fn get(connection: &Connection, run: RunId) -> Result<Option<Header>> {
    Ok(headers(connection, "run_id = ?1", &run.to_string())?.pop())
}

/// Creates a rollout; older ones are forgotten beyond the last hundred.
pub fn create(
    connection: &Connection,
    run: RunId,
    options: &Options,
    (update_seq, attended, built_ms): (u64, bool, Option<i64>),
    lease: Option<(&str, i64)>,
    now_ms: i64,
) -> Result<()> {
    let (owner, until) = lease.unzip();
    connection
        .execute(
            "INSERT INTO rollout (run_id, state, attended, options, update_seq, created_at, lease_owner, lease_until, \
               built_at) VALUES (?1, 'running', ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                run.to_string(),
                attended,
                to_json("rollout.options", options)?,
                update_seq,
                now_ms,
                owner,
                until,
                built_ms
            ],
        )
        .during("beginning a rollout")?;
    for table in ["rollout_flight", "rollout_job", "rollout"] {
        connection
            .execute(
                &format!(
                    "DELETE FROM {table} WHERE run_id IN (SELECT run_id FROM rollout WHERE state NOT IN ('running', 'paused') \
                     ORDER BY created_at DESC, run_id DESC LIMIT -1 OFFSET ?1)"
                ),
                [KEPT],
            )
            .during("forgetting old rollouts")?;
    }
    Ok(())
}

/// Writes what changed of a job.
pub fn save_job(connection: &Connection, run: RunId, job: &JobRollout, unsaved: &Unsaved) -> Result<()> {
    let (id, name) = (run.to_string(), job.plan.job.as_str());
    if unsaved.plan {
        let (plan, phase) = (to_json("rollout_job.plan", &job.plan)?, to_json("rollout_job.state", &job.phase)?);
        connection
            .prepare_cached(
                "INSERT INTO rollout_job (run_id, job, plan, state) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (run_id, job) DO UPDATE SET plan = excluded.plan, state = excluded.state",
            )
            .and_then(|mut upsert| upsert.execute(params![id, name, plan, phase]))
            .during("recording a job's plan")?;
    } else if unsaved.phase {
        let phase = to_json("rollout_job.state", &job.phase)?;
        connection
            .prepare_cached("UPDATE rollout_job SET state = ?3 WHERE run_id = ?1 AND job = ?2")
            .and_then(|mut update| update.execute(params![id, name, phase]))
            .during("recording how far a job is")?;
    }
    for (alloc, flight) in unsaved.flights.iter().filter_map(|alloc| Some((alloc, job.flights.get(alloc)?))) {
        let flight = to_json("rollout_flight.flight", flight)?;
        connection
            .prepare_cached(
                "INSERT INTO rollout_flight (run_id, alloc_id, job, flight) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (run_id, alloc_id) DO UPDATE SET flight = excluded.flight",
            )
            .and_then(|mut upsert| upsert.execute(params![id, alloc.to_string(), name, flight]))
            .during("recording a release")?;
    }
    Ok(())
}

/// Reads how far every job of a rollout is.
pub fn load_jobs(connection: &Connection, run: RunId) -> Result<Vec<JobRollout>> {
    let reading = "reading how far a rollout is";
    let mut flights: BTreeMap<JobName, BTreeMap<AllocId, _>> = BTreeMap::new();
    let mut select = connection
        .prepare_cached("SELECT job, alloc_id, flight FROM rollout_flight WHERE run_id = ?1")
        .during(reading)?;
    let mut rows = select.query([run.to_string()]).during(reading)?;
    while let Some(row) = rows.next().during(reading)? {
        let (job, alloc, flight): (String, String, String) =
            (row.get(0).during(reading)?, row.get(1).during(reading)?, row.get(2).during(reading)?);
        let job = parsed("rollout_flight.job", &job)?;
        let alloc = parsed("rollout_flight.alloc_id", &alloc)?;
        flights.entry(job).or_default().insert(alloc, from_json("rollout_flight.flight", &flight)?);
    }
    let mut select = connection
        .prepare_cached("SELECT job, plan, state FROM rollout_job WHERE run_id = ?1 ORDER BY job")
        .during(reading)?;
    let mut rows = select.query([run.to_string()]).during(reading)?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next().during(reading)? {
        let (job, plan, phase): (String, String, String) =
            (row.get(0).during(reading)?, row.get(1).during(reading)?, row.get(2).during(reading)?);
        let flights = flights.remove(&parsed("rollout_job.job", &job)?).unwrap_or_default();
        let (plan, phase) = (from_json("rollout_job.plan", &plan)?, from_json("rollout_job.state", &phase)?);
        jobs.push(JobRollout::loaded(plan, phase, flights));
    }
    Ok(jobs)
}

/// Takes or renews the lease of a rollout; `false` when somebody else has it, or it has ended.
pub fn lease(connection: &Connection, run: RunId, owner: &str, until_ms: i64, now_ms: i64) -> Result<bool> {
    let taken = connection
        .prepare_cached(
            "UPDATE rollout SET lease_owner = ?2, lease_until = ?3, state = 'running', \
               request = iif(lease_owner = ?2, request, NULL) WHERE run_id = ?1 AND state IN ('running', 'paused') \
             AND (lease_owner IS NULL OR lease_owner = ?2 OR lease_until < ?4 OR state = 'paused')",
        )
        .and_then(|mut update| update.execute(params![run.to_string(), owner, until_ms, now_ms]))
        .during("taking the lease of a rollout")?;
    Ok(taken == 1)
}

/// Whether `owner` has the lease, and nobody took it since.
pub fn has_lease(connection: &Connection, run: RunId, owner: &str) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM rollout WHERE run_id = ?1 AND lease_owner = ?2")
        .and_then(|mut select| select.exists(params![run.to_string(), owner]))
        .during("reading the lease of a rollout")
}

/// The rollout has ended, or is paused; nothing is written when somebody else drives it by now.
pub fn end(connection: &Connection, run: RunId, owner: &str, state: State, now_ms: i64) -> Result<()> {
    connection
        .execute(
            "UPDATE rollout SET state = ?2, ended_at = iif(?2 = 'paused', NULL, ?3), lease_owner = NULL, \
               lease_until = NULL, request = NULL WHERE run_id = ?1 AND lease_owner = ?4",
            params![run.to_string(), state.word(), now_ms, owner],
        )
        .during("ending a rollout")?;
    Ok(())
}

/// The driver of a rollout that nobody waits for lets it go: another one takes it up.
pub fn let_go(connection: &Connection, run: RunId, owner: &str) -> Result<()> {
    connection
        .execute(
            "UPDATE rollout SET lease_owner = NULL, lease_until = NULL WHERE run_id = ?1 AND lease_owner = ?2",
            params![run.to_string(), owner],
        )
        .during("letting a rollout go")?;
    Ok(())
}

/// Asks the driver of a rollout for something.
pub fn ask(connection: &Connection, run: RunId, request: Request) -> Result<()> {
    connection
        .execute("UPDATE rollout SET request = ?2 WHERE run_id = ?1", params![run.to_string(), request.word()])
        .during("asking a rollout's driver")?;
    Ok(())
}

/// Leaves a paused rollout to `maand drive`.
pub fn detach(connection: &Connection, run: RunId) -> Result<()> {
    connection
        .execute(
            "UPDATE rollout SET attended = 0, state = 'running', lease_owner = NULL, lease_until = NULL, request = NULL \
             WHERE run_id = ?1 AND state IN ('running', 'paused')",
            [run.to_string()],
        )
        .during("leaving a rollout to maand drive")?;
    Ok(())
}

/// What an operator asked the driver for.
pub fn request(connection: &Connection, run: RunId) -> Result<Option<Request>> {
    Ok(get(connection, run)?.and_then(|header| header.request))
}
