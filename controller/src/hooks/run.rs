//! Edge: one process of a hook: a group of its own, a time limit, output read in bounded chunks. The group
//! is ended with its leader, so that nothing lingers beside the controller.
#![expect(clippy::disallowed_methods, reason = "edge: starts processes")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::output::{Kept, Line, Lines};
use crate::clock;

/// Time between TERM and KILL for a hook that took too long or was interrupted.
const GRACE: Duration = Duration::from_secs(10);
/// The same for what a hook that has ended left behind.
const LINGER: Duration = Duration::from_secs(1);
/// How long the kernel may take to end what was killed.
const KILLED: Duration = Duration::from_millis(500);
/// How long output is waited for once the whole group is gone.
const DRAIN: Duration = Duration::from_secs(2);
/// How often a group is looked at that cannot be waited for.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes that are read at once.
const CHUNK: usize = 16 << 10;

/// What to run.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) dir: PathBuf,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) timeout: Duration,
}

/// What became of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with 0.
    Ok,
    /// It exited with another code.
    Failed {
        /// Which.
        exit: i32,
    },
    /// A signal that was not ours ended it.
    Killed {
        /// Which.
        signal: i32,
    },
    /// It took too long and was ended.
    TimedOut {
        /// Its time limit, seconds.
        after_s: u64,
    },
    /// The operator interrupted the command.
    Interrupted,
    /// It could not be started.
    NotStarted {
        /// Why.
        why: String,
    },
}

/// How one process ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) duration: Duration,
    /// It left processes of its group behind, which were ended.
    pub(super) lingered: bool,
    pub(super) last: Vec<Line>,
}

/// Who gets the lines, those of one read at once.
pub(super) type Give = Arc<dyn Fn(&[Line]) + Send + Sync>;

/// How the operator ends what runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    /// With time to clean up.
    pub(super) ask: CancellationToken,
    /// At once.
    pub(super) now: CancellationToken,
}

/// Runs a process to its end.
pub(super) async fn run(process: Process, stop: &Stop, give: Give) -> Ended {
    let begin = clock::instant();
    let ended = |outcome, lingered, last| Ended { outcome, duration: begin.elapsed(), lingered, last };
    let spawned = Command::new(&process.program)
        .args(&process.arguments)
        .current_dir(&process.dir)
        .env_clear()
        .envs(process.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let why = format!("{} cannot be started: {error}", process.program.display());
            return ended(Outcome::NotStarted { why }, false, Vec::new());
        }
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let kept = Arc::new(Mutex::new(Kept::default()));
    let readers = [
        child.stdout.take().map(|pipe| read(pipe, false, kept.clone(), give.clone())),
        child.stderr.take().map(|pipe| read(pipe, true, kept.clone(), give.clone())),
    ];
    let ending = tokio::select! {
        biased;
        status = child.wait() => Ok(status),
        () = stop.ask.cancelled() => Err(Outcome::Interrupted),
        () = tokio::time::sleep(process.timeout) => Err(Outcome::TimedOut { after_s: process.timeout.as_secs() }),
    };
    let outcome = match ending {
        Ok(Ok(status)) => exited(status),
        Ok(Err(error)) => Outcome::NotStarted { why: format!("it cannot be waited for: {error}") },
        Err(outcome) => {
            signal(group, Signal::TERM);
            let ended = tokio::select! {
                _ = child.wait() => true,
                () = stop.now.cancelled() => false,
                () = tokio::time::sleep(GRACE) => false,
            };
            if !ended {
                signal(group, Signal::KILL);
                drop(tokio::time::timeout(GRACE, child.wait()).await);
            }
            outcome
        }
    };
    let lingered = end_group(group).await;
    for reader in readers.into_iter().flatten() {
        let stop = reader.abort_handle();
        if tokio::time::timeout(DRAIN, reader).await.is_err() {
            // A process that left the group holds the pipe.
            stop.abort();
        }
    }
    let mut kept = std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
    pass_on(&give, &kept.end());
    ended(outcome, lingered, kept.last())
}

fn exited(status: std::process::ExitStatus) -> Outcome {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(0), _) => Outcome::Ok,
        (Some(exit), _) => Outcome::Failed { exit },
        (None, signal) => Outcome::Killed { signal: signal.unwrap_or(0) },
    }
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // One that is gone already is what is wanted.
        let _sent = kill_process_group(group, signal);
    }
}

