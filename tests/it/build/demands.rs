//! Demands between jobs: 9 and 10.

use harness::bucket::Bucket;
use serde_json::{Value, json};

use super::{build, column, job, one_worker, refused, scripts, workspace};

/// Jobs with the version 1.0.0 and a hook for each job that they demand something of.
fn chain(demands: &[(&str, &[&str])]) -> Bucket {
    let bucket = workspace(&one_worker(), &[]);
    for (name, upstream) in demands {
        let mut hooks = json!({"hook_own": {"executed_on": ["cli"]}});
        for other in *upstream {
            hooks[format!("hook_{other}")] =
                json!({"executed_on": ["pre_deploy"], "demands": {"job": other, "hook": "hook_own"}});
        }
        job(&bucket, name, &json!({"version": "1.0.0", "selectors": ["api"], "hooks": hooks}));
        let names: Vec<String> = hooks.as_object().unwrap().keys().cloned().collect();
        scripts(&bucket, name, &names.iter().map(String::as_str).collect::<Vec<_>>());
    }
    bucket
}

fn sequence(bucket: &Bucket) -> Vec<(String, u64)> {
    let rows = column(bucket, "jobs", &["job"], "deployment_seq");
    rows.into_iter().map(|(job, seq)| (job, seq.as_u64().unwrap())).collect()
}

#[test]
fn a_job_comes_after_what_it_demands() {
    let bucket = chain(&[("a", &["b"]), ("b", &["c"]), ("c", &[])]);
    job(&bucket, "plain", &json!({"selectors": ["api"]}));
    build(&bucket);
    let expected = [("c", 0), ("plain", 0), ("b", 1), ("a", 2)];
    assert_eq!(sequence(&bucket), expected.map(|(job, seq)| (job.to_owned(), seq)));
    // A diamond with one long side: the longest way counts.
    let bucket = chain(&[
        ("top", &["left", "right"]),
        ("left", &["base"]),
        ("right", &["mid"]),
        ("mid", &["base"]),
        ("base", &[]),
    ]);
    build(&bucket);
    let expected = [("base", 0), ("left", 1), ("mid", 1), ("right", 2), ("top", 3)];
    assert_eq!(sequence(&bucket), expected.map(|(job, seq)| (job.to_owned(), seq)));
    let hooks = column(&bucket, "hooks", &["job", "hook_name"], "demand_job");
    assert!(hooks.contains(&("top hook_left".to_owned(), json!("left"))), "{hooks:?}");
}

#[test]
fn a_circle_is_refused_with_its_path() {
    refused(&chain(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"])]), &["MD0035", "a -> b -> c -> a"]);
}

#[test]
fn what_a_demand_names_has_to_be_there() {
    let api =
        |demands: Value| json!({"version": "1", "hooks": {"hook_a": {"executed_on": ["cli"], "demands": demands}}});
    let db = json!({"version": "1.9", "selectors": ["api"], "hooks": {"hook_x": {"executed_on": ["cli"]}}});
    let bucket = workspace(&one_worker(), &[("db", db)]);
    scripts(&bucket, "db", &["hook_x"]);
    scripts(&bucket, "api", &["hook_a"]);
    let attempt = |demands: Value, said: &[&str]| {
        job(&bucket, "api", &api(demands));
        refused(&bucket, said);
    };
    attempt(json!({"job": "dbx", "hook": "hook_x"}), &["MD0036", "there is no job \"dbx\"", "did you mean \"db\"?"]);
    attempt(
        json!({"job": "db", "hook": "hook_y"}),
        &["MD0036", "job db has no hook \"hook_y\"", "its hooks are hook_x"],
    );
    attempt(json!({"job": "db"}), &["MD0036", "names a job and no hook"]);
    attempt(json!({"job": "api", "hook": "hook_a"}), &["MD0036", "cannot demand something of itself"]);
    let out = json!({"job": "db", "hook": "hook_x", "config": {"min_version": 2}});
    attempt(out, &["MD0036", "job db has version 1.9.0, at least 2.0.0 is demanded"]);
    let out = json!({"job": "db", "hook": "hook_x", "config": {"max_version": "1.8"}});
    attempt(out, &["MD0036", "at most 1.8.0 is demanded"]);
    let bounds = json!({"job": "db", "hook": "hook_x", "config": {"min_version": "1.9.0", "max_version": "1.9"}});
    job(&bucket, "api", &api(bounds.clone()));
    build(&bucket);
    let shown = column(&bucket, "hooks", &["job"], "demand_config");
    assert_eq!(shown[0], ("api".to_owned(), bounds["config"].clone()));
    job(&bucket, "db", &json!({"selectors": ["api"], "hooks": {"hook_x": {"executed_on": ["cli"]}}}));
    refused(&bucket, &["MD0036", "job db has no version", "workspace/jobs/db/manifest.json version"]);
}
