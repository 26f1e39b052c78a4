//! Edge: drives a rollout: holds its lease, carries out what the machine asks for, tells it what agents
//! said. Each step is one transaction: what agents are told, what is promoted, and the machine's state.
#![expect(clippy::disallowed_methods, reason = "edge: waits for reports")]

pub mod catch_up;
pub mod daemon;
pub mod hands;
pub mod operations;
mod step;
pub mod survey;
pub mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shared::api::v1::desired::{Fence, Hold};
use shared::api::v1::health::HealthState;
use shared::text::clean;
use shared::{ActionId, Diagnostic, Host, JobName, RunId, WorkerId};

use crate::catalog::rollout::{self as rows, Header, Request, State};
use crate::catalog::{self, Catalog, holds, kv, observed, publish, read};
use crate::clock::{self, Steady};
use crate::model::Snapshot;
use crate::paths::BucketDir;
use crate::plan::{Options, Plan};
use crate::rollout::event::Moved;
use crate::rollout::{Event, Ids, Limits, Observed, Probed, Rollout};
use crate::serve::notify::wake;
use hands::Hands;

/// How long a lease is good, milliseconds.
const LEASE_MS: i64 = 20_000;
/// How often it is renewed.
const RENEW_MS: i64 = 5_000;
/// How often reports are looked for.
const LOOK: Duration = Duration::from_millis(4);
/// How often deadlines are looked at when nothing is reported.
const TICK_MS: i64 = 200;

/// Who hears of a rollout's moves.
pub trait Progress {
    /// An allocation moved, or a job as a whole.
    fn moved(&self, job: &JobName, host: Option<&Host>, what: &Moved);
    /// How often the operator asked to stop: once ends after what is in flight, twice at once.
    fn interrupts(&self) -> u32;
}

/// Randomness for the machine.
#[derive(Debug, Default)]
pub struct RandomIds;

impl Ids for RandomIds {
    fn action_id(&mut self) -> ActionId {
        ActionId::from_uuid(clock::random_uuid())
    }
}

/// Who a rollout works with.
struct Context<'a> {
    bucket: &'a BucketDir,
    progress: &'a dyn Progress,
    hands: &'a Arc<Hands>,
}

/// Who waits for a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attended {
    /// Somebody at a terminal: when this process ends, the rollout is paused.
    Here,
    /// Nobody; this process drives it, and another one goes on when it ends.
    Driven,
    /// Nobody; whoever drives rollouts takes it up.
    Left,
}

/// A rollout to drive.
#[derive(Debug)]
pub struct Driver {
    /// Its id.
    pub run: RunId,
    /// Its number.
    pub update_seq: u64,
    owner: String,
    attended: bool,
    options: Options,
    /// What it was planned from, with what hooks made of it since.
    snapshot: Arc<Snapshot>,
    /// The catalog has another build than what was planned from.
    is_stale: bool,
    rollout: Rollout,
    /// What hooks and templates said when they failed, by job.
    pub problems: BTreeMap<JobName, Vec<Diagnostic>>,
    /// What each agent was last seen to have accepted.
    accepted: BTreeMap<WorkerId, Fence>,
    /// The machine's time. Its waits are of this driver's life alone: one that takes over waits anew, and nobody who
    /// sets the clock ends one early, in which an agent may still begin what was taken back.
    steady: Steady,
    /// Somebody else has the lease.
    is_lost: bool,
}

/// How driving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every job has.
    Whole,
    /// The operator asked; the rollout can be gone on with.
    Paused,
    /// The operator asked; what had not ended is given up.
    Aborted,
    /// Somebody else has the lease now.
    LeaseLost,
}

/// What is said of a worker on which an operator wants nothing changed.
pub fn held_words(hold: &Hold) -> String {
    format!("held until {}: {}", clock::time(hold.until_ms), clean(&hold.reason))
}

/// Who this process is, in a lease.
pub fn owner() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = rustix::system::uname();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("process {} on {} ({number})", std::process::id(), name.nodename().to_string_lossy())
}

