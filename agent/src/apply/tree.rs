//! Edge: a job's directory, walked by descriptor and without following links: a container may own
//! part of the tree and is not trusted (`design/security.md` 1.3, Local attackers).
#![expect(clippy::disallowed_methods, reason = "edge: a job's directory")]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, fchmod, mkdirat, openat, renameat, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;
use shared::RelPath;

/// Mode of directories that hold no private file.
const DIR_MODE: u32 = 0o755;

const DIR: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// A job's directory, held open.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// Opens `path`; makes it, and its parents, when `create` is set.
    pub fn open(path: &Path, create: bool) -> io::Result<Self> {
        if create && !path.is_dir() {
            make(path)?;
        }
        Ok(Self { root: rustix::fs::open(path, DIR, Mode::empty())? })
    }

    /// The descriptor of the directory itself.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Opens the directory at `path` (empty for the root) one component after the other.
    pub fn dir(&self, path: &str) -> io::Result<OwnedFd> {
        let mut dir = openat(&self.root, ".", DIR, Mode::empty())?;
        for component in path.split('/').filter(|component| !component.is_empty()) {
            dir = openat(&dir, component, DIR, Mode::empty())?;
        }
        Ok(dir)
    }

    /// The directory that `path` is in.
    pub fn parent(&self, path: &RelPath) -> io::Result<OwnedFd> {
        self.dir(path.parent().unwrap_or(""))
    }

    /// What is at `path`, links not followed; `None` when nothing is, or its directory is not one.
    pub fn stat(&self, path: &RelPath) -> io::Result<Option<Stat>> {
        let parent = match self.parent(path) {
            Ok(parent) => parent,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        match statat(&parent, path.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a regular file for reading; a FIFO does not hang, a link is not followed.
    pub fn read(&self, path: &RelPath) -> io::Result<File> {
        let parent = self.parent(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&parent, path.file_name(), flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile {
            Ok(File::from(file))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path} is not a regular file")))
        }
    }

    /// Opens a regular file that has this one name for writing over its content; nothing is cut off.
    pub fn overwrite(&self, path: &RelPath) -> io::Result<File> {
        let parent = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&parent, path.file_name(), flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1 {
            Ok(File::from(file))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path} is not a regular file of one name")))
        }
    }

    /// Makes a directory, if it is not there. It appears with its mode, whatever the agent's umask is: who is cut
    /// off leaves none that nobody may enter.
    pub fn mkdir(&self, path: &RelPath) -> io::Result<()> {
        let parent = self.parent(path)?;
        match openat(&parent, path.file_name(), DIR, Mode::empty()) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let name = format!("{}{}", shared::path::TEMPORARY_PREFIX, std::process::id());
        self.sweep(&parent, &name)?;
        mkdirat(&parent, name.as_str(), Mode::from_raw_mode(DIR_MODE))?;
        let made = openat(&parent, name.as_str(), DIR, Mode::empty())?;
        fchmod(&made, Mode::from_raw_mode(DIR_MODE))?;
        match renameat_with(&parent, name.as_str(), &parent, path.file_name(), RenameFlags::NOREPLACE) {
            // A file system that cannot promise it: only an empty directory could be replaced.
            Err(Errno::INVAL | Errno::NOSYS) => Ok(renameat(&parent, name.as_str(), &parent, path.file_name())?),
            renamed => Ok(renamed?),
        }
    }

    /// Removes a temporary, file or directory, that somebody left; one with something in it stays.
    pub fn sweep(&self, parent: &OwnedFd, name: &str) -> io::Result<()> {
        let removed = match unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => unlinkat(parent, name, AtFlags::REMOVEDIR),
            removed => removed,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a regular file of this one name, to change its mode.
    pub fn own(&self, path: &RelPath) -> io::Result<File> {
        let file = self.read(path)?;
        if rustix::fs::fstat(&file)?.st_nlink == 1 {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path} has another name too")))
        }
    }

    /// Makes a temporary beside `path`, for this process alone; an older one of the name goes.
    pub fn temporary(&self, parent: &OwnedFd, name: &str) -> io::Result<File> {
        self.sweep(parent, name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Renames within one directory.
    pub fn rename(&self, parent: &OwnedFd, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(parent, from, parent, to)?)
    }

    /// Removes a file, link or other non-directory; what is gone already is fine.
    pub fn unlink(&self, path: &RelPath) -> io::Result<()> {
        let removed = self.parent(path).and_then(|parent| Ok(unlinkat(&parent, path.file_name(), AtFlags::empty())?));
        removed.or_else(|error| if absent(&error) { Ok(()) } else { Err(error) })
    }

    /// Removes a directory if nothing is in it.
    pub fn rmdir(&self, path: &RelPath) -> io::Result<()> {
        let removed = self.parent(path).and_then(|parent| Ok(unlinkat(&parent, path.file_name(), AtFlags::REMOVEDIR)?));
        removed.or_else(|error| {
            let full = matches!(Errno::from_io_error(&error), Some(Errno::NOTEMPTY | Errno::EXIST));
            if full || absent(&error) { Ok(()) } else { Err(error) }
        })
    }
}

/// Makes the directory of a job, durably, and what is above it; each step may be the last of this agent, and is
/// then taken again.
fn make(path: &Path) -> io::Result<()> {
    let (Some(jobs), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    std::fs::create_dir_all(jobs)?;
    for dir in jobs.ancestors().take(2) {
        drop(std::fs::set_permissions(dir, std::fs::Permissions::from_mode(DIR_MODE)));
    }
    // No job has such a name.
    let temporary = jobs.join(format!("{}new", shared::path::TEMPORARY_PREFIX));
    match std::fs::create_dir(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(DIR_MODE))?;
    std::fs::rename(&temporary, jobs.join(name))?;
    jobs.ancestors().take(3).try_for_each(|dir| File::open(dir)?.sync_all())
}

/// Nothing there, or something on the way that is no directory.
pub fn absent(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}
