//! "Dry-run first": the four commands, each row of the table of actions, each message.

use serde_json::json;

use super::{Shop, of_job, says};

#[test]
fn the_four_commands_the_actions_and_the_messages() {
    let shop = Shop::new();
    let mut shop = shop;
    shop.job("notes", json!({"selectors": ["spare"], "restart_policy": "never"}));
    shop.begin();
    let dry = shop.run(&["deploy", "--dry-run"], 0);
    says(&dry, &["deploy dry-run: deployment required\n", "deployment sequence 0:", "deployment sequence 2:"]);
    // start: first deploy here, nothing was promoted before it.
    let start = of_job(&dry, "vault");
    says(&start, &["deploy required\n", &format!("{:<15} start ", shop.hosts[0]), "current_hash="]);
    assert!(!start.contains("previous_hash"), "{start}");
    shop.run(&["deploy"], 0);
    let before = (shop.info(), shop.bucket.cat("deployments"));

    // Of each policy one job with other content; vault alone stays as it is.
    for job in ["postgres", "api", "notes"] {
        shop.edit(job, "2");
    }
    says(&shop.run(&["deploy", "--dry-run"], 0), &["no deployment required"]);
    let dry = shop.run(&["deploy", "-b", "-n"], 0);
    says(&dry, &["deploy dry-run: deployment required\n"]);
    assert_eq!((shop.info(), shop.bucket.cat("deployments")), before, "built aside, and nothing changed");
    shop.run(&["build"], 0);
    let dry = shop.run(&["deploy", "--dry-run"], 0);
    for (job, action) in [("api", "restart"), ("postgres", "reload"), ("notes", "sync")] {
        let section = of_job(&dry, job);
        says(&section, &["deploy required\n", &format!(" {action} "), "previous_hash=", "current_hash="]);
        assert!(!section.contains("matched="), "{section}");
    }
    assert_eq!(of_job(&dry, "vault").trim_end(), "skip (already promoted)");
    // A pattern of restart_globs makes a restart of the reload, and the line says for which paths.
    shop.bucket.write("workspace/jobs/postgres/bin-of-mine/app", "1");
    let makefile = shop.bucket.read("workspace/jobs/postgres/Makefile");
    shop.bucket.write("workspace/jobs/postgres/Makefile", &format!("{makefile}# more\n"));
    shop.manifest("postgres", |manifest| manifest["restart_globs"] = json!(["Makefile", "bin-of-mine/*"]));
    shop.run(&["build"], 0);
    let section = of_job(&shop.run(&["deploy", "--dry-run"], 0), "postgres");
    says(&section, &[" restart ", "matched=Makefile,bin-of-mine/app"]);

    // These jobs alone.
    let some = shop.run(&["deploy", "--dry-run", "--jobs", "api,vault"], 0);
    says(&some, &["job \"api\": deploy required", "job \"vault\": skip (already promoted)"]);
    assert!(!some.contains("postgres") && !some.contains("notes"), "{some}");
    // A forced restart, shown before it is done.
    let forced = of_job(&shop.run(&["deploy", "--dry-run", "--force"], 0), "vault");
    says(&forced, &["deploy required\n", " restart "]);
    assert_eq!(shop.ran(0, "vault"), ["start"]);

    // An allocation that is in sync in a job that is not.
    shop.run(&["deploy"], 0);
    shop.raise(&format!("fail.api.{}", shop.hosts[2]));
    shop.edit("api", "3");
    shop.run(&["build"], 0);
    says(&shop.run(&["deploy"], 1), &["deploy failed: api\n", "make failed on"]);
    let section = of_job(&shop.run(&["deploy", "--dry-run"], 0), "api");
    let line = |n: usize| section.lines().find(|line| line.contains(&shop.hosts[n])).unwrap().to_owned();
    says(&line(2), &[" restart "]);
    // One gate for a batch: what ran beside the one that failed was not promoted either, or was.
    assert_eq!(
        line(0).contains(" skip "),
        shop.column("api", "rollout")[0] == "promoted",
        "{section}\n{:?}",
        shop.column("api", "rollout")
    );
    shop.lower(&format!("fail.api.{}", shop.hosts[2]));
    shop.run(&["deploy"], 0);

    // A dry run shows stops of what is drained and of what is no longer wanted.
    shop.bucket.write("workspace/disabled.json", r#"{"jobs": {"vault": {}}}"#);
    std::fs::remove_dir_all(shop.bucket.path("workspace/jobs/notes")).unwrap();
    shop.run(&["build"], 0);
    let dry = shop.run(&["deploy", "--dry-run"], 0);
    says(&of_job(&dry, "vault"), &["deploy required\n", " stop "]);
    says(&of_job(&dry, "notes"), &["deploy required\n", " stop ", " removed"]);
    shop.run(&["deploy"], 0);
    let dry = shop.run(&["deploy", "--dry-run"], 0);
    says(&dry, &["deploy dry-run: no deployment required\n", "job \"vault\": skip (no active allocations)"]);
}
