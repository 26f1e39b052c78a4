//! A child process that is ended, with what it printed kept, when its test ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// What a finished command did.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Panics with everything it printed unless it exited with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code\n-- stdout\n{}\n-- stderr\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs `command` to its end, at most `limit`.
pub fn finish(mut command: Command, limit: Duration) -> Output {
    let shown = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let pid = pid_of(&child);
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = ended.recv_timeout(limit).is_err();
        if late {
            let _ended = kill_process(pid, Signal::KILL);
        }
        late
    });
    let output = child.wait_with_output().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let _sent = done.send(());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let output =
        Output { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) };
    assert!(!watchdog.join().unwrap(), "{shown} did not end within {limit:?}: {output:?}");
    output
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// A running child, output going to a file; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Running {
    /// Starts `command`, with both streams appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let again = file.try_clone().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(again)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { child, log: log.to_owned(), name: name.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it printed so far, and what earlier ones with the same log did.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGTERM or SIGINT.
    pub fn signal(&self, signal: Signal) {
        let _sent = kill_process(pid_of(&self.child), signal);
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < end, "{} did not end within {limit:?}:\n{}", self.name, self.printed());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, and waits.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// SIGTERM, and waits.
    pub fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(limit)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("-- {} printed\n{}", self.name, self.printed());
        }
    }
}
