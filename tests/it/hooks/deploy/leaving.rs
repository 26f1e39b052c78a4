//! Hooks when the operator or the kernel ends the command that runs them.

use harness::poll;
use harness::process::Running;
use rustix::process::{Pid, Signal, test_kill_process};
use serde_json::json;

use super::{DEPLOY, Fleet};

/// A deploy whose pre_deploy hook waits while `hold` is there, and has begun.
fn held(events: &[&str]) -> (Fleet, Running) {
    let mut fleet = Fleet::new(1);
    let script = "note(event, os.getpid())\nwhile flag('hold'): time.sleep(0.02)\n\
                  maand.put_job_variable('k', 'v').raise_for_status()\nnote(event, 'done')\n";
    fleet.job("api", json!({}), events, script);
    fleet.raise("hold");
    fleet.up();
    let deploy = fleet.bucket.start("deploy", &["deploy"]);
    poll::until("the hook to begin", poll::LONG, || {
        let notes = std::fs::read_to_string(fleet.flag("notes")).unwrap_or_default();
        if notes.is_empty() { Err(deploy.printed()) } else { Ok(()) }
    });
    (fleet, deploy)
}

fn alive(note: &str) -> bool {
    let pid = note.rsplit(' ').next().unwrap().parse().unwrap();
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

#[test]
fn ctrl_c_waits_for_the_hook_and_leaves_the_rest() {
    let (fleet, mut deploy) = held(&["pre_deploy"]);
    deploy.signal(Signal::INT);
    poll::until("the first Ctrl-C to be answered", poll::LONG, || {
        let said = deploy.printed();
        if said.contains("pausing after what is in flight") { Ok(()) } else { Err(said) }
    });
    fleet.lower("hold");
    assert_eq!(deploy.wait(DEPLOY).code(), Some(1), "{}", deploy.printed());
    assert!(deploy.printed().contains("the deploy is paused"), "{}", deploy.printed());
    assert_eq!(fleet.ran("api"), [""], "nothing new began");
    assert_eq!(super::super::live(&fleet.bucket, "vars/job/api"), [("k".to_owned(), "v".to_owned())]);
    assert_eq!(fleet.notes().len(), 2);
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted"]);
    assert!(fleet.notes().is_empty(), "what has ended well is not run again");
}

#[test]
fn a_second_ctrl_c_ends_the_hook_with_the_command() {
    let (fleet, mut deploy) = held(&["pre_deploy"]);
    deploy.signal(Signal::INT);
    poll::until("the first Ctrl-C to be answered", poll::LONG, || {
        let said = deploy.printed();
        if said.contains("pausing after what is in flight") { Ok(()) } else { Err(said) }
    });
    deploy.signal(Signal::INT);
    assert_eq!(deploy.wait(DEPLOY).code(), Some(1), "{}", deploy.printed());
    let notes = fleet.notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(!alive(&notes[0]), "the hook is gone when the command is");
    assert_eq!(super::super::live(&fleet.bucket, "vars/job/api"), []);
    fleet.lower("hold");
    let said = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(said.contains("going on with the deploy that was left open"), "{said}");
    assert_eq!(fleet.notes().len(), 2, "it is run again from its beginning");
    assert_eq!(fleet.words("api"), ["promoted"]);
}

#[test]
fn an_abort_ends_the_hook_too() {
    let (fleet, mut deploy) = held(&["post_deploy"]);
    fleet.bucket.maand(&["rollout", "abort"]).expect(0);
    assert_eq!(deploy.wait(DEPLOY).code(), Some(1), "{}", deploy.printed());
    let notes = fleet.notes();
    assert!(!alive(&notes[0]), "the hook is gone when the command is");
    assert_eq!(fleet.words("api"), ["promoted"]);
    assert_eq!(fleet.column("api", "post_deploy_status"), ["pending"]);
    fleet.lower("hold");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.ran("api"), ["start"]);
    assert_eq!(fleet.column("api", "post_deploy_status"), ["success"]);
}

#[test]
fn after_a_killed_driver_the_next_one_runs_the_hook_again() {
    for event in ["pre_deploy", "after_allocation_started", "post_deploy"] {
        let (fleet, mut deploy) = held(&[event]);
        deploy.kill();
        fleet.lower("hold");
        let catalog = rusqlite::Connection::open(fleet.bucket.path("data/maand.db")).unwrap();
        catalog.execute("UPDATE rollout SET lease_until = 1", []).unwrap();
        drop(catalog);
        let said = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
        assert!(said.contains("going on with the deploy that was left open"), "{event}: {said}");
        assert_eq!((fleet.words("api"), fleet.ran("api")), (vec!["promoted".to_owned()], vec!["start".to_owned()]));
        let begun = fleet.notes().into_iter().filter(|note| !note.ends_with("done")).count();
        assert_eq!(begun, 2, "{event}");
        assert_eq!(super::super::live(&fleet.bucket, "vars/job/api").len(), 1);
    }
}
