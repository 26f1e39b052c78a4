//! The functions of templates that read key-values, for one allocation: what it may not read is refused,
//! what was made of a secret is remembered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::{Environment, Error, ErrorKind};

use super::Scope;
use super::template::Context;
use crate::model::kv::{DEPLOY_ORDER, Lookup, Namespace, ROLLOUT_ORDER};

/// Marks of our own errors, which the library hands through as text.
pub(super) const MISSING: &str = "\u{1}missing";
pub(super) const FORBIDDEN: &str = "\u{1}forbidden";

/// The secrets that a template has read.
#[derive(Debug, Clone, Default)]
pub(super) struct Read(Arc<Mutex<Vec<String>>>);

impl Read {
    fn add(&self, secret: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(secret.to_owned());
    }

    /// Those since this was called last.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the functions of one allocation need, for as long as its environment lives.
#[derive(Clone)]
struct Reader {
    values: Arc<dyn Lookup>,
    scope: Arc<Scope>,
    read: Read,
    older: Arc<AtomicBool>,
}

impl Reader {
    fn namespace(&self, text: &str) -> Result<Namespace, Error> {
        let namespace = text.parse::<Namespace>().ok().filter(|namespace| self.scope.access().may_read(namespace));
        namespace.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("{FORBIDDEN} {text}")))
    }

    fn names(&self, namespace: &str) -> Result<Vec<String>, Error> {
        self.values.names(&self.namespace(namespace)?).map_err(unreadable)
    }

    fn get(&self, namespace: &str, key: &str, required: bool) -> Result<String, Error> {
        let older = key == DEPLOY_ORDER && matches!(namespace.parse(), Ok(Namespace::Job(_)));
        self.older.fetch_or(older, Ordering::Relaxed);
        let key = if older { ROLLOUT_ORDER } else { key };
        match self.values.get(&self.namespace(namespace)?, key).map_err(unreadable)? {
            Some(value) => {
                if value.secret {
                    self.read.add(&value.text);
                }
                Ok(value.text)
            }
            None if required => Err(Error::new(ErrorKind::InvalidOperation, format!("{MISSING} {namespace} {key}"))),
            None => Ok(String::new()),
        }
    }
}

/// Adds them. `read` gets the secrets that are read, and `older` is set when a key is by its older name.
pub(super) fn add(environment: &mut Environment<'static>, context: &Context<'_>, read: &Read, older: &Arc<AtomicBool>) {
    let (values, scope) = (context.values.clone(), context.scope.clone());
    let reader = Reader { values, scope, read: read.clone(), older: older.clone() };
    let get = reader.clone();
    environment.add_function("get", move |namespace: String, key: String| get.get(&namespace, &key, true));
    for name in ["get_optional", "getOptional"] {
        let get = reader.clone();
        environment.add_function(name, move |namespace: String, key: String| get.get(&namespace, &key, false));
    }
    for name in ["get_secret", "getSecret"] {
        let get = reader.clone();
        environment
            .add_function(name, move |key: String| get.get(&format!("secrets/job/{}", get.scope.job), &key, true));
    }
    environment.add_function("keys", move |namespace: String| reader.names(&namespace));
}

fn unreadable(why: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}
