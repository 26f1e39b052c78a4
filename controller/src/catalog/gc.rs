//! Edge: the rows that `maand gc` and `maand agent forget` look at and take away. They alone write here, each
//! in one transaction with what it rests on.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Row, params};
use shared::api::v1::desired::Fence;
use shared::{AllocId, BlobDigest, Host, JobName, RunId, WorkerId};

use super::{During, Result, bundles, desired, kv, observed, parsed, publish};
use crate::gc::plan::{Known, Leftover, Standing};
use crate::model::kv::Namespace;

/// Everything that a plan is made of. `online` says whose agent is there, `joined` who has one.
pub fn known(connection: &Connection, online: &BTreeSet<WorkerId>, joined: &BTreeSet<WorkerId>) -> Result<Known> {
    let mut known = Known { leftovers: leftovers(connection)?, ..Known::default() };
    let standing =
        |id: WorkerId, gone_ms| Standing { is_joined: joined.contains(&id), is_online: online.contains(&id), gone_ms };
    for leftover in &known.leftovers {
        let id = leftover.worker_id;
        known.workers.insert(id, (leftover.host.clone(), standing(id, None)));
    }
    for (id, host, gone_ms) in gone(connection)? {
        known.workers.insert(id, (host, standing(id, Some(gone_ms))));
    }
    let jobs = "SELECT DISTINCT job FROM allocation WHERE NOT removed";
    known.standing_jobs = each(connection, jobs, |row| parsed("allocation.job", &text(row, 0)?))?.into_iter().collect();
    let with_keys = "SELECT namespace, max(created_at) FROM key_value WHERE namespace GLOB 'vars/job/*' \
        OR namespace GLOB 'secrets/job/*' GROUP BY namespace";
    let of_catalog = "SELECT name FROM job UNION SELECT job FROM allocation";
    let there: BTreeSet<String> = each(connection, of_catalog, |row| text(row, 0))?.into_iter().collect();
    for (namespace, written_ms) in each(connection, with_keys, |row| Ok((text(row, 0)?, number(row, 1)?)))? {
        if let Ok(Namespace::JobVars(job) | Namespace::JobSecrets(job)) = namespace.parse()
            && !there.contains(job.as_str())
            && kv::rows(connection, &namespace)?.values().any(|row| !row.deleted)
        {
            let last = known.orphans.entry(job).or_insert(written_ms);
            *last = written_ms.max(*last);
        }
    }
    Ok(known)
}

