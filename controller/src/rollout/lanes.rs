//! A job's releases: sending them and hearing of them; `waits.rs` has what becomes of those that are not heard of. One lane at a time is open: the
//! stops and removals, one batch, or the drained ones that get their files.

use std::collections::BTreeMap;

use shared::api::v1::desired::RunState;
use shared::{ActionId, ActionKind, AllocId, Host, WorkerId};

use super::event::{Effect, Ids, Moved, Observed, Release};
use super::flight::{Fate, Flight, Leaves, Verdict, Why};
use super::job::{JobRollout, Phase};
use crate::model::HookEvent;
use crate::plan::{Move, Rest, Settle};

/// What a member of the open lane is about.
#[derive(Debug, Clone)]
pub(super) struct Member {
    host: Host,
    leaves: Leaves,
    pub(super) what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    Move(Move),
    Settle(Settle),
}

impl JobRollout {
    /// Stops and removals go out all at once: none waits for another.
    pub(super) fn release_stops(&mut self, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        self.set(Phase::Settling);
        for step in self.plan.settle.clone() {
            let step = Settle { rest: self.first_rest(&step), ..step };
            self.release_settle(&step, now_ms, ids, effects);
        }
    }

    /// What comes first of a stop or removal: with hooks after the stop, files go when the hooks have ended
    /// well. What is assumed dead has none.
    fn first_rest(&self, step: &Settle) -> Rest {
        let hooked = self.plan.has(HookEvent::AfterAllocationStopped) && (step.online || !step.gone);
        if hooked && step.rest == (Rest::Remove { stop: true }) { Rest::Stop } else { step.rest }
    }

    /// The hooks after the stops have ended: what is no longer wanted is taken away.
    pub(super) fn release_removals(&mut self, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        self.set(Phase::Removing);
        for step in self.plan.settle.clone() {
            let stopped = self.flights.get(&step.alloc_id).is_some_and(|f| f.fate == Some(Fate::Settled));
            if step.rest == (Rest::Remove { stop: true }) && stopped {
                let step = Settle { rest: Rest::Remove { stop: false }, ..step };
                self.release_settle(&step, now_ms, ids, effects);
            }
        }
    }

    /// Drained allocations get their files, where their stop did not fail.
    pub(super) fn promote_drained(&mut self, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        self.set(Phase::Promoting);
        for step in self.plan.promotes.clone() {
            if self.flights.get(&step.alloc_id).is_none_or(|flight| flight.fate == Some(Fate::Settled)) {
                self.release_settle(&step, now_ms, ids, effects);
            }
        }
    }

    pub(super) fn release_settle(&mut self, step: &Settle, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        let flight = Flight::new(ids.action_id(), now_ms, 0);
        effects.push(Effect::Release(self.settle_release(step, flight.action_id)));
        effects.push(self.moved(
            Some(&step.host),
            match step.rest {
                Rest::Stop => Moved::Released(ActionKind::Stop),
                Rest::Promote => Moved::Released(ActionKind::Sync),
                Rest::Remove { .. } => Moved::Removing,
            },
        ));
        self.flights.insert(step.alloc_id, flight);
        self.unsaved.flights.insert(step.alloc_id);
        if let Some(words) = self.held.get(&step.worker_id).cloned() {
            // Told, and done when the hold is over: it is still wanted then.
            effects.push(self.moved(Some(&step.host), Moved::Held(words)));
            self.end_flight(step.alloc_id, Fate::Left);
        } else if !step.online {
            self.leave(step, effects);
        }
    }

    /// An operator wants nothing changed on these workers: what is not begun there is not waited for.
    pub(super) fn hold(&mut self, held: &BTreeMap<WorkerId, String>, now_ms: i64, effects: &mut Vec<Effect>) {
        self.held.clone_from(held);
        let open: Vec<AllocId> =
            self.flights.iter().filter(|(_, f)| f.is_open() && !f.begun).map(|(a, _)| *a).collect();
        for alloc in open {
            match self.member(alloc).map(|member| member.what) {
                Some(What::Move(step)) if held.contains_key(&step.worker_id) => {
                    let words = held[&step.worker_id].clone();
                    let Some(flight) = self.flights.get_mut(&alloc).filter(|flight| !flight.is_held) else { continue };
                    flight.is_held = true;
                    effects.push(self.moved(Some(&step.host), Moved::Held(words)));
                    if self.flights[&alloc].taken_back_ms.is_none() {
                        self.take_back(&step, now_ms, effects);
                    }
                }
                Some(What::Settle(step)) if held.contains_key(&step.worker_id) => {
                    let words = held[&step.worker_id].clone();
                    effects.push(self.moved(Some(&step.host), Moved::Held(words)));
                    self.end_flight(alloc, Fate::Left);
                }
                _ => {}
            }
        }
    }

    /// Not waited for: it is done when its agent is back.
    pub(super) fn leave(&mut self, step: &Settle, effects: &mut Vec<Effect>) {
        let assumed_dead = step.gone && matches!(step.rest, Rest::Remove { .. });
        let what = if assumed_dead { Moved::AssumedDead } else { Moved::Left };
        effects.push(self.moved(Some(&step.host), what));
        self.end_flight(step.alloc_id, Fate::Left);
    }

