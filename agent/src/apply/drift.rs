//! Edge: compares what is in place with the list of what was put there: by content, by descriptor, without
//! following links. It reads everything, and lets whoever asks slow it down.

use std::io::{self, Read};

use rustix::fs::FileType;
use shared::digest::HashingReader;
use shared::{Bundle, RelPath};

use super::survey;
use super::tree::{Tree, absent};

/// Read at once.
const CHUNK: usize = 256 << 10;
/// Most paths of one kind that are kept.
const MOST: usize = 1000;

/// What differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drift {
    /// Files that are not there, or are something else than files.
    pub missing: Vec<RelPath>,
    /// Files with other content.
    pub edited: Vec<RelPath>,
    /// Files that a set-id or sticky bit was set on, or that may be executed or not, other than they were made.
    pub modes: Vec<RelPath>,
    /// Files that no bundle put there.
    pub unmanaged: Vec<RelPath>,
}

impl Drift {
    /// Everything managed that differs, by path.
    pub fn drifted(&self) -> Vec<RelPath> {
        let mut all: Vec<RelPath> = self.missing.iter().chain(&self.edited).chain(&self.modes).cloned().collect();
        all.sort();
        all.dedup();
        all
    }
}

/// Compares; calls `read` with the length of each piece that was read.
pub fn inspect(tree: &Tree, list: &Bundle, mut read: impl FnMut(usize)) -> io::Result<Drift> {
    let mut drift = Drift::default();
    for entry in list.entries() {
        let path = &entry.path;
        let stat = tree.stat(path)?.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let Some(stat) = stat else {
            drift.missing.push(path.clone());
            continue;
        };
        if u64::try_from(stat.st_size).ok() != Some(entry.len) {
            drift.edited.push(path.clone());
        } else {
            match hash(tree, path, entry.len, &mut read)? {
                None => drift.missing.push(path.clone()),
                Some(blob) if blob != entry.blob => drift.edited.push(path.clone()),
                // Jobs set modes of their own (chmod 0640 of a key): only what the bundle says of execution counts.
                Some(_) if stat.st_mode & 0o7000 != 0 || (stat.st_mode & 0o100) != (entry.mode & 0o100) => {
                    drift.modes.push(path.clone());
                }
                Some(_) => {}
            }
        }
    }
    drift.unmanaged = survey::unmanaged_files(tree, list)?;
    for paths in [&mut drift.missing, &mut drift.edited, &mut drift.modes] {
        paths.truncate(MOST);
    }
    Ok(drift)
}

fn hash(tree: &Tree, path: &RelPath, len: u64, read: &mut impl FnMut(usize)) -> io::Result<Option<shared::BlobDigest>> {
    let file = match tree.read(path) {
        Ok(file) => file,
        Err(error) if absent(&error) || survey::withheld(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut reader = HashingReader::new(file.take(len.saturating_add(1)));
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(Some(reader.finish().0)),
            n => read(n),
        }
    }
}
