//! Jobs that job_control hooks start and stop: in a deploy, by `maand job`, and watched by probes.

use harness::poll;
use serde_json::json;

use super::Fleet;

/// What they do in place of make: a file that the job's check looks for.
const SCRIPT: &str = "control = os.environ.get('TARGET') or ('up' if not flag('break') else 'down')\n\
                      note(n(host), many('NEW_ALLOCATIONS') or 'none', many('UPDATED_ALLOCATIONS') or 'none', \
                      os.environ.get('TARGET', '-'))\n\
                      if control in ('up', 'start', 'restart'): maand.run_ssh(host, 'mkdir -p data && touch data/up')\n\
                      if control in ('down', 'stop'): maand.run_ssh(host, 'rm -f data/up')\n";

fn fleet(count: u8) -> Fleet {
    let fleet = Fleet::new(count);
    let manifest = json!({"version": "1.0.0", "health_check": {
        "checks": [{"type": "exec", "command": "test -e data/up"}], "wait": {"attempts": 2, "interval_seconds": 1}}});
    fleet.job("api", manifest, &["job_control"], SCRIPT);
    fleet
}

fn sorted(mut notes: Vec<String>) -> Vec<String> {
    notes.sort();
    notes
}

fn wait_health(fleet: &Fleet, wanted: &[&str]) {
    poll::until("probes to judge the job", poll::LONG, || {
        let seen = fleet.column("api", "health");
        if seen == wanted { Ok(()) } else { Err(seen) }
    });
}

#[test]
fn hooks_in_place_of_the_lifecycle_with_probes_that_judge_them() {
    let mut fleet = fleet(2);
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(sorted(fleet.notes()), ["h0 h0,h1 none -", "h1 h0,h1 none -"]);
    assert_eq!(fleet.words("api"), ["promoted"; 2]);
    assert_eq!(fleet.ran("api"), ["", ""], "no target of the Makefile");
    wait_health(&fleet, &["healthy", "healthy"]);
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert!(fleet.notes().is_empty());

    // Nothing was bad before the hooks: what the probes said then must not count.
    fleet.edit("api", "two");
    fleet.raise("break");
    let failed = fleet.bucket.maand(&["deploy"]).expect(1).stderr;
    assert!(failed.contains("runs and is not healthy"), "{failed}");
    assert_eq!(sorted(fleet.notes()), ["h0 none h0,h1 -", "h1 none h0,h1 -"]);
    assert_eq!(fleet.words("api"), ["health_failed"; 2]);
    assert_eq!(fleet.agents[0].read("api", "conf/app"), "two", "files are in place all the same");
    fleet.lower("break");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted"; 2]);

    // A version alone, for one of them: NEW and UPDATED are the hosts that are concerned.
    let drained = json!({"jobs": {"api": {"allocations": [fleet.hosts[1]]}}});
    fleet.bucket.write("workspace/disabled.json", &drained.to_string());
    fleet.bucket.maand(&["build"]).expect(0);
    fleet.notes();
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert!(fleet.notes().is_empty());
    assert_eq!(fleet.ran("api"), ["", "stop"], "a drain uses the Makefile");
    fleet.bucket.write("workspace/disabled.json", "{}");
    fleet.bucket.maand(&["build"]).expect(0);
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(sorted(fleet.notes()), ["h0 h1 none -", "h1 h1 none -"], "all are called, one is new");
    wait_health(&fleet, &["healthy", "healthy"]);
}

#[test]
fn a_failing_hook_fails_the_job_and_files_alone_go_without_it() {
    let mut fleet = Fleet::new(2);
    fleet.job("api", json!({}), &["job_control"], "note(n(host))\nsys.exit(flag('fail') and n(host) == 'h1')\n");
    fleet.raise("fail");
    fleet.up();
    let failed = fleet.bucket.maand(&["deploy"]).expect(1).stderr;
    assert!(failed.contains("hook_x failed for 1 of 2 allocations (job_control)"), "{failed}");
    assert_eq!(fleet.words("api"), ["new"; 2]);
    fleet.lower("fail");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted"; 2]);
    fleet.notes();
    fleet.edit("api", "two");
    fleet.bucket.maand(&["deploy", "--sync-only"]).expect(0);
    assert_eq!((fleet.words("api"), fleet.notes()), (vec!["promoted".to_owned(); 2], vec![]));
}

#[test]
fn maand_job_runs_them_with_the_target_on_the_allocations_that_were_chosen() {
    let mut fleet = fleet(2);
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.notes();
    fleet.bucket.maand(&["job", "stop", "api", "--allocations", &fleet.hosts[1]]).expect(0);
    assert_eq!(fleet.notes(), ["h1 - - stop"]);
    assert!(fleet.agents[0].job_path("api", "data/up").exists());
    assert!(!fleet.agents[1].job_path("api", "data/up").exists());
    let started = fleet.bucket.maand(&["job", "START", "api", "--health_check"]);
    assert_eq!(started.code, 2, "as the command line has it: {started:?}");
    fleet.bucket.maand(&["job", "start", "api", "--health_check"]).expect(0);
    assert_eq!(sorted(fleet.notes()), ["h0 - - start", "h1 - - start"]);
    assert!(fleet.agents[1].job_path("api", "data/up").exists());
    let sick = fleet.bucket.maand(&["job", "run", "api", "--target", "down", "--health_check"]).expect(1);
    assert!(sick.stderr.contains("not healthy") || sick.stderr.contains("unhealthy"), "{}", sick.stderr);
    fleet.bucket.maand(&["job", "restart", "api"]).expect(0);
    assert_eq!(fleet.ran("api"), ["", ""], "no target of the Makefile");
    let rows = fleet.bucket.maand(&["job", "status", "api", "--json"]).expect(0).stdout;
    let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
    assert_eq!((&rows[0]["event"], &rows[0]["ok"]), (&json!("job_control"), &json!(true)), "{rows}");
}
