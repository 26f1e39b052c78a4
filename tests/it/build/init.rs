//! What `maand init` makes, and one build at a time.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::{one_worker, workspace};
use crate::support::bare;

#[test]
fn init_makes_what_is_missing_and_keeps_keys_to_their_owner() {
    let bucket = bare();
    let made: Value = serde_json::from_str(&bucket.maand(&["init", "--json"]).expect(0).stdout).unwrap();
    let id = made["bucket_id"].as_str().unwrap().to_owned();
    for path in made["made"].as_array().unwrap() {
        assert!(bucket.path(path.as_str().unwrap()).exists(), "{path}");
    }
    let mode = |path: &str| std::fs::metadata(bucket.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("secrets"), mode("data")), (0o700, 0o700));
    for file in ["ca.crt", "ca.key", "agent-ca.crt", "agent-ca.key", "kv.key"] {
        assert_eq!(mode(&format!("secrets/{file}")), 0o600, "{file}");
    }
    assert_eq!(std::fs::read(bucket.path("secrets/kv.key")).unwrap().len(), 32);
    assert_eq!(bucket.read("workspace/workers.json"), "[]\n");
    // One thing lost, one thing edited: the one is made, the other stays.
    bucket.write("workspace/workers.json", "[{\"host\": \"w1\"}]\n");
    std::fs::remove_file(bucket.path("workspace/bucket.conf")).unwrap();
    let ca = bucket.read("secrets/ca.crt");
    let made: Value = serde_json::from_str(&bucket.maand(&["init", "--json"]).expect(0).stdout).unwrap();
    assert_eq!((made["bucket_id"].as_str(), &made["made"]), (Some(id.as_str()), &json!(["workspace/bucket.conf"])));
    assert_eq!(
        (bucket.read("secrets/ca.crt"), bucket.read("workspace/workers.json")),
        (ca, "[{\"host\": \"w1\"}]\n".into())
    );
    bucket.maand(&["build"]).expect(0);
}

#[test]
fn one_build_at_a_time() {
    let bucket = workspace(&one_worker(), &[("api", json!({}))]);
    super::build(&bucket);
    let lock = std::fs::File::options().write(true).open(bucket.path("data/build.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let busy = bucket.maand(&["build"]).expect(1);
    assert!(busy.stderr.contains("MD0007") && busy.stderr.contains("wait for it"), "{}", busy.stderr);
    drop(lock);
    super::build(&bucket);
}
