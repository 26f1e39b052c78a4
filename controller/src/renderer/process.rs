//! Edge: the process that renders, from the outside: its start, its pipes, its end.
#![expect(clippy::disallowed_methods, reason = "edge: starts a process")]

use std::io::{self, BufReader, BufWriter, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::death::End;
use super::pipe::Pipe;
use super::{COMMAND, Error, Limits};
use crate::clock;

/// Most of what a process that ended has printed that is looked at, bytes.
const LAST_WORDS: u64 = 16 << 10;
/// How long one that has closed its pipes may take to end.
const ENDING: Duration = Duration::from_secs(2);

/// The process, and the ways to it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pub(super) to: BufWriter<Pipe<ChildStdin>>,
    pub(super) from: BufReader<Pipe<ChildStdout>>,
    words: Pipe<ChildStderr>,
}

impl Process {
    pub(super) fn start(program: &Path, limits: &Limits) -> Result<Self, Error> {
        let mut command = Command::new(program);
        command.arg(COMMAND).args([limits.cpu_s.to_string(), limits.memory_mb.to_string()]);
        command.env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: who presses Ctrl-C means this process, which decides what becomes of the other.
        let mut child = command.process_group(0).spawn().map_err(Error::Start)?;
        let (Some(to), Some(from), Some(words)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(Error::Start(io::Error::other("it has no pipes")));
        };
        let start = |error: io::Error| Error::Start(error);
        let to = BufWriter::new(Pipe::new(to).map_err(start)?);
        let from = BufReader::new(Pipe::new(from).map_err(start)?);
        Ok(Self { child, to, from, words: Pipe::new(words).map_err(start)? })
    }

    /// How it ended after `error` in speaking to it, and what it printed at its end.
    pub(super) fn end(mut self, error: &io::Error) -> (End, String) {
        let end = match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => None,
            io::ErrorKind::TimedOut => Some(End::Silent),
            _ => Some(End::Garbled),
        };
        let until = clock::instant() + ENDING;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if end.is_none() && clock::instant() < until => std::thread::sleep(Duration::from_millis(1)),
                _ => break None,
            }
        };
        let end = end.or(status.map(|status| match (status.code(), status.signal()) {
            (Some(code), _) => End::Exit(code),
            (None, signal) => End::Signal(signal.unwrap_or_default()),
        }));
        let _killed = self.child.kill();
        let mut words = Vec::new();
        self.words.within(ENDING);
        let _read = (&mut self.words).take(LAST_WORDS).read_to_end(&mut words);
        (end.unwrap_or(End::Garbled), String::from_utf8_lossy(&words).into_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}
