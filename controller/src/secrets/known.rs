//! The bucket's secrets and the keys of its certificates, opened once and again when one changes: what [`Redactor`] takes out of output.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

use super::SealingKey;
use crate::catalog::certificates;
use crate::catalog::kv::{self, Stamp};
use crate::model::Redactor;

/// Remembers what it has read.
#[derive(Debug, Default)]
pub struct Known(Mutex<Option<Held>>);

#[derive(Debug)]
struct Held {
    /// Of the database as this connection saw it.
    version: i64,
    stamp: Stamp,
    redactor: Arc<Redactor>,
}

impl Known {
    /// A redactor of every secret of every job and the key of every certificate, older values that are still kept included: a job may go on
    /// with one until it is started anew. Always to be asked with the same connection.
    pub fn redactor(&self, connection: &Connection, key: &SealingKey) -> Arc<Redactor> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match read(connection, key, held.take()) {
            Ok(fresh) => {
                let redactor = fresh.redactor.clone();
                *held = Some(fresh);
                redactor
            }
            Err(error) => {
                tracing::error!(error = shared::diagnostic::chain(&error), "secrets_unreadable");
                Arc::new(Redactor::everything())
            }
        }
    }
}

fn read(connection: &Connection, key: &SealingKey, held: Option<Held>) -> crate::catalog::Result<Held> {
    let version = kv::data_version(connection)?;
    if let Some(held) = held.as_ref().filter(|held| held.version == version) {
        return Ok(Held { version, stamp: held.stamp, redactor: held.redactor.clone() });
    }
    let stamp = kv::secrets_stamp(connection)?;
    if let Some(held) = held.filter(|held| held.stamp == stamp) {
        return Ok(Held { version, ..held });
    }
    let mut sealed = kv::secrets(connection)?;
    sealed.extend(certificates::sealed_keys(connection)?);
    // One that does not open was altered, and is nobody's secret any more.
    let open = |(namespace, name, stored): &(String, String, String)| key.open_value(namespace, name, stored).ok();
    let values: Vec<_> = sealed.iter().filter_map(open).collect();
    let redactor = Arc::new(Redactor::new(values.iter().map(|value| value.as_str())));
    Ok(Held { version, stamp, redactor })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;

    #[test]
    fn a_secret_is_known_from_its_commit_on_and_its_older_values_are_too() {
        let dir = tempfile::tempdir().unwrap();
        SealingKey::create(&dir.path().join("kv.key")).unwrap();
        let key = SealingKey::load(&dir.path().join("kv.key")).unwrap();
        let mut writer = Catalog::create(&dir.path().join("maand.db")).unwrap();
        let reader = writer.reopen().unwrap();
        let known = Known::default();
        let shown = |text: &str| known.redactor(reader.connection(), &key).text(text).into_owned();
        let mut put = |name: &str, value: &str, now| {
            let stored = key.seal_value("secrets/job/api", name, value).unwrap();
            writer.write(|tx| kv::put(tx, "secrets/job/api", name, &stored, now)).unwrap();
        };
        assert_eq!(shown("first-value"), "first-value");
        put("password", "first-value", 1);
        assert_eq!(shown("first-value second-value"), "[secret] second-value");
        put("password", "second-value", 2);
        put("other", "third-value", 2);
        assert_eq!(shown("first-value second-value third-value"), "[secret] [secret] [secret]");
        writer.write(|tx| kv::put(tx, "vars/job/api", "name", "plain-value", 3)).unwrap();
        assert_eq!(shown("plain-value third-value"), "plain-value [secret]");
    }
}
