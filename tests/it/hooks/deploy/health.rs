//! health_check hooks: in the gate of a deploy, and in `maand health_check`.

use serde_json::{Value, json};

use super::Fleet;

/// Says no while `sick.<n>` is there, which every try takes one line off.
const SCRIPT: &str = "note(n(host))\nanswer = maand.put_job_variable('a', 'b')\n\
                      assert answer.status_code == 400, answer.text\n\
                      path = HOME + '/sick.' + n(host)\n\
                      if os.path.exists(path):\n    \
                      left = open(path).read()\n    \
                      print('feels sick')\n    \
                      open(path, 'w').write(left[1:]) if len(left) > 1 else os.remove(path)\n    \
                      sys.exit(4)\n";

fn waits(attempts: u32) -> Value {
    json!({"health_check": {"checks": [], "wait": {"attempts": attempts, "interval_seconds": 1}}, "max_concurrent_upgrades": 1})
}

#[test]
fn a_gate_tries_its_hooks_again_and_gives_up_after_as_many_as_the_manifest_says() {
    let mut fleet = Fleet::new(2);
    fleet.job("api", waits(3), &["health_check"], SCRIPT);
    fleet.up();
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.notes();
    std::fs::write(fleet.flag("sick.h0"), "12").unwrap();
    std::fs::write(fleet.flag("sick.h1"), "1234").unwrap();
    fleet.edit("api", "two");
    let failed = fleet.bucket.maand(&["deploy"]).expect(1).stderr;
    assert!(failed.contains("job api: hook_x failed for 1 of 2 allocations (health_check)"), "{failed}");
    assert!(failed.contains("    | feels sick\n"), "{failed}");
    assert_eq!(fleet.words("api"), ["promoted", "health_failed"]);
    let mut notes = fleet.notes();
    assert_eq!(&notes[..3], ["h0"; 3], "twice sick, then well");
    // From then on the batch, and what was rolled before it.
    let rest = &mut notes[3..];
    rest.sort();
    assert_eq!(rest, ["h0", "h0", "h0", "h1", "h1", "h1"]);

    // The fourth try of the second one, by hand.
    let once = fleet.bucket.maand(&["health_check", "--jobs", "api"]).expect(1);
    assert!(once.stdout.starts_with("api: not healthy (1 of 2)\n"), "{once:?}");
    let again = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(again.contains("1 allocation promoted"), "{again}");
    assert_eq!(fleet.words("api"), ["promoted"; 2]);
}

#[test]
fn health_check_runs_them_once_or_until_all_is_well() {
    let mut fleet = Fleet::new(2);
    let manifest = json!({"health_check": {"checks": [{"type": "exec", "command": "test ! -e data/bad"}],
        "wait": {"attempts": 3, "interval_seconds": 1}}});
    fleet.job("api", manifest, &["health_check"], SCRIPT);
    fleet.up();
    let none = fleet.bucket.maand(&["health_check"]).expect(0).stdout;
    assert_eq!(none, "api: not deployed yet\n");
    fleet.bucket.maand(&["deploy"]).expect(0);
    fleet.notes();
    let well = fleet.bucket.maand(&["health_check", "--verbose"]).expect(0);
    assert!(well.stdout.starts_with("api: healthy (2 of 2)\n"), "{}", well.stdout);
    assert!(well.stdout.contains(&format!("  api@{} healthy: hook_x\n", fleet.hosts[0])), "{}", well.stdout);
    assert_eq!(fleet.notes().len(), 2);

    std::fs::write(fleet.flag("sick.h1"), "12").unwrap();
    let sick = fleet.bucket.maand(&["health_check"]).expect(1);
    assert!(sick.stdout.contains("api: not healthy (1 of 2)\n"), "{}", sick.stdout);
    assert!(
        sick.stdout.contains(&format!("  api@{} unhealthy: hook_x: exit code 4\n", fleet.hosts[1])),
        "{}",
        sick.stdout
    );
    assert!(
        sick.stderr.contains("error[MD0090]: job api: hook_x failed for 1 of 2 allocations (health_check)"),
        "{}",
        sick.stderr
    );
    fleet.notes();
    let waited = fleet.bucket.maand(&["health_check", "--wait", "--verbose"]).expect(0);
    assert!(waited.stdout.contains("api: healthy (2 of 2)\n"), "{}", waited.stdout);
    assert!(waited.stderr.contains(&format!("api@{} | feels sick\n", fleet.hosts[1])), "{}", waited.stderr);
    assert_eq!(fleet.notes().len(), 4, "once more after it had been sick");

    let rows = fleet.bucket.maand(&["health_check", "--json"]).expect(0).stdout;
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    let hooks: Vec<&Value> = rows.iter().map(|row| &row["hook"]).collect();
    assert_eq!(hooks, [&Value::Null, &Value::Null, &json!("hook_x"), &json!("hook_x")]);
    assert!(rows.iter().all(|row| row["health"] == "healthy"), "{rows:?}");

    // Where the job's own checks say no, its hooks are not asked.
    fleet.notes();
    std::fs::write(fleet.agents[0].job_path("api", "data/bad"), "").unwrap();
    let bad = fleet.bucket.maand(&["health_check", "--json"]).expect(1).stdout;
    let rows: Vec<Value> = serde_json::from_str(&bad).unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(fleet.notes().is_empty());
}
