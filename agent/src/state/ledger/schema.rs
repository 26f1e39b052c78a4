//! The ledger's tables, and how one of an older agent is brought to them.

use rusqlite::Connection;
use shared::{Code, Diagnostic};

use super::state_problem;
use crate::state::layout::Layout;

/// One script per version, from 1 on. A released script is never edited.
pub const MIGRATIONS: &[&str] = &[TABLES, SECOND, THIRD, FOURTH];

/// The ledger's schema; a newer one is refused.
pub const SCHEMA: u32 = MIGRATIONS.len() as u32;

const TABLES: &str = "
CREATE TABLE agent (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  session INTEGER NOT NULL,
  epoch INTEGER, update_seq INTEGER, generation INTEGER,
  payload BLOB, payload_hash BLOB
) STRICT;
INSERT INTO agent (id, session) VALUES (1, 0);
CREATE TABLE allocation (
  alloc_id TEXT PRIMARY KEY,
  job TEXT NOT NULL,
  bundle TEXT,            -- whose files are all in place
  applying TEXT,          -- whose files are being put in place; forward only
  list TEXT NOT NULL,     -- JSON: the list of what is, or may be, in place
  applied_ms INTEGER NOT NULL DEFAULT 0,
  process TEXT NOT NULL,
  action TEXT,            -- JSON of ObservedAction, the last one taken up
  running TEXT,           -- JSON of Running, while a make target may run
  drift TEXT NOT NULL DEFAULT '[]',
  unmanaged TEXT NOT NULL DEFAULT '[]'
) STRICT;
";

/// What the second schema adds.
const SECOND: &str = "
CREATE TABLE operation (
  operation_id TEXT PRIMARY KEY,
  asked TEXT NOT NULL,    -- JSON of Operation, a script's text left out
  observed TEXT NOT NULL  -- JSON of ObservedOperation; written before it begins
) STRICT;
-- The version last put in place or acted on; whether the whole tree was removed.
ALTER TABLE allocation ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE allocation ADD COLUMN purged INTEGER NOT NULL DEFAULT 0;
";

/// What the third schema adds.
const THIRD: &str = "
-- JSON: what lists before `list` had otherwise, and may still be in place while that is being changed.
ALTER TABLE allocation ADD COLUMN leaving TEXT NOT NULL DEFAULT '[]';
";

/// What the fourth schema adds.
const FOURTH: &str = "
-- The boot that the agent last saw.
ALTER TABLE agent ADD COLUMN boot_id TEXT;
ALTER TABLE allocation ADD COLUMN boot TEXT;   -- JSON of ObservedBoot, of this boot
ALTER TABLE allocation ADD COLUMN heals TEXT NOT NULL DEFAULT '[]'; -- JSON: what was put back, and how often
";

/// Brings the ledger to this program's schema: one transaction, so that it is never between two.
pub(super) fn migrate(connection: &Connection, layout: &Layout) -> Result<(), Diagnostic> {
    let failed = |error: &dyn std::error::Error| state_problem(layout).cause(error);
    match found(connection).map_err(|error| failed(&error))? {
        SCHEMA => {}
        older @ 0..SCHEMA => {
            let steps = MIGRATIONS.iter().copied().skip(older as usize).collect::<String>();
            let script = format!("BEGIN; {steps} PRAGMA user_version = {SCHEMA}; COMMIT;");
            connection.execute_batch(&script).map_err(|error| failed(&error))?;
            // Into the file itself: an older package looks there before it is put in this one's place.
            let whole = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            whole.map_err(|error| failed(&error))?;
        }
        other => return Err(another(layout, other)),
    }
    Ok(())
}

/// Refuses one of another schema: who only looks brings nothing up to date.
pub(super) fn check(connection: &Connection, layout: &Layout) -> Result<(), Diagnostic> {
    match found(connection).map_err(|error| state_problem(layout).cause(&error))? {
        SCHEMA => Ok(()),
        other => Err(another(layout, other)),
    }
}

fn found(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn another(layout: &Layout, found: u32) -> Diagnostic {
    if found < SCHEMA {
        let schemas = match found {
            // It has its tables and its schema in one transaction.
            0 => "there is nothing in it: maand-agent was ended while it made it".to_owned(),
            _ => format!("an older maand-agent wrote it: its schema is {found}, this program knows {SCHEMA}"),
        };
        let problem = state_problem(layout).note(schemas);
        return problem.remedy("start the agent anew, which brings it up to date: systemctl restart maand-agent");
    }
    Diagnostic::new(Code::LedgerNewer, "a newer maand-agent wrote this machine's ledger")
        .at(layout.ledger().display())
        .note(format!("its schema is {found}, this program knows {SCHEMA}; it is untouched"))
        .remedy("install the maand-agent that wrote it, or a newer one; what runs goes on")
}

#[cfg(test)]
mod tests {
    use shared::{AllocId, BucketId};

    use super::*;
    use crate::reconcile::Row;
    use crate::state::durable::private_dir;
    use crate::state::ledger::Ledger;

    #[test]
    fn one_of_the_first_schema_is_brought_to_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), BucketId::from_uuid(uuid::Uuid::from_u128(1)));
        private_dir(&layout.own()).unwrap();
        let first = TABLES.lines().filter(|line| !line.starts_with("  version") && !line.starts_with("  purged"));
        let first = first.collect::<Vec<_>>().join("\n").replace("DEFAULT '[]',\n)", "DEFAULT '[]'\n)");
        let made = Connection::open(layout.ledger()).unwrap();
        made.execute_batch(&format!("{first} PRAGMA user_version = 1;")).unwrap();
        drop(made);
        let (ledger, _) = Ledger::open(&layout).unwrap();
        let alloc = AllocId::from_uuid(uuid::Uuid::from_u128(2));
        let row = Row { version: "1.0.0".into(), purged: true, ..Row::new(alloc, "api".parse().unwrap()) };
        ledger.save(&row).unwrap();
        assert_eq!(ledger.row(alloc).unwrap(), Some(row));
    }

    #[test]
    fn whoever_only_looks_at_one_of_another_schema_hears_which() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), BucketId::from_uuid(uuid::Uuid::from_u128(1)));
        drop(Ledger::open(&layout).unwrap());
        for (schema, word) in [(SCHEMA - 1, "an older maand-agent"), (SCHEMA + 1, "a newer maand-agent")] {
            Connection::open(layout.ledger()).unwrap().pragma_update(None, "user_version", schema).unwrap();
            let problem = Ledger::view(&layout).unwrap_err().to_string();
            assert!(problem.contains(word) && problem.contains(&format!("schema is {schema}")), "{problem}");
        }
        std::fs::remove_file(layout.ledger()).unwrap();
        std::fs::write(layout.ledger(), "").unwrap();
        let problem = Ledger::view(&layout).unwrap_err().to_string();
        assert!(problem.contains("there is nothing in it") && problem.contains("start the agent anew"), "{problem}");
    }

    #[test]
    fn a_newer_ledger_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), BucketId::from_uuid(uuid::Uuid::from_u128(1)));
        drop(Ledger::open(&layout).unwrap());
        Connection::open(layout.ledger()).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let problem = Ledger::open(&layout).unwrap_err();
        assert!(problem.to_string().contains("schema is 99"), "{problem}");
    }
}
