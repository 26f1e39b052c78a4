//! Edge: the ledger: what the agent accepted and where each step stands. SQLite, every commit
//! durable before the next step relies on it.
#![expect(clippy::disallowed_methods, reason = "edge: the ledger and its lock")]
#![expect(clippy::disallowed_types, reason = "edge: the lock's file")]

mod rows;
mod schema;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, params};
use rustix::fs::{FlockOperation, flock};
use shared::api::v1::desired::{DesiredState, Fence};
use shared::{BlobDigest, Code, Diagnostic, OperationId};
use thiserror::Error;
use uuid::Uuid;

use super::durable::private_dir;
use super::layout::Layout;
use crate::failpoint;
use crate::operations::Entry;
use crate::reconcile::{Accepted, Row as Known};

pub use schema::{MIGRATIONS, SCHEMA};

/// Why the ledger could not be used.
#[derive(Debug, Error)]
pub enum Error {
    /// SQLite refused.
    #[error("ledger: {operation}")]
    Sql {
        /// What was being done.
        operation: &'static str,
        /// Why it could not be.
        source: rusqlite::Error,
    },
    /// A row that no version of this program writes.
    #[error("ledger: {what} is damaged: {why}")]
    Damaged {
        /// Which.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Result of a ledger operation.
pub type Result<T> = std::result::Result<T, Error>;

trait During<T> {
    fn during(self, operation: &'static str) -> Result<T>;
}

impl<T> During<T> for rusqlite::Result<T> {
    fn during(self, operation: &'static str) -> Result<T> {
        self.map_err(|source| Error::Sql { operation, source })
    }
}

/// The ledger of one bucket on this worker. One agent at a time has it.
#[derive(Debug)]
pub struct Ledger {
    connection: Mutex<Connection>,
    /// SQLite's count of what others wrote, as it was looked at last.
    version: AtomicI64,
    /// What was accepted last, once it was looked at: the document may have megabytes, and is asked about with every
    /// report. Kept by the agent alone, beside which nobody accepts anything.
    last: Mutex<Option<Last>>,
    lock: Option<File>,
}

/// What was accepted last, without the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    /// Its fence, and sha256 of the document.
    pub accepted: Accepted,
    /// The digest of what counts of it; none of one that an older agent accepted and this one cannot read.
    pub essence: Option<BlobDigest>,
}

impl Ledger {
    /// Opens it for the agent: takes the lock, and counts a new session.
    pub fn open(layout: &Layout) -> std::result::Result<(Self, u64), Diagnostic> {
        let failed = |error: &dyn std::error::Error| state_problem(layout).cause(error);
        private_dir(&layout.own()).map_err(|error| failed(&error))?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(layout.lock());
        let lock = lock.map_err(|error| failed(&error))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let problem = Diagnostic::new(Code::AgentRunning, "another agent runs for this bucket on this machine");
            return Err(problem.at(layout.bucket().display()).remedy("end it first: systemctl stop maand-agent"));
        }
        let connection = connect(layout).map_err(|error| failed(&error))?;
        schema::migrate(&connection, layout)?;
        let session: u64 = connection
            .query_row("UPDATE agent SET session = session + 1 RETURNING session", [], |row| row.get(0))
            .map_err(|error| failed(&error))?;
        Ok((Self::with(connection, Some(lock)), session))
    }

    /// Opens it for looking, beside a running agent.
    pub fn view(layout: &Layout) -> std::result::Result<Self, Diagnostic> {
        let failed = |error: &dyn std::error::Error| state_problem(layout).cause(error);
        if !layout.ledger().is_file() {
            return Err(state_problem(layout).note("there is none yet").remedy("start maand-agent run"));
        }
        let connection = connect(layout).map_err(|error| failed(&error))?;
        schema::check(&connection, layout)?;
        Ok(Self::with(connection, None))
    }

    fn with(connection: Connection, lock: Option<File>) -> Self {
        Self { connection: Mutex::new(connection), version: AtomicI64::new(0), last: Mutex::default(), lock }
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was accepted last: fence, sha256 of the document, the document.
    pub fn accepted(&self) -> Result<Option<(Accepted, Vec<u8>)>> {
        type Raw = (Option<u64>, Option<u64>, Option<u64>, Option<[u8; 32]>, Option<Vec<u8>>);
        let row: Raw = self
            .lock()
            .query_row("SELECT epoch, update_seq, generation, payload_hash, payload FROM agent", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })
            .during("reading what was accepted")?;
        Ok(match row {
            (Some(epoch), Some(update_seq), Some(generation), Some(hash), Some(payload)) => {
                Some((Accepted { fence: Fence { epoch, update_seq, generation }, hash }, payload))
            }
            _ => None,
        })
    }

    /// What was accepted last; the document itself is read and parsed once.
    pub fn last(&self) -> Result<Option<Last>> {
        let mut held = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Ok(*held);
        }
        let last = self.accepted()?.map(|(accepted, payload)| {
            let state = serde_json::from_slice::<DesiredState>(&payload).ok();
            Last { accepted, essence: state.map(|state| state.essence()) }
        });
        *held = last.filter(|_| self.lock.is_some());
        Ok(last)
    }

