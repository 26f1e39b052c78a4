//! Edge: starts what should run after the machine was booted. Each start is on record before it begins, and there
//! is one of it for each boot.
#![expect(clippy::disallowed_methods, reason = "edge: waits for what runs")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shared::api::v1::desired::{DesiredAction, DesiredAllocation, DesiredState, RunState};
use shared::api::v1::logs::Source;
use shared::api::v1::report::{ObservedBoot, Outcome, Phase, Process};
use shared::diagnostic::chain;
use shared::{ActionId, ActionKind, AllocId, RunId};
use uuid::Uuid;

use super::{Held, Workshop, environment, lock};
use crate::apply::drift;
use crate::apply::tree::Tree;
use crate::logs::Shipping;
use crate::reconcile::boot::{Stage, Start, Waves, owes};
use crate::reconcile::{Place, Row, Running};
use crate::{clock, failpoint, run};

/// Time limit of a start where the last deploy named none, seconds.
const LIMIT_S: u64 = 300;
/// How often waves are looked at that nothing moves in.
const LOOK: Duration = Duration::from_millis(500);

impl Workshop {
    /// Looks whether the machine was booted since the agent last ran, and lets what should run be started.
    pub fn boot(self: &Arc<Self>, boot_id: Uuid) {
        let owed = match self.note_boot(boot_id) {
            Ok(owed) => owed,
            Err(error) => return tracing::error!(error = chain(&error), "ledger_unusable"),
        };
        if owed == 0 {
            return;
        }
        tracing::info!(allocations = owed, %boot_id, "starting_after_boot");
        let shop = self.clone();
        let name = std::thread::Builder::new().name("boot".into()).stack_size(512 << 10);
        if let Err(error) = name.spawn(move || shop.start_in_waves()) {
            tracing::error!(%error, "thread_failed");
        }
    }

    /// Writes down what is owed a start, once for each boot; how many have not ended.
    fn note_boot(&self, boot_id: Uuid) -> crate::state::ledger::Result<usize> {
        let known = self.ledger.boot_id()?;
        let mut rows = self.ledger.rows()?;
        if known != Some(boot_id) {
            let desired = self.desired();
            for row in &mut rows {
                let wanted = desired.allocations.iter().find(|wanted| wanted.alloc_id == row.alloc_id);
                // The first start of an agent that knows of boots only takes note of this one.
                let owed = known.is_some() && wanted.is_some_and(|wanted| owes(wanted, row));
                row.boot = owed.then(ObservedBoot::default);
                if owed && row.running.is_none() {
                    // Nothing of it runs; what it was before says no more.
                    row.process = Process::Unknown;
                }
            }
            self.ledger.booted(boot_id, &rows)?;
        }
        Ok(rows.iter().filter(|row| row.boot.as_ref().is_some_and(|boot| boot.outcome.is_none())).count())
    }

