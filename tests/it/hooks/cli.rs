//! `maand hooks`.

use serde_json::json;

use super::{built, job, live, workers};

#[test]
fn the_environment_is_that_of_the_command_and_what_the_event_has() {
    let script = "import json, os\nopen(os.environ['HOME'] + '/env-' + os.environ['ALLOCATION_IP'], 'w').write(\
                  json.dumps(dict(os.environ) | {'cwd': os.getcwd()}))\n";
    let bucket = built(2, script);
    bucket.maand(&["hooks", "hook_x", "api"]).expect(0);
    for (host, row) in ["w1", "w2"].iter().zip(bucket.cat("allocations").as_array().unwrap()) {
        let text = std::fs::read_to_string(bucket.dir().join(format!("env-{host}"))).unwrap();
        let mut env: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        let mut take = |name: &str| env.remove(name).unwrap().as_str().unwrap().to_owned();
        let url = take("HOOK_API_URL");
        let port = url.strip_prefix("http://127.0.0.1:").unwrap().parse::<u16>().unwrap();
        assert!(port > 1023);
        assert_eq!(take("HOOK_API_TOKEN").len(), 43);
        let cwd = take("cwd");
        let below = bucket.path("tmp/hooks").canonicalize().unwrap();
        assert!(cwd.starts_with(below.to_str().unwrap()) && cwd.ends_with("/api/_modules"), "{cwd}");
        // What a version manager for Python adds is not ours.
        env.retain(|name, _| !name.contains("PYENV"));
        for inherited in ["PATH", "HOME", "TMPDIR", "LANG"] {
            env.remove(inherited).unwrap();
        }
        for of_shells in ["PWD", "OLDPWD", "SHLVL", "_"] {
            env.remove(of_shells);
        }
        let get = format!("maand/job/api/worker/{host}");
        let index = bucket.maand(&["cat", "kv", "get", &get, "api_allocation_index", "--json"]).expect(0).stdout;
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        assert_eq!(
            serde_json::Value::Object(env),
            json!({
                "ALLOCATION_ID": row["allocation_id"], "ALLOCATION_IP": host, "ALLOCATION_INDEX": index["value"],
                "DISABLED": "0", "JOB": "api", "EVENT": "cli", "HOOK": "hook_x", "COMMAND": "hook_x",
                "CURRENT_VERSION": "0.0.0", "NEW_VERSION": "1.0.0", "JOB_COMMAND_API_HOST": "127.0.0.1",
            })
        );
    }
}

