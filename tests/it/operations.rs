//! Ad-hoc work, with the real programs: scripts, make targets, checks on demand.

use std::time::Duration;

use harness::agents::Agent;
use harness::bucket::Bucket;
use harness::poll;
use serde_json::{Value, json};

use crate::support::{agents, bucket, hosts};

/// A bucket with `count` workers and the job `api` on all of them, built but not deployed.
fn fleet(count: u8, manifest: &Value) -> (Bucket, Vec<String>) {
    let bucket = bucket();
    let hosts = hosts(&bucket, count);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", manifest);
    bucket.maand(&["build"]).expect(0);
    (bucket, hosts)
}

fn catalog(bucket: &Bucket) -> rusqlite::Connection {
    let catalog = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    catalog.busy_timeout(Duration::from_secs(10)).unwrap();
    catalog
}

/// Operations that are in some worker's desired state.
fn open_operations(bucket: &Bucket) -> u64 {
    catalog(bucket).query_row("SELECT count(*) FROM operation WHERE state <> 'closed'", [], |row| row.get(0)).unwrap()
}

fn online(bucket: &Bucket, agents: &[Agent]) {
    agents.iter().for_each(|agent| agent.wait_online(bucket));
}

#[test]
fn a_script_runs_where_it_should_and_says_what_it_prints() {
    let (bucket, hosts) = fleet(2, &json!({"selectors": ["all"]}));
    let _serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    online(&bucket, &agents);
    // Before the first deploy, and with nothing else running on the workers.
    let script = "echo \"$WORKER_IP of $BUCKET_ID in $PWD\"; printf 'care\\033[2Jful' >&2";
    let ran = bucket.maand(&["run_command", script, "-c", "2"]).expect(0);
    for (host, agent) in hosts.iter().zip(&agents) {
        let place = agent.bucket_dir();
        let line =
            format!("{host} | {host} of {} in {}\n", place.file_name().unwrap().to_str().unwrap(), place.display());
        assert!(ran.stdout.contains(&line), "{}", ran.stdout);
        assert!(ran.stderr.contains(&format!("{host} ! care\\u{{1b}}[2Jful\n")), "{}", ran.stderr);
        assert!(bucket.read(&format!("logs/{host}.log")).contains("care"), "it is in the logs too");
    }
    assert_eq!(open_operations(&bucket), 0);

    // The first failure ends its batch and keeps the other from being asked.
    let failed = bucket.maand(&["run_command", "echo out; exit 7", "--json"]).expect(1);
    let rows: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
    assert_eq!((&rows[0]["worker_ip"], &rows[0]["stdout"]), (&json!(hosts[0]), &json!("out\n")));
    assert_eq!(rows[0]["outcome"], json!({"kind": "failed", "exit": 7}));
    assert!(
        failed.stderr.contains("MD0093") && failed.stderr.contains("1 of 2 workers were not asked"),
        "{}",
        failed.stderr
    );

    // Nothing is asked of anybody when a name is wrong.
    assert!(bucket.maand(&["run_command", "true", "-w", "nobody"]).expect(2).stderr.contains("no worker \"nobody\""));
    assert!(bucket.maand(&["run_command", "true", "-l", "al"]).expect(2).stderr.contains("did you mean \"all\""));
    assert!(bucket.maand(&["run_command"]).expect(2).stderr.contains("command.sh"));
    bucket.write("workspace/command.sh", "echo from the file\n");
    let filed = bucket.maand(&["run-command", "-l", "all", "-w", ""]).code;
    assert_eq!(filed, 2, "workers and labels exclude each other");
    let filed = bucket.maand(&["run-command", "-w", &hosts[1]]).expect(0);
    assert_eq!(filed.stdout, format!("{} | from the file\n", hosts[1]));
}

