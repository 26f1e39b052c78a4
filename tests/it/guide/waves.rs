//! "Job not in deploy wave at all": no matching workers, left out by `--jobs`, an earlier wave that fails, pre_deploy
//! that fails.

use serde_json::json;

use super::{Shop, of_job, says};

#[test]
fn a_job_that_is_in_no_wave() {
    let shop = Shop::new();
    shop.job("report", json!({"selectors": ["api", "gpu"]}));
    let mut shop = shop;
    shop.raise("fail.vault");
    shop.begin();
    // No matching workers: it is there, and nowhere.
    says(&shop.run(&["cat", "jobs"], 0), &["report"]);
    says(
        &shop.run(&["cat", "allocations", "--jobs", "report"], 1),
        &["MD0010", "there are no allocations", "compare the jobs' selectors with the workers' labels"],
    );
    let dry = shop.run(&["deploy", "-n"], 0);
    assert!(!dry.contains("report"), "{dry}");
    says(&shop.run(&["cat", "workers"], 0), &["LABELS", "spare"]);
    says(&shop.run(&["why", &shop.hosts[2], "report"], 2), &["job report is not placed on", "selectors"]);

    // Left out by --jobs; a name that is none is an error and not silence.
    let some = shop.run(&["deploy", "-n", "--jobs", "postgres"], 0);
    assert!(!some.contains("\"api\"") && some.contains("postgres"), "{some}");
    says(&shop.run(&["deploy", "-n", "--jobs", "postgre"], 2), &["MD0009", "did you mean \"postgres\""]);

    // The earlier wave fails: seq 0 first, and who demands it waits.
    let failed = shop.run(&["deploy"], 1);
    says(
        &failed,
        &[
            "deploy failed: vault, postgres, api (3 problems)",
            "job vault: make failed on",
            "vault cannot start",
            "job postgres: blocked: vault failed",
            "job api: blocked: vault failed",
            "put vault right, then maand deploy",
        ],
    );
    assert_eq!(
        (shop.column("vault", "rollout"), shop.column("api", "rollout")),
        (vec![json!("new")], vec![json!("new"); 3])
    );
    shop.lower("fail.vault");
    let deployed = shop.run(&["deploy"], 0);
    let at = |text: &str| deployed.find(text).unwrap_or_else(|| panic!("{text}: {deployed}"));
    assert!(at("vault | done") < at("postgres@") && at("postgres | done") < at("api@"), "{deployed}");

    // The fix of the first: the label that was missing.
    let workers = shop.bucket.read("workspace/workers.json").replace("\"spare\"", "\"spare\",\"gpu\"");
    shop.bucket.write("workspace/workers.json", &workers);
    shop.run(&["build"], 0);
    says(&of_job(&shop.run(&["deploy", "-n"], 0), "report"), &[" start "]);
    shop.run(&["deploy"], 0);
    assert_eq!(shop.ran(2, "report"), ["start"]);
}
