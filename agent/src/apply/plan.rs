//! Decides how to get from what is in place to a bundle. Pure: (last bundle, survey, new bundle) to
//! steps, in an order in which each can be done again after a crash.

use std::collections::{BTreeMap, BTreeSet};

use shared::{BlobDigest, Bundle, Entry, RelPath};
use thiserror::Error;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisk {
    /// Nothing.
    Nothing,
    /// A regular file.
    File {
        /// Permission bits, set-id and sticky included.
        mode: u32,
        /// User and group.
        owner: (u32, u32),
        /// Its content; `None`: none that any list has at this path, by its length.
        blob: Option<BlobDigest>,
        /// Whether it has another name too, which may be anywhere: then nothing is changed but by a new file.
        linked: bool,
    },
    /// A directory.
    Directory,
    /// A link, FIFO, socket or device.
    Other,
}

/// What may be in place, as far as it is the agent's doing.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// The list that was put in place, or was on its way.
    pub list: &'a Bundle,
    /// While a placement is not over: what lists before `list` had otherwise, some of which may still be there.
    pub leaving: &'a [Entry],
    /// When `list` was all in place, milliseconds since 1970 UTC; `None` when it never was: no time tells anything.
    pub applied_ms: Option<i64>,
}

impl<'a> Before<'a> {
    /// One bundle, whole.
    pub fn whole(list: &'a Bundle, applied_ms: i64) -> Self {
        Self { list, leaving: &[], applied_ms: Some(applied_ms) }
    }

    /// Everything that may be there: paths may come more than once, and a file's path be another's directory.
    pub fn entries(&self) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.list.entries().iter().chain(self.leaving)
    }

    /// What is to be remembered of it while `new` is put in place: all that `new` has not, or has otherwise.
    pub fn leaving_for(&self, new: &Bundle) -> Vec<Entry> {
        // One for each way in which a file may be closed: content is looked at anyway.
        let mut leaving: BTreeMap<(&str, u32, bool), &Entry> = BTreeMap::new();
        for entry in self.entries().filter(|entry| new.get(entry.path.as_str()) != Some(entry)) {
            leaving.entry((entry.path.as_str(), entry.mode, entry.private)).or_insert(entry);
        }
        leaving.into_values().cloned().collect()
    }
}

/// What is in place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// At every path of the last and the new bundle.
    pub found: BTreeMap<RelPath, OnDisk>,
    /// Files that neither has, outside `data/`, `logs/`, `bin/`.
    pub unmanaged: Vec<RelPath>,
    /// Files that are mounted by themselves where nothing will be restarted, and have no other name.
    pub mounted: BTreeSet<RelPath>,
    /// What an agent that was cut off left of its own: directory and name.
    pub leftovers: Vec<(String, String)>,
}

/// One step. Doing a step that is done already changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Clear away what an agent that was cut off left.
    Sweep {
        /// In which directory.
        dir: String,
        /// Its name there.
        name: String,
    },
    /// Make a directory.
    MakeDir(RelPath),
    /// Put a file in place of whatever is there (not a directory).
    Replace {
        /// The file.
        entry: Entry,
        /// Its permission bits; not always the entry's.
        mode: u32,
        /// User and group, where the job gave the file to somebody.
        owner: Option<(u32, u32)>,
    },
    /// Write a file's content over the one there, keeping the file itself: it is mounted somewhere.
    Rewrite {
        /// The file.
        entry: Entry,
        /// Its permission bits; not always the entry's.
        mode: u32,
    },
    /// Set permission bits.
    SetMode {
        /// The file.
        path: RelPath,
        /// The bits.
        mode: u32,
    },
    /// Remove a file.
    Delete(RelPath),
    /// Remove a directory, if nothing is left in it.
    RemoveDir(RelPath),
}

/// The way to a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In order.
    pub steps: Vec<Change>,
    /// Managed files that were edited on the worker since the last apply.
    pub drift: Vec<RelPath>,
}

