//! Edge: a check that is a command.
#![expect(clippy::disallowed_methods, reason = "edge: processes")]

use std::error::Error;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinSet;

use super::probe::Place;

/// What is kept of the end of a command's output, bytes of each stream.
const TAIL: usize = 1024;
/// How long output is waited for that a process left in the background may still hold open.
const LATE_OUTPUT: Duration = Duration::from_millis(200);
/// What ending a command takes beyond its time.
pub const ENDING: Duration = Duration::from_secs(1);

/// A line of shell in the job's directory, in a process group of its own, which ends with its time.
pub async fn run(command: &str, place: &Place, limit: Duration) -> Result<(), String> {
    let what = format!("exec {:?}", shortened(command));
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", command])
        .current_dir(&place.dir)
        .env_clear()
        .envs(&place.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{what}: sh cannot be run: {}", plain(&error)))?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let output = (Output::default(), Output::default());
    let mut reading = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        reading.spawn(output.0.clone().keep(stdout));
    }
    if let Some(stderr) = child.stderr.take() {
        reading.spawn(output.1.clone().keep(stderr));
    }
    let status = match tokio::time::timeout(limit, child.wait()).await {
        Ok(status) => status.map_err(|error| format!("{what}: it cannot be waited for: {}", plain(&error)))?,
        Err(_) => {
            // Not waited for yet, so the group is still its own.
            if let Some(group) = group {
                let _killed = kill_process_group(group, Signal::KILL);
            }
            let _ended = child.wait().await;
            return Err(format!("{what}: not done within {} s{}", limit.as_secs(), said(&output)));
        }
    };
    if status.success() {
        return Ok(());
    }
    let rest = async { while reading.join_next().await.is_some() {} };
    let _late = tokio::time::timeout(LATE_OUTPUT, rest).await;
    let how = match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
        (Some(code), _) => format!("exit {code}"),
        (None, signal) => format!("ended by signal {}", signal.unwrap_or(0)),
    };
    Err(format!("{what}: {how}{}", said(&output)))
}

/// The end of one stream.
#[derive(Debug, Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    /// Reads to the end, so that nobody waits for a full pipe.
    async fn keep(self, mut from: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(&buffer[..read]);
            let surplus = kept.len().saturating_sub(TAIL);
            kept.drain(..surplus);
        }
    }

    fn last_line(&self) -> Option<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept).into_owned();
        text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }
}

/// The last line, of standard error if there is one.
fn said((out, err): &(Output, Output)) -> String {
    err.last_line().or_else(|| out.last_line()).map(|line| format!(": {line}")).unwrap_or_default()
}

/// A command, fit for a sentence.
pub fn shortened(command: &str) -> String {
    let mut short: String = command.chars().take(60).collect();
    if short.len() < command.len() {
        short.push('…');
    }
    short
}

/// The innermost cause, in words: what is around it is known.
pub fn plain(error: &(dyn Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    // "Connection refused" in the middle of a sentence.
    match chars.next() {
        Some(first) if chars.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::api::v1::health::{Check, HealthSpec, MAX_PROBLEM};

    use crate::health::probe::Prober;

    fn ask(command: &str, timeout_s: u64, dir: &std::path::Path) -> Option<String> {
        let checks = vec![Check::Exec { command: command.to_owned() }];
        let spec = HealthSpec { checks, timeout_s, attempts: 1, interval_s: 1, every_s: 1, by_hooks: false };
        let env = [("PATH".to_owned(), std::env::var("PATH").unwrap()), ("JOB".to_owned(), "api".to_owned())];
        let place = Place { dir: dir.to_owned(), host: "127.0.0.1".parse().unwrap(), env: env.into() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Arc::new(Prober::default()).ask(spec, place))
    }

    #[test]
    fn a_command_says_why_and_ends_with_its_time_and_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let run = |command: &str, limit| ask(command, limit, dir.path());
        std::fs::write(dir.path().join("here"), "").unwrap();
        assert_eq!(run("test -e here && test \"$JOB\" = api && test -z \"$HOME\"", 10), None);
        let wrong = run("echo fine; printf 'no\\033[2J disk\\n\\n' >&2; exit 3", 10).unwrap();
        assert!(wrong.ends_with("exit 3: no\\u{1b}[2J disk"), "{wrong}");
        let wrong = run("yes | head -c 10000000; exit 4", 30).unwrap();
        assert!(wrong.ends_with("exit 4: y") && wrong.len() <= MAX_PROBLEM, "{wrong}");
        let wrong = run("echo waiting; sleep 300 & echo $! > child; sleep 300", 1).unwrap();
        assert!(wrong.ends_with("not done within 1 s: waiting"), "{wrong}");
        let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
        // One left in the background that holds the output open does not hold up the answer.
        let wrong = run("sleep 20 & echo $! > child; echo bad >&2; exit 1", 15).unwrap();
        assert!(wrong.ends_with("exit 1: bad"), "{wrong}");
        let child = std::fs::read_to_string(dir.path().join("child")).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
    }
}
