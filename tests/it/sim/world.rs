//! A seeded world around the planner and the rollout machine: a catalog of jobs that demand one another,
//! some of them drained or removed; agents that are away, late, broken or cut off; reports that are lost,
//! repeated, late, or left over from an earlier deploy; hooks that fail; drivers that are replaced at any
//! step; pauses. What must never happen is checked as it goes. In the end everybody is back and well, and
//! a few more deploys must bring everything to where it should be.
//!
//! Over 400 lines, because the world and its checks are read together.

use std::collections::{BTreeMap, BTreeSet};

use controller::model::{
    Allocation, Budget, Demand, Hook, HookEvent, Job, JobSpec, Probe, Promoted, RestartPolicy, Rolled, Snapshot,
};
use controller::plan::{self, Changed, JobPlan, Known, Options, Plan};
use controller::rollout::event::Release;
use controller::rollout::flight::{Fate, Why};
use controller::rollout::job::{End, JobRollout, Phase};
use controller::rollout::{Effect, Event, Ids, Limits, Rollout, Stage, late};
use shared::api::GONE_MS;
use shared::api::v1::desired::{DesiredAction, DesiredAllocation, Fence, RunState};
use shared::api::v1::report::{ObservedAction, ObservedAllocation, Phase as AgentPhase, Process};
use shared::{ActionId, ActionKind, AllocId, BucketId, BundleDigest, JobName, RunId, WorkerId};
use uuid::Uuid;

use super::agents::{Agent, Told};
use super::mutants::Mutant;
use super::random::Random;

const LIMITS: Limits = Limits { pickup_ms: 60_000, jobs_at_once: 2 };

struct Counter(u128);

impl Ids for Counter {
    fn action_id(&mut self) -> ActionId {
        self.0 += 1;
        ActionId::from_uuid(Uuid::from_u128(self.0))
    }
}

struct World {
    random: Random,
    mutant: Mutant,
    /// Everybody is there and nothing fails.
    calm: bool,
    snapshot: Snapshot,
    told: BTreeMap<AllocId, Told>,
    agents: BTreeMap<AllocId, Agent>,
    /// Ids that were ever released, those that were taken back, and those that the machine gave up.
    released: BTreeSet<ActionId>,
    taken_back: BTreeSet<ActionId>,
    given_up: BTreeSet<ActionId>,
    ids: Counter,
    now_ms: i64,
    generation: u64,
}

/// What is known of one rollout, apart from what the machine says of itself.
#[derive(Default)]
struct Course {
    /// Moves that were released in it and have not been promoted, failed or taken back.
    open: BTreeSet<AllocId>,
    begun: BTreeSet<AllocId>,
    promoted: BTreeSet<AllocId>,
    given_up: BTreeMap<JobName, usize>,
    failed: BTreeMap<JobName, usize>,
    /// The last hooks of each job that ended, and how.
    hooked: BTreeMap<JobName, (Stage, bool)>,
}

