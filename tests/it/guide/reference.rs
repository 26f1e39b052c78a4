//! "Command reference for debugging": every row of the table, in its order.

use super::{Shop, says};

#[test]
fn every_row_of_the_command_reference() {
    let shop = Shop::deployed();
    says(&shop.run(&["info"], 0), &["Bucket ID", "Update Sequence"]);
    says(&shop.run(&["deploy", "--dry-run"], 0), &["no deployment required"]);
    let state = shop.run(&["cat", "deployments"], 0);
    says(&state, &["CURRENT_HASH", "PREVIOUS_HASH", "CURRENT_VERSION", "NEW_VERSION", "POST_DEPLOY_STATUS", "1.0.0"]);
    says(&shop.run(&["cat", "allocations"], 0), &["DISABLED", "REMOVED"]);
    says(&shop.run(&["cat", "jobs"], 0), &["DEPLOYMENT_SEQ"]);
    says(&shop.run(&["cat", "kv", "--jobs", "vault"], 0), &["vault_http"]);
    let ports = shop.run(&["cat", "ports", "--jobs", "api"], 0);
    assert!(ports.contains("api_http") && !ports.contains("vault_http"), "{ports}");
    let reproduced = shop.run(&["hooks", "hook_migrate", "api", "--verbose"], 0);
    for host in &shop.hosts {
        says(&reproduced, &[&format!("api@{host} | schema 7"), &format!("api@{host} | hook_migrate ok")]);
    }
    let host = shop.hosts[1].as_str();
    let logs = shop.run(&["logs", "show", "--worker", host, "--job", "postgres", "--format", "human"], 0);
    let start =
        format!("rollout start postgres@{host}\n$ make -s -C jobs/postgres start\n| postgres start 0.0.0 1.0.0\n");
    says(&logs, &[&start, "ok exit=0 "]);
    let well = shop.run(&["health_check", "--jobs", "api", "--wait", "--verbose"], 0);
    says(&well, &["api: healthy (3 of 3)", &format!("api@{host} healthy")]);

    // Force reroll: as restart_policy says, and only that job.
    says(&shop.run(&["deploy", "--force", "--jobs", "api"], 0), &["deployed: 3 allocations promoted"]);
    says(&shop.run(&["deploy", "--force", "--jobs", "postgres"], 0), &["reload ok in"]);
    assert_eq!(
        (shop.ran(1, "api"), shop.ran(1, "postgres")),
        (vec!["start".into(), "restart".into()], vec!["start".into(), "reload".into()])
    );
    assert_eq!(shop.ran(0, "vault"), ["start"]);

    // Config-only push: files and no target; refused where something has to start.
    shop.edit("api", "2");
    shop.run(&["build"], 0);
    shop.run(&["deploy", "--sync-only", "--jobs", "api"], 0);
    assert_eq!(
        (shop.agents[2].read("api", "conf/app"), shop.ran(2, "api")),
        ("2".to_owned(), vec!["start".into(), "restart".into()])
    );
    assert_eq!(shop.column("api", "rollout"), ["promoted"; 3]);
    shop.job("fresh", serde_json::json!({"selectors": ["spare"]}));
    shop.run(&["build"], 0);
    let refused = shop.run(&["deploy", "--sync-only", "--jobs", "fresh"], 1);
    says(&refused, &["deploy failed: fresh\n", "MD0070", "--sync-only cannot start what was never deployed"]);
}
