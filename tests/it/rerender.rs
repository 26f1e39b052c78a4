//! What is done again after which change: exactly what is made of it.

use controller::catalog::kv;
use controller::secrets::SealingKey;
use harness::poll;
use rusqlite::Connection;
use serde_json::json;

use crate::edits::UPSTREAM;
use crate::incremental::{Cold, assert_same, build, rows};
use crate::support::bucket;

/// A job for each way to read, all of them on every worker.
const READERS: [(&str, &str); 9] = [
    ("variable", "{{ get('vars/job/variable', 'level') }}"),
    ("names", "{{ keys('vars/bucket') | join }}"),
    ("labels", "{{ get('maand/worker/' ~ worker_ip, 'labels') }}"),
    ("index", "{{ get('maand/job/index/worker/' ~ worker_ip, 'index_allocation_index') }}"),
    ("peers", "{{ get('maand/job/peers/worker/' ~ worker_ip, 'peer_workers') }}"),
    ("secret", "{{ get_optional('secrets/job/secret', 'password') }}"),
    ("certificate", "{{ get('maand/job/certificate/worker/' ~ worker_ip, 'certs/tls.crt') }}"),
    ("nothing", "{{ worker_ip }}"),
    ("optional", "{{ get_optional('vars/bucket', 'x') }}"),
];

#[test]
fn a_template_is_rendered_again_when_a_value_changes_that_it_read_and_not_before() {
    let bucket = bucket();
    let workers = |hosts: &[&str]| {
        let worker =
            |host: &&str| json!({"host": host, "labels": if *host == "w2" { json!(["x"]) } else { json!([]) }});
        bucket.write("workspace/workers.json", &json!(hosts.iter().map(worker).collect::<Vec<_>>()).to_string());
    };
    for (job, template) in READERS {
        let certs = if job == "certificate" { json!({"tls": {}}) } else { json!({}) };
        let manifest = json!({"selectors": ["worker"], "certs": certs});
        bucket.write(&format!("workspace/jobs/{job}/manifest.json"), &manifest.to_string());
        bucket.write(&format!("workspace/jobs/{job}/Makefile"), "start:\n");
        bucket.write(&format!("workspace/jobs/{job}/t.j2"), template);
    }
    let write = |path: &str, text: &str| bucket.write(&format!("workspace/{path}"), text);
    let stored = |namespace: &str, key: &str, value: &str| {
        let catalog = Connection::open(bucket.path("data/maand.db")).unwrap();
        kv::put(&catalog, namespace, key, value, 1_000_000).unwrap();
    };
    let secret = |value: &str| {
        let key = SealingKey::load(&bucket.path("secrets/kv.key")).unwrap();
        key.seal_value("secrets/job/secret", "password", value).unwrap()
    };
    let steps: &[(&str, &dyn Fn(), usize)] = &[
        ("first", &|| (workers(&["w1", "w3"]), write("jobs/variable/vars.toml", "level = \"1\"")).1, 18),
        ("nothing", &|| (), 0),
        ("a variable that nobody reads", &|| write("jobs/variable/vars.toml", "level = \"1\"\nother = \"1\""), 0),
        ("a variable", &|| write("jobs/variable/vars.toml", "level = \"2\"\nother = \"1\""), 2),
        ("another name", &|| write("bucket.conf", "y = \"1\""), 2),
        ("the value of a name", &|| write("bucket.conf", "y = \"2\""), 0),
        ("what was not there, and its name", &|| write("bucket.conf", "x = \"1\"\ny = \"2\""), 4),
        ("a file", &|| write("jobs/nothing/f", "1"), 0),
        ("a secret", &|| stored("secrets/job/secret", "password", &secret("s")), 2),
        ("a hook's variable", &|| stored("vars/job/nothing", "hooked", "1"), 0),
        // Everything is new on it, and a peer of the two others.
        ("a worker more", &|| workers(&["w1", "w3", "w4"]), 9 + 2),
        // Of what is left all indexes and peers.
        ("a worker less", &|| workers(&["w3", "w4"]), 2 + 2),
        ("another label elsewhere", &|| workers(&["w3", "w4", "w2"]), 9 + 2),
    ];
    for (what, edit, rendered) in steps {
        edit();
        assert_eq!(build(&bucket)["rendered"], *rendered, "{what}");
        assert_same(&rows(&bucket.path("data/maand.db")), &Cold::beside(&bucket).build(&bucket), what);
    }
}

#[test]
fn what_may_not_be_read_any_more_is_an_error_and_no_old_value() {
    let bucket = bucket();
    bucket.workers(&["w1".to_owned()], &[]);
    for (job, hooks) in [
        ("db", json!({"hook_up": {"executed_on": ["cli"]}})),
        ("app", json!({"hook_up": {"executed_on": ["cli"], "demands": {"job": "db", "hook": "hook_up"}}})),
    ] {
        let manifest = json!({"version": "1.0.0", "selectors": ["worker"], "hooks": hooks});
        bucket.write(&format!("workspace/jobs/{job}/manifest.json"), &manifest.to_string());
        bucket.write(&format!("workspace/jobs/{job}/Makefile"), "start:\n");
        bucket.write(&format!("workspace/jobs/{job}/_modules/hook_up.py"), "");
    }
    bucket.write("workspace/jobs/app/t.j2", UPSTREAM);
    build(&bucket);
    let manifest = json!({"version": "1.0.0", "selectors": ["worker"], "hooks": {"hook_up": {"executed_on": ["cli"]}}});
    bucket.write("workspace/jobs/app/manifest.json", &manifest.to_string());
    let said = bucket.maand(&["build"]).expect(3).stderr;
    assert!(said.contains("template reads a namespace that it may not read: maand/job/db"), "{said}");
}

#[test]
fn a_file_is_read_again_when_anything_tells_that_it_changed() {
    let bucket = bucket();
    bucket.workers(&["w1".to_owned()], &["api"]);
    bucket.write("workspace/jobs/api/manifest.json", "{}");
    bucket.write("workspace/jobs/api/Makefile", "start:\n");
    bucket.write("workspace/jobs/api/f", "one");
    let path = bucket.path("workspace/jobs/api/f");
    let bundle = || bucket.cat("deployments")[0]["current_hash"].clone();
    // A file is trusted once its times are so old that another edit would have moved them.
    let settle = || {
        poll::until("files to be old enough", poll::LONG, || match &build(&bucket)["files_read"] {
            read if *read == 0 => Ok(()),
            read => Err(read.to_string()),
        });
    };
    settle();
    let before = bundle();
    let times = std::fs::metadata(&path).unwrap().modified().unwrap();
    let back = || std::fs::File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
    std::fs::write(&path, "two").unwrap();
    back();
    assert_eq!(build(&bucket)["files_read"], 1, "of the same length and time, written in place");
    assert_ne!(bundle(), before);
    settle();
    bucket.write("other", "one");
    std::fs::rename(bucket.path("other"), &path).unwrap();
    back();
    assert_eq!(build(&bucket)["files_read"], 1, "of the same length and time, another file");
    assert_eq!(bundle(), before);
}
