//! A bucket that is lost and put back from a backup, with the real programs: nothing that runs is touched, and
//! the next deploy tells the truth.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use harness::agents::Agent;
use harness::bucket::Bucket;
use harness::poll;
use serde_json::{Value, json};

use crate::support::{agents, bucket, hosts};

fn ran(agents: &[Agent], job: &str) -> Vec<String> {
    agents.iter().map(|agent| agent.read(job, "data/ran")).collect()
}

fn info(bucket: &Bucket) -> (u64, u64) {
    let info: Value = serde_json::from_str(&bucket.maand(&["info", "--json"]).expect(0).stdout).unwrap();
    (info["epoch"].as_u64().unwrap(), info["update_seq"].as_u64().unwrap())
}

/// The bucket's directory is lost and put back from `archive`, as docs/guides/backup.md says.
fn restore(bucket: &Bucket, archive: &std::path::Path) {
    let lost = bucket.dir().join("lost");
    std::fs::rename(bucket.path(""), lost).unwrap();
    std::fs::create_dir(bucket.path("")).unwrap();
    let mut tar = std::process::Command::new("tar");
    let file = std::fs::File::open(archive).unwrap();
    let plain = bucket.dir().join("plain.tar");
    zstd::stream::copy_decode(file, std::fs::File::create(&plain).unwrap()).unwrap();
    assert!(tar.arg("-xf").arg(&plain).arg("-C").arg(bucket.path("")).status().unwrap().success());
    bucket.maand(&["init"]).expect(0);
}

#[test]
fn a_restored_bucket_tells_agents_nothing_until_it_is_recovered_and_restarts_nothing() {
    let bucket = bucket();
    bucket.setting("pickup_timeout = 5");
    let hosts = hosts(&bucket, 2);
    bucket.workers(&hosts, &["all"]);
    let certs = json!({"tls": {"subject": {"common_name": "api"}}});
    let api = |version: &str| json!({"selectors": ["all"], "version": version, "certs": certs});
    bucket.recording_job("api", &api("1.0.0"));
    bucket.recording_job("web", &json!({"selectors": ["all"]}));
    bucket.write("workspace/jobs/api/app.conf.j2", "host={{ worker_ip }}\n");
    bucket.maand(&["build"]).expect(0);
    let mut serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);

    let archive = bucket.dir().join("shop.tar.zst");
    let file = archive.to_str().unwrap();
    let said = bucket.maand(&["backup", file]).expect(0);
    assert!(said.stderr.contains("holds the keys"), "{said:?}");
    assert_eq!(archive.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let again = bucket.maand(&["backup", file]).expect(2);
    assert!(again.stderr.contains("never written over"), "{}", again.stderr);
    assert!(
        std::fs::read_dir(bucket.dir()).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().contains("partial"))
    );

    // After the backup: a newer api, web gone, a job that the backup does not know.
    bucket.recording_job("api", &api("2.0.0"));
    bucket.recording_job("late", &json!({"selectors": ["all"], "version": "7.0.0"}));
    std::fs::remove_dir_all(bucket.path("workspace/jobs/web")).unwrap();
    bucket.maand(&["deploy", "-b"]).expect(0);
    let before = [ran(&agents, "api"), ran(&agents, "web"), ran(&agents, "late")];
    assert_eq!(before[0][0], "start 0.0.0 1.0.0\nrestart 1.0.0 2.0.0\n");
    assert_eq!(info(&bucket), (1, 2));
    let newest = bucket.dir().join("workspace");
    let copied = std::process::Command::new("cp").arg("-r").arg(bucket.path("workspace")).arg(&newest).status();
    assert!(copied.unwrap().success());

    serve.stop(Duration::from_secs(20));
    restore(&bucket, &archive);
    assert_eq!(info(&bucket), (1, 1));
    let refused = bucket.maand(&["deploy"]).expect(1);
    assert!(refused.stderr.contains("MD0069") && refused.stderr.contains("maand recover"), "{}", refused.stderr);
    assert!(bucket.maand(&["deploy", "-n"]).expect(0).stderr.contains("may be wrong"));

    // serve says so and hands out nothing, and an agent that is ahead is noticed by what it asks for.
    std::fs::remove_file(bucket.path("secrets/from-backup.json")).unwrap();
    let mut serve = bucket.serve();
    poll::until("serve to stop issuing", poll::LONG, || {
        let log = std::fs::read_to_string(bucket.path("logs/maand.log")).unwrap_or_default();
        if log.contains("issuing_stopped") && log.contains(&hosts[0]) { Ok(()) } else { Err(log) }
    });
    let refused = bucket.maand(&["deploy"]).expect(1);
    assert!(refused.stderr.contains(&format!("the agent of {}", hosts[0])), "{}", refused.stderr);

    let done = bucket.maand(&["recover", "--json"]).expect(0);
    let done: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(info(&bucket), (2, 3), "beyond everything that was handed out: {done}");
    let rows = done["allocations"].as_array().unwrap();
    let row = |job: &str, host: &str| rows.iter().find(|r| r["job"] == job && r["worker_ip"] == host).unwrap();
    let found = row("api", &hosts[0]);
    assert_eq!((&found["backup_version"], &found["has_version"]), (&json!("1.0.0"), &json!("2.0.0")), "{found}");
    assert_eq!(row("late", &hosts[1])["note"], "unknown to the backup: a build makes it known again");
    assert_eq!(row("web", &hosts[1])["process"], "stopped");
    assert!(bucket.read("logs/maand.log").contains("issuing_resumed"));
    assert_eq!(bucket.maand(&["recover"]).expect(0).stdout.lines().count(), 1, "once");
    for host in &hosts {
        bucket.maand(&["agent", "ping", host]).expect(0);
    }
    assert_eq!([ran(&agents, "api"), ran(&agents, "web"), ran(&agents, "late")], before, "nothing was run");

    // With the old workspace a deploy would take the workers back, and says so.
    let dry = bucket.maand(&["deploy", "-b", "-n"]).expect(0).stdout;
    assert!(dry.contains("version=2.0.0->1.0.0") && dry.contains("start"), "{dry}");
    // With the newest one it has nothing to do but to take web down, which the backup knew as wanted.
    std::fs::remove_dir_all(bucket.path("workspace")).unwrap();
    std::fs::rename(&newest, bucket.path("workspace")).unwrap();
    bucket.maand(&["build"]).expect(0);
    let dry = bucket.maand(&["deploy", "-n"]).expect(0).stdout;
    assert!(dry.contains("job \"api\": skip") && dry.contains("job \"late\": skip"), "{dry}");
    bucket.maand(&["deploy"]).expect(0);
    assert_eq!([ran(&agents, "api"), ran(&agents, "late")], [before[0].clone(), before[2].clone()]);

    // A worker that is new gets all of it from what was in the backup, keys included.
    let more: Vec<String> = hosts.iter().cloned().chain([bucket.address(9).to_string()]).collect();
    bucket.workers(&more, &["all"]);
    bucket.maand(&["build"]).expect(0);
    let new = Agent::join(&bucket, &more[2]);
    bucket.maand(&["deploy"]).expect(0);
    assert_eq!(new.read("api", "data/ran"), "start 0.0.0 2.0.0\n");
    assert!(new.read("api", "certs/tls.key").contains("PRIVATE KEY"));
    assert_eq!(ran(&agents, "api"), before[0]);

    // And everything goes on as ever, without serve too.
    serve.stop(Duration::from_secs(20));
    bucket.recording_job("api", &api("3.0.0"));
    bucket.maand(&["deploy", "-b"]).expect(0);
    assert_eq!(ran(&agents, "api")[1], format!("{}restart 2.0.0 3.0.0\n", before[0][1]));
    agents[0].process().stop(Duration::from_secs(10));
}

