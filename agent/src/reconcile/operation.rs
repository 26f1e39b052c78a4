//! Decides what to do about an operation: start it, wait, refuse it, let it be. Asked whenever something
//! has moved; what was taken up shows in the ledger, so it is not taken up twice.

use shared::api::v1::desired::{DesiredAllocation, RunState};
use shared::api::v1::operation::{Ended, MAX_SCRIPT, ObservedOperation, Operation, Work, is_target};

use super::{Place, Row};

/// Most operations that run at once.
pub const AT_ONCE: usize = 8;

/// What a decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The controller's clock, milliseconds since 1970 UTC; `None` before it was heard.
    pub now_ms: Option<i64>,
    /// Why an operator wants nothing changed on this worker now.
    pub hold: Option<&'a str>,
    /// Words of kinds that agent.toml allows; `None`: all.
    pub allow: Option<&'a [String]>,
    /// The deploy that the agent knows.
    pub update_seq: u64,
    /// Its allocation, as it is wanted here.
    pub wanted: Option<&'a DesiredAllocation>,
    /// The same as the ledger has it.
    pub row: Option<&'a Row>,
    /// An action or another operation is at work on its allocation.
    pub busy: bool,
    /// Operations that run.
    pub running: usize,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It was taken up before.
    Keep,
    /// Not yet.
    Wait,
    /// It is over without having begun.
    End(Ended),
    /// Write it down and begin.
    Start,
}

/// Whether a second one on the same allocation must wait.
pub fn is_exclusive(work: &Work) -> bool {
    matches!(work, Work::Make { .. })
}

/// The turn of `operation`, of which the ledger has `known`.
pub fn turn(operation: &Operation, known: Option<&ObservedOperation>, view: &View<'_>) -> Turn {
    if known.is_some() {
        return Turn::Keep;
    }
    if operation.cancel {
        return Turn::End(Ended::Cancelled);
    }
    let refuse = |reason: String| Turn::End(Ended::Refused { reason });
    if let Some(reason) = impossible(operation, view) {
        return refuse(reason);
    }
    let changes = matches!(operation.work, Work::Make { .. } | Work::Script { .. });
    if let Some(reason) = view.hold.filter(|_| changes) {
        return refuse(format!("an operator holds this worker: {reason}; maand agent unhold ends that"));
    }
    let Some(now_ms) = view.now_ms else { return Turn::Wait };
    if now_ms > operation.not_after_ms {
        return Turn::End(Ended::Expired);
    }
    // To read what a job wrote is nothing that others would have to wait for.
    let waits = view.busy && !matches!(operation.work, Work::Logs { .. });
    if waits || view.running >= AT_ONCE {
        return Turn::Wait;
    }
    if let Some(wanted) = &operation.precondition {
        let in_place = view.row.and_then(|row| if let Place::Whole(bundle) = row.place { Some(bundle) } else { None });
        if wanted.bundle.is_some() && wanted.bundle != in_place {
            let has = in_place.map_or_else(|| "no whole set of files".to_owned(), |bundle| bundle.short());
            return refuse(format!("the worker has {has}, not what was asked about; deploy, then try again"));
        }
        if wanted.update_seq.is_some_and(|seq| seq != view.update_seq) {
            return refuse(format!("the worker is at update_seq {}; try again", view.update_seq));
        }
    }
    Turn::Start
}

/// Why it can never be done here.
fn impossible(operation: &Operation, view: &View<'_>) -> Option<String> {
    let work = &operation.work;
    if *work == Work::Unknown {
        return Some("this maand-agent does not know that kind of operation: install a newer one".to_owned());
    }
    if let Some(allow) = view.allow.filter(|allow| !allow.iter().any(|word| word == work.word())) {
        let allowed = if allow.is_empty() { "nothing".to_owned() } else { allow.join(", ") };
        return Some(format!("agent.toml of this worker allows {allowed}, no {}", work.word()));
    }
    match work {
        Work::Make { target, .. } if !is_target(target) => return Some("that is no name of a make target".to_owned()),
        Work::Make { env, .. } if !env.keys().all(|key| is_variable(key)) => {
            return Some("a variable has no name that make can use".to_owned());
        }
        Work::Script { body } if body.len() > MAX_SCRIPT => {
            return Some(format!("the script is longer than {MAX_SCRIPT} bytes"));
        }
        _ => {}
    }
    work.alloc_id()?;
    let here = view.wanted.filter(|wanted| work.job() == Some(&wanted.job));
    match here.map(|wanted| (wanted.state, wanted.bundle)) {
        Some((RunState::Running | RunState::Stopped, Some(_))) => None,
        Some((RunState::Running | RunState::Stopped, None)) => Some("the job has not been deployed here".to_owned()),
        _ => Some("the job is not on this worker".to_owned()),
    }
}

