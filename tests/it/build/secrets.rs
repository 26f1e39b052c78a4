//! Secrets: sealed where they lie, private where they go.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::{build, now_ms, one_worker, secret_of_a_hook, value, workspace};
use crate::support::{agents, bucket, hosts};

#[test]
fn a_sealed_value_opens_at_its_own_key_alone() {
    let bucket = workspace(&one_worker(), &[("api", json!({})), ("web", json!({"selectors": ["api"]}))]);
    build(&bucket);
    secret_of_a_hook(&bucket, "api", "password", "hush-1");
    let list = bucket.maand(&["cat", "kv"]).expect(0).stdout;
    assert!(list.contains("[encrypted]") && !list.contains("hush-1"), "{list}");
    let hidden = bucket.maand(&["cat", "kv", "get", "secrets/job/api", "password"]).expect(0).stdout;
    assert!(hidden.contains("value: [encrypted]") && !hidden.contains("hush-1"), "{hidden}");
    assert_eq!(value(&bucket, "secrets/job/api", "password").unwrap(), "hush-1");
    let mut catalog = controller::catalog::Catalog::open(&bucket.path("data/maand.db")).unwrap();
    let sealed = catalog.read(|tx| controller::catalog::kv::get(tx, "secrets/job/api", "password")).unwrap().unwrap();
    assert!(sealed.value.starts_with("enc:v1:") && !sealed.value.contains("hush"), "{}", sealed.value);
    // Copied to another key, or to another job, it does not open.
    for (namespace, key) in [("secrets/job/api", "other"), ("secrets/job/web", "password")] {
        catalog.write(|tx| controller::catalog::kv::put(tx, namespace, key, &sealed.value, now_ms())).unwrap();
        let refused = bucket.maand(&["cat", "kv", "get", namespace, key, "--reveal"]).expect(3);
        assert!(refused.stderr.contains("MD0012") && refused.stdout.is_empty(), "{refused:?}");
    }
    bucket.write("workspace/jobs/web/conf.j2", "{{ get_secret('password') }}\n");
    let refused = bucket.maand(&["build"]).expect(3);
    assert!(refused.stderr.contains("password in secrets/job/web"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("hush"), "{}", refused.stderr);
}

#[test]
fn what_was_made_of_a_secret_is_the_jobs_alone_on_its_worker() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["api"]);
    bucket.recording_job("api", &json!({}));
    bucket.recording_job("open", &json!({"selectors": ["api"]}));
    bucket.write("workspace/jobs/open/app.conf.j2", "name = {{ job }}\n");
    bucket.maand(&["build"]).expect(0);
    secret_of_a_hook(&bucket, "api", "password", "canary-7");
    bucket.write("workspace/jobs/api/app.conf.j2", "password = {{ get_secret('password') }}\n");
    bucket.write("workspace/jobs/api/keys.conf.j2", "{{ keys('secrets/job/api') | join(',') }}\n");
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    assert_eq!(agents[0].read("api", "app.conf"), "password = canary-7\n");
    assert_eq!(agents[0].read("api", "keys.conf"), "password\n");
    let mode =
        |job: &str, file: &str| std::fs::metadata(agents[0].job_path(job, file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("api", "app.conf"), mode("api", "keys.conf"), mode("api", "")), (0o600, 0o644, 0o700));
    assert_eq!((mode("open", "app.conf"), mode("open", "")), (0o644, 0o755), "nothing private is in it");
    // Nowhere on the controller in clear.
    let grep = |dir: &str| {
        let found =
            std::process::Command::new("grep").args(["-rlaF", "canary-7"]).arg(bucket.path(dir)).output().unwrap();
        String::from_utf8(found.stdout).unwrap()
    };
    assert_eq!(grep("data") + &grep("logs") + &grep("tmp"), "");
}
