//! An upgrade that is cut off, anywhere: what it was, or what it is to be.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::agents::Agent;
use rusqlite::Connection;

use super::{CATALOG, Kind, LEDGER, version};
use crate::support::{bucket, hosts};

/// What makes a database durable, and gives its copy a name.
const CALLS: &str = "pwrite64,fsync,fdatasync,ftruncate,rename";
/// More than an upgrade has of them.
const POINTS: u32 = 1000;

/// Runs `inner` and kills it at the `point`th of [`CALLS`], at latest when it dials. Whether it was killed.
fn killed_at(inner: &Command, point: u32) -> bool {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={CALLS},connect"), "-e"]);
    command.arg(format!("inject={CALLS}:signal=KILL:when={point}")).args(["-e", "inject=connect:signal=KILL"]);
    command
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(inner.get_current_dir().unwrap_or(Path::new("/")));
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.code() != Some(1), "strace cannot do its work");
    status.signal().is_some() || status.code() == Some(137)
}

fn permitted() -> bool {
    let tried = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let can = tried.is_ok_and(|status| status.success());
    if !can {
        // A kernel that permits no tracing is a reason to pass over it in the gate too; a missing strace is not.
        let there = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok();
        assert!(there || std::env::var_os("MAAND_CI").is_none(), "strace is needed here");
        println!("skipped: strace may not trace here");
    }
    can
}

/// Of which version it is, being whole.
fn whole(kind: Kind, path: &Path) -> u32 {
    let opened = Connection::open(path).unwrap();
    let said: String = opened.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(said, "ok");
    let found = version(path);
    let tables = super::tables(&opened).len();
    let expected = Connection::open_in_memory().unwrap();
    kind.migrations[..found as usize].iter().for_each(|script| expected.execute_batch(script).unwrap());
    assert_eq!(tables, super::tables(&expected).len(), "a {} of schema {found}", kind.name);
    found
}

#[test]
fn init_that_is_killed_leaves_the_old_catalog_or_the_new_one() {
    if !permitted() {
        return;
    }
    let bucket = bucket();
    let (path, backup) = (bucket.path("data/maand.db"), bucket.path("data/maand.db.schema-1.bak"));
    let (mut old, mut new) = (0, 0);
    for point in (1..POINTS).step_by(7) {
        let made = CATALOG.old(1, &path);
        made.execute("INSERT INTO bucket (id, bucket_id, epoch, update_seq) VALUES (1, '6f1c1f6e-2f7c-4a57-9d55-0d9a3c1f7a01', 3, 41)", []).unwrap();
        drop(made);
        drop(std::fs::remove_file(&backup));
        let killed = killed_at(&bucket.command(&["init"]), point);
        match whole(CATALOG, &path) {
            1 => old += 1,
            found if found == CATALOG.current() => new += 1,
            between => panic!("killed at {point}: schema {between}"),
        }
        if version(&path) != 1 || backup.is_file() {
            assert_eq!(whole(CATALOG, &backup), 1, "the copy was there first, and whole");
        }
        bucket.maand(&["init"]).expect(0);
        assert_eq!(whole(CATALOG, &path), CATALOG.current());
        let kept: u32 =
            Connection::open(&path).unwrap().query_row("SELECT update_seq FROM bucket", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 41);
        if !killed {
            break;
        }
        assert!(point < POINTS - 7, "an upgrade does not end");
    }
    assert!(old > 5 && new > 0, "killed before ({old}) and after ({new}) the commit");
}

#[test]
fn an_agent_that_is_killed_leaves_the_old_ledger_or_the_new_one() {
    if !permitted() {
        return;
    }
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["api"]);
    bucket.maand(&["build"]).expect(0);
    let agent = {
        let _serve = bucket.serve();
        let agent = Agent::prepare(&bucket, &hosts[0], &[]);
        agent.enrol(&bucket).expect(0);
        agent
    };
    let mut run = agent.command();
    run.arg("run");
    // Once, so that its directory is there.
    assert!(killed_at(&run, POINTS));
    let ledger = agent.bucket_dir().join(".maand/ledger.db");
    assert_eq!(whole(LEDGER, &ledger), LEDGER.current());
    let (mut old, mut new) = (0, 0);
    // The greatest that leaves the old one is far from this.
    for point in 1..40 {
        let made = LEDGER.old(1, &ledger);
        made.execute("UPDATE agent SET session = 41, epoch = 1, update_seq = 7, generation = 9", []).unwrap();
        drop(made);
        assert!(killed_at(&run, point), "at the latest when it dials");
        match whole(LEDGER, &ledger) {
            1 => old += 1,
            found if found == LEDGER.current() => new += 1,
            between => panic!("killed at {point}: schema {between}"),
        }
        let kept: (u32, u32) = Connection::open(&ledger)
            .unwrap()
            .query_row("SELECT update_seq, generation FROM agent", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(kept, (7, 9));
    }
    assert!(old > 2 && new > 2, "killed before ({old}) and after ({new}) the commit");
}
