//! Edge: puts an allocation's files in place, and takes them away. One allocation at a time has the turn.
#![expect(clippy::disallowed_methods, reason = "edge: removes a job's files")]

use std::collections::BTreeMap;

use rustix::fs::{Mode, fchmod, fsync};
use shared::api::v1::desired::DesiredAllocation;
use shared::api::v1::report::{Fetched, Phase};
use shared::diagnostic::chain;
use shared::{Bundle, BundleDigest, Entry, RelPath};

use super::{Held, Workshop, lock};
use crate::apply::activate;
use crate::apply::plan::{Before, Change, holds_private, plan};
use crate::apply::survey::{mounted, survey};
use crate::apply::tree::Tree;
use crate::reconcile::{Place, Row};
use crate::state::layout::Layout;
use crate::state::ledger::Ledger;
use crate::{alone, clock, failpoint, fetch};

impl Workshop {
    pub(super) fn place(&self, wanted: &DesiredAllocation, mut row: Row, to: BundleDigest) -> Result<(), Held> {
        let _turn = lock(&self.turn);
        self.transient.phase(row.alloc_id, &row.job, Phase::Fetching);
        let fetch = |error: fetch::Error| Held::Fetch(chain(&error));
        let apply = |error: &dyn std::error::Error| Held::Apply(chain(error));
        let base = match row.place {
            Place::Whole(digest) => Some((digest, &row.list)),
            Place::Empty | Place::Applying { .. } => None,
        };
        let started_ms = clock::now_ms();
        let began = clock::instant();
        let new = fetch::list(&self.net, &self.client, &self.layout, to, base).map_err(fetch)?;
        let _alone = self.alone(&row)?;
        // Somebody may have stopped it by hand since the row was read.
        let now = self.ledger.row(row.alloc_id).map_err(|error| Held::Ledger(chain(&error)))?;
        row.process = now.map_or(row.process, |now| now.process);
        let tree = Tree::open(&self.layout.job(&row.job), true).map_err(|error| apply(&error))?;
        let before = row.before();
        let mut survey = survey(&tree, &before, &new).map_err(|error| apply(&error))?;
        if wanted.action.as_ref().is_none_or(|action| action.kind.keeps_process()) {
            mounted(&tree, &self.layout.job(&row.job), &mut survey);
        }
        let mut changes = plan(&before, &survey, &new).map_err(|error| apply(&error))?;
        let mut blobs: BTreeMap<_, _> =
            changes.steps.iter().filter_map(written).map(|entry| ((entry.private, entry.blob), entry.len)).collect();
        fetch::reuse(&tree, &self.layout, before.entries(), &mut blobs);
        fetch::blobs(&self.net, &self.client, &self.layout, &blobs, "").map_err(fetch)?;
        let action = wanted.action.as_ref();
        let fetched = Fetched {
            bundle: to,
            started_ms,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            files: blobs.len() as u64,
            bytes: blobs.values().sum(),
            action: action.map(|action| action.kind),
            run_id: action.map(|action| action.run_id),
        };
        self.transient.fetched(row.alloc_id, fetched);

        self.transient.phase(row.alloc_id, &row.job, Phase::Applying);
        // From here on only forward: what may be in place is either list's.
        failpoint::hit("intent::before");
        let (leaving, was_private) = (before.leaving_for(&new), holds_private(before.entries()));
        // Of a placement that was cut off: what was edited then is overwritten by now.
        if matches!(row.place, Place::Applying { .. }) {
            changes.drift.extend(std::mem::take(&mut row.drift));
            changes.drift.sort();
            changes.drift.dedup();
        }
        row = Row { place: Place::Applying { to }, purged: false, list: new, leaving, drift: changes.drift, ..row };
        self.save(&row)?;
        failpoint::hit("intent::after");
        // Closed before anything private is in it, opened only after nothing is.
        let private = holds_private(row.list.entries());
        let closed = wanted.dir_mode.unwrap_or(if private { 0o700 } else { 0o755 });
        let close = || fchmod(tree.root(), Mode::from_raw_mode(closed)).and_then(|()| fsync(tree.root()));
        if private {
            close().map_err(|error| apply(&error))?;
        }
        activate::activate(&tree, &self.layout, &changes.steps).map_err(|error| apply(&error))?;
        if !private && (wanted.dir_mode.is_some() || was_private) {
            close().map_err(|error| apply(&error))?;
        }
        row.place = Place::Whole(to);
        row.version.clone_from(&wanted.new_version);
        row.leaving = Vec::new();
        row.applied_ms = clock::now_ms();
        row.unmanaged = survey.unmanaged;
        self.save(&row)?;
        failpoint::hit("placed::after");
        self.tidy_store();
        Ok(())
    }

    /// The job's lock: whoever moves its files has it.
    pub(super) fn alone(&self, row: &Row) -> Result<alone::Alone, Held> {
        let taken = alone::try_take(&self.layout.own(), row.job.as_str());
        let taken = taken.map_err(|error| Held::Apply(chain(&error)))?;
        taken.ok_or_else(|| Held::Apply("maand-agent make is at work on it".to_owned()))
    }

