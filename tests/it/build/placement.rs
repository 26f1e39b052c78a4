//! Workers, and what lands on them: 1 to 4, 6, 7 and 12.

use serde_json::{Value, json};

use super::{active, build, column, job, keys, must, refused, shown, value, workspace};

#[test]
fn a_fresh_bucket_builds_without_workers() {
    let bucket = workspace(&json!([]), &[]);
    build(&bucket);
    let info: Value = serde_json::from_str(&bucket.maand(&["info", "--json"]).expect(0).stdout).unwrap();
    assert_eq!(must(&bucket, "maand/bucket", "bucket_id"), info["bucket_id"].as_str().unwrap());
    assert_eq!(
        (must(&bucket, "maand/bucket", "jobs"), must(&bucket, "maand/bucket", "activejobs")),
        Default::default()
    );
    assert_eq!(keys(&bucket, "maand/worker"), ["certs/ca.crt"]);
    assert_eq!(must(&bucket, "vars/bucket", "port_min"), "30000");
    std::fs::remove_file(bucket.path("workspace/workers.json")).unwrap();
    build(&bucket);
}

#[test]
fn every_worker_has_the_label_worker() {
    let bucket = workspace(&json!([{"host": "w1", "hostname": "one", "tags": {" Zone ": "A"}}, {"host": "w0"}]), &[]);
    build(&bucket);
    let labels = column(&bucket, "workers", &["worker_ip"], "labels");
    assert_eq!(labels, [("w1".to_owned(), json!(["worker"])), ("w0".to_owned(), json!(["worker"]))], "in file order");
    for (key, expected) in
        [("worker_workers", "w1,w0"), ("worker_workers_length", "2"), ("worker_0", "w1"), ("worker_1", "w0")]
    {
        assert_eq!(must(&bucket, "maand/worker", key), expected);
    }
    assert_eq!(must(&bucket, "maand/worker", "worker_label_id").len(), 36);
    for (key, expected) in [
        ("worker_ip", "w1"),
        ("labels", "worker"),
        ("position", "0"),
        ("hostname", "one"),
        ("worker_peers", "w0"),
        ("worker_allocation_index", "0"),
        ("worker_memory_mb", "0"),
    ] {
        assert_eq!(must(&bucket, "maand/worker/w1", key), expected, "{key}");
    }
    assert_eq!(value(&bucket, "maand/worker/w0", "hostname"), None);
    assert_eq!(must(&bucket, "maand/worker/w1/tags", "zone"), "a");
    assert_eq!(column(&bucket, "workers", &["worker_ip"], "zone")[0].1, "a");
}

