//! Decides whether a step may begin now. What a rollout asked for begins only while the controller's word that it
//! still holds is fresh: a worker that comes out of a partition, or whose agent was started anew, asks first, so
//! that nothing is done after its batch was given up (`shared::api::LEASE_MS` has the sum).

use serde::{Deserialize, Serialize};
use shared::api::v1::desired::{Fence, Hold};
use shared::text::clean;

use super::{Place, Row, Step};

/// A moment, by two clocks: the steady one stands still while a machine is frozen, and the other one may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Since the machine was started, sleep included, milliseconds.
    pub steady_ms: u64,
    /// Since 1970 UTC, milliseconds.
    pub wall_ms: i64,
}

impl Moment {
    /// Whether neither clock is there yet, of the same start of the same machine.
    pub fn is_ahead_of(self, now: Self) -> bool {
        now.steady_ms < self.steady_ms && now.wall_ms < self.wall_ms
    }

    /// What is left until this moment at `now`, for another process.
    pub fn left(self, now: Self) -> Left {
        Left {
            until_steady_ms: self.steady_ms,
            by_wall_ms: u64::try_from(self.wall_ms.saturating_sub(now.wall_ms)).unwrap_or(0),
        }
    }

    fn after_ms(self, ms: u64) -> Self {
        let wall_ms = self.wall_ms.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX));
        Self { steady_ms: self.steady_ms.saturating_add(ms), wall_ms }
    }
}

/// How long something holds yet, as one process writes it down for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Until when by the steady clock.
    pub until_steady_ms: u64,
    /// How long by the wall clock, from when it was written down: by the file's own time, which one clock gives.
    pub by_wall_ms: u64,
}

impl Left {
    /// Whether it is over, `since_ms` after it was written down by the wall clock.
    pub fn is_over(self, steady_ms: u64, since_ms: i64) -> bool {
        steady_ms >= self.until_steady_ms || u64::try_from(since_ms).unwrap_or(0) >= self.by_wall_ms
    }
}

/// The controller's word that a desired state is its newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Which.
    pub fence: Fence,
    /// When the request was sent whose answer said so.
    pub asked: Moment,
    /// For how long after that it is good, milliseconds.
    pub lease_ms: u64,
}

impl Grant {
    /// Whether it is good for `fence` at `now`.
    pub fn covers(&self, fence: Fence, now: Moment) -> bool {
        self.until(fence, now).is_some()
    }

    /// Until when it is good for `fence`, if it is at `now`.
    pub fn until(&self, fence: Fence, now: Moment) -> Option<Moment> {
        let until = self.asked.after_ms(self.lease_ms);
        (self.fence == fence && until.is_ahead_of(now)).then_some(until)
    }
}

/// Whether `step` begins something that a rollout asked for. What was begun is finished, whoever is away.
pub fn begins(step: &Step, row: &Row) -> bool {
    match step {
        Step::Nothing | Step::Resume(_) => false,
        Step::Place(_) => !matches!(row.place, Place::Applying { .. }),
        Step::Run(_) | Step::Complete(_) | Step::RemoveFiles | Step::RemoveTree => true,
    }
}

/// Why an operator wants nothing changed on the worker, while that lasts.
pub fn on_hold(hold: Option<&Hold>, now_ms: i64) -> Option<String> {
    hold.filter(|hold| now_ms < hold.until_ms).map(|hold| clean(&hold.reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Running;
    use shared::api::v1::desired::DesiredAction;
    use shared::{ActionId, ActionKind, AllocId, BundleDigest, RunId};
    use uuid::Uuid;

    fn fence(generation: u64) -> Fence {
        Fence { epoch: 1, update_seq: 2, generation }
    }

    #[test]
    fn a_word_is_good_for_one_state_and_for_a_while() {
        let at = |steady_ms, wall_ms| Moment { steady_ms, wall_ms };
        let grant = Grant { fence: fence(3), asked: at(1_000, 50_000), lease_ms: 5_000 };
        for (of, now, good, why) in [
            (fence(3), at(1_000, 50_000), true, "at once"),
            (fence(3), at(5_999, 54_999), true, "until its end"),
            (fence(3), at(6_000, 50_000), false, "and no longer"),
            (fence(3), at(1_001, 55_000), false, "a frozen machine's steady clock stood still"),
            (fence(3), at(1_001, 10), true, "a clock that was set back says nothing"),
            (fence(4), at(1_000, 50_000), false, "another state"),
            (fence(2), at(1_000, 50_000), false, "an older one"),
        ] {
            assert_eq!(grant.covers(of, now), good, "{why}");
        }
        let none = Grant { lease_ms: 0, ..grant };
        assert!(!none.covers(fence(3), at(1_000, 50_000)), "the controller does not stand by it");
    }

    #[test]
    fn what_is_left_holds_for_another_process_whatever_its_wall_clock_says() {
        let until = Moment { steady_ms: 6_000, wall_ms: 55_000 };
        let left = until.left(Moment { steady_ms: 2_000, wall_ms: 51_000 });
        for (steady_ms, since_ms, over, why) in [
            (2_000, 0, false, "at once"),
            (5_999, 3_999, false, "until its end"),
            (6_000, 10, true, "by the steady clock"),
            (2_001, 4_000, true, "a frozen machine's steady clock stood still"),
            (2_001, -100, false, "a clock that was set back says nothing"),
        ] {
            assert_eq!(left.is_over(steady_ms, since_ms), over, "{why}");
        }
        assert!(until.left(Moment { steady_ms: 1, wall_ms: 60_000 }).is_over(2, 0), "over before it was written down");
    }

    #[test]
    fn a_hold_ends_by_itself() {
        let hold = Hold { until_ms: 100, reason: "the disk is being replaced".into() };
        assert_eq!(on_hold(Some(&hold), 99).as_deref(), Some("the disk is being replaced"));
        assert_eq!(on_hold(Some(&hold), 100), None);
        assert_eq!(on_hold(None, 0), None);
    }

    #[test]
    fn what_was_begun_needs_no_word_and_everything_else_does() {
        let digest = BundleDigest::from_bytes([1; 32]);
        let action = DesiredAction {
            id: ActionId::from_uuid(Uuid::from_u128(1)),
            kind: ActionKind::Restart,
            timeout_s: 1,
            run_id: RunId::from_uuid(Uuid::from_u128(2)),
        };
        let row = |place| Row { place, ..Row::new(AllocId::from_uuid(Uuid::from_u128(3)), "api".parse().unwrap()) };
        let (whole, applying) = (row(Place::Whole(digest)), row(Place::Applying { to: digest }));
        let running = Step::Resume(Running { action: action.clone(), started_ms: 0, after_boot: false });
        for (step, row, expected) in [
            (Step::Nothing, &whole, false),
            (running, &whole, false),
            (Step::Place(digest), &applying, false),
            (Step::Place(digest), &whole, true),
            (Step::Place(digest), &row(Place::Empty), true),
            (Step::Run(action.clone()), &whole, true),
            (Step::Run(action.clone()), &applying, true),
            (Step::Complete(action), &whole, true),
            (Step::RemoveFiles, &whole, true),
            (Step::RemoveTree, &whole, true),
        ] {
            assert_eq!(begins(&step, row), expected, "{step:?}");
        }
    }
}
