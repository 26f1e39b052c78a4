//! The bucket's structured logs: `logs/<host>.log`, `logs/maand.log`, and the same lines by run in
//! `logs/runs/<run_id>/` (`spec/behaviour.md` 8.6). How a line is written here; how it gets into its file,
//! and files are kept small, in `file.rs`; how it is read again in `record.rs` and `blocks.rs`.

pub mod blocks;
mod file;
pub mod record;

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use shared::api::v1::operation::Work;
use shared::text::clean;
use shared::{Host, RunId};

use crate::config::Logs;
use crate::paths::BucketDir;

pub use file::generations;

/// Longest value of a field, bytes; what is longer is cut and says so.
const MAX_VALUE: usize = 8 << 10;
/// Longest `cmd`, characters.
const MAX_CMD: usize = 200;

/// One line. Fields that are `None` are left out.
#[derive(Debug, Clone, Default)]
pub struct Line<'a> {
    /// `info`, `warn` or `error`.
    pub level: &'static str,
    /// `command_begin`, `command_end`, `deploy_skip`, `reconcile_skip_stop`, or `<noun>_<verb past>`; none on
    /// lines of output.
    pub event: Option<&'static str>,
    /// The run that it belongs to.
    pub run: Option<RunId>,
    /// Which command or part of maand.
    pub maand: &'static str,
    /// `update_seq`.
    pub seq: Option<u64>,
    /// The worker; `None` prints `-`.
    pub worker: Option<&'a Host>,
    /// The job.
    pub job: Option<&'a str>,
    /// `reconcile`, `fetch`, `rollout`, `job_control`, `run_command`, `health_check`, `gc`, a hook's event.
    pub phase: Option<&'a str>,
    /// A make target or another word for what is done.
    pub action: Option<&'a str>,
    /// What is run, as a shell would be told; blanks collapsed, at most 200 characters of it.
    pub cmd: Option<&'a str>,
    /// `stdout` or `stderr`.
    pub stream: Option<&'static str>,
    /// Exit code.
    pub exit: Option<i32>,
    /// How long it took.
    pub duration_ms: Option<u64>,
    /// Why.
    pub reason: Option<&'a str>,
    /// Text.
    pub msg: Option<&'a str>,
}

/// Writes the bucket's logs. Lines of several threads and processes do not mix: each is one write to
/// a file opened for appending.
#[derive(Debug)]
pub struct BucketLog {
    bucket: BucketDir,
    logs: Logs,
    lock: Mutex<()>,
}

impl BucketLog {
    /// `logs` as in maand.conf.
    pub fn new(bucket: &BucketDir, logs: Logs) -> Self {
        Self { bucket: bucket.clone(), logs, lock: Mutex::new(()) }
    }

    /// Appends lines to the log of their worker, or to maand.log, and to that of their run. A log that
    /// cannot be written stops nothing: it is said on standard error.
    pub fn write(&self, now_ms: i64, lines: &[Line<'_>]) {
        let Some(first) = lines.first() else { return };
        let text: String = lines.iter().map(|line| self.encode(now_ms, line)).collect();
        let name = first.worker.map_or_else(|| "maand.log".to_owned(), |host| format!("{host}.log"));
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut written = file::append(&self.bucket.logs().join(&name), text.as_bytes(), Some(&self.logs));
        if let Some(run) = first.run {
            written = written.and(file::append_of_run(&self.bucket.runs(), run, &name, text.as_bytes(), &self.logs));
        }
        if let Err(error) = written {
            tracing::error!(log = name, %error, "log_failed");
        }
    }

    fn encode(&self, now_ms: i64, line: &Line<'_>) -> String {
        let fields = fields(now_ms, line);
        if self.logs.json {
            let object: serde_json::Map<_, _> =
                fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            return format!("{}\n", Value::Object(object));
        }
        let mut text = String::new();
        for (key, value) in fields {
            let value = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let separator = if text.is_empty() { "" } else { " " };
            if value.is_empty() || value.contains([' ', '\t', '=', '"']) {
                let _ = write!(text, "{separator}{key}=\"{}\"", value.replace('"', "\\\""));
            } else {
                let _ = write!(text, "{separator}{key}={value}");
            }
        }
        text.push('\n');
        text
    }
}

/// The phase of ad-hoc work.
pub const fn phase(work: &Work) -> &'static str {
    match work {
        Work::Make { .. } => "job_control",
        Work::Probe { .. } => "health_check",
        Work::Logs { .. } => "job_logs",
        Work::Script { .. } | Work::Unknown => "run_command",
    }
}

