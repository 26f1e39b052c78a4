//! `maand hooks` and the hooks of a build, that have something done on workers.

use serde_json::json;

use super::Fleet;

const SCRIPT: &str = "if flag('go'): note(n(host), maand.run_make_target('restart').returncode)\n";

#[test]
fn a_hook_by_hand_reaches_workers_and_serves_their_agents_when_nobody_does() {
    let mut fleet = Fleet::new(2);
    fleet.job("api", json!({}), &["cli", "post_build"], SCRIPT);
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.raise("go");
    let served = fleet.bucket.maand(&["hooks", "hook_x"]).expect(0).stderr;
    assert!(!served.contains("meanwhile"), "{served}");
    assert_eq!(fleet.notes(), ["h0 0", "h1 0"]);
    fleet.serve.take().unwrap().stop(super::DEPLOY);
    let alone = fleet.bucket.maand(&["hooks", "hook_x"]).expect(0).stderr;
    assert!(alone.contains("no maand serve runs: serving agents on "), "{alone}");
    fleet.bucket.maand(&["build"]).expect(0);
    assert_eq!(fleet.notes(), ["h0 0", "h1 0", "h0 0", "h1 0"]);
    assert_eq!(fleet.ran("api"), ["start restart restart restart"; 2]);
    // Nothing is served where nothing is asked.
    fleet.lower("go");
    let idle = fleet.bucket.maand(&["hooks", "hook_x"]).expect(0).stderr;
    assert!(!idle.contains("meanwhile"), "{idle}");
}