fn each<T>(connection: &Connection, sql: &str, read: impl Fn(&Row<'_>) -> Result<T>) -> Result<Vec<T>> {
    let mut select = connection.prepare_cached(sql).during("looking for what is left over")?;
    let mut rows = select.query([]).during("looking for what is left over")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("looking for what is left over")? {
        found.push(read(row)?);
    }
    Ok(found)
}

fn text(row: &Row<'_>, at: usize) -> Result<String> {
    row.get(at).during("reading what is left over")
}

fn number(row: &Row<'_>, at: usize) -> Result<i64> {
    row.get(at).during("reading what is left over")
}

fn leftovers(connection: &Connection) -> Result<Vec<Leftover>> {
    let sql = "SELECT a.alloc_id, a.job, a.host, a.worker_id, coalesce(a.removed_at, 0), coalesce(r.may_run, 0), \
         EXISTS (SELECT 1 FROM rollout_job j JOIN rollout o USING (run_id) \
           WHERE o.state IN ('running', 'paused') AND instr(j.plan, a.alloc_id) > 0), \
         EXISTS (SELECT 1 FROM desired_allocation d WHERE d.alloc_id = a.alloc_id AND d.worker_id = a.worker_id), \
         o.alloc_id IS NOT NULL, coalesce(o.observed ->> 'purged', 0) \
       FROM allocation a LEFT JOIN rolled r USING (alloc_id) \
         LEFT JOIN observed_allocation o ON o.alloc_id = a.alloc_id AND o.worker_id = a.worker_id \
       WHERE a.removed ORDER BY a.job, a.host";
    each(connection, sql, |row| {
        let flag = |at: usize| -> Result<bool> { row.get(at).during("reading what is left over") };
        Ok(Leftover {
            alloc_id: parsed("allocation.alloc_id", &text(row, 0)?)?,
            job: parsed("allocation.job", &text(row, 1)?)?,
            host: parsed("allocation.host", &text(row, 2)?)?,
            worker_id: parsed("allocation.worker_id", &text(row, 3)?)?,
            removed_ms: number(row, 4)?,
            may_run: flag(5)?,
            in_rollout: flag(6)?,
            is_told: flag(7)?,
            is_seen: flag(8)?,
            is_purged: flag(9)?,
        })
    })
}

/// Workers that are in workers.json no more and not cleaned up yet: who, its name, since when.
pub fn gone(connection: &Connection) -> Result<Vec<(WorkerId, Host, i64)>> {
    let sql = "SELECT worker_id, host, gone_at FROM worker_gone WHERE worker_id NOT IN (SELECT worker_id FROM worker) \
        ORDER BY host, gone_at";
    each(connection, sql, |row| {
        Ok((
            parsed("worker_gone.worker_id", &text(row, 0)?)?,
            parsed("worker_gone.host", &text(row, 1)?)?,
            number(row, 2)?,
        ))
    })
}

/// By worker: the fence of what it was told, and what that is about.
pub type Told = BTreeMap<WorkerId, (Option<Fence>, Vec<AllocId>)>;

/// Tells workers to take whole trees away. An allocation that is wanted again, or may run, or that a rollout has
/// to do with by now, is left out.
pub fn tell_purged(connection: &Connection, asked: &BTreeMap<WorkerId, Vec<AllocId>>, now_ms: i64) -> Result<Told> {
    let still: BTreeSet<(WorkerId, AllocId)> = leftovers(connection)?
        .into_iter()
        .filter(|l| !l.may_run && !l.in_rollout)
        .map(|l| (l.worker_id, l.alloc_id))
        .collect();
    let mut all = BTreeMap::new();
    for (worker, allocations) in asked {
        let (mut told, mut changed) = (Vec::new(), 0);
        for alloc in allocations.iter().filter(|alloc| still.contains(&(*worker, **alloc))) {
            changed += connection
                .prepare_cached(
                    "UPDATE desired_allocation SET state = 'purged', bundle = NULL, action = NULL, health = NULL \
                     WHERE alloc_id = ?1 AND worker_id = ?2 AND state <> 'purged'",
                )
                .and_then(|mut update| update.execute(params![alloc.to_string(), worker.to_string()]))
                .during("telling an agent to take a tree away")?;
            told.push(*alloc);
        }
        // What was told by one that was cut off counts as it is.
        let fence = match changed {
            0 => desired::state(connection, *worker)?.map(|state| state.fence),
            _ => publish::move_generation(connection, *worker, now_ms)?,
        };
        all.insert(*worker, (fence, told));
    }
    Ok(all)
}

/// What became of an allocation's tree, as its agent says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    /// It is gone.
    pub done: bool,
    /// What holds its agent up.
    pub problem: Option<String>,
}

/// What became of every tree that an agent was told to take away.
pub fn purged(connection: &Connection) -> Result<BTreeMap<(WorkerId, AllocId), Purged>> {
    let sql = "SELECT o.worker_id, o.alloc_id, coalesce(o.observed ->> 'purged', 0), o.observed ->> 'problem' \
        FROM desired_allocation d JOIN observed_allocation o ON o.alloc_id = d.alloc_id AND o.worker_id = d.worker_id \
        WHERE d.state = 'purged'";
    let all = each(connection, sql, |row| {
        let place = (parsed("a worker's id", &text(row, 0)?)?, parsed("an allocation's id", &text(row, 1)?)?);
        let reading = "reading what became of a tree";
        Ok((place, Purged { done: row.get(2).during(reading)?, problem: row.get(3).during(reading)? }))
    })?;
    Ok(all.into_iter().collect())
}

