//! Ports: 8.

use harness::bucket::Bucket;
use serde_json::{Value, json};

use super::{build, job, keys, must, one_worker, refused, value, workspace};

fn ports(bucket: &Bucket) -> Vec<(String, u64)> {
    let rows = bucket.cat("ports");
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (row["name"].as_str().unwrap().to_owned(), row["port"].as_u64().unwrap())).collect()
}

fn asking(ports: &Value) -> Value {
    json!({"selectors": ["api"], "resources": {"ports": ports}})
}

fn named(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
    pairs.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect()
}

#[test]
fn a_dynamic_port_keeps_its_number_and_gives_it_back() {
    let bucket = workspace(&one_worker(), &[("web", asking(&json!({"web_http": {}})))]);
    bucket.write("workspace/bucket.conf", "port_min = 31000\nport_max = \"31002\"\n");
    build(&bucket);
    assert_eq!(ports(&bucket), named(&[("web_http", 31000)]));
    // A job that comes before it in the alphabet takes nothing away.
    job(&bucket, "api", &asking(&json!({"api_http": {}, "api_fixed": 8080})));
    build(&bucket);
    assert_eq!(ports(&bucket), named(&[("api_fixed", 8080), ("api_http", 31001), ("web_http", 31000)]));
    assert_eq!(must(&bucket, "maand/bucket", "api_http"), "31001");
    assert_eq!(must(&bucket, "maand/bucket", "api_fixed"), "8080", "outside of the pool is fine");
    // Dropped, its number is free at once.
    job(&bucket, "web", &asking(&json!({"web_admin": {}})));
    build(&bucket);
    assert_eq!(ports(&bucket), named(&[("api_fixed", 8080), ("api_http", 31001), ("web_admin", 31000)]));
    assert_eq!(value(&bucket, "maand/bucket", "web_http"), None);
    // From a number outside of the pool to any: into the pool.
    job(&bucket, "api", &asking(&json!({"api_http": {}, "api_fixed": {}})));
    build(&bucket);
    assert_eq!(ports(&bucket), named(&[("api_fixed", 31002), ("api_http", 31001), ("web_admin", 31000)]));
}

#[test]
fn braces_with_a_blank_between_are_any_port() {
    let bucket = workspace(&one_worker(), &[("api", json!({}))]);
    bucket.write("workspace/jobs/api/manifest.json", r#"{"resources": {"ports": {"api_http": { }, "p2": {}}}}"#);
    build(&bucket);
    assert_eq!(ports(&bucket), named(&[("api_http", 30000), ("p2", 30001)]));
}

#[test]
fn a_pin_never_meets_a_number_of_the_pool() {
    let bucket = workspace(&one_worker(), &[("api", asking(&json!({"any": {}})))]);
    build(&bucket);
    assert_eq!(ports(&bucket), named(&[("any", 30000)]));
    job(&bucket, "web", &asking(&json!({"pin": 30000})));
    build(&bucket);
    assert_eq!(ports(&bucket), named(&[("any", 30001), ("pin", 30000)]), "the pin wins");
    // Two fixed numbers may change places in one edit.
    job(&bucket, "api", &asking(&json!({"any": 30000})));
    job(&bucket, "web", &asking(&json!({"pin": 30001})));
    build(&bucket);
    assert_eq!(ports(&bucket), named(&[("any", 30000), ("pin", 30001)]));
}

#[test]
fn two_owners_of_a_number_or_name_are_refused() {
    let bucket =
        workspace(&one_worker(), &[("api", asking(&json!({"a": 8080}))), ("web", asking(&json!({"b": 8080})))]);
    refused(&bucket, &["MD0031", "port 8080 is taken by api a already", "workspace/jobs/web/manifest.json"]);
    job(&bucket, "web", &asking(&json!({"a": {}})));
    refused(&bucket, &["MD0031", "port name \"a\" is job api's already"]);
    job(&bucket, "web", &asking(&json!({"b": {}, "c": {}})));
    bucket.write("workspace/bucket.conf", "port_min = 31000\nport_max = 31000\n");
    refused(&bucket, &["MD0032", "no port from 31000 to 31000 is free", "bucket.conf"]);
}

#[test]
fn a_drained_job_still_reads_its_own_port() {
    let bucket = workspace(&one_worker(), &[("api", asking(&json!({"api_http": {}})))]);
    bucket.write("workspace/jobs/api/app.conf.j2", "port={{ get(\"maand/bucket\", \"api_http\") }}\n");
    bucket.write("workspace/disabled.json", r#"{"jobs": {"api": {}}}"#);
    build(&bucket);
    assert_eq!(must(&bucket, "maand/bucket", "api_http"), "30000");
    assert_eq!(must(&bucket, "maand/bucket", "activejobs"), "");
    // Once it is on no worker, it is on no list of ports either.
    bucket.write("workspace/disabled.json", "{}");
    job(&bucket, "api", &json!({"selectors": ["nowhere"], "resources": {"ports": {"api_http": {}}}}));
    std::fs::remove_file(bucket.path("workspace/jobs/api/app.conf.j2")).unwrap();
    build(&bucket);
    assert!(!keys(&bucket, "maand/bucket").contains(&"api_http".to_owned()));
}
