//! Edge: key-values with their history: versions, tombstones, retention (`spec/behaviour.md` 1.5).

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, params};
use shared::JobName;

use super::{During, Error, Result};
use crate::build::namespaces::PEERS;
use crate::model::Fingerprint;
use crate::model::kv::{Keys, Namespace, ROLLOUT_ORDER};

/// Versions of a key that are kept besides the latest.
const KEPT_VERSIONS: u64 = 7;
/// Begins the stored form of a secret.
pub const SEALED: &str = "enc:v1:";

/// The latest row of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where.
    pub namespace: String,
    /// Which.
    pub key: String,
    /// Counted from 1; a deletion counts too.
    pub version: u64,
    /// As stored: sealed when it is secret.
    pub value: String,
    /// Milliseconds since 1970 UTC.
    pub created_ms: i64,
    /// It is a tombstone.
    pub deleted: bool,
    /// The value follows from the allocations; what is stored is a digest of it.
    derived: bool,
}

impl Row {
    /// Whether the value is sealed.
    pub fn is_sealed(&self) -> bool {
        self.value.starts_with(SEALED)
    }
}

/// The latest row of every key of `namespace`, tombstones included.
pub fn rows(connection: &Connection, namespace: &str) -> Result<BTreeMap<String, Row>> {
    let mut rows = BTreeMap::new();
    each(connection, "namespace = ?1", &[namespace], |row| drop(rows.insert(row.key.clone(), row)))?;
    Ok(rows)
}

/// The latest row of every key there is, tombstones included, by namespace and key.
pub fn all(connection: &Connection) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for_each(connection, |row| {
        rows.push(row);
        Ok(())
    })?;
    Ok(rows)
}

/// The same, one by one: in a large bucket there are a million.
pub fn for_each(connection: &Connection, mut take: impl FnMut(Row) -> Result<()>) -> Result<()> {
    let mut taken = Ok(());
    each(connection, "1", &[], |row| {
        if taken.is_ok() {
            taken = take(row);
        }
    })?;
    taken
}

/// The latest row of one key; `None` when it never was, or is deleted.
pub fn get(connection: &Connection, namespace: &str, key: &str) -> Result<Option<Row>> {
    Ok(latest(connection, namespace, key)?.filter(|row| !row.deleted))
}

fn latest(connection: &Connection, namespace: &str, key: &str) -> Result<Option<Row>> {
    let mut found = None;
    each(connection, "namespace = ?1 AND key = ?2", &[namespace, key], |row| found = Some(row))?;
    Ok(found)
}

/// Counts commits of other connections.
pub fn data_version(connection: &Connection) -> Result<i64> {
    connection.pragma_query_value(None, "data_version", |row| row.get(0)).during("looking for changes")
}

/// Differs when secrets were written or forgotten, and after a build, which issues certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(u64, u64, i64, i64);

/// Where secrets are.
const SECRETS: &str = "secrets/";

/// See [`Stamp`].
pub fn secrets_stamp(connection: &Connection) -> Result<Stamp> {
    connection
        .prepare_cached(
            "SELECT count(*), coalesce(sum(version), 0), coalesce(max(created_at), 0), \
             (SELECT coalesce(max(built_at), 0) FROM bucket) \
             FROM key_value WHERE namespace >= ?1 AND namespace < ?2",
        )
        .and_then(|mut select| {
            let stamp = |row: &rusqlite::Row<'_>| Ok(Stamp(row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
            select.query_row([SECRETS, &end_of(SECRETS)], stamp)
        })
        .during("looking for changed secrets")
}

/// Every sealed value that is kept, older versions included: namespace, key, stored form.
pub fn secrets(connection: &Connection) -> Result<Vec<(String, String, String)>> {
    connection
        .prepare_cached(
            "SELECT DISTINCT namespace, key, value FROM key_value WHERE namespace >= ?1 AND namespace < ?2 AND deleted = 0",
        )
        .and_then(|mut select| {
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            select.query_map([SECRETS, &end_of(SECRETS)], row)?.collect()
        })
        .during("reading secrets")
}

