//! Edge: pipes to another process that are waited for no longer than until a deadline.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};

use crate::clock;

/// One end. Reading or writing beyond its deadline is an error of kind `TimedOut`.
#[derive(Debug)]
pub(super) struct Pipe<T> {
    end: T,
    deadline: Instant,
}

impl<T: AsFd> Pipe<T> {
    pub(super) fn new(end: T) -> io::Result<Self> {
        ioctl_fionbio(&end, true)?;
        Ok(Self { end, deadline: clock::instant() })
    }

    /// From now on it may take so long.
    pub(super) fn within(&mut self, wait: Duration) {
        self.deadline = clock::instant() + wait;
    }

    fn ready(&self, flags: PollFlags) -> io::Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(clock::instant());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            match poll(&mut [PollFd::new(&self.end, flags)], Some(&left)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<T: AsFd + Read> Read for Pipe<T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.end.read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready(PollFlags::IN)?,
                other => return other,
            }
        }
    }
}

impl<T: AsFd + Write> Write for Pipe<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.end.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready(PollFlags::OUT)?,
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.end.flush()
    }
}
