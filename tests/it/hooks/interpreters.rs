//! What runs the scripts: the job's own Python, the system's, Bun; and what is said when it is not there.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use harness::bucket::Bucket;
use harness::process::{Output, finish};
use serde_json::json;

use super::{built, job, workers};

fn program(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn with_path(bucket: &Bucket, path: &str, words: &[&str]) -> Output {
    let mut command = bucket.command(words);
    command.env("PATH", path);
    finish(command, Duration::from_secs(120))
}

#[test]
fn everything_that_is_missing_is_one_problem_before_anything_starts() {
    let bucket = workers(1);
    let both = json!({"executed_on": ["post_build", "cli"]});
    let ran = "import os\nopen(os.environ['HOME'] + '/ran', 'w')\n";
    job(&bucket, "api", &[("hook_a", both.clone(), ran), ("hook_b", both.clone(), ran)]);
    job(&bucket, "web", &[("hook_c", both, ran)]);
    std::fs::remove_file(bucket.path("workspace/jobs/api/_modules/hook_b.py")).unwrap();
    bucket.write("workspace/jobs/api/_modules/hook_b.ts", "console.log(1)\n");
    let empty = bucket.dir().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let output = with_path(&bucket, empty.to_str().unwrap(), &["build"]).expect(1);
    assert_eq!(
        output.stderr,
        "error[MD0091]: hooks need bun and python3, which are not on the PATH of this machine\n  bun: hook_b of job api\n  \
         python3: hook_a of job api, hook_c of job web\n  do: install it beside maand: hooks run here, not on workers \
         (Bun: https://bun.sh); nothing was run\n"
    );
    // Not even the hook that could have run.
    let python = which("python3");
    program(&empty.join("python3"), &format!("#!/bin/sh\nexec {python} \"$@\"\n"));
    let output = with_path(&bucket, empty.to_str().unwrap(), &["build"]).expect(1);
    assert!(output.stderr.contains("hooks need bun, which"), "{}", output.stderr);
    // By hand neither: hook_a could run for one of two jobs.
    std::fs::remove_file(bucket.path("workspace/jobs/web/_modules/hook_c.py")).unwrap();
    job(&bucket, "web", &[("hook_a", json!({"executed_on": ["cli"]}), "")]);
    std::fs::remove_file(bucket.path("workspace/jobs/web/_modules/hook_a.py")).unwrap();
    bucket.write("workspace/jobs/web/_modules/hook_a.js", "\n");
    with_path(&bucket, empty.to_str().unwrap(), &["build"]).expect(1);
    let output = with_path(&bucket, empty.to_str().unwrap(), &["hooks", "hook_a"]).expect(1);
    assert!(output.stderr.contains("\n  bun: hook_a of job web\n"), "{}", output.stderr);
    assert!(!bucket.dir().join("ran").exists());
}

/// With the environment of a machine that reaches the world by a proxy only, which here is none.
fn behind_a_proxy(bucket: &Bucket, words: &[&str]) -> Output {
    let mut command = bucket.command(words);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"] {
        command.env(name, "http://127.0.0.1:1");
    }
    command.env("NO_PROXY", "example.com");
    finish(command, Duration::from_secs(120))
}

#[test]
fn a_proxy_of_the_environment_does_not_stand_between() {
    let bucket = built(1, "import maand\nmaand.list_job_keys().raise_for_status()\n");
    behind_a_proxy(&bucket, &["hooks", "hook_x"]).expect(0);
}

/// The real python3: a version manager's stand-in needs its own PATH.
fn which(name: &str) -> String {
    let mut command = std::process::Command::new(name);
    command.args(["-c", "import sys; print(sys.executable)"]);
    finish(command, Duration::from_secs(60)).expect(0).stdout.trim().to_owned()
}

#[test]
fn a_python_of_the_jobs_own_comes_first() {
    let bucket = built(1, "print('hello')\n");
    let own = bucket.path("workspace/jobs/api/_modules/.venv/bin/python3");
    program(&own, &format!("#!/bin/sh\necho own \"$@\"\nexec {} \"$@\"\n", which("python3")));
    let output = bucket.maand(&["hooks", "hook_x", "--verbose"]).expect(0);
    assert!(output.stderr.contains("api@w1 | own -u hook_x.py\napi@w1 | hello\n"), "{}", output.stderr);
}

