//! Edge: the catalog's schema, by version. Migrations are embedded; all that a catalog lacks are one transaction.

use rusqlite::{Connection, TransactionBehavior};

use super::{During, Error, Result};

/// One script per version, from 1 on. A released script is never edited.
pub const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001.sql"),
    include_str!("../../migrations/0002.sql"),
    include_str!("../../migrations/0003.sql"),
    include_str!("../../migrations/0004.sql"),
    include_str!("../../migrations/0005.sql"),
    include_str!("../../migrations/0006.sql"),
    include_str!("../../migrations/0007.sql"),
    include_str!("../../migrations/0008.sql"),
    include_str!("../../migrations/0009.sql"),
];

/// The schema that this program reads and writes.
pub const CURRENT: u32 = MIGRATIONS.len() as u32;

/// The schema of an open database; 0 when it is empty.
pub fn version(connection: &Connection) -> Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).during("reading its schema version")
}

/// The schema of an open database that is ours and not newer than this program; 0 when it is empty.
pub fn known(connection: &Connection) -> Result<u32> {
    let found = version(connection)?;
    if found > CURRENT {
        return Err(Error::Newer { found, known: CURRENT });
    }
    let tables: u32 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .during("looking at what is in it")?;
    if found == 0 && tables > 0 { Err(Error::Foreign) } else { Ok(found) }
}

/// Refuses a catalog of another version.
pub fn check(connection: &Connection) -> Result<()> {
    match known(connection)? {
        CURRENT => Ok(()),
        found => Err(Error::Older { found, needed: CURRENT }),
    }
}

/// Brings a catalog to [`CURRENT`]; a newer one is refused, untouched. Cut off at any point, it is what it was or what
/// it is to be: a copy that was made of it before is a copy of what is there.
pub fn migrate(connection: &mut Connection) -> Result<()> {
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).during("beginning a migration")?;
    // Looked at in here: another process may have been sooner.
    let found = known(&transaction)?;
    for script in MIGRATIONS.iter().skip(found as usize) {
        transaction.execute_batch(script).during("migrating it")?;
    }
    transaction.pragma_update(None, "user_version", CURRENT).during("recording its schema version")?;
    transaction.commit().during("committing a migration")
}
