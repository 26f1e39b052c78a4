//! Edge: the only reader of a workspace. Files stream into the store; a file whose length, times and
//! inode are as they were at the last build is not read again.
#![expect(clippy::disallowed_methods, reason = "edge: reads the workspace")]

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use shared::diagnostic::chain;
use shared::{BlobDigest, Code, Diagnostic, RelPath};
use walkdir::WalkDir;

use super::{Raw, RawFile, RawJob};
use crate::bundle::store::Store;
use crate::paths::BucketDir;
use crate::regular;
use crate::tally::Tally;

/// Directories of tools, left out wherever they are.
const SKIPPED: [&str; 4] = [".venv", "venv", "node_modules", "__pycache__"];
/// Longest file that is parsed, bytes.
const PARSED_CAP: u64 = 4 << 20;
/// A file changed this recently may change again within its clock tick: it is always read.
const SETTLED_MS: i64 = 2000;

/// What identifies a file's content without reading it.
pub type Stamp = [i64; 4];

/// Content of files by path and stamp, from build to build.
#[derive(Debug, Default)]
pub struct Seen {
    /// As the last build left it.
    pub known: HashMap<String, (Stamp, BlobDigest)>,
    /// As this build leaves it.
    pub now: HashMap<String, (Stamp, BlobDigest)>,
    /// How many files were read.
    pub read: usize,
    /// Counts them for who waits.
    pub tally: Tally,
}

/// Reads everything; all problems at once.
pub fn load(bucket: &BucketDir, store: &Store, selector: &str, seen: &mut Seen, now_ms: i64) -> (Raw, Vec<Diagnostic>) {
    let mut loader = Loader { bucket, store, seen, now_ms, problems: Vec::new() };
    let mut raw = Raw {
        workers: loader.text(&bucket.workers_json()),
        bucket_conf: loader.text(&bucket.bucket_conf()),
        disabled: loader.text(&bucket.disabled_json()),
        ..Raw::default()
    };
    let overrides = bucket.overrides(selector);
    let text = loader.text(&overrides);
    if text.is_some() || !selector.is_empty() {
        raw.overrides = Some((bucket.shown(&overrides).to_string(), text));
    }
    for name in loader.names(&bucket.jobs()) {
        let dir = bucket.job(&name);
        if let Some(manifest) = loader.text(&dir.join("manifest.json")) {
            let vars = loader.text(&dir.join("vars.toml"));
            let files = loader.files(&dir);
            raw.jobs.insert(name, RawJob { manifest, vars, files });
        }
    }
    (raw, loader.problems)
}

struct Loader<'a> {
    bucket: &'a BucketDir,
    store: &'a Store,
    seen: &'a mut Seen,
    now_ms: i64,
    problems: Vec<Diagnostic>,
}

impl Loader<'_> {
    fn problem(&mut self, path: &Path, code: Code, message: impl Into<String>) {
        self.problems.push(Diagnostic::new(code, message).at(self.bucket.shown(path)));
    }

    fn names(&mut self, dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = match std::fs::read_dir(dir) {
            Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
            Err(error) => {
                self.problem(dir, Code::Storage, format!("this directory cannot be read: {error}"));
                Vec::new()
            }
        };
        names.sort();
        names
    }

    /// A file that is parsed; `None` when it is not there.
    fn text(&mut self, path: &Path) -> Option<String> {
        match regular::text(path, PARSED_CAP) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) if error.kind() == ErrorKind::FileTooLarge => {
                self.problem(path, Code::Syntax, "this file is longer than 4 MiB");
                None
            }
            Err(error) => {
                self.problem(path, Code::Syntax, format!("this file cannot be read: {error}"));
                None
            }
        }
    }

    fn files(&mut self, dir: &Path) -> Vec<RawFile> {
        let mut files = Vec::new();
        let wanted = |entry: &walkdir::DirEntry| {
            !(entry.file_type().is_dir() && SKIPPED.iter().any(|name| entry.file_name() == *name))
        };
        for entry in
            WalkDir::new(dir).min_depth(1).max_depth(shared::path::MAX_DEPTH + 1).into_iter().filter_entry(wanted)
        {
            match entry {
                Ok(entry) if entry.file_type().is_dir() => {}
                Ok(entry) => files.extend(self.file(dir, entry.path())),
                Err(error) => {
                    let path = error.path().unwrap_or(dir).to_owned();
                    self.problem(&path, Code::UnsupportedFile, format!("this cannot be read: {}", chain(&error)));
                }
            }
        }
        files
    }

    fn file(&mut self, dir: &Path, path: &Path) -> Option<RawFile> {
        let relative = path.strip_prefix(dir).ok().and_then(Path::to_str);
        let Some(relative) = relative else {
            self.problem(path, Code::UnsupportedFile, "the name of this file is no UTF-8");
            return None;
        };
        let relative: RelPath = match relative.parse() {
            Ok(relative) => relative,
            Err(error) => {
                let error: shared::path::PathError = error;
                self.problem(path, Code::UnsupportedFile, error.to_string());
                return None;
            }
        };
        let meta = match self.inside(dir, path) {
            Ok(meta) => meta,
            Err(why) => {
                self.problem(path, Code::UnsupportedFile, why);
                return None;
            }
        };
        let stamp = [
            i64::try_from(meta.len()).unwrap_or(i64::MAX),
            meta.mtime().wrapping_mul(1_000_000_000).wrapping_add(meta.mtime_nsec()),
            meta.ctime().wrapping_mul(1_000_000_000).wrapping_add(meta.ctime_nsec()),
            i64::try_from(meta.ino()).unwrap_or(-1),
        ];
        let key = self.bucket.shown(path).to_string();
        let settled = meta.ctime().saturating_mul(1000) < self.now_ms - SETTLED_MS;
        let known =
            self.seen.known.get(&key).filter(|(known, blob)| settled && *known == stamp && self.store.contains(blob));
        let blob = match known {
            Some((_, blob)) => *blob,
            None => {
                self.seen.read += 1;
                self.seen.tally.add(1);
                let stored = regular::open(path)
                    .map_err(|e| e.to_string())
                    .and_then(|mut file| self.store.put_reader(&mut file).map_err(|e| chain(&e)));
                match stored {
                    Ok((blob, _)) => blob,
                    Err(why) => {
                        self.problem(path, Code::UnsupportedFile, format!("this file cannot be read: {why}"));
                        return None;
                    }
                }
            }
        };
        self.seen.now.insert(key, (stamp, blob));
        let mode = if meta.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 };
        Some(RawFile { path: relative, mode, len: meta.len(), blob })
    }

    /// A regular file, or a link to one inside the job.
    fn inside(&self, dir: &Path, path: &Path) -> Result<Metadata, String> {
        let meta = std::fs::symlink_metadata(path).map_err(|error| error.to_string())?;
        if meta.is_file() {
            return Ok(meta);
        }
        if !meta.is_symlink() {
            return Err("this is neither a file nor a directory and cannot be shipped".to_owned());
        }
        let outside = "this link does not point to a file inside its job and cannot be shipped".to_owned();
        let (Ok(target), Ok(dir)) = (path.canonicalize(), dir.canonicalize()) else { return Err(outside) };
        let meta = std::fs::metadata(&target).map_err(|error| error.to_string())?;
        if target.starts_with(dir) && meta.is_file() { Ok(meta) } else { Err(outside) }
    }
}
