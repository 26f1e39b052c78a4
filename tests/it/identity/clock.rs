//! A worker's clock is an hour off, either way.

use harness::agents::Agent;
use harness::{faketime, poll};

use super::*;

#[test]
fn a_clock_that_is_an_hour_off_is_shown_and_hinders_nothing() {
    let Some(library) = faketime::library(true) else { return };
    let preload = format!("LD_PRELOAD={library}");
    // Renewed within seconds, although by these clocks their certificates have ended, or have not begun.
    let (bucket, hosts) = prepared(2, &["agent_certs_ttl = \"20s\""]);
    let _serve = bucket.serve();
    let offsets = [("+3600s", 3_600_000), ("-3600s", -3_600_000)];
    let mut agents = Vec::new();
    for (host, (offset, _)) in hosts.iter().zip(offsets) {
        let offset = format!("FAKETIME={offset}");
        let enter = ["env", "FAKETIME_DONT_FAKE_MONOTONIC=1", &preload, &offset];
        let mut agent = Agent::prepare(&bucket, host, &enter);
        agent.enrol(&bucket).expect(0);
        agent.start();
        agent.wait_online(&bucket);
        faketime::forget(agent.pid());
        agents.push(agent);
    }
    bucket.maand(&["deploy"]).expect(0);
    for (host, (_, expected)) in hosts.iter().zip(offsets) {
        let clock = row(&bucket, host)["clock_ms"].as_i64().unwrap();
        assert!((clock - expected).abs() < 20_000, "{clock}");
        let (so, remedy) = why(&bucket, host);
        assert!(so.contains("3") && so.contains("s off") && remedy.contains("time synchronisation"), "{so} / {remedy}");
    }
    poll::until("renewals", poll::LONG, || {
        let log = bucket.read("logs/maand.log");
        if log.matches("certificate_renewed").count() >= 3 { Ok(()) } else { Err(log) }
    });
    for agent in &mut agents {
        assert!(agent.process().printed().contains("clock_off"), "{}", agent.process().printed());
    }
    bucket.maand(&["deploy", "--force"]).expect(0);
}
