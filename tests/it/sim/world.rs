//! A seeded world around the planner and the rollout machine: a catalog of jobs that demand one another,
//! some of them drained or removed; agents that are away, late, broken or cut off; reports that are lost,
//! repeated, late, or left over from an earlier deploy; hooks that fail; drivers that are replaced at any
//! step; pauses. What must never happen is checked as it goes. In the end everybody is back and well, and
//! a few more deploys must bring everything to where it should be.

use std::collections::{BTreeMap, BTreeSet};

use controller::model::{Allocation, Job, Promoted, Rolled, Snapshot};
use controller::plan::{self, Changed, JobPlan, Known, Options, Plan};
use controller::rollout::flight::{Fate, Why};
use controller::rollout::job::{JobRollout, Phase};
use controller::rollout::{Effect, Event, Ids, Limits, Rollout, Stage, late};
use shared::api::GONE_MS;
use shared::api::v1::desired::Fence;
use shared::{ActionId, AllocId, JobName, WorkerId};
use uuid::Uuid;

use super::agents::{Agent, Told};
use super::catalog::catalog;
use super::mutants::Mutant;
use super::random::Random;

const LIMITS: Limits = Limits { pickup_ms: 60_000, jobs_at_once: 2 };

pub(super) struct Counter(u128);

impl Ids for Counter {
    fn action_id(&mut self) -> ActionId {
        self.0 += 1;
        ActionId::from_uuid(Uuid::from_u128(self.0))
    }
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) mutant: Mutant,
    /// Everybody is there and nothing fails.
    pub(super) calm: bool,
    pub(super) snapshot: Snapshot,
    pub(super) told: BTreeMap<AllocId, Told>,
    pub(super) agents: BTreeMap<AllocId, Agent>,
    /// Ids that were ever released, those that were taken back, and those that the machine gave up.
    pub(super) released: BTreeSet<ActionId>,
    pub(super) taken_back: BTreeSet<ActionId>,
    pub(super) given_up: BTreeSet<ActionId>,
    pub(super) ids: Counter,
    pub(super) now_ms: i64,
    pub(super) generation: u64,
}

/// What is known of one rollout, apart from what the machine says of itself.
#[derive(Default)]
pub(super) struct Course {
    /// Moves that were released in it and have not been promoted, failed or taken back.
    pub(super) open: BTreeSet<AllocId>,
    pub(super) begun: BTreeSet<AllocId>,
    pub(super) promoted: BTreeSet<AllocId>,
    pub(super) given_up: BTreeMap<JobName, usize>,
    pub(super) failed: BTreeMap<JobName, usize>,
    /// The last hooks of each job that ended, and how.
    pub(super) hooked: BTreeMap<JobName, (Stage, bool)>,
}

/// One life under one seed; what went wrong, if anything.
pub fn run(seed: u64, mutant: Mutant) -> Result<(), String> {
    let mut world = World::new(seed, mutant);
    let force = world.random.chance(10);
    world.deploy(&Options { force, ..Options::default() })?;
    if world.random.chance(30) {
        world.deploy(&Options::default())?;
    }
    // Everybody is back and well.
    world.calm = true;
    world.agents.values_mut().for_each(|agent| agent.online = true);
    for _ in 0..4 {
        if world.plan(&Options::default())?.is_required() {
            world.deploy(&Options::default())?;
        }
    }
    world.is_where_it_should_be()
}

impl World {
    fn new(seed: u64, mutant: Mutant) -> Self {
        let mut random = Random::new(seed);
        let snapshot = catalog(&mut random);
        let calm = random.chance(15);
        let mut agents = BTreeMap::new();
        for allocation in &snapshot.allocations {
            let agent = Agent {
                heedless: mutant == Mutant::LeaseIgnored,
                online: calm || random.chance(85),
                placed: allocation.promoted.as_ref().map(|promoted| promoted.bundle),
                runs: allocation.may_run(),
                // A report of an earlier deploy, of another action, that ended well.
                last: Some((
                    ActionId::from_uuid(Uuid::from_u128(u128::MAX - u128::from(random.below(99)))),
                    Some(shared::api::v1::report::Outcome::Ok),
                )),
                ..Agent::default()
            };
            agents.insert(allocation.alloc_id, agent);
        }
        Self {
            random,
            mutant,
            calm,
            snapshot,
            told: BTreeMap::new(),
            agents,
            released: BTreeSet::new(),
            taken_back: BTreeSet::new(),
            given_up: BTreeSet::new(),
            ids: Counter(0),
            now_ms: 0,
            generation: 0,
        }
    }

