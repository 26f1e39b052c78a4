//! Key-values: 11, history, retention.

use serde_json::{Value, json};

use super::{build, keys, must, now_ms, one_worker, stored_by_a_hook, value, workspace};

#[test]
fn vars_toml_is_merged_and_what_build_owns_is_exact() {
    let bucket = workspace(&one_worker(), &[("api", json!({"version": "1"}))]);
    bucket.write("workspace/jobs/api/vars.toml", "db_name = \"shop\"\npool = 5\n");
    build(&bucket);
    stored_by_a_hook(&bucket, "vars/job/api", "token_id", "t-1");
    stored_by_a_hook(&bucket, "maand/job/api", "stray", "x");
    bucket.write("workspace/jobs/api/vars.toml", "db_name = \"shop2\"\n");
    job_edit(&bucket);
    build(&bucket);
    assert_eq!(must(&bucket, "vars/job/api", "token_id"), "t-1", "what a hook wrote stays");
    assert_eq!(must(&bucket, "vars/job/api", "db_name"), "shop2");
    assert_eq!(must(&bucket, "vars/job/api", "pool"), "5", "merged: a key that left the file stays");
    assert_eq!(value(&bucket, "maand/job/api", "stray"), None, "what build owns is what build says");
}

fn job_edit(bucket: &harness::bucket::Bucket) {
    super::job(bucket, "api", &json!({"version": "2"}));
}

#[test]
fn every_build_puts_vars_toml_and_the_rollout_order_back() {
    let bucket = workspace(&one_worker(), &[("api", json!({}))]);
    bucket.write("workspace/jobs/api/vars.toml", "db_name = \"shop\"\n");
    bucket.write("workspace/jobs/api/db.j2", "{{ get('vars/job/api', 'db_name') }}\n");
    build(&bucket);
    stored_by_a_hook(&bucket, "vars/job/api", "db_name", "another");
    stored_by_a_hook(&bucket, "maand/job/api", "rollout_order", "w1,w1");
    assert_eq!(must(&bucket, "vars/job/api", "db_name"), "another");
    let deployments = bucket.cat("deployments");
    build(&bucket);
    assert_eq!(must(&bucket, "vars/job/api", "db_name"), "shop", "the file is put again");
    assert_eq!(
        must(&bucket, "maand/job/api", "rollout_order"),
        "w1",
        "an order is for the deploy that it was made for"
    );
    assert_eq!(bucket.cat("deployments"), deployments, "templates saw what cat kv shows");
}

/// (version, value, deleted) of a key, from the list.
fn listed(bucket: &harness::bucket::Bucket, namespace: &str, key: &str) -> Option<(u64, String, bool)> {
    let rows = bucket.cat("kv");
    let row = rows.as_array().unwrap().iter().find(|row| row["namespace"] == namespace && row["key"] == key)?.clone();
    Some((row["version"].as_u64()?, row["value"].as_str()?.to_owned(), row["deleted"].as_bool()?))
}

#[test]
fn a_key_has_versions_a_tombstone_and_an_end() {
    let bucket = workspace(&one_worker(), &[("api", json!({}))]);
    for region in ["a", "a", "b"] {
        bucket.write("workspace/bucket.conf", &format!("region = \"{region}\"\n"));
        build(&bucket);
    }
    assert_eq!(listed(&bucket, "vars/bucket", "region"), Some((2, "b".into(), false)), "the same is no new version");
    bucket.write("workspace/bucket.conf", "");
    build(&bucket);
    assert_eq!(listed(&bucket, "vars/bucket", "region"), Some((3, String::new(), true)), "a tombstone is a version");
    assert_eq!(value(&bucket, "vars/bucket", "region"), None, "and is not found");
    let only = |flag: &str| {
        let rows: Value = serde_json::from_str(&bucket.maand(&["cat", "kv", flag, "--json"]).expect(0).stdout).unwrap();
        let rows = rows.as_array().unwrap().clone();
        (rows.len(), rows.iter().any(|row| row["key"] == "region"))
    };
    assert!(only("--deleted").1 && !only("--active").1);
    assert_eq!(only("--deleted").0 + only("--active").0, bucket.cat("kv").as_array().unwrap().len());
    bucket.maand(&["cat", "kv", "--active", "--deleted"]).expect(2);
    bucket.write("workspace/bucket.conf", "region = \"b\"\n");
    build(&bucket);
    assert_eq!(listed(&bucket, "vars/bucket", "region"), Some((4, "b".into(), false)), "back, with its number");

    // Ten versions of a week ago: the latest and seven more stay. A tombstone of a week ago goes.
    for n in 0..10 {
        bucket.write("workspace/bucket.conf", &format!("region = \"r{n}\"\n"));
        build(&bucket);
    }
    let database = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    let versions = || -> (i64, i64) {
        let sql = "SELECT min(version), max(version) FROM key_value WHERE namespace = 'vars/bucket' AND key = 'region'";
        database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    let age = |days: i64| {
        database.execute("UPDATE key_value SET created_at = ?1", [now_ms() - days * 86_400_000]).unwrap();
        database.execute("UPDATE bucket SET kv_purged_at = 0", []).unwrap();
    };
    age(6);
    build(&bucket);
    assert_eq!(versions(), (1, 14), "not before seven days");
    age(8);
    build(&bucket);
    assert_eq!(versions(), (7, 14));
    bucket.write("workspace/bucket.conf", "");
    build(&bucket);
    age(8);
    build(&bucket);
    assert_eq!(listed(&bucket, "vars/bucket", "region"), None, "forgotten");
    bucket.write("workspace/bucket.conf", "region = \"b\"\n");
    build(&bucket);
    assert_eq!(listed(&bucket, "vars/bucket", "region"), Some((1, "b".into(), false)), "counted from 1 again");
}

#[test]
fn values_of_a_job_that_is_gone_stay_unless_they_are_purged() {
    let bucket = workspace(&one_worker(), &[("api", json!({})), ("web", json!({"selectors": ["api"]}))]);
    bucket.write("workspace/jobs/api/vars.toml", "db_name = \"shop\"\n");
    build(&bucket);
    super::secret_of_a_hook(&bucket, "api", "password", "hush");
    stored_by_a_hook(&bucket, "vars/job/web", "n", "1");
    std::fs::rename(bucket.path("workspace/jobs/api"), bucket.dir().join("aside")).unwrap();
    build(&bucket);
    assert_eq!(keys(&bucket, "maand/job/api"), [""; 0]);
    assert_eq!(must(&bucket, "vars/job/api", "db_name"), "shop", "renamed by mistake: nothing is lost");
    assert_eq!(must(&bucket, "secrets/job/api", "password"), "hush");
    bucket.maand(&["build", "--purge-job-kv"]).expect(0);
    assert_eq!(keys(&bucket, "vars/job/api"), [""; 0]);
    assert_eq!(value(&bucket, "secrets/job/api", "password"), None);
    assert_eq!(must(&bucket, "vars/job/web", "n"), "1", "a job that is there keeps its own");
}
