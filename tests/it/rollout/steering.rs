//! Steering a rollout: pause, resume, abort, watch, list; Ctrl-C; a driver that is killed; `--detach`; a
//! build beside it.

use harness::poll;
use harness::process::Running;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{DEPLOY, Fleet};

/// Three workers one after another, the first target held: a deploy under way.
fn under_way(arguments: &[&str]) -> (Fleet, Running) {
    let mut fleet = Fleet::new(3);
    fleet.job("api", json!({"max_concurrent_starts": 1}));
    fleet.raise("hold.api");
    fleet.up();
    let deploy = fleet.bucket.start("deploy", arguments);
    fleet.wait_ran(0, "api", 1);
    (fleet, deploy)
}

fn state(fleet: &Fleet) -> String {
    fleet.show()["state"].as_str().unwrap().to_owned()
}

fn wait_state(fleet: &Fleet, wanted: &str) {
    poll::until(wanted, poll::LONG, || {
        let state = state(fleet);
        if state == wanted { Ok(()) } else { Err(state) }
    });
}

#[test]
fn pause_lets_the_batch_end_and_resume_goes_on() {
    let (fleet, mut deploy) = under_way(&["deploy"]);
    let list: Value =
        serde_json::from_str(&fleet.bucket.maand(&["rollout", "list", "--json"]).expect(0).stdout).unwrap();
    assert_eq!(
        (&list[0]["state"], &list[0]["kind"], &list[0]["jobs"]),
        (&json!("running"), &json!("deploy"), &json!("all"))
    );
    assert!(list[0]["driver"].as_str().unwrap().starts_with("process "), "{list}");
    poll::until("the first one to be seen running", poll::LONG, || {
        let shown = fleet.show();
        let wait = &shown["jobs"][0]["waits_for"][0];
        let seen = [&shown["jobs"][0]["phase"], &wait["worker_ip"], &wait["state"], &wait["agent"]];
        if seen == ["batch 1 of 3", &fleet.hosts[0], "running", "online"] { Ok(()) } else { Err(shown.clone()) }
    });

    let busy = fleet.bucket.maand(&["deploy"]).expect(1);
    assert!(
        busy.stderr.contains("MD0067") && busy.stderr.contains(&format!("process {} on ", deploy.pid())),
        "{}",
        busy.stderr
    );

    let pausing = fleet.bucket.maand(&["rollout", "pause"]).expect(0).stdout;
    assert!(pausing.contains("pausing after what is in flight"), "{pausing}");
    fleet.lower("hold.api");
    assert_eq!(deploy.wait(DEPLOY).code(), Some(1));
    assert!(deploy.printed().contains("the deploy is paused"), "{}", deploy.printed());
    assert_eq!(state(&fleet), "paused");
    assert_eq!(fleet.words("api"), ["promoted", "new", "new"]);
    let dry = fleet.bucket.maand(&["deploy", "-n"]).expect(0).stderr;
    assert!(dry.contains("is open: maand deploy goes on with it first"), "{dry}");

    let resumed = fleet.bucket.maand(&["rollout", "resume"]).expect(0).stderr;
    assert!(resumed.contains("allocations promoted"), "{resumed}");
    assert_eq!(state(&fleet), "done");
    assert_eq!(fleet.words("api"), ["promoted"; 3]);
    for agent in &fleet.agents {
        assert_eq!(agent.read("api", "data/ran").lines().count(), 1, "each started once");
    }
    let none = fleet.bucket.maand(&["rollout", "pause"]).expect(1).stderr;
    assert!(none.contains("no rollout is open"), "{none}");
}

#[test]
fn ctrl_c_pauses_and_a_second_one_leaves_at_once() {
    let (fleet, mut deploy) = under_way(&["deploy"]);
    deploy.signal(Signal::INT);
    poll::until("the first Ctrl-C to be answered", poll::LONG, || {
        let said = deploy.printed();
        if said.contains("pausing after what is in flight") { Ok(()) } else { Err(said) }
    });
    deploy.signal(Signal::INT);
    assert_eq!(deploy.wait(DEPLOY).code(), Some(1), "{}", deploy.printed());
    assert!(fleet.flag("hold.api").exists(), "it did not wait for the target");
    assert!(deploy.printed().contains("the deploy is paused"), "{}", deploy.printed());
    fleet.lower("hold.api");
    let said = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(said.contains("going on with the deploy that was left open"), "{said}");
    assert_eq!(fleet.words("api"), ["promoted"; 3]);
    for agent in &fleet.agents {
        assert_eq!(agent.read("api", "data/ran").lines().count(), 1, "each started once");
    }
}

#[test]
fn abort_ends_it_and_the_next_deploy_rolls_the_rest() {
    let (fleet, mut deploy) = under_way(&["deploy"]);
    let aborted = fleet.bucket.maand(&["rollout", "abort"]).expect(0).stdout;
    assert!(aborted.trim_end().ends_with(": aborted"), "{aborted}");
    assert_eq!(deploy.wait(DEPLOY).code(), Some(1));
    assert!(deploy.printed().contains("the deploy was ended before its end"), "{}", deploy.printed());
    assert_eq!(state(&fleet), "aborted");
    fleet.lower("hold.api");
    let first = || fleet.agents[0].read("api", "data/ran").lines().count();
    // As if this machine's clock had been set back by an hour since.
    let catalog = rusqlite::Connection::open(fleet.bucket.path("data/maand.db")).unwrap();
    catalog.execute("UPDATE rollout SET ended_at = ended_at + 3600000", []).unwrap();
    drop(catalog);
    let said = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(said.contains("waiting 6 s: until then an agent may begin what the aborted deploy took back"), "{said}");
    assert_eq!(fleet.words("api"), ["promoted"; 3]);
    assert_eq!(first(), 2, "what ran was not promoted: it starts again");
}

