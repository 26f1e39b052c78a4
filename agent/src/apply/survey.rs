//! Edge: looks at what is in place, reading as little as may be: a file whose length and time say
//! that it was not touched since the last apply is not read.

#![expect(clippy::disallowed_methods, reason = "edge: the kernel's lists of mounts")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, FileType};
use shared::digest::HashingReader;
use shared::{BlobDigest, Bundle, RelPath};

use super::mounts::mounted_files;
use super::plan::{OnDisk, Survey};
use super::tree::{Tree, absent};

/// Most files that are listed as unmanaged.
const MAX_UNMANAGED: usize = 1000;
/// A file younger than this before the last apply may have been written within its clock tick.
const SLACK_MS: i64 = 2000;

/// Looks at every path of `last` and `new`, and for what neither has.
pub fn survey(tree: &Tree, last: &Bundle, new: &Bundle, applied_ms: i64) -> io::Result<Survey> {
    let mut survey = Survey::default();
    let mut paths: Vec<&RelPath> = last.entries().iter().chain(new.entries()).map(|entry| &entry.path).collect();
    paths.sort();
    paths.dedup();
    for path in &paths {
        let found = match tree.stat(path)? {
            None => OnDisk::Nothing,
            Some(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    let len = u64::try_from(stat.st_size).unwrap_or(0);
                    let changed_ms = stat.st_mtime * 1000 + i64::try_from(stat.st_mtime_nsec / 1_000_000).unwrap_or(0);
                    let trusted =
                        last.get(path.as_str()).filter(|e| e.len == len && changed_ms < applied_ms - SLACK_MS);
                    let blob = match trusted {
                        Some(entry) => Some(entry.blob),
                        None => hash(tree, path)?,
                    };
                    match blob {
                        Some(blob) => OnDisk::File { mode: stat.st_mode & 0o7777, blob },
                        None => OnDisk::Other,
                    }
                }
                FileType::Directory => OnDisk::Directory,
                _ => OnDisk::Other,
            },
        };
        survey.found.insert((*path).clone(), found);
    }
    let managed: BTreeMap<&str, ()> = paths.iter().map(|path| (path.as_str(), ())).collect();
    unmanaged(tree, "", &managed, &mut survey.unmanaged)?;
    Ok(survey)
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

/// sha256 of a file; `None` when it went, or turned into something else, in between.
pub fn hash(tree: &Tree, path: &RelPath) -> io::Result<Option<BlobDigest>> {
    let file = match tree.read(path) {
        Ok(file) => file,
        Err(error) if absent(&error) || error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut reader = HashingReader::new(file);
    io::copy(&mut reader, &mut io::sink())?;
    Ok(Some(reader.finish().0))
}

/// Files that `list` does not have, outside what is the job's own.
pub fn unmanaged_files(tree: &Tree, list: &shared::Bundle) -> io::Result<Vec<RelPath>> {
    let managed = list.entries().iter().map(|entry| (entry.path.as_str(), ())).collect();
    let mut found = Vec::new();
    unmanaged(tree, "", &managed, &mut found)?;
    Ok(found)
}

fn unmanaged(tree: &Tree, below: &str, managed: &BTreeMap<&str, ()>, found: &mut Vec<RelPath>) -> io::Result<()> {
    let dir = match tree.dir(below) {
        Ok(dir) => dir,
        Err(error) if absent(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." || found.len() >= MAX_UNMANAGED {
            continue;
        }
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        // A name that no bundle can have (the agent's temporaries among them) is not worth a word.
        let Ok(parsed) = path.parse::<RelPath>() else { continue };
        if parsed.is_reserved() || managed.contains_key(path.as_str()) {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            unmanaged(tree, &path, managed, found)?;
        } else {
            found.push(parsed);
        }
    }
    found.sort();
    Ok(())
}