    /// Plans as a deploy does: with what was reported late, and who is there.
    pub(super) fn plan(&mut self, options: &Options) -> Result<Plan, String> {
        // What is forgotten would be learned again from the reports.
        if !matches!(self.mutant, Mutant::StopForgotten | Mutant::RemovalForgotten) {
            let (told, observed) = (self.rows(), self.reports());
            late::learned(&mut self.snapshot, &told, &observed);
        }
        let online = self.agents.iter().filter(|(_, agent)| agent.online).map(|(alloc, _)| worker(*alloc)).collect();
        let (changed, orders) = (Changed::new(), BTreeMap::new());
        let volatile = BTreeSet::new();
        let known = Known {
            changed: &changed,
            orders: &orders,
            online: &online,
            volatile: &volatile,
            lacking: &Default::default(),
        };
        let plan = plan::plan(&self.snapshot, options, &known);
        plan::check::check(&plan, &self.snapshot, options)?;
        Ok(plan)
    }

    fn deploy(&mut self, options: &Options) -> Result<(), String> {
        let real = self.plan(options)?;
        let mut mutated = real.clone();
        self.mutant.of_plan(&mut mutated);
        let mut rollout = Rollout::new(&mutated, LIMITS);
        let mut course = Course::default();
        let mut waiting: Vec<Event> = Vec::new();
        let mut paused = 0;
        for _ in 0..3000 {
            self.now_ms += 1 + i64::try_from(self.random.below(4000)).unwrap();
            paused = if paused > 0 { paused - 1 } else { u64::from(!self.calm && self.random.chance(2)) * 5 };
            let mut events = self.happenings(&mut waiting)?;
            self.mutant.of_events(&mut events, &rollout);
            for event in &events {
                if let Event::Hooked { job, stage, failures } = event {
                    course.hooked.insert(job.clone(), (*stage, failures.is_empty()));
                }
            }
            let before = (self.mutant == Mutant::IdReused).then(|| rollout.clone());
            let release = paused == 0 || self.mutant == Mutant::NoPause;
            let now_ms = if self.mutant == Mutant::NoDeadline { 0 } else { self.now_ms };
            let mut effects = rollout.step(&events, now_ms, release, &mut self.ids);
            for job in rollout.jobs() {
                // A stop or removal that nobody waits for is still wanted.
                let moves = job.plan.batches.iter().flatten().filter_map(|step| job.flights.get(&step.alloc_id));
                let dead = moves.filter(|flight| is_given_up(flight.fate.as_ref()));
                self.given_up.extend(dead.map(|flight| flight.action_id));
            }
            self.mutant.of_effects(&mut effects, before.as_ref());
            for effect in &effects {
                self.carry_out(effect, &real, &mut rollout, &mut course, (paused > 0, &mut waiting))?;
            }
            if self.random.chance(2) {
                rollout = reloaded(&rollout, self.now_ms);
                // Hooks that the driver before had begun are begun again.
                waiting.clear();
                for effect in rollout.rouse() {
                    self.carry_out(&effect, &real, &mut rollout, &mut course, (false, &mut waiting))?;
                }
            }
            if rollout.is_ended() {
                return self.ended_as_it_should(&real, &rollout, &course);
            }
        }
        let phases: Vec<_> = rollout.jobs().map(|job| (&job.plan.job, &job.phase)).collect();
        Err(format!("it did not end: {phases:?}"))
    }

