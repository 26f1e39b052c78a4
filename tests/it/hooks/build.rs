//! Hooks that follow a build (`spec/behaviour.md` 3.6).

use serde_json::json;

use super::{job, live, workers};

/// Appends its job and worker to a file, and writes a variable.
const RECORD: &str = "import maand, os\n\
    open(os.environ['HOME'] + '/ran', 'a').write(maand.job_name() + '@' + maand.allocation_ip() + '\\n')\n\
    maand.put_job_variable('by_hook', maand.allocation_ip()).raise_for_status()\n";

fn ran(bucket: &harness::bucket::Bucket) -> Vec<String> {
    let path = bucket.dir().join("ran");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    drop(std::fs::remove_file(path));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn they_run_in_the_order_of_demands_and_what_they_wrote_is_in_the_same_builds_templates() {
    let bucket = workers(2);
    let event = json!({"executed_on": ["post_build"]});
    let after = json!({"executed_on": ["post_build"], "demands": {"job": "z", "hook": "hook_x"}});
    job(&bucket, "a", &[("hook_x", after, RECORD)]);
    job(&bucket, "z", &[("hook_x", event, RECORD)]);
    bucket.write("workspace/jobs/a/app.conf.j2", "by={{ get_optional('vars/job/a', 'by_hook') }}");
    let output = bucket.maand(&["build", "--json"]).expect(0);
    assert_eq!(ran(&bucket), ["z@w1", "z@w2", "a@w1", "a@w2"]);
    assert_eq!(live(&bucket, "vars/job/a"), [("by_hook".to_owned(), "w2".to_owned())]);
    let catalog = controller::catalog::Catalog::open(&bucket.path("data/maand.db")).unwrap();
    let digest: String = catalog
        .connection()
        .query_row("SELECT bundle FROM allocation WHERE job = 'a' AND host = 'w1'", [], |row| row.get(0))
        .unwrap();
    let bundle = controller::catalog::bundles::get(catalog.connection(), &digest.parse().unwrap()).unwrap().unwrap();
    assert_eq!(bundle.get("app.conf").unwrap().blob, shared::BlobDigest::of(b"by=w2"));
    let summary: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(summary["rendered"], 4, "for both workers, before the hooks and after");
}

#[test]
fn one_that_fails_fails_the_build_which_stays_in_the_catalog_without_what_hooks_wrote() {
    let bucket = workers(2);
    let event = json!({"executed_on": ["post_build"]});
    let fail = format!("{RECORD}print('no luck')\nraise SystemExit(maand.allocation_ip() == 'w1')\n");
    job(&bucket, "a", &[("hook_x", event.clone(), &fail), ("hook_y", event.clone(), RECORD)]);
    job(&bucket, "b", &[("hook_x", event, RECORD)]);
    let output = bucket.maand(&["build"]).expect(1);
    let problem = output.stderr.split_once("error[").unwrap().1;
    assert_eq!(
        problem,
        "MD0090]: job a: hook_x failed for 1 of 2 allocations (post_build)\n  w1: exit code 1\n    | no luck\n  the whole \
         output is in logs/w1.log\n  the build is in the catalog; what its hooks wrote was discarded\n  do: correct \
         workspace/jobs/a/_modules/hook_x.*, then maand build and again; with \"cli\" among its executed_on it can be \
         tried with maand hooks\n"
    );
    assert_eq!(ran(&bucket), ["a@w1", "a@w2", "a@w1", "a@w2", "b@w1", "b@w2"], "all of them run all the same");
    assert_eq!(bucket.cat("jobs").as_array().unwrap().len(), 2);
    assert_eq!(live(&bucket, "vars/job/a"), []);
    assert_eq!(live(&bucket, "vars/job/b"), []);
    job(&bucket, "a", &[("hook_x", json!({"executed_on": ["post_build"]}), RECORD)]);
    bucket.maand(&["build"]).expect(0);
    assert_eq!(live(&bucket, "vars/job/b"), [("by_hook".to_owned(), "w2".to_owned())]);
}

#[test]
fn drained_and_removed_allocations_have_none() {
    let bucket = workers(2);
    job(&bucket, "a", &[("hook_x", json!({"executed_on": ["post_build"]}), RECORD)]);
    bucket.write("workspace/disabled.json", r#"{"workers": ["w1"]}"#);
    bucket.maand(&["build"]).expect(0);
    assert_eq!(ran(&bucket), ["a@w2"]);
}

#[test]
fn what_the_workspace_says_wins_at_the_next_build_and_a_job_that_goes_takes_its_keys_along() {
    let bucket = workers(2);
    let script = "import maand\nmaand.put_job_variable('k', 'hook').raise_for_status()\n\
                  maand.put_job_variable('own', 'hook').raise_for_status()\n\
                  maand.put_rollout_order(['w2', 'w1']).raise_for_status()\n";
    job(&bucket, "a", &[("hook_x", json!({"executed_on": ["cli"]}), script)]);
    job(&bucket, "b", &[]);
    bucket.write("workspace/jobs/a/vars.toml", "k = \"workspace\"\n");
    bucket.maand(&["build"]).expect(0);
    bucket.maand(&["hooks", "hook_x"]).expect(0);
    let vars = |k: &str| vec![("k".to_owned(), k.to_owned()), ("own".to_owned(), "hook".to_owned())];
    assert_eq!(live(&bucket, "vars/job/a"), vars("hook"));
    bucket.maand(&["build"]).expect(0);
    assert_eq!(live(&bucket, "vars/job/a"), vars("workspace"));
    bucket.maand(&["hooks", "hook_x"]).expect(0);
    std::fs::remove_dir_all(bucket.path("workspace/jobs/a")).unwrap();
    bucket.maand(&["build"]).expect(0);
    assert_eq!(live(&bucket, "maand/job/a"), [], "build's own go");
    assert_eq!(live(&bucket, "vars/job/a"), vars("hook"), "what hooks wrote stays until gc");
}
