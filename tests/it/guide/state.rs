//! "Read allocation hash state": the three commands, and each row of the table of rollout words.

use serde_json::json;

use super::{Shop, says};

#[test]
fn each_word_of_the_rollout_column_with_its_versions_and_post_deploy_status() {
    let mut shop = Shop::new();
    shop.begin();
    // new: never promoted.
    assert_eq!(shop.column("api", "rollout"), ["new"; 3]);
    assert_eq!(shop.column("api", "previous_hash"), [json!(null), json!(null), json!(null)]);
    assert_eq!(
        (&shop.column("api", "current_version")[0], &shop.column("api", "new_version")[0]),
        (&json!("0.0.0"), &json!("1.0.0"))
    );
    // pending while it rolls, failed when its hooks failed, success at last.
    shop.raise("hold.api");
    shop.raise("fail.smoke");
    let mut deploy = shop.bucket.start("deploy", &["deploy"]);
    harness::poll::until("post_deploy to be pending", harness::poll::LONG, || {
        let status = shop.column("api", "post_deploy_status");
        if status == ["pending"; 3] { Ok(()) } else { Err(status) }
    });
    shop.lower("hold.api");
    assert_eq!(deploy.wait(super::DEPLOY).code(), Some(1), "{}", deploy.printed());
    assert_eq!(
        (shop.column("api", "rollout"), shop.column("api", "post_deploy_status")),
        (vec![json!("promoted"); 3], vec![json!("failed"); 3])
    );
    shop.lower("fail.smoke");
    shop.run(&["deploy"], 0);
    assert_eq!(shop.column("api", "post_deploy_status"), ["success"; 3]);
    assert_eq!(shop.column("vault", "post_deploy_status"), [json!(null)], "it has no post_deploy hooks");
    // promoted: in sync, and skipped.
    assert_eq!(shop.column("api", "current_hash"), shop.column("api", "previous_hash"));
    says(&shop.run(&["deploy"], 0), &["deploy: skip job \"api\" (deploy complete on all allocations)"]);
    // restart: the version alone differs.
    shop.manifest("api", |manifest| manifest["version"] = json!("1.1.0"));
    shop.run(&["build"], 0);
    assert_eq!(shop.column("api", "rollout"), ["restart"; 3]);
    assert_eq!(shop.column("api", "current_hash"), shop.column("api", "previous_hash"));
    let versions =
        |shop: &Shop| (shop.column("api", "current_version")[0].clone(), shop.column("api", "new_version")[0].clone());
    assert_eq!(versions(&shop), (json!("1.0.0"), json!("1.1.0")));
    // disabled_restart: drained, and something is pending. Deploy brings it, and nothing runs.
    let drained = json!({"jobs": {"api": {"allocations": [shop.hosts[2]]}}});
    shop.bucket.write("workspace/disabled.json", &drained.to_string());
    shop.run(&["build"], 0);
    assert_eq!(shop.column("api", "rollout"), ["restart", "restart", "disabled_restart"]);
    shop.run(&["deploy"], 0);
    assert_eq!(shop.column("api", "rollout"), ["promoted", "promoted", "disabled"]);
    assert_eq!(versions(&shop), (json!("1.1.0"), json!("1.1.0")));
    assert_eq!(
        (shop.ran(0, "api"), shop.ran(2, "api")),
        (vec!["start".into(), "restart".into()], vec!["start".into(), "stop".into()])
    );
    assert_eq!(shop.column("api", "post_deploy_status"), ["success"; 3], "of all that are not removed");
    // health_failed: it did not pass its last gate.
    shop.raise("sick");
    shop.edit("api", "2");
    says(&shop.run(&["deploy", "-b"], 1), &["MD0092", "runs and is not healthy", "no database"]);
    assert_eq!(shop.column("api", "rollout"), ["health_failed", "health_failed", "disabled_restart"]);
    shop.lower("sick");
    shop.run(&["deploy"], 0);
    assert_eq!(shop.column("api", "rollout"), ["promoted", "promoted", "disabled"]);
    // removed: no longer wanted here.
    shop.bucket.write("workspace/disabled.json", "{}");
    shop.workers(2);
    shop.run(&["build"], 0);
    assert_eq!(shop.column("api", "rollout"), ["promoted", "promoted", "removed"]);

    // The three commands.
    let all = shop.run(&["cat", "deployments"], 0);
    says(&all, &["vault", "postgres", "api", " removed "]);
    let active = shop.run(&["cat", "deployments", "--jobs", "api", "--active"], 0);
    assert!(active.contains(&shop.hosts[0]) && !active.contains(&shop.hosts[2]), "{active}");
    let one = shop.run(&["cat", "deployments", "--workers", &shop.hosts[0]], 0);
    assert!(one.contains("vault") && one.contains("api") && !one.contains("postgres"), "{one}");
}
