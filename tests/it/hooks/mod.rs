//! Hooks, with the real programs and a real python3: what they are given, what they may do, and what an
//! operator sees of those that misbehave.

mod build;
mod cli;
mod cluster;
mod deploy;
mod events;
mod guide;
mod interface;
mod interpreters;
mod matrix;
mod misbehaving;
mod semaphores;

use harness::bucket::Bucket;

use crate::support::bucket;

/// A bucket with workers w1 and up, that have the labels `all` and `db`.
pub fn workers(count: usize) -> Bucket {
    let bucket = bucket();
    let hosts: Vec<String> = (1..=count).map(|n| format!("w{n}")).collect();
    bucket.workers(&hosts, &["all", "db"]);
    bucket
}

/// A job on every worker: its hooks by name, as its manifest has them, with their scripts.
pub fn job(bucket: &Bucket, name: &str, hooks: &[(&str, serde_json::Value, &str)]) {
    let declared: serde_json::Map<_, _> =
        hooks.iter().map(|(hook, declared, _)| ((*hook).to_owned(), declared.clone())).collect();
    let manifest = serde_json::json!({ "version": "1.0.0", "selectors": ["all"], "hooks": declared });
    bucket.write(&format!("workspace/jobs/{name}/manifest.json"), &manifest.to_string());
    bucket.write(&format!("workspace/jobs/{name}/Makefile"), "start:\n");
    for (hook, _, script) in hooks {
        bucket.write(&format!("workspace/jobs/{name}/_modules/{hook}.py"), script);
    }
}

/// A bucket with one job `api` on `count` workers, that has one hook at `cli`; built.
pub fn built(count: usize, script: &str) -> Bucket {
    let bucket = workers(count);
    job(&bucket, "api", &[("hook_x", serde_json::json!({"executed_on": ["cli"]}), script)]);
    bucket.maand(&["build"]).expect(0);
    bucket
}

/// The live keys of a namespace, with their values.
pub fn live(bucket: &Bucket, namespace: &str) -> Vec<(String, String)> {
    let rows = bucket.cat("kv");
    let rows = rows.as_array().unwrap().iter();
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.filter(|row| row["namespace"] == namespace && row["deleted"] == false)
        .map(|row| (text(row, "key"), text(row, "value")))
        .collect()
}
