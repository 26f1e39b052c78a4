//! Edited files are found, told, and put back where the manifest asks for it.

use harness::poll;
use serde_json::json;

use super::{check_often, said};
use crate::rollout::Fleet;

fn fleet(self_heal: bool) -> Fleet {
    let mut fleet = Fleet::new(1);
    fleet.job("api", json!({"self_heal": self_heal}));
    fleet.bucket.write("workspace/jobs/api/conf/app", "1");
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    check_often(&mut fleet.agents[0]);
    fleet
}

fn wait(fleet: &Fleet, expected: &str) {
    poll::until(expected, poll::LONG, || {
        let said = said(&fleet.bucket, "api");
        if said == expected { Ok(()) } else { Err(said) }
    });
}

#[test]
fn what_was_edited_is_told_and_left() {
    let fleet = fleet(false);
    std::fs::write(fleet.agents[0].job_path("api", "conf/app"), "edited").unwrap();
    std::fs::write(fleet.agents[0].job_path("api", "extra"), "x").unwrap();
    wait(&fleet, "1 files edited there");
    poll::until("both to be named", poll::LONG, || {
        let why = fleet.bucket.maand(&["why", &fleet.hosts[0], "api"]).expect(0).stdout;
        let named = |fact: &str, path: &str| why.lines().any(|line| line.contains(fact) && line.contains(path));
        if named("edited there", "conf/app") && named("unmanaged", "extra") { Ok(()) } else { Err(why) }
    });
    assert_eq!(fleet.agents[0].read("api", "conf/app"), "edited");
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\n");
}

#[test]
fn with_self_heal_it_is_put_back_three_times_and_then_left() {
    let fleet = fleet(true);
    let path = fleet.agents[0].job_path("api", "conf/app");
    for n in 0..3 {
        // Gone, edited, edited: whatever it is.
        if n == 0 {
            std::fs::remove_file(&path).unwrap()
        } else {
            std::fs::write(&path, "edited").unwrap()
        }
        poll::until("the file to be put back", poll::LONG, || {
            let is = fleet.agents[0].read("api", "conf/app");
            if is == "1" { Ok(()) } else { Err(is) }
        });
    }
    std::fs::write(&path, "edited").unwrap();
    wait(&fleet, "1 files edited there again and again: put back no more");
    assert_eq!(fleet.agents[0].read("api", "conf/app"), "edited");
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\n", "files only");
    let why = fleet.bucket.maand(&["why", &fleet.hosts[0], "api"]).expect(0).stdout;
    assert!(why.contains("something edits its files again and again"), "{why}");
}
