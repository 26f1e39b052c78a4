//! The bucket's logs, with the real programs: what commands write there, and `maand logs`.

use harness::poll;
use serde_json::{Value, json};

use crate::support::{agents, bare, bucket, hosts};

/// What `maand logs show` prints.
fn show(bucket: &harness::bucket::Bucket, flags: &[&str]) -> String {
    bucket.maand(&[&["logs", "show"], flags].concat()).expect(0).stdout
}

#[test]
fn what_a_deploy_and_ad_hoc_work_did_is_in_the_logs_and_found_again() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 2);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    bucket.recording_job("web", &json!({"selectors": ["all"]}));
    bucket.write("workspace/disabled.json", r#"{"jobs": {"web": {}}}"#);
    let none = bucket.maand(&["logs", "show"]).expect(1);
    assert!(none.stderr.contains("MD0010") && none.stderr.contains("there is no log in logs"), "{}", none.stderr);
    bucket.maand(&["build"]).expect(0);
    let serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    agents.iter().for_each(|agent| agent.wait_online(&bucket));
    bucket.maand(&["deploy"]).expect(0);
    let again = bucket.maand(&["deploy"]).expect(0);
    assert!(again.stderr.contains("skip"), "{}", again.stderr);
    bucket.maand(&["run_command", "echo \"two  words\"; echo oh >&2; exit 3", "-w", &hosts[0]]).expect(1);

    // Fields and their order, in pairs: begin, output, end.
    let script = show(&bucket, &["--worker", &hosts[0], "--phase", "run_command"]);
    let lines: Vec<&str> = script.lines().collect();
    assert_eq!(lines.len(), 4, "{script}");
    let head = |event: &str| format!(" level=info event={event} run=");
    assert!(lines[0].starts_with("ts=20") && lines[0].contains(&head("command_begin")), "{script}");
    let ends = format!(
        " maand=run_command seq=2 worker={} phase=run_command action=script \
         cmd=\"echo \\\"two words\\\"; echo oh >&2; exit 3\"",
        hosts[0]
    );
    assert!(lines[0].ends_with(&ends), "{script}\n{ends}");
    assert!(script.contains("action=script stream=stdout msg=\"two  words\"\n"), "{script}");
    assert!(
        lines[3].contains(" level=error event=command_end ") && lines[3].contains(" exit=3 duration_ms="),
        "{script}"
    );

    // A block as the guide shows it.
    let human = show(&bucket, &["--worker", &hosts[0], "--phase", "run_command", "--format", "human"]);
    let lines: Vec<&str> = human.lines().collect();
    assert!(lines[0].contains(" run_command seq=2 run="), "{human}");
    assert_eq!(lines[1], format!("run_command script {}", hosts[0]));
    assert_eq!(lines[2], "$ echo \"two words\"; echo oh >&2; exit 3");
    assert!(lines.contains(&"| two  words") && lines.contains(&"! oh"), "{human}");
    assert!(lines[5].starts_with("FAIL exit=3 "), "{human}");

    // The deploy's: the action of each worker, what was skipped, what needed no stop.
    let deployed = show(&bucket, &["--job", "ap", "--worker", &hosts[1], "--format", "human"]);
    assert!(
        deployed.contains(&format!("\nrollout start api@{}\n$ make -s -C jobs/api start\n", hosts[1])),
        "{deployed}"
    );
    assert!(deployed.contains("\nok exit=0 "), "{deployed}");
    let skipped = show(&bucket, &["--event", "deploy_skip", "--job", "api", "--format", "human"]);
    assert!(skipped.lines().count() == 1 && skipped.contains("deploy_skip api: "), "{skipped}");
    let rested = show(&bucket, &["--event", "reconcile_skip_stop", "--worker", &hosts[0]]);
    assert!(rested.contains("job=web phase=reconcile reason=not_deployed\n"), "{rested}");

    // By run, also by the beginning of its id, and as JSON.
    let begun = show(&bucket, &["--event", "command_begin", "--phase", "run_command", "--json"]);
    let begun: Value = serde_json::from_str(begun.lines().next().unwrap()).unwrap();
    assert_eq!(begun["seq"], 2, "a number: {begun}");
    let run = begun["run"].as_str().unwrap();
    let whole = show(&bucket, &["--run", run, "--run-dir"]);
    assert_eq!(whole, show(&bucket, &["--run", &run[..30]]), "{whole}");
    assert!(whole.lines().count() == 6 && whole.lines().all(|line| line.contains(run)), "{whole}");
    assert_eq!(show(&bucket, &["--run", run, "--tail", "2"]).lines().count(), 2);
    let unknown = bucket.maand(&["logs", "show", "--run", "none", "--run-dir"]).expect(1);
    assert!(unknown.stderr.contains("log_keep_runs"), "{}", unknown.stderr);
    let nobody = bucket.maand(&["logs", "show", "--worker", "nobody"]).expect(1);
    assert!(nobody.stderr.contains("maand cat workers"), "{}", nobody.stderr);
    assert!(bucket.maand(&["logs", "show", "--format", "xml"]).expect(2).stderr.contains("human"));
    drop(serve);
}

