//! The agent is killed at every point between two of its steps, and serve in the middle of a deploy.

use std::time::Duration;

use crate::support::{agents, bucket, hosts};

#[test]
fn serve_may_stop_and_start_in_the_middle_of_a_deploy() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 2);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &serde_json::json!({"selectors": ["all"], "max_concurrent_starts": 1}));
    let gate = bucket.dir().join("gate");
    bucket.write(
        "workspace/jobs/api/Makefile",
        &format!(
            "start:\n\t@mkdir -p data; echo x >> data/ran; touch {0}.$$$$; for i in $$(seq 600); do [ -e {0} ] && exit 0; sleep 0.05; done; exit 1\nstop:\nrestart:\nreload:\n",
            gate.display()
        ),
    );
    bucket.maand(&["build"]).expect(0);
    let mut serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    let mut deploy = bucket.start("deploy", &["deploy"]);
    harness::poll::until("the first start", harness::poll::LONG, || {
        if agents[0].read("api", "data/ran") == "x\n" { Ok(()) } else { Err(deploy.printed()) }
    });
    serve.kill();
    std::fs::write(&gate, "").unwrap();
    let _serve = bucket.serve();
    let status = deploy.wait(Duration::from_secs(90));
    assert_eq!(status.code(), Some(0), "{}", deploy.printed());
    assert!(bucket.rollouts().iter().all(|(_, _, word)| word == "promoted"));
    for agent in &agents {
        assert_eq!(agent.read("api", "data/ran"), "x\n", "started once, on {}", agent.host);
    }
}

/// A job whose start says something before and after it finds `gate`.
fn gated_job(bucket: &harness::bucket::Bucket, manifest: &serde_json::Value, gate: &std::path::Path) {
    bucket.recording_job("api", manifest);
    let wait = format!("for i in $$(seq 600); do [ -e {} ] && break; sleep 0.05; done", gate.display());
    let start =
        format!("start:\n\t@mkdir -p data; echo x >> data/ran; echo before; {wait}; echo after; touch data/over\n");
    bucket.write("workspace/jobs/api/Makefile", &format!("{start}stop:\nrestart:\nreload:\n"));
}

#[test]
fn output_that_was_written_while_the_controller_was_away_comes_later_and_once() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["all"]);
    let gate = bucket.dir().join("gate");
    gated_job(&bucket, &serde_json::json!({"selectors": ["all"]}), &gate);
    bucket.maand(&["build"]).expect(0);
    let mut serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    let mut deploy = bucket.start("deploy", &["deploy"]);
    let log = || bucket.read(&format!("logs/{}.log", hosts[0]));
    let logged = |what: &str| {
        harness::poll::until(what, harness::poll::LONG, || {
            let text = std::fs::read_to_string(bucket.path(&format!("logs/{}.log", hosts[0]))).unwrap_or_default();
            if text.contains(&format!("msg={what}")) { Ok(()) } else { Err(text) }
        });
    };
    logged("before");
    // Not killed: a line that was written and not yet counted would come twice, rightly.
    serve.stop(Duration::from_secs(20));
    std::fs::write(&gate, "").unwrap();
    harness::poll::until("the end of make", harness::poll::LONG, || {
        if agents[0].job_path("api", "data/over").exists() { Ok(()) } else { Err(deploy.printed()) }
    });
    let _serve = bucket.serve();
    assert_eq!(deploy.wait(Duration::from_secs(90)).code(), Some(0), "{}", deploy.printed());
    logged("after");
    for line in ["msg=before", "msg=after"] {
        assert_eq!(log().matches(line).count(), 1, "{line}: {}", log());
    }
}

#[test]
fn while_a_deploy_lasts_its_trees_can_be_looked_at() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["all"]);
    let gate = bucket.dir().join("gate");
    gated_job(&bucket, &serde_json::json!({"selectors": ["all"]}), &gate);
    bucket.write("workspace/jobs/api/app.conf.j2", "I am {{ worker_ip }}\n");
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let _agents = agents(&bucket, &hosts);
    let mut deploy = bucket.start("deploy", &["deploy"]);
    let tree = bucket.path(&format!("tmp/workers/{}/jobs/api", hosts[0]));
    harness::poll::until("the tree", harness::poll::LONG, || match std::fs::read_to_string(tree.join("app.conf")) {
        Ok(text) if text == format!("I am {}\n", hosts[0]) => Ok(()),
        other => Err(format!("{other:?} {}", deploy.printed())),
    });
    assert!(tree.join("Makefile").exists());
    std::fs::write(&gate, "").unwrap();
    assert_eq!(deploy.wait(Duration::from_secs(90)).code(), Some(0), "{}", deploy.printed());
    assert!(!bucket.path("tmp/workers").exists(), "they go with the deploy");
}