fn digest(n: u128) -> BundleDigest {
    BundleDigest::from_bytes([u8::try_from(n % 250).unwrap(); 32])
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
    fn plan(&mut self, options: &Options) -> Result<Plan, String> {
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

    fn may_be_released(
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

    fn may_be_promoted(
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

    fn ended_as_it_should(&self, real: &Plan, rollout: &Rollout, course: &Course) -> Result<(), String> {
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
    fn is_where_it_should_be(&mut self) -> Result<(), String> {
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

    fn allocation(&mut self, alloc: AllocId) -> &mut Allocation {
        self.snapshot.allocations.iter_mut().find(|a| a.alloc_id == alloc).unwrap()
    }

    fn rolled(&mut self, alloc: AllocId) -> &mut Rolled {
        self.allocation(alloc).rolled.get_or_insert_default()
    }

    fn job_of(&self, alloc: AllocId) -> Option<&Job> {
        self.snapshot.job(&self.snapshot.allocations.iter().find(|a| a.alloc_id == alloc)?.job)
    }

    /// The desired rows that a planner looks at.
    fn rows(&self) -> Vec<DesiredAllocation> {
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

    fn reports(&self) -> BTreeMap<AllocId, ObservedAllocation> {
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
                phase: AgentPhase::Idle,
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

fn is_given_up(fate: Option<&Fate>) -> bool {
    matches!(fate, Some(Fate::Deferred | Fate::Failed { why: Why::NoResult { .. } }))
}

fn worker(alloc: AllocId) -> WorkerId {
    WorkerId::from_uuid(alloc.uuid())
}

fn state_of<'a>(rollout: &'a Rollout, plan: &JobPlan) -> &'a JobRollout {
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

/// One to three jobs, of one to five allocations each.
fn catalog(random: &mut Random) -> Snapshot {
    let (mut jobs, mut allocations, mut number) = (Vec::<Job>::new(), Vec::new(), 0u128);
    for n in 0..1 + random.below(3) {
        let name: JobName = format!("j{n}").parse().unwrap();
        let demand =
            jobs.iter().filter(|_| random.chance(50)).map(|job| (job.name.clone(), job.spec.deployment_seq)).last();
        let mut hooks = BTreeMap::new();
        if let Some((job, _)) = &demand {
            let config = serde_json::Map::default();
            let demand = Some(Demand { job: job.clone(), hook: "hook_x".parse().unwrap(), config });
            hooks
                .insert("hook_d".parse().unwrap(), Hook { executed_on: [HookEvent::Cli].into(), demand, timeout_s: 1 });
        }
        let often = [
            (HookEvent::PreDeploy, 15),
            (HookEvent::PostDeploy, 15),
            (HookEvent::HealthCheck, 15),
            (HookEvent::AfterAllocationStarted, 15),
            (HookEvent::AfterAllocationStopped, 15),
            (HookEvent::JobControl, 8),
        ];
        let executed_on: BTreeSet<HookEvent> =
            often.into_iter().filter(|(_, percent)| random.chance(*percent)).map(|(event, _)| event).collect();
        if !executed_on.is_empty() {
            hooks.insert("hook_e".parse().unwrap(), Hook { executed_on, demand: None, timeout_s: 1 });
        }
        let deployment_seq = demand.map_or(0, |(_, seq)| seq + 1);
        let mut spec = JobSpec {
            max_concurrent_upgrades: 1 + random.below(3) as u32,
            max_concurrent_starts: random.below(3) as u32,
            action_timeout_s: 30,
            deployment_seq,
            restart_policy: [RestartPolicy::Always, RestartPolicy::Reload, RestartPolicy::Never]
                [random.below(3) as usize],
            max_failed: Budget::Count(if random.chance(30) { random.below(3) as u32 } else { 0 }),
            max_unreachable: Budget::Count(if random.chance(50) { random.below(4) as u32 } else { 0 }),
            hooks,
            ..JobSpec::default()
        };
        spec.health_check.attempts = 1 + random.below(4) as u32;
        if random.chance(30) {
            spec.health_check.checks = vec![Probe::Exec { command: "true".to_owned() }];
        }
        for _ in 0..1 + random.below(5) {
            number += 1;
            let promoted = match random.below(10) {
                0..=3 => None,
                4..=5 => Some(digest(number)),
                _ => Some(digest(number + 100)),
            };
            let (removed, disabled) = (random.chance(10), random.chance(15));
            allocations.push(Allocation {
                alloc_id: AllocId::from_uuid(Uuid::from_u128(number)),
                job: name.clone(),
                host: format!("w{number}").parse().unwrap(),
                worker_id: WorkerId::from_uuid(Uuid::from_u128(number)),
                disabled,
                removed,
                start_pending: !disabled && !removed && promoted.is_some() && random.chance(10),
                deployment_seq,
                new_version: "2.0.0".into(),
                bundle: (!removed).then(|| digest(number)),
                rolled: promoted.map(|_| Rolled { may_run: !random.chance(10), ..Rolled::default() }),
                promoted: promoted.map(|bundle| Promoted { bundle, version: "1.0.0".into() }),
                render_inputs: None,
            });
        }
        jobs.push(Job { name, spec, files: vec![] });
    }
    Snapshot {
        bucket_id: BucketId::from_uuid(Uuid::from_u128(1)),
        epoch: 1,
        update_seq: 1,
        built_at_ms: Some(1),
        workers: vec![],
        jobs,
        allocations,
    }
}
