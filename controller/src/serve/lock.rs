//! Edge: who speaks to agents for a bucket: one process at a time.
#![expect(clippy::disallowed_methods, reason = "edge: data/serve.lock")]
#![expect(clippy::disallowed_types, reason = "edge: data/serve.lock")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{FlockOperation, flock};
use shared::{Code, Diagnostic};

use crate::failure::{Exit, Failure};
use crate::paths::BucketDir;
use crate::permissions;

/// Held by the process that serves; released when dropped, whatever ends the process.
#[derive(Debug)]
pub struct ServeLock(#[expect(dead_code, reason = "held")] File);

impl ServeLock {
    /// Takes the lock, or says who has it.
    pub fn take(bucket: &BucketDir) -> Result<Self, Failure> {
        let mut taken = Self::try_take(bucket)?;
        // Somebody may just be looking whether it is held.
        for _ in 0..20 {
            if taken.is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            taken = Self::try_take(bucket)?;
        }
        match taken {
            Some(lock) => Ok(lock),
            None => {
                let by = holder(bucket).unwrap_or_else(|| "another process".to_owned());
                let problem = Diagnostic::new(Code::Busy, format!("{by} serves this bucket's agents already"));
                Err(Failure::new(Exit::Failed, problem.remedy("use the one that runs, or end it first")))
            }
        }
    }

    /// Whether somebody serves.
    pub fn is_held(bucket: &BucketDir) -> bool {
        let file = File::open(bucket.serve_lock());
        file.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }

    /// Takes the lock, or `None` when somebody else has it.
    pub fn try_take(bucket: &BucketDir) -> Result<Option<Self>, Failure> {
        let path = bucket.serve_lock();
        let failed = |error: &dyn std::error::Error| {
            Failure::new(Exit::Failed, Diagnostic::new(Code::Storage, "cannot use data/serve.lock").cause(error))
        };
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(permissions::file(&path))
            .open(&path);
        let mut file = opened.map_err(|error| failed(&error))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| failed(&error))?;
        Ok(Some(Self(file)))
    }
}

/// Who wrote its process id into the lock last.
pub fn holder(bucket: &BucketDir) -> Option<String> {
    let mut text = String::new();
    File::open(bucket.serve_lock()).ok()?.take(20).read_to_string(&mut text).ok()?;
    Some(format!("process {}", text.trim().parse::<u32>().ok()?))
}