#[test]
fn the_next_batch_downloads_while_this_one_runs() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 3);
    bucket.workers(&hosts, &["all"]);
    let gate = bucket.dir().join("gate");
    gated_job(&bucket, &serde_json::json!({"selectors": ["all"], "max_concurrent_starts": 1}), &gate);
    bucket.write("workspace/jobs/api/conf/big", &"x".repeat(100_000));
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    let mut deploy = bucket.start("deploy", &["deploy"]);
    let stored = |agent: &harness::agents::Agent| {
        let store = agent.bucket_dir().join(".maand/store");
        let dirs = std::fs::read_dir(store).into_iter().flatten().flatten();
        dirs.map(|dir| std::fs::read_dir(dir.path()).unwrap().count()).sum::<usize>()
    };
    harness::poll::until("the early download", harness::poll::LONG, || match stored(&agents[1]) {
        0 => Err(deploy.printed()),
        _ => Ok(()),
    });
    assert!(!agents[1].job_path("api", "Makefile").exists(), "downloaded, not put in place");
    assert_eq!(stored(&agents[2]), 0, "one batch ahead, not all of them");
    std::fs::write(&gate, "").unwrap();
    assert_eq!(deploy.wait(Duration::from_secs(90)).code(), Some(0), "{}", deploy.printed());
    for agent in &agents {
        assert_eq!(agent.read("api", "conf/big").len(), 100_000, "{}", agent.host);
        // A download that was overtaken by the release itself may end after it.
        harness::poll::until("no second copy of what is in place", harness::poll::LONG, || match stored(agent) {
            0 => Ok(()),
            blobs => Err(format!("{blobs} blobs on {}", agent.host)),
        });
    }
}

