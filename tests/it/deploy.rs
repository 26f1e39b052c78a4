//! From a workspace to running jobs, with the real programs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use harness::agents::Agent;
use harness::poll;
use serde_json::json;

use crate::support::{agents, bare, bucket, hosts};

/// GET over a plain socket; the body, or why there is none.
fn get(address: Ipv4Addr, port: u16, path: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect((address, port)).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(answer),
    }
}

const WEB_MAKEFILE: &str = "\
start:
\t@mkdir -p data logs
\t@setsid nohup python3 -m http.server $$(cat port) --bind $$(cat address) >> logs/web.log 2>&1 < /dev/null & echo $$! > data/pid
\t@for i in $$(seq 100); do curl -fso /dev/null http://$$(cat address):$$(cat port)/ && exit 0; sleep 0.05; done; exit 1
stop:
\t@if [ -f data/pid ]; then kill $$(cat data/pid) 2>/dev/null; rm -f data/pid; fi; true
restart: stop start
reload:
\t@true
";

#[test]
fn init_build_join_deploy_edit_deploy() {
    let bucket = bare();
    let made = bucket.maand(&["init"]).expect(0);
    assert!(
        made.stdout.contains("maand build") || made.stderr.contains("maand build"),
        "says what comes next: {made:?}"
    );
    let info = bucket.maand(&["info", "--json"]).expect(0).stdout;
    bucket.maand(&["init"]).expect(0);
    assert_eq!(bucket.maand(&["info", "--json"]).expect(0).stdout, info, "init twice changes nothing");
    bucket.listen_on(bucket.address(1), bucket.address(1));

    let hosts = hosts(&bucket, 2);
    bucket.workers(&hosts, &["web"]);
    bucket.write("workspace/jobs/web/manifest.json", &json!({"version": "1.0.0"}).to_string());
    bucket.write("workspace/jobs/web/Makefile", WEB_MAKEFILE);
    bucket.write("workspace/jobs/web/port", &format!("{}\n", bucket.port()));
    bucket.write("workspace/jobs/web/address.j2", "{{ worker_ip }}\n");
    bucket.write("workspace/jobs/web/index.html.j2", "hello from {{ worker_ip }} v{{ new_version }}\n");
    bucket.maand(&["build"]).expect(0);

    let _serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    let dry = bucket.maand(&["deploy", "--dry-run"]).expect(0).stdout;
    assert!(dry.contains("deploy dry-run: deployment required"), "{dry}");
    assert_eq!(dry.matches("start").count(), 2, "{dry}");
    bucket.maand(&["deploy"]).expect(0);
    assert!(bucket.rollouts().iter().all(|(_, _, word)| word == "promoted"), "{:?}", bucket.rollouts());
    for last in [2, 3] {
        let address = bucket.address(last);
        let page = poll::until("the page", poll::LONG, || get(address, bucket.port(), "/"));
        assert_eq!(page, format!("hello from {address} v1.0.0\n"));
    }
    let worker: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(agents[0].job_path("..", "worker.json")).unwrap()).unwrap();
    let info: serde_json::Value = serde_json::from_str(&bucket.maand(&["info", "--json"]).expect(0).stdout).unwrap();
    assert_eq!(worker["update_seq"], info["update_seq"]);
    assert_eq!(worker["worker_ip"], hosts[0].as_str());

    let again = bucket.maand(&["deploy"]).expect(0);
    let said = format!("{}{}", again.stdout, again.stderr);
    assert!(said.contains("deploy: skip job \"web\" (deploy complete on all allocations)"), "{said}");
    assert!(bucket.maand(&["deploy", "-n"]).expect(0).stdout.contains("no deployment required"));

    bucket.write("workspace/jobs/web/index.html.j2", "changed on {{ worker_ip }}\n");
    let unbuilt = bucket.maand(&["deploy", "--dry-run"]).expect(0).stdout;
    assert!(unbuilt.contains("no deployment required"), "an edit counts when it is built: {unbuilt}");
    bucket.maand(&["build"]).expect(0);
    let dry = bucket.maand(&["deploy", "--dry-run"]).expect(0).stdout;
    assert_eq!((dry.matches(" restart ").count(), dry.matches(" start ").count()), (2, 0), "{dry}");
    assert!(bucket.rollouts().iter().all(|(_, _, word)| word == "restart"));
    bucket.maand(&["deploy"]).expect(0);
    let page = poll::until("the new page", poll::LONG, || get(bucket.address(2), bucket.port(), "/"));
    assert_eq!(page, format!("changed on {}\n", bucket.address(2)));

    // The job outlives its agent.
    for agent in &mut agents {
        agent.process().stop(Duration::from_secs(10));
    }
    get(bucket.address(3), bucket.port(), "/").expect("the job goes on without its agent");
    for agent in &agents {
        let stopped =
            std::process::Command::new("make").args(["-s", "-C"]).arg(agent.job_path("web", "")).arg("stop").status();
        assert!(stopped.unwrap().success());
    }
}

