//! Every row of every table, over every upgrade.

use std::collections::BTreeMap;
use std::path::Path;

use agent::state::layout::Layout;
use agent::state::ledger::Ledger;
use controller::catalog::Catalog;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use shared::BucketId;

use super::{CATALOG, Kind, LEDGER, beside, columns, tables, version};

/// A row, by the names of its columns.
type Row = BTreeMap<String, Value>;

/// Puts two rows into each table, with other content in each column, and what a migration looks for in some.
fn fill(made: &Connection) {
    for table in tables(made) {
        let mut select = made.prepare(&format!("PRAGMA table_info({table})")).unwrap();
        let typed = select.query_map([], |row| Ok((row.get::<_, String>(1)?, row.get::<_, String>(2)?)));
        let typed: Vec<(String, String)> = typed.unwrap().map(Result::unwrap).collect();
        // A table that may have one row alone says so by this name.
        let rows = if typed[0].0 == "id" { 1..2 } else { 1..3 };
        for n in rows {
            let value = |(at, (name, kind)): (usize, &(String, String))| match kind.as_str() {
                "INTEGER" if name == "id" => Value::Integer(1),
                "INTEGER" if name == "removed" || name == "disabled" || name == "purged" => Value::Integer(n % 2),
                "INTEGER" => Value::Integer(1000 * n + i64::try_from(at).unwrap()),
                "REAL" => Value::Real(n as f64 + 0.5),
                "BLOB" => Value::Blob(format!("{table}.{name}.{n}").into_bytes()),
                _ if table == "rollout" && name == "state" => Value::Text(["running", "done"][n as usize - 1].into()),
                _ => Value::Text(format!("{table}.{name}.{n}")),
            };
            let values: Vec<_> = typed.iter().enumerate().map(value).collect();
            let places = vec!["?"; typed.len()].join(", ");
            made.execute(&format!("INSERT OR REPLACE INTO {table} VALUES ({places})"), params_from_iter(values))
                .unwrap_or_else(|error| panic!("{table}: {error}"));
        }
    }
}

/// All that is in it: of each table the named columns, or all.
fn content(path: &Path, only: Option<&BTreeMap<String, Vec<String>>>) -> BTreeMap<String, Vec<Row>> {
    let opened = Connection::open(path).unwrap();
    let named = match only {
        Some(named) => named.clone(),
        None => tables(&opened).into_iter().map(|table| (table.clone(), columns(&opened, "main", &table))).collect(),
    };
    let rows = |(table, names): (String, Vec<String>)| {
        let list = names.join(", ");
        let mut select = opened.prepare(&format!("SELECT {list} FROM {table} ORDER BY {list}")).unwrap();
        let row = |row: &rusqlite::Row<'_>| {
            names
                .iter()
                .enumerate()
                .map(|(at, name)| Ok((name.clone(), row.get(at)?)))
                .collect::<rusqlite::Result<Row>>()
        };
        let found = select.query_map([], row).unwrap().map(Result::unwrap).collect();
        (table, found)
    };
    named.into_iter().map(rows).collect()
}

/// What an upgrade from `version` is meant to change in rows that are there; everything else stays as it is.
fn meant(kind: Kind, version: u32, rows: &mut BTreeMap<String, Vec<Row>>) {
    if kind.name == "catalog" && version < 3 {
        // Migration 3: a rollout of the first form that is open cannot be gone on with, and says so.
        rows.get_mut("rollout_job").unwrap().clear();
        for row in rows.get_mut("rollout").unwrap() {
            row.entry("state".into()).and_modify(|state| {
                if *state == Value::Text("running".into()) {
                    *state = Value::Text("aborted".into());
                }
            });
        }
        rows.get_mut("rollout").unwrap().sort_by_key(|row| format!("{:?}", row["run_id"]));
    }
}

fn over_every_upgrade(kind: Kind, path: &Path, open: &dyn Fn()) {
    for from in 1..kind.current() {
        let made = kind.old(from, path);
        fill(&made);
        let filled = tables(&made).len();
        drop(made);
        let before = content(path, None);
        let named =
            before.keys().map(|table| (table.clone(), columns(&Connection::open(path).unwrap(), "main", table)));
        let named: BTreeMap<String, Vec<String>> = named.collect();
        assert!(filled > 1 && before.values().all(|rows| !rows.is_empty()), "{} {from}", kind.name);
        open();
        assert_eq!(version(path), kind.current());
        let mut expected = before;
        meant(kind, from, &mut expected);
        let after = content(path, Some(&named));
        for (table, rows) in expected {
            let mut found = after[&table].clone();
            if kind.name == "ledger" && table == "agent" {
                // Opening it is a new session.
                found[0].insert("session".into(), rows[0]["session"].clone());
            }
            assert_eq!(found, rows, "{} of schema {from}: {table}", kind.name);
        }
        // What it has now is what a new one would have.
        let fresh = beside(path, ".fresh");
        let shape = |of: &Connection| -> BTreeMap<String, Vec<String>> {
            tables(of).into_iter().map(|table| (table.clone(), columns(of, "main", &table))).collect()
        };
        assert_eq!(shape(&Connection::open(path).unwrap()), shape(&kind.old(kind.current(), &fresh)));
    }
}

#[test]
fn every_older_catalog_keeps_every_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("maand.db");
    over_every_upgrade(CATALOG, &path, &|| drop(Catalog::create(&path).unwrap()));
}

#[test]
fn every_older_ledger_keeps_every_row() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path(), BucketId::from_uuid(uuid::Uuid::from_u128(1)));
    drop(Ledger::open(&layout).unwrap());
    over_every_upgrade(LEDGER, &layout.ledger(), &|| drop(Ledger::open(&layout).unwrap()));
}
