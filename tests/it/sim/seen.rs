//! What of the world the planner and the machine are shown: desired rows, and reports.

use std::collections::BTreeMap;

use shared::api::v1::desired::{DesiredAction, DesiredAllocation, RunState};
use shared::api::v1::report::{ObservedAction, ObservedAllocation, Phase, Process};
use shared::{AllocId, RunId};
use uuid::Uuid;

use super::agents::{Agent, Told};
use super::world::World;

impl World {
    /// The desired rows that a planner looks at.
    pub(super) fn rows(&self) -> Vec<DesiredAllocation> {
        let row = |(alloc, told): (&AllocId, &Told)| {
            let release = told.release.as_ref()?;
            let (id, kind) = release.action;
            Some(DesiredAllocation {
                alloc_id: *alloc,
                job: "any".parse().unwrap(),
                state: release.state,
                disabled: release.disabled,
                bundle: release.bundle,
                current_version: release.current_version.clone(),
                new_version: release.new_version.clone(),
                action: Some(DesiredAction { id, kind, timeout_s: 1, run_id: RunId::from_uuid(Uuid::from_u128(1)) }),
                dir_mode: None,
                deployment_seq: 0,
                self_heal: false,
                health: None,
            })
        };
        self.told.iter().filter_map(row).filter(|row| row.state != RunState::Running).collect()
    }

    /// What agents that are there say.
    pub(super) fn reports(&self) -> BTreeMap<AllocId, ObservedAllocation> {
        let report = |(alloc, agent): (&AllocId, &Agent)| {
            let action = agent.last.clone().map(|(id, outcome)| ObservedAction {
                id,
                outcome,
                started_ms: 0,
                duration_ms: 0,
                tail: None,
            });
            let observed = ObservedAllocation {
                alloc_id: *alloc,
                job: "any".parse().unwrap(),
                bundle: agent.placed,
                version: None,
                purged: false,
                phase: Phase::Idle,
                process: Process::Unknown,
                action,
                problem: None,
                drift: vec![],
                unmanaged: vec![],
                boot: None,
                unhealed: vec![],
                health: None,
                fetched: None,
            };
            (*alloc, observed)
        };
        self.agents.iter().filter(|(_, agent)| agent.online).map(report).collect()
    }
}
