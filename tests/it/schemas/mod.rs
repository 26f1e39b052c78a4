//! What an older version left, opened by this one: catalogs and ledgers of every schema that there was, made by the
//! migrations that were released, with rows in every table. The lists of migrations drive these tests: a new one is
//! covered by being in them.

mod fleet;
mod killed;
mod tables;

use std::path::{Path, PathBuf};

use agent::state::ledger;
use controller::catalog::schema;
use rusqlite::Connection;

/// A database of ours and its history.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    migrations: &'static [&'static str],
}

const CATALOG: Kind = Kind { name: "catalog", migrations: schema::MIGRATIONS };
const LEDGER: Kind = Kind { name: "ledger", migrations: ledger::MIGRATIONS };

impl Kind {
    fn current(self) -> u32 {
        u32::try_from(self.migrations.len()).unwrap()
    }

    /// An empty one of an older schema at `path`, in place of what is there.
    fn old(self, version: u32, path: &Path) -> Connection {
        for end in ["", "-wal", "-shm"] {
            drop(std::fs::remove_file(beside(path, end)));
        }
        let made = Connection::open(path).unwrap();
        made.execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = OFF").unwrap();
        self.migrations[..version as usize].iter().for_each(|script| made.execute_batch(script).unwrap());
        made.pragma_update(None, "user_version", version).unwrap();
        made
    }

    /// What `path` has, as an older version would have had it: the columns that there were then. Its rows stay
    /// what they are, so that what is read from them afterwards can be compared.
    fn as_of(self, version: u32, path: &Path) {
        let now = beside(path, ".now");
        let copy = Connection::open(path).unwrap();
        copy.execute("VACUUM INTO ?1", [now.to_str().unwrap()]).unwrap();
        drop(copy);
        let old = self.old(version, path);
        old.execute("ATTACH ?1 AS now", [now.to_str().unwrap()]).unwrap();
        for table in tables(&old) {
            let there = columns(&old, "now", &table);
            let both: Vec<_> = columns(&old, "main", &table).into_iter().filter(|name| there.contains(name)).collect();
            let both = both.join(", ");
            old.execute_batch(&format!(
                "DELETE FROM main.{table}; INSERT INTO main.{table} ({both}) SELECT {both} FROM now.{table}"
            ))
            .unwrap();
        }
        drop(old);
        std::fs::remove_file(now).unwrap();
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn version(path: &Path) -> u32 {
    Connection::open(path).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

/// Names of the tables, those of SQLite itself left out.
fn tables(of: &Connection) -> Vec<String> {
    let mut select =
        of.prepare("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1");
    let select = select.as_mut().unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn columns(of: &Connection, schema: &str, table: &str) -> Vec<String> {
    let mut select = of.prepare(&format!("PRAGMA {schema}.table_info({table})")).unwrap();
    select.query_map([], |row| row.get(1)).unwrap().map(Result::unwrap).collect()
}
