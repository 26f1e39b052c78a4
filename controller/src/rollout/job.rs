//! One job's way through a rollout: stops and removals, then batch after batch, each with its gate, then
//! what is drained gets its files, then the hooks that look at the whole. What a batch proved good is
//! promoted whatever becomes of the rest; a job that may not go on leaves what was not begun alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::{ActionKind, AllocId, Host, JobName, WorkerId};

use super::event::{Effect, Ids, Moved, Probed, Stage};
use super::flight::{Fate, Flight, GRACE_MS, Why};
use crate::model::{HookEvent, PostDeploy};
use crate::plan::{JobPlan, Move, Rest};

/// A job in a rollout. The plan is written once, the phase with every step, a flight when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRollout {
    /// What is to be done.
    pub plan: JobPlan,
    /// How far it is.
    pub phase: Phase,
    /// Every release so far, the last one of each allocation.
    pub flights: BTreeMap<AllocId, Flight>,
    /// What probes said last; read anew by a driver that takes over.
    pub(super) probed: BTreeMap<AllocId, Probed>,
    /// Workers on which nothing is to be changed; read anew by a driver that takes over.
    pub(super) held: BTreeMap<WorkerId, String>,
    /// What the driver has not written yet.
    pub(super) unsaved: Unsaved,
    /// Since when this driver listens, milliseconds since 1970 UTC.
    pub(super) driven_ms: i64,
}

/// What changed since the driver wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsaved {
    /// The plan.
    pub plan: bool,
    /// The phase.
    pub phase: bool,
    /// These flights.
    pub flights: BTreeSet<AllocId>,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Its turn has not come.
    Held,
    /// Hooks run.
    Hooks {
        /// Which.
        stage: Stage,
    },
    /// It is planned anew, with what its pre_deploy hooks wrote.
    Deciding,
    /// Stops and removals are with their agents.
    Settling,
    /// What was stopped is being taken off its workers.
    Removing,
    /// Batch `batch` is to be released.
    Waiting {
        /// Counted from 0.
        batch: usize,
    },
    /// Batch `batch` is with its agents.
    Rolling {
        /// Counted from 0.
        batch: usize,
    },
    /// Agents of batch `batch` are told to judge anew what job_control hooks have made of it.
    Judging {
        /// Counted from 0.
        batch: usize,
    },
    /// What ran well of batch `batch` is probed.
    Gate {
        /// Counted from 0.
        batch: usize,
    },
    /// The health_check hooks of batch `batch` are tried again after a pause.
    Pause {
        /// Counted from 0.
        batch: usize,
        /// Tries so far.
        attempt: u32,
        /// When, milliseconds since 1970 UTC.
        due_ms: i64,
    },
    /// Drained allocations are given their files.
    Promoting,
    /// It has ended.
    Ended {
        /// How.
        end: End,
    },
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// Everything was done, or there was nothing to do; but for what its budgets allow to fail.
    Done,
    /// It stopped; what its flights say explains it where `why` does not.
    Failed {
        /// What failed for the job as a whole.
        why: Option<String>,
    },
    /// A job that it demands failed.
    Blocked {
        /// Which.
        by: JobName,
    },
    /// The operator ended the rollout.
    Aborted,
}

impl JobRollout {
    /// Nothing released yet.
    pub fn new(plan: JobPlan) -> Self {
        let unsaved = Unsaved { plan: true, phase: true, flights: BTreeSet::new() };
        Self { unsaved, ..Self::loaded(plan, Phase::Held, BTreeMap::new()) }
    }

    /// As it was written.
    pub fn loaded(plan: JobPlan, phase: Phase, flights: BTreeMap<AllocId, Flight>) -> Self {
        let (probed, held) = (BTreeMap::new(), BTreeMap::new());
        Self { plan, phase, flights, probed, held, unsaved: Unsaved::default(), driven_ms: 0 }
    }

