//! What is no longer wanted: a job that is gone, a worker that is gone, with its agent there or away.

use harness::poll;
use rustix::process::Signal;
use serde_json::json;

use super::Fleet;

#[test]
fn a_removed_job_is_stopped_and_leaves_data_and_logs_that_its_return_finds() {
    let mut fleet = Fleet::new(1);
    fleet.job("api", json!({}));
    fleet.job("web", json!({}));
    fleet.bucket.write("workspace/jobs/api/conf/app", "1");
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    std::fs::create_dir_all(fleet.agents[0].job_path("api", "logs")).unwrap();
    std::fs::write(fleet.agents[0].job_path("api", "logs/x.log"), "kept").unwrap();
    std::fs::create_dir_all(fleet.agents[0].job_path("api", "bin")).unwrap();
    std::fs::write(fleet.agents[0].job_path("api", "bin/tool"), "x").unwrap();

    std::fs::rename(fleet.bucket.path("workspace/jobs/api"), fleet.bucket.dir().join("api")).unwrap();
    fleet.bucket.maand(&["build"]).expect(0);
    assert_eq!(fleet.words("api"), ["removed"]);
    let dry = fleet.bucket.maand(&["deploy", "-n"]).expect(0).stdout;
    assert!(dry.contains(" stop ") && dry.contains(" removed"), "a dry run shows it: {dry}");
    let said = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(said.contains("removed; data/ and logs/ stay until maand gc"), "{said}");
    assert_eq!(fleet.agents[0].read("api", "data/ran"), "start 0.0.0 0.0.0\nstop 0.0.0 0.0.0\n");
    assert_eq!(fleet.agents[0].read("api", "logs/x.log"), "kept");
    let left: Vec<_> =
        std::fs::read_dir(fleet.agents[0].job_path("api", "")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 2, "its artifacts are gone: {left:?}");
    let row = fleet.bucket.cat("deployments")[0].clone();
    assert_eq!((&row["rollout"], &row["previous_hash"]), (&json!("removed"), &json!(null)), "{row}");
    assert!(fleet.bucket.maand(&["deploy", "-n"]).expect(0).stdout.contains("no deployment required"));

    std::fs::rename(fleet.bucket.dir().join("api"), fleet.bucket.path("workspace/jobs/api")).unwrap();
    fleet.bucket.maand(&["build"]).expect(0);
    assert_eq!(fleet.words("api"), ["new"]);
    fleet.bucket.maand(&["deploy"]).expect(0);
    let ran = fleet.agents[0].read("api", "data/ran");
    assert_eq!(ran, "start 0.0.0 0.0.0\nstop 0.0.0 0.0.0\nstart 0.0.0 0.0.0\n", "it found its old data");
    assert_eq!(fleet.agents[0].read("web", "data/ran"), "start 0.0.0 0.0.0\n");
}

#[test]
fn a_removed_worker_that_is_there_cleans_up_and_one_that_is_away_does_when_it_is_back() {
    for away in [false, true] {
        let mut fleet = Fleet::new(2);
        fleet.bucket.setting("pickup_timeout = 2");
        fleet.job("api", json!({}));
        fleet.up();
        fleet.bucket.maand(&["deploy"]).expect(0);
        let gone = fleet.hosts[1].clone();
        if away {
            fleet.agents[1].kill();
            poll::until("the agent to be seen offline", poll::LONG, || {
                let state = fleet.bucket.cat("agents")[1]["state"].clone();
                if state == "offline" { Ok(()) } else { Err(state) }
            });
        }
        fleet.bucket.workers(&fleet.hosts[..1], &["all"]);
        fleet.edit(&["api"], "2");
        let deployed = fleet.bucket.maand(&["deploy"]).expect(0);
        let dead = format!("deploy: removed worker {gone} unreachable, assuming dead");
        assert_eq!(deployed.stderr.contains(&dead), away, "{}", deployed.stderr);
        assert_eq!(
            fleet.bucket.read("logs/maand.log").contains(&dead)
                || fleet.bucket.read(&format!("logs/{gone}.log")).contains(&dead),
            away
        );
        assert_eq!(fleet.words("api"), ["promoted", "removed"]);
        if away {
            assert!(fleet.agents[1].job_path("api", "Makefile").exists());
            // Nobody waits for it, and another deploy has nothing to do that it could do.
            fleet.bucket.maand(&["deploy"]).expect(0);
            fleet.agents[1].start();
        }
        let tree = fleet.agents[1].job_path("api", "");
        poll::until("the worker to be cleaned up", poll::LONG, || {
            let left: Vec<_> = std::fs::read_dir(&tree).unwrap().flatten().map(|entry| entry.file_name()).collect();
            if left == ["data"] { Ok(()) } else { Err(left) }
        });
        assert_eq!(fleet.agents[1].read("api", "data/ran"), "start 0.0.0 0.0.0\nstop 0.0.0 0.0.0\n", "stopped once");
        poll::until("the catalog to learn it", poll::LONG, || {
            let said = fleet.bucket.maand(&["deploy", "--dry-run"]).expect(0).stdout;
            if said.contains("no deployment required") { Ok(()) } else { Err(said) }
        });
        fleet.bucket.maand(&["deploy"]).expect(0);
        let row = fleet.bucket.cat("deployments")[1].clone();
        assert_eq!((&row["worker_ip"], &row["previous_hash"]), (&json!(gone), &json!(null)), "{row}");
        assert_eq!(fleet.agents[1].read("api", "data/ran").lines().count(), 2);
    }
}

#[test]
fn a_removed_worker_that_sleeps_is_given_up_in_time_and_not_the_deploy() {
    let mut fleet = Fleet::new(2);
    fleet.bucket.setting("pickup_timeout = 2");
    fleet.job("api", json!({}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    // Its connection stands: nobody knows yet that it is away.
    fleet.agents[1].process().signal(Signal::STOP);
    fleet.bucket.workers(&fleet.hosts[..1], &["all"]);
    fleet.bucket.maand(&["build"]).expect(0);
    let said = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(said.contains(&format!("deploy: removed worker {} unreachable, assuming dead", fleet.hosts[1])), "{said}");
    fleet.agents[1].process().signal(Signal::CONT);
    let makefile = fleet.agents[1].job_path("api", "Makefile");
    poll::until(
        "the worker to be cleaned up",
        poll::LONG,
        || if makefile.exists() { Err(said.clone()) } else { Ok(()) },
    );
}
