//! A seeded world for the rollout machine: agents that take up releases late or never, fail, are cut
//! off in the middle, and whose reports are lost, repeated, late, or left over from an earlier deploy;
//! a driver that is replaced at any step. What must never happen is checked as it goes.
//!
//! Over 400 lines, because the world, its mutants and its checks are read together.

use std::collections::{BTreeMap, BTreeSet};

use controller::plan::{JobPlan, Move, Plan};
use controller::rollout::event::Release;
use controller::rollout::job::{JobRollout, State};
use controller::rollout::{Effect, Event, Ids, Limits, Observed, Rollout};
use shared::api::v1::desired::Fence;
use shared::api::v1::report::Outcome;
use shared::{ActionId, ActionKind, AllocId, BundleDigest, WorkerId};
use uuid::Uuid;

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A way in which the machine could be wrong; each must be noticed.
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
    /// A job goes on after a member failed.
    GoesOn,
    /// A later wave does not wait for an earlier one.
    NoWaves,
}

impl Mutant {
    pub const ALL: [Mutant; 9] = [
        Mutant::StaleReport,
        Mutant::BundleIgnored,
        Mutant::BatchTooBig,
        Mutant::NoWait,
        Mutant::IdReused,
        Mutant::FailureIgnored,
        Mutant::NoDeadline,
        Mutant::GoesOn,
        Mutant::NoWaves,
    ];
}

struct Counter(u128);

impl Ids for Counter {
    fn action_id(&mut self) -> ActionId {
        self.0 += 1;
        ActionId::from_uuid(Uuid::from_u128(self.0))
    }
}

#[derive(Debug, Clone)]
struct Agent {
    healthy: bool,
    /// What it was told last.
    told: Option<(Release, Fence)>,
    /// Everything that it ran to an end: action, outcome, bundle.
    ran: BTreeMap<ActionId, (Outcome, BundleDigest)>,
    placed: Option<BundleDigest>,
    last: Option<(ActionId, Option<Outcome>)>,
    accepted: Option<Fence>,
}

const PICKUP_MS: i64 = 60_000;

/// One deploy under one seed; panics with what went wrong.
pub fn run(seed: u64, mutant: Mutant) -> Result<(), String> {
    let mut random = Random::new(seed);
    let (plan, limits) = plan(&mut random);
    let calm = random.chance(20);
    let mut agents = BTreeMap::new();
    for step in plan.jobs.iter().flat_map(|job| job.batches.iter().flatten()) {
        let agent = Agent {
            healthy: calm || random.chance(92),
            told: None,
            ran: BTreeMap::new(),
            placed: step.from,
            // A report of an earlier deploy, of another action, that ended well.
            last: Some((
                ActionId::from_uuid(Uuid::from_u128(u128::MAX - u128::from(random.below(99)))),
                Some(Outcome::Ok),
            )),
            accepted: None,
        };
        agents.insert(step.alloc_id, agent);
    }
    let mut rollout = mutated(Rollout::new(&plan, Limits { pickup_ms: PICKUP_MS }), mutant);
    let mut ids = Counter(0);
    let mut seen_ids = BTreeSet::new();
    let mut promoted: BTreeSet<AllocId> = BTreeSet::new();
    let mut in_the_air: Vec<Observed> = Vec::new();
    let mut now = 0i64;
    let mut generation = 0;
    for _ in 0..4000 {
        now += 1 + i64::try_from(random.below(3000)).unwrap();
        let mut accepted = Vec::new();
        // Agents act, and speak.
        for (alloc, agent) in &mut agents {
            act(agent, &mut random, calm);
            if calm || random.chance(50) {
                let observed = Observed {
                    alloc_id: *alloc,
                    bundle: agent.placed,
                    action: agent.last.clone(),
                    problem: None,
                    tail: None,
                    duration_ms: 1,
                };
                if calm || !random.chance(20) {
                    in_the_air.push(observed.clone());
                }
                if let Some(fence) = agent.accepted.filter(|_| calm || random.chance(50)) {
                    accepted.push((WorkerId::from_uuid(alloc.uuid()), fence));
                }
                if random.chance(10) {
                    in_the_air.push(observed);
                }
            }
        }
        let mut events = vec![Event::Tick];
        events.extend(accepted.into_iter().map(|(worker, fence)| Event::Accepted(worker, fence)));
        while !in_the_air.is_empty() && (calm || random.chance(80)) {
            let at = usize::try_from(random.below(in_the_air.len() as u64)).unwrap();
            events.push(Event::Observed(in_the_air.swap_remove(at)));
        }
        let before = rollout.clone();
        let mut effects = rollout.step(
            &meddled(&events, &rollout, mutant),
            if mutant == Mutant::NoDeadline { 0 } else { now },
            true,
            &mut ids,
        );
        mutate(&mut effects, &before, mutant);
        for effect in &effects {
            match effect {
                Effect::Release(release) => {
                    if !seen_ids.insert(release.action_id) {
                        return Err(format!("action id {} was given twice", release.action_id));
                    }
                    let job = job_of(&plan, release.alloc_id);
                    if agents.iter().any(|(alloc, _)| {
                        job_of(&plan, *alloc).seq < job.seq && !ended(&rollout, job_of(&plan, *alloc))
                    }) {
                        return Err("a job was released before an earlier wave had ended".to_owned());
                    }
                    if failed(&before, job) {
                        return Err("a job that failed released more".to_owned());
                    }
                    generation += 1;
                    let fence = Fence { epoch: 1, update_seq: 1, generation };
                    agents.get_mut(&release.alloc_id).unwrap().told = Some((release.clone(), fence));
                    rollout.released_in(release.alloc_id, fence);
                }
                Effect::Promote { alloc_id, bundle, .. } => {
                    let agent = &agents[alloc_id];
                    let proved = agent.told.as_ref().is_some_and(|(release, _)| {
                        release.bundle == *bundle && agent.ran.get(&release.action_id) == Some(&(Outcome::Ok, *bundle))
                    });
                    if !proved {
                        return Err(format!("{alloc_id} was promoted without having run that bundle well"));
                    }
                    promoted.insert(*alloc_id);
                }
                // A hint: only that nobody is told to download what was promoted there already.
                Effect::Prefetch { worker_id, bundle } => {
                    let moves = || plan.jobs.iter().flat_map(|job| job.batches.iter().flatten());
                    if !moves().any(|m| m.worker_id == *worker_id && m.to == *bundle && !promoted.contains(&m.alloc_id))
                    {
                        return Err(format!("{worker_id} is to download {bundle} early, which it will not be given"));
                    }
                }
                Effect::Moved { .. } => {}
            }
        }
        limits_hold(&plan, &rollout, &limits)?;
        if random.chance(10) {
            rollout = reloaded(&rollout);
        }
        if rollout.is_ended() {
            let all = plan.jobs.iter().flat_map(|job| job.batches.iter().flatten()).count();
            let good = rollout.jobs().all(|job| job.state == State::Done);
            return match (good, promoted.len() == all) {
                (true, false) => Err("it ended well with allocations that were not promoted".to_owned()),
                (false, _) if calm => Err("it failed with every agent healthy".to_owned()),
                _ => Ok(()),
            };
        }
    }
    Err(format!("it did not end: {:?}", rollout.jobs().map(|job| &job.state).collect::<Vec<_>>()))
}

