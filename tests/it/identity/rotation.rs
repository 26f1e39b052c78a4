//! The authority is replaced while everything works; who is behind holds up the end and is named.

use harness::agents::Agent;
use harness::poll;

use super::*;

fn progress(bucket: &Bucket) -> Value {
    let output = bucket.maand(&["agent", "rotate-ca", "status", "--json"]).expect(0);
    serde_json::from_str(&output.stdout).unwrap()
}

fn wait_for(bucket: &Bucket, behind: u64) {
    poll::until("agents to move", poll::LONG, || {
        let now = progress(bucket);
        if now["behind"] == behind { Ok(()) } else { Err(now.to_string()) }
    });
}

fn roots(bucket: &Bucket, host: &str) -> usize {
    let text = std::fs::read_to_string(state(bucket, host).join("controller-ca.crt")).unwrap();
    text.matches("BEGIN CERTIFICATE").count()
}

#[test]
fn everybody_moves_to_a_new_authority_and_nothing_stops() {
    let (bucket, hosts) = prepared(3, &[]);
    let mut serve = bucket.serve();
    let agents: Vec<Agent> = hosts[..2].iter().map(|host| Agent::join(&bucket, host)).collect();
    agents.iter().for_each(|agent| agent.wait_online(&bucket));
    let nothing = bucket.maand(&["agent", "rotate-ca", "finish"]).expect(1);
    assert!(nothing.stderr.contains("MD0095") && nothing.stderr.contains("rotate-ca start"), "{}", nothing.stderr);
    // One is away, and is named.
    let mut away = agents;
    away[1].kill();
    bucket.maand(&["agent", "rotate-ca", "start"]).expect(0);
    wait_for(&bucket, 1);
    bucket.maand(&["agent", "rotate-ca", "start"]).expect(1);
    let held = bucket.maand(&["agent", "rotate-ca", "finish"]).expect(1);
    assert!(held.stderr.contains(&format!("agents are behind: {}", hosts[1])), "{}", held.stderr);
    assert_eq!(roots(&bucket, &hosts[0]), 2, "both are trusted");
    use std::os::unix::fs::PermissionsExt;
    let key = bucket.path("secrets/agent-ca-2.key");
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // One that joins now pins what is shown, and has no way to go; so does one after a start of serve.
    serve.stop(poll::LONG);
    serve = bucket.serve();
    let third = Agent::join(&bucket, &hosts[2]);
    third.wait_online(&bucket);
    let unused = bucket.maand(&["agent", "token", &hosts[2]]).expect(0).stdout;
    away[1].start();
    wait_for(&bucket, 0);
    bucket.maand(&["deploy"]).expect(0);
    let done = bucket.maand(&["agent", "rotate-ca", "finish"]).expect(0);
    assert!(done.stderr.contains("1 join tokens") || done.stdout.contains("1 join tokens"), "{done:?}");
    assert!(!bucket.path("secrets/agent-ca.key").exists() && !bucket.path("secrets/agent-ca.crt").exists());
    poll::until("one authority to be trusted", poll::LONG, || {
        let now: Vec<usize> = hosts.iter().map(|host| roots(&bucket, host)).collect();
        if now == [1, 1, 1] { Ok(()) } else { Err(now) }
    });
    // On new connections, with what counts now.
    serve.stop(poll::LONG);
    let _serve = bucket.serve();
    for host in &hosts {
        bucket.maand(&["agent", "ping", host, "--timeout", "30"]).expect(0);
    }
    let words: Vec<&str> = unused.split_whitespace().collect();
    assert_ne!(Agent::prepare(&bucket, "late", &[]).join_with(words[2], words[3]).code, 0, "it pins what is over");
    bucket.maand(&["init"]).expect(0);
    assert!(!bucket.path("secrets/agent-ca.key").exists(), "what was replaced is not made anew");
    bucket.maand(&["deploy", "--force"]).expect(0);
}

#[test]
fn a_replacement_is_taken_back_and_one_that_is_gone_is_left_behind_by_name() {
    let (bucket, hosts) = prepared(2, &[]);
    let _serve = bucket.serve();
    let mut agents: Vec<Agent> = hosts.iter().map(|host| Agent::join(&bucket, host)).collect();
    agents.iter().for_each(|agent| agent.wait_online(&bucket));
    bucket.maand(&["agent", "rotate-ca", "start"]).expect(0);
    wait_for(&bucket, 0);
    bucket.maand(&["agent", "rotate-ca", "abort"]).expect(0);
    wait_for(&bucket, 0);
    bucket.maand(&["agent", "rotate-ca", "finish"]).expect(0);
    assert!(bucket.path("secrets/agent-ca.key").exists() && !bucket.path("secrets/agent-ca-2.key").exists());
    bucket.maand(&["deploy"]).expect(0);

    agents[1].kill();
    bucket.maand(&["agent", "rotate-ca", "start"]).expect(0);
    wait_for(&bucket, 1);
    bucket.maand(&["agent", "rotate-ca", "finish", "--force-without", &hosts[1]]).expect(0);
    bucket.maand(&["agent", "ping", &hosts[0]]).expect(0);
    let (so, remedy) = why(&bucket, &hosts[1]);
    assert!(so.contains("its authority was replaced") && remedy.contains("--replace"), "{so} / {remedy}");
    agents[1].enrol_again(&bucket).expect(0);
    agents[1].start();
    bucket.maand(&["agent", "ping", &hosts[1], "--timeout", "30"]).expect(0);
}
