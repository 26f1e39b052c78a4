//! Drives a rollout for somebody who waits for it: serves agents when nobody else does, shows what moves,
//! and says at the end what did not work.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use shared::{Code, Diagnostic, RunId, WorkerId};

use super::problem;
use super::progress::Shown;
use super::trees::Trees;
use crate::catalog::rollout::Header;
use crate::catalog::{Catalog, agents};
use crate::cli::Context;
use crate::cli::cmd::hooks::shown;
use crate::cli::cmd::recover::refuse_regressed;
use crate::cli::meanwhile::Meanwhile;
use crate::cli::ui::Ui;
use crate::clock;
use crate::config::Settings;
use crate::drive::hands::Hands;
use crate::drive::workers::ByAgents;
use crate::drive::{Driver, Ended};
use crate::failure::{Exit, Failure};
use crate::hooks::api::NoWorkers;
use crate::hooks::sink::Logged;
use crate::rollout::Limits;
use crate::rollout::flight::Fate;
use crate::rollout::job::{End, JobRollout};
use crate::serve::ServeLock;
use crate::telemetry::{BucketLog, Line};

/// Jobs of a wave that roll side by side.
const JOBS_AT_ONCE: usize = 16;

/// Drives rollouts in the foreground.
#[derive(Debug)]
pub struct Attendant<'a> {
    context: &'a Context,
    /// Limits of the bucket.
    pub limits: Limits,
    /// Whether a maand serve runs, so that who is connected is known.
    pub was_served: bool,
    settings: Settings,
    log: BucketLog,
    runtime: tokio::runtime::Runtime,
    shown: Option<Shown>,
    /// What hooks print is shown.
    verbose: bool,
}

/// Limits of the bucket.
pub fn limits(settings: &Settings) -> Limits {
    let pickup_ms = i64::try_from(settings.pickup_timeout_s.saturating_mul(1000)).unwrap_or(i64::MAX);
    Limits { pickup_ms, jobs_at_once: JOBS_AT_ONCE }
}

/// What a rollout came to.
#[derive(Debug, Serialize)]
pub struct Outcome {
    run_id: RunId,
    update_seq: u64,
    /// Allocations that were promoted.
    promoted: usize,
    /// Allocations that were stopped or taken off their worker.
    stopped: usize,
    /// Hosts, by job, that it went on without.
    deferred: Vec<(String, String)>,
    seconds: f64,
}

impl Outcome {
    /// For people.
    pub fn say(&self, ui: &Ui) {
        let stopped = match self.stopped {
            0 => String::new(),
            n => format!(", {n} stopped or removed"),
        };
        let deferred = match self.deferred.len() {
            0 => String::new(),
            n => format!(", {n} deferred"),
        };
        if self.promoted + self.stopped + self.deferred.len() == 0 {
            return ui.say(format_args!("no deployment required; agents are told of update_seq {}", self.update_seq));
        }
        let plural = if self.promoted == 1 { "" } else { "s" };
        let (promoted, seconds) = (self.promoted, self.seconds);
        ui.say(format_args!("deployed: {promoted} allocation{plural} promoted{stopped}{deferred} in {seconds:.1} s"));
    }
}

impl<'a> Attendant<'a> {
    /// For the bucket of `context`.
    pub fn new(context: &'a Context, verbose: bool) -> Result<Self, Failure> {
        let settings = Settings::load(&context.bucket)?;
        refuse_regressed(context, &mut context.catalog()?)?;
        Ok(Self {
            context,
            limits: limits(&settings),
            was_served: ServeLock::is_held(&context.bucket),
            log: BucketLog::new(&context.bucket, settings.logs),
            settings,
            runtime: context.runtime()?,
            shown: None,
            verbose,
        })
    }

    /// What a rollout has done beside agents.
    pub fn hands(&self, run: RunId) -> Arc<Hands> {
        let bucket = &self.context.bucket;
        let log = BucketLog::new(bucket, self.settings.logs);
        let show = self.verbose.then(|| shown(&self.context.ui));
        let sink = Arc::new(Logged { log, maand: "deploy", run, show });
        let workers = ByAgents::new(bucket, bucket.database(), self.settings.pickup_timeout_s);
        Hands::new(bucket, bucket.database(), run, sink, Arc::new(workers))
    }

    /// Writes a line into the bucket's log.
    pub fn log(&self, line: Line<'_>) {
        self.log.write(clock::now_ms(), &[line]);
    }

    /// Takes the lease of a rollout that is open; an error names who has it.
    pub fn take_over(&self, catalog: &mut Catalog, open: &Header) -> Result<Driver, Failure> {
        let now_ms = clock::now_ms();
        if let Some(driver) = Driver::resume(catalog, open, self.limits)? {
            return Ok(driver);
        }
        let by = open.owner.clone().unwrap_or_else(|| "another process".to_owned());
        let since = (now_ms - open.created_ms).max(0) / 1000;
        let problem = Diagnostic::new(Code::HoldsLease, format!("{by} is deploying this bucket"))
            .note(format!("rollout {} (update_seq {}), begun {since} s ago", open.run, open.update_seq));
        Err(Failure::new(
            Exit::Failed,
            problem.remedy("wait for it to end (maand rollout watch), or end it with maand rollout abort"),
        ))
    }

