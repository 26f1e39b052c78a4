//! Decides what is started after a boot: what this worker's own accepted state says should run, in the order of
//! waves, controller or not. It is no rollout's action and needs no word of the controller.

use std::collections::BTreeMap;

use shared::api::v1::desired::{DesiredAllocation, RunState};
use shared::api::v1::report::{Outcome, Process};
use shared::{ActionKind, AllocId};

use super::{Place, Row};

/// Most starts that run at once.
pub const AT_ONCE: usize = 4;
/// Time beyond their limits that the starts of a wave are waited for, milliseconds.
const GRACE_MS: u64 = 30_000;

/// Whether the machine's boot ended a process that is to be there: the allocation is wanted running, and was
/// started, or nobody knows that it was not.
pub fn owes(wanted: &DesiredAllocation, row: &Row) -> bool {
    let starts = |kind: ActionKind| matches!(kind, ActionKind::Start | ActionKind::Restart | ActionKind::Reload);
    let cut_off = row.running.as_ref().is_some_and(|running| running.after_boot || starts(running.action.kind))
        || row.action.as_ref().is_some_and(|last| last.outcome == Some(Outcome::Interrupted))
        || row.boot.as_ref().is_some_and(|boot| matches!(boot.outcome, None | Some(Outcome::Interrupted)));
    let may_run = match row.process {
        Process::Started | Process::Failed => true,
        Process::Stopped => false,
        // Never started, unless its start was what the boot cut off.
        Process::Unknown => cut_off,
    };
    wanted.state == RunState::Running && !wanted.disabled && row.place != Place::Empty && may_run
}

/// How far an allocation's start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its turn has not come.
    Waits,
    /// It was given its turn.
    Begun,
}

/// An allocation that is to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Which.
    pub alloc_id: AllocId,
    /// Its wave.
    pub seq: u32,
    /// How long its target may take, milliseconds.
    pub limit_ms: u64,
    /// How far it is.
    pub stage: Stage,
}

/// The waves of one boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waves {
    /// Since when each wave is under way, and how long it is waited for.
    begun: BTreeMap<u32, (u64, u64)>,
}