    /// Somebody drives it from `now_ms` on: nothing of it is later than that.
    pub(super) fn taken_over(&mut self, now_ms: i64) {
        self.driven_ms = now_ms;
        self.flights.values_mut().for_each(|flight| flight.not_after(now_ms));
        if let Phase::Pause { due_ms, .. } = &mut self.phase {
            *due_ms = (*due_ms).min(now_ms.saturating_add(self.plan.gate_interval_ms));
        }
    }

    /// What is to be written now; the driver writes it in the step's transaction.
    pub fn take_unsaved(&mut self) -> Unsaved {
        std::mem::take(&mut self.unsaved)
    }

    /// Whether something changed that is not written down.
    pub fn is_unsaved(&self) -> bool {
        self.unsaved != Unsaved::default()
    }

    /// Whether there is no more to come.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// How it ended.
    pub fn end(&self) -> Option<&End> {
        if let Phase::Ended { end } = &self.phase { Some(end) } else { None }
    }

    /// Whether it holds back those that demand it.
    pub fn has_failed(&self) -> bool {
        self.end().is_some_and(|end| *end != End::Done)
    }

    /// How many releases are under way.
    pub fn in_flight(&self) -> usize {
        self.flights.values().filter(|flight| flight.is_open()).count()
    }

    /// Whether something goes on that a pause waits for: a batch until it is through its gate, hooks.
    pub fn is_busy(&self) -> bool {
        let waits = matches!(self.phase, Phase::Held | Phase::Waiting { .. } | Phase::Ended { .. });
        !waits || self.in_flight() > 0
    }

    /// Every allocation of the plan: host, and what it was to get.
    pub fn members(&self) -> impl Iterator<Item = (AllocId, &Host)> {
        let rolled = self.plan.batches.iter().flatten().map(|step| (step.alloc_id, &step.host));
        let settled = self.plan.settle.iter().chain(&self.plan.promotes).map(|step| (step.alloc_id, &step.host));
        settled.chain(rolled)
    }

    /// What failed, in the plan's order.
    pub fn failures(&self) -> Vec<(&Host, &Why)> {
        let mut seen = BTreeSet::new();
        let fresh = self.members().filter(|(alloc, _)| seen.insert(*alloc)).collect::<Vec<_>>();
        let why = |(alloc, host): (AllocId, _)| match &self.flights.get(&alloc)?.fate {
            Some(Fate::Failed { why }) => Some((host, why)),
            _ => None,
        };
        fresh.into_iter().filter_map(why).collect()
    }

    /// What the rollout went on without, or ended for: host, and since when its agent is waited for.
    pub fn out_of_reach(&self) -> Vec<(&Host, i64)> {
        let rolled = self.plan.batches.iter().flatten();
        let since = |step: &Move| {
            let flight = self.flights.get(&step.alloc_id)?;
            (flight.fate == Some(Fate::Deferred) && !flight.is_held).then_some(flight.released_ms)
        };
        rolled.filter_map(|step| since(step).map(|since| (&step.host, since))).collect()
    }

    pub(super) fn set(&mut self, phase: Phase) {
        self.phase = phase;
        self.unsaved.phase = true;
    }

    pub(super) fn finish(&mut self, end: End, effects: &mut Vec<Effect>) {
        match &end {
            End::Done if self.plan.is_required() => effects.push(self.moved(None, Moved::Done(self.failures().len()))),
            End::Done if self.plan.decides => effects.push(self.moved(None, Moved::Skipped)),
            End::Blocked { by } => effects.push(self.moved(None, Moved::Blocked(by.clone()))),
            End::Failed { why: Some(why) } => effects.push(self.moved(None, Moved::Failed(why.clone(), None))),
            End::Failed { why: None } => effects.push(self.moved(None, Moved::Failed(String::new(), None))),
            _ => {}
        }
        self.set(Phase::Ended { end });
    }

    pub(super) fn moved(&self, host: Option<&Host>, what: Moved) -> Effect {
        Effect::Moved { job: self.plan.job.clone(), host: host.cloned(), what }
    }

