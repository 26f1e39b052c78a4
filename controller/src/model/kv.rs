//! Key-values: namespaces, and who may read which (`spec/behaviour.md` 3.4 and 6.3).

use std::collections::BTreeMap;

use shared::{Host, JobName};

/// Everything that is live, by namespace and key.
pub type Values = BTreeMap<String, BTreeMap<String, String>>;

/// Whether a template of `job` on `host` may read `namespace`.
pub fn template_may_read(namespace: &str, job: &JobName, host: &Host) -> bool {
    matches!(namespace, "maand/bucket" | "vars/bucket" | "maand/worker")
        || namespace == format!("maand/worker/{host}")
        || namespace == format!("maand/worker/{host}/tags")
        || namespace == format!("maand/job/{job}")
        || namespace == format!("vars/job/{job}")
        || namespace == format!("maand/job/{job}/worker/{host}")
}

/// How a build owns a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Keys that are not made now are deleted.
    Full,
    /// Keys are only added and changed: others write here too.
    Merge,
}

/// What a build makes of the key-values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// Namespaces with how they are owned and their keys.
    pub namespaces: BTreeMap<String, (bool, BTreeMap<String, String>)>,
}

impl Made {
    /// The keys of a namespace, to fill.
    pub fn namespace(&mut self, name: impl Into<String>, sync: Sync) -> &mut BTreeMap<String, String> {
        let entry = self.namespaces.entry(name.into()).or_insert_with(|| (sync == Sync::Full, BTreeMap::new()));
        &mut entry.1
    }

    /// What is live once this is written over `before`.
    pub fn over(&self, before: &Values) -> Values {
        let mut after = before.clone();
        for (name, (full, keys)) in &self.namespaces {
            let namespace = after.entry(name.clone()).or_default();
            if *full {
                namespace.clear();
            }
            namespace.extend(keys.iter().map(|(key, value)| (key.clone(), value.trim().to_owned())));
        }
        // A worker or job that is gone has nothing live but what hooks and operators wrote.
        for (name, keys) in &mut after {
            if name.starts_with("maand/") && !self.namespaces.contains_key(name) {
                keys.clear();
            }
        }
        after.retain(|_, keys| !keys.is_empty());
        after
    }
}
