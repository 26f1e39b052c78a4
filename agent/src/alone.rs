//! Edge: one at a time on a job, also beside `maand-agent make`: who runs make, or moves files, holds a lock
//! on `.maand/alone/<job>` meanwhile. The kernel takes it back from whoever ends, so none is left behind.
//! What make leaves in the background does not inherit it.
#![expect(clippy::disallowed_types, reason = "edge: opens the lock")]
#![expect(clippy::disallowed_methods, reason = "edge: waits for the lock")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::clock;
use crate::state::durable;

/// A job's lock, for as long as it is held.
pub type Alone = File;

/// How often a lock that is held is asked for.
const LOOK: Duration = Duration::from_millis(100);

/// The lock of a job, if nobody has it. `own` is the agent's own directory.
pub fn try_take(own: &Path, job: &str) -> io::Result<Option<Alone>> {
    let dir = own.join("alone");
    durable::private_dir(&dir)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(job))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The lock of a job; `None` when it is not free until `end`, or nobody wants it any more.
pub fn take(own: &Path, job: &str, end: Instant, unwanted: impl Fn() -> bool) -> io::Result<Option<Alone>> {
    loop {
        let taken = try_take(own, job)?;
        if taken.is_some() || clock::instant() >= end || unwanted() {
            return Ok(taken);
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_one_jobs_and_goes_with_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let held = try_take(dir.path(), "api").unwrap().unwrap();
        assert!(try_take(dir.path(), "api").unwrap().is_none());
        assert!(try_take(dir.path(), "web").unwrap().is_some());
        assert!(take(dir.path(), "api", clock::instant(), || false).unwrap().is_none());
        drop(held);
        assert!(try_take(dir.path(), "api").unwrap().is_some());
    }
}
