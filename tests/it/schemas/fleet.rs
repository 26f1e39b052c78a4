//! A fleet that went on over an upgrade: what was deployed, by whom, and all that is shown of it is there, and
//! nothing is done anew.

use std::path::Path;

use harness::agents::Agent;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{CATALOG, LEDGER, version};
use crate::support::{bucket, hosts};

#[test]
fn a_fleet_goes_on_over_every_upgrade() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["api"]);
    let tls = json!({"tls": {"subject": {"common_name": "api"}}});
    bucket.recording_job(
        "api",
        &json!({"version": "1.2.0", "selectors": ["api"], "certs": tls,
        "resources": {"ports": {"api_port": {}}}}),
    );
    bucket.write("workspace/jobs/api/vars.toml", "colour = \"blue\"\n");
    bucket.write("workspace/jobs/api/app.conf.j2", "{{ worker_ip }} {{ new_version }}\n");
    bucket.maand(&["build"]).expect(0);
    let serve = bucket.serve();
    let mut agent = Agent::join(&bucket, &hosts[0]);
    bucket.maand(&["deploy"]).expect(0);
    bucket.maand(&["run_command", "echo hello"]).expect(0);
    agent.wait_online(&bucket);
    let shown = || {
        let mut all: Vec<Value> = ["certs", "kv", "allocations", "deployments", "jobs", "workers", "ports"]
            .iter()
            .map(|view| bucket.cat(view))
            .collect();
        let rollouts = bucket.maand(&["rollout", "list", "--json"]).expect(0).stdout;
        all.push(serde_json::from_str(&rollouts).unwrap());
        let status = agent_status(&bucket, &hosts[0]);
        all.push(status);
        all
    };
    let before = shown();
    let started = agent.read("api", "data/ran");
    assert_eq!(started.lines().count(), 1, "{started}");
    agent.kill();
    drop(serve);

    let (catalog, ledger) = (bucket.path("data/maand.db"), agent.bucket_dir().join(".maand/ledger.db"));
    // The newest first: what the first lacks is made anew there.
    for from in (1..CATALOG.current().max(LEDGER.current())).rev() {
        // The shorter history is gone through more than once.
        let (old_catalog, old_ledger) =
            ((from - 1) % (CATALOG.current() - 1) + 1, (from - 1) % (LEDGER.current() - 1) + 1);
        let derived = derived(&catalog);
        CATALOG.as_of(old_catalog, &catalog);
        if old_catalog == 1 {
            written_out(&catalog, &derived, &before[1]);
        }
        LEDGER.as_of(old_ledger, &ledger);
        bucket.maand(&["info"]).expect(4);
        let mut status = agent.command();
        let refused = harness::process::finish(
            {
                status.arg("status");
                status
            },
            std::time::Duration::from_secs(60),
        );
        assert!(refused.code == 1 && refused.stderr.contains("an older maand-agent wrote it"), "{refused:?}");
        bucket.maand(&["init"]).expect(0);
        let _serve = bucket.serve();
        agent.start();
        agent.wait_online(&bucket);
        assert_eq!((version(&catalog), version(&ledger)), (CATALOG.current(), LEDGER.current()));
        // Jobs had no certificates in schema 1: the next build issues them, which is news to the job.
        let first = usize::from(old_catalog == 1);
        for (was, is) in before.iter().zip(shown()).skip(first) {
            assert_eq!(*was, is, "catalog of schema {old_catalog}, ledger of schema {old_ledger}");
        }
        bucket.maand(&["build"]).expect(0);
        let said = bucket.maand(&["deploy", "--dry-run"]).expect(0).stdout;
        assert_eq!(said.contains("no deployment required"), first == 0, "catalog of schema {old_catalog}: {said}");
        bucket.maand(&["run_command", "echo hello"]).expect(0);
        assert_eq!(agent.read("api", "data/ran"), started, "nothing was done anew");
        agent.kill();
    }
}

/// Key-values that follow from other rows: since schema 2 their value is not in the catalog.
fn derived(catalog: &Path) -> Vec<(String, String)> {
    let opened = Connection::open(catalog).unwrap();
    let mut select = opened.prepare("SELECT namespace, key FROM key_value WHERE derived").unwrap();
    select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

/// As schema 1 had them.
fn written_out(catalog: &Path, derived: &[(String, String)], shown: &Value) {
    let opened = Connection::open(catalog).unwrap();
    assert!(!derived.is_empty());
    for (namespace, key) in derived {
        let mine = shown.as_array().unwrap().iter().find(|row| row["namespace"] == **namespace && row["key"] == **key);
        let value = mine.unwrap()["value"].as_str().unwrap();
        opened
            .execute("UPDATE key_value SET value = ?3 WHERE namespace = ?1 AND key = ?2", [namespace, key, value])
            .unwrap();
    }
}

/// Who the agent is to the controller, without moments.
fn agent_status(bucket: &harness::bucket::Bucket, host: &str) -> Value {
    let agents = bucket.cat("agents");
    let mine = agents.as_array().unwrap().iter().find(|row| row["host"] == host).unwrap().clone();
    json!([mine["worker_id"], mine["state"], mine["certificate"], mine["update_seq"], mine["generation"]])
}
