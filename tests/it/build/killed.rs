//! A build that is killed, anywhere: the catalog is as before it or as after it, and the next one builds.
//! And what a build mends of the store.

use std::process::{Command, Stdio};
use std::time::Duration;

use harness::bucket::Bucket;
use rusqlite::Connection;
use rusqlite::types::Value as Cell;
use serde_json::json;

use super::{build, job, secret_of_a_hook, workspace};
use crate::support::{agents, hosts};

/// Most points that are tried; a build has far fewer.
const POINTS: u32 = 500;
/// What makes files durable and gives them their names: a build is killed at each of these calls.
const NAMING: &str = "fsync,fdatasync,syncfs,rename,renameat,renameat2,unlink,unlinkat,ftruncate";
/// What writes them: they are many and alike, every ninth is enough.
const WRITING: &str = "write,pwrite64";

/// Whether strace may trace here.
fn can_trace() -> bool {
    let tried = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Runs `maand build` and kills it at the `point`th of `calls`; without any, after so many steps of two
/// milliseconds. Whether it was killed before it ended.
fn killed_at(bucket: &Bucket, calls: Option<&str>, point: u32) -> bool {
    let inner = bucket.command(&["build"]);
    let Some(calls) = calls else {
        let mut child = bucket.command(&["build"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(u64::from(point) * 2));
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        return ended.is_none();
    };
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e"]);
    command.arg(format!("inject={calls}:signal=KILL:when={point}")).arg(inner.get_program()).args(inner.get_args());
    let command = command.current_dir(bucket.path("")).stdout(Stdio::null()).stderr(Stdio::null());
    !command.status().unwrap().success()
}

/// Every row of the catalog, but for the moments of builds.
fn rows(bucket: &Bucket) -> Vec<Vec<Cell>> {
    let catalog = Connection::open(bucket.path("data/maand.db")).unwrap();
    let mut all = Vec::new();
    for table in ["worker", "job", "job_file", "allocation", "certificate", "key_value", "kv_scope", "promoted"] {
        let mut select = catalog.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = select.column_count();
        let found = select.query_map([], |row| (0..columns).map(|n| row.get(n)).collect()).unwrap();
        all.extend(found.map(Result::unwrap));
    }
    all
}

#[test]
fn a_build_that_is_killed_anywhere_has_built_all_or_nothing() {
    let trace = can_trace();
    let ways = if trace { vec![(Some(NAMING), 1), (Some(WRITING), 9)] } else { vec![(None, 1)] };
    if !trace {
        eprintln!("strace may not trace here: builds are killed after growing delays instead");
    }
    let bucket = workspace(&json!([]), &[]);
    bucket.workers(&["w1".to_owned(), "w2".to_owned()], &["api"]);
    // An edit that touches everything: a port, a certificate, a template, files, variables, a job that goes.
    let edit = |n: u32| {
        let tls = json!({"tls": {"subject": {"common_name": format!("api {n}")}}});
        let ports = json!({"ports": {format!("p{n}"): {}}});
        job(&bucket, "api", &json!({"version": format!("1.{n}"), "certs": tls, "resources": ports}));
        bucket.write("workspace/jobs/api/app.conf.j2", &format!("{n} {{{{ worker_ip }}}}\n"));
        bucket.write("workspace/jobs/api/file", &format!("{n}\n"));
        bucket.write("workspace/jobs/api/vars.toml", &format!("n = {n}\n"));
        std::fs::remove_dir_all(bucket.path(&format!("workspace/jobs/j{}", n.wrapping_sub(1)))).ok();
        job(&bucket, &format!("j{n}"), &json!({"selectors": ["api"]}));
    };
    edit(0);
    build(&bucket);
    let mut before = rows(&bucket);
    let (mut edits, mut nothing, mut everything) = (0, 0, 0);
    for (calls, step) in ways {
        for point in (1..POINTS).step_by(step) {
            edits += 1;
            edit(edits);
            let killed = killed_at(&bucket, calls, point);
            let now = rows(&bucket);
            bucket.maand(&["cat", "deployments"]).expect(0);
            build(&bucket);
            let after = rows(&bucket);
            assert!(after != before, "the edit shows");
            assert!(now == before || now == after, "killed at {point}: between before and after");
            if !killed {
                assert!(now == after, "a build that says that it is done is done");
                break;
            }
            assert!(point < POINTS - step as u32, "a build does not end");
            if now == before {
                nothing += 1
            } else {
                everything += 1
            }
            before = after;
        }
        before = rows(&bucket);
    }
    if trace {
        assert!(nothing > 10 && everything > 0, "killed before ({nothing}) and after ({everything}) the commit");
    }
}

#[test]
fn what_a_killed_build_left_in_the_store_does_no_harm_and_goes() {
    let bucket = workspace(&super::one_worker(), &[("api", json!({}))]);
    build(&bucket);
    let day_ago = std::time::SystemTime::now() - Duration::from_secs(26 * 3600);
    for (name, old) in [("blobs/tmp-1-0", true), ("blobs/tmp-1-1", false), ("private/tmp-1-0", true)] {
        bucket.write(&format!("data/store/{name}"), "half a file");
        if old {
            let file = std::fs::File::options().append(true).open(bucket.path(&format!("data/store/{name}"))).unwrap();
            file.set_modified(day_ago).unwrap();
        }
    }
    bucket.write("workspace/jobs/api/file", "new\n");
    build(&bucket);
    let there = |name: &str| bucket.path(&format!("data/store/{name}")).exists();
    assert!(!there("blobs/tmp-1-0") && !there("private/tmp-1-0"), "a day old: nobody writes it any more");
    assert!(there("blobs/tmp-1-1"), "another process may be writing it");
}

#[test]
fn a_store_that_was_lost_is_made_again() {
    let bucket = crate::support::bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["api"]);
    bucket.recording_job("api", &json!({"certs": {"tls": {}, "old": {"one": true, "key": "rsa"}}}));
    bucket.write("workspace/jobs/api/app.conf.j2", "{{ get_optional('secrets/job/api', 'password') }}\n");
    bucket.recording_job("plain", &json!({"selectors": ["api"]}));
    bucket.write("workspace/jobs/plain/ip.j2", "{{ worker_ip }}\n");
    build(&bucket);
    secret_of_a_hook(&bucket, "api", "password", "hush");
    build(&bucket);
    let deployments = bucket.cat("deployments");
    std::fs::remove_dir_all(bucket.path("data/store")).unwrap();
    build(&bucket);
    assert_eq!(bucket.cat("deployments"), deployments, "the same content");
    let _serve = bucket.serve();
    let agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    let host = &hosts[0];
    assert_eq!(
        (agents[0].read("api", "app.conf"), agents[0].read("plain", "ip")),
        ("hush\n".into(), format!("{host}\n"))
    );
    for file in ["tls.crt", "tls.key", "old.key"] {
        let stored = super::must(&bucket, &format!("maand/job/api/worker/{host}"), &format!("certs/{file}"));
        assert_eq!(agents[0].read("api", &format!("certs/{file}")), stored, "{file}");
    }
}