    fn settle_release(&self, step: &Settle, action_id: ActionId) -> Release {
        let (state, kind, bundle) = match step.rest {
            Rest::Stop => (RunState::Stopped, ActionKind::Stop, None),
            Rest::Promote => (RunState::Stopped, ActionKind::Sync, step.to),
            Rest::Remove { stop: true } => (RunState::Absent, ActionKind::Stop, None),
            Rest::Remove { stop: false } => (RunState::Absent, ActionKind::Sync, None),
        };
        Release {
            alloc_id: step.alloc_id,
            worker_id: step.worker_id,
            state,
            disabled: !matches!(step.rest, Rest::Remove { .. }),
            bundle,
            action: (action_id, kind),
            starts: false,
            timeout_s: self.plan.timeout_s,
            current_version: step.current_version.clone(),
            new_version: step.new_version.clone(),
            dir_mode: self.plan.dir_mode,
            health: self.plan.health.clone(),
        }
    }

    /// Releases a batch, and tells the next one to download early.
    pub(super) fn release_batch(&mut self, batch: usize, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        for step in self.plan.batches[batch].clone() {
            let flight = Flight::new(ids.action_id(), now_ms, 0);
            if let Some(words) = self.held.get(&step.worker_id).cloned() {
                effects.push(self.moved(Some(&step.host), Moved::Held(words)));
                let flight = Flight { is_held: true, fate: Some(Fate::Deferred), ..flight };
                self.flights.insert(step.alloc_id, flight);
                self.unsaved.flights.insert(step.alloc_id);
                continue;
            }
            effects.push(Effect::Release(self.move_release(&step, flight.action_id)));
            effects.push(self.moved(Some(&step.host), Moved::Released(step.kind)));
            self.flights.insert(step.alloc_id, flight);
            self.unsaved.flights.insert(step.alloc_id);
        }
        // One batch ahead: no more agents at once than a batch has.
        let next = self.plan.batches.get(batch + 1);
        for step in next.into_iter().flatten().filter(|step| step.from != Some(step.to)) {
            effects.push(Effect::Prefetch { worker_id: step.worker_id, bundle: step.to });
        }
        self.set(Phase::Rolling { batch });
    }

    /// Tells a batch's agents, with an action that runs nothing, to begin their probes anew: what they said
    /// before is of what ran before the hooks.
    pub(super) fn release_judging(&mut self, batch: usize, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        for step in self.plan.batches[batch].clone() {
            let flight = Flight::new(ids.action_id(), now_ms, 0);
            effects.push(Effect::Release(self.move_release(&step, flight.action_id)));
            self.flights.insert(step.alloc_id, flight);
            self.unsaved.flights.insert(step.alloc_id);
        }
        self.set(Phase::Judging { batch });
    }

    fn move_release(&self, step: &Move, action_id: ActionId) -> Release {
        // Where hooks stand in for the lifecycle, agents put the files in place and run nothing.
        let kind = if self.plan.controls() { ActionKind::Sync } else { step.kind };
        Release {
            alloc_id: step.alloc_id,
            worker_id: step.worker_id,
            state: RunState::Running,
            disabled: false,
            bundle: Some(step.to),
            action: (action_id, kind),
            starts: step.kind != ActionKind::Sync,
            timeout_s: self.plan.timeout_s,
            current_version: step.current_version.clone(),
            new_version: step.new_version.clone(),
            dir_mode: self.plan.dir_mode,
            health: self.plan.health.clone(),
        }
    }

    /// What `alloc` is about, while it is in the open lane.
    pub(super) fn member(&self, alloc: AllocId) -> Option<Member> {
        let settle = |step: &Settle, rest: Rest| Member {
            host: step.host.clone(),
            leaves: match rest {
                Rest::Stop => Leaves::Anything,
                Rest::Promote => step.to.map_or(Leaves::Anything, Leaves::Files),
                Rest::Remove { .. } => Leaves::Nothing,
            },
            what: What::Settle(Settle { rest, ..step.clone() }),
        };
        match self.phase {
            Phase::Settling => {
                let step = self.plan.settle.iter().find(|step| step.alloc_id == alloc);
                step.map(|step| settle(step, self.first_rest(step)))
            }
            Phase::Removing => {
                let step = self.plan.settle.iter().find(|step| step.alloc_id == alloc);
                step.map(|step| settle(step, Rest::Remove { stop: false }))
            }
            Phase::Promoting => {
                self.plan.promotes.iter().find(|step| step.alloc_id == alloc).map(|step| settle(step, step.rest))
            }
            Phase::Rolling { batch } | Phase::Judging { batch } => {
                self.plan.batches.get(batch)?.iter().find(|step| step.alloc_id == alloc).map(|step| Member {
                    host: step.host.clone(),
                    leaves: Leaves::Files(step.to),
                    what: What::Move(step.clone()),
                })
            }
            _ => None,
        }
    }

