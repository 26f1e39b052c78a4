//! "Disabled / re-enable surprises", and "Removed allocation / GC".

use serde_json::{Value, json};

use super::{Shop, of_job, says};

#[test]
fn disabled_enabled_again_removed_and_gc() {
    let shop = Shop::deployed();
    let keys = |shop: &Shop| -> Vec<Value> {
        let rows: Value = serde_json::from_str(
            &shop.bucket.maand(&["cat", "kv", "--jobs", "api", "--active", "--json"]).expect(0).stdout,
        )
        .unwrap();
        let of_job =
            rows.as_array().unwrap().iter().filter(|row| row["namespace"].as_str().unwrap().contains("job/api"));
        of_job.map(|row| json!([row["namespace"], row["key"]])).collect()
    };
    let before = keys(&shop);
    assert!(before.contains(&json!(["vars/job/api", "schema"])), "{before:?}");
    // Stopped after disable: expected. Its key-values and files stay.
    shop.bucket.write("workspace/disabled.json", r#"{"jobs": {"api": {}}}"#);
    shop.run(&["build"], 0);
    shop.run(&["deploy"], 0);
    assert_eq!(
        (shop.ran(0, "api"), shop.column("api", "rollout")),
        (vec!["start".to_owned(), "stop".to_owned()], vec![json!("disabled"); 3])
    );
    assert_eq!(keys(&shop).iter().filter(|key| key[0] == "vars/job/api").count(), 2, "{:?}", keys(&shop));
    assert!(shop.agents[0].job_path("api", "app.conf").exists());
    // Enabled again, and only deployed: it does not start; build first.
    std::fs::remove_file(shop.bucket.path("workspace/disabled.json")).unwrap();
    says(&shop.run(&["deploy"], 0), &["deploy: skip job \"api\" (no active allocations)"]);
    assert_eq!(shop.ran(0, "api"), ["start", "stop"]);
    shop.run(&["build"], 0);
    assert_eq!(shop.column("api", "rollout"), ["new"; 3]);
    says(&of_job(&shop.run(&["deploy", "-n"], 0), "api"), &[" start "]);
    shop.run(&["deploy"], 0);
    assert_eq!(shop.ran(0, "api"), ["start", "stop", "start"]);
    assert_eq!(keys(&shop), before);

    // Removed: nothing of it can be read any more; hashes are cleared on deploy, the tree goes on gc.
    std::fs::rename(shop.bucket.path("workspace/jobs/api"), shop.flag("aside")).unwrap();
    shop.run(&["build"], 0);
    says(&shop.run(&["cat", "kv", "--jobs", "api"], 1), &["there are no key-values", "removed from every worker"]);
    says(&shop.run(&["gc"], 1), &["MD0076", "maand deploy"]);
    assert_eq!(shop.column("api", "rollout"), ["removed"; 3]);
    assert!(shop.column("api", "previous_hash").iter().all(|hash| !hash.is_null()));
    shop.run(&["deploy"], 0);
    assert_eq!(shop.column("api", "previous_hash"), vec![Value::Null; 3]);
    assert_eq!(shop.ran(0, "api"), ["start", "stop", "start", "stop"]);
    let left = |n: usize| -> Vec<String> {
        let dir = std::fs::read_dir(shop.agents[n].job_path("api", "")).into_iter().flatten();
        let mut names: Vec<String> = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(left(1), ["data", "logs"]);
    let rows = shop.run(&["cat", "allocations", "--jobs", "api"], 0);
    assert!(shop.hosts.iter().all(|host| rows.contains(host.as_str())), "{rows}");
    shop.run(&["gc"], 0);
    for n in 0..3 {
        assert!(!shop.agents[n].job_path("api", "").exists(), "the whole tree");
    }
    says(&shop.run(&["cat", "allocations", "--jobs", "api"], 2), &["there is no job \"api\""]);
    assert_eq!(shop.ran(0, "vault"), ["start"], "the others are left alone");
}

#[test]
fn a_worker_that_left_is_assumed_dead_and_cleans_up_when_it_is_back() {
    let mut shop = Shop::deployed();
    let gone = shop.hosts[2].clone();
    shop.agents[2].kill();
    shop.wait_state(2, "offline");
    shop.workers(2);
    shop.run(&["build"], 0);
    let dead = format!("deploy: removed worker {gone} unreachable, assuming dead");
    says(&shop.run(&["deploy"], 0), &[&dead]);
    says(&shop.run(&["logs", "show", "--worker", &gone, "--format", "human"], 0), &[&dead]);
    assert!(shop.agents[2].job_path("api", "Makefile").exists());
    shop.agents[2].start();
    harness::poll::until("its files to be gone", harness::poll::LONG, || {
        if shop.agents[2].job_path("api", "Makefile").exists() { Err("still there") } else { Ok(()) }
    });
    assert_eq!(shop.ran(2, "api"), ["start", "stop"]);
}
