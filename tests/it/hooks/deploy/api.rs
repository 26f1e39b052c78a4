//! What hooks of a deploy have done on workers, by their agents.

use serde_json::json;

use super::Fleet;

#[test]
fn a_hook_runs_targets_and_scripts_on_its_worker() {
    let mut fleet = Fleet::new(2);
    let script = "made = maand.run_make_target('hello')\n\
                  said = maand.run_ssh(host, 'pwd; cat conf/app; exit 5', check=False)\n\
                  note(n(host), made.returncode, repr(made.stdout), said.returncode, said.stdout.split('/')[-1].split())\n\
                  other = maand.run_make_target('hello', worker_ip=os.environ['BATCH_ALLOCATIONS'].split(',')[0])\n\
                  assert other.stdout == 'hello of 1.0.0\\n', other\n\
                  try: maand.run_make_target('nothing')\n\
                  except Exception as error: note(type(error).__name__)\n";
    fleet.job("api", json!({"version": "1.0.0"}), &["after_allocation_started"], script);
    let makefile = fleet.bucket.read("workspace/jobs/api/Makefile");
    let hello = "hello:\n\t@echo hello of $(or $(NEW_VERSION),1.0.0)\n";
    fleet.bucket.write("workspace/jobs/api/Makefile", &format!("{makefile}{hello}"));
    fleet.bucket.write("workspace/jobs/api/conf/app", "one\n");
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    let mut notes = fleet.notes();
    notes.sort();
    assert_eq!(
        notes,
        [
            "CalledProcessError",
            "CalledProcessError",
            "h0 0 'hello of 1.0.0\\n' 5 ['api', 'one']",
            "h1 0 'hello of 1.0.0\\n' 5 ['api', 'one']",
        ]
    );
}

#[test]
fn an_agent_that_is_away_is_an_error_that_names_it() {
    let mut fleet = Fleet::new(1);
    fleet.bucket.setting("pickup_timeout = 2");
    fleet.job(
        "api",
        json!({}),
        &["post_deploy"],
        "sys.exit(1) if not flag('away') else maand.run_make_target('start')\n",
    );
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(1);
    fleet.raise("away");
    fleet.agents[0].kill();
    let failed = fleet.bucket.maand(&["deploy"]).expect(1).stderr;
    assert!(failed.contains("POST /make: 503"), "{failed}");
    assert!(failed.contains(&format!("the agent of {}", fleet.hosts[0])), "{failed}");
}

#[test]
fn a_dry_run_reaches_no_worker() {
    let mut fleet = Fleet::new(1);
    let script = "note(maand._call('POST', '/make', {'target': 'start'}).status_code)\n";
    fleet.job("api", json!({}), &["pre_deploy"], script);
    fleet.up();
    fleet.bucket.maand(&["deploy", "-n"]).expect(0);
    assert_eq!(fleet.notes(), ["501"]);
    assert_eq!(fleet.ran("api"), [""]);
}