#[test]
fn a_command_serves_for_as_long_as_it_runs_when_nobody_else_does() {
    let (bucket, hosts) = fleet(1, &json!({"selectors": ["all"]}));
    let mut serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    online(&bucket, &agents);
    serve.stop(Duration::from_secs(20));
    let ran = bucket.maand(&["run_command", "echo served"]).expect(0);
    assert_eq!(ran.stdout, format!("{} | served\n", hosts[0]));
    assert!(ran.stderr.contains("no maand serve runs"), "{}", ran.stderr);
    assert_eq!(bucket.cat("agents")[0]["state"], "offline");

    // What takes longer than a moment says what it waits for.
    agents[0].process().stop(Duration::from_secs(20));
    let mut waits = bucket.start("waits", &["run_command", "true"]);
    poll::until("it to say so", poll::LONG, || {
        let printed = waits.printed();
        if printed.contains(&format!("waiting for agents: {}\n", hosts[0])) { Ok(()) } else { Err(printed) }
    });
    waits.signal(rustix::process::Signal::INT);
    assert_eq!(waits.wait(Duration::from_secs(60)).code(), Some(1), "{}", waits.printed());
}

#[test]
fn output_comes_while_it_runs_and_ctrl_c_ends_what_runs() {
    let (bucket, hosts) = fleet(1, &json!({"selectors": ["all"]}));
    let _serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    online(&bucket, &agents);
    let pid = bucket.dir().join("pid");
    let script = format!("echo $$ > {}; echo begun; sleep 300", pid.display());
    let mut command = bucket.start("run_command", &["run_command", &script]);
    poll::until("the first line", poll::LONG, || {
        if command.printed().contains("| begun") { Ok(()) } else { Err(command.printed()) }
    });
    assert!(command.ended().is_none());
    command.signal(rustix::process::Signal::INT);
    let status = command.wait(Duration::from_secs(60));
    assert_eq!(status.code(), Some(1), "{}", command.printed());
    assert!(command.printed().contains("was cancelled"), "{}", command.printed());
    let stat = format!("/proc/{}/stat", std::fs::read_to_string(&pid).unwrap().trim());
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "it was ended: {stat}");
    assert_eq!(open_operations(&bucket), 0);
}

#[test]
fn very_long_output_keeps_its_begin_and_its_end() {
    let (bucket, hosts) = fleet(1, &json!({"selectors": ["all"]}));
    let _serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    online(&bucket, &agents);
    let script = "echo first; yes 0123456789abcdef0123456789abcdef | head -c 30000000; echo; echo last";
    let ran = bucket.maand(&["run_command", script]).expect(0);
    let lines: Vec<&str> = ran.stdout.lines().map(|line| line.split_once(" | ").unwrap().1).collect();
    assert_eq!((lines[0], lines[lines.len() - 1]), ("first", "last"));
    let gap = lines.iter().position(|line| line.ends_with("bytes left out here)")).unwrap();
    // Cut in the middle of a line on both sides, and no line is made of the two.
    let whole = "0123456789abcdef0123456789abcdef";
    assert!(whole.starts_with(lines[gap - 1]) && whole.ends_with(lines[gap + 1]), "{:?}", &lines[gap - 1..=gap + 1]);
    assert!(ran.stdout.len() < 8_000_000, "{} bytes", ran.stdout.len());
    poll::until("the worker to have its disk back", poll::LONG, || {
        let runs = std::fs::read_dir(agents[0].bucket_dir().join(".maand/runs")).unwrap().flatten();
        let length: u64 = runs.map(|run| std::fs::metadata(run.path().join("out")).map_or(0, |out| out.len())).sum();
        if length < 4_000_000 { Ok(()) } else { Err(length) }
    });
}

