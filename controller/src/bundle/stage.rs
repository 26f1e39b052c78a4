//! Edge: a bundle as the tree that its worker would have, for people to look at. What stays is copied: who
//! edits it must not edit the store. What goes with the command that made it is linked.
#![expect(clippy::disallowed_methods, reason = "edge: writes trees below tmp/")]
#![expect(clippy::disallowed_types, reason = "edge: a private file is 0600 from its first byte")]

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use shared::{Bundle, Entry};
use thiserror::Error;

use super::store::{self, Store};
use crate::permissions;
use crate::secrets::SealingKey;

/// Why a tree could not be written.
#[derive(Debug, Error)]
pub enum Error {
    /// A file of it.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its content.
    #[error(transparent)]
    Store(#[from] store::Error),
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { operation, path, source }
}

/// Makes a directory that nobody else reads, with those above it.
pub fn directory(dir: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new().recursive(true).mode(permissions::dir(dir)).create(dir).map_err(io_error("make", dir))
}

/// Removes a tree, if it is there.
pub fn clear(dir: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", dir)(error)),
        _ => Ok(()),
    }
}

/// How shared content gets into a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// As files of its own.
    Copied,
    /// As symbolic links to the store: cheap, for a moment.
    Linked,
}

/// Writes `bundle` as the tree `dir`, in place of what is there; bytes that were written. Modes are those of the
/// worker, but for private files, which are 0600, and directories, which are 0700.
pub fn stage(store: &Store, key: &SealingKey, dir: &Path, bundle: &Bundle, content: Content) -> Result<u64, Error> {
    clear(dir)?;
    directory(dir)?;
    let mut bytes = 0;
    for entry in bundle.entries() {
        let path = dir.join(entry.path.as_str());
        if let Some(parent) = path.parent() {
            directory(parent)?;
        }
        bytes += file(store, key, &path, entry, content)?;
    }
    Ok(bytes)
}

fn file(store: &Store, key: &SealingKey, path: &Path, entry: &Entry, content: Content) -> Result<u64, Error> {
    let create =
        || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io_error("create", path));
    if entry.private {
        let content = store.read_private(key, &entry.blob)?;
        create()?.write_all(&content).map_err(io_error("write", path))?;
        return Ok(entry.len);
    }
    if content == Content::Linked {
        let blob = store.path(&entry.blob);
        let blob = std::path::absolute(&blob).map_err(io_error("find", &blob))?;
        return std::os::unix::fs::symlink(blob, path).map_err(io_error("link", path)).map(|()| 0);
    }
    let mut from = store.open_blob(&entry.blob)?;
    let mut to = create()?;
    let copied = io::copy(&mut from, &mut to).map_err(io_error("write", path))?;
    let mode = std::fs::Permissions::from_mode(entry.mode & 0o777);
    std::fs::set_permissions(path, mode).map_err(io_error("set the mode of", path))?;
    Ok(copied)
}

/// Whether something is at `path`.
pub fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Removes a file, if it is there.
pub fn clear_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes what is empty below `dir`, and `dir` itself: workers of which no tree is left.
pub fn clear_empty(dir: &Path) -> Result<(), Error> {
    let entries = std::fs::read_dir(dir).map_err(io_error("list", dir))?;
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        // What holds something stays: removing it fails.
        drop(std::fs::remove_dir(entry.path().join("jobs")));
        drop(std::fs::remove_dir(entry.path()));
    }
    drop(std::fs::remove_dir(dir));
    Ok(())
}

/// Writes a small file beside the trees.
pub fn beside(path: &Path, content: &[u8]) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(permissions::file(path)).open(path);
    file.and_then(|mut file| file.write_all(content)).map_err(io_error("write", path))
}
