//! A held worker is left as it is, whoever asks, and nothing fails for it.

use harness::poll;
use serde_json::{Value, json};

use super::said;
use crate::rollout::Fleet;

#[test]
fn a_deploy_goes_on_without_a_held_worker_and_what_was_left_out_comes_after() {
    let mut fleet = Fleet::new(2);
    fleet.job("api", json!({}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    let host = fleet.hosts[0].clone();
    fleet.bucket.maand(&["agent", "hold", &host, "--for", "1h", "--reason", "a disk is being replaced"]).expect(0);
    let agents = fleet.bucket.cat("agents");
    let held = agents[0]["held"].as_str().unwrap_or_default().to_owned();
    assert!(held.starts_with("until 20") && held.ends_with(": a disk is being replaced"), "{held}");
    assert_eq!(agents[1]["held"], Value::Null);

    fleet.edit(&["api"], "2");
    let dry = fleet.bucket.maand(&["deploy", "--dry-run"]).expect(0);
    assert!(dry.stderr.contains(&format!("{host} is held until 20")), "{}", dry.stderr);
    let deploy = fleet.bucket.maand(&["deploy"]).expect(0);
    assert!(deploy.stderr.contains("a disk is being replaced"), "{}", deploy.stderr);
    assert_eq!(fleet.words("api"), ["restart", "promoted"]);
    assert_eq!(fleet.agents[0].read("api", "conf/app"), "");
    assert!(said(&fleet.bucket, "api").starts_with("held until 20"), "{}", said(&fleet.bucket, "api"));
    let why = fleet.bucket.maand(&["why", &host]).expect(0).stdout;
    assert!(why.contains("it is held until 20") && why.contains(&format!("maand agent unhold {host}")), "{why}");

    // Nor is anything else done there, and the agent says why.
    let refused = fleet.bucket.maand(&["job", "restart", "api"]).expect(1);
    let words = format!("{}{}", refused.stdout, refused.stderr);
    assert!(words.contains("an operator holds this worker: a disk is being replaced"), "{words}");
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\n");

    fleet.bucket.maand(&["agent", "unhold", &host]).expect(0);
    assert_eq!(fleet.bucket.cat("agents")[0]["held"], Value::Null);
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted", "promoted"]);
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\nrestart 0.0.0 0.0.0\n");
}

#[test]
fn a_hold_that_comes_while_a_release_is_on_its_way_is_heard_by_both_ends_and_ends_by_itself() {
    let mut fleet = Fleet::new(1);
    fleet.job("api", json!({}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    let host = fleet.hosts[0].clone();
    fleet.edit(&["api"], "2");
    // Somebody is at work on the job by hand, so that the agent has the release and cannot begin it.
    let own = fleet.agents[0].bucket_dir().join(".maand");
    let by_hand = agent::alone::try_take(&own, "api").unwrap().unwrap();
    let mut deploy = fleet.bucket.start("deploy", &["deploy"]);
    poll::until("the agent to be held up", poll::LONG, || {
        let said = said(&fleet.bucket, "api");
        if said.contains("maand-agent make is at work on it") { Ok(()) } else { Err(said) }
    });
    fleet.bucket.maand(&["agent", "hold", &host, "--for", "30s", "--reason", "not now"]).expect(0);
    let status = deploy.wait(std::time::Duration::from_secs(60));
    assert_eq!(status.code(), Some(0), "{}", deploy.printed());
    assert!(deploy.printed().contains("held until 20"), "{}", deploy.printed());
    drop(by_hand);
    assert_eq!(fleet.agents[0].read("api", "conf/app"), "");
    poll::until("the hold to end", poll::LONG, || {
        let held = fleet.bucket.cat("agents")[0]["held"].clone();
        if held == Value::Null { Ok(()) } else { Err(held) }
    });
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted"]);
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\nrestart 0.0.0 0.0.0\n", "once");
}
