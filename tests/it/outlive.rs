//! What a job runs, and what became of it, outlives the agent: its stop, its death and its upgrade, while make runs
//! and after. Without systemd: by the session of its own that each run has.

use std::path::Path;
use std::time::Duration;

use harness::agents::Agent;
use harness::bucket::Bucket;
use harness::poll;
use harness::process::Running;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::{bucket, hosts};

/// A process of the job's, ended with the test.
struct Left(Pid);

impl Drop for Left {
    fn drop(&mut self) {
        let _gone = kill_process(self.0, Signal::KILL);
    }
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Stop,
    Kill,
    Upgrade,
}

/// The agent goes, and comes back.
fn leave_and_return(bucket: &Bucket, agent: &mut Agent, way: Way) {
    match way {
        Way::Stop => assert!(agent.process().stop(Duration::from_secs(20)).success()),
        Way::Kill => agent.kill(),
        Way::Upgrade => {
            replace_program(&bucket.programs().agent);
            assert!(agent.process().stop(Duration::from_secs(20)).success());
        }
    }
    agent.start();
}

fn wait_for_start(agent: &Agent, deploy: &Running) {
    poll::until("the start to begin", poll::LONG, || {
        let has_begun = std::fs::read_dir(agent.root()).is_ok_and(|mut buckets| buckets.next().is_some());
        let began = has_begun && agent.read("api", "data/ran") == "x\n";
        if began { Ok(()) } else { Err(deploy.printed()) }
    });
}

/// As a package does: another file of the name, while the old one runs.
fn replace_program(program: &Path) {
    let new = program.with_extension("new");
    std::fs::copy(program, &new).unwrap();
    std::fs::rename(&new, program).unwrap();
}

/// A job that leaves a process behind and waits for `gate` before its start is over.
fn long_job(bucket: &Bucket, gate: &Path) {
    bucket.recording_job("api", &serde_json::json!({"selectors": ["all"]}));
    let wait = format!("for i in $$(seq 1200); do [ -e {} ] && exit 0; sleep 0.05; done; exit 1", gate.display());
    let left = "sleep 600 >/dev/null 2>&1 & echo $$! > data/pid.new; mv data/pid.new data/pid";
    let start = format!("start:\n\t@mkdir -p data; {left}; echo started; echo x >> data/ran; {wait}\n");
    bucket.write("workspace/jobs/api/Makefile", &format!("{start}stop:\nrestart:\nreload:\n"));
}

#[test]
fn stopped_killed_or_upgraded_an_agent_ends_no_process_and_loses_no_result() {
    for way in [Way::Stop, Way::Kill, Way::Upgrade] {
        let bucket = bucket();
        let hosts = hosts(&bucket, 1);
        bucket.workers(&hosts, &["all"]);
        let gate = bucket.dir().join("gate");
        long_job(&bucket, &gate);
        bucket.maand(&["build"]).expect(0);
        let _serve = bucket.serve();
        let mut agent = Agent::join(&bucket, &hosts[0]);
        let mut deploy = bucket.start("deploy", &["deploy"]);
        wait_for_start(&agent, &deploy);
        let left = Left(Pid::from_raw(agent.read("api", "data/pid").trim().parse().unwrap()).unwrap());

        leave_and_return(&bucket, &mut agent, way);
        assert!(test_kill_process(left.0).is_ok(), "{way:?} while make runs");
        std::fs::write(&gate, "").unwrap();
        assert_eq!(deploy.wait(Duration::from_secs(90)).code(), Some(0), "{way:?}: {}", deploy.printed());
        assert_eq!(agent.read("api", "data/ran"), "x\n", "{way:?}: started once");

        leave_and_return(&bucket, &mut agent, way);
        agent.wait_online(&bucket);
        assert!(test_kill_process(left.0).is_ok(), "{way:?} after make");
        assert!(bucket.rollouts().iter().all(|(_, _, word)| word == "promoted"), "{way:?}");
        let again = bucket.maand(&["deploy"]).expect(0);
        assert_eq!(agent.read("api", "data/ran"), "x\n", "{way:?}: {}", again.stdout);
    }
}

#[test]
fn a_result_that_came_while_no_agent_was_there_is_reported_by_the_next_one() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["all"]);
    let gate = bucket.dir().join("gate");
    long_job(&bucket, &gate);
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let mut agent = Agent::join(&bucket, &hosts[0]);
    let mut deploy = bucket.start("deploy", &["deploy"]);
    wait_for_start(&agent, &deploy);
    let left = Left(Pid::from_raw(agent.read("api", "data/pid").trim().parse().unwrap()).unwrap());
    agent.kill();
    std::fs::write(&gate, "").unwrap();
    let runs = agent.bucket_dir().join(".maand/runs");
    poll::until("the result", poll::LONG, || {
        let dirs = std::fs::read_dir(&runs).into_iter().flatten().flatten();
        if dirs.map(|dir| dir.path().join("result.json")).any(|file| file.is_file()) { Ok(()) } else { Err(()) }
    });
    agent.start();
    assert_eq!(deploy.wait(Duration::from_secs(90)).code(), Some(0), "{}", deploy.printed());
    assert_eq!(agent.read("api", "data/ran"), "x\n", "started once");
    assert!(test_kill_process(left.0).is_ok());
}

#[test]
fn an_agent_whose_program_was_replaced_under_it_still_runs_what_it_is_told() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &serde_json::json!({"selectors": ["all"]}));
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let agent = Agent::join(&bucket, &hosts[0]);
    replace_program(&bucket.programs().agent);
    bucket.maand(&["deploy"]).expect(0);
    assert_eq!(agent.read("api", "data/ran"), "start 0.0.0 0.0.0\n");
}
