//! Waves: who waits for a job that failed, and who does not.

use serde_json::json;

use super::Fleet;

/// Declares that `job` demands `of`.
fn demands(fleet: &Fleet, job: &str, of: &[&str]) {
    let hooks: serde_json::Map<String, serde_json::Value> = of
        .iter()
        .map(|of| (format!("hook_{of}"), json!({"executed_on": ["cli"], "demands": {"job": of, "hook": "hook_ready"}})))
        .chain([("hook_ready".to_owned(), json!({"executed_on": ["cli"]}))])
        .collect();
    for hook in hooks.keys() {
        fleet.bucket.write(&format!("workspace/jobs/{job}/_modules/{hook}.py"), "");
    }
    fleet.job(job, json!({"version": "1.0.0", "hooks": hooks, "max_concurrent_starts": 1}));
}

#[test]
fn a_failed_job_holds_back_who_demands_it_and_nobody_else() {
    let mut fleet = Fleet::new(2);
    demands(&fleet, "database", &[]);
    demands(&fleet, "queue", &[]);
    demands(&fleet, "app", &["database"]);
    demands(&fleet, "web", &["app"]);
    demands(&fleet, "worker", &["queue"]);
    fleet.raise("fail.database");
    fleet.up();
    let failed = fleet.bucket.maand(&["deploy"]).expect(1);
    let said = &failed.stderr;
    for job in ["app", "web"] {
        assert!(said.contains(&format!("job {job}: blocked: database failed")), "{said}");
        assert_eq!(fleet.words(job), ["new", "new"]);
    }
    assert!(said.contains("job database: make failed on"), "{said}");
    assert!(said.contains("with 1 of its 2 allocations untouched"), "{said}");
    assert!(said.contains("deploy failed: database, app, web (3 problems)\n"), "all of them at the end: {said}");
    let end = said.split("deploy failed: ").nth(1).unwrap();
    assert_eq!(end.matches("\nerror[MD").count(), 3, "{said}");
    for job in ["queue", "worker"] {
        assert_eq!(fleet.words(job), ["promoted", "promoted"]);
    }
    let shown = fleet.show();
    let phases: Vec<_> = shown["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| (job["job"].as_str().unwrap(), job["phase"].as_str().unwrap()))
        .collect();
    let blocked = "blocked: database failed";
    assert_eq!(
        phases,
        [("database", "failed"), ("queue", "done"), ("app", blocked), ("worker", "done"), ("web", blocked)],
        "{shown}"
    );
    assert_eq!(shown["state"], "failed");

    fleet.lower("fail.database");
    let said = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(said.contains("deploy: skip job \"queue\" (deploy complete on all allocations)"), "{said}");
    assert!(fleet.bucket.rollouts().iter().all(|(_, _, word)| word == "promoted"));
    let place = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text}: {said}"));
    assert!(place("database | done") < place("app@") && place("app | done") < place("web@"), "wave after wave: {said}");
}
