//! Every event of a deploy: order, targets, environment; the order of a rollout.

use serde_json::json;

use super::Fleet;

/// Notes all that its event tells it, and whether its index is that of the key-values.
const TELL: &str = "index = maand.get_kv_value('maand/job/api/worker/' + host, 'api_allocation_index') \
if event != 'after_allocation_stopped' else os.environ['ALLOCATION_INDEX']\n\
assert index == os.environ['ALLOCATION_INDEX'], index\n\
env = os.environ.get\n\
note(event, n(host), f\"{env('BATCH_INDEX', '-')}/{env('BATCH_COUNT', '-')}\", env('DEPLOY_PHASE', '-'), \
many('BATCH_ALLOCATIONS'), many('ROLLOUT_ORDER') or 'blank', env('ROLLOUT_ORDER_SOURCE', '-') or 'blank', \
env('CURRENT_VERSION') + '>' + env('NEW_VERSION'))\n\
if event == 'pre_deploy' and flag('reverse'):\n    \
    maand.put_rollout_order(open(HOME + '/reverse').read()).raise_for_status()\n\
print('out', event)\nprint('err', event, file=sys.stderr)\n";

const EVENTS: &[&str] =
    &["pre_deploy", "after_allocation_started", "after_allocation_stopped", "health_check", "post_deploy"];

/// Lines that run side by side are put in the order of their hosts.
fn sorted(notes: Vec<String>, sizes: &[usize]) -> Vec<String> {
    assert_eq!(notes.len(), sizes.iter().sum::<usize>(), "{notes:#?}");
    let mut rest = notes.as_slice();
    let mut all = Vec::new();
    for size in sizes {
        let (group, after) = rest.split_at(*size);
        let mut group = group.to_vec();
        group.sort();
        all.extend(group);
        rest = after;
    }
    all
}

#[test]
fn each_event_comes_in_its_turn_and_says_what_it_is_about() {
    let mut fleet = Fleet::new(3);
    fleet.job("api", json!({"version": "1.0.0", "max_concurrent_starts": 2}), EVENTS, TELL);
    fleet.up();
    let first = fleet.bucket.maand(&["deploy", "--verbose"]).expect(0);
    let host = &fleet.hosts[0];
    assert!(first.stderr.contains(&format!("api@{host} | out pre_deploy\n")), "{}", first.stderr);
    assert!(first.stderr.contains(&format!("api@{host} ! err pre_deploy\n")), "{}", first.stderr);
    assert!(first.stderr.contains("api | pre_deploy hooks\n"), "{}", first.stderr);
    let log = fleet.bucket.read(&format!("logs/{host}.log"));
    assert!(log.contains("out post_deploy") && log.contains("err health_check"), "{log}");
    assert_eq!(
        sorted(fleet.notes(), &[1, 1, 1, 2, 2, 1, 3, 1, 1, 1]),
        [
            "pre_deploy h0 -/- - - - - 0.0.0>1.0.0",
            "pre_deploy h1 -/- - - - - 0.0.0>1.0.0",
            "pre_deploy h2 -/- - - - - 0.0.0>1.0.0",
            "after_allocation_started h0 0/2 new h0,h1 h0,h1,h2 default 0.0.0>1.0.0",
            "after_allocation_started h1 0/2 new h0,h1 h0,h1,h2 default 0.0.0>1.0.0",
            "health_check h0 -/- - - - - 0.0.0>1.0.0",
            "health_check h1 -/- - - - - 0.0.0>1.0.0",
            "after_allocation_started h2 1/2 new h2 h0,h1,h2 default 0.0.0>1.0.0",
            "health_check h0 -/- - - - - 0.0.0>1.0.0",
            "health_check h1 -/- - - - - 0.0.0>1.0.0",
            "health_check h2 -/- - - - - 0.0.0>1.0.0",
            "post_deploy h0 -/- - - - - 0.0.0>1.0.0",
            "post_deploy h1 -/- - - - - 0.0.0>1.0.0",
            "post_deploy h2 -/- - - - - 0.0.0>1.0.0",
        ]
    );
    assert_eq!(fleet.column("api", "post_deploy_status"), ["success"; 3]);

    // Nothing to do: no hook runs.
    let none = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(none.contains("deploy: skip job \"api\" (deploy complete on all allocations)"), "{none}");
    assert!(fleet.notes().is_empty());

    // The order that a hook writes is that of this deploy.
    let reversed: Vec<&str> = fleet.hosts.iter().rev().map(String::as_str).collect();
    std::fs::write(fleet.flag("reverse"), reversed.join(",")).unwrap();
    fleet.edit("api", "two");
    fleet.bucket.maand(&["deploy"]).expect(0);
    let started = |fleet: &Fleet| -> Vec<String> {
        fleet.notes().into_iter().filter(|note| note.starts_with("after_allocation_started")).collect()
    };
    assert_eq!(
        started(&fleet),
        [
            "after_allocation_started h2 0/3 update h2 h2,h1,h0 kv 1.0.0>1.0.0",
            "after_allocation_started h1 1/3 update h1 h2,h1,h0 kv 1.0.0>1.0.0",
            "after_allocation_started h0 2/3 update h0 h2,h1,h0 kv 1.0.0>1.0.0",
        ]
    );
    fleet.lower("reverse");
    fleet.edit("api", "three");
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert_eq!(
        started(&fleet),
        [
            "after_allocation_started h0 0/3 update h0 h0,h1,h2 default 1.0.0>1.0.0",
            "after_allocation_started h1 1/3 update h1 h0,h1,h2 default 1.0.0>1.0.0",
            "after_allocation_started h2 2/3 update h2 h0,h1,h2 default 1.0.0>1.0.0",
        ]
    );

    // One that does not fit is not used, and says so.
    std::fs::write(fleet.flag("reverse"), reversed[..2].join(",")).unwrap();
    fleet.edit("api", "four");
    let odd = fleet.bucket.maand(&["deploy"]).expect(0).stderr;
    assert!(odd.contains("rollout_order is not used"), "{odd}");
    let seen = started(&fleet);
    assert!(seen[0].ends_with("h0 h0,h1,h2 default 1.0.0>1.0.0"), "{seen:?}");

    // A drain: for each one by itself, before anything else.
    fleet.lower("reverse");
    let drained = json!({"jobs": {"api": {"allocations": [fleet.hosts[0], fleet.hosts[2]]}}});
    fleet.bucket.write("workspace/disabled.json", &drained.to_string());
    fleet.bucket.maand(&["build"]).expect(0);
    fleet.bucket.maand(&["deploy"]).expect(0);
    let stopped: Vec<String> = fleet.notes().into_iter().filter(|note| note.contains("_stopped")).collect();
    assert_eq!(
        stopped,
        [
            "after_allocation_stopped h0 0/1 stop h0 blank blank 1.0.0>1.0.0",
            "after_allocation_stopped h2 0/1 stop h2 blank blank 1.0.0>1.0.0",
        ]
    );
    fleet.bucket.maand(&["deploy"]).expect(0);
    assert!(fleet.notes().is_empty(), "a drain is done once");
}
