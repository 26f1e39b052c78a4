//! The ten invariants of an apply as questions about what was seen before, right after a crash, and when the
//! agent had its way. Pure: each answers with what is wrong, or with nothing.
//!
//! - I1 the fence that was accepted never goes back
//! - I2 but for a bundle that is being put in place, what is managed is exactly one bundle's; meanwhile each file is
//!   wholly of one or wholly of the other, but for one that is mounted by itself
//! - I3 make never sees anything but one whole bundle
//! - I4 `data/`, `logs/` and `bin/` are untouched
//! - I5 nothing outside of the job's directory, `.maand` and the descriptions beside them changes
//! - I6 whatever a report said is durable
//! - I7 every file that is there is in the ledger's list, so that a redo finds it
//! - I8 no directory is replaced
//! - I9 the same state again writes nothing and runs nothing
//! - I10 an error is told, and what it left is finished later; the rig asks that while it runs

use std::collections::BTreeSet;

use agent::reconcile::{Place, Row};
use shared::api::v1::desired::{Fence, RunState};
use shared::api::v1::report::{Outcome, Report};
use shared::{ActionId, Bundle, BundleDigest};

use super::scenario::{Expected, Scenario, UNMANAGED};
use super::tree::{Item, Listing, fingerprint, is_own, is_temporary};

/// What is wrong, each with the invariant's number in front.
pub type Wrong = Vec<String>;

/// What of a tree a bundle decides: its regular files and all that is neither file nor directory.
fn managed(tree: &Listing) -> impl Iterator<Item = (&String, &Item)> {
    tree.iter().filter(|(path, item)| !is_own(path) && item.kind != "dir")
}

fn unmanaged(path: &str) -> bool {
    UNMANAGED.iter().any(|(known, _)| *known == path)
}

/// I1 and I6: the ledger is not behind what was reported.
pub fn reported(
    reports: &[Report],
    fence: Option<Fence>,
    rows: &[Row],
    least: Fence,
    action: Option<ActionId>,
    target: Option<BundleDigest>,
) -> Wrong {
    let mut wrong = Wrong::new();
    let told = reports.iter().filter_map(|report| report.accepted).chain([least]).max();
    if fence.unwrap_or_default() < told.unwrap_or_default() {
        wrong.push(format!("I1: the ledger has {fence:?}, {told:?} was reported or there before"));
    }
    for seen in reports.iter().flat_map(|report| &report.allocations) {
        let Some(row) = rows.iter().find(|row| row.alloc_id == seen.alloc_id) else {
            if seen.bundle.is_some() || seen.action.is_some() {
                wrong.push("I6: an allocation was reported that the ledger does not have".to_owned());
            }
            continue;
        };
        let outcome = |id: Option<ActionId>, of: Option<&shared::api::v1::report::ObservedAction>| -> Option<Outcome> {
            of.filter(|of| Some(of.id) == id)?.outcome.clone()
        };
        let told = outcome(action, seen.action.as_ref());
        if told.is_some() && told != outcome(action, row.action.as_ref()) {
            wrong.push(format!("I6: {told:?} was reported, the ledger has {:?}", row.action));
        }
        // From what is wished for there is no way back.
        if seen.bundle.is_some() && seen.bundle == target && row.place != target.map_or(Place::Empty, Place::Whole) {
            wrong.push(format!("I6: {:?} was reported as whole, the ledger has {:?}", seen.bundle, row.place));
        }
    }
    wrong
}

/// I2 and I7, right after a crash.
pub fn crashed(
    scenario: &Scenario,
    before: &Listing,
    now: &Listing,
    row: Option<&Row>,
    target: &[Expected],
    bundle: &Bundle,
) -> Wrong {
    let place = row.map_or(Place::Empty, |row| row.place);
    let running = scenario.wish.state == RunState::Running;
    let mut wrong = Wrong::new();
    match place {
        Place::Whole(digest) if running && digest == bundle.digest() => wrong.extend(whole(now, target, "I2")),
        // Nothing was begun: not one file is another, or was written again.
        Place::Whole(_) if running => {
            let (old, new): (Vec<_>, Vec<_>) = (managed(before).collect(), managed(now).collect());
            if old != new {
                let gone = old.iter().filter(|one| !new.contains(one)).map(|one| one.0);
                let came = new.iter().filter(|one| !old.contains(one)).map(|one| one.0);
                wrong.push(format!(
                    "I2: the ledger has the old bundle, but {:?}",
                    gone.chain(came).collect::<BTreeSet<_>>()
                ));
            }
        }
        Place::Whole(_) | Place::Empty | Place::Applying { .. } => {
            for (path, item) in managed(now).filter(|(path, _)| !is_temporary(path)) {
                let old = before.get(path).is_some_and(|old| old.kind == "file" && old.content == item.content);
                let new = running && target.iter().any(|one| one.get(path).is_some_and(|file| file.2 == item.content));
                if item.kind != "file" || !(old || new || scenario.pinned == Some(path)) {
                    wrong.push(format!("I2: {path} is of neither bundle"));
                }
                let listed = row.is_some_and(|row| row.before().entries().any(|entry| entry.path.as_str() == path));
                if !listed && !unmanaged(path) {
                    wrong.push(format!("I7: {path} is there, and in no list of the ledger ({place:?})"));
                }
            }
        }
    }
    wrong
}

