//! Edge: looks now and then whether files that the agent put in place were edited, says so, and puts them back
//! where the manifest asks for that. It reads slowly and beside everything else: what is at work on a job goes first.
#![expect(clippy::disallowed_methods, reason = "edge: reads slowly")]

use std::sync::Arc;
use std::time::Duration;

use shared::AllocId;
use shared::diagnostic::chain;

use super::{Workshop, lock};
use crate::apply::drift::{Drift, inspect};
use crate::apply::tree::Tree;
use crate::clock;
use crate::reconcile::{Place, Row, heal};

/// Bytes that are read in a second, at most.
const RATE: u64 = 8 << 20;
/// How much less than others the thread is run, as nice(1) counts it.
const NICE: i32 = 15;

impl Workshop {
    /// Checks every `every`, give or take a tenth; the first time anywhere within that, so that a fleet that was
    /// switched on together does not stay together.
    pub fn watch_drift(self: &Arc<Self>, every: Duration) {
        let shop = self.clone();
        let name = std::thread::Builder::new().name("drift".into()).stack_size(512 << 10);
        let spawned = name.spawn(move || {
            // On Linux this is the thread's own.
            let _nice = rustix::process::setpriority_process(None, NICE);
            let mut pause = every.mul_f64(clock::random());
            loop {
                std::thread::sleep(pause);
                shop.check_drift();
                pause = every.mul_f64(0.9 + clock::random() / 5.0);
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "thread_failed");
        }
    }

    fn check_drift(self: &Arc<Self>) {
        let rows = match self.ledger.rows() {
            Ok(rows) => rows,
            Err(error) => return tracing::error!(error = chain(&error), "ledger_unreadable"),
        };
        for row in rows.into_iter().filter(|row| matches!(row.place, Place::Whole(_)) && row.running.is_none()) {
            let (job, alloc) = (row.job.clone(), row.alloc_id);
            if lock(&self.busy).contains(&alloc) {
                continue;
            }
            let slowly = |bytes: usize| std::thread::sleep(Duration::from_micros(bytes as u64 * 1_000_000 / RATE));
            let found = Tree::open(&self.layout.job(&job), false).and_then(|tree| inspect(&tree, &row.list, slowly));
            match found {
                Ok(found) => self.drifted(alloc, &row, found),
                Err(error) => tracing::warn!(%job, %error, "drift_not_checked"),
            }
        }
    }

    /// What was found, if nothing was put there meanwhile.
    fn drifted(self: &Arc<Self>, alloc: AllocId, seen: &Row, found: Drift) {
        if !self.take(alloc) {
            return;
        }
        if let Ok(Some(row)) = self.ledger.row(alloc)
            && (row.place, row.applied_ms, &row.list) == (seen.place, seen.applied_ms, &seen.list)
        {
            self.settle_drift(row, found);
        }
        self.give_back(alloc);
        // What was asked for meanwhile.
        self.dispatch();
        self.operate();
    }

    fn settle_drift(&self, mut row: Row, found: Drift) {
        let (job, drifted) = (row.job.clone(), found.drifted());
        let changed = row.drift != drifted || row.unmanaged != found.unmanaged;
        if row.drift != drifted {
            tracing::warn!(%job, files = drifted.len(), first = drifted.first().map(|path| path.as_str()), "drift");
        }
        (row.drift, row.unmanaged) = (drifted, found.unmanaged);
        if changed && let Err(error) = self.ledger.save(&row) {
            return tracing::error!(error = chain(&error), "ledger_unwritable");
        }
        let desired = self.desired();
        let wanted = desired.allocations.iter().find(|wanted| wanted.alloc_id == row.alloc_id);
        if let Some(wanted) = wanted.filter(|wanted| wanted.self_heal && self.on_hold(&desired).is_none()) {
            let now_ms = clock::now_ms();
            let (back, left) = heal::decide(&row.drift, &row.list, &row.heals, now_ms);
            if changed && !left.is_empty() {
                let first = left[0].as_str();
                tracing::warn!(%job, files = left.len(), first, "drift_left: put back too often");
            }
            if !back.is_empty() {
                // On record first: a try that ends the agent is one.
                row.heals = heal::counted(&row.heals, &back, &row.list, now_ms);
                let put_back = self
                    .ledger
                    .save(&row)
                    .map_err(|error| chain(&error))
                    .and_then(|()| self.put_back(wanted, row, &back).map_err(|held| held.to_string()));
                match put_back {
                    Ok(()) => tracing::info!(%job, files = back.len(), first = back[0].as_str(), "drift_put_back"),
                    Err(reason) => tracing::warn!(%job, reason, "drift_not_put_back"),
                }
            }
        }
        if changed {
            self.transient.report_now();
        }
    }
}