    /// Takes a report in.
    pub(super) fn observe(&mut self, observed: &Observed, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        let alloc = observed.alloc_id;
        if self.plan.probes
            && let Some(probed) = &observed.health
        {
            self.probed.insert(alloc, probed.clone());
        }
        let Some(mut flight) = self.flights.get(&alloc).filter(|flight| flight.is_open()).cloned() else { return };
        let Some(member) = self.member(alloc) else { return };
        let verdict = flight.observe(observed, member.leaves, now_ms);
        if let (true, What::Move(step)) = (flight.stands_again(), &member.what) {
            // Told once more, under the same id: what it has begun is what is wanted.
            effects.push(Effect::Release(self.move_release(step, flight.action_id)));
            effects.push(self.moved(Some(&member.host), Moved::TakenUp(step.kind)));
        }
        if self.flights.get(&alloc) != Some(&flight) {
            self.flights.insert(alloc, flight.clone());
            self.unsaved.flights.insert(alloc);
        }
        match (verdict, &member.what) {
            (Verdict::Pending, _) => {}
            (Verdict::Good, What::Settle(step)) => self.settle(step, observed.duration_ms, effects),
            (Verdict::Good, What::Move(step)) => self.ran_well(step, observed.duration_ms, now_ms, effects),
            (Verdict::Bad(why), _) => self.fail(alloc, why, effects),
            (Verdict::AskAgain, what) => {
                let again = Flight::new(ids.action_id(), now_ms, flight.again + 1);
                let release = match what {
                    What::Move(step) => self.move_release(step, again.action_id),
                    What::Settle(step) => self.settle_release(step, again.action_id),
                };
                effects.push(self.moved(Some(&member.host), Moved::Again(release.action.1)));
                effects.push(Effect::Release(release));
                self.flights.insert(alloc, again);
                self.unsaved.flights.insert(alloc);
            }
        }
    }

    fn settle(&mut self, step: &Settle, duration_ms: u64, effects: &mut Vec<Effect>) {
        let alloc_id = step.alloc_id;
        let what = match (step.rest, step.to) {
            (Rest::Promote, Some(bundle)) => {
                effects.push(Effect::Promote { alloc_id, bundle, version: step.new_version.clone() });
                Moved::Promoted(ActionKind::Sync, duration_ms)
            }
            (Rest::Stop | Rest::Promote, _) => {
                // With hooks after it, it counts as done when they have ended well.
                if !self.plan.has(HookEvent::AfterAllocationStopped) {
                    effects.push(Effect::Stopped { alloc_id });
                }
                Moved::Stopped(duration_ms)
            }
            (Rest::Remove { .. }, _) => {
                effects.push(Effect::Removed { alloc_id });
                Moved::Removed
            }
        };
        effects.push(self.moved(Some(&step.host), what));
        self.end_flight(alloc_id, Fate::Settled);
    }

    fn ran_well(&mut self, step: &Move, duration_ms: u64, now_ms: i64, effects: &mut Vec<Effect>) {
        if let Some(flight) = self.flights.get_mut(&step.alloc_id) {
            flight.ended_ms = Some(now_ms);
        }
        self.end_flight(step.alloc_id, Fate::Ran);
        if matches!(self.phase, Phase::Judging { .. }) {
            // It has been said.
        } else if self.plan.is_gated() {
            effects.push(self.moved(Some(&step.host), Moved::Ran(step.kind, duration_ms)));
        } else {
            // Nothing stands between its action and its promotion: what is proved is kept at once.
            self.promote_with(step.alloc_id, duration_ms, effects);
        }
    }

    /// A member passed its gate.
    pub(super) fn promote(&mut self, alloc_id: AllocId, effects: &mut Vec<Effect>) {
        self.promote_with(alloc_id, 0, effects);
    }

    fn promote_with(&mut self, alloc_id: AllocId, duration_ms: u64, effects: &mut Vec<Effect>) {
        let found = self.plan.batches.iter().flatten().find(|step| step.alloc_id == alloc_id).cloned();
        let Some(step) = found else { return };
        effects.push(Effect::Promote { alloc_id, bundle: step.to, version: step.new_version.clone() });
        effects.push(self.moved(Some(&step.host), Moved::Promoted(step.kind, duration_ms)));
        self.end_flight(alloc_id, Fate::Settled);
    }

    pub(super) fn fail(&mut self, alloc: AllocId, why: Why, effects: &mut Vec<Effect>) {
        let host = self.members().find(|(id, _)| *id == alloc).map(|(_, host)| host.clone());
        effects.push(self.moved(host.as_ref(), Moved::Failed(why.brief(), why.exit())));
        effects.push(Effect::Failed { alloc_id: alloc, unhealthy: matches!(why, Why::Unhealthy { .. }) });
        self.end_flight(alloc, Fate::Failed { why });
    }

    pub(super) fn end_flight(&mut self, alloc: AllocId, fate: Fate) {
        if let Some(flight) = self.flights.get_mut(&alloc) {
            flight.fate = Some(fate);
            self.unsaved.flights.insert(alloc);
        }
    }
}
