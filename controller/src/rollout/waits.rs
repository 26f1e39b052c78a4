//! What becomes of a job's releases that are waited for: who has accepted them, who is out of reach, what is overdue, what
//! is taken back and given up.

use shared::api::v1::desired::Fence;
use shared::{AllocId, WorkerId};

use super::Limits;
use super::event::{Effect, Ids, Moved};
use super::flight::{Fate, Why};
use super::job::{JobRollout, Phase};
use super::lanes::What;
use crate::plan::{Move, Rest, Settle};

impl JobRollout {
    /// An agent has accepted `fence`: what was released to it until then is with it.
    pub(super) fn accepted(&mut self, worker: WorkerId, fence: Fence, now_ms: i64) {
        let settle = |steps: &[Settle]| -> Vec<AllocId> {
            steps.iter().filter(|step| step.worker_id == worker).map(|step| step.alloc_id).collect()
        };
        let here = match self.phase {
            Phase::Settling | Phase::Removing => settle(&self.plan.settle),
            Phase::Promoting => settle(&self.plan.promotes),
            Phase::Rolling { batch } | Phase::Judging { batch } => {
                let members = self.plan.batches.get(batch).into_iter().flatten();
                members.filter(|step| step.worker_id == worker).map(|step| step.alloc_id).collect()
            }
            _ => return,
        };
        for alloc in here {
            if self.flights.get_mut(&alloc).is_some_and(|flight| flight.accepted(fence, now_ms)) {
                self.unsaved.flights.insert(alloc);
            }
        }
    }

    /// The driver has written the release of `alloc` under `fence`.
    pub(super) fn released_in(&mut self, alloc: AllocId, fence: Fence) {
        if let Some(flight) = self.flights.get_mut(&alloc) {
            flight.fence = Some(fence);
            self.unsaved.flights.insert(alloc);
        }
    }

    /// Who was not picked up in time is out of reach; whose result is overdue has failed.
    pub(super) fn tick(&mut self, now_ms: i64, limits: &Limits, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        let open: Vec<AllocId> = self.flights.iter().filter(|(_, f)| f.is_open()).map(|(alloc, _)| *alloc).collect();
        for alloc in open {
            let flight = &self.flights[&alloc];
            if flight.taken_back_ms.is_some() {
                if flight.is_given_up(now_ms, self.driven_ms) {
                    self.give_up(alloc, effects);
                }
            } else if let Some(why) = flight.overdue(now_ms, self.driven_ms, self.plan.timeout_s) {
                match self.member(alloc).map(|member| member.what) {
                    // It is with its agent, which has not begun it: it is not to be begun later.
                    Some(What::Move(step)) if !flight.begun => self.withdraw(&step, now_ms, effects),
                    _ => self.fail(alloc, why, effects),
                }
            } else if flight.is_out_of_reach(now_ms, self.driven_ms, limits.pickup_ms) {
                let Some(member) = self.member(alloc) else { continue };
                match member.what {
                    // A stop that hooks were to follow: nobody waits for them now, and should it come back it
                    // is to clean up.
                    What::Settle(step) if step.gone && self.is_removal(&step) => {
                        let step = Settle { rest: Rest::Remove { stop: true }, online: false, ..step };
                        self.release_settle(&step, now_ms, ids, effects);
                    }
                    What::Settle(step) => self.leave(&step, effects),
                    What::Move(step) => self.withdraw(&step, now_ms, effects),
                }
            }
        }
    }

    /// Whether `step` is the stop that comes before a removal.
    fn is_removal(&self, step: &Settle) -> bool {
        let planned = self.plan.settle.iter().find(|planned| planned.alloc_id == step.alloc_id);
        step.rest == Rest::Stop && planned.is_some_and(|planned| matches!(planned.rest, Rest::Remove { .. }))
    }

    /// Takes a release back that was not begun: what comes late must not restart anything. It is given up when
    /// its agent's lease is over ([`shared::api::LEASE_MS`]).
    fn withdraw(&mut self, step: &Move, now_ms: i64, effects: &mut Vec<Effect>) {
        self.take_back(step, now_ms, effects);
        effects.push(self.moved(Some(&step.host), Moved::TakenBack));
    }

    pub(super) fn take_back(&mut self, step: &Move, now_ms: i64, effects: &mut Vec<Effect>) {
        if let Some(flight) = self.flights.get_mut(&step.alloc_id) {
            (flight.ended_ms, flight.taken_back_ms) = (Some(now_ms), Some(now_ms));
        }
        let (alloc_id, worker_id, bundle) = (step.alloc_id, step.worker_id, step.to);
        self.unsaved.flights.insert(alloc_id);
        effects.push(Effect::Withdraw { alloc_id, worker_id, bundle });
    }

    /// The driver has written that the release of `alloc` is taken back; nobody is told of it from `now_ms` on.
    pub(super) fn taken_back_at(&mut self, alloc: AllocId, now_ms: i64) {
        if let Some(flight) = self.flights.get_mut(&alloc).filter(|flight| flight.taken_back_ms.is_some()) {
            flight.taken_back_ms = Some(now_ms);
            self.unsaved.flights.insert(alloc);
        }
    }

    /// What was taken back was not begun, and cannot be any more.
    fn give_up(&mut self, alloc: AllocId, effects: &mut Vec<Effect>) {
        let flight = &self.flights[&alloc];
        if flight.picked_up_ms.is_some() && !flight.is_held {
            // Its agent had it and did not get to it.
            let why = Why::NoResult { waited_ms: flight.waited_ms(), problem: flight.problem.clone() };
            self.fail(alloc, why, effects);
        } else {
            self.end_flight(alloc, Fate::Deferred);
        }
    }

    /// The job goes on without those of a batch that are out of reach.
    pub(super) fn defer(&self, batch: usize, effects: &mut Vec<Effect>) {
        for step in self.plan.batches.get(batch).into_iter().flatten() {
            let Some(flight) = self.flights.get(&step.alloc_id) else { continue };
            if flight.fate == Some(Fate::Deferred) {
                effects.push(Effect::Deferred {
                    alloc_id: step.alloc_id,
                    since_ms: flight.released_ms,
                    bundle: step.to,
                    version: step.new_version.clone(),
                });
                if !flight.is_held {
                    effects.push(self.moved(Some(&step.host), Moved::Deferred));
                }
            }
        }
    }

    /// Ends a job that the operator does not want to go on: what was not picked up is taken back, what
    /// runs runs to its end unobserved.
    pub(super) fn abort(&mut self, now_ms: i64, effects: &mut Vec<Effect>) {
        let open: Vec<AllocId> = self.flights.iter().filter(|(_, f)| f.is_open()).map(|(alloc, _)| *alloc).collect();
        for alloc in open {
            match self.member(alloc).map(|member| member.what) {
                Some(What::Move(step)) if self.flights[&alloc].picked_up_ms.is_none() => {
                    if self.flights[&alloc].taken_back_ms.is_none() {
                        self.withdraw(&step, now_ms, effects);
                    }
                    // Nothing comes after it that would have to wait.
                    self.end_flight(alloc, Fate::Deferred);
                }
                _ => self.end_flight(alloc, Fate::Left),
            }
        }
        self.finish(super::job::End::Aborted, effects);
    }
}