#[test]
fn a_killed_driver_loses_nothing() {
    let (fleet, mut deploy) = under_way(&["deploy"]);
    deploy.kill();
    fleet.lower("hold.api");
    let catalog = rusqlite::Connection::open(fleet.bucket.path("data/maand.db")).unwrap();
    catalog.execute("UPDATE rollout SET lease_until = 1", []).unwrap();
    drop(catalog);
    assert_eq!(state(&fleet), "paused");
    let said = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(said.contains("going on with the deploy that was left open"), "{said}");
    assert_eq!(fleet.words("api"), ["promoted"; 3]);
    for agent in &fleet.agents {
        assert_eq!(agent.read("api", "data/ran").lines().count(), 1, "each started once");
    }
}

#[test]
fn a_deploy_that_is_gone_on_with_gives_agents_time_to_come_back() {
    let mut fleet = Fleet::new(1);
    fleet.bucket.setting("pickup_timeout = 30");
    fleet.job("api", json!({}));
    fleet.up();
    // Released, and not picked up; then neither driver nor controller run for longer than a pickup may take.
    fleet.agents[0].process().signal(Signal::STOP);
    let mut deploy = fleet.bucket.start("deploy", &["deploy"]);
    poll::until("the release", poll::LONG, || {
        let said = deploy.printed();
        if said.contains("start released") { Ok(()) } else { Err(said) }
    });
    deploy.kill();
    fleet.serve.take().unwrap().kill();
    let catalog = rusqlite::Connection::open(fleet.bucket.path("data/maand.db")).unwrap();
    let old = "UPDATE rollout_flight SET flight = json_set(flight, '$.released_ms', 1)";
    catalog.execute_batch(&format!("UPDATE rollout SET lease_until = 1; {old};")).unwrap();
    drop(catalog);
    fleet.agents[0].process().signal(Signal::CONT);
    let said = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(!said.contains("out of reach"), "{said}");
    assert_eq!(fleet.words("api"), ["promoted"]);
    assert_eq!(fleet.agents[0].read("api", "data/ran").lines().count(), 1, "started once");
}

#[test]
fn a_detached_deploy_is_driven_and_watched_and_may_be_paused() {
    let mut fleet = Fleet::new(3);
    fleet.job("api", json!({"max_concurrent_starts": 1}));
    fleet.raise("hold.api");
    fleet.up();
    let begun = fleet.bucket.maand(&["deploy", "--detach"]).expect(0);
    let run = begun.stdout.trim().to_owned();
    assert!(begun.stderr.contains("maand drive goes on with it"), "{}", begun.stderr);
    assert_eq!(state(&fleet), "waiting");
    let waits = fleet.bucket.maand(&["deploy", "-n"]).expect(0).stderr;
    assert!(waits.contains(&run), "{waits}");

    let _drive = fleet.bucket.start("drive", &["drive"]);
    let mut watch = fleet.bucket.start("watch", &["rollout", "watch", &run[..13]]);
    fleet.wait_ran(0, "api", 1);
    fleet.bucket.maand(&["rollout", "pause"]).expect(0);
    fleet.lower("hold.api");
    wait_state(&fleet, "paused");
    assert_eq!(fleet.words("api"), ["promoted", "new", "new"]);
    assert_eq!(watch.wait(DEPLOY).code(), Some(1), "{}", watch.printed());
    assert!(watch.printed().contains("paused"), "{}", watch.printed());

    fleet.bucket.maand(&["rollout", "resume", "--detach"]).expect(0);
    let watched = fleet.bucket.maand(&["rollout", "watch"]).expect(0);
    assert_eq!(watched.stdout, format!("rollout {run}: done\n"));
    assert!(watched.stderr.contains(&format!("api@{} | done", fleet.hosts[2])), "{}", watched.stderr);
    assert_eq!(fleet.words("api"), ["promoted"; 3]);
    // What has ended can be watched: it says so at once.
    let ended: Value =
        serde_json::from_str(&fleet.bucket.maand(&["rollout", "watch", &run, "--json"]).expect(0).stdout).unwrap();
    assert_eq!((&ended["run_id"], &ended["state"]), (&json!(run), &json!("done")));
    let unknown = fleet.bucket.maand(&["rollout", "show", "ffff"]).expect(2).stderr;
    assert!(unknown.contains("there is no rollout \"ffff\""), "{unknown}");
}

#[test]
fn a_build_beside_a_rollout_counts_from_the_next_one_on() {
    let mut fleet = Fleet::new(2);
    fleet.job("api", json!({"max_concurrent_starts": 1}));
    fleet.bucket.write("workspace/jobs/api/conf/app", "1");
    fleet.raise("hold.api");
    fleet.up();
    let mut deploy = fleet.bucket.start("deploy", &["deploy"]);
    fleet.wait_ran(0, "api", 1);
    fleet.edit(&["api"], "2");
    fleet.lower("hold.api");
    assert_eq!(deploy.wait(DEPLOY).code(), Some(0), "{}", deploy.printed());
    assert_eq!(fleet.words("api"), ["restart", "restart"]);
    for agent in &fleet.agents {
        assert_eq!(agent.read("api", "conf/app"), "1", "as it was planned");
    }
    fleet.bucket.maand(&["deploy"]).expect(0);
    for agent in &fleet.agents {
        assert_eq!(agent.read("api", "conf/app"), "2");
        assert_eq!(agent.read("api", "data/ran").lines().count(), 2);
    }
}
