//! `maand-agent make`: what somebody does on the worker itself is remembered, and never beside anything else.

use harness::agents::Agent;
use harness::bucket::Bucket;
use harness::poll;
use harness::process::{Output, Running};
use serde_json::{Value, json};

use crate::support::{agents, bucket, hosts};

/// A deployed job; its target `long` lasts until `data/gate` is there.
fn worker() -> (Bucket, Agent, Running) {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    let makefile = bucket.read("workspace/jobs/api/Makefile");
    let long = "long:\n\t@mkdir -p data && echo long-begins >> data/ran; while [ ! -e data/gate ]; do sleep 0.05; done; \
                echo long-ends >> data/ran\n";
    bucket.write("workspace/jobs/api/Makefile", &format!("{makefile}{long}"));
    bucket.maand(&["build"]).expect(0);
    let serve = bucket.serve();
    let agent = agents(&bucket, &hosts).remove(0);
    agent.wait_online(&bucket);
    bucket.maand(&["deploy"]).expect(0);
    (bucket, agent, serve)
}

fn make(agent: &Agent, target: &str) -> Output {
    let mut command = agent.command();
    command.args(["make", "api", target]);
    harness::process::finish(command, poll::LONG)
}

/// `make api long` in the background, once it is at work.
fn long(bucket: &Bucket, agent: &Agent) -> Running {
    let mut command = agent.command();
    command.args(["make", "api", "long"]);
    let running = Running::start("by hand", command, &bucket.dir().join("by-hand.log"));
    wait_for(agent, "long-begins");
    running
}

fn wait_for(agent: &Agent, word: &str) {
    poll::until(word, poll::LONG, || {
        let text = agent.read("api", "data/ran");
        if text.contains(word) { Ok(()) } else { Err(text) }
    });
}

/// What `maand cat deployments` says of the agent, once it is that.
fn shown(bucket: &Bucket, wanted: &Value) {
    poll::until(&format!("it to show {wanted}"), poll::LONG, || {
        let rows = bucket.cat("deployments");
        if rows[0]["agent"] == *wanted { Ok(()) } else { Err(rows) }
    });
}

fn targets(agent: &Agent) -> Vec<String> {
    agent.read("api", "data/ran").lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn a_job_that_was_stopped_on_its_worker_stays_stopped_and_is_shown_as_such() {
    let (bucket, mut agent, _serve) = worker();
    make(&agent, "stop").expect(0);
    shown(&bucket, &json!("stopped by hand"));
    // Over the end of its agent, and a deploy that has nothing to do with it.
    agent.kill();
    agent.start();
    agent.wait_online(&bucket);
    bucket.maand(&["deploy"]).expect(0);
    shown(&bucket, &json!("stopped by hand"));
    assert_eq!(targets(&agent), ["start", "stop"]);
    make(&agent, "start").expect(0);
    shown(&bucket, &Value::Null);

    // With no agent there, the next one knows.
    agent.kill();
    make(&agent, "stop").expect(0);
    agent.start();
    agent.wait_online(&bucket);
    shown(&bucket, &json!("stopped by hand"));
    // The controller's way ends it as well.
    bucket.maand(&["job", "start", "api"]).expect(0);
    assert_eq!(bucket.cat("deployments")[0]["agent"], Value::Null);
    assert_eq!(targets(&agent), ["start", "stop", "start", "stop", "start"]);
}

#[test]
fn who_is_killed_while_make_runs_does_not_give_the_job_away() {
    let (bucket, agent, _serve) = worker();
    let mut by_hand = long(&bucket, &agent);
    by_hand.kill();
    let mut asked = bucket.start("asked", &["job", "restart", "api"]);
    poll::until("the agent to have taken it up", poll::LONG, || {
        let log = std::fs::read_to_string(bucket.dir().join("agents").join(&agent.host).join("agent.log")).unwrap();
        if log.contains("operation_begun") { Ok(()) } else { Err(log) }
    });
    std::fs::write(agent.job_path("api", "data/gate"), "").unwrap();
    assert!(asked.wait(poll::LONG).success(), "{}", asked.printed());
    assert_eq!(targets(&agent), ["start", "long-begins", "long-ends", "restart"]);
}

#[test]
fn a_signal_ends_make_and_is_seen_to_the_end() {
    let (bucket, agent, _serve) = worker();
    let mut by_hand = long(&bucket, &agent);
    by_hand.signal(rustix::process::Signal::TERM);
    assert_eq!(by_hand.wait(poll::LONG).code(), Some(1));
    assert!(by_hand.printed().contains("MD0061"), "{}", by_hand.printed());
    bucket.maand(&["job", "restart", "api"]).expect(0);
    assert_eq!(targets(&agent), ["start", "long-begins", "restart"]);
}

#[test]
fn files_are_not_taken_away_from_what_is_at_work_by_hand() {
    let (bucket, agent, _serve) = worker();
    bucket.write("workspace/disabled.json", r#"{"jobs": {"api": {}}}"#);
    bucket.maand(&["deploy", "--build"]).expect(0);
    assert_eq!(targets(&agent), ["start", "stop"]);
    let mut by_hand = long(&bucket, &agent);
    bucket.write("workspace/disabled.json", "{}");
    std::fs::remove_dir_all(bucket.path("workspace/jobs/api")).unwrap();
    let mut deploy = bucket.start("deploy", &["deploy", "--build"]);
    poll::until("the agent to be held up", poll::LONG, || {
        let log = std::fs::read_to_string(bucket.dir().join("agents").join(&agent.host).join("agent.log")).unwrap();
        if log.contains("maand-agent make is at work on it") { Ok(()) } else { Err(log) }
    });
    assert!(agent.job_path("api", "Makefile").exists());
    std::fs::write(agent.job_path("api", "data/gate"), "").unwrap();
    assert!(by_hand.wait(poll::LONG).success(), "{}", by_hand.printed());
    poll::until("the files to go", poll::LONG, || {
        if agent.job_path("api", "Makefile").exists() { Err("there") } else { Ok(()) }
    });
    assert!(deploy.wait(poll::LONG).success(), "{}", deploy.printed());
    wait_for(&agent, "long-ends");
}
