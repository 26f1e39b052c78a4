//! The rows of allocations.

use rusqlite::{Connection, OptionalExtension, Row, params};
use shared::api::v1::report::{ObservedAction, ObservedBoot, Process};
use shared::{AllocId, Bundle, BundleDigest, RelPath};

use super::{During, Error, Ledger, Result, json};
use crate::reconcile::{Heal, Place, Row as Known, Running};

const COLUMNS: &str = "alloc_id, job, bundle, applying, list, applied_ms, process, action, running, drift, unmanaged, version, purged, leaving, boot, heals";

impl Ledger {
    /// Every allocation that the agent has anything of, by job.
    pub fn rows(&self) -> Result<Vec<Known>> {
        let connection = self.lock();
        let mut select = connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM allocation ORDER BY job, alloc_id"))
            .during("reading the allocations")?;
        let mut rows = select.query([]).during("reading the allocations")?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().during("reading the allocations")? {
            found.push(known(row)?);
        }
        Ok(found)
    }

    /// One allocation.
    pub fn row(&self, alloc: AllocId) -> Result<Option<Known>> {
        let connection = self.lock();
        let mut select = connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM allocation WHERE alloc_id = ?1"))
            .during("reading an allocation")?;
        let row =
            select.query_row([alloc.to_string()], |row| Ok(known(row))).optional().during("reading an allocation")?;
        row.transpose()
    }

    /// Writes an allocation, whole. Durable when this returns.
    pub fn save(&self, row: &Known) -> Result<()> {
        save(&self.lock(), row)
    }

    /// Writes down what is known of an allocation's process, beside a running agent. Durable when this returns.
    pub fn save_process(&self, alloc: AllocId, process: Process) -> Result<()> {
        self.lock()
            .execute(
                "UPDATE allocation SET process = ?2 WHERE alloc_id = ?1",
                params![alloc.to_string(), json(&process)],
            )
            .during("writing down what runs")?;
        Ok(())
    }

    /// Forgets an allocation whose tree is gone.
    pub fn forget(&self, alloc: AllocId) -> Result<()> {
        self.lock()
            .execute("DELETE FROM allocation WHERE alloc_id = ?1", [alloc.to_string()])
            .during("forgetting an allocation")?;
        Ok(())
    }
}

/// Writes an allocation, whole.
pub(super) fn save(connection: &Connection, row: &Known) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO allocation (alloc_id, job, bundle, applying, list, applied_ms, process, action, running, drift, unmanaged, \
             version, purged, leaving, boot, heals) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16) ON CONFLICT (alloc_id) DO UPDATE SET \
               bundle = excluded.bundle, applying = excluded.applying, list = excluded.list, \
               applied_ms = excluded.applied_ms, process = excluded.process, action = excluded.action, \
               running = excluded.running, drift = excluded.drift, unmanaged = excluded.unmanaged, \
               version = excluded.version, purged = excluded.purged, leaving = excluded.leaving, boot = excluded.boot, heals = excluded.heals",
        )
        .and_then(|mut upsert| {
            let (bundle, applying) = match row.place {
                Place::Empty => (None, None),
                Place::Whole(bundle) => (Some(bundle.to_string()), None),
                Place::Applying { to } => (None, Some(to.to_string())),
            };
            upsert.execute(params![
                row.alloc_id.to_string(),
                row.job.as_str(),
                bundle,
                applying,
                json(&row.list),
                row.applied_ms,
                json(&row.process),
                row.action.as_ref().map(json),
                row.running.as_ref().map(json),
                json(&row.drift),
                json(&row.unmanaged),
                row.version,
                row.purged,
                json(&row.leaving),
                row.boot.as_ref().map(json),
                json(&row.heals),
            ])
        })
        .during("writing an allocation")?;
    Ok(())
}

fn known(row: &Row<'_>) -> Result<Known> {
    let text = |at: usize| -> Result<String> { row.get(at).during("reading an allocation") };
    let optional = |at: usize| -> Result<Option<String>> { row.get(at).during("reading an allocation") };
    let damaged = |what| move |why: String| Error::Damaged { what, why };
    let digest = |text: Option<String>| -> Result<Option<BundleDigest>> {
        text.map(|text| text.parse().map_err(|e: shared::digest::DigestError| damaged("a bundle")(e.to_string())))
            .transpose()
    };
    let place = match (digest(optional(2)?)?, digest(optional(3)?)?) {
        (_, Some(to)) => Place::Applying { to },
        (Some(bundle), None) => Place::Whole(bundle),
        (None, None) => Place::Empty,
    };
    fn from<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T> {
        serde_json::from_str(text).map_err(|error| Error::Damaged { what, why: error.to_string() })
    }
    let list: Bundle = from("a list", &text(4)?)?;
    let leaving: Vec<shared::Entry> = from("a list", &text(13)?)?;
    let process: Process = from("a process", &text(6)?)?;
    let action: Option<ObservedAction> = optional(7)?.map(|text| from("an action", &text)).transpose()?;
    let running: Option<Running> = optional(8)?.map(|text| from("a run", &text)).transpose()?;
    let drift: Vec<RelPath> = from("drift", &text(9)?)?;
    let unmanaged: Vec<RelPath> = from("unmanaged", &text(10)?)?;
    let boot: Option<ObservedBoot> = optional(14)?.map(|text| from("a start after a boot", &text)).transpose()?;
    let heals: Vec<Heal> = from("what was put back", &text(15)?)?;
    Ok(Known {
        alloc_id: text(0)?.parse().map_err(|e: shared::id::IdError| damaged("an id")(e.to_string()))?,
        job: text(1)?.parse().map_err(|e: shared::id::IdError| damaged("a job")(e.to_string()))?,
        place,
        list,
        leaving,
        boot,
        heals,
        applied_ms: row.get(5).during("reading an allocation")?,
        process,
        action,
        running,
        drift,
        unmanaged,
        version: text(11)?,
        purged: row.get(12).during("reading an allocation")?,
    })
}
