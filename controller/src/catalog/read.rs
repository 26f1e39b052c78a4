//! Edge: rows to `model::Snapshot`.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row};
use shared::{BlobDigest, BucketId, JobName};

use super::publish::{ACTION_FAILED, UNHEALTHY};
use super::{During, Error, Result, from_json, parsed};
use crate::compose::Reads;
use crate::model::{Allocation, Deferral, FileKind, Job, JobFile, PostDeploy, Promoted, Rolled, Snapshot, Worker};

/// Which bucket it is.
pub fn bucket_id(connection: &Connection) -> Result<BucketId> {
    let id: String =
        connection.query_row("SELECT bucket_id FROM bucket", [], |row| row.get(0)).during("reading the bucket's id")?;
    parsed("bucket.bucket_id", &id)
}

/// Everything that the last build committed, with what was promoted since; jobs without their files.
/// To be called inside [`super::Catalog::read`], for one consistent view.
pub fn snapshot(connection: &Connection) -> Result<Snapshot> {
    let bucket_id = bucket_id(connection)?;
    let (epoch, update_seq, built_at_ms) = connection
        .query_row("SELECT epoch, update_seq, built_at FROM bucket", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .during("reading the bucket")?;
    Ok(Snapshot {
        bucket_id,
        epoch,
        update_seq,
        built_at_ms,
        workers: workers(connection)?,
        jobs: jobs(connection)?,
        allocations: allocations(connection)?,
    })
}

/// Number of the last real deploy.
pub fn update_seq(connection: &Connection) -> Result<u64> {
    connection.query_row("SELECT update_seq FROM bucket", [], |row| row.get(0)).during("reading update_seq")
}

/// Whether any allocation waits for its agent to be back.
pub fn any_deferred(connection: &Connection) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM rolled WHERE deferred_at IS NOT NULL")
        .and_then(|mut select| select.exists([]))
        .during("looking for stragglers")
}

/// How much is in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Which bucket.
    pub bucket_id: BucketId,
    /// Moves only by `maand recover`.
    pub epoch: u64,
    /// Of the last real deploy.
    pub update_seq: u64,
    /// When the last build succeeded, milliseconds since 1970 UTC; `None` before the first.
    pub built_at_ms: Option<i64>,
    /// How many there are.
    pub workers: u64,
    /// How many there are.
    pub jobs: u64,
    /// Without those that are removed.
    pub allocations: u64,
}

/// How much is in the bucket, without reading it.
pub fn summary(connection: &Connection) -> Result<Summary> {
    let bucket_id = bucket_id(connection)?;
    let read = |row: &Row<'_>| {
        Ok(Summary {
            bucket_id,
            epoch: row.get(0)?,
            update_seq: row.get(1)?,
            built_at_ms: row.get(2)?,
            workers: row.get(3)?,
            jobs: row.get(4)?,
            allocations: row.get(5)?,
        })
    };
    let sql = "SELECT epoch, update_seq, built_at, (SELECT count(*) FROM worker), (SELECT count(*) FROM job), \
               allocations FROM bucket";
    connection.query_row(sql, [], read).during("counting what is in the bucket")
}

/// Collects rows, naming the operation in every error.
fn collect<T>(
    connection: &Connection,
    operation: &'static str,
    sql: &str,
    read: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut select = connection.prepare_cached(sql).during(operation)?;
    let mut rows = select.query([]).during(operation)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during(operation)? {
        found.push(read(row)?);
    }
    Ok(found)
}

fn text(row: &Row<'_>, at: usize) -> Result<String> {
    row.get(at).during("reading a text")
}

/// The workers, by position, then host.
pub fn workers(connection: &Connection) -> Result<Vec<Worker>> {
    let sql = "SELECT worker_id, host, hostname, labels, tags, memory_mb, cpu_mhz, position FROM worker ORDER BY position, host";
    collect(connection, "reading the workers", sql, |row| {
        Ok(Worker {
            worker_id: parsed("worker.worker_id", &text(row, 0)?)?,
            host: parsed("worker.host", &text(row, 1)?)?,
            hostname: row.get(2).during("reading a worker")?,
            labels: from_json("worker.labels", &text(row, 3)?)?,
            tags: from_json("worker.tags", &text(row, 4)?)?,
            memory_mb: row.get(5).during("reading a worker")?,
            cpu_mhz: row.get(6).during("reading a worker")?,
            position: row.get(7).during("reading a worker")?,
        })
    })
}

fn jobs(connection: &Connection) -> Result<Vec<Job>> {
    collect(connection, "reading the jobs", "SELECT name, spec FROM job ORDER BY name", |row| {
        let name = parsed("job.name", &text(row, 0)?)?;
        Ok(Job { name, spec: from_json("job.spec", &text(row, 1)?)?, files: Vec::new() })
    })
}

/// The files of every job.
pub fn files(connection: &Connection) -> Result<Vec<(JobName, JobFile)>> {
    let sql = "SELECT job, path, mode, len, blob, kind FROM job_file ORDER BY job, path";
    collect(connection, "reading the jobs' files", sql, |row| Ok((parsed("job_file.job", &text(row, 0)?)?, file(row)?)))
}

/// The files of one job, by path.
pub fn files_of(connection: &Connection, job: &JobName) -> Result<Vec<JobFile>> {
    let during = "reading a job's files";
    let sql = "SELECT job, path, mode, len, blob, kind FROM job_file WHERE job = ?1 ORDER BY path";
    let mut select = connection.prepare_cached(sql).during(during)?;
    let mut rows = select.query([job.as_str()]).during(during)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during(during)? {
        found.push(file(row)?);
    }
    Ok(found)
}

