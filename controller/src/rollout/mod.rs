//! A rollout as a pure machine: jobs of a wave side by side, wave after wave; `job` is one job's way,
//! `lanes` its releases, `flight` one release. No clock, no randomness: the time is an argument and new
//! ids are handed in. The driver carries out the effects and decides nothing.

pub mod event;
pub mod flight;
mod hooked;
pub mod job;
mod lanes;
pub mod late;
mod waits;

use std::collections::BTreeMap;

use shared::api::v1::desired::Fence;
use shared::{AllocId, JobName};

use crate::plan::Plan;
pub use event::{Effect, Event, Ids, Observed, Probed, Release, Stage};
use job::{End, JobRollout, Phase};

/// Limits that are the bucket's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Until work that was not picked up is out of reach, milliseconds.
    pub pickup_ms: i64,
    /// Jobs that roll side by side.
    pub jobs_at_once: usize,
}

/// All jobs of a deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    jobs: BTreeMap<JobName, JobRollout>,
    limits: Limits,
    /// Whose every allocation is.
    owners: BTreeMap<AllocId, JobName>,
}

impl Rollout {
    /// Nothing released yet.
    pub fn new(plan: &Plan, limits: Limits) -> Self {
        Self::resumed(plan.jobs.iter().map(|job| JobRollout::new(job.clone())).collect(), limits, 0)
    }

    /// As an earlier driver left it, taken over at `now_ms`: until then nobody may have served agents or
    /// listened to them, so that every limit begins anew. By its clock it may have been later than it is now.
    pub fn resumed(mut jobs: Vec<JobRollout>, limits: Limits, now_ms: i64) -> Self {
        jobs.iter_mut().for_each(|job| job.taken_over(now_ms));
        let owned = |job: &JobRollout| {
            let name = job.plan.job.clone();
            job.members().map(move |(alloc, _)| (alloc, name.clone())).collect::<Vec<_>>()
        };
        let owners = jobs.iter().flat_map(owned).collect();
        Self { jobs: jobs.into_iter().map(|job| (job.plan.job.clone(), job)).collect(), limits, owners }
    }

    /// Every job.
    pub fn jobs(&self) -> impl Iterator<Item = &JobRollout> {
        self.jobs.values()
    }

    /// Every job, for writing what changed.
    pub fn jobs_mut(&mut self) -> impl Iterator<Item = &mut JobRollout> {
        self.jobs.values_mut()
    }

    /// Whether something changed that is not written down.
    pub fn is_unsaved(&self) -> bool {
        self.jobs.values().any(JobRollout::is_unsaved)
    }

    /// Whether every job has ended.
    pub fn is_ended(&self) -> bool {
        self.jobs.values().all(JobRollout::is_ended)
    }

    /// Whether something goes on that a pause waits for.
    pub fn is_busy(&self) -> bool {
        self.jobs.values().any(JobRollout::is_busy)
    }

    /// What a driver that takes over asks for again.
    pub fn rouse(&self) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.jobs.values().for_each(|job| job.rouse(&mut effects));
        effects
    }

    /// Takes `events` in at `now_ms`; with `release` false nothing new is released (a pause).
    pub fn step(&mut self, events: &[Event], now_ms: i64, release: bool, ids: &mut impl Ids) -> Vec<Effect> {
        let mut effects = Vec::new();
        for event in events {
            self.take(event, now_ms, ids, &mut effects);
        }
        for job in self.jobs.values_mut().filter(|job| !job.is_ended()) {
            job.tick(now_ms, &self.limits, ids, &mut effects);
            if job.phase != Phase::Held {
                job.advance(now_ms, release, ids, &mut effects);
            }
        }
        // A job that ends may let the next ones begin, and they may end at once.
        while release && self.begin_jobs(now_ms, ids, &mut effects) {}
        effects
    }

    fn take(&mut self, event: &Event, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) {
        match event {
            Event::Observed(observed) => {
                if let Some(job) = self.owners.get(&observed.alloc_id).and_then(|name| self.jobs.get_mut(name)) {
                    job.observe(observed, now_ms, ids, effects);
                }
            }
            Event::Accepted(worker, fence) => {
                self.jobs.values_mut().for_each(|job| job.accepted(*worker, *fence, now_ms));
            }
            Event::Held(held) => self.jobs.values_mut().for_each(|job| job.hold(held, now_ms, effects)),
            Event::Hooked { job, stage, failures } => {
                if let Some(job) = self.jobs.get_mut(job) {
                    job.hooked(*stage, failures, now_ms, ids, effects);
                }
            }
            Event::Decided { job, plan } => {
                if let Some(job) = self.jobs.get_mut(job) {
                    job.decided(plan, now_ms, ids, effects);
                    let name = job.plan.job.clone();
                    let members: Vec<AllocId> = job.members().map(|(alloc, _)| alloc).collect();
                    self.owners.extend(members.into_iter().map(|alloc| (alloc, name.clone())));
                }
            }
            Event::Tick => {}
        }
    }

    /// Lets the jobs begin whose turn it is; whether any did or was held back.
    fn begin_jobs(&mut self, now_ms: i64, ids: &mut impl Ids, effects: &mut Vec<Effect>) -> bool {
        // The lowest wave that has not ended; a job that failed ends its wave like one that is done.
        let Some(wave) = self.jobs.values().filter(|job| !job.is_ended()).map(|job| job.plan.seq).min() else {
            return false;
        };
        // Those that failed by themselves: who waits for one of them, however far, is held back by it.
        let failed = |job: &&JobRollout| job.end().is_some_and(|end| matches!(end, End::Failed { .. } | End::Aborted));
        let failed: Vec<JobName> = self.jobs.values().filter(failed).map(|job| job.plan.job.clone()).collect();
        let mut at_once = self.jobs.values().filter(|job| !job.is_ended() && job.phase != Phase::Held).count();
        let mut any = false;
        for job in self.jobs.values_mut().filter(|job| job.phase == Phase::Held && job.plan.seq == wave) {
            if let Some(by) = failed.iter().find(|name| job.plan.demands.contains(*name)) {
                // What needs nothing is not held back by anything.
                let end = if job.plan.is_required() || job.plan.decides {
                    End::Blocked { by: by.clone() }
                } else {
                    End::Done
                };
                job.finish(end, effects);
                any = true;
            } else if at_once < self.limits.jobs_at_once {
                job.advance(now_ms, true, ids, effects);
                at_once += usize::from(!job.is_ended());
                any = true;
            }
        }
        any
    }

    /// Ends what has not ended, because the operator asked for it.
    pub fn abort(&mut self, now_ms: i64) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.jobs.values_mut().filter(|job| !job.is_ended()).for_each(|job| job.abort(now_ms, &mut effects));
        effects
    }

    /// The driver has written, by `now_ms`, that the release of `alloc` is taken back.
    pub fn taken_back_at(&mut self, alloc: AllocId, now_ms: i64) {
        if let Some(job) = self.owners.get(&alloc).and_then(|name| self.jobs.get_mut(name)) {
            job.taken_back_at(alloc, now_ms);
        }
    }

    /// The driver has written a release under `fence`.
    pub fn released_in(&mut self, alloc: AllocId, fence: Fence) {
        if let Some(job) = self.owners.get(&alloc).and_then(|name| self.jobs.get_mut(name)) {
            job.released_in(alloc, fence);
        }
    }
}