    /// What agents do and say, and hooks that end.
    fn happenings(&mut self, waiting: &mut Vec<Event>) -> Result<Vec<Event>, String> {
        let mut events = vec![Event::Tick];
        let allocs: Vec<AllocId> = self.agents.keys().copied().collect();
        for alloc in allocs {
            let calm = self.calm;
            let attempts = self.job_of(alloc).map_or(1, |job| job.spec.health_check.attempts);
            let agent = self.agents.get_mut(&alloc).unwrap();
            if !calm && self.random.chance(3) {
                agent.online = !agent.online;
            }
            agent.mute = !calm && agent.mute != self.random.chance(3);
            let asks = calm || self.random.chance(60);
            if let Some(told) = self.told.get(&alloc).filter(|_| asks) {
                agent.read(told, self.now_ms, &mut self.random, calm);
            }
            if !calm && self.random.chance(2) {
                // It is started anew: what it has accepted it knows, what was confirmed it does not.
                agent.confirmed_ms = None;
            }
            if calm || self.random.chance(60) {
                // What it read before it went away it still does, for a while.
                let begun = agent.act(&mut self.random, calm, self.now_ms);
                if let Some(id) = begun.filter(|id| self.given_up.contains(id)) {
                    return Err(format!("{id} was given up and is done all the same"));
                }
            }
            if !agent.online || agent.mute || !(calm || self.random.chance(50)) {
                continue;
            }
            if self.told.contains_key(&alloc) && (calm || self.random.chance(50)) {
                events.push(Event::Accepted(worker(alloc), agent.read.fence));
            }
            let report = Event::Observed(agent.report(alloc, attempts));
            if calm || !self.random.chance(20) {
                waiting.push(report.clone());
            }
            if self.random.chance(10) {
                waiting.push(report);
            }
        }
        while !waiting.is_empty() && (self.calm || self.random.chance(80)) {
            let at = usize::try_from(self.random.below(waiting.len() as u64)).unwrap();
            events.push(waiting.swap_remove(at));
        }
        Ok(events)
    }

