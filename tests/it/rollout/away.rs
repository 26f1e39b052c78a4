//! Agents that are away: deferred with a name, brought up to date when they are back, and nothing that was
//! taken back is ever done late.

use std::time::Duration;

use harness::poll;
use harness::process::Running;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::Fleet;

/// Three workers, the last of them away, deployed without it.
fn deferred() -> Fleet {
    let mut fleet = Fleet::new(3);
    fleet.bucket.setting("pickup_timeout = 2");
    fleet.job("api", json!({"max_unreachable": 1, "max_concurrent_upgrades": 3, "health_check": fleet.check(1)}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.edit(&["api"], "2");
    fleet.agents[2].kill();
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted", "promoted", "restart"]);
    fleet
}

fn drive(fleet: &Fleet) -> Running {
    let mut drive = fleet.bucket.start("drive", &["drive"]);
    poll::until("drive to begin", poll::LONG, || match drive.ended() {
        Some(status) => panic!("drive ended: {status}\n{}", drive.printed()),
        None if drive.printed().contains("driving what is detached or deferred") => Ok(()),
        None => Err(drive.printed()),
    });
    drive
}

fn wait_words(fleet: &Fleet, expected: &[&str]) {
    poll::until("the words", poll::LONG, || {
        let words = fleet.words("api");
        if words == expected { Ok(()) } else { Err(words) }
    });
}

#[test]
fn a_deferred_allocation_is_named_with_since_when_and_comes_up_to_date_when_its_agent_is_back() {
    let mut fleet = deferred();
    let row = fleet.bucket.cat("deployments")[2].clone();
    let agent = row["agent"].as_str().unwrap_or_default();
    assert!(agent.starts_with("deferred since 20") && agent.contains("UTC"), "{row}");
    let shown = fleet.show();
    let wait = &shown["jobs"][0]["waits_for"][0];
    assert_eq!(
        (&wait["worker_ip"], &wait["state"], &wait["agent"]),
        (&json!(fleet.hosts[2]), &json!("out of reach"), &json!("offline")),
        "{shown}"
    );
    let text = fleet.bucket.maand(&["rollout", "show"]).expect(0).stdout;
    assert!(text.contains(&format!("    {}: out of reach since 20", fleet.hosts[2])), "{text}");

    let mut drive = drive(&fleet);
    let seq = fleet.update_seq();
    fleet.agents[2].start();
    wait_words(&fleet, &["promoted", "promoted", "promoted"]);
    assert_eq!(fleet.agents[2].read("api", "conf/app"), "2");
    assert_eq!(fleet.agents[2].read("api", "data/ran"), "start 0.0.0 0.0.0\nrestart 0.0.0 0.0.0\n", "once");
    assert_eq!(fleet.update_seq(), seq, "it is no deploy of its own");
    poll::until("the end of the catching up", poll::LONG, || {
        let list: Value =
            serde_json::from_str(&fleet.bucket.maand(&["rollout", "list", "--json"]).expect(0).stdout).unwrap();
        if list[0]["kind"] == "catch_up" && list[0]["state"] == "done" { Ok(()) } else { Err(list) }
    });
    let said = drive.printed();
    assert!(said.contains("catching up: rollout") && said.contains("restart promoted"), "{said}");
    assert!(drive.stop(Duration::from_secs(20)).success(), "{}", drive.printed());
}

#[test]
fn one_that_does_not_pass_its_gate_when_it_is_back_is_not_promoted() {
    let mut fleet = deferred();
    fleet.raise(&format!("sick.{}", fleet.hosts[2]));
    let drive = drive(&fleet);
    fleet.agents[2].start();
    wait_words(&fleet, &["promoted", "promoted", "health_failed"]);
    drop(drive);
}

#[test]
fn an_agent_whose_program_was_replaced_under_it_goes_on() {
    let mut fleet = Fleet::new(1);
    fleet.job("api", json!({}));
    fleet.up();
    let program = fleet.bucket.programs().agent.clone();
    std::fs::rename(&program, program.with_extension("old")).unwrap();
    std::fs::remove_file(program.with_extension("old")).unwrap();
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\n");
}

#[test]
fn a_sleeper_does_not_do_late_what_was_taken_back() {
    // With new files, and with nothing to do but to run the target.
    for edit in [true, false] {
        let mut fleet = Fleet::new(2);
        fleet.bucket.setting("pickup_timeout = 2");
        fleet.job("api", json!({}));
        fleet.up();
        fleet.bucket.maand(&["deploy"]).expect(0);
        // Its connection stands, its long poll is open, and the answer with the release waits in its socket.
        fleet.agents[0].process().signal(Signal::STOP);
        if edit {
            fleet.edit(&["api"], "2");
        }
        let failed = fleet.bucket.maand(&["deploy", "--force"]).expect(1).stderr;
        let said = format!("the agent of {} did not pick up its work within 2 s", fleet.hosts[0]);
        assert!(failed.contains(&said), "{failed}");
        let seq = fleet.update_seq();
        fleet.agents[0].process().signal(Signal::CONT);
        poll::until("the agent to have heard of the newest state", poll::LONG, || {
            let (agent, row) = (fleet.bucket.cat("agents")[0].clone(), fleet.bucket.cat("deployments")[0].clone());
            let told = fleet.worker_json(0);
            let newest = told["generation"].as_u64() >= Some(4) && agent["update_seq"] == seq;
            if newest && row["agent"] == Value::Null { Ok(()) } else { Err(format!("{agent} {row} {told}")) }
        });
        assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\n", "never done late");
        assert_eq!(fleet.agents[0].read("api", "conf/app"), "", "nor are its files there");
        assert_eq!(fleet.words("api"), [if edit { "restart" } else { "promoted" }; 2]);
    }
}

#[test]
fn serve_with_drive_brings_up_to_date_what_the_deploy_went_on_without() {
    let mut fleet = deferred();
    fleet.serve.take().unwrap().stop(Duration::from_secs(20));
    let serve = fleet.bucket.start("serve", &["serve", "--drive"]);
    poll::until("serve to listen", poll::LONG, || {
        if serve.printed().matches("listening").count() > 1 { Ok(()) } else { Err(serve.printed()) }
    });
    fleet.agents[2].start();
    wait_words(&fleet, &["promoted", "promoted", "promoted"]);
    drop(serve);
}

#[test]
fn a_new_deploy_brings_a_deferred_one_to_the_newest_and_not_to_what_it_missed() {
    let mut fleet = deferred();
    fleet.edit(&["api"], "3");
    fleet.agents[2].start();
    fleet.agents[2].wait_online(&fleet.bucket);
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted"; 3]);
    assert_eq!(fleet.agents[2].read("api", "data/ran").lines().count(), 2, "one restart, not two");
    assert_eq!(fleet.bucket.cat("deployments")[2]["agent"], Value::Null);
}

/// By the deploy's own clock a minute goes by when a release was taken back, in which its agent may still begin it.
#[test]
fn a_clock_that_is_set_forward_ends_no_lease_early() {
    // The program itself cannot be told to read its offset from a file.
    let Some(library) = harness::faketime::library(false) else { return };
    let mut fleet = Fleet::new(2);
    fleet.bucket.setting("pickup_timeout = 1");
    fleet.job("api", json!({"max_unreachable": 1}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.edit(&["api"], "2");
    fleet.agents[1].kill();
    let clock = fleet.bucket.dir().join("clock");
    std::fs::write(&clock, "+0s").unwrap();
    let mut command = fleet.bucket.command(&["deploy"]);
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock).env("FAKETIME_NO_CACHE", "1");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    let mut deploy = Running::start("deploy", command, &fleet.bucket.dir().join("deploy.log"));
    let mut before = std::time::Instant::now();
    poll::until("the release to be taken back", poll::LONG, || {
        let now = std::time::Instant::now();
        let said = deploy.printed();
        if said.contains("its agent is out of reach: taken back") {
            return Ok(());
        }
        before = now;
        Err(said)
    });
    std::fs::write(&clock, "+60s").unwrap();
    assert_eq!(deploy.wait(Duration::from_secs(60)).code(), Some(0), "{}", deploy.printed());
    let waited = before.elapsed();
    assert!(deploy.printed().contains("deferred until its agent is back"), "{}", deploy.printed());
    assert!(waited >= Duration::from_millis(shared::api::LEASE_MS), "given up after {waited:?}");
    assert_eq!(fleet.words("api"), ["promoted", "restart"]);
}
