//! examples/cluster, as it stands there but for its addresses: three nodes that hooks make a cluster of.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{agents, bucket, hosts};

/// Copies a directory of the example into the bucket.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn the_cluster_of_the_examples_boots_and_its_leader_goes_last() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 3);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/cluster/workspace");
    copy(&example, &bucket.path("workspace"));
    let mut workers = bucket.read("workspace/workers.json");
    for (n, host) in hosts.iter().enumerate() {
        workers = workers.replace(&format!("127.0.0.{}", n + 2), host);
    }
    bucket.write("workspace/workers.json", &workers);
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    agents.iter().for_each(|agent| agent.wait_online(&bucket));

    let dry = bucket.maand(&["deploy", "--dry-run"]).expect(0).stdout;
    assert!(dry.contains("deployment required") && dry.matches(" start ").count() == 3, "{dry}");
    assert_eq!(super::live(&bucket, "secrets/job/store"), [], "a dry run makes no password");

    let deployed = bucket.maand(&["deploy", "--verbose"]).expect(0).stderr;
    assert!(deployed.contains(&format!("leader: {}", hosts[0])), "{deployed}");
    for host in &hosts {
        assert!(deployed.contains(&format!("store@{host} | written through {host}, read from 3 nodes")), "{deployed}");
    }
    let node: Value = serde_json::from_str(&agents[2].read("store", "node.json")).unwrap();
    assert_eq!((&node["leader"], &node["nodes"]), (&json!(hosts[0]), &json!(hosts)));
    let password = node["password"].as_str().unwrap().to_owned();
    assert_eq!(password.len(), 48);
    assert!(!deployed.contains(&password));
    let log = bucket.read(&format!("logs/{}.log", hosts[0]));
    assert!(!log.contains(&password), "nothing that is logged says it");

    // Another version: followers first, the leader last, the password stays.
    let manifest = bucket.read("workspace/jobs/store/manifest.json");
    bucket.write("workspace/jobs/store/manifest.json", &manifest.replace("1.0.0", "1.1.0"));
    bucket.maand(&["build"]).expect(0);
    let deployed = bucket.maand(&["deploy"]).expect(0).stderr;
    let restarted: Vec<&str> =
        deployed.lines().filter_map(|line| line.strip_suffix(" | restart released")?.strip_prefix("store@")).collect();
    assert_eq!(restarted, [&hosts[1], &hosts[2], &hosts[0]]);
    let node: Value = serde_json::from_str(&agents[1].read("store", "node.json")).unwrap();
    assert_eq!((&node["version"], node["password"].as_str().unwrap()), (&json!("1.1.0"), password.as_str()));
    bucket.maand(&["hooks", "hook_smoke", "store"]).expect(0);
    bucket.maand(&["health_check"]).expect(0);

    // The leader is drained: another one leads, and the others know.
    bucket.write("workspace/disabled.json", &json!({"jobs": {"store": {"allocations": [hosts[0]]}}}).to_string());
    bucket.maand(&["build"]).expect(0);
    bucket.maand(&["deploy"]).expect(0);
    let node: Value = serde_json::from_str(&agents[2].read("store", "node.json")).unwrap();
    assert_eq!((&node["leader"], &node["nodes"]), (&json!(hosts[1]), &json!(hosts[1..])));

    // Nothing of it is left running.
    bucket.maand(&["job", "stop", "store"]).expect(0);
    agents.iter_mut().for_each(|agent| assert!(agent.process().stop(super::deploy::DEPLOY).success()));
}