    /// Puts these files back as the bundle has them that is in place; nothing is run. The rest stays as it is.
    pub(super) fn put_back(&self, wanted: &DesiredAllocation, mut row: Row, paths: &[RelPath]) -> Result<(), Held> {
        let _turn = lock(&self.turn);
        let fetch = |error: fetch::Error| Held::Fetch(chain(&error));
        let apply = |error: &dyn std::error::Error| Held::Apply(chain(error));
        let _alone = self.alone(&row)?;
        let chosen = row.list.entries().iter().filter(|entry| paths.contains(&entry.path)).cloned().collect();
        let chosen = Bundle::new(chosen).map_err(|error| apply(&error))?;
        let tree = Tree::open(&self.layout.job(&row.job), false).map_err(|error| apply(&error))?;
        // Nothing is trusted to be as it was.
        let before = Before { list: &chosen, leaving: &[], applied_ms: None };
        let mut survey = survey(&tree, &before, &chosen).map_err(|error| apply(&error))?;
        mounted(&tree, &self.layout.job(&row.job), &mut survey);
        let mut steps = plan(&before, &survey, &chosen).map_err(|error| apply(&error))?.steps;
        let new: Vec<RelPath> = steps.iter().filter_map(written).map(|entry| entry.path.clone()).collect();
        // Right in content, and wrong in mode.
        let modes = chosen.entries().iter().filter(|entry| !new.contains(&entry.path)).map(|entry| {
            let mode = if entry.private { entry.mode & 0o600 } else { entry.mode };
            Change::SetMode { path: entry.path.clone(), mode }
        });
        steps.retain(|step| !matches!(step, Change::SetMode { .. }));
        steps.extend(modes);
        let blobs = steps.iter().filter_map(written);
        let mut blobs: BTreeMap<_, _> = blobs.map(|entry| ((entry.private, entry.blob), entry.len)).collect();
        fetch::reuse(&tree, &self.layout, row.list.entries().iter(), &mut blobs);
        fetch::blobs(&self.net, &self.client, &self.layout, &blobs, "").map_err(fetch)?;
        activate::activate(&tree, &self.layout, &steps).map_err(|error| apply(&error))?;
        tracing::info!(job = %wanted.job, files = chosen.entries().len(), "files_put_back");
        row.drift.retain(|path| !paths.contains(path));
        self.save(&row)
    }

    pub(super) fn remove_files(&self, row: Row) -> Result<(), Held> {
        let _turn = lock(&self.turn);
        let _alone = self.alone(&row)?;
        self.transient.phase(row.alloc_id, &row.job, Phase::Applying);
        clear(&self.layout, &self.ledger, row).map_err(Held::Apply)
    }

    pub(super) fn remove_tree(&self, mut row: Row) -> Result<(), Held> {
        let _turn = lock(&self.turn);
        let _alone = self.alone(&row)?;
        self.transient.phase(row.alloc_id, &row.job, Phase::Applying);
        let leaving = row.before().leaving_for(&Bundle::default());
        row = Row { place: Place::Empty, list: Bundle::default(), leaving, ..row };
        self.save(&row)?;
        let path = self.layout.job(&row.job);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Held::Apply(chain(&error))),
            _ => {}
        }
        // Gone for good, before anybody is told so.
        let flushed = std::fs::File::open(self.layout.jobs()).and_then(|jobs| jobs.sync_all());
        match flushed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Held::Apply(chain(&error))),
            _ => {}
        }
        // The row says that it was done until the controller names the allocation no more.
        self.save(&Row { purged: true, ..Row::new(row.alloc_id, row.job) })
    }
}

/// Removes what bundles put into a job's directory, and `bin/`; `data/`, `logs/` and what is nobody's stay.
pub fn clear(layout: &Layout, ledger: &Ledger, row: Row) -> Result<(), String> {
    let failed = |error: &dyn std::error::Error| chain(error);
    // Before the first file goes: what is left half-way is no whole bundle, whatever is wanted next.
    let leaving = row.before().leaving_for(&Bundle::default());
    let mut row = Row { place: Place::Empty, list: Bundle::default(), leaving, ..row };
    ledger.save(&row).map_err(|error| failed(&error))?;
    let path = layout.job(&row.job);
    if path.is_dir() {
        let tree = Tree::open(&path, false).map_err(|error| failed(&error))?;
        let nothing = Bundle::default();
        let before = row.before();
        let survey = survey(&tree, &before, &nothing).map_err(|error| failed(&error))?;
        let changes = plan(&before, &survey, &nothing).map_err(|error| failed(&error))?;
        activate::activate(&tree, layout, &changes.steps).map_err(|error| failed(&error))?;
        // `bin` is the job's own while it lives; std does not follow links below it.
        let bin = path.join("bin");
        if bin.is_dir() && !bin.is_symlink() {
            std::fs::remove_dir_all(&bin).map_err(|error| failed(&error))?;
            fsync(tree.root()).map_err(|error| failed(&error))?;
        }
    }
    row.leaving = Vec::new();
    ledger.save(&row).map_err(|error| failed(&error))
}

/// The file that a step writes.
fn written(step: &Change) -> Option<&Entry> {
    match step {
        Change::Replace { entry, .. } | Change::Rewrite { entry, .. } => Some(entry),
        _ => None,
    }
}