    fn start_in_waves(self: &Arc<Self>) {
        let mut waves = Waves::default();
        let begin = clock::instant();
        loop {
            let seen = *lock(&self.moved.0);
            let open = match self.open_starts() {
                Ok(open) => open,
                Err(error) => {
                    tracing::error!(error = chain(&error), "ledger_unreadable");
                    self.pause(seen, LOOK);
                    continue;
                }
            };
            if open.is_empty() {
                return tracing::info!("started_after_boot");
            }
            let now_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
            let turns = waves.turns(&open, now_ms);
            if !turns.is_empty() {
                lock(&self.turns).extend(turns);
                // Whoever works on one of them, or waits for the controller to go on with it, looks again.
                self.try_again();
                self.dispatch();
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What has not ended of this boot's starts, as it is wanted by now.
    fn open_starts(&self) -> crate::state::ledger::Result<Vec<Start>> {
        let desired = self.desired();
        let wanted: BTreeMap<AllocId, &DesiredAllocation> =
            desired.allocations.iter().map(|wanted| (wanted.alloc_id, wanted)).collect();
        let begun = lock(&self.turns).clone();
        let start = |row: &Row| {
            let wanted = wanted.get(&row.alloc_id)?;
            let is_open = row.boot.as_ref()?.outcome.is_none() && wanted.state == RunState::Running;
            is_open.then(|| Start {
                alloc_id: row.alloc_id,
                seq: wanted.deployment_seq,
                limit_ms: limit_s(wanted).saturating_mul(1000),
                stage: if begun.contains(&row.alloc_id) { Stage::Begun } else { Stage::Waits },
            })
        };
        Ok(self.ledger.rows()?.iter().filter_map(start).collect())
    }

    /// Whether an allocation's start after the boot is to be done now.
    pub(super) fn is_to_start(&self, wanted: &DesiredAllocation, row: &Row) -> bool {
        row.running.is_none()
            && !self.client.heard().is_held()
            && wanted.state == RunState::Running
            && matches!(row.place, Place::Whole(_))
            && row.boot.as_ref().is_some_and(|boot| boot.outcome.is_none())
            && lock(&self.turns).contains(&row.alloc_id)
    }

    /// `make start`, with the files that are in place, all of which must be there: one that was edited is as the
    /// operator left it and is reported, one that is gone is fetched first.
    pub(super) fn start_after_boot(
        &self,
        desired: &DesiredState,
        wanted: &DesiredAllocation,
        mut row: Row,
    ) -> Result<(), Held> {
        let apply = |error: &dyn std::error::Error| Held::Apply(chain(error));
        let tree = Tree::open(&self.layout.job(&row.job), false).map_err(|error| apply(&error))?;
        let found = drift::inspect(&tree, &row.list, |_| {}).map_err(|error| apply(&error))?;
        if !found.missing.is_empty() {
            let names = found.missing.iter().take(3).map(|path| path.as_str()).collect::<Vec<_>>().join(", ");
            tracing::warn!(job = %row.job, missing = names, "files_missing_after_boot");
            return self.put_back(wanted, row, &found.missing).map_err(|held| {
                Held::Apply(format!(
                    "it is not started: {} of its files are gone ({names}); {held}",
                    found.missing.len()
                ))
            });
        }
        (row.drift, row.unmanaged) = (found.drifted(), found.unmanaged);
        self.transient.phase(row.alloc_id, &row.job, Phase::Running);
        let (id, run_id) = (ActionId::from_uuid(clock::random_uuid()), RunId::from_uuid(clock::random_uuid()));
        let action = DesiredAction { id, kind: ActionKind::Start, timeout_s: limit_s(wanted), run_id };
        let started_ms = clock::now_ms();
        row.boot = Some(ObservedBoot { started_ms, ..ObservedBoot::default() });
        row.running = Some(Running { action: action.clone(), started_ms, after_boot: true });
        // Durable before make starts: there is one start for each boot.
        self.save(&row)?;
        failpoint::hit("boot::recorded");
        let version = row.version.clone();
        let here = DesiredAllocation { current_version: version.clone(), new_version: version, ..wanted.clone() };
        let dir = self.layout.run(&id.to_string());
        let target = ActionKind::Start.word().to_owned();
        let spec = run::Spec {
            dir: self.layout.job(&row.job),
            program: run::Program::Make { target },
            timeout_s: action.timeout_s,
            env: environment(desired, &here),
            // What the logs call it: an action of no deploy.
            source: Source::Action { action_id: id, job: row.job.clone(), target: "boot".to_owned() },
            run_id,
            until: None,
            left: None,
        };
        let scope = run::scope(row.job.as_str(), &id.to_string());
        let mut shipping = Shipping::new(&dir, &spec);
        let tick = || drop(shipping.send(&self.net, &self.client, false));
        let ended = run::perform(&dir, &spec, scope.as_deref(), tick).unwrap_or_else(|error| {
            run::Ended::without(Outcome::Refused { reason: format!("make start cannot be started: {error}") })
        });
        self.ended(row, &action, started_ms, &dir, ended, Some(shipping))
    }
}

fn limit_s(wanted: &DesiredAllocation) -> u64 {
    wanted.action.as_ref().map_or(LIMIT_S, |action| action.timeout_s)
}