#[test]
fn what_each_job_wrote_is_kept_or_forgotten_by_itself() {
    let bucket = workers(2);
    let cli = || json!({"executed_on": ["cli"]});
    let write = "import maand\nmaand.put_job_variable('k' + maand.allocation_ip(), '1').raise_for_status()\n";
    let fail = format!("{write}raise SystemExit(maand.allocation_ip() == 'w2')\n");
    job(&bucket, "a", &[("hook_x", cli(), write)]);
    job(&bucket, "b", &[("hook_x", cli(), &fail)]);
    job(&bucket, "c", &[("hook_x", cli(), write)]);
    job(&bucket, "d", &[("hook_y", cli(), write)]);
    bucket.maand(&["build"]).expect(0);
    let output = bucket.maand(&["hooks", "hook_x", "--json"]).expect(1);
    let rows: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let rows: Vec<String> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{}@{} {}", row["job"].as_str().unwrap(), row["worker"].as_str().unwrap(), row["ok"]))
        .collect();
    assert_eq!(rows, ["a@w1 true", "a@w2 true", "b@w1 true", "b@w2 false", "c@w1 true", "c@w2 true"]);
    assert!(output.stderr.contains(r#""code":"MD0090""#), "{}", output.stderr);
    let both = || vec![("kw1".to_owned(), "1".to_owned()), ("kw2".to_owned(), "1".to_owned())];
    assert_eq!(live(&bucket, "vars/job/a"), both());
    assert_eq!(live(&bucket, "vars/job/b"), []);
    assert_eq!(live(&bucket, "vars/job/c"), both());
    assert_eq!(live(&bucket, "vars/job/d"), []);
}

#[test]
fn names_that_do_not_fit_say_what_does() {
    let bucket = workers(1);
    let output = bucket.maand(&["hooks", "hook_x"]).expect(3);
    assert!(output.stderr.contains("error[MD0068]: this bucket has not been built\n  do: run maand build"));
    job(&bucket, "api", &[("hook_x", json!({"executed_on": ["cli"]}), "pass\n")]);
    job(&bucket, "web", &[("hook_deploy", json!({"executed_on": ["pre_deploy", "post_build"]}), "pass\n")]);
    bucket.maand(&["build"]).expect(0);
    for (words, message) in [
        (&["hook_z"][..], "there is no hook \"hook_z\"\n  did you mean \"hook_x\"?\n"),
        (&["hook_x", "apj"], "there is no job \"apj\"\n  did you mean \"api\"?\n"),
        (&["hook_x", "web"], "there is no hook of job web \"hook_x\"\n"),
        (
            &["hook_deploy"],
            "hook_deploy cannot be run by hand: no event cli\n  at workspace/jobs/web/manifest.json \
             hooks.hook_deploy.executed_on\n  its events: post_build, pre_deploy\n  do: add \"cli\" there, then maand \
             build\n",
        ),
    ] {
        let output = bucket.maand(&[&["hooks"], words].concat()).expect(2);
        assert!(output.stderr.contains(&format!("error[MD0009]: {message}")), "{}", output.stderr);
    }
    bucket.maand(&["hooks", "hook_x", "--concurrency", "0"]).expect(2);
    for older in ["jobcommand", "job_command"] {
        bucket.maand(&[older, "hook_x", "api"]).expect(0);
    }
    let help = bucket.maand(&["hooks", "--help"]).expect(0).stdout;
    assert!(help.lines().all(|line| line.chars().count() <= 90), "{help}");
    assert!(!bucket.maand(&["--help"]).expect(0).stdout.contains("jobcommand"));
}

#[test]
fn a_job_without_active_allocations_runs_nothing_and_says_so() {
    let bucket = built(1, "raise SystemExit(1)\n");
    bucket.write("workspace/disabled.json", r#"{"jobs": {"api": {}}}"#);
    bucket.maand(&["build"]).expect(0);
    let output = bucket.maand(&["hooks", "hook_x"]).expect(0);
    assert_eq!(output.stderr, "job api has no active allocation: hook_x was not run\n");
}

#[test]
fn older_spellings_of_a_hook_run_too() {
    let bucket = workers(1);
    job(&bucket, "api", &[]);
    let manifest = json!({"version": "1", "selectors": ["all"], "commands": {"command_x": {"executed_on": ["cli"]}}});
    bucket.write("workspace/jobs/api/manifest.json", &manifest.to_string());
    let script = "import maand\nprint(maand.command_name(), maand.get_event(), maand.get_job())\n\
                  assert maand.kv_put('a', 'b').status_code == 200\n\
                  assert maand.kv_get('vars/job/api', 'a').json()['value'] == 'b'\n";
    bucket.write("workspace/jobs/api/_modules/command_x.py", script);
    bucket.maand(&["build"]).expect(0);
    let output = bucket.maand(&["jobcommand", "command_x", "api", "-v"]).expect(0);
    assert!(output.stderr.contains("api@w1 | command_x cli api\n"), "{}", output.stderr);
}

#[test]
fn nothing_is_left_in_tmp() {
    let bucket = built(1, "import os\nos.makedirs('deep/er')\nopen('deep/er/file', 'w').write('x')\n");
    bucket.maand(&["hooks", "hook_x"]).expect(0);
    let left: Vec<_> = std::fs::read_dir(bucket.path("tmp/hooks")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".lock"]);
}