#[test]
fn a_failing_target_fails_its_job_with_output_and_the_others_go_on() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 2);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("good", &json!({"selectors": ["all"]}));
    bucket.recording_job("bad", &json!({"selectors": ["all"], "max_concurrent_starts": 1}));
    bucket.write(
        "workspace/jobs/bad/Makefile",
        "start:\n\t@echo the disk is on fire >&2; printf '\\033[2Jx\\n'; exit 7\nstop:\nrestart:\nreload:\n",
    );
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let _agents = agents(&bucket, &hosts);
    let failed = bucket.maand(&["deploy"]).expect(1);
    assert!(failed.stderr.contains("MD0061"), "{}", failed.stderr);
    assert!(failed.stderr.contains("the disk is on fire"), "{}", failed.stderr);
    assert!(failed.stderr.contains(&format!("logs/{}.log", hosts[0])), "says where the log is: {}", failed.stderr);
    assert!(
        !failed.stderr.contains('\x1b') && !failed.stdout.contains('\x1b'),
        "a worker cannot paint: {}",
        failed.stderr
    );
    let words: Vec<_> = bucket.rollouts();
    assert!(words.iter().all(|(job, _, word)| word == if job == "good" { "promoted" } else { "new" }), "{words:?}");
    let log = bucket.read(&format!("logs/{}.log", hosts[0]));
    assert!(log.contains("the disk is on fire") && log.contains("job=bad"), "{log}");
    // One at a time: the second host was not tried.
    let second = std::fs::read_to_string(bucket.path(&format!("logs/{}.log", hosts[1]))).unwrap_or_default();
    assert!(!second.contains("the disk is on fire"), "{second}");

    bucket.recording_job("bad", &json!({"selectors": ["all"]}));
    bucket.maand(&["deploy", "--build"]).expect(0);
    assert!(bucket.rollouts().iter().all(|(_, _, word)| word == "promoted"));
}

#[test]
fn batches_go_in_worker_order_and_promote_as_they_pass() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 3);
    bucket.workers(&hosts, &["all"]);
    let order = bucket.dir().join("order");
    let makefile = |fail: &str| {
        format!(
            "start restart:\n\t@echo $$(basename $$(dirname $$(dirname $$(dirname $$PWD)))) > /dev/null; cat me >> {}; {fail}\nstop:\nreload:\n",
            order.display()
        )
    };
    bucket.write(
        "workspace/jobs/api/manifest.json",
        &json!({"selectors": ["all"], "max_concurrent_upgrades": 1, "max_concurrent_starts": 2}).to_string(),
    );
    bucket.write("workspace/jobs/api/me.j2", "{{ worker_ip }}\n");
    bucket.write("workspace/jobs/api/Makefile", &makefile("true"));
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let _agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    let started = std::fs::read_to_string(&order).unwrap();
    let started: Vec<&str> = started.lines().collect();
    assert_eq!(started.len(), 3);
    assert_eq!(started[2], hosts[2], "two, then one: {started:?}");

    std::fs::remove_file(&order).unwrap();
    bucket.write("workspace/jobs/api/Makefile", &makefile(&format!("test $$(cat me) != {}", hosts[1])));
    bucket.maand(&["build"]).expect(0);
    bucket.maand(&["deploy"]).expect(1);
    let restarted = std::fs::read_to_string(&order).unwrap();
    assert_eq!(
        restarted.lines().collect::<Vec<_>>(),
        [&hosts[0], &hosts[1]],
        "one at a time, and none after a failure"
    );
    let words: Vec<_> = bucket.rollouts().into_iter().map(|(_, _, word)| word).collect();
    assert_eq!(words, ["promoted", "restart", "restart"]);
}