#[test]
fn a_broken_workers_json_is_refused_and_the_catalog_stays() {
    let bucket = workspace(&json!([{"host": "w1"}]), &[]);
    build(&bucket);
    let before = shown(&bucket);
    for (text, said) in [
        (r#"[{"host": "w1"}, {"host": " w1"}]"#, &["MD0023", "workspace/workers.json [1].host"][..]),
        (r#"[{"host": " "}]"#, &["MD0022", "[0].host"]),
        ("{}", &["MD0022", "expected a list of workers"]),
        (r#"[{"host": "w1", "labels": [7]}]"#, &["MD0022", "[0].labels[0]"]),
        ("", &["MD0020", "workspace/workers.json:1"]),
    ] {
        bucket.write("workspace/workers.json", text);
        refused(&bucket, said);
    }
    assert_eq!(shown(&bucket), before);
}

#[test]
fn every_selector_has_to_be_a_label() {
    let workers = json!([
        {"host": "both", "labels": ["gpu", "worker"]},
        {"host": "gpu", "labels": ["gpu"]},
        {"host": "own", "labels": ["api"]},
    ]);
    let jobs = [
        ("api", json!({})),
        ("render", json!({"selectors": ["worker", "gpu"]})),
        ("both", json!({"selectors": ["gpu", "api"]})),
    ];
    let bucket = workspace(&workers, &jobs);
    build(&bucket);
    assert_eq!(active(&bucket), ["api own", "render both", "render gpu"]);
    assert_eq!(must(&bucket, "maand/job/render", "workers"), "both,gpu");
    assert_eq!(must(&bucket, "maand/job/both", "workers_length"), "0");
    assert_eq!(must(&bucket, "maand/bucket", "jobs"), "api,both,render");
    assert_eq!(must(&bucket, "maand/bucket", "activejobs"), "api,render");
    assert_eq!(must(&bucket, "maand/worker/gpu", "jobs"), "render");
    for (key, expected) in [("render_allocation_index", "1"), ("peer_workers", "both"), ("version", "0.0.0")] {
        assert_eq!(must(&bucket, "maand/job/render/worker/gpu", key), expected);
    }
}

#[test]
fn workers_have_to_have_what_is_reserved_on_them() {
    let reserving = json!({"resources": {"memory": {"min": "256 mb", "max": "1 gb"}, "cpu": {"max": 500}}});
    let bucket = workspace(&json!([{"host": "w1", "labels": ["api"], "cpu": "1 ghz"}]), &[("api", reserving)]);
    refused(&bucket, &["MD0034", "worker w1 must declare memory", "\"memory\": \"1024 mb\""]);
    bucket.write("workspace/workers.json", r#"[{"host": "w1", "labels": ["api"], "cpu": "1 ghz", "memory": 1000}]"#);
    refused(&bucket, &["MD0034", "worker w1 has 1000 mb of memory, its jobs reserve 1024 mb"]);
    bucket.write("workspace/disabled.json", r#"{"jobs": {"api": {}}}"#);
    build(&bucket);
    assert_eq!(active(&bucket), [""; 0]);
    assert_eq!(column(&bucket, "jobs", &["job"], "disabled"), [("api".to_owned(), json!(true))]);
    assert_eq!(must(&bucket, "maand/job/api", "max_memory_mb"), "1024");
}

#[test]
fn a_terabyte_is_written_out() {
    let bucket = workspace(
        &json!([{"host": "w1", "labels": ["api"], "memory": "2 tb"}]),
        &[("api", json!({"resources": {"memory": {"min": "1 tb"}}}))],
    );
    build(&bucket);
    assert_eq!(must(&bucket, "maand/job/api", "memory"), "1048576");
    assert_eq!(must(&bucket, "maand/worker/w1", "worker_memory_mb"), "2097152");
    assert_eq!(column(&bucket, "jobs", &["job"], "memory")[0].1, "1048576 mb (manifest)");
}

#[test]
fn drained_allocations_count_for_the_least_number() {
    let bucket =
        workspace(&json!([{"host": "w1", "labels": ["api"]}]), &[("api", json!({"min_allocations_count": 2}))]);
    refused(&bucket, &["MD0033", "job api has 1 allocations", "workspace/jobs/api/manifest.json"]);
    bucket.workers(&["w1".to_owned(), "w2".to_owned()], &["api"]);
    bucket.write("workspace/disabled.json", r#"{"workers": ["w2"]}"#);
    build(&bucket);
    assert_eq!(active(&bucket), ["api w1"]);
    assert_eq!(must(&bucket, "maand/job/api", "workers"), "w1", "only what is active");
    assert_eq!(must(&bucket, "maand/job/api/worker/w1", "peer_workers"), "w2", "a drained one is still a peer");
}

#[test]
fn disabled_json_drains_by_job_and_by_worker() {
    let bucket =
        workspace(&json!([]), &[("api", json!({"selectors": ["worker"]})), ("db", json!({"selectors": ["worker"]}))]);
    bucket.workers(&["w1".to_owned(), "w2".to_owned(), "w3".to_owned()], &[]);
    bucket.write("workspace/disabled.json", r#"{"jobs": {"api": {"allocations": ["w1"]}}, "workers": ["w3"]}"#);
    build(&bucket);
    assert_eq!(active(&bucket), ["api w2", "db w1", "db w2"]);
    bucket.write("workspace/disabled.json", r#"{"jobs": {"api": {"allocations": []}}}"#);
    build(&bucket);
    assert_eq!(active(&bucket), ["db w1", "db w2", "db w3"]);
    bucket.write("workspace/disabled.json", r#"{"jobs": {"apo": {}}, "workers": []}"#);
    refused(&bucket, &["MD0030", "workspace/disabled.json jobs.apo", "did you mean \"api\"?"]);
}

#[test]
fn a_host_that_is_taken_out_is_removed_and_its_values_with_it() {
    let bucket = workspace(&json!([]), &[("api", json!({"selectors": ["worker"]}))]);
    bucket
        .write("workspace/workers.json", r#"[{"host": "w1", "tags": {"zone": "a"}}, {"host": "w2"}, {"host": "w3"}]"#);
    build(&bucket);
    let id = must(&bucket, "maand/worker/w1", "worker_id");
    bucket.write("workspace/workers.json", r#"[{"host": "w2"}, {"host": "w3"}]"#);
    build(&bucket);
    let removed = column(&bucket, "allocations", &["worker_ip"], "removed");
    assert_eq!(
        removed,
        [("w2".to_owned(), json!(false)), ("w3".to_owned(), json!(false)), ("w1".to_owned(), json!(true))],
        "in worker order, those without a worker last"
    );
    for namespace in ["maand/worker/w1", "maand/worker/w1/tags", "maand/job/api/worker/w1"] {
        assert_eq!(keys(&bucket, namespace), [""; 0], "{namespace}");
    }
    assert_eq!(must(&bucket, "maand/job/api/worker/w2", "peer_workers"), "w3");
    assert_eq!(must(&bucket, "maand/job/api/worker/w2", "api_allocation_index"), "0");
    let word = column(&bucket, "deployments", &["worker_ip"], "rollout").remove(2);
    assert_eq!(word, ("w1".to_owned(), json!("removed")));
    // Back again it is another worker.
    bucket.write("workspace/workers.json", r#"[{"host": "w1"}, {"host": "w2"}, {"host": "w3"}]"#);
    build(&bucket);
    assert_ne!(must(&bucket, "maand/worker/w1", "worker_id"), id);
    assert_eq!(active(&bucket), ["api w1", "api w2", "api w3"]);
}

#[test]
fn a_job_without_allocations_left_has_no_values_of_build_left() {
    let bucket = workspace(&super::one_worker(), &[("api", json!({})), ("never", json!({}))]);
    bucket.write("workspace/bucket.jobs.conf", "[api]\nmemory = 0\ncolour = \"red\"\n");
    build(&bucket);
    assert!(!keys(&bucket, "maand/job/api").is_empty());
    bucket.write("workspace/workers.json", r#"[{"host": "w1"}]"#);
    build(&bucket);
    for namespace in ["maand/job/api", "vars/bucket/job/api", "maand/job/api/worker/w1"] {
        assert_eq!(keys(&bucket, namespace), [""; 0], "{namespace}");
    }
    assert!(!keys(&bucket, "maand/job/never").is_empty(), "it never had any: nothing was removed");
    bucket.write("workspace/workers.json", &super::one_worker().to_string());
    build(&bucket);
    assert_eq!(must(&bucket, "maand/job/api", "workers"), "w1");
    assert_eq!(must(&bucket, "vars/bucket/job/api", "colour"), "red");
    job(&bucket, "api", &json!({"version": "2"}));
    build(&bucket);
    assert_eq!(must(&bucket, "maand/job/api/worker/w1", "version"), "2.0.0");
}