    /// Ends a rollout that nobody drives.
    pub fn abort(&mut self, catalog: &mut Catalog, mut driver: Driver) -> Result<(), Failure> {
        let shown = self.shown.get_or_insert_with(|| Shown::new(&self.runtime));
        let progress = shown.of(&self.context.ui, &self.log, driver.run, driver.update_seq);
        let hands = Hands::new(
            &self.context.bucket,
            self.context.bucket.database(),
            driver.run,
            Arc::new(Logged {
                log: BucketLog::new(&self.context.bucket, self.settings.logs),
                maand: "deploy",
                run: driver.run,
                show: None,
            }),
            Arc::new(NoWorkers),
        );
        Ok(driver.abort(catalog, &self.context.bucket, &progress, &hands)?)
    }

    /// Drives `driver` to its end.
    pub fn attend(&mut self, catalog: &mut Catalog, driver: Driver) -> Result<Outcome, Failure> {
        let meanwhile = Meanwhile::serve(self.context, &self.settings, &self.runtime)?;
        let shown = self.shown.take().unwrap_or_else(|| Shown::new(&self.runtime));
        let result = self.drive(catalog, driver, &shown);
        meanwhile.end();
        self.shown = Some(shown);
        result
    }

    fn drive(&self, catalog: &mut Catalog, mut driver: Driver, shown: &Shown) -> Result<Outcome, Failure> {
        let begin = clock::instant();
        let progress = shown.of(&self.context.ui, &self.log, driver.run, driver.update_seq);
        progress.begin();
        let hands = self.hands(driver.run);
        let bucket = &self.context.bucket;
        let _trees = Trees::of(bucket, bucket.database(), driver.rollout().jobs().map(|job| &job.plan));
        let ended = driver.drive(catalog, &self.context.bucket, &progress, &hands)?;
        if ended == Ended::LeaseLost {
            let problem = Diagnostic::new(Code::HoldsLease, "another process drives this deploy now");
            return Err(Failure::new(Exit::Failed, problem.remedy("look at it with maand rollout show")));
        }
        let joined: BTreeSet<WorkerId> = catalog.read(|tx| agents::joined(tx))?.into_keys().collect();
        let (mut problems, mut failed) = (Vec::<Diagnostic>::new(), Vec::new());
        // Wave by wave: what failed before what was held back by it.
        let mut jobs: Vec<&JobRollout> = driver.rollout().jobs().collect();
        jobs.sort_by_key(|job| job.plan.seq);
        for job in jobs {
            let found = problem::of(job, &joined, driver.run, &driver.problems);
            if !found.is_empty() {
                failed.push(job.plan.job.as_str());
            }
            problems.extend(found);
        }
        let (run, count) = (driver.run, problems.len());
        match ended {
            Ended::Paused => problems.push(
                Diagnostic::new(Code::DeployFailed, format!("the deploy is paused (rollout {run})"))
                    .remedy("maand deploy goes on with it; maand rollout abort ends it"),
            ),
            Ended::Aborted => problems.push(
                Diagnostic::new(Code::DeployFailed, format!("the deploy was ended before its end (rollout {run})"))
                    .remedy("maand cat deployments says what is promoted; maand deploy rolls the rest"),
            ),
            Ended::Whole | Ended::LeaseLost => {}
        }
        // Who served nobody before may have learned just now that agents know more than the catalog.
        if let Err(failure) = refuse_regressed(self.context, catalog) {
            problems.splice(..0, failure.problems);
        }
        progress.end(problems.is_empty());
        let outcome = outcome(&driver, begin.elapsed().as_secs_f64());
        for (job, host) in &outcome.deferred {
            self.context.ui.warn(format_args!(
                "job {job}: {host} is out of reach; it is brought up to date when its agent is back (maand drive)"
            ));
        }
        if problems.is_empty() {
            return Ok(outcome);
        }
        if count > 0 {
            let problems = if count > 1 { format!(" ({count} problems)") } else { String::new() };
            self.context.ui.say(format_args!("deploy failed: {}{problems}", failed.join(", ")));
        }
        Err(Failure { exit: Exit::Failed, problems })
    }
}

fn outcome(driver: &Driver, seconds: f64) -> Outcome {
    let settled = |job: &JobRollout, step| job.flights.get(step).is_some_and(|f| f.fate == Some(Fate::Settled));
    let (mut promoted, mut stopped, mut deferred) = (0, 0, Vec::new());
    for job in driver.rollout().jobs() {
        promoted += job.plan.batches.iter().flatten().filter(|step| settled(job, &step.alloc_id)).count();
        promoted += job.plan.promotes.iter().filter(|step| settled(job, &step.alloc_id)).count();
        stopped += job.plan.settle.iter().filter(|step| settled(job, &step.alloc_id)).count();
        if job.end() == Some(&End::Done) {
            let hosts = job.out_of_reach().into_iter().map(|(host, _)| host.to_string());
            deferred.extend(hosts.map(|host| (job.plan.job.to_string(), host)));
        }
    }
    Outcome { run_id: driver.run, update_seq: driver.update_seq, promoted, stopped, deferred, seconds }
}
