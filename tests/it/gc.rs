//! What is no longer wanted goes, with the real programs; what may still run never does.

use std::time::{Duration, SystemTime};

use harness::agents::Agent;
use harness::bucket::Bucket;
use harness::poll;
use serde_json::{Value, json};

use crate::support::{agents, bucket, hosts};

fn json_of(bucket: &Bucket, arguments: &[&str], code: i32) -> Value {
    let output = bucket.maand(arguments).expect(code);
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn count(bucket: &Bucket, sql: &str) -> i64 {
    let catalog = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    catalog.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Two jobs on all hosts, deployed.
fn two_jobs(bucket: &Bucket, hosts: &[String]) {
    bucket.workers(hosts, &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    bucket.recording_job("web", &json!({"selectors": ["all"]}));
    bucket.write("workspace/jobs/api/vars.toml", "colour = \"red\"\n");
    bucket.maand(&["build"]).expect(0);
}

fn blobs(bucket: &Bucket) -> Vec<std::path::PathBuf> {
    let list = |dir: std::path::PathBuf| std::fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path());
    list(bucket.path("data/store/blobs")).flat_map(list).collect()
}

#[test]
fn a_removed_job_goes_with_its_data_only_after_it_was_stopped() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 2);
    two_jobs(&bucket, &hosts);
    let _serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    assert!(bucket.maand(&["gc", "-n"]).expect(0).stdout.contains("0 bundles"), "nothing to do yet");

    std::fs::remove_dir_all(bucket.path("workspace/jobs/api")).unwrap();
    bucket.maand(&["build"]).expect(0);
    let refused = bucket.maand(&["gc"]).expect(1);
    assert!(refused.stderr.contains("MD0076") && refused.stderr.contains("maand deploy"), "{}", refused.stderr);
    assert_eq!(agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\n", "it runs on as it did");
    assert!(agents[0].job_path("api", "Makefile").is_file());
    let kept = json_of(&bucket, &["cat", "kv", "get", "vars/job/api", "colour", "--json"], 0);
    assert_eq!(kept["value"], "red");

    bucket.maand(&["deploy"]).expect(0);
    assert!(!agents[0].job_path("api", "Makefile").exists() && agents[0].job_path("api", "data/ran").is_file());
    let later = json_of(&bucket, &["gc", "--retain-days", "1", "--json"], 0);
    assert_eq!(later["allocations"][0]["action"], "keep", "{later}");
    let dry = json_of(&bucket, &["gc", "--dry-run", "--json"], 0);
    let actions: Vec<_> = dry["allocations"].as_array().unwrap().iter().map(|row| row["action"].clone()).collect();
    assert_eq!((actions, &dry["jobs"]), (vec![json!("purge"); 2], &json!(["api"])), "{dry}");
    assert!(agents[1].job_path("api", "data/ran").is_file(), "a dry run changes nothing");

    let done = json_of(&bucket, &["gc", "--json"], 0);
    assert_eq!(done["allocations"][0]["action"], "gone", "{done}");
    for agent in &agents {
        assert!(!agent.job_path("api", "").exists(), "the whole tree");
        assert_eq!(agent.read("web", "data/ran"), "start 0.0.0 0.0.0\n", "the other job was not touched");
    }
    assert!(
        bucket.rollouts().iter().all(|(job, _, word)| job == "web" && word == "promoted"),
        "{:?}",
        bucket.rollouts()
    );
    bucket.maand(&["cat", "kv", "get", "vars/job/api", "colour"]).expect(2);
    for table in ["allocation", "promoted", "rolled", "desired_allocation", "observed_allocation"] {
        assert_eq!(count(&bucket, &format!("SELECT count(*) FROM {table}")), 2, "{table}");
    }
    // The agents forget it too: nothing of it is reported any more, and nobody wonders about it.
    for host in &hosts {
        bucket.maand(&["agent", "ping", host]).expect(0);
    }
    assert_eq!(count(&bucket, "SELECT count(*) FROM observed_unknown"), 0);
    assert!(!bucket.read("logs/maand.log").contains("report_foreign"), "{}", bucket.read("logs/maand.log"));
    let again = json_of(&bucket, &["gc", "--json"], 0);
    assert_eq!(again["allocations"], json!([]), "{again}");

    // A job of that name begins from nothing.
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    bucket.maand(&["deploy", "-b"]).expect(0);
    assert_eq!(agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\n");
}

#[test]
fn an_agent_that_is_away_takes_the_tree_away_when_it_is_back_and_gc_serves_by_itself() {
    let bucket = bucket();
    bucket.setting("pickup_timeout = 2");
    let hosts = hosts(&bucket, 2);
    two_jobs(&bucket, &hosts);
    let mut serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    std::fs::remove_dir_all(bucket.path("workspace/jobs/api")).unwrap();
    bucket.maand(&["deploy", "-b"]).expect(0);
    agents[1].kill();
    poll::until("the agent to be away", poll::LONG, || {
        let rows = bucket.cat("agents");
        if rows[1]["state"] == "offline" { Ok(()) } else { Err(rows) }
    });
    let part = bucket.maand(&["gc"]).expect(1);
    assert!(part.stderr.contains("MD0086") && part.stderr.contains(&hosts[1]), "{}", part.stderr);
    assert!(!agents[0].job_path("api", "").exists(), "the others went on");
    assert_eq!(count(&bucket, "SELECT count(*) FROM allocation WHERE removed"), 1);
    assert_eq!(count(&bucket, "SELECT count(*) FROM key_value WHERE namespace = 'vars/job/api' AND deleted"), 0);

    agents[1].start();
    poll::until("the tree to be gone", poll::LONG, || match agents[1].job_path("api", "").exists() {
        true => Err("still there"),
        false => Ok(()),
    });
    serve.stop(Duration::from_secs(20));
    bucket.maand(&["gc"]).expect(0);
    assert_eq!(count(&bucket, "SELECT count(*) FROM allocation WHERE removed"), 0);

    // And with something left to ask: no serve runs.
    std::fs::remove_dir_all(bucket.path("workspace/jobs/web")).unwrap();
    bucket.recording_job("new", &json!({"selectors": ["all"]}));
    bucket.maand(&["deploy", "-b"]).expect(0);
    let done = bucket.maand(&["gc"]).expect(0);
    assert!(done.stderr.contains("serving agents on"), "{}", done.stderr);
    assert!(!agents[0].job_path("web", "").exists() && agents[0].job_path("new", "data/ran").is_file());
}

#[test]
fn a_gc_that_was_cut_off_is_gone_on_with_by_the_next_one() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    two_jobs(&bucket, &hosts);
    let serve = bucket.serve();
    let mut agent = Agent::join(&bucket, &hosts[0]);
    bucket.maand(&["deploy"]).expect(0);
    std::fs::remove_dir_all(bucket.path("workspace/jobs/api")).unwrap();
    bucket.maand(&["deploy", "-b"]).expect(0);
    agent.kill();
    drop(serve);
    // Nobody serves, so whoever has joined is waited for; and it is ended while it waits.
    let mut cut = bucket.start("gc", &["gc"]);
    let purged = "SELECT count(*) FROM desired_allocation WHERE state = 'purged'";
    poll::until(
        "gc to have asked",
        poll::LONG,
        || if count(&bucket, purged) == 1 { Ok(()) } else { Err(cut.printed()) },
    );
    cut.kill();
    assert!(agent.job_path("api", "data/ran").is_file());
    let _serve = bucket.serve();
    agent.start();
    poll::until("the tree to be gone", poll::LONG, || match agent.job_path("api", "").exists() {
        true => Err("still there"),
        false => Ok(()),
    });
    bucket.maand(&["gc"]).expect(0);
    assert_eq!(count(&bucket, "SELECT count(*) FROM allocation"), 1);
    assert_eq!(agent.read("web", "data/ran"), "start 0.0.0 0.0.0\n");
}

#[test]
fn a_worker_that_left_is_cleaned_up_and_one_that_is_lost_is_forgotten_on_request() {
    let bucket = bucket();
    bucket.setting("pickup_timeout = 2");
    let hosts = hosts(&bucket, 3);
    two_jobs(&bucket, &hosts);
    let _serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    agents[2].kill();
    bucket.workers(&hosts[..1], &["all"]);
    bucket.maand(&["build"]).expect(0);
    let listed = bucket.cat("agents");
    assert_eq!(listed, json_of(&bucket, &["agent", "list", "--json"], 0));
    let gone: Vec<bool> = listed.as_array().unwrap().iter().map(|row| row["gone"].is_string()).collect();
    assert_eq!(gone, [false, true, true], "{listed}");
    let is_away = || bucket.cat("agents")[2]["state"] == "offline";
    poll::until("the third to be away", poll::LONG, || if is_away() { Ok(()) } else { Err(()) });
    bucket.maand(&["deploy"]).expect(0);
    assert_eq!(agents[1].read("api", "data/ran"), "start 0.0.0 0.0.0\nstop 0.0.0 0.0.0\n");

    let part = bucket.maand(&["gc"]).expect(1);
    assert!(part.stderr.contains(&format!("maand agent forget {}", hosts[2])), "{}", part.stderr);
    assert!(!agents[1].job_path("api", "").exists() && !agents[1].job_path("web", "").exists());
    let listed = bucket.cat("agents");
    let left: Vec<_> = listed.as_array().unwrap().iter().map(|row| row["host"].clone()).collect();
    assert_eq!(left, [hosts[0].as_str(), hosts[2].as_str()], "the one that was cleaned up is nobody any more");

    let refused = bucket.maand(&["agent", "forget", &hosts[0]]).expect(2);
    assert!(refused.stderr.contains("is in workers.json"), "{}", refused.stderr);
    bucket.maand(&["agent", "forget", "nowhere"]).expect(2);
    let dry = bucket.maand(&["agent", "forget", &hosts[2], "-n"]).expect(0);
    assert!(dry.stderr.contains("may still run there"), "{}", dry.stderr);
    let forgotten = bucket.maand(&["agent", "forget", &hosts[2]]).expect(0);
    assert!(forgotten.stdout.contains("forgotten, with 2 allocations"), "{forgotten:?}");
    bucket.maand(&["gc"]).expect(0);
    assert_eq!(bucket.cat("agents").as_array().unwrap().len(), 1);

    // Should it come back: it is refused, and what runs there goes on.
    agents[2].start();
    poll::until("the refusal", poll::LONG, || {
        let log = bucket.read("logs/maand.log");
        if log.contains("revoked") { Ok(()) } else { Err(log) }
    });
    assert_eq!(agents[2].read("api", "data/ran"), "start 0.0.0 0.0.0\n");
}

#[test]
fn content_that_nothing_refers_to_goes_and_what_is_in_use_can_still_be_deployed() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    two_jobs(&bucket, &hosts);
    bucket.write("workspace/jobs/api/big", &"x".repeat(100_000));
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let agent = Agent::join(&bucket, &hosts[0]);
    bucket.maand(&["deploy"]).expect(0);
    bucket.write("workspace/jobs/api/big", &"y".repeat(100_000));
    bucket.maand(&["deploy", "-b"]).expect(0);
    let old = "x".repeat(100_000);
    let is_old = |path: &std::path::PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text == old);
    assert!(blobs(&bucket).iter().any(is_old));
    bucket.maand(&["gc"]).expect(0);
    assert!(blobs(&bucket).iter().any(is_old), "what was written within the hour may be about to be used");
    for path in blobs(&bucket) {
        let file = std::fs::File::open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    }
    std::fs::create_dir_all(bucket.path("logs/runs/not-a-run")).unwrap();
    let done = json_of(&bucket, &["gc", "--json"], 0);
    assert!(done["blobs"].as_u64().unwrap() >= 1 && done["bytes"].as_u64().unwrap() >= 100_000, "{done}");
    assert!(!blobs(&bucket).iter().any(is_old));
    assert!(bucket.path("logs/runs/not-a-run").is_dir(), "nobody's business");

    // A second worker gets everything from the store, and a build reads what it remembers.
    let both = vec![hosts[0].clone(), bucket.address(9).to_string()];
    bucket.workers(&both, &["all"]);
    bucket.maand(&["build"]).expect(0);
    let second = Agent::join(&bucket, &both[1]);
    bucket.maand(&["deploy"]).expect(0);
    assert_eq!(second.read("api", "big"), "y".repeat(100_000));
    assert_eq!(agent.read("api", "big"), "y".repeat(100_000));
}

