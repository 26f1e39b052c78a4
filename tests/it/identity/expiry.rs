//! A certificate has ended while its machine was off: the agent proves that it has the key.

use harness::agents::Agent;
use harness::poll;

use super::*;

/// Waits until the newest certificate of an agent has ended.
fn wait_for_the_end(agent: &Agent) {
    poll::until("the certificate to end", poll::LONG, || {
        let left = status(agent)["certificate_ends_in_s"].as_i64().unwrap();
        if left < 0 { Ok(()) } else { Err(left) }
    });
}

#[test]
fn an_agent_whose_certificate_has_ended_gets_a_new_one_for_its_key() {
    let (bucket, hosts) = prepared(1, &["agent_certs_ttl = \"4s\""]);
    let host = hosts[0].as_str();
    let serve = bucket.serve();
    let mut agent = Agent::join(&bucket, host);
    bucket.maand(&["deploy"]).expect(0);
    let ran = agent.read("api", "data/ran");
    agent.kill();
    wait_for_the_end(&agent);
    poll::until("it to count as away", poll::LONG, || {
        let (so, remedy) = why(&bucket, host);
        if so.contains("certificate of its agent has ended") && remedy.contains("start maand-agent") {
            Ok(())
        } else {
            Err((so, remedy))
        }
    });
    agent.start();
    agent.wait_online(&bucket);
    bucket.maand(&["agent", "ping", host]).expect(0);
    assert_eq!(agent.read("api", "data/ran"), ran, "what runs was not touched");
    assert!(agent.process().printed().contains("certificate_had_ended"), "{}", agent.process().printed());
    drop(serve);
}

#[test]
fn a_revoked_one_gets_none_and_says_what_to_do() {
    let (bucket, hosts) = prepared(1, &["agent_certs_ttl = \"4s\""]);
    let host = hosts[0].as_str();
    let _serve = bucket.serve();
    let mut agent = Agent::join(&bucket, host);
    bucket.maand(&["deploy"]).expect(0);
    let ran = agent.read("api", "data/ran");
    agent.kill();
    bucket.maand(&["agent", "revoke", host]).expect(0);
    wait_for_the_end(&agent);
    agent.start();
    poll::until("the refusal", poll::LONG, || {
        let said = status(&agent);
        if said["refused"]["error"] == "revoked" { Ok(()) } else { Err(said.to_string()) }
    });
    assert!(status(&agent)["refused"]["do"].as_str().unwrap().contains("maand agent token"));
    let printed = agent.process().printed();
    assert!(printed.contains("refused") && printed.contains("revoked"), "{printed}");
    assert_eq!(agent.read("api", "data/ran"), ran);
    assert_eq!(row(&bucket, host)["state"], "revoked");
    let (so, remedy) = why(&bucket, host);
    assert!(so.contains("were ended (by an operator") && remedy.contains("maand agent token"), "{so} / {remedy}");
    // Let back in.
    agent.kill();
    agent.enrol_again(&bucket).expect(0);
    agent.start();
    agent.wait_online(&bucket);
    poll::until("nothing to be refused", poll::LONG, || {
        let said = status(&agent);
        if said["refused"].is_null() { Ok(()) } else { Err(said.to_string()) }
    });
}
