//! Two hundred agents, some of them coming and going, and one deploy.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::light::Lights;
use harness::poll;
use serde_json::json;
use shared::ActionKind;

use crate::support::bucket;

/// Agents.
const ALL: usize = 200;
/// Every so manyth comes and goes.
const FLAPS: usize = 20;

/// Takes some agents away and brings them back, again and again, until it is told to end.
fn flap(lights: &Arc<Lights>, end: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let (lights, end) = (lights.clone(), end.clone());
    std::thread::spawn(move || {
        let mut state = 7u64;
        while !end.load(Ordering::Relaxed) {
            for n in (0..ALL).step_by(FLAPS) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // The first one is away for as long as it lasts.
                lights.set_away(n, n == 0 || !(state >> 40).is_multiple_of(3));
            }
            // The pace of their coming and going; nothing waits for it to be over.
            std::thread::sleep(Duration::from_millis(700));
        }
        (0..ALL).step_by(FLAPS).for_each(|n| lights.set_away(n, false));
    })
}

#[test]
fn agents_that_come_and_go_are_deferred_within_the_budget_and_caught_up_with() {
    let bucket = bucket();
    bucket.setting("pickup_timeout = 2");
    let hosts: Vec<String> = (0..ALL).map(|n| format!("w{n:03}")).collect();
    bucket.workers(&hosts, &["all"]);
    let manifest = json!({"selectors": ["all"], "max_concurrent_starts": 40, "max_unreachable": "10%"});
    bucket.recording_job("api", &manifest);
    bucket.maand(&["build"]).expect(0);
    let _serve = bucket.serve();
    let lights = Arc::new(Lights::join(&bucket, &hosts));
    poll::until("all agents to be online", poll::LONG, || {
        let agents = bucket.cat("agents");
        let online = agents.as_array().unwrap().iter().filter(|agent| agent["state"] == "online").count();
        if online == ALL { Ok(()) } else { Err(online) }
    });
    let end = Arc::new(AtomicBool::new(false));
    let flapping = flap(&lights, &end);
    poll::until("the first one to be away", poll::LONG, || {
        let first = bucket.cat("agents")[0]["state"].clone();
        if first == "offline" { Ok(()) } else { Err(first) }
    });
    let deployed = bucket.maand(&["deploy"]).expect(0);
    let rows = bucket.cat("deployments");
    let mut deferred = 0;
    for row in rows.as_array().unwrap() {
        let waits = row["agent"].as_str().is_some_and(|agent| agent.starts_with("deferred since "));
        assert!(row["rollout"] == "promoted" || waits, "{row}\n{}", deployed.stderr);
        deferred += usize::from(waits);
    }
    assert!(deferred >= 1, "{}", deployed.stderr);
    assert_eq!(deployed.stderr.matches("is out of reach; it is brought up to date").count(), deferred, "all named");

    end.store(true, Ordering::Relaxed);
    flapping.join().unwrap();
    let drive = bucket.start("drive", &["drive"]);
    poll::until("everything to be promoted", poll::LONG, || {
        let left = bucket.rollouts().into_iter().filter(|(_, _, word)| word != "promoted").count();
        if left == 0 { Ok(()) } else { Err((left, drive.printed())) }
    });
    for n in 0..ALL {
        let ran = lights.ran(n);
        let ids: BTreeSet<_> = ran.iter().map(|(_, id, _)| *id).collect();
        assert_eq!(ids.len(), ran.len(), "{}: an id runs once: {ran:?}", lights.host(n));
        if n % FLAPS != 0 {
            let kinds: Vec<_> = ran.iter().map(|(_, _, kind)| *kind).collect();
            assert_eq!(kinds, [ActionKind::Start], "{}", lights.host(n));
        }
    }
    assert!(bucket.maand(&["deploy", "-n"]).expect(0).stdout.contains("no deployment required"));
}
