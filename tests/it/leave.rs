//! `maand-agent leave`: the end of an agent by its own word. Under systemd: `booted`.

use std::time::Duration;

use harness::agents::Agent;
use harness::process::{Output, finish};
use serde_json::json;

use crate::support::{agents, bucket, hosts};

fn leave(agent: &Agent, more: &[&str]) -> Output {
    let mut command = agent.command();
    command.arg("leave").args(more);
    finish(command, Duration::from_secs(60))
}

#[test]
fn what_runs_is_stopped_its_files_go_and_the_certificate_ends() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 2);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &json!({ "version": "1.0.0", "selectors": ["all"] }));
    bucket.maand(&["build"]).expect(0);
    let serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    std::fs::create_dir_all(agents[0].job_path("api", "data")).unwrap();
    std::fs::write(agents[0].job_path("api", "data/kept"), "1").unwrap();

    let asked = leave(&agents[0], &[]).expect(2);
    assert!(asked.stderr.contains("add --yes") && asked.stderr.contains("api"), "{}", asked.stderr);
    let runs = leave(&agents[0], &["--yes"]).expect(1);
    assert!(runs.stderr.contains("MD0084"), "not beside an agent that runs: {}", runs.stderr);
    agents[0].kill();

    // A job that does not stop: nothing is taken away, and the certificate is good.
    let makefile = agents[0].job_path("api", "Makefile");
    let good = std::fs::read_to_string(&makefile).unwrap();
    std::fs::write(&makefile, "stop:\n\t@exit 3\n").unwrap();
    let stuck = leave(&agents[0], &["--yes"]).expect(1);
    assert!(stuck.stderr.contains("not stopped: api"), "{}", stuck.stderr);
    assert!(makefile.is_file());
    std::fs::write(&makefile, good).unwrap();

    let left = leave(&agents[0], &["--yes"]).expect(0);
    assert!(left.stdout.contains("job api: stopped"), "{}", left.stdout);
    assert!(!makefile.exists());
    assert_eq!(agents[0].read("api", "data/kept"), "1");
    assert!(!agents[0].bucket_dir().join(".maand").exists() && !agents[0].bucket_dir().join("jobs.json").exists());
    let state = |host: usize| bucket.cat("agents")[host]["state"].clone();
    assert_eq!(state(0), "revoked");
    let again = leave(&agents[0], &["--yes"]).expect(3);
    assert!(again.stderr.contains("has not joined"), "{}", again.stderr);
    assert!(bucket.read("logs/maand.log").contains("event=agent_left"));

    // The other one while its controller is away: refused before anything is done, unless that is meant.
    agents[1].kill();
    drop(serve);
    let away = leave(&agents[1], &["--yes"]).expect(1);
    assert!(away.stderr.contains("nothing was done"), "{}", away.stderr);
    let calls = agents[1].read("api", "data/ran");
    leave(&agents[1], &["--yes", "--offline", "--keep-running"]).expect(0);
    assert_eq!(agents[1].read("api", "data/ran"), calls, "nothing was stopped");
    assert!(agents[1].job_path("api", "Makefile").is_file());
    assert!(agents[1].bucket_dir().join(".maand/ledger.db").is_file(), "for an agent that joins again");
}
