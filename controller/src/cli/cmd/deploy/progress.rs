//! Edge: what moves, for the operator and the logs: a line for each allocation that moves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shared::text::clean;
use shared::{ActionKind, Host, JobName, RunId};

use crate::cli::ui::{Ui, command_line};
use crate::clock;
use crate::drive::Progress;
use crate::plan::report::COMPLETE;
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
        OfRun {
            ui,
            log,
            interrupts: &self.interrupts,
            answered,
            run,
            seq,
            begin: clock::instant(),
            begun: Begun::default(),
        }
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
    begun: Begun,
}

/// What was released and has not ended: a failure says what failed, and its line in the log ends what a
/// line began.
#[derive(Debug, Default)]
pub struct Begun(Mutex<BTreeMap<(JobName, Host), &'static str>>);

/// What is said of a step, and what is logged of it.
#[derive(Debug)]
pub struct Words {
    /// In an operator's words.
    pub text: String,
    /// Its colour.
    pub colour: &'static str,
    level: &'static str,
    event: &'static str,
    phase: &'static str,
    action: Option<&'static str>,
    cmd: Option<String>,
    exit: Option<i32>,
    duration_ms: Option<u64>,
}

impl Words {
    /// As a line of the log.
    pub fn line<'a>(&'a self, job: &'a JobName, host: Option<&'a Host>) -> Line<'a> {
        Line {
            level: self.level,
            event: Some(self.event),
            worker: host,
            job: Some(job.as_str()),
            phase: (self.event != "deploy_skip").then_some(self.phase),
            action: self.action,
            cmd: self.cmd.as_deref(),
            exit: self.exit,
            duration_ms: self.duration_ms,
            // The same line as that of a job that was known to be skipped.
            reason: (self.event == "deploy_skip").then_some(COMPLETE),
            msg: (self.event != "deploy_skip").then_some(&self.text),
            ..Line::default()
        }
    }
}

impl OfRun<'_> {
    /// It begins.
    pub fn begin(&self) {
        let cmd = command_line();
        self.write(Line { event: Some("command_begin"), maand: "deploy", cmd: Some(&cmd), ..Line::default() });
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

/// What the log calls taking an allocation's files away.
const CLEANUP: &str = "cleanup_deploy";

impl Begun {
    /// What is to be said of a step.
    pub fn words(&self, job: &JobName, host: Option<&Host>, what: &Moved) -> Words {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = host.map(|host| (job.clone(), host.clone()));
        let before = key.as_ref().and_then(|key| begun.get(key).copied());
        let (event, colour, text) = match what {
            Moved::Released(kind) => ("command_begin", "2", format!("{kind} released")),
            Moved::Removing => ("command_begin", "2", "removal released".to_owned()),
            Moved::Ran(kind, ms) => ("command_end", "2", format!("{kind} ok in {ms} ms")),
            // Its command has ended before its gate.
            Moved::Promoted(kind, 0) if before.is_none() => ("allocation_promoted", "32", format!("{kind} promoted")),
            Moved::Promoted(kind, 0) => ("command_end", "32", format!("{kind} promoted")),
            Moved::Promoted(kind, ms) => ("command_end", "32", format!("{kind} ok in {ms} ms, promoted")),
            Moved::Stopped(ms) => ("command_end", "32", format!("stopped in {ms} ms")),
            Moved::Removed => ("command_end", "32", "removed; data/ and logs/ stay until maand gc".to_owned()),
            Moved::Failed(why, _) => {
                let event = match (host, before) {
                    (None, _) => "job_failed",
                    (Some(_), None) => "allocation_failed",
                    (Some(_), Some(_)) => "command_end",
                };
                let why = clean(why);
                (event, "31", if why.is_empty() { "failed".to_owned() } else { format!("failed: {why}") })
            }
            Moved::Again(kind) => ("command_begin", "33", format!("{kind} was interrupted, released again")),
            Moved::TakenBack => {
                let event = if before.is_some() { "command_end" } else { "allocation_taken_back" };
                (event, "33", "its agent is out of reach: taken back".to_owned())
            }
            Moved::TakenUp(kind) => {
                ("command_begin", "33", format!("{kind} was begun before it was taken back: waited for"))
            }
            Moved::Deferred => ("allocation_deferred", "33", "deferred until its agent is back".to_owned()),
            Moved::Held(words) => ("allocation_held", "33", clean(words)),
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
            Moved::Skipped => ("deploy_skip", "2", format!("deploy: skip job \"{job}\" ({COMPLETE})")),
            Moved::Blocked(by) => ("job_blocked", "31", format!("blocked: {by} failed")),
        };
        let (action, duration_ms) = match what {
            Moved::Released(kind) | Moved::Again(kind) | Moved::TakenUp(kind) | Moved::Promoted(kind, 0) => {
                (Some(kind.word()), None)
            }
            Moved::Ran(kind, ms) | Moved::Promoted(kind, ms) => (Some(kind.word()), Some(*ms)),
            Moved::Stopped(ms) => (Some(ActionKind::Stop.word()), Some(*ms)),
            Moved::Removing | Moved::Removed => (Some(CLEANUP), None),
            Moved::Failed(..) | Moved::TakenBack => (before, None),
            _ => (None, None),
        };
        let level = match what {
            Moved::Failed(..) | Moved::Blocked(_) => "error",
            Moved::Again(_)
            | Moved::TakenBack
            | Moved::TakenUp(_)
            | Moved::Held(_)
            | Moved::Deferred
            | Moved::Left
            | Moved::AssumedDead => "warn",
            _ => "info",
        };
        if let (Some(key), Some(action)) = (key, action) {
            if event == "command_begin" {
                begun.insert(key, action);
            } else {
                begun.remove(&key);
            }
        }
        let rests = matches!(what, Moved::Left | Moved::AssumedDead)
            || action.is_some_and(|action| action == CLEANUP || action == ActionKind::Stop.word());
        let phase = match action {
            _ if rests => "reconcile",
            Some(action) if action == ActionKind::Sync.word() => "fetch",
            _ => "rollout",
        };
        let target = match what {
            Moved::Released(kind) | Moved::Again(kind) => kind.make_target(),
            _ => None,
        };
        Words {
            cmd: target.map(|target| format!("make -s -C jobs/{job} {target}")),
            exit: match what {
                Moved::Failed(_, exit) if event == "command_end" => *exit,
                _ => (event == "command_end" && level == "info").then_some(0),
            },
            text,
            colour,
            level,
            event,
            phase,
            action,
            duration_ms,
        }
    }
}

impl Progress for OfRun<'_> {
    fn moved(&self, job: &JobName, host: Option<&Host>, what: &Moved) {
        let words = self.begun.words(job, host, what);
        let text = self.ui.paint(words.colour, &words.text);
        match (what, host) {
            (Moved::Skipped, _) => self.ui.say(text),
            (_, Some(host)) => self.ui.say(format_args!("{job}@{host} | {text}")),
            (_, None) => self.ui.say(format_args!("{job} | {text}")),
        }
        self.write(Line { maand: "deploy", ..words.line(job, host) });
    }

    fn interrupts(&self) -> u32 {
        let count = self.interrupts.load(Ordering::Relaxed);
        if self.answered.swap(count, Ordering::Relaxed) == 0 && count == 1 {
            self.ui.say("pausing after what is in flight; Ctrl-C again leaves at once");
        }
        count
    }
}