impl Driver {
    /// Begins a rollout: update_seq moves, workers are told, the plan is written down, in one transaction.
    /// One that brings stragglers up to date is no deploy of its own: update_seq stays.
    pub fn begin(
        catalog: &mut Catalog,
        bucket: &BucketDir,
        (snapshot, plan, options): (&Snapshot, &Plan, &Options),
        limits: Limits,
        attended: Attended,
        run: RunId,
    ) -> catalog::Result<Self> {
        let (owner, now_ms, steady) = (owner(), clock::now_ms(), Steady::begin());
        let mut rollout = Rollout::new(plan, limits);
        let update_seq = catalog.write(|tx| {
            // Read again under the write lock: another deploy may have moved it.
            let catches_up = options.catch_up.is_some();
            let update_seq = read::update_seq(tx)? + u64::from(!catches_up);
            let lease = (attended != Attended::Left).then_some((owner.as_str(), now_ms + LEASE_MS));
            let built_ms = snapshot.built_at_ms;
            rows::create(tx, run, options, (update_seq, attended == Attended::Here, built_ms), lease, now_ms)?;
            if !catches_up {
                publish::begin(tx, snapshot, update_seq, now_ms)?;
                step::forget_post_deploy(tx, snapshot, plan)?;
            }
            step::save(tx, run, &mut rollout)?;
            Ok(update_seq)
        })?;
        // What is released in a moment wakes its agents; two documents in a row would be one too many.
        if !plan.is_required() || attended == Attended::Left {
            wake(bucket);
        }
        let attended = attended == Attended::Here;
        let (options, snapshot) = (options.clone(), Arc::new(snapshot.clone()));
        let (problems, accepted) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self {
            run,
            update_seq,
            owner,
            attended,
            options,
            snapshot,
            is_stale: false,
            rollout,
            problems,
            accepted,
            steady,
            is_lost: false,
        })
    }

    /// Goes on with a rollout whose driver is gone; `None` when its lease is still held.
    pub fn resume(catalog: &mut Catalog, open: &Header, limits: Limits) -> catalog::Result<Option<Self>> {
        let (owner, now_ms) = (owner(), clock::now_ms());
        let run = open.run;
        let jobs = catalog.write(|tx| {
            if !rows::lease(tx, run, &owner, now_ms + LEASE_MS, now_ms)? {
                return Ok(None);
            }
            Ok(Some((rows::load_jobs(tx, run)?, read::snapshot(tx)?)))
        })?;
        Ok(jobs.map(|(jobs, snapshot)| {
            let steady = Steady::begin();
            let rollout = Rollout::resumed(jobs, limits, steady.now_ms());
            let is_stale = snapshot.built_at_ms != open.built_ms;
            Self {
                run,
                update_seq: open.update_seq,
                owner,
                attended: open.attended,
                options: open.options.clone(),
                snapshot: Arc::new(snapshot),
                is_stale,
                rollout,
                problems: BTreeMap::new(),
                accepted: BTreeMap::new(),
                steady,
                is_lost: false,
            }
        }))
    }

    /// The machine, for what became of each job.
    pub fn rollout(&self) -> &Rollout {
        &self.rollout
    }

    /// Drives until the end, a pause, or the loss of the lease. After an error the rollout is paused, if
    /// the catalog still takes that: the next deploy goes on with it at once.
    pub fn drive(
        &mut self,
        catalog: &mut Catalog,
        bucket: &BucketDir,
        progress: &dyn Progress,
        hands: &Arc<Hands>,
    ) -> catalog::Result<Ended> {
        let ended = self.drive_on(catalog, bucket, progress, hands);
        if ended.as_ref().ok() != Some(&Ended::Whole) {
            hands.cancel(progress.interrupts() > 1);
        }
        if ended.is_err()
            && let Err(error) = self.end(catalog, Ended::Paused, None)
        {
            tracing::warn!(error = shared::diagnostic::chain(&error), run = %self.run, "lease_kept");
        }
        ended
    }

    fn drive_on(
        &mut self,
        catalog: &mut Catalog,
        bucket: &BucketDir,
        progress: &dyn Progress,
        hands: &Arc<Hands>,
    ) -> catalog::Result<Ended> {
        let context = Context { bucket, progress, hands };
        let roused = self.rollout.rouse();
        self.carry_out(catalog, &context, &roused, &[], self.steady.now_ms(), true)?;
        let mut mark = 0;
        let mut version = None;
        let mut stepped_ms = 0;
        let mut renewed_ms = self.steady.now_ms();
        let mut asked = None;
        loop {
            let now_ms = self.steady.now_ms();
            if now_ms - renewed_ms >= RENEW_MS {
                renewed_ms = now_ms;
                let (run, owner) = (self.run, self.owner.clone());
                // By the clock that others look at.
                let wall_ms = clock::now_ms();
                self.is_lost = !catalog.write(|tx| rows::lease(tx, run, &owner, wall_ms + LEASE_MS, wall_ms))?;
            }
            if self.is_lost {
                return Ok(Ended::LeaseLost);
            }
            let seen = catalog.data_version()?;
            let news = version != Some(seen);
            let hooked = hands.ended();
            if !news && hooked.is_empty() && now_ms - stepped_ms < TICK_MS {
                std::thread::sleep(LOOK);
                continue;
            }
            version = Some(seen);
            stepped_ms = now_ms;
            let mut events = vec![Event::Tick];
            if news {
                let request;
                (events, mark, request) = self.events(catalog, mark)?;
                asked = request.or(asked);
            }
            let mut writes = Vec::new();
            for ended in hooked {
                self.hooked(&ended);
                events.push(ended.event);
                writes.extend(ended.writes);
            }
            let interrupts = progress.interrupts();
            let pausing = interrupts > 0 || asked.is_some();
            self.step(catalog, &context, &events, &writes, now_ms, !pausing)?;
            if self.is_lost {
                return Ok(Ended::LeaseLost);
            }
            if self.rollout.is_ended() {
                return self.end(catalog, Ended::Whole, asked);
            }
            if asked == Some(Request::Abort) {
                hands.cancel(false);
                self.give_up(catalog, &context, now_ms)?;
                return self.end(catalog, Ended::Aborted, asked);
            }
            if interrupts > 1 || (pausing && !self.rollout.is_busy()) {
                return self.end(catalog, Ended::Paused, asked);
            }
        }
    }

    /// Ends what has not ended, without waiting for anything: nobody drives it.
    pub fn abort(
        &mut self,
        catalog: &mut Catalog,
        bucket: &BucketDir,
        progress: &dyn Progress,
        hands: &Arc<Hands>,
    ) -> catalog::Result<()> {
        self.give_up(catalog, &Context { bucket, progress, hands }, self.steady.now_ms())?;
        self.end(catalog, Ended::Aborted, None).map(drop)
    }

    /// Leaves it for whoever goes on with it.
    pub fn pause(self, catalog: &mut Catalog) -> catalog::Result<()> {
        self.end(catalog, Ended::Paused, Some(Request::Pause)).map(drop)
    }

    fn end(&self, catalog: &mut Catalog, ended: Ended, asked: Option<Request>) -> catalog::Result<Ended> {
        let failed = self.rollout.jobs().any(|job| job.has_failed() || !job.failures().is_empty());
        let (run, owner) = (self.run, self.owner.as_str());
        let state = match (ended, failed) {
            (Ended::Paused | Ended::LeaseLost, _) => State::Paused,
            (Ended::Aborted, _) => State::Aborted,
            (Ended::Whole, true) => State::Failed,
            (Ended::Whole, false) => State::Done,
        };
        // One that nobody waits for is gone on with by whoever drives next, unless an operator paused it.
        let stays = state == State::Paused && !self.attended && asked.is_none();
        let now_ms = clock::now_ms();
        catalog.write(|tx| match stays {
            true => rows::let_go(tx, run, owner),
            false => {
                if ended == Ended::Whole {
                    // An order that a hook set was for this deploy.
                    let jobs = self.rollout.jobs().map(|job| &job.plan.job).collect();
                    kv::reset_orders(tx, &jobs, now_ms)?;
                }
                rows::end(tx, run, owner, state, now_ms)
            }
        })?;
        Ok(ended)
    }

    /// Keeps what hooks said, of each job what was said last.
    fn hooked(&mut self, ended: &hands::Ended) {
        if let Event::Hooked { job, .. } = &ended.event {
            match ended.problems.is_empty() {
                true => drop(self.problems.remove(job)),
                false => drop(self.problems.insert(job.clone(), ended.problems.clone())),
            }
        }
    }

    /// What agents said since `mark`, and what an operator asked for.
    fn events(&mut self, catalog: &mut Catalog, mark: u64) -> catalog::Result<(Vec<Event>, u64, Option<Request>)> {
        let run = self.run;
        let now_ms = clock::now_ms();
        let (changes, mark, agents, request, held) = catalog.read(|tx| {
            let (changes, mark) = observed::since(tx, mark)?;
            Ok((changes, mark, observed::accepted(tx)?, rows::request(tx, run)?, holds::held(tx, now_ms)?))
        })?;
        let held = held.into_iter().map(|(worker, hold)| (worker, held_words(&hold))).collect();
        let mut events = vec![Event::Held(held)];
        for (worker, fence) in agents {
            if self.accepted.insert(worker, fence) != Some(fence) {
                events.push(Event::Accepted(worker, fence));
            }
        }
        events.extend(changes.into_iter().map(|change| {
            let observed = change.observed;
            let action = observed.action;
            Event::Observed(Observed {
                alloc_id: observed.alloc_id,
                bundle: observed.bundle,
                problem: observed.problem,
                tail: action.as_ref().and_then(|action| action.tail.clone()),
                duration_ms: action.as_ref().map_or(0, |action| action.duration_ms),
                action: action.map(|action| (action.id, action.outcome)),
                health: observed.health.map(|health| Probed {
                    action: health.action,
                    healthy: match health.state {
                        HealthState::Healthy => Some(true),
                        HealthState::Unhealthy => Some(false),
                        HealthState::Unknown => None,
                    },
                    spent: health.is_final,
                    problem: health.problem,
                }),
            })
        }));
        Ok((events, mark, request))
    }
}