    /// Accepts a document. Durable when this returns.
    pub fn accept(&self, accepted: &Accepted, payload: &[u8]) -> Result<()> {
        failpoint::hit("accept::before");
        let fence = accepted.fence;
        // Held until it is written, and forgotten whatever comes of that: nobody keeps what is not in the file.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = None;
        self.lock()
            .execute(
                "UPDATE agent SET epoch = ?1, update_seq = ?2, generation = ?3, payload_hash = ?4, payload = ?5",
                params![fence.epoch, fence.update_seq, fence.generation, accepted.hash, payload],
            )
            .during("accepting a desired state")?;
        failpoint::hit("accept::after");
        Ok(())
    }

    /// The boot that the agent last saw.
    pub fn boot_id(&self) -> Result<Option<Uuid>> {
        let text: Option<String> = self
            .lock()
            .query_row("SELECT boot_id FROM agent", [], |row| row.get(0))
            .during("reading which boot was the last")?;
        Ok(text.and_then(|text| text.parse().ok()))
    }

    /// The machine was booted: what is owed a start is on record together with that. Durable when this returns.
    pub fn booted(&self, boot_id: Uuid, rows: &[Known]) -> Result<()> {
        let during = "recording a boot";
        let mut connection = self.lock();
        let transaction = connection.transaction().during(during)?;
        rows.iter().try_for_each(|row| rows::save(&transaction, row))?;
        transaction.execute("UPDATE agent SET boot_id = ?1", [boot_id.to_string()]).during(during)?;
        transaction.commit().during(during)
    }

    /// Whether another process has written since this was asked last.
    pub fn changed_elsewhere(&self) -> Result<bool> {
        let now: i64 = self
            .lock()
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut version| version.query_row([], |row| row.get(0)))
            .during("looking for what others wrote")?;
        Ok(self.version.swap(now, Ordering::Relaxed) != now)
    }

    /// Every operation that was taken up and not forgotten, by id.
    pub fn operations(&self) -> Result<Vec<Entry>> {
        let during = "reading the operations";
        let connection = self.lock();
        let mut select =
            connection.prepare_cached("SELECT asked, observed FROM operation ORDER BY operation_id").during(during)?;
        let mut rows = select.query([]).during(during)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().during(during)? {
            let (asked, observed): (String, String) = (row.get(0).during(during)?, row.get(1).during(during)?);
            let damaged = |error: serde_json::Error| Error::Damaged { what: "an operation", why: error.to_string() };
            let (asked, observed) = (serde_json::from_str(&asked), serde_json::from_str(&observed));
            found.push(Entry { asked: asked.map_err(damaged)?, observed: observed.map_err(damaged)? });
        }
        Ok(found)
    }

    /// Writes an operation. Durable when this returns.
    pub fn save_operation(&self, entry: &Entry) -> Result<()> {
        self.lock()
            .prepare_cached(
                "INSERT INTO operation (operation_id, asked, observed) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (operation_id) DO UPDATE SET observed = excluded.observed",
            )
            .and_then(|mut upsert| {
                upsert.execute(params![entry.asked.id.to_string(), json(&entry.asked), json(&entry.observed)])
            })
            .during("writing an operation")?;
        Ok(())
    }

    /// Forgets an operation that the desired state no longer lists.
    pub fn forget_operation(&self, id: OperationId) -> Result<()> {
        self.lock()
            .execute("DELETE FROM operation WHERE operation_id = ?1", [id.to_string()])
            .during("forgetting an operation")?;
        Ok(())
    }
}

