//! What must never happen in the world, and where everything must be in the end.

use controller::model::HookEvent;
use controller::plan::{JobPlan, Options, Plan};
use controller::rollout::event::Release;
use controller::rollout::flight::Fate;
use controller::rollout::job::End;
use controller::rollout::{Rollout, Stage};
use shared::api::v1::desired::RunState;
use shared::{ActionKind, AllocId, BundleDigest};

use super::mutants::Mutant;
use super::world::{Course, World, state_of};

impl World {
    pub(super) fn may_be_released(
        &mut self,
        release: &Release,
        real: &Plan,
        rollout: &Rollout,
        course: &mut Course,
        paused: bool,
    ) -> Result<(), String> {
        let agent = &self.agents[&release.alloc_id];
        let had_begun = agent.last.as_ref().is_some_and(|(last, _)| *last == release.action.0);
        // It had begun it before it was taken back, and is told so.
        let stands_again = had_begun && self.taken_back.remove(&release.action.0);
        if !self.released.insert(release.action.0) && !stands_again {
            return Err(format!("action id {} was given twice", release.action.0));
        }
        let allocation = self.allocation(release.alloc_id).clone();
        let Some(job) = real.jobs.iter().find(|job| job.job == allocation.job) else {
            return Err(format!("job {} is not in the plan", allocation.job));
        };
        if !allocation.is_active() && (release.starts || release.state == RunState::Running) {
            return Err(format!("{} is drained or removed, and is started", release.alloc_id));
        }
        let step = job.batches.iter().flatten().find(|step| step.alloc_id == release.alloc_id);
        let Some(step) = step.filter(|_| allocation.is_active()) else { return Ok(()) };
        if !course.begun.insert(release.alloc_id) {
            // Asked for again: it is in flight already.
            return Ok(());
        }
        if paused {
            return Err("something new was released in a pause".to_owned());
        }
        for other in real.jobs.iter().filter(|other| other.seq < job.seq) {
            if !state_of(rollout, other).is_ended() {
                return Err(format!("{} began before {} of an earlier wave had ended", job.job, other.job));
            }
        }
        for upstream in &job.demands {
            let failed = |other: &&JobPlan| other.job == *upstream && state_of(rollout, other).has_failed();
            if real.jobs.iter().any(|other| failed(&other)) {
                return Err(format!("{} began after {upstream}, which it demands, had failed", job.job));
            }
        }
        if course.failed.get(&job.job).is_some_and(|failed| *failed > job.max_failed) {
            return Err(format!("{} went on after more failed than may", job.job));
        }
        if course.given_up.get(&job.job).is_some_and(|away| *away > job.max_unreachable) {
            return Err(format!("{} went on with more out of reach than may be", job.job));
        }
        let spec = &self.snapshot.job(&job.job).unwrap().spec;
        let members = |kind: bool| {
            let all = job.batches.iter().flatten().filter(move |m| (m.kind == ActionKind::Start) == kind);
            all.filter(|m| course.open.contains(&m.alloc_id)).count()
        };
        let is_start = step.kind == ActionKind::Start;
        let limit = if is_start { spec.max_concurrent_starts } else { spec.max_concurrent_upgrades } as usize;
        let (same, other) = (members(is_start), members(!is_start));
        if !job.controls() && (other > 0 || (limit > 0 && same >= limit)) {
            return Err(format!("{} has {same} + {other} in flight and releases one more", job.job));
        }
        course.open.insert(release.alloc_id);
        Ok(())
    }

    pub(super) fn may_be_promoted(
        &mut self,
        alloc: AllocId,
        bundle: BundleDigest,
        real: &Plan,
        course: &Course,
    ) -> Result<(), String> {
        let agent = &self.agents[&alloc];
        let release = self.told.get(&alloc).and_then(|told| told.release.clone());
        let proved = release.as_ref().is_some_and(|release| {
            let ran = agent.ran.get(&release.action.0);
            release.bundle == Some(bundle) && ran == Some(&(shared::api::v1::report::Outcome::Ok, Some(bundle)))
        });
        let Some(release) = release.filter(|_| proved) else {
            return Err(format!("{alloc} was promoted without having run that bundle well"));
        };
        let allocation = self.allocation(alloc).clone();
        let Some(job) = real.jobs.iter().find(|job| job.job == allocation.job) else { return Ok(()) };
        if !allocation.is_active() || release.action.1 == ActionKind::Sync && !job.controls() {
            return Ok(());
        }
        if job.probes && !self.agents[&alloc].was_healthy.contains(&release.action.0) {
            return Err(format!("{alloc} was promoted before its probes were good"));
        }
        let last = course.hooked.get(&job.job);
        if job.has(HookEvent::HealthCheck) && !matches!(last, Some((Stage::Health { .. }, true))) {
            return Err(format!("{alloc} was promoted and its health_check hooks said {last:?}"));
        }
        Ok(())
    }

    pub(super) fn ended_as_it_should(&self, real: &Plan, rollout: &Rollout, course: &Course) -> Result<(), String> {
        for job in rollout.jobs() {
            let plan = real.jobs.iter().find(|plan| plan.job == job.plan.job).unwrap();
            let all: Vec<AllocId> = plan.batches.iter().flatten().map(|step| step.alloc_id).collect();
            let promoted = all.iter().filter(|alloc| course.promoted.contains(alloc)).count();
            let failed = course.failed.get(&plan.job).copied().unwrap_or_default();
            let away = job.flights.values().filter(|flight| flight.fate == Some(Fate::Deferred)).count();
            match job.end() {
                Some(End::Done) if promoted + failed + away < all.len() => {
                    return Err(format!("job {} ended well with {promoted} of {} promoted", plan.job, all.len()));
                }
                Some(End::Failed { .. } | End::Blocked { .. }) if self.calm && self.mutant == Mutant::None => {
                    return Err(format!("job {} failed with every agent there and well: {:?}", plan.job, job.phase));
                }
                _ => {}
            }
            if job.in_flight() > 0 {
                return Err(format!("job {} has ended with releases under way", plan.job));
            }
        }
        Ok(())
    }

    /// After a few deploys with everybody there.
    pub(super) fn is_where_it_should_be(&mut self) -> Result<(), String> {
        for allocation in &self.snapshot.allocations {
            let agent = &self.agents[&allocation.alloc_id];
            let name = format!("{} on {}", allocation.job, allocation.host);
            if allocation.removed {
                if agent.placed.is_some() && allocation.rolled.is_some() || agent.runs {
                    return Err(format!("{name} is removed and still there"));
                }
            } else if allocation.disabled {
                if agent.runs {
                    return Err(format!("{name} is drained and still runs"));
                }
            } else if allocation.promoted.as_ref().map(|p| p.bundle) != allocation.bundle
                || agent.placed != allocation.bundle
            {
                return Err(format!("{name} did not get there: {:?}", agent.last));
            }
        }
        let plan = self.plan(&Options::default())?;
        match plan.jobs.iter().find(|job| job.is_required()) {
            Some(job) => Err(format!("job {} needs a deploy for ever", job.job)),
            None => Ok(()),
        }
    }
}
