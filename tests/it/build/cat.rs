//! `maand cat`: column names that scripts can rely on, filters, empty tables.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{build, one_worker, scripts, workspace};

/// The columns of every view, in order: a promise to scripts.
const COLUMNS: &[(&str, &[&str])] = &[
    ("workers", &["worker_ip", "zone", "cpu_mhz", "memory_mb", "position", "labels"]),
    ("jobs", &["job", "version", "disabled", "deployment_seq", "cpu", "memory", "selectors"]),
    ("allocations", &["allocation_id", "worker_ip", "zone", "job", "disabled", "removed"]),
    ("hooks", &["job", "hook_name", "executed_on", "demand_job", "demand_hook", "demand_config", "timeout_s"]),
    ("ports", &["job", "name", "port"]),
    ("certs", &["scope", "job", "worker", "cert", "common_name", "not_after", "days_left", "status"]),
    ("kv", &["namespace", "key", "value", "version", "ttl", "created_date", "deleted"]),
];

/// These grow: what is here stays.
const GROWING: &[(&str, &[&str])] = &[
    (
        "deployments",
        &[
            "job",
            "worker_ip",
            "alloc_id",
            "rollout",
            "current_hash",
            "previous_hash",
            "current_version",
            "new_version",
            "disabled",
            "removed",
        ],
    ),
    ("agents", &["host", "state", "last_seen", "version", "update_seq", "certificate_end", "clock_ms", "refused"]),
];

#[test]
fn json_has_the_columns_and_tables_show_them() {
    let manifest = json!({"version": "1.2", "hooks": {"hook_a": {"executed_on": ["cli"]}},
        "resources": {"ports": {"api_http": {}}}, "certs": {"tls": {}}});
    let bucket = workspace(&one_worker(), &[("api", manifest)]);
    scripts(&bucket, "api", &["hook_a"]);
    build(&bucket);
    for (view, columns) in COLUMNS.iter().chain(GROWING) {
        let names: BTreeSet<String> = bucket.cat(view)[0].as_object().unwrap().keys().cloned().collect();
        let promised: BTreeSet<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        assert!(promised.is_subset(&names), "{view}: {names:?}");
        assert!(names == promised || GROWING.iter().any(|(growing, _)| growing == view), "{view}: {names:?}");
        // Piped: as wide as it has to be, one row a line.
        let table = bucket.maand(&["cat", view]).expect(0).stdout;
        let head: Vec<&str> =
            table.lines().nth(1).unwrap().split('┆').map(|cell| cell.trim_matches(['│', ' '])).collect();
        assert_eq!(
            head[..columns.len()],
            columns.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>()[..],
            "{view}"
        );
    }
    let got: Value =
        serde_json::from_str(&bucket.maand(&["cat", "kv", "get", "maand/bucket", "jobs", "--json"]).expect(0).stdout)
            .unwrap();
    let names: Vec<&str> = got.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        BTreeSet::from_iter(names),
        BTreeSet::from(["namespace", "key", "value", "version", "ttl", "created_date"])
    );
    let plain = bucket.maand(&["cat", "kv", "get", "maand/bucket", "jobs"]).expect(0).stdout;
    let names: Vec<&str> = plain.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(names, ["namespace", "key", "value", "version", "ttl", "created_date"]);
}

#[test]
fn a_filter_lets_through_what_it_names_and_refuses_what_it_does_not_know() {
    let bucket =
        workspace(&json!([]), &[("api", json!({"selectors": ["worker"]})), ("web", json!({"selectors": ["worker"]}))]);
    bucket.workers(&["w1".to_owned(), "w2".to_owned()], &[]);
    build(&bucket);
    let rows = |arguments: &[&str]| -> Vec<Value> {
        serde_json::from_str(&bucket.maand(&[&["cat"], arguments, &["--json"]].concat()).expect(0).stdout).unwrap()
    };
    for view in ["allocations", "deployments"] {
        assert_eq!(rows(&[view]).len(), 4);
        assert_eq!(rows(&[view, "--jobs", "web , api", "--workers", "w2"]).len(), 2, "blanks do not count");
    }
    assert_eq!(rows(&["jobs", "--jobs", "api"]).len(), 1);
    assert!(rows(&["kv", "--jobs", "api"]).iter().all(|row| !row["namespace"].as_str().unwrap().contains("web")));
    assert_eq!(rows(&["certs", "--jobs", "api"]).len(), 1, "the authority is always shown");
    for view in ["jobs", "allocations", "deployments", "hooks", "ports", "certs", "kv"] {
        let refused = bucket.maand(&["cat", view, "--jobs", "api,apu"]).expect(2);
        assert!(
            refused.stderr.contains("MD0009") && refused.stderr.contains("did you mean \"api\"?"),
            "{}",
            refused.stderr
        );
        assert_eq!(refused.stdout, "");
    }
    for view in ["allocations", "deployments", "certs"] {
        let refused = bucket.maand(&["cat", view, "--workers", "w3,w4"]).expect(2);
        assert_eq!(refused.stderr.matches("MD0009").count(), 2, "each that is unknown: {}", refused.stderr);
    }
    // What is gone from the workspace still has allocations, and can be asked for.
    std::fs::remove_dir_all(bucket.path("workspace/jobs/web")).unwrap();
    build(&bucket);
    assert!(rows(&["allocations", "--jobs", "web"]).iter().all(|row| row["removed"] == true));
}

#[test]
fn an_empty_table_is_an_error_that_says_what_to_do() {
    let bucket = workspace(&json!([]), &[]);
    for view in ["workers", "jobs", "allocations", "deployments", "hooks", "ports", "agents", "kv"] {
        let nothing = bucket.maand(&["cat", view]).expect(1);
        assert!(nothing.stderr.contains("MD0010") && nothing.stderr.contains("do: "), "{view}: {}", nothing.stderr);
        assert_eq!(nothing.stdout, "");
        let nothing = bucket.maand(&["cat", view, "--json"]).expect(1);
        let said: Value = serde_json::from_str(&nothing.stderr).unwrap();
        assert_eq!((said["code"].as_str(), nothing.stdout.as_str()), (Some("MD0010"), ""), "{view}");
    }
    let unknown = bucket.maand(&["cat", "kv", "get", "maand/bucket", "jobs"]).expect(2);
    assert!(unknown.stderr.contains("there is no namespace"), "{}", unknown.stderr);
    build(&bucket);
    let unknown = bucket.maand(&["cat", "kv", "get", "maand/bucket", "job"]).expect(2);
    assert!(unknown.stderr.contains("did you mean \"jobs\"?"), "{}", unknown.stderr);
}
