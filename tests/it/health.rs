//! Health of running jobs, with a real controller and a real agent.

use std::time::Duration;

use harness::bucket::Bucket;
use harness::poll;
use serde_json::{Value, json};

use crate::support::{agents, bucket, hosts};

/// Tells the agent what to ask of `api`, as a deploy does.
fn tell(bucket: &Bucket, health: &Value) {
    let catalog = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    catalog.busy_timeout(Duration::from_secs(10)).unwrap();
    let script = format!(
        "BEGIN IMMEDIATE; UPDATE desired_allocation SET health = '{health}'; \
         UPDATE desired_worker SET generation = generation + 1; COMMIT;"
    );
    catalog.execute_batch(&script).unwrap();
}

fn wait_for(bucket: &Bucket, what: &str, check: impl Fn(&Value) -> bool) -> Value {
    poll::until(what, poll::LONG, || {
        let row = bucket.cat("deployments")[0].clone();
        if check(&row) { Ok(row) } else { Err(row) }
    })
}

/// What the catalog has of the one allocation's health.
fn observed(bucket: &Bucket) -> Value {
    let catalog = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    let json: String = catalog.query_row("SELECT observed FROM observed_allocation", [], |row| row.get(0)).unwrap();
    serde_json::from_str(&json).unwrap()
}

#[test]
fn a_jobs_health_is_known_at_the_controller_and_again_after_the_agent_was_killed() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    assert_eq!(bucket.cat("deployments")[0]["health"], "-", "nothing is asked of it");

    // From here on the manifest has a check, which the catalog knows by the next build.
    let checks = json!({"checks": [{"type": "exec", "command": "test -e data/well || { echo no such well; false; }"}]});
    bucket.recording_job("api", &json!({"selectors": ["all"], "health_check": checks}));
    bucket.maand(&["build"]).expect(0);
    assert_eq!(bucket.cat("deployments")[0]["health"], "unknown");
    let mut spec = checks;
    for (key, value) in [("timeout_s", 10), ("attempts", 2), ("interval_s", 1), ("every_s", 1)] {
        spec[key] = value.into();
    }
    tell(&bucket, &spec);
    let sick = wait_for(&bucket, "the job to be unhealthy", |row| row["health"] == "unhealthy");
    assert!(sick["agent"].as_str().unwrap().ends_with("exit 1: no such well"), "{sick}");
    poll::until("its attempts to be used up", poll::LONG, || {
        let seen = observed(&bucket);
        if seen["health"]["final"] == true { Ok(()) } else { Err(seen) }
    });
    let seen = observed(&bucket);
    assert_eq!((&seen["health"]["action"], &seen["health"]["attempt"]), (&seen["action"]["id"], &json!(2)), "{seen}");

    std::fs::write(agents[0].job_path("api", "data/well"), "").unwrap();
    let well = wait_for(&bucket, "the job to be healthy", |row| row["health"] == "healthy");
    assert_eq!(well["agent"], Value::Null, "{well}");

    agents[0].kill();
    std::fs::remove_file(agents[0].job_path("api", "data/well")).unwrap();
    agents[0].start();
    wait_for(&bucket, "the new agent to check", |row| row["health"] == "unhealthy");
    let seen = observed(&bucket);
    assert_eq!(seen["health"]["action"], seen["action"]["id"], "after the action that the ledger has: {seen}");
    agents[0].process().stop(Duration::from_secs(10));
}