    fn carry_out(
        &mut self,
        effect: &Effect,
        real: &Plan,
        rollout: &mut Rollout,
        course: &mut Course,
        (paused, waiting): (bool, &mut Vec<Event>),
    ) -> Result<(), String> {
        match effect {
            Effect::Release(release) => {
                self.may_be_released(release, real, rollout, course, paused)?;
                self.generation += 1;
                let fence = Fence { epoch: 1, update_seq: 1, generation: self.generation };
                self.told.insert(release.alloc_id, Told { release: Some(release.clone()), fence });
                rollout.released_in(release.alloc_id, fence);
                if release.starts {
                    self.rolled(release.alloc_id).may_run = true;
                }
            }
            Effect::Withdraw { alloc_id, .. } => {
                self.generation += 1;
                let fence = Fence { epoch: 1, update_seq: 1, generation: self.generation };
                let old = self.told.insert(*alloc_id, Told { release: None, fence });
                self.taken_back.extend(old.and_then(|told| told.release).map(|release| release.action.0));
                let waits_ms = if self.mutant == Mutant::GivenUpAtOnce { GONE_MS } else { 0 };
                rollout.taken_back_at(*alloc_id, self.now_ms - waits_ms);
            }
            Effect::Promote { alloc_id, bundle, version } => {
                self.may_be_promoted(*alloc_id, *bundle, real, course)?;
                course.open.remove(alloc_id);
                course.promoted.insert(*alloc_id);
                let allocation = self.allocation(*alloc_id);
                allocation.promoted = Some(Promoted { bundle: *bundle, version: version.clone() });
                allocation.start_pending &= allocation.disabled;
                let rolled = self.rolled(*alloc_id);
                *rolled = Rolled { may_run: rolled.may_run, post_deploy: rolled.post_deploy, ..Rolled::default() };
            }
            Effect::Stopped { alloc_id } => self.rolled(*alloc_id).may_run = false,
            Effect::Removed { alloc_id } => {
                if self.agents[alloc_id].placed.is_some() {
                    return Err(format!("{alloc_id} counts as removed and has files"));
                }
                let allocation = self.allocation(*alloc_id);
                (allocation.promoted, allocation.rolled) = (None, None);
            }
            Effect::Failed { alloc_id, unhealthy } => {
                if let Some(rolled) = &mut self.allocation(*alloc_id).rolled {
                    (rolled.health_failed, rolled.action_failed) = (*unhealthy, !unhealthy);
                    rolled.deferred = None;
                }
                if course.open.remove(alloc_id) {
                    *course.failed.entry(self.allocation(*alloc_id).job.clone()).or_default() += 1;
                }
            }
            Effect::Deferred { alloc_id, .. } => {
                course.open.remove(alloc_id);
                *course.given_up.entry(self.allocation(*alloc_id).job.clone()).or_default() += 1;
            }
            Effect::Hooks(call) => {
                let good = self.calm || !self.random.chance(8);
                let failures = if good { vec![] } else { vec![(None, "it failed".to_owned())] };
                waiting.push(Event::Hooked { job: call.job.clone(), stage: call.stage, failures });
            }
            Effect::Decide { job } => {
                let plan = rollout.jobs().find(|other| other.plan.job == *job).unwrap().plan.clone();
                waiting.push(Event::Decided { job: job.clone(), plan: Ok(Box::new(plan)) });
            }
            // A hint: only that nobody is told to download what was promoted there already.
            Effect::Prefetch { worker_id, bundle } => {
                let moves = || real.jobs.iter().flat_map(|job| job.batches.iter().flatten());
                let later = |m: &&plan::Move| {
                    m.worker_id == *worker_id && m.to == *bundle && !course.promoted.contains(&m.alloc_id)
                };
                if moves().find(later).is_none() {
                    return Err(format!("{worker_id} is to download {bundle} early, which it will not be given"));
                }
            }
            Effect::PostDeploy { job, status } => {
                let allocations: Vec<AllocId> =
                    self.snapshot.allocations_of(job).filter(|a| !a.removed).map(|a| a.alloc_id).collect();
                allocations.into_iter().for_each(|alloc| self.rolled(alloc).post_deploy = Some(*status));
            }
            Effect::Moved { .. } => {}
        }
        Ok(())
    }

    pub(super) fn allocation(&mut self, alloc: AllocId) -> &mut Allocation {
        self.snapshot.allocations.iter_mut().find(|a| a.alloc_id == alloc).unwrap()
    }

    fn rolled(&mut self, alloc: AllocId) -> &mut Rolled {
        self.allocation(alloc).rolled.get_or_insert_default()
    }

    fn job_of(&self, alloc: AllocId) -> Option<&Job> {
        self.snapshot.job(&self.snapshot.allocations.iter().find(|a| a.alloc_id == alloc)?.job)
    }
}

fn is_given_up(fate: Option<&Fate>) -> bool {
    matches!(fate, Some(Fate::Deferred | Fate::Failed { why: Why::NoResult { .. } }))
}

fn worker(alloc: AllocId) -> WorkerId {
    WorkerId::from_uuid(alloc.uuid())
}

pub(super) fn state_of<'a>(rollout: &'a Rollout, plan: &JobPlan) -> &'a JobRollout {
    rollout.jobs().find(|job| job.plan.job == plan.job).unwrap()
}

/// What a driver that takes over reads from the rows.
fn reloaded(rollout: &Rollout, now_ms: i64) -> Rollout {
    let again = |job: &JobRollout| {
        let plan = serde_json::from_str(&serde_json::to_string(&job.plan).unwrap()).unwrap();
        let phase: Phase = serde_json::from_str(&serde_json::to_string(&job.phase).unwrap()).unwrap();
        let flights = job
            .flights
            .iter()
            .map(|(alloc, flight)| (*alloc, serde_json::from_str(&serde_json::to_string(flight).unwrap()).unwrap()));
        JobRollout::loaded(plan, phase, flights.collect())
    };
    Rollout::resumed(rollout.jobs().map(again).collect(), LIMITS, now_ms)
}