#[test]
fn an_agent_refuses_what_its_own_settings_do_not_allow() {
    let (bucket, hosts) = fleet(1, &json!({"selectors": ["all"]}));
    let _serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    let settings = bucket.dir().join("agents").join(&hosts[0]).join("agent.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    agents[0].process().stop(Duration::from_secs(20));
    std::fs::write(&settings, format!("{text}allow = [\"make\"]\n")).unwrap();
    agents[0].start();
    online(&bucket, &agents);
    let marker = bucket.dir().join("marker");
    let refused = bucket.maand(&["run_command", &format!("touch {}", marker.display())]).expect(1);
    assert!(refused.stderr.contains("agent.toml of this worker allows make, no script"), "{}", refused.stderr);
    assert!(!marker.exists());
    bucket.maand(&["job", "restart", "api"]).expect(0);
    agents[0].process().stop(Duration::from_secs(20));
    std::fs::write(&settings, format!("{text}allow = [\"scripts\"]\n")).unwrap();
    agents[0].start();
    assert_eq!(agents[0].process().wait(Duration::from_secs(20)).code(), Some(3));
}

#[test]
fn an_agent_that_is_away_is_named_at_once_and_finds_nothing_when_it_comes_back() {
    let (bucket, hosts) = fleet(2, &json!({"selectors": ["all"]}));
    let _serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    online(&bucket, &agents);
    agents[1].process().stop(Duration::from_secs(20));
    poll::until("the agent to be offline", poll::LONG, || {
        let rows = bucket.cat("agents");
        if rows[1]["state"] == "offline" { Ok(()) } else { Err(rows) }
    });
    let marker = bucket.dir().join("marker");
    let script = format!("touch {}", marker.display());
    let away = bucket.maand(&["run_command", &script]).expect(1);
    assert!(away.stderr.contains("MD0086") && away.stderr.contains(&hosts[1]), "{}", away.stderr);
    assert!(away.stderr.contains("offline since 20"), "{}", away.stderr);
    assert!(!away.stderr.contains(&format!("agent of {}", hosts[0])), "{}", away.stderr);
    assert_eq!(open_operations(&bucket), 0);
    assert!(!marker.exists(), "nobody was asked");
    agents[1].start();
    agents[1].wait_online(&bucket);
    // It has heard everything there is by the time it has done this.
    bucket.maand(&["run_command", "true"]).expect(0);
    assert!(!marker.exists());
}

/// Adds an operation to the one worker's desired state, as a command that was killed leaves it.
pub fn plant(bucket: &Bucket, id: &str, script: &str, not_after_ms: i64) {
    let catalog = catalog(bucket);
    let asked = json!({"id": id, "run_id": id, "work": {"kind": "script", "body": script}, "timeout_s": 60,
        "not_after_ms": not_after_ms});
    let insert = "INSERT INTO operation (operation_id, worker_id, position, asked, state, created_at, not_after) \
        SELECT ?1, worker_id, 1000, ?2, 'open', 0, ?3 FROM worker";
    catalog.execute("BEGIN IMMEDIATE", []).unwrap();
    catalog.execute(insert, (id, asked.to_string(), not_after_ms)).unwrap();
    catalog.execute("UPDATE desired_worker SET generation = generation + 1", []).unwrap();
    catalog.execute("COMMIT", []).unwrap();
}

fn outcome(bucket: &Bucket, id: &str) -> Option<Value> {
    let select = "SELECT observed FROM operation_result WHERE operation_id = ?1";
    let json: Option<String> = catalog(bucket).query_row(select, [id], |row| row.get(0)).ok();
    json.and_then(|json| serde_json::from_str::<Value>(&json).unwrap().get("outcome").cloned())
}

/// What its agent says became of it.
pub fn wait_for_outcome(bucket: &Bucket, id: &str) -> Value {
    poll::until("the result", poll::LONG, || outcome(bucket, id).ok_or("nothing yet"))
}

/// An id for a planted one.
pub const ID: &str = "8a5da52e-d126-447d-b59e-70c05721a8aa";
/// A moment that no clock of a test reaches.
pub const FAR: i64 = 4_000_000_000_000;

#[test]
fn what_is_too_late_is_not_begun() {
    let (bucket, hosts) = fleet(1, &json!({"selectors": ["all"]}));
    let _serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    let marker = bucket.dir().join("marker");
    plant(&bucket, ID, &format!("touch {}", marker.display()), 1_000);
    assert_eq!(wait_for_outcome(&bucket, ID), json!({"kind": "expired"}));
    assert!(!marker.exists());
    // Whoever asks next clears it away.
    bucket.maand(&["run_command", "true"]).expect(0);
    assert_eq!(open_operations(&bucket), 0);
    drop(agents);
}

#[test]
fn an_operation_runs_once_whatever_happens_to_its_agent() {
    let (bucket, hosts) = fleet(1, &json!({"selectors": ["all"]}));
    let _serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    let (ran, gate) = (bucket.dir().join("ran"), bucket.dir().join("gate"));
    let script = format!(
        "echo x >> {}; for i in $(seq 1200); do [ -e {} ] && break; sleep 0.05; done; echo over",
        ran.display(),
        gate.display()
    );
    plant(&bucket, ID, &script, FAR);
    let times = || std::fs::read_to_string(&ran).unwrap_or_default();
    poll::until("it to run", poll::LONG, || if times() == "x\n" { Ok(()) } else { Err(times()) });
    // The script outlives its agent, and the next one learns how it went.
    agents[0].kill();
    agents[0].start();
    agents[0].wait_online(&bucket);
    std::fs::write(&gate, "").unwrap();
    assert_eq!(wait_for_outcome(&bucket, ID), json!({"kind": "ok"}));
    agents[0].kill();
    agents[0].start();
    agents[0].wait_online(&bucket);
    bucket.maand(&["run_command", "true"]).expect(0);
    assert_eq!(times(), "x\n");
    assert!(bucket.read(&format!("logs/{}.log", hosts[0])).contains("msg=over"));
    // It is forgotten once it is no longer listed.
    catalog(&bucket)
        .execute_batch(
            "BEGIN IMMEDIATE; UPDATE operation SET state = 'closed'; \
            UPDATE desired_worker SET generation = generation + 1; COMMIT;",
        )
        .unwrap();
    poll::until("the agent to forget it", poll::LONG, || {
        let ledger = rusqlite::Connection::open(agents[0].bucket_dir().join(".maand/ledger.db")).unwrap();
        let left: u64 = ledger.query_row("SELECT count(*) FROM operation", [], |row| row.get(0)).unwrap();
        if left == 0 { Ok(()) } else { Err(left) }
    });
}

#[test]
fn two_never_work_on_one_allocation_at_once() {
    let (bucket, hosts) = fleet(1, &json!({"selectors": ["all"]}));
    let busy = bucket.dir().join("busy");
    let alone = format!("mkdir {0} && sleep 0.3 && rmdir {0}", busy.display());
    let makefile = |text: &str| format!("start stop restart reload status:\n\t@{alone}\n{text}");
    bucket.write("workspace/jobs/api/Makefile", &makefile(""));
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let _agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    bucket.write("workspace/jobs/api/Makefile", &makefile("# changed\n"));
    bucket.maand(&["build"]).expect(0);
    let mut others: Vec<_> = (0..3).map(|n| bucket.start(&format!("status {n}"), &["job", "status", "api"])).collect();
    let mut deploy = bucket.start("deploy", &["deploy"]);
    assert_eq!(deploy.wait(Duration::from_secs(90)).code(), Some(0), "{}", deploy.printed());
    for other in &mut others {
        // One that came in the middle of the deploy may find its worker a step further than it asked about.
        let status = other.wait(Duration::from_secs(90));
        let said = other.printed();
        assert!(status.success() || said.contains("update_seq") || said.contains("behind"), "{said}");
        assert!(!said.contains("cannot create"), "{said}");
    }
}

#[test]
fn jobs_are_worked_in_batches_and_what_was_stopped_by_hand_shows() {
    let (bucket, hosts) = fleet(3, &json!({"selectors": ["all"], "max_concurrent_upgrades": 1}));
    let _serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    let early = bucket.maand(&["job", "status", "api"]).expect(1);
    assert!(early.stderr.contains("nothing has been deployed"), "{}", early.stderr);
    bucket.maand(&["deploy"]).expect(0);
    bucket.maand(&["job", "stop", "api", "--allocations", &hosts[1]]).expect(0);
    let ran: Vec<String> = agents.iter().map(|agent| agent.read("api", "data/ran")).collect();
    assert!(ran[1].ends_with("stop 0.0.0 0.0.0\n") && !ran[0].contains("stop") && !ran[2].contains("stop"), "{ran:?}");
    let rows = bucket.cat("deployments");
    assert_eq!((&rows[0]["agent"], &rows[1]["agent"]), (&Value::Null, &json!("stopped by hand")), "{rows}");
    assert_eq!(rows[1]["rollout"], "promoted", "what was promoted stays so");
    bucket.maand(&["job", "START", "api"]).expect(2);
    bucket.maand(&["job", "start", "api"]).expect(0);
    assert_eq!(bucket.cat("deployments")[1]["agent"], Value::Null);

    // One at a time, and none after a failure.
    let order = bucket.dir().join("order");
    bucket.write("workspace/jobs/api/me.j2", "{{ worker_ip }}\n");
    let migrate = format!("migrate:\n\t@cat me >> {}; test $$(cat me) != {}\n", order.display(), hosts[1]);
    let makefile = bucket.read("workspace/jobs/api/Makefile");
    bucket.write("workspace/jobs/api/Makefile", &format!("{makefile}{migrate}"));
    bucket.maand(&["deploy", "--build"]).expect(0);
    let failed = bucket.maand(&["job", "run", "api", "--target", "migrate"]).expect(1);
    assert_eq!(std::fs::read_to_string(&order).unwrap(), format!("{}\n{}\n", hosts[0], hosts[1]));
    assert!(
        failed.stderr.contains("make migrate on") && failed.stderr.contains("1 of its allocations"),
        "{}",
        failed.stderr
    );
    for (words, said) in [
        (vec!["job", "status", "apu"], "did you mean \"api\""),
        (vec!["job", "status", "api", "--allocations", "10.9.9.9"], "10.9.9.9"),
        // An unset variable of a script is not every worker.
        (vec!["job", "stop", "api", "--allocations", ""], "an empty name"),
        (vec!["job", "stop", ","], "an empty name"),
        (vec!["run_command", "true", "--workers", ""], "an empty name"),
        (vec!["deploy", "--jobs", ""], "an empty name"),
        (vec!["deploy", "--dry-run", "--jobs", "api,"], "an empty name"),
        (vec!["stage", "--workers", ""], "an empty name"),
        (vec!["job", "run", "api", "--target=-f/etc/x"], "is not a name of a make target"),
    ] {
        let wrong = bucket.maand(&words).expect(2);
        assert!(wrong.stderr.contains(said), "{words:?}: {}", wrong.stderr);
    }

    // What is drained is not touched, and naming it is no way around that.
    bucket.write("workspace/disabled.json", &json!({"jobs": {"api": {"allocations": [hosts[2]]}}}).to_string());
    bucket.maand(&["build"]).expect(0);
    let before = agents[2].read("api", "data/ran");
    bucket.maand(&["job", "restart", "api"]).expect(0);
    assert_eq!(agents[2].read("api", "data/ran"), before);
    let drained = bucket.maand(&["job", "start", "api", "--allocations", &hosts[2]]).expect(2);
    assert!(drained.stderr.contains(&format!("job api is disabled on {}", hosts[2])), "{}", drained.stderr);
    std::fs::remove_file(bucket.path("workspace/disabled.json")).unwrap();
    bucket.maand(&["build"]).expect(0);

    // An agent that is away is named, and nobody is touched.
    agents[2].process().stop(Duration::from_secs(20));
    poll::until("the agent to be offline", poll::LONG, || {
        let rows = bucket.cat("agents");
        if rows[2]["state"] == "offline" { Ok(()) } else { Err(rows) }
    });
    let before = agents[0].read("api", "data/ran");
    let away = bucket.maand(&["job", "restart", "api"]).expect(1);
    assert!(away.stderr.contains("offline since") && away.stderr.contains(&hosts[2]), "{}", away.stderr);
    assert_eq!(agents[0].read("api", "data/ran"), before);
    bucket.maand(&["job", "restart", "api", "--allocations", &format!("{},{}", hosts[0], hosts[1])]).expect(0);
    assert!(agents[0].read("api", "data/ran").len() > before.len());
}

#[test]
fn health_is_asked_on_demand_and_an_absent_agent_is_offline_not_unhealthy() {
    let (bucket, hosts) = fleet(2, &json!({"selectors": ["all"]}));
    let _serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    let none = bucket.maand(&["health_check"]).expect(0);
    assert!(none.stdout.contains("api: no health_check in its manifest"), "{}", none.stdout);
    let check = json!({"type": "exec", "command": "test ! -e data/ill || { echo it has a cold; false; }"});
    let health = json!({"checks": [check], "wait": {"attempts": 100, "interval_seconds": 1}});
    bucket.recording_job("api", &json!({"selectors": ["all"], "health_check": health}));
    bucket.maand(&["build"]).expect(0);
    let well = bucket.maand(&["health-check", "--jobs", "api", "--verbose"]).expect(0);
    assert!(well.stdout.contains("api: healthy (2 of 2)\n"), "{}", well.stdout);
    assert!(well.stdout.contains(&format!("api@{} healthy\n", hosts[0])), "{}", well.stdout);

    std::fs::write(agents[0].job_path("api", "data/ill"), "").unwrap();
    let ill = bucket.maand(&["health_check"]).expect(1);
    assert!(ill.stdout.contains("api: not healthy (1 of 2)\n"), "{}", ill.stdout);
    assert!(ill.stderr.contains("MD0092") && ill.stderr.contains("exit 1: it has a cold"), "{}", ill.stderr);
    let mut waiting = bucket.start("waiting", &["health_check", "--jobs", "api", "--wait"]);
    poll::until("the checks to have begun", poll::LONG, || {
        if open_operations(&bucket) > 0 { Ok(()) } else { Err(waiting.printed()) }
    });
    std::fs::remove_file(agents[0].job_path("api", "data/ill")).unwrap();
    assert_eq!(waiting.wait(Duration::from_secs(90)).code(), Some(0), "{}", waiting.printed());

    agents[1].process().stop(Duration::from_secs(20));
    poll::until("the agent to be offline", poll::LONG, || {
        let rows = bucket.cat("agents");
        if rows[1]["state"] == "offline" { Ok(()) } else { Err(rows) }
    });
    let away = bucket.maand(&["health_check", "--json"]).expect(1);
    let rows: Value = serde_json::from_str(&away.stdout).unwrap();
    let words: Vec<_> = rows.as_array().unwrap().iter().map(|row| (&row["worker_ip"], &row["health"])).collect();
    assert_eq!(words, [(&json!(hosts[0]), &json!("healthy")), (&json!(hosts[1]), &json!("offline"))]);
    assert!(away.stderr.contains("MD0086") && !away.stderr.contains("MD0092"), "{}", away.stderr);

    // Where checks are waited for, so are agents.
    let mut waiting = bucket.start("waiting", &["health_check", "--wait"]);
    poll::until("the command to look", poll::LONG, || {
        let log = bucket.read("logs/maand.log");
        let looks =
            log.lines().filter(|line| line.contains("event=command_begin") && line.contains("maand=health_check"));
        if looks.count() == 5 { Ok(()) } else { Err(log) }
    });
    agents[1].start();
    assert_eq!(waiting.wait(Duration::from_secs(90)).code(), Some(0), "{}", waiting.printed());

    // After a batch by hand, with the manifest's patience.
    let gated = bucket.maand(&["job", "restart", "api", "--allocations", &hosts[0], "--health_check"]).expect(0);
    assert!(gated.stderr.contains(&format!("api@{} : ok", hosts[0])), "{}", gated.stderr);
}