#[test]
fn an_older_catalog_in_place_is_noticed_by_the_mark_and_late_agents_are_heard_later() {
    let bucket = bucket();
    bucket.setting("pickup_timeout = 2");
    let hosts = hosts(&bucket, 2);
    bucket.workers(&hosts, &["all"]);
    bucket.recording_job("api", &json!({"selectors": ["all"], "version": "1.0.0"}));
    bucket.maand(&["build"]).expect(0);
    let mut serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts);
    bucket.maand(&["deploy"]).expect(0);
    serve.stop(Duration::from_secs(20));
    let old = bucket.dir().join("old.db");
    let catalog = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    catalog.execute("VACUUM INTO ?1", [old.to_str().unwrap()]).unwrap();
    drop(catalog);
    bucket.recording_job("api", &json!({"selectors": ["all"], "version": "2.0.0"}));
    bucket.maand(&["deploy", "-b"]).expect(0);
    assert_eq!(bucket.maand(&["recover"]).expect(0).stdout.lines().count(), 1, "nothing to recover");
    let before = ran(&agents, "api");

    for suffix in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(bucket.path(&format!("data/maand.db{suffix}"))));
    }
    std::fs::copy(&old, bucket.path("data/maand.db")).unwrap();
    let refused = bucket.maand(&["deploy"]).expect(1);
    assert!(refused.stderr.contains("secrets/high-water.json"), "{}", refused.stderr);
    agents[1].kill();
    let done = bucket.maand(&["recover"]).expect(0);
    assert!(done.stderr.contains(&format!("{} was not heard", hosts[1])), "{}", done.stderr);
    let warned = bucket.maand(&["deploy", "-n"]).expect(0);
    assert!(warned.stderr.contains(&hosts[1]) && !warned.stderr.contains("may be wrong"), "{}", warned.stderr);

    agents[1].start();
    bucket.maand(&["recover"]).expect(0);
    let dry = bucket.maand(&["deploy", "-b", "-n"]).expect(0);
    assert!(dry.stdout.contains("no deployment required") && !dry.stderr.contains(&hosts[1]), "{dry:?}");
    assert_eq!(ran(&agents, "api"), before);
    bucket.maand(&["deploy", "-b"]).expect(0);
    assert_eq!(ran(&agents, "api"), before);
}

