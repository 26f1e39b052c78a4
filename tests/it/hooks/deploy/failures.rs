//! Hooks that fail: what they stop, what they leave, what is tried again.

use harness::poll;
use rustix::process::Signal;
use serde_json::json;

use super::Fleet;

#[test]
fn a_failing_pre_deploy_leaves_its_job_out_and_no_other() {
    let mut fleet = Fleet::new(1);
    let first = "maand.put_job_variable('kept', 'yes').raise_for_status()\n";
    let second = "maand.put_job_variable('lost', 'yes').raise_for_status()\nnote('ran')\n\
                  print('no database')\nsys.exit(3 if flag('fail') else 0)\n";
    let on = || json!({"executed_on": ["pre_deploy"]});
    fleet.job_with("a", json!({}), &[("hook_a", on(), first), ("hook_b", on(), second)]);
    fleet.bucket.recording_job("b", &json!({"selectors": ["all"]}));
    fleet.raise("fail");
    fleet.up();
    let failed = fleet.bucket.maand(&["deploy"]).expect(1).stderr;
    assert!(failed.contains("error[MD0090]: job a: hook_b failed (pre_deploy)\n"), "{failed}");
    assert!(failed.contains(": exit code 3\n    | no database\n"), "{failed}");
    assert!(failed.contains("correct workspace/jobs/a/_modules/hook_b.*"), "{failed}");
    assert_eq!((fleet.words("a"), fleet.words("b")), (vec!["new".to_owned()], vec!["promoted".to_owned()]));
    assert_eq!((fleet.ran("a"), fleet.ran("b")), (vec![String::new()], vec!["start".to_owned()]));
    // Of the hook that succeeded it is kept, of the one that failed it is not.
    let live: Vec<String> = super::super::live(&fleet.bucket, "vars/job/a").into_iter().map(|(key, _)| key).collect();
    assert_eq!(live, ["kept"]);
    fleet.lower("fail");
    fleet.notes();
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!((fleet.notes(), fleet.words("a")), (vec!["ran".to_owned()], vec!["promoted".to_owned()]));
    assert_eq!(super::super::live(&fleet.bucket, "vars/job/a").len(), 2);
    assert_eq!(fleet.ran("b"), ["start"], "b is left alone");
}

#[test]
fn after_a_failing_post_deploy_only_that_runs_again() {
    let mut fleet = Fleet::new(2);
    // Its template reads what its hooks may write: pre_deploy would run for that alone.
    let script = "note(event, n(host))\n\
                  if event == 'pre_deploy': maand.put_job_variable('k', 'v').raise_for_status()\n\
                  if event == 'post_deploy' and flag('fail'): sys.exit('smoke')\n";
    fleet.job("api", json!({}), &["pre_deploy", "post_deploy"], script);
    fleet.bucket.write("workspace/jobs/api/conf.j2", "{{ get('vars/job/api', 'k') }}");
    fleet.raise("fail");
    fleet.up();
    let failed = fleet.bucket.maand(&["deploy"]).expect(1).stderr;
    assert!(failed.contains("job api: hook_x failed for 2 of 2 allocations (post_deploy)"), "{failed}");
    assert_eq!(fleet.words("api"), ["promoted"; 2], "what works is promoted");
    assert_eq!(fleet.column("api", "post_deploy_status"), ["failed"; 2]);
    assert_eq!(fleet.notes(), ["pre_deploy h0", "pre_deploy h1", "post_deploy h0", "post_deploy h1"]);

    let dry = fleet.bucket.maand(&["deploy", "--dry-run"]).expect(0).stdout;
    assert!(dry.contains("deploy dry-run: deployment required"), "{dry}");
    assert!(dry.contains("job \"api\": deploy required (post_deploy only)"), "{dry}");
    assert!(fleet.notes().is_empty(), "a dry run runs no post_deploy hooks, and pre_deploy has no part in it");
    fleet.bucket.maand(&["deploy"]).expect(1);
    assert_eq!(fleet.notes(), ["post_deploy h0", "post_deploy h1"]);
    // A build keeps the status.
    fleet.bucket.maand(&["build"]).expect(0);
    fleet.lower("fail");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.notes(), ["post_deploy h0", "post_deploy h1"]);
    assert_eq!(fleet.column("api", "post_deploy_status"), ["success"; 2]);
    assert_eq!(fleet.ran("api"), ["start", "start"]);
}

