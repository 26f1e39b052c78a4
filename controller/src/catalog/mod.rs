//! Edge: the catalog, a SQLite database. Rows are the contract between build, drive and serve; who
//! writes which is said at the top of `migrations/0001.sql`.
//!
//! Transactions are short. Readers take a consistent view with [`Catalog::read`].

pub mod agents;
pub mod authorities;
pub mod bundles;
pub mod certificates;
pub mod desired;
pub mod gc;
pub mod holds;
pub mod identities;
pub mod kv;
pub mod logged;
pub mod observed;
pub mod operations;
pub mod publish;
pub mod read;
pub mod recover;
pub mod rollout;
pub mod schema;
pub mod sessions;
pub mod write;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use shared::{Code, Diagnostic};
use thiserror::Error as ThisError;

use crate::failure::{Exit, Failure};

/// How long a transaction waits for another process's.
const BUSY: Duration = Duration::from_secs(10);

/// Why the catalog could not be used.
#[derive(Debug, ThisError)]
pub enum Error {
    /// There is none.
    #[error("there is no catalog at {}", .0.display())]
    Missing(PathBuf),
    /// Made by an older program.
    #[error("the catalog has schema {found}, this program needs {needed}")]
    Older {
        /// Its schema.
        found: u32,
        /// Ours.
        needed: u32,
    },
    /// Made by a newer program.
    #[error("the catalog has schema {found}, this program knows up to {known}")]
    Newer {
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A database with tables of another program.
    #[error("data/maand.db was not made by this program")]
    Foreign,
    /// SQLite refused.
    #[error("catalog: {operation}")]
    Sql {
        /// What was being done.
        operation: &'static str,
        /// Why it could not be.
        source: rusqlite::Error,
    },
    /// A row that no version of this program writes.
    #[error("catalog: {what} is damaged: {why}")]
    Damaged {
        /// Which row or column.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Result of a catalog operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the operation of a SQLite error.
pub(crate) trait During<T> {
    /// The error, with what was being done.
    fn during(self, operation: &'static str) -> Result<T>;
}

impl<T> During<T> for rusqlite::Result<T> {
    fn during(self, operation: &'static str) -> Result<T> {
        self.map_err(|source| Error::Sql { operation, source })
    }
}

/// An open catalog of the right schema.
#[derive(Debug)]
pub struct Catalog {
    connection: Connection,
    path: PathBuf,
}

impl Catalog {
    /// Opens the catalog at `path`, which must exist and have this program's schema.
    pub fn open(path: &Path) -> Result<Self> {
        let catalog = Self::connect(path, OpenFlags::empty())?;
        schema::check(&catalog.connection)?;
        Ok(catalog)
    }

    /// The schema of the catalog at `path`, if it is an older one; refuses what is newer or not ours.
    pub fn outdated(path: &Path) -> Result<Option<u32>> {
        match Self::connect(path, OpenFlags::empty()) {
            Err(Error::Missing(_)) => Ok(None),
            Err(error) => Err(error),
            Ok(catalog) => {
                let found = schema::known(&catalog.connection)?;
                Ok((found > 0 && found < schema::CURRENT).then_some(found))
            }
        }
    }

    /// Copies the catalog at `path`, whatever its schema, to a new file.
    pub fn back_up(path: &Path, to: &Path) -> Result<()> {
        Self::connect(path, OpenFlags::empty())?.copy_to(to)
    }

    /// Creates the catalog at `path`, or opens it and brings it to this program's schema.
    pub fn create(path: &Path) -> Result<Self> {
        let mut catalog = Self::connect(path, OpenFlags::SQLITE_OPEN_CREATE)?;
        if schema::version(&catalog.connection)? < schema::CURRENT {
            schema::migrate(&mut catalog.connection)?;
            // Into the file itself: an older package looks there before it is put in this one's place.
            let whole = catalog.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            whole.during("writing its schema into the file")?;
        } else {
            schema::check(&catalog.connection)?;
        }
        Ok(catalog)
    }

    fn connect(path: &Path, more: OpenFlags) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|source| match source.sqlite_error_code() {
                Some(rusqlite::ErrorCode::CannotOpen) => Error::Missing(path.to_owned()),
                _ => Error::Sql { operation: "opening it", source },
            })?;
        connection.busy_timeout(BUSY).during("setting its time limit")?;
        // FULL: a committed step must survive a power cut, the fence above all.
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
                 PRAGMA trusted_schema = OFF; PRAGMA mmap_size = 0; PRAGMA cache_size = -8192;",
            )
            .during("setting it up")?;
        // A plan follows from its statement alone: none is made again because a bound value is another one.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).during("setting up how it plans")?;
        connection.set_prepared_statement_cache_capacity(128);
        Ok(Self { connection, path: path.to_owned() })
    }

    /// Copies the whole catalog, as it is now, to a new file.
    pub fn copy_to(&self, path: &Path) -> Result<()> {
        self.connection.execute("VACUUM INTO ?1", [path.to_string_lossy()]).during("copying it")?;
        let copy = Connection::open(path).during("opening its copy")?;
        copy.pragma_update(None, "journal_mode", "WAL").during("setting its copy up")
    }

    /// A second connection to the same catalog.
    pub fn reopen(&self) -> Result<Self> {
        Self::open(&self.path)
    }

    /// One consistent view for several reads.
    pub fn read<T>(&mut self, read: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Deferred).during("beginning to read")?;
        let value = read(&transaction)?;
        transaction.finish().during("ending a read")?;
        Ok(value)
    }

