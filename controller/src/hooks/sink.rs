//! Edge: where the output of hooks goes: the bucket's logs, and for who wants to watch the terminal.

use std::fmt;

use shared::{Host, JobName, Name, RunId};

use super::output::Line as Printed;
use super::run::Outcome;
use crate::clock;
use crate::model::HookEvent;
use crate::telemetry::{BucketLog, Line};

/// Which process of a hook.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// The job.
    pub job: &'a JobName,
    /// The worker that it runs for; it runs beside the controller.
    pub host: &'a Host,
    /// The hook.
    pub hook: &'a Name,
    /// Why it runs.
    pub event: HookEvent,
}

/// Hears of hooks while they run, from several threads.
pub trait Sink: Send + Sync + fmt::Debug {
    /// A process begins.
    fn started(&self, who: &Who<'_>);
    /// It printed lines, of bounded length; control characters are as they came.
    fn lines(&self, who: &Who<'_>, lines: &[Printed]);
    /// Something deserves a word: what a hook left behind, a request that was refused. `None` when nobody
    /// knows who asked.
    fn warning(&self, who: Option<&Who<'_>>, message: &str);
    /// It ended.
    fn ended(&self, who: &Who<'_>, outcome: &Outcome, duration_ms: u64);
}

/// Prints a line for people: a label, whether it is of standard error, the line.
pub type Show = Box<dyn Fn(&str, bool, &str) + Send + Sync>;

/// Writes the bucket's logs, and shows lines if it is to.
pub struct Logged {
    /// The logs.
    pub log: BucketLog,
    /// The command.
    pub maand: &'static str,
    /// Its run.
    pub run: RunId,
    /// With `--verbose`.
    pub show: Option<Show>,
}

impl fmt::Debug for Logged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logged").field("maand", &self.maand).field("run", &self.run).finish_non_exhaustive()
    }
}

impl Logged {
    fn write<'a>(&'a self, who: Option<&Who<'a>>, lines: impl IntoIterator<Item = Line<'a>>) {
        let whole = |line| Line {
            maand: self.maand,
            run: Some(self.run),
            worker: who.map(|who| who.host),
            job: who.map(|who| who.job.as_str()),
            phase: who.map(|who| who.event.word()),
            action: who.map(|who| who.hook.as_str()),
            ..line
        };
        self.log.write(clock::now_ms(), &lines.into_iter().map(whole).collect::<Vec<_>>());
    }

    fn show(&self, who: &Who<'_>, stderr: bool, line: &str) {
        if let Some(show) = &self.show {
            show(&format!("{}@{}", who.job, who.host), stderr, line);
        }
    }
}

impl Sink for Logged {
    fn started(&self, who: &Who<'_>) {
        self.write(Some(who), [Line { event: Some("hook_started"), ..Line::default() }]);
    }

    fn lines(&self, who: &Who<'_>, lines: &[Printed]) {
        let logged = lines.iter().map(|(stderr, text)| Line {
            stream: Some(if *stderr { "stderr" } else { "stdout" }),
            msg: Some(text),
            ..Line::default()
        });
        self.write(Some(who), logged);
        lines.iter().for_each(|(stderr, line)| self.show(who, *stderr, line));
    }

    fn warning(&self, who: Option<&Who<'_>>, message: &str) {
        self.write(who, [Line { level: "warn", event: Some("hook_warned"), msg: Some(message), ..Line::default() }]);
        if let Some(who) = who {
            self.show(who, true, message);
        }
    }

    fn ended(&self, who: &Who<'_>, outcome: &Outcome, duration_ms: u64) {
        let said = outcome.to_string();
        let exit = match outcome {
            Outcome::Ok => Some(0),
            Outcome::Failed { exit } => Some(*exit),
            _ => None,
        };
        let level = if *outcome == Outcome::Ok { "info" } else { "error" };
        let duration_ms = Some(duration_ms);
        self.write(
            Some(who),
            [Line { level, event: Some("hook_ended"), exit, duration_ms, msg: Some(&said), ..Line::default() }],
        );
    }
}
