//! Edge: drives what nobody waits for: rollouts that were begun with `--detach`, and stragglers whose agent
//! is back.
#![expect(clippy::disallowed_methods, reason = "edge: waits; data/drive.lock")]
#![expect(clippy::disallowed_types, reason = "edge: data/drive.lock")]

use std::fs::{File, OpenOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use shared::diagnostic::chain;
use shared::{Code, Diagnostic, Host, JobName, RunId};

use super::catch_up::{Tried, catch_up};
use super::hands::Hands;
use super::survey::Survey;
use super::workers::ByAgents;
use super::{Attended, Driver, Progress};
use crate::catalog::{self, Catalog, rollout as rows};
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::high_water;
use crate::hooks::sink::Sink;
use crate::paths::BucketDir;
use crate::plan::{Options, check};
use crate::rollout::Limits;
use crate::rollout::event::Moved;

/// How often it looks for work.
const LOOK: Duration = Duration::from_millis(500);
/// Pause after an error of the catalog.
const PAUSE: Duration = Duration::from_secs(5);

/// Who hears of what it drives.
pub trait Listener {
    /// Nobody else drives: it begins.
    fn started(&self);
    /// It has looked for work, or gone a step on with a rollout.
    fn came_round(&self);
    /// A rollout is taken up.
    fn begun(&self, run: RunId, update_seq: u64, options: &Options);
    /// Something of it moved.
    fn moved(&self, run: RunId, update_seq: u64, job: &JobName, host: Option<&Host>, what: &Moved);
    /// It has ended, well or not, or was let go.
    fn ended(&self, driver: &Driver);
    /// Hooks of it print.
    fn sink(&self, run: RunId) -> Arc<dyn Sink>;
}

struct Told<'a> {
    listener: &'a dyn Listener,
    stop: &'a AtomicU32,
    run: RunId,
    update_seq: u64,
}

impl Progress for Told<'_> {
    fn moved(&self, job: &JobName, host: Option<&Host>, what: &Moved) {
        self.listener.moved(self.run, self.update_seq, job, host, what);
    }

    fn interrupts(&self) -> u32 {
        // Asked at every step.
        self.listener.came_round();
        self.stop.load(Ordering::Relaxed)
    }
}

/// Drives until `stop` is more than 0; once lets what is in flight end, twice ends at once.
pub fn run(bucket: &BucketDir, limits: Limits, stop: &AtomicU32, listener: &dyn Listener) -> Result<(), Failure> {
    let _lock = lock(bucket)?;
    let mut tried = Tried::default();
    let mut catalog = Catalog::open(&bucket.database())?;
    let mut said = String::new();
    listener.started();
    while stop.load(Ordering::Relaxed) == 0 {
        listener.came_round();
        if let Some(why) = halted(bucket, &mut catalog) {
            if why != said {
                tracing::error!(why, "driving_stopped: run maand recover");
                said = why;
            }
            std::thread::sleep(LOOK);
            continue;
        }
        said.clear();
        let pause = match once(&mut catalog, bucket, limits, stop, listener, &mut tried) {
            Ok(true) => continue,
            Ok(false) => LOOK,
            Err(error) => {
                tracing::warn!(error = chain(&error), "drive_held");
                PAUSE
            }
        };
        let end = clock::instant() + pause;
        while clock::instant() < end && stop.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Why nothing may be driven: the catalog is older than what agents have been told.
fn halted(bucket: &BucketDir, catalog: &mut Catalog) -> Option<String> {
    match high_water::evidence(bucket, catalog) {
        Ok(evidence) if evidence.is_empty() => None,
        Ok(evidence) => Some(evidence.lines().join("; ")),
        Err(failure) => Some(failure.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    }
}

/// Whether there was work.
fn once(
    catalog: &mut Catalog,
    bucket: &BucketDir,
    limits: Limits,
    stop: &AtomicU32,
    listener: &dyn Listener,
    tried: &mut Tried,
) -> catalog::Result<bool> {
    let now_ms = clock::now_ms();
    let mut driver = match catalog.read(|tx| rows::open(tx))? {
        Some(open) if open.state == rows::State::Running && !open.attended && !open.is_driven(now_ms) => {
            match Driver::resume(catalog, &open, limits)? {
                Some(driver) => {
                    listener.begun(driver.run, driver.update_seq, &open.options);
                    driver
                }
                None => return Ok(false),
            }
        }
        // An operator's: it is theirs to go on with.
        Some(_) => return Ok(false),
        None => match straggler(catalog, bucket, limits, tried, now_ms)? {
            Some((driver, options)) => {
                listener.begun(driver.run, driver.update_seq, &options);
                driver
            }
            None => return Ok(false),
        },
    };
    let told = Told { listener, stop, run: driver.run, update_seq: driver.update_seq };
    let pickup_s = u64::try_from(limits.pickup_ms / 1000).unwrap_or_default();
    let workers = Arc::new(ByAgents::new(bucket, bucket.database(), pickup_s));
    let hands = Hands::new(bucket, bucket.database(), driver.run, listener.sink(driver.run), workers);
    driver.drive(catalog, bucket, &told, &hands)?;
    listener.ended(&driver);
    Ok(true)
}

/// A rollout for the stragglers whose agent is back.
fn straggler(
    catalog: &mut Catalog,
    bucket: &BucketDir,
    limits: Limits,
    tried: &mut Tried,
    now_ms: i64,
) -> catalog::Result<Option<(Driver, Options)>> {
    if !catalog.read(|tx| crate::catalog::read::any_deferred(tx))? {
        return Ok(None);
    }
    let survey = Survey::take(catalog, &Options::default(), true, now_ms)?;
    let Some(options) = catch_up(&survey.snapshot, &survey.free(), tried, now_ms) else { return Ok(None) };
    let survey = Survey::take(catalog, &options, true, now_ms)?;
    let plan = survey.plan(&options);
    if let Err(why) = check::check(&plan, &survey.snapshot, &options) {
        tracing::error!(why, "plan_contradicts_catalog");
        return Ok(None);
    }
    tried.now(options.catch_up.as_ref().unwrap_or(&Default::default()), now_ms);
    let whole = (&survey.snapshot, &plan, &options);
    let run = RunId::from_uuid(clock::run_uuid());
    let driver = Driver::begin(catalog, bucket, whole, limits, Attended::Driven, run)?;
    Ok(Some((driver, options)))
}

/// One at a time.
fn lock(bucket: &BucketDir) -> Result<File, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::new(Exit::Failed, Diagnostic::new(Code::Storage, "cannot use data/drive.lock").cause(error))
    };
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(bucket.drive_lock());
    let file = file.map_err(|error| failed(&error))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let problem = Diagnostic::new(Code::Busy, "another maand drive of this bucket runs");
        return Err(Failure::new(Exit::Failed, problem.remedy("use the one that runs, or end it first")));
    }
    Ok(file)
}
