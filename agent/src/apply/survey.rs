//! Edge: looks at what is in place, reading as little as may be: a file whose length and times say
//! that it was not touched since the last apply is not read, nor one whose length says that it is another.

#![expect(clippy::disallowed_methods, reason = "edge: the kernel's lists of mounts")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, FileType, Stat};
use rustix::io::Errno;
use shared::digest::HashingReader;
use shared::{BlobDigest, Bundle, RelPath};

use super::mounts::mounted_files;
use super::plan::{Before, OnDisk, Survey};
use super::tree::{Tree, absent};

/// Most files that are listed as unmanaged.
const MAX_UNMANAGED: usize = 1000;
/// Most names that are looked at for them: a job may make more than anybody can read.
const MAX_LOOKED: usize = 200_000;
/// A file younger than this before the last apply may have been written within its clock tick.
const SLACK_MS: i64 = 2000;

/// Looks at every path of `before` and `new`, and for what neither has.
pub fn survey(tree: &Tree, before: &Before<'_>, new: &Bundle) -> io::Result<Survey> {
    let mut survey = Survey::default();
    // Every length that a list gives the file of a path.
    let mut paths: BTreeMap<&RelPath, Vec<u64>> = BTreeMap::new();
    for entry in before.entries().chain(new.entries()) {
        paths.entry(&entry.path).or_default().push(entry.len);
    }
    for (path, lengths) in &paths {
        let found = match tree.stat(path)? {
            None => OnDisk::Nothing,
            Some(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => file(tree, before, path, lengths, &stat)?,
                FileType::Directory => OnDisk::Directory,
                _ => OnDisk::Other,
            },
        };
        survey.found.insert((*path).clone(), found);
    }
    let managed: BTreeSet<&str> = paths.keys().map(|path| path.as_str()).collect();
    Walk { tree, managed, looked: 0, survey: &mut survey }.below("")?;
    survey.unmanaged.sort();
    Ok(survey)
}

fn file(tree: &Tree, before: &Before<'_>, path: &RelPath, lengths: &[u64], stat: &Stat) -> io::Result<OnDisk> {
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    let millis = |seconds: i64, nanos: u64| seconds * 1000 + i64::try_from(nanos / 1_000_000).unwrap_or(0);
    // The one that nobody can set tells of an edit that was given an older time.
    let changed_ms = millis(stat.st_mtime, stat.st_mtime_nsec).max(millis(stat.st_ctime, stat.st_ctime_nsec));
    let untouched = before.applied_ms.is_some_and(|applied_ms| changed_ms < applied_ms - SLACK_MS);
    let trusted = before.list.get(path.as_str()).filter(|entry| untouched && entry.len == len);
    let blob = match trusted {
        Some(entry) => Some(entry.blob),
        // Whoever owns it may have made it of any length: it is not read to learn that it is another.
        None if !lengths.contains(&len) => None,
        None => match hash(tree, path, len)? {
            Some(blob) => Some(blob),
            None => return Ok(OnDisk::Other),
        },
    };
    let (owner, linked) = ((stat.st_uid, stat.st_gid), stat.st_nlink != 1);
    Ok(OnDisk::File { mode: stat.st_mode & 0o7777, owner, blob, linked })
}

/// Which of the surveyed files are mounted by themselves, here or in any container. Looks at one
/// process of each mount namespace; what ends meanwhile, or may not be looked at, has no say.
pub fn mounted(tree: &Tree, path: &Path, survey: &mut Survey) {
    let files: BTreeSet<RelPath> = survey
        .found
        .iter()
        .filter(|(_, found)| matches!(found, OnDisk::File { .. }))
        .map(|(path, _)| path.clone())
        .filter(|path| tree.stat(path).is_ok_and(|stat| stat.is_some_and(|stat| stat.st_nlink == 1)))
        .collect();
    let (Ok(path), Ok(own)) = (std::fs::canonicalize(path), std::fs::read("/proc/self/mountinfo")) else { return };
    let mut namespaces: BTreeSet<std::path::PathBuf> = std::fs::read_link("/proc/self/ns/mnt").into_iter().collect();
    let mut others = Vec::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let dir = process.path();
        if let Ok(namespace) = std::fs::read_link(dir.join("ns/mnt"))
            && namespaces.insert(namespace)
            && let Ok(mountinfo) = std::fs::read(dir.join("mountinfo"))
        {
            others.push(mountinfo);
        }
    }
    let others = others.iter().map(Vec::as_slice);
    survey.mounted = mounted_files(path.as_os_str().as_bytes(), &own, others, &files);
}

/// sha256 of the first `len` bytes of a file, and of one more if there is one; `None` when it went, or turned into
/// something else, in between, or its owner keeps it from being opened.
pub fn hash(tree: &Tree, path: &RelPath, len: u64) -> io::Result<Option<BlobDigest>> {
    let file = match tree.read(path) {
        Ok(file) => file,
        Err(error) if absent(&error) || withheld(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut reader = HashingReader::new(file.take(len.saturating_add(1)));
    io::copy(&mut reader, &mut io::sink())?;
    Ok(Some(reader.finish().0))
}

/// It is no file, or a lease is on it (fcntl(2), `F_SETLEASE`), which would have the agent wait.
pub(super) fn withheld(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::WouldBlock)
        || Errno::from_io_error(error) == Some(Errno::NXIO)
}

/// Files that `list` does not have, outside what is the job's own.
pub fn unmanaged_files(tree: &Tree, list: &Bundle) -> io::Result<Vec<RelPath>> {
    let mut survey = Survey::default();
    let managed = list.entries().iter().map(|entry| entry.path.as_str()).collect();
    Walk { tree, managed, looked: 0, survey: &mut survey }.below("")?;
    survey.unmanaged.sort();
    Ok(survey.unmanaged)
}

/// A look for what no list has.
struct Walk<'a> {
    tree: &'a Tree,
    managed: BTreeSet<&'a str>,
    looked: usize,
    survey: &'a mut Survey,
}

impl Walk<'_> {
    fn below(&mut self, below: &str) -> io::Result<()> {
        let dir = match self.tree.dir(below) {
            Ok(dir) => dir,
            Err(error) if absent(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            self.looked += 1;
            if self.looked > MAX_LOOKED {
                return Ok(());
            }
            if name == "." || name == ".." {
                continue;
            }
            if is_leftover(name) {
                self.survey.leftovers.push((below.to_owned(), name.to_owned()));
                continue;
            }
            let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            // A name that no bundle can have is not worth a word.
            let Ok(parsed) = path.parse::<RelPath>() else { continue };
            if parsed.is_reserved() {
                continue;
            }
            // Also one where a list has a file: the other of two lists may have the directory.
            if entry.file_type() == FileType::Directory {
                self.below(&path)?;
            } else if !self.managed.contains(path.as_str()) && self.survey.unmanaged.len() < MAX_UNMANAGED {
                self.survey.unmanaged.push(parsed);
            }
        }
        Ok(())
    }
}

/// A temporary of an agent that was cut off: this one makes its own later.
fn is_leftover(name: &str) -> bool {
    let number = name.strip_prefix(shared::path::TEMPORARY_PREFIX);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}
