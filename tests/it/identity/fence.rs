//! One fence has one content: another one is somebody else's.

use harness::agents::Agent;
use harness::poll;

use super::*;

#[test]
fn an_agent_that_was_told_something_else_under_the_same_fence_is_an_alarm() {
    let (bucket, hosts) = prepared(1, &[]);
    let host = hosts[0].as_str();
    let mut serve = bucket.serve();
    let mut agent = Agent::join(&bucket, host);
    bucket.maand(&["deploy"]).expect(0);
    serve.stop(poll::LONG);
    // A catalog in which the same fence means something else, as a copy that went its own way has it.
    let catalog = Connection::open(bucket.path("data/maand.db")).unwrap();
    assert_eq!(catalog.execute("UPDATE desired_allocation SET current_version = '9.9.9'", []).unwrap(), 1);
    drop(catalog);
    let _serve = bucket.serve();
    poll::until("the alarm", poll::LONG, || {
        let alarm = row(&bucket, host)["alarm"].to_string();
        if alarm.contains("accepted other content under") { Ok(()) } else { Err(alarm) }
    });
    let (so, remedy) = why(&bucket, host);
    assert!(so.contains("accepted other content") && remedy.contains("other controller"), "{so} / {remedy}");
    assert!(bucket.read("logs/maand.log").contains("equivocation"));
    assert!(agent.process().ended().is_none());
    bucket.maand(&["agent", "ping", host]).expect(0);
    bucket.maand(&["agent", "resolve", host]).expect(0);
    assert_eq!(row(&bucket, host)["alarm"], Value::Null);
}
