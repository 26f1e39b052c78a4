//! One job's way through a rollout: batch after batch; each member of a batch is promoted when it is
//! proved good, and the next batch is released when all of them are. A failure ends the job when the
//! rest of its batch has ended: what succeeded beside it is promoted, what was not begun is not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::api::v1::desired::Fence;
use shared::api::v1::report::Outcome;
use shared::{ActionId, AllocId, Host, WorkerId};

use super::event::{Effect, Ids, Moved, Observed, Release};
use super::{Limits, promote};
use crate::plan::{JobPlan, Move};

/// Time beyond its limit that a target's result may take to come, milliseconds.
const GRACE_MS: i64 = 60_000;
/// How often an interrupted action is asked for again.
const MAX_AGAIN: u32 = 2;

/// A job in a rollout. The plan never changes; the state is small and written with every step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRollout {
    /// What is to be done.
    pub plan: JobPlan,
    /// How far it is.
    pub state: State,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum State {
    /// Batch `next` is to be released.
    Waiting {
        /// Counted from 0.
        next: usize,
    },
    /// Batch `batch` is with its agents.
    Awaiting {
        /// Counted from 0.
        batch: usize,
        /// Members that are neither promoted nor failed.
        missing: BTreeMap<AllocId, Flight>,
        /// Members that failed.
        failed: Vec<Failed>,
    },
    /// All batches are promoted, or there were none.
    Done,
    /// It ended otherwise.
    Failed {
        /// Which members failed.
        failed: Vec<Failed>,
    },
}

/// A release that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flight {
    /// Under which id.
    pub action_id: ActionId,
    /// When it was released, milliseconds since 1970 UTC.
    pub released_ms: i64,
    /// The generation that it was released in, once the driver has recorded it.
    pub fence: Option<Fence>,
    /// When its agent was first seen to have it.
    pub picked_up_ms: Option<i64>,
    /// How often it was asked for again.
    pub again: u32,
    /// What holds it up, as its agent says.
    pub problem: Option<String>,
}

/// A member that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Which.
    pub alloc_id: AllocId,
    /// Where.
    pub host: Host,
    /// Why.
    pub why: Why,
}

/// Why a member failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Why {
    /// Its agent did not take it up in time.
    NotPickedUp {
        /// How long it was waited for, milliseconds.
        waited_ms: i64,
    },
    /// It was taken up, and no result came.
    NoResult {
        /// How long it was waited for, milliseconds.
        waited_ms: i64,
        /// What the agent said holds it up.
        problem: Option<String>,
    },
    /// The agent reported how it went.
    Outcome {
        /// How.
        outcome: Outcome,
        /// The end of its output.
        tail: Option<String>,
    },
}

impl JobRollout {
    /// Nothing released yet.
    pub fn new(plan: JobPlan) -> Self {
        let state = if plan.is_required() { State::Waiting { next: 0 } } else { State::Done };
        Self { plan, state }
    }

