//! A revocation holds from the next request on, also for a request that waits already.

use harness::agents::Agent;
use harness::poll;

use super::*;

#[test]
fn a_request_that_waits_ends_when_its_certificate_does() {
    let (bucket, hosts) = prepared(2, &[]);
    let _serve = bucket.serve();
    let mut agent = Agent::join(&bucket, &hosts[0]);
    let other = Agent::join(&bucket, &hosts[1]);
    bucket.maand(&["deploy"]).expect(0);
    agent.wait_online(&bucket);
    let begin = std::time::Instant::now();
    bucket.maand(&["agent", "revoke", &hosts[0]]).expect(0);
    // The agent waits in a request of 45 s and more; nothing but its end can tell it.
    poll::until("the agent to hear of it", poll::LONG, || {
        let said = status(&agent);
        if said["refused"]["error"] == "revoked" { Ok(()) } else { Err(said.to_string()) }
    });
    assert!(begin.elapsed() < std::time::Duration::from_secs(20), "{:?}", begin.elapsed());
    assert!(agent.process().ended().is_none(), "it stays, and what runs there does");
    other.wait_online(&bucket);
    bucket.maand(&["agent", "ping", &hosts[1]]).expect(0);
}
