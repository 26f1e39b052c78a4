//! What the commands that ask agents for something have in common: agents are looked at before anything
//! is asked, output comes as it is produced, and Ctrl-C takes back what was asked for.
#![expect(clippy::disallowed_methods, reason = "edge: waits for agents")]

mod hooks;
mod said;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use shared::api::v1::logs::Stream;
use shared::api::v1::operation::{Ended, Precondition, Work};
use shared::text::clean;
use shared::{Code, Diagnostic, Host, OperationId, RunId, WorkerId};
use tokio::signal::unix::{SignalKind, signal};

use self::said::{command, label, problem};
use super::Context;
use super::ui::command_line;
use crate::catalog::{Catalog, agents, observed, read};
use crate::clock;
use crate::config::Settings;
use crate::drive::operations::{self, Asked, End, Heard, Request, Sink, Standing};
use crate::failure::{Exit, Failure};
use crate::hooks::Runner;
use crate::model::{Allocation, Job, Snapshot, health};
use crate::serve::{ServeLock, Server};
use crate::telemetry::{BucketLog, Line, phase};

pub use said::absent;

/// How long agents get to dial a server that has only just begun to serve, milliseconds.
const DIAL_MS: i64 = 15_000;
/// How long an agent gets to accept a deploy that has only just ended, or to come back, milliseconds.
const STEP_MS: i64 = 5_000;
/// After how long it is said what is waited for, milliseconds.
const SAY_MS: i64 = 1_000;
/// Most workers that are named there.
const NAMED: usize = 8;
/// How long logs are followed at most, seconds.
const FOLLOWED_S: u64 = 24 * 3600;
/// How long reading the end of logs may take, seconds.
const READ_S: u64 = 60;
/// How often agents are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// A command that asks agents for something.
pub struct Session<'a> {
    /// The bucket and the terminal.
    pub context: &'a Context,
    /// As it was when the command began.
    pub snapshot: Snapshot,
    /// The id of the command, in the logs.
    pub run: RunId,
    settings: Settings,
    catalog: Catalog,
    name: &'static str,
    log: BucketLog,
    runtime: tokio::runtime::Runtime,
    /// Whether the command is on record and Ctrl-C is listened to.
    begun: bool,
    server: Option<Server>,
    /// Started with the first hook.
    hooks: Option<Runner>,
    interrupts: Arc<AtomicU32>,
    begin: std::time::Instant,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("name", &self.name).field("run", &self.run).finish_non_exhaustive()
    }
}

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What was asked, and of whom.
    pub asked: Asked,
    /// How it went.
    pub end: End,
    /// With `--json`: what it printed.
    pub output: [String; 2],
}

impl Answer {
    /// Whether it did what was asked.
    pub fn is_good(&self) -> bool {
        matches!(&self.end, End::Said(said) if said.outcome == Some(Ended::Ok))
    }

    /// For `--json`.
    pub fn json(&self) -> Value {
        let mut row = json!({ "worker_ip": self.asked.host });
        match &self.asked.work {
            Work::Make { job, target, .. } => (row["job"], row["target"]) = (json!(job), json!(target)),
            Work::Probe { job, .. } | Work::Logs { job, .. } => row["job"] = json!(job),
            Work::Script { .. } | Work::Unknown => {}
        }
        let said = if let End::Said(said) = &self.end { Some(said) } else { None };
        row["outcome"] = said.and_then(|said| said.outcome.as_ref()).map_or_else(
            || json!({ "kind": if self.end == End::NotPickedUp { "not_picked_up" } else { "unknown" } }),
            |outcome| json!(outcome),
        );
        row["duration_ms"] = json!(said.map(|said| said.duration_ms));
        row["stdout"] = json!(self.output[0]);
        row["stderr"] = json!(self.output[1]);
        row["omitted"] = json!(said.map_or(0, |said| said.omitted));
        row
    }
}

