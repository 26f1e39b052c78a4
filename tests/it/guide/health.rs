//! "health check failed": a probe that is not ready yet, a command that fails, a wrong port in the manifest.

use std::net::TcpListener;

use harness::poll;
use serde_json::{Value, json};

use super::{Shop, says};

#[test]
fn not_ready_yet_a_command_that_fails_and_a_wrong_port() {
    let shop = Shop::deployed();
    // A command fails: the output of the check says why, the deploy that follows is the fix's.
    shop.raise("sick");
    shop.edit("api", "2");
    let failed = shop.run(&["deploy", "-b"], 1);
    says(
        &failed,
        &[
            "deploy failed: api",
            "error[MD0092]: job api: ",
            "runs and is not healthy: ",
            "no database",
            "do: maand health_check --jobs api --wait --verbose; then maand deploy",
        ],
    );
    assert_eq!(shop.column("api", "rollout"), ["health_failed"; 3]);
    let sick = shop.run(&["health_check", "--jobs", "api", "--wait", "--verbose"], 1);
    says(&sick, &["api: not healthy (0 of 3)", "unhealthy: ", "no database"]);
    shop.lower("sick");
    says(&shop.run(&["health_check", "--jobs", "api", "--wait", "--verbose"], 0), &["api: healthy (3 of 3)"]);
    shop.run(&["deploy"], 0);
    assert_eq!(shop.column("api", "rollout"), ["promoted"; 3]);
    // With the files as they were promoted, deploy --force is what rolls.
    says(&shop.run(&["deploy", "--force", "--jobs", "api"], 0), &["3 allocations promoted"]);

    // Not ready yet: more attempts. The probe that waits sees it come up.
    shop.manifest("api", |manifest| manifest["health_check"]["wait"]["attempts"] = json!(60));
    shop.raise("sick");
    shop.edit("api", "3");
    shop.run(&["build"], 0);
    let mut deploy = shop.bucket.start("deploy", &["deploy"]);
    poll::until("the gate", poll::LONG, || {
        let rows = shop.column("api", "health");
        if rows == ["unhealthy"; 3] { Ok(()) } else { Err(rows) }
    });
    assert!(deploy.ended().is_none(), "{}", deploy.printed());
    shop.lower("sick");
    assert_eq!(deploy.wait(super::DEPLOY).code(), Some(0), "{}", deploy.printed());

    // The wrong port: what the manifest names is not what the job listens on.
    let listener = TcpListener::bind((shop.bucket.address(4), 0)).unwrap();
    let (right, wrong) = (listener.local_addr().unwrap().port(), shop.bucket.port());
    shop.job(
        "proxy",
        json!({"selectors": ["spare"], "resources": {"ports": {"proxy_tcp": wrong}},
            "health_check": {"checks": [{"type": "tcp", "port": "proxy_tcp"}], "wait": {"attempts": 1}}}),
    );
    let failed = shop.run(&["deploy", "-b"], 1);
    says(&failed, &["deploy failed: proxy\n", "MD0092", &format!("{wrong}")]);
    assert_eq!(shop.column("proxy", "rollout"), ["new"]);
    let ports = shop.run(&["cat", "ports", "--jobs", "proxy"], 0);
    says(&ports, &["proxy_tcp", &wrong.to_string()]);
    shop.manifest("proxy", |manifest: &mut Value| manifest["resources"]["ports"]["proxy_tcp"] = json!(right));
    shop.run(&["build"], 0);
    says(&shop.run(&["cat", "ports", "--jobs", "proxy"], 0), &[&right.to_string()]);
    shop.run(&["deploy"], 0);
    assert_eq!(shop.column("proxy", "rollout"), ["promoted"]);
}