#[test]
fn ts_and_js_run_with_bun() {
    let bucket = workers(1);
    let cli = json!({"executed_on": ["cli"]});
    job(&bucket, "api", &[("hook_t", cli.clone(), ""), ("hook_j", cli, "")]);
    for (hook, ending) in [("hook_t", "ts"), ("hook_j", "js")] {
        std::fs::remove_file(bucket.path(&format!("workspace/jobs/api/_modules/{hook}.py"))).unwrap();
        bucket.write(&format!("workspace/jobs/api/_modules/{hook}.{ending}"), "\n");
    }
    bucket.maand(&["build"]).expect(0);
    let bin = bucket.dir().join("bin");
    program(&bin.join("bun"), "#!/bin/sh\necho bun \"$@\" in \"${PWD##*/}\" with maand.*\n");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    for script in ["hook_t.ts", "hook_j.js"] {
        let output = with_path(&bucket, &path, &["hooks", &script[..6], "--verbose"]).expect(0);
        let want = format!("api@w1 | bun run {script} in _modules with maand.py maand.ts\n");
        assert!(output.stderr.contains(&want), "{}", output.stderr);
    }
}

#[test]
fn the_typescript_sdk_does_what_the_python_one_does() {
    let there = std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join("bun").is_file());
    if !there {
        println!("skipped: there is no bun on the PATH");
        return;
    }
    let bucket = workers(2);
    job(&bucket, "api", &[("hook_x", json!({"executed_on": ["cli"]}), "")]);
    std::fs::remove_file(bucket.path("workspace/jobs/api/_modules/hook_x.py")).unwrap();
    bucket.write(
        "workspace/jobs/api/_modules/hook_x.ts",
        r#"
import * as maand from "./maand";
const say = (...words: unknown[]) => console.log(words.map((word) => JSON.stringify(word)).join(" "));
say(maand.allocationIp(), maand.allocationIndex(), maand.isAllocationDisabled(), maand.hookName(), maand.getEvent(), maand.jobName());
(await maand.putJobVariable("k", " v ")).raiseForStatus();
(await maand.putJobSecret("s", "x y")).raiseForStatus();
say(await maand.getKvValue("vars/job/api", "k"), (await maand.kvGet("secrets/job/api", "s")).json().value);
say((await maand.listJobKeys()).json().namespaces, (await maand.listJobKeys("vars/job/api")).json().namespaces);
say((await maand.deleteJobVariable("k")).status, (await maand.getStoreValue("vars/job/api", "k")).status);
say((await maand.putRolloutOrder(["w2", "w1"])).status, (await maand.getRolloutOrder()).json().value);
say((await maand.listHookDemands()).json());
say((await maand.acquireSemaphore("one")).json().acquired, (await maand.semaphoreStatus("one")).json().available);
say((await maand.releaseSemaphore("one")).status, (await maand.releaseSemaphore("one")).status);
try { await maand.runMakeTarget("status", undefined, "web"); } catch (error) { say(String(error)); }
try { maand.loadSsh(); } catch (error) { say(String(error)); }
say(maand.findBucketRoot()?.split("/").pop());
"#,
    );
    bucket.maand(&["build"]).expect(0);
    let output = behind_a_proxy(&bucket, &["hooks", "hook_x", "--verbose"]).expect(0);
    let said: Vec<&str> = output.stderr.lines().filter_map(|line| line.strip_prefix("api@w2 | ")).collect();
    assert_eq!(
        said[..11],
        [
            r#""w2" 1 false "hook_x" "cli" "api""#,
            r#""v" "x y""#,
            r#"{"secrets/job/api":["s"],"vars/job/api":["k"]} {"vars/job/api":["k"]}"#,
            "200 404",
            r#"200 "w2,w1""#,
            "[]",
            "true 0",
            "200 409",
            r#""Error: a hook of job api runs targets of its own job, not of web""#,
            r#""Error: nothing connects to workers with SSH any more: runSsh() and runMakeTarget() ask their agents""#,
            r#""bucket""#,
        ]
    );
}
