//! Draining: an allocation is stopped once, keeps its files and key-values, and starts when it is enabled.

use serde_json::json;

use super::Fleet;

fn disable(fleet: &Fleet, hosts: &[&str]) {
    let disabled = json!({"jobs": {"api": {"allocations": hosts}}});
    fleet.bucket.write("workspace/disabled.json", &disabled.to_string());
    fleet.bucket.maand(&["build"]).expect(0);
}

fn ran(fleet: &Fleet, n: usize) -> Vec<String> {
    fleet.agents[n].read("api", "data/ran").lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn a_drained_allocation_is_stopped_once_and_starts_when_it_is_enabled() {
    let mut fleet = Fleet::new(2);
    fleet.job("api", json!({"version": "1", "max_concurrent_upgrades": 2}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    let keys = || -> Vec<String> {
        let rows = fleet.bucket.cat("kv");
        let of = |row: &serde_json::Value| {
            format!("{} {}", row["namespace"].as_str().unwrap(), row["key"].as_str().unwrap())
        };
        let live = rows.as_array().unwrap().iter().filter(|row| row["deleted"] == false).map(of);
        live.filter(|key| key.contains(&format!("/job/api/worker/{}", fleet.hosts[1]))).collect()
    };
    let before = keys();

    disable(&fleet, &[&fleet.hosts[1]]);
    assert_eq!(fleet.words("api"), ["promoted", "disabled"]);
    let dry = fleet.bucket.maand(&["deploy", "-n"]).expect(0).stdout;
    assert!(dry.contains(&format!("    {:<15} stop ", fleet.hosts[1])), "{dry}");
    for n in 0..3 {
        let said = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
        assert_eq!(said.contains(&format!("api@{} | stopped in", fleet.hosts[1])), n == 0, "{said}");
        assert_eq!(ran(&fleet, 1), ["start", "stop"], "stopped once");
    }
    assert_eq!(ran(&fleet, 0), ["start"], "the other one is left alone");
    assert!(fleet.agents[1].job_path("api", "Makefile").exists(), "its files stay");
    let jobs = std::fs::read_to_string(fleet.agents[1].bucket_dir().join("jobs.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&jobs).unwrap()[0]["disabled"], 1, "{jobs}");
    assert_eq!(keys(), before, "its key-values stay");
    assert!(fleet.bucket.maand(&["deploy", "-n"]).expect(0).stdout.contains("no deployment required"));

    // Edited while it is drained: it gets the files, and nothing runs.
    fleet.edit(&["api"], "2");
    assert_eq!(fleet.words("api"), ["restart", "disabled_restart"]);
    let dry = fleet.bucket.maand(&["deploy", "-n"]).expect(0).stdout;
    assert!(dry.contains(&format!("    {:<15} promote ", fleet.hosts[1])), "{dry}");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted", "disabled"]);
    assert_eq!(fleet.agents[1].read("api", "conf/app"), "2");
    assert_eq!(ran(&fleet, 1), ["start", "stop"]);

    std::fs::remove_file(fleet.bucket.path("workspace/disabled.json")).unwrap();
    fleet.bucket.maand(&["build"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted", "new"]);
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(ran(&fleet, 1), ["start", "stop", "start"]);
    assert_eq!(ran(&fleet, 0), ["start", "restart"]);
    assert_eq!(fleet.words("api"), ["promoted", "promoted"]);
}

#[test]
fn a_drain_with_new_content_stops_with_the_old_files_and_gets_the_new_ones() {
    let mut fleet = Fleet::new(1);
    fleet.job("api", json!({"version": "1"}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.job("api", json!({"version": "2"}));
    let makefile = fleet.bucket.read("workspace/jobs/api/Makefile").replace("echo \"stop ", "echo \"new-stop ");
    fleet.bucket.write("workspace/jobs/api/Makefile", &makefile);
    disable(&fleet, &[&fleet.hosts[0]]);
    assert_eq!(fleet.words("api"), ["disabled_restart"]);
    let dry = fleet.bucket.maand(&["deploy", "-n"]).expect(0).stdout;
    assert!(dry.contains(" stop+promote ") && dry.contains("version=1.0.0->2.0.0"), "{dry}");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.words("api"), ["disabled"]);
    assert_eq!(ran(&fleet, 0), ["start", "stop"], "stopped with the target that it was started beside");
    assert!(fleet.agents[0].read("api", "Makefile").contains("new-stop"));
    let skipped = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(skipped.contains("deploy: skip job \"api\" (no active allocations)"), "{skipped}");
}

#[test]
fn a_stop_that_fails_holds_up_nobody_else_and_is_tried_again() {
    let mut fleet = Fleet::new(2);
    fleet.job("api", json!({}));
    fleet.job("web", json!({}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    disable(&fleet, &[&fleet.hosts[0], &fleet.hosts[1]]);
    fleet.edit(&["web"], "2");
    let fail = fleet.flag("fail.api");
    std::fs::write(&fail, "").unwrap();
    // Only the first one's stop fails: the second one's target does not look.
    let makefile = fleet.agents[1].job_path("api", "Makefile");
    let text = std::fs::read_to_string(&makefile).unwrap().replace("fail.api", "fail.nothing");
    std::fs::write(&makefile, text).unwrap();
    let failed = fleet.bucket.maand(&["deploy"]).expect(1);
    assert!(
        failed.stderr.contains(&format!("job api: make failed on {} with exit code 2", fleet.hosts[0])),
        "{}",
        failed.stderr
    );
    assert!(failed.stderr.contains("api cannot stop"), "{}", failed.stderr);
    assert_eq!(fleet.words("web"), ["promoted", "promoted"]);
    assert!(failed.stderr.contains("api | done, but for 1 that failed"), "{}", failed.stderr);
    std::fs::remove_file(fail).unwrap();
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(ran(&fleet, 0), ["start", "stop", "stop"]);
    assert_eq!(ran(&fleet, 1), ["start", "stop"], "the one that was stopped is not stopped again");
}
