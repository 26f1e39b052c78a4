//! What a deploy does to an allocation: first starts, edits, versions, policies, globs, `--force`.

use serde_json::json;

use super::Fleet;

#[test]
fn a_first_deploy_starts_each_once_and_a_second_one_skips_and_tells_everybody() {
    let mut fleet = Fleet::new(2);
    fleet.job("api", json!({"version": "1.0.0"}));
    fleet.up();
    assert_eq!(fleet.words("api"), ["new", "new"]);
    let first = fleet.bucket.maand(&["deploy"]).expect(0);
    assert!(first.stderr.contains("deployed: 2 allocations promoted in"), "{}", first.stderr);
    assert_eq!(fleet.words("api"), ["promoted", "promoted"]);
    let seq = fleet.update_seq();
    let second = fleet.bucket.maand(&["deploy"]).expect(0);
    assert!(
        second.stderr.contains("deploy: skip job \"api\" (deploy complete on all allocations)"),
        "{}",
        second.stderr
    );
    for (n, agent) in fleet.agents.iter().enumerate() {
        assert_eq!(agent.read("api", "data/ran"), "start 0.0.0 1.0.0\n", "started once");
        harness::poll::until("the new update_seq", harness::poll::LONG, || {
            let said = fleet.worker_json(n)["update_seq"].clone();
            if said == seq + 1 { Ok(()) } else { Err(said) }
        });
    }
    let log = fleet.bucket.read("logs/maand.log");
    assert!(log.contains("event=deploy_skip") && log.contains("job=api"), "{log}");
}

#[test]
fn an_edit_counts_once_it_is_built_and_restarts_each_once() {
    let mut fleet = Fleet::new(2);
    fleet.job("api", json!({"version": "1.0.0", "max_concurrent_upgrades": 2}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.bucket.write("workspace/jobs/api/conf/app", "2");
    let unbuilt = fleet.bucket.maand(&["deploy"]).expect(0);
    assert!(unbuilt.stderr.contains("deploy: skip job \"api\""), "{}", unbuilt.stderr);
    fleet.bucket.maand(&["build"]).expect(0);
    assert_eq!(fleet.words("api"), ["restart", "restart"]);
    fleet.bucket.maand(&["deploy"]).expect(0);
    // Content is the same, the version is another.
    fleet.job("api", json!({"version": "2.0.0", "max_concurrent_upgrades": 2}));
    fleet.bucket.maand(&["build"]).expect(0);
    assert_eq!(fleet.words("api"), ["restart", "restart"]);
    let row = fleet.bucket.cat("deployments")[0].clone();
    assert_eq!((&row["current_version"], &row["new_version"]), (&json!("1.0.0"), &json!("2.0.0")), "{row}");
    assert_eq!(row["current_hash"], row["previous_hash"], "{row}");
    fleet.bucket.maand(&["deploy"]).expect(0);
    let deploys = ["start 0.0.0 1.0.0", "restart 1.0.0 1.0.0", "restart 1.0.0 2.0.0", ""];
    for agent in &fleet.agents {
        assert_eq!(agent.read("api", "data/ran"), deploys.join("\n"), "{}", agent.host);
        assert_eq!(agent.read("api", "conf/app"), "2");
    }
}

#[test]
fn policies_choose_between_reload_restart_and_sync_and_force_follows_them() {
    let mut fleet = Fleet::new(1);
    let reload = json!({"restart_policy": "reload", "restart_globs": ["Makefile", "bin.d/**"], "version": "1"});
    let policies =
        [("soft", reload), ("hard", json!({"restart_policy": "always"})), ("calm", json!({"restart_policy": "never"}))];
    for (job, manifest) in &policies {
        fleet.job(job, manifest.clone());
        fleet.bucket.write(&format!("workspace/jobs/{job}/bin.d/x"), "1");
    }
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    let jobs = ["calm", "hard", "soft"];
    let rows = |dry: &str| -> Vec<String> {
        let words = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let kind = words.next().unwrap().to_owned();
            let matched = words.find(|word| word.starts_with("matched="));
            matched.map_or(kind.clone(), |matched| format!("{kind} {matched}"))
        };
        dry.lines().filter(|line| line.starts_with("    ")).map(words).collect()
    };
    let step = |arguments: &[&str], expected: &[&str]| {
        let dry = fleet.bucket.maand(&[&["deploy", "--dry-run"], arguments].concat()).expect(0).stdout;
        assert_eq!(rows(&dry), expected, "{dry}");
        fleet.bucket.maand(&[&["deploy"], arguments].concat()).expect(0);
        jobs.iter().for_each(|job| assert_eq!(fleet.words(job), ["promoted"]));
        jobs.map(|job| fleet.order(job).join(","))
    };
    jobs.iter().for_each(|job| drop(fleet.order(job)));
    fleet.edit(&jobs, "other");
    assert_eq!(step(&[], &["sync", "restart", "reload"]), ["", "0 restart", "0 reload"]);
    assert_eq!(fleet.agents[0].read("calm", "conf/app"), "other", "files come without a word to the job");

    jobs.iter().for_each(|job| fleet.bucket.write(&format!("workspace/jobs/{job}/bin.d/x"), "2"));
    fleet.edit(&jobs, "another");
    assert_eq!(step(&[], &["sync", "restart", "restart matched=bin.d/x"]), ["", "0 restart", "0 restart"]);

    assert_eq!(step(&["--force"], &["sync", "restart", "reload"]), ["", "0 restart", "0 reload"]);
    fleet.edit(&jobs, "files only");
    assert_eq!(step(&["--sync-only"], &["sync", "sync", "sync"]), ["", "", ""]);
    assert_eq!(fleet.agents[0].read("hard", "conf/app"), "files only");

    let mut soft = policies[0].1.clone();
    soft["version"] = json!("2");
    fleet.job("soft", soft);
    fleet.bucket.maand(&["build"]).expect(0);
    assert_eq!(step(&[], &["reload"]), ["", "", "0 reload"], "a version alone reloads");
}

#[test]
fn what_did_not_pass_its_gate_in_a_forced_restart_is_tried_again_without_force() {
    let mut fleet = Fleet::new(1);
    fleet.job("api", json!({"health_check": fleet.check(1)}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    let sick = format!("sick.{}", fleet.hosts[0]);
    fleet.raise(&sick);
    fleet.bucket.maand(&["deploy", "--force"]).expect(1);
    assert_eq!(fleet.words("api"), ["health_failed"]);
    fleet.lower(&sick);
    let dry = fleet.bucket.maand(&["deploy", "--dry-run"]).expect(0).stdout;
    assert!(dry.contains("deployment required") && dry.contains(" restart "), "{dry}");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted"]);
}

#[test]
fn what_a_forced_restart_broke_is_tried_again_without_force() {
    let mut fleet = Fleet::new(1);
    fleet.job("api", json!({}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.raise("fail.api");
    let failed = fleet.bucket.maand(&["deploy", "--force"]).expect(1).stderr;
    assert!(failed.contains(&format!("api@{} | failed: exit 2\n", fleet.hosts[0])), "{failed}");
    assert_eq!(fleet.words("api"), ["restart"]);
    fleet.lower("fail.api");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.words("api"), ["promoted"]);
    assert_eq!(fleet.order("api"), ["0 start", "0 restart", "0 restart"]);
}
