//! Edge: puts an allocation's files in place, and takes them away. One allocation at a time has the turn.
#![expect(clippy::disallowed_methods, reason = "edge: removes a job's files")]

use std::collections::BTreeMap;

use rustix::fs::{Mode, fchmod};
use shared::api::v1::desired::{DesiredAllocation, DesiredState};
use shared::api::v1::report::Phase;
use shared::diagnostic::chain;
use shared::{Bundle, BundleDigest};

use super::{Held, Workshop, lock};
use crate::apply::activate;
use crate::apply::plan::{Change, holds_private, plan};
use crate::apply::survey::{mounted, survey};
use crate::apply::tree::Tree;
use crate::reconcile::{Place, Row};
use crate::state::layout::Layout;
use crate::{alone, clock, failpoint, fetch};

impl Workshop {
    pub(super) fn place(
        &self,
        desired: &DesiredState,
        wanted: &DesiredAllocation,
        mut row: Row,
        to: BundleDigest,
    ) -> Result<(), Held> {
        let _turn = lock(&self.turn);
        self.transient.phase(row.alloc_id, &row.job, Phase::Fetching);
        let fetch = |error: fetch::Error| Held::Fetch(chain(&error));
        let apply = |error: &dyn std::error::Error| Held::Apply(chain(error));
        let base = match row.place {
            Place::Whole(digest) => Some((digest, &row.list)),
            Place::Empty | Place::Applying { .. } => None,
        };
        let new = fetch::list(&self.net, &self.client, to, base).map_err(fetch)?;
        let alone = alone::try_take(&self.layout.own(), row.job.as_str()).map_err(|error| apply(&error))?;
        let Some(_alone) = alone else { return Err(Held::Apply("maand-agent make is at work on it".to_owned())) };
        let tree = Tree::open(&self.layout.job(&row.job), true).map_err(|error| apply(&error))?;
        let mut survey = survey(&tree, &row.list, &new, row.applied_ms).map_err(|error| apply(&error))?;
        if wanted.action.as_ref().is_none_or(|action| action.kind.keeps_process()) {
            mounted(&tree, &self.layout.job(&row.job), &mut survey);
        }
        let changes = plan(&row.list, &survey, &new).map_err(|error| apply(&error))?;
        let mut blobs: BTreeMap<_, _> = changes
            .steps
            .iter()
            .filter_map(|step| match step {
                Change::Replace { entry, .. } | Change::Rewrite { entry, .. } => {
                    Some(((entry.private, entry.blob), entry.len))
                }
                _ => None,
            })
            .collect();
        fetch::reuse(&tree, &self.layout, &row.list, &mut blobs);
        fetch::blobs(&self.net, &self.client, &self.layout, &blobs, "").map_err(fetch)?;

        self.transient.phase(row.alloc_id, &row.job, Phase::Applying);
        // From here on only forward: what may be in place is either list's.
        failpoint::hit("intent::before");
        let old = row.list.clone();
        row.place = Place::Applying { to };
        row.purged = false;
        row.list = both(&old, &new);
        self.save(&row)?;
        failpoint::hit("intent::after");
        // Closed before anything private is in it, opened only after nothing is.
        let private = holds_private(&new);
        let closed = wanted.dir_mode.unwrap_or(if private { 0o700 } else { 0o755 });
        if private {
            fchmod(tree.root(), Mode::from_raw_mode(closed)).map_err(|error| apply(&error))?;
        }
        activate::activate(&tree, &self.layout, &changes.steps).map_err(|error| apply(&error))?;
        if !private && (wanted.dir_mode.is_some() || holds_private(&old)) {
            fchmod(tree.root(), Mode::from_raw_mode(closed)).map_err(|error| apply(&error))?;
        }
        row.place = Place::Whole(to);
        row.version.clone_from(&wanted.new_version);
        row.list = new;
        row.applied_ms = clock::now_ms();
        row.drift = changes.drift;
        row.unmanaged = survey.unmanaged;
        self.save(&row)?;
        failpoint::hit("placed::after");
        // What was put in place needs no second copy, and what will be is fetched by its own turn.
        let early = lock(&self.early).clone();
        if lock(&self.busy).len() <= 1 && desired.prefetch.iter().all(|digest| early.contains_key(digest)) {
            let pruned = fetch::prune(&self.layout, &early.values().collect::<Vec<_>>());
            if let Err(error) = pruned {
                tracing::warn!(%error, job = %wanted.job, "store_not_pruned");
            }
        }
        Ok(())
    }

    pub(super) fn remove_files(&self, mut row: Row) -> Result<(), Held> {
        let _turn = lock(&self.turn);
        self.transient.phase(row.alloc_id, &row.job, Phase::Applying);
        clear(&self.layout, &row).map_err(Held::Apply)?;
        row.place = Place::Empty;
        row.list = Bundle::default();
        self.save(&row)
    }

    pub(super) fn remove_tree(&self, row: Row) -> Result<(), Held> {
        let _turn = lock(&self.turn);
        self.transient.phase(row.alloc_id, &row.job, Phase::Applying);
        let path = self.layout.job(&row.job);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Held::Apply(chain(&error))),
            _ => {}
        }
        // The row says that it was done until the controller names the allocation no more.
        self.save(&Row { purged: true, ..Row::new(row.alloc_id, row.job) })
    }
}

/// Every path that either list has: what may be in place while one gives way to the other. Where both
/// have it the new one's entry stands, which is what a redo expects.
fn both(old: &Bundle, new: &Bundle) -> Bundle {
    let extra = old.entries().iter().filter(|entry| new.get(entry.path.as_str()).is_none());
    let all = new.entries().iter().chain(extra).cloned().collect();
    // A file of one where the other has a directory: then the old list alone tells what to clear.
    Bundle::new(all).unwrap_or_else(|_| old.clone())
}

/// Removes what bundles put into a job's directory, and `bin/`; `data/`, `logs/` and what is nobody's stay.
pub fn clear(layout: &Layout, row: &Row) -> Result<(), String> {
    let failed = |error: &dyn std::error::Error| chain(error);
    let path = layout.job(&row.job);
    if !path.is_dir() {
        return Ok(());
    }
    let tree = Tree::open(&path, false).map_err(|error| failed(&error))?;
    let nothing = Bundle::default();
    let survey = survey(&tree, &row.list, &nothing, row.applied_ms).map_err(|error| failed(&error))?;
    let changes = plan(&row.list, &survey, &nothing).map_err(|error| failed(&error))?;
    activate::activate(&tree, layout, &changes.steps).map_err(|error| failed(&error))?;
    // `bin` is the job's own while it lives; std does not follow links below it.
    let bin = path.join("bin");
    if bin.is_dir() && !bin.is_symlink() {
        std::fs::remove_dir_all(&bin).map_err(|error| failed(&error))?;
    }
    Ok(())
}