#[test]
fn a_log_that_has_grown_is_set_aside_and_followed_all_the_same() {
    let bucket = bucket();
    bucket.write("maand.conf", "log_max_mb = 1\nlog_keep = 2\nlog_keep_runs = 3\nlog_format = \"json\"\n");
    bucket.workers(&["127.0.0.1".to_owned()], &["all"]);
    bucket.maand(&["build"]).expect(0);
    let log = bucket.path("logs/maand.log");
    // The next line makes it too long.
    let mut long = std::fs::read_to_string(&log).unwrap();
    long.push_str(&"ts=2020-01-01T00:00:00.000Z level=info maand=x worker=- msg=filling\n".repeat(16_000));
    std::fs::write(&log, long).unwrap();

    let mut follow = bucket.start("follow", &["logs", "show", "--event", "catalog_built", "--follow", "--json"]);
    let followed = |count: usize| {
        poll::until("the line to be followed", poll::LONG, || {
            let printed = follow.printed();
            if printed.lines().count() >= count { Ok(()) } else { Err(printed) }
        });
    };
    followed(1);
    for more in 2..=5 {
        bucket.maand(&["build"]).expect(0);
        followed(more);
    }
    let mut runs: Vec<Value> =
        follow.printed().lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["run"].take()).collect();
    follow.kill();
    runs.dedup();
    assert_eq!(runs.len(), 5, "each once: {runs:?}");

    assert!(bucket.path("logs/maand.log.1").is_file(), "it was set aside");
    let built = show(&bucket, &["--event", "catalog_built"]);
    assert_eq!(built.lines().count(), 5, "those set aside are read too: {built}");
    let kept = std::fs::read_dir(bucket.path("logs/runs")).unwrap().count();
    assert_eq!(kept, 3, "the last runs stay");
}

#[test]
fn logs_are_of_a_bucket() {
    assert!(bare().maand(&["logs", "show"]).expect(4).stderr.contains("MD0003"));
}

#[test]
fn an_error_code_is_explained_without_a_bucket() {
    let bucket = bare();
    for asked in ["MD0012", "md12", "12"] {
        let page = bucket.maand(&["explain", asked]).expect(0).stdout;
        assert!(page.starts_with("# MD0012: a key or certificate of the bucket"), "{page}");
        assert!(page.contains("## What to do"), "{page}");
    }
    let all = bucket.maand(&["explain"]).expect(0).stdout;
    assert!(shared::Code::ALL.iter().all(|code| all.contains(&code.to_string())), "{all}");
    let none = bucket.maand(&["explain", "MD0013"]).expect(2).stderr;
    assert!(none.contains("MD0009") && none.contains("did you mean MD00"), "{none}");
}

