//! Edge: what hooks wrote and nobody committed yet, over the catalog. A step has one overlay; each hook of
//! it writes to a child of that, which is taken over when all of its processes succeeded and forgotten
//! otherwise. A dry run never drains its overlay, and so changes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use shared::diagnostic::chain;

use crate::catalog::{self, kv};
use crate::model::kv::{Keys, Namespace, Source, Value};
use crate::secrets::SealingKey;

/// Keys that one overlay may hold: a hook in a loop must not fill the memory.
pub const MAX_WRITES: usize = 10_000;

/// What becomes of a key.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// A value in clear.
    Value(String),
    /// A secret in its stored form: it opens at this key alone.
    Secret(String),
    /// It is gone.
    Delete,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values stay out of logs.
        f.write_str(match self {
            Self::Value(_) => "Value",
            Self::Secret(_) => "Secret",
            Self::Delete => "Delete",
        })
    }
}

/// One key that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub key: String,
    /// How.
    pub change: Change,
}

/// More keys than an overlay may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Writes that are not in the catalog yet.
#[derive(Debug, Default)]
pub struct Overlay {
    base: Option<Arc<Overlay>>,
    writes: Mutex<BTreeMap<(Namespace, String), Change>>,
}

impl Overlay {
    /// An empty one, for one step.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// For one hook of the step.
    pub fn child(self: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self { base: Some(self.clone()), writes: Mutex::default() })
    }

    /// What is to become of a key, here or below; `None` when nobody wrote it.
    pub fn get(&self, namespace: &Namespace, key: &str) -> Option<Change> {
        let own = self.lock().get(&(namespace.clone(), key.to_owned())).cloned();
        own.or_else(|| self.base.as_ref()?.get(namespace, key))
    }

    /// The keys of a namespace that somebody wrote, here or below.
    pub fn of(&self, namespace: &Namespace) -> BTreeMap<String, Change> {
        let mut all = self.base.as_ref().map(|base| base.of(namespace)).unwrap_or_default();
        let own = self.lock();
        let from = (namespace.clone(), String::new());
        let own = own.range(from..).take_while(|((of, _), _)| of == namespace);
        all.extend(own.map(|((_, key), change)| (key.clone(), change.clone())));
        all
    }

    /// The secrets that somebody wrote, here or below, in their stored form.
    pub(super) fn secrets(&self) -> Vec<(Namespace, String, String)> {
        let mut all = self.base.as_ref().map(|base| base.secrets()).unwrap_or_default();
        let secret = |((namespace, key), change): (&(Namespace, String), &Change)| match change {
            Change::Secret(stored) => Some((namespace.clone(), key.clone(), stored.clone())),
            Change::Value(_) | Change::Delete => None,
        };
        all.extend(self.lock().iter().filter_map(secret));
        all
    }

    /// Writes a key.
    pub(super) fn put(&self, namespace: Namespace, key: String, change: Change) -> Result<(), Full> {
        let mut writes = self.lock();
        let at = (namespace, key);
        if writes.len() >= MAX_WRITES && !writes.contains_key(&at) {
            return Err(Full);
        }
        writes.insert(at, change);
        Ok(())
    }

    /// Takes over what a hook that succeeded wrote.
    pub fn adopt(&self, child: &Self) {
        let written = std::mem::take(&mut *child.lock());
        self.lock().extend(written);
    }

    /// Takes everything out, to be committed with [`commit`] in the transaction of the step.
    pub fn drain(&self) -> Vec<Write> {
        let writes = std::mem::take(&mut *self.lock());
        writes.into_iter().map(|((namespace, key), change)| Write { namespace, key, change }).collect()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Namespace, String), Change>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what an overlay held into the catalog. To be called inside a write transaction.
pub fn commit(connection: &Connection, writes: &[Write], now_ms: i64) -> catalog::Result<()> {
    for Write { namespace, key, change } in writes {
        let name = namespace.to_string();
        match change {
            Change::Value(value) | Change::Secret(value) => kv::put(connection, &name, key, value, now_ms)?,
            Change::Delete if kv::get(connection, &name, key)?.is_some() => {
                kv::delete(connection, &name, key, now_ms)?;
            }
            Change::Delete => {}
        }
        if matches!(namespace, Namespace::Job(_) | Namespace::JobVars(_)) {
            // The workspace has a say there: the next build is to notice that it is not as it left it.
            kv::set_scope(connection, &name, Some(&[0; 32]))?;
        }
    }
    Ok(())
}

