//! Whether anything is handed out: not while the catalog is older than what agents have been told.

use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog::Catalog;
use crate::clock;
use crate::failure::Failure;
use crate::high_water;
use crate::paths::BucketDir;
use crate::telemetry::{BucketLog, Line};

/// Why nothing is handed out; empty while everything is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Halt(Arc<Mutex<Vec<String>>>);

impl Halt {
    /// Whether nothing is handed out.
    pub(crate) fn is_set(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Looks again, and says what changed.
    pub(crate) fn look(&self, bucket: &BucketDir, catalog: &mut Catalog, log: &BucketLog) -> Result<(), Failure> {
        let lines = high_water::evidence(bucket, catalog)?.lines();
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (was, is) = (!held.is_empty(), !lines.is_empty());
        *held = lines;
        let reason = held.join("; ");
        drop(held);
        let line =
            |level, event, msg| Line { level, event: Some(event), maand: "serve", msg: Some(msg), ..Line::default() };
        match (was, is) {
            (false, true) => {
                tracing::error!(reason, "issuing_stopped: agents are told nothing; run maand recover");
                log.write(clock::now_ms(), &[line("error", "issuing_stopped", &reason)]);
            }
            (true, false) => {
                tracing::info!("issuing_resumed");
                log.write(clock::now_ms(), &[line("info", "issuing_resumed", "the catalog is the newest again")]);
            }
            _ => {}
        }
        Ok(())
    }
}