    /// Whether there is no more to come.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Done | State::Failed { .. })
    }

    /// Whether a report of `alloc` matters now.
    pub fn awaits(&self, alloc: AllocId) -> bool {
        matches!(&self.state, State::Awaiting { missing, .. } if missing.contains_key(&alloc))
    }

    /// How many releases are under way.
    pub fn in_flight(&self) -> usize {
        if let State::Awaiting { missing, .. } = &self.state { missing.len() } else { 0 }
    }

    /// The driver has written the release of `alloc` under `fence`.
    pub fn released_in(&mut self, alloc: AllocId, fence: Fence) {
        if let State::Awaiting { missing, .. } = &mut self.state
            && let Some(flight) = missing.get_mut(&alloc)
        {
            flight.fence = Some(fence);
        }
    }

    /// Releases the next batch, if it is its time.
    pub(super) fn release(&mut self, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        let State::Waiting { next } = self.state else { return };
        let Some(batch) = self.plan.batches.get(next) else {
            self.state = State::Done;
            return;
        };
        let mut missing = BTreeMap::new();
        for step in batch {
            let flight = Flight {
                action_id: ids.action_id(),
                released_ms: now_ms,
                fence: None,
                picked_up_ms: None,
                again: 0,
                problem: None,
            };
            effects.push(Effect::Release(self.release_of(step, flight.action_id)));
            effects.push(self.moved(&step.host, Moved::Released(step.kind)));
            missing.insert(step.alloc_id, flight);
        }
        // One batch ahead: no more agents at once than a batch has.
        for step in self.plan.batches.get(next + 1).into_iter().flatten().filter(|step| step.from != Some(step.to)) {
            effects.push(Effect::Prefetch { worker_id: step.worker_id, bundle: step.to });
        }
        self.state = State::Awaiting { batch: next, missing, failed: Vec::new() };
    }

    fn release_of(&self, step: &Move, action_id: ActionId) -> Release {
        Release {
            alloc_id: step.alloc_id,
            worker_id: step.worker_id,
            bundle: step.to,
            action_id,
            kind: step.kind,
            timeout_s: self.plan.timeout_s,
            current_version: step.current_version.clone(),
            new_version: step.new_version.clone(),
            dir_mode: self.plan.dir_mode,
        }
    }

    fn moved(&self, host: &Host, what: Moved) -> Effect {
        Effect::Moved { job: self.plan.job.clone(), host: host.clone(), what }
    }

    fn member(&self, batch: usize, alloc: AllocId) -> Option<&Move> {
        self.plan.batches.get(batch)?.iter().find(|step| step.alloc_id == alloc)
    }

    /// Takes a report in.
    pub(super) fn observe(&mut self, observed: &Observed, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        let State::Awaiting { batch, missing, .. } = &self.state else { return };
        let batch = *batch;
        let (Some(flight), Some(step)) = (missing.get(&observed.alloc_id), self.member(batch, observed.alloc_id))
        else {
            return;
        };
        let (step, mut flight) = (step.clone(), flight.clone());
        let has_it = observed.action.as_ref().is_some_and(|(id, _)| *id == flight.action_id);
        if has_it && flight.picked_up_ms.is_none() {
            flight.picked_up_ms = Some(now_ms);
        }
        flight.problem = observed.problem.clone();
        match promote::judge(observed, flight.action_id, step.to) {
            promote::Verdict::Pending => self.keep(observed.alloc_id, flight),
            promote::Verdict::Good => {
                let version = step.new_version.clone();
                effects.push(Effect::Promote { alloc_id: step.alloc_id, bundle: step.to, version });
                effects.push(self.moved(&step.host, Moved::Promoted(step.kind, observed.duration_ms)));
                self.settle(step.alloc_id, None);
            }
            promote::Verdict::AskAgain if flight.again < MAX_AGAIN => {
                flight = Flight {
                    action_id: ids.action_id(),
                    released_ms: now_ms,
                    fence: None,
                    picked_up_ms: None,
                    again: flight.again + 1,
                    problem: None,
                };
                effects.push(Effect::Release(self.release_of(&step, flight.action_id)));
                effects.push(self.moved(&step.host, Moved::Again(step.kind)));
                self.keep(step.alloc_id, flight);
            }
            verdict => {
                let outcome = if let promote::Verdict::Bad(outcome) = verdict { outcome } else { Outcome::Interrupted };
                let why = Why::Outcome { outcome, tail: observed.tail.clone() };
                effects.push(self.moved(&step.host, Moved::Failed));
                self.settle(step.alloc_id, Some(Failed { alloc_id: step.alloc_id, host: step.host, why }));
            }
        }
    }

    /// An agent has accepted `fence`: what was released to it until then is with it.
    pub(super) fn accepted(&mut self, worker: WorkerId, fence: Fence, now_ms: i64) {
        let State::Awaiting { batch, missing, .. } = &mut self.state else { return };
        for step in self.plan.batches.get(*batch).into_iter().flatten().filter(|step| step.worker_id == worker) {
            if let Some(flight) = missing.get_mut(&step.alloc_id)
                && flight.picked_up_ms.is_none()
                && flight.fence.is_some_and(|released| fence >= released)
            {
                flight.picked_up_ms = Some(now_ms);
            }
        }
    }

    fn keep(&mut self, alloc: AllocId, flight: Flight) {
        if let State::Awaiting { missing, .. } = &mut self.state {
            missing.insert(alloc, flight);
        }
    }

    /// A member has ended, well or with a failure; with the last one the batch has.
    fn settle(&mut self, alloc: AllocId, failure: Option<Failed>) {
        let State::Awaiting { batch, missing, failed } = &mut self.state else { return };
        missing.remove(&alloc);
        failed.extend(failure);
        if missing.is_empty() {
            self.state = if !failed.is_empty() {
                State::Failed { failed: std::mem::take(failed) }
            } else if *batch + 1 == self.plan.batches.len() {
                State::Done
            } else {
                State::Waiting { next: *batch + 1 }
            };
        }
    }

    /// Whose time is over fails.
    pub(super) fn tick(&mut self, now_ms: i64, limits: &Limits, effects: &mut Vec<Effect>) {
        let State::Awaiting { batch, missing, .. } = &self.state else { return };
        let timeout_ms = i64::try_from(self.plan.timeout_s.saturating_mul(1000)).unwrap_or(i64::MAX);
        let late: Vec<(AllocId, Why)> = missing
            .iter()
            .filter_map(|(alloc, flight)| {
                let why = match flight.picked_up_ms {
                    None => {
                        let waited_ms = now_ms - flight.released_ms;
                        (waited_ms >= limits.pickup_ms).then_some(Why::NotPickedUp { waited_ms })
                    }
                    Some(since) => {
                        let waited_ms = now_ms - since;
                        let over = waited_ms >= timeout_ms.saturating_add(GRACE_MS);
                        over.then(|| Why::NoResult { waited_ms, problem: flight.problem.clone() })
                    }
                };
                why.map(|why| (*alloc, why))
            })
            .collect();
        let batch = *batch;
        for (alloc_id, why) in late {
            let Some(host) = self.member(batch, alloc_id).map(|step| step.host.clone()) else { continue };
            effects.push(self.moved(&host, Moved::Failed));
            self.settle(alloc_id, Some(Failed { alloc_id, host, why }));
        }
    }
}
