//! What is done beside the work itself, and what nothing depends on: early downloads, late output.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shared::api::v1::desired::DesiredState;
use shared::diagnostic::chain;
use shared::{Bundle, BundleDigest};

use super::{Workshop, lock};
use crate::logs::Shipping;
use crate::{fetch, run};

impl Workshop {
    /// The controller can be reached again: sends what it has not got of the output of ended runs.
    pub fn send_late(self: &Arc<Self>) {
        let shop = self.clone();
        self.net.spawn_blocking(move || {
            let _one = lock(&shop.sending);
            let in_use = shop.runs_in_use();
            for dir in run::recent(&shop.layout.runs()).into_iter().filter(|dir| !in_use.contains(dir)) {
                if let Some(mut shipping) = Shipping::resume(&dir)
                    && let Err(error) = shipping.send(&shop.net, &shop.client, true)
                {
                    shop.unsent.store(true, Ordering::SeqCst);
                    return tracing::debug!(error = chain(&error), "output_not_sent");
                }
            }
        });
    }

    /// Sends late output after a report that got through: a controller may have been away for too short a
    /// time for anybody else to notice.
    pub async fn send_late_after_reports(self: Arc<Self>) {
        loop {
            self.transient.through.notified().await;
            if self.unsent.swap(false, Ordering::SeqCst) {
                self.send_late();
            }
        }
    }

    /// Downloads what a later batch will put in place. Nothing depends on it.
    pub(super) fn prefetch(self: &Arc<Self>, desired: &DesiredState) {
        let wanted: BTreeSet<BundleDigest> = desired.prefetch.iter().copied().collect();
        let mut early = lock(&self.early);
        early.retain(|digest, _| wanted.contains(digest));
        if wanted.iter().all(|digest| early.contains_key(digest)) {
            return;
        }
        drop(early);
        let shop = self.clone();
        self.net.spawn_blocking(move || {
            let one = lock(&shop.sending);
            for digest in wanted {
                if lock(&shop.early).contains_key(&digest) {
                    continue;
                }
                match shop.prefetch_one(digest) {
                    Ok(list) => drop(lock(&shop.early).insert(digest, list)),
                    Err(error) => tracing::debug!(error = chain(&error), %digest, "not_prefetched"),
                }
            }
            drop(one);
            // It may have been put in place meanwhile. Whoever has the turn looks itself.
            if let Ok(_turn) = shop.turn.try_lock() {
                shop.tidy_store();
            }
        });
    }

    /// What was put in place needs no second copy, and what will be is fetched by its own turn: keeps of the store what
    /// is to be at hand for a later batch. For who has the turn.
    pub(super) fn tidy_store(&self) {
        let desired = self.desired();
        let mut early = lock(&self.early);
        early.retain(|digest, _| desired.prefetch.contains(digest));
        let is_whole = desired.prefetch.iter().all(|digest| early.contains_key(digest));
        let keep = early.clone();
        drop(early);
        // Of one that is held up, what it has fetched stays.
        if is_whole && lock(&self.busy).len() <= 1 {
            let pruned = fetch::prune(&self.layout, &keep.values().collect::<Vec<_>>());
            if let Err(error) = pruned {
                tracing::warn!(%error, "store_not_pruned");
            }
        }
    }

    fn prefetch_one(&self, digest: BundleDigest) -> Result<Bundle, fetch::Error> {
        let list = fetch::list(&self.net, &self.client, &self.layout, digest, None)?;
        // What is in place somewhere is taken from there when its time comes.
        let rows = self.ledger.rows().unwrap_or_default();
        let here: BTreeSet<_> = rows.iter().flat_map(|row| row.list.entries()).map(|e| (e.private, e.blob)).collect();
        let entries = list.entries().iter().map(|entry| ((entry.private, entry.blob), entry.len));
        let blobs = entries.filter(|(key, _)| !here.contains(key)).collect();
        fetch::blobs(&self.net, &self.client, &self.layout, &blobs, fetch::EARLY)?;
        tracing::info!(bundle = %digest, blobs = blobs.len(), "prefetched");
        Ok(list)
    }
}
