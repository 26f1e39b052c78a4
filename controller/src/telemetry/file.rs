//! Edge: how lines get into their file, and how a file that has grown is set aside.
//!
//! Several processes write to one log, each line or block of lines with one write to a file opened for
//! appending. Whoever writes holds a shared lock on the file meanwhile; whoever sets it aside holds an
//! exclusive one, and the name must still mean the file that is locked. So nothing is written to a file
//! that was set aside, nothing is set aside twice, and no line is lost or cut.
#![expect(clippy::disallowed_methods, reason = "edge: the bucket's logs")]
#![expect(clippy::disallowed_types, reason = "edge: opens files for appending")]

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use shared::RunId;

use crate::config::Logs;
use crate::permissions;

/// How often a lock is asked for; setting a file aside takes a few renames.
const TRIES: u32 = 200;
/// Time between.
const PAUSE: Duration = Duration::from_millis(1);

/// Appends to `path`, and sets it aside when it is then longer than `logs` allows.
pub(super) fn append(path: &Path, text: &[u8], logs: Option<&Logs>) -> io::Result<()> {
    for _ in 0..TRIES {
        let mut file = open(path)?;
        if !locked(&file, FlockOperation::NonBlockingLockShared)? {
            std::thread::sleep(PAUSE);
            continue;
        }
        if !is_at(&file, path)? {
            continue;
        }
        file.write_all(text)?;
        let long = logs.filter(|logs| file.metadata().is_ok_and(|file| file.len() >= logs.max_bytes));
        return match long {
            Some(logs) => set_aside(&file, path, logs.keep),
            None => Ok(()),
        };
    }
    // Whoever holds it has come to a stop in between. Then the line is in the file that it sets aside.
    open(path)?.write_all(text)
}

/// Appends to a file of a run's directory; a new directory makes room for itself.
pub(super) fn append_of_run(runs: &Path, run: RunId, name: &str, text: &[u8], logs: &Logs) -> io::Result<()> {
    let dir = runs.join(run.to_string());
    if !dir.is_dir() {
        prune(runs, logs.keep_runs.saturating_sub(1) as usize)?;
    }
    append(&dir.join(name), text, None)
}

/// `path` and what was set aside of it, oldest first.
pub fn generations(path: &Path) -> Vec<PathBuf> {
    let aside = (1..).map(|n| numbered(path, n)).take_while(|path| path.is_file());
    let mut all: Vec<PathBuf> = std::iter::once(path.to_owned()).filter(|path| path.is_file()).chain(aside).collect();
    all.reverse();
    all
}

fn open(path: &Path) -> io::Result<File> {
    let mode = permissions::file(path) | 0o040;
    let open = || OpenOptions::new().append(true).create(true).mode(mode).open(path);
    match (open(), path.parent()) {
        (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(dir)?;
            open()
        }
        (opened, _) => opened,
    }
}

fn locked(file: &File, how: FlockOperation) -> io::Result<bool> {
    match flock(file, how) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether `path` still means `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// `path` becomes `path.1`, that one `path.2`; `path.<keep>` is the last that stays. Somebody who writes at
/// this moment is no reason to wait: the next one who writes looks again.
fn set_aside(file: &File, path: &Path, keep: u32) -> io::Result<()> {
    let free = (0..TRIES / 10).any(|_| {
        let free = locked(file, FlockOperation::NonBlockingLockExclusive).unwrap_or(false);
        if !free {
            std::thread::sleep(PAUSE);
        }
        free
    });
    // The lock was given up and taken anew: it may be set aside by now.
    if !free || !is_at(file, path)? {
        return Ok(());
    }
    let gap = (1..=keep).find(|n| !numbered(path, *n).exists()).unwrap_or(keep);
    for n in (1..gap).rev() {
        std::fs::rename(numbered(path, n), numbered(path, n + 1))?;
    }
    std::fs::rename(path, numbered(path, 1))?;
    // `keep` was greater before.
    for beyond in (keep + 1..).map(|n| numbered(path, n)).take_while(|path| path.is_file()) {
        std::fs::remove_file(beyond)?;
    }
    Ok(())
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

/// Removes directories of runs until `keep` are left: those that were written to longest ago.
fn prune(runs: &Path, keep: usize) -> io::Result<()> {
    let entries = match std::fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let dirs: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<RunId>().is_ok())
        })
        .collect();
    if dirs.len() <= keep {
        return Ok(());
    }
    let mut aged: Vec<(SystemTime, PathBuf)> = dirs.into_iter().map(|dir| (written(&dir), dir)).collect();
    aged.sort();
    for (_, dir) in &aged[..aged.len() - keep] {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// When a file of `dir` was written last.
fn written(dir: &Path) -> SystemTime {
    let files = std::fs::read_dir(dir).into_iter().flatten();
    let times = files.filter_map(|file| file.ok()?.metadata().ok()?.modified().ok());
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_at_once_lose_and_mix_no_line_while_files_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let logs = Logs { max_bytes: 2_000, keep: 1000, ..Logs::default() };
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for n in 0..200 {
                        // Each as a process of its own would: no lock is shared.
                        append(path, format!("{writer} {n} {}\n", "x".repeat(40)).as_bytes(), Some(&logs)).unwrap();
                    }
                });
            }
        });
        let files = generations(&path);
        assert!(files.len() > 10, "{}", files.len());
        let all: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        let mut seen: Vec<(u32, u32)> = Vec::new();
        for line in all.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(words.len() == 3 && words[2].len() == 40, "{line:?}");
            seen.push((words[0].parse().unwrap(), words[1].parse().unwrap()));
        }
        for writer in 0..4 {
            let of: Vec<u32> = seen.iter().filter(|(by, _)| *by == writer).map(|(_, n)| *n).collect();
            assert_eq!(of, (0..200).collect::<Vec<_>>(), "each in its order, across the files");
        }
    }

    #[test]
    fn so_many_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let write = |keep: u32, n: u32| {
            let logs = Logs { max_bytes: 1, keep, ..Logs::default() };
            append(&path, n.to_string().as_bytes(), Some(&logs)).unwrap();
        };
        let read = || -> Vec<String> {
            generations(&path).iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
        };
        (0..6).for_each(|n| write(4, n));
        assert_eq!(read(), ["2", "3", "4", "5"]);
        write(2, 6);
        assert_eq!(read(), ["5", "6"]);
    }

    #[test]
    fn the_runs_that_were_written_to_last_stay() {
        let dir = tempfile::tempdir().unwrap();
        let run = |n: u128| RunId::from_uuid(uuid::Uuid::from_u128(n));
        let logs = Logs { keep_runs: 2, ..Logs::default() };
        let at = |n: u128| dir.path().join(run(n).to_string());
        std::fs::create_dir(dir.path().join("notes")).unwrap();
        for n in [1, 2] {
            append_of_run(dir.path(), run(n), "maand.log", b"x\n", &logs).unwrap();
            let file = File::options().append(true).open(at(n).join("maand.log")).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(if n == 1 { 900 } else { 500 })).unwrap();
        }
        append_of_run(dir.path(), run(3), "maand.log", b"x\n", &logs).unwrap();
        assert!(at(1).is_dir() && !at(2).exists() && at(3).is_dir());
        append_of_run(dir.path(), run(3), "maand.log", b"y\n", &logs).unwrap();
        assert!(at(1).is_dir() && dir.path().join("notes").is_dir());
    }
}
