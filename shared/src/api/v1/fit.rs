//! A report that would be longer than a controller takes says less: what matters least goes first. A worker with many
//! allocations, all of them in trouble, is still heard.

use std::io::{self, Write};

use super::operation::Ended;
use super::report::{ObservedAllocation, Outcome, Report};

/// What stands where something was.
pub const LEFT_OUT: &str = "… (left out)";
/// What is left of a text when not all of it can be, bytes.
const SHORT: usize = 400;
/// The same when there is hardly room.
const SHORTEST: usize = 100;
/// Paths of a list that are left.
const PATHS: usize = 5;

/// Counts bytes.
struct Count(usize);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn length(report: &Report) -> usize {
    let mut count = Count(0);
    serde_json::to_writer(&mut count, report).map_or(usize::MAX, |()| count.0)
}

/// One way to say less of an allocation.
type Less = fn(&mut ObservedAllocation);

/// In this order.
const STEPS: [Less; 4] = [
    |allocation| {
        allocation.fetched = None;
        allocation.unmanaged.truncate(PATHS);
        each_tail(allocation, |tail| end(tail, SHORT));
    },
    |allocation| {
        allocation.drift.truncate(PATHS);
        allocation.unhealed.truncate(PATHS);
        each_text(allocation, |text| beginning(text, SHORT));
    },
    |allocation| {
        allocation.unmanaged.clear();
        each_tail(allocation, |tail| LEFT_OUT.clone_into(tail));
        each_text(allocation, |text| beginning(text, SHORTEST));
    },
    // What is left says where each allocation stands, and that it has drifted.
    |allocation| {
        allocation.drift.truncate(1);
        allocation.unhealed.truncate(1);
        each_text(allocation, |text| LEFT_OUT.clone_into(text));
        if let Some(action) = &mut allocation.action {
            action.tail = None;
        }
        if let Some(boot) = &mut allocation.boot {
            boot.tail = None;
        }
    },
];

fn each_tail(allocation: &mut ObservedAllocation, each: impl FnMut(&mut String)) {
    let action = allocation.action.iter_mut().filter_map(|action| action.tail.as_mut());
    let boot = allocation.boot.iter_mut().filter_map(|boot| boot.tail.as_mut());
    action.chain(boot).for_each(each);
}

fn each_text(allocation: &mut ObservedAllocation, each: impl FnMut(&mut String)) {
    let action = allocation.action.iter_mut().filter_map(|action| action.outcome.as_mut());
    let boot = allocation.boot.iter_mut().filter_map(|boot| boot.outcome.as_mut());
    let reasons = action.chain(boot).filter_map(|outcome| match outcome {
        Outcome::Refused { reason } => Some(reason),
        _ => None,
    });
    let health = allocation.health.iter_mut().filter_map(|health| health.problem.as_mut());
    reasons.chain(&mut allocation.problem).chain(health).for_each(each);
}

/// Whole lines of the end: the controller knows no half of a secret.
fn end(text: &mut String, limit: usize) {
    if text.len() > limit {
        let rest = text.get(text.ceil_char_boundary(text.len() - limit)..).unwrap_or_default();
        let lines = rest.split_once('\n').map_or("", |(_, lines)| lines);
        *text = format!("{LEFT_OUT}\n{lines}");
    }
}

/// Whole words of the beginning.
fn beginning(text: &mut String, limit: usize) {
    if text.len() > limit {
        let rest = text.get(..text.floor_char_boundary(limit)).unwrap_or_default();
        let words = rest.rsplit_once(char::is_whitespace).map_or("", |(words, _)| words);
        *text = format!("{words} {LEFT_OUT}");
    }
}

