//! `maand worker_facts`: what agents measured, in workers.json (`spec/behaviour.md` 8.4 and D 39).

use std::os::unix::fs::PermissionsExt;

use harness::bucket::Bucket;
use harness::poll;
use serde_json::{Value, json};

use crate::support::{agents, bucket, hosts};

fn catalog(bucket: &Bucket) -> rusqlite::Connection {
    let catalog = rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap();
    catalog.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    catalog
}

/// As if the agent of `host` had reported this.
fn measured(bucket: &Bucket, host: &str, memory_mb: u64, cpu_mhz: u64) {
    let facts = json!({"memory_mb": memory_mb, "cpu_mhz": cpu_mhz, "cpus": 4, "kernel": "6.1", "arch": "x86_64",
        "disk_free_mb": 1024, "tools": ["make", "sh"]});
    let insert = "INSERT OR REPLACE INTO observed_worker (worker_id, session, number, agent_version, boot_id, \
        clock_offset_ms, facts, reported_at) SELECT worker_id, 1, 1, '', '', 0, ?2, 0 FROM worker WHERE host = ?1";
    assert_eq!(catalog(bucket).execute(insert, (host, facts.to_string())).unwrap(), 1);
}

/// As somebody wrote it: fields that maand does not know, an entry on one line, a tab, odd blanks.
fn by_hand() -> &'static str {
    "[\n\t{ \"host\": \"10.0.0.1\",  \"labels\": [\"web\"], \"memory\": \"8 gb\" },\n   {\n      \"host\":\"10.0.0.2\",\n      \
     \"labels\":[\"web\",\"db\"],\n      \"cpu\":800,\n      \"rack\": {\"row\": 1.50}\n   }\n]\n\n"
}

/// The two workers are in the catalog, with their file as it was written by hand.
fn two_workers() -> Bucket {
    let bucket = bucket();
    let file = by_hand().replace(",\n      \"rack\": {\"row\": 1.50}", "");
    bucket.write("workspace/workers.json", &file);
    bucket.maand(&["build"]).expect(0);
    bucket.write("workspace/workers.json", by_hand());
    bucket
}

#[test]
fn d39_nothing_is_written_if_one_worker_has_no_facts_and_the_second_run_is_up_to_date() {
    let bucket = two_workers();
    measured(&bucket, "10.0.0.1", 15934, 9600);
    let file = bucket.path("workspace/workers.json");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o664)).unwrap();

    // Somebody has no facts: it is named, with what to do, and nobody's are written.
    let refused = bucket.maand(&["worker_facts"]).expect(1);
    for said in ["MD0089", "10.0.0.2 has not been measured", "maand agent token 10.0.0.2", "is as it was"] {
        assert!(refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
    assert!(!refused.stderr.contains("10.0.0.1 has not"), "{}", refused.stderr);
    assert_eq!(bucket.read("workspace/workers.json"), by_hand());

    // Facts that cannot be right count as none.
    measured(&bucket, "10.0.0.2", 4096, 0);
    assert!(bucket.maand(&["worker_facts"]).expect(1).stderr.contains("how fast its processors are"));
    measured(&bucket, "10.0.0.2", u64::from(u32::MAX) * 1000, 1);
    assert!(bucket.maand(&["worker_facts"]).expect(1).stderr.contains("what no machine has"));
    assert_eq!(bucket.read("workspace/workers.json"), by_hand());

    // A dry run shows the lines and writes nothing.
    measured(&bucket, "10.0.0.2", 4096, 4800);
    let shown = bucket.maand(&["worker_facts", "--dry-run"]).expect(0);
    for line in [
        "10.0.0.1: memory 8 gb -> 15934 mb",
        "10.0.0.1: cpu not declared -> 9600 mhz",
        "@@ line 2 @@",
        "-\t{ \"host\": \"10.0.0.1\",  \"labels\": [\"web\"], \"memory\": \"8 gb\" },",
        "+\t{ \"host\": \"10.0.0.1\",  \"labels\": [\"web\"], \"memory\": \"15934 mb\", \"cpu\": \"9600 mhz\" },",
        "-      \"cpu\":800,",
        "+      \"cpu\":\"4800 mhz\",",
    ] {
        assert!(shown.stdout.lines().any(|said| said == line), "{line}\n{}", shown.stdout);
    }
    assert!(!shown.stdout.contains('\u{1b}'), "piped: no colours");
    assert_eq!(bucket.read("workspace/workers.json"), by_hand());

    // Everything but the amounts is as it was, to the byte.
    let written = bucket.maand(&["worker_facts"]).expect(0);
    assert!(written.stdout.contains("10.0.0.2: cpu 800 -> 4800 mhz"), "{}", written.stdout);
    let expected = by_hand()
        .replace("\"8 gb\"", "\"15934 mb\", \"cpu\": \"9600 mhz\"")
        .replace("800", "\"4800 mhz\"")
        .replace("{\"row\": 1.50}", "{\"row\": 1.50},\n      \"memory\": \"4096 mb\"");
    let now = bucket.read("workspace/workers.json");
    assert_eq!(now, expected);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o664);
    let beside: Vec<_> = std::fs::read_dir(bucket.path("workspace")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(beside.iter().all(|name| !name.to_string_lossy().contains(".new")), "{beside:?}");

    let before = std::fs::metadata(&file).unwrap().modified().unwrap();
    let again = bucket.maand(&["worker-facts"]).expect(0);
    assert!(again.stdout.contains("already up to date"), "{}", again.stdout);
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), before, "it was not written again");
}

