//! Edge: what moves, for the operator and the logs: a line for each allocation that moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shared::text::clean;
use shared::{Host, JobName, RunId};

use crate::cli::ui::Ui;
use crate::clock;
use crate::drive::Progress;
use crate::rollout::event::Moved;
use crate::telemetry::{BucketLog, Line};

/// Counts how often the operator asked to stop.
#[derive(Debug)]
pub struct Shown {
    interrupts: Arc<AtomicU32>,
}

impl Shown {
    /// From now on.
    pub fn new(runtime: &tokio::runtime::Runtime) -> Self {
        let interrupts = Arc::new(AtomicU32::new(0));
        let counted = interrupts.clone();
        runtime.spawn(async move {
            loop {
                crate::serve::terminated().await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { interrupts }
    }

    /// Shows one rollout.
    pub fn of<'a>(&'a self, ui: &'a Ui, log: &'a BucketLog, run: RunId, seq: u64) -> OfRun<'a> {
        let answered = AtomicU32::new(0);
        OfRun { ui, log, interrupts: &self.interrupts, answered, run, seq, begin: clock::instant() }
    }
}

/// Shows one rollout.
#[derive(Debug)]
pub struct OfRun<'a> {
    ui: &'a Ui,
    log: &'a BucketLog,
    interrupts: &'a AtomicU32,
    /// How many of them the operator was answered.
    answered: AtomicU32,
    run: RunId,
    seq: u64,
    begin: std::time::Instant,
}

impl OfRun<'_> {
    /// It begins.
    pub fn begin(&self) {
        self.write(Line { event: Some("command_begin"), maand: "deploy", ..Line::default() });
    }

    /// It has ended, well or not.
    pub fn end(&self, good: bool) {
        let duration_ms = u64::try_from(self.begin.elapsed().as_millis()).ok();
        self.write(Line {
            event: Some("command_end"),
            maand: "deploy",
            exit: Some(i32::from(!good)),
            duration_ms,
            ..Line::default()
        });
    }

    fn write(&self, line: Line<'_>) {
        self.log.write(clock::now_ms(), &[Line { run: Some(self.run), seq: Some(self.seq), ..line }]);
    }
}

/// Event, colour, text and phase.
pub fn words(host: Option<&Host>, what: &Moved) -> (&'static str, &'static str, String, &'static str) {
    let (event, colour, text) = match what {
        Moved::Released(kind) => ("allocation_released", "2", format!("{kind} released")),
        Moved::Removing => ("allocation_released", "2", "removal released".to_owned()),
        Moved::Ran(kind, ms) => ("allocation_ran", "2", format!("{kind} ok in {ms} ms")),
        Moved::Promoted(kind, 0) => ("allocation_promoted", "32", format!("{kind} promoted")),
        Moved::Promoted(kind, ms) => ("allocation_promoted", "32", format!("{kind} ok in {ms} ms, promoted")),
        Moved::Stopped(ms) => ("allocation_stopped", "32", format!("stopped in {ms} ms")),
        Moved::Removed => ("allocation_removed", "32", "removed; data/ and logs/ stay until maand gc".to_owned()),
        Moved::Failed(why) => {
            let event = if host.is_some() { "allocation_failed" } else { "job_failed" };
            let why = clean(why);
            (event, "31", if why.is_empty() { "failed".to_owned() } else { format!("failed: {why}") })
        }
        Moved::Again(kind) => ("allocation_released", "33", format!("{kind} was interrupted, released again")),
        Moved::TakenBack => ("allocation_taken_back", "33", "its agent is out of reach: taken back".to_owned()),
        Moved::Deferred => ("allocation_deferred", "33", "deferred until its agent is back".to_owned()),
        Moved::Left => ("allocation_left", "33", "its agent is away: done when it is back".to_owned()),
        Moved::AssumedDead => {
            let host = host.map_or_else(String::new, ToString::to_string);
            let text = format!("deploy: removed worker {host} unreachable, assuming dead");
            ("worker_assumed_dead", "33", text)
        }
        Moved::Hooks(event) => ("hooks_begun", "2", format!("{} hooks", event.word())),
        Moved::Noted(note) => ("job_noted", "33", clean(note)),
        Moved::Done(0) => ("job_done", "32", "done".to_owned()),
        Moved::Done(1) => ("job_done", "33", "done, but for 1 that failed".to_owned()),
        Moved::Done(n) => ("job_done", "33", format!("done, but for {n} that failed")),
        Moved::Skipped => ("deploy_skip", "2", format!("skip ({})", crate::plan::report::COMPLETE)),
        Moved::Blocked(by) => ("job_blocked", "31", format!("blocked: {by} failed")),
    };
    let rests = matches!(what, Moved::Removing | Moved::Stopped(_) | Moved::Removed | Moved::Left | Moved::AssumedDead);
    (event, colour, text, if rests { "reconcile" } else { "rollout" })
}

impl Progress for OfRun<'_> {
    fn moved(&self, job: &JobName, host: Option<&Host>, what: &Moved) {
        let (event, colour, text, phase) = words(host, what);
        let place = host.map_or_else(|| job.to_string(), |host| format!("{job}@{host}"));
        self.ui.say(format_args!("{place} | {}", self.ui.paint(colour, &text)));
        self.write(Line {
            event: Some(event),
            maand: "deploy",
            worker: host,
            job: Some(job.as_str()),
            phase: Some(phase),
            msg: Some(&text),
            ..Line::default()
        });
    }

    fn interrupts(&self) -> u32 {
        let count = self.interrupts.load(Ordering::Relaxed);
        if self.answered.swap(count, Ordering::Relaxed) == 0 && count == 1 {
            self.ui.say("pausing after what is in flight; Ctrl-C again leaves at once");
        }
        count
    }
}
