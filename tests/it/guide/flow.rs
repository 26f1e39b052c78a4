//! "Quick diagnostic flow": the six steps in their order, then the block of commands after them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Shop, of_job, says};

#[test]
fn the_quick_diagnostic_flow_and_the_commands_after_it() {
    let shop = Shop::up();
    // 1. would deploy run? which jobs?
    let dry = shop.run(&["deploy", "--dry-run"], 0);
    says(
        &dry,
        &["deploy dry-run: deployment required\n", "job \"vault\": deploy required", "job \"api\": deploy required"],
    );
    says(&shop.run(&["deploy", "--dry-run", "-b"], 0), &["deploy dry-run: deployment required"]);
    // 2. per-allocation rollout state
    says(&shop.run(&["cat", "deployments"], 0), &["ROLLOUT", "vault", "postgres", " new "]);
    assert_eq!(shop.column("api", "rollout"), ["new"; 3]);
    let api = shop.run(&["cat", "deployments", "--jobs", "api"], 0);
    assert!(api.matches(" new ").count() == 3 && !api.contains("vault"), "{api}");
    // 3. and where they are
    let allocations = shop.run(&["cat", "allocations"], 0);
    says(&allocations, &["ALLOCATION_ID", "WORKER_IP", "DISABLED", "REMOVED", "vault"]);
    let api = shop.run(&["cat", "allocations", "--jobs", "api"], 0);
    assert!(shop.hosts.iter().all(|host| api.contains(host.as_str())) && !api.contains("vault"), "{api}");
    // 4. deployment_seq, disabled flag
    says(&shop.run(&["cat", "jobs"], 0), &["DEPLOYMENT_SEQ", "DISABLED"]);
    let jobs = shop.bucket.cat("jobs");
    let seqs: Vec<_> =
        jobs.as_array().unwrap().iter().map(|row| (&row["job"], &row["deployment_seq"], &row["disabled"])).collect();
    let row = |job: &str, seq: u32| (json!(job), json!(seq), json!(false));
    let expected = [row("vault", 0), row("postgres", 1), row("api", 2)];
    assert_eq!(seqs, expected.iter().map(|(job, seq, disabled)| (job, seq, disabled)).collect::<Vec<_>>());
    // 5. refresh plan hashes after workspace edit
    shop.edit("vault", "sealed");
    let before = shop.column("vault", "current_hash");
    shop.run(&["build"], 0);
    assert_ne!(shop.column("vault", "current_hash"), before, "a build refreshes what is planned");
    says(&shop.run(&["deploy"], 0), &["deployed: 5 allocations promoted"]);
    // 6. on the worker
    let info = shop.info();
    for agent in &shop.agents {
        let text = std::fs::read_to_string(agent.bucket_dir().join("worker.json")).unwrap();
        let worker: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&worker["bucket_id"], &worker["update_seq"]), (&info["bucket_id"], &info["update_seq"]));
        assert_eq!(agent.bucket_dir().file_name().unwrap().to_str(), info["bucket_id"].as_str());
        assert_eq!(agent.read("api", "logs/api.log"), "api start 0.0.0 1.0.0\n");
    }

    let look = shop.run(&["run_command", "cat worker.json; tail jobs/api/logs/*", "--workers", &shop.hosts[0]], 0);
    says(&look, &["\"update_seq\": 1", "| api start 0.0.0 1.0.0"]);

    // The block after it.
    let id = info["bucket_id"].as_str().unwrap();
    says(
        &shop.run(&["info"], 0),
        &[id, "Update Sequence", "Number of Workers", "Number of Jobs", "Number of Allocations"],
    );
    let dry = shop.run(&["deploy", "--dry-run"], 0);
    says(&dry, &["deploy dry-run: no deployment required\n"]);
    for job in ["vault", "postgres", "api"] {
        assert_eq!(of_job(&dry, job).lines().next(), Some("skip (already promoted)"), "{dry}");
    }
    let api = shop.run(&["cat", "deployments", "--jobs", "api"], 0);
    assert_eq!((api.matches(" promoted ").count(), api.matches(" success ").count()), (3, 3), "{api}");
    says(&shop.run(&["cat", "allocations", "--jobs", "api"], 0), &[&shop.hosts[2]]);
    says(&shop.run(&["cat", "kv", "--jobs", "api"], 0), &["vars/job/api", "mykey", "schema", "api_http"]);

    no_agent_listens(&shop);
}

/// Nothing ever connects to a worker: there is nothing to connect to.
fn no_agent_listens(shop: &Shop) {
    for agent in shop.agents.iter() {
        let pid = agent.pid();
        let sockets: BTreeSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
            .collect();
        assert!(!sockets.is_empty(), "its connection to the controller is seen");
        // State 0A is a socket that listens; the inode is the tenth column.
        let tables =
            ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default());
        let listening: Vec<&str> = tables
            .iter()
            .flat_map(|table| table.lines().skip(1))
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|columns| columns.get(3) == Some(&"0A"))
            .filter_map(|columns| columns.get(9).copied())
            .filter(|inode| sockets.contains(*inode))
            .collect();
        assert!(listening.is_empty(), "{}: {listening:?}", agent.host);
    }
}
