//! A build does only what changed, and comes to what a build that does everything comes to: after each of
//! a series of random edits the catalog is compared with that of a build with nothing to go by.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use controller::catalog::{Catalog, bundles, kv};
use harness::bucket::Bucket;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::edits::Desk;
use crate::support::bucket;

#[test]
fn a_series_of_edits_comes_to_what_a_cold_build_comes_to() {
    run(1, 30);
}

#[test]
fn another_series_of_edits_does_too() {
    run(2, 30);
}

fn run(seed: u64, edits: usize) {
    let bucket = bucket();
    let cold = Cold::beside(&bucket);
    let mut desk = Desk::new(&bucket, seed);
    build(&bucket);
    let mut story = String::new();
    for step in 0..edits {
        // Several at once, now and then: what one of them sets right the other must not hide.
        for _ in 0..=desk.random(2) {
            writeln!(story, "{step}: {}", desk.edit()).unwrap();
        }
        build(&bucket);
        let warm = rows(&bucket.path("data/maand.db"));
        assert_eq!(missing_blobs(&bucket), Vec::<String>::new(), "seed {seed}\n{story}");
        assert_eq!(stale(&bucket, &desk), Vec::<String>::new(), "seed {seed}\n{story}");
        if step % 5 == 0 {
            let again = build(&bucket);
            assert_eq!(
                (&again["rendered"], &again["certificates_issued"]),
                (&json!(0), &json!(0)),
                "seed {seed}\n{story}"
            );
            assert_same(&warm, &rows(&bucket.path("data/maand.db")), &format!("built again; seed {seed}\n{story}"));
        }
        assert_same(&warm, &cold.build(&bucket), &format!("built cold; seed {seed}\n{story}"));
    }
}

/// `maand build`, which succeeds; its counts.
pub fn build(bucket: &Bucket) -> Value {
    serde_json::from_str(&bucket.maand(&["build", "--json"]).expect(0).stdout).unwrap()
}

/// A second bucket with the same workspace, secrets and store, whose catalog is a copy of the first
/// one's without anything that a build could save work by.
pub struct Cold(tempfile::TempDir);

impl Cold {
    /// Beside `bucket`.
    pub fn beside(bucket: &Bucket) -> Self {
        let dir = tempfile::Builder::new().prefix("maand-it-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        for name in ["workspace", "secrets", "maand.conf", "data/store"] {
            std::os::unix::fs::symlink(bucket.path(name), dir.path().join(name)).unwrap();
        }
        Self(dir)
    }

    /// The rows that a build with nothing to go by comes to.
    pub fn build(&self, bucket: &Bucket) -> BTreeSet<String> {
        let database = self.0.path().join("data/maand.db");
        for suffix in ["", "-wal", "-shm"] {
            drop(std::fs::remove_file(format!("{}{suffix}", database.display())));
        }
        Catalog::open(&bucket.path("data/maand.db")).unwrap().copy_to(&database).unwrap();
        let forget = "UPDATE job SET inputs = NULL, reads = '[]'; UPDATE allocation SET render_inputs = NULL, \
                      bundle = NULL; DELETE FROM kv_scope; DELETE FROM file_seen; DELETE FROM bundle;";
        Connection::open(&database).unwrap().execute_batch(forget).unwrap();
        let said = bucket.maand(&["-C", &self.0.path().display().to_string(), "build", "--json"]).expect(0);
        let said: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(said["certificates_issued"], 0, "certificates are what was issued, not a cache");
        rows(&database)
    }
}

/// Every row that a build writes, as text, without what it saves work by.
pub fn rows(database: &Path) -> BTreeSet<String> {
    let connection = Connection::open(database).unwrap();
    let mut all = BTreeSet::new();
    for (table, columns) in [
        ("worker", "worker_id, host, hostname, labels, tags, memory_mb, cpu_mhz, position"),
        ("worker_gone", "worker_id, host"),
        ("job", "name, version, spec"),
        ("job_file", "job, path, mode, len, blob, kind"),
        (
            "allocation",
            "job, host, alloc_id, worker_id, disabled, removed, start_pending, deployment_seq, new_version, bundle",
        ),
        ("key_value", "namespace, key, version, value, deleted, derived"),
        ("certificate", "job, name, host, hex(inputs), common_name, not_after, crt, crt_len, key, key_len"),
    ] {
        let mut select = connection.prepare(&format!("SELECT {columns} FROM {table}")).unwrap();
        let count = select.column_count();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let cells = (0..count).map(|at| format!("{:?}", row.get_ref(at).unwrap().to_owned_value()));
            all.insert(format!("{table}: {}", cells.collect::<Vec<_>>().join(" ")));
        }
    }
    for (allocation, bundle) in bundles_of(&connection) {
        let entries = bundles::get(&connection, &bundle.parse().unwrap()).unwrap().expect("the list of a bundle");
        all.extend(entries.entries().iter().map(|entry| format!("in {allocation}: {entry:?}")));
    }
    all
}

trait Owned {
    fn to_owned_value(&self) -> String;
}

impl Owned for rusqlite::types::ValueRef<'_> {
    fn to_owned_value(&self) -> String {
        match self {
            Self::Text(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        }
    }
}

/// Panics with what is in one of the two only.
pub fn assert_same(one: &BTreeSet<String>, other: &BTreeSet<String>, when: &str) {
    let gone: Vec<&String> = one.difference(other).collect();
    let new: Vec<&String> = other.difference(one).collect();
    assert!(gone.is_empty() && new.is_empty(), "{when}\nbefore: {gone:#?}\nafter: {new:#?}");
}

fn bundles_of(connection: &Connection) -> Vec<(String, String)> {
    let mut select =
        connection.prepare("SELECT job || ' on ' || host, bundle FROM allocation WHERE bundle IS NOT NULL").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Files of bundles that the store does not have.
fn missing_blobs(bucket: &Bucket) -> Vec<String> {
    let connection = Connection::open(bucket.path("data/maand.db")).unwrap();
    let mut missing = Vec::new();
    for (allocation, bundle) in bundles_of(&connection) {
        let entries = bundles::get(&connection, &bundle.parse().unwrap()).unwrap().unwrap();
        for entry in entries.entries() {
            let (kind, hex) = (if entry.private { "private" } else { "blobs" }, entry.blob.hex());
            if !bucket.path(&format!("data/store/{kind}/{}/{hex}", &hex[..2])).is_file() {
                missing.push(format!("{} of {allocation}", entry.path));
            }
        }
    }
    missing
}

/// Live key-values of jobs and workers that are gone.
fn stale(bucket: &Bucket, desk: &Desk<'_>) -> Vec<String> {
    let connection = Connection::open(bucket.path("data/maand.db")).unwrap();
    let live = kv::all(&connection).unwrap().into_iter().filter(|row| !row.deleted);
    let is_stale = |namespace: &str| match namespace.split('/').collect::<Vec<_>>()[..] {
        ["maand", "worker", host] | ["maand", "worker", host, "tags"] => !desk.has_host(host),
        ["maand", "job", job] | ["vars", "bucket", "job", job] => !desk.jobs.contains_key(job),
        ["maand", "job", job, "worker", host] => !desk.jobs.contains_key(job) || !desk.has_host(host),
        _ => false,
    };
    live.map(|row| row.namespace).filter(|namespace| is_stale(namespace)).collect()
}
