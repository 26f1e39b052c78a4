//! "Common symptoms": a job is skipped, and something should have changed.

use controller::paths::BucketDir;
use controller::tls::ca::{self, Kind};
use serde_json::json;

use super::{Shop, of_job, says};

const SKIPPED: &str = "deploy: skip job \"api\" (deploy complete on all allocations)";
const DAY_MS: i64 = 86_400_000;

#[test]
fn nothing_changed_not_built_a_version_alone_and_all_of_it_drained() {
    let shop = Shop::deployed();
    // Nothing changed: expected; --force rolls it all the same.
    says(&shop.run(&["deploy"], 0), &[SKIPPED, "no deployment required"]);
    says(&shop.run(&["deploy", "--force", "--jobs", "api"], 0), &["restart ok in"]);
    // Edited, and not built.
    shop.edit("api", "2");
    says(&shop.run(&["deploy"], 0), &[SKIPPED]);
    assert_eq!(shop.agents[0].read("api", "conf/app"), "");
    shop.run(&["build"], 0);
    shop.run(&["deploy"], 0);
    assert_eq!(shop.agents[0].read("api", "conf/app"), "2");
    // What stays on the controller ships nothing.
    shop.bucket.write("workspace/jobs/api/_modules/more.py", "x = 1\n");
    shop.run(&["build"], 0);
    says(&shop.run(&["deploy"], 0), &[SKIPPED]);
    // A version alone: build sets new_version, deploy restarts.
    shop.manifest("api", |manifest| manifest["version"] = json!("2.0.0"));
    shop.run(&["build"], 0);
    says(&of_job(&shop.run(&["deploy", "-n"], 0), "api"), &["deploy required\n", " restart ", " version=1.0.0->2.0.0"]);
    shop.run(&["deploy"], 0);
    assert!(shop.agents[1].read("api", "data/ran").ends_with("api restart 1.0.0 2.0.0\n"));
    // All of it drained.
    shop.bucket.write("workspace/disabled.json", r#"{"jobs": {"api": {}}}"#);
    shop.run(&["build"], 0);
    says(&shop.run(&["deploy"], 0), &["3 stopped"]);
    says(&shop.run(&["deploy"], 0), &["deploy: skip job \"api\" (no active allocations)"]);
    let jobs = shop.bucket.cat("jobs");
    assert_eq!((&jobs[2]["job"], &jobs[2]["disabled"]), (&json!("api"), &json!(true)), "{jobs}");
    says(&shop.run(&["deploy", "--jobs", "vault,postgres"], 0), &["deploy: skip job \"vault\""]);
    says(
        &shop.run(&["logs", "show", "--event", "deploy_skip", "--job", "api", "--format", "human"], 0),
        &["no active allocations"],
    );
}

#[test]
fn certificates_that_ended_or_soon_will() {
    let shop = Shop::new();
    shop.manifest("vault", |manifest| manifest["certs"] = json!({"tls": {}}));
    let mut shop = shop;
    shop.begin();
    shop.run(&["deploy"], 0);
    let first = shop.agents[0].read("vault", "certs/tls.crt");
    says(&shop.run(&["cat", "certs"], 0), &["NOT_AFTER", "DAYS_LEFT", "STATUS", "vault", " ok "]);

    // Within the window: build renews it, deploy brings it.
    let conf = shop.bucket.read("maand.conf");
    shop.bucket.write("maand.conf", &format!("{conf}certs_ttl = 90\ncerts_renewal_buffer = 70\n"));
    says(&shop.run(&["cat", "certs", "--jobs", "vault"], 0), &["expiring"]);
    says(&shop.run(&["deploy"], 0), &["deploy: skip job \"vault\""]);
    shop.run(&["build"], 0);
    says(&of_job(&shop.run(&["deploy", "-n"], 0), "vault"), &[" restart "]);
    shop.run(&["deploy"], 0);
    let second = shop.agents[0].read("vault", "certs/tls.crt");
    assert_ne!(second, first);

    // The authority: within the window a warning on standard error, after its end no build.
    let bucket = BucketDir::new(shop.bucket.path(""));
    let id = shop.info()["bucket_id"].as_str().unwrap().parse().unwrap();
    let replace = |days: i64| {
        for file in ["secrets/ca.crt", "secrets/ca.key"] {
            std::fs::remove_file(shop.bucket.path(file)).unwrap();
        }
        let now_ms = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        assert!(ca::ensure(Kind::Jobs, &bucket, id, now_ms - days * DAY_MS).unwrap());
    };
    replace(3600);
    let warned = shop.bucket.maand(&["build"]).expect(0);
    says(&warned.stderr, &["warning:", "the bucket's certificate authority ends soon"]);
    replace(3660);
    says(&shop.run(&["cat", "certs"], 0), &["expired"]);
    let ended = shop.run(&["build"], 3);
    says(&ended, &["MD0037", "the bucket's certificate authority has ended", "maand init"]);
    // The fix that it names.
    for file in ["secrets/ca.crt", "secrets/ca.key"] {
        std::fs::remove_file(shop.bucket.path(file)).unwrap();
    }
    shop.run(&["init"], 0);
    shop.run(&["build"], 0);
    shop.run(&["deploy"], 0);
    assert_ne!(shop.agents[0].read("vault", "certs/tls.crt"), second);
    assert_eq!(shop.column("vault", "rollout"), ["promoted"]);
}
