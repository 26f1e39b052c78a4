//! Day-2 commands, by the numbers of the checklist that they show (`spec/behaviour.md`, Appendix D). 39 is in
//! `worker_facts.rs`.

use harness::bucket::Bucket;
use serde_json::{Value, json};

use crate::support::{agents, bucket, hosts};

/// A bucket with `count` workers and the job `api` on all of them, built.
fn fleet(count: u8) -> (Bucket, Vec<String>) {
    let bucket = bucket();
    let hosts = hosts(&bucket, count);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"]}));
    bucket.maand(&["build"]).expect(0);
    (bucket, hosts)
}

#[test]
fn d37_maand_job_refuses_a_worker_that_is_behind_and_works_right_after_a_deploy_with_nothing_to_do() {
    let (bucket, hosts) = fleet(1);
    let _serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    bucket.maand(&["job", "restart", "api"]).expect(0);
    // As if a deploy had begun that it has not heard of yet.
    let catalog = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    catalog.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    let behind = "UPDATE bucket SET update_seq = update_seq + 1";
    assert_eq!(catalog.execute(behind, []).unwrap(), 1);
    let ran = agents[0].read("api", "data/ran");
    let refused = bucket.maand(&["job", "restart", "api"]).expect(1).stderr;
    assert!(
        refused.contains("MD0087") && refused.contains(&hosts[0]) && refused.contains("run maand deploy"),
        "{refused}"
    );
    assert_eq!(agents[0].read("api", "data/ran"), ran, "nothing was asked of it");
    // A deploy that rolls nothing still tells every agent.
    let skipped = bucket.maand(&["deploy"]).expect(0);
    assert!(skipped.stderr.contains("deploy complete on all allocations"), "{}{}", skipped.stdout, skipped.stderr);
    bucket.maand(&["job", "restart", "api"]).expect(0);
    assert_eq!(agents[0].read("api", "data/ran"), format!("{ran}restart 0.0.0 0.0.0\n"));
}

#[test]
fn d38_a_batch_of_run_command_that_fails_stops_later_batches() {
    let (bucket, hosts) = fleet(4);
    let _serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    agents.iter().for_each(|agent| agent.wait_online(&bucket));
    let marks = bucket.dir().join("marks");
    std::fs::create_dir(&marks).unwrap();
    // The first batch of two: one of them fails, the other ends; the second batch is not begun.
    let script = format!("touch {}/$WORKER_IP; test $WORKER_IP != {}", marks.display(), hosts[0]);
    let failed = bucket.maand(&["run_command", &script, "-c", "2"]).expect(1).stderr;
    assert!(failed.contains("2 of 4 workers were not asked") && failed.contains("exit code 1"), "{failed}");
    let marked = |host: &String| marks.join(host).exists();
    assert_eq!(hosts.iter().map(marked).collect::<Vec<_>>(), [true, true, false, false]);
}

#[test]
fn d40_cat_has_its_columns_refuses_unknown_filters_and_empty_tables() {
    let (bucket, hosts) = fleet(1);
    for (view, columns) in [
        ("workers", "worker_ip zone cpu_mhz memory_mb position labels"),
        ("jobs", "job version disabled deployment_seq cpu memory selectors"),
        ("allocations", "allocation_id worker_ip zone job disabled removed"),
        (
            "deployments",
            "job worker_ip alloc_id rollout current_hash previous_hash current_version new_version disabled removed \
             post_deploy_status agent health",
        ),
        ("certs", "scope job worker cert common_name not_after days_left status"),
        ("kv", "namespace key value version ttl created_date deleted"),
    ] {
        let rows = bucket.cat(view);
        let names: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
        assert_eq!(names, columns.split(' ').collect::<Vec<_>>(), "{view}");
        // The table has the same ones, in upper case and in this order.
        let table = bucket.maand(&["cat", view]).expect(0).stdout;
        assert!(table.contains(&columns.split(' ').next().unwrap().to_uppercase()), "{table}");
    }
    for view in ["hooks", "ports"] {
        assert!(bucket.maand(&["cat", view]).expect(1).stderr.contains("MD0010"), "{view}");
    }
    for words in [["cat", "allocations", "--jobs", "apo"], ["cat", "deployments", "--workers", "10.9.9.9"]] {
        let refused = bucket.maand(&words).expect(2);
        assert!(refused.stderr.contains("MD0009") && refused.stdout.is_empty(), "{words:?}: {}", refused.stderr);
    }
    let chosen = bucket.maand(&["cat", "allocations", "--jobs", "api", "--workers", &hosts[0], "--json"]).expect(0);
    assert_eq!(serde_json::from_str::<Value>(&chosen.stdout).unwrap().as_array().unwrap().len(), 1);
}

#[test]
fn d41_logs_show_groups_blocks_and_filters_by_worker_job_phase_event_and_run() {
    let (bucket, hosts) = fleet(2);
    let _serve = bucket.serve();
    let _agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    bucket.maand(&["run_command", "echo hello", "-w", &hosts[0]]).expect(0);
    let show = |words: &[&str]| bucket.maand(&[&["logs", "show"], words].concat()).expect(0).stdout;

    let human = show(&["--worker", &hosts[0], "--phase", "run_command", "--format", "human"]);
    let lines: Vec<&str> = human.lines().collect();
    assert!(lines[0].contains(" run_command seq=") && lines[0].contains(" run="), "{human}");
    assert_eq!(lines[1..4], [&format!("run_command script {}", hosts[0])[..], "$ echo hello", "| hello"], "{human}");
    assert!(lines[4].starts_with("ok exit=0 "), "{human}");

    let all = |text: &str, has: &str| !text.is_empty() && text.lines().all(|line| line.contains(has));
    assert!(all(&show(&["--worker", &hosts[1]]), &format!("worker={}", hosts[1])));
    assert!(all(&show(&["--job", "ap"]), "job=api"));
    assert!(all(&show(&["--event", "command_end"]), "event=command_end"));
    // What agents downloaded for an action has a phase of its own, whichever the action is.
    let fetched = show(&["--phase", "fetch", "--worker", &hosts[0]]);
    assert!(
        fetched.contains("event=files_fetched") && fetched.contains("job=api phase=fetch action=start"),
        "{fetched}"
    );
    assert!(fetched.contains("duration_ms=") && fetched.contains("files, "), "{fetched}");
    // The command on the controller is a block as well.
    let begun = show(&["--event", "command_begin"]);
    assert!(begun.contains("maand=deploy") && begun.contains("cmd=\"maand deploy\""), "{begun}");
    assert!(begun.contains("cmd=\"maand run_command 'echo hello' -w"), "{begun}");
    let run = fetched.split(" run=").nth(1).unwrap().split(' ').next().unwrap();
    let of_run = show(&["--run", run]);
    assert!(all(&of_run, &format!("run={run}")) && of_run.contains("cmd=\"maand deploy\""), "{of_run}");

    // One that fails says with which code, where it ended.
    bucket.write("workspace/jobs/api/Makefile", "start stop restart:\n\t@exit 4\n");
    bucket.maand(&["deploy", "--build"]).expect(1);
    let failed = show(&["--job", "api", "--event", "command_end", "--worker", &hosts[0], "--tail", "1"]);
    assert!(failed.contains("level=error") && failed.contains(" exit=2 "), "{failed}");
}