fn is_variable(key: &str) -> bool {
    let mut bytes = key.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::api::v1::operation::Precondition;
    use shared::{AllocId, BundleDigest, OperationId, RunId};
    use uuid::Uuid;

    const ALLOC: AllocId = AllocId::from_uuid(Uuid::from_u128(1));

    fn make(target: &str) -> Operation {
        Operation {
            id: OperationId::from_uuid(Uuid::from_u128(2)),
            run_id: RunId::from_uuid(Uuid::from_u128(3)),
            work: Work::Make {
                alloc_id: ALLOC,
                job: "api".parse().unwrap(),
                target: target.to_owned(),
                env: Default::default(),
            },
            timeout_s: 10,
            not_after_ms: 100,
            precondition: None,
            cancel: false,
        }
    }

    fn script() -> Operation {
        Operation { work: Work::Script { body: "true".to_owned() }, ..make("x") }
    }

    fn digest(n: u8) -> BundleDigest {
        BundleDigest::from_bytes([n; 32])
    }

    fn wanted(state: RunState, bundle: Option<BundleDigest>) -> DesiredAllocation {
        DesiredAllocation {
            alloc_id: ALLOC,
            job: "api".parse().unwrap(),
            state,
            disabled: false,
            bundle,
            current_version: "1.0.0".into(),
            new_version: "1.0.0".into(),
            action: None,
            dir_mode: None,
            deployment_seq: 0,
            self_heal: false,
            health: None,
        }
    }

    fn refused(turn: Turn, word: &str) {
        assert!(matches!(&turn, Turn::End(Ended::Refused { reason }) if reason.contains(word)), "{turn:?}: {word}");
    }

    #[test]
    fn once_in_time_and_alone() {
        let here = wanted(RunState::Running, Some(digest(1)));
        let mut row = Row::new(ALLOC, "api".parse().unwrap());
        row.place = Place::Whole(digest(1));
        let view = View {
            now_ms: Some(100),
            hold: None,
            allow: None,
            update_seq: 7,
            wanted: Some(&here),
            row: Some(&row),
            busy: false,
            running: 0,
        };
        let turn = |operation: &Operation, view| turn(operation, None, &view);
        assert_eq!(turn(&make("status"), view), Turn::Start);
        let known = ObservedOperation {
            id: make("x").id,
            outcome: Some(Ended::Interrupted),
            started_ms: 0,
            duration_ms: 0,
            omitted: 0,
        };
        assert_eq!(super::turn(&make("status"), Some(&known), &view), Turn::Keep, "never twice, however it ended");
        assert_eq!(turn(&make("status"), View { now_ms: Some(101), ..view }), Turn::End(Ended::Expired));
        assert_eq!(turn(&make("status"), View { now_ms: None, ..view }), Turn::Wait, "no clock was heard");
        assert_eq!(turn(&make("status"), View { busy: true, ..view }), Turn::Wait);
        assert_eq!(turn(&make("status"), View { running: AT_ONCE, ..view }), Turn::Wait);
        let late = View { busy: true, now_ms: Some(101), ..view };
        assert_eq!(turn(&make("status"), late), Turn::End(Ended::Expired), "waiting does not keep it fresh");
        let cancelled = Operation { cancel: true, ..make("status") };
        assert_eq!(turn(&cancelled, view), Turn::End(Ended::Cancelled));
    }

    #[test]
    fn what_is_not_allowed_not_here_or_not_as_expected_is_refused() {
        let here = wanted(RunState::Running, Some(digest(1)));
        let mut row = Row::new(ALLOC, "api".parse().unwrap());
        row.place = Place::Whole(digest(1));
        let view = View {
            now_ms: Some(0),
            hold: None,
            allow: None,
            update_seq: 7,
            wanted: Some(&here),
            row: Some(&row),
            busy: false,
            running: 0,
        };
        let held = View { hold: Some("a disk is being replaced"), ..view };
        refused(turn(&make("status"), None, &held), "an operator holds this worker: a disk is being replaced");
        refused(turn(&script(), None, &held), "maand agent unhold");
        let logs = Work::Logs { alloc_id: ALLOC, job: "api".parse().unwrap(), tail: 1, follow: false };
        assert_eq!(turn(&Operation { work: logs, ..make("x") }, None, &held), Turn::Start, "reading changes nothing");
        let only_make = ["make".to_owned()];
        let strict = View { allow: Some(&only_make), ..view };
        assert_eq!(turn(&make("status"), None, &strict), Turn::Start);
        refused(turn(&script(), None, &strict), "allows make, no script");
        refused(turn(&script(), None, &View { allow: Some(&[]), ..view }), "allows nothing");
        assert_eq!(turn(&script(), None, &View { wanted: None, row: None, ..view }), Turn::Start, "of no allocation");
        refused(turn(&make("-f"), None, &view), "make target");
        refused(turn(&Operation { work: Work::Unknown, ..make("x") }, None, &view), "newer");
        let long = Operation { work: Work::Script { body: "x".repeat(MAX_SCRIPT + 1) }, ..make("x") };
        refused(turn(&long, None, &view), "longer");
        refused(turn(&make("status"), None, &View { wanted: None, ..view }), "not on this worker");
        let (gone, new) = (wanted(RunState::Absent, None), wanted(RunState::Running, None));
        refused(turn(&make("status"), None, &View { wanted: Some(&gone), ..view }), "not on this worker");
        refused(turn(&make("status"), None, &View { wanted: Some(&new), ..view }), "not been deployed");
        let when = |bundle, update_seq| Operation {
            precondition: Some(Precondition { bundle: Some(digest(bundle)), update_seq: Some(update_seq) }),
            ..make("status")
        };
        assert_eq!(turn(&when(1, 7), None, &view), Turn::Start);
        refused(turn(&when(2, 7), None, &view), "deploy");
        refused(turn(&when(1, 8), None, &view), "update_seq 7");
        let mut bad = make("status");
        if let Work::Make { env, .. } = &mut bad.work {
            env.insert("A B".into(), String::new());
        }
        refused(turn(&bad, None, &view), "variable");
    }
}