#[test]
fn a_host_that_no_agent_joined_for_is_named_with_the_way_to_join() {
    let bucket = bucket();
    bucket.setting("pickup_timeout = 1");
    let hosts = hosts(&bucket, 2);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let _agent = Agent::join(&bucket, &hosts[0]);
    let failed = bucket.maand(&["deploy"]).expect(1);
    assert!(failed.stderr.contains("MD0065"), "{}", failed.stderr);
    assert!(failed.stderr.contains(&format!("maand agent token {}", hosts[1])), "{}", failed.stderr);
    let words: Vec<_> = bucket.rollouts().into_iter().map(|(_, _, word)| word).collect();
    assert_eq!(words, ["promoted", "new"], "the one that is there was not held back");
}

#[test]
fn deploy_serves_for_as_long_as_it_runs_when_nobody_else_does() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    bucket.maand(&["build"]).expect(0);
    let mut serve = bucket.serve();
    let agent = Agent::join(&bucket, &hosts[0]);
    agent.wait_online(&bucket);
    serve.stop(Duration::from_secs(20));
    bucket.maand(&["deploy"]).expect(0);
    assert_eq!(agent.read("api", "data/ran"), "start 0.0.0 0.0.0\n");
}

#[test]
fn bad_input_changes_nothing_and_names_its_place() {
    let bucket = bucket();
    bucket.workers(&[bucket.address(2).to_string()], &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    bucket.maand(&["build"]).expect(0);
    let before = bucket.cat("deployments");
    let wrong = [
        ("workspace/workers.json", "[{\"host\": \"a\"},", "workspace/workers.json:1"),
        ("workspace/workers.json", "[{\"host\": \"a\"}, {\"host\": \"a\"}]", "\"a\""),
        ("workspace/workers.json", "[{\"host\": \"a\", \"lables\": []}]", "labels"),
        ("workspace/jobs/api/app.conf.j2", "one\n{{ nowhere }}\n", "workspace/jobs/api/app.conf.j2:2"),
        ("workspace/jobs/api/data/x", "", "workspace/jobs/api/data"),
        ("workspace/jobs/other/manifest.json", "{}", "Makefile"),
        ("workspace/jobs/api/manifest.json", "{\"restart_policy\": \"sometimes\"}", "restart_policy"),
    ];
    for (file, content, said) in wrong {
        let old = std::fs::read(bucket.path(file)).ok();
        bucket.write(file, content);
        let failed = bucket.maand(&["build"]).expect(3);
        assert!(failed.stderr.contains("error[MD") && failed.stderr.contains(said), "{file}: {}", failed.stderr);
        match old {
            Some(old) => std::fs::write(bucket.path(file), old).unwrap(),
            None if file.ends_with("data/x") => {
                std::fs::remove_dir_all(bucket.path("workspace/jobs/api/data")).unwrap()
            }
            None if file.contains("other") => std::fs::remove_dir_all(bucket.path("workspace/jobs/other")).unwrap(),
            None => std::fs::remove_file(bucket.path(file)).unwrap(),
        }
    }
    assert_eq!(bucket.cat("deployments"), before, "the catalog is as it was");
    bucket.maand(&["build"]).expect(0);
    let unknown = bucket.maand(&["deploy", "--jobs", "apu"]).expect(2);
    assert!(unknown.stderr.contains("did you mean \"api\""), "{}", unknown.stderr);
    assert_eq!(bare().maand(&["info"]).expect(4).stdout, "");
}