fn act(agent: &mut Agent, random: &mut Random, calm: bool) {
    let Some((release, fence)) = agent.told.clone() else { return };
    if !agent.healthy || !(calm || random.chance(60)) {
        return;
    }
    agent.accepted = Some(fence);
    if agent.ran.contains_key(&release.action_id) {
        return;
    }
    if agent.last.as_ref().is_some_and(|(id, outcome)| *id == release.action_id && outcome.is_none()) {
        // It runs; it ends, or the agent is cut off.
        let outcome = match random.below(100) {
            _ if calm => Outcome::Ok,
            0..=2 => Outcome::Failed { exit: 1 },
            3..=8 => Outcome::Interrupted,
            _ => Outcome::Ok,
        };
        // A broken agent says that all is well with other files than it was told to put there.
        let broken = !calm && outcome == Outcome::Ok && random.chance(2);
        let placed = if broken { BundleDigest::from_bytes([255; 32]) } else { release.bundle };
        agent.placed = Some(placed);
        agent.ran.insert(release.action_id, (outcome.clone(), placed));
        agent.last = Some((release.action_id, Some(outcome)));
    } else {
        agent.placed = Some(release.bundle);
        agent.last = Some((release.action_id, None));
    }
}

fn plan(random: &mut Random) -> (Plan, BTreeMap<String, (usize, usize)>) {
    let mut jobs = Vec::new();
    let mut limits = BTreeMap::new();
    let mut number = 0u128;
    for n in 0..1 + random.below(3) {
        let (starts, upgrades) = (random.below(3) as u32, 1 + random.below(3) as u32);
        let mut moves = Vec::new();
        for _ in 0..1 + random.below(5) {
            number += 1;
            let new = random.chance(40);
            let digest = |n: u128| BundleDigest::from_bytes([u8::try_from(n % 250).unwrap(); 32]);
            moves.push(Move {
                alloc_id: AllocId::from_uuid(Uuid::from_u128(number)),
                worker_id: WorkerId::from_uuid(Uuid::from_u128(number)),
                host: format!("w{number}").parse().unwrap(),
                kind: if new { ActionKind::Start } else { ActionKind::Restart },
                from: (!new).then(|| digest(number + 100)),
                to: digest(number),
                current_version: "1.0.0".into(),
                new_version: "2.0.0".into(),
                matched: vec![],
            });
        }
        let all_new = moves.iter().filter(|m| m.kind == ActionKind::Start).count();
        let start_limit = if starts == 0 { all_new } else { starts as usize };
        let batches = controller::plan::batches::batches(moves, starts, upgrades);
        let job = format!("j{n}");
        limits.insert(job.clone(), (start_limit, upgrades as usize));
        jobs.push(JobPlan {
            job: job.parse().unwrap(),
            seq: random.below(2) as u32,
            timeout_s: 30,
            dir_mode: None,
            batches,
            skipped: vec![],
        });
    }
    jobs.sort_by(|a, b| (a.seq, &a.job).cmp(&(b.seq, &b.job)));
    (Plan { jobs }, limits)
}

