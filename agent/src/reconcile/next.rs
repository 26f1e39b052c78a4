//! Decides an allocation's next step. Asked again after every step until there is none, and again
//! after a crash: what was done shows in the row, so it is not done twice.

use shared::api::v1::desired::{DesiredAction, DesiredAllocation, RunState};
use shared::api::v1::report::{Outcome, Process};
use shared::{ActionKind, BundleDigest};

use super::{Place, Row, Running};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Everything is as it should be, or nothing may be done about it.
    Nothing,
    /// A make target was started before: learn what became of it.
    Resume(Running),
    /// Fetch the bundle and put its files in place.
    Place(BundleDigest),
    /// Run the action's make target.
    Run(DesiredAction),
    /// The action needs no make target: it is done now that the files are in place.
    Complete(DesiredAction),
    /// Remove what bundles put there, and `bin/`; keep `data/` and `logs/`.
    RemoveFiles,
    /// Remove the whole tree.
    RemoveTree,
}

/// The next step of the allocation that `desired` wants and of which `row` is known.
pub fn next(desired: &DesiredAllocation, row: &Row) -> Step {
    if let Some(running) = &row.running {
        return Step::Resume(running.clone());
    }
    // An id runs at most once, whatever became of it.
    let action = desired.action.as_ref().filter(|action| row.action.as_ref().is_none_or(|last| last.id != action.id));
    let act = |action: &DesiredAction| match action.kind.make_target() {
        Some(_) => Step::Run(action.clone()),
        None => Step::Complete(action.clone()),
    };
    match desired.state {
        // A stop runs with the files that the job was started with, so before any others come; where nothing
        // was ever put in place there is nothing to stop.
        RunState::Stopped if action.is_some_and(|action| action.kind == ActionKind::Stop) => {
            match (action, row.place) {
                (Some(action), Place::Empty) => Step::Complete(action.clone()),
                (Some(action), Place::Whole(_)) => Step::Run(action.clone()),
                (Some(action), Place::Applying { .. }) if row.process == Process::Unknown => {
                    Step::Complete(action.clone())
                }
                (_, Place::Applying { to }) => Step::Place(to),
                (None, _) => Step::Nothing,
            }
        }
        RunState::Running | RunState::Stopped => match (desired.bundle, row.place) {
            // Forward only: what was begun is finished first, even if something else is wanted by now.
            (Some(bundle), Place::Applying { .. } | Place::Empty) => Step::Place(bundle),
            (Some(bundle), Place::Whole(placed)) if placed != bundle => Step::Place(bundle),
            (Some(_), Place::Whole(_)) => action.map_or(Step::Nothing, act),
            // Taken back: what was begun is still finished, what is whole stays as it is.
            (None, Place::Applying { to }) => Step::Place(to),
            (None, _) => Step::Nothing,
        },
        RunState::Absent => match (action, row.place) {
            (Some(action), Place::Whole(_)) => act(action),
            // Half-way to a bundle, over one that was started: what is there is what there is to stop it with.
            (Some(action), Place::Applying { .. }) if row.process != Process::Unknown => act(action),
            (Some(action), _) => Step::Complete(action.clone()),
            (None, Place::Empty) if row.leaving.is_empty() => Step::Nothing,
            // What could not be stopped keeps its files: the controller decides.
            (None, _) if stop_failed(desired, row) => Step::Nothing,
            (None, _) => Step::RemoveFiles,
        },
        // Once: the row stays until the controller, which was told, names the allocation no more.
        RunState::Purged if row.purged => Step::Nothing,
        RunState::Purged => Step::RemoveTree,
    }
}