impl Waves {
    /// Whose turn it is at `now_ms`, of those that have not ended: the lowest wave's, and that of waves which were
    /// waited for long enough. One that ended, well or not, is not in `open` any more.
    pub fn turns(&mut self, open: &[Start], now_ms: u64) -> Vec<AllocId> {
        let mut starts: Vec<&Start> = open.iter().collect();
        starts.sort_by_key(|start| (start.seq, start.alloc_id));
        let mut free = AT_ONCE.saturating_sub(starts.iter().filter(|start| start.stage == Stage::Begun).count());
        let mut turns = Vec::new();
        let mut waves: Vec<u32> = starts.iter().map(|start| start.seq).collect();
        waves.dedup();
        for seq in waves {
            let of_wave: Vec<&&Start> = starts.iter().filter(|start| start.seq == seq).collect();
            let rounds = of_wave.len().div_ceil(AT_ONCE) as u64;
            let limit_ms = of_wave.iter().map(|start| start.limit_ms).max().unwrap_or(0);
            let limit_ms = limit_ms.saturating_mul(rounds).saturating_add(GRACE_MS);
            let (since_ms, limit_ms) = *self.begun.entry(seq).or_insert((now_ms, limit_ms));
            for start in of_wave.iter().filter(|start| start.stage == Stage::Waits) {
                if free > 0 {
                    free -= 1;
                    turns.push(start.alloc_id);
                }
            }
            if now_ms.saturating_sub(since_ms) < limit_ms {
                break;
            }
            // What hangs holds nobody up for ever, its place among those that run at once included.
            free = free.max(1);
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Running;
    use shared::api::v1::desired::DesiredAction;
    use shared::api::v1::report::{ObservedAction, ObservedBoot};
    use shared::{ActionId, BundleDigest, RunId};
    use uuid::Uuid;

    fn alloc(n: u128) -> AllocId {
        AllocId::from_uuid(Uuid::from_u128(n))
    }

    fn wanted(state: RunState) -> DesiredAllocation {
        DesiredAllocation {
            alloc_id: alloc(1),
            job: "api".parse().unwrap(),
            state,
            disabled: false,
            deployment_seq: 0,
            self_heal: false,
            bundle: None,
            current_version: "0.0.0".into(),
            new_version: "1.0.0".into(),
            dir_mode: None,
            health: None,
            action: None,
        }
    }

    fn row(process: Process) -> Row {
        let place = Place::Whole(BundleDigest::from_bytes([1; 32]));
        Row { place, process, ..Row::new(alloc(1), "api".parse().unwrap()) }
    }

    fn cut_off(mut row: Row) -> Row {
        let id = ActionId::from_uuid(Uuid::from_u128(1));
        let outcome = Some(Outcome::Interrupted);
        row.action = Some(ObservedAction { id, outcome, started_ms: 0, duration_ms: 0, tail: None });
        row
    }

    fn under_way(mut row: Row, kind: ActionKind) -> Row {
        let (id, run_id) = (ActionId::from_uuid(Uuid::from_u128(1)), RunId::from_uuid(Uuid::from_u128(2)));
        let action = DesiredAction { id, kind, timeout_s: 1, run_id };
        row.running = Some(Running { action, started_ms: 0, after_boot: false });
        row
    }

    #[test]
    fn what_should_run_and_was_started_is_owed_a_start() {
        use Process::{Failed, Started, Stopped, Unknown};
        let run = wanted(RunState::Running);
        let pending = |outcome| Row { boot: Some(ObservedBoot { outcome, ..ObservedBoot::default() }), ..row(Unknown) };
        let applying = Place::Applying { to: BundleDigest::from_bytes([2; 32]) };
        for (wanted, row, owed, why) in [
            (&run, row(Started), true, "it ran"),
            (&run, row(Failed), true, "its last target failed, and something of it may have run"),
            (&run, row(Stopped), false, "somebody stopped it"),
            (&run, row(Unknown), false, "it was never started: that is the deploy's to do"),
            (&run, cut_off(row(Unknown)), true, "the power went while it was started"),
            (&run, under_way(row(Unknown), ActionKind::Start), true, "the same, and nobody has looked yet"),
            (&run, under_way(row(Stopped), ActionKind::Stop), false, "a stop was cut off"),
            (&run, pending(None), true, "the boot before ended before its turn"),
            (&run, pending(Some(Outcome::Interrupted)), true, "the boot before ended while it was started"),
            (&run, Row { place: Place::Empty, ..row(Started) }, false, "it has no files"),
            (&run, Row { place: applying, ..row(Started) }, true, "its files come first, then its start"),
            (&wanted(RunState::Stopped), row(Started), false, "drained"),
            (&wanted(RunState::Absent), row(Started), false, "to be removed"),
            (&wanted(RunState::Purged), row(Started), false, "to be purged"),
            (&DesiredAllocation { disabled: true, ..wanted(RunState::Running) }, row(Started), false, "being drained"),
        ] {
            assert_eq!(owes(wanted, &row), owed, "{why}");
        }
    }

    fn start(n: u128, seq: u32, stage: Stage) -> Start {
        Start { alloc_id: alloc(n), seq, limit_ms: 10_000, stage }
    }

    #[test]
    fn waves_follow_each_other_and_none_waits_for_ever() {
        use Stage::{Begun, Waits};
        let mut waves = Waves::default();
        let all = [start(3, 1, Waits), start(1, 0, Waits), start(2, 0, Waits)];
        assert_eq!(waves.turns(&all, 0), [alloc(1), alloc(2)], "the lowest wave, side by side");
        let first = [start(3, 1, Waits), start(1, 0, Begun), start(2, 0, Begun)];
        assert_eq!(waves.turns(&first, 5_000), [], "the next one waits");
        // The first ended badly: it is not open any more, and holds nobody up.
        assert_eq!(waves.turns(&[start(3, 1, Waits), start(2, 0, Begun)], 6_000), []);
        assert_eq!(waves.turns(&[start(3, 1, Waits)], 7_000), [alloc(3)]);

        let mut waves = Waves::default();
        let stuck = [start(1, 0, Begun), start(3, 1, Waits), start(4, 2, Waits)];
        assert_eq!(waves.turns(&stuck, 0), []);
        assert_eq!(waves.turns(&stuck, 39_999), []);
        assert_eq!(waves.turns(&stuck, 40_000), [alloc(3)], "its limit and the grace are over");
        assert_eq!(waves.turns(&[start(1, 0, Begun), start(4, 2, Waits)], 40_001), [alloc(4)]);
    }

    #[test]
    fn no_more_at_once_than_may_be() {
        let all: Vec<Start> = (0..10).map(|n| start(n, 0, Stage::Waits)).collect();
        let mut waves = Waves::default();
        assert_eq!(waves.turns(&all, 0).len(), AT_ONCE);
        let some: Vec<Start> = (0..10).map(|n| start(n, 0, if n < 3 { Stage::Begun } else { Stage::Waits })).collect();
        assert_eq!(waves.turns(&some, 0).len(), 1);
    }
}
