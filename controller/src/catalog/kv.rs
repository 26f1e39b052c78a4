//! Edge: key-values with their history.

use rusqlite::{Connection, params};

use super::{During, Result};
use crate::model::kv::Values;

/// Everything that is live.
pub fn live(connection: &Connection) -> Result<Values> {
    let mut select = connection
        .prepare_cached(
            "SELECT namespace, key, value, deleted, max(version) FROM key_value GROUP BY namespace, key ORDER BY namespace, key",
        )
        .during("reading key-values")?;
    let mut rows = select.query([]).during("reading key-values")?;
    let mut values = Values::new();
    while let Some(row) = rows.next().during("reading key-values")? {
        let read = || -> rusqlite::Result<(String, String, String, bool)> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        };
        let (namespace, key, value, deleted) = read().during("reading a key-value")?;
        if !deleted {
            values.entry(namespace).or_default().insert(key, value);
        }
    }
    Ok(values)
}

/// Writes what a build made: a new version for what changed, a tombstone for what is gone.
pub fn write(connection: &Connection, before: &Values, after: &Values, now_ms: i64) -> Result<()> {
    let mut insert = connection
        .prepare_cached(
            "INSERT INTO key_value (namespace, key, version, value, created_at, deleted) VALUES (?1, ?2, \
             (SELECT coalesce(max(version), 0) + 1 FROM key_value WHERE namespace = ?1 AND key = ?2), ?3, ?4, ?5)",
        )
        .during("writing key-values")?;
    for (namespace, keys) in after {
        for (key, value) in keys {
            if before.get(namespace).and_then(|old| old.get(key)) != Some(value) {
                insert.execute(params![namespace, key, value, now_ms, false]).during("writing a key-value")?;
            }
        }
    }
    for (namespace, keys) in before {
        for key in keys.keys() {
            if !after.get(namespace).is_some_and(|new| new.contains_key(key)) {
                insert.execute(params![namespace, key, "", now_ms, true]).during("deleting a key-value")?;
            }
        }
    }
    Ok(())
}