impl<'a> Session<'a> {
    /// Opens the bucket for the command `name`, without asking anybody for anything.
    pub fn open(context: &'a Context, name: &'static str) -> Result<Self, Failure> {
        let settings = Settings::load(&context.bucket)?;
        let mut catalog = context.catalog()?;
        let snapshot = catalog.read(|tx| read::snapshot(tx))?;
        let log = BucketLog::new(&context.bucket, settings.logs);
        let runtime = context.runtime()?;
        let (run, begin, interrupts) =
            (RunId::from_uuid(clock::run_uuid()), clock::instant(), Arc::new(AtomicU32::new(0)));
        Ok(Self {
            context,
            snapshot,
            run,
            settings,
            catalog,
            name,
            log,
            runtime,
            begun: false,
            server: None,
            hooks: None,
            interrupts,
            begin,
        })
    }

    /// Makes sure that these workers' agents are there, before anything is asked of anybody; with
    /// `in_step` also that they have accepted the last deploy. Serves agents when nobody else does.
    pub fn reach(&mut self, workers: &BTreeSet<WorkerId>, in_step: bool) -> Result<(), Failure> {
        let missing = self.look(workers, in_step, 0)?;
        if missing.is_empty() {
            return Ok(());
        }
        let problems = missing.iter().map(|(host, standing)| absent(host, standing, &self.snapshot)).collect();
        self.shut_down(false);
        Err(Failure { exit: Exit::Failed, problems })
    }

