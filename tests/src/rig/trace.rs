//! Traces an agent with ptrace(2) and does something at its n-th mutating system call, counted over all of its
//! threads: kills it, makes the call fail, or runs a piece of the rig first.
//!
//! strace can inject too, but counts for each thread by itself: the third call of the thread that puts files
//! in place could never be had, because the main thread's third comes first.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::calls;

/// What happens at the call.
pub enum Act {
    /// The agent dies; the call is not carried out.
    Kill,
    /// The call is not carried out and answers with this error.
    Fail(i32),
    /// This is run; then the call goes on.
    Then(Box<dyn FnOnce() + Send>),
    /// This is run; then the agent dies.
    ThenKill(Box<dyn FnOnce() + Send>),
}

impl std::fmt::Debug for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kill => "Kill",
            Self::Fail(_) => "Fail",
            Self::Then(_) => "Then",
            Self::ThenKill(_) => "ThenKill",
        })
    }
}

/// What a traced agent did.
#[derive(Debug, Clone, Default)]
pub struct Traced {
    /// Mutating calls, until it ended.
    pub calls: usize,
    /// The call that it was about, as text.
    pub at: Option<String>,
}

/// An agent that is traced by a thread of its own.
#[derive(Debug)]
pub struct Tracing {
    pid: Pid,
    over: Arc<AtomicBool>,
    hit: Arc<AtomicBool>,
    tracer: Option<std::thread::JoinHandle<Traced>>,
}

impl Tracing {
    /// Starts `command`; what happens at call `n` (from 1) is `act`. Calls on files outside `place` do not count.
    pub fn start(command: &Command, place: &Path, n: usize, act: Act, log: &File) -> Result<Self, String> {
        calls::supported()?;
        let (over, hit) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let stopped = stopped(command, log).map_err(|error| error.to_string())?;
        let (tell, told) = std::sync::mpsc::channel();
        let place = place.to_owned();
        let (is_over, is_hit) = (over.clone(), hit.clone());
        // Everything about a traced process is asked by the thread that traces it.
        let tracer = std::thread::spawn(move || {
            let pid = begin(stopped);
            let _told = tell.send(pid.clone());
            let Ok(pid) = pid.map_err(drop) else { return Traced::default() };
            let traced = Tracer { pid, place, n, act: Some(act), hit: is_hit, threads: HashMap::new() }.run();
            is_over.store(true, Ordering::SeqCst);
            traced
        });
        let pid = told.recv().map_err(|_| "the tracer ended".to_owned())??;
        Ok(Self { pid, over, hit, tracer: Some(tracer) })
    }

    /// Whether it has ended.
    pub fn over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether the call has come.
    pub fn hit(&self) -> bool {
        self.hit.load(Ordering::SeqCst)
    }

    /// Ends it, if it has not ended, and says what it did.
    pub fn end(mut self) -> Traced {
        self.stop()
    }

    fn stop(&mut self) -> Traced {
        if !self.over() {
            let _sent = kill(self.pid, Signal::SIGKILL);
        }
        self.tracer.take().and_then(|tracer| tracer.join().ok()).unwrap_or_default()
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if self.tracer.is_some() {
            self.stop();
        }
    }
}

/// The same program, by a shell that stops itself first: seen from its first call on.
fn stopped(command: &Command, log: &File) -> std::io::Result<Command> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    shell.env_clear();
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(key, value);
        }
    }
    shell.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    Ok(shell)
}

fn begin(mut command: Command) -> Result<Pid, String> {
    let failed = |what: &'static str| move |error: nix::Error| format!("{what}: {error}");
    let child = command.spawn().map_err(|error| format!("cannot start: {error}"))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).map_err(failed("waiting for it to stop"))?;
    if !matches!(stopped, WaitStatus::Stopped(..)) {
        return Err(format!("it did not stop: {stopped:?}"));
    }
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).map_err(failed("tracing is not permitted here"))?;
    kill(pid, Signal::SIGCONT).map_err(failed("going on"))?;
    Ok(pid)
}

struct Tracer {
    pid: Pid,
    place: PathBuf,
    n: usize,
    act: Option<Act>,
    hit: Arc<AtomicBool>,
    threads: HashMap<Pid, Thread>,
}

#[derive(Default, Clone, Copy)]
struct Thread {
    inside: bool,
    answer: Option<i32>,
}

impl Tracer {
    fn run(mut self) -> Traced {
        let mut traced = Traced::default();
        let mut counting = false;
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Ok(status) => status,
                Err(nix::Error::EINTR) => continue,
                Err(_) => return traced,
            };
            let (thread, signal) = match status {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    if pid == self.pid {
                        return traced;
                    }
                    self.threads.remove(&pid);
                    continue;
                }
                WaitStatus::PtraceSyscall(pid) => {
                    if counting {
                        self.call(pid, &mut traced);
                    }
                    (pid, None)
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    if event == libc::PTRACE_EVENT_EXEC {
                        counting = true;
                        self.threads.insert(pid, Thread { inside: true, answer: None });
                    }
                    (pid, None)
                }
                WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
                _ => continue,
            };
            // One that was killed meanwhile says so next.
            let _gone = ptrace::syscall(thread, signal);
        }
    }

    fn call(&mut self, pid: Pid, traced: &mut Traced) {
        let state = *self.threads.entry(pid).or_default();
        if state.inside {
            if let Some(errno) = state.answer {
                calls::answer(pid, errno);
            }
            self.threads.insert(pid, Thread::default());
            return;
        }
        let mut next = Thread { inside: true, answer: None };
        if let Some(name) = calls::mutating(&self.place, pid) {
            traced.calls += 1;
            if traced.calls == self.n {
                traced.at = Some(name);
                self.hit.store(true, Ordering::SeqCst);
                match self.act.take() {
                    Some(Act::Kill) => drop(kill(self.pid, Signal::SIGKILL)),
                    Some(Act::Fail(errno)) => {
                        calls::refuse(pid);
                        next.answer = Some(errno);
                    }
                    Some(Act::Then(then)) => then(),
                    Some(Act::ThenKill(then)) => {
                        then();
                        let _sent = kill(self.pid, Signal::SIGKILL);
                    }
                    None => {}
                }
            }
        }
        self.threads.insert(pid, next);
    }
}
