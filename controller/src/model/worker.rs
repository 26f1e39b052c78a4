//! A worker: one entry of workers.json with its identity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::{Host, Name, WorkerId};

/// The label that every worker has.
pub const EVERY_WORKER: &str = "worker";

/// One machine of the pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Given when build first sees the host; a host taken out and put back gets a new one.
    pub worker_id: WorkerId,
    /// The operator's name for it.
    pub host: Host,
    /// Free text of the operator.
    pub hostname: Option<String>,
    /// Sorted, with [`EVERY_WORKER`].
    pub labels: Vec<Name>,
    /// Keys and values in lower case.
    pub tags: BTreeMap<String, String>,
    /// Declared memory, MiB; 0 when not declared.
    pub memory_mb: f64,
    /// Declared processor capacity, MHz; 0 when not declared.
    pub cpu_mhz: f64,
    /// Orders workers everywhere; equal positions order by host.
    pub position: i64,
}

impl Worker {
    /// Whether the worker has every one of `selectors` among its labels; no selector matches nothing.
    pub fn matches(&self, selectors: &[Name]) -> bool {
        !selectors.is_empty() && selectors.iter().all(|s| self.labels.contains(s))
    }
}
