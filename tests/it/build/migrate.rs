//! `maand init` on a catalog of another version.

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{build, shown, workspace};
use crate::support::bare;

/// Every migration, as it was released.
const MIGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../controller/migrations");

fn scripts() -> Vec<String> {
    let mut files: Vec<_> = std::fs::read_dir(MIGRATIONS).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// A bucket whose catalog is what the first `version` scripts make, with rows.
fn old(version: usize) -> harness::bucket::Bucket {
    let bucket = bare();
    std::fs::create_dir_all(bucket.path("data")).unwrap();
    let catalog = Connection::open(bucket.path("data/maand.db")).unwrap();
    catalog.pragma_update(None, "journal_mode", "WAL").unwrap();
    scripts()[..version].iter().for_each(|script| catalog.execute_batch(script).unwrap());
    catalog.pragma_update(None, "user_version", version as u32).unwrap();
    catalog
        .execute_batch(
            "INSERT INTO bucket (id, bucket_id, epoch, update_seq) VALUES (1, '6f1c1f6e-2f7c-4a57-9d55-0d9a3c1f7a01', 3, 41);
             INSERT INTO worker VALUES ('0b9e7f9a-2b60-4a39-9a0b-0f3f8e6c2a11', 'w1', NULL, '[\"api\",\"worker\"]', '{}', 0, 0, 0);
             INSERT INTO key_value (namespace, key, version, value, created_at, deleted)
               VALUES ('vars/job/api', 'token_id', 5, 't-1', 1700000000000, 0);",
        )
        .unwrap();
    bucket
}

#[test]
fn an_older_catalog_is_upgraded_with_a_backup_beside_it() {
    for version in 1..scripts().len() {
        let bucket = old(version);
        for command in [&["info"][..], &["cat", "kv"], &["build"], &["deploy"], &["serve"], &["job", "create", "x"]] {
            let refused = bucket.maand(command).expect(4);
            assert!(
                refused.stderr.contains("MD0004") && refused.stderr.contains("run maand init"),
                "{}",
                refused.stderr
            );
        }
        // What an upgrade that was killed left behind.
        bucket.write(&format!("data/maand.db.schema-{version}.bak"), "half a backup");
        let made = bucket.maand(&["init"]).expect(0);
        assert!(made.stdout.contains(&format!("data/maand.db.schema-{version}.bak")), "{}", made.stdout);
        let info: Value = serde_json::from_str(&bucket.maand(&["info", "--json"]).expect(0).stdout).unwrap();
        assert_eq!(
            (info["bucket_id"].as_str(), info["epoch"].as_u64(), info["update_seq"].as_u64(), info["workers"].as_u64()),
            (Some("6f1c1f6e-2f7c-4a57-9d55-0d9a3c1f7a01"), Some(3), Some(41), Some(1)),
            "its rows stay"
        );
        assert_eq!(super::must(&bucket, "vars/job/api", "token_id"), "t-1");
        let backup = Connection::open(bucket.path(&format!("data/maand.db.schema-{version}.bak"))).unwrap();
        let kept: (u32, i64) = (
            backup.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap(),
            backup.query_row("SELECT update_seq FROM bucket", [], |row| row.get(0)).unwrap(),
        );
        assert_eq!(kept, (version as u32, 41), "the backup is what it was");
        let again = bucket.maand(&["init"]).expect(0);
        assert!(again.stdout.contains("nothing was missing"), "{}", again.stdout);
        bucket.write("workspace/workers.json", r#"[{"host": "w1", "labels": ["api"]}]"#);
        super::job(&bucket, "api", &json!({}));
        build(&bucket);
        assert_eq!(
            super::must(&bucket, "maand/worker/w1", "worker_id"),
            "0b9e7f9a-2b60-4a39-9a0b-0f3f8e6c2a11",
            "the worker is the same"
        );
        // Put back, it is upgraded again.
        drop(backup);
        let backup = bucket.path(&format!("data/maand.db.schema-{version}.bak"));
        std::fs::copy(&backup, bucket.path("data/maand.db")).unwrap();
        bucket.maand(&["info"]).expect(4);
        bucket.maand(&["init"]).expect(0);
        bucket.maand(&["info"]).expect(0);
    }
}

#[test]
fn a_newer_catalog_is_refused_untouched() {
    let bucket = workspace(&super::one_worker(), &[("api", json!({}))]);
    build(&bucket);
    let before = shown(&bucket);
    let catalog = Connection::open(bucket.path("data/maand.db")).unwrap();
    let current: u32 = catalog.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(current as usize, scripts().len());
    catalog.pragma_update(None, "user_version", current + 1).unwrap();
    catalog.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(catalog);
    let bytes = std::fs::read(bucket.path("data/maand.db")).unwrap();
    for command in [&["init"][..], &["info"], &["build"], &["cat", "kv"], &["deploy", "-n"]] {
        let refused = bucket.maand(command).expect(4);
        assert!(refused.stderr.contains("MD0005"), "{}", refused.stderr);
    }
    assert!(bytes == std::fs::read(bucket.path("data/maand.db")).unwrap(), "not a byte of it changed");
    Connection::open(bucket.path("data/maand.db")).unwrap().pragma_update(None, "user_version", current).unwrap();
    assert_eq!(shown(&bucket), before);
}

#[test]
fn a_database_of_another_program_is_refused_untouched() {
    let bucket = bare();
    std::fs::create_dir_all(bucket.path("data")).unwrap();
    let other = Connection::open(bucket.path("data/maand.db")).unwrap();
    other.pragma_update(None, "journal_mode", "WAL").unwrap();
    other
        .execute_batch("CREATE TABLE bucket (bucket_id TEXT, update_seq INT); CREATE TABLE worker (worker_ip TEXT)")
        .unwrap();
    drop(other);
    let bytes = std::fs::read(bucket.path("data/maand.db")).unwrap();
    for command in [&["init"][..], &["info"], &["build"]] {
        let refused = bucket.maand(command).expect(4);
        assert!(refused.stderr.contains("was not made by this program"), "{}", refused.stderr);
    }
    assert!(bytes == std::fs::read(bucket.path("data/maand.db")).unwrap(), "not a byte of it changed");
}