#[test]
fn ping_says_how_long_it_took_or_who_is_away_and_revoke_holds_at_once() {
    let bucket = bucket();
    bucket.setting("pickup_timeout = 1");
    let hosts = hosts(&bucket, 2);
    two_jobs(&bucket, &hosts);
    let unknown = bucket.maand(&["agent", "ping", "nowhere"]).expect(2);
    assert!(unknown.stderr.contains(&hosts[0]), "{}", unknown.stderr);
    let nobody = bucket.maand(&["agent", "ping", &hosts[0]]).expect(1);
    assert!(nobody.stderr.contains("MD0065") && nobody.stderr.contains("maand agent token"), "{}", nobody.stderr);
    let mut serve = bucket.serve();
    let mut agent = Agent::join(&bucket, &hosts[0]);
    let first = json_of(&bucket, &["agent", "ping", &hosts[0], "--json"], 0);
    assert!(first["milliseconds"].as_f64().unwrap() > 0.0, "before its first deploy: {first}");
    bucket.maand(&["deploy", "--jobs", "api"]).expect(1);
    assert_eq!(agent.read("api", "data/ran"), "start 0.0.0 0.0.0\n");
    let said = bucket.maand(&["agent", "ping", &hosts[0]]).expect(0).stdout;
    assert!(said.starts_with(&format!("{}: heard in ", hosts[0])), "{said}");
    assert_eq!(agent.read("api", "data/ran"), "start 0.0.0 0.0.0\n", "nothing is run");
    serve.stop(Duration::from_secs(20));
    bucket.maand(&["agent", "ping", &hosts[0]]).expect(0);
    agent.kill();
    let away = bucket.maand(&["agent", "ping", &hosts[0], "--timeout", "1"]).expect(1);
    assert!(away.stderr.contains("MD0086") && away.stderr.contains("last seen"), "{}", away.stderr);

    agent.start();
    let _serve = bucket.serve();
    agent.wait_online(&bucket);
    let spare = bucket.maand(&["agent", "token", &hosts[0]]).expect(0).stdout;
    let revoked = bucket.maand(&["agent", "revoke", &hosts[0]]).expect(0);
    assert!(revoked.stdout.contains("1 certificates ended") && revoked.stderr.contains("--replace"), "{revoked:?}");
    // The request that waits is not answered with anything new, and none after it is.
    bucket.write("workspace/jobs/api/new", "new\n");
    bucket.maand(&["build"]).expect(0);
    bucket.maand(&["deploy", "--jobs", "api"]).expect(1);
    assert_eq!(agent.read("api", "data/ran"), "start 0.0.0 0.0.0\n");
    assert_eq!(agent.read("api", "new"), "");
    let words: Vec<&str> = spare.split_whitespace().collect();
    let late = Agent::prepare(&bucket, "late", &[]).join_with(words[2], words[3]).expect(1);
    assert!(late.stderr.contains("MD0080"), "its tokens are worth nothing either: {}", late.stderr);
}
