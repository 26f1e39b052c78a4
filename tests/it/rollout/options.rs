//! `--sync-only`, `--jobs`, and what a dry run says and leaves alone.

use serde_json::{Value, json};

use super::Fleet;

#[test]
fn sync_only_refuses_a_job_that_needs_a_start_and_no_other() {
    let mut fleet = Fleet::new(2);
    fleet.job("api", json!({"max_concurrent_upgrades": 2}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.job("new", json!({}));
    fleet.edit(&["api"], "2");
    for arguments in [&["deploy", "--sync-only", "--dry-run"][..], &["deploy", "--sync-only"]] {
        let refused = fleet.bucket.maand(arguments).expect(1);
        let both = fleet.hosts.join(", ");
        assert!(
            refused.stderr.contains(&format!("job new: --sync-only cannot start what was never deployed: {both}")),
            "{}",
            refused.stderr
        );
    }
    assert_eq!((fleet.words("api"), fleet.words("new")), (vec!["promoted".into(); 2], vec!["new".into(); 2]));
    for agent in &fleet.agents {
        assert_eq!(agent.read("api", "conf/app"), "2");
        assert_eq!(agent.read("api", "data/ran"), "start 0.0.0 0.0.0\n", "no target ran");
    }
}

#[test]
fn jobs_limits_everything_stops_and_removals_too() {
    let mut fleet = Fleet::new(1);
    ["api", "web", "old"].iter().for_each(|job| fleet.job(job, json!({})));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    std::fs::remove_dir_all(fleet.bucket.path("workspace/jobs/old")).unwrap();
    fleet.bucket.write("workspace/disabled.json", r#"{"jobs": {"web": {}}}"#);
    fleet.edit(&["api"], "2");
    fleet.bucket.maand(&["deploy", "--jobs", "api"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted"]);
    for job in ["web", "old"] {
        assert_eq!(fleet.agents[0].read(job, "data/ran"), "start 0.0.0 0.0.0\n", "{job} was not asked for");
    }
    fleet.bucket.maand(&["deploy", "--jobs", "old, web"]).expect(0);
    for job in ["web", "old"] {
        assert_eq!(fleet.agents[0].read(job, "data/ran"), "start 0.0.0 0.0.0\nstop 0.0.0 0.0.0\n", "{job}");
    }
    let unknown = fleet.bucket.maand(&["deploy", "--jobs", "api,nope"]).expect(2);
    assert!(unknown.stderr.contains("there is no job \"nope\""), "{}", unknown.stderr);
}

#[test]
fn a_dry_run_says_all_eight_actions_and_changes_nothing() {
    let mut fleet = Fleet::new(2);
    let drained = ["stopped", "moved", "still"];
    let policies = [("hard", "always"), ("soft", "reload"), ("calm", "never"), ("same", "always")];
    policies.iter().for_each(|(job, policy)| fleet.job(job, json!({"restart_policy": policy})));
    drained.iter().for_each(|job| fleet.job(job, json!({})));
    fleet.bucket.write("workspace/disabled.json", r#"{"jobs": {"still": {}}}"#);
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    // One that is stopped, and gets new files while it is.
    fleet.bucket.write("workspace/disabled.json", r#"{}"#);
    fleet.bucket.maand(&["build"]).expect(0);
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.bucket.write("workspace/disabled.json", r#"{"jobs": {"still": {}}}"#);
    fleet.bucket.maand(&["build"]).expect(0);
    fleet.bucket.maand(&["deploy"]).expect(0);

    fleet.job("first", json!({}));
    fleet.bucket.write("workspace/disabled.json", r#"{"jobs": {"still": {}, "stopped": {}, "moved": {}}}"#);
    fleet.edit(&["hard", "soft", "calm", "moved", "still"], "2");
    let files = |fleet: &Fleet| -> Vec<String> {
        let job = |job: &str| {
            fleet
                .agents
                .iter()
                .map(|agent| agent.read(job, "data/ran") + &agent.read(job, "conf/app"))
                .collect::<Vec<_>>()
        };
        policies.iter().map(|(name, _)| *name).chain(drained).flat_map(job).collect()
    };
    let before = (fleet.bucket.cat("deployments"), fleet.bucket.cat("jobs"), fleet.update_seq(), files(&fleet));
    let dry = fleet.bucket.maand(&["deploy", "--dry-run"]).expect(0).stdout;
    assert!(dry.starts_with("deploy dry-run: deployment required\n\ndeployment sequence 0:\n"), "{dry}");
    for (job, action) in [
        ("first", "start"),
        ("hard", "restart"),
        ("soft", "reload"),
        ("calm", "sync"),
        ("stopped", "stop"),
        ("still", "promote"),
        ("moved", "stop+promote"),
    ] {
        let section = dry.split(&format!("  job \"{job}\": ")).nth(1).unwrap_or_default();
        let section = section.split("\n  job ").next().unwrap();
        assert!(section.starts_with("deploy required\n"), "{job}: {dry}");
        assert_eq!(section.matches(&format!(" {action} ")).count(), 2, "{job}: {dry}");
    }
    assert!(dry.contains("  job \"same\": skip (already promoted)"), "{dry}");
    assert!(dry.lines().all(|line| !line.ends_with(' ')), "{dry}");

    let json: Value = serde_json::from_str(&fleet.bucket.maand(&["deploy", "-n", "--json"]).expect(0).stdout).unwrap();
    assert_eq!(json["required"], true);
    let mut said: Vec<&str> = json["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|job| job["allocations"].as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()))
        .collect();
    said.sort_unstable();
    said.dedup();
    assert_eq!(said, ["promote", "reload", "restart", "skip", "start", "stop", "stop+promote", "sync"], "{json}");

    // With a build into a scratch catalog, too.
    fleet.bucket.write("workspace/jobs/same/conf/app", "3");
    let dry = fleet.bucket.maand(&["deploy", "-b", "-n"]).expect(0).stdout;
    assert!(dry.contains("  job \"same\": deploy required\n"), "{dry}");
    let after = (fleet.bucket.cat("deployments"), fleet.bucket.cat("jobs"), fleet.update_seq(), files(&fleet));
    assert_eq!(after, before);
    let scratch: Vec<_> =
        std::fs::read_dir(fleet.bucket.path("data")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(scratch.iter().all(|name| !name.to_string_lossy().contains("scratch")), "{scratch:?}");
}
