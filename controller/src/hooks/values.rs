//! Edge: key-values as one hook sees them: the overlay of its step over the catalog.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use shared::diagnostic::chain;
use thiserror::Error;
use zeroize::Zeroizing;

use super::output::Line;
use super::overlay::{Change, Full, Overlay};
use crate::catalog::{self, Catalog, kv};
use crate::model::Redactor;
use crate::model::kv::Namespace;
use crate::secrets::{self, SealingKey};

/// Why a key-value could not be read or written.
#[derive(Debug, Error)]
pub(super) enum Error {
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    /// Sealing or opening.
    #[error("the value cannot be opened or sealed: {}", chain(.0))]
    Secrets(#[from] secrets::Error),
    /// The overlay.
    #[error("this hook has written more than {} keys", super::overlay::MAX_WRITES)]
    Full,
}

impl From<Full> for Error {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

/// The catalog of a runner, and the key that seals.
#[derive(Debug)]
pub(super) struct Values {
    catalog: Mutex<Catalog>,
    key: Arc<SealingKey>,
    known: secrets::Known,
}

impl Values {
    pub(super) fn new(catalog: Catalog, key: Arc<SealingKey>) -> Self {
        Self { catalog: Mutex::new(catalog), key, known: secrets::Known::default() }
    }

    /// Reads rows.
    pub(super) fn read<T>(&self, read: impl FnOnce(&rusqlite::Connection) -> catalog::Result<T>) -> catalog::Result<T> {
        let mut catalog = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        catalog.read(|tx| read(tx))
    }

    /// A live value, secrets in clear.
    pub(super) fn get(
        &self,
        over: &Overlay,
        namespace: &Namespace,
        key: &str,
    ) -> Result<Option<Zeroizing<String>>, Error> {
        let name = namespace.to_string();
        match over.get(namespace, key) {
            Some(Change::Delete) => Ok(None),
            Some(Change::Value(value)) => Ok(Some(Zeroizing::new(value))),
            Some(Change::Secret(stored)) => Ok(Some(self.key.open_value(&name, key, &stored)?)),
            None => {
                let found = self.read(|tx| match kv::get(tx, &name, key)? {
                    None => Ok(None),
                    Some(row) => kv::resolve(tx, &row).map(|value| Some((row.is_sealed(), value))),
                })?;
                match found {
                    None => Ok(None),
                    Some((true, stored)) => Ok(Some(self.key.open_value(&name, key, &stored)?)),
                    Some((false, value)) => Ok(Some(Zeroizing::new(value))),
                }
            }
        }
    }

    /// What a hook printed, without the secrets of the bucket and those that it wrote itself just now.
    pub(super) fn redacted(&self, over: &Overlay, lines: &[Line]) -> Vec<Line> {
        let known = {
            let catalog = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
            self.known.redactor(catalog.connection(), &self.key)
        };
        let new: Vec<_> = over.secrets();
        let open =
            |(at, key, stored): &(Namespace, String, String)| self.key.open_value(&at.to_string(), key, stored).ok();
        let new: Vec<_> = new.iter().filter_map(open).collect();
        let new = Redactor::new(new.iter().map(|value| value.as_str()));
        lines.iter().map(|(stderr, line)| (*stderr, known.text(&new.text(line)).into_owned())).collect()
    }

    /// The live keys of a namespace.
    pub(super) fn keys(&self, over: &Overlay, namespace: &Namespace) -> Result<BTreeSet<String>, Error> {
        let rows = self.read(|tx| kv::rows(tx, &namespace.to_string()))?;
        let mut keys: BTreeSet<String> = rows.into_values().filter(|row| !row.deleted).map(|row| row.key).collect();
        for (key, change) in over.of(namespace) {
            match change {
                Change::Delete => drop(keys.remove(&key)),
                Change::Value(_) | Change::Secret(_) => drop(keys.insert(key)),
            }
        }
        Ok(keys)
    }

    /// Writes a value. What it is already is no write.
    pub(super) fn put(&self, over: &Overlay, namespace: Namespace, key: String, value: String) -> Result<(), Error> {
        if self.get(over, &namespace, &key)?.is_some_and(|known| *known == value) {
            return Ok(());
        }
        Ok(over.put(namespace, key, Change::Value(value))?)
    }

    /// Writes a secret. The same one again is no new version, though every sealing has other bytes.
    pub(super) fn put_secret(
        &self,
        over: &Overlay,
        namespace: Namespace,
        key: String,
        value: &str,
    ) -> Result<(), Error> {
        // One that does not open any more is written anew.
        let same = self.get(over, &namespace, &key).is_ok_and(|known| known.is_some_and(|known| *known == value));
        if same {
            return Ok(());
        }
        let stored = self.key.seal_value(&namespace.to_string(), &key, value)?;
        Ok(over.put(namespace, key, Change::Secret(stored))?)
    }

    /// Deletes a key; whether it was there.
    pub(super) fn delete(&self, over: &Overlay, namespace: Namespace, key: String) -> Result<bool, Error> {
        if !self.keys(over, &namespace)?.contains(&key) {
            return Ok(false);
        }
        over.put(namespace, key, Change::Delete)?;
        Ok(true)
    }
}