/// All that is in a worker's jobs: paths, when each was written, and what is in it.
fn tree(agent: &Agent) -> Vec<(PathBuf, std::time::SystemTime, Vec<u8>)> {
    let mut files = Vec::new();
    let mut dirs = vec![agent.bucket_dir().join("jobs")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let about = path.symlink_metadata().unwrap();
            match about.is_dir() {
                true => dirs.push(path),
                false => files.push((path.clone(), about.modified().unwrap(), std::fs::read(&path).unwrap())),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn a_backup_of_long_ago_takes_nobody_back_and_a_worker_that_it_does_not_know_is_left_alone() {
    let bucket = bucket();
    bucket.setting("pickup_timeout = 5");
    let hosts = hosts(&bucket, 3);
    bucket.workers(&hosts[..2], &["all"]);
    let api = |version: &str| {
        bucket.recording_job("api", &json!({"selectors": ["all"], "version": version}));
        bucket.write("workspace/jobs/api/app.conf", version);
    };
    api("1.0.0");
    bucket.maand(&["build"]).expect(0);
    let mut serve = bucket.serve();
    let mut agents = agents(&bucket, &hosts[..2]);
    bucket.maand(&["deploy"]).expect(0);
    let archive = bucket.dir().join("old.tar.zst");
    bucket.maand(&["backup", archive.to_str().unwrap()]).expect(0);

    api("2.0.0");
    bucket.maand(&["deploy", "-b"]).expect(0);
    api("3.0.0");
    bucket.workers(&hosts, &["all"]);
    bucket.maand(&["build"]).expect(0);
    agents.push(Agent::join(&bucket, &hosts[2]));
    bucket.maand(&["deploy"]).expect(0);
    let ran_before = ran(&agents, "api");
    assert_eq!(ran_before[0], "start 0.0.0 1.0.0\nrestart 1.0.0 2.0.0\nrestart 2.0.0 3.0.0\n");
    assert_eq!(ran_before[2], "start 0.0.0 3.0.0\n");
    let before: Vec<_> = agents.iter().map(tree).collect();
    let now = |agents: &[Agent]| agents.iter().map(tree).collect::<Vec<_>>();
    let newest = bucket.dir().join("workspace");
    let copied = std::process::Command::new("cp").arg("-r").arg(bucket.path("workspace")).arg(&newest).status();
    assert!(copied.unwrap().success());

    // Put back, and served as if nothing were the matter.
    serve.stop(Duration::from_secs(20));
    restore(&bucket, &archive);
    let _serve = bucket.serve();
    poll::until("both known agents to be heard of", poll::LONG, || {
        let refused = bucket.maand(&["deploy"]).expect(1).stderr;
        let is_told = refused.contains("MD0069") && refused.contains("maand recover");
        if is_told && hosts[..2].iter().all(|host| refused.contains(host)) { Ok(()) } else { Err(refused) }
    });
    assert!(bucket.read("logs/maand.log").contains("issuing_stopped"));
    poll::until("the third one to be told", poll::LONG, || {
        let said = agents[2].process().printed();
        if said.contains("this controller's catalog does not know the certificate") { Ok(()) } else { Err(said) }
    });
    assert!(now(&agents) == before, "nothing is taken back, restarted or removed: {:?}", ran(&agents, "api"));

    // The way on, as docs/guides/backup.md says.
    bucket.maand(&["recover"]).expect(0);
    assert_eq!(info(&bucket).0, 2);
    std::fs::remove_dir_all(bucket.path("workspace")).unwrap();
    std::fs::rename(&newest, bucket.path("workspace")).unwrap();
    bucket.maand(&["build"]).expect(0);
    hosts[..2].iter().for_each(|host| drop(bucket.maand(&["agent", "ping", host, "--timeout", "30"]).expect(0)));
    agents[2].kill();
    agents[2].enrol_again(&bucket).expect(0);
    agents[2].start();
    // It has been told more than this catalog ever told it: once more nothing is issued until it was heard.
    poll::until("the third one to be heard of", poll::LONG, || {
        let log = bucket.read("logs/maand.log");
        if log.matches("issuing_stopped").count() == 2 { Ok(()) } else { Err(log) }
    });
    let refused = bucket.maand(&["deploy"]).expect(1).stderr;
    assert!(refused.contains("MD0069") && refused.contains(&format!("the agent of {}", hosts[2])), "{refused}");
    assert!(now(&agents) == before);
    bucket.maand(&["recover"]).expect(0);
    assert_eq!(info(&bucket).0, 3);
    let dry = bucket.maand(&["deploy", "-n"]).expect(0).stdout;
    assert!(dry.contains("no deployment required"), "{dry}");
    bucket.maand(&["deploy"]).expect(0);
    assert!(now(&agents) == before, "all is in line, and nothing was run: {:?}", ran(&agents, "api"));
    api("4.0.0");
    bucket.maand(&["deploy", "-b"]).expect(0);
    for (agent, before) in agents.iter().zip(&ran_before) {
        assert_eq!(agent.read("api", "data/ran"), format!("{before}restart 3.0.0 4.0.0\n"), "{}", agent.host);
    }
}