    /// Its turn has come, or something of it has ended: goes as far as it can without waiting. With
    /// `release` false nothing new begins.
    pub(super) fn advance(&mut self, now_ms: i64, release: bool, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        loop {
            let before = self.phase.clone();
            self.advance_once(now_ms, release, ids, effects);
            if self.phase == before {
                return;
            }
        }
    }

    fn advance_once(&mut self, now_ms: i64, release: bool, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Held if release => self.begin(now_ms, ids, effects),
            Phase::Waiting { batch } if release => match self.plan.batches.len() {
                all if batch < all => self.release_batch(batch, now_ms, ids, effects),
                _ => self.promote_drained(now_ms, ids, effects),
            },
            Phase::Settling if self.in_flight() == 0 => self.settled(effects),
            Phase::Removing if self.in_flight() == 0 => self.set(Phase::Waiting { batch: 0 }),
            Phase::Rolling { batch } if self.in_flight() == 0 => self.landed(batch, effects),
            Phase::Judging { batch } if self.in_flight() == 0 => self.set(Phase::Gate { batch }),
            Phase::Gate { batch } => self.look_at_gate(batch, now_ms, effects),
            Phase::Pause { batch, attempt, due_ms } if now_ms >= due_ms => {
                self.call(Stage::Health { batch, attempt }, effects);
            }
            Phase::Promoting if self.in_flight() == 0 => self.whole(effects),
            _ => {}
        }
    }

    fn begin(&mut self, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        if let Some(why) = self.plan.refused.clone() {
            self.finish(End::Failed { why: Some(why) }, effects);
        } else if self.plan.prepares() {
            self.call(Stage::PreDeploy, effects);
        } else if self.plan.decides {
            self.set(Phase::Deciding);
            effects.push(Effect::Decide { job: self.plan.job.clone() });
        } else if self.plan.post_deploy_only {
            self.call(Stage::PostDeploy, effects);
        } else {
            self.begin_to_move(now_ms, ids, effects);
        }
    }

    /// From here on workers change.
    pub(super) fn begin_to_move(&mut self, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        if !self.plan.rolls() {
            return self.finish(End::Done, effects);
        }
        if self.plan.has(HookEvent::PostDeploy) {
            effects.push(Effect::PostDeploy { job: self.plan.job.clone(), status: PostDeploy::Pending });
        }
        self.release_stops(now_ms, ids, effects);
    }

    /// The stops and removals have ended, each as it did: none holds up another.
    fn settled(&mut self, effects: &mut Vec<Effect>) {
        if self.plan.has(HookEvent::AfterAllocationStopped) && self.stopped().next().is_some() {
            self.call(Stage::Stopped, effects);
        } else {
            self.set(Phase::Waiting { batch: 0 });
        }
    }

    /// Allocations whose stop succeeded in this rollout.
    pub(super) fn stopped(&self) -> impl Iterator<Item = AllocId> {
        let stops = self.plan.settle.iter().filter(|step| step.rest != Rest::Remove { stop: false });
        stops
            .map(|step| step.alloc_id)
            .filter(|alloc| self.flights.get(alloc).is_some_and(|f| matches!(f.fate, Some(Fate::Ran | Fate::Settled))))
    }

    /// Members of a batch whose action ended well.
    pub(super) fn ran(&self, batch: usize) -> impl Iterator<Item = AllocId> {
        let members = self.plan.batches.get(batch).into_iter().flatten().map(|step| step.alloc_id);
        members.filter(|alloc| self.flights.get(alloc).is_some_and(|f| f.fate == Some(Fate::Ran)))
    }

    /// All of a batch has landed, well or not.
    fn landed(&mut self, batch: usize, effects: &mut Vec<Effect>) {
        let lifecycle = !self.plan.batches[batch].iter().all(|step| step.kind == ActionKind::Sync);
        let any = self.ran(batch).next().is_some();
        if self.plan.controls()
            && self.plan.batches[batch]
                .iter()
                .any(|step| !self.flights.get(&step.alloc_id).is_some_and(|f| f.fate == Some(Fate::Ran)))
        {
            // Hooks in place of the lifecycle act on the job as a whole: on all of it or not at all.
            self.conclude(batch, effects);
        } else if any && self.plan.controls() {
            self.call(Stage::JobControl { batch }, effects);
        } else if any && lifecycle && self.plan.has(HookEvent::AfterAllocationStarted) {
            self.call(Stage::Started { batch }, effects);
        } else if any {
            self.set(Phase::Gate { batch });
        } else {
            self.conclude(batch, effects);
        }
    }

    /// Whether what ran well is good by its probes, and what was rolled before it still is.
    fn look_at_gate(&mut self, batch: usize, now_ms: i64, effects: &mut Vec<Effect>) {
        let lifecycle = self.plan.controls() || !self.plan.batches[batch].iter().all(|s| s.kind == ActionKind::Sync);
        if self.plan.probes && lifecycle {
            let waiting: Vec<AllocId> = self.ran(batch).collect();
            for alloc in waiting {
                let flight = &self.flights[&alloc];
                match self.probed.get(&alloc).and_then(|probed| flight.probed(probed)) {
                    Some(Ok(())) => {}
                    Some(Err(why)) => self.fail(alloc, why, effects),
                    None => {
                        let since = flight.ended_ms.unwrap_or(flight.released_ms).max(self.driven_ms);
                        if now_ms - since < self.plan.gate_limit_ms.saturating_add(GRACE_MS) {
                            return;
                        }
                        let problem = format!("nothing was heard of its probes for {} s", (now_ms - since) / 1000);
                        self.fail(alloc, Why::Unhealthy { problem }, effects);
                    }
                }
            }
            if let Some((host, problem)) = self.sick_before(batch) {
                let why = format!("{host}, which was rolled before, is not healthy any more: {problem}");
                return self.finish(End::Failed { why: Some(why) }, effects);
            }
        }
        if self.ran(batch).next().is_none() {
            self.conclude(batch, effects);
        } else if lifecycle && self.plan.has(HookEvent::HealthCheck) {
            self.call(Stage::Health { batch, attempt: 0 }, effects);
        } else {
            self.promote_batch(batch, effects);
        }
    }

    /// An allocation of an earlier batch that its probes say is not good now.
    fn sick_before(&self, batch: usize) -> Option<(&Host, String)> {
        let before = self.plan.batches.iter().take(batch).flatten();
        before.filter(|step| self.flights.get(&step.alloc_id).is_some_and(|f| f.fate == Some(Fate::Settled))).find_map(
            |step| {
                let probed = self.probed.get(&step.alloc_id).filter(|probed| probed.healthy == Some(false))?;
                Some((&step.host, probed.problem.clone().unwrap_or_default()))
            },
        )
    }

    pub(super) fn promote_batch(&mut self, batch: usize, effects: &mut Vec<Effect>) {
        let ran: Vec<AllocId> = self.ran(batch).collect();
        for alloc in ran {
            self.promote(alloc, effects);
        }
        self.conclude(batch, effects);
    }

    /// A batch is over: on with the next, unless more went wrong than the job's budgets allow.
    fn conclude(&mut self, batch: usize, effects: &mut Vec<Effect>) {
        let rolled = || self.plan.batches.iter().flatten().filter_map(|step| self.flights.get(&step.alloc_id));
        let failed = rolled().filter(|f| matches!(f.fate, Some(Fate::Failed { .. }))).count();
        let away = rolled().filter(|f| f.fate == Some(Fate::Deferred) && !f.is_held).count();
        let stuck = rolled().any(|f| f.fate == Some(Fate::Ran));
        if failed > self.plan.max_failed || away > self.plan.max_unreachable || stuck {
            return self.finish(End::Failed { why: None }, effects);
        }
        self.defer(batch, effects);
        self.set(Phase::Waiting { batch: batch + 1 });
    }

    /// Everything is promoted that could be.
    fn whole(&mut self, effects: &mut Vec<Effect>) {
        if self.plan.has(HookEvent::PostDeploy) && self.plan.active > 0 {
            self.call(Stage::PostDeploy, effects);
        } else {
            self.finish(End::Done, effects);
        }
    }
}