/// The latest rows of every namespace whose name begins with `prefix`, which ends with a slash.
pub fn rows_below(connection: &Connection, prefix: &str) -> Result<BTreeMap<String, BTreeMap<String, Row>>> {
    let mut found: BTreeMap<String, BTreeMap<String, Row>> = BTreeMap::new();
    each(connection, BELOW, &[prefix, &end_of(prefix)], |row| {
        if let Some(rows) = found.get_mut(&row.namespace) {
            rows.insert(row.key.clone(), row);
        } else {
            found.insert(row.namespace.clone(), [(row.key.clone(), row)].into());
        }
    })?;
    Ok(found)
}

const BELOW: &str = "namespace >= ?1 AND namespace < ?2";

/// The first text behind everything that begins with `prefix`, which ends with a slash: '0' follows it.
fn end_of(prefix: &str) -> String {
    format!("{}0", prefix.trim_end_matches('/'))
}

/// The last value that a key had, though it may be deleted by now; `None` when it never was or is forgotten.
pub fn last(connection: &Connection, namespace: &str, key: &str) -> Result<Option<String>> {
    connection
        .prepare_cached(
            "SELECT value FROM key_value WHERE namespace = ?1 AND key = ?2 AND deleted = 0 ORDER BY version DESC LIMIT 1",
        )
        .and_then(|mut select| select.query_row([namespace, key], |row| row.get(0)).optional())
        .during("reading what a key was")
}

/// What a row's value is, where it is not stored itself.
pub fn resolve(connection: &Connection, row: &Row) -> Result<String> {
    Resolver::new(connection).value(row, usize::MAX)
}

/// Finds the values of rows that do not have them themselves.
#[derive(Debug)]
pub struct Resolver<'a> {
    connection: &'a Connection,
    /// Where the jobs are that were asked for, in worker order.
    placed: BTreeMap<JobName, Vec<String>>,
}

impl<'a> Resolver<'a> {
    /// To be used within one read: what it has read it does not read again.
    pub fn new(connection: &'a Connection) -> Self {
        Self { connection, placed: BTreeMap::new() }
    }

    /// The value of `row`; of one that has to be put together at least its first `most` bytes.
    pub fn value(&mut self, row: &Row, most: usize) -> Result<String> {
        let Some(Namespace::Allocation(job, host)) = row.namespace.parse().ok().filter(|_| row.derived) else {
            return Ok(row.value.clone());
        };
        if !self.placed.contains_key(&job) {
            let hosts = placed(self.connection, &job)?;
            self.placed.insert(job.clone(), hosts);
        }
        let mut text = String::new();
        for peer in self.placed.get(&job).into_iter().flatten().filter(|peer| *peer != host.as_str()) {
            if text.len() > most {
                break;
            }
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(peer);
        }
        Ok(text)
    }
}

fn placed(connection: &Connection, job: &JobName) -> Result<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT a.host FROM allocation a LEFT JOIN worker w USING (worker_id) \
             WHERE a.job = ?1 AND a.removed = 0 ORDER BY w.position, a.host",
        )
        .and_then(|mut select| select.query_map([job.as_str()], |row| row.get(0))?.collect())
        .during("reading where a job is")
}

fn each(connection: &Connection, filter: &str, values: &[&str], mut take: impl FnMut(Row)) -> Result<()> {
    // With a bare max() SQLite takes the other columns from the row that has it.
    let sql = format!(
        "SELECT namespace, key, max(version), value, created_at, deleted, derived FROM key_value WHERE {filter} \
         GROUP BY namespace, key ORDER BY namespace, key"
    );
    let mut select = connection.prepare_cached(&sql).during("reading key-values")?;
    let mut rows = select.query(rusqlite::params_from_iter(values)).during("reading key-values")?;
    while let Some(row) = rows.next().during("reading key-values")? {
        let read = || -> rusqlite::Result<Row> {
            Ok(Row {
                namespace: row.get(0)?,
                key: row.get(1)?,
                version: row.get(2)?,
                value: row.get(3)?,
                created_ms: row.get(4)?,
                deleted: row.get(5)?,
                derived: row.get(6)?,
            })
        };
        take(read().during("reading a key-value")?);
    }
    Ok(())
}

/// The latest rows of jobs' variables and secrets: what hooks wrote, and what of vars.toml was ever there.
pub fn of_hooks(connection: &Connection) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for prefix in ["secrets/job/", "vars/job/"] {
        each(connection, BELOW, &[prefix, &end_of(prefix)], |row| rows.push(row))?;
    }
    Ok(rows)
}

