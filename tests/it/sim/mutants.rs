//! Ways in which the machine could be wrong; each must be noticed.

use controller::model::HookEvent;
use controller::plan::Plan;
use controller::rollout::{Effect, Event, Rollout};
use shared::api::v1::report::Outcome;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    None,
    /// A report of an earlier action counts as one of this.
    StaleReport,
    /// An action that ended well counts whatever is in place.
    BundleIgnored,
    /// A batch has one more than it may.
    BatchTooBig,
    /// The next batch does not wait for this one.
    NoWait,
    /// An interrupted action is asked for again under the same id.
    IdReused,
    /// A failure counts as a success.
    FailureIgnored,
    /// A deadline never comes.
    NoDeadline,
    /// A job goes on whatever failed.
    GoesOn,
    /// A job goes on whoever is out of reach.
    GoesOnAlone,
    /// A later wave does not wait for an earlier one.
    NoWaves,
    /// A failed job holds nobody back.
    HoldsNobody,
    /// Probes count as good before they are.
    ProbesIgnored,
    /// Hooks count as good whatever they say.
    HooksIgnored,
    /// A pause pauses nothing.
    NoPause,
    /// What was given up is not taken back.
    NotTakenBack,
    /// What was taken back counts as never begun before its agent's lease is over.
    GivenUpAtOnce,
    /// An agent begins what was confirmed long ago, or before it was started.
    LeaseIgnored,
    /// A stop is forgotten.
    StopForgotten,
    /// A removal is forgotten.
    RemovalForgotten,
    /// A promotion is forgotten.
    PromotionForgotten,
}

impl Mutant {
    pub const ALL: [Mutant; 20] = [
        Mutant::StaleReport,
        Mutant::BundleIgnored,
        Mutant::BatchTooBig,
        Mutant::NoWait,
        Mutant::IdReused,
        Mutant::FailureIgnored,
        Mutant::NoDeadline,
        Mutant::GoesOn,
        Mutant::GoesOnAlone,
        Mutant::NoWaves,
        Mutant::HoldsNobody,
        Mutant::ProbesIgnored,
        Mutant::HooksIgnored,
        Mutant::NoPause,
        Mutant::NotTakenBack,
        Mutant::GivenUpAtOnce,
        Mutant::LeaseIgnored,
        Mutant::StopForgotten,
        Mutant::RemovalForgotten,
        Mutant::PromotionForgotten,
    ];

    /// Mutants of the plan that the machine is given.
    pub fn of_plan(self, plan: &mut Plan) {
        for job in &mut plan.jobs {
            match self {
                Mutant::BatchTooBig if job.batches.len() > 1 => {
                    let moved = job.batches[1].remove(0);
                    job.batches[0].push(moved);
                    job.batches.retain(|batch| !batch.is_empty());
                }
                Mutant::NoWait if !job.batches.is_empty() => job.batches = vec![job.batches.concat()],
                Mutant::GoesOn => job.max_failed = usize::MAX,
                Mutant::GoesOnAlone => job.max_unreachable = usize::MAX,
                Mutant::NoWaves => job.seq = 0,
                Mutant::HoldsNobody => job.demands.clear(),
                Mutant::HooksIgnored => {
                    job.hooks.retain(|event| *event == HookEvent::JobControl);
                }
                _ => {}
            }
        }
    }

    /// Mutants of how the machine reads what happened.
    pub fn of_events(self, events: &mut [Event], rollout: &Rollout) {
        if self == Mutant::None {
            return;
        }
        for event in events {
            let Event::Observed(observed) = event else { continue };
            let job = rollout.jobs().find(|job| job.members().any(|(alloc, _)| alloc == observed.alloc_id));
            let Some(job) = job else { continue };
            let Some(flight) = job
                .flights
                .get(&observed.alloc_id)
                .filter(|flight| flight.fate.is_none() || self == Mutant::ProbesIgnored)
            else {
                continue;
            };
            let to =
                job.plan.batches.iter().flatten().find(|step| step.alloc_id == observed.alloc_id).map(|step| step.to);
            let said = observed.action.clone();
            match self {
                Mutant::StaleReport => {
                    observed.action = said.map(|(_, outcome)| (flight.action_id, outcome));
                    observed.bundle = to.or(observed.bundle);
                }
                Mutant::BundleIgnored if to.is_some() => observed.bundle = to,
                Mutant::FailureIgnored => {
                    if let Some((id, Some(_))) = said.filter(|(id, _)| *id == flight.action_id) {
                        observed.action = Some((id, Some(Outcome::Ok)));
                    }
                }
                Mutant::ProbesIgnored => {
                    if let Some(health) = &mut observed.health {
                        (health.action, health.healthy) = (Some(flight.action_id), Some(true));
                    }
                }
                _ => {}
            }
        }
    }

    /// Mutants of what the machine asks for.
    pub fn of_effects(self, effects: &mut Vec<Effect>, before: Option<&Rollout>) {
        effects.retain(|effect| {
            !matches!(
                (self, effect),
                (Mutant::NotTakenBack, Effect::Withdraw { .. })
                    | (Mutant::StopForgotten, Effect::Stopped { .. })
                    | (Mutant::RemovalForgotten, Effect::Removed { .. })
                    | (Mutant::PromotionForgotten, Effect::Promote { .. })
            )
        });
        for effect in effects {
            if let (Mutant::IdReused, Effect::Release(release)) = (self, effect) {
                let old = before.into_iter().flat_map(Rollout::jobs).find_map(|job| job.flights.get(&release.alloc_id));
                release.action.0 = old.map_or(release.action.0, |flight| flight.action_id);
            }
        }
    }
}
