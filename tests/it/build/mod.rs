//! `maand build` through the real program: what an operator sees of it, and what it leaves in the
//! catalog. The numbers are those of `spec/behaviour.md`, Appendix D.

mod cat;
mod certs;
mod demands;
mod init;
mod killed;
mod kv;
mod migrate;
mod overrides;
mod placement;
mod ports;
mod problems;
mod scaffold;
mod secrets;
mod words;

use harness::bucket::Bucket;
use harness::process::Output;
use serde_json::{Value, json};

use crate::support::bucket;

/// A bucket with these workers.json and jobs (name, manifest), not yet built.
fn workspace(workers: &Value, jobs: &[(&str, Value)]) -> Bucket {
    let bucket = bucket();
    bucket.write("workspace/workers.json", &workers.to_string());
    jobs.iter().for_each(|(name, manifest)| job(&bucket, name, manifest));
    bucket
}

/// A job that is a manifest and a Makefile.
fn job(bucket: &Bucket, name: &str, manifest: &Value) {
    bucket.write(&format!("workspace/jobs/{name}/manifest.json"), &manifest.to_string());
    bucket.write(&format!("workspace/jobs/{name}/Makefile"), "start stop restart reload:\n\t@true\n");
}

/// Adds the scripts of hooks; nothing runs them here.
fn scripts(bucket: &Bucket, job: &str, hooks: &[&str]) {
    hooks.iter().for_each(|hook| bucket.write(&format!("workspace/jobs/{job}/_modules/{hook}.py"), "pass\n"));
}

/// `maand build`, which must succeed.
fn build(bucket: &Bucket) -> Output {
    bucket.maand(&["build"]).expect(0)
}

/// `maand build`, which must refuse the workspace with one problem that says all of `said`.
fn refused(bucket: &Bucket, said: &[&str]) {
    let output = bucket.maand(&["build"]).expect(3);
    assert_eq!(output.stderr.matches("error[MD").count(), 1, "{}", output.stderr);
    said.iter().for_each(|said| assert!(output.stderr.contains(said), "{said:?} in {}", output.stderr));
}

/// One value, in clear; `None` when there is no such key.
fn value(bucket: &Bucket, namespace: &str, key: &str) -> Option<String> {
    let got = bucket.maand(&["cat", "kv", "get", namespace, key, "--reveal", "--json"]);
    if got.code == 2 {
        assert!(got.stderr.contains("MD0009"), "{}", got.stderr);
        return None;
    }
    let got: Value = serde_json::from_str(&got.expect(0).stdout).unwrap();
    Some(got["value"].as_str().unwrap().to_owned())
}

/// The same, where it has to be there.
#[track_caller]
fn must(bucket: &Bucket, namespace: &str, key: &str) -> String {
    value(bucket, namespace, key).unwrap_or_else(|| panic!("no {key} in {namespace}: {:?}", keys(bucket, namespace)))
}

/// The live keys of a namespace.
fn keys(bucket: &Bucket, namespace: &str) -> Vec<String> {
    let rows = bucket.maand(&["cat", "kv", "--active", "--json"]).expect(0).stdout;
    let rows: Value = serde_json::from_str(&rows).unwrap();
    let rows = rows.as_array().unwrap().iter().filter(|row| row["namespace"] == namespace);
    rows.map(|row| row["key"].as_str().unwrap().to_owned()).collect()
}

/// A column of `cat VIEW`, by one or two columns that name the row.
fn column(bucket: &Bucket, view: &str, named: &[&str], column: &str) -> Vec<(String, Value)> {
    let rows = bucket.cat(view);
    let rows = rows.as_array().unwrap().iter();
    let name = |row: &Value| named.iter().map(|name| row[*name].as_str().unwrap()).collect::<Vec<_>>().join(" ");
    rows.map(|row| (name(row), row[column].clone())).collect()
}

/// `"job host"` of every allocation that is neither drained nor removed.
fn active(bucket: &Bucket) -> Vec<String> {
    let rows = bucket.maand(&["cat", "allocations", "--json"]).expect(0).stdout;
    let rows: Value = serde_json::from_str(&rows).unwrap();
    let live = rows.as_array().unwrap().iter().filter(|row| row["disabled"] == false && row["removed"] == false);
    live.map(|row| format!("{} {}", row["job"].as_str().unwrap(), row["worker_ip"].as_str().unwrap())).collect()
}

/// What a hook would have stored: there is no other way to write a key than a hook.
fn stored_by_a_hook(bucket: &Bucket, namespace: &str, key: &str, value: &str) {
    let mut catalog = controller::catalog::Catalog::open(&bucket.path("data/maand.db")).unwrap();
    catalog.write(|tx| controller::catalog::kv::put(tx, namespace, key, value, now_ms())).unwrap();
}

/// The same for a secret, sealed with the bucket's key.
pub(crate) fn secret_of_a_hook(bucket: &Bucket, job: &str, key: &str, value: &str) {
    let namespace = format!("secrets/job/{job}");
    let sealing = controller::secrets::SealingKey::load(&bucket.path("secrets/kv.key")).unwrap();
    stored_by_a_hook(bucket, &namespace, key, &sealing.seal_value(&namespace, key, value).unwrap());
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// Everything that a build shows of the catalog.
fn shown(bucket: &Bucket) -> Vec<String> {
    let views = ["workers", "jobs", "allocations", "deployments", "ports", "hooks", "certs", "kv"];
    views.iter().map(|view| bucket.maand(&["cat", view, "--json"]).stdout).collect()
}

/// One worker `w1` with the label `api`.
fn one_worker() -> Value {
    json!([{"host": "w1", "labels": ["api"]}])
}
