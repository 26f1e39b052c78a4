//! Edge: the small process between the agent and make.
#![expect(clippy::disallowed_methods, reason = "edge: processes and the files of runs")]
#![expect(clippy::disallowed_types, reason = "edge: the output's files")]

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use shared::api::v1::logs::Source;
use shared::api::v1::report::Outcome;

use super::spec::{CANCEL, Ended, Program, SPEC, Spec};
use crate::state::durable;
use crate::{alone, clock, service};

/// Time between TERM and KILL.
const GRACE: Duration = Duration::from_secs(10);
/// Longest time limit, seconds: a week.
const LONGEST_S: u64 = 7 * 86_400;
/// How often an operation looks whether it should end.
const LOOK_FOR_CANCEL: Duration = Duration::from_millis(250);

/// The process between: waits for its word, runs make, waits, writes the result. Its exit code says nothing.
pub fn shim(dir: &Path) -> io::Result<()> {
    // A session of its own: a signal to the agent's group or terminal is not for the job.
    let _session = rustix::process::setsid();
    if io::stdin().read(&mut [0])? == 0 {
        return Ok(());
    }
    perform_program(dir)
}

/// Runs what the directory's `spec.json` says.
pub(super) fn perform_program(dir: &Path) -> io::Result<()> {
    // Not flushed: these outlive the agent, and after a power cut nothing runs that they could tell of.
    let record = |name: &str, text: &[u8]| durable::write_soon(&dir.join(name), text, 0o600);
    record("begun", b"")?;
    let spec: Spec = serde_json::from_slice(&std::fs::read(dir.join(SPEC))?)?;
    let written_ms = clock::ms_of(std::fs::metadata(dir.join(SPEC))?.modified()?);
    let output = |name: &str| OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(name));
    let (out, err) = (output("out")?, output("err")?);
    // What the job makes has the usual modes, whatever the agent's own mask is.
    let _before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    service::shed();
    let begin = clock::instant();
    let end = begin + Duration::from_secs(spec.timeout_s.min(LONGEST_S));
    // An action is never cancelled, and what waits for it need not wake.
    let cancel = matches!(spec.source, Source::Operation { .. }).then(|| dir.join(CANCEL));
    let took = || u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let unwanted = || cancel.as_ref().is_some_and(|cancel| cancel.is_file());
    let late = || {
        let now = clock::moment();
        spec.left.is_some_and(|left| left.is_over(now.steady_ms, now.wall_ms.saturating_sub(written_ms)))
    };
    // Somebody may be at work by hand.
    let alone = match (&spec.program, own(dir), spec.dir.file_name().and_then(|name| name.to_str())) {
        (Program::Make { .. }, Some(own), Some(job)) => Some(alone::take(own, job, end, || unwanted() || late())?),
        _ => None,
    };
    // Asked last of all: the agent, the machine, systemd or somebody's work by hand may have taken any time.
    if late() {
        return record("result.json", &serde_json::to_vec(&Ended::too_late())?);
    }
    if matches!(alone, Some(None)) {
        let ended = Ended { duration_ms: took(), cancelled: unwanted(), ..Ended::without(Outcome::TimedOut) };
        return record("result.json", &serde_json::to_vec(&ended)?);
    }
    let child = spec
        .program
        .command(dir, &spec)
        .env_clear()
        .envs(&spec.env)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn();
    let name = spec.program.name();
    let (outcome, cancelled) = match child {
        Ok(child) => wait(child, name, end, cancel.as_deref()),
        Err(error) => (Outcome::Refused { reason: format!("{name} cannot be run: {error}") }, false),
    };
    record("result.json", &serde_json::to_vec(&Ended { duration_ms: took(), cancelled, ..Ended::without(outcome) })?)
}

/// The agent's own directory, in which the directory of a run is.
fn own(run: &Path) -> Option<&Path> {
    run.parent()?.parent()
}

/// Waits for the program alone, not for what it left in the background; whether it was ended because
/// `cancel` appeared.
fn wait(mut child: Child, name: &str, end: Instant, cancel: Option<&Path>) -> (Outcome, bool) {
    let group = Pid::from_child(&child);
    let (tell, told) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || drop(tell.send(child.wait())));
    let exit = |status: io::Result<std::process::ExitStatus>| match status {
        Ok(status) if status.success() => Outcome::Ok,
        Ok(status) => Outcome::Failed { exit: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)) },
        Err(error) => Outcome::Refused { reason: format!("{name} cannot be waited for: {error}") },
    };
    loop {
        let left = end.saturating_duration_since(clock::instant());
        let pause = if cancel.is_some() { left.min(LOOK_FOR_CANCEL) } else { left };
        if let Ok(status) = told.recv_timeout(pause) {
            drop(waiting.join());
            return (exit(status), false);
        }
        let cancelled = cancel.is_some_and(Path::is_file);
        if cancelled || left.is_zero() {
            let _killed = kill_process_group(group, Signal::TERM);
            if told.recv_timeout(GRACE).is_err() {
                let _killed = kill_process_group(group, Signal::KILL);
                drop(told.recv_timeout(GRACE));
            }
            return (Outcome::TimedOut, cancelled);
        }
    }
}
