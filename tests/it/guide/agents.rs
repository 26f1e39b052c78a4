//! What was "SSH / rsync errors": what an operator sees of agents, each with its check and its fix.

use std::time::Duration;

use harness::agents::Agent;
use harness::poll;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Shop, says};

/// A `maand why` whose answer has `so` and `remedy`; agents report a moment later.
fn until_why(shop: &Shop, host: &str, so: &str, remedy: &str) {
    poll::until(so, poll::LONG, || {
        let said = shop.run(&["why", host], 0);
        let lines: Vec<&str> = said.lines().rev().take(2).collect();
        if lines[1].contains(so) && lines[0].contains(remedy) { Ok(()) } else { Err(said) }
    });
}

#[test]
fn not_joined_offline_behind_and_without_make() {
    let mut shop = Shop::new();
    shop.bucket.setting("pickup_timeout = 2");
    shop.run(&["build"], 0);
    shop.serve = Some(shop.bucket.serve());
    let hosts = shop.hosts.clone();
    shop.agents = hosts[..2].iter().map(|host| Agent::join(&shop.bucket, host)).collect();
    shop.agents.iter().for_each(|agent| agent.wait_online(&shop.bucket));
    let last = hosts[2].as_str();

    // Not joined.
    let listed = shop.run(&["cat", "agents"], 0);
    says(
        &listed,
        &["HOST", "STATE", "LAST_SEEN", "UPDATE_SEQ", "CERTIFICATE_END", "CLOCK_MS", "REFUSED", "not joined", "online"],
    );
    says(
        &shop.run(&["agent", "ping", last], 1),
        &["MD0065", &format!("no agent has joined for {last}"), &format!("maand agent token {last}")],
    );
    until_why(&shop, last, &format!("no agent has joined for {last}"), &format!("maand agent token {last}"));
    says(
        &shop.run(&["deploy"], 1),
        &["deploy failed: api\n", &format!("MD0065]: job api: no agent has joined for {last}")],
    );
    // The fix.
    let joined = Agent::join(&shop.bucket, last);
    joined.wait_online(&shop.bucket);
    shop.agents.push(joined);
    shop.run(&["deploy"], 0);
    says(&shop.run(&["agent", "ping", last], 0), &[&format!("{last}: heard in ")]);

    // Offline since, which is no step that failed.
    shop.agents[2].process().stop(Duration::from_secs(20));
    shop.wait_state(2, "offline");
    assert!(shop.bucket.cat("agents")[2]["last_seen"].as_str().unwrap().starts_with("20"));
    until_why(&shop, last, "its agent is offline (last seen 20", &format!("start maand-agent on {last}"));
    says(
        &shop.run(&["agent", "ping", last, "--timeout", "1"], 1),
        &["MD0086", "was not heard within 1 s", "last seen 20"],
    );
    shop.edit("api", "2");
    let failed = shop.run(&["deploy", "-b"], 1);
    says(
        &failed,
        &[
            &format!("MD0064]: job api: the agent of {last} did not pick up its work within 2 s"),
            "max_unreachable of the job is 0",
        ],
    );
    assert!(!failed.contains("make failed"), "{failed}");
    // Within max_unreachable it is deferred, with since when.
    shop.manifest("api", |manifest| manifest["max_unreachable"] = json!(1));
    says(&shop.run(&["deploy", "-b"], 0), &[&format!("job api: {last} is out of reach")]);
    assert!(shop.column("api", "agent")[2].as_str().unwrap().starts_with("deferred since 20"));
    says(&shop.run(&["rollout", "show"], 0), &[&format!("{last}: out of reach since 20")]);
    shop.agents[2].start();
    shop.agents[2].wait_online(&shop.bucket);
    shop.run(&["deploy"], 0);
    assert_eq!(shop.column("api", "rollout"), ["promoted"; 3]);

    // Behind: it is there, and has not heard.
    shop.agents[2].process().signal(rustix::process::Signal::STOP);
    shop.run(&["deploy", "--force", "--jobs", "vault"], 0);
    until_why(&shop, last, "its agent is there and behind", &format!("maand agent ping {last}"));
    let seq = shop.info()["update_seq"].as_u64().unwrap();
    assert_eq!(shop.bucket.cat("agents")[2]["update_seq"], seq - 1);
    shop.agents[2].process().signal(rustix::process::Signal::CONT);
    shop.run(&["agent", "ping", last], 0);
    assert_eq!(shop.bucket.cat("agents")[2]["update_seq"], seq);

    without_make(&mut shop);
}