/// Whether what is managed, and what nobody manages, is exactly one of `target`.
pub fn whole(now: &Listing, target: &[Expected], number: &str) -> Wrong {
    let found: Expected = managed(now)
        .map(|(path, item)| {
            (
                path.clone(),
                (item.mode, item.uid, format!("{}{}", if item.kind == "file" { "" } else { item.kind }, item.content)),
            )
        })
        .collect();
    if target.contains(&found) {
        return Wrong::new();
    }
    let Some(nearest) = target.first() else { return vec![format!("{number}: nothing was expected")] };
    let shown = |file: Option<&(u32, u32, String)>| {
        file.map_or("nothing".to_owned(), |(mode, uid, content)| {
            format!("{mode:o} of {uid}, {}", &content[..content.len().min(8)])
        })
    };
    let paths: BTreeSet<&String> = found.keys().chain(nearest.keys()).collect();
    paths
        .into_iter()
        .filter(|path| found.get(*path) != nearest.get(*path))
        .map(|path| format!("{number}: {path} is {}, should be {}", shown(found.get(path)), shown(nearest.get(path))))
        .collect()
}

/// I2, of directories: exactly those that a file is in, and the job's own.
pub fn directories(before: &Listing, now: &Listing, target: &[Expected], private: bool) -> Wrong {
    let mut wanted: BTreeSet<&str> = target
        .first()
        .into_iter()
        .flatten()
        .flat_map(|(path, _)| path.match_indices('/').map(|(at, _)| &path[..at]))
        .collect();
    wanted.insert("");
    let found = now.iter().filter(|(path, item)| item.kind == "dir" && !is_own(path));
    let mut wrong = Wrong::new();
    for (path, item) in found {
        if !wanted.remove(path.as_str()) {
            wrong.push(format!("I2: directory {path} is left over"));
        }
        let mode = if path.is_empty() && private { 0o700 } else { 0o755 };
        let theirs = before.get(path).is_some_and(|old| old.uid != 0);
        if item.mode != mode && !theirs {
            wrong.push(format!("I2: directory {path:?} has mode {:o}, should have {mode:o}", item.mode));
        }
    }
    wrong.extend(wanted.into_iter().map(|path| format!("I2: directory {path:?} is missing")));
    wrong
}

/// I3: each line that make left is of a whole bundle; `most` of them at most.
pub fn runs(ran: &str, allowed: &BTreeSet<String>, most: usize) -> Wrong {
    let mut wrong: Wrong = ran
        .lines()
        .filter(|line| !line.split_whitespace().nth(1).is_some_and(|found| allowed.contains(found)))
        .map(|line| format!("I3: make ran on no whole bundle: {line:?}"))
        .collect();
    if ran.lines().count() > most {
        wrong.push(format!("I3: {} runs of {most} actions", ran.lines().count()));
    }
    wrong
}

/// What make says when it finds exactly these files.
pub fn seen_by_make(target: &Expected) -> String {
    fingerprint(target.iter().map(|(path, (mode, uid, content))| (path.as_str(), *mode, *uid, content.as_str())))
}

/// What make says of a tree as it is.
pub fn seen_of(tree: &Listing) -> String {
    fingerprint(managed(tree).map(|(path, item)| (path.as_str(), item.mode, item.uid, item.content.as_str())))
}

/// I4, and I8 unless the tree was removed meanwhile; `state` is what was wished for.
pub fn kept(before: &Listing, now: &Listing, state: RunState, removed: bool) -> Wrong {
    if state == RunState::Purged {
        return Wrong::new();
    }
    let mut wrong = Wrong::new();
    let untouched =
        |path: &str| is_own(path) && !(state == RunState::Absent && (path == "bin" || path.starts_with("bin/")));
    for (path, old) in before.iter().filter(|(path, _)| untouched(path)) {
        if now.get(path) != Some(old) {
            wrong.push(format!("I4: {path} was {old:?}, is {:?}", now.get(path)));
        }
    }
    wrong.extend(
        now.keys()
            .filter(|path| untouched(path) && !before.contains_key(*path))
            .map(|path| format!("I4: {path} is new")),
    );
    for (path, old) in before.iter().filter(|(_, item)| item.kind == "dir") {
        if !removed && now.get(path).is_some_and(|new| new.kind == "dir" && new.inode != old.inode) {
            wrong.push(format!("I8: directory {path:?} is another one"));
        }
    }
    wrong
}

/// I5: what is outside; and nothing of the agent's is left about in the bucket's directory.
pub fn outside(before: &Listing, now: &Listing, names: &[String]) -> Wrong {
    let paths: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let changed = paths.into_iter().filter(|path| before.get(*path) != now.get(*path));
    let mut wrong: Wrong =
        changed.map(|path| format!("I5: {path} was {:?}, is {:?}", before.get(path), now.get(path))).collect();
    let known = ["worker.json", "jobs.json", "jobs", "bin", ".maand"];
    wrong.extend(
        names.iter().filter(|name| !known.contains(&name.as_str())).map(|name| format!("I5: {name} is left over")),
    );
    wrong
}

/// I9.
pub fn again(before: &Listing, now: &Listing, ran_before: &str, ran: &str) -> Wrong {
    let mut wrong = Wrong::new();
    if before != now {
        let other = before.iter().filter(|(path, item)| now.get(*path) != Some(item)).map(|(path, _)| path);
        let changed: BTreeSet<_> = other.chain(now.keys().filter(|path| !before.contains_key(*path))).collect();
        wrong.push(format!("I9: the same state again changed files: {changed:?}"));
    }
    if ran_before != ran {
        wrong.push("I9: the same state again ran make".to_owned());
    }
    wrong
}