#[cfg(feature = "failpoints")]
#[test]
fn an_agent_killed_between_any_two_steps_converges() {
    use harness::agents::Agent;

    for point in agent::failpoint::FAILPOINTS {
        let bucket = bucket();
        let hosts = hosts(&bucket, 1);
        bucket.workers(&hosts, &["all"]);
        bucket.recording_job("api", &serde_json::json!({"selectors": ["all"], "version": "1"}));
        bucket.write("workspace/jobs/api/conf/a", "1");
        bucket.write("workspace/jobs/api/conf/b", "1");
        bucket.maand(&["build"]).expect(0);
        let _serve = bucket.serve();
        let mut agent = Agent::join(&bucket, &hosts[0]);
        bucket.maand(&["deploy"]).expect(0);
        agent.process().stop(Duration::from_secs(10));

        bucket.write("workspace/jobs/api/manifest.json", r#"{"selectors": ["all"], "version": "2"}"#);
        bucket.write("workspace/jobs/api/conf/a", "2");
        std::fs::remove_file(bucket.path("workspace/jobs/api/conf/b")).unwrap();
        bucket.write("workspace/jobs/api/conf/c", "2");
        bucket.maand(&["build"]).expect(0);
        agent.start_with(&[("MAAND_FAILPOINT", point)]);
        let mut deploy = bucket.start("deploy", &["deploy"]);
        agent.process().wait(Duration::from_secs(60));
        agent.start();
        let status = deploy.wait(Duration::from_secs(120));
        assert_eq!(status.code(), Some(0), "killed at {point}: {}", deploy.printed());
        assert_eq!(agent.read("api", "conf/a"), "2", "{point}");
        assert!(!agent.job_path("api", "conf/b").exists(), "{point}");
        assert_eq!(agent.read("api", "conf/c"), "2", "{point}");
        let ran = agent.read("api", "data/ran");
        // At most once per action id: an interrupted one is issued anew, under a new id.
        assert!(
            ran == "start 0.0.0 1.0.0\nrestart 1.0.0 2.0.0\n" || ran.matches("restart").count() == 2,
            "{point}: {ran}"
        );
        assert!(bucket.rollouts().iter().all(|(_, _, word)| word == "promoted"), "{point}");
    }
}

#[cfg(feature = "failpoints")]
#[test]
fn an_operation_is_done_at_most_once_wherever_its_agent_is_killed() {
    use agent::failpoint::OPERATION_FAILPOINTS;
    use harness::agents::Agent;

    use crate::operations::{FAR, ID, plant, wait_for_outcome};

    for point in OPERATION_FAILPOINTS.iter().chain(&["run::spawned", "run::released"]) {
        let bucket = bucket();
        let hosts = hosts(&bucket, 1);
        bucket.workers(&hosts, &["all"]);
        bucket.recording_job("api", &serde_json::json!({"selectors": ["all"]}));
        bucket.maand(&["build"]).expect(0);
        let _serve = bucket.serve();
        let mut agent = Agent::join(&bucket, &hosts[0]);
        bucket.maand(&["deploy"]).expect(0);
        agent.process().stop(Duration::from_secs(10));
        let ran = bucket.dir().join("ran");
        plant(&bucket, ID, &format!("echo x >> {}", ran.display()), FAR);
        agent.start_with(&[("MAAND_FAILPOINT", point)]);
        agent.process().wait(Duration::from_secs(60));
        agent.start();
        let outcome = wait_for_outcome(&bucket, ID);
        let times = std::fs::read_to_string(&ran).unwrap_or_default();
        match outcome["kind"].as_str().unwrap() {
            "ok" => assert_eq!(times, "x\n", "{point}"),
            // Nobody knows how it went, so nobody says that it went well; twice it never is.
            "interrupted" => assert!(times.is_empty() || times == "x\n", "{point}: {times}"),
            other => panic!("{point}: {other}"),
        }
        if point.starts_with("operation::after") || point.starts_with("operation::result") {
            assert_eq!(outcome["kind"], "ok", "{point}");
        }
    }
}

#[test]
fn an_interrupted_deploy_pauses_and_a_killed_one_is_gone_on_with() {
    for killed in [false, true] {
        let bucket = bucket();
        let hosts = hosts(&bucket, 2);
        bucket.workers(&hosts, &["all"]);
        let manifest = serde_json::json!({"selectors": ["all"], "max_concurrent_starts": 1});
        bucket.recording_job("api", &manifest);
        let gate = bucket.dir().join("gate");
        let start = format!(
            "echo x >> data/ran; for i in $$(seq 600); do [ -e {} ] && exit 0; sleep 0.05; done; exit 1",
            gate.display()
        );
        bucket.write(
            "workspace/jobs/api/Makefile",
            &format!("start:\n\t@mkdir -p data; {start}\nstop:\nrestart:\nreload:\n"),
        );
        bucket.maand(&["build"]).expect(0);
        let _serve = bucket.serve();
        let agents = agents(&bucket, &hosts);
        let mut deploy = bucket.start("deploy", &["deploy"]);
        harness::poll::until("the first start", harness::poll::LONG, || {
            if agents[0].read("api", "data/ran") == "x\n" { Ok(()) } else { Err(deploy.printed()) }
        });
        if killed {
            deploy.kill();
            let busy = bucket.maand(&["deploy"]).expect(1);
            assert!(busy.stderr.contains("MD0067"), "its lease is good for a while: {}", busy.stderr);
            let over = "UPDATE rollout SET lease_until = 1";
            rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap().execute(over, []).unwrap();
            std::fs::write(&gate, "").unwrap();
        } else {
            deploy.signal(rustix::process::Signal::INT);
            std::fs::write(&gate, "").unwrap();
            assert_eq!(deploy.wait(Duration::from_secs(60)).code(), Some(1), "{}", deploy.printed());
            assert!(deploy.printed().contains("the deploy is paused"), "{}", deploy.printed());
            let words: Vec<_> = bucket.rollouts().into_iter().map(|(_, _, word)| word).collect();
            assert_eq!(words, ["promoted", "new"], "what was in flight was finished, nothing more begun");
        }
        bucket.maand(&["deploy"]).expect(0);
        assert!(bucket.rollouts().iter().all(|(_, _, word)| word == "promoted"));
        for agent in &agents {
            assert_eq!(agent.read("api", "data/ran"), "x\n", "started once, on {}", agent.host);
        }
    }
}
