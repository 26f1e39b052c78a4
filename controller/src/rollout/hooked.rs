//! A job's hooks on its way through a rollout: when they are called, for whom, and what follows from how they
//! ended.

use shared::{ActionKind, AllocId};

use super::event::{Call, Effect, Ids, Moved, Stage};
use super::flight::{Fate, Why};
use super::job::{End, JobRollout, Phase};
use crate::model::{HookEvent, PostDeploy};
use crate::plan::{JobPlan, Move};

impl JobRollout {
    /// Calls the hooks of `stage`.
    pub(super) fn call(&mut self, stage: Stage, effects: &mut Vec<Effect>) {
        self.set(Phase::Hooks { stage });
        effects.push(self.moved(None, Moved::Hooks(stage.event())));
        effects.push(Effect::Hooks(self.hooks_of(stage)));
    }

    fn hooks_of(&self, stage: Stage) -> Call {
        let starts = |batch: usize| self.plan.batches.get(batch).is_some_and(|b| is_start(b));
        let (targets, batch) = match stage {
            Stage::PreDeploy | Stage::PostDeploy => (None, None),
            Stage::JobControl { .. } => (None, None),
            Stage::Stopped => (Some(self.stopped().collect()), None),
            Stage::Started { batch } => {
                let kind = starts(batch);
                let of_kind: Vec<usize> = (0..self.plan.batches.len()).filter(|n| starts(*n) == kind).collect();
                let number = of_kind.iter().position(|n| *n == batch).unwrap_or_default();
                (Some(self.ran(batch).collect()), Some((number, of_kind.len(), kind)))
            }
            Stage::Health { batch, .. } => (Some(self.looked_at(batch).collect()), None),
        };
        Call { job: self.plan.job.clone(), stage, targets, batch }
    }

    /// What a driver that takes over asks for again: hooks that the one before it had begun.
    pub(super) fn rouse(&self, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Hooks { stage } => effects.push(Effect::Hooks(self.hooks_of(stage))),
            Phase::Deciding => effects.push(Effect::Decide { job: self.plan.job.clone() }),
            _ => {}
        }
    }

    /// Hooks have ended.
    pub(super) fn hooked(
        &mut self,
        stage: Stage,
        failures: &[(Option<AllocId>, String)],
        now_ms: i64,
        ids: &mut impl Ids,
        effects: &mut Vec<Effect>,
    ) {
        if self.phase != (Phase::Hooks { stage }) {
            return;
        }
        let why = |event: HookEvent| {
            let said: Vec<String> = failures.iter().map(|(_, text)| text.clone()).collect();
            Some(format!("{}: {}", event.word(), said.join("; ")))
        };
        match stage {
            Stage::PreDeploy if failures.is_empty() => {
                self.set(Phase::Deciding);
                effects.push(Effect::Decide { job: self.plan.job.clone() });
            }
            Stage::PostDeploy => {
                let good = failures.is_empty();
                let status = if good { PostDeploy::Success } else { PostDeploy::Failed };
                effects.push(Effect::PostDeploy { job: self.plan.job.clone(), status });
                let end = if good { End::Done } else { End::Failed { why: why(stage.event()) } };
                self.finish(end, effects);
            }
            Stage::Stopped => {
                for (alloc, text) in failures {
                    let hit: Vec<AllocId> = alloc.map_or_else(|| self.stopped().collect(), |alloc| vec![alloc]);
                    let why = format!("{}: {text}", stage.event().word());
                    hit.into_iter().for_each(|alloc| self.fail(alloc, Why::Hook { problem: why.clone() }, effects));
                }
                // Not before: a stop whose hooks failed is done again, and they with it.
                effects.extend(self.stopped().map(|alloc_id| Effect::Stopped { alloc_id }));
                self.release_removals(now_ms, ids, effects);
            }
            Stage::Started { batch } if failures.is_empty() => self.set(Phase::Gate { batch }),
            Stage::JobControl { batch } if failures.is_empty() => match self.plan.probes {
                true => self.release_judging(batch, now_ms, ids, effects),
                false => self.set(Phase::Gate { batch }),
            },
            Stage::Health { batch, .. } if failures.is_empty() => self.promote_batch(batch, effects),
            Stage::Health { batch, attempt } if attempt + 1 < self.plan.gate_attempts => {
                let due_ms = now_ms + self.plan.gate_interval_ms;
                self.set(Phase::Pause { batch, attempt: attempt + 1, due_ms });
            }
            // The batch is not promoted: its workers may have changed already.
            _ => {
                if let Stage::Health { batch, .. } = stage {
                    effects.extend(self.ran(batch).map(|alloc_id| Effect::Failed { alloc_id, unhealthy: true }));
                }
                self.finish(End::Failed { why: why(stage.event()) }, effects);
            }
        }
    }

    /// The plan that [`Effect::Decide`] asked for.
    pub(super) fn decided(
        &mut self,
        plan: &Result<Box<JobPlan>, String>,
        now_ms: i64,
        ids: &mut impl Ids,
        effects: &mut Vec<Effect>,
    ) {
        if self.phase != Phase::Deciding {
            return;
        }
        match plan {
            Ok(plan) => {
                self.plan = JobPlan::clone(plan);
                self.unsaved.plan = true;
                match self.plan.refused.clone() {
                    Some(why) => self.finish(End::Failed { why: Some(why) }, effects),
                    None if self.plan.post_deploy_only => self.call(Stage::PostDeploy, effects),
                    None => self.begin_to_move(now_ms, ids, effects),
                }
            }
            Err(why) => self.finish(End::Failed { why: Some(why.clone()) }, effects),
        }
    }

    /// What the health_check hooks of a batch's gate look at: the batch, and what was rolled before it.
    fn looked_at(&self, batch: usize) -> impl Iterator<Item = AllocId> {
        let before = self.plan.batches.iter().take(batch).flatten().map(|step| step.alloc_id);
        before
            .filter(|alloc| self.flights.get(alloc).is_some_and(|f| f.fate == Some(Fate::Settled)))
            .chain(self.ran(batch))
    }
}

/// Whether a batch is one of first starts.
fn is_start(batch: &[Move]) -> bool {
    batch.iter().any(|step| step.kind == ActionKind::Start)
}
