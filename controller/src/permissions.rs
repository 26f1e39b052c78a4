//! Edge: who may read and write what maand keeps for itself: its owner alone, or the group of the directory that it
//! is made in, where that directory says so by its own mode: setgid, all rights for the group, none for others
//! (2770). Directories hand that on to what is made in them, so that the bucket's own directory decides for all of
//! it, and a bucket is shared by `chgrp maand DIR && chmod 2770 DIR` before `maand init`.
//!
//! A group that works on a bucket is told its keys by that: who may deploy can have any of them in a template. A
//! directory that others may read as well (2775) is no such statement, and keeps its owner's files to the owner.
#![expect(clippy::disallowed_methods, reason = "edge: modes of directories")]
#![expect(clippy::disallowed_types, reason = "edge: a file has its mode from its first byte")]

use std::fs::OpenOptions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::Mode;

/// The bits that a mode is made of.
const BITS: u32 = 0o7777;
/// A directory that is shared with its group.
const SHARED: u32 = 0o2770;

/// Whether what is made in `dir` is its group's as well.
pub fn is_shared(dir: &Path) -> bool {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    std::fs::metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.permissions().mode() & BITS == SHARED)
}

/// The mode of a file that nobody else may read.
pub fn file(path: &Path) -> u32 {
    if path.parent().is_some_and(is_shared) { 0o660 } else { 0o600 }
}

/// The mode of a directory that nobody else may look into. It may be several that are made.
pub fn dir(path: &Path) -> u32 {
    let above = path.ancestors().skip(1).find(|dir| dir.is_dir());
    if above.is_some_and(is_shared) { 0o770 } else { 0o700 }
}

/// Brings a directory that is there to what it should be; one that is so already may be somebody else's.
pub fn close(path: &Path, shared: bool) -> std::io::Result<()> {
    let mode = if shared { SHARED } else { 0o700 };
    if std::fs::metadata(path)?.permissions().mode() & BITS == mode {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Makes an empty file, with the mode of one that nobody else may read, unless it is there.
pub fn create(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(file(path)).open(path).map(drop)
}

/// For the rest of this process: what is made in a shared bucket is the group's to write, and not for others.
pub fn adopt(bucket: &Path) {
    if is_shared(bucket) {
        let _before = rustix::process::umask(Mode::RWXO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_says_by_its_mode_that_it_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let set = |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        for (mode, as_file, as_dir) in
            [(0o700, 0o600, 0o700), (0o2770, 0o660, 0o770), (0o2775, 0o600, 0o700), (0o770, 0o600, 0o700)]
        {
            set(mode);
            assert_eq!((file(&path), dir_mode(&path)), (as_file, as_dir), "{mode:o}");
        }
        set(0o2770);
        std::fs::create_dir(&path).unwrap();
        close(&path, true).unwrap();
        assert!(is_shared(&path));
        assert_eq!(dir_mode(&path.join("a/b")), 0o770, "as the nearest that is there");
        close(&path, false).unwrap();
        assert_eq!(file(&path.join("key")), 0o600);
    }

    fn dir_mode(path: &Path) -> u32 {
        dir(path)
    }
}