/// A source of values with an overlay over it: what templates see while a step is not committed.
pub struct Layered {
    /// What lies over.
    pub overlay: Arc<Overlay>,
    /// What lies under.
    pub source: Arc<dyn Source>,
    /// Opens what hooks sealed.
    pub key: Arc<SealingKey>,
}

impl fmt::Debug for Layered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layered").field("overlay", &self.overlay).finish_non_exhaustive()
    }
}

impl Source for Layered {
    fn keys(&self, namespace: &Namespace) -> Result<Arc<Keys>, String> {
        let under = self.source.keys(namespace)?;
        let over = self.overlay.of(namespace);
        if over.is_empty() {
            return Ok(under);
        }
        let mut keys = Keys::clone(&under);
        for (key, change) in over {
            match change {
                Change::Delete => drop(keys.remove(&key)),
                Change::Value(text) => drop(keys.insert(key, Value::plain(text))),
                Change::Secret(stored) => {
                    let opened = self.key.open_value(&namespace.to_string(), &key, &stored);
                    let text = opened.map_err(|error| format!("{key} in {namespace}: {}", chain(&error)))?.to_string();
                    keys.insert(key, Value { text, secret: true });
                }
            }
        }
        Ok(Arc::new(keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;

    #[test]
    fn a_child_is_taken_over_or_forgotten() {
        let vars: Namespace = "vars/job/api".parse().unwrap();
        let step = Overlay::new();
        let value = |text: &str| Change::Value(text.into());
        step.put(vars.clone(), "a".into(), value("1")).unwrap();
        let failed = step.child();
        failed.put(vars.clone(), "a".into(), value("lost")).unwrap();
        assert_eq!(failed.get(&vars, "a"), Some(value("lost")));
        drop(failed);
        let good = step.child();
        assert_eq!(good.get(&vars, "a"), Some(value("1")), "what an earlier hook of the step wrote is seen");
        good.put(vars.clone(), "b".into(), Change::Delete).unwrap();
        assert_eq!(good.of(&vars).len(), 2);
        step.adopt(&good);
        let keys: Vec<String> = step.drain().into_iter().map(|write| write.key).collect();
        assert_eq!(keys, ["a", "b"]);
        assert!(step.is_empty());
        for n in 0..MAX_WRITES {
            step.put(vars.clone(), n.to_string(), Change::Delete).unwrap();
        }
        assert_eq!(step.put(vars.clone(), "one more".into(), Change::Delete), Err(Full));
        assert_eq!(step.put(vars, "7".into(), value("again")), Ok(()));
    }

    #[test]
    fn a_commit_writes_versions_and_only_what_changes() {
        let dir = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::create(&dir.path().join("maand.db")).unwrap();
        let write = |key: &str, change| Write { namespace: "vars/job/api".parse().unwrap(), key: key.into(), change };
        let mut at = 0;
        let mut done = |writes: &[Write]| {
            at += 1;
            catalog.write(|tx| commit(tx, writes, at)).unwrap();
            let rows = kv::rows(catalog.connection(), "vars/job/api").unwrap();
            rows.into_values().map(|row| (row.key, row.version, row.deleted)).collect::<Vec<_>>()
        };
        let (put, delete) = (write("a", Change::Value("1".into())), write("a", Change::Delete));
        assert_eq!(done(std::slice::from_ref(&put)), [("a".into(), 1, false)]);
        assert_eq!(done(std::slice::from_ref(&put)), [("a".into(), 1, false)], "the same value is no new version");
        assert_eq!(done(std::slice::from_ref(&delete)), [("a".into(), 2, true)]);
        assert_eq!(done(&[delete, write("never", Change::Delete)]), [("a".into(), 2, true)]);
        assert_eq!(done(&[put]), [("a".into(), 3, false)]);
    }
}
