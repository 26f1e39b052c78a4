//! A certificate is renewed before it ends; a copy of the old one is found out.

use harness::agents::Agent;
use harness::poll;

use super::*;

#[test]
fn an_agent_renews_in_time_and_goes_on_working() {
    let (bucket, hosts) = prepared(1, &["agent_certs_ttl = \"6s\""]);
    let _serve = bucket.serve();
    let mut agent = Agent::join(&bucket, &hosts[0]);
    bucket.maand(&["deploy"]).expect(0);
    poll::until("several renewals", poll::LONG, || {
        let all = certificates(&bucket);
        // Only the last one may be good beside the one before it, until it is shown.
        let good = all.iter().filter(|(_, is_over)| !is_over).count();
        if all.len() >= 4 && good <= 2 { Ok(()) } else { Err(all) }
    });
    let identity = state(&bucket, &hosts[0]);
    assert!(agent.process().ended().is_none());
    bucket.write("workspace/jobs/api/files/new.txt", "1");
    bucket.maand(&["build"]).expect(0);
    bucket.maand(&["deploy"]).expect(0);
    assert_eq!(row(&bucket, &hosts[0])["alarm"], serde_json::Value::Null, "its own old certificates are no copies");
    // The private key was made anew each time and is nobody else's to read.
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(identity.join("agent.key").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let log = bucket.read("logs/maand.log");
    assert!(log.contains("certificate_renewed"), "{log}");
}

#[test]
fn an_end_of_the_agent_anywhere_in_a_renewal_costs_nothing() {
    let (bucket, hosts) = prepared(1, &["agent_certs_ttl = \"6s\""]);
    let _serve = bucket.serve();
    let mut agent = Agent::join(&bucket, &hosts[0]);
    let identity = state(&bucket, &hosts[0]);
    // Killed as soon as a renewal has left anything on the disk, wherever it is by then.
    for _ in 0..4 {
        poll::until("a renewal to begin", poll::LONG, || {
            if identity.join("agent-next.key").exists() { Ok(()) } else { Err(certificates(&bucket)) }
        });
        agent.kill();
        agent.start();
    }
    agent.wait_online(&bucket);
    bucket.maand(&["deploy"]).expect(0);
    assert_eq!(row(&bucket, &hosts[0])["alarm"], serde_json::Value::Null);
}

#[test]
fn a_certificate_that_was_replaced_and_is_used_again_is_an_alarm() {
    let (bucket, hosts) = prepared(1, &[]);
    let host = hosts[0].as_str();
    let _serve = bucket.serve();
    let mut agent = Agent::join(&bucket, host);
    agent.wait_online(&bucket);
    bucket.maand(&["deploy"]).expect(0);
    agent.kill();
    let mut thief = clone_of(&bucket, host, "thief", &[]);
    // Another certificate takes the place of the one that the thief has.
    agent.enrol_again(&bucket).expect(0);
    agent.start();
    agent.wait_online(&bucket);
    poll::until("the old one to be over", poll::LONG, || {
        let all = certificates(&bucket);
        if all.first().is_some_and(|(_, is_over)| *is_over) { Ok(()) } else { Err(all) }
    });
    replaced_long_ago(&bucket);
    thief.start();
    poll::until("the alarm", poll::LONG, || {
        let alarm = row(&bucket, host)["alarm"].to_string();
        if alarm.contains("copy of this worker's identity") && alarm.contains("127.") { Ok(()) } else { Err(alarm) }
    });
    let (so, remedy) = why(&bucket, host);
    assert!(so.contains("is still used") && remedy.contains(&format!("maand agent revoke {host}")), "{so} / {remedy}");
    poll::until("the thief to say what it is told", poll::LONG, || {
        let said = status(&thief);
        let word = said["refused"]["error"].as_str().unwrap_or_default().to_owned();
        if word == "superseded_certificate" && said["refused"]["do"].to_string().contains("in use elsewhere") {
            Ok(())
        } else {
            Err(said.to_string())
        }
    });
    assert!(bucket.read("logs/maand.log").contains("certificate_copied"));
    // The one that is let in works meanwhile.
    bucket.maand(&["agent", "ping", host]).expect(0);
    thief.kill();
    bucket.maand(&["agent", "resolve", host]).expect(0);
    assert_eq!(row(&bucket, host)["alarm"], serde_json::Value::Null);
}
