//! "pre_deploy / post_deploy / hook failure": each row of the table of events, what becomes of key-values, and the
//! two commands.

use serde_json::json;

use super::{Shop, of_job, says};

fn keys(shop: &Shop, namespace: &str) -> Vec<String> {
    let rows = shop.bucket.cat("kv");
    let rows = rows.as_array().unwrap().iter().filter(|row| row["namespace"] == namespace && row["deleted"] == false);
    rows.map(|row| row["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_two_commands_pre_deploy_and_post_deploy() {
    let shop = Shop::up();
    let listed = shop.run(&["cat", "hooks", "--jobs", "api"], 0);
    says(&listed, &["HOOK_NAME", "hook_migrate", "pre_deploy", "cli", "hook_smoke", "post_deploy", "postgres"]);
    assert!(!listed.contains("hook_ready"), "{listed}");

    // pre_deploy: not rolled in this run; the others go on; what it wrote is discarded.
    shop.raise("fail.migrate");
    let failed = shop.run(&["deploy"], 1);
    says(
        &failed,
        &["deploy failed: api\n", "error[MD0090]: job api: hook_migrate failed", "(pre_deploy)", "! migrate says no"],
    );
    assert_eq!(
        (shop.column("api", "rollout"), shop.column("postgres", "rollout")),
        (vec![json!("new"); 3], vec![json!("promoted")])
    );
    assert!(shop.ran(0, "api").is_empty() && keys(&shop, "vars/job/api") == ["mykey"]);
    // Its log, and its failure again by hand.
    says(
        &shop.run(&["logs", "show", "--job", "api", "--phase", "pre_deploy", "--format", "human"], 0),
        &["hook_migrate", "! migrate says no", "exit=3"],
    );
    let by_hand = shop.run(&["hooks", "hook_migrate", "api", "--verbose"], 1);
    says(&by_hand, &["api@", " ! migrate says no", "MD0090"]);
    shop.lower("fail.migrate");
    says(&shop.run(&["hooks", "hook_migrate", "api", "--verbose"], 0), &[" | schema 7"]);
    assert_eq!(keys(&shop, "vars/job/api"), ["mykey", "schema"], "what a good hook writes is kept");

    // post_deploy: content is promoted, the status of all that are not removed is failed, a drained one's too; the
    // next deploy runs these hooks alone.
    let drained = json!({"jobs": {"api": {"allocations": [shop.hosts[2]]}}});
    shop.run(&["deploy"], 0);
    shop.bucket.write("workspace/disabled.json", &drained.to_string());
    shop.edit("api", "2");
    shop.run(&["build"], 0);
    shop.raise("fail.smoke");
    says(&shop.run(&["deploy"], 1), &["deploy failed: api\n", "hook_smoke failed", "(post_deploy)", "! smoke says no"]);
    assert_eq!(shop.column("api", "rollout"), ["promoted", "promoted", "disabled"]);
    assert_eq!(shop.column("api", "post_deploy_status"), ["failed"; 3]);
    assert_eq!(of_job(&shop.run(&["deploy", "-n"], 0), "api").trim_end(), "deploy required (post_deploy only)");
    let ran = shop.ran(0, "api");
    shop.lower("fail.smoke");
    let again = shop.run(&["deploy"], 0);
    assert!(again.contains("api | post_deploy hooks") && !again.contains("pre_deploy hooks"), "{again}");
    assert_eq!((shop.column("api", "post_deploy_status"), shop.ran(0, "api")), (vec![json!("success"); 3], ran));
}

#[test]
fn hooks_of_batches_stops_and_job_control() {
    let shop = Shop::new();
    shop.manifest("api", |manifest| manifest["max_concurrent_starts"] = json!(1));
    let started = "maand.put_job_variable('started' + maand.allocation_ip().rsplit('.', 1)[1], '1').raise_for_status()\n\
                   if maand.allocation_ip().endswith('.3'): fail_at('started')\n";
    shop.hook("api", "hook_started", json!({"executed_on": ["after_allocation_started"]}), started);
    shop.hook("api", "hook_stopped", json!({"executed_on": ["after_allocation_stopped"]}), "fail_at('stopped')\n");
    shop.hook("vault", "hook_control", json!({"executed_on": ["job_control"]}), "fail_at('control')\n");
    let mut shop = shop;
    shop.begin();

    // job_control: the whole job's way fails; and who demands it waits.
    shop.raise("fail.control");
    says(
        &shop.run(&["deploy", "--jobs", "vault"], 1),
        &["deploy failed: vault\n", "hook_control failed", "(job_control)"],
    );
    assert_eq!(shop.column("vault", "rollout"), ["new"]);
    shop.lower("fail.control");

    // after_allocation_started: that batch is not promoted, though it may run already; what it wrote is discarded.
    shop.raise("fail.started");
    let failed = shop.run(&["deploy"], 1);
    says(&failed, &["deploy failed: api\n", "hook_started failed", "(after_allocation_started)"]);
    assert_eq!(shop.column("api", "rollout"), ["promoted", "new", "new"]);
    assert_eq!((shop.ran(1, "api"), shop.ran(2, "api")), (vec!["start".to_owned()], vec![]));
    assert_eq!(keys(&shop, "vars/job/api"), ["mykey", "schema", "started2"]);
    // Fix the hook and retry.
    shop.lower("fail.started");
    shop.run(&["deploy"], 0);
    assert_eq!(shop.column("api", "rollout"), ["promoted"; 3]);

    // after_allocation_stopped: it is stopped, and its files are not taken away before the hook is right.
    shop.raise("fail.stopped");
    shop.workers(2);
    shop.run(&["build"], 0);
    let failed = shop.run(&["deploy"], 1);
    says(&failed, &["deploy failed: api\n", "after_allocation_stopped: hook_stopped on"]);
    assert_eq!(shop.ran(2, "api").last().map(String::as_str), Some("stop"));
    assert!(shop.agents[2].job_path("api", "Makefile").exists());
    shop.lower("fail.stopped");
    shop.run(&["deploy"], 0);
    assert!(!shop.agents[2].job_path("api", "Makefile").exists());
}
