//! "worker.json / update_seq mismatch", and "Partial deploy".

use std::time::Duration;

use serde_json::{Value, json};

use super::{Shop, of_job, says};

#[test]
fn maand_job_refuses_a_worker_that_missed_a_deploy_and_a_deploy_brings_it_up_to_date() {
    let mut shop = Shop::deployed();
    says(&shop.run(&["job", "status", "api"], 0), &["| api status"]);
    // A deploy that one agent did not hear of, for its work is elsewhere.
    shop.agents[2].process().stop(Duration::from_secs(20));
    shop.wait_state(2, "offline");
    shop.edit("vault", "2");
    shop.run(&["deploy", "-b", "--jobs", "vault"], 0);
    let offline = shop.run(&["job", "status", "api"], 1);
    says(&offline, &["MD0086", &shop.hosts[2], "offline since 20"]);
    assert!(!offline.contains("| api status"), "nobody was asked: {offline}");
    let seq = |shop: &Shop, n: usize| {
        let text = std::fs::read_to_string(shop.agents[n].bucket_dir().join("worker.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["update_seq"].clone()
    };
    assert_eq!((seq(&shop, 0), seq(&shop, 2)), (json!(2), json!(1)), "{}", shop.info());
    // Really behind: it is there, and stands still before it has heard.
    shop.agents[2].start();
    shop.agents[2].wait_online(&shop.bucket);
    shop.run(&["agent", "ping", &shop.hosts[2]], 0);
    shop.agents[2].process().signal(rustix::process::Signal::STOP);
    shop.edit("vault", "3");
    shop.run(&["deploy", "-b", "--jobs", "vault"], 0);
    let behind = shop.run(&["job", "status", "api"], 1);
    says(&behind, &["MD0087", "is behind: it has update_seq 2, the bucket 3", "run maand deploy"]);
    assert_eq!(shop.bucket.cat("agents")[2]["update_seq"], 2);
    shop.agents[2].process().signal(rustix::process::Signal::CONT);
    // Deploy does not require this, has nothing to roll, and refreshes worker.json everywhere.
    says(&shop.run(&["deploy"], 0), &["no deployment required; agents are told of update_seq 4"]);
    says(&shop.run(&["job", "status", "api"], 0), &[&format!("api@{} | api status", shop.hosts[2])]);
    assert_eq!((0..3).map(|n| seq(&shop, n)).collect::<Vec<_>>(), [json!(4), json!(4), json!(4)]);
    assert_eq!(shop.info()["update_seq"], 4);
}

#[test]
fn a_partial_deploy_keeps_what_succeeded_and_the_next_one_does_the_rest() {
    let shop = Shop::up();
    shop.manifest("api", |manifest| manifest["max_concurrent_upgrades"] = json!(1));
    shop.run(&["deploy", "-b"], 0);
    // Two jobs roll; one of them fails in its second batch.
    shop.edit("api", "2");
    shop.edit("vault", "2");
    shop.run(&["build"], 0);
    shop.raise(&format!("fail.api.{}", shop.hosts[1]));
    let failed = shop.run(&["deploy"], 1);
    says(
        &failed,
        &[
            "deploy failed: api\n",
            &format!("make failed on {}", shop.hosts[1]),
            "with 1 of its 3 allocations untouched",
        ],
    );
    assert_eq!(shop.column("vault", "rollout"), ["promoted"]);
    assert_eq!(shop.column("api", "rollout"), ["promoted", "restart", "restart"], "earlier batches are promoted");
    assert_eq!(shop.column("api", "post_deploy_status"), ["pending"; 3]);
    let section = of_job(&shop.run(&["deploy", "-n"], 0), "api");
    assert_eq!((section.matches(" restart ").count(), section.matches(" skip ").count()), (2, 1), "{section}");
    // Fix it and deploy again: what is complete is skipped.
    shop.lower(&format!("fail.api.{}", shop.hosts[1]));
    let first = shop.ran(0, "api");
    says(
        &shop.run(&["deploy"], 0),
        &["deploy: skip job \"vault\" (deploy complete on all allocations)", "deployed: 2 allocations promoted"],
    );
    assert_eq!((shop.ran(0, "api"), shop.column("api", "rollout")), (first, vec![json!("promoted"); 3]));
    assert_eq!(shop.column("api", "post_deploy_status"), ["success"; 3]);
}
