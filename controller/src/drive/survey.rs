//! Edge: what a deploy is planned from: the catalog, what agents reported since the last one, who is
//! there, and the orders that hooks wrote.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use shared::api::v1::desired::Hold;
use shared::{JobName, RunId, WorkerId};

use super::held_words;
use super::step::record;
use crate::catalog::{self, Catalog, agents, bundles, desired, holds, kv, observed, read};
use crate::model::Snapshot;
use crate::plan::needs::{self, Lacking};
use crate::plan::{self, Changed, Known, Options, Plan};
use crate::rollout::{Effect, late};

/// What a deploy is planned from.
#[derive(Debug)]
pub struct Survey {
    /// The catalog, with what was learned late.
    pub snapshot: Snapshot,
    /// What was learned late: to be written before anything is built on it.
    pub late: Vec<Effect>,
    /// What differs from what was promoted, where that matters.
    pub changed: Changed,
    /// Orders that hooks wrote.
    pub orders: BTreeMap<JobName, String>,
    /// Workers whose agent is there.
    pub online: BTreeSet<WorkerId>,
    /// Jobs whose templates read what hooks may write.
    pub volatile: BTreeSet<JobName>,
    /// Workers on which an operator wants nothing changed now.
    pub held: BTreeMap<WorkerId, Hold>,
    /// Workers that an agent has joined for.
    pub joined: BTreeSet<WorkerId>,
    /// Workers that have not what make targets need.
    pub lacking: Lacking,
}

impl Survey {
    /// Looks at the catalog. Without a maand serve nobody is connected yet: then whoever has joined counts
    /// as there, and is waited for.
    pub fn take(catalog: &mut Catalog, options: &Options, is_served: bool, now_ms: i64) -> catalog::Result<Self> {
        catalog.read(|tx| Self::read(tx, options, is_served, now_ms))
    }

    fn read(tx: &Connection, options: &Options, is_served: bool, now_ms: i64) -> catalog::Result<Self> {
        let mut snapshot = read::snapshot(tx)?;
        let told = desired::at_rest(tx)?;
        let late =
            if told.is_empty() { Vec::new() } else { late::learned(&mut snapshot, &told, &observed::allocations(tx)?) };
        let mut changed = Changed::new();
        for (alloc, from, to) in plan::compared(&snapshot, options) {
            if let (Some(from), Some(to)) = (bundles::get(tx, &from)?, bundles::get(tx, &to)?) {
                changed.insert(alloc, from.changed_paths(&to));
            }
        }
        let joined: BTreeSet<WorkerId> = agents::joined(tx)?.into_keys().collect();
        let online = if is_served {
            let contacts = observed::contacts(tx)?;
            contacts.into_iter().filter(|(_, contact)| contact.is_online(now_ms)).map(|(worker, _)| worker).collect()
        } else {
            joined.clone()
        };
        let held = holds::held(tx, now_ms)?;
        let reads = read::job_inputs(tx)?;
        let volatile = reads.into_iter().filter(|(_, (_, reads))| reads.of_hooks()).map(|(job, _)| job).collect();
        // Who is not there, or not heard yet, may have it by now.
        let facts = if is_served { observed::facts(tx)? } else { BTreeMap::new() };
        let there = facts.iter().filter(|(worker, _)| online.contains(worker));
        let lacking = needs::lacking(there.map(|(worker, facts)| (*worker, facts)));
        Ok(Self { snapshot, late, changed, orders: kv::orders(tx)?, online, volatile, joined, held, lacking })
    }

    /// Workers whose agent is there, and on which something may be changed.
    pub fn free(&self) -> BTreeSet<WorkerId> {
        self.online.iter().filter(|worker| !self.held.contains_key(worker)).copied().collect()
    }

    /// Plans.
    pub fn plan(&self, options: &Options) -> Plan {
        let known = Known {
            changed: &self.changed,
            orders: &self.orders,
            online: &self.online,
            volatile: &self.volatile,
            lacking: &self.lacking,
        };
        let mut plan = plan::plan(&self.snapshot, options, &known);
        for worker in &self.snapshot.workers {
            if let Some(hold) = self.held.get(&worker.worker_id).filter(|_| plan.concerns(worker.worker_id)) {
                plan.notes.push(format!("{} is {}; nothing is changed there before", worker.host, held_words(hold)));
            }
        }
        plan
    }

    /// Writes down what was learned late.
    pub fn settle(&mut self, catalog: &mut Catalog, run: RunId, now_ms: i64) -> catalog::Result<()> {
        let late = std::mem::take(&mut self.late);
        if late.is_empty() { Ok(()) } else { catalog.write(|tx| record(tx, &late, run, now_ms)) }
    }
}
