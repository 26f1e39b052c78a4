use shared::api::v1::health::ObservedHealth;
use shared::api::v1::report::ObservedAction;
use shared::{ActionId, WorkerId};
use uuid::Uuid;

use super::*;
use crate::admission::alarm::Kind;
use crate::model::{Deferral, Promoted, Rolled};

fn digest(n: u8) -> BundleDigest {
    BundleDigest::from_bytes([n; 32])
}

fn alarm(kind: Kind, detail: &str) -> Vec<Alarm> {
    vec![Alarm { kind, first_ms: 0, last_ms: 0, count: 1, detail: detail.into() }]
}

fn worker() -> Worker {
    let fence = Fence { epoch: 1, update_seq: 2, generation: 3 };
    Worker {
        host: "w".parse().unwrap(),
        is_listed: true,
        is_regressed: false,
        is_served: true,
        joined: Some(false),
        shut_out: None,
        alarms: Vec::new(),
        away: None,
        told: Some(fence),
        accepted: Some(fence),
        refused: None,
        clock_ms: 5,
        lacking: Vec::new(),
        held: None,
    }
}

/// Promoted, started, well.
fn here() -> Here {
    let said = ObservedAllocation {
        alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
        job: "api".parse().unwrap(),
        bundle: Some(digest(1)),
        version: None,
        purged: false,
        phase: Phase::Idle,
        process: Process::Started,
        action: Some(ObservedAction {
            id: ActionId::from_uuid(Uuid::from_u128(7)),
            outcome: Some(Outcome::Ok),
            started_ms: 0,
            duration_ms: 0,
            tail: None,
        }),
        problem: None,
        drift: vec![],
        unmanaged: vec![],
        boot: None,
        unhealed: vec![],
        health: None,
        fetched: None,
    };
    let allocation = Allocation {
        alloc_id: said.alloc_id,
        job: "api".parse().unwrap(),
        host: "w".parse().unwrap(),
        worker_id: WorkerId::from_uuid(Uuid::from_u128(2)),
        disabled: false,
        removed: false,
        start_pending: false,
        deployment_seq: 0,
        new_version: "1.0.0".into(),
        bundle: Some(digest(1)),
        promoted: Some(Promoted { bundle: digest(1), version: "1.0.0".into() }),
        rolled: Some(Rolled { may_run: true, ..Rolled::default() }),
        render_inputs: None,
    };
    Here { allocation, said: Some(said), rolling: None, planned: None }
}