#[test]
fn a_batch_whose_started_hooks_fail_is_not_promoted() {
    let mut fleet = Fleet::new(3);
    let script = "note(n(host))\nsys.exit(flag('fail') and n(host) == 'h1')\n";
    fleet.job("api", json!({"max_concurrent_starts": 1}), &["after_allocation_started"], script);
    fleet.raise("fail");
    fleet.up();
    let failed = fleet.bucket.maand(&["deploy"]).expect(1).stderr;
    assert!(failed.contains("hook_x failed (after_allocation_started)"), "{failed}");
    assert_eq!(fleet.words("api"), ["promoted", "new", "new"]);
    assert_eq!(fleet.ran("api"), ["start", "start", ""]);
    assert_eq!(fleet.notes(), ["h0", "h1"]);
    fleet.lower("fail");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted"; 3]);
    assert_eq!(
        (fleet.ran("api"), fleet.notes()),
        (vec!["start".into(), "start start".into(), "start".into()], vec!["h1".into(), "h2".into()])
    );
}

#[test]
fn a_failing_stopped_hook_holds_up_the_cleanup_of_that_one_alone() {
    let mut fleet = Fleet::new(3);
    let script = "note(n(host))\nsys.exit(flag('fail') and n(host) == 'h1')\n";
    fleet.job("api", json!({}), &["after_allocation_stopped"], script);
    fleet.raise("fail");
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    let worker = |host: &String, label: &str| json!({"host": host, "labels": [label]});
    let workers = [worker(&fleet.hosts[0], "all"), worker(&fleet.hosts[1], "x"), worker(&fleet.hosts[2], "x")];
    fleet.bucket.write("workspace/workers.json", &json!(workers).to_string());
    fleet.bucket.maand(&["build"]).expect(0);
    let failed = fleet.bucket.maand(&["deploy"]).expect(1).stderr;
    let said = format!("job api: on {}: after_allocation_stopped: hook_x on {0}: exit code 1", fleet.hosts[1]);
    assert!(failed.contains(&said), "{failed}");
    assert_eq!(fleet.notes(), ["h1", "h2"]);
    let there = |n: usize| fleet.agents[n].job_path("api", "Makefile").exists();
    assert_eq!((there(1), there(2)), (true, false), "its files wait for the hook, the other's are gone");
    assert_eq!(fleet.ran("api"), ["start", "start stop", "start stop"]);
    // Again, with the stop, until it ends well.
    fleet.bucket.maand(&["deploy"]).expect(1);
    assert_eq!(fleet.notes(), ["h1"]);
    fleet.lower("fail");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.notes(), ["h1"]);
    assert!(!fleet.agents[1].job_path("api", "Makefile").exists());
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert!(fleet.notes().is_empty());
    assert_eq!(fleet.ran("api"), ["start", "start stop stop stop", "start stop"]);
}

#[test]
fn a_worker_that_is_assumed_dead_waits_for_no_hook_and_cleans_up_when_it_is_back() {
    for sleeps in [false, true] {
        let mut fleet = Fleet::new(2);
        fleet.bucket.setting("pickup_timeout = 2");
        fleet.job("api", json!({}), &["after_allocation_stopped"], "note(n(host))\n");
        fleet.up();
        fleet.bucket.maand(&["deploy"]).expect(0);
        if sleeps {
            // Its connection stands: nobody knows yet that it is away.
            fleet.agents[1].process().signal(Signal::STOP);
        } else {
            fleet.agents[1].kill();
            poll::until("the agent to be seen offline", poll::LONG, || {
                let state = fleet.bucket.cat("agents")[1]["state"].clone();
                if state == "offline" { Ok(()) } else { Err(state) }
            });
        }
        fleet.bucket.workers(&fleet.hosts[..1], &["all"]);
        fleet.bucket.maand(&["build"]).expect(0);
        let said = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
        let dead = format!("deploy: removed worker {} unreachable, assuming dead", fleet.hosts[1]);
        assert!(said.contains(&dead), "sleeps {sleeps}: {said}");
        assert!(fleet.notes().is_empty());
        if sleeps {
            fleet.agents[1].process().signal(Signal::CONT);
        } else {
            fleet.agents[1].start();
        }
        poll::until("its files to be gone", poll::LONG, || {
            let there = fleet.agents[1].job_path("api", "Makefile").exists();
            if there { Err(fleet.ran("api")) } else { Ok(()) }
        });
    }
}

#[test]
fn what_hooks_need_is_missed_before_anything_begins() {
    let mut fleet = Fleet::new(1);
    fleet.job("a", json!({}), &["post_deploy"], "");
    fleet.bucket.write("workspace/jobs/a/_modules/hook_x.py", "");
    std::fs::rename(
        fleet.bucket.path("workspace/jobs/a/_modules/hook_x.py"),
        fleet.bucket.path("workspace/jobs/a/_modules/hook_x.ts"),
    )
    .unwrap();
    fleet.up();
    let mut command = fleet.bucket.command(&["deploy"]);
    // A PATH without bun, wherever this machine has it.
    command.env("PATH", "/nowhere");
    let output = harness::process::finish(command, std::time::Duration::from_secs(60));
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("bun"), "{output:?}");
    assert_eq!((fleet.words("a"), fleet.ran("a")), (vec!["new".to_owned()], vec![String::new()]));
}
