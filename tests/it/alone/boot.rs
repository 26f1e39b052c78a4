//! After a boot what should run is started, wave by wave, with the controller away.

use harness::agents::Agent;
use harness::poll;
use serde_json::json;

use super::said;
use crate::rollout::Fleet;

/// By the deploy, then after the boot with the version that is in place.
const TWICE: &str = "start 0.0.0 1.0.0\nstart 1.0.0 1.0.0\n";

/// Starts the agent as if the machine had been booted under `id`.
fn booted(agent: &mut Agent, fleet_dir: &std::path::Path, id: u32) {
    let file = fleet_dir.join(format!("boot-{id}"));
    std::fs::write(&file, format!("00000000-0000-4000-8000-{id:012}\n")).unwrap();
    agent.start_as(&["--boot-id-file", file.to_str().unwrap()]);
}

#[test]
fn what_should_run_is_started_in_order_with_the_controller_away_and_once() {
    let mut fleet = Fleet::new(1);
    // Waves come of demands: web needs api, api needs db.
    let hook = |of: &str| json!({"hook_x": {"executed_on": ["cli"], "demands": {"job": of, "hook": "hook_y"}}});
    let given = json!({"hook_y": {"executed_on": ["cli"]}});
    let mut both = hook("db");
    both["hook_y"] = given["hook_y"].clone();
    fleet.job("db", json!({"version": "1.0.0", "hooks": given}));
    fleet.job("api", json!({"version": "1.0.0", "hooks": both}));
    fleet.job("web", json!({"version": "1.0.0", "hooks": hook("api")}));
    fleet.job("idle", json!({}));
    fleet.job("off", json!({}));
    for job in ["db", "api", "web"] {
        for hook in ["hook_x", "hook_y"] {
            fleet.bucket.write(&format!("workspace/jobs/{job}/_modules/{hook}.py"), "print(1)\n");
        }
    }
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.bucket.maand(&["job", "stop", "idle"]).expect(0);
    fleet
        .bucket
        .write("workspace/disabled.json", &json!({"jobs": {"off": {"allocations": [fleet.hosts[0]]}}}).to_string());
    fleet.bucket.maand(&["deploy", "--build"]).expect(0);
    let dir = fleet.bucket.dir().to_owned();
    fleet.agents[0].kill();
    // The kernel's own id is what the agent knows; from here on the test's.
    fleet.serve.take().unwrap().kill();
    fleet.raise("hold.db");
    fleet.raise("fail.api");
    booted(&mut fleet.agents[0], &dir, 1);
    fleet.wait_ran(0, "db", 2);
    assert_eq!(fleet.agents[0].read("api", "data/ran").lines().count(), 1, "its wave waits for the one before");
    fleet.lower("hold.db");
    // The one that fails holds up nobody.
    fleet.wait_ran(0, "web", 2);
    let root = fleet.agents[0].bucket_dir().join("jobs");
    let ran = |job: &str| std::fs::read_to_string(root.join(job).join("data/ran")).unwrap_or_default();
    assert_eq!(ran("api"), TWICE);
    assert_eq!(ran("web"), TWICE);
    assert_eq!(ran("idle"), "start 0.0.0 0.0.0\nstop 0.0.0 0.0.0\n", "stopped by hand");
    assert_eq!(ran("off"), "start 0.0.0 0.0.0\nstop 0.0.0 0.0.0\n", "drained");
    // The agent again, under the same boot: nothing more.
    fleet.agents[0].kill();
    booted(&mut fleet.agents[0], &dir, 1);
    fleet.serve = Some(fleet.bucket.serve());
    poll::until("the failure to be told", poll::LONG, || {
        let said = said(&fleet.bucket, "api");
        if said == "start after a boot failed, exit 2" { Ok(()) } else { Err(said) }
    });
    let why = fleet.bucket.maand(&["why", &fleet.hosts[0], "api"]).expect(0).stdout;
    assert!(
        why.contains("its machine was booted, and its start failed, exit 2") && why.contains("| api cannot start"),
        "{why}"
    );
    assert_eq!(said(&fleet.bucket, "web"), "");
    assert_eq!(ran("db"), TWICE, "once for each boot");
    assert_eq!(ran("web"), TWICE);
    // And the deploy that it was is still the last word: nothing is to be done but what failed.
    assert_eq!(fleet.words("web"), ["promoted"]);
}

#[test]
fn a_file_that_is_gone_is_fetched_before_the_start_and_an_edited_one_stays() {
    let mut fleet = Fleet::new(1);
    fleet.job("api", json!({}));
    fleet.bucket.write("workspace/jobs/api/conf/app", "1");
    fleet.bucket.write("workspace/jobs/api/conf/other", "1");
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    let dir = fleet.bucket.dir().to_owned();
    fleet.agents[0].kill();
    fleet.serve.take().unwrap().kill();
    std::fs::remove_file(fleet.agents[0].job_path("api", "conf/app")).unwrap();
    std::fs::write(fleet.agents[0].job_path("api", "conf/other"), "edited").unwrap();
    booted(&mut fleet.agents[0], &dir, 1);
    let log = dir.join("agents").join(&fleet.hosts[0]).join("agent.log");
    poll::until("the agent to say what it waits for", poll::LONG, || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains("it is not started: 1 of its files are gone (conf/app)") { Ok(()) } else { Err(said) }
    });
    assert_eq!(fleet.agents[0].read("api", "data/ran").lines().count(), 1);
    fleet.serve = Some(fleet.bucket.serve());
    fleet.wait_ran(0, "api", 2);
    assert_eq!(fleet.agents[0].read("api", "conf/app"), "1");
    assert_eq!(fleet.agents[0].read("api", "conf/other"), "edited");
    poll::until("the edited file to be told", poll::LONG, || {
        let said = said(&fleet.bucket, "api");
        if said == "1 files edited there" { Ok(()) } else { Err(said) }
    });
}
