//! Two workers in network namespaces of their own, one of them behind a NAT that lets nothing in.

use harness::agents::Agent;
use harness::namespace::{CONTROLLER, Network};

use crate::support::bucket;

#[test]
fn a_file_that_a_container_has_mounted_is_found() {
    use agent::apply::{plan::Before, survey, tree::Tree};

    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("jobs/api");
    std::fs::create_dir_all(&job).unwrap();
    for name in ["app.conf", "other.conf"] {
        std::fs::write(job.join(name), "1").unwrap();
    }
    std::fs::write(dir.path().join("target"), "").unwrap();
    // A mount namespace of its own, as a container has, with one file mounted into it.
    let script = "mount --bind jobs/api/app.conf target && touch ready && exec sleep 60";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).current_dir(dir.path());
    let mut container = harness::process::Running::start("container", command, &dir.path().join("log"));
    let ready = harness::poll::until("the mount", harness::poll::LONG, || match container.ended() {
        Some(status) => Ok(Err(status)),
        None if dir.path().join("ready").exists() => Ok(Ok(())),
        None => Err(container.printed()),
    });
    if let Err(status) = ready {
        assert!(std::env::var_os("MAAND_CI").is_none(), "{status}: {}", container.printed());
        println!("skipped: mount namespaces are not permitted here: {}", container.printed());
        return;
    }
    let entry = |name: &str| shared::Entry {
        path: name.parse().unwrap(),
        mode: 0o644,
        len: 1,
        blob: shared::BlobDigest::of(b"1"),
        private: false,
    };
    let bundle = shared::Bundle::new(vec![entry("app.conf"), entry("other.conf")]).unwrap();
    let tree = Tree::open(&job, false).unwrap();
    let before = Before::whole(&bundle, 0);
    let mut survey_of = survey::survey(&tree, &before, &bundle).unwrap();
    survey::mounted(&tree, &job, &mut survey_of);
    assert_eq!(survey_of.mounted.iter().map(shared::RelPath::as_str).collect::<Vec<_>>(), ["app.conf"]);
}

#[test]
fn a_worker_behind_a_nat_deploys_like_one_beside_the_controller() {
    let network = match Network::new() {
        Ok(network) => network,
        Err(why) => {
            println!("skipped: network namespaces are not permitted here: {why}");
            return;
        }
    };
    assert!(network.succeeds("controller", &["ip", "route", "get", "10.200.1.254"]), "the router is there");
    assert!(!network.succeeds("controller", &["ip", "route", "get", "192.168.77.2"]), "no way leads to the far worker");
    let bucket = bucket();
    let address = CONTROLLER.parse().unwrap();
    bucket.listen_on(address, address);
    let hosts = ["near".to_owned(), "far".to_owned()];
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &serde_json::json!({"selectors": ["all"], "version": "1"}));
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve_in(&network.enter("controller"));
    let mut agents = Vec::new();
    for host in &hosts {
        let enter = network.enter(host);
        let mut agent = Agent::prepare(&bucket, host, &enter.each_ref().map(String::as_str));
        agent.enrol(&bucket).expect(0);
        agent.start();
        agents.push(agent);
    }
    bucket.maand(&["deploy"]).expect(0);
    bucket.recording_job("api", &serde_json::json!({"selectors": ["all"], "version": "2"}));
    bucket.maand(&["deploy", "--build"]).expect(0);
    for agent in &agents {
        assert_eq!(agent.read("api", "data/ran"), "start 0.0.0 1.0.0\nrestart 1.0.0 2.0.0\n", "on {}", agent.host);
    }
    assert!(bucket.rollouts().iter().all(|(_, _, word)| word == "promoted"));
}
