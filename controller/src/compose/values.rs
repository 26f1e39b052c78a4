//! Where the templates of a build find their values: what build derives, what hooks stored, and the
//! certificates of the job that is being composed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use shared::diagnostic::chain;

use crate::build::namespaces::Derived;
use crate::catalog::kv::Row;
use crate::model::kv::{Keys, Namespace, Source, Value};
use crate::secrets::SealingKey;

/// How the keys of certificates begin.
pub(super) const CERTIFICATES: &str = "certs/";

/// Certificates of one job, PEM, by namespace.
pub(super) type Pems = BTreeMap<Namespace, Keys>;

/// Everything that is live.
pub struct Live {
    derived: Arc<Derived>,
    /// What hooks wrote, as stored.
    stored: BTreeMap<String, Vec<Row>>,
    key: Arc<SealingKey>,
    pems: Mutex<Arc<Pems>>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values stay out of logs.
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

impl Live {
    /// `stored` are the latest rows of variables and secrets.
    pub fn new(derived: Arc<Derived>, stored: Vec<Row>, key: Arc<SealingKey>) -> Self {
        let mut by_namespace: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for row in stored.into_iter().filter(|row| !row.deleted) {
            by_namespace.entry(row.namespace.clone()).or_default().push(row);
        }
        Self { derived, stored: by_namespace, key, pems: Mutex::default() }
    }

    /// The key that seals what is private.
    pub(super) fn key(&self) -> &SealingKey {
        &self.key
    }

    /// The certificates of the job that comes next.
    pub(super) fn set_pems(&self, pems: Pems) {
        *self.pems.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(pems);
    }

    fn opened(&self, row: &Row) -> Result<Value, String> {
        if !row.is_sealed() {
            return Ok(Value::plain(&row.value));
        }
        let opened = self.key.open_value(&row.namespace, &row.key, &row.value);
        let text = opened.map_err(|error| format!("{} in {}: {}", row.key, row.namespace, chain(&error)))?;
        Ok(Value { text: text.to_string(), secret: true })
    }

    fn pems(&self) -> Arc<Pems> {
        self.pems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source for Live {
    fn keys(&self, namespace: &Namespace) -> Result<Arc<Keys>, String> {
        let mut keys = self.derived.keys(namespace);
        match namespace {
            Namespace::JobVars(job) | Namespace::JobSecrets(job) => {
                for row in self.stored.get(&namespace.to_string()).into_iter().flatten() {
                    keys.insert(row.key.clone(), self.opened(row)?);
                }
                if matches!(namespace, Namespace::JobVars(_)) {
                    keys.extend(self.derived.variables(job));
                }
            }
            Namespace::Allocation(..) => keys.extend(self.pems().get(namespace).cloned().unwrap_or_default()),
            _ => {}
        }
        Ok(Arc::new(keys))
    }

    fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Value>, String> {
        match namespace {
            Namespace::JobVars(_) | Namespace::JobSecrets(_) => Ok(self.keys(namespace)?.get(key).cloned()),
            Namespace::Allocation(..) if key.starts_with(CERTIFICATES) => {
                Ok(self.pems().get(namespace).and_then(|keys| keys.get(key)).cloned())
            }
            _ => Ok(self.derived.get(namespace, key)),
        }
    }
}
