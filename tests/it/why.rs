//! One answer to "why is this worker not where I want it", and the files that it would get, with the real
//! programs.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use harness::agents::Agent;
use harness::bucket::Bucket;
use harness::poll;
use serde_json::{Value, json};

use crate::support::{bucket, hosts};

fn why(bucket: &Bucket, arguments: &[&str]) -> (String, String) {
    let words: Vec<&str> = ["why"].iter().chain(arguments).chain(&["--json"]).copied().collect();
    let output = bucket.maand(&words).expect(0);
    let value: Value = serde_json::from_str(&output.stdout).unwrap();
    (value["so"].as_str().unwrap().to_owned(), value["do"].as_str().unwrap_or_default().to_owned())
}

/// Waits for an answer: agents report a moment later.
fn until(bucket: &Bucket, arguments: &[&str], so: &str, remedy: &str) {
    poll::until(so, poll::LONG, || {
        let found = why(bucket, arguments);
        if found.0.contains(so) && found.1.contains(remedy) { Ok(()) } else { Err(found) }
    });
}

#[test]
fn the_answer_names_the_first_thing_that_stands_in_the_way() {
    let bucket = bucket();
    bucket.setting("pickup_timeout = 1");
    let hosts = hosts(&bucket, 1);
    let host = hosts[0].as_str();
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"], "version": "1.0.0"}));
    bucket.maand(&["build"]).expect(0);
    until(&bucket, &[host], "no agent has joined", "maand agent token");
    let mut serve = bucket.serve();
    let mut agent = Agent::join(&bucket, host);
    agent.wait_online(&bucket);
    until(&bucket, &[host, "api"], "never deployed here", "maand deploy");
    bucket.maand(&["deploy"]).expect(0);
    until(&bucket, &[host, "api"], "in sync", "");
    until(&bucket, &[host], "everything on it is in sync", "");
    let text = bucket.maand(&["why", host, "api"]).expect(0).stdout;
    let last: Vec<&str> = text.lines().rev().take(2).collect();
    assert!(last[0] == "do: nothing" && last[1].starts_with("so: in sync"), "{text}");
    for word in
        ["last build", "promoted", "plan", "open rollout", "told", "accepted", "has", "last action", "certificate"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }

    bucket.write("workspace/jobs/api/Makefile", "start restart:\n\t@echo no such disk >&2; exit 3\nstop:\nreload:\n");
    bucket.maand(&["build"]).expect(0);
    until(&bucket, &[host, "api"], "is built and not deployed", "--dry-run");
    bucket.maand(&["deploy"]).expect(1);
    until(&bucket, &[host, "api"], "make target failed", "correct it");
    assert!(bucket.maand(&["why", host, "api"]).expect(0).stdout.contains("| no such disk"));

    bucket.recording_job("api", &json!({"selectors": ["all"], "version": "1.0.0"}));
    bucket.maand(&["deploy", "-b", "--force"]).expect(0);
    agent.kill();
    until(&bucket, &[host], "its agent is offline", "start maand-agent");
    serve.stop(Duration::from_secs(20));
    until(&bucket, &[host, "api"], "no maand serve runs", "start maand serve");
    std::fs::remove_dir_all(bucket.path("workspace/jobs/api")).unwrap();
    bucket.recording_job("web", &json!({"selectors": ["other"]}));
    bucket.maand(&["build"]).expect(0);
    let unplaced = bucket.maand(&["why", host, "web"]).expect(2);
    assert!(unplaced.stderr.contains("is not placed on"), "{}", unplaced.stderr);
    bucket.maand(&["why", "nowhere"]).expect(2);
    assert!(bucket.maand(&["why", host]).expect(0).stdout.contains("removed"));
}

#[test]
fn staged_trees_are_what_workers_get() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 2);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job(
        "api",
        &json!({"selectors": ["all"], "version": "1.0.0", "certs": {"tls": {"subject": {"common_name": "api"}}}}),
    );
    bucket.recording_job("web", &json!({"selectors": ["all"]}));
    bucket.write("workspace/jobs/api/app.conf.j2", "host={{ worker_ip }}\n");
    bucket.write("workspace/jobs/api/run.sh", "#!/bin/sh\n");
    std::fs::set_permissions(bucket.path("workspace/jobs/api/run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    let early = bucket.maand(&["stage"]).expect(3);
    assert!(early.stderr.contains("maand build"), "{}", early.stderr);
    bucket.maand(&["build"]).expect(0);
    bucket.maand(&["stage"]).expect(0);
    let staged = |relative: &str| bucket.path(&format!("tmp/workers/{}/{relative}", hosts[0]));
    let mode = |relative: &str| staged(relative).metadata().unwrap().permissions().mode() & 0o777;
    let key =
        std::fs::read_dir(staged("jobs/api/certs")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let key = key.into_iter().find(|name| name.ends_with(".key")).unwrap();
    assert_eq!(mode("jobs/api"), 0o700);
    assert_eq!(mode(&format!("jobs/api/certs/{key}")), 0o600);
    assert_eq!(mode("jobs/api/run.sh"), 0o755);
    let worker: Value = serde_json::from_str(&std::fs::read_to_string(staged("worker.json")).unwrap()).unwrap();
    assert_eq!(worker["worker_ip"], hosts[0].as_str());
    assert!(!staged("jobs/api/manifest.json").exists(), "control files are not shipped");

    let _serve = bucket.serve();
    let agent = Agent::join(&bucket, &hosts[0]);
    let _other = Agent::join(&bucket, &hosts[1]);
    bucket.maand(&["deploy"]).expect(0);
    for file in ["Makefile", "app.conf", "run.sh", &format!("certs/{key}"), "certs/ca.crt"] {
        let there = std::fs::read(agent.job_path("api", file)).unwrap();
        assert_eq!(std::fs::read(staged(&format!("jobs/api/{file}"))).unwrap(), there, "{file}");
    }

    // What is edited here changes nothing, and a filter leaves the rest alone.
    std::fs::write(staged("jobs/api/run.sh"), "edited\n").unwrap();
    std::fs::write(staged("jobs/web/note"), "mine\n").unwrap();
    bucket.maand(&["stage", "--jobs", "api", "--workers", &hosts[0]]).expect(0);
    assert_eq!(std::fs::read_to_string(staged("jobs/api/run.sh")).unwrap(), "#!/bin/sh\n");
    assert!(staged("jobs/web/note").exists());
    bucket.maand(&["stage"]).expect(0);
    assert!(!staged("jobs/web/note").exists());
    assert!(bucket.maand(&["deploy", "-n"]).expect(0).stdout.contains("no deployment required"));
}