#[test]
fn each_error_code_is_used() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut text = String::new();
    let mut open = vec![root.join("controller/src"), root.join("agent/src")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let used = |code: &&shared::Code| text.contains(&format!("Code::{code:?}"));
    let unused: Vec<_> = shared::Code::ALL.iter().filter(|code| !used(code)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

/// A deployed job whose Makefile has a target that lasts until `gate` is there.
fn worker() -> (harness::bucket::Bucket, harness::agents::Agent, harness::process::Running) {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    let makefile = bucket.read("workspace/jobs/api/Makefile");
    let more = "env:\n\t@echo \"$$JOB $$WORKER_IP $$NEW_VERSION\"\nfails:\n\t@exit 7\n\
                long:\n\t@mkdir -p data && echo long-begins >> data/ran; while [ ! -e data/gate ]; do sleep 0.05; done; \
                echo long-ends >> data/ran\n";
    bucket.write("workspace/jobs/api/Makefile", &format!("{makefile}{more}"));
    bucket.maand(&["build"]).expect(0);
    let serve = bucket.serve();
    let agent = agents(&bucket, &hosts).remove(0);
    agent.wait_online(&bucket);
    bucket.maand(&["deploy"]).expect(0);
    (bucket, agent, serve)
}

/// `maand-agent WORD…` on the worker.
fn local(agent: &harness::agents::Agent, words: &[&str]) -> harness::process::Output {
    let mut command = agent.command();
    command.args(words);
    harness::process::finish(command, poll::LONG)
}

#[test]
fn what_a_job_wrote_itself_is_read_through_its_agent_and_on_its_worker() {
    let (bucket, mut agent, mut serve) = worker();
    let host = agent.host.clone();
    let read = bucket.maand(&["logs", "job", "api"]).expect(0);
    assert_eq!(read.stdout, "", "it has written nothing: {}", read.stderr);
    let log = agent.job_path("api", "logs/app.log");
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    std::fs::write(&log, "one\ntwo\nthree\n").unwrap();
    let read = bucket.maand(&["logs", "job", "api", "--worker", &host, "--tail", "2"]).expect(0);
    assert_eq!(read.stdout, format!("api@{host} | two\napi@{host} | three\n"), "{}", read.stderr);
    assert!(!bucket.read(&format!("logs/{host}.log")).contains("three"), "it is not copied into other logs");
    let rows: Value = serde_json::from_str(&bucket.maand(&["logs", "job", "api", "--json"]).expect(0).stdout).unwrap();
    assert_eq!((&rows[0]["job"], &rows[0]["stdout"]), (&json!("api"), &json!("one\ntwo\nthree\n")));
    assert!(bucket.maand(&["logs", "job", "apo"]).expect(2).stderr.contains("did you mean \"api\""));

    // Followed, while somebody else works on the job, until Ctrl-C.
    let mut follow = bucket.start("follow", &["logs", "job", "api", "--tail", "1", "--follow"]);
    let until = |text: &str| {
        poll::until("it to be followed", poll::LONG, || {
            let printed = follow.printed();
            if printed.contains(text) { Ok(()) } else { Err(printed) }
        });
    };
    until(&format!("api@{host} | three\n"));
    let mut whole = std::fs::read_to_string(&log).unwrap();
    whole.push_str("four\n");
    std::fs::write(&log, whole).unwrap();
    until(&format!("api@{host} | four\n"));
    follow.signal(rustix::process::Signal::INT);
    assert_eq!(follow.wait(poll::LONG).code(), Some(0), "{}", follow.printed());

    // On the worker, with the controller away.
    serve.stop(poll::LONG);
    assert_eq!(local(&agent, &["logs", "api", "--tail", "1"]).expect(0).stdout, "four\n");
    assert!(local(&agent, &["logs", "apo"]).expect(1).stderr.contains("did you mean \"api\""));
    assert!(local(&agent, &["status"]).expect(0).stdout.contains("api"));

    // What the worker's agent.toml leaves out is not done.
    agent.process().stop(poll::LONG);
    let toml = bucket.dir().join("agents").join(&agent.host).join("agent.toml");
    let text = std::fs::read_to_string(&toml).unwrap();
    assert!(text.contains("# allow = [\"make\", \"script\", \"probe\", \"logs\"]"), "{text}");
    std::fs::write(&toml, format!("{text}allow = [\"make\"]\n")).unwrap();
    agent.start();
    let _serve = bucket.serve();
    agent.wait_online(&bucket);
    let refused = bucket.maand(&["logs", "job", "api"]).expect(1).stderr;
    assert!(refused.contains("MD0066") && refused.contains("allows make, no logs"), "{refused}");
}

#[test]
fn make_on_the_worker_is_never_beside_what_the_agent_runs() {
    let (bucket, agent, _serve) = worker();
    let host = agent.host.clone();
    assert_eq!(local(&agent, &["make", "api", "env"]).expect(0).stdout, format!("api {host} 0.0.0\n"));
    let failed = local(&agent, &["make", "api", "fails"]).expect(1).stderr;
    assert!(failed.contains("MD0061") && failed.contains("make fails failed with exit code"), "{failed}");
    assert!(local(&agent, &["make", "apo", "env"]).expect(1).stderr.contains("did you mean \"api\""));
    assert!(local(&agent, &["make", "api", "-f"]).code == 2);
    assert!(local(&agent, &["make", "api", "A=b"]).expect(2).stderr.contains("MD0002"));

    // By hand first: what the controller asks for waits.
    let gate = agent.job_path("api", "data/gate");
    let ran = |agent: &harness::agents::Agent| agent.read("api", "data/ran");
    let begun = |lines: usize| {
        poll::until("it to have begun", poll::LONG, || {
            let text = ran(&agent);
            if text.lines().filter(|line| *line == "long-begins").count() == lines { Ok(()) } else { Err(text) }
        });
    };
    let mut by_hand = agent.command();
    by_hand.args(["make", "api", "long"]);
    let mut by_hand = harness::process::Running::start("by hand", by_hand, &bucket.dir().join("by-hand"));
    begun(1);
    let mut asked = bucket.start("asked", &["job", "restart", "api"]);
    poll::until("the agent to have taken it up", poll::LONG, || {
        let log = std::fs::read_to_string(bucket.dir().join("agents").join(&agent.host).join("agent.log")).unwrap();
        if log.contains("operation_begun") { Ok(()) } else { Err(log) }
    });
    std::fs::write(&gate, "").unwrap();
    assert!(by_hand.wait(poll::LONG).success(), "{}", by_hand.printed());
    assert!(asked.wait(poll::LONG).success(), "{}", asked.printed());
    let order: Vec<String> = ran(&agent).lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(order, ["start", "long-begins", "long-ends", "restart"]);

    // The other way round: by hand waits, and says so.
    std::fs::remove_file(&gate).unwrap();
    let mut asked = bucket.start("asked", &["job", "run", "api", "--target", "long"]);
    begun(2);
    let mut by_hand = agent.command();
    by_hand.args(["make", "api", "reload"]);
    let mut by_hand = harness::process::Running::start("by hand", by_hand, &bucket.dir().join("by-hand"));
    poll::until("it to wait", poll::LONG, || {
        let printed = by_hand.printed();
        if printed.contains("waiting for what is at work on api") { Ok(()) } else { Err(printed) }
    });
    std::fs::write(&gate, "").unwrap();
    assert!(asked.wait(poll::LONG).success() && by_hand.wait(poll::LONG).success(), "{}", by_hand.printed());
    assert!(ran(&agent).contains("long-ends\nreload"), "{}", ran(&agent));
}

#[test]
fn runner_py_is_there_for_habits() {
    let (_bucket, agent, _serve) = worker();
    let dir = agent.bucket_dir();
    let id = dir.file_name().unwrap().to_str().unwrap().to_owned();
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new("python3");
        command.arg(dir.join("bin/runner.py")).args(words);
        harness::process::finish(command, poll::LONG)
    };
    assert!(run(&[&id, "env"]).expect(0).stdout.starts_with("api "));
    assert!(run(&[&id, "env", "--jobs", "other,api"]).expect(0).stdout.starts_with("api "));
    assert_eq!(run(&[&id, "env", "--jobs", "other"]).expect(0).stdout, "", "what is not here is no failure");
    assert!(run(&[&id, "fails"]).expect(1).stderr.contains("MD0061"));
    assert!(run(&["another", "env"]).expect(1).stderr.contains("this agent is of bucket"));
}