/// Why there is no way.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Blocked {
    /// A directory that no bundle made is where a file should go.
    #[error("{0} is a directory there, the bundle has a file of that name: move it away")]
    Directory(RelPath),
}

/// Plans.
pub fn plan(before: &Before<'_>, survey: &Survey, new: &Bundle) -> Result<Changes, Blocked> {
    let mut changes = Changes::default();
    let at = |path: &RelPath| survey.found.get(path).copied().unwrap_or(OnDisk::Nothing);
    let is_file = |path: &RelPath| matches!(at(path), OnDisk::File { .. } | OnDisk::Other);

    let sweep = |(dir, name): &(String, String)| Change::Sweep { dir: dir.clone(), name: name.clone() };
    changes.steps.extend(survey.leftovers.iter().map(sweep));
    let leaving: BTreeSet<&str> = before.leaving.iter().map(|entry| entry.path.as_str()).collect();
    for entry in before.list.entries() {
        let edited = match at(&entry.path) {
            OnDisk::File { blob, .. } => {
                blob != Some(entry.blob)
                    && blob.is_none_or(|blob| new.get(entry.path.as_str()).map(|e| e.blob) != Some(blob))
            }
            OnDisk::Nothing => new.get(entry.path.as_str()).is_some_and(|e| e == entry),
            OnDisk::Directory | OnDisk::Other => true,
        };
        // While a placement is not over, another file may rightly be there, or none yet.
        if edited && !leaving.contains(entry.path.as_str()) && before.applied_ms.is_some() {
            changes.drift.push(entry.path.clone());
        }
    }

    // One of each path is enough to take a file away.
    let old: BTreeMap<&str, &Entry> = before.entries().map(|entry| (entry.path.as_str(), entry)).collect();
    // A file that gives way to a directory goes first; every other deletion comes last.
    let new_dirs = directories(new);
    let gives_way = |entry: &&&Entry| new_dirs.contains(entry.path.as_str()) && is_file(&entry.path);
    changes.steps.extend(old.values().filter(gives_way).map(|entry| Change::Delete(entry.path.clone())));
    let mut dirs: Vec<&str> = new_dirs.iter().copied().collect();
    dirs.sort_by_key(|dir| dir.matches('/').count());
    changes.steps.extend(dirs.iter().filter_map(|dir| dir.parse().ok()).map(Change::MakeDir));

    // A directory that gives way to a file: its files are those of a list, or it stays.
    let (gone, late): (Vec<&Entry>, Vec<&Entry>) = old
        .values()
        .copied()
        .filter(|entry| new.get(entry.path.as_str()).is_none() && !new_dirs.contains(entry.path.as_str()))
        .partition(|entry| parents(entry.path.as_str()).any(|dir| new.get(dir).is_some()));
    let delete = |entry: &&Entry| is_file(&entry.path).then(|| Change::Delete(entry.path.clone()));
    changes.steps.extend(gone.iter().filter_map(delete));
    changes.steps.extend(empty_dirs(gone.iter().copied(), &new_dirs));

    for entry in new.entries() {
        let wanted = if entry.private { entry.mode & 0o600 } else { entry.mode };
        match at(&entry.path) {
            OnDisk::File { mode, owner, blob, linked } => {
                // What the job made of it by itself is kept while no bundle's mode changes.
                let keep = !linked && agreed(before, entry);
                let kept = if keep { mode & 0o777 } else { wanted };
                let owner = keep.then_some(owner);
                if blob != Some(entry.blob) && survey.mounted.contains(&entry.path) {
                    changes.steps.push(Change::Rewrite { entry: entry.clone(), mode: kept });
                } else if blob != Some(entry.blob) || (linked && mode & 0o7777 != kept) {
                    changes.steps.push(Change::Replace { entry: entry.clone(), mode: kept, owner });
                } else if mode & 0o7777 != kept {
                    changes.steps.push(Change::SetMode { path: entry.path.clone(), mode: kept });
                }
            }
            OnDisk::Directory if !gone.iter().any(|old| is_below(old, entry)) => {
                return Err(Blocked::Directory(entry.path.clone()));
            }
            OnDisk::Directory | OnDisk::Nothing | OnDisk::Other => {
                changes.steps.push(Change::Replace { entry: entry.clone(), mode: wanted, owner: None });
            }
        }
    }

    changes.steps.extend(late.iter().filter_map(delete));
    changes.steps.extend(empty_dirs(late.into_iter(), &new_dirs));
    Ok(changes)
}