/// What a worker needs is make and sh: reported by its agent, and looked at before anything is released.
fn without_make(shop: &mut Shop) {
    let (last, bin) = (shop.hosts[2].clone(), shop.flag("bin"));
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink("/bin/sh", bin.join("sh")).unwrap();
    shop.agents[2].process().stop(Duration::from_secs(20));
    shop.agents[2].start_with(&[("PATH", bin.to_str().unwrap())]);
    shop.agents[2].wait_online(&shop.bucket);
    shop.run(&["agent", "ping", &last], 0);
    let ran = shop.ran(0, "api");
    until_why(shop, &last, &format!("{last} has no make: make targets cannot run there"), "install it there");
    for words in [&["deploy", "--force", "--jobs", "api", "--dry-run"][..], &["deploy", "--force", "--jobs", "api"]] {
        let refused = shop.run(words, 1);
        says(
            &refused,
            &["MD0060", &format!("job api: make targets cannot run: {last} has no make"), "install it there"],
        );
    }
    assert_eq!(shop.ran(0, "api"), ran, "nothing was released to anybody");
    // The fix that it names.
    shop.agents[2].process().stop(Duration::from_secs(20));
    shop.agents[2].start();
    shop.agents[2].wait_online(&shop.bucket);
    shop.run(&["agent", "ping", &last], 0);
    shop.run(&["deploy", "--force", "--jobs", "api"], 0);
}

#[test]
fn refused_a_clock_that_is_off_and_a_certificate_that_ended() {
    let mut shop = Shop::deployed();
    let host = shop.hosts[1].clone();
    // A catalog that somebody wrote into: the agent does not do what contradicts itself, and says why.
    let catalog = Connection::open(shop.bucket.path("data/maand.db")).unwrap();
    catalog.busy_timeout(Duration::from_secs(10)).unwrap();
    let id: String =
        catalog.query_row("SELECT worker_id FROM worker WHERE host = ?1", [&host], |row| row.get(0)).unwrap();
    let columns = "worker_id, job, state, disabled, bundle, current_version, new_version";
    let twice = format!(
        "INSERT INTO desired_allocation (alloc_id, {columns}) SELECT '8a5da52e-d126-447d-b59e-70c05721a8aa', {columns} \
         FROM desired_allocation WHERE worker_id = ?1 AND job = 'api'"
    );
    catalog.execute(&twice, [&id]).unwrap();
    let refused = format!("the agent of {host} refuses what it is told: it names a job twice");
    says(
        &shop.run(&["agent", "ping", &host, "--timeout", "2"], 1),
        &["MD0066", &refused, &format!("maand why {host}")],
    );
    says(&shop.run(&["cat", "agents"], 0), &["REFUSED", "it names a job twice"]);
    until_why(&shop, &host, "its agent refuses what it is told: it names a job twice", "maand recover");
    assert_eq!(shop.ran(1, "api"), ["start"], "what runs goes on");
    catalog
        .execute("DELETE FROM desired_allocation WHERE alloc_id = '8a5da52e-d126-447d-b59e-70c05721a8aa'", [])
        .unwrap();
    shop.run(&["agent", "ping", &host], 0);
    assert_eq!(shop.bucket.cat("agents")[1]["refused"], Value::Null);

    // A clock that is off, as its agent's report has it.
    assert!(shop.bucket.cat("agents")[1]["clock_ms"].as_i64().unwrap().abs() < 60_000);
    shop.agents[1].process().signal(rustix::process::Signal::STOP);
    catalog.execute("UPDATE observed_worker SET clock_offset_ms = 7200000 WHERE worker_id = ?1", [&id]).unwrap();
    assert_eq!(shop.bucket.cat("agents")[1]["clock_ms"], 7_200_000);
    until_why(&shop, &host, "its clock is +7200 s off", "time synchronisation");
    shop.agents[1].process().signal(rustix::process::Signal::CONT);
    shop.run(&["agent", "ping", &host], 0);
    assert!(
        shop.bucket.cat("agents")[1]["clock_ms"].as_i64().unwrap().abs() < 60_000,
        "the next report says how it is"
    );

    // A certificate that has ended.
    catalog.execute("UPDATE agent_certificate SET not_after = 1000 WHERE worker_id = ?1", [&id]).unwrap();
    drop(catalog);
    let end: Value = shop.bucket.cat("agents")[1]["certificate_end"].clone();
    assert!(end.as_str().unwrap().starts_with("1970"), "{end}");
    until_why(&shop, &host, "the certificate of its agent has ended", "--replace");
}
