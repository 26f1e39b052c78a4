//! Edge: a build into rows, in one transaction: all of it or nothing. Rows that are as they should be
//! are not written.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::{Connection, params};
use shared::{AllocId, RunId};

use super::{During, Result, bundles, certificates, kv, to_json};
use crate::build::Build;
use crate::build::namespaces::Derived;
use crate::compose::Composed;
use crate::model::kv::{Keys, Namespace, ROLLOUT_ORDER};
use crate::model::{Allocation, FileKind, Fingerprint, Snapshot};
use crate::workspace::load::Seen;

/// Old versions of key-values are forgotten after so many days.
const KEPT_DAYS: i64 = 7;
const DAY_MS: i64 = 86_400_000;

/// What a build writes.
#[derive(Debug)]
pub struct Written<'a> {
    /// What was decided, with the bundles of what is not removed.
    pub build: &'a Build,
    /// What the catalog had when it was decided.
    pub before: &'a Snapshot,
    /// Key-values that build owns.
    pub derived: &'a Derived,
    /// Certificates and digests.
    pub composed: &'a Composed,
    /// Stamps of the workspace's files.
    pub seen: &'a Seen,
    /// Also the variables and secrets of jobs that are gone.
    pub purge_job_kv: bool,
    /// Milliseconds since 1970 UTC.
    pub now_ms: i64,
    /// The build.
    pub run: RunId,
}

/// Writes a build. To be called inside a write transaction.
pub fn build(connection: &Connection, written: &Written<'_>) -> Result<()> {
    workers(connection, written)?;
    jobs(connection, written)?;
    let changed = allocations(connection, written)?;
    key_values(connection, written)?;
    issued(connection, written)?;
    files_seen(connection, written.seen)?;
    connection
        .execute(
            "UPDATE bucket SET built_at = ?1, build_run = ?2, allocations = ?3",
            params![
                written.now_ms,
                written.run.to_string(),
                written.build.allocations.iter().filter(|a| !a.removed).count() as u64
            ],
        )
        .during("recording the build")?;
    // Lists that nothing refers to any more.
    if changed {
        bundles::forget_unreferenced(connection)?;
    }
    Ok(())
}

fn workers(connection: &Connection, written: &Written<'_>) -> Result<()> {
    let build = written.build;
    if build.workers == written.before.workers {
        return Ok(());
    }
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
                params![id.to_string(), host.as_str(), written.now_ms],
            )
            .during("recording a worker that is gone")?;
    }
    Ok(())
}