/// The orders in which jobs roll, of those that a hook has written one for: build's own is that of the workers.
pub fn orders(connection: &Connection) -> Result<BTreeMap<JobName, String>> {
    let mut rows: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
    let filter =
        "key IN ('rollout_order', 'workers') AND namespace GLOB 'maand/job/*' AND namespace NOT GLOB '*/worker/*'";
    each(connection, filter, &[], |row| {
        let pair = rows.entry(row.namespace).or_default();
        pair[usize::from(row.key == "workers")] = Some(row.value).filter(|_| !row.deleted);
    })?;
    let mut orders = BTreeMap::new();
    for (namespace, [order, workers]) in rows {
        if let (Ok(Namespace::Job(job)), Some(order)) = (namespace.parse(), order)
            && Some(&order) != workers.as_ref()
        {
            orders.insert(job, order);
        }
    }
    Ok(orders)
}

/// Puts the order back to that of the workers, where a hook wrote one of these jobs' for a deploy that has
/// ended.
pub fn reset_orders(connection: &Connection, jobs: &BTreeSet<&JobName>, now_ms: i64) -> Result<()> {
    for job in orders(connection)?.into_keys().filter(|job| jobs.contains(job)) {
        let namespace = Namespace::Job(job).to_string();
        if let Some(workers) = get(connection, &namespace, "workers")? {
            put(connection, &namespace, ROLLOUT_ORDER, &workers.value, now_ms)?;
        }
    }
    Ok(())
}

/// Writes one value, if it is another one.
pub fn put(connection: &Connection, namespace: &str, key: &str, value: &str, now_ms: i64) -> Result<()> {
    let known = latest(connection, namespace, key)?;
    if known.as_ref().is_some_and(|row| !row.deleted && row.value == value) {
        return Ok(());
    }
    insert(connection, namespace, key, known.as_ref(), Stored { value, deleted: false, derived: false }, now_ms)?;
    touched(connection, namespace)
}

/// Marks a key as deleted.
pub fn delete(connection: &Connection, namespace: &str, key: &str, now_ms: i64) -> Result<()> {
    let known = latest(connection, namespace, key)?;
    insert(connection, namespace, key, known.as_ref(), Stored { value: "", deleted: true, derived: false }, now_ms)?;
    touched(connection, namespace)
}

/// Marks every live key of the namespaces as deleted.
pub fn clear(connection: &Connection, namespaces: impl IntoIterator<Item = String>, now_ms: i64) -> Result<()> {
    for namespace in namespaces {
        for row in rows(connection, &namespace)?.into_values().filter(|row| !row.deleted) {
            delete(connection, &namespace, &row.key, now_ms)?;
        }
    }
    Ok(())
}

/// The namespace is not any more what the last build made of it: the next one looks at it again, and a
/// key that is build's gets build's value. The scope stays: it is how a build knows what is gone.
fn touched(connection: &Connection, namespace: &str) -> Result<()> {
    connection
        .prepare_cached("UPDATE kv_scope SET digest = zeroblob(32) WHERE scope = ?1")
        .and_then(|mut update| update.execute([namespace]))
        .during("marking a namespace as changed")?;
    Ok(())
}

/// What a row holds.
struct Stored<'a> {
    value: &'a str,
    deleted: bool,
    derived: bool,
}