    /// One write transaction: all of it is durable when this returns `Ok`, none of it otherwise.
    pub fn write<T>(&mut self, write: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).during("beginning to write")?;
        let value = write(&transaction)?;
        transaction.commit().during("committing")?;
        Ok(value)
    }

    /// A number that moves whenever another connection has committed: microseconds to ask.
    pub fn data_version(&self) -> Result<i64> {
        self.connection.pragma_query_value(None, "data_version", |row| row.get(0)).during("asking for changes")
    }

    /// The connection, for statements outside a transaction.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Parses a text column, naming it when it is damaged.
pub(crate) fn parsed<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|why: T::Err| Error::Damaged { what, why: why.to_string() })
}

/// Reads a JSON column, naming it when it is damaged.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|why| Error::Damaged { what, why: why.to_string() })
}

/// Writes a JSON column.
pub(crate) fn to_json<T: serde::Serialize>(what: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|why| Error::Damaged { what, why: why.to_string() })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Missing(path) => Self::new(
                Exit::NotABucket,
                Diagnostic::new(Code::NotABucket, "this directory is not a bucket")
                    .note(format!("there is no catalog at {}", path.display()))
                    .remedy("run maand init here, or name the bucket with -C DIR or MAAND_BUCKET"),
            ),
            Error::Older { .. } => Self::new(
                Exit::NotABucket,
                Diagnostic::new(Code::SchemaOlder, error.to_string()).remedy("run maand init: it upgrades the catalog"),
            ),
            Error::Newer { .. } => Self::new(
                Exit::NotABucket,
                Diagnostic::new(Code::SchemaNewer, error.to_string())
                    .remedy("use the maand that made it, or a newer one"),
            ),
            Error::Foreign => Self::new(
                Exit::NotABucket,
                Diagnostic::new(Code::NotABucket, error.to_string()).remedy(
                    "move data/ away and run maand init, then build: the workspace and secrets/ stay as they are",
                ),
            ),
            Error::Sql { .. } => {
                Self::new(Exit::Failed, Diagnostic::new(Code::Storage, "the catalog cannot be used").cause(&error))
            }
            Error::Damaged { .. } => Self::new(
                Exit::Failed,
                Diagnostic::new(Code::Storage, "the catalog cannot be used")
                    .cause(&error)
                    .remedy("restore the last backup of data/maand.db"),
            ),
        }
    }
}
