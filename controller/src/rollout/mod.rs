//! A rollout as a pure machine: jobs of a wave side by side, wave after wave; `job` is one job's way.
//! No clock, no randomness: the time is an argument and new ids are handed in. The driver carries out
//! the effects and decides nothing.

pub mod event;
pub mod job;
pub mod promote;

use std::collections::BTreeMap;

use shared::JobName;

use crate::plan::Plan;
pub use event::{Effect, Event, Ids, Observed};
use job::JobRollout;

/// Limits that are the bucket's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Until work that was not picked up fails, milliseconds.
    pub pickup_ms: i64,
}

/// All jobs of a deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    jobs: BTreeMap<JobName, JobRollout>,
    limits: Limits,
}

impl Rollout {
    /// Nothing released yet.
    pub fn new(plan: &Plan, limits: Limits) -> Self {
        let jobs = plan.jobs.iter().map(|job| (job.job.clone(), JobRollout::new(job.clone()))).collect();
        Self { jobs, limits }
    }

    /// As an earlier driver left it.
    pub fn resumed(jobs: Vec<JobRollout>, limits: Limits) -> Self {
        Self { jobs: jobs.into_iter().map(|job| (job.plan.job.clone(), job)).collect(), limits }
    }

    /// Every job.
    pub fn jobs(&self) -> impl Iterator<Item = &JobRollout> {
        self.jobs.values()
    }

    /// Whether every job has ended.
    pub fn is_ended(&self) -> bool {
        self.jobs.values().all(JobRollout::is_ended)
    }

    /// Takes `events` in at `now_ms`; with `release` false nothing new is released (a pause).
    pub fn step(&mut self, events: &[Event], now_ms: i64, release: bool, ids: &mut impl Ids) -> Vec<Effect> {
        let mut effects = Vec::new();
        for event in events {
            match event {
                Event::Observed(observed) => {
                    let owner = self.jobs.values_mut().find(|job| job.awaits(observed.alloc_id));
                    if let Some(job) = owner {
                        job.observe(observed, now_ms, ids, &mut effects);
                    }
                }
                Event::Accepted(worker, fence) => {
                    self.jobs.values_mut().for_each(|job| job.accepted(*worker, *fence, now_ms));
                }
                Event::Tick => {}
            }
        }
        for job in self.jobs.values_mut() {
            job.tick(now_ms, &self.limits, &mut effects);
        }
        if release {
            // The lowest wave that has not ended; a job that failed ends its wave like one that is done.
            let wave = self.jobs.values().filter(|job| !job.is_ended()).map(|job| job.plan.seq).min();
            for job in self.jobs.values_mut().filter(|job| Some(job.plan.seq) == wave) {
                job.release(now_ms, ids, &mut effects);
            }
        }
        effects
    }

    /// The driver has written a release under `fence`.
    pub fn released_in(&mut self, alloc: shared::AllocId, fence: shared::api::v1::desired::Fence) {
        for job in self.jobs.values_mut().filter(|job| job.awaits(alloc)) {
            job.released_in(alloc, fence);
        }
    }

    /// What could be going on now without the driver: whether anything is in flight.
    pub fn in_flight(&self) -> usize {
        self.jobs.values().map(JobRollout::in_flight).sum()
    }
}
