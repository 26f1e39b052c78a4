//! Traces an agent with ptrace(2) and does something at its n-th mutating system call, counted over all of its
//! threads: kills it, makes the call fail, or runs a piece of the rig first.
//!
//! strace can inject too, but counts for each thread by itself: the third call of the thread that puts files
//! in place could never be had, because the main thread's third comes first.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
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
        let (over, hit) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let stopped = stopped(command, log).map_err(|error| error.to_string())?;
        let (tell, told) = std::sync::mpsc::channel();
        let place = place.to_owned();
        let (is_over, is_hit) = (over.clone(), hit.clone());
        // Everything about a traced process is asked by the thread that traces it.
        let tracer = std::thread::spawn(move || {
            let pid = begin(stopped);
            let failed = pid.is_err();
            let _told = tell.send(pid.clone());
            let Ok(pid) = pid.map_err(drop) else { return Traced::default() };
            debug_assert!(!failed);
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
            if let (Some(errno), Ok(mut registers)) = (state.answer, ptrace::getregs(pid)) {
                registers.rax = (-i64::from(errno)).cast_unsigned();
                let _gone = ptrace::setregs(pid, registers);
            }
            self.threads.insert(pid, Thread::default());
            return;
        }
        let mut next = Thread { inside: true, answer: None };
        if let Ok(mut registers) = ptrace::getregs(pid)
            && let Some(name) = mutating(&self.place, pid, &registers)
        {
            traced.calls += 1;
            if traced.calls == self.n {
                traced.at = Some(name);
                self.hit.store(true, Ordering::SeqCst);
                match self.act.take() {
                    Some(Act::Kill) => drop(kill(self.pid, Signal::SIGKILL)),
                    Some(Act::Fail(errno)) => {
                        registers.orig_rax = u64::MAX;
                        let _gone = ptrace::setregs(pid, registers);
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

/// The call that a thread is about to make, if it is one that changes a file of `place`.
fn mutating(place: &Path, pid: Pid, registers: &libc::user_regs_struct) -> Option<String> {
    let writes = i64::from(libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC);
    let (first, second, third) = (registers.rdi, registers.rsi, registers.rdx);
    let by_descriptor = |name: &str, descriptor: u64| {
        let file = std::fs::read_link(format!("/proc/{pid}/fd/{}", descriptor as i32)).ok()?;
        file.starts_with(place).then(|| format!("{name}({})", file.display()))
    };
    let by_path = |name: &str, address: u64| {
        let path = text(pid, address)?;
        (!path.starts_with('/') || Path::new(&path).starts_with(place)).then(|| format!("{name}({path})"))
    };
    let opening = |name: &str, address: u64, flags: u64| {
        if flags.cast_signed() & writes == 0 { None } else { by_path(name, address) }
    };
    match registers.orig_rax.cast_signed() {
        libc::SYS_open => opening("open", first, second),
        libc::SYS_openat => opening("openat", second, third),
        libc::SYS_write => by_descriptor("write", first),
        libc::SYS_pwrite64 => by_descriptor("pwrite64", first),
        libc::SYS_writev => by_descriptor("writev", first),
        libc::SYS_ftruncate => by_descriptor("ftruncate", first),
        libc::SYS_fallocate => by_descriptor("fallocate", first),
        libc::SYS_fsync => by_descriptor("fsync", first),
        libc::SYS_fdatasync => by_descriptor("fdatasync", first),
        libc::SYS_fchmod => by_descriptor("fchmod", first),
        libc::SYS_fchown => by_descriptor("fchown", first),
        libc::SYS_sendfile => by_descriptor("sendfile", first),
        libc::SYS_copy_file_range => by_descriptor("copy_file_range", third),
        libc::SYS_mkdir => by_path("mkdir", first),
        libc::SYS_rmdir => by_path("rmdir", first),
        libc::SYS_unlink => by_path("unlink", first),
        libc::SYS_rename => by_path("rename", first),
        libc::SYS_chmod => by_path("chmod", first),
        libc::SYS_chown => by_path("chown", first),
        libc::SYS_truncate => by_path("truncate", first),
        libc::SYS_mkdirat => by_path("mkdirat", second),
        libc::SYS_unlinkat => by_path("unlinkat", second),
        libc::SYS_renameat => by_path("renameat", second),
        libc::SYS_renameat2 => by_path("renameat2", second),
        libc::SYS_linkat => by_path("linkat", second),
        libc::SYS_fchmodat => by_path("fchmodat", second),
        libc::SYS_fchownat => by_path("fchownat", second),
        _ => None,
    }
}

fn text(pid: Pid, address: u64) -> Option<String> {
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = vec![0; 4096];
    // Not over the end of a page, which may be the last one.
    let most = 4096 - usize::try_from(address % 4096).ok()?;
    let mut read = memory.read_at(&mut bytes[..most], address).ok()?;
    if !bytes[..read].contains(&0) {
        read += memory.read_at(&mut bytes[read..], address + read as u64).ok()?;
    }
    let end = bytes[..read].iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}
