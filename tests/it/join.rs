//! Who may join, and what everybody else is told.

use harness::agents::Agent;

use crate::support::{bucket, hosts};

#[test]
fn a_token_is_for_one_agent_of_this_bucket_once() {
    let bucket = bucket();
    let hosts = hosts(&bucket, 2);
    bucket.workers(&hosts, &["all"]);
    bucket.maand(&["build"]).expect(0);
    let unknown = bucket.maand(&["agent", "token", "nowhere"]).expect(2);
    assert!(unknown.stderr.contains("nowhere"), "{}", unknown.stderr);
    let line = bucket.maand(&["agent", "token", &hosts[0]]).expect(0).stdout;
    let words: Vec<&str> = line.split_whitespace().collect();
    let (url, token) = (words[2], words[3]);

    let away = Agent::prepare(&bucket, "away", &[]).join_with(url, token).expect(1);
    assert!(away.stderr.contains("MD0081"), "nobody listens yet: {}", away.stderr);
    let _serve = bucket.serve();

    let cut = Agent::prepare(&bucket, "cut", &[]).join_with(url, &token[..token.len() - 4]);
    assert_ne!(cut.code, 0);
    assert!(cut.stderr.contains("join token") && !cut.stderr.contains(token), "{}", cut.stderr);
    let parts: Vec<&str> = token.split('.').collect();
    let pin = format!("{}.{}.{}.{}", parts[0], parts[1], parts[2], "A".repeat(43));
    let pinned = Agent::prepare(&bucket, "pin", &[]).join_with(url, &pin).expect(1);
    assert!(pinned.stderr.contains("MD0082"), "another controller's token: {}", pinned.stderr);
    let secret = format!("{}.{}.{}.{}", parts[0], parts[1], "A".repeat(43), parts[3]);
    let forged = Agent::prepare(&bucket, "forged", &[]).join_with(url, &secret).expect(1);
    assert!(forged.stderr.contains("MD0080"), "{}", forged.stderr);

    Agent::prepare(&bucket, "one", &[]).join_with(url, token).expect(0);
    let used = Agent::prepare(&bucket, "two", &[]).join_with(url, token).expect(1);
    assert!(used.stderr.contains("MD0080") && used.stderr.contains("used"), "{}", used.stderr);

    let line = bucket.maand(&["agent", "token", &hosts[1]]).expect(0).stdout;
    let late = line.split_whitespace().nth(3).unwrap();
    let expire = "UPDATE join_token SET expires_at = 1 WHERE redeemed_at IS NULL";
    rusqlite::Connection::open(bucket.path("data/maand.db")).unwrap().execute(expire, []).unwrap();
    let expired = Agent::prepare(&bucket, "late", &[]).join_with(url, late).expect(1);
    assert!(expired.stderr.contains("MD0080") && expired.stderr.contains("expired"), "{}", expired.stderr);
    let log = bucket.read("logs/maand.log");
    assert!(log.contains("enrol_refused"), "{log}");
    assert!(!log.contains(parts[2]), "no secret in a log");
}
