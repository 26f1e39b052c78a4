//! `maand drive`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shared::{Host, JobName, RunId};

use crate::cli::Context;
use crate::cli::cmd::deploy::attend::limits;
use crate::cli::cmd::deploy::progress::Begun;
use crate::clock;
use crate::config::{Logs, Settings};
use crate::drive::Driver;
use crate::drive::daemon::{self, Listener};
use crate::failure::Failure;
use crate::hooks::sink::Sink;
use crate::paths::BucketDir;
use crate::plan::Options;
use crate::rollout::event::Moved;
use crate::serve::{ServeLock, terminated};
use crate::service::Service;
use crate::telemetry::{BucketLog, Line};

/// What it says while there is nothing to do.
const IDLE: &str = "waiting for what is detached or deferred";

/// Drive what nobody waits for, until SIGTERM or Ctrl-C
///
/// Takes up rollouts that maand deploy --detach began, and brings allocations up to date that a deploy went
/// on without, once their agent is back: through the same batches and gates. Rollouts that somebody began
/// without --detach are theirs: maand deploy or maand rollout resume goes on with them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "A small bucket needs one process for all of it: maand serve --drive\n\nEnding it loses \
    nothing: the next maand drive goes on where it stood.")]
pub struct Args {}

/// Runs it.
pub fn run(_: Args, context: &Context) -> Result<(), Failure> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false).init();
    let settings = Settings::load(&context.bucket)?;
    settings.warnings.iter().for_each(|warning| context.ui.warn(warning));
    drop(context.catalog()?);
    if !ServeLock::is_held(&context.bucket) {
        context.ui.warn("no maand serve runs: agents hear nothing until one does");
    }
    let stop = Arc::new(AtomicU32::new(0));
    let runtime = context.runtime()?;
    let counted = stop.clone();
    runtime.spawn(async move {
        loop {
            terminated().await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    context.ui.say("driving what is detached or deferred; Ctrl-C ends after what is in flight");
    let service = Arc::new(Service::default());
    let logged = Logged::new(&context.bucket, &settings, true, service.clone());
    let ended = daemon::run(&context.bucket, limits(&settings), &stop, &logged);
    service.stopping();
    ended
}

/// Writes what moves into the bucket's logs, and says it where somebody may look.
#[derive(Debug)]
pub struct Logged {
    bucket: BucketDir,
    logs: Logs,
    log: BucketLog,
    says: bool,
    begun: Begun,
    service: Arc<Service>,
}

impl Logged {
    /// With `says` also on standard error.
    pub fn new(bucket: &BucketDir, settings: &Settings, says: bool, service: Arc<Service>) -> Self {
        let logs = settings.logs;
        let log = BucketLog::new(bucket, logs);
        Self { bucket: bucket.clone(), logs, log, says, begun: Begun::default(), service }
    }

    fn write(&self, run: RunId, seq: u64, line: Line<'_>) {
        self.log.write(clock::now_ms(), &[Line { run: Some(run), seq: Some(seq), maand: "drive", ..line }]);
    }

    fn say(&self, text: std::fmt::Arguments<'_>) {
        if self.says {
            tracing::info!("{text}");
        }
    }
}

impl Listener for Logged {
    fn started(&self) {
        self.service.ready();
        self.service.status(IDLE);
    }

    fn came_round(&self) {
        self.service.came_round("drive", clock::instant());
        self.service.feed();
    }

    fn begun(&self, run: RunId, update_seq: u64, options: &Options) {
        let what = if options.catch_up.is_some() { "catching up" } else { "going on with a detached deploy" };
        self.say(format_args!("{what}: rollout {run}, update_seq {update_seq}"));
        self.service.status(&format!("{what}: rollout {run}, update_seq {update_seq}"));
        self.write(run, update_seq, Line { event: Some("command_begin"), msg: Some(what), ..Line::default() });
    }

    fn moved(&self, run: RunId, update_seq: u64, job: &JobName, host: Option<&Host>, what: &Moved) {
        let words = self.begun.words(job, host, what);
        let place = host.map_or_else(|| job.to_string(), |host| format!("{job}@{host}"));
        self.say(format_args!("{place} | {}", words.text));
        self.write(run, update_seq, words.line(job, host));
    }

    fn ended(&self, driver: &Driver) {
        let failed = driver.rollout().jobs().filter(|job| job.has_failed() || !job.failures().is_empty()).count();
        let ended = driver.rollout().is_ended();
        let word = match (ended, failed) {
            (false, _) => "let go",
            (true, 0) => "done",
            (true, _) => "failed",
        };
        self.say(format_args!("rollout {}: {word}", driver.run));
        self.service.status(IDLE);
        let exit = ended.then_some(i32::from(failed > 0));
        self.write(
            driver.run,
            driver.update_seq,
            Line { event: Some("command_end"), exit, msg: Some(word), ..Line::default() },
        );
    }

    fn sink(&self, run: RunId) -> Arc<dyn Sink> {
        let log = BucketLog::new(&self.bucket, self.logs);
        Arc::new(crate::hooks::sink::Logged { log, maand: "drive", run, show: None })
    }
}