fn connect(layout: &Layout) -> rusqlite::Result<Connection> {
    let connection = Connection::open(layout.ledger())?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    // FULL: the fence must survive a power cut. Small: an idle agent costs little.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF; \
         PRAGMA mmap_size = 0; PRAGMA cache_size = -512;",
    )?;
    Ok(connection)
}

fn state_problem(layout: &Layout) -> Diagnostic {
    Diagnostic::new(Code::AgentState, "the agent's ledger cannot be used").at(layout.ledger().display())
}

/// Types of this crate always have a JSON form.
fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use shared::{AllocId, BucketId};

    use super::*;

    #[test]
    fn it_survives_being_closed_and_counts_sessions() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), BucketId::from_uuid(uuid::Uuid::from_u128(1)));
        let fence = Fence { epoch: 1, update_seq: 2, generation: 3 };
        let row = Known::new(AllocId::from_uuid(uuid::Uuid::from_u128(2)), "api".parse().unwrap());
        {
            let (ledger, session) = Ledger::open(&layout).unwrap();
            assert_eq!(session, 1);
            assert_eq!(Ledger::open(&layout).unwrap_err().code, Code::AgentRunning);
            assert!(ledger.accepted().unwrap().is_none());
            ledger.accept(&Accepted { fence, hash: [7; 32] }, b"doc").unwrap();
            ledger.save(&row).unwrap();
        }
        let (ledger, session) = Ledger::open(&layout).unwrap();
        assert_eq!(session, 2);
        assert_eq!(ledger.accepted().unwrap(), Some((Accepted { fence, hash: [7; 32] }, b"doc".to_vec())));
        assert_eq!(ledger.row(row.alloc_id).unwrap(), Some(row.clone()));
        ledger.forget(row.alloc_id).unwrap();
        assert_eq!(ledger.rows().unwrap(), vec![]);
    }

    #[test]
    fn a_document_is_parsed_once_for_all_reports_and_another_one_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), BucketId::from_uuid(uuid::Uuid::from_u128(1)));
        let document = |generation| {
            let fence = Fence { epoch: 1, update_seq: 1, generation };
            let worker_id = shared::WorkerId::from_uuid(uuid::Uuid::from_u128(3));
            let bucket_id = BucketId::from_uuid(uuid::Uuid::from_u128(1));
            DesiredState {
                bucket_id,
                worker_id,
                host: "w1".parse().unwrap(),
                labels: vec![],
                fence,
                issued_at_ms: 0,
                allocations: vec![],
                prefetch: vec![],
                operations: vec![],
                hold: None,
            }
        };
        let accept = |ledger: &Ledger, state: &DesiredState| {
            let accepted = Accepted { fence: state.fence, hash: [7; 32] };
            ledger.accept(&accepted, &serde_json::to_vec(state).unwrap()).unwrap();
            Some(Last { accepted, essence: Some(state.essence()) })
        };
        let (ledger, _) = Ledger::open(&layout).unwrap();
        assert_eq!(ledger.last().unwrap(), None);
        let first = accept(&ledger, &document(1));
        assert_eq!(ledger.last().unwrap(), first);
        // Whoever looks at the document again would not find it any more.
        let beside = Connection::open(layout.ledger()).unwrap();
        beside.execute("UPDATE agent SET payload = x'00'", []).unwrap();
        assert_eq!(ledger.last().unwrap(), first);
        assert_eq!(Ledger::view(&layout).unwrap().last().unwrap().unwrap().essence, None, "a view keeps nothing");
        let second = accept(&ledger, &document(2));
        assert_ne!(first, second);
        assert_eq!(ledger.last().unwrap(), second);
        assert_eq!(Ledger::view(&layout).unwrap().last().unwrap(), second);
    }
}