/// Whether every list that may have put `entry`'s file there, and there is one, says the same of who may use it.
fn agreed(before: &Before<'_>, entry: &Entry) -> bool {
    let same = |old: &Entry| old.mode == entry.mode && old.private == entry.private;
    let listed = before.list.get(entry.path.as_str());
    let mut left = before.leaving.iter().filter(|old| old.path == entry.path).peekable();
    (listed.is_some() || left.peek().is_some()) && listed.is_none_or(same) && left.all(same)
}

/// Whether a job's directory must be closed to other users.
pub fn holds_private<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> bool {
    entries.into_iter().any(|entry| entry.private)
}

fn is_below(old: &Entry, entry: &Entry) -> bool {
    old.path.as_str().strip_prefix(entry.path.as_str()).is_some_and(|rest| rest.starts_with('/'))
}

/// `a/b/c` has the parents `a/b` and `a`.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').rev().map(move |(at, _)| &path[..at])
}

fn directories(bundle: &Bundle) -> BTreeSet<&str> {
    bundle.entries().iter().flat_map(|entry| parents(entry.path.as_str())).collect()
}

/// Directories that deletions may have emptied, deepest first.
fn empty_dirs<'a>(deleted: impl Iterator<Item = &'a Entry>, keep: &BTreeSet<&str>) -> Vec<Change> {
    let mut dirs: Vec<&str> =
        deleted.flat_map(|entry| parents(entry.path.as_str())).filter(|dir| !keep.contains(dir)).collect();
    dirs.sort_by_key(|dir| (std::cmp::Reverse(dir.matches('/').count()), *dir));
    dirs.dedup();
    dirs.into_iter().filter_map(|dir| dir.parse().ok()).map(Change::RemoveDir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(files: &[(&str, &str, u32)]) -> Bundle {
        let entry = |(path, content, mode): &(&str, &str, u32)| Entry {
            path: path.parse().unwrap(),
            mode: *mode,
            len: content.len() as u64,
            blob: BlobDigest::of(content.as_bytes()),
            private: false,
        };
        Bundle::new(files.iter().map(entry).collect()).unwrap()
    }

    fn disk(files: &[(&str, &str, u32)]) -> Survey {
        let found = files.iter().map(|(path, content, mode)| (path.parse().unwrap(), file(content, *mode)));
        Survey { found: found.collect(), ..Survey::default() }
    }

    fn file(content: &str, mode: u32) -> OnDisk {
        OnDisk::File { mode, owner: (0, 0), blob: Some(BlobDigest::of(content.as_bytes())), linked: false }
    }

    /// With `last` all in place.
    fn plan(last: &Bundle, survey: &Survey, new: &Bundle) -> Result<Changes, Blocked> {
        super::plan(&Before::whole(last, 0), survey, new)
    }

    /// After a placement of `to` over `old` that was cut off.
    fn replan(old: &Bundle, to: &Bundle, survey: &Survey, new: &Bundle) -> Vec<String> {
        let leaving = Before::whole(old, 0).leaving_for(to);
        words(&super::plan(&Before { list: to, leaving: &leaving, applied_ms: None }, survey, new).unwrap())
    }

    fn words(changes: &Changes) -> Vec<String> {
        let word = |change: &Change| match change {
            Change::Sweep { dir, name } => format!("sweep {dir}/{name}"),
            Change::MakeDir(path) => format!("mkdir {path}"),
            Change::Replace { entry, mode, owner: Some((user, _)) } if *user != 0 => {
                format!("put {} {mode:o} of {user}", entry.path)
            }
            Change::Replace { entry, mode, .. } => format!("put {} {mode:o}", entry.path),
            Change::Rewrite { entry, mode } => format!("rewrite {} {mode:o}", entry.path),
            Change::SetMode { path, mode } => format!("mode {path} {mode:o}"),
            Change::Delete(path) => format!("rm {path}"),
            Change::RemoveDir(path) => format!("rmdir {path}"),
        };
        changes.steps.iter().map(word).collect()
    }

    #[test]
    fn only_what_changed_is_touched_and_deletions_come_last() {
        let v1 = bundle(&[("Makefile", "m", 0o644), ("conf/a", "1", 0o644), ("old/x", "x", 0o644)]);
        let v2 = bundle(&[("Makefile", "m", 0o644), ("conf/a", "2", 0o644), ("new/y", "y", 0o755)]);
        let there = [("Makefile", "m", 0o644), ("conf/a", "1", 0o644), ("old/x", "x", 0o644)];
        let changes = plan(&v1, &disk(&there), &v2).unwrap();
        assert_eq!(
            words(&changes),
            ["mkdir conf", "mkdir new", "put conf/a 644", "put new/y 755", "rm old/x", "rmdir old"]
        );
        assert!(changes.drift.is_empty());
        let done = [("Makefile", "m", 0o644), ("conf/a", "2", 0o644), ("new/y", "y", 0o755)];
        assert_eq!(words(&plan(&v1, &disk(&done), &v2).unwrap()), ["mkdir conf", "mkdir new", "rmdir old"]);
    }

    #[test]
    fn a_mounted_file_keeps_its_inode() {
        let (v1, v2) =
            (bundle(&[("a", "1", 0o644), ("b", "1", 0o644)]), bundle(&[("a", "2", 0o644), ("b", "2", 0o644)]));
        let mut there = disk(&[("a", "1", 0o644), ("b", "1", 0o644)]);
        there.mounted.insert("a".parse().unwrap());
        assert_eq!(words(&plan(&v1, &there, &v2).unwrap()), ["rewrite a 644", "put b 644"]);
        assert!(words(&plan(&v1, &there, &v1).unwrap()).is_empty(), "what is as it should be is not written");
    }

    #[test]
    fn edited_files_are_drift_and_are_overwritten() {
        let v1 = bundle(&[("a", "1", 0o644), ("b", "1", 0o644), ("c", "1", 0o644)]);
        let changes = plan(&v1, &disk(&[("a", "edited", 0o644), ("b", "1", 0o644)]), &v1).unwrap();
        assert_eq!(words(&changes), ["put a 644", "put c 644"]);
        assert_eq!(changes.drift, ["a".parse().unwrap(), "c".parse::<RelPath>().unwrap()]);
    }

    #[test]
    fn a_mode_that_the_job_set_is_kept_until_the_bundles_changes() {
        let v1 = bundle(&[("key", "1", 0o644)]);
        let there = disk(&[("key", "1", 0o640)]);
        assert!(words(&plan(&v1, &there, &v1).unwrap()).is_empty());
        assert_eq!(words(&plan(&v1, &there, &bundle(&[("key", "2", 0o644)])).unwrap()), ["put key 640"]);
        assert_eq!(words(&plan(&v1, &there, &bundle(&[("key", "1", 0o755)])).unwrap()), ["mode key 755"]);
        let setuid = disk(&[("key", "1", 0o4644)]);
        assert_eq!(words(&plan(&v1, &setuid, &v1).unwrap()), ["mode key 644"]);
    }

    #[test]
    fn files_and_directories_change_places() {
        let file = bundle(&[("x", "f", 0o644)]);
        let dir = bundle(&[("x/y", "g", 0o644)]);
        assert_eq!(words(&plan(&file, &disk(&[("x", "f", 0o644)]), &dir).unwrap()), ["rm x", "mkdir x", "put x/y 644"]);
        let mut there = disk(&[("x/y", "g", 0o644)]);
        there.found.insert("x".parse().unwrap(), OnDisk::Directory);
        assert_eq!(words(&plan(&dir, &there, &file).unwrap()), ["rm x/y", "rmdir x", "put x 644"]);
        let mut foreign = Survey::default();
        foreign.found.insert("x".parse().unwrap(), OnDisk::Directory);
        assert!(matches!(plan(&Bundle::default(), &foreign, &file), Err(Blocked::Directory(_))));
    }

    #[test]
    fn a_planted_link_is_replaced_and_private_files_are_closed() {
        let mut private = bundle(&[("key", "1", 0o644)]).entries().to_vec();
        private[0].private = true;
        let private = Bundle::new(private).unwrap();
        let mut planted = Survey::default();
        planted.found.insert("key".parse().unwrap(), OnDisk::Other);
        assert_eq!(words(&plan(&Bundle::default(), &planted, &private).unwrap()), ["put key 600"]);
        assert!(holds_private(private.entries()));
    }

    #[test]
    fn a_mode_that_changes_is_set_however_often_it_was_cut_off() {
        let (v1, v2) = (bundle(&[("run", "x", 0o644)]), bundle(&[("run", "x", 0o755)]));
        assert_eq!(replan(&v1, &v2, &disk(&[("run", "x", 0o644)]), &v2), ["mode run 755"]);
        assert_eq!(replan(&v1, &v2, &disk(&[("run", "x", 0o755)]), &v1), ["mode run 644"]);
        let mut secret = v2.entries().to_vec();
        (secret[0].mode, secret[0].private) = (0o644, true);
        let secret = Bundle::new(secret).unwrap();
        assert_eq!(replan(&v1, &secret, &disk(&[("run", "x", 0o644)]), &secret), ["mode run 600"]);
    }

    #[test]
    fn a_file_and_a_directory_that_change_places_may_be_cut_off_between() {
        let (v1, v2) = (bundle(&[("x", "f", 0o644)]), bundle(&[("x/y", "g", 0o644)]));
        let mut made = Survey::default();
        made.found.insert("x".parse().unwrap(), OnDisk::Directory);
        assert_eq!(replan(&v1, &v2, &made, &v2), ["mkdir x", "put x/y 644"]);
        assert_eq!(replan(&v1, &v2, &made, &v1), ["rmdir x", "put x 644"]);
        let v3 = bundle(&[("z", "h", 0o644)]);
        assert_eq!(replan(&v1, &v2, &made, &v3), ["put z 644", "rmdir x"]);
        assert_eq!(replan(&v1, &v2, &disk(&[("x", "f", 0o644)]), &v3), ["put z 644", "rm x", "rmdir x"]);
    }

    #[test]
    fn what_was_begun_and_is_wanted_no_more_goes() {
        let (v1, v2) = (bundle(&[("a", "1", 0o644)]), bundle(&[("a", "1", 0o644), ("b", "2", 0o644)]));
        assert_eq!(replan(&v1, &v2, &disk(&[("a", "1", 0o644), ("b", "2", 0o644)]), &v1), ["rm b"]);
        let mut left = disk(&[("a", "1", 0o644)]);
        left.leftovers.push((String::new(), ".maand-7".to_owned()));
        assert_eq!(replan(&v1, &v2, &left, &v1), ["sweep /.maand-7"]);
    }

    #[test]
    fn who_got_a_file_keeps_it_and_a_file_of_two_names_is_replaced() {
        let (v1, v2) = (bundle(&[("key", "1", 0o644)]), bundle(&[("key", "2", 0o644)]));
        let mut there = Survey::default();
        let (blob, path): (_, RelPath) = (Some(BlobDigest::of(b"1")), "key".parse().unwrap());
        there.found.insert(path.clone(), OnDisk::File { mode: 0o640, owner: (999, 999), blob, linked: false });
        assert_eq!(words(&plan(&v1, &there, &v2).unwrap()), ["put key 640 of 999"]);
        there.found.insert(path, OnDisk::File { mode: 0o640, owner: (999, 999), blob, linked: true });
        assert_eq!(words(&plan(&v1, &there, &v1).unwrap()), ["put key 644"]);
    }
}
