//! `max_failed` and `max_unreachable`, as numbers and as percentages.

use serde_json::json;

use super::Fleet;

#[test]
fn failures_within_the_budget_stop_nothing_and_are_still_said() {
    // The budget; how many of four are rolled when the first two fail, one at a time.
    for (budget, begun) in [(json!(1), 2), (json!("25%"), 2), (json!("50%"), 4), (json!(2), 4)] {
        let mut fleet = Fleet::new(4);
        fleet.job("api", json!({"max_concurrent_starts": 1, "max_failed": budget}));
        fleet.hosts[..2].iter().for_each(|host| fleet.raise(&format!("fail.{host}")));
        fleet.up();
        let failed = fleet.bucket.maand(&["deploy"]).expect(1);
        assert_eq!(fleet.order("api").len(), begun, "{budget}: {}", failed.stderr);
        for host in &fleet.hosts[..2] {
            assert!(
                failed.stderr.contains(&format!("job api: make failed on {host} with exit code 2")),
                "{}",
                failed.stderr
            );
        }
        assert_eq!(failed.stderr.contains("allocations untouched"), begun == 2, "{}", failed.stderr);
        let good = if begun == 4 { "promoted" } else { "new" };
        assert_eq!(fleet.words("api"), ["new", "new", good, good], "{budget}");
    }
}

#[test]
fn agents_out_of_reach_within_the_budget_are_deferred_and_beyond_it_fail_the_job() {
    for (budget, code) in [(json!(0), 1), (json!(1), 0), (json!("34%"), 0), (json!("32%"), 1)] {
        let mut fleet = Fleet::new(3);
        fleet.bucket.setting("pickup_timeout = 2");
        fleet.job("api", json!({"max_concurrent_starts": 1, "max_unreachable": budget}));
        fleet.up();
        fleet.agents[1].kill();
        let host = &fleet.hosts[1];
        let said = fleet.bucket.maand(&["deploy"]).expect(code).stderr;
        assert!(said.contains(&format!("api@{host} | its agent is out of reach")), "{said}");
        if code == 0 {
            assert_eq!(fleet.words("api"), ["promoted", "new", "promoted"]);
            assert!(said.contains(&format!("job api: {host} is out of reach")), "{said}");
            assert!(said.contains("deployed: 2 allocations promoted, 1 deferred in"), "{said}");
        } else {
            assert_eq!(fleet.words("api"), ["promoted", "new", "new"]);
            assert!(
                said.contains(&format!("job api: the agent of {host} did not pick up its work within 2 s")),
                "{said}"
            );
            assert!(said.contains("max_unreachable of the job is 0"), "{said}");
        }
    }
}