fn file(row: &Row<'_>) -> Result<JobFile> {
    let kind = match text(row, 5)?.as_str() {
        "shipped" => FileKind::Shipped,
        "template" => FileKind::Template,
        "control" => FileKind::Control,
        other => return Err(Error::Damaged { what: "job_file.kind", why: format!("{other:?}") }),
    };
    let blob: BlobDigest = parsed("job_file.blob", &text(row, 4)?)?;
    Ok(JobFile {
        path: parsed("job_file.path", &text(row, 1)?)?,
        mode: row.get(2).during("reading a file")?,
        len: row.get(3).during("reading a file")?,
        blob,
        kind,
    })
}

fn allocations(connection: &Connection) -> Result<Vec<Allocation>> {
    let sql = "SELECT a.alloc_id, a.job, a.host, a.worker_id, a.disabled, a.removed, a.start_pending, a.deployment_seq, \
                 a.new_version, a.bundle, p.bundle, p.version, a.render_inputs, r.may_run, r.post_deploy, r.health_failed, \
                 r.deferred_at, r.deferred_bundle, r.deferred_version \
               FROM allocation a LEFT JOIN promoted p USING (alloc_id) LEFT JOIN rolled r USING (alloc_id) \
               LEFT JOIN worker w USING (worker_id) \
               ORDER BY a.job, w.position IS NULL, w.position, a.host";
    collect(connection, "reading the allocations", sql, |row| {
        let digest = |at: usize| -> Result<Option<_>> {
            let text: Option<String> = row.get(at).during("reading an allocation")?;
            text.map(|text| parsed("allocation.bundle", &text)).transpose()
        };
        let promoted = match digest(10)? {
            Some(bundle) => Some(Promoted { bundle, version: text(row, 11)? }),
            None => None,
        };
        Ok(Allocation {
            alloc_id: parsed("allocation.alloc_id", &text(row, 0)?)?,
            job: parsed("allocation.job", &text(row, 1)?)?,
            host: parsed("allocation.host", &text(row, 2)?)?,
            worker_id: parsed("allocation.worker_id", &text(row, 3)?)?,
            disabled: row.get(4).during("reading an allocation")?,
            removed: row.get(5).during("reading an allocation")?,
            start_pending: row.get(6).during("reading an allocation")?,
            deployment_seq: row.get(7).during("reading an allocation")?,
            new_version: text(row, 8)?,
            bundle: digest(9)?,
            promoted,
            rolled: rolled(row, 13)?,
            render_inputs: inputs(row, 12)?,
        })
    })
}

fn rolled(row: &Row<'_>, at: usize) -> Result<Option<Rolled>> {
    let reading = "reading what rollouts made of an allocation";
    let Some(may_run) = row.get::<_, Option<bool>>(at).during(reading)? else { return Ok(None) };
    let status: Option<String> = row.get(at + 1).during(reading)?;
    let post_deploy = match status {
        None => None,
        Some(word) => match PostDeploy::of(&word) {
            Some(status) => Some(status),
            None => return Err(Error::Damaged { what: "rolled.post_deploy", why: format!("{word:?}") }),
        },
    };
    let since: Option<i64> = row.get(at + 3).during(reading)?;
    let deferred = match since {
        None => None,
        Some(since_ms) => Some(Deferral {
            since_ms,
            bundle: parsed("rolled.deferred_bundle", &text(row, at + 4)?)?,
            version: text(row, at + 5)?,
        }),
    };
    let unproved: u8 = row.get(at + 2).during(reading)?;
    let (health_failed, action_failed) = (unproved == UNHEALTHY, unproved == ACTION_FAILED);
    Ok(Some(Rolled { may_run, post_deploy, health_failed, action_failed, deferred }))
}

fn inputs(row: &Row<'_>, at: usize) -> Result<Option<[u8; 32]>> {
    let bytes: Option<Vec<u8>> = row.get(at).during("reading what a build made things of")?;
    let digest = bytes.map(<[u8; 32]>::try_from).transpose();
    digest.map_err(|_| Error::Damaged { what: "a digest of inputs", why: "it has not 32 bytes".to_owned() })
}

/// By job: digest of what its bundles were made of, and what its templates read.
pub type JobInputs = BTreeMap<JobName, (Option<[u8; 32]>, Reads)>;

/// What the last build made of every job.
pub fn job_inputs(connection: &Connection) -> Result<JobInputs> {
    let rows = collect(connection, "reading what jobs were made of", "SELECT name, inputs, reads FROM job", |row| {
        let reads = match text(row, 2)?.as_str() {
            "[]" => Reads::default(),
            json => from_json("job.reads", json)?,
        };
        Ok((parsed("job.name", &text(row, 0)?)?, (inputs(row, 1)?, reads)))
    })?;
    Ok(rows.into_iter().collect())
}

/// What the last build knew of the workspace's files.
pub fn files_seen(connection: &Connection) -> Result<std::collections::HashMap<String, ([i64; 4], BlobDigest)>> {
    let sql = "SELECT path, len, mtime_ns, ctime_ns, inode, blob FROM file_seen";
    let rows = collect(connection, "reading the files' stamps", sql, |row| {
        let number = |at: usize| -> Result<i64> { row.get(at).during("reading a file's stamp") };
        let stamp = [number(1)?, number(2)?, number(3)?, number(4)?];
        Ok((text(row, 0)?, (stamp, parsed("file_seen.blob", &text(row, 5)?)?)))
    })?;
    Ok(rows.into_iter().collect())
}
