//! Edge: the bucket's structured logs: `logs/<host>.log`, `logs/maand.log`, and the same lines by
//! run in `logs/runs/<run_id>/` (`spec/behaviour.md` 8.6).
#![expect(clippy::disallowed_methods, reason = "edge: appends to the bucket's logs")]
#![expect(clippy::disallowed_types, reason = "edge: opens files for appending")]

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use shared::text::clean;
use shared::{Host, RunId};

use crate::paths::BucketDir;

/// Longest value of a field, bytes; what is longer is cut and says so.
const MAX_VALUE: usize = 8 << 10;

/// One line. Fields that are `None` are left out.
#[derive(Debug, Clone, Default)]
pub struct Line<'a> {
    /// `info`, `warn` or `error`.
    pub level: &'static str,
    /// `<noun>_<verb past>`; empty on lines of output.
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
    /// `fetch`, `rollout`, `reconcile`.
    pub phase: Option<&'a str>,
    /// A make target or another word for what is done.
    pub action: Option<&'a str>,
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
    json: bool,
    lock: Mutex<()>,
}

impl BucketLog {
    /// `json` as in maand.conf.
    pub fn new(bucket: &BucketDir, json: bool) -> Self {
        Self { bucket: bucket.clone(), json, lock: Mutex::new(()) }
    }

    /// Appends lines to the log of their worker, or to maand.log, and to that of their run. A log that
    /// cannot be written stops nothing: it is said on standard error.
    pub fn write(&self, now_ms: i64, lines: &[Line<'_>]) {
        let Some(first) = lines.first() else { return };
        let text: String = lines.iter().map(|line| self.encode(now_ms, line)).collect();
        let name = first.worker.map_or_else(|| "maand.log".to_owned(), |host| format!("{host}.log"));
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut written = append(&self.bucket.logs(), &name, &text);
        if let Some(run) = first.run {
            written = written.and(append(&self.bucket.runs().join(run.to_string()), &name, &text));
        }
        if let Err(error) = written {
            tracing::error!(log = name, %error, "log_failed");
        }
    }

    fn encode(&self, now_ms: i64, line: &Line<'_>) -> String {
        let fields = fields(now_ms, line);
        if self.json {
            let object: serde_json::Map<_, _> =
                fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            return format!("{}\n", serde_json::Value::Object(object));
        }
        let mut text = String::new();
        for (key, value) in fields {
            let value = match value {
                serde_json::Value::String(text) => text,
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

fn fields(now_ms: i64, line: &Line<'_>) -> Vec<(&'static str, serde_json::Value)> {
    let time = jiff::Timestamp::from_millisecond(now_ms).unwrap_or_default();
    let mut all: Vec<(&'static str, serde_json::Value)> = vec![
        ("ts", time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string().into()),
        ("level", if line.level.is_empty() { "info" } else { line.level }.into()),
    ];
    let mut text = |key, value: Option<&str>| {
        if let Some(value) = value {
            all.push((key, cut(value).into()));
        }
    };
    text("event", line.event);
    text("run", line.run.map(|run| run.to_string()).as_deref());
    text("maand", Some(line.maand));
    if let Some(seq) = line.seq {
        all.push(("seq", seq.into()));
    }
    let mut text = |key, value: Option<&str>| {
        if let Some(value) = value {
            all.push((key, cut(value).into()));
        }
    };
    text("worker", Some(line.worker.map_or("-", Host::as_str)));
    text("job", line.job);
    text("phase", line.phase);
    text("action", line.action);
    text("stream", line.stream);
    if let Some(exit) = line.exit {
        all.push(("exit", exit.into()));
    }
    if let Some(duration) = line.duration_ms {
        all.push(("duration_ms", duration.into()));
    }
    let mut text = |key, value: Option<&str>| {
        if let Some(value) = value {
            all.push((key, cut(value).into()));
        }
    };
    text("reason", line.reason);
    text("msg", line.msg);
    all
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

fn append(dir: &Path, name: &str, text: &str) -> std::io::Result<()> {
    if !dir.is_dir() {
        std::fs::create_dir_all(dir)?;
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(dir.join(name))?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
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
        BucketLog::new(&bucket, false).write(1_000, &[line("plain"), line("a \"b\"\nforged\x1b[2J"), line(&long)]);
        let text = std::fs::read_to_string(bucket.worker_log(&host)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "ts=1970-01-01T00:00:01.000Z level=info maand=deploy worker=10.0.0.1 job=api stream=stdout msg=plain"
        );
        assert!(lines[1].ends_with(r#"msg="a \"b\"\u{a}forged\u{1b}[2J""#), "{}", lines[1]);
        assert!(lines[2].ends_with("(1808 bytes more)\"") && lines.len() == 3);
        BucketLog::new(&bucket, true).write(0, &[Line { maand: "serve", exit: Some(1), ..Line::default() }]);
        let json: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(bucket.maand_log()).unwrap()).unwrap();
        assert_eq!((&json["exit"], &json["worker"]), (&1.into(), &"-".into()));
    }
}