/// Writes the version that comes after `known`, the latest one.
fn insert(
    connection: &Connection,
    namespace: &str,
    key: &str,
    known: Option<&Row>,
    stored: Stored<'_>,
    now_ms: i64,
) -> Result<()> {
    let version = known.map_or(1, |row| row.version + 1);
    let Stored { value, deleted, derived } = stored;
    connection
        .prepare_cached(
            "INSERT INTO key_value (namespace, key, version, value, created_at, deleted, derived) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .and_then(|mut insert| insert.execute(params![namespace, key, version, value, now_ms, deleted, derived]))
        .during("writing a key-value")?;
    Ok(())
}

/// Makes the live keys of `namespace`, whose latest rows are `there`, those of `keys`, as far as `owned`
/// says that they are ours: changed ones get a new version, missing ones a tombstone.
pub fn sync(
    connection: &Connection,
    namespace: &Namespace,
    there: &BTreeMap<String, Row>,
    keys: &Keys,
    owned: impl Fn(&str) -> bool,
    now_ms: i64,
) -> Result<()> {
    let name = namespace.to_string();
    let of_allocation = matches!(namespace, Namespace::Allocation(..));
    for (key, value) in keys {
        let derived = of_allocation && key == PEERS;
        let digest;
        let value = if derived {
            // A list of all the others, for each of them: a million rows of a thousand workers.
            let mut print = Fingerprint::new("maand-derived-1");
            print.part(&value.text);
            digest = data_encoding::HEXLOWER.encode(&print.finish()[..16]);
            &digest
        } else {
            &value.text
        };
        let known = there.get(key);
        if !known.is_some_and(|row| !row.deleted && row.derived == derived && row.value == *value) {
            insert(connection, &name, key, known, Stored { value, deleted: false, derived }, now_ms)?;
        }
    }
    for (key, row) in there.iter().filter(|(key, row)| !row.deleted && owned(key) && !keys.contains_key(*key)) {
        insert(connection, &name, key, Some(row), Stored { value: "", deleted: true, derived: false }, now_ms)?;
    }
    Ok(())
}

/// The namespaces below `prefix` that have a live key.
pub fn live_below(connection: &Connection, prefix: &str) -> Result<Vec<String>> {
    let mut select = connection
        .prepare_cached("SELECT DISTINCT namespace FROM key_value WHERE namespace >= ?1 AND namespace < ?2")
        .during("listing namespaces")?;
    let found = select
        .query_map([prefix, &end_of(prefix)], |row| row.get(0))
        .and_then(Iterator::collect)
        .during("listing namespaces")?;
    Ok(found)
}

/// What a group of namespaces was made of when it was last written.
pub fn scope(connection: &Connection, scope: &str) -> Result<Option<[u8; 32]>> {
    let digest: Option<Vec<u8>> = connection
        .prepare_cached("SELECT digest FROM kv_scope WHERE scope = ?1")
        .and_then(|mut select| select.query_row([scope], |row| row.get(0)).optional())
        .during("reading what namespaces were made of")?;
    let digest = digest.map(<[u8; 32]>::try_from).transpose();
    digest.map_err(|_| Error::Damaged { what: "kv_scope.digest", why: "it has not 32 bytes".to_owned() })
}

/// All scopes there are.
pub fn scopes(connection: &Connection) -> Result<Vec<String>> {
    let mut select = connection.prepare_cached("SELECT scope FROM kv_scope").during("listing scopes")?;
    select.query_map([], |row| row.get(0)).and_then(Iterator::collect).during("listing scopes")
}

/// Records what a group of namespaces is made of; `None` when it is gone.
pub fn set_scope(connection: &Connection, scope: &str, digest: Option<&[u8; 32]>) -> Result<()> {
    match digest {
        Some(digest) => connection
            .prepare_cached(
                "INSERT INTO kv_scope (scope, digest) VALUES (?1, ?2) ON CONFLICT (scope) DO UPDATE SET digest = ?2",
            )
            .and_then(|mut upsert| upsert.execute(params![scope, digest.as_slice()])),
        None => connection
            .prepare_cached("DELETE FROM kv_scope WHERE scope = ?1")
            .and_then(|mut delete| delete.execute([scope])),
    }
    .during("recording what namespaces are made of")?;
    Ok(())
}

/// Forgets old versions: of each key all but the latest and seven more, and keys that are deleted, when
/// the latest row is older than `before_ms`. The index of an allocation that is being removed stays: its
/// hooks are told it until it is gone.
pub fn purge(connection: &Connection, before_ms: i64) -> Result<usize> {
    connection
        .execute(
            "DELETE FROM key_value AS old WHERE EXISTS (SELECT 1 FROM (SELECT max(version) AS version, deleted, created_at \
               FROM key_value WHERE namespace = old.namespace AND key = old.key) AS latest \
             WHERE latest.created_at < ?1 AND (latest.deleted = 1 OR old.version + ?2 < latest.version)) \
             AND NOT EXISTS (SELECT 1 FROM allocation WHERE removed = 1 \
               AND old.namespace = 'maand/job/' || job || '/worker/' || host AND old.key = job || '_allocation_index')",
            params![before_ms, KEPT_VERSIONS],
        )
        .during("purging old key-values")
}
