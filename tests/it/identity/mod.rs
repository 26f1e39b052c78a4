//! Who an agent is, over years: renewal, its end, revocation, copies, clocks.

mod clock;
mod clones;
mod expiry;
mod fence;
mod renewal;
mod revocation;
mod rotation;

use std::path::Path;

use harness::agents::Agent;
use harness::bucket::Bucket;
use harness::poll;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::{bucket, hosts};

/// A bucket with serve's settings, one job on `count` workers, built; agents have not joined.
fn prepared(count: u8, settings: &[&str]) -> (Bucket, Vec<String>) {
    let bucket = bucket();
    for line in settings {
        bucket.setting(line);
    }
    let hosts = hosts(&bucket, count);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"], "version": "1.0.0"}));
    bucket.maand(&["build"]).expect(0);
    (bucket, hosts)
}

/// A worker's row of `maand cat agents`.
fn row(bucket: &Bucket, host: &str) -> Value {
    let agents = bucket.cat("agents");
    agents.as_array().unwrap().iter().find(|row| row["host"] == host).cloned().unwrap()
}

/// The answer of `maand why HOST`: what is so, and what to do.
fn why(bucket: &Bucket, host: &str) -> (String, String) {
    let output = bucket.maand(&["why", host, "--json"]).expect(0);
    let value: Value = serde_json::from_str(&output.stdout).unwrap();
    (value["so"].as_str().unwrap().to_owned(), value["do"].as_str().unwrap_or_default().to_owned())
}

/// The worker's certificates, oldest first: whether each is over.
fn certificates(bucket: &Bucket) -> Vec<(u64, bool)> {
    let catalog = Connection::open(bucket.path("data/maand.db")).unwrap();
    catalog.busy_timeout(poll::LONG).unwrap();
    let mut select = catalog
        .prepare("SELECT generation, revoked_at IS NOT NULL FROM agent_certificate ORDER BY generation")
        .unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Moves the moments at which certificates were replaced into the past, as if time had gone by.
fn replaced_long_ago(bucket: &Bucket) {
    let catalog = Connection::open(bucket.path("data/maand.db")).unwrap();
    catalog.busy_timeout(poll::LONG).unwrap();
    let moved =
        catalog.execute("UPDATE agent_certificate SET revoked_at = revoked_at - 120000 WHERE revoked_at > 0", []);
    assert!(moved.unwrap() > 0);
}

/// Where an agent keeps its identity.
fn state(bucket: &Bucket, agent: &str) -> std::path::PathBuf {
    let dir = bucket.dir().join("agents").join(agent).join("state");
    let mut buckets = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    buckets.next().unwrap()
}

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Another machine that has a copy of all that an agent has: an image of it.
fn clone_of(bucket: &Bucket, host: &str, name: &str, enter: &[&str]) -> Agent {
    let clone = Agent::prepare(bucket, name, enter);
    let (from, to) = (bucket.dir().join("agents").join(host), bucket.dir().join("agents").join(name));
    for part in ["state", "root"] {
        if from.join(part).exists() {
            copy(&from.join(part), &to.join(part));
        }
    }
    let config = std::fs::read_to_string(from.join("agent.toml")).unwrap();
    let config = config.replace(from.to_str().unwrap(), to.to_str().unwrap());
    std::fs::write(to.join("agent.toml"), config).unwrap();
    clone
}

/// `maand-agent status --json`.
fn status(agent: &Agent) -> Value {
    let mut command = agent.command();
    command.args(["status", "--json"]);
    serde_json::from_str(&harness::process::finish(command, poll::LONG).expect(0).stdout).unwrap()
}
