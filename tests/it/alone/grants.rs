//! What a rollout asked for begins only while the controller's word for it is fresh.

use std::time::Duration;

use harness::link::{Link, Way};
use harness::poll;
use rustix::process::Signal;
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

/// Waits until agent `n` stands still at its `MAAND_STOPPOINT`.
fn stands_still(fleet: &Fleet, n: usize) {
    let stat = format!("/proc/{}/stat", fleet.agents[n].pid());
    poll::until("the agent to stand still", poll::LONG, || {
        let stat = std::fs::read_to_string(&stat).unwrap();
        if stat.rsplit(") ").next().unwrap().starts_with('T') { Ok(()) } else { Err(stat) }
    });
}

fn log(fleet: &Fleet, n: usize) -> String {
    let log = fleet.bucket.dir().join("agents").join(&fleet.hosts[n]).join("agent.log");
    std::fs::read_to_string(log).unwrap_or_default()
}

/// The deploy has gone on without agent `n`, and says so.
fn is_deferred(fleet: &Fleet, n: usize) {
    let agent = fleet.bucket.cat("deployments")[n]["agent"].as_str().unwrap_or_default().to_owned();
    assert!(agent.starts_with("deferred since 20"), "{agent}");
    let why = fleet.bucket.maand(&["why", &fleet.hosts[n], "api"]).expect(0).stdout;
    assert!(why.contains("accepted     1.1.") && why.contains("told         1.2."), "{why}");
}

const STARTED: &str = "start 0.0.0 0.0.0\n";
const BOTH: &str = "start 0.0.0 0.0.0\nrestart 0.0.0 0.0.0\n";

/// A machine that is frozen, or asleep, between the controller's word and the restart: nothing but the agent's own
/// clock tells it, when it goes on, that the word is too old.
#[test]
fn an_agent_that_stood_still_over_its_lease_does_not_begin_what_was_given_up() {
    let mut fleet = fleet(2);
    fleet.agents[0].kill();
    fleet.agents[0].start_with(&[("MAAND_STOPPOINT", "accept::granted")]);
    fleet.agents[0].wait_online(&fleet.bucket);
    // No file changes: there is nothing to be fetched, and the restart could begin at once.
    let mut deploy = fleet.bucket.start("deploy", &["deploy", "--force"]);
    stands_still(&fleet, 0);
    assert_eq!(deploy.wait(Duration::from_secs(90)).code(), Some(0), "{}", deploy.printed());
    is_deferred(&fleet, 0);
    fleet.agents[0].process().signal(Signal::CONT);
    fleet.bucket.maand(&["agent", "ping", &fleet.hosts[0], "--timeout", "30"]).expect(0);
    assert_eq!(fleet.agents[0].read("api", "data/ran"), STARTED);
    // What was given up is done when it is asked for again, once.
    fleet.bucket.maand(&["deploy", "--force"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted", "promoted"]);
    assert_eq!(fleet.agents[0].read("api", "data/ran"), BOTH);
}

/// It stands still later, with the restart on record and on its way to make: that is not begun either, and the
/// controller is asked again. It still wants it, so it is done, once.
#[test]
fn an_action_that_was_on_its_way_when_its_agent_stood_still_is_asked_for_again() {
    let mut fleet = Fleet::new(2);
    fleet.job("api", json!({"max_concurrent_upgrades": 2}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    for (n, point) in ["run::recorded", "run::spawned"].into_iter().enumerate() {
        fleet.agents[n].kill();
        fleet.agents[n].start_with(&[("MAAND_STOPPOINT", point)]);
        fleet.agents[n].wait_online(&fleet.bucket);
    }
    let mut deploy = fleet.bucket.start("deploy", &["deploy", "--force"]);
    (0..2).for_each(|n| stands_still(&fleet, n));
    // What is waited for is that time goes by.
    std::thread::sleep(Duration::from_millis(shared::api::LEASE_MS));
    (0..2).for_each(|n| fleet.agents[n].process().signal(Signal::CONT));
    assert_eq!(deploy.wait(Duration::from_secs(90)).code(), Some(0), "{}", deploy.printed());
    assert_eq!(fleet.words("api"), ["promoted", "promoted"]);
    for n in 0..2 {
        let said = log(&fleet, n);
        assert!(said.contains("not begun: the controller's word was too old by then"), "agent {n}: {said}");
        assert_eq!(fleet.agents[n].read("api", "data/ran"), BOTH, "agent {n}, once");
    }
}

/// The link goes dead, without a word, when the agent has the controller's word and its action waits for somebody
/// who is at work by hand: when that one is done, the batch has been given up.
#[test]
fn with_a_dead_link_an_action_that_had_to_wait_is_not_begun_after_its_batch_was_given_up() {
    let mut fleet = fleet(2);
    let link = Link::to(&fleet.bucket);
    fleet.agents[0].kill();
    link.carries(&fleet.agents[0]);
    fleet.agents[0].start_with(&[("MAAND_STOPPOINT", "accept::granted")]);
    fleet.agents[0].wait_online(&fleet.bucket);
    let own = fleet.agents[0].bucket_dir().join(".maand");
    let by_hand = agent::alone::try_take(&own, "api").unwrap().unwrap();
    let mut deploy = fleet.bucket.start("deploy", &["deploy", "--force"]);
    stands_still(&fleet, 0);
    link.silence(Way::Up);
    link.silence(Way::Down);
    fleet.agents[0].process().signal(Signal::CONT);
    poll::until("the action to wait", poll::LONG, || {
        let said = log(&fleet, 0);
        if said.contains("maand-agent make is at work on it") { Ok(()) } else { Err(said) }
    });
    assert_eq!(deploy.wait(Duration::from_secs(90)).code(), Some(0), "{}", deploy.printed());
    is_deferred(&fleet, 0);
    drop(by_hand);
    // Its question went into the dead link long ago; now it learns that there will be no answer.
    link.cut();
    poll::until("the agent to say why it does nothing", poll::LONG, || {
        let said = log(&fleet, 0);
        if said.contains("not begun: the controller is asked first whether it still holds") {
            Ok(())
        } else {
            Err(said)
        }
    });
    assert_eq!(fleet.agents[0].read("api", "data/ran"), STARTED);
    link.flow(Way::Up);
    link.flow(Way::Down);
    fleet.bucket.maand(&["agent", "ping", &fleet.hosts[0], "--timeout", "30"]).expect(0);
    assert_eq!(fleet.agents[0].read("api", "data/ran"), STARTED);
    fleet.bucket.maand(&["deploy", "--force"]).expect(0);
    assert_eq!(fleet.agents[0].read("api", "data/ran"), BOTH);
    assert_eq!(fleet.words("api"), ["promoted", "promoted"]);
}
