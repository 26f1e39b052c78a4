//! bucket.jobs*.conf and bucket.conf: 5.

use serde_json::json;

use super::{build, column, must, one_worker, refused, value, workspace};

#[test]
fn the_selected_file_overrides_what_a_job_reserves() {
    let workers = json!([{"host": "w1", "labels": ["api", "db"], "memory": "4 gb", "cpu": "4 ghz"}]);
    let api = json!({"resources": {"memory": {"min": "256 mb", "max": "1 gb"}}});
    let bucket = workspace(&workers, &[("api", api), ("db", json!({}))]);
    bucket.write("workspace/bucket.jobs.conf", "[api]\nmemory = \"300 mb\"\n");
    bucket.write(
        "workspace/bucket.jobs.prod.conf",
        "[api]\nmemory = \"512 mb\"\nreplicas = 3\n[db]\nmemory = \"2 GB\"\ncpu = \"1.5 ghz\"\n",
    );
    build(&bucket);
    assert_eq!(column(&bucket, "jobs", &["job"], "memory")[0].1, "300 mb (bucket.jobs.conf)");

    bucket.setting("job_config_selector = \"prod\"");
    build(&bucket);
    let memory: Vec<_> = column(&bucket, "jobs", &["job"], "memory").into_iter().map(|(_, text)| text).collect();
    assert_eq!(memory, ["512 mb (bucket.jobs.prod.conf)", "2048 mb (bucket.jobs.prod.conf)"]);
    assert_eq!(column(&bucket, "jobs", &["job"], "cpu")[1].1, "1500 mhz (bucket.jobs.prod.conf)");
    for (job, key, expected) in [
        ("api", "memory", "512"),
        ("api", "min_memory_mb", "256"),
        ("api", "max_memory_mb", "1024"),
        ("db", "memory", "2048"),
        ("db", "min_memory_mb", "2048"),
        ("db", "max_memory_mb", "2048"),
        ("db", "max_cpu_mhz", "1500"),
    ] {
        assert_eq!(must(&bucket, &format!("maand/job/{job}"), key), expected, "{job} {key}");
    }
    assert_eq!(must(&bucket, "vars/bucket/job/api", "replicas"), "3", "every key is a variable");

    bucket.write("workspace/bucket.jobs.prod.conf", "[api]\nmemory = \"255 mb\"\n");
    refused(
        &bucket,
        &["MD0022", "255 is not within the manifest's bounds, 256 to 1024", "bucket.jobs.prod.conf api.memory"],
    );
    bucket.write("workspace/bucket.jobs.prod.conf", "[api]\nmemory = \"2 gb\"\n");
    refused(&bucket, &["MD0022", "2048 is not within"]);
    std::fs::remove_file(bucket.path("workspace/bucket.jobs.prod.conf")).unwrap();
    refused(&bucket, &["MD0011", "bucket.jobs.prod.conf", "job_config_selector"]);
}

#[test]
fn variables_of_the_bucket_follow_their_file() {
    let bucket = workspace(&one_worker(), &[("api", json!({}))]);
    bucket.write("workspace/bucket.conf", "region = \" eu \"\nretries = 3\nratio = 0.5\ndebug = true\n");
    build(&bucket);
    for (key, expected) in [("region", "eu"), ("retries", "3"), ("ratio", "0.5"), ("debug", "true")] {
        assert_eq!(must(&bucket, "vars/bucket", key), expected);
    }
    bucket.write("workspace/bucket.conf", "region = \"us\"\n");
    build(&bucket);
    assert_eq!(must(&bucket, "vars/bucket", "region"), "us");
    assert_eq!(value(&bucket, "vars/bucket", "retries"), None, "a key that is gone is gone");
    bucket.write("workspace/bucket.conf", "[table]\na = 1\n");
    refused(&bucket, &["MD0022", "workspace/bucket.conf table"]);
}
