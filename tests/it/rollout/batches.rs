//! Batches, gates between them, and the order within a job.

use harness::poll;
use serde_json::json;

use super::Fleet;

#[test]
fn a_gate_that_fails_keeps_what_passed_and_touches_nothing_more() {
    let mut fleet = Fleet::new(4);
    fleet.job("api", json!({"max_concurrent_upgrades": 2, "health_check": fleet.check(2)}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    drop(fleet.order("api"));

    // In the first batch one is well and one is not: the one that is well is promoted.
    fleet.edit(&["api"], "2");
    let sick = format!("sick.{}", fleet.hosts[1]);
    fleet.raise(&sick);
    let failed = fleet.bucket.maand(&["deploy"]).expect(1);
    assert!(
        failed.stderr.contains(&format!("job api: {} runs and is not healthy", fleet.hosts[1])),
        "{}",
        failed.stderr
    );
    assert!(failed.stderr.contains("feels sick"), "{}", failed.stderr);
    assert!(failed.stderr.contains("2 of its 4 allocations untouched"), "{}", failed.stderr);
    let mut ran = fleet.order("api");
    ran.sort();
    assert_eq!(ran, ["0 restart", "1 restart"]);
    assert_eq!(fleet.words("api"), ["promoted", "health_failed", "restart", "restart"]);
    for agent in &fleet.agents[2..] {
        assert_eq!(agent.read("api", "conf/app"), "", "not touched");
    }

    // The next deploy rolls what is left, two and one.
    fleet.lower(&sick);
    let dry = fleet.bucket.maand(&["deploy", "-n"]).expect(0).stdout;
    assert_eq!(
        (dry.matches("batch=1").count(), dry.matches("batch=2").count(), dry.matches(" skip ").count()),
        (2, 1, 1),
        "{dry}"
    );
    fleet.bucket.maand(&["deploy"]).expect(0);
    let ran = fleet.order("api");
    assert_eq!(ran.len(), 3, "what was promoted is not rolled again: {ran:?}");
    assert_eq!(ran[2], "3 restart", "two, then one: {ran:?}");
    assert!(fleet.words("api").iter().all(|word| word == "promoted"));
}

#[test]
fn what_was_rolled_before_must_still_be_well_at_the_next_gate() {
    let mut fleet = Fleet::new(2);
    fleet.job("api", json!({"health_check": fleet.check(1)}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.edit(&["api"], "2");
    // The second one restarts for as long as it takes until the first one is known to be sick.
    let hold = format!("hold.{}", fleet.hosts[1]);
    fleet.raise(&hold);
    let mut deploy = fleet.bucket.start("deploy", &["deploy"]);
    fleet.wait_ran(1, "api", 2);
    fleet.raise(&format!("sick.{}", fleet.hosts[0]));
    poll::until("the first one to be seen sick", poll::LONG, || {
        let health = fleet.bucket.cat("deployments")[0]["health"].clone();
        if health == "unhealthy" { Ok(()) } else { Err(health) }
    });
    fleet.lower(&hold);
    let status = deploy.wait(super::DEPLOY);
    assert_eq!(status.code(), Some(1), "{}", deploy.printed());
    let said = format!("job api: {}, which was rolled before, is not healthy any more: ", fleet.hosts[0]);
    assert!(deploy.printed().contains(&said) && deploy.printed().contains("feels sick"), "{}", deploy.printed());
    assert_eq!(fleet.words("api"), ["promoted", "restart"], "the second one ran and was not promoted");
}

#[test]
fn starts_go_one_at_a_time_in_the_order_of_the_workers_or_of_a_hook() {
    let mut fleet = Fleet::new(3);
    fleet.job("api", json!({"max_concurrent_starts": 1, "max_concurrent_upgrades": 1}));
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.order("api"), ["0 start", "1 start", "2 start"]);

    let order = |hosts: &[&str]| {
        let mut catalog = controller::catalog::Catalog::open(&fleet.bucket.path("data/maand.db")).unwrap();
        let value = hosts.join(",");
        catalog.write(|tx| controller::catalog::kv::put(tx, "maand/job/api", "rollout_order", &value, 1)).unwrap();
    };
    let [a, b, c] = [&fleet.hosts[0], &fleet.hosts[1], &fleet.hosts[2]].map(String::as_str);
    fleet.edit(&["api"], "2");
    order(&[c, a, b]);
    let dry = fleet.bucket.maand(&["deploy", "-n", "--json"]).expect(0).stdout;
    let dry: serde_json::Value = serde_json::from_str(&dry).unwrap();
    let planned: Vec<_> =
        dry["jobs"][0]["allocations"].as_array().unwrap().iter().map(|a| a["worker_ip"].clone()).collect();
    assert_eq!(planned, [c, a, b], "{dry}");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.order("api"), ["2 restart", "0 restart", "1 restart"]);

    // The order names all of the job; only a part of it rolls.
    fleet.bucket.write("workspace/disabled.json", &json!({"jobs": {"api": {"allocations": [a, b]}}}).to_string());
    fleet.bucket.maand(&["build"]).expect(0);
    fleet.bucket.maand(&["deploy"]).expect(0);
    std::fs::remove_file(fleet.bucket.path("workspace/disabled.json")).unwrap();
    fleet.bucket.maand(&["build"]).expect(0);
    order(&[c, b, a]);
    drop(fleet.order("api"));
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(fleet.order("api"), ["1 start", "0 start"]);

    for (n, (hosts, why)) in [
        (vec![c, b, c], format!("{c} is named twice")),
        (vec![c, b, a, "w9"], "\"w9\" is no active worker of the job".to_owned()),
        (vec![c, b], format!("{a} is missing")),
    ]
    .into_iter()
    .enumerate()
    {
        fleet.edit(&["api"], &format!("again {n}"));
        order(&hosts);
        let said = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
        assert!(said.contains(&format!("warning: job api: its rollout_order is not used: {why}")), "{said}");
        assert_eq!(fleet.order("api"), ["0 restart", "1 restart", "2 restart"]);
    }
}
