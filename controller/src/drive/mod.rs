//! Edge: drives a rollout: holds its lease, carries out what the machine asks for, tells it what agents
//! said. Each step is one transaction: what agents are told, what is promoted, and the machine's state.
#![expect(clippy::disallowed_methods, reason = "edge: waits for reports")]

pub mod high_water;
pub mod operations;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shared::api::v1::desired::Fence;
use shared::{ActionId, Host, JobName, RunId, WorkerId};

use crate::catalog::{self, Catalog, observed, publish, read};
use crate::clock;
use crate::model::Snapshot;
use crate::paths::BucketDir;
use crate::plan::{Options, Plan};
use crate::rollout::event::Moved;
use crate::rollout::{Effect, Event, Ids, Limits, Observed, Rollout};
use crate::serve::notify::wake;

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
    /// An allocation moved.
    fn moved(&self, job: &JobName, host: &Host, what: &Moved);
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

/// A rollout to drive.
#[derive(Debug)]
pub struct Driver {
    /// Its id.
    pub run: RunId,
    /// Its number.
    pub update_seq: u64,
    owner: String,
    rollout: Rollout,
    /// What each agent was last seen to have accepted.
    accepted: BTreeMap<WorkerId, Fence>,
}

/// How driving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every job has.
    Whole,
    /// The operator asked; the rollout can be gone on with.
    Paused,
    /// Somebody else has the lease now.
    LeaseLost,
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
    pub fn begin(
        catalog: &mut Catalog,
        bucket: &BucketDir,
        snapshot: &Snapshot,
        plan: &Plan,
        options: &Options,
        limits: Limits,
    ) -> catalog::Result<Self> {
        let run = RunId::from_uuid(clock::run_uuid());
        let (owner, now_ms) = (owner(), clock::now_ms());
        let rollout = Rollout::new(plan, limits);
        let update_seq = catalog.write(|tx| {
            // Read again under the write lock: another deploy may have moved it.
            let update_seq = read::snapshot(tx)?.update_seq + 1;
            publish::create_rollout(tx, run, options, update_seq, (&owner, now_ms + LEASE_MS), now_ms)?;
            publish::begin(tx, snapshot, update_seq, now_ms)?;
            for job in rollout.jobs() {
                publish::save_job(tx, run, job)?;
            }
            Ok(update_seq)
        })?;
        // What is released in a moment wakes its agents; two documents in a row would be one too many.
        if !plan.is_required() {
            wake(bucket);
        }
        Ok(Self { run, update_seq, owner, rollout, accepted: BTreeMap::new() })
    }

    /// Goes on with a rollout whose driver is gone; `None` when its lease is still held.
    pub fn resume(catalog: &mut Catalog, open: &publish::OpenRollout, limits: Limits) -> catalog::Result<Option<Self>> {
        let (owner, now_ms) = (owner(), clock::now_ms());
        let run = open.run;
        let jobs = catalog.write(|tx| {
            if !publish::lease(tx, run, &owner, now_ms + LEASE_MS, now_ms)? {
                return Ok(None);
            }
            publish::load_jobs(tx, run).map(Some)
        })?;
        Ok(jobs.map(|jobs| {
            let rollout = Rollout::resumed(jobs, limits);
            Self { run, update_seq: open.update_seq, owner, rollout, accepted: BTreeMap::new() }
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
    ) -> catalog::Result<Ended> {
        let ended = self.drive_on(catalog, bucket, progress);
        if ended.is_err()
            && let Err(error) = self.end(catalog, Ended::Paused)
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
    ) -> catalog::Result<Ended> {
        let mut mark = 0;
        let mut version = None;
        let mut stepped_ms = 0;
        let mut renewed_ms = clock::now_ms();
        loop {
            let now_ms = clock::now_ms();
            if now_ms - renewed_ms >= RENEW_MS {
                renewed_ms = now_ms;
                let (run, owner) = (self.run, self.owner.clone());
                if !catalog.write(|tx| publish::lease(tx, run, &owner, now_ms + LEASE_MS, now_ms))? {
                    return Ok(Ended::LeaseLost);
                }
            }
            let seen = catalog.data_version()?;
            let news = version != Some(seen);
            if !news && now_ms - stepped_ms < TICK_MS {
                std::thread::sleep(LOOK);
                continue;
            }
            version = Some(seen);
            stepped_ms = now_ms;
            let (events, next) = if news { self.events(catalog, mark)? } else { (vec![Event::Tick], mark) };
            mark = next;
            let interrupts = progress.interrupts();
            let paused = interrupts > 0;
            self.step(catalog, bucket, &events, now_ms, !paused, progress)?;
            if self.rollout.is_ended() {
                return self.end(catalog, Ended::Whole);
            }
            if interrupts > 1 || (paused && self.rollout.in_flight() == 0) {
                return self.end(catalog, Ended::Paused);
            }
        }
    }

    fn end(&self, catalog: &mut Catalog, ended: Ended) -> catalog::Result<Ended> {
        use crate::rollout::job::State;
        let failed = self.rollout.jobs().any(|job| matches!(job.state, State::Failed { .. }));
        let state = match (ended, failed) {
            (Ended::Paused, _) => "paused",
            (_, true) => "failed",
            (_, false) => "done",
        };
        catalog.write(|tx| publish::end_rollout(tx, self.run, &self.owner, state, clock::now_ms()))?;
        Ok(ended)
    }

    /// What agents said since `mark`.
    fn events(&mut self, catalog: &mut Catalog, mark: u64) -> catalog::Result<(Vec<Event>, u64)> {
        let (changes, mark, agents) = catalog.read(|tx| {
            let (changes, mark) = observed::since(tx, mark)?;
            Ok((changes, mark, observed::accepted(tx)?))
        })?;
        let mut events = Vec::new();
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
            })
        }));
        Ok((events, mark))
    }

    /// One step of the machine, carried out in one transaction.
    fn step(
        &mut self,
        catalog: &mut Catalog,
        bucket: &BucketDir,
        events: &[Event],
        now_ms: i64,
        release: bool,
        progress: &dyn Progress,
    ) -> catalog::Result<()> {
        let mut next = self.rollout.clone();
        let effects = next.step(events, now_ms, release, &mut RandomIds);
        if next == self.rollout {
            return Ok(());
        }
        let releases: Vec<_> = effects
            .iter()
            .filter_map(|effect| if let Effect::Release(release) = effect { Some(release.clone()) } else { None })
            .collect();
        let early: Vec<_> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Prefetch { worker_id, bundle } => Some((*worker_id, *bundle)),
                _ => None,
            })
            .collect();
        let (run, before) = (self.run, &self.rollout);
        let next = catalog.write(|tx| {
            let mut next = next.clone();
            let fences: BTreeMap<WorkerId, _> =
                publish::release(tx, &releases, &early, run, now_ms)?.into_iter().collect();
            for release in &releases {
                if let Some(fence) = fences.get(&release.worker_id) {
                    next.released_in(release.alloc_id, *fence);
                }
            }
            for effect in &effects {
                if let Effect::Promote { alloc_id, bundle, version } = effect {
                    publish::promote(tx, *alloc_id, *bundle, version, run, now_ms)?;
                }
            }
            for (old, new) in before.jobs().zip(next.jobs()) {
                if old.state != new.state {
                    publish::save_job(tx, run, new)?;
                }
            }
            Ok(next)
        })?;
        self.rollout = next;
        if !releases.is_empty() {
            wake(bucket);
        }
        for effect in &effects {
            if let Effect::Moved { job, host, what } = effect {
                progress.moved(job, host, what);
            }
        }
        Ok(())
    }
}