/// Forgets allocations that nothing is left of: their rows, and the key-values that were theirs. With the
/// last allocation of a job all that it wrote goes, secrets included. `even_running` also takes those that may
/// run, of a worker that is lost. Which ones went.
pub fn forget(
    connection: &Connection,
    allocations: &[AllocId],
    even_running: bool,
    now_ms: i64,
) -> Result<Vec<Leftover>> {
    let wanted: BTreeSet<AllocId> = allocations.iter().copied().collect();
    let mut gone = leftovers(connection)?;
    gone.retain(|l| wanted.contains(&l.alloc_id) && !l.in_rollout && (even_running || !l.may_run));
    let mut moved_on = BTreeSet::new();
    for leftover in &gone {
        let (alloc, worker) = (leftover.alloc_id.to_string(), leftover.worker_id.to_string());
        let moved = connection
            .execute("DELETE FROM desired_allocation WHERE alloc_id = ?1 AND worker_id = ?2", [&alloc, &worker])
            .during("forgetting an allocation")?;
        for table in ["allocation", "promoted", "rolled", "observed_allocation"] {
            connection
                .execute(&format!("DELETE FROM {table} WHERE alloc_id = ?1"), [&alloc])
                .during("forgetting an allocation")?;
        }
        if moved > 0 {
            moved_on.insert(leftover.worker_id);
        }
        let own = Namespace::Allocation(leftover.job.clone(), leftover.host.clone()).to_string();
        kv::clear(connection, [own], now_ms)?;
        let has_host = "SELECT 1 FROM worker WHERE host = ?1";
        let listed = connection.prepare_cached(has_host).and_then(|mut s| s.exists([leftover.host.as_str()]));
        if !listed.during("looking for a worker")? {
            let host = &leftover.host;
            let of_worker = [Namespace::Worker(host.clone()), Namespace::Tags(host.clone())];
            kv::clear(connection, of_worker.map(|namespace| namespace.to_string()), now_ms)?;
        }
    }
    for worker in moved_on {
        publish::move_generation(connection, worker, now_ms)?;
    }
    let jobs: BTreeSet<&JobName> = gone.iter().map(|l| &l.job).collect();
    for job in jobs {
        let left = connection
            .prepare_cached("SELECT 1 FROM allocation WHERE job = ?1")
            .and_then(|mut select| select.exists([job.as_str()]))
            .during("looking for a job's allocations")?;
        if !left {
            forget_job(connection, job, now_ms)?;
        }
    }
    Ok(gone)
}

/// Forgets all key-values of a job. One that is in the workspace gets those that build makes at the next build.
pub fn forget_job(connection: &Connection, job: &JobName, now_ms: i64) -> Result<()> {
    let all = [
        Namespace::Job(job.clone()),
        Namespace::JobOverrides(job.clone()),
        Namespace::JobVars(job.clone()),
        Namespace::JobSecrets(job.clone()),
    ]
    .map(|namespace| namespace.to_string());
    for scope in all.iter().chain([&format!("allocations of {job}")]) {
        kv::set_scope(connection, scope, None)?;
    }
    kv::clear(connection, all, now_ms)
}

/// Ends a worker that is in workers.json no more and that no allocation is left of: its certificates and all
/// that was told to it and heard of it. Whether it was ended.
pub fn end_worker(connection: &Connection, worker: WorkerId, now_ms: i64) -> Result<bool> {
    let id = worker.to_string();
    let needed = "SELECT 1 FROM worker WHERE worker_id = ?1 UNION SELECT 1 FROM allocation WHERE worker_id = ?1";
    if connection.prepare_cached(needed).and_then(|mut s| s.exists([&id])).during("looking for a worker")? {
        return Ok(false);
    }
    super::agents::revoke(connection, worker, "the worker is gone", now_ms)?;
    for table in [
        "desired_worker",
        "desired_allocation",
        "observed_worker",
        "observed_allocation",
        "observed_unknown",
        "agent_contact",
        "agent_alarm",
        "agent_session",
        "agent_trust",
        "recovering",
        "worker_gone",
    ] {
        connection
            .execute(&format!("DELETE FROM {table} WHERE worker_id = ?1"), [&id])
            .during("forgetting a worker")?;
    }
    Ok(true)
}

/// The blobs that something refers to, and how many bundles' lists nothing does. While a rollout is open every
/// list counts: what it will ask for is in its plan alone.
pub fn blobs_in_use(connection: &Connection) -> Result<(BTreeSet<BlobDigest>, usize)> {
    let (lists, unused) = bundles::referenced(connection)?;
    let rows = "SELECT blob FROM job_file UNION SELECT crt FROM certificate UNION SELECT key FROM certificate \
        UNION SELECT blob FROM file_seen";
    let mut used: BTreeSet<BlobDigest> =
        each(connection, rows, |row| parsed("a blob", &text(row, 0)?))?.into_iter().collect();
    for digest in lists {
        if let Some(bundle) = bundles::get(connection, &digest)? {
            used.extend(bundle.entries().iter().map(|entry| entry.blob));
        }
    }
    Ok((used, unused))
}

/// The rollouts that are remembered.
pub fn runs(connection: &Connection) -> Result<BTreeSet<RunId>> {
    Ok(each(connection, "SELECT run_id FROM rollout", |row| parsed("rollout.run_id", &text(row, 0)?))?
        .into_iter()
        .collect())
}

/// What every agent concerned has accepted.
pub fn accepted(connection: &Connection) -> Result<BTreeMap<WorkerId, Fence>> {
    Ok(observed::accepted(connection)?.into_iter().collect())
}
