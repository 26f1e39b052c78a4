//! What a rollout asked for begins only while the controller's word for it is fresh.

use std::time::Duration;

use harness::poll;
use serde_json::{Value, json};

use crate::rollout::Fleet;

fn fleet(pickup_s: u64) -> Fleet {
    let mut fleet = Fleet::new(2);
    fleet.bucket.setting(&format!("pickup_timeout = {pickup_s}"));
    fleet.job("api", json!({"max_unreachable": 1}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet
}

/// Kills agent 0 when it has accepted the restart of a deploy, which goes on without it.
fn accepted_and_ended(fleet: &mut Fleet) -> harness::process::Running {
    fleet.agents[0].kill();
    fleet.agents[0].start_with(&[("MAAND_FAILPOINT", "accept::after")]);
    fleet.agents[0].wait_online(&fleet.bucket);
    fleet.edit(&["api"], "2");
    let deploy = fleet.bucket.start("deploy", &["deploy"]);
    fleet.agents[0].process().wait(Duration::from_secs(60));
    deploy
}

#[test]
fn an_agent_that_ended_with_a_state_in_hand_asks_before_it_acts_on_it() {
    let mut fleet = fleet(2);
    let mut deploy = accepted_and_ended(&mut fleet);
    assert_eq!(deploy.wait(Duration::from_secs(90)).code(), Some(0), "{}", deploy.printed());
    assert!(deploy.printed().contains("deferred until its agent is back"), "{}", deploy.printed());
    let seq = fleet.update_seq();
    fleet.agents[0].start();
    poll::until("the agent to have heard of the newest state", poll::LONG, || {
        let agent = fleet.bucket.cat("agents")[0].clone();
        let told = fleet.worker_json(0);
        if agent["update_seq"] == seq && told["generation"].as_u64() >= Some(4) {
            Ok(())
        } else {
            Err(format!("{agent} {told}"))
        }
    });
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\n", "its batch was given up");
    assert_eq!(fleet.agents[0].read("api", "conf/app"), "", "and its files are not there");
    assert_eq!(fleet.words("api"), ["restart", "promoted"]);
}

#[test]
fn with_the_controller_away_nothing_is_begun_and_what_still_holds_is_when_it_is_back() {
    let mut fleet = fleet(60);
    let mut deploy = accepted_and_ended(&mut fleet);
    fleet.serve.take().unwrap().stop(Duration::from_secs(20));
    fleet.agents[0].start();
    let log = fleet.bucket.dir().join("agents").join(&fleet.hosts[0]).join("agent.log");
    poll::until("the agent to say why it does nothing", poll::LONG, || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains("not begun: the controller is asked first whether it still holds") {
            Ok(())
        } else {
            Err(said)
        }
    });
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\n");
    fleet.serve = Some(fleet.bucket.serve());
    assert_eq!(deploy.wait(Duration::from_secs(90)).code(), Some(0), "{}", deploy.printed());
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\nrestart 0.0.0 0.0.0\n", "once");
    assert_eq!(fleet.words("api"), ["promoted", "promoted"]);
    assert_eq!(fleet.bucket.cat("deployments")[0]["agent"], Value::Null);
}
