//! Edge: makes the bundles of one job anew while a deploy runs, because hooks have written what its
//! templates read. Everything else is as the last build left it: files, certificates, placement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use shared::diagnostic::chain;
use shared::{AllocId, BlobDigest, Bundle, Code, Diagnostic, Entry, JobName};

use super::job::certificate_entries;
use super::{Held, compile};
use crate::bundle::store::Store;
use crate::catalog::{self, Catalog, certificates, kv, read};
use crate::model::kv::{Keys, Namespace, Source, Value};
use crate::model::{Job, Snapshot};
use crate::render::{self, Scope};
use crate::renderer::{Failed, Renderer};
use crate::secrets::SealingKey;

/// What is made anew from.
#[derive(Debug)]
pub struct Again<'a> {
    /// The bucket's blobs.
    pub store: &'a Store,
    /// Seals what is private.
    pub key: &'a SealingKey,
    /// The catalog, with its workers, jobs and allocations.
    pub snapshot: &'a Snapshot,
    /// Where templates find values.
    pub values: Arc<dyn Source>,
    /// Whether what is rendered is kept; a dry run keeps nothing.
    pub keeps: bool,
}

/// Why there are no bundles.
#[derive(Debug)]
pub enum Undecided {
    /// What is wrong with the templates or what they read.
    Workspace(Vec<Diagnostic>),
    /// What kept everything from being made.
    Held(Held),
}

impl<E: Into<Held>> From<E> for Undecided {
    fn from(error: E) -> Self {
        Self::Held(error.into())
    }
}

impl Again<'_> {
    /// The bundle of every allocation of `name` that is not removed.
    pub fn bundles(&self, catalog: &mut Catalog, name: &JobName) -> Result<BTreeMap<AllocId, Bundle>, Undecided> {
        let Some(known) = self.snapshot.job(name) else { return Ok(BTreeMap::new()) };
        let (files, certificates) = catalog.read(|tx| Ok((read::files_of(tx, name)?, certificates::of(tx, name)?)))?;
        let job = Job { files, ..known.clone() };
        let mut renderer = Renderer::default();
        let mut templates = compile(&mut renderer, self.store, &job)?.map_err(Undecided::Workspace)?;
        let upstream: BTreeSet<JobName> =
            job.spec.hooks.values().filter_map(|hook| hook.demand.as_ref()).map(|demand| demand.job.clone()).collect();
        let ca = self.authority()?;
        let mut batch = self.store.batch();
        let mut bundles = BTreeMap::new();
        for allocation in self.snapshot.allocations_of(name).filter(|a| !a.removed) {
            let Some(worker) = self.snapshot.worker(&allocation.host) else { continue };
            let scope = Scope::of(self.snapshot.bucket_id, allocation, worker, &upstream);
            let rendered = match renderer.render(&mut templates, &scope, &*self.values) {
                Ok(rendered) => rendered,
                Err(Failed::Workspace(failed)) => return Err(Undecided::Workspace(failed.problems)),
                Err(Failed::Renderer(error)) => return Err(error.into()),
            };
            for file in rendered.iter().filter(|_| self.keeps) {
                match file.private {
                    true => batch.put_private(self.key, &file.content)?,
                    false => batch.put(&file.content)?,
                };
            }
            let entries = rendered.iter().map(render::Rendered::entry).collect();
            let certificates = certificate_entries(&job, &certificates, &ca, &allocation.host);
            let bundle = render::bundle(&job, entries, certificates).map_err(|error| {
                let problem = Diagnostic::new(Code::PathConflict, error.to_string());
                Undecided::Workspace(vec![problem.at(format!("workspace/jobs/{name}"))])
            })?;
            bundles.insert(allocation.alloc_id, bundle);
        }
        batch.finish()?;
        Ok(bundles)
    }

    /// The certificate that the last build shipped; its blob is in the store since then.
    fn authority(&self) -> Result<Entry, Undecided> {
        let unreadable = |why: String| {
            Undecided::Workspace(vec![Diagnostic::new(Code::Storage, why).remedy("run maand build, then deploy again")])
        };
        let missing = || unreadable("the catalog has no certificate of the jobs' authority".to_owned());
        let found = self.values.get(&Namespace::Workers, "certs/ca.crt").map_err(unreadable)?;
        // Key-values end without a line break, files with one.
        let text = format!("{}\n", found.ok_or_else(missing)?.text.trim_end());
        let blob = BlobDigest::of(text.as_bytes());
        let path = "certs/ca.crt".parse().map_err(|_| missing())?;
        if !self.store.contains(&blob) {
            return Err(missing());
        }
        Ok(Entry { path, mode: 0o644, len: text.len() as u64, blob, private: false })
    }
}

/// The values that the catalog has.
pub struct Catalogued {
    catalog: Mutex<Catalog>,
    key: Arc<SealingKey>,
}

impl std::fmt::Debug for Catalogued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values stay out of logs.
        f.debug_struct("Catalogued").finish_non_exhaustive()
    }
}

impl Catalogued {
    /// Of `catalog`; `key` opens what is sealed.
    pub fn new(catalog: Catalog, key: Arc<SealingKey>) -> Self {
        Self { catalog: Mutex::new(catalog), key }
    }

    fn read<T>(&self, read: impl FnOnce(&rusqlite::Connection) -> catalog::Result<T>) -> Result<T, String> {
        let mut catalog = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        catalog.read(|tx| read(tx)).map_err(|error| chain(&error))
    }

    fn value(&self, row: &kv::Row, resolved: String) -> Result<Value, String> {
        if !row.is_sealed() {
            return Ok(Value::plain(resolved));
        }
        let opened = self.key.open_value(&row.namespace, &row.key, &resolved);
        let text = opened.map_err(|error| format!("{} in {}: {}", row.key, row.namespace, chain(&error)))?;
        Ok(Value { text: text.to_string(), secret: true })
    }
}

impl Source for Catalogued {
    fn keys(&self, namespace: &Namespace) -> Result<Arc<Keys>, String> {
        let rows = self.read(|tx| {
            let rows = kv::rows(tx, &namespace.to_string())?;
            rows.into_values()
                .filter(|row| !row.deleted)
                .map(|row| kv::resolve(tx, &row).map(|text| (row, text)))
                .collect::<catalog::Result<Vec<_>>>()
        })?;
        let keys = rows.into_iter().map(|(row, text)| Ok((row.key.clone(), self.value(&row, text)?)));
        Ok(Arc::new(keys.collect::<Result<Keys, String>>()?))
    }

    fn get(&self, namespace: &Namespace, key: &str) -> Result<Option<Value>, String> {
        let found = self.read(|tx| match kv::get(tx, &namespace.to_string(), key)? {
            None => Ok(None),
            Some(row) => kv::resolve(tx, &row).map(|text| Some((row, text))),
        })?;
        found.map(|(row, text)| self.value(&row, text)).transpose()
    }
}
