//! Edge: carries out a plan of `maand gc`: asks agents to take trees away and waits for their word; then
//! sweeps what no row refers to any more out of the bucket's directories.
#![expect(clippy::disallowed_methods, reason = "edge: waits for agents; removes blobs, packs and logs")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use shared::api::v1::desired::Fence;
use shared::{AllocId, BlobDigest, RunId, WorkerId};

use super::plan::{DAY_MS, PACK_DAYS, RUN_DAYS};
use crate::catalog::{self, Catalog, gc as rows};
use crate::clock;
use crate::paths::BucketDir;
use crate::serve::notify::wake;
use crate::tally::Tally;

/// Longest time that an agent may take over a tree that it began to take away, milliseconds.
const REMOVAL_MS: i64 = 10 * 60_000;
/// How often reports are looked for.
const LOOK: Duration = Duration::from_millis(20);
/// A blob that was written so lately may be about to be referred to, milliseconds.
const FRESH_MS: i64 = 60 * 60_000;

/// What became of what an agent was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The tree is gone.
    Purged,
    /// It is wanted again, may run or is part of a rollout by now: it was not asked for.
    Left,
    /// Its agent did not pick the request up in time.
    NotPickedUp,
    /// Its agent did, and the tree is still there; what it says holds it up.
    NotDone(Option<String>),
}

/// Asks for trees to be taken away. Agents of `waited` are waited for: `pickup_ms` for each to hear of it, ten
/// minutes more for it to be done. The others do it when they are back.
pub fn purge(
    bucket: &BucketDir,
    catalog: &mut Catalog,
    asked: &BTreeMap<WorkerId, Vec<AllocId>>,
    waited: &BTreeSet<WorkerId>,
    pickup_ms: i64,
    mut gone: impl FnMut(AllocId),
) -> catalog::Result<BTreeMap<AllocId, Answer>> {
    let mut answers = BTreeMap::new();
    let mut waiting: BTreeMap<AllocId, (WorkerId, Fence)> = BTreeMap::new();
    let begin_ms = clock::now_ms();
    let all_told = catalog.write(|tx| rows::tell_purged(tx, asked, begin_ms))?;
    for (worker, allocations) in asked {
        let Some((fence, told)) = all_told.get(worker) else { continue };
        answers.extend(allocations.iter().filter(|alloc| !told.contains(alloc)).map(|alloc| (*alloc, Answer::Left)));
        match fence {
            Some(fence) if waited.contains(worker) => {
                waiting.extend(told.iter().map(|alloc| (*alloc, (*worker, *fence))));
            }
            _ => answers.extend(told.iter().map(|alloc| (*alloc, Answer::NotPickedUp))),
        }
    }
    wake(bucket);
    while !waiting.is_empty() {
        let now_ms = clock::now_ms();
        let is_late = now_ms - begin_ms > pickup_ms;
        let (accepted, all_said) = catalog.read(|tx| Ok((rows::accepted(tx)?, rows::purged(tx)?)))?;
        for (alloc, (worker, fence)) in waiting.clone() {
            let said = all_said.get(&(worker, alloc)).cloned().unwrap_or_default();
            let has_heard = accepted.get(&worker).is_some_and(|accepted| *accepted >= fence);
            let answer = match (said.done, has_heard) {
                (true, _) => Answer::Purged,
                (false, false) if is_late => Answer::NotPickedUp,
                (false, true) if now_ms - begin_ms > pickup_ms + REMOVAL_MS => Answer::NotDone(said.problem),
                // It tries again by itself; nobody has to wait for that.
                (false, true) if is_late && said.problem.is_some() => Answer::NotDone(said.problem),
                _ => continue,
            };
            if answer == Answer::Purged {
                gone(alloc);
            }
            waiting.remove(&alloc);
            answers.insert(alloc, answer);
        }
        std::thread::sleep(LOOK);
    }
    Ok(answers)
}

/// What lies in the bucket's directories and is of no use any more.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Blobs that nothing refers to, with their lengths.
    pub blobs: Vec<(PathBuf, u64)>,
    /// Packs that nobody asked for of late.
    pub packs: Vec<(PathBuf, u64)>,
    /// Directories of runs that are over and forgotten.
    pub runs: Vec<PathBuf>,
}

impl Garbage {
    /// Bytes of blobs and packs.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().chain(&self.packs).map(|(_, len)| len).sum()
    }
}

/// Looks for it. `used` are the blobs that something refers to; `None` while that cannot be said. Logs of the
/// runs in `remembered` stay.
pub fn survey(
    bucket: &BucketDir,
    used: Option<&BTreeSet<BlobDigest>>,
    remembered: &BTreeSet<RunId>,
    retain_days: u32,
    now_ms: i64,
) -> std::io::Result<Garbage> {
    let mut garbage = Garbage::default();
    if let Some(used) = used {
        let used: BTreeSet<String> = used.iter().map(BlobDigest::hex).collect();
        for base in [bucket.blobs(), bucket.private_blobs()] {
            for (path, name) in entries(&base)? {
                // What a process that was killed left half written.
                if name.starts_with("tmp-") {
                    older(&path, now_ms - DAY_MS, &mut garbage.blobs);
                    continue;
                }
                for (path, name) in entries(&path)? {
                    if name.len() == 64 && !used.contains(&name) {
                        older(&path, now_ms - FRESH_MS, &mut garbage.blobs);
                    }
                }
            }
        }
    }
    let days = |least: i64| i64::from(retain_days).max(least) * DAY_MS;
    for (path, _) in entries(&bucket.packs())? {
        older(&path, now_ms - days(PACK_DAYS), &mut garbage.packs);
    }
    for (path, name) in entries(&bucket.runs())? {
        let kept = name.parse::<RunId>().map_or(true, |run| remembered.contains(&run));
        if !kept && modified_ms(&path).is_some_and(|at| at <= now_ms - days(RUN_DAYS)) {
            garbage.runs.push(path);
        }
    }
    Ok(garbage)
}

/// Removes it. What another process removed meanwhile is none the worse for it.
pub fn sweep(garbage: &Garbage, tally: &Tally) -> std::io::Result<()> {
    let gone = |result: std::io::Result<()>| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    tally.begin("removing old content", garbage.blobs.len() + garbage.packs.len() + garbage.runs.len());
    for (path, _) in garbage.blobs.iter().chain(&garbage.packs) {
        gone(std::fs::remove_file(path))?;
        tally.add(1);
    }
    for path in &garbage.runs {
        gone(std::fs::remove_dir_all(path))?;
        tally.add(1);
    }
    Ok(())
}

/// What is in a directory; nothing when it is no directory.
fn entries(dir: &Path) -> std::io::Result<Vec<(PathBuf, String)>> {
    let listed = match std::fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in listed {
        let entry = entry?;
        found.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
    }
    found.sort();
    Ok(found)
}

fn modified_ms(path: &Path) -> Option<i64> {
    let modified = path.symlink_metadata().ok()?.modified().ok()?;
    i64::try_from(modified.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// Adds a file that was last written before `before_ms`.
fn older(path: &Path, before_ms: i64, found: &mut Vec<(PathBuf, u64)>) {
    let Ok(meta) = path.symlink_metadata() else { return };
    if meta.is_file() && modified_ms(path).is_some_and(|at| at <= before_ms) {
        found.push((path.to_owned(), meta.len()));
    }
}