#[test]
fn every_way_of_not_being_where_the_operator_wants_it() {
    type Change = fn(&mut Worker, &mut Here);
    fn rolled(here: &mut Here) -> &mut Rolled {
        here.allocation.rolled.as_mut().unwrap()
    }
    fn said(here: &mut Here) -> &mut ObservedAllocation {
        here.said.as_mut().unwrap()
    }
    fn outcome(here: &mut Here, outcome: Outcome) {
        said(here).action.as_mut().unwrap().outcome = Some(outcome);
    }
    fn rolling(is_held: bool, is_over: bool) -> Option<Rolling> {
        let (run, job, what) = ("0197".into(), "batch 1 of 2".into(), "not picked up since then".into());
        Some(Rolling { run, is_held, is_over, job, what })
    }
    let table: &[(&str, Change, &str)] = &[
        ("in sync", |_, _| {}, ""),
        ("older than what agents have been told", |w, _| w.is_regressed = true, "maand recover"),
        ("no agent has joined for w", |w, _| w.joined = None, "maand agent token w"),
        ("w is not in workers.json", |w, _| (w.joined, w.is_listed) = (None, false), "maand gc"),
        ("certificate of its agent has ended", |w, _| w.joined = Some(true), "start maand-agent"),
        (
            "were ended (by an operator)",
            |w, _| (w.joined, w.shut_out) = (None, Some("by an operator".into())),
            "maand agent token w",
        ),
        ("is still used", |w, _| w.alarms = alarm(Kind::Copied, "it is still used"), "maand agent revoke w"),
        (
            "no agent has joined for w: a join",
            |w, _| (w.joined, w.alarms) = (None, alarm(Kind::JoinRefused, "a join was refused")),
            "maand agent token w",
        ),
        ("refuses what it is told: it is older", |w, _| w.refused = Some("it is older".into()), "maand recover"),
        ("its agent is offline (since noon)", |w, _| w.away = Some("since noon".into()), "start maand-agent on w"),
        (
            "clock was 7200 s off",
            |w, _| (w.away, w.clock_ms) = (Some("since noon".into()), 7_200_000),
            "start maand-agent on w",
        ),
        ("no maand serve runs", |w, _| (w.away, w.is_served) = (Some("-".into()), false), "start maand serve"),
        ("behind: it accepted nothing, it was told 1.2.3", |w, _| w.accepted = None, "maand agent ping w"),
        (
            "it is held until noon: a disk",
            |w, _| w.held = Some("held until noon: a disk".into()),
            "maand agent unhold w",
        ),
        ("-120 s off", |w, _| w.clock_ms = -120_000, "time synchronisation"),
        ("w has no make: make targets cannot run", |w, _| w.lacking = vec!["make"], "install it there"),
        ("is under way (rollout 0197, batch 1 of 2): not picked", |_, h| h.rolling = rolling(false, false), "watch"),
        ("nobody drives it", |_, h| h.rolling = rolling(true, false), "maand deploy goes on"),
        ("in sync", |_, h| h.rolling = rolling(false, true), ""),
        ("no longer wanted here and may still run", |_, h| h.allocation.removed = true, "maand deploy"),
        (
            "stopped; its files are still there",
            |_, h| {
                h.allocation.removed = true;
                rolled(h).may_run = false;
            },
            "maand deploy",
        ),
        ("data/ and logs/ are kept", |_, h| (h.allocation.removed, h.allocation.rolled) = (true, None), "maand gc"),
        ("drained (disabled.json) and not known", |_, h| h.allocation.disabled = true, "maand deploy"),
        (
            "drained (disabled.json): stopped",
            |w, h| {
                // Nobody has to be there for that.
                w.away = Some("since noon".into());
                h.allocation.disabled = true;
                rolled(h).may_run = false;
            },
            "",
        ),
        (
            "older files than the last build",
            |_, h| {
                (h.allocation.disabled, h.planned) = (true, Some("new files".into()));
                rolled(h).may_run = false;
            },
            "maand deploy",
        ),
        ("held up: no space left", |_, h| said(h).problem = Some("no space left".into()), "put that right"),
        ("fetching its files", |_, h| said(h).phase = Phase::Fetching, "wait"),
        (
            "went on without it",
            |_, h| {
                let (bundle, version) = (digest(2), "2.0.0".to_owned());
                rolled(h).deferred = Some(Deferral { since_ms: 1, bundle, version });
            },
            "maand drive",
        ),
        ("failed, exit 3", |_, h| outcome(h, Outcome::Failed { exit: 3 }), "correct it"),
        ("took too long", |_, h| outcome(h, Outcome::TimedOut), "correct it"),
        ("cut off", |_, h| outcome(h, Outcome::Interrupted), "maand deploy"),
        ("refused its last action: no", |_, h| outcome(h, Outcome::Refused { reason: "no".into() }), "correct it"),
        ("did not become healthy", |_, h| rolled(h).health_failed = true, "correct it"),
        ("never deployed here", |_, h| h.allocation.promoted = None, "--dry-run"),
        ("wanted again", |_, h| h.allocation.start_pending = true, "--dry-run"),
        ("02020202", |_, h| h.allocation.bundle = Some(digest(2)), "--dry-run"),
        ("version 1.1.0 is built", |_, h| h.allocation.new_version = "1.1.0".into(), "--dry-run"),
        ("has not said anything", |_, h| h.said = None, "maand agent ping w"),
        ("its agent has no files", |_, h| said(h).bundle = None, "--force --jobs api"),
        (
            "not healthy: port 80 is closed",
            |_, h| {
                said(h).health = Some(ObservedHealth {
                    state: HealthState::Unhealthy,
                    action: None,
                    attempt: 1,
                    is_final: true,
                    since_ms: 1,
                    checked_ms: 1,
                    problem: Some("port 80 is closed".into()),
                });
            },
            "logs/w.log",
        ),
        ("was stopped there", |_, h| said(h).process = Process::Stopped, "--force"),
        ("1 managed files were edited there: a", |_, h| said(h).drift = vec!["a".parse().unwrap()], "puts them back"),
        ("post_deploy hooks", |_, h| rolled(h).post_deploy = Some(PostDeploy::Failed), "correct the hook"),
    ];
    for (n, (expected, change, remedy)) in table.iter().enumerate() {
        let (mut worker, mut here) = (worker(), here());
        change(&mut worker, &mut here);
        let found = of_allocation(&worker, &here);
        assert!(found.so.contains(expected), "row {n}: {expected}: {found:?}");
        assert_eq!(found.remedy.is_none(), remedy.is_empty(), "row {n}: {found:?}");
        assert!(found.remedy.unwrap_or_default().contains(remedy), "row {n}: {remedy}");
    }
}