fn stop_failed(desired: &DesiredAllocation, row: &Row) -> bool {
    let wanted = desired.action.as_ref().map(|action| action.id);
    row.action.as_ref().is_some_and(|last| Some(last.id) == wanted && last.outcome != Some(Outcome::Ok))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::api::v1::report::ObservedAction;
    use shared::{ActionId, AllocId, RunId};
    use uuid::Uuid;

    fn digest(n: u8) -> BundleDigest {
        BundleDigest::from_bytes([n; 32])
    }

    fn action(n: u128, kind: ActionKind) -> DesiredAction {
        let run_id = RunId::from_uuid(Uuid::from_u128(9));
        DesiredAction { id: ActionId::from_uuid(Uuid::from_u128(n)), kind, timeout_s: 300, run_id }
    }

    fn desired(state: RunState, bundle: Option<u8>, action: Option<DesiredAction>) -> DesiredAllocation {
        DesiredAllocation {
            alloc_id: AllocId::from_uuid(Uuid::from_u128(1)),
            job: "api".parse().unwrap(),
            state,
            disabled: false,
            bundle: bundle.map(digest),
            current_version: "0.0.0".into(),
            new_version: "1.0.0".into(),
            dir_mode: None,
            deployment_seq: 0,
            self_heal: false,
            health: None,
            action,
        }
    }

    fn row(place: Place, last: Option<u128>) -> Row {
        let mut row = Row::new(AllocId::from_uuid(Uuid::from_u128(1)), "api".parse().unwrap());
        row.place = place;
        row.action = last.map(|n| ObservedAction {
            id: ActionId::from_uuid(Uuid::from_u128(n)),
            outcome: Some(Outcome::Failed { exit: 1 }),
            started_ms: 0,
            duration_ms: 0,
            tail: None,
        });
        row
    }

    fn ok(mut row: Row) -> Row {
        if let Some(action) = &mut row.action {
            action.outcome = Some(Outcome::Ok);
        }
        row
    }

    fn purged(mut row: Row) -> Row {
        row.purged = true;
        row
    }

    fn started(mut row: Row) -> Row {
        row.process = Process::Started;
        row
    }

    #[test]
    fn every_row_of_the_table() {
        use RunState::{Absent, Purged, Running as Run, Stopped};
        let start = || action(1, ActionKind::Start);
        let sync = || action(1, ActionKind::Sync);
        let stop = || action(1, ActionKind::Stop);
        let whole = Place::Whole(digest(1));
        let applying = Place::Applying { to: digest(1) };
        let table = [
            // not released yet
            (desired(Run, None, None), row(Place::Empty, None), Step::Nothing),
            // first deploy
            (desired(Run, Some(1), Some(start())), row(Place::Empty, None), Step::Place(digest(1))),
            (desired(Run, Some(1), Some(start())), row(applying, None), Step::Place(digest(1))),
            (desired(Run, Some(1), Some(start())), row(whole, None), Step::Run(start())),
            // an id runs once, even when it failed
            (desired(Run, Some(1), Some(start())), row(whole, Some(1)), Step::Nothing),
            (desired(Run, Some(1), Some(start())), row(whole, Some(7)), Step::Run(start())),
            // an update; files without an action
            (desired(Run, Some(2), Some(start())), row(whole, Some(7)), Step::Place(digest(2))),
            (desired(Run, Some(2), None), row(whole, Some(7)), Step::Place(digest(2))),
            (desired(Run, Some(1), None), row(whole, Some(7)), Step::Nothing),
            (desired(Run, Some(1), Some(sync())), row(whole, None), Step::Complete(sync())),
            // taken back: nothing new, and nothing half done
            (desired(Run, None, None), row(whole, Some(7)), Step::Nothing),
            (desired(Run, None, None), row(applying, None), Step::Place(digest(1))),
            // drained: stopped with what it runs on, before other files come
            (desired(Stopped, Some(1), Some(stop())), row(whole, None), Step::Run(stop())),
            (desired(Stopped, Some(2), Some(stop())), row(whole, None), Step::Run(stop())),
            (desired(Stopped, Some(2), Some(stop())), ok(row(whole, Some(1))), Step::Place(digest(2))),
            (desired(Stopped, None, Some(stop())), row(whole, None), Step::Run(stop())),
            (desired(Stopped, None, Some(stop())), ok(row(whole, Some(1))), Step::Nothing),
            (desired(Stopped, Some(1), Some(stop())), row(Place::Empty, None), Step::Complete(stop())),
            (desired(Stopped, Some(1), Some(stop())), row(applying, None), Step::Complete(stop())),
            (desired(Stopped, Some(1), Some(stop())), started(row(applying, None)), Step::Place(digest(1))),
            (desired(Stopped, Some(2), Some(sync())), row(whole, None), Step::Place(digest(2))),
            // removed: stop, then files; nothing that was never there is stopped
            (desired(Absent, None, Some(stop())), row(whole, None), Step::Run(stop())),
            (desired(Absent, None, Some(stop())), row(Place::Empty, None), Step::Complete(stop())),
            (desired(Absent, None, Some(stop())), row(applying, None), Step::Complete(stop())),
            (desired(Absent, None, Some(stop())), started(row(applying, None)), Step::Run(stop())),
            (desired(Absent, None, Some(sync())), row(whole, None), Step::Complete(sync())),
            (desired(Absent, None, Some(stop())), ok(row(whole, Some(1))), Step::RemoveFiles),
            (desired(Absent, None, Some(stop())), row(whole, Some(1)), Step::Nothing),
            (desired(Absent, None, None), row(applying, None), Step::RemoveFiles),
            (desired(Absent, None, None), row(Place::Empty, None), Step::Nothing),
            (desired(Purged, None, None), row(whole, None), Step::RemoveTree),
            (desired(Purged, None, None), row(Place::Empty, None), Step::RemoveTree),
            (desired(Purged, None, None), purged(row(Place::Empty, None)), Step::Nothing),
            (desired(Run, Some(1), Some(start())), purged(row(Place::Empty, None)), Step::Place(digest(1))),
        ];
        for (n, (desired, row, step)) in table.into_iter().enumerate() {
            assert_eq!(next(&desired, &row), step, "row {n}");
        }
    }

    #[test]
    fn a_run_that_was_begun_is_settled_before_anything_else() {
        let mut known = row(Place::Whole(digest(1)), Some(1));
        let running = Running { action: action(1, ActionKind::Start), started_ms: 5, after_boot: false };
        known.running = Some(running.clone());
        for state in [RunState::Running, RunState::Absent, RunState::Purged] {
            assert_eq!(next(&desired(state, Some(2), None), &known), Step::Resume(running.clone()));
        }
    }
}