/// What a line says, in the order in which it is written.
fn fields(now_ms: i64, line: &Line<'_>) -> Vec<(&'static str, Value)> {
    let time = jiff::Timestamp::from_millisecond(now_ms).unwrap_or_default();
    let text = |value: Option<&str>| value.map(|value| Value::from(cut(value)));
    let fields = [
        ("ts", Some(time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string().into())),
        ("level", Some(if line.level.is_empty() { "info" } else { line.level }.into())),
        ("event", text(line.event)),
        ("run", text(line.run.map(|run| run.to_string()).as_deref())),
        ("maand", text(Some(line.maand))),
        ("seq", line.seq.map(Value::from)),
        ("worker", text(Some(line.worker.map_or("-", Host::as_str)))),
        ("job", text(line.job)),
        ("phase", text(line.phase)),
        ("action", text(line.action)),
        ("cmd", line.cmd.map(|cmd| Value::from(command(cmd)))),
        ("stream", text(line.stream)),
        ("exit", line.exit.map(Value::from)),
        ("duration_ms", line.duration_ms.map(Value::from)),
        ("reason", text(line.reason)),
        ("msg", text(line.msg)),
    ];
    fields.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// A command on one line, at most [`MAX_CMD`] characters of it.
fn command(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    clean(&line).chars().take(MAX_CMD).collect()
}

/// A value fit for a log: control characters shown, at most [`MAX_VALUE`] bytes.
fn cut(value: &str) -> String {
    let end = value.floor_char_boundary(MAX_VALUE);
    let mut text = clean(&value[..end]);
    if end < value.len() {
        let _ = write!(text, " … ({} bytes more)", value.len() - end);
    }
    text
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests read the logs")]
mod tests {
    use super::*;

    #[test]
    fn a_workers_line_is_one_line_whatever_it_printed() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = BucketDir::new(dir.path());
        let host: Host = "10.0.0.1".parse().unwrap();
        let line = |msg| Line {
            maand: "deploy",
            worker: Some(&host),
            job: Some("api"),
            stream: Some("stdout"),
            msg: Some(msg),
            ..Line::default()
        };
        let long = "x".repeat(10_000);
        BucketLog::new(&bucket, Logs::default())
            .write(1_000, &[line("plain"), line("a \"b\"\nforged\x1b[2J"), line(&long)]);
        let text = std::fs::read_to_string(bucket.worker_log(&host)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "ts=1970-01-01T00:00:01.000Z level=info maand=deploy worker=10.0.0.1 job=api stream=stdout msg=plain"
        );
        assert!(lines[1].ends_with(r#"msg="a \"b\"\u{a}forged\u{1b}[2J""#), "{}", lines[1]);
        assert!(lines[2].ends_with("(1808 bytes more)\"") && lines.len() == 3);
        let script = Line { maand: "run_command", cmd: Some("echo  a\n\techo b"), exit: Some(0), ..Line::default() };
        BucketLog::new(&bucket, Logs::default()).write(0, &[script]);
        let text = std::fs::read_to_string(bucket.maand_log()).unwrap();
        assert!(text.ends_with(" worker=- cmd=\"echo a echo b\" exit=0\n"), "{text}");
        std::fs::remove_file(bucket.maand_log()).unwrap();
        BucketLog::new(&bucket, Logs { json: true, ..Logs::default() })
            .write(0, &[Line { maand: "serve", exit: Some(1), ..Line::default() }]);
        let json: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(bucket.maand_log()).unwrap()).unwrap();
        assert_eq!((&json["exit"], &json["worker"]), (&1.into(), &"-".into()));
    }
}
