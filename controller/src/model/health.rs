//! Health checks as a manifest declares them (`spec/behaviour.md` 2.5).

use serde::{Deserialize, Serialize};
use shared::Name;

/// What is asked of a running job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Probe {
    /// A connection to one of the job's ports.
    Tcp {
        /// Its name.
        port: Name,
    },
    /// A GET that answers with one status.
    Http {
        /// The port's name.
        port: Name,
        /// Begins with `/`.
        path: String,
        /// `http` or `https`.
        scheme: String,
        /// What it must answer.
        expect_status: u16,
    },
    /// A shell line that exits with 0.
    Exec {
        /// The line.
        command: String,
    },
}

/// A manifest's health checks; no probes means none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// All must be good.
    pub checks: Vec<Probe>,
    /// For each probe, seconds.
    pub timeout_s: u64,
    /// Tries of a gate.
    pub attempts: u32,
    /// Seconds between them.
    pub interval_s: u64,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { checks: Vec::new(), timeout_s: 5, attempts: 30, interval_s: 1 }
    }
}
