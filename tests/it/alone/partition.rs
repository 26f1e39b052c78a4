//! A link that is dead in one direction, and says so to nobody: what comes late is not done.

use std::time::Duration;

use harness::link::{Link, Way};
use harness::poll;
use serde_json::json;

use crate::rollout::Fleet;

/// Deploys while one direction of agent 0's link is dead, opens it when the deploy has gone on without it, and asks
/// what the agent made of what came late.
fn one_direction_is_dead(way: Way) {
    let mut fleet = Fleet::new(2);
    fleet.bucket.setting("pickup_timeout = 2");
    fleet.job("api", json!({"max_unreachable": 1}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    let link = Link::to(&fleet.bucket);
    fleet.agents[0].kill();
    link.carries(&fleet.agents[0]);
    fleet.agents[0].start();
    fleet.agents[0].wait_online(&fleet.bucket);
    // Until its poll waits: it has said that it accepted the newest, and nothing more is said.
    fleet.bucket.maand(&["agent", "ping", &fleet.hosts[0], "--timeout", "30"]).expect(0);
    let mut seen = (0, 0);
    poll::until("its poll to wait", poll::LONG, || {
        let before = std::mem::replace(&mut seen, (link.bytes(Way::Up), link.bytes(Way::Down)));
        std::thread::sleep(Duration::from_millis(500));
        let why = fleet.bucket.maand(&["why", &fleet.hosts[0]]).expect(0).stdout;
        let fence = |fact: &str| {
            let line = why.lines().find_map(|line| line.trim().strip_prefix(fact))?;
            line.split([' ', ',']).find(|word| !word.is_empty()).map(str::to_owned)
        };
        let is_told = fence("told").is_some() && fence("told") == fence("accepted");
        if is_told && seen == before { Ok(()) } else { Err((seen, why)) }
    });
    link.silence(way);
    fleet.edit(&["api"], "2");
    let deploy = fleet.bucket.maand(&["deploy"]).expect(0);
    assert!(deploy.stderr.contains("deferred until its agent is back"), "{deploy:?}");
    match way {
        Way::Up => assert!(link.bytes(Way::Down) > seen.1, "it was told"),
        Way::Down => assert_eq!(link.bytes(Way::Down), seen.1, "it was not told"),
    }
    let row = fleet.bucket.cat("deployments")[0].clone();
    assert!(row["agent"].as_str().unwrap_or_default().starts_with("deferred since 20"), "{row}");
    link.flow(way);
    fleet.bucket.maand(&["agent", "ping", &fleet.hosts[0], "--timeout", "30"]).expect(0);
    let said = fleet.agents[0].process().printed();
    assert!(said.contains("desired_superseded"), "{said}");
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\n", "its batch was given up");
    assert_eq!(fleet.agents[0].read("api", "conf/app"), "", "and its files are not there");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\nrestart 0.0.0 0.0.0\n", "once");
    assert_eq!(fleet.words("api"), ["promoted", "promoted"]);
}

#[test]
fn a_release_that_reached_an_agent_that_could_not_ask_back_is_not_begun() {
    one_direction_is_dead(Way::Up);
}

#[test]
fn a_release_that_comes_when_it_was_taken_back_is_not_begun() {
    one_direction_is_dead(Way::Down);
}