#[test]
fn workers_and_labels_choose_and_the_result_is_json_with_stable_names() {
    let bucket = two_workers();
    measured(&bucket, "10.0.0.1", 8192, 9600);
    let one = bucket.maand(&["worker_facts", "-w", "10.0.0.1", "--dry-run", "--json"]).expect(0);
    let one: Value = serde_json::from_str(&one.stdout).unwrap();
    let change = json!({"worker_ip": "10.0.0.1", "field": "cpu", "before": null, "after": "9600 mhz"});
    let expected = json!({"file": "workspace/workers.json", "dry_run": true, "written": false, "workers": 1,
        "changes": [change], "build": null});
    assert_eq!(one, expected, "8 gb are 8192 mb, and stay as they are written");

    // The other one is meant by this label, and it has none.
    assert!(bucket.maand(&["worker_facts", "-l", "db"]).expect(1).stderr.contains("10.0.0.2"));
    bucket.maand(&["worker_facts", "-l", "web", "-w", "10.0.0.1"]).expect(2);
    let wrong = bucket.maand(&["worker_facts", "-w", "10.0.0.3;reboot"]).expect(2);
    assert!(wrong.stderr.contains("there is no worker"), "{}", wrong.stderr);
    assert!(bucket.maand(&["worker_facts", "-l", "wep"]).expect(2).stderr.contains("did you mean \"web\""));
    assert_eq!(bucket.read("workspace/workers.json"), by_hand());

    // With --build the catalog has it too; what build refuses, it says.
    let refused = bucket.maand(&["worker_facts", "-w", "10.0.0.1", "--build"]).expect(3);
    assert!(refused.stderr.contains("rack"), "{}", refused.stderr);
    bucket.write("workspace/workers.json", &bucket.read("workspace/workers.json").replace("\"rack\"", "\"tags\""));
    bucket.write("workspace/workers.json", &bucket.read("workspace/workers.json").replace("1.50", "\"1\""));
    let built = bucket.maand(&["worker_facts", "-w", "10.0.0.1", "--build", "--json"]).expect(0);
    let built: Value = serde_json::from_str(&built.stdout).unwrap();
    assert_eq!((&built["written"], &built["build"]["workers"]), (&json!(false), &json!(2)));
    let of: String = bucket.cat("workers")[0]["cpu_mhz"].to_string();
    assert!(of.contains("9600"), "{of}");

    // No list of workers, or none in it.
    bucket.write("workspace/workers.json", "[");
    assert!(bucket.maand(&["worker_facts"]).expect(3).stderr.contains("workers.json:1:"));
    bucket.write("workspace/workers.json", "[]");
    assert!(bucket.maand(&["worker_facts"]).expect(1).stderr.contains("no worker to measure"));
}

#[test]
fn a_link_stays_one_and_what_a_build_holds_is_waited_for_by_nobody() {
    let bucket = two_workers();
    measured(&bucket, "10.0.0.1", 8192, 9600);
    measured(&bucket, "10.0.0.2", 8192, 800);
    let file = bucket.path("workspace/workers.json");
    let kept = bucket.dir().join("kept-elsewhere.json");
    std::fs::rename(&file, &kept).unwrap();
    std::os::unix::fs::symlink(&kept, &file).unwrap();
    let lock =
        std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(bucket.path("data/build.lock"));
    let lock = lock.unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(bucket.maand(&["worker_facts"]).expect(1).stderr.contains("MD0007"));
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), by_hand());
    drop(lock);
    bucket.maand(&["worker_facts"]).expect(0);
    assert!(std::fs::symlink_metadata(&file).unwrap().is_symlink());
    assert!(std::fs::read_to_string(&kept).unwrap().contains("9600 mhz"));
}

#[test]
fn what_a_real_agent_measured_is_taken_over() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 1);
    bucket.workers(&hosts, &["all"]);
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let _agents = agents(&bucket, &hosts);
    let clock = std::fs::read_to_string("/proc/cpuinfo").unwrap().contains("cpu MHz");
    let done = poll::until("the agent to report", poll::LONG, || {
        let done = bucket.maand(&["worker_facts"]);
        if done.stderr.contains("not reported yet") { Err(done.stderr) } else { Ok(done) }
    });
    if !clock && done.code == 1 {
        // A machine that does not tell: that is said, and nothing written.
        assert!(done.stderr.contains("how fast its processors are"), "{}", done.stderr);
        return;
    }
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kb: u64 = meminfo.lines().next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    let file: Value = serde_json::from_str(&bucket.read("workspace/workers.json")).unwrap();
    assert_eq!(file[0]["memory"], json!(format!("{} mb", kb.div_ceil(1024))), "{}", done.stdout);
    assert!(file[0]["cpu"].as_str().unwrap().ends_with(" mhz"), "{file}");
}
