//! Edge: a build into rows, in one transaction: all of it or nothing.

use rusqlite::{Connection, params};
use shared::{Bundle, RunId};

use super::{During, Result, bundles, kv, to_json};
use crate::build::Build;
use crate::model::FileKind;
use crate::model::kv::Values;
use crate::workspace::load::Seen;

/// Writes `build`, whose allocations have their bundles set. To be called inside a write transaction.
pub fn build(
    connection: &Connection,
    build: &Build,
    lists: &[Bundle],
    before: &Values,
    seen: &Seen,
    now_ms: i64,
    run: RunId,
) -> Result<()> {
    for list in lists {
        bundles::put(connection, list)?;
    }
    workers(connection, build, now_ms)?;
    jobs(connection, build)?;
    allocations(connection, build)?;
    kv::write(connection, before, &build.values, now_ms)?;
    files_seen(connection, seen)?;
    connection
        .execute("UPDATE bucket SET built_at = ?1, build_run = ?2", params![now_ms, run.to_string()])
        .during("recording the build")?;
    // Lists that nothing refers to any more; the plan of an open rollout may refer to any.
    connection
        .execute(
            "DELETE FROM bundle WHERE digest NOT IN (SELECT bundle FROM allocation WHERE bundle IS NOT NULL \
             UNION SELECT bundle FROM desired_allocation WHERE bundle IS NOT NULL UNION SELECT bundle FROM promoted) \
             AND NOT EXISTS (SELECT 1 FROM rollout WHERE state IN ('running', 'paused'))",
            [],
        )
        .during("forgetting old bundles")?;
    Ok(())
}

fn workers(connection: &Connection, build: &Build, now_ms: i64) -> Result<()> {
    connection.execute("DELETE FROM worker", []).during("replacing the workers")?;
    let mut insert = connection
        .prepare_cached(
            "INSERT INTO worker (worker_id, host, hostname, labels, tags, memory_mb, cpu_mhz, position) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .during("writing the workers")?;
    for worker in &build.workers {
        insert
            .execute(params![
                worker.worker_id.to_string(),
                worker.host.as_str(),
                worker.hostname,
                to_json("worker.labels", &worker.labels)?,
                to_json("worker.tags", &worker.tags)?,
                worker.memory_mb,
                worker.cpu_mhz,
                worker.position
            ])
            .during("writing a worker")?;
    }
    for (id, host) in &build.gone {
        connection
            .execute(
                "INSERT OR IGNORE INTO worker_gone (worker_id, host, gone_at) VALUES (?1, ?2, ?3)",
                params![id.to_string(), host.as_str(), now_ms],
            )
            .during("recording a worker that is gone")?;
    }
    Ok(())
}

fn jobs(connection: &Connection, build: &Build) -> Result<()> {
    connection.execute_batch("DELETE FROM job; DELETE FROM job_file").during("replacing the jobs")?;
    let mut insert = connection
        .prepare_cached("INSERT INTO job_file (job, path, mode, len, blob, kind) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
        .during("writing the jobs' files")?;
    for job in &build.jobs {
        connection
            .execute(
                "INSERT INTO job (name, version, spec) VALUES (?1, ?2, ?3)",
                params![job.name.as_str(), job.spec.version, to_json("job.spec", &job.spec)?],
            )
            .during("writing a job")?;
        for file in &job.files {
            let kind = match file.kind {
                FileKind::Shipped => "shipped",
                FileKind::Template => "template",
                FileKind::Control => "control",
            };
            insert
                .execute(params![
                    job.name.as_str(),
                    file.path.as_str(),
                    file.mode,
                    file.len,
                    file.blob.to_string(),
                    kind
                ])
                .during("writing a job's file")?;
        }
    }
    Ok(())
}

fn allocations(connection: &Connection, build: &Build) -> Result<()> {
    connection.execute("DELETE FROM allocation", []).during("replacing the allocations")?;
    let mut insert = connection
        .prepare_cached(
            "INSERT INTO allocation (alloc_id, job, host, worker_id, disabled, removed, start_pending, deployment_seq, \
             new_version, bundle) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )
        .during("writing the allocations")?;
    for a in &build.allocations {
        insert
            .execute(params![
                a.alloc_id.to_string(),
                a.job.as_str(),
                a.host.as_str(),
                a.worker_id.to_string(),
                a.disabled,
                a.removed,
                a.start_pending,
                a.deployment_seq,
                a.new_version,
                a.bundle.map(|digest| digest.to_string())
            ])
            .during("writing an allocation")?;
    }
    // A host that was taken out and put back is another worker: what was promoted there is not its.
    connection
        .execute(
            "DELETE FROM promoted WHERE alloc_id IN (SELECT a.alloc_id FROM allocation a \
             JOIN desired_allocation d USING (alloc_id) WHERE d.worker_id <> a.worker_id)",
            [],
        )
        .during("forgetting what another worker ran")?;
    Ok(())
}

fn files_seen(connection: &Connection, seen: &Seen) -> Result<()> {
    connection.execute("DELETE FROM file_seen", []).during("recording the files")?;
    let mut insert = connection
        .prepare_cached(
            "INSERT INTO file_seen (path, len, mtime_ns, ctime_ns, inode, blob) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .during("recording the files")?;
    for (path, ([len, mtime, ctime, inode], blob)) in &seen.now {
        insert.execute(params![path, len, mtime, ctime, inode, blob.to_string()]).during("recording a file")?;
    }
    Ok(())
}