    /// The agents that cannot be asked, and why. Waits a moment for those that are on their way, and for
    /// those that are away at most `patience_ms`.
    pub fn look(
        &mut self,
        workers: &BTreeSet<WorkerId>,
        in_step: bool,
        patience_ms: i64,
    ) -> Result<Vec<(Host, Standing)>, Failure> {
        self.begin()?;
        let (begun_ms, mut said) = (clock::now_ms(), false);
        loop {
            let heard = self.catalog.read(|tx| {
                Ok(Heard {
                    joined: agents::joined(tx)?,
                    contacts: observed::contacts(tx)?,
                    agents: observed::agents(tx)?,
                })
            })?;
            let now_ms = clock::now_ms();
            let chosen = self.snapshot.workers.iter().filter(|worker| workers.contains(&worker.worker_id));
            let missing: Vec<(Host, Standing)> = chosen
                .map(|worker| {
                    let standing = operations::standing(&self.snapshot, worker.worker_id, &heard, in_step, now_ms);
                    (worker.host.clone(), standing)
                })
                .filter(|(_, standing)| *standing != Standing::Ready)
                .collect();
            let dialling =
                now_ms - begun_ms < if self.server.is_some() { DIAL_MS.max(patience_ms) } else { patience_ms };
            let stepping = now_ms - begun_ms < STEP_MS;
            let coming = missing.iter().any(|(_, standing)| match standing {
                // It may be on its way back, as after a restart.
                Standing::Offline(since) => dialling || since.is_some_and(|since| now_ms - since < STEP_MS),
                Standing::Behind { .. } => stepping || dialling,
                Standing::Ready | Standing::NotJoined | Standing::Refuses(_) => false,
            });
            if !coming || self.interrupts.load(Ordering::Relaxed) > 0 {
                return Ok(missing);
            }
            if !said && now_ms - begun_ms >= SAY_MS {
                said = true;
                let hosts: Vec<&str> = missing.iter().take(NAMED).map(|(host, _)| host.as_str()).collect();
                let more = if missing.len() > hosts.len() { ", …" } else { "" };
                self.context.ui.say(format_args!("waiting for agents: {}{more}", hosts.join(", ")));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn begin(&mut self) -> Result<(), Failure> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        self.listen_to_signals();
        if let Some(lock) = ServeLock::try_take(&self.context.bucket)? {
            let server = self.runtime.block_on(Server::start_locked(&self.context.bucket, &self.settings, lock))?;
            let address = server.local_addr();
            self.context.ui.say(format_args!("no maand serve runs: serving agents on {address} meanwhile"));
            self.server = Some(server);
        }
        let cmd = command_line();
        self.write(Line { event: Some("command_begin"), cmd: Some(&cmd), ..Line::default() });
        Ok(())
    }

    /// Counts Ctrl-C from here on: once this returns none is missed, and none ends the process.
    fn listen_to_signals(&self) {
        let counted = self.interrupts.clone();
        let _entered = self.runtime.enter();
        // Without handlers the signals end the process by themselves.
        if let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            self.runtime.spawn(async move {
                loop {
                    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }

    /// Asks for all of it at once and follows it to its end.
    pub fn ask(&mut self, requests: Vec<Request>) -> Result<Vec<Answer>, Failure> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let bucket = &self.context.bucket;
        let pickup_s = self.settings.pickup_timeout_s;
        let asked = operations::queue(&mut self.catalog, bucket, self.run, requests, pickup_s)?.map_err(|host| {
            let problem =
                Diagnostic::new(Code::OperationFailed, format!("{host} has as much ad-hoc work as it may have"));
            Failure::new(Exit::Failed, problem.remedy("wait until what runs there has ended, or ask for less at once"))
        })?;
        for asked in &asked {
            let (phase, cmd) = (phase(&asked.work), command(&asked.work));
            self.write(Line { event: Some("command_begin"), cmd: cmd.as_deref(), ..of(asked, phase) });
        }
        let mut shown = Shown { context: self.context, interrupts: &self.interrupts, output: BTreeMap::new() };
        let ends = operations::follow(&mut self.catalog, bucket, &asked, &mut shown)?;
        let mut output = shown.output;
        let answers: Vec<Answer> = asked
            .into_iter()
            .zip(ends)
            .map(|(asked, end)| Answer { output: output.remove(&asked.id).unwrap_or_default(), asked, end })
            .collect();
        for answer in &answers {
            let (exit, duration_ms) = match &answer.end {
                End::Said(said) => (
                    match said.outcome {
                        Some(Ended::Ok) => Some(0),
                        Some(Ended::Failed { exit }) => Some(exit),
                        _ => None,
                    },
                    Some(said.duration_ms),
                ),
                _ => (None, None),
            };
            let reason = problem(answer, self.run).map(|problem| problem.message);
            self.write(Line {
                level: if reason.is_some() { "error" } else { "info" },
                event: Some("command_end"),
                exit,
                duration_ms,
                reason: reason.as_deref(),
                ..of(&answer.asked, phase(&answer.asked.work))
            });
        }
        Ok(answers)
    }

    /// The problems of answers that are not good.
    pub fn problems(&self, answers: &[Answer]) -> Vec<Diagnostic> {
        answers.iter().filter_map(|answer| problem(answer, self.run)).collect()
    }

    /// Whether the operator asked to stop.
    pub fn is_interrupted(&self) -> bool {
        self.interrupts.load(Ordering::Relaxed) > 0
    }

    /// Waits between two tries; whether to try again.
    pub fn pause(&self, seconds: u64) -> bool {
        let end = clock::instant() + Duration::from_secs(seconds);
        while clock::instant() < end && !self.is_interrupted() {
            std::thread::sleep(LOOK);
        }
        !self.is_interrupted()
    }

    /// A request to run a make target of an allocation, once its worker has heard of the last deploy.
    pub fn make(&self, allocation: &Allocation, job: &Job, target: &str) -> Option<Request> {
        let worker = self.snapshot.worker(&allocation.host)?.clone();
        let (alloc_id, job_name) = (allocation.alloc_id, allocation.job.clone());
        let work = Work::Make { alloc_id, job: job_name, target: target.to_owned(), env: BTreeMap::new() };
        let precondition = Some(Precondition { bundle: None, update_seq: Some(self.snapshot.update_seq) });
        Some(Request { worker, work, timeout_s: job.spec.action_timeout_s.max(1), precondition })
    }

    /// A request for the checks of an allocation, once or with the manifest's patience; `None` without checks.
    pub fn probe(&self, allocation: &Allocation, job: &Job, wait: bool) -> Option<Request> {
        let worker = self.snapshot.worker(&allocation.host)?.clone();
        let mut health = health::spec(&job.spec)?;
        if !wait {
            health.attempts = 1;
        }
        let checks = u64::try_from(health.checks.len()).unwrap_or(u64::MAX);
        let attempt_s = health.timeout_s.saturating_mul(checks).saturating_add(health.interval_s).saturating_add(1);
        let timeout_s = attempt_s.saturating_mul(health.attempts.into()).min(24 * 3600);
        let work = Work::Probe { alloc_id: allocation.alloc_id, job: allocation.job.clone(), health };
        Some(Request { worker, work, timeout_s, precondition: None })
    }

    /// A request for what an allocation's job wrote into its own logs/.
    pub fn logs(&self, allocation: &Allocation, tail: u32, follow: bool) -> Option<Request> {
        let worker = self.snapshot.worker(&allocation.host)?.clone();
        let work = Work::Logs { alloc_id: allocation.alloc_id, job: allocation.job.clone(), tail, follow };
        Some(Request { worker, work, timeout_s: if follow { FOLLOWED_S } else { READ_S }, precondition: None })
    }

    /// Ends a command that goes on until Ctrl-C, which is no failure of it.
    pub fn leave(mut self) {
        self.shut_down(true);
    }

    /// Ends the command: prints the answers as JSON where that was asked for, stops serving.
    pub fn end(mut self, rows: &[Value], problems: Vec<Diagnostic>) -> Result<(), Failure> {
        if self.context.ui.wants_json() {
            self.context.ui.out_json(&rows);
        }
        let mut problems = problems;
        if self.is_interrupted() {
            let problem = Diagnostic::new(Code::OperationFailed, format!("{} was interrupted", self.name));
            problems.push(problem.note("what had not ended was cancelled; the rest was not begun"));
        }
        self.shut_down(problems.is_empty());
        if problems.is_empty() { Ok(()) } else { Err(Failure { exit: Exit::Failed, problems }) }
    }

    fn shut_down(&mut self, good: bool) {
        drop(self.hooks.take());
        let duration_ms = u64::try_from(self.begin.elapsed().as_millis()).ok();
        self.write(Line { event: Some("command_end"), exit: Some(i32::from(!good)), duration_ms, ..Line::default() });
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.shutdown());
        }
    }

    fn write(&self, line: Line<'_>) {
        let (run, seq) = (Some(self.run), Some(self.snapshot.update_seq));
        self.log.write(clock::now_ms(), &[Line { run, seq, maand: self.name, ..line }]);
    }
}

/// What lines of the log say of what was asked.
fn of<'a>(asked: &'a Asked, phase: &'static str) -> Line<'a> {
    Line {
        worker: Some(&asked.host),
        job: asked.work.job().map(|job| job.as_str()),
        phase: Some(phase),
        action: Some(asked.work.label()),
        ..Line::default()
    }
}

/// Output for the operator.
struct Shown<'a> {
    context: &'a Context,
    interrupts: &'a AtomicU32,
    output: BTreeMap<OperationId, [String; 2]>,
}

impl Sink for Shown<'_> {
    fn line(&mut self, asked: &Asked, stream: Stream, line: &str) {
        let ui = &self.context.ui;
        if ui.wants_json() {
            let output = &mut self.output.entry(asked.id).or_default()[usize::from(stream == Stream::Stderr)];
            output.push_str(line);
            output.push('\n');
            return;
        }
        let label = label(asked);
        match stream {
            Stream::Stdout => ui.out(format_args!("{label} | {}", clean(line))),
            Stream::Stderr => ui.worker_line(&label, true, line),
        }
    }

    fn ended(&mut self, asked: &Asked, end: &End) {
        let (colour, text) = match end {
            End::Said(said) => match &said.outcome {
                Some(Ended::Ok) => ("32", format!("ok in {} ms", said.duration_ms)),
                Some(Ended::Failed { exit }) => ("31", format!("exit {exit} after {} ms", said.duration_ms)),
                Some(Ended::Cancelled) => ("33", "cancelled".to_owned()),
                // Said in full at the end.
                _ => ("31", "failed".to_owned()),
            },
            End::NotPickedUp | End::NoResult | End::Left => ("31", "no result".to_owned()),
        };
        // What checks say is shown by who asked for them.
        let quiet =
            matches!(asked.work, Work::Probe { .. }) || (matches!(asked.work, Work::Logs { .. }) && colour != "31");
        if !quiet {
            self.context.ui.say(format_args!("{} : {}", label(asked), self.context.ui.paint(colour, &text)));
        }
    }

    fn interrupts(&self) -> u32 {
        self.interrupts.load(Ordering::Relaxed)
    }
}