impl Report {
    /// Says less until it has at most `limit` bytes as JSON; whether it had to.
    pub fn fit(&mut self, limit: usize) -> bool {
        if length(self) <= limit {
            return false;
        }
        for (at, less) in STEPS.iter().enumerate() {
            self.allocations.iter_mut().for_each(less);
            for operation in self.operations.iter_mut().filter(|_| at > 0) {
                if let Some(Ended::Refused { reason: text } | Ended::Unhealthy { problem: text }) =
                    &mut operation.outcome
                {
                    beginning(text, SHORT);
                }
            }
            if length(self) <= limit {
                break;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::report::{MAX_PATHS, MAX_TAIL, ObservedAction, ObservedBoot, Phase, Process};
    use super::super::{MAX_ALLOCATIONS, REPORT_CAP};
    use super::*;
    use crate::{ActionId, AllocId, BundleDigest};

    /// As bad as it can be.
    fn allocation(n: u128) -> ObservedAllocation {
        let said = |what: &str| Some(format!("{what} {n}\n").repeat(MAX_TAIL / 10).chars().take(MAX_TAIL).collect());
        let paths = |what: &str| {
            (0..MAX_PATHS).map(|at| format!("{what}/{}/{at}", "x".repeat(180)).parse().unwrap()).collect::<Vec<_>>()
        };
        let refused = |what: &str| Some(Outcome::Refused { reason: said(what).unwrap() });
        ObservedAllocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(n)),
            job: format!("{n:a>63}").parse().unwrap(),
            bundle: Some(BundleDigest::from_bytes([7; 32])),
            version: Some("10.20.30-candidate.4".into()),
            purged: false,
            phase: Phase::Running,
            process: Process::Failed,
            action: Some(ObservedAction {
                id: ActionId::from_uuid(Uuid::from_u128(n)),
                outcome: refused("reason"),
                started_ms: 1_900_000_000_000,
                duration_ms: 300_000,
                tail: said("output"),
            }),
            problem: said("problem"),
            boot: Some(ObservedBoot {
                outcome: refused("reason"),
                started_ms: 1_900_000_000_000,
                duration_ms: 300_000,
                tail: said("boot"),
            }),
            unhealed: paths("unhealed"),
            drift: paths("drift"),
            unmanaged: paths("unmanaged"),
            health: None,
            fetched: None,
        }
    }

    fn report(count: usize) -> Report {
        let worst = allocation(7);
        let one = |n: u128| ObservedAllocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(n)),
            job: format!("{n:a>63}").parse().unwrap(),
            ..worst.clone()
        };
        let allocations = (0..count as u128).map(one).collect();
        Report {
            agent_version: "1.0.0".into(),
            session: 1,
            number: 1,
            boot_id: Uuid::nil(),
            clock_ms: 1_900_000_000_000,
            accepted: None,
            essence: None,
            refused: None,
            allocations,
            operations: vec![],
            facts: None,
        }
    }

    #[test]
    fn a_worker_with_all_allocations_in_trouble_is_heard_of() {
        for count in [50, MAX_ALLOCATIONS] {
            let whole = report(count);
            let mut said = whole.clone();
            assert!(length(&said) > REPORT_CAP, "{count}");
            assert!(said.fit(REPORT_CAP));
            assert!(length(&said) <= REPORT_CAP, "{count}: {} bytes", length(&said));
            assert_eq!(said.allocations.len(), count);
            for (fitted, whole) in said.allocations.iter().zip(whole.allocations) {
                assert_eq!(fitted.action.as_ref().map(|action| action.id), whole.action.map(|action| action.id));
                assert_eq!((fitted.bundle, fitted.process, &fitted.job), (whole.bundle, whole.process, &whole.job));
                assert!(!fitted.drift.is_empty() && !fitted.unhealed.is_empty());
            }
            assert!(serde_json::to_string(&said).unwrap().contains(LEFT_OUT));
        }
    }

    #[test]
    fn no_more_than_must_be_is_left_out() {
        let mut small = report(5);
        assert!(!small.fit(REPORT_CAP));
        assert_eq!(small, report(5));
        let mut some = report(50);
        some.fit(REPORT_CAP);
        let tail = some.allocations[7].action.as_ref().unwrap().tail.as_ref().unwrap();
        assert!(tail.starts_with(LEFT_OUT) && tail.ends_with("\noutput 7\noutput 7\n"), "{tail}");
        assert!(tail.len() < MAX_TAIL / 4);
        assert_eq!(some.allocations[7].drift.len(), MAX_PATHS);
    }
}
