//! Two workers in network namespaces of their own, one of them behind a NAT that lets nothing in.

use harness::agents::Agent;
use harness::namespace::{CONTROLLER, Network};

use crate::support::bucket;

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