fn jobs(connection: &Connection, written: &Written<'_>) -> Result<()> {
    connection.execute_batch("DELETE FROM job; DELETE FROM job_file").during("replacing the jobs")?;
    let mut insert = connection
        .prepare_cached("INSERT INTO job_file (job, path, mode, len, blob, kind) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
        .during("writing the jobs' files")?;
    for job in &written.build.jobs {
        let (inputs, reads) = match written.composed.jobs.get(&job.name) {
            Some((inputs, reads)) => (Some(inputs.as_slice()), to_json("job.reads", reads)?),
            None => (None, "[]".to_owned()),
        };
        connection
            .execute(
                "INSERT INTO job (name, version, spec, inputs, reads) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![job.name.as_str(), job.spec.version, to_json("job.spec", &job.spec)?, inputs, reads],
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

/// Writes the allocations that changed; whether any bundle did.
fn allocations(connection: &Connection, written: &Written<'_>) -> Result<bool> {
    let old: HashMap<AllocId, &Allocation> = written.before.allocations.iter().map(|a| (a.alloc_id, a)).collect();
    let mut changed = false;
    let mut upsert = connection
        .prepare_cached(
            // A rollout may have started it since it was read: only what this build marks is marked.
            "INSERT INTO allocation (alloc_id, job, host, worker_id, disabled, removed, start_pending, \
             deployment_seq, new_version, bundle, render_inputs, removed_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, iif(?6, ?13, NULL)) \
             ON CONFLICT (alloc_id) DO UPDATE SET job = excluded.job, host = excluded.host, \
               worker_id = excluded.worker_id, disabled = excluded.disabled, removed = excluded.removed, \
               start_pending = start_pending OR ?12, deployment_seq = excluded.deployment_seq, \
               new_version = excluded.new_version, bundle = excluded.bundle, render_inputs = excluded.render_inputs, \
               removed_at = iif(excluded.removed, coalesce(removed_at, excluded.removed_at), NULL)",
        )
        .during("writing the allocations")?;
    for a in &written.build.allocations {
        let known = old.get(&a.alloc_id);
        if known.is_some_and(|known| *known == a) {
            continue;
        }
        changed |= known.is_some_and(|known| known.bundle != a.bundle);
        upsert
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
                a.bundle.map(|digest| digest.to_string()),
                a.render_inputs.as_ref().map(<[u8; 32]>::as_slice),
                a.start_pending && !known.is_some_and(|known| known.start_pending),
                written.now_ms
            ])
            .during("writing an allocation")?;
        // A host that was taken out and put back is another worker: what was promoted there is not its.
        if known.is_some_and(|known| known.worker_id != a.worker_id) {
            connection
                .execute("DELETE FROM promoted WHERE alloc_id = ?1", [a.alloc_id.to_string()])
                .and_then(|_| connection.execute("DELETE FROM rolled WHERE alloc_id = ?1", [a.alloc_id.to_string()]))
                .during("forgetting what another worker ran")?;
        }
    }
    Ok(changed)
}

/// What the allocations of a job have in common with what was written, as a scope.
fn allocations_of(job: &str) -> String {
    format!("allocations of {job}")
}

fn key_values(connection: &Connection, written: &Written<'_>) -> Result<()> {
    let (derived, now_ms) = (written.derived, written.now_ms);
    let mut kept: BTreeSet<String> = BTreeSet::new();
    for namespace in derived.namespaces() {
        let (name, keys) = (namespace.to_string(), derived.keys(&namespace));
        scope(connection, &mut kept, &name, digest(&keys), || {
            kv::sync(connection, &namespace, &kv::rows(connection, &name)?, &keys, |_| true, now_ms)
        })?;
        // An order that a hook set was for the deploy that it was made for.
        if let (Namespace::Job(_), Some(order)) = (&namespace, keys.get(ROLLOUT_ORDER)) {
            kv::put(connection, &namespace.to_string(), ROLLOUT_ORDER, &order.text, now_ms)?;
        }
    }
    for job in derived.jobs() {
        let (namespace, variables) = (Namespace::JobVars(job.clone()), derived.variables(job));
        let name = namespace.to_string();
        // Hooks write here too: what the file says is put at every build, as templates see it.
        if !variables.is_empty() {
            kv::sync(connection, &namespace, &kv::rows(connection, &name)?, &variables, |_| false, now_ms)?;
        }
        scope(connection, &mut kept, &name, digest(&variables), || Ok(()))?;
        scope(connection, &mut kept, &allocations_of(job.as_str()), derived.allocations_digest(job), || {
            let mut below = kv::rows_below(connection, &format!("maand/job/{job}/worker/"))?;
            for host in derived.placed(job) {
                let namespace = Namespace::Allocation(job.clone(), host.clone());
                let there = below.remove(&namespace.to_string()).unwrap_or_default();
                let keys = derived.keys(&namespace);
                // Certificates are the next step's.
                kv::sync(connection, &namespace, &there, &keys, |key| !key.starts_with("certs/"), now_ms)?;
            }
            kv::clear(connection, below.into_keys(), now_ms)
        })?;
    }
    for name in kv::scopes(connection)?.into_iter().filter(|name| !kept.contains(name)) {
        match name.strip_prefix("allocations of ") {
            Some(job) => {
                let below = kv::live_below(connection, &format!("maand/job/{job}/worker/"))?;
                kv::clear(connection, below, now_ms)?;
            }
            // What hooks and operators wrote stays until gc: a directory renamed by mistake loses no secret.
            None if name.starts_with("vars/job/") && !written.purge_job_kv => {}
            None => kv::clear(connection, [name.clone()], now_ms)?,
        }
        if let Some(job) = name.strip_prefix("vars/job/").filter(|_| written.purge_job_kv) {
            kv::clear(connection, [format!("secrets/job/{job}")], now_ms)?;
        }
        kv::set_scope(connection, &name, None)?;
    }
    if written.purge_job_kv {
        purge_unplaced(connection, written)?;
    }
    let purged: i64 = connection
        .query_row("SELECT kv_purged_at FROM bucket", [], |row| row.get(0))
        .during("reading when key-values were purged")?;
    if now_ms - purged > DAY_MS {
        kv::purge(connection, now_ms - KEPT_DAYS * DAY_MS)?;
        connection
            .execute("UPDATE bucket SET kv_purged_at = ?1", [now_ms])
            .during("recording when key-values were purged")?;
    }
    Ok(())
}

/// `--purge-job-kv`: variables and secrets of jobs that have nothing but removed allocations, or are gone.
fn purge_unplaced(connection: &Connection, written: &Written<'_>) -> Result<()> {
    for prefix in ["vars/job/", "secrets/job/"] {
        for namespace in kv::live_below(connection, prefix)? {
            let job = namespace.strip_prefix(prefix).and_then(|name| name.parse().ok());
            let rows = || written.build.allocations.iter().filter(|a| Some(&a.job) == job.as_ref());
            let in_use = rows().any(|a| !a.removed)
                || (rows().next().is_none() && written.derived.jobs().any(|j| Some(j) == job.as_ref()));
            if !in_use {
                kv::clear(connection, [namespace], written.now_ms)?;
            }
        }
    }
    Ok(())
}

/// Runs `write` if the scope was made of something else at the last build.
fn scope(
    connection: &Connection,
    kept: &mut BTreeSet<String>,
    name: &str,
    digest: [u8; 32],
    write: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if kv::scope(connection, name)? != Some(digest) {
        write()?;
        kv::set_scope(connection, name, Some(&digest))?;
    }
    kept.insert(name.to_owned());
    Ok(())
}

fn digest(keys: &Keys) -> [u8; 32] {
    let mut print = Fingerprint::new("maand-keys-1");
    for (key, value) in keys {
        print.part(key);
        print.part(&value.text);
    }
    print.finish()
}

fn issued(connection: &Connection, written: &Written<'_>) -> Result<()> {
    for changes in &written.composed.certificates {
        for (job, name, host) in &changes.gone {
            certificates::delete(connection, job, name, host)?;
            let namespace = Namespace::Allocation(job.clone(), host.clone()).to_string();
            for key in [format!("certs/{name}.crt"), format!("certs/{name}.key")] {
                if kv::get(connection, &namespace, &key)?.is_some() {
                    kv::delete(connection, &namespace, &key, written.now_ms)?;
                }
            }
        }
        for (issued, crt, sealed) in &changes.issued {
            certificates::put(connection, issued)?;
            let namespace = Namespace::Allocation(issued.job.clone(), issued.host.clone()).to_string();
            kv::put(connection, &namespace, &format!("certs/{}.crt", issued.name), crt, written.now_ms)?;
            kv::put(connection, &namespace, &format!("certs/{}.key", issued.name), sealed, written.now_ms)?;
        }
    }
    Ok(())
}

fn files_seen(connection: &Connection, seen: &Seen) -> Result<()> {
    if seen.now == seen.known {
        return Ok(());
    }
    let mut upsert = connection
        .prepare_cached(
            "INSERT OR REPLACE INTO file_seen (path, len, mtime_ns, ctime_ns, inode, blob) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .during("recording the files")?;
    let sorted: BTreeMap<_, _> = seen.now.iter().collect();
    for (path, entry) in sorted.into_iter().filter(|(path, entry)| seen.known.get(*path) != Some(*entry)) {
        let ([len, mtime, ctime, inode], blob) = entry;
        upsert.execute(params![path, len, mtime, ctime, inode, blob.to_string()]).during("recording a file")?;
    }
    for path in seen.known.keys().filter(|path| !seen.now.contains_key(*path)) {
        connection.execute("DELETE FROM file_seen WHERE path = ?1", [path]).during("forgetting a file")?;
    }
    Ok(())
}