/// Ends what is left of a group whose leader is gone; whether anything was.
async fn end_group(group: Option<Pid>) -> bool {
    let alive = || group.is_some_and(|group| test_kill_process_group(group).is_ok());
    if !alive() {
        return false;
    }
    signal(group, Signal::TERM);
    let end = clock::instant() + LINGER;
    while alive() && clock::instant() < end {
        tokio::time::sleep(LOOK).await;
    }
    signal(group, Signal::KILL);
    // Killed is not yet gone; a zombie that nobody reaps must not hold this up.
    let end = clock::instant() + KILLED;
    while alive() && clock::instant() < end {
        tokio::time::sleep(LOOK).await;
    }
    true
}

fn pass_on(give: &Give, lines: &[Line]) {
    if !lines.is_empty() {
        give(lines);
    }
}

/// Passes a stream's lines on until it ends.
fn read(
    mut pipe: impl AsyncRead + Unpin + Send + 'static,
    stderr: bool,
    kept: Arc<Mutex<Kept>>,
    give: Give,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = Lines::default();
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = pipe.read(&mut chunk).await;
            let mut whole = Vec::new();
            let more = match read {
                Ok(0) | Err(_) => {
                    lines.end(|line| whole.push(line));
                    false
                }
                Ok(len) => {
                    lines.feed(&chunk[..len], |line| whole.push(line));
                    true
                }
            };
            let first: Vec<Line> = {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                whole.into_iter().filter_map(|line| kept.push(stderr, line)).collect()
            };
            pass_on(&give, &first);
            if !more {
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout_s: u64) -> Process {
        Process {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            dir: "/".into(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            timeout: Duration::from_secs(timeout_s),
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    fn ended(process: Process) -> (Ended, Vec<String>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let to = lines.clone();
        let give: Give = Arc::new(move |all| {
            let line = |(stderr, line): &Line| format!("{}{line}", if *stderr { "!" } else { "|" });
            to.lock().unwrap().extend(all.iter().map(line));
        });
        let ended = runtime().block_on(run(process, &Stop::default(), give));
        let lines = lines.lock().unwrap().clone();
        (ended, lines)
    }

    fn gone(pid: &str) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        state.map_or(true, |stat| stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z')))
    }

    #[test]
    fn exit_codes_signals_and_lines_of_both_streams() {
        let (ok, lines) = ended(sh("echo out; echo err >&2; printf last", 20));
        assert_eq!(ok.outcome, Outcome::Ok);
        assert!(lines.contains(&"|out".into()) && lines.contains(&"!err".into()) && lines.contains(&"|last".into()));
        assert_eq!(ended(sh("exit 3", 20)).0.outcome, Outcome::Failed { exit: 3 });
        assert_eq!(ended(sh("kill -9 $$", 20)).0.outcome, Outcome::Killed { signal: 9 });
        let missing = Process { program: "/no/such/program".into(), ..sh("", 1) };
        assert!(matches!(ended(missing).0.outcome, Outcome::NotStarted { why } if why.contains("/no/such/program")));
    }

    #[test]
    fn what_takes_too_long_is_ended_with_its_children() {
        let (ended, lines) = ended(sh("sleep 300 & echo $!; sleep 300", 1));
        assert_eq!(ended.outcome, Outcome::TimedOut { after_s: 1 });
        assert!(gone(&lines[0][1..]), "{lines:?}");
    }

    #[test]
    fn a_process_left_behind_is_ended_with_its_leader() {
        let (ended, lines) = ended(sh("(trap '' TERM; sleep 300) & echo $!; exit 0", 60));
        assert_eq!((ended.outcome, ended.lingered), (Outcome::Ok, true));
        assert!(gone(&lines[0][1..]), "{lines:?}");
    }

    #[test]
    fn one_that_leaves_the_group_with_the_pipe_holds_nothing_up() {
        let (ended, lines) = ended(sh("setsid sleep 30 & echo $!", 60));
        assert_eq!(ended.outcome, Outcome::Ok);
        let pid = Pid::from_raw(lines[0][1..].trim().parse().unwrap()).unwrap();
        // setsid may have forked; whoever it is now ends with this test.
        let _sent = rustix::process::kill_process(pid, Signal::KILL);
    }

    #[test]
    fn an_interrupted_hook_is_ended_and_at_once_when_asked_twice() {
        let interrupt = |script: &str, twice: bool| {
            let stop = Stop::default();
            let handle = stop.clone();
            let give: Give = Arc::new(move |_| {
                handle.ask.cancel();
                if twice {
                    handle.now.cancel();
                }
            });
            runtime().block_on(run(sh(script, 600), &stop, give))
        };
        assert_eq!(interrupt("echo ready; exec sleep 300", false).outcome, Outcome::Interrupted);
        let deaf = interrupt("trap '' TERM; echo ready; sleep 300; sleep 300", true);
        assert!(deaf.outcome == Outcome::Interrupted && deaf.duration < GRACE, "{deaf:?}");
    }
}