fn job_of(plan: &Plan, alloc: AllocId) -> &JobPlan {
    plan.jobs.iter().find(|job| job.batches.iter().flatten().any(|step| step.alloc_id == alloc)).unwrap()
}

fn state_of<'a>(rollout: &'a Rollout, job: &JobPlan) -> &'a State {
    &rollout.jobs().find(|other| other.plan.job == job.job).unwrap().state
}

fn ended(rollout: &Rollout, job: &JobPlan) -> bool {
    matches!(state_of(rollout, job), State::Done | State::Failed { .. })
}

fn failed(rollout: &Rollout, job: &JobPlan) -> bool {
    match state_of(rollout, job) {
        State::Failed { .. } => true,
        State::Awaiting { failed, missing, .. } => !failed.is_empty() && missing.is_empty(),
        _ => false,
    }
}

fn limits_hold(plan: &Plan, rollout: &Rollout, limits: &BTreeMap<String, (usize, usize)>) -> Result<(), String> {
    for job in rollout.jobs() {
        let State::Awaiting { missing, .. } = &job.state else { continue };
        let kinds = missing.keys().map(|alloc| {
            let all = &plan.jobs.iter().find(|j| j.job == job.plan.job).unwrap().batches;
            all.iter().flatten().find(|step| step.alloc_id == *alloc).unwrap().kind
        });
        let (starts, upgrades): (Vec<_>, Vec<_>) = kinds.partition(|kind| *kind == ActionKind::Start);
        let (max_starts, max_upgrades) = limits[job.plan.job.as_str()];
        if starts.len() > max_starts || upgrades.len() > max_upgrades {
            return Err(format!(
                "job {} has {} starts and {} upgrades in flight",
                job.plan.job,
                starts.len(),
                upgrades.len()
            ));
        }
    }
    Ok(())
}

/// What a driver that takes over reads from the rows.
fn reloaded(rollout: &Rollout) -> Rollout {
    let jobs = rollout.jobs().map(|job| JobRollout {
        plan: serde_json::from_str(&serde_json::to_string(&job.plan).unwrap()).unwrap(),
        state: serde_json::from_str(&serde_json::to_string(&job.state).unwrap()).unwrap(),
    });
    Rollout::resumed(jobs.collect(), Limits { pickup_ms: PICKUP_MS })
}

/// Mutants of the plan that the machine was given.
fn mutated(rollout: Rollout, mutant: Mutant) -> Rollout {
    let jobs: Vec<JobRollout> = rollout
        .jobs()
        .map(|job| {
            let mut plan = job.plan.clone();
            match mutant {
                Mutant::BatchTooBig if plan.batches.len() > 1 => {
                    let moved = plan.batches[1].remove(0);
                    plan.batches[0].push(moved);
                    plan.batches.retain(|batch| !batch.is_empty());
                }
                Mutant::NoWait => plan.batches = vec![plan.batches.concat()],
                Mutant::NoWaves => plan.seq = 0,
                _ => {}
            }
            JobRollout::new(plan)
        })
        .collect();
    Rollout::resumed(jobs, Limits { pickup_ms: PICKUP_MS })
}

/// Mutants of how the machine reads reports.
fn meddled(events: &[Event], rollout: &Rollout, mutant: Mutant) -> Vec<Event> {
    let mut events = events.to_vec();
    for event in &mut events {
        let Event::Observed(observed) = event else { continue };
        let flight = rollout.jobs().find_map(|job| match &job.state {
            State::Awaiting { missing, batch, .. } => {
                let to = job.plan.batches[*batch].iter().find(|step| step.alloc_id == observed.alloc_id)?.to;
                missing.get(&observed.alloc_id).map(|flight| (flight.action_id, to))
            }
            _ => None,
        });
        let (Some((id, to)), Some((said, outcome))) = (flight, observed.action.clone()) else { continue };
        match mutant {
            Mutant::StaleReport => {
                observed.action = Some((id, outcome));
                observed.bundle = Some(to);
            }
            Mutant::BundleIgnored => observed.bundle = Some(to),
            Mutant::FailureIgnored if said == id && outcome.is_some() => {
                observed.action = Some((id, Some(Outcome::Ok)))
            }
            Mutant::GoesOn if said == id && matches!(outcome, Some(Outcome::Failed { .. })) => {
                observed.action = Some((id, Some(Outcome::Ok)));
            }
            _ => {}
        }
    }
    events
}

/// Mutants of what the machine asks for.
fn mutate(effects: &mut [Effect], before: &Rollout, mutant: Mutant) {
    if mutant != Mutant::IdReused {
        return;
    }
    for effect in effects {
        if let Effect::Release(release) = effect {
            let old = before.jobs().find_map(|job| match &job.state {
                State::Awaiting { missing, .. } => missing.get(&release.alloc_id).map(|flight| flight.action_id),
                _ => None,
            });
            release.action_id = old.unwrap_or(release.action_id);
        }
    }
}
